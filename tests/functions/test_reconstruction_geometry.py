"""Angular weights: every set of angles integrates the half circle."""

from __future__ import annotations

import numpy as np
import pytest

from tomopipe.functions.errors import InputError
from tomopipe.functions.reconstruction.geometry import MAX_GAP_STEPS, angular_weights, check_angles, circle_mask


@pytest.mark.parametrize(
    ("degrees", "angles"),
    [(180, 180), (180, 37), (360, 360), (360, 181), (-180, 90), (720, 720), (1080, 540)],
)
def test_even_steps_weigh_the_same(degrees: float, angles: int) -> None:
    theta = np.deg2rad(12.3 + np.arange(angles) * degrees / angles)
    np.testing.assert_allclose(angular_weights(theta), np.pi / angles, rtol=1e-9)


def test_both_ends_of_the_half_circle_share_one_arc() -> None:
    weights = angular_weights(np.deg2rad(np.linspace(0, 180, 181)))
    step = np.pi / 180
    np.testing.assert_allclose(weights[1:-1], step)
    np.testing.assert_allclose(weights[[0, -1]], step / 2)


def test_both_ends_of_the_full_circle_share_one_arc_with_the_opposite() -> None:
    weights = angular_weights(np.deg2rad(np.linspace(0, 360, 361)))
    step = np.pi / 180
    assert weights.sum() == pytest.approx(np.pi)
    np.testing.assert_allclose(weights[[0, 180, 360]], step / 3)
    np.testing.assert_allclose(weights[1:180], step / 2)


def test_jitter_of_a_full_circle_scan_hardly_matters() -> None:
    noise = np.random.default_rng(0).normal(0, 0.002, 720)
    weights = angular_weights(np.deg2rad(np.arange(720) * 0.5 + noise))
    assert weights.sum() == pytest.approx(np.pi)
    np.testing.assert_allclose(weights, np.pi / 720, rtol=0.05)


def test_interlaced_order_does_not_matter() -> None:
    theta = np.deg2rad(np.arange(0, 180, 0.5))
    interlaced = np.concatenate([theta[k::8] for k in (0, 4, 2, 6, 1, 5, 3, 7)])
    np.testing.assert_allclose(angular_weights(interlaced), np.pi / 360)


def test_full_circle_with_offset_second_half() -> None:
    # The second half falls at a tenth and nine tenths of the step: the median of the gaps says nothing here.
    theta = np.deg2rad(np.concatenate([np.arange(0, 180), np.arange(180, 360) + 0.11]))
    np.testing.assert_allclose(angular_weights(theta), np.pi / 360)


def test_uneven_steps_are_trapezoids() -> None:
    degrees = np.concatenate([np.arange(0, 90, 1), np.arange(90, 180, 2)])
    weights = np.rad2deg(angular_weights(np.deg2rad(degrees)))
    assert weights.sum() == pytest.approx(180)
    np.testing.assert_allclose(weights[1:90], 1)
    assert weights[90] == pytest.approx(1.5)
    np.testing.assert_allclose(weights[91:], 2)
    assert weights[0] == pytest.approx(1.5)


def test_missing_wedge_is_given_to_nobody() -> None:
    weights = np.rad2deg(angular_weights(np.deg2rad(np.arange(-60, 60.5, 0.5))))
    np.testing.assert_allclose(weights, 0.5)
    # Just below the limit it is a coarse step.
    degrees = np.concatenate([np.arange(0, 90), np.arange(89 + 0.99 * MAX_GAP_STEPS, 180)])
    assert angular_weights(np.deg2rad(degrees)).sum() == pytest.approx(np.pi)


def test_golden_angle_scan_is_whole() -> None:
    weights = angular_weights(np.arange(377) * np.pi * (np.sqrt(5) - 1) / 2)
    assert weights.sum() == pytest.approx(np.pi)
    assert weights.min() > 0.4 * np.pi / 377


def test_one_projection_stands_for_all() -> None:
    np.testing.assert_allclose(angular_weights([0.3]), np.pi)


@pytest.mark.parametrize("columns", [2, 3, 16, 17])
def test_circle_mask_is_the_disc_of_half_the_width(columns: int) -> None:
    expected = [
        [np.hypot(x - (columns - 1) / 2, y - (columns - 1) / 2) <= columns / 2 for x in range(columns)]
        for y in range(columns)
    ]
    np.testing.assert_array_equal(circle_mask(columns), expected)


@pytest.mark.parametrize(
    ("theta", "message"),
    [([], "shape"), ([[0.0, 1.0]], "shape"), ([0.0, np.nan, 1.0], r"theta\[1\] is nan"), ([0.0, 0.1], "3 projections")],
)
def test_unusable_angles_are_refused(theta: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_angles(theta, 3)  # type: ignore[arg-type]
