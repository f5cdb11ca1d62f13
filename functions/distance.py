"""Exact squared Euclidean distances in integers: of slices in memory, and of a volume swept block by block on disk.

A distance is to the nearest wall voxel; what a wall is, and what the distances are for, is left to the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from .errors import InputError
from .outofcore import ScratchVolume

NEUTRAL, WALL, OPEN = np.uint8(0), np.uint8(1), np.uint8(2)
"""What a voxel is to a distance: neither (distances look through it), a wall (distance 0), or open (has a distance)."""

NO_WALL = 2**30
"""The squared distance where there is no wall at all."""

_NO_WALL_PIXELS = 2**15
_COLUMNS_AT_ONCE = 32

DistanceBlock = Callable[[int, NDArray[np.int32]], None]
"""Called with the first slice of a block and its squared distances (z, y, x) int32."""


def squared_distances_2d(walls: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Squared distance of each pixel to the nearest wall pixel of its slice, in pixels.

    Parameters
    ----------
    walls : (z, y, x) bool

    Returns
    -------
    (z, y, x) int32
        `NO_WALL` in slices without walls. What lies beyond the edge of a slice is not a wall.

    Raises
    ------
    InputError
        The slices are larger than 18 000 pixels a side.
    """
    check_size(walls.shape)
    squared = np.empty(walls.shape, np.int32)
    kinds = np.where(walls, WALL, OPEN)
    for z in range(len(walls)):
        # Along y a slice is swept as a volume along z.
        since_wall = np.full((1, walls.shape[2]), _NO_WALL_PIXELS, np.int32)
        along_y = _walls_below(kinds[z, :, np.newaxis], since_wall)
        since_wall[:] = _NO_WALL_PIXELS
        _square_nearer(along_y, since_wall)
        squared[z] = along_y[:, 0]
    _spread_along_x(squared)
    return squared


def sweep_squared_distances(
    read: Callable[[int, int], NDArray[np.uint8]],
    blocks: Sequence[tuple[int, int]],
    scratch: ScratchVolume,
    consume: DistanceBlock,
    advance: Callable[[int], None],
) -> None:
    """Squared distance of each open voxel of a volume to its nearest wall voxel, whatever the blocks, in two sweeps.

    The first sweep, upwards, counts the slices since the last wall below each voxel; the second, downwards, takes the
    nearer of the walls below and above, and spreads the squares over each slice by lower envelopes of parabolas. So no
    block needs a halo, and memory does not grow with the distances. Integers throughout: exact.
    Meijster, Roerdink, Hesselink 2000, DOI 10.1007/0-306-47025-X_36.

    Parameters
    ----------
    read : callable (start, stop) -> (z, y, x) uint8
        `NEUTRAL`, `WALL` or `OPEN` of each voxel of slices [start, stop). What lies beyond the volume is neutral.
    blocks : list of (start, stop)
        Ascending, covering the volume.
    scratch : ScratchVolume, int32
        Overwritten. In `consume` it may be overwritten again from the block's first slice on.
    consume : callable (start, squared)
        Gets each block (z, y, x) int32, from the top block down: 0 where the voxel is not open, `NO_WALL` where there
        is no wall in the volume.
    advance : callable (slices)
        Told of slices done; two for each of the volume.

    Raises
    ------
    InputError
        The volume is larger than about 18 000 voxels a side.
    """
    check_size(scratch.shape)
    since_wall = np.full(scratch.shape[1:], _NO_WALL_PIXELS, np.int32)
    for start, stop in blocks:
        scratch.write(start, _walls_below(read(start, stop), since_wall))
        advance(stop - start)
    since_wall[:] = _NO_WALL_PIXELS
    for start, stop in reversed(blocks):
        squared: NDArray[np.int32] = scratch[start:stop]
        is_open = _square_nearer(squared, since_wall)
        _spread_along_y(squared)
        _spread_along_x(squared)
        squared *= is_open
        consume(start, squared)
        advance(stop - start)


def check_size(shape: Sequence[int]) -> None:
    """Refuse a volume whose distances do not fit the integers: an InputError beyond about 18 000 voxels a side."""
    if sum(length * length for length in shape) >= NO_WALL:
        raise InputError(f"volume of {tuple(shape)} voxels: its distances are too long; cut it or bin it by 2")


