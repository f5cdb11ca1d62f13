"""What the interpreter and the action providers say to each other: an action's input, outcome, errors and progress.

Which states run in which order is the interpreter's; what an action does is the provider's.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, Protocol

from tomopipe.functions.errors import TomopipeError

JsonObject = dict[str, Any]

ActionOutcome = Literal["SUCCEEDED", "FAILED"]


class FlowError(TomopipeError):
    """A state failed. ``Catch`` matches `error`; `cause` is a text, or the status document of the action that failed.

    Parameters
    ----------
    error : str
        Name as the Flows service has it: ``ActionFailedException``, ``ActionTimeout``, ``States.Runtime``...
    cause : str or dict
        What happened, JSON.
    """

    def __init__(self, error: str, cause: Any) -> None:
        super().__init__(f"{error}: {cause}")
        self.error = error
        self.cause = cause


class ActionUnableToRun(FlowError):
    """The provider refuses the request: nothing was started."""

    def __init__(self, cause: str) -> None:
        super().__init__("ActionUnableToRun", cause)


class ActionTimeout(FlowError):
    """The state's ``WaitTime`` passed before the action ended; the provider has stopped the action."""

    def __init__(self, cause: Any) -> None:
        super().__init__("ActionTimeout", cause)


class RunCancelled(TomopipeError):
    """The run was cancelled while the action was under way; the provider has stopped the action."""


@dataclass(frozen=True)
class Progress:
    """How far an action is: `done` of `total` tasks or bytes."""

    done: int
    total: int
    unit: Literal["task", "byte"]


class RunObserver:
    """Hears of everything that happens in a run; the base class ignores it all.

    Methods may be called from other threads than the one that runs the flow, one at a time.
    """

    def event(self, code: str, description: str, details: JsonObject) -> None:
        """An entry of the run's log; `code` and `details` as the Flows service writes them."""

    def state_started(self, state: str, state_type: str) -> None:
        """A state was entered."""

    def state_finished(self, state: str, status: ActionOutcome | Literal["CANCELLED"], details: JsonObject) -> None:
        """A state was left; `details` is its output, or ``{"exception", "cause"}``."""

    def progress(self, state: str, progress: Progress) -> None:
        """An action moved on; called often."""

    def flow_finished(self, status: str, error: str | None, cause: Any) -> None:
        """The run ended: SUCCEEDED, FAILED or CANCELLED."""


@dataclass(frozen=True)
class ActionContext:
    """What a provider needs to know of the run that it works for.

    Parameters
    ----------
    state : str
        Name of the state that runs the action.
    deadline : float
        `time.monotonic` at which the state's ``WaitTime`` is over.
    cancel : threading.Event
        Set when the user gives the run up.
    observer : RunObserver
        Hears of progress and events.
    """

    state: str
    deadline: float = float("inf")
    cancel: threading.Event = field(default_factory=threading.Event)
    observer: RunObserver = field(default_factory=RunObserver)

    def check(self) -> None:
        """Raise `RunCancelled` or `ActionTimeout` where the action must stop; to be called several times a second."""
        if self.cancel.is_set():
            raise RunCancelled(f"the run was cancelled in state {self.state}")
        if time.monotonic() >= self.deadline:
            raise ActionTimeout(f"state {self.state} did not end within its WaitTime")

    def report(self, progress: Progress) -> None:
        """Tell the observer how far the action is."""
        self.observer.progress(self.state, progress)

    def log(self, code: str, description: str, details: JsonObject) -> None:
        """Write an entry into the run's log."""
        self.observer.event(code, description, {"state_name": self.state, **details})


@dataclass(frozen=True)
class ActionResult:
    """How an action ended: its status and the ``details`` of its status document (JSON, small)."""

    status: ActionOutcome
    details: JsonObject


class ActionProvider(Protocol):
    """Does what one ``ActionUrl`` does on the service."""

    def run(self, body: JsonObject, context: ActionContext) -> ActionResult:
        """Run one action to its end.

        Raises
        ------
        ActionUnableToRun
            If `body` is not a request that can be started.
        ActionTimeout, RunCancelled
            If `context` said so; nothing of the action is left running.
        """
        ...


