"""Dark and flat correction: raw counts to transmission and to line integrals, bad pixels mended on the way.

Combining flats and darks is left to `flat_fields`, and reading them to the caller; zingers are removed before (`zingers`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from ..errors import InputError, ParameterError
from ..reconstruction.threads import run_in_threads

_PIECE_VALUES: Final = 2**19
_TINY: Final = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class OpenBeam:
    """What each pixel counts above the dark with the beam and no sample, different in every projection.

    Attributes
    ----------
    fields : (components, rows, columns) float32, counts above the dark
        NaN where a pixel is dead.
    weights : (angles, components) float32, dimensionless
        The open beam of a projection is the sum of the fields with its weights.
    """

    fields: NDArray[np.float32]
    weights: NDArray[np.float32]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(angles, rows, columns) of the projections that it belongs to."""
        return (self.weights.shape[0], *self.fields.shape[1:])

    def rows(self, start: int, stop: int) -> OpenBeam:
        """The same of rows [start, stop) of these."""
        return OpenBeam(self.fields[:, start:stop], self.weights)


def line_integrals(
    projections: NDArray[Any],
    flat: NDArray[np.float32] | OpenBeam,
    dark: NDArray[np.float32],
    minimum_transmission: float,
    *,
    bad_pixels: NDArray[np.bool_] | None = None,
    out: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.float32], int]:
    """Line integrals of the attenuation, -log(transmission).

    Parameters
    ----------
    projections : (angles, rows, columns), any integer or floating dtype, raw counts
    flat : (rows, columns) float32, raw counts; or OpenBeam
        The combined open-beam frame; or one for each projection (`flat_fields`).
    dark : (rows, columns) float32, raw counts
        The combined closed-shutter frame.
    minimum_transmission : float, dimensionless
        Transmissions below it (photon starvation, negative after the dark correction) count as this; above 0.
    bad_pixels : (rows, columns) bool, optional
        Pixels whose values are not used, as `transmission` describes.
    out : (angles, rows, columns) float32, optional
        C-contiguous; filled and returned instead of a new array.

    Returns
    -------
    integrals : (angles, rows, columns) float32, dimensionless
        Each detector row of each projection is computed from itself alone, so any cut into rows or angles and any
        number of threads gives the same bits; the logarithm is within 1 unit of the last place, and is the same on
        every machine.
    mended : int
        How many values were mended, as `transmission` describes.

    Raises
    ------
    InputError
        The shapes do not fit each other.
    ParameterError
        `minimum_transmission` is not above 0.
    """
    minimum = checked_minimum(minimum_transmission)
    return _corrected(projections, flat, dark, bad_pixels, minimum, out)


def transmission(
    projections: NDArray[Any],
    flat: NDArray[np.float32] | OpenBeam,
    dark: NDArray[np.float32],
    *,
    bad_pixels: NDArray[np.bool_] | None = None,
    out: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.float32], int]:
    """Transmission (raw - dark) / (flat - dark), not clipped.

    A pixel is bad where the raw value is not finite, where the flat does not exceed the dark (a dead pixel), or where
    `bad_pixels` says so. It gets the value interpolated linearly between the nearest good pixels to its left and right
    in the same detector row of the same projection, or the nearest good one's at an end of the row. A row without a good
    pixel gets 1 (nothing absorbed).

    Parameters
    ----------
    projections : (angles, rows, columns), any integer or floating dtype, raw counts
    flat : (rows, columns) float32, raw counts; or OpenBeam
    dark : (rows, columns) float32, raw counts
    bad_pixels : (rows, columns) bool, optional
        True where a pixel is bad in all projections (`bad_pixels.read_bad_pixels`).
    out : (angles, rows, columns) float32, optional
        C-contiguous; filled and returned instead of a new array.

    Returns
    -------
    transmissions : (angles, rows, columns) float32, dimensionless
    mended : int
        How many values were mended.

    Raises
    ------
    InputError
        The shapes do not fit each other.
    """
    return _corrected(projections, flat, dark, bad_pixels, None, out)


def minus_log(
    transmissions: NDArray[np.float32], minimum_transmission: float, *, out: NDArray[np.float32] | None = None
) -> tuple[NDArray[np.float32], int]:
    """Line integrals of transmissions that something was done to after `transmission`, such as phase retrieval.

    Parameters
    ----------
    transmissions : (angles, rows, columns) float32, dimensionless
        Values that are not finite are mended as `transmission` mends bad pixels.
    minimum_transmission : float, dimensionless
        Transmissions below it count as this; above 0.
    out : (angles, rows, columns) float32, optional
        C-contiguous; may be `transmissions` itself.

    Returns
    -------
    integrals : (angles, rows, columns) float32, dimensionless
        To the bit what `line_integrals` makes of raw counts with these transmissions.
    mended : int
        How many values were mended.

    Raises
    ------
    InputError
        `transmissions` have not three dimensions.
    ParameterError
        `minimum_transmission` is not above 0.
    """
    if transmissions.ndim != 3:
        raise InputError(f"transmissions have the shape {transmissions.shape}: give them as (angles, rows, columns)")
    minimum = checked_minimum(minimum_transmission)
    frame = transmissions.shape[1:]
    return _corrected(transmissions, np.ones(frame, np.float32), np.zeros(frame, np.float32), None, minimum, out)


