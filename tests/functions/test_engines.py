"""Engines: which one is taken, and that each converts to the one convention, against closed forms and one another.

TomocuPy needs CUDA: a stand-in does the same sums in NumPy, on the grid and in the scale that its kernels have.
"""

from __future__ import annotations

import importlib.machinery
import subprocess
import sys
import types
import warnings
from collections.abc import Iterator
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import numpy.typing as npt
import pytest
from scipy.integrate import quad
from scipy.special import pro_ang1

from tomopipe.functions.device import Device
from tomopipe.functions.errors import InputError, ParameterError
from tomopipe.functions.reconstruction import threads
from tomopipe.functions.reconstruction.engines import ENGINES, get_engine
from tomopipe.functions.reconstruction.engines.adapted import LineFilter, power_of_two
from tomopipe.functions.reconstruction.engines.astra import AstraEngine
from tomopipe.functions.reconstruction.engines.native import NativeEngine
from tomopipe.functions.reconstruction.engines.tomocupy import ROWS, TomocupyEngine
from tomopipe.functions.reconstruction.engines.tomopy import TomopyEngine, gridrec_gain
from tomopipe.functions.reconstruction.filters import FILTERS
from tomopipe.functions.reconstruction.geometry import angular_weights
from tomopipe.functions.reconstruction.settings import ReconstructionSettings

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]

CUDA = Device("cuda", 2)
ADAPTED: dict[str, Any] = {"tomopy": TomopyEngine(), "astra": AstraEngine(), "tomocupy": TomocupyEngine()}


# --- truth ------------------------------------------------------------------------------------------------------------


def half_circle(angles: int) -> Array:
    return np.arange(angles) * np.pi / angles


def within(columns: int, part: float) -> npt.NDArray[np.bool_]:
    r = np.arange(columns) - (columns - 1) / 2
    return r[:, None] ** 2 + r[None, :] ** 2 <= (part * columns / 2) ** 2


def disc_projections(theta: Array, columns: int, center: float, radius: float, x: float, y: float) -> Array:
    t = np.arange(columns) - center - (x * np.cos(theta) + y * np.sin(theta))[:, None]
    return 2 * np.sqrt(np.maximum(radius**2 - t**2, 0))


def blob_projections(theta: Array, columns: int, center: float, x: float, y: float, sigma: float) -> Array:
    """Line integrals of exp(-r^2 / (2 sigma^2)) about (x, y) pixels from the rotation axis; band limited for sigma > 2."""
    t = np.arange(columns) - center - (x * np.cos(theta) + y * np.sin(theta))[:, None]
    return np.sqrt(2 * np.pi) * sigma * np.exp(-(t**2) / (2 * sigma**2))


def blob_slice(columns: int, x: float, y: float, sigma: float) -> Array:
    middle = (columns - 1) / 2
    across, up = np.arange(columns) - middle - x, middle - np.arange(columns) - y
    return np.exp(-(across[None, :] ** 2 + up[:, None] ** 2) / (2 * sigma**2))


def blob_misfit(image: Floats, x: float, y: float, sigma: float) -> tuple[float, Array]:
    """Height of a blob and its displacement (x, y) in pixels: least squares of the blob and its slopes to the image."""
    columns = image.shape[0]
    middle = (columns - 1) / 2
    across, up = np.arange(columns)[None, :] - middle - x, middle - np.arange(columns)[:, None] - y
    blob = blob_slice(columns, x, y, sigma)
    parts = [part[within(columns, 0.9)] for part in (blob, blob * across / sigma**2, blob * up / sigma**2)]
    height, *slopes = np.linalg.lstsq(np.stack(parts, 1), image[within(columns, 0.9)].astype(float), rcond=None)[0]
    return float(height), np.array(slopes) / height


