"""Logging in: persons and service accounts, tokens and consents, and errors of the services in plain words.

Globus Auth is the stand-in of `facility/services`; whatever else would leave this machine fails the test.
"""

from __future__ import annotations

import io
import json
import logging
import re
import sqlite3
import stat
import threading
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import globus_sdk
import pytest
import requests
from facility.services.auth import AuthService, Identity
from facility.services.http import consented
from facility.services.web import WebServices
from gladier.managers import ComputeManager, FlowsManager
from globus_sdk.scopes import GCSCollectionScopes, SpecificFlowScopes, TransferScopes
from globus_sdk.token_storage import SQLiteTokenStorage

from tomopipe.flows.deployment import Deployment, load_deployment
from tomopipe.flows.login import (
    AppLoginManager,
    ConsentNeeded,
    GlobusServiceError,
    LoginNeeded,
    Services,
    explain_globus_error,
    explained,
    login,
    logout,
    make_services,
)
from tomopipe.functions.errors import ParameterError, TomopipeError

COLLECTION, GUEST, FLOW, ENDPOINT = (str(uuid.UUID(int=number, version=4)) for number in range(1, 5))
FLOW_SCOPE = str(SpecificFlowScopes(FLOW).user)
DATA_ACCESS = str(GCSCollectionScopes(COLLECTION).data_access)
TRANSFER = str(TransferScopes.all)
SERVICE_NAMES = ("AUTH", "FLOWS", "TRANSFER", "SEARCH", "COMPUTE", "GROUPS", "TIMERS")
PERSON = "scientist@beamline.example"


@pytest.fixture(autouse=True)
def closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A home of its own, no credentials, and no request that leaves for a Globus service; those tried are listed."""
    for name in ("TOMOPIPE_CLIENT_ID", "TOMOPIPE_CLIENT_SECRET", "TOMOPIPE_NATIVE_CLIENT_ID", "GLOBUS_SDK_ENVIRONMENT"):
        monkeypatch.delenv(name, raising=False)
    for name in SERVICE_NAMES:
        monkeypatch.setenv(f"GLOBUS_SDK_SERVICE_URL_{name}", "http://127.0.0.1:9/")
    monkeypatch.setenv("TOMOPIPE_HOME", str(tmp_path / "home"))
    tried: list[str] = []
    send = requests.Session.send

    def guarded(session: requests.Session, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        url = request.url or ""
        tried.append(url)
        assert url.startswith("http://127.0.0.1:") and not url.startswith("http://127.0.0.1:9/"), url
        return send(session, request, **options)

    monkeypatch.setattr(requests.Session, "send", guarded)
    return tried


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServices]:
    """The stand-in services, and the environment in which clients find them."""
    with WebServices(tmp_path / "web") as services:
        for name, address in services.environment.items():
            monkeypatch.setenv(name, address)
        monkeypatch.setenv("TOMOPIPE_NATIVE_CLIENT_ID", services.native_client_id)
        yield services
    assert services.faults == []


@pytest.fixture
def auth(web: WebServices) -> AuthService:
    """The stand-in of Globus Auth, where a collection and a flow are known."""
    web.auth.register_scope(DATA_ACCESS, COLLECTION)
    web.auth.register_scope(FLOW_SCOPE, FLOW)
    return web.auth


@pytest.fixture
def person(auth: AuthService) -> Identity:
    return auth.add_person(PERSON)


@pytest.fixture
def account(auth: AuthService, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    client_id, secret = auth.add_service_account("the beamline")
    monkeypatch.setenv("TOMOPIPE_CLIENT_ID", client_id)
    monkeypatch.setenv("TOMOPIPE_CLIENT_SECRET", secret)
    return client_id, secret


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """Somebody at a terminal who opens the address that is printed, and pastes the code; returns the addresses."""

    def sit_down(username: str = PERSON, code: str | None = None) -> list[str]:
        addresses: list[str] = []

        def paste() -> str:
            shown = capsys.readouterr()
            assert shown.out == ""
            found = re.search(r"http://\S+", shown.err)
            assert found is not None
            addresses.append(found[0])
            page = requests.get(found[0], params={"person": username}, timeout=10)
            given = re.search(r'id="code">([^<]+)<', page.text)
            assert given is not None, page.text
            return code or f" {given[1]} \n"

        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        monkeypatch.setattr("builtins.input", paste)
        return addresses

    return sit_down


@pytest.fixture
def opened() -> Iterator[Callable[..., Services]]:
    """Services that are closed at the end, as a command makes them."""
    made: list[Services] = []

    def make(deployment: Deployment | None = None) -> Services:
        made.append(make_services(deployment))
        return made[-1]

    yield make
    for services in made:
        services.close()


Opened = Callable[..., Services]


def deployment(
    folder: Path, mapped: bool = True, client_id: str | None = None, collection: str = COLLECTION
) -> Deployment:
    file = folder / "mine.yaml"
    file.write_text(
        f"""
