"""Straightens the line integrals of a beam of many energies, which thick samples harden, by a polynomial.

Where the coefficients come from (a step wedge, a fit to the sample) is the user's business.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, ParameterError
from .normalization import checked_out, in_pieces_of_angles


def correct_beam_hardening(
    projections: NDArray[np.float32], coefficients: Sequence[float], *, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Map line integrals p to c1 p + c2 p^2 + ..., as a monochromatic beam would have measured them.

    After G. T. Herman, "Correction for beam hardening in computed tomography" (1979), DOI 10.1088/0031-9155/24/1/008.
    Below 0, where noise alone brings a line integral, the mapping goes on as the straight line c1 p.

    Parameters
    ----------
    projections : (angles, rows, columns) float32, line integrals, dimensionless
    coefficients : sequence of float
        c1, c2, ... ; `check_coefficients` says which are possible. [1] changes nothing.
    out : (angles, rows, columns) float32, optional
        C-contiguous; may be `projections` itself.

    Returns
    -------
    (angles, rows, columns) float32, dimensionless
        Each value depends on that value alone.

    Raises
    ------
    ParameterError
        There are no coefficients, or one is not finite, or c1 is not above 0.
    InputError
        `out` does not fit.
    """
    numbers = checked_numbers(coefficients)
    if projections.ndim != 3:
        raise InputError(f"projections have the shape {projections.shape}: give them as (angles, rows, columns)")
    values = checked_out(projections.shape, out)

    def correct(first: int, last: int) -> None:
        for angle in range(first, last):
            measured = np.asarray(projections[angle], np.float32)
            total = np.full(measured.shape, numbers[-1])
            for number in numbers[-2::-1]:
                total *= measured
                total += number
            total[measured < 0] = numbers[0]
            np.multiply(total, measured, out=values[angle])

    in_pieces_of_angles(projections.shape, correct)
    return values


def check_coefficients(coefficients: Sequence[float], largest: float) -> None:
    """Refuse a polynomial that does not rise everywhere between 0 and `largest`.

    Parameters
    ----------
    coefficients : sequence of float
        c1, c2, ... of c1 p + c2 p^2 + ...
    largest : float, dimensionless
        The largest line integral that can occur: -log of the minimum transmission.

    Raises
    ------
    ParameterError
        There are none, one is not finite, c1 is not above 0, or more material would count as less somewhere.
    """
    numbers = checked_numbers(coefficients).astype(np.float64)
    slope = np.polynomial.Polynomial(numbers * np.arange(1, len(numbers) + 1))
    # close places rather than the roots of the slope's slope, which small last coefficients make imprecise
    places = np.linspace(0, largest, 10_001)
    worst = int(np.argmin(slope(places)))
    if not slope(places)[worst] > 0:
        raise ParameterError(
            f"beam_hardening {[float(number) for number in coefficients]}: the polynomial falls at a line integral of "
            f"{places[worst]:.3g}, so that more material would count as less; it must rise from 0 to {largest:.3g}, the "
            "largest that minimum_transmission allows"
        )


def checked_numbers(coefficients: Sequence[float]) -> NDArray[np.float32]:
    """Coefficients as float32; `ParameterError` where there are none, one is not finite, or the first is not above 0."""
    if not len(coefficients) or not all(math.isfinite(number) for number in coefficients) or not coefficients[0] > 0:
        raise ParameterError(
            f"beam_hardening {list(coefficients)}: give finite coefficients of p, p^2, ..., the first above 0, such as "
            "[1.0, 0.05]"
        )
    return np.asarray(coefficients, np.float32)
