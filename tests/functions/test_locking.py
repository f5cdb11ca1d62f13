"""Locks beside what they guard: one holder at a time, also after a kill, and two runs of one recipe share the work."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tomopipe.functions.locking import lock
from tomopipe.functions.receipting import undone
from tomopipe.functions.rundir import RunDirectory

ADD = """
import sys, time
from pathlib import Path
from tomopipe.functions.locking import lock
path, counter = map(Path, sys.argv[1:])
for _ in range(40):
    with lock(path):
        number = int(counter.read_text())
        time.sleep(0.0005)
        counter.write_text(str(number + 1))
"""
HOLD = """
import sys, time
from pathlib import Path
from tomopipe.functions.locking import lock
path, held = map(Path, sys.argv[1:])
with lock(path):
    held.touch()
    time.sleep(60)
"""


def process(code: str, *paths: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code, *map(str, paths)])


def add_ones(path: Path, counter: Path) -> None:
    for _ in range(40):
        with lock(path):
            number = int(counter.read_text())
            time.sleep(0.0005)
            counter.write_text(str(number + 1))


def test_processes_and_threads_hold_it_one_at_a_time(tmp_path: Path) -> None:
    counter, path = tmp_path / "counter", tmp_path / "folder" / "lock"
    counter.write_text("0")
    processes = [process(ADD, path, counter) for _ in range(3)]
    threads = [threading.Thread(target=add_ones, args=(path, counter)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.wait() for one in processes] == [0, 0, 0]
    assert counter.read_text() == "240"
    assert list(path.parent.iterdir()) == []


def test_a_killed_holder_leaves_it_to_the_next(tmp_path: Path) -> None:
    path, held = tmp_path / "lock", tmp_path / "held"
    holder = process(HOLD, path, held)
    while not held.exists():
        time.sleep(0.01)
    entered = threading.Event()

    def wait_for_it() -> None:
        with lock(path) as is_held:
            assert is_held
            entered.set()

    waiting = threading.Thread(target=wait_for_it)
    waiting.start()
    assert not entered.wait(0.3)
    holder.kill()
    assert entered.wait(10)
    waiting.join()
    holder.wait()
    assert not path.exists()


def test_without_locks_it_says_so_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with lock(tmp_path / "lock") as is_held:
        assert not is_held


def test_an_error_of_the_disk_is_no_lack_of_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(descriptor: int, operation: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(OSError, match="Input/output"), lock(tmp_path / "lock"):
        pass


def test_a_slab_that_is_being_done_is_waited_for_and_not_done_again(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    started, done = threading.Event(), []

    def work(name: str) -> None:
        with undone(run, "reconstruct", 0, 8, "digest") as is_left:
            if is_left:
                started.set()
                time.sleep(0.3)
                run.write_receipt("reconstruct", 0, 8, {"digest": "digest"})
                done.append(name)

    first = threading.Thread(target=work, args=("first",))
    first.start()
    started.wait(5)
    work("second")
    first.join()
    assert done == ["first"]
    assert [path.name for path in (tmp_path / "receipts" / "reconstruct").iterdir()] == ["000000-000008.json"]


def test_a_slab_whose_worker_failed_is_done_by_the_one_who_waited(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    entered = threading.Event()

    def fail() -> None:
        with pytest.raises(ValueError, match="broken"), undone(run, "segment", 0, 8, "digest"):
            entered.set()
            time.sleep(0.2)
            raise ValueError("broken")

    failing = threading.Thread(target=fail)
    failing.start()
    entered.wait(5)
    with undone(run, "segment", 0, 8, "digest") as is_left:
        assert is_left
    failing.join()
