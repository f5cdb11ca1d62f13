"""The real Globus Compute agent, on the real broker, behind the Compute web service of this folder."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import globus_sdk
import psutil
import pytest
from facility.agent import Agent, endpoint_package_missing
from facility.broker import Broker, rabbitmq_missing
from facility.compute_service import SCOPE, ComputeService
from facility.services.auth import AuthService
from facility.services.http import Caller, Server, ServiceError
from globus_compute_sdk.serialize import ComputeSerializer, JSONData

from tomopipe.flows.local.packed_task import function_code

_MISSING = rabbitmq_missing() or endpoint_package_missing()

pytestmark = [pytest.mark.slow, pytest.mark.skipif(_MISSING is not None, reason=_MISSING or "")]

_THREAD = {"engine": "thread"}
_PROCESS = {"workers": 1}
_TIMEOUT_S = 90.0
_SERIALIZER = ComputeSerializer(strategy_data=JSONData)


def add(first: int, second: int = 1) -> dict[str, int]:
    import os

    return {"sum": first + second, "pid": os.getpid()}


def fail(reason: str) -> None:
    raise ValueError(f"it failed: {reason}")


def nap(marker: str) -> None:
    import pathlib
    import time

    pathlib.Path(marker).touch()
    time.sleep(300)


def text_of(length: int) -> str:
    return "x" * length


def a_set() -> set[int]:
    return {1, 2}


def environment(names: list[str]) -> list[str | None]:
    import os

    return [os.environ.get(name) for name in names]


_FUNCTIONS = (add, fail, nap, text_of, a_set, environment)


class Stack:
    """Auth, the Compute service, the broker and the agent, with two accounts; the first owns the endpoint."""

    def __init__(self, folder: Path, parts: contextlib.ExitStack) -> None:
        self.folder = folder
        self.broker = parts.enter_context(Broker(folder / "b"))
        self.compute = ComputeService(self.broker.url)
        self.compute.start()
        parts.callback(self.compute.stop)
        auth = AuthService()
        self.server = Server([auth, self.compute], auth.caller)
        self.server.start()
        parts.callback(self.server.stop)
        self.url = self.server.url
        account, self.other_account = auth.add_service_account(), auth.add_service_account()
        self.caller = Caller(account[0], "owner", account[0], frozenset({SCOPE}), {})
        variables = {"TOMOPIPE_HOME": str(folder / "home")}
        self.agent = parts.enter_context(
            Agent(folder / "a", self.url, *account, threads_per_worker=3, environment=variables)
        )
        self.v2, self.v3 = self.clients(account)
        self.functions = {each.__name__: self.register(each) for each in _FUNCTIONS}

    def clients(self, account: tuple[str, str]) -> tuple[globus_sdk.ComputeClientV2, globus_sdk.ComputeClientV3]:
        auth = globus_sdk.ConfidentialAppAuthClient(*account, base_url=self.url)
        authorizer = globus_sdk.ClientCredentialsAuthorizer(auth, SCOPE)
        options: dict[str, Any] = {
            "base_url": self.url,
            "authorizer": authorizer,
            "transport": globus_sdk.transport.RequestsTransport(),
            "retry_config": globus_sdk.transport.RetryConfig(max_retries=0),
        }
        return globus_sdk.ComputeClientV2(**options), globus_sdk.ComputeClientV3(**options)

    def register(self, function: Callable[..., Any], client: globus_sdk.ComputeClientV3 | None = None) -> str:
        code = _SERIALIZER.pack_buffers([function_code(function)])
        document = {"function_name": function.__name__, "function_code": code, "meta": {}}
        function_id: str = (client or self.v3).register_function(document)["function_uuid"]
        return function_id

    def submit(self, name: str, *args: Any, options: dict[str, Any] = _THREAD, **kwargs: Any) -> str:
        """Submit one task, as a flow's Compute action would."""
        tasks = [(self.functions[name], list(args), kwargs)]
        return self.compute.submit_tasks(self.agent.endpoint_id, tasks, options, self.caller)[0]

    def outcome(self, task_id: str) -> dict[str, Any]:
        """Wait for a task."""
        deadline = time.monotonic() + _TIMEOUT_S
        while (found := self.compute.task(task_id))["status"] == "pending":
            assert time.monotonic() < deadline, f"task {task_id} does not end\n{self.agent.logs()[-6000:]}"
            time.sleep(0.05)
        return found

    def run(self, name: str, *args: Any, options: dict[str, Any] = _THREAD, **kwargs: Any) -> dict[str, Any]:
        return self.outcome(self.submit(name, *args, options=options, **kwargs))


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    with contextlib.ExitStack() as parts:
        yield Stack(folder, parts)
    assert processes_of(folder) == []


