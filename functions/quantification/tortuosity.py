"""Geodesic tortuosity: how much longer the shortest way through a phase is than the straight line.

The flux-based tortuosity factor is another number (for the same pores it may be thrice as large) and is not made here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from .configurations import Progress, VolumeLike, report, require_phases, slab_thickness
from .porosity import Bounds

AXES = ("z", "y", "x")
DEFAULT_MAXIMUM_VOXELS = 4_000_000

# Share of each side face of the measured box that lies in the region.
_FACE_SHARE = 0.99
_UNREACHED = np.float32(1e30)
# A shorter way counts where it is shorter by more than this, in voxels; float32 resolves it up to 1000 voxels.
_TOLERANCE_VOXELS = 1e-4


@dataclass(frozen=True)
class AxisTortuosity:
    """Shortest ways from one face of the box to the opposite one.

    Attributes
    ----------
    mean, minimum : float or None
        Length over straight distance, mean and smallest over the voxels of the far face that are reached; None where
        none is, that is where the phase does not percolate.
    """

    mean: float | None
    minimum: float | None

    @property
    def percolates(self) -> bool:
        """Whether the phase connects the two faces."""
        return self.mean is not None


@dataclass(frozen=True)
class Tortuosity:
    """Tortuosity along each axis.

    Attributes
    ----------
    axes : dict of str to AxisTortuosity
        By axis: z, y, x. An axis along which the box is a single voxel thick is absent.
    binning : int
        Edge, in voxels of the volume, of the cubes that the phase was binned to.
    box : Bounds
        The box that was measured, in voxels of the volume.
    """

    axes: dict[str, AxisTortuosity]
    binning: int
    box: Bounds


def geodesic_tortuosity(
    phases: VolumeLike,
    phase: int,
    bounds: Bounds,
    memory_bytes: int,
    maximum_voxels: int = DEFAULT_MAXIMUM_VOXELS,
    progress: Progress | None = None,
) -> Tortuosity:
    """Geodesic tortuosity of a phase along z, y and x.

    The bounding box is binned by the smallest whole factor that brings it to `maximum_voxels` or fewer: a cube belongs to
    the phase (and to the region) where more than half of its voxels do. Throats thinner than a cube may close. From all
    four sides the box is then narrowed, at most to half its width, until its side faces lie in the sample region: of a
    cylinder remains the square prism inside. Ways are measured between opposite faces of that box.

    Parameters
    ----------
    phases : volume-like (z, y, x) uint8
        0 outside the sample region.
    phase : int
        The phase that the ways lead through.
    bounds : Bounds
        Bounding box of the region, from `count_phases`.
    memory_bytes : int
        Memory that reading may take; the result does not depend on it. The search itself takes 42 bytes a binned voxel.
    maximum_voxels : int
        Voxels after binning.
    progress : callable, optional
        Called with the part done.

    Raises
    ------
    InputError
        `phases` is not a 3-D uint8 volume.
    """
    require_phases(phases)
    factor = _binning_factor(bounds, maximum_voxels)
    halves: Progress | None = None if progress is None else (lambda done: progress(0.5 * done))
    inside, open_voxels = _bin_by_majority(phases, phase, bounds, factor, memory_bytes, halves)
    margin = _margin(inside)
    rows, columns = inside.shape[1:]
    box = open_voxels[:, margin[0] : rows - margin[0], margin[1] : columns - margin[1]]
    usable = [axis for axis in range(3) if box.shape[axis] > 1]
    with ThreadPoolExecutor(max(1, len(usable))) as pool:
        found = dict(zip(usable, pool.map(lambda axis: _axis_tortuosity(box, axis), usable), strict=True))
    report(progress, 1.0)
    offsets = (0, *margin)
    extent = tuple(
        (low + offset * factor, min(low + (offset + size) * factor, high))
        for (low, high), offset, size in zip(bounds, offsets, box.shape, strict=True)
    )
    return Tortuosity({AXES[axis]: found[axis] for axis in usable}, factor, (extent[0], extent[1], extent[2]))


def geodesic_distance(open_voxels: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Length of the shortest way through open voxels from the first slice, in voxels; inf where there is none.

    Solves |grad d| = 1 with d = 0 on the open voxels of slice 0 by fast sweeping with first-order upwind differences
    (H. Zhao, DOI 10.1090/S0025-5718-04-01678-3); a sweep passes over voxels none of whose neighbours have changed.

    Parameters
    ----------
    open_voxels : (z, y, x) bool
        Where the way may lead.

    Returns
    -------
    (z, y, x) float32
    """
    padded = tuple(n + 2 for n in open_voxels.shape)
    distance = np.full(padded, _UNREACHED, np.float32)
    # 0 closed, 1 open, 2 open and to be looked at. The border is closed.
    state = np.zeros(padded, np.uint8)
    state[1:-1, 1:-1, 1:-1] = open_voxels
    source = open_voxels[0]
    distance[1, 1:-1, 1:-1][source] = 0
    state[1, 1:-1, 1:-1][source] = 0
    if open_voxels.shape[0] > 1:
        state[2, 1:-1, 1:-1][source & open_voxels[1]] = 2
    # Closed voxels of slice 0 are walls, and the open ones have their value: neither is looked at again.
    for sweep in count():
        directions = [1 if sweep >> bit & 1 == 0 else -1 for bit in range(3)]
        if not _sweep(distance, state, directions[0], directions[1], directions[2]):
            break
    result = distance[1:-1, 1:-1, 1:-1].copy()
    result[result >= _UNREACHED] = np.inf
    return result


