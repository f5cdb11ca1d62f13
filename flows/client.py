"""Starts and follows runs at a facility, in a script of ten lines or behind the command line.

What a facility is stands in `deployment`, who asks in `login`, what a run's documents mean in `service_run`.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import logging
import os
import re
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import globus_sdk
from pydantic import BaseModel, TypeAdapter, ValidationError

from tomopipe.functions.errors import InputError, ParameterError, TomopipeError, VersionError
from tomopipe.functions.parameters import Execution, Parameters, apply_overrides, validate_model
from tomopipe.functions.scan import open_scan, scan_id_from_path, validate_scan_id

from .deployment import Deployment, load_deployment
from .local.actions import is_withheld
from .local.run_store import EventRecord, StateRecord
from .login import GlobusServiceError, LoginNeeded, Services, explained, login, make_services
from .request import FlowInput, Principal
from .service_run import (
    LABEL_MAX,
    TAGS_MAX,
    Base,
    JsonObject,
    ServiceRun,
    flat,
    folder_address,
    is_refreshed,
    needed_authorization,
    needed_session,
    own_tags,
    read_events,
    read_run,
    read_states,
    request_digest,
    run_tags,
    shortened,
)
from .submissions import Submission, SubmissionStore, submission_store

if TYPE_CHECKING:
    from .local.search_index import Hit

__all__ = ["Client", "PreparedRun", "ServiceRun"]

_log = logging.getLogger(__name__)

# A run older than this is not looked at when a request is compared with those under way: ten stages of a week each
# are a longest run that nobody has.
_UNDER_WAY_DAYS = 60
_NOT_ENDED = ("ACTIVE", "INACTIVE")
# Covers clocks that differ.
_RECENT_MIN = 10
_POLL_FIRST_S, _POLL_MAX_S, _POLL_FACTOR = 1.0, 30.0, 1.4
# How long the service's list of runs may lag behind, and how often it is looked at meanwhile.
_LIST_LAG_S, _LIST_POLL_S = 30.0, 3.0
# Of a service that cannot be asked: how long `wait` goes on, and how long a submission does.
_WAIT_PATIENCE_S = 30 * 60.0
_SUBMIT_PAUSES_S = (1.0, 5.0, 15.0)
# Of a question whose answer is only good to have.
_ASIDE_TIMEOUT_S = 5.0
_RUN_PAGE, _LOG_PAGE = 50, 100
# The service lists one's own runs alone unless it is told otherwise.
_ROLES = ("run_owner", "run_manager", "run_monitor", "flow_run_manager", "flow_run_monitor")
# Recipes of one scan that are looked through for the latest.
_RECORDS = 100
_OWN = ("run_owner",)
_PRINCIPAL: TypeAdapter[str] = TypeAdapter(Principal)
_GLOBUS_SCAN = re.compile(r"globus://([^/]+)(/.*)")


@dataclass(frozen=True)
class PreparedRun:
    """A run that was found good, ready to start.

    Parameters
    ----------
    body : dict
        The flow's input, `{"input": {...}}`.
    label : str
    tags : tuple of str
    monitors, managers : tuple of str
        URNs of who may follow the run, and who may cancel it besides.
    base : Base or None
        What the request starts from, where it is one of `reprocess`.
    """

    body: JsonObject
    label: str
    tags: tuple[str, ...]
    monitors: tuple[str, ...]
    managers: tuple[str, ...]
    base: Base | None = None

    @property
    def request(self) -> str:
        """Digest of what is asked for."""
        return request_digest(self.body)

    @property
    def scan_id(self) -> str:
        """Scan id of the run."""
        return str(self.body["input"]["scan_id"])


class Client:
    """Runs of one deployment.

    Parameters
    ----------
    deployment : str, Path or Deployment
        Name or file of a deployment, as `tomopipe deployments` lists them.
    services : Services, optional
        The Globus clients; by default those of the service account in the environment, else of the person who logged in.

    Examples
    --------
    >>> client = Client("polaris")  # doctest: +SKIP
    >>> run = client.submit("/data/2026-3/scan_0042.h5", parameters={"reconstruction": {"center": 1021.5}})  # doctest: +SKIP
    >>> print(run.url, client.wait(run.run_id).status)  # doctest: +SKIP
    """

    def __init__(self, deployment: str | Path | Deployment, services: Services | None = None) -> None:
        self.deployment = deployment if isinstance(deployment, Deployment) else load_deployment(deployment)
        self._given_services = services

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that this client opened; services that it was given stay open."""
        made = self.__dict__.pop("services", None)
        if made is not None and made is not self._given_services:
            made.close()

    @cached_property
    def services(self) -> Services:
        """The Globus clients."""
        return self._given_services or make_services(self.deployment)

    @cached_property
    def flow_id(self) -> str:
        """UUID of the deployed flow."""
        from .deploy import find_flow_id

        return find_flow_id(self.deployment, self.services)

    @cached_property
    def defaults(self) -> JsonObject:
        """What the deployed flow's form starts with: collections, endpoint, index, function ids, parameters."""
        found = self._deployed
        here, there = importlib.metadata.version("tomopipe"), found.get("version")
        if there != here:
            raise VersionError(
                f"deployment {self.deployment.name}: its flow was deployed with tomopipe {there}, this is {here}; install "
                f"that version here (pip install tomopipe=={there}), or bring the flow to this one: "
                f"tomopipe deploy {self.deployment.called}"
            )
        return found

    # Starting runs

    def prepare(
        self,
        scan: str | Path,
        *,
        scan_id: str | None = None,
        parameters: Mapping[str, Any] | Parameters | None = None,
        skip: Iterable[str] = (),
        start_from: str | None = None,
        execution: Mapping[str, Any] | Execution | None = None,
        label: str | None = None,
        tags: Iterable[str] = (),
        monitors: Iterable[str] = (),
        managers: Iterable[str] = (),
        share: bool | None = None,
        source: str = "request",
    ) -> PreparedRun:
        """Check a request and work out what would be sent; `submit` takes the same and sends it.

        Raises
        ------
        ParameterError
            A field is unknown or impossible: names the field, its value and the remedy.
        ScanError
            The file can be read on this machine, and is no scan.
        """
        place = self._scan_place(str(scan))
        values = {
            **self.defaults,
            "scan": place,
            "scan_id": scan_id_from_path(place["path"]) if scan_id is None else validate_scan_id(scan_id),
            "parameters": _merged(
                self.defaults.get("parameters"), _plain(self.deployment.parameters), _plain(parameters)
            ),
            "execution": _merged(self.defaults.get("execution"), _plain(self.deployment.execution), _plain(execution)),
            "skip": list(skip),
            "start_from": start_from,
        }
        self._set_destination(values, share)
        return self._prepared(values, label, tags, monitors, managers, source)

    def submit(
        self,
        scan: str | Path,
        *,
        scan_id: str | None = None,
        parameters: Mapping[str, Any] | Parameters | None = None,
        skip: Iterable[str] = (),
        start_from: str | None = None,
        execution: Mapping[str, Any] | Execution | None = None,
        label: str | None = None,
        tags: Iterable[str] = (),
        monitors: Iterable[str] = (),
        managers: Iterable[str] = (),
        share: bool | None = None,
        again: bool = False,
    ) -> ServiceRun:
        """Start a run, or return the one of the same request that is under way.

        Parameters
        ----------
        scan : str or Path
            The raw scan: its path on the beamline's machine, or `globus://UUID/path` on any collection.
        scan_id : str, optional
            By default made from the file's name.
        parameters : mapping or Parameters, optional
            Over those of the deployment, field by field.
        skip : iterable of str
            Stages that are left out.
        start_from : str, optional
            First stage to run, on what an earlier run of the scan has left.
        execution : mapping or Execution, optional
            Over that of the deployment, field by field.
        label : str, optional
            By default the scan id.
        tags : iterable of str
            Beside those that the run gets anyway.
        monitors, managers : iterable of str
            URNs of people and groups, beside those of the deployment.
        share : bool, optional
            Whether the results are copied to the deployment's share collection; by default as it was deployed.
        again : bool
            Start another run even where one of the same request is under way.

        Raises
        ------
        ParameterError
            A field is unknown or impossible; nothing was sent.
        ScanError
            The file can be read on this machine, and is no scan; nothing was sent.
        GlobusServiceError
            A service refuses, or cannot be reached.
        """
        prepared = self.prepare(
            scan, scan_id=scan_id, parameters=parameters, skip=skip, start_from=start_from, execution=execution,
            label=label, tags=tags, monitors=monitors, managers=managers, share=share,
        )  # fmt: skip
        return self.start(prepared, again=again)

    def start(self, prepared: PreparedRun, *, again: bool = False) -> ServiceRun:
        """Start a prepared run, or return the one of the same request that is under way."""
        with self._store.request_lock(f"{self.flow_id}-{prepared.request}"):
            found = None if again else self._under_way(prepared.request)
            if found is not None:
                return self._noted(replace(found, input=prepared.body, was_under_way=True))
            return self._noted(self._run_flow(prepared))

    def retry(self, run_id: str, *, again: bool = False) -> ServiceRun:
        """Start a run with the input of an earlier one, on what is deployed now; it resumes the work.

        Functions, endpoint, its configuration and index are those of the deployed flow; the rest is as it was.

        Parameters
        ----------
        run_id : str
        again : bool
            Start another run even where the earlier one succeeded, or one of the same request is under way.

        Raises
        ------
        InputError
            The run succeeded, or its input is not known any more.
        """
        return self.start(self.prepare_retry(self.run(run_id), again=again), again=again)

    def prepare_retry(self, run: ServiceRun, *, again: bool = False) -> PreparedRun:
        """What `retry` would send."""
        if run.status == "SUCCEEDED" and not again:
            raise InputError(
                f"run {run.run_id}: has succeeded, there is nothing to retry; --again runs it once more, "
                f"tomopipe reprocess {run.run_id[:8]} with other parameters"
            )
        body = run.input or self._known_input(run.run_id)
        if body is None:
            raise InputError(
                f"run {run.run_id}: the service does not give its input any more; "
                f"use: tomopipe reprocess {run.scan_id} --deployment {self.deployment.called}"
            )
        return self._prepared(
            self._refreshed(body["input"]),
            run.label or None,
            # As many as there is room for: a run from the web app may have filled it.
            ("retry", *own_tags(run.tags)[: TAGS_MAX - len(run_tags("", "", ["retry"]))]),
            run.monitors,
            run.managers,
            run.run_id,
        )

    def failed_runs(self, since: datetime) -> list[ServiceRun]:
        """One's own runs that failed since then and whose request has no later run, oldest first.

        A later run that was cancelled counts: somebody has given the request up. Of other people's runs only those
        count that are good or under way.
        """
        own = {document["run_id"] for document in self._documents(since, roles=_OWN)}
        settled: set[str] = set()
        failed: list[ServiceRun] = []
        for run in self.runs(limit=None, since=since):
            if run.run_id not in own and run.status in ("FAILED", "CANCELLED"):
                continue
            request = run.request
            if request is None:
                # Started from the web app: its input says what was asked for.
                run = self.run(run.run_id)
                request = run.run_id if run.input is None else request_digest(run.input)
            if request in settled:
                continue
            settled.add(request)
            if run.status == "FAILED":
                failed.append(run)
        return failed[::-1]

    def reprocess(
        self,
        scan_or_run: str,
        *,
        start_from: str | None = None,
        overrides: Sequence[str] = (),
        parameters: Mapping[str, Any] | None = None,
        skip: Iterable[str] | None = None,
        label: str | None = None,
        tags: Iterable[str] = (),
        monitors: Iterable[str] = (),
        managers: Iterable[str] = (),
        share: bool | None = None,
        again: bool = False,
    ) -> ServiceRun:
        """Start an earlier run's request again with other parameters; stages before them are reused by their digests.

        Parameters
        ----------
        scan_or_run : str
            Run id or its beginning, or a scan id: its latest run that succeeded, else its latest run, else its record
            in the index.
        start_from : str, optional
            Refuse to compute any stage before this one.
        overrides : sequence of str
            `section.field=value`, over the earlier parameters and `parameters`.
        parameters : mapping, optional
            Over the earlier parameters, field by field.
        skip : iterable of str, optional
            Stages to leave out; by default those of the earlier run.
        label, tags, monitors, managers, share, again
            As in `submit`.

        Raises
        ------
        InputError
            There is no such run or record.
        """
        prepared = self.prepare_reprocess(
            scan_or_run, start_from=start_from, overrides=overrides, parameters=parameters, skip=skip, label=label,
            tags=tags, monitors=monitors, managers=managers, share=share,
        )  # fmt: skip
        return self.start(prepared, again=again)

    def prepare_reprocess(
        self,
        scan_or_run: str,
        *,
        start_from: str | None = None,
        overrides: Sequence[str] = (),
        parameters: Mapping[str, Any] | None = None,
        skip: Iterable[str] | None = None,
        label: str | None = None,
        tags: Iterable[str] = (),
        monitors: Iterable[str] = (),
        managers: Iterable[str] = (),
        share: bool | None = None,
    ) -> PreparedRun:
        """What `reprocess` would send."""
        earlier, run = self._earlier(scan_or_run)
        values = self._refreshed(earlier)
        given = apply_overrides(_merged(parameters), list(overrides))
        brought = self._brought(values, given, skip)
        values["parameters"] = apply_overrides(_merged(values.get("parameters"), parameters), list(overrides))
        values["start_from"] = start_from
        if skip is not None:
            values["skip"] = list(skip)
        if share is not None:
            self._set_destination(values, share)
        prepared = self._prepared(values, label, ("reprocess", *tags), monitors, managers, "reprocess")
        return replace(prepared, base=Base(run.run_id if run else None, run.status if run else None, brought))

    def earlier_request(self, scan_or_run: str) -> JsonObject:
        """Fields of the input of an earlier run, from its log; where the run is gone, from its record in the index.

        Raises
        ------
        InputError
            There is neither.
        """
        return self._earlier(scan_or_run)[0]

    def _earlier(self, scan_or_run: str) -> tuple[JsonObject, ServiceRun | None]:
        """What was asked for, and the run that asked for it; None where its record alone is left."""
        run_id = self.find(scan_or_run, succeeded=True)
        if run_id is not None:
            with contextlib.suppress(RunGone):
                run = self.run(run_id)
                if run.input is not None:
                    return dict(run.input["input"]), run
            noted = self._store.find(run_id)
            if noted is not None and noted.input is not None:
                return dict(noted.input["input"]), last_known(noted)
        known = self._store.find(scan_or_run)
        recorded = self._recorded_request(known.scan_id if known else scan_or_run, run_id)
        if recorded is None:
            raise InputError(
                f"{scan_or_run}: deployment {self.deployment.name} has no run of this name, and its index no record of "
                "one; `tomopipe runs` and `tomopipe search` list them"
            )
        return recorded, None

    def _brought(
        self, values: Mapping[str, Any], given: Mapping[str, Any], skip: Iterable[str] | None
    ) -> dict[str, Any]:
        """What an earlier request sets that the deployment does not, and that is not said anew."""
        deployed, asked = flat(_merged(self.defaults.get("parameters"))), flat(given)
        earlier = flat(_merged(values.get("parameters")))
        brought = {
            name: value
            for name, value in earlier.items()
            if name not in asked and (name not in deployed or deployed[name] != value)
        }
        return {**brought, "skip": list(values["skip"])} if skip is None and values.get("skip") else brought

    # Following runs

    def run(self, run_id: str) -> ServiceRun:
        """How a run stands, with its input and error.

        Raises
        ------
        InputError
            There is no such run, or no more: the service keeps runs for 90 days.
        """
        document = self._document(run_id)
        return self._noted(read_run(document, self.deployment.name, self._entries(run_id)))

    def runs(
        self, limit: int | None = 20, status: str | None = None, since: datetime | None = None
    ) -> list[ServiceRun]:
        """The latest runs of the flow that one may see, newest first; of one status, or started since a time.

        They come without what only a run's log tells, such as the input. A time without a zone is local time.
        """
        found: list[ServiceRun] = []
        for document in self._documents(since):
            run = read_run(document, self.deployment.name)
            if status is None or run.status == status:
                found.append(run)
            if limit is not None and len(found) >= limit:
                break
        return found

    def states(self, run_id: str) -> list[StateRecord]:
        """The states that a run entered, in order."""
        document, entries = self._document(run_id), self._entries(run_id)
        return read_states(entries, read_run(document, self.deployment.name).status)

    def log(self, run_id: str) -> list[EventRecord]:
        """The log of a run, in order."""
        self._document(run_id)
        return read_events(self._entries(run_id))

    def find(self, name: str, *, succeeded: bool = False) -> str | None:
        """Run id of a run id or its beginning, or of the latest run of a scan id; None where there is none.

        Parameters
        ----------
        name : str
        succeeded : bool
            Of a scan id, rather the latest run that succeeded, where there is one.

        Raises
        ------
        InputError
            Several run ids begin so.
        """
        with contextlib.suppress(ValueError):
            return str(uuid.UUID(name))
        scan = shortened(name, LABEL_MAX - len("scan:"))
        beginning, latest = [], None
        # Newest first, so that the first of a scan is its latest run.
        for document in self._documents(None):
            run = read_run(document, self.deployment.name)
            if f"scan:{scan}" in run.tags or run.scan_id == name:
                if succeeded and run.status != "SUCCEEDED":
                    latest = latest or run
                    continue
                if succeeded:
                    return run.run_id
                # One that was started here just now may not be in the list yet.
                known = self._store.latest_of_scan(self.flow_id, name)
                return known.run_id if known is not None and known.started > run.started else run.run_id
            if run.run_id.startswith(name.lower()):
                beginning.append(run.run_id)
        if latest is not None:
            known = self._store.latest_of_scan(self.flow_id, name)
            return known.run_id if known is not None and known.started > latest.started else latest.run_id
        if len(beginning) > 1:
            raise InputError(f"run {name!r}: several runs begin so: {', '.join(beginning[:5])}; give more of the id")
        if beginning:
            return beginning[0]
        known = self._store.find(name)
        return known.run_id if known and known.flow_id == self.flow_id else None

    def cancel(self, run_id: str) -> ServiceRun:
        """Ask the service to cancel a run; it stops after the action that is under way was told.

        Raises
        ------
        InputError
            The run has ended already.
        """
        run = self._read(run_id)
        if run.ended:
            raise InputError(f"run {run_id}: has ended ({run.status}); there is nothing to cancel")
        try:
            with explained(f"cancelling run {run_id}"):
                self.services.flows.cancel_run(run_id)
        except GlobusServiceError as error:
            # The SDK repeats a request whose answer was lost, and the first has done it.
            if error.status != 409 or self._read(run_id).status != "CANCELLED":
                raise
        return self._noted(self._read(run_id))

    def resume(self, run_id: str) -> ServiceRun:
        """Give an INACTIVE run the consents and the session that it lacks, and let it go on.

        Raises
        ------
        LoginNeeded
            A person must log in, and there is none or no terminal to do it at; the message says how.
        InputError
            The run is not INACTIVE.
        """
        document = self._document(run_id)
        run = read_run(document, self.deployment.name)
        if run.status != "INACTIVE":
            remedy = f"tomopipe retry {run_id[:8]}" if run.ended and run.status != "SUCCEEDED" else "nothing to do"
            raise InputError(f"run {run_id}: is {run.status}, not INACTIVE; {remedy}")
        needed = needed_authorization(document)
        session = needed_session(needed)
        if session and self.services.kind == "service account":
            raise LoginNeeded(
                f"run {run_id}: somebody must log in {session}, which a service account cannot; make the collection let "
                f"the account in without that, or submit the scan as a person and resume on the run's page, {run.url}"
            )
        if needed is not None:
            login(self.services, run.flow_id, needed=needed)
        try:
            with explained(f"resuming run {run_id}"):
                self.services.specific_flow(run.flow_id).resume_run(run_id)
        except GlobusServiceError as error:
            # As for `cancel`; a run that goes on may have ended since.
            if error.status != 409 or self._read(run_id).status in ("INACTIVE", "CANCELLED"):
                raise
        return self._noted(self._read(run_id))

    def wait(
        self,
        run_id: str,
        timeout_s: float | None = None,
        on_change: Callable[[ServiceRun], None] | None = None,
    ) -> ServiceRun:
        """Wait until a run has ended, or needs a person (INACTIVE); a service that cannot be reached is asked again.

        A run of which this machine knows that it has ended is returned as last known (`asked`) where the service cannot be
        asked.

        Parameters
        ----------
        run_id : str
        timeout_s : float, optional
            How long to wait; then the run is returned as it stands.
        on_change : callable, optional
            Hears of the run whenever its status, or the action in which it is, changed.

        Raises
        ------
        GlobusServiceError
            The service refuses, or could not be reached for half an hour.
        """
        ended = self._known_as_ended(run_id)
        if ended is not None:
            if on_change is not None:
                on_change(ended)
            return ended
        end = None if timeout_s is None else time.monotonic() + timeout_s
        pause, patience = _POLL_FIRST_S, Patience()
        shown: tuple[str, str | None] | None = None
        while True:
            with patience:
                run = self._read(run_id)
                # Between two actions it is in none; that is no news.
                is_new = shown is None or run.status != shown[0] or (run.state is not None and run.state != shown[1])
                if is_new:
                    shown, pause = (run.status, run.state), _POLL_FIRST_S
                    if on_change is not None:
                        on_change(run)
                if run.status != "ACTIVE":
                    return self.run(run_id)
            if end is not None and time.monotonic() >= end:
                return self.run(run_id)
            left = pause if end is None else min(pause, max(end - time.monotonic(), 0.0))
            time.sleep(left)
            pause = min(pause * _POLL_FACTOR, _POLL_MAX_S)

    def search(self, query: str, limit: int = 20) -> list[Hit]:
        """Records in the deployment's index; the language is that of `tomopipe search`."""
        from .publish import search_service

        with explained(f"searching the index of deployment {self.deployment.name}"):
            return search_service(self.services.search, str(self._deployed["search_index"]), query, limit)

    def peek(self, run_id: str) -> ServiceRun:
        """How a run stands, without what only its log tells.

        Raises
        ------
        RunGone
            The service does not know the run, or no more.
        """
        run = self._read(run_id)
        if run.error is not None and is_withheld(run.error):
            return self.run(run_id)
        return self._noted(run)

    def endpoint_offline(self, endpoint: str) -> str | None:
        """What the Compute service says of an endpoint that is not online; None where it is, or nobody knows.

        One short question, which never fails: the answer is only good to have.
        """
        try:
            client = self.services.compute_v2
            with _hurried(client):
                status = client.get_endpoint_status(endpoint).data.get("status")
        except (globus_sdk.GlobusError, TomopipeError) as error:
            _log.debug("the status of endpoint %s is not known: %s", endpoint, error)
            return None
        return None if status in (None, "online") else str(status)

    def results_on_host(self, run: ServiceRun) -> Path | None:
        """The run directory as the machine that computes sees it, where that is this machine; else None."""
        if run.run_directory is None:
            return None
        with contextlib.suppress(ParameterError):
            folder = Path(self.deployment.processing.to_host_path(run.run_directory))
            if (folder / "run.json").is_file():
                return folder
        return None

    def result_addresses(self, run: ServiceRun) -> tuple[str, str]:
        """Web addresses of a run's folder and of its report; where nothing serves that, the folder's again."""
        collection = self.deployment.processing.collection
        if run.input is not None:
            collection = run.input["input"]["processing"]["id"]
        subject = f"globus://{collection}{run.run_directory}"
        folder = folder_address(collection, str(run.run_directory))
        report = None
        # The folder is known without the index.
        with contextlib.suppress(GlobusServiceError):
            hits = self.search(f'scan_id:"{run.scan_id}"', _RECORDS)
            links = next((hit.content.get("links") or {} for hit in hits if hit.subject == subject), {})
            report = links.get("report")
        return folder, report if report and report.startswith("https://") else folder

    # What the public methods are made of

    @cached_property
    def _store(self) -> SubmissionStore:
        return submission_store()

    @cached_property
    def _deployed(self) -> JsonObject:
        from .deploy import deployed_defaults

        return dict(deployed_defaults(self.services, self.flow_id))

    def _scan_place(self, scan: str) -> dict[str, str]:
        """Collection and path of a scan; nothing is asked of the collection."""
        match = _GLOBUS_SCAN.fullmatch(scan)
        if match:
            return {"id": match[1], "path": match[2]}
        source = self.deployment.source
        if not scan.startswith("/"):
            found = None if "://" in scan else self._in_source(scan)
            if found is None:
                raise ParameterError(
                    f"SCAN {scan}: is no absolute path on the beamline's machine, and no file in the folder of this command "
                    f"or of the deployment's scans; give one such as {(source.host_path or '/data').rstrip('/')}/"
                    "scan_0042.h5, or globus://COLLECTION/path"
                )
            scan = found
        path = source.to_collection_path(scan)
        if Path(scan).is_dir():
            raise ParameterError(
                f"SCAN {scan}: is a folder; give the path of a file in it, or list many with --manifest"
            )
        # The machine that has the folder is the beamline's: there a file that is missing is a slip of the pen.
        if source.host_path is not None and Path(source.host_path).is_dir() and not Path(scan).is_file():
            raise ParameterError(
                f"SCAN {scan}: there is no such file in {source.host_path}, which is on this machine; give the path of a "
                "file, or globus://COLLECTION/path for one that is elsewhere"
            )
        if Path(scan).is_file() and os.access(scan, os.R_OK):
            # Its layout alone is looked at, and not locked: the detector's software may still have it open.
            open_scan(scan, lock=False).close()
        return {"id": source.collection, "path": path}

    def _in_source(self, scan: str) -> str | None:
        """Absolute path of what a relative one means: here, or in the source folder; None where there is no such file."""
        folder = self.deployment.source.host_path
        for place in (Path(scan), *([Path(folder) / scan] if folder else [])):
            if place.exists():
                if folder:
                    # The shell may stand in the folder under another name of it: a link, or '..'.
                    with contextlib.suppress(ValueError):
                        below = place.absolute().parent.resolve().relative_to(Path(folder).resolve())
                        return str(Path(folder) / below / place.name)
                return str(place.absolute().parent.resolve() / place.name)
        return None

    def _set_destination(self, values: JsonObject, share: bool | None) -> None:
        if share is False:
            values.pop("destination", None)
        elif share:
            folder = self.deployment.share
            if folder is None:
                raise ParameterError(
                    f"--share: deployment {self.deployment.name} names no share collection; add 'share:' to "
                    f"{self.deployment.file}, or leave --share out"
                )
            values["destination"] = {"id": folder.collection, "path": folder.path}

    def _prepared(
        self,
        values: Mapping[str, Any],
        label: str | None,
        tags: Iterable[str],
        monitors: Iterable[str],
        managers: Iterable[str],
        source: str,
    ) -> PreparedRun:
        # A part that is not said, as the form leaves it empty, is no part of a request.
        given = {key: value for key, value in values.items() if not (key == "destination" and value is None)}
        body = validate_model(FlowInput, given, source).document()
        scan_id = body["input"]["scan_id"]
        if label is not None and not 0 < len(label) <= LABEL_MAX:
            raise ParameterError(f"--label {label!r}: has {len(label)} characters; give 1 to {LABEL_MAX}")
        tags = tuple(tags)
        if not all(tag.strip() for tag in tags):
            raise ParameterError("--tag '': is empty; give a word or two, or leave --tag out")
        all_tags = run_tags(scan_id, request_digest(body), tags)
        long = [tag for tag in all_tags if len(tag) > LABEL_MAX]
        if long:
            raise ParameterError(f"--tag {long[0]!r}: has {len(long[0])} characters; give at most {LABEL_MAX}")
        if len(all_tags) > TAGS_MAX:
            raise ParameterError(
                f"--tag: the run would have {len(all_tags)} tags, those of tomopipe among them, and the service takes "
                f"{TAGS_MAX}; give {len(all_tags) - TAGS_MAX} fewer"
            )
        people = self.deployment.people
        return PreparedRun(
            body=body,
            label=shortened(scan_id) if label is None else label,
            tags=tuple(all_tags),
            monitors=_principals("monitor", people.monitors, monitors),
            managers=_principals("manager", people.managers, managers),
        )

    def _refreshed(self, fields: Mapping[str, Any]) -> JsonObject:
        """Fields of an earlier input, on what is deployed now: functions, endpoint and its configuration, index.

        What the earlier input lacks is as deployed, too.
        """
        now = {name: value for name, value in self.defaults.items() if is_refreshed(name)}
        earlier = {name: value for name, value in fields.items() if not is_refreshed(name)}
        # An earlier request without a copy of its results shall not get one because the deployment has one now.
        defaults = {name: value for name, value in self.defaults.items() if name != "destination"}
        return {**defaults, **earlier, **now}

    def _run_flow(self, prepared: PreparedRun) -> ServiceRun:
        """Start a run exactly once, also where the service's answer is lost on its way."""
        flow = self.services.specific_flow(self.flow_id)
        before = {run.run_id for run in self._recent(prepared.request)}
        for pause in (*_SUBMIT_PAUSES_S, None):
            try:
                with explained(f"starting a run of {prepared.scan_id}"), _without_retries(flow.retry_config):
                    document = flow.run_flow(
                        prepared.body,
                        label=prepared.label,
                        tags=list(prepared.tags),
                        run_monitors=list(prepared.monitors),
                        run_managers=list(prepared.managers),
                    ).data
                return read_run(document, self.deployment.name, body=prepared.body)
            except GlobusServiceError as error:
                is_lost = isinstance(error.__cause__, globus_sdk.NetworkError)
                if not _passing(error) or (pause is None and not is_lost):
                    raise
                _log.warning("%s; looking whether it arrived", error)
                # The request may have arrived: a second one would be a second run. Where the service has answered, it
                # most likely has not.
                time.sleep(pause or 0.0)
                arrived = self._arrived(prepared.request, before, _LIST_LAG_S if is_lost else 0.0)
                if arrived is not None:
                    return replace(arrived, input=prepared.body)
                if pause is None:
                    raise
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _arrived(self, request: str, before: Collection[str], patience_s: float) -> ServiceRun | None:
        """The run of a request that is there besides those before; the list is looked at for some time."""
        end = time.monotonic() + patience_s
        while True:
            for run in self._recent(request):
                if run.run_id not in before:
                    return run
            left = end - time.monotonic()
            if left <= 0:
                return None
            time.sleep(min(left, _LIST_POLL_S))

    def _under_way(self, request: str) -> ServiceRun | None:
        """The run of a request that has not ended.

        The service's list may lag behind, so that runs that were started here are asked for by their ids first.
        """
        for known in self._store.of_request(self.flow_id, request):
            with contextlib.suppress(RunGone):
                run = self._read(known.run_id)
                if not run.ended:
                    return run
        since = datetime.now(UTC) - timedelta(days=_UNDER_WAY_DAYS)
        listed = (read_run(document, self.deployment.name) for document in self._documents(since, _NOT_ENDED))
        return next((run for run in listed if run.request == request and not run.ended), None)

    def _recent(self, request: str) -> list[ServiceRun]:
        """Runs of a request that were started just now, whatever became of them."""
        since = datetime.now(UTC) - timedelta(minutes=_RECENT_MIN)
        listed = (read_run(document, self.deployment.name) for document in self._documents(since))
        return [run for run in listed if run.request == request]

    def _documents(
        self, since: datetime | None, statuses: Sequence[str] = (), roles: Sequence[str] = _ROLES
    ) -> Iterator[Mapping[str, Any]]:
        """The service's documents of the flow's runs, newest first, started since a time; of runs that one has a role in."""
        asked = {"orderby": "start_time DESC", "per_page": str(_RUN_PAGE)}
        if since is not None:
            since = since.astimezone(UTC)
            asked["filter_start_time"] = f"{since:%Y-%m-%dT%H:%M:%S},"
        if statuses:
            asked["filter_status"] = ",".join(statuses)
        with explained(f"listing the runs of deployment {self.deployment.name}"):
            pages = self.services.flows.paginated.list_runs(
                filter_flow_id=self.flow_id, filter_roles=roles, query_params=asked
            )
            for document in pages.items():
                if since is not None and datetime.fromisoformat(document["start_time"]) < since:
                    return
                yield document

    def _document(self, run_id: str) -> JsonObject:
        try:
            with explained(f"reading run {run_id}"):
                document: JsonObject = self.services.flows.get_run(run_id).data
        except GlobusServiceError as error:
            if error.status == 404:
                raise RunGone(
                    f"run {run_id}: the service knows no such run (it keeps them for 90 days, and shows them to those who "
                    f"may see them); tomopipe runs --deployment {self.deployment.called} lists them"
                ) from error
            raise
        return document

    def _read(self, run_id: str) -> ServiceRun:
        return read_run(self._document(run_id), self.deployment.name)

    def _entries(self, run_id: str) -> list[Mapping[str, Any]]:
        with explained(f"reading the log of run {run_id}"):
            return list(self.services.flows.paginated.get_run_logs(run_id, limit=_LOG_PAGE).items())

    def _known_as_ended(self, run_id: str) -> ServiceRun | None:
        """A run of which this machine knows that it has ended: asked for once more, else as last known."""
        known = self._store.find(run_id)
        if known is None or known.run_id != run_id or not last_known(known).ended:
            return None
        try:
            with _without_retries(self.services.flows.retry_config):
                run = self.run(run_id)
        except TomopipeError as error:
            _log.debug("%s", error)
            return last_known(known)
        return run if run.ended else None

    def _known_input(self, run_id: str) -> JsonObject | None:
        known = self._store.find(run_id)
        return known.input if known else None

    def _recorded_request(self, scan_id: str, run_id: str | None) -> JsonObject | None:
        """The request in the index's latest record of a scan, or of a run that this machine never heard of."""
        known = run_id is None or run_id != scan_id
        query = f'scan_id:"{scan_id}"' if known else f'provenance.run_id:"{run_id}"'
        found = [hit.content for hit in self.search(query, _RECORDS)]
        # The service compares words, so that scan_1 finds scan_1.b too.
        mine = [content for content in found if not known or content.get("scan_id") == scan_id]
        texts = [content for content in mine if isinstance(content.get("request"), str)]
        if not texts:
            return None
        latest = max(texts, key=lambda content: str(content.get("published_at", "")))
        try:
            fields = json.loads(latest["request"])
        except ValueError:
            fields = None
        if not isinstance(fields, dict):
            raise InputError(
                f"{scan_id}: its record in the index holds no request that can be read; submit the scan anew"
            )
        # Where the results folder has moved since, only the deployment knows it as the machine that computes sees it.
        if fields.get("processing") != self.defaults.get("processing"):
            fields.pop("processing", None)
        return {name: value for name, value in fields.items() if name in FlowInput.model_fields}

    def _noted(self, run: ServiceRun) -> ServiceRun:
        """The run, after this machine has written down how it stands; a run goes on without that note."""
        values = {name: value for name, value in asdict(run).items() if name in Submission.__dataclass_fields__}
        source = str(Path(self.deployment.file).absolute())
        request = run.request or (request_digest(run.input) if run.input else None)
        try:
            self._store.record({**values, "source": source, "request": request})
        except TomopipeError as error:
            _log.warning("run %s: is not in the list of this machine: %s", run.run_id, error)
        return run


