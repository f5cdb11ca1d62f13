"""The proximal step of total variation, for batches of slices in lanes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from .direct import Floats, circle_columns
from .lane_arrays import CHUNK_BYTES, Doubles, inside_circle, lane_values
from .operators import LANES, Array
from .threads import run_in_threads

TV_STEPS = 5  # of the dual ascent in each proximal step; it continues where the step before it ended


class TotalVariationStep:
    """The proximal step of total variation: argmin over u between the bounds of |u - v|^2 / 2 + threshold TV(u).

    Solved approximately by a few steps of dual ascent that continue from the last call's: between calls v changes
    little. Differences across the circle's rim do not count.

    Parameters
    ----------
    like : (columns, columns, lanes) array or tensor
        Slices of the kind to work on.
    threshold : (lanes,) float64
        Above 0.
    minimum, maximum : float, optional
        Bounds of u.
    """

    def __init__(
        self, like: Array, threshold: Doubles, minimum: float | None = None, maximum: float | None = None
    ) -> None:
        self._bounds, self._threshold = (minimum, maximum), threshold
        self._down, self._right, self._smooth = like * 0, like * 0, like * 0
        self._circle, self._inside = circle_columns(like.shape[0]), inside_circle(like)

    def __call__(self, v: Array, steps: int = TV_STEPS) -> Array:
        """The smoothed slices; the array is used again by the next call."""
        step = self._step_on_cpu if isinstance(v, np.ndarray) else self._step
        for _ in range(steps):
            step(v)
        return self._smooth

    def _step(self, v: Array) -> None:
        """Plainly, for any device: u from the dual, then the dual from u's differences."""
        down, right, u, inside = self._down, self._right, self._smooth, self._inside
        threshold = lane_values(self._threshold, v)
        ascent = lane_values(1 / (8 * self._threshold), v)
        divergence = down + right
        divergence[1:] -= down[:-1]
        divergence[:, 1:] -= right[:, :-1]
        u[:] = (v + divergence * threshold) * inside
        if self._bounds != (None, None):
            u[:] = u.clip(*self._bounds) * inside
        down[:-1] += (u[1:] - u[:-1]) * inside[1:] * inside[:-1] * ascent
        right[:, :-1] += (u[:, 1:] - u[:, :-1]) * inside[:, 1:] * inside[:, :-1] * ascent
        length = ((down * down + right * right) ** 0.5).clip(1)
        down /= length
        right /= length

    def _step_on_cpu(self, v: Floats) -> None:
        n = v.shape[0]
        low = np.float32(-np.inf if self._bounds[0] is None else self._bounds[0])
        high = np.float32(np.inf if self._bounds[1] is None else self._bounds[1])
        threshold = np.tile(self._threshold.astype(np.float32), n)
        ascent = np.tile((1 / (8 * self._threshold)).astype(np.float32), n)
        image, down, right, smooth = (array.reshape(n, -1) for array in (v, self._down, self._right, self._smooth))
        chunk = max(1, CHUNK_BYTES // (4 * image.shape[1]))
        count = -(-n // chunk)

        def primal(index: int) -> None:
            rows = index * chunk, min(n, (index + 1) * chunk)
            _tv_primal(image, down, right, smooth, self._circle, threshold, low, high, *rows)

        def dual(index: int) -> None:
            rows = index * chunk, min(n, (index + 1) * chunk)
            _tv_dual(down, right, smooth, self._circle, ascent, *rows)

        run_in_threads(primal, count)
        run_in_threads(dual, count)


@njit(cache=True, nogil=True, error_model="numpy")
def _tv_primal(
    v: Floats,
    down: Floats,
    right: Floats,
    u: Floats,
    circle: npt.NDArray[np.int64],
    threshold: Floats,
    low: np.float32,
    high: np.float32,
    first_row: int,
    last_row: int,
) -> None:
    """u = v + threshold * divergence of the dual, between the bounds; rows hold all lanes of all columns."""
    for row in range(first_row, last_row):
        above = down[max(row - 1, 0)]
        has_above = np.float32(row > 0)
        for i in range(circle[row, 0] * LANES, circle[row, 1] * LANES):
            left = right[row, i - LANES] if i >= LANES else np.float32(0)
            value = v[row, i] + threshold[i] * (down[row, i] - has_above * above[i] + right[row, i] - left)
            u[row, i] = min(max(value, low), high)


@njit(cache=True, nogil=True, error_model="numpy")
def _tv_dual(
    down: Floats,
    right: Floats,
    u: Floats,
    circle: npt.NDArray[np.int64],
    ascent: Floats,
    first_row: int,
    last_row: int,
) -> None:
    """Add ascent * differences of u to the dual where both pixels are in the circle; keep its vectors within length 1."""
    for row in range(first_row, last_row):
        below = min(row + 1, u.shape[0] - 1)  # of the last row nothing is below: the difference is 0
        from_below, to_below = circle[below, 0] * LANES, circle[below, 1] * LANES
        end = circle[row, 1] * LANES
        for i in range(circle[row, 0] * LANES, end):
            difference_down, difference_right = np.float32(0), np.float32(0)
            if from_below <= i < to_below:
                difference_down = u[below, i] - u[row, i]
            if i + LANES < end:
                difference_right = u[row, i + LANES] - u[row, i]
            y, x = down[row, i] + ascent[i] * difference_down, right[row, i] + ascent[i] * difference_right
            shorten = np.float32(1) / max(np.float32(1), np.sqrt(y * y + x * x))
            down[row, i], right[row, i] = y * shorten, x * shorten
