"""The rules of a Choice state: comparisons of one value of the run's data, joined by And, Or and Not.

Which state follows is the interpreter's.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

from .actions import FlowError, JsonObject
from .expressions import MISSING, find, resolve


def holds(rule: JsonObject, document: Any) -> bool:
    """Whether a choice rule holds for the run's data.

    A comparison with a value of another type is false. Several comparisons in one rule must all hold.

    Raises
    ------
    FlowError
        ``States.Runtime`` if the variable is not there (unless asked by ``IsPresent``), or an operator is unknown.
    """
    if "And" in rule:
        return all(holds(part, document) for part in rule["And"])
    if "Or" in rule:
        return any(holds(part, document) for part in rule["Or"])
    if "Not" in rule:
        return not holds(rule["Not"], document)
    value = find(document, rule["Variable"])
    comparisons = {name: wanted for name, wanted in rule.items() if name not in ("Variable", "Next", "Comment")}
    if not comparisons:
        raise FlowError("States.Runtime", f"The rule for '{rule['Variable']}' compares nothing.")
    return all(_compare(name, value, wanted, rule["Variable"], document) for name, wanted in comparisons.items())


def _compare(name: str, value: Any, wanted: Any, variable: str, document: Any) -> bool:
    if name == "IsPresent":
        return wanted is (value is not MISSING)
    if value is MISSING:
        raise FlowError("States.Runtime", f"The path '{variable}' of the choice rule could not be found in the state.")
    if name in _KIND_TESTS:
        return wanted is _KIND_TESTS[name](value)
    if name.endswith("Path"):
        return _compare(name.removesuffix("Path"), value, resolve(document, wanted, name), variable, document)
    if name == "StringMatches":
        return isinstance(value, str) and _pattern(wanted).fullmatch(value) is not None
    for kind, convert in _CONVERTERS.items():
        relation = _RELATIONS.get(name.removeprefix(kind))
        if name.startswith(kind) and relation is not None:
            left, right = convert(value), convert(wanted)
            return left is not None and right is not None and relation(left, right)
    raise FlowError("States.Runtime", f"'{name}' is not a comparison of a choice rule.")


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _boolean(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def timestamp(value: Any) -> datetime | None:
    """Time of an RFC 3339 text with its offset, or ``None`` where the value is no such text."""
    if not isinstance(value, str) or "T" not in value:
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None


def _pattern(wildcards: str) -> re.Pattern[str]:
    """Pattern of ``StringMatches``: ``*`` is any text, ``\\*`` a star."""
    parts = re.split(r"(\\\*|\\\\|\*)", wildcards)
    special = {"*": ".*", r"\*": r"\*", "\\\\": r"\\"}
    return re.compile("".join(special.get(part, re.escape(part)) for part in parts), re.DOTALL)


_CONVERTERS: dict[str, Callable[[Any], Any]] = {
    "String": _text,
    "Numeric": _number,
    "Boolean": _boolean,
    "Timestamp": timestamp,
}
_RELATIONS: dict[str, Callable[[Any, Any], bool]] = {
    "Equals": operator.eq,
    "LessThan": operator.lt,
    "LessThanEquals": operator.le,
    "GreaterThan": operator.gt,
    "GreaterThanEquals": operator.ge,
}
_KIND_TESTS: dict[str, Callable[[Any], bool]] = {
    "IsNull": lambda value: value is None,
    "IsBoolean": lambda value: isinstance(value, bool),
    "IsNumeric": lambda value: _number(value) is not None,
    "IsString": lambda value: isinstance(value, str),
    "IsTimestamp": lambda value: timestamp(value) is not None,
}
