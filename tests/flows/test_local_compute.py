"""The Compute action: tasks travel as on the service, and the workers stop when told, or when anything dies."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tomopipe.flows.local import packed_task, parsl_pool
from tomopipe.flows.local.actions import (
    ActionContext,
    ActionResult,
    ActionTimeout,
    ActionUnableToRun,
    JsonObject,
    Progress,
    RunCancelled,
    RunObserver,
    explain,
)
from tomopipe.flows.local.compute import ParslCompute
from tomopipe.flows.local.interpreter import run_flow
from tomopipe.functions.errors import InputError, ParameterError


def add(a, b=10):
    """A task that computes."""
    return {"sum": a + b}


def echo(*args, **kwargs):
    return {"args": list(args), "kwargs": kwargs}


def divide(a: int, b: int) -> float:
    return a / b


def leave():
    import sys

    sys.exit(3)


def about_the_worker():
    import os
    import threading

    return {
        "pid": os.getpid(),
        "thread": threading.current_thread().name,
        "threads": [os.environ.get(name) for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS")],
        "rank": os.environ.get("PARSL_WORKER_RANK"),
    }


def run_for_ever(folder):
    """Note the process, then compute until somebody stops it."""
    import os
    import pathlib
    import time

    pathlib.Path(folder, f"started-{os.getpid()}").touch()
    while True:
        time.sleep(0.01)


def finish_second_time(folder):
    import os
    import pathlib
    import time

    first_time = not list(pathlib.Path(folder).glob("started-*"))
    pathlib.Path(folder, f"started-{os.getpid()}").touch()
    while first_time:
        time.sleep(0.01)
    return "done"


def sleep(seconds):
    import time

    time.sleep(seconds)


def fail_once(folder):
    """Kill the own worker at the first try."""
    import os
    import pathlib
    import signal

    mark = pathlib.Path(folder, "tried")
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def fail_always():
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


def give(kind):
    return {
        "set": {1, 2},
        "nan": float("nan"),
        "large": "x" * 3000,
        "tuple": (1, 2),
    }[kind]


FUNCTIONS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        add,
        echo,
        divide,
        leave,
        about_the_worker,
        run_for_ever,
        sleep,
        fail_once,
        fail_always,
        finish_second_time,
        give,
    )
}


class Notes(RunObserver):
    def __init__(self) -> None:
        self.reports: list[tuple[int, int, str]] = []
        self.events: list[tuple[str, JsonObject]] = []

    def progress(self, state: str, progress: Progress) -> None:
        self.reports.append((progress.done, progress.total, progress.unit))

    def event(self, code: str, description: str, details: JsonObject) -> None:
        self.events.append((code, details))


def request(function: str, *calls: JsonObject, **fields: Any) -> JsonObject:
    return {"endpoint_id": "here", "tasks": [{"function_id": function, **call} for call in calls or ({},)], **fields}


def run(compute: ParslCompute, body: JsonObject, **options: Any) -> ActionResult:
    return compute.run(body, ActionContext("Work", **options))


def outputs(result: ActionResult) -> list[Any]:
    return [task["output"] for task in result.details["results"]]


def exceptions(result: ActionResult) -> list[str]:
    return [task["exception"] for task in result.details["results"] if "exception" in task]


def wait_for(condition: Callable[[], Any], seconds: float = 30) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)
    return found


@pytest.fixture
def threads(tmp_path: Path) -> Iterator[ParslCompute]:
    with ParslCompute(1, tmp_path / "parsl", FUNCTIONS) as compute:
        yield compute


def test_results_keep_their_order_and_progress_is_told(threads: ParslCompute) -> None:
    notes = Notes()
    body = request("add", {"kwargs": {"a": 1}}, {"args": [2, 3]}, {"args": 5}, {"args": [1], "kwargs": {"b": 1}})
    result = run(threads, body, observer=notes)
    assert result.status == "SUCCEEDED"
    assert outputs(result) == [{"sum": 11}, {"sum": 5}, {"sum": 15}, {"sum": 2}]
    assert len({task["task_id"] for task in result.details["results"]}) == 4
    assert notes.reports[0] == (0, 4, "task") and notes.reports[-1] == (4, 4, "task")
    assert sorted(notes.reports) == notes.reports


def test_arguments_and_results_are_json(threads: ParslCompute) -> None:
    assert outputs(run(threads, request("echo", {"args": [1, None], "kwargs": {"x": {"y": [1.5]}}}))) == [
        {"args": [1, None], "kwargs": {"x": {"y": [1.5]}}}
    ]
    assert outputs(run(threads, request("give", {"args": ["tuple"]}))) == [[1, 2]]
    for kind in ("set", "nan"):
        result = run(threads, request("give", {"args": [kind]}))
        assert result.status == "FAILED"
        assert "the function's result is not JSON" in exceptions(result)[0]


def test_a_failing_task_fails_the_action_and_the_others_keep_their_outputs(threads: ParslCompute) -> None:
    notes = Notes()
    result = run(threads, request("divide", {"args": [1, 0]}, {"args": [1, 2]}), observer=notes)
    assert result.status == "FAILED"
    failed, fine = result.details["results"]
    assert failed["exception"].startswith("Traceback (most recent call last)")
    assert failed["exception"].endswith("in divide\nZeroDivisionError: division by zero\n")
    assert "packed_task" not in failed["exception"]
    assert fine["output"] == 0.5
    assert notes.events == [
        ("TaskFailed", {"state_name": "Work", "task_id": failed["task_id"], "exception": failed["exception"]})
    ]
    cause = {"state_name": "Work", "details": result.details}
    assert explain("ActionFailedException", cause) == "Work failed: ZeroDivisionError: division by zero"


def test_many_failures_stay_small(threads: ParslCompute) -> None:
    result = run(threads, request("divide", *[{"args": [1, 0]}] * 10))
    assert [len(text.splitlines()) > 1 for text in exceptions(result)] == [True] * 3 + [False] * 7
    assert exceptions(result)[-1] == "ZeroDivisionError: division by zero"


def test_a_task_that_exits_is_a_failed_task(threads: ParslCompute) -> None:
    assert exceptions(run(threads, request("leave")))[0].endswith("SystemExit: 3\n")


def test_size_limits(threads: ParslCompute, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_task, "MAX_RESULT_BYTES", 2000)
    result = run(threads, request("give", {"args": ["large"]}))
    assert "result takes 3002 bytes, the limit is 2000" in exceptions(result)[0]
    monkeypatch.setattr(packed_task, "MAX_PAYLOAD_BYTES", 2000)
    result = run(threads, request("echo", {"args": ["x" * 3000]}, {"args": ["x"]}))
    assert result.status == "FAILED"
    assert "tasks[0]: the task takes" in result.details["results"][0]["exception"]
    assert result.details["results"][1]["output"] == {"args": ["x"], "kwargs": {}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"endpoint_id": None}, "endpoint_id"),
        ({"tasks": []}, "tasks: a list of at least one task"),
        ({"tasks": "add"}, "tasks: a list"),
        ({"tasks": ["add"]}, r"tasks\[0\]: an object"),
        ({"tasks": [{"function_id": "absent"}]}, r"tasks\[0\].function_id: 'absent' is not registered; known: .*add"),
        ({"tasks": [{"function_id": "add", "kwargs": [1]}]}, r"tasks\[0\].kwargs"),
    ],
)
def test_a_bad_request_is_refused(threads: ParslCompute, change: JsonObject, message: str) -> None:
    with pytest.raises(ActionUnableToRun, match=message):
        run(threads, {**request("add", {"args": [1]}), **change})


def test_only_functions_that_stand_alone(tmp_path: Path) -> None:
    def nested(x: int) -> int:
        return x

    for function in (nested, lambda: 1, len, decorated, default_from_outside):
        with pytest.raises(InputError, match="its source text does not stand alone"):
            ParslCompute(1, tmp_path, {"f": function})


@functools.cache
def decorated() -> None:
    """Its decorator is a name that a worker does not know."""


def default_from_outside(x: Any = FUNCTIONS) -> None:
    """Its default is a name that a worker does not know."""


def test_no_workers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="at least 1 worker"):
        ParslCompute(0, tmp_path, {})
    with pytest.raises(ParameterError, match="at least 1 worker"):
        ParslCompute(1, tmp_path, {}, threads_per_worker=0)


def test_parsl_is_loaded_with_the_first_task(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tomopipe.flows.local.compute import ParslCompute\n"
        "ParslCompute(1, Path('x'), {}).close(); assert 'parsl' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        ParslCompute(1, tmp_path / "file" / "parsl", FUNCTIONS) as compute,
        pytest.raises(ActionUnableToRun, match="the workers cannot be started"),
    ):
        run(compute, request("add", {"args": [1]}))


def test_a_thread_stops_in_time_and_is_replaced(threads: ParslCompute, tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(ActionTimeout):
        run(threads, request("run_for_ever", *[{"args": [str(tmp_path)]}] * 3), deadline=started + 0.5)
    assert time.monotonic() - started < 5
    assert outputs(run(threads, request("add", {"args": [1]}))) == [{"sum": 11}]


def test_a_thread_stops_when_the_run_is_cancelled(threads: ParslCompute, tmp_path: Path) -> None:
    cancel = threading.Event()
    threading.Timer(0.3, cancel.set).start()
    before = threading.active_count()
    with pytest.raises(RunCancelled):
        run(threads, request("run_for_ever", {"args": [str(tmp_path)]}), cancel=cancel)
    wait_for(lambda: threading.active_count() <= before, 5)


def test_native_code_does_not_hold_up_the_stop(threads: ParslCompute, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsl_pool, "_STOP_TIMEOUT_S", 0.2)
    started = time.monotonic()
    with pytest.raises(ActionTimeout):
        run(threads, request("sleep", {"args": [3.0]}), deadline=started + 0.2)
    assert time.monotonic() - started < 2
    wait_for(lambda: not [thread for thread in threading.enumerate() if thread.name == "tomopipe-worker"], 5)


def test_nothing_is_left_of_parsl(tmp_path: Path) -> None:
    from parsl.dataflow.dflow import DataFlowKernelLoader

    before = set(threading.enumerate())
    with ParslCompute(1, tmp_path / "parsl", FUNCTIONS) as compute:
        run(compute, request("add", {"args": [1]}))
        assert outputs(run(compute, request("about_the_worker")))[0]["pid"] == os.getpid()
    assert not [thread for thread in set(threading.enumerate()) - before if thread.is_alive()]
    assert DataFlowKernelLoader._dfk is None
    compute.close()


def test_ctrl_c_in_a_flow_ends_the_task(threads: ParslCompute, tmp_path: Path) -> None:
    state = {"Type": "Action", "ActionUrl": "u", "InputPath": "$.body", "End": True}
    body = {"body": request("run_for_ever", {"args": [str(tmp_path)]})}

    def interrupt() -> None:
        wait_for(lambda: list(tmp_path.glob("started-*")))
        signal.raise_signal(signal.SIGINT)

    threading.Thread(target=interrupt).start()
    outcome = run_flow({"StartAt": "Work", "States": {"Work": state}}, {}, body, {"u": threads})
    assert outcome.status == "CANCELLED"
    assert not [thread for thread in threading.enumerate() if thread.name == "tomopipe-worker"]


# Worker processes: each of these starts a HighThroughputExecutor, some seconds of start-up.


def parsl_processes(pid: int) -> list[psutil.Process]:
    """Processes that work for a run: its interchange (a child, which changes its title) and what its guards guard."""
    found = []
    for process in psutil.process_iter(["cmdline", "ppid"]):
        command = process.info["cmdline"] or []
        guarded = "tomopipe.flows.local.guard" in command and str(pid) in command
        if guarded or (process.info["ppid"] == pid and "interchange" in " ".join(command)):
            with contextlib.suppress(psutil.NoSuchProcess):
                found += [process, *process.children(recursive=True)]
    return living(found)


def living(processes: list[psutil.Process]) -> list[psutil.Process]:
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[ParslCompute]:
    with ParslCompute(2, tmp_path / "a folder's parsl", FUNCTIONS) as compute:
        yield compute
    assert parsl_processes(os.getpid()) == []


@pytest.mark.slow
def test_processes(processes: ParslCompute) -> None:
    result = run(processes, request("about_the_worker", *[{}] * 8))
    workers = outputs(result)
    assert {worker["pid"] for worker in workers}.isdisjoint({os.getpid()})
    assert {worker["rank"] for worker in workers} <= {"0", "1"}
    cores = str(max(1, len(os.sched_getaffinity(0)) // 2))
    assert all(worker["threads"] == [cores, cores] for worker in workers)
    assert exceptions(run(processes, request("divide", {"args": [1, 0]})))[0].endswith("division by zero\n")
    assert len(parsl_processes(os.getpid())) >= 5


@pytest.mark.slow
def test_a_lost_worker_is_replaced_and_its_task_tried_once_more(processes: ParslCompute, tmp_path: Path) -> None:
    pid = outputs(run(processes, request("fail_once", {"args": [str(tmp_path)]})))[0]
    assert pid != os.getpid()
    result = run(
        processes,
        request("fail_always", {}) | {"tasks": [{"function_id": "fail_always"}, {"function_id": "add", "args": [1]}]},
    )
    assert result.status == "FAILED"
    assert result.details["results"][1]["output"] == {"sum": 11}
    assert "the worker of this task was lost, also at the second try" in exceptions(result)[0]
    assert outputs(run(processes, request("add", {"args": [1]}))) == [{"sum": 11}]


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["interchange", "process_worker_pool"])
def test_when_parsl_itself_is_killed_it_is_started_anew(processes: ParslCompute, tmp_path: Path, victim: str) -> None:
    def kill() -> None:
        wait_for(lambda: list(tmp_path.glob("started-*")))
        (process,) = [p for p in parsl_processes(os.getpid()) if any(victim in part for part in p.cmdline())]
        process.kill()

    threading.Thread(target=kill).start()
    result = run(processes, request("finish_second_time", {"args": [str(tmp_path)]}), deadline=time.monotonic() + 60)
    assert outputs(result) == ["done"]


@pytest.mark.slow
def test_idle_workers_that_die_do_not_block_the_others(processes: ParslCompute) -> None:
    run(processes, request("add", {"args": [1]}))
    for worker in [p for p in parsl_processes(os.getpid()) if "spawn_main" in " ".join(p.cmdline())][-2:]:
        worker.kill()
    result = run(processes, request("sleep", *[{"args": [0.2]}] * 4), deadline=time.monotonic() + 60)
    assert result.status == "SUCCEEDED"


@pytest.mark.slow
def test_cancel_and_timeout_end_the_processes(processes: ParslCompute, tmp_path: Path) -> None:
    cancel, ended = threading.Event(), []

    def give_up() -> None:
        wait_for(lambda: len(list(tmp_path.glob("started-*"))) == 2)
        ended.append(time.monotonic())
        cancel.set()

    threading.Thread(target=give_up).start()
    body = request("run_for_ever", *[{"args": [str(tmp_path)]}] * 4)
    with pytest.raises(RunCancelled):
        run(processes, body, cancel=cancel)
    assert time.monotonic() - ended[0] < 5
    assert parsl_processes(os.getpid()) == []
    with pytest.raises(ActionTimeout):
        run(processes, body, deadline=time.monotonic() + 4)
    assert parsl_processes(os.getpid()) == []


DRIVER = """
import sys
from pathlib import Path
from tomopipe.flows.local.actions import ActionContext
from tomopipe.flows.local.compute import ParslCompute
from tomopipe.flows.local.interpreter import run_flow

