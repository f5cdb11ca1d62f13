"""Stand-in of Globus Search: indices, roles, ingest, queries, and the Search actions of flows.

What an index takes is the project's `SearchIndex`, which has the service's limits.
"""

from __future__ import annotations

import base64
import json
import threading
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from globus_sdk.scopes import SearchScopes

from tomopipe.flows.local.actions import ActionContext, ActionResult, ActionUnableToRun
from tomopipe.flows.local.search_index import MAX_SUBJECT_BYTES, SearchDeletion, SearchIndex, _remove
from tomopipe.functions.errors import InputError

from .flows import ActionCaller
from .http import Caller, Json, Request, Response, ServiceError
from .lucene import QueryError, Test, Values, compile_query, values_of, words
from .principals import ALL_USERS, PUBLIC, included, is_principal

SEARCH = "search.api.globus.org"
ACTION_URL = "https://actions.globus.org/search/ingest"
DELETE_URL = "https://actions.globus.org/search/delete"
# The scope of this provider is not documented; its client id is the one that published flows name.
SCOPE = "https://auth.globus.org/scopes/5fac2e64-c734-4e6b-90ea-ff12ddbf9653/ingest"
DELETE_SCOPE = "https://auth.globus.org/scopes/5fac2e64-c734-4e6b-90ea-ff12ddbf9653/search_delete"
RESOURCE_SERVER = "5fac2e64-c734-4e6b-90ea-ff12ddbf9653"
TRIAL_INDICES_MAX = 3
RESULTS_MAX = 10_000
INGEST_BYTES_MAX = 10_000_000
_ALL = str(SearchScopes.all)
_QUERY = (_ALL, str(SearchScopes.search))
_INGEST = (_ALL, str(SearchScopes.ingest))
_ENTRY_KEYS = {"subject", "visible_to", "content", "id", "@datatype", "@version"}
_REQUEST_KEYS = {
    "@datatype",
    "@version",
    "q",
    "advanced",
    "limit",
    "offset",
    "filters",
    "sort",
    "result_format_version",
}
_ROLES = ("owner", "admin", "writer")


@dataclass
class _Index:
    id: str
    document: dict[str, Any]
    content: SearchIndex
    roles: dict[str, dict[str, Any]] = field(default_factory=dict)

    def roles_of(self, caller: Caller | None) -> list[str]:
        """The caller's roles, strongest first."""
        held = {role["role_name"] for role in self.roles.values() if included(caller, [role["principal"]])}
        return [role for role in _ROLES if role in held]

    def entries(self, caller: Caller | None) -> list[_Entry]:
        """Entries that the caller may see, by subject."""
        with self.content._transaction(write=False) as database:
            rows = database.execute("SELECT subject, entry_id, visible_to, content FROM entries").fetchall()
        found = [
            _Entry(row["subject"], row["entry_id"], json.loads(row["content"]))
            for row in rows
            if included(caller, json.loads(row["visible_to"]))
        ]
        return sorted(found, key=lambda entry: (entry.subject, entry.entry_id))


@dataclass(frozen=True)
class _Entry:
    subject: str
    entry_id: str
    content: dict[str, Any]


