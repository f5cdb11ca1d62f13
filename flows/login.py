"""Who asks: personal login and service accounts, the clients of the Globus services, and errors in plain words.

What is asked of the services is left to `deploy`, `preflight` and `client`.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import sys
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import globus_sdk
from gladier import GladierBaseClient
from gladier.managers.login_manager import BaseLoginManager
from globus_sdk.authorizers import GlobusAuthorizer, RenewingAuthorizer
from globus_sdk.config import get_service_url
from globus_sdk.gare import GlobusAuthorizationParameters, to_gare
from globus_sdk.globus_app import TokenValidationErrorHandler
from globus_sdk.login_flows import CommandLineLoginFlowEOFError, CommandLineLoginFlowManager
from globus_sdk.scopes import ComputeScopes, FlowsScopes, Scope, SearchScopes
from globus_sdk.token_storage import MemoryTokenStorage, SQLiteTokenStorage, TokenStorage, TokenValidationError
from globus_sdk.token_storage.validating_token_storage import IdentityMismatchError

from tomopipe.functions.errors import ParameterError, TomopipeError

from .deployment import Deployment
from .local.home import home

ID_VARIABLE = "TOMOPIPE_CLIENT_ID"
SECRET_VARIABLE = "TOMOPIPE_CLIENT_SECRET"
NATIVE_VARIABLE = "TOMOPIPE_NATIVE_CLIENT_ID"

_APP_NAME = "tomopipe"
_LOGIN_COMMAND = "`tomopipe login`"
_FLOW_SCOPE = re.compile(r"https://auth\.globus\.org/scopes/([0-9a-f-]{36})/flow_[0-9a-f_]{36}_user")
_CREDENTIALS = re.compile(r"\b(bearer|basic)\s+\S+", re.IGNORECASE)
_SAID_LENGTH_MAX = 1000
_CONSENT_CODES = frozenset({"ConsentRequired", "MISSING_SCOPE", "CONSENT_REQUIRED"})
_SERVICES: tuple[tuple[type[globus_sdk.GlobusAPIError], str], ...] = (
    (globus_sdk.AuthAPIError, "Globus Auth"),
    (globus_sdk.FlowsAPIError, "Globus Flows"),
    (globus_sdk.TransferAPIError, "Globus Transfer"),
    (globus_sdk.SearchAPIError, "Globus Search"),
    (globus_sdk.ComputeAPIError, "Globus Compute"),
)


class GlobusServiceError(TomopipeError):
    """A Globus service could not be reached or refused something; the message holds the remedy.

    Parameters
    ----------
    message : str
    status : int, optional
        HTTP status, where the service answered.
    code : str, optional
        The service's own word for the error.
    """

    def __init__(self, message: str, status: int | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class LoginNeeded(GlobusServiceError):
    """Nobody is logged in, or a login is no longer good."""


class ConsentNeeded(GlobusServiceError):
    """A person's consent is missing; `required_scopes` are what the service asks for."""

    def __init__(
        self, message: str, required_scopes: Iterable[str] = (), status: int | None = None, code: str | None = None
    ) -> None:
        super().__init__(message, status, code)
        self.required_scopes = tuple(required_scopes)


@dataclass(frozen=True)
class Identity:
    """Whom the services take us for."""

    id: str
    username: str
    kind: Literal["person", "service account"]

    @property
    def urn(self) -> str:
        """The identity as collections, flows and indices name it."""
        return f"urn:globus:auth:identity:{self.id}"


