"""The stand-in services through the real globus_sdk clients: what they do, and that they refuse what Globus refuses."""

from __future__ import annotations

import time
import urllib.error
import uuid
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import globus_sdk
import pytest
from facility.services.http import ServiceError
from facility.services.login import ScriptedLogin
from facility.services.lucene import QueryError, compile_query, values_of
from facility.services.web import WebServices
from globus_sdk.gare import to_gare
from globus_sdk.scopes import AuthScopes, FlowsScopes, SearchScopes, TransferScopes
from globus_sdk.token_storage import MemoryTokenStorage

ANN, BEN = "ann@example.org", "ben@example.org"
TRANSFER_URL = "https://transfer.actions.globus.org/transfer"
SEARCH_URL = "https://actions.globus.org/search/ingest"
COMPUTE_URL = "https://compute.actions.globus.org/v3"


class Lab:
    """The services, and the clients of whoever uses them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.services = WebServices(folder)
        self.apps: list[globus_sdk.GlobusApp] = []
        self.account, self.secret = self.services.add_service_account()
        self.people = {name: self.services.add_person(name) for name in (ANN, BEN)}
        self.source, self.target = folder / "source", folder / "target"
        self.source.mkdir()
        self.target.mkdir()
        (self.source / "raw.h5").write_bytes(b"projections" * 1000)
        self.beamline = self.services.add_collection("beamline", self.source, mapped=True)
        self.processing = self.services.add_collection("processing", self.target)

    def service_app(self, secret: str | None = None) -> globus_sdk.ClientApp:
        config = globus_sdk.GlobusAppConfig(token_storage=MemoryTokenStorage())
        app = globus_sdk.ClientApp("test", client_id=self.account, client_secret=secret or self.secret, config=config)
        self.apps.append(app)
        return app

    def user_app(self, username: str, refresh: bool = True) -> globus_sdk.UserApp:
        client = globus_sdk.NativeAppAuthClient(self.services.native_client_id)
        login = ScriptedLogin(client, self.services, username, request_refresh_tokens=refresh)
        config = globus_sdk.GlobusAppConfig(
            token_storage=MemoryTokenStorage(), login_flow_manager=login, request_refresh_tokens=refresh
        )
        app = globus_sdk.UserApp("test", login_client=client, config=config)
        self.apps.append(app)
        return app

    def close(self) -> None:
        for app in self.apps:
            app.close()
        self.services.stop()


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    lab = Lab(tmp_path)
    for name, value in lab.services.environment.items():
        monkeypatch.setenv(name, value)
    lab.services.start()
    yield lab
    lab.close()
    assert lab.services.faults == []


def refused(call: Callable[[], Any], status: int, code: str | None) -> globus_sdk.GlobusAPIError:
    with pytest.raises(globus_sdk.GlobusAPIError) as caught:
        call()
    assert (caught.value.http_status, caught.value.code) == (status, code), caught.value.text
    return caught.value


def action(url: str, parameters: dict[str, Any], wait_s: int = 60) -> dict[str, Any]:
    return {
        "StartAt": "Work",
        "States": {
            "Work": {
                "Type": "Action",
                "ActionUrl": url,
                "Parameters": parameters,
                "ResultPath": "$.Work",
                "WaitTime": wait_s,
                "ExceptionOnActionFailure": True,
                "Catch": [{"ErrorEquals": ["States.All"], "ResultPath": "$.Failure", "Next": "Failed"}],
                "End": True,
            },
            "Failed": {"Type": "Fail", "ErrorPath": "$.Failure.Error", "CausePath": "$.Failure.Cause"},
        },
    }


def copy_flow(lab: Lab, source: str, **more: Any) -> dict[str, Any]:
    item = {"source_path": "/raw.h5", "destination_path": "/scan/raw.h5", "recursive": False}
    return action(
        TRANSFER_URL, {"source_endpoint": source, "destination_endpoint": lab.processing, "DATA": [item], **more}
    )


WAIT = {
    "StartAt": "Sleep",
    "States": {"Sleep": {"Type": "Wait", "Seconds": 60, "Next": "Done"}, "Done": {"Type": "Pass", "End": True}},
}
PASS = {"StartAt": "Done", "States": {"Done": {"Type": "Pass", "End": True}}}
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}


def settled(flows: globus_sdk.FlowsClient, run_id: str, timeout_s: float = 10) -> globus_sdk.GlobusHTTPResponse:
    """The run when it is no longer ACTIVE."""
    deadline = time.monotonic() + timeout_s
    while (run := flows.get_run(run_id))["status"] == "ACTIVE" and time.monotonic() < deadline:
        time.sleep(0.02)
    return run


def started(
    app: globus_sdk.GlobusApp, definition: dict[str, Any], collection: str | None = None
) -> tuple[Any, Any, str]:
    """A flow deployed and started: its two clients and the run's id."""
    flows = globus_sdk.FlowsClient(app=app)
    flow_id = flows.create_flow("test", definition, {})["id"]
    flow = globus_sdk.SpecificFlowClient(flow_id, app=app)
    if collection is not None:
        flow.add_app_transfer_data_access_scope(collection)
    return flows, flow, flow.run_flow({}, label="a run")["run_id"]


# --- Auth


