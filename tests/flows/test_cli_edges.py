"""What happens at the edges of the command: streams that go away, odd paths, impossible numbers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from runs import Pipeline

from tomopipe.functions.simulation import SimulationSettings, simulate_scan


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = SimulationSettings(columns=64, rows=16, angles=60, n_flats=4, n_darks=2, inclusion_radius_px=5.0)
    return simulate_scan(settings, tmp_path_factory.mktemp("scan") / "an odd 'name'.h5")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return Pipeline(tmp_path_factory.mktemp("home"))


def test_a_watcher_that_goes_away_ends_no_run(scan: Path, pipeline: Pipeline, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    command = [
        sys.executable,
        "-m",
        "tomopipe.flows.cli",
        "run",
        str(scan),
        "--scan-id",
        "odd",
        "--output",
        str(tmp_path),
    ]
    process = subprocess.Popen(command, env=pipeline.environment, stdout=subprocess.PIPE, stderr=writing)
    os.close(writing)
    os.close(reading)
    process.communicate(timeout=120)
    assert process.returncode == 0
    assert pipeline("status", "odd").stdout.count("SUCCEEDED") > 5


def test_standard_output_that_is_full_is_one_line(scan: Path, pipeline: Pipeline, tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "tomopipe.flows.cli", "simulate", str(tmp_path / "s.h5"), "--rows", "4"],
            env=pipeline.environment, stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert done.returncode == 1
    assert "cannot print" in done.stderr
    assert "Traceback" not in done.stderr


def test_odd_paths_are_refused_in_one_line(scan: Path, pipeline: Pipeline, tmp_path: Path) -> None:
    loop, fifo = tmp_path / "loop.h5", tmp_path / "fifo.h5"
    loop.symlink_to(loop)
    os.mkfifo(fifo)
    for arguments in (
        [loop],
        [fifo],
        [scan, "--scan-id", "odd", "--output", tmp_path / ("x" * 300)],
        [scan, "--scan-id", "odd", "--output", os.fsdecode(bytes(tmp_path) + b"/\xff")],
        [scan, "--scan-id", "odd", "--output", tmp_path / "r", "--copy-to", tmp_path / "r"],
        [scan, "--scan-id", "odd", "--memory", "9" * 400 + "G"],
        [scan],
    ):
        done = pipeline("run", *arguments, timeout_s=60)
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        assert done.stderr.startswith("error: ")


def test_a_search_too_long_is_refused(pipeline: Pipeline) -> None:
    done = pipeline("search", "a " * 2000)
    assert done.returncode == 2
    assert "characters" in done.stderr


def test_settings_of_the_simulation_are_listed(pipeline: Pipeline) -> None:
    done = pipeline("simulate", "--settings")
    assert done.returncode == 0
    assert "zinger_rate" in done.stdout


def test_a_locked_store_is_said_and_harms_no_run(
    scan: Path, pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sqlite3

    from tomopipe.flows.local import database
    from tomopipe.flows.local.run_store import RunStore

    monkeypatch.setattr(database, "_LOCK_TIMEOUT_S", 0.1)
    store = RunStore(tmp_path / "runs.sqlite")
    run_id = store.create_run(label="x", scan="/x", input={}, definition_digest="d")
    holder = sqlite3.connect(tmp_path / "runs.sqlite", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    store.observer(run_id).event("Code", "lost", {})
    with pytest.raises(database.DatabaseUnavailable, match="locked"):
        store.create_run(label="y", scan="/y", input={}, definition_digest="d")
    holder.execute("ROLLBACK")
    holder.close()
    assert store.get_run(run_id).status == "ACTIVE"
