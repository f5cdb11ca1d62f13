"""Fourier gridding and the Fourier projector against sums written plainly, closed forms, and themselves however cut."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tomopipe.functions.errors import InputError, ParameterError
from tomopipe.functions.reconstruction import threads
from tomopipe.functions.reconstruction.direct import padded_length
from tomopipe.functions.reconstruction.filters import ramp_filter
from tomopipe.functions.reconstruction.fourier import FourierGridding, FourierProjector
from tomopipe.functions.reconstruction.geometry import angular_weights
from tomopipe.functions.reconstruction.lane_vectors import LANES

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]


def noise(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def inside(columns: int) -> npt.NDArray[np.bool_]:
    r = np.arange(columns) - (columns - 1) / 2
    return r[:, None] ** 2 + r[None, :] ** 2 <= (columns / 2) ** 2


def positions(theta: Array, columns: int) -> Array:
    """Where the pixels stand on the detector, from the rotation axis: (angles, n, n) pixels."""
    r = np.arange(columns) - (columns - 1) / 2
    return r[None, None, :] * np.cos(theta)[:, None, None] - r[None, :, None] * np.sin(theta)[:, None, None]


def all_around(angles: int, seed: int = 0) -> Array:
    """Irregular angles, with those at which lines lie on the grid's axes."""
    return np.concatenate([[0, np.pi / 2, np.pi, -np.pi / 2], np.random.default_rng(seed).uniform(-4, 9, angles)])


