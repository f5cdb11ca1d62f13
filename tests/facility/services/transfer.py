"""Stand-in of Globus Transfer: collections that are folders here, tasks, listings, and the Transfer action of flows.

The copying itself is the project's `LocalTransfer`; who may read which file is the file system's.
"""

from __future__ import annotations

import shutil
import threading
import time
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any
from unittest import mock

from globus_sdk.scopes import GCSCollectionScopes, TransferScopes

from tomopipe.flows.local import transfer as local_transfer
from tomopipe.flows.local.actions import (
    ActionContext,
    ActionResult,
    ActionUnableToRun,
    RunCancelled,
    utc_now,
)
from tomopipe.flows.local.transfer import LocalTransfer

from .auth import AuthService
from .flows import ActionCaller
from .http import Caller, Json, Request, Response, ServiceError, consented
from .principals import is_uuid

TRANSFER = "transfer.api.globus.org"
ALL = str(TransferScopes.all)
ACTION_URL = "https://transfer.actions.globus.org/transfer"
LABEL_LENGTH_MAX = 128
_INTERVAL_S = 0.05
_CORRUPTING = threading.Lock()

_FLAGS = (
    "delete_destination_extra",
    "encrypt_data",
    "fail_on_quota_errors",
    "notify_on_failed",
    "notify_on_inactive",
    "notify_on_succeeded",
    "preserve_timestamp",
    "skip_source_errors",
    "store_base_path_info",
    "verify_checksum",
)
_ACTION_KEYS = {
    *_FLAGS,
    "source_endpoint",
    "destination_endpoint",
    "DATA",
    "label",
    "deadline",
    "filter_rules",
    "recursive_symlinks",
    "source_local_user",
    "destination_local_user",
    "sync_level",
}
_SUBMIT_KEYS = {*_ACTION_KEYS, "DATA_TYPE", "submission_id", "skip_activation_check"}
_ITEM_KEYS = {"source_path", "destination_path", "recursive", "external_checksum", "checksum_algorithm"}
_SYNC_LEVELS = (0, 1, 2, 3)


@dataclass
class SharedFolder:
    """A collection: a folder of this machine under a UUID."""

    id: str
    name: str
    root: Path
    mapped: bool
    owner: str
    paused: threading.Event = field(default_factory=threading.Event)
    readers: set[str] | None = None

    @property
    def data_access(self) -> str:
        """Scope that a person must let a service use to reach a mapped collection for him."""
        return str(GCSCollectionScopes(self.id).data_access)


@dataclass
class _Task:
    document: dict[str, Any]
    owner: str
    cancel: threading.Event
    events: list[Json] = field(default_factory=list)
    thread: threading.Thread | None = None


class _CorruptedContext(ActionContext):
    """Marks the transfer whose copy shall differ from its source."""


