"""The rotation centre against known ones of exact sinograms, and against the sharpest slice of real scans."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numba
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from tomopipe.functions.acquisition import angular_order
from tomopipe.functions.center_trials import quick_reconstruction
from tomopipe.functions.errors import InputError, ParameterError
from tomopipe.functions.preprocessing import center_estimate, center_full_turn
from tomopipe.functions.preprocessing.center_correlation import correlation_over_pairs
from tomopipe.functions.preprocessing.rotation_center import (
    LOW_CONFIDENCE,
    CenterEstimate,
    CenterResult,
    Reconstruct,
    find_center,
    find_center_360,
    find_center_correlation,
    find_center_sharpness,
    find_center_vo,
    opposite_pairs,
    overlap_columns,
    suggest_field_of_view,
)

HALF_TURN = np.arange(180) * np.pi / 180


def sinograms(
    theta: NDArray[np.float64],
    columns: int,
    center: float,
    *,
    radius: float | None = None,
    rows: int = 3,
    photons: float | None = 5000,
    pixel_errors: float = 0.01,
    seed: int = 0,
) -> NDArray[np.float32]:
    """Exact line integrals of pores in a cylinder, (angles, rows, columns), with photon noise and pixel errors (rings)."""
    rng = np.random.default_rng(seed)
    if radius is None:
        radius = min(0.44 * columns, columns / 2 - abs(center - (columns - 1) / 2) - 4)
    out = np.zeros((len(theta), rows, columns))
    t = np.arange(columns)[:, None] - center + (np.arange(4) - 1.5) / 4
    for row in range(rows):
        discs = [(1.0, radius, 0.0, 0.0)]
        for _ in range(30):
            distance, phase = radius * np.sqrt(rng.uniform(0, 0.7)), rng.uniform(0, 2 * np.pi)
            discs.append((-0.5, radius * rng.uniform(0.03, 0.14), distance, phase))
        for value, r, distance, phase in discs:
            offset = distance * np.cos(theta - phase)[:, None, None]
            out[:, row] += 2 * value * np.sqrt(np.maximum(r**2 - (t - offset) ** 2, 0)).mean(axis=2)
    out *= 1.5 / out.max()
    if photons is not None:
        gains = 1 + pixel_errors * rng.standard_normal((rows, columns))
        out = -np.log(np.maximum(rng.poisson(photons * np.exp(-out) * gains) / photons, 1e-2))
    return out.astype(np.float32)


def backprojection(theta: NDArray[np.float64]) -> Reconstruct:
    """A small filtered backprojection of every row with its own centre."""

    def reconstruct(projections: NDArray[np.float32], centers: NDArray[np.float64]) -> NDArray[np.float32]:
        columns = projections.shape[2]
        length = 4 * columns
        padded = np.pad(projections, ((0, 0), (0, 0), (columns, 2 * columns)), mode="edge")
        ramp = np.abs(np.fft.rfftfreq(length))
        filtered = np.fft.irfft(np.fft.rfft(padded, axis=2) * ramp, length, axis=2)[:, :, columns : 2 * columns]
        axis = np.arange(columns) - (columns - 1) / 2
        slices = np.zeros((projections.shape[1], columns, columns), np.float32)
        for angle, lines in zip(theta, filtered, strict=True):
            t = axis * np.cos(angle) - axis[:, None] * np.sin(angle)
            for row, (line, center) in enumerate(zip(lines, centers, strict=True)):
                slices[row] += np.interp(t + center, np.arange(columns), line)
        return slices * np.float32(np.pi / len(theta))

    return reconstruct


@pytest.mark.parametrize(
    ("columns", "offset"),
    [(128, 0.0), (128, 25.4), (129, -25.7), (200, -40.0), (200, 11.25), (320, -63.6), (320, 0.6)],
)
@pytest.mark.parametrize("photons", [5000, 500])
def test_half_turn_with_noise_and_rings(columns: int, offset: float, photons: float) -> None:
    center = (columns - 1) / 2 + offset
    result = find_center(sinograms(HALF_TURN, columns, center, photons=photons), HALF_TURN)
    assert result.center == pytest.approx(center, abs=0.25)
    assert result.method == "vo+correlation"
    assert result.warning is None
    assert LOW_CONFIDENCE < result.confidence <= 1


@pytest.mark.parametrize("offset", [-51.3, 3.4, 51.2])
def test_full_turn(offset: float) -> None:
    theta = np.arange(360) * np.pi / 180
    result = find_center(sinograms(theta, 256, 127.5 + offset), theta)
    assert result.center == pytest.approx(127.5 + offset, abs=0.1)
    assert result.warning is None


@pytest.mark.parametrize(
    "theta_deg",
    [
        np.linspace(0, 180, 181),
        -np.arange(0, 180, 1.0),
        np.arange(-90, 90, 0.7) + 0.3,
        np.arange(0, 200, 1.0),
        np.random.default_rng(0).permutation(np.arange(180.0)),
        np.arange(361) * 360 / 361,
        np.mod(np.arange(300) * 180 * (np.sqrt(5) - 1), 360),
    ],
    ids=["end included", "backwards", "odd step", "more than half", "any order", "odd number", "golden angle"],
)
def test_any_angles(theta_deg: NDArray[np.float64]) -> None:
    theta = np.deg2rad(theta_deg)
    result = find_center(sinograms(theta, 200, 107.37), theta)
    assert result.center == pytest.approx(107.37, abs=0.15)
    for estimate in result.estimates.values():
        assert estimate == pytest.approx(107.37, abs=0.25)


@pytest.mark.parametrize(("offset", "radius"), [(0.1, 0.45), (-0.2, 0.44), (0.03, 0.6)])
def test_sample_that_leaves_the_field_of_view(offset: float, radius: float) -> None:
    center = 99.5 + 200 * offset + 0.37
    result = find_center(sinograms(HALF_TURN, 200, center, radius=200 * radius), HALF_TURN)
    assert result.center == pytest.approx(center, abs=0.25)


def test_every_method_alone_without_noise() -> None:
    center = 83.3
    theta = np.linspace(0, np.pi, 181)
    projections = sinograms(theta, 160, center, photons=None)
    vo = find_center_vo(projections[:, 0], theta)
    correlation = find_center_correlation(projections[0], projections[180])
    candidates = np.arange(81, 86, 0.5)
    sharpness = find_center_sharpness(projections[:-1, :2], backprojection(theta[:-1]), candidates)
    for estimate in (vo, correlation, sharpness):
        assert estimate.center == pytest.approx(center, abs=0.1)
        nearest = estimate.candidates[np.argmin(estimate.metric)]
        assert nearest == pytest.approx(center, abs=0.51)
        assert estimate.candidates.shape == estimate.metric.shape
        assert 0 < estimate.confidence <= 1


def test_vo_needs_no_angles_for_an_even_half_turn_and_keeps_to_the_search_range() -> None:
    sinogram = sinograms(HALF_TURN, 160, 70.6, rows=1)[:, 0]
    assert find_center_vo(sinogram).center == find_center_vo(sinogram, HALF_TURN).center
    elsewhere = find_center_vo(sinogram, HALF_TURN, search=(100, 110))
    assert 99.5 <= elsewhere.center <= 110.5
    assert find_center_vo(sinogram, HALF_TURN, search=(20, 140)).center == pytest.approx(70.6, abs=0.2)


def test_vo_takes_half_a_turn_from_the_smallest_angle_on_without_its_end() -> None:
    theta = np.arange(360) * np.pi / 180
    sinogram = sinograms(theta, 128, 60.3, rows=1)[:, 0]
    half = find_center_vo(sinogram[:180])
    for angles in (181, 240, 360):
        longer = find_center_vo(sinogram[:angles], theta[:angles] + 1)
        np.testing.assert_array_equal(longer.metric, half.metric)


def test_vo_on_a_wide_detector() -> None:
    theta = np.arange(300) * np.pi / 300
    assert find_center_vo(sinograms(theta, 1003, 612.3, rows=1)[:, 0], theta).center == pytest.approx(612.3, abs=0.25)


@pytest.mark.parametrize(("angles", "columns"), [(60, 64), (61, 63), (90, 50)])
def test_vo_is_the_amplitude_in_the_double_wedge_of_the_full_turn(angles: int, columns: int) -> None:
    """Against the full turn put together for each shift, and transformed whole."""
    theta = np.arange(angles) * np.pi / angles
    half = sinograms(theta, columns, 0.45 * columns, rows=1)[:, 0]
    estimate = find_center_vo(half, theta, search=(0.1 * columns, 0.9 * columns))
    dropped = min(10, int(np.ceil(0.05 * 2 * angles)))
    expected = []
    for center in estimate.candidates:
        shift = round(2 * center - (columns - 1))
        mirrored = np.roll(half[:, ::-1], shift, axis=1)
        if shift > 0:
            mirrored[:, :shift] = half[::-1, :shift]
        elif shift < 0:
            mirrored[:, shift:] = half[::-1, shift:]
        spectrum = np.abs(np.fft.fft2(np.vstack([half, mirrored])))
        total = 0.0
        periods = range(dropped + 1, int(np.ceil(angles / 2)) + 1)
        for k in periods:
            weight = np.exp(-2 * (np.pi * 2 * k / (2 * angles)) ** 2)
            for f in range(2, int(np.ceil(k / np.pi)) + 1):
                total += weight * (spectrum[k, f] + spectrum[k, -f])
        expected.append(total / (len(periods) * columns))
    np.testing.assert_allclose(estimate.metric, expected, rtol=2e-5)


def test_vo_of_the_mirror_image_is_the_mirrored_centre() -> None:
    sinogram = sinograms(HALF_TURN, 121, 49.3, rows=1)[:, 0]
    center, mirrored = find_center_vo(sinogram).center, find_center_vo(sinogram[:, ::-1]).center
    assert mirrored == pytest.approx(120 - center, abs=0.02)


def test_vo_does_not_depend_on_the_threads_nor_on_the_range() -> None:
    sinogram = sinograms(HALF_TURN, 128, 60.2, rows=1)[:, 0]
    before = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        one = find_center_vo(sinogram)
    finally:
        numba.set_num_threads(before)
    np.testing.assert_array_equal(one.metric, find_center_vo(sinogram).metric)
    narrow = find_center_vo(sinogram, search=(56, 66))
    common = np.isin(one.candidates, narrow.candidates)
    np.testing.assert_array_equal(one.metric[common], narrow.metric)


def test_correlation_is_the_coefficient_of_what_overlaps() -> None:
    first, second = sinograms(HALF_TURN, 64, 25.2)[[0, 179]].astype(np.float64) + 5
    estimate = find_center_correlation(first, second)
    a = ndimage.gaussian_filter1d(first, 1, axis=1, mode="nearest")
    b = ndimage.gaussian_filter1d(second[:, ::-1], 1, axis=1, mode="nearest")
    for center, metric in zip(estimate.candidates, estimate.metric, strict=True):
        shift = round(2 * center - 63)
        overlap = a[:, max(0, shift) : 64 + min(0, shift)], b[:, max(0, -shift) : 64 - max(0, shift)]
        expected = np.corrcoef(overlap[0].ravel(), overlap[1].ravel())[0, 1]
        assert 1 - metric == pytest.approx(expected, abs=1e-9)
    assert estimate.candidates[0] <= 31.5 - 16
    assert estimate.candidates[-1] >= 31.5 + 16


def test_projections_not_quite_opposite_do_not_move_the_centre() -> None:
    """Coarse angles without 180: the last projection alone is wrong by up to half a pixel."""
    theta = np.arange(90) * np.pi / 90
    projections = sinograms(theta, 320, 163.4, photons=None, radius=60)
    # Off the axis, the sample moves between 178 and 180 degrees.
    moved = np.stack([np.roll(p, round(80 * np.sin(a)), axis=1) for p, a in zip(projections, theta, strict=True)])
    naive = find_center_correlation(moved[0], moved[-1]).center
    result = find_center(moved, theta)
    assert abs(naive - 163.4) > 1
    assert result.estimates["correlation"] == pytest.approx(163.4, abs=0.35)


def test_opposite_pairs() -> None:
    def degrees_apart(theta_deg: NDArray[np.float64]) -> list[float]:
        return [round(float(theta_deg[b] - theta_deg[a]), 6) for a, b in opposite_pairs(np.deg2rad(theta_deg))]

    assert degrees_apart(np.linspace(0, 180, 181)) == [180]
    assert sorted(degrees_apart(np.arange(180.0))) == [178, 178, 179]
    assert degrees_apart(np.arange(360.0)) == [180] * 32
    first = [a for a, _ in opposite_pairs(np.deg2rad(np.arange(360.0)))]
    assert first[0] == 0
    assert first[-1] > 170  # spread over the turn
    assert opposite_pairs(np.deg2rad(np.arange(90.0))) == []
    assert opposite_pairs(np.zeros(1)) == []


def test_every_pair_has_its_say_whatever_finds_its_centre() -> None:
    """The median over exact pairs: a third of them may be wrong."""
    theta = np.arange(36) * np.pi / 18
    projections = sinograms(theta, 64, 30.2, rows=1, photons=None)
    projections[:5] = np.roll(projections[:5], 9, axis=2)
    assert correlation_over_pairs(projections, theta, (16, 47)).center == pytest.approx(30.2, abs=0.1)
    asked: list[float] = []

    def of_pair(first: NDArray[np.float32], second: NDArray[np.float32], search: tuple[float, float]) -> CenterEstimate:
        asked.append(float(np.ptp(search)))
        return CenterEstimate(20.0 + len(asked), 1.0, np.array([20.0]), np.array([0.0]))

    assert correlation_over_pairs(projections, theta, (16, 47), of_pair).center == 29.5
    assert asked == [31.0] * 18


def disagreeing(center: float) -> NDArray[np.float32]:
    """A half turn whose last three projections were taken after the sample had moved by 3 pixels."""
    projections = sinograms(HALF_TURN, 128, center)
    projections[-3:] = np.roll(projections[-3:], 3, axis=2)
    return projections


def test_where_the_sample_moved_the_sharpest_decides_and_a_warning_says_so() -> None:
    """Both other methods rest on the seam of the two half turns, where it moved."""
    projections = disagreeing(60.8)
    result = find_center(projections, HALF_TURN, backprojection(HALF_TURN))
    assert abs(result.estimates["vo"] - 60.8) > 0.5
    assert abs(result.estimates["correlation"] - 60.8) > 0.5
    assert result.method == "sharpness"
    assert result.center == result.estimates["sharpness"] == pytest.approx(60.8, abs=0.25)
    assert result.confidence < LOW_CONFIDENCE
    assert result.warning is not None
    assert "disagree" in result.warning
    assert f"{result.estimates['correlation']:.2f}" in result.warning
    candidates, metric = result.curve
    assert candidates[np.argmin(metric)] == pytest.approx(60.8, abs=0.3)
    assert len(candidates) < 80


def test_sharpness_of_one_row_has_one_vote_of_three() -> None:
    projections = disagreeing(60.8)[:, :1]
    result = find_center(projections, HALF_TURN, backprojection(HALF_TURN))
    assert result.center == np.median(list(result.estimates.values()))
    assert result.method == "vo+correlation"
    assert result.confidence < LOW_CONFIDENCE


def test_without_a_reconstruction_vo_decides() -> None:
    result = find_center(disagreeing(60.8), HALF_TURN)
    assert result.method == "vo"
    assert result.center == result.estimates["vo"]
    assert result.confidence < LOW_CONFIDENCE
    assert result.warning is not None
    assert "disagree" in result.warning


def test_three_methods_that_agree_are_sure() -> None:
    projections = sinograms(HALF_TURN, 128, 70.3)
    result = find_center(projections, HALF_TURN, backprojection(HALF_TURN))
    assert set(result.estimates) == {"vo", "correlation", "sharpness"}
    assert result.method == "vo+correlation+sharpness"
    assert result.center == pytest.approx(70.3, abs=0.15)
    assert result.confidence > 0.9
    assert result.warning is None


def test_confidence_falls_with_the_spread_of_the_methods() -> None:
    """The last projection, the one opposite to the first, is displaced: only the correlation notices."""
    theta = np.linspace(0, np.pi, 181)
    sure = []
    for moved in (0, 1, 2, 4, 12):
        projections = sinograms(theta, 128, 60.8)
        projections[-1:] = np.roll(projections[-1:], moved, axis=2)
        result = find_center(projections, theta)
        assert result.estimates["correlation"] == pytest.approx(60.8 + moved / 2, abs=0.3)
        assert result.estimates["vo"] == pytest.approx(60.8, abs=0.2)
        sure.append(result.confidence)
    assert sure == sorted(sure, reverse=True)
    assert sure[0] > 0.9
    assert sure[-1] < 0.1


def test_sharpness_is_asked_of_the_clearest_rows_at_quarter_pixels_around_the_answers() -> None:
    projections = sinograms(HALF_TURN, 128, 70.3, rows=4)
    projections[:, [0, 2]] = np.random.default_rng(1).normal(0, 0.02, (180, 2, 128))
    asked: list[tuple[NDArray[np.float32], NDArray[np.float64]]] = []

    def reconstruct(lines: NDArray[np.float32], centers: NDArray[np.float64]) -> NDArray[np.float32]:
        asked.append((lines, centers))
        return backprojection(HALF_TURN)(lines, centers)

    find_center(projections, HALF_TURN, reconstruct)
    assert len(asked) == 2  # a batch of the engine each
    smooth = ndimage.gaussian_filter1d(projections, 2, axis=2, mode="nearest")
    given = {row for lines, _ in asked for row in range(4) if np.array_equal(lines[:, 0], smooth[:, row])}
    assert given == {1, 3}
    for lines, centers in asked:
        assert lines.shape == (180, len(centers), 128)
        assert len(centers) <= 16
        np.testing.assert_allclose(np.diff(centers), 0.25)
        assert centers[0] <= 70.3 - 1.25
        assert centers[-1] >= 70.3 + 1.25


@pytest.mark.parametrize(("center", "search"), [(99.0, None), (70.0, (20.0, 66.0))])
def test_a_centre_beyond_the_range_searched_is_not_trusted(center: float, search: tuple[float, float] | None) -> None:
    projections = sinograms(HALF_TURN, 128, center)
    result = find_center(projections, HALF_TURN, search=search)
    assert abs(result.center - center) > 1
    assert result.confidence < 0.5
    assert result.warning is not None
    wider = find_center(projections, HALF_TURN, search_share=0.4)
    assert wider.center == pytest.approx(center, abs=0.25)
    assert wider.confidence > LOW_CONFIDENCE


def test_an_answer_at_the_end_of_the_range_says_so() -> None:
    result = find_center(sinograms(HALF_TURN, 128, 70.3), HALF_TURN, search=(30, 70))
    assert result.center >= 69
    assert result.confidence <= 0.1
    assert result.warning is not None
    assert "search further" in result.warning


def test_a_blank_scan_has_no_centre() -> None:
    result = find_center(np.zeros((180, 2, 64), np.float32), HALF_TURN)
    assert result.confidence == 0
    assert result.warning is not None
    assert "sample in the beam" in result.warning


def test_rows_without_sample_do_not_count() -> None:
    projections = sinograms(HALF_TURN, 160, 110.2, rows=5)
    empty = np.random.default_rng(1).normal(0, 0.01, (180, 3, 160)).astype(np.float32)
    projections[:, [0, 2, 4]] = empty
    result = find_center(projections, HALF_TURN)
    assert result.center == pytest.approx(110.2, abs=0.15)
    assert result.estimates["vo"] == pytest.approx(110.2, abs=0.15)


def test_an_empty_scan_is_warned_of() -> None:
    noise = np.random.default_rng(5).normal(0, 0.02, (180, 3, 160)).astype(np.float32)
    result = find_center(noise, HALF_TURN)
    assert result.warning is not None
    assert result.confidence < 0.1


def test_the_same_input_gives_the_same_bits() -> None:
    projections = sinograms(HALF_TURN, 128, 70.1)

    def as_tuple(result: CenterResult) -> tuple[object, ...]:
        return result.center, result.confidence, result.estimates, result.curve[1].tobytes()

    assert as_tuple(find_center(projections, HALF_TURN)) == as_tuple(find_center(projections.copy(), HALF_TURN))


def test_agrees_with_algotom_where_its_smoothing_does_no_harm() -> None:
    calculation = pytest.importorskip("algotom.prep.calculation")
    theta = np.linspace(0, np.pi, 361)
    sinogram = sinograms(theta, 200, 104.7, rows=1, photons=None)[:, 0]
    theirs = calculation.find_center_vo(sinogram, start=90, stop=120, ncore=1)
    assert find_center_vo(sinogram, theta).center == pytest.approx(float(theirs), abs=0.35)


@pytest.mark.parametrize(
    ("name", "rows", "sharpest"), [("tooth.h5", [0, 1], 295.9), ("dls_24737.h5", [52, 67, 82, 97, 112], 85.9)]
)
def test_real_scans_within_a_fifth_of_a_pixel_of_the_sharpest(
    real_scan: Callable[[str], Path], name: str, rows: list[int], sharpest: float
) -> None:
    with h5py.File(real_scan(name)) as file:
        exchange = file["exchange"]
        raw, theta = exchange["data"][:, rows], np.deg2rad(exchange["theta"][:])
        flat = exchange["data_white"][:, rows].mean(axis=0)
        dark = exchange["data_dark"][:, rows].mean(axis=0)
    projections = -np.log(np.maximum((raw - dark) / (flat - dark), 1e-2)).astype(np.float32)
    small = name.startswith("dls")  # small enough to reconstruct here: the sharpest is not taken on trust
    result = find_center(projections, theta, backprojection(theta) if small else None)
    assert result.warning is None
    assert result.confidence > 0.9
    assert len(result.estimates) == (3 if small else 2)
    for estimate in (result.center, *result.estimates.values()):
        assert estimate == pytest.approx(sharpest, abs=0.2)


@pytest.mark.slow
def test_confidence_is_about_the_share_of_centres_within_half_a_pixel() -> None:
    """On scans of other samples than those that it was fitted to."""
    rng = np.random.default_rng(12)
    sure, right = [], []
    for seed in range(60):
        columns, photons = int(rng.choice([96, 144])), float(np.exp(rng.uniform(np.log(2), np.log(1000))))
        center = (columns - 1) / 2 + rng.uniform(-0.2, 0.2) * columns
        projections = sinograms(HALF_TURN, columns, center, rows=2, photons=photons, seed=seed)
        result = find_center(projections, HALF_TURN, quick_reconstruction(HALF_TURN, columns))
        sure.append(result.confidence)
        right.append(abs(result.center - center) <= 0.5)
    confident, doubtful = np.array(sure) > 0.9, np.array(sure) < 0.5
    assert confident.sum() >= 20
    assert doubtful.sum() >= 5
    assert np.mean(np.array(right)[confident]) > 0.9
    assert np.mean(np.array(right)[doubtful]) < 0.6
    assert np.mean(sure) == pytest.approx(np.mean(right), abs=0.15)


@pytest.mark.parametrize("seed", [0, 1])
def test_sharpness_in_noise(seed: int) -> None:
    projections = sinograms(HALF_TURN, 160, 83.3, rows=1, photons=1000, seed=seed)
    found = find_center_sharpness(projections, backprojection(HALF_TURN), np.arange(81, 86.1, 0.5))
    assert found.center == pytest.approx(83.3, abs=0.25)


def test_sharpness_is_the_mean_over_the_rows() -> None:
    projections = sinograms(HALF_TURN, 64, 33.2, rows=2, photons=None)
    candidates = np.arange(31, 36.1, 0.25)  # two batches
    both = find_center_sharpness(projections, backprojection(HALF_TURN), candidates)
    each = [find_center_sharpness(projections[:, [row]], backprojection(HALF_TURN), candidates) for row in (0, 1)]
    np.testing.assert_allclose(both.metric, (each[0].metric + each[1].metric) / 2)
    assert both.center == pytest.approx(33.2, abs=0.15)


def test_bad_input_is_refused_with_what_was_found() -> None:
    projections = sinograms(HALF_TURN, 64, 31, rows=2, photons=None)
    with pytest.raises(InputError, match="one angle a projection"):
        find_center(projections, HALF_TURN[:-1])
    with pytest.raises(InputError, match="shape"):
        find_center(projections[:, 0], HALF_TURN)
    with pytest.raises(InputError, match=r"cover 149\.0 degrees"):
        find_center(projections[:150], HALF_TURN[:150])
    with pytest.raises(ParameterError, match="search"):
        find_center(projections, HALF_TURN, search=(40, 30))
    with pytest.raises(ParameterError, match="search"):
        find_center_vo(projections[:, 0], HALF_TURN, search=(0, 64))
    with pytest.raises(InputError, match="opposite"):
        find_center_correlation(projections[0], projections[1, :1])
    with pytest.raises(InputError, match="ascending"):
        find_center_sharpness(projections, lambda lines, centers: lines, [3, 2, 1])
    broken = projections.copy()
    broken[3, 1, 4] = np.nan
    with pytest.raises(InputError, match="not finite"):
        find_center(broken, HALF_TURN)
    with pytest.raises(InputError, match="not finite"):
        find_center_correlation(broken[3], broken[4])


# The whole turn ---------------------------------------------------------------------------------------------------------

WHOLE_TURN = np.arange(360) * np.pi / 180


def wide(
    theta: NDArray[np.float64], columns: int, overlap: float, side: str, **options: float
) -> tuple[float, NDArray[np.float32]]:
    """Centre and projections of a sample nearly as wide as a double field of view, with this overlap in pixels."""
    near = (overlap - 1) / 2
    center = near if side == "left" else columns - 1 - near
    radius = options.pop("radius", 0.95) * (columns - 1 - near)
    return center, sinograms(theta, columns, center, radius=radius, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("share", [0.035, 0.1, 0.27, 0.6, 0.99])
@pytest.mark.parametrize("columns", [128, 201])
def test_full_turn_axis_anywhere(columns: int, share: float, side: str) -> None:
    center, projections = wide(WHOLE_TURN, columns, share * columns + 0.3, side)
    center = float(np.clip(center, 0, columns - 1))
    result = find_center_360(projections, WHOLE_TURN)
    assert result.center == pytest.approx(center, abs=0.25)
    assert result.method == "overlap"
    assert result.estimates == {"overlap": result.center}
    assert result.confidence > LOW_CONFIDENCE
    assert result.warning is None
    assert overlap_columns(columns, result.center) == pytest.approx(share * columns + 0.3, abs=0.5)
    candidates, metric = result.curve
    assert candidates[np.argmin(metric)] == pytest.approx(center, abs=0.3)


@pytest.mark.parametrize(
    "theta_deg",
    [
        np.linspace(0, 360, 361),
        np.arange(301) * 360 / 301,
        -np.arange(0, 360, 1.5),
        np.arange(0, 450, 1.0),
        np.random.default_rng(0).permutation(np.arange(20, 380, 1.0)),
    ],
    ids=["end included", "no exact opposites", "backwards", "more than a turn", "any order"],
)
def test_full_turn_any_angles(theta_deg: NDArray[np.float64]) -> None:
    theta = np.deg2rad(theta_deg)
    center, projections = wide(theta, 128, 25.4, "right")
    result = find_center_360(projections, theta)
    assert result.center == pytest.approx(center, abs=0.25)
    assert result.confidence > LOW_CONFIDENCE


def test_full_turn_rings_do_not_hold_the_centre() -> None:
    center, projections = wide(WHOLE_TURN, 128, 30, "left", pixel_errors=0.1)
    result = find_center_360(projections, WHOLE_TURN)
    assert result.center == pytest.approx(center, abs=0.25)
    assert result.confidence > 0.9


def test_full_turn_of_noise_is_not_trusted() -> None:
    noise = np.random.default_rng(3).normal(0, 0.02, (360, 2, 100)).astype(np.float32)
    result = find_center_360(noise, WHOLE_TURN)
    assert result.confidence < 0.3
    assert result.warning is not None
    blank = find_center_360(np.zeros((360, 1, 64), np.float32), WHOLE_TURN)
    assert blank.confidence < 0.1
    assert blank.warning is not None


@pytest.mark.parametrize("side", ["left", "right"])
def test_field_of_view(side: str) -> None:
    _, double = wide(WHOLE_TURN, 128, 30, side)
    assert suggest_field_of_view(double, WHOLE_TURN) == "double"
    # Half a turn cannot be joined; a sample inside the field of view, or an axis in the middle, needs it not.
    assert suggest_field_of_view(double[:181], WHOLE_TURN[:181]) == "standard"
    _, inside = wide(WHOLE_TURN, 128, 60, side, radius=0.25)
    assert suggest_field_of_view(inside, WHOLE_TURN) == "standard"
    _, centred = wide(WHOLE_TURN, 128, 127, side, radius=1.6)
    assert suggest_field_of_view(centred, WHOLE_TURN) == "standard"
    center, _ = wide(WHOLE_TURN, 128, 30, side)
    assert suggest_field_of_view(double, WHOLE_TURN, center) == "double"
    noise = np.random.default_rng(3).normal(0, 0.02, (360, 2, 100)).astype(np.float32)
    assert suggest_field_of_view(noise, WHOLE_TURN) == "standard"


def test_full_turn_refusals() -> None:
    projections = np.zeros((360, 1, 32), np.float32)
    with pytest.raises(InputError, match=r"cover 300.0 degrees.*scan\.field_of_view"):
        find_center_360(projections[:301], WHOLE_TURN[:301])
    with pytest.raises(ParameterError, match="least_overlap is 0"):
        find_center_360(projections, WHOLE_TURN, least_overlap=0)
    with pytest.raises(InputError, match="with a row or more"):
        find_center_360(projections[:, 0], WHOLE_TURN)
    with pytest.raises(ParameterError, match=r"search_share is 0\.5"):
        find_center(projections, WHOLE_TURN, search_share=0.5)


def test_angles_without_opposites_are_refused() -> None:
    theta = np.deg2rad(np.concatenate([np.arange(0, 30), np.arange(230, 260)]).astype(float))
    with pytest.raises(InputError, match="no two of the angles lie 180 degrees apart"):
        find_center(sinograms(theta, 64, 30.0), theta)


def test_a_blocked_view_does_not_move_the_centre() -> None:
    kept = np.delete(HALF_TURN, np.arange(60, 90))
    result = find_center(sinograms(kept, 160, 71.4), kept, quick_reconstruction(kept, 160))
    assert result.center == pytest.approx(71.4, abs=0.25)
    assert result.confidence > LOW_CONFIDENCE


def test_two_turns_folded_to_one_have_every_angle_twice() -> None:
    taken = np.arange(360) * 2.0 + 0.1
    theta = np.deg2rad(angular_order(taken)[1])
    assert np.median(np.diff(theta)) < 1e-9  # what a step must not be taken for
    assert center_estimate.angular_step(theta) == pytest.approx(np.deg2rad(2))
    assert center_full_turn.covers_full_turn(theta)
    exact = np.sort(np.concatenate([np.arange(0, 360, 2.0)] * 2)) * np.pi / 180
    for angles in (theta, exact):
        assert all(abs(abs(angles[second] - angles[first]) - np.pi) < 1e-6 for first, second in opposite_pairs(angles))
        result = find_center(sinograms(angles, 96, 45.3), angles, quick_reconstruction(angles, 96))
        assert result.center == pytest.approx(45.3, abs=0.25)
        assert result.confidence > LOW_CONFIDENCE
    center, double = wide(exact, 128, 30, "right")
    assert suggest_field_of_view(double, exact) == "double"
    assert find_center_360(double, exact).center == pytest.approx(center, abs=0.25)
    # Nor are angles without any step an error of arithmetic.
    with pytest.raises(InputError, match=r"cover 0\.0 degrees"):
        find_center(np.zeros((9, 1, 32), np.float32), np.zeros(9))
