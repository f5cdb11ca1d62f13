"""Measures the rotation centre: errors of each method, what a confidence means, and the time beside TomoPy and Algotom.

    python benchmarks/rotation_center.py --scans 150 --first-seed 1000
    python benchmarks/rotation_center.py --correlations 100 --first-seed 2000 --data ../shared/data
    python benchmarks/rotation_center.py --timings

Errors and confidence come from simulated scans of many samples (pores, a few pores, loose particles, crystals, shells, smooth
ones, samples wider than the detector), with photon noise, rings, drift of the beam, wobble of the sample, and axes off the
middle. Prints the odds of an answer within half a pixel fitted to them, which `rotation_center` and `center_full_turn` have as
constants: those come from seeds below 350, so take others to test them. `--correlations` puts phase correlation of opposite
projections beside the correlation coefficient that `find_center_correlation` uses. Writes each part that it measured to
`benchmarks/results/rotation_center.json`. Peers that are not installed are left out with a remark.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import itertools
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy import ndimage, optimize
from scipy.signal import windows

from tomopipe.functions.center_trials import quick_reconstruction
from tomopipe.functions.preprocessing.center_correlation import correlation_over_pairs
from tomopipe.functions.preprocessing.center_estimate import CenterEstimate, checked_search, estimate_of_curve
from tomopipe.functions.preprocessing.rotation_center import (
    find_center,
    find_center_360,
    find_center_correlation,
    find_center_vo,
)

RESULTS = Path(__file__).parent / "results" / "rotation_center.json"
SAMPLES = ("pores", "few", "loose", "crystals", "shell", "local", "smooth")
FITTED_SEEDS = 350
"""The constants of the confidence were fitted to scans of the seeds below this."""

REAL_SCANS = (("tooth.h5", (0, 1), 295.9), ("dls_24737.h5", (52, 67, 82, 97, 112), 85.9))
"""File, rows, and the centre whose slices are sharpest."""

ANGLES = {512: 721, 1024: 1441, 2048: 1801}
_PATIENCE_COLUMNS = 512
_PATIENCE_SECONDS = 420.0
_UPSAMPLING = 8
BINS = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 1.0)

Ellipse = tuple[float, float, float, float, float, float]  # value, half axes, middle x and y, turn


def ellipses(sample: str, radius: float, rng: np.random.Generator) -> list[Ellipse]:
    """One row of a sample."""

    def inside(value: float | tuple[float, float], sizes: tuple[float, float], count: int) -> list[Ellipse]:
        found = []
        for _ in range(count):
            distance, phase = radius * 0.8 * np.sqrt(rng.uniform()), rng.uniform(0, 2 * np.pi)
            v = value if isinstance(value, float) else rng.uniform(*value)
            a, b = radius * rng.uniform(*sizes), radius * rng.uniform(*sizes)
            found.append((v, a, b, distance * np.cos(phase), distance * np.sin(phase), rng.uniform(0, 3)))
        return found

    whole: Ellipse = (1.0, radius, radius, 0.0, 0.0, 0.0)
    if sample in ("pores", "local"):
        return [whole, *inside(-0.5, (0.03, 0.14), 40)]
    if sample == "few":
        return [(1.0, radius, 0.97 * radius, 0.0, 0.0, 0.3), *inside((-0.3, 0.3), (0.05, 0.2), 3)]
    if sample == "loose":
        return inside(1.0, (0.03, 0.25), 8)
    if sample == "crystals":
        return [(0.2, *whole[1:]), *inside(3.0, (0.02, 0.06), 10)]
    if sample == "shell":
        return [whole, (-0.9, 0.93 * radius, 0.93 * radius, 0.02 * radius, 0.0, 0.0), *inside(0.1, (0.03, 0.14), 6)]
    return [(0.125, radius * f, 0.8 * radius * f, 0.1 * radius, 0.0, 0.4) for f in np.linspace(0.3, 1, 8)]


def measured(
    sample: str, theta: NDArray[np.float64], columns: int, center: float, radius: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Line integrals of a few rows as a bad or a good scan has them, (angles, rows, columns)."""
    rows = int(rng.choice([2, 3, 5]))
    t = (np.arange(columns)[:, None] + np.array([-0.25, 0.25]) - center).ravel()
    lines = np.zeros((len(theta), rows, columns))
    for row in range(rows):
        for value, a, b, x, y, turn in ellipses(sample, radius, rng):
            squared = (a * np.cos(theta - turn)) ** 2 + (b * np.sin(theta - turn)) ** 2
            distance = t - (x * np.cos(theta) + y * np.sin(theta))[:, None]
            chord = 2 * value * a * b * np.sqrt(np.maximum(squared[:, None] - distance**2, 0)) / squared[:, None]
            lines[:, row] += chord.reshape(len(theta), columns, 2).mean(axis=2)
    lines *= np.exp(rng.uniform(np.log(0.1), np.log(3))) / lines.max()
    photons = np.exp(rng.uniform(np.log(50), np.log(30000)))
    light = np.exp(-lines) * (1 + rng.choice([0, 0.003, 0.01, 0.02]) * rng.standard_normal((rows, columns)))
    drift = rng.choice([0, 0, 0.005, 0.02])
    if drift:
        walk = np.cumsum(rng.standard_normal((len(theta), 3)), axis=0)
        walk *= drift / np.abs(walk).max()
        across = np.linspace(-1, 1, columns)
        light *= 1 + (walk[:, :1] + walk[:, 1:2] * across + walk[:, 2:] * across**2)[:, None]
    if rng.uniform() < 0.25:
        steps = np.cumsum(rng.standard_normal(len(theta)))
        wobble = 0.5 * (steps - steps.mean()) / steps.std()
        at = np.arange(columns)
        for angle, shift in enumerate(wobble):
            for row in range(rows):
                light[angle, row] = np.interp(at - shift, at, light[angle, row])
    least = 1e-2 if photons < 500 else 1e-3
    found: NDArray[np.float32] = (-np.log(np.maximum(rng.poisson(photons * light) / photons, least))).astype(np.float32)
    return found


