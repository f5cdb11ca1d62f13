"""Runs a Globus Flows definition on this machine as the service would: the same states, errors and limits.

What the actions do is left to the providers, what is kept of a run to the observers, and whether the definition is well
formed in every detail to the definition's linter.
"""

from __future__ import annotations

import getpass
import json
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import jsonschema
from jsonschema.validators import validator_for

from tomopipe.functions.errors import InputError, ParameterError

from .actions import (
    ActionContext,
    ActionOutcome,
    ActionProvider,
    ActionUnableToRun,
    FlowError,
    JsonObject,
    Progress,
    RunCancelled,
    RunObserver,
    utc_now,
)
from .choice import holds, timestamp
from .expressions import assign, build_parameters, resolve, visible_parameters, visible_state

MAX_STATE_BYTES = 200_000
"""Most that the run's data may take as JSON; the service's limit is 200 KB."""

DEFAULT_WAIT_TIME_S = 300

UNCATCHABLE_BY_ALL = frozenset({"States.Runtime", "States.DataLimitExceeded"})
"""Errors in the definition itself: ``States.All`` does not hide them, a ``Catch`` must name them."""

LOCAL_USER = "urn:globus:auth:identity:00000000-0000-0000-0000-000000000000"

FlowStatus = Literal["SUCCEEDED", "FAILED", "CANCELLED"]


@dataclass(frozen=True)
class FlowOutcome:
    """How a run ended.

    Parameters
    ----------
    status : {"SUCCEEDED", "FAILED", "CANCELLED"}
        CANCELLED where the user gave it up, by `cancel` or Ctrl-C.
    state : object
        The run's data at its end.
    error, cause : str, JSON
        Why it failed; ``None`` where it did not.
    last_state : str
        Name of the state in which it ended.
    """

    status: FlowStatus
    state: Any
    error: str | None = None
    cause: Any = None
    last_state: str | None = None


def run_flow(
    definition: JsonObject,
    input_schema: JsonObject,
    body: JsonObject,
    providers: Mapping[str, ActionProvider],
    observers: Sequence[RunObserver] = (),
    cancel: threading.Event | None = None,
    run_id: str | None = None,
    label: str | None = None,
    context: Mapping[str, Any] | None = None,
) -> FlowOutcome:
    """Run a flow to its end in this thread.

    Parameters
    ----------
    definition : dict
        ``StartAt`` and ``States``: Action, Choice, Pass, Wait, Fail, ExpressionEval.
    input_schema : dict
        JSON Schema of `body`.
    body : dict
        What the flow is started with: the run's first data.
    providers : mapping of str to ActionProvider
        By ``ActionUrl``.
    observers : sequence of RunObserver
        Hear of states, events and progress, in this order.
    cancel : threading.Event
        Ends the run within seconds when it is set; Ctrl-C in this thread does the same.
    run_id, label : str
        What ``$._context.run_id`` gives, and the label in the actions' status documents.
    context : mapping
        What else ``$._context`` gives where it differs from a local run: ``flow_id``, ``user_id``, ``username``...

    Returns
    -------
    FlowOutcome
        Never an exception for a flow that fails: that is an outcome.

    Raises
    ------
    ParameterError
        If `body` does not fit the schema. Nothing was started.
    InputError
        If the definition refers to a state that it lacks, or has one of a type that is not known. Nothing was started.
    """
    _check_definition(definition)
    check_input(input_schema, body)
    run = _Run(definition, deepcopy(body), providers, observers, cancel or threading.Event(), run_id, label)
    run.context.update(context or {})
    return run.execute()


def check_input(input_schema: JsonObject, body: JsonObject) -> None:
    """Refuse a flow's input that its schema does not allow, or that is too large for the run's data.

    Raises
    ------
    ParameterError
        Names the field, what was found and what is allowed.
    """
    validator = validator_for(input_schema)(input_schema)
    error = jsonschema.exceptions.best_match(validator.iter_errors(body))
    if error is not None:
        place = ".".join(str(part) for part in error.absolute_path) or "the input"
        raise ParameterError(f"{place}: {error.message}")
    try:
        _check_size(body)
    except FlowError as too_large:
        raise ParameterError(f"the flow's input: {too_large.cause}") from too_large


