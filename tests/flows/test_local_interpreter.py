"""The interpreter does with each state what the Flows service does."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tomopipe.flows.local.actions import (
    ActionContext,
    ActionResult,
    ActionTimeout,
    ActionUnableToRun,
    FlowError,
    JsonObject,
    Progress,
    RunObserver,
    explain,
)
from tomopipe.flows.local.interpreter import MAX_STATE_BYTES, FlowOutcome, run_flow
from tomopipe.functions.errors import InputError, ParameterError

URL = "https://compute.actions.globus.org/v3"


class Provider:
    """Does what it is told; remembers what it was asked."""

    def __init__(self, answer: Callable[[JsonObject, ActionContext], ActionResult] | None = None) -> None:
        self.bodies: list[JsonObject] = []
        self.answer = answer or (lambda body, context: ActionResult("SUCCEEDED", {"echo": body}))

    def run(self, body: JsonObject, context: ActionContext) -> ActionResult:
        self.bodies.append(body)
        return self.answer(body, context)


class Notes(RunObserver):
    """Everything that an observer hears, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[str, JsonObject]] = []
        self.states: list[tuple[str, ...]] = []
        self.reports: list[Progress] = []

    def event(self, code: str, description: str, details: JsonObject) -> None:
        self.events.append((code, details))

    def state_started(self, state: str, state_type: str) -> None:
        self.states.append((state, state_type))

    def state_finished(self, state: str, status: str, details: JsonObject) -> None:
        self.states.append((state, status))

    def progress(self, state: str, progress: Progress) -> None:
        self.reports.append(progress)

    def flow_finished(self, status: str, error: str | None, cause: Any) -> None:
        self.states.append(("flow", status))


def run(
    states: dict[str, Any],
    body: JsonObject | None = None,
    answer: Callable[[JsonObject, ActionContext], ActionResult] | None = None,
    **options: Any,
) -> FlowOutcome:
    definition = {"StartAt": next(iter(states)), "States": states}
    schema = options.pop("schema", {"type": "object"})
    return run_flow(definition, schema, body or {}, {URL: Provider(answer)}, **options)


def fail(error: Exception) -> Callable[[JsonObject, ActionContext], ActionResult]:
    def answer(body: JsonObject, context: ActionContext) -> ActionResult:
        raise error

    return answer


def action(**fields: Any) -> JsonObject:
    next_or_end = {} if "Next" in fields else {"End": True}
    return {"Type": "Action", "ActionUrl": URL, "Parameters": {}, "ResultPath": "$.Done", **next_or_end, **fields}


def test_an_actions_output_has_the_services_shape() -> None:
    outcome = run({"Work": action(Parameters={"a.$": "$.input.x", "label": "mine"})}, {"input": {"x": [1]}})
    assert outcome.status == "SUCCEEDED"
    assert (outcome.error, outcome.cause, outcome.last_state) == (None, None, "Work")
    done = outcome.state["Done"]
    assert {key: done[key] for key in ("status", "display_status", "details", "state_name", "label")} == {
        "status": "SUCCEEDED",
        "display_status": "SUCCEEDED",
        "details": {"echo": {"a": [1], "label": "mine"}},
        "state_name": "Work",
        "label": "mine",
    }
    assert set(done) >= {"action_id", "start_time", "completion_time", "creator_id", "manage_by", "monitor_by"}
    assert outcome.state["input"] == {"x": [1]}


def test_input_path_is_an_actions_body() -> None:
    state = action(InputPath="$.body")
    del state["Parameters"]
    assert run({"Work": state}, {"body": {"a": 1}}).state["Done"]["details"] == {"echo": {"a": 1}}
    refused = run({"Work": state}, {"body": 1})
    assert (refused.status, refused.error) == ("FAILED", "ActionUnableToRun")


def test_a_result_overwrites_the_state_without_a_result_path() -> None:
    state = action()
    del state["ResultPath"]
    assert run({"Work": state}, {"input": 1}).state["status"] == "SUCCEEDED"


def test_a_provider_cannot_change_the_state() -> None:
    def spoil(body: JsonObject, context: ActionContext) -> ActionResult:
        body["list"].append(3)
        return ActionResult("SUCCEEDED", {})

    body = {"list": [1]}
    assert run({"Work": action(Parameters={"list.$": "$.list"})}, body, spoil).state["list"] == [1]
    assert body == {"list": [1]}


