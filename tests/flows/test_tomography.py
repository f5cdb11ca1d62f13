"""The flow: what its definition says, that Gladier's traps do not bite, that it runs within the service's limits."""

from __future__ import annotations

import ast
import inspect
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import gladier
import jsonschema
import pytest
from gladier.managers import ComputeManager
from globus_compute_sdk.serialize import ComputeSerializer, DillCodeSource

from tomopipe.flows.definition_linter import lint
from tomopipe.flows.local import interpreter
from tomopipe.flows.local.actions import ActionContext, ActionResult
from tomopipe.flows.local.interpreter import FlowOutcome, run_flow
from tomopipe.flows.request import FUNCTIONS, build_flow_input
from tomopipe.flows.tomography import ACTION_STATES, STAGE_STATES, TOOLS, TomographyClient, flow_definition, flow_schema
from tomopipe.functions import stages
from tomopipe.functions.plan import compute_tasks, cut_rows, group_blocks
from tomopipe.functions.quantification.document_schema import document_schema

COMPUTE = "https://compute.actions.globus.org/v3"
TRANSFER = "https://transfer.actions.globus.org/transfer"
SEARCH = "https://actions.globus.org/search/ingest"
DELETE = "https://actions.globus.org/search/delete"
FORGETTING = ("ForgetScanFailure", "ForgetRunFailure")
IDS = {name: str(uuid.UUID(int=index + 1)) for index, name in enumerate(FUNCTIONS)}
SKIPPABLE = ("Preprocess", "Reconstruct", "Denoise", "Segment", "SeparateObjects")
SLAB_STAGES = SKIPPABLE[:4]
OBJECT_STEPS = ("PrepareObjects", "FindObjects", "JoinObjects", "LabelObjects")
DOCUMENT_FORMAT = "tomopipe-document/2"
ROOT = "/eagle/TomoProject/2-BM/2026-3/results"


@pytest.fixture(scope="module")
def definition() -> dict[str, Any]:
    return flow_definition()


def flow_input(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "scan": {"id": str(uuid.UUID(int=100)), "path": "/2026-3/scan_0042.h5"},
        "scan_id": "scan_0042",
        "processing": {"id": str(uuid.UUID(int=101)), "path": "/TomoProject/2-BM/2026-3/results"},
        "processing_root": ROOT,
        "compute_endpoint": str(uuid.UUID(int=102)),
        "search_index": str(uuid.UUID(int=103)),
        "visible_to": ["public"],
        "function_ids": IDS,
        "user_endpoint_config": {"queue": "demand", "account": "TomoProject"},
    }
    return build_flow_input(**values | changes)


def object_tasks(run: str, state: str) -> list[dict[str, Any]]:
    """What `PrepareObjects` returns for a step that works on blocks, with the most tasks that there are."""
    function = {"FindObjects": "find_objects", "LabelObjects": "label_objects"}[state]
    return compute_tasks(IDS[function], {"run": run}, group_blocks([(row, row + 8) for row in range(0, 4096, 8)]))


