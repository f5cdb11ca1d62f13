"""Many scans of a manifest at one deployment: at most so many at a time, and none twice, however often it is started.

What there is to remember is in the runs' tags; one run is left to `client`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from tomopipe.functions.errors import InputError, ParameterError, VersionError

from .client import Client, Patience, PreparedRun
from .manifest import ManifestEntry
from .service_run import ServiceRun

# Runs of a manifest are compared with those that the service still knows.
_KNOWN_DAYS = 90
_POLL_FIRST_S, _POLL_MAX_S, _POLL_FACTOR = 1.0, 30.0, 1.4


@dataclass
class BatchItem:
    """A scan of a manifest: what is sent, and its run where there is one.

    Parameters
    ----------
    entry : ManifestEntry
    prepared : PreparedRun
    run : ServiceRun or None
    submitted : bool
        Whether the run was started now, not by an earlier call.
    """

    entry: ManifestEntry
    prepared: PreparedRun
    run: ServiceRun | None = None
    submitted: bool = False

    @property
    def active(self) -> bool:
        """Whether the run is under way and goes on by itself."""
        return self.run is not None and self.run.status == "ACTIVE"


def prepare_batch(client: Client, entries: Sequence[ManifestEntry], options: Mapping[str, Any]) -> list[BatchItem]:
    """Check every scan of a manifest before any is sent.

    Parameters
    ----------
    client : Client
    entries : sequence of ManifestEntry
    options : mapping
        What all scans share: keyword arguments of `Client.prepare`; a scan's own parameters stand over those.

    Raises
    ------
    ParameterError
        A scan that is listed twice or is none, or a parameter that is impossible: names the file and the entry.
    """
    items: list[BatchItem] = []
    shared = dict(options.get("parameters") or {})
    for entry in entries:
        parameters = dict(shared)
        for section, fields in entry.parameters.items():
            below = parameters.get(section)
            both = isinstance(below, Mapping) and isinstance(fields, Mapping)
            parameters[section] = {**below, **fields} if both else fields  # type: ignore[dict-item]
        try:
            prepared = client.prepare(
                entry.scan,
                **{
                    **options,
                    "parameters": parameters,
                    "scan_id": entry.scan_id,
                    "label": options.get("label") if entry.label is None else entry.label,
                    "source": entry.where,
                },
            )
        except VersionError:
            raise
        except InputError as error:
            message = str(error)
            raise ParameterError(message if message.startswith(entry.where) else f"{entry.where}: {message}") from error
        items.append(BatchItem(entry, prepared))
    _check_distinct(items)
    return items


def run_batch(
    client: Client,
    items: Sequence[BatchItem],
    *,
    max_active: int | None = None,
    follow: bool = False,
    again: bool = False,
    tell: Callable[[BatchItem], None] | None = None,
) -> None:
    """Submit the scans of a manifest that have no good run yet; each item gets its run.

    A scan whose request has succeeded, or is under way, is not submitted again; one that failed is. Where a run needs a
    person (INACTIVE), no more are submitted, because they would need the same.

    Parameters
    ----------
    client : Client
    items : sequence of BatchItem
    max_active : int, optional
        Most runs under way at a time; then the call lasts until all have ended.
    follow : bool
        Wait until all have ended.
    again : bool
        Submit every scan, whatever there is of it.
    tell : callable, optional
        Hears of an item whenever its run or the run's status changed.
    """
    tell = tell or (lambda item: None)
    if not again:
        _take_over(client, items)
    for item in items:
        if item.run is not None:
            tell(item)
    waiting = deque(item for item in items if item.run is None)
    patience, pause = Patience(), _POLL_FIRST_S
    while True:
        changed = False
        with patience:
            changed = _submit(client, items, waiting, max_active, again, tell)
        # Runs that are over once all are submitted are of no concern to a call that does not follow them.
        if not any(item.active for item in items) and (not waiting or _needs_person(items)):
            return
        if not waiting and not follow and max_active is None:
            return
        pause = _POLL_FIRST_S if changed else min(pause * _POLL_FACTOR, _POLL_MAX_S)
        time.sleep(pause)
        for item in [item for item in items if item.active]:
            with patience:
                if _look(client, item, tell):
                    pause = _POLL_FIRST_S


def _submit(
    client: Client,
    items: Sequence[BatchItem],
    waiting: deque[BatchItem],
    max_active: int | None,
    again: bool,
    tell: Callable[[BatchItem], None],
) -> bool:
    changed = False
    while waiting and not _needs_person(items):
        if max_active is not None and sum(item.active for item in items) >= max_active:
            break
        item = waiting[0]
        item.run = client.start(item.prepared, again=again)
        item.submitted = not item.run.was_under_way
        waiting.popleft()
        tell(item)
        changed = True
    return changed


def _look(client: Client, item: BatchItem, tell: Callable[[BatchItem], None]) -> bool:
    assert item.run is not None
    run = client.peek(item.run.run_id)
    if run.ended or run.status == "INACTIVE":
        run = client.run(run.run_id)
    changed = run.status != item.run.status
    item.run = run
    if changed:
        tell(item)
    return changed


def _take_over(client: Client, items: Sequence[BatchItem]) -> None:
    """Give each item the run that its request has already, unless that failed."""
    since = datetime.now(UTC) - timedelta(days=_KNOWN_DAYS)
    wanted = {item.prepared.request: item for item in items}
    for run in client.runs(limit=None, since=since):
        item = wanted.get(run.request or "")
        if item is not None and item.run is None and run.status in ("SUCCEEDED", "ACTIVE", "INACTIVE"):
            item.run = run


def _needs_person(items: Sequence[BatchItem]) -> bool:
    return any(item.run is not None and item.run.status == "INACTIVE" for item in items)


def _check_distinct(items: Sequence[BatchItem]) -> None:
    requests: dict[str, BatchItem] = {}
    scans: dict[str, BatchItem] = {}
    for item in items:
        twin = requests.setdefault(item.prepared.request, item)
        if twin is not item:
            raise ParameterError(f"{item.entry.where}: asks for the same as {twin.entry.where}; remove one of them")
        other = scans.setdefault(item.prepared.scan_id, item)
        if other.prepared.body["input"]["scan"] != item.prepared.body["input"]["scan"]:
            raise ParameterError(
                f"{item.entry.where}: has the scan id {item.prepared.scan_id}, as {other.entry.where} has, but is "
                "another file; give one of them another scan_id"
            )
