"""The Compute service for tests that need no agent: functions run where the test runs, as soon as they are submitted."""

from __future__ import annotations

import traceback
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from facility.services.http import Caller, Request, Response, ServiceError
from globus_compute_sdk.serialize import ComputeSerializer, JSONData, PureSourceTextInspect

_FUNCTION_KEYS = {"function_name", "function_code", "serialized", "meta", "description", "public", "group"}
_SUBMIT_KEYS = {"tasks", "create_queue", "task_group_id", "user_endpoint_config", "result_serializers"}


class InProcessCompute:
    """A part of the loopback services; `queued` holds every task back, `offline` the endpoints that do not answer."""

    prefixes = ("/v2/functions", "/v2/tasks", "/v2/endpoints", "/v3/functions", "/v3/endpoints")

    def __init__(self, *endpoints: str) -> None:
        self.endpoints = set(endpoints)
        self.functions: dict[str, dict[str, Any]] = {}
        self.tasks: dict[str, dict[str, Any]] = {}
        self.configs: list[Mapping[str, Any] | None] = []
        self.offline: set[str] = set()
        self.queued = False
        self._serializer = ComputeSerializer(
            strategy_data=JSONData, allowed_deserializer_types=[PureSourceTextInspect, JSONData]
        )

    def handle(self, request: Request) -> Response:
        """Answer a request of the Compute API."""
        if request.caller is None:
            raise _refusal(401, "no token")
        match request.method, *request.path.strip("/").split("/"):
            case "POST", "v3", "functions":
                return Response(200, {"function_uuid": self._register(request.body)})
            case "GET", "v2", "functions", function_id:
                return Response(200, {"function_uuid": function_id, **self._function(function_id)})
            case "DELETE", "v2", "functions", function_id:
                self._function(function_id)
                del self.functions[function_id]
                return Response(200, {"result": 302})
            case "GET", "v2", "endpoints", endpoint, "status":
                self._check_endpoint(endpoint)
                return Response(200, {"status": "offline" if endpoint in self.offline else "online", "details": {}})
            case "POST", "v3", "endpoints", endpoint, "submit":
                return Response(200, self._submit(endpoint, request.body))
            case "GET", "v2", "tasks", task_id:
                return Response(200, self.tasks[task_id])
        raise _refusal(404, f"{request.method} {request.path}")

    def submit_tasks(
        self,
        endpoint_id: str,
        tasks: Sequence[tuple[str, list[Any], dict[str, Any]]],
        user_endpoint_config: Mapping[str, Any] | None,
        caller: Caller,
        **more: Any,
    ) -> list[str]:
        """Run what a Compute action names."""
        self._check_endpoint(endpoint_id)
        self.configs.append(user_endpoint_config)
        pack = self._serializer.serialize
        return [
            self._run(function_id, self._serializer.pack_buffers([pack(args), pack(kwargs)]))
            for function_id, args, kwargs in tasks
        ]

    def task(self, task_id: str) -> dict[str, Any]:
        """How a task stands, its result unpacked."""
        task = self.tasks[task_id]
        if task["status"] == "success":
            return {"status": "success", "result": self._serializer.deserialize(task["result"])}
        return {key: task[key] for key in ("status", "exception") if key in task}

    def _register(self, body: dict[str, Any]) -> str:
        unknown = set(body) - _FUNCTION_KEYS
        if unknown:
            raise _refusal(422, f"unknown keys {sorted(unknown)}")
        self._serializer.deserialize(self._serializer.unpack_buffers(body["function_code"])[0])
        function_id = str(uuid.uuid4())
        self.functions[function_id] = body
        return function_id

    def _function(self, function_id: str) -> dict[str, Any]:
        if function_id not in self.functions:
            raise _refusal(404, f"function {function_id} could not be resolved")
        return self.functions[function_id]

    def _check_endpoint(self, endpoint: str) -> None:
        if endpoint not in self.endpoints:
            raise _refusal(404, f"endpoint {endpoint} could not be resolved")

    def _submit(self, endpoint: str, body: dict[str, Any]) -> dict[str, Any]:
        self._check_endpoint(endpoint)
        unknown = set(body) - _SUBMIT_KEYS
        if unknown:
            raise _refusal(422, f"unknown keys {sorted(unknown)}")
        self.configs.append(body.get("user_endpoint_config"))
        tasks = {name: [self._run(name, packed) for packed in several] for name, several in body["tasks"].items()}
        return {
            "request_id": str(uuid.uuid4()),
            "task_group_id": str(uuid.uuid4()),
            "endpoint_id": endpoint,
            "tasks": tasks,
        }

    def _run(self, function_id: str, packed: str) -> str:
        task_id = str(uuid.uuid4())
        code = self._function(function_id)["function_code"]
        if self.queued:
            self.tasks[task_id] = {"task_id": task_id, "status": "waiting-for-nodes"}
            return task_id
        function, args, kwargs = self._serializer.unpack_and_deserialize(code + packed)
        try:
            outcome = {"status": "success", "result": self._serializer.serialize(function(*args, **kwargs))}
        except Exception:  # noqa: BLE001 - it becomes the task's outcome
            outcome = {"status": "failed", "exception": traceback.format_exc()}
        self.tasks[task_id] = {"task_id": task_id, "completion_t": "1", **outcome}
        return task_id


def _refusal(status: int, reason: str) -> ServiceError:
    return ServiceError(status, {"status": "Failed", "code": status, "reason": reason})