class Services:
    """The Globus clients of one person or service account, each made when it is first asked for.

    Not safe for use by several threads at once, as the SDK's application is not.

    Parameters
    ----------
    app : GlobusApp
        Gets and renews the tokens.
    deployment : Deployment, optional
        Its mapped collections need consents of their own, which every client then asks for from the start.
    storage : TokenStorage, optional
        What `close` closes besides.
    """

    def __init__(
        self, app: globus_sdk.GlobusApp, deployment: Deployment | None = None, storage: TokenStorage | None = None
    ) -> None:
        self.app = app
        self._mapped = deployment.mapped_collections if deployment else ()
        self._storage = storage
        self._flows_by_id: dict[str, globus_sdk.SpecificFlowClient] = {}

    def __repr__(self) -> str:
        return f"Services({self.kind})"

    def __enter__(self) -> Services:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def kind(self) -> Literal["person", "service account"]:
        """Whether a person or a service account asks."""
        return "service account" if isinstance(self.app, globus_sdk.ClientApp) else "person"

    @cached_property
    def auth(self) -> globus_sdk.AuthClient:
        """Who one is."""
        return globus_sdk.AuthClient(app=self.app)

    @cached_property
    def flows(self) -> globus_sdk.FlowsClient:
        """Flows and their runs."""
        return globus_sdk.FlowsClient(app=self.app)

    @cached_property
    def transfer(self) -> globus_sdk.TransferClient:
        """Files on collections, with consent for the deployment's mapped ones."""
        client = globus_sdk.TransferClient(app=self.app)
        return client.add_app_data_access_scope(self._mapped) if self._mapped else client

    @cached_property
    def search(self) -> globus_sdk.SearchClient:
        """Indices, also to write to."""
        return globus_sdk.SearchClient(app=self.app, app_scopes=[SearchScopes.all])

    @cached_property
    def compute(self) -> globus_sdk.ComputeClientV3:
        """Endpoints, functions and tasks."""
        return globus_sdk.ComputeClientV3(app=self.app)

    @cached_property
    def compute_v2(self) -> globus_sdk.ComputeClientV2:
        """What the third version of the Compute service's interface does not have: results, endpoint status."""
        return globus_sdk.ComputeClientV2(app=self.app)

    def specific_flow(self, flow_id: str) -> globus_sdk.SpecificFlowClient:
        """Client that starts and resumes runs of a flow, with consent for the deployment's mapped collections."""
        if flow_id not in self._flows_by_id:
            client = globus_sdk.SpecificFlowClient(flow_id, app=self.app)
            self._flows_by_id[flow_id] = (
                client.add_app_transfer_data_access_scope(self._mapped) if self._mapped else client
            )
        return self._flows_by_id[flow_id]

    def whoami(self) -> Identity:
        """Whom the services take us for.

        Raises
        ------
        GlobusServiceError
            Nobody is logged in, or Globus Auth does not answer.
        """
        with explained("asking who is logged in"):
            found = self.auth.userinfo()
            return Identity(found["sub"], found["preferred_username"], self.kind)

    def close(self) -> None:
        """Close connections and the token store; tokens stay as they are."""
        made = [vars(self).get(name) for name in _CLIENT_NAMES]
        for client in [*made, *self._flows_by_id.values()]:
            if client is not None:
                client.close()
        self.app.close()
        if self._storage is not None:
            self._storage.close()


_CLIENT_NAMES = ("auth", "flows", "transfer", "search", "compute", "compute_v2")


def make_services(deployment: Deployment | None = None) -> Services:
    """Clients of the service account that the environment names, else of a person. Asks no service anything.

    Raises
    ------
    ParameterError
        The environment names half a service account, or an id that is none.
    """
    client_id, secret = os.environ.get(ID_VARIABLE), os.environ.get(SECRET_VARIABLE)
    if client_id or secret:
        return _service_account(client_id, secret, deployment)
    storage = _token_file(_native_client_id(deployment))
    app = globus_sdk.UserApp(
        _APP_NAME,
        client_id=_native_client_id(deployment),
        config=globus_sdk.GlobusAppConfig(
            token_storage=storage,
            request_refresh_tokens=True,
            login_flow_manager=TerminalLogin,
            token_validation_error_handler=_refuse_to_ask(deployment),
        ),
    )
    return Services(app, deployment, storage)


def login(
    services: Services,
    flow_id: str | None = None,
    *,
    required_scopes: Iterable[str] = (),
    needed: GlobusAuthorizationParameters | None = None,
    force: bool = False,
) -> Identity:
    """Log in, where needed, for every service and for the flow; a service account only tries its secret.

    Parameters
    ----------
    services : Services
    flow_id : str, optional
        The flow whose runs one wants to start.
    required_scopes : iterable of str
        Consents that a service has asked for besides (`ConsentNeeded.required_scopes`).
    needed : GlobusAuthorizationParameters, optional
        Instead of `required_scopes`, all that a service has asked for: consents, and what the session must have.
    force : bool
        Whether a person logs in anew even where all is well.

    Raises
    ------
    GlobusServiceError
        There is no terminal to log in at, the code or the secret is wrong, or Globus Auth does not answer.
    """
    for name in _CLIENT_NAMES:
        getattr(services, name)
    if flow_id is not None:
        services.specific_flow(flow_id)
    scopes = list(required_scopes)
    if needed is None and scopes:
        needed = GlobusAuthorizationParameters(required_scopes=scopes)
    with explained("logging in"):
        if force or needed is not None or not _is_logged_in(services):
            services.app.login(auth_params=needed, force=True)
    return services.whoami()


