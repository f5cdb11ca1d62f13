"""Search in the Globus Search index of a deployment: the language of `local.query` as a query of the service, and its hits.

What is published there, and what its fields are called, is left to `functions.quantification.document`.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from typing import Any, Final

import globus_sdk

from tomopipe.functions.errors import ParameterError
from tomopipe.functions.quantification.document_schema import document_fields

from .local import query as q
from .local.search_index import Hit
from .search_fields import NUMBERS, FieldType, number_field, text_field

MAX_HITS: Final = 10_000
"""Most results that the service lists for a query, offset included (docs.globus.org/api/search/reference/post_query)."""

_PAGE: Final = 100
_QUERY_VERSION: Final = "query#1.0.0"
_DAYS = re.compile(r"(\d{4})(?:-(\d\d)(?:-(\d\d))?)?")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)")
# Where the service's analyser parts words (Unicode's word boundaries, nearly).
_BETWEEN_WORDS = re.compile(r"[^\w.']+")


def globus_query(query: str, fields: Mapping[str, FieldType] | None = None) -> dict[str, Any]:
    """A query as the body of `SearchClient.post_search`.

    The service has filters beside the query string, but those for texts compare whole values, not words, and its simple
    query string knows no fields. So everything goes into one string of its *advanced* syntax, which is that of Lucene:
    ``AND``, ``OR``, ``NOT``, parentheses, ``field:"phrase"``, ``field:word*``, and ranges that take or leave their ends,
    ``field:[20 TO *]``, ``field:{20 TO *}`` (docs.globus.org/api/search/query, "Advanced Query String Syntax"). Every word
    is put in quotes, so that nothing that a person writes is taken for syntax.

    Parameters
    ----------
    query : str
        In the language of `tomopipe.flows.local.query`; names of fields are understood as in the local index.
    fields : mapping, optional
        Type of every field of the index; by default those of our search documents.

    Raises
    ------
    ParameterError
        If the query is not understood, or a field is unknown (lists similar names) or ambiguous (lists which).
    """
    known: Mapping[str, FieldType] = document_fields() if fields is None else fields
    return {"@version": _QUERY_VERSION, "q": _lucene(q.parse(query), known), "advanced": True}


def search_service(client: globus_sdk.SearchClient, index_id: str, query: str, limit: int = 20) -> list[Hit]:
    """Entries of an index of the service that match a query, latest first; records of failures, which have no time, last.

    Parameters
    ----------
    client : SearchClient
        Finds what is public, and what its caller may see.
    index_id : str
        UUID of the index.
    query : str
        As for `globus_query`.
    limit : int
        Most hits; at most `MAX_HITS`.

    Raises
    ------
    ParameterError
        The query is not understood, or the limit is beyond what the service lists.
    globus_sdk.GlobusAPIError, globus_sdk.NetworkError
        The service refuses or is not reached.
    """
    if not 0 < limit <= MAX_HITS:
        raise ParameterError(f"limit={limit}: Globus Search lists 1 to {MAX_HITS} hits; narrow the query")
    body = {**globus_query(query), "sort": [{"field_name": "published_at", "order": "desc"}]}
    hits: list[Hit] = []
    offset = 0
    while len(hits) < limit:
        page = client.post_search(index_id, body, offset=offset, limit=min(_PAGE, limit - len(hits)))
        results = page["gmeta"]
        hits += [
            Hit(result["subject"], entry["entry_id"] or "", entry["content"])
            for result in results
            for entry in result["entries"]
        ]
        offset += len(results)
        if not results or not page["has_next_page"]:
            break
    return hits[:limit]


def _lucene(tree: q.Node, known: Mapping[str, FieldType]) -> str:
    """The query string of a tree; every operand that is more than one term stands in parentheses."""
    match tree:
        case q.Everything():
            return "*"
        case q.Not(operand):
            # A clause that only leaves out finds nothing in some places, hence the star.
            return f"(* AND NOT {_lucene(operand, known)})"
        case q.And(left, right):
            return f"({_lucene(left, known)} AND {_lucene(right, known)})"
        case q.Or(left, right):
            return f"({_lucene(left, known)} OR {_lucene(right, known)})"
        case q.Comparison(field, operator, number):
            return _comparison(number_field(field, known), operator, number)
        case q.Text(text, field, prefix):
            return _words("", text, prefix) if field is None else _in_field(field, text, prefix, known)


def _in_field(asked: str, text: str, prefix: bool, known: Mapping[str, FieldType]) -> str:
    name = text_field(asked, known)
    if known[name] in NUMBERS:
        return _comparison(name, "=", _number(name, asked, text))
    if known[name] == "date":
        return _dates(name, text)
    return _words(f"{name}:", text, prefix)


def _comparison(name: str, operator: q.Operator, number: float) -> str:
    value = repr(float(number))
    ranges = {
        ">": f"{{{value} TO *}}",
        ">=": f"[{value} TO *}}",
        "<": f"{{* TO {value}}}",
        "<=": f"{{* TO {value}]",
        "=": f"[{value} TO {value}]",
    }
    if operator == "!=":
        # As in the local index: entries that have a number there, and another one.
        return f"({name}:{ranges['<']} OR {name}:{ranges['>']})"
    return f"{name}:{ranges[operator]}"


def _words(field: str, text: str, prefix: bool) -> str:
    if not prefix:
        escaped = text.replace("\\", "\\\\").replace('"', '\\"')
        return f'{field}"{escaped}"'
    # A star within quotes is no wildcard; so the words before the last are looked for one by one.
    words = [word for word in _BETWEEN_WORDS.split(text) if word]
    terms = [*(f'{field}"{word}"' for word in words[:-1]), f"{field}{words[-1]}*"]
    return terms[0] if len(terms) == 1 else f"({' AND '.join(terms)})"


def _dates(name: str, text: str) -> str:
    """The days, month or year of a text as a range."""
    if _TIME.fullmatch(text):
        return f'{name}:["{text}" TO "{text}"]'
    parts = _DAYS.fullmatch(text)
    try:
        if parts is None:
            raise ValueError("no date")
        year, month, day = (int(part) if part else None for part in parts.groups())
        first = datetime.date(year or 1, month or 1, day or 1)
        if day is not None:
            after = first + datetime.timedelta(days=1)
        else:
            after = datetime.date(first.year + (month in (None, 12)), (month or 12) % 12 + 1, 1)
    except (ValueError, OverflowError):
        raise ParameterError(
            f"search query: {name} holds dates, and {text!r} is none; write a year, a month or a day, "
            f"as in {name}:2026-11-22"
        ) from None
    return f'{name}:["{first}T00:00:00Z" TO "{after}T00:00:00Z"}}'


def _number(name: str, asked: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ParameterError(f"search query: {name} holds numbers; compare it, as in {asked} > 1") from None