def test_action_url_with_a_slash_and_unknown_url() -> None:
    assert run({"Work": action(ActionUrl=URL + "/")}).status == "SUCCEEDED"
    unknown = run({"Work": action(ActionUrl="https://elsewhere.org")})
    assert unknown.error == "ActionUnableToRun"
    assert "https://elsewhere.org" in unknown.cause


def test_the_context_is_readable_but_no_part_of_the_state() -> None:
    outcome = run(
        {"Work": action(Parameters={"id.$": "$._context.run_id", "user.=": "_context.username"})}, run_id="r1"
    )
    assert outcome.state["Done"]["details"]["echo"]["id"] == "r1"
    assert outcome.state["Done"]["details"]["echo"]["user"]
    assert set(outcome.state) == {"Done"}
    assert run({"Work": action(ResultPath="$._context")}).error == "States.ResultPathMatchFailure"


def test_the_caller_may_say_whom_a_run_belongs_to() -> None:
    states = {"Work": action(Parameters={"by.$": "$._context.user_id", "run.$": "$._context.run_id"})}
    outcome = run(states, run_id="r1", context={"user_id": "urn:globus:auth:identity:ann"})
    assert outcome.state["Done"]["details"]["echo"] == {"by": "urn:globus:auth:identity:ann", "run": "r1"}
    assert outcome.state["Done"]["creator_id"] == "urn:globus:auth:identity:ann"


def failed(body: JsonObject, context: ActionContext) -> ActionResult:
    return ActionResult("FAILED", {"results": [{"task_id": "t", "exception": "Traceback\nValueError: bad\n"}]})


def test_a_failed_action_is_an_exception_by_default() -> None:
    outcome = run({"Work": action()}, {"x": 1}, failed)
    assert (outcome.status, outcome.error, outcome.last_state) == ("FAILED", "ActionFailedException", "Work")
    assert outcome.cause["status"] == "FAILED"
    assert outcome.state == {"x": 1}
    assert explain(str(outcome.error), outcome.cause) == "Work failed: ValueError: bad"


def test_exception_on_action_failure_false_goes_on() -> None:
    outcome = run({"Work": action(ExceptionOnActionFailure=False)}, {}, failed)
    assert outcome.status == "SUCCEEDED"
    assert outcome.state["Done"]["status"] == "FAILED"


CATCHING = {
    "Handler": {"Type": "Fail", "ErrorPath": "$.Failure.Error", "CausePath": "$.Failure.Cause"},
    "Other": {"Type": "Fail", "Error": "Other"},
}


@pytest.mark.parametrize(
    ("error", "names", "caught"),
    [
        (ActionUnableToRun("no"), ["ActionUnableToRun"], True),
        (ActionUnableToRun("no"), ["States.All"], True),
        (ActionUnableToRun("no"), ["States.ALL"], True),
        (ActionUnableToRun("no"), ["ActionFailedException", "ActionTimeout"], False),
        (ActionTimeout("late"), ["ActionTimeout"], True),
    ],
)
def test_catch(error: FlowError, names: list[str], caught: bool) -> None:
    catch = [{"ErrorEquals": names, "Next": "Handler", "ResultPath": "$.Failure"}]
    outcome = run({"Work": action(Catch=catch), **CATCHING}, {"kept": 1}, fail(error))
    assert outcome.status == "FAILED"
    assert outcome.last_state == ("Handler" if caught else "Work")
    cause = error.cause if isinstance(error.cause, str) else json.dumps(error.cause)
    stored = {"Failure": {"Error": error.error, "Cause": cause}} if caught else {}
    assert outcome.state == {"kept": 1, **stored}
    assert (outcome.error, outcome.cause) == (error.error, error.cause)


def test_the_first_catcher_that_matches_takes_it() -> None:
    catch = [
        {"ErrorEquals": ["ActionTimeout"], "Next": "Handler", "ResultPath": "$.Failure"},
        {"ErrorEquals": ["States.All"], "Next": "Other", "ResultPath": "$.Failure"},
    ]
    assert run({"Work": action(Catch=catch), **CATCHING}, {}, fail(ActionTimeout("x"))).last_state == "Handler"
    assert run({"Work": action(Catch=catch), **CATCHING}, {}, fail(ActionUnableToRun("x"))).last_state == "Other"


def test_an_error_overwrites_the_state_without_a_result_path() -> None:
    catch = [{"ErrorEquals": ["States.All"], "Next": "After"}]
    states = {"Work": action(Catch=catch), "After": {"Type": "Pass", "End": True}}
    assert run(states, {"lost": 1}, fail(ActionUnableToRun("x"))).state == {"Error": "ActionUnableToRun", "Cause": "x"}


