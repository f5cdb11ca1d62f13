"""A run that is killed at any instant resumes to the same bits; a run keeps to its memory budget."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs import Pipeline, assert_same_result, kill_group

from tomopipe.functions.rundir import RunDirectory
from tomopipe.functions.simulation import SimulationSettings, simulate_scan

KILLS = 10

# Runs the command in this process and prints its peak resident memory in KiB.
PEAK = """
import resource, sys
from tomopipe.flows.cli import app
app(sys.argv[1:], standalone_mode=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_ten_times_and_resumed(tmp_path: Path, workers: int) -> None:
    scan = simulate_scan(
        SimulationSettings(columns=96, rows=48, angles=120, n_flats=4, n_darks=2, inclusion_radius_px=5.0, seed=5),
        tmp_path / "scan.h5",
    )
    pipeline = Pipeline(tmp_path / "home")
    options = ("--slab", 8, "--workers", workers)
    began = time.monotonic()
    undisturbed = pipeline.run(scan, tmp_path / "undisturbed", *options)
    duration_s = time.monotonic() - began

    instants = random.Random(7 + workers)
    finished: dict[Path, bytes] = {}
    stages_hit = set()
    for _ in range(KILLS):
        process = pipeline.start("run", scan, "--output", tmp_path / "killed", *options)
        # Later starts have less left to do, so that an instant late in the run would find it done.
        left = 1 - len(finished) / len(list(undisturbed.root.glob("receipts/*/*.json")))
        time.sleep(instants.uniform(0.3, 1) * (0.4 + 0.6 * left) * duration_s)
        kill_group(process)
        receipts = {path: path.read_bytes() for path in (tmp_path / "killed").glob("scan/*/receipts/*/??????-*.json")}
        assert finished.items() <= receipts.items(), "a finished slab was done again or lost"
        stages_hit |= {path.parent.name for path in receipts.keys() - finished.keys()}
        finished = receipts
    assert stages_hit, "no kill came while slabs were being finished"
    resumed = pipeline.run(scan, tmp_path / "killed", *options)
    receipts = {path: path.read_bytes() for path in resumed.root.glob("receipts/*/*.json")}
    assert finished.items() <= receipts.items(), "a finished slab was done again"
    assert_same_result(undisturbed, resumed)
    assert not list(resumed.root.rglob("*.part*")), "what killed workers left behind is gone"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_volume_larger_than_the_budget_runs_within_it(tmp_path: Path) -> None:
    budget = 128 * 2**20
    large = SimulationSettings(columns=384, rows=320, angles=120, n_flats=4, n_darks=2, seed=6)
    small = SimulationSettings(columns=64, rows=16, angles=60, n_flats=4, n_darks=2, inclusion_radius_px=5.0, seed=6)
    assert large.columns**2 * large.rows * 4 > budget
    options = ["--memory", "128M", "--set", "denoising.method=total_variation"]
    # As large as the budget allows: a default maximum is refused with it before anything starts.
    for metric in ("thickness", "tortuosity", "tortuosity_factor"):
        options += ["--set", f"quantification.{metric}_maximum_voxels=3000000"]
    # What the interpreter, the libraries and the compiled code take is no part of the budget.
    base = _peak_bytes(tmp_path, small, "small", options)
    assert _peak_bytes(tmp_path, large, "large", options) - base < budget
    (run,) = [RunDirectory(path.parent) for path in (tmp_path / "results" / "large").glob("*/run.json")]
    assert len(run.receipts("reconstruct")) > 320 // 64, "the plan has cut the slabs down"


def _peak_bytes(tmp_path: Path, settings: SimulationSettings, name: str, options: list[str]) -> int:
    scan = simulate_scan(settings, tmp_path / f"{name}.h5")
    done = subprocess.run(
        [sys.executable, "-c", PEAK, "run", str(scan), "--output", str(tmp_path / "results"), *options],
        env=Pipeline(tmp_path / "home").environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.splitlines()[-1]) * 1024