class Patience:
    """A context that lets a service be away for a while: what may pass is logged, and raised after half an hour of it."""

    def __init__(self) -> None:
        self._since: float | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if error is None:
            self._since = None
            return False
        self._since = self._since or time.monotonic()
        if not _passing(error):
            return False
        if time.monotonic() - self._since > _WAIT_PATIENCE_S:
            return False
        _log.warning("%s; asking again", error)
        return True


class RunGone(InputError):
    """The service knows no such run, or no more, or does not show it to who asks."""


def last_known(submission: Submission) -> ServiceRun:
    """A run as this machine last knew it."""
    tags = submission.tags or tuple(run_tags(submission.scan_id, submission.request or ""))
    if not submission.request:
        tags = tuple(tag for tag in tags if tag != "request:")
    return ServiceRun(
        run_id=submission.run_id, flow_id=submission.flow_id, deployment=submission.deployment,
        scan_id=submission.scan_id, label=submission.label, status=submission.status, started=submission.started,
        finished=submission.finished, error=submission.error, input=submission.input, tags=tags,
        run_directory=submission.run_directory, asked=submission.asked,
    )  # fmt: skip


@contextlib.contextmanager
def _without_retries(config: globus_sdk.transport.RetryConfig) -> Iterator[None]:
    """Keep the SDK from sending a request again by itself: a lost answer would make two runs of one.

    Not its own `tune` alone, which forgets to put things back after an error: later requests would not be tried again.
    """
    before = config.max_retries
    try:
        with config.tune(max_retries=0):
            yield
    finally:
        config.max_retries = before


