"""Slices against closed forms, an independent exact sum, another package, and themselves however they are cut."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import h5py
import numba
import numpy as np
import numpy.typing as npt
import pytest

from tomopipe.functions.errors import InputError, ParameterError
from tomopipe.functions.reconstruction import threads
from tomopipe.functions.reconstruction.direct import circle_columns, padded_length
from tomopipe.functions.reconstruction.engines import Reconstructor, get_engine
from tomopipe.functions.reconstruction.filters import FILTERS, ramp_filter
from tomopipe.functions.reconstruction.geometry import angular_weights, circle_mask
from tomopipe.functions.reconstruction.settings import ReconstructionSettings

Array = npt.NDArray[np.float64]
NATIVE = get_engine("native")
METHODS = ("fbp", "fourierrec")

# Value, half axes, centre (parts of the slice's half width; x right, y up), turn in degrees: a head with details.
ELLIPSES = (
    (1.0, 0.656, 0.874, 0.0, 0.0, 0.0),
    (-0.8, 0.629, 0.83, 0.0, -0.0175, 0.0),
    (-0.2, 0.105, 0.295, 0.209, 0.0, -18.0),
    (-0.2, 0.152, 0.39, -0.209, 0.0, 18.0),
    (0.1, 0.2, 0.238, 0.0, 0.333, 0.0),
    (0.1, 0.044, 0.044, 0.0, 0.095, 0.0),
    (0.3, 0.019, 0.019, 0.333, 0.333, 0.0),
    (-0.2, 0.014, 0.029, -0.333, 0.428, 30.0),
)


def ellipse_projections(theta: Array, columns: int, center: float, ellipses: tuple[tuple[float, ...], ...]) -> Array:
    """Exact line integrals averaged over four parts of each detector pixel: (angles, columns), contrast 1/pixel."""
    half = columns / 2
    projections = np.zeros((theta.size, columns))
    for shift in (-0.375, -0.125, 0.125, 0.375):
        t = np.arange(columns) - center + shift
        for value, a, b, x, y, turn in ellipses:
            angle = theta - np.deg2rad(turn)
            reach = ((a * np.cos(angle)) ** 2 + (b * np.sin(angle)) ** 2)[:, None] * half**2
            distance = t - (x * np.cos(theta) + y * np.sin(theta))[:, None] * half
            chord = np.sqrt(np.maximum(reach - distance**2, 0))
            projections += 0.25 * 2 * value * a * b * half**2 * chord / reach
    return projections


def ellipse_slice(columns: int, ellipses: tuple[tuple[float, ...], ...]) -> Array:
    """The ellipses' values averaged over 16 points of each pixel."""
    image = np.zeros((columns, columns))
    points = (np.arange(4 * columns) + 0.5) / 4 - columns / 2
    x, y = points[None, :], -points[:, None]
    for value, a, b, x0, y0, turn in ellipses:
        c, s = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
        u = ((x - x0 * columns / 2) * c + (y - y0 * columns / 2) * s) / a
        v = (-(x - x0 * columns / 2) * s + (y - y0 * columns / 2) * c) / b
        inside = u * u + v * v <= (columns / 2) ** 2
        image += value * inside.reshape(columns, 4, columns, 4).mean((1, 3))
    return image


def gaussian_projections(theta: Array, columns: int, center: float, x: float, y: float, sigma: float) -> Array:
    """Line integrals of exp(-r^2 / (2 sigma^2)) about (x, y) pixels from the rotation axis."""
    t = np.arange(columns) - center - (x * np.cos(theta) + y * np.sin(theta))[:, None]
    return np.sqrt(2 * np.pi) * sigma * np.exp(-(t**2) / (2 * sigma**2))


def gaussian_slice(columns: int, x: float, y: float, sigma: float) -> Array:
    middle = (columns - 1) / 2
    across = np.arange(columns) - middle - x
    up = middle - np.arange(columns) - y
    return np.exp(-(across[None, :] ** 2 + up[:, None] ** 2) / (2 * sigma**2))


