"""What the client works out by itself: tags, labels, manifests, times, and what the service's documents say of a run."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import traceback
import types
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from parsl.executors.errors import BadStateException
from parsl.executors.high_throughput.errors import ManagerLost, WorkerLost
from parsl.jobs.error_handlers import _get_error
from parsl.jobs.states import JobState, JobStatus

from tomopipe.flows.client import last_known
from tomopipe.flows.found_runs import error_of, find_run
from tomopipe.flows.local.actions import explain, is_withheld, reason
from tomopipe.flows.local.compute import _lost
from tomopipe.flows.local.run import run_store
from tomopipe.flows.local.run_store import RunRecord
from tomopipe.flows.manifest import read_manifest
from tomopipe.flows.service_commands import parse_since
from tomopipe.flows.service_run import (
    LABEL_MAX,
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
from tomopipe.flows.submissions import SubmissionStore, submission_store
from tomopipe.flows.tools.common import failed_state, failure_states
from tomopipe.functions.errors import InputError, ParameterError

RUN, FLOW = str(uuid.uuid4()), str(uuid.uuid4())
BODY = {
    "input": {
        "scan": {"id": str(uuid.uuid4()), "path": "/raw/tooth.h5"},
        "scan_id": "tooth",
        "processing": {"id": str(uuid.uuid4()), "path": "/results"},
        "parameters": {"reconstruction": {"center": 80.0}},
        "version": "0.1.0",
        "functions_digest": "sha256:" + "0" * 64,
        "inspect_function_id": str(uuid.uuid4()),
    }
}


def run_document(status: str, details: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "run_id": RUN, "flow_id": FLOW, "status": status, "details": details, "start_time": "2026-11-22T10:00:00+00:00",
        "label": "tooth", "tags": ["tomopipe", "scan:tooth", "request:0123456789abcdef", "mine"], **more,
    }  # fmt: skip


def entry(code: str, second: int, **details: Any) -> dict[str, Any]:
    return {"time": f"2026-11-22T10:00:{second:02d}+00:00", "code": code, "description": code, "details": details}


INSPECTED = {"details": {"results": [{"output": {"relative": "tooth/abc123", "run": "/machine/tooth/abc123"}}]}}
LOG = [
    entry("FlowStarted", 0, input=BODY),
    entry("ActionStarted", 1, state_name="TransferScan", state_type="Action", input={"DATA": []}),
    entry("ActionCompleted", 2, state_name="TransferScan", state_type="Action", output={"status": "SUCCEEDED"}),
    entry("ActionStarted", 3, state_name="Inspect", state_type="Action", input={"tasks": [{}]}),
    entry("ActionCompleted", 4, state_name="Inspect", state_type="Action", output=INSPECTED),
    entry("ActionStarted", 5, state_name="Reconstruct", state_type="Action", input={"tasks": [{}, {}, {}]}),
]


def test_the_digest_of_a_request_is_of_what_was_asked_for() -> None:
    digest = request_digest(BODY)
    assert len(digest) == 16 and int(digest, 16) >= 0
    newer = {"version": "0.2.0", "functions_digest": "sha256:" + "1" * 64, "inspect_function_id": str(uuid.uuid4())}
    assert request_digest({"input": {**BODY["input"], **newer}}) == digest
    assert request_digest({"input": dict(reversed(BODY["input"].items()))}) == digest
    with_what = {
        "compute_endpoint": RUN, "user_endpoint_config": {"queue": "x"}, "search_index": RUN, "results_url": "https://x",
        "execution": {"slab": 8},
    }  # fmt: skip
    assert request_digest({"input": {**BODY["input"], **with_what}}) == digest
    for asked in (
        {"parameters": {"reconstruction": {"center": 80.5}}},
        {"visible_to": ["public"]},
        {"skip": ["denoise"]},
    ):
        assert request_digest({"input": {**BODY["input"], **asked}}) != digest


def test_tags_are_what_a_run_is_found_by() -> None:
    tags = run_tags("scan_1", "0123456789abcdef", ["  beam   time ", "", "mine", "mine"])
    assert tags == ["tomopipe", "scan:scan_1", "request:0123456789abcdef", "beam time", "mine"]
    assert own_tags([*tags, "retry"]) == ["beam time", "mine"]
    long = [f"{'x' * 95}{number:05d}" for number in range(3)]
    assert all(len(tag) <= LABEL_MAX for name in long for tag in run_tags(name, "0" * 16))
    assert len({run_tags(name, "0" * 16)[1] for name in long}) == 3


def test_a_long_label_stays_distinct() -> None:
    assert shortened("x" * 64) == "x" * 64
    first, second = shortened("x" * 64 + "1"), shortened("x" * 64 + "2")
    assert first != second and len(first) == len(second) == 64 and first.startswith("x" * 55)


def test_a_run_is_read_from_its_document_and_log() -> None:
    run = read_run(run_document("ACTIVE", {"code": "ActionStarted", "state_name": "Reconstruct"}), "here", LOG)
    assert (run.status, run.scan_id, run.state, run.run_directory) == (
        "ACTIVE", "tooth", "Reconstruct", "/results/tooth/abc123",
    )  # fmt: skip
    assert run.input == BODY and run.request == "0123456789abcdef" and not run.ended and run.finished is None
    assert run.url == f"https://app.globus.org/runs/{RUN}"


def test_without_a_log_the_tags_and_the_output_tell() -> None:
    assert read_run(run_document("ACTIVE", {}), "here").scan_id == "tooth"
    output = {**BODY, "Inspect": INSPECTED}
    ended = run_document(
        "SUCCEEDED", {"code": "FlowSucceeded", "output": output}, completion_time="2026-11-22T11:00:00Z"
    )
    run = read_run(ended, "here")
    assert (run.input, run.run_directory, run.finished, run.error) == (
        BODY, "/results/tooth/abc123", "2026-11-22T11:00:00Z", None,
    )  # fmt: skip


def test_a_failed_run_says_what_its_action_said() -> None:
    cause = {
        "state_name": "Reconstruct",
        "details": {"results": [{"exception": "Traceback\n  x\nmod.StageError: rows 8-16: gone"}]},
    }
    details = {"code": "FlowFailed", "error": "ActionFailedException", "cause": json.dumps(cause)}
    assert read_run(run_document("FAILED", details), "here").error == "Reconstruct failed: StageError: rows 8-16: gone"
    nested = {"code": "FlowFailed", "description": "failed", "details": {"error": "States.Runtime", "cause": "no path"}}
    assert read_run(run_document("FAILED", nested), "here").error == "States.Runtime: no path"
    bare, last = {"code": "FlowFailed"}, entry("ActionFailed", 6, state_name="Inspect", exception="E", cause="because")
    assert read_run(run_document("FAILED", bare), "here", [*LOG, last]).error == "E: because"


def test_a_cancelled_run_is_not_shown_as_failed() -> None:
    for code in ("FlowCanceled", "FlowCancelled"):
        run = read_run(run_document("FAILED", {"code": code}), "here")
        assert run.status == "CANCELLED" and run.ended and run.error is None


def test_an_inactive_run_names_the_consent_that_it_lacks() -> None:
    scope = f"https://auth.globus.org/scopes/{FLOW}/flow_x_user[urn:globus:auth:scope:transfer.api.globus.org:all]"
    details = {
        "code": "ConsentRequired", "description": "Missing required data_access consent", "required_scope": scope,
        "state_name": "TransferScan",
    }  # fmt: skip
    document = run_document("INACTIVE", details)
    run = read_run(document, "here")
    needed = needed_authorization(document)
    assert needed is not None and needed.required_scopes == [scope] and needed_session(needed) == ""
    assert run.consent is not None and "TransferScan" in run.consent and scope in run.consent
    assert not run.ended
    assert needed_authorization(run_document("INACTIVE", {"code": "Other"})) is None and needed_session(None) == ""


SESSION = {
    "session_message": "Log in with your laboratory's account", "session_required_single_domain": ["lab.example"],
    "session_required_identities": [RUN], "session_required_policies": [FLOW], "session_required_mfa": True,
}  # fmt: skip


@pytest.mark.parametrize("depth", ["run", "details", "action"])
def test_an_inactive_run_names_the_session_that_it_lacks(depth: str) -> None:
    asked = {"code": "AuthorizationRequired", "authorization_parameters": SESSION}
    around: dict[str, dict[str, Any]] = {
        "run": asked,
        "details": {"code": "ActionInactive", "details": asked},
        "action": {"code": "ActionInactive", "action_statuses": [{"details": {}}, {"details": asked}]},
    }
    document = run_document("INACTIVE", around[depth])
    needed = needed_authorization(document)
    assert needed is not None and needed.session_required_mfa and not needed.required_scopes
    for word in ("lab.example", RUN, FLOW, "second factor"):
        assert word in needed_session(needed)
    consent = read_run(document, "here").consent or ""
    assert consent.startswith("Log in with your laboratory's account") and "an identity of lab.example" in consent


TRACEBACK = """Traceback (most recent call last):
  File "/x/worker.py", line 3, in work
    raise StageError(message)
