"""Stripe removal with the combined wavelet and Fourier filter of Münch et al. (2009), DOI 10.1364/OE.17.008567.

The filter is linear and takes away only what varies slowly along the angles: a few dozen functions of the angle span it.
A row's sinogram is projected on them, the wavelet transform along the columns is made of those few rows, and what is
removed is put together again; no wavelet transform along the angles is made of the data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import pywt
import scipy.sparse
from numba import njit
from numpy.typing import NDArray

from ..errors import InputError, ParameterError
from ..reconstruction.threads import run_in_threads

_COLUMNS_PER_COARSEST_SCALE: Final = 80
_FEWEST_LEVELS: Final = 1
_PADDED_FRACTION: Final = 8
# Median absolute value of a normal variable to its standard deviation.
MAD_TO_SIGMA: Final = 1.4826
# Share of a frequency that is removed below which it counts as kept, and length of a direction, relative to the longest,
# below which it counts as spanned by the others: both near what float32 sinograms resolve.
_NEGLIGIBLE_SHARE: Final = 1e-6
_NEGLIGIBLE_LENGTH: Final = 1e-6
_FORGOTTEN_EVERY: Final = 16
# The product of matrices takes two rows and four terms at once, and parts of it that stay in the nearest caches.
_UNROLLED: Final = 4
_PART_COLUMNS: Final = 256
_PART_TERMS: Final = 64
# The median is sought between two quantiles of every so-manieth value, this far to both sides of the middle.
_SAMPLE_STEP: Final = 97
_SAMPLE_MARGIN: Final = 4.0

Array32 = NDArray[np.float32]
Array64 = NDArray[np.float64]


def remove_stripes_fourier_wavelet(
    projections: Array32,
    level: int | None = None,
    wavelet: str = "sym16",
    sigma: float = 1.0,
    limit: float | None = 10.0,
) -> Array32:
    """Remove stripes with the combined wavelet and Fourier filter of Münch et al. (2009), DOI 10.1364/OE.17.008567.

    At each scale of a wavelet decomposition of a row's sinogram, the coefficients that are smooth along the angles and
    rough along the columns are filtered along the angles: the frequency of k periods over the (padded) angles is damped
    by 1 - exp(-k**2 / (2 sigma**2)). The angles are continued by a sixteenth mirrored at each end, so that the filter,
    which is periodic, sees less of a jump from the last angle to the first. Each row is treated alone and gives the same
    bits whichever rows come with it.

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
    check_projections(projections)
    check_filter(level, wavelet, sigma)
    levels = default_level(projections.shape[2]) if level is None else level
    plan = filter_plan(projections.shape[0], levels, wavelet, float(sigma), "mirrored")
    return _apply(plan, projections, limit)


def remove_stripe_fw(
    tomo: Array32, level: int | None = None, wname: str = "db5", sigma: float = 2, pad: bool = True
) -> Array32:
    """Remove stripes by the same filter with the semantics and defaults of TomoPy's function of this name.

    It differs from `remove_stripes_fourier_wavelet` in that the angles are continued by zeros (a sixteenth at each end),
    that the damping lies half a period off the frequencies where their number is even, that nothing is limited, and in the
    default level, which takes broad shading of the sample for stripes.

    Parameters
    ----------
    tomo : (angles, rows, columns) float32, line integrals, dimensionless
    level : int or None
        None takes the base-2 logarithm of the larger of angles and columns, rounded up. (TomoPy takes the number of rows
        into account too, so that the result depends on how many rows come at once; here it does not.)
    wname : str
        A discrete wavelet of PyWavelets.
    sigma : float
        Width of the damping, in periods over the angles.
    pad : bool
        Whether the angles are continued by zeros.

    Returns
    -------
    (angles, rows, columns) float32
        `tomo` is not changed.

    Raises
    ------
    InputError
        Not three axes, or an empty one.
    ParameterError
        A level below 1, a sigma that is not above 0, or an unknown wavelet.
    """
    check_projections(tomo)
    check_filter(level, wname, sigma)
    angles, _, columns = tomo.shape
    levels = max(1, math.ceil(math.log2(max(angles, columns)))) if level is None else level
    plan = filter_plan(angles, levels, wname, float(sigma), "zeros" if pad else "unpadded")
    return _apply(plan, tomo, None)