def noisy_rows(rows: int, columns: int, angles: int) -> Floats:
    """Smooth noise: the packages interpolate differently where there is structure finer than a pixel or two."""
    random = np.random.default_rng(4)
    x, y = random.uniform(-0.3 * columns, 0.3 * columns, (2, rows, 12))
    sinograms = [
        sum(
            blob_projections(half_circle(angles), columns, (columns - 1) / 2, *place, 3.0)
            for place in zip(*row, strict=True)
        )
        for row in zip(x, y, strict=True)
    ]
    return np.stack(sinograms, axis=1).astype(np.float32)


# --- stand-ins --------------------------------------------------------------------------------------------------------


class Record:
    """What the stand-in of TomocuPy was given."""

    def __init__(self) -> None:
        self.plans: list[tuple[int, int, int]] = []
        self.data: list[npt.NDArray[Any]] = []
        self.devices: list[int] = []


def sum_along_lines(data: npt.NDArray[Any], theta: Floats, axis: float, x: Array, y: Array, *, linear: bool) -> Array:
    """Sum over the angles of data (rows, angles, width) at x cos + y sin + axis: trigonometric or linear interpolation."""
    rows, _, width = data.shape
    pixels = np.broadcast_shapes(x.shape, y.shape)
    total = np.zeros((*pixels, rows))
    frequency = np.arange(width) - width // 2
    spectra = np.fft.fftshift(np.fft.fft(data.astype(float)), axes=2) / width
    for index, angle in enumerate(theta.astype(float)):
        position = x * np.cos(angle) + y * np.sin(angle) + axis
        if linear:
            for row in range(rows):
                total[..., row] += np.interp(
                    position, np.arange(width), data[row, index].astype(float), left=0, right=0
                )
            continue
        wave = np.exp(2j * np.pi / width * position)
        # Powers of one wave are cheaper than as many exponentials.
        waves = (
            np.cumprod(np.broadcast_to(wave[..., None], (*pixels, width)), axis=-1)
            * (wave ** (frequency[0] - 1))[..., None]
        )
        total += (waves @ spectra[:, index].T).real
    return np.moveaxis(total, -1, 0)


def stand_in_class(record: Record, kind: str) -> type:
    class Backprojection:
        def __init__(self, *arguments: Any) -> None:
            if kind == "linerec":
                self.theta, angles, ncproj, rows, slices, self.width, dtype = arguments
                assert (ncproj, slices) == (angles, rows)
                assert rows >= 2  # it interpolates between rows
            else:
                self.width, angles, rows, self.theta, dtype = arguments
            assert self.theta.dtype == np.float32
            assert self.theta.shape == (angles,)
            assert self.width % 2 == 0
            assert rows % 2 == 0
            self.shape, self.dtype = (rows, angles, self.width), np.dtype(dtype)
            if dtype == "float16":
                assert self.width == power_of_two(self.width)
            record.plans.append(self.shape)

        def backprojection(self, result: npt.NDArray[Any], data: npt.NDArray[Any], stream: Any) -> None:
            assert data.shape == self.shape
            assert data.dtype == result.dtype == self.dtype
            assert data.flags.c_contiguous
            assert result.flags.c_contiguous
            assert stream.entered
            record.data.append(data.copy())
            n = self.width
            r = np.arange(n)
            x, y = r[None, :] - n / 2, n / 2 - 1 - r[:, None]
            axis, scale = n / 2, 4 / len(self.theta)
            if kind == "lprec":
                axis, scale = (n - 1) / 2, 1.37  # a grid of its own and a constant that nobody can explain
                x, y = x + 0.5 / n, y + 0.5 / n
            inside = 4 * ((x / n) ** 2 + ((y + 1) / n) ** 2) < 1
            used = [row for row in range(self.shape[0]) if data[row].any()]
            images = sum_along_lines(data[used], self.theta, axis, x, y, linear=kind == "linerec")
            result[used] = np.where(inside, scale * images, 0)

    return Backprojection


class Stream:
    def __init__(self, non_blocking: bool = False) -> None:
        self.entered = False

    def __enter__(self) -> Stream:
        self.entered = True
        return self

    def __exit__(self, *_: object) -> None:
        self.entered = False

    def synchronize(self) -> None:
        pass