def in_pieces_of_angles(shape: tuple[int, ...], task: Callable[[int, int], None]) -> None:
    """Call ``task(first, last)`` for ranges of angles that cover projections of this shape, in this process's threads."""
    angles = shape[0]
    step = max(1, _PIECE_VALUES // max(1, math.prod(shape[1:])))
    run_in_threads(lambda piece: task(piece * step, min((piece + 1) * step, angles)), -(-angles // step))


def for_kernel(projections: NDArray[Any]) -> NDArray[Any]:
    """The same values contiguous in a dtype that the kernels are compiled for: uint8, uint16 or float32."""
    raw = np.asarray(projections)
    native = raw.dtype.newbyteorder("=")
    wanted = native if native in (np.uint8, np.uint16, np.float32) else np.dtype(np.float32)
    # a float64 beyond float32 becomes infinite, which the kernels treat as a bad pixel
    with np.errstate(over="ignore", invalid="ignore"):
        return np.ascontiguousarray(raw, dtype=wanted)


def above_dark(flat: NDArray[np.float32], dark: NDArray[np.float32]) -> NDArray[np.float32]:
    """flat - dark in raw counts, float32; NaN where a pixel is dead (the flat does not exceed the dark)."""
    level = np.asarray(flat, np.float32) - np.asarray(dark, np.float32)
    return np.where(np.isfinite(level) & (level > 0), level, np.float32(np.nan))


def checked_minimum(minimum_transmission: float) -> float:
    """The least transmission, raised to what float32 can hold; `ParameterError` where it is not above 0."""
    if not minimum_transmission > 0:
        raise ParameterError(
            f"minimum_transmission is {minimum_transmission}, but its logarithm is taken: give a value above 0, "
            "such as 0.01"
        )
    # the logarithm below is for normalised numbers
    return max(minimum_transmission, _TINY)


def _corrected(
    projections: NDArray[Any],
    flat: NDArray[np.float32] | OpenBeam,
    dark: NDArray[np.float32],
    bad_pixels: NDArray[np.bool_] | None,
    minimum: float | None,
    out: NDArray[np.float32] | None,
) -> tuple[NDArray[np.float32], int]:
    _check_frames(projections, flat, dark, bad_pixels)
    raw = for_kernel(projections)
    dark32 = np.ascontiguousarray(dark, np.float32)
    if isinstance(flat, OpenBeam):
        fields, weights = flat.fields, np.ascontiguousarray(flat.weights, np.float32)
    else:
        fields, weights = above_dark(flat, dark)[np.newaxis], np.ones((len(raw), 1), np.float32)
    if bad_pixels is not None:
        fields = np.where(bad_pixels, np.float32(np.nan), fields)
    fields = np.ascontiguousarray(fields, np.float32)
    values = checked_out(raw.shape, out)
    log_above = np.float32(np.nan if minimum is None else minimum)
    mended = []

    def correct(first: int, last: int) -> None:
        level = np.empty(raw.shape[2], np.float32)
        mended.append(
            _correct(raw[first:last], dark32, fields, weights[first:last], level, log_above, values[first:last])
        )

    in_pieces_of_angles(raw.shape, correct)
    return values, sum(mended)


def checked_out(shape: tuple[int, ...], out: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """`out`, or a new float32 array; raises `InputError` where it is of another shape or kind."""
    if out is None:
        return np.empty(shape, np.float32)
    if out.shape != shape or out.dtype != np.float32 or not out.flags.c_contiguous:
        raise InputError(f"out is {out.dtype} of shape {out.shape}: give a C-contiguous float32 array of shape {shape}")
    return out


def _check_frames(
    projections: NDArray[Any],
    flat: NDArray[np.float32] | OpenBeam,
    dark: NDArray[np.float32],
    bad_pixels: NDArray[np.bool_] | None,
) -> None:
    """Raise `InputError` unless flat, dark and the bad pixels are frames of the projections' shape."""
    wanted = projections.shape if isinstance(flat, OpenBeam) else projections.shape[1:]
    if projections.ndim != 3 or flat.shape != wanted or dark.shape != projections.shape[1:]:
        raise InputError(
            f"projections have the shape {projections.shape}, the flat {flat.shape}, the dark {dark.shape}: "
            "give projections (angles, rows, columns), and flat and dark as (rows, columns) of the same detector rows"
        )
    if bad_pixels is not None and bad_pixels.shape != projections.shape[1:]:
        raise InputError(
            f"bad_pixels have the shape {bad_pixels.shape}, the projections {projections.shape}: give the map of the "
            "same detector rows and columns"
        )


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _correct(
    raw: NDArray[Any],
    dark: NDArray[np.float32],
    fields: NDArray[np.float32],
    weights: NDArray[np.float32],
    level: NDArray[np.float32],
    minimum: np.float32,
    out: NDArray[np.float32],
) -> int:
    """Transmissions, or their logarithm where `minimum` is a number; returns how many values were mended."""
    angles, rows, columns = raw.shape
    mended = 0
    for angle in range(angles):
        for y in range(rows):
            row = out[angle, y]
            for x in range(columns):
                level[x] = np.float32(0)
            for k in range(fields.shape[0]):
                # a pixel that is dead in a field without weight is none here
                if weights[angle, k] != np.float32(0):
                    for x in range(columns):
                        level[x] += weights[angle, k] * fields[k, y, x]
            bad = 0
            for x in range(columns):
                value = (np.float32(raw[angle, y, x]) - dark[y, x]) / level[x]
                # written so that a NaN on either side is bad
                good = (abs(value) < np.float32(np.inf)) & (level[x] > np.float32(0))
                row[x] = value if good else np.float32(np.nan)
                bad += not good
            if bad:
                mend_row(row, columns)
                mended += bad
            if minimum > np.float32(0):
                for x in range(columns):
                    row[x] = _negative_log(max(row[x], minimum))
    return mended


@numba.njit(cache=True, nogil=True, error_model="numpy")
def mend_row(row: NDArray[np.float32], columns: int) -> None:
    """Replace values that are not finite by linear interpolation between the finite ones beside them, in place.

    At an end of the row's first `columns` values the nearest finite one is repeated; a row without any becomes 1.
    """
    left = -1
    x = 0
    while x < columns:
        if abs(row[x]) < np.float32(np.inf):
            left = x
            x += 1
            continue
        right = x + 1
        while right < columns and not abs(row[right]) < np.float32(np.inf):
            right += 1
        if left < 0 and right == columns:
            start = end = np.float32(1)
        else:
            start = row[left] if left >= 0 else row[right]
            end = row[right] if right < columns else start
        for k in range(x, right):
            row[k] = start + (end - start) * np.float32(k - left) / np.float32(right - left)
        x = right


def _type_exponent_and_mantissa(typing_context: Any, x: Any) -> Any:
    """(k, m) of a positive normalised float32 x = m 2^k with 0.7071 <= m < 1.4142, both float32.

    Taken from the bits of the number: numba has no way to say that on values, and LLVM then works on vectors of them.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        integer, single = ir.IntType(32), ir.FloatType()
        bits = builder.bitcast(arguments[0], integer)
        root_half = ir.Constant(integer, 0x3F3504F3)
        twenty_three = ir.Constant(integer, 23)
        exponent = builder.ashr(builder.sub(bits, root_half), twenty_three)
        mantissa = builder.bitcast(builder.sub(bits, builder.shl(exponent, twenty_three)), single)
        return cgutils.pack_array(builder, [builder.sitofp(exponent, single), mantissa])  # type: ignore[no-untyped-call]

    pair: Any = types.UniTuple(types.float32, 2)  # type: ignore[no-untyped-call]
    return pair(types.float32), generate


_exponent_and_mantissa: Any = intrinsic(_type_exponent_and_mantissa)


# The first has so few digits that its multiples by an exponent are exact.
_LN2_HIGH: Final = np.float32(0.693359375)
_LN2_LOW: Final = np.float32(math.log(2) - 0.693359375)
_TWO_THIRDS, _TWO_FIFTHS, _TWO_SEVENTHS, _TWO_NINTHS = (np.float32(2 / n) for n in (3, 5, 7, 9))


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _negative_log(x: np.float32) -> np.float32:
    """-log(x) of a positive normalised float32.

    With x = (1 + f) 2^k and s = f / (2 + f) the series log(1 + f) = 2 (s + s^3/3 + s^5/5 + ...) converges fast, as
    |s| < 0.172; 2 s = f - s f keeps the exactly known f apart. Sums and products alone: loops over it become vectors.
    """
    exponent, mantissa = _exponent_and_mantissa(x)
    f = mantissa - np.float32(1)
    s = f / (np.float32(2) + f)
    z = s * s
    tail = z * (_TWO_THIRDS + z * (_TWO_FIFTHS + z * (_TWO_SEVENTHS + z * _TWO_NINTHS)))
    result: np.float32 = (s * (f - tail) - exponent * _LN2_LOW - f) - exponent * _LN2_HIGH
    return result