def half_turn(seed: int) -> tuple[NDArray[np.float64], float, NDArray[np.float32]]:
    """A scan over 180 degrees: angles, centre, projections."""
    rng = np.random.default_rng(seed)
    sample = SAMPLES[seed % len(SAMPLES)]
    columns, angles = int(rng.choice([128, 160, 200, 256])), int(rng.choice([91, 121, 181, 240, 361]))
    theta = np.linspace(0, np.pi, angles, endpoint=bool(rng.integers(2))) + rng.choice([0, 0, 1.3])
    center = (columns - 1) / 2 + rng.uniform(-0.2, 0.2) * columns * rng.choice([1, 0.1], p=[0.7, 0.3])
    room = min(center, columns - 1 - center)
    radius = columns * rng.uniform(0.6, 1.2) if sample == "local" else min(room - 3, columns * rng.uniform(0.2, 0.45))
    return theta, center, measured(sample, theta, columns, center, radius, rng)


def whole_turn(seed: int) -> tuple[NDArray[np.float64], float, NDArray[np.float32]]:
    """A scan over 360 degrees, the axis anywhere: 3 to 100 % of the columns overlap."""
    rng = np.random.default_rng(10**6 + seed)
    sample = SAMPLES[seed % len(SAMPLES)]
    columns, angles = int(rng.choice([96, 128, 200])), int(rng.choice([180, 181, 360, 361, 500]))
    theta = np.linspace(0, 2 * np.pi, angles, endpoint=bool(rng.integers(2)))
    near = (np.exp(rng.uniform(np.log(0.03), 0)) * columns - 1) / 2
    center = near if rng.integers(2) else columns - 1 - near
    radius = (columns - 1 - near) * (rng.uniform(1.05, 1.6) if sample == "local" else rng.uniform(0.5, 0.97))
    return theta, center, measured(sample, theta, columns, center, radius, rng)


