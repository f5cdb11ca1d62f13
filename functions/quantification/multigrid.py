"""Approximate solution of Laplace's equation in open space on ever coarser grids: the preconditioner of `diffusion`.

A cell of a coarse grid joins two cells of the finer one along each axis. Between two coarse cells flows what flows
between their parts, over the longer way between their centres. A cycle over the grids is a fixed, symmetric and positive
map of its source, as conjugate gradients need. The finest grid is not held here.

All arrays have one more cell at each end of each axis. It is 0, and so is what is closed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numba import get_num_threads, njit, prange, set_num_threads
from numpy.typing import NDArray

_SWEEPS = 2
_SWEEPS_ON_THE_COARSEST = 10
# Axes whose cells are longer than the shortest by this are not coarsened until the others have caught up.
_SLENDER = 1.5
# Below so many cells, starting a second thread costs more than it gains.
_CELLS_FOR_THREADS = 2**16

Factors = tuple[int, int, int]
Conductances = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True)
class Level:
    """A coarse grid.

    Attributes
    ----------
    factors : tuple of int
        Cells of the finer grid along z, y and x in one of this.
    conductances : three (z, y, x) float32
        Along z, y and x between each cell and the one before it.
    inverse : (z, y, x) float32
        One over the sum of a cell's conductances; 0 where that is 0.
    solution, source : (z, y, x) float32
    """

    factors: Factors
    conductances: Conductances
    inverse: NDArray[np.float32]
    solution: NDArray[np.float32]
    source: NDArray[np.float32]


def make_levels(neighbours: NDArray[np.uint8], edges: tuple[float, float, float]) -> list[Level]:
    """Coarse grids, from the finest of them to one of two cells along each axis.

    Parameters
    ----------
    neighbours : (z, y, x) uint8
        Finest grid: not 0 where it is open. Half a cell before its first and behind its last slice, values are fixed.
    edges : (z, y, x) float
        Edges of a cell of the finest grid, on which the conductance along z is 1.
    """
    levels: list[Level] = []
    shape = tuple(n - 2 for n in neighbours.shape)
    size = edges
    while max(shape) > 2 or not levels:
        factors = _factors(shape, size)
        shape = tuple(-(-n // factor) for n, factor in zip(shape, factors, strict=True))
        size = (size[0] * factors[0], size[1] * factors[1], size[2] * factors[2])
        conductances, (inverse, solution, source) = _zeros(shape), _zeros(shape)
        # What two cells share grows with the cut between them and falls with the distance of their centres.
        shares = (1 / np.array(factors)).astype(np.float32)
        if levels:
            _join(levels[-1].conductances, factors, shares, conductances)
        else:
            weights = np.array([(edges[0] / edge) ** 2 for edge in edges]).astype(np.float32)
            _join_faces(neighbours, factors, shares * weights, conductances)
        _invert(conductances, inverse)
        levels.append(Level(factors, conductances, inverse, solution, source))
    return levels


def cycle(levels: list[Level]) -> NDArray[np.float32]:
    """Approximate the solution to the source of the first level, by one cycle; the array is the level's own."""
    for level, coarser in pairwise(levels):
        _relax(level, _SWEEPS, True)
        with _threads_for(level.solution.size):
            _restrict(level.solution, level.source, level.conductances, coarser.factors, coarser.source)
    _relax(levels[-1], _SWEEPS_ON_THE_COARSEST, True)
    _relax(levels[-1], _SWEEPS_ON_THE_COARSEST, False)
    for coarser, level in pairwise(reversed(levels)):
        with _threads_for(level.solution.size):
            _add_coarser(coarser.solution, coarser.factors, level.inverse, level.solution)
        _relax(level, _SWEEPS, False)
    return levels[0].solution


def _factors(shape: tuple[int, ...], size: tuple[float, float, float]) -> Factors:
    shortest = min((edge for edge, n in zip(size, shape, strict=True) if n > 1), default=1.0)
    z, y, x = (2 if n > 1 and edge < _SLENDER * shortest else 1 for edge, n in zip(size, shape, strict=True))
    return z, y, x


def _zeros(shape: tuple[int, ...]) -> Conductances:
    padded = (shape[0] + 2, shape[1] + 2, shape[2] + 2)
    return np.zeros(padded, np.float32), np.zeros(padded, np.float32), np.zeros(padded, np.float32)


