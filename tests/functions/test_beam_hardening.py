"""The polynomial against its formula and against a beam of two energies; coefficients that fall are refused."""

from __future__ import annotations

import math

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tomopipe.functions.errors import InputError, ParameterError
from tomopipe.functions.preprocessing.beam_hardening import check_coefficients, correct_beam_hardening

INTEGRALS = np.random.default_rng(2).uniform(0, 4, (5, 7, 31)).astype(np.float32)


@given(coefficients=st.lists(st.floats(-0.3, 0.3), max_size=4).map(lambda rest: [0.8, *rest]))
@settings(max_examples=30, deadline=None)
def test_values_are_the_polynomial_of_line_integrals(coefficients: list[float]) -> None:
    p = INTEGRALS.astype(np.float64)
    expected = sum(c * p**k for k, c in enumerate(coefficients, start=1))
    size = sum(abs(c) * p**k for k, c in enumerate(coefficients, start=1))
    found = correct_beam_hardening(INTEGRALS, coefficients)
    assert found.dtype == np.float32
    assert (np.abs(found - expected) <= 1e-6 * size).all()


def test_a_hardened_beam_is_straightened() -> None:
    """Half the photons of a beam at each of two energies: thickness is proportional to the corrected integral."""
    thickness = np.linspace(0, 3, 600).reshape(2, 3, 100)
    measured = (-np.log(0.5 * np.exp(-1.4 * thickness) + 0.5 * np.exp(-0.6 * thickness))).astype(np.float32)
    table = -np.log(0.5 * np.exp(-1.4 * np.linspace(0, 3, 50)) + 0.5 * np.exp(-0.6 * np.linspace(0, 3, 50)))
    powers = np.stack([table**k for k in range(1, 6)], axis=1)
    coefficients = np.linalg.lstsq(powers, np.linspace(0, 3, 50), rcond=None)[0].tolist()
    check_coefficients(coefficients, float(measured.max()))
    assert np.abs(measured - thickness).max() > 0.3
    np.testing.assert_allclose(correct_beam_hardening(measured, coefficients), thickness, atol=5e-3)


def test_negative_integrals_follow_the_straight_line() -> None:
    p = np.array([[[-3.0, -0.01, 0.0, 1.0]]], np.float32)
    np.testing.assert_allclose(correct_beam_hardening(p, [2.0, 5.0]), [[[-6.0, -0.02, 0.0, 7.0]]], rtol=1e-6)


def test_one_as_the_only_coefficient_changes_no_bit() -> None:
    p = INTEGRALS - np.float32(1)
    np.testing.assert_array_equal(correct_beam_hardening(p, [1.0]), p)


def test_any_cut_any_threads_and_in_place_give_the_same_bits() -> None:
    coefficients = [0.9, 0.08, 0.01]
    copy = INTEGRALS.copy()
    whole = correct_beam_hardening(INTEGRALS, coefficients)
    np.testing.assert_array_equal(INTEGRALS, copy)
    np.testing.assert_array_equal(correct_beam_hardening(INTEGRALS[1:3, 2:6], coefficients), whole[1:3, 2:6])
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        np.testing.assert_array_equal(correct_beam_hardening(INTEGRALS, coefficients), whole)
    finally:
        numba.set_num_threads(threads)
    assert correct_beam_hardening(copy, coefficients, out=copy) is copy
    np.testing.assert_array_equal(copy, whole)


@given(
    coefficients=st.lists(st.floats(-1, 1), min_size=1, max_size=5).map(lambda c: [abs(c[0]) + 0.01, *c[1:]]),
    largest=st.floats(0.5, 7),
)
@settings(max_examples=200, deadline=None)
def test_what_falls_somewhere_is_refused(coefficients: list[float], largest: float) -> None:
    p = np.linspace(0, largest, 20001)
    slope = sum(k * c * p ** (k - 1) for k, c in enumerate(coefficients, start=1))
    if abs(slope.min()) < 1e-4:
        return
    if slope.min() > 0:
        check_coefficients(coefficients, largest)
    else:
        with pytest.raises(ParameterError, match=r"beam_hardening \[.*the polynomial falls at a line integral of"):
            check_coefficients(coefficients, largest)


def test_the_place_where_it_falls_is_named() -> None:
    with pytest.raises(ParameterError, match=r"falls at a line integral of 6\.91,.* from 0 to 6\.91"):
        check_coefficients([1.0, -0.1], -math.log(1e-3))
    check_coefficients([1.0, -0.1], 4.9)
    check_coefficients([1.0, -0.3, 0.02], 1.5)  # falls from 2.1 to 7.9 alone
    with pytest.raises(ParameterError, match=r"falls at a line integral of 5,"):
        check_coefficients([1.0, -0.3, 0.02], 9)


@pytest.mark.parametrize("coefficients", [[], [0.0, 1.0], [-1.0], [1.0, math.nan], [math.inf]])
def test_coefficients_without_sense_are_refused(coefficients: list[float]) -> None:
    for refuse in (
        lambda: check_coefficients(coefficients, 5.0),
        lambda: correct_beam_hardening(INTEGRALS, coefficients),
    ):
        with pytest.raises(ParameterError, match=r"beam_hardening .*first above 0"):
            refuse()


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="shape"):
        correct_beam_hardening(INTEGRALS[0], [1.0])
    with pytest.raises(InputError, match="C-contiguous"):
        correct_beam_hardening(INTEGRALS, [1.0], out=np.empty((2, 2, 2), np.float32))
