"""Diameters of objects and throats and numbers of neighbours: statistics, histograms, correction for cut objects.

Which voxels make an object is left to `objects`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from ..outofcore import blocks_within
from .configurations import Progress, report, require_phases
from .porosity import Bounds, PhaseCounts

if TYPE_CHECKING:
    from ..volume import VolumeLike

BINS_A_DECADE = 10
MAXIMUM_REGION_CELLS_AN_AXIS = 128


@dataclass(frozen=True)
class SizeStatistics:
    """Statistics of diameters, in the unit of the voxel size.

    `volume_weighted` ones weigh an object by its volume: the diameter in which a random point of the phase lies.
    `std` is the population's standard deviation.
    """

    mean: float
    median: float
    std: float
    volume_weighted_mean: float
    volume_weighted_median: float


@dataclass(frozen=True)
class SizeHistogram:
    """Diameters in bins.

    Attributes
    ----------
    edges : (bins + 1,) float64
        Ten logarithmic bins a decade at 10 ** (k / 10) of the unit: the same edges for every scan.
    counts : (bins,) int64
        Objects with edge <= diameter < next edge.
    volume_percent : (bins,) float64
        Their share of the volume of all objects counted.
    corrected_counts : (bins,) float64
        Sums of their weights; the counts where no weights were given.
    """

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    volume_percent: NDArray[np.float64]
    corrected_counts: NDArray[np.float64]


@dataclass(frozen=True)
class ThroatStatistics:
    """Diameters of the throats between objects, in the unit of the voxel size; `std` is the population's.

    `edges` and `counts` are those of a `SizeHistogram`.
    """

    count: int
    mean: float
    median: float
    std: float
    edges: NDArray[np.float64]
    counts: NDArray[np.int64]


@dataclass(frozen=True)
class CoordinationStatistics:
    """Numbers of neighbours of objects; `std` is the population's.

    Bin k of `counts` holds the objects with k neighbours, from `edges[k]` = k to `edges[k + 1]` = k + 1.
    """

    mean: float
    median: float
    std: float
    edges: NDArray[np.int64]
    counts: NDArray[np.int64]


@dataclass(frozen=True)
class RegionMask:
    """Where in a volume the sample region is, coarsely.

    Attributes
    ----------
    bounds : Bounds
        Bounding box of the region.
    voxels : int
        Voxels of the region.
    factors : tuple of int
        Edges of a cell in voxels along z, y and x. Cell (0, 0, 0) starts at the lower corner of the bounds.
    inside : (cells z, y, x) bool
        Cells that lie in the region whole. Where the region is a box, its one cell.
    """

    bounds: Bounds
    voxels: int
    factors: tuple[int, int, int]
    inside: NDArray[np.bool_]


def equivalent_diameters(voxels: ArrayLike, voxel_size: tuple[float, float, float]) -> NDArray[np.float64]:
    """Diameter of the sphere of the same volume, (6 V / pi) ** (1/3), in the unit of `voxel_size` (z, y, x)."""
    return np.asarray(np.cbrt(6.0 / math.pi * math.prod(voxel_size) * np.asarray(voxels, np.float64)))


def size_statistics(diameters: NDArray[np.float64], weights: NDArray[np.float64] | None = None) -> SizeStatistics:
    """Statistics of at least one diameter; the same for any order of the objects.

    Parameters
    ----------
    diameters : (n,) float64
    weights : (n,) float64, optional
        How many objects each stands for, from `border_weights`; those of weight 0 are left out.

    Raises
    ------
    ValueError
        No diameter was given, or none of a weight above 0.
    """
    diameters, weights = _ordered(diameters, weights)
    counted = weights > 0
    diameters, weights = diameters[counted], weights[counted]
    if diameters.size == 0:
        raise ValueError("no object to take statistics of")
    mean, median, std = _moments(diameters, weights)
    volumes = weights * diameters**3
    cumulated = np.cumsum(volumes)
    half = int(np.searchsorted(cumulated, 0.5 * cumulated[-1]))
    return SizeStatistics(
        mean=mean,
        median=median,
        std=std,
        volume_weighted_mean=math.fsum(volumes * diameters) / math.fsum(volumes),
        volume_weighted_median=float(diameters[half]),
    )


def size_histogram(diameters: NDArray[np.float64], weights: NDArray[np.float64] | None = None) -> SizeHistogram:
    """Histogram of at least one diameter; see `SizeHistogram` for its bins.

    Parameters
    ----------
    diameters : (n,) float64
        Above 0.
    weights : (n,) float64, optional
        How many objects each stands for, from `border_weights`: for the corrected counts alone.

    Raises
    ------
    ValueError
        No diameter was given.
    """
    if diameters.size == 0:
        raise ValueError("no object to make a histogram of")
    lowest = math.floor(BINS_A_DECADE * math.log10(diameters.min()))
    highest = math.floor(BINS_A_DECADE * math.log10(diameters.max())) + 1
    # One bin more at each end, then cut: a logarithm may round a diameter that lies on an edge to either side.
    edges: NDArray[np.float64] = 10.0 ** (np.arange(lowest - 1, highest + 2) / BINS_A_DECADE)
    diameters, weights = _ordered(diameters, weights)
    bins = np.searchsorted(edges, diameters, side="right") - 1
    edges = edges[bins[0] : bins[-1] + 2]
    bins -= bins[0]
    volumes = np.bincount(bins, weights=diameters**3).astype(np.float64)
    return SizeHistogram(
        edges=edges,
        counts=np.bincount(bins),
        volume_percent=100.0 * volumes / math.fsum(volumes),
        corrected_counts=np.bincount(bins, weights=weights).astype(np.float64),
    )


def throat_statistics(diameters: NDArray[np.float64]) -> ThroatStatistics:
    """Statistics of at least one diameter (n,) of a throat, above 0; the same for any order.

    Raises
    ------
    ValueError
        No diameter was given.
    """
    if diameters.size == 0:
        raise ValueError("no throat to take statistics of")
    mean, median, std = _moments(*_ordered(diameters, None))
    histogram = size_histogram(diameters)
    return ThroatStatistics(diameters.size, mean, median, std, histogram.edges, histogram.counts)


def coordination_statistics(neighbours: NDArray[np.integer]) -> CoordinationStatistics:
    """Statistics of the numbers of neighbours (n,) of at least one object.

    Objects at the border have neighbours that nobody saw: leave them out.

    Raises
    ------
    ValueError
        No object was given.
    """
    if neighbours.size == 0:
        raise ValueError("no object to count the neighbours of")
    mean, median, std = _moments(*_ordered(neighbours.astype(np.float64), None))
    counts = np.bincount(neighbours)
    return CoordinationStatistics(mean, median, std, np.arange(counts.size + 1), counts)


def region_mask(
    phases: VolumeLike, counts: PhaseCounts, memory_bytes: int, progress: Progress | None = None
) -> RegionMask:
    """Coarse mask of the sample region, made block by block; a region that is a box takes no pass.

    Parameters
    ----------
    phases : volume-like (z, y, x) uint8
        0 outside the sample region.
    counts : PhaseCounts
        From `count_phases` of the same volume.
    memory_bytes : int
        Memory that the pass may take; the result does not depend on it.
    progress : callable, optional
        Called with the part done.

    Raises
    ------
    InputError
        `phases` is not a 3-D uint8 volume.
    ParameterError
        The memory does not hold one slice.
    ValueError
        The region is empty.
    """
    require_phases(phases)
    bounds = counts.bounds
    if bounds is None:
        raise ValueError("no voxel lies inside the sample region")
    lengths = [stop - start for start, stop in bounds]
    if counts.region_voxels == math.prod(lengths):
        report(progress, 1.0)
        return RegionMask(bounds, counts.region_voxels, (lengths[0], lengths[1], lengths[2]), np.ones((1, 1, 1), bool))
    fz, fy, fx = factors = tuple(-(-length // MAXIMUM_REGION_CELLS_AN_AXIS) for length in lengths)
    cz, cy, cx = cells = tuple(length // factor for length, factor in zip(lengths, factors, strict=True))
    (bottom, _), (front, _), (left, _) = bounds
    inside = np.ones(cells, bool)
    for start, stop in blocks_within((cz * fz, *phases.shape[1:]), 2, 0, memory_bytes):
        block = phases[bottom + start : bottom + stop][:, front : front + cy * fy, left : left + cx * fx]
        rows = np.ascontiguousarray(block).reshape(stop - start, cy, fy, cx * fx).min(axis=2)
        slices = rows.reshape(stop - start, cy, cx, fx).min(axis=3) > 0
        for z, cells_inside in enumerate(slices, start):
            inside[z // fz] &= cells_inside
        report(progress, stop / (cz * fz))
    return RegionMask(bounds, counts.region_voxels, (fz, fy, fx), inside)


def border_weights(bounding_boxes: NDArray[np.integer], region: RegionMask) -> NDArray[np.float64]:
    """How many objects of its size each whole object stands for, so that small ones are not favoured.

    A large object is more likely to be cut by the region's outline than a small one. An object counts only where its
    bounding box, grown by a voxel at each side, lies in the region (in cells that do). It then counts region volume / volume
    of the positions at which that box lies there: sums of weights are unbiased (Horvitz and Thompson) for objects whose
    places do not depend on the region. That holds for cells of any size; large ones only leave more objects out. An object
    larger than any place for it is never seen, and not made up for.

    Parameters
    ----------
    bounding_boxes : (n, 6) int
        z0, y0, x0, z1, y1, x1 of each object: first index in the volume and the index after the last.
    region : RegionMask
        From `region_mask`.

    Returns
    -------
    (n,) float64
        0 for an object that does not count: every one that touches the border is among them. The others' sum is the number
        of objects that a region of this volume holds on average; see `object_density`.

    Source: minus sampling after R. E. Miles, On the elimination of edge effects in planar sampling, in Stochastic Geometry
    (Wiley, 1974), and C. Lantuejoul, Microscopica Acta Suppl. 4 (1980); D. G. Horvitz and D. J. Thompson (1952), DOI
    10.1080/01621459.1952.10483446.
    """
    origin = np.array([start for start, _ in region.bounds])
    factors, cells = np.array(region.factors), np.array(region.inside.shape)
    first = np.asarray(bounding_boxes, np.int64)[:, :3] - 1 - origin
    last = np.asarray(bounding_boxes, np.int64)[:, 3:] - origin
    counted = np.flatnonzero(((first >= 0) & (last < factors * cells)).all(axis=1))
    first, last = first[counted], last[counted]
    low, high = first // factors, last // factors + 1
    # Cells outside the region up to a corner: a box of cells holds none of them where the inclusion-exclusion is 0.
    table = np.zeros(cells + 1, np.int64)
    table[1:, 1:, 1:] = (~region.inside).cumsum(0).cumsum(1).cumsum(2)
    outside = sum(
        (-1) ** sum(corner) * table[tuple(np.where(corner, low, high).T)] for corner in product((0, 1), repeat=3)
    )
    whole = outside == 0
    positions = _positions((last - first + 1)[whole], region)
    weights = np.zeros(len(bounding_boxes))
    weights[counted[whole]] = region.voxels / positions
    return weights


def object_density(weights: NDArray[np.float64], region_volume: float) -> float:
    """Objects in a unit of volume: sum of the weights from `border_weights` over the region's volume. Unbiased."""
    return math.fsum(weights) / region_volume


