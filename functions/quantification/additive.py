"""What adds up over parts of a volume, in boxes and along z: voxels of phases, Euler number, areas.

What follows from the sums is left to `metrics`, `representative`, `profiles` and `uncertainty`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .configurations import (
    Connectivity,
    Progress,
    count_configurations,
    crofton_interface_areas,
    euler_numbers,
    voxel_count,
)
from .connectivity import part_of_progress
from .surface import interface_areas
from .tiling import Tiling

if TYPE_CHECKING:
    from ..volume import VolumeLike

_SETS_A_PASS = 8


@dataclass(frozen=True)
class AdditiveSums:
    """Sums over the boxes of a tiling; the sums over all boxes are those of the volume.

    Attributes
    ----------
    tiling : Tiling
        The boxes.
    region_voxels : (tz, ty, tx) int64
        Voxels of the sample region.
    phase_voxels : dict of int to (tz, ty, tx) int64
        Voxels of each phase.
    euler : (tz, ty, tx) float64
        Contributions to the Euler number of the phase that is measured.
    crofton : (tz, ty, tx) float64
        Area between that phase and the rest, from crossings with lines.
    surface : (tz, ty, tx) float64
        The same from marching cubes on the smoothed phase.
    """

    tiling: Tiling
    region_voxels: NDArray[np.int64]
    phase_voxels: dict[int, NDArray[np.int64]]
    euler: NDArray[np.float64]
    crofton: NDArray[np.float64]
    surface: NDArray[np.float64]


def additive_sums(
    phases: VolumeLike,
    phase: int,
    phase_count: int,
    connectivity: Connectivity,
    sigma_voxels: float,
    voxel_size: tuple[float, float, float],
    tilings: Sequence[Tiling],
    memory_bytes: int,
    progress: Progress | None = None,
) -> list[AdditiveSums]:
    """Sums over the boxes of several tilings. One pass for the area, and one for all else for each tiling.

    Parameters
    ----------
    phases : volume-like (z, y, x) uint8
        0 outside the sample region.
    phase : int
        Phase of which Euler number and area are measured.
    phase_count : int
        Highest phase.
    connectivity : 6 or 26
        For the Euler number.
    sigma_voxels : float
        Gaussian before marching cubes.
    voxel_size : (z, y, x)
        Edges of a voxel; areas are in its squared unit.
    tilings : sequence of Tiling
        Boxes to sum over.
    memory_bytes : int
        Memory that the passes may take beside the result; the sums do not depend on it. Counts take 2 KiB a box
        and set of phases on top.
    progress : callable, optional
        Called with the part done.

    Raises
    ------
    InputError
        `phases` is not a 3-D uint8 volume.
    ParameterError
        The memory does not hold the few slices that a pass needs.
    """
    common = _common(tilings)
    areas = interface_areas(
        phases,
        phase,
        memory_bytes,
        sigma_voxels,
        part_of_progress(progress, 0.0, 0.6),
        voxel_size=voxel_size,
        tiling=common,
    )
    found = []
    for index, tiling in enumerate(tilings):
        step = 0.4 / len(tilings)
        part = part_of_progress(progress, 0.6 + index * step, 0.6 + (index + 1) * step)
        counted = _count(phases, phase, phase_count, connectivity, voxel_size, tiling, memory_bytes, part)
        found.append(AdditiveSums(tiling, *counted, _collected(areas, common, tiling)))
    return found


def _count(
    phases: VolumeLike,
    phase: int,
    phase_count: int,
    connectivity: Connectivity,
    voxel_size: tuple[float, float, float],
    tiling: Tiling,
    memory_bytes: int,
    progress: Progress | None,
) -> tuple[NDArray[np.int64], dict[int, NDArray[np.int64]], NDArray[np.float64], NDArray[np.float64]]:
    members = range(1, phase_count + 1)
    rest = frozenset(members) - {phase}
    # Of two phases the rest is the other one, and is counted once.
    first = list(dict.fromkeys([frozenset({phase}), rest, frozenset(members)]))
    others = [frozenset({value}) for value in members if frozenset({value}) not in first]
    wanted = first + others
    counts: dict[frozenset[int], NDArray[np.int64]] = {}
    voxels: dict[frozenset[int], NDArray[np.int64]] = {}
    passes = range(0, len(wanted), _SETS_A_PASS)
    for index, start in enumerate(passes):
        sets = wanted[start : start + _SETS_A_PASS]
        part = part_of_progress(progress, index / len(passes), (index + 1) / len(passes))
        configurations = count_configurations(phases, sets, memory_bytes, part, tiling)
        for position, found in enumerate(sets):
            voxels[found] = voxel_count(configurations[..., position, :])
            if found in first:
                counts[found] = configurations[..., position, :]
    inside, outside, region = counts[frozenset({phase})], counts[rest], counts[frozenset(members)]
    return (
        voxels[frozenset(members)],
        {value: voxels[frozenset({value})] for value in members},
        euler_numbers(inside, connectivity),
        crofton_interface_areas(inside, outside, region, voxel_size),
    )


def _common(tilings: Sequence[Tiling]) -> Tiling:
    """Tiling whose edges are those of all."""
    z, y, x = (tuple(sorted(set().union(*(getattr(tiling, axis) for tiling in tilings)))) for axis in ("z", "y", "x"))
    return Tiling(z, y, x)


def _collected(values: NDArray[np.float64], fine: Tiling, coarse: Tiling) -> NDArray[np.float64]:
    """Sums over the boxes of a coarser tiling; what lies beyond its ends belongs to its first and last boxes."""
    axes = []
    for axis in ("z", "y", "x"):
        inner = getattr(coarse, axis)[1:-1]
        starts = getattr(fine, axis)[:-1]
        cuts = [0, *np.searchsorted(starts, inner).tolist(), len(starts)]
        axes.append(list(pairwise(cuts)))
    return np.array(
        [[[math.fsum(values[a:b, c:d, e:f].flat) for e, f in axes[2]] for c, d in axes[1]] for a, b in axes[0]]
    )
