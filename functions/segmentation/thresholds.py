"""Phases by thresholds on the grey value: Otsu's criterion on a sample, and thresholds applied.

Which part of a slice belongs to the sample is left to `region`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from skimage.filters import threshold_multiotsu

from ..disc import reconstructed_disc

_BINS = 256
_FINE_BINS_PER_BIN = 64
_REFINEMENTS_MAX = 100
_CLIPPED_PART = 0.0005  # at either end of the histogram: rare bright or dark voxels must not coarsen its bins


def multi_otsu_thresholds(
    sample: NDArray[np.float32], phases: int, region: NDArray[np.bool_] | None = None
) -> tuple[float, ...]:
    """Thresholds between phases that make the grey values within each phase vary least.

    Otsu's criterion for several classes: Liao, Chen, Chung 2001, J. Inf. Sci. Eng. 17, 713; of scikit-image, on a
    histogram of 256 bins between the 0.05 % and the 99.95 % quantile. The best thresholds lie half way between the
    means of the phases on either side; they are moved there, beyond the width of a bin. (Where hardly a voxel lies between two
    phases the criterion alone is as good anywhere in the gap; half way is where a blurred surface is unbiased.)

    Parameters
    ----------
    sample : (z, y, x) float32
        Slices that are typical of the scan.
    phases : int
        How many, from 2.
    region : (y, x) or (z, y, x) bool, optional
        Voxels that count; the reconstructed disc by default.

    Returns
    -------
    tuple of float
        phases - 1 thresholds, ascending, in the unit of the sample.

    Raises
    ------
    ValueError
        Fewer than two phases, or fewer distinct values than phases.
    """
    if phases < 2:
        raise ValueError(f"{phases} phases need no threshold; ask for 2 or more")
    within = reconstructed_disc(*sample.shape[1:]) if region is None else region
    values = sample[np.broadcast_to(within, sample.shape)]
    low, high = np.quantile(values, [_CLIPPED_PART, 1 - _CLIPPED_PART]) if values.size else (0.0, 0.0)
    fine, edges = np.histogram(np.clip(values, low, high), _BINS * _FINE_BINS_PER_BIN, (low, high))
    centers = (edges[:-1] + edges[1:]) / 2
    coarse = fine.reshape(_BINS, -1).sum(axis=1)
    distinct = np.count_nonzero(coarse) if low < high else min(1, values.size)
    if distinct < phases:
        raise ValueError(f"the sample has {distinct} distinct grey values, {phases} phases need at least as many")
    coarse_centers = centers.reshape(_BINS, -1).mean(axis=1)
    found = threshold_multiotsu(classes=phases, hist=(coarse, coarse_centers))  # type: ignore[no-untyped-call]
    return tuple(float(threshold) for threshold in _half_way(np.asarray(found, np.float64), fine, centers))


def apply_thresholds(slices: NDArray[np.float32], thresholds: Sequence[float]) -> NDArray[np.uint8]:
    """Phase of each voxel.

    Parameters
    ----------
    slices : (z, y, x) float32
    thresholds : sequence of float
        Ascending, in the unit of the slices.

    Returns
    -------
    (z, y, x) uint8
        1 below the first threshold, and one more from each threshold on.

    Raises
    ------
    ValueError
        The thresholds do not ascend.
    """
    if any(high <= low for low, high in pairwise(thresholds)):
        raise ValueError(f"thresholds {list(thresholds)} do not ascend")
    phases = np.ones(slices.shape, np.uint8)
    for threshold in thresholds:
        phases += slices >= np.float32(threshold)
    return phases


def _half_way(
    thresholds: NDArray[np.float64], counts: NDArray[np.int64], centers: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Move thresholds half way between the means of the phases on either side, until they stay (Lloyd's iteration)."""
    for _ in range(_REFINEMENTS_MAX):
        phase = np.searchsorted(thresholds, centers, side="right")
        voxels = np.bincount(phase, counts, len(thresholds) + 1)
        if not voxels.all():
            break
        means = np.bincount(phase, counts * centers, len(thresholds) + 1) / voxels
        moved = (means[:-1] + means[1:]) / 2
        if np.array_equal(moved, thresholds):
            break
        thresholds = moved
    return thresholds