def default_level(columns: int) -> int:
    """Wavelet levels whose coarsest scale is at most an eightieth of the detector's width, and at least 1."""
    return max(_FEWEST_LEVELS, math.floor(math.log2(max(columns, 1) / _COLUMNS_PER_COARSEST_SCALE)))


def check_projections(projections: NDArray[np.generic]) -> None:
    """Refuse with an `InputError` what is not (angles, rows, columns), or has nothing along one of them."""
    if projections.ndim != 3 or not projections.size:
        raise InputError(
            f"projections have the shape {projections.shape}: give (angles, rows, columns), none of them 0"
        )


def check_filter(level: int | None, wavelet: str, sigma: float) -> None:
    """Refuse a level below 1, a sigma that is not above 0, or an unknown wavelet with a `ParameterError`."""
    if level is not None and level < 1:
        raise ParameterError(f"level is {level}: give 1 or more, or None to choose it by the detector's width")
    if not sigma > 0:
        raise ParameterError(f"sigma is {sigma}: give a width above 0, such as 2")
    if wavelet not in pywt.wavelist(kind="discrete"):
        raise ParameterError(
            f"wavelet is {wavelet!r}, which PyWavelets has not: give a discrete one, such as db5 or sym16"
        )


@dataclass(frozen=True)
class FilterPlan:
    """The filter for a number of angles, with everything along the angles worked out.

    Attributes
    ----------
    analysis : (functions, angles) float32
        Rows that span all that is looked at; their number, and the angles, are filled up to a multiple of 4 by zeros.
    mixing : tuple of (more functions, functions) float32
        For each level: what of its band is removed, in terms of the columns of `synthesis`.
    synthesis : (angles, more functions) float32
        Columns that span all that is removed, filled up likewise.
    wavelet : pywt.Wavelet
    """

    analysis: Array32
    mixing: tuple[Array32, ...]
    synthesis: Array32
    wavelet: Any


@lru_cache(maxsize=4)
def filter_plan(angles: int, levels: int, wavelet: str, sigma: float, padding: str) -> FilterPlan:
    """The filter for so many angles; `padding` is mirrored, zeros or unpadded. Kept for the next call."""
    filters = pywt.Wavelet(wavelet)
    padded = _padded(angles, padding)
    smoothing: scipy.sparse.csr_array = padded  # from the angles to the coefficients of a level
    lengths = [padded.shape[0]]
    looks, removals = [], []
    for _ in range(levels):
        smoothing = _smoothing(lengths[-1], filters) @ smoothing
        lengths.append(smoothing.shape[0])
        functions, removed = _slow_functions(lengths[-1], sigma, half_off=padding != "mirrored")
        looks.append(smoothing.T.dot(functions.T).T * np.sqrt(removed)[:, None])
        removals.append(_synthesised(functions * np.sqrt(removed)[:, None], lengths, filters))
    # Out of the padded angles again.
    margin = (lengths[0] - angles) // 2
    removals = [removal[:, margin : margin + angles] for removal in removals]
    seen, made = _basis(np.concatenate(looks)), _basis(np.concatenate(removals))
    # `einsum` sums in an order of its own; a BLAS would sum in one that depends on its threads.
    mixing = [
        np.einsum("im,jm->ij", np.einsum("ia,ma->im", made, removal), np.einsum("ja,ma->jm", seen, look))
        for removal, look in zip(removals, looks, strict=True)
    ]
    return FilterPlan(
        _filled(seen, axes=(0, 1)),
        tuple(_filled(matrix, axes=(0, 1)) for matrix in mixing),
        _filled(np.ascontiguousarray(made.T), axes=(0, 1)),
        filters,
    )


def _padded(angles: int, padding: str) -> scipy.sparse.csr_array:
    """Matrix that continues the angles at both ends."""
    if padding == "mirrored":
        margin = angles // _PADDED_FRACTION
        sources = np.pad(np.arange(angles), margin, mode="symmetric")
        return scipy.sparse.csr_array((np.ones(len(sources)), (np.arange(len(sources)), sources)))
    length = angles + angles // _PADDED_FRACTION if padding == "zeros" else angles
    margin = (length - angles) // 2
    return scipy.sparse.csr_array((np.ones(angles), (margin + np.arange(angles), np.arange(angles))), (length, angles))


