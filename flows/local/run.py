"""A run of the flow on this machine, from checking the request to the outcome.

Puts together the definition, the interpreter, and the local providers; what a person sees is left to the CLI.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tomopipe.functions import stages
from tomopipe.functions.errors import InputError, ParameterError
from tomopipe.functions.inspection import Request, check_request, preview_run
from tomopipe.functions.parameters import Execution, Parameters, SkippableStage, Stage
from tomopipe.functions.quantification.document_schema import document_fields
from tomopipe.functions.rundir import RunDirectory, digest_of, file_checksum
from tomopipe.functions.scan import open_scan, scan_id_from_path, validate_scan_id

from ..request import FUNCTIONS, build_flow_input
from ..tomography import flow_definition, flow_schema
from ..tools.common import COMPUTE_URL, RAW_NAME, SEARCH_DELETE_URL, SEARCH_INGEST_URL, TRANSFER_URL
from .actions import ActionProvider, RunObserver
from .compute import ParslCompute
from .home import home
from .interpreter import FlowOutcome, run_flow
from .run_store import RunStore
from .search_index import SearchDeletion, SearchIndex
from .transfer import LocalTransfer

_NAMESPACE = uuid.UUID("8c4f2c7e-6a0e-5a63-9f0d-6a1b0f6f7a52")

COLLECTION = str(uuid.uuid5(_NAMESPACE, "collection"))
"""This machine's files, as a collection whose root is `/`."""
ENDPOINT = str(uuid.uuid5(_NAMESPACE, "endpoint"))
INDEX = str(uuid.uuid5(_NAMESPACE, "index"))
FUNCTION_IDS = {name: str(uuid.uuid5(_NAMESPACE, f"function {name}")) for name in FUNCTIONS}


def run_store() -> RunStore:
    """The runs of this user on this machine."""
    return RunStore(home() / "runs.sqlite")


def search_index() -> SearchIndex:
    """The search index of this user on this machine."""
    return SearchIndex(home() / "index.sqlite", document_fields())


@dataclass(frozen=True)
class LocalRequest:
    """What `tomopipe run` is asked for.

    Parameters
    ----------
    scan : Path
        The raw scan.
    output : Path
        Folder of the results.
    parameters : Parameters
    skip : tuple of str
    start_from : str or None
    execution : Execution
    scan_id : str or None
        By default made from the scan's file name.
    copy_to : Path or None
        Folder to which the results are copied at the end.
    tags : tuple of str
        Tags of the run, beside `local`.
    run_id : str or None
        Id of the run; a run of one id is started once. By default a new one.
    """

    scan: Path
    output: Path
    parameters: Parameters = field(default_factory=Parameters)
    skip: tuple[SkippableStage, ...] = ()
    start_from: Stage | None = None
    execution: Execution = field(default_factory=Execution)
    scan_id: str | None = None
    copy_to: Path | None = None
    tags: tuple[str, ...] = ()
    run_id: str | None = None


@dataclass(frozen=True)
class CheckedRun:
    """A request that was found good, ready to start.

    Parameters
    ----------
    request : LocalRequest
        With absolute paths.
    scan_id : str
    body : dict
        The flow's input.
    plan : dict
        How the run would go, for `--dry-run`.
    """

    request: LocalRequest
    scan_id: str
    body: dict[str, Any]
    plan: dict[str, Any]


@dataclass(frozen=True)
class RunResult:
    """How a local run ended: its id in the store, the flow's outcome, and the run directory where there is one."""

    run_id: str
    outcome: FlowOutcome
    run_directory: RunDirectory | None


def check_run(request: LocalRequest) -> CheckedRun:
    """Refuse everything that can be refused before any stage starts.

    Raises
    ------
    InputError
        One message that names the file, dataset or field, and the remedy.
    """
    scan_path, output = _resolved(request.scan, "SCAN"), _resolved(request.output, "--output")
    with open_scan(scan_path) as scan:
        scan_id = scan_id_from_path(request.scan) if request.scan_id is None else validate_scan_id(request.scan_id)
        _check_writable(output)
        worked_out = check_request(Request(request.parameters, request.skip, request.start_from, request.execution))
        raw = output / scan_id / RAW_NAME
        raw_bytes = 0 if raw.is_file() else scan_path.stat().st_size
        plan = preview_run(scan, worked_out, output / scan_id, raw_bytes)
    if request.start_from not in (None, "preprocess") and not list(raw.parent.glob("*/run.json")):
        raise ParameterError(
            f"--from {request.start_from}: {raw.parent} holds no earlier run to start from; run without --from first"
        )
    if raw.is_file() and not _same_content(raw, scan_path):
        raise ParameterError(
            f"--output: {raw.parent} holds the results of another scan named {scan_id}; "
            "give this one another name (--scan-id) or another --output"
        )
    body = build_flow_input(
        scan={"id": COLLECTION, "path": str(scan_path)},
        scan_id=scan_id,
        processing={"id": COLLECTION, "path": str(output)},
        processing_root=str(output),
        destination=None if request.copy_to is None else _destination(request.copy_to, output),
        parameters=request.parameters,
        skip=request.skip,
        start_from=request.start_from,
        execution=request.execution,
        compute_endpoint=ENDPOINT,
        search_index=INDEX,
        visible_to=["public"],
        function_ids=FUNCTION_IDS,
    )
    return CheckedRun(request, scan_id, body, {"scan_id": scan_id, "results": str(output / scan_id), **plan})