class TransferService:
    """The part that answers /v0.10, and the provider of the Transfer action."""

    prefixes: tuple[str, ...] = ("/v0.10/",)

    def __init__(self, auth: AuthService) -> None:
        self._auth = auth
        self._collections: dict[str, SharedFolder] = {}
        self._submissions: dict[str, Json] = {}
        self._tasks: dict[str, _Task] = {}
        self._corrupt = 0
        self._lock = threading.RLock()

    # --- What tests set up

    def add_collection(self, name: str, root: Path, *, mapped: bool) -> str:
        """A collection over a folder: a mapped one, which needs the consent `data_access`, or a guest collection."""
        shared = SharedFolder(str(uuid.uuid4()), name, Path(root).resolve(), mapped, str(uuid.uuid4()))
        with self._lock:
            self._collections[shared.id] = shared
        scopes = GCSCollectionScopes(shared.id)
        self._auth.register_scope(str(scopes.https), shared.id)
        if mapped:
            self._auth.register_scope(shared.data_access, shared.id)
        return shared.id

    def corrupt_next_transfer(self) -> None:
        """Let the copy of the next transfer differ from its source, as a bad disk would."""
        with self._lock:
            self._corrupt += 1

    def pause(self, collection: str, paused: bool = True) -> None:
        """Let the administrator of a collection hold all its transfers, or let them go on."""
        event = self._collections[collection].paused
        event.set() if paused else event.clear()

    def allow_only(self, collection: str, *identity_ids: str) -> None:
        """Let only these identities use a collection; others get 403."""
        self._collections[collection].readers = set(identity_ids)

    def stop(self) -> None:
        """Cancel every task, and wait for it."""
        for task in list(self._tasks.values()):
            task.cancel.set()
        for task in list(self._tasks.values()):
            if task.thread is not None:
                task.thread.join(timeout=30)

    # --- The action

    def action(self, body: dict[str, Any], context: ActionContext, caller: ActionCaller) -> ActionResult:
        """Run the Transfer action: refuse what its provider refuses, see to the consents, copy."""
        problems = _transfer_problems(body, _ACTION_KEYS)
        if problems:
            raise ActionUnableToRun(f"400 from {ACTION_URL}: {'; '.join(problems)}")
        for key in ("source_endpoint", "destination_endpoint"):
            shared = self._collections.get(body[key])
            if shared is None:
                raise ActionUnableToRun(f"404 from {ACTION_URL}: EndpointNotFound: no such endpoint '{body[key]}'")
            if shared.readers is not None and caller.person.identity_id not in shared.readers:
                raise ActionUnableToRun(f"403 from {ACTION_URL}: PermissionDenied: no access to {shared.name}")
            if shared.mapped:
                context = caller.need_consent(
                    context, ALL, shared.data_access, description="Missing required data_access consent"
                )
        result = self._copy(body, context)
        with self._lock:
            task = {**_task_document(body, caller.person.identity_id, self._collections), **result.details}
            self._tasks[task["task_id"]] = _Task(task, caller.person.identity_id, threading.Event())
        return result

    def _copy(self, body: Mapping[str, Any], context: ActionContext) -> ActionResult:
        """Copy now, or when no collection of the transfer is paused any more."""
        with self._lock:
            shared = [self._collections[body[key]] for key in ("source_endpoint", "destination_endpoint")]
            roots = {one.id: one.root for one in shared}
            corrupt, self._corrupt = self._corrupt > 0, max(0, self._corrupt - 1)
        while any(one.paused.is_set() for one in shared):
            context.check()
            time.sleep(_INTERVAL_S)
        if corrupt:
            context = _CorruptedContext(context.state, context.deadline, context.cancel, context.observer)
        with _corruption() if corrupt else nullcontext():
            result = LocalTransfer(roots, allow_hard_links=False).run(dict(body), context)
        fatal = result.details.get("fatal_error")
        if fatal:
            # The service knows paths on collections alone.
            for root in roots.values():
                fatal["description"] = fatal["description"].replace(str(Path(root).resolve()), "")
        return result

    # --- HTTP

    def handle(self, request: Request) -> Response:
        """Answer a request."""
        caller = _authorized(request)
        parts = request.path.strip("/").split("/")[1:]
        match (request.method, parts):
            case ("GET", ["submission_id"]):
                value = str(uuid.uuid4())
                return Response(200, {"DATA_TYPE": "submission_id", "value": value})
            case ("POST", ["transfer"]):
                return self._submit(request, caller)
            case ("POST", ["delete"]):
                return self._submit_delete(request, caller)
            case ("GET", ["task_list"]):
                tasks = [task.document for task in self._tasks.values() if task.owner == caller.identity_id]
                return Response(200, _list("task_list", tasks[::-1]))
            case ("GET", ["task", task_id]):
                return Response(200, dict(self._task(task_id, caller, request).document))
            case ("GET", ["task", task_id, "event_list"]):
                return Response(200, _list("event_list", self._task(task_id, caller, request).events[::-1]))
            case ("POST", ["task", task_id, "cancel"]):
                return self._cancel(task_id, caller, request)
            case ("GET", ["endpoint", collection]):
                return Response(200, _endpoint_document(self._collection(collection, request)))
            case ("GET", ["operation", "endpoint", collection, "ls"]):
                return self._ls(self._reachable(collection, caller, request), request)
            case ("GET", ["operation", "endpoint", collection, "stat"]):
                return self._stat(self._reachable(collection, caller, request), request)
            case ("POST", ["operation", "endpoint", collection, "mkdir"]):
                return self._mkdir(self._reachable(collection, caller, request), request)
        raise _error(request, 404, "ClientError.NotFound", f"{request.method} {request.path} is not in the stand-in")

    def _submit(self, request: Request, caller: Caller) -> Response:
        body = _object(request)
        problems = _transfer_problems(body, _SUBMIT_KEYS)
        if not body.get("DATA"):
            raise _error(
                request, 400, "ClientError.BadRequest.NoTransferItems", "A transfer requires at least one item"
            )
        if body.get("DATA_TYPE") != "transfer":
            problems.append("DATA_TYPE: 'transfer' is needed")
        if problems:
            raise _error(request, 400, "ClientError.BadRequest", "; ".join(problems))
        for key in ("source_endpoint", "destination_endpoint"):
            self._reachable(body[key], caller, request)
        return self._accept(request, body, caller, "transfer", self._copy)

    def _submit_delete(self, request: Request, caller: Caller) -> Response:
        body = _object(request)
        items = body.get("DATA")
        if body.get("DATA_TYPE") != "delete" or not isinstance(items, list) or not items:
            raise _error(request, 400, "ClientError.BadRequest", "a delete document with at least one item is needed")
        shared = self._reachable(body.get("endpoint", ""), caller, request)

        def delete(body: Mapping[str, Any], context: ActionContext) -> ActionResult:
            removed = 0
            for item in body["DATA"]:
                context.check()
                path = _inside(shared, item["path"])
                if path is None or path == shared.root:
                    fatal = {"code": "PERMISSION_DENIED", "description": f"{item['path']} cannot be deleted"}
                    return ActionResult("FAILED", _ended("FAILED", fatal))
                if path.is_dir() and body.get("recursive"):
                    shutil.rmtree(path)
                elif path.exists():
                    path.rmdir() if path.is_dir() else path.unlink()
                elif not body.get("ignore_missing"):
                    fatal = {"code": "FILE_NOT_FOUND", "description": f"{item['path']} does not exist"}
                    return ActionResult("FAILED", _ended("FAILED", fatal))
                removed += 1
            return ActionResult("SUCCEEDED", {**_ended("SUCCEEDED", None), "files": removed})

        return self._accept(request, body, caller, "delete", delete)

    def _accept(self, request: Request, body: dict[str, Any], caller: Caller, kind: str, work: Any) -> Response:
        """Start a task; a submission id makes a task once, however often it comes."""
        submission = str(body.get("submission_id"))
        if not is_uuid(submission):
            raise _error(request, 400, "ClientError.BadRequest", "submission_id: an id from /submission_id is needed")
        with self._lock:
            if submission in self._submissions:
                return Response(200, {**self._submissions[submission], "code": "Duplicate"})
            document = _task_document(body, caller.identity_id, self._collections)
            task = self._tasks[document["task_id"]] = _Task(document, caller.identity_id, threading.Event())
            accepted = {
                "DATA_TYPE": f"{kind}_result",
                "code": "Accepted",
                "message": f"The {kind} has been accepted and a task has been created and queued for execution",
                "request_id": uuid.uuid4().hex[:9],
                "resource": f"/v0.10/{kind}",
                "submission_id": submission,
                "task_id": document["task_id"],
            }
            self._submissions[submission] = accepted
        task.thread = threading.Thread(target=self._work, args=(task, body, work), daemon=True)
        task.thread.start()
        return Response(202, accepted)

    @staticmethod
    def _work(task: _Task, body: dict[str, Any], work: Any) -> None:
        task.events.append({"DATA_TYPE": "event", "code": "STARTED", "is_error": False, "time": _seconds()})
        try:
            ended: dict[str, Any] = {**work(body, ActionContext("task", cancel=task.cancel)).details}
        except RunCancelled:
            fatal = {"code": "CANCELED", "description": "Task was canceled by its owner"}
            ended = _ended("FAILED", fatal)
        except Exception as error:  # noqa: BLE001 - a fault of the stand-in ends the task, visibly
            ended = _ended("FAILED", {"code": "STAND_IN", "description": f"{type(error).__name__}: {error}"})
        ended.pop("task_id", None)
        fault = ended.get("fatal_error")
        task.events.append(
            {
                "DATA_TYPE": "event",
                "code": fault["code"] if fault else "SUCCEEDED",
                "is_error": fault is not None,
                "description": fault["description"] if fault else "succeeded",
                "time": _seconds(),
            }
        )
        # In one step: a reader never sees an ended task without its end.
        task.document = {**task.document, **ended, "is_ok": fault is None}

    def _task(self, task_id: str, caller: Caller, request: Request) -> _Task:
        with self._lock:
            task = self._tasks.get(task_id)
        if task is None or task.owner != caller.identity_id:
            raise _error(request, 404, "TaskNotFound", f"No task found with id '{task_id}'")
        return task

    def _cancel(self, task_id: str, caller: Caller, request: Request) -> Response:
        task = self._task(task_id, caller, request)
        ended = task.document["status"] != "ACTIVE"
        task.cancel.set()
        code = "TaskComplete" if ended else "Canceled"
        said = (
            "The task completed before the cancel request was processed." if ended else "The task has been cancelled."
        )
        return Response(
            200, {"DATA_TYPE": "result", "code": code, "message": said, "request_id": "-", "resource": request.path}
        )

    def _collection(self, collection: str, request: Request) -> SharedFolder:
        with self._lock:
            shared = self._collections.get(collection)
        if shared is None:
            raise _error(request, 404, "EndpointNotFound", f"No such endpoint '{collection}'")
        return shared

    def _reachable(self, collection: str, caller: Caller, request: Request) -> SharedFolder:
        """A collection that the caller may use, and has let Transfer use for him."""
        shared = self._collection(collection, request)
        if shared.readers is not None and caller.identity_id not in shared.readers:
            raise _error(request, 403, "PermissionDenied", f"You do not have access to {shared.name}")
        if shared.mapped and not consented(caller.consents, ALL, shared.data_access):
            document = _error(request, 403, "ConsentRequired", "Missing required data_access consent").document
            raise ServiceError(403, {**document, "required_scopes": [f"{ALL}[*{shared.data_access}]"]})
        return shared

    def _ls(self, shared: SharedFolder, request: Request) -> Response:
        asked = request.query.get("path", "/")
        path = self._found(shared, asked, request)
        if not path.is_dir():
            raise _error(request, 502, "ExternalError.DirListingFailed.NotDirectory", f"{asked} is not a directory")
        hidden = request.query.get("show_hidden", "1") != "0"
        entries = [
            _file_document(entry) for entry in sorted(path.iterdir()) if hidden or not entry.name.startswith(".")
        ]
        wanted = request.query.get("filter", "")
        if wanted.startswith("name:"):
            names = set(wanted.removeprefix("name:").split(","))
            entries = [entry for entry in entries if entry["name"] in names]
        offset, limit = int(request.query.get("offset", 0)), int(request.query.get("limit", 100_000))
        shown = f"/{str(PurePosixPath(asked)).strip('/')}/".replace("//", "/")
        return Response(
            200,
            {
                "DATA_TYPE": "file_list",
                "endpoint": shared.id,
                "path": shown,
                "absolute_path": shown,
                "rename_supported": True,
                "length": len(entries[offset : offset + limit]),
                "total": len(entries),
                "DATA": entries[offset : offset + limit],
            },
        )

    def _stat(self, shared: SharedFolder, request: Request) -> Response:
        return Response(200, _file_document(self._found(shared, request.query.get("path", "/"), request)))

    def _found(self, shared: SharedFolder, asked: str, request: Request) -> Path:
        path = _inside(shared, asked)
        if path is None:
            raise _error(request, 403, "PermissionDenied", f"{asked} leads out of the collection")
        if not path.exists():
            raise _error(request, 404, "ClientError.NotFound", f"'{asked}' not found on endpoint {shared.name}")
        return path

    def _mkdir(self, shared: SharedFolder, request: Request) -> Response:
        body = _object(request)
        if body.get("DATA_TYPE") != "mkdir" or not isinstance(body.get("path"), str):
            raise _error(request, 400, "ClientError.BadRequest", "a mkdir document with a path is needed")
        path = _inside(shared, body["path"])
        if path is None:
            raise _error(request, 403, "PermissionDenied", f"{body['path']} leads out of the collection")
        if path.exists():
            raise _error(request, 502, "ExternalError.MkdirFailed.Exists", f"Path '{body['path']}' already exists")
        if not path.parent.is_dir():
            raise _error(request, 502, "ExternalError.MkdirFailed", f"no parent folder of '{body['path']}'")
        path.mkdir()
        said = "The directory was created successfully"
        document = {"DATA_TYPE": "mkdir_result", "code": "DirectoryCreated", "message": said}
        return Response(202, {**document, "request_id": uuid.uuid4().hex[:9], "resource": request.path})


