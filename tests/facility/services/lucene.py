"""The advanced query syntax of Globus Search, as far as the project uses it: parsed strictly, tested on documents.

Where the service guesses (AND and OR mixed, a stray operator), this refuses: what is accepted here means one thing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

FieldTypes = Mapping[str, str]
Values = Mapping[str, list[Any]]
"""Values of an entry by dotted name."""
Test = Callable[[Values], bool]

_WORD = re.compile(r"\w+(?:['.]\w+)*")
_RESERVED = set('+=&|><!(){}[]^"~*?:\\/')


class QueryError(ValueError):
    """The query is not of the syntax."""


def flatten(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of a document; elements of a list share its name."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from flatten(item, f"{name}.{key}" if name else key)
    elif isinstance(value, list):
        for item in value:
            yield from flatten(item, name)
    else:
        yield name, value


def values_of(content: Mapping[str, Any]) -> dict[str, list[Any]]:
    """All values of a document by name."""
    found: dict[str, list[Any]] = {}
    for name, value in flatten(dict(content)):
        found.setdefault(name, []).append(value)
    return found


def words(text: Any) -> list[str]:
    """A text as the index takes it apart: lower case, at whatever is neither letter nor digit nor underscore."""
    shown = str(text).lower() if isinstance(text, bool) else str(text)
    return _WORD.findall(shown.lower())


def compile_query(text: str, types: FieldTypes) -> Test:
    """Test of an entry's values for a query.

    Raises
    ------
    QueryError
        If the query is not understood, or compares what cannot be compared.
    """
    parser = _Parser(_tokens(text), types)
    test = parser.alternatives()
    parser.expect_end()
    return test


@dataclass(frozen=True)
class _Token:
    kind: Literal["word", "phrase", "range", "(", ")", ":", "compare", "AND", "OR", "NOT"]
    text: str = ""
    prefix: bool = False
    bounds: tuple[str, str, bool, bool] | None = None


def _tokens(text: str) -> list[_Token]:
    found, place = [], 0
    while place < len(text):
        letter = text[place]
        if letter.isspace():
            place += 1
        elif letter in "():":
            found.append(_Token(letter))  # type: ignore[arg-type]
            place += 1
        elif letter == '"':
            token, place = _phrase(text, place)
            found.append(token)
        elif letter in "[{":
            token, place = _range(text, place)
            found.append(token)
        elif letter in "<>":
            end = place + (2 if text[place + 1 : place + 2] == "=" else 1)
            found.append(_Token("compare", text[place:end]))
            place = end
        else:
            token, place = _word(text, place)
            found.append(token)
    return found


def _phrase(text: str, place: int) -> tuple[_Token, int]:
    letters, place = [], place + 1
    while place < len(text) and text[place] != '"':
        if text[place] == "\\":
            place += 1
            if place == len(text):
                break
        letters.append(text[place])
        place += 1
    if place >= len(text):
        raise QueryError("a phrase has no closing quote")
    return _Token("phrase", "".join(letters)), place + 1


def _range(text: str, place: int) -> tuple[_Token, int]:
    found = re.compile(r"([\[{])\s*(\"[^\"]*\"|\S+)\s+TO\s+(\"[^\"]*\"|[^\s\]}]+)\s*([\]}])").match(text, place)
    if found is None:
        raise QueryError(f"a range is [a TO b] or {{a TO b}}, found {text[place : place + 30]!r}")
    lower, upper = (bound.strip('"').replace("\\", "") for bound in (found[2], found[3]))
    return _Token("range", bounds=(lower, upper, found[1] == "[", found[4] == "]")), found.end()


def _word(text: str, place: int) -> tuple[_Token, int]:
    start, letters, escaped, prefix = place, [], False, False
    if text[place] == "-":
        raise QueryError("a leading '-' excludes on the service; write NOT")
    while place < len(text) and not text[place].isspace() and text[place] not in '():"':
        letter = text[place]
        if letter == "\\":
            place, escaped = place + 1, True
            if place == len(text):
                raise QueryError("the query ends with a backslash")
            letters.append(text[place])
        elif letter == "*":
            if place + 1 < len(text) and not (text[place + 1].isspace() or text[place + 1] in ")"):
                raise QueryError("'*' stands at the end of a word only")
            prefix = True
        elif letter in _RESERVED:
            raise QueryError(f"{letter!r} must be escaped with a backslash, in {text[start : place + 10]!r}")
        else:
            letters.append(letter)
        place += 1
    word = "".join(letters)
    if word in ("AND", "OR", "NOT") and not escaped:
        return _Token(word), place  # type: ignore[arg-type]
    return _Token("word", word, prefix), place


class _Parser:
    def __init__(self, tokens: list[_Token], types: FieldTypes) -> None:
        self.tokens = tokens
        self.types = types
        self.place = 0

    def peek(self) -> _Token | None:
        return self.tokens[self.place] if self.place < len(self.tokens) else None

    def take(self) -> _Token:
        token = self.peek()
        if token is None:
            raise QueryError("the query ends too early")
        self.place += 1
        return token

    def expect_end(self) -> None:
        if (token := self.peek()) is not None:
            raise QueryError(f"unexpected {token.kind} {token.text}".strip())

    def alternatives(self, field: str | None = None) -> Test:
        """Clauses joined by one operator; without one between them the service takes OR."""
        tests, joined = [self.clause(field)], set()
        while (token := self.peek()) is not None and token.kind != ")":
            if token.kind in ("AND", "OR"):
                self.take()
                joined.add(token.kind)
            else:
                joined.add("OR" if token.kind != "NOT" else "AND")
            tests.append(self.clause(field))
        if len(joined) > 1:
            raise QueryError("AND and OR side by side need parentheses: the service gives neither precedence")
        every = joined == {"AND"}
        return lambda values: all(test(values) for test in tests) if every else any(test(values) for test in tests)

    def clause(self, field: str | None) -> Test:
        token = self.take()
        if token.kind == "NOT":
            test = self.clause(field)
            return lambda values: not test(values)
        if token.kind == "(":
            inner = self.alternatives(field)
            if self.take().kind != ")":
                raise QueryError("a ')' is missing")
            return inner
        following = self.peek()
        if token.kind == "word" and following is not None and following.kind == ":":
            if field is not None:
                raise QueryError(f"{token.text}: a field within the clause of the field {field}")
            self.take()
            if token.prefix:
                raise QueryError("a field's name has no wildcard")
            if token.text == "_exists_":
                name = self.take().text
                return lambda values: name in values
            return self.clause(token.text)
        return self.condition(token, field)

    def condition(self, token: _Token, field: str | None) -> Test:
        if token.kind == "range":
            assert token.bounds is not None
            lower, upper, from_included, to_included = token.bounds
            tests = [
                self.compare(field, ">=" if from_included else ">", lower) if lower != "*" else None,
                self.compare(field, "<=" if to_included else "<", upper) if upper != "*" else None,
            ]
            name = self.named(field)
            wanted = [test for test in tests if test is not None]
            return lambda values: any(all(test(value) for test in wanted) for value in values.get(name, []))
        if token.kind == "compare":
            test = self.compare(field, token.text, self.take().text)
            name = self.named(field)
            return lambda values: any(test(value) for value in values.get(name, []))
        if token.kind not in ("word", "phrase"):
            raise QueryError(f"unexpected {token.kind} {token.text}".strip())
        if token.kind == "word" and token.prefix and not token.text:
            return (lambda values: True) if field is None else lambda values: field in values
        if field is not None and field not in self.types:
            return lambda values: False
        one = self.match(token, self.types[field] if field is not None else None, field)
        if field is None:
            return lambda values: any(one(value) for found in values.values() for value in found)
        return lambda values: any(one(value) for value in values.get(field, []))

    @staticmethod
    def named(field: str | None) -> str:
        if field is None:
            raise QueryError("a range or comparison needs a field, as in metrics.porosity:>0.1")
        return field

    def match(self, token: _Token, kind: str | None, field: str | None) -> Callable[[Any], bool]:
        """Test of one value for a word, the begin of a word, or a phrase."""
        if kind in ("integer", "float"):
            number = _number(token.text, field)
            return lambda value: value == number
        if kind == "date":
            start, end = _moment(token.text)
            return lambda value: start <= _moment(value)[0] <= end
        asked = words(token.text)
        if token.prefix:
            begin = token.text.lower()
            return lambda value: not _is_number(value) and any(word.startswith(begin) for word in words(value))
        if token.kind == "phrase":
            return lambda value: bool(asked) and _follow(words(value), asked)
        # A word that the index takes apart (scan-01) finds any of its parts, as on the service.
        return lambda value: any(word in words(value) for word in asked)

    def compare(self, field: str | None, operator: str, bound: str) -> Callable[[Any], bool]:
        kind = self.types.get(self.named(field))
        if kind is None:
            return lambda value: False
        if kind in ("integer", "float"):
            number = _number(bound, field)
            return lambda value: _ORDER[operator](value, number, number)
        if kind == "date":
            start, end = _moment(bound)
            return lambda value: _ORDER[operator](_moment(value)[0], start, end)
        raise QueryError(f"{field} holds {kind}: it cannot be compared")


_ORDER: dict[str, Callable[[Any, Any, Any], bool]] = {
    ">": lambda value, start, end: value > end,
    ">=": lambda value, start, end: value >= start,
    "<": lambda value, start, end: value < start,
    "<=": lambda value, start, end: value <= end,
}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(text: str, field: str | None) -> float:
    try:
        return float(text)
    except ValueError:
        raise QueryError(f"failed to create query: {field} holds numbers, found {text!r}") from None


def _moment(text: str) -> tuple[datetime, datetime]:
    """A time as an interval: a date alone is the whole day."""
    try:
        start = datetime.fromisoformat(text.replace("/", "-").replace("Z", "+00:00"))
    except ValueError:
        raise QueryError(f"failed to parse date field: {text!r}") from None
    start = start if start.tzinfo else start.replace(tzinfo=UTC)
    return (start, start + timedelta(days=1, microseconds=-1)) if len(text) == 10 else (start, start)


def _follow(found: list[str], asked: list[str]) -> bool:
    return any(found[start : start + len(asked)] == asked for start in range(len(found) - len(asked) + 1))