def test_a_service_account_gets_tokens_for_its_secret_only(lab: Lab) -> None:
    flows = globus_sdk.FlowsClient(app=lab.service_app())
    assert list(flows.list_flows()) == []
    wrong = globus_sdk.FlowsClient(app=lab.service_app(secret="wrong"))
    refused(wrong.list_flows, 401, "UNAUTHORIZED")
    token = globus_sdk.ConfidentialAppAuthClient(lab.account, lab.secret)
    granted = token.oauth2_client_credentials_tokens([AuthScopes.openid, TransferScopes.all])
    assert granted.decode_id_token()["sub"] == lab.account
    assert set(granted.by_resource_server) == {"auth.globus.org", "transfer.api.globus.org"}
    with pytest.raises(globus_sdk.AuthAPIError, match="Unknown scope") as unknown:
        token.oauth2_client_credentials_tokens("https://auth.globus.org/scopes/nobody/all")
    assert unknown.value.http_status == 400
    token.close()


def test_a_person_logs_in_with_pkce_and_the_sdk_accepts_the_id_token(lab: Lab) -> None:
    app = lab.user_app(ANN)
    auth = globus_sdk.AuthClient(app=app, app_scopes=[AuthScopes.profile, AuthScopes.view_identities])
    assert auth.userinfo()["preferred_username"] == ANN
    assert auth.get_identities(usernames=BEN)["identities"][0]["id"] == lab.people[BEN].id
    refresh = app.token_storage.get_token_data("auth.globus.org").refresh_token
    assert refresh and app.token_storage.identity_id == lab.people[ANN].id
    # An access token that expired is replaced without the person.
    lab.services.expire_tokens()
    assert auth.userinfo()["sub"] == lab.people[ANN].id
    assert sum(one.path == "/v2/oauth2/authorize" for one in lab.services.requests) == 1


def test_a_code_works_once_and_with_its_verifier_only(lab: Lab) -> None:
    client = globus_sdk.NativeAppAuthClient(lab.services.native_client_id)
    client.oauth2_start_flow([AuthScopes.openid])
    code = lab.services.log_in(client.oauth2_get_authorize_url(), ANN)
    assert client.oauth2_exchange_code_for_tokens(code).decode_id_token()["sub"] == lab.people[ANN].id
    refused(lambda: client.oauth2_exchange_code_for_tokens(code), 401, None)
    code = lab.services.log_in(client.oauth2_get_authorize_url(), ANN)
    client.oauth2_start_flow([AuthScopes.openid])  # another verifier
    refused(lambda: client.oauth2_exchange_code_for_tokens(code), 401, None)
    with pytest.raises(urllib.error.HTTPError) as stranger:
        lab.services.log_in(client.oauth2_get_authorize_url(), "nobody@example.org")
    assert stranger.value.code == 400
    stranger.value.close()
    client.close()


def test_a_token_ends_by_expiry_revocation_and_withdrawn_consent(lab: Lab) -> None:
    client = globus_sdk.ConfidentialAppAuthClient(lab.account, lab.secret)

    def flows() -> tuple[str, globus_sdk.FlowsClient]:
        token = client.oauth2_client_credentials_tokens(FlowsScopes.all)["access_token"]
        return token, globus_sdk.FlowsClient(authorizer=globus_sdk.AccessTokenAuthorizer(token))

    for end in (
        lambda token: lab.services.expire_tokens(lab.account),
        client.oauth2_revoke_token,
        lambda token: lab.services.auth.withdraw_consents(lab.account),
    ):
        token, service = flows()
        assert service.list_flows().http_status == 200
        end(token)
        refused(service.list_flows, 401, "AUTHENTICATION_ERROR")
        service.close()
    client.close()


def test_consents_are_a_tree_that_the_sdk_reads(lab: Lab) -> None:
    app = lab.user_app(ANN)
    transfer = globus_sdk.TransferClient(app=app).add_app_data_access_scope(lab.beamline)
    assert [entry["name"] for entry in transfer.operation_ls(lab.beamline, path="/")] == ["raw.h5"]
    auth = globus_sdk.AuthClient(app=app)
    wanted = TransferScopes.all.with_dependency(
        globus_sdk.scopes.GCSCollectionScopes(lab.beamline).data_access.with_optional(True)
    )
    forest = auth.get_consents(lab.people[ANN].id).to_forest()
    assert forest.meets_scope_requirements(wanted)
    other = TransferScopes.all.with_dependency(globus_sdk.scopes.GCSCollectionScopes(lab.processing).data_access)
    assert not forest.meets_scope_requirements(other)
    refused(lambda: auth.get_consents(lab.people[BEN].id), 403, "FORBIDDEN")
    # A guest collection has no data_access.
    with pytest.raises(urllib.error.HTTPError) as unknown:
        globus_sdk.TransferClient(app=app).add_app_data_access_scope(lab.processing).operation_ls(lab.processing)
    assert unknown.value.code == 400
    unknown.value.close()


def test_tokens_of_another_service_or_scope_are_refused(lab: Lab) -> None:
    client = globus_sdk.ConfidentialAppAuthClient(lab.account, lab.secret)

    def authorizer(scope: Any) -> globus_sdk.AccessTokenAuthorizer:
        return globus_sdk.AccessTokenAuthorizer(client.oauth2_client_credentials_tokens(scope)["access_token"])

    cases: list[tuple[Any, Any, str, int, str]] = [
        (globus_sdk.FlowsClient, TransferScopes.all, "list_flows", 401, "AUTHENTICATION_ERROR"),
        (globus_sdk.FlowsClient, FlowsScopes.run_status, "list_flows", 403, "MISSING_SCOPE"),
        (globus_sdk.TransferClient, SearchScopes.all, "task_list", 403, "AuthorizationFailed"),
        (globus_sdk.SearchClient, TransferScopes.all, "index_list", 401, "Unauthorized.Generic"),
        (globus_sdk.AuthClient, TransferScopes.all, "userinfo", 403, "FORBIDDEN"),
    ]
    for kind, scope, method, status, code in cases:
        service = kind(authorizer=authorizer(scope))
        refused(getattr(service, method), status, code)
        service.close()
    search = globus_sdk.SearchClient(authorizer=authorizer(SearchScopes.search))
    refused(lambda: search.create_index("a", "b"), 403, "Forbidden.MissingScope")
    search.close()
    client.close()


