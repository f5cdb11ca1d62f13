"""All metrics of a run as flat numbers, each with its unit in its name: for `labels.json` and the search index.

The single metrics are left to the modules beside this one; `docs/reference/metrics.md` defines each name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, ParameterError
from ..objects import separate_objects
from ..outofcore import blocks_within
from . import diffusion, thickness, tortuosity
from .additive import AdditiveSums, additive_sums
from .box import DEFAULT_MAXIMUM_VOXELS
from .box_metrics import box_metrics
from .configurations import PHASE_VALUES, Connectivity, Progress, report, require_phases
from .connectivity import part_of_progress
from .findings import Findings, Scale, Task
from .object_metrics import MeasuredContacts, MeasuredObjects, object_metrics
from .pore_sizes import region_mask
from .porosity import PORE_PHASE, Bounds, count_phases
from .profiles import grey_sums, profile_edges, slice_profiles
from .representative import measure_sub_volumes
from .surface import DEFAULT_SIGMA_VOXELS, level_set_areas
from .tiling import Tiling, cubes, whole
from .uncertainty import (
    Interval,
    Limits,
    SegmentationSample,
    SubVolumes,
    interval_of_sums,
    segmentation_interval,
    sub_volumes,
)

if TYPE_CHECKING:
    from ..volume import VolumeLike

LengthUnit = Literal["um", "pixel"]

_ANY: Limits = (-math.inf, math.inf)
_POSITIVE: Limits = (0.0, math.inf)
_PERCENT: Limits = (0.0, 100.0)
# The sample for the segmentation is measured three times: its ways and thickness are made on no more voxels than this.
_SAMPLE_BINNED_VOXELS = 250_000
# Slices of 1 byte a voxel that the passes have to themselves where the phases are held in memory.
_PASS_SLICES = 512


@dataclass(frozen=True)
class QuantificationSettings:
    """What is measured.

    Attributes
    ----------
    phase : int
        Phase whose interface, connectivity, thickness and tortuosity are measured.
    connectivity : 6 or 26
        Neighbours through which that phase connects, for Euler and Betti numbers: 6 for pores, 26 for solids.
    surface_sigma_voxels : float
        Gaussian before marching cubes.
    tortuosity, tortuosity_factor, thickness : bool
        Whether geodesic tortuosity, diffusive tortuosity factor and local thickness are measured.
    tortuosity_maximum_voxels, tortuosity_factor_maximum_voxels, thickness_maximum_voxels : int
        Larger volumes are binned to this size for each of them.
    intervals : bool
        Whether metrics get intervals.

    Raises
    ------
    ParameterError
        The phase is not among 1 to 255.
    """

    phase: int = PORE_PHASE
    connectivity: Connectivity = 6
    surface_sigma_voxels: float = DEFAULT_SIGMA_VOXELS
    tortuosity: bool = True
    tortuosity_maximum_voxels: int = DEFAULT_MAXIMUM_VOXELS
    tortuosity_factor: bool = True
    tortuosity_factor_maximum_voxels: int = DEFAULT_MAXIMUM_VOXELS
    thickness: bool = True
    thickness_maximum_voxels: int = DEFAULT_MAXIMUM_VOXELS
    intervals: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.phase < PHASE_VALUES:
            raise ParameterError(f"phase is {self.phase}; phases count from 1 (0 is what is outside the region)")


@dataclass(frozen=True)
class GreyVolume:
    """Grey values that the phases were made from.

    Attributes
    ----------
    volume : volume-like (z, y, x) float32
        Finite grey values.
    thresholds : tuple of float
        Ascending, in their unit; a value above the k-th belongs to phase k + 1 or higher.
    """

    volume: VolumeLike
    thresholds: tuple[float, ...]

    def levels(self, phase: int) -> tuple[float | None, float | None] | None:
        """Lowest and highest grey value of a phase, None where it has no end; None where it has neither."""
        low = self.thresholds[phase - 2] if 2 <= phase <= len(self.thresholds) + 1 else None
        high = self.thresholds[phase - 1] if phase <= len(self.thresholds) else None
        return None if low is None and high is None else (low, high)


@dataclass(frozen=True)
class MetricsResult:
    """Metrics and what belongs to them; all but the maps is ready for JSON.

    Attributes
    ----------
    metrics : dict of str to float
        Finite numbers, the ones that are asked for most first; a metric that cannot be computed is absent.
    intervals : dict of str to dict
        By metric: `subvolumes`, the 95 % interval from the spread between sub-volumes, and `segmentation`, the range
        that it takes when the thresholds move by the noise; each [low, high] and absent where it makes no sense.
    histograms : dict of str to dict
        By what is counted: `edges` and lists of what lies between them.
    profiles : dict of str to list
        Metrics along z.
    representative_volume : dict of str to list
        Metrics against the size of sub-volumes.
    maps : dict of str to (rows, columns) float32
        By what is shown: the middle slice of the measured box.
    notes : list of str
        Plain warnings.
    """

    metrics: dict[str, float]
    intervals: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    histograms: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    profiles: dict[str, list[float]] = field(default_factory=dict)
    representative_volume: dict[str, list[float]] = field(default_factory=dict)
    maps: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def working_bytes(shape: Sequence[int], settings: QuantificationSettings) -> int:
    """Memory that `measure` takes beside its passes over a volume (z, y, x), for what it bins; at most.

    The largest of what the binned metrics take, each after the other, and the boxes that are held for all of them.
    """
    voxels = math.prod(shape)
    wanted = (
        (settings.thickness, settings.thickness_maximum_voxels, thickness.BYTES_PER_VOXEL),
        (settings.tortuosity, settings.tortuosity_maximum_voxels, tortuosity.BYTES_PER_VOXEL),
        (settings.tortuosity_factor, settings.tortuosity_factor_maximum_voxels, diffusion.SOLVER_BYTES_PER_VOXEL),
    )
    needs = [(min(maximum, voxels), size) for is_wanted, maximum, size in wanted if is_wanted]
    # A box is binned once for all metrics that want it of the same size.
    boxes = sum({binned for binned, _ in needs})
    return boxes + max((binned * size for binned, size in needs), default=0)


def measure(
    phases: VolumeLike,
    objects: MeasuredObjects | None,
    contacts: MeasuredContacts | None,
    grey: GreyVolume | None,
    voxel_size: tuple[float, float, float],
    unit: LengthUnit,
    settings: QuantificationSettings,
    memory_bytes: int,
    progress: Progress | None = None,
    segmentation_sample: SegmentationSample | None = None,
) -> MetricsResult:
    """Measure phases and objects. Results do not depend on `memory_bytes`.

    Intervals from sub-volumes are those of what adds up over sub-volumes, objects, voxels or the faces of the box: not of
    Betti numbers, open, closed and percolating pores, tortuosity factor and shortest way, which belong to the volume
    as a whole. Intervals from the segmentation are those of what depends on thresholds and can be told from a sample:
    not of the region's volume, the objects at its border, percolation and the representative edge.

    Phases that fit into the memory are read once and held; others are read about ten times, block by block. Grey
    values are read twice.

    Parameters
    ----------
    phases : volume-like (z, y, x) uint8
        0 outside the sample region, 1 pores, 2 and up ascending in attenuation.
    objects : MeasuredObjects or None
        Table of objects; None leaves the objects' metrics out.
    contacts : MeasuredContacts or None
        Table of their contacts; None leaves throats and neighbours out.
    grey : GreyVolume or None
        None leaves the area from grey values and their profile out.
    voxel_size : (z, y, x)
        Edges of a voxel in `unit`; 1 for pixels.
    unit : "um" or "pixel"
        Unit of lengths; it ends the names.
    settings : QuantificationSettings
        What is measured.
    memory_bytes : int
        Memory that the passes over the volume may take. What is binned (`working_bytes`) and sums by sub-volume (some
        10 MB for each phase) come on top.
    progress : callable, optional
        Called with the part done.
    segmentation_sample : SegmentationSample, optional
        Where the segmentation was repeated with moved thresholds; None leaves these intervals out.

    Raises
    ------
    InputError
        `phases` is not a 3-D uint8 volume, or no voxel of it lies in the sample region.
    ParameterError
        The memory does not hold the few slices that a pass needs.
    """
    require_phases(phases)
    held, left_bytes = _held(phases, memory_bytes)
    counts = count_phases(held, left_bytes, part_of_progress(progress, 0.0, 0.02))
    if counts.bounds is None:
        raise InputError(
            "phases: no voxel lies in the sample region; look at previews/sample.png and set segmentation.region or thresholds"
        )
    scale = Scale((float(voxel_size[0]), float(voxel_size[1]), float(voxel_size[2])), unit)
    task = Task(held, counts, counts.bounds, scale, settings, left_bytes)
    found = Findings()
    fine, along_z = cubes(counts.bounds), _slices(counts.bounds)
    sums, slices = _sums(task, [fine, along_z], part_of_progress(progress, 0.02, 0.25))
    groups = sub_volumes(fine, sums.region_voxels) if settings.intervals else None
    _add_phase_metrics(found, task, sums, groups)
    _add_series(found, task, sums)
    _add_profiles(found, task, slices, grey, part_of_progress(progress, 0.25, 0.3))
    _add_grey_area(found, task, grey, fine, groups, part_of_progress(progress, 0.3, 0.4))
    euler = int(found.metrics["euler_number"])
    found.take(box_metrics(task, euler, part_of_progress(progress, 0.4, 0.9)))
    if objects is not None:
        mask = region_mask(held, counts, left_bytes, part_of_progress(progress, 0.9, 0.92))
        found.take(object_metrics(objects, contacts, mask, scale, groups))
    _add_notes(found, task)
    moved = {}
    if settings.intervals and segmentation_sample is not None:
        moved = _segmentation_intervals(
            found.metrics, segmentation_sample, task, objects is not None, part_of_progress(progress, 0.92, 1.0)
        )
    report(progress, 1.0)
    return _result(found, unit, moved)


def _result(found: Findings, unit: str, moved: dict[str, Interval]) -> MetricsResult:
    """All that was found, headlines first; `moved` are the intervals from the segmentation."""
    metrics = found.metrics
    order = list(dict.fromkeys([*(name for name in _headlines(unit) if name in metrics), *metrics]))
    intervals: dict[str, dict[str, list[float]]] = {}
    for name in order:
        kinds = {"subvolumes": found.intervals.get(name), "segmentation": moved.get(name)}
        known = {kind: [float(end) for end in ends] for kind, ends in kinds.items() if ends is not None}
        if known:
            intervals[name] = known
    return MetricsResult(
        {name: metrics[name] for name in order},
        intervals,
        found.histograms,
        found.profiles,
        found.representative_volume,
        found.maps,
        found.notes,
    )


def _headlines(unit: str) -> tuple[str, ...]:
    return (
        "porosity_percent",
        f"equivalent_diameter_mean_{unit}",
        "object_count",
        f"specific_surface_per_{unit}",
        "tortuosity_geodesic_mean_z",
        "euler_number",
    )


def _held(phases: VolumeLike, memory_bytes: int) -> tuple[VolumeLike, int]:
    """The phases in memory where they leave enough of it to the passes, and what is left."""
    size, slice_bytes = math.prod(phases.shape), math.prod(phases.shape[1:])
    left_bytes = memory_bytes - size
    if isinstance(phases, np.ndarray) or left_bytes < max(memory_bytes // 4, _PASS_SLICES * slice_bytes):
        return phases, memory_bytes
    held = np.empty(phases.shape, np.uint8)
    for start, stop in blocks_within(phases.shape, 2, 0, left_bytes):
        held[start:stop] = phases[start:stop]
    return held, left_bytes


def _sums(task: Task, tilings: list[Tiling], progress: Progress | None = None) -> list[AdditiveSums]:
    """What adds up, over the boxes of each tiling."""
    settings = task.settings
    return additive_sums(
        task.phases,
        settings.phase,
        max(settings.phase, len(task.counts.voxels) - 1),
        settings.connectivity,
        settings.surface_sigma_voxels,
        task.scale.voxel_size,
        tilings,
        task.memory_bytes,
        progress,
    )


def _slices(bounds: Bounds) -> Tiling:
    """Groups of slices for profiles."""
    return Tiling(profile_edges(*bounds[0]), bounds[1], bounds[2])


# Fractions, surface and Euler number ----------------------------------------------------------------------------------


def _add_phase_metrics(found: Findings, task: Task, sums: AdditiveSums, groups: SubVolumes | None) -> None:
    counts, unit, voxel_volume = task.counts, task.scale.unit, task.scale.voxel_volume
    by_phase = {phase: counts.fraction_percent(phase) for phase in range(1, len(counts.voxels))}

    def add(name: str, value: float, parts: NDArray[np.generic], whole: float, limits: Limits) -> None:
        """Add a metric that is `whole` times a sum over the region's voxels."""
        found.add(name, value, None if groups is None else _share_interval(value, parts, whole, groups, limits))

    porosity = counts.fraction_percent(PORE_PHASE)
    add("porosity_percent", porosity, sums.phase_voxels[PORE_PHASE], 100.0, _PERCENT)
    found.add(f"region_volume_{unit}3", task.region_volume)
    for phase, percent in by_phase.items():
        add(f"phase_fraction_percent_{phase}", percent, sums.phase_voxels[phase], 100.0, _PERCENT)
    area = math.fsum(sums.surface.flat)
    voxels = counts.region_voxels
    add(f"surface_area_{unit}2", area, sums.surface, voxels, _POSITIVE)
    add(f"surface_area_crofton_{unit}2", math.fsum(sums.crofton.flat), sums.crofton, voxels, _POSITIVE)
    add(f"specific_surface_per_{unit}", area / task.region_volume, sums.surface, 1 / voxel_volume, _POSITIVE)
    add("euler_number", round(math.fsum(sums.euler.flat)), sums.euler, voxels, _ANY)