def logout(services: Services) -> None:
    """Revoke and forget every token of the person; a service account keeps none.

    Raises
    ------
    GlobusServiceError
        Globus Auth could not be asked to revoke them; they are removed from this machine all the same.
    """
    try:
        with explained("revoking the tokens, which are removed from this machine"):
            services.app.logout(sweep=True)
    finally:
        stored = services.app.token_storage.token_storage
        for server in list(stored.get_token_data_by_resource_server()):
            stored.remove_token_data(server)


class TerminalLogin(CommandLineLoginFlowManager):
    """Personal login at a terminal: shows an address, takes the code that the page there gives.

    Writes to stderr, so that what a command prints to stdout stays its own.
    """

    def run_login_flow(self, auth_parameters: GlobusAuthorizationParameters) -> globus_sdk.OAuthTokenResponse:
        """Show the address, take the code, get the tokens.

        Raises
        ------
        LoginNeeded
            There is no terminal, or the code is not accepted.
        """
        if not sys.stdin.isatty():
            raise LoginNeeded(
                f"logging in: there is no terminal to log in at; run {_LOGIN_COMMAND} at one, or set {ID_VARIABLE} and "
                f"{SECRET_VARIABLE} to use a service account"
            )
        try:
            return super().run_login_flow(auth_parameters)
        except CommandLineLoginFlowEOFError:
            raise LoginNeeded(f"logging in: no code was given; run {_LOGIN_COMMAND} again") from None
        except globus_sdk.AuthAPIError as error:
            if _oauth_error(error) != "invalid_grant":
                raise
            raise LoginNeeded(
                f"logging in: Globus does not accept the code, which works once and for some minutes; run "
                f"{_LOGIN_COMMAND} again and copy the whole code",
                error.http_status,
                "invalid_grant",
            ) from None

    def print_authorize_url(self, authorize_url: str) -> None:
        """Show where to log in."""
        print(f"Log in to Globus at this address:\n\n  {authorize_url}\n", file=sys.stderr)

    def prompt_for_code(self) -> str:
        """Take the code."""
        print("Paste the code that you get there: ", end="", file=sys.stderr, flush=True)
        with self._handle_input_errors():
            return input().strip()


class AppLoginManager(BaseLoginManager):  # type: ignore[misc]  # Gladier carries no types
    """Gives Gladier's managers the authorizers of our clients.

    Gladier's own login manager asks the SDK for a name that it does not have, and so fails at the first login.

    Parameters
    ----------
    services : Services
        Whose authorizers they are.
    """

    def __init__(self, services: Services) -> None:
        super().__init__()
        self.services = services
        self.globus_app = services.app

    def get_authorizers(self) -> dict[str, GlobusAuthorizer]:
        """Authorizers by scope, of those that there are tokens for; nobody is asked to log in."""
        authorizers: dict[str, GlobusAuthorizer] = {}
        for scope in map(str, self.required_scopes):
            with contextlib.suppress(LoginNeeded):
                authorizers[scope] = self.services.app.get_authorizer(self._resource_server(scope))
        return authorizers

    def login(self, scopes: Iterable[str | Scope]) -> None:
        """Log in for the scopes; anew where a flow's scope has changed, whose old tokens are of no use then."""
        flows = [flow_id for scope in scopes if (flow_id := _flow_of(str(scope)))]
        for flow_id in flows:
            self.services.specific_flow(flow_id)
        login(self.services, force=bool(self.scope_changes))

    def _resource_server(self, scope: str) -> str:
        """Who takes tokens of a scope; registers the scope with the application by making the client."""
        services = self.services
        if scope in _FLOWS_SCOPES:
            return str(services.flows.resource_server)
        if scope == str(ComputeScopes.all):
            return str(services.compute.resource_server)
        flow_id = _flow_of(scope)
        if flow_id is None:
            raise GlobusServiceError(
                f"logging in: no client of tomopipe uses the scope {scope}; report this as a fault of tomopipe"
            )
        services.specific_flow(flow_id)
        return flow_id


@contextlib.contextmanager
def explained(doing: str) -> Iterator[None]:
    """Turn an error of a Globus service into one message with a remedy; `doing` says what was tried."""
    try:
        yield
    except globus_sdk.GlobusError as error:
        raise explain_globus_error(error, doing) from error