def _axis_tortuosity(box: NDArray[np.bool_], axis: int) -> AxisTortuosity:
    distance = geodesic_distance(np.ascontiguousarray(np.moveaxis(box, axis, 0)))
    last = distance[-1].astype(np.float64)
    reached = last[np.isfinite(last)] / (distance.shape[0] - 1)
    if reached.size == 0:
        return AxisTortuosity(None, None)
    return AxisTortuosity(float(reached.mean()), float(reached.min()))


def _binning_factor(bounds: Bounds, maximum_voxels: int) -> int:
    sizes = [stop - start for start, stop in bounds]
    return next(f for f in count(1) if math.prod(max(1, size // f) for size in sizes) <= maximum_voxels)


def _bin_by_majority(
    phases: VolumeLike, phase: int, bounds: Bounds, factor: int, memory_bytes: int, progress: Progress | None
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Binned region and phase inside the bounds; a rest thinner than a cube at the far ends is left out."""
    (z0, z1), (y0, y1), (x0, x1) = bounds
    # A box thinner than a cube is one bin thick.
    cube = (min(factor, z1 - z0), min(factor, y1 - y0), min(factor, x1 - x0))
    shape = ((z1 - z0) // cube[0], (y1 - y0) // cube[1], (x1 - x0) // cube[2])
    inside, members = np.zeros(shape, bool), np.zeros(shape, bool)
    slice_bytes = phases.shape[1] * phases.shape[2]
    fixed_bytes = inside.nbytes + members.nbytes
    thickness = slab_thickness(cube[0] * 2 * slice_bytes, memory_bytes, fixed_bytes=fixed_bytes)
    for first, last in _ranges(shape[0], thickness):
        block = phases[z0 + first * cube[0] : z0 + last * cube[0]]
        cropped = np.ascontiguousarray(block[:, y0 : y0 + shape[1] * cube[1], x0 : x0 + shape[2] * cube[2]])
        inside[first:last], members[first:last] = _majorities(cropped, phase, cube)
        report(progress, last / shape[0])
    return inside, members


def _ranges(stop: int, step: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + step, stop)) for start in range(0, stop, step))


def _margin(inside: NDArray[np.bool_]) -> tuple[int, int]:
    """Rows and columns to take off at each side so that the side faces of what remains lie in the region."""
    _, rows, columns = inside.shape
    # Narrowed in proportion, so that the box keeps the shape of the bounding box.
    steps = max(rows, columns) // 4
    for step in range(steps + 1):
        my, mx = step * rows // (4 * max(1, steps)), step * columns // (4 * max(1, steps))
        box = inside[:, my : rows - my, mx : columns - mx]
        faces = (box[:, 0], box[:, -1], box[:, :, 0], box[:, :, -1])
        if min(np.count_nonzero(face) / face.size for face in faces) >= _FACE_SHARE:
            break
    return my, mx


@njit(cache=True, parallel=True)
def _majorities(
    block: NDArray[np.uint8], phase: int, cube: tuple[int, int, int]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:  # pragma: no cover - compiled
    slices, rows, columns = block.shape[0] // cube[0], block.shape[1] // cube[1], block.shape[2] // cube[2]
    inside = np.zeros((slices, rows, columns), np.bool_)
    members = np.zeros((slices, rows, columns), np.bool_)
    half = cube[0] * cube[1] * cube[2] / 2
    for index in prange(slices * rows):
        z, y = index // rows, index % rows
        for x in range(columns):
            in_region, in_phase = 0, 0
            for dz in range(cube[0]):
                for dy in range(cube[1]):
                    for dx in range(cube[2]):
                        value = block[z * cube[0] + dz, y * cube[1] + dy, x * cube[2] + dx]
                        in_region += value != 0
                        in_phase += value == phase
            inside[z, y, x] = in_region > half
            members[z, y, x] = in_phase > half
    return inside, members


@njit(cache=True, nogil=True)
def _sweep(
    distance: NDArray[np.float32], state: NDArray[np.uint8], step_z: int, step_y: int, step_x: int
) -> int:  # pragma: no cover - compiled
    """One Gauss-Seidel sweep in the given directions; returns how many voxels were looked at."""
    slices, rows, columns = distance.shape
    looked_at = 0
    for i in range(1, slices - 1):
        z = i if step_z > 0 else slices - 1 - i
        for j in range(1, rows - 1):
            y = j if step_y > 0 else rows - 1 - j
            for k in range(1, columns - 1):
                x = k if step_x > 0 else columns - 1 - k
                if state[z, y, x] != 2:
                    continue
                state[z, y, x] = 1
                looked_at += 1
                a = min(distance[z - 1, y, x], distance[z + 1, y, x])
                b = min(distance[z, y - 1, x], distance[z, y + 1, x])
                c = min(distance[z, y, x - 1], distance[z, y, x + 1])
                way = _upwind(min(a, b, c), max(min(a, b), min(max(a, b), c)), max(a, b, c))
                if way >= distance[z, y, x] - _TOLERANCE_VOXELS:
                    continue
                distance[z, y, x] = way
                _look_at(distance, state, way, z - 1, y, x)
                _look_at(distance, state, way, z + 1, y, x)
                _look_at(distance, state, way, z, y - 1, x)
                _look_at(distance, state, way, z, y + 1, x)
                _look_at(distance, state, way, z, y, x - 1)
                _look_at(distance, state, way, z, y, x + 1)
    return looked_at


@njit(cache=True, nogil=True)
def _upwind(first: float, second: float, third: float) -> float:  # pragma: no cover - compiled
    """Arrival from the smallest values of the three axes, in ascending order."""
    first, second, third = float(first), float(second), float(third)
    way = first + 1
    if way > second:
        way = 0.5 * (first + second + np.sqrt(2 - (first - second) ** 2))
        if way > third:
            total = first + second + third
            squares = first * first + second * second + third * third
            way = (total + np.sqrt(max(0.0, total * total - 3 * (squares - 1)))) / 3
    return way


@njit(cache=True, nogil=True)
def _look_at(
    distance: NDArray[np.float32], state: NDArray[np.uint8], way: float, z: int, y: int, x: int
) -> None:  # pragma: no cover - compiled
    if state[z, y, x] == 1 and distance[z, y, x] > way:
        state[z, y, x] = 2
