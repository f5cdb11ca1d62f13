"""The Search action on this machine: metrics and texts of every run, found by range and by word. SQLite with FTS5.

What is published is the flow's. The limits and the strictness about types are the service's, so that what this index
takes, Globus Search takes too.
"""

from __future__ import annotations

import json
import math
import re
import sqlite3
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tomopipe.functions.errors import InputError, ParameterError

from ..search_fields import NUMBERS, FieldType, number_field, text_field
from . import query as q
from .actions import ActionContext, ActionResult, ActionUnableToRun, JsonObject, utc_now
from .database import transaction

MAX_ENTRY_BYTES = 10 * 1024 * 1024
MAX_SUBJECT_BYTES = 500
MAX_ENTRIES_PER_SUBJECT = 10
MAX_TEXT_BYTES = 32 * 1024
MAX_FIELDS = 1000
MAX_DEPTH = 20

_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    entry INTEGER PRIMARY KEY,
    subject TEXT NOT NULL,
    entry_id TEXT NOT NULL,
    visible_to TEXT NOT NULL,
    content TEXT NOT NULL,
    ingested TEXT NOT NULL,
    UNIQUE (subject, entry_id)
);
CREATE TABLE IF NOT EXISTS types (field TEXT PRIMARY KEY, type TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS fields (
    number INTEGER PRIMARY KEY,
    entry INTEGER NOT NULL REFERENCES entries (entry),
    field TEXT NOT NULL,
    value REAL
);
CREATE INDEX IF NOT EXISTS fields_of_entry ON fields (entry);
CREATE INDEX IF NOT EXISTS values_of_field ON fields (field, value);
CREATE VIRTUAL TABLE IF NOT EXISTS texts USING fts5 (text);
"""

_WIDENS: Mapping[FieldType, frozenset[FieldType]] = {
    "text": frozenset({"text", "date", "integer", "float", "boolean"}),
    "date": frozenset({"date"}),
    "integer": frozenset({"integer"}),
    "float": frozenset({"float", "integer"}),
    "boolean": frozenset({"boolean"}),
}
"""Which values a field takes once its type is known (docs.globus.org/api/search/mapped_data_types)."""

_DATE = re.compile(r"\d{4}[-/]\d\d[-/]\d\d([T ]\d\d:\d\d:\d\d(\.\d{1,9})?\s?(Z|[+-]\d\d:?\d\d)?)?")


@dataclass(frozen=True)
class Hit:
    """An entry that a query found."""

    subject: str
    entry_id: str
    content: JsonObject


class SearchIndex:
    """A local search index, and the provider of the Search ingest action.

    An entry is what ``(subject, id)`` names; ingesting it again replaces it. The type of a field is fixed by the first
    value that is ever ingested for it: later ones must fit (an integer fits a float, anything fits a text).

    Parameters
    ----------
    path : Path
        The SQLite file. Made at the first use.
    types : mapping, optional
        Types of fields that are known beforehand, so that no first value fixes them by chance.
    """

    def __init__(self, path: Path, types: Mapping[str, FieldType] | None = None) -> None:
        self.path = Path(path)
        self._known = dict(types or {})

    def run(self, body: JsonObject, context: ActionContext) -> ActionResult:
        """Ingest the entry of an action's body; FAILED with a ``message`` where the index refuses the content."""
        subject, entry_id, visible_to = _request(body)
        context.check()
        started = utc_now()
        message = None
        try:
            self.ingest(subject, body["content"], entry_id=entry_id, visible_to=visible_to)
        except (InputError, sqlite3.Error) as error:
            message = f"search ingest: {error}"
        return _ended("INGEST", body["search_index"], started, message)

    def ingest(
        self, subject: str, content: JsonObject, *, entry_id: str = "", visible_to: Sequence[str] = ("public",)
    ) -> None:
        """Add or replace one entry.

        Raises
        ------
        ParameterError
            Names the field: a value of another type than the field's, null or not finite, too deep, too long, too many
            fields or entries.
        """
        text = _entry_text(content)
        fields = list(_flatten(content, "", 1))
        with self._transaction() as database:
            self._fix_types(database, fields)
            _remove(database, subject, entry_id)
            count = database.execute("SELECT count(*) FROM entries WHERE subject = ?", (subject,)).fetchone()[0]
            if count >= MAX_ENTRIES_PER_SUBJECT:
                raise ParameterError(f"subject {subject}: it has {count} entries, the limit; use another subject")
            entry = database.execute(
                "INSERT INTO entries (subject, entry_id, visible_to, content, ingested) VALUES (?, ?, ?, ?, ?)",
                (subject, entry_id, json.dumps(list(visible_to)), text, utc_now()),
            ).lastrowid
            for field, value in fields:
                number = float(value) if isinstance(value, int | float) else None
                row = database.execute(
                    "INSERT INTO fields (entry, field, value) VALUES (?, ?, ?)", (entry, field, number)
                ).lastrowid
                if isinstance(value, str | bool):
                    shown = value if isinstance(value, str) else str(value).lower()
                    database.execute("INSERT INTO texts (rowid, text) VALUES (?, ?)", (row, shown))

    def delete_subject(self, subject: str) -> None:
        """Remove all entries of a subject, if there are any; the types of their fields stay fixed."""
        with self._transaction() as database:
            found = database.execute("SELECT entry_id FROM entries WHERE subject = ?", (subject,)).fetchall()
            for row in found:
                _remove(database, subject, row["entry_id"])

    def search(self, query: str, limit: int = 20) -> list[Hit]:
        """Entries that match a query, latest first.

        The language is that of `tomopipe.flows.local.query`, names of fields are understood as `flows.search_fields` says.

        Raises
        ------
        ParameterError
            If the query is not understood, or a field is unknown (lists similar names) or ambiguous (lists which).
        """
        tree = q.parse(query)
        with self._transaction(write=False) as database:
            types = _types(database)
            condition, values = _condition(tree, types)
            rows = database.execute(
                f"SELECT subject, entry_id, content FROM entries WHERE {condition} ORDER BY entry DESC LIMIT ?",
                (*values, limit),
            ).fetchall()
        return [Hit(row["subject"], row["entry_id"], json.loads(row["content"])) for row in rows]

    def fields(self) -> dict[str, str]:
        """Every field of the index with its type, by name."""
        with self._transaction(write=False) as database:
            return dict(sorted(_types(database).items()))

    def _transaction(self, *, write: bool = True) -> AbstractContextManager[sqlite3.Connection]:
        return transaction(self.path, _SCHEMA, write=write)

    def _fix_types(self, database: sqlite3.Connection, fields: Sequence[tuple[str, Any]]) -> None:
        types = {**self._known, **_types(database)}
        for field, value in fields:
            found = _type_of(value)
            if types.setdefault(field, found) != found and found not in _WIDENS[types[field]]:
                raise ParameterError(
                    f"{field}: the index holds it as {types[field]}, found {found} {value!r}; a field keeps its first"
                    " type: write numbers as floats, or use another name"
                )
        parents = {field[: dot.start()] for field in types for dot in re.finditer(r"\.", field)}
        if clash := sorted(parents & set(types)):
            raise ParameterError(f"{clash[0]}: it is a value in one entry and an object in another; use another name")
        if len(types) > MAX_FIELDS:
            raise ParameterError(f"the index would have {len(types)} fields, the limit is {MAX_FIELDS}")
        database.executemany("INSERT OR IGNORE INTO types (field, type) VALUES (?, ?)", types.items())


class SearchDeletion:
    """Provider of the Search delete action on a local index: all entries of a subject, or nothing where there is none.

    Parameters
    ----------
    index : SearchIndex
    """

    def __init__(self, index: SearchIndex) -> None:
        self._index = index

    def run(self, body: JsonObject, context: ActionContext) -> ActionResult:
        """Delete the subject that an action's body names."""
        if not isinstance(body.get("search_index"), str):
            raise ActionUnableToRun("search_index: the id of an index is needed")
        if body.get("delete_by") != "subject" or not isinstance(body.get("subject"), str):
            raise ActionUnableToRun("delete_by: only 'subject', with a subject, is known here")
        context.check()
        started = utc_now()
        message = None
        try:
            self._index.delete_subject(body["subject"])
        except (InputError, sqlite3.Error) as error:
            message = f"search delete: {error}"
        return _ended("DELETE_BY_SUBJECT", body["search_index"], started, message)


def _ended(task_type: str, index_id: str, started: str, message: str | None) -> ActionResult:
    """How a task of an index ended: FAILED where there is a message."""
    details = {
        "task_id": str(uuid.uuid4()),
        "task_type": task_type,
        "index_id": index_id,
        "state": "FAILED" if message else "SUCCESS",
        "message": message,
        "creation_date": started,
        "completion_date": utc_now(),
    }
    return ActionResult("FAILED" if message else "SUCCEEDED", details)


def _request(body: JsonObject) -> tuple[str, str, list[str]]:
    """Subject, entry id and readers of an action's body."""
    subject, visible_to = body.get("subject"), body.get("visible_to")
    if not isinstance(body.get("search_index"), str):
        raise ActionUnableToRun("search_index: the id of an index is needed")
    if not isinstance(subject, str) or not 0 < len(subject.encode()) <= MAX_SUBJECT_BYTES:
        raise ActionUnableToRun(f"subject: a text of 1 to {MAX_SUBJECT_BYTES} bytes is needed, found {subject!r:.80}")
    if not isinstance(visible_to, list) or not visible_to or not all(_is_reader(reader) for reader in visible_to):
        raise ActionUnableToRun(
            "visible_to: a list of 'public', 'all_authenticated_users' or 'urn:globus:...' is needed,"
            f" found {visible_to!r}"
        )
    if not isinstance(body.get("content"), dict):
        raise ActionUnableToRun("content: an object is needed")
    entry_id = body.get("id")
    if entry_id is not None and not isinstance(entry_id, str):
        raise ActionUnableToRun(f"id: a text is needed, found {entry_id!r}")
    return subject, entry_id or "", visible_to


def _is_reader(reader: Any) -> bool:
    return isinstance(reader, str) and (
        reader in ("public", "all_authenticated_users") or reader.startswith("urn:globus:")
    )


def _entry_text(content: JsonObject) -> str:
    try:
        text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ParameterError(f"content: it is not JSON: {error}; NaN and infinity have no place in an index") from error
    if len(text.encode()) > MAX_ENTRY_BYTES:
        raise ParameterError(
            f"content: {len(text.encode())} bytes, the limit is {MAX_ENTRY_BYTES}; keep file lists out"
        )
    return text


def _flatten(value: Any, name: str, depth: int) -> Iterator[tuple[str, Any]]:
    """Dotted names and their values; the elements of a list share its name."""
    if depth > MAX_DEPTH + 1:
        raise ParameterError(f"{name}: deeper than {MAX_DEPTH} levels")
    if isinstance(value, dict):
        for key, item in value.items():
            if not key or "." in key:
                raise ParameterError(f"{name or 'content'}: {key!r} cannot name a field (empty, or with a dot)")
            yield from _flatten(item, f"{name}.{key}" if name else key, depth + 1)
    elif isinstance(value, list):
        for item in value:
            yield from _flatten(item, name, depth)
    elif value is None or (isinstance(value, float) and not math.isfinite(value)):
        raise ParameterError(f"{name}: {value} cannot be indexed; leave the field out")
    elif isinstance(value, str) and len(value.encode()) > MAX_TEXT_BYTES:
        raise ParameterError(f"{name}: a text of {len(value.encode())} bytes, the limit is {MAX_TEXT_BYTES}")
    elif isinstance(value, int) and abs(value) >= 2**63:
        raise ParameterError(f"{name}: {value} is beyond 64 bits")
    else:
        yield name, value


def _type_of(value: Any) -> FieldType:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "float"
    return "date" if _DATE.fullmatch(value) else "text"


def _types(database: sqlite3.Connection) -> dict[str, FieldType]:
    return {row["field"]: row["type"] for row in database.execute("SELECT field, type FROM types")}


def _remove(database: sqlite3.Connection, subject: str, entry_id: str) -> None:
    of_entry = "(SELECT entry FROM entries WHERE subject = ? AND entry_id = ?)"
    database.execute(
        f"DELETE FROM texts WHERE rowid IN (SELECT number FROM fields WHERE entry = {of_entry})", (subject, entry_id)
    )
    database.execute(f"DELETE FROM fields WHERE entry = {of_entry}", (subject, entry_id))
    database.execute("DELETE FROM entries WHERE subject = ? AND entry_id = ?", (subject, entry_id))


def _condition(tree: q.Node, types: Mapping[str, FieldType]) -> tuple[str, tuple[Any, ...]]:
    """SQL condition on a row of `entries`, and its parameters. No text of the query becomes SQL."""
    match tree:
        case q.Everything():
            return "1", ()
        case q.Not(operand):
            condition, values = _condition(operand, types)
            return f"NOT ({condition})", values
        case q.And(left, right) | q.Or(left, right):
            joined = "AND" if isinstance(tree, q.And) else "OR"
            first, first_values = _condition(left, types)
            second, second_values = _condition(right, types)
            return f"({first} {joined} {second})", (*first_values, *second_values)
        case q.Comparison(field, operator, number):
            name = number_field(field, types)
            return f"entry IN (SELECT entry FROM fields WHERE field = ? AND value {operator} ?)", (name, number)
        case q.Text(text, field, prefix):
            return _text_condition(text, field, prefix, types)


def _text_condition(
    text: str, field: str | None, prefix: bool, types: Mapping[str, FieldType]
) -> tuple[str, tuple[Any, ...]]:
    found = "SELECT entry FROM fields JOIN texts ON texts.rowid = fields.number WHERE texts MATCH ?"
    if field is None:
        return f"entry IN ({found})", (_pattern(text, prefix),)
    name = text_field(field, types)
    if types[name] in NUMBERS:
        try:
            return "entry IN (SELECT entry FROM fields WHERE field = ? AND value = ?)", (name, float(text))
        except ValueError:
            raise ParameterError(f"search query: {name} holds numbers; compare it, as in {field} > 1") from None
    # A day is how the time goes on that begins with it.
    return f"entry IN ({found} AND field = ?)", (_pattern(text, prefix or types[name] == "date"), name)


def _pattern(text: str, prefix: bool) -> str:
    return '"' + text.replace('"', '""') + '"' + ("*" if prefix else "")
