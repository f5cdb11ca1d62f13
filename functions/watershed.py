"""Watershed of the distances inside a phase, block by block on disk: basins by steepest ascent, joined by prominence.

The result does not depend on the blocks. The distances come from `distance`; which basin is an object, and its number,
is left to `objects`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from .errors import StageError
from .outofcore import ScratchVolume

_BASINS_MAX = 2**31 - 1
_VOXELS_AT_ONCE = 2**16


def label_basins(
    squared: ScratchVolume,
    blocks: Sequence[tuple[int, int]],
    connectivity: int,
    prominence: float,
    labels: ScratchVolume,
    advance: Callable[[int], None],
) -> NDArray[np.int32]:
    """Label the basins of a distance map.

    Every voxel of the phase points to the highest of itself and its 26 neighbours; the paths end at the maxima, and all
    voxels whose paths end at one maximum are its basin. Of equally high voxels the first in raster order counts as
    the highest, so that there are no plateaus and every path ends. A neighbour over an edge or a corner counts only if
    a path of `connectivity` steps inside the phase leads to it through the square or cube whose corners both are: a
    basin stays within one connected component.

    Two basins meet at a saddle, the highest of the lower voxels of their neighbour pairs. From the highest saddle down
    (and of equal ones in the order of the basins), two are joined if the lower of their peaks rises less than the
    prominence above the saddle, or not at all: what markers from h-maxima would do.

    A path that leaves a block upwards is noted by where it leaves, and is resolved on the way back down; so no more
    than a block and a slice at either side is held.

    Parameters
    ----------
    squared : ScratchVolume int32 (z, y, x)
        Squared distances in voxels; 0 outside the phase.
    blocks : list of (start, stop)
        Ascending, covering the volume.
    connectivity : {6, 18, 26}
    prominence : float
        In voxels of distance.
    labels : ScratchVolume int32
        Gets the basin of each voxel, 1 and up in raster order of their maxima; 0 outside the phase.
    advance : callable (slices)
        Told of slices done; two for each of the volume.

    Returns
    -------
    (basins + 1,) int32
        For each basin the number of the first basin that it is joined with; 0 for 0.

    Raises
    ------
    StageError
        More basins than 32-bit labels.
    """
    peaks = _climb(squared, blocks, connectivity, labels, advance)
    lowest_saddles = _lowest_saddles(peaks, prominence)
    first, second, height = _descend(squared, blocks, connectivity, lowest_saddles, labels, advance)
    order = np.lexsort((second, first, -height))
    return _join(first[order], second[order], height[order], lowest_saddles)


def _climb(
    squared: ScratchVolume,
    blocks: Sequence[tuple[int, int]],
    connectivity: int,
    labels: ScratchVolume,
    advance: Callable[[int], None],
) -> NDArray[np.int32]:
    """Write basins, or where the path leaves the block upwards; returns the peak of each basin, 0 for 0."""
    peaks = [np.zeros(1, np.int32)]
    count = 0
    below = np.zeros(squared.shape[1] * squared.shape[2], np.int32)
    # The arrays of a block live in a function of their own: they are gone before the next is read.
    for start, stop in blocks:
        found, below = _climb_block(squared, start, stop, connectivity, count, below, labels)
        peaks.append(found)
        count += found.size
        advance(stop - start)
    return np.concatenate(peaks)


def _climb_block(
    squared: ScratchVolume,
    start: int,
    stop: int,
    connectivity: int,
    count: int,
    below: NDArray[np.int32],
    labels: ScratchVolume,
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Peaks of the block's basins, which are numbered from count + 1 on, and the labels of its last slice."""
    depth, rows, columns = squared.shape
    low = min(start, 1)
    heights: NDArray[np.int32] = squared[start - low : min(stop + 1, depth)]
    steps = _steepest_steps(heights, low, stop - start, connectivity).reshape(-1)
    block = np.zeros((stop - start, rows, columns), np.int32)
    offset = low * rows * columns
    maxima = _number_maxima(steps, offset, count, block.reshape(-1))
    if count + maxima.size > _BASINS_MAX:
        raise StageError(
            "separate_objects: the phase has too many distance maxima for 32-bit labels; denoise it or open it first"
        )
    _follow(steps, offset, below, block.reshape(-1))
    labels.write(start, block)
    return heights.reshape(-1)[maxima], block[-1].reshape(-1).copy()