def within(columns: int, part: float) -> npt.NDArray[np.bool_]:
    r = np.arange(columns) - (columns - 1) / 2
    return r[:, None] ** 2 + r[None, :] ** 2 <= (part * columns / 2) ** 2


def half_circle(angles: int) -> Array:
    return np.arange(angles) * np.pi / angles


def rows_of(*sinograms: Array) -> npt.NDArray[np.float32]:
    return np.stack(sinograms, axis=1).astype(np.float32)


def prepare(
    theta: Array,
    columns: int,
    center: float | Array | None = None,
    *,
    algorithm: str,
    filter_name: str = "ramp",
    padding: str = "edge",
) -> Reconstructor:
    settings = ReconstructionSettings(algorithm=algorithm, filter_name=filter_name, padding=padding)
    return NATIVE.prepare(theta, columns, center, settings=settings)


def reconstruct(
    projections: npt.NDArray[np.float32],
    theta: Array,
    center: float | Array,
    algorithm: str,
    filter_name: str = "ramp",
    padding: str = "zero",
) -> npt.NDArray[np.float32]:
    columns = projections.shape[-1]
    return prepare(theta, columns, center, algorithm=algorithm, filter_name=filter_name, padding=padding)(projections)


def rmse(difference: Array) -> float:
    return float(np.sqrt(np.mean(np.square(difference, dtype=np.float64))))


# --- values and conventions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", METHODS)
@pytest.mark.parametrize(
    ("columns", "center", "degrees"),
    [
        (128, 63.5, np.arange(0, 180, 1.0)),
        (127, 63.0, np.arange(0, 180, 1.0)),
        (128, 57.3, np.arange(0, 360, 1.0)),
        (129, 70.81, np.linspace(0, 180, 181)),
        (128, 66.0, 200 + np.concatenate([np.arange(0, 90, 0.8), np.arange(90, 180, 1.25)])[::-1]),
    ],
)
def test_a_disc_of_one_reads_one(algorithm: str, columns: int, center: float, degrees: Array) -> None:
    theta = np.deg2rad(degrees)
    disc = ((1.0, 0.7, 0.7, 0.1, -0.05, 0.0),)
    image = reconstruct(rows_of(ellipse_projections(theta, columns, center, disc)), theta, center, algorithm)[0]
    truth = ellipse_slice(columns, disc)
    inner = ellipse_slice(columns, ((1.0, 0.6, 0.6, 0.1, -0.05, 0.0),)) == 1
    assert abs(image[inner].mean() - 1) < 1e-3
    assert abs((image - truth)[within(columns, 0.95)].mean()) < 1e-3
    outside = ~within(columns, 1.0)
    assert not image[outside].any()


@pytest.mark.parametrize("algorithm", METHODS)
@pytest.mark.parametrize(("columns", "center"), [(96, 47.5), (95, 47.0), (96, 42.37), (97, 55.1)])
def test_every_pixel_stands_where_the_convention_says(algorithm: str, columns: int, center: float) -> None:
    """An off-centre blob, band limited for the grid: Fourier gridding has position, orientation and height exactly."""
    theta = half_circle(150)
    x, y, sigma = 17.25, -9.6, 2.5
    image = reconstruct(rows_of(gaussian_projections(theta, columns, center, x, y, sigma)), theta, center, algorithm)[0]
    error = np.abs(image - gaussian_slice(columns, x, y, sigma))[within(columns, 0.85)].max()
    assert error < (0.03 if algorithm == "fbp" else 3e-5)
    row, column = np.unravel_index(np.argmax(image), image.shape)
    middle = (columns - 1) / 2
    assert abs(column - (middle + x)) <= 0.5
    assert abs(row - (middle - y)) <= 0.5