def test_a_caught_failure_can_end_well_and_its_cause_is_the_actions_status() -> None:
    catch = [{"ErrorEquals": ["ActionFailedException"], "Next": "After", "ResultPath": "$.Failure"}]
    outcome = run({"Work": action(Catch=catch), "After": {"Type": "Pass", "End": True}}, {}, failed)
    assert outcome.status == "SUCCEEDED"
    assert json.loads(outcome.state["Failure"]["Cause"])["details"]["results"][0]["task_id"] == "t"


def test_a_catch_that_cannot_store_the_error_fails_the_run() -> None:
    catch = [{"ErrorEquals": ["States.All"], "Next": "After", "ResultPath": "$.x.y"}]
    states = {"Work": action(Catch=catch), "After": {"Type": "Pass", "End": True}}
    outcome = run(states, {"x": 1}, fail(ActionUnableToRun("x")))
    assert outcome.error == "States.ResultPathMatchFailure"


def test_faults_of_the_definition_are_not_hidden_by_states_all() -> None:
    broken = action(Parameters={"a.$": "$.absent"}, Catch=[{"ErrorEquals": ["States.All"], "Next": "After"}])
    after = {"Type": "Pass", "End": True}
    assert run({"Work": broken, "After": after}).error == "States.Runtime"
    named = {**broken, "Catch": [{"ErrorEquals": ["States.Runtime"], "Next": "After"}]}
    assert run({"Work": named, "After": after}).status == "SUCCEEDED"


def test_wait_time_becomes_the_deadline() -> None:
    deadlines = []

    def note(body: JsonObject, context: ActionContext) -> ActionResult:
        deadlines.append(context.deadline - time.monotonic())
        context.check()
        return ActionResult("SUCCEEDED", {})

    assert run({"Work": action(WaitTime=1000)}, {}, note).status == "SUCCEEDED"
    assert run({"Work": action()}, {}, note).status == "SUCCEEDED"
    assert run({"Work": action(WaitTime=0)}, {}, note).error == "ActionTimeout"
    assert deadlines == [pytest.approx(1000, abs=5), pytest.approx(300, abs=5), pytest.approx(0, abs=5)]


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({"Result": {"a": 1}, "ResultPath": "$.out"}, {"x": {"y": 2}, "out": {"a": 1}}),
        ({"Parameters": {"b.$": "$.x.y", "c": 3}, "ResultPath": "$.out"}, {"x": {"y": 2}, "out": {"b": 2, "c": 3}}),
        ({"InputPath": "$.x", "ResultPath": "$.out"}, {"x": {"y": 2}, "out": {"y": 2}}),
        ({"InputPath": "$.x"}, {"y": 2}),
        ({"ResultPath": "$.out"}, {"x": {"y": 2}, "out": {"x": {"y": 2}}}),
        ({}, {"x": {"y": 2}}),
    ],
)
def test_pass(state: JsonObject, expected: JsonObject) -> None:
    assert run({"P": {"Type": "Pass", "End": True, **state}}, {"x": {"y": 2}}).state == expected


def test_pass_takes_no_expression_and_expression_eval_does() -> None:
    parameters = {"sum.=": "x + 1", "x.$": "$.x"}
    evaluated = {"Type": "ExpressionEval", "Parameters": parameters, "ResultPath": "$.r", "End": True}
    assert run({"E": evaluated}, {"x": 1}).state["r"] == {"sum": 2, "x": 1}
    assert run({"P": {**evaluated, "Type": "Pass"}}, {"x": 1}).error == "States.Runtime"


def test_choice_takes_the_first_rule_that_holds_else_the_default() -> None:
    choice = {
        "Type": "Choice",
        "Choices": [
            {"Variable": "$.n", "NumericLessThan": 10, "Next": "Small"},
            {"Variable": "$.n", "NumericLessThan": 100, "Next": "Middle"},
        ],
    }
    ends = {name: {"Type": "Pass", "Result": {"name": name}, "End": True} for name in ("Small", "Middle", "Large")}

    def end(n: int, **more: str) -> FlowOutcome:
        return run({"C": {**choice, **more}, **ends}, {"n": n})

    assert end(1).state == {"name": "Small"}
    assert end(50).state == {"name": "Middle"}
    assert end(500, Default="Large").state == {"name": "Large"}
    assert end(500).error == "States.NoChoiceMatched"


