"""Diffusive tortuosity factor: how much slower diffusion through a phase is than its share of the volume would have it.

The length of the shortest way is another number (for the same pores 1.1, where the factor is 3): see `tortuosity`.
The solver's coarse grids are made in `multigrid`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray
from scipy import ndimage

from .box import AXES, BinnedPhase
from .configurations import Progress, report
from .multigrid import Factors, cycle, make_levels, sum_row

SOLVER_BYTES_PER_VOXEL = 20
"""What a solution takes for each voxel of the box at most, the box itself included; 16 where voxels are cubes."""

DEFAULT_TOLERANCE = 1e-5
MAXIMUM_ITERATIONS = 2000

# Of the finest grid's part in the preconditioner.
_DAMPING = 0.8
# What the last so many iterations gained tells what is still to come.
_WINDOW = 3
# Of slender voxels some directions are solved late, after gains that look like the last: what is left is then told too low.
_SLENDER, _TOLERANCE_OF_SLENDER = 3.0, 0.01

_Weights = tuple[np.float32, np.float32, np.float32]


@dataclass(frozen=True)
class DiffusionResult:
    """Steady diffusion from one face of a box to the opposite one.

    Attributes
    ----------
    tortuosity_factor : float
        Share of the box that is open, connected or not, over `effective_diffusivity_ratio`; 1 for straight channels.
    effective_diffusivity_ratio : float
        Diffusivity of the box over that of the open space, from 0 to 1.
    iterations : int
        Iterations of the solver.
    residual : float
        Estimated relative error that stopping has left in the ratio (which is then too large). It is above the tolerance
        only where that was not reached in 2000 iterations.
    """

    tortuosity_factor: float
    effective_diffusivity_ratio: float
    iterations: int
    residual: float


def tortuosity_factors(
    binned: BinnedPhase, voxel_size: tuple[float, float, float], progress: Progress | None = None
) -> dict[str, DiffusionResult | None]:
    """Tortuosity factor of a binned phase along z, y and x, one after the other.

    Parameters
    ----------
    binned : BinnedPhase
        A solution takes `SOLVER_BYTES_PER_VOXEL` for each of its cubes.
    voxel_size : (z, y, x) float
        Edges of a voxel of the volume, not of a cube of the binned phase; only their ratios matter.
    progress : callable, optional
        Called with the part done.

    Returns
    -------
    dict of str to DiffusionResult or None
        By axis: z, y, x; None where the phase does not percolate. An axis along which the box is a single cube thick is
        absent.
    """
    box, edges = binned.open_voxels, binned.edges(voxel_size)
    usable = [axis for axis in range(3) if box.shape[axis] > 1]
    found = {}
    for axis in usable:
        found[AXES[axis]] = tortuosity_factor(box, axis, edges)
        report(progress, len(found) / len(usable))
    return found


def tortuosity_factor(
    open_voxels: NDArray[np.bool_],
    axis: int,
    voxel_size: tuple[float, float, float] = (1.0, 1.0, 1.0),
    tolerance: float = DEFAULT_TOLERANCE,
) -> DiffusionResult | None:
    """Tortuosity factor of open space along an axis.

    Laplace's equation is solved in the open voxels that a face is connected to the opposite one by, over faces that
    voxels share. The concentration is fixed on the two faces of the box, half a voxel from the centres of the first and
    last voxels; nothing flows through its other faces or into closed voxels. The effective diffusivity follows from the
    flow, and the factor is defined as the open share of the box over it.

    Conjugate gradients minimise the dissipation, which is the effective diffusivity: starting from that of a linear
    profile, every iteration takes away a known amount. Summing these, the concentration itself is never held, and the
    error falls with its square.

    Parameters
    ----------
    open_voxels : (z, y, x) bool
    axis : int
        0, 1 or 2 for z, y or x.
    voxel_size : (z, y, x) float
        Edges of a voxel; only their ratios matter.
    tolerance : float
        Estimated relative error of the effective diffusivity at which to stop; a hundredth of it where the edges of a
        voxel differ by more than 3 to 1. 1e-5 leaves less than 1e-4.

    Returns
    -------
    DiffusionResult or None
        None where no way leads from face to face.

    Source: definition, Cooper, Bertei, Shearing, Kilner and Brandon (2016), DOI 10.1016/j.softx.2016.09.002; what an
    iteration takes away, Hestenes and Stiefel (1952), DOI 10.6028/jres.049.044; additive multigrid, Bramble, Pasciak and
    Xu (1990), DOI 10.1090/S0025-5718-1990-1023042-6.
    """
    through = _percolating(np.moveaxis(open_voxels, axis, 0))
    if through is None:
        return None
    others = [other for other in range(3) if other != axis]
    edges = (float(voxel_size[axis]), float(voxel_size[others[0]]), float(voxel_size[others[1]]))
    if max(edges) > _SLENDER * min(edges):
        tolerance *= _TOLERANCE_OF_SLENDER
    ratio, iterations, residual = _minimise(through, edges, tolerance)
    share = int(np.count_nonzero(open_voxels)) / open_voxels.size
    return DiffusionResult(share / ratio, ratio, iterations, residual)


def _percolating(open_voxels: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """Voxels of components that touch the first and the last slice."""
    labels, count = ndimage.label(open_voxels)
    wanted = np.zeros(count + 1, bool)
    wanted[np.intersect1d(labels[0], labels[-1])] = True
    wanted[0] = False
    if not wanted.any():
        return None
    through = np.empty(open_voxels.shape, bool)
    # Slice by slice: an index of 8 bytes a voxel is made of the labels.
    for z in range(len(through)):
        through[z] = wanted[labels[z]]
    return through


def _minimise(
    through: NDArray[np.bool_], edges: tuple[float, float, float], tolerance: float
) -> tuple[float, int, float]:
    """Effective diffusivity along the first axis, iterations, and the relative error left."""
    padded = tuple(n + 2 for n in through.shape)
    neighbours = np.zeros(padded, np.uint8)
    residual, direction = np.zeros(padded, np.float32), np.zeros(padded, np.float32)
    # The dissipation of the linear profile, in units of that of open space: where it flows, it does so as there.
    ratio = float(_start_linear(through, neighbours, residual).sum()) / (2 * through.size)
    weights = np.array([(edges[0] / edge) ** 2 for edge in edges]).astype(np.float32)
    levels = make_levels(neighbours, edges)
    factors, source = levels[0].factors, levels[0].source
    flow = (neighbours, (weights[0], weights[1], weights[2]))
    # Sums by slice, so that they are the same for any number of threads.
    scaled_squares, curvatures = np.zeros(source.shape[0]), np.zeros(padded[0])
    _descend(direction, residual, *flow, np.float32(0), factors, source, scaled_squares)
    gains: list[float] = []
    previous, left = math.inf, 0.0
    for _ in range(MAXIMUM_ITERATIONS):
        correction = cycle(levels)
        # Residual times preconditioned residual: the finest grid's part of it, and that of the coarse grids.
        product = _DAMPING * scaled_squares.sum() + float(np.einsum("zyx,zyx->", source, correction, dtype=np.float64))
        _turn(direction, residual, *flow, np.float32(product / previous), factors, correction)
        _curve(direction, *flow, curvatures)
        curvature = curvatures.sum()
        if curvature <= 0:  # the residual is 0: the profile was the solution
            return ratio, len(gains), 0.0
        gains.append(float(product**2 / curvature / through.size))
        ratio -= gains[-1]
        left = _still_to_gain(gains) / ratio
        if left <= tolerance:
            break
        _descend(direction, residual, *flow, np.float32(product / curvature), factors, source, scaled_squares)
        previous = product
    return ratio, len(gains), left


def _still_to_gain(gains: list[float]) -> float:
    """Sum of the gains to come, if they go on falling as the last ones did."""
    recent, before = sum(gains[-_WINDOW:]), sum(gains[-2 * _WINDOW : -_WINDOW])
    if len(gains) < 2 * _WINDOW or recent >= before:
        return math.inf
    return recent * recent / (before - recent)


@njit(cache=True, inline="always")
def _sum_of_conductances(neighbours: int, weights: _Weights) -> np.float32:  # pragma: no cover - compiled
    """Of a voxel to its open neighbours: their numbers along z (3 bits), y and x (2 bits each) are kept in a byte."""
    count = np.int32(neighbours)
    return (
        weights[0] * np.float32(count & 7)
        + weights[1] * np.float32((count >> 3) & 3)
        + weights[2] * np.float32(count >> 5)
    )


@njit(cache=True, inline="always")
def _flow(
    neighbours: int, weights: _Weights, value: np.float32, z: np.float32, y: np.float32, x: np.float32
) -> np.float32:  # pragma: no cover - compiled
    """Out of an open voxel, from its value and the sums of its two neighbours' along each axis; closed ones are 0.

    Axis by axis, so that between like values nothing flows whatever the weights are rounded to.
    """
    count = np.int32(neighbours)
    return (
        weights[0] * (np.float32(count & 7) * value - z)
        + weights[1] * (np.float32((count >> 3) & 3) * value - y)
        + weights[2] * (np.float32(count >> 5) * value - x)
    )


@njit(cache=True, parallel=True)
def _start_linear(
    through: NDArray[np.bool_], neighbours: NDArray[np.uint8], residual: NDArray[np.float32]
) -> NDArray[np.int64]:  # pragma: no cover - compiled
    """Neighbours of each voxel and what flows into it and not on in a linear profile; ends of open faces by slice."""
    slices, rows, columns = through.shape
    ends = np.zeros(slices, np.int64)
    for z in prange(slices):
        for y in range(rows):
            for x in range(columns):
                if not through[z, y, x]:
                    continue
                before = z == 0 or through[z - 1, y, x]
                behind = z == slices - 1 or through[z + 1, y, x]
                # At half the distance, a fixed value conducts twice.
                count = before + behind + (z == 0) + (z == slices - 1)
                count += 8 * ((y > 0 and through[z, y - 1, x]) + (y < rows - 1 and through[z, y + 1, x]))
                count += 32 * ((x > 0 and through[z, y, x - 1]) + (x < columns - 1 and through[z, y, x + 1]))
                neighbours[z + 1, y + 1, x + 1] = count
                residual[z + 1, y + 1, x + 1] = np.float32(before) - np.float32(behind)
                ends[z] += before + behind
    return ends


@njit(cache=True, parallel=True)
def _curve(
    direction: NDArray[np.float32], neighbours: NDArray[np.uint8], weights: _Weights, sums: NDArray[np.float64]
) -> None:  # pragma: no cover - compiled
    """Direction times its flows, by slice."""
    slices, rows, columns = direction.shape
    for z in prange(1, slices - 1):
        # Summed column by column, which vectorises without leaving the order of the sum to the compiler.
        totals = np.zeros(columns, np.float64)
        for y in range(1, rows - 1):
            row, below, above = direction[z, y], direction[z - 1, y], direction[z + 1, y]
            before, behind, counts = direction[z, y - 1], direction[z, y + 1], neighbours[z, y]
            for x in range(1, columns - 1):
                along_z, along_y, along_x = below[x] + above[x], before[x] + behind[x], row[x - 1] + row[x + 1]
                totals[x] += np.float64(row[x] * _flow(counts[x], weights, row[x], along_z, along_y, along_x))
        sums[z] = totals.sum()


@njit(cache=True, parallel=True)
def _descend(
    direction: NDArray[np.float32],
    residual: NDArray[np.float32],
    neighbours: NDArray[np.uint8],
    weights: _Weights,
    step: np.float32,
    factors: Factors,
    source: NDArray[np.float32],
    sums: NDArray[np.float64],
) -> None:  # pragma: no cover - compiled
    """Residual after a step; summed into the first coarse grid's source; its squares over the conductances, by slice."""
    slices, rows, columns = direction.shape
    for cell in prange(1, source.shape[0] - 1):
        totals = np.zeros(columns, np.float64)
        joined = np.empty(columns, np.float32)
        for j in range(1, source.shape[1] - 1):
            joined[:] = 0
            for z in range((cell - 1) * factors[0] + 1, min(cell * factors[0] + 1, slices - 1)):
                for y in range((j - 1) * factors[1] + 1, min(j * factors[1] + 1, rows - 1)):
                    row, below, above = direction[z, y], direction[z - 1, y], direction[z + 1, y]
                    before, behind, counts = direction[z, y - 1], direction[z, y + 1], neighbours[z, y]
                    left = residual[z, y]
                    for x in range(1, columns - 1):
                        along_z, along_y, along_x = below[x] + above[x], before[x] + behind[x], row[x - 1] + row[x + 1]
                        flow = _flow(counts[x], weights, row[x], along_z, along_y, along_x)
                        # Nothing flows into a closed voxel.
                        value = left[x] - step * flow if counts[x] else np.float32(0)
                        conductance = _sum_of_conductances(counts[x], weights) if counts[x] else np.float32(1)
                        left[x] = value
                        joined[x] += value
                        totals[x] += np.float64(value * value / conductance)
            sum_row(joined, factors[2], source[cell, j])
        sums[cell] = totals.sum()


@njit(cache=True, parallel=True)
def _turn(
    direction: NDArray[np.float32],
    residual: NDArray[np.float32],
    neighbours: NDArray[np.uint8],
    weights: _Weights,
    share: np.float32,
    factors: Factors,
    correction: NDArray[np.float32],
) -> None:  # pragma: no cover - compiled
    """Preconditioned residual plus a share of the last direction."""
    slices, rows, columns = direction.shape
    for z in prange(1, slices - 1):
        expanded = np.empty(columns, np.float32)
        for y in range(1, rows - 1):
            coarse = correction[(z - 1) // factors[0] + 1, (y - 1) // factors[1] + 1]
            for x in range(1, columns - 1):
                expanded[x] = coarse[(x - 1) // factors[2] + 1]
            row, left, counts = direction[z, y], residual[z, y], neighbours[z, y]
            for x in range(1, columns - 1):
                conductance = _sum_of_conductances(counts[x], weights) if counts[x] else np.float32(1)
                value = np.float32(_DAMPING) * left[x] / conductance + expanded[x] + share * row[x]
                row[x] = value if counts[x] else np.float32(0)
