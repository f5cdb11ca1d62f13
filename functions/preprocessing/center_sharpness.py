"""Rotation centre by the sharpness of trial reconstructions; reconstructing is left to a function the caller gives."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..errors import InputError
from .center_estimate import CenterEstimate, estimate_of_curve

Reconstruct = Callable[[NDArray[np.float32], NDArray[np.float64]], NDArray[np.float32]]
"""Projections (angles, rows, columns) float32 and a rotation centre for each row (rows,) -> slices (rows, n, n)."""

TRIALS_AT_ONCE: Final = 16
"""Slices that the native engine reconstructs together: fewer cost as much."""

_SMOOTHING_PX: Final = 2.0
_MARGIN_PX: Final = 1.75
_STEP_PX: Final = 0.25
_HISTOGRAM_BINS: Final = 256
_VALUES_AT_ONCE: Final = 2**27
_ENOUGH_PIXELS: Final = 512


def find_center_sharpness(
    sinograms: NDArray[np.float32], reconstruct: Reconstruct, candidates: Sequence[float] | NDArray[Any]
) -> CenterEstimate:
    """Rotation centre whose reconstruction is sharpest.

    The metric is the entropy of the slice's histogram (Donath et al. 2006, DOI 10.1364/JOSAA.23.001048), after a
    smoothing (sigma 2 pixels, of the projections, which is the same): with the wrong centre edges double and streaks
    spread the grey levels. Unsmoothed, noise fills the histogram whatever the centre. Of the metrics tried on simulated
    scans (entropy, negativity, absolute value, variance, gradient energy, each unsmoothed and with sigma 1 to 3) the
    smoothed entropy came within half a pixel most often: 76 % with sigma 3, 72 % with sigma 2, negativity 56 % at the
    best, unsmoothed entropy 50 %. Sigma 2 is taken for its smaller median error (0.121 against 0.145 pixels): on 200
    further scans it was 0.126 against 0.149, and the answer of all methods together within half a pixel on 77.0 against
    76.5 %. Only the disc that the detector sees in all projections counts.

    Parameters
    ----------
    sinograms : (angles, rows, columns) float32, line integrals, dimensionless
        A row or more, whose metrics are averaged.
    reconstruct : callable
        See `Reconstruct`; it gets up to 16 copies of a row, each with its own centre.
    candidates : (candidates,), pixels
        At least 3, ascending; the fraction between them comes from a parabola.

    Returns
    -------
    CenterEstimate

    Raises
    ------
    InputError
        Fewer than 3 candidates, or not ascending.
    """
    centers = np.asarray(candidates, np.float64)
    if centers.ndim != 1 or len(centers) < 3 or not (np.diff(centers) > 0).all():
        raise InputError("candidates for the rotation centre must be 3 or more, in ascending order")
    smooth = ndimage.gaussian_filter1d(sinograms, _SMOOTHING_PX, axis=2, mode="nearest")
    entropies = [_entropies(smooth[:, row], reconstruct, centers) for row in range(smooth.shape[1])]
    return estimate_of_curve(centers, np.mean(entropies, axis=0))


def candidates_around(answers: Sequence[float], columns: int) -> NDArray[np.float64]:
    """Candidates on a grid of quarter pixels, up to a margin beyond every answer, without what lies far from all of them.

    16 at most where the answers agree to a step: one batch of the native engine.
    """
    lowest, highest = max(0.0, min(answers) - _MARGIN_PX), min(columns - 1.0, max(answers) + _MARGIN_PX)
    steps = np.arange(math.ceil(lowest / _STEP_PX), math.floor(highest / _STEP_PX) + 1)
    candidates = steps * _STEP_PX
    distance = np.abs(candidates[:, None] - np.array(answers)).min(axis=1)
    return np.asarray(candidates[distance <= _MARGIN_PX])


def reconstruct_trials(
    sinogram: NDArray[np.float32], reconstruct: Reconstruct, centers: NDArray[np.float64]
) -> NDArray[np.float32]:
    """The slice of one row with each of the centres: sinogram (angles, columns) -> (centers, n, n) float32."""
    copies = np.repeat(sinogram[:, None], len(centers), axis=1)
    return reconstruct(copies, np.asarray(centers, np.float64))


def _entropies(
    sinogram: NDArray[np.float32], reconstruct: Reconstruct, centers: NDArray[np.float64]
) -> NDArray[np.float64]:
    columns = sinogram.shape[1]
    at_once = max(1, min(TRIALS_AT_ONCE, _VALUES_AT_ONCE // (columns * (columns + len(sinogram)))))
    # What is smoothed by 2 pixels is sampled well enough by every second one.
    step = 2 if columns >= _ENOUGH_PIXELS else 1
    disc = _disc(columns, float(centers[len(centers) // 2]))[::step, ::step]
    found: list[float] = []
    limits: NDArray[np.float64] | None = None
    for start in range(0, len(centers), at_once):
        slices = reconstruct_trials(sinogram, reconstruct, centers[start : start + at_once])
        values = [image[::step, ::step][disc] for image in slices]
        if limits is None:
            limits = np.percentile(values[len(values) // 2], [0.1, 99.9])
        found += [_entropy(part, *limits) for part in values]
    return np.array(found)


def _disc(columns: int, center: float) -> NDArray[np.bool_]:
    """Inside the circle that the detector sees in all projections; where that is small, inside half the width."""
    axis = np.arange(columns) - (columns - 1) / 2
    radius = 0.95 * max(min(center, columns - 1 - center), columns / 4)
    disc: NDArray[np.bool_] = axis[:, None] ** 2 + axis**2 <= radius**2
    return disc


def _entropy(values: NDArray[np.floating[Any]], lowest: float, highest: float) -> float:
    """Entropy of a histogram over the range widened by a tenth at each side; what lies beyond counts in the end bins."""
    margin = 0.1 * (highest - lowest)
    if not margin > 0:
        return 0.0
    limits = (lowest - margin, highest + margin)
    counts, _ = np.histogram(np.clip(values, *limits), _HISTOGRAM_BINS, limits)
    share = counts[counts > 0] / values.size
    return float(-np.sum(share * np.log(share)))
