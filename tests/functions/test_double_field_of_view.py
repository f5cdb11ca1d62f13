"""Joined halves against projections known in closed form, of phantoms wider than the detector; the same bits by rows."""

from __future__ import annotations

import math

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tomopipe.functions.errors import InputError, ParameterError
from tomopipe.functions.preprocessing.double_field_of_view import (
    DoubleFieldOfView,
    stitch,
    stitched_center,
    stitched_columns,
)

COLUMNS = 160
TURN = 2 * math.pi
# x, y, radius (pixels from the axis) and height of smooth blobs, up to 140 pixels off the axis
BLOBS = np.array([[0, 0, 60, 1.0], [100, 60, 6, 0.5], [-90, 80, 4, -0.3], [20, -120, 5, 0.7], [-30, 10, 3, 0.4]])
CENTERS = [150.0, 150.5, 151.27, 158.9, 120.3, 79.5, 79.4, 60.25, 10.0, 8.63, 3.1]


def full_turn(angles: int) -> NDArray[np.float64]:
    return np.arange(angles) * TURN / angles


def blobs(theta: NDArray[np.float64], columns: int, center: float) -> NDArray[np.float64]:
    """Line integrals of Gaussian blobs, (angles, columns)."""
    t = np.arange(columns) - center
    integrals = np.zeros((theta.size, columns))
    for x, y, radius, height in BLOBS:
        distance = t - (x * np.cos(theta) + y * np.sin(theta))[:, None]
        integrals += height * radius * math.sqrt(2 * math.pi) * np.exp(-((distance / radius) ** 2) / 2)
    return integrals


def ellipses(theta: NDArray[np.float64], columns: int, center: float) -> NDArray[np.float64]:
    """Line integrals of ellipses with sharp edges, each pixel the mean over 8 rays."""
    t = (np.arange(columns) - center)[:, None] + (np.arange(8) - 3.5) / 8
    integrals = np.zeros((theta.size, columns))
    for x, y, a, b, value in ((0, 0, 140, 110, 1.0), (60, 20, 20, 45, -0.4), (-80, -30, 9, 12, 0.6)):
        shift = (x * np.cos(theta) + y * np.sin(theta))[:, None, None]
        square = ((a * np.cos(theta)) ** 2 + (b * np.sin(theta)) ** 2)[:, None, None]
        chord = 2 * value * a * b * np.sqrt(np.maximum(square - (t - shift) ** 2, 0)) / square
        integrals += chord.mean(axis=2)
    return integrals


def as_rows(integrals: NDArray[np.float64]) -> NDArray[np.float32]:
    return integrals[:, None, :].astype(np.float32)


