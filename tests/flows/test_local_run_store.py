"""The run store: what was recorded is there, whoever reads it and whoever died."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tomopipe.flows.local.actions import ActionContext, ActionResult, JsonObject, Progress
from tomopipe.flows.local.interpreter import run_flow
from tomopipe.flows.local.run_store import RunStore
from tomopipe.functions.errors import InputError


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "state" / "runs.sqlite")


def create(store: RunStore, scan: str = "/data/tooth.h5") -> str:
    return store.create_run(label="tooth", scan=scan, input={"input": {"a": 1}}, definition_digest="d1", tags=["demo"])


def test_a_run_is_recorded(store: RunStore, tmp_path: Path) -> None:
    run_id = create(store)
    run = store.get_run(run_id)
    assert (run.label, run.tags, run.scan, run.input) == ("tooth", ("demo",), "/data/tooth.h5", {"input": {"a": 1}})
    assert (run.status, run.finished, run.run_directory, run.process) == ("ACTIVE", None, None, os.getpid())
    store.set_run_directory(run_id, tmp_path / "run", "abc123")
    store.finish(run_id, "FAILED", "it broke")
    run = store.get_run(run_id)
    assert (run.status, run.error, run.run_directory, run.recipe_id) == (
        "FAILED",
        "it broke",
        str(tmp_path / "run"),
        "abc123",
    )
    assert run.finished is not None and run.started <= run.finished
    assert run.started.endswith("+00:00") and "T" in run.started


def test_states_and_events_keep_their_order(store: RunStore) -> None:
    run_id, other = create(store), create(store)
    store.state_started(run_id, "TransferScan", "Action")
    store.state_progress(run_id, "TransferScan", Progress(5, 10, "byte"))
    store.state_finished(run_id, "TransferScan", "SUCCEEDED", {"files": 1})
    store.state_started(run_id, "Again", "Pass")
    store.state_started(other, "Again", "Pass")
    store.state_finished(run_id, "Again", "SUCCEEDED", {})
    store.state_started(run_id, "Again", "Pass")
    store.event(run_id, "FlowStarted", "started", {"n": 1})
    store.event(run_id, "Note", "noted", {})
    first, *again = store.states(run_id)
    assert (first.name, first.status, first.done, first.total, first.unit) == (
        "TransferScan",
        "SUCCEEDED",
        5,
        10,
        "byte",
    )
    assert first.details == {"files": 1} and first.finished is not None
    assert [(state.name, state.status) for state in again] == [("Again", "SUCCEEDED"), ("Again", "ACTIVE")]
    assert [(event.code, event.details) for event in store.events(run_id)] == [("FlowStarted", {"n": 1}), ("Note", {})]
    store.finish(run_id, "CANCELLED")
    assert store.states(run_id)[-1].status == "CANCELLED"
    assert store.states(other)[-1].status == "ACTIVE"


def test_runs_are_found_by_the_beginning_of_their_id(store: RunStore) -> None:
    ids = [create(store) for _ in range(20)]
    assert store.get_run(ids[3][:13]).run_id == ids[3]
    assert store.get_run(ids[3].upper()).run_id == ids[3]
    crowded = next(char for char in "0123456789abcdef" if sum(run_id.startswith(char) for run_id in ids) > 1)
    with pytest.raises(InputError, match="several runs begin so"):
        store.get_run(crowded)
    for unknown in ("", "zz", "%"):
        with pytest.raises(InputError, match="there is no such run"):
            store.get_run(unknown)


def test_list_runs(store: RunStore) -> None:
    first, second, third = create(store), create(store, "/data/foam.h5"), create(store)
    store.finish(second, "SUCCEEDED")
    assert [run.run_id for run in store.list_runs()] == [third, second, first]
    assert [run.run_id for run in store.list_runs(1)] == [third]
    assert [run.run_id for run in store.list_runs(status="SUCCEEDED")] == [second]
    assert [run.run_id for run in store.list_runs(scan="/data/tooth.h5")] == [third, first]
    assert store.list_runs(status="INTERRUPTED") == []
    with pytest.raises(InputError, match="'DONE' is not one of ACTIVE"):
        store.list_runs(status="DONE")


def test_an_empty_store(store: RunStore) -> None:
    assert store.list_runs() == []


def test_run_flow_records_itself(store: RunStore) -> None:
    class Provider:
        def run(self, body: JsonObject, context: ActionContext) -> ActionResult:
            for done in range(4):
                context.report(Progress(done, 3, "task"))
            return ActionResult(
                "FAILED", {"results": [{"task_id": "t", "exception": "Traceback\nValueError: bad slab"}]}
            )

    definition = {"StartAt": "Work", "States": {"Work": {"Type": "Action", "ActionUrl": "u", "End": True}}}
    run_id = create(store)
    run_flow(definition, {}, {}, {"u": Provider()}, [store.observer(run_id)], run_id=run_id)
    run = store.get_run(run_id)
    assert (run.status, run.error) == ("FAILED", "Work failed: ValueError: bad slab")
    (state,) = store.states(run_id)
    assert (state.status, state.done, state.total, state.unit) == ("FAILED", 3, 3, "task")
    assert state.details["exception"] == "ActionFailedException"
    codes = [event.code for event in store.events(run_id)]
    assert codes == ["FlowStarted", "ActionStarted", "ActionFailed", "FlowFailed"]


WRITER = """
import sys, time
from pathlib import Path
from tomopipe.flows.local.run_store import RunStore
store = RunStore(Path(sys.argv[1]))
run_id = store.create_run(label="x", scan="s", input={}, definition_digest="d")
store.state_started(run_id, "Work", "Action")
print(run_id, flush=True)
while True:
    store.event(run_id, "Note", "n", {"text": "x" * 1000})
"""


def test_a_killed_writer_shows_as_interrupted(store: RunStore) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(store.path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        run_id = writer.stdout.readline().strip()
        assert store.get_run(run_id).status == "ACTIVE"
        while len(store.events(run_id)) < 5:
            pass
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    run = store.get_run(run_id)
    assert run.status == "INTERRUPTED"
    assert [state.status for state in store.states(run_id)] == ["INTERRUPTED"]
    assert [found.run_id for found in store.list_runs(status="INTERRUPTED")] == [run_id]
    assert store.list_runs(status="ACTIVE") == []
    assert len(store.events(run_id)) >= 5
    with sqlite3.connect(store.path) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()
    assert create(store)


def test_a_reused_process_number_is_not_the_run(store: RunStore) -> None:
    run_id = create(store)
    with sqlite3.connect(store.path) as database:
        database.execute("UPDATE runs SET process_started = ?", (psutil.Process().create_time() - 100,))
    database.close()
    assert store.get_run(run_id).status == "INTERRUPTED"


def test_a_run_on_another_machine_is_not_judged(store: RunStore) -> None:
    run_id = create(store)
    with sqlite3.connect(store.path) as database:
        database.execute("UPDATE runs SET host = 'elsewhere', process = 999999999")
    database.close()
    assert store.get_run(run_id).status == "ACTIVE"


def test_many_at_once(store: RunStore) -> None:
    def work(_: int) -> list[int]:
        own = RunStore(store.path)
        run_id = create(own)
        for number in range(10):
            own.event(run_id, "Note", "n", {"number": number})
            own.list_runs()
        own.finish(run_id, "SUCCEEDED")
        return [event.details["number"] for event in own.events(run_id)]

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(work, range(6))) == [list(range(10))] * 6
    assert [run.status for run in store.list_runs()] == ["SUCCEEDED"] * 6


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be opened as a database"):
        RunStore(tmp_path / "file" / "runs.sqlite").list_runs()
