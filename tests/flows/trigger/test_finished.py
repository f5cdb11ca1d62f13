"""When a file is a finished scan: written slowly, in place, by rename, under temporary names, truncated, replaced, held."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from beamline.scans import write_scan

from tomopipe.flows.trigger import finished
from tomopipe.flows.trigger.finished import (
    FinishedPolicy,
    Watchful,
    check_finished,
    is_temporary_name,
    writers_of,
)


@pytest.fixture(autouse=True)
def always_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time is simulated here: what was seen half a second ago is not good enough."""
    monkeypatch.setattr(finished, "_SNAPSHOT_AGE_S", -1.0)


AT_ONCE = FinishedPolicy(stable_s=0.0, patience_s=100.0)


def test_a_whole_scan_is_finished_and_says_what_it_is(tmp_path: Path) -> None:
    path = write_scan(tmp_path / "a.h5", planned=8)
    verdict = check_finished(path, AT_ONCE, 0.0)
    assert verdict.state == "finished", verdict
    found = path.stat()
    assert (verdict.size, verdict.mtime_ns) == (found.st_size, found.st_mtime_ns)
    assert verdict.metadata["sample"] == "sandstone"
    assert verdict.metadata["angles"] == 8.0


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"theta": 0}, "theta"),
        ({"theta": 7}, "7 angles"),
        ({"flats": 0}, "no flats"),
        ({"darks": 0}, "no darks"),
        ({"planned": 20}, "8 of 20 planned"),
    ],
)
def test_what_is_missing_may_come_for_a_while(tmp_path: Path, wrong: dict[str, int], why: str) -> None:
    path = write_scan(tmp_path / "a.h5", **wrong)  # type: ignore[arg-type]
    early = check_finished(path, AT_ONCE, 99.0)
    assert (early.state, why in early.reason) == ("not yet", True), early
    late = check_finished(path, AT_ONCE, 100.0)
    assert (late.state, why in late.reason) == ("bad", True), late


def test_lost_frames_are_allowed_and_fewer_angles_too_where_that_is_said(tmp_path: Path) -> None:
    path = write_scan(tmp_path / "a.h5", angles=99, planned=100)
    assert check_finished(path, AT_ONCE, 0.0).state == "finished"
    strict = FinishedPolicy(stable_s=0.0, min_angles_fraction=1.0)
    assert check_finished(path, strict, 0.0).state == "not yet"


def test_truncated_and_other_files(tmp_path: Path) -> None:
    path = write_scan(tmp_path / "a.h5")
    os.truncate(path, path.stat().st_size - 100)
    assert check_finished(path, AT_ONCE, 0.0).state == "not yet"
    assert "truncated" in check_finished(path, AT_ONCE, 500.0).reason
    assert check_finished(path, AT_ONCE, 500.0).state == "bad"
    (tmp_path / "empty.h5").touch()
    assert check_finished(tmp_path / "empty.h5", AT_ONCE, 0.0).state == "not yet"
    (tmp_path / "text.h5").write_text("hello" * 1000)
    assert check_finished(tmp_path / "text.h5", AT_ONCE, 500.0).state == "bad"
    (tmp_path / "folder.h5").mkdir()
    assert check_finished(tmp_path / "folder.h5", AT_ONCE, 0.0).state == "bad"
    assert check_finished(tmp_path / "none.h5", AT_ONCE, 500.0).state == "not yet"


