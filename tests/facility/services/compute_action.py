"""The Compute action (v3) of flows, over the Compute part of the stand-in.

Endpoints, functions and queues are that part's.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from typing import Any, Protocol

from tomopipe.flows.local.actions import ActionContext, ActionResult, ActionUnableToRun, Progress

from .flows import ActionCaller
from .http import Caller, Json, ServiceError
from .principals import is_uuid

ACTION_URL = "https://compute.actions.globus.org/v3"
# The scope of this provider is not documented; its client id is that of earlier versions.
SCOPE = "https://auth.globus.org/scopes/b3db7e59-a6f1-4947-95c2-59d6b7a70f8c/action_all"
RESOURCE_SERVER = "b3db7e59-a6f1-4947-95c2-59d6b7a70f8c"
PAYLOAD_BYTES_MAX = 10_000_000
_INTERVAL_S = 0.1
_FULL_TRACEBACKS = 3
_MAX_SHORT_CHARACTERS = 300
_KEYS = {
    "endpoint_id",
    "tasks",
    "user_endpoint_config",
    "task_group_id",
    "resource_specification",
    "create_queue",
}
_TASK_KEYS = {"function_id", "args", "kwargs"}


class ComputePart(Protocol):
    """What this action needs of the Compute part."""

    def submit_tasks(
        self,
        endpoint_id: str,
        tasks: list[tuple[str, list[Any], dict[str, Any]]],
        user_endpoint_config: Mapping[str, Any] | None,
        caller: Caller,
    ) -> list[str]:
        """Submit tasks for a caller; their ids, in order."""
        ...

    def task(self, task_id: str) -> Json:
        """``{"status": "pending" | "success" | "failed", "result" | "exception"}``."""
        ...


class ComputeAction:
    """Provider of the Compute action."""

    def __init__(self, compute: ComputePart | None) -> None:
        self.compute = compute

    def action(self, body: dict[str, Any], context: ActionContext, caller: ActionCaller) -> ActionResult:
        """Submit the tasks, wait for all; FAILED if any failed, with the outputs of the others kept."""
        if self.compute is None:
            raise ActionUnableToRun(f"503 from {ACTION_URL}: this stand-in has no Compute part")
        problems = _problems(body)
        if problems:
            raise ActionUnableToRun(f"400 from {ACTION_URL}: {'; '.join(problems)}")
        tasks = [(task["function_id"], _args(task), task.get("kwargs") or {}) for task in body["tasks"]]
        try:
            ids = self.compute.submit_tasks(body["endpoint_id"], tasks, body.get("user_endpoint_config"), caller.person)
        except ServiceError as error:
            raise ActionUnableToRun(f"{error.status} from {ACTION_URL}: {json.dumps(error.document)}") from error
        outcomes = self._wait(ids, context)
        failed = [outcome for outcome in outcomes if "exception" in outcome]
        _shorten(failed)
        details = {
            "task_group_id": body.get("task_group_id") or str(uuid.uuid4()),
            "results": [{"task_id": number, **outcome} for number, outcome in zip(ids, outcomes, strict=True)],
        }
        return ActionResult("FAILED" if failed else "SUCCEEDED", details)

    def _wait(self, ids: list[str], context: ActionContext) -> list[dict[str, Any]]:
        assert self.compute is not None
        done: dict[str, dict[str, Any]] = {}
        while True:
            for number in ids:
                if number not in done:
                    found = self.compute.task(number)
                    if found["status"] == "success":
                        done[number] = {"output": found["result"]}
                    elif found["status"] == "failed":
                        done[number] = {"exception": str(found["exception"])}
            context.report(Progress(len(done), len(ids), "task"))
            if len(done) == len(ids):
                return [done[number] for number in ids]
            context.check()
            time.sleep(_INTERVAL_S)


def _args(task: Mapping[str, Any]) -> list[Any]:
    args = task.get("args") or []
    return args if isinstance(args, list) else [args]


def _problems(body: Mapping[str, Any]) -> list[str]:
    problems = [f"{key}: unknown field" for key in sorted(body.keys() - _KEYS)]
    if not is_uuid(body.get("endpoint_id")):
        problems.append(f"endpoint_id: a UUID is needed, found {body.get('endpoint_id')!r}")
    if not isinstance(body.get("user_endpoint_config") or {}, dict):
        problems.append("user_endpoint_config: an object is needed")
    tasks = body.get("tasks")
    if not isinstance(tasks, list) or not tasks:
        return [*problems, "tasks: a list of at least one task is needed"]
    for number, task in enumerate(tasks):
        if not isinstance(task, dict):
            problems.append(f"tasks[{number}]: an object is needed")
            continue
        problems += [f"tasks[{number}].{key}: unknown field" for key in sorted(task.keys() - _TASK_KEYS)]
        if not is_uuid(task.get("function_id")):
            problems.append(f"tasks[{number}].function_id: a UUID is needed, found {task.get('function_id')!r}")
        if not isinstance(task.get("kwargs") or {}, dict):
            problems.append(f"tasks[{number}].kwargs: an object is needed")
    size = len(json.dumps(tasks).encode())
    if size > PAYLOAD_BYTES_MAX:
        problems.append(f"tasks: a payload of {size} bytes, the limit is {PAYLOAD_BYTES_MAX}")
    return problems


def _shorten(failed: list[dict[str, Any]]) -> None:
    """Keep few tracebacks in full: the run's data is small."""
    for outcome in failed[_FULL_TRACEBACKS:]:
        lines = outcome["exception"].strip().splitlines() or [""]
        outcome["exception"] = lines[-1][: min(_MAX_SHORT_CHARACTERS, 8000 // len(failed))]
