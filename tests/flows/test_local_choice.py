"""Choice rules: every comparison on every kind of value."""

from __future__ import annotations

from typing import Any

import pytest

from tomopipe.flows.local.actions import FlowError
from tomopipe.flows.local.choice import holds

STATE = {
    "text": "m",
    "limit": "n",
    "number": 5,
    "bound": 5.0,
    "yes": True,
    "null": None,
    "time": "2026-01-02T00:00:00Z",
    "later": "2026-01-02T02:00:00+01:00",
}


@pytest.mark.parametrize("kind", ["String", "Numeric", "Timestamp"])
@pytest.mark.parametrize(
    ("relation", "below", "same", "above"),
    [
        ("Equals", False, True, False),
        ("LessThan", False, False, True),
        ("LessThanEquals", False, True, True),
        ("GreaterThan", True, False, False),
        ("GreaterThanEquals", True, True, False),
    ],
)
def test_orders(kind: str, relation: str, below: bool, same: bool, above: bool) -> None:
    variable, *operands = {
        "String": ("$.text", "l", "m", "n"),
        "Numeric": ("$.number", 4.5, 5, 6),
        "Timestamp": ("$.time", "2026-01-01T23:59:59Z", "2026-01-02T01:00:00+01:00", "2026-01-02T00:00:00.5Z"),
    }[kind]
    found = [holds({"Variable": variable, f"{kind}{relation}": operand}, STATE) for operand in operands]
    assert found == [below, same, above]
    by_path = [holds({"Variable": variable, f"{kind}{relation}Path": "$.x"}, {**STATE, "x": x}) for x in operands]
    assert by_path == found


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"Variable": "$.yes", "BooleanEquals": True}, True),
        ({"Variable": "$.yes", "BooleanEquals": False}, False),
        ({"Variable": "$.yes", "BooleanEqualsPath": "$.yes"}, True),
        ({"Variable": "$.absent", "IsPresent": False}, True),
        ({"Variable": "$.absent", "IsPresent": True}, False),
        ({"Variable": "$.null", "IsPresent": True}, True),
        ({"Variable": "$.null", "IsNull": True}, True),
        ({"Variable": "$.text", "IsNull": False}, True),
        ({"Variable": "$.text", "IsString": True}, True),
        ({"Variable": "$.number", "IsNumeric": True}, True),
        ({"Variable": "$.yes", "IsNumeric": True}, False),
        ({"Variable": "$.yes", "IsBoolean": True}, True),
        ({"Variable": "$.time", "IsTimestamp": True}, True),
        ({"Variable": "$.text", "IsTimestamp": True}, False),
        # a value of another type is not equal, less or greater
        ({"Variable": "$.yes", "NumericEquals": 1}, False),
        ({"Variable": "$.number", "StringEquals": "5"}, False),
        ({"Variable": "$.number", "BooleanEquals": True}, False),
        ({"Variable": "$.text", "TimestampLessThan": "2026-01-01T00:00:00Z"}, False),
        ({"Variable": "$.text", "NumericLessThan": 9}, False),
        ({"Variable": "$.time", "StringMatches": "2026-*T*Z"}, True),
        ({"Variable": "$.time", "StringMatches": "2026"}, False),
        ({"Variable": "$.text", "StringMatches": r"\*"}, False),
        ({"Variable": "$.text", "StringMatches": "."}, False),
        # several comparisons in one rule
        ({"Variable": "$.number", "NumericGreaterThan": 1, "NumericLessThan": 5}, False),
        ({"Variable": "$.number", "NumericGreaterThan": 1, "NumericLessThan": 6}, True),
        # joined
        ({"And": [{"Variable": "$.yes", "BooleanEquals": True}, {"Variable": "$.text", "StringEquals": "x"}]}, False),
        ({"Or": [{"Variable": "$.yes", "BooleanEquals": True}, {"Variable": "$.text", "StringEquals": "x"}]}, True),
        ({"Not": {"Or": [{"Not": {"Variable": "$.yes", "IsPresent": True}}]}}, True),
        # And stops at the first that does not hold: what follows may be absent
        ({"And": [{"Variable": "$.a", "IsPresent": True}, {"Variable": "$.a", "BooleanEquals": True}]}, False),
    ],
)
def test_rules(rule: dict[str, Any], expected: bool) -> None:
    assert holds({**rule, "Next": "Elsewhere"}, STATE) is expected


def test_a_star_can_be_meant() -> None:
    assert holds({"Variable": "$.x", "StringMatches": r"a\**"}, {"x": "a*b"})
    assert not holds({"Variable": "$.x", "StringMatches": r"a\**"}, {"x": "ab"})


@pytest.mark.parametrize(
    "rule",
    [
        {"Variable": "$.absent", "StringEquals": "x"},
        {"Variable": "$.absent", "IsNull": True},
        {"Variable": "$.text", "StringEqualsPath": "$.absent"},
        {"Variable": "$.text", "StringResembles": "x"},
        {"Variable": "$.text", "BooleanMatches": "x"},
        {"Variable": "$.text"},
    ],
)
def test_refused(rule: dict[str, Any]) -> None:
    with pytest.raises(FlowError) as caught:
        holds(rule, STATE)
    assert caught.value.error == "States.Runtime"
