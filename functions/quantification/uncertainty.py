"""Intervals of metrics: from the spread between sub-volumes, and from how far the segmentation may be off.

What is measured in a sub-volume or in a sample is left to `metrics`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from .tiling import Tiling

if TYPE_CHECKING:
    from pathlib import Path

    from ..objects import ObjectSettings

Interval = tuple[float, float]
Limits = tuple[float, float]

COVERAGE = 0.95
GROUPS_AN_AXIS = 4
# With fewer groups Student's factor is so large that an interval says nothing.
_MINIMUM_GROUPS = 4
# A group of less than this share of the fullest one is joined with the next.
_LEAST_SHARE = 0.5
_ANY: Limits = (-math.inf, math.inf)


@dataclass(frozen=True)
class SubVolumes:
    """Groups of tiles that are left out one after the other.

    Attributes
    ----------
    tiling : Tiling
        The tiles.
    numbers : (tz, ty, tx) int64
        Group of each tile, from 0.
    weights : (groups,) float64
        Voxels of the region in each group; all above 0. Empty where the region is.
    """

    tiling: Tiling
    numbers: NDArray[np.int64]
    weights: NDArray[np.float64]

    def sums(self, tile_values: NDArray[np.generic]) -> NDArray[np.float64]:
        """Sums over the tiles of each group, (groups, ...), of values by tile (tz, ty, tx, ...)."""
        tiles = self.numbers.size
        values = np.asarray(tile_values, np.float64).reshape(tiles, -1)
        numbers = self.numbers.reshape(-1)
        totals = np.stack([np.bincount(numbers, column, self.weights.size) for column in values.T], axis=-1)
        return totals.reshape(-1, *tile_values.shape[3:]).astype(np.float64)

    def groups_of(self, positions: NDArray[np.floating]) -> NDArray[np.int64]:
        """Group of each position (n, 3), in voxel indices along z, y and x."""
        tiles = tuple(
            np.clip(np.searchsorted(edges, np.floor(positions[:, axis] + 0.5), side="right") - 1, 0, len(edges) - 2)
            for axis, edges in enumerate((self.tiling.z, self.tiling.y, self.tiling.x))
        )
        return np.asarray(self.numbers[tiles], np.int64)


@dataclass(frozen=True)
class SegmentationSample:
    """One box of the volume as it was segmented, and as it would be with thresholds moved by the noise.

    Attributes
    ----------
    as_is, low, high : (z, y, x) uint8
        Phases, 0 outside the region: as they are, with all thresholds moved down, and moved up.
    object_settings : ObjectSettings or None
        How objects are separated in it; None leaves the objects' metrics without an interval.
    scratch : Path or None
        Existing folder for temporary files of that separation; needed with `object_settings`.
    """

    as_is: NDArray[np.uint8]
    low: NDArray[np.uint8]
    high: NDArray[np.uint8]
    object_settings: ObjectSettings | None = None
    scratch: Path | None = None


def sub_volumes(tiling: Tiling, region_voxels: NDArray[np.integer], groups_an_axis: int = GROUPS_AN_AXIS) -> SubVolumes:
    """Group tiles to sub-volumes that hold about equally much of the region.

    Along each axis the tiles are shared among `groups_an_axis` groups (or as many as there are tiles). A group that
    holds less than half as much of the region as the fullest one is joined with the next ones, along z first, until
    they hold that much; so the corners around a cylinder make no group of their own.

    Parameters
    ----------
    tiling : Tiling
        The tiles.
    region_voxels : (tz, ty, tx) int
        Voxels of the region in each tile.
    groups_an_axis : int
        Groups along each axis.
    """
    axes = [np.arange(count) * min(groups_an_axis, count) // count for count in region_voxels.shape]
    counts = [int(axis[-1]) + 1 for axis in axes]
    # z runs fastest: what is joined lies above one another.
    numbers = (axes[1][:, None] * counts[2] + axes[2]) * counts[0] + axes[0][:, None, None]
    voxels = np.bincount(numbers.reshape(-1), region_voxels.reshape(-1), math.prod(counts))
    least = _LEAST_SHARE * voxels.max()
    joined = np.zeros(voxels.size, np.int64)
    weights: list[float] = []
    held, first = 0.0, 0
    for index, inside in enumerate(voxels):
        held += inside
        if held >= least and held > 0:
            joined[first : index + 1] = len(weights)
            weights.append(float(held))
            held, first = 0.0, index + 1
    if weights:
        joined[first:] = len(weights) - 1
        weights[-1] += float(held)
    return SubVolumes(tiling, joined[numbers], np.array(weights, np.float64))


def jackknife_interval(
    whole: float, without: NDArray[np.float64], weights: NDArray[np.float64], limits: Limits = _ANY
) -> Interval | None:
    """95 % interval of a metric from its values with each group left out in turn.

    Delete-a-group jackknife for groups of unequal size, Student's t with one degree of freedom less than groups.
    It tells how much the metric would vary between samples of this size from the same material, as far as groups are
    independent: features that are not small against a group make it too narrow. It holds `whole`.

    Parameters
    ----------
    whole : float
        The metric of the whole.
    without : (groups,) float64
        The metric of all but one group; NaN where it is not defined.
    weights : (groups,) float64
        Size of each group: voxels of the region.
    limits : (float, float)
        Values that the metric can take; the interval ends there.

    Returns
    -------
    (low, high) or None
        None with fewer than four groups, or where the metric is not defined without one of them.

    Source: Busing, Meijer and van der Leeden (1999), DOI 10.1023/A:1008800423698.
    """
    groups = weights.size
    if groups < _MINIMUM_GROUPS or not np.all(np.isfinite(without)) or np.any(weights <= 0):
        return None
    ratio = math.fsum(weights) / weights
    # A pseudo-value less the whole's; `shift` is the jackknife's estimate less the whole.
    pseudo = (ratio - 1) * (whole - without)
    shift = math.fsum((1 - 1 / ratio) * (whole - without))
    variance = math.fsum((pseudo - shift) ** 2 / (ratio - 1)) / groups
    half = float(stdtrit(groups - 1, 0.5 + COVERAGE / 2)) * math.sqrt(variance)
    return _around(whole, whole - half, whole + half, limits)


def interval_of_sums(
    whole: float,
    parts: NDArray[np.float64],
    weights: NDArray[np.float64],
    value: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    limits: Limits = _ANY,
) -> Interval | None:
    """95 % interval of a metric that is a function of sums over the groups.

    Parameters
    ----------
    whole : float
        The metric of the whole.
    parts : (groups, sums) float64
        Each group's contribution to the sums.
    weights : (groups,) float64
        Size of each group.
    value : callable
        The metric of sums (groups, sums), (groups,); NaN or infinite where it is not defined.
    limits : (float, float)
        Values that the metric can take.

    Returns
    -------
    (low, high) or None
        As `jackknife_interval`.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        without = value(parts.sum(axis=0) - parts)
    return jackknife_interval(whole, without, weights, limits)


