"""Preprocessing on a PyTorch device, one function a step: the numbers of the functions of the same names for the CPU.

Tensors stay on their device between the steps. Results agree with the CPU's to rounding (`zingers` to the bit, but for NaN);
what each step does, and its parameters, is said there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import InputError, ParameterError
from . import beam_hardening, normalization, stripes_fourier_wavelet, zingers
from .normalization import OpenBeam
from .phase import PaganinFilter
from .stripes_fourier_wavelet import FilterPlan

_CHUNK_VALUES: Final = (
    2**24
)  # that are worked on at a time: the intermediate arrays of a step take some ten times these
_ROWS_TOGETHER: Final = 8  # whose stripes are found in one matrix product; its bits may depend on their number


def remove_zingers(projections: torch.Tensor, dark: torch.Tensor, threshold: float) -> torch.Tensor:
    """`zingers.remove_zingers` with 3 x 3 pixels.

    Parameters
    ----------
    projections : (angles, rows, columns) uint8, uint16 or float32, raw counts
        `zingers.REACH_ROWS` more rows at each side than are wanted, where the detector has them.
    dark : (rows, columns) float32, raw counts
    threshold : float, dimensionless

    Returns
    -------
    (angles, rows, columns) float32, raw counts
        Whole numbers where `projections` were. A new tensor.

    Raises
    ------
    InputError
        The shapes do not fit each other.
    ParameterError
        `threshold` is not above 0.
    """
    _check_frames(projections, dark)
    if not threshold > 0:
        raise ParameterError(f"threshold is {threshold}: give a fraction above 0, such as 0.3, or leave zingers alone")
    largest = torch.iinfo(projections.dtype).max if not projections.dtype.is_floating_point else None
    out = torch.empty(projections.shape, dtype=torch.float32, device=projections.device)
    for part in _angles_at_a_time(projections):
        value = projections[part].to(torch.float32)
        counts = value - dark
        known, _ = _mended(counts)
        median, low = _median_and_low(known)
        excess = counts - median
        zinger = (excess > threshold * median.clamp(min=0)) & (excess > zingers.SPREADS * (median - low))
        zinger &= torch.isfinite(counts) & (excess >= 0)
        replaced = median + dark
        if largest is not None:
            replaced = torch.round(replaced).clamp(0, largest)
        out[part] = torch.where(zinger, replaced, value)
    return out


def transmission(
    projections: torch.Tensor,
    flat: torch.Tensor | OpenBeam,
    dark: torch.Tensor,
    *,
    bad_pixels: torch.Tensor | None = None,
) -> tuple[torch.Tensor, int]:
    """`normalization.transmission`.

    Parameters
    ----------
    projections : (angles, rows, columns) of any type, raw counts
    flat : (rows, columns) float32, raw counts; or OpenBeam of arrays in host memory
    dark : (rows, columns) float32, raw counts
    bad_pixels : (rows, columns) bool, optional

    Returns
    -------
    transmissions : (angles, rows, columns) float32, dimensionless
    mended : int

    Raises
    ------
    InputError
        The shapes do not fit each other.
    """
    return _corrected(projections, flat, dark, bad_pixels, None)


def line_integrals(
    projections: torch.Tensor,
    flat: torch.Tensor | OpenBeam,
    dark: torch.Tensor,
    minimum_transmission: float,
    *,
    bad_pixels: torch.Tensor | None = None,
) -> tuple[torch.Tensor, int]:
    """`normalization.line_integrals`; tensors as for `transmission`.

    Returns
    -------
    integrals : (angles, rows, columns) float32, dimensionless
    mended : int

    Raises
    ------
    InputError
        The shapes do not fit each other.
    ParameterError
        `minimum_transmission` is not above 0.
    """
    minimum = normalization.checked_minimum(minimum_transmission)
    return _corrected(projections, flat, dark, bad_pixels, minimum)


def minus_log(transmissions: torch.Tensor, minimum_transmission: float) -> tuple[torch.Tensor, int]:
    """`normalization.minus_log`.

    Parameters
    ----------
    transmissions : (angles, rows, columns) float32, dimensionless
    minimum_transmission : float, dimensionless

    Returns
    -------
    integrals : (angles, rows, columns) float32, dimensionless
    mended : int

    Raises
    ------
    ParameterError
        `minimum_transmission` is not above 0.
    """
    minimum = normalization.checked_minimum(minimum_transmission)
    frame = torch.zeros(transmissions.shape[1:], device=transmissions.device)
    return _corrected(transmissions, frame + 1, frame, None, minimum)


def correct_beam_hardening(projections: torch.Tensor, coefficients: Sequence[float]) -> torch.Tensor:
    """`beam_hardening.correct_beam_hardening`.

    Parameters
    ----------
    projections : (angles, rows, columns) float32, line integrals, dimensionless
    coefficients : sequence of float

    Returns
    -------
    (angles, rows, columns) float32, dimensionless

    Raises
    ------
    ParameterError
        Coefficients that cannot be used.
    """
    numbers = [float(number) for number in beam_hardening.checked_numbers(coefficients)]
    out = torch.empty_like(projections)
    for part in _angles_at_a_time(projections):
        measured = projections[part]
        total = torch.full_like(measured, numbers[-1])
        for number in numbers[-2::-1]:
            total = total * measured + number
        out[part] = torch.where(measured < 0, numbers[0], total) * measured
    return out


def remove_stripes_fourier_wavelet(
    projections: torch.Tensor,
    level: int | None = None,
    wavelet: str = "sym16",
    sigma: float = 1.0,
    limit: float | None = 10.0,
) -> torch.Tensor:
    """`stripes_fourier_wavelet.remove_stripes_fourier_wavelet`.

    Parameters
    ----------
    projections : (angles, rows, columns) float32, line integrals, dimensionless
    level, wavelet, sigma, limit
        As there.

    Returns
    -------
    (angles, rows, columns) float32
        A new tensor.

    Raises
    ------
    InputError
        Not three axes, or an empty one.
    ParameterError
        A level below 1, a sigma that is not above 0, or an unknown wavelet.
    """
    if projections.ndim != 3 or not projections.numel():
        raise InputError(
            f"projections have the shape {tuple(projections.shape)}: give (angles, rows, columns), none of them 0"
        )
    stripes_fourier_wavelet.check_filter(level, wavelet, sigma)
    levels = stripes_fourier_wavelet.default_level(projections.shape[2]) if level is None else level
    plan = stripes_fourier_wavelet.filter_plan(projections.shape[0], levels, wavelet, float(sigma), "mirrored")
    return _without_stripes(plan, projections, limit)


def retrieve_phase(
    paganin: PaganinFilter, transmissions: torch.Tensor, first_row: int, start: int, stop: int, rows: int
) -> torch.Tensor:
    """`phase.PaganinFilter` applied to tensors.

    Parameters
    ----------
    paganin : PaganinFilter
    transmissions : (angles, rows given, columns) float32, dimensionless
    first_row, start, stop, rows : int
        As for calling `paganin`.

    Returns
    -------
    (angles, stop - start, columns) float32
        A new tensor.

    Raises
    ------
    InputError
        Another width, or rows within reach that are not given.
    """
    low, high = paganin.reach(start, stop, rows)
    if transmissions.ndim != 3 or transmissions.shape[2] != paganin.columns:
        raise InputError(
            f"transmissions have the shape {tuple(transmissions.shape)}: give (angles, rows, {paganin.columns} columns)"
        )
    given = transmissions.shape[1]
    if not (0 <= start < stop <= rows and first_row <= low and high <= first_row + given):
        raise InputError(
            f"rows [{first_row}, {first_row + given}) of {rows} are given: rows [{start}, {stop}) need [{low}, {high})"
        )
    device, width, left = transmissions.device, paganin.width, paganin.reach_columns
    kernels = torch.as_tensor(paganin.kernels[:, ::2].copy(), device=device)  # each value stands twice there
    reach = paganin.reach_rows
    sources = torch.as_tensor(np.clip(np.arange(start - reach, stop + reach), 0, rows - 1) - first_row, device=device)
    out = torch.empty((len(transmissions), stop - start, paganin.columns), dtype=torch.float32, device=device)
    for part in _angles_at_a_time(transmissions):
        lines = transmissions[part][:, sources]
        first, last = lines[..., :1], lines[..., -1:]
        middle = ((first + last) / 2).expand(-1, -1, width - 2 * left - paganin.columns)
        sides = first.expand(-1, -1, left), last.expand(-1, -1, left)
        spectrum = torch.fft.rfft(torch.cat((sides[0], lines, sides[1], middle), dim=-1), dim=-1)
        total = kernels[0] * spectrum[:, reach : reach + stop - start]
        for distance in range(1, reach + 1):
            used = int(paganin.used[distance]) // 2
            above = spectrum[:, reach - distance : reach - distance + stop - start, :used]
            below = spectrum[:, reach + distance : reach + distance + stop - start, :used]
            total[..., :used] += kernels[distance, :used] * (above + below)
        out[part] = torch.fft.irfft(total, width, dim=-1)[..., left : left + paganin.columns]
    return out


def _check_frames(projections: torch.Tensor, *frames: Any) -> None:
    if projections.ndim != 3 or any(tuple(frame.shape) != tuple(projections.shape[1:]) for frame in frames):
        raise InputError(
            f"projections have the shape {tuple(projections.shape)}, the frames {[tuple(f.shape) for f in frames]}: "
            "give projections (angles, rows, columns), and flat, dark and bad pixels of the same detector rows"
        )


def _angles_at_a_time(projections: torch.Tensor) -> Iterator[slice]:
    step = max(1, _CHUNK_VALUES // max(1, math.prod(projections.shape[1:])))
    for first in range(0, len(projections), step):
        yield slice(first, first + step)


def _corrected(
    projections: torch.Tensor,
    flat: torch.Tensor | OpenBeam,
    dark: torch.Tensor,
    bad_pixels: torch.Tensor | None,
    minimum: float | None,
) -> tuple[torch.Tensor, int]:
    frames = [dark, *([] if bad_pixels is None else [bad_pixels])]
    if isinstance(flat, OpenBeam):
        _check_frames(projections, *frames, *flat.fields)
    else:
        _check_frames(projections, *frames, flat)
    level_of = _levels(flat, dark, bad_pixels)
    out = torch.empty(projections.shape, dtype=torch.float32, device=projections.device)
    mended = 0
    for part in _angles_at_a_time(projections):
        level = level_of(part)
        value = (projections[part].to(torch.float32) - dark) / level
        value[~(torch.isfinite(value) & (level > 0))] = torch.nan
        value, count = _mended(value)
        mended += count
        out[part] = value if minimum is None else -torch.log(value.clamp(min=minimum))
    return out, mended


def _levels(
    flat: torch.Tensor | OpenBeam, dark: torch.Tensor, bad_pixels: torch.Tensor | None
) -> Callable[[slice], torch.Tensor]:
    """What a pixel counts above the dark without a sample, for a range of angles; NaN where it is bad."""
    if not isinstance(flat, OpenBeam):
        level = flat - dark
        good = torch.isfinite(level) & (level > 0)
        if bad_pixels is not None:
            good &= ~bad_pixels
        frame = torch.where(good, level, torch.nan)[None]
        return lambda part: frame
    fields = torch.as_tensor(flat.fields, dtype=torch.float32, device=dark.device)
    weights = torch.as_tensor(flat.weights, dtype=torch.float32, device=dark.device)
    if bad_pixels is not None:
        fields = torch.where(bad_pixels, torch.nan, fields)

    def weighted(part: slice) -> torch.Tensor:
        total = torch.zeros((len(weights[part]), *dark.shape), device=dark.device)
        for number, field in enumerate(fields):
            weight = weights[part, number, None, None]
            total += torch.where(weight != 0, weight * field, 0)
        return total

    return weighted


def _mended(values: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Values (..., columns) whose bad ones are interpolated as `normalization.mend_row` does, and how many those are."""
    good = torch.isfinite(values)
    count = good.numel() - int(good.sum())
    if not count:
        return values, 0
    columns = values.shape[-1]
    lines, known = values.reshape(-1, columns), good.reshape(-1, columns)
    chosen = torch.nonzero(~known.all(dim=1))[:, 0]
    line, known = lines[chosen], known[chosen]
    index = torch.arange(columns, device=values.device)
    left = torch.cummax(torch.where(known, index, -1), dim=1).values
    right = torch.cummin(torch.where(known, index, columns).flip(1), dim=1).values.flip(1)
    at_left, at_right = line.gather(1, left.clamp(min=0)), line.gather(1, right.clamp(max=columns - 1))
    start = torch.where(left >= 0, at_left, torch.where(right < columns, at_right, 1.0))
    end = torch.where(right < columns, at_right, start)
    share = (end - start) * (index - left).to(torch.float32) / (right - left).clamp(min=1).to(torch.float32)
    mended = lines.clone()
    mended[chosen] = torch.where(known, line, start + share)
    return mended.reshape(values.shape), count


