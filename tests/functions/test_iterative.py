"""Iterative reconstruction against the same methods written plainly with a matrix, closed forms and analytic ellipses."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest
import scipy.sparse.linalg

from tomopipe.functions.errors import InputError, ParameterError
from tomopipe.functions.reconstruction.iterative import (
    Control,
    FieldOfView,
    IterativeReconstructor,
    cgls,
    check_settings,
    mlem,
    sirt,
    total_variation,
)
from tomopipe.functions.reconstruction.line import LineProjector
from tomopipe.functions.reconstruction.operators import LANES
from tomopipe.functions.reconstruction.settings import ReconstructionSettings
from tomopipe.functions.reconstruction.total_variation import TotalVariationStep

N, THETA = 14, np.linspace(0, np.pi, 18, endpoint=False)
Ellipse = tuple[float, float, float, float, float]  # half axes, centre x and y, in pixels, value


@pytest.fixture(scope="module")
def projector() -> LineProjector:
    return LineProjector(THETA, N, 6.5)


@pytest.fixture(scope="module")
def matrix(projector: LineProjector) -> np.ndarray:
    """What the projector does to each pixel: (angles * N, N * N) float64."""
    pixels = np.eye(N * N, dtype=np.float32)
    pixels = np.pad(pixels, ((0, 0), (0, -N * N % LANES))).reshape(N, N, -1)
    images = [projector.forward(pixels[..., i : i + LANES]) for i in range(0, pixels.shape[2], LANES)]
    return np.concatenate(images, axis=2).reshape(-1, pixels.shape[2])[:, : N * N].astype(float)


@pytest.fixture(scope="module")
def data(matrix: np.ndarray) -> np.ndarray:
    """Noisy projections of random positive slices; the last lane is empty."""
    random = np.random.default_rng(3)
    projections = matrix @ random.uniform(0, 1, (N * N, LANES)) + random.normal(0, 0.3, (len(matrix), LANES))
    projections[:, -1] = 0
    return projections.reshape(THETA.size, N, LANES).astype(np.float32)


def flat(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1, LANES).astype(float)


def inside(n: int = N) -> np.ndarray:
    row, column = np.mgrid[:n, :n]
    return (2 * row - n + 1) ** 2 + (2 * column - n + 1) ** 2 <= n * n


def ellipses(
    n: int, theta: np.ndarray, shapes: list[Ellipse], center: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Exact line integrals (angles, n), averaged over each column, and the slice (n, n), averaged over each pixel."""
    parts = (np.arange(4) + 0.5) / 4 - 0.5
    center = (n - 1) / 2 if center is None else center
    t = (np.arange(n)[:, None] + parts - center).reshape(1, -1)
    x = (np.arange(n)[:, None] + parts - (n - 1) / 2).ravel()
    lines, pixels = np.zeros((theta.size, 4 * n)), np.zeros((4 * n, 4 * n))
    for a, b, x0, y0, value in shapes:
        reach = ((a * np.cos(theta)) ** 2 + (b * np.sin(theta)) ** 2)[:, None]
        off = t - (x0 * np.cos(theta) + y0 * np.sin(theta))[:, None]
        lines += 2 * value * a * b * np.sqrt(np.maximum(reach - off**2, 0)) / reach
        pixels += value * (((x - x0) / a) ** 2 + ((-x[:, None] - y0) / b) ** 2 <= 1)
    return lines.reshape(theta.size, n, 4).mean(2), pixels.reshape(n, 4, n, 4).mean((1, 3))


SAMPLE: list[Ellipse] = [(0.4, 0.3, 0, 0, 1.0), (0.1, 0.2, 0.15, 0.02, -0.5), (0.06, 0.06, -0.2, 0.1, 0.8)]


def sample(n: int, scale: float = 1.0) -> list[Ellipse]:
    return [(a * n * scale, b * n * scale, x * n * scale, y * n * scale, value) for a, b, x, y, value in SAMPLE]


