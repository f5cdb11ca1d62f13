"""The metrics JSON beside the labels: metrics, their intervals, histograms, profiles and a quality block.

Never a NaN or null in it; `metrics_schema` holds its JSON schema. The same volumes give the same bytes: times and hosts
stand in the receipts.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..objects import Contacts, ObjectTable
from ..parameters import Parameters
from ..rundir import write_json
from ..slabs import Sources
from .image_quality import ImageQuality, measure_image_quality
from .metrics import GreyVolume, LengthUnit, MetricsResult, QuantificationSettings, measure, working_bytes
from .metrics_schema import METRICS_FORMAT
from .resolution import RingCorrelation
from .samples import half_data_correlation, segmentation_sample

_SATURATED_WARNING = 0.001
_CLIPPED_WARNING = 0.001
_UNCERTAIN_WARNING_PERCENT = 20.0
# Rings this strong against the contrast of neighbouring phases turn up in thresholds.
_RING_WARNING = 0.2


def write_sidecar(
    sources: Sources, progress: Callable[[float], None] | None = None
) -> tuple[dict[str, Any], dict[str, NDArray[np.float32]]]:
    """Measure a run's volumes and write `labels.json`.

    Parameters
    ----------
    sources : Sources
        Of a run whose stages before Quantify are done.
    progress : callable, optional
        Called with the fraction that is done.

    Returns
    -------
    content : dict
        What was written.
    maps : dict of str to (rows, columns) float32
        Slices of maps for the report.
    """
    document = sources.document
    voxel_size, voxel_unit = sources.voxel_size
    unit: LengthUnit = "um" if voxel_unit == "um" else "pixel"
    content: dict[str, Any] = {
        "format": METRICS_FORMAT,
        "scan_id": document["scan_id"],
        "recipe_id": document["recipe_id"],
        "voxel_size": list(voxel_size),
        "voxel_unit": unit,
        "attenuation_unit": "1/cm" if unit == "um" else "1/pixel",
        "metrics": {},
        "intervals": {},
        "histograms": {},
        "profiles": {},
        "representative_volume": {},
        "quality": _scan_quality(sources),
    }
    maps: dict[str, NDArray[np.float32]] = {}
    if sources.parameters.quantification.resolution:
        _add_resolution(content, half_data_correlation(sources), unit)
    if "segment" not in sources.skipped:
        image = _image_quality(sources)
        result = _measured(sources, unit, image, progress)
        maps = result.maps
        content |= {
            "metrics": result.metrics,
            "intervals": result.intervals,
            "histograms": result.histograms,
            "profiles": result.profiles,
            "representative_volume": result.representative_volume,
        }
        _add_image_quality(content, image)
        content["quality"]["warnings"] += result.notes
    write_json(sources.run.metrics, content)
    return content, maps


def quantification_settings(parameters: Parameters) -> QuantificationSettings:
    """What `metrics.measure` takes, from a user's parameters."""
    wished, phase = parameters.quantification, parameters.objects.phase
    return QuantificationSettings(
        phase=phase,
        connectivity=6 if phase == 1 else 26,
        tortuosity=wished.tortuosity,
        tortuosity_maximum_voxels=wished.tortuosity_maximum_voxels,
        tortuosity_factor=wished.tortuosity_factor,
        tortuosity_factor_maximum_voxels=wished.tortuosity_factor_maximum_voxels,
        thickness=wished.thickness,
        thickness_maximum_voxels=wished.thickness_maximum_voxels,
        intervals=wished.intervals,
    )


