"""Projections of samples wider than the detector, continued beside it as those of a cylinder."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from tomopipe.functions.errors import ParameterError
from tomopipe.functions.reconstruction.direct import padded_length
from tomopipe.functions.reconstruction.engines.adapted import LineFilter
from tomopipe.functions.reconstruction.extrapolation import extend_lines, extend_rows, extension_plan
from tomopipe.functions.reconstruction.fbp import FilteredBackprojection
from tomopipe.functions.reconstruction.fourier import FourierGridding
from tomopipe.functions.reconstruction.iterative import margin_columns
from tomopipe.functions.reconstruction.settings import ReconstructionSettings

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

N = 128
THETA = np.arange(180) * np.pi / 180
Disc = tuple[float, float, float, float]  # x, y, radius in half-widths of the detector; value


def projections_of(discs: list[Disc], n: int = N) -> Doubles:
    """Chords, (angles, n), a mean of four positions in each column."""
    lines = np.zeros((THETA.size, n))
    for part in (-0.375, -0.125, 0.125, 0.375):
        t = np.arange(n) - (n - 1) / 2 + part
        for x, y, radius, value in np.array(discs) * [n / 2, n / 2, n / 2, 1]:
            distance = t - (x * np.cos(THETA) + y * np.sin(THETA))[:, None]
            lines += value / 2 * np.sqrt(np.maximum(radius**2 - distance**2, 0))
    return lines


def slice_of(discs: list[Disc]) -> Doubles:
    y, x = np.mgrid[:N, :N] * 1.0 - (N - 1) / 2
    truth = np.zeros((N, N))
    for at_x, at_y, radius, value in np.array(discs) * [N / 2, N / 2, N / 2, 1]:
        truth += value * ((x - at_x) ** 2 + (-y - at_y) ** 2 < radius**2)
    return truth


def foam(radius: float) -> list[Disc]:
    """A disc with holes that do not touch."""
    random = np.random.default_rng(3)
    holes: list[Disc] = []
    for _ in range(3000):
        size, turn = radius * random.uniform(0.04, 0.11), random.uniform(0, 2 * np.pi)
        away = (radius - size) * np.sqrt(random.uniform())
        x, y = away * np.cos(turn), away * np.sin(turn)
        if all(np.hypot(x - hole[0], y - hole[1]) > size + hole[2] for hole in holes):
            holes.append((x, y, size, -1.0))
    return [(0.0, 0.0, radius, 1.0), *holes[:60]]


def errors(lines: Doubles, discs: list[Disc], padding: str) -> tuple[float, float]:
    """Mean errors within half the radius, and in a ring near the rim."""
    prepared = FourierGridding(THETA, N, (N - 1) / 2, padding=padding)
    wrong = prepared(lines[:, None].astype(np.float32))[0] - slice_of(discs)
    y, x = np.mgrid[:N, :N] - (N - 1) / 2
    radius = np.hypot(x, y) / (N / 2)
    return abs(wrong[radius < 0.5].mean()), abs(wrong[(radius > 0.85) & (radius < 0.95)].mean())


def noisy(lines: Doubles, transmitted: float = 0.15) -> Doubles:
    scale = -np.log(transmitted) / lines.max()
    counts = np.random.default_rng(0).poisson(5000 * np.exp(-lines * scale))
    return np.asarray(-np.log(np.maximum(counts, 1) / 5000) / scale)


def extended(projections: Floats, length: int | None = None) -> Floats:
    angles, rows, n = projections.shape
    plan = extension_plan(n, padded_length(n) if length is None else length)
    wide = np.full((angles, rows, plan.padded), np.nan, dtype=np.float32)
    extend_rows(projections, 0, rows, plan, wide)
    return wide


@pytest.mark.parametrize("with_noise", [False, True])
@pytest.mark.parametrize(
    ("discs", "inside", "rim"),
    [
        ([(0, 0, 1.05, 1.0)], 0.01, 0.02),
        ([(0, 0, 1.3, 1.0)], 0.01, 0.02),
        ([(0.3, -0.2, 1.3, 1.0)], 0.01, 0.02),
        ([(0, 0, 2.0, 1.0)], 0.03, 0.03),
        ([(0.5, 0.4, 2.0, 1.0)], 0.04, 0.04),
        (foam(1.3), 0.06, 0.12),
    ],
    ids=["1.05", "1.3", "1.3 off", "2", "2 off", "foam"],
)
def test_a_sample_wider_than_the_detector_keeps_its_values(
    discs: list[Disc], inside: float, rim: float, with_noise: bool
) -> None:
    lines = projections_of(discs)
    lines = noisy(lines) if with_noise else lines
    found = errors(lines, discs, "cylinder")
    assert found[0] < inside
    assert found[1] < rim
    edge = errors(lines, discs, "edge")
    assert edge[0] > 1.5 * inside
    assert edge[1] > 1.5 * rim


def test_a_sample_three_times_as_wide_is_no_worse_than_with_edge() -> None:
    discs: list[Disc] = [(0.0, 0.0, 3.0, 1.0)]
    lines = projections_of(discs)
    assert errors(lines, discs, "cylinder")[0] < errors(lines, discs, "edge")[0]
    assert errors(lines, discs, "cylinder")[1] < 0.06


@pytest.mark.parametrize("with_noise", [False, True])
def test_a_sample_inside_the_field_of_view_is_as_without_padding(with_noise: bool) -> None:
    lines = projections_of([(0.1, 0.05, 0.7, 1.0), (0.2, 0.1, 0.2, 1.0)])
    rows = (noisy(lines) if with_noise else lines)[:, None].astype(np.float32)
    slices = [FourierGridding(THETA, N, (N - 1) / 2, padding=padding)(rows)[0] for padding in ("cylinder", "zero")]
    np.testing.assert_allclose(slices[0], slices[1], atol=2e-3 if with_noise else 1e-6)


@pytest.mark.parametrize("n", [40, 127, 300])
def test_the_extension_is_the_cylinders_own_projection_where_it_is_not_weighted(n: int) -> None:
    lines = projections_of([(0.0, 0.0, 1.2, 1.0)], n)[:4]
    # so long that nothing is seen the wrong way round
    wide = extended(lines[:, None].astype(np.float32), 4 * n)[:, 0]
    beyond = np.arange(1, n // 2)
    t = (n - 1) / 2 + beyond
    expected = 2 * np.sqrt(np.maximum((1.2 * n / 2) ** 2 - t**2, 0))
    bound = 0.2 * np.sqrt(n)  # at the very end, where the chord falls steeply
    np.testing.assert_allclose(wide[:, n : n + beyond.size], np.broadcast_to(expected, (4, beyond.size)), atol=bound)
    np.testing.assert_allclose(wide[:, n : n + n // 20], np.broadcast_to(expected[: n // 20], (4, n // 20)), rtol=0.02)
    np.testing.assert_allclose(wide[:, -1 : -beyond.size : -1], wide[:, n : n + beyond.size - 1], rtol=1e-3, atol=0.2)
    np.testing.assert_array_equal(wide[:, :n], lines.astype(np.float32))


def test_a_hollow_sample_has_its_edges_repeated() -> None:
    wall = projections_of([(0.0, 0.0, 1.1, 1.0), (0.0, 0.0, 1.02, -1.0)])
    wide = extended(wall[:, None].astype(np.float32))[:, 0]
    middle = N + (wide.shape[1] - N) // 2
    np.testing.assert_array_equal(wide[:, N:middle], np.broadcast_to(wide[:, N - 1 : N], (180, middle - N)))
    np.testing.assert_array_equal(wide[:, middle:], np.broadcast_to(wide[:, :1], (180, wide.shape[1] - middle)))


def test_a_rows_bits_depend_on_neither_the_rows_beside_it_nor_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    rows = np.stack([noisy(projections_of([(0.0, 0.0, 0.8 + 0.07 * i, 1.0)])) for i in range(18)], axis=1)
    rows = (rows + random.normal(0, 0.1, rows.shape)).astype(np.float32)
    prepared = FourierGridding(THETA, N, (N - 1) / 2, padding="cylinder")
    together = prepared(rows)
    for row in (0, 5, 17):
        np.testing.assert_array_equal(prepared(np.ascontiguousarray(rows[:, row : row + 1]))[0], together[row])
    monkeypatch.setattr(
        "tomopipe.functions.reconstruction.extrapolation.run_in_threads",
        lambda task, count: [task(index) for index in reversed(range(count))],
    )
    np.testing.assert_array_equal(prepared(rows), together)


@pytest.mark.parametrize("n", [2, 3, 5, 16, 33])
@pytest.mark.parametrize("value", [0.0, -1.0, 1.0])
def test_tiny_and_odd_projections_give_finite_slices(n: int, value: float) -> None:
    random = np.random.default_rng(n)
    for noise in (0.0, 0.3):
        rows = (value + noise * random.normal(size=(30, 3, n))).astype(np.float32)
        slices = FourierGridding(np.arange(30) * np.pi / 30, n, (n - 1) / 2, padding="cylinder")(rows)
        assert np.isfinite(slices).all()
        assert np.isfinite(extended(rows)).all()
        if not value and not noise:
            assert not slices.any()


@pytest.mark.parametrize("n", [3, 64, 101])
def test_all_forms_extend_alike(n: int) -> None:
    rows = np.stack([projections_of([(0.1, 0.0, radius, 1.0)], n) for radius in (0.6, 1.1, 1.7, 30.0)], axis=1).astype(
        np.float32
    )
    expected = extended(rows)
    plan = extension_plan(n, padded_length(n))
    found = np.full_like(expected, np.nan)
    extend_lines(rows, found, plan, np.asarray)
    np.testing.assert_allclose(found, expected, atol=2e-3 * n**0.5)
    torch = pytest.importorskip("torch")
    tensor = torch.full(found.shape, torch.nan)
    extend_lines(torch.as_tensor(rows), tensor, plan, torch.as_tensor)
    np.testing.assert_allclose(tensor.numpy(), expected, atol=2e-3 * n**0.5)


def test_the_torch_engine_agrees() -> None:
    pytest.importorskip("torch")
    from tomopipe.functions.reconstruction.torch_direct import TorchReconstructor

    rows = np.stack([projections_of([(0.0, 0.1, 1.15 + 0.3 * i, 1.0)]) for i in range(5)], axis=1)
    rows = rows.astype(np.float32)
    ours = FourierGridding(THETA, N, 62.0, padding="cylinder")(rows)
    for algorithm, bound in (("fourierrec", 1e-3), ("fbp", 0.02)):
        settings = ReconstructionSettings(algorithm, padding="cylinder")
        theirs = TorchReconstructor(THETA, N, 62.0, settings)(rows)
        assert np.sqrt(np.mean((theirs - ours) ** 2)) < bound * ours.std()
        assert abs(theirs.mean() - ours.mean()) < 2e-3
        one = TorchReconstructor(THETA, N, 62.0, settings)(rows[:, 4:5])
        np.testing.assert_array_equal(one[0], theirs[4])


def test_the_adapters_filter_extends_too() -> None:
    lines = projections_of([(0.0, 0.0, 1.3, 1.0)]).astype(np.float32)
    settings = ReconstructionSettings(filter_name="none", padding="cylinder")
    length = padded_length(N)
    made = LineFilter(THETA, N, settings, width=length, axis=63.5, length=length)(lines, 63.5)
    np.testing.assert_allclose(made, extended(lines[:, None])[:, 0], atol=1e-2)


def test_iterative_methods_take_a_margin() -> None:
    assert margin_columns(100, ReconstructionSettings("sirt", padding="cylinder")) == 25
    assert margin_columns(100, ReconstructionSettings("sirt", padding="zero")) == 0


def test_a_method_that_has_it_not_says_so() -> None:
    with pytest.raises(ParameterError, match=r"reconstruction.padding is 'cylinder', which fbp has not"):
        FilteredBackprojection(THETA, N, 63.5, padding="cylinder")
