"""What a task that fails says: enough to find the cause, little enough that all tasks of a stage may fail at once."""

from __future__ import annotations

import os
import stat
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from tomopipe.functions.errors import StageError
from tomopipe.functions.receipting import receipted, registered
from tomopipe.functions.rundir import RUN_FORMAT, RunDirectory, write_json


@registered
def failing_task(run_root: str, start: int, stop: int) -> dict[str, object]:
    with receipted(RunDirectory(Path(run_root)), "segment", start, stop, "digest"):
        raise OSError(28, "No space left on device " + "x" * 1000)


def planned(run: Path, flow_id: str = "") -> None:
    write_json(run / "run.json", {"format": RUN_FORMAT, "provenance": {"flow_id": flow_id}})


def failure(run: Path, start: int) -> str:
    with pytest.raises(StageError) as caught:
        failing_task(str(run), start, start + 8)
    return "".join(traceback.format_exception(caught.value))


def test_a_failed_task_names_slab_and_cause_without_the_way_there(tmp_path: Path) -> None:
    planned(tmp_path)
    said = failure(tmp_path, 8)
    assert "segment, rows 8 to 16: OSError: [Errno 28] No space left on device" in said
    assert said.count('File "') == 2
    assert len(said) < 1000
    kept = (tmp_path / "failures" / "segment" / "000008-000016.txt").read_text()
    assert "OSError: [Errno 28]" in kept and kept.count('File "') >= 1


def test_the_first_failures_speak_for_all(tmp_path: Path) -> None:
    planned(tmp_path)
    said = [failure(tmp_path, 8 * number) for number in range(64)]
    assert all("No space left on device" in text for text in said[:8])
    assert all("failed like others before" in text for text in said[8:])
    # Twice, as the provider returns it, beside what else a run's state of at most 200 KB holds.
    assert 2 * sum(len(text) for text in said) < 80_000


def test_failures_of_an_earlier_start_do_not_count(tmp_path: Path) -> None:
    planned(tmp_path)
    for number in range(20):
        failure(tmp_path, 8 * number)
    later = (tmp_path / "failures" / "segment" / "000000-000008.txt").stat().st_mtime + 100
    os.utime(tmp_path / "run.json", (later, later))
    assert "No space left on device" in failure(tmp_path, 0)


@registered
def writing_task(run_root: str) -> dict[str, object]:
    (Path(run_root) / "made").mkdir()
    (Path(run_root) / "made" / "file").touch()
    return {}


@pytest.fixture
def closed_umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.mark.parametrize(
    ("mode", "folder", "file"), [(0o755, 0o755, 0o644), (0o750, 0o750, 0o640), (0o700, 0o700, 0o600)]
)
def test_what_a_worker_of_an_endpoint_writes_is_as_readable_as_the_results_folder(
    tmp_path: Path, closed_umask: None, mode: int, folder: int, file: int
) -> None:
    run = tmp_path / "results" / "scan" / "recipe"
    run.mkdir(parents=True)
    (tmp_path / "results").chmod(mode)
    planned(run, "8c4f2c7e-6a0e-5a63-9f0d-6a1b0f6f7a52")
    writing_task(str(run))
    assert stat.S_IMODE((run / "made").stat().st_mode) == folder
    assert stat.S_IMODE((run / "made" / "file").stat().st_mode) == file


def test_a_run_on_one_machine_keeps_its_users_umask(tmp_path: Path, closed_umask: None) -> None:
    run = tmp_path / "results" / "scan" / "recipe"
    run.mkdir(parents=True)
    (tmp_path / "results").chmod(0o755)
    planned(run, "00000000-0000-0000-0000-000000000000")
    writing_task(str(run))
    assert stat.S_IMODE((run / "made" / "file").stat().st_mode) == 0o600
