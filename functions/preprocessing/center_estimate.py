"""What the methods for the rotation centre share: the estimate with its curve, the search range, and the checks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, ParameterError

FEWEST_COLUMNS: Final = 16
FEWEST_ANGLES: Final = 8

LOW_CONFIDENCE: Final = 0.8
"""Below this a person should look at trial slices; the result carries a warning."""

_CURVE_REACH_PX: Final = 16.0
_SAME_ANGLE_RAD: Final = 1e-9 * 2 * math.pi


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
        About the probability that the centre is right to half a pixel, 0 to 1: so calibrated on simulated scans (pores,
        loose particles, crystals, shells, smooth and truncated samples; noise, rings, drift of the beam, wobble), see
        `benchmarks/rotation_center.py`.
    method : str
        Names of the methods that came within half a pixel of the answer, joined by ``+``.
    estimates : dict of str to float
        Centre by method, pixels.
    curve : (candidates, metric), each (candidates,) float64
        Of the first method named, around the centre.
    warning : str or None
        What a person should look at where the confidence is below `LOW_CONFIDENCE`.
    """

    center: float
    confidence: float
    method: str
    estimates: dict[str, float]
    curve: tuple[NDArray[np.float64], NDArray[np.float64]]
    warning: str | None


def estimate_of_curve(candidates: NDArray[np.float64], metric: NDArray[np.float64]) -> CenterEstimate:
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


def curve_near(estimate: CenterEstimate, center: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The part of an estimate's curve around its own centre and the one that was taken, for a person to look at."""
    lowest = min(estimate.center, center) - _CURVE_REACH_PX
    highest = max(estimate.center, center) + _CURVE_REACH_PX
    near = (estimate.candidates >= lowest) & (estimate.candidates <= highest)
    return estimate.candidates[near], estimate.metric[near]


def shifts_of(search: tuple[float, float], columns: int) -> NDArray[np.int64]:
    """Whole-pixel shifts of the mirror image, so that (columns - 1 + shift) / 2 covers `search` in half pixels."""
    lowest, highest = search
    return np.arange(math.floor(2 * lowest) - (columns - 1), math.ceil(2 * highest) - (columns - 1) + 1)


def angular_step(ascending: NDArray[np.float64]) -> float:
    """Typical step of angles in ascending order, radians: between those that differ, as a second turn may repeat the first."""
    steps = np.diff(ascending)
    steps = steps[steps > _SAME_ANGLE_RAD]
    return float(np.median(steps)) if steps.size else 0.0


def check_center_can_be_found(theta_rad: NDArray[np.floating[Any]], columns: int) -> None:
    """Refuse what `find_center` cannot work with.

    Raises
    ------
    InputError
        Too few angles or columns, or the angles cover less than 180 degrees.
    """
    theta = np.asarray(theta_rad, np.float64)
    if len(theta) < FEWEST_ANGLES or columns < FEWEST_COLUMNS:
        raise InputError(
            f"{len(theta)} angles of {columns} columns are too few to find the rotation centre, which takes {FEWEST_ANGLES} "
            f"angles and {FEWEST_COLUMNS} columns; give the centre"
        )
    ascending = np.sort(theta)
    step = angular_step(ascending)
    if not ascending[-1] - ascending[0] >= np.pi - 2 * step:
        raise InputError(
            f"the angles cover {math.degrees(ascending[-1] - ascending[0]):.1f} degrees: the rotation centre is found "
            "from opposite projections, which need 180; give the centre"
        )


def checked_theta(sinograms: NDArray[Any], theta_rad: NDArray[Any]) -> NDArray[np.float64]:
    """The angles as float64, once they and the sinograms (angles, ..., columns) have been found usable."""
    theta = np.asarray(theta_rad, np.float64)
    if theta.shape != sinograms.shape[:1]:
        raise InputError(
            f"sinograms have the shape {sinograms.shape}, theta {theta.shape}: give one angle a projection"
        )
    check_center_can_be_found(theta, sinograms.shape[-1])
    if not np.isfinite(sinograms).all():
        raise InputError("the sinograms hold values that are not finite: mend bad pixels first")
    return theta


def checked_search(search: tuple[float, float] | None, share: float, columns: int) -> tuple[float, float]:
    """Where the centre may lie, pixels: `search`, or `share` of the width to each side of the middle."""
    if search is None:
        if not 0 < share < 0.5:
            raise ParameterError(
                f"search_share is {share}: give the part of the width to each side of the middle in which the rotation "
                "centre is searched, above 0 and below 0.5"
            )
        middle = (columns - 1) / 2
        return max(0.0, middle - columns * share), min(columns - 1.0, middle + columns * share)
    lowest, highest = search
    if not 0 <= lowest < highest <= columns - 1:
        raise ParameterError(
            f"search is {lowest} to {highest}: give the lowest and the highest centre, within 0 to {columns - 1}"
        )
    return float(lowest), float(highest)