def _share_interval(
    value: float, tile_values: NDArray[np.generic], factor: float, groups: SubVolumes, limits: Limits
) -> Interval | None:
    """Interval of `factor` times a sum over tiles over the voxels of the region."""
    parts = np.stack([groups.sums(tile_values), groups.weights], axis=1)
    return interval_of_sums(value, parts, groups.weights, lambda sums: factor * sums[..., 0] / sums[..., 1], limits)


def _densities(task: Task, sums: AdditiveSums) -> dict[str, NDArray[np.float64]]:
    """By name: what over the voxels of the region gives the metric."""
    unit, voxel_volume = task.scale.unit, task.scale.voxel_volume
    return {
        f"specific_surface_per_{unit}": sums.surface / voxel_volume,
        f"euler_density_per_{unit}3": sums.euler / voxel_volume,
    }


def _add_series(found: Findings, task: Task, sums: AdditiveSums) -> None:
    pores = sums.phase_voxels[PORE_PHASE]
    series = measure_sub_volumes(
        sums.tiling,
        sums.region_voxels,
        {"porosity_percent": 100.0 * pores, **_densities(task, sums)},
        task.scale.voxel_size,
    )
    if series.cubes.size == 0:
        return
    found.representative_volume |= series.columns(task.scale.unit)
    edge = series.representative_edge("porosity_percent")
    if edge is not None:
        found.add(f"representative_edge_{task.scale.unit}", edge)
    elif task.counts.count(PORE_PHASE):
        found.notes.append(
            "the volume may be too small to represent the material: the porosity varies by more than 5 % of its mean "
            "between sub-volumes of every size that fits into it four times"
        )