# --- Flows


def test_a_flow_is_created_read_changed_listed_and_deleted(lab: Lab) -> None:
    flows = globus_sdk.FlowsClient(app=lab.service_app())
    created = flows.create_flow("first", PASS, SCHEMA, keywords=["a"], flow_starters=["all_authenticated_users"])
    flow_id = created["id"]
    assert created.http_status == 201
    assert created["globus_auth_scope"] == str(globus_sdk.scopes.SpecificFlowScopes(flow_id).user)
    assert created["user_role"] == "flow_owner"
    assert flows.get_flow(flow_id)["input_schema"] == SCHEMA
    changed = flows.update_flow(flow_id, title="second", definition=WAIT)
    assert (changed["title"], changed["definition"], changed["keywords"]) == ("second", WAIT, ["a"])
    assert [flow["title"] for flow in flows.list_flows(filter_fulltext="SECOND")] == ["second"]
    assert [flow["id"] for flow in flows.list_flows(filter_roles="flow_owner")] == [flow_id]
    assert flows.delete_flow(flow_id)["DELETED"] is True
    refused(lambda: flows.get_flow(flow_id), 404, "NOT_FOUND")


def test_a_malformed_flow_is_refused_with_the_places(lab: Lab) -> None:
    flows = globus_sdk.FlowsClient(app=lab.service_app())
    broken = deepcopy(PASS)
    del broken["States"]["Done"]["End"]  # type: ignore[index]
    error = refused(lambda: flows.validate_flow(broken), 422, "UNPROCESSABLE_ENTITY")
    assert error.raw_json["error"]["detail"][0]["loc"] == ["definition", "States", "Done"]
    for more in (
        {"title": "x" * 129},
        {"definition": broken},
        {"input_schema": {"type": "nonsense"}},
        {"flow_administrators": [lab.account]},
        {"flow_viewers": ["all_authenticated_users"]},
        {"run_managers": ["public"]},
        {"additional_fields": {"surprise": 1}},
    ):
        arguments: dict[str, Any] = {"title": "test", "definition": PASS, "input_schema": {}, **more}
        error = refused(lambda arguments=arguments: flows.create_flow(**arguments), 422, "UNPROCESSABLE_ENTITY")
        place = "surprise" if "additional_fields" in more else next(iter(more))
        assert error.raw_json["error"]["detail"][0]["loc"][0] == place
    assert flows.validate_flow(copy_flow(lab, lab.beamline))["scopes"] == {"User": [str(TransferScopes.all)]}


def test_without_a_subscription_a_person_has_one_flow(lab: Lab) -> None:
    flows = globus_sdk.FlowsClient(app=lab.service_app())
    flows.create_flow("first", PASS, {})
    refused(lambda: flows.create_flow("second", PASS, {}), 403, "FORBIDDEN")
    refused(lambda: flows.create_flow("third", PASS, {}, subscription_id=str(uuid.uuid4())), 403, "FORBIDDEN")
    assert flows.create_flow("third", PASS, {}, subscription_id=lab.services.add_subscription()).http_status == 201
    lab.services.flows.free_tier = False
    assert flows.create_flow("second", PASS, {}).http_status == 201


def test_roles_decide_who_sees_starts_and_changes_a_flow(lab: Lab) -> None:
    owner = globus_sdk.FlowsClient(app=lab.service_app())
    flow_id = owner.create_flow("test", PASS, {})["id"]
    app = lab.user_app(ANN)
    flows, flow = globus_sdk.FlowsClient(app=app), globus_sdk.SpecificFlowClient(flow_id, app=app)
    refused(lambda: flows.get_flow(flow_id), 404, "NOT_FOUND")
    refused(lambda: flow.run_flow({}), 404, "NOT_FOUND")
    owner.update_flow(flow_id, flow_viewers=[lab.people[ANN].urn])
    assert flows.get_flow(flow_id)["user_role"] == "flow_viewer"
    assert flows.get_flow(flow_id)["flow_viewers"] == []
    assert "RUN" in refused(lambda: flow.run_flow({}), 403, "FORBIDDEN").text
    owner.update_flow(flow_id, flow_starters=["all_authenticated_users"])
    run_id = flow.run_flow({})["run_id"]
    refused(lambda: flows.update_flow(flow_id, title="mine"), 403, "FORBIDDEN")
    refused(lambda: flows.delete_flow(flow_id), 403, "FORBIDDEN")
    # The flow's owner is not the run's: he sees it where he is a monitor of the flow's runs.
    refused(lambda: owner.get_run(run_id), 404, "NOT_FOUND")
    owner.update_flow(flow_id, flow_administrators=[lab.people[ANN].urn])
    assert flows.update_flow(flow_id, title="ours")["title"] == "ours"