def utc_now() -> str:
    """The time as the services write it: UTC, ISO 8601, microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


_SHOWN_ERRORS = 3
_ERROR = re.compile(r"[A-Za-z_][\w.]*(?:Error|Exception|Exit|Interrupt|Lost|Exceeded|Timeout|Failure|Failed)(?::|\Z)")
_CLASS = re.compile(r"[A-Za-z_][\w.]*")


# What Parsl and the system say of a worker that is gone: killed by a signal, or with its node.
_LOST = re.compile(r"\b(?:WorkerLost|ManagerLost|BadStateException)\b|EXIT CODE: (?:137|-9)\b")
_KILLED = re.compile(r"EXIT CODE: (137|-9)\b")
_LOST_MAX = 160
_LOST_HERE = ": killed, or out of memory? "
_UNTRUSTED = "Ignoring start request for untrusted identity"
_UNTRUSTED_REMEDY = (
    "the endpoint serves its owner alone; use one that serves many people, or its owner's service account"
)
CAUSE_WITHHELD = "The index refused the record of this failure"
"""How the cause begins that stands in the place of the one that the index has refused; the log has that."""

_INDEX_GONE = re.compile(r"no open index|no index named|index .{0,80}\b(?:not open|not found|deleted)|\b404\b", re.I)


def explain(error: str, cause: Any) -> str:
    """One message for a person from the error and the cause of a failed state.

    Of a failed action's status document it takes what the action says went wrong: the transfer's fatal error, the
    tasks' exceptions, the ingest's message. A worker that was lost is said as such, whatever the text around it.
    """
    document = _document(cause)
    details = document.get("details") if document is not None else None
    if document is None or not isinstance(details, dict):
        found = cause if document is None else document
        return error if found is None else _with_remedy(f"{error}: {found}")
    traces = _traces(details)
    lost = [trace for trace in traces if _LOST.search(trace)]
    exceptions = [_without_module(reason(trace)) for trace in traces if trace not in lost]
    fatal = (details.get("fatal_error") or {}).get("description")
    parts = [_lost_worker(lost[0]) if lost else None, fatal, details.get("message"), *dict.fromkeys(exceptions)]
    said = [text for text in parts if text]
    more = [f"and {len(said) - _SHOWN_ERRORS} more"] if len(said) > _SHOWN_ERRORS else []
    listed = "; ".join([*said[:_SHOWN_ERRORS], *more])
    return _with_remedy(f"{document.get('state_name', error)} failed: {listed or details}")


def tracebacks(cause: Any) -> list[str]:
    """The distinct texts of several lines that the cause of a failed action holds, as its tasks have raised them."""
    details = (_document(cause) or {}).get("details")
    texts = _traces(details) if isinstance(details, dict) else []
    return [text.strip() for text in dict.fromkeys(texts) if "\n" in text.strip()]


def is_withheld(cause: Any) -> bool:
    """Whether a cause only says that the log has the cause."""
    return isinstance(cause, str) and CAUSE_WITHHELD in cause


def first_failure(entries: Iterable[tuple[str, Mapping[str, Any]]]) -> str | None:
    """What made a run fail, from its log: the first failed action that the flow took for a failure of the run.

    Parameters
    ----------
    entries : iterable of (str, mapping)
        Code and details of the log's entries, in order.

    Returns
    -------
    str or None
        State and cause, as `explain` says them; None where no action failed.
    """
    failed: list[Mapping[str, Any]] = []
    entered: set[str] = set()
    for code, details in entries:
        if code.startswith("Action") and code.endswith(("Failed", "TimedOut", "TimeOut")):
            failed.append(details)
        entered.add(str(details.get("state_name")))
    if not failed:
        return None
    # A state whose failure the flow passes over has no state that notes it.
    noted = [details for details in failed if f"{details.get('state_name')}Failed" in entered]
    first = (noted or failed)[0]
    error, cause = str(first.get("exception") or first.get("error") or "failed"), first.get("cause")
    text = explain(error, cause)
    name = first.get("state_name")
    return text if not name or text.startswith(str(name)) else f"{name} failed: {text}"


def is_index_gone(entries: Iterable[tuple[str, Mapping[str, Any]]]) -> bool:
    """Whether a run's log says that there is no such search index, or that it is not open."""
    return any(
        code.startswith("ActionFailed")
        and str(details.get("state_name", "")).startswith("Publish")
        and _INDEX_GONE.search(str(details.get("cause")))
        for code, details in entries
    )


def _document(cause: Any) -> JsonObject | None:
    """The status document of a failed action, where the cause is one."""
    if isinstance(cause, str) and cause.startswith("{"):
        with contextlib.suppress(ValueError):
            cause = json.loads(cause)
    return cause if isinstance(cause, dict) else None


def _traces(details: Mapping[str, Any]) -> list[str]:
    results = details.get("results")
    listed = results if isinstance(results, list) else []
    return [str(task["exception"]) for task in listed if isinstance(task, dict) and "exception" in task]


def _lost_worker(trace: str) -> str:
    line = _without_module(reason(trace))
    # The local provider's own text goes on with what is said here anyway.
    said, _, own = (line.partition(": ")[2] or line).partition(_LOST_HERE)
    killed = _KILLED.search(trace)
    if killed:
        said = f"exit code {killed[1]}"
    elif said.endswith(":"):
        # A pool's errors are listed below this line.
        said = " ".join(f"{said} {trace.rpartition(said)[2]}".split())
    return (
        f"a worker died ({said[:_LOST_MAX]}): killed, out of memory, or out of time; "
        f"`tomopipe retry` goes on from the finished slabs{'; fewer workers or smaller slabs need less' if own else ''}"
    )


def _with_remedy(text: str) -> str:
    return f"{text}; {_UNTRUSTED_REMEDY}" if _UNTRUSTED in text else text


def reason(exception: str) -> str:
    """The line of a task's exception that says why: the error's own in a traceback, else the first.

    An error's text may have several lines, and a list or a rule may be the last of them.
    """
    lines = [line for line in exception.strip().splitlines() if line.strip()] or ["no reason given"]
    if not lines[0].startswith("Traceback"):
        return lines[0].strip()
    errors = [line for line in lines if _ERROR.match(line)]
    return (errors or [line for line in lines if line[:1].strip()])[-1]


def _without_module(line: str) -> str:
    """The line of an exception with the bare name of its class; any other line as it is."""
    name, colon, message = line.partition(": ")
    return name.rpartition(".")[2] + colon + message if _CLASS.fullmatch(name) else line
