"""Metrics of how a phase hangs together: Betti numbers, open and closed pores, ways through a box, local thickness.

Single metrics are left to `connectivity`, `porosity`, `tortuosity`, `diffusion` and `thickness`.
"""

from __future__ import annotations

import math
from itertools import pairwise, product

import numpy as np
from numpy.typing import NDArray

from .box import AXES, BinnedPhase, bin_phase, find_box
from .configurations import Progress, report
from .connectivity import PhaseComponents, betti_numbers, part_of_progress, phase_components
from .diffusion import DEFAULT_TOLERANCE, DiffusionResult, tortuosity_factors
from .findings import Findings, Task
from .porosity import PORE_PHASE, Bounds, pore_access
from .thickness import count_levels, local_thickness, thickness_statistics
from .tortuosity import AxisTortuosity, geodesic_tortuosity
from .uncertainty import GROUPS_AN_AXIS, Interval, Limits, interval_of_counted_median, interval_of_sums

_POSITIVE: Limits = (0.0, math.inf)
# Share of the box in the region below which the box says little of the sample.
_BOX_SHARE = 0.95


def box_metrics(task: Task, euler: int, progress: Progress | None = None) -> Findings:
    """Connectivity, percolation, tortuosity and local thickness.

    Parameters
    ----------
    task : Task
        What is measured.
    euler : int
        Euler number of the phase.
    progress : callable, optional
        Called with the part done.
    """
    found = Findings()
    settings, phases, memory_bytes = task.settings, task.phases, task.memory_bytes
    box = find_box(phases, task.bounds, memory_bytes, part_of_progress(progress, 0.0, 0.02))
    components = phase_components(
        phases, {settings.phase}, settings.connectivity, memory_bytes, None, part_of_progress(progress, 0.02, 0.1)
    )
    betti = betti_numbers(
        phases,
        {settings.phase},
        settings.connectivity,
        euler,
        memory_bytes,
        part_of_progress(progress, 0.1, 0.2),
        components=len(components),
    )
    for dimension, number in enumerate((betti.components, betti.tunnels, betti.cavities)):
        found.add(f"betti_number_{dimension}", number)
    box_is_full = _add_access(found, task, box, components, part_of_progress(progress, 0.2, 0.3))
    binned = _Bins(task, box)
    if settings.tortuosity:
        _add_tortuosity(found, task, binned, part_of_progress(progress, 0.3, 0.5))
    if settings.tortuosity_factor:
        _add_tortuosity_factor(found, task, binned, part_of_progress(progress, 0.5, 0.8))
    if settings.thickness:
        _add_thickness(found, task, binned, box_is_full)
    report(progress, 1.0)
    return found


def _add_access(
    found: Findings, task: Task, box: Bounds, components: PhaseComponents, progress: Progress | None
) -> bool:
    """Open, closed and percolating pores; returns whether all of the box lies in the region."""
    settings, region = task.settings, task.counts.region_voxels
    of_pores = settings.phase == PORE_PHASE and settings.connectivity == 6
    access = pore_access(
        task.phases,
        box,
        task.memory_bytes,
        part_of_progress(progress, 0.0, 0.7),
        components=components if of_pores else None,
    )
    found.add("porosity_open_percent", 100.0 * access.open_voxels / region)
    found.add("porosity_closed_percent", 100.0 * access.closed_voxels / region)
    through = {axis: access.percolating_voxels[axis] > 0 for axis in AXES}
    if access.box_region_voxels:
        for axis in AXES:
            percent = 100.0 * access.percolating_voxels[axis] / access.box_region_voxels
            found.add(f"porosity_percolating_percent_{axis}", percent)
    if settings.phase != PORE_PHASE:
        inside = phase_components(
            task.phases, {settings.phase}, 6, task.memory_bytes, box, part_of_progress(progress, 0.7, 1.0)
        )
        through = {
            axis: bool(np.any(inside.faces[:, 2 * index] & inside.faces[:, 2 * index + 1]))
            for index, axis in enumerate(AXES)
        }
    for axis, (start, stop) in zip(AXES, box, strict=True):
        # A box of one voxel is crossed by every one of its voxels, which says nothing; no more does one outside.
        if stop - start > 1 and access.box_region_voxels:
            found.add(f"percolates_{axis}", through[axis])
    share = access.box_region_voxels / math.prod(stop - start for start, stop in box)
    if share < _BOX_SHARE:
        found.notes.append(
            f"only {math.floor(100 * share)} % of the box that is measured from face to face lies in the sample region: "
            "percolation, tortuosity and thickness say little of this sample"
        )
    return share == 1.0


class _Bins:
    """The phase inside the box, binned; each size is made once."""

    def __init__(self, task: Task, box: Bounds) -> None:
        self._task, self._box = task, box
        self._made: dict[tuple[int, int], BinnedPhase] = {}

    def __call__(self, phase: int, maximum_voxels: int) -> BinnedPhase:
        voxels = min(maximum_voxels, math.prod(stop - start for start, stop in self._box))
        if (phase, voxels) not in self._made:
            task = self._task
            self._made[phase, voxels] = bin_phase(task.phases, phase, self._box, voxels, task.memory_bytes)
        return self._made[phase, voxels]


def _add_tortuosity(found: Findings, task: Task, bins: _Bins, progress: Progress | None) -> None:
    binned = bins(task.settings.phase, task.settings.tortuosity_maximum_voxels)
    axes = geodesic_tortuosity(binned, task.scale.voxel_size, task.memory_bytes, progress)
    found.add("tortuosity_binning_factor", binned.factor)
    for axis, way in axes.items():
        if way.mean is not None and way.minimum is not None:
            interval = _far_face_interval(way) if task.settings.intervals else None
            found.add(f"tortuosity_geodesic_mean_{axis}", way.mean, interval)
            found.add(f"tortuosity_geodesic_minimum_{axis}", way.minimum)
        elif found.metrics.get(f"percolates_{axis}"):
            found.notes.append(
                f"phase {task.settings.phase} percolates along {axis}, but no longer so after binning by "
                f"{binned.factor} voxels: raise quantification.tortuosity_maximum_voxels for its tortuosity"
            )


