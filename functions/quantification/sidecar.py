"""The metrics JSON beside the labels: metrics, histograms and a quality block, with never a NaN or null in it.

The same volumes give the same bytes: times and hosts stand in the receipts.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..rundir import write_json
from ..slabs import Sources
from .image_quality import measure_image_quality
from .metrics import LengthUnit, QuantificationSettings, measure

METRICS_FORMAT = "tomopipe-metrics/1"


def write_sidecar(sources: Sources, progress: Callable[[float], None] | None = None) -> dict[str, Any]:
    """Measure a run's volumes and write `labels.json`.

    Parameters
    ----------
    sources : Sources
        Of a run whose stages before Quantify are done.
    progress : callable, optional
        Called with the fraction that is done.

    Returns
    -------
    dict
        What was written.
    """
    document = sources.document
    pixel_size = document["resolved"]["pixel_size_um"]
    unit: LengthUnit = "pixel" if pixel_size is None else "um"
    content: dict[str, Any] = {
        "format": METRICS_FORMAT,
        "scan_id": document["scan_id"],
        "recipe_id": document["recipe_id"],
        "voxel_size": 1.0 if pixel_size is None else pixel_size,
        "voxel_unit": unit,
        "attenuation_unit": f"1/{'pixel' if pixel_size is None else 'cm'}",
        "metrics": {},
        "histograms": {},
        "quality": _quality(sources),
    }
    if "segment" not in sources.skipped:
        content.update(_measured(sources, content["voxel_size"], unit, progress))
        image = measure_image_quality(sources.denoised(), sources.phases(), tuple(document["resolved"]["grey_range"]))
        grey_unit = content["attenuation_unit"].replace("1/", "per_")
        content["quality"].update(image.metrics(grey_unit))
        content["histograms"][f"grey_value_{grey_unit}"] = {
            "edges": image.edges.tolist(),
            **{f"counts_phase_{phase}": counts.tolist() for phase, counts in image.counts.items() if phase},
        }
    write_json(sources.run.metrics, content)
    return content


def _measured(
    sources: Sources, voxel_size: float, unit: LengthUnit, progress: Callable[[float], None] | None
) -> dict[str, Any]:
    settings = QuantificationSettings(
        phase=sources.parameters.objects.phase,
        connectivity=6 if sources.parameters.objects.phase == 1 else 26,
        tortuosity=sources.parameters.quantification.tortuosity,
        tortuosity_maximum_voxels=sources.parameters.quantification.tortuosity_maximum_voxels,
    )
    result = measure(
        sources.phases(),
        None if "separate_objects" in sources.skipped else _read_sizes(sources.objects_table),
        voxel_size,
        unit,
        settings,
        memory_bytes=sources.document["plan"]["worker_memory_bytes"],
        progress=progress,
    )
    return {"metrics": result.metrics, "histograms": result.histograms}


@dataclass(frozen=True)
class _Sizes:
    voxels: NDArray[np.int64]
    touches_border: NDArray[np.bool_]


def _read_sizes(path: Path) -> _Sizes:
    """Columns of the table of objects that sizes are made from."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [(int(row["voxels"]), row["touches_border"] == "1") for row in csv.DictReader(file)]
    return _Sizes(np.array([v for v, _ in rows], np.int64), np.array([b for _, b in rows], np.bool_))


def _quality(sources: Sources) -> dict[str, Any]:
    """What tells whether the numbers can be trusted, with plain warnings."""
    resolved, scan = sources.document["resolved"], sources.document["scan"]
    suffix = "per_cm" if resolved["pixel_size_um"] is not None else "per_pixel"
    quality: dict[str, Any] = {f"noise_level_{suffix}": resolved["noise_level"], "warnings": list(resolved["notes"])}
    if "center" in resolved:
        quality["center_confidence"] = resolved["center"]["confidence"]
    counted = {key: value for key, value in scan["quality"].items() if key != "values_checked"}
    quality.update(counted)
    if scan["quality"].get("nonfinite_count"):
        quality["warnings"].append(
            f"{scan['quality']['nonfinite_count']} raw pixels were NaN or infinite and were mended from their neighbours"
        )
    if scan["quality"].get("saturated_fraction", 0) > 0.001:
        quality["warnings"].append(
            f"{100 * scan['quality']['saturated_fraction']:.2f} % of the raw pixels are saturated"
        )
    return quality
