"""Stripe removal by sorting, filtering and interpolation: Vo, Atwood and Drakopoulos (2018), DOI 10.1364/OE.26.028396.

Sorting each column by its values sets the same grey level side by side in all columns; a median across them then removes
a stripe without smearing what moves along the angles. The results are those of Algotom and TomoPy, whose names the
parameters keep, but for rounding, the order of equal values, columns beside the sample (`remove_stripes_large`), and the
first and last angles of `remove_stripes_filtering` where their number is odd.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import scipy.fft
import scipy.ndimage
from numba import njit
from numpy.typing import NDArray

from ..errors import ParameterError
from ..reconstruction.threads import run_in_threads
from .stripes_fourier_wavelet import Array32, Array64, check_projections

# Window of the mean along the angles that a column's fluctuation is measured against.
_FLUCTUATION_ANGLES: Final = 10
# Factors of columns that differ less than this are one: a sinogram without noise.
_LEAST_SPREAD: Final = 1e-6
# Columns whose usual mean is below this share of the largest, as beside the sample, have no factor to speak of.
_LEAST_SHADE: Final = 0.02
# Dead columns are mended where they are fewer than this share of all.
_MOST_DEAD: Final = 1 / 3
# Columns and angles that are transposed at once; grey levels whose medians are found at once.
_PART: Final = 32
_LANES: Final = 64
_SIGN: Final = np.uint32(0x8000_0000)
_NO_LIMIT: Final = np.float32(np.inf)


def default_size(columns: int) -> int:
    """Window of the median against narrow stripes: about a hundredth of the detector's width, odd, from 5 to 21 columns.

    (An even window lies half a column to one side, which shifts what it smooths.)
    """
    return min(21, max(5, 2 * (columns // 200) + 1))


def default_large_size(columns: int) -> int:
    """Window of the median against wide stripes: about a 33rd of the detector's width, odd, from 15 to 61 columns."""
    return min(61, max(15, 2 * (columns // 66) + 1))


def remove_stripes_sorting(projections: Array32, size: int | None = None, dim: int = 1) -> Array32:
    """Remove narrow stripes, full or partial, by a median across columns that are sorted by value (algorithm 3).

    Parameters
    ----------
    projections : (angles, rows, columns) float32, line integrals, dimensionless
        Finite; the result is the same for any increasing scale, but for the rounding.
    size : int or None
        Window of the median in columns; stripes wider than half of it stay. None takes `default_size`.
    dim : {1, 2}
        1: the median's window is one grey level high; 2: `size` levels (slow).

    Returns
    -------
    (angles, rows, columns) float32
        `projections` is not changed.

    Raises
    ------
    InputError
        Not three axes, or an empty one.
    ParameterError
        A size below 1, or a dim that is not 1 or 2.
    """
    width = _window("size", default_size(projections.shape[-1]) if size is None else size)
    _check_dim(dim)
    return _row_by_row(projections, lambda sinogram: _sorted_smoothed(sinogram, width, dim))


def remove_stripes_filtering(projections: Array32, sigma: float = 3, size: int | None = None, dim: int = 1) -> Array32:
    """Remove stripes from what varies slowly along the angles alone, by sorting it (algorithm 2).

    Each column is split into a smooth part (a Gaussian of the frequency along the angles, mirrored ends) and the rest;
    the smooth parts are treated as in `remove_stripes_sorting`, the rest is added again.

    Parameters
    ----------
    projections : (angles, rows, columns) float32, line integrals, dimensionless
    sigma : float
        Width of the Gaussian, in periods over the (padded) angles: 3 to 10.
    size : int or None
        Window of the median in columns. None takes `default_size`.
    dim : {1, 2}
        As for `remove_stripes_sorting`.

    Returns
    -------
    (angles, rows, columns) float32
        `projections` is not changed.

    Raises
    ------
    InputError
        Not three axes, or an empty one.
    ParameterError
        A sigma that is not above 0, a size below 1, or a dim that is not 1 or 2.
    """
    width = _window("size", default_size(projections.shape[-1]) if size is None else size)
    _check_dim(dim)
    if not sigma > 0:
        raise ParameterError(f"sigma is {sigma}: give a width above 0, such as 3")

    def clean(sinogram: Array32) -> Array32:
        smooth = _slow_part(sinogram, sigma)
        return _sorted_smoothed(smooth, width, dim) + (sinogram - smooth)

    return _row_by_row(projections, clean)


def remove_stripes_large(
    projections: Array32, snr: float = 3.0, size: int = 51, drop_ratio: float = 0.1, norm: bool = True
) -> Array32:
    """Remove wide stripes: columns are found by their mean and replaced by what sorting gives (algorithms 4 and 5).

    Unlike in Algotom and TomoPy, columns beside the sample, where line integrals are near 0, are not divided by a ratio of
    two small numbers: their mean is set to what is usual around them.

    Parameters
    ----------
    projections : (angles, rows, columns) float32, line integrals, dimensionless
    snr : float
        A column whose factor lies so many times the others' spread beyond them is a stripe; larger finds fewer.
    size : int
        Window of the median in columns; stripes wider than half of it stay.
    drop_ratio : float
        Share of a column's extreme values that its mean leaves out; 0 to 0.8.
    norm : bool
        Whether the columns that are no stripes are divided by their factors too.

    Returns
    -------
    (angles, rows, columns) float32
        `projections` is not changed.

    Raises
    ------
    InputError
        Not three axes, or an empty one.
    ParameterError
        A parameter out of its range.
    """
    width = _window("size", size)
    _check_detection(snr, drop_ratio)
    return _row_by_row(projections, lambda sinogram: _without_large(sinogram, snr, width, drop_ratio, norm))


def remove_stripes_dead(projections: Array32, snr: float = 3.0, size: int = 51, residual: bool = True) -> Array32:
    """Mend columns that do not respond, or fluctuate, by interpolation between their neighbours (algorithms 4 and 6).

    Parameters
    ----------
    projections : (angles, rows, columns) float32, line integrals, dimensionless
    snr : float
        A column whose fluctuation lies so many times the others' spread beyond them is dead; larger finds fewer.
    size : int
        Window of the median in columns that a column's fluctuation is compared with.
    residual : bool
        Whether `remove_stripes_large` follows, with the same `snr` and `size`.

    Returns
    -------
    (angles, rows, columns) float32
        `projections` is not changed.

    Raises
    ------
    InputError
        Not three axes, or an empty one.
    ParameterError
        A parameter out of its range.
    """
    width = _window("size", size)
    _check_detection(snr, 0.1)

    def clean(sinogram: Array32) -> Array32:
        mended = _without_dead(sinogram, snr, width)
        return _without_large(mended, snr, width, 0.1, True) if residual else mended

    return _row_by_row(projections, clean)


def remove_all_stripes(
    projections: Array32,
    snr: float = 3.0,
    la_size: int = 61,
    sm_size: int = 21,
    drop_ratio: float = 0.1,
    dim: int = 1,
) -> Array32:
    """Remove stripes of all kinds: dead columns, wide stripes, narrow ones, one after the other (algorithms 6, 5, 4, 3).

    Parameters
    ----------
    projections : (angles, rows, columns) float32, line integrals, dimensionless
    snr : float
        How far a column must lie beyond the others, in their spread, to count as dead or as a wide stripe.
    la_size, sm_size : int
        Windows in columns of the medians against wide and narrow stripes.
    drop_ratio : float
        Share of a column's extreme values that its mean leaves out; 0 to 0.8.
    dim : {1, 2}
        As for `remove_stripes_sorting`.

    Returns
    -------
    (angles, rows, columns) float32
        `projections` is not changed.

    Raises
    ------
    InputError
        Not three axes, or an empty one.
    ParameterError
        A parameter out of its range.
    """
    large, small = _window("la_size", la_size), _window("sm_size", sm_size)
    _check_detection(snr, drop_ratio)
    _check_dim(dim)

    def clean(sinogram: Array32) -> Array32:
        mended = _without_dead(sinogram, snr, large)
        return _sorted_smoothed(_without_large(mended, snr, large, drop_ratio, True), small, dim)

    return _row_by_row(projections, clean)


def _row_by_row(projections: Array32, clean: Callable[[Array32], Array32]) -> Array32:
    check_projections(projections)
    out = np.empty(projections.shape, np.float32)

    def clean_row(row: int) -> None:
        out[:, row] = clean(np.ascontiguousarray(projections[:, row], np.float32))

    run_in_threads(clean_row, projections.shape[1])
    return out


def _window(name: str, size: int) -> int:
    if size < 1:
        raise ParameterError(f"{name} is {size}: give a window of 1 column or more, such as 21")
    return int(size)


def _check_dim(dim: int) -> None:
    if dim not in (1, 2):
        raise ParameterError(f"dim is {dim}: give 1 or 2")


def _check_detection(snr: float, drop_ratio: float) -> None:
    if not snr > 0:
        raise ParameterError(f"snr is {snr}: give a ratio above 0, such as 3")
    if not 0 <= drop_ratio <= 0.8:
        raise ParameterError(f"drop_ratio is {drop_ratio}: give a share from 0 to 0.8")


def _sorted_smoothed(sinogram: Array32, size: int, dim: int) -> Array32:
    """Sinogram (angles, columns) whose columns were sorted, smoothed across and put back."""
    values, order = _sorted_columns(sinogram)
    smooth = scipy.ndimage.median_filter(values, size) if dim == 2 else _median_across(values, size)
    out = np.empty_like(sinogram)
    _put_back(smooth, order, out)
    return out


def _without_large(sinogram: Array32, snr: float, size: int, drop_ratio: float, norm: bool) -> Array32:
    angles = sinogram.shape[0]
    values, order = _sorted_columns(sinogram)
    smooth = _median_across(values, size)
    dropped = int(0.5 * drop_ratio * angles)
    inner = slice(dropped, angles - dropped)
    means = values[:, inner].mean(1, dtype=np.float64)
    usual = smooth[:, inner].mean(1, dtype=np.float64)
    factors = _ratio(means, usual)
    shaded = np.abs(usual) > _LEAST_SHADE * np.abs(usual).max()
    wide = np.zeros(len(factors), np.bool_)
    wide[shaded] = outlying(factors[shaded], snr)
    out = sinogram.copy()
    if norm:
        out /= np.where(shaded & (factors != 0), factors, 1).astype(np.float32)
        out -= np.where(shaded, 0, means - usual).astype(np.float32)
    for column in np.flatnonzero(scipy.ndimage.binary_dilation(wide)):
        out[order[column], column] = smooth[column]
    return out


def _without_dead(sinogram: Array32, snr: float, size: int) -> Array32:
    columns = sinogram.shape[1]
    fluctuation = np.empty(columns)
    _measure_fluctuation(sinogram, _FLUCTUATION_ANGLES, fluctuation)
    usual = scipy.ndimage.median_filter(fluctuation, size)
    usual[usual == 0] = np.abs(usual).mean()
    dead = scipy.ndimage.binary_dilation(outlying(_ratio(fluctuation, usual), snr))
    dead[:2] = dead[-2:] = False  # so that each has a neighbour on both sides
    if not 0 < dead.sum() < int(_MOST_DEAD * columns):
        return sinogram
    good = np.flatnonzero(~dead)
    bad = np.flatnonzero(dead)
    right = np.searchsorted(good, bad)
    before, after = good[right - 1], good[right]
    weight = ((bad - before) / (after - before)).astype(np.float32)
    out = sinogram.copy()
    out[:, bad] = sinogram[:, before] * (1 - weight) + sinogram[:, after] * weight
    return out


def _ratio(values: Array64, usual: Array64) -> Array64:
    return np.divide(values, usual, out=np.ones_like(values), where=usual != 0)


def outlying(factors: Array64, snr: float) -> NDArray[np.bool_]:
    """Columns whose factors lie far from the others' (algorithm 4): the middle half of the sorted factors gives a line.

    Parameters
    ----------
    factors : (columns,) float64
    snr : float
        Distance from the line's ends, in its height, from which on a factor counts as far.

    Returns
    -------
    (columns,) bool
    """
    count = len(factors)
    ascending = np.sort(factors)
    quarter = int(0.25 * count)
    place = np.arange(quarter, count - quarter - 1, dtype=np.float64)
    if len(place) < 2:
        return np.zeros(count, np.bool_)
    level = ascending[quarter : count - quarter - 1]
    offset = place - place.mean()
    slope = float((offset * (level - level.mean())).sum() / (offset**2).sum())
    low = float(level.mean() - slope * place.mean())
    high = low + slope * (count - 1)
    spread = max(abs(high - low), _LEAST_SPREAD)
    far = np.zeros(count, np.bool_)
    if abs(ascending[-1] - high) / spread >= snr:
        far |= factors > high + spread * snr * 0.5
    if abs(low - ascending[0]) / spread >= snr:
        far |= factors <= low - spread * snr * 0.5
    return far


def _slow_part(sinogram: Array32, sigma: float) -> Array32:
    """What varies slowly along the angles, (angles, columns)."""
    angles = sinogram.shape[0]
    pad = min(150, int(0.1 * angles))
    padded = np.pad(sinogram, ((pad, pad), (0, 0)), mode="reflect") if pad else sinogram
    length = len(padded)
    # The published window lies half a frequency off the middle; the real part of what it gives is the mean of both sides.
    periods = np.arange(length // 2 + 1)
    gain = (np.exp(-((periods - 0.5) ** 2) / (2 * sigma**2)) + np.exp(-((periods + 0.5) ** 2) / (2 * sigma**2))) / 2
    if length % 2 == 0:
        gain[-1] = np.exp(-((length / 2 - 0.5) ** 2) / (2 * sigma**2))
    spectrum = scipy.fft.rfft(padded, axis=0)
    spectrum *= gain.astype(np.float32)[:, None]
    return np.asarray(scipy.fft.irfft(spectrum, length, axis=0, overwrite_x=True)[pad : pad + angles], np.float32)


def _sorted_columns(sinogram: Array32) -> tuple[Array32, NDArray[np.int32]]:
    """Values of each column ascending, and the angles that they come from, both (columns, angles); equal ones by angle."""
    angles, columns = sinogram.shape
    keys = np.empty((columns, angles), np.uint64)
    _make_keys(sinogram.view(np.uint32), keys)
    keys.sort(axis=1)
    values = np.empty((columns, angles), np.uint32)
    order = np.empty((columns, angles), np.int32)
    _split_keys(keys, values, order)
    return values.view(np.float32), order


@njit(cache=True, nogil=True, error_model="numpy")
def _make_keys(bits, keys):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Keys (columns, angles) that ascend with the value, then with the angle; `bits` are the values', (angles, columns)."""
    angles, columns = bits.shape
    for first in range(0, columns, _PART):
        last = min(first + _PART, columns)
        for start in range(0, angles, _PART):
            stop = min(start + _PART, angles)
            for column in range(first, last):
                for angle in range(start, stop):
                    value = bits[angle, column]
                    # Bits of floats ascend with their values once the sign is turned, and all bits of negative ones are.
                    ascending = ~value if value & _SIGN else value | _SIGN
                    keys[column, angle] = (np.uint64(ascending) << np.uint64(32)) | np.uint64(angle)


@njit(cache=True, nogil=True, error_model="numpy")
def _split_keys(keys, values, order):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    columns, angles = keys.shape
    for column in range(columns):
        for rank in range(angles):
            key = keys[column, rank]
            ascending = np.uint32(key >> np.uint64(32))
            values[column, rank] = (ascending & ~_SIGN) if ascending & _SIGN else ~ascending
            order[column, rank] = np.int32(np.uint32(key))


@njit(cache=True, nogil=True, error_model="numpy")
def _put_back(values, order, sinogram):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Write sorted columns (columns, angles) to where they come from in the sinogram (angles, columns)."""
    columns, angles = values.shape
    part = np.empty((_PART, angles), np.float32)
    for first in range(0, columns, _PART):
        last = min(first + _PART, columns)
        for column in range(first, last):
            for rank in range(angles):
                part[column - first, order[column, rank]] = values[column, rank]
        for angle in range(angles):
            for column in range(first, last):
                sinogram[angle, column] = part[column - first, angle]


@njit(cache=True, nogil=True, error_model="numpy")
def _measure_fluctuation(sinogram, size, fluctuation):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Sum over the angles of each column's distance from its mean over `size` angles; ends are mirrored."""
    angles, columns = sinogram.shape
    fluctuation[:] = 0
    mean = np.empty(columns, np.float32)
    share = np.float32(1 / size)
    for angle in range(angles):
        mean[:] = 0
        for step in range(size):
            source = (angle - size // 2 + step) % (2 * angles)
            values = sinogram[source if source < angles else 2 * angles - 1 - source]
            for column in range(columns):
                mean[column] += values[column]
        values = sinogram[angle]
        for column in range(columns):
            fluctuation[column] += abs(values[column] - mean[column] * share)


def _median_across(values: Array32, size: int) -> Array32:
    """Median of each grey level over `size` columns, (columns, angles); ends are mirrored."""
    columns = len(values)
    places = np.arange(-(size // 2), columns + size - 1 - size // 2) % (2 * columns)
    places = np.where(places < columns, places, 2 * columns - 1 - places)
    out = np.empty_like(values)
    _slide_medians(values, places, np.empty((size + 1, _LANES), np.float32), out)
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def _slide_medians(values, places, window, out):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Medians of windows that slide over the columns: one value leaves the sorted window, one enters, in one sweep.

    `places` are the columns of all windows in turn. `window` (size + 1, lanes) holds a grey level's sorted window in each
    of its columns, and above it no limit.
    """
    size, lanes = window.shape[0] - 1, window.shape[1]
    leaving = np.empty(lanes, np.float32)
    entering = np.empty(lanes, np.float32)
    below = np.empty(lanes, np.float32)
    for first in range(0, values.shape[1], lanes):
        used = min(lanes, values.shape[1] - first)
        for index in range(size + 1):
            for lane in range(lanes):
                window[index, lane] = _NO_LIMIT
        for step in range(len(places)):
            newest = values[places[step], first : first + used]
            # The first window fills by taking the place of no limit.
            oldest = values[places[step - size], first : first + used] if step >= size else window[size, :used]
            for lane in range(used):
                entering[lane] = newest[lane]
                leaving[lane] = oldest[lane]
                below[lane] = -_NO_LIMIT
            for index in range(size):
                here = window[index]
                above = window[index + 1]
                for lane in range(lanes):
                    kept = here[lane] if here[lane] < leaving[lane] else above[lane]
                    lower = kept if kept < entering[lane] else entering[lane]
                    here[lane] = lower if lower > below[lane] else below[lane]
                    below[lane] = kept
            if step >= size - 1:
                middle = window[size // 2]
                target = out[step - size + 1, first : first + used]
                for lane in range(used):
                    target[lane] = middle[lane]
