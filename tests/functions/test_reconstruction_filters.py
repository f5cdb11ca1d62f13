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
    noise = [np.sum(ramp_filter(512, name).astype(float) ** 2) for name in FILTERS[1:]]
    assert noise == sorted(noise, reverse=True)


def test_unusable_arguments_are_refused() -> None:
    with pytest.raises(ParameterError, match=r"'butterworth'.*shepp"):
        ramp_filter(16, "butterworth")
    with pytest.raises(ParameterError, match="15"):
        ramp_filter(15, "ramp")