def _add_profiles(
    found: Findings, task: Task, slices: AdditiveSums, grey: GreyVolume | None, progress: Progress | None
) -> None:
    sums: dict[str, NDArray[np.generic]] = {
        f"phase_fraction_percent_{phase}": 100.0 * slices.phase_voxels[phase][:, 0, 0]
        for phase in range(1, len(task.counts.voxels))
    }
    sums |= {name: values[:, 0, 0] for name, values in _densities(task, slices).items()}
    edges = slices.tiling.z
    if grey is not None:
        name = "grey_mean_per_cm" if task.scale.unit == "um" else "grey_mean_per_pixel"
        sums[name] = grey_sums(grey.volume, task.phases, edges, task.memory_bytes, progress)
    found.profiles |= slice_profiles(
        edges, slices.region_voxels[:, 0, 0], sums, task.scale.voxel_size[0], task.scale.unit
    )


def _add_grey_area(
    found: Findings,
    task: Task,
    grey: GreyVolume | None,
    tiling: Tiling,
    groups: SubVolumes | None,
    progress: Progress | None,
) -> None:
    levels = None if grey is None else grey.levels(task.settings.phase)
    if grey is None or levels is None:
        return
    areas = level_set_areas(
        grey.volume,
        *levels,
        task.phases,
        task.memory_bytes,
        progress,
        voxel_size=task.scale.voxel_size,
        tiling=tiling,
    )
    area = math.fsum(areas.flat)
    interval = None
    if groups is not None:
        interval = _share_interval(area, areas, task.counts.region_voxels, groups, _POSITIVE)
    found.add(f"surface_area_grey_{task.scale.unit}2", area, interval)


