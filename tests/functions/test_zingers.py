"""Zinger removal against SciPy's median, on noise, edges, borders and bad pixels; independence of the cut."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from tomopipe.functions.errors import InputError, ParameterError
from tomopipe.functions.preprocessing import normalization
from tomopipe.functions.preprocessing.zingers import (
    REACH_ROWS,
    Neighborhood,
    reach_rows,
    remove_outliers,
    remove_zingers,
)

DARK_COUNTS = 100


def lit(shape: tuple[int, int, int], counts: float, seed: int = 0) -> tuple[NDArray[np.uint16], NDArray[np.float32]]:
    """Evenly lit projections with photon noise, and their dark frame."""
    raw = DARK_COUNTS + np.random.default_rng(seed).poisson(counts, shape)
    return raw.astype(np.uint16), np.full(shape[1:], DARK_COUNTS, np.float32)


def with_zingers(raw: NDArray[np.uint16], count: int, seed: int = 1) -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
    """Saturate single pixels; returns where."""
    hit = np.zeros(raw.shape, bool)
    hit.flat[np.random.default_rng(seed).choice(raw.size, count, replace=False)] = True
    return np.where(hit, np.uint16(65535), raw), hit


def test_zingers_become_the_median_and_nothing_else_changes() -> None:
    clean, dark = lit((6, 40, 61), 5000)
    raw, hit = with_zingers(clean, 150)
    raw[0, 0, 0] = raw[1, 39, 60] = raw[2, 0, 30] = raw[3, 17, 0] = 40000
    hit[0, 0, 0] = hit[1, 39, 60] = hit[2, 0, 30] = hit[3, 17, 0] = True
    median = ndimage.median_filter(raw, (1, 3, 3), mode="nearest")
    result = remove_zingers(raw, dark, 0.3)
    assert result.dtype == np.uint16
    np.testing.assert_array_equal(result[~hit], raw[~hit])
    np.testing.assert_array_equal(result[hit], median[hit])


def test_the_threshold_is_relative_to_the_surroundings_above_the_dark() -> None:
    dark = np.full((5, 5), DARK_COUNTS, np.float32)
    for level in (1000, 30000):
        raw = np.full((2, 5, 5), DARK_COUNTS + level, np.uint16)
        raw[0, 2, 2] = DARK_COUNTS + 1.25 * level
        raw[1, 2, 2] = DARK_COUNTS + 1.35 * level
        result = remove_zingers(raw, dark, 0.3)
        assert result[0, 2, 2] == raw[0, 2, 2]
        assert result[1, 2, 2] == DARK_COUNTS + level


def test_a_hot_pixel_is_no_zinger_and_a_replaced_one_keeps_its_dark_level() -> None:
    raw, dark = lit((4, 9, 9), 5000)
    dark[4, 4] += 20000
    raw[:, 4, 4] += 20000
    np.testing.assert_array_equal(remove_zingers(raw, dark, 0.3), raw)
    raw[2, 4, 4] += 30000
    result = remove_zingers(raw, dark, 0.3)
    assert int(result[2, 4, 4]) == pytest.approx(DARK_COUNTS + 20000 + 5000, abs=150)


def test_replaced_counts_stay_within_their_type() -> None:
    raw = np.zeros((2, 5, 5), np.uint8)
    dark = np.full((5, 5), 100, np.float32)
    dark[2, 2] = 50
    raw[:, 2, 2] = 200
    assert remove_zingers(raw, dark, 0.3)[0, 2, 2] == 0  # 100 below the dark around it, and its own dark is 50
    raw[:] = 250
    dark[:] = 10
    raw[:, 2, 2] = 251
    dark[2, 2] = -200
    assert remove_zingers(raw, dark, 0.3)[0, 2, 2] == 40
    result = remove_zingers(raw.astype(np.float32) + np.float32(0.25), dark + np.float32(0.5), 0.3)
    assert result[0, 2, 2] == 40.25  # fractions of floating counts stay


def test_noise_of_weakly_lit_pixels_is_not_cut_off() -> None:
    raw, dark = lit((20, 60, 60), 10)
    result = remove_zingers(raw, dark, 0.3)
    # Cutting everything 30 % above the median would lower the mean by 8 %.
    assert np.mean(result != raw) < 0.03
    assert result.mean() - DARK_COUNTS > 0.98 * (raw.mean() - DARK_COUNTS)


def test_edges_and_thin_gaps_of_the_sample_stay() -> None:
    raw, dark = lit((3, 40, 40), 20000)
    raw[:, 10:30, 10:30] = DARK_COUNTS + np.random.default_rng(2).poisson(2000, (3, 20, 20))
    raw[:, 10:30, 20:22] = DARK_COUNTS + np.random.default_rng(3).poisson(20000, (3, 20, 2))
    np.testing.assert_array_equal(remove_zingers(raw, dark, 0.3), raw)


def test_a_zinger_beside_a_dead_pixel_is_found() -> None:
    raw, dark = lit((1, 9, 9), 5000)
    raw[0, 4, 4] = 20000
    raw[0, 4, 5] = DARK_COUNTS
    result = remove_zingers(raw, dark, 0.3)
    assert result[0, 4, 4] < 6000
    assert np.count_nonzero(result != raw) == 1


def test_values_that_are_not_finite_stay_and_do_no_harm() -> None:
    counts, dark = lit((2, 12, 12), 5000)
    raw = counts.astype(np.float64)
    raw[0, 5, 5] = np.nan
    raw[0, 5, 6] = np.inf
    raw[0, 6, 6] = 60000
    result = remove_zingers(raw, dark, 0.3)
    assert result.dtype == np.float32
    assert np.isnan(result[0, 5, 5])
    assert np.isposinf(result[0, 5, 6])
    assert result[0, 6, 6] < 6000
    assert np.count_nonzero(np.isfinite(result) & (result != raw)) == 1


def test_any_cut_with_its_halo_and_any_thread_count_gives_the_same_bits() -> None:
    clean, dark = lit((5, 23, 47), 3000)
    raw, _ = with_zingers(clean, 300)
    whole = remove_zingers(raw, dark, 0.3)
    assert np.count_nonzero(whole != raw) > 200
    missed = 0
    for start, stop in ((0, 1), (1, 2), (2, 9), (9, 22), (22, 23)):
        low, high = max(0, start - REACH_ROWS), min(23, stop + REACH_ROWS)
        part = remove_zingers(raw[:, low:high], dark[low:high], 0.3)[:, start - low : stop - low]
        np.testing.assert_array_equal(part, whole[:, start:stop])
        bare = remove_zingers(raw[:, start:stop], dark[start:stop], 0.3)
        missed += np.count_nonzero(bare != whole[:, start:stop])
    assert missed  # the halo is needed
    np.testing.assert_array_equal(remove_zingers(raw[1:4], dark, 0.3), whole[1:4])
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        np.testing.assert_array_equal(remove_zingers(raw, dark, 0.3), whole)
    finally:
        numba.set_num_threads(threads)


def test_input_is_not_changed_and_small_frames_work() -> None:
    raw, dark = lit((2, 1, 1), 500)
    copy = raw.copy()
    np.testing.assert_array_equal(remove_zingers(raw, dark, 0.3), copy)
    np.testing.assert_array_equal(raw, copy)
    big_endian = raw.astype(">u2")
    np.testing.assert_array_equal(remove_zingers(big_endian, dark, 0.3), copy)
    assert remove_zingers(raw[:0], dark, 0.3).shape == (0, 1, 1)


def test_bad_arguments_are_refused() -> None:
    raw, dark = lit((2, 5, 5), 500)
    for threshold in (0.0, -1.0, float("nan")):
        with pytest.raises(ParameterError, match="threshold"):
            remove_zingers(raw, dark, threshold)
    with pytest.raises(InputError, match="shape"):
        remove_zingers(raw, dark[:4], 0.3)


# --- other neighbourhoods, and TomoPy's criterion -------------------------------------------------------------------

BOXES: list[tuple[int, Neighborhood, tuple[int, int, int]]] = [
    (3, "projection", (1, 3, 3)),
    (5, "projection", (1, 5, 5)),
    (3, "stack", (3, 3, 3)),
]


def by_the_book(
    raw: NDArray[np.uint16], dark: NDArray[np.float32], threshold: float, box: tuple[int, int, int]
) -> NDArray[np.float64]:
    """The criterion in the docstring, pixel by pixel."""
    counts = raw.astype(np.float64) - dark
    padded = np.pad(counts, [(n // 2, n // 2) for n in box], mode="symmetric")
    result = raw.astype(np.float64)
    for place in np.ndindex(raw.shape):
        around = padded[tuple(slice(i, i + n) for i, n in zip(place, box, strict=True))]
        ordered = np.sort(around, axis=None)
        median, low = ordered[ordered.size // 2], ordered[1 if ordered.size == 9 else 4]
        excess = counts[place] - median
        if excess > threshold * max(median, 0) and excess > 5 * (median - low):
            result[place] = np.clip(np.rint(median + dark[place[1:]]), 0, 65535)
    return result


@pytest.mark.parametrize(("size", "neighborhood", "box"), BOXES)
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 7), st.integers(1, 9)),
    level=st.sampled_from([3, 40, 2000]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=40, deadline=None)
def test_every_neighbourhood_is_what_the_formula_says(
    size: int,
    neighborhood: Neighborhood,
    box: tuple[int, int, int],
    shape: tuple[int, int, int],
    level: int,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    dark = rng.integers(50, 150, shape[1:]).astype(np.float32)
    raw = (dark + rng.poisson(level, shape)).astype(np.uint16)
    raw[rng.random(shape) < 0.05] += np.uint16(2 * level + 50)
    result = remove_zingers(raw, dark, 0.3, size=size, neighborhood=neighborhood)
    np.testing.assert_array_equal(result, by_the_book(raw, dark, 0.3, box))


@pytest.mark.parametrize(("size", "neighborhood", "box"), BOXES)
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_outliers_are_those_of_tomopy(
    size: int, neighborhood: Neighborhood, box: tuple[int, int, int], dtype: str
) -> None:
    """As `tomopy.misc.corr.remove_outlier` computes it: SciPy's median filter, and where(arr - median >= dif)."""
    rng = np.random.default_rng(4)
    for shape in ((7, 25, 300), (4, 2, 3), (1, 1, 1), (3, 1, 530)):
        raw = rng.normal(120, 20, shape).astype(dtype)
        median = ndimage.median_filter(raw, box)
        expected = np.where(raw.astype(np.float32) - median.astype(np.float32) >= 30, median, raw)
        result = remove_outliers(raw, 30, size=size, neighborhood=neighborhood)
        assert result.dtype == raw.dtype
        np.testing.assert_array_equal(result, expected)
        assert raw.size < 1000 or np.count_nonzero(result != raw) > raw.size // 50


