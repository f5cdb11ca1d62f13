"""The devices of a worker: threads that it was granted, GPUs that it shares with others, and plain words where there are none."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tomopipe.functions import device
from tomopipe.functions.device import Device, cpu, hidden_gpus, worker_device, worker_devices
from tomopipe.functions.errors import ParameterError

FOUR = tuple(Device("cuda", index, 1, f"GPU {index}") for index in range(4))


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "gpus", lambda: FOUR)
    monkeypatch.delenv("PARSL_WORKER_RANK", raising=False)
    for name in ("PARSL_WORKER_COUNT", "CUDA_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_what_the_environment_grants(threads: int) -> None:
    if len(os.sched_getaffinity(0)) < threads:
        pytest.skip("fewer cores than threads")
    code = "from tomopipe.functions.device import cpu; print(cpu().threads)"
    environment = {**os.environ, "NUMBA_NUM_THREADS": str(threads)}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(threads)


def test_without_a_gpu_the_cpu_computes_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "gpus", tuple)
    assert worker_devices() == worker_devices([0, 1]) == [cpu()]
    assert not worker_device().is_gpu
    assert worker_device().torch_name == "cpu"
    assert hidden_gpus(None) is None
    assert "[0, 1]" in str(hidden_gpus([0, 1]))


def test_a_single_worker_takes_all_gpus_or_those_that_are_asked_for(four_gpus: None) -> None:
    assert worker_devices() == list(FOUR)
    assert worker_devices([3, 1]) == [FOUR[3], FOUR[1]]
    assert [found.torch_name for found in worker_devices([2])] == ["cuda:2"]
    assert hidden_gpus([0]) is None


def test_workers_that_see_all_gpus_take_one_each(four_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARSL_WORKER_COUNT", "8")
    taken = []
    for rank in range(8):
        monkeypatch.setenv("PARSL_WORKER_RANK", str(rank))
        (found,) = worker_devices()
        taken.append(found.index)
    assert taken == [0, 1, 2, 3, 0, 1, 2, 3]
    monkeypatch.setenv("PARSL_WORKER_RANK", "3")
    assert worker_devices([1, 2]) == [FOUR[2]]


def test_a_gpu_that_is_not_there_is_refused(four_gpus: None) -> None:
    with pytest.raises(ParameterError, match=r"gpu_devices=\[0, 4\]: this worker sees 4 GPU"):
        worker_devices([0, 4])


@pytest.mark.parametrize("name", ["CUDA_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"])
def test_a_pinned_worker_takes_its_own_whatever_the_numbers_of_the_node(
    four_gpus: None, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(device, "gpus", lambda: FOUR[:1])
    monkeypatch.setenv(name, "2")
    monkeypatch.setenv("PARSL_WORKER_COUNT", "4")
    monkeypatch.setenv("PARSL_WORKER_RANK", "2")
    assert worker_devices([0, 1, 2, 3]) == [FOUR[0]]


def test_pytorch_is_not_imported_where_there_is_no_gpu() -> None:
    code = (
        "import sys; from tomopipe.functions import device; device._GPU_NODES = ('/dev/no-such-gpu*',); "
        "assert device.gpus() == (); print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
