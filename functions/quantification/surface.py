"""Area of the interface between a phase and the rest of the sample, by marching cubes on the smoothed phase.

The Crofton area beside it is left to `configurations`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numba
import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from ..errors import ParameterError
from ..outofcore import blocks_within
from .configurations import PHASE_VALUES, Progress, read_padded, report, require_phases

if TYPE_CHECKING:
    from ..volume import VolumeLike

DEFAULT_SIGMA_VOXELS = 0.7
"""Marching cubes on raw voxels overestimates a sphere by 8.8 % at any resolution; so smoothed, it stays within 1.5 %."""

_MINIMUM_SIGMA_VOXELS = 0.25
_TILE_ROWS = 32
# Corner c of a cell lies at dz = c >> 2 & 1, dy = c >> 1 & 1, dx = c & 1; an edge joins two corners, lower one first.
_EDGES = tuple((c, c | bit) for bit in (1, 2, 4) for c in range(8) if not c & bit)
# A configuration's polygons: number of edges, the edges, and so on up to a 0. At most 12 edges in 4 polygons.
_POLYGON_WORDS = 17


def interface_area(
    phases: VolumeLike,
    phase: int,
    memory_bytes: int,
    sigma_voxels: float = DEFAULT_SIGMA_VOXELS,
    progress: Progress | None = None,
) -> float:
    """Area between a phase and the other phases inside the sample region, in voxel faces.

    The phase is smoothed with a gaussian, and the area of its 0.5 level is that of marching cubes with each cell's
    polygon fanned from its centroid. The outline of the region and the cut faces of the volume are no interface: what
    lies beyond is not known, so it takes no part in the smoothing, and a cell counts by the share of its eight corners
    that lie in the region. So an interface that runs into the outline is measured up to the outline, and a grain or
    pore that ends at the outline gets no area from there.

    Parameters
    ----------
    phases : volume-like (z, y, x) uint8
        0 outside the sample region.
    phase : int
        The phase; all other phases but 0 are the rest.
    memory_bytes : int
        Memory that the pass may take; the result does not depend on it.
    sigma_voxels : float
        Standard deviation of the gaussian, which is cut off at four of them; at least 0.25.
    progress : callable, optional
        Called with the part done.

    Returns
    -------
    float
        Area in squared voxels; multiply by the squared voxel size.

    Raises
    ------
    InputError
        `phases` is not a 3-D uint8 volume.
    ParameterError
        `sigma_voxels` is below 0.25 (the field would not reach from the region to the corners beside it), or the
        memory does not hold one layer of cells and the gaussian's reach.

    Source: Lorensen and Cline (1987), DOI 10.1145/37402.37422. Where a cell's face is ambiguous, corners of the phase
    are kept apart, as 6-connectivity does.
    """
    require_phases(phases)
    if sigma_voxels < _MINIMUM_SIGMA_VOXELS:
        raise ParameterError(f"surface: sigma is {sigma_voxels} voxels; take at least {_MINIMUM_SIGMA_VOXELS}")
    weights = _gaussian(sigma_voxels)
    slices, rows, columns = phases.shape
    reach = weights.size - 1
    # A padded block exists twice while it is filled; every thread smooths one tile of rows.
    tiles = min(numba.get_num_threads(), math.ceil((rows + 1) / _TILE_ROWS))
    bytes_per_voxel = 2 + math.ceil(4 * tiles * (_TILE_ROWS + 1) * (columns + 2) / (rows * columns))
    # Outside counts as neither: with the phase at 1 and the rest at -1, the level 0 of the smoothed field is the level
    # 0.5 of a gaussian that is normalised over the region alone.
    signs = np.full(PHASE_VALUES, -1, np.float32)
    signs[phase] = 1
    signs[0] = 0
    edges = np.array(_EDGES, np.int64)
    polygons = _polygons()
    areas: list[float] = []
    # Cell layer i lies between slices i - 1 and i.
    for start, stop in blocks_within((slices + 1, rows, columns), bytes_per_voxel, 2 * reach + 1, memory_bytes):
        block = read_padded(phases, start - 1 - reach, stop + reach)
        row_areas = _row_areas(block, signs, weights, edges, polygons)
        del block  # not held while the next is read
        areas.extend(math.fsum(layer) for layer in row_areas)
        report(progress, stop / (slices + 1))
    return math.fsum(areas)


def _gaussian(sigma_voxels: float) -> NDArray[np.float32]:
    """One half of a normalised gaussian, the centre first."""
    reach = math.ceil(4 * sigma_voxels)
    half = np.exp(-0.5 * (np.arange(reach + 1) / sigma_voxels) ** 2)
    return np.asarray(half / (2 * half.sum() - half[0]), np.float32)


def _polygons() -> NDArray[np.int8]:
    """Polygons in which the level surface cuts a cell, for each of the 256 sets of corners above the level.

    Followed from face to face: on each face of the cell, cut edges are joined around the corners above the level.
    """
    table = np.zeros((256, _POLYGON_WORDS), np.int8)
    for configuration in range(256):
        joined: dict[int, list[int]] = {}
        for a, b in _face_segments(configuration):
            joined.setdefault(a, []).append(b)
            joined.setdefault(b, []).append(a)
        words: list[int] = []
        while joined:
            polygon = _take_loop(joined)
            words += [len(polygon), *polygon]
        table[configuration, : len(words)] = words
    return table


def _face_segments(configuration: int) -> Iterator[tuple[int, int]]:
    """Pairs of cut edges that a segment joins, over the six faces of a cell."""
    index = {frozenset(edge): number for number, edge in enumerate(_EDGES)}
    for normal in (1, 2, 4):
        u, v = (bit for bit in (1, 2, 4) if bit != normal)
        for side in (0, normal):
            ring = [side, side | u, side | u | v, side | v]
            above = [bool(configuration >> corner & 1) for corner in ring]
            # Edge i of the ring joins corners i and i + 1. A run of corners above the level lies between two cut edges.
            cut = [index[frozenset((ring[i], ring[(i + 1) % 4]))] for i in range(4)]
            for start in range(4):
                if above[start] and not above[start - 1]:
                    end = start
                    while above[(end + 1) % 4]:
                        end += 1
                    yield cut[start - 1], cut[end % 4]


def _take_loop(joined: dict[int, list[int]]) -> list[int]:
    """Remove one closed loop of edges from the graph and return it in order."""
    start = min(joined)
    loop = [start]
    while True:
        neighbours = joined.pop(loop[-1])
        onward = [edge for edge in neighbours if edge in joined]
        if not onward:
            return loop
        loop.append(onward[0])


@njit(cache=True, parallel=True)
def _row_areas(
    block: NDArray[np.uint8],
    signs: NDArray[np.float32],
    weights: NDArray[np.float32],
    edges: NDArray[np.int64],
    polygons: NDArray[np.int8],
) -> NDArray[np.float64]:  # pragma: no cover - compiled
    """Area in each row of cells, (layers, rows + 1); each row's value is the same whatever else is in the block."""
    reach = weights.size - 1
    rows, columns = block.shape[1], block.shape[2]
    layers = block.shape[0] - 2 * reach - 1
    areas = np.zeros((layers, rows + 1), np.float64)
    tiles = (rows + _TILE_ROWS) // _TILE_ROWS
    for tile in prange(tiles):
        # Rows of cells start one before the volume; a cell row needs the voxel rows on both of its sides.
        first = tile * _TILE_ROWS - 1
        count = min(_TILE_ROWS, rows - first)
        smoothed = _smooth_in_plane(block, signs, weights, first, count + 1)
        lower = np.empty((count + 1, columns + 2), np.float32)
        upper = np.empty((count + 1, columns + 2), np.float32)
        _smooth_across(smoothed, weights, 0, lower)
        corner = np.empty(8, np.float64)
        points = np.empty((12, 3), np.float64)
        for layer in range(layers):
            _smooth_across(smoothed, weights, layer + 1, upper)
            for row in range(count):
                y = first + row
                total = 0.0
                for x in range(-1, columns):
                    configuration = 0
                    for dy in range(2):
                        for dx in range(2):
                            if lower[row + dy, x + 1 + dx] > 0:
                                configuration |= 1 << (2 * dy + dx)
                            if upper[row + dy, x + 1 + dx] > 0:
                                configuration |= 16 << (2 * dy + dx)
                    if configuration == 0 or configuration == 255:
                        continue
                    inside = _corners_inside(block, layer + reach, y, x)
                    if inside == 0:
                        continue
                    for dy in range(2):
                        for dx in range(2):
                            corner[2 * dy + dx] = lower[row + dy, x + 1 + dx]
                            corner[4 + 2 * dy + dx] = upper[row + dy, x + 1 + dx]
                    total += 0.125 * inside * _cell_area(corner, polygons[configuration], edges, points)
                areas[layer, y + 1] = total
            lower, upper = upper, lower
    return areas