class _Run:
    """One run under way: the data, and where it is in the definition."""

    def __init__(
        self,
        definition: JsonObject,
        document: JsonObject,
        providers: Mapping[str, ActionProvider],
        observers: Sequence[RunObserver],
        cancel: threading.Event,
        run_id: str | None,
        label: str | None,
    ) -> None:
        self.definition = definition
        self.document: Any = document
        self.providers = {url.rstrip("/"): provider for url, provider in providers.items()}
        self.observer = _Observers(observers)
        self.cancel = cancel
        self.label = label
        self.name: str | None = definition["StartAt"]
        self.context: JsonObject = {
            "flow_id": str(uuid.UUID(int=0)),
            "run_id": run_id or str(uuid.uuid4()),
            "username": getpass.getuser(),
            "email": None,
            "user_id": LOCAL_USER,
            "identities": [LOCAL_USER],
        }

    def execute(self) -> FlowOutcome:
        self.observer.event(
            "FlowStarted", "The run started execution", {"input": visible_state(self.document), "label": self.label}
        )
        try:
            outcome = self._states()
        except (KeyboardInterrupt, RunCancelled):
            self.cancel.set()
            outcome = FlowOutcome("CANCELLED", self.document, last_state=self.name)
            self.observer.event("FlowCanceled", "The run was cancelled", {"state_name": self.name})
        except BaseException as error:
            self.observer.flow_finished("FAILED", type(error).__name__, str(error))
            raise
        self.observer.flow_finished(outcome.status, outcome.error, outcome.cause)
        return outcome

    def _states(self) -> FlowOutcome:
        last = self.name
        while self.name is not None:
            if self.cancel.is_set():
                raise RunCancelled(f"the run was cancelled before state {self.name}")
            last = self.name
            state = self.definition["States"][self.name]
            if state["Type"] == "Fail":
                return self._fail(last, state)
            failure = self._one_state(self.name, state)
            if failure is not None:
                return self._failed(failure.error, failure.cause)
        self.observer.event(
            "FlowSucceeded", "The run reached a successful completion state", {"output": visible_state(self.document)}
        )
        return FlowOutcome("SUCCEEDED", self.document, last_state=last)

    def _one_state(self, name: str, state: JsonObject) -> FlowError | None:
        """Run a state and go on to the next one; the error where nothing catches it."""
        kind = state["Type"]
        self.observer.state_started(name, kind)
        try:
            result, following = _HANDLERS[kind](self, name, state)
            if result is not _NOTHING:
                document = assign(self.document, state.get("ResultPath"), result)
                _check_size(document)
                self.document = document
        except FlowError as error:
            self._report_failure(name, kind, error)
            return self._caught(state, error)
        except (KeyboardInterrupt, RunCancelled):
            self.observer.state_finished(name, "CANCELLED", {})
            raise
        except BaseException as error:
            self.observer.state_finished(name, "FAILED", {"exception": type(error).__name__, "cause": str(error)})
            raise
        self.name = following
        output = visible_state(result) if isinstance(result, dict) else {}
        self._event(f"{kind}Completed", f"State {name} of type {kind} completed", name, kind, {"output": output})
        self.observer.state_finished(name, "SUCCEEDED", output)
        return None

    def _caught(self, state: JsonObject, error: FlowError) -> FlowError | None:
        """Go on where the state's ``Catch`` says; the error where nothing catches it."""
        catcher = _catcher(state, error)
        if catcher is None:
            return error
        try:
            found = {"Error": error.error, "Cause": _text(error.cause)}
            self.document = assign(self.document, catcher.get("ResultPath"), found)
        except FlowError as worse:
            return worse
        self.name = catcher["Next"]
        return None

    def _report_failure(self, name: str, kind: str, error: FlowError) -> None:
        details = {"exception": error.error, "cause": visible_state(error.cause)}
        code = "ActionTimedOut" if error.error == "ActionTimeout" else f"{kind}Failed"
        self._event(code, f"State {name} of type {kind} failed: {error.error}", name, kind, details)
        self.observer.state_finished(name, "FAILED", details)

    def _event(self, code: str, description: str, name: str, kind: str, details: JsonObject) -> None:
        self.observer.event(code, description, {"state_name": name, "state_type": kind, **details})

    def _started(self, name: str, kind: str, details: JsonObject) -> None:
        self._event(f"{kind}Started", f"State {name} of type {kind} started", name, kind, details)

    def _fail(self, name: str, state: JsonObject) -> FlowOutcome:
        self.observer.state_started(name, "Fail")
        self._started(name, "Fail", {})
        try:
            error, cause = (_text_field(state, field, self._data) for field in ("Error", "Cause"))
        except FlowError as failure:
            error, cause = failure.error, failure.cause
        self.observer.state_finished(name, "FAILED", {"exception": error, "cause": cause})
        return self._failed(error, cause)

    def _failed(self, error: str | None, cause: Any) -> FlowOutcome:
        details = {"error": error, "cause": visible_state(cause), "output": visible_state(self.document)}
        self.observer.event("FlowFailed", f"The run failed in state {self.name}", {"state_name": self.name, **details})
        return FlowOutcome("FAILED", self.document, error or "Fail", cause, self.name)

    @property
    def _data(self) -> Any:
        """What paths and expressions see: the run's data and the read-only ``_context``."""
        return {**self.document, "_context": self.context} if isinstance(self.document, dict) else self.document

    # Handlers of one state type each: (result or _NOTHING, name of the next state or None)

    def _action(self, name: str, state: JsonObject) -> tuple[Any, str | None]:
        body, visible = self._input(state)
        self._started(name, "Action", {"input": visible})
        provider = self.providers.get(state["ActionUrl"].rstrip("/"))
        if provider is None:
            raise ActionUnableToRun(
                f"there is no local provider for {state['ActionUrl']}; known: {', '.join(sorted(self.providers))}"
            )
        deadline = time.monotonic() + state.get("WaitTime", DEFAULT_WAIT_TIME_S)
        started = utc_now()
        result = provider.run(deepcopy(body), ActionContext(name, deadline, self.cancel, self.observer))
        status: JsonObject = {
            "action_id": uuid.uuid4().hex[:12],
            "state_name": name,
            "status": result.status,
            "display_status": result.status,
            "details": result.details,
            "start_time": started,
            "completion_time": utc_now(),
            "creator_id": self.context["user_id"],
            "label": body.get("label", self.label),
            "manage_by": [],
            "monitor_by": [],
            "release_after": None,
        }
        if result.status == "FAILED" and state.get("ExceptionOnActionFailure", True):
            raise FlowError("ActionFailedException", status)
        return status, state.get("Next")

    def _input(self, state: JsonObject) -> tuple[JsonObject, Any]:
        if "InputPath" in state:
            body = resolve(self._data, state["InputPath"], "InputPath")
            visible = visible_state(body)
        else:
            body = build_parameters(state.get("Parameters", {}), self._data)
            visible = visible_parameters(state.get("Parameters", {}), body)
        if not isinstance(body, dict):
            raise ActionUnableToRun(f"the input of an action is an object, found {type(body).__name__}")
        return body, visible

    def _pass(self, name: str, state: JsonObject) -> tuple[Any, str | None]:
        self._started(name, "Pass", {})
        if "Result" in state:
            result = deepcopy(state["Result"])
        elif "Parameters" in state:
            result = build_parameters(state["Parameters"], self._data, expressions=False)
        elif "InputPath" in state:
            result = resolve(self._data, state["InputPath"], "InputPath")
        elif "ResultPath" in state:
            result = self.document
        else:
            result = _NOTHING
        return result, state.get("Next")

    def _expression_eval(self, name: str, state: JsonObject) -> tuple[Any, str | None]:
        self._started(name, "ExpressionEval", {})
        return build_parameters(state["Parameters"], self._data), state.get("Next")

    def _choice(self, name: str, state: JsonObject) -> tuple[Any, str | None]:
        self._started(name, "Choice", {})
        for rule in state["Choices"]:
            if holds(rule, self._data):
                return _NOTHING, rule["Next"]
        if "Default" not in state:
            raise FlowError("States.NoChoiceMatched", f"No rule of {name} holds and it has no Default.")
        return _NOTHING, state["Default"]

    def _wait(self, name: str, state: JsonObject) -> tuple[Any, str | None]:
        self._started(name, "Wait", {})
        if self.cancel.wait(_seconds_to_wait(state, self._data)):
            raise RunCancelled(f"the run was cancelled in state {name}")
        return _NOTHING, state.get("Next")