def _relax(level: Level, sweeps: int, forwards: bool) -> None:
    """Sweep from 0 on forwards; backwards in the reversed order, so that the cycle is symmetric."""
    if forwards:
        level.solution[:] = 0
    with _threads_for(level.solution.size):
        for _ in range(sweeps):
            for parity in (0, 1) if forwards else (1, 0):
                _relax_rows(level.solution, level.source, level.conductances, level.inverse, parity, forwards)


@contextmanager
def _threads_for(cells: int) -> Iterator[None]:
    threads = get_num_threads()
    if cells < _CELLS_FOR_THREADS:
        set_num_threads(1)
    try:
        yield
    finally:
        set_num_threads(threads)


@njit(cache=True, parallel=True)
def _join_faces(
    neighbours: NDArray[np.uint8], factors: Factors, shares: NDArray[np.float32], coarse: Conductances
) -> None:  # pragma: no cover - compiled
    """Conductances of the first coarse grid, from the open faces of the finest."""
    slices, rows, columns = neighbours.shape
    along_z, along_y, along_x = coarse
    for cell in prange(1, along_z.shape[0] - 1):
        for z in range((cell - 1) * factors[0] + 1, min(cell * factors[0] + 1, slices - 1)):
            for y in range(1, rows - 1):
                j = (y - 1) // factors[1] + 1
                for x in range(1, columns - 1):
                    if neighbours[z, y, x] == 0:
                        continue
                    k = (x - 1) // factors[2] + 1
                    if z == 1:
                        along_z[cell, j, k] += 2 * shares[0]
                    elif (z - 1) % factors[0] == 0 and neighbours[z - 1, y, x] != 0:
                        along_z[cell, j, k] += shares[0]
                    if z == slices - 2:
                        along_z[cell + 1, j, k] += 2 * shares[0]
                    if (y - 1) % factors[1] == 0 and neighbours[z, y - 1, x] != 0:
                        along_y[cell, j, k] += shares[1]
                    if (x - 1) % factors[2] == 0 and neighbours[z, y, x - 1] != 0:
                        along_x[cell, j, k] += shares[2]


@njit(cache=True, parallel=True)
def _join(
    fine: Conductances, factors: Factors, shares: NDArray[np.float32], coarse: Conductances
) -> None:  # pragma: no cover - compiled
    """Conductances of a grid from those of the finer one."""
    slices, rows, columns = fine[0].shape
    for cell in prange(1, coarse[0].shape[0] - 1):
        for z in range((cell - 1) * factors[0] + 1, min(cell * factors[0] + 1, slices - 1)):
            for y in range(1, rows - 1):
                j = (y - 1) // factors[1] + 1
                for x in range(1, columns - 1):
                    k = (x - 1) // factors[2] + 1
                    if (z - 1) % factors[0] == 0:
                        coarse[0][cell, j, k] += shares[0] * fine[0][z, y, x]
                    if z == slices - 2:
                        coarse[0][cell + 1, j, k] += shares[0] * fine[0][z + 1, y, x]
                    if (y - 1) % factors[1] == 0:
                        coarse[1][cell, j, k] += shares[1] * fine[1][z, y, x]
                    if (x - 1) % factors[2] == 0:
                        coarse[2][cell, j, k] += shares[2] * fine[2][z, y, x]


@njit(cache=True, parallel=True)
def _invert(conductances: Conductances, inverse: NDArray[np.float32]) -> None:  # pragma: no cover - compiled
    along_z, along_y, along_x = conductances
    slices, rows, columns = inverse.shape
    for z in prange(1, slices - 1):
        for y in range(1, rows - 1):
            for x in range(1, columns - 1):
                total = along_z[z, y, x] + along_z[z + 1, y, x] + along_y[z, y, x] + along_y[z, y + 1, x]
                total += along_x[z, y, x] + along_x[z, y, x + 1]
                inverse[z, y, x] = 1 / total if total > 0 else 0