tomopipe.functions.errors.StageError: rows 8-16: nothing is finite
Projections that are not:
- 3
- 4
"""


@pytest.mark.parametrize(
    ("exception", "line"),
    [
        (TRACEBACK, "tomopipe.functions.errors.StageError: rows 8-16: nothing is finite"),
        (
            f"{TRACEBACK}\nDuring handling of the above exception, another exception occurred:\n\n"
            + TRACEBACK.replace("nothing is finite", "second"),
            "tomopipe.functions.errors.StageError: rows 8-16: second",
        ),
        ("Traceback (most recent call last):\n  File x\nKeyboardInterrupt\n", "KeyboardInterrupt"),
        ("Traceback (most recent call last):\n  File x\nmodule.Odd: said\n    more\n", "module.Odd: said"),
        ("Task 3 was lost\nwith its node\n", "Task 3 was lost"),
        (" \n", "no reason given"),
    ],
)
def test_the_reason_of_an_exception_is_the_line_of_the_error(exception: str, line: str) -> None:
    assert reason(exception) == line


def test_an_action_that_failed_says_why_in_a_few_words() -> None:
    tasks = [
        {"output": {}},
        *({"exception": text} for text in (TRACEBACK, TRACEBACK, "the manager on n12.site.org died")),
    ]
    cause = {"state_name": "Reconstruct", "details": {"results": tasks}}
    assert explain("ActionFailedException", cause) == (
        "Reconstruct failed: StageError: rows 8-16: nothing is finite; the manager on n12.site.org died"
    )
    many = {"details": {"results": [{"exception": f"m.OddError: {number}"} for number in range(5)]}}
    assert explain("E", json.dumps(many)) == "E failed: OddError: 0; OddError: 1; OddError: 2; and 2 more"
    nothing = {"state_name": "S", "details": {"results": None, "message": "refused"}}
    assert explain("E", nothing) == "S failed: refused"


RETRY = "killed, out of memory, or out of time; `tomopipe retry` goes on from the finished slabs"


def raised(error: Exception) -> str:
    """Text of an exception as a worker sends it back."""
    try:
        raise error
    except type(error):
        return traceback.format_exc()


def failed_tasks(*exceptions: str) -> dict[str, Any]:
    return {"state_name": "Segment", "details": {"results": [{"exception": text} for text in exceptions]}}


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (lambda: pool_failure(exit_code=137), "exit code 137"),
        (lambda: pool_failure(exit_code=-9), "exit code -9"),
        (
            lambda: pool_failure(exit_code=1, message="qsub: over the limit"),
            "Executor HighThroughputEngine failed due to: Error 1: qsub: over the limit EXIT CODE: 1",
        ),
        (lambda: WorkerLost(3, "n12"), "Task failure due to loss of worker 3 on host n12"),
        (lambda: ManagerLost(b"abc", "n12"), "Task failure due to loss of manager abc on host n12"),
    ],
)
def test_a_worker_that_was_killed_is_said_so(error: Callable[[], Exception], said: str) -> None:
    cause = failed_tasks(raised(error()), raised(error()))
    assert explain("ActionFailedException", json.dumps(cause)) == f"Segment failed: a worker died ({said}): {RETRY}"


def pool_failure(exit_code: int, message: str | None = None) -> Exception:
    """What Parsl makes of a pool of workers whose processes have ended."""
    executor = types.SimpleNamespace(label="HighThroughputEngine")
    failed = {"0": JobStatus(JobState.FAILED, message=message, exit_code=exit_code)}
    return BadStateException(executor, str(_get_error(failed)))


def test_a_worker_that_was_killed_here_is_said_so_once() -> None:
    said = explain("E", failed_tasks(_lost("pool 1")["exception"]))
    assert said == (
        f"Segment failed: a worker died (the worker of this task was lost, also at the second try (pool 1)): {RETRY}; "
        "fewer workers or smaller slabs need less"
    )


def test_an_error_of_a_stage_stands_beside_a_worker_that_was_killed() -> None:
    said = explain("E", failed_tasks(TRACEBACK, raised(pool_failure(137))))
    assert said == f"Segment failed: a worker died (exit code 137): {RETRY}; StageError: rows 8-16: nothing is finite"
    assert "a worker died" not in explain("E", failed_tasks(raised(ValueError("EXIT CODE: 1370 of the detector"))))


@pytest.mark.parametrize("cause", ["text", "tasks"])
def test_an_endpoint_of_somebody_else_has_a_remedy(cause: str) -> None:
    text = "Ignoring start request for untrusted identity. (Globus effective identity: x)"
    said = explain("ActionUnableToRun", text if cause == "text" else failed_tasks(text))
    assert text in said and said.endswith(
        "; the endpoint serves its owner alone; use one that serves many people, or its owner's service account"
    )


WITHHELD = failure_states()["ShortenFailure"]["Parameters"]["cause"]
NO_INDEX = "404 from https://x/search/ingest: there is no open index 'i'"


def action_failed(second: int, name: str, cause: Any) -> dict[str, Any]:
    return entry(
        "ActionFailed", second, state_name=name, state_type="Action", exception="ActionUnableToRun", cause=cause
    )


def noted(second: int, name: str) -> dict[str, Any]:
    (state,) = failed_state(name, planned=True)
    return entry("PassStarted", second, state_name=state, state_type="Pass")


def test_a_cause_that_the_index_refused_is_taken_from_the_log() -> None:
    cause = json.dumps({**failed_tasks(TRACEBACK), "state_name": "Reconstruct"})
    log = [
        *LOG,
        # A failure that the flow passes over is not why the run failed.
        action_failed(6, "ForgetScanFailure", "not there"),
        action_failed(7, "Reconstruct", cause),
        noted(8, "Reconstruct"),
        action_failed(9, "PublishFailure", "400: too long"),
    ]
    details = {"code": "FlowFailed", "error": "ActionFailedException", "cause": WITHHELD}
    document = run_document("FAILED", details)
    assert read_run(document, "here", log).error == "Reconstruct failed: StageError: rows 8-16: nothing is finite"
    assert is_withheld(read_run(document, "here").error), "without its log there is nothing better to say"


def test_an_index_that_is_gone_has_a_remedy() -> None:
    log = [*LOG, action_failed(6, "PublishMetrics", NO_INDEX), noted(7, "PublishMetrics")]
    log += [
        action_failed(number, name, NO_INDEX) for number, name in ((8, "PublishFailure"), (9, "PublishShortFailure"))
    ]
    details = {"code": "FlowFailed", "error": "ActionUnableToRun", "cause": WITHHELD}
    error = read_run(run_document("FAILED", details), "here", log).error or ""
    assert error.startswith(f"PublishMetrics failed: ActionUnableToRun: {NO_INDEX}")
    assert error.endswith("tomopipe deploy here")
    # The index is gone, and something else has failed first.
    log = [*LOG, action_failed(6, "Reconstruct", "no power"), noted(7, "Reconstruct"), *log[-2:]]
    error = read_run(run_document("FAILED", details), "here", log).error or ""
    assert error.startswith("Reconstruct failed: ActionUnableToRun: no power; ") and error.endswith("deploy here")
    other = [*LOG, action_failed(6, "Reconstruct", "404"), noted(7, "Reconstruct")]
    assert "deploy" not in (read_run(run_document("FAILED", details), "here", other).error or "")


def test_a_local_run_takes_the_cause_from_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOMOPIPE_HOME", str(tmp_path))
    store = run_store()
    run_id = store.create_run(label="tooth", scan="/x", input={"input": {}}, definition_digest="d")
    for one in (action_failed(6, "Segment", failed_tasks(TRACEBACK)), noted(7, "Segment")):
        store.event(run_id, one["code"], one["description"], one["details"])
    store.finish(run_id, "FAILED", explain("ActionFailedException", WITHHELD))
    assert error_of(store.get_run(run_id)) == "Segment failed: StageError: rows 8-16: nothing is finite"
    store.finish(run_id, "FAILED", "E: other")
    assert error_of(store.get_run(run_id)) == "E: other"


def test_an_active_run_is_in_the_action_that_its_details_name() -> None:
    def state(kind: str) -> str | None:
        details = {"code": f"{kind}Started", "details": {"state_name": "Reconstruct", "state_type": kind}}
        return read_run(run_document("ACTIVE", details), "here").state

    assert (state("Action"), state("Wait"), state("Choice"), state("Pass")) == (
        "Reconstruct",
        "Reconstruct",
        None,
        None,
    )
    assert read_run(run_document("SUCCEEDED", {"details": {"state_name": "X"}}), "here").state is None


def test_a_run_knows_the_addresses_of_its_results() -> None:
    destination = {"id": str(uuid.uuid4()), "path": "/our share"}
    body = {"input": {**BODY["input"], "destination": destination}}
    log = [entry("FlowStarted", 0, input=body), *LOG[1:]]
    run = read_run(run_document("SUCCEEDED", {"code": "FlowSucceeded"}), "here", log)
    web = "https://app.globus.org/file-manager?origin_id="
    processing = BODY["input"]["processing"]["id"]  # type: ignore[index]
    assert run.folder == f"{web}{processing}&origin_path=%2Fresults%2Ftooth%2Fabc123%2F"
    assert run.share_directory == f"globus://{destination['id']}/our share/tooth/abc123"
    assert run.share_folder == f"{web}{destination['id']}&origin_path=%2Four%20share%2Ftooth%2Fabc123%2F"
    failed = read_run(run_document("FAILED", {"code": "FlowFailed"}), "here", log)
    assert failed.folder == run.folder and failed.share_directory is None and failed.share_folder is None
    assert read_run(run_document("SUCCEEDED", {}), "here", LOG).share_directory is None


def test_states_are_those_of_the_log() -> None:
    states = read_states(LOG, "ACTIVE")
    assert [(state.name, state.status) for state in states] == [
        ("TransferScan", "SUCCEEDED"), ("Inspect", "SUCCEEDED"), ("Reconstruct", "ACTIVE"),
    ]  # fmt: skip
    inspect, reconstruct = states[1:]
    assert (inspect.done, inspect.total, inspect.unit, inspect.finished) == (1, 1, "task", LOG[4]["time"])
    assert (reconstruct.done, reconstruct.total, reconstruct.finished) == (0, 3, None)
    assert read_states(LOG, "CANCELLED")[-1].status == "CANCELLED"
    assert [event.code for event in read_events(LOG)] == [one["code"] for one in LOG]


def test_a_failed_state_counts_the_tasks_that_were_done() -> None:
    cause = json.dumps({"details": {"results": [{"output": {}}, {"exception": "x"}, {"output": {}}]}})
    failed = entry("ActionFailed", 6, state_name="Reconstruct", state_type="Action", exception="E", cause=cause)
    state = read_states([*LOG, failed], "FAILED")[-1]
    assert (state.status, state.done, state.total, state.finished) == ("FAILED", 2, 3, failed["time"])
    timed_out = entry("ActionTimedOut", 6, state_name="Reconstruct", state_type="Action")
    assert read_states([*LOG, timed_out], "FAILED")[-1].status == "FAILED"


def test_a_state_that_runs_twice_is_two() -> None:
    twice = [
        entry("WaitStarted", 0, state_name="A", state_type="Wait"),
        entry("WaitCompleted", 1, state_name="A", state_type="Wait"),
        entry("WaitStarted", 2, state_name="A", state_type="Wait"),
    ]
    assert [state.status for state in read_states(twice, "ACTIVE")] == ["SUCCEEDED", "ACTIVE"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90m", timedelta(minutes=90)),
        ("12h", timedelta(hours=12)),
        ("2d", timedelta(days=2)),
        ("1.5 w", timedelta(days=10.5)),
    ],
)
def test_since_is_a_duration(text: str, expected: timedelta) -> None:
    now = datetime(2026, 11, 23, 12, tzinfo=UTC)
    assert now - parse_since(text, now) == expected


def test_since_is_a_time() -> None:
    now = datetime(2026, 11, 23, 12, tzinfo=UTC)
    assert parse_since("2026-11-22T10:00:00+02:00", now) == datetime(2026, 11, 22, 8, tzinfo=UTC)
    assert parse_since("2026-11-22", now).tzinfo is not None


@pytest.mark.parametrize("text", ["", "yesterday", "2 d ago", "-2d", "9" * 400 + "d", "3026-01-01"])
def test_since_refuses_what_is_no_time(text: str) -> None:
    with pytest.raises(ParameterError, match="--since"):
        parse_since(text)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_manifest_is_a_list_or_a_table(tmp_path: Path) -> None:
    yaml_file = write(
        tmp_path / "m.yaml",
        "- /data/a.h5\n- scan: /data/b.h5\n  scan_id: '0042'\n  label: wet, 3\n"
        "  parameters: {reconstruction: {center: 80.5}}\n",
    )
    a, b = read_manifest(yaml_file)
    assert (a.label, b.label) == (None, "wet, 3")
    assert (a.scan, a.scan_id, a.parameters) == ("/data/a.h5", None, {})
    assert (b.scan, b.scan_id, b.parameters) == ("/data/b.h5", "0042", {"reconstruction": {"center": 80.5}})
    json_file = write(tmp_path / "m.json", json.dumps(["/data/a.h5", {"scan": "/data/b.h5", "scan_id": "0042"}]))
    assert [entry.scan_id for entry in read_manifest(json_file)] == [None, "0042"]
    csv_file = write(
        tmp_path / "m.csv",
        "\ufeffscan,scan_id,label,reconstruction.center,segmentation.thresholds\n"
        '/data/a.h5,0042,wet,80.5,"[0.1, 0.2]"\n\n/data/b.h5,,,,\n',
    )
    a, b = read_manifest(csv_file)
    assert (a.label, b.label) == ("wet", None)
    assert (a.scan_id, a.parameters) == (
        "0042", {"reconstruction": {"center": 80.5}, "segmentation": {"thresholds": [0.1, 0.2]}},
    )  # fmt: skip
    assert (b.scan, b.scan_id, b.parameters) == ("/data/b.h5", None, {})
    assert a.where.endswith("m.csv: line 2") and b.where.endswith("m.csv: line 4")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("m.yaml", "", "found nothing"),
        ("m.yaml", "[]", "lists no scan"),
        ("m.yaml", "scan: /a", "expected a list"),
        ("m.yaml", "- [", "is not YAML"),
        ("m.json", "[,]", "is not JSON"),
        ("m.yaml", "- 5", "entry 1"),
        ("m.yaml", "- scan: /a\n  scanid: b", "unknown key 'scanid'"),
        ("m.yaml", "- scan_id: b", "entry 1: scan=None"),
        ("m.yaml", "- scan: /a\n  scan_id: 0042", "write it in quotes"),
        ("m.yaml", "- scan: /a\n  label: 7", "label=7: is no text"),
        ("m.yaml", "- scan: /a\n  parameters: 5", "parameters=5"),
        ("m.csv", "path\n/a", "column 'path'"),
        ("m.csv", "scan_id\n/a", "no column 'scan'"),
        ("m.csv", "scan,scan\n/a,/b", "a column twice"),
        ("m.csv", "scan,center\n/a,5", "column 'center'"),
        ("m.csv", "scan\n/a,/b", "line 2: has 2 cells"),
        ("m.csv", "scan,scan_id\n,x", "line 2: scan is empty"),
        ("m.csv", "scan,a.b\n/a,[", "is not YAML"),
    ],
)
def test_a_bad_manifest_is_refused_with_its_place(tmp_path: Path, name: str, text: str, said: str) -> None:
    with pytest.raises(ParameterError) as error:
        read_manifest(write(tmp_path / name, text))
    assert said in str(error.value)


def test_a_manifest_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="cannot be read"):
        read_manifest(tmp_path / "none.yaml")
    (tmp_path / "m.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ParameterError, match="UTF-8"):
        read_manifest(tmp_path / "m.csv")


def submission(run_id: str, **changes: Any) -> dict[str, Any]:
    return {
        "run_id": run_id, "deployment": "here", "source": "/d/here.yaml", "flow_id": FLOW, "scan_id": "tooth",
        "label": "tooth", "request": "r1", "input": BODY, "status": "ACTIVE", "error": None,
        "started": "2026-11-22T10:00:00+00:00", "finished": None, "run_directory": None, **changes,
    }  # fmt: skip


def test_the_local_record_keeps_what_is_known(tmp_path: Path) -> None:
    store = SubmissionStore(tmp_path / "s.sqlite")
    store.record(submission(RUN))
    store.record(submission(RUN, status="FAILED", error="x", input=None, request=None, finished="later"))
    found = store.find("tooth")
    assert found is not None
    assert (found.status, found.error, found.input, found.request, found.finished) == (
        "FAILED",
        "x",
        BODY,
        "r1",
        "later",
    )
    assert store.of_request(FLOW, "r1") == []


def test_the_local_record_keeps_the_tags_also_in_a_file_of_before(tmp_path: Path) -> None:
    store = SubmissionStore(tmp_path / "s.sqlite")
    store.record(submission(RUN))
    with sqlite3.connect(store.path) as database:
        database.execute("DROP TABLE submission_tags")
    (old,) = store.list_runs()
    assert old.tags == () and last_known(old).tags == ("tomopipe", "scan:tooth", "request:r1")
    store.record(submission(RUN, tags=("tomopipe", "scan:tooth", "request:r1", "mine")))
    store.record(submission(RUN))
    (known,) = store.list_runs()
    assert last_known(known).tags == ("tomopipe", "scan:tooth", "request:r1", "mine")


def test_the_local_record_is_found_by_scan_and_beginning(tmp_path: Path) -> None:
    store = SubmissionStore(tmp_path / "s.sqlite")
    first, second, third = "aaaa" + RUN[4:], "aabb" + RUN[4:], "bbbb" + RUN[4:]
    store.record(submission(first))
    store.record(submission(second, started="2026-11-23T10:00:00+00:00", request="r2"))
    store.record(submission(third, deployment="there", scan_id="shale"))
    for name, expected in (("tooth", second), ("AAAA", first), (third, third), ("shale", third)):
        found = store.find(name)
        assert found is not None and found.run_id == expected
    assert store.find("none") is None and store.find("") is None
    with pytest.raises(InputError, match="several runs begin so"):
        store.find("aa")
    assert [one.run_id for one in store.list_runs(deployment="here")] == [second, first]
    assert {one.run_id for one in store.of_request(FLOW, "r1")} == {first, third}
    assert store.of_request(RUN, "r1") == []
    latest = store.latest_of_scan(FLOW, "tooth")
    assert latest is not None and latest.run_id == second
    assert store.latest_of_scan(RUN, "tooth") is None and store.latest_of_scan(FLOW, "aabb") is None


def test_a_run_that_is_gone_is_noted_unless_its_end_is_known(tmp_path: Path) -> None:
    store = SubmissionStore(tmp_path / "s.sqlite")
    first, second = "aaaa" + RUN[4:], "bbbb" + RUN[4:]
    store.record(submission(first))
    store.record(submission(second, status="SUCCEEDED"))
    for run_id in (first, second):
        store.note_gone(run_id)
    assert {one.run_id: one.status for one in store.list_runs()} == {first: "GONE", second: "SUCCEEDED"}
    assert store.of_request(FLOW, "r1") == []
    store.record(submission(first))
    assert [one.run_id for one in store.of_request(FLOW, "r1")] == [first], "it was hidden only"


def test_a_beginning_that_two_places_know_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOMOPIPE_HOME", str(tmp_path))
    local = run_store().create_run(label="tooth", scan="/x", input={"input": {}}, definition_digest="d")
    submission_store().record(submission(local[:4] + RUN[4:], scan_id="shale"))
    with pytest.raises(InputError, match="several runs begin so"):
        find_run(local[:4])
    found = find_run("tooth")
    assert isinstance(found, RunRecord) and found.run_id == local
    with pytest.raises(InputError, match="no such run"):
        find_run("nothing")


def test_help_does_not_load_globus() -> None:
    code = (
        "import sys\nimport tomopipe.flows.cli, tomopipe.flows\n"
        "heavy = [name for name in ('globus_sdk', 'gladier', 'parsl', 'globus_compute_sdk') if name in sys.modules]\n"
        "assert not heavy, heavy\n"
        "from tomopipe.flows import Client\nassert Client.__name__ == 'Client' and 'globus_sdk' in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
