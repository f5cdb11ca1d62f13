"""Measures the rotation centre: errors of each method, what a confidence means, and the time beside TomoPy and Algotom.

    python benchmarks/rotation_center.py --scans 420 --timings

Errors and confidence come from simulated scans of many samples (pores, a few pores, loose particles, crystals, shells, smooth
ones, samples wider than the detector), with photon noise, rings, drift of the beam, wobble of the sample, and axes off the
middle. Prints the odds of an answer within half a pixel fitted to them, which `rotation_center` and `center_full_turn` have as
constants. Writes `benchmarks/results/rotation_center.json`. Peers that are not installed are left out with a remark.
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
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from tomopipe.functions.center_trials import quick_reconstruction
from tomopipe.functions.preprocessing.rotation_center import find_center, find_center_360, find_center_vo

RESULTS = Path(__file__).parent / "results" / "rotation_center.json"
SAMPLES = ("pores", "few", "loose", "crystals", "shell", "local", "smooth")
_PATIENCE_COLUMNS = 1024
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


def measure_half_turns(scans: int) -> dict[str, Any]:
    """Errors and confidence of `find_center`, with and without trial reconstructions."""
    errors: dict[str, list[float]] = {}
    sure: dict[str, list[tuple[float, float, float]]] = {"three_methods": [], "two_methods": []}
    for seed in range(scans):
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
    report: dict[str, Any] = {"scans": scans, "errors": {name: errors_of(values) for name, values in errors.items()}}
    for name, rows in sure.items():
        confidence, right, spread = np.array(rows, float).T
        scale, power = fitted_odds(spread + 0.1, right)
        report[name] = {
            "odds_scale_px": round(scale, 3),
            "odds_power": round(power, 3),
            "reliability": reliability(confidence, right),
        }
    return report


def measure_whole_turns(scans: int) -> dict[str, Any]:
    """Errors and confidence of `find_center_360`."""
    rows = []
    for seed in range(scans):
        theta, center, projections = whole_turn(seed)
        result = find_center_360(projections, theta)
        rows.append((result.confidence, result.center - center))
    confidence, error = np.array(rows).T
    right = (np.abs(error) <= 0.5).astype(float)
    # The odds are monotonic in the confidence: the fit in its own odds is (1, 1) where the constants are right.
    scale, power = fitted_odds(confidence / (1 - confidence), right)
    return {
        "scans": scans,
        "errors": errors_of(list(error)),
        "odds_of_odds": [round(scale, 3), round(power, 3)],
        "reliability": reliability(confidence, right),
    }


def cpu_seconds(task: Callable[[], float]) -> tuple[float, float]:
    """CPU time of a task, in all its threads and processes, and its result."""

    def used() -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.process_time() + children.ru_utime + children.ru_stime

    start = used()
    result = task()
    return used() - start, result


def measure_times(repeats: int) -> list[dict[str, Any]]:
    """CPU seconds of Vo's method, ours over half the width, theirs over their own defaults (narrower)."""
    table = []
    for columns, angles in ((512, 721), (1024, 1441), (2048, 1801)):
        rng = np.random.default_rng(1)
        theta = np.linspace(0, np.pi, angles)
        center = columns / 2 + 7.3
        t = np.arange(columns) - center
        sinogram = np.zeros((angles, columns))
        for value, a, b, x, y, turn in ellipses("pores", 0.42 * columns, rng):
            squared = (a * np.cos(theta - turn)) ** 2 + (b * np.sin(theta - turn)) ** 2
            distance = t - (x * np.cos(theta) + y * np.sin(theta))[:, None]
            sinogram += 2 * value * a * b * np.sqrt(np.maximum(squared[:, None] - distance**2, 0)) / squared[:, None]
        lines = (sinogram * 2.5 / sinogram.max() + rng.normal(0, 0.02, sinogram.shape)).astype(np.float32)
        found: dict[str, float] = {}
        tasks: dict[str, Callable[[], float]] = {"tomopipe": partial(_ours, lines, theta)}
        tasks |= peers(lines)
        times: dict[str, list[float]] = {name: [] for name in tasks}
        tasks["tomopipe"]()  # compiles
        for turn in range(repeats):
            for name, task in tasks.items():
                if turn and name != "tomopipe" and columns > _PATIENCE_COLUMNS:
                    continue  # minutes, and its ratio needs no second digit
                seconds, found[name] = cpu_seconds(task)
                times[name].append(seconds)
        for name in tasks:
            table.append(
                {
                    "columns": columns,
                    "angles": angles,
                    "who": name,
                    "cpu_s": round(float(np.median(times[name])), 4),
                    "error_px": round(found[name] - center, 3),
                    "times_ours": round(float(np.median(times[name]) / np.median(times["tomopipe"])), 1),
                }
            )
            print(table[-1])
    return table


def _ours(lines: NDArray[np.float32], theta: NDArray[np.float64]) -> float:
    return find_center_vo(lines, theta).center


def peers(lines: NDArray[np.float32]) -> dict[str, Callable[[], float]]:
    """Vo's method of those packages that are installed, over the range that they search by default."""
    tasks: dict[str, Callable[[], float]] = {}
    try:
        from algotom.prep import calculation  # type: ignore[import-untyped]

        tasks["algotom"] = lambda: float(calculation.find_center_vo(lines, ncore=1))
    except ImportError:
        print("algotom is not installed: left out")
    try:
        import scipy.ndimage

        # TomoPy still uses a name that SciPy has removed.
        if not hasattr(scipy.ndimage, "interpolation"):
            scipy.ndimage.interpolation = scipy.ndimage
        import tomopy

        tasks["tomopy"] = lambda: float(tomopy.find_center_vo(lines[:, None, :], ncore=1))
    except ImportError:
        print("tomopy is not installed: left out")
    return tasks


def versions() -> dict[str, str]:
    """Versions of what is installed."""
    found = {}
    for name in ("tomopipe", "numpy", "scipy", "numba", "algotom", "tomopy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def main() -> None:
    """Measure what is asked for, and write it beside what was measured before."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--scans", type=int, default=0, help="Simulated scans of each kind.")
    parser.add_argument("--timings", action="store_true", help="Time Vo's method beside the peers.")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    document: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    document["measured"] = {
        "date": datetime.date.today().isoformat(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "versions": versions(),
    }
    if options.scans:
        document["half_turn"] = measure_half_turns(options.scans)
        document["whole_turn"] = measure_whole_turns(options.scans)
        print(json.dumps({"half_turn": document["half_turn"], "whole_turn": document["whole_turn"]}, indent=1))
    if options.timings:
        document["vo_times"] = measure_times(options.repeats)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
