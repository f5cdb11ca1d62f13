"""All metrics of a run as flat numbers, each with its unit in its name: for `labels.json` and the search index.

The single metrics are left to the modules beside this one; `docs/reference/metrics.md` defines each name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..errors import InputError, ParameterError
from .configurations import (
    PHASE_VALUES,
    Connectivity,
    Progress,
    count_configurations,
    crofton_interface_area,
    euler_number,
)
from .pore_sizes import ObjectTable, equivalent_diameters, size_histogram, size_statistics
from .porosity import PhaseCounts, count_phases
from .surface import DEFAULT_SIGMA_VOXELS, interface_area
from .tortuosity import DEFAULT_MAXIMUM_VOXELS, Tortuosity, geodesic_tortuosity

if TYPE_CHECKING:
    from ..volume import VolumeLike

LengthUnit = Literal["um", "pixel"]

PORE_PHASE = 1


@dataclass(frozen=True)
class QuantificationSettings:
    """What is measured.

    Attributes
    ----------
    phase : int
        Phase whose interface, Euler number and tortuosity are measured.
    connectivity : 6 or 26
        Neighbours through which that phase connects, for the Euler number: 6 for pores, 26 for solids.
    surface_sigma_voxels : float
        Gaussian before marching cubes.
    count_border_objects : bool
        Whether objects that touch the border, and so are cut, take part in the statistics of diameters.
    tortuosity : bool
        Whether tortuosity is measured.
    tortuosity_maximum_voxels : int
        Larger volumes are binned to this size for it.

    Raises
    ------
    ParameterError
        The phase is not among 1 to 255.
    """

    phase: int = PORE_PHASE
    connectivity: Connectivity = 6
    surface_sigma_voxels: float = DEFAULT_SIGMA_VOXELS
    count_border_objects: bool = False
    tortuosity: bool = True
    tortuosity_maximum_voxels: int = DEFAULT_MAXIMUM_VOXELS

    def __post_init__(self) -> None:
        if not 1 <= self.phase < PHASE_VALUES:
            raise ParameterError(f"phase is {self.phase}; phases count from 1 (0 is what is outside the region)")


@dataclass(frozen=True)
class MetricsResult:
    """Metrics and histograms.

    Attributes
    ----------
    metrics : dict of str to float
        Finite numbers, the ones that are asked for most first; a metric that cannot be computed is absent.
    histograms : dict of str to dict
        By what is counted: lists `edges`, `counts` and `volume_percent`, ready for JSON.
    """

    metrics: dict[str, float]
    histograms: dict[str, dict[str, list[float]]] = field(default_factory=dict)


def measure(
    phases: VolumeLike,
    objects: ObjectTable | None,
    voxel_size: float,
    unit: LengthUnit,
    settings: QuantificationSettings,
    memory_bytes: int,
    progress: Progress | None = None,
) -> MetricsResult:
    """Measure phases and objects. Results do not depend on `memory_bytes`.

    Parameters
    ----------
    phases : volume-like (z, y, x) uint8
        0 outside the sample region, 1 pores, 2 and up ascending in attenuation.
    objects : ObjectTable or None
        Voxels and border contact of each object; None leaves the objects' metrics out.
    voxel_size : float
        Edge of a voxel in `unit`; 1 for pixels.
    unit : "um" or "pixel"
        Unit of lengths; it ends the names.
    settings : QuantificationSettings
        What is measured.
    memory_bytes : int
        Memory that the passes over the volume may take.
    progress : callable, optional
        Called with the part done.

    Raises
    ------
    InputError
        `phases` is not a 3-D uint8 volume, or no voxel of it lies in the sample region.
    ParameterError
        The memory does not hold the few slices that a pass needs.
    """
    counts = count_phases(phases, memory_bytes, _part(progress, 0.0, 0.05))
    if counts.bounds is None:
        raise InputError(
            "phases: no voxel lies in the sample region; look at previews/sample.png and set segmentation.region or thresholds"
        )
    metrics = _fractions(counts, voxel_size, unit)
    metrics |= _connectivity_and_surface(phases, counts, voxel_size, unit, settings, memory_bytes, progress)
    if settings.tortuosity:
        tortuosity = geodesic_tortuosity(
            phases,
            settings.phase,
            counts.bounds,
            memory_bytes,
            settings.tortuosity_maximum_voxels,
            _part(progress, 0.7, 1.0),
        )
        metrics |= _tortuosity(tortuosity)
    histograms: dict[str, dict[str, list[float]]] = {}
    if objects is not None:
        size_metrics, histogram = _sizes(objects, voxel_size, unit, settings)
        metrics |= size_metrics
        if histogram is not None:
            histograms[f"equivalent_diameter_{unit}"] = histogram
    if progress is not None:
        progress(1.0)
    headlines = [name for name in _headlines(unit) if name in metrics]
    ordered = dict.fromkeys([*headlines, *metrics])
    return MetricsResult({name: float(metrics[name]) for name in ordered}, histograms)


def _headlines(unit: LengthUnit) -> tuple[str, ...]:
    return (
        "porosity_percent",
        f"equivalent_diameter_mean_{unit}",
        "object_count",
        f"specific_surface_per_{unit}",
        "tortuosity_geodesic_mean_z",
        "euler_number",
    )


def _fractions(counts: PhaseCounts, voxel_size: float, unit: LengthUnit) -> dict[str, float]:
    metrics = {
        "porosity_percent": counts.fraction_percent(PORE_PHASE),
        f"region_volume_{unit}3": counts.region_voxels * voxel_size**3,
    }
    for phase in range(1, len(counts.voxels)):
        metrics[f"phase_fraction_percent_{phase}"] = counts.fraction_percent(phase)
    return metrics


def _connectivity_and_surface(
    phases: VolumeLike,
    counts: PhaseCounts,
    voxel_size: float,
    unit: LengthUnit,
    settings: QuantificationSettings,
    memory_bytes: int,
    progress: Progress | None,
) -> dict[str, float]:
    region = range(1, len(counts.voxels))
    sets = [{settings.phase}, set(region) - {settings.phase}, set(region)]
    phase, rest, whole = count_configurations(phases, sets, memory_bytes, _part(progress, 0.05, 0.2))
    area = interface_area(
        phases, settings.phase, memory_bytes, settings.surface_sigma_voxels, _part(progress, 0.2, 0.7)
    )
    crofton = crofton_interface_area(phase, rest, whole)
    return {
        "euler_number": euler_number(phase, settings.connectivity),
        f"surface_area_{unit}2": area * voxel_size**2,
        f"surface_area_crofton_{unit}2": crofton * voxel_size**2,
        f"specific_surface_per_{unit}": area / (counts.region_voxels * voxel_size),
    }


def _tortuosity(tortuosity: Tortuosity) -> dict[str, float]:
    metrics: dict[str, float] = {"tortuosity_binning_factor": tortuosity.binning}
    for axis, found in tortuosity.axes.items():
        metrics[f"percolates_{axis}"] = found.percolates
        if found.mean is not None and found.minimum is not None:
            metrics[f"tortuosity_geodesic_mean_{axis}"] = found.mean
            metrics[f"tortuosity_geodesic_minimum_{axis}"] = found.minimum
    return metrics


def _sizes(
    objects: ObjectTable, voxel_size: float, unit: LengthUnit, settings: QuantificationSettings
) -> tuple[dict[str, float], dict[str, list[float]] | None]:
    voxels, at_border = np.asarray(objects.voxels), np.asarray(objects.touches_border, bool)
    metrics: dict[str, float] = {
        "object_count": voxels.size,
        "border_object_count": int(np.count_nonzero(at_border)),
    }
    counted = voxels if settings.count_border_objects else voxels[~at_border]
    if counted.size == 0:
        return metrics, None
    diameters = equivalent_diameters(counted, voxel_size)
    statistics = size_statistics(diameters)
    metrics |= {
        f"equivalent_diameter_mean_{unit}": statistics.mean,
        f"equivalent_diameter_median_{unit}": statistics.median,
        f"equivalent_diameter_std_{unit}": statistics.std,
        f"equivalent_diameter_volume_weighted_mean_{unit}": statistics.volume_weighted_mean,
        f"equivalent_diameter_volume_weighted_median_{unit}": statistics.volume_weighted_median,
    }
    histogram = size_histogram(diameters)
    columns: dict[str, Any] = {
        "edges": histogram.edges,
        "counts": histogram.counts,
        "volume_percent": histogram.volume_percent,
    }
    return metrics, {name: column.tolist() for name, column in columns.items()}


def _part(progress: Progress | None, start: float, stop: float) -> Callable[[float], None] | None:
    """Listener for a part of the work that takes the progress from `start` to `stop`."""
    if progress is None:
        return None
    return lambda done: progress(start + (stop - start) * done)
