"""Checks a flow definition offline against the language of the Globus Flows service, more strictly than the service.

Knows states, transitions, paths, expressions and limits; what an action provider does with parameters is left to it.
The language: https://docs.globus.org/api/flows/authoring-flows/
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard
from urllib.parse import urlsplit

RUN_STATE_BYTES_MAX = 200_000
RUN_DURATION_MAX_S = 365 * 24 * 3600
STATE_NAME_LENGTH_MAX = 80
TRANSFER_LABEL_LENGTH_MAX = 128
SEARCH_SUBJECT_BYTES_MAX = 500

Path = tuple[str | int, ...]
# What is known to be in the run's state: a path, and whether anything may lie below it.
Fact = tuple[Path, bool]
Facts = frozenset[Fact]


@dataclass(frozen=True, order=True)
class Finding:
    """Something wrong in a definition: where, as a path of keys joined by dots, and what."""

    path: str
    message: str

    def __str__(self) -> str:
        """One line for a person."""
        return f"{self.path}: {self.message}" if self.path else self.message


def lint(definition: Any, input_schema: Mapping[str, Any] | None = None) -> list[Finding]:
    """Everything wrong with a flow definition.

    Parameters
    ----------
    definition : any JSON
        The definition.
    input_schema : mapping, optional
        JSON Schema of the flow's input, without references. Where given, paths into the input are checked against it.

    Returns
    -------
    list of Finding
        In order of their paths; empty where nothing is wrong. Any JSON whatever gives findings, never an exception.
    """
    try:
        # What refers to what is followed only through states that have a shape, along transitions that lead somewhere.
        findings = set(_check_structure(definition)) or set(_check_graph(definition))
        return sorted(findings or set(_check_references(definition, input_schema)))
    except RecursionError:
        return [Finding("", "is nested too deeply")]


def parse_path(text: Any) -> Path | None:
    """Keys and indices of a path such as `$.a.b[0]`; None where it is none.

    Filters, wildcards and slices are none: they select any number of values, where a parameter takes one.
    """
    if not isinstance(text, str) or not _PATH.fullmatch(text):
        return None
    return tuple(name or quoted if name or quoted else int(index) for name, quoted, index in _SEGMENT.findall(text))


_SEGMENT = re.compile(r"\.([A-Za-z_][A-Za-z0-9_-]*)|\['([^'\]]+)'\]|\[(\d+)\]")
_PATH = re.compile(rf"\$(?:{_SEGMENT.pattern})*")

# --- Keys

_FLOW_KEYS = frozenset({"Next", "End"})
_DATA_KEYS = frozenset({"Parameters", "InputPath", "ResultPath"})
_WAIT_KEYS = frozenset({"Seconds", "SecondsPath", "Timestamp", "TimestampPath"})
_STATE_KEYS: dict[str, frozenset[str]] = {
    "Action": _FLOW_KEYS
    | _DATA_KEYS
    | {"ActionUrl", "ActionScope", "Handler", "WaitTime", "ExceptionOnActionFailure", "Catch", "RunAs"},
    "AwaitWebInput": _FLOW_KEYS | _DATA_KEYS | {"Catch"},
    "CreateWebInput": _FLOW_KEYS | _DATA_KEYS | {"Catch"},
    "Choice": frozenset({"Choices", "Default"}),
    "ExpressionEval": _FLOW_KEYS | {"Parameters", "ResultPath"},
    "Fail": frozenset({"Error", "ErrorPath", "Cause", "CausePath"}),
    "Pass": _FLOW_KEYS | _DATA_KEYS | {"Result"},
    "Wait": _FLOW_KEYS | _WAIT_KEYS,
}
_REQUIRED_KEYS: dict[str, frozenset[str]] = {
    "Choice": frozenset({"Choices"}),
    "ExpressionEval": frozenset({"Parameters", "ResultPath"}),
}
_VALUE_TYPES: dict[str, tuple[type, str]] = {
    "Comment": (str, "a string"),
    "Next": (str, "the name of a state"),
    "Default": (str, "the name of a state"),
    "End": (bool, "true"),
    "ActionUrl": (str, "a string"),
    "ActionScope": (str, "a string"),
    "RunAs": (str, "a string"),
    "Error": (str, "a string"),
    "Cause": (str, "a string"),
    "Timestamp": (str, "a string"),
    "Parameters": (dict, "an object"),
    "Result": (dict, "an object"),
    "Catch": (list, "a list"),
    "Choices": (list, "a list"),
    "ExceptionOnActionFailure": (bool, "true or false"),
    "WaitTime": (int, "a whole number of seconds"),
    "Seconds": (int, "a whole number of seconds"),
}
_PATH_KEYS = ("InputPath", "ResultPath", "SecondsPath", "TimestampPath", "ErrorPath", "CausePath")

_ERROR_NAMES = frozenset(
    {
        "ActionFailedException",
        "ActionTimeout",
        "ActionUnableToRun",
        "NoTokenException",
        "States.All",
        "States.ALL",
        "States.IntrinsicFailure",
        "States.ParameterPathFailure",
        "States.ResultPathMatchFailure",
    }
)
_ALL_ERRORS = frozenset({"States.All", "States.ALL"})

_PROVIDER_PARAMETERS: dict[str, frozenset[str]] = {
    "https://compute.actions.globus.org/v3": frozenset({"endpoint_id", "tasks"}),
    "https://transfer.actions.globus.org/transfer": frozenset({"source_endpoint", "destination_endpoint", "DATA"}),
    "https://actions.globus.org/search/ingest": frozenset({"search_index", "subject", "visible_to", "content"}),
}
_TRANSFER_URL = "https://transfer.actions.globus.org/transfer"
_SEARCH_INGEST_URL = "https://actions.globus.org/search/ingest"
_RETIRED_PROVIDERS = {
    "https://actions.globus.org/transfer/": "https://transfer.actions.globus.org/",
    "https://compute.actions.globus.org/fxap": "https://compute.actions.globus.org/v3",
    "https://automate.funcx.org": "https://compute.actions.globus.org/v3",
}

_COMPARISONS: dict[str, tuple[type, ...]] = {
    "Boolean": (bool,),
    "Numeric": (int, float),
    "String": (str,),
    "Timestamp": (str,),
}
_ORDERS = ("Equals", "GreaterThan", "GreaterThanEquals", "LessThan", "LessThanEquals")
_TESTS: dict[str, tuple[type, ...]] = {
    **{f"Is{kind}": (bool,) for kind in ("Boolean", "Null", "Numeric", "Present", "String", "Timestamp")},
    "StringMatches": (str,),
    "BooleanEquals": (bool,),
    **{f"{kind}{order}": types for kind, types in _COMPARISONS.items() if kind != "Boolean" for order in _ORDERS},
}
_TESTS_BY_PATH = {f"{test}Path" for test in _TESTS if not test.startswith("Is") and test != "StringMatches"}


# --- Structure


def _check_structure(definition: Any) -> Iterator[Finding]:
    if not isinstance(definition, dict):
        yield Finding("", f"a definition is an object, found {type(definition).__name__}")
        return
    yield from _check_json(definition)
    for key in sorted(definition.keys() - {"Comment", "StartAt", "States"}, key=str):
        yield Finding(str(key), "unknown key")
    if "Comment" in definition:
        yield from _check_type("", "Comment", definition["Comment"])
    if not isinstance(definition.get("StartAt"), str):
        yield Finding("StartAt", "is missing, or not the name of a state")
    states = definition.get("States")
    if not isinstance(states, dict) or not states:
        yield Finding("States", "is missing, or not an object with at least one state")
        return
    for name, state in states.items():
        if not isinstance(name, str) or not 1 <= len(name) <= STATE_NAME_LENGTH_MAX:
            yield Finding(f"States.{name}", f"a state's name has 1 to {STATE_NAME_LENGTH_MAX} characters")
        yield from _check_state(f"States.{name}", state)


def _check_json(definition: dict[str, Any]) -> Iterator[Finding]:
    try:
        json.dumps(definition, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        yield Finding("", f"is not JSON: {error}")


def _check_state(where: str, state: Any) -> Iterator[Finding]:
    kind = state.get("Type") if isinstance(state, dict) else None
    if not isinstance(kind, str) or kind not in _STATE_KEYS:
        yield Finding(f"{where}.Type", f"{kind!r} is no type of state; types are {', '.join(_STATE_KEYS)}")
        return
    for key in sorted(state.keys() - _STATE_KEYS[kind] - {"Type", "Comment"}, key=str):
        yield Finding(f"{where}.{key}", f"unknown key of a state of type {kind}")
    for key in sorted(_REQUIRED_KEYS.get(kind, frozenset()) - state.keys()):
        yield Finding(f"{where}.{key}", f"is required in a state of type {kind}")
    for key, value in state.items():
        yield from _check_type(where, key, value)
    if "Next" in _STATE_KEYS[kind]:
        yield from _check_transition(where, state)
    yield from _check_data(where, kind, state)
    yield from _CHECKS[kind](where, state)


def _check_type(where: str, key: str, value: Any) -> Iterator[Finding]:
    here = f"{where}.{key}" if where else key
    if key in _PATH_KEYS:
        yield from _check_path(here, key, value)
    elif key in _VALUE_TYPES:
        expected, words = _VALUE_TYPES[key]
        if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
            yield Finding(here, f"must be {words}, found {value!r:.80}")


def _check_path(here: str, key: str, value: Any) -> Iterator[Finding]:
    path = parse_path(value)
    if path is None:
        yield Finding(here, f"{value!r:.80} is no path to one value, such as $.input.scan_id")
    elif key == "ResultPath" and not all(isinstance(part, str) for part in path):
        yield Finding(here, f"{value} leads into a list; a result goes to a key of an object")
    elif key == "ResultPath" and path[:1] == ("_context",):
        yield Finding(here, "$._context is read-only")


def _check_transition(where: str, state: dict[str, Any]) -> Iterator[Finding]:
    if ("Next" in state) == ("End" in state):
        yield Finding(where, "needs either Next or End")
    if state.get("End") is False:
        yield Finding(f"{where}.End", "must be true, or left out")


def _check_data(where: str, kind: str, state: dict[str, Any]) -> Iterator[Finding]:
    sources = [key for key in ("Parameters", "InputPath", "Result") if key in state]
    if len(sources) > 1:
        yield Finding(where, f"{' and '.join(sources)} exclude each other")
    if "Parameters" in state:
        yield from _check_parameters(f"{where}.Parameters", state["Parameters"])
    for key in ("Parameters", "Result"):
        if key in state and _json_bytes(state[key]) > RUN_STATE_BYTES_MAX:
            yield Finding(f"{where}.{key}", f"is larger than a run's state may be ({RUN_STATE_BYTES_MAX} bytes)")
    writes = kind in ("Action", "AwaitWebInput", "CreateWebInput") or (kind == "Pass" and sources)
    if writes and state.get("ResultPath", "$") == "$":
        yield Finding(f"{where}.ResultPath", "without one the result overwrites the whole state of the run")


def _check_parameters(where: str, value: Any) -> Iterator[Finding]:
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _check_parameters(f"{where}.{index}", item)
    if not isinstance(value, dict):
        return
    names = [_plain_name(str(key)) for key in value]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield Finding(f"{where}.{name}", "is given more than once, by value, path or expression")
    for key, item in value.items():
        here = f"{where}.{key}"
        if key == "__Private_Parameters":
            yield from _check_private(here, item, names)
        elif str(key).endswith(".$"):
            if parse_path(item) is None:
                yield Finding(here, f"{item!r:.80} is no path to one value, such as $.input.scan_id")
        elif str(key).endswith(".="):
            try:
                _Expression(item)
            except ValueError as error:
                yield Finding(here, str(error))
        elif isinstance(item, str) and item.startswith("$."):
            yield Finding(here, f"{item!r:.80} is passed on as text; a path needs the key {key}.$")
        else:
            yield from _check_parameters(here, item)


def _check_private(where: str, value: Any, names: list[str]) -> Iterator[Finding]:
    listed = value if isinstance(value, list) else [value]
    for name in listed:
        if not isinstance(name, str) or _plain_name(name) not in names:
            yield Finding(where, f"{name!r:.80} is no parameter beside it")


def _plain_name(key: str) -> str:
    return key.removesuffix(".$").removesuffix(".=")


def _json_bytes(value: Any) -> int:
    try:
        return len(json.dumps(value).encode())
    except (TypeError, ValueError, RecursionError):
        return 0  # reported as not JSON


# --- Types of states


def _check_action(where: str, state: dict[str, Any]) -> Iterator[Finding]:
    if ("ActionUrl" in state) == ("Handler" in state):
        yield Finding(where, "needs either ActionUrl or Handler")
    if "Parameters" not in state and "InputPath" not in state:
        yield Finding(where, "needs either Parameters or InputPath")
    url = state.get("ActionUrl")
    if isinstance(url, str):
        yield from _check_url(f"{where}.ActionUrl", url)
    yield from _check_handler(f"{where}.Handler", state.get("Handler"))
    if "WaitTime" not in state:
        yield Finding(f"{where}.WaitTime", "without one the action is aborted after 300 seconds")
    yield from _check_seconds(f"{where}.WaitTime", state.get("WaitTime"))
    if not state.get("Catch"):
        yield Finding(f"{where}.Catch", "without one an error ends the run unrecorded")
    yield from _check_catch(where, state)
    parameters = state.get("Parameters")
    if isinstance(parameters, dict) and isinstance(url, str):
        yield from _check_provider(f"{where}.Parameters", url, parameters)


def _check_url(where: str, url: str) -> Iterator[Finding]:
    try:
        parts = urlsplit(url)
        valid = parts.scheme == "https" and bool(parts.hostname)
    except ValueError:
        valid = False
    if not valid:
        yield Finding(where, f"{url!r:.80} is no https address")
    for retired, current in _RETIRED_PROVIDERS.items():
        if url.startswith(retired):
            yield Finding(where, f"{url} is no longer served; take {current}")


def _check_handler(where: str, handler: Any) -> Iterator[Finding]:
    if handler is None or isinstance(handler, str):
        return
    required = {"ActionProvider": "Url", "RegisteredAPI": "Id"}
    kind = handler.get("Type") if isinstance(handler, dict) else None
    if not isinstance(kind, str) or kind not in required or not isinstance(handler.get(required[kind]), str):
        yield Finding(where, "must be a handle, an ActionProvider with its Url, or a RegisteredAPI with its Id")
    elif kind == "ActionProvider":
        yield from _check_url(f"{where}.Url", handler["Url"])


def _check_provider(where: str, url: str, parameters: dict[str, Any]) -> Iterator[Finding]:
    given = {_plain_name(str(key)) for key in parameters}
    for name in sorted(_PROVIDER_PARAMETERS.get(url.rstrip("/"), frozenset()) - given):
        yield Finding(f"{where}.{name}", f"is required by {url}")
    if url.rstrip("/") == _TRANSFER_URL:
        label = parameters.get("label")
        if isinstance(label, str) and (len(label) > TRANSFER_LABEL_LENGTH_MAX or label != label.strip()):
            yield Finding(
                f"{where}.label", f"has at most {TRANSFER_LABEL_LENGTH_MAX} characters and no space at its ends"
            )
    if url.rstrip("/") == _SEARCH_INGEST_URL:
        subject = parameters.get("subject")
        if isinstance(subject, str) and len(subject.encode()) > SEARCH_SUBJECT_BYTES_MAX:
            yield Finding(f"{where}.subject", f"has more than {SEARCH_SUBJECT_BYTES_MAX} bytes")
        # https://github.com/globus/globus-cli/issues/1248
        if _holds_references(parameters.get("content")):
            yield Finding(f"{where}.content", "paths within content fail the service's validation; build it beforehand")


def _holds_references(value: Any) -> bool:
    if isinstance(value, list):
        return any(_holds_references(item) for item in value)
    if isinstance(value, dict):
        return any(str(key).endswith((".$", ".=")) or _holds_references(item) for key, item in value.items())
    return False


def _check_catch(where: str, state: dict[str, Any]) -> Iterator[Finding]:
    catchers = state.get("Catch")
    if not isinstance(catchers, list):
        return
    for index, catcher in enumerate(catchers):
        here = f"{where}.Catch.{index}"
        if not isinstance(catcher, dict):
            yield Finding(here, "must be an object")
            continue
        for key in sorted(catcher.keys() - {"ErrorEquals", "Next", "ResultPath"}, key=str):
            yield Finding(f"{here}.{key}", "unknown key of a catcher")
        if not isinstance(catcher.get("Next"), str):
            yield Finding(f"{here}.Next", "is missing, or not the name of a state")
        if catcher.get("ResultPath", "$") == "$":
            yield Finding(f"{here}.ResultPath", "without one the error overwrites the whole state of the run")
        else:
            yield from _check_path(f"{here}.ResultPath", "ResultPath", catcher["ResultPath"])
        yield from _check_errors(f"{here}.ErrorEquals", catcher.get("ErrorEquals"), index == len(catchers) - 1)


def _check_errors(where: str, errors: Any, is_last: bool) -> Iterator[Finding]:
    if not isinstance(errors, list) or not errors:
        yield Finding(where, "must be a list with at least one name of an error")
        return
    for error in errors:
        if not isinstance(error, str) or error not in _ERROR_NAMES:
            known = ", ".join(sorted(_ERROR_NAMES))
            yield Finding(where, f"{error!r:.80} is no error of the service; errors are {known}")
    if any(isinstance(error, str) and error in _ALL_ERRORS for error in errors) and (len(errors) > 1 or not is_last):
        yield Finding(where, "what catches every error must stand alone and last")


def _check_seconds(where: str, seconds: Any) -> Iterator[Finding]:
    if isinstance(seconds, int) and not 1 <= seconds <= RUN_DURATION_MAX_S:
        yield Finding(where, f"must be from 1 to {RUN_DURATION_MAX_S} seconds, found {seconds}")


def _check_web_input(where: str, state: dict[str, Any]) -> Iterator[Finding]:
    yield from _check_catch(where, state)


def _check_choice(where: str, state: dict[str, Any]) -> Iterator[Finding]:
    if "Default" not in state:
        yield Finding(f"{where}.Default", "without one the run fails where no rule holds")
    choices = state.get("Choices")
    if isinstance(choices, list):
        if not choices:
            yield Finding(f"{where}.Choices", "must hold at least one rule")
        for index, rule in enumerate(choices):
            here = f"{where}.Choices.{index}"
            if not isinstance(rule, dict):
                yield Finding(here, "a rule is an object")
                continue
            if not isinstance(rule.get("Next"), str):
                yield Finding(f"{here}.Next", "is missing, or not the name of a state")
            yield from _check_rule(here, {key: value for key, value in rule.items() if key != "Next"})


def _check_rule(where: str, rule: Any) -> Iterator[Finding]:
    if not isinstance(rule, dict):
        yield Finding(where, "a rule is an object")
    elif rule.keys() == {"Not"}:
        yield from _check_rule(f"{where}.Not", rule["Not"])
    elif rule.keys() in ({"And"}, {"Or"}):
        ((key, parts),) = rule.items()
        if not isinstance(parts, list) or not parts:
            yield Finding(f"{where}.{key}", "must be a list of at least one rule")
        else:
            for index, part in enumerate(parts):
                yield from _check_rule(f"{where}.{key}.{index}", part)
    else:
        yield from _check_test(where, rule)


def _check_test(where: str, rule: dict[str, Any]) -> Iterator[Finding]:
    if parse_path(rule.get("Variable")) is None:
        yield Finding(f"{where}.Variable", "is missing, or no path to one value")
    tests = sorted(rule.keys() - {"Variable"}, key=str)
    if len(tests) != 1:
        yield Finding(where, f"a rule makes exactly one test, found {len(tests)}")
    for test in tests:
        here = f"{where}.{test}"
        if test in _TESTS_BY_PATH:
            if parse_path(rule[test]) is None:
                yield Finding(here, "is no path to one value")
        elif test not in _TESTS:
            yield Finding(here, "unknown test")
        elif not isinstance(rule[test], _TESTS[test]) or (isinstance(rule[test], bool) and bool not in _TESTS[test]):
            yield Finding(here, f"{rule[test]!r:.80} cannot be compared so")


def _check_wait(where: str, state: dict[str, Any]) -> Iterator[Finding]:
    if len(state.keys() & _WAIT_KEYS) != 1:
        yield Finding(where, f"needs exactly one of {', '.join(sorted(_WAIT_KEYS))}")
    yield from _check_seconds(f"{where}.Seconds", state.get("Seconds"))


def _check_fail(where: str, state: dict[str, Any]) -> Iterator[Finding]:
    for key in ("Error", "Cause"):
        if key in state and f"{key}Path" in state:
            yield Finding(where, f"{key} and {key}Path exclude each other")


def _check_pass(where: str, state: dict[str, Any]) -> Iterator[Finding]:
    if "ResultPath" in state and not state.keys() & {"Result", "Parameters", "InputPath"}:
        yield Finding(f"{where}.ResultPath", "without Result, Parameters or InputPath it copies the state into itself")
    for key in _computed_keys(f"{where}.Parameters", state.get("Parameters")):
        yield Finding(key, "a Pass evaluates no expressions; take an ExpressionEval")


def _computed_keys(where: str, value: Any) -> Iterator[str]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        if str(key).endswith(".="):
            yield f"{where}.{key}"
        else:
            yield from _computed_keys(f"{where}.{key}", item)


def _check_nothing_more(where: str, state: dict[str, Any]) -> Iterator[Finding]:
    yield from ()


_CHECKS: dict[str, Callable[[str, dict[str, Any]], Iterator[Finding]]] = {
    "Action": _check_action,
    "AwaitWebInput": _check_web_input,
    "CreateWebInput": _check_web_input,
    "Choice": _check_choice,
    "ExpressionEval": _check_nothing_more,
    "Fail": _check_fail,
    "Pass": _check_pass,
    "Wait": _check_wait,
}

# --- Expressions

_EXPRESSION_NODES = (
    ast.Expression, ast.Constant, ast.Name, ast.Load, ast.Attribute, ast.Subscript, ast.List, ast.IfExp, ast.Call,
    ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Mod, ast.UnaryOp, ast.USub, ast.Not, ast.BoolOp, ast.And,
    ast.Or, ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In, ast.NotIn,
)  # fmt: skip
_FUNCTIONS = {"pathsplit": (1,), "is_present": (1,), "getattr": (1, 2)}


class _Expression:
    """An expression (`.=`): what it reads from the run's state, and of what it asks first whether it is there."""

    def __init__(self, text: Any) -> None:
        """Parse; raises ValueError with what is wrong."""
        self.reads: set[Path] = set()
        self.asked: set[Path] = set()
        if not isinstance(text, str):
            raise ValueError(f"an expression is a string, found {type(text).__name__}")
        try:
            tree = ast.parse(text.strip(), mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ValueError(f"{text!r:.80} is no expression: {error}") from None
        for node in ast.walk(tree):
            if not isinstance(node, _EXPRESSION_NODES):
                raise ValueError(f"{text!r:.80}: expressions have no {type(node).__name__}")
        self._read(tree.body)

    def unguarded(self) -> set[Path]:
        """What is read without asking."""
        return {path for path in self.reads if not any(path[: len(asked)] == asked for asked in self.asked)}

    def _read(self, node: ast.AST) -> None:
        path = _node_path(node)
        if path is not None:
            self.reads.add(path)
        elif isinstance(node, ast.Call):
            self._read_call(node)
        else:
            for child in ast.iter_child_nodes(node):
                self._read(child)

    def _read_call(self, node: ast.Call) -> None:
        name = node.func.id if isinstance(node.func, ast.Name) else ast.unparse(node.func)
        if name not in _FUNCTIONS:
            raise ValueError(f"{name} is no function of expressions; functions are {', '.join(_FUNCTIONS)}")
        if len(node.args) not in _FUNCTIONS[name] or node.keywords:
            raise ValueError(f"{name} takes {' or '.join(map(str, _FUNCTIONS[name]))} arguments")
        first, *others = node.args
        if name == "pathsplit":
            self._read(first)
        else:
            asked = parse_path(f"$.{first.value!s}") if _is_text(first) else None
            if asked is None:
                raise ValueError(f"{name} takes the name of a value, as a string")
            self.asked.add(asked)
        for other in others:
            self._read(other)


def _is_text(node: ast.AST) -> TypeGuard[ast.Constant]:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _node_path(node: ast.AST) -> Path | None:
    """Path of a chain of names, attributes and constant indices; None for anything else."""
    if isinstance(node, ast.Name):
        return (node.id,)
    if isinstance(node, ast.Attribute):
        parent = _node_path(node.value)
        return None if parent is None else (*parent, node.attr)
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        parent, key = _node_path(node.value), node.slice.value
        return (*parent, key) if parent is not None and isinstance(key, str | int) else None
    return None


# --- Graph


def _check_graph(definition: dict[str, Any]) -> Iterator[Finding]:
    states = definition["States"]
    start = definition["StartAt"]
    if start not in states:
        yield Finding("StartAt", f"there is no state {start!r}")
        return
    edges = {name: list(_edges(state)) for name, state in states.items()}
    dangling = [(name, key, target) for name in states for key, target in edges[name] if target not in states]
    for name, key, target in dangling:
        yield Finding(f"States.{name}.{key}", f"there is no state {target!r}")
    if dangling:
        return
    targets = {name: {target for _, target in edges[name]} for name in states}
    reached = _closure({start}, targets)
    for name in states.keys() - reached:
        yield Finding(f"States.{name}", "is never reached")
    sources = {name: {source for source in states if name in targets[source]} for name in states}
    ending = _closure({name for name, state in states.items() if not targets[name] or state.get("End")}, sources)
    for name in reached - ending:
        yield Finding(f"States.{name}", "leads to no end")


def _edges(state: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Where a state leads: the key that says so, and the target."""
    for key in ("Next", "Default"):
        if key in state:
            yield key, state[key]
    for key in ("Choices", "Catch"):
        for index, item in enumerate(state.get(key, [])):
            yield f"{key}.{index}.Next", item["Next"]


def _closure(start: set[str], targets: Mapping[str, set[str]]) -> set[str]:
    reached, waiting = set(start), list(start)
    while waiting:
        for target in targets[waiting.pop()] - reached:
            reached.add(target)
            waiting.append(target)
    return reached


# --- References


def _check_references(definition: dict[str, Any], schema: Mapping[str, Any] | None) -> Iterator[Finding]:
    states = definition["States"]
    before = _facts_before(definition, schema)
    for name, state in states.items():
        for key, path in _reads(state):
            if path[:1] == ("_context",) or _is_there(path, before[name]):
                continue
            where, text = f"States.{name}.{key}", _path_text(path)
            if schema is not None and not _in_schema(path, schema) and not _is_written(path, states):
                yield Finding(where, f"{text} is not in the input schema, and no state writes it")
            else:
                yield Finding(where, f"{text} may be absent when {name} runs")


def _facts_before(definition: dict[str, Any], schema: Mapping[str, Any] | None) -> dict[str, Facts]:
    """What is there when a state begins, on whatever way the run came to it: a forward data-flow analysis."""
    states = definition["States"]
    before: dict[str, Facts] = {definition["StartAt"]: _initial_facts(states, schema)}
    waiting = [definition["StartAt"]]
    while waiting:
        name = waiting.pop()
        for target, facts in _outgoing(states[name], before[name], schema):
            merged = facts & before[target] if target in before else facts
            if before.get(target) != merged:
                before[target] = merged
                waiting.append(target)
    return before


def _initial_facts(states: Mapping[str, Any], schema: Mapping[str, Any] | None) -> Facts:
    if schema is not None:
        return frozenset(_schema_facts((), schema))
    # Without a schema, whatever no state writes is taken to be input.
    written = {path[0] for path in _writes(states) if path}
    read = {path[0] for state in states.values() for _, path in _reads(state) if path}
    return frozenset(((root,), True) for root in read - written) | {((), False)}


def _schema_facts(path: Path, schema: Any) -> Iterator[Fact]:
    """What must be there below a path, of a value that keeps to a schema."""
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    yield path, not properties
    if properties:
        for name in schema.get("required", []):
            yield from _schema_facts((*path, name), properties.get(name, {}))


def _outgoing(state: dict[str, Any], facts: Facts, schema: Mapping[str, Any] | None) -> Iterator[tuple[str, Facts]]:
    """Where a state leads, and what is there then."""
    for catcher in state.get("Catch", []):
        caught: set[Fact] = {((), False), (("Error",), True), (("Cause",), True)}
        yield catcher["Next"], _written(facts, parse_path(catcher.get("ResultPath", "$")) or (), caught)
    for rule in state.get("Choices", []):
        present = {fact for path in _present_where(rule) for fact in _facts_at(path, schema)}
        yield rule["Next"], facts | present
    result = _result_facts(state)
    after = facts if result is None else _written(facts, parse_path(state.get("ResultPath", "$")) or (), result)
    for key in ("Next", "Default"):
        if key in state:
            yield state[key], after


def _result_facts(state: dict[str, Any]) -> set[Fact] | None:
    """What a state writes, relative to its ResultPath; None where it writes nothing."""
    kind = state["Type"]
    if kind in ("Choice", "Wait", "Fail"):
        return None
    if kind == "Pass" and not state.keys() & {"Result", "Parameters", "InputPath"}:
        return None
    if kind in ("Pass", "ExpressionEval") and "InputPath" not in state:
        return set(_value_facts((), state.get("Result", state.get("Parameters"))))
    return {((), True)}


def _value_facts(path: Path, value: Any) -> Iterator[Fact]:
    if isinstance(value, dict):
        yield path, False
        for key, item in value.items():
            if key != "__Private_Parameters":
                is_computed = key.endswith((".$", ".="))
                below = (*path, _plain_name(key))
                yield from [(below, True)] if is_computed else _value_facts(below, item)
    elif isinstance(value, list):
        yield path, False
        for index, item in enumerate(value):
            yield from _value_facts((*path, index), item)
    else:
        yield path, True


def _written(facts: Facts, where: Path, result: set[Fact]) -> Facts:
    """The facts after a result was written to a path: what lay there is gone, what leads there is there."""
    kept = {(path, is_open) for path, is_open in facts if path[: len(where)] != where}
    leading = {(where[:length], False) for length in range(len(where)) if not _is_there(where[:length], facts)}
    return frozenset(kept | leading | {((*where, *path), is_open) for path, is_open in result})


def _is_there(path: Path, facts: Facts) -> bool:
    return any(known == path or (is_open and path[: len(known)] == known) for known, is_open in facts)


def _facts_at(path: Path, schema: Mapping[str, Any] | None) -> list[Fact]:
    below: Any = schema or {}
    for part in path:
        below = below.get("properties", {}).get(part, {}) if isinstance(below, Mapping) else {}
    return list(_schema_facts(path, below))


def _in_schema(path: Path, schema: Any) -> bool:
    """Whether a value that keeps to the schema may have something at a path."""
    for part in path:
        properties = schema.get("properties") if isinstance(schema, Mapping) else None
        if not properties:
            return True
        if part not in properties:
            return False
        schema = properties[part]
    return True


def _is_written(path: Path, states: Mapping[str, Any]) -> bool:
    return any(written and path[:1] == written[:1] for written in _writes(states))


def _writes(states: Mapping[str, Any]) -> Iterator[Path]:
    for state in states.values():
        if _result_facts(state) is not None:
            yield parse_path(state.get("ResultPath", "$")) or ()
        for catcher in state.get("Catch", []):
            yield parse_path(catcher.get("ResultPath", "$")) or ()


def _reads(state: dict[str, Any]) -> Iterator[tuple[str, Path]]:
    """What a state reads, by key, leaving out what it asks after first."""
    for key in ("InputPath", "SecondsPath", "TimestampPath", "ErrorPath", "CausePath"):
        if (path := parse_path(state.get(key))) is not None:
            yield key, path
    yield from _parameter_reads("Parameters", state.get("Parameters", {}))
    for index, rule in enumerate(state.get("Choices", [])):
        for path in _rule_reads(rule):
            yield f"Choices.{index}", path


def _parameter_reads(where: str, value: Any) -> Iterator[tuple[str, Path]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        here = f"{where}.{key}"
        if str(key).endswith(".$"):
            yield here, parse_path(item) or ()
        elif str(key).endswith(".="):
            for path in sorted(_Expression(item).unguarded(), key=str):
                yield here, path
        else:
            yield from _parameter_reads(here, item)


def _rule_reads(rule: Any) -> Iterator[Path]:
    """What a rule compares, leaving out what it asks after first in the same `And`."""
    if "And" in rule:
        asked = {path for part in rule["And"] for path in _asked_by(part)}
        for part in rule["And"]:
            yield from (path for path in _rule_reads(part) if path not in asked)
    elif "Or" in rule:
        for part in rule["Or"]:
            yield from _rule_reads(part)
    elif "Not" in rule:
        yield from _rule_reads(rule["Not"])
    elif "IsPresent" not in rule:
        for key, value in rule.items():
            if key == "Variable" or key in _TESTS_BY_PATH:
                yield parse_path(value) or ()


def _asked_by(rule: Any) -> list[Path]:
    return [parse_path(rule["Variable"]) or ()] if rule.get("IsPresent") is True else []


def _present_where(rule: Any) -> Iterator[Path]:
    """What must be there where a rule holds."""
    if "And" in rule:
        for part in rule["And"]:
            yield from _present_where(part)
    elif "Variable" in rule and rule.get("IsPresent", True):
        yield parse_path(rule["Variable"]) or ()


def _path_text(path: Path) -> str:
    return "$" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