@pytest.mark.parametrize("algorithm", METHODS)
def test_each_row_may_have_its_own_center(algorithm: str) -> None:
    theta = half_circle(90)
    centers = 31.5 + np.array([0.0, 0.4, -3.7, 8.05, 0.0])
    projections = rows_of(*(gaussian_projections(theta, 64, c, 5.0, 11.0, 2.5) for c in centers))
    prepared = prepare(theta, 64, 12.0, algorithm=algorithm, padding="zero")
    images = prepared(projections, center=centers)
    truth = gaussian_slice(64, 5.0, 11.0, 2.5)
    for image, center, row in zip(images, centers, range(5), strict=True):
        assert np.abs(image - truth)[within(64, 0.7)].max() < 0.05
        np.testing.assert_array_equal(image, prepared(projections[:, row : row + 1], center=float(center))[0])
    # A center that is wrong is seen: the test has teeth.
    wrong = prepared(projections[:, :1], center=32.5)[0]
    assert np.abs(wrong - truth).max() > 0.1


def exact_slice(sinogram: Array, theta: Array, center: float, filter_name: str) -> Array:
    """What Fourier gridding approximates, in double precision: filtered lines, interpolated trigonometrically."""
    columns = sinogram.shape[1]
    length = padded_length(columns)
    spectra = np.fft.rfft(sinogram, n=length, axis=1) * ramp_filter(length, filter_name)
    frequency = np.arange(length // 2 + 1)
    sides = np.where((frequency == 0) | (frequency == length // 2), 1, 2)
    r = np.arange(columns) - (columns - 1) / 2
    image = np.zeros((columns, columns))
    for spectrum, angle, weight in zip(spectra, theta, angular_weights(theta), strict=True):
        t = r[None, :] * np.cos(angle) - r[:, None] * np.sin(angle) + center
        waves = np.exp(2j * np.pi / length * t[..., None] * frequency)
        image += weight / length * (waves @ (spectrum * sides)).real
    return np.where(within(columns, 1.0), image, 0.0)


@pytest.mark.parametrize("columns", [2, 5, 32, 33])
def test_fourier_gridding_is_the_exact_sum(columns: int) -> None:
    """White noise at irregular angles all around: the kernel's folding, the axes and the corners of the spectrum."""
    random = np.random.default_rng(columns)
    theta = np.concatenate([[0, np.pi / 2, np.pi, -np.pi / 2], random.uniform(-4, 9, 40)])
    sinogram = random.normal(size=(theta.size, columns))
    center = 0.47 * columns
    expected = exact_slice(sinogram.astype(np.float32).astype(float), theta, center, "ramp")
    image = reconstruct(rows_of(sinogram), theta, center, "gridrec")[0]
    assert rmse(image - expected) < 3e-4 * rmse(expected)


def test_unfiltered_backprojection_is_interpolation() -> None:
    random = np.random.default_rng(1)
    theta = random.uniform(0, 6, 20)
    sinogram = random.normal(size=(20, 41)).astype(np.float32)
    image = reconstruct(rows_of(sinogram), theta, 22.0, "fbp", "none")[0]
    r = np.arange(41) - 20.0
    expected = np.zeros((41, 41))
    for line, angle, weight in zip(sinogram, theta, angular_weights(theta), strict=True):
        t = r[None, :] * np.cos(angle) - r[:, None] * np.sin(angle) + 22.0
        expected += weight * np.interp(t, np.arange(-1, 42), np.concatenate([[0], line, [0]]))
    np.testing.assert_allclose(image[within(41, 1.0)], expected[within(41, 1.0)], atol=2e-5)


# --- accuracy ---------------------------------------------------------------------------------------------------------


def phantom_error(columns: int, angles: int, center: float, algorithm: str) -> float:
    theta = half_circle(angles)
    projections = rows_of(ellipse_projections(theta, columns, center, ELLIPSES))
    image = reconstruct(projections, theta, center, algorithm)[0]
    return rmse((image - ellipse_slice(columns, ELLIPSES))[within(columns, 0.95)])


# Measured: fbp 0.0322 and 0.0332, Fourier 0.0235 and 0.0233.
@pytest.mark.parametrize(("algorithm", "bound"), [("fbp", 0.035), ("fourierrec", 0.025)])
@pytest.mark.parametrize(("columns", "center"), [(128, 63.5), (127, 61.2)])
def test_phantom(algorithm: str, bound: float, columns: int, center: float) -> None:
    assert phantom_error(columns, 180, center, algorithm) < bound


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "bound"), [("fbp", 0.0160), ("fourierrec", 0.0145)])
def test_large_phantom(algorithm: str, bound: float) -> None:
    assert phantom_error(512, 720, 255.5, algorithm) < bound


def ripple_projections(theta: Array, columns: int, direction: float, frequency: float, sigma: float) -> Array:
    """Line integrals of exp(-r^2 / (2 sigma^2)) cos(2 pi frequency r along `direction`), in the middle."""
    t = np.arange(columns) - (columns - 1) / 2
    along = frequency * np.cos(theta - direction)[:, None]
    across = frequency * np.sin(theta - direction)[:, None]
    blob = np.sqrt(2 * np.pi) * sigma * np.exp(-(t**2) / (2 * sigma**2))
    return blob * np.cos(2 * np.pi * along * t) * np.exp(-2 * (np.pi * sigma * across) ** 2)


@pytest.mark.parametrize("algorithm", METHODS)
@pytest.mark.parametrize("order", ["rising", "shuffled"])
def test_a_missing_wedge_changes_nothing_that_was_measured(algorithm: str, order: str) -> None:
    """A ripple whose frequencies all lie in the measured 120 degrees has its height, one in the wedge is not there."""
    theta = np.deg2rad(np.arange(0, 120, 0.75))
    if order == "shuffled":
        theta = np.random.default_rng(0).permutation(theta) + np.pi * (np.arange(theta.size) % 2)
    for direction, height in ((60.0, 1.0), (150.0, 0.0)):
        projections = rows_of(ripple_projections(theta, 97, np.deg2rad(direction), 0.1, 11.0))
        image = reconstruct(projections, theta, 48.0, algorithm)[0]
        assert image[48, 48] == pytest.approx(height, abs=0.035 if algorithm == "fbp" else 0.005)


def test_methods_agree() -> None:
    theta = half_circle(240)
    projections = rows_of(gaussian_projections(theta, 128, 60.2, -20.0, 14.0, 4.0))
    difference = reconstruct(projections, theta, 60.2, "fbp") - reconstruct(projections, theta, 60.2, "fourierrec")
    assert np.abs(difference)[0][within(128, 0.85)].max() < 0.012


# algotom's filtered backprojection is the same method. Its origin for even widths is another.
@pytest.mark.parametrize(("algorithm", "bound"), [("fbp", 0.003), ("fourierrec", 0.03)])
def test_agrees_with_algotom(algorithm: str, bound: float) -> None:
    algotom = pytest.importorskip("algotom.rec.reconstruction", exc_type=ImportError)
    theta = half_circle(181)
    sinogram = ellipse_projections(theta, 127, 62.0, ELLIPSES).astype(np.float32)
    image = reconstruct(rows_of(sinogram), theta, 62.0, algorithm, "ramp", "edge")[0]
    other = algotom.fbp_reconstruction(
        sinogram, 62.0, angles=theta, filter_name=None, apply_log=False, gpu=False, ncore=1
    )
    assert rmse((image - other)[within(127, 0.9)]) < bound


@pytest.mark.parametrize("algorithm", METHODS)
def test_edge_padding_fills_what_lies_beside_the_detector(algorithm: str) -> None:
    theta = half_circle(180)
    # The same everywhere, also beside the detector: only the ramp's mean is left, and no rim.
    flat = np.full((180, 1, 128), 2.0, dtype=np.float32)
    image = reconstruct(flat, theta, 61.3, algorithm, "ramp", "edge")[0]
    mean = 2.0 * np.pi * ramp_filter(padded_length(128), "ramp")[0]
    np.testing.assert_allclose(image[within(128, 1.0)], mean, rtol=5e-3)
    # A disc wider than the detector: zeros beside it make a bright rim, its edge values do not.
    t = np.arange(128) - 63.5
    wide = rows_of(np.broadcast_to(2 * np.sqrt(90.0**2 - t**2), (180, 128)))
    rim = within(128, 0.95) & ~within(128, 0.9)
    rims = {}
    for padding in ("edge", "zero"):
        image = reconstruct(wide, theta, 63.5, algorithm, "ramp", padding)[0]
        rims[padding] = image[rim].mean() / image[within(128, 0.2)].mean()
    assert rims["zero"] > 1.3
    assert 0.6 < rims["edge"] < 1


def test_each_edge_is_padded_with_its_own_value() -> None:
    line = np.linspace(3.0, 5.0, 41)
    column = np.arange(41) - 20.0
    for center in (8.0, 20.0, 33.0):
        image = reconstruct(rows_of(line[None]), np.zeros(1), center, "fbp", "none", "edge")[0]
        np.testing.assert_allclose(image[20], np.pi * np.interp(column + center, np.arange(41), line), rtol=1e-5)


@pytest.mark.parametrize("algorithm", METHODS)
def test_filters_smooth_in_their_order(algorithm: str) -> None:
    random = np.random.default_rng(2)
    theta = half_circle(90)
    noise = rows_of(random.normal(size=(90, 64)))
    disc = ((1.0, 0.7, 0.7, 0.0, 0.0, 0.0),)
    clean = rows_of(ellipse_projections(theta, 64, 31.5, disc))
    deviations = []
    for name in FILTERS:
        if name in ("none", "butterworth"):  # butterworth's place depends on its cut-off
            continue
        deviations.append(float(reconstruct(noise, theta, 31.5, algorithm, name)[0][within(64, 0.9)].std()))
        image = reconstruct(clean, theta, 31.5, algorithm, name)[0]
        assert abs(image[within(64, 0.5)].mean() - 1) < 3e-3
    assert deviations == sorted(deviations, reverse=True)
    # Linear interpolation takes away from noise what the sharp filters let through.
    assert deviations[0] > 2 * deviations[-1]
    blurred = reconstruct(clean, theta, 31.5, algorithm, "none")[0]
    assert blurred[within(64, 0.2)].mean() > 50


# --- invariances ------------------------------------------------------------------------------------------------------


def noisy_rows(rows: int, columns: int = 48, angles: int = 37) -> npt.NDArray[np.float32]:
    return np.random.default_rng(3).normal(size=(angles, rows, columns)).astype(np.float32)


@pytest.mark.parametrize("algorithm", METHODS)
def test_linear(algorithm: str) -> None:
    one, two = noisy_rows(2).transpose(1, 0, 2)[:, :, None, :]
    theta = half_circle(37)
    parts = 2 * reconstruct(one, theta, 23.1, algorithm) + reconstruct(two, theta, 23.1, algorithm)
    np.testing.assert_allclose(reconstruct(2 * one + two, theta, 23.1, algorithm), parts, atol=1e-5)


@pytest.mark.parametrize("columns", [48, 47])
@pytest.mark.parametrize("algorithm", METHODS)
def test_bits_do_not_depend_on_the_rows_beside(algorithm: str, columns: int) -> None:
    projections = noisy_rows(37, columns)
    prepared = prepare(half_circle(37), columns, 23.1, algorithm=algorithm)
    whole = prepared(projections)
    for step in (1, 5, 32, 35):
        for first in range(0, 37, step):
            np.testing.assert_array_equal(
                whole[first : first + step], prepared(projections[:, first : first + step]), strict=True
            )


@pytest.mark.parametrize("algorithm", METHODS)
def test_bits_do_not_depend_on_threads(algorithm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    projections = noisy_rows(9, 200, 61)
    prepared = prepare(half_circle(61), 200, 101.7, algorithm=algorithm)
    images = []
    for count in (1, 2, 5):
        monkeypatch.setattr(threads, "thread_count", lambda count=count: count)
        images.append(prepared(projections))
    for image in images[1:]:
        np.testing.assert_array_equal(images[0], image)


def test_thread_count_is_numbas_setting() -> None:
    before = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        assert threads.thread_count() == 1
        callers = set()
        threads.run_in_threads(lambda _: callers.add(threading.get_ident()), 5)
        assert callers == {threading.get_ident()}
    finally:
        numba.set_num_threads(before)
    assert threads.thread_count() == before


def test_an_exception_in_a_thread_is_raised() -> None:
    done = []

    def task(index: int) -> None:
        if index == 3:
            raise ValueError("piece 3")
        done.append(index)

    with pytest.raises(ValueError, match="piece 3"):
        threads.run_in_threads(task, 6)
    assert 3 not in done


@pytest.mark.parametrize("algorithm", METHODS)
def test_callers_in_two_threads_do_not_meet(algorithm: str) -> None:
    projections = noisy_rows(40)
    prepared = prepare(half_circle(37), 48, 23.1, algorithm=algorithm)
    expected = prepared(projections)
    images: dict[int, npt.NDArray[np.float32]] = {}
    callers = [threading.Thread(target=lambda k=k: images.update({k: prepared(projections)})) for k in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(images) == 3
    for image in images.values():
        np.testing.assert_array_equal(expected, image)


@pytest.mark.parametrize("algorithm", METHODS)
def test_a_broken_row_breaks_no_other(algorithm: str) -> None:
    projections = noisy_rows(4)
    theta = half_circle(37)
    whole = reconstruct(projections, theta, 23.1, algorithm)
    projections[5, 1, 7] = np.nan
    broken = reconstruct(projections, theta, 23.1, algorithm)
    np.testing.assert_array_equal(whole[[0, 2, 3]], broken[[0, 2, 3]])
    assert np.isnan(broken[1]).any()


@pytest.mark.parametrize("algorithm", METHODS)
def test_memory_layout_does_not_matter(algorithm: str) -> None:
    projections = noisy_rows(3)
    theta = half_circle(37)
    expected = reconstruct(projections, theta, 23.1, algorithm)
    kept = projections.copy()
    strided = np.ascontiguousarray(projections.transpose(1, 0, 2)).transpose(1, 0, 2)
    for other in (strided, projections.astype(np.float64), np.asfortranarray(projections)):
        np.testing.assert_array_equal(expected, reconstruct(other, theta, 23.1, algorithm))
    np.testing.assert_array_equal(kept, projections)


def test_circle() -> None:
    for columns in (2, 3, 16, 17, 100):
        limits = circle_columns(columns)
        inside = np.arange(columns)[None, :]
        inside = (inside >= limits[:, :1]) & (inside < limits[:, 1:])
        np.testing.assert_array_equal(inside, within(columns, 1.0))
        np.testing.assert_array_equal(circle_mask(columns), within(columns, 1.0))


# --- one engine, many names -------------------------------------------------------------------------------------------


def test_gridrec_is_fourierrec() -> None:
    projections = noisy_rows(1)
    images = [reconstruct(projections, half_circle(37), 23.1, name) for name in ("gridrec", "fourierrec")]
    np.testing.assert_array_equal(*images)


def test_no_rows_give_no_slices() -> None:
    assert reconstruct(noisy_rows(1)[:, :0], half_circle(37), 23.1, "fbp").shape == (0, 48, 48)


@pytest.mark.parametrize("algorithm", METHODS)
def test_memory_estimate_holds(algorithm: str) -> None:
    angles, rows, columns = 180, 40, 256
    projections = noisy_rows(rows, columns, angles)
    prepared = prepare(half_circle(angles), columns, 127.5, algorithm=algorithm)
    prepared(projections[:, :1])  # compiled and loaded
    tracemalloc.start()
    prepared(projections)
    peak = tracemalloc.get_traced_memory()[1] + projections.nbytes
    tracemalloc.stop()
    settings = ReconstructionSettings(algorithm=algorithm)
    estimate = NATIVE.fixed_memory_bytes(angles, columns, settings)
    estimate += 4 * rows * columns * (angles + columns)  # projections and slices
    assert 0.4 * estimate < peak < estimate
    assert NATIVE.rows_per_batch(settings) in (8, 16, 32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"algorithm": "lprec"}, "reconstruction.algorithm is 'lprec'; the engine native offers cgls, fbp, fourierrec"),
        ({"filter_name": "butter"}, "reconstruction.filter is 'butter'"),
        ({"padding": "wrap"}, "reconstruction.padding is 'wrap'"),
        ({"center": 48.0}, "reconstruction.center is 48.0; it must lie on the detector, 0 to 47"),
        ({"center": np.nan}, "reconstruction.center is nan"),
        ({"center": np.array([23.0, 23.0])}, r"reconstruction.center has shape \(2,\)"),
        ({"center": None}, "reconstruction.center is missing"),
    ],
)
def test_unusable_parameters_are_refused(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"center": 23.1, "algorithm": "fbp"} | change
    with pytest.raises(ParameterError, match=message):
        reconstruct(noisy_rows(3), half_circle(37), **arguments)  # type: ignore[arg-type]


