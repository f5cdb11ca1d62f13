"""What the interpreter and the action providers say to each other: an action's input, outcome, errors and progress.

Which states run in which order is the interpreter's; what an action does is the provider's.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
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


def explain(error: str, cause: Any) -> str:
    """One message for a person from the error and the cause of a failed state.

    Of a failed action's status document it takes what the action says went wrong: the transfer's fatal error, the
    tasks' exceptions, the ingest's message.
    """
    if isinstance(cause, str) and cause.startswith("{"):
        with contextlib.suppress(ValueError):
            cause = json.loads(cause)
    details = cause.get("details") if isinstance(cause, dict) else None
    if not isinstance(cause, dict) or not isinstance(details, dict):
        return error if cause is None else f"{error}: {cause}"
    fatal = (details.get("fatal_error") or {}).get("description")
    traces = [task["exception"] for task in details.get("results") or () if "exception" in task]
    exceptions = [_without_module(reason(trace)) for trace in traces]
    said = [text for text in [fatal, details.get("message"), *dict.fromkeys(exceptions)] if text]
    more = [f"and {len(said) - _SHOWN_ERRORS} more"] if len(said) > _SHOWN_ERRORS else []
    found = "; ".join([*said[:_SHOWN_ERRORS], *more])
    return f"{cause.get('state_name', error)} failed: {found or details}"


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
