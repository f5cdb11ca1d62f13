"""Watershed of the distances inside a phase: basins by steepest ascent, of one block of a volume at a time.

The distances come from `distance`; what the basins of all blocks make up, and which basins are one object, is worked out
in `joining`. What is an object, and its number, is left to `objects`.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from .joining import BlockPieces
from .meetings import corners_joined, find_meetings

_VOXELS_AT_ONCE = 2**16
# Neighbours of a voxel count from 0 to 26 in raster order.
_HERE, _NOWHERE = np.uint8(13), np.uint8(27)


def context_slices(marker_radius: int = 0) -> int:
    """Slices beside a block that `find_basins` needs, below as above, where the volume has them."""
    return max(1, marker_radius)


def find_basins(
    squared: NDArray[np.int32], low: int, depth: int, connectivity: int, marker_radius: int = 0
) -> tuple[NDArray[np.int32], BlockPieces]:
    """Provisional basins of one block of a distance map, for `joining.join_pieces`.

    Every voxel of the phase points to the highest of itself and its 26 neighbours; the paths end at the maxima, and all
    voxels whose paths end at one maximum are its basin. Of equally high voxels the first in raster order counts as
    the highest, so that there are no plateaus and every path ends. A neighbour over an edge or a corner counts only if
    a path of `connectivity` steps inside the phase leads to it through the square or cube whose corners both are: a
    basin stays within one connected component.

    Beside the heights, 6 bytes are held of each voxel, the labels included, and about 60 of each pair of touching basins.

    Voxels whose paths leave the block get a label of their own for each voxel of the slices next to the block to which
    their paths lead; whose basin that is, the join finds out.

    Parameters
    ----------
    squared : (z, y, x) int32
        Squared distances of the block with `context_slices(marker_radius)` slices below and above it, fewer only where
        the volume ends; 0 outside the phase.
    low : int
        How many slices of it lie below the block.
    depth : int
        Slices of the block.
    connectivity : {6, 18, 26}
    marker_radius : int
        For the markers "maxima": those where no voxel within a cube of 2 * marker_radius + 1 voxels, of whatever part of
        the phase, is higher. 0 where markers are not asked for; all maxima are then marked.

    Returns
    -------
    labels : (depth, y, x) int32
        1 and up in this block alone; 0 outside the phase.
    pieces : BlockPieces
    """
    block = squared[low : low + depth]
    pixels = block[0].size
    steps = _steepest_steps(squared, low, depth, connectivity)
    maxima = np.flatnonzero(steps.reshape(-1) == _HERE)
    labels = np.zeros(block.shape, np.int32)
    labels.reshape(-1)[maxima] = np.arange(1, maxima.size + 1)
    left = np.zeros((2, pixels), np.int32)
    _mark_exits(steps, left)
    exits_below, exits_above = np.flatnonzero(left[0]), np.flatnonzero(left[1])
    left[0, exits_below] = maxima.size + 1 + np.arange(exits_below.size)
    left[1, exits_above] = maxima.size + 1 + exits_below.size + np.arange(exits_above.size)
    _follow(steps, left, labels.reshape(-1))
    del steps, left
    meetings = find_meetings(labels, block, connectivity)
    return labels, BlockPieces(
        peaks=block.reshape(-1)[maxima],
        markers=_highest_in_cube(squared, maxima + low * pixels, marker_radius),
        exits_below=exits_below,
        exits_above=exits_above,
        face_labels=labels[[0, -1]],
        face_heights=block[[0, -1]],
        pairs=np.stack([meetings.first, meetings.second], axis=1).astype(np.int32),
        saddles=meetings.squared_height,
        faces=meetings.faces.astype(np.int32),
    )


@njit(cache=True, parallel=True)
def _steepest_steps(heights: NDArray[np.int32], low: int, depth: int, connectivity: int) -> NDArray[np.uint8]:
    """Which neighbour is highest, in `depth` slices from `low` on; `_HERE` at maxima, `_NOWHERE` outside the phase."""
    slices, rows, columns = heights.shape
    steps = np.empty((depth, rows, columns), np.uint8)
    for line in prange(depth * rows):
        z, y = low + line // rows, line % rows
        best = np.zeros(columns, np.int32)
        choice = np.empty(columns, np.int32)
        # In raster order and with `>`, the first of equally high voxels wins. Whole rows at a time: that is vectorised.
        for neighbor in range(27):
            dz, dy = neighbor // 9 - 1, neighbor // 3 % 3 - 1
            if 0 <= z + dz < slices and 0 <= y + dy < rows:
                _take_higher(heights, z, y, neighbor, connectivity, best, choice)
        for x in range(columns):
            steps[z - low, y, x] = choice[x] if heights[z, y, x] > 0 else _NOWHERE
    return steps


@njit(cache=True)
def _take_higher(
    heights: NDArray[np.int32],
    z: int,
    y: int,
    neighbor: int,
    connectivity: int,
    best: NDArray[np.int32],
    choice: NDArray[np.int32],
) -> None:
    """Choose this neighbour (0 to 26 in raster order) where it is joined and higher than the best so far, for a row."""
    dz, dy, dx = neighbor // 9 - 1, neighbor // 3 % 3 - 1, neighbor % 3 - 1
    first, last = max(0, -dx), heights.shape[2] - max(0, dx)
    count = last - first
    # Rows are cut so that one index from 0 serves all: the loops are then vectorised.
    best, choice = best[first:last], choice[first:last]
    across = heights[z + dz, y + dy, first + dx : last + dx]
    axes = abs(dz) + abs(dy) + abs(dx)
    if axes <= 1 or connectivity == 26 or (connectivity == 18 and axes == 2):
        for i in range(count):
            higher = across[i] > best[i]
            best[i] = across[i] if higher else best[i]
            choice[i] = neighbor if higher else choice[i]
        return
    by_z, by_y = heights[z + dz, y, first:last], heights[z, y + dy, first:last]
    by_x = heights[z, y, first + dx : last + dx]
    if axes == 2:
        one, other = by_z if dz != 0 else by_y, by_x if dx != 0 else by_y
        for i in range(count):
            higher = (across[i] > best[i]) & ((one[i] | other[i]) > 0)
            best[i] = across[i] if higher else best[i]
            choice[i] = neighbor if higher else choice[i]
        return
    by_zy = heights[z + dz, y + dy, first:last]
    by_zx = heights[z + dz, y, first + dx : last + dx]
    by_yx = heights[z, y + dy, first + dx : last + dx]
    for i in range(count):
        joined = corners_joined(by_z[i], by_y[i], by_x[i], by_zy[i], by_zx[i], by_yx[i], connectivity)
        higher = (across[i] > best[i]) & joined
        best[i] = across[i] if higher else best[i]
        choice[i] = neighbor if higher else choice[i]


@njit(cache=True)
def _mark_exits(steps: NDArray[np.uint8], left: NDArray[np.int32]) -> None:
    """Mark the pixels of the slices below (left[0]) and above (left[1]) that steps out of the block lead to."""
    depth, rows, columns = steps.shape
    for side, z, outwards in ((0, 0, 0), (1, depth - 1, 2)):
        for y in range(rows):
            for x in range(columns):
                step = int(steps[z, y, x])
                if step // 9 == outwards:
                    left[side, (y + step // 3 % 3 - 1) * columns + x + step % 3 - 1] = 1


@njit(cache=True, parallel=True)
def _follow(steps: NDArray[np.uint8], left: NDArray[np.int32], labels: NDArray[np.int32]) -> None:
    """Label each voxel by where its path ends: at a labelled voxel, or at a pixel of `left`, which holds their labels."""
    _, rows, columns = steps.shape
    pixels = rows * columns
    flat = steps.reshape(-1)
    ahead = np.empty(27, np.int64)
    for neighbor in range(27):
        ahead[neighbor] = ((neighbor // 9 - 1) * rows + neighbor // 3 % 3 - 1) * columns + neighbor % 3 - 1
    groups = (flat.size + _VOXELS_AT_ONCE - 1) // _VOXELS_AT_ONCE
    # Paths cross groups, but whichever thread labels a voxel gives it the same label.
    for group in prange(groups):
        for voxel in range(group * _VOXELS_AT_ONCE, min((group + 1) * _VOXELS_AT_ONCE, flat.size)):
            if flat[voxel] == _NOWHERE or labels[voxel] != 0:
                continue
            at, end = voxel, np.int32(0)
            while end == 0:
                at += ahead[flat[at]]
                if at < 0:
                    end = left[0, at + pixels]
                elif at >= flat.size:
                    end = left[1, at - flat.size]
                else:
                    end = labels[at]
            # The whole path ends there, so that no part of it is walked again.
            at = voxel
            while 0 <= at < flat.size and labels[at] == 0:
                labels[at] = end
                at += ahead[flat[at]]


@njit(cache=True)
def _highest_in_cube(heights: NDArray[np.int32], voxels: NDArray[np.int64], radius: int) -> NDArray[np.bool_]:
    """Whether voxels, by their flat indices, have none within a cube of this radius that is higher."""
    _, rows, columns = heights.shape
    highest = np.ones(voxels.size, np.bool_)
    for i in range(voxels.size):
        z, y, x = voxels[i] // (rows * columns), voxels[i] // columns % rows, voxels[i] % columns
        cube = heights[
            max(0, z - radius) : z + radius + 1,
            max(0, y - radius) : y + radius + 1,
            max(0, x - radius) : x + radius + 1,
        ]
        highest[i] = cube.max() <= heights[z, y, x]
    return highest
