"""What the Flows service says of a run, in tomopipe's words: its status, states, error, input and tags.

Pure functions of the service's documents; asking for them is left to `client`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from .local.actions import explain, first_failure, is_index_gone, is_withheld
from .local.run_store import EventRecord, StateRecord

if TYPE_CHECKING:
    from globus_sdk.gare import GlobusAuthorizationParameters

JsonObject = dict[str, Any]

LABEL_MAX = 64
"""Most characters that the service takes for a label; tags are kept as short."""

TAGS_MAX = 16
"""Most tags of a run, and most principals of each of its roles, that the service takes."""

REFRESHED = ("version", "functions_digest", "compute_endpoint", "user_endpoint_config", "search_index", "results_url")
"""Fields of the input that say with what a run is run, besides the function ids; not part of what was asked for."""

_FUNCTION_ID = "_function_id"
_FILE_MANAGER = "https://app.globus.org/file-manager"
# States of the other types pass in no time: who looks just then would be told of them by chance.
_LASTING = ("", "Action", "Wait")
_CANCELLED_CODES = ("FlowCanceled", "FlowCancelled")

# What a service may ask of a login besides consents.
_SESSION = ("identities", "policies", "single_domain", "mfa")

Status = Literal["ACTIVE", "INACTIVE", "SUCCEEDED", "FAILED", "CANCELLED", "GONE"]


@dataclass(frozen=True)
class ServiceRun:
    """A run of the Globus Flows service. Times are UTC, ISO 8601.

    Parameters
    ----------
    run_id, flow_id : str
    deployment : str
        Name of the deployment.
    scan_id, label : str
    status : str
        ACTIVE, INACTIVE (a person must do something), SUCCEEDED, FAILED or CANCELLED; GONE where the service knows it no
        more, and nobody had asked how it ended.
    started : str
    finished : str or None
    error : str or None
        Why it failed, for a person.
    consent : str or None
        What an INACTIVE run waits for.
    state : str or None
        The action, or the pause, in which it is, where the service says so.
    tags : tuple of str
    monitors, managers : tuple of str
        URNs of who may follow the run and who may cancel it, as far as one may see them.
    input : dict or None
        The flow's input, `{"input": {...}}`, where it is known.
    run_directory : str or None
        Folder of the results on the processing collection, where it is known.
    asked : str or None
        When the service said so, where that was earlier and it cannot be asked now.
    was_under_way : bool
        Whether the run was there already when its request was submitted.
    """

    run_id: str
    flow_id: str
    deployment: str
    scan_id: str
    label: str
    status: str
    started: str
    finished: str | None = None
    error: str | None = None
    consent: str | None = None
    state: str | None = None
    tags: tuple[str, ...] = ()
    monitors: tuple[str, ...] = ()
    managers: tuple[str, ...] = ()
    input: JsonObject | None = field(default=None, repr=False)
    run_directory: str | None = None
    asked: str | None = None
    was_under_way: bool = False

    @property
    def url(self) -> str:
        """The run's page in the Globus web app."""
        return f"https://app.globus.org/runs/{self.run_id}"

    @property
    def request(self) -> str | None:
        """Digest of what was asked for, from the run's tags."""
        return next((tag.removeprefix("request:") for tag in self.tags if tag.startswith("request:")), None)

    @property
    def ended(self) -> bool:
        """Whether the run has ended for good."""
        return self.status in ("SUCCEEDED", "FAILED", "CANCELLED")

    @property
    def folder(self) -> str | None:
        """The run directory in the Globus web app, where both its collection and its path are known."""
        place = self._place("processing")
        return None if place is None or not self.run_directory else folder_address(place["id"], self.run_directory)

    @property
    def share_directory(self) -> str | None:
        """Where a run that succeeded has copied its results to, `globus://COLLECTION/path`; None where it was not asked to."""
        place, below = self._place("destination"), self._below_processing()
        return None if place is None or below is None else f"globus://{place['id']}{place['path'].rstrip('/')}/{below}"

    @property
    def share_folder(self) -> str | None:
        """That copy in the Globus web app."""
        place, below = self._place("destination"), self._below_processing()
        if place is None or below is None:
            return None
        return folder_address(place["id"], f"{place['path'].rstrip('/')}/{below}")

    def _place(self, name: str) -> JsonObject | None:
        place = _mapping(_mapping(_mapping(self.input).get("input")).get(name))
        return place if isinstance(place.get("id"), str) and isinstance(place.get("path"), str) else None

    def _below_processing(self) -> str | None:
        """Path of the run directory below the results folder, of a run that has come to its copy."""
        place = self._place("processing")
        folder = None if place is None else f"{place['path'].rstrip('/')}/"
        if self.status != "SUCCEEDED" or not self.run_directory or not folder:
            return None
        return self.run_directory.removeprefix(folder) if self.run_directory.startswith(folder) else None


