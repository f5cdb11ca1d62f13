"""Local thickness: the diameter of the largest sphere that fits into a phase and holds a voxel.

Equivalent diameters of separated objects are left to `pore_sizes`; no object needs to be separated here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from ..distance import NEUTRAL, OPEN, WALL, Weights, block_squared_distances, check_size, distance_weights
from ..errors import InputError
from .pore_sizes import size_histogram

# How far beyond its radius a sphere holds voxels, in edges of a voxel (the smallest one).
_REACH = 0.5
# Edge of the small boxes that are painted one by one, and least edge of the large ones that they lie in.
_SMALL_BOX, _LARGE_BOX = 8, 32
# For each large box all spheres are looked at.
_MAXIMUM_LARGE_BOXES = 256
# Spheres that a large box lists at a time, and voxels that values are counted of at a time.
_LISTED_SPHERES, _COUNTED_VOXELS = 4096, 2**18
BYTES_PER_VOXEL = 28
"""What `local_thickness` takes for each voxel at most, however many are open; the phase and the region are among it."""


@dataclass(frozen=True)
class ThicknessHistogram:
    """Share of the phase's volume by thickness.

    Attributes
    ----------
    edges : (bins + 1,) float64
        Ten logarithmic bins a decade at 10 ** (k / 10) of the unit: the same edges for every scan.
    volume_percent : (bins,) float64
        Share of the phase's voxels with edge <= thickness < next edge; sums to 100.
    """

    edges: NDArray[np.float64]
    volume_percent: NDArray[np.float64]


@dataclass(frozen=True)
class ThicknessStatistics:
    """Statistics over the voxels of a phase, in the unit of the voxel size; `std` is the population's.

    Attributes
    ----------
    mean, median, std : float
    histogram : ThicknessHistogram
    """

    mean: float
    median: float
    std: float
    histogram: ThicknessHistogram


def local_thickness(
    open_voxels: NDArray[np.bool_],
    region: NDArray[np.bool_] | None = None,
    voxel_size: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> NDArray[np.float32]:
    """Local thickness of a phase at each of its voxels.

    The thickness at a point is the diameter of the largest sphere that lies in the phase and holds the point. Of voxels:
    a sphere about any open voxel's centre reaches to the nearest wall voxel's centre, and holds the voxels whose centres
    lie less than half a (smallest) voxel edge beyond that radius; without that half edge the outermost voxels of a pore
    would be held only by the smallest spheres. For that definition the result is exact, and it does not depend on the
    number of threads. Against the shape before it was cut into voxels the thickness of balls is 0.8 voxels too small on
    average (up to 1.7, for their centres are seldom those of voxels), that of cylinders right, that of plane slits half a
    voxel too large (up to 1).

    What lies outside the region or beyond the volume is no wall, so the thickness there is what the walls that are seen
    allow: of a pore that is cut by a face it is an upper bound.

    Spheres are painted from the largest on, and no voxel twice. Up to `BYTES_PER_VOXEL` are held, so large volumes are
    binned before. Edges of voxels that are no cubes are taken within 1 % (see `distance.distance_weights`).

    Parameters
    ----------
    open_voxels : (z, y, x) bool
        The phase.
    region : (z, y, x) bool, optional
        The sample region; its voxels that are not open are the walls. None takes the whole volume.
    voxel_size : (z, y, x)
        Edges of a voxel in the unit.

    Returns
    -------
    (z, y, x) float32
        Thickness in the unit of `voxel_size`; 0 at voxels that are not open, and everywhere where there is no wall.

    Raises
    ------
    InputError
        The arrays are not 3-D, differ in shape, or are too large for the distances.

    Source: Hildebrand and Rueegsegger (1997), DOI 10.1046/j.1365-2818.1997.1340694.x.
    """
    if open_voxels.ndim != 3 or (region is not None and region.shape != open_voxels.shape):
        other = "" if region is None else f", its region {region.shape}"
        raise InputError(f"local thickness: the phase has shape {open_voxels.shape}{other}; need one shape (z, y, x)")
    open_voxels = np.ascontiguousarray(open_voxels)
    kinds = np.full(open_voxels.shape, WALL, np.uint8)
    if region is not None:
        kinds[~region] = NEUTRAL
    kinds[open_voxels] = OPEN
    if not (open_voxels.any() and (kinds == WALL).any()):
        return np.zeros(open_voxels.shape, np.float32)
    weights, unit_length = distance_weights(voxel_size)
    check_size(open_voxels.shape, weights)
    smallest = math.sqrt(min(weights))
    edges = np.sqrt(np.array(weights, np.float64)) / smallest
    centres, radii = _spheres(kinds, weights)
    del kinds  # not held while the map is painted
    radii /= smallest
    painted = np.zeros(open_voxels.shape, np.float32)
    _paint(centres, radii, edges, open_voxels, 2.0 * smallest * unit_length, _large_box(open_voxels.shape), painted)
    return painted


def thickness_statistics(thickness: NDArray[np.float32]) -> ThicknessStatistics | None:
    """Statistics of a map from `local_thickness`, by volume; None where no voxel has a thickness.

    Parameters
    ----------
    thickness : float32, any shape
        A map or a part of one; voxels that are 0 do not count.
    """
    flat = thickness.reshape(-1)
    found, counted = count_levels([flat[i : i + _COUNTED_VOXELS] for i in range(0, flat.size, _COUNTED_VOXELS)])
    if found.size == 0:
        return None
    values, counts = found.astype(np.float64), counted.sum(axis=0)
    total = int(counts.sum())
    mean = math.fsum(values * counts) / total
    cumulated = np.cumsum(counts)
    # Of an even number the mean of the two in the middle.
    low, high = (int(np.searchsorted(cumulated, rank, side="right")) for rank in ((total - 1) // 2, total // 2))
    bins = size_histogram(values, counts.astype(np.float64))
    return ThicknessStatistics(
        mean=mean,
        median=0.5 * float(values[low] + values[high]),
        std=math.sqrt(math.fsum((values - mean) ** 2 * counts) / total),
        histogram=ThicknessHistogram(bins.edges, 100.0 * bins.corrected_counts / total),
    )


def count_levels(parts: Sequence[NDArray[np.float32]]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Different values above 0 of a map from `local_thickness`, and how many voxels of each of its parts have them.

    They are few, for squared radii are whole numbers. Of one part after the other a few copies are held.

    Parameters
    ----------
    parts : sequence of float32, any shape
        Parts of a map.

    Returns
    -------
    levels : (levels,) float32
        Ascending.
    counts : (parts, levels) int64
    """
    different = [np.unique(part) for part in parts]
    levels = np.unique(np.concatenate([np.empty(0, np.float32), *different]))
    levels = levels[levels > 0]
    counts = np.empty((len(parts), levels.size), np.int64)
    for row, part in zip(counts, parts, strict=True):
        row[:] = np.bincount(np.searchsorted(levels, part[part > 0]), minlength=levels.size)
    return levels, counts


