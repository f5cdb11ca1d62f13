"""Resolution of a reconstruction: up to which frequency two reconstructions of half the data each agree.

How the half-data reconstructions are made is left to the caller. What both share beside the sample (rings, zingers of
flat fields, artefacts of too few angles) correlates as the sample does, so the resolution is a lower bound of the period
that can be told from noise, and not of what can be told from artefacts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from ..errors import InputError

# Share of the radius over which the window falls to 0. A steeper window carries more of what is
# strong at low frequencies to high ones.
_TAPER = 0.5
# Half data hold half a bit of information a coefficient where their signal-to-noise ratio is this: twice as much, half a
# bit, in both together, 2 ** 0.5 - 1.
_HALF_BIT_RATIO = (math.sqrt(2.0) - 1.0) / 2.0
# Shells on each side that the smoothed curve takes in, and shells in a row that must lie below the threshold.
_SMOOTHED, _BELOW = 1, 3
# Below this length an axis has no shells to speak of.
_MINIMUM_LENGTH = 8


@dataclass(frozen=True)
class RingCorrelation:
    """Correlation of two half-data reconstructions by spatial frequency; a shell is a ring in each of the slices.

    Attributes
    ----------
    frequency_per_unit : (shells,) float64
        Centre of each shell in periods per unit of the pixel size, ascending up to the Nyquist frequency. Shells are one
        period over the shorter axis wide; that of frequency 0 is left out. Empty where slices are less than 8 pixels long.
    correlation : (shells,) float64
        -1 to 1; 0 where one of the two has no amplitude.
    counts : (shells,) int64
        Independent Fourier coefficients in each shell, of all slices: of a pair of opposite ones, which a real picture
        has alike, one; and as many fewer as the window takes off the picture.
    threshold : (shells,) float64
        Half-bit threshold of each shell.
    resolution : float or None
        Period (of a line and a gap, so at least two pixels), in the unit, at which the correlation falls below the
        threshold: of three shells' mean and for three shells in a row, so that a single one does not decide, interpolated
        between shells. None where it is never above, or never falls below.
    """

    frequency_per_unit: NDArray[np.float64]
    correlation: NDArray[np.float64]
    counts: NDArray[np.int64]
    threshold: NDArray[np.float64]
    resolution: float | None


def fourier_ring_correlation(
    first: NDArray[np.float32], second: NDArray[np.float32], pixel_size: float = 1.0
) -> RingCorrelation:
    """Correlation of two half-data reconstructions over rings of frequency, each slice transformed for itself.

    Of each slice the disc that a reconstruction fills is taken, less its mean, with an edge that falls softly to 0.
    Products and powers are summed over the slices before they are divided, so that slices weigh by their contrast. Slices
    are taken to be independent, as those of different detector rows are but for blur along z.

    Parameters
    ----------
    first, second : (n, rows, columns) float32
        The same slices from one and the other half of the projections (even and odd ones), finite.
    pixel_size : float
        Edge of a pixel; frequencies and the resolution are in its unit.

    Raises
    ------
    InputError
        The shapes differ or are not 3-D, or there are values that are not finite.

    Sources: rings and half-bit threshold, van Heel and Schatz (2005), DOI 10.1016/j.jsb.2005.05.009; correlation of
    rings, Saxton and Baumeister (1982), DOI 10.1111/j.1365-2818.1982.tb00405.x.
    """
    _require_pair(first, second)
    rows, columns = first.shape[1:]
    window = _disc_window(rows, columns)
    return _correlate(first, second, window, pixel_size)


def _require_pair(first: NDArray[np.float32], second: NDArray[np.float32]) -> None:
    if first.ndim != 3 or first.shape != second.shape:
        raise InputError(
            f"half-data reconstructions have shapes {first.shape} and {second.shape}; need one shape (slices, rows, columns)"
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise InputError("half-data reconstructions hold values that are not finite; reconstruct them again")


def _correlate(
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    window: NDArray[np.float32],
    pixel_size: float,
) -> RingCorrelation:
    """Correlation over pairs of slices."""
    if len(first) == 0 or min(window.shape) < _MINIMUM_LENGTH:
        nothing = np.empty(0)
        return RingCorrelation(nothing, nothing, np.empty(0, np.int64), nothing, None)
    rows, columns = window.shape
    width = 1.0 / (min(rows, columns) * pixel_size)
    shell_of = _shells(rows, columns, pixel_size, width)
    shells = int(0.5 / pixel_size / width * (1 + 1e-9)) + 1
    products, powers = np.zeros(shells), np.zeros((2, shells))
    share = _mirrored(columns)
    for pair in zip(first, second, strict=True):
        one, other = (_transform(picture, window) for picture in pair)
        products += _shell_sums(shell_of, share * (one * other.conj()).real, shells)
        for index, transform in enumerate((one, other)):
            powers[index] += _shell_sums(shell_of, share * (transform.real**2 + transform.imag**2), shells)
    coefficients = _shell_sums(shell_of, np.broadcast_to(share, shell_of.shape), shells)
    counts = len(first) * 0.5 * _independent(window) * coefficients
    products, powers, counts = products[1:], powers[:, 1:], counts[1:]
    frequency = width * np.arange(1, shells)
    correlation = _ratio(products, powers)
    threshold = _half_bit(counts)
    # Of correlations and not of powers: of a steep spectrum the strongest shell would be heard alone.
    smooth = _moving_sum(counts * correlation) / _moving_sum(counts)
    return RingCorrelation(
        frequency_per_unit=frequency,
        correlation=correlation,
        counts=np.maximum(1, np.rint(counts)).astype(np.int64),
        threshold=threshold,
        resolution=_crossing(frequency, smooth - threshold),
    )


def _disc_window(rows: int, columns: int) -> NDArray[np.float32]:
    """Window (rows, columns): 1 in the middle, falling to 0 at the edge of the disc that a reconstruction fills."""
    y = np.arange(rows)[:, np.newaxis] - (rows - 1) / 2
    x = np.arange(columns) - (columns - 1) / 2
    return _fall(np.hypot(y, x) / (min(rows, columns) / 2))


def _fall(radius: NDArray[np.float64]) -> NDArray[np.float32]:
    """1, and from 1 - `_TAPER` to 1 of the radius half a period of a cosine."""
    within = np.clip((1.0 - radius) / _TAPER, 0.0, 1.0)
    return (0.5 - 0.5 * np.cos(math.pi * within)).astype(np.float32)


def _independent(window: NDArray[np.float32]) -> float:
    """Independent values that are left of a picture of as many, per value of the picture."""
    squares = window.astype(np.float64) ** 2
    return float(squares.sum() ** 2 / (squares**2).sum() / window.size)


def _transform(picture: NDArray[np.float32], window: NDArray[np.float32]) -> NDArray[np.complex64]:
    # Of a picture without contrast nothing may be left, so the mean is rounded as the picture's values are.
    mean = np.float32(np.sum(picture * window, dtype=np.float64) / np.sum(window, dtype=np.float64))
    return np.asarray(scipy.fft.rfft2((picture - mean) * window))


def _shells(rows: int, columns: int, pixel_size: float, width: float) -> NDArray[np.int32]:
    """Shell of each coefficient of a real transform."""
    y, x = np.fft.fftfreq(rows, pixel_size), np.fft.rfftfreq(columns, pixel_size)
    return np.rint(np.sqrt(y[:, np.newaxis] ** 2 + x**2) / width).astype(np.int32)


def _mirrored(columns: int) -> NDArray[np.float32]:
    """How many coefficients of the full transform stand behind each of a row of the real one."""
    share = np.full(columns // 2 + 1, 2.0, np.float32)
    share[0] = 1
    if columns % 2 == 0:
        share[-1] = 1
    return share


def _shell_sums(shell_of: NDArray[np.int32], values: NDArray[np.float32], shells: int) -> NDArray[np.float64]:
    sums = np.bincount(shell_of.ravel(), weights=values.ravel(), minlength=shells)
    return np.asarray(sums[:shells])


def _moving_sum(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums of each value and `_SMOOTHED` on each side, fewer at the ends."""
    return np.asarray(np.convolve(values, np.ones(2 * _SMOOTHED + 1), mode="full")[_SMOOTHED : _SMOOTHED + values.size])