@njit(cache=True, parallel=True)
def _relax_rows(
    solution: NDArray[np.float32],
    source: NDArray[np.float32],
    conductances: Conductances,
    inverse: NDArray[np.float32],
    parity: int,
    forwards: bool,
) -> None:  # pragma: no cover - compiled
    """Gauss-Seidel along every second row: no two of them touch, so that the threads do not matter."""
    slices, rows, columns = solution.shape
    for z in prange(1, slices - 1):
        # Each cell is what it gets from all others plus a share of its predecessor in the row: only that is in order.
        rest = np.empty(columns, np.float32)
        share = np.empty(columns, np.float32)
        for y in range(1 + (z + parity) % 2, rows - 1, 2):
            row, below, above = solution[z, y], solution[z - 1, y], solution[z + 1, y]
            before, behind = solution[z, y - 1], solution[z, y + 1]
            to_below, to_above = conductances[0][z, y], conductances[0][z + 1, y]
            to_before, to_behind = conductances[1][z, y], conductances[1][z, y + 1]
            along, scale, given = conductances[2][z, y], inverse[z, y], source[z, y]
            value = np.float32(0)
            if forwards:
                for x in range(1, columns - 1):
                    flow = given[x] + to_below[x] * below[x] + to_above[x] * above[x]
                    flow += to_before[x] * before[x] + to_behind[x] * behind[x] + along[x + 1] * row[x + 1]
                    rest[x] = scale[x] * flow
                    share[x] = scale[x] * along[x]
                for x in range(1, columns - 1):
                    value = rest[x] + share[x] * value
                    row[x] = value
            else:
                for x in range(1, columns - 1):
                    flow = given[x] + to_below[x] * below[x] + to_above[x] * above[x]
                    flow += to_before[x] * before[x] + to_behind[x] * behind[x] + along[x] * row[x - 1]
                    rest[x] = scale[x] * flow
                    share[x] = scale[x] * along[x + 1]
                for x in range(columns - 2, 0, -1):
                    value = rest[x] + share[x] * value
                    row[x] = value


@njit(cache=True, parallel=True)
def _restrict(
    solution: NDArray[np.float32],
    source: NDArray[np.float32],
    conductances: Conductances,
    factors: Factors,
    coarse: NDArray[np.float32],
) -> None:  # pragma: no cover - compiled
    """Sum what is missing in the cells of the finer grid, as the source of the coarser."""
    slices, rows, columns = solution.shape
    for cell in prange(1, coarse.shape[0] - 1):
        total = np.empty(columns, np.float32)
        for j in range(1, coarse.shape[1] - 1):
            total[:] = 0
            for z in range((cell - 1) * factors[0] + 1, min(cell * factors[0] + 1, slices - 1)):
                for y in range((j - 1) * factors[1] + 1, min(j * factors[1] + 1, rows - 1)):
                    row, below, above = solution[z, y], solution[z - 1, y], solution[z + 1, y]
                    before, behind = solution[z, y - 1], solution[z, y + 1]
                    to_below, to_above = conductances[0][z, y], conductances[0][z + 1, y]
                    to_before, to_behind = conductances[1][z, y], conductances[1][z, y + 1]
                    along, given = conductances[2][z, y], source[z, y]
                    for x in range(1, columns - 1):
                        flow = to_below[x] * (below[x] - row[x]) + to_above[x] * (above[x] - row[x])
                        flow += to_before[x] * (before[x] - row[x]) + to_behind[x] * (behind[x] - row[x])
                        flow += along[x] * (row[x - 1] - row[x]) + along[x + 1] * (row[x + 1] - row[x])
                        total[x] += given[x] + flow
            sum_row(total, factors[2], coarse[cell, j])


@njit(cache=True, parallel=True)
def _add_coarser(
    coarse: NDArray[np.float32], factors: Factors, inverse: NDArray[np.float32], solution: NDArray[np.float32]
) -> None:  # pragma: no cover - compiled
    slices, rows, columns = solution.shape
    for z in prange(1, slices - 1):
        for y in range(1, rows - 1):
            values = coarse[(z - 1) // factors[0] + 1, (y - 1) // factors[1] + 1]
            for x in range(1, columns - 1):
                if inverse[z, y, x] > 0:
                    solution[z, y, x] += values[(x - 1) // factors[2] + 1]


@njit(cache=True)
def sum_row(fine: NDArray[np.float32], factor: int, coarse: NDArray[np.float32]) -> None:  # pragma: no cover - compiled
    """Sum one or two cells along a row into one."""
    if factor == 1:
        coarse[:] = fine
        return
    last = fine.shape[0] - 1
    for k in range(1, coarse.shape[0] - 1):
        coarse[k] = fine[2 * k - 1] + (fine[2 * k] if 2 * k < last else np.float32(0))
