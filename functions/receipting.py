"""One piece of a stage's work: passed over where its receipt is there, receipted when it has ended well, else its failure noted.

What the work is, is left to `tasks` and `object_tasks`.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import os
import platform
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ParamSpec

from .device import cpu
from .errors import StageError, TomopipeError
from .inspection import software
from .locking import lock
from .memory import return_freed_memory
from .parameters import Stage
from .quantification.provenance import flow_id_of
from .rundir import RunDirectory, share_like
from .slabs import Sources

_P = ParamSpec("_P")
_MESSAGE_MAX = 500
_FULL_FAILURES = 8


@contextlib.contextmanager
def whole_volume_task(stage: Stage, run_root: str) -> Iterator[tuple[Sources | None, dict[str, Any]]]:
    """Sources and a receipt to fill, or None and the receipt that is there already."""
    return_freed_memory()
    run = RunDirectory(Path(run_root))
    with contextlib.closing(Sources(run)) as sources:
        digest = sources.document["stages"][stage]["digest"]
        rows = sources.shape[1]
        with undone(run, stage, 0, rows, digest) as is_left:
            if not is_left:
                yield None, json.loads(run.receipt_path(stage, 0, rows).read_text(encoding="utf-8"))
                return
            with receipted(run, stage, 0, rows, digest) as receipt:
                yield sources, receipt


@contextlib.contextmanager
def undone(receipts: RunDirectory, stage: str, start: int, stop: int, digest: str) -> Iterator[bool]:
    """Whether a slab is left to do; while the block lasts, nobody else does it.

    Two runs of one recipe at once share the work so: each waits for what the other is at, and finds it done.
    """
    if receipts.is_done(stage, start, stop, digest):
        yield False
        return
    with lock(receipts.lock_path(stage, start, stop)):
        yield not receipts.is_done(stage, start, stop, digest)


@contextlib.contextmanager
def receipted(
    run: RunDirectory, stage: str, start: int, stop: int, digest: str, receipts: RunDirectory | None = None
) -> Iterator[dict[str, Any]]:
    """Write a slab's receipt when the block has ended well; below another folder than the run's where one is given."""
    receipt: dict[str, Any] = {}
    started_at = time.time()
    with failure_noted(run, stage, start, stop):
        yield receipt
        write_receipt(run, stage, start, stop, digest, started_at, receipt, receipts)


@contextlib.contextmanager
def failure_noted(run: RunDirectory, stage: str, start: int, stop: int) -> Iterator[None]:
    """Have an error name stage and rows in one line, because it travels in the run's state, which is limited.

    The traceback is left in the run directory.

    Raises
    ------
    StageError
        Instead of what the block raised.
    """
    try:
        yield
    except Exception as error:  # noqa: BLE001 - raised again, shortened
        failure = run.failure_path(stage, start, stop)
        # What failed may be the disk; then the message alone must do.
        with contextlib.suppress(OSError):
            failure.parent.mkdir(parents=True, exist_ok=True)
            failure.write_text(traceback.format_exc(), encoding="utf-8")
        said = str(error) if isinstance(error, TomopipeError) else f"{type(error).__name__}: {error}"
        raise StageError(f"{stage}, rows {start} to {stop}: {said[:_MESSAGE_MAX]}") from None


def write_receipt(
    run: RunDirectory,
    stage: str,
    start: int,
    stop: int,
    digest: str,
    started_at: float,
    said: Mapping[str, Any],
    receipts: RunDirectory | None = None,
) -> None:
    """Write a slab's receipt: what was done from what, when, where and for how long, and what the stage says besides.

    Parameters
    ----------
    started_at : float
        POSIX time.
    said : mapping
        What the receipt holds besides; a device that computed elsewhere than on the CPU among it.
    receipts : RunDirectory, optional
        Below which the receipt is written, instead of `run`.
    """
    run.failure_path(stage, start, stop).unlink(missing_ok=True)
    started = datetime.datetime.fromtimestamp(started_at, datetime.UTC)
    (receipts or run).write_receipt(
        stage,
        start,
        stop,
        {
            "digest": digest,
            "started_at": started.isoformat(timespec="milliseconds"),
            "seconds": round(time.time() - started_at, 4),
            "host": platform.node(),
            "process": os.getpid(),
            "device": asdict(cpu()),
            "software": software(),
            **said,
        },
    )


def registered(task: Callable[_P, dict[str, Any]]) -> Callable[_P, dict[str, Any]]:
    """A task as it runs on a worker: what it writes is as readable as the results folder, and what it raises travels light.

    An error goes without the frames that led to it, and where others failed before, without words.

    All tasks of a stage may fail at once, of a full disk for example, and what they say goes through the run's state, which is
    limited. The first say why; the tracebacks are in the run directory.
    """

    @functools.wraps(task)
    def brief(*arguments: _P.args, **keywords: _P.kwargs) -> dict[str, Any]:
        run = RunDirectory(Path(str(arguments[0])))
        try:
            if flow_id_of(run.read_run()) is not None:
                share_like(run.root.parent.parent)
            return task(*arguments, **keywords)
        except TomopipeError as error:
            if isinstance(error, StageError) and _failures(run) > _FULL_FAILURES:
                raise StageError("failed like others before; see the failures in the run directory") from None
            raise error.with_traceback(None) from None

    return brief


def _failures(run: RunDirectory) -> int:
    """How many tasks have failed since the run was planned."""
    with contextlib.suppress(OSError):
        planned = run.run_json.stat().st_mtime
        return sum(path.stat().st_mtime >= planned for path in (run.root / "failures").glob("*/*.txt"))
    return 0


def report_progress(run: RunDirectory, stage: str, start: int, stop: int, done: int, rows: int | None = None) -> None:
    """Leave a note of how far a task is, for whoever watches; losing one loses nothing."""
    total = stop - start
    path = run.progress_path(stage, start, rows if rows is not None else stop)
    aside = path.with_suffix(f".{os.getpid()}.part")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(json.dumps({"done": done, "total": total}), encoding="utf-8")
        aside.replace(path)