def rmse(slices: np.ndarray, truth: np.ndarray, radius: float = 0.95) -> float:
    n = truth.shape[-1]
    row, column = np.mgrid[:n, :n] - (n - 1) / 2
    return float(np.sqrt(np.mean((slices - truth)[..., np.hypot(row, column) < radius * n / 2] ** 2)))


# The methods against the same ones written plainly.


@pytest.mark.parametrize("bounds", [(None, None), (0.1, 0.7)])
def test_sirt_does_what_its_formula_says(
    projector: LineProjector, matrix: np.ndarray, data: np.ndarray, bounds: tuple[float | None, float | None]
) -> None:
    b, mask = flat(data), inside().reshape(-1, 1)
    x = np.zeros((N * N, LANES)) if bounds[0] is None else np.full((N * N, LANES), bounds[0]) * mask
    rows, columns = (1 / np.maximum(matrix.sum(axis), 1) for axis in (1, 0))
    residuals = []
    for _ in range(7):
        difference = b - matrix @ x
        residuals.append(np.linalg.norm(difference, axis=0))
        x = x + columns[:, None] * (matrix.T @ (rows[:, None] * difference))
        if bounds[0] is not None:
            x = np.clip(x, *bounds) * mask
    solution = sirt(projector, data, Control(7, None, *bounds))
    full = slice(0, LANES - 1)
    np.testing.assert_allclose(flat(solution.slices)[:, full], x[:, full], atol=1e-5)
    expected = (np.array(residuals) / np.linalg.norm(b, axis=0).clip(1e-9))[:, full]
    np.testing.assert_allclose(solution.residuals[:, full], expected, rtol=1e-4)


def test_cgls_takes_the_steps_of_lsqr(projector: LineProjector, matrix: np.ndarray, data: np.ndarray) -> None:
    """In exact arithmetic the two methods' iterates are the same."""
    solution = cgls(projector, data, Control(6))
    for lane in range(3):
        expected = scipy.sparse.linalg.lsqr(matrix, flat(data)[:, lane], iter_lim=6, atol=0, btol=0, conlim=0)[0]
        np.testing.assert_allclose(flat(solution.slices)[:, lane], expected, atol=1e-3)


@pytest.mark.parametrize("subsets", [1, 3])
def test_mlem_does_what_its_formula_says(
    projector: LineProjector, matrix: np.ndarray, data: np.ndarray, subsets: int
) -> None:
    b = np.maximum(flat(data), 0).reshape(THETA.size, N, LANES)
    whole = matrix.reshape(THETA.size, N, -1)
    x = inside().reshape(-1, 1) * (b.sum((0, 1)) / matrix.sum())
    for _ in range(4):
        for first in {1: [0], 3: [0, 2, 1]}[subsets]:
            part, measured = whole[first::subsets].reshape(-1, N * N), b[first::subsets].reshape(-1, LANES)
            x = x * (part.T @ (measured / np.maximum(part @ x, 1e-5))) / np.maximum(part.sum(0), 1e-9)[:, None]
    solution = mlem(projector, data, Control(4), subsets=subsets)
    np.testing.assert_allclose(flat(solution.slices)[:, :-1], x[:, :-1], rtol=2e-3, atol=1e-3)
    assert np.all(solution.slices >= 0)
    if subsets == 1:  # expectation maximisation keeps the counts
        counts = projector.forward(solution.slices).sum((0, 1))
        np.testing.assert_allclose(counts[:-1], b.sum((0, 1))[:-1], rtol=1e-3)