_NOTHING = object()

_HANDLERS = {
    "Action": _Run._action,
    "Choice": _Run._choice,
    "ExpressionEval": _Run._expression_eval,
    "Pass": _Run._pass,
    "Wait": _Run._wait,
}


class _Observers(RunObserver):
    """Tells several observers, one at a time whatever the thread."""

    def __init__(self, observers: Sequence[RunObserver]) -> None:
        self.observers = tuple(observers)
        self.lock = threading.RLock()

    def event(self, code: str, description: str, details: JsonObject) -> None:
        with self.lock:
            for observer in self.observers:
                observer.event(code, description, details)

    def state_started(self, state: str, state_type: str) -> None:
        with self.lock:
            for observer in self.observers:
                observer.state_started(state, state_type)

    def state_finished(self, state: str, status: ActionOutcome | Literal["CANCELLED"], details: JsonObject) -> None:
        with self.lock:
            for observer in self.observers:
                observer.state_finished(state, status, details)

    def progress(self, state: str, progress: Progress) -> None:
        with self.lock:
            for observer in self.observers:
                observer.progress(state, progress)

    def flow_finished(self, status: str, error: str | None, cause: Any) -> None:
        with self.lock:
            for observer in self.observers:
                observer.flow_finished(status, error, cause)


def _check_definition(definition: JsonObject) -> None:
    states = definition["States"]
    referred = {"StartAt": definition["StartAt"]}
    for name, state in states.items():
        if state["Type"] not in _HANDLERS and state["Type"] != "Fail":
            known = ", ".join(sorted([*_HANDLERS, "Fail"]))
            raise InputError(f"flow definition: state {name} is of type {state['Type']}; known types: {known}")
        for rule in [state, *state.get("Choices", []), *state.get("Catch", [])]:
            referred.update({f"{name}.{key}": rule[key] for key in ("Next", "Default") if key in rule})
    for place, name in referred.items():
        if name not in states:
            raise InputError(f"flow definition: {place} names state {name}, which is not in States")