def test_a_run_has_its_record_and_its_log(lab: Lab) -> None:
    flows = globus_sdk.FlowsClient(app=lab.service_app())
    expression = {"who.=": "_context.username", "flow.$": "$._context.flow_id", "by.$": "$._context.user_id"}
    definition = {
        "StartAt": "Eval",
        "States": {"Eval": {"Type": "ExpressionEval", "Parameters": expression, "ResultPath": "$.seen", "End": True}},
    }
    flow_id = flows.create_flow("test", definition, SCHEMA)["id"]
    flow = globus_sdk.SpecificFlowClient(flow_id, app=lab.apps[0])
    run = flow.run_flow({"n": 3}, label="x" * 64, tags=[" two  words ", "b"], run_monitors=[lab.people[ANN].urn])
    assert run.http_status == 201
    assert (run["status"], run["tags"], run["user_role"]) == ("ACTIVE", ["two words", "b"], "run_owner")
    assert run["details"]["details"]["input"] == {"n": 3}
    done = settled(flows, run["run_id"])
    assert (done["status"], done["flow_title"], done["details"]["code"]) == ("SUCCEEDED", "test", "FlowSucceeded")
    assert done["completion_time"] >= done["start_time"]
    seen = done["details"]["output"]["seen"]
    user = f"urn:globus:auth:identity:{lab.account}"
    assert seen == {"who": f"{lab.account}@clients.auth.globus.org", "flow": flow_id, "by": user}
    log = list(flows.paginated.get_run_logs(run["run_id"], limit=2).items())
    assert [entry["code"] for entry in log] == [
        "FlowStarted",
        "ExpressionEvalStarted",
        "ExpressionEvalCompleted",
        "FlowSucceeded",
    ]
    assert log[0]["details"]["input"] == {"n": 3}
    assert next(iter(flows.get_run_logs(run["run_id"], reverse_order=True)))["code"] == "FlowSucceeded"
    assert flows.get_run_definition(run["run_id"])["definition"] == definition
    assert flows.update_run(run["run_id"], label="new", tags=[])["label"] == "new"
    assert flows.delete_run(run["run_id"])["run_id"] == run["run_id"]
    refused(lambda: flows.get_run(run["run_id"]), 404, "NOT_FOUND")


def test_a_run_is_refused_before_it_starts(lab: Lab) -> None:
    app = lab.service_app()
    flows = globus_sdk.FlowsClient(app=app)
    flow_id = flows.create_flow("test", PASS, SCHEMA)["id"]
    flow = globus_sdk.SpecificFlowClient(flow_id, app=app)
    for arguments in (
        {"label": "x" * 65},
        {"label": ""},
        {"tags": ["x" * 65]},
        {"run_managers": ["ann"]},
        {"additional_fields": {"surprise": 1}},
        {"activity_notification_policy": {"status": ["STARTED"]}},
    ):
        refused(lambda arguments=arguments: flow.run_flow({"n": 1}, **arguments), 422, "UNPROCESSABLE_ENTITY")
    error = refused(lambda: flow.run_flow({"n": "three"}), 400, "FLOW_INPUT_ERROR")
    assert error.raw_json["error"]["detail"] == [
        {"loc": ["$.n"], "type": "InvalidActionInput", "msg": "'three' is not of type 'integer'"}
    ]
    refused(lambda: flow.validate_run({}), 400, "FLOW_INPUT_ERROR")
    assert flow.validate_run({"n": 1})["message"] == "validation successful"
    # A token of the Flows service is not one of the flow.
    refused(lambda: flows.post(f"/flows/{flow_id}/run", data={"body": {"n": 1}}), 403, "MISSING_SCOPE")
    assert lab.services.runs == []


def test_runs_are_listed_by_filter_order_and_page(lab: Lab) -> None:
    app = lab.service_app()
    flows = globus_sdk.FlowsClient(app=app)
    flow_id = flows.create_flow("test", PASS, {})["id"]
    flow = globus_sdk.SpecificFlowClient(flow_id, app=app)
    ids = [flow.run_flow({}, label=f"run {number:02d}")["run_id"] for number in range(23)]
    for run_id in ids:
        settled(flows, run_id)
    assert [run["run_id"] for run in flows.list_runs()] == ids[:2:-1]
    assert len(list(flows.paginated.list_runs(filter_flow_id=flow_id).items())) == 23
    assert list(flows.list_runs(query_params={"filter_status": "ACTIVE,INACTIVE"})) == []
    first = next(iter(flows.list_runs(query_params={"orderby": "label ASC"})))
    assert first["run_id"] == ids[0]
    assert list(flows.list_runs(filter_flow_id=str(uuid.uuid4()))) == []
    refused(lambda: flows.list_runs(query_params={"filter_tags": "a"}), 400, "BAD_REQUEST")
    assert list(globus_sdk.FlowsClient(app=lab.user_app(BEN)).list_runs()) == []


def test_a_cancelled_run_is_a_failed_one(lab: Lab) -> None:
    flows, _, run_id = started(lab.service_app(), WAIT)
    refused(lambda: flows.delete_run(run_id), 409, "STATE_CONFLICT")
    cancelled = flows.cancel_run(run_id)
    assert (cancelled["status"], cancelled["details"]["code"]) == ("FAILED", "FlowCanceled")
    assert next(iter(flows.get_run_logs(run_id, reverse_order=True)))["code"] == "FlowCanceled"
    refused(lambda: flows.cancel_run(run_id), 409, "STATE_CONFLICT")


def test_managers_and_monitors_of_a_run(lab: Lab) -> None:
    app = lab.service_app()
    flows = globus_sdk.FlowsClient(app=app)
    flow_id = flows.create_flow("test", WAIT, {}, run_managers=[lab.people[BEN].urn])["id"]
    flow = globus_sdk.SpecificFlowClient(flow_id, app=app)
    run_id = flow.run_flow({}, run_monitors=[lab.people[ANN].urn])["run_id"]
    ann, ben = (globus_sdk.FlowsClient(app=lab.user_app(name)) for name in (ANN, BEN))
    seen = ann.get_run(run_id)
    assert (seen["user_role"], seen["run_monitors"]) == ("run_monitor", [])
    refused(lambda: ann.cancel_run(run_id), 403, "FORBIDDEN")
    assert ben.get_run(run_id)["run_monitors"] == [lab.people[ANN].urn]
    assert ben.cancel_run(run_id)["user_role"] == "flow_run_manager"


