"""CPU seconds a slice and error of reconstruction, ours and other packages', side by side in one process.

    python benchmarks/reconstruction.py [--sizes 512 1024 2048] [--slices 16] [--repeats 3] [--iterative]

Candidates take turns, so that a busy machine slows all alike; CPU time counts all threads. The sample is an analytic
phantom, whose line integrals and slices are exact. Packages that are not installed are left out with a remark. Writes
`benchmarks/results/reconstruction.json`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import os
import platform
import resource
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from kept_memory import keep_freed_memory

from tomopipe.functions.reconstruction.engines import get_engine
from tomopipe.functions.reconstruction.settings import ReconstructionSettings
from tomopipe.functions.reconstruction.threads import run_in_threads, thread_count

RESULTS = Path(__file__).resolve().parent / "results" / "reconstruction.json"
ANGLES = {512: 720, 1024: 1440, 2048: 1800}
PARTS = 4  # points of a detector pixel, and of a slice's pixel along each axis, that are averaged
DISC = 0.95  # part of the field of view in which errors are taken
REFERENCE = "tomopy gridrec, padded to 2N"

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

# Value, half axes, centre (x right, y down, z), turn in degrees; lengths in half widths of the field of view. The
# modified Shepp-Logan head in three dimensions, a little smaller, with three fine grains.
ELLIPSOIDS = (
    (1.0, 0.69, 0.92, 0.81, 0.0, 0.0, 0.0, 0.0),
    (-0.8, 0.6624, 0.874, 0.78, 0.0, -0.0184, 0.0, 0.0),
    (-0.2, 0.11, 0.31, 0.22, 0.22, 0.0, 0.0, -18.0),
    (-0.2, 0.16, 0.41, 0.28, -0.22, 0.0, 0.0, 18.0),
    (0.1, 0.21, 0.25, 0.41, 0.0, 0.35, -0.15, 0.0),
    (0.1, 0.046, 0.046, 0.05, 0.0, 0.1, 0.25, 0.0),
    (0.1, 0.046, 0.046, 0.05, 0.0, -0.1, 0.25, 0.0),
    (0.1, 0.046, 0.023, 0.05, -0.08, -0.605, 0.0, 0.0),
    (0.1, 0.023, 0.023, 0.02, 0.0, -0.606, 0.0, 0.0),
    (0.1, 0.023, 0.046, 0.02, 0.06, -0.605, 0.0, 0.0),
    (0.3, 0.02, 0.02, 0.6, 0.35, 0.35, 0.0, 0.0),
    (0.3, 0.01, 0.01, 0.6, 0.42, 0.25, 0.0, 0.0),
    (-0.2, 0.015, 0.03, 0.6, -0.35, 0.45, 0.0, 30.0),
)
SHRUNK = 0.95


@dataclass(frozen=True)
class Ellipse:
    """Part of a slice: lengths in half widths, y up, radians."""

    value: float
    a: float
    b: float
    x: float
    y: float
    turn: float


def ellipses_at(z: float) -> list[Ellipse]:
    """The phantom's ellipses in the slice at height `z`."""
    found = []
    for value, a, b, c, x, y, z0, turn in ELLIPSOIDS:
        height = (z - SHRUNK * z0) / (SHRUNK * c)
        if abs(height) < 1:
            part = SHRUNK * math.sqrt(1 - height**2)
            found.append(Ellipse(value, a * part, b * part, SHRUNK * x, -SHRUNK * y, -math.radians(turn)))
    return found


def projected(ellipses: list[Ellipse], theta: Doubles, columns: int, center: float) -> Floats:
    """Exact line integrals (angles, columns), averaged over parts of each detector pixel."""
    total = np.zeros((theta.size, columns))
    for part in (np.arange(PARTS) + 0.5) / PARTS - 0.5:
        t = (np.arange(columns) - center + part) * 2 / columns
        for e in ellipses:
            square = ((e.a * np.cos(theta - e.turn)) ** 2 + (e.b * np.sin(theta - e.turn)) ** 2)[:, None]
            distance = t - (e.x * np.cos(theta) + e.y * np.sin(theta))[:, None]
            total += 2 * e.value * e.a * e.b / PARTS * np.sqrt(np.maximum(square - distance**2, 0)) / square
    return (total * columns / 2).astype(np.float32)


