"""Finds the rotation centre of a scan by three independent methods, and says how far they agree.

Works on line integrals of a few detector rows. Reconstructing, which one method needs, is left to a function the caller
gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy import ndimage

from ..errors import InputError, ParameterError
from ..reconstruction.threads import run_in_threads

AGREEMENT_PX: Final = 0.5
"""Methods that differ by more than this disagree: sharpness decides, and the result carries a warning."""

_SMOOTHING_PX: Final = 1.0
_SHARPNESS_SMOOTHING_PX: Final = 1.5
_SHARPNESS_MARGIN_PX: Final = 2.0
_SHARPNESS_STEP_PX: Final = 0.25
_HISTOGRAM_BINS: Final = 256
_COARSE_COLUMNS: Final = 400
_FEWEST_COLUMNS: Final = 16
_FEWEST_ANGLES: Final = 8
_COARSE_FREQUENCIES: Final = 96
_FINE_FREQUENCIES: Final = 256
_FINE_MARGIN_PX: Final = 6.0
_MOST_PAIRS: Final = 32
_EXACT_STEPS: Final = 0.1
_NEAR_STEPS: Final = 2.2
_LEAST_CONFIDENCE: Final = 0.15

Reconstruct = Callable[[float], NDArray[np.floating[Any]]]
"""Rotation centre in pixels -> slices (rows, n, n), or one slice (n, n)."""


@dataclass(frozen=True)
class CenterEstimate:
    """What one method found.

    Attributes
    ----------
    center : float
        Rotation centre in pixels, pixel centres at integers.
    confidence : float
        Depth of the metric's minimum, 1 - minimum / median over the candidates: 0 (flat) to 1. Comparable between
        scans, not between methods.
    candidates, metric : (candidates,) float64
        The curve whose minimum the centre is; pixels, arbitrary units.
    """

    center: float
    confidence: float
    candidates: NDArray[np.float64]
    metric: NDArray[np.float64]


@dataclass(frozen=True)
class CenterResult:
    """The rotation centre of a scan and how it was found.

    Attributes
    ----------
    center : float
        Rotation centre in pixels, pixel centres at integers.
    confidence : float
        The least of the confidences of the methods that the centre comes from (see `CenterEstimate`).
    method : str
        ``"vo+correlation"`` (their mean, where they agree), or the one method that decided.
    estimates : dict of str to float
        Centre by method, pixels.
    curve : (candidates, metric), each (candidates,) float64
        Of the method that decided, smallest at the centre; of Vo's where two agreed.
    warning : str or None
        What a person should look at: methods that disagree, or a weak minimum.
    """

    center: float
    confidence: float
    method: str
    estimates: dict[str, float]
    curve: tuple[NDArray[np.float64], NDArray[np.float64]]
    warning: str | None


def find_center(
    sinograms: NDArray[np.float32],
    theta_rad: NDArray[np.floating[Any]],
    reconstruct: Reconstruct | None = None,
    search: tuple[float, float] | None = None,
) -> CenterResult:
    """Rotation centre of a scan from a few of its detector rows, by methods that check each other.

    Vo's method on each row (the median counts) and the correlation of opposite projections (over all rows at once) each
    give a centre. Where they agree within `AGREEMENT_PX`, their mean is the answer. Where they do not, slices are
    reconstructed around both answers and the sharpest decides; without `reconstruct`, Vo's answer is taken, because
    it uses all projections. Either way the result then carries a warning.

    Parameters
    ----------
    sinograms : (angles, rows, columns) float32, line integrals, dimensionless
        A few rows from different heights of the detector, stripes removed.
    theta_rad : (angles,), radians
        Covers 180 degrees or more, in any order.
    reconstruct : callable or None
        See `Reconstruct`; slices of some or all of the rows.
    search : (lowest, highest) or None
        Where the centre may lie, pixels; by default a quarter of the width to each side of the middle.

    Returns
    -------
    CenterResult

    Raises
    ------
    InputError
        The shapes do not fit, a value is not finite, or the angles cover less than 180 degrees.
    ParameterError
        `search` lies outside the detector or is empty.
    """
    if sinograms.ndim != 3 or not sinograms.shape[1]:
        raise InputError(f"sinograms have the shape {sinograms.shape}: give (angles, rows, columns) with a row or more")
    theta = _checked_theta(sinograms, theta_rad)
    search = _checked_search(search, sinograms.shape[2])
    vo = _vo_over_rows(sinograms, theta, search)
    correlation = _correlation_over_pairs(sinograms, theta, search)
    estimates = {"vo": vo.center, "correlation": correlation.center}
    if abs(vo.center - correlation.center) <= AGREEMENT_PX:
        center = (vo.center + correlation.center) / 2
        confidence = min(vo.confidence, correlation.confidence)
        warning = _weakness(confidence, center)
        return CenterResult(center, confidence, "vo+correlation", estimates, (vo.candidates, vo.metric), warning)
    disagreement = (
        f"the methods for the rotation centre disagree: Vo {vo.center:.2f}, correlation of opposite projections "
        f"{correlation.center:.2f} (pixels)"
    )
    if reconstruct is None:
        decided, method = vo, "vo"
    else:
        decided, method = find_center_sharpness(reconstruct, _around(vo.center, correlation.center)), "sharpness"
        estimates["sharpness"] = decided.center
    warning = f"{disagreement}; {method} decided for {decided.center:.2f}: look at the slices"
    return CenterResult(
        decided.center, decided.confidence, method, estimates, (decided.candidates, decided.metric), warning
    )


def find_center_vo(
    sinogram: NDArray[np.float32],
    theta_rad: NDArray[np.floating[Any]] | None = None,
    search: tuple[float, float] | None = None,
) -> CenterEstimate:
    """Rotation centre of one sinogram by the method of Vo et al. (2014), DOI 10.1364/OE.22.019078.

    The sinogram of half a turn and its mirror image, shifted by what a candidate centre asks, make one of a full turn.
    Only at the right centre is it the sinogram of an object, whose two-dimensional Fourier transform is empty in a
    double wedge; the metric is the weighted mean amplitude there.

    The original smooths the sinogram along the angles beforehand, where what lies beyond the first and the last angle
    is unknown (it is mirrored about the centre sought); the wrong values there move the minimum, on real scans by half
    a pixel to a pixel. Here this smoothing is done on the full turn of each candidate, as a weight in its Fourier
    transform.

    Parameters
    ----------
    sinogram : (angles, columns) float32, line integrals, dimensionless
    theta_rad : (angles,) or None, radians
        Half a turn from the smallest angle on is used; None takes the angles as even over half a turn, without its end.
    search : (lowest, highest) or None
        Where the centre may lie, pixels; by default a quarter of the width to each side of the middle.

    Returns
    -------
    CenterEstimate
        Confidence from the search over the whole range; candidates and metric around the minimum.

    Raises
    ------
    InputError
        The shapes do not fit, a value is not finite, or the angles cover less than 180 degrees.
    ParameterError
        `search` lies outside the detector or is empty.
    """
    if sinogram.ndim != 2:
        raise InputError(f"the sinogram has the shape {sinogram.shape}: give (angles, columns)")
    theta = np.arange(len(sinogram)) * (np.pi / max(1, len(sinogram))) if theta_rad is None else theta_rad
    theta = _checked_theta(sinogram, theta)
    lowest, highest = _checked_search(search, sinogram.shape[1])
    half_turn = np.asarray(sinogram[_half_turn(theta)], np.float32)
    smooth = ndimage.gaussian_filter1d(half_turn, _SMOOTHING_PX, axis=1, mode="nearest")

    binning = max(1, smooth.shape[1] // _COARSE_COLUMNS)
    usable = smooth.shape[1] // binning * binning
    coarse = smooth[:, :usable].reshape(len(smooth), -1, binning).mean(axis=2)
    # Column b of the binned sinogram lies at b * binning + (binning - 1) / 2.
    inset = (binning - 1) / 2
    found = _vo_search(coarse, (lowest - inset) / binning, (highest - inset) / binning, _COARSE_FREQUENCIES)
    middle = found.center * binning + inset
    margin = _FINE_MARGIN_PX + binning
    fine = _vo_search(smooth, max(lowest, middle - margin), min(highest, middle + margin), _FINE_FREQUENCIES)
    return CenterEstimate(fine.center, found.confidence, fine.candidates, fine.metric)


def find_center_correlation(
    projections_0: NDArray[np.floating[Any]],
    projections_180: NDArray[np.floating[Any]],
    search: tuple[float, float] | None = None,
) -> CenterEstimate:
    """Rotation centre from two projections half a turn apart, by their cross-correlation.

    The second is mirrored and shifted along the columns; the centre is half way to the shift with the largest
    correlation coefficient, which is computed over the columns that overlap (all shifts at once by Fourier transforms),
    so that a sample that leaves the field of view does not pull it. A parabola gives the fraction of a pixel.

    Parameters
    ----------
    projections_0, projections_180 : (rows, columns) float, line integrals, dimensionless
        Any number of detector rows; `opposite_pairs` tells which projections to take.
    search : (lowest, highest) or None
        Where the centre may lie, pixels; by default a quarter of the width to each side of the middle.

    Returns
    -------
    CenterEstimate
        The metric is 1 - correlation coefficient.

    Raises
    ------
    InputError
        The shapes do not fit, or a value is not finite.
    ParameterError
        `search` lies outside the detector or is empty.
    """
    if projections_0.ndim != 2 or projections_0.shape != projections_180.shape or not projections_0.size:
        raise InputError(
            f"the opposite projections have the shapes {projections_0.shape} and {projections_180.shape}: "
            "give two of the same (rows, columns)"
        )
    if not (np.isfinite(projections_0).all() and np.isfinite(projections_180).all()):
        raise InputError("the opposite projections hold values that are not finite: mend bad pixels first")
    columns = projections_0.shape[1]
    lowest, highest = _checked_search(search, columns)
    first, mirrored = (
        ndimage.gaussian_filter1d(image.astype(np.float64), _SMOOTHING_PX, axis=1, mode="nearest")
        for image in (projections_0, projections_180[:, ::-1])
    )
    shifts = _shifts(lowest, highest, columns)
    metric = 1 - _correlation_coefficients(first, mirrored, shifts)
    return _estimate((columns - 1 + shifts) / 2, metric)


def find_center_sharpness(reconstruct: Reconstruct, candidates: Sequence[float] | NDArray[Any]) -> CenterEstimate:
    """Rotation centre whose reconstruction is sharpest.

    The metric is the entropy of the slice's histogram (Donath et al. 2006, DOI 10.1364/JOSAA.23.001048), after a slight
    smoothing (sigma 1.5 pixels): with the wrong centre edges double and streaks spread the grey levels. Unsmoothed,
    noise fills the histogram whatever the centre. Of the metrics tried on real and simulated scans (entropy, total
    variation, gradient energy, negativity, absolute value, with and without smoothing) it erred least: 0.1 pixels rms
    for single noisy slices. Only the disc that the detector sees in all projections counts.

    Parameters
    ----------
    reconstruct : callable
        See `Reconstruct`.
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
    middle = float(centers[len(centers) // 2])
    reference = _smoothed_discs(reconstruct(middle), middle)
    ranges = [np.percentile(values, [0.1, 99.9]) for values in reference]

    def mean_entropy(center: float) -> float:
        slices = zip(_smoothed_discs(reconstruct(center), middle), ranges, strict=True)
        return math.fsum(_entropy(values, value_range) for values, value_range in slices) / len(ranges)

    return _estimate(centers, np.array([mean_entropy(float(center)) for center in centers]))


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
    step = _angular_step(ascending)
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


def _vo_over_rows(
    sinograms: NDArray[np.float32], theta: NDArray[np.float64], search: tuple[float, float]
) -> CenterEstimate:
    """The median over the rows with a clear minimum, and the curve of the row in the middle."""
    found: list[CenterEstimate | None] = [None] * sinograms.shape[1]

    def find(row: int) -> None:
        found[row] = find_center_vo(sinograms[:, row], theta, search)

    run_in_threads(find, len(found))
    estimates = [estimate for estimate in found if estimate is not None]
    clearest = max(estimate.confidence for estimate in estimates)
    clear = sorted((e for e in estimates if e.confidence >= clearest / 2), key=lambda estimate: estimate.center)
    middle = clear[len(clear) // 2]
    center = float(np.median([estimate.center for estimate in clear]))
    return CenterEstimate(center, middle.confidence, middle.candidates, middle.metric)


def _correlation_over_pairs(
    sinograms: NDArray[np.float32], theta: NDArray[np.float64], search: tuple[float, float]
) -> CenterEstimate:
    """The median over exactly opposite pairs; else the line through the centres of near ones, where they are opposite."""
    pairs = opposite_pairs(theta)
    estimates = [find_center_correlation(sinograms[first], sinograms[second], search) for first, second in pairs]
    centers = np.array([estimate.center for estimate in estimates])
    missing = np.array([theta[second] - theta[first] - np.pi for first, second in pairs])
    if np.ptp(missing) > 0.5 * _angular_step(np.sort(theta)):
        center = float(np.clip(np.polynomial.Polynomial.fit(missing, centers, 1)(0.0), *search))
    else:
        center = float(np.median(centers))
    nearest = estimates[int(np.argmin(np.abs(missing)))]
    return CenterEstimate(center, nearest.confidence, nearest.candidates, nearest.metric)


def _vo_search(sinogram: NDArray[np.float32], lowest: float, highest: float, frequencies: int) -> CenterEstimate:
    wedge = _DoubleWedge(sinogram, frequencies)
    columns = sinogram.shape[1]
    shifts = _shifts(lowest, highest, columns)
    return _estimate((columns - 1 + shifts) / 2, np.array([wedge.amplitude(int(shift)) for shift in shifts]))


class _DoubleWedge:
    """Amplitude in the empty double wedge of a sinogram of half a turn continued by its mirror image.

    The Fourier transform along the angles is the same for all shifts, and done once; for each shift only the lines that
    cross the wedge are transformed along the columns, of these the positive half (the sinogram is real), and of these
    an even selection.
    """

    # The sample is taken to fill the width (half of it, in the paper), and the band next to the axis, where stripes
    # are, is left out. Of what remains the low frequencies along the angles count most: weighting them is the smoothing
    # of the full turn by this many angular steps, with the right continuation at its ends.
    _SAMPLE_FRACTION = 1.0
    _DROPPED = 10
    _DROPPED_FRACTION = 0.05
    _SMOOTHING_STEPS = 2.0
    _HIGHEST_FRACTION = 0.5

    def __init__(self, sinogram: NDArray[np.float32], frequencies: int) -> None:
        angles, columns = sinogram.shape
        dropped = min(self._DROPPED, math.ceil(self._DROPPED_FRACTION * 2 * angles))
        periods = np.arange(dropped + 1, math.ceil(self._HIGHEST_FRACTION * angles) + 1)
        if len(periods) > frequencies:
            periods = periods[np.linspace(0, len(periods) - 1, frequencies).astype(int)]
        # Zeros behind the half turn; a half turn later, period k has the phase exp(-i pi k).
        later = np.where(periods % 2 == 0, 1, -1).astype(np.float32)[:, None]
        self._first = scipy.fft.rfft(sinogram, 2 * angles, axis=0)[periods]
        self._mirrored = scipy.fft.rfft(sinogram[:, ::-1], 2 * angles, axis=0)[periods] * later
        # What stands in for the columns that the shift leaves empty: the half turn itself, backwards.
        self._filling = scipy.fft.rfft(sinogram[::-1], 2 * angles, axis=0)[periods] * later
        frequency = np.abs(np.fft.fftfreq(columns, 1 / columns))
        boundary = np.ceil(periods / (np.pi * self._SAMPLE_FRACTION))
        weight = np.exp(-2 * (np.pi * self._SMOOTHING_STEPS * periods / (2 * angles)) ** 2)
        self._wedge = np.where((frequency <= boundary[:, None]) & (frequency > 1), weight[:, None], 0).astype(
            np.float32
        )

    def amplitude(self, shift: int) -> float:
        """Mean amplitude in the wedge where the mirrored half is shifted by whole pixels."""
        full_turn = np.roll(self._mirrored, shift, axis=1)
        if shift > 0:
            full_turn[:, :shift] = self._filling[:, :shift]
        elif shift < 0:
            full_turn[:, shift:] = self._filling[:, shift:]
        full_turn += self._first
        spectrum = np.abs(scipy.fft.fft(full_turn, axis=1, overwrite_x=True))
        return float(np.mean(spectrum * self._wedge, dtype=np.float64))


def _correlation_coefficients(
    first: NDArray[np.float64], second: NDArray[np.float64], shifts: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Correlation coefficient of first[:, x] and second[:, x - shift] over the columns x that both have, by shift."""
    rows, columns = first.shape
    length = scipy.fft.next_fast_len(2 * columns, real=True)
    ones = np.ones((1, columns))

    def correlate(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
        product = scipy.fft.rfft(a, length, axis=1) * np.conj(scipy.fft.rfft(b, length, axis=1))
        sums: NDArray[np.float64] = scipy.fft.irfft(product.sum(axis=0), length)
        return sums[shifts]

    # Sums do not need their means, but lose digits without.
    first, second = first - first.mean(), second - second.mean()
    count = rows * (columns - np.abs(shifts))
    sum_first, sum_second = correlate(first, ones), correlate(ones, second)
    variance_first = correlate(first**2, ones) - sum_first**2 / count
    variance_second = correlate(ones, second**2) - sum_second**2 / count
    covariance = correlate(first, second) - sum_first * sum_second / count
    # A projection without contrast correlates with nothing.
    floor = 1e-12 * (np.sum(first**2) + np.sum(second**2)) + np.finfo(np.float64).tiny
    variance = np.sqrt(np.maximum(variance_first, floor) * np.maximum(variance_second, floor))
    return np.asarray(np.clip(covariance / variance, -1, 1))


def _smoothed_discs(slices: NDArray[np.floating[Any]], center: float) -> list[NDArray[np.floating[Any]]]:
    """Each slice's values inside the disc that the detector sees in all projections, slightly smoothed."""
    stack = slices[None] if slices.ndim == 2 else slices
    columns = stack.shape[-1]
    axis = np.arange(columns) - (columns - 1) / 2
    disc = axis[:, None] ** 2 + axis**2 <= (0.95 * max(min(center, columns - 1 - center), columns / 4)) ** 2
    return [ndimage.gaussian_filter(image, _SHARPNESS_SMOOTHING_PX)[disc] for image in stack]


def _entropy(values: NDArray[np.floating[Any]], value_range: NDArray[np.floating[Any]]) -> float:
    """Entropy of a histogram over the range widened by a tenth at each side; what lies beyond counts in the end bins."""
    lowest, highest = value_range
    margin = 0.1 * (highest - lowest)
    if not margin > 0:
        return 0.0
    limits = (lowest - margin, highest + margin)
    counts, _ = np.histogram(np.clip(values, *limits), _HISTOGRAM_BINS, limits)
    share = counts[counts > 0] / values.size
    return float(-np.sum(share * np.log(share)))


def _around(*answers: float) -> NDArray[np.float64]:
    """Candidates on a grid that reaches a margin beyond every answer, without what lies far from all of them."""
    lowest, highest = min(answers) - _SHARPNESS_MARGIN_PX, max(answers) + _SHARPNESS_MARGIN_PX
    steps = np.arange(math.floor(lowest / _SHARPNESS_STEP_PX), math.ceil(highest / _SHARPNESS_STEP_PX) + 1)
    candidates = steps * _SHARPNESS_STEP_PX
    distance = np.abs(candidates[:, None] - np.array(answers)).min(axis=1)
    return np.asarray(candidates[distance <= _SHARPNESS_MARGIN_PX + _SHARPNESS_STEP_PX])


def _estimate(candidates: NDArray[np.float64], metric: NDArray[np.float64]) -> CenterEstimate:
    """The minimum of a curve, with a parabola through its neighbours where they are evenly spaced."""
    best = int(np.argmin(metric))
    center = float(candidates[best])
    if 0 < best < len(metric) - 1:
        before, step = candidates[best] - candidates[best - 1], candidates[best + 1] - candidates[best]
        curvature = metric[best - 1] - 2 * metric[best] + metric[best + 1]
        if curvature > 0 and math.isclose(before, step):
            center += float(0.5 * step * (metric[best - 1] - metric[best + 1]) / curvature)
    median = float(np.median(metric))
    confidence = 1 - float(metric[best]) / median if median > 0 else 0.0
    return CenterEstimate(center, confidence, candidates, metric)


def _weakness(confidence: float, center: float) -> str | None:
    if confidence >= _LEAST_CONFIDENCE:
        return None
    return (
        f"the rotation centre {center:.2f} comes from a weak minimum (confidence {confidence:.2f}): look at the slices"
    )


def _shifts(lowest: float, highest: float, columns: int) -> NDArray[np.int64]:
    """Whole-pixel shifts of the mirror image, so that (columns - 1 + shift) / 2 covers [lowest, highest] in half pixels."""
    return np.arange(math.floor(2 * lowest) - (columns - 1), math.ceil(2 * highest) - (columns - 1) + 1)


def _half_turn(theta: NDArray[np.float64]) -> NDArray[np.intp]:
    """Indices, by ascending angle, of half a turn from the smallest angle on, its end left out."""
    order = np.argsort(theta, kind="stable")
    ascending = theta[order]
    half_turn: NDArray[np.intp] = order[ascending - ascending[0] < np.pi - 0.5 * _angular_step(ascending)]
    return half_turn


def _angular_step(ascending: NDArray[np.float64]) -> float:
    return float(np.median(np.diff(ascending)))


def check_center_can_be_found(theta_rad: NDArray[np.floating[Any]], columns: int) -> None:
    """Refuse what `find_center` cannot work with.

    Raises
    ------
    InputError
        Too few angles or columns, or the angles cover less than 180 degrees.
    """
    theta = np.asarray(theta_rad, np.float64)
    if len(theta) < _FEWEST_ANGLES or columns < _FEWEST_COLUMNS:
        raise InputError(
            f"{len(theta)} angles of {columns} columns are too few to find the rotation centre, which takes {_FEWEST_ANGLES} "
            f"angles and {_FEWEST_COLUMNS} columns; give the centre"
        )
    ascending = np.sort(theta)
    step = _angular_step(ascending)
    if not ascending[-1] - ascending[0] >= np.pi - 2 * step:
        raise InputError(
            f"the angles cover {math.degrees(ascending[-1] - ascending[0]):.1f} degrees: the rotation centre is found "
            "from opposite projections, which need 180; give the centre"
        )


def _checked_theta(sinograms: NDArray[Any], theta_rad: NDArray[Any]) -> NDArray[np.float64]:
    theta = np.asarray(theta_rad, np.float64)
    if theta.shape != sinograms.shape[:1]:
        raise InputError(
            f"sinograms have the shape {sinograms.shape}, theta {theta.shape}: give one angle a projection"
        )
    check_center_can_be_found(theta, sinograms.shape[-1])
    if not np.isfinite(sinograms).all():
        raise InputError("the sinograms hold values that are not finite: mend bad pixels first")
    return theta


def _checked_search(search: tuple[float, float] | None, columns: int) -> tuple[float, float]:
    if search is None:
        middle = (columns - 1) / 2
        return middle - columns / 4, middle + columns / 4
    lowest, highest = search
    if not 0 <= lowest < highest <= columns - 1:
        raise ParameterError(
            f"search is {lowest} to {highest}: give the lowest and the highest centre, within 0 to {columns - 1}"
        )
    return float(lowest), float(highest)
