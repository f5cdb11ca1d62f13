"""Dark and flat correction against the formula, mending against hand-made rows, independence of the cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numba
import numpy as np
import pytest
from numpy.typing import NDArray

from tomopipe.functions.errors import InputError, ParameterError
from tomopipe.functions.preprocessing.normalization import line_integrals, transmission

Frames = tuple[NDArray[np.uint16], NDArray[np.float32], NDArray[np.float32]]


@pytest.fixture
def frames() -> Frames:
    """Raw counts (7, 11, 53), flat and dark of an uneven detector without bad pixels."""
    rng = np.random.default_rng(3)
    dark = rng.uniform(90, 110, (11, 53)).astype(np.float32)
    flat = dark + rng.uniform(6000, 9000, (11, 53)).astype(np.float32)
    raw = rng.integers(50, 9500, (7, 11, 53)).astype(np.uint16)
    return raw, flat, dark


def test_transmission_is_the_formula_to_the_bit(frames: Frames) -> None:
    raw, flat, dark = frames
    expected = (raw.astype(np.float32) - dark) / (flat - dark)
    values, mended = transmission(raw, flat, dark)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, expected)
    assert mended == 0


def test_line_integrals_recover_known_attenuation() -> None:
    integrals = np.linspace(0, 4, 5 * 3 * 40).reshape(5, 3, 40)
    dark = np.full((3, 40), 100, np.float32)
    flat = np.full((3, 40), 60100, np.float32)
    raw = 100 + 60000 * np.exp(-integrals)
    values, _ = line_integrals(raw, flat, dark, 1e-3)
    np.testing.assert_allclose(values, integrals, atol=2e-5)
    counted, _ = line_integrals(np.rint(raw).astype(np.uint16), flat, dark, 1e-3)
    # Half a count of 60000 * exp(-4) is what rounding may change.
    np.testing.assert_allclose(counted, integrals, atol=5e-4)


def test_transmissions_below_the_minimum_count_as_the_minimum() -> None:
    raw = np.array([[[100, 99, 0, 105, 1100]]], np.uint16)
    flat = np.full((1, 5), 1100, np.float32)
    dark = np.full((1, 5), 100, np.float32)
    values, mended = line_integrals(raw, flat, dark, 0.01)
    np.testing.assert_allclose(values[0, 0], [-np.log(0.01)] * 4 + [0], rtol=1e-6, atol=1e-7)
    assert mended == 0


@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", ">u2", ">i4", "u8", "f4", "f8", ">f4"])
def test_any_dtype_gives_the_same_numbers(frames: Frames, dtype: str) -> None:
    raw, flat, dark = frames
    small = raw // 40
    expected, _ = line_integrals(small, flat, dark, 1e-3)
    values, _ = line_integrals(small.astype(dtype), flat, dark, 1e-3)
    np.testing.assert_array_equal(values, expected)


def test_dead_pixels_are_interpolated_along_their_row_and_counted(frames: Frames) -> None:
    raw, flat, dark = frames
    good, _ = transmission(raw, flat, dark)
    flat[2, 10] = dark[2, 10]
    flat[2, 11] = np.nan
    flat[2, 12] = dark[2, 12] - 5
    flat[5, 0] = flat[5, 1] = 0
    dark[5, 52] = np.inf
    values, mended = transmission(raw, flat, dark)
    left, right = good[:, 2, 9], good[:, 2, 13]
    for k, x in enumerate((10, 11, 12), start=1):
        np.testing.assert_allclose(values[:, 2, x], left + (right - left) * k / 4, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(values[:, 5, 0], good[:, 5, 2])
    np.testing.assert_array_equal(values[:, 5, 1], good[:, 5, 2])
    np.testing.assert_array_equal(values[:, 5, 52], good[:, 5, 51])
    assert mended == 6 * len(raw)
    untouched = np.ones(good.shape, bool)
    untouched[:, 2, 10:13] = untouched[:, 5, :2] = untouched[:, 5, 52] = False
    np.testing.assert_array_equal(values[untouched], good[untouched])


def test_values_that_are_not_finite_are_mended_in_their_projection_only(frames: Frames) -> None:
    raw, flat, dark = frames
    broken = raw.astype(np.float64)
    good, _ = line_integrals(broken, flat, dark, 1e-3)
    broken[3, 4, 20] = np.nan
    broken[3, 4, 30] = np.inf
    broken[6, 0, 5] = 1e300  # beyond float32
    values, mended = line_integrals(broken, flat, dark, 1e-3)
    assert mended == 3
    assert np.isfinite(values).all()
    assert np.count_nonzero(values != good) == 3
    clear = np.exp(-good[3, 4].astype(np.float64))
    assert np.exp(-values[3, 4, 20]) == pytest.approx((clear[19] + clear[21]) / 2, rel=1e-5)


def test_a_row_without_a_good_pixel_absorbs_nothing(frames: Frames) -> None:
    raw, flat, dark = frames
    flat[4] = 0
    values, mended = line_integrals(raw, flat, dark, 1e-3)
    assert (values[:, 4] == 0).all()
    assert mended == raw.shape[0] * raw.shape[2]


def test_any_cut_and_any_thread_count_gives_the_same_bits(frames: Frames) -> None:
    raw, flat, dark = frames
    flat[3, 5:9] = 0
    whole, mended = line_integrals(raw, flat, dark, 1e-3)
    counts = 0
    for start, stop in ((0, 1), (1, 4), (4, 5), (5, 11)):
        part, count = line_integrals(raw[:, start:stop], flat[start:stop], dark[start:stop], 1e-3)
        counts += count
        np.testing.assert_array_equal(part, whole[:, start:stop])
    assert counts == mended
    np.testing.assert_array_equal(line_integrals(raw[2:5], flat, dark, 1e-3)[0], whole[2:5])
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        alone, alone_mended = line_integrals(raw, flat, dark, 1e-3)
    finally:
        numba.set_num_threads(threads)
    np.testing.assert_array_equal(alone, whole)
    assert alone_mended == mended


def test_inputs_are_not_changed(frames: Frames) -> None:
    raw, flat, dark = frames
    flat[0, 3] = 0
    values = raw.astype(np.float32)
    copies = values.copy(), flat.copy(), dark.copy()
    line_integrals(values, flat, dark, 1e-3)
    transmission(values, flat, dark)
    for array, copy in zip((values, flat, dark), copies, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("minimum", [0.0, -1.0, float("nan")])
def test_a_minimum_without_logarithm_is_refused(frames: Frames, minimum: float) -> None:
    with pytest.raises(ParameterError, match="minimum_transmission"):
        line_integrals(*frames, minimum)


def test_shapes_that_do_not_fit_are_refused(frames: Frames) -> None:
    raw, flat, dark = frames
    wrong: list[tuple[Any, Any, Any]] = [(raw, flat[:5], dark), (raw, flat, dark[:, :9]), (raw[0], flat, dark)]
    for arrays in wrong:
        with pytest.raises(InputError, match="shape"):
            line_integrals(*arrays, 1e-3)


def test_real_scan_has_no_attenuation_beside_the_sample(real_scan: Callable[[str], Path]) -> None:
    with h5py.File(real_scan("tooth.h5")) as file:
        exchange = file["exchange"]
        raw = exchange["data"][:]
        flat = exchange["data_white"][:].mean(axis=0)
        dark = exchange["data_dark"][:].mean(axis=0)
    values, mended = line_integrals(raw, flat, dark, 1e-3)
    assert mended == 0
    assert abs(float(np.mean(values[:, :, :20]))) < 0.02
    assert 1.5 < float(values.max()) < 3