@dataclass(frozen=True)
class Base:
    """The earlier run, or record of one, that a request starts from.

    Parameters
    ----------
    run_id : str or None
        None where the run is gone, and its record in the index was taken.
    status : str or None
    overrides : dict
        What it brings along beside what is deployed: `section.field` and its value, and `skip` where it left stages out.
    """

    run_id: str | None
    status: str | None
    overrides: dict[str, Any]

    def __str__(self) -> str:
        which = "its record in the index" if self.run_id is None else f"run {self.run_id[:8]} ({self.status})"
        values = [
            f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in self.overrides.items()
        ]
        return f"from {which}, " + (f"with {', '.join(values)}" if values else "with no changed parameters")


def flat(sections: Mapping[str, Any]) -> JsonObject:
    """Parameters by `section.field`."""
    flat: JsonObject = {}
    for section, fields in sections.items():
        if isinstance(fields, Mapping):
            flat.update({f"{section}.{name}": value for name, value in fields.items()})
        else:
            flat[section] = fields
    return flat


def folder_address(collection: str, path: str) -> str:
    """Address of a folder in the Globus web app, as `links.folder` of a search document has it."""
    place = {"origin_id": collection, "origin_path": f"{path.rstrip('/')}/"}
    return f"{_FILE_MANAGER}?{urllib.parse.urlencode(place, quote_via=urllib.parse.quote, safe='')}"


def read_run(
    document: Mapping[str, Any],
    deployment: str,
    entries: Sequence[Mapping[str, Any]] = (),
    body: JsonObject | None = None,
) -> ServiceRun:
    """A run from its document, and from its log where that was asked for.

    Parameters
    ----------
    document : mapping
        The service's document of the run.
    deployment : str
        Name of the deployment.
    entries : sequence of mapping
        The service's log of the run, or the beginning of it.
    body : dict, optional
        The input, where it is known from elsewhere.
    """
    details = _mapping(document.get("details"))
    tags = tuple(document.get("tags") or ())
    body = body or _input(details, entries)
    fields = _mapping(_mapping(body).get("input"))
    label = document.get("label") or ""
    tagged = next((tag.removeprefix("scan:") for tag in tags if tag.startswith("scan:")), "")
    status = _status(document["status"], details)
    return ServiceRun(
        run_id=document["run_id"],
        flow_id=document["flow_id"],
        deployment=deployment,
        scan_id=fields.get("scan_id") or tagged or label,
        label=label,
        status=status,
        started=document["start_time"],
        finished=document.get("completion_time") if status not in ("ACTIVE", "INACTIVE") else None,
        error=_error(details, entries, deployment) if status == "FAILED" else None,
        consent=_consent(details) if status == "INACTIVE" else None,
        state=_state(details) if status in ("ACTIVE", "INACTIVE") else None,
        tags=tags,
        monitors=tuple(document.get("run_monitors") or ()),
        managers=tuple(document.get("run_managers") or ()),
        input=body,
        run_directory=_run_directory(fields, details, entries),
    )


def read_events(entries: Iterable[Mapping[str, Any]]) -> list[EventRecord]:
    """The log as local runs have it."""
    return [
        EventRecord(entry["time"], entry["code"], entry.get("description") or "", _mapping(entry.get("details")))
        for entry in entries
    ]


