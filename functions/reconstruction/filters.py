"""Filters of filtered backprojection in Fourier space: the ramp of the band-limited projection times a window.

Padding and applying them to projections is `direct`'s and `fourier`'s.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from ..errors import ParameterError

FilterName = Literal["none", "ramp", "shepp", "cosine", "hamming", "hann", "parzen", "butterworth"]
FILTERS: tuple[str, ...] = get_args(FilterName)


def ramp_filter(length: int, name: str, cutoff: float = 1.0, order: int = 2) -> npt.NDArray[np.float32]:
    """Half spectrum of a reconstruction filter, to be multiplied with `rfft` of projections padded to `length`.

    The ramp is the transform of the band-limited ramp's samples in space (Kak & Slaney, *Principles of Computerized
    Tomographic Imaging*, 1988, eq. 61, DOI 10.1137/1.9780898719277), not |frequency|: only so is the mean of the
    slice right. With zero padding to at least twice the width the filtering is exact (no wrap-around).

    Parameters
    ----------
    length : padded number of columns, even
    name : one of `FILTERS`, from sharp to smooth: ``ramp``, ``shepp`` (Shepp-Logan), ``cosine``, ``hamming``,
        ``hann``, ``parzen``; ``butterworth`` has its own slope; ``none`` is plain backprojection without a ramp
    cutoff : frequency c at which the window ends, as a share of the Nyquist frequency, above 0 and at most 1: the window
        is stretched to c and 0 above it (``ramp`` and ``none`` are cut off there). ``butterworth`` has its half at c:
        1 / (1 + (f / c)^(2 order))
    order : of ``butterworth``, at least 1; a larger one is steeper

    Returns
    -------
    (length // 2 + 1,) float32, cycles/pixel (``none``: dimensionless); the last is the Nyquist frequency

    Raises
    ------
    ParameterError
        unknown name, odd length, cutoff or order out of range
    """
    if length < 2 or length % 2:
        raise ParameterError(f"filter length is {length}; it must be even and at least 2")
    if name not in FILTERS:
        raise ParameterError(f"reconstruction.filter is {name!r}; it must be one of {', '.join(FILTERS)}")
    if not 0 < cutoff <= 1:
        raise ParameterError(
            f"reconstruction.filter_cutoff is {cutoff}; it must be above 0 and at most 1, the Nyquist frequency"
        )
    if order < 1:
        raise ParameterError(f"reconstruction.filter_order is {order}; it must be at least 1")
    frequency = np.linspace(0.0, 1.0, length // 2 + 1) / cutoff
    if name == "butterworth":
        window = 1 / (1 + frequency ** (2 * order))
    else:
        window = np.where(frequency <= 1, _window(name, frequency), 0.0)
    return (window if name == "none" else _ramp(length) * window).astype(np.float32)


def _ramp(length: int) -> npt.NDArray[np.float64]:
    distance = np.minimum(np.arange(length), length - np.arange(length))
    odd = distance % 2 == 1
    samples = np.zeros(length)
    samples[0] = 0.25
    samples[odd] = -1.0 / (np.pi * distance[odd]) ** 2
    return np.fft.rfft(samples).real


def _window(name: str, frequency: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The window at `frequency`, given as a part (0..1) of where it ends."""
    match name:
        case "shepp":
            return np.sinc(frequency / 2)
        case "cosine":
            return np.cos(np.pi / 2 * frequency)
        case "hann":
            return 0.5 + 0.5 * np.cos(np.pi * frequency)
        case "hamming":
            return 0.54 + 0.46 * np.cos(np.pi * frequency)
        case "parzen":
            return np.where(frequency <= 0.5, 1 - 6 * frequency**2 * (1 - frequency), 2 * (1 - frequency) ** 3)
        case _:
            return np.ones_like(frequency)
