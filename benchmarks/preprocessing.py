"""CPU time of preprocessing, ours beside TomoPy's, with the same result checked; and how long the first use compiles.

    python benchmarks/preprocessing.py [--small] [--repeats 3] [--only zinger]

Both take turns in one process; CPU time counts all threads. Without TomoPy only our own time is taken. Writes
`benchmarks/results/preprocessing.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from kept_memory import keep_freed_memory
from reconstruction import cpu_seconds, ellipses_at, half_circle, machine, projected, write

from tomopipe.functions.preprocessing.center_vo import find_center_vo
from tomopipe.functions.preprocessing.normalization import line_integrals
from tomopipe.functions.preprocessing.phase import PaganinFilter, delta_beta_of_alpha
from tomopipe.functions.preprocessing.stripes_fourier_wavelet import remove_stripe_fw
from tomopipe.functions.preprocessing.zingers import remove_outliers
from tomopipe.functions.reconstruction.threads import thread_count

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tomopy
except ImportError:
    tomopy = None

RESULTS = Path(__file__).resolve().parent / "results" / "preprocessing.json"
SEARCH_PX = 50  # TomoPy's range of Vo's method, to each side of the middle

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Comparison:
    """One step on one input.

    `unit` says what `amount` counts: times are given for one of them. `agreement` takes both results.
    """

    name: str
    unit: str
    amount: float
    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    agreement: Callable[[Any, Any], dict[str, float]]


# --- inputs -----------------------------------------------------------------------------------------------------------


def raw_counts(angles: int, rows: int, columns: int) -> tuple[npt.NDArray[np.uint16], Floats, Floats]:
    """Counts with noise and zingers, the flat and the dark frame."""
    random = np.random.default_rng(0)
    flat = random.normal(25_000, 50, (rows, columns)).astype(np.float32)
    dark = random.uniform(90, 110, (rows, columns)).astype(np.float32)
    lines = projected(ellipses_at(0.0), half_circle(angles), columns, (columns - 1) / 2)
    transmission = np.exp(-2.5 * lines / lines.max())[:, None, :]
    counts = transmission * (flat - dark) + dark
    counts = np.minimum(counts + random.normal(0, 60, counts.shape), 60_000)
    zingers = random.random(counts.shape) < 1e-4
    counts[zingers] += 5_000
    return np.maximum(counts, 1).astype(np.uint16), flat, dark


def striped_lines(angles: int, rows: int, columns: int, center: float | None = None) -> Floats:
    """Line integrals with stripes and noise: (angles, rows, columns)."""
    random = np.random.default_rng(1)
    lines = projected(ellipses_at(0.0), half_circle(angles), columns, (columns - 1) / 2 if center is None else center)
    stack = np.repeat((2.5 / lines.max() * lines)[:, None], rows, axis=1)
    stack += random.normal(0, 0.02, (1, rows, columns))
    stack += random.normal(0, 0.01, stack.shape)
    return stack.astype(np.float32)


# --- steps ------------------------------------------------------------------------------------------------------------


def largest_difference(one: Any, other: Any) -> dict[str, float]:
    return {"largest_difference": float(np.abs(one - other).max()), "largest_value": float(np.abs(other).max())}


def normalization(angles: int, rows: int, columns: int) -> Comparison:
    raw, flat, dark = raw_counts(angles, rows, columns)

    def theirs() -> Floats:
        done = tomopy.normalize(raw, flat, dark, ncore=thread_count())
        result: Floats = tomopy.minus_log(done, ncore=thread_count(), out=done)
        return result

    return Comparison(
        "normalise and -log",
        "Mpx",
        raw.size / 1e6,
        lambda: line_integrals(raw, flat, dark, 1e-4)[0],
        theirs,
        largest_difference,
    )


def zingers(angles: int, rows: int, columns: int) -> Comparison:
    raw, _, _ = raw_counts(angles, rows, columns)

    def agreement(one: Any, other: Any) -> dict[str, float]:
        return {
            "pixels_that_differ": float(np.count_nonzero(one != other)),
            "pixels_replaced": float(np.count_nonzero(other != raw)),
        }

    return Comparison(
        "zingers, 3 x 3 median",
        "Mpx",
        raw.size / 1e6,
        lambda: remove_outliers(raw, 500.0, size=3),
        lambda: tomopy.remove_outlier(raw, 500.0, size=3, ncore=thread_count()),
        agreement,
    )


def stripes(angles: int, rows: int, columns: int) -> Comparison:
    lines = striped_lines(angles, rows, columns)
    return Comparison(
        f"Fourier-wavelet stripes, {angles} x {columns}",
        "sinogram",
        rows,
        lambda: remove_stripe_fw(lines, wname="db5", sigma=2, pad=True),
        # In this process: its worker processes' time could not be told from their start.
        lambda: tomopy.remove_stripe_fw(lines.copy(), wname="db5", sigma=2, pad=True, ncore=1),
        largest_difference,
    )


def paganin(count: int, rows: int, columns: int) -> Comparison:
    alpha, energy_kev, distance_mm, pixel_size_um = 1e-3, 25.0, 100.0, 0.65
    transmissions = np.exp(-striped_lines(count, rows, columns))
    make = PaganinFilter(
        columns,
        pixel_size_um=pixel_size_um,
        energy_kev=energy_kev,
        distance_mm=distance_mm,
        delta_beta=delta_beta_of_alpha(alpha),
    )

    def theirs() -> Floats:
        options = {"pixel_size": pixel_size_um * 1e-4, "dist": distance_mm / 10, "energy": energy_kev, "alpha": alpha}
        result: Floats = tomopy.retrieve_phase(transmissions.copy(), ncore=1, **options)
        return result

    def agreement(one: Any, other: Any) -> dict[str, float]:
        border = 2 * max(make.reach_rows, make.reach_columns)  # borders are continued differently
        if 2 * border >= min(one.shape[1:]):
            return {}
        inner = np.s_[:, border:-border, border:-border]
        return {"largest_relative_difference": float(np.abs(one / other - 1)[inner].max())}

    return Comparison(
        f"Paganin, {rows} x {columns}",
        "projection",
        count,
        lambda: make(transmissions, 0, 0, rows, rows),
        theirs,
        agreement,
    )


def vo_center(angles: int, columns: int) -> Comparison:
    middle = (columns - 1) / 2
    true = middle + 7.3
    sinogram = striped_lines(angles, 1, columns, true)[:, 0]

    def agreement(one: Any, other: Any) -> dict[str, float]:
        whole = find_center_vo(sinogram, half_circle(angles))
        return {
            "error_px": abs(one - true),
            "theirs_error_px": abs(other - true),
            "whole_search_error_px": abs(whole.center - true),
        }

    return Comparison(
        f"Vo's centre, {angles} x {columns}, {SEARCH_PX} px to each side",
        "sinogram",
        1,
        lambda: find_center_vo(sinogram, half_circle(angles), (middle - SEARCH_PX, middle + SEARCH_PX)).center,
        lambda: float(tomopy.find_center_vo(sinogram[:, None], ind=0, smin=-SEARCH_PX, smax=SEARCH_PX, ncore=1)),
        agreement,
    )


def comparisons(small: bool) -> dict[str, Callable[[], Comparison]]:
    """What is measured; `small` to see that it works."""
    if small:
        return {
            "normalise": lambda: normalization(90, 32, 256),
            "zingers": lambda: zingers(90, 32, 256),
            "stripes": lambda: stripes(180, 4, 256),
            "paganin": lambda: paganin(8, 128, 256),
            "vo": lambda: vo_center(180, 256),
        }
    return {
        "normalise": lambda: normalization(900, 32, 1024),
        "zingers": lambda: zingers(900, 32, 1024),
        "stripes": lambda: stripes(1800, 8, 2048),
        "paganin": lambda: paganin(32, 512, 1024),
        "vo_1024": lambda: vo_center(1440, 1024),
        "vo": lambda: vo_center(1800, 2048),
    }


# --- first use --------------------------------------------------------------------------------------------------------

FIRST_USE = """
import json, time
begin, started = time.process_time(), time.perf_counter()
import numpy as np
from tomopipe.functions.preprocessing.normalization import line_integrals
from tomopipe.functions.preprocessing.zingers import remove_zingers
from tomopipe.functions.reconstruction.engines import get_engine
from tomopipe.functions.reconstruction.settings import ReconstructionSettings
imported, imported_wall = time.process_time(), time.perf_counter()
flat, dark = np.full((4, 64), 20000, np.float32), np.full((4, 64), 100, np.float32)
raw = np.random.default_rng(0).integers(5000, 15000, (60, 4, 64)).astype(np.uint16)
lines, _ = line_integrals(remove_zingers(raw, dark, 0.3), flat, dark, 1e-4)
prepared, prepared_wall = time.process_time(), time.perf_counter()
theta = np.arange(60) * np.pi / 60
get_engine().prepare(theta, 64, 31.5, settings=ReconstructionSettings())(lines)
print(json.dumps({
    "import_cpu_s": imported - begin,
    "preprocessing_cpu_s": prepared - imported,
    "reconstruction_cpu_s": time.process_time() - prepared,
    "to_first_slice_cpu_s": time.process_time() - imported,
    "to_first_slice_wall_s": time.perf_counter() - imported_wall,
}))
"""


def first_use(repeats: int) -> dict[str, Any]:
    """From raw rows to the first slice in a fresh process: with nothing compiled yet, and again."""
    runs: dict[str, list[dict[str, float]]] = {"first": [], "again": []}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as cache:
            for kind in ("first", "again"):
                environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
                command = [sys.executable, "-c", FIRST_USE]
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                runs[kind].append(json.loads(done.stdout))
    return {
        kind: {name: float(np.median([run[name] for run in found])) for name in found[0]}
        for kind, found in runs.items()
    }


# --- measuring --------------------------------------------------------------------------------------------------------


def measure(comparison: Comparison, repeats: int) -> dict[str, Any]:
    """Median CPU milliseconds for one `unit`, ours and theirs in turns, their ratio, and how well they agree."""
    result: dict[str, Any] = {"step": comparison.name, "unit": comparison.unit}
    runs = {"ours": comparison.ours}
    own = comparison.ours()  # compiled from here on
    if tomopy is None:
        result["remark"] = "TomoPy is not installed here: nothing to compare with"
    else:
        runs["theirs"] = comparison.theirs
        result |= comparison.agreement(own, comparison.theirs())
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            begin = cpu_seconds()
            run()
            times[name].append(1e3 * (cpu_seconds() - begin) / comparison.amount)
    result |= {f"{name}_cpu_ms": float(np.median(values)) for name, values in times.items()}
    if "theirs" in times:
        result["times_less_cpu"] = result["theirs_cpu_ms"] / max(result["ours_cpu_ms"], 1e-9)
    return result


def main() -> None:
    """Measure every step and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="small inputs: to see that it works")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", help="steps whose name begins with one of these words, or first_use")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    keep_freed_memory()
    warnings.simplefilter("ignore")  # TomoPy's
    results: dict[str, Any] = {**machine(), "steps": {}}
    for name, make in comparisons(options.small).items():
        if options.only and not any(name.startswith(word) for word in options.only):
            continue
        results["steps"][name] = measure(make(), options.repeats)
        print(results["steps"][name], flush=True)
        write(options.output, results)
    if not options.only or "first_use" in options.only:
        results["first_use"] = first_use(options.repeats)
        print(results["first_use"], flush=True)
    write(options.output, results)


if __name__ == "__main__":
    main()
