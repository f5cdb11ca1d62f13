"""Transforms of 16 lanes against numpy's, and the vectors that they are made of."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from tomopipe.functions.reconstruction.lane_fft import (
    ELEMENT,
    fast_length,
    half_to_packed,
    make_plan,
    packed_to_half,
    real_roots,
    transform,
)
from tomopipe.functions.reconstruction.lane_vectors import LANES, aligned_empty, load, spread, store, transpose

Floats = npt.NDArray[np.float32]

# every radix, each after each other, and none
LENGTHS = (1, 3, 4, 5, 8, 9, 12, 15, 16, 20, 24, 25, 32, 36, 40, 60, 64, 96, 120, 160, 480, 640, 1024)


def noise(*shape: int) -> Floats:
    array = aligned_empty(*shape)
    array[:] = np.random.default_rng(sum(shape)).normal(size=shape)
    return array


def transformed(line: Floats) -> Floats:
    plan = make_plan(line.shape[0])
    first, copy = aligned_empty(line.size), aligned_empty(line.size)
    first[:] = line.ravel()
    result = copy if transform(first, copy, plan.radices, plan.twiddles) else first
    return result.reshape(line.shape).copy()


@pytest.mark.parametrize("length", LENGTHS)
def test_transform_is_the_discrete_fourier_transform(length: int) -> None:
    line = noise(length, 2, LANES)
    expected = np.fft.fft(line[:, 0].astype(float) + 1j * line[:, 1], axis=0)
    result = transformed(line)
    error = np.abs(result[:, 0] + 1j * result[:, 1] - expected)
    assert error.max() < 1e-6 * np.sqrt(length) * max(1.0, np.log2(length))


def test_exchanged_parts_give_the_inverse() -> None:
    line = noise(60, 2, LANES)
    back = transformed(transformed(line)[:, ::-1])[:, ::-1] / 60
    np.testing.assert_allclose(back, line, atol=2e-6)


@settings(deadline=None, max_examples=15)
@given(st.sampled_from([4, 5, 12, 32, 60]), st.integers(0, LANES - 1), st.integers(0, 2**32 - 1))
def test_a_lane_depends_on_itself_alone(length: int, lane: int, seed: int) -> None:
    line = np.random.default_rng(seed).normal(size=(length, 2, LANES)).astype(np.float32)
    alone = np.zeros_like(line)
    alone[..., lane] = line[..., lane]
    line[0, 0, (lane + 1) % LANES] = np.nan
    np.testing.assert_array_equal(transformed(line)[..., lane], transformed(alone)[..., lane])


@pytest.mark.parametrize("length", [2, 6, 8, 16, 30, 48, 80, 256])
def test_half_spectra_of_real_lines(length: int) -> None:
    line = noise(length, LANES)
    packed = transformed(line.reshape(length // 2, 2, LANES)).reshape(-1)
    step, at = 3 * ELEMENT, 2 * ELEMENT  # as they lie in a wider array
    half = np.full((length // 2 + 2) * step, np.nan, dtype=np.float32)
    packed_to_half(packed, half, at, step, real_roots(length))
    elements = np.stack([half[at + k * step :][:ELEMENT].reshape(2, LANES) for k in range(length // 2 + 1)])
    expected = np.fft.rfft(line.astype(float), axis=0)
    np.testing.assert_allclose(elements[:, 0] + 1j * elements[:, 1], expected, atol=2e-6 * length)
    assert np.isnan(half).sum() == half.size - (length // 2 + 1) * ELEMENT

    back = aligned_empty(length // 2, 2, LANES)
    half_to_packed(half, at, step, back.reshape(-1), real_roots(length))
    np.testing.assert_allclose(transformed(back)[:, ::-1].reshape(length, LANES) / length, line, atol=3e-6)


def test_only_real_parts_count_at_the_ends() -> None:
    half = noise(9, 2, LANES)
    packed = aligned_empty(8 * ELEMENT)
    half_to_packed(half.reshape(-1), 0, ELEMENT, packed, real_roots(16))
    changed = half.copy()
    changed[[0, 8], 1] = 77
    other = aligned_empty(8 * ELEMENT)
    half_to_packed(changed.reshape(-1), 0, ELEMENT, other, real_roots(16))
    np.testing.assert_array_equal(packed, other)


def test_lengths() -> None:
    assert [fast_length(n) for n in (1, 2, 6, 7, 13, 17, 1025)] == [1, 3, 8, 8, 15, 20, 1080]
    assert fast_length(25, multiple=4) == 32
    for least in range(1, 300):
        length = fast_length(least)
        assert least <= length <= max(3, 1.34 * least)
        assert np.prod(make_plan(length).radices) == length
    with pytest.raises(ValueError, match="14 elements"):
        make_plan(14)


@njit
def fused(source: Floats, at: int, weight: float, target: Floats, to: int) -> None:
    vector = load(source, at)
    store(target, to, vector * np.float32(weight) + (spread(np.float32(3)) - vector * vector))


def test_vectors_are_lanes() -> None:
    source, target = noise(40), np.zeros(40, dtype=np.float32)
    fused(source, 5, 1.5, target, 9)
    lanes = source[5:21].astype(float)
    np.testing.assert_allclose(target[9:25], lanes * 1.5 + 3 - lanes**2, rtol=1e-5, atol=1e-5)
    assert not target[:9].any()
    assert not target[25:].any()


@njit
def turned(source: Floats, at: int, step: int, target: Floats, to: int, put: int) -> None:
    transpose(source, at, step, target, to, put)


def test_transpose() -> None:
    source, target = noise(20, 21), np.zeros((17, 19), dtype=np.float32)
    turned(source.reshape(-1), 2 * 21 + 3, 21, target.reshape(-1), 19 + 2, 19)
    np.testing.assert_array_equal(target[1:, 2:18], source[2:18, 3:19].T)
    assert np.count_nonzero(target) == LANES * LANES


def test_aligned_arrays_start_a_cache_line() -> None:
    for shape in ((3,), (5, 7), (1, 2, 16)):
        array = aligned_empty(*shape)
        assert array.shape == shape
        assert array.dtype == np.float32
        assert array.flags.c_contiguous
        assert array.ctypes.data % 64 == 0