@pytest.fixture
def tomocupy(monkeypatch: pytest.MonkeyPatch) -> Record:
    """TomocuPy and CuPy, as far as the adapter uses them, on NumPy arrays."""
    record = Record()

    class CudaDevice:
        def __init__(self, index: int) -> None:
            self.index = index

        def __enter__(self) -> None:
            record.devices.append(self.index)

        def __exit__(self, *_: object) -> None:
            pass

    cupy = types.ModuleType("cupy")
    for name in ("asarray", "zeros", "where", "fft"):
        setattr(cupy, name, getattr(np, name))
    cupy.asnumpy = np.array  # type: ignore[attr-defined]
    cupy.cuda = types.SimpleNamespace(Device=CudaDevice, Stream=Stream)  # type: ignore[attr-defined]
    modules = {"cupy": cupy, "tomocupy": types.ModuleType("tomocupy")}
    modules["tomocupy.reconstruction"] = types.ModuleType("tomocupy.reconstruction")
    for kind, class_name in (("fourierrec", "FourierRec"), ("linerec", "LineRec"), ("lprec", "LpRec")):
        module = modules[f"tomocupy.reconstruction.{kind}"] = types.ModuleType(kind)
        setattr(module, class_name, stand_in_class(record, kind))
    for name, module in modules.items():
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)
    return record


@pytest.fixture
def tomopy() -> Iterator[Any]:
    yield from _installed("tomopy")


@pytest.fixture
def astra() -> Iterator[Any]:
    yield from _installed("astra")


def _installed(name: str) -> Iterator[Any]:
    with warnings.catch_warnings():  # another package's, at import or at work, are not ours to mend
        warnings.simplefilter("ignore")
        yield pytest.importorskip(name, reason=f"{name} is not installed", exc_type=ImportError)


@pytest.fixture(params=sorted(ADAPTED))
def engine(request: pytest.FixtureRequest) -> Any:
    request.getfixturevalue(request.param)
    return ADAPTED[request.param]


def reconstruct(
    engine: Any, projections: Floats, theta: Array, center: float | Array, algorithm: str, **settings: Any
) -> Floats:
    device = CUDA if engine.name == "tomocupy" else Device("cpu")
    chosen = ReconstructionSettings(algorithm=algorithm, **{"filter_name": "ramp", "padding": "zero", **settings})
    prepared = engine.prepare(theta, projections.shape[2], center, settings=chosen, device=device)
    slices: Floats = prepared(projections)
    return slices


# --- which engine -----------------------------------------------------------------------------------------------------


def test_auto_is_tomocupy_on_cuda_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for there in (True, False):
        monkeypatch.setattr(TomocupyEngine, "available", lambda _, there=there: there)
        assert get_engine("auto", Device("cuda")).name == ("tomocupy" if there else "native")
        assert get_engine("auto", Device("cpu")).name == "native"
        assert get_engine("auto", Device("xpu")).name == "native"
        assert get_engine().name == "native"


def test_engines_by_name() -> None:
    assert get_engine("native").available()
    assert get_engine("native").algorithms == {"fbp", "gridrec", "fourierrec", "sirt", "cgls", "tv", "mlem", "osem"}
    with pytest.raises(ParameterError, match=r"'cupy'; it must be one of auto, native, tomopy, tomocupy, astra"):
        get_engine("cupy")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("tomopy", "conda install -c conda-forge tomopy"),
        ("tomocupy", "conda install -c conda-forge tomocupy"),
        ("astra", "pip install astra-toolbox"),
    ],
)
def test_a_missing_engine_says_how_to_install_it(name: str, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(ADAPTED[name]), "available", lambda _: False)
    with pytest.raises(ParameterError, match=rf"'{name}', which is not installed here; .*{remedy}"):
        get_engine(name)


