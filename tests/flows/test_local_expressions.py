"""JSONPath, expressions and Parameters: each rule of the language, and that no text does anything but give a value."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tomopipe.flows.local.actions import FlowError
from tomopipe.flows.local.expressions import (
    MISSING,
    assign,
    build_parameters,
    evaluate,
    find,
    resolve,
    visible_parameters,
    visible_state,
)

STATE: dict[str, Any] = {
    "input": {"scan_id": "tooth", "slab": 64, "keep": True, "none": None, "tags": ["a", "b"], "two words": 1},
    "Inspect": {"details": {"results": [{"output": {"tasks": [1, 2]}}, {"exception": "no"}]}},
}

names = st.sampled_from(["a", "b", "_context", "two words", "ü.x"]) | st.text(min_size=1, max_size=8).filter(
    lambda name: not set(name) & set("'\"\\")
)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False, allow_infinity=False) | names,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(names, children, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("$", STATE),
        ("$.input.scan_id", "tooth"),
        ("$['input']['two words']", 1),
        ('$["input"].slab', 64),
        ("$.input.tags[0]", "a"),
        ("$.input.tags[-1]", "b"),
        ("$.input.none", None),
        ("$.Inspect.details.results[0].output.tasks", [1, 2]),
        ("$.Inspect.details.results[*].output", [{"tasks": [1, 2]}]),
        ("$.Inspect.details.results[*].output.tasks[1]", [2]),
        ("$.input.tags[*]", ["a", "b"]),
        ("$.input.absent", MISSING),
        ("$.input.tags[2]", MISSING),
        ("$.input.tags.name", MISSING),
        ("$.input[0]", MISSING),
        ("$.input[*]", MISSING),
    ],
)
def test_find(path: str, expected: Any) -> None:
    found = find(STATE, path)
    assert found is MISSING if expected is MISSING else found == expected


@pytest.mark.parametrize(
    "path", ["", "input", "$input", "$.", "$..a", "$.a[", "$.a[x]", "$.a[?(@.b)]", "$.a[0:1]", "$.a b"]
)
def test_find_refuses_what_is_no_path(path: str) -> None:
    with pytest.raises(FlowError, match="is not a path") as caught:
        find(STATE, path)
    assert caught.value.error == "States.Runtime"


def test_resolve_names_the_path_and_the_field() -> None:
    with pytest.raises(FlowError, match=r"'\$\.absent' specified for the field 'subject\.\$'") as caught:
        resolve(STATE, "$.absent", "subject.$")
    assert caught.value.error == "States.Runtime"


def test_assign_copies_and_makes_objects() -> None:
    before = json.dumps(STATE)
    assert assign(STATE, "$.a.b", 1) == {**STATE, "a": {"b": 1}}
    assert assign(STATE, "$.input.tags[1]", 9)["input"]["tags"] == ["a", 9]
    assert assign(STATE, "$", 5) == 5
    assert assign(STATE, None, 5) == 5
    assert json.dumps(STATE) == before


@pytest.mark.parametrize("path", ["$.input.slab.x", "$.input.tags[2]", "$.input[0]", "$.a[*]", "$._context.run_id"])
def test_assign_refuses(path: str) -> None:
    with pytest.raises(FlowError) as caught:
        assign(STATE, path, 1)
    assert caught.value.error == "States.ResultPathMatchFailure"


@given(document=st.dictionaries(names, values, max_size=4), keys=st.lists(names, min_size=1, max_size=4), value=values)
def test_what_is_assigned_is_found(document: dict[str, Any], keys: list[str], value: Any) -> None:
    path = "$" + "".join(f"['{key}']" for key in keys)
    before = json.dumps(document)
    try:
        changed = assign(document, path, value)
    except FlowError:
        on_the_way = [find(document, "$" + "".join(f"['{key}']" for key in keys[:n])) for n in range(1, len(keys))]
        crosses_a_value = any(item is not MISSING and not isinstance(item, dict) for item in on_the_way)
        assert crosses_a_value or keys[0] == "_context"
        return
    assert keys[0] != "_context"
    assert find(changed, path) == value
    assert json.dumps(document) == before
    assert {key: item for key, item in changed.items() if key != keys[0]} == {
        key: item for key, item in document.items() if key != keys[0]
    }


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("'tomo ' + input.scan_id", "tomo tooth"),
        ("input['two words'] + 1", 2),
        ("input.tags + ['c']", ["a", "b", "c"]),
        ("input.tags[-1]", "b"),
        ("input.scan_id[0]", "t"),
        ("input.slab / 4 - 2 * 3", 10.0),
        ("-input.slab // 5 % 4", -13 % 4),
        ("{'path': input.scan_id, 'n': 1}", {"path": "tooth", "n": 1}),
        ("1 < input.slab <= 64", True),
        ("1 < input.slab < 64", False),
        ("'a' in input.tags and 'oo' in input.scan_id", True),
        ("'slab' not in input", False),
        ("input.none == None or False", True),
        ("not input.keep", False),
        ("input.absent if is_present('input.absent') else 10", 10),
        ("is_present('input.none')", True),
        ("is_present('Inspect.details.results[0].output')", True),
        ("getattr('input.slab', 1)", 64),
        ("getattr('input.absent', 1)", 1),
        ("getattr('input.absent')", None),
        ("pathsplit('/foo/bar/blech')", ["/foo/bar", "blech"]),
        ("pathsplit('/~/path')", ["/~/", "path"]),
        ("pathsplit('/foo')[0]", "/"),
        (" 1 ", 1),
    ],
)
def test_evaluate(expression: str, expected: Any) -> None:
    assert evaluate(expression, STATE) == expected


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "1 +",
        "absent",
        "input.absent",
        "input.tags[5]",
        "input.tags['x']",
        "input.tags[True]",
        "input[0]",
        "1 / 0",
        "1 % 0",
        "10.0 * 1e308",
        "9223372036854775807 + 9223372036854775807",
        "'a' + 1",
        "'a' * 10",
        "'%d' % 3",
        "True + 1",
        "2 ** 3",
        "~1",
        "1 < 'a'",
        "input < input",
        "input is None",
        "1 in 'a'",
        "1 in 2",
        "b'x'",
        "1j",
        "...",
        "{1: 2}",
        "{**input}",
        "[x for x in input.tags]",
        "lambda: 1",
        "(x := 1)",
        "f'{input}'",
        "input.scan_id.upper",
        "input.scan_id.upper()",
        "input.__class__",
        "''.__class__.__mro__",
        "__import__('os')",
        "open('/etc/passwd')",
        "eval('1')",
        "pathsplit(1)",
        "pathsplit()",
        "pathsplit('a', 'b')",
        "getattr(input, '__class__')",
        "getattr('input', 1, 2)",
        "is_present(path='input')",
        "is_present('..')",
        "+" * 3000 + "1",
        "(" * 500,
        "1+" * 3000 + "1",
        "\0",
    ],
)
def test_evaluate_refuses(expression: str) -> None:
    with pytest.raises(FlowError) as caught:
        evaluate(expression, STATE)
    assert caught.value.error in ("States.IntrinsicFailure", "States.Runtime")


def _expressions() -> st.SearchStrategy[str]:
    atoms = st.sampled_from(
        ["1", "0", "2.5", "'x'", "True", "None", "input", "input.tags", "input.slab", "absent", "[]"]
    )
    forms = st.sampled_from(
        [
            "({0}) + ({1})",
            "({0}) % ({1})",
            "({0})[{1}]",
            "({0}) < ({1})",
            "({0}) in ({1})",
            "-({0})",
            "not ({0})",
            "({0}) if ({1}) else 3",
            "[{0}, {1}]",
            "{{'k': {0}}}",
            "({0}).tags",
            "is_present({0})",
            "pathsplit({0})",
            "({0}) and ({1})",
            "({0}) // ({1})",
            "({0}) ** ({1})",
            "({0}).__class__",
        ]
    )
    return st.recursive(atoms, lambda inner: st.builds(lambda form, a, b: form.format(a, b), forms, inner, inner))


@given(_expressions() | st.text(max_size=40))
def test_any_expression_gives_json_or_a_flow_error(expression: str) -> None:
    try:
        value = evaluate(expression, STATE)
    except FlowError:
        return
    json.dumps(value, allow_nan=False)


@given(left=st.integers(-(10**9), 10**9), right=st.integers(-(10**9), 10**9), operator=st.sampled_from("+-*"))
def test_arithmetic_is_pythons(left: int, right: int, operator: str) -> None:
    expected = {"+": left + right, "-": left - right, "*": left * right}[operator]
    assert evaluate(f"a {operator} (b)", {"a": left, "b": right}) == expected


TEMPLATE = {
    "constant": 10,
    "reference.$": "$.input.scan_id",
    "computed.=": "input.slab + 1",
    "nested": {"inner.$": "$.input.tags", "secret.$": "$.input.slab", "__Private_Parameters": ["secret"]},
    "items": [{"path.=": "'/' + input.scan_id"}, 3],
    "token": "hidden",
    "whole.$": "$.private_object",
    "__Private_Parameters": ["token.$", "computed"],
}


def test_build_parameters_and_what_of_them_is_visible() -> None:
    state = {**STATE, "private_object": {"_private_key": 1, "open": 2}}
    built = build_parameters(TEMPLATE, state)
    assert built == {
        "constant": 10,
        "reference": "tooth",
        "computed": 65,
        "nested": {"inner": ["a", "b"], "secret": 64},
        "items": [{"path": "/tooth"}, 3],
        "token": "hidden",
        "whole": {"_private_key": 1, "open": 2},
    }
    assert visible_parameters(TEMPLATE, built) == {
        "constant": 10,
        "reference": "tooth",
        "nested": {"inner": ["a", "b"]},
        "items": [{"path": "/tooth"}, 3],
        "whole": {"open": 2},
    }


def test_a_pass_state_takes_no_expressions() -> None:
    with pytest.raises(FlowError, match="only Action and ExpressionEval"):
        build_parameters({"nested": [{"x.=": "1"}]}, STATE, expressions=False)


def test_visible_state_hides_private_keys() -> None:
    assert visible_state({"_private_x": 1, "a": [{"_private": 2, "b": 3}]}) == {"a": [{"b": 3}]}