# --- The Transfer action


def test_a_run_without_data_access_waits_inactive_until_it_is_resumed(lab: Lab) -> None:
    app = lab.user_app(ANN)
    flows, flow, run_id = started(app, copy_flow(lab, lab.beamline))
    run = settled(flows, run_id)
    assert (run["status"], run["details"]["code"]) == ("INACTIVE", "ConsentRequired")
    gare = to_gare(run["details"])
    assert gare is not None
    (required,) = gare.authorization_parameters.required_scopes or []
    assert required.startswith(str(flow.scopes.user)) and f"{lab.beamline}/data_access" in required
    # Resumed without the consent it is INACTIVE again.
    flow.resume_run(run_id)
    assert settled(flows, run_id)["status"] == "INACTIVE"
    flow.add_app_transfer_data_access_scope(lab.beamline)
    assert flow.resume_run(run_id)["status"] == "ACTIVE"
    assert settled(flows, run_id)["status"] == "SUCCEEDED"
    assert (lab.target / "scan" / "raw.h5").read_bytes() == (lab.source / "raw.h5").read_bytes()
    refused(lambda: flow.resume_run(run_id), 409, "STATE_CONFLICT")


def test_a_run_with_the_consent_needs_no_resuming(lab: Lab) -> None:
    flows, _, run_id = started(lab.service_app(), copy_flow(lab, lab.beamline, label="copy"), lab.beamline)
    run = settled(flows, run_id)
    assert run["status"] == "SUCCEEDED", run["details"]
    details = run["details"]["output"]["Work"]["details"]
    assert (details["status"], details["files"]) == ("SUCCEEDED", 1)
    assert run["details"]["output"]["Work"]["creator_id"] == run["run_owner"]
    transfer = globus_sdk.TransferClient(app=lab.apps[0])
    assert transfer.get_task(details["task_id"])["label"] == "copy"


def test_an_inactive_run_can_be_cancelled_and_resumed_by_its_owner_only(lab: Lab) -> None:
    flows, flow, run_id = started(lab.user_app(ANN), copy_flow(lab, lab.beamline))
    assert settled(flows, run_id)["status"] == "INACTIVE"
    flows.update_run(run_id, run_managers=[lab.people[BEN].urn])
    flows.update_flow(flow._flow_id, flow_starters=[lab.people[BEN].urn])
    ben = globus_sdk.SpecificFlowClient(flow._flow_id, app=lab.user_app(BEN))
    refused(lambda: ben.resume_run(run_id), 403, "FORBIDDEN")
    assert flows.cancel_run(run_id)["details"]["code"] == "FlowCanceled"


def test_a_new_action_of_a_flow_needs_a_new_consent(lab: Lab) -> None:
    app = lab.user_app(ANN)
    flows, flow, run_id = started(app, PASS)
    assert settled(flows, run_id)["status"] == "SUCCEEDED"
    guest = lab.services.add_collection("guest", lab.source)
    flows.update_flow(flow._flow_id, definition=copy_flow(lab, guest))
    run_id = flow.run_flow({})["run_id"]
    run = settled(flows, run_id)
    assert (run["status"], run["details"]["required_scope"]) == (
        "INACTIVE",
        f"{flow.scopes.user}[{TransferScopes.all}]",
    )
    app.login(force=True)
    flow.resume_run(run_id)
    assert settled(flows, run_id)["status"] == "SUCCEEDED"


def test_a_service_account_must_log_in_again_for_an_added_consent(lab: Lab) -> None:
    app = lab.service_app()
    flows, flow, run_id = started(app, copy_flow(lab, lab.beamline))
    assert settled(flows, run_id)["status"] == "INACTIVE"
    # The SDK knows no identity of a service account here, and so never asks for the consents that it lacks.
    flow.add_app_transfer_data_access_scope(lab.beamline)
    flow.resume_run(run_id)
    assert settled(flows, run_id)["status"] == "INACTIVE"
    app.login(force=True)
    flow.resume_run(run_id)
    assert settled(flows, run_id)["status"] == "SUCCEEDED"


def test_the_transfer_action_refuses_and_fails_as_the_service_does(lab: Lab) -> None:
    lab.services.flows.free_tier = False
    app = lab.service_app()
    guest = lab.services.add_collection("guest", lab.source)
    cases = [
        (copy_flow(lab, str(uuid.uuid4())), "ActionUnableToRun", "EndpointNotFound"),
        (copy_flow(lab, guest, transfer_items=[]), "ActionUnableToRun", "transfer_items: unknown field"),
        (
            copy_flow(lab, guest, DATA=[{"source_path": "/no", "destination_path": "/b"}]),
            "ActionFailedException",
            "NOT_FOUND",
        ),
    ]
    for definition, error, cause in cases:
        flows, _, run_id = started(app, definition)
        run = settled(flows, run_id)
        assert run["status"] == "FAILED"
        assert run["details"]["error"] == error
        assert cause in run["details"]["cause"]
    lab.services.corrupt_next_transfer()
    flows, _, run_id = started(app, copy_flow(lab, guest))
    assert "VERIFY_CHECKSUM" in settled(flows, run_id)["details"]["cause"]
    assert not (lab.target / "scan" / "raw.h5").exists()
    lab.services.transfer.allow_only(guest, lab.people[ANN].id)
    flows, _, run_id = started(app, copy_flow(lab, guest))
    assert "PermissionDenied" in settled(flows, run_id)["details"]["cause"]