@contextlib.contextmanager
def _hurried(client: globus_sdk.BaseClient) -> Iterator[None]:
    """Let a client ask once, and wait for the answer a few seconds."""
    before = client.transport.http_timeout
    client.transport.http_timeout = _ASIDE_TIMEOUT_S
    try:
        with _without_retries(client.retry_config):
            yield
    finally:
        client.transport.http_timeout = before


def _passing(error: BaseException | None) -> bool:
    """Whether the same request may succeed later: no network, an overloaded or broken service."""
    if not isinstance(error, GlobusServiceError):
        return False
    return isinstance(error.__cause__, globus_sdk.NetworkError) or error.status == 429 or (error.status or 0) >= 500


def _plain(values: BaseModel | Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """What was set of a model, or the mapping."""
    return values.model_dump(mode="json", exclude_unset=True) if isinstance(values, BaseModel) else values


def _merged(*layers: Mapping[str, Any] | None) -> JsonObject:
    """Sections over sections, field by field; what is no section is replaced."""
    merged: JsonObject = {}
    for layer in layers:
        for name, value in (layer or {}).items():
            below = merged.get(name)
            both = isinstance(below, Mapping) and isinstance(value, Mapping)
            merged[name] = {**below, **value} if both else value  # type: ignore[dict-item]
    return merged


def _principals(role: str, deployed: Iterable[str], given: Iterable[str]) -> tuple[str, ...]:
    """Those of the deployment and those that were given, each once, if the service takes them for the role."""
    people = tuple(dict.fromkeys((*deployed, *given)))
    for name in people:
        if not _is_person_or_group(name):
            raise ParameterError(
                f"--{role} {name!r}: names nobody; give urn:globus:auth:identity:UUID or urn:globus:groups:id:UUID, as "
                "the Globus web app shows them"
            )
    if len(people) > TAGS_MAX:
        raise ParameterError(
            f"--{role}: the run would have {len(people)} {role}s, those of the deployment's people.{role}s among them, and "
            f"the service takes {TAGS_MAX}; give {len(people) - TAGS_MAX} fewer, or make them a group"
        )
    return people


def _is_person_or_group(name: str) -> bool:
    try:
        return _PRINCIPAL.validate_python(name).startswith("urn:")
    except ValidationError:
        return False
