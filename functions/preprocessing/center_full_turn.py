"""Rotation centre of a scan over a full turn whose axis may lie anywhere, up to near an edge (double field of view).

Joining the two halves is left to `double_field_of_view`.
"""

from __future__ import annotations

import math
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..errors import InputError, ParameterError
from .center_correlation import SMOOTHING_PX, correlation_coefficients
from .center_estimate import (
    LOW_CONFIDENCE,
    CenterEstimate,
    CenterResult,
    angular_step,
    checked_theta,
    curve_near,
    estimate_of_curve,
)

FieldOfView = Literal["standard", "double"]

_MOST_PAIRS: Final = 400
_RING_WIDTH_PX: Final = 4.0
_EXACT_STEPS: Final = 0.02
_FEWEST_OVERLAPPING: Final = 4
_AWAY_PX: Final = 3.0
_SURE_ENOUGH: Final = 0.5
_MOST_OVERLAP: Final = 0.9
# Odds that the centre is within half a pixel: ((stands out + 0.01) / scale)^power, fitted to simulated scans by
# `benchmarks/rotation_center.py`.
_ODDS: Final = (0.16, 1.06)


def covers_full_turn(theta_rad: NDArray[np.floating[Any]]) -> bool:
    """Whether the angles cover 360 degrees, to two steps."""
    ascending = np.sort(np.asarray(theta_rad, np.float64))
    return bool(len(ascending) > 1 and np.ptp(ascending) >= 2 * np.pi - 2 * angular_step(ascending))


def overlap_columns(columns: int, center: float) -> float:
    """Columns, pixels, that two opposite projections both see of the sample: the width, or less where the axis is off."""
    return 2 * min(center, columns - 1 - center) + 1


def find_center_360(
    sinograms: NDArray[np.float32], theta_rad: NDArray[np.floating[Any]], *, least_overlap: float = 0.03
) -> CenterResult:
    """Rotation centre of a scan over 360 degrees, wherever on the detector the axis lies.

    Projections half a turn apart are mirror images of each other where both see the sample: over 2 d + 1 columns, d being
    the distance of the axis from the nearer edge. The centre is where the correlation coefficient over the columns that
    overlap is largest, over up to 400 pairs of opposite projections at once, of all rows; where a projection has no
    exact opposite it is interpolated between the two next to it. What stays in its column at all angles (rings) is
    removed before, because it would correlate with nothing.

    Parameters
    ----------
    sinograms : (angles, rows, columns) float32, line integrals, dimensionless
        A few rows from different heights of the detector.
    theta_rad : (angles,), radians
        Covers 360 degrees, in any order.
    least_overlap : float
        Smallest overlap that is looked for, a share of the width.

    Returns
    -------
    CenterResult
        Its confidence comes from how far the best coefficient stands out from the next best more than 3 pixels away.
        See `overlap_columns` for the overlap.

    Raises
    ------
    InputError
        The shapes do not fit, a value is not finite, or the angles cover less than 360 degrees.
    ParameterError
        `least_overlap` is out of range.
    """
    if sinograms.ndim != 3 or not sinograms.shape[1]:
        raise InputError(f"sinograms have the shape {sinograms.shape}: give (angles, rows, columns) with a row or more")
    theta = checked_theta(sinograms, theta_rad)
    if not covers_full_turn(theta):
        raise InputError(
            f"the angles cover {math.degrees(np.ptp(theta)):.1f} degrees: the axis of a double field of view is found from "
            "360; give the centre, or scan.field_of_view=standard"
        )
    if not 0 < least_overlap < 1:
        raise ParameterError(f"least_overlap is {least_overlap}: give a share of the width, above 0 and below 1")
    columns = sinograms.shape[2]
    farthest = columns - max(_FEWEST_OVERLAPPING, math.ceil(least_overlap * columns))
    shifts = np.arange(-farthest, farthest + 1)
    first, second = (part.reshape(-1, columns) for part in _without_rings(*_opposite(sinograms, theta)))
    metric = 1 - correlation_coefficients(first, second[:, ::-1], shifts)
    found = estimate_of_curve((columns - 1 + shifts) / 2, metric)
    confidence = _confidence(found)
    warning = None
    if confidence < LOW_CONFIDENCE:
        warning = (
            f"the overlap of opposite projections does not clearly show the rotation centre; {found.center:.2f} was taken "
            f"({overlap_columns(columns, found.center):.0f} of {columns} columns overlap), with confidence "
            f"{confidence:.2f}: look at trial slices"
        )
    return CenterResult(
        found.center, confidence, "overlap", {"overlap": found.center}, curve_near(found, found.center), warning
    )