# What is said and how far it may be off -------------------------------------------------------------------------------


def _add_notes(found: Findings, task: Task) -> None:
    phase, metrics = task.settings.phase, found.metrics
    if not task.counts.count(phase):
        found.notes.append(f"phase {phase} occurs nowhere in the sample region: look at the thresholds")
    elif task.counts.count(phase) == task.counts.region_voxels:
        found.notes.append(f"phase {phase} fills the whole sample region: look at the thresholds")
    elif metrics.get("object_count") == 0:
        found.notes.append(
            f"no object is left of phase {phase}: look at the radii of objects and at objects.minimum_voxels"
        )
    border, count = metrics.get("border_object_count", 0), metrics.get("object_count", 0)
    if count and border > count / 2:
        corrected = f"equivalent_diameter_border_corrected_mean_{task.scale.unit}" in metrics
        advice = "look at the border-corrected mean" if corrected else "scan a larger piece for diameters"
        found.notes.append(
            f"{border:.0f} of {count:.0f} objects touch the border of the sample region and are left out of the diameters: "
            f"{advice}"
        )


def _segmentation_intervals(
    metrics: dict[str, float], sample: SegmentationSample, task: Task, with_objects: bool, progress: Progress | None
) -> dict[str, Interval]:
    """Ranges over which metrics move with the thresholds, from a sample that is measured three times.

    Shares move by as many percent of the region as in the sample, counts by as many a volume, all else in proportion.
    """
    volumes = (sample.as_is, sample.low, sample.high)
    measured = []
    for index, volume in enumerate(volumes):
        found = _measure_sample(volume, sample, task, with_objects)
        if found is None:
            return {}
        measured.append(found)
        report(progress, (index + 1) / len(volumes))
    grown = task.counts.region_voxels / np.count_nonzero(sample.as_is)
    intervals = {}
    for name, value in metrics.items():
        rule = _rule(name)
        # The sample has no grey values: both areas are that of the same interface.
        source = name.replace("surface_area_grey", "surface_area")
        if rule is None or not all(source in each for each in measured):
            continue
        as_is, low, high = (each[source] * (grown if rule.of_volume else 1.0) for each in measured)
        interval = segmentation_interval(value, as_is, (low, high), rule.change, rule.limits)
        if interval is not None:
            intervals[name] = interval
    return intervals