def _median_and_low(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Median and second smallest of each 3 x 3 neighbourhood of images (angles, rows, columns), the border repeated."""
    rows = torch.cat((values[:, :1], values, values[:, -1:]), dim=1)
    low, middle, high = (_bordered(part) for part in _sorted(rows[:, :-2], rows[:, 1:-1], rows[:, 2:]))
    lowest = _sorted(*_beside(low))
    middles = _sorted(*_beside(middle))
    highest = torch.minimum(torch.minimum(*_beside(high)[:2]), _beside(high)[2])
    second = torch.minimum(lowest[1], middles[0])  # nothing but the smallest of the nine is below these
    return _sorted(lowest[2], middles[1], highest)[1], second


def _sorted(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    low, high = torch.minimum(a, b), torch.maximum(a, b)
    return torch.minimum(low, c), torch.maximum(low, torch.minimum(high, c)), torch.maximum(high, c)


def _bordered(values: torch.Tensor) -> torch.Tensor:
    return torch.cat((values[..., :1], values, values[..., -1:]), dim=-1)


def _beside(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return values[..., :-2], values[..., 1:-1], values[..., 2:]


def _without_stripes(plan: FilterPlan, projections: torch.Tensor, limit: float | None) -> torch.Tensor:
    """See `stripes_fourier_wavelet`: all that is removed is linear in a few functions of the angle."""
    angles, rows, columns = projections.shape
    device = projections.device
    analysis = torch.as_tensor(plan.analysis[:, :angles].copy(), device=device)
    synthesis = torch.as_tensor(plan.synthesis[:angles].copy(), device=device)
    mixing = [torch.as_tensor(matrix, device=device) for matrix in plan.mixing]
    out = torch.empty_like(projections)
    for first in range(0, rows, _ROWS_TOGETHER):
        part = slice(first, min(first + _ROWS_TOGETHER, rows))
        sinograms = torch.zeros((angles, _ROWS_TOGETHER, columns), dtype=torch.float32, device=device)
        sinograms[:, : part.stop - first] = projections[:, part]
        smooth = _times(analysis, sinograms)
        widths, bands = [], []
        for matrix in mixing:
            widths.append(smooth.shape[-1])
            smooth, band = (_decomposed(smooth, taps) for taps in (plan.wavelet.dec_lo, plan.wavelet.dec_hi))
            bands.append(_times(matrix, band))
        removed: torch.Tensor | None = None
        for width, band in zip(reversed(widths), reversed(bands), strict=True):
            total = _composed(band, plan.wavelet.rec_hi)
            if removed is not None:
                total = total + _composed(removed[..., : band.shape[-1]], plan.wavelet.rec_lo)
            removed = total[..., :width]
        assert removed is not None
        stripes = _times(synthesis, removed.contiguous())[:, : part.stop - first]
        if limit is not None:
            size = _median(stripes.abs().transpose(0, 1).reshape(stripes.shape[1], -1))
            bound = (limit * stripes_fourier_wavelet.MAD_TO_SIGMA * size)[None, :, None]
            stripes = torch.maximum(torch.minimum(stripes, bound), -bound)
        out[:, part] = projections[:, part] - stripes
    return out


def _times(matrix: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Matrix product along the first axis of (functions, rows, columns)."""
    return (matrix @ values.reshape(values.shape[0], -1)).reshape(-1, *values.shape[1:])


def _decomposed(values: torch.Tensor, taps: Sequence[float]) -> torch.Tensor:
    """One half of a discrete wavelet transform along the last axis, its ends mirrored: PyWavelets' mode "symmetric"."""
    length, reach = values.shape[-1], len(taps)
    count = (length + reach - 1) // 2
    position = torch.arange(2 - reach, 2 * count, device=values.device) % (2 * length)
    mirrored = values[..., torch.where(position < length, position, 2 * length - 1 - position)]
    return _summed(
        (tap, mirrored[..., reach - 1 - number : reach - 2 - number + 2 * count : 2]) for number, tap in enumerate(taps)
    )


def _composed(values: torch.Tensor, taps: Sequence[float]) -> torch.Tensor:
    """One half of the inverse transform along the last axis."""
    pairs = len(taps) // 2
    count = values.shape[-1] - pairs + 1
    phases = [
        _summed((taps[phase + 2 * (pairs - 1 - q)], values[..., q : q + count]) for q in range(pairs))
        for phase in (0, 1)
    ]
    return torch.stack(phases, dim=-1).reshape(*values.shape[:-1], 2 * count)


def _summed(terms: Iterator[tuple[float, torch.Tensor]]) -> torch.Tensor:
    total: torch.Tensor | None = None
    for factor, values in terms:
        total = factor * values if total is None else total.add_(values, alpha=factor)
    assert total is not None
    return total


def _median(values: torch.Tensor) -> torch.Tensor:
    """Median of each row of (rows, values), the mean of the middle two where their number is even, as NumPy's."""
    below = values.median(dim=1).values  # the lower of two
    if values.shape[1] % 2:
        return below
    not_above = (values <= below[:, None]).sum(dim=1)
    above = torch.where(values > below[:, None], values, torch.inf).amin(dim=1)
    return (below + torch.where(not_above > values.shape[1] // 2, below, above)) / 2


def to_device(array: NDArray[Any], device: torch.device | str) -> torch.Tensor:
    """A tensor of an array's numbers: uint8, uint16 and float32 stay so, any other type becomes float32."""
    return torch.from_numpy(normalization.for_kernel(array).copy()).to(device)
