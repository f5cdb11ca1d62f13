"""Dark and flat correction against the formula, mending against hand-made rows, independence of the cut."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numba
import numpy as np
import pytest
from numpy.typing import NDArray

from tomopipe.functions.errors import InputError, ParameterError
from tomopipe.functions.preprocessing import normalization
from tomopipe.functions.preprocessing.normalization import OpenBeam, line_integrals, minus_log, transmission

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


# --- the logarithm --------------------------------------------------------------------------------------------------


def test_the_logarithm_is_right_to_the_last_place() -> None:
    rng = np.random.default_rng(7)
    values = np.concatenate(
        [np.exp(rng.uniform(-85, 85, 40_000)), rng.uniform(0.5, 2, 40_000), 1 + rng.normal(0, 1e-4, 20_000), [1.0]]
    ).astype(np.float32)
    found = minus_log(values[None, None], 1e-38)[0][0, 0]
    exact = -np.log(values.astype(np.float64))
    assert (np.abs(found - exact) <= np.spacing(np.abs(exact).astype(np.float32))).all()
    assert found[-1] == 0


@pytest.mark.parametrize("minimum", [1e-3, 1e-30, 1e-44, 1e-300])
def test_any_minimum_above_zero_gives_a_finite_logarithm(minimum: float) -> None:
    transmissions = np.array([[[0.0, -1.0, 1e-45, 0.5, 3e38]]], np.float32)
    values, mended = minus_log(transmissions, minimum)
    expected = -np.log(np.maximum(transmissions.astype(np.float64), max(minimum, 2.0**-126)))
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    assert mended == 0


def test_line_integrals_are_the_logarithm_of_the_transmissions(frames: Frames) -> None:
    raw, flat, dark = frames
    flat[4, 7:9] = 0
    transmissions, _ = transmission(raw, flat, dark)
    copy = transmissions.copy()
    values, mended = minus_log(transmissions, 1e-2)
    np.testing.assert_array_equal(values, line_integrals(raw, flat, dark, 1e-2)[0])
    np.testing.assert_array_equal(transmissions, copy)
    assert mended == 0
    transmissions[2, 3, 10] = np.nan
    _, mended = minus_log(transmissions, 1e-2, out=transmissions)
    assert mended == 1
    middle = -np.log((copy[2, 3, 9] + copy[2, 3, 11]) / 2)
    assert transmissions[2, 3, 10] == pytest.approx(middle, rel=1e-5)
    transmissions[2, 3, 10] = values[2, 3, 10]
    np.testing.assert_array_equal(transmissions, values)


# --- bad pixels, open beams, given arrays ---------------------------------------------------------------------------


def test_pixels_of_a_map_are_mended_as_dead_ones(frames: Frames) -> None:
    raw, flat, dark = frames
    bad = np.zeros(flat.shape, bool)
    bad[2, 10:13] = bad[5, 0] = bad[7, 52] = bad[9] = True
    dead = flat.copy()
    dead[bad] = 0
    for correct in (transmission, partial(line_integrals, minimum_transmission=1e-3)):
        values, mended = correct(raw, flat, dark, bad_pixels=bad)
        expected, count = correct(raw, dead, dark)
        np.testing.assert_array_equal(values, expected)
        assert mended == count == len(raw) * np.count_nonzero(bad)


def test_an_open_beam_of_each_projection_is_the_weighted_sum(frames: Frames) -> None:
    raw, flat, dark = frames
    rng = np.random.default_rng(11)
    fields = rng.uniform(-500, 500, (3, *flat.shape)).astype(np.float32)
    fields[0] = flat - dark
    weights = rng.uniform(0.5, 1.5, (len(raw), 3)).astype(np.float32)
    weights[3] = [1, 0, 0]
    fields[2, 6, 30] = np.nan  # counts where it has weight
    values, mended = transmission(raw, OpenBeam(fields, weights), dark)
    beams = np.einsum("ak,krc->arc", weights.astype(float), np.nan_to_num(fields.astype(float)))
    expected = (raw - dark.astype(float)) / beams
    dead = np.zeros(raw.shape, bool)
    dead[:, 6, 30] = True
    dead[3, 6, 30] = False
    np.testing.assert_allclose(values[~dead], expected[~dead], rtol=2e-6, atol=1e-7)
    assert mended == np.count_nonzero(dead)
    np.testing.assert_array_equal(values[3], transmission(raw, flat, dark)[0][3])
    dark_beam = OpenBeam(np.stack([flat - dark, flat - dark]), np.tile(np.float32([1, -1.5]), (len(raw), 1)))
    assert transmission(raw, dark_beam, dark)[1] == raw.size  # never above the dark


def test_results_are_written_where_they_are_wanted(frames: Frames) -> None:
    raw, flat, dark = frames
    out = np.empty(raw.shape, np.float32)
    values, _ = line_integrals(raw, flat, dark, 1e-3, out=out)
    assert values is out
    np.testing.assert_array_equal(values, line_integrals(raw, flat, dark, 1e-3)[0])
    wrong: list[NDArray[Any]] = [out[1:], out.astype(np.float64), np.asfortranarray(out)]
    for array in wrong:
        with pytest.raises(InputError, match="C-contiguous float32"):
            transmission(raw, flat, dark, out=array)


def test_maps_and_beams_that_do_not_fit_are_refused(frames: Frames) -> None:
    raw, flat, dark = frames
    with pytest.raises(InputError, match="bad_pixels have the shape"):
        transmission(raw, flat, dark, bad_pixels=np.zeros((11, 52), bool))
    beam = OpenBeam(flat[None], np.ones((3, 1), np.float32))
    with pytest.raises(InputError, match=r"the flat \(3, 11, 53\)"):
        transmission(raw, beam, dark)
    with pytest.raises(InputError, match="transmissions have the shape"):
        minus_log(flat, 1e-3)


def test_empty_projections_stay_empty(frames: Frames) -> None:
    raw, flat, dark = frames
    values, mended = line_integrals(raw[:0], flat, dark, 1e-3)
    assert values.shape == (0, 11, 53)
    assert mended == 0


def test_large_projections_are_cut_into_pieces(frames: Frames, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, flat, dark = frames
    whole, _ = line_integrals(raw, flat, dark, 1e-3)
    for values in (1, 2 * 11 * 53, 10**9):
        monkeypatch.setattr(normalization, "_PIECE_VALUES", values)
        np.testing.assert_array_equal(line_integrals(raw, flat, dark, 1e-3)[0], whole)
