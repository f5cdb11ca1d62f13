"""Brings a deployment to the Globus services: its search index, its functions, its flow; again changes only what differs.

What holds a flow and its functions together is left to `gladier_managers`; starting runs to `client`.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import importlib.metadata
import json
import re
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import globus_sdk

from tomopipe.functions.errors import ParameterError
from tomopipe.functions.locking import lock
from tomopipe.functions.parameters import validate_model
from tomopipe.functions.quantification.document_schema import type_record
from tomopipe.functions.rundir import write_json

from .gladier_managers import ComputeManager, FlowsManager, RegisteredFunction, changed_fields, found_or_none
from .local.home import home
from .login import AppLoginManager, GlobusServiceError, explained
from .request import FUNCTIONS, FlowInput, all_functions_digest, function_digests, input_schema
from .tomography import TomographyClient, flow_definition

if TYPE_CHECKING:
    from .deployment import Collection, Deployment
    from .login import Services

Json = dict[str, Any]

KEYWORD = "tomopipe"
"""Every flow that is deployed here has this keyword; a flow without it is never changed."""

# How Globus Search may answer for an index that is being deleted.
_NOT_OPEN = frozenset({409})
_TOO_MANY = "Conflict.LimitExceeded"
_WRITERS = "writers of the search index"
# Stands in a dry run for what only deploying gives.
_NOT_YET = str(uuid.UUID(int=0))
# Subject of the record that fixes the types of an index's fields, for the moment that it is there.
_TYPES = "tomopipe types"
_INDEX_WAIT_S, _POLL_MIN_S, _POLL_MAX_S = 120.0, 0.1, 10.0
_FORBIDDEN = 403
# Actions that change nothing.
_WARNING = "warning"
_NO_CHANGE = frozenset({"kept", _WARNING})
_OWNER, _ADMINISTRATOR = "flow_owner", "flow_administrator"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
_FILLED_IN = "Filled in by the deployment; leave as it is."
# What a person who starts a run in the web app fills in or changes; every other field comes after these.
_ASKED_FIRST = (
    "scan",
    "scan_id",
    "parameters",
    "skip",
    "start_from",
    "execution",
    "destination",
    "visible_to",
    "user_endpoint_config",
)


@dataclass(frozen=True)
class Change:
    """One thing that deploying saw to: what it is, what became of it, and what a person wants to know of that.

    The action `warning` stands for what deploying cannot see to: the detail says what is to be done.
    """

    what: str
    action: str
    detail: str = ""

    def __str__(self) -> str:
        """One line for a person."""
        return f"{self.what}: {self.action}" + (f" ({self.detail})" if self.detail else "")


@dataclass(frozen=True)
class DeployReport:
    """What deploying did, or in a dry run would do.

    Parameters
    ----------
    flow_id, index_id : str or None
        None in a dry run where there is none yet.
    function_ids : dict
        Id of each function by name; without those that a dry run would register. An endpoint that lists the functions
        it runs lists these.
    changes : tuple of Change
        In the order in which they were made, what was kept included.
    """

    flow_id: str | None
    index_id: str | None
    function_ids: dict[str, str]
    changes: tuple[Change, ...]

    @property
    def changed(self) -> bool:
        """Whether anything was, or would be, changed."""
        return any(change.action not in _NO_CHANGE for change in self.changes)


def deploy(deployment: Deployment, services: Services, *, dry_run: bool = False) -> DeployReport:
    """Create or update the index, the functions and the flow of a deployment; again completes or changes nothing.

    Parameters
    ----------
    deployment : Deployment
    services : Services
        Clients of who owns the flow, or may administer it.
    dry_run : bool
        Change nothing, neither at the services nor on this machine, and report what would be changed.

    Raises
    ------
    ParameterError
        The deployment names an index or a flow that is not there or is another's, makes an impossible input, or has the
        name of another that was deployed from here.
    FlowRefused
        The definition is wrong.
    GlobusServiceError
        A service refuses or cannot be reached.
    """
    with _work_folder(deployment, dry_run) as folder:
        return _Deploying(deployment, services, dry_run).run(folder / f"{deployment.name}.cfg")


def deployed_defaults(services: Services, flow_id: str) -> Json:
    """The defaults of a deployed flow's input, by field: with a scan and its id they start a run.

    Raises
    ------
    ParameterError
        The flow is not one that was deployed here.
    """
    with explained(f"reading the flow {flow_id}"):
        flow = services.flows.get_flow(flow_id).data
    return {name: field["default"] for name, field in input_fields(flow).items() if "default" in field}


def find_flow_id(deployment: Deployment, services: Services | None = None) -> str:
    """Id of the deployment's flow: what its file says, else what was noted on this machine.

    Parameters
    ----------
    deployment : Deployment
    services : Services, optional
        Where given, one's own flows are searched, too, when the file and this machine know none.

    Raises
    ------
    ParameterError
        It is not known, or not clear which it is.
    """
    known = deployment.flow.id or _own_note(deployment).get("flow_id")
    if not known and services is not None:
        # Only what one owns: a stranger could name one as administrator of a flow that has this deployment's keyword.
        own = _known_flow(deployment, services, (_OWNER,))
        known = own["id"] if own else None
    if not known:
        raise ParameterError(
            f"{deployment.file}: no flow is known for the deployment {deployment.name}; deploy it with "
            f"`tomopipe deploy {deployment.called}`, or set flow.id in the file to the id of the flow that somebody deployed"
        )
    return str(known)


def deployed_schema(deployment: Deployment, function_ids: Mapping[str, str], index_id: str) -> Json:
    """JSON Schema of the flow's input with everything filled in that the deployment knows: what the web app's form shows.

    Parameters
    ----------
    deployment : Deployment
    function_ids : mapping
        Id of each registered function by name.
    index_id : str
        The search index.

    Raises
    ------
    ParameterError
        A run that starts from these defaults would be refused.
    """
    defaults = _defaults(deployment, function_ids, index_id)
    _check_defaults(deployment, defaults)
    schema = input_schema(defaults)
    fields = schema["properties"]["input"]
    properties = fields["properties"]
    digests = function_digests()
    filled_in = [name for name in properties if name not in _ASKED_FIRST]
    for name in filled_in:
        said = properties[name].get("description")
        properties[name]["description"] = f"{_FILLED_IN} {said}" if said else _FILLED_IN
    for name, digest in digests.items():
        properties[f"{name}_function_id"]["description"] = f"{_FILLED_IN} {digest}"
    fields["propertyOrder"] = [*_ASKED_FIRST, *filled_in]
    fields["properties"] = {name: properties[name] for name in fields["propertyOrder"]}
    return schema


def deployed_functions(flow: Mapping[str, Any]) -> dict[str, RegisteredFunction]:
    """The functions that a deployed flow calls, by name, with the digests of what was registered."""
    fields = input_fields(flow)
    found = {}
    for name in FUNCTIONS:
        field = fields.get(f"{name}_function_id", {})
        digest = _DIGEST.search(field.get("description", ""))
        if digest and "default" in field:
            found[name] = RegisteredFunction(field["default"], digest.group())
    return found


def input_fields(flow: Mapping[str, Any]) -> Json:
    """The schema of each field of a deployed flow's input.

    Raises
    ------
    ParameterError
        The flow is not one that was deployed here.
    """
    fields: Any = flow.get("input_schema", {})
    for key in ("properties", "input", "properties"):
        fields = fields.get(key) if isinstance(fields, dict) else None
    if not isinstance(fields, dict):
        raise ParameterError(
            f"flow {flow.get('id')} ('{flow.get('title')}') was not deployed by tomopipe: its input has no "
            "field 'input'; correct flow.id"
        )
    return fields


def deployed_index(flow: Mapping[str, Any] | None) -> str | None:
    """The search index that a deployed flow publishes to."""
    return input_fields(flow).get("search_index", {}).get("default") if flow else None


def deployment_client(
    deployment: Deployment, services: Services, config_file: Path, flow: Mapping[str, Any] | None = None
) -> Any:
    """The Gladier client of a deployment, with our managers.

    Parameters
    ----------
    deployment : Deployment
    services : Services
    config_file : Path
        What Gladier notes on this machine.
    flow : mapping, optional
        The deployed flow. Its functions are taken where they are as they are now, and its form stays as it is: Gladier
        by itself knows nothing of a deployment's defaults, and would take them away.
    """
    settings = _flow_settings(deployment)
    client: Any = TomographyClient(
        config_file=config_file,
        login_manager=AppLoginManager(services),
        flows_manager=FlowsManager(
            services, flow_id=flow["id"] if flow else None, flow_title=settings.pop("title"), flow_kwargs=settings
        ),
        compute_manager=ComputeManager(services, deployed_functions(flow) if flow else {}),
    )
    client.flow_definition = flow_definition(compute_wait_s=round(deployment.compute.wait_hours * 3600))
    if flow is not None:
        client.flow_schema = flow["input_schema"]
    return client


class _Deploying:
    """One pass over index, functions and flow, and what it changed."""

    def __init__(self, deployment: Deployment, services: Services, dry_run: bool) -> None:
        self.deployment = deployment
        self.services = services
        self.dry_run = dry_run
        self.changes: list[Change] = []
        self._noted = {key: value for key, value in _own_note(deployment).items() if key == "typed_index"}

    def run(self, config_file: Path) -> DeployReport:
        # What is wrong with the file is said before anything is made.
        deployed_schema(self.deployment, dict.fromkeys(FUNCTIONS, _NOT_YET), _NOT_YET)
        flow = _find_flow(self.deployment, self.services)
        index_id = self._index(deployed_index(flow))
        self._note(flow["id"] if flow else None, index_id)
        self._writers(index_id)
        if index_id != deployed_index(flow):
            self._field_types(index_id)
        client = deployment_client(self.deployment, self.services, config_file, flow)
        function_ids = self._functions(client)
        all_ids = {name: function_ids.get(name, _NOT_YET) for name in FUNCTIONS}
        client.flow_schema = deployed_schema(self.deployment, all_ids, index_id or _NOT_YET)
        flow_id = self._flow(client, flow)
        self._note(flow_id, index_id)
        return DeployReport(flow_id, index_id, function_ids, tuple(self.changes))

    def _say(self, what: str, action: str, detail: str = "") -> None:
        if self.dry_run and action not in _NO_CHANGE:
            action = f"would be {action}"
        self.changes.append(Change(what, action, detail))

    def _index(self, of_flow: str | None) -> str | None:
        wanted = self.deployment.search.index
        if wanted:
            if _read_index(self.services, wanted) is None:
                raise ParameterError(
                    f"{self.deployment.file}: search.index={wanted}: there is no such index, or it is not open; correct it, or "
                    "leave search.index out to have an index made"
                )
            self._say("search index", "kept", wanted)
            return wanted
        noted = [index for index in (of_flow, _own_note(self.deployment).get("index_id")) if index]
        for known in noted:
            if _read_index(self.services, known) is not None:
                self._say("search index", "kept", known)
                return str(known)
        own = self._own_index()
        if own:
            self._say("search index", "kept", own)
            return own
        gone = f"; {noted[0]} is gone" if noted else ""
        title = self.deployment.search.title
        if self.dry_run:
            self._say("search index", "created", f"'{title}'{gone}")
            return None
        # Not tried again where the answer is lost: that would make a second index. Deploying again finds the first.
        search = self.services.search
        with explained("creating a search index"), search.retry_config.tune(max_retries=0):
            try:
                index_id = str(search.create_index(title, _index_description(self.deployment))["id"])
            except globus_sdk.SearchAPIError as error:
                if error.code != _TOO_MANY:
                    raise
                raise ParameterError(
                    f"{self.deployment.file}: search.index is left out, but you own as many trial indices as Globus "
                    "allows; set it to an index that is there, or delete one"
                ) from error
        self._say("search index", "created", f"'{title}' {index_id}{gone}")
        return index_id

    def _field_types(self, index_id: str | None) -> None:
        """Fix the types of all fields of an empty index that deploying made, before the first record does it by chance.

        A sample named 2026-11-22 would make names of samples dates for good.
        """
        if (
            self.deployment.search.index
            or index_id is None
            or _own_note(self.deployment).get("typed_index") == index_id
        ):
            return
        search = self.services.search
        with explained(f"fixing the types of the search index {index_id}"):
            left = found_or_none(lambda subject: search.get_subject(index_id, subject), _TYPES) is not None
            others = search.get_index(index_id)["num_subjects"] - left
            if not self.dry_run:
                # A crash may have left it, also one of somebody else; where there is none this changes nothing.
                self._remove_types(index_id)
            if others:
                return
            if not self.dry_run:
                entry = {
                    "subject": _TYPES,
                    "id": _TYPES,
                    "visible_to": [self.services.whoami().urn],
                    "content": type_record(),
                }
                document = {"ingest_type": "GMetaEntry", "ingest_data": entry}
                finish_index_task(search, index_id, search.ingest(index_id, document)["task_id"])
                self._remove_types(index_id)
                self._noted["typed_index"] = index_id
        self._say("types of the search index", "fixed", index_id)

    def _remove_types(self, index_id: str) -> None:
        search = self.services.search
        finish_index_task(search, index_id, search.delete_subject(index_id, _TYPES)["task_id"])

    def _own_index(self) -> str | None:
        """The index that an earlier deploy made, before whatever kept it from being noted."""
        with explained("listing the search indices"):
            listed = self.services.search.index_list()["index_list"]
        mine = [
            index["id"]
            for index in listed
            if index.get("description") == _index_description(self.deployment)
            and index.get("display_name") == self.deployment.search.title
            and index.get("status", "open") == "open"
        ]
        if len(mine) > 1:
            raise ParameterError(
                f"{self.deployment.file}: several search indices were made for the deployment {self.deployment.name}: "
                f"{', '.join(mine)}; set search.index to one of them"
            )
        return str(mine[0]) if mine else None

    def _writers(self, index_id: str | None) -> None:
        """See that who may start the flow may write to the index: a run publishes as the one who started it.

        An index that deploying made is opened to them, and to those who may change the flow, who open it to others.
        Nobody is taken away. An index that the file names is its owner's to open.
        """
        people = self.deployment.people
        starters = [person for person in people.starters if person.startswith("urn:")]
        if len(starters) < len(people.starters):
            self._say(
                _WRITERS,
                _WARNING,
                "everybody may start the flow, but an index has no place for everybody among its writers: the runs of others "
                "end FAILED at PublishMetrics; name groups in people.starters",
            )
        named = self.deployment.search.index
        wanted = dict.fromkeys(starters, "writer") | ({} if named else dict.fromkeys(people.administrators, "admin"))
        held = self._roles(index_id) if wanted and index_id else {}
        if named or held is None:
            closed = [person for person in starters if person not in (held or {})]
            if closed:
                self._say(
                    _WRITERS,
                    _WARNING,
                    f"{', '.join(closed)} may start the flow, and must be writers of the index {index_id} for their runs to "
                    f"publish, which {'cannot be seen' if held is None else 'they are not by name'}; have its owner see to it",
                )
            return
        new = {person: role for person, role in wanted.items() if not _may(role, held.get(person, set()))}
        if index_id is not None and not self.dry_run:
            with explained(f"letting who starts the flow write to the search index {index_id}"):
                for person, role in new.items():
                    self.services.search.create_role(index_id, {"role_name": role, "principal": person})
        if new:
            said = [person if role == "writer" else f"{person} as {role}" for person, role in new.items()]
            self._say(_WRITERS, "added", ", ".join(said))

    def _roles(self, index_id: str) -> dict[str, set[str]] | None:
        """Names of the roles of each principal; None where one may not see them."""
        with explained(f"reading the roles of the search index {index_id}"):
            try:
                listed = self.services.search.get_role_list(index_id)["role_list"]
            except globus_sdk.SearchAPIError as error:
                if error.http_status != _FORBIDDEN:
                    raise
                return None
        held: dict[str, set[str]] = {}
        for role in listed:
            held.setdefault(role["principal"], set()).add(role["role_name"])
        return held

    def _functions(self, client: Any) -> dict[str, str]:
        manager: ComputeManager = client.compute_manager
        if self.dry_run:
            functions = [function for tool in client.tools for function in getattr(tool, "compute_functions", [])]
            known = {function.__name__: manager.known_id(function) for function in functions}
            ids = {name: known_id for name, known_id in known.items() if known_id}
            new = [name for name in known if name not in ids]
        else:
            ids = {
                name.removesuffix("_function_id"): known for name, known in client.get_compute_function_ids().items()
            }
            new = manager.registered
        if new:
            self._say("functions", "registered", ", ".join(new))
        if len(new) < len(FUNCTIONS):
            self._say("functions", "kept", f"{len(FUNCTIONS) - len(new)} of {len(FUNCTIONS)}")
        return ids

    def _flow(self, client: Any, flow: Json | None) -> str | None:
        manager: FlowsManager = client.flows_manager
        manager.flow_schema = client.flow_schema
        manager.flow_definition = client.flow_definition
        changed = changed_fields(manager.document(), flow) if flow else {}
        # Said where it is somebody else's: from now on runs start what that one may change.
        whose = f" of {flow.get('flow_owner')}" if flow and flow.get("user_role") == _ADMINISTRATOR else ""
        if flow and not changed:
            self._say("flow", "kept", f"{flow['id']}{whose}")
            return str(flow["id"])
        if self.dry_run:
            manager.validate()
            flow_id = str(flow["id"]) if flow else None
        else:
            if flow is None:
                manager.purge_flow()
            client.sync_flow()
            flow_id = str(manager.get_flow_id())
        if flow:
            details = ", ".join(_describe(name, value, flow.get(name)) for name, value in changed.items())
            self._say("flow", "updated", f"{flow['id']}{whose}: {details}")
        else:
            self._say("flow", "created", flow_id or f"'{self.deployment.flow.title}'")
        return flow_id

    def _note(self, flow_id: str | None, index_id: str | None) -> None:
        """Note what is deployed, for the next time and for the client; nothing where the note says it already."""
        noted = _read_note(self.deployment)
        if self.dry_run or _other_file(self.deployment, noted):
            return
        version = importlib.metadata.version("tomopipe")
        file = str(Path(self.deployment.file).resolve())
        content = {"file": file, "flow_id": flow_id, "index_id": index_id, "version": version, **self._noted}
        if {key: noted.get(key) for key in content} != content:
            now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
            write_json(_note_path(self.deployment), {**content, "deployed_at": now})


def finish_index_task(
    search: globus_sdk.SearchClient, index_id: str, task_id: str, wait_s: float = _INDEX_WAIT_S
) -> None:
    """Wait for a task of an index, which the service works off in seconds.

    Raises
    ------
    GlobusServiceError
        It has failed, or has not ended in time.
    """

    def done() -> Json | None:
        task: Json = search.get_task(task_id).data
        return task if task["state"] in ("SUCCESS", "FAILED") else None

    task = wait_for(done, wait_s)
    if task is None:
        raise GlobusServiceError(
            f"the search index {index_id} has not ended a task within {wait_s:.0f} s; try again later"
        )
    if task["state"] == "FAILED":
        raise GlobusServiceError(
            f"the search index {index_id} did not take an entry: {task.get('message')}; look at its size and limits with "
            f"`globus search index show {index_id}`"
        )


def wait_for(done: Callable[[], Json | None], wait_s: float) -> Json | None:
    """What `done` returns as soon as it does; None after `wait_s`. Asks at first often, then every ten seconds."""
    deadline = time.monotonic() + wait_s
    pause = _POLL_MIN_S
    while True:
        found = done()
        left = deadline - time.monotonic()
        if found is not None or left <= 0:
            return found
        time.sleep(min(pause, left))
        pause = min(pause * 1.5, _POLL_MAX_S)


def _may(role: str, held: set[str]) -> bool:
    """Whether the roles that somebody has on an index are enough for one; who has any may write."""
    return bool(held) if role == "writer" else bool(held & {"owner", "admin"})


def _defaults(deployment: Deployment, function_ids: Mapping[str, str], index_id: str) -> Json:
    defaults = {
        "scan": _place(deployment.source),
        "processing": _place(deployment.processing),
        "processing_root": deployment.processing.host_path,
        "parameters": deployment.parameters.model_dump(mode="json", exclude_unset=True),
        "skip": [],
        "start_from": None,
        "execution": deployment.execution.model_dump(mode="json", exclude_unset=True),
        "compute_endpoint": deployment.compute.endpoint,
        "user_endpoint_config": deployment.compute.user_endpoint_config,
        "search_index": index_id,
        "visible_to": list(deployment.visible_to),
        "results_url": deployment.results_url,
        "version": importlib.metadata.version("tomopipe"),
        "functions_digest": all_functions_digest(),
        **{f"{name}_function_id": function_ids[name] for name in FUNCTIONS},
    }
    if deployment.share is not None:
        defaults["destination"] = _place(deployment.share)
    plain: Json = json.loads(json.dumps(defaults, allow_nan=False))
    return plain


def _place(collection: Collection) -> Json:
    # The root is no file and no folder for results: there the form's picker starts by itself.
    return {"id": collection.collection, **({} if collection.path == "/" else {"path": collection.path})}


def _check_defaults(deployment: Deployment, defaults: Json) -> None:
    example = {**defaults, "scan": {"id": defaults["scan"]["id"], "path": "/scan.h5"}, "scan_id": "scan"}
    validate_model(FlowInput, example, deployment.file)


def _flow_settings(deployment: Deployment) -> Json:
    flow, people = deployment.flow, deployment.people
    return {
        "title": flow.title,
        "subtitle": flow.subtitle,
        "description": flow.description,
        "keywords": _once([KEYWORD, _deployment_keyword(deployment), *flow.keywords]),
        "flow_viewers": people.flow_viewers,
        "flow_starters": _once(people.starters),
        "flow_administrators": _once(people.administrators),
        "run_monitors": _once(people.monitors),
        "run_managers": _once(people.managers),
        **({"subscription_id": flow.subscription_id} if flow.subscription_id else {}),
    }


def _once(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _deployment_keyword(deployment: Deployment) -> str:
    """By this a deployment's flow is found again on another machine, whatever its title."""
    return f"{KEYWORD}-deployment-{deployment.name}"