def _check_size(document: Any) -> None:
    try:
        size = len(json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode())
    except (TypeError, ValueError) as error:
        raise FlowError("States.Runtime", f"The state's output is not JSON: {error}.") from error
    if size > MAX_STATE_BYTES:
        raise FlowError(
            "States.DataLimitExceeded",
            f"The run's data would take {size} bytes, the limit is {MAX_STATE_BYTES}; pass paths, not arrays.",
        )


def _catcher(state: JsonObject, error: FlowError) -> JsonObject | None:
    for catcher in state.get("Catch", []):
        names = catcher["ErrorEquals"]
        catches_all = "States.All" in names or "States.ALL" in names
        if error.error in names or (catches_all and error.error not in UNCATCHABLE_BY_ALL):
            found: JsonObject = catcher
            return found
    return None


def _text_field(state: JsonObject, field: str, document: Any) -> str | None:
    """``Error`` or ``Cause`` of a Fail state, or what its path finds, as text."""
    if f"{field}Path" not in state:
        return state.get(field)
    return _text(resolve(document, state[f"{field}Path"], f"{field}Path"))


def _text(value: Any) -> str:
    """A cause as text, as the States Language has it: a status document as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def _seconds_to_wait(state: JsonObject, document: Any) -> float:
    seconds = resolve(document, state["SecondsPath"], "SecondsPath") if "SecondsPath" in state else state.get("Seconds")
    if seconds is not None:
        if not isinstance(seconds, int | float) or isinstance(seconds, bool) or seconds < 0:
            raise FlowError("States.Runtime", f"A Wait needs a number of seconds, found {seconds!r}.")
        return min(seconds, threading.TIMEOUT_MAX)
    text = (
        resolve(document, state["TimestampPath"], "TimestampPath") if "TimestampPath" in state else state["Timestamp"]
    )
    moment = timestamp(text)
    if moment is None:
        raise FlowError("States.Runtime", f"A Wait needs a time like 2026-01-31T12:00:00Z, found {text!r}.")
    return min(max(0.0, (moment - datetime.now(UTC)).total_seconds()), threading.TIMEOUT_MAX)