def test_a_broken_package_is_told_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "astra", None)
    with pytest.raises(ParameterError, match=r"needs astra, which cannot be imported.*pip install astra-toolbox"):
        AstraEngine().prepare(half_circle(9), 16, settings=ReconstructionSettings(algorithm="fbp"))


def test_nothing_heavy_is_imported_to_know_the_engines() -> None:
    code = (
        "import sys; from tomopipe.functions.reconstruction import engines as e\n"
        "for name in e.ENGINES:\n"
        "    try: e.get_engine(name)\n"
        "    except Exception as error: assert 'not installed' in str(error), error\n"
        "print([m for m in ('tomopy', 'astra', 'cupy', 'tomocupy', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert set(ENGINES) == {"auto", "native", *ADAPTED}


def test_native_takes_the_class_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    module = types.ModuleType("torch_direct")
    module.TorchReconstructor = lambda *arguments: calls.append(arguments)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tomopipe.functions.reconstruction.torch_direct", module)
    theta = half_circle(7)
    for algorithm in ("fourierrec", "sirt"):
        settings = ReconstructionSettings(algorithm=algorithm)
        NativeEngine().prepare(theta, 16, 7.5, settings=settings, device=Device("xpu", 3))
        assert calls.pop() == (theta, 16, 7.5, settings, "xpu:3")
    NativeEngine().prepare(theta, 16, 7.5, settings=ReconstructionSettings(algorithm="fbp"))
    assert not calls


def test_native_uses_every_filter_setting() -> None:
    projections = noisy_rows(1, 32, 40) + np.random.default_rng(0).normal(size=(40, 1, 32)).astype(np.float32)
    images = [
        NativeEngine().prepare(half_circle(40), 32, 15.5, settings=ReconstructionSettings(**settings))(projections)
        for settings in (
            {"filter_name": "butterworth", "filter_cutoff": 0.4},
            {"filter_name": "butterworth", "filter_cutoff": 0.4, "filter_order": 6},
            {"filter_name": "butterworth", "filter_cutoff": 0.6},
            {"filter_name": "butterworth", "filter_cutoff": 0.6, "padding": "zero"},
            {"filter_name": "butterworth", "filter_cutoff": 0.6, "algorithm": "fbp"},
            {"filter_name": "hann", "filter_cutoff": 0.6},
        )
    ]
    for i, one in enumerate(images):
        for other in images[:i]:
            assert np.abs(one - other).max() > 1e-3 * np.abs(one).max()


@pytest.mark.parametrize("algorithm", ["sirt", "cgls"])
def test_native_iterates(algorithm: str) -> None:
    engine, settings = NativeEngine(), ReconstructionSettings(algorithm=algorithm, iterations=25)
    projections = blob_projections(half_circle(60), 40, 18.7, 4.0, -7.5, 3.0)[:, None].astype(np.float32)
    image = engine.prepare(half_circle(60), 40, 18.7, settings=settings)(projections)[0]
    height, displaced = blob_misfit(image, 4.0, -7.5, 3.0)
    assert height == pytest.approx(1, abs=0.1)
    assert np.abs(displaced).max() < 0.05
    assert engine.rows_per_batch(settings) == 16
    assert engine.fixed_memory_bytes(60, 40, settings) > 16 * 4 * 40 * (60 + 40)


# --- what the adapters share ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [40, 41])
def test_lines_are_moved_and_weighted(columns: int) -> None:
    theta = np.deg2rad(np.concatenate([np.arange(0, 90, 3.0), np.arange(90, 180, 6.0)]))
    settings = ReconstructionSettings(filter_name="none", padding="zero")
    moved = LineFilter(theta, columns, settings, width=columns + 6, axis=21.5, length=128, offset=0.37)
    center = 0.52 * columns
    lines = moved(blob_projections(theta, columns, center, 2.0, -3.0, 3.0).astype(np.float32), center)
    # A detector as wide as the result, with its axis at 21.5 and the object displaced the other way.
    expected = blob_projections(theta, columns + 6, 21.5, 2.0 - 0.37, -3.0 - 0.37, 3.0)
    expected *= (angular_weights(theta) * theta.size / np.pi)[:, None]
    assert lines.dtype == np.float32
    np.testing.assert_allclose(lines, expected, atol=2e-4 * expected.max())


def test_lines_are_padded_on_either_side() -> None:
    line = np.linspace(2, 5, 20, dtype=np.float32)[None]
    for padding, left, right in (("edge", 2.0, 5.0), ("zero", 0.0, 0.0)):
        settings = ReconstructionSettings(filter_name="none", padding=padding)
        moved = LineFilter(np.zeros(1), 20, settings, width=26, axis=12.0, length=64)
        result = moved(line, 9.0)[0]
        np.testing.assert_allclose(result, [left] * 3 + list(line[0]) + [right] * 3, atol=1e-5)


@pytest.mark.parametrize("position", [-20, -7, 0, 11, 31])
def test_gridrecs_gain_is_its_kernel_over_its_correction(position: int) -> None:
    """The transform of the truncated kernel, integrated numerically, beside the value that gridrec divides by."""
    length, parameter, eigenvalue = 128, 7.0, 0.99998546

    def prolate(s: float) -> float:
        return float(pro_ang1(0, 0, parameter, min(abs(s), 1 - 1e-9))[0])

    transform = quad(lambda u: 2 * prolate(u / 2) / prolate(0) * np.cos(2 * np.pi * u * position / length), 0, 2)[0]
    norm = np.sqrt(np.pi / 2 / parameter / eigenvalue) / 1.2
    half = length // 2
    correction = norm / (prolate(round(abs(position + 1) * 512 / (half - 0.5)) / 512) / prolate(0))
    gain = gridrec_gain(np.array([position]), length)[0]
    assert gain == pytest.approx(transform * correction, rel=1e-4)
    assert 0.7 < gain < 1.3


# --- every adapted engine ---------------------------------------------------------------------------------------------


def test_available(engine: Any) -> None:
    assert engine.available()
    assert get_engine(engine.name).name == engine.name


@pytest.mark.parametrize("algorithm", ["gridrec", "fourierrec", "lprec", "fbp"])
@pytest.mark.parametrize(("columns", "center"), [(48, 23.5), (47, 20.3)])
def test_direct_methods_have_position_and_height(engine: Any, algorithm: str, columns: int, center: float) -> None:
    if algorithm not in engine.algorithms:
        with pytest.raises(ParameterError, match=f"'{algorithm}'; the engine {engine.name} offers"):
            engine.rows_per_batch(ReconstructionSettings(algorithm=algorithm))
        return
    theta = half_circle(75)
    projections = blob_projections(theta, columns, center, 7.25, -5.6, 2.8)[:, None].astype(np.float32)
    image = reconstruct(engine, projections, theta, center, algorithm)[0]
    truth = blob_slice(columns, 7.25, -5.6, 2.8)
    bound = {"fbp": 0.05, "lprec": 4e-3}.get(algorithm, 4e-3 if engine.name == "tomopy" else 3e-4)
    assert np.abs(image - truth)[within(columns, 0.9)].max() < bound
    height, displaced = blob_misfit(image, 7.25, -5.6, 2.8)
    assert height == pytest.approx(1, abs=bound)
    assert np.abs(displaced).max() < 0.01
    assert not image[~within(columns, 1.0)].any()
    assert image.dtype == np.float32


def test_a_disc_reads_one_at_uneven_angles(engine: Any) -> None:
    theta = np.deg2rad(np.concatenate([np.arange(0, 90, 1.0), np.arange(90, 180, 2.0)]))[::-1]
    projections = disc_projections(theta, 64, 30.1, 24.0, 3.0, 2.0)[:, None].astype(np.float32)
    for algorithm in ("fourierrec", "fbp"):
        if algorithm not in engine.algorithms:
            continue
        image = reconstruct(engine, projections, theta, 30.1, algorithm)[0]
        inner = blob_slice(64, 3.0, 2.0, 16.0) > np.exp(-0.5)  # up to 16 of the 24 pixels
        assert image[inner].mean() == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("padding", ["edge", "zero"])
def test_filters_and_padding_are_the_native_engines(engine: Any, padding: str) -> None:
    """With every filter; where the edges go on, a disc that is wider than the detector."""
    theta = half_circle(40)
    radius = 23.0 if padding == "edge" else 11.0
    projections = disc_projections(theta, 32, 16.2, radius, 0.0, 0.0)[:, None].astype(np.float32)
    algorithm = "fourierrec" if "fourierrec" in engine.algorithms else "fbp"
    for name in FILTERS:
        settings = {"filter_name": name, "padding": padding, "filter_cutoff": 0.8}
        image = reconstruct(engine, projections, theta, 16.2, algorithm, **settings)[0]
        native = reconstruct(NativeEngine(), projections, theta, 16.2, algorithm, **settings)[0]
        inside = within(32, 0.7)
        difference = np.abs(image - native)[inside].max()
        assert difference < 0.05 * np.abs(native[inside]).max(), name


def test_each_row_has_its_own_center_and_no_neighbour(engine: Any) -> None:
    theta = half_circle(60)
    rows = 2 * max(ROWS, threads.thread_count()) + 3
    centers = 19.5 + np.linspace(-2, 2, rows)
    projections = np.stack([blob_projections(theta, 40, c, 3.0, -4.0, 3.0) for c in centers], 1).astype(np.float32)
    projections *= np.linspace(1, 2, rows, dtype=np.float32)[None, :, None]
    algorithm = "fourierrec" if "fourierrec" in engine.algorithms else "fbp"
    images = reconstruct(engine, projections, theta, centers, algorithm)
    for row in (0, 1, ROWS - 1, ROWS, rows - 1):
        alone = reconstruct(engine, projections[:, row : row + 1], theta, float(centers[row]), algorithm)[0]
        np.testing.assert_allclose(images[row], alone, atol=2e-6 * alone.max())
        assert np.abs(blob_misfit(alone, 3.0, -4.0, 3.0)[1]).max() < 0.01
    assert reconstruct(engine, projections[:, :0], theta, 19.5, algorithm).shape == (0, 40, 40)


@pytest.mark.parametrize("algorithm", ["sirt", "cgls", "mlem", "osem"])
@pytest.mark.parametrize(("columns", "center"), [(40, 19.5), (41, 18.3)])
def test_iterative_methods_converge_to_the_object(engine: Any, algorithm: str, columns: int, center: float) -> None:
    if algorithm not in engine.algorithms:
        pytest.skip(f"{engine.name} has no {algorithm}")
    theta = half_circle(60)
    # A little everywhere: a ray without any attenuation divides by zero in TomoPy's mlem and osem.
    everywhere = 0.02 * disc_projections(theta, columns, center, 0.55 * columns, 0.0, 0.0)
    blob = blob_projections(theta, columns, center, 6.25, -4.6, 3.0)
    projections = np.stack([blob + everywhere, 2 * (blob + everywhere)], 1).astype(np.float32)
    images = reconstruct(engine, projections, theta, center, algorithm, iterations=40 if algorithm != "osem" else 8)
    truth = blob_slice(columns, 6.25, -4.6, 3.0) + 0.02
    for image, factor in zip(images, (1, 2), strict=True):
        assert np.abs(blob_misfit(image, 6.25, -4.6, 3.0)[1]).max() < 0.03
        assert np.sqrt(np.mean((image / factor - truth)[within(columns, 0.8)] ** 2)) < 0.03


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"padding": "wrap"}, "reconstruction.padding is 'wrap'; it must be one of edge, zero"),
        ({"filter_name": "triangle"}, "'triangle'"),
        ({"algorithm": "tv"}, "reconstruction.algorithm is 'tv'; the engine"),
        ({"center": 40.0}, "reconstruction.center is 40.0; it must lie on the detector, 0 to 39"),
        ({"center": np.zeros(3)}, r"reconstruction.center has shape \(3,\)"),
        ({"center": None}, "reconstruction.center is missing"),
    ],
)
def test_unusable_parameters_are_refused(engine: Any, change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"center": 19.0, "algorithm": "fbp"} | change
    with pytest.raises(ParameterError, match=message):
        reconstruct(engine, noisy_rows(2, 40, 30), half_circle(30), **arguments)