class SearchService:
    """The part that answers /v1, and the provider of the Search ingest action.

    Parameters
    ----------
    folder : Path
        For the indices.
    trial_limit : int
        How many indices without a subscription a person may own.
    """

    prefixes: tuple[str, ...] = ("/v1/",)

    def __init__(self, folder: Path, *, trial_limit: int = TRIAL_INDICES_MAX) -> None:
        self._folder = folder
        self.trial_limit = trial_limit
        self._indices: dict[str, _Index] = {}
        self._tasks: dict[str, dict[str, Any]] = {}
        self._lock = threading.RLock()

    # --- The action

    def action(self, body: dict[str, Any], context: ActionContext, caller: ActionCaller) -> ActionResult:
        """Run the ingest action: refuse what its provider refuses, and the index what it does not take."""
        index = self._written_index(ACTION_URL, body, {*_ENTRY_KEYS, "search_index"}, caller)
        result = index.content.run({key: value for key, value in body.items() if not key.startswith("@")}, context)
        return self._noted(result)

    def delete_action(self, body: dict[str, Any], context: ActionContext, caller: ActionCaller) -> ActionResult:
        """Run the delete action: all entries of a subject."""
        index = self._written_index(DELETE_URL, body, {"search_index", "delete_by", "subject"}, caller)
        return self._noted(SearchDeletion(index.content).run(body, context))

    def _written_index(self, url: str, body: Mapping[str, Any], keys: set[str], caller: ActionCaller) -> _Index:
        problems = [f"{key}: unknown field" for key in sorted(body.keys() - keys)]
        if problems:
            raise ActionUnableToRun(f"400 from {url}: {'; '.join(problems)}")
        with self._lock:
            index = self._indices.get(str(body.get("search_index")))
        if index is None or index.document["status"] != "open":
            raise ActionUnableToRun(f"404 from {url}: there is no open index {body.get('search_index')!r}")
        if not index.roles_of(caller.person):
            raise ActionUnableToRun(
                f"403 from {url}: Forbidden.Generic: {caller.person.username} is no writer of the index {index.id}"
            )
        return index

    def _noted(self, result: ActionResult) -> ActionResult:
        with self._lock:
            self._tasks[result.details["task_id"]] = dict(result.details)
        return result

    # --- HTTP

    def handle(self, request: Request) -> Response:
        """Answer a request."""
        match (request.method, request.path.strip("/").split("/")[1:]):
            case ("POST", ["index"]):
                return self._create(request)
            case ("GET", ["index_list"]):
                return self._list_indices(request)
            case ("GET", ["index", index_id]):
                _caller(request, None)
                return Response(200, self._document(self._index(index_id)))
            case ("DELETE", ["index", index_id]):
                return self._delete(request, index_id)
            case ("POST", ["index", index_id, "reopen"]):
                return self._reopen(request, index_id)
            case ("POST", ["index", index_id, "role"]):
                return self._add_role(request, index_id)
            case ("GET", ["index", index_id, "role_list"]):
                index, _ = self._managed(request, index_id, ("owner", "admin"))
                return Response(200, {"role_list": list(index.roles.values())})
            case ("DELETE", ["index", index_id, "role", role_id]):
                return self._remove_role(request, index_id, role_id)
            case ("POST", ["index", index_id, "ingest"]):
                return self._ingest(request, index_id)
            case ("GET" | "POST", ["index", index_id, "search"]):
                return self._search(request, index_id)
            case ("GET" | "DELETE" as method, ["index", index_id, "subject" | "entry" as what]):
                return self._show(request, index_id, what) if method == "GET" else self._drop(request, index_id, what)
            case ("GET", ["task", task_id]):
                return self._task(request, task_id)
            case ("GET", ["task_list", index_id]):
                self._managed(request, index_id, _ROLES, _INGEST)
                tasks = [task for task in self._tasks.values() if task["index_id"] == index_id]
                return Response(200, {"tasks": tasks[::-1]})
        raise _error(404, "NotFound.Generic", f"{request.method} {request.path} is not in the stand-in")

    # --- Indices

    def _create(self, request: Request) -> Response:
        caller = _caller(request, (_ALL,))
        assert caller is not None
        body = _object(request.body)
        unknown = sorted(body.keys() - {"display_name", "description", "subscription_id"})
        if unknown or not isinstance(body.get("display_name"), str) or not isinstance(body.get("description"), str):
            said = f"unknown: {', '.join(unknown)}" if unknown else "display_name and description are needed"
            raise _error(400, "BadRequest.ValidationError", said)
        with self._lock:
            trial = body.get("subscription_id") is None
            owned = [
                index
                for index in self._indices.values()
                if index.document["is_trial"]
                and index.document["status"] == "open"
                and "owner" in index.roles_of(caller)
            ]
            if trial and len(owned) >= self.trial_limit:
                raise _error(
                    409,
                    "Conflict.LimitExceeded",
                    "Role limit exceeded",
                    {
                        "cause": "When creating an index, an 'owner' role is created automatically. If this would"
                        " exceed ownership limits, this error is raised instead.",
                        "constraint": "Cannot create more ownership roles on trial indices than the limit"
                        f" ({self.trial_limit})",
                    },
                )
            index_id = str(uuid.uuid4())
            document = {
                "@datatype": "GSearchIndex",
                "@version": "2017-09-01",
                "id": index_id,
                "display_name": body["display_name"],
                "description": body["description"],
                "creation_date": _now(),
                "is_trial": trial,
                "subscription_id": body.get("subscription_id"),
                "max_size_in_mb": 1 if trial else 100,
                "size_in_mb": 0,
                "status": "open",
            }
            index = _Index(index_id, document, SearchIndex(self._folder / f"{index_id}.sqlite"))
            self._indices[index_id] = index
            _grant(index, caller.urn, "owner")
        return Response(201, self._document(index))

    def _document(self, index: _Index) -> Json:
        with index.content._transaction(write=False) as database:
            entries, subjects = database.execute("SELECT count(*), count(DISTINCT subject) FROM entries").fetchone()
        return {**index.document, "num_entries": entries, "num_subjects": subjects}

    def _list_indices(self, request: Request) -> Response:
        caller = _caller(request, _QUERY + _INGEST)
        with self._lock:
            indices = [
                {**self._document(index), "permissions": index.roles_of(caller)}
                for index in self._indices.values()
                if index.roles_of(caller)
            ]
        return Response(200, {"index_list": indices})

    def _index(self, index_id: str, *, any_status: bool = False) -> _Index:
        with self._lock:
            index = self._indices.get(index_id)
        if index is None:
            raise _error(404, "NotFound.Generic", f"There is no index named '{index_id}'")
        if index.document["status"] != "open" and not any_status:
            raise _error(
                409,
                "Conflict.IncompatibleIndexStatus",
                f"Index status ({index.document['status']}) did not match required status for this operation: open",
            )
        return index

    def _managed(
        self,
        request: Request,
        index_id: str,
        roles: Collection[str],
        scopes: Sequence[str] = (_ALL,),
        *,
        any_status: bool = False,
    ) -> tuple[_Index, Caller]:
        """An index in which the caller has one of the roles."""
        caller = _caller(request, scopes)
        assert caller is not None
        index = self._index(index_id, any_status=any_status)
        if not set(roles).intersection(index.roles_of(caller)):
            raise _error(403, "Forbidden.Generic", f"Operation not permitted: it needs a role of {', '.join(roles)}")
        return index, caller

    def _delete(self, request: Request, index_id: str) -> Response:
        index, _ = self._managed(request, index_id, ("owner",))
        index.document["status"] = "delete_pending"
        return Response(200, {"index_id": index.id, "acknowledged": True})

    def _reopen(self, request: Request, index_id: str) -> Response:
        index, _ = self._managed(request, index_id, ("owner",), any_status=True)
        index.document["status"] = "open"
        return Response(200, {"index_id": index.id, "acknowledged": True})

    def _add_role(self, request: Request, index_id: str) -> Response:
        index, caller = self._managed(request, index_id, ("owner", "admin"))
        body = _object(request.body)
        if body.keys() != {"role_name", "principal"} or body["role_name"] not in _ROLES:
            raise _error(400, "BadRequest.ValidationError", f"role_name ({', '.join(_ROLES)}) and principal are needed")
        if not is_principal(body["principal"]):
            raise _error(400, "BadRequest.ValidationError", f"principal: {body['principal']!r} is no URN")
        if body["role_name"] == "owner" and "owner" not in index.roles_of(caller):
            raise _error(403, "Forbidden.Generic", "Operation not permitted: only an owner makes an owner")
        with self._lock:
            if any(
                (role["principal"], role["role_name"]) == (body["principal"], body["role_name"])
                for role in index.roles.values()
            ):
                raise _error(409, "Conflict.RoleExists", "The role exists")
            return Response(200, _grant(index, body["principal"], body["role_name"]))

    def _remove_role(self, request: Request, index_id: str, role_id: str) -> Response:
        index, _ = self._managed(request, index_id, ("owner", "admin"))
        with self._lock:
            role = index.roles.pop(role_id, None)
        if role is None:
            raise _error(404, "NotFound.Generic", f"There is no role {role_id}")
        return Response(200, {"deleted": role, "success": True})

    # --- Ingest

    def _ingest(self, request: Request, index_id: str) -> Response:
        index, _ = self._managed(request, index_id, _ROLES, _INGEST)
        body = _object(request.body)
        kind, data = body.get("ingest_type"), body.get("ingest_data")
        if kind not in ("GMetaEntry", "GMetaList") or not isinstance(data, dict):
            raise _error(400, "BadRequest.ValidationError", "ingest_type GMetaEntry or GMetaList, and ingest_data")
        size = len(json.dumps(body).encode())
        if size > INGEST_BYTES_MAX:
            raise _error(413, "RequestEntityTooLarge", f"{size} bytes, the limit is {INGEST_BYTES_MAX}")
        entries = data.get("gmeta") if kind == "GMetaList" else [data]
        if not isinstance(entries, list) or not entries:
            raise _error(400, "BadRequest.ValidationError", "gmeta: a list of at least one entry is needed")
        for number, entry in enumerate(entries):
            _check_entry(number, entry)
        task_id = self._start_task("INGEST", index, lambda: self._ingest_all(index, entries))
        return Response(
            202,
            {
                "@datatype": "GIngestResponse",
                "@version": "2017-09-01",
                "acknowledged": True,
                "success": True,
                "task_id": task_id,
                "num_documents_ingested": 0,
            },
        )

    @staticmethod
    def _ingest_all(index: _Index, entries: Sequence[Mapping[str, Any]]) -> None:
        for entry in entries:
            index.content.ingest(
                entry["subject"], entry["content"], entry_id=entry.get("id") or "", visible_to=entry["visible_to"]
            )

    def _start_task(self, kind: str, index: _Index, work: Callable[[], None]) -> str:
        """Do something later, as the service does: a client has to wait for the task."""
        task: dict[str, Any] = {
            "task_id": str(uuid.uuid4()),
            "task_type": kind,
            "index_id": index.id,
            "state": "PENDING",
            "state_description": "Task is pending",
            "message": None,
            "additional_details": None,
            "creation_date": _now(),
            "completion_date": None,
        }
        with self._lock:
            self._tasks[task["task_id"]] = task

        def carry_out() -> None:
            try:
                work()
                ended = {"state": "SUCCESS", "state_description": "Task succeeded"}
            except InputError as error:
                ended = {"state": "FAILED", "state_description": "Task failed", "message": str(error)}
            with self._lock:
                self._tasks[task["task_id"]] = {**task, **ended, "completion_date": _now()}

        threading.Thread(target=carry_out, daemon=True).start()
        return str(task["task_id"])

    def _task(self, request: Request, task_id: str) -> Response:
        _caller(request, _INGEST)
        with self._lock:
            task = self._tasks.get(task_id)
        if task is None:
            raise _error(404, "NotFound.Generic", f"There is no task {task_id}")
        self._managed(request, task["index_id"], _ROLES, _INGEST, any_status=True)
        return Response(200, {"@datatype": "GTask", "@version": "2017-09-01", **task})

    # --- Entries

    def _show(self, request: Request, index_id: str, what: str) -> Response:
        caller = _caller(request, _QUERY, optional=True)
        index = self._index(index_id)
        subject = _parameter(request, "subject")
        entries = [entry for entry in index.entries(caller) if entry.subject == subject]
        if what == "entry":
            wanted = request.query.get("entry_id", "")
            entries = [entry for entry in entries if entry.entry_id == wanted]
        if not entries:
            raise _error(404, "NotFound.Generic", f"There is no {what} of the subject '{subject}'")
        return Response(200, _result(subject, entries))

    def _drop(self, request: Request, index_id: str, what: str) -> Response:
        index, _ = self._managed(request, index_id, _ROLES, _INGEST)
        subject = _parameter(request, "subject")
        only = request.query.get("entry_id", "") if what == "entry" else None

        def remove() -> None:
            with index.content._transaction() as database:
                rows = database.execute("SELECT entry_id FROM entries WHERE subject = ?", (subject,)).fetchall()
                for row in rows:
                    if only in (None, row["entry_id"]):
                        _remove(database, subject, row["entry_id"])

        kind = "DELETE_ENTRY" if what == "entry" else "DELETE_BY_SUBJECT"
        return Response(202, {"task_id": self._start_task(kind, index, remove), "removed_count": 0})

    # --- Queries

    def _search(self, request: Request, index_id: str) -> Response:
        caller = _caller(request, _QUERY, optional=True)
        index = self._index(index_id)
        asked = _object(request.body) if request.method == "POST" else _typed_query(request.query)
        unknown = sorted(asked.keys() - _REQUEST_KEYS)
        if unknown:
            raise _error(400, "BadRequest.ValidationError", f"not in this stand-in, or unknown: {', '.join(unknown)}")
        if asked.get("q") is None and not asked.get("filters"):
            raise _error(400, "BadRequest.ValidationError", "at least one of q and filters is needed")
        limit, offset = asked.get("limit", 10), asked.get("offset", 0)
        for name, value, least in (("limit", limit, 1), ("offset", offset, 0)):
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= RESULTS_MAX:
                raise _error(400, "BadRequest.ValidationError", f"{name}: {least} to {RESULTS_MAX}, found {value!r}")
        if limit + offset > RESULTS_MAX:
            raise _error(400, "BadRequest.ValidationError", f"limit + offset is at most {RESULTS_MAX}")
        types = index.content.fields()
        tests = [_test(asked, types), *(_filter(one, types) for one in asked.get("filters") or [])]
        found: dict[str, list[_Entry]] = {}
        for entry in index.entries(caller):
            values = values_of(entry.content)
            if all(test(values) for test in tests):
                found.setdefault(entry.subject, []).append(entry)
        subjects = _sorted(found, asked.get("sort") or [])
        page = subjects[offset : offset + limit]
        return Response(
            200,
            {
                "@datatype": "GSearchResult",
                "@version": "2017-09-01",
                "gmeta": [_result(subject, found[subject]) for subject in page],
                "count": len(page),
                "total": len(subjects),
                "offset": offset,
                "has_next_page": offset + limit < len(subjects),
                "facet_results": None,
            },
        )