def rms(values: Array) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def exact_slice(sinogram: Array, theta: Array, center: float, response: Array, weights: Array) -> Array:
    """Filtered lines, interpolated trigonometrically at every pixel and summed, in double precision."""
    columns = sinogram.shape[1]
    length = 2 * (response.size - 1)
    frequency = np.arange(response.size)
    sides = np.where((frequency == 0) | (frequency == length // 2), 1, 2)
    spectra = np.fft.rfft(sinogram, n=length, axis=1) * response * sides * weights[:, None] / length
    image = np.zeros((columns, columns))
    for spectrum, t in zip(spectra, positions(theta, columns), strict=True):
        image += (np.exp(2j * np.pi / length * (t + center)[..., None] * frequency) @ spectrum).real
    return np.where(inside(columns), image, 0.0)


@pytest.mark.parametrize("columns", [2, 3, 4, 5, 15, 16, 31, 32, 40])
def test_gridding_is_the_exact_sum(columns: int) -> None:
    theta = all_around(25)
    centers = np.linspace(0.1, 0.9, 3) * (columns - 1)
    sinograms = noise(theta.size, 3, columns)
    slices = FourierGridding(theta, columns, padding="zero", filter_name="shepp")(sinograms, center=centers)
    response = ramp_filter(padded_length(columns), "shepp").astype(float)
    for row, center in enumerate(centers):
        expected = exact_slice(sinograms[:, row].astype(float), theta, center, response, angular_weights(theta))
        assert rms(slices[row] - expected) < 1e-3 * rms(expected)
        assert not slices[row][~inside(columns)].any()


def test_a_smooth_slice_is_exact() -> None:
    """A blob far below the Nyquist frequency: the kernel's error is small there, nothing else has one."""
    columns, center, theta = 64, 30.2, np.arange(120) * np.pi / 120
    x, y, sigma = 8.3, -5.1, 3.0
    t = np.arange(columns) - center - (x * np.cos(theta) + y * np.sin(theta))[:, None]
    sinogram = np.sqrt(2 * np.pi) * sigma * np.exp(-(t**2) / (2 * sigma**2))
    slice_ = FourierGridding(theta, columns, center, padding="zero")(sinogram[:, None].astype(np.float32))[0]
    r = np.arange(columns) - (columns - 1) / 2
    truth = np.exp(-((r[None, :] - x) ** 2 + (-r[:, None] - y) ** 2) / (2 * sigma**2))
    near = r[:, None] ** 2 + r[None, :] ** 2 < (0.85 * columns / 2) ** 2
    assert np.abs(slice_ - truth)[near].max() < 2e-4


def dirichlet_projections(slice_: Array, theta: Array, center: float) -> Array:
    """Every pixel a band-limited point on the padded detector."""
    columns = slice_.shape[0]
    length = padded_length(columns)
    frequency = np.arange(length // 2 + 1)
    sides = np.where((frequency == 0) | (frequency == length // 2), 1, 2) / length
    disc = inside(columns)
    projections = np.zeros((theta.size, columns))
    for line, t in zip(projections, positions(theta, columns), strict=True):
        spectrum = np.exp(-2j * np.pi / length * np.outer(frequency, t[disc] + center)) @ slice_[disc]
        line[:] = (np.exp(2j * np.pi / length * np.outer(np.arange(columns), frequency)) @ (spectrum * sides)).real
    return projections


@pytest.mark.parametrize("columns", [2, 5, 16, 33])
def test_projections_are_the_exact_sums(columns: int) -> None:
    theta = all_around(9)
    centers = np.linspace(-0.4, columns - 0.6, LANES)
    slices = noise(columns, columns, LANES)
    projections = FourierProjector(theta, columns, centers).forward(slices)
    for lane in (0, 7, LANES - 1):
        expected = dirichlet_projections(slices[..., lane].astype(float), theta, centers[lane])
        assert rms(projections[..., lane] - expected) < 1e-3 * rms(expected)


def test_a_blob_projects_to_its_line_integrals() -> None:
    columns, theta = 64, all_around(20)
    centers = np.linspace(22.0, 41.0, LANES)
    x, y, sigma = 6.4, 9.7, 2.5
    r = np.arange(columns) - (columns - 1) / 2
    blob = np.exp(-((r[None, :] - x) ** 2 + (-r[:, None] - y) ** 2) / (2 * sigma**2))
    projections = FourierProjector(theta, columns, centers).forward(np.repeat(blob[..., None], LANES, 2))
    t = np.arange(columns)[:, None] - centers - (x * np.cos(theta) + y * np.sin(theta))[:, None, None]
    truth = np.sqrt(2 * np.pi) * sigma * np.exp(-(t**2) / (2 * sigma**2))
    assert np.abs(projections - truth).max() < 5e-4 * truth.max()


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 70), st.integers(1, 30), st.booleans(), st.integers(0, 2**32 - 1))
def test_forward_and_adjoint_are_transposes(columns: int, angles: int, one_center: bool, seed: int) -> None:
    random = np.random.default_rng(seed)
    theta = random.uniform(-7, 7, angles)
    theta[random.random(angles) < 0.2] = random.choice([0, np.pi / 2, np.pi, 2 * np.pi])
    center = (columns - 1) / 2 if one_center else random.uniform(0, columns - 1, LANES)
    projector = FourierProjector(theta, columns, center)
    x, y = noise(columns, columns, LANES, seed=seed), noise(angles, columns, LANES, seed=seed + 1)
    projections, slices = projector.forward(x), projector.adjoint(y)
    left = (projections.astype(float) * y).sum((0, 1))
    right = (slices.astype(float) * x).sum((0, 1))

    def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Of the lanes' norms."""
        return np.sqrt((a.astype(float) ** 2).sum((0, 1)) * (b.astype(float) ** 2).sum((0, 1)))

    # One of the two may be small because much cancels in it, but not both: rounding is of what was summed.
    size = np.maximum(product(projections, y), product(slices, x))
    assert (np.abs(left - right) <= 2e-6 * size).all()


def test_only_the_circle_counts() -> None:
    projector = FourierProjector(all_around(5), 24, 11.0)
    slices = noise(24, 24, LANES)
    cleared = np.where(inside(24)[..., None], slices, np.float32(0))
    np.testing.assert_array_equal(projector.forward(slices), projector.forward(cleared))
    assert not projector.adjoint(noise(9, 24, LANES))[~inside(24)].any()


def test_unfiltered_gridding_is_the_weighted_adjoint() -> None:
    """Two ways through the same transform: rows with padding and lanes."""
    theta = all_around(30)
    rows = noise(theta.size, LANES, 45)
    gridding = FourierGridding(theta, 45, 20.3, filter_name="none", padding="zero")(rows)
    weighted = rows.transpose(0, 2, 1) * angular_weights(theta)[:, None, None].astype(np.float32)
    adjoint = FourierProjector(theta, 45, 20.3).adjoint(weighted)
    np.testing.assert_allclose(gridding, adjoint.transpose(2, 0, 1), atol=2e-5 * gridding.std())


def test_subset_is_a_part_of_the_angles() -> None:
    theta = all_around(12)
    projector = FourierProjector(theta, 20, np.linspace(8, 11, LANES))
    slices = noise(20, 20, LANES)
    part = projector.subset(slice(1, None, 3))
    assert (part.angles, part.columns, part.lanes) == (5, 20, LANES)
    np.testing.assert_array_equal(part.forward(slices), projector.forward(slices)[1::3])


def test_results_go_where_they_are_wanted() -> None:
    projector = FourierProjector(all_around(3), 12, 5.0)
    slices, projections = noise(12, 12, LANES), noise(7, 12, LANES)
    into_projections, into_slices = np.full_like(projections, np.nan), np.full_like(slices, np.nan)
    assert projector.forward(slices, out=into_projections) is into_projections
    assert projector.adjoint(projections, out=into_slices) is into_slices
    np.testing.assert_array_equal(into_projections, projector.forward(slices))
    np.testing.assert_array_equal(into_slices, projector.adjoint(projections))
    gridding = FourierGridding(all_around(3), 12, 5.0)
    rows, out = noise(7, 2, 12), np.full((2, 12, 12), np.nan, dtype=np.float32)
    assert gridding(rows, out=out) is out
    np.testing.assert_array_equal(out, gridding(rows))
    with pytest.raises(InputError, match=r"out is float32 of shape \(1, 12, 12\).*\(2, 12, 12\)"):
        gridding(rows, out=out[:1])


def test_lanes_do_not_meet() -> None:
    theta = all_around(9)
    centers = np.linspace(9, 14, LANES)
    projector = FourierProjector(theta, 24, centers)
    slices, projections = noise(24, 24, LANES), noise(theta.size, 24, LANES)
    alone_s, alone_p = np.zeros_like(slices), np.zeros_like(projections)
    alone_s[..., 5], alone_p[..., 5] = slices[..., 5], projections[..., 5]
    slices[10, 10, 3] = projections[4, 4, 3] = np.nan
    other = FourierProjector(theta, 24, np.where(np.arange(LANES) == 5, centers, 3.0))
    np.testing.assert_array_equal(projector.forward(slices)[..., 5], other.forward(alone_s)[..., 5])
    np.testing.assert_array_equal(projector.adjoint(projections)[..., 5], other.adjoint(alone_p)[..., 5])
    assert np.isnan(projector.forward(slices)[..., 3]).any()


@pytest.mark.parametrize("columns", [48, 61])
def test_a_rows_bits_do_not_depend_on_the_others(columns: int) -> None:
    rows = noise(21, 37, columns)
    centers = np.linspace(20, 30, 37)
    gridding = FourierGridding(np.arange(21) * 0.2, columns)
    whole = gridding(rows, center=centers)
    for first, last in ((0, 16), (3, 4), (5, 30), (20, 37)):
        part = gridding(rows[:, first:last], center=centers[first:last])
        np.testing.assert_array_equal(whole[first:last], part)


def test_bits_do_not_depend_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, theta = noise(40, 5, 150), all_around(36)
    slices = noise(150, 150, LANES)
    results = []
    for count in (1, 2, 40):
        monkeypatch.setattr(threads, "thread_count", lambda count=count: count)
        monkeypatch.setattr("tomopipe.functions.reconstruction.lane_nufft.thread_count", lambda count=count: count)
        projector = FourierProjector(theta, 150, 77.0)
        projections = projector.forward(slices)
        results.append((FourierGridding(theta, 150, 77.0)(rows), projections, projector.adjoint(projections)))
    for result in results[1:]:
        for one, other in zip(results[0], result, strict=True):
            np.testing.assert_array_equal(one, other)


def test_callers_in_several_threads_share_one_projector() -> None:
    projector = FourierProjector(all_around(20), 40, 19.0)
    inputs = [noise(40, 40, LANES, seed=seed) for seed in range(3)]
    expected = [projector.adjoint(projector.forward(x)) for x in inputs]
    results: dict[int, Floats] = {}

    def call(index: int) -> None:
        for _ in range(3):
            results[index] = projector.adjoint(projector.forward(inputs[index]))

    callers = [threading.Thread(target=call, args=(index,)) for index in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    for index in range(3):
        np.testing.assert_array_equal(results[index], expected[index])


def test_an_old_batch_leaves_nothing_behind() -> None:
    gridding = FourierGridding(np.arange(9) * 0.3, 30, 14.0)
    gridding(np.full((9, LANES, 30), np.nan, dtype=np.float32))
    rows = noise(9, 3, 30)
    np.testing.assert_array_equal(gridding(rows), FourierGridding(np.arange(9) * 0.3, 30, 14.0)(rows))


def test_a_cut_off_removes_what_is_above() -> None:
    columns, theta = 64, np.arange(90) * np.pi / 90
    wave = np.cos(2 * np.pi * 0.3 * np.arange(columns))  # 0.6 of the Nyquist frequency
    rows = np.tile(wave * np.hanning(columns), (90, 1, 1)).astype(np.float32)
    open_, cut = (
        FourierGridding(theta, columns, 31.5, filter_cutoff=cutoff, padding="zero")(rows) for cutoff in (1.0, 0.4)
    )
    assert rms(cut) < 1e-2 * rms(open_)


def test_unusable_arguments_are_refused() -> None:
    with pytest.raises(ParameterError, match="at most 16"):
        FourierProjector([0.0], 8, np.zeros(17))
    with pytest.raises(ParameterError, match="nan"):
        FourierProjector([0.0], 8, float("nan"))
    with pytest.raises(InputError, match="1 columns wide"):
        FourierProjector([0.0], 1, 0.0)
    projector = FourierProjector([0.0, 1.0], 8, 3.0)
    with pytest.raises(InputError, match=r"slices have shape \(8, 8\).*\(8, 8, 16\)"):
        projector.forward(np.zeros((8, 8), dtype=np.float32))
    with pytest.raises(InputError, match=r"projections have shape.*\(2, 8, 16\)"):
        projector.adjoint(np.zeros((3, 8, 16), dtype=np.float32))
    slices, projections = np.zeros((8, 8, 16), dtype=np.float32), np.zeros((2, 8, 16), dtype=np.float32)
    for into in (np.zeros((3, 8, 16), np.float32), np.zeros((2, 8, 16)), np.zeros((2, 8, 32), np.float32)[..., ::2]):
        with pytest.raises(InputError, match=r"out has shape .*needed is \(2, 8, 16\), float32 in C order"):
            projector.forward(slices, out=into)
    for into in (np.zeros((9, 8, 16), np.float32), np.zeros((8, 8, 16)), np.zeros((8, 8, 32), np.float32)[..., ::2]):
        with pytest.raises(InputError, match=r"out has shape .*needed is \(8, 8, 16\), float32 in C order"):
            projector.adjoint(projections, out=into)


def test_workspace_is_what_is_said() -> None:
    angles, columns = 300, 240
    theta, rows = np.arange(angles) * np.pi / angles, noise(angles, LANES, columns)
    FourierGridding(theta, columns, 119.0)(rows)  # compiled
    tracemalloc.start()
    gridding = FourierGridding(theta, columns, 119.0)
    gridding(rows, out=np.empty((LANES, columns, columns), dtype=np.float32))
    peak = tracemalloc.get_traced_memory()[1] - 4 * LANES * columns**2
    tracemalloc.stop()
    estimate = FourierGridding.workspace_bytes(angles, columns)
    assert 0.6 * estimate < peak < estimate


def test_it_is_known_whether_kernels_were_compiled_before(tmp_path: Path) -> None:
    code = (
        "import numpy as np\n"
        "from tomopipe.functions.reconstruction.fourier import FourierGridding\n"
        "from tomopipe.functions.reconstruction.lane_nufft import compiled_before\n"
        "print(compiled_before())\n"
        "FourierGridding(np.arange(4.0), 16, 7.5)(np.zeros((4, 1, 16), np.float32))\n"
        "print(compiled_before())\n"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    said = [
        subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert said == ["False\nTrue\n", "True\nTrue\n"]
