"""Morphology with a ball: of slices in memory, and of a phase of a volume block by block, exactly.

A ball of radius r holds the voxels at most r away from its centre, in real space. What lies beyond the volume's faces
or outside the region neither erodes nor dilates, and never becomes part of the phase.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from .block_files import BlockVolume, PieceFiles
from .components import find_components
from .distance import NEUTRAL, NO_WALL, OPEN, WALL, squared_distances_2d
from .joining import join_pieces
from .walls import WallMaps

# How WALL and OPEN change places.
_COMPLEMENT = np.array([NEUTRAL, OPEN, WALL], np.uint8)

# A ball holds the voxels whose distance is its radius, though radius and voxel size come with rounding errors.
_RADIUS_TOLERANCE = 1e-6

Advance = Callable[[int], None]
"""Told of slices done."""


@dataclass(frozen=True)
class Erosion:
    """An erosion of the phase, or of its complement, which is a dilation of the phase.

    Parameters
    ----------
    complement : bool
    radius : float
        Of the ball, in the unit of the voxel size; more than 0.
    """

    complement: bool
    radius: float


def erosions(opening: float, closing: float, erosion: float, dilation: float) -> list[Erosion]:
    """What opening, then closing, erosion and dilation with balls of these radii are made of; a radius of 0 is none."""
    found: list[Erosion] = []
    for radius, complements in (
        (opening, (False, True)),
        (closing, (True, False)),
        (erosion, (False,)),
        (dilation, (True,)),
    ):
        if radius > 0:
            found.extend(Erosion(complement, radius) for complement in complements)
    return found


def phase_kinds(phases: NDArray[np.uint8], phase: int) -> NDArray[np.uint8]:
    """`OPEN` where a voxel is of the phase, `WALL` where of another, `NEUTRAL` outside the region (phase 0)."""
    kind_of = np.full(256, WALL, np.uint8)
    kind_of[phase] = OPEN
    kind_of[0] = NEUTRAL
    return kind_of[phases]


def erode(kinds: BlockVolume, erosion: Erosion, walls: WallMaps, unit_length: float, advance: Advance) -> None:
    """Erode a phase, or its complement, block by block.

    Opening (an erosion, then a dilation) removes what the ball does not fit into; closing fills what a ball in the rest
    does not fit into.

    Parameters
    ----------
    kinds : BlockVolume uint8
        `OPEN`, `WALL` or `NEUTRAL` of each voxel; overwritten with the result.
    erosion : Erosion
    walls : WallMaps
        Overwritten.
    unit_length : float
        Unit of the distances, see `distance.distance_weights`.
    advance : callable (slices)
        `SWEEPS_AN_EROSION` for each slice of the volume.
    """

    def read(start: int, stop: int) -> NDArray[np.uint8]:
        block = kinds[start:stop]
        return _COMPLEMENT[block] if erosion.complement else block

    limit = min(int((erosion.radius / unit_length * (1 + _RADIUS_TOLERANCE)) ** 2), NO_WALL - 1)
    walls.store(read, advance)
    for index, (start, stop) in enumerate(kinds.blocks):
        block = read(start, stop)
        squared = walls.squared_distances(block, index)
        _wall_up(block, squared, limit)
        kinds.write(index, _COMPLEMENT[block] if erosion.complement else block)
        advance(stop - start)


SWEEPS_AN_EROSION = 2
"""How often `erode` goes through the volume."""


def fill_holes(kinds: BlockVolume, connectivity: Literal[6, 18, 26], folder: Path, advance: Advance) -> None:
    """Make what a phase encloses part of it, block by block.

    A hole is a connected component of what is not the phase that touches neither what is outside the region nor a face of
    the volume: of that one knows that it is enclosed. Around a 6-connected phase the rest is 26-connected, around an
    18- or 26-connected one 6-connected. Unlike the walls of the distances, voxels outside the region join what they touch.

    Parameters
    ----------
    kinds : BlockVolume uint8
        `OPEN`, `WALL` or `NEUTRAL` of each voxel; overwritten with the result.
    connectivity : {6, 18, 26}
        Of the phase.
    folder : Path
        For what is found in each block.
    advance : callable (slices)
        `SWEEPS_OF_FILLING` for each slice of the volume.
    """
    rest: Literal[6, 26] = 26 if connectivity == 6 else 6
    depth = kinds.shape[0]
    pieces, enclosed = PieceFiles(folder, kinds.blocks), []
    for index, (start, stop) in enumerate(kinds.blocks):
        block = kinds[start:stop]
        labels, found = find_components(block != OPEN, rest)
        pieces.write(index, found)
        enclosed.append(_enclosed(labels, block, start == 0, stop == depth, found.count))
        advance(stop - start)
    joined = join_pieces(pieces, rest, method="components")
    is_hole = np.ones(len(joined.peaks), np.bool_)
    is_hole[0] = False
    for objects, inside in zip(joined.objects, enclosed, strict=True):
        is_hole[objects[~inside]] = False
    for index, (start, stop) in enumerate(kinds.blocks):
        fills = is_hole[joined.objects[index]]
        if fills.any():
            block = kinds[start:stop]
            # Found once more rather than kept: that is quicker than disk, and there is nothing to clear away.
            labels, _ = find_components(block != OPEN, rest)
            block[fills[labels]] = OPEN
            kinds.write(index, block)
        advance(stop - start)


SWEEPS_OF_FILLING = 2
"""How often `fill_holes` goes through the volume."""


def erode_2d(mask: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    """Erode each slice of (z, y, x) by a disc of this radius in pixels; what lies beyond its edge does not erode."""
    return squared_distances_2d(~mask) > radius * radius if radius > 0 else mask


def dilate_2d(mask: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    """Dilate each slice of (z, y, x) by a disc of this radius in pixels."""
    return squared_distances_2d(mask) <= radius * radius if radius > 0 else mask


@njit(cache=True, parallel=True)
def _wall_up(kinds: NDArray[np.uint8], squared: NDArray[np.int32], limit: int) -> None:
    """Make open voxels a wall whose squared distance is at most the limit."""
    depth, rows, columns = kinds.shape
    for line in prange(depth * rows):
        z, y = line // rows, line % rows
        for x in range(columns):
            if kinds[z, y, x] == OPEN and squared[z, y, x] <= limit:
                kinds[z, y, x] = WALL


def _enclosed(
    labels: NDArray[np.int32], kinds: NDArray[np.uint8], is_first: bool, is_last: bool, count: int
) -> NDArray[np.bool_]:
    """Whether each label, 0 to count, touches neither what is outside the region nor a face of the volume."""
    enclosed = np.ones(count + 1, np.bool_)
    enclosed[labels[kinds == NEUTRAL]] = False
    faces: Sequence[NDArray[np.int32]] = [labels[:, 0], labels[:, -1], labels[:, :, 0], labels[:, :, -1]]
    for face in [*faces, *([labels[0]] if is_first else []), *([labels[-1]] if is_last else [])]:
        enclosed[face] = False
    return enclosed
