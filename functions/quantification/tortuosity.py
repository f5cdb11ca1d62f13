"""Geodesic tortuosity: how much longer the shortest way through a phase is than the straight line.

The flux-based tortuosity factor is another number (for the same pores it may be thrice as large) and is not made here.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from ..outofcore import blocks_within
from .configurations import Progress, report, require_phases
from .porosity import Bounds

if TYPE_CHECKING:
    from ..volume import VolumeLike

AXES = ("z", "y", "x")
DEFAULT_MAXIMUM_VOXELS = 4_000_000

# Share of each side face of the measured box that lies in the region.
_FACE_SHARE = 0.99
_NEVER = 2**62
_TOLERANCE_VOXELS = 1e-3
# State of a voxel in the search.
_CLOSED, _OPEN, _TO_VISIT, _SOURCE = 0, 1, 2, 3
# The search along an axis holds distance, corner and state of each voxel and a copy of the box.
_SEARCH_BYTES_PER_VOXEL = 11


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

    The bounding box is binned by the smallest whole factor that brings it to `maximum_voxels` or fewer: a cube belongs
    to the phase (and to the region) where more than half of its voxels do. Throats thinner than a cube may close. From
    all four sides the box is then narrowed, at most to half its width, until its side faces lie in the sample region:
    of a cylinder remains the square prism inside. Ways are measured between opposite faces of that box.

    Parameters
    ----------
    phases : volume-like (z, y, x) uint8
        0 outside the sample region.
    phase : int
        The phase that the ways lead through.
    bounds : Bounds
        Bounding box of the region, from `count_phases`.
    memory_bytes : int
        Memory that the pass over the volume may take, and by which the axes are searched at once or one by one; the
        result does not depend on it. The binned volume and one search on it (13 bytes a voxel) are always held.
    maximum_voxels : int
        Voxels after binning.
    progress : callable, optional
        Called with the part done.

    Raises
    ------
    InputError
        `phases` is not a 3-D uint8 volume.
    ParameterError
        The memory does not hold as many slices as are binned to one.
    """
    require_phases(phases)
    factor = _binning_factor(bounds, maximum_voxels)
    halves: Progress | None = None if progress is None else (lambda done: progress(0.5 * done))
    inside, open_voxels = _bin_by_majority(phases, phase, bounds, factor, memory_bytes, halves)
    margin = _margin(inside)
    rows, columns = inside.shape[1:]
    box = open_voxels[:, margin[0] : rows - margin[0], margin[1] : columns - margin[1]]
    usable = [axis for axis in range(3) if box.shape[axis] > 1]
    # Half of the budget, for the allocator may still hold what the passes before have freed.
    at_once = min(len(usable), memory_bytes // (2 * _SEARCH_BYTES_PER_VOXEL * box.size))
    with ThreadPoolExecutor(max(1, at_once)) as pool:
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

    A way consists of straight lines at any angle from one voxel's centre to another's that the former can see. It never
    passes between two closed voxels that share but an edge or corner, so what it connects is what is 6-connected. Every
    voxel remembers the last corner of its way, and offers it and itself to its neighbours as theirs; that is swept
    through the volume in eight directions until nothing changes.

    First-order solutions of the eikonal equation, which are common for this, overestimate detours several times more:
    each corner that a way bends around adds to their error.

    Parameters
    ----------
    open_voxels : (z, y, x) bool
        Where the way may lead.

    Returns
    -------
    (z, y, x) float32

    Source: any-angle search, Daniel, Nash, Koenig and Felner (2010), DOI 10.1613/jair.2994; order of the sweeps, Zhao
    (2005), DOI 10.1090/S0025-5718-04-01678-3.
    """
    padded = tuple(n + 2 for n in open_voxels.shape)
    inner = (slice(1, -1), slice(1, -1), slice(1, -1))
    distance = np.full(padded, np.inf, np.float32)
    state = np.full(padded, _CLOSED, np.uint8)
    state[inner] = open_voxels
    corner = np.zeros(padded, np.int32)
    _start(distance, corner, state)
    for sweep in count():
        backwards = [bool(sweep >> bit & 1) for bit in range(3)]
        if not _sweep(distance, corner, state, backwards[0], backwards[1], backwards[2]):
            break
    return distance[inner]


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
    # A block and its cropped copy, in units of one cube's slices.
    for first, last in blocks_within((shape[0], *phases.shape[1:]), 2 * cube[0], 0, memory_bytes):
        block = phases[z0 + first * cube[0] : z0 + last * cube[0]]
        block = np.ascontiguousarray(block[:, y0 : y0 + shape[1] * cube[1], x0 : x0 + shape[2] * cube[2]])
        inside[first:last], members[first:last] = _majorities(block, phase, cube)
        del block  # not held while the next is read
        report(progress, last / shape[0])
    return inside, members


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
def _start(
    distance: NDArray[np.float32], corner: NDArray[np.int32], state: NDArray[np.uint8]
) -> None:  # pragma: no cover - compiled
    """Make the open voxels of the first slice sources, and have what is next to them visited."""
    _, rows, columns = distance.shape
    for y in range(1, rows - 1):
        for x in range(1, columns - 1):
            if state[1, y, x] == _OPEN:
                state[1, y, x] = _SOURCE
                distance[1, y, x] = 0
                corner[1, y, x] = (rows + y) * columns + x
    for y in range(1, rows - 1):
        for x in range(1, columns - 1):
            if state[1, y, x] == _SOURCE:
                _visit_neighbours(distance, state, 1, y, x)


@njit(cache=True, nogil=True)
def _sweep(
    distance: NDArray[np.float32],
    corner: NDArray[np.int32],
    state: NDArray[np.uint8],
    back_z: bool,
    back_y: bool,
    back_x: bool,
) -> int:  # pragma: no cover - compiled
    """One sweep over the voxels that are to be visited; returns how many were."""
    slices, rows, columns = distance.shape
    visited = 0
    for i in range(1, slices - 1):
        z = slices - 1 - i if back_z else i
        for j in range(1, rows - 1):
            y = rows - 1 - j if back_y else j
            for k in range(1, columns - 1):
                x = columns - 1 - k if back_x else k
                if state[z, y, x] == _TO_VISIT:
                    state[z, y, x] = _OPEN
                    visited += 1
                    if _shorten(distance, corner, state, z, y, x):
                        _visit_neighbours(distance, state, z, y, x)
    return visited


@njit(cache=True, nogil=True)
def _shorten(
    distance: NDArray[np.float32], corner: NDArray[np.int32], state: NDArray[np.uint8], z: int, y: int, x: int
) -> bool:  # pragma: no cover - compiled
    """Take the shortest way over a neighbour or over a neighbour's last corner, if it is shorter than the one known."""
    _, rows, columns = distance.shape
    shortest = distance[z, y, x] - _TOLERANCE_VOXELS
    found, tried = -1, -1
    for dz in range(-1, 2):
        for dy in range(-1, 2):
            for dx in range(-1, 2):
                if distance[z + dz, y + dy, x + dx] >= shortest:
                    continue
                last = corner[z + dz, y + dy, x + dx]
                # Neighbours mostly share their last corner.
                if last != tried:
                    tried = last
                    cz, cy, cx = last // (rows * columns), last // columns % rows, last % columns
                    way = distance[cz, cy, cx] + math.sqrt((cz - z) ** 2 + (cy - y) ** 2 + (cx - x) ** 2)
                    if way < shortest and _sees(state, cz, cy, cx, z, y, x):
                        shortest, found = way, last
                way = distance[z + dz, y + dy, x + dx] + math.sqrt(dz * dz + dy * dy + dx * dx)
                if way < shortest and _sees(state, z + dz, y + dy, x + dx, z, y, x):
                    shortest, found = way, ((z + dz) * rows + y + dy) * columns + x + dx
    if found < 0:
        return False
    distance[z, y, x] = shortest
    corner[z, y, x] = found
    return True


@njit(cache=True, nogil=True)
def _visit_neighbours(
    distance: NDArray[np.float32], state: NDArray[np.uint8], z: int, y: int, x: int
) -> None:  # pragma: no cover - compiled
    """Have the open neighbours visited that are farther away and so may gain."""
    for zz in range(z - 1, z + 2):
        for yy in range(y - 1, y + 2):
            for xx in range(x - 1, x + 2):
                if state[zz, yy, xx] == _OPEN and distance[zz, yy, xx] > distance[z, y, x]:
                    state[zz, yy, xx] = _TO_VISIT


@njit(cache=True, nogil=True)
def _sees(
    state: NDArray[np.uint8], z: int, y: int, x: int, to_z: int, to_y: int, to_x: int
) -> bool:  # pragma: no cover - compiled
    """Whether the straight line between two voxels' centres crosses open voxels only.

    The line is followed from voxel face to voxel face, in whole numbers. Where it meets an edge or corner, it may pass
    if there is an open voxel beside it to go through.
    """
    step_z, step_y, step_x = np.sign(to_z - z), np.sign(to_y - y), np.sign(to_x - x)
    left_z, left_y, left_x = abs(to_z - z), abs(to_y - y), abs(to_x - x)
    # Face i of n along an axis is met at (2 i + 1) / (2 n) of the line; times 2 n_z n_y n_x this is whole.
    n_z, n_y, n_x = max(left_z, 1), max(left_y, 1), max(left_x, 1)
    next_z = n_y * n_x if left_z else _NEVER
    next_y = n_z * n_x if left_y else _NEVER
    next_x = n_z * n_y if left_x else _NEVER
    while left_z + left_y + left_x:
        nearest = min(next_z, next_y, next_x)
        if next_z == nearest and state[z + step_z, y, x] != _CLOSED:
            z += step_z
            left_z -= 1
            next_z = next_z + 2 * n_y * n_x if left_z else _NEVER
        elif next_y == nearest and state[z, y + step_y, x] != _CLOSED:
            y += step_y
            left_y -= 1
            next_y = next_y + 2 * n_z * n_x if left_y else _NEVER
        elif next_x == nearest and state[z, y, x + step_x] != _CLOSED:
            x += step_x
            left_x -= 1
            next_x = next_x + 2 * n_z * n_y if left_x else _NEVER
        else:
            return False
    return True
