"""Exact squared Euclidean distances in whole numbers: of slices in memory, and of a volume block by block.

A distance is to the nearest wall voxel; what a wall is, and what the distances are for, is left to the caller. Blocks
can be worked on alone: all that a block needs of the others is the nearest wall below and above in each column of voxels
along z, for which `column_walls` gives what a block has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from .errors import InputError, ParameterError

NEUTRAL, WALL, OPEN = np.uint8(0), np.uint8(1), np.uint8(2)
"""What a voxel is to a distance: neither (distances look through it), a wall (distance 0), or open (has a distance)."""

NO_WALL = 2**30
"""The squared distance where there is no wall at all."""

Weights = tuple[int, int, int]
"""Squared edges of a voxel along (z, y, x), as whole numbers in the square of some unit length."""

CUBIC: Weights = (1, 1, 1)

_NO_WALL_SLICES = 2**15
_COLUMNS_AT_ONCE = 32
_EDGE_TOLERANCE = 0.01
_LONGEST_EDGE = 1000


def distance_weights(voxel_size: tuple[float, float, float]) -> tuple[Weights, float]:
    """The smallest whole numbers that stand for the squared edges of a voxel, each edge within 1 %.

    Parameters
    ----------
    voxel_size : (z, y, x) float
        Edges of a voxel, in any unit of length.

    Returns
    -------
    weights : (z, y, x) int
        A squared distance is `weights[0] * dz**2 + weights[1] * dy**2 + weights[2] * dx**2`; (1, 1, 1) for cubes.
    unit_length : float
        What the square root of a squared distance of 1 is, in the unit of the edges.

    Raises
    ------
    ParameterError
        An edge is not a positive number, or more than 1000 times as long as another.
    """
    shortest = min(voxel_size)
    if not all(0 < edge <= _LONGEST_EDGE * shortest for edge in voxel_size):
        raise ParameterError(
            f"voxel size {voxel_size}: give positive edges, none {_LONGEST_EDGE} times as long as another"
        )
    squares = [(edge / shortest) ** 2 for edge in voxel_size]
    multiple = 1
    while True:
        weights = [round(multiple * square) for square in squares]
        edges = [math.sqrt(w / (multiple * s)) for w, s in zip(weights, squares, strict=True)]
        if all(abs(edge - 1) <= _EDGE_TOLERANCE for edge in edges):
            return (weights[0], weights[1], weights[2]), shortest / math.sqrt(multiple)
        multiple += 1


def column_walls(kinds: NDArray[np.uint8], start: int) -> NDArray[np.int32]:
    """The first and the last wall of each column of voxels along z in a block.

    Parameters
    ----------
    kinds : (z, y, x) uint8
        `NEUTRAL`, `WALL` or `OPEN`.
    start : int
        The block's first slice in the volume.

    Returns
    -------
    (2, y, x) int32
        Slices in the volume; -1 where the column has no wall in this block.
    """
    walls = np.full((2, *kinds.shape[1:]), -1, np.int32)
    _find_column_walls(kinds, start, walls)
    return walls


def block_squared_distances(
    kinds: NDArray[np.uint8],
    start: int,
    walls_below: NDArray[np.int32],
    walls_above: NDArray[np.int32],
    weights: Weights = CUBIC,
) -> NDArray[np.int32]:
    """Squared distance of each open voxel of a block to the nearest wall voxel of the whole volume; exact.

    Along z the nearer of the walls below and above is taken, and the squares are spread over each slice by lower
    envelopes of parabolas: what is beyond the block comes in by the walls alone, so that no halo is needed.
    Meijster, Roerdink, Hesselink 2000, DOI 10.1007/0-306-47025-X_36.

    Parameters
    ----------
    kinds : (z, y, x) uint8
        `NEUTRAL`, `WALL` or `OPEN`. What slices of neighbouring blocks it has at its ends get their distances too.
    start : int
        The first of these slices in the volume.
    walls_below, walls_above : (y, x) int32
        The slice in the volume of the last wall below the first of these slices in each column, and of the first above the
        last; -1 for none. Or the last wall up to the first slice, that one included, and so above.
    weights : (z, y, x) int
        From `distance_weights`. The volume passes `check_size`.

    Returns
    -------
    (z, y, x) int32
        0 where the voxel is not open, `NO_WALL` where there is no wall in the volume. What lies beyond the volume is
        neutral.
    """
    squared = _squares_along_z(kinds, start, walls_below, walls_above, weights[0])
    _spread_along_y(squared, weights[1])
    _spread_along_x(squared, weights[2])
    _clear_closed(squared, kinds)
    return squared


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
    squared = np.where(walls, np.int32(0), np.int32(NO_WALL))
    _spread_along_y(squared, 1)
    _spread_along_x(squared, 1)
    return squared


def check_size(shape: Sequence[int], weights: Weights = CUBIC) -> None:
    """Refuse a volume whose distances do not fit the integers: an InputError beyond about 18 000 cubic voxels a side."""
    if sum(weight * length * length for weight, length in zip(weights, shape, strict=True)) >= NO_WALL:
        raise InputError(f"volume of {tuple(shape)} voxels: its distances are too long; cut it or bin it by 2")


@njit(cache=True, parallel=True)
def _find_column_walls(kinds: NDArray[np.uint8], start: int, walls: NDArray[np.int32]) -> None:
    depth, rows, columns = kinds.shape
    for y in prange(rows):
        first, last = walls[0, y], walls[1, y]
        for z in range(depth):
            for x in range(columns):
                if kinds[z, y, x] == WALL:
                    first[x] = start + z if first[x] < 0 else first[x]
                    last[x] = start + z


@njit(cache=True, parallel=True)
def _squares_along_z(
    kinds: NDArray[np.uint8], start: int, below: NDArray[np.int32], above: NDArray[np.int32], weight: int
) -> NDArray[np.int32]:
    depth, rows, columns = kinds.shape
    squared = np.empty((depth, rows, columns), np.int32)
    for y in prange(rows):
        steps = np.empty(columns, np.int32)
        for x in range(columns):
            steps[x] = min(start - 1 - below[y, x], _NO_WALL_SLICES) if below[y, x] >= 0 else _NO_WALL_SLICES
        for z in range(depth):
            for x in range(columns):
                steps[x] = 0 if kinds[z, y, x] == WALL else min(steps[x] + 1, _NO_WALL_SLICES)
                squared[z, y, x] = steps[x]
        for x in range(columns):
            steps[x] = min(above[y, x] - start - depth, _NO_WALL_SLICES) if above[y, x] >= 0 else _NO_WALL_SLICES
        for z in range(depth - 1, -1, -1):
            for x in range(columns):
                steps[x] = 0 if kinds[z, y, x] == WALL else min(steps[x] + 1, _NO_WALL_SLICES)
                nearer = min(squared[z, y, x], steps[x])
                squared[z, y, x] = nearer * nearer * weight if nearer < _NO_WALL_SLICES else NO_WALL
    return squared


@njit(cache=True, parallel=True)
def _clear_closed(squared: NDArray[np.int32], kinds: NDArray[np.uint8]) -> None:
    depth, rows, columns = squared.shape
    for line in prange(depth * rows):
        z, y = line // rows, line % rows
        for x in range(columns):
            if kinds[z, y, x] != OPEN:
                squared[z, y, x] = 0


@njit(cache=True, parallel=True)
def _spread_along_x(squared: NDArray[np.int32], weight: int) -> None:
    depth, rows, columns = squared.shape
    for line in prange(depth * rows):
        vertices = np.empty(columns, np.int32)
        starts = np.empty(columns, np.int32)
        heights = np.empty(columns, np.int32)
        _lower_envelope(squared[line // rows, line % rows], vertices, starts, heights, weight)


@njit(cache=True, parallel=True)
def _spread_along_y(squared: NDArray[np.int32], weight: int) -> None:
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
            _lower_envelope(turned[x], vertices, starts, heights, weight)
        for y in range(rows):
            for x in range(first, last):
                squared[z, y, x] = turned[x - first, y]


@njit(cache=True)
def _lower_envelope(
    line: NDArray[np.int32],
    vertices: NDArray[np.int32],
    starts: NDArray[np.int32],
    heights: NDArray[np.int32],
    weight: int,
) -> None:
    """Replace line[i] by the least of line[j] + weight * (i - j)^2; the three arrays are room to work in."""
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
            if weight * (at - vertex) ** 2 + lowest > weight * (at - u) ** 2 + height:
                count -= 1
                continue
            # From here on the new parabola is the lower one (integer division: the last place where it is not).
            start = 1 + (weight * (u * u - vertex * vertex) + height - lowest) // (2 * weight * (u - vertex))
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
        line[i] = weight * distance * distance + heights[count - 1]
        if i == starts[count - 1]:
            count -= 1
