"""The rotation centre against known ones of exact sinograms, and against the sharpest slice of real scans."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from tomopipe.functions.errors import InputError, ParameterError
from tomopipe.functions.preprocessing.normalization import line_integrals
from tomopipe.functions.preprocessing.rotation_center import (
    CenterEstimate,
    CenterResult,
    find_center,
    find_center_correlation,
    find_center_sharpness,
    find_center_vo,
    opposite_pairs,
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


def backprojection(
    projections: NDArray[np.float32], theta: NDArray[np.float64]
) -> Callable[[float], NDArray[np.float64]]:
    """A small filtered backprojection of every row, of the centre."""
    columns = projections.shape[2]
    length = 4 * columns
    padded = np.pad(projections, ((0, 0), (0, 0), (columns, 2 * columns)), mode="edge")
    ramp = np.abs(np.fft.rfftfreq(length))
    filtered = np.fft.irfft(np.fft.rfft(padded, axis=2) * ramp, length, axis=2)[:, :, columns : 2 * columns]
    axis = np.arange(columns) - (columns - 1) / 2

    def reconstruct(center: float) -> NDArray[np.float64]:
        slices = np.zeros((projections.shape[1], columns, columns))
        for angle, lines in zip(theta, filtered, strict=True):
            t = axis * np.cos(angle) - axis[:, None] * np.sin(angle) + center
            for row, line in enumerate(lines):
                slices[row] += np.interp(t, np.arange(columns), line)
        return slices * (np.pi / len(theta))

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
    assert 0.15 < result.confidence <= 1


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
    sharpness = find_center_sharpness(backprojection(projections[:-1, :2], theta[:-1]), candidates)
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


def test_vo_on_a_binned_coarse_search() -> None:
    theta = np.arange(300) * np.pi / 300
    assert find_center_vo(sinograms(theta, 1003, 612.3, rows=1)[:, 0], theta).center == pytest.approx(612.3, abs=0.25)


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


def disagreeing(center: float) -> NDArray[np.float32]:
    """A half turn whose last three projections were taken after the sample had moved by 3 pixels."""
    projections = sinograms(HALF_TURN, 128, center)
    projections[-3:] = np.roll(projections[-3:], 3, axis=2)
    return projections


def test_where_methods_disagree_the_sharpest_decides_and_a_warning_says_so() -> None:
    projections = disagreeing(60.8)
    result = find_center(projections, HALF_TURN, backprojection(projections[:, :1], HALF_TURN))
    assert abs(result.estimates["vo"] - result.estimates["correlation"]) > 0.5
    assert result.method == "sharpness"
    assert result.center == result.estimates["sharpness"] == pytest.approx(60.8, abs=0.25)
    assert result.warning is not None
    assert "disagree" in result.warning
    assert f"{result.estimates['correlation']:.2f}" in result.warning
    candidates, metric = result.curve
    assert candidates[np.argmin(metric)] == pytest.approx(60.8, abs=0.3)
    assert len(candidates) < 40


def test_without_a_reconstruction_vo_decides() -> None:
    result = find_center(disagreeing(60.8), HALF_TURN)
    assert result.method == "vo"
    assert result.center == result.estimates["vo"]
    assert result.warning is not None
    assert "vo decided" in result.warning


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
def test_real_scans_within_half_a_pixel_of_the_sharpest(
    real_scan: Callable[[str], Path], name: str, rows: list[int], sharpest: float
) -> None:
    with h5py.File(real_scan(name)) as file:
        exchange = file["exchange"]
        raw, theta = exchange["data"][:, rows], np.deg2rad(exchange["theta"][:])
        flat = exchange["data_white"][:, rows].mean(axis=0)
        dark = exchange["data_dark"][:, rows].mean(axis=0)
    projections, _ = line_integrals(raw, flat, dark, 1e-2)
    result = find_center(projections, theta)
    assert result.warning is None
    for estimate in (result.center, *result.estimates.values()):
        assert estimate == pytest.approx(sharpest, abs=0.2)
    if name.startswith("dls"):  # small enough to reconstruct here: the sharpest is not taken on trust
        found = find_center_sharpness(backprojection(projections[:-1, 1:4], theta[:-1]), np.arange(84, 88, 0.5))
        assert found.center == pytest.approx(result.center, abs=0.2)


@pytest.mark.parametrize("seed", [0, 1])
def test_sharpness_in_noise(seed: int) -> None:
    projections = sinograms(HALF_TURN, 160, 83.3, rows=1, photons=1000, seed=seed)
    candidates = np.arange(81, 86.1, 0.5)
    found = find_center_sharpness(backprojection(projections, HALF_TURN), candidates)
    assert found.center == pytest.approx(83.3, abs=0.25)


def test_sharpness_takes_one_slice_or_several() -> None:
    projections = sinograms(HALF_TURN, 64, 33.2, rows=1, photons=None)
    reconstruct = backprojection(projections, HALF_TURN)
    candidates = [31, 32, 33, 34, 35]

    def one(center: float) -> NDArray[np.float64]:
        return reconstruct(center)[0]

    def center_of(estimate: CenterEstimate) -> float:
        return estimate.center

    assert center_of(find_center_sharpness(one, candidates)) == center_of(
        find_center_sharpness(reconstruct, candidates)
    )


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
        find_center_sharpness(lambda center: np.zeros((4, 4)), [3, 2, 1])
    broken = projections.copy()
    broken[3, 1, 4] = np.nan
    with pytest.raises(InputError, match="not finite"):
        find_center(broken, HALF_TURN)
    with pytest.raises(InputError, match="not finite"):
        find_center_correlation(broken[3], broken[4])
