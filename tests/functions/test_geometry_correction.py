"""Straightened projections against pictures known in closed form, Algotom and SciPy; the same bits whatever the cut."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from tomopipe.functions.errors import InputError, ParameterError
from tomopipe.functions.preprocessing.geometry_correction import GeometryCorrection

QUICK = settings(max_examples=40, deadline=None)
# Of a lens that shrinks the corners of 96 x 128 pixels by some 3 %.
COEFFICIENTS = [1.0, -1e-5, -4e-6]
Plane = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]


def noise(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def blobs(y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """A scene that is smooth on the scale of pixels, known at any point (row, column)."""
    rng = np.random.default_rng(3)
    value = np.ones(np.broadcast_shapes(y.shape, x.shape))
    for row, column, depth in rng.uniform([10, 10, 0.1], [86, 118, 0.4], (25, 3)):
        value = value - depth * np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * 3.0**2))
    return value


def pixels(shape: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rows, columns = np.indices(shape, dtype=np.float64)
    return rows, columns


def undistorted(
    y: NDArray[np.float64], x: NDArray[np.float64], center: tuple[float, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where a distorted point belongs: the radius r with r (c0 + c1 r + ...) = distorted radius, by bisection."""
    dx, dy = x - center[0], y - center[1]
    wanted = np.hypot(dx, dy)
    low, high = 0.5 * wanted, 2.0 * wanted
    for _ in range(60):
        middle = (low + high) / 2
        below = sum(c * middle ** (i + 1) for i, c in enumerate(COEFFICIENTS)) < wanted
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    scale = np.divide(low, wanted, out=np.ones_like(low), where=wanted > 0)
    return center[1] + scale * dy, center[0] + scale * dx


def inner(picture: NDArray[Any], margin: int = 10) -> NDArray[Any]:
    return picture[..., margin:-margin, margin:-margin]


# --- truth ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tilt_deg", [1.5, -0.4])
def test_a_tilted_axis_is_upright_again(tilt_deg: float) -> None:
    """The axis' top leans to the left by a positive tilt: the scene turned counter-clockwise, as displayed."""
    shape = (96, 128)
    y, x = pixels(shape)
    middle_y, middle_x = (shape[0] - 1) / 2, (shape[1] - 1) / 2
    sine, cosine = math.sin(math.radians(tilt_deg)), math.cos(math.radians(tilt_deg))
    up, right = -(y - middle_y), x - middle_x
    # Seen counter-clockwise turned: a point of the picture shows what lay clockwise of it.
    scene_up, scene_right = cosine * up - sine * right, cosine * right + sine * up
    raw = blobs(middle_y - scene_up, middle_x + scene_right).astype(np.float32)[None]
    corrected = GeometryCorrection(shape, axis_tilt_deg=tilt_deg).apply(raw, 0, 0, shape[0])
    truth = blobs(y, x)
    assert np.abs(inner(raw[0] - truth)).max() > 0.02
    np.testing.assert_allclose(inner(corrected[0]), inner(truth), atol=1e-3)


def test_the_axis_of_a_tilted_scan_is_one_column_afterwards() -> None:
    """A wire on an axis that leans to the left at the top."""
    shape = (61, 81)
    y, x = pixels(shape)
    axis = 40 - (30 - y) * math.tan(math.radians(2.0))
    raw = (1 - 0.5 * np.exp(-0.5 * ((x - axis) * math.cos(math.radians(2.0)) / 2) ** 2)).astype(np.float32)
    corrected = GeometryCorrection(shape, axis_tilt_deg=2.0).apply(raw[None], 0, 0, 61)[0]
    dip = 1 - corrected[5:-5].astype(np.float64)
    np.testing.assert_allclose((dip * x[5:-5]).sum(1) / dip.sum(1), 40, atol=0.01)
    assert np.ptp(axis) > 2


@pytest.mark.parametrize("center", [None, (70.0, 40.5)])
def test_a_distorted_scene_is_straight_again(center: tuple[float, float] | None) -> None:
    shape = (96, 128)
    y, x = pixels(shape)
    raw = blobs(*undistorted(y, x, center or (63.5, 47.5))).astype(np.float32)[None]
    correction = GeometryCorrection(shape, distortion_coefficients=COEFFICIENTS, distortion_center_px=center)
    corrected = correction.apply(raw, 0, 0, 96)[0]
    assert np.abs(inner(raw[0] - blobs(y, x))).max() > 0.03
    np.testing.assert_allclose(inner(corrected), inner(blobs(y, x)), atol=1e-3)