def test_a_paused_collection_holds_a_transfer(lab: Lab) -> None:
    lab.services.flows.free_tier = False
    guest = lab.services.add_collection("guest", lab.source)
    lab.services.pause_collection(guest)
    definition = copy_flow(lab, guest)
    definition["States"]["Work"]["WaitTime"] = 1
    flows, _, late = started(lab.service_app(), definition)
    flows, _, run_id = started(lab.apps[0], copy_flow(lab, guest))
    assert settled(flows, late)["details"]["error"] == "ActionTimeout"
    assert flows.get_run(run_id)["status"] == "ACTIVE"
    lab.services.pause_collection(guest, False)
    assert settled(flows, run_id)["status"] == "SUCCEEDED"


# --- The Search and Compute actions


def ingest_flow(index: str, **more: Any) -> dict[str, Any]:
    entry = {"subject": "scan-1", "visible_to": ["public"], "content": {"porosity": 0.5}, "search_index": index}
    return action(SEARCH_URL, {**entry, **more})


def test_the_ingest_action_needs_a_writer_of_the_index(lab: Lab) -> None:
    lab.services.flows.free_tier = False
    search = globus_sdk.SearchClient(app=lab.service_app(), app_scopes=[SearchScopes.all])
    index = search.create_index("test", "an index")["id"]
    ann = lab.user_app(ANN)
    flows, _, run_id = started(ann, ingest_flow(index))
    assert "Forbidden" in settled(flows, run_id)["details"]["cause"]
    search.create_role(index, {"role_name": "writer", "principal": lab.people[ANN].urn})
    flows, _, run_id = started(ann, ingest_flow(index))
    run = settled(flows, run_id)
    assert run["details"]["output"]["Work"]["details"]["state"] == "SUCCESS", run["details"]
    assert search.get_subject(index, "scan-1")["entries"][0]["content"] == {"porosity": 0.5}
    flows, _, run_id = started(ann, ingest_flow(index, content={"porosity": "high"}))
    assert "a field keeps its first type" in settled(flows, run_id)["details"]["cause"]
    flows, _, run_id = started(ann, ingest_flow(index, surprise=1))
    assert "surprise: unknown field" in settled(flows, run_id)["details"]["cause"]


class Compute:
    """A Compute part of one function: it adds, or fails."""

    prefixes = ("/v3/",)

    def __init__(self) -> None:
        self.tasks: dict[str, Any] = {}
        self.callers: list[str] = []

    def handle(self, request: Any) -> Any:
        raise ServiceError(404, {})

    def submit_tasks(self, endpoint: str, tasks: list[Any], config: Any, caller: Any) -> list[str]:
        self.callers.append(caller.username)
        if endpoint == str(uuid.UUID(int=0)):
            raise ServiceError(404, {"code": "ENDPOINT_NOT_FOUND"})
        ids = []
        for _, args, kwargs in tasks:
            ids.append(str(uuid.uuid4()))
            failed = kwargs.get("fail", False)
            outcome = {"exception": "Traceback\nline\nValueError: no"} if failed else {"result": sum(args)}
            self.tasks[ids[-1]] = {"status": "failed" if failed else "success", **outcome}
        return ids

    def task(self, task_id: str) -> Any:
        return self.tasks[task_id]


def test_the_compute_action_submits_and_gives_the_outcomes(lab: Lab) -> None:
    lab.services.flows.free_tier = False
    compute = Compute()
    lab.services.mount_compute(compute)
    task = {"function_id": str(uuid.uuid4()), "args": [1, 2], "kwargs": {}}

    def run(**body: Any) -> Any:
        parameters = {"endpoint_id": str(uuid.uuid4()), "tasks": [task], **body}
        flows, _, run_id = started(lab.apps[0], action(COMPUTE_URL, parameters))
        return settled(flows, run_id)

    lab.service_app()
    done = run(tasks=[task, {**task, "args": [5]}])
    assert [one["output"] for one in done["details"]["output"]["Work"]["details"]["results"]] == [3, 5]
    failing = {**task, "kwargs": {"fail": True}}
    cause = run(tasks=[task] + [failing] * 5)["details"]["cause"]
    assert cause.count("Traceback") == 3
    assert cause.count("ValueError: no") == 5
    assert '"output": 3' in cause
    assert "unknown field" in run(payload={})["details"]["cause"]
    assert "ENDPOINT_NOT_FOUND" in run(endpoint_id=str(uuid.UUID(int=0)))["details"]["cause"]
    assert set(compute.callers) == {f"{lab.account}@clients.auth.globus.org"}


def test_the_compute_action_refuses_a_large_payload() -> None:
    from facility.services.compute_action import PAYLOAD_BYTES_MAX, _problems

    task = {"function_id": str(uuid.uuid4()), "kwargs": {"text": "x" * PAYLOAD_BYTES_MAX}}
    (problem,) = _problems({"endpoint_id": str(uuid.uuid4()), "tasks": [task]})
    assert "payload" in problem


# --- The Transfer API