def _typed_query(query: Mapping[str, str]) -> dict[str, Any]:
    """A GET query's parameters with the types of a POST query's."""
    asked: dict[str, Any] = dict(query)
    if "advanced" in asked:
        asked["advanced"] = asked["advanced"].lower() in ("true", "1")
    for name in ("limit", "offset"):
        if name in asked:
            try:
                asked[name] = int(asked[name])
            except ValueError as error:
                raise _error(400, "BadRequest.ValidationError", f"{name}: {error}") from error
    return asked


def _test(asked: Mapping[str, Any], types: Mapping[str, str]) -> Test:
    text = asked.get("q")
    if text is None:
        return lambda values: True
    if not isinstance(text, str):
        raise _error(400, "BadRequest.ValidationError", "q: a string is needed")
    if asked.get("advanced", False) is True:
        try:
            return compile_query(text, types)
        except QueryError as error:
            raise _error(400, "BadRequest.QueryParseError", f"the query cannot be parsed: {error}") from error
    if text.strip() == "*":
        return lambda values: True
    wanted = words(text)

    def any_word(values: Values) -> bool:
        known = {word for found in values.values() for value in found for word in words(value)}
        return any(word in known for word in wanted)

    return any_word


def _filter(one: Any, types: Mapping[str, str]) -> Test:
    """A GFilter document as a test."""
    kind = one.get("type") if isinstance(one, dict) else None
    if kind in ("and", "or", "not"):
        inner = one.get("filters") if kind != "not" else [one.get("filter")]
        tests = [_filter(part, types) for part in inner or []]
        if not tests:
            raise _error(400, "BadRequest.ValidationError", f"a filter of type {kind} needs filters")
        combined: dict[str, Test] = {
            "and": lambda values: all(test(values) for test in tests),
            "or": lambda values: any(test(values) for test in tests),
            "not": lambda values: not tests[0](values),
        }
        return combined[kind]
    name = one.get("field_name") if isinstance(one, dict) else None
    if not isinstance(name, str) or kind not in ("match_any", "match_all", "range", "exists"):
        raise _error(400, "BadRequest.ValidationError", f"no filter of this stand-in: {json.dumps(one)[:200]}")
    if kind == "exists":
        return lambda values: name in values
    wanted = one.get("values")
    if not isinstance(wanted, list) or not wanted:
        raise _error(400, "BadRequest.ValidationError", f"a filter of type {kind} needs values")
    if kind == "range":
        return _any(_range_test(name, bounds, types) for bounds in wanted)
    join = any if kind == "match_any" else all
    return lambda values: join(value in values.get(name, []) for value in wanted)


