"""Geodesic tortuosity: how much longer the shortest way through a phase is than the straight line.

The flux-based tortuosity factor is another number (for the same pores it may be thrice as large) and is made in `diffusion`.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .box import AXES, BinnedPhase
from .configurations import Progress, report

_NEVER = 2**62
_TOLERANCE_VOXELS = 1e-3
# State of a voxel in the search.
_CLOSED, _OPEN, _TO_VISIT, _SOURCE = 0, 1, 2, 3
BYTES_PER_VOXEL = 14
"""What `geodesic_tortuosity` holds at least of each voxel, the phase among it; with more memory it searches axes at once."""

# A search holds distance, corner and state of each voxel and a copy of the box.
_SEARCH_BYTES_PER_VOXEL = 11
_MIRRORS = tuple((slice(None), slice(None, None, y), slice(None, None, x)) for y in (1, -1) for x in (1, -1))


@dataclass(frozen=True)
class AxisTortuosity:
    """Shortest ways between two opposite faces of the box, in both directions.

    Attributes
    ----------
    lengths : (2, rows, columns) float64
        Length over straight distance of the shortest way to each voxel of the last face from anywhere on the first, and
        to each of the first from anywhere on the last; inf where there is none. Rows and columns are (y, x) for z,
        (z, x) for y, (z, y) for x.
    mean : float or None
        Mean of both directions, each over the voxels of its far face that are reached; None where none is, that is where
        the phase does not percolate.
    minimum : float or None
        Smallest of all these lengths.
    """

    lengths: NDArray[np.float64] = field(repr=False, compare=False)
    mean: float | None
    minimum: float | None

    @property
    def percolates(self) -> bool:
        """Whether the phase connects the two faces."""
        return self.mean is not None


def geodesic_tortuosity(
    binned: BinnedPhase,
    voxel_size: tuple[float, float, float],
    memory_bytes: int,
    progress: Progress | None = None,
) -> dict[str, AxisTortuosity]:
    """Geodesic tortuosity of a binned phase along z, y and x.

    Ways lead between the centres of the first cubes and the centres of the last ones, along any line through open cubes
    (see `geodesic_distance`). They are searched in both directions, for a face of many pores is reached otherwise than
    it is left; so a box and its mirror images have the same tortuosity.

    Parameters
    ----------
    binned : BinnedPhase
    voxel_size : (z, y, x) float
        Edges of a voxel of the volume, not of a cube of the binned phase; only their ratios matter.
    memory_bytes : int
        Memory by which axes and directions are searched at once or one by one; the result does not depend on it. One
        search (11 bytes a cube) is always held.
    progress : callable, optional
        Called with the part done.

    Returns
    -------
    dict of str to AxisTortuosity
        By axis: z, y, x. An axis along which the box is a single cube thick is absent.
    """
    box, edges = binned.open_voxels, binned.edges(voxel_size)
    usable = [axis for axis in range(3) if box.shape[axis] > 1]
    searches = [(axis, backwards) for axis in usable for backwards in (False, True)]
    # Half of the budget, for the allocator may still hold what the passes before have freed.
    at_once = min(len(searches), memory_bytes // (2 * _SEARCH_BYTES_PER_VOXEL * box.size))
    found = {}
    with ThreadPoolExecutor(max(1, at_once)) as pool:
        lengths = pool.map(lambda search: _lengths_of_ways(box, edges, *search), searches)
        for axis in usable:
            found[AXES[axis]] = _axis_tortuosity(np.stack([next(lengths), next(lengths)]))
            report(progress, len(found) / len(usable))
    return found


def geodesic_distance(
    open_voxels: NDArray[np.bool_], voxel_size: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> NDArray[np.float32]:
    """Length of the shortest way through open voxels from the first slice; inf where there is none.

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
    voxel_size : (z, y, x) float
        Edges of a voxel.

    Returns
    -------
    (z, y, x) float32
        From centre to centre, in the unit of `voxel_size`.

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
    # Whole numbers and floats alike, so that the kernels are compiled once.
    edges = (float(voxel_size[0]), float(voxel_size[1]), float(voxel_size[2]))
    for sweep in count():
        backwards = (bool(sweep & 1), bool(sweep & 2), bool(sweep & 4))
        if not _sweep(distance, corner, state, edges, backwards):
            break
    return distance[inner]


