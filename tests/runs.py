"""Helpers of the tests that run the whole pipeline: the command in a process of its own, and what it left on disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from tomopipe.functions.rundir import RunDirectory
from tomopipe.functions.slabs import Sources


@dataclass(frozen=True)
class Pipeline:
    """The `tomopipe` command with a store of its own."""

    home: Path

    @property
    def environment(self) -> dict[str, str]:
        """Environment of the command."""
        return {**os.environ, "TOMOPIPE_HOME": str(self.home), "COLUMNS": "200"}

    def __call__(self, *arguments: object, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
        """Run the command to its end."""
        return subprocess.run(
            [sys.executable, "-m", "tomopipe.flows.cli", *map(str, arguments)],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        """Start the command as the leader of a process group."""
        return subprocess.Popen(
            [sys.executable, "-m", "tomopipe.flows.cli", *map(str, arguments)],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, scan: Path, output: Path, *options: object) -> RunDirectory:
        """Run a scan and return its run directory; the run must succeed."""
        done = self("run", scan, "--output", output, "--json", *options)
        assert done.returncode == 0, done.stderr
        return RunDirectory(Path(json.loads(done.stdout)["run_directory"]))


def kill_group(process: subprocess.Popen[str]) -> None:
    """`kill -9` of a command and all that it has started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def arrays(run: RunDirectory) -> dict[str, NDArray[Any]]:
    """Every volume of a run."""
    sources = Sources(run)
    found: dict[str, NDArray[Any]] = {"projections": sources.projections(0, sources.shape[1])}
    found["reconstruction"] = np.asarray(sources.reconstruction()[0 : sources.shape[1]])
    found["denoised"] = np.asarray(sources.denoised()[0 : sources.shape[1]])
    with h5py.File(run.labels) as file:
        found.update({name: file[name][:] for name in file})
    sources.close()
    return found


def assert_same_result(run: RunDirectory, other: RunDirectory) -> None:
    """Two runs agree to the bit: recipe, volumes, metrics and table of objects."""
    assert run.root.name == other.root.name
    first, second = arrays(run), arrays(other)
    assert first.keys() == second.keys()
    for name, array in first.items():
        assert np.array_equal(array, second[name]), f"{name} differs"
    assert run.metrics.read_bytes() == other.metrics.read_bytes()
    assert run.objects_table.read_bytes() == other.objects_table.read_bytes()
    assert run.contacts_table.read_bytes() == other.contacts_table.read_bytes()
