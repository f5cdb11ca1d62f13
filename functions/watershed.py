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
    saddles = _descend(squared, blocks, connectivity, prominence, peaks, labels, advance)
    first, second, height = saddles
    order = np.lexsort((second, first, -height))
    return _join(first[order], second[order], height[order], peaks, prominence)


def _climb(
    squared: ScratchVolume,
    blocks: Sequence[tuple[int, int]],
    connectivity: int,
    labels: ScratchVolume,
    advance: Callable[[int], None],
) -> NDArray[np.int32]:
    """Write basins, or where the path leaves the block upwards; returns the peak of each basin, 0 for 0."""
    depth, rows, columns = squared.shape
    peaks = [np.zeros(1, np.int32)]
    count = 0
    below = np.zeros(rows * columns, np.int32)
    for start, stop in blocks:
        low = min(start, 1)
        heights: NDArray[np.int32] = squared[start - low : min(stop + 1, depth)]
        steps = _steepest_steps(heights, low, stop - start, connectivity)
        block = np.zeros((stop - start, rows, columns), np.int32)
        offset = low * rows * columns
        found = _number_maxima(steps.reshape(-1), offset, count, block.reshape(-1))
        if count + found.size > _BASINS_MAX:
            raise StageError(
                "separate_objects: the phase has too many distance maxima for 32-bit labels; denoise it or open it"
            )
        count += found.size
        peaks.append(heights.reshape(-1)[found])
        _follow(steps.reshape(-1), offset, below, block.reshape(-1))
        below = block[-1].reshape(-1).copy()
        labels.write(start, block)
        advance(stop - start)
    return np.concatenate(peaks)


