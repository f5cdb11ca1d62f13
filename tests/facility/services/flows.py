"""Stand-in of Globus Flows: flows, their roles and scopes, and runs, which the project's interpreter carries out.

What actions do is left to the providers in `actions`.
"""

from __future__ import annotations

import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import jsonschema
from globus_sdk.scopes import FlowsScopes, SpecificFlowScopes
from jsonschema.validators import validator_for

from tomopipe.flows.definition_linter import lint
from tomopipe.flows.local.actions import (
    ActionContext,
    ActionProvider,
    ActionResult,
    RunCancelled,
    RunObserver,
    utc_now,
)
from tomopipe.flows.local.interpreter import MAX_STATE_BYTES, FlowOutcome, run_flow

from .auth import AuthService
from .http import Caller, Json, Request, Response, ServiceError
from .principals import ALL_USERS, PUBLIC, included, is_principal, is_uuid

FLOWS = "flows.globus.org"
TITLE_LENGTH_MAX = 128
SUBTITLE_LENGTH_MAX = 128
DESCRIPTION_LENGTH_MAX = 4096
KEYWORDS_LENGTH_MAX = 1024
PRINCIPALS_MAX = 16
LABEL_LENGTH_MAX = 64
TAGS_MAX = 16
PAGE = 20
LOG_PAGE = 10

_VIEW_FLOWS = (str(FlowsScopes.all), str(FlowsScopes.view_flows), str(FlowsScopes.manage_flows))
_MANAGE_FLOWS = (str(FlowsScopes.all), str(FlowsScopes.manage_flows))
_VIEW_RUNS = (str(FlowsScopes.all), str(FlowsScopes.run_status), str(FlowsScopes.run_manage))
_MANAGE_RUNS = (str(FlowsScopes.all), str(FlowsScopes.run_manage))

_PRINCIPAL_WORDS: dict[str, tuple[str, ...]] = {
    "flow_viewers": (PUBLIC,),
    "flow_starters": (ALL_USERS,),
    "flow_administrators": (),
    "run_managers": (),
    "run_monitors": (),
}
_TEXTS = {"title": TITLE_LENGTH_MAX, "subtitle": SUBTITLE_LENGTH_MAX, "description": DESCRIPTION_LENGTH_MAX}
_FLOW_KEYS = {*_PRINCIPAL_WORDS, *_TEXTS, "definition", "input_schema", "keywords", "subscription_id"}
_RUN_KEYS = {"label", "tags", "run_managers", "run_monitors"}
_ENDED = {"SUCCEEDED", "FAILED"}
_RUN_FILTERS = {"filter_flow_id", "filter_role", "filter_roles", "filter_status", "filter_label", "filter_start_time"}
_FLOW_FILTERS = {"filter_role", "filter_roles", "filter_fulltext", "filter_title"}
_PAGING = {"orderby", "marker", "limit", "per_page", "include_flow_description"}


@dataclass
class _Flow:
    id: str
    owner: str
    document: dict[str, Any]

    @property
    def scope(self) -> str:
        return str(SpecificFlowScopes(self.id).user)

    def roles(self, caller: Caller) -> list[str]:
        """The caller's roles, strongest first."""
        listed = {
            "flow_administrator": self.document["flow_administrators"],
            "flow_starter": self.document["flow_starters"],
            "flow_viewer": self.document["flow_viewers"],
            "run_manager": self.document["run_managers"],
            "run_monitor": self.document["run_monitors"],
        }
        owner = ["flow_owner"] if caller.urn == self.owner else []
        return owner + [role for role, principals in listed.items() if included(caller, principals)]


_MAY: dict[str, set[str]] = {
    "VIEW": {"flow_owner", "flow_administrator", "flow_starter", "flow_viewer"},
    "RUN": {"flow_owner", "flow_administrator", "flow_starter"},
    "UPDATE": {"flow_owner", "flow_administrator"},
    "DELETE": {"flow_owner", "flow_administrator"},
}


@dataclass(frozen=True)
class ActionCaller:
    """Whom an action works for: the run's owner, through the flow, as the providers see it."""

    run: Run
    auth: AuthService

    @property
    def urn(self) -> str:
        """The run's owner."""
        return self.run.owner.urn

    @property
    def person(self) -> Caller:
        """The run's owner with the consents of this moment, below the flow's scope."""
        owner = self.run.owner
        tree = self.auth.consents(owner.identity_id, self.run.client_id)
        return Caller(
            identity_id=owner.identity_id,
            username=owner.username,
            client_id=self.run.flow_id,
            scopes=frozenset(tree.get(self.run.flow_scope, {})),
            consents=tree.get(self.run.flow_scope, {}),
            resource_server=self.run.flow_id,
            email=owner.email,
        )

    def need_consent(self, context: ActionContext, *path: str, description: str) -> ActionContext:
        """Hold the run until its owner has consented to the scopes that end `path`; a context whose time goes on.

        The path starts below the flow's scope. The last scope is asked for as optional where it is not the first,
        because it can be taken back alone.
        """
        while not _has(self.person.consents, path):
            required = _nested(path)
            details = {"code": "ConsentRequired", "description": description, "required_scope": required}
            held = time.monotonic()
            self.run.hold(context, f"{self.run.flow_scope}[{required}]", details)
            context = ActionContext(
                context.state, context.deadline + time.monotonic() - held, context.cancel, context.observer
            )
        return context


