"""The metrics JSON beside the labels: metrics, histograms and a quality block, with never a NaN or null in it.

The same volumes give the same bytes: times and hosts stand in the receipts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import h5py
import numpy as np

from ..rundir import write_json
from ..slabs import Sources
from .image_quality import contrast_to_noise
from .metrics import QuantificationSettings, measure
from .object_columns import read_object_columns

METRICS_FORMAT = "tomopipe-metrics/1"


def write_sidecar(sources: Sources, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Measure a run's volumes and write `labels.json`.

    Parameters
    ----------
    sources : Sources
        Of a run whose stages before Quantify are done.
    progress : callable, optional
        Called with parts done and parts in all.

    Returns
    -------
    dict
        What was written.
    """
    document = sources.document
    pixel_size = document["resolved"]["pixel_size_um"]
    unit = "pixel" if pixel_size is None else "um"
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
        with_objects = "separate_objects" not in sources.skipped
        settings = QuantificationSettings(
            phase=sources.parameters.objects.phase,
            tortuosity=sources.parameters.quantification.tortuosity,
            tortuosity_max_voxels=sources.parameters.quantification.tortuosity_maximum_voxels,
        )
        result = measure(
            sources.phases(),
            read_object_columns(sources.run) if with_objects else None,
            content["voxel_size"],
            unit,
            settings,
            memory_bytes=document["plan"]["worker_memory_bytes"],
            progress=progress,
        )
        content.update(metrics=result.metrics, histograms=result.histograms)
        content["quality"].update(contrast_to_noise(sources.denoised(), sources.phases()))
    write_json(sources.run.metrics, content)
    return content


def _quality(sources: Sources) -> dict[str, Any]:
    """What tells whether the numbers can be trusted, with plain warnings."""
    resolved, scan = sources.document["resolved"], sources.document["scan"]
    suffix = "per_cm" if resolved["pixel_size_um"] is not None else "per_pixel"
    quality: dict[str, Any] = {f"noise_level_{suffix}": resolved["noise_level"], "warnings": list(resolved["notes"])}
    if "center" in resolved:
        quality["center_confidence"] = resolved["center"]["confidence"]
    quality.update({key: value for key, value in scan["quality"].items() if isinstance(value, int | float)})
    if scan["quality"].get("nonfinite_count"):
        quality["warnings"].append(
            f"{scan['quality']['nonfinite_count']} raw pixels were NaN or infinite and were mended from their neighbours"
        )
    if scan["quality"].get("saturated_fraction", 0) > 0.001:
        quality["warnings"].append(f"{100 * scan['quality']['saturated_fraction']:.2f} % of the raw pixels are saturated")
    return quality