def fitted_odds(x: NDArray[np.float64], right: NDArray[np.float64]) -> tuple[float, float]:
    """(scale, power) of the odds (x / scale)^power that explain best which answers were right."""

    def unlikeliness(w: NDArray[np.float64]) -> float:
        z = w[0] + w[1] * np.log(x)
        return float(np.mean(np.logaddexp(0, z) - right * z))

    w = optimize.minimize(unlikeliness, np.zeros(2)).x
    return float(np.exp(-w[0] / w[1])), float(w[1])


def reliability(confidence: NDArray[np.float64], right: NDArray[np.float64]) -> list[dict[str, float]]:
    """What share of the answers was right, by their confidence."""
    table = []
    for low, high in itertools.pairwise(BINS):
        chosen = (confidence >= low) & (confidence < high)
        if chosen.any():
            table.append(
                {
                    "confidence_from": low,
                    "confidence_to": high,
                    "scans": int(chosen.sum()),
                    "mean_confidence": round(float(confidence[chosen].mean()), 3),
                    "within_half_a_pixel": round(float(right[chosen].mean()), 3),
                }
            )
    return table


def errors_of(values: list[float]) -> dict[str, float]:
    """Shares of errors below a quarter, a half and one pixel, and their median."""
    error = np.abs(values)
    shares = {f"within_{limit:g}_px": round(float((error <= limit).mean()), 3) for limit in (0.25, 0.5, 1)}
    return {**shares, "median_px": round(float(np.median(error)), 4)}


def seeds_used(first_seed: int, scans: int) -> dict[str, Any]:
    """Which scans these were, and whether the confidence had seen them."""
    if first_seed >= FITTED_SEEDS:
        seen = "Fresh scans: none was seen when the constants of the confidence were fitted"
    else:
        seen = "Some or all of these scans were seen when the constants of the confidence were fitted"
    return {
        "scans": scans,
        "first_seed": first_seed,
        "seeds": f"{seen} (seeds below {FITTED_SEEDS}). Replaces what this file said of any other scans.",
    }


def measure_half_turns(first_seed: int, scans: int) -> dict[str, Any]:
    """Errors and confidence of `find_center`, with and without trial reconstructions."""
    errors: dict[str, list[float]] = {}
    sure: dict[str, list[tuple[float, float, float]]] = {"three_methods": [], "two_methods": []}
    for seed in range(first_seed, first_seed + scans):
        theta, center, projections = half_turn(seed)
        reconstruct = quick_reconstruction(theta, projections.shape[2])
        for name, result in (
            ("three_methods", find_center(projections, theta, reconstruct)),
            ("two_methods", find_center(projections, theta)),
        ):
            values = list(result.estimates.values())
            sure[name].append((result.confidence, abs(result.center - center) <= 0.5, max(values) - min(values)))
            errors.setdefault(name, []).append(result.center - center)
            if name == "three_methods":
                for method, value in result.estimates.items():
                    errors.setdefault(method, []).append(value - center)
    report = seeds_used(first_seed, scans)
    report["errors"] = {name: errors_of(values) for name, values in errors.items()}
    for name, rows in sure.items():
        confidence, right, spread = np.array(rows, float).T
        scale, power = fitted_odds(spread + 0.1, right)
        report[name] = {
            "odds_scale_px": round(scale, 3),
            "odds_power": round(power, 3),
            "reliability": reliability(confidence, right),
        }
    return report