def _any(tests: Any) -> Test:
    listed = list(tests)
    return lambda values: any(test(values) for test in listed)


def _range_test(name: str, bounds: Any, types: Mapping[str, str]) -> Test:
    if not isinstance(bounds, dict) or bounds.keys() - {"from", "to"} or not bounds:
        raise _error(400, "BadRequest.ValidationError", "a range has from and to")
    # Bounds of a filter are inclusive, as those of [a TO b].
    lower, upper = (str(bounds.get(key, "*")) for key in ("from", "to"))
    try:
        return compile_query(f'{name}:["{lower}" TO "{upper}"]', types)
    except QueryError as error:
        raise _error(400, "BadRequest.ValidationError", f"{error}") from error


def _sorted(found: Mapping[str, Sequence[_Entry]], criteria: Any) -> list[str]:
    subjects = sorted(found)
    if not isinstance(criteria, list):
        raise _error(400, "BadRequest.ValidationError", "sort: a list is needed")
    for one in reversed(criteria):
        if not isinstance(one, dict) or not isinstance(one.get("field_name"), str):
            raise _error(400, "BadRequest.ValidationError", "sort: field_name and order (asc or desc) are needed")
        name, descending = one["field_name"], one.get("order", "asc") == "desc"

        def key(subject: str, name: str = name) -> Any:
            values = [value for entry in found[subject] for value in values_of(entry.content).get(name, [])]
            return min(values, default=None)

        with_value = [subject for subject in subjects if key(subject) is not None]
        without = [subject for subject in subjects if key(subject) is None]
        subjects = sorted(with_value, key=key, reverse=descending) + without
    return subjects