def rasterized(ellipses: list[Ellipse], columns: int) -> Floats:
    """The slice (columns, columns), averaged over parts of each pixel."""
    image = np.zeros((columns, columns), np.float32)
    points = ((np.arange(PARTS * columns) + 0.5) / PARTS - columns / 2) * 2 / columns
    for e in ellipses:
        reach = max(e.a, e.b) + 4 / columns
        across = np.flatnonzero(np.abs(points - e.x) < reach)
        down = np.flatnonzero(np.abs(-points - e.y) < reach)
        left, right = across[0] // PARTS, across[-1] // PARTS + 1
        top, bottom = down[0] // PARTS, down[-1] // PARTS + 1
        x = points[None, left * PARTS : right * PARTS] - e.x
        y = -points[top * PARTS : bottom * PARTS, None] - e.y
        u = (x * np.cos(e.turn) + y * np.sin(e.turn)) / e.a
        v = (-x * np.sin(e.turn) + y * np.cos(e.turn)) / e.b
        inside = (u * u + v * v <= 1).reshape(bottom - top, PARTS, right - left, PARTS)
        image[top:bottom, left:right] += np.float32(e.value) * inside.mean((1, 3), dtype=np.float32)
    return image


def half_circle(angles: int) -> Doubles:
    return np.arange(angles) * np.pi / angles


@dataclass(frozen=True)
class Sample:
    """What is reconstructed: projections (angles, rows, columns) and the true slices."""

    theta: Doubles
    projections: Floats
    truth: Floats

    @classmethod
    def make(cls, columns: int, angles: int, rows: int) -> Sample:
        """Slices from a quarter below the middle to a quarter above."""
        theta = half_circle(angles)
        heights = [ellipses_at(z) for z in np.linspace(-0.25, 0.25, rows)]
        center = (columns - 1) / 2
        lines = np.stack([projected(ellipses, theta, columns, center) for ellipses in heights], axis=1)
        return cls(theta, lines, np.stack([rasterized(ellipses, columns) for ellipses in heights]))

    def errors(self, slices: Floats) -> tuple[float, float]:
        """RMSE and mean error inside the disc."""
        columns = slices.shape[1]
        r = np.arange(columns) - (columns - 1) / 2
        disc = r[:, None] ** 2 + r**2 <= (DISC * columns / 2) ** 2
        difference = (slices - self.truth[: len(slices)])[:, disc].astype(np.float64)
        return float(np.sqrt(np.mean(difference**2))), float(difference.mean())


@dataclass(frozen=True)
class Candidate:
    """A way to make the first `rows` slices; what it takes once for a scan is not in `run`."""

    run: Callable[[], Floats]
    rows: int


# --- candidates -------------------------------------------------------------------------------------------------------


def ours(sample: Sample, engine: str, rows: int, **settings: Any) -> Candidate:
    columns = sample.projections.shape[2]
    chosen = ReconstructionSettings(**{"filter_name": "ramp", "padding": "zero", **settings})
    prepared = get_engine(engine).prepare(sample.theta, columns, (columns - 1) / 2, settings=chosen)
    projections = np.ascontiguousarray(sample.projections[:, :rows])
    return Candidate(lambda: prepared(projections), rows)


def plain_gridrec(sample: Sample, padded: bool) -> Candidate:
    """TomoPy as its users call it; its half pixel is left, its gain too."""
    import tomopy

    _, rows, columns = sample.projections.shape
    beside = columns // 2 if padded else 0
    sinograms = np.pad(sample.projections.swapaxes(0, 1), ((0, 0), (0, 0), (beside, beside)))
    theta, center = sample.theta.astype(np.float32), (columns - 1) / 2 + beside

    def run() -> Floats:
        slices: Floats = tomopy.recon(
            sinograms,
            theta,
            center=center,
            sinogram_order=True,
            algorithm="gridrec",
            filter_name="ramlak",
            ncore=thread_count(),
        )
        return slices[:, beside : beside + columns, beside : beside + columns]

    return Candidate(run, rows)


