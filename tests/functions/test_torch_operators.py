"""The operators on a PyTorch device (here the CPU): against sums written out, against the CPU engine, as transposes."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from tomopipe.functions.errors import InputError, ParameterError  # noqa: E402
from tomopipe.functions.reconstruction import torch_direct, torch_gridding, torch_operators  # noqa: E402
from tomopipe.functions.reconstruction.direct import padded_length  # noqa: E402
from tomopipe.functions.reconstruction.fbp import FilteredBackprojection  # noqa: E402
from tomopipe.functions.reconstruction.fourier import FourierGridding, FourierProjector  # noqa: E402
from tomopipe.functions.reconstruction.iterative import IterativeReconstructor  # noqa: E402
from tomopipe.functions.reconstruction.line import LineProjector  # noqa: E402
from tomopipe.functions.reconstruction.settings import ReconstructionSettings  # noqa: E402
from tomopipe.functions.reconstruction.torch_direct import TorchReconstructor  # noqa: E402
from tomopipe.functions.reconstruction.torch_gridding import SpectralGrid  # noqa: E402
from tomopipe.functions.reconstruction.torch_operators import TorchFourierProjector, TorchLineProjector  # noqa: E402

CPU = torch.device("cpu")
PROJECTORS = (TorchLineProjector, TorchFourierProjector)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """These arrays are too small to share."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def angles_of(count: int, seed: int = 0) -> np.ndarray:
    """Any angles, the four special directions among them."""
    theta = np.random.default_rng(seed).uniform(-7, 7, count)
    special = [0.0, math.pi / 2, math.pi / 4, math.pi]
    theta[: min(count, 4)] = special[: min(count, 4)]
    return theta


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.as_tensor(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def pixels(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x and y of the pixels, and which lie inside the circle."""
    x = np.arange(n) - (n - 1) / 2
    y = -x[:, None]
    return np.broadcast_to(x, (n, n)), np.broadcast_to(y, (n, n)), x**2 + y**2 <= n**2 / 4


def joseph_matrix(theta: np.ndarray, n: int, center: float) -> np.ndarray:
    """(angles, columns, n, n): each ray's weights, one interpolation between two pixels after the other."""
    matrix = np.zeros((theta.size, n, n, n))
    middle = (n - 1) / 2
    for a, angle in enumerate(theta):
        cos, sin = np.float32(np.cos(angle)).astype(float), np.float32(np.sin(angle)).astype(float)
        for column in range(n):
            t = column - center
            for step in range(n):
                if abs(sin) > abs(cos):  # from column to column
                    position, length = middle - (t - (step - middle) * cos) / sin, 1 / abs(sin)
                else:
                    position, length = (t - (middle - step) * sin) / cos + middle, 1 / abs(cos)
                left = math.floor(position)
                for pixel, weight in ((left, 1 - (position - left)), (left + 1, position - left)):
                    if 0 <= pixel < n:
                        row, x = (pixel, step) if abs(sin) > abs(cos) else (step, pixel)
                        matrix[a, column, row, x] += weight * length
    return matrix * pixels(n)[2]


def fourier_matrix(theta: np.ndarray, n: int, center: float) -> np.ndarray:
    """(angles, columns, n, n): band-limited points at the pixels, as the detector's sum of cosines sees them."""
    length = padded_length(n)
    x, y, inside = pixels(n)
    k = np.arange(-length // 2, length // 2 + 1)
    ends = np.where(np.abs(k) == length // 2, 0.5, 1.0)
    t = x * np.cos(theta)[:, None, None] + y * np.sin(theta)[:, None, None]
    distance = (np.arange(n) - center)[None, :, None, None] - t[:, None]
    waves = sum(e * np.cos(2 * np.pi * f / length * distance) for f, e in zip(k, ends, strict=True))
    return waves / length * inside


@pytest.mark.parametrize(("columns", "angles"), [(12, 5), (17, 9), (24, 30)])
def test_lines_of_a_slices_spectrum_are_the_sums_over_all_pixels(columns: int, angles: int) -> None:
    theta, padded = angles_of(angles), padded_length(columns)
    grid = SpectralGrid(theta, columns, padded, CPU)
    slices = noise(4, columns, columns)
    i = np.arange(columns) - columns // 2
    position = i[None, None, :] * np.cos(theta)[:, None, None] - i[None, :, None] * np.sin(theta)[:, None, None]
    waves = np.exp(-2j * np.pi / padded * np.arange(padded // 2 + 1)[:, None, None] * position[:, None])
    expected = np.einsum("lij,akij->akl", slices.numpy(), waves)
    found = torch.view_as_complex(grid.to_lines(slices)).numpy()
    assert np.abs(found - expected).std() < 2e-4 * np.abs(expected).std()

    samples = noise(angles, padded // 2 + 1, 4, 2, seed=1)
    samples[:, 0, :, 1] = 0
    twice = np.where(np.arange(padded // 2 + 1) > 0, 2, 1)[:, None]
    spectra = torch.view_as_complex(samples).numpy() * twice
    expected_slices = np.einsum("akl,akij->lij", spectra, waves.conj()).real
    found_slices = grid.to_slices(samples).numpy()
    assert (found_slices - expected_slices).std() < 2e-4 * expected_slices.std()


def test_a_tile_with_many_samples_is_split_without_losing_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_gridding, "MOST_ENTRIES_A_PROGRAM", 50)
    grid = SpectralGrid(angles_of(40), 24, 48, CPU)
    plan = torch_gridding._spreading(grid)
    first, last, tile, slot = (part.numpy() for part in plan.programs)
    covered = np.zeros(plan.entries[0].numel(), dtype=int)
    for begin, end in zip(first, last, strict=True):
        assert end - begin <= 50
        covered[begin:end] += 1
    assert (covered == 1).all()
    split_first, split_last, split_tile = (part.numpy() for part in plan.split)
    assert plan.slots == split_last[-1] > 0
    for begin, end, number in zip(split_first, split_last, split_tile, strict=True):
        assert set(slot[tile == number]) == set(range(begin, end))
    assert (slot[~np.isin(tile, split_tile)] == -1).all()
    whole_tiles = tile[slot < 0]
    assert sorted([*whole_tiles, *split_tile]) == list(range(math.ceil(19 / 8) * math.ceil(36 / 8)))


@pytest.mark.parametrize("columns", [9, 14])
@pytest.mark.parametrize(
    ("projector", "matrix", "accuracy"),
    [(TorchLineProjector, joseph_matrix, 1e-5), (TorchFourierProjector, fourier_matrix, 1e-3)],
)
def test_projections_are_the_sums_written_out(columns: int, projector: type, matrix: object, accuracy: float) -> None:
    theta = angles_of(7)
    centers = (columns - 1) / 2 + np.array([0.0, 0.7, -2.3, 3.0])
    slices = noise(columns, columns, 4)
    found = projector(theta, columns, centers, CPU).forward(slices).numpy()
    for lane, center in enumerate(centers):
        weights = matrix(theta, columns, center)
        expected = np.einsum("acij,ij->ac", weights, slices[..., lane].numpy())
        assert np.abs(found[..., lane] - expected).max() < accuracy * expected.std() * 10
        assert (found[..., lane] - expected).std() < accuracy * expected.std()


@settings(deadline=None, max_examples=6)
@given(st.integers(5, 24), st.integers(1, 12), st.floats(-0.3, 0.3), st.integers(0, 1000), st.booleans())
@pytest.mark.parametrize("projector", PROJECTORS)
def test_adjoint_is_the_transpose(
    projector: type, columns: int, angles: int, offset: float, seed: int, own_centers: bool
) -> None:
    center = (columns - 1) / 2 + offset * columns
    centers = center + np.linspace(-1, 1, 4) if own_centers else np.full(4, center)
    operator = projector(angles_of(angles, seed), columns, centers, CPU)
    slices, projections = noise(columns, columns, 4, seed=seed), noise(angles, columns, 4, seed=seed + 1)
    image, back = operator.forward(slices), operator.adjoint(projections)
    difference = (image * projections).sum((0, 1)) - (slices * back).sum((0, 1))
    scale = image.norm(dim=(0, 1)) * projections.norm(dim=(0, 1))
    assert (difference.abs() <= 1e-5 * scale).all()
    outside = ~pixels(columns)[2]
    assert not back.numpy()[outside].any()
    changed = slices.clone()
    changed[torch.as_tensor(outside)] += 1
    assert torch.equal(operator.forward(changed), image)


@pytest.mark.parametrize(
    ("ours", "theirs", "accuracy"),
    [(TorchLineProjector, LineProjector, 1e-5), (TorchFourierProjector, FourierProjector, 3e-3)],
)
@pytest.mark.parametrize("columns", [30, 47])
def test_the_cpu_engine_has_the_same_operators(ours: type, theirs: type, accuracy: float, columns: int) -> None:
    theta, center = angles_of(20), (columns - 1) / 2 + 1.3
    slices, projections = noise(columns, columns, 16), noise(20, columns, 16)
    here, there = ours(theta, columns, center, CPU), theirs(theta, columns, center)
    for found, expected in (
        (here.forward(slices).numpy(), there.forward(slices.numpy())),
        (here.adjoint(projections).numpy(), there.adjoint(projections.numpy())),
    ):
        assert (found - expected).std() < accuracy * expected.std()


@pytest.mark.parametrize("projector", PROJECTORS)
def test_a_lane_is_computed_alone_and_out_is_filled(projector: type) -> None:
    theta, n = angles_of(9), 21
    slices, projections = noise(n, n, 16), noise(9, n, 16)
    operator = projector(theta, n, 10.4, CPU)
    others = slices.clone()
    others[..., :7], others[..., 8:] = 5.0, 0.0
    assert torch.equal(operator.forward(others)[..., 7], operator.forward(slices)[..., 7])
    others = projections.clone()
    others[..., :7], others[..., 8:] = 5.0, 0.0
    assert torch.equal(operator.adjoint(others)[..., 7], operator.adjoint(projections)[..., 7])
    for out in (torch.full((9, n, 16), 7.0), torch.full((9, 16, n), 7.0).permute(0, 2, 1)):
        assert operator.forward(slices, out=out) is out
        assert torch.equal(out, operator.forward(slices))
    for out in (torch.full((n, n, 16), 7.0), torch.full((16, n, n), 7.0).permute(1, 2, 0)):
        assert operator.adjoint(projections, out=out) is out
        assert torch.equal(out, operator.adjoint(projections))


@pytest.mark.parametrize("projector", PROJECTORS)
def test_subset_is_the_same_operator_for_fewer_angles(projector: type) -> None:
    theta, n = angles_of(11), 18
    slices, projections = noise(n, n, 4), noise(11, n, 4)
    operator = projector(theta, n, np.array([8.0, 8.5, 9.0, 9.5]), CPU)
    part = operator.subset(slice(1, None, 3))
    assert (part.angles, part.columns, part.lanes) == (4, n, 4)
    torch.testing.assert_close(part.forward(slices), operator.forward(slices)[1::3])
    kept = torch.zeros_like(projections)
    kept[1::3] = projections[1::3]
    torch.testing.assert_close(part.adjoint(projections[1::3]), operator.adjoint(kept), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("projector", PROJECTORS)
@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e6])
def test_half_precision_loses_a_thousandth_whatever_the_units(projector: type, scale: float) -> None:
    theta, n = angles_of(9), 21
    slices, projections = scale * noise(n, n, 4), scale * noise(9, n, 4)
    slices[..., 1] *= 1e-5  # lanes do not share a scale
    projections[..., 1] *= 1e-5
    projections[..., 2] = 0
    centers = np.full(4, 10.2)
    single, half = (projector(theta, n, centers, CPU, dtype) for dtype in (torch.float32, torch.float16))
    for expected, found in (
        (single.forward(slices), half.forward(slices)),
        (single.adjoint(projections), half.adjoint(projections)),
    ):
        error, size = (found - expected).std((0, 1)), expected.std((0, 1))
        assert (error <= 2e-3 * size).all()
    assert (half.adjoint(projections) - single.adjoint(projections)).abs().max() > 0


def test_centers_that_are_no_power_of_two_are_refused() -> None:
    with pytest.raises(ParameterError, match="power of two"):
        TorchLineProjector(angles_of(3), 8, np.array([3.0, 3.5, 4.0]), CPU)


def disc_projections(theta: np.ndarray, n: int, center: float, x: float, y: float, radius: float) -> np.ndarray:
    """Exact line integrals of a disc of value 1."""
    t = np.arange(n) - center
    distance = t - (x * np.cos(theta) + y * np.sin(theta))[:, None]
    return (2 * np.sqrt(np.maximum(0, radius**2 - distance**2))).astype(np.float32)


def test_discs_come_out_where_and_as_bright_as_they_are() -> None:
    n, theta, rows = 80, np.arange(120) * np.pi / 120, 5
    centers = (n - 1) / 2 + np.array([0.0, 3.2, -4.9, 1.0, 0.5])
    projections = np.stack([disc_projections(theta, n, c, -12.0, 20.0, 9.0 + r) for r, c in enumerate(centers)], axis=1)
    x, y, _ = pixels(n)
    for algorithm in ("fbp", "fourierrec"):
        slices = TorchReconstructor(theta, n, None, ReconstructionSettings(algorithm, padding="zero"))(
            projections, center=centers
        )
        for row in range(rows):
            distance = np.hypot(x + 12, y - 20)
            inside, outside = distance < 7 + row, (distance > 12 + row) & pixels(n)[2]
            assert abs(slices[row][inside].mean() - 1) < 3e-3
            assert abs(slices[row][outside].mean()) < 3e-3
            assert not slices[row][~pixels(n)[2]].any()


@pytest.mark.parametrize(("columns", "angles"), [(33, 20), (48, 30)])
@pytest.mark.parametrize(("padding", "filter_name"), [("edge", "ramp"), ("zero", "butterworth")])
def test_direct_methods_agree_with_the_cpu_engine(columns: int, angles: int, padding: str, filter_name: str) -> None:
    theta = np.sort(np.random.default_rng(3).uniform(0, np.pi, angles))
    projections = np.random.default_rng(4).standard_normal((angles, 3, columns)).astype(np.float32)
    projections = np.cumsum(projections, axis=2)  # rough, with different values at the edges
    centers = columns / 2 + np.array([0.3, -1.2, 2.0])
    for algorithm, theirs, accuracy in (("fbp", FilteredBackprojection, 1e-5), ("fourierrec", FourierGridding, 1e-2)):
        chosen = ReconstructionSettings(algorithm, filter_name=filter_name, filter_cutoff=0.6, padding=padding)
        found = TorchReconstructor(theta, columns, centers, chosen)(projections)
        expected = theirs(theta, columns, centers, filter_name=filter_name, filter_cutoff=0.6, padding=padding)(
            projections
        )
        assert (found - expected).std() < accuracy * expected.std()


@pytest.mark.parametrize("algorithm", ["fbp", "fourierrec", "sirt", "cgls"])
@pytest.mark.parametrize("precision", ["single", "half"])
def test_bits_depend_neither_on_the_batch_nor_on_the_memory(algorithm: str, precision: str) -> None:
    n, theta = 18, np.arange(10) * np.pi / 10
    projections = np.random.default_rng(5).standard_normal((10, 19, n)).astype(np.float32)
    chosen = ReconstructionSettings(algorithm, precision=precision, iterations=2, padding="zero")
    ready = TorchReconstructor(theta, n, 8.1, chosen)
    everything = ready(projections)
    assert np.array_equal(ready(projections[:, 17:18])[0], everything[17])
    given = np.full_like(everything, 7)
    assert ready(projections, out=given) is given
    assert np.array_equal(given, everything)
    assert np.array_equal(ready.reconstruct_on_device(torch.as_tensor(projections)).numpy(), everything)
    little = torch_direct.device_bytes(10, n, 4, chosen)
    if chosen.is_direct:
        small = TorchReconstructor(theta, n, 8.1, chosen, memory_bytes=little)
        assert small.rows_per_batch == 4
        assert np.array_equal(small(projections), everything)
    else:
        with pytest.raises(ParameterError, match="to spare"):
            TorchReconstructor(theta, n, 8.1, chosen, memory_bytes=little)


@pytest.mark.parametrize("algorithm", ["fbp", "fourierrec"])
def test_half_precision_stays_near_single(algorithm: str) -> None:
    n, theta = 40, np.arange(60) * np.pi / 60
    projections = disc_projections(theta, n, 19.5, 3.0, 2.0, 11.0)[:, None] * np.float32(1e-4)
    single = TorchReconstructor(theta, n, 19.5, ReconstructionSettings(algorithm))(projections)
    half = TorchReconstructor(theta, n, 19.5, ReconstructionSettings(algorithm, precision="half"))(projections)
    assert 0 < (half - single).std() < 1e-3 * single.std()


@pytest.mark.parametrize(
    ("algorithm", "projector", "padding"),
    [
        ("sirt", "line", "zero"),
        ("sirt", "fourier", "edge"),
        ("cgls", "fourier", "zero"),
        ("tv", "line", "edge"),
        ("mlem", "line", "zero"),
        ("osem", "line", "edge"),
    ],
)
def test_iterative_methods_agree_with_the_cpu_engine(algorithm: str, projector: str, padding: str) -> None:
    n, theta = 24, np.arange(12) * np.pi / 12
    projections = np.stack([disc_projections(theta, n, 12.2, 3.0 * r, -2.0, 5.0 + 5 * r) for r in range(2)], axis=1)
    chosen = ReconstructionSettings(
        algorithm, projector=projector, iterations=3, padding=padding, subsets=3, warm_start=algorithm == "sirt"
    )
    found = TorchReconstructor(theta, n, 12.2, chosen)(projections)
    expected = IterativeReconstructor(theta, n, 12.2, chosen)(projections)
    assert found.shape == expected.shape == (2, n, n)
    assert (found - expected).std() < 2e-3 * expected.std()


@pytest.mark.parametrize("padding", ["zero", "edge"])
def test_a_warm_start_is_the_cpu_engines_whatever_the_filter(padding: str) -> None:
    n, theta = 24, np.arange(40) * np.pi / 40
    projections = disc_projections(theta, n, 12.2, 3.0, -2.0, 5.0)[:, None]
    chosen = ReconstructionSettings(
        "sirt", filter_name="hann", filter_cutoff=0.5, iterations=1, padding=padding, warm_start=True
    )
    found = TorchReconstructor(theta, n, 12.2, chosen)(projections)
    expected = IterativeReconstructor(theta, n, 12.2, chosen)(projections)
    assert (found - expected).std() < 2e-3 * expected.std()


def test_what_cannot_be_used_is_refused_in_words() -> None:
    theta, n = np.arange(6) * 0.5, 16
    projections = np.ones((6, 2, n), np.float32)
    ready = TorchReconstructor(theta, n, 7.5)
    with pytest.raises(InputError, match=r"shape \(5, 2, 16\); needed is \(6 angles, rows, 16 columns\)"):
        ready(projections[:5])
    with pytest.raises(InputError, match=r"out is float64 of shape \(1, 16, 16\)"):
        ready(projections, out=np.empty((1, n, n)))
    with pytest.raises(ParameterError, match="center is missing"):
        TorchReconstructor(theta, n)(projections)
    with pytest.raises(ParameterError, match=r"center is 30\.0; it must lie on the detector, 0 to 15"):
        ready(projections, center=30.0)
    with pytest.raises(ParameterError, match="one for each of 2 rows"):
        ready(projections, center=np.array([7.0, 7.0, 7.0]))
    with pytest.raises(ParameterError, match=r"algorithm is 'magic'"):
        TorchReconstructor(theta, n, 7.5, ReconstructionSettings("magic"))
    with pytest.raises(ParameterError, match=r"algorithm is 'lprec'; it must be one of fbp, gridrec, fourierrec, sirt"):
        TorchReconstructor(theta, n, 7.5, ReconstructionSettings("lprec"))
    with pytest.raises(ParameterError, match=r"padding is 'mirror'"):
        TorchReconstructor(theta, n, 7.5, ReconstructionSettings(padding="mirror"))
    with pytest.raises(ParameterError, match=r"precision is 'quarter'"):
        TorchReconstructor(theta, n, 7.5, ReconstructionSettings(precision="quarter"))(projections)
    with pytest.raises(ParameterError, match=r"GiB to spare.*use fewer workers"):
        TorchReconstructor(theta, n, 7.5, memory_bytes=1000)
    with pytest.raises(InputError, match="theta"):
        TorchReconstructor([np.nan], n, 7.5)


def test_a_wish_for_memory_counts_everything_that_grows() -> None:
    for algorithm in ("fbp", "fourierrec", "sirt"):
        chosen = ReconstructionSettings(algorithm)
        one, two = (torch_direct.device_bytes(1000, 1000, lanes, chosen) for lanes in (4, 8))
        a_slice_and_its_projections = 4 * (1000**2 + 1000 * 1000)
        assert two - one >= 4 * 3 * a_slice_and_its_projections
    assert torch_direct.device_bytes(
        1000, 1000, 16, ReconstructionSettings(precision="half")
    ) < torch_direct.device_bytes(1000, 1000, 16, ReconstructionSettings())


def test_padding_repeats_the_edges_halfway_round() -> None:
    line = torch.tensor([[1.0, 2.0, 3.0]])
    assert torch_operators.pad(line, 8, True).tolist() == [[1, 2, 3, 3, 3, 1, 1, 1]]
    assert torch_operators.pad(line, 8, False).tolist() == [[1, 2, 3, 0, 0, 0, 0, 0]]