def _ordered(
    diameters: NDArray[np.float64], weights: NDArray[np.float64] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Diameters in ascending order with their weights, 1 where there are none; the same for any order given."""
    if weights is None:
        return np.sort(diameters), np.ones(diameters.size)
    order = np.lexsort((weights, diameters))
    return diameters[order], weights[order]


def _moments(ordered: NDArray[np.float64], weights: NDArray[np.float64]) -> tuple[float, float, float]:
    """Mean, median and standard deviation of values in ascending order, each as often as its weight, above 0, says."""
    total = math.fsum(weights)
    mean = math.fsum(weights * ordered) / total
    std = math.sqrt(math.fsum(weights * (ordered - mean) ** 2) / total)
    cumulated = np.cumsum(weights)
    half = 0.5 * cumulated[-1]
    middle = int(np.searchsorted(cumulated, half))
    # Where the half falls between two values, their mean.
    above = middle + 1 if cumulated[middle] == half else middle
    return mean, float(0.5 * (ordered[middle] + ordered[above])), std


def _positions(lengths: NDArray[np.int64], region: RegionMask) -> NDArray[np.int64]:
    """At how many positions, in voxels, boxes of these lengths (n, 3) lie in cells of the region alone (n,)."""
    factors, cells = np.array(region.factors), region.inside.shape
    # A box of l voxels covers `fewest` cells of f voxels from f - r of the f places in a cell, and one more from r.
    fewest, more = (lengths - 1) // factors + 1, (lengths - 1) % factors
    pairs, which = np.unique(
        # Where r is 0 there is no such place, and one length less to look at.
        np.concatenate([fewest[:, :2] + np.minimum(more[:, :2], step) for step in product((0, 1), repeat=2)]),
        axis=0,
        return_inverse=True,
    )
    runs = _run_lengths(region.inside.astype(np.int32).cumsum(0, np.int32).cumsum(1, np.int32), pairs)
    # A run of n cells has n - k + 1 places for k cells: a sum over the runs from each length on, twice.
    fits = runs[:, ::-1].cumsum(1).cumsum(1)[:, ::-1]
    which = which.reshape(4, -1)
    total = np.zeros(len(lengths), np.int64)
    for index, (dz, dy) in enumerate(product((0, 1), repeat=2)):
        for dx in (0, 1):
            places = np.where((dz, dy, dx), more, factors - more).prod(axis=1)
            total += places * fits[which[index], np.minimum(fewest[:, 2] + dx, cells[2] + 1)]
    return total


@njit(cache=True)
def _run_lengths(
    summed: NDArray[np.int32], pairs: NDArray[np.int64]
) -> NDArray[np.int64]:  # pragma: no cover - compiled
    """How many runs along x of each length (pairs, cells along x + 2) a window of z by y cells leaves inside.

    `summed` are the cells inside, cumulated along z and y.
    """
    depth, rows, columns = summed.shape
    counts = np.zeros((len(pairs), columns + 2), np.int64)
    for index in range(len(pairs)):
        high, wide = pairs[index]
        for z in range(high - 1, depth):
            for y in range(wide - 1, rows):
                length = 0
                for x in range(columns):
                    count = summed[z, y, x]
                    if z >= high:
                        count -= summed[z - high, y, x]
                    if y >= wide:
                        count -= summed[z, y - wide, x]
                    if z >= high and y >= wide:
                        count += summed[z - high, y - wide, x]
                    if count == high * wide:
                        length += 1
                    else:
                        counts[index, length] += 1
                        length = 0
                counts[index, length] += 1
        counts[index, 0] = 0
    return counts