def _lengths_of_ways(
    box: NDArray[np.bool_], edges: tuple[float, float, float], axis: int, backwards: bool
) -> NDArray[np.float64]:
    """Shortest ways along an axis to each voxel of the far face, over the straight distance."""
    space = np.moveaxis(box, axis, 0)[:: -1 if backwards else 1]
    # The order of the sweeps shows in the last digits: of all mirror images the same one is searched.
    mirror = min(_MIRRORS, key=lambda mirror: np.packbits(space[mirror]).tobytes())
    # In edges along the axis, so that a straight way is a whole number; rounded, so that the unit does not matter.
    across = [float(np.float32(edges[other] / edges[axis])) for other in range(3) if other != axis]
    distance = geodesic_distance(np.ascontiguousarray(space[mirror]), (1.0, across[0], across[1]))
    lengths = np.maximum(distance[-1].astype(np.float64) / (len(distance) - 1), 1.0)
    return np.asarray(lengths[mirror[1:]])


def _axis_tortuosity(lengths: NDArray[np.float64]) -> AxisTortuosity:
    reached = [way[np.isfinite(way)] for way in lengths]
    if reached[0].size == 0:
        return AxisTortuosity(lengths, None, None)
    mean = 0.5 * (float(reached[0].mean()) + float(reached[1].mean()))
    return AxisTortuosity(lengths, mean, float(lengths.min()))


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
    edges: tuple[float, float, float],
    backwards: tuple[bool, bool, bool],
) -> int:  # pragma: no cover - compiled
    """One sweep over the voxels that are to be visited; returns how many were."""
    slices, rows, columns = distance.shape
    visited = 0
    for i in range(1, slices - 1):
        z = slices - 1 - i if backwards[0] else i
        for j in range(1, rows - 1):
            y = rows - 1 - j if backwards[1] else j
            for k in range(1, columns - 1):
                x = columns - 1 - k if backwards[2] else k
                if state[z, y, x] == _TO_VISIT:
                    state[z, y, x] = _OPEN
                    visited += 1
                    if _shorten(distance, corner, state, edges, z, y, x):
                        _visit_neighbours(distance, state, z, y, x)
    return visited


@njit(cache=True, nogil=True)
def _shorten(
    distance: NDArray[np.float32],
    corner: NDArray[np.int32],
    state: NDArray[np.uint8],
    edges: tuple[float, float, float],
    z: int,
    y: int,
    x: int,
) -> bool:  # pragma: no cover - compiled
    """Take the shortest way over a neighbour or over a neighbour's last corner, if it is shorter than the one known."""
    _, rows, columns = distance.shape
    shortest = distance[z, y, x] - _TOLERANCE_VOXELS * min(edges)
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
                    way = distance[cz, cy, cx] + _length(edges, cz - z, cy - y, cx - x)
                    if way < shortest and _sees(state, cz, cy, cx, z, y, x):
                        shortest, found = way, last
                way = distance[z + dz, y + dy, x + dx] + _length(edges, dz, dy, dx)
                if way < shortest and _sees(state, z + dz, y + dy, x + dx, z, y, x):
                    shortest, found = way, ((z + dz) * rows + y + dy) * columns + x + dx
    if found < 0:
        return False
    distance[z, y, x] = shortest
    corner[z, y, x] = found
    return True


@njit(cache=True, nogil=True)
def _length(edges: tuple[float, float, float], z: int, y: int, x: int) -> float:  # pragma: no cover - compiled
    return math.sqrt((z * edges[0]) ** 2 + (y * edges[1]) ** 2 + (x * edges[2]) ** 2)


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
