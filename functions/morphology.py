"""Opening and closing with a ball: of slices in memory, and of a phase of a volume block by block on disk, exactly.

A ball of radius r holds the voxels at most r away from its centre. What lies beyond the volume's faces or outside the
region neither erodes nor dilates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .distance import NEUTRAL, OPEN, WALL, squared_distances_2d, sweep_squared_distances
from .outofcore import ScratchVolume

if TYPE_CHECKING:
    from .volume import VolumeLike

# How WALL and OPEN change places.
_COMPLEMENT = np.array([NEUTRAL, OPEN, WALL], np.uint8)


def phase_kinds(phases: NDArray[np.uint8], phase: int) -> NDArray[np.uint8]:
    """`OPEN` where a voxel is of the phase, `WALL` where of another, `NEUTRAL` outside the region (phase 0)."""
    kinds = np.full(phases.shape, WALL, np.uint8)
    kinds[phases == phase] = OPEN
    kinds[phases == 0] = NEUTRAL
    return kinds


def open_and_close(
    phases: VolumeLike,
    phase: int,
    opening_radius: float,
    closing_radius: float,
    *,
    blocks: Sequence[tuple[int, int]],
    kinds: ScratchVolume,
    distances: ScratchVolume,
    advance: Callable[[int], None],
) -> None:
    """Open a phase with one ball, then close it with another; the result is the same for any blocks.

    Parameters
    ----------
    phases : volume-like (z, y, x) uint8
        0 outside the region.
    phase : int
    opening_radius, closing_radius : float
        In voxels; 0 leaves that step out. Opening removes what the ball does not fit into; closing fills what a
        ball in the rest does not fit into. Neither changes what lies outside the region.
    blocks : list of (start, stop)
    kinds : ScratchVolume uint8
        Gets the result: `OPEN`, `WALL` or `NEUTRAL` of each voxel.
    distances : ScratchVolume int32
        Overwritten.
    advance : callable (slices)
        Told of slices done; `morphology_sweeps` for each slice of the volume.
    """
    for start, stop in blocks:
        kinds.write(start, phase_kinds(phases[start:stop], phase))
        advance(stop - start)
    for complement, radius in _erosions(opening_radius, closing_radius):
        _erode(kinds, complement, radius, blocks, distances, advance)


def morphology_sweeps(opening_radius: float, closing_radius: float) -> int:
    """How often `open_and_close` goes through the volume; 0 where there is nothing to open or close."""
    erosions = len(_erosions(opening_radius, closing_radius))
    return 1 + 2 * erosions if erosions else 0


def erode_2d(mask: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    """Erode each slice of (z, y, x) by a disc of this radius in pixels; what lies beyond its edge does not erode."""
    return squared_distances_2d(~mask) > radius * radius if radius > 0 else mask


def dilate_2d(mask: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    """Dilate each slice of (z, y, x) by a disc of this radius in pixels."""
    return squared_distances_2d(mask) <= radius * radius if radius > 0 else mask


def _erosions(opening_radius: float, closing_radius: float) -> list[tuple[bool, float]]:
    """The erosions, of the phase (False) or of its complement (True: a dilation of the phase), in order."""
    opening = [(False, opening_radius), (True, opening_radius)] if opening_radius > 0 else []
    closing = [(True, closing_radius), (False, closing_radius)] if closing_radius > 0 else []
    return opening + closing


def _erode(
    kinds: ScratchVolume,
    complement: bool,
    radius: float,
    blocks: Sequence[tuple[int, int]],
    distances: ScratchVolume,
    advance: Callable[[int], None],
) -> None:
    def read(start: int, stop: int) -> NDArray[np.uint8]:
        block: NDArray[np.uint8] = kinds[start:stop]
        return _COMPLEMENT[block] if complement else block

    def keep_far(start: int, squared: NDArray[np.int32]) -> None:
        block = read(start, start + len(squared))
        block[(block == OPEN) & (squared <= radius * radius)] = WALL
        kinds.write(start, _COMPLEMENT[block] if complement else block)

    sweep_squared_distances(read, blocks, distances, keep_far, advance)
