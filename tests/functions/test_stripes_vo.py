"""Vo's stripe removal against plain transcriptions of the published steps, and on stripes of each kind."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tomopipe.functions.errors import InputError, ParameterError
from tomopipe.functions.preprocessing import stripes_vo
from tomopipe.functions.preprocessing.stripes_vo import (
    default_large_size,
    default_size,
    outlying,
    remove_all_stripes,
    remove_stripes_dead,
    remove_stripes_filtering,
    remove_stripes_large,
    remove_stripes_sorting,
)


def sinogram(angles: int, columns: int, air: bool = False, seed: int = 0) -> NDArray[np.float64]:
    """Line integrals of discs off the axis, at most 1, on a plateau of 0.5 unless there is air beside the sample."""
    rng = np.random.default_rng(seed)
    theta = np.arange(angles)[:, None] * np.pi / angles
    t = np.arange(columns) - (columns - 1) / 2
    out = np.zeros((angles, columns))
    for _ in range(10):
        radius, distance = columns * rng.uniform(0.05, 0.15), columns * rng.uniform(0, 0.12 if air else 0.35)
        out += np.sqrt(np.maximum(radius**2 - (t - distance * np.cos(theta - rng.uniform(0, 6.3))) ** 2, 0))
    return out / out.max() + (0 if air else 0.5)


def noise(shape: tuple[int, int], sigma: float = 0.01) -> NDArray[np.float64]:
    return np.random.default_rng(9).normal(0, sigma, shape)


def rows_of(image: NDArray[np.float64]) -> NDArray[np.float32]:
    return image.astype(np.float32)[:, None]


def median_across(values: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Median of each row over `size` columns, ends mirrored; of an even number the upper one."""
    padded = np.pad(values, ((0, 0), (size // 2, size - 1 - size // 2)), mode="symmetric")
    windows = np.lib.stride_tricks.sliding_window_view(padded, size, axis=1)
    return np.sort(windows, axis=2)[..., size // 2]


def sorted_and_smoothed(image: NDArray[np.float32], size: int, dim: int = 1) -> NDArray[np.float32]:
    """Algorithm 3: sort each column, median across columns, put back."""
    order = np.argsort(image, axis=0, kind="stable")
    ascending = np.take_along_axis(image, order, 0)
    smooth = median_across(ascending, size) if dim == 1 else scipy.ndimage.median_filter(ascending, (size, size))
    out = np.empty_like(image)
    np.put_along_axis(out, order, smooth, 0)
    return out


@settings(deadline=None, max_examples=25)
@given(angles=st.integers(1, 90), columns=st.integers(2, 40), size=st.integers(1, 31), levels=st.integers(2, 400))
def test_sorting_is_algorithm_3(angles: int, columns: int, size: int, levels: int) -> None:
    rng = np.random.default_rng(angles * columns)
    image = (rng.integers(-levels, levels, (angles, columns)) / 7).astype(np.float32)  # both signs, many equal values
    result = remove_stripes_sorting(image[:, None], size)[:, 0]
    np.testing.assert_array_equal(result, sorted_and_smoothed(image, size))


def test_sorting_in_two_dimensions() -> None:
    image = (sinogram(40, 50) + noise((40, 50))).astype(np.float32)
    result = remove_stripes_sorting(image[:, None], 7, dim=2)[:, 0]
    np.testing.assert_array_equal(result, sorted_and_smoothed(image, 7, dim=2))


@pytest.mark.parametrize("angles", [120, 121])
def test_filtering_is_algorithm_2(angles: int) -> None:
    image = (sinogram(angles, 70) + noise((angles, 70))).astype(np.float32)
    pad = int(0.1 * angles)
    padded = np.pad(image.astype(np.float64), ((pad, pad), (0, 0)), mode="reflect")
    count = len(padded)
    # The published window stands at (count - 1) / 2 of the spectrum, whose middle is moved there by changing signs.
    window = np.exp(-((np.arange(count) - (count - 1) / 2) ** 2) / (2 * 3.0**2))[:, None]
    signs = ((-1.0) ** np.arange(count))[:, None]
    smooth = (np.fft.ifft(np.fft.fft(padded * signs, axis=0) * window, axis=0) * signs).real[pad : count - pad]
    result = remove_stripes_filtering(image[:, None], 3.0, 9)[:, 0]
    expected = sorted_and_smoothed(smooth.astype(np.float32), 9) + (image - smooth)
    if angles % 2:  # where the padded length is odd the published ends differ, and values may swap their order
        assert np.median(np.abs(result - expected)) < 2e-3
    else:
        assert np.mean(np.abs(result - expected) > 1e-5) < 5e-3


def test_outlying_columns_are_found() -> None:
    rng = np.random.default_rng(3)
    factors = 1 + 0.01 * rng.uniform(-1, 1, 200)
    expected = np.zeros(200, bool)
    assert not outlying(factors, 3).any()
    factors[[20, 90]] = 1.08
    factors[150] = 0.9
    expected[[20, 90, 150]] = True
    np.testing.assert_array_equal(outlying(factors, 3), expected)
    assert not outlying(factors, 30).any()
    assert not outlying(np.array([1.0, 5.0]), 3).any()


def test_wide_stripes_are_removed() -> None:
    clean = sinogram(180, 320) + noise((180, 320))
    stripe = np.zeros(320)
    stripe[100:108] = 0.1
    left = (remove_stripes_large(rows_of(clean + stripe), size=31)[:, 0] - clean).mean(0)
    assert np.std(left) < 0.45 * np.std(stripe)
    assert np.abs(left[100:108].mean()) < 0.015
    # The sorting method with its narrow window leaves such a stripe.
    kept = remove_stripes_sorting(rows_of(clean + stripe))[:, 0] - clean
    assert kept[:, 101:107].mean() > 0.08


def test_dead_and_fluctuating_columns_are_interpolated() -> None:
    clean = sinogram(180, 320) + noise((180, 320))
    bad = clean.copy()
    bad[:, 60] = 0.7
    bad[:, 200:203] += np.random.default_rng(4).normal(0, 0.3, (180, 3))
    result = remove_stripes_dead(rows_of(bad), residual=False)[:, 0]
    between = clean[:, 198] + (clean[:, 204] - clean[:, 198]) * np.arange(1, 6)[:, None] / 6
    np.testing.assert_allclose(result[:, 199:204].T, between, atol=1e-6)
    touched = np.flatnonzero(np.abs(result - bad).max(0) > 1e-6)
    assert touched.tolist() == [59, 60, 61, 199, 200, 201, 202, 203]
    assert np.std(result - clean) < 0.25 * np.std(bad - clean)


def test_columns_at_the_borders_cannot_be_interpolated() -> None:
    image = sinogram(180, 320) + noise((180, 320))
    image[:, [0, 319]] += np.random.default_rng(4).normal(0, 0.3, (180, 2))
    image[:, 100] = 0.7
    result = remove_stripes_dead(rows_of(image), residual=False)[:, 0]
    np.testing.assert_array_equal(result[:, [0, 1, -2, -1]], image[:, [0, 1, -2, -1]].astype(np.float32))
    assert np.abs(result[:, 100] - image[:, 100]).max() > 0.1


def test_stripes_of_all_kinds_are_removed() -> None:
    clean = sinogram(180, 320) + noise((180, 320))
    bad = clean.copy()
    bad[:, ::17] += 0.03
    bad[:, 100:108] += 0.1
    bad[:, 230] += np.random.default_rng(4).normal(0, 0.3, 180)
    result = remove_all_stripes(rows_of(bad), la_size=31, sm_size=9)[:, 0]
    assert np.std(result - clean) < 0.55 * np.std(bad - clean)
    assert np.std((result - clean).mean(0)) < 0.4 * np.std((bad - clean).mean(0))


def test_air_beside_the_sample_stays_as_it_is() -> None:
    clean = sinogram(200, 320, air=True) + noise((200, 320))
    air = clean[:, np.r_[:60, 260:320]]
    result = remove_stripes_large(rows_of(clean))[:, 0]
    assert np.abs(result[:, np.r_[:60, 260:320]] - air).max() < 0.05
    offset = np.zeros(320)
    offset[30] = 0.05
    result = remove_stripes_large(rows_of(clean + offset))[:, 0]
    assert np.abs((result - clean)[:, 30].mean()) < 0.01


def test_a_sinogram_without_noise_or_values_is_left_alone() -> None:
    for image in (np.zeros((20, 30)), np.ones((20, 30)), np.ones((1, 30)), np.ones((20, 2))):
        for remove in (remove_all_stripes, remove_stripes_large, remove_stripes_dead, remove_stripes_filtering):
            np.testing.assert_allclose(remove(rows_of(image))[:, 0], image, atol=1e-6)


def test_agrees_with_algotom() -> None:
    removal = pytest.importorskip("algotom.prep.removal")
    clean = sinogram(180, 320) + noise((180, 320))
    clean[:, ::17] += 0.03
    clean[:, 100:107] += 0.2
    clean[:, 160] = 0.7
    clean[:, 80] += np.random.default_rng(4).normal(0, 0.3, 180)
    image = clean.astype(np.float32)
    projections = image[:, None]
    pairs = [
        (remove_stripes_sorting(projections, 21), removal.remove_stripe_based_sorting(image, 21)),
        (remove_stripes_filtering(projections, 3, 21), removal.remove_stripe_based_filtering(image, 3, 21)),
        (remove_stripes_large(projections), removal.remove_large_stripe(image)),
        (remove_stripes_dead(projections), removal.remove_dead_stripe(image)),
        (remove_all_stripes(projections, 3, 51), removal.remove_all_stripe(image)),
    ]
    for ours, theirs in pairs:
        # Equal values may stand in another order.
        assert np.mean(np.abs(ours[:, 0] - theirs) > 1e-5) < 1e-3
        assert np.mean(np.abs(ours[:, 0] - image)) > 1e-3


def test_median_across_columns_is_scipys() -> None:
    values = np.random.default_rng(2).standard_normal((23, 130)).astype(np.float32)
    for size in (1, 2, 5, 8, 23, 61):
        np.testing.assert_array_equal(stripes_vo._median_across(values, size), median_across(values.T, size).T)
        if size <= 23:
            expected = scipy.ndimage.median_filter(values, (size, 1), mode="reflect")
            np.testing.assert_array_equal(stripes_vo._median_across(values, size), expected)


def test_default_sizes_follow_the_width() -> None:
    assert [default_size(n) for n in (10, 640, 1024, 2048, 8000)] == [5, 7, 11, 21, 21]
    assert [default_large_size(n) for n in (10, 640, 1024, 2048, 8000)] == [15, 19, 31, 61, 61]


def test_bad_arguments_are_refused() -> None:
    projections = rows_of(sinogram(20, 32))
    with pytest.raises(ParameterError, match="size is 0"):
        remove_stripes_sorting(projections, 0)
    with pytest.raises(ParameterError, match="dim is 3"):
        remove_stripes_sorting(projections, 5, 3)
    with pytest.raises(ParameterError, match="sigma is 0"):
        remove_stripes_filtering(projections, 0)
    with pytest.raises(ParameterError, match="snr is 0"):
        remove_stripes_large(projections, 0)
    with pytest.raises(ParameterError, match="drop_ratio is"):
        remove_stripes_large(projections, drop_ratio=0.9)
    with pytest.raises(ParameterError, match="sm_size is -1"):
        remove_all_stripes(projections, sm_size=-1)
    with pytest.raises(InputError, match="shape"):
        remove_stripes_sorting(projections[0])