def _descend(
    squared: ScratchVolume,
    blocks: Sequence[tuple[int, int]],
    connectivity: int,
    prominence: float,
    peaks: NDArray[np.int32],
    labels: ScratchVolume,
    advance: Callable[[int], None],
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Resolve paths that left a block upwards; returns the saddles that may join two basins: first, second, height."""
    depth = squared.shape[0]
    found = [np.empty((3, 0), np.int32)]
    for start, stop in reversed(blocks):
        block: NDArray[np.int32] = labels[start : min(stop + 1, depth)]
        if stop < depth:
            _resolve(block[:-1], block[-1].reshape(-1))
            labels.write(start, block[:-1])
        heights: NDArray[np.int32] = squared[start : min(stop + 1, depth)]
        found.append(_saddles_of(block, heights, stop - start, connectivity, prominence, peaks))
        advance(stop - start)
    first, second, height = np.concatenate(found, axis=1)
    return first, second, height


def _saddles_of(
    labels: NDArray[np.int32],
    heights: NDArray[np.int32],
    depth: int,
    connectivity: int,
    prominence: float,
    peaks: NDArray[np.int32],
) -> NDArray[np.int32]:
    """The highest saddle of each pair of basins that meet in a block: (3, n) first, second, height."""
    counts = _count_meetings(labels, heights, depth, connectivity, prominence, peaks)
    ends = np.cumsum(counts.reshape(-1)).reshape(counts.shape)
    first, second, height = _list_meetings(labels, heights, connectivity, prominence, peaks, counts, ends)
    order = np.lexsort((-height, second, first))
    first, second, height = first[order], second[order], height[order]
    highest = np.ones(first.size, np.bool_)
    highest[1:] = (np.diff(first) != 0) | (np.diff(second) != 0)
    return np.stack([first[highest], second[highest], height[highest]])


@njit(cache=True, parallel=True)
def _steepest_steps(heights: NDArray[np.int32], low: int, depth: int, connectivity: int) -> NDArray[np.int32]:
    """Flat index in `heights` of each voxel's highest neighbour, for `depth` slices from `low` on; -1 outside the phase."""
    slices, rows, columns = heights.shape
    steps = np.empty((depth, rows, columns), np.int32)
    for line in prange(depth * rows):
        z = low + line // rows
        y = line % rows
        for x in range(columns):
            height = heights[z, y, x]
            if height == 0:
                steps[z - low, y, x] = -1
                continue
            best = (z * rows + y) * columns + x
            for dz in range(-1, 2):
                if z + dz < 0 or z + dz >= slices:
                    continue
                for dy in range(-1, 2):
                    if y + dy < 0 or y + dy >= rows:
                        continue
                    for dx in range(-1, 2):
                        if x + dx < 0 or x + dx >= columns:
                            continue
                        other = heights[z + dz, y + dy, x + dx]
                        if other < height:
                            continue
                        index = ((z + dz) * rows + y + dy) * columns + x + dx
                        if (other > height or index < best) and _joined(heights, z, y, x, dz, dy, dx, connectivity):
                            best, height = index, other
            steps[z - low, y, x] = best
    return steps


@njit(cache=True, inline="always")
def _joined(heights: NDArray[np.int32], z: int, y: int, x: int, dz: int, dy: int, dx: int, connectivity: int) -> bool:
    """Whether two voxels of the phase, 26-neighbours, are connected within the box that both are corners of."""
    axes = abs(dz) + abs(dy) + abs(dx)
    if axes <= 1 or connectivity == 26 or (connectivity == 18 and axes == 2):
        return True
    along_z = heights[z + dz, y, x] > 0 and dz != 0
    along_y = heights[z, y + dy, x] > 0 and dy != 0
    along_x = heights[z, y, x + dx] > 0 and dx != 0
    if axes == 2:
        return along_z or along_y or along_x
    along_zy = heights[z + dz, y + dy, x] > 0
    along_zx = heights[z + dz, y, x + dx] > 0
    along_yx = heights[z, y + dy, x + dx] > 0
    if connectivity == 18:
        return along_z or along_y or along_x or along_zy or along_zx or along_yx
    return (
        (along_z and (along_zy or along_zx))
        or (along_y and (along_zy or along_yx))
        or (along_x and (along_zx or along_yx))
    )


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


@njit(cache=True)
def _follow(steps: NDArray[np.int32], offset: int, below: NDArray[np.int32], labels: NDArray[np.int32]) -> None:
    """Label each voxel by where its path ends: a basin, or -(pixel + 1) of the slice above the block.

    `below` holds the same of the slice below the block, its pixels being those of the block's first slice.
    """
    for voxel in range(steps.size):
        if steps[voxel] < 0:
            continue
        end = np.int32(0)
        at = voxel
        while end == 0:
            if labels[at] != 0:
                end = labels[at]
                break
            ahead = steps[at] - offset
            if ahead >= steps.size:
                end = np.int32(-(ahead - steps.size) - 1)
            elif ahead < 0:
                known = below[ahead + offset]
                if known > 0:
                    end = known
                else:
                    at = -known - 1
            else:
                at = ahead
        # The whole path ends there: each voxel is walked over twice at most.
        at = voxel
        while labels[at] == 0:
            labels[at] = end
            ahead = steps[at] - offset
            if ahead >= steps.size:
                break
            if ahead < 0:
                known = below[ahead + offset]
                if known > 0:
                    break
                at = -known - 1
            else:
                at = ahead


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
def _may_join(first_peak: int, second_peak: int, saddle: int, prominence: float) -> bool:
    lower = min(first_peak, second_peak)
    return saddle >= lower or np.sqrt(np.float64(lower)) - np.sqrt(np.float64(saddle)) < prominence


@njit(cache=True, inline="always")
def _meeting(
    labels: NDArray[np.int32],
    heights: NDArray[np.int32],
    z: int,
    y: int,
    x: int,
    neighbor: int,
    connectivity: int,
    prominence: float,
    peaks: NDArray[np.int32],
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
    if not _may_join(peaks[label], peaks[other], saddle, prominence):
        return 0
    return saddle if _joined(heights, z, y, x, dz, dy, dx, connectivity) else 0


@njit(cache=True, parallel=True)
def _count_meetings(
    labels: NDArray[np.int32],
    heights: NDArray[np.int32],
    depth: int,
    connectivity: int,
    prominence: float,
    peaks: NDArray[np.int32],
) -> NDArray[np.int64]:
    _, rows, columns = labels.shape
    counts = np.zeros((depth, rows), np.int64)
    for line in prange(depth * rows):
        z, y = line // rows, line % rows
        for x in range(columns):
            if labels[z, y, x] == 0:
                continue
            for neighbor in range(14, 27):
                if _meeting(labels, heights, z, y, x, neighbor, connectivity, prominence, peaks) > 0:
                    counts[z, y] += 1
    return counts


@njit(cache=True, parallel=True)
def _list_meetings(
    labels: NDArray[np.int32],
    heights: NDArray[np.int32],
    connectivity: int,
    prominence: float,
    peaks: NDArray[np.int32],
    counts: NDArray[np.int64],
    ends: NDArray[np.int64],
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    depth, rows = counts.shape
    columns = labels.shape[2]
    total = ends[depth - 1, rows - 1]
    first, second, height = np.empty(total, np.int32), np.empty(total, np.int32), np.empty(total, np.int32)
    for line in prange(depth * rows):
        z, y = line // rows, line % rows
        if counts[z, y] == 0:
            continue
        entry = ends[z, y] - counts[z, y]
        for x in range(columns):
            if labels[z, y, x] == 0:
                continue
            for neighbor in range(14, 27):
                saddle = _meeting(labels, heights, z, y, x, neighbor, connectivity, prominence, peaks)
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
    peaks: NDArray[np.int32],
    prominence: float,
) -> NDArray[np.int32]:
    """Join basins over saddles in the order given; returns the first basin that each is joined with."""
    joined = np.arange(peaks.size).astype(np.int32)
    highest = peaks.copy()
    for i in range(first.size):
        one, other = _root(joined, first[i]), _root(joined, second[i])
        if one != other and _may_join(highest[one], highest[other], height[i], prominence):
            one, other = min(one, other), max(one, other)
            joined[other] = one
            highest[one] = max(highest[one], highest[other])
    for basin in range(joined.size):
        joined[basin] = _root(joined, basin)
    return joined


@njit(cache=True)
def _root(joined: NDArray[np.int32], basin: int) -> int:
    while joined[basin] != basin:
        joined[basin] = joined[joined[basin]]
        basin = joined[basin]
    return basin
