"""Dark and flat correction: raw counts to transmission and to line integrals, bad pixels mended on the way.

Averaging the flats and darks, and reading either, is left to the caller; zingers are removed before (`zingers`).
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, ParameterError


def line_integrals(
    projections: NDArray[Any],
    flat: NDArray[np.float32],
    dark: NDArray[np.float32],
    minimum_transmission: float,
) -> tuple[NDArray[np.float32], int]:
    """Line integrals of the attenuation, -log(transmission).

    Parameters
    ----------
    projections : (angles, rows, columns), any integer or floating dtype, raw counts
    flat, dark : (rows, columns) float32, raw counts
        The averaged open-beam and closed-shutter frames.
    minimum_transmission : float, dimensionless
        Transmissions below it (photon starvation, negative after the dark correction) count as this; above 0.

    Returns
    -------
    integrals : (angles, rows, columns) float32, dimensionless
        Each detector row of each projection is computed from itself alone, so any cut into rows or angles gives the
        same bits.
    mended : int
        How many values were mended, as `transmission` describes.

    Raises
    ------
    InputError
        The shapes do not fit each other.
    ParameterError
        `minimum_transmission` is not above 0.
    """
    if not minimum_transmission > 0:
        raise ParameterError(
            f"minimum_transmission is {minimum_transmission}, but its logarithm is taken: give a value above 0, "
            "such as 0.01"
        )
    raw, dark32, open_beam = _prepare(projections, flat, dark)
    out = np.empty(raw.shape, np.float32)
    mended = _line_integrals(raw, dark32, open_beam, np.float32(minimum_transmission), out)
    return out, int(mended)


def transmission(
    projections: NDArray[Any], flat: NDArray[np.float32], dark: NDArray[np.float32]
) -> tuple[NDArray[np.float32], int]:
    """Transmission (raw - dark) / (flat - dark), not clipped.

    A pixel is bad where the raw value is not finite, or where the flat does not exceed the dark (a dead pixel). It gets
    the value interpolated linearly between the nearest good pixels to its left and right in the same detector row
    of the same projection, or the nearest good one's at an end of the row. A row without a good pixel gets 1 (nothing
    absorbed).

    Parameters
    ----------
    projections : (angles, rows, columns), any integer or floating dtype, raw counts
    flat, dark : (rows, columns) float32, raw counts

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
    raw, dark32, open_beam = _prepare(projections, flat, dark)
    out = np.empty(raw.shape, np.float32)
    mended = _transmission(raw, dark32, open_beam, out)
    return out, int(mended)


def _open_beam_level(flat: NDArray[np.float32], dark: NDArray[np.float32]) -> NDArray[np.float32]:
    """flat - dark in raw counts, (rows, columns) float32; NaN where a pixel is dead (the flat does not exceed the dark)."""
    level = np.asarray(flat, np.float32) - np.asarray(dark, np.float32)
    return np.where(np.isfinite(level) & (level > 0), level, np.float32(np.nan))


def for_kernel(projections: NDArray[Any]) -> NDArray[Any]:
    """The same values contiguous in a dtype that the kernels are compiled for: uint8, uint16 or float32."""
    raw = np.asarray(projections)
    native = raw.dtype.newbyteorder("=")
    wanted = native if native in (np.uint8, np.uint16, np.float32) else np.dtype(np.float32)
    # a float64 beyond float32 becomes infinite, which the kernels treat as a bad pixel
    with np.errstate(over="ignore", invalid="ignore"):
        return np.ascontiguousarray(raw, dtype=wanted)


def _check_frames(projections: NDArray[Any], flat: NDArray[Any], dark: NDArray[Any]) -> None:
    """Raise `InputError` unless flat and dark are frames of the projections' shape."""
    if projections.ndim != 3 or flat.shape != projections.shape[1:] or dark.shape != projections.shape[1:]:
        raise InputError(
            f"projections have the shape {projections.shape}, the flat {flat.shape}, the dark {dark.shape}: "
            "give projections (angles, rows, columns), and flat and dark as (rows, columns) of the same detector rows"
        )


def _prepare(
    projections: NDArray[Any], flat: NDArray[Any], dark: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.float32]]:
    _check_frames(projections, flat, dark)
    return for_kernel(projections), np.ascontiguousarray(dark, np.float32), _open_beam_level(flat, dark)


@numba.njit(cache=True, error_model="numpy")
def _transmission_row(
    raw: NDArray[Any], dark: NDArray[np.float32], open_beam: NDArray[np.float32], out: NDArray[np.float32]
) -> int:
    """One detector row of one projection, its bad pixels mended; returns how many."""
    bad = 0
    for x in range(raw.size):
        value = (np.float32(raw[x]) - dark[x]) / open_beam[x]
        out[x] = value
        bad += not math.isfinite(value)
    if bad:
        _mend_row(out)
    return bad


@numba.njit(cache=True, error_model="numpy")
def _mend_row(row: NDArray[np.float32]) -> None:
    """Replace values that are not finite by linear interpolation between the finite ones beside them."""
    columns = row.size
    left = -1
    x = 0
    while x < columns:
        if math.isfinite(row[x]):
            left = x
            x += 1
            continue
        right = x + 1
        while right < columns and not math.isfinite(row[right]):
            right += 1
        if left < 0 and right == columns:
            start = end = np.float32(1)
        else:
            start = row[left] if left >= 0 else row[right]
            end = row[right] if right < columns else start
        for k in range(x, right):
            row[k] = start + (end - start) * np.float32(k - left) / np.float32(right - left)
        x = right


@numba.njit(cache=True, parallel=True, error_model="numpy")
def _transmission(
    raw: NDArray[Any], dark: NDArray[np.float32], open_beam: NDArray[np.float32], out: NDArray[np.float32]
) -> int:
    mended = 0
    for angle in numba.prange(raw.shape[0]):
        for y in range(raw.shape[1]):
            mended += _transmission_row(raw[angle, y], dark[y], open_beam[y], out[angle, y])
    return mended


@numba.njit(cache=True, parallel=True, error_model="numpy")
def _line_integrals(
    raw: NDArray[Any],
    dark: NDArray[np.float32],
    open_beam: NDArray[np.float32],
    minimum: np.float32,
    out: NDArray[np.float32],
) -> int:
    mended = 0
    for angle in numba.prange(raw.shape[0]):
        for y in range(raw.shape[1]):
            row = out[angle, y]
            mended += _transmission_row(raw[angle, y], dark[y], open_beam[y], row)
            for x in range(row.size):
                row[x] = -math.log(max(row[x], minimum))
    return mended
