"""How a state refers to the run's data: JSONPath, expressions, and the ``Parameters`` built from both.

The order of states is the interpreter's. Nothing here changes the data it is given, and no text is ever executed.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from .actions import FlowError, JsonObject

MISSING: Final = object()
"""What `find` gives for a path that leads nowhere (``None`` is JSON's null, a value)."""

_WILDCARD: Final = object()
_STEP = re.compile(
    r"""\.(?P<name>[^\W\d][\w-]*)
      | \[(?P<index>-?\d{1,9})\]
      | \[(?P<quote>['"])(?P<key>[^'"\\]+)(?P=quote)\]
      | (?P<wildcard>\[\*\])""",
    re.VERBOSE,
)
_MAX_EXPRESSION_CHARACTERS = 4096
_MAX_INTEGER = 2**63


def find(document: Any, path: str) -> Any:
    """Value at a JSONPath, or `MISSING`.

    The subset: ``$``, ``.name``, ``['any key']``, ``[0]``, ``[-1]``, and ``[*]`` over a list, which gives the list of
    what the rest of the path finds in each element (elements without it are left out). No filters, slices or ``..``.

    Raises
    ------
    FlowError
        ``States.Runtime`` if `path` is not such a path.
    """
    return _walk(document, _steps(path))


def resolve(document: Any, path: str, field: str) -> Any:
    """Value at a JSONPath that must be there; `field` names the place that refers to it in the error."""
    value = find(document, path)
    if value is MISSING:
        raise FlowError(
            "States.Runtime", f"The path '{path}' specified for the field '{field}' could not be found in the state."
        )
    return value


def assign(document: Any, path: str | None, value: Any) -> Any:
    """Copy of a document with `value` at a reference path; ``$`` (the default) makes `value` the whole document.

    Objects on the way are made where they are missing; an index must exist.

    Raises
    ------
    FlowError
        ``States.ResultPathMatchFailure`` if the path crosses something that is not an object, or is read-only.
    """
    steps = _steps(path or "$")
    if _WILDCARD in steps or steps[:1] == ("_context",):
        raise FlowError("States.ResultPathMatchFailure", f"ResultPath '{path}' cannot be written to.")
    return _replace(document, steps, value, path)


def evaluate(expression: str, document: JsonObject) -> Any:
    """Value of a ``.=`` expression over the names of a document.

    Constants, names, ``a.b``, ``a['b']``, ``a[0]``, lists, objects; ``+ - * / // %`` on numbers, ``+`` on texts and on
    lists; comparisons, ``in``, ``and``, ``or``, ``not``, ``x if c else y``; ``pathsplit(text)``, ``is_present('a.b')``,
    ``getattr('a.b', default)``. Parsed with `ast` and walked: nothing else is understood, nothing is executed.

    Raises
    ------
    FlowError
        ``States.IntrinsicFailure`` if it is not such an expression or cannot be computed.
    """
    try:
        return _Evaluator(expression, document).value(_parse(expression))
    except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise _intrinsic_failure(expression, str(error)) from error


def build_parameters(template: Any, document: JsonObject, *, expressions: bool = True) -> Any:
    """Value of a ``Parameters`` template: ``key.$`` takes a path, ``key.=`` an expression, anything else stands.

    Without `expressions` (Pass states) a ``key.=`` is refused, as the service does not evaluate it there.
    """
    if isinstance(template, list):
        return [build_parameters(item, document, expressions=expressions) for item in template]
    if not isinstance(template, dict):
        return template
    built: JsonObject = {}
    for key, item in template.items():
        if key == "__Private_Parameters":
            continue
        if key.endswith(".$"):
            built[key[:-2]] = resolve(document, item, key)
        elif key.endswith(".="):
            if not expressions:
                raise FlowError("States.Runtime", f"'{key}': only Action and ExpressionEval states take expressions.")
            built[key[:-2]] = evaluate(item, document)
        else:
            built[key] = build_parameters(item, document, expressions=expressions)
    return built


def visible_parameters(template: Any, values: Any) -> Any:
    """What of built parameters a log may show: all but what ``__Private_Parameters`` names."""
    if isinstance(template, list) and isinstance(values, list):
        return [visible_parameters(*pair) for pair in zip(template, values, strict=True)]
    if not isinstance(template, dict) or not isinstance(values, dict):
        return visible_state(values)
    private = {_bare(name) for name in template.get("__Private_Parameters", [])}
    by_name = {_bare(key): item for key, item in template.items() if _bare(key) == key}
    return {
        key: visible_parameters(by_name.get(key), value)
        for key, value in values.items()
        if key not in private and not key.startswith("_private")
    }


def visible_state(document: Any) -> Any:
    """What of the run's data a log may show: all but keys that begin with ``_private``."""
    if isinstance(document, list):
        return [visible_state(item) for item in document]
    if isinstance(document, dict):
        return {key: visible_state(item) for key, item in document.items() if not key.startswith("_private")}
    return document


def _bare(key: str) -> str:
    return key[:-2] if key.endswith((".$", ".=")) else key


@lru_cache(maxsize=1024)
def _steps(path: str) -> tuple[Any, ...]:
    steps: list[Any] = []
    position = 1
    while position < len(path) and path[0] == "$":
        match = _STEP.match(path, position)
        if match is None:
            break
        if match["index"] is not None:
            steps.append(int(match["index"]))
        elif match["wildcard"] is not None:
            steps.append(_WILDCARD)
        else:
            steps.append(match["name"] or match["key"])
        position = match.end()
    if path[:1] != "$" or position < len(path):
        raise FlowError("States.Runtime", f"'{path}' is not a path that is understood (from character {position}).")
    return tuple(steps)


def _walk(document: Any, steps: tuple[Any, ...]) -> Any:
    value = document
    for number, step in enumerate(steps):
        if step is _WILDCARD:
            if not isinstance(value, list):
                return MISSING
            found = (_walk(item, steps[number + 1 :]) for item in value)
            return [item for item in found if item is not MISSING]
        value = _child(value, step)
        if value is MISSING:
            return MISSING
    return value


def _child(value: Any, step: Any) -> Any:
    if isinstance(step, str):
        return value.get(step, MISSING) if isinstance(value, dict) else MISSING
    if isinstance(value, list) and -len(value) <= step < len(value):
        return value[step]
    return MISSING


def _replace(document: Any, steps: tuple[Any, ...], value: Any, path: str | None) -> Any:
    if not steps:
        return value
    step, rest = steps[0], steps[1:]
    old = _child(document, step)
    if isinstance(step, str) and isinstance(document, dict):
        return {**document, step: _replace({} if old is MISSING else old, rest, value, path)}
    if isinstance(step, int) and old is not MISSING:
        changed = list(document)
        changed[step] = _replace(old, rest, value, path)
        return changed
    raise FlowError("States.ResultPathMatchFailure", f"ResultPath '{path}' does not fit the state's data.")


def _intrinsic_failure(expression: str, reason: str) -> FlowError:
    return FlowError("States.IntrinsicFailure", f'The expression "{expression}" cannot be evaluated: {reason}.')


@lru_cache(maxsize=1024)
def _parse(expression: str) -> ast.expr:
    if len(expression) > _MAX_EXPRESSION_CHARACTERS:
        raise _intrinsic_failure(expression[:80] + "...", f"longer than {_MAX_EXPRESSION_CHARACTERS} characters")
    try:
        return ast.parse(expression.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _intrinsic_failure(expression, f"it does not parse ({error})") from error


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same_kind(left: Any, right: Any) -> bool:
    return (_is_number(left) and _is_number(right)) or (isinstance(left, str) and isinstance(right, str))


def _contains(item: Any, container: Any) -> bool:
    if isinstance(container, str) and not isinstance(item, str):
        raise TypeError("only a text can be in a text")
    if not isinstance(container, str | list | dict):
        raise TypeError("'in' needs a text, a list or an object")
    return item in container


_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_ORDER: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_EQUALITY: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.In: _contains,
    ast.NotIn: lambda item, container: not _contains(item, container),
}


class _Evaluator:
    """Walks one expression. Values are JSON; anything that Python offers beyond is refused."""

    def __init__(self, expression: str, document: JsonObject) -> None:
        self.expression = expression
        self.document = document

    def value(self, node: ast.expr) -> Any:
        handler = getattr(self, f"_{type(node).__name__}", None)
        if handler is None:
            raise TypeError(f"{type(node).__name__} is not understood")
        return handler(node)

    def _Constant(self, node: ast.Constant) -> Any:
        if node.value is not None and not isinstance(node.value, str | int | float):
            raise TypeError(f"{type(node.value).__name__} is not a JSON value")
        return self._checked(node.value)

    def _Name(self, node: ast.Name) -> Any:
        if node.id not in self.document:
            raise LookupError(f"'{node.id}' is not in the state")
        return self.document[node.id]

    def _Attribute(self, node: ast.Attribute) -> Any:
        owner = self.value(node.value)
        if not isinstance(owner, dict) or node.attr not in owner:
            raise LookupError(f"there is no '{node.attr}'")
        return owner[node.attr]

    def _Subscript(self, node: ast.Subscript) -> Any:
        owner, index = self.value(node.value), self.value(node.slice)
        by_name = isinstance(owner, dict) and isinstance(index, str)
        by_place = isinstance(owner, list | str) and isinstance(index, int) and not isinstance(index, bool)
        if not (by_name or by_place):
            raise TypeError("an index is a number in a list or text, a name in an object")
        try:
            return owner[index]
        except LookupError:
            raise LookupError(f"there is no [{index!r}]") from None

    def _List(self, node: ast.List) -> Any:
        return [self.value(item) for item in node.elts]

    def _Dict(self, node: ast.Dict) -> Any:
        built: JsonObject = {}
        for key_node, item in zip(node.keys, node.values, strict=True):
            key = self.value(key_node) if key_node is not None else None
            if not isinstance(key, str):
                raise TypeError("the names in an object are texts")
            built[key] = self.value(item)
        return built

    def _UnaryOp(self, node: ast.UnaryOp) -> Any:
        operand = self.value(node.operand)
        if isinstance(node.op, ast.Not):
            return not operand
        if isinstance(node.op, ast.Invert) or not _is_number(operand):
            raise TypeError("a sign needs a number")
        return -operand if isinstance(node.op, ast.USub) else operand

    def _BinOp(self, node: ast.BinOp) -> Any:
        left, right = self.value(node.left), self.value(node.right)
        compute = _ARITHMETIC.get(type(node.op))
        joins = isinstance(node.op, ast.Add) and (
            (isinstance(left, str) and isinstance(right, str)) or (isinstance(left, list) and isinstance(right, list))
        )
        if compute is None or not (joins or (_is_number(left) and _is_number(right))):
            raise TypeError(f"{type(node.op).__name__} does not go with {type(left).__name__}, {type(right).__name__}")
        return self._checked(compute(left, right))

    def _BoolOp(self, node: ast.BoolOp) -> Any:
        wanted = isinstance(node.op, ast.Or)
        result: Any = not wanted
        for item in node.values:
            result = self.value(item)
            if bool(result) is wanted:
                break
        return result

    def _Compare(self, node: ast.Compare) -> bool:
        left = self.value(node.left)
        for kind, right_node in zip(node.ops, node.comparators, strict=True):
            right = self.value(right_node)
            if type(kind) in _ORDER:
                if not _same_kind(left, right):
                    raise TypeError("only two numbers or two texts have an order")
                holds = _ORDER[type(kind)](left, right)
            elif type(kind) in _EQUALITY:
                holds = _EQUALITY[type(kind)](left, right)
            else:
                raise TypeError(f"{type(kind).__name__} is not understood")
            if not holds:
                return False
            left = right
        return True

    def _IfExp(self, node: ast.IfExp) -> Any:
        return self.value(node.body if self.value(node.test) else node.orelse)

    def _Call(self, node: ast.Call) -> Any:
        if not isinstance(node.func, ast.Name) or node.keywords:
            raise TypeError("only pathsplit, is_present and getattr can be called")
        arguments = [self.value(argument) for argument in node.args]
        if not arguments or not isinstance(arguments[0], str):
            raise TypeError(f"{node.func.id} needs a text")
        match node.func.id, arguments:
            case "pathsplit", [path]:
                return _pathsplit(path)
            case "is_present", [name]:
                return find(self.document, f"$.{name}") is not MISSING
            case "getattr", [name, *default] if len(default) < 2:
                found = find(self.document, f"$.{name}")
                return (default[0] if default else None) if found is MISSING else found
        raise TypeError(f"{node.func.id} with {len(arguments)} arguments is not understood")

    @staticmethod
    def _checked(value: Any) -> Any:
        if _is_number(value) and (not math.isfinite(value) or (abs(value) > _MAX_INTEGER and isinstance(value, int))):
            raise ValueError("the number is too large")
        return value


def _pathsplit(path: str) -> list[str]:
    """``/a/b/c`` -> ``["/a/b", "c"]``; ``/~/c`` -> ``["/~/", "c"]``: the home is never split."""
    head, slash, tail = path.rpartition("/")
    if not slash:
        return ["", path]
    if head in ("", "/~"):
        head += "/"
    return [head, tail]