def run_for_ever(folder):
    import os, pathlib
    pathlib.Path(folder, f"started-{os.getpid()}").touch()
    while True:
        pass

if __name__ == "__main__":
    folder, workers = sys.argv[1:]
    state = {"Type": "Action", "ActionUrl": "u", "InputPath": "$.body", "End": True, "ResultPath": "$.r"}
    tasks = [{"function_id": "f", "args": [folder]}] * 3
    with ParslCompute(int(workers), Path(folder, "parsl"), {"f": run_for_ever}) as compute:
        outcome = run_flow({"StartAt": "W", "States": {"W": state}}, {}, {"body": {"endpoint_id": "e", "tasks": tasks}},
                           {"u": compute})
    print(outcome.status)
"""


def start_driver(tmp_path: Path, workers: int) -> subprocess.Popen[str]:
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    driver = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path), str(workers)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for(lambda: driver.poll() is not None or len(list(tmp_path.glob("started-*"))) == workers, 60)
    assert driver.poll() is None
    return driver


@pytest.mark.slow
def test_a_killed_run_leaves_no_process(tmp_path: Path) -> None:
    with start_driver(tmp_path, 2) as driver:
        workers = parsl_processes(driver.pid)
        assert len(workers) >= 5
        driver.kill()
        driver.wait()
        wait_for(lambda: not living(workers), 5)
        assert not parsl_processes(driver.pid)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_on_the_terminal_ends_everything(tmp_path: Path, workers: int) -> None:
    with start_driver(tmp_path, workers) as driver:
        parsl = parsl_processes(driver.pid)
        os.killpg(driver.pid, signal.SIGINT)
        out, err = driver.communicate(timeout=8)
        assert (out, err, driver.returncode) == ("CANCELLED\n", "", 0)
        wait_for(lambda: not living(parsl), 3)
