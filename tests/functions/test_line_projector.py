"""The line projector against the matrix of Joseph's method written plainly, against exact integrals, and its transpose."""

from __future__ import annotations

import math

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tomopipe.functions.errors import InputError, ParameterError
from tomopipe.functions.reconstruction.fourier import FourierProjector
from tomopipe.functions.reconstruction.line import LineProjector, shift_weights
from tomopipe.functions.reconstruction.operators import LANES


def circle(n: int) -> np.ndarray:
    row, column = np.mgrid[:n, :n]
    return (2 * row - n + 1) ** 2 + (2 * column - n + 1) ** 2 <= n * n


def joseph_matrix(theta: np.ndarray, n: int, center: float) -> np.ndarray:
    """Every ray followed over rows or columns, each sample given to the two pixels beside it: (angles, n, n, n)."""
    middle = (n - 1) / 2
    matrix = np.zeros((theta.size, n, n, n))
    for angle, (cosine, sine) in enumerate(zip(np.cos(theta), np.sin(theta), strict=True)):
        for column in range(n):
            for line in range(n):
                if abs(cosine) >= abs(sine):  # x where the ray crosses the row
                    position = middle + (column - center - (middle - line) * sine) / cosine
                    length = 1 / abs(cosine)
                else:  # the row where it crosses the column
                    position = middle - (column - center - (line - middle) * cosine) / sine
                    length = 1 / abs(sine)
                first = math.floor(position)
                for pixel, weight in ((first, 1 - (position - first)), (first + 1, position - first)):
                    if 0 <= pixel < n:
                        at = (line, pixel) if abs(cosine) >= abs(sine) else (pixel, line)
                        matrix[angle, column][at] += length * weight
    return matrix * circle(n)