Provider = Callable[[dict[str, Any], ActionContext, ActionCaller], ActionResult]


class Run(RunObserver):
    """A run: its record, its log, and the thread that carries it out."""

    def __init__(self, flow: _Flow, caller: Caller, body: Mapping[str, Any], given: Mapping[str, Any]) -> None:
        self.id = str(uuid.uuid4())
        self.flow_id = flow.id
        self.flow_scope = flow.scope
        self.flow = deepcopy(flow.document)
        self.owner = caller
        self.client_id = caller.client_id
        self.input = deepcopy(dict(body))
        self.label: str | None = given.get("label")
        self.tags: list[str] = given.get("tags", [])
        self.managers: list[str] = given.get("run_managers", [])
        self.monitors: list[str] = given.get("run_monitors", [])
        self.status = "ACTIVE"
        self.start_time = utc_now()
        self.completion_time: str | None = None
        self.details: dict[str, Any] = {
            "code": "FlowStarting",
            "description": "The Flow is starting execution",
            "details": {"input": self.input},
        }
        self.log: list[dict[str, Any]] = []
        self.outcome: FlowOutcome | None = None
        self.cancel = threading.Event()
        self.thread: threading.Thread | None = None
        self._changed = threading.Condition(threading.RLock())
        self._resumed = False

    # As an observer of the interpreter

    def event(self, code: str, description: str, details: dict[str, Any]) -> None:
        """Note an entry of the log; it is what the record shows as the run's latest step, too."""
        with self._changed:
            entry = {"time": utc_now(), "code": code, "description": description, "details": details}
            self.log.append(json.loads(json.dumps(entry)))
            if code.endswith("Started") and code != "FlowStarted":
                shown = {key: details[key] for key in ("state_name", "state_type") if key in details}
                self.details = {"time": utc_now(), "code": code, "description": description, "details": shown}

    def hold(self, context: ActionContext, required_scope: str, details: dict[str, Any]) -> None:
        """Make the run INACTIVE for want of a consent, until it is resumed."""
        with self._changed:
            self._resumed = False
            self.status = "INACTIVE"
            action = {
                "action_id": uuid.uuid4().hex[:12],
                "state_name": context.state,
                "status": "INACTIVE",
                "display_status": "INACTIVE",
                "creator_id": self.owner.urn,
                "details": {**details, "resolution_url": None},
                "start_time": utc_now(),
                "completion_time": None,
                "label": None,
                "manage_by": [],
                "monitor_by": [],
                "release_after": "P30D",
            }
            self.details = {
                "code": "ConsentRequired",
                "description": details["description"],
                "required_scope": required_scope,
                "state_name": context.state,
                "action_statuses": [action],
            }
            while not self._resumed:
                if context.cancel.is_set():
                    raise RunCancelled(f"the run was cancelled in state {context.state}")
                self._changed.wait(0.1)
            self.status = "ACTIVE"

    def resume(self, client_id: str) -> None:
        """Go on, with the consents that the resuming application has."""
        with self._changed:
            self.client_id = client_id
            self._resumed = True
            self.status = "ACTIVE"
            started = {"state_name": self.details.get("state_name")}
            self.details = {"code": "FlowResumed", "description": "The run was resumed", "details": started}
            self._changed.notify_all()

    def finish(self, outcome: FlowOutcome) -> None:
        """Note how the run ended."""
        with self._changed:
            self.outcome = outcome
            self.completion_time = utc_now()
            self.status = "SUCCEEDED" if outcome.status == "SUCCEEDED" else "FAILED"
            if outcome.status == "SUCCEEDED":
                self.details = {
                    "code": "FlowSucceeded",
                    "description": "The Flow run reached a successful completion state",
                    "output": outcome.state,
                }
            elif outcome.status == "CANCELLED":
                self.details = {
                    "time": utc_now(),
                    "code": "FlowCanceled",
                    "description": "The Flow Instance was canceled by the user",
                    "details": {},
                }
            else:
                self.details = {
                    "code": "FlowFailed",
                    "description": "The Flow run reached a failed completion state",
                    "error": outcome.error,
                    "cause": outcome.cause,
                    "details": {"state_name": outcome.last_state},
                    "output": outcome.state,
                }

    def roles(self, caller: Caller) -> list[str]:
        """The caller's roles, strongest first."""
        owner = ["run_owner"] if caller.identity_id == self.owner.identity_id else []
        listed = {
            "run_manager": self.managers,
            "flow_run_manager": self.flow["run_managers"],
            "run_monitor": self.monitors,
            "flow_run_monitor": self.flow["run_monitors"],
        }
        return owner + [role for role, principals in listed.items() if included(caller, principals)]

    def may_manage(self, caller: Caller) -> bool:
        """Whether the caller may change or cancel the run."""
        return not {"run_owner", "run_manager", "flow_run_manager"}.isdisjoint(self.roles(caller))

    def document(self, caller: Caller) -> Json:
        """The run's record as the caller sees it."""
        managing = self.may_manage(caller)
        roles = self.roles(caller)
        with self._changed:
            document = {
                "run_id": self.id,
                "action_id": self.id,
                "flow_id": self.flow_id,
                "flow_title": self.flow["title"],
                "flow_last_updated": self.flow["updated_at"],
                "start_time": self.start_time,
                "status": self.status,
                "display_status": self.status,
                "details": deepcopy(self.details),
                "label": self.label,
                "tags": list(self.tags),
                "created_by": self.owner.urn,
                "run_owner": self.owner.urn,
                "run_managers": list(self.managers) if managing else [],
                "run_monitors": list(self.monitors) if managing else [],
                "manage_by": list(self.managers) if managing else [],
                "monitor_by": list(self.monitors) if managing else [],
                "user_role": roles[0] if roles else None,
                "user_roles": roles,
                "blocking_web_input_id": None,
            }
            return document | ({"completion_time": self.completion_time} if self.completion_time else {})


