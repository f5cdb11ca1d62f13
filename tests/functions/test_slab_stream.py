"""Slabs are read, computed and written beside each other, and end the same whatever is at once, fails or is killed."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tomopipe.functions.errors import StageError
from tomopipe.functions.rundir import RunDirectory
from tomopipe.functions.slab_stream import SlabStream, SlabWork

SLABS = [(0, 8), (8, 16), (16, 24), (24, 30)]
WAIT_S = 20.0


class Recorder:
    """Work whose result is known, and which notes what was done."""

    def __init__(self, chunk_rows: int = 8, devices: int = 1, axis: int = 0) -> None:
        self.written: dict[int, NDArray[Any]] = {}
        self.calls: list[tuple[str, int]] = []
        self.devices: list[set[int]] = [set() for _ in range(devices)]
        self.axis = axis
        self.work = SlabWork(self.read, [self._on(k) for k in range(devices)], axis, self.write, chunk_rows)

    def read(self, start: int, stop: int) -> tuple[int, int]:
        self.calls.append(("read", start))
        return start, stop

    def _on(self, device: int) -> Any:
        def compute(rows: tuple[int, int]) -> tuple[NDArray[Any], int]:
            self.calls.append(("compute", rows[0]))
            self.devices[device].add(threading.get_ident())
            values = np.arange(*rows, dtype=np.float32)
            return (values[:, None] * [1, 2] if self.axis == 0 else np.array([[1], [2]]) * values), rows[0] % 3

        return compute

    def write(self, start: int, array: NDArray[Any]) -> dict[str, Any]:
        self.calls.append(("write", start))
        self.written[start] = array
        return {"checksum": f"of {start}"}


def run_stream(
    root: Path, recorder: Recorder, *, overlaps: bool = True, slabs: list[tuple[int, int]] = SLABS
) -> RunDirectory:
    run = RunDirectory(root)
    at_once = len(recorder.work.compute) if overlaps else 0
    SlabStream(run, "reconstruct", "digest", (0, 30), at_once).run(slabs, lambda: recorder.work)
    return run


@pytest.mark.parametrize("overlaps", [True, False])
@pytest.mark.parametrize("devices", [1, 3])
@pytest.mark.parametrize("chunk_rows", [3, 8, 64])
@pytest.mark.parametrize("axis", [0, 1])
def test_every_slab_is_written_whole_and_receipted(
    tmp_path: Path, overlaps: bool, devices: int, chunk_rows: int, axis: int
) -> None:
    recorder = Recorder(chunk_rows, devices, axis)
    run = run_stream(tmp_path, recorder, overlaps=overlaps)
    for start, stop in SLABS:
        rows = np.arange(start, stop, dtype=np.float32)
        expected = rows[:, None] * [1, 2] if axis == 0 else np.array([[1], [2]]) * rows
        np.testing.assert_array_equal(recorder.written[start], expected)
        receipt = json.loads(run.receipt_path("reconstruct", start, stop).read_text())
        assert receipt["checksum"] == f"of {start}"
        lows = range(start, stop, chunk_rows)
        assert receipt.get("mended_pixels", 0) == sum(low % 3 for low in lows)
        assert not run.lock_path("reconstruct", start, stop).exists()
    assert [name for name, _ in recorder.calls].count("write") == len(SLABS)


def test_the_next_rows_are_read_and_the_last_slab_written_while_one_is_computed(tmp_path: Path) -> None:
    recorder = Recorder()
    read_third, computing_third = threading.Event(), threading.Event()

    def read(start: int, stop: int) -> tuple[int, int]:
        if start == 16:
            read_third.set()
        return start, stop

    def compute(rows: tuple[int, int]) -> tuple[NDArray[Any], int]:
        if rows[0] == 8:
            assert read_third.wait(WAIT_S), "rows of the third slab were not read while the second was computed"
        if rows[0] == 16:
            computing_third.set()
        return np.zeros((rows[1] - rows[0], 2), np.float32), 0

    def write(start: int, array: NDArray[Any]) -> dict[str, Any]:
        if start == 8:
            assert computing_third.wait(WAIT_S), "the third slab was not computed while the second was written"
        return recorder.write(start, array)

    recorder.work = SlabWork(read, [compute], 0, write, 8)
    run_stream(tmp_path, recorder)
    assert sorted(recorder.written) == [0, 8, 16, 24]


def test_without_the_memory_for_it_one_thing_is_done_after_the_other(tmp_path: Path) -> None:
    recorder = Recorder()
    run_stream(tmp_path, recorder, overlaps=False)
    assert recorder.calls == [(name, start) for start, _ in SLABS for name in ("read", "compute", "write")]


def test_devices_compute_at_once(tmp_path: Path) -> None:
    recorder = Recorder()
    together = threading.Barrier(2, timeout=WAIT_S)

    def compute(rows: tuple[int, int]) -> tuple[NDArray[Any], int]:
        together.wait()  # breaks unless both devices are here
        return np.zeros((rows[1] - rows[0], 2), np.float32), 0

    recorder.work = SlabWork(recorder.read, [compute, compute], 0, recorder.write, 8)
    run_stream(tmp_path, recorder)
    assert sorted(recorder.written) == [0, 8, 16, 24]


def test_a_slab_with_a_receipt_is_not_touched(tmp_path: Path) -> None:
    run_stream(tmp_path, Recorder(), slabs=SLABS[1:3])
    again = Recorder()
    run_stream(tmp_path, again)
    assert sorted(again.written) == [0, 24]
    assert {start for _, start in again.calls} == {0, 24}


@pytest.mark.parametrize("step", ["read", "compute", "write"])
@pytest.mark.parametrize("overlaps", [True, False])
def test_a_failure_names_its_slab_keeps_what_was_finished_and_is_mended_by_another_start(
    tmp_path: Path, step: str, overlaps: bool
) -> None:
    recorder = Recorder()
    good = recorder.work

    def failing(*arguments: Any) -> Any:
        start = arguments[0][0] if step == "compute" else arguments[0]
        if start == 16:
            raise OSError("no space left")
        return getattr(good, step)(*arguments) if step != "compute" else good.compute[0](*arguments)

    broken = {"read": good.read, "compute": [good.compute[0]], "write": good.write}
    broken[step] = [failing] if step == "compute" else failing
    recorder.work = SlabWork(rows_axis=0, chunk_rows=8, **broken)  # type: ignore[arg-type]
    with pytest.raises(StageError, match="reconstruct, rows 16 to 24: OSError: no space left"):
        run_stream(tmp_path, recorder, overlaps=overlaps)
    run = RunDirectory(tmp_path)
    assert run.is_done("reconstruct", 0, 8, "digest")
    assert not run.is_done("reconstruct", 16, 24, "digest")
    assert "no space left" in run.failure_path("reconstruct", 16, 24).read_text()
    assert not list(tmp_path.glob("**/*.lock")), "a lock was left behind"
    again = Recorder()
    run_stream(tmp_path, again)
    assert all(run.is_done("reconstruct", *slab, "digest") for slab in SLABS)
    assert 0 not in again.written
    assert not run.failure_path("reconstruct", 16, 24).exists()


def test_the_seconds_of_slabs_add_up_to_what_the_task_took(tmp_path: Path) -> None:
    recorder = Recorder()
    began = time.time()
    run = run_stream(tmp_path, recorder)
    took = time.time() - began
    receipts = [json.loads(run.receipt_path("reconstruct", *slab).read_text()) for slab in SLABS]
    assert sum(receipt["seconds"] for receipt in receipts) <= took + 0.001 * len(SLABS)


def test_nothing_is_prepared_where_nothing_is_left(tmp_path: Path) -> None:
    run = run_stream(tmp_path, Recorder())

    def prepare() -> SlabWork:
        raise AssertionError("prepared")

    SlabStream(run, "reconstruct", "digest", (0, 30), 1).run(SLABS, prepare)
    with pytest.raises(StageError, match="reconstruct, rows 0 to 8: AssertionError: prepared"):
        SlabStream(run, "reconstruct", "another digest", (0, 30), 1).run(SLABS, prepare)


def test_chunks_of_a_slab_from_several_devices_are_put_together(tmp_path: Path) -> None:
    recorder = Recorder(chunk_rows=1, devices=4)
    run_stream(tmp_path, recorder)
    for start, stop in SLABS:
        np.testing.assert_array_equal(recorder.written[start][:, 0], np.arange(start, stop))