@njit(cache=True, parallel=True)
def _walls_below(kinds: NDArray[np.uint8], since_wall: NDArray[np.int32]) -> NDArray[np.int32]:
    """Slices since the last wall, or its complement (negative) at neutral voxels; `since_wall` is carried along."""
    depth, rows, columns = kinds.shape
    below = np.empty((depth, rows, columns), np.int32)
    for y in prange(rows):
        for z in range(depth):
            for x in range(columns):
                kind = kinds[z, y, x]
                steps = np.int32(0) if kind == WALL else np.int32(min(since_wall[y, x] + 1, _NO_WALL_PIXELS))
                since_wall[y, x] = steps
                below[z, y, x] = ~steps if kind == NEUTRAL else steps
    return below


@njit(cache=True, parallel=True)
def _square_nearer(below: NDArray[np.int32], since_wall: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Replace distances along z by squares of the nearer wall's, from the top slice down; returns what is open."""
    depth, rows, columns = below.shape
    is_open = np.empty((depth, rows, columns), np.bool_)
    for y in prange(rows):
        for z in range(depth - 1, -1, -1):
            for x in range(columns):
                down = below[z, y, x]
                is_open[z, y, x] = down > 0
                if down < 0:
                    down = ~down
                up = np.int32(0) if down == 0 else np.int32(min(since_wall[y, x] + 1, _NO_WALL_PIXELS))
                since_wall[y, x] = up
                nearer = min(down, up)
                below[z, y, x] = nearer * nearer
    return is_open


@njit(cache=True, parallel=True)
def _spread_along_x(squared: NDArray[np.int32]) -> None:
    depth, rows, columns = squared.shape
    for line in prange(depth * rows):
        vertices = np.empty(columns, np.int32)
        starts = np.empty(columns, np.int32)
        heights = np.empty(columns, np.int32)
        _lower_envelope(squared[line // rows, line % rows], vertices, starts, heights)


@njit(cache=True, parallel=True)
def _spread_along_y(squared: NDArray[np.int32]) -> None:
    depth, rows, columns = squared.shape
    groups = (columns + _COLUMNS_AT_ONCE - 1) // _COLUMNS_AT_ONCE
    for group in prange(depth * groups):
        z = group // groups
        first = (group % groups) * _COLUMNS_AT_ONCE
        last = min(first + _COLUMNS_AT_ONCE, columns)
        vertices = np.empty(rows, np.int32)
        starts = np.empty(rows, np.int32)
        heights = np.empty(rows, np.int32)
        # Several columns are turned into rows at once: single ones would fetch a cache line for every voxel.
        turned = np.empty((_COLUMNS_AT_ONCE, rows), np.int32)
        for y in range(rows):
            for x in range(first, last):
                turned[x - first, y] = squared[z, y, x]
        for x in range(last - first):
            _lower_envelope(turned[x], vertices, starts, heights)
        for y in range(rows):
            for x in range(first, last):
                squared[z, y, x] = turned[x - first, y]


@njit(cache=True)
def _lower_envelope(
    line: NDArray[np.int32], vertices: NDArray[np.int32], starts: NDArray[np.int32], heights: NDArray[np.int32]
) -> None:
    """Replace line[i] by the least of line[j] + (i - j)^2; the three arrays are room to work in."""
    count = 0
    for u in range(line.size):
        height = np.int64(line[u])
        if height >= NO_WALL:
            continue
        start = np.int64(0)
        while count > 0:
            vertex = np.int64(vertices[count - 1])
            lowest = np.int64(heights[count - 1])
            at = np.int64(starts[count - 1])
            if (at - vertex) ** 2 + lowest > (at - u) ** 2 + height:
                count -= 1
                continue
            # From here on the new parabola is the lower one (integer division: the last place where it is not).
            start = 1 + (u * u - vertex * vertex + height - lowest) // (2 * (u - vertex))
            break
        if start < line.size:
            vertices[count] = u
            heights[count] = height
            starts[count] = start
            count += 1
    if count == 0:
        return
    for i in range(line.size - 1, -1, -1):
        distance = i - vertices[count - 1]
        line[i] = distance * distance + heights[count - 1]
        if i == starts[count - 1]:
            count -= 1
