"""Connected components of a set of phases, counted block by block, and the Betti numbers that follow.

Only counts: volumes of labels are left to `objects`, the Euler number to `configurations`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from ..outofcore import blocks_within
from .configurations import PHASE_VALUES, Connectivity, Progress, report, require_phases

if TYPE_CHECKING:
    from ..volume import VolumeLike
    from .porosity import Bounds

# Held of a voxel of a block at most: itself, its copy, and where every other voxel is a component of its own half a run
# (13 bytes) and half a component (9 bytes).
_BYTES_PER_VOXEL = 13
_OUTSIDE = 6  # bit of a piece that touches a voxel outside the region; bits 0 to 5 are the faces
_NO_VOXELS = np.empty(0, np.int64)
_NO_FLAGS = np.empty(0, np.uint8)


@dataclass(frozen=True)
class PhaseComponents:
    """Connected components, in the order of their first voxels (along x, then y, then z).

    Attributes
    ----------
    voxels : (n,) int64
        Voxels of each component.
    faces : (n, 6) bool
        Whether it touches the faces of the box z-, z+, y-, y+, x-, x+.
    open : (n,) bool
        Whether it touches a face of the box, or holds or touches (over a voxel face) a voxel of phase 0: it may go on
        where nothing is known.
    region_voxels : int
        Voxels of the box whose phase is not 0.
    """

    voxels: NDArray[np.int64]
    faces: NDArray[np.bool_]
    open: NDArray[np.bool_]
    region_voxels: int

    def __len__(self) -> int:
        return len(self.voxels)


@dataclass(frozen=True)
class BettiNumbers:
    """How a set of voxels hangs together.

    Attributes
    ----------
    components : int
        Betti number 0: connected components.
    tunnels : int
        Betti number 1: independent loops (handles).
    cavities : int
        Betti number 2: parts of the background that the set encloses.
    """

    components: int
    tunnels: int
    cavities: int


def phase_components(
    phases: VolumeLike,
    members: Collection[int],
    connectivity: Connectivity,
    memory_bytes: int,
    box: Bounds | None = None,
    progress: Progress | None = None,
) -> PhaseComponents:
    """Find the connected components of the voxels whose phase is among `members`. Exact, the same for any memory.

    Parameters
    ----------
    phases : volume-like (z, y, x) uint8
        0 outside the sample region.
    members : collection of int
        Phase values that make up the set.
    connectivity : 6 or 26
        Neighbours through which voxels of the set connect.
    memory_bytes : int
        Memory that the pass over the volume may take. What is kept of each component comes on top: 26 bytes for each
        component and block that it lies in, the last slice before a block being part of it.
    box : Bounds, optional
        Look inside this box alone, as if nothing were known beyond it; the whole volume by default.
    progress : callable, optional
        Called with the part done.

    Raises
    ------
    InputError
        `phases` is not a 3-D uint8 volume.
    ParameterError
        The memory does not hold two slices.

    Source: union-find over runs of voxels, L. He, Y. Chao and K. Suzuki (2008), DOI 10.1109/TIP.2008.919369; here with a
    join of blocks over the runs of the slices that meet.
    """
    require_phases(phases)
    bounds = box or tuple((0, length) for length in phases.shape)
    (bottom, _), (front, back), (left, right) = bounds
    depth, rows, columns = (stop - start for start, stop in bounds)
    member = np.zeros(PHASE_VALUES, np.bool_)
    member[list(members)] = True
    voxels, flags, meetings = [_NO_VOXELS], [_NO_FLAGS], [np.empty((2, 0), np.int64)]
    pieces = region_voxels = 0
    below = np.empty((0, rows, columns), np.uint8)
    carried = _NO_VOXELS
    for start, stop in blocks_within((depth, rows, columns), _BYTES_PER_VOXEL, 1, memory_bytes):
        # The last slice of the block before comes first, with the pieces that its runs belong to.
        block = np.empty((len(below) + stop - start, rows, columns), np.uint8)
        block[: len(below)] = below
        block[len(below) :] = phases[bottom + start : bottom + stop][:, front:back, left:right]
        first, starts, stops, zeros = _find_runs(block, member)
        parents = np.arange(starts.size, dtype=np.int32)
        # Joined here, the runs of a piece above are one piece of this block, and not one each.
        _, lowest, same = np.unique(carried, return_index=True, return_inverse=True)
        parents[: carried.size] = lowest[same]
        count = _connect(first, starts, stops, parents, rows, connectivity == 26)
        found = _measure(block, first, starts, stops, parents, count, zeros, (start - len(below), depth), len(below))
        voxels.append(found[0])
        flags.append(found[1])
        region_voxels += int(zeros[len(below) * rows :, 2].sum())
        meetings.append(np.unique(np.stack([carried, pieces + parents[: carried.size].astype(np.int64)]), axis=1))
        carried = pieces + parents[first[-1 - rows] :].astype(np.int64)
        pieces += count
        below = block[-1:].copy()
        report(progress, stop / depth)
    return _join_blocks(voxels, flags, np.concatenate(meetings, axis=1), region_voxels)


def betti_numbers(
    phases: VolumeLike,
    members: Collection[int],
    connectivity: Connectivity,
    euler: int,
    memory_bytes: int,
    progress: Progress | None = None,
    *,
    components: int | None = None,
) -> BettiNumbers:
    """Betti numbers of the voxels whose phase is among `members`. Exact.

    All else counts as background, also beyond the volume, where it is connected. The background connects through the
    other kind of neighbours: pores are 6-connected, the solid around them 26-connected.

    Parameters
    ----------
    phases : volume-like (z, y, x) uint8
        Phase of each voxel.
    members : collection of int
        Phase values that make up the set.
    connectivity : 6 or 26
        Neighbours through which voxels of the set connect.
    euler : int
        Euler number of the set with this connectivity, from `configurations.euler_number`.
    memory_bytes : int
        As for `phase_components`.
    progress : callable, optional
        Called with the part done.
    components : int, optional
        How many components the set has, where that is known (`len(phase_components(...))` of the whole volume): saves a
        pass.

    Raises
    ------
    InputError
        `phases` is not a 3-D uint8 volume.
    ParameterError
        The memory does not hold two slices.

    Source: components - tunnels + cavities = Euler number (Euler and Poincare); H. Edelsbrunner and J. Harer,
    Computational Topology (AMS, 2010), chapter IV.
    """
    rest = progress
    if components is None:
        components = len(
            phase_components(phases, members, connectivity, memory_bytes, None, part_of_progress(progress, 0.0, 0.5))
        )
        rest = part_of_progress(progress, 0.5, 1.0)
    background = set(range(PHASE_VALUES)) - set(members)
    dual: Connectivity = 6 if connectivity == 26 else 26
    around = phase_components(phases, background, dual, memory_bytes, None, rest)
    cavities = int(np.count_nonzero(~around.faces.any(axis=1)))
    return BettiNumbers(components, components + cavities - euler, cavities)


def part_of_progress(progress: Progress | None, start: float, stop: float) -> Progress | None:
    """Listener for a part of the work that takes the progress from `start` to `stop`; None where nobody listens."""
    if progress is None:
        return None
    return lambda done: progress(start + (stop - start) * done)


def _join_blocks(
    voxels: list[NDArray[np.int64]], flags: list[NDArray[np.uint8]], meetings: NDArray[np.int64], region_voxels: int
) -> PhaseComponents:
    """Join the pieces of all blocks over the pairs (2, m) that are one; empties the lists."""
    sums, touches = np.concatenate(voxels), np.concatenate(flags)
    # Noise has as many pieces as voxels, nearly: none of this is held twice.
    voxels.clear()
    flags.clear()
    count = _join_pieces(np.arange(sums.size), meetings, sums, touches)
    sums, touches = sums[:count].copy(), touches[:count].copy()
    faces = touches[:, None] >> np.arange(_OUTSIDE, dtype=np.uint8)
    faces &= 1
    return PhaseComponents(sums, faces.view(np.bool_), touches > 0, region_voxels)


@njit(cache=True, parallel=True)
def _find_runs(
    block: NDArray[np.uint8], member: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:  # pragma: no cover - compiled
    """Runs of members along x: the first of each row (rows + 1,), starts and stops (runs,).

    And where a row lies in the region: its first voxel there, the one after the last, how many there are (rows, 3).
    """
    slices, rows, columns = block.shape
    first = np.zeros(slices * rows + 1, np.int64)
    inside = np.zeros((slices * rows, 3), np.int32)
    for z in prange(slices):
        for y in range(rows):
            count = 0
            known = 0
            before = False
            for x in range(columns):
                now = member[block[z, y, x]]
                count += now & (not before)
                known += block[z, y, x] != 0
                before = now
            low, high = 0, columns
            while low < columns and block[z, y, low] == 0:
                low += 1
            while high > low and block[z, y, high - 1] == 0:
                high -= 1
            first[z * rows + y + 1] = count
            inside[z * rows + y, 0] = low
            inside[z * rows + y, 1] = high
            inside[z * rows + y, 2] = known
    first = np.cumsum(first)
    starts = np.empty(first[-1], np.int32)
    stops = np.empty(first[-1], np.int32)
    for z in prange(slices):
        for y in range(rows):
            run = first[z * rows + y]
            before = False
            for x in range(columns):
                now = member[block[z, y, x]]
                if now != before:
                    if now:
                        starts[run] = x
                    else:
                        stops[run] = x
                        run += 1
                before = now
            if before:
                stops[run] = columns
    return first, starts, stops, inside


@njit(cache=True)
def _connect(
    first: NDArray[np.int64],
    starts: NDArray[np.int32],
    stops: NDArray[np.int32],
    parents: NDArray[np.int32],
    rows: int,
    diagonal: bool,
) -> int:  # pragma: no cover - compiled
    """Join runs that touch; `parents` become numbers of pieces from 0, in the order of their first runs. Their count."""
    reach = 1 if diagonal else 0
    for row in range(first.size - 1):
        below = row - rows
        y = row % rows
        if y > 0:
            _join_rows(first, starts, stops, parents, row - 1, row, reach)
        if below >= 0:
            _join_rows(first, starts, stops, parents, below, row, reach)
        if below >= 0 and diagonal:
            if y > 0:
                _join_rows(first, starts, stops, parents, below - 1, row, reach)
            if y < rows - 1:
                _join_rows(first, starts, stops, parents, below + 1, row, reach)
    return _number(parents)


@njit(cache=True)
def _join_rows(
    first: NDArray[np.int64],
    starts: NDArray[np.int32],
    stops: NDArray[np.int32],
    parents: NDArray[np.int32],
    one_row: int,
    other_row: int,
    reach: int,
) -> None:  # pragma: no cover - compiled
    """Join the runs of two rows that overlap, or come within `reach` voxels of it."""
    one, other = first[one_row], first[other_row]
    one_end, other_end = first[one_row + 1], first[other_row + 1]
    while one < one_end and other < other_end:
        if starts[one] < stops[other] + reach and starts[other] < stops[one] + reach:
            _join(parents, one, other)
        if stops[one] < stops[other]:
            one += 1
        else:
            other += 1


@njit(cache=True)
def _join(parents: NDArray[np.signedinteger], one: int, other: int) -> None:  # pragma: no cover - compiled
    """Join two trees; the lower root stays, so that the result does not depend on the order of joins."""
    while parents[one] != one:
        parents[one] = parents[parents[one]]
        one = parents[one]
    while parents[other] != other:
        parents[other] = parents[parents[other]]
        other = parents[other]
    if one < other:
        parents[other] = one
    else:
        parents[one] = other


@njit(cache=True)
def _number(parents: NDArray[np.signedinteger]) -> int:  # pragma: no cover - compiled
    """Replace each node by the number of its tree, from 0 in the order of roots; how many there are."""
    count = 0
    for node in range(parents.size):
        if parents[node] == node:
            parents[node] = count
            count += 1
        else:
            # A parent is lower than its child: it has its number already.
            parents[node] = parents[parents[node]]
    return count


@njit(cache=True)
def _join_pieces(
    parents: NDArray[np.int64], pairs: NDArray[np.int64], voxels: NDArray[np.int64], flags: NDArray[np.uint8]
) -> int:  # pragma: no cover - compiled
    """Join pieces over pairs; `voxels` and `flags` become those of the components. How many there are."""
    for index in range(pairs.shape[1]):
        _join(parents, pairs[0, index], pairs[1, index])
    count = _number(parents)
    found = 0
    for piece in range(parents.size):
        component = parents[piece]
        # Components are numbered as they appear, so that their places have been read when they are written.
        if component == found:
            voxels[component] = voxels[piece]
            flags[component] = flags[piece]
            found += 1
        else:
            voxels[component] += voxels[piece]
            flags[component] |= flags[piece]
    return count


@njit(cache=True, parallel=True)
def _measure(
    block: NDArray[np.uint8],
    first: NDArray[np.int64],
    starts: NDArray[np.int32],
    stops: NDArray[np.int32],
    pieces: NDArray[np.int32],
    count: int,
    inside: NDArray[np.int32],
    place: tuple[int, int],
    known_slices: int,
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:  # pragma: no cover - compiled
    """Voxels of each piece, but for those of the slices known already, and what it touches.

    `place` is the position of the block's first slice in the box, and the box's depth.
    """
    slices, rows, columns = block.shape
    touched = np.zeros(starts.size, np.uint8)
    for z in prange(slices):
        for y in range(rows):
            sides = 0
            if z + place[0] == 0:
                sides |= 1
            if z + place[0] == place[1] - 1:
                sides |= 2
            if y == 0:
                sides |= 4
            if y == rows - 1:
                sides |= 8
            for run in range(first[z * rows + y], first[z * rows + y + 1]):
                start, stop = starts[run], stops[run]
                flags = sides
                if start == 0:
                    flags |= 16
                if stop == columns:
                    flags |= 32
                if (
                    _meets_outside(block, inside, z, y, max(start - 1, 0), min(stop + 1, columns))
                    or (y > 0 and _meets_outside(block, inside, z, y - 1, start, stop))
                    or (y < rows - 1 and _meets_outside(block, inside, z, y + 1, start, stop))
                    or (z > 0 and _meets_outside(block, inside, z - 1, y, start, stop))
                    or (z < slices - 1 and _meets_outside(block, inside, z + 1, y, start, stop))
                ):
                    flags |= 1 << _OUTSIDE
                touched[run] = flags
    voxels = np.zeros(count, np.int64)
    flags_found = np.zeros(count, np.uint8)
    known = first[known_slices * rows]
    for run in range(starts.size):
        if run >= known:
            voxels[pieces[run]] += stops[run] - starts[run]
        flags_found[pieces[run]] |= touched[run]
    return voxels, flags_found


@njit(cache=True)
def _meets_outside(
    block: NDArray[np.uint8], inside: NDArray[np.int32], z: int, y: int, start: int, stop: int
) -> bool:  # pragma: no cover - compiled
    """Whether a voxel `start` to `stop` of a row lies outside the region."""
    row = z * block.shape[1] + y
    low, high = inside[row, 0], inside[row, 1]
    if start < low or stop > high:
        return True
    # Between its first and its last voxel of the region a row seldom leaves it.
    if inside[row, 2] == high - low:
        return False
    while start < stop and block[z, y, start] != 0:
        start += 1
    return start < stop