def test_unusable_projections_are_refused(engine: Any) -> None:
    with pytest.raises(InputError, match=r"\(30, 2, 40\); needed is \(31 angles, rows, 40 columns\)"):
        reconstruct(engine, noisy_rows(2, 40, 30), half_circle(31), 19.0, "fbp")
    with pytest.raises(InputError, match="1 columns wide"):
        reconstruct(engine, np.zeros((3, 1, 1), np.float32), half_circle(3), 0.0, "fbp")


@pytest.mark.parametrize(
    "change",
    [
        {"stop_residual": 0.1},
        {"warm_start": True},
        {"projector": "line"},
        {"algorithm": "cgls", "minimum": 0.0},
        {"algorithm": "mlem", "maximum": 1.0},
    ],
)
def test_settings_without_effect_are_refused(engine: Any, change: dict[str, Any]) -> None:
    settings = ReconstructionSettings(**{"algorithm": "sirt", **change})
    if settings.algorithm not in engine.algorithms:
        pytest.skip(f"{engine.name} has no {settings.algorithm}")
    field = next(name for name in change if name != "algorithm")
    with pytest.raises(ParameterError, match=f"reconstruction.{field} is .*; the engine {engine.name} has it not for"):
        engine.prepare(half_circle(9), 16, 7.5, settings=settings)