def test_unusable_projections_are_refused() -> None:
    with pytest.raises(InputError, match=r"\(37, 3, 48\).*36 angles"):
        reconstruct(noisy_rows(3), half_circle(36), 23.1, "fbp")
    with pytest.raises(InputError, match="1 columns wide"):
        prepare(half_circle(3), 1, algorithm="fbp")


# --- real scans -------------------------------------------------------------------------------------------------------


def line_integrals(path: Path, rows: slice) -> tuple[npt.NDArray[np.float32], Array]:
    with h5py.File(path) as file:
        exchange = file["exchange"]
        raw = exchange["data"][:, rows].astype(np.float32)
        flat = exchange["data_white"][:, rows].astype(np.float32).mean(axis=0)
        dark = exchange["data_dark"][:, rows].astype(np.float32).mean(axis=0)
        theta = np.asarray(exchange["theta"][:], dtype=np.float64)
    return -np.log(np.maximum((raw - dark) / (flat - dark), 1e-3)), np.deg2rad(theta)


@pytest.mark.parametrize("algorithm", METHODS)
def test_tooth(real_scan: Callable[[str], Path], algorithm: str) -> None:
    projections, theta = line_integrals(real_scan("tooth.h5"), slice(0, 1))
    prepared = prepare(theta, 640, algorithm=algorithm, filter_name="hann")
    image = prepared(projections, center=296.0)[0]
    # Air, dentine and enamel by eye in the picture: air is empty, the enamel is the densest.
    tooth = image > 0.004
    assert 0.08 < tooth.mean() < 0.13
    assert abs(image[within(640, 0.95) & ~within(640, 0.75)].mean()) < 2e-4
    # The mass in the slice is the mass in every projection.
    assert image.sum() == pytest.approx(projections[:, 0].sum(axis=1).mean(), rel=0.05)
    # Doubled edges of a wrong center spread into the air; the right one leaves it emptiest.
    below = [float(np.square(np.minimum(prepared(projections, center=296.0 + off)[0], 0)).sum()) for off in (-4, 0, 4)]
    assert below[1] < 0.8 * min(below[0], below[2])


def test_crystal(real_scan: Callable[[str], Path]) -> None:
    projections, theta = line_integrals(real_scan("dls_24737.h5"), slice(60, 63))
    images = [reconstruct(projections, theta, 85.6, name, "hann", "edge") for name in METHODS]
    inside = within(160, 0.8)
    np.testing.assert_allclose(images[0][:, inside].mean(), images[1][:, inside].mean(), rtol=1e-2)
    assert np.corrcoef(images[0][0][inside], images[1][0][inside])[0, 1] > 0.98
    assert images[0][:, inside].mean() > 0
