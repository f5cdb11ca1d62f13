"""Tortuosity beside other programs: geodesic beside scikit-image's MCP, the tortuosity factor beside TauFactor.

    python benchmarks/tortuosity.py --edges 128 256

Channels have a closed form for the former; of random blobs (35 % pores) both are measured along each axis. Every
measurement runs in a process of its own on an otherwise idle machine, after a small one that compiles; the better of
`--repeats` counts. TauFactor is compared where it is installed (`pip install taufactor torch`): at its default tolerance for
the time, and at a hundredth of it for the value. Writes `benchmarks/results/tortuosity.json`.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import math
import multiprocessing
import os
import platform
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage import graph

from tomopipe.functions.quantification.diffusion import tortuosity_factor
from tomopipe.functions.quantification.tortuosity import geodesic_distance

RESULTS = Path(__file__).parent / "results" / "tortuosity.json"
DEGREES = (0, 20, 30, 45)


def blobs(edge: int) -> NDArray[np.bool_]:
    """Random pores whose size goes with the edge."""
    field = ndimage.gaussian_filter(np.random.default_rng(0).random((edge,) * 3), edge / 32)
    return np.asarray(field < np.quantile(field, 0.35))


def channel(degrees: int, length: int, width: float) -> NDArray[np.bool_]:
    """A slot of the given horizontal width, inclined in the z-y plane."""
    slope = math.tan(math.radians(degrees))
    z, y, _ = np.mgrid[:length, : int(length * slope) + int(width) + 8, :7]
    inside = np.abs(y - 3 - width / 2 - slope * z) <= width / 2
    inside[:, :, [0, -1]] = False
    return np.asarray(inside)


def geodesic(space: NDArray[np.bool_]) -> float:
    """Mean of the shortest ways over the straight distance."""
    last = geodesic_distance(space)[-1]
    return float(last[np.isfinite(last)].mean(dtype=np.float64) / (len(space) - 1))


def chamfer(space: NDArray[np.bool_]) -> float:
    """The same over the 26 neighbours, by scikit-image."""
    costs, _ = graph.MCP_Geometric(np.where(space, 1.0, -1.0)).find_costs([(0, y, x) for y, x in np.argwhere(space[0])])
    last = costs[-1]
    return float(last[np.isfinite(last)].mean() / (len(space) - 1))


def factor(space: NDArray[np.bool_]) -> float:
    """Diffusive tortuosity factor."""
    found = tortuosity_factor(space, 0)
    if found is None:
        raise RuntimeError("the medium does not percolate")
    return found.tortuosity_factor


def taufactor(space: NDArray[np.bool_], tolerance: float = 1e-2) -> float:
    """The same by TauFactor; 0.01 is its default tolerance."""
    import taufactor as library

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        solver = library.Solver(space.astype(np.uint8), device="cpu")
        return float(solver.solve(verbose=False, conv_crit=tolerance, iter_limit=100_000)[0])


def taufactor_tight(space: NDArray[np.bool_]) -> float:
    """The same at a hundredth of the tolerance."""
    return taufactor(space, 1e-4)


METHODS: dict[str, Callable[[NDArray[np.bool_]], float]] = {
    "geodesic": geodesic,
    "scikit_image_mcp": chamfer,
    "tortuosity_factor": factor,
    "taufactor": taufactor,
    "taufactor_tight": taufactor_tight,
}


def measure_alone(method: str, space: NDArray[np.bool_], repeats: int) -> dict[str, float]:
    """Value, time, and memory with that of the box; runs in a process of its own."""
    METHODS[method](np.ascontiguousarray(space[:8]))
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = memory_kib("VmRSS")
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        value = METHODS[method](space)
        seconds.append(time.perf_counter() - start)
    held = (memory_kib("VmHWM") - before) * 1024 + space.nbytes
    return {"value": value, "seconds": min(seconds), "bytes_per_voxel": held / space.size}


def memory_kib(name: str) -> int:
    """A number from this process's status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(name)))


def compare(space: NDArray[np.bool_], methods: list[str], repeats: int) -> dict[str, dict[str, float]]:
    """Some methods on one medium, along its first axis."""
    found = {}
    for method in methods:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found[method] = pool.apply(measure_alone, (method, space, repeats))
    return found


def report(title: str, found: dict[str, dict[str, float]], pairs: list[tuple[str, str, str]]) -> None:
    """Print values, times, memory, and ratios."""
    print(title)
    for method, numbers in found.items():
        print(
            f"    {method:18} {numbers['value']:9.5f} {numbers['seconds']:8.3f} s "
            f"{numbers['bytes_per_voxel']:7.1f} bytes/voxel"
        )
    for ours, theirs, reference in pairs:
        if theirs in found:
            faster = found[theirs]["seconds"] / found[ours]["seconds"]
            smaller = found[theirs]["bytes_per_voxel"] / found[ours]["bytes_per_voxel"]
            difference = found[ours]["value"] / found[reference]["value"] - 1
            print(f"    {ours}: {faster:.1f} x as fast, 1/{smaller:.1f} of the memory, {difference:+.4%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--edges", type=int, nargs="*", default=[128])
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    if importlib.util.find_spec("taufactor") is None:
        print("TauFactor is not installed and is left out")
        for method in ("taufactor", "taufactor_tight"):
            del METHODS[method]
    ways = ["geodesic", "scikit_image_mcp"]
    factors = [method for method in METHODS if method not in ways]
    channels, media = [], []
    for degrees in DEGREES:
        expected = 1 / math.cos(math.radians(degrees))
        found = compare(channel(degrees, 150, 3.0), ways, 1) | compare(channel(degrees, 128, 10.0), factors, 1)
        error = found["geodesic"]["value"] / expected - 1
        channels.append({"degrees": degrees, "expected": expected, "geodesic_error": error, "methods": found})
        report(f"channel at {degrees} degrees: 1/cos {expected:.4f}, geodesic {error:+.2%}", found, [])
    pairs = [
        ("geodesic", "scikit_image_mcp", "scikit_image_mcp"),
        ("tortuosity_factor", "taufactor", "taufactor_tight"),
    ]
    for edge in arguments.edges:
        space = blobs(edge)
        for axis in range(3):
            turned = np.ascontiguousarray(np.moveaxis(space, axis, 0))
            found = compare(turned, list(METHODS), arguments.repeats)
            media.append({"edge": edge, "axis": "zyx"[axis], "methods": found})
            report(f"blobs {edge}^3 along {'zyx'[axis]}", found, pairs)
    result = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cores": os.cpu_count(),
        "processor": platform.machine(),
        "channels": channels,
        "media": media,
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