extends: loopback
source: {{collection: {collection}, path: /data, mapped: {str(mapped).lower()}}}
processing: {{collection: {GUEST}, path: /results, host_path: /results}}
compute: {{endpoint: {ENDPOINT}}}
login: {{client_id: {client_id or "null"}}}
""",
        encoding="utf-8",
    )
    return load_deployment(file)


def tokens_in(home: Path) -> list[str]:
    """Every access and refresh token in the store, of whatever login."""
    with sqlite3.connect(home / "tokens.sqlite") as connection:
        rows = connection.execute("SELECT token_data_json FROM token_storage").fetchall()
    connection.close()
    return [token for (row,) in rows for token in re.findall(r'_token": "([^"]+)"', row)]


# Who one is, before anything is asked


def test_making_clients_asks_nobody(
    opened: Opened, closed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = opened(deployment(tmp_path))
    assert services.kind == "person"
    monkeypatch.setenv("TOMOPIPE_CLIENT_ID", str(uuid.uuid4()))
    monkeypatch.setenv("TOMOPIPE_CLIENT_SECRET", "s3cret")
    account = opened(deployment(tmp_path))
    assert account.kind == "service account"
    for made in (services, account):
        for name in ("auth", "flows", "transfer", "search", "compute", "compute_v2"):
            assert getattr(made, name) is getattr(made, name)
        assert made.specific_flow(FLOW) is made.specific_flow(FLOW)
        assert made.flows.base_url == "http://127.0.0.1:9/"
    assert closed == []


@pytest.mark.parametrize(
    ("given", "missing"),
    [("TOMOPIPE_CLIENT_ID", "TOMOPIPE_CLIENT_SECRET"), ("TOMOPIPE_CLIENT_SECRET", "TOMOPIPE_CLIENT_ID")],
)
def test_half_a_service_account_is_refused(given: str, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(given, "s3cret-value")
    monkeypatch.setenv(missing, "")
    with pytest.raises(ParameterError, match=f"{missing}: is not set, but {given} is; set both") as caught:
        make_services()
    assert "s3cret" not in str(caught.value)


def test_a_secret_in_the_place_of_an_id_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOMOPIPE_CLIENT_ID", "s3cret-value")
    monkeypatch.setenv("TOMOPIPE_CLIENT_SECRET", "s3cret-value")
    with pytest.raises(ParameterError, match="TOMOPIPE_CLIENT_ID: is not a UUID") as caught:
        make_services()
    assert "s3cret" not in str(caught.value)


def test_empty_variables_are_no_service_account(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOMOPIPE_CLIENT_ID", "")
    monkeypatch.setenv("TOMOPIPE_CLIENT_SECRET", "")
    assert opened().kind == "person"


def test_the_native_application_is_the_deployments_then_the_environments_then_gladiers(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gladier import GladierBaseClient

    assert str(opened().app.client_id) == GladierBaseClient.client_id
    monkeypatch.setenv("TOMOPIPE_NATIVE_CLIENT_ID", GUEST)
    assert str(opened(deployment(tmp_path)).app.client_id) == GUEST
    assert str(opened(deployment(tmp_path, client_id=COLLECTION)).app.client_id) == COLLECTION
    monkeypatch.setenv("TOMOPIPE_NATIVE_CLIENT_ID", "mine")
    with pytest.raises(ParameterError, match="TOMOPIPE_NATIVE_CLIENT_ID: is not a UUID"):
        make_services()


def test_a_secret_shows_nowhere(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOMOPIPE_CLIENT_ID", str(uuid.uuid4()))
    monkeypatch.setenv("TOMOPIPE_CLIENT_SECRET", "s3cret")
    services = opened()
    assert repr(services) == "Services(service account)"
    shown = f"{services} {services.app!r} {vars(services)} {vars(services.app)} {services.app.config}"
    assert "s3cret" not in shown


# The scopes that clients ask for


def scopes_of(services: Services, server: str) -> str:
    return globus_sdk.scopes.ScopeParser.serialize(services.app.scope_requirements[server])


def test_mapped_collections_are_consented_to_from_the_start(opened: Opened, tmp_path: Path) -> None:
    services = opened(deployment(tmp_path))
    _ = services.transfer, services.specific_flow(FLOW)
    assert f"{TRANSFER}[*{DATA_ACCESS}]" in scopes_of(services, "transfer.api.globus.org")
    assert f"{FLOW_SCOPE}[*{TRANSFER}[*{DATA_ACCESS}]]" in scopes_of(services, FLOW)
    guests = opened(deployment(tmp_path, mapped=False))
    _ = guests.transfer, guests.specific_flow(FLOW)
    # A guest collection has no such scope: asking for it would fail the login.
    assert "data_access" not in scopes_of(guests, "transfer.api.globus.org") + scopes_of(guests, FLOW)


def test_an_index_can_be_written_to(opened: Opened) -> None:
    services = opened()
    assert scopes_of(services, services.search.resource_server) == "urn:globus:auth:scope:search.api.globus.org:all"


# The token store


def test_the_store_is_for_this_user_alone(opened: Opened, tmp_path: Path) -> None:
    opened()
    home = tmp_path / "home"
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert stat.S_IMODE((home / "tokens.sqlite").stat().st_mode) == 0o600
    assert [path.name for path in home.iterdir()] == ["tokens.sqlite"]
    (home / "tokens.sqlite").chmod(0o644)
    opened()
    assert stat.S_IMODE((home / "tokens.sqlite").stat().st_mode) == 0o600


def test_many_may_make_the_store_at_once(tmp_path: Path) -> None:
    failures: list[BaseException] = []
    ready = threading.Barrier(8)

    def make() -> None:
        try:
            ready.wait(10)
            make_services().close()
        except Exception as error:  # noqa: BLE001 - whatever it is fails the test
            failures.append(error)

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["tokens.sqlite"]


def test_a_store_that_is_no_database_is_refused_as_such(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "tokens.sqlite").write_text("not a database, whatever its name")
    with pytest.raises(TomopipeError, match=r"tokens\.sqlite: is no store of tokens.*remove it"):
        make_services()


# Nobody is logged in


def test_without_a_login_no_command_stops_to_ask(
    opened: Opened, closed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never() -> str:
        raise AssertionError("asked for a code")

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", never)
    services = opened()
    for ask in (services.flows.list_flows, services.compute_v2.get_version, lambda: services.transfer.get_task(FLOW)):
        with pytest.raises(
            LoginNeeded, match=r"there is no login for .*; run `tomopipe login`, or set TOMOPIPE_CLIENT_ID"
        ):
            ask()
    with pytest.raises(LoginNeeded):
        services.whoami()
    assert closed == []


def test_login_without_a_terminal_says_what_to_do(
    opened: Opened, closed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    with pytest.raises(
        LoginNeeded, match="no terminal to log in at; run `tomopipe login` at one, or set TOMOPIPE_CLIENT_ID"
    ):
        login(opened())
    assert closed == []


# A service account


def test_a_service_account_logs_in_with_its_secret(
    auth: AuthService, account: tuple[str, str], opened: Opened, tmp_path: Path
) -> None:
    services = opened(deployment(tmp_path))
    found = login(services, FLOW)
    assert (found.id, found.kind) == (account[0], "service account")
    assert found.username == f"{account[0]}@clients.auth.globus.org"
    assert found.urn == f"urn:globus:auth:identity:{account[0]}"
    # Nothing on disk: neither the secret nor tokens.
    assert not (tmp_path / "home" / "tokens.sqlite").exists()
    consents = auth.consents(account[0], account[0])
    assert consented(consents, TRANSFER, DATA_ACCESS)
    assert consented(consents, FLOW_SCOPE, TRANSFER, DATA_ACCESS)


def test_a_service_account_needs_no_login_command(account: tuple[str, str], opened: Opened) -> None:
    assert opened().whoami().id == account[0]


def test_a_service_account_renews_what_has_expired(auth: AuthService, account: tuple[str, str], opened: Opened) -> None:
    services = opened()
    services.whoami()
    assert auth.expire_tokens() > 0
    assert services.whoami().id == account[0]


def test_a_wrong_secret_is_told_from_a_bad_network(
    account: tuple[str, str], opened: Opened, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TOMOPIPE_CLIENT_SECRET", "wrong-s3cret")
    caplog.set_level(logging.DEBUG)
    for ask in (login, Services.whoami):
        with pytest.raises(
            LoginNeeded, match=r"Globus Auth says 401 invalid_client.* check TOMOPIPE_CLIENT_ID"
        ) as caught:
            ask(opened())
        assert caught.value.status == 401
        assert "s3cret" not in str(caught.value)
    assert "s3cret" not in caplog.text


def test_logging_a_service_account_out_is_no_error(account: tuple[str, str], opened: Opened) -> None:
    services = opened()
    services.whoami()
    logout(services)
    assert services.whoami().id == account[0]


# A person


def test_a_person_logs_in_once_for_everything(
    person: Identity,
    opened: Opened,
    terminal: Callable[..., list[str]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    addresses = terminal()
    found = login(opened(), FLOW)
    assert (found.id, found.username, found.kind) == (person.id, PERSON, "person")
    # The next command finds the login, and so does the next `login`.
    assert opened().whoami() == found
    assert login(opened(), FLOW) == found
    assert len(addresses) == 1
    query = urllib.parse.parse_qs(urllib.parse.urlsplit(addresses[0]).query)
    assert query["access_type"] == ["offline"] and query["code_challenge_method"] == ["S256"]
    tokens = tokens_in(tmp_path / "home")
    assert len(tokens) == 12  # access and refresh, for five services and the flow
    assert not [token for token in tokens if token in caplog.text]


def test_force_logs_in_anew(person: Identity, opened: Opened, terminal: Callable[..., list[str]]) -> None:
    addresses = terminal()
    login(opened())
    login(opened(), force=True)
    assert len(addresses) == 2


def test_tokens_that_have_expired_are_renewed_without_asking(
    auth: AuthService, person: Identity, opened: Opened, terminal: Callable[..., list[str]], tmp_path: Path
) -> None:
    addresses = terminal()
    login(opened())
    before = tokens_in(tmp_path / "home")
    auth.expire_tokens()
    assert opened().whoami().id == person.id
    after = tokens_in(tmp_path / "home")
    assert len(addresses) == 1 and len(set(before) - set(after)) == 1
    # The renewed token is kept: nothing is renewed twice.
    assert opened().whoami().id == person.id
    assert tokens_in(tmp_path / "home") == after


def test_a_login_that_was_ended_elsewhere_is_begun_again(
    auth: AuthService, person: Identity, opened: Opened, terminal: Callable[..., list[str]]
) -> None:
    addresses = terminal()
    login(opened())
    auth.expire_tokens()
    auth.revoke_refresh_tokens()
    with pytest.raises(LoginNeeded, match="the login is no longer good; run `tomopipe login`"):
        opened().whoami()
    assert login(opened()).id == person.id
    assert len(addresses) == 2
    # Also where the access tokens are good for a while yet.
    auth.revoke_refresh_tokens()
    assert opened().whoami().id == person.id
    login(opened())
    assert len(addresses) == 3


def test_withdrawn_consents_are_asked_for_again(
    auth: AuthService, person: Identity, opened: Opened, terminal: Callable[..., list[str]]
) -> None:
    addresses = terminal()
    login(opened())
    auth.withdraw_consents(person.id)
    with pytest.raises(LoginNeeded):
        opened().whoami()
    login(opened())
    assert len(addresses) == 2
    assert opened().whoami().id == person.id


def test_a_mapped_collection_takes_a_consent_of_its_own(
    auth: AuthService, person: Identity, opened: Opened, terminal: Callable[..., list[str]], tmp_path: Path
) -> None:
    addresses = terminal()
    login(opened(), FLOW)
    client_id = str(opened().app.client_id)
    assert not consented(auth.consents(person.id, client_id), TRANSFER, DATA_ACCESS)
    mapped = deployment(tmp_path)
    with pytest.raises(LoginNeeded, match=r"lacks a consent that is needed now; run `tomopipe login .*mine\.yaml`"):
        opened(mapped).transfer.get_task(FLOW)
    with pytest.raises(LoginNeeded, match="lacks a consent"):
        opened(mapped).specific_flow(FLOW).run_flow({})
    assert len(addresses) == 1
    login(opened(mapped), FLOW)
    consents = auth.consents(person.id, client_id)
    assert consented(consents, TRANSFER, DATA_ACCESS)
    assert consented(consents, FLOW_SCOPE, TRANSFER, DATA_ACCESS)
    login(opened(mapped), FLOW)
    assert len(addresses) == 2


def test_consents_that_a_service_asks_for_are_given(
    auth: AuthService, person: Identity, opened: Opened, terminal: Callable[..., list[str]]
) -> None:
    terminal()
    login(opened())
    login(opened(), required_scopes=[f"{TRANSFER}[*{DATA_ACCESS}]"])
    assert consented(auth.consents(person.id, str(opened().app.client_id)), TRANSFER, DATA_ACCESS)


@pytest.fixture
def mapped_collection(web: WebServices, tmp_path: Path) -> str:
    root = tmp_path / "mapped"
    root.mkdir()
    (root / "scan.h5").write_bytes(b"scan")
    return web.add_collection("mapped", root, mapped=True)


def names_on(services: Services, collection: str) -> list[str]:
    with explained("listing"):
        return [entry["name"] for entry in services.transfer.operation_ls(collection, path="/")]


def test_a_mapped_collection_can_be_listed_after_login_with_its_deployment(
    person: Identity, opened: Opened, terminal: Callable[..., list[str]], tmp_path: Path, mapped_collection: str
) -> None:
    terminal()
    login(opened())
    with pytest.raises(
        ConsentNeeded, match=r"listing: Globus Transfer says 403 ConsentRequired.*mapped: true"
    ) as caught:
        names_on(opened(), mapped_collection)
    assert any(mapped_collection in scope for scope in caught.value.required_scopes)
    place = deployment(tmp_path, collection=mapped_collection)
    login(opened(place))
    assert names_on(opened(place), mapped_collection) == ["scan.h5"]


def test_the_consents_that_a_refusal_names_are_enough(
    person: Identity, opened: Opened, terminal: Callable[..., list[str]], mapped_collection: str
) -> None:
    terminal()
    services = opened()
    login(services)
    with pytest.raises(ConsentNeeded) as caught:
        names_on(services, mapped_collection)
    login(services, required_scopes=caught.value.required_scopes)
    assert names_on(services, mapped_collection) == ["scan.h5"]


@pytest.mark.parametrize("mapped", [True, False])
def test_a_service_account_consents_by_itself(
    mapped: bool, account: tuple[str, str], opened: Opened, tmp_path: Path, mapped_collection: str
) -> None:
    """Also where the deployment forgets to say that the collection is a mapped one."""
    services = opened(deployment(tmp_path, mapped=mapped, collection=mapped_collection))
    assert names_on(services, mapped_collection) == ["scan.h5"]


def test_a_wrong_code_is_said_to_be_wrong(
    person: Identity, opened: Opened, terminal: Callable[..., list[str]], tmp_path: Path
) -> None:
    terminal(code="nonsense")
    with pytest.raises(LoginNeeded, match=r"does not accept the code.* run `tomopipe login` again"):
        login(opened())
    assert tokens_in(tmp_path / "home") == []


def test_no_code_is_said_to_be_none(
    person: Identity, opened: Opened, terminal: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal()

    def end_of_file() -> str:
        raise EOFError

    monkeypatch.setattr("builtins.input", end_of_file)
    with pytest.raises(LoginNeeded, match="no code was given"):
        login(opened())


def test_somebody_else_does_not_slip_into_a_login(
    auth: AuthService, person: Identity, opened: Opened, terminal: Callable[..., list[str]]
) -> None:
    other = auth.add_person("other@beamline.example")
    terminal(PERSON)
    login(opened())
    terminal(other.username)
    with pytest.raises(LoginNeeded, match=f"somebody else is logged in here.*{other.id}.*run `tomopipe logout`"):
        login(opened(), force=True)
    assert opened().whoami().id == person.id
    logout(opened())
    assert login(opened()).id == other.id


def test_tokens_of_one_auth_service_are_not_shown_to_another(
    person: Identity,
    opened: Opened,
    terminal: Callable[..., list[str]],
    closed: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal()
    login(opened())
    monkeypatch.setenv("GLOBUS_SDK_SERVICE_URL_AUTH", "http://127.0.0.1:8/")
    closed.clear()
    with pytest.raises(LoginNeeded, match="no login"):
        opened().whoami()
    assert closed == []


def test_logout_revokes_and_forgets(
    auth: AuthService, person: Identity, opened: Opened, terminal: Callable[..., list[str]], tmp_path: Path
) -> None:
    terminal()
    login(opened(), FLOW)
    tokens = tokens_in(tmp_path / "home")
    assert any(auth.caller(token) for token in tokens)
    logout(opened())
    assert not any(auth.caller(token) for token in tokens)
    left = (tmp_path / "home" / "tokens.sqlite").read_bytes()
    assert not [token for token in tokens if token.encode() in left]
    with pytest.raises(LoginNeeded, match="no login"):
        opened().whoami()
    logout(opened())


def test_what_is_deleted_from_the_store_is_overwritten_whatever_sqlite_was_built_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Debian's SQLite does so by itself, others do not."""
    connect = SQLiteTokenStorage._init_and_connect

    def elsewhere(self: Any, connect_params: Any) -> Any:
        connection = connect(self, connect_params)
        connection.execute("PRAGMA secure_delete = OFF")
        return connection

    monkeypatch.setattr(SQLiteTokenStorage, "_init_and_connect", elsewhere)
    monkeypatch.setenv("TOMOPIPE_HOME", str(tmp_path / "home"))
    with make_services() as services:
        store = services.app.token_storage.token_storage
        assert isinstance(store, SQLiteTokenStorage)
        assert store._connection.execute("PRAGMA secure_delete").fetchone() == (1,)