@contextmanager
def _corruption() -> Iterator[None]:
    """Flip a byte of every copy that the marked transfer writes, between writing and comparing."""
    write = local_transfer._Task._write

    def corrupting(task: Any, source: Path, aside: Path) -> str:
        digest: str = write(task, source, aside)
        if isinstance(task.context, _CorruptedContext) and aside.stat().st_size:
            with aside.open("r+b") as copy:
                first = copy.read(1)
                copy.seek(0)
                copy.write(bytes([first[0] ^ 0xFF]))
        return digest

    # One at a time: patches that overlap would not restore what was there.
    with _CORRUPTING, mock.patch.object(local_transfer._Task, "_write", corrupting):
        yield


# --- Checks


def _authorized(request: Request) -> Caller:
    caller = request.caller
    if caller is None:
        raise _error(request, 401, "AuthenticationFailed", "Token is not active")
    if caller.resource_server != TRANSFER or ALL not in caller.scopes:
        raise _error(request, 403, "AuthorizationFailed", f"The token lacks the scope {ALL}")
    return caller


def _object(request: Request) -> dict[str, Any]:
    if not isinstance(request.body, dict):
        raise _error(request, 400, "ClientError.BadRequest", "a JSON object is needed")
    return dict(request.body)


def _transfer_problems(body: Mapping[str, Any], allowed: Collection[str]) -> list[str]:
    problems = [f"{key}: unknown field" for key in sorted(body.keys() - set(allowed))]
    problems += [
        f"{key}: the UUID of a collection is needed, found {body.get(key)!r}"
        for key in ("source_endpoint", "destination_endpoint")
        if not is_uuid(body.get(key))
    ]
    problems += [f"{key}: true or false is needed" for key in _FLAGS if not isinstance(body.get(key, False), bool)]
    if body.get("sync_level") is not None and body["sync_level"] not in _SYNC_LEVELS:
        problems.append("sync_level: 0 to 3 is needed")
    label = body.get("label")
    if label is not None and not (isinstance(label, str) and len(label) <= LABEL_LENGTH_MAX):
        problems.append(f"label: at most {LABEL_LENGTH_MAX} characters")
    items = body.get("DATA")
    if not isinstance(items, list) or not items:
        return [*problems, "DATA: at least one item is needed"]
    for number, item in enumerate(items):
        problems += _item_problems(number, item, "DATA_TYPE" in allowed)
    return problems