def noise(shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.random.default_rng(0).random(shape, dtype=np.float32)


# --- truth ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("center", CENTERS)
def test_a_scene_wider_than_the_detector_is_whole(center: float) -> None:
    """As a detector of twice the width would see it, the centre between pixels or not."""
    theta = full_turn(180) + 0.1
    joined, angles, axis = stitch(as_rows(blobs(theta, COLUMNS, center)), theta, center)
    truth = blobs(angles, joined.shape[2], axis)
    np.testing.assert_allclose(angles, theta[:90], atol=1e-12)
    error = np.abs(joined[:, 0] - truth)
    # to 1e-5 of the scene (at most 150) where all taps lie on the detector; a little overlap has them beyond it at the axis
    overlap = min(center, COLUMNS - 1 - center)
    if (2 * center) % 1 == 0:
        assert error.max() < 1e-4
    else:
        assert error[:, 8:-8].max() < (2e-3 if overlap > 7 else 0.1)
        assert error.max() < 0.3


@pytest.mark.parametrize("center", [150.5, 151.27, 8.63])
def test_sharp_edges_stay_sharp(center: float) -> None:
    theta = full_turn(180)
    joined, angles, axis = stitch(as_rows(ellipses(theta, COLUMNS, center)), theta, center)
    error = joined[:, 0] - ellipses(angles, joined.shape[2], axis)
    assert math.sqrt(np.mean(error**2)) < (2e-5 if center == 150.5 else 0.2)
    # half a pixel off, in the mirrored half, would be five times as much
    off = ellipses(angles, joined.shape[2], axis + 0.5) - ellipses(angles, joined.shape[2], axis)
    assert math.sqrt(np.mean(off**2)) > 1.0


def test_pixels_between_pixels_keep_all_but_the_highest_frequencies() -> None:
    """Waves across the axis up to 70 % of the Nyquist frequency, a quarter of a pixel between."""
    theta, center = full_turn(60), 140.125
    for share in (0.1, 0.5, 0.7):

        def wave(t: NDArray[np.float64], share: float = share) -> NDArray[np.float64]:
            return np.cos(math.pi * share * t)

        detector = np.tile(wave(np.arange(COLUMNS) - center), (60, 1))
        joined, _, axis = stitch(as_rows(detector), theta, center)
        truth = wave(np.arange(joined.shape[2]) - axis)
        np.testing.assert_allclose(joined[:, 0, :-8], np.tile(truth[:-8], (30, 1)), atol=2e-3)


@pytest.mark.parametrize("center", CENTERS)
def test_the_weights_of_both_halves_sum_to_one(center: float) -> None:
    joined, _, _ = stitch(np.ones((40, 2, COLUMNS), np.float32), full_turn(40), center)
    np.testing.assert_allclose(joined, 1, rtol=1e-6)


@pytest.mark.parametrize("center", [130.0, 130.3, 29.0, 28.8])
def test_one_half_gives_way_to_the_other_smoothly(center: float) -> None:
    """Halves of different brightness: level outside the overlap, monotonic and without a step inside."""
    theta = full_turn(40)
    projections = np.where(theta < math.pi, 1.0, 2.0)[:, None, None] * np.ones((40, 1, COLUMNS))
    joined, _, axis = stitch(projections.astype(np.float32), theta, center)
    profile = joined[0, 0].astype(np.float64)
    assert (joined == joined[0]).all()
    reach = min(center, COLUMNS - 1 - center)
    t = np.arange(profile.size) - axis
    sign = 1 if center > COLUMNS / 2 else -1
    np.testing.assert_allclose(profile[sign * t <= -reach], 1, atol=1e-6)
    np.testing.assert_allclose(profile[sign * t >= reach], 2, atol=1e-6)
    steps = sign * np.diff(profile)
    assert steps.min() > -1e-6
    assert steps.max() < 1 / reach
    np.testing.assert_allclose(profile + np.interp(-t, t, profile), 3, atol=2e-3)


def test_noise_and_bad_columns_at_the_near_edge_do_not_show() -> None:
    theta, center = full_turn(40), 140.3
    clean = blobs(theta, COLUMNS, center)
    spoilt = clean.copy()
    spoilt[:, -1] += 100
    joined = [stitch(as_rows(part), theta, center)[0] for part in (clean, spoilt)]
    assert np.abs(joined[1] - joined[0]).max() < 2


@given(columns=st.integers(2, 50), share=st.floats(0, 1))
@settings(max_examples=200, deadline=None)
def test_the_wider_field_has_every_pixel_that_was_seen(columns: int, share: float) -> None:
    center = share * (columns - 1)
    wide, axis = stitched_columns(columns, center), stitched_center(columns, center)
    t = np.arange(wide) - axis
    reach = max(center, columns - 1 - center)
    assert np.abs(t).max() <= reach + 1e-5
    # one pixel more at either end would not have been seen
    assert min(reach - t[-1], reach + t[0]) < 1 + 1e-5
    assert max(reach - t[-1], reach + t[0]) < 1 + 1e-5
    # pixels of the detector are pixels of the wider field
    np.testing.assert_allclose(np.mod(axis - center + 0.5, 1), 0.5, atol=1e-9)
    joined, _, found = stitch(np.ones((8, 1, columns), np.float32), full_turn(8), center)
    assert (joined.shape[2], found) == (wide, axis)
    np.testing.assert_allclose(joined, 1, rtol=1e-5)


# --- angles ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("angles", [721, 361])
def test_projections_without_an_exact_opposite_are_interpolated(angles: int) -> None:
    """Half a step between, at 140 pixels from the axis: a pixel, of blobs that are wider."""
    theta, center = full_turn(angles), 150.27
    joined, kept, axis = stitch(as_rows(blobs(theta, COLUMNS, center)), theta, center)
    truth = blobs(kept, joined.shape[2], axis)
    nearest = blobs(kept + math.pi / angles, joined.shape[2], axis)
    assert kept.size == angles // 2 + 1
    error, displaced = np.abs(joined[:, 0] - truth)[:, :-8].max(), np.abs(nearest - truth)[:, 160:-8].max()
    assert error < 0.2 * displaced


def test_any_order_of_angles_gives_the_same_half_turn() -> None:
    theta, center = full_turn(90), 150.27
    joined, kept, _ = stitch(as_rows(blobs(theta, COLUMNS, center)), theta, center)
    order = np.concatenate([[0], 1 + np.random.default_rng(1).permutation(89)])
    shuffled = theta[order] + TURN * np.random.default_rng(2).integers(-2, 3, 90) * (np.arange(90) > 0)
    again, same, _ = stitch(as_rows(blobs(theta, COLUMNS, center))[order], shuffled, center)
    np.testing.assert_allclose(same, kept, atol=1e-9)
    np.testing.assert_array_equal(again, joined)


def test_a_scan_that_turns_backwards_is_joined_too() -> None:
    theta, center = -full_turn(90), 9.2
    joined, kept, axis = stitch(as_rows(blobs(theta, COLUMNS, center)), theta, center)
    np.testing.assert_allclose(joined[:, 0, 8:-8], blobs(kept, joined.shape[2], axis)[:, 8:-8], atol=2e-3)
    assert kept.size == 45


def test_the_last_projection_may_be_where_the_first_was() -> None:
    theta = np.linspace(0, TURN, 91)
    theta[-1] -= 1e-12
    projections = noise((91, 1, COLUMNS))
    joined, kept, _ = stitch(projections, theta, 150.0)
    np.testing.assert_allclose(kept, np.concatenate([[0], theta[:45]]), atol=1e-9)
    np.testing.assert_array_equal(joined[:2, 0, :140], projections[[90, 0], 0, :140])


def test_angles_that_jitter_take_their_nearest_opposite() -> None:
    """An encoder's noise of a thousandth of a step must not blur two projections into one."""
    theta = full_turn(90) + np.random.default_rng(0).normal(0, 1e-3 * TURN / 90, 90)
    projections = noise((90, 1, COLUMNS))
    joined, kept, _ = stitch(projections, theta, 150.0)
    np.testing.assert_allclose(kept, theta[:45], atol=1e-12)
    np.testing.assert_array_equal(joined[:, 0, 160:], projections[45:, 0, :141][:, ::-1])


def test_blocked_views_leave_a_wedge() -> None:
    """An angle is joined only where both it and its opposite were recorded."""
    theta, center = full_turn(360), 150.27
    kept = ~((theta > np.deg2rad(30.5)) & (theta < np.deg2rad(40.5)))
    kept &= ~((theta > np.deg2rad(280.5)) & (theta < np.deg2rad(290.5)))
    joined, angles, axis = stitch(as_rows(blobs(theta, COLUMNS, center))[kept], theta[kept], center)
    degrees = np.rad2deg(angles)
    expected = [d for d in range(180) if not 30.5 < d < 40.5 and not 100.5 < d < 110.5]
    np.testing.assert_allclose(degrees, expected, atol=1e-9)
    np.testing.assert_allclose(joined[:, 0, :-8], blobs(angles, joined.shape[2], axis)[:, :-8], atol=2e-3)


# --- rows -----------------------------------------------------------------------------------------------------------


def test_rows_come_out_the_same_alone_and_with_any_number_of_threads() -> None:
    projections, theta = noise((90, 7, COLUMNS)), full_turn(90) + np.linspace(0, 0.02, 90)
    for center in (150.27, 9.0):
        field = DoubleFieldOfView(theta, COLUMNS, center)
        threads = numba.get_num_threads()
        try:
            numba.set_num_threads(1)
            whole = field.join(projections)
        finally:
            numba.set_num_threads(threads)
        np.testing.assert_array_equal(field.join(projections), whole)
        for start, stop in ((0, 1), (2, 6)):
            np.testing.assert_array_equal(field.join(projections[:, start:stop]), whole[:, start:stop])
        assert whole.shape == (field.theta_rad.size, 7, field.columns)


def test_what_is_given_is_not_changed() -> None:
    projections = noise((20, 2, COLUMNS))
    before = projections.copy()
    stitch(projections, full_turn(20), 150.0)
    np.testing.assert_array_equal(projections, before)


# --- refused --------------------------------------------------------------------------------------------------------


def test_half_a_turn_is_refused() -> None:
    for theta in (np.linspace(0, math.pi, 90), np.linspace(0, 1.4 * math.pi, 90)):
        with pytest.raises(InputError, match=r"needs angles over 360 degrees.*set scan\.field_of_view=standard"):
            DoubleFieldOfView(theta, COLUMNS, 150.0)


@pytest.mark.parametrize("center", [-0.5, 159.5, math.nan])
def test_an_axis_beside_the_detector_is_refused(center: float) -> None:
    with pytest.raises(ParameterError, match=r"reconstruction\.center=.* outside the 160 columns"):
        DoubleFieldOfView(full_turn(90), COLUMNS, center)


def test_other_projections_than_announced_are_refused() -> None:
    field = DoubleFieldOfView(full_turn(90), COLUMNS, 150.0)
    for shape in ((89, 1, COLUMNS), (90, 1, COLUMNS - 1)):
        with pytest.raises(InputError, match="90 angles and 160 columns"):
            field.join(noise(shape))