def suggest_field_of_view(
    sinograms: NDArray[np.float32], theta_rad: NDArray[np.floating[Any]], center: float | None = None
) -> FieldOfView:
    """Whether a scan is one with a double field of view: the axis off centre, and the sample wider than the detector.

    Parameters
    ----------
    sinograms : (angles, rows, columns) float32, line integrals, dimensionless
    theta_rad : (angles,), radians
    center : float or None
        Rotation centre in pixels where it is known; else `find_center_360` looks for it, and has to be sure.

    Returns
    -------
    {"standard", "double"}
        ``double`` where the angles cover 360 degrees, less than nine tenths of the columns overlap, and the sample
        reaches beyond the edge nearer to the axis. A sample that ends within the field of view needs no second half.
    """
    if not covers_full_turn(theta_rad):
        return "standard"
    if center is None:
        result = find_center_360(sinograms, theta_rad)
        if result.confidence < _SURE_ENOUGH:
            return "standard"
        center = result.center
    columns = sinograms.shape[2]
    if overlap_columns(columns, center) > _MOST_OVERLAP * columns:
        return "standard"
    return "double" if _leaves_near_edge(sinograms, center) else "standard"


def _confidence(found: CenterEstimate) -> float:
    away = np.abs(found.candidates - found.center) > _AWAY_PX
    best = float(found.metric.min())
    next_best = float(found.metric[away].min()) if away.any() else best
    stands_out = max(0.0, next_best / best - 1) if best > 0 else math.inf
    scale, power = _ODDS
    return float(1 / (1 + (scale / (stands_out + 0.01)) ** power))


def _leaves_near_edge(sinograms: NDArray[np.float32], center: float) -> bool:
    """Whether the sample reaches beyond the detector's edge that is nearer to the axis: there is no air there."""
    columns = sinograms.shape[2]
    width = max(2, columns // 50)
    near = sinograms[:, :, :width] if center < (columns - 1) / 2 else sinograms[:, :, -width:]
    return bool(np.percentile(near.mean(axis=2), 75) > 0.1 * np.percentile(sinograms, 95))


def _opposite(
    sinograms: NDArray[np.float32], theta: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Projections of a half turn, and what lies opposite to each, linear between the two neighbours: (pairs, rows, n)."""
    order = np.argsort(theta, kind="stable")
    ascending = theta[order] - theta[order[0]]
    step = angular_step(ascending)
    first = np.flatnonzero((ascending < np.pi - 0.5 * step) & (ascending + np.pi <= ascending[-1] + 0.5 * step))
    first = first[np.linspace(0, len(first) - 1, min(len(first), _MOST_PAIRS)).astype(int)]
    # Steps of no length (an angle taken twice) would have no position between them.
    positions = np.interp(ascending[first] + np.pi, ascending, np.arange(len(ascending)))
    before = np.minimum(positions.astype(int), len(ascending) - 2)
    share = (positions - before).astype(np.float32)[:, None, None]
    share[share < _EXACT_STEPS] = 0
    second = (1 - share) * sinograms[order[before]] + share * sinograms[order[before + 1]]
    return sinograms[order[first]], second


def _without_rings(
    first: NDArray[np.float32], second: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Both without what is the same in all angles and varies from column to column; slightly smoothed."""
    mean = (first.mean(axis=0, dtype=np.float64) + second.mean(axis=0, dtype=np.float64)) / 2
    rings = (mean - ndimage.gaussian_filter1d(mean, _RING_WIDTH_PX, axis=1, mode="nearest")).astype(np.float32)
    smooth = [ndimage.gaussian_filter1d(part - rings, SMOOTHING_PX, axis=2, mode="nearest") for part in (first, second)]
    return smooth[0], smooth[1]
