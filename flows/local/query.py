"""The language in which people search the local index: text to a tree of conditions.

What a name refers to and which entries match is the index's.

::

    porosity > 20 and sample:shale
    "fibre composite" or not (tortuosity >= 1.5 algorithm:gridrec)

Words and "quoted phrases" are looked for in all texts, ``field:word`` in one field; ``word*`` is how a word begins.
``> >= < <= = !=`` compare a field with a number. ``and``, which may be left out, binds tighter than ``or``, ``not``
tightest.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final, Literal, cast

from tomopipe.functions.errors import ParameterError

Operator = Literal[">", ">=", "<", "<=", "=", "!="]


@dataclass(frozen=True)
class Everything:
    """Every entry."""


@dataclass(frozen=True)
class Text:
    """Entries with a text: in `field`, or in any where it is ``None``. `prefix`: it may go on."""

    text: str
    field: str | None = None
    prefix: bool = False


@dataclass(frozen=True)
class Comparison:
    """Entries whose `field` compares so with a number."""

    field: str
    operator: Operator
    number: float


@dataclass(frozen=True)
class Not:
    """Entries that the operand leaves out."""

    operand: Node


@dataclass(frozen=True)
class And:
    """Entries in both operands."""

    left: Node
    right: Node


@dataclass(frozen=True)
class Or:
    """Entries in either operand."""

    left: Node
    right: Node


Node = Everything | Text | Comparison | Not | And | Or


def parse(query: str) -> Node:
    """Tree of a query; an empty one or ``*`` is `Everything`.

    Raises
    ------
    ParameterError
        Shows the query with a mark under the place that is not understood.
    """
    if query.strip() in ("", "*"):
        return Everything()
    if len(query) > _MAX_CHARACTERS:
        raise ParameterError(f"search query: has {len(query)} characters; at most {_MAX_CHARACTERS} are understood")
    parser = _Parser(query)
    tree = parser.disjunction()
    if parser.token.kind != "end":
        raise parser.error("this does not belong here; is a '(' missing?")
    return tree


_MAX_DEPTH: Final = 50
_MAX_CHARACTERS: Final = 1000

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<open>\() | (?P<close>\))
      | "(?P<phrase>[^"]*)"
      | (?P<operator>>=|<=|!=|>|<|=)
      | (?P<colon>:)
      | (?P<word>[^\s()":<>=!]+)
    )""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    position: int


class _Parser:
    """Recursive descent over the tokens; one method a rule of the grammar."""

    def __init__(self, query: str) -> None:
        self.query = query
        self.depth = 0
        self.tokens = self._split()
        self.token = self.tokens.pop(0)

    def disjunction(self) -> Node:
        tree = self._conjunction()
        while self._keyword("or"):
            self._advance()
            tree = Or(tree, self._conjunction())
        return tree

    def _conjunction(self) -> Node:
        tree = self._negation()
        while self.token.kind not in ("end", "close") and not self._keyword("or"):
            if self._keyword("and"):
                self._advance()
            tree = And(tree, self._negation())
        return tree

    def _negation(self) -> Node:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise self.error(f"more than {_MAX_DEPTH} levels")
        if self._keyword("not"):
            self._advance()
            tree: Node = Not(self._negation())
        else:
            tree = self._condition()
        self.depth -= 1
        return tree

    def _condition(self) -> Node:
        token = self.token
        if token.kind == "open":
            self._advance()
            tree = self.disjunction()
            if self.token.kind != "close":
                raise self.error("a ')' is needed")
            self._advance()
            return tree
        if token.kind == "phrase":
            self._advance()
            return self._text(token, None)
        if token.kind != "word" or self._keyword("and", "or"):
            raise self.error('a word, a "phrase" or a comparison is needed')
        self._advance()
        if self.token.kind == "operator":
            return self._comparison(token.text)
        if self.token.kind == "colon":
            self._advance()
            value = self.token
            if value.kind not in ("word", "phrase"):
                raise self.error(f'a word or a "phrase" is needed after {token.text}:')
            self._advance()
            return self._text(value, token.text)
        return self._text(token, None)

    def _comparison(self, field: str) -> Comparison:
        operator = cast(Operator, self.token.text)
        self._advance()
        try:
            number = float(self.token.text) if self.token.kind == "word" else math.nan
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise self.error(f"a number is needed after {field} {operator}; for texts write {field}:word")
        self._advance()
        return Comparison(field, operator, number)

    def _text(self, token: _Token, field: str | None) -> Text:
        prefix = token.kind == "word" and token.text.endswith("*")
        text = token.text.rstrip("*") if prefix else token.text
        if not any(character.isalnum() for character in text):
            raise self.error("a word has letters or digits", token)
        return Text(text, field, prefix)

    def _keyword(self, *words: str) -> bool:
        return self.token.kind == "word" and self.token.text.lower() in words

    def _advance(self) -> None:
        self.token = self.tokens.pop(0)

    def _split(self) -> list[_Token]:
        tokens: list[_Token] = []
        position = 0
        while self.query[position:].strip():
            match = _TOKEN.match(self.query, position)
            if match is None:
                start = position + len(self.query[position:]) - len(self.query[position:].lstrip())
                problem = "the '\"' is not closed" if self.query[start] == '"' else "this character is not understood"
                raise self.error(problem, _Token("unknown", self.query[start], start))
            kind = match.lastgroup or "unknown"
            tokens.append(_Token(kind, match[kind], match.start(kind)))
            position = match.end()
        return [*tokens, _Token("end", "", len(self.query.rstrip()))]

    def error(self, problem: str, token: _Token | None = None) -> ParameterError:
        position = (token or self.token).position
        return ParameterError(f"search query: {problem}\n  {self.query}\n  {' ' * position}^ character {position + 1}")
