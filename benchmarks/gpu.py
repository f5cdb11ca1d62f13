"""Reconstruction and preprocessing on a GPU: checks of the numbers first, then times.

    python benchmarks/gpu.py                     # on a CUDA machine: everything, some five minutes on an H200
    python benchmarks/gpu.py --only checks direct
    python benchmarks/gpu.py --device cpu --small  # does the script run?

Times are medians of three after a first run that compiles, on the device alone ("compute") or from and to host memory
("with copies"). Volumes are measured on a batch of 16 or 32 slices and given for all of them. TomocuPy is timed beside ours
where it is installed, on the same device and size: its filter and gridding kernels, without copies. A section that fails is
recorded as such, and the next goes on. Writes `benchmarks/results/gpu.json`.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import platform
import statistics
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tomopipe.functions.preprocessing import on_device
from tomopipe.functions.preprocessing.phase import PaganinFilter
from tomopipe.functions.reconstruction.fbp import FilteredBackprojection
from tomopipe.functions.reconstruction.fourier import FourierGridding
from tomopipe.functions.reconstruction.settings import ReconstructionSettings
from tomopipe.functions.reconstruction.torch_direct import FEWEST_LANES, TorchReconstructor, device_bytes
from tomopipe.functions.reconstruction.torch_operators import LANES, TorchFourierProjector, TorchLineProjector

RESULTS = Path(__file__).parent / "results" / "gpu.json"
SIZES = ((1024, 1440, 1024), (2048, 1500, 2048), (2048, 2048, 2048), (4096, 2048, 2048))  # columns, angles, slices
SMALL = ((24, 12, 64),)


class Run:
    """Where it runs, and how long things take there."""

    def __init__(self, device: str, small: bool) -> None:
        self.device = torch.device(device)
        self.small = small
        self.sizes = SMALL if small else SIZES
        self.random = torch.Generator(device=self.device).manual_seed(0)

    def noise(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self.random, device=self.device)

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], object]) -> float:
        """Median of three, after one that compiles and makes tables."""
        work()
        self.wait()
        times = []
        for _ in range(3):
            start = time.perf_counter()
            work()
            self.wait()
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    def peak_gib(self, work: Callable[[], object]) -> float | None:
        """Most device memory that was in use."""
        if self.device.type != "cuda":
            return None
        torch.cuda.reset_peak_memory_stats(self.device)
        work()
        self.wait()
        return round(torch.cuda.max_memory_allocated(self.device) / 2**30, 2)


def angles_of(count: int) -> np.ndarray:
    return np.arange(count) * np.pi / count


def relative(found: Any, expected: Any) -> float:
    """Root mean square of the difference over that of what is expected."""
    found, expected = (np.asarray(a.cpu() if isinstance(a, torch.Tensor) else a, np.float64) for a in (found, expected))
    return float(np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)))


def checks(run: Run) -> dict[str, Any]:
    """Triton against plain PyTorch on this device and against the CPU engine; adjoints; the same bits again."""
    n, count = (33, 20) if run.small else (301, 360)
    theta, center = angles_of(count), n / 2 + 0.8
    found: dict[str, Any] = {}
    slices, projections = run.noise(n, n, LANES), run.noise(count, n, LANES)
    own = center + np.linspace(-3, 3, LANES)
    for kind in (TorchLineProjector, TorchFourierProjector):
        for centers in (center, own):
            name = f"{kind.__name__}, {'one center' if isinstance(centers, float) else 'own centers'}"
            ours, plain = (kind(theta, n, centers, run.device, kernels=k) for k in ("auto", None))
            image, back = ours.forward(slices), ours.adjoint(projections)
            inner = (image * projections).sum((0, 1)) - (slices * back).sum((0, 1))
            found[name] = {
                "forward_vs_plain": relative(image, plain.forward(slices)),
                "adjoint_vs_plain": relative(back, plain.adjoint(projections)),
                "adjoint_mismatch": float(
                    (inner / (image.norm(dim=(0, 1)) * projections.norm(dim=(0, 1)))).abs().max()
                ),
                "same_bits_again": bool(
                    torch.equal(image, ours.forward(slices)) and torch.equal(back, ours.adjoint(projections))
                ),
            }
            half = kind(theta, n, centers, run.device, torch.float16)
            found[name]["half_vs_single"] = relative(half.adjoint(projections), back)
    host = np.ascontiguousarray(projections.permute(0, 2, 1).cumsum(2).cpu().numpy())
    for algorithm, cpu in (("fbp", FilteredBackprojection), ("fourierrec", FourierGridding)):
        chosen = ReconstructionSettings(algorithm)
        ready = TorchReconstructor(theta, n, own, chosen, run.device)
        everything = ready(host)
        little = device_bytes(count, n, FEWEST_LANES, chosen)
        small = TorchReconstructor(theta, n, own, chosen, run.device, memory_bytes=little)
        found[algorithm] = {
            "vs_cpu_engine": relative(everything, cpu(theta, n, own)(host)),
            "rows_with_little_memory": small.rows_per_batch,
            "same_bits_with_little_memory": bool(np.array_equal(small(host), everything)),
            "same_bits_alone": bool(np.array_equal(ready(host[:, 5:6], center=own[5:6])[0], everything[5])),
        }
    return found


def kernels(run: Run) -> dict[str, Any]:
    """Each operator by itself: milliseconds a slice, and interpolations (or samples) a second."""
    found = {}
    for n, count, _ in run.sizes[:: 2 if len(run.sizes) > 1 else 1]:
        theta, center = angles_of(count), (n - 1) / 2 + 0.5
        slices, projections = run.noise(n, n, LANES), run.noise(count, n, LANES)
        image, back = torch.empty_like(projections), torch.empty_like(slices)
        entry: dict[str, Any] = {}
        for kind in (TorchLineProjector, TorchFourierProjector):
            for dtype in (torch.float32, torch.float16):
                operator = kind(theta, n, center, run.device, dtype)
                forward = run.seconds(partial(operator.forward, slices, out=image)) / LANES
                adjoint = run.seconds(partial(operator.adjoint, projections, out=back)) / LANES
                name = f"{kind.__name__} {'half' if dtype == torch.float16 else 'single'}"
                entry[name] = {"forward_ms": 1e3 * forward, "adjoint_ms": 1e3 * adjoint}
                if kind is TorchLineProjector:
                    entry[name]["forward_interpolations_per_s"] = count * n * n / forward
                    entry[name]["adjoint_interpolations_per_s"] = count * n * n * np.pi / 4 / adjoint
                del operator
        found[f"{n} x {count}"] = entry
    return found


def direct(run: Run) -> dict[str, Any]:
    """Volumes by the direct methods."""
    found = {}
    for n, count, total in run.sizes:
        theta, center = angles_of(count), (n - 1) / 2 + 0.5
        rows = 2 * LANES
        projections = run.noise(count, rows, n)
        host = projections.cpu().numpy()
        entry: dict[str, Any] = {}
        for algorithm in ("fourierrec", "fbp"):
            for precision in ("single", "half"):
                chosen = ReconstructionSettings(algorithm, precision=precision)
                start = time.perf_counter()
                ready = TorchReconstructor(theta, n, center, chosen, run.device)
                ready.reconstruct_on_device(projections[:, :LANES])
                run.wait()
                first = time.perf_counter() - start
                compute = run.seconds(partial(ready.reconstruct_on_device, projections)) / rows
                copies = run.seconds(partial(ready, host)) / rows
                entry[f"{algorithm} {precision}"] = {
                    "first_batch_s": first,
                    "compute_ms_per_slice": 1e3 * compute,
                    "with_copies_ms_per_slice": 1e3 * copies,
                    f"compute_s_for_{total}_slices": total * compute,
                    f"with_copies_s_for_{total}_slices": total * copies,
                    "peak_gib": run.peak_gib(partial(ready.reconstruct_on_device, projections)),
                }
                del ready
        entry["tomocupy"] = tomocupy(run, n, count, total)
        found[f"{n} x {count}"] = entry
    return found


def iterative(run: Run) -> dict[str, Any]:
    """SIRT with 20 and CGLS with 30 iterations."""
    found = {}
    for n, count, total in run.sizes[:: 3 if len(run.sizes) > 1 else 1]:
        theta, center = angles_of(count), (n - 1) / 2 + 0.5
        projections = run.noise(count, LANES, n)
        entry: dict[str, Any] = {}
        for algorithm, iterations in (("sirt", 20), ("cgls", 30)):
            for projector in ("fourier", "line"):
                for precision in ("single", "half"):
                    chosen = ReconstructionSettings(
                        algorithm, projector=projector, iterations=iterations, precision=precision, padding="zero"
                    )
                    ready = TorchReconstructor(theta, n, center, chosen, run.device)
                    ready.reconstruct_on_device(projections)  # compiles
                    run.wait()
                    start = time.perf_counter()
                    ready.reconstruct_on_device(projections)
                    run.wait()
                    seconds = (time.perf_counter() - start) / LANES
                    entry[f"{algorithm}({iterations}) {projector} {precision}"] = {
                        "ms_per_slice": 1e3 * seconds,
                        f"s_for_{total}_slices": total * seconds,
                    }
                    del ready
        found[f"{n} x {count}"] = entry
    return found


def preprocessing(run: Run) -> dict[str, Any]:
    """The steps on a slab of 32 rows; milliseconds a row."""
    n, count, _ = run.sizes[0 if run.small else 2]
    rows, detector_rows = 32, 256
    paganin = PaganinFilter(n, pixel_size_um=1.0, energy_kev=25, distance_mm=30, delta_beta=200)
    low, high = paganin.reach(100, 100 + rows, detector_rows)
    random = np.random.default_rng(0)
    raw = on_device.to_device(random.integers(2000, 5000, (count, rows, n), dtype=np.uint16), run.device)
    flat, dark = (on_device.to_device(random.normal(m, 5, (rows, n)), run.device) for m in (5500, 100))
    integrals, _ = on_device.line_integrals(raw, flat, dark, 0.01)
    wide = torch.rand((count, high - low, n), generator=run.random, device=run.device) + 0.1
    steps: dict[str, Callable[[], object]] = {
        "zingers": lambda: on_device.remove_zingers(raw, dark, 0.3),
        "line_integrals": lambda: on_device.line_integrals(raw, flat, dark, 0.01),
        "fourier_wavelet": lambda: on_device.remove_stripes_fourier_wavelet(integrals),
        f"paganin (reach {paganin.reach_rows} rows)": lambda: on_device.retrieve_phase(
            paganin, wide, low, 100, 100 + rows, detector_rows
        ),
        "beam_hardening": lambda: on_device.correct_beam_hardening(integrals, [1.0, 0.05, 0.01]),
    }
    return {f"{n} x {count}": {name: {"ms_per_row": 1e3 * run.seconds(step) / rows} for name, step in steps.items()}}


def tomocupy(run: Run, n: int, count: int, total: int) -> dict[str, Any] | str:
    """TomocuPy's filter and Fourier backprojection of 8 slices at a time, its default, on the device alone."""
    if run.device.type != "cuda" or any(importlib.util.find_spec(name) is None for name in ("tomocupy", "cupy")):
        return "not measured: tomocupy is not installed or there is no CUDA device"
    import cupy
    from tomocupy.reconstruction.fbp_filter import FBPFilter
    from tomocupy.reconstruction.fourierrec import FourierRec

    chunk, padded = 8, 4 * n
    theta = cupy.asarray(angles_of(count), dtype="float32")
    stream = cupy.cuda.Stream.null
    transform = FourierRec(n, count, chunk, theta, "float32")
    filtering = FBPFilter(padded, count, chunk, "float32")
    data = cupy.random.standard_normal((chunk, count, n), dtype="float32")
    slices = cupy.zeros((chunk, n, n), dtype="float32")
    weights = filtering.calc_filter("ramp").astype("complex64")

    def work() -> None:
        margin = (padded - n) // 2
        wide = cupy.pad(data, ((0, 0), (0, 0), (margin, padded - n - margin)), mode="edge")
        filtering.filter(wide, weights, stream)
        transform.backprojection(slices, cupy.ascontiguousarray(wide[:, :, margin : margin + n]), stream)
        stream.synchronize()

    seconds = run.seconds(work) / chunk
    return {"compute_ms_per_slice": 1e3 * seconds, f"compute_s_for_{total}_slices": total * seconds}


