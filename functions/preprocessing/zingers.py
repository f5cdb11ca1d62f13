"""Removes zingers, the pixels that a stray X-ray or a cosmic ray lights up in a single projection, from raw counts.

Dead and hot pixels, which are so in all projections, are left to `normalization` and `stripes`.
"""

from __future__ import annotations

from typing import Any, Final

import numba
import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, ParameterError
from .normalization import for_kernel

REACH_ROWS: Final = 1
"""How many rows above and below a row its result depends on: read so many more, and drop them afterwards."""

_SPREADS: Final = 5
# Pure noise exceeds 5 such spreads in 1.3 % of all pixels, whatever the counts;
# without this, a weakly lit pixel's noise passes for a zinger and is cut off at one side only.


def remove_zingers(
    projections: NDArray[Any], dark: NDArray[np.float32], threshold: float
) -> NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.float32]:
    """Replace a pixel that is far brighter than its surroundings by the median of its 3 x 3 neighbourhood.

    With the counts c above the dark and the median m and the second smallest value s of the nine in the neighbourhood
    (the pixel itself included), within one projection, a pixel is a zinger where ::

        c - m > threshold * max(m, 0)   and   c - m > 5 * (m - s)

    The first is the user's: brighter than the surroundings by that fraction. The second keeps noise and edges: the
    spread of the darker neighbours, which zingers do not touch and a single dead pixel does not either, tells how much
    the counts vary here. A zinger becomes m plus its own dark level; every other value is kept to the bit. At the
    detector's border the neighbourhood repeats the border's pixels. Values that are not finite stay, and count in no
    neighbourhood (the pixel's own value stands for them).

    Parameters
    ----------
    projections : (angles, rows, columns), any integer or floating dtype, raw counts
        `REACH_ROWS` more rows at each side than are wanted, where the detector has them.
    dark : (rows, columns) float32, raw counts
        The averaged closed-shutter frame, so that a hot pixel is not taken for a zinger.
    threshold : float, dimensionless
        0.3 removes what is more than 30 % brighter than its surroundings; above 0.

    Returns
    -------
    (angles, rows, columns), raw counts
        uint8 and uint16 stay so, any other dtype becomes float32. `projections` is not changed.

    Raises
    ------
    InputError
        The shapes do not fit each other.
    ParameterError
        `threshold` is not above 0.
    """
    if projections.ndim != 3 or dark.shape != projections.shape[1:]:
        raise InputError(
            f"projections have the shape {projections.shape}, the dark {dark.shape}: give projections "
            "(angles, rows, columns), and the dark as (rows, columns) of the same detector rows"
        )
    if not threshold > 0:
        raise ParameterError(f"threshold is {threshold}: give a fraction above 0, such as 0.3, or leave zingers alone")
    raw = for_kernel(projections)
    out = raw.copy()
    largest = np.float32(np.iinfo(raw.dtype).max if raw.dtype.kind == "u" else np.inf)
    if raw.size:
        _remove(raw, np.ascontiguousarray(dark, np.float32), np.float32(threshold), largest, out)
    return out


@numba.njit(cache=True, parallel=True, error_model="numpy")
def _remove(
    raw: NDArray[Any], dark: NDArray[np.float32], threshold: np.float32, largest: np.float32, out: NDArray[Any]
) -> None:
    angles, rows, columns = raw.shape
    for angle in numba.prange(angles):
        # Counts above the dark of the row above, the row itself and the row below, with the border's pixels repeated.
        window = np.empty((3, columns + 2), np.float32)
        median = np.empty(columns, np.float32)
        _load_row(raw[angle, 0], dark[0], window[0])
        window[1] = window[0]
        for y in range(rows):
            below = min(y + 1, rows - 1)
            _load_row(raw[angle, below], dark[below], window[2])
            _median_row(window, median)
            for x in range(columns):
                excess = window[1, x + 1] - median[x]
                if (
                    excess > threshold * max(median[x], np.float32(0))
                    and excess > np.float32(_SPREADS) * (median[x] - _second_smallest(window, x))
                    and np.isfinite(excess)
                ):
                    value = median[x] + dark[y, x]
                    if largest < np.float32(np.inf):
                        value = min(max(np.rint(value), np.float32(0)), largest)
                    out[angle, y, x] = value
            window[0] = window[1]
            window[1] = window[2]


@numba.njit(cache=True, error_model="numpy")
def _load_row(raw: NDArray[Any], dark: NDArray[np.float32], row: NDArray[np.float32]) -> None:
    columns = raw.size
    for x in range(columns):
        row[x + 1] = np.float32(raw[x]) - dark[x]
    row[0] = row[1]
    row[columns + 1] = row[columns]


@numba.njit(cache=True, error_model="numpy")
def _or(value: np.float32, center: np.float32) -> np.float32:
    """The value, or the centre's where it is not finite."""
    return value if abs(value) < np.float32(np.inf) else center


@numba.njit(cache=True, error_model="numpy")
def _median_row(window: NDArray[np.float32], median: NDArray[np.float32]) -> None:
    """Medians of the 3 x 3 neighbourhoods: columns sorted, then the median of (largest low, middle, smallest high)."""
    for x in range(median.size):
        center = window[1, x + 1]
        a0, a1, a2 = _or(window[0, x], center), _or(window[1, x], center), _or(window[2, x], center)
        b0, b1, b2 = _or(window[0, x + 1], center), center, _or(window[2, x + 1], center)
        c0, c1, c2 = _or(window[0, x + 2], center), _or(window[1, x + 2], center), _or(window[2, x + 2], center)
        a_low, a_mid, a_high = _sorted3(a0, a1, a2)
        b_low, b_mid, b_high = _sorted3(b0, b1, b2)
        c_low, c_mid, c_high = _sorted3(c0, c1, c2)
        median[x] = _sorted3(
            max(a_low, max(b_low, c_low)), _sorted3(a_mid, b_mid, c_mid)[1], min(a_high, min(b_high, c_high))
        )[1]


@numba.njit(cache=True, error_model="numpy")
def _sorted3(a: np.float32, b: np.float32, c: np.float32) -> tuple[np.float32, np.float32, np.float32]:
    low, high = min(a, b), max(a, b)
    return min(low, c), max(low, min(high, c)), max(high, c)


@numba.njit(cache=True, error_model="numpy")
def _second_smallest(window: NDArray[np.float32], x: int) -> np.float32:
    center = window[1, x + 1]
    smallest = second = np.float32(np.inf)
    for dy in range(3):
        for dx in range(3):
            value = _or(window[dy, x + dx], center)
            if value < smallest:
                smallest, second = value, smallest
            elif value < second:
                second = value
    return second