def _large_box(shape: tuple[int, ...]) -> int:
    """Edge of the large boxes: as small as it may be."""
    edge = _LARGE_BOX
    while math.prod(-(-length // edge) for length in shape) > _MAXIMUM_LARGE_BOXES:
        edge += _SMALL_BOX
    return edge


def _spheres(kinds: NDArray[np.uint8], weights: Weights) -> tuple[NDArray[np.int16], NDArray[np.float64]]:
    """Centres (n, 3) and radii (n,), in units of the weights, of the spheres about the open voxels, the largest first."""
    depth, height, width = kinds.shape
    no_wall = np.full((height, width), -1, np.int32)
    squared = block_squared_distances(kinds, 0, no_wall, no_wall, weights).reshape(-1)
    # Few bytes at a time: these lists are as long as the phase is large.
    places = np.flatnonzero(kinds == OPEN).astype(np.int32 if kinds.size < 2**31 else np.int64)
    squared = squared[places]
    np.negative(squared, out=squared)
    order = np.argsort(squared, kind="stable")
    places = places[order]
    squared = squared[order]
    del order
    np.negative(squared, out=squared)
    centres = np.empty((places.size, 3), np.int16)  # distances allow some 18 000 voxels a side
    index = np.empty_like(places)
    for axis, (step, length) in enumerate(((height * width, depth), (width, height), (1, width))):
        np.floor_divide(places, step, out=index)
        np.remainder(index, length, out=index)
        centres[:, axis] = index
    del places, index
    return centres, np.sqrt(squared)


@njit(cache=True, parallel=True)
def _paint(
    centres: NDArray[np.int16],
    radii: NDArray[np.float64],
    edges: NDArray[np.float64],
    open_voxels: NDArray[np.bool_],
    scale: float,
    large_box: int,
    painted: NDArray[np.float32],
) -> None:  # pragma: no cover - compiled
    """Give each open voxel the radius of the first sphere that holds it, times scale; `painted` is 0 before.

    Box by box, each until it is full: most are after a few spheres. The spheres that reach a large box are listed, so many
    at a time, and of these those are gone through that reach each small box in it.
    """
    depth, height, width = open_voxels.shape
    along_y, along_x = (height + large_box - 1) // large_box, (width + large_box - 1) // large_box
    for large in prange((depth + large_box - 1) // large_box * along_y * along_x):
        lower = (
            large // (along_y * along_x) * large_box,
            large // along_x % along_y * large_box,
            large % along_x * large_box,
        )
        upper = (
            min(lower[0] + large_box, depth),
            min(lower[1] + large_box, height),
            min(lower[2] + large_box, width),
        )
        near = np.empty(_LISTED_SPHERES, np.int32)
        unpainted = np.empty((_SMALL_BOX**3, 3), np.int32)
        sphere, left_in_box = 0, 1
        while left_in_box > 0 and sphere < len(radii):
            count = 0
            while count < _LISTED_SPHERES and sphere < len(radii):
                if _reaches(centres[sphere], radii[sphere], edges, lower, upper):
                    near[count] = sphere
                    count += 1
                sphere += 1
            left_in_box = 0
            for z in range(lower[0], upper[0], _SMALL_BOX):
                for y in range(lower[1], upper[1], _SMALL_BOX):
                    for x in range(lower[2], upper[2], _SMALL_BOX):
                        first = (z, y, x)
                        end = (
                            min(z + _SMALL_BOX, upper[0]),
                            min(y + _SMALL_BOX, upper[1]),
                            min(x + _SMALL_BOX, upper[2]),
                        )
                        left = _list_unpainted(open_voxels, painted, first, end, unpainted)
                        for listed in near[:count]:
                            if left == 0:
                                break
                            if _reaches(centres[listed], radii[listed], edges, first, end):
                                left = _paint_sphere(
                                    centres[listed], radii[listed], edges, scale, unpainted, left, painted
                                )
                        left_in_box += left


@njit(cache=True)
def _reaches(
    centre: NDArray[np.int16],
    radius: float,
    edges: NDArray[np.float64],
    lower: tuple[int, int, int],
    upper: tuple[int, int, int],
) -> bool:  # pragma: no cover - compiled
    """Whether a sphere holds any point of a box of voxels."""
    dz = edges[0] * max(lower[0] - centre[0], centre[0] - upper[0] + 1, 0)
    dy = edges[1] * max(lower[1] - centre[1], centre[1] - upper[1] + 1, 0)
    dx = edges[2] * max(lower[2] - centre[2], centre[2] - upper[2] + 1, 0)
    return bool(dz * dz + dy * dy + dx * dx < (radius + _REACH) ** 2)


@njit(cache=True)
def _list_unpainted(
    open_voxels: NDArray[np.bool_],
    painted: NDArray[np.float32],
    lower: tuple[int, int, int],
    upper: tuple[int, int, int],
    listed: NDArray[np.int32],
) -> int:  # pragma: no cover - compiled
    count = 0
    for z in range(lower[0], upper[0]):
        for y in range(lower[1], upper[1]):
            for x in range(lower[2], upper[2]):
                if open_voxels[z, y, x] and painted[z, y, x] == 0:
                    listed[count, 0], listed[count, 1], listed[count, 2] = z, y, x
                    count += 1
    return count


@njit(cache=True)
def _paint_sphere(
    centre: NDArray[np.int16],
    radius: float,
    edges: NDArray[np.float64],
    scale: float,
    unpainted: NDArray[np.int32],
    left: int,
    painted: NDArray[np.float32],
) -> int:  # pragma: no cover - compiled
    """Paint the listed voxels that a sphere holds and take them off the list; returns how many remain on it."""
    squared = (radius + _REACH) ** 2
    kept = 0
    for index in range(left):
        z, y, x = unpainted[index, 0], unpainted[index, 1], unpainted[index, 2]
        dz, dy, dx = edges[0] * (z - centre[0]), edges[1] * (y - centre[1]), edges[2] * (x - centre[2])
        if dz * dz + dy * dy + dx * dx < squared:
            painted[z, y, x] = scale * radius
        else:
            unpainted[kept, 0], unpainted[kept, 1], unpainted[kept, 2] = z, y, x
            kept += 1
    return kept