def start_run(
    run: CheckedRun, observers: Sequence[RunObserver] = (), cancel: threading.Event | None = None
) -> RunResult:
    """Run the flow to its end in this process.

    Parameters
    ----------
    run : CheckedRun
    observers : sequence of RunObserver
        Hear of states and progress, beside the run store.
    cancel : threading.Event, optional
        Ends the run when set; Ctrl-C does the same.

    Raises
    ------
    InputError
        Another run of the scan is in progress.
    """
    output = Path(run.body["input"]["processing"]["path"])
    with _scan_lock(output / run.scan_id):
        definition, schema = flow_definition(), flow_schema()
        store = run_store()
        run_id = store.create_run(
            label=run.scan_id,
            scan=run.body["input"]["scan"]["path"],
            input=run.body,
            definition_digest=digest_of(definition),
            tags=["local", *run.request.tags],
            run_id=run.request.run_id,
        )
        directory = _DirectoryRecorder(store, run_id)
        workers = home() / "workers" / run_id
        # Stops its workers on the way out, whatever happened.
        with ParslCompute(run.request.execution.workers, workers, _functions()) as compute:
            providers: dict[str, ActionProvider] = {
                TRANSFER_URL: LocalTransfer({COLLECTION: Path("/")}),
                COMPUTE_URL: compute,
                SEARCH_INGEST_URL: search_index(),
                SEARCH_DELETE_URL: SearchDeletion(search_index()),
            }
            outcome = run_flow(
                definition,
                schema,
                run.body,
                providers,
                [store.observer(run_id), directory, *observers],
                cancel,
                run_id,
                run.scan_id,
            )
        if outcome.status == "SUCCEEDED":
            shutil.rmtree(workers, ignore_errors=True)
        return RunResult(run_id, outcome, directory.run)


class _DirectoryRecorder(RunObserver):
    """Notes the run directory as soon as `Inspect` has made it."""

    def __init__(self, store: RunStore, run_id: str) -> None:
        self._store, self._run_id = store, run_id
        self.run: RunDirectory | None = None

    def state_finished(self, state: str, status: str, details: dict[str, Any]) -> None:
        if state == "Inspect" and status == "SUCCEEDED":
            output = details["details"]["results"][0]["output"]
            self.run = RunDirectory(Path(output["run"]))
            self._store.set_run_directory(self._run_id, self.run.root, output["recipe_id"])


def _functions() -> dict[str, Callable[..., Any]]:
    return {FUNCTION_IDS[name]: getattr(stages, name) for name in FUNCTIONS}


def _resolved(path: Path, option: str) -> Path:
    """Absolute path without links; refuses what is no path for this system."""
    try:
        os.fsencode(path).decode()
        resolved = path.resolve()
        resolved.exists()
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ParameterError(f"{option} {os.fsencode(path)!r}: is no usable path ({reason}); give another") from error
    return resolved


def _destination(folder: Path, output: Path) -> dict[str, str]:
    absolute = _resolved(folder, "--copy-to")
    if absolute == output or output in absolute.parents:
        raise ParameterError(f"--copy-to {folder}: lies within --output; give a folder elsewhere, or leave it out")
    _check_writable(absolute, "--copy-to")
    return {"id": COLLECTION, "path": str(absolute)}


def _check_writable(folder: Path, option: str = "--output") -> None:
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not existing.is_dir():
        raise ParameterError(f"{option} {folder}: {existing} is a file; give a folder")
    if not os.access(existing, os.W_OK | os.X_OK) or os.statvfs(existing).f_flag & os.ST_RDONLY:
        raise ParameterError(f"{option} {folder}: {existing} cannot be written to; give a folder that can")


def _same_content(first: Path, second: Path) -> bool:
    if first.samefile(second):
        return True
    return first.stat().st_size == second.stat().st_size and file_checksum(first) == file_checksum(second)


@contextlib.contextmanager
def _scan_lock(folder: Path) -> Iterator[None]:
    """One run of a scan at a time in one results folder; the lock goes with the process, however it ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise InputError(f"{folder}: cannot be written to ({error.strerror}); give another --output") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{folder}: another run of this scan is in progress; wait for it, or cancel it") from None
        except OSError as error:
            raise InputError(
                f"{folder}: its file system has no locks ({error.strerror}); give another --output"
            ) from error
        yield