def test_transfers_listings_and_folders(lab: Lab) -> None:
    app = lab.user_app(ANN)
    transfer = globus_sdk.TransferClient(app=app)
    error = refused(lambda: transfer.operation_ls(lab.beamline, path="/"), 403, "ConsentRequired")
    assert error.info.consent_required.required_scopes == [
        f"{TransferScopes.all}[*{globus_sdk.scopes.GCSCollectionScopes(lab.beamline).data_access}]"
    ]
    transfer.add_app_data_access_scope(lab.beamline)
    (raw,) = transfer.operation_ls(lab.beamline, path="/")
    assert (raw["name"], raw["type"], raw["size"]) == ("raw.h5", "file", 11000)
    data = globus_sdk.TransferData(lab.beamline, lab.processing, label="copy", sync_level="checksum")
    data.add_item("/raw.h5", "/in/raw.h5")
    accepted = transfer.submit_transfer(data)
    assert accepted["code"] == "Accepted"
    assert transfer.task_wait(accepted["task_id"], timeout=10, polling_interval=1)
    task = transfer.get_task(accepted["task_id"])
    assert (task["status"], task["files"], task["bytes_transferred"]) == ("SUCCEEDED", 1, 11000)
    assert [event["code"] for event in transfer.task_event_list(accepted["task_id"])] == ["SUCCEEDED", "STARTED"]
    # The same submission again is the same task.
    assert transfer.submit_transfer(data)["task_id"] == accepted["task_id"]
    assert len(transfer.task_list()["DATA"]) == 1
    transfer.operation_mkdir(lab.processing, "/new")
    refused(lambda: transfer.operation_mkdir(lab.processing, "/new"), 502, "ExternalError.MkdirFailed.Exists")
    assert transfer.operation_stat(lab.processing, "/new")["type"] == "dir"
    delete = globus_sdk.DeleteData(lab.processing, recursive=True)
    delete.add_item("/in")
    assert transfer.task_wait(transfer.submit_delete(delete)["task_id"], timeout=10, polling_interval=1)
    assert not (lab.target / "in").exists()


def test_what_transfer_refuses(lab: Lab) -> None:
    transfer = globus_sdk.TransferClient(app=lab.service_app())
    guest, mapped = transfer.get_endpoint(lab.processing), transfer.get_endpoint(lab.beamline)
    assert (guest["entity_type"], mapped["entity_type"]) == ("GCSv5_guest_collection", "GCSv5_mapped_collection")
    refused(lambda: transfer.get_endpoint(str(uuid.uuid4())), 404, "EndpointNotFound")
    refused(lambda: transfer.operation_ls(lab.processing, path="/none"), 404, "ClientError.NotFound")
    refused(lambda: transfer.operation_ls(lab.processing, path="/../source"), 403, "PermissionDenied")
    refused(lambda: transfer.get_task(str(uuid.uuid4())), 404, "TaskNotFound")
    empty = globus_sdk.TransferData(lab.processing, lab.processing)
    refused(lambda: transfer.submit_transfer(empty), 400, "ClientError.BadRequest.NoTransferItems")
    empty["DATA"].append({"DATA_TYPE": "transfer_item", "source_path": "/a", "destination_path": "/b", "surprise": 1})
    refused(lambda: transfer.submit_transfer(empty), 400, "ClientError.BadRequest")


# --- Search


def ingest(search: globus_sdk.SearchClient, index: str, *entries: dict[str, Any]) -> globus_sdk.GlobusHTTPResponse:
    """Ingest, and the task when it has ended."""
    data = {"ingest_type": "GMetaList", "ingest_data": {"gmeta": list(entries)}}
    task_id = search.ingest(index, data)["task_id"]
    deadline = time.monotonic() + 5
    while (task := search.get_task(task_id))["state"] == "PENDING" and time.monotonic() < deadline:
        time.sleep(0.01)
    return task


def entry(subject: str, content: dict[str, Any], visible_to: str = "public") -> dict[str, Any]:
    return {"subject": subject, "visible_to": [visible_to], "content": content}


def test_an_index_takes_and_finds_entries(lab: Lab) -> None:
    search = globus_sdk.SearchClient(app=lab.service_app(), app_scopes=[SearchScopes.all])
    index = search.create_index("test", "an index")["id"]
    assert ingest(search, index, entry("a", {"m": {"n": 1.5}, "name": "a brick"}))["state"] == "SUCCESS"
    ingest(search, index, entry("b", {"m": {"n": 2.5}}, lab.people[ANN].urn))
    ingest(search, index, entry("c", {"m": {"n": 3.5}}, "all_authenticated_users"))

    def found(client: globus_sdk.SearchClient, query: str, **more: Any) -> list[str]:
        body = {"q": query, "advanced": True, **more}
        return [hit["subject"] for hit in client.post_search(index, body)["gmeta"]]

    assert found(search, "m.n:>1") == ["a", "c"]
    ann = globus_sdk.SearchClient(app=lab.user_app(ANN))
    assert found(ann, "m.n:>1") == ["a", "b", "c"]
    assert found(ann, "*", sort=[{"field_name": "m.n", "order": "desc"}], limit=2) == ["c", "b"]
    assert found(ann, "*", filters=[{"type": "range", "field_name": "m.n", "values": [{"from": 2, "to": 3}]}]) == ["b"]
    with globus_sdk.SearchClient() as stranger:
        assert found(stranger, "*") == ["a"]
        assert [hit["subject"] for hit in stranger.search(index, "brick")["gmeta"]] == ["a"]
        refused(lambda: stranger.get_subject(index, "b"), 404, "NotFound.Generic")
    assert ann.get_entry(index, "b")["entries"][0]["content"] == {"m": {"n": 2.5}}
    page = ann.post_search(index, {"q": "*", "limit": 2})
    assert (page["count"], page["total"], page["has_next_page"]) == (2, 3, True)
    search.delete_subject(index, "a")
    deadline = time.monotonic() + 5
    while found(search, "*") != ["c"] and time.monotonic() < deadline:
        time.sleep(0.01)
    assert found(search, "*") == ["c"]


