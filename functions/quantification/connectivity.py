"""Euler number of a phase: how strongly it is connected.

The number of its objects is left to `objects`; the counting to `configurations`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from .configurations import Connectivity, Progress, count_configurations, euler_number

if TYPE_CHECKING:
    from ..volume import VolumeLike


def phase_euler_number(
    phases: VolumeLike,
    members: Collection[int],
    memory_bytes: int,
    connectivity: Connectivity = 6,
    progress: Progress | None = None,
) -> int:
    """Euler number (objects - tunnels + cavities) of the voxels whose phase is among `members`. Exact.

    All else, also beyond the volume, counts as background. Pores are 6-connected, so that the solid around them is
    26-connected: always use the two as a pair.

    Parameters
    ----------
    phases : volume-like (z, y, x) uint8
        Phase of each voxel.
    members : collection of int
        Phase values that make up the set.
    memory_bytes : int
        Memory that the pass may take; the result does not depend on it.
    connectivity : 6 or 26
        Neighbours through which voxels of the set connect.
    progress : callable, optional
        Called with the part done.

    Raises
    ------
    InputError
        `phases` is not a 3-D uint8 volume.
    ParameterError
        The memory does not hold one layer of cells.
    """
    counts = count_configurations(phases, [members], memory_bytes, progress)
    return euler_number(counts[0], connectivity)