def _descend(
    squared: ScratchVolume,
    blocks: Sequence[tuple[int, int]],
    connectivity: int,
    lowest_saddles: NDArray[np.int32],
    labels: ScratchVolume,
    advance: Callable[[int], None],
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Resolve paths that left a block upwards; returns the saddles that may join two basins: first, second, height."""
    found = [np.empty((3, 0), np.int32)]
    for start, stop in reversed(blocks):
        found.append(_descend_block(squared, start, stop, connectivity, lowest_saddles, labels))
        advance(stop - start)
    first, second, height = np.concatenate(found, axis=1)
    return first, second, height


def _descend_block(
    squared: ScratchVolume,
    start: int,
    stop: int,
    connectivity: int,
    lowest_saddles: NDArray[np.int32],
    labels: ScratchVolume,
) -> NDArray[np.int32]:
    reach = min(stop + 1, squared.shape[0])
    block: NDArray[np.int32] = labels[start:reach]
    if reach > stop:
        _resolve(block[:-1], block[-1].reshape(-1))
        labels.write(start, block[:-1])
    return _saddles_of(block, squared[start:reach], stop - start, connectivity, lowest_saddles)


def _lowest_saddles(peaks: NDArray[np.int32], prominence: float) -> NDArray[np.int32]:
    """The lowest (squared) saddle over which a basin of this (squared) peak is joined with one of a higher peak.

    It rises with the peak: of two basins, the lower of these is that of the lower peak.
    """
    height = np.maximum(np.sqrt(peaks.astype(np.float64)) - prominence, 0)
    lowest: NDArray[np.int32] = np.minimum(peaks, np.floor(height * height) + 1).astype(np.int32)
    return lowest


def _saddles_of(
    labels: NDArray[np.int32],
    heights: NDArray[np.int32],
    depth: int,
    connectivity: int,
    lowest_saddles: NDArray[np.int32],
) -> NDArray[np.int32]:
    """The highest saddle of each pair of basins that meet in a block: (3, n) first, second, height."""
    borders = _borders(labels, depth)
    counts = _count_meetings(labels, heights, borders, connectivity, lowest_saddles)
    ends = np.cumsum(counts.reshape(-1)).reshape(counts.shape)
    first, second, height = _list_meetings(labels, heights, borders, connectivity, lowest_saddles, counts, ends)
    order = np.lexsort((-height, second, first))
    first, second, height = first[order], second[order], height[order]
    highest = np.ones(first.size, np.bool_)
    highest[1:] = (np.diff(first) != 0) | (np.diff(second) != 0)
    return np.stack([first[highest], second[highest], height[highest]])


@njit(cache=True, parallel=True)
def _steepest_steps(heights: NDArray[np.int32], low: int, depth: int, connectivity: int) -> NDArray[np.int32]:
    """Flat index in `heights` of the highest neighbours in `depth` slices from `low` on; -1 outside the phase."""
    slices, rows, columns = heights.shape
    steps = np.empty((depth, rows, columns), np.int32)
    for line in prange(depth * rows):
        z, y = low + line // rows, line % rows
        best = np.zeros(columns, np.int32)
        choice = np.full(columns, -1, np.int32)
        # In raster order and with `>`, the first of equally high voxels wins. Whole rows at a time: that is vectorised.
        for neighbor in range(27):
            dz, dy = neighbor // 9 - 1, neighbor // 3 % 3 - 1
            if 0 <= z + dz < slices and 0 <= y + dy < rows:
                _take_higher(heights, z, y, neighbor, connectivity, best, choice)
        for x in range(columns):
            dz, dy, dx = choice[x] // 9 - 1, choice[x] // 3 % 3 - 1, choice[x] % 3 - 1
            step = ((z + dz) * rows + y + dy) * columns + x + dx
            steps[z - low, y, x] = step if heights[z, y, x] > 0 else -1
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
        joined = _corners_joined(by_z[i], by_y[i], by_x[i], by_zy[i], by_zx[i], by_yx[i], connectivity)
        higher = (across[i] > best[i]) & joined
        best[i] = across[i] if higher else best[i]
        choice[i] = neighbor if higher else choice[i]


@njit(cache=True, inline="always")
def _corners_joined(by_z: int, by_y: int, by_x: int, by_zy: int, by_zx: int, by_yx: int, connectivity: int) -> bool:
    """Whether opposite corners of a cube are joined; the heights are those that steps along these axes lead to."""
    if connectivity == 18:
        return (by_z | by_y | by_x | by_zy | by_zx | by_yx) > 0
    return (
        ((by_z > 0) & ((by_zy | by_zx) > 0))
        | ((by_y > 0) & ((by_zy | by_yx) > 0))
        | ((by_x > 0) & ((by_zx | by_yx) > 0))
    )


@njit(cache=True)
def _joined(heights: NDArray[np.int32], z: int, y: int, x: int, dz: int, dy: int, dx: int, connectivity: int) -> bool:
    """Whether two voxels of the phase, 26-neighbours, are joined within the square or cube whose corners both are."""
    axes = abs(dz) + abs(dy) + abs(dx)
    if axes <= 1 or connectivity == 26 or (connectivity == 18 and axes == 2):
        return True
    by_z, by_y, by_x = heights[z + dz, y, x], heights[z, y + dy, x], heights[z, y, x + dx]
    if axes == 2:
        return (dz != 0 and by_z > 0) or (dy != 0 and by_y > 0) or (dx != 0 and by_x > 0)
    by_zy, by_zx, by_yx = heights[z + dz, y + dy, x], heights[z + dz, y, x + dx], heights[z, y + dy, x + dx]
    return _corners_joined(by_z, by_y, by_x, by_zy, by_zx, by_yx, connectivity)


@njit(cache=True)
def _number_maxima(steps: NDArray[np.int32], offset: int, count: int, labels: NDArray[np.int32]) -> NDArray[np.int64]:
    """Number the voxels that step nowhere, from count + 1 on; returns their flat indices in the heights."""
    total = 0
    for voxel in range(steps.size):
        total += steps[voxel] == voxel + offset
    found = np.empty(total, np.int64)
    total = 0
    for voxel in range(steps.size):
        if steps[voxel] == voxel + offset:
            found[total] = voxel + offset
            total += 1
            labels[voxel] = count + total
    return found


@njit(cache=True, parallel=True)
def _follow(steps: NDArray[np.int32], offset: int, below: NDArray[np.int32], labels: NDArray[np.int32]) -> None:
    """Label each voxel by where its path ends: a basin, or -(pixel + 1) of the slice above the block.

    `below` holds the same of the slice below the block, its pixels being those of the block's first slice.
    """
    groups = (steps.size + _VOXELS_AT_ONCE - 1) // _VOXELS_AT_ONCE
    # Paths cross groups, but whichever thread labels a voxel gives it the same label.
    for group in prange(groups):
        for voxel in range(group * _VOXELS_AT_ONCE, min((group + 1) * _VOXELS_AT_ONCE, steps.size)):
            if steps[voxel] < 0 or labels[voxel] != 0:
                continue
            at, end = voxel, 0
            while end == 0:
                at, end = _ahead(at, steps, offset, below)
                if end == 0:
                    end = int(labels[at])
            # The whole path ends there, so that no part of it is walked again.
            at, last = voxel, 0
            while last == 0 and labels[at] == 0:
                labels[at] = end
                at, last = _ahead(at, steps, offset, below)


@njit(cache=True)
def _ahead(at: int, steps: NDArray[np.int32], offset: int, below: NDArray[np.int32]) -> tuple[int, int]:
    """One step on the path within the block, and the label where the path leaves the block (else 0)."""
    ahead = int(steps[at]) - offset
    if ahead >= steps.size:
        return at, steps.size - ahead - 1
    if ahead >= 0:
        return ahead, 0
    known = int(below[ahead + offset])
    # What left the block below upwards came in here.
    return (at, known) if known > 0 else (-known - 1, 0)


@njit(cache=True, parallel=True)
def _resolve(labels: NDArray[np.int32], above: NDArray[np.int32]) -> None:
    depth, rows, columns = labels.shape
    for line in prange(depth * rows):
        z, y = line // rows, line % rows
        for x in range(columns):
            label = labels[z, y, x]
            if label < 0:
                labels[z, y, x] = above[-label - 1]


@njit(cache=True, inline="always")
def _meeting(
    labels: NDArray[np.int32],
    heights: NDArray[np.int32],
    z: int,
    y: int,
    x: int,
    neighbor: int,
    connectivity: int,
    lowest_saddles: NDArray[np.int32],
) -> int:
    """Height at which a voxel meets its neighbour (14 to 26 in raster order) of a basin that may be joined; else 0."""
    dz, dy, dx = neighbor // 9 - 1, neighbor // 3 % 3 - 1, neighbor % 3 - 1
    slices, rows, columns = labels.shape
    if z + dz >= slices or y + dy < 0 or y + dy >= rows or x + dx < 0 or x + dx >= columns:
        return 0
    label, other = labels[z, y, x], labels[z + dz, y + dy, x + dx]
    if other == 0 or other == label:
        return 0
    saddle = min(heights[z, y, x], heights[z + dz, y + dy, x + dx])
    if saddle < min(lowest_saddles[label], lowest_saddles[other]):
        return 0
    return saddle if _joined(heights, z, y, x, dz, dy, dx, connectivity) else 0


@njit(cache=True, parallel=True)
def _borders(labels: NDArray[np.int32], depth: int) -> NDArray[np.bool_]:
    """Whether a voxel of the first `depth` slices has a neighbour (14 to 26 in raster order) of another basin."""
    slices, rows, columns = labels.shape
    borders = np.zeros((depth, rows, columns), np.bool_)
    for line in prange(depth * rows):
        z, y = line // rows, line % rows
        for neighbor in range(14, 27):
            dz, dy, dx = neighbor // 9 - 1, neighbor // 3 % 3 - 1, neighbor % 3 - 1
            if z + dz >= slices or y + dy < 0 or y + dy >= rows:
                continue
            first, last = max(0, -dx), columns - max(0, dx)
            own, border = labels[z, y, first:last], borders[z, y, first:last]
            across = labels[z + dz, y + dy, first + dx : last + dx]
            for i in range(last - first):
                border[i] |= (own[i] != across[i]) & (across[i] != 0) & (own[i] != 0)
    return borders


@njit(cache=True, parallel=True)
def _count_meetings(
    labels: NDArray[np.int32],
    heights: NDArray[np.int32],
    borders: NDArray[np.bool_],
    connectivity: int,
    lowest_saddles: NDArray[np.int32],
) -> NDArray[np.int64]:
    """Meetings in each row (z, y)."""
    depth, rows, columns = borders.shape
    counts = np.zeros((depth, rows), np.int64)
    for line in prange(depth * rows):
        z, y = line // rows, line % rows
        for x in range(columns):
            if borders[z, y, x]:
                for neighbor in range(14, 27):
                    counts[z, y] += _meeting(labels, heights, z, y, x, neighbor, connectivity, lowest_saddles) > 0
    return counts


@njit(cache=True, parallel=True)
def _list_meetings(
    labels: NDArray[np.int32],
    heights: NDArray[np.int32],
    borders: NDArray[np.bool_],
    connectivity: int,
    lowest_saddles: NDArray[np.int32],
    counts: NDArray[np.int64],
    ends: NDArray[np.int64],
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Basins that meet and the heights where: first, second, height; `ends` is where each row's entries end."""
    depth, rows, columns = borders.shape
    total = ends[depth - 1, rows - 1]
    first, second, height = np.empty(total, np.int32), np.empty(total, np.int32), np.empty(total, np.int32)
    for line in prange(depth * rows):
        z, y = line // rows, line % rows
        entry = ends[z, y] - counts[z, y]
        for x in range(columns):
            if entry == ends[z, y]:
                break
            if not borders[z, y, x]:
                continue
            for neighbor in range(14, 27):
                saddle = _meeting(labels, heights, z, y, x, neighbor, connectivity, lowest_saddles)
                if saddle > 0:
                    label = labels[z, y, x]
                    other = labels[z + neighbor // 9 - 1, y + neighbor // 3 % 3 - 1, x + neighbor % 3 - 1]
                    first[entry], second[entry], height[entry] = min(label, other), max(label, other), saddle
                    entry += 1
    return first, second, height


@njit(cache=True)
def _join(
    first: NDArray[np.int32],
    second: NDArray[np.int32],
    height: NDArray[np.int32],
    lowest_saddles: NDArray[np.int32],
) -> NDArray[np.int32]:
    """Join basins over saddles in the order given; returns the first basin that each is joined with."""
    joined = np.arange(lowest_saddles.size).astype(np.int32)
    lowest = lowest_saddles.copy()
    for i in range(first.size):
        one, other = _root(joined, first[i]), _root(joined, second[i])
        if one != other and height[i] >= min(lowest[one], lowest[other]):
            one, other = min(one, other), max(one, other)
            joined[other] = one
            lowest[one] = max(lowest[one], lowest[other])
    for basin in range(joined.size):
        joined[basin] = _root(joined, basin)
    return joined


@njit(cache=True)
def _root(joined: NDArray[np.int32], basin: int) -> int:
    while joined[basin] != basin:
        joined[basin] = joined[joined[basin]]
        basin = joined[basin]
    return basin
