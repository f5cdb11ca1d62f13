"""Gladier's managers without their traps: functions travel as source text, and the services say what is deployed.

Which flow a deployment means and what it holds is left to `deploy`; clients and logging in to `login`.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import gladier.exc
import gladier.managers
import globus_compute_sdk.version
import globus_sdk
from globus_compute_sdk.serialize import ComputeSerializer

from tomopipe.functions.errors import TomopipeError

from .definition_linter import lint
from .local.packed_task import function_code
from .login import explained
from .request import function_digests
from .tools.common import function_id_field

if TYPE_CHECKING:
    from .login import Services

Json = dict[str, Any]

_GONE = frozenset({404, 410})
_FORBIDDEN = 403
_REFUSED = frozenset({400, 422})
_PEOPLE = ("flow_viewers", "flow_starters", "flow_administrators", "run_managers", "run_monitors")
_UNORDERED = frozenset({*_PEOPLE, "keywords"})


class FlowRefused(TomopipeError):
    """The flow cannot be deployed as it is; the message says what is wrong where."""


class RunWaits(TomopipeError):
    """A run is INACTIVE: it goes on only after its owner has consented; the message holds the page where."""


@dataclass(frozen=True)
class RegisteredFunction:
    """A function as a deployed flow knows it: its id, and the digest of its version and source text."""

    id: str
    digest: str


def found_or_none(
    get: Callable[[str], globus_sdk.GlobusHTTPResponse], what: str, also: frozenset[int] = frozenset()
) -> Json | None:
    """What a service has under an id; None where it has nothing, nothing more, or answers with a status of `also`."""
    try:
        document: Json = get(what).data
    except globus_sdk.GlobusAPIError as error:
        if error.http_status in _GONE | also:
            return None
        raise
    return document


def registration(function: Callable[..., Any], description: str) -> Json:
    """What registers a function, as source text: client and worker may have different versions of Python.

    The function is public, as its text is: whoever may start the flow must be able to run it on the endpoint, where
    who may compute is the endpoint's to say.
    """
    serializer = ComputeSerializer()
    code = function_code(function)
    return {
        "function_name": function.__name__,
        "function_code": serializer.pack_buffers([code]),
        "serialized": True,
        "description": description,
        "public": True,
        "meta": {
            "python_version": platform.python_version(),
            "sdk_version": globus_compute_sdk.version.__version__,
            "serde_identifier": code.split("\n", 1)[0],
        },
    }


class ComputeManager(gladier.managers.ComputeManager):  # type: ignore[misc]  # Gladier carries no types
    """Registers the flow's functions as source text through the Globus SDK.

    Gladier pickles them, registers them anew on every machine, and does not see that the package behind a function's
    text has another version.

    Parameters
    ----------
    services : Services
        Clients of the Globus services.
    deployed : mapping, optional
        The functions of the deployed flow by name. One with the same digest is taken as it is.
    managers
        What Gladier's own manager takes.
    """

    def __init__(
        self, services: Services, deployed: Mapping[str, RegisteredFunction] | None = None, **managers: Any
    ) -> None:
        self.services = services
        self.deployed = dict(deployed or {})
        self.registered: list[str] = []
        super().__init__(**managers)

    @property
    def compute_client(self) -> globus_sdk.ComputeClientV3:
        """The Globus SDK's client; Gladier's ignores which service is configured."""
        return self.services.compute

    @staticmethod
    def get_compute_function_checksum(compute_function: Callable[..., Any]) -> str:
        """Digest of the package's version and the function's text."""
        return function_digests()[compute_function.__name__]

    def known_id(self, function: Callable[..., Any]) -> str | None:
        """Id under which the function is registered as it is now: by the deployed flow, else as noted on this machine."""
        name, digest = function.__name__, self.get_compute_function_checksum(function)
        deployed = self.deployed.get(name)
        if deployed and deployed.digest == digest:
            return deployed.id
        noted: str | None = self.storage.get_value(function_id_field(function))
        if noted and self.storage.get_value(f"{function_id_field(function)}_checksum") == digest:
            return noted if self._is_registered(noted) else None
        return None

    def validate_function(self, tool: Any, function: Callable[..., Any]) -> tuple[str, str]:
        """Field of the flow's input and id of a function; registers it where it is not registered as it is now.

        Raises
        ------
        gladier.exc.FunctionObsolete
            It is not, and `auto_registration` is off.
        """
        known = self.known_id(function)
        if known is None:
            if not self.auto_registration:
                raise gladier.exc.FunctionObsolete(f"function {function.__name__} is not registered as it is now")
            known = self.register_function(tool, function)
            # Noted at once: what was registered before a crash is not registered again.
            field = function_id_field(function)
            self.storage.set_value(field, known)
            self.storage.set_value(f"{field}_checksum", self.get_compute_function_checksum(function))
        return function_id_field(function), known

    def register_function(self, tool: Any, function: Callable[..., Any]) -> str:
        """Register a function; its description holds the version and the digest."""
        digest = self.get_compute_function_checksum(function)
        summary = (function.__doc__ or "").strip().splitlines()[0]
        description = f"{summary} tomopipe {importlib.metadata.version('tomopipe')}, {digest}"
        with explained(f"registering the function {function.__name__}"):
            answer = self.compute_client.register_function(registration(function, description))
        self.registered.append(function.__name__)
        return str(answer["function_uuid"])

    def _is_registered(self, function_id: str) -> bool:
        with explained(f"looking up the function {function_id}"):
            return found_or_none(self.services.compute_v2.get_function, function_id) is not None


class FlowsManager(gladier.managers.FlowsManager):  # type: ignore[misc]  # Gladier carries no types
    """Creates and updates the flow by what the service has, not by a checksum noted on this machine.

    Gladier updates without need, leaves the subscription out when it creates, asks for a scope that is no longer in
    use, unpickles what a run returns, and follows a run that waits for a consent for ever.

    Parameters
    ----------
    services : Services
        Clients of the Globus services.
    managers
        What Gladier's own manager takes: `flow_id`, `flow_title`, `flow_kwargs` (the other fields of the flow), ...
    """

    AVAILABLE_SCOPES: ClassVar[list[Any]] = [
        globus_sdk.FlowsClient.scopes.manage_flows,
        globus_sdk.FlowsClient.scopes.view_flows,
        globus_sdk.FlowsClient.scopes.run_status,
        globus_sdk.FlowsClient.scopes.run_manage,
    ]

    def __init__(self, services: Services, **managers: Any) -> None:
        self.services = services
        self._own_client: tuple[str, globus_sdk.SpecificFlowClient] | None = None
        super().__init__(**managers)

    @property
    def flows_client(self) -> globus_sdk.FlowsClient:
        """The client of the Flows service."""
        return self.services.flows

    @property
    def specific_flow_client(self) -> globus_sdk.SpecificFlowClient:
        """The client that starts runs, with the consents that the deployment's collections need."""
        flow_id = str(self.get_flow_id())
        if self._own_client is None or self._own_client[0] != flow_id:
            self._own_client = flow_id, self.services.specific_flow(flow_id)
        return self._own_client[1]

    def refresh_specific_flow_client(self) -> globus_sdk.SpecificFlowClient:
        """A new client, after a change of what the flow needs consents for."""
        self._own_client = None
        return self.specific_flow_client

    def document(self) -> Json:
        """All fields of the flow as they should be."""
        document = {
            "title": self.flow_title,
            "definition": self.flow_definition,
            "input_schema": self.flow_schema,
            **{name: people for name in _PEOPLE[:3] if (people := self.get_flow_permission(name))},
            **({"subscription_id": self.subscription_id} if self.subscription_id else {}),
            **self.flow_kwargs,
        }
        plain: Json = json.loads(json.dumps(document, allow_nan=False))
        return plain

    def deployed_flow(self) -> Json | None:
        """The flow as the service has it; None where there is none, or only the note of one that is gone."""
        flow_id = self.get_flow_id()
        if not flow_id:
            return None
        with explained(f"reading the flow {flow_id}"):
            if self.flow_id is None:
                return found_or_none(self.flows_client.get_flow, flow_id)
            flow: Json = self.flows_client.get_flow(flow_id).data
        return flow

    def check_flow(self) -> None:
        """Compare the flow with what the service has.

        Raises
        ------
        gladier.exc.NoFlowRegistered, gladier.exc.FlowObsolete
            There is no flow, or it differs.
        """
        flow = self.deployed_flow()
        if flow is None:
            raise gladier.exc.NoFlowRegistered("the flow is not deployed")
        changed = changed_fields(self.document(), flow)
        if changed:
            raise gladier.exc.FlowObsolete(f"the flow {flow['id']} differs in {', '.join(changed)}")

    def validate(self) -> None:
        """Have the definition and the schema checked, here and by the service.

        Raises
        ------
        FlowRefused
            One of them is wrong.
        """
        document = self.document()
        findings = lint(document["definition"], document["input_schema"])
        if findings:
            raise FlowRefused(f"the flow's definition is wrong: {'; '.join(str(finding) for finding in findings)}")
        with explained("checking the flow's definition"):
            try:
                self.flows_client.validate_flow(document["definition"], document["input_schema"])
            except globus_sdk.GlobusAPIError as error:
                if error.http_status not in _REFUSED:
                    raise
                raise FlowRefused(f"the Flows service refuses the flow's definition: {error.message}") from error

    def register_flow(self) -> str:
        """Create the flow, or send what has changed; nothing where nothing has.

        Raises
        ------
        FlowRefused
            The definition or the schema is wrong.
        """
        flow = self.deployed_flow()
        if flow is None:
            self.purge_flow()
            self.validate()
            flow = self._created()
            self.login_manager.add_requirements([flow["globus_auth_scope"]])
        else:
            changed = changed_fields(self.document(), flow)
            if changed:
                self.validate()
                with explained(f"updating the flow {flow['id']}"):
                    self.flows_client.update_flow(flow["id"], **changed)
        self.storage.set_value("flow_id", flow["id"])
        self.refresh_specific_flow_client()
        return str(flow["id"])

    def _created(self) -> Json:
        document = self.document()
        # Not tried again where the answer is lost: that would make a second flow. Deploying again finds the first.
        with explained("creating the flow"), self.flows_client.retry_config.tune(max_retries=0):
            try:
                flow: Json = self.flows_client.create_flow(**document).data
            except globus_sdk.GlobusAPIError as error:
                if error.http_status != _FORBIDDEN or document.get("subscription_id"):
                    raise
                raise FlowRefused(
                    f"the Flows service does not make a flow without a subscription ({error.message}); set "
                    "flow.subscription_id in the deployment, or delete the flow that you have"
                ) from error
        return flow

    def get_status(self, run_id: str) -> Json:
        """The run as the service has it; Gladier would unpickle what it finds in there."""
        with explained(f"reading the run {run_id}"):
            run: Json = self.flows_client.get_run(run_id).data
        return run

    def progress(self, run_id: str, callback: Callable[[Json], None] | None = None, delay: float = 2) -> None:
        """Call `callback` with the run's status until it ends.

        Raises
        ------
        RunWaits
            The run waits for a consent.
        """
        report = callback or self._default_progress_callback
        while True:
            run = self.get_status(run_id)
            report(run)
            if run["status"] in ("SUCCEEDED", "FAILED"):
                return
            if run["status"] == "INACTIVE":
                raise RunWaits(
                    f"run {run_id} waits for a consent; give it on https://app.globus.org/runs/{run_id} and resume the run there"
                )
            time.sleep(delay)


def changed_fields(wanted: Mapping[str, Any], flow: Mapping[str, Any]) -> Json:
    """The fields of a flow that differ from what the service has, as they should be.

    Parameters
    ----------
    wanted : mapping
        Fields as they should be. Those that are left out may be anything.
    flow : mapping
        The flow as the service returns it: it may leave out what is empty, order people as it likes, and fill in the
        scopes of actions.
    """
    return {
        name: value
        for name, value in wanted.items()
        if _plain(name, value, value) != _plain(name, flow.get(name), value)
    }


def _plain(name: str, value: Any, wanted: Any) -> Any:
    if name in _UNORDERED:
        return sorted(set(value or ()))
    if name == "definition" and isinstance(value, dict):
        return _without_filled_in_scopes(value, wanted)
    return value or None


def _without_filled_in_scopes(definition: Json, wanted: Json) -> Json:
    """The definition without the scopes of actions that the wanted one does not name."""
    states = {
        name: state
        if "ActionScope" in wanted["States"].get(name, {})
        else {key: value for key, value in state.items() if key != "ActionScope"}
        for name, state in definition.get("States", {}).items()
    }
    return {**definition, "States": states}
