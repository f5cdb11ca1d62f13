"""Finds the rotation centre of a scan by three independent methods, and says how far they agree.

Works on line integrals of a few detector rows. Each method is a module of its own (`center_vo`, `center_correlation`,
`center_sharpness`; `center_full_turn` for a double field of view), and named here for callers. Reconstructing, which one
method needs, is left to a function the caller gives.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .center_correlation import correlation_over_pairs, find_center_correlation, opposite_pairs
from .center_estimate import (
    LOW_CONFIDENCE,
    CenterEstimate,
    CenterResult,
    check_center_can_be_found,
    checked_search,
    checked_theta,
    curve_near,
    estimate_of_curve,
)
from .center_full_turn import (
    FieldOfView,
    covers_full_turn,
    find_center_360,
    overlap_columns,
    suggest_field_of_view,
)
from .center_sharpness import Reconstruct, candidates_around, find_center_sharpness
from .center_vo import find_center_vo

__all__ = [
    "AGREEMENT_PX",
    "LOW_CONFIDENCE",
    "CenterEstimate",
    "CenterResult",
    "FieldOfView",
    "Reconstruct",
    "check_center_can_be_found",
    "covers_full_turn",
    "find_center",
    "find_center_360",
    "find_center_correlation",
    "find_center_sharpness",
    "find_center_vo",
    "opposite_pairs",
    "overlap_columns",
    "suggest_field_of_view",
]

AGREEMENT_PX: Final = 0.5
"""Methods that come as near as this to the answer are named as those that it rests on."""

_SHARPNESS_ROWS: Final = 2
_SAME_SHARPNESS_PX: Final = 0.25
_SPREAD_FLOOR_PX: Final = 0.1
# Odds that the answer is within half a pixel, by the spread of two or three methods: ((spread + floor) / scale)^-power,
# fitted to simulated scans by `benchmarks/rotation_center.py`. On 150 scans that the fit had not seen, answers with a
# confidence of 0.9 or more were right in 91 of 100 (it said 95), those below 0.8 in 45 (it said 45).
_TWO_METHODS: Final = (1.0, 1.65)
_THREE_METHODS: Final = (3.3, 1.15)
_AT_END_CONFIDENCE: Final = 0.1
_AT_END_PX: Final = 1.0


def find_center(
    sinograms: NDArray[np.float32],
    theta_rad: NDArray[np.floating[Any]],
    reconstruct: Reconstruct | None = None,
    search: tuple[float, float] | None = None,
    *,
    search_share: float = 0.25,
) -> CenterResult:
    """Rotation centre of a scan from a few of its detector rows, by methods that check each other.

    Vo's method on each row (the median counts) and the correlation of opposite projections (over all rows at once) each
    give a centre; slices of the two clearest rows, reconstructed around both answers, give a third by their sharpness.
    The answer is the sharpest where both rows are sharpest at the same centre, to a quarter of a pixel, else the median of
    the three. Of the combinations tried on simulated scans (mean, median, the mean of the two closest, sharpness where
    the others disagree) this and the median were right most often, and this alone also where a sample moved at the
    beginning or the end: that shifts both of the other methods, which rest on the seam of the two half turns. How far
    the three lie apart says how sure the answer is, better than any property of their curves.

    Without `reconstruct` the answer is the mean of the first two where they agree within `AGREEMENT_PX`, else Vo's,
    because it uses all projections.

    Parameters
    ----------
    sinograms : (angles, rows, columns) float32, line integrals, dimensionless
        A few rows from different heights of the detector, stripes removed.
    theta_rad : (angles,), radians
        Covers 180 degrees or more, in any order.
    reconstruct : callable or None
        See `Reconstruct`; any quick method, for the same angles.
    search : (lowest, highest) or None
        Where the centre may lie, pixels; by default `search_share` of the width to each side of the middle.
    search_share : float
        Above 0 and below 0.5.

    Returns
    -------
    CenterResult

    Raises
    ------
    InputError
        The shapes do not fit, a value is not finite, or the angles cover less than 180 degrees.
    ParameterError
        `search` lies outside the detector or is empty, or `search_share` is out of range.
    """
    if sinograms.ndim != 3 or not sinograms.shape[1]:
        raise InputError(f"sinograms have the shape {sinograms.shape}: give (angles, rows, columns) with a row or more")
    theta = checked_theta(sinograms, theta_rad)
    columns = sinograms.shape[2]
    search = checked_search(search, search_share, columns)
    rows = [find_center_vo(sinograms[:, row], theta, search) for row in range(sinograms.shape[1])]
    found = {"vo": _clearest(rows), "correlation": correlation_over_pairs(sinograms, theta, search)}
    if reconstruct is not None:
        clear = sorted(range(len(rows)), key=lambda row: -rows[row].confidence)[:_SHARPNESS_ROWS]
        candidates = candidates_around([estimate.center for estimate in found.values()], columns)
        by_row = [find_center_sharpness(sinograms[:, [row]], reconstruct, candidates) for row in clear]
        found["sharpness"] = estimate_of_curve(candidates, np.mean([row.metric for row in by_row], axis=0))
        if _sharp_beyond_doubt(found["sharpness"], by_row):
            return _combined(found, found["sharpness"].center, search)
    return _combined(found, _middle(found), search)


def _clearest(rows: list[CenterEstimate]) -> CenterEstimate:
    """The median over the rows with at least half the confidence of the clearest: rows without sample do not count."""
    clearest = max(estimate.confidence for estimate in rows)
    clear = sorted((row for row in rows if row.confidence >= clearest / 2), key=lambda row: row.center)
    middle = clear[len(clear) // 2]
    center = float(np.median([estimate.center for estimate in clear]))
    return CenterEstimate(center, middle.confidence, middle.candidates, middle.metric)


def _sharp_beyond_doubt(sharpness: CenterEstimate, by_row: list[CenterEstimate]) -> bool:
    """Whether two rows are sharpest at the same centre, and that is inside the range tried."""
    inside = sharpness.candidates[2] <= sharpness.center <= sharpness.candidates[-3]
    return inside and len(by_row) > 1 and float(np.ptp([row.center for row in by_row])) <= _SAME_SHARPNESS_PX


def _middle(found: dict[str, CenterEstimate]) -> float:
    centers = [estimate.center for estimate in found.values()]
    if len(centers) == 2 and abs(centers[0] - centers[1]) > AGREEMENT_PX:
        return centers[0]
    return float(np.median(centers))


def _combined(found: dict[str, CenterEstimate], center: float, search: tuple[float, float]) -> CenterResult:
    estimates = {name: estimate.center for name, estimate in found.items()}
    spread = max(estimates.values()) - min(estimates.values())
    confidence = _confidence(spread, len(estimates))
    named = [name for name, value in estimates.items() if abs(value - center) <= AGREEMENT_PX]
    said = ", ".join(f"{name} {value:.2f}" for name, value in estimates.items())
    warning = None
    if any(not estimate.confidence > 0 for name, estimate in found.items() if name != "sharpness"):
        confidence = 0.0
        warning = "no rotation centre can be seen in the sampled rows: is there a sample in the beam?"
    elif not search[0] + _AT_END_PX <= center <= search[1] - _AT_END_PX:
        confidence = min(confidence, _AT_END_CONFIDENCE)
        warning = (
            f"the rotation centre {center:.2f} lies at the end of the range searched, {search[0]:.1f} to {search[1]:.1f} "
            f"pixels ({said}): search further, or give the centre"
        )
    elif confidence < LOW_CONFIDENCE:
        warning = (
            f"the methods for the rotation centre disagree by {spread:.2f} pixels ({said}); {center:.2f} was taken, with "
            f"confidence {confidence:.2f}: look at trial slices"
        )
    curve = curve_near(found[named[0]], center)
    return CenterResult(center, confidence, "+".join(named), estimates, curve, warning)


def _confidence(spread: float, methods: int) -> float:
    scale, power = _THREE_METHODS if methods == 3 else _TWO_METHODS
    return float(1 / (1 + ((spread + _SPREAD_FLOOR_PX) / scale) ** power))