def _item_problems(number: int, item: Any, typed: bool) -> list[str]:
    place = f"DATA[{number}]"
    if not isinstance(item, dict):
        return [f"{place}: an object is needed"]
    allowed = _ITEM_KEYS | ({"DATA_TYPE"} if typed else set())
    problems = [f"{place}.{key}: unknown field" for key in sorted(item.keys() - allowed)]
    for key in ("source_path", "destination_path"):
        if not isinstance(item.get(key), str) or not item[key]:
            problems.append(f"{place}.{key}: a path is needed")
    if not isinstance(item.get("recursive", False), bool):
        problems.append(f"{place}.recursive: true or false is needed")
    return problems


def _inside(shared: SharedFolder, path: str) -> Path | None:
    """Real path of a collection's path; ``None`` where it leads out of it."""
    parts = [part for part in PurePosixPath(path).parts if part not in ("/", "//", "~")]
    if ".." in parts or "\0" in path:
        return None
    real = shared.root.joinpath(*parts).resolve()
    return real if real.is_relative_to(shared.root) else None


def _error(request: Request, status: int, code: str, message: str) -> ServiceError:
    document = {"code": code, "message": message, "request_id": uuid.uuid4().hex[:9], "resource": request.path}
    return ServiceError(status, document)


# --- Documents