@dataclass(frozen=True)
class _Bound:
    """A provider of the interpreter: one of the service's, for one run."""

    provider: Provider
    caller: ActionCaller

    def run(self, body: dict[str, Any], context: ActionContext) -> ActionResult:
        return self.provider(body, context, self.caller)


class FlowsService:
    """The part that answers /flows and /runs.

    Parameters
    ----------
    auth : AuthService
        Makes the scope of every flow known, and knows the consents.
    providers : mapping of str to (provider, scope)
        What each ``ActionUrl`` does, and the scope that a flow needs for it.
    free_tier : bool
        Whether the documented limit holds: one flow a person without a subscription.
    """

    prefixes: tuple[str, ...] = ("/flows", "/runs")

    def __init__(
        self, auth: AuthService, providers: Mapping[str, tuple[Provider, str]], *, free_tier: bool = True
    ) -> None:
        self._auth = auth
        self._providers = {url.rstrip("/"): provider for url, provider in providers.items()}
        self.free_tier = free_tier
        self.subscriptions: set[str] = set()
        self.faults: list[str] = []
        self._flows: dict[str, _Flow] = {}
        self._runs: dict[str, Run] = {}
        self._lock = threading.RLock()

    @property
    def runs(self) -> list[Run]:
        """All runs, in the order of their start."""
        with self._lock:
            return list(self._runs.values())

    def stop(self) -> None:
        """Cancel what runs, and wait for it."""
        for run in self.runs:
            run.cancel.set()
        for run in self.runs:
            if run.thread is not None:
                run.thread.join(timeout=30)

    def handle(self, request: Request) -> Response:
        """Answer a request."""
        parts = request.path.strip("/").split("/")
        method = request.method
        match parts:
            case ["flows"] if method == "POST":
                return self._create(request)
            case ["flows"] if method == "GET":
                return self._list_flows(request)
            case ["flows", "validate"] if method == "POST":
                return self._validate(request)
            case ["flows", flow_id] if method in ("GET", "PUT", "DELETE"):
                return {"GET": self._get_flow, "PUT": self._update, "DELETE": self._delete}[method](request, flow_id)
            case ["flows", flow_id, "run"] if method == "POST":
                return self._run(request, flow_id)
            case ["flows", flow_id, "validate_run"] if method == "POST":
                return self._validate_run(request, flow_id)
            case ["runs"] if method == "GET":
                return self._list_runs(request)
            case ["runs", run_id] if method in ("GET", "PUT"):
                return (self._get_run if method == "GET" else self._update_run)(request, run_id)
            case ["runs", run_id, "log"] if method == "GET":
                return self._log(request, run_id)
            case ["runs", run_id, "definition"] if method == "GET":
                return self._definition(request, run_id)
            case ["runs", run_id, "cancel" | "resume" | "release" as verb] if method == "POST":
                return {"cancel": self._cancel, "resume": self._resume, "release": self._release}[verb](request, run_id)
        raise _error(404, "NOT_FOUND", f"{method} {request.path} is not in the stand-in")

    # --- Flows

    def _create(self, request: Request) -> Response:
        caller = _authorized(request, _MANAGE_FLOWS)
        body = _object(request.body)
        problems = _flow_problems(body) + [
            _problem([key], "field required", "value_error.missing")
            for key in ("title", "definition", "input_schema")
            if key not in body
        ]
        _refuse(problems)
        with self._lock:
            self._check_subscription(caller, body.get("subscription_id"))
            flow_id, now = str(uuid.uuid4()), utc_now()
            document = {
                "subtitle": "",
                "description": "",
                "keywords": [],
                **{key: [] for key in _PRINCIPAL_WORDS},
                "subscription_id": None,
                **deepcopy(body),
                "created_at": now,
                "updated_at": now,
            }
            flow = _Flow(flow_id, caller.urn, document)
            self._flows[flow_id] = flow
            self._register_scope(flow)
        return Response(201, _flow_document(flow, caller))

    def _check_subscription(self, caller: Caller, subscription: str | None) -> None:
        if subscription is not None and subscription not in self.subscriptions:
            raise _error(403, "FORBIDDEN", f"You are no member of the subscription {subscription}.")
        free = [
            flow
            for flow in self._flows.values()
            if flow.owner == caller.urn and flow.document["subscription_id"] is None
        ]
        if self.free_tier and subscription is None and free:
            raise _error(
                403,
                "FORBIDDEN",
                f"A user may only have 1 flow that is not associated with a subscription: {free[0].id}.",
            )

    def _register_scope(self, flow: _Flow) -> None:
        """The flow's scope depends on those of its actions; who consented earlier has not consented to new ones."""
        urls = {state.get("ActionUrl", "").rstrip("/") for state in flow.document["definition"]["States"].values()}
        scopes = sorted({self._providers[url][1] for url in urls if url in self._providers})
        self._auth.register_scope(flow.scope, flow.id, scopes)

    def _list_flows(self, request: Request) -> Response:
        caller = _authorized(request, _VIEW_FLOWS)
        _check_filters(request, _FLOW_FILTERS)
        wanted = _filter_roles(request)
        text = request.query.get("filter_fulltext", request.query.get("filter_title", "")).lower()
        with self._lock:
            documents = [
                _flow_document(flow, caller)
                for flow in self._flows.values()
                if _MAY["VIEW"].intersection(flow.roles(caller))
                and (not wanted or wanted.intersection(flow.roles(caller)))
                and text in f"{flow.document['title']} {flow.document['description']}".lower()
            ]
        return _page(request, "flows", _ordered(request, documents, "updated_at DESC"), PAGE)

    def _validate(self, request: Request) -> Response:
        _authorized(request, _MANAGE_FLOWS)
        body = _object(request.body)
        unknown = [_unknown(key) for key in body.keys() - {"definition", "input_schema"}]
        _refuse([*unknown, *_flow_problems({key: body[key] for key in ("definition", "input_schema") if key in body})])
        urls = {state.get("ActionUrl", "").rstrip("/") for state in body["definition"]["States"].values()}
        scopes = sorted({self._providers[url][1] for url in urls if url in self._providers})
        return Response(200, {"scopes": {"User": scopes}})

    def _get_flow(self, request: Request, flow_id: str) -> Response:
        caller = _authorized(request, _VIEW_FLOWS)
        return Response(200, _flow_document(self._flow(flow_id, caller, "VIEW"), caller))

    def _update(self, request: Request, flow_id: str) -> Response:
        caller = _authorized(request, _MANAGE_FLOWS)
        body = _object(request.body)
        with self._lock:
            flow = self._flow(flow_id, caller, "UPDATE")
            owner = body.pop("flow_owner", flow.owner)
            if owner not in (flow.owner, caller.urn):
                raise _error(403, "FORBIDDEN", "A flow's owner may only be set to the caller.")
            _refuse(_flow_problems(body))
            subscription = body.get("subscription_id")
            if subscription is not None and subscription not in self.subscriptions:
                raise _error(403, "FORBIDDEN", f"You are no member of the subscription {subscription}.")
            flow.owner = owner
            flow.document = {**flow.document, **deepcopy(body), "updated_at": utc_now()}
            self._register_scope(flow)
            return Response(200, _flow_document(flow, caller))

    def _delete(self, request: Request, flow_id: str) -> Response:
        caller = _authorized(request, _MANAGE_FLOWS)
        with self._lock:
            flow = self._flow(flow_id, caller, "DELETE")
            document = {**_flow_document(flow, caller), "DELETED": True, "deleted_at": utc_now()}
            del self._flows[flow_id]
            self._auth.forget_scope(flow.scope)
        return Response(200, document)

    def _flow(self, flow_id: str, caller: Caller, permission: str) -> _Flow:
        """A flow that the caller may do something with: 404 where he may not even see it."""
        with self._lock:
            flow = self._flows.get(flow_id)
            roles = set(flow.roles(caller)) if flow else set()
            if flow is None or not _MAY["VIEW"].intersection(roles):
                raise _error(404, "NOT_FOUND", f"No flow exists with id value {flow_id}")
            if not _MAY[permission].intersection(roles):
                raise _error(
                    403,
                    "FORBIDDEN",
                    "You do not have the necessary permissions to perform this action on the flow with id value"
                    f" {flow_id}. Missing permissions: {permission}.",
                )
            return flow

    # --- Runs

    def _starter(self, request: Request, flow_id: str) -> Caller:
        """The caller of a route that needs the flow's own scope."""
        scope = str(SpecificFlowScopes(flow_id).user)
        return _authorized(request, (scope,), (flow_id, FLOWS))

    def _run(self, request: Request, flow_id: str) -> Response:
        caller = self._starter(request, flow_id)
        flow = self._flow(flow_id, caller, "RUN")
        body = _object(request.body)
        given = _run_fields(body, _RUN_KEYS | {"body", "activity_notification_policy"})
        if "body" not in body:
            _refuse([_problem(["body"], "field required", "value_error.missing")])
        _refuse(_policy_problems(body.get("activity_notification_policy")))
        _check_input(flow, body["body"])
        run = Run(flow, caller, body["body"], given)
        with self._lock:
            self._runs[run.id] = run
        document = run.document(caller)
        run.thread = threading.Thread(target=self._execute, args=(run,), name=f"run-{run.id[:8]}", daemon=True)
        run.thread.start()
        return Response(201, document)

    def _validate_run(self, request: Request, flow_id: str) -> Response:
        caller = self._starter(request, flow_id)
        flow = self._flow(flow_id, caller, "RUN")
        body = _object(request.body)
        _run_fields(body, _RUN_KEYS | {"body", "activity_notification_policy"})
        _check_input(flow, body.get("body"))
        return Response(200, {"message": "validation successful"})

    def _execute(self, run: Run) -> None:
        acting = ActionCaller(run, self._auth)
        providers: dict[str, ActionProvider] = {
            url: _Bound(self._with_scope(provider, scope), acting) for url, (provider, scope) in self._providers.items()
        }
        context = {
            "flow_id": run.flow_id,
            "username": run.owner.username,
            "email": run.owner.email,
            "user_id": run.owner.urn,
            "identities": [run.owner.urn],
        }
        try:
            outcome = run_flow(
                run.flow["definition"], {}, run.input, providers, [run], run.cancel, run.id, run.label, context
            )
        except Exception as error:  # noqa: BLE001 - a fault of the stand-in must be seen, not hang the run
            self.faults.append(f"run {run.id}: {type(error).__name__}: {error}")
            outcome = FlowOutcome("FAILED", run.input, type(error).__name__, str(error))
        run.finish(outcome)

    @staticmethod
    def _with_scope(provider: Provider, scope: str) -> Provider:
        """A provider that first sees to it that the run's owner let the flow use it."""

        def run(body: dict[str, Any], context: ActionContext, caller: ActionCaller) -> ActionResult:
            context = caller.need_consent(context, scope, description="Missing required consent of the action")
            return provider(body, context, caller)

        return run

    def _visible_run(self, run_id: str, caller: Caller) -> Run:
        with self._lock:
            run = self._runs.get(run_id)
        if run is None or not run.roles(caller):
            raise _error(404, "NOT_FOUND", f"No run exists with id value {run_id}")
        return run

    def _managed_run(self, run_id: str, caller: Caller, permission: str) -> Run:
        run = self._visible_run(run_id, caller)
        if not run.may_manage(caller):
            raise _error(
                403,
                "FORBIDDEN",
                "You do not have the necessary permissions to perform this action on the run with id value"
                f" {run_id}. Missing permissions: {permission}.",
            )
        return run

    def _list_runs(self, request: Request) -> Response:
        caller = _authorized(request, _VIEW_RUNS)
        _check_filters(request, _RUN_FILTERS)
        flows, statuses, wanted = (
            _listed(request, "filter_flow_id"),
            _listed(request, "filter_status"),
            _filter_roles(request),
        )
        label = request.query.get("filter_label", "").lower()
        start, _, end = request.query.get("filter_start_time", "").partition(",")
        documents = [
            run.document(caller)
            for run in self.runs
            if run.roles(caller)
            and (not flows or run.flow_id in flows)
            and (not statuses or run.status in statuses)
            and (not wanted or wanted.intersection(run.roles(caller)))
            and label in (run.label or "").lower()
            and _within(run.start_time, start, end)
        ]
        return _page(request, "runs", _ordered(request, documents, "start_time DESC"), PAGE)

    def _get_run(self, request: Request, run_id: str) -> Response:
        caller = _authorized(request, _VIEW_RUNS)
        run = self._visible_run(run_id, caller)
        document = run.document(caller)
        if request.query.get("include_flow_description", "").lower() == "true":
            shown = ("title", "subtitle", "description", "keywords", "created_at", "updated_at")
            document["flow_description"] = {"id": run.flow_id, **{key: run.flow[key] for key in shown}}
        return Response(200, document)

    def _update_run(self, request: Request, run_id: str) -> Response:
        caller = _authorized(request, _MANAGE_RUNS)
        run = self._managed_run(run_id, caller, "UPDATE")
        given = _run_fields(_object(request.body), _RUN_KEYS)
        run.label = given.get("label", run.label)
        run.tags = given.get("tags", run.tags)
        run.managers = given.get("run_managers", run.managers)
        run.monitors = given.get("run_monitors", run.monitors)
        return Response(200, run.document(caller))

    def _log(self, request: Request, run_id: str) -> Response:
        caller = _authorized(request, _VIEW_RUNS)
        entries = list(self._visible_run(run_id, caller).log)
        if request.query.get("reverse_order", "").lower() == "true":
            entries.reverse()
        return _page(request, "entries", entries, LOG_PAGE)

    def _definition(self, request: Request, run_id: str) -> Response:
        caller = _authorized(request, _VIEW_RUNS)
        run = self._visible_run(run_id, caller)
        shown = {key: run.flow[key] for key in ("definition", "input_schema")}
        return Response(200, {"flow_id": run.flow_id, **shown})

    def _cancel(self, request: Request, run_id: str) -> Response:
        caller = _authorized(request, _MANAGE_RUNS)
        run = self._managed_run(run_id, caller, "CANCEL")
        _need_status(run, {"ACTIVE", "INACTIVE"})
        run.cancel.set()
        if run.thread is not None:
            run.thread.join(timeout=20)
        return Response(200, run.document(caller))

    def _resume(self, request: Request, run_id: str) -> Response:
        with self._lock:
            run = self._runs.get(run_id)
        if run is None:
            raise _error(404, "NOT_FOUND", f"No run exists with id value {run_id}")
        caller = self._starter(request, run.flow_id)
        self._visible_run(run_id, caller)
        if caller.identity_id != run.owner.identity_id:
            raise _error(
                403,
                "FORBIDDEN",
                "You do not have the necessary permissions to perform this action on the run with id value"
                f" {run_id}. Missing permissions: RESUME.",
            )
        _need_status(run, {"INACTIVE"})
        run.resume(caller.client_id)
        return Response(200, run.document(caller))

    def _release(self, request: Request, run_id: str) -> Response:
        caller = _authorized(request, _MANAGE_RUNS)
        run = self._managed_run(run_id, caller, "DELETE")
        _need_status(run, {"ENDED", *_ENDED})
        with self._lock:
            self._runs.pop(run_id, None)
        return Response(200, run.document(caller))