def measure_whole_turns(first_seed: int, scans: int) -> dict[str, Any]:
    """Errors and confidence of `find_center_360`."""
    rows = []
    for seed in range(first_seed, first_seed + scans):
        theta, center, projections = whole_turn(seed)
        result = find_center_360(projections, theta)
        rows.append((result.confidence, result.center - center))
    confidence, error = np.array(rows).T
    right = (np.abs(error) <= 0.5).astype(float)
    # The odds are monotonic in the confidence: the fit in its own odds is (1, 1) where the constants are right.
    scale, power = fitted_odds(confidence / (1 - confidence), right)
    return {
        **seeds_used(first_seed, scans),
        "errors": errors_of(list(error)),
        "odds_of_odds": [round(scale, 3), round(power, 3)],
        "reliability": reliability(confidence, right),
    }


def phase_correlation(
    first: NDArray[np.floating[Any]],
    second: NDArray[np.floating[Any]],
    search: tuple[float, float],
    *,
    sigma_px: float = 0.0,
    tapered: float = 0.0,
) -> CenterEstimate:
    """Centre by phase correlation: the peak of the inverse transform of the normalised cross-power spectrum.

    The spectra of the rows are normalised each and summed. `sigma_px` limits the band as a Gaussian smoothing of both
    projections by that would (without it, all frequencies weigh alike); `tapered` is the share of the width under a Tukey
    window's flanks. The peak is found on a grid of an eighth of a pixel by padding the spectrum with zeros, with a parabola.
    """
    columns = first.shape[1]
    length = 2 * scipy.fft.next_fast_len(columns, real=True)
    window = windows.tukey(columns, tapered)
    a, b = (
        scipy.fft.rfft((image - image.mean(axis=1, keepdims=True)) * window, length, axis=1)
        for image in (first.astype(np.float64), second[:, ::-1].astype(np.float64))
    )
    power = a * np.conj(b)
    power /= np.maximum(np.abs(power), 1e-12 * np.abs(power).max() + np.finfo(np.float64).tiny)
    band = np.exp(-2 * (np.pi * sigma_px * np.arange(length // 2 + 1) / length) ** 2)
    peak_of_one = scipy.fft.irfft(band, length * _UPSAMPLING)[0]
    curve = scipy.fft.irfft(power.mean(axis=0) * band, length * _UPSAMPLING) / peak_of_one
    lowest, highest = (_UPSAMPLING * (2 * end - (columns - 1)) for end in search)
    shifts = np.arange(np.floor(lowest), np.ceil(highest) + 1).astype(np.int64)
    return estimate_of_curve((columns - 1 + shifts / _UPSAMPLING) / 2, 1 - curve[shifts])


def band_passed_coefficient(
    first: NDArray[np.floating[Any]], second: NDArray[np.floating[Any]], search: tuple[float, float]
) -> CenterEstimate:
    """The correlation coefficient without the coarse contrast: sigma 1.5 less sigma 6 pixels."""

    def fine(image: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        narrow, wide = (ndimage.gaussian_filter1d(image, sigma, axis=1, mode="nearest") for sigma in (1.5, 6))
        return np.asarray(narrow - wide)

    return find_center_correlation(fine(first), fine(second), search)


CORRELATIONS: dict[str, Callable[..., CenterEstimate]] = {
    "coefficient": find_center_correlation,
    "coefficient, band-passed": band_passed_coefficient,
    "phase": phase_correlation,
    "phase, sigma 1": partial(phase_correlation, sigma_px=1.0),
    "phase, sigma 2": partial(phase_correlation, sigma_px=2.0),
    "phase, sigma 4": partial(phase_correlation, sigma_px=4.0),
    "phase, sigma 2, tapered": partial(phase_correlation, sigma_px=2.0, tapered=0.2),
    "phase, sigma 4, tapered": partial(phase_correlation, sigma_px=4.0, tapered=0.2),
}
"""Ways to find the centre from two opposite projections; the first is the one in use."""


def correlations(projections: NDArray[np.float32], theta: NDArray[np.float64]) -> dict[str, float]:
    """The centre of a scan by each of `CORRELATIONS`, from the same pairs."""
    search = checked_search(None, 0.25, projections.shape[2])
    return {
        name: correlation_over_pairs(projections, theta, search, of_pair).center
        for name, of_pair in CORRELATIONS.items()
    }


def real_scan(path: Path, rows: tuple[int, ...]) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Angles and line integrals of some rows of a Data Exchange file."""
    with h5py.File(path) as file:
        exchange = file["exchange"]
        raw, theta = exchange["data"][:, list(rows)], np.deg2rad(exchange["theta"][:])
        flat = exchange["data_white"][:, list(rows)].mean(axis=0)
        dark = exchange["data_dark"][:, list(rows)].mean(axis=0)
    return theta, (-np.log(np.maximum((raw - dark) / (flat - dark), 1e-2))).astype(np.float32)


def measure_correlations(first_seed: int, scans: int, data: Path | None) -> dict[str, Any]:
    """Errors of `CORRELATIONS` on simulated scans, and on real ones from their sharpest centre."""
    errors: dict[str, list[float]] = {name: [] for name in CORRELATIONS}
    for seed in range(first_seed, first_seed + scans):
        theta, center, projections = half_turn(seed)
        for name, found in correlations(projections, theta).items():
            errors[name].append(found - center)
    report: dict[str, Any] = {
        "scans": scans,
        "first_seed": first_seed,
        "errors": {name: errors_of(values) for name, values in errors.items()},
    }
    for file, rows, sharpest in REAL_SCANS if data else ():
        assert data is not None
        theta, projections = real_scan(data / file, rows)
        found_by = correlations(projections, theta)
        report[f"{file}, px from the sharpest"] = {
            name: round(center - sharpest, 3) for name, center in found_by.items()
        }
    return report


def cpu_seconds(task: Callable[[], float]) -> tuple[float, float]:
    """CPU time of a task, in all its threads and processes, and its result."""

    def used() -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.process_time() + children.ru_utime + children.ru_stime

    start = used()
    result = task()
    return used() - start, result


def timing_sinogram(columns: int, angles: int) -> tuple[NDArray[np.float32], NDArray[np.float64], float]:
    """Sinogram of pores with a little noise, angles, centre."""
    rng = np.random.default_rng(1)
    theta = np.linspace(0, np.pi, angles)
    center = columns / 2 + 7.3
    t = np.arange(columns) - center
    sinogram = np.zeros((angles, columns))
    for value, a, b, x, y, turn in ellipses("pores", 0.42 * columns, rng):
        squared = (a * np.cos(theta - turn)) ** 2 + (b * np.sin(theta - turn)) ** 2
        distance = t - (x * np.cos(theta) + y * np.sin(theta))[:, None]
        sinogram += 2 * value * a * b * np.sqrt(np.maximum(squared[:, None] - distance**2, 0)) / squared[:, None]
    lines = sinogram * 2.5 / sinogram.max() + rng.normal(0, 0.02, sinogram.shape)
    return lines.astype(np.float32), theta, center


def timed(who: str, columns: int, angles: int, repeats: int) -> tuple[list[float], float]:
    """CPU seconds of each call of one package's method, once it has worked on something small, and the error in pixels."""
    task = METHODS[who]()
    task(*timing_sinogram(128, 181)[:2])  # compiles, plans
    lines, theta, center = timing_sinogram(columns, angles)
    calls = [cpu_seconds(lambda: task(lines, theta)) for _ in range(repeats)]
    return [seconds for seconds, _ in calls], calls[-1][1] - center


def alone(who: str, columns: int, repeats: int) -> tuple[list[float], float] | None:
    """What `timed` says in a process of its own, whose group (TomoPy starts more) is ended when patience is; None: not here."""
    arguments = ["--time-one", who, "--widths", str(columns), "--repeats", str(repeats)]
    command = [sys.executable, __file__, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            said, _ = process.communicate(timeout=_PATIENCE_SECONDS)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode:
        raise RuntimeError(f"timing {who} failed with exit status {process.returncode}")
    answer = json.loads(said.splitlines()[-1])
    return None if answer is None else (answer[0], answer[1])


def measure_times(widths: list[int], repeats: int) -> list[dict[str, Any]]:
    """CPU seconds of Vo's method, ours over half the width, theirs over their own defaults (narrower).

    Each in a process of its own, which is ended where it takes longer than there is patience for.
    """
    table: list[dict[str, Any]] = []
    for columns in widths:
        ours = 0.0
        for who in METHODS:
            # Minutes, and its ratio needs no second digit.
            calls = 1 if who != "tomopipe" and columns > _PATIENCE_COLUMNS else repeats
            row: dict[str, Any] = {"columns": columns, "angles": ANGLES[columns], "who": who, "calls": calls}
            try:
                answer = alone(who, columns, calls)
            except subprocess.TimeoutExpired:
                table.append({**row, "remark": f"ended after {_PATIENCE_SECONDS:g} s"})
                print(table[-1])
                continue
            if answer is None:
                print(f"{who} is not installed: left out")
                continue
            seconds, error = answer
            median = float(np.median(seconds))
            ours = ours or median
            row |= {"cpu_s": round(median, 4), "error_px": round(error, 3), "times_ours": round(median / ours, 1)}
            table.append(row)
            print(row)
    return table


Method = Callable[[NDArray[np.float32], NDArray[np.float64]], float]


def _ours() -> Method:
    return lambda lines, theta: find_center_vo(lines, theta).center


def _algotom() -> Method:
    from algotom.prep import calculation  # type: ignore[import-untyped]

    return lambda lines, theta: float(calculation.find_center_vo(lines, ncore=1))


def _tomopy() -> Method:
    # TomoPy still uses a name that SciPy has removed.
    if not hasattr(ndimage, "interpolation"):
        ndimage.interpolation = ndimage
    import tomopy

    return lambda lines, theta: float(tomopy.find_center_vo(lines[:, None, :], ncore=1))


METHODS: dict[str, Callable[[], Method]] = {"tomopipe": _ours, "algotom": _algotom, "tomopy": _tomopy}
"""Vo's method of those packages that are installed, over the range that they search by default."""


def versions() -> dict[str, str]:
    """Versions of what is installed."""
    # The peers' environment may have the packages' folder only, not what its installation says.
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = {"tomopipe": project["version"]}
    for name in ("numpy", "scipy", "numba", "algotom", "tomopy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def provenance() -> dict[str, Any]:
    """When and where."""
    return {
        "date": datetime.date.today().isoformat(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "versions": versions(),
    }


def main() -> None:
    """Measure what is asked for, and write it beside what was measured before."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--scans", type=int, default=0, help="Simulated scans of each kind.")
    parser.add_argument("--correlations", type=int, default=0, help="Simulated scans for phase correlation.")
    parser.add_argument("--first-seed", type=int, default=0, help="Seed of the first simulated scan.")
    parser.add_argument("--data", type=Path, help="Folder of the real scans, for --correlations.")
    parser.add_argument("--timings", action="store_true", help="Time Vo's method beside the peers.")
    parser.add_argument("--widths", type=int, nargs="+", default=list(ANGLES), choices=list(ANGLES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--time-one", choices=list(METHODS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.time_one:
        try:
            print(json.dumps(timed(options.time_one, options.widths[0], ANGLES[options.widths[0]], options.repeats)))
        except ImportError:
            print("null")
        return
    document: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    document.pop("measured", None)  # each part says so itself
    found: dict[str, Any] = {}
    if options.scans:
        found["half_turn"] = measure_half_turns(options.first_seed, options.scans)
        found["whole_turn"] = measure_whole_turns(options.first_seed, options.scans)
    if options.correlations:
        found["correlations"] = measure_correlations(options.first_seed, options.correlations, options.data)
    if options.timings:
        found["vo_times"] = {"rows": measure_times(options.widths, options.repeats)}
    for part in found.values():
        part["measured"] = provenance()
    print(json.dumps(found, indent=1))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(document | found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
