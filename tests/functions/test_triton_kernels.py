"""The Triton kernels: run in Triton's interpreter against their plain PyTorch forms, and compiled for CUDA devices."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from tomopipe.functions.reconstruction import torch_gridding  # noqa: E402
from tomopipe.functions.reconstruction.settings import ReconstructionSettings  # noqa: E402
from tomopipe.functions.reconstruction.torch_direct import TorchReconstructor  # noqa: E402
from tomopipe.functions.reconstruction.torch_gridding import SpectralGrid  # noqa: E402
from tomopipe.functions.reconstruction.torch_operators import TorchLineProjector  # noqa: E402

CPU = torch.device("cpu")


def load_kernels(name: str) -> ModuleType:
    """A copy of the module of its own: Triton decides when it decorates a kernel whether it is to be interpreted."""
    path = Path(torch_gridding.__file__).with_name("triton_kernels.py")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def interpreted() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        kernels = load_kernels("interpreted_kernels")
    yield kernels
    del sys.modules["interpreted_kernels"]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.as_tensor(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def angles_of(count: int) -> np.ndarray:
    theta = np.random.default_rng(1).uniform(-7, 7, count)
    theta[:3] = 0.0, math.pi / 2, math.pi / 4
    return theta


@pytest.mark.parametrize(("columns", "angles"), [(12, 4), (19, 5)])
@pytest.mark.parametrize("own_centers", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_line_kernels_are_the_plain_forms(
    interpreted: ModuleType, columns: int, angles: int, own_centers: bool, dtype: torch.dtype
) -> None:
    theta = angles_of(angles)
    centers = (columns - 1) / 2 + (np.linspace(-3, 4, 8) if own_centers else np.full(8, 0.7))
    plain = TorchLineProjector(theta, columns, centers, CPU, dtype, kernels=None)
    kernels = TorchLineProjector(theta, columns, centers, CPU, dtype, kernels=interpreted)
    slices, projections = noise(columns, columns, 8), noise(angles, columns, 8)
    torch.testing.assert_close(kernels.forward(slices), plain.forward(slices), rtol=1e-4, atol=1e-4)
    out = torch.full((columns, columns, 8), 5.0)
    torch.testing.assert_close(kernels.adjoint(projections, out=out), plain.adjoint(projections), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("columns", "angles"), [(12, 4), (15, 9)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_gridding_kernels_are_the_plain_forms(
    interpreted: ModuleType, columns: int, angles: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    # tiles at the origin are then split over several programs
    monkeypatch.setattr(torch_gridding, "MOST_ENTRIES_A_PROGRAM", 30)
    theta, padded = angles_of(angles), 2 * (columns + 1)
    plain, kernels = (SpectralGrid(theta, columns, padded, CPU, which) for which in (None, interpreted))
    samples = noise(angles, padded // 2 + 1, 8, 2).to(dtype)
    expected = plain.to_slices(samples)
    assert kernels._spreading is None
    found = kernels.to_slices(samples)
    assert kernels._spreading is not None and kernels._spreading.slots > 0
    # weights are rounded to half precision with the samples: on tensor cores both factors have one type
    tolerance = (1e-5 if dtype == torch.float32 else 1e-3) * float(expected.std())
    assert float((found - expected).std()) < tolerance
    slices = noise(8, columns, columns)
    torch.testing.assert_close(kernels.to_lines(slices), plain.to_lines(slices), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("algorithm", ["fbp", "fourierrec"])
def test_reconstruction_with_the_kernels(interpreted: ModuleType, algorithm: str) -> None:
    n, theta = 18, np.arange(8) * np.pi / 8
    projections = np.random.default_rng(2).standard_normal((8, 3, n)).astype(np.float32)
    chosen = ReconstructionSettings(algorithm)
    centers = np.array([8.5, 8.0, 9.25])
    few = {"memory_bytes": 2**30}
    expected = TorchReconstructor(theta, n, centers, chosen, **few, kernels=None)(projections)
    found = TorchReconstructor(theta, n, centers, chosen, **few, kernels=interpreted)(projections)
    assert np.abs(found - expected).max() < 1e-5 * expected.std() * 10
    assert np.array_equal(found, TorchReconstructor(theta, n, centers, chosen, kernels=interpreted)(projections))


def test_a_projector_chooses_kernels_by_device() -> None:
    assert torch_gridding.kernels_for(CPU) is None
    assert torch_gridding.kernels_for(torch.device("xpu")) is None
    assert torch_gridding.kernels_for(torch.device("cuda", 1)).__name__.endswith("triton_kernels")


FLOATS, HALVES, INTEGERS = "*fp32", "*fp16", "*i32"
LINES = {"cosine": FLOATS, "sine": FLOATS, "centers": FLOATS, "columns": "i32"}
GRID = {"rows": "i32", "columns": "i32", "tiles_a_row": "i32", "firsts": INTEGERS, "lasts": INTEGERS, "tiles": INTEGERS}
KERNEL = {"WIDTH": torch_gridding.KERNEL_WIDTH, "BETA": torch_gridding.KERNEL_BETA}
COMPILED = {
    "_backproject": (
        LINES
        | {"lines": "stored", "tiles": INTEGERS, "slices": FLOATS, "angles": "i32", "line_columns": "i32"}
        | {"stride_row": "i64", "stride_column": "i64", "stride_lane": "i64"},
        {"LANES": 16, "TILE": 8, "MATCHED": True, "SHARED_CENTER": True},
    ),
    "_project": (
        LINES | {"slices": "stored", "projections": FLOATS},
        {"LANES": 16, "RAYS": 64, "SHARED_CENTER": False},
    ),
    "_spread": (
        GRID
        | {"samples": "stored", "entries": INTEGERS, "entries_u": FLOATS, "entries_v": FLOATS, "slots": INTEGERS}
        | {"grid": FLOATS, "parts": FLOATS},
        {"FLOATS": 32, "TILE": torch_gridding.TILE, "SAMPLES": 32} | KERNEL,
    ),
    "_sum_parts": (GRID | {"parts": FLOATS, "grid": FLOATS}, {"FLOATS": 32, "TILE": torch_gridding.TILE}),
    "_interpolate": (
        {"grid": "stored", "cells_u": INTEGERS, "cells_v": INTEGERS, "offsets_u": FLOATS, "offsets_v": FLOATS}
        | {"samples": FLOATS, "count": "i32", "rows": "i32", "columns": "i32"},
        {"FLOATS": 32, "SAMPLES": 32} | KERNEL,
    ),
}


@pytest.mark.skipif(sys.platform != "linux", reason="Triton compiles on Linux")
@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.parametrize("stored", [FLOATS, HALVES])
@pytest.mark.parametrize("capability", [80, 90])
def test_kernels_compile_to_machine_code(
    name: str, stored: str, capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No GPU is needed for that: what a device would refuse to load or to compile shows here."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = getattr(load_kernels("compiled_kernels"), name)
    types, constants = COMPILED[name]
    names = kernel.arg_names
    signature = {n: "constexpr" if n in constants else types[n].replace("stored", stored) for n in names}
    # PyTorch's memory begins at a multiple of 16 bytes, which the launcher sees by itself
    aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if signature[n].startswith("*")}
    source = ASTSource(kernel, signature, {(names.index(n),): value for n, value in constants.items()}, aligned)
    target = GPUTarget("cuda", capability, 32)
    compiled = triton.compile(source, target=target, options={"num_warps": 4, "enable_fp_fusion": True})
    assert compiled.asm["cubin"]
    code = compiled.asm["ptx"]
    assert ".local" not in code  # no registers spilled to memory by choice of the compiler's front end
    if name == "_spread":
        assert "mma" in code  # tensor cores
    if name in ("_backproject", "_interpolate"):
        assert "ld.global.v4" in code or "ld.global.L1::evict_normal.v4" in code or ".v4.b32" in code
    assert compiled.metadata.shared <= 48 * 1024