def read_states(entries: Iterable[Mapping[str, Any]], status: str) -> list[StateRecord]:
    """The states that a run entered, in order, as local runs have them.

    Parameters
    ----------
    entries : iterable of mapping
        The service's whole log of the run.
    status : str
        How the run stands: a state that it never left stands so, too.
    """
    states: list[StateRecord] = []
    for entry in entries:
        details = _mapping(entry.get("details"))
        name, code = details.get("state_name"), entry["code"]
        if not isinstance(name, str) or code.startswith("Flow"):
            continue
        kind = details.get("state_type") or ""
        if code.endswith("Started"):
            total = len(_mapping(details.get("input")).get("tasks") or ()) if kind == "Action" else 0
            unit = "task" if total else None
            states.append(StateRecord(name, kind, "ACTIVE", entry["time"], None, 0, total, unit, {}))
            continue
        place = next((n for n in reversed(range(len(states))) if states[n].name == name), None)
        ended = _ended(code)
        if place is None or ended is None:
            continue
        state = states[place]
        output = details.get("output") if ended == "SUCCEEDED" else details
        states[place] = StateRecord(
            name, state.type, ended, state.started, entry["time"],
            _done(state.total, details, ended), state.total, state.unit, _mapping(output),
        )  # fmt: skip
    if status == "ACTIVE":
        return states
    return [
        StateRecord(s.name, s.type, status, s.started, s.finished, s.done, s.total, s.unit, s.details)
        if s.status == "ACTIVE"
        else s
        for s in states
    ]


def request_digest(body: Mapping[str, Any]) -> str:
    """16 hexadecimal digits of what a run was asked for: its input without what it is run with and how the work is cut.

    The same request stays the same when the functions are registered anew, or the endpoint gets another queue.
    """
    asked = {key: value for key, value in body["input"].items() if not (is_refreshed(key) or key == "execution")}
    text = json.dumps(asked, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def is_refreshed(name: str) -> bool:
    """Whether a field of the input says with what a run is run, and so is taken from the deployed flow each time."""
    return name in REFRESHED or name.endswith(_FUNCTION_ID)


def run_tags(scan_id: str, request: str, tags: Iterable[str] = ()) -> list[str]:
    """Tags of a run: what it is of, which request it answers, and the user's own."""
    own = (" ".join(tag.split()) for tag in tags)
    known = ["tomopipe", f"scan:{shortened(scan_id, LABEL_MAX - len('scan:'))}", f"request:{request}"]
    return list(dict.fromkeys([*known, *(tag for tag in own if tag)]))


def own_tags(tags: Iterable[str]) -> list[str]:
    """Those tags of a run that a user gave it."""
    return [
        tag
        for tag in tags
        if tag not in ("tomopipe", "retry", "reprocess") and not tag.startswith(("scan:", "request:"))
    ]


def shortened(text: str, length: int = LABEL_MAX) -> str:
    """The text, or as much of its beginning as fits with eight digits that keep it distinct."""
    if len(text) <= length:
        return text
    return f"{text[: length - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def needed_authorization(document: Mapping[str, Any]) -> GlobusAuthorizationParameters | None:
    """What a login must bring for an INACTIVE run to go on, as the service says it; None where it says nothing.

    That may be consents (`required_scopes`), and a session: with an identity, of a domain, by a policy, with a second
    factor.
    """
    from globus_sdk import gare

    details = _mapping(document.get("details"))
    # An action's own word is of use where it is a whole one: the scopes of its old form lack that of the flow.
    inner = [_mapping(details.get("details"))]
    inner += [_mapping(_mapping(action).get("details")) for action in details.get("action_statuses") or ()]
    for place in (details, *(one for one in inner if "authorization_parameters" in one)):
        found = gare.to_gare(place)
        if found is not None:
            return found.authorization_parameters
    return None


def needed_session(needed: GlobusAuthorizationParameters | None) -> str:
    """What a session must have, in words; empty where consents are all that is asked for."""
    if needed is None:
        return ""
    identities, policies, domains, mfa = (getattr(needed, f"session_required_{name}") for name in _SESSION)
    parts = [
        *([f"with the identity {' or '.join(identities)}"] if identities else []),
        *([f"with an identity of {' or '.join(domains)}"] if domains else []),
        *([f"as the policy {' and '.join(policies)} asks"] if policies else []),
        *(["with a second factor"] if mfa else []),
        *(["anew"] if needed.prompt == "login" else []),
    ]
    return ", ".join(parts)


def _status(status: str, details: Mapping[str, Any]) -> str:
    # The service shows a cancelled run as one that failed; only its details tell them apart.
    return "CANCELLED" if details.get("code") in _CANCELLED_CODES or status == "ENDED" else status


def _input(details: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> JsonObject | None:
    """The input from the log's first entry, or from what the run's document says at its start and its end."""
    started = next((_mapping(entry.get("details")) for entry in entries if entry["code"] == "FlowStarted"), {})
    places = (started.get("input"), _mapping(details.get("details")).get("input"), details.get("output"))
    for found in places:
        if isinstance(found, Mapping) and isinstance(found.get("input"), Mapping):
            return {"input": dict(found["input"])}
    return None


def _state(details: Mapping[str, Any]) -> str | None:
    """The state in which a run is: an INACTIVE run's document names it, an active one's within its own details."""
    inner = _mapping(details.get("details"))
    name = details.get("state_name") or inner.get("state_name")
    return str(name) if name and (inner.get("state_type") or "") in _LASTING else None


def _error(details: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], deployment: str) -> str:
    """Why a run failed: from its document, else from the last entry of its log that names an error.

    Where the document only says that the log has the cause, it is that of the log's first failed action.
    """
    coded = [(str(entry["code"]), _mapping(entry.get("details"))) for entry in entries]
    gone = f"; the search index is gone or not open: tomopipe deploy {deployment}" if is_index_gone(coded) else ""
    return f"{_said(details, entries, coded)}{gone}"


def _said(
    details: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], coded: Sequence[tuple[str, JsonObject]]
) -> str:
    logged = [_mapping(entry.get("details")) for entry in reversed(entries) if "Fail" in entry["code"]]
    for place in (details, _mapping(details.get("details")), *logged):
        error = place.get("error") or place.get("exception")
        if error and is_withheld(place.get("cause")):
            return first_failure(coded) or explain(str(error), place.get("cause"))
        if error:
            return explain(str(error), place.get("cause"))
    return str(details.get("description") or "the service gives no reason; see the run's page")


