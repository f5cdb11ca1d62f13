"""Sums over the voxels of each label of a block, and what follows from the sums of all blocks: axes, surface.

Everything that is summed is a whole number, so that neither blocks nor threads change a result.
"""

from __future__ import annotations

import numba
import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from .quantification.configurations import crofton_weights

# Columns of the sums of a label. Squares are zz, yy, xx, zy, zx, yx.
VOXELS, SUMS, SQUARES, LOWEST, HIGHEST, BORDER, SURFACE, COLUMNS = 0, 1, 4, 10, 13, 16, 17, 18

_NONE_YET = np.iinfo(np.int64).max
_SURFACE_STEPS = 2**24
_OBJECTS_AT_ONCE = 2**16


def count_voxels(labels: NDArray[np.int32], start: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Voxels of each label in a block, and the place of its first.

    Parameters
    ----------
    labels : (z, y, x) int32
        0 to `count`; 0 for none.
    start : int
        The block's first slice in the volume.
    count : int

    Returns
    -------
    voxels : (count + 1,) int64
    first : (count + 1,) int64
        In raster order of the volume; the largest int64 where a label does not occur, and for 0.
    """
    voxels, first = np.zeros(count + 1, np.int64), np.full(count + 1, _NONE_YET)
    _count_runs(labels.reshape(-1), start * labels[0].size, voxels, first)
    return voxels, first


def sum_block(
    labels: NDArray[np.int32],
    phases: NDArray[np.uint8],
    start: int,
    volume_depth: int,
    count: int,
    voxel_size: tuple[float, float, float],
) -> NDArray[np.int64]:
    """Sums over the voxels of each label in one block.

    Parameters
    ----------
    labels : (depth + 1, y, x) int32
        0 to `count` - 1, 0 for none, in the block and in the slice above it; 0 there where the volume ends.
    phases : (z, y, x) uint8
        0 outside the region. Of the block, and of the slices below and above it that the volume has.
    start : int
        The block's first slice in the volume.
    volume_depth : int
        Slices of the volume.
    count : int
    voxel_size : (z, y, x) float
        For the surface.

    Returns
    -------
    (count, COLUMNS) int64
        Number of voxels; sums of their indices; of products of two of these, modulo 2**64; lowest index and the one after
        the highest; whether they touch a face of the volume or what is outside the region; surface, in steps that
        `surface_areas` knows. The row of label 0 means nothing.
    """
    depth = len(labels) - 1
    # Threads add up in tables of their own, which together take up to a byte a voxel.
    groups = max(1, min(numba.get_num_threads(), depth, labels.size // (8 * COLUMNS * count)))
    tables = np.empty((groups, count, COLUMNS), np.int64)
    tables[:] = no_sums(1)
    _sum_groups(labels, phases, start, min(start, 1), volume_depth, _surface_steps(voxel_size), tables)
    sums: NDArray[np.int64] = tables[0]
    for table in tables[1:]:
        add_sums(sums, slice(None), table)
    return sums


def add_sums(sums: NDArray[np.int64], rows: NDArray[np.int64] | slice, more: NDArray[np.int64]) -> None:
    """Add the sums of a block, (n, COLUMNS), to these rows (each at most once) of those of the volume, in place."""
    total = sums[rows]
    for first, last in ((VOXELS, LOWEST), (BORDER, COLUMNS)):
        total[:, first:last] += more[:, first:last]
    total[:, LOWEST:HIGHEST] = np.minimum(total[:, LOWEST:HIGHEST], more[:, LOWEST:HIGHEST])
    total[:, HIGHEST:BORDER] = np.maximum(total[:, HIGHEST:BORDER], more[:, HIGHEST:BORDER])
    sums[rows] = total


def no_sums(count: int) -> NDArray[np.int64]:
    """Sums (count, COLUMNS) of labels without voxels."""
    sums = np.zeros((count, COLUMNS), np.int64)
    sums[:, LOWEST:HIGHEST] = _NONE_YET
    return sums


def surface_areas(sums: NDArray[np.int64], voxel_size: tuple[float, float, float]) -> NDArray[np.float64]:
    """Area of the closed surface of each label, (n,), in the squared unit of `voxel_size`.

    From intersections with lines in 13 directions, as `configurations.crofton_weights` describes; what cuts a label off at
    a face of the volume is part of its surface.
    """
    areas: NDArray[np.float64] = sums[:, SURFACE] * (crofton_weights(voxel_size).max() / _SURFACE_STEPS)
    return areas


def principal_axes(
    sums: NDArray[np.int64], voxel_size: tuple[float, float, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Axes of the ellipsoid that has the second moments of each label.

    Voxels count as the boxes that they are, not as points.

    Parameters
    ----------
    sums : (n, COLUMNS) int64
    voxel_size : (z, y, x) float
        Edges of a voxel.

    Returns
    -------
    lengths : (n, 3) float64
        Whole axes, the longest first, in the unit of `voxel_size`.
    orientation : (n, 3) float64
        Unit vector (z, y, x) along the longest axis; of the two, the one whose largest component is positive.
    """
    lengths, orientation = np.empty((len(sums), 3)), np.empty((len(sums), 3))
    for start in range(0, len(sums), _OBJECTS_AT_ONCE):
        part = slice(start, start + _OBJECTS_AT_ONCE)
        variances, directions = np.linalg.eigh(_covariances(sums[part], np.asarray(voxel_size)))
        # A ball of radius r has the variance r^2 / 5 along each axis.
        lengths[part] = 2 * np.sqrt(5 * variances[:, ::-1])
        longest = directions[:, :, 2]
        largest = np.take_along_axis(longest, np.abs(longest).argmax(axis=1)[:, np.newaxis], axis=1)
        orientation[part] = longest * np.sign(largest)
    return lengths, orientation


def _covariances(sums: NDArray[np.int64], voxel_size: NDArray[np.float64]) -> NDArray[np.float64]:
    """Covariances (n, 3, 3) of the space that the voxels fill, in the squared unit of `voxel_size`."""
    voxels, first, second = sums[:, VOXELS], sums[:, SUMS:SQUARES], sums[:, SQUARES:LOWEST]
    # Moved to a voxel next to the mean in whole numbers. The sums may have overflown; the difference, which is below
    # 2**63 up to 8192 voxels a side, is right nevertheless.
    middle = np.rint(first / voxels[:, np.newaxis]).astype(np.int64)
    rest = first - middle * voxels[:, np.newaxis]
    covariances = np.empty((len(sums), 3, 3))
    for column, (one, other) in enumerate(((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))):
        around_middle = (
            second[:, column]
            - middle[:, one] * first[:, other]
            - middle[:, other] * first[:, one]
            + middle[:, one] * middle[:, other] * voxels
        )
        variance = around_middle / voxels - (rest[:, one] / voxels) * (rest[:, other] / voxels)
        variance += 1 / 12 if one == other else 0
        covariances[:, one, other] = covariances[:, other, one] = variance * voxel_size[one] * voxel_size[other]
    return covariances


def _surface_steps(voxel_size: tuple[float, float, float]) -> NDArray[np.int64]:
    """Surface of each configuration in a 2**24th of the largest: up to 2**39 cells can be summed, to 1e-7."""
    weights = crofton_weights(voxel_size)
    steps: NDArray[np.int64] = np.rint(weights * (_SURFACE_STEPS / weights.max())).astype(np.int64)
    return steps


@njit(cache=True)
def _count_runs(labels: NDArray[np.int32], offset: int, voxels: NDArray[np.int64], first: NDArray[np.int64]) -> None:
    at = 0
    while at < labels.size:
        label = labels[at]
        begin = at
        at += 1
        while at < labels.size and labels[at] == label:
            at += 1
        if label != 0:
            voxels[label] += at - begin
            first[label] = min(first[label], offset + begin)


@njit(cache=True, parallel=True)
def _sum_groups(
    labels: NDArray[np.int32],
    phases: NDArray[np.uint8],
    start: int,
    low: int,
    volume_depth: int,
    surface_steps: NDArray[np.int64],
    tables: NDArray[np.int64],
) -> None:
    """Fill a table for each group of slices; `low` is the place of the block's first slice in `phases`."""
    depth, groups = labels.shape[0] - 1, tables.shape[0]
    for group in prange(groups):
        for z in range(depth * group // groups, depth * (group + 1) // groups):
            _sum_slice(labels[z], phases, start + z, z + low, volume_depth, tables[group])
            _sum_surface(labels[z], labels[z + 1], surface_steps, tables[group])
            if start + z == 0:
                _sum_surface(np.zeros_like(labels[0]), labels[0], surface_steps, tables[group])


@njit(cache=True)
def _sum_slice(
    labels: NDArray[np.int32],
    phases: NDArray[np.uint8],
    z: int,
    phases_z: int,
    volume_depth: int,
    sums: NDArray[np.int64],
) -> None:
    """Add all but the surface, run by run along x; z is the slice's index in the volume."""
    rows, columns = labels.shape
    for y in range(rows):
        x = 0
        while x < columns:
            label = labels[y, x]
            begin = x
            x += 1
            if label == 0:
                continue
            while x < columns and labels[y, x] == label:
                x += 1
            entry = sums[label]
            count = x - begin
            sum_x = count * (begin + x - 1) // 2
            entry[VOXELS] += count
            entry[SUMS] += count * z
            entry[SUMS + 1] += count * y
            entry[SUMS + 2] += sum_x
            entry[SQUARES] += count * z * z
            entry[SQUARES + 1] += count * y * y
            entry[SQUARES + 2] += _squares_below(x) - _squares_below(begin)
            entry[SQUARES + 3] += count * z * y
            entry[SQUARES + 4] += z * sum_x
            entry[SQUARES + 5] += y * sum_x
            for axis, first, end in ((0, z, z + 1), (1, y, y + 1), (2, begin, x)):
                entry[LOWEST + axis] = min(entry[LOWEST + axis], first)
                entry[HIGHEST + axis] = max(entry[HIGHEST + axis], end)
            if entry[BORDER] == 0 and _at_border(phases, z, phases_z, y, begin, x, volume_depth):
                entry[BORDER] = 1


@njit(cache=True)
def _squares_below(n: int) -> int:
    """Sum of the squares of 0 to n - 1."""
    return (n - 1) * n * (2 * n - 1) // 6


@njit(cache=True)
def _at_border(
    phases: NDArray[np.uint8], volume_z: int, z: int, y: int, begin: int, end: int, volume_depth: int
) -> bool:
    """Whether a run along x touches a face of the volume or a voxel outside the region."""
    _, rows, columns = phases.shape
    if volume_z in (0, volume_depth - 1) or y in (0, rows - 1) or begin == 0 or end == columns:
        return True
    if phases[z, y, begin - 1] == 0 or phases[z, y, end] == 0:
        return True
    for x in range(begin, end):
        if phases[z - 1, y, x] == 0 or phases[z + 1, y, x] == 0 or phases[z, y - 1, x] == 0 or phases[z, y + 1, x] == 0:
            return True
    return False


@njit(cache=True)
def _sum_surface(
    below: NDArray[np.int32], above: NDArray[np.int32], steps: NDArray[np.int64], sums: NDArray[np.int64]
) -> None:
    """Add the surface of the cells between two slices, those at the slices' edges included."""
    rows, columns = below.shape
    outside = np.zeros(columns, np.int32)
    for y in range(-1, rows):
        # Order of the corners: that of the configurations' bits.
        corner_0 = below[y] if y >= 0 else outside
        corner_1 = below[y + 1] if y + 1 < rows else outside
        corner_2 = above[y] if y >= 0 else outside
        corner_3 = above[y + 1] if y + 1 < rows else outside
        cell = np.zeros(8, np.int32)
        last, last_is_uniform = np.int32(0), True
        for x in range(columns + 1):
            label, is_uniform = np.int32(0), True
            if x < columns:
                label = corner_0[x]
                is_uniform = label == corner_1[x] and label == corner_2[x] and label == corner_3[x]
            # Most cells are of one label and have no surface.
            if not (last_is_uniform and is_uniform and label == last):
                for side in range(2):
                    at = x - 1 + side
                    within = 0 <= at < columns
                    cell[4 * side] = corner_0[at] if within else 0
                    cell[4 * side + 1] = corner_1[at] if within else 0
                    cell[4 * side + 2] = corner_2[at] if within else 0
                    cell[4 * side + 3] = corner_3[at] if within else 0
                _add_cell(cell, steps, sums)
            last, last_is_uniform = label, is_uniform


@njit(cache=True)
def _add_cell(cell: NDArray[np.int32], steps: NDArray[np.int64], sums: NDArray[np.int64]) -> None:
    """Add a cell to the surface of every label at its corners."""
    for corner in range(8):
        label = cell[corner]
        if label == 0:
            continue
        configuration = 0
        seen = False
        for other in range(8):
            if cell[other] == label:
                seen |= other < corner
                configuration |= 1 << other
        if not seen:
            sums[label, SURFACE] += steps[configuration]