def test_memory_grows_as_it_should(engine: Any) -> None:
    for algorithm in sorted(engine.algorithms):
        settings = ReconstructionSettings(algorithm=algorithm)
        small, large = (engine.fixed_memory_bytes(4 * n, n, settings) for n in (256, 512))
        assert 3.5 < large / small < 4.6
        assert large > 4 * 512 * 2048


# --- one engine's own -------------------------------------------------------------------------------------------------


def test_astra_keeps_sirt_within_bounds(astra: Any) -> None:
    theta = half_circle(40)
    projections = blob_projections(theta, 40, 19.5, 0.0, 0.0, 3.0)[:, None].astype(np.float32)
    image = reconstruct(AstraEngine(), projections, theta, 19.5, "sirt", iterations=30, minimum=0.1, maximum=0.6)[0]
    inside = within(40, 1.0)
    assert image[inside].min() == pytest.approx(0.1)
    assert image[inside].max() == pytest.approx(0.6)


@pytest.mark.parametrize(("algorithm", "steps"), [("fbp", 1), ("cgls", 20), ("sirt", 100)])
def test_astra_is_told_its_gpu_for_each_algorithm(monkeypatch: pytest.MonkeyPatch, algorithm: str, steps: int) -> None:
    """Not for the whole process, whose other threads may use another; and iterates as often as the native engine."""
    stand_in = MagicMock()
    stand_in.astra_dict = lambda kind: {"type": kind}
    stand_in.data2d.get.return_value = np.zeros((16, 16), dtype=np.float32)
    monkeypatch.setattr("tomopipe.functions.reconstruction.engines.astra.load", lambda *_: stand_in)
    settings = ReconstructionSettings(algorithm=algorithm)
    for device, expected in ((CUDA, {"GPUindex": 2}), (Device("cuda", 0), {"GPUindex": 0}), (Device("cpu"), {})):
        stand_in.algorithm.reset_mock()
        AstraEngine().prepare(half_circle(9), 16, 7.5, settings=settings, device=device)(noisy_rows(1, 16, 9))
        (config,) = stand_in.algorithm.create.call_args.args
        assert config["option"] == expected
        assert config["type"].endswith("_CUDA") == bool(expected)
        assert stand_in.algorithm.run.call_args.args[1] == steps
    stand_in.set_gpu_index.assert_not_called()


