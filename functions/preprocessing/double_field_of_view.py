"""Joins the halves of a scan over 360 degrees whose rotation axis lies off the middle to projections of a wider field.

Works on line integrals. Where the axis lies is for `rotation_center` to find.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numba
import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, ParameterError
from ..reconstruction.geometry import check_angles
from ..reconstruction.threads import run_in_threads

_TAPS: Final = 16
_TAPER: Final = 8.0
_SAME_POSITION_PX: Final = 1e-6
_SAME_ANGLE_STEPS: Final = 0.01
_MOST_GAP_STEPS: Final = 3.0
_ANGLES_A_TASK: Final = 16


class DoubleFieldOfView:
    """Joins projections over 360 degrees to projections over 180 degrees of up to twice the width.

    A projection and the one half a turn on see the same rays, mirrored at the axis: p(theta + pi, t) = p(theta, -t). The
    joined projections keep the pixels of the detector and go on with mirrored ones beyond the edge that is nearer to
    the axis. These come from between pixels where twice the centre is no whole number: interpolated by a sinc of 16 taps
    under a Kaiser window, which passes all but the highest frequencies. Where both halves see the rays, the one gives way
    to the other smoothly over the whole overlap; the two weights sum to 1, and each half's last pixel, at the edge of the
    detector, has none. Each detector row is computed from itself alone.

    A projection without an exact opposite takes the two projections around that angle, interpolated linearly. Angles of the
    first half turn without any (left out as blocked views, or beyond the end of the scan) are left out: the result lacks a
    wedge there, which reconstruction takes into account.

    Parameters
    ----------
    theta_rad : (angles,) radians
        In any order; the first begins the half turn that is kept.
    columns : int
        Of the detector.
    center : float
        Rotation centre, pixels (pixel centres at integers); near either edge.

    Attributes
    ----------
    theta_rad : (joined angles,) float64, radians
        Ascending from the first angle on, over half a turn.
    columns : int
        Of the joined projections.
    center : float
        Rotation centre in the joined projections, pixels.

    Raises
    ------
    InputError
        The angles do not cover 360 degrees.
    ParameterError
        The centre lies outside the detector.
    """

    def __init__(self, theta_rad: NDArray[np.floating[Any]], columns: int, center: float) -> None:
        theta = check_angles(theta_rad)
        if not 0 <= center <= columns - 1:
            raise ParameterError(
                f"reconstruction.center={center:g}: lies outside the {columns} columns, so the halves of a double field of view "
                "do not overlap; give a column, or scan.field_of_view=standard"
            )
        self._input_shape = (theta.size, columns)
        self.columns = stitched_columns(columns, center)
        self.center = stitched_center(columns, center)
        self._added_left = round(self.center - center)
        self._weights = _direct_weights(columns, center)
        self._mirror, self._taps = _interpolation(2 * center + self._added_left)
        # columns of the result in which mirrored pixels count
        counting = np.flatnonzero(self._weights < 1)
        self._mirrored = (int(counting[0]), int(counting[-1]) + 1)
        self._first, self._low, self._high, self._share, self.theta_rad = _opposites(theta)

    def join(self, projections: NDArray[np.float32]) -> NDArray[np.float32]:
        """Joined projections (joined angles, rows, joined columns) float32 of (angles, rows, columns), line integrals.

        The same to the bit whichever rows come together.

        Raises
        ------
        InputError
            The shape is not that of the angles and columns.
        """
        angles, rows, columns = projections.shape
        if (angles, columns) != self._input_shape:
            raise InputError(
                f"projections have the shape {projections.shape}; needed are (angles, rows, columns) with "
                f"{self._input_shape[0]} angles and {self._input_shape[1]} columns"
            )
        source = np.asarray(projections, np.float32)
        joined = np.empty((self.theta_rad.size, rows, self.columns), np.float32)

        def join_some(task: int) -> None:
            for index in range(task * _ANGLES_A_TASK, min((task + 1) * _ANGLES_A_TASK, self.theta_rad.size)):
                first, low, high = source[self._first[index]], source[self._low[index]], source[self._high[index]]
                share = np.float32(self._share[index])
                into = joined[index]
                _join(
                    first,
                    low,
                    high,
                    share,
                    self._weights,
                    self._added_left,
                    self._taps,
                    self._mirror,
                    self._mirrored,
                    into,
                )

        run_in_threads(join_some, -(-self.theta_rad.size // _ANGLES_A_TASK))
        return joined


def stitch(
    projections: NDArray[np.float32], theta_rad: NDArray[np.floating[Any]], center: float
) -> tuple[NDArray[np.float32], NDArray[np.float64], float]:
    """Join the halves of a scan with a double field of view: `DoubleFieldOfView` in one call.

    Parameters
    ----------
    projections : (angles, rows, columns) float32, line integrals
    theta_rad : (angles,) radians
        Cover 360 degrees.
    center : float
        Rotation centre in columns of the detector, pixels.

    Returns
    -------
    projections : (joined angles, rows, joined columns) float32
    theta_rad : (joined angles,) float64, radians
    center : float
        In columns of the joined projections, pixels.

    Raises
    ------
    InputError, ParameterError
        As `DoubleFieldOfView`.
    """
    field = DoubleFieldOfView(theta_rad, projections.shape[2], center)
    return field.join(projections), field.theta_rad, field.center


def stitched_columns(columns: int, center: float) -> int:
    """Columns of the joined projections: all whole pixels as far from the axis as the detector's farther edge."""
    return max(columns, math.floor(2 * max(center, columns - 1 - center) + _SAME_POSITION_PX) + 1)


