"""Where labelled regions of a phase touch: the highest saddle of each pair that does, and over how many voxel faces.

Two voxels of a phase touch if they are neighbours over a face, an edge or a corner and a path of steps of the connectivity
leads from one to the other inside the phase, through the square or cube whose corners both are. So regions of different
connected components never touch.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numba import get_num_threads, njit
from numpy.typing import NDArray

# Neighbours of a voxel count from 0 to 26 in raster order; 13 is the voxel itself.
_ALL_AFTER, _NEXT_SLICE = 14, 18
_FIRST_SLOTS = 1024
_LINES_AT_ONCE = 2**12
# Columns of what is summed up of a pair.
_SADDLE, _FACES = 0, 1


@dataclass(frozen=True)
class Meetings:
    """Pairs of labels that touch; a row a pair, in the order of `first`, then `second`.

    Attributes
    ----------
    first, second : (n,) int64
        first < second; each pair once.
    squared_height : (n,) int32
        Highest saddle: of two touching voxels, the lower one's height.
    faces : (n, 3) int64
        Voxel faces over which they touch, across z, y and x.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    squared_height: NDArray[np.int32]
    faces: NDArray[np.int64]


def find_meetings(labels: NDArray[np.int32], heights: NDArray[np.int32], connectivity: int) -> Meetings:
    """All pairs of labels that touch in an array.

    Parameters
    ----------
    labels : (z, y, x) int32
        0 outside the phase.
    heights : (z, y, x) int32
        0 outside the phase, positive inside.
    connectivity : {6, 18, 26}

    Returns
    -------
    Meetings
    """
    depth, rows, _ = labels.shape
    lines = [(line, min(line + _LINES_AT_ONCE, depth * rows)) for line in range(0, depth * rows, _LINES_AT_ONCE)]

    def look(part: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        return _list_meetings(labels, heights, connectivity, part[0], part[1], _ALL_AFTER)

    # Threads of Python: each part has as many pairs as it happens to have.
    with ThreadPoolExecutor(get_num_threads()) as pool:
        found = list(pool.map(look, lines))
    return _merged(found)


def find_meetings_across(labels: NDArray[np.int32], heights: NDArray[np.int32], connectivity: int) -> Meetings:
    """The same of two slices, (2, y, x), but only where one touches the other."""
    return _merged([_list_meetings(labels, heights, connectivity, 0, labels.shape[1], _NEXT_SLICE)])


def merge_meetings(
    first: NDArray[np.int64], second: NDArray[np.int64], squared_height: NDArray[np.int32], faces: NDArray[np.int64]
) -> Meetings:
    """Meetings of labels after these were renamed: pairs that have become one are summed up, self-meetings are dropped.

    Parameters
    ----------
    first, second : (n,) int64
        New labels, in any order.
    squared_height : (n,) int32
    faces : (n, 3) int64

    Returns
    -------
    Meetings
    """
    apart = first != second
    first, second, squared_height, faces = first[apart], second[apart], squared_height[apart], faces[apart]
    low, high = np.minimum(first, second), np.maximum(first, second)
    order = np.lexsort((high, low))
    low, high = low[order], high[order]
    starts = np.flatnonzero(np.diff(low, prepend=-1) | np.diff(high, prepend=-1))
    if not starts.size:
        return Meetings(low, high, squared_height, faces)
    return Meetings(
        low[starts],
        high[starts],
        np.maximum.reduceat(squared_height[order], starts),
        np.add.reduceat(faces[order], starts, axis=0),
    )


def _merged(found: list[tuple[NDArray[np.int64], NDArray[np.int32]]]) -> Meetings:
    keys = np.concatenate([np.empty(0, np.int64), *(keys for keys, _ in found)])
    sums = np.concatenate([np.empty((0, 4), np.int32), *(sums for _, sums in found)])
    return merge_meetings(keys >> 32, keys & (2**32 - 1), sums[:, _SADDLE], sums[:, _FACES:].astype(np.int64))


@njit(cache=True, inline="always")
def corners_joined(by_z: int, by_y: int, by_x: int, by_zy: int, by_zx: int, by_yx: int, connectivity: int) -> bool:
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
    return corners_joined(by_z, by_y, by_x, by_zy, by_zx, by_yx, connectivity)


@njit(cache=True, nogil=True)
def _list_meetings(
    labels: NDArray[np.int32],
    heights: NDArray[np.int32],
    connectivity: int,
    first_line: int,
    last_line: int,
    first_neighbor: int,
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Meetings of the voxels in some lines (z, y) with neighbours from this one on.

    Returns the pairs as first << 32 | second, and their saddles and faces; each pair once, in no order.
    """
    _, rows, columns = labels.shape
    keys, sums, used = np.zeros(_FIRST_SLOTS, np.int64), np.zeros((_FIRST_SLOTS, 4), np.int32), 0
    others = np.empty(columns, np.int32)
    slot, slot_key = np.int64(0), np.int64(0)
    for line in range(first_line, last_line):
        z, y = line // rows, line % rows
        if not _find_borders(labels, z, y, first_neighbor, others):
            continue
        for x in range(columns):
            if others[x] == 0:
                continue
            label, height = np.int64(labels[z, y, x]), heights[z, y, x]
            for neighbor in range(first_neighbor, 27):
                if others[x] >> neighbor & 1 == 0:
                    continue
                dz, dy, dx = neighbor // 9 - 1, neighbor // 3 % 3 - 1, neighbor % 3 - 1
                other = np.int64(labels[z + dz, y + dy, x + dx])
                key = (min(label, other) << 32) | max(label, other)
                if key != slot_key:
                    slot, slot_key = _slot_of(keys, key), key
                saddle = min(height, heights[z + dz, y + dy, x + dx])
                by_face = dz + abs(dy) + abs(dx) == 1
                # Most neighbours tell nothing new: whether they are joined need not be known.
                if not by_face and saddle <= sums[slot, _SADDLE]:
                    continue
                if not _joined(heights, z, y, x, dz, dy, dx, connectivity):
                    continue
                sums[slot, _SADDLE] = max(sums[slot, _SADDLE], saddle)
                if by_face:
                    sums[slot, _FACES + abs(dy) + 2 * abs(dx)] += 1
                if keys[slot] == 0:
                    keys[slot] = key
                    used += 1
                    if 2 * used > keys.size:
                        keys, sums = _grown(keys, sums)
                        slot_key = np.int64(0)
    taken = np.flatnonzero(keys)
    return keys[taken], sums[taken]


@njit(cache=True)
def _find_borders(labels: NDArray[np.int32], z: int, y: int, first_neighbor: int, others: NDArray[np.int32]) -> bool:
    """Set for each voxel of a line the bits of the neighbours that have another label; whether there are any."""
    slices, rows, columns = labels.shape
    others[:] = 0
    any_other = np.int32(0)
    for neighbor in range(first_neighbor, 27):
        dz, dy, dx = neighbor // 9 - 1, neighbor // 3 % 3 - 1, neighbor % 3 - 1
        if z + dz >= slices or y + dy < 0 or y + dy >= rows:
            continue
        first, last = max(0, -dx), columns - max(0, dx)
        # Rows are cut so that one index from 0 serves all: the loop is then vectorised.
        own, bits = labels[z, y, first:last], others[first:last]
        across = labels[z + dz, y + dy, first + dx : last + dx]
        bit = np.int32(1 << neighbor)
        for i in range(last - first):
            bits[i] |= bit if (own[i] != across[i]) & (own[i] != 0) & (across[i] != 0) else np.int32(0)
            any_other |= bits[i]
    return bool(any_other)


@njit(cache=True)
def _slot_of(keys: NDArray[np.int64], key: np.int64) -> np.int64:
    """Where a key is, or would be, in a table of a power of two of slots, never full; 0 is no key."""
    mask = np.uint64(keys.size - 1)
    # Fibonacci hashing: the upper bits of the product depend on all bits of the key.
    slot = (np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32) & mask
    while keys[slot] != 0 and keys[slot] != key:
        slot = (slot + np.uint64(1)) & mask
    return np.int64(slot)


@njit(cache=True)
def _grown(keys: NDArray[np.int64], sums: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    new_keys, new_sums = np.zeros(2 * keys.size, np.int64), np.zeros((2 * keys.size, 4), np.int32)
    for old in range(keys.size):
        if keys[old] != 0:
            slot = _slot_of(new_keys, keys[old])
            new_keys[slot] = keys[old]
            new_sums[slot] = sums[old]
    return new_keys, new_sums
