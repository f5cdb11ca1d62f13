"""CPU seconds a slice of the iterative methods' operators and of the methods, and their error, on an analytic sample.

    python benchmarks/iterative.py [--columns 512] [--angles 720] [--repeats 3]

The line and the Fourier operators take turns, so that a busy machine slows both alike; CPU time counts all threads.
Prints a table and writes `benchmarks/results/iterative.json`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from kept_memory import keep_freed_memory

from tomopipe.functions.reconstruction.fourier import FourierProjector
from tomopipe.functions.reconstruction.iterative import Control, Sums, cgls, mlem, sirt, total_variation
from tomopipe.functions.reconstruction.line import LineProjector
from tomopipe.functions.reconstruction.operators import LANES
from tomopipe.functions.reconstruction.threads import thread_count

RESULTS = Path(__file__).resolve().parent / "results" / "iterative.json"
# Half axes, centre and value of ellipses; lengths in half widths of the field of view.
ELLIPSES = (
    (0.66, 0.87, 0.0, 0.0, 1.0),
    (0.63, 0.83, 0.0, 0.02, -0.8),
    (0.1, 0.29, 0.21, 0.0, -0.2),
    (0.15, 0.39, -0.21, 0.0, -0.2),
    (0.2, 0.24, 0.0, 0.33, 0.1),
    (0.04, 0.04, 0.0, 0.1, 0.1),
    (0.019, 0.019, 0.33, -0.33, 0.3),
    (0.01, 0.01, 0.4, -0.24, 0.3),
)


def sample(columns: int, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Exact line integrals (angles, columns, LANES) and the slice (columns, columns), averaged over each pixel."""
    parts, half = (np.arange(4) + 0.5) / 4 - 0.5, columns / 2
    x = (np.arange(columns)[:, None] + parts - (columns - 1) / 2).ravel() / half
    lines, pixels = np.zeros((theta.size, x.size)), np.zeros((x.size, x.size), dtype=np.float32)
    for a, b, x0, y0, value in ELLIPSES:
        reach = ((a * np.cos(theta)) ** 2 + (b * np.sin(theta)) ** 2)[:, None]
        off = x - (x0 * np.cos(theta) + y0 * np.sin(theta))[:, None]
        lines += 2 * value * a * b * np.sqrt(np.maximum(reach - off**2, 0)) / reach * half
        pixels += np.float32(value) * (((x - x0) / a) ** 2 + ((-x[:, None] - y0) / b) ** 2 <= 1)
    averaged = lines.reshape(theta.size, columns, 4).mean(2).astype(np.float32)
    return np.repeat(averaged[..., None], LANES, axis=2), pixels.reshape(columns, 4, columns, 4).mean((1, 3))


def cpu_seconds(work: Callable[[], Any]) -> float:
    before = time.process_time()
    work()
    return time.process_time() - before


def measure_operators(projectors: dict[str, Any], data: np.ndarray, repeats: int) -> dict[str, dict[str, float]]:
    """CPU seconds a slice; for the line pair also nanoseconds for one sample of 16 lanes."""
    slices = {name: projector.adjoint(data) for name, projector in projectors.items()}  # compiles
    projections = {name: projector.forward(slices[name]) for name, projector in projectors.items()}
    times: dict[str, dict[str, list[float]]] = {name: {"forward": [], "adjoint": []} for name in projectors}
    for _ in range(repeats):
        for name, pair in projectors.items():
            image, lines = slices[name], projections[name]
            times[name]["forward"].append(cpu_seconds(lambda p=pair, i=image, o=lines: p.forward(i, o)))
            times[name]["adjoint"].append(cpu_seconds(lambda p=pair, i=lines, o=image: p.adjoint(i, o)))
    result = {
        name: {f"{direction}_s_a_slice": statistics.median(values) / LANES for direction, values in pair.items()}
        for name, pair in times.items()
    }
    angles, columns, _ = data.shape
    crossed = math.pi / 4 * columns**2 * angles  # pixels in the circle; a ray at 45 degrees meets 0.71 of their rows
    result["line"]["forward_ns"] = statistics.median(times["line"]["forward"]) / (0.9 * crossed) * 1e9
    result["line"]["adjoint_ns"] = statistics.median(times["line"]["adjoint"]) / crossed * 1e9
    return result


def measure_methods(projectors: dict[str, Any], data: np.ndarray, truth: np.ndarray) -> list[dict[str, Any]]:
    """CPU seconds a slice, and RMSE in 0.95 of the circle."""
    n = data.shape[1]
    row, column = np.mgrid[:n, :n] - (n - 1) / 2
    disc = np.hypot(row, column) < 0.95 * n / 2
    results = []
    for name, projector in projectors.items():
        sums = Sums.of(projector, data)
        methods: dict[str, Callable[[], Any]] = {
            "sirt 20": lambda p=projector, s=sums: sirt(p, data, Control(20), sums=s),
            "cgls 30": lambda p=projector: cgls(p, data, Control(30)),
            "tv 20": lambda p=projector, s=sums: total_variation(p, data, Control(20), weight=0.1, sums=s),
        }
        if name == "line":
            methods["mlem 20"] = lambda p=projector: mlem(p, data, Control(20))
            methods["osem 5 of 8"] = lambda p=projector: mlem(p, data, Control(5), subsets=8)
        for method, run in methods.items():
            kept: list[Any] = []
            seconds = cpu_seconds(lambda run=run, kept=kept: kept.append(run())) / LANES
            error = float(np.sqrt(np.mean((kept[0].slices[..., 0] - truth)[disc] ** 2)))
            results.append({"method": method, "operators": name, "cpu_s_a_slice": seconds, "rmse": error})
            print(f"{method:12} {name:8} {seconds:7.3f} CPU-s/slice   RMSE {error:.4f}", flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--columns", type=int, default=512)
    parser.add_argument("--angles", type=int, default=720)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    keep_freed_memory()
    theta = np.arange(options.angles) * math.pi / options.angles
    data, truth = sample(options.columns, theta)
    center = (options.columns - 1) / 2
    projectors: dict[str, Any] = {"line": LineProjector(theta, options.columns, center)}
    projectors["fourier"] = FourierProjector(theta, options.columns, center)
    operators = measure_operators(projectors, data, options.repeats)
    for name, numbers in operators.items():
        print(name, ", ".join(f"{key} {value:.4g}" for key, value in numbers.items()), flush=True)
    methods = measure_methods(projectors, data, truth)
    report = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cpu": platform.processor(), "cores": os.cpu_count(), "threads": thread_count()},
        "load": os.getloadavg()[0],
        "columns": options.columns,
        "angles": options.angles,
        "slices": LANES,
        "operators": operators,
        "methods": methods,
    }
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
