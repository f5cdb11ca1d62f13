"""The Compute web service on this machine: functions, endpoints and tasks over HTTP, and the messages of the real agent.

What runs the tasks is the agent's (`facility.agent`), queues are the broker's, who may call is told by Auth.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pika
import pika.exceptions
from globus_compute_common import messagepack
from globus_compute_common.messagepack.message_types import EPStatusReport, Result, ResultErrorDetails, Task
from globus_compute_sdk.serialize import ComputeSerializer, JSONData, PureSourceTextInspect
from pika.adapters.blocking_connection import BlockingChannel

from .services.http import Caller, Request, Response, ServiceError

SCOPE = "https://auth.globus.org/scopes/facd7ccc-c5f4-42aa-916b-a0e270e2c2a9/all"
MAX_PAYLOAD_BYTES = 10 * 1000 * 1000
"""Globus Compute's limit on a function and on the arguments of a task."""

_FUNCTION_KEYS = {"function_name", "function_code", "serialized", "meta", "metadata", "description", "public", "group"}
_SUBMIT_KEYS = {
    "tasks",
    "create_queue",
    "task_group_id",
    "user_endpoint_config",
    "resource_specification",
    "user_runtime",
    "result_serializers",
}
_MISSED_HEARTBEATS = 3
_RESTART_INTERVAL_S = 5.0
# The agent refuses commands that are older than three minutes, with an error that would end the tasks.
_COMMAND_EXPIRATION_MS = "60000"
# The agent says so for a while after a user endpoint was killed; it starts when asked again.
_NOT_YET = "Another instance of this endpoint is running"
_JSON_RESULTS = ["globus_compute_sdk.serialize.JSONData"]
_QUEUE_PREFIX = "task-group."

_log = logging.getLogger(__name__)


@dataclass
class _Heart:
    """When an endpoint was last heard, and how often it is to be heard."""

    last: float = 0.0
    period: float = 30.0
    report: dict[str, Any] = field(default_factory=dict)

    def beats(self) -> bool:
        return time.monotonic() - self.last < _MISSED_HEARTBEATS * self.period if self.last else False


@dataclass
class _Function:
    owner: str
    document: dict[str, Any]


@dataclass
class _Endpoint:
    owner: str
    document: dict[str, Any]
    heart: _Heart = field(default_factory=_Heart)


@dataclass
class _UserEndpoint:
    """What the agent starts for one person and one set of options: an engine of its own."""

    endpoint_id: str
    caller: Caller
    options: dict[str, Any]
    runtime: dict[str, Any]
    heart: _Heart = field(default_factory=_Heart)
    asked: float = 0.0


@dataclass
class _Task:
    owner: str
    group: str
    user_endpoint: str
    document: dict[str, Any]

    @property
    def ended(self) -> bool:
        return self.document["status"] in ("success", "failed")


@dataclass
class _Group:
    owner: str
    tasks: list[str] = field(default_factory=list)
    queue: str | None = None