def explain_globus_error(error: globus_sdk.GlobusError, doing: str) -> GlobusServiceError:
    """The error of a client as one message: what was tried, what the service says, and the remedy.

    Parameters
    ----------
    error : GlobusError
        What the SDK raised: an answer of a service, no answer, or missing tokens.
    doing : str
        What was tried, for example 'starting the run'.
    """
    if isinstance(error, globus_sdk.GlobusAPIError):
        return _explain_answer(error, doing)
    if isinstance(error, globus_sdk.GlobusTimeoutError):
        return GlobusServiceError(
            f"{doing}: Globus did not answer in time; try again, and if it lasts look at https://status.globus.org"
        )
    if isinstance(error, globus_sdk.NetworkError):
        return GlobusServiceError(
            f"{doing}: Globus cannot be reached; check this machine's network and proxy (HTTPS_PROXY), then try again"
        )
    if isinstance(error, IdentityMismatchError):
        return LoginNeeded(
            f"{doing}: somebody else is logged in here ({error.stored_id}, now {error.new_id}); run `tomopipe logout` "
            f"first, then {_LOGIN_COMMAND}"
        )
    if isinstance(error, TokenValidationError):
        return _login_needed(error, doing)
    return GlobusServiceError(f"{doing}: {_plain(str(error))}; report this as a fault of tomopipe")


def _explain_answer(error: globus_sdk.GlobusAPIError, doing: str) -> GlobusServiceError:
    service = next((name for kind, name in _SERVICES if isinstance(error, kind)), "Globus")
    status, code = error.http_status, _oauth_error(error) or error.code
    said = _plain(error.message or error.http_reason)
    answer = f"{doing}: {service} says {status}{f' {code}' if code else ''}{f' ({said})' if said else ''}"
    if code in ("invalid_client", "unauthorized_client"):
        return LoginNeeded(
            f"{answer}: it does not know these credentials; check {ID_VARIABLE} and {SECRET_VARIABLE}, or unset both "
            "to log in as a person",
            status,
            code,
        )
    if code == "invalid_grant":
        return LoginNeeded(f"{answer}: the login is no longer good; run {_LOGIN_COMMAND}", status, code)
    required = error.info.consent_required.required_scopes or _asked_scopes(error)
    if required or code in _CONSENT_CODES:
        return ConsentNeeded(
            f"{answer}: a consent is missing; run {_LOGIN_COMMAND} with the deployment's name, and where the data lie on "
            "a mapped collection see that the deployment says 'mapped: true' for it",
            required,
            status,
            code,
        )
    if status == 401:
        return LoginNeeded(f"{answer}: the login is not accepted; run {_LOGIN_COMMAND}", status, code)
    return GlobusServiceError(f"{answer}; {_remedy(status)}", status, code)


def _remedy(status: int) -> str:
    if status == 403:
        return (
            "ask the owner of the flow, collection, endpoint or index for permission, or log in as somebody who has it"
        )
    if status in (404, 410):
        return "check the UUIDs and paths in the deployment; what was deleted is made again by `tomopipe deploy`"
    if status == 409:
        return "it is in another state than expected, or somebody else changes it too; look again, then try again"
    if status == 429:
        return "too much was asked in a short time; wait a minute, then try again"
    if status >= 500:
        return "the service is in trouble; try again later, and if it lasts look at https://status.globus.org"
    return "correct what it names"


def _asked_scopes(error: globus_sdk.GlobusAPIError) -> list[str]:
    """Scopes that the service asks for in the common form of such errors."""
    asked = to_gare(error) if error.http_status == 403 else None
    return list(asked.authorization_parameters.required_scopes or []) if asked else []


def _oauth_error(error: globus_sdk.GlobusAPIError) -> str | None:
    """The error's word where it has the form of OAuth's, which the SDK does not read."""
    document = error.raw_json
    word = document.get("error") if isinstance(document, dict) else None
    return word if isinstance(word, str) else None


def _plain(text: str) -> str:
    """A service's words on one line, without credentials that they may repeat, and not endless."""
    plain = _CREDENTIALS.sub(r"\1 (hidden)", " ".join(text.split()))
    return plain if len(plain) <= _SAID_LENGTH_MAX else plain[:_SAID_LENGTH_MAX] + "..."


def _login_needed(error: TokenValidationError, doing: str, command: str = _LOGIN_COMMAND) -> LoginNeeded:
    server = getattr(error, "resource_server", None)
    missing = f"there is no login for {server}" if server else "the login lacks a consent that is needed now"
    return LoginNeeded(
        f"{doing}: {missing}; run {command}, or set {ID_VARIABLE} and {SECRET_VARIABLE} to use a service account"
    )