def processes_of(folder: Path) -> list[str]:
    """Command lines of the processes that belong to a folder: named in their arguments or in their environment."""
    found: list[str] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and any(
                str(folder) in text for text in (*process.cmdline(), *process.environ().values())
            ):
                found.append(" ".join(process.cmdline()))
    return found


def test_clients_run_a_batch(stack: Stack) -> None:
    function_id, endpoint_id = stack.functions["add"], stack.agent.endpoint_id
    packed = [
        _SERIALIZER.pack_buffers([_SERIALIZER.serialize(args), _SERIALIZER.serialize(kwargs)])
        for args, kwargs in (([1], {}), ([2], {"second": 40}))
    ]
    body = {
        "tasks": {function_id: packed},
        "user_endpoint_config": _THREAD,
        "result_serializers": ["globus_compute_sdk.serialize.JSONData"],
    }
    answer = stack.v3.submit(endpoint_id, body)
    first, second = answer["tasks"][function_id]
    assert stack.outcome(first)["status"] == stack.outcome(second)["status"] == "success"
    assert [_SERIALIZER.deserialize(stack.v2.get_task(each)["result"])["sum"] for each in (first, second)] == [2, 42]
    batch = stack.v2.get_task_batch([first, second])["results"]
    assert {key: task["status"] for key, task in batch.items()} == {first: "success", second: "success"}
    group = stack.v2.get_task_group(answer["task_group_id"])
    assert [task["id"] for task in group["tasks"]] == [first, second]
    assert stack.v2.get_endpoint_status(endpoint_id)["status"] == "online"
    assert stack.v2.get_endpoint(endpoint_id)["owner"] == stack.caller.identity_id
    assert stack.v2.get_function(function_id)["function_name"] == "add"


def test_a_flow_gets_json_and_exceptions(stack: Stack) -> None:
    assert stack.run("add", 1, second=2)["result"]["sum"] == 3
    failed = stack.run("fail", "wood")
    assert failed["status"] == "failed"
    assert failed["exception"].rstrip().endswith("ValueError: it failed: wood")
    no_json = stack.run("a_set")
    assert no_json["status"] == "failed"
    assert "All strategies failed" in no_json["exception"]