def _task_document(body: Mapping[str, Any], owner: str, collections: Mapping[str, SharedFolder]) -> dict[str, Any]:
    source: str = body.get("source_endpoint", body.get("endpoint"))
    target: str | None = body.get("destination_endpoint")
    return {
        "DATA_TYPE": "task",
        "task_id": str(uuid.uuid4()),
        "type": "DELETE" if target is None else "TRANSFER",
        "status": "ACTIVE",
        "nice_status": None,
        "is_ok": None,
        "is_paused": any(collections[one].paused.is_set() for one in (source, target or "") if one in collections),
        "label": body.get("label"),
        "owner_id": owner,
        "source_endpoint_id": source,
        "source_endpoint_display_name": collections[source].name if source in collections else None,
        "destination_endpoint_id": target,
        "destination_endpoint_display_name": collections[target].name
        if target is not None and target in collections
        else None,
        "verify_checksum": body.get("verify_checksum", True),
        "sync_level": body.get("sync_level"),
        "encrypt_data": body.get("encrypt_data", False),
        "files": 0,
        "files_transferred": 0,
        "files_skipped": 0,
        "directories": 0,
        "bytes_transferred": 0,
        "faults": 0,
        "fatal_error": None,
        "request_time": _seconds(),
        "completion_time": None,
        "command": "API 0.10",
    }