# --- Documents


def _flow_document(flow: _Flow, caller: Caller) -> Json:
    roles = flow.roles(caller)
    shown = {"flow_owner", "flow_administrator"}.intersection(roles)
    document = deepcopy(flow.document)
    if not shown:
        # Only who administers a flow sees who else may use it.
        document |= {key: [] for key in _PRINCIPAL_WORDS}
    return {
        **document,
        "id": flow.id,
        "globus_auth_scope": flow.scope,
        "globus_auth_username": f"{flow.id}@clients.auth.globus.org",
        "principal_urn": f"urn:globus:auth:identity:{flow.id}",
        "flow_owner": flow.owner,
        "created_by": flow.owner,
        "flow_url": f"https://flows.globus.org/flows/{flow.id}",
        "action_url": f"https://flows.globus.org/flows/{flow.id}",
        "api_version": "1.0",
        "synchronous": False,
        "log_supported": True,
        "types": ["Action"],
        "user_role": roles[0] if roles else None,
        "user_roles": roles,
        "is_high_assurance": False,
    }


# --- Checks


def _authorized(request: Request, scopes: Collection[str], servers: Collection[str] = (FLOWS,)) -> Caller:
    """The caller, whose token has one of the scopes."""
    caller = request.caller
    # A token of another service is none here; one of a flow is known, but says too little.
    if caller is None or (caller.resource_server not in servers and not is_uuid(caller.resource_server)):
        raise _error(401, "AUTHENTICATION_ERROR", "Expired or invalid Bearer token")
    if not caller.scopes.intersection(scopes):
        wanted = next(iter(scopes))
        raise _error(403, "MISSING_SCOPE", f"This action requires the following scope: {wanted}")
    return caller