def test_a_loop_of_many_states_needs_no_recursion() -> None:
    states = {
        "Add": {"Type": "ExpressionEval", "Parameters": {"n.=": "n + 1"}, "ResultPath": "$", "Next": "Enough"},
        "Enough": {
            "Type": "Choice",
            "Choices": [{"Variable": "$.n", "NumericEquals": 2000, "Next": "End"}],
            "Default": "Add",
        },
        "End": {"Type": "Pass", "End": True},
    }
    assert run(states, {"n": 0}).state == {"n": 2000}


@pytest.mark.parametrize(
    ("state", "seconds"),
    [
        ({"Seconds": 0}, 0.0),
        ({"SecondsPath": "$.wait"}, 0.2),
        ({"Timestamp": "2020-01-01T00:00:00Z"}, 0.0),
        ({"TimestampPath": "$.time"}, 0.0),
    ],
)
def test_wait(state: JsonObject, seconds: float) -> None:
    started = time.monotonic()
    body = {"wait": 0.2, "time": "2020-01-01T00:00:00+02:00"}
    outcome = run({"W": {"Type": "Wait", "End": True, **state}}, body)
    assert outcome.state == body
    assert seconds <= time.monotonic() - started < seconds + 2


@pytest.mark.parametrize("state", [{"Seconds": -1}, {"SecondsPath": "$.text"}, {"Timestamp": "soon"}])
def test_wait_refuses(state: JsonObject) -> None:
    assert run({"W": {"Type": "Wait", "End": True, **state}}, {"text": "a"}).error == "States.Runtime"


def test_fail() -> None:
    outcome = run({"F": {"Type": "Fail", "Error": "Bad", "Cause": "worse"}}, {"kept": 1})
    assert outcome == FlowOutcome("FAILED", {"kept": 1}, "Bad", "worse", "F")
    by_path = run({"F": {"Type": "Fail", "ErrorPath": "$.e", "CausePath": "$.c"}}, {"e": "E", "c": {"a": 1}})
    assert (by_path.error, by_path.cause) == ("E", '{"a": 1}')
    assert run({"F": {"Type": "Fail", "ErrorPath": "$.e"}}).error == "States.Runtime"
    assert run({"F": {"Type": "Fail"}}).status == "FAILED"


