"""Filters against their closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from tomopipe.functions.errors import ParameterError
from tomopipe.functions.reconstruction.filters import FILTERS, ramp_filter


def test_ramp_is_the_frequency_with_the_right_mean() -> None:
    length = 1024
    ramp = ramp_filter(length, "ramp")
    frequency = np.arange(length // 2 + 1) / length
    assert ramp.dtype == np.float32
    np.testing.assert_allclose(ramp[1:-1], frequency[1:-1], atol=3e-5)
    # What the truncated kernel leaves at frequency 0: the sum of its missing tail, 2 / (pi^2 length).
    assert ramp[0] == pytest.approx(2 / (np.pi**2 * length), rel=1e-3)


def test_windows_at_half_and_whole_nyquist() -> None:
    length = 1 << 14
    ramp = ramp_filter(length, "ramp")
    expected = {
        "ramp": (1, 1),
        "shepp": (np.sin(np.pi / 4) / (np.pi / 4), 2 / np.pi),
        "cosine": (np.sqrt(0.5), 0),
        "hann": (0.5, 0),
        "hamming": (0.54, 0.08),
        "parzen": (0.25, 0),
    }
    for name, (half, whole) in expected.items():
        window = ramp_filter(length, name) / ramp
        assert window[0] == pytest.approx(1)
        assert window[length // 4] == pytest.approx(half, abs=1e-6)
        assert window[-1] == pytest.approx(whole, abs=1e-6)


def test_none_does_nothing() -> None:
    np.testing.assert_array_equal(ramp_filter(10, "none"), np.ones(6, dtype=np.float32))


def test_documented_order_is_by_noise() -> None:
    assert (FILTERS[0], FILTERS[-1]) == ("none", "butterworth")
    noise = [np.sum(ramp_filter(512, name).astype(float) ** 2) for name in FILTERS[1:-1]]
    assert noise == sorted(noise, reverse=True)


@pytest.mark.parametrize("name", ["ramp", "shepp", "cosine", "hamming", "hann", "parzen"])
def test_a_cut_off_stretches_the_window_to_it(name: str) -> None:
    ramp = ramp_filter(1024, "ramp")
    whole, cut = ramp_filter(1024, name) / ramp, ramp_filter(1024, name, 0.25) / ramp
    np.testing.assert_allclose(cut[:129], whole[::4], atol=1e-6)  # 512 is the Nyquist frequency
    assert not cut[129:].any()


def test_none_may_be_cut_off() -> None:
    expected = np.ones(33)
    expected[17:] = 0
    np.testing.assert_array_equal(ramp_filter(64, "none", 0.5), expected)


@pytest.mark.parametrize(("cutoff", "order"), [(1.0, 1), (0.5, 2), (0.3, 8)])
def test_butterworth(cutoff: float, order: int) -> None:
    length = 1000
    window = ramp_filter(length, "butterworth", cutoff, order) / ramp_filter(length, "ramp")
    share = np.arange(length // 2 + 1) / (length // 2)
    np.testing.assert_allclose(window, 1 / (1 + (share / cutoff) ** (2 * order)), rtol=1e-6)
    assert window[round(cutoff * length / 2)] == pytest.approx(0.5)


def test_unusable_arguments_are_refused() -> None:
    with pytest.raises(ParameterError, match=r"'hanning'.*shepp"):
        ramp_filter(16, "hanning")
    with pytest.raises(ParameterError, match="15"):
        ramp_filter(15, "ramp")
    for cutoff in (0.0, -0.1, 1.01, float("nan")):
        with pytest.raises(ParameterError, match=f"filter_cutoff is {cutoff}; .*above 0 and at most 1"):
            ramp_filter(16, "hann", cutoff)
    with pytest.raises(ParameterError, match="filter_order is 0"):
        ramp_filter(16, "butterworth", 0.5, 0)