def _object(body: Json) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise _error(400, "BAD_REQUEST", "The body of the request must be a JSON object.")
    return dict(body)


def _problem(location: Sequence[str | int], message: str, kind: str = "value_error") -> Json:
    return {"loc": list(location), "msg": message, "type": kind}


def _unknown(key: str) -> Json:
    return _problem([key], "extra fields not permitted", "value_error.extra")


def _refuse(problems: Sequence[Json]) -> None:
    """422 with everything that is wrong with a body."""
    if problems:
        said = "; ".join(f"$.{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in problems)
        count = f"{len(problems)} validation error{'s' if len(problems) > 1 else ''} in body. {said}"
        raise _error(422, "UNPROCESSABLE_ENTITY", list(problems), message=count)


def _flow_problems(body: Mapping[str, Any]) -> list[Json]:
    problems = [_unknown(key) for key in sorted(body.keys() - _FLOW_KEYS)]
    for key, longest in _TEXTS.items():
        shortest = 1 if key == "title" else 0
        if key in body and not (isinstance(body[key], str) and shortest <= len(body[key]) <= longest):
            problems.append(_problem([key], f"a string of {shortest} to {longest} characters is needed"))
    for key in _PRINCIPAL_WORDS.keys() & body.keys():
        problems += _principal_problems(key, body[key], _PRINCIPAL_WORDS[key])
    keywords = body.get("keywords", [])
    if not isinstance(keywords, list) or not all(isinstance(word, str) for word in keywords):
        problems.append(_problem(["keywords"], "a list of strings is needed"))
    elif sum(map(len, keywords)) > KEYWORDS_LENGTH_MAX:
        problems.append(_problem(["keywords"], f"more than {KEYWORDS_LENGTH_MAX} characters in all"))
    if body.get("subscription_id") is not None and not is_uuid(body["subscription_id"]):
        problems.append(_problem(["subscription_id"], "value is not a valid uuid", "type_error.uuid"))
    if "definition" in body:
        problems += [
            _problem(["definition", *(part for part in finding.path.split(".") if part)], finding.message)
            for finding in lint(body["definition"])
        ]
    if "input_schema" in body:
        problems += _schema_problems(body["input_schema"])
    return problems


def _schema_problems(schema: Any) -> list[Json]:
    if not isinstance(schema, dict):
        return [_problem(["input_schema"], "a JSON Schema is an object")]
    try:
        validator_for(schema).check_schema(schema)
    except jsonschema.SchemaError as error:
        return [_problem(["input_schema", *(str(part) for part in error.absolute_path)], error.message)]
    return []


def _principal_problems(key: str, principals: Any, words: Collection[str] = ()) -> list[Json]:
    if not isinstance(principals, list) or len(principals) > PRINCIPALS_MAX:
        return [_problem([key], f"a list of at most {PRINCIPALS_MAX} principals is needed")]
    allowed = ", ".join([*(f'"{word}"' for word in words), "<AuthGroupUrn>", "<AuthIdentityUrn>"])
    return [
        _problem([key, number], f'Unrecognized principal string: "{one}". Allowed principal types: [{allowed}]')
        for number, one in enumerate(principals)
        if not is_principal(one, words)
    ]


def _run_fields(body: Mapping[str, Any], allowed: Collection[str]) -> dict[str, Any]:
    """Label, tags and roles of a run; tags with single spaces, as the service keeps them."""
    problems = [_unknown(key) for key in sorted(body.keys() - set(allowed))]
    given = {key: body[key] for key in _RUN_KEYS if key in body}
    if "label" in given and not (isinstance(given["label"], str) and 1 <= len(given["label"]) <= LABEL_LENGTH_MAX):
        problems.append(_problem(["label"], f"a string of 1 to {LABEL_LENGTH_MAX} characters is needed"))
    tags = given.get("tags", [])
    if not isinstance(tags, list) or len(tags) > TAGS_MAX:
        problems.append(_problem(["tags"], f"a list of at most {TAGS_MAX} tags is needed"))
    else:
        problems += [
            _problem(["tags", number], "a string of 1 to 64 characters is needed")
            for number, tag in enumerate(tags)
            if not isinstance(tag, str) or not 1 <= len(" ".join(tag.split())) <= LABEL_LENGTH_MAX
        ]
    for key in ("run_managers", "run_monitors"):
        problems += _principal_problems(key, given.get(key, []))
    _refuse(problems)
    if "tags" in given:
        given["tags"] = list(dict.fromkeys(" ".join(tag.split()) for tag in tags))
    return given


def _policy_problems(policy: Any) -> list[Json]:
    if policy is None:
        return []
    known = {"INACTIVE", "FAILED", "SUCCEEDED"}
    if not isinstance(policy, dict) or policy.keys() != {"status"} or not isinstance(policy["status"], list):
        return [_problem(["activity_notification_policy"], "an object with a list named status is needed")]
    return [
        _problem(["activity_notification_policy", "status", number], f"must be one of {sorted(known)}")
        for number, status in enumerate(policy["status"])
        if status not in known
    ]


def _check_input(flow: _Flow, body: Any) -> None:
    """400 where the input does not fit the flow's schema."""
    schema = flow.document["input_schema"]
    errors = sorted(
        validator_for(schema)(schema).iter_errors(body), key=lambda error: list(map(str, error.absolute_path))
    )
    detail = [{"loc": [error.json_path], "type": "InvalidActionInput", "msg": error.message[:500]} for error in errors]
    if not isinstance(body, dict):
        detail = [{"loc": ["$"], "type": "InvalidActionInput", "msg": "the input is an object"}]
    elif len(json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()) > MAX_STATE_BYTES:
        detail = [{"loc": ["$"], "type": "InvalidActionInput", "msg": f"larger than {MAX_STATE_BYTES} bytes"}]
    if detail:
        plural = "s" if len(detail) > 1 else ""
        raise _error(
            400, "FLOW_INPUT_ERROR", detail, message=f"Input failed schema validation with {len(detail)} error{plural}."
        )


def _need_status(run: Run, statuses: Collection[str]) -> None:
    if run.status not in statuses:
        raise _error(
            409,
            "STATE_CONFLICT",
            f"Run {run.id} has status '{run.status}' but must have status in {{{', '.join(map(repr, sorted(statuses)))}}}"
            " for requested operation",
        )


def _error(status: int, code: str, detail: Json, **more: str) -> ServiceError:
    return ServiceError(status, {"error": {"code": code, "detail": detail, **more}, "debug_id": str(uuid.uuid4())})


# --- Lists


def _check_filters(request: Request, filters: Collection[str]) -> None:
    unknown = sorted(request.query.keys() - set(filters) - _PAGING)
    if unknown:
        raise _error(400, "BAD_REQUEST", f"Unknown query parameters: {', '.join(unknown)}")


def _listed(request: Request, name: str) -> set[str]:
    return {one for text in request.query_lists.get(name, []) for one in text.split(",") if one}


def _filter_roles(request: Request) -> set[str]:
    return {role.removesuffix("s") for name in ("filter_role", "filter_roles") for role in _listed(request, name)}


def _within(moment: str, start: str, end: str) -> bool:
    when = datetime.fromisoformat(moment)
    try:
        limits = [datetime.fromisoformat(text).replace(tzinfo=when.tzinfo) if text else None for text in (start, end)]
    except ValueError as error:
        raise _error(400, "BAD_REQUEST", f"filter_start_time: {error}") from error
    return (limits[0] is None or when >= limits[0]) and (limits[1] is None or when < limits[1])


def _ordered(request: Request, documents: list[Json], default: str) -> list[Json]:
    criteria = [one for text in request.query_lists.get("orderby", [default]) for one in text.split(",")]
    for criterion in reversed(criteria):
        found = re.fullmatch(r"\s*(\w+)\s+(ASC|DESC)\s*", criterion)
        if found is None:
            raise _error(400, "BAD_REQUEST", f"orderby: {criterion!r} is not FIELD ASC or FIELD DESC")
        name = {"id": "run_id" if documents and "run_id" in documents[0] else "id"}.get(found[1], found[1])
        documents = sorted(documents, key=lambda one: str(one.get(name) or ""), reverse=found[2] == "DESC")
    return documents


def _page(request: Request, name: str, entries: Sequence[Json], size: int) -> Response:
    """A page of a list, and the marker of the next one."""
    try:
        start = int(request.query.get("marker", "0"), 36)
        limit = min(int(request.query.get("limit", request.query.get("per_page", size))), 100)
    except ValueError as error:
        raise _error(400, "BAD_REQUEST", f"{error}") from error
    document: dict[str, Any] = {name: entries[start : start + limit], "limit": limit}
    more = start + limit < len(entries)
    document["has_next_page"] = more
    if more:
        document["marker"] = _base36(start + limit)
    return Response(200, document)


def _base36(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits or "0"


# --- Scopes


def _has(tree: Mapping[str, Any], path: Iterable[str]) -> bool:
    for scope in path:
        if scope not in tree:
            return False
        tree = tree[scope]
    return True


def _nested(path: Sequence[str]) -> str:
    """A scope string of scopes that depend on each other; those that can be taken back alone with an asterisk."""
    text = ""
    for number, scope in reversed(list(enumerate(path))):
        star = "*" if number and number == len(path) - 1 else ""
        text = f"{star}{scope}" + (f"[{text}]" if text else "")
    return text
