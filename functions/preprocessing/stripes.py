"""Removes the stripes of a sinogram that miscalibrated detector pixels make, which a reconstruction shows as rings.

Works on line integrals, each detector row for itself; single bad frames or pixels are left to `zingers` and
`normalization`. Here the method is chosen; the methods are in the modules `stripes_...`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import ParameterError
from .stripes_fourier_wavelet import Array32, default_level, remove_stripe_fw, remove_stripes_fourier_wavelet
from .stripes_titarenko import remove_stripe_ti, remove_stripes_titarenko
from .stripes_vo import (
    default_large_size,
    default_size,
    remove_all_stripes,
    remove_stripes_dead,
    remove_stripes_filtering,
    remove_stripes_large,
    remove_stripes_sorting,
)

__all__ = [
    "STRIPE_METHODS",
    "StripeMethod",
    "StripeSettings",
    "default_level",
    "remove_all_stripes",
    "remove_stripe_fw",
    "remove_stripe_ti",
    "remove_stripes",
    "remove_stripes_dead",
    "remove_stripes_filtering",
    "remove_stripes_fourier_wavelet",
    "remove_stripes_large",
    "remove_stripes_sorting",
    "remove_stripes_titarenko",
]

StripeMethod = Literal[
    "none",
    "fourier_wavelet",
    "tomopy_fw",
    "vo_all",
    "vo_sorting",
    "vo_filtering",
    "vo_large",
    "vo_dead",
    "titarenko",
    "tomopy_ti",
]
STRIPE_METHODS: tuple[str, ...] = get_args(StripeMethod)


@dataclass(frozen=True)
class StripeSettings:
    """How stripes are removed. None stands for the method's own default.

    Attributes
    ----------
    method : str
        One of `STRIPE_METHODS`.
    level : int or None
        fourier_wavelet, tomopy_fw: scales that are cleaned.
    wavelet : str or None
        fourier_wavelet (sym16), tomopy_fw (db5): a discrete wavelet of PyWavelets.
    sigma : float or None
        fourier_wavelet (1), tomopy_fw (2), vo_filtering (3): width of the filter along the angles, in periods.
    limit : float or None
        fourier_wavelet: clip in robust standard deviations of what is removed; here None clips nothing.
    snr : float
        vo_all, vo_large, vo_dead: how far from the others a column must lie to count as a stripe.
    large_size : int or None
        vo_all, vo_large, vo_dead: window of the median against wide stripes, columns; None chooses it by the width.
    small_size : int or None
        vo_all, vo_sorting, vo_filtering: window of the median against narrow stripes, columns; None chooses it by the width.
    drop_ratio : float
        vo_all, vo_large: share of a column's extreme values that its mean leaves out.
    alpha : float or None
        titarenko (by the width): how much the correction is held back; tomopy_ti (1.5): how much the minimum lifts the result.
    blocks : int
        titarenko, tomopy_ti: parts of the angles that are corrected each for themselves.
    """

    method: str = "fourier_wavelet"
    level: int | None = None
    wavelet: str | None = None
    sigma: float | None = None
    limit: float | None = 10.0
    snr: float = 3.0
    large_size: int | None = None
    small_size: int | None = None
    drop_ratio: float = 0.1
    alpha: float | None = None
    blocks: int = 1


def remove_stripes(projections: Array32, settings: StripeSettings | None = None) -> Array32:
    """Remove stripes by the method that the settings name.

    Each row is treated alone and gives the same bits whichever rows come with it, on any number of threads.

    Parameters
    ----------
    projections : (angles, rows, columns) float32, line integrals, dimensionless
    settings : StripeSettings or None
        None takes the defaults.

    Returns
    -------
    (angles, rows, columns) float32
        `projections` is not changed; method none gives it back itself.

    Raises
    ------
    InputError
        Not three axes, or an empty one.
    ParameterError
        A method that is unknown or a setting out of its range.
    """
    chosen = settings or StripeSettings()
    if chosen.method == "none":
        return projections
    if chosen.method not in _METHODS:
        raise ParameterError(f"stripe_removal is {chosen.method!r}: give one of {', '.join(STRIPE_METHODS)}")
    return _METHODS[chosen.method](projections, chosen)


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _large(projections: Array32, settings: StripeSettings) -> int:
    return default_large_size(projections.shape[-1]) if settings.large_size is None else settings.large_size


def _small(projections: Array32, settings: StripeSettings) -> int:
    return default_size(projections.shape[-1]) if settings.small_size is None else settings.small_size


_METHODS: dict[str, Callable[[Array32, StripeSettings], Array32]] = {
    "fourier_wavelet": lambda p, s: remove_stripes_fourier_wavelet(
        p, s.level, s.wavelet or "sym16", _or(s.sigma, 1.0), s.limit
    ),
    "tomopy_fw": lambda p, s: remove_stripe_fw(p, s.level, s.wavelet or "db5", _or(s.sigma, 2.0)),
    "vo_all": lambda p, s: remove_all_stripes(p, s.snr, _large(p, s), _small(p, s), s.drop_ratio),
    "vo_sorting": lambda p, s: remove_stripes_sorting(p, s.small_size),
    "vo_filtering": lambda p, s: remove_stripes_filtering(p, _or(s.sigma, 3.0), s.small_size),
    "vo_large": lambda p, s: remove_stripes_large(p, s.snr, _large(p, s), s.drop_ratio),
    "vo_dead": lambda p, s: remove_stripes_dead(p, s.snr, _large(p, s)),
    "titarenko": lambda p, s: remove_stripes_titarenko(p, s.alpha, s.blocks),
    "tomopy_ti": lambda p, s: remove_stripe_ti(p, s.blocks, _or(s.alpha, 1.5)),
}
