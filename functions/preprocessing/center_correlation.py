"""Rotation centre from projections half a turn apart, by their cross-correlation.

Which of a scan's projections are opposite is found here, too. The axis near the detector's edge (double field of view) is
left to `center_full_turn`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy import ndimage

from ..errors import InputError
from .center_estimate import CenterEstimate, angular_step, checked_search, estimate_of_curve, shifts_of

SMOOTHING_PX: Final = 1.0

_MOST_PAIRS: Final = 32
_EXACT_STEPS: Final = 0.1
_NEAR_STEPS: Final = 2.2


def find_center_correlation(
    projections_0: NDArray[np.floating[Any]],
    projections_180: NDArray[np.floating[Any]],
    search: tuple[float, float] | None = None,
    *,
    search_share: float = 0.25,
) -> CenterEstimate:
    """Rotation centre from two projections half a turn apart, by their cross-correlation.

    The second is mirrored and shifted along the columns; the centre is half way to the shift with the largest
    correlation coefficient, which is computed over the columns that overlap (all shifts at once by Fourier transforms),
    so that a sample that leaves the field of view does not pull it. A parabola gives the fraction of a pixel.

    Phase correlation (Kuglin & Hines 1975: the peak of the inverse transform of the normalised cross-power spectrum) was
    measured beside it and is worse, because it gives frequencies without contrast the weight of those with: of 100
    simulated scans it came within half a pixel on 35, and with its band limited, and the rows tapered or not, on 59 at
    the best; the coefficient on 68 (median errors 2.2, 0.36 and 0.19 pixels), and a band-passed coefficient on 60. On two
    real scans of little noise the band-limited forms and the coefficient lie within 0.1 pixels of the sharpest centre;
    without a band limit one is wrong by 24 pixels (`benchmarks/rotation_center.py --correlations`).

    Parameters
    ----------
    projections_0, projections_180 : (rows, columns) float, line integrals, dimensionless
        Any number of detector rows; `opposite_pairs` tells which projections to take.
    search : (lowest, highest) or None
        Where the centre may lie, pixels; by default `search_share` of the width to each side of the middle.
    search_share : float
        Above 0 and below 0.5.

    Returns
    -------
    CenterEstimate
        The metric is 1 - correlation coefficient.

    Raises
    ------
    InputError
        The shapes do not fit, or a value is not finite.
    ParameterError
        `search` lies outside the detector or is empty, or `search_share` is out of range.
    """
    if projections_0.ndim != 2 or projections_0.shape != projections_180.shape or not projections_0.size:
        raise InputError(
            f"the opposite projections have the shapes {projections_0.shape} and {projections_180.shape}: "
            "give two of the same (rows, columns)"
        )
    if not (np.isfinite(projections_0).all() and np.isfinite(projections_180).all()):
        raise InputError("the opposite projections hold values that are not finite: mend bad pixels first")
    columns = projections_0.shape[1]
    shifts = shifts_of(checked_search(search, search_share, columns), columns)
    first, mirrored = (
        ndimage.gaussian_filter1d(image.astype(np.float64), SMOOTHING_PX, axis=1, mode="nearest")
        for image in (projections_0, projections_180[:, ::-1])
    )
    metric = 1 - correlation_coefficients(first, mirrored, shifts)
    return estimate_of_curve((columns - 1 + shifts) / 2, metric)


def opposite_pairs(theta_rad: NDArray[np.floating[Any]]) -> list[tuple[int, int]]:
    """Which projections lie half a turn apart, or as nearly as the scan has them.

    Parameters
    ----------
    theta_rad : (angles,), radians

    Returns
    -------
    list of (first, second)
        Indices with theta[second] - theta[first] about pi. Those within a tenth of the angular step of pi where there
        are any (at most 32, spread over the turn), else those within 2.2 steps: a scan from 0 to 179 degrees has none
        exactly opposite, and the centre is extrapolated from the last few. Empty where the scan covers too little.
    """
    theta = np.asarray(theta_rad, np.float64)
    if len(theta) < 2:
        return []
    order = np.argsort(theta, kind="stable")
    ascending = theta[order]
    step = angular_step(ascending)
    near: list[tuple[float, int, int]] = []
    for first, angle in enumerate(ascending):
        start, stop = np.searchsorted(
            ascending, [angle + np.pi - _NEAR_STEPS * step, angle + np.pi + _NEAR_STEPS * step]
        )
        near += [
            (abs(ascending[k] - angle - np.pi) / step, int(order[first]), int(order[k])) for k in range(start, stop)
        ]
    chosen = [pair for pair in near if pair[0] <= _EXACT_STEPS] or near
    if len(chosen) > _MOST_PAIRS:
        chosen = [chosen[index * len(chosen) // _MOST_PAIRS] for index in range(_MOST_PAIRS)]
    return [(first, second) for _, first, second in chosen]


def correlation_over_pairs(
    sinograms: NDArray[np.float32],
    theta_rad: NDArray[np.float64],
    search: tuple[float, float],
    of_pair: Callable[..., CenterEstimate] = find_center_correlation,
) -> CenterEstimate:
    """The median over exactly opposite pairs; else the line through the centres of near ones, where they are opposite.

    Parameters
    ----------
    sinograms : (angles, rows, columns) float32, line integrals, dimensionless
    theta_rad : (angles,), radians
    search : (lowest, highest), pixels
    of_pair : callable
        How the centre of one pair is found, called as `find_center_correlation` is: benchmarks compare others.

    Returns
    -------
    CenterEstimate
        With the curve of the pair that is nearest to opposite.

    Raises
    ------
    InputError
        No two projections are opposite.
    """
    pairs = opposite_pairs(theta_rad)
    if not pairs:
        raise InputError(
            "no two of the angles lie 180 degrees apart: the rotation centre is found from opposite projections; give the "
            "centre"
        )
    estimates = [of_pair(sinograms[first], sinograms[second], search) for first, second in pairs]
    centers = np.array([estimate.center for estimate in estimates])
    missing = np.array([theta_rad[second] - theta_rad[first] - np.pi for first, second in pairs])
    if np.ptp(missing) > 0.5 * angular_step(np.sort(theta_rad)):
        center = float(np.clip(np.polynomial.Polynomial.fit(missing, centers, 1)(0.0), *search))
    else:
        center = float(np.median(centers))
    nearest = estimates[int(np.argmin(np.abs(missing)))]
    return CenterEstimate(center, nearest.confidence, nearest.candidates, nearest.metric)


def correlation_coefficients(
    first: NDArray[np.floating[Any]], second: NDArray[np.floating[Any]], shifts: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Correlation coefficient of first[:, x] and second[:, x - shift] over the columns x that both have, by shift.

    Parameters
    ----------
    first, second : (rows, columns) float64, or float32 where many rows are summed
    shifts : (shifts,), pixels, each less than the number of columns in size

    Returns
    -------
    (shifts,) float64, -1 to 1
    """
    rows, columns = first.shape
    length = scipy.fft.next_fast_len(2 * columns, real=True)
    ones = np.ones((1, columns))

    def correlate(a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        product = np.conj(scipy.fft.rfft(b, length, axis=1))
        product *= scipy.fft.rfft(a, length, axis=1)
        sums: NDArray[np.float64] = scipy.fft.irfft(product.sum(axis=0, dtype=np.complex128), length)
        return sums[shifts]

    def columns_summed(values: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        return np.asarray(values.sum(axis=0, dtype=np.float64)[None])

    # Sums do not need their means, but lose digits without.
    first, second = first - first.mean(), second - second.mean()
    count = rows * (columns - np.abs(shifts))
    sum_first, sum_second = correlate(columns_summed(first), ones), correlate(ones, columns_summed(second))
    variance_first = correlate(columns_summed(first**2), ones) - sum_first**2 / count
    variance_second = correlate(ones, columns_summed(second**2)) - sum_second**2 / count
    covariance = correlate(first, second) - sum_first * sum_second / count
    # A projection without contrast correlates with nothing.
    floor = 1e-12 * (np.sum(first**2) + np.sum(second**2)) + np.finfo(np.float64).tiny
    variance = np.sqrt(np.maximum(variance_first, floor)) * np.sqrt(np.maximum(variance_second, floor))
    return np.asarray(np.clip(covariance / variance, -1, 1))