def test_workers_get_their_environment(stack: Stack) -> None:
    names = ["TOMOPIPE_HOME", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS"]
    assert stack.run("environment", names)["result"] == [str(stack.folder / "home"), "3", "3"]
    processes = stack.run("environment", names, options={"workers": 1, "threads": 2})["result"]
    assert processes == [str(stack.folder / "home"), "2", "2"]


def test_a_result_of_more_than_10_mb_is_refused(stack: Stack) -> None:
    failed = stack.run("text_of", 11 * 1024 * 1024)
    assert failed["status"] == "failed"
    assert "MaxResultSizeExceeded" in failed["exception"]
    assert len(stack.run("text_of", 5_000_000)["result"]) == 5_000_000


def test_the_agent_refuses_unknown_options(stack: Stack) -> None:
    failed = stack.run("add", 1, options={"workers": 99})
    assert failed["status"] == "failed"
    assert "99 is greater than the maximum of 8" in failed["exception"]
    failed = stack.run("add", 1, options={"worker_init": "true"})
    assert "'worker_init' was unexpected" in failed["exception"]


def test_the_service_refuses(stack: Stack) -> None:
    endpoint_id, function_id = stack.agent.endpoint_id, stack.functions["add"]
    code = _SERIALIZER.pack_buffers([function_code(add)])
    arguments = _SERIALIZER.pack_buffers([_SERIALIZER.serialize([1]), _SERIALIZER.serialize({})])
    missing = "00000000-0000-0000-0000-000000000000"
    function = {"function_name": "add", "function_code": code}
    refused: list[tuple[int, str, Callable[[], object]]] = [
        (422, "strings are needed", lambda: stack.v3.register_function({**function, "function_code": {"a": 1}})),
        (422, "pack_buffers", lambda: stack.v3.register_function({**function, "function_code": function_code(add)})),
        (422, "unknown keys", lambda: stack.v3.register_function({**function, "container": "x"})),
        (413, "10000000", lambda: stack.v3.register_function({**function, "function_code": "x" * 10_000_001})),
        (404, missing, lambda: stack.v2.get_function(missing)),
        (404, missing, lambda: stack.v2.get_endpoint_status(missing)),
        (404, missing, lambda: stack.v2.get_task(missing)),
        (404, missing, lambda: stack.v3.submit(missing, {"tasks": {function_id: [arguments]}})),
        (404, missing, lambda: stack.v3.submit(endpoint_id, {"tasks": {missing: [arguments]}})),
        (422, "unknown keys", lambda: stack.v3.submit(endpoint_id, {"tasks": {function_id: [arguments]}, "queue": 1})),
        (413, "10000000", lambda: stack.v3.submit(endpoint_id, {"tasks": {function_id: ["x" * 10_000_001]}})),
        (401, "no token", lambda: globus_sdk.ComputeClientV2(base_url=stack.url).get_function(function_id)),
    ]
    for status, text, ask in refused:
        with pytest.raises(globus_sdk.GlobusAPIError) as caught:
            ask()
        assert (caught.value.http_status, text in caught.value.text) == (status, True), caught.value.text
    with pytest.raises(ServiceError, match="args is a list"):
        stack.compute.submit_tasks(endpoint_id, [(function_id, "1", {})], _THREAD, stack.caller)  # type: ignore[list-item]


def test_functions_are_private_and_can_be_deleted(stack: Stack) -> None:
    v2, v3 = stack.clients(stack.other_account)
    with pytest.raises(globus_sdk.GlobusAPIError) as caught:
        v2.get_function(stack.functions["add"])
    assert caught.value.http_status == 403
    own = stack.register(add, v3)
    v2.delete_function(own)
    with pytest.raises(globus_sdk.GlobusAPIError) as caught:
        v2.get_function(own)
    assert caught.value.http_status == 404


def test_the_agent_runs_tasks_of_its_owner_only(stack: Stack) -> None:
    _, v3 = stack.clients(stack.other_account)
    function_id = stack.register(add, v3)
    arguments = _SERIALIZER.pack_buffers([_SERIALIZER.serialize([1]), _SERIALIZER.serialize({})])
    answer = v3.submit(stack.agent.endpoint_id, {"tasks": {function_id: [arguments]}, "user_endpoint_config": _THREAD})
    failed = stack.outcome(answer["tasks"][function_id][0])
    assert failed["status"] == "failed"
    assert "untrusted identity" in failed["exception"]


def test_a_task_fails_with_its_worker(stack: Stack, tmp_path: Path) -> None:
    before = stack.run("add", 1, options=_PROCESS)["result"]["pid"]
    task_id = stack.submit("nap", str(tmp_path / "began"), options=_PROCESS)
    wait_until((tmp_path / "began").exists)
    assert before in stack.agent.worker_pids()
    os.kill(before, signal.SIGKILL)
    failed = stack.outcome(task_id)
    assert failed["status"] == "failed"
    assert "WorkerLost" in failed["exception"]
    assert stack.run("add", 1, options=_PROCESS)["result"]["pid"] != before


def test_a_user_endpoint_that_was_killed_comes_back(stack: Stack) -> None:
    pid = stack.run("add", 1)["result"]["pid"]  # a thread of the user endpoint
    os.kill(pid, signal.SIGKILL)
    assert stack.run("add", 1)["result"]["pid"] != pid


def test_an_agent_that_was_killed_can_be_started_again(stack: Stack) -> None:
    endpoint_id, pid = stack.agent.endpoint_id, stack.run("add", 1)["result"]["pid"]
    before = stack.agent.pids()
    stack.agent.kill()
    assert not [each for each in before if psutil.pid_exists(each)]
    assert stack.agent.pids() == []
    waiting = stack.submit("add", 4)  # finds no agent, and waits for one
    stack.agent.restart()
    assert stack.agent.endpoint_id == endpoint_id
    assert stack.outcome(waiting)["result"]["sum"] == 5
    assert stack.run("add", 5)["result"]["pid"] != pid


def test_a_stopped_agent_is_offline_at_once(stack: Stack) -> None:
    stack.agent.stop()
    assert stack.v2.get_endpoint_status(stack.agent.endpoint_id)["status"] == "offline"
    stack.agent.start()
    assert stack.v2.get_endpoint_status(stack.agent.endpoint_id)["status"] == "online"


def test_tasks_survive_the_broker(stack: Stack) -> None:
    stack.broker.kill()
    stack.broker.start()
    assert stack.run("add", 6)["result"]["sum"] == 7


def test_the_stand_in_made_no_mistake(stack: Stack) -> None:
    assert stack.server.crashes == []


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