def test_logout_forgets_even_where_auth_cannot_be_asked(
    person: Identity,
    opened: Opened,
    terminal: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    terminal()
    login(opened())
    services = opened()

    def refuse(*_: Any, **__: Any) -> None:
        raise requests.ConnectionError("no route")

    monkeypatch.setattr(requests.Session, "send", refuse)
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(GlobusServiceError, match="which are removed from this machine: Globus cannot be reached"):
        logout(services)
    assert tokens_in(tmp_path / "home") == []


# For Gladier


def required_by_gladier(manager: AppLoginManager) -> None:
    manager.add_requirements(ComputeManager().get_scopes())
    manager.add_requirements(FlowsManager(flow_id=FLOW).get_scopes())


def test_gladier_gets_authorizers_of_a_service_account(account: tuple[str, str], opened: Opened) -> None:
    manager = AppLoginManager(opened())
    required_by_gladier(manager)
    found = manager.get_manager_authorizers()
    assert manager.is_logged_in()
    scopes = globus_sdk.FlowsClient.scopes
    assert str(globus_sdk.ComputeClientV3.scopes.all) in found
    assert {str(scopes.manage_flows), str(scopes.run_status), FLOW_SCOPE} <= set(found)
    assert found[FLOW_SCOPE].get_authorization_header() != found[str(scopes.manage_flows)].get_authorization_header()


def test_gladier_gets_authorizers_of_a_person_after_a_login(
    person: Identity, opened: Opened, terminal: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = AppLoginManager(opened())
    required_by_gladier(manager)
    assert manager.get_authorizers() == {}
    assert not manager.is_logged_in()
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    with pytest.raises(LoginNeeded, match="no terminal"):
        manager.get_manager_authorizers()
    addresses = terminal()
    assert FLOW_SCOPE in manager.get_manager_authorizers()
    # What a flow's scope depends on has changed: its old tokens are of no use.
    manager.add_scope_change([FLOW_SCOPE])
    manager.get_manager_authorizers()
    assert len(addresses) == 2


def test_gladier_is_told_of_a_scope_that_nobody_has(opened: Opened) -> None:
    manager = AppLoginManager(opened())
    manager.add_requirements(["https://auth.globus.org/scopes/x/unknown"])
    with pytest.raises(GlobusServiceError, match="no client of tomopipe uses the scope"):
        manager.get_authorizers()


# Errors in plain words


def answer(status: int, document: Any, kind: type[globus_sdk.GlobusAPIError]) -> globus_sdk.GlobusAPIError:
    response = requests.Response()
    response.status_code = status
    response.reason = "Reason"
    response.headers["Content-Type"] = "application/json"
    response.raw = io.BytesIO(json.dumps(document).encode())
    response.url = "https://flows.globus.org/"
    response.request = requests.Request("GET", response.url, headers={"Authorization": "Bearer t0ken"}).prepare()
    return kind(response)


def flows_error(code: str, detail: str) -> dict[str, Any]:
    return {"error": {"code": code, "detail": detail}}


def other_error(code: str, message: str, **more: Any) -> dict[str, Any]:
    return {"code": code, "message": message, **more}


AUTH, FLOWS, TRANSFERS, SEARCH, COMPUTE = (
    globus_sdk.AuthAPIError,
    globus_sdk.FlowsAPIError,
    globus_sdk.TransferAPIError,
    globus_sdk.SearchAPIError,
    globus_sdk.ComputeAPIError,
)


@pytest.mark.parametrize(
    ("status", "document", "kind", "expected", "said"),
    [
        (401, flows_error("AUTHENTICATION_ERROR", "Expired"), FLOWS, LoginNeeded,
         r"starting: Globus Flows says 401 AUTHENTICATION_ERROR \(Expired\): .* not accepted; run `tomopipe login`"),
        (403, flows_error("MISSING_SCOPE", "no"), FLOWS, ConsentNeeded, "403 MISSING_SCOPE.*consent is missing"),
        (403, other_error("ConsentRequired", "Missing", required_scopes=[DATA_ACCESS]), TRANSFERS, ConsentNeeded,
         r"Globus Transfer says 403 ConsentRequired .*run `tomopipe login`.*mapped: true"),
        (403, flows_error("FORBIDDEN", "not a starter"), FLOWS, GlobusServiceError,
         r"403 FORBIDDEN \(not a starter\); ask the owner"),
        (404, other_error("EndpointNotFound", "No such"), TRANSFERS, GlobusServiceError,
         r"404 EndpointNotFound \(No such\); check the UUIDs .*`tomopipe deploy`"),
        (409, other_error("Conflict", "busy"), SEARCH, GlobusServiceError, r"Globus Search says 409.*try again"),
        (422, flows_error("UNPROCESSABLE", "label too long"), FLOWS, GlobusServiceError, "label too long.*correct what"),
        (429, other_error("RATE", "slow down"), COMPUTE, GlobusServiceError, "Globus Compute says 429.*wait a minute"),
        (503, other_error("DOWN", "maintenance"), FLOWS, GlobusServiceError, "503.*status.globus.org"),
        (400, {"error": "invalid_grant"}, AUTH, LoginNeeded, "Globus Auth says 400 invalid_grant.*no longer good"),
        (500, ["not", "an", "object"], globus_sdk.GlobusAPIError, GlobusServiceError, r"Globus says 500 \(Reason\)"),
    ],
)  # fmt: skip
def test_answers_are_explained(
    status: int, document: Any, kind: type[globus_sdk.GlobusAPIError], expected: type[GlobusServiceError], said: str
) -> None:
    found = explain_globus_error(answer(status, document, kind), "starting")
    assert type(found) is expected
    assert found.status == status
    assert re.search(said, str(found)), str(found)
    assert "t0ken" not in str(found) and "\n" not in str(found)


def test_a_missing_consent_says_which() -> None:
    document = {"code": "ConsentRequired", "message": "Missing", "required_scopes": [f"{TRANSFER}[*{DATA_ACCESS}]"]}
    found = explain_globus_error(answer(403, document, globus_sdk.TransferAPIError), "listing")
    assert isinstance(found, ConsentNeeded) and found.required_scopes == (f"{TRANSFER}[*{DATA_ACCESS}]",)
    document = {"code": "x", "message": "y", "authorization_parameters": {"required_scopes": [DATA_ACCESS]}}
    found = explain_globus_error(answer(403, document, globus_sdk.TransferAPIError), "listing")
    assert isinstance(found, ConsentNeeded) and found.required_scopes == (DATA_ACCESS,)


def test_credentials_that_a_service_repeats_are_hidden_and_long_words_cut() -> None:
    document = {"code": "Bad", "message": f"header 'Authorization: Bearer abc.def-123' {'x' * 5000}"}
    said = str(explain_globus_error(answer(400, document, globus_sdk.SearchAPIError), "asking"))
    assert "abc.def" not in said and "(hidden)" in said and len(said) < 1300


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (globus_sdk.GlobusTimeoutError("x", TimeoutError()), "did not answer in time"),
        (globus_sdk.GlobusConnectionTimeoutError("x", TimeoutError()), "did not answer in time"),
        (
            globus_sdk.GlobusConnectionError("x", OSError()),
            r"cannot be reached; check this machine's network and proxy",
        ),
        (globus_sdk.NetworkError("x", OSError()), "cannot be reached"),
    ],
)
def test_silence_is_explained(error: globus_sdk.NetworkError, said: str) -> None:
    with pytest.raises(GlobusServiceError, match=f"starting: Globus {said}") as caught, explained("starting"):
        raise error
    assert caught.value.status is None