def _index_description(deployment: Deployment) -> str:
    return f"Metrics of tomography runs; made by tomopipe for the deployment {deployment.name}."


def _find_flow(deployment: Deployment, services: Services) -> Json | None:
    """The deployment's flow as the service has it; None where it is not deployed, or gone."""
    named, noted = deployment.flow.id, _own_note(deployment).get("flow_id")
    for flow_id in (named,) if named else (noted,) if noted else ():
        flow = _read_flow(services, flow_id)
        if flow is None and named:
            raise ParameterError(
                f"{deployment.file}: flow.id={named}: there is no such flow, or you may not see it; correct it, "
                "or leave flow.id out to have a flow made"
            )
        if flow is not None:
            if KEYWORD not in flow.get("keywords", ()):
                raise ParameterError(
                    f"{deployment.file}: flow {flow_id} ('{flow.get('title')}') was not deployed by tomopipe and is left "
                    f"as it is; name another in flow.id, or give that flow the keyword '{KEYWORD}'"
                )
            return flow
    return _known_flow(deployment, services, (_OWNER, _ADMINISTRATOR))


def _known_flow(deployment: Deployment, services: Services, roles: Iterable[str]) -> Json | None:
    """The deployment's flow among those in which one has one of the roles, by its keyword."""
    with explained("listing your flows"):
        listed = list(services.flows.paginated.list_flows(filter_roles=roles).items())
    wanted = {KEYWORD, _deployment_keyword(deployment)}
    mine = [flow for flow in listed if wanted <= set(flow.get("keywords", ()))]
    if len(mine) > 1:
        names = ", ".join(f"{flow['id']} ('{flow.get('title')}')" for flow in mine)
        raise ParameterError(
            f"{deployment.file}: several flows that you own or may change were deployed as {deployment.name}: {names}; set "
            "flow.id to one of them"
        )
    return _read_flow(services, mine[0]["id"]) if mine else None