def test_what_search_refuses(lab: Lab) -> None:
    search = globus_sdk.SearchClient(app=lab.service_app(), app_scopes=[SearchScopes.all])
    index = search.create_index("test", "an index")["id"]
    ann = globus_sdk.SearchClient(app=lab.user_app(ANN), app_scopes=[SearchScopes.all])
    refused(lambda: ingest(ann, index, entry("a", {"n": 1})), 403, "Forbidden.Generic")
    refused(lambda: ann.get_role_list(index), 403, "Forbidden.Generic")
    search.create_role(index, {"role_name": "admin", "principal": lab.people[ANN].urn})
    owner = {"role_name": "owner", "principal": lab.people[BEN].urn}
    refused(lambda: ann.create_role(index, owner), 403, "Forbidden.Generic")
    assert [role["role_name"] for role in ann.get_role_list(index)["role_list"]] == ["owner", "admin"]
    refused(lambda: search.get_index(str(uuid.uuid4())), 404, "NotFound.Generic")
    ingest(search, index, entry("a", {"n": 1}))
    task = ingest(search, index, entry("b", {"n": "one"}))
    assert task["state"] == "FAILED" and "n: the index holds it as integer" in task["message"]
    for wrong in ({**entry("a", {}), "visible_to": ["ann"]}, {**entry("a", {}), "surprise": 1}, entry("x" * 501, {})):
        refused(lambda wrong=wrong: ingest(search, index, wrong), 400, "BadRequest.ValidationError")
    for body in ({}, {"q": "*", "limit": 0}, {"q": "*", "surprise": 1}):
        refused(lambda body=body: search.post_search(index, body), 400, "BadRequest.ValidationError")
    refused(lambda: search.post_search(index, {"q": "n:(", "advanced": True}), 400, "BadRequest.QueryParseError")
    for number in range(2):
        search.create_index(f"more {number}", "another")
    error = refused(lambda: search.create_index("too many", "a fourth"), 409, "Conflict.LimitExceeded")
    assert "limit (3)" in error.raw_json["error_data"]["constraint"]
    search.delete_index(index)
    refused(lambda: search.post_search(index, {"q": "*"}), 409, "Conflict.IncompatibleIndexStatus")
    assert len(search.index_list()["index_list"]) == 3


TYPES = {"m.n": "float", "name": "text", "made": "date", "ok": "boolean", "tags": "text"}
CONTENT = {
    "m": {"n": 1.5},
    "name": "Bentheimer sand-stone (core 7)",
    "made": "2026-11-22T10:00:00Z",
    "ok": True,
    "tags": ["x_1", "y"],
}


@pytest.mark.parametrize(
    ("query", "matches"),
    [
        ("*", True),
        ("bentheimer", True),
        ("bent*", True),
        ("bent", False),
        ('"sand stone"', True),
        ('"stone sand"', False),
        ("sand\\-paper", True),
        ('name:"core 7"', True),
        ("name:x_1", False),
        ("tags:x_1 AND ok:true", True),
        ("NOT tags:x_1", False),
        ("m.n:1.5", True),
        ("m.n:>1.5", False),
        ("m.n:>=1.5", True),
        ("m.n:[1 TO 1.5]", True),
        ("m.n:[1 TO 1.5}", False),
        ("m.n:{1.5 TO *}", False),
        ("m.n:<=1 OR m.n:[1.2 TO *]", True),
        ("(m.n:<1 OR name:core) AND NOT ok:false", True),
        ("made:2026-11-22", True),
        ("made:[2026-11-01 TO 2026-11-22]", True),
        ("made:>2026-11-22", False),
        ("_exists_:m.n", True),
        ("_exists_:m.k", False),
        ("m.k:>1", False),
        ("name:(core OR nothing)", True),
        ("nothing core", True),
    ],
)
def test_the_query_language(query: str, matches: bool) -> None:
    assert compile_query(query, TYPES)(values_of(CONTENT)) is matches


@pytest.mark.parametrize(
    "query",
    [
        "a AND",
        "(a",
        "a)",
        '"a',
        "a AND b OR c",
        "-a",
        "a/b",
        "*a",
        "m.n:many",
        "made:soon",
        "m.n:[1 2]",
        ">1",
        "name:>a",
        "m*:1",
        "",
        "a\\",
    ],
)
def test_what_the_query_language_refuses(query: str) -> None:
    with pytest.raises(QueryError):
        compile_query(query, TYPES)


# --- Faults and the log


def test_planned_faults_and_lost_answers(lab: Lab) -> None:
    app = lab.service_app()
    flows = globus_sdk.FlowsClient(app=app)
    flow_id = flows.create_flow("test", PASS, {})["id"]
    flow = globus_sdk.SpecificFlowClient(flow_id, app=app)
    lab.services.fail_next(418, prefix="/flows", method="GET")
    refused(flows.list_flows, 418, "FAULT")
    assert flows.list_flows().http_status == 200
    flow.retry_config.max_retries = 0
    lab.services.lose_next_answer(prefix="/flows", method="POST")
    with pytest.raises(globus_sdk.NetworkError):
        flow.run_flow({}, label="lost")
    # What was asked has been done: who asks again has two runs.
    assert [run.label for run in lab.services.runs] == ["lost"]


def test_the_log_of_requests_holds_no_secrets(lab: Lab) -> None:
    app = lab.user_app(ANN)
    globus_sdk.FlowsClient(app=app).list_flows()
    shown = repr(lab.services.requests)
    codes = [token for token in (lab.secret, *lab.services.auth._access, *lab.services.auth._refresh) if token in shown]
    assert codes == []
    assert ("GET", "/flows", 200, ANN) in [
        (one.method, one.path, one.status, one.username) for one in lab.services.requests
    ]
    assert all(one.query.get("code", "...") == "..." for one in lab.services.requests)
