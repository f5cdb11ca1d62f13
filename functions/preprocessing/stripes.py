"""Removes the stripes of a sinogram that miscalibrated detector pixels make, which a reconstruction shows as rings.

Works on line integrals, each detector row for itself; single bad frames or pixels are left to `zingers` and
`normalization`.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import pywt
import scipy.fft
from numpy.typing import NDArray

from ..errors import InputError, ParameterError
from ..reconstruction.threads import run_in_threads

_COLUMNS_PER_COARSEST_SCALE: Final = 80
_FEWEST_LEVELS: Final = 1
_PADDED_FRACTION: Final = 8
# Median absolute value of a normal variable to its standard deviation.
_MAD_TO_SIGMA: Final = 1.4826


def remove_stripes_fourier_wavelet(
    projections: NDArray[np.float32],
    level: int | None = None,
    wavelet: str = "sym16",
    sigma: float = 1.0,
    limit: float | None = 10.0,
) -> NDArray[np.float32]:
    """Remove stripes with the combined wavelet and Fourier filter of Münch et al. (2009), DOI 10.1364/OE.17.008567.

    At each scale of a wavelet decomposition of a row's sinogram, the coefficients that are smooth along the angles and
    rough along the columns are filtered along the angles: the frequency of k periods over the (padded) angles is damped
    by 1 - exp(-k**2 / (2 sigma**2)). Each row is treated alone and gives the same bits whichever rows come with it.

    Parameters
    ----------
    projections : (angles, rows, columns) float32, line integrals, dimensionless
    level : int or None
        Scales that are filtered; the coarsest is 2**level columns wide. Stripes wider than that stay, but beyond about
        an eightieth of the detector's width the filter takes the sample's own shading for stripes, so None chooses
        the largest level with 2**level <= columns / 80, and at least 1.
    wavelet : str
        A discrete wavelet of PyWavelets.
    sigma : float
        Width of the damping, in periods over the angles: larger removes stripes that vary more along the angles.
    limit : float or None
        What is removed from a row's sinogram is clipped at this many robust standard deviations of it (median absolute
        value / 0.6745). The edges of a sample concentric with the axis run along the angles as stripes do, and are far
        larger; clipping leaves most of them. None removes all, as published.

    Returns
    -------
    (angles, rows, columns) float32
        `projections` is not changed.

    Raises
    ------
    InputError
        Not three axes, or an empty one.
    ParameterError
        A level below 1, a sigma that is not above 0, or an unknown wavelet.
    """
    if projections.ndim != 3 or not projections.size:
        raise InputError(
            f"projections have the shape {projections.shape}: give (angles, rows, columns), none of them 0"
        )
    if level is not None and level < 1:
        raise ParameterError(f"level is {level}: give 1 or more, or None to choose it by the detector's width")
    if not sigma > 0:
        raise ParameterError(f"sigma is {sigma}: give a width above 0, such as 2")
    if wavelet not in pywt.wavelist(kind="discrete"):
        raise ParameterError(
            f"wavelet is {wavelet!r}, which PyWavelets has not: give a discrete one, such as db5 or sym16"
        )
    filters = pywt.Wavelet(wavelet)
    levels = default_level(projections.shape[2]) if level is None else level
    out = np.empty(projections.shape, np.float32)

    def clean(row: int) -> None:
        sinogram = np.ascontiguousarray(projections[:, row], np.float32)
        out[:, row] = sinogram - _limited(_stripes(sinogram, levels, filters, sigma), limit)

    run_in_threads(clean, projections.shape[1])
    return out


def default_level(columns: int) -> int:
    """Wavelet levels whose coarsest scale is at most an eightieth of the detector's width, and at least 1."""
    return max(_FEWEST_LEVELS, math.floor(math.log2(max(columns, 1) / _COLUMNS_PER_COARSEST_SCALE)))


def _stripes(sinogram: NDArray[np.float32], levels: int, wavelet: pywt.Wavelet, sigma: float) -> NDArray[np.float32]:
    """What the filter removes from a sinogram (angles, columns).

    The filter is linear and touches one band a level only, so the others need not be computed, and what is removed is
    synthesised instead of what stays: a sinogram without stripes keeps its bits.
    """
    angles = sinogram.shape[0]
    # Mirrored ends, so that the Fourier filter, which is periodic, sees less of a jump from the last angle to the
    # first.
    margin = angles // _PADDED_FRACTION
    approximation = np.pad(sinogram, ((margin, margin), (0, 0)), mode="symmetric")
    shapes = []
    bands = []
    for _ in range(levels):
        shapes.append(approximation.shape)
        smooth, _detail = pywt.dwt(_transposed(approximation), wavelet, "symmetric", axis=1)
        approximation, band = pywt.dwt(_transposed(smooth), wavelet, "symmetric", axis=1)
        bands.append(_low_frequencies(band, sigma))
    removed: NDArray[np.float32] | None = None
    for shape, band in zip(reversed(shapes), reversed(bands), strict=True):
        coarser = None if removed is None else removed[: band.shape[0], : band.shape[1]]
        smooth = pywt.idwt(coarser, band, wavelet, "symmetric", axis=1)[:, : shape[1]]
        removed = _transposed(pywt.idwt(_transposed(smooth), None, wavelet, "symmetric", axis=1)[:, : shape[0]])
    assert removed is not None
    return removed[margin : margin + angles]


def _limited(stripes: NDArray[np.float32], limit: float | None) -> NDArray[np.float32]:
    """Stripes with their values clipped at `limit` robust standard deviations of themselves."""
    if limit is None:
        return stripes
    bound = np.float32(limit * _MAD_TO_SIGMA) * np.median(np.abs(stripes))
    return np.clip(stripes, -bound, bound)


def _transposed(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Transposed in memory: PyWavelets is four times faster along the axis that is contiguous."""
    return np.ascontiguousarray(image.T)


def _low_frequencies(band: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """The part of a band (angles, columns) that varies slowly along the angles."""
    angles = band.shape[0]
    spectrum = scipy.fft.rfft(band, axis=0)
    periods = np.arange(spectrum.shape[0])
    spectrum *= np.exp(-(periods**2) / (2 * sigma**2)).astype(np.float32)[:, None]
    low: NDArray[np.float32] = scipy.fft.irfft(spectrum, angles, axis=0, overwrite_x=True)
    return low
