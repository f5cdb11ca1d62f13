"""What a task that fails says: enough to find the cause, little enough that all tasks of a stage may fail at once."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

import pytest

from tomopipe.functions.errors import StageError
from tomopipe.functions.receipting import briefly, receipted
from tomopipe.functions.rundir import RunDirectory


@briefly
def failing_task(run_root: str, start: int, stop: int) -> dict[str, object]:
    with receipted(RunDirectory(Path(run_root)), "segment", start, stop, "digest"):
        raise OSError(28, "No space left on device " + "x" * 1000)


def failure(run: Path, start: int) -> str:
    with pytest.raises(StageError) as caught:
        failing_task(str(run), start, start + 8)
    return "".join(traceback.format_exception(caught.value))


def test_a_failed_task_names_slab_and_cause_without_the_way_there(tmp_path: Path) -> None:
    (tmp_path / "run.json").touch()
    said = failure(tmp_path, 8)
    assert "segment, rows 8 to 16: OSError: [Errno 28] No space left on device" in said
    assert said.count('File "') == 2
    assert len(said) < 1000
    kept = (tmp_path / "failures" / "segment" / "000008-000016.txt").read_text()
    assert "OSError: [Errno 28]" in kept and kept.count('File "') >= 1


def test_the_first_failures_speak_for_all(tmp_path: Path) -> None:
    (tmp_path / "run.json").touch()
    said = [failure(tmp_path, 8 * number) for number in range(64)]
    assert all("No space left on device" in text for text in said[:8])
    assert all("failed like others before" in text for text in said[8:])
    # Twice, as the provider returns it, beside what else a run's state of at most 200 KB holds.
    assert 2 * sum(len(text) for text in said) < 80_000


def test_failures_of_an_earlier_start_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "run.json").touch()
    for number in range(20):
        failure(tmp_path, 8 * number)
    later = (tmp_path / "failures" / "segment" / "000000-000008.txt").stat().st_mtime + 100
    os.utime(tmp_path / "run.json", (later, later))
    assert "No space left on device" in failure(tmp_path, 0)