def finufft_gridding(sample: Sample) -> Candidate:
    """The same sum by a general transform of nonuniform samples: accuracy 1e-3, two slices a complex transform."""
    import finufft
    import scipy.fft

    from tomopipe.functions.reconstruction.filters import ramp_filter

    angles, rows, columns = sample.projections.shape
    length = scipy.fft.next_fast_len(2 * columns, real=True)
    frequency = np.fft.fftfreq(length)
    response = np.abs(ramp_filter(length, "ramp")[np.abs(np.round(frequency * length)).astype(int)])
    shift = np.exp(2j * np.pi * frequency * (columns - 1) / 2)
    # The image's origin is at columns // 2: half a pixel off the middle of an even width.
    offset = (columns // 2 - (columns - 1) / 2) * (np.cos(sample.theta) - np.sin(sample.theta))
    gains = response * shift * np.exp(2j * np.pi * frequency * offset[:, None]) * np.pi / angles / length
    x = (2 * np.pi * frequency * np.cos(sample.theta)[:, None]).ravel().astype(np.float32)
    y = (-2 * np.pi * frequency * np.sin(sample.theta)[:, None]).ravel().astype(np.float32)
    gains = gains.astype(np.complex64)
    together = 4
    plan = finufft.Plan(
        1,
        (columns, columns),
        n_trans=together,
        eps=1e-3,
        isign=1,
        dtype="complex64",
        upsampfac=1.25,
        nthreads=thread_count(),
    )
    plan.setpts(y, x)

    def run() -> Floats:
        slices = np.zeros((rows + (-rows) % (2 * together), columns, columns), np.float32)
        for first in range(0, rows, 2 * together):
            block = np.zeros((2 * together, angles, length), np.float32)
            part = sample.projections[:, first : first + 2 * together].swapaxes(0, 1)
            block[: len(part), :, :columns] = part
            spectra = scipy.fft.fft(block[:together] + 1j * block[together:], axis=2, workers=thread_count())
            spectra *= gains
            images = plan.execute(np.ascontiguousarray(spectra.reshape(together, -1)))
            slices[first : first + together] = images.real
            slices[first + together : first + 2 * together] = images.imag
        return slices[:rows]

    return Candidate(run, rows)


def astra_fbp(sample: Sample, rows: int) -> Candidate:
    """ASTRA's own FBP with its linear projector, one slice a thread."""
    import astra

    _, _, columns = sample.projections.shape
    volume = astra.create_vol_geom(columns, columns)
    geometry = astra.create_proj_geom("parallel", 1.0, columns, sample.theta)
    projector = astra.create_projector("linear", geometry, volume)
    slices = np.empty((rows, columns, columns), np.float32)

    def one(row: int) -> None:
        sinogram = astra.data2d.create("-sino", geometry, np.ascontiguousarray(sample.projections[:, row]))
        image = astra.data2d.create("-vol", volume)
        config = astra.astra_dict("FBP")
        config.update(ProjectorId=projector, ProjectionDataId=sinogram, ReconstructionDataId=image)
        config["option"] = {"FilterType": "Ram-Lak"}
        algorithm = astra.algorithm.create(config)
        astra.algorithm.run(algorithm)
        slices[row] = astra.data2d.get(image)
        astra.algorithm.delete(algorithm)
        astra.data2d.delete([sinogram, image])

    def run() -> Floats:
        run_in_threads(one, rows)
        return slices.copy()

    return Candidate(run, rows)


def algotom_fbp(sample: Sample, rows: int) -> Candidate:
    from algotom.rec.reconstruction import fbp_reconstruction

    _, _, columns = sample.projections.shape
    sinograms = np.ascontiguousarray(sample.projections[:, :rows])

    def run() -> Floats:
        options = {"ratio": None, "filter_name": None, "apply_log": False, "gpu": False, "ncore": thread_count()}
        slices = fbp_reconstruction(sinograms.copy(), (columns - 1) / 2, angles=sample.theta, **options)
        return np.moveaxis(slices, 1, 0)

    return Candidate(run, rows)


def direct_candidates(sample: Sample) -> dict[str, Callable[[], Candidate]]:
    rows, few = sample.projections.shape[1], min(2, sample.projections.shape[1])
    return {
        "tomopipe fourierrec": lambda: ours(sample, "native", rows, algorithm="fourierrec"),
        "tomopipe fbp": lambda: ours(sample, "native", rows, algorithm="fbp"),
        "tomopy gridrec, not padded (its default)": lambda: plain_gridrec(sample, False),
        REFERENCE: lambda: plain_gridrec(sample, True),
        "tomopy gridrec by tomopipe's adapter": lambda: ours(sample, "tomopy", rows, algorithm="gridrec"),
        "finufft 1e-3": lambda: finufft_gridding(sample),
        "astra FBP (CPU, linear)": lambda: astra_fbp(sample, few),
        "algotom FBP (CPU)": lambda: algotom_fbp(sample, few),
    }


def iterative_candidates(sample: Sample) -> dict[str, Callable[[], Candidate]]:
    """20 SIRT and 30 CGLS iterations; the other packages on two slices, they take long."""
    rows, few = sample.projections.shape[1], min(2, sample.projections.shape[1])
    found: dict[str, Callable[[], Candidate]] = {}
    for algorithm, iterations in (("sirt", 20), ("cgls", 30)):
        common: dict[str, Any] = {"algorithm": algorithm, "iterations": iterations}
        for projector in ("line", "fourier"):
            found[f"tomopipe {algorithm} {iterations}, {projector}"] = lambda common=common, projector=projector: ours(
                sample, "native", rows, projector=projector, **common
            )
        found[f"astra {algorithm} {iterations} (CPU, linear)"] = lambda common=common: ours(
            sample, "astra", few, **common
        )
    found["tomopy sirt 20"] = lambda: ours(sample, "tomopy", few, algorithm="sirt", iterations=20)
    return found


# --- measuring --------------------------------------------------------------------------------------------------------


def cpu_seconds() -> float:
    """Of this process, all threads, and its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def measure(
    sample: Sample, makers: dict[str, Callable[[], Candidate]], repeats: int, reference: str | None
) -> dict[str, dict[str, Any]]:
    """Median CPU and elapsed seconds a slice and the errors of each candidate."""
    candidates, results = {}, {}
    for name, make in makers.items():
        try:
            begin = cpu_seconds()
            candidates[name] = make()
            slices = candidates[name].run()  # compiles what is compiled, fills caches
            rmse, bias = sample.errors(slices)
            first = cpu_seconds() - begin
            results[name] = {"rmse": rmse, "bias": bias, "rows": candidates[name].rows, "first_cpu_s": round(first, 3)}
        except Exception as error:  # noqa: BLE001 - another package's; the rest is still worth measuring
            results[name] = {"skipped": f"{type(error).__name__}: {error}"[:200]}
            print(f"    {name}: left out, {results[name]['skipped']}", flush=True)
    cpu: dict[str, list[float]] = {name: [] for name in candidates if "skipped" not in results[name]}
    wall: dict[str, list[float]] = {name: [] for name in cpu}
    for _ in range(repeats):
        for name in cpu:
            begin, started = cpu_seconds(), time.perf_counter()
            candidates[name].run()
            wall[name].append((time.perf_counter() - started) / candidates[name].rows)
            cpu[name].append((cpu_seconds() - begin) / candidates[name].rows)
    for name, values in cpu.items():
        results[name] |= {"cpu_s_per_slice": float(np.median(values)), "wall_s_per_slice": float(np.median(wall[name]))}
    yardstick = results.get(reference or "", {}).get("cpu_s_per_slice")
    for name in cpu:
        entry = results[name]
        if yardstick:
            entry["cpu_over_reference"] = entry["cpu_s_per_slice"] / yardstick
        print(
            f"    {name:42s} {entry['cpu_s_per_slice']:9.4f} CPU-s/slice"
            + (f"  x {entry['cpu_over_reference']:6.2f}" if yardstick else "")
            + f"  RMSE {entry['rmse']:.4f}  bias {entry['bias']:+.1e}",
            flush=True,
        )
    return results


def machine() -> dict[str, Any]:
    """Date, machine and versions: what a number is worth nothing without."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    versions = {"python": platform.python_version()}
    for package in ("numpy", "scipy", "numba", "tomopy", "finufft", "astra-toolbox", "algotom", "torch"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "processor": processor,
        "threads": thread_count(),
        "load": [round(value, 2) for value in os.getloadavg()],
        "versions": versions,
    }


def write(path: Path, results: dict[str, Any]) -> None:
    """Results as JSON, numbers to four digits."""
    rounded = json.loads(json.dumps(results), parse_float=lambda text: float(f"{float(text):.4g}"))
    path.write_text(json.dumps(rounded, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Measure every size and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024, 2048], help="columns of a projection")
    parser.add_argument("--slices", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", help="candidates whose name contains one of these words")
    parser.add_argument("--iterative", action="store_true", help="SIRT and CGLS too, at the first size")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    keep_freed_memory()
    warnings.simplefilter("ignore")  # other packages' at import
    results: dict[str, Any] = {**machine(), "reference": REFERENCE, "slices": options.slices, "sizes": {}}
    for columns in options.sizes:
        angles = ANGLES.get(columns, columns * 3 // 2)
        sample = Sample.make(columns, angles, options.slices)
        kinds = [("direct", direct_candidates(sample), REFERENCE)]
        if options.iterative and columns == options.sizes[0]:
            kinds.append(("iterative", iterative_candidates(sample), None))
        entry: dict[str, Any] = {"angles": angles}
        for kind, makers, reference in kinds:
            print(f"{columns} wide, {angles} angles, {kind}", flush=True)
            chosen = {
                name: make
                for name, make in makers.items()
                if not options.only or any(word in name for word in options.only)
            }
            entry[kind] = measure(sample, chosen, options.repeats, reference)
        results["sizes"][str(columns)] = entry
        write(options.output, results)


if __name__ == "__main__":
    main()