@njit(cache=True)
def _smooth_in_plane(
    block: NDArray[np.uint8], signs: NDArray[np.float32], weights: NDArray[np.float32], first: int, count: int
) -> NDArray[np.float32]:  # pragma: no cover - compiled
    """Signs smoothed along x and y: rows `first` to `first + count` and columns -1 to `columns` of every slice."""
    slices, rows, columns = block.shape
    reach, width = weights.size - 1, columns + 2
    smoothed = np.empty((slices, count, width), np.float32)
    padded = np.zeros(width + 2 * reach, np.float32)
    along_x = np.empty((count + 2 * reach, width), np.float32)
    for z in range(slices):
        for row in range(count + 2 * reach):
            y = first - reach + row
            if y < 0 or y >= rows:
                along_x[row, :] = 0
                continue
            for x in range(columns):
                padded[reach + 1 + x] = signs[block[z, y, x]]
            _weigh(along_x[row], weights[0], padded[reach : reach + width])
            for k in range(1, reach + 1):
                _add_weighed(
                    along_x[row],
                    weights[k],
                    padded[reach - k : reach - k + width],
                    padded[reach + k : reach + k + width],
                )
        for row in range(count):
            _weigh(smoothed[z, row], weights[0], along_x[row + reach])
            for k in range(1, reach + 1):
                _add_weighed(smoothed[z, row], weights[k], along_x[row + reach - k], along_x[row + reach + k])
    return smoothed


