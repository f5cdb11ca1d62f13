"""Metrics slice by slice along z: drift of the sample, or of the reconstruction, along the rotation axis.

The sums of phases, area and Euler number are left to the metrics; those of grey values are made here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from ..errors import InputError
from ..outofcore import blocks_within
from .configurations import Progress, report, require_phases

if TYPE_CHECKING:
    from ..volume import VolumeLike

MAXIMUM_POINTS = 512


def profile_edges(first: int, end: int, maximum: int = MAXIMUM_POINTS) -> tuple[int, ...]:
    """Edges of equal groups of slices from `first` to `end` (excluded), at most `maximum`; the last may be thinner."""
    step = max(1, -(-(end - first) // maximum))
    return (*range(first, end, step), end)


def slice_profiles(
    edges: tuple[int, ...],
    region_voxels: NDArray[np.integer],
    sums: Mapping[str, NDArray[np.generic]],
    z_size: float,
    unit: str,
) -> dict[str, list[float]]:
    """Profiles along z, ready for JSON; groups of slices without a voxel in the region are left out.

    Parameters
    ----------
    edges : tuple of int
        Groups of slices, from `profile_edges`.
    region_voxels : (groups,) int
        Voxels of the region in each group.
    sums : mapping of str to (groups,)
        By profile: what over the voxels of the region gives it.
    z_size : float
        Distance of slices.
    unit : str
        Its unit.

    Returns
    -------
    dict of str to list of float
        `z_<unit>`, the middle of each group from the first slice's centre on, and every profile.
    """
    bounds = np.array(edges, np.float64)
    middle = (bounds[:-1] + bounds[1:] - 1) / 2 * z_size
    inside = np.asarray(region_voxels) > 0
    columns = {f"z_{unit}": middle[inside].tolist()}
    for name, values in sums.items():
        columns[name] = (np.asarray(values, np.float64)[inside] / np.asarray(region_voxels)[inside]).tolist()
    return columns


def grey_sums(
    grey: VolumeLike,
    phases: VolumeLike,
    edges: tuple[int, ...],
    memory_bytes: int,
    progress: Progress | None = None,
) -> NDArray[np.float64]:
    """Sums of the grey values inside the region over groups of slices.

    Parameters
    ----------
    grey : volume-like (z, y, x) float32
        Finite grey values.
    phases : volume-like (z, y, x) uint8
        0 outside the region.
    edges : tuple of int
        Groups of slices, from `profile_edges`.
    memory_bytes : int
        Memory that the pass may take; the result does not depend on it.
    progress : callable, optional
        Called with the part done.

    Returns
    -------
    (groups,) float64
        In the unit of the grey values.

    Raises
    ------
    InputError
        `phases` is not a 3-D uint8 volume, or the grey values have another shape.
    ParameterError
        The memory does not hold one slice.
    """
    require_phases(phases)
    if tuple(grey.shape) != tuple(phases.shape):
        raise InputError(f"profiles: grey values have shape {tuple(grey.shape)}, phases {tuple(phases.shape)}")
    first, end = edges[0], edges[-1]
    slices = np.zeros(end - first, np.float64)
    for start, stop in blocks_within((end - first, *phases.shape[1:]), 5, 0, memory_bytes):
        values = np.ascontiguousarray(grey[first + start : first + stop], np.float32)
        rows = _row_sums(values, np.ascontiguousarray(phases[first + start : first + stop]))
        slices[start:stop] = [math.fsum(row) for row in rows]
        del values  # not held while the next is read
        report(progress, stop / (end - first))
    return np.array([math.fsum(slices[low - first : high - first]) for low, high in pairwise(edges)])


@njit(cache=True, parallel=True)
def _row_sums(
    grey: NDArray[np.float32], phases: NDArray[np.uint8]
) -> NDArray[np.float64]:  # pragma: no cover - compiled
    """Sums over the region in each row (slices, rows); the same whatever else is in the block."""
    slices, rows, columns = phases.shape
    sums = np.zeros((slices, rows), np.float64)
    for z in prange(slices):
        for y in range(rows):
            total = 0.0
            for x in range(columns):
                if phases[z, y, x] != 0:
                    total += grey[z, y, x]
            sums[z, y] = total
    return sums
