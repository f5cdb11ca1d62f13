"""Regularised stripe removal against the plain solution of its equations, and on stripes of which the truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tomopipe.functions.errors import InputError, ParameterError
from tomopipe.functions.preprocessing.stripes_titarenko import remove_stripe_ti, remove_stripes_titarenko


def projections_of(angles: int, rows: int, columns: int) -> NDArray[np.float32]:
    return np.random.default_rng(columns).random((angles, rows, columns), np.float32)


@settings(deadline=None, max_examples=20)
@given(angles=st.integers(1, 12), columns=st.integers(1, 40), alpha=st.floats(1e-4, 10), parts=st.integers(1, 3))
def test_is_the_smallest_correction_that_makes_the_mean_smooth(
    angles: int, columns: int, alpha: float, parts: int
) -> None:
    parts = min(parts, angles)
    projections = projections_of(angles, 2, columns)
    result = remove_stripes_titarenko(projections, alpha, parts)
    differences = np.diff(np.eye(columns), axis=0)
    square = differences.T @ differences
    length = angles // parts
    for part in range(parts):
        chosen = slice(part * length, angles if part == parts - 1 else (part + 1) * length)
        for row in range(2):
            mean = projections[chosen, row].astype(np.float64).mean(0)
            correction = np.linalg.solve(square + alpha * np.eye(columns), -square @ mean)
            np.testing.assert_allclose(result[chosen, row], projections[chosen, row] + correction, atol=1e-6)


@settings(deadline=None, max_examples=20)
@given(angles=st.integers(2, 12), columns=st.integers(4, 40), alpha=st.floats(1, 3), parts=st.integers(0, 3))
def test_tomopys_function_has_its_semantics(angles: int, columns: int, alpha: float, parts: int) -> None:
    parts = min(parts, angles)
    projections = projections_of(angles, 1, columns) - np.float32(0.2)
    result = remove_stripe_ti(projections, parts, alpha)[:, 0]
    first = np.diff(np.eye(columns), axis=0)
    second = np.diff(np.eye(columns), 2, axis=0)
    product = np.empty((angles, columns))
    count = max(parts, 1)
    length = angles // count
    for part in range(count):
        chosen = slice(part * length, angles if part == count - 1 else (part + 1) * length)
        block = projections[chosen, 0].astype(np.float64)
        mass = block.sum(1)
        corrected = []
        for differences in (first, second):
            square = differences.T @ differences
            if len(block) == 1:
                corrected.append(block)
                continue
            weight = 1 / (2 * (mass.max() - mass.min()))
            corrected.append(block + np.linalg.solve(square + weight * np.eye(columns), -square @ block.mean(0)))
        product[chosen] = corrected[0] * corrected[1]
    lowest = np.abs(product.min())
    np.testing.assert_allclose(result**2, product + alpha * lowest, atol=2e-4 * max(1.0, np.abs(product).max()))


def test_agrees_with_tomopy() -> None:
    tomopy = pytest.importorskip("tomopy")
    projections = projections_of(60, 3, 80)
    theirs = tomopy.prep.stripe.remove_stripe_ti(projections.copy(), ncore=1)
    np.testing.assert_allclose(remove_stripe_ti(projections), theirs, atol=2e-5)


def test_nan_counts_as_0() -> None:
    projections = projections_of(20, 1, 30)
    projections[3, 0, 4] = np.nan
    filled = projections.copy()
    filled[3, 0, 4] = 0
    np.testing.assert_array_equal(remove_stripe_ti(projections), remove_stripe_ti(filled))


def test_stripes_are_removed_and_the_sample_keeps_its_values() -> None:
    theta = np.arange(200)[:, None] * np.pi / 200
    t = np.arange(400) - 199.5
    clean = np.sqrt(np.maximum(150.0**2 - t**2, 0)) / 150 + 0 * theta
    clean = clean + 0.3 * np.exp(-((t - 60 * np.cos(theta)) ** 2) / 50)
    offsets = np.zeros(400)
    offsets[np.random.default_rng(1).choice(400, 40, replace=False)] = 0.03
    projections = (clean + offsets).astype(np.float32)[:, None]
    left = remove_stripes_titarenko(projections)[:, 0] - clean
    inner = np.abs(t) < 120
    assert np.std(left[:, inner]) < 0.4 * np.std(offsets)
    assert np.abs(left.mean() - offsets.mean()) < 1e-6  # the mean of all columns is kept
    half_on = projections.copy()
    half_on[100:] = clean[100:, None]
    whole, halves = (remove_stripes_titarenko(half_on, blocks=blocks)[:, 0] - clean for blocks in (1, 2))
    assert np.std(halves[:, inner]) < 0.7 * np.std(whole[:, inner])


def test_bad_arguments_are_refused() -> None:
    projections = projections_of(10, 1, 12)
    with pytest.raises(ParameterError, match="alpha"):
        remove_stripes_titarenko(projections, 0.0)
    with pytest.raises(ParameterError, match="blocks is 11"):
        remove_stripes_titarenko(projections, 1.0, 11)
    with pytest.raises(ParameterError, match="blocks is 0"):
        remove_stripes_titarenko(projections, 1.0, 0)
    with pytest.raises(ParameterError, match="alpha"):
        remove_stripe_ti(projections, 0, -1)
    with pytest.raises(InputError, match="shape"):
        remove_stripe_ti(projections[0])