def _measured(
    sources: Sources, unit: LengthUnit, image: ImageQuality, progress: Callable[[float], None] | None
) -> MetricsResult:
    settings = quantification_settings(sources.parameters)
    memory_bytes = sources.document["plan"]["worker_memory_bytes"] - working_bytes(sources.volume_shape, settings)
    separated = "separate_objects" not in sources.skipped
    with tempfile.TemporaryDirectory(prefix=".scratch-", suffix=".part", dir=sources.run.root) as scratch:
        noise = image.noise_sigma
        return measure(
            sources.phases(),
            ObjectTable.read_csv(sources.objects_table, sources.voxel_size[0]) if separated else None,
            Contacts.read_csv(sources.contacts_table) if separated else None,
            GreyVolume(sources.denoised(), tuple(sources.document["resolved"]["thresholds"])),
            sources.voxel_size[0],
            unit,
            settings,
            memory_bytes=memory_bytes,
            segmentation_sample=segmentation_sample(sources, noise, Path(scratch))
            if settings.intervals and noise is not None
            else None,
            progress=progress,
        )


def _image_quality(sources: Sources) -> ImageQuality:
    resolved = sources.document["resolved"]
    return measure_image_quality(
        sources.denoised(),
        sources.phases(),
        tuple(resolved["grey_range"]),
        thresholds=tuple(resolved["thresholds"]),
    )


def _add_resolution(content: dict[str, Any], found: RingCorrelation | None, unit: LengthUnit) -> None:
    if found is None:
        return
    content["resolution"] = {
        f"frequency_per_{unit}": found.frequency_per_unit.tolist(),
        "correlation": found.correlation.tolist(),
        "threshold": found.threshold.tolist(),
    }
    if found.resolution is not None:
        content["quality"][f"resolution_{unit}"] = found.resolution


def _add_image_quality(content: dict[str, Any], image: ImageQuality) -> None:
    grey_unit = content["attenuation_unit"].replace("1/", "per_")
    content["quality"].update(image.metrics(grey_unit))
    content["histograms"][f"grey_value_{grey_unit}"] = {
        "edges": image.edges.tolist(),
        **{f"counts_phase_{phase}": counts.tolist() for phase, counts in image.counts.items() if phase},
    }
    warnings = content["quality"]["warnings"]
    uncertain = image.uncertain_percent
    if uncertain is not None and uncertain > _UNCERTAIN_WARNING_PERCENT:
        warnings.append(
            f"{uncertain:.0f} % of the voxels lie within the noise of a threshold; denoise more strongly, or trust the "
            "intervals from the segmentation"
        )
    contrasts = [
        abs(b.mean - a.mean) for a, b in zip(image.phases.values(), list(image.phases.values())[1:], strict=False)
    ]
    if image.ring_level is not None and contrasts and image.ring_level > _RING_WARNING * min(contrasts):
        warnings.append(
            f"rings are {image.ring_level / min(contrasts):.0%} as strong as the contrast of two phases; "
            "change preprocessing.stripe_removal or its settings"
        )


def _scan_quality(sources: Sources) -> dict[str, Any]:
    """What the scan and its automatic values say about whether the numbers can be trusted, with plain warnings."""
    resolved, scan = sources.document["resolved"], sources.document["scan"]
    suffix = "per_cm" if resolved["pixel_size_um"] is not None else "per_pixel"
    quality: dict[str, Any] = {
        f"noise_level_{suffix}": resolved["noise_level"],
        "clipped_fraction": resolved["clipped_fraction"],
        "warnings": list(resolved["notes"]),
    }
    if "center" in resolved:
        quality["center_confidence"] = resolved["center"]["confidence"]
    counted = {key: value for key, value in scan["quality"].items() if key != "values_checked"}
    quality.update(counted)
    warnings = quality["warnings"]
    if counted.get("nonfinite_count"):
        warnings.append(
            f"{counted['nonfinite_count']} raw pixels were NaN or infinite and were mended from their neighbours"
        )
    if counted.get("saturated_fraction", 0) > _SATURATED_WARNING:
        warnings.append(f"{100 * counted['saturated_fraction']:.2f} % of the raw pixels are saturated")
    if resolved["clipped_fraction"] > _CLIPPED_WARNING:
        warnings.append(
            f"{100 * resolved['clipped_fraction']:.2f} % of the pixels got too little light and were clipped at "
            "preprocessing.minimum_transmission: dense parts are underestimated"
        )
    return quality