def differences(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mask = inside(len(u))[..., None]
    down, right = np.zeros_like(u), np.zeros_like(u)
    down[:-1] = np.diff(u, axis=0) * (mask[1:] & mask[:-1])
    right[:, :-1] = np.diff(u, axis=1) * (mask[:, 1:] & mask[:, :-1])
    return down, right


def variation(u: np.ndarray) -> np.ndarray:
    down, right = differences(u)
    return np.sqrt(down**2 + right**2).sum((0, 1))


@pytest.mark.parametrize("n", [13, 24])
def test_the_tv_step_closes_the_duality_gap(n: int) -> None:
    """Any u is above, and |v|^2 - |u|^2 of a dual's u below the optimum: where they meet, u is optimal."""
    v = (np.random.default_rng(n).standard_normal((n, n, LANES)) * inside(n)[..., None]).astype(np.float32)
    threshold = np.linspace(0.05, 2, LANES)
    u = TotalVariationStep(v, threshold)(v, steps=3000).astype(float)
    primal = ((u - v) ** 2).sum((0, 1)) / 2 + threshold * variation(u)
    dual = ((v.astype(float) ** 2).sum((0, 1)) - (u**2).sum((0, 1))) / 2
    np.testing.assert_allclose(primal, dual, rtol=5e-3)
    assert np.all(primal < 0.95 * threshold * variation(v.astype(float)))  # what v itself would cost


@pytest.mark.parametrize("bounds", [(None, None), (0.0, 0.4)])
def test_the_tv_steps_on_the_cpu_and_on_any_device_are_the_same(bounds: tuple[float | None, float | None]) -> None:
    v = (np.random.default_rng(0).standard_normal((21, 21, LANES)) * inside(21)[..., None]).astype(np.float32)
    quick, plain = (TotalVariationStep(v, np.linspace(0.1, 1, LANES), *bounds) for _ in range(2))
    quick(v, steps=9)
    for _ in range(9):
        plain._step(v)
    np.testing.assert_allclose(quick._smooth, plain._smooth, atol=1e-5)
    assert np.all(quick._smooth[~inside(21)] == 0)


def test_total_variation_reaches_the_least_objective(
    projector: LineProjector, matrix: np.ndarray, data: np.ndarray
) -> None:
    """No small change of the answer lowers |A x - b|^2 / 2 + w TV(x)."""
    weight = 0.3
    solution = total_variation(projector, data, Control(600), weight=weight)
    x, b = solution.slices.astype(float), flat(data)
    scale = (b**2).sum(0) / np.abs(b).sum(0).clip(1e-9) / N
    assert np.all(scale[:-1] > 0)

    def objective(u: np.ndarray) -> np.ndarray:
        fit = ((matrix @ u.reshape(-1, LANES) - b) ** 2).sum(0) / 2
        return fit + weight * THETA.size * scale * variation(u)

    least = objective(x)[:-1]
    random = np.random.default_rng(1)
    for size in (1e-1, 1e-2, 1e-3):
        for _ in range(20):
            change = size * random.standard_normal(x.shape) * inside()[..., None]
            assert np.all(objective(x + change)[:-1] >= least * (1 - 1e-5))
    for other in (cgls(projector, data, Control(8)).slices, 0 * x, 0.98 * x, 1.02 * x):
        assert np.all(objective(other.astype(float))[:-1] >= least * (1 - 1e-5))


# Stopping, starting, bounds.


METHODS: dict[str, Callable[..., Any]] = {
    "sirt": sirt,
    "cgls": cgls,
    "tv": lambda *args, **more: total_variation(*args, weight=0.01, **more),
    "mlem": mlem,
    "osem": lambda *args, **more: mlem(*args, subsets=3, **more),
}


@pytest.mark.parametrize("name", METHODS)
def test_each_lane_stops_alone_when_it_fits(projector: LineProjector, data: np.ndarray, name: str) -> None:
    exact = projector.forward(
        (np.random.default_rng(0).uniform(0.2, 1, (N, N, LANES)) * inside()[..., None]).astype(np.float32)
    )
    noise = np.abs(np.random.default_rng(1).standard_normal(data.shape))
    mixed = np.where(np.arange(LANES) % 2, noise, exact).astype(np.float32)
    mixed[..., -1] = 0
    limit = 0.04
    solution = METHODS[name](projector, mixed, Control(60, stop_residual=limit))
    done = ~np.isnan(solution.residuals)
    for lane in range(0, LANES, 2):
        history = solution.residuals[done[:, lane], lane]
        assert np.all(history[:-1] >= limit)
        assert history[-1] < limit
        # What the others do does not matter, and nothing changed after it was done.
        alone = np.zeros_like(mixed)
        alone[..., lane] = mixed[..., lane]
        np.testing.assert_array_equal(
            METHODS[name](projector, alone, Control(60, stop_residual=limit)).slices[..., lane],
            solution.slices[..., lane],
        )
    assert done[:, 1].all()
    assert len(done) == 60  # the noisy lanes cannot fit so well
    assert not done[:, -1].any()  # nothing to do for an empty lane
    assert np.all(solution.slices[..., -1] == 0)


@pytest.mark.parametrize("name", METHODS)
def test_a_good_start_is_used(projector: LineProjector, data: np.ndarray, name: str) -> None:
    first = METHODS[name](projector, data, Control(30))
    start = first.slices.copy()
    second = METHODS[name](projector, data, Control(2), start)
    full = slice(0, LANES - 1)
    np.testing.assert_allclose(second.residuals[0, full], first.residuals[-1, full], rtol=0.2)
    np.testing.assert_array_equal(start, first.slices)


@pytest.mark.parametrize("name", ["sirt", "tv", "mlem", "osem"])
def test_bounds_are_kept(projector: LineProjector, data: np.ndarray, name: str) -> None:
    solution = METHODS[name](projector, data, Control(25, None, 0.2, 0.6))
    free = METHODS[name](projector, data, Control(25)).slices[inside()][:, :-1]
    assert free.min() < 0.2
    assert free.max() > 0.6
    within = solution.slices[inside()][:, :-1]
    assert within.min() >= np.float32(0.2)
    assert within.max() == np.float32(0.6)
    assert np.all(solution.slices[~inside()] == 0)


def test_the_same_methods_work_on_pytorch_tensors(projector: LineProjector, data: np.ndarray) -> None:
    torch = pytest.importorskip("torch")

    class Wrapped:
        angles, columns, lanes = THETA.size, N, LANES

        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def forward(self, slices: Any, out: Any = None) -> Any:
            return torch.from_numpy(self.inner.forward(slices.numpy()))

        def adjoint(self, projections: Any, out: Any = None) -> Any:
            return torch.from_numpy(self.inner.adjoint(projections.numpy()))

        def subset(self, angles: slice) -> Wrapped:
            return Wrapped(self.inner.subset(angles))

    for name, method in METHODS.items():
        control = Control(5) if name == "cgls" else Control(5, 0.01, 0.0, 0.9)
        on_cpu = method(projector, data, control)
        tensors = method(Wrapped(projector), torch.from_numpy(data.copy()), control)
        np.testing.assert_allclose(tensors.slices.numpy(), on_cpu.slices, atol=1e-4, err_msg=name)
        np.testing.assert_allclose(tensors.residuals, on_cpu.residuals, rtol=1e-4, err_msg=name)


def test_the_field_of_view_is_a_transpose_pair_that_does_not_see_its_margin() -> None:
    random = np.random.default_rng(0)
    wide = FieldOfView(LineProjector(THETA, 20, 9.5), 4)
    slices = random.standard_normal((20, 20, LANES)).astype(np.float32)
    projections = random.standard_normal((THETA.size, 20, LANES)).astype(np.float32)
    kept = projections.copy()
    forward, adjoint = wide.forward(slices), wide.adjoint(projections)
    np.testing.assert_array_equal(projections, kept)
    assert np.all(forward[:, :4] == 0)
    assert np.all(forward[:, -4:] == 0)
    np.testing.assert_allclose(
        (forward * projections).sum((0, 1)), (slices * adjoint).sum((0, 1)), rtol=1e-3, atol=1e-2
    )
    np.testing.assert_array_equal(wide.subset(slice(1, None, 4)).forward(slices), forward[1::4])


@pytest.mark.parametrize("center", [4.0, 9.5])
def test_a_bound_that_is_never_reached_changes_nothing(center: float) -> None:
    """A subset that does not see a pixel, far from an axis off the middle, leaves it alone."""
    theta = np.linspace(0, np.pi, 24, endpoint=False)
    off_centre = LineProjector(theta, N, center)
    lines = off_centre.forward((np.random.default_rng(0).uniform(0.2, 1, (N, N, LANES))).astype(np.float32))
    free, bounded = (mlem(off_centre, lines, Control(3, None, None, high), subsets=24) for high in (None, 10.0))
    some_do_not = [
        np.any(off_centre.subset(slice(k, k + 1)).adjoint(lines[k : k + 1])[inside()] == 0) for k in range(24)
    ]
    assert any(some_do_not)
    assert free.slices.max() < 10
    np.testing.assert_array_equal(bounded.slices, free.slices)


# Rows to slices.


@pytest.mark.parametrize(
    ("name", "projector_name", "limit"),
    [
        ("sirt", "line", 0.07),
        ("sirt", None, 0.07),
        ("cgls", "line", 0.06),
        ("cgls", None, 0.06),
        ("tv", None, 0.06),
        ("mlem", None, 0.06),
        ("osem", None, 0.06),
    ],
)
def test_slices_agree_with_the_analytic_truth(name: str, projector_name: str | None, limit: float) -> None:
    n, theta = 64, np.deg2rad(np.linspace(0, 180, 120, endpoint=False))
    lines, truth = ellipses(n, theta, sample(n), center=30.2)
    settings = ReconstructionSettings(algorithm=name, projector=projector_name, padding="zero", tv_weight=0.1)
    reconstruct = IterativeReconstructor(theta, n, 30.2, settings)
    projections = np.repeat(lines[:, None], 2, axis=1).astype(np.float32)
    slices = reconstruct(projections)
    assert slices.shape == (2, n, n)
    assert slices.dtype == np.float32
    assert rmse(slices, truth) < limit
    assert abs((slices[0] - truth)[inside(n)].mean()) < 2e-3
    assert reconstruct.residuals[-1].max() < 0.03
    for flipped in (truth[::-1], truth[:, ::-1]):
        assert rmse(slices, flipped) > 2 * limit


@pytest.mark.parametrize("name", ["sirt", "cgls", "tv", "osem"])
@pytest.mark.parametrize("padding", ["zero", "edge"])
def test_a_rows_bits_depend_on_neither_the_rows_beside_it_nor_the_threads(name: str, padding: str) -> None:
    n, theta, rows = 20, np.linspace(0, np.pi, 25), LANES + 3
    random = np.random.default_rng(0)
    projections = random.uniform(0, 3, (25, rows, n)).astype(np.float32)
    settings = ReconstructionSettings(
        algorithm=name, iterations=3, padding=padding, warm_start=name == "sirt", subsets=4
    )
    for center in (9.2, np.linspace(8, 11, rows)):
        slices = IterativeReconstructor(theta, n, center, settings)(projections)
        part = slice(5, LANES + 2)
        shifted = center if np.ndim(center) == 0 else np.asarray(center)[part]
        reconstruct = IterativeReconstructor(theta, n, None, settings)
        np.testing.assert_array_equal(reconstruct(projections[:, part], center=shifted), slices[part])
        before = numba.get_num_threads()
        numba.set_num_threads(1)
        try:
            np.testing.assert_array_equal(reconstruct(projections[:, part], center=shifted), slices[part])
        finally:
            numba.set_num_threads(before)
    assert np.all(slices[:, ~inside(n)] == 0)


def test_each_row_has_its_own_rotation_axis() -> None:
    n, theta = 48, np.linspace(0, np.pi, 70, endpoint=False)
    centers = np.linspace(21.0, 26.0, 5)
    rows = [ellipses(n, theta, sample(n), center=center) for center in centers]
    projections = np.stack([lines for lines, _ in rows], axis=1).astype(np.float32)
    # The line pair moves projections by interpolation; OSEM's may not have negative weights and is the coarsest.
    for name, pair, factor in (("cgls", "fourier", 1.1), ("cgls", "line", 1.4), ("osem", "line", 2.4)):
        settings = ReconstructionSettings(algorithm=name, padding="zero", projector=pair)
        slices = IterativeReconstructor(theta, n, centers, settings)(projections)
        one = IterativeReconstructor(theta, n, centers[0], settings)(projections[:, :1])
        wrong = IterativeReconstructor(theta, n, 23.5, settings)(projections)
        assert rmse(slices, rows[0][1]) < factor * rmse(one, rows[0][1])
        assert rmse(wrong, rows[0][1]) > 1.2 * rmse(slices, rows[0][1])


def test_a_margin_takes_the_rim_away_where_the_sample_is_wider_than_the_detector() -> None:
    wide, n, theta = 160, 80, np.linspace(0, np.pi, 120, endpoint=False)
    lines, truth = ellipses(wide, theta, sample(wide, 1.1))
    seen = slice((wide - n) // 2, (wide + n) // 2)
    truth = truth[seen, seen]
    projections = lines[:, None, seen].astype(np.float32)
    errors = {}
    for padding in ("zero", "edge"):
        settings = ReconstructionSettings(algorithm="cgls", iterations=15, padding=padding)
        slices = IterativeReconstructor(theta, n, (n - 1) / 2, settings)(projections)
        errors[padding] = rmse(slices, truth, 0.95), rmse(slices, truth, 1.0)
    assert errors["edge"][0] < 0.5 * errors["zero"][0]
    assert errors["edge"][1] < 0.25 * errors["zero"][1]


def test_a_missing_wedge_needs_no_weights() -> None:
    """What was measured is fitted, and bounds fill the wedge better than the minimum-norm answer does."""
    n, theta = 48, np.deg2rad(np.linspace(0, 120, 80))
    lines, truth = ellipses(n, theta, [(16, 12, 0, 0, 1.0), (4, 4, 5, 2, -1.0)])
    projections = lines[:, None].astype(np.float32)
    errors = []
    for low, high in ((None, None), (0.0, 1.0)):
        settings = ReconstructionSettings(algorithm="sirt", padding="zero", minimum=low, maximum=high, iterations=200)
        reconstruct = IterativeReconstructor(theta, n, (n - 1) / 2, settings)
        errors.append(rmse(reconstruct(projections), truth))
        assert reconstruct.residuals[-1, 0] < 0.03
    assert errors[1] < 0.7 * errors[0]


def test_total_variation_is_better_than_least_squares_on_noisy_flat_parts() -> None:
    n, theta = 64, np.linspace(0, np.pi, 60, endpoint=False)
    lines, truth = ellipses(n, theta, sample(n))
    noisy = lines + np.random.default_rng(0).normal(0, 0.02 * lines.max(), lines.shape)
    error = {}
    for name in ("cgls", "tv"):
        settings = ReconstructionSettings(algorithm=name, iterations=10 if name == "cgls" else 60, tv_weight=0.1)
        error[name] = rmse(IterativeReconstructor(theta, n, (n - 1) / 2, settings)(noisy[:, None].astype("f4")), truth)
    assert error["tv"] < 0.75 * error["cgls"]


def test_total_variation_smooths_alike_with_and_without_a_margin() -> None:
    n, theta = 48, np.linspace(0, np.pi, 60, endpoint=False)
    lines, _ = ellipses(n, theta, sample(n))
    noisy = lines + np.random.default_rng(0).normal(0, 0.1 * lines.max(), lines.shape)
    remaining = {}
    for padding in ("zero", "edge"):
        settings = ReconstructionSettings(algorithm="tv", iterations=100, tv_weight=0.3, padding=padding)
        slices = IterativeReconstructor(theta, n, (n - 1) / 2, settings)(noisy[:, None].astype("f4"))
        remaining[padding] = variation((slices[0] * inside(n))[..., None].astype(float))[0]
    assert remaining["edge"] == pytest.approx(remaining["zero"], rel=0.1)


def test_the_history_has_a_column_for_each_row_and_ends_when_all_are_done() -> None:
    n, theta = 32, np.linspace(0, np.pi, 50, endpoint=False)
    lines, _ = ellipses(n, theta, sample(n))
    projections = np.repeat(lines[:, None], 19, axis=1).astype(np.float32)
    settings = ReconstructionSettings(algorithm="cgls", stop_residual=0.05, padding="zero")
    reconstruct = IterativeReconstructor(theta, n, 15.5, settings)
    reconstruct(projections)
    assert 2 < len(reconstruct.residuals) < 20
    assert reconstruct.residuals.shape[1] == 19
    np.testing.assert_array_equal(reconstruct.residuals[0], 1)
    assert np.all(reconstruct.residuals[-1] < 0.05)


@pytest.mark.parametrize(
    ("name", "pair", "padding"),
    [
        *((name, None, padding) for name in ("sirt", "cgls", "tv", "mlem", "osem") for padding in ("edge", "zero")),
        *((name, "line", "edge") for name in ("sirt", "cgls", "tv")),
    ],
)
def test_memory_stays_within_what_is_said(name: str, pair: str | None, padding: str) -> None:
    n, angles, rows = 96, 120, LANES + 1
    settings = ReconstructionSettings(algorithm=name, iterations=2, subsets=4, projector=pair, padding=padding)
    theta = np.linspace(0, np.pi, angles)
    projections = np.ones((angles, rows, n), dtype=np.float32)
    IterativeReconstructor(theta, n, 47.0, settings)(projections)  # compiled
    for center in (47.0, np.linspace(46, 48, rows)):
        reconstruct = IterativeReconstructor(theta, n, center, settings)
        tracemalloc.start()
        slices = reconstruct(projections)
        peak = tracemalloc.get_traced_memory()[1] - slices.nbytes
        tracemalloc.stop()
        said = IterativeReconstructor.workspace_bytes(angles, n, settings)
        assert peak < said
        if np.ndim(center):  # what is said allows for rows with their own axes
            assert peak > 0.4 * said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"algorithm": "fbp"}, r"reconstruction.algorithm is 'fbp'"),
        ({"algorithm": "sirt", "padding": "reflect"}, r"reconstruction.padding is 'reflect'"),
        ({"algorithm": "sirt", "projector": "area"}, r"reconstruction.projector is 'area'"),
        ({"algorithm": "mlem", "projector": "fourier"}, r"mlem needs projector line"),
        ({"algorithm": "tv", "minimum": 1.0, "maximum": 1.0}, r"reconstruction.minimum is 1.0"),
        ({"algorithm": "cgls", "minimum": 0.0}, r"cannot be kept by cgls"),
        ({"algorithm": "osem", "maximum": 0.0}, r"reconstruction.maximum is 0.0"),
        ({"algorithm": "sirt", "iterations": 0}, r"reconstruction.iterations is 0"),
        ({"algorithm": "osem", "subsets": 31}, r"reconstruction.subsets is 31; it must be 1 to 30"),
        ({"algorithm": "tv", "tv_weight": 0.0}, r"reconstruction.tv_weight is 0.0"),
    ],
)
def test_settings_that_cannot_be_kept_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        check_settings(ReconstructionSettings(**change), 30)


def test_bounds_are_refused_by_cgls_itself(projector: LineProjector, data: np.ndarray) -> None:
    with pytest.raises(ParameterError, match="cannot be kept by cgls"):
        cgls(projector, data, Control(2, minimum=0.0))


def test_projections_and_centers_that_do_not_fit_are_refused() -> None:
    reconstruct = IterativeReconstructor(THETA, N, None, ReconstructionSettings(algorithm="cgls"))
    projections = np.ones((THETA.size, 3, N), dtype=np.float32)
    with pytest.raises(ParameterError, match="center is missing"):
        reconstruct(projections)
    with pytest.raises(ParameterError, match=r"center has shape \(2,\)"):
        reconstruct(projections, center=np.zeros(2))
    with pytest.raises(ParameterError, match="must lie on the detector, 0 to 13"):
        reconstruct(projections, center=20.0)
    with pytest.raises(InputError, match=r"needed is \(18 angles, rows, 14 columns\)"):
        reconstruct(projections[:-1], center=6.0)