def _refuse_to_ask(deployment: Deployment | None) -> TokenValidationErrorHandler:
    """What a client does where a login is missing. No command but `login` stops to ask: a trigger would wait forever."""
    # Only with its deployment does `login` know which collections and which flow there are to consent to.
    command = f"`tomopipe login {deployment.called}`" if deployment else _LOGIN_COMMAND

    def refuse(app: globus_sdk.GlobusApp, error: TokenValidationError) -> None:
        if isinstance(error, IdentityMismatchError):
            raise explain_globus_error(error, "logging in") from error
        raise _login_needed(error, "logging in", command) from error

    return refuse


def _service_account(client_id: str | None, secret: str | None, deployment: Deployment | None) -> Services:
    if not client_id or not secret:
        missing, given = (ID_VARIABLE, SECRET_VARIABLE) if not client_id else (SECRET_VARIABLE, ID_VARIABLE)
        raise ParameterError(
            f"{missing}: is not set, but {given} is; set both to use a service account, or neither to log in as a person"
        )
    # Kept in memory alone. The SDK does not see whether a stored token of a service account has the consents for
    # mapped collections, and a new token costs one request.
    storage = MemoryTokenStorage()
    app = globus_sdk.ClientApp(
        _APP_NAME,
        client_id=_checked_id(client_id, ID_VARIABLE),
        client_secret=secret,
        config=globus_sdk.GlobusAppConfig(token_storage=storage, auto_redrive_gares=True),
    )
    return Services(app, deployment, storage)


def _native_client_id(deployment: Deployment | None) -> str:
    if deployment is not None and deployment.login.client_id is not None:
        return deployment.login.client_id
    configured = os.environ.get(NATIVE_VARIABLE)
    return _checked_id(configured, NATIVE_VARIABLE) if configured else str(GladierBaseClient.client_id)


def _checked_id(text: str, variable: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        # Not shown: somebody may have put the secret here.
        raise ParameterError(
            f"{variable}: is not a UUID; copy it from the application's page at app.globus.org"
        ) from None


class _TokenFile(SQLiteTokenStorage):
    """The SDK's token store, which overwrites what it deletes."""

    def _init_and_connect(self, connect_params: dict[str, Any] | None) -> Any:
        connection = super()._init_and_connect(connect_params)
        connection.execute("PRAGMA secure_delete = ON")
        return connection


def _token_file(client_id: str) -> _TokenFile:
    """The store of a person's tokens, readable by this user alone.

    Tokens of one Auth service are never shown to another: a developer's stand-in has a part of its own.
    """
    file = home() / "tokens.sqlite"
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not file.exists():
            _create_token_file(file)
        if file.stat().st_mode & 0o077:
            file.chmod(0o600)
        store = _TokenFile(
            file,
            connect_params={"check_same_thread": False, "timeout": 30},
            namespace=f"{client_id} at {get_service_url('auth')}",
        )
    except OSError as error:
        raise TomopipeError(
            f"{file}: the store of tokens cannot be made or opened: {error.strerror}; give yourself write permission "
            "there, or set TOMOPIPE_HOME to a folder of your own"
        ) from error
    try:
        store.get_token_data_by_resource_server()
    except (sqlite3.DatabaseError, ValueError, KeyError) as error:
        store.close()
        raise TomopipeError(
            f"{file}: is no store of tokens that can be read ({error}); remove it and run {_LOGIN_COMMAND}"
        ) from error
    return store


def _create_token_file(file: Path) -> None:
    """Make an empty store in one step: the SDK takes a file that another process is only making for a finished one."""
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".tokens-") as folder:
        made = Path(folder) / file.name
        SQLiteTokenStorage(made).close()
        with contextlib.suppress(FileExistsError):
            file.hardlink_to(made)


def _is_logged_in(services: Services) -> bool:
    """Whether there are tokens with every consent, and whether they still renew: they may have been revoked elsewhere."""
    try:
        if services.app.login_required():
            return False
        for server in services.app.scope_requirements:
            authorizer = services.app.get_authorizer(server)
            if services.kind == "person" and isinstance(authorizer, RenewingAuthorizer):
                authorizer.handle_missing_authorization()
                authorizer.ensure_valid_token()
    except globus_sdk.AuthAPIError as error:
        if services.kind == "person" and (error.http_status == 401 or _oauth_error(error) == "invalid_grant"):
            return False
        raise
    return True


def _flow_of(scope: str) -> str | None:
    """The flow whose runs a scope lets one start."""
    found = _FLOW_SCOPE.match(scope)
    return found[1] if found else None


_FLOWS_SCOPES = frozenset(
    str(scope)
    for scope in (
        FlowsScopes.all,
        FlowsScopes.manage_flows,
        FlowsScopes.view_flows,
        FlowsScopes.run,
        FlowsScopes.run_status,
        FlowsScopes.run_manage,
    )
)