def _ratio(products: NDArray[np.float64], powers: NDArray[np.float64]) -> NDArray[np.float64]:
    norm = np.sqrt(powers[0]) * np.sqrt(powers[1])
    ratio = np.divide(products, norm, out=np.zeros_like(products), where=norm > 0)
    return np.asarray(np.clip(ratio, -1.0, 1.0))


def _half_bit(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correlation at which both halves together hold half a bit a coefficient, with its statistical uncertainty.

    Equations 14 to 17 of van Heel and Schatz (2005): (0.2071 + 1.9102 / sqrt(n)) / (1.2071 + 0.9102 / sqrt(n)).
    """
    noise: NDArray[np.float64] = 1.0 / np.sqrt(np.maximum(counts, 1.0))
    root = 2.0 * math.sqrt(_HALF_BIT_RATIO)
    return (_HALF_BIT_RATIO + (root + 1.0) * noise) / (_HALF_BIT_RATIO + 1.0 + root * noise)


def _crossing(frequency: NDArray[np.float64], above: NDArray[np.float64]) -> float | None:
    """Period at which a curve falls below 0 for several shells in a row, or for all that are left."""
    below = above < 0
    for shell in range(1, below.size):
        if below[shell : shell + _BELOW].all() and not below[shell - 1]:
            share = above[shell - 1] / (above[shell - 1] - above[shell])
            at = frequency[shell - 1] + share * (frequency[shell] - frequency[shell - 1])
            return float(1.0 / at)
    return None