def _far_face_interval(way: AxisTortuosity) -> Interval | None:
    """Interval of the mean length from 4 x 4 parts of both faces, each weighed by its voxels that are reached."""
    rows, columns = (_shares(length) for length in way.lengths.shape[1:])
    home = rows[:, None] * GROUPS_AN_AXIS + columns
    parts = np.empty((GROUPS_AN_AXIS**2, 4))
    for direction, lengths in enumerate(way.lengths):
        reached = np.isfinite(lengths)
        parts[:, 2 * direction] = np.bincount(home[reached], lengths[reached], len(parts))
        parts[:, 2 * direction + 1] = np.bincount(home[reached], minlength=len(parts))
    parts = parts[parts[:, 1] + parts[:, 3] > 0]

    def mean(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(0.5 * (sums[..., 0] / sums[..., 1] + sums[..., 2] / sums[..., 3]))

    return interval_of_sums(float(mean(parts.sum(axis=0))), parts, parts[:, 1] + parts[:, 3], mean, (1.0, math.inf))


def _add_tortuosity_factor(found: Findings, task: Task, bins: _Bins, progress: Progress | None) -> None:
    binned = bins(task.settings.phase, task.settings.tortuosity_factor_maximum_voxels)
    found.add("tortuosity_factor_binning_factor", binned.factor)
    for axis, diffusion in tortuosity_factors(binned, task.scale.voxel_size, progress).items():
        if diffusion is not None:
            found.add(f"tortuosity_factor_{axis}", diffusion.tortuosity_factor)
            found.add(f"effective_diffusivity_ratio_{axis}", diffusion.effective_diffusivity_ratio)
            if diffusion.residual > DEFAULT_TOLERANCE:
                found.notes.append(_unfinished_note(axis, diffusion))


def _unfinished_note(axis: str, diffusion: DiffusionResult) -> str:
    percent = 100 * diffusion.residual
    off = f"by some {percent:.2g} %" if math.isfinite(percent) else "by an unknown amount"
    return (
        f"diffusion along {axis} is not solved to the end after {diffusion.iterations} iterations: "
        f"tortuosity_factor_{axis} may be too small {off}"
    )


def _add_thickness(found: Findings, task: Task, bins: _Bins, box_is_full: bool) -> None:
    settings, unit = task.settings, task.scale.unit
    binned = bins(settings.phase, settings.thickness_maximum_voxels)
    # What is outside the region is no wall.
    region = None if box_is_full else ~bins(0, settings.thickness_maximum_voxels).open_voxels
    thickness = local_thickness(binned.open_voxels, region, binned.edges(task.scale.voxel_size))
    statistics = thickness_statistics(thickness)
    if statistics is None:
        return
    intervals: tuple[Interval | None, ...] = (None, None, None)
    if settings.intervals:
        intervals = _thickness_intervals(thickness, (statistics.mean, statistics.median, statistics.std))
    found.add(f"thickness_mean_{unit}", statistics.mean, intervals[0])
    found.add(f"thickness_median_{unit}", statistics.median, intervals[1])
    found.add(f"thickness_std_{unit}", statistics.std, intervals[2])
    found.add("thickness_binning_factor", binned.factor)
    found.histograms[f"thickness_{unit}"] = {
        "edges": statistics.histogram.edges.tolist(),
        "volume_percent": statistics.histogram.volume_percent.tolist(),
    }
    found.maps[f"thickness_{unit}"] = thickness[len(thickness) // 2].copy()


def _thickness_intervals(
    thickness: NDArray[np.float32], values: tuple[float, float, float]
) -> tuple[Interval | None, ...]:
    """Intervals of mean, median and standard deviation from 4 x 4 x 4 parts of the map, by their voxels of the phase."""
    # Parts are cut out, so that no voxel needs a number for the one it lies in.
    cuts = [np.searchsorted(_shares(length), np.arange(GROUPS_AN_AXIS + 1)).tolist() for length in thickness.shape]
    pieces = [thickness[a:b, c:d, e:f] for (a, b), (c, d), (e, f) in product(*map(pairwise, cuts))]
    different, counted = count_levels(pieces)
    # Without parts that hold nothing of the phase.
    counted = counted[counted.any(axis=1)]
    levels, parts = different.astype(np.float64), counted.astype(np.float64)
    weights = parts.sum(axis=1)
    deviations = levels - values[0]

    def mean(counts: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray((counts * levels).sum(axis=-1) / counts.sum(axis=-1))

    def std(counts: NDArray[np.float64]) -> NDArray[np.float64]:
        total = counts.sum(axis=-1)
        squares = (counts * deviations**2).sum(axis=-1) / total
        return np.asarray(np.sqrt(np.maximum(squares - ((counts * deviations).sum(axis=-1) / total) ** 2, 0)))

    mean_value, median_value, std_value = values
    return (
        interval_of_sums(mean_value, parts, weights, mean, _POSITIVE),
        interval_of_counted_median(median_value, different, counted, weights, _POSITIVE),
        interval_of_sums(std_value, parts, weights, std, _POSITIVE),
    )


def _shares(length: int) -> NDArray[np.int64]:
    """Which of four equal parts of an axis each index lies in."""
    return np.arange(length) * min(GROUPS_AN_AXIS, length) // length