def stitched_center(columns: int, center: float) -> float:
    """Rotation centre in the joined projections: columns are added beyond the edge that is nearer to the axis."""
    added = stitched_columns(columns, center) - columns
    return center + added if center < (columns - 1) / 2 else center


def _direct_weights(columns: int, center: float) -> NDArray[np.float32]:
    """Weight of the projection itself in each joined column; what is missing to 1 is that of the mirrored one.

    From 1 to 0 towards the detector's edge that is nearer to the axis, over the overlap, symmetrically: w(t) + w(-t) = 1.
    """
    near_left = center < (columns - 1) / 2
    reach = max(center if near_left else columns - 1 - center, 0.5)
    t = np.arange(stitched_columns(columns, center)) - stitched_center(columns, center)
    x = np.clip(t / reach, -1, 1)
    weights = 0.5 - 0.25 * x * (3 - x * x)
    return np.asarray(1 - weights if near_left else weights, np.float32)


def _interpolation(position: float) -> tuple[int, NDArray[np.float32]]:
    """Whole part of a position, and the weights of the pixels from `taps.size // 2 - 1` before it on.

    A whole position has a single weight, 1, of its own pixel.
    """
    whole = math.floor(position + _SAME_POSITION_PX)
    fraction = max(position - whole, 0.0)
    if fraction <= _SAME_POSITION_PX:
        return whole, np.ones(1, np.float32)
    distance = np.arange(_TAPS) - (_TAPS // 2 - 1) - fraction
    window = np.i0(_TAPER * np.sqrt(np.maximum(1 - (2 * distance / _TAPS) ** 2, 0)))
    taps = np.sinc(distance) * window
    return whole, (taps / taps.sum()).astype(np.float32)


def _opposites(
    theta: NDArray[np.float64],
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]:
    """Projections of the first half turn, and what lies opposite to each.

    Returns
    -------
    first, low, high : (joined angles,) intp
        The projection, and the two around its opposite angle.
    share : (joined angles,) float64
        Of `high`; 0 where `low` is the exact opposite.
    theta : (joined angles,) float64, radians
    """
    turn = 2 * math.pi
    tolerance = 1e-9 * turn
    beyond = np.mod(theta - theta[0] + tolerance, turn) - tolerance
    order = np.argsort(beyond, kind="stable")
    ascending = beyond[order]
    gaps = np.diff(ascending, append=ascending[0] + turn)
    step = float(np.median(gaps[gaps > tolerance]))
    # what lies half a turn on, to a jitter of the stage, is the first one's opposite
    half = order[ascending < math.pi - step / 4]
    wanted = np.mod(beyond[half] + math.pi, turn)
    after = np.searchsorted(ascending, wanted - _SAME_ANGLE_STEPS * step)
    low, high = (after - 1) % theta.size, after % theta.size
    width = np.mod(ascending[high] - ascending[low], turn)
    share = np.divide(np.mod(wanted - ascending[low], turn), width, out=np.ones_like(width), where=width > 0)
    exact = np.abs(np.mod(wanted - ascending[high] + math.pi, turn) - math.pi) <= _SAME_ANGLE_STEPS * step
    low, share = np.where(exact, high, low), np.where(exact, 0.0, share)
    there = exact | (width <= _MOST_GAP_STEPS * step)
    if np.count_nonzero(there) < max(1, half.size / 2):
        raise InputError(
            f"theta: {np.count_nonzero(there)} of the {half.size} projections of the first half turn have an opposite one; a "
            f"double field of view needs angles over 360 degrees, these cover {math.degrees(np.ptp(theta)):.6g}: "
            "set scan.field_of_view=standard"
        )
    return half[there], order[low[there]], order[high[there]], share[there], theta[0] + beyond[half[there]]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _join(
    first: NDArray[np.float32],
    low: NDArray[np.float32],
    high: NDArray[np.float32],
    share: np.float32,
    weights: NDArray[np.float32],
    added_left: int,
    taps: NDArray[np.float32],
    mirror: int,
    mirrored: tuple[int, int],
    out: NDArray[np.float32],
) -> None:
    """Join the rows of one projection with those of its opposite, (rows, columns) each.

    Column j of the result lies at column `mirror` - j of the opposite projection, or between there and the next.
    """
    columns = first.shape[1]
    start, stop = mirrored
    margin = taps.size
    opposite = np.empty(columns + 2 * margin, np.float32)
    between = np.empty(stop - start, np.float32)
    # slices, not sums of indices: loops over them are vectorised
    inner = opposite[margin : margin + columns]
    before = max(margin // 2 - 1, 0)
    leftmost = margin + mirror - (stop - 1) - before
    for row in range(out.shape[0]):
        one, other = low[row], high[row]
        for column in range(columns):
            inner[column] = one[column] * (np.float32(1) - share) + other[column] * share
        opposite[:margin] = inner[0]
        opposite[margin + columns :] = inner[columns - 1]
        between[:] = 0
        for tap in range(taps.size):
            weight = taps[tap]
            values = opposite[leftmost + tap : leftmost + tap + between.size]
            for index in range(between.size):
                between[index] += weight * values[index]
        joined = out[row]
        joined[:] = 0
        joined[added_left : added_left + columns] = first[row]
        for index in range(between.size):
            column = stop - 1 - index
            weight = weights[column]
            joined[column] = weight * joined[column] + (np.float32(1) - weight) * between[index]
