"""The box that is measured from face to face (geodesic tortuosity, diffusion, percolation), and the phase binned in it.

What is measured in the box is left to `tortuosity`, `diffusion` and `porosity`.
"""

from __future__ import annotations

import math
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

# Share of each side face of the box that lies in the region.
_FACE_SHARE = 0.99


@dataclass(frozen=True)
class BinnedPhase:
    """A phase inside a box, binned to cubes.

    Attributes
    ----------
    open_voxels : (z, y, x) bool
        Whether a cube belongs to the phase.
    factor : int
        Edge of a cube, in voxels of the volume.
    box : Bounds
        The voxels that the cubes cover.
    """

    open_voxels: NDArray[np.bool_]
    factor: int
    box: Bounds

    def edges(self, voxel_size: tuple[float, float, float]) -> tuple[float, float, float]:
        """Edges (z, y, x) of a cube, in the unit of the edges of a voxel of the volume.

        A box thinner than a cube is one cube thick, which then is no cube.
        """
        z, y, x = (
            (stop - start) // size * edge
            for (start, stop), size, edge in zip(self.box, self.open_voxels.shape, voxel_size, strict=True)
        )
        return z, y, x


def find_box(phases: VolumeLike, bounds: Bounds, memory_bytes: int, progress: Progress | None = None) -> Bounds:
    """Box inside the sample region: the bounding box, narrowed until its four side faces lie in the region.

    From all four sides the bounding box is narrowed in proportion, by as little as will do and at most to half its
    width, until 99 % of each of its side faces lie in the region: of a cylinder remains the square prism inside. Along
    z it is not narrowed. Of a region of which no such box is found remains the narrowest.

    Parameters
    ----------
    phases : volume-like (z, y, x) uint8
        0 outside the sample region.
    bounds : Bounds
        Bounding box of the region, from `porosity.count_phases`.
    memory_bytes : int
        Memory that the pass over the volume may take; the result does not depend on it.
    progress : callable, optional
        Called with the part done.

    Returns
    -------
    Bounds

    Raises
    ------
    InputError
        `phases` is not a 3-D uint8 volume.
    ParameterError
        The memory does not hold one slice.
    """
    require_phases(phases)
    (z0, z1), (y0, y1), (x0, x1) = bounds
    margins = _margins(y1 - y0, x1 - x0)
    inside = np.zeros((len(margins), 4), np.int64)
    for start, stop in blocks_within((z1 - z0, *phases.shape[1:]), 2, 0, memory_bytes):
        block = np.ascontiguousarray(phases[z0 + start : z0 + stop])
        inside += _count_on_sides(block, margins, y0, y1, x0, x1).sum(axis=0)
        del block  # not held while the next is read
        report(progress, stop / (z1 - z0))
    heights, widths = y1 - y0 - 2 * margins[:, 0], x1 - x0 - 2 * margins[:, 1]
    voxels = (z1 - z0) * np.stack((widths, widths, heights, heights), axis=1)
    fit = np.flatnonzero((inside >= _FACE_SHARE * voxels).all(axis=1))
    my, mx = (int(margin) for margin in margins[fit[0] if fit.size else -1])
    return (z0, z1), (y0 + my, y1 - my), (x0 + mx, x1 - mx)


def bin_phase(
    phases: VolumeLike,
    phase: int,
    box: Bounds,
    maximum_voxels: int,
    memory_bytes: int,
    progress: Progress | None = None,
) -> BinnedPhase:
    """Bin a phase inside a box by the smallest whole factor that brings the box to `maximum_voxels` or fewer.

    A cube belongs to the phase where more than half of its voxels do; throats thinner than a cube may close. What
    remains at the upper ends of the box, thinner than a cube, is left out.

    Parameters
    ----------
    phases : volume-like (z, y, x) uint8
    phase : int
    box : Bounds
        From `find_box`, or any box that is not empty.
    maximum_voxels : int
        Cubes at most; at least 1.
    memory_bytes : int
        Memory that the pass over the volume may take, the binned phase not counted (1 byte a cube); the result does not
        depend on it.
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
    sizes = [stop - start for start, stop in box]
    factor = next(f for f in count(1) if math.prod(max(1, size // f) for size in sizes) <= maximum_voxels)
    (z0, _), (y0, _), (x0, _) = box
    # A box thinner than a cube is one bin thick.
    cube = (min(factor, sizes[0]), min(factor, sizes[1]), min(factor, sizes[2]))
    shape = (sizes[0] // cube[0], sizes[1] // cube[1], sizes[2] // cube[2])
    y1, x1 = y0 + shape[1] * cube[1], x0 + shape[2] * cube[2]
    members = np.zeros(shape, bool)
    # A block and its cropped copy, in units of one cube's slices.
    for first, last in blocks_within((shape[0], *phases.shape[1:]), 2 * cube[0], 0, memory_bytes):
        block = np.ascontiguousarray(phases[z0 + first * cube[0] : z0 + last * cube[0]][:, y0:y1, x0:x1])
        members[first:last] = _majorities(block, phase, cube)
        del block  # not held while the next is read
        report(progress, last / shape[0])
    return BinnedPhase(members, factor, ((z0, z0 + shape[0] * cube[0]), (y0, y1), (x0, x1)))


def _margins(rows: int, columns: int) -> NDArray[np.int64]:
    """Rows and columns to take off at each side, (steps, 2), ascending and in proportion."""
    steps = np.arange(max(rows, columns) // 4 + 1)
    whole = 4 * max(1, len(steps) - 1)
    return np.stack((steps * rows // whole, steps * columns // whole), axis=1)


@njit(cache=True, parallel=True)
def _count_on_sides(
    block: NDArray[np.uint8], margins: NDArray[np.int64], y0: int, y1: int, x0: int, x1: int
) -> NDArray[np.int64]:  # pragma: no cover - compiled
    """Voxels in the region on the first and last row and column of each box, (slices, boxes, 4)."""
    inside = np.zeros((block.shape[0], len(margins), 4), np.int64)
    for z in prange(block.shape[0]):
        for step in range(len(margins)):
            top, bottom = y0 + margins[step, 0], y1 - margins[step, 0]
            left, right = x0 + margins[step, 1], x1 - margins[step, 1]
            for x in range(left, right):
                inside[z, step, 0] += block[z, top, x] != 0
                inside[z, step, 1] += block[z, bottom - 1, x] != 0
            for y in range(top, bottom):
                inside[z, step, 2] += block[z, y, left] != 0
                inside[z, step, 3] += block[z, y, right - 1] != 0
    return inside


@njit(cache=True, parallel=True)
def _majorities(
    block: NDArray[np.uint8], phase: int, cube: tuple[int, int, int]
) -> NDArray[np.bool_]:  # pragma: no cover - compiled
    slices, rows, columns = block.shape[0] // cube[0], block.shape[1] // cube[1], block.shape[2] // cube[2]
    members = np.zeros((slices, rows, columns), np.bool_)
    half = cube[0] * cube[1] * cube[2] / 2
    for index in prange(slices * rows):
        z, y = index // rows, index % rows
        for x in range(columns):
            in_phase = 0
            for dz in range(cube[0]):
                for dy in range(cube[1]):
                    for dx in range(cube[2]):
                        in_phase += block[z * cube[0] + dz, y * cube[1] + dy, x * cube[2] + dx] == phase
            members[z, y, x] = in_phase > half
    return members
