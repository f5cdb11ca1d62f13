"""The device of a worker: threads that it was granted, and a plain word where GPUs are named in vain."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tomopipe.functions.device import hidden_gpus, worker_device


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_what_the_environment_grants(threads: int) -> None:
    if len(os.sched_getaffinity(0)) < threads:
        pytest.skip("fewer cores than threads")
    code = "from tomopipe.functions.device import worker_device; print(worker_device().threads)"
    environment = {**os.environ, "NUMBA_NUM_THREADS": str(threads)}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(threads)


def test_every_engine_computes_on_the_cpu() -> None:
    assert worker_device().kind == "cpu"
    assert hidden_gpus(None) is None
    assert "[0, 1]" in str(hidden_gpus([0, 1]))