class ComputeService:
    """The service; `start` it before an agent comes, `stop` it after the agent has gone.

    Parameters
    ----------
    amqp_url : str
        Address of the broker, given on to agents and clients.
    """

    prefixes = (
        "/v2/version",
        "/v2/get_amqp_result_connection_url",
        "/v2/endpoints",
        "/v2/functions",
        "/v2/tasks",
        "/v2/batch_status",
        "/v2/taskgroup",
        "/v3/endpoints",
        "/v3/functions",
    )

    def __init__(self, amqp_url: str) -> None:
        self._amqp_url = amqp_url
        self._lock = threading.RLock()
        self._functions: dict[str, _Function] = {}
        self._endpoints: dict[str, _Endpoint] = {}
        self._user_endpoints: dict[str, _UserEndpoint] = {}
        self._tasks: dict[str, _Task] = {}
        self._groups: dict[str, _Group] = {}
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._routes = self._make_routes()
        self._serializer = ComputeSerializer(
            strategy_code=PureSourceTextInspect,
            strategy_data=JSONData,
            allowed_deserializer_types=[PureSourceTextInspect, JSONData],
        )

    def start(self) -> None:
        """Make the queues and listen to them."""
        with self._channel() as channel:
            for name in ("results", "heartbeats"):
                channel.exchange_declare(name, "topic", durable=True)
                channel.queue_declare(name, durable=True)
                channel.queue_bind(name, name, "#")
        for work in (self._listen, self._watch):
            thread = threading.Thread(target=work, name=f"compute-service-{work.__name__}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Stop listening."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    # In-process, for the Flows service

    def submit_tasks(
        self,
        endpoint_id: str,
        tasks: Sequence[tuple[str, list[Any], dict[str, Any]]],
        user_endpoint_config: Mapping[str, Any] | None,
        caller: Caller,
        *,
        task_group_id: str | None = None,
        resource_specification: Mapping[str, Any] | None = None,
    ) -> list[str]:
        """Submit what a Compute action names; arguments and results travel as JSON, so that Python versions may differ.

        Parameters
        ----------
        endpoint_id : str
            Endpoint that is to run them.
        tasks : sequence of tuple
            Id of the function, positional and keyword arguments of each.
        user_endpoint_config : mapping or None
            Options of the user endpoint, which the agent holds to its schema.
        caller : Caller
            Who runs the flow.

        Returns
        -------
        list of str
            Ids of the tasks, in their order.

        Raises
        ------
        ServiceError
            If something named does not exist, is not the caller's to use, is malformed or too large.
        """
        payloads = [self._pack(*task, place=f"tasks[{number}]") for number, task in enumerate(tasks)]
        group = task_group_id or str(uuid.uuid4())
        return self._submit(
            endpoint_id,
            payloads,
            caller,
            group,
            options=dict(user_endpoint_config or {}),
            runtime={},
            headers=_headers(resource_specification, _JSON_RESULTS),
        )

    def task(self, task_id: str) -> dict[str, Any]:
        """``{"status": "pending" | "success" | "failed"}``, with the ``"result"`` or the ``"exception"``.

        Raises
        ------
        ServiceError
            If there is no such task.
        """
        with self._lock:
            found = self._tasks.get(task_id)
            if found is None:
                raise _refusal(404, f"Task {task_id} could not be resolved")
            document = dict(found.document)
        if not found.ended:
            return {"status": "pending"}
        if document["status"] == "failed":
            return {"status": "failed", "exception": document["exception"]}
        return {"status": "success", "result": self._serializer.deserialize(document["result"])}

    def online(self, endpoint_id: str) -> bool:
        """Whether the agent of an endpoint is heard."""
        with self._lock:
            endpoint = self._endpoints.get(endpoint_id)
            return endpoint is not None and endpoint.heart.beats()

    # HTTP

    def handle(self, request: Request) -> Response:
        """Answer a request of the Compute web service's API, v2 or v3."""
        for method, pattern, answer in self._routes:
            if (match := pattern.fullmatch(request.path)) and method == request.method:
                if request.path != "/v2/version":
                    _check_caller(request.caller)
                with self._lock:
                    return Response(200, answer(request, *match.groups()))
        raise _refusal(404, f"{request.method} {request.path} is not part of the service on this machine")

    def _make_routes(self) -> list[tuple[str, re.Pattern[str], Callable[..., Any]]]:
        table: list[tuple[str, str, Callable[..., Any]]] = [
            ("GET", "/v2/version", self._version),
            ("GET", "/v2/get_amqp_result_connection_url", self._result_queues),
            ("POST", "/v3/functions", self._register_function),
            ("POST", "/v2/functions", self._register_function),
            ("GET", "/v2/functions/ID", self._get_function),
            ("DELETE", "/v2/functions/ID", self._delete_function),
            ("POST", "/v3/endpoints", self._register_endpoint),
            ("PUT", "/v3/endpoints/ID", self._register_endpoint),
            ("GET", "/v2/endpoints", self._list_endpoints),
            ("GET", "/v2/endpoints/ID", self._get_endpoint),
            ("GET", "/v2/endpoints/ID/status", self._endpoint_status),
            ("POST", "/v3/endpoints/ID/submit", self._submit_batch),
            ("GET", "/v2/tasks/ID", self._get_task),
            ("POST", "/v2/batch_status", self._task_batch),
            ("GET", "/v2/taskgroup/ID", self._task_group),
        ]
        return [(method, re.compile(path.replace("ID", "([^/]+)")), answer) for method, path, answer in table]

    def _version(self, request: Request) -> Any:
        versions = {"api": "1.0.0", "min_ep_version": "2.0.0", "min_sdk_version": "2.0.0"}
        return versions if request.query.get("service") == "all" else versions["api"]

    def _result_queues(self, request: Request) -> Any:
        return {"queue_prefix": _QUEUE_PREFIX, "connection_url": self._amqp_url}

    def _register_function(self, request: Request) -> Any:
        body = _object(request.body, _FUNCTION_KEYS)
        code = body.get("function_code")
        if not isinstance(code, str) or not isinstance(body.get("function_name"), str):
            raise _refusal(422, "function_name, function_code: strings are needed")
        if len(code.encode()) > MAX_PAYLOAD_BYTES:
            raise _refusal(413, f"the function takes more than {MAX_PAYLOAD_BYTES} bytes")
        _check_packed(code)
        function_id = str(uuid.uuid4())
        self._functions[function_id] = _Function(_owner(request), body)
        return {"function_uuid": function_id}

    def _get_function(self, request: Request, function_id: str) -> Any:
        found = self._function(function_id, _owner(request))
        known = {key: found.document.get(key) for key in ("function_name", "function_code", "description")}
        return {"function_uuid": function_id, "metadata": found.document.get("meta"), **known}

    def _delete_function(self, request: Request, function_id: str) -> Any:
        if self._function(function_id, _owner(request)).owner != _owner(request):
            raise _refusal(403, f"function {function_id} is not yours")
        del self._functions[function_id]
        return {"function_uuid": function_id, "message": "Function deleted"}

    def _function(self, function_id: str, identity: str) -> _Function:
        found = self._functions.get(function_id)
        if found is None:
            raise _refusal(404, f"Function {function_id} could not be resolved")
        if found.owner != identity and not found.document.get("public"):
            raise _refusal(403, f"Unauthorized access to function {function_id}: it is private")
        return found

    def _register_endpoint(self, request: Request, endpoint_id: str | None = None) -> Any:
        body = request.body
        if not isinstance(body, dict) or not isinstance(body.get("endpoint_name"), str):
            raise _refusal(422, "endpoint_name: a string is needed")
        if endpoint_id is None:
            endpoint_id = str(uuid.uuid4())
        elif self._endpoint(endpoint_id).owner != _owner(request):
            raise _refusal(403, f"endpoint {endpoint_id} is not yours")
        self._endpoints[endpoint_id] = _Endpoint(_owner(request), body)
        for user_endpoint in self._user_endpoints.values():
            if user_endpoint.endpoint_id == endpoint_id:  # they end with their agent
                user_endpoint.heart.last = user_endpoint.asked = 0.0
        commands = f"{endpoint_id}.commands"
        with self._channel() as channel:
            channel.queue_declare(commands, durable=True)
        return {
            "endpoint_id": endpoint_id,
            "command_queue_info": {"connection_url": self._amqp_url, "queue": commands},
            "heartbeat_queue_info": self._publishing("heartbeats", endpoint_id),
        }

    def _endpoint(self, endpoint_id: str) -> _Endpoint:
        found = self._endpoints.get(endpoint_id)
        if found is None:
            raise _refusal(404, f"Endpoint {endpoint_id} could not be resolved")
        return found

    def _list_endpoints(self, request: Request) -> Any:
        own = _owner(request)
        return [
            {"uuid": key, "name": e.document["endpoint_name"]} for key, e in self._endpoints.items() if e.owner == own
        ]

    def _get_endpoint(self, request: Request, endpoint_id: str) -> Any:
        found = self._endpoint(endpoint_id)
        keys = ("display_name", "multi_user", "public", "metadata")
        return {
            "uuid": endpoint_id,
            "name": found.document["endpoint_name"],
            "owner": found.owner,
            **{key: found.document.get(key) for key in keys},
        }

    def _endpoint_status(self, request: Request, endpoint_id: str) -> Any:
        heart = self._endpoint(endpoint_id).heart
        return {"status": "online" if heart.beats() else "offline", "details": heart.report}

    def _submit_batch(self, request: Request, endpoint_id: str) -> Any:
        body = _object(request.body, _SUBMIT_KEYS)
        tasks, options = body.get("tasks"), body.get("user_endpoint_config") or {}
        if not isinstance(tasks, dict) or not tasks or not all(isinstance(each, list) for each in tasks.values()):
            raise _refusal(422, "tasks: an object of function ids and lists of packed arguments is needed")
        if not isinstance(options, dict):
            raise _refusal(422, "user_endpoint_config: an object is needed")
        payloads = [(function_id, payload) for function_id, several in tasks.items() for payload in several]
        group = body.get("task_group_id") or str(uuid.uuid4())
        ids = self._submit(
            endpoint_id,
            payloads,
            _check_caller(request.caller),
            group,
            options=options,
            runtime=body.get("user_runtime") or {},
            headers=_headers(body.get("resource_specification"), body.get("result_serializers")),
            create_queue=bool(body.get("create_queue")),
        )
        by_function: dict[str, list[str]] = {}
        for (function_id, _), task_id in zip(payloads, ids, strict=True):
            by_function.setdefault(function_id, []).append(task_id)
        return {
            "request_id": str(uuid.uuid4()),
            "task_group_id": group,
            "endpoint_id": endpoint_id,
            "tasks": by_function,
        }

    def _get_task(self, request: Request, task_id: str) -> Any:
        found = self._tasks.get(task_id)
        if found is None or found.owner != _owner(request):
            raise _refusal(404, f"Task {task_id} could not be resolved")
        return found.document

    def _task_batch(self, request: Request) -> Any:
        ids = _object(request.body, {"task_ids"}).get("task_ids")
        if not isinstance(ids, list):
            raise _refusal(422, "task_ids: a list is needed")
        return {"response": "batch", "results": {task_id: self._get_task(request, task_id) for task_id in ids}}

    def _task_group(self, request: Request, group_id: str) -> Any:
        found = self._groups.get(group_id)
        if found is None or found.owner != _owner(request):
            raise _refusal(404, f"Task group {group_id} could not be resolved")
        return {"taskgroup_id": group_id, "tasks": [{"id": task_id} for task_id in found.tasks]}

    # Tasks

    def _pack(self, function_id: str, args: list[Any], kwargs: dict[str, Any], place: str) -> tuple[str, str]:
        if not isinstance(args, list) or not isinstance(kwargs, dict):
            raise _refusal(422, f"{place}: args is a list and kwargs an object")
        return function_id, self._serializer.pack_buffers([self._serializer.serialize(each) for each in (args, kwargs)])

    def _submit(
        self,
        endpoint_id: str,
        payloads: Sequence[tuple[str, str]],
        caller: Caller,
        group_id: str,
        *,
        options: dict[str, Any],
        runtime: dict[str, Any],
        headers: dict[str, Any],
        create_queue: bool = False,
    ) -> list[str]:
        with self._lock:
            self._endpoint(endpoint_id)
            for function_id, payload in payloads:
                self._function(function_id, caller.identity_id)
                if not isinstance(payload, str):
                    raise _refusal(422, "tasks: packed arguments are strings")
                if len(payload.encode()) > MAX_PAYLOAD_BYTES:
                    raise _refusal(413, f"the arguments of a task take more than {MAX_PAYLOAD_BYTES} bytes")
            group = self._groups.setdefault(group_id, _Group(caller.identity_id))
            if group.owner != caller.identity_id:
                raise _refusal(403, f"task group {group_id} is not yours")
            if create_queue and group.queue is None:
                group.queue = _QUEUE_PREFIX + group_id
                with self._channel() as channel:
                    channel.queue_declare(group.queue, durable=True)
            user_endpoint_id = self._user_endpoint(endpoint_id, caller, options, runtime)
            ids = [self._note(caller, function_id, group_id, user_endpoint_id) for function_id, _ in payloads]
            group.tasks += ids
            with self._channel() as channel:
                for task_id, (function_id, payload) in zip(ids, payloads, strict=True):
                    code = self._functions[function_id].document["function_code"]
                    body = messagepack.pack(Task(task_id=uuid.UUID(task_id), task_buffer=code + payload))
                    about = {"function_uuid": function_id, "task_uuid": task_id, **headers}
                    _publish(channel, f"{user_endpoint_id}.tasks", body, headers=about)
            self._ask_to_start(user_endpoint_id)
            return ids

    def _note(self, caller: Caller, function_id: str, group_id: str, user_endpoint_id: str) -> str:
        task_id = str(uuid.uuid4())
        document = {"task_id": task_id, "status": "waiting-for-launch", "function_id": function_id}
        self._tasks[task_id] = _Task(caller.identity_id, group_id, user_endpoint_id, document)
        return task_id

    def _end(self, result: Result, body: bytes) -> None:
        """Keep a result, and pass it to whoever waits at the queue of its group. The first result counts."""
        with self._lock:
            task = self._tasks.get(str(result.task_id))
            if task is None or task.ended:
                return
            said = (
                {"status": "failed", "exception": result.data}
                if result.is_error
                else {"status": "success", "result": result.data}
            )
            task.document.update(said, completion_t=str(time.time()), details=_plain(result.details))
            queue = self._groups[task.group].queue
        if queue:
            with self._channel() as channel:
                _publish(channel, queue, body, timestamp=int(time.time()))

    # User endpoints

    def _user_endpoint(self, endpoint_id: str, caller: Caller, options: dict[str, Any], runtime: dict[str, Any]) -> str:
        """Id of the user endpoint of a person and a set of options."""
        key = json.dumps([endpoint_id, caller.identity_id, options], sort_keys=True)
        user_endpoint_id = str(uuid.UUID(hashlib.sha256(key.encode()).hexdigest()[:32]))
        if user_endpoint_id not in self._user_endpoints:
            with self._channel() as channel:
                channel.queue_declare(f"{user_endpoint_id}.tasks", durable=True)
            self._user_endpoints[user_endpoint_id] = _UserEndpoint(endpoint_id, caller, options, runtime)
        return user_endpoint_id

    def _ask_to_start(self, user_endpoint_id: str) -> None:
        """Send the agent the start command; where the user endpoint runs, the agent takes no notice."""
        found = self._user_endpoints[user_endpoint_id]
        found.asked = time.monotonic()
        identity = {"sub": found.caller.identity_id, "username": found.caller.username}
        command = {
            "command": "cmd_start_endpoint",
            "args": [],
            "kwargs": {
                "name": f"uep.{found.endpoint_id}.{user_endpoint_id}",
                "amqp_creds": {
                    "endpoint_id": user_endpoint_id,
                    "task_queue_info": {"connection_url": self._amqp_url, "queue": f"{user_endpoint_id}.tasks"},
                    "result_queue_info": self._publishing("results", user_endpoint_id),
                    "heartbeat_queue_info": self._publishing("heartbeats", user_endpoint_id),
                },
                "user_opts": found.options,
                "user_runtime": found.runtime,
            },
            "globus_effective_identity": found.caller.identity_id,
            "globus_username": found.caller.username,
            "globus_identity_set": [identity],
        }
        with self._channel() as channel:
            _publish(
                channel,
                f"{found.endpoint_id}.commands",
                json.dumps(command).encode(),
                content_type="application/json",
                timestamp=int(time.time()),
                expiration=_COMMAND_EXPIRATION_MS,
            )

    def _watch(self) -> None:
        """Ask again for user endpoints that are not heard while tasks wait for them."""
        while not self._stopping.wait(1.0):
            try:
                with self._lock:
                    waiting = {task.user_endpoint for task in self._tasks.values() if not task.ended}
                    for user_endpoint_id in waiting:
                        found = self._user_endpoints[user_endpoint_id]
                        asked_lately = time.monotonic() - found.asked < _RESTART_INTERVAL_S if found.asked else False
                        if not found.heart.beats() and not asked_lately and self.online(found.endpoint_id):
                            self._ask_to_start(user_endpoint_id)
            except (pika.exceptions.AMQPError, OSError) as error:
                _log.warning("the broker is not to be reached: %r", error)

    # Messages

    def _listen(self) -> None:
        """Take results and heartbeats, over broken connections too."""
        while not self._stopping.is_set():
            try:
                with self._channel() as channel:
                    channel.basic_consume("results", self._on_result)
                    channel.basic_consume("heartbeats", self._on_heartbeat)
                    while not self._stopping.is_set():
                        channel.connection.process_data_events(time_limit=0.2)
            except (pika.exceptions.AMQPError, OSError) as error:
                _log.warning("the broker is not to be reached: %r", error)
                self._stopping.wait(1.0)

    def _on_result(self, channel: BlockingChannel, method: Any, properties: Any, body: bytes) -> None:
        message = _unpack(body)
        if isinstance(message, Result):
            self._end(message, body)
        channel.basic_ack(method.delivery_tag)

    def _on_heartbeat(self, channel: BlockingChannel, method: Any, properties: Any, body: bytes) -> None:
        message = _unpack(body)
        if isinstance(message, EPStatusReport):
            self._hear(str(message.endpoint_id), message.global_state)
        channel.basic_ack(method.delivery_tag)

    def _hear(self, endpoint_id: str, state: dict[str, Any]) -> None:
        with self._lock:
            known = self._endpoints.get(endpoint_id) or self._user_endpoints.get(endpoint_id)
            if known is None:
                return
            failure = state.get("error")
            period = float(state.get("heartbeat_period") or 0.0)  # 0: it is about to end
            alive = period > 0 and state.get("active") is not False and not failure
            known.heart = _Heart(time.monotonic() if alive else 0.0, period or 30.0, state)
            if not failure or _NOT_YET in failure:
                return
            waiting = [key for key, task in self._tasks.items() if task.user_endpoint == endpoint_id and not task.ended]
        for task_id in waiting:
            details = ResultErrorDetails(code="USER_ENDPOINT_START_FAILURE", user_message=failure)
            result = Result(task_id=uuid.UUID(task_id), data=failure, error_details=details)
            self._end(result, messagepack.pack(result))

    def _publishing(self, exchange: str, endpoint_id: str) -> dict[str, Any]:
        """How an agent sends results or heartbeats."""
        return {
            "connection_url": self._amqp_url,
            "queue": exchange,
            "exchange": exchange,
            "queue_publish_kwargs": {
                "exchange": exchange,
                "routing_key": f"{endpoint_id}.{exchange}",
                "mandatory": True,
                "properties": {"delivery_mode": 2},
            },
        }

    @contextlib.contextmanager
    def _channel(self) -> Iterator[BlockingChannel]:
        """A connection for one piece of work: pika's are of one thread each."""
        parameters = pika.URLParameters(self._amqp_url)
        parameters.heartbeat = 0
        connection = pika.BlockingConnection(parameters)
        try:
            channel = connection.channel()
            channel.confirm_delivery()
            yield channel
        finally:
            with contextlib.suppress(pika.exceptions.AMQPError):
                connection.close()


def _publish(channel: BlockingChannel, queue: str, body: bytes, **properties: Any) -> None:
    channel.basic_publish("", queue, body, pika.BasicProperties(delivery_mode=2, **properties), mandatory=True)


def _headers(resources: Mapping[str, Any] | None, serializers: Sequence[str] | None) -> dict[str, Any]:
    headers: dict[str, Any] = {}
    if resources:
        headers["resource_specification"] = json.dumps(resources)
    if serializers:
        headers["result_serializers"] = list(serializers)
    return headers


def _unpack(body: bytes) -> object:
    try:
        return messagepack.unpack(body)
    except (messagepack.InvalidMessageError, ValueError) as error:
        _log.error("a message that cannot be read: %s", error)
        return None


def _plain(details: Mapping[Any, Any] | None) -> dict[str, Any]:
    """Details of a result as JSON."""
    plain: dict[str, Any] = json.loads(json.dumps(details or {}, default=str))
    return plain


def _check_caller(caller: Caller | None) -> Caller:
    if caller is None:
        raise _refusal(401, "Credentials are needed: no token, or one that is not valid")
    if SCOPE not in caller.scopes:
        raise _refusal(403, f"the token lacks the scope {SCOPE}")
    return caller


def _owner(request: Request) -> str:
    return _check_caller(request.caller).identity_id


def _object(body: Any, known: set[str]) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise _refusal(422, "a JSON object is needed")
    if unknown := sorted(set(body) - known):
        raise _refusal(422, f"unknown keys {unknown}; known: {sorted(known)}")
    return body


def _check_packed(code: str) -> None:
    """Workers read `<length>\\n<code>`: `ComputeSerializer.pack_buffers` writes it."""
    length, line, rest = code.partition("\n")
    if not line or not length.isdigit() or int(length) != len(rest):
        raise _refusal(422, "function_code: one packed buffer is needed (ComputeSerializer.pack_buffers([code]))")


def _refusal(status: int, reason: str) -> ServiceError:
    return ServiceError(
        status, {"status": "Failed", "code": status, "error_args": [], "reason": reason, "http_status_code": status}
    )