def _consent(details: Mapping[str, Any]) -> str:
    """What an INACTIVE run waits for."""
    needed = needed_authorization({"details": details})
    said = (needed.session_message if needed else None) or details.get("description")
    scopes, session = (needed.required_scopes if needed else None), needed_session(needed)
    state = f"state {details['state_name']}: " if details.get("state_name") else ""
    wanted = [*([f"consent to {', '.join(scopes)}"] if scopes else []), *([f"log in {session}"] if session else [])]
    return f"{state}{said or 'the service waits for a person'}" + (f" ({'; '.join(wanted)})" if wanted else "")


def _run_directory(
    fields: Mapping[str, Any], details: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]
) -> str | None:
    outputs = [_mapping(_mapping(details.get("output")).get("Inspect"))]
    for entry in entries:
        told = _mapping(entry.get("details"))
        if told.get("state_name") == "Inspect" and entry["code"] == "ActionCompleted":
            outputs.append(_mapping(told.get("output")))
    folder = _mapping(fields.get("processing")).get("path")
    for output in outputs:
        with contextlib.suppress(KeyError, IndexError, TypeError):
            relative = output["details"]["results"][0]["output"]["relative"]
            if isinstance(folder, str) and isinstance(relative, str):
                return f"{folder}/{relative}"
    return None


def _ended(code: str) -> str | None:
    if code.endswith("Completed"):
        return "SUCCEEDED"
    return "FAILED" if code.endswith(("Failed", "TimedOut", "TimeOut")) else None


def _done(total: int, details: Mapping[str, Any], ended: str) -> int:
    if ended == "SUCCEEDED":
        return total
    cause = details.get("cause")
    if isinstance(cause, str):
        with contextlib.suppress(ValueError):
            cause = json.loads(cause)
    results = _mapping(_mapping(cause).get("details")).get("results") or ()
    return sum(isinstance(result, Mapping) and "output" in result for result in results)


def _mapping(value: Any) -> JsonObject:
    return dict(value) if isinstance(value, Mapping) else {}