SECTIONS: dict[str, Callable[[Run], dict[str, Any]]] = {
    "checks": checks,
    "kernels": kernels,
    "direct": direct,
    "iterative": iterative,
    "preprocessing": preprocessing,
}


def machine(run: Run) -> dict[str, Any]:
    found = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": None,
        "device": platform.processor() or platform.machine(),
        "cpu_threads": torch.get_num_threads(),
    }
    if importlib.util.find_spec("triton") is not None:
        import triton

        found["triton"] = triton.__version__
    if run.device.type == "cuda":
        properties = torch.cuda.get_device_properties(run.device)
        found |= {"device": properties.name, "device_gib": round(properties.total_memory / 2**30, 1)}
        data = torch.empty(2**28, device=run.device)
        found["copy_gb_per_s"] = round(2 * data.nbytes / run.seconds(lambda: data.clone()) / 1e9)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", default="cuda", help="PyTorch's name of it")
    parser.add_argument("--small", action="store_true", help="tiny sizes: does everything run?")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    run = Run(arguments.device, arguments.small)
    results: dict[str, Any] = {"machine": machine(run)}
    for name in arguments.only:
        start = time.perf_counter()
        try:
            results[name] = SECTIONS[name](run)
        except Exception as error:  # noqa: BLE001  # the time on a GPU is too dear to lose the other sections
            traceback.print_exc()
            results[name] = f"failed: {type(error).__name__}: {error}"
        print(f"{name} ({time.perf_counter() - start:.0f} s)", json.dumps(results[name], indent=1), flush=True)
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(results, indent=1) + "\n")
        if run.device.type == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