def _read_flow(services: Services, flow_id: str) -> Json | None:
    with explained(f"reading the flow {flow_id}"):
        return found_or_none(services.flows.get_flow, flow_id)


def _read_index(services: Services, index_id: str) -> Json | None:
    """The index; None where there is none, or one that is being deleted."""
    with explained(f"reading the search index {index_id}"):
        index = found_or_none(services.search.get_index, index_id, _NOT_OPEN)
    return index if index is not None and index.get("status", "open") == "open" else None


def _describe(name: str, value: Any, deployed: Any) -> str:
    """What changes in a field of the flow: of the schema the input's fields, of lists what comes and goes."""
    if name == "input_schema":
        new, old = input_fields({name: value}), (deployed or {})
        with contextlib.suppress(ParameterError):
            old = input_fields({name: deployed})
        return f"{name} ({', '.join(field for field in new if new[field] != old.get(field)) or 'its frame'})"
    if isinstance(value, list):
        signs = [f"+{item}" for item in value if item not in (deployed or ())]
        return f"{name} ({', '.join(signs + [f'-{item}' for item in deployed or () if item not in value])})"
    return name


def _note_path(deployment: Deployment) -> Path:
    return home() / "deployed" / f"{deployment.name}.json"


def _read_note(deployment: Deployment) -> Json:
    path = _note_path(deployment)
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ParameterError(f"{path}: cannot be read ({error}); delete it and deploy again") from None
    if not isinstance(note, dict):
        raise ParameterError(f"{path}: holds no note of a deployment; delete it and deploy again")
    return note