def plan(rows: int, left_out: tuple[str, ...] = (), root: str = ROOT, scan_id: str = "scan_0042") -> dict[str, Any]:
    """What `Inspect` returns for a scan, with the most tasks a stage that there are."""
    relative = f"{scan_id}/0123456789ab"
    run = f"{root}/{relative}"
    tasks: dict[str, Any] = {
        "SeparateObjects": [{"function_id": IDS["separate_objects"], "kwargs": {"run": run}}],
        "Quantify": [{"function_id": IDS["quantify"], "kwargs": {"run": run}}],
    }
    for state in SLAB_STAGES:
        ranges = cut_rows(rows, -(-rows // 64))
        kwargs = [{"run": run, "start": start, "stop": stop} for start, stop in ranges]
        tasks[state] = [{"function_id": IDS[state.lower()], "kwargs": values} for values in kwargs]
    in_parts = {name: IDS[name] for name in ("find_objects", "label_objects")}
    tasks["PrepareObjects"] = compute_tasks(IDS["prepare_objects"], {"run": run, "function_ids": in_parts})
    tasks["JoinObjects"] = compute_tasks(IDS["join_objects"], {"run": run})
    for state in left_out:
        tasks[state] = []
    needed = {state: state not in left_out for state in SKIPPABLE}
    return {"run": run, "relative": relative, "recipe_id": "0123456789ab", "stages": needed, "tasks": tasks}


class Providers:
    """Action providers that record what they are asked, answer in full length, and fail where they are told to.

    The index refuses a text that is longer than a field of it holds.
    """

    def __init__(self, planned: dict[str, Any], failing: str | None = None) -> None:
        self.planned = planned
        self.failing = failing
        self.asked: dict[str, dict[str, Any]] = {}

    def run(self, body: dict[str, Any], context: ActionContext) -> ActionResult:
        self.asked[context.state] = body
        failed = context.state == self.failing
        if "tasks" in body:
            details = self._compute(body["tasks"], failed)
        elif "DATA" in body:
            details = {"status": "FAILED" if failed else "SUCCEEDED", "filler": "x" * 3000}
        elif "delete_by" in body:
            details = {"state": "FAILED" if failed else "SUCCESS", "message": "x" * 200}
        else:
            failed = failed or len(body["content"].get("failure", {}).get("cause", "").encode()) > 32 * 1024
            details = {"state": "FAILED" if failed else "SUCCESS", "message": "x" * 200}
        return ActionResult("FAILED" if failed else "SUCCEEDED", details)

    def _compute(self, tasks: list[dict[str, Any]], failed: bool) -> dict[str, Any]:
        task_ids = [str(uuid.uuid4()) for _ in tasks]
        if failed:
            # As `functions.receipting.registered` has it: the first eight speak for all.
            lengths = [900] * 8 + [420] * len(task_ids)
            texts = ["Traceback: " + "x" * (length - 11) for length in lengths]
            results = [{"task_id": i, "exception": text} for i, text in zip(task_ids, texts, strict=False)]
            return {"result": [result["exception"] for result in results], "results": results}
        outputs = [self._output(task) for task in tasks]
        results = [{"task_id": i, "output": output} for i, output in zip(task_ids, outputs, strict=True)]
        return {"result": outputs, "results": results}

    def _output(self, task: dict[str, Any]) -> Any:
        if task["function_id"] == IDS["inspect"]:
            return self.planned
        if task["function_id"] == IDS["quantify"]:
            return {"document": {"format": DOCUMENT_FORMAT, "status": "succeeded", "text": "x" * 8000}}
        kwargs = task["kwargs"]
        if task["function_id"] == IDS["prepare_objects"]:
            return {"tasks": {state: object_tasks(kwargs["run"], state) for state in OBJECT_STEPS[1::2]}}
        return {"slab": [kwargs["start"], kwargs["stop"]]} if "start" in kwargs else {"objects": 123456}


def run(
    definition: dict[str, Any], body: dict[str, Any], planned: dict[str, Any], failing: str | None = None
) -> tuple[FlowOutcome, dict[str, dict[str, Any]]]:
    provider = Providers(planned, failing)
    outcome = run_flow(definition, flow_schema(), body, dict.fromkeys((COMPUTE, TRANSFER, SEARCH, DELETE), provider))
    return outcome, provider.asked


def size(value: Any) -> int:
    return len(json.dumps(value).encode())


# The definition


def test_states_are_the_designed_ones_in_order(definition: dict[str, Any]) -> None:
    actions = [name for name, state in definition["States"].items() if state["Type"] == "Action"]
    assert actions == [
        "TransferScan",
        "Inspect",
        "Preprocess",
        "Reconstruct",
        "Denoise",
        "Segment",
        *OBJECT_STEPS,
        "SeparateObjects",
        "Quantify",
        "TransferResults",
        *FORGETTING,
        "PublishMetrics",
        "PublishFailure",
        "PublishShortFailure",
    ]
    stages_alone = [name for name in actions[:-2] if name not in FORGETTING]
    assert tuple(stages_alone) == ACTION_STATES
    assert tuple(name for name in stages_alone if name not in OBJECT_STEPS) == STAGE_STATES
    assert tuple(tool.__name__ for tool in TOOLS) == STAGE_STATES
    assert [name for name, state in definition["States"].items() if state.get("End")] == ["PublishMetrics"]


def test_linter_has_nothing_to_say(definition: dict[str, Any]) -> None:
    assert lint(definition, flow_schema()) == []


def test_every_action_is_explicit_and_caught(definition: dict[str, Any]) -> None:
    states = definition["States"]
    for name in ACTION_STATES:
        state = states[name]
        assert state["ExceptionOnActionFailure"] is True
        # Of what the stages between Inspect and Quantify return nothing is read: it is not kept.
        kept = name not in (*SKIPPABLE, *OBJECT_STEPS[1:])
        assert state["ResultPath"] == (f"$.{name}" if kept else "$.LatestStage")
        assert state["Comment"].strip()
        assert state["Catch"][-1]["ErrorEquals"] == ["States.All"]
        assert {(c["ResultPath"], c["Next"]) for c in state["Catch"]} == {("$.Failure", f"{name}Failed")}
        assert states[f"{name}Failed"]["Result"] == {"name": name}
    assert {c["Next"] for c in states["PublishFailure"]["Catch"]} == {"ShortenFailure"}
    assert {c["Next"] for c in states["PublishShortFailure"]["Catch"]} == {"RunFailed"}


@pytest.mark.parametrize(
    ("url", "wait_time_s"),
    [(COMPUTE, 7 * 24 * 3600), (TRANSFER, 24 * 3600), (SEARCH, 3600), (DELETE, 600)],
    ids=["compute", "transfer", "ingest", "delete"],
)
def test_waiting_times_suit_the_providers(definition: dict[str, Any], url: str, wait_time_s: int) -> None:
    times = {state["WaitTime"] for state in definition["States"].values() if state.get("ActionUrl") == url}
    assert times == {wait_time_s}


def test_a_deployment_may_wait_for_compute_as_long_as_it_likes(definition: dict[str, Any]) -> None:
    shorter = flow_definition(compute_wait_s=90)
    for name, state in shorter["States"].items():
        if state.get("ActionUrl") == COMPUTE:
            assert state.pop("WaitTime") == 90
            assert definition["States"][name]["WaitTime"] == 7 * 24 * 3600
            state["WaitTime"] = 7 * 24 * 3600
    assert shorter == definition


def test_compute_states_share_one_endpoint_configuration(definition: dict[str, Any]) -> None:
    # Another configuration is another endpoint process, another batch job and another wait in the queue.
    compute = [s["Parameters"] for s in definition["States"].values() if s.get("ActionUrl") == COMPUTE]
    assert len(compute) == 11
    for parameters in compute:
        assert parameters["user_endpoint_config.$"] == "$.input.user_endpoint_config"
        assert parameters["endpoint_id.$"] == "$.input.compute_endpoint"


# Gladier's traps


def test_definition_is_the_same_in_every_process() -> None:
    code = (
        "import json; from tomopipe.flows.tomography import flow_definition, flow_schema; "
        "print(json.dumps([flow_definition(), flow_schema()]))"
    )
    here = json.dumps([flow_definition(), flow_schema()]) + "\n"
    for seed in ("1", "2"):
        command = [sys.executable, "-c", code]
        there = subprocess.run(command, env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True)
        assert there.stdout.decode() == here


def test_definition_leaves_no_file_and_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GLADIER_CLIENT_ID", str(uuid.uuid4()))
    monkeypatch.setattr("socket.socket.connect", refuse)
    flow_definition()
    assert list(tmp_path.iterdir()) == []


def test_every_comment_is_text(definition: dict[str, Any]) -> None:
    comments = [definition["Comment"], *(state["Comment"] for state in definition["States"].values())]
    assert all(isinstance(comment, str) and comment and "\n" not in comment for comment in comments)


def test_repeated_generation_does_not_change_the_tools(definition: dict[str, Any]) -> None:
    first = deepcopy(definition)
    assert flow_definition() == first == flow_definition()


def test_gladier_finds_every_input_that_the_definition_refers_to(tmp_path: Path) -> None:
    class Registering(ComputeManager):  # type: ignore[misc]
        def register_function(self, tool: Any, function: Callable[..., Any]) -> str:
            return IDS[function.__name__]

    client = TomographyClient(
        config_file=tmp_path / "gladier.cfg",
        login_manager=gladier.CallbackLoginManager({}),
        compute_manager=Registering(),
    )
    registered = client.get_input()["input"]
    assert registered == {f"{name}_function_id": IDS[name] for name in FUNCTIONS}
    body = flow_input()
    assert body["input"].items() >= registered.items()
    for tool in client.tools:
        client.check_input(tool, body)
    for field in ("compute_endpoint", "scan", "search_index", "processing_root"):
        with pytest.raises(gladier.exc.ConfigException, match=field):
            for tool in client.tools:
                client.check_input(tool, {"input": {k: v for k, v in body["input"].items() if k != field}})


@pytest.mark.parametrize("name", FUNCTIONS)
def test_registered_functions_work_from_their_source_alone(name: str) -> None:
    function = getattr(stages, name)
    serializer = ComputeSerializer(strategy_code=DillCodeSource())
    rebuilt = serializer.deserialize(serializer.serialize(function))
    assert inspect.signature(rebuilt) == inspect.signature(function)
    # A function from source has no package: a relative import or a name of its module would fail on the worker.
    tree = ast.parse(inspect.getsource(function))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert imports and all(node.level == 0 for node in imports)


# Runs


def test_good_run_passes_the_right_requests(definition: dict[str, Any]) -> None:
    planned = plan(200)
    destination = {"id": str(uuid.UUID(int=104)), "path": "/share/2026-3"}
    body = flow_input(
        destination=destination,
        parameters={"reconstruction": {"center": 1021.5}},
        skip=["denoise"],
        start_from="segment",
    )
    outcome, asked = run(definition, body, planned)

    assert outcome.status == "SUCCEEDED"
    given = body["input"]
    (item,) = asked["TransferScan"]["DATA"]
    assert item["source_path"] == "/2026-3/scan_0042.h5"
    assert item["destination_path"] == "/TomoProject/2-BM/2026-3/results/scan_0042/raw.h5"
    assert asked["TransferScan"]["source_endpoint"] == given["scan"]["id"]
    assert asked["TransferScan"]["destination_endpoint"] == given["processing"]["id"]
    assert asked["TransferScan"]["verify_checksum"] is True
    (task,) = asked["Inspect"]["tasks"]
    assert task["function_id"] == IDS["inspect"]
    assert task["kwargs"] == {
        "scan_path": f"{ROOT}/scan_0042/raw.h5",
        "results_root": ROOT,
        "scan_id": "scan_0042",
        "parameters": {"reconstruction": {"center": 1021.5}},
        "skip": ["denoise"],
        "start_from": "segment",
        "execution": {},
        "function_ids": {name: IDS[name] for name in FUNCTIONS if name != "inspect"},
        "version": given["version"],
        "provenance": {
            "run_id": task["kwargs"]["provenance"]["run_id"],
            "flow_id": str(uuid.UUID(int=0)),
            "functions_digest": given["functions_digest"],
            "transferred_at": outcome.state["TransferScan"]["completion_time"],
            "source": given["scan"],
            "processing": given["processing"],
            "results_url": "",
        },
    }
    assert uuid.UUID(task["kwargs"]["provenance"]["run_id"])
    inspect.signature(stages.inspect).bind(**task["kwargs"])
    for state in (*SKIPPABLE, *OBJECT_STEPS, "Quantify"):
        in_parts = state in ("FindObjects", "LabelObjects")
        assert asked[state]["tasks"] == (object_tasks(planned["run"], state) if in_parts else planned["tasks"][state])
        assert asked[state]["user_endpoint_config"] == given["user_endpoint_config"]
    (item,) = asked["TransferResults"]["DATA"]
    assert item["source_path"] == "/TomoProject/2-BM/2026-3/results/scan_0042/0123456789ab/"
    assert item["destination_path"] == "/share/2026-3/scan_0042/0123456789ab/"
    assert item["recursive"] is True
    subject = f"globus://{given['processing']['id']}/TomoProject/2-BM/2026-3/results/scan_0042/0123456789ab"
    assert asked["PublishMetrics"] == {
        "search_index": given["search_index"],
        "subject": subject,
        "visible_to": ["public"],
        "id": "run",
        "content": outcome.state["Quantify"]["details"]["results"][0]["output"]["document"],
    }
    assert "PublishFailure" not in asked


@pytest.mark.parametrize("left_out", [("Preprocess",), ("Denoise",), ("Segment", "SeparateObjects"), SKIPPABLE])
def test_stages_that_are_not_needed_are_passed_over(definition: dict[str, Any], left_out: tuple[str, ...]) -> None:
    outcome, asked = run(definition, flow_input(), plan(200, left_out))
    assert outcome.status == "SUCCEEDED"
    passed_over = (*left_out, "TransferResults", *(OBJECT_STEPS if "SeparateObjects" in left_out else ()))
    assert [s for s in asked if s not in FORGETTING] == [s for s in ACTION_STATES if s not in passed_over]


@pytest.mark.parametrize("failing", ACTION_STATES)
def test_every_failure_is_published_and_fails_the_run(definition: dict[str, Any], failing: str) -> None:
    body = flow_input(destination={"id": str(uuid.UUID(int=104)), "path": "/share"})
    outcome, asked = run(definition, body, plan(200), failing)

    assert outcome.status == "FAILED"
    assert outcome.last_state == "RunFailed"
    assert outcome.error == "ActionFailedException"
    # 64 tasks that fail at once say more than an index holds: then the record goes without their words.
    published = "PublishShortFailure" if "PublishShortFailure" in asked else "PublishFailure"
    record = asked[published]
    below = "scan_0042" if failing in ("TransferScan", "Inspect") else "scan_0042/0123456789ab"
    processing = body["input"]["processing"]
    # Beside the record of a good run, which it must not hide.
    assert record["subject"] == f"globus://{processing['id']}{processing['path']}/{below}/failure"
    assert record["id"] == "run"
    assert record["visible_to"] == ["public"]
    assert record["search_index"] == body["input"]["search_index"]
    content = record["content"]
    assert (content["format"], content["status"], content["scan_id"]) == (DOCUMENT_FORMAT, "failed", "scan_0042")
    assert content["failure"]["stage"] == failing
    assert content["failure"]["error"] == "ActionFailedException"
    assert uuid.UUID(content["provenance"]["run_id"])
    assert content["source"] == {"collection": body["input"]["scan"]["id"], "path": body["input"]["scan"]["path"]}
    jsonschema.validate(content, document_schema())
    assert list(asked)[list(asked).index(failing) + 1 :] in (
        ["PublishFailure"],
        ["PublishFailure", "PublishShortFailure"],
    )
    if published == "PublishShortFailure":
        assert (
            content["failure"]["cause"]
            == "The index refused the record of this failure with its cause; the run's log has it."
        )


@pytest.mark.parametrize("failing", [None, *FORGETTING])
def test_a_good_run_takes_the_records_of_earlier_failures_out(definition: dict[str, Any], failing: str | None) -> None:
    body = flow_input()
    outcome, asked = run(definition, body, plan(200), failing)
    # A record that cannot be deleted is no reason for a good run to fail.
    assert outcome.status == "SUCCEEDED"
    assert list(asked)[-3:] == [*FORGETTING, "PublishMetrics"]
    scan = f"globus://{body['input']['processing']['id']}{body['input']['processing']['path']}/scan_0042"
    subjects = [f"{scan}/failure", f"{scan}/0123456789ab/failure"]
    for name, subject in zip(FORGETTING, subjects, strict=True):
        assert asked[name] == {
            "search_index": body["input"]["search_index"],
            "delete_by": "subject",
            "subject": subject,
        }
    # The same subjects that failures are published under.
    for stage, subject in zip(("Inspect", "Segment"), subjects, strict=True):
        _, failed = run(definition, body, plan(2), stage)
        assert failed["PublishFailure"]["subject"] == subject


def test_run_fails_even_where_its_failure_cannot_be_published(definition: dict[str, Any]) -> None:
    broken = deepcopy(definition)
    for name in ("PublishFailure", "PublishShortFailure"):
        broken["States"][name]["ActionUrl"] = "https://nowhere.example.org"
    outcome, _ = run(broken, flow_input(), plan(200), "Reconstruct")
    assert (outcome.status, outcome.last_state, outcome.error) == ("FAILED", "RunFailed", "ActionFailedException")


# Limits of the service

LONGEST_ROOT = "/" + "r" * 129
LONGEST_SCAN_ID = "s" * 100


@pytest.mark.parametrize(
    ("root", "scan_id", "most_bytes"),
    [(ROOT, "scan_0042", 100_000), (LONGEST_ROOT, LONGEST_SCAN_ID, 200_000)],
    ids=["as at a beamline: design's limit", "longest names: service's limit"],
)
def test_state_of_a_run_stays_small(definition: dict[str, Any], root: str, scan_id: str, most_bytes: int) -> None:
    path = "/" + "p" * 329 if root == LONGEST_ROOT else "/TomoProject/2-BM/2026-3/results"
    body = flow_input(
        processing_root=root,
        scan_id=scan_id,
        processing={"id": str(uuid.UUID(int=101)), "path": path},
        destination={"id": str(uuid.UUID(int=104)), "path": path},
    )
    planned = plan(4096, root=root, scan_id=scan_id)
    assert len(planned["tasks"]["Reconstruct"]) == 64
    sizes = {}
    for last in ("Inspect", "Plan", *ACTION_STATES[2:]):
        cut = deepcopy(definition)
        cut["States"][last].pop("Next", None)
        cut["States"][last]["End"] = True
        outcome, asked = run(cut, body, planned)
        assert outcome.status == "SUCCEEDED"
        sizes[last] = size(outcome.state)
    assert max(sizes.values()) < most_bytes, sizes
    assert all(len(asked[name]["subject"].encode()) <= 500 for name in (*FORGETTING, "PublishMetrics"))
    assert max(len(asked[state]["label"]) for state in ("TransferScan", "TransferResults")) <= 128


@pytest.mark.parametrize("failing", [None, *SLAB_STAGES, "FindObjects", "LabelObjects", "Quantify"])
def test_half_of_the_service_limit_is_enough_and_three_quarters_where_everything_fails(
    definition: dict[str, Any], failing: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All tasks of a stage of a scan of 4096 rows fail at once, and the run still has room to say so."""
    monkeypatch.setattr(interpreter, "MAX_STATE_BYTES", 100_000 if failing is None else 150_000)
    outcome, asked = run(definition, flow_input(), plan(4096), failing)
    assert outcome.error == (None if failing is None else "ActionFailedException")
    assert ("PublishFailure" in asked) == (failing is not None)
    assert size(definition) < 100_000 and size(flow_schema()) < 100_000 and size(flow_input()) < 100_000


def test_tasks_and_their_results_stay_small() -> None:
    planned = plan(4096, root=LONGEST_ROOT, scan_id=LONGEST_SCAN_ID)
    provider = Providers(planned)
    for state in SLAB_STAGES:
        for task in planned["tasks"][state]:
            assert size(task) < 2000
            assert size(provider._output(task)) < 2000


def test_records_of_failures_have_the_format_of_good_ones() -> None:
    from tomopipe.functions.quantification import document

    assert document.DOCUMENT_FORMAT == DOCUMENT_FORMAT