def test_astra_without_cuda_refuses_a_cuda_device(astra: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(astra, "use_cuda", lambda: False)
    with pytest.raises(ParameterError, match="cannot use the CUDA device"):
        AstraEngine().prepare(half_circle(9), 16, settings=ReconstructionSettings(algorithm="fbp"), device=CUDA)


def test_tomopy_refuses_more_subsets_than_projections(tomopy: Any) -> None:
    settings = ReconstructionSettings(algorithm="osem", subsets=10)
    with pytest.raises(ParameterError, match=r"reconstruction.subsets is 10; .* number of projections, 9"):
        TomopyEngine().prepare(half_circle(9), 16, settings=settings)


def test_tomocupy_makes_one_plan_on_its_device(tomocupy: Record) -> None:
    projections = noisy_rows(ROWS + 2, 21, 30)
    settings = ReconstructionSettings(algorithm="fourierrec")
    prepared = TomocupyEngine().prepare(half_circle(30), 21, 10.0, settings=settings, device=CUDA)
    for _ in range(2):
        prepared(projections)
    assert tomocupy.plans == [(ROWS, 30, 22)]
    assert set(tomocupy.devices) == {2}
    assert len(tomocupy.data) == 4
    assert not tomocupy.data[1][2:].any()  # the last batch is filled up with nothing


@pytest.mark.parametrize("algorithm", ["fourierrec", "fbp", "lprec"])
def test_tomocupy_in_half_precision(tomocupy: Record, algorithm: str) -> None:
    """Widths become powers of two, and values of any size survive."""
    theta = half_circle(60)
    projections = blob_projections(theta, 45, 22.4, 6.0, -3.0, 3.0)[:, None].astype(np.float32)
    projections = np.concatenate([1e-6 * projections, 1e6 * projections, 0 * projections], axis=1)
    images = reconstruct(TomocupyEngine(), projections, theta, 22.4, algorithm, precision="half")
    assert tomocupy.plans == [(ROWS, 60, 64)]
    assert {data.dtype.name for data in tomocupy.data} == {"float16"}
    bound = 0.03 if algorithm == "fbp" else 0.01
    for image, scale in zip(images, (1e-6, 1e6), strict=False):
        np.testing.assert_allclose(
            image[within(45, 0.9)] / scale, blob_slice(45, 6.0, -3.0, 3.0)[within(45, 0.9)], atol=bound
        )
    assert not images[2].any()


def test_tomocupys_log_polar_method_is_calibrated_whatever_the_filter(tomocupy: Record) -> None:
    theta = half_circle(60)
    projections = blob_projections(theta, 40, 19.5, 2.0, 1.0, 3.0)[:, None].astype(np.float32)
    for name in ("hann", "none"):
        images = [
            reconstruct(TomocupyEngine(), projections, theta, 19.5, algorithm, filter_name=name)[0][within(40, 0.9)]
            for algorithm in ("lprec", "fourierrec")
        ]
        np.testing.assert_allclose(*images, atol=4e-3 * images[1].max())


@pytest.mark.parametrize("theta", [half_circle(30) + 0.1, half_circle(30) ** 1.1, 2 * half_circle(30)])
def test_tomocupys_log_polar_method_wants_equal_steps(tomocupy: Record, theta: Array) -> None:
    settings = ReconstructionSettings(algorithm="lprec")
    with pytest.raises(InputError, match=r"lprec needs 30 angles in equal steps.*fourierrec"):
        TomocupyEngine().prepare(theta, 20, settings=settings, device=CUDA)


def test_tomocupy_wants_a_cuda_device(tomocupy: Record) -> None:
    with pytest.raises(ParameterError, match=r"needs a CUDA device.*computes on cpu"):
        TomocupyEngine().prepare(half_circle(9), 16, settings=ReconstructionSettings())