def test_the_state_has_a_limit() -> None:
    def grow(size: int) -> Callable[[JsonObject, ActionContext], ActionResult]:
        return lambda body, context: ActionResult("SUCCEEDED", {"x": "ü" * (size // 2)})

    catch = [{"ErrorEquals": ["States.All"], "Next": "After", "ResultPath": "$.Failure"}]
    states = {"Work": action(Catch=catch), "After": {"Type": "Pass", "End": True}}
    assert run(states, {}, grow(MAX_STATE_BYTES - 2000)).status == "SUCCEEDED"
    too_large = run(states, {"kept": 1}, grow(MAX_STATE_BYTES))
    assert (too_large.status, too_large.error, too_large.state) == ("FAILED", "States.DataLimitExceeded", {"kept": 1})
    with pytest.raises(ParameterError, match="limit is 200000"):
        run(states, {"x": "a" * MAX_STATE_BYTES})


@pytest.mark.parametrize("output", [float("nan"), {1, 2}, b"bytes"])
def test_an_output_that_is_not_json_fails(output: Any) -> None:
    answer = lambda body, context: ActionResult("SUCCEEDED", {"x": output})  # noqa: E731
    assert run({"Work": action()}, {}, answer).error == "States.Runtime"


def test_the_input_is_checked_before_anything_starts() -> None:
    schema = {
        "type": "object",
        "required": ["input"],
        "properties": {"input": {"type": "object", "properties": {"slab": {"type": "integer", "minimum": 1}}}},
    }
    notes = Notes()
    with pytest.raises(ParameterError, match=r"^input\.slab: 0 is less than the minimum of 1$"):
        run({"Work": action()}, {"input": {"slab": 0}}, schema=schema, observers=[notes])
    with pytest.raises(ParameterError, match=r"^the input: 'input' is a required property$"):
        run({"Work": action()}, {}, schema=schema, observers=[notes])
    assert notes.events == [] and notes.states == []


@pytest.mark.parametrize(
    ("states", "message"),
    [
        ({"A": {"Type": "Pass", "Next": "B"}}, "A.Next names state B"),
        (
            {"A": {"Type": "Choice", "Choices": [{"Variable": "$", "IsNull": True, "Next": "B"}]}},
            "A.Next names state B",
        ),
        ({"A": action(Catch=[{"ErrorEquals": ["States.All"], "Next": "B"}])}, "A.Next names state B"),
        ({"A": {"Type": "Parallel", "End": True}}, "A is of type Parallel"),
    ],
)
def test_an_impossible_definition_is_refused(states: JsonObject, message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(states)


def test_cancel_before_and_within_a_state() -> None:
    cancel = threading.Event()
    cancel.set()
    notes = Notes()
    assert run({"Work": action()}, cancel=cancel, observers=[notes]).status == "CANCELLED"
    assert notes.states == [("flow", "CANCELLED")]
    cancel = threading.Event()
    threading.Timer(0.1, cancel.set).start()
    started = time.monotonic()
    outcome = run({"W": {"Type": "Wait", "Seconds": 60, "End": True}}, cancel=cancel)
    assert (outcome.status, outcome.last_state) == ("CANCELLED", "W")
    assert time.monotonic() - started < 5


def test_ctrl_c_cancels() -> None:
    notes, cancel = Notes(), threading.Event()

    def interrupt(body: JsonObject, context: ActionContext) -> ActionResult:
        raise KeyboardInterrupt

    outcome = run({"Work": action()}, {}, interrupt, cancel=cancel, observers=[notes])
    assert outcome.status == "CANCELLED"
    assert cancel.is_set()
    assert notes.states == [("Work", "Action"), ("Work", "CANCELLED"), ("flow", "CANCELLED")]
    assert notes.events[-1][0] == "FlowCanceled"


def test_an_error_of_ours_is_recorded_and_raised() -> None:
    notes = Notes()
    with pytest.raises(ZeroDivisionError):
        run({"Work": action()}, {}, fail(ZeroDivisionError("bug")), observers=[notes])
    assert notes.states == [("Work", "Action"), ("Work", "FAILED"), ("flow", "FAILED")]


def test_the_log_reads_as_the_services_and_hides_what_is_private() -> None:
    notes = Notes()
    parameters = {"open": 1, "secret.$": "$._private_key", "__Private_Parameters": ["secret"]}

    def answer(body: JsonObject, context: ActionContext) -> ActionResult:
        context.report(Progress(1, 2, "task"))
        context.log("Note", "something", {"n": 1})
        return ActionResult("SUCCEEDED", {"_private_answer": body["secret"]})

    outcome = run({"Work": action(Parameters=parameters)}, {"_private_key": "S3CRET"}, answer, observers=[notes])
    assert [code for code, _ in notes.events] == [
        "FlowStarted",
        "ActionStarted",
        "Note",
        "ActionCompleted",
        "FlowSucceeded",
    ]
    assert notes.events[1][1] == {"state_name": "Work", "state_type": "Action", "input": {"open": 1}}
    assert notes.events[2][1] == {"state_name": "Work", "n": 1}
    assert notes.events[3][1]["output"]["status"] == "SUCCEEDED"
    assert notes.states == [("Work", "Action"), ("Work", "SUCCEEDED"), ("flow", "SUCCEEDED")]
    assert notes.reports == [Progress(1, 2, "task")]
    assert "S3CRET" not in json.dumps(notes.events)
    assert outcome.state["_private_key"] == "S3CRET"


def test_the_log_names_a_failure() -> None:
    notes = Notes()
    run({"Work": action()}, {}, fail(ActionTimeout("late")), observers=[notes])
    assert [code for code, _ in notes.events] == ["FlowStarted", "ActionStarted", "ActionTimedOut", "FlowFailed"]
    assert notes.events[2][1] == {
        "state_name": "Work",
        "state_type": "Action",
        "exception": "ActionTimeout",
        "cause": "late",
    }


def test_explain_says_what_went_wrong() -> None:
    trace = 'Traceback (most recent call last):\n  File "x"\ntomopipe.functions.errors.ScanError: raw.h5: no flats. Add them.'
    tasks = [{"task_id": "1", "output": 1}, {"task_id": "2", "exception": trace}, {"task_id": "3", "exception": trace}]
    cause = {"state_name": "Inspect", "details": {"results": tasks}}
    assert explain("ActionFailedException", cause) == "Inspect failed: ScanError: raw.h5: no flats. Add them."
    assert explain("ActionTimeout", "late") == "ActionTimeout: late"
    assert explain("Bad", None) == "Bad"
    unknown = {"state_name": "S", "details": {"what": 1}}
    assert explain("ActionFailedException", unknown) == "S failed: {'what': 1}"
