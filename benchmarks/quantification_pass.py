"""Porosity, Euler number and interface areas beside scikit-image: times, memory and accuracy.

    python benchmarks/quantification_pass.py --edges 256 512

Both measure the same random medium (gaussian blobs, 35 % pores) in a process of their own on an otherwise idle machine,
after a small run that compiles; the better of `--repeats` counts. Then spheres, beside 4 pi r^2. Writes
`benchmarks/results/quantification_pass.json`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import multiprocessing
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage import measure

from tomopipe.functions.quantification.configurations import (
    count_configurations,
    crofton_interface_area,
    euler_number,
    voxel_count,
)
from tomopipe.functions.quantification.surface import interface_area, level_set_areas

RESULTS = Path(__file__).parent / "results" / "quantification_pass.json"
MEMORY = 64 * 2**20
PORES, SOLID = 1, 2


def one_pass(phases: NDArray[np.uint8]) -> dict[str, float]:
    """Porosity, Euler number and Crofton area from one pass over the volume."""
    pores, solid, region = count_configurations(phases, [{PORES}, {SOLID}, {PORES, SOLID}], MEMORY)
    return {
        "porosity": float(voxel_count(pores) / voxel_count(region)),
        "euler_number": euler_number(pores, 6),
        "area": crofton_interface_area(pores, solid, region),
    }


def scikit_image(phases: NDArray[np.uint8]) -> dict[str, float]:
    """The three from NumPy and scikit-image."""
    pores = phases == PORES
    vertices, faces, _, _ = measure.marching_cubes(pores, 0.5)
    return {
        "porosity": float(pores.mean()),
        "euler_number": int(measure.euler_number(pores, 1)),
        "area": float(measure.mesh_surface_area(vertices, faces)),
    }


def smoothed_mask(phases: NDArray[np.uint8]) -> dict[str, float]:
    """The area from the smoothed mask."""
    return {"area": interface_area(phases, PORES, MEMORY)}


METHODS: dict[str, Callable[[NDArray[np.uint8]], dict[str, float]]] = {
    "one_pass": one_pass,
    "scikit_image": scikit_image,
    "smoothed_mask": smoothed_mask,
}


def measure_alone(method: str, path: str, repeats: int) -> dict[str, Any]:
    """Time, values, and memory beyond that of the volume; runs in a process of its own."""
    phases = np.load(path)
    METHODS[method](np.ascontiguousarray(phases[:16, :16, :16]))
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = memory_kib("VmRSS")
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        values = METHODS[method](phases)
        seconds.append(time.perf_counter() - start)
    return {"seconds": min(seconds), "extra_mib": (memory_kib("VmHWM") - before) / 1024, **values}


def memory_kib(name: str) -> int:
    """A number from this process's status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(name)))


def blobs(edge: int) -> NDArray[np.uint8]:
    """A medium that repeats every 256 voxels, so that larger ones have the same structure."""
    period = min(edge, 256)
    field = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((period,) * 3), 3, mode="wrap")
    phases = np.where(field < np.quantile(field, 0.35), PORES, SOLID).astype(np.uint8)
    return np.tile(phases, (-(-edge // period),) * 3)[:edge, :edge, :edge]


def compare(edge: int, folder: Path, repeats: int) -> dict[str, Any]:
    """All methods on one medium."""
    path = folder / f"{edge}.npy"
    np.save(path, blobs(edge))
    found = {}
    for method in METHODS:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found[method] = pool.apply(measure_alone, (method, str(path), repeats if method != "scikit_image" else 1))
    for quantity in ("porosity", "euler_number"):
        if found["one_pass"][quantity] != found["scikit_image"][quantity]:
            raise RuntimeError(f"{edge}: {quantity} differs: {found}")
    ratio = found["scikit_image"]["seconds"] / found["one_pass"]["seconds"]
    return {"edge": edge, "methods": found, "times_faster": ratio}


def spheres(radii: tuple[int, ...]) -> list[dict[str, float]]:
    """Areas of spheres over 4 pi r^2; means over three positions."""
    random = np.random.default_rng(0)
    rows = []
    for radius in radii:
        found: dict[str, list[float]] = {}
        for centre in random.random((3, 3)) - 0.5:
            inside = partial_volumes(radius, centre, 8)
            phases = np.where(sphere(radius, centre) > 0, PORES, SOLID).astype(np.uint8)
            pores, solid, region = count_configurations(phases, [{PORES}, {SOLID}, {PORES, SOLID}], MEMORY)
            vertices, faces, _, _ = measure.marching_cubes(phases == PORES, 0.5)
            areas = {
                "smoothed_mask": interface_area(phases, PORES, MEMORY),
                "partial_volumes": float(level_set_areas(inside, 0.5, None, phases, MEMORY).sum()),
                "crofton": crofton_interface_area(pores, solid, region),
                "bare_mesh": float(measure.mesh_surface_area(vertices, faces)),
            }
            for name, area in areas.items():
                found.setdefault(name, []).append(area / (4 * math.pi * radius**2))
        rows.append({"radius": radius, **{name: float(np.mean(values)) for name, values in found.items()}})
    return rows


def sphere(radius: int, centre: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared radius less squared distance."""
    axis = np.arange(-radius - 5, radius + 6)
    z, y, x = (axis - shift for shift in centre)
    return np.asarray(radius**2 - (z[:, None, None] ** 2 + y[:, None] ** 2 + x**2))


def partial_volumes(radius: int, centre: NDArray[np.float64], parts: int) -> NDArray[np.float32]:
    """How much of each voxel lies in a sphere, from `parts`^3 points in it."""
    steps = (np.arange(parts) + 0.5) / parts - 0.5
    volumes = np.zeros((2 * radius + 11,) * 3, np.float32)
    for shift in np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3):
        volumes += sphere(radius, centre - shift) > 0
    return volumes / parts**3


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--edges", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--radii", type=int, nargs="*", default=[5, 10, 20, 40])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        media = [compare(edge, Path(folder), arguments.repeats) for edge in arguments.edges]
    for medium in media:
        print(f"{medium['edge']}^3: one pass {medium['times_faster']:.1f} times faster than scikit-image")
        for method, found in medium["methods"].items():
            nanoseconds = found["seconds"] / medium["edge"] ** 3 * 1e9
            print(
                f"    {method:14} {found['seconds']:8.3f} s {nanoseconds:7.2f} ns/voxel "
                f"{found['extra_mib']:8.1f} MiB beside the volume, area {found['area']:.6g}"
            )
    rows = spheres(tuple(arguments.radii))
    for row in rows:
        print("sphere area / 4 pi r^2:", ", ".join(f"{name} {value:.4g}" for name, value in row.items()))
    result = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cores": os.cpu_count(),
        "processor": platform.machine(),
        "media": media,
        "spheres": rows,
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