def test_zingers_of_four_pixels_need_the_larger_neighbourhood() -> None:
    raw, dark = lit((3, 30, 40), 5000)
    hit = np.zeros(raw.shape, bool)
    hit[1, 10:12, 20:22] = hit[2, 0:2, 38:40] = True
    bright = np.where(hit, np.uint16(60000), raw)
    # in the corner of the frame the border's pixels count twice
    assert np.count_nonzero(remove_zingers(bright, dark, 0.3)[hit] < 6000) < 8
    for result in (
        remove_zingers(bright, dark, 0.3, size=5)[:2],
        remove_zingers(bright, dark, 0.3, neighborhood="stack")[:2],
    ):
        np.testing.assert_array_less(result[hit[:2]], 6000)
        np.testing.assert_array_equal(result[~hit[:2]], raw[:2][~hit[:2]])


@pytest.mark.parametrize(("size", "neighborhood", "box"), BOXES)
def test_other_neighbourhoods_depend_on_neither_cut_nor_threads(
    size: int, neighborhood: Neighborhood, box: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    clean, dark = lit((6, 17, 270), 3000)
    raw, _ = with_zingers(clean, 400)
    whole = remove_zingers(raw, dark, 0.3, size=size, neighborhood=neighborhood)
    assert np.count_nonzero(whole != raw) > 300
    reach = reach_rows(size)
    assert reach == box[1] // 2
    for start, stop in ((0, 1), (1, 2), (2, 9), (9, 16), (16, 17)):
        low, high = max(0, start - reach), min(17, stop + reach)
        part = remove_zingers(raw[:, low:high], dark[low:high], 0.3, size=size, neighborhood=neighborhood)
        np.testing.assert_array_equal(part[:, start - low : stop - low], whole[:, start:stop])
    monkeypatch.setattr(normalization, "_PIECE_VALUES", 2 * 17 * 270)
    np.testing.assert_array_equal(remove_zingers(raw, dark, 0.3, size=size, neighborhood=neighborhood), whole)
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        np.testing.assert_array_equal(remove_zingers(raw, dark, 0.3, size=size, neighborhood=neighborhood), whole)
    finally:
        numba.set_num_threads(threads)


@pytest.mark.parametrize("size", [3, 5])
def test_a_dark_field_that_is_not_finite_keeps_its_pixel_only(size: int) -> None:
    raw, dark = lit((2, 12, 14), 5000)
    dark[5, 6] = np.nan
    raw[0, 5, 7] = raw[1, 5, 6] = 60000
    result = remove_zingers(raw, dark, 0.3, size=size)
    assert result[0, 5, 7] < 6000
    assert result[1, 5, 6] == 60000
    assert np.count_nonzero(result != raw) == 1


def test_neighbourhoods_that_are_not_there_are_refused() -> None:
    raw, dark = lit((2, 5, 5), 500)
    wrong: list[tuple[int, Any]] = [(4, "projection"), (7, "projection"), (5, "stack"), (3, "volume")]
    for size, neighborhood in wrong:
        with pytest.raises(ParameterError, match="take 3 or 5 with 'projection', or 3 with 'stack'"):
            remove_zingers(raw, dark, 0.3, size=size, neighborhood=neighborhood)
    for difference in (0.0, -5.0, float("nan")):
        with pytest.raises(ParameterError, match="difference is"):
            remove_outliers(raw, difference)
    with pytest.raises(InputError, match="shape"):
        remove_outliers(raw[0], 5)
