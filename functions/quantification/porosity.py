"""Volume fractions of the phases inside the sample region, the region's extent, and how much of the pores can be reached.

Sizes of single pores are left to `pore_sizes`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from ..outofcore import blocks_within
from .configurations import PHASE_VALUES, Progress, report, require_phases
from .connectivity import PhaseComponents, part_of_progress, phase_components

if TYPE_CHECKING:
    from ..volume import VolumeLike

Bounds = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""First voxel and the one after the last along z, y and x."""

PORE_PHASE = 1
"""Least dense of the phases."""


@dataclass(frozen=True)
class PhaseCounts:
    """Voxels of each phase.

    Attributes
    ----------
    voxels : tuple of int
        Voxels by phase value; the first is what lies outside the sample region, the last the highest phase present.
    bounds : Bounds or None
        Bounding box of the region; None where the region is empty.
    """

    voxels: tuple[int, ...]
    bounds: Bounds | None

    @property
    def region_voxels(self) -> int:
        """Voxels inside the sample region."""
        return sum(self.voxels[1:])

    def fraction_percent(self, phase: int) -> float:
        """Share of the region that a phase takes, in percent of the region's voxels.

        Raises
        ------
        ValueError
            The region is empty.
        """
        if not self.region_voxels:
            raise ValueError("no voxel lies inside the sample region")
        return 100.0 * self.count(phase) / self.region_voxels

    def count(self, phase: int) -> int:
        """Voxels of a phase; 0 where it does not occur."""
        return self.voxels[phase] if phase < len(self.voxels) else 0


def count_phases(phases: VolumeLike, memory_bytes: int, progress: Progress | None = None) -> PhaseCounts:
    """Count the voxels of each phase and find the region's bounding box, in one pass.

    Parameters
    ----------
    phases : volume-like (z, y, x) uint8
        0 outside the sample region, 1 pores, 2 and up ascending in attenuation.
    memory_bytes : int
        Memory that the pass may take; the result does not depend on it.
    progress : callable, optional
        Called with the part done.

    Raises
    ------
    InputError
        `phases` is not a 3-D uint8 volume.
    ParameterError
        The memory does not hold one slice.
    """
    require_phases(phases)
    total = np.zeros(PHASE_VALUES, np.int64)
    extents = []
    for start, stop in blocks_within(phases.shape, 1, 0, memory_bytes):
        counts, extent = _count_slices(np.ascontiguousarray(phases[start:stop]))
        total += counts.sum(axis=0)
        extents.append(extent)
        report(progress, stop / phases.shape[0])
    highest = int(np.flatnonzero(total)[-1])
    return PhaseCounts(tuple(int(n) for n in total[: highest + 1]), _bounds(np.concatenate(extents)))


@dataclass(frozen=True)
class PoreAccess:
    """How much of the pores can be reached.

    Attributes
    ----------
    open_voxels : int
        Voxels of pores that touch what is outside the region or a face of the volume.
    closed_voxels : int
        Voxels of all other pores: the region encloses them.
    percolating_voxels : dict of str to int
        By axis (z, y, x): voxels of the box in pores that, inside the box, touch both its faces across that axis.
    box_region_voxels : int
        Voxels of the box that lie in the region: what the percolating ones are a share of.
    """

    open_voxels: int
    closed_voxels: int
    percolating_voxels: dict[str, int]
    box_region_voxels: int


def pore_access(
    phases: VolumeLike,
    box: Bounds,
    memory_bytes: int,
    progress: Progress | None = None,
    *,
    components: PhaseComponents | None = None,
) -> PoreAccess:
    """Tell open, closed and percolating pores apart: 6-connected components of phase 1. Exact.

    Parameters
    ----------
    phases : volume-like (z, y, x) uint8
        0 outside the sample region, 1 pores.
    box : Bounds
        Box inside which ways from face to face are looked for, as `find_box` gives it.
    memory_bytes : int
        As for `connectivity.phase_components`.
    progress : callable, optional
        Called with the part done.
    components : PhaseComponents, optional
        Those of phase 1 in the whole volume, 6-connected, where they are known: saves a pass.

    Raises
    ------
    InputError
        `phases` is not a 3-D uint8 volume.
    ParameterError
        The memory does not hold three slices.
    """
    if components is None:
        share = 0.5
        components = phase_components(
            phases, {PORE_PHASE}, 6, memory_bytes, None, part_of_progress(progress, 0.0, share)
        )
    else:
        share = 0.0
    whole = box == tuple((0, length) for length in phases.shape)
    inside = (
        components
        if whole
        else phase_components(phases, {PORE_PHASE}, 6, memory_bytes, box, part_of_progress(progress, share, 1.0))
    )
    report(progress, 1.0)
    through = {
        axis: int(inside.voxels[inside.faces[:, 2 * index] & inside.faces[:, 2 * index + 1]].sum())
        for index, axis in enumerate("zyx")
    }
    return PoreAccess(
        open_voxels=int(components.voxels[components.open].sum()),
        closed_voxels=int(components.voxels[~components.open].sum()),
        percolating_voxels=through,
        box_region_voxels=inside.region_voxels,
    )


def _bounds(extents: NDArray[np.int64]) -> Bounds | None:
    occupied = np.flatnonzero(extents[:, 1] > 0)
    if occupied.size == 0:
        return None
    inside = extents[occupied]
    return (
        (int(occupied[0]), int(occupied[-1]) + 1),
        (int(inside[:, 0].min()), int(inside[:, 1].max())),
        (int(inside[:, 2].min()), int(inside[:, 3].max())),
    )


@njit(cache=True, parallel=True)
def _count_slices(
    block: NDArray[np.uint8],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:  # pragma: no cover - compiled
    """Counts (slices, 256) and first and last row and column of the region, (slices, 4); all 0 where it is empty."""
    slices, rows, columns = block.shape
    counts = np.zeros((slices, 256), np.int64)
    extents = np.zeros((slices, 4), np.int64)
    for z in prange(slices):
        first_row, last_row, first_column, last_column = rows, 0, columns, 0
        for y in range(rows):
            # Runs of one phase are long: one addition a run.
            start = 0
            phase = block[z, y, 0]
            for x in range(1, columns + 1):
                if x == columns or block[z, y, x] != phase:
                    counts[z, phase] += x - start
                    if phase != 0:
                        first_row = min(first_row, y)
                        last_row = y + 1
                        first_column = min(first_column, start)
                        last_column = max(last_column, x)
                    if x < columns:
                        phase = block[z, y, x]
                        start = x
        if last_row > 0:
            extents[z, 0], extents[z, 1] = first_row, last_row
            extents[z, 2], extents[z, 3] = first_column, last_column
    return counts, extents