@pytest.mark.parametrize("binning", [2, 4, 8])
def test_binned_pixels_of_a_tilted_distorted_scene_are_means_over_the_true_scene(binning: int) -> None:
    """Distortion by the lens of a scene whose axis leans: undone together, and averaged."""
    shape = (96, 128)
    y, x = undistorted(*pixels(shape), (60.0, 50.0))
    sine, cosine = math.sin(math.radians(1.0)), math.cos(math.radians(1.0))
    raw = blobs(47.5 + cosine * (y - 47.5) + sine * (x - 63.5), 63.5 + cosine * (x - 63.5) - sine * (y - 47.5)).astype(
        np.float32
    )
    correction = GeometryCorrection(
        shape,
        binning=binning,
        axis_tilt_deg=1.0,
        distortion_coefficients=COEFFICIENTS,
        distortion_center_px=(60.0, 50.0),
    )
    corrected = correction.apply(raw[None], 0, 0, 96 // binning)[0]
    truth = blobs(*pixels(shape)).reshape(96 // binning, binning, 128 // binning, binning).mean((1, 3))
    np.testing.assert_allclose(inner(corrected, 16 // binning), inner(truth, 16 // binning), atol=1e-3)


@given(
    rows=st.integers(8, 30),
    columns=st.integers(8, 30),
    binning=st.sampled_from([2, 4, 8]),
    angles=st.integers(1, 5),
    seed=st.integers(0, 99),
)
@QUICK
def test_binning_alone_is_the_mean_of_blocks(rows: int, columns: int, binning: int, angles: int, seed: int) -> None:
    raw = noise((angles, rows, columns), seed)
    correction = GeometryCorrection((rows, columns), binning=binning)
    down, across = correction.output_shape
    assert (down, across) == (rows // binning, columns // binning)
    blocks = raw[:, : down * binning, : across * binning].reshape(angles, down, binning, across, binning)
    np.testing.assert_allclose(correction.apply(raw, 0, 0, down), blocks.mean((2, 4)), rtol=1e-6)


def test_algotom_unwarps_to_the_same_picture() -> None:
    """Its linear interpolation and our cubic one differ where the scene is curved, by little on a smooth scene."""
    algotom = pytest.importorskip("algotom.prep.correction", reason="algotom is not installed")
    shape = (96, 128)
    raw = ndimage.gaussian_filter(noise(shape).astype(np.float64), 4).astype(np.float32)
    corrected = GeometryCorrection(
        shape, distortion_coefficients=COEFFICIENTS, distortion_center_px=(70.0, 40.5)
    ).apply(raw[None], 0, 0, 96)[0]
    theirs = algotom.unwarp_projection(raw, 70.0, 40.5, COEFFICIENTS)
    assert np.abs(inner(raw - theirs)).max() > 10 * np.abs(inner(corrected - theirs)).max()
    np.testing.assert_allclose(inner(corrected), inner(theirs), atol=5e-3 * np.ptp(raw))


def test_a_quadratic_picture_is_interpolated_exactly_and_its_edges_go_on() -> None:
    """Keys' kernel reproduces polynomials of second degree; beyond the picture its edge is repeated."""
    shape = (40, 50)
    y, x = pixels(shape)

    def scene(y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
        return 1 + 1e-3 * x - 2e-3 * y + 1e-4 * x * x + 2e-4 * x * y - 1e-4 * y * y

    raw = scene(y, x).astype(np.float32)[None]
    sine, cosine = math.sin(math.radians(3.0)), math.cos(math.radians(3.0))
    from_y = 19.5 + cosine * (y - 19.5) - sine * (x - 24.5)
    from_x = 24.5 + cosine * (x - 24.5) + sine * (y - 19.5)
    corrected = GeometryCorrection(shape, axis_tilt_deg=3.0).apply(raw, 0, 0, 40)[0]
    inside = (from_y >= 1) & (from_y <= 38) & (from_x >= 1) & (from_x <= 48)
    np.testing.assert_allclose(corrected[inside], scene(from_y, from_x)[inside], rtol=1e-6)
    constant = GeometryCorrection(shape, axis_tilt_deg=3.0).apply(np.ones((1, 40, 50), np.float32), 0, 0, 40)
    np.testing.assert_allclose(constant, 1, rtol=1e-6)
    # to the left of the picture, along its edge
    beyond = (from_x < 0) & (from_y > 2) & (from_y < 37)
    assert beyond.any()
    np.testing.assert_allclose(corrected[beyond], scene(from_y, 0 * from_x)[beyond], rtol=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_a_scan_of_few_rows_goes_on_with_its_edges(rows: int) -> None:
    """As if its first and last row were repeated; and what lies behind it in memory does not count."""
    few = np.full((2, rows, 40), np.nan, np.float32)
    few[0] = noise((rows, 40))
    many = np.pad(few[:1], ((0, 0), (10, 10), (0, 0)), mode="edge")
    corrected = GeometryCorrection((rows, 40), axis_tilt_deg=5.0).apply(few[:1], 0, 0, rows)
    expected = GeometryCorrection((rows + 20, 40), axis_tilt_deg=5.0).apply(many, 0, 10, 10 + rows)
    down, across = pixels((rows, 40))
    middle = (rows - 1) / 2
    turn = math.radians(5.0)
    from_y = middle + math.cos(turn) * (down - middle) - math.sin(turn) * (across - 19.5)
    inside = (from_y >= 0) & (from_y <= rows - 1)
    assert inside.any() or rows == 1
    np.testing.assert_allclose(corrected[0][inside], expected[0][inside], atol=1e-6)
    assert np.isfinite(corrected).all()


def test_a_region_is_corrected_as_the_whole_detector_is() -> None:
    raw = noise((2, 80, 100))
    lens: dict[str, Any] = {
        "axis_tilt_deg": 0.7, "distortion_coefficients": COEFFICIENTS, "distortion_center_px": (45.0, 38.0)
    }  # fmt: skip
    whole = GeometryCorrection((80, 100), **lens).apply(raw, 0, 0, 80)
    part = GeometryCorrection((50, 70), **lens, detector_shape=(80, 100), origin=(20, 10))
    region = part.apply(np.ascontiguousarray(raw[:, 20:70, 10:80]), 0, 0, 50)
    np.testing.assert_allclose(inner(region, 5), inner(whole[:, 20:70, 10:80], 5), atol=1e-6)


# --- rows -----------------------------------------------------------------------------------------------------------


@st.composite
def corrections(draw: st.DrawFn) -> GeometryCorrection:
    binning = draw(st.sampled_from([1, 1, 2, 4]))
    rows, columns = draw(st.integers(binning, 40)), draw(st.integers(max(8, binning), 60))
    warps = draw(st.booleans())
    return GeometryCorrection(
        (rows, columns),
        binning=binning,
        axis_tilt_deg=draw(st.sampled_from([-5.0, -0.1, 0.3, 8.0])) if warps else 0.0,
        distortion_coefficients=draw(st.sampled_from([[], [1.01, 2e-5], COEFFICIENTS])) if warps else [],
        distortion_center_px=draw(st.sampled_from([None, (10.0, 3.0)])),
    )


@given(correction=corrections(), data=st.data())
@QUICK
def test_rows_come_out_the_same_from_the_rows_that_they_reach(
    correction: GeometryCorrection, data: st.DataObject
) -> None:
    """To the bit, in any cut, from exactly the raw rows that `reach` names or more, and with any number of threads."""
    raw = noise((3, *correction.shape))
    rows = correction.output_shape[0]
    start = data.draw(st.integers(0, rows - 1))
    stop = data.draw(st.integers(start + 1, rows))
    low, high = correction.reach(start, stop)
    more = data.draw(st.integers(0, low)), data.draw(st.integers(high, correction.shape[0]))
    threads = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        whole = correction.apply(raw, 0, 0, rows)
    finally:
        numba.set_num_threads(threads)
    for first, last in ((low, high), more):
        piece = correction.apply(np.ascontiguousarray(raw[:, first:last]), first, start, stop)
        np.testing.assert_array_equal(piece, whole[:, start:stop])


def test_reach_is_no_more_than_the_tilt_and_the_kernel_ask_for() -> None:
    correction = GeometryCorrection((400, 101), axis_tilt_deg=2.0)
    lift = 50 * math.sin(math.radians(2.0))
    low, high = correction.reach(200, 210)
    assert 200 - lift - 4 < low < 200 - lift
    assert 209 + lift + 1 < high < 209 + lift + 5
    assert GeometryCorrection((400, 101), binning=4).reach(3, 5) == (12, 20)
    assert GeometryCorrection((400, 101)).reach(3, 5) == (3, 5)
    assert correction.reach(7, 7)[0] == correction.reach(7, 7)[1]


def test_each_projection_is_corrected_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tomopipe.functions.preprocessing.geometry_correction._ANGLES_A_TASK", 3)
    raw = noise((10, 30, 40))
    for lens in ({"axis_tilt_deg": 1.0}, {"binning": 2}):
        correction = GeometryCorrection((30, 40), **lens)
        together = correction.apply(raw, 0, 0, correction.output_shape[0])
        for angle in range(10):
            alone = correction.apply(raw[angle : angle + 1], 0, 0, correction.output_shape[0])
            np.testing.assert_array_equal(alone[0], together[angle])


@pytest.mark.parametrize("lens", [{}, {"distortion_coefficients": [1.0]}, {"distortion_coefficients": [1.0, 0.0]}])
def test_nothing_to_correct_costs_nothing(lens: dict[str, Any]) -> None:
    correction = GeometryCorrection((20, 30), **lens)
    assert correction.is_identity
    raw = noise((2, 10, 30))
    rows = correction.apply(raw, 5, 7, 12)
    assert np.shares_memory(rows, raw)
    np.testing.assert_array_equal(rows, raw[:, 2:7])
    for other in ({"binning": 2}, {"axis_tilt_deg": 0.01}, {"distortion_coefficients": [1.0, 1e-6]}):
        assert not GeometryCorrection((20, 30), **other).is_identity


# --- refused --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lens", "found"),
    [
        ({"binning": 3}, r"scan\.binning=3: give one of 1, 2, 4, 8"),
        ({"binning": 0}, r"scan\.binning=0"),
        ({"binning": 8, "shape": (4, 100)}, r"scan\.binning=8: the 4 x 100 pixels .* use more rows"),
        (
            {"distortion_coefficients": [1e-5, 1.0]},
            r"scan\.distortion_coefficients=\[1e-05, 1.0\]: would stretch .* fold",
        ),
        ({"distortion_coefficients": [1.0, -0.01]}, r"scan\.distortion_coefficients"),
        ({"distortion_coefficients": [1.0, 0.02]}, r"scan\.distortion_coefficients"),
        ({"distortion_coefficients": [1.0, 0.0, 6e-5]}, r"scan\.distortion_coefficients"),
        ({"distortion_coefficients": [math.nan]}, r"scan\.distortion_coefficients"),
        ({"axis_tilt_deg": 90.0}, r"scan\.axis_tilt_deg=90"),
        ({"axis_tilt_deg": math.nan}, r"scan\.axis_tilt_deg=nan"),
        ({"axis_tilt_deg": 1.0, "shape": (9, 3)}, r"scan\.columns: 3 columns are too few"),
    ],
)
def test_what_is_no_small_correction_is_refused(lens: dict[str, Any], found: str) -> None:
    with pytest.raises(ParameterError, match=found) as caught:
        GeometryCorrection(lens.pop("shape", (100, 120)), **lens)
    assert "\n" not in str(caught.value)


def test_rows_that_are_missing_are_named() -> None:
    correction = GeometryCorrection((30, 40), axis_tilt_deg=3.0)
    low, high = correction.reach(10, 12)
    raw = noise((1, 30, 40))
    for first, last in ((low + 1, high), (low, high - 1)):
        with pytest.raises(
            InputError, match=f"rows {low}:{high} and 40 columns are needed for the corrected rows 10:12"
        ):
            correction.apply(raw[:, first:last], first, 10, 12)
    with pytest.raises(InputError, match="39 columns"):
        correction.apply(raw[:, :, :39], 0, 10, 12)
    with pytest.raises(ValueError, match="rows 20:31 lie outside 0:30"):
        correction.apply(raw, 0, 20, 31)
