"""Stripe removal by regularisation of the mean projection: Titarenko et al. (2010), DOI 10.1016/j.aml.2010.08.022.

What every angle has in common along a row is made smooth by the smallest correction of the columns; the same correction
is added at all angles. Cheap, and blind to stripes that vary along the angles.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import scipy.fft
import scipy.linalg
from numpy.typing import NDArray

from ..errors import ParameterError
from ..reconstruction.threads import run_in_threads
from .stripes_fourier_wavelet import Array32, Array64, check_projections

# The default's cut-off: a wave that advances by a radian over a detector's width divided by this.
_COLUMNS_PER_RADIAN: Final = 170.0
# Coefficients of the differences between neighbours that TomoPy's two corrections are smooth in.
_FIRST_DIFFERENCE: Final = (1.0, -1.0)
_SECOND_DIFFERENCE: Final = (-1.0, 2.0, -1.0)


def remove_stripes_titarenko(projections: Array32, alpha: float | None = None, blocks: int = 1) -> Array32:
    """Remove stripes by the smallest correction that makes a row's mean projection smooth.

    The correction q of the columns minimises |D (p + q)|**2 + alpha |q|**2 where p is the mean over the angles and D takes
    differences of neighbours: Titarenko et al. (2010), DOI 10.1016/j.aml.2010.08.022. Its minimum is a product with
    -l / (l + alpha) in the cosine transform, l being 2 - 2 cos(pi k / columns) for the k-th term. Each row is treated
    alone and gives the same bits whichever rows come with it.

    Parameters
    ----------
    projections : (angles, rows, columns) float32, line integrals, dimensionless
    alpha : float or None
        How much the correction is held back: features of the mean projection narrower than about 2 pi / sqrt(alpha)
        columns are taken for stripes. None takes (170 / columns)**2, a 27th of the width: of simulated samples it leaves
        the shading alone and least of the stripes. (Algotom's default is 5e-4, TomocuPy's beta of 0.022 is 0.002: both
        shade samples on detectors up to 2000 columns.)
    blocks : int
        Parts of the angles that are corrected each for themselves, for stripes that come and go.

    Returns
    -------
    (angles, rows, columns) float32
        `projections` is not changed.

    Raises
    ------
    InputError
        Not three axes, or an empty one.
    ParameterError
        An alpha that is not above 0, or blocks below 1 or more than angles.
    """
    check_projections(projections)
    columns = projections.shape[2]
    weight = (_COLUMNS_PER_RADIAN / columns) ** 2 if alpha is None else alpha
    if not weight > 0:
        raise ParameterError(f"alpha is {alpha}: give a number above 0, such as 0.01, or None")
    parts = _parts(projections.shape[0], blocks)
    roughness = 2 - 2 * np.cos(np.pi * np.arange(columns) / columns)
    share = -roughness / (roughness + weight)
    out = np.empty(projections.shape, np.float32)

    def clean(row: int) -> None:
        for part in parts:
            sinogram = projections[part, row]
            spectrum = scipy.fft.dct(sinogram.mean(0, dtype=np.float64), type=2, norm="ortho")
            correction = scipy.fft.idct(share * spectrum, type=2, norm="ortho")
            np.add(sinogram, correction.astype(np.float32), out=out[part, row])

    run_in_threads(clean, projections.shape[1])
    return out


def remove_stripe_ti(tomo: Array32, nblock: int = 0, alpha: float = 1.5) -> Array32:
    """Remove stripes with the semantics and defaults of TomoPy's function of this name: Miqueles et al. (2014).

    Two corrections of the mean projection, one smooth in first and one in second differences, give two sinograms a and b;
    the result is sqrt(a b + alpha |min(a b)|), the minimum being that of the row's sinogram. DOI 10.1107/S1600577514020803.
    The root lifts line integrals near 0, such as air beside the sample: `remove_stripes_titarenko` does not.

    Parameters
    ----------
    tomo : (angles, rows, columns) float32, line integrals, dimensionless
        NaN counts as 0.
    nblock : int
        Parts of the angles that are corrected each for themselves; 0 and 1 correct all together. Angles that are left over
        by the division belong to the last part (TomoPy makes them 1).
    alpha : float
        How much the minimum lifts the result; below 1, what stays negative counts as 0 (TomoPy makes it NaN).

    Returns
    -------
    (angles, rows, columns) float32
        `tomo` is not changed.

    Raises
    ------
    InputError
        Not three axes, or an empty one.
    ParameterError
        A negative alpha, or more blocks than angles.
    """
    check_projections(tomo)
    if not alpha >= 0:
        raise ParameterError(f"alpha is {alpha}: give 0 or more, such as 1.5")
    parts = _parts(tomo.shape[0], max(1, nblock))
    out = np.empty(tomo.shape, np.float32)

    def clean(row: int) -> None:
        sinogram = np.nan_to_num(tomo[:, row], nan=0.0, posinf=np.inf, neginf=-np.inf)
        product = np.empty(sinogram.shape, np.float64)
        for part in parts:
            first, second = _miqueles_corrections(sinogram[part])
            product[part] = (sinogram[part] + first) * (sinogram[part] + second)
        # An alpha below 1 leaves the least products negative.
        lifted = np.maximum(product + alpha * abs(product.min()), 0)
        np.sqrt(lifted, out=out[:, row], casting="same_kind")

    run_in_threads(clean, tomo.shape[1])
    return out


def _parts(angles: int, blocks: int) -> list[slice]:
    """Parts of the angles, equally long but for the last, which takes what is left over."""
    if not 1 <= blocks <= angles:
        raise ParameterError(f"blocks is {blocks} for {angles} angles: give a number from 1 to the number of angles")
    length = angles // blocks
    starts = [index * length for index in range(blocks)]
    return [slice(start, stop) for start, stop in zip(starts, [*starts[1:], angles], strict=True)]


def _miqueles_corrections(sinogram: Array32) -> tuple[Array64, Array64]:
    """Corrections of the columns that are smooth in first and in second differences."""
    mass = sinogram.sum(1, dtype=np.float64)
    mean = sinogram.mean(0, dtype=np.float64)
    spread = mass.max() - mass.min()
    if spread == 0:  # TomoPy's weight is infinite then: nothing is corrected
        return np.zeros_like(mean), np.zeros_like(mean)
    weight = 1 / (2 * spread)
    return _smoothing(mean, _FIRST_DIFFERENCE, weight), _smoothing(mean, _SECOND_DIFFERENCE, weight)


def _smoothing(mean: Array64, difference: tuple[float, ...], weight: float) -> NDArray[np.float64]:
    """Solution q of (H' H + weight) q = -H' H mean, H being the differences that lie wholly inside."""
    taps = len(difference)
    columns = len(mean)
    if columns < taps:
        return np.zeros_like(mean)
    kernel = np.array(difference)
    right = np.convolve(np.convolve(mean, kernel[::-1], mode="valid"), kernel)
    bands = np.zeros((taps, columns))  # upper form: the diagonal is last
    for row in range(taps):
        for column in range(row, taps):
            bands[taps - 1 - (column - row), column : columns - taps + 1 + column] += kernel[row] * kernel[column]
    bands[-1] += weight
    solution: NDArray[np.float64] = scipy.linalg.solveh_banded(bands, -right)
    return solution