def _own_note(deployment: Deployment) -> Json:
    """The note of this very file; nothing where another of its name has one, but this one names its flow.

    Raises
    ------
    ParameterError
        Another file of the same name was deployed from this machine, and is still there.
    """
    note = _read_note(deployment)
    other = _other_file(deployment, note)
    if not other:
        return note
    if deployment.flow.id:
        return {}
    raise ParameterError(
        f"{deployment.file}: another file, {other}, was deployed from this machine as {deployment.name}; give this one another "
        "name, which then is the deployment's, or set flow.id in it to the flow that it means"
    )


def _other_file(deployment: Deployment, note: Mapping[str, Any]) -> str | None:
    """The file that a note is of, where that is another than the deployment's, and both are there."""
    noted, here = note.get("file"), Path(deployment.file)
    if not isinstance(noted, str) or not Path(noted).exists() or not here.exists():
        return None
    return None if here.samefile(noted) else noted


@contextlib.contextmanager
def _work_folder(deployment: Deployment, dry_run: bool) -> Iterator[Path]:
    """Folder for what is noted on this machine, held against a second deploy of the same; in a dry run a passing copy."""
    folder = home() / "deployed"
    if dry_run:
        noted = folder / f"{deployment.name}.cfg"
        with tempfile.TemporaryDirectory(prefix="tomopipe-") as passing:
            if noted.exists():
                (Path(passing) / noted.name).write_bytes(noted.read_bytes())
            yield Path(passing)
        return
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    with lock(folder / f".{deployment.name}.lock"):
        yield folder