def interval_of_median(
    whole: float,
    values: NDArray[np.floating],
    groups: NDArray[np.int64],
    weights: NDArray[np.float64],
    counts: NDArray[np.float64] | None = None,
    limits: Limits = _ANY,
) -> Interval | None:
    """95 % interval of the median of things (objects, throats, voxels) that each lie in one group.

    Each value is taken as spread half way to the next ones: where few different values occur, the median itself would
    mostly stay at one of them whichever group is left out.

    Parameters
    ----------
    whole : float
        The median of all.
    values : (things,) float
        What the median is of; at least one.
    groups : (things,) int64
        Group of each.
    weights : (groups,) float64
        Size of each group.
    counts : (things,) float64, optional
        How many each counts for; 1 by default.
    limits : (float, float)
        Values that the median can take.

    Returns
    -------
    (low, high) or None
        As `jackknife_interval`.
    """
    levels, level = np.unique(values, return_inverse=True)
    each = np.ones(values.size) if counts is None else counts
    total = np.bincount(level, each, levels.size).astype(np.float64)
    order = np.argsort(groups, kind="stable")
    members = np.split(order, np.searchsorted(groups[order], np.arange(1, weights.size)))
    held = (np.bincount(level[those], each[those], levels.size) for those in members)
    return _median_interval(whole, levels, total, held, weights, limits)


def interval_of_counted_median(
    whole: float,
    levels: NDArray[np.floating],
    counts: NDArray[np.integer],
    weights: NDArray[np.float64],
    limits: Limits = _ANY,
) -> Interval | None:
    """The same of things that are already counted.

    Parameters
    ----------
    whole : float
        The median of all.
    levels : (levels,) float
        Values that occur, ascending; at least one.
    counts : (groups, levels) int
        How many things of each group have each value.
    weights : (groups,) float64
        Size of each group.
    limits : (float, float)
        Values that the median can take.

    Returns
    -------
    (low, high) or None
        As `jackknife_interval`.
    """
    return _median_interval(whole, levels, counts.sum(axis=0).astype(np.float64), counts, weights, limits)


def _median_interval(
    whole: float,
    levels: NDArray[np.floating],
    total: NDArray[np.float64],
    counts: Iterable[NDArray[np.number]],
    weights: NDArray[np.float64],
    limits: Limits,
) -> Interval | None:
    """Interval of a median from how many things have each level, all in all and group by group."""
    edges = np.concatenate([levels[:1], (levels[:-1] + levels[1:]) / 2, levels[-1:]]).astype(np.float64)

    def middle(held: NDArray[np.float64]) -> float:
        cumulated = np.concatenate([[0.0], np.cumsum(held)])
        return float(np.interp(0.5 * cumulated[-1], cumulated, edges)) if cumulated[-1] > 0 else math.nan

    spread = middle(total)
    # What is left of a level may come out below 0 by rounding.
    without = np.array([middle(np.maximum(total - held, 0.0)) for held in counts])
    interval = jackknife_interval(spread, without, weights)
    if interval is None:
        return None
    return _around(whole, interval[0] - spread + whole, interval[1] - spread + whole, limits)


def segmentation_interval(
    value: float,
    as_is: float,
    moved: tuple[float, float],
    change: Literal["absolute", "relative"],
    limits: Limits = _ANY,
) -> Interval | None:
    """Interval of a metric of the whole volume from how the same metric of a sample changes with the thresholds.

    Parameters
    ----------
    value : float
        The metric of the whole volume.
    as_is : float
        That of the sample.
    moved : (float, float)
        That of the sample with the thresholds moved down and up.
    change : "absolute" or "relative"
        Whether the sample's differences or its ratios are carried over.
    limits : (float, float)
        Values that the metric can take.

    Returns
    -------
    (low, high) or None
        Lowest and highest of the value and the two moved ones; None where ratios to 0 would be needed.
    """
    if change == "absolute" or moved == (as_is, as_is):
        ends = [value + (other - as_is) for other in moved]
    elif as_is == 0:
        return None
    else:
        ends = [value * (other / as_is) for other in moved]
    return _around(value, min(ends), max(ends), limits)


def _around(value: float, low: float, high: float, limits: Limits) -> Interval:
    """The interval within the limits, and never without the value itself."""
    return float(min(value, max(low, limits[0]))), float(max(value, min(high, limits[1])))