def _ended(status: str, fatal: Json) -> dict[str, Any]:
    nice = fatal["code"] if fatal else None
    return {"status": status, "nice_status": nice, "fatal_error": fatal, "completion_time": utc_now()}


def _endpoint_document(shared: SharedFolder) -> Json:
    return {
        "DATA_TYPE": "endpoint",
        "id": shared.id,
        "display_name": shared.name,
        "description": None,
        "entity_type": "GCSv5_mapped_collection" if shared.mapped else "GCSv5_guest_collection",
        "https_server": f"https://{shared.id[:8]}.data.example.org",
        "owner_id": shared.owner,
        "owner_string": "facility@example.org",
        "public": True,
        "high_assurance": False,
        "force_encryption": False,
        "disable_verify": False,
        "force_verify": False,
        "authentication_policy_id": None,
        "non_functional": False,
        "default_directory": "/",
        "host_endpoint_id": None,
        "mapped_collection_id": None,
        "subscription_id": None,
    }


def _file_document(path: Path) -> Json:
    status = path.stat()
    return {
        "DATA_TYPE": "file",
        "name": path.name,
        "type": "dir" if path.is_dir() else "file",
        "size": status.st_size,
        "last_modified": datetime.fromtimestamp(int(status.st_mtime), UTC).isoformat(sep=" "),
        "permissions": f"{status.st_mode & 0o777:04o}",
        "user": "facility",
        "group": "facility",
        "link_target": None,
    }


def _list(kind: str, entries: list[Json]) -> Json:
    return {
        "DATA_TYPE": kind,
        "DATA": entries,
        "length": len(entries),
        "limit": 1000,
        "offset": 0,
        "total": len(entries),
        "has_next_page": False,
    }


def _seconds() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