@njit(cache=True)
def _smooth_across(
    smoothed: NDArray[np.float32], weights: NDArray[np.float32], index: int, out: NDArray[np.float32]
) -> None:  # pragma: no cover - compiled
    """Smooth along z: slice `index` of those whose whole neighbourhood is in `smoothed`."""
    reach = weights.size - 1
    z = index + reach
    for row in range(out.shape[0]):
        _weigh(out[row], weights[0], smoothed[z, row])
        for k in range(1, reach + 1):
            _add_weighed(out[row], weights[k], smoothed[z - k, row], smoothed[z + k, row])


@njit(cache=True)
def _weigh(out: NDArray[np.float32], weight: float, values: NDArray[np.float32]) -> None:  # pragma: no cover - compiled
    for x in range(out.size):
        out[x] = weight * values[x]


@njit(cache=True)
def _add_weighed(
    out: NDArray[np.float32], weight: float, before: NDArray[np.float32], after: NDArray[np.float32]
) -> None:  # pragma: no cover - compiled
    for x in range(out.size):
        out[x] += weight * (before[x] + after[x])


@njit(cache=True)
def _corners_inside(block: NDArray[np.uint8], z: int, y: int, x: int) -> int:  # pragma: no cover - compiled
    """Corners of a cell that lie in the region."""
    rows, columns = block.shape[1], block.shape[2]
    inside = 0
    for yy in range(max(y, 0), min(y + 2, rows)):
        for xx in range(max(x, 0), min(x + 2, columns)):
            inside += (block[z, yy, xx] != 0) + (block[z + 1, yy, xx] != 0)
    return inside


@njit(cache=True)
def _cell_area(
    corner: NDArray[np.float64], words: NDArray[np.int8], edges: NDArray[np.int64], points: NDArray[np.float64]
) -> float:  # pragma: no cover - compiled
    """Area of the level surface in one cell; `points` is scratch."""
    area = 0.0
    at = 0
    while words[at] != 0:
        count = words[at]
        middle_z, middle_y, middle_x = 0.0, 0.0, 0.0
        for i in range(count):
            a, b = edges[words[at + 1 + i], 0], edges[words[at + 1 + i], 1]
            # Exactly one end lies above 0, so the difference is not 0.
            t = corner[a] / (corner[a] - corner[b])
            points[i, 0] = (a >> 2 & 1) + t * (b - a == 4)
            points[i, 1] = (a >> 1 & 1) + t * (b - a == 2)
            points[i, 2] = (a & 1) + t * (b - a == 1)
            middle_z += points[i, 0]
            middle_y += points[i, 1]
            middle_x += points[i, 2]
        middle_z, middle_y, middle_x = middle_z / count, middle_y / count, middle_x / count
        for i in range(count):
            j = i + 1 if i + 1 < count else 0
            az, ay, ax = points[i, 0] - middle_z, points[i, 1] - middle_y, points[i, 2] - middle_x
            bz, by, bx = points[j, 0] - middle_z, points[j, 1] - middle_y, points[j, 2] - middle_x
            area += 0.5 * math.sqrt((ay * bx - ax * by) ** 2 + (ax * bz - az * bx) ** 2 + (az * by - ay * bz) ** 2)
        at += count + 1
    return area