def test_an_interrupted_recording_is_no_scan(tmp_path: Path) -> None:
    path = write_scan(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        del file["/exchange/data"]
        data = file.create_dataset("/exchange/data", (8, 4, 6), np.uint16, chunks=(1, 4, 6))
        data[:5] = 500
    verdict = check_finished(path, AT_ONCE, 0.0)
    assert verdict.state == "not yet"
    assert "never written" in verdict.reason


def test_it_must_rest(tmp_path: Path) -> None:
    watchful = Watchful(FinishedPolicy(stable_s=10.0))
    path = write_scan(tmp_path / "a.h5")
    assert watchful.check(path, 0.0).state == "not yet"
    assert watchful.check(path, 9.9).state == "not yet"
    with path.open("ab") as file:
        file.write(b"x")
    assert watchful.check(path, 11.0).state == "not yet"
    write_scan(path)  # replaced: another one from now on
    assert watchful.check(path, 20.0).state == "not yet"
    assert watchful.check(path, 29.0).state == "not yet"
    assert watchful.check(path, 30.0).state == "finished"
    path.unlink()
    assert watchful.check(path, 40.0).state == "not yet"
    assert len(watchful) == 0


def test_a_file_written_slowly_in_place_is_never_finished_before_its_end(tmp_path: Path) -> None:
    whole = write_scan(tmp_path / "whole.h5").read_bytes()
    watchful = Watchful(FinishedPolicy(stable_s=1.0, patience_s=5.0))
    path, now = tmp_path / "a.h5", 0.0
    with path.open("wb") as file:
        for start in range(0, len(whole), 2000):
            file.write(whole[start : start + 2000])
            file.flush()
            for _ in range(4):  # a pause that is longer than asked for: its writer still has it open
                now += 0.5
                assert watchful.check(path, now).state == "not yet", start
    for _ in range(4):
        now += 0.5
        verdict = watchful.check(path, now)
    assert verdict.state == "finished"


def test_copies_under_temporary_names(tmp_path: Path) -> None:
    for name in (".a.h5.X7gH2k", "a.h5.part", "a.h5.tmp", "a.h5~", ".#a.h5", "a.h5.filepart"):
        assert is_temporary_name(name), name
        assert check_finished(write_scan(tmp_path / name), AT_ONCE, 1e6).state == "bad"
    for name in ("a.h5", "a.b.h5", "a_001.hdf5", "partial.h5"):
        assert not is_temporary_name(name), name
    (tmp_path / ".a.h5.X7gH2k").rename(tmp_path / "a.h5")
    assert check_finished(tmp_path / "a.h5", AT_ONCE, 0.0).state == "finished"


def test_writers_of_this_host_are_seen(tmp_path: Path) -> None:
    path = write_scan(tmp_path / "a.h5")
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import sys; f = open({str(path)!r}, 'r+b'); print('open', flush=True); sys.stdin.read()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert writers_of(path) == {holder.pid}
        verdict = check_finished(path, AT_ONCE, 1e6)
        assert (verdict.state, str(holder.pid) in verdict.reason) == ("not yet", True)
        assert check_finished(path, FinishedPolicy(stable_s=0, check_writers=False), 0.0).state == "finished"
    finally:
        holder.communicate()
    assert writers_of(path) == set()
    with path.open("rb"):
        assert writers_of(path) == set(), "readers do no harm"


def test_the_check_locks_nothing(tmp_path: Path) -> None:
    path = write_scan(tmp_path / "a.h5")
    with path.open("rb") as held:
        # the detector's software would hold it so: a check that locked would fail, or worse, keep the lock from it
        fcntl.flock(held, fcntl.LOCK_EX)
        policy = FinishedPolicy(stable_s=0, check_writers=False)
        assert check_finished(path, policy, 0.0).state == "finished"


def test_a_sentinel(tmp_path: Path) -> None:
    policy = FinishedPolicy(stable_s=0.0, sentinel=".done")
    path = write_scan(tmp_path / "a.h5")
    assert check_finished(path, policy, 1e6).state == "not yet"
    (tmp_path / "a.done").touch()
    assert check_finished(path, policy, 0.0).state == "finished"
    (tmp_path / "a.done").rename(tmp_path / "a.h5.done")
    assert check_finished(path, policy, 0.0).state == "finished"


def test_a_copy_that_keeps_the_old_time_is_another_file(tmp_path: Path) -> None:
    watchful = Watchful(FinishedPolicy(stable_s=5.0))
    path = write_scan(tmp_path / "a.h5")
    watchful.check(path, 0.0)
    other = tmp_path / "b.h5"
    shutil.copy2(path, other)
    other.rename(path)
    assert watchful.check(path, 6.0).state == "not yet"
    assert watchful.check(path, 11.0).state == "finished"