def lanes(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((*shape, LANES)).astype(np.float32)


@pytest.mark.parametrize(("n", "angles", "center"), [(9, 5, 4.0), (23, 18, 8.6), (40, 21, 19.5), (33, 3, 31.0)])
def test_agrees_with_josephs_matrix(n: int, angles: int, center: float) -> None:
    theta = np.random.default_rng(n).uniform(-4, 8, angles)
    theta[:3] = 0, np.pi / 4, -np.pi / 2
    matrix = joseph_matrix(theta, n, center).reshape(angles * n, n * n)
    projector = LineProjector(theta, n, center)
    slices, projections = lanes((n, n)), lanes((angles, n))
    np.testing.assert_allclose(
        projector.forward(slices).reshape(-1, LANES), matrix @ slices.reshape(-1, LANES), atol=2e-4
    )
    np.testing.assert_allclose(
        projector.adjoint(projections).reshape(-1, LANES), matrix.T @ projections.reshape(-1, LANES), atol=2e-4
    )


@settings(deadline=None, max_examples=12)
@given(
    n=st.integers(2, 70),
    theta=st.lists(st.floats(-7, 7), min_size=1, max_size=40),
    offset=st.floats(-0.4, 0.4),
    spread=st.sampled_from([None, 0.0, 0.3, 5.0]),
)
def test_adjoint_is_the_transpose(n: int, theta: list[float], offset: float, spread: float | None) -> None:
    center = (n - 1) / 2 + offset * n
    centers = center if spread is None else center + spread * np.linspace(-1, 1, LANES)
    projector = LineProjector(np.array(theta), n, centers)
    slices, projections = lanes((n, n), 1), lanes((len(theta), n), 2)
    forward, adjoint = projector.forward(slices).astype(float), projector.adjoint(projections).astype(float)
    left, right = (forward * projections).sum((0, 1)), (slices * adjoint).sum((0, 1))
    # Either product may cancel to nearly nothing; the rounding is that of the larger.
    scale = np.maximum(
        np.linalg.norm(forward, axis=(0, 1)) * np.linalg.norm(projections, axis=(0, 1)),
        np.linalg.norm(slices, axis=(0, 1)) * np.linalg.norm(adjoint, axis=(0, 1)),
    )
    assert np.all(np.abs(left - right) <= 2e-6 * scale + 2e-6)


@pytest.mark.parametrize("centers", ["one", "each"])
def test_projections_of_a_smooth_spot_are_its_integrals(centers: str) -> None:
    """A Gaussian spot's projection is a Gaussian in closed form, for every angle and rotation axis."""
    n, width, x, y = 64, 3.0, 9.0, -6.0
    theta = np.linspace(0, 2 * np.pi, 37)
    middle = (n - 1) / 2
    row, column = np.mgrid[:n, :n]
    spot = np.exp(-((column - middle - x) ** 2 + (middle - row - y) ** 2) / (2 * width**2))
    axis = np.full(LANES, 29.3) if centers == "one" else np.linspace(27.0, 35.5, LANES)
    projector = LineProjector(theta, n, 29.3 if centers == "one" else axis)
    projected = projector.forward(np.repeat(spot[..., None], LANES, axis=2).astype(np.float32))
    t = np.arange(n)[:, None] - axis
    seen = x * np.cos(theta) + y * np.sin(theta)
    exact = np.sqrt(2 * np.pi) * width * np.exp(-((t - seen[:, None, None]) ** 2) / (2 * width**2))
    np.testing.assert_allclose(projected, exact, atol=0.012 * exact.max())
    # Interpolation widens the spot a little; on average nothing is lost.
    np.testing.assert_allclose(projected.sum(1), exact.sum(1), rtol=2e-3)


def test_what_lies_outside_the_circle_counts_as_zero_and_comes_out_as_zero() -> None:
    n, theta = 31, np.linspace(0, 3, 14)
    projector = LineProjector(theta, n, 15.0)
    slices = lanes((n, n))
    inside = np.where(circle(n)[..., None], slices, 0).astype(np.float32)
    np.testing.assert_array_equal(projector.forward(slices), projector.forward(inside))
    back = projector.adjoint(np.ones((14, n, LANES), dtype=np.float32))
    assert np.all(back[~circle(n)] == 0)
    assert np.all(back[circle(n)] > 0)


@pytest.mark.parametrize("centers", [30.7, np.linspace(29, 33, LANES)])
def test_bits_depend_on_neither_other_lanes_nor_threads_nor_other_angles(centers: float | np.ndarray) -> None:
    n, theta = 61, np.linspace(0, np.pi, 75)
    projector = LineProjector(theta, n, centers)
    slices, projections = lanes((n, n)), lanes((75, n))
    forward, adjoint = projector.forward(slices), projector.adjoint(projections)
    alone = np.zeros_like(slices)
    alone[..., 3] = slices[..., 3]
    np.testing.assert_array_equal(projector.forward(alone)[..., 3], forward[..., 3])
    alone = np.zeros_like(projections)
    alone[..., 3] = projections[..., 3]
    np.testing.assert_array_equal(projector.adjoint(alone)[..., 3], adjoint[..., 3])
    np.testing.assert_array_equal(projector.subset(slice(2, None, 7)).forward(slices), forward[2::7])
    if np.ndim(centers):  # other lanes' axes do not matter
        others = np.full(LANES, 12.0)
        others[3] = np.asarray(centers)[3]
        other = LineProjector(theta, n, others)
        np.testing.assert_array_equal(other.forward(slices)[..., 3], forward[..., 3])
        np.testing.assert_array_equal(other.adjoint(projections)[..., 3], adjoint[..., 3])
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        np.testing.assert_array_equal(projector.forward(slices), forward)
        np.testing.assert_array_equal(projector.adjoint(projections), adjoint)
    finally:
        numba.set_num_threads(before)


def test_writes_into_the_array_given_and_changes_no_other() -> None:
    n, theta = 20, np.linspace(0, 3, 11)
    projector = LineProjector(theta, n, 9.0)
    slices, projections = lanes((n, n)), lanes((11, n))
    kept = slices.copy(), projections.copy()
    out = np.full((11, n, LANES), np.nan, dtype=np.float32)
    assert projector.forward(slices, out=out) is out
    np.testing.assert_array_equal(out, projector.forward(slices))
    back = np.full((n, n, LANES), np.nan, dtype=np.float32)
    assert projector.adjoint(projections, out=back) is back
    np.testing.assert_array_equal(back, projector.adjoint(projections))
    np.testing.assert_array_equal(slices, kept[0])
    np.testing.assert_array_equal(projections, kept[1])


def test_no_weight_is_negative_where_that_is_asked_for() -> None:
    """A spot of 1 in one pixel casts nothing negative; the sharper kernel does."""
    n, theta = 24, np.linspace(0, np.pi, 31)
    spot = np.zeros((n, n, LANES), dtype=np.float32)
    spot[9, 14] = 1
    centers = np.linspace(11, 12.9, LANES)
    for positive in (True, False):
        projector = LineProjector(theta, n, centers, positive=positive)
        seen = projector.subset(slice(0, None, 2)).forward(spot)
        assert (seen.min() >= 0) == positive
        np.testing.assert_allclose(seen.sum(1).mean(0), 1, atol=0.05)


@pytest.mark.parametrize("part", [0.0, 0.25, 0.5, 0.9])
def test_moving_by_a_part_of_a_column_keeps_waves_and_constants(part: float) -> None:
    weights = shift_weights(part)
    sample = np.arange(weights.size) - weights.size // 2 + 1
    assert weights.sum() == pytest.approx(1, abs=1e-6)
    for cycles in (0.05, 0.2, 0.3):  # a column
        wave = (weights * np.exp(2j * np.pi * cycles * sample)).sum()
        assert wave == pytest.approx(np.exp(2j * np.pi * cycles * part), abs=0.01)


def test_refuses_what_does_not_fit() -> None:
    projector = LineProjector(np.zeros(3), 8, 3.5)
    with pytest.raises(InputError, match=r"slices have shape \(8, 7, 16\)"):
        projector.forward(np.zeros((8, 7, LANES), dtype=np.float32))
    with pytest.raises(InputError, match=r"projections have shape"):
        projector.adjoint(np.zeros((4, 8, LANES), dtype=np.float32))
    with pytest.raises(InputError, match="out has shape"):
        projector.forward(np.zeros((8, 8, LANES), dtype=np.float32), out=np.zeros((3, 8, LANES)))
    with pytest.raises(ParameterError, match="one for each of 16"):
        LineProjector(np.zeros(3), 8, np.zeros(4))
    with pytest.raises(InputError, match="1 columns wide"):
        LineProjector(np.zeros(3), 1, 0.0)
    for center in (np.nan, np.inf, -8.1, 15.1):
        for centers in (center, np.where(np.arange(LANES) == 3, center, 3.5)):
            for projector_kind in (LineProjector, FourierProjector):
                with pytest.raises(ParameterError, match=r"at most the width, 8, off the detector"):
                    projector_kind(np.zeros(3), 8, centers)