@dataclass(frozen=True)
class _Rule:
    """How a metric's change in the sample is carried over to the volume."""

    change: Literal["absolute", "relative"]
    limits: Limits
    of_volume: bool = False


# The first pattern that a name starts with counts. None: does not depend on thresholds, or a sample cannot tell.
_RULES: tuple[tuple[str, _Rule | None], ...] = (
    (r"region_volume|representative_edge|border_object_count|percolates|.*_binning_factor", None),
    (r".*_percent", _Rule("absolute", _PERCENT)),
    (r"euler_number", _Rule("absolute", _ANY, of_volume=True)),
    (r"betti_number|object_count|throat_count", _Rule("absolute", _POSITIVE, of_volume=True)),
    (r"tortuosity", _Rule("relative", (1.0, math.inf))),
    (r"effective_diffusivity_ratio", _Rule("relative", (0.0, 1.0))),
    (r"", _Rule("relative", _POSITIVE)),
)


def _rule(name: str) -> _Rule | None:
    return next(rule for pattern, rule in _RULES if re.match(pattern, name))


def _measure_sample(
    volume: NDArray[np.uint8], sample: SegmentationSample, task: Task, with_objects: bool
) -> dict[str, float] | None:
    """Metrics of a sample; None where it holds nothing of the region."""
    counts = count_phases(volume, task.memory_bytes)
    if counts.bounds is None:
        return None
    settings = replace(
        task.settings,
        tortuosity_maximum_voxels=min(task.settings.tortuosity_maximum_voxels, _SAMPLE_BINNED_VOXELS),
        tortuosity_factor_maximum_voxels=min(task.settings.tortuosity_factor_maximum_voxels, _SAMPLE_BINNED_VOXELS),
        thickness_maximum_voxels=min(task.settings.thickness_maximum_voxels, _SAMPLE_BINNED_VOXELS),
        intervals=False,
    )
    small = replace(task, phases=volume, counts=counts, bounds=counts.bounds, settings=settings)
    found = Findings()
    (sums,) = _sums(small, [whole(volume.shape)])
    _add_phase_metrics(found, small, sums, None)
    found.take(box_metrics(small, int(found.metrics["euler_number"])))
    if with_objects and sample.object_settings is not None and sample.scratch is not None:
        objects, contacts = separate_objects(
            volume,
            settings.phase,
            sample.object_settings,
            voxel_size=task.scale.voxel_size,
            memory_bytes=task.memory_bytes,
            scratch=sample.scratch,
            write=lambda start, labels: None,
        )
        mask = region_mask(volume, counts, task.memory_bytes)
        found.take(object_metrics(objects, contacts, mask, task.scale, None))
    return found.metrics
