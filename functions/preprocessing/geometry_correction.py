"""Straightens projections: lens distortion and a tilted rotation axis are undone and pixels binned, in one resampling.

Works on transmissions, so that what is averaged are intensities. Where the axis then lies is for `rotation_center` to find.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numba
import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, ParameterError
from ..reconstruction.threads import run_in_threads

BINNINGS: Final = (1, 2, 4, 8)

_TAPS: Final = 4
_ANGLES_A_TASK: Final = 512
_MOST_TILT_DEG: Final = 45.0
_MOST_STRETCH: Final = 1.5
_CHECKED_POINTS: Final = 33


class GeometryCorrection:
    """Correction of a region of the detector's picture, for any of its rows.

    A pixel of the corrected picture is looked up in the raw one at::

        x', y' = turned back by the tilt, around the middle of the detector
        r      = distance of (x', y') from the centre of distortion
        x, y   = centre + (x', y' - centre) * (c0 + c1 r + c2 r^2 + ...)

    in detector pixels: the backward model of Vo, Atwood & Drakopoulos 2015, Opt. Express 23, 32859,
    DOI 10.1364/OE.23.032859, whose coefficients as Discorpy and Algotom write them may be used as they are. Values between
    pixels are interpolated with Keys' cubic kernel (1981, DOI 10.1109/TASSP.1981.1163711), exact for polynomials of
    second degree; beside the region its edge values count. Binned pixels are the mean over the pixels that they are made
    of, each interpolated: no second resampling. Rows and columns that do not fill a binned pixel are left out at the end.

    Parameters
    ----------
    shape : (rows, columns)
        Of the region, unbinned pixels.
    binning : {1, 2, 4, 8}
    axis_tilt_deg : float
        Angle of the rotation axis against the detector's columns, degrees, counter-clockwise in the picture as displayed
        (row 0 at the top): with a positive tilt the axis' top leans to the left.
    distortion_coefficients : sequence of float
        c0, c1, ... in 1, 1/pixel, 1/pixel^2, ...; empty for none.
    distortion_center_px : (column, row) or None
        Centre of distortion in pixels of the whole detector; by default its middle.
    detector_shape : (rows, columns) or None
        Of the whole detector; by default `shape`.
    origin : (row, column)
        First row and column of the region on the detector.

    Attributes
    ----------
    shape : (int, int)
        Of the region, raw pixels.
    output_shape : (int, int)
        Of the corrected picture, (rows, columns).
    binning : int
    is_identity : bool
        Whether there is nothing to correct; `apply` then only takes the rows.

    Raises
    ------
    ParameterError
        The binning is not one of those, or larger than the region; the distortion stretches the picture by more than half
        or folds it.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        *,
        binning: int = 1,
        axis_tilt_deg: float = 0.0,
        distortion_coefficients: Sequence[float] = (),
        distortion_center_px: Sequence[float] | None = None,
        detector_shape: tuple[int, int] | None = None,
        origin: tuple[int, int] = (0, 0),
    ) -> None:
        if binning not in BINNINGS:
            raise ParameterError(f"scan.binning={binning}: give one of {', '.join(map(str, BINNINGS))}")
        if binning > min(shape):
            raise ParameterError(
                f"scan.binning={binning}: the {shape[0]} x {shape[1]} pixels that are used do not fill one binned pixel; "
                "lower it, or use more rows (scan.rows)"
            )
        self.shape = shape
        self.binning = binning
        self.output_shape = (shape[0] // binning, shape[1] // binning)
        detector_rows, detector_columns = detector_shape or shape
        middle = ((detector_columns - 1) / 2, (detector_rows - 1) / 2)
        center = middle if distortion_center_px is None else distortion_center_px
        self._coefficients = np.array(distortion_coefficients, np.float64)
        # x, y each
        self._pivot = middle
        self._center = (float(center[0]), float(center[1]))
        self._origin = (origin[1], origin[0])
        self._tilt = math.radians(axis_tilt_deg)
        distorted = self._coefficients.size > 0 and not np.array_equal(np.trim_zeros(self._coefficients, "b"), [1.0])
        self._warps = self._tilt != 0 or distorted
        self.is_identity = not self._warps and binning == 1
        if self._warps:
            if shape[1] < _TAPS:
                raise ParameterError(f"scan.columns: {shape[1]} columns are too few to resample; use at least {_TAPS}")
            if not abs(axis_tilt_deg) <= _MOST_TILT_DEG:
                raise ParameterError(
                    f"scan.axis_tilt_deg={axis_tilt_deg}: give an angle of at most {_MOST_TILT_DEG:g} degrees to either side"
                )
            self._check_stretch(distortion_coefficients)

    def reach(self, start: int, stop: int) -> tuple[int, int]:
        """First raw row and the one past the last, of the region, that corrected rows [start, stop) are made of."""
        self._check_rows(start, stop)
        if not self._warps or start == stop:
            return start * self.binning, stop * self.binning
        top, bottom = (
            _first_taps(np.floor(self._source(row)[0]).astype(np.int64), self.shape[0])
            for row in (start * self.binning, stop * self.binning - 1)
        )
        return int(top.min()), int(bottom.max()) + min(_TAPS, self.shape[0])

    def apply(self, projections: NDArray[np.float32], first_row: int, start: int, stop: int) -> NDArray[np.float32]:
        """Corrected rows [start, stop), the same to the bit whichever raw rows come with those that they need.

        Parameters
        ----------
        projections : (angles, rows, columns) float32, transmissions
            Raw rows from `first_row` on, all columns of the region; as many as `reach` says, or more.
        first_row : int
            Row of the region that comes first in `projections`.
        start, stop : int
            Half-open range of corrected rows.

        Returns
        -------
        (angles, stop - start, columns) float32, transmissions
            A part of `projections`, not a copy, where there is nothing to correct.

        Raises
        ------
        InputError
            `projections` lack columns of the region, or rows that are needed.
        """
        low, high = self.reach(start, stop)
        angles, rows, columns = projections.shape
        if columns != self.shape[1] or low < first_row or high > first_row + rows:
            raise InputError(
                f"projections hold the rows {first_row}:{first_row + rows} and {columns} columns; rows {low}:{high} and "
                f"{self.shape[1]} columns are needed for the corrected rows {start}:{stop}"
            )
        if self.is_identity:
            return projections[:, start - first_row : stop - first_row]
        raw = np.ascontiguousarray(projections, np.float32)
        if self._warps and self.shape[0] < _TAPS:
            # such rows have no weight
            raw = np.pad(raw, ((0, 0), (0, _TAPS - self.shape[0]), (0, 0)))
        corrected = np.empty((angles, stop - start, self.output_shape[1]), np.float32)
        chunks = -(-angles // _ANGLES_A_TASK)

        def correct(task: int) -> None:
            row, chunk = divmod(task, chunks)
            some = slice(chunk * _ANGLES_A_TASK, (chunk + 1) * _ANGLES_A_TASK)
            first = (start + row) * self.binning
            if self._warps:
                _resample(raw[some], first_row, *self._lookup(first), corrected[some, row])
            else:
                _bin(raw[some], first - first_row, self.binning, corrected[some, row])

        run_in_threads(correct, (stop - start) * chunks)
        return corrected

    def _source(self, row: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Raw rows and columns, (columns,) each, where the pixels of an unbinned corrected row lie; not beyond the edge."""
        x = np.arange(self.shape[1]) + (self._origin[0] - self._pivot[0])
        y = np.full(self.shape[1], row + self._origin[1] - self._pivot[1])
        sine, cosine = math.sin(self._tilt), math.cos(self._tilt)
        x, y = cosine * x + sine * y + self._pivot[0], cosine * y - sine * x + self._pivot[1]
        if self._coefficients.size:
            x, y = x - self._center[0], y - self._center[1]
            factor = np.polynomial.polynomial.polyval(np.sqrt(x * x + y * y), self._coefficients)
            x, y = factor * x + self._center[0], factor * y + self._center[1]
        rows, columns = self.shape
        return np.clip(y - self._origin[1], 0, rows - 1), np.clip(x - self._origin[0], 0, columns - 1)

    def _lookup(self, first: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Where the pixels of one corrected row, whose first unbinned row is given, come from.

        Returns
        -------
        cells : (binning, binned columns * binning, 3) int32
            First raw row and first raw column of the 4 x 4 that each is made of, and the end of its run.
        weights : (8, binning, binned columns * binning) float32
            Of the four rows, divided by the pixels that are binned to one, and of the four columns.
        """
        used = self.output_shape[1] * self.binning
        cells = np.empty((self.binning, used, 3), np.int32)
        weights = np.empty((2 * _TAPS, self.binning, used), np.float32)
        for sub in range(self.binning):
            y, x = self._source(first + sub)
            rows, row_weights = _weigh(y[:used], self.shape[0])
            columns, column_weights = _weigh(x[:used], self.shape[1])
            cells[sub] = np.stack([rows, columns, _run_ends(rows, columns)], axis=-1)
            weights[:_TAPS, sub] = row_weights / self.binning**2
            weights[_TAPS:, sub] = column_weights
        return cells, weights

    def _check_rows(self, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= self.output_shape[0]:
            raise ValueError(f"rows {start}:{stop} lie outside 0:{self.output_shape[0]}")

    def _check_stretch(self, coefficients: Sequence[float]) -> None:
        """Refuse a map that is no small deformation: of a coefficient in the wrong place or unit, for the most part."""
        rows, columns = (
            np.linspace(0, size - 1, _CHECKED_POINTS) + first
            for size, first in zip(self.shape, self._origin[::-1], strict=True)
        )
        x, y = np.meshgrid(columns, rows)
        radius = np.hypot(x - self._center[0], y - self._center[1])
        powers = radius[..., None] ** np.arange(max(1, self._coefficients.size))
        coefficient = self._coefficients if self._coefficients.size else np.ones(1)
        # along the circle, and along the radius: d(r f)/dr
        along = powers @ coefficient
        across = powers @ (coefficient * np.arange(1, coefficient.size + 1))
        stretch = np.concatenate([along.ravel(), across.ravel()])
        if not ((stretch > 1 / _MOST_STRETCH) & (stretch < _MOST_STRETCH)).all():
            raise ParameterError(
                f"scan.distortion_coefficients={list(coefficients)}: would stretch the picture {stretch.min():.3g} to "
                f"{stretch.max():.3g} fold; give the backward polynomial's coefficients from the constant term (about 1) on, "
                "for distances in detector pixels"
            )


def _first_taps(cells: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """First of the four pixels around each cell; moved inwards at the edge, so that all four are there."""
    return np.clip(cells - 1, 0, max(0, size - _TAPS))


def _weigh(positions: NDArray[np.float64], size: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """First tap of each position, (n,), and the weights of its four, (4, n).

    What lies beyond the edge counts for the pixel at the edge.
    """
    cells = np.floor(positions).astype(np.int64)
    taps = _first_taps(cells, size)
    f = positions - cells
    kernel = (
        ((1 - 0.5 * f) * f - 0.5) * f,
        (1.5 * f - 2.5) * f * f + 1,
        ((2 - 1.5 * f) * f + 0.5) * f,
        (0.5 * f - 0.5) * f * f,
    )
    weights = np.zeros((_TAPS, positions.size))
    each = np.arange(positions.size)
    for offset, weight in enumerate(kernel, start=-1):
        weights[np.clip(cells + offset, 0, size - 1) - taps, each] += weight
    return taps, weights


def _run_ends(y: NDArray[np.int64], x: NDArray[np.int64]) -> NDArray[np.int64]:
    """One past the last pixel of the run that each is in: y stays, and x goes on by one."""
    ends = np.full(y.size, y.size)
    broken = np.flatnonzero((np.diff(y) != 0) | (np.diff(x) != 1))
    ends[broken] = broken + 1
    return np.minimum.accumulate(ends[::-1])[::-1]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _resample(
    raw: NDArray[np.float32],
    first_row: int,
    cells: NDArray[np.int32],
    weights: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """One corrected row of some projections, (angles, binned columns)."""
    binning, used, _ = cells.shape
    sums = np.empty(used, np.float32)
    for angle in range(raw.shape[0]):
        sums[:] = 0
        for sub in range(binning):
            start = 0
            while start < used:
                y, x, stop = cells[sub, start]
                _add_run(raw[angle], y - first_row, x, weights, sub, start, sums[start:stop])
                start = stop
        for pixel in range(out.shape[1]):
            total = np.float32(0)
            for column in range(pixel * binning, (pixel + 1) * binning):
                total += sums[column]
            out[angle, pixel] = total


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _add_run(
    picture: NDArray[np.float32],
    y: int,
    x: int,
    weights: NDArray[np.float32],
    sub: int,
    start: int,
    sums: NDArray[np.float32],
) -> None:
    """Add the values of a run of pixels; pixel k is made of the columns x + k to x + k + 3 of the four rows from y on."""
    stop, end = start + sums.size, x + sums.size + _TAPS - 1
    # taken one by one, so that each is known to be contiguous, which the vectorised loop needs
    r0, r1, r2, r3 = picture[y, x:end], picture[y + 1, x:end], picture[y + 2, x:end], picture[y + 3, x:end]
    u0, u1, u2, u3 = (
        weights[0, sub, start:stop],
        weights[1, sub, start:stop],
        weights[2, sub, start:stop],
        weights[3, sub, start:stop],
    )
    v0, v1, v2, v3 = (
        weights[4, sub, start:stop],
        weights[5, sub, start:stop],
        weights[6, sub, start:stop],
        weights[7, sub, start:stop],
    )
    for k in range(sums.size):
        a = (u0[k] * r0[k] + u1[k] * r1[k]) + (u2[k] * r2[k] + u3[k] * r3[k])
        b = (u0[k] * r0[k + 1] + u1[k] * r1[k + 1]) + (u2[k] * r2[k + 1] + u3[k] * r3[k + 1])
        c = (u0[k] * r0[k + 2] + u1[k] * r1[k + 2]) + (u2[k] * r2[k + 2] + u3[k] * r3[k + 2])
        d = (u0[k] * r0[k + 3] + u1[k] * r1[k + 3]) + (u2[k] * r2[k + 3] + u3[k] * r3[k + 3])
        sums[k] += (v0[k] * a + v1[k] * b) + (v2[k] * c + v3[k] * d)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _bin(raw: NDArray[np.float32], first: int, binning: int, out: NDArray[np.float32]) -> None:
    """Mean over squares of pixels: one binned row of some projections, (angles, binned columns)."""
    share = np.float32(1 / binning**2)
    for angle in range(raw.shape[0]):
        for pixel in range(out.shape[1]):
            total = np.float32(0)
            for row in range(first, first + binning):
                for column in range(pixel * binning, (pixel + 1) * binning):
                    total += raw[angle, row, column]
            out[angle, pixel] = share * total
