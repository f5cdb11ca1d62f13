"""Where a run's numbers come from: ids, versions and machine, and how long each stage waited and worked, from the receipts.

Names are flat and end in their unit, so that an index can be searched by them; the document around them is `document`'s.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..parameters import STAGES
from ..rundir import RunDirectory

TIMED_STAGES = ("inspect", *STAGES)
"""Stages whose times stand in a document."""

_NO_PACKAGES = ("tomopipe", "python", "machine")
_NO_FLOW = "00000000-0000-0000-0000-000000000000"
_DECIMALS = 3


def parse_time(text: object) -> datetime.datetime | None:
    """A time of ISO 8601 with its zone; None for anything else."""
    try:
        time = datetime.datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return time if time is not None and time.tzinfo is not None else None


def utc_text(time: datetime.datetime) -> str:
    """A time as ISO 8601 in UTC, to the second."""
    return time.astimezone(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class Work:
    """What the tasks of a stage did in one run.

    Parameters
    ----------
    start, end : datetime
        Start of the first piece of work, end of the last.
    busy_s : float
        Seconds of work, summed over all pieces.
    slabs : int
        Pieces of work: slabs of a stage that works slab by slab, steps and blocks of the others.
    """

    start: datetime.datetime
    end: datetime.datetime
    busy_s: float
    slabs: int

    @property
    def run_s(self) -> float:
        """Seconds from the first start to the last end."""
        return max(0.0, (self.end - self.start).total_seconds())


def work_since(receipts: Iterable[Mapping[str, Any]], since: datetime.datetime | None) -> Work | None:
    """The work of the receipts that were started at `since` or later; None where there is none."""
    pieces = []
    for receipt in receipts:
        start = parse_time(receipt.get("started_at"))
        if start is not None and (since is None or start >= since):
            seconds = float(receipt["seconds"])
            pieces.append(Work(start, start + datetime.timedelta(seconds=seconds), seconds, 1))
    return _together(pieces)


def steps_work(receipts: Iterable[Mapping[str, Any]], since: datetime.datetime | None) -> dict[str, Any]:
    """What the receipt of `SeparateObjects` keeps of its steps, whose own receipts go with their work folder."""
    work = work_since(receipts, since)
    if work is None:
        return {}
    return {
        "started_at": work.start.isoformat(timespec="milliseconds"),
        "run_s": round(work.run_s, _DECIMALS),
        "busy_s": round(work.busy_s, _DECIMALS),
        "slabs": work.slabs,
    }


def provenance(
    run: RunDirectory, document: Mapping[str, Any], device: str, started_at: datetime.datetime, now: datetime.datetime
) -> dict[str, Any]:
    """The `provenance` block of a search document.

    Parameters
    ----------
    run : RunDirectory
    document : mapping
        Content of `run.json`.
    device : str
        Kind of the device that quantifies.
    started_at, now : datetime
        When `Quantify` started, and the present.

    Returns
    -------
    dict
        Texts and floats; what is not known is absent. `wait_s_<stage>`: from the end of what came before to the first
        start; `run_s_<stage>`: from there to the last end; `busy_s_<stage>`: sum over all pieces of work, of which there
        were `slabs_<stage>`. Only what this run did counts: `reused` names stages whose output was there before.
    """
    software, given = document["software"], document.get("provenance", {})
    since = parse_time(document["inspected_at"])
    receipts = {stage: run.receipts(stage) for stage in STAGES[:-1]}
    works: dict[str, Work | None] = {stage: _stage_work(receipts[stage], since) for stage in STAGES[:-1]}
    quantify = Work(started_at, now, (now - started_at).total_seconds(), 1)
    done = {**works, "inspect": _inspect_work(document), "quantify": quantify}
    counted = [r for stage in receipts for r in receipts[stage] if work_since([r], since) is not None]
    devices = {device, *(receipt["device"]["kind"] for receipt in counted)}
    reused = [
        stage
        for stage, work in works.items()
        if work is None and document["stages"][stage]["digest"] is not None and document["stages"][stage]["output"]
    ]
    found: dict[str, Any] = {
        "run_id": given.get("run_id"),
        "flow_id": flow_id_of(document),
        "functions_digest": given.get("functions_digest"),
        "tomopipe": software["tomopipe"],
        "python": software["python"],
        "machine": software["machine"],
        "devices": " ".join(sorted(devices)),
        "packages": " ".join(f"{name}-{software[name]}" for name in sorted(software) if name not in _NO_PACKAGES),
        "input_checksum": document["scan"]["checksum"],
        "transferred_at": _utc(given.get("transferred_at")),
        "inspected_at": _utc(document["inspected_at"]),
        "finished_at": utc_text(now),
        "reused": " ".join(reused),
        # Where nothing but the metrics was left to do, one worker did it.
        "workers": float(max(1, len({(receipt["host"], receipt["process"]) for receipt in counted}))),
    }
    found |= _times(done, parse_time(given.get("transferred_at")))
    return {name: value for name, value in found.items() if value not in (None, "")}


def flow_id_of(document: Mapping[str, Any]) -> str | None:
    """Id of the flow of the Globus service that made a run; None for a run on one machine."""
    flow_id = document.get("provenance", {}).get("flow_id")
    return flow_id if isinstance(flow_id, str) and flow_id not in ("", _NO_FLOW) else None


def _times(done: Mapping[str, Work | None], before: datetime.datetime | None) -> dict[str, float]:
    """The flat times of each stage; clocks of different machines may disagree, hence no wait is below 0."""
    times: dict[str, float] = {}
    first = before
    for stage in TIMED_STAGES:
        work = done[stage]
        if work is None:
            continue
        first = first or work.start
        if before is not None:
            times[f"wait_s_{stage}"] = max(0.0, (work.start - before).total_seconds())
        times[f"run_s_{stage}"] = work.run_s
        times[f"busy_s_{stage}"] = work.busy_s
        times[f"slabs_{stage}"] = float(work.slabs)
        before = work.end if before is None else max(before, work.end)
    if first is not None and before is not None:
        times["elapsed_s"] = max(0.0, (before - first).total_seconds())
    return {name: round(seconds, _DECIMALS) for name, seconds in times.items()}


def _inspect_work(document: Mapping[str, Any]) -> Work | None:
    end = parse_time(document["inspected_at"])
    start = parse_time(document.get("provenance", {}).get("inspect_started_at"))
    if start is None or end is None:
        return None
    # The end may be kept to the second, the start more finely.
    end = max(start, end)
    return Work(start, end, (end - start).total_seconds(), 1)


def _stage_work(receipts: Sequence[Mapping[str, Any]], since: datetime.datetime | None) -> Work | None:
    """Work of a stage in this run, that of its steps included where a receipt tells of them."""
    work = work_since(receipts, since)
    pieces = [work] if work else []
    for receipt in receipts:
        steps = receipt.get("steps") or {}
        start = parse_time(steps.get("started_at"))
        if start is not None and (since is None or start >= since):
            end = start + datetime.timedelta(seconds=steps["run_s"])
            pieces.append(Work(start, end, steps["busy_s"], steps["slabs"]))
    return _together(pieces)


def _together(pieces: Sequence[Work]) -> Work | None:
    if not pieces:
        return None
    return Work(
        min(piece.start for piece in pieces),
        max(piece.end for piece in pieces),
        sum(piece.busy_s for piece in pieces),
        sum(piece.slabs for piece in pieces),
    )


def _utc(text: object) -> str | None:
    time = parse_time(text)
    return None if time is None else utc_text(time)
