"""The linter: the flow's own definition broken in every way that a rule guards, each break found at its place."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tomopipe.flows.definition_linter import Finding, lint, parse_path
from tomopipe.flows.tomography import flow_definition, flow_schema

OWN = flow_definition()
SCHEMA = flow_schema()
States = dict[str, Any]


def findings(change: Callable[[States], object], schema: dict[str, Any] | None = SCHEMA) -> list[Finding]:
    definition = deepcopy(OWN)
    change(definition["States"])
    return lint(definition, schema)


def put(*path: Any, value: Any) -> Callable[[States], None]:
    """A change that sets what lies at a path of keys and indices."""

    def change(states: States) -> None:
        place: Any = states
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return change


def drop(*path: Any) -> Callable[[States], None]:
    """A change that takes away what lies at a path of keys and indices."""

    def change(states: States) -> None:
        place: Any = states
        for key in path[:-1]:
            place = place[key]
        del place[path[-1]]

    return change


def both(*changes: Callable[[States], None]) -> Callable[[States], None]:
    def change(states: States) -> None:
        for each in changes:
            each(states)

    return change


def flow(**states: Any) -> dict[str, Any]:
    """A definition of the given states, which starts at the first."""
    return {"StartAt": next(iter(states)), "States": states}


def rule(**keys: Any) -> Callable[[States], None]:
    return put("DenoiseNeeded", "Choices", 0, value={"Next": "Denoise", **keys})


def expression(text: Any) -> Callable[[States], None]:
    return put("TransferScan", "Parameters", "label.=", value=text)


def test_own_definition_is_clean() -> None:
    assert lint(OWN) == []
    assert lint(OWN, SCHEMA) == []
    assert lint(json.loads(json.dumps(OWN)), SCHEMA) == []


@pytest.mark.parametrize(
    ("change", "path", "message"),
    [
        # types and keys of states
        (put("Plan", "Type", value="Succeed"), "Plan.Type", "'Succeed' is no type of state"),
        (put("Plan", "Type", value="Parallel"), "Plan.Type", "no type of state"),
        (put("Plan", "Type", value=["Pass"]), "Plan.Type", "no type of state"),
        (drop("Plan", "Type"), "Plan.Type", "None is no type"),
        (put("Plan", value=7), "Plan.Type", "no type"),
        (put("Denoise", "Retry", value=[]), "Denoise.Retry", "unknown key of a state of type Action"),
        (put("Plan", "OutputPath", value="$"), "Plan.OutputPath", "unknown key"),
        (put("Plan", "WaitTime", value=60), "Plan.WaitTime", "unknown key of a state of type Pass"),
        (put("DenoiseNeeded", "Next", value="Denoise"), "DenoiseNeeded.Next", "unknown key"),
        (put("RunFailed", "End", value=True), "RunFailed.End", "unknown key"),
        (put("Denoise", "ResultPath.$", value="$.x"), "Denoise.ResultPath.$", "unknown key"),
        (drop("DenoiseNeeded", "Choices"), "DenoiseNeeded.Choices", "is required"),
        (drop("DescribeRunFailure", "Parameters"), "DescribeRunFailure.Parameters", "is required"),
        (drop("DescribeRunFailure", "ResultPath"), "DescribeRunFailure.ResultPath", "is required"),
        (put("Denoise", "Comment", value=None), "Denoise.Comment", "must be a string, found None"),
        (put("Plan", "Parameters", value=[]), "Plan.Parameters", "must be an object"),
        (put("InspectFailed", "Result", value="Inspect"), "InspectFailed.Result", "an object"),
        (put("n" * 81, value={"Type": "Pass", "End": True}), "n" * 81, "1 to 80 characters"),
        # transitions
        (put("Denoise", "End", value=True), "Denoise", "either Next or End"),
        (drop("Denoise", "Next"), "Denoise", "either Next or End"),
        (put("PublishMetrics", "End", value=False), "PublishMetrics.End", "must be true"),
        (put("PublishMetrics", "End", value="yes"), "PublishMetrics.End", "must be true"),
        (put("Denoise", "Next", value="Sgment"), "Denoise.Next", "there is no state 'Sgment'"),
        (put("Denoise", "Next", value=3), "Denoise.Next", "must be the name of a state"),
        (put("DenoiseNeeded", "Default", value="Skip"), "DenoiseNeeded.Default", "there is no state"),
        (put("DenoiseNeeded", "Choices", 0, "Next", value="D"), "DenoiseNeeded.Choices.0.Next", "there is no state"),
        (put("Denoise", "Catch", 0, "Next", value="Handle"), "Denoise.Catch.0.Next", "there is no state"),
        (drop("DenoiseFailed"), "Denoise.Catch.0.Next", "there is no state 'DenoiseFailed'"),
        (put("Alone", value={"Type": "Pass", "End": True}), "Alone", "is never reached"),
        (put("DenoiseNeeded", "Choices", 0, "Next", value="DenoiseSkipped"), "Denoise", "is never reached"),
        (put("DenoiseSkipped", "Next", value="DenoiseSkipped"), "DenoiseSkipped", "leads to no end"),
        # data
        (put("Denoise", "InputPath", value="$.input"), "Denoise", "Parameters and InputPath exclude each other"),
        (drop("Denoise", "Parameters"), "Denoise", "needs either Parameters or InputPath"),
        (put("InspectFailed", "InputPath", value="$.input"), "InspectFailed", "exclude each other"),
        (drop("Denoise", "ResultPath"), "Denoise.ResultPath", "overwrites the whole state"),
        (put("Denoise", "ResultPath", value="$"), "Denoise.ResultPath", "overwrites the whole state"),
        (drop("Plan", "ResultPath"), "Plan.ResultPath", "overwrites the whole state"),
        (put("Denoise", "ResultPath", value="Denoise"), "Denoise.ResultPath", "is no path"),
        (put("Denoise", "ResultPath", value="$.a[0]"), "Denoise.ResultPath", "leads into a list"),
        (put("Denoise", "ResultPath", value="$._context.x"), "Denoise.ResultPath", "read-only"),
        (put("PublishFailure", "InputPath", value="$.Failure[*]"), "PublishFailure.InputPath", "is no path to one"),
        (put("DenoiseSkipped", "ResultPath", value="$.x"), "DenoiseSkipped.ResultPath", "copies the state into itself"),
        (
            put("InspectFailed", "Result", value={"x": "x" * 200_001}),
            "InspectFailed.Result",
            "larger than a run's state",
        ),
        # parameters
        (put("Plan", "Parameters", value={"a.$": "Inspect"}), "Plan.Parameters.a.$", "is no path"),
        (put("Plan", "Parameters", value={"a.$": 3}), "Plan.Parameters.a.$", "is no path"),
        (put("Plan", "Parameters", value={"a": ["x", {"b.$": "$..c"}]}), "Plan.Parameters.a.1.b.$", "is no path"),
        (put("Plan", "Parameters", value={"a": "$.input"}), "Plan.Parameters.a", "a path needs the key a.$"),
        (put("Plan", "Parameters", value={"a": 1, "a.$": "$.input"}), "Plan.Parameters.a", "more than once"),
        (put("Plan", "Parameters", value={"a.=": "1 + 1"}), "Plan.Parameters.a.=", "a Pass evaluates no expressions"),
        (put("Plan", "Parameters", "__Private_Parameters", value=["x"]), "Plan.Parameters.__Private_Parameters", "'x'"),
        (
            put("Plan", "Parameters", "__Private_Parameters", value=7),
            "Plan.Parameters.__Private_Parameters",
            "no param",
        ),
        # expressions
        (expression("'a' + "), "TransferScan.Parameters.label.=", "is no expression"),
        (expression(""), "TransferScan.Parameters.label.=", "is no expression"),
        (expression(7), "TransferScan.Parameters.label.=", "an expression is a string"),
        (expression("f'{input}'"), "TransferScan.Parameters.label.=", "no JoinedStr"),
        (expression("[x for x in input]"), "TransferScan.Parameters.label.=", "no ListComp"),
        (expression("(lambda: 1)()"), "TransferScan.Parameters.label.=", "no Lambda"),
        (expression("input['a':'b']"), "TransferScan.Parameters.label.=", "no Slice"),
        (expression("str(input)"), "TransferScan.Parameters.label.=", "str is no function"),
        (expression("input.scan_id.upper()"), "TransferScan.Parameters.label.=", "input.scan_id.upper is no function"),
        (expression("pathsplit()"), "TransferScan.Parameters.label.=", "pathsplit takes 1 arguments"),
        (expression("getattr('a', 1, 2)"), "TransferScan.Parameters.label.=", "getattr takes 1 or 2 arguments"),
        (expression("is_present(input.scan)"), "TransferScan.Parameters.label.=", "takes the name of a value"),
        # actions
        (put("Denoise", "ActionUrl", value="http://compute.actions.globus.org/v3"), "Denoise.ActionUrl", "no https"),
        (put("Denoise", "ActionUrl", value="https://"), "Denoise.ActionUrl", "no https"),
        (put("Denoise", "ActionUrl", value="https://[x"), "Denoise.ActionUrl", "no https"),
        (put("Denoise", "ActionUrl", value=None), "Denoise.ActionUrl", "must be a string"),
        (drop("Denoise", "ActionUrl"), "Denoise", "needs either ActionUrl or Handler"),
        (put("Denoise", "Handler", value="urn:x"), "Denoise", "needs either ActionUrl or Handler"),
        (
            put("TransferScan", "ActionUrl", value="https://actions.globus.org/transfer/transfer"),
            "TransferScan.ActionUrl",
            "no longer served; take https://transfer.actions.globus.org/",
        ),
        (
            put("Denoise", "ActionUrl", value="https://compute.actions.globus.org/fxap"),
            "Denoise.ActionUrl",
            "no longer",
        ),
        (drop("Denoise", "WaitTime"), "Denoise.WaitTime", "aborted after 300 seconds"),
        (put("Denoise", "WaitTime", value=0), "Denoise.WaitTime", "must be from 1 to"),
        (put("Denoise", "WaitTime", value=-5), "Denoise.WaitTime", "must be from 1 to"),
        (put("Denoise", "WaitTime", value=366 * 24 * 3600), "Denoise.WaitTime", "must be from 1 to"),
        (put("Denoise", "WaitTime", value=2.5), "Denoise.WaitTime", "a whole number of seconds"),
        (put("Denoise", "WaitTime", value=True), "Denoise.WaitTime", "a whole number of seconds"),
        (put("Denoise", "ExceptionOnActionFailure", value=1), "Denoise.ExceptionOnActionFailure", "true or false"),
        (put("Denoise", "RunAs", value=["User"]), "Denoise.RunAs", "must be a string"),
        (drop("Denoise", "Parameters", "tasks.$"), "Denoise.Parameters.tasks", "is required by"),
        (drop("TransferScan", "Parameters", "DATA"), "TransferScan.Parameters.DATA", "is required by"),
        (drop("PublishMetrics", "Parameters", "content.$"), "PublishMetrics.Parameters.content", "is required by"),
        (
            both(
                drop("TransferScan", "Parameters", "label.="),
                put("TransferScan", "Parameters", "label", value="x" * 129),
            ),
            "TransferScan.Parameters.label",
            "at most 128 characters",
        ),
        (
            both(
                drop("PublishMetrics", "Parameters", "subject.="),
                put("PublishMetrics", "Parameters", "subject", value="é" * 251),
            ),
            "PublishMetrics.Parameters.subject",
            "more than 500 bytes",
        ),
        (
            both(
                drop("PublishMetrics", "Parameters", "content.$"),
                put("PublishMetrics", "Parameters", "content", value={"a": [{"b.$": "$.input"}]}),
            ),
            "PublishMetrics.Parameters.content",
            "fail the service's validation",
        ),
        # catchers
        (drop("Denoise", "Catch"), "Denoise.Catch", "ends the run unrecorded"),
        (put("Denoise", "Catch", value=[]), "Denoise.Catch", "ends the run unrecorded"),
        (put("Denoise", "Catch", value={}), "Denoise.Catch", "must be a list"),
        (put("Denoise", "Catch", 0, value="States.All"), "Denoise.Catch.0", "must be an object"),
        (drop("Denoise", "Catch", 0, "Next"), "Denoise.Catch.0.Next", "is missing"),
        (drop("Denoise", "Catch", 0, "ResultPath"), "Denoise.Catch.0.ResultPath", "error overwrites the whole state"),
        (put("Denoise", "Catch", 0, "ResultPath", value="$"), "Denoise.Catch.0.ResultPath", "overwrites the whole"),
        (put("Denoise", "Catch", 0, "ResultPath", value="x"), "Denoise.Catch.0.ResultPath", "is no path"),
        (put("Denoise", "Catch", 0, "Retry", value=1), "Denoise.Catch.0.Retry", "unknown key of a catcher"),
        (drop("Denoise", "Catch", 0, "ErrorEquals"), "Denoise.Catch.0.ErrorEquals", "must be a list"),
        (put("Denoise", "Catch", 0, "ErrorEquals", value=[]), "Denoise.Catch.0.ErrorEquals", "at least one"),
        (
            put("Denoise", "Catch", 0, "ErrorEquals", value=["Timeout"]),
            "Denoise.Catch.0.ErrorEquals",
            "'Timeout' is no",
        ),
        (put("Denoise", "Catch", 0, "ErrorEquals", value=[None]), "Denoise.Catch.0.ErrorEquals", "None is no error"),
        (
            put("Denoise", "Catch", 0, "ErrorEquals", value=["States.All"]),
            "Denoise.Catch.0.ErrorEquals",
            "alone and last",
        ),
        (
            put("Denoise", "Catch", 1, "ErrorEquals", value=["States.All", "ActionTimeout"]),
            "Denoise.Catch.1.ErrorEquals",
            "alone and last",
        ),
        # choices
        (drop("DenoiseNeeded", "Default"), "DenoiseNeeded.Default", "fails where no rule holds"),
        (put("DenoiseNeeded", "Choices", value=[]), "DenoiseNeeded.Choices", "at least one rule"),
        (put("DenoiseNeeded", "Choices", value={}), "DenoiseNeeded.Choices", "must be a list"),
        (put("DenoiseNeeded", "Choices", 0, value=1), "DenoiseNeeded.Choices.0", "a rule is an object"),
        (drop("DenoiseNeeded", "Choices", 0, "Next"), "DenoiseNeeded.Choices.0.Next", "is missing"),
        (drop("DenoiseNeeded", "Choices", 0, "Variable"), "DenoiseNeeded.Choices.0.Variable", "is missing"),
        (rule(Variable="input.skip", IsNull=True), "DenoiseNeeded.Choices.0.Variable", "no path to one value"),
        (rule(Variable="$.input.skip"), "DenoiseNeeded.Choices.0", "exactly one test, found 0"),
        (rule(Variable="$.input.skip", IsNull=True, IsString=True), "DenoiseNeeded.Choices.0", "one test, found 2"),
        (rule(Variable="$.input.skip", Equals=1), "DenoiseNeeded.Choices.0.Equals", "unknown test"),
        (
            rule(Variable="$.input.skip", BooleanGreaterThan=True),
            "DenoiseNeeded.Choices.0.BooleanGreaterThan",
            "unknown",
        ),
        (rule(Variable="$.input.skip", IsNullPath="$.input"), "DenoiseNeeded.Choices.0.IsNullPath", "unknown test"),
        (rule(Variable="$.input.skip", BooleanEquals="true"), "DenoiseNeeded.Choices.0.BooleanEquals", "cannot be"),
        (rule(Variable="$.input.skip", NumericEquals=True), "DenoiseNeeded.Choices.0.NumericEquals", "cannot be"),
        (rule(Variable="$.input.skip", StringLessThan=1), "DenoiseNeeded.Choices.0.StringLessThan", "cannot be"),
        (rule(Variable="$.input.skip", StringEqualsPath="x"), "DenoiseNeeded.Choices.0.StringEqualsPath", "no path"),
        (rule(And=[]), "DenoiseNeeded.Choices.0.And", "a list of at least one rule"),
        (rule(Or=[1]), "DenoiseNeeded.Choices.0.Or.0", "a rule is an object"),
        (rule(Not={"And": {}}), "DenoiseNeeded.Choices.0.Not.And", "a list of at least one rule"),
        (
            rule(Not={"Variable": "$.input.skip", "IsNull": True, "Next": "Denoise"}),
            "DenoiseNeeded.Choices.0.Not",
            "exactly one test",
        ),
        # failing
        (put("RunFailed", "Error", value="x"), "RunFailed", "Error and ErrorPath exclude each other"),
        (put("RunFailed", "CausePath", value="cause"), "RunFailed.CausePath", "is no path"),
        # references
        (
            put("TransferScan", "Parameters", "source_endpoint.$", value="$.input.scan.uuid"),
            "TransferScan.Parameters.source_endpoint.$",
            "$.input.scan.uuid is not in the input schema",
        ),
        (
            expression("input.scan_ids"),
            "TransferScan.Parameters.label.=",
            "$.input.scan_ids is not in the input schema",
        ),
        (
            expression("inputs.scan_id"),
            "TransferScan.Parameters.label.=",
            "$.inputs.scan_id is not in the input schema",
        ),
        (expression("input.destination.path"), "TransferScan.Parameters.label.=", "may be absent when TransferScan"),
        (
            expression("Inspect.details.results[0].output.relative"),
            "TransferScan.Parameters.label.=",
            "$.Inspect.details.results[0].output.relative may be absent when TransferScan runs",
        ),
        (
            put("PublishMetrics", "Parameters", "content.$", value="$.LatestStage.details"),
            "PublishMetrics.Parameters.content.$",
            "$.LatestStage.details may be absent when PublishMetrics runs",
        ),
        (
            put("InspectFailed", "Next", value="DescribeRunFailure"),
            "DescribeRunFailure.Parameters.subject.=",
            "output.relative may be absent when DescribeRunFailure runs",
        ),
        (
            put("TransferResultsNeeded", "Choices", 0, "IsPresent", value=False),
            "TransferResults.Parameters.destination_endpoint.$",
            "$.input.destination.id may be absent when TransferResults runs",
        ),
        (
            put("DenoiseFailed", "Result", value={"stage": "Denoise"}),
            "DescribeRunFailure.Parameters.content.failure.stage.$",
            "$.FailedStage.name may be absent",
        ),
        (
            put("Denoise", "Catch", 0, "ResultPath", value="$.Error"),
            "DescribeRunFailure.Parameters.content.failure.error.$",
            "$.Failure.Error may be absent",
        ),
        (
            put("RunFailed", "ErrorPath", value="$.Failure.content.error"),
            "RunFailed.ErrorPath",
            "$.Failure.content.error may be absent",
        ),
        (
            put("Plan", "Parameters", value={"details": {"output.$": "$.Inspect.details.results[0].output"}}),
            "PreprocessNeeded.Choices.0",
            "may be absent when PreprocessNeeded runs",
        ),
        (rule(Variable="$.PrepareObjects", IsNull=False), "DenoiseNeeded.Choices.0", "$.PrepareObjects may be absent"),
        (
            rule(Variable="$.input.skip", StringEqualsPath="$.PrepareObjects.x"),
            "DenoiseNeeded.Choices.0",
            "$.PrepareObjects.x may be absent",
        ),
    ],
)
def test_every_break_is_found_at_its_place(change: Callable[[States], None], path: str, message: str) -> None:
    found = findings(change)
    assert any(f.path == f"States.{path}" and message in f.message for f in found), found


@pytest.mark.parametrize(
    ("definition", "path", "message"),
    [
        (None, "", "a definition is an object, found NoneType"),
        ([], "", "a definition is an object"),
        ({}, "StartAt", "is missing"),
        ({"StartAt": "A"}, "States", "is missing"),
        ({"StartAt": "A", "States": {}}, "States", "at least one state"),
        ({**flow(A={"Type": "Pass", "End": True}), "StartAt": "B"}, "StartAt", "there is no state 'B'"),
        ({**flow(A={"Type": "Pass", "End": True}), "Version": "1"}, "Version", "unknown key"),
        ({**flow(A={"Type": "Pass", "End": True}), "Comment": None}, "Comment", "must be a string"),
        (flow(A={"Type": "Pass", "Result": {"x": float("nan")}, "ResultPath": "$.a", "End": True}), "", "is not JSON"),
        (flow(A={"Type": "Pass", "Result": {"x": {1}}, "ResultPath": "$.a", "End": True}), "", "is not JSON"),
        (flow(A={"Type": "Wait", "End": True}), "States.A", "exactly one of Seconds"),
        (flow(A={"Type": "Wait", "Seconds": 1, "SecondsPath": "$.s", "End": True}), "States.A", "exactly one of"),
        (flow(A={"Type": "Wait", "Seconds": 0, "End": True}), "States.A.Seconds", "must be from 1"),
        (flow(A={"Type": "Wait", "Timestamp": 7, "End": True}), "States.A.Timestamp", "must be a string"),
        (flow(A={"Type": "AwaitWebInput", "ResultPath": "$", "End": True}), "States.A.ResultPath", "overwrites"),
        (
            flow(A={"Type": "Action", "Handler": {"Type": "ActionProvider"}, "Parameters": {}, "End": True}),
            "States.A.Handler",
            "an ActionProvider with its Url",
        ),
        (
            flow(
                A={"Type": "Action", "Handler": {"Type": "ActionProvider", "Url": "x"}, "Parameters": {}, "End": True}
            ),
            "States.A.Handler.Url",
            "no https address",
        ),
    ],
)
def test_definitions_as_a_whole(definition: Any, path: str, message: str) -> None:
    found = lint(definition)
    assert any(f.path == path and message in f.message for f in found), found


@pytest.mark.parametrize(
    "change",
    [
        # Functions that ask before they read
        expression("input.destination.path if is_present('input.destination') else 'none'"),
        expression("getattr('input.destination.path', 'none')"),
        expression("pathsplit(input.scan.path)[1]"),
        expression("'a' + input['scan_id'] + 'b' * 2"),
        # What a choice asks for is there afterwards
        rule(
            And=[{"Variable": "$.input.destination", "IsPresent": True}, {"Variable": "$.input.skip", "IsNull": False}]
        ),
        rule(
            And=[
                {"Variable": "$.Reconstruct.status", "IsPresent": True},
                {"Variable": "$.Reconstruct.status", "StringEquals": "SUCCEEDED"},
            ]
        ),
        rule(Not={"Variable": "$.PrepareObjects", "IsPresent": True}),
        rule(Or=[{"Variable": "$.input.scan_id", "StringMatches": "a*"}]),
        rule(Variable="$.input.scan_id", StringEqualsPath="$.input.processing_root"),
        # Run context
        expression("'run ' + _context.run_id"),
        # What follows Denoise on its own branch may read it
        put("Denoise", "Catch", 0, "ResultPath", value="$.Failure"),
        put("Denoise", "ResultPath", value="$.work.Denoise"),
        put("Denoise", "ResultPath", value="$.input.denoised"),
    ],
)
def test_what_is_right_is_left_alone(change: Callable[[States], None]) -> None:
    assert findings(change) == []


def test_without_a_schema_only_what_states_write_is_followed() -> None:
    assert findings(expression("input.scan_ids"), schema=None) == []
    assert findings(expression("LatestStage.status"), schema=None) != []


def test_catch_without_result_path_leaves_nothing_of_the_state() -> None:
    action = {
        "Type": "Action",
        "ActionUrl": "https://actions.example.org",
        "Parameters": {"x.$": "$.input.x"},
        "ResultPath": "$.A",
        "WaitTime": 60,
        "Catch": [{"ErrorEquals": ["States.ALL"], "ResultPath": "$.error", "Next": "B"}],
        "Next": "B",
    }
    after = {"Type": "Pass", "Parameters": {"y.$": "$.input.y"}, "ResultPath": "$.B", "End": True}
    schema = {
        "required": ["input"],
        "properties": {"input": {"required": ["x", "y"], "properties": {"x": {}, "y": {}}}},
    }
    assert lint(flow(A=action, B=after), schema) == []
    overwriting = {**after, "Parameters": {"y.$": "$.A.status"}}
    assert [f.path for f in lint(flow(A=action, B=overwriting), schema)] == ["States.B.Parameters.y.$"]


def test_loops_end_the_analysis() -> None:
    states = flow(
        Count={
            "Type": "ExpressionEval",
            "Parameters": {"n.=": "getattr('count.n', 0) + 1"},
            "ResultPath": "$.count",
            "Next": "Enough",
        },
        Enough={
            "Type": "Choice",
            "Choices": [{"Variable": "$.count.n", "NumericGreaterThan": 3, "Next": "Done"}],
            "Default": "Count",
        },
        Done={"Type": "Pass", "End": True},
    )
    assert lint(states, {"properties": {"input": {}}}) == []


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("$", ()),
        ("$.a.b_c-d", ("a", "b_c-d")),
        ("$.a[0][12].b", ("a", 0, 12, "b")),
        ("$['a b'].c", ("a b", "c")),
        ("$.a[*]", None),
        ("$..a", None),
        ("$.a.", None),
        ("$.1a", None),
        ("$a", None),
        ("a.b", None),
        ("$.a[-1]", None),
        ("$.a\n", None),
        ("", None),
        (None, None),
    ],
)
def test_paths(text: Any, path: Any) -> None:
    assert parse_path(text) == path


def test_finding_reads_as_one_line() -> None:
    assert str(Finding("States.A", "is never reached")) == "States.A: is never reached"
    assert str(Finding("", "is not JSON")) == "is not JSON"


# Any JSON whatever

KEYS = [
    "StartAt",
    "States",
    "Type",
    "Next",
    "End",
    "Choices",
    "Catch",
    "Parameters",
    "ResultPath",
    "Variable",
    "And",
    "A",
]
LEAVES = st.none() | st.booleans() | st.integers(-2, 5) | st.sampled_from(["Pass", "Action", "Choice", "A", "$.a", "a"])
JSON = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*KEYS, "x.$", "x.="]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(JSON)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_json_gives_findings_and_no_exception(value: Any) -> None:
    for definition in (value, {"StartAt": "A", "States": {"A": value}}, {"StartAt": "A", "States": value}):
        assert all(isinstance(finding, Finding) for finding in lint(definition))


@pytest.mark.parametrize("depth", [300, 100_000])
def test_deep_nesting_gives_a_finding_and_no_exception(depth: int) -> None:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value}
    state = {"Type": "ExpressionEval", "Parameters": value, "ResultPath": "$.a", "End": True}
    assert len(lint(flow(A=state))) == (0 if depth == 300 else 1)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, item in items for place in ((*path, key), *places(item, (*path, key)))]


PLACES = places(OWN["States"])


@given(st.sampled_from(PLACES), JSON)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_change_of_the_own_definition_gives_no_exception(place: tuple[Any, ...], value: Any) -> None:
    assert all(isinstance(finding, Finding) for finding in findings(put(*place, value=value)))


# What may be left out of the definition without making it wrong.
OPTIONAL = {"Comment", "ExceptionOnActionFailure", "ErrorPath", "CausePath"}


@pytest.mark.parametrize("name", sorted(OWN["States"]))
def test_no_state_and_no_key_of_one_can_be_lost_unnoticed(name: str) -> None:
    assert findings(drop(name)) != []
    for key in OWN["States"][name].keys() - OPTIONAL:
        assert findings(drop(name, key)) != [], key
