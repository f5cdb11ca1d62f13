"""Rotation centre of one sinogram by the double wedge of Vo et al. (2014), over any range of candidates at small cost.

Which rows count, and what other methods say, is left to `rotation_center`.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import scipy.fft
from numba import njit
from numpy.typing import NDArray

from ..errors import InputError
from ..reconstruction.threads import run_in_threads
from .center_estimate import CenterEstimate, angular_step, checked_search, checked_theta, estimate_of_curve, shifts_of

# The sample is taken to fill the width (half of it, in the paper), and the band next to the axis, where stripes are, is
# left out. Of what remains the low frequencies along the angles count most: weighting them is the smoothing of the full
# turn by this many angular steps, with the right continuation at its ends.
_DROPPED: Final = 10
_DROPPED_FRACTION: Final = 0.05
_SMOOTHING_STEPS: Final = 2.0
_HIGHEST_FRACTION: Final = 0.5
_MOST_PERIODS: Final = 256

_Floats = NDArray[np.float32]


def find_center_vo(
    sinogram: NDArray[np.float32],
    theta_rad: NDArray[np.floating[Any]] | None = None,
    search: tuple[float, float] | None = None,
    *,
    search_share: float = 0.25,
) -> CenterEstimate:
    """Rotation centre of one sinogram by the method of Vo et al. (2014), DOI 10.1364/OE.22.019078.

    The sinogram of half a turn and its mirror image, shifted by what a candidate centre asks, make one of a full turn.
    Only at the right centre is it the sinogram of an object, whose two-dimensional Fourier transform is empty in a
    double wedge; the metric is the weighted mean amplitude there.

    The original smooths the sinogram along the angles beforehand, where what lies beyond the first and the last angle
    is unknown (it is mirrored about the centre sought); the wrong values there move the minimum, on real scans by half
    a pixel to a pixel. Here this smoothing is done on the full turn of each candidate, as a weight in its Fourier
    transform.

    The transform along the columns is computed for the frequencies of the wedge alone, and updated from one candidate
    to the next: a shift by a pixel turns its phases, and exchanges one column. All candidates of the range are so tried
    at the full resolution, in steps of half a pixel.

    Parameters
    ----------
    sinogram : (angles, columns) float32, line integrals, dimensionless
    theta_rad : (angles,) or None, radians
        Half a turn from the smallest angle on is used; None takes the angles as even over half a turn, without its end.
    search : (lowest, highest) or None
        Where the centre may lie, pixels; by default `search_share` of the width to each side of the middle.
    search_share : float
        Above 0 and below 0.5.

    Returns
    -------
    CenterEstimate

    Raises
    ------
    InputError
        The shapes do not fit, a value is not finite, or the angles cover less than 180 degrees.
    ParameterError
        `search` lies outside the detector or is empty, or `search_share` is out of range.
    """
    if sinogram.ndim != 2:
        raise InputError(f"the sinogram has the shape {sinogram.shape}: give (angles, columns)")
    theta = np.arange(len(sinogram)) * (np.pi / max(1, len(sinogram))) if theta_rad is None else theta_rad
    theta = checked_theta(sinogram, theta)
    columns = sinogram.shape[1]
    shifts = shifts_of(checked_search(search, search_share, columns), columns)
    amplitude = _wedge_amplitudes(np.asarray(sinogram[_half_turn(theta)], np.float32), shifts)
    return estimate_of_curve((columns - 1 + shifts) / 2, amplitude)


def _half_turn(theta: NDArray[np.float64]) -> NDArray[np.intp]:
    """Indices, by ascending angle, of half a turn from the smallest angle on, its end left out."""
    order = np.argsort(theta, kind="stable")
    ascending = theta[order]
    half_turn: NDArray[np.intp] = order[ascending - ascending[0] < np.pi - 0.5 * angular_step(ascending)]
    return half_turn


def _wedge_amplitudes(sinogram: _Floats, shifts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Weighted mean amplitude in the double wedge of the full turn, by whole-pixel shift of its second half."""
    angles, columns = sinogram.shape
    periods = _periods(angles)
    # Zeros behind the half turn; a half turn later, period k has the phase exp(-i pi k).
    first = scipy.fft.rfft(sinogram, 2 * angles, axis=0)[periods]
    later = np.where(periods % 2 == 0, 1, -1).astype(np.float32)[:, None]
    # The half turn backwards is, in the transform along the angles, the conjugate with another phase.
    backwards = np.exp(-1j * np.pi * periods * (angles - 1) / angles).astype(np.complex64)[:, None]
    mirrored = np.ascontiguousarray(first[:, ::-1]) * later
    # What stands in for the columns that the shift leaves empty: the half turn itself, backwards.
    filling = np.conj(first) * backwards * later

    weights = np.exp(-2 * (np.pi * _SMOOTHING_STEPS * periods / (2 * angles)) ** 2)
    boundaries = np.minimum(np.ceil(periods / np.pi).astype(np.int64), (columns - 1) // 2)
    farthest = int(np.abs(shifts).max())
    cosines, sines = _phases(columns, farthest, int(boundaries.max()))
    amplitudes = np.zeros((len(periods), 2 * farthest + 1))

    def of_period(index: int) -> None:
        lines = first[index], mirrored[index], filling[index]
        last = int(boundaries[index])
        for backward in (False, True):
            # A shift to the left is one to the right in the mirror.
            if not (shifts.min() < 0 if backward else shifts.max() >= 0):
                continue
            a, b, c = (np.ascontiguousarray(line[::-1] if backward else line) for line in lines)
            spectra = scipy.fft.fft(a), scipy.fft.fft(b)
            found = np.zeros(farthest + 1)
            for negative in (False, True):
                # The amplitude at a negative frequency is that of the conjugate at the positive one.
                chosen = np.arange(-2, -last - 1, -1) if negative else np.arange(2, last + 1)
                sign = np.float32(-1 if negative else 1)
                _add_amplitudes(
                    spectra[0].real[chosen], sign * spectra[0].imag[chosen],
                    spectra[1].real[chosen], sign * spectra[1].imag[chosen],
                    b.real.copy(), sign * b.imag, c.real.copy(), sign * c.imag, cosines, sines, found,
                )  # fmt: skip
            if backward:
                amplitudes[index, :farthest] = found[:0:-1]
            else:
                amplitudes[index, farthest:] = found

    run_in_threads(of_period, len(periods))
    amplitudes *= weights[:, None]
    return np.asarray(amplitudes.sum(axis=0)[shifts + farthest] / (len(periods) * columns))


def _periods(angles: int) -> NDArray[np.int64]:
    """Frequencies along the full turn of 2 `angles` projections that are looked at: an even selection."""
    dropped = min(_DROPPED, math.ceil(_DROPPED_FRACTION * 2 * angles))
    periods = np.arange(dropped + 1, math.ceil(_HIGHEST_FRACTION * angles) + 1)
    if len(periods) > _MOST_PERIODS:
        periods = periods[np.linspace(0, len(periods) - 1, _MOST_PERIODS).astype(int)]
    return periods


def _phases(columns: int, farthest: int, highest: int) -> tuple[_Floats, _Floats]:
    """Cosine and -sine of 2 pi f x / columns, (x, f) for x in 0 ... farthest + 1 and f in 2 ... highest."""
    turn = np.exp(-2j * np.pi * np.arange(columns) / columns).astype(np.complex64)
    table = turn[np.outer(np.arange(farthest + 2), np.arange(2, highest + 1)) % columns]
    return np.ascontiguousarray(table.real), np.ascontiguousarray(table.imag)


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def _add_amplitudes(
    first_re: _Floats,
    first_im: _Floats,
    mirrored_re: _Floats,
    mirrored_im: _Floats,
    b_re: _Floats,
    b_im: _Floats,
    c_re: _Floats,
    c_im: _Floats,
    cosines: _Floats,
    sines: _Floats,
    amplitudes: NDArray[np.float64],
) -> None:
    """Add the sum over the frequencies f of |transform of a(x) + (b(x - shift), or c(x) where that is empty)|, by shift.

    With E(x) = exp(-i w x), w = 2 pi f / columns: E(shift) times the transform of b without the columns pushed out, plus
    that of the first columns of c. From one shift to the next each loses or gains a column; the phase of the last column
    but x is conj(E(x + 1)).
    """
    columns = b_re.size
    frequencies = first_re.size
    # What is left of b's transform, and the transform of a and of the columns of c that have come in.
    left_re, left_im = mirrored_re.copy(), mirrored_im.copy()
    sum_re, sum_im = first_re.copy(), first_im.copy()
    for shift in range(amplitudes.size):
        out_re, out_im = b_re[columns - 1 - shift], b_im[columns - 1 - shift]
        in_re, in_im = c_re[shift], c_im[shift]
        cosine, sine = cosines[shift], sines[shift]
        next_cosine, next_sine = cosines[shift + 1], sines[shift + 1]
        total = np.float32(0)
        for f in range(frequencies):
            re = sum_re[f] + left_re[f] * cosine[f] - left_im[f] * sine[f]
            im = sum_im[f] + left_re[f] * sine[f] + left_im[f] * cosine[f]
            total += np.sqrt(re * re + im * im)
            sum_re[f] += in_re * cosine[f] - in_im * sine[f]
            sum_im[f] += in_re * sine[f] + in_im * cosine[f]
            left_re[f] -= out_re * next_cosine[f] + out_im * next_sine[f]
            left_im[f] -= out_im * next_cosine[f] - out_re * next_sine[f]
        amplitudes[shift] += total
