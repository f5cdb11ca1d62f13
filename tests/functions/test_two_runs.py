"""Two runs of one scan and recipe at the same time, in processes of their own: one result, the same as of one run alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from runs import assert_same_result

from tomopipe.functions.rundir import RunDirectory
from tomopipe.functions.simulation import SimulationSettings, simulate_scan

# What the flow does, state by state, in one process.
RUN = """
import importlib.metadata, json, sys
from pathlib import Path
from tomopipe.functions import stages
scan, root = sys.argv[1:]
names = ["preprocess", "reconstruct", "denoise", "segment", "prepare_objects", "find_objects", "join_objects",
         "label_objects", "separate_objects", "quantify"]
states = {name: "".join(part.capitalize() for part in name.split("_")) for name in names}
functions = {name: name for name in names}
version = importlib.metadata.version("tomopipe")
execution = {"slab": 16, "memory_bytes": 2**30}
plan = stages.inspect(scan, root, "scan", {}, [], None, execution, functions, version, {})
print("planned", file=sys.stderr, flush=True)
sys.stdin.readline()
tasks = plan["tasks"]
for name in names:
    for task in tasks[states[name]]:
        result = getattr(stages, name)(**task["kwargs"])
        if name == "prepare_objects":
            tasks |= result["tasks"]
print(json.dumps({"run": plan["run"], "document": result["document"]}))
"""


def start(scan: Path, root: Path) -> subprocess.Popen[str]:
    raw = root / "scan" / "raw.h5"
    raw.parent.mkdir(parents=True, exist_ok=True)
    if not raw.exists():
        shutil.copyfile(scan, raw)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", RUN, str(raw), str(root)], text=True, **pipes)


def finish(process: subprocess.Popen[str]) -> dict[str, object]:
    printed, errors = process.communicate("go\n", timeout=240)
    assert process.returncode == 0, errors
    found: dict[str, object] = json.loads(printed)
    return found


def wait_for_plan(process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    line = process.stderr.readline()
    assert line == "planned\n", line + process.stderr.read()


@pytest.mark.slow
def test_two_runs_at_once_give_one_result(tmp_path: Path) -> None:
    scan = tmp_path / "scan.h5"
    simulate_scan(SimulationSettings(columns=96, rows=64, angles=120), scan)
    alone = start(scan, tmp_path / "alone")
    both = [start(scan, tmp_path / "both") for _ in range(2)]
    for process in (alone, *both):
        wait_for_plan(process)
    # Both have planned all the work as theirs; now they do it in step.
    for process in both:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    first, second = (finish(process) for process in both)
    lone = finish(alone)

    assert first == second
    run = RunDirectory(Path(str(first["run"])))
    assert_same_result(run, RunDirectory(Path(str(lone["run"]))))
    assert not list(run.root.rglob("*.lock"))
    assert not list(run.root.rglob("*.part"))
    assert not run.objects_work.exists()