def _smoothing(length: int, wavelet: Any) -> scipy.sparse.csr_array:
    """Matrix of the low-pass half of a discrete wavelet transform with mirrored ends: PyWavelets' mode "symmetric"."""
    taps = np.asarray(wavelet.dec_lo)
    count = (length + len(taps) - 1) // 2
    output, tap = np.meshgrid(np.arange(count), np.arange(len(taps)), indexing="ij")
    position = (2 * output + 1 - tap) % (2 * length)
    position = np.where(position < length, position, 2 * length - 1 - position)
    entries = (np.broadcast_to(taps, output.shape).ravel(), (output.ravel(), position.ravel()))
    return scipy.sparse.csr_array(entries, (count, length))


def _slow_functions(length: int, sigma: float, half_off: bool) -> tuple[Array64, Array64]:
    """Orthonormal sines and cosines (functions, length) that the filter damps, and the share of each that it removes."""
    frequencies = np.arange(length // 2 + 1)
    if half_off and length % 2 == 0:
        # TomoPy's axis of frequencies: what remains after the real part is taken is the mean of both sides.
        removed = (np.exp(-((frequencies - 0.5) ** 2) / (2 * sigma**2)) + _gauss(frequencies + 0.5, sigma)) / 2
        removed[-1] = _gauss(length / 2 - 0.5, sigma)
    else:
        removed = _gauss(frequencies, sigma)
    functions, shares = [], []
    phase = 2 * np.pi * np.arange(length) / length
    for frequency in np.flatnonzero(removed > _NEGLIGIBLE_SHARE):
        for function in (np.cos(frequency * phase), np.sin(frequency * phase)):
            norm = math.sqrt(float((function**2).sum()))
            if norm > 1e-6:  # not the sine of frequency 0 or of the highest
                functions.append(function / norm)
                shares.append(removed[frequency])
    return np.array(functions), np.array(shares)


def _gauss(frequency: Any, sigma: float) -> Any:
    return np.exp(-(frequency**2) / (2 * sigma**2))


def _synthesised(coefficients: Array64, lengths: list[int], wavelet: Any) -> Array64:
    """Coefficients (functions, length) of the deepest level, taken up to the padded angles."""
    for length in reversed(lengths[:-1]):
        coefficients = pywt.idwt(coefficients, None, wavelet, "symmetric", axis=1)[:, :length]
    return coefficients


def _basis(vectors: Array64) -> Array64:
    """Orthonormal rows that span the given ones (by Gram and Schmidt, the longest remainder first, twice)."""
    rest = vectors.copy()
    found: list[Array64] = []
    least = _NEGLIGIBLE_LENGTH * math.sqrt(float((rest**2).sum(1).max()))
    while len(found) < min(vectors.shape):
        squares = (rest**2).sum(1)
        if len(found) % _FORGOTTEN_EVERY == 0:
            rest, squares = rest[squares > least**2], squares[squares > least**2]
        if not squares.size or squares.max() <= least**2:
            break
        pick = int(squares.argmax())
        direction = rest[pick] / math.sqrt(squares[pick])
        for other in found:
            direction = direction - (direction * other).sum() * other
        direction /= math.sqrt(float((direction**2).sum()))
        found.append(direction)
        rest -= (rest * direction).sum(1)[:, None] * direction
    return np.array(found)


def _filled(matrix: Array64, axes: tuple[int, ...]) -> Array32:
    """Matrix in float32 with zeros that fill its axes up to multiples of `_UNROLLED`."""
    widths = [(0, -size % _UNROLLED if axis in axes else 0) for axis, size in enumerate(matrix.shape)]
    return np.ascontiguousarray(np.pad(matrix, widths), np.float32)


def _apply(plan: FilterPlan, projections: Array32, limit: float | None) -> Array32:
    angles, rows, columns = projections.shape
    out = np.empty(projections.shape, np.float32)

    def clean(row: int) -> None:
        sinogram = np.zeros((plan.analysis.shape[1], columns), np.float32)
        sinogram[:angles] = projections[:, row]
        stripes = _stripes(sinogram, plan)[:angles]
        if limit is not None:
            bound = np.float32(limit * MAD_TO_SIGMA) * _median_size(stripes)
            np.clip(stripes, -bound, bound, out=stripes)
        np.subtract(sinogram[:angles], stripes, out=out[:, row])

    run_in_threads(clean, rows)
    return out


def _stripes(sinogram: Array32, plan: FilterPlan) -> Array32:
    """What the filter removes from a sinogram (angles, columns), the angles filled up to a multiple of 4.

    What is removed is synthesised instead of what stays, so a sinogram without stripes keeps its bits.
    """
    smooth = _product(plan.analysis, sinogram)
    widths = []
    bands = []
    for mixing in plan.mixing:
        widths.append(smooth.shape[1])
        smooth, band = pywt.dwt(smooth, plan.wavelet, "symmetric", axis=1)
        bands.append(_product(mixing, band))
    removed: Array32 | None = None
    for width, band in zip(reversed(widths), reversed(bands), strict=True):
        coarser = None if removed is None else removed[:, : band.shape[1]]
        removed = pywt.idwt(coarser, band, plan.wavelet, "symmetric", axis=1)[:, :width]
    assert removed is not None
    return _product(plan.synthesis, np.ascontiguousarray(removed))


def _median_size(values: Array32) -> np.float32:
    """Median of the absolute values, exactly as `numpy.median` gives it, in one pass over them."""
    flat = values.reshape(-1)
    sample = np.sort(np.abs(flat[::_SAMPLE_STEP]))
    margin = math.ceil(_SAMPLE_MARGIN * math.sqrt(len(sample)))
    middle = len(sample) // 2
    low, high = sample[max(0, middle - margin)], sample[min(len(sample) - 1, middle + margin)]
    found = np.empty(flat.size + 1, np.float32)
    below, count = _sizes_between(flat, low, high, found)
    first, second = (flat.size - 1) // 2 - below, flat.size // 2 - below
    if first < 0 or second >= count:  # the sample misled
        return np.float32(np.median(np.abs(flat)))
    candidates = np.partition(found[:count], (first, second))
    return np.float32(np.mean(candidates[first : second + 1]))


@njit(cache=True, nogil=True, error_model="numpy")
def _sizes_between(values, low, high, found):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    below = 0
    count = 0
    for index in range(values.size):
        size = abs(values[index])
        # No branches: the next value overwrites one that does not count.
        found[count] = size
        below += int(size < low)
        count += int((size >= low) & (size <= high))
    return below, count


def _product(left: Array32, right: Array32) -> Array32:
    """Matrix product; the axes of `left` are multiples of 4. Unlike a BLAS it gives the same bits on any number of threads."""
    out = np.zeros((left.shape[0], right.shape[1]), np.float32)
    _add_product(left, right, out)
    return out


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _add_product(left, right, out):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    rows, terms = left.shape
    columns = right.shape[1]
    for start in range(0, columns, _PART_COLUMNS):
        stop = min(start + _PART_COLUMNS, columns)
        for first in range(0, terms, _PART_TERMS):
            last = min(first + _PART_TERMS, terms)
            for i in range(0, rows, 2):
                a, b = left[i], left[i + 1]
                out_a, out_b = out[i, start:stop], out[i + 1, start:stop]
                for k in range(first, last, 4):
                    # One-dimensional views: LLVM vectorises the innermost loop over them, over two indices it does not.
                    a0, a1, a2, a3 = a[k], a[k + 1], a[k + 2], a[k + 3]
                    b0, b1, b2, b3 = b[k], b[k + 1], b[k + 2], b[k + 3]
                    row0, row1 = right[k, start:stop], right[k + 1, start:stop]
                    row2, row3 = right[k + 2, start:stop], right[k + 3, start:stop]
                    for j in range(out_a.size):
                        x0, x1, x2, x3 = row0[j], row1[j], row2[j], row3[j]
                        out_a[j] += (a0 * x0 + a1 * x1) + (a2 * x2 + a3 * x3)
                        out_b[j] += (b0 * x0 + b1 * x1) + (b2 * x2 + b3 * x3)