def _result(subject: str, entries: Sequence[_Entry]) -> Json:
    shown: list[Json] = [
        {"content": entry.content, "entry_id": entry.entry_id or None, "matched_principal_sets": []}
        for entry in entries
    ]
    return {"@datatype": "GMetaResult", "@version": "2019-08-27", "subject": subject, "entries": shown}


# --- Checks


def _caller(request: Request, scopes: Sequence[str] | None, *, optional: bool = False) -> Caller | None:
    """The caller, whose token has one of the scopes; ``None`` where nobody need be named."""
    caller = request.caller
    if caller is None:
        if (optional or scopes is None) and "authorization" not in request.headers:
            return None
        raise _error(401, "Unauthorized.Generic", "Authentication is needed, or the token is expired or invalid")
    if caller.resource_server != SEARCH:
        raise _error(401, "Unauthorized.Generic", "The token is for another service")
    if scopes is not None and not caller.scopes.intersection(scopes):
        raise _error(403, "Forbidden.MissingScope", f"The token lacks the scope {scopes[0]}")
    return caller


def _check_entry(number: int, entry: Any) -> None:
    place = f"gmeta[{number}]"
    if not isinstance(entry, dict):
        raise _error(400, "BadRequest.ValidationError", f"{place}: an object is needed")
    if unknown := sorted(entry.keys() - _ENTRY_KEYS):
        raise _error(400, "BadRequest.ValidationError", f"{place}: unknown: {', '.join(unknown)}")
    subject, readers = entry.get("subject"), entry.get("visible_to")
    if not isinstance(subject, str) or not 0 < len(subject.encode()) <= MAX_SUBJECT_BYTES:
        raise _error(400, "BadRequest.ValidationError", f"{place}.subject: 1 to {MAX_SUBJECT_BYTES} bytes are needed")
    if (
        not isinstance(readers, list)
        or not readers
        or not all(is_principal(one, (PUBLIC, ALL_USERS)) for one in readers)
    ):
        raise _error(400, "BadRequest.ValidationError", f"{place}.visible_to: a list of principals is needed")
    if not isinstance(entry.get("content"), dict):
        raise _error(400, "BadRequest.ValidationError", f"{place}.content: an object is needed")
    if not isinstance(entry.get("id", ""), str | None):
        raise _error(400, "BadRequest.ValidationError", f"{place}.id: a text is needed")


def _grant(index: _Index, principal: str, role: str) -> Json:
    role_id = base64.urlsafe_b64encode(uuid.uuid4().bytes[:6]).decode()
    index.roles[role_id] = {
        "id": role_id,
        "index_id": index.id,
        "role_name": role,
        "principal": principal,
        "principal_type": "group" if ":groups:" in principal else "identity",
        "creation_date": _now(),
    }
    return index.roles[role_id]


def _parameter(request: Request, name: str) -> str:
    if not request.query.get(name):
        raise _error(400, "BadRequest.ValidationError", f"the parameter {name} is needed")
    return request.query[name]


def _object(body: Json) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise _error(400, "BadRequest.ValidationError", "a JSON object is needed")
    return dict(body)


def _error(status: int, code: str, message: str, data: Json = None) -> ServiceError:
    document = {"@datatype": "GError", "@version": "2017-09-01", "status": status, "code": code, "message": message}
    return ServiceError(status, {**document, "error_data": data, "request_id": uuid.uuid4().hex})


def _now() -> str:
    return datetime.now(UTC).isoformat(sep=" ", timespec="seconds").partition("+")[0]
