"""Deploying: what reaches the services, that again changes nothing, that Gladier's traps do not bite."""

from __future__ import annotations

import json
import stat
import time
import uuid
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import globus_sdk
import jsonschema
import pytest
import yaml
from small_facility import SmallFacility

from tomopipe.flows import gladier_managers
from tomopipe.flows.deploy import (
    deploy,
    deployed_defaults,
    deployed_functions,
    deployed_schema,
    deployment_client,
    find_flow_id,
)
from tomopipe.flows.deployment import Deployment, load_deployment
from tomopipe.flows.gladier_managers import FlowRefused, RunWaits, changed_fields, registration
from tomopipe.flows.login import GlobusServiceError, Services
from tomopipe.flows.request import FUNCTIONS, FlowInput, all_functions_digest, function_digests
from tomopipe.flows.tomography import flow_definition
from tomopipe.functions import stages
from tomopipe.functions.errors import ParameterError
from tomopipe.functions.parameters import validate_model

SOURCE, PROCESSING, SHARE, ENDPOINT, INDEX, GROUP = (str(uuid.UUID(int=number)) for number in range(1, 7))
GROUP_URN = f"urn:globus:groups:id:{GROUP}"
IDS = {name: str(uuid.UUID(int=100 + index)) for index, name in enumerate(FUNCTIONS)}


@pytest.fixture
def facility(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallFacility]:
    with SmallFacility(tmp_path, monkeypatch) as made:
        yield made


def deployment_file(folder: Path, **changes: Any) -> Path:
    values: dict[str, Any] = {
        "format": "tomopipe-deployment/1",
        "title": "A test",
        "source": {"collection": SOURCE, "path": "/2026-3"},
        "processing": {
            "collection": PROCESSING,
            "path": "/results",
            "host_path": "/eagle/results",
            "https_url": "https://g-1.data.globus.org",
        },
        "compute": {"endpoint": ENDPOINT, "user_endpoint_config": {"queue": "debug"}, "wait_hours": 2},
        "visible_to": [GROUP_URN],
        "parameters": {"reconstruction": {"center": 1021.5}},
        **changes,
    }
    file = folder / "beamline.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return file


@pytest.fixture
def unplaced(tmp_path: Path) -> Deployment:
    return load_deployment(deployment_file(tmp_path))


def fields_of(schema: dict[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = schema["properties"]["input"]
    return fields


def actions(report: Any) -> list[tuple[str, str]]:
    return [(change.what, change.action) for change in report.changes]


# --- The form


def test_defaults_with_a_scan_make_a_run(unplaced: Deployment) -> None:
    schema = deployed_schema(unplaced, IDS, INDEX)
    values = {name: field["default"] for name, field in fields_of(schema)["properties"].items() if "default" in field}
    values |= {"scan": {"id": values["scan"]["id"], "path": "/2026-3/scan_7.h5"}, "scan_id": "scan_7"}
    made = validate_model(FlowInput, values, "form")
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate({"input": values}, schema)
    assert made.processing_root == "/eagle/results"
    assert made.results_url == "https://g-1.data.globus.org/results"
    assert made.parameters.reconstruction.center == 1021.5
    assert made.functions_digest == all_functions_digest()
    assert "destination" not in values


def test_the_share_is_where_results_are_copied(tmp_path: Path) -> None:
    shared = load_deployment(deployment_file(tmp_path, share={"collection": SHARE, "path": "/for-users"}))
    assert fields_of(deployed_schema(shared, IDS, INDEX))["properties"]["destination"]["default"] == {
        "id": SHARE,
        "path": "/for-users",
    }


def test_technical_fields_come_last_and_say_so(unplaced: Deployment) -> None:
    fields = fields_of(deployed_schema(unplaced, IDS, INDEX))
    order = fields["propertyOrder"]
    said = [
        fields["properties"][name].get("description", "").startswith("Filled in by the deployment") for name in order
    ]
    assert order[:2] == ["scan", "scan_id"]
    assert sorted(order) == sorted(fields["properties"])
    assert said == sorted(said)
    assert {"compute_endpoint", "search_index", "version", "inspect_function_id"} <= set(order[said.index(True) :])


def test_each_function_field_ends_with_its_digest(unplaced: Deployment) -> None:
    found = deployed_functions({"id": "f", "input_schema": deployed_schema(unplaced, IDS, INDEX)})
    assert {name: function.digest for name, function in found.items()} == function_digests()
    assert {name: function.id for name, function in found.items()} == IDS


def test_a_root_as_source_starts_the_picker_by_itself(tmp_path: Path) -> None:
    rooted = load_deployment(deployment_file(tmp_path, source={"collection": SOURCE, "path": "/"}))
    assert fields_of(deployed_schema(rooted, IDS, INDEX))["properties"]["scan"]["default"] == {"id": SOURCE}


def test_defaults_that_no_run_could_have_are_refused_with_the_file(tmp_path: Path) -> None:
    long = "/" + "x" * 300
    bad = load_deployment(
        deployment_file(tmp_path, processing={"collection": PROCESSING, "path": "/r", "host_path": long})
    )
    with pytest.raises(ParameterError, match=r"beamline\.yaml.*processing_root"):
        deployed_schema(bad, IDS, INDEX)


# --- What counts as a difference


def test_what_the_service_fills_in_or_reorders_is_no_difference() -> None:
    definition = flow_definition()
    wanted = {
        "title": "t",
        "subtitle": "",
        "definition": definition,
        "flow_starters": ["b", "a"],
        "keywords": ["x", "y"],
    }
    filled_in = deepcopy(definition)
    filled_in["States"]["TransferScan"]["ActionScope"] = "https://auth.globus.org/scopes/x/y"
    flow = {
        "title": "t",
        "subtitle": None,
        "definition": json.loads(json.dumps(filled_in)),
        "flow_starters": ["a", "b"],
        "keywords": ["y", "x"],
        "description": "not asked for",
    }
    assert changed_fields(wanted, flow) == {}


@pytest.mark.parametrize(
    ("field", "there"),
    [
        ("title", "u"),
        ("flow_starters", ["a", "b"]),
        ("subscription_id", None),
        ("definition", {"StartAt": "A", "States": {}}),
    ],
)
def test_a_real_difference_is_sent_alone(field: str, there: Any) -> None:
    wanted = {"title": "t", "definition": flow_definition(), "flow_starters": ["a"], "subscription_id": SOURCE}
    assert changed_fields(wanted, wanted | {field: there}) == {field: wanted[field]}


def test_a_shorter_wait_is_a_difference() -> None:
    changed = changed_fields({"definition": flow_definition(compute_wait_s=60)}, {"definition": flow_definition()})
    assert list(changed) == ["definition"]


def test_functions_travel_as_source_text() -> None:
    document = registration(stages.reconstruct, "said")
    assert "def reconstruct(" in document["function_code"]
    assert document["meta"]["serde_identifier"] == "st"
    assert document["public"] is True


# --- Deploying


def test_deploy_makes_everything_and_again_changes_nothing(facility: SmallFacility) -> None:
    first = deploy(facility.deployment, facility.services)
    typed = ("types of the search index", "fixed")
    assert actions(first) == [("search index", "created"), typed, ("functions", "registered"), ("flow", "created")]
    # The record that fixed the types is gone again: nobody finds it.
    index = facility.services.search.get_index(first.index_id or "")
    assert index["num_subjects"] == 0
    assert facility.services.search.search(first.index_id or "", "*")["total"] == 0
    assert first.changed
    writes = facility.writes()
    again = deploy(facility.deployment, facility.services)
    assert actions(again) == [("search index", "kept"), ("functions", "kept"), ("flow", "kept")]
    assert not again.changed
    assert facility.writes() == writes
    assert (again.flow_id, again.index_id, again.function_ids) == (first.flow_id, first.index_id, first.function_ids)


def test_what_the_flow_says_of_itself(facility: SmallFacility) -> None:
    starter = f"urn:globus:auth:identity:{uuid.uuid4()}"
    facility.rewrite(
        people={"starters": [starter], "monitors": [GROUP_URN]}, flow={"title": "Foams", "keywords": ["foam"]}
    )
    report = deploy(facility.deployment, facility.services)
    flow = facility.services.flows.get_flow(report.flow_id).data
    assert flow["title"] == "Foams"
    assert {"tomopipe", "foam"} <= set(flow["keywords"])
    assert flow["flow_starters"] == flow["flow_viewers"] == [starter]
    assert flow["run_monitors"] == [GROUP_URN]
    waits = {s["WaitTime"] for s in flow["definition"]["States"].values() if "compute" in s.get("ActionUrl", "")}
    assert waits == {round(facility.deployment.compute.wait_hours * 3600)}


def test_who_may_start_may_write_to_an_index_that_was_made(facility: SmallFacility) -> None:
    starters = [f"urn:globus:auth:identity:{uuid.uuid4()}" for _ in range(2)]
    facility.rewrite(people={"starters": starters[:1]})
    report = deploy(facility.deployment, facility.services)
    facility.rewrite(people={"starters": starters})
    assert ("writers of the search index", "would be added") in actions(
        deploy(facility.deployment, facility.services, dry_run=True)
    )
    assert [
        c.detail for c in deploy(facility.deployment, facility.services).changes if c.action == "added"
    ] == starters[1:]
    roles = facility.services.search.get_role_list(report.index_id)["role_list"]
    assert {role["principal"] for role in roles if role["role_name"] == "writer"} == set(starters)
    assert not deploy(facility.deployment, facility.services).changed


def test_an_index_that_the_file_names_is_left_as_it_is(facility: SmallFacility) -> None:
    named = facility.services.search.create_index("named", "by hand")["id"]
    facility.rewrite(search={"index": named}, people={"starters": [GROUP_URN]})
    assert deploy(facility.deployment, facility.services).index_id == named
    assert len(facility.services.search.get_role_list(named)["role_list"]) == 1


def test_an_index_that_is_being_deleted_is_made_again(facility: SmallFacility) -> None:
    first = deploy(facility.deployment, facility.services)
    facility.services.search.delete_index(first.index_id)
    again = deploy(facility.deployment, facility.services)
    assert again.index_id not in (None, first.index_id)
    assert f"{first.index_id} is gone" in again.changes[0].detail
    assert deployed_defaults(facility.services, str(again.flow_id))["search_index"] == again.index_id


def test_more_trial_indices_than_allowed_is_said_with_the_key(facility: SmallFacility) -> None:
    for number in range(facility.web.search.trial_limit):
        facility.services.search.create_index(f"index {number}", "of another project")
    with pytest.raises(ParameterError, match=r"small\.yaml: search\.index"):
        deploy(facility.deployment, facility.services)


def test_a_wrong_file_makes_nothing(facility: SmallFacility) -> None:
    facility.rewrite(processing={"host_path": "/" + "x" * 300})
    with pytest.raises(ParameterError, match="processing_root"):
        deploy(facility.deployment, facility.services)
    assert facility.services.search.index_list()["index_list"] == []


def test_as_many_people_and_keywords_as_a_file_may_name_reach_the_service(facility: SmallFacility) -> None:
    people = [f"urn:globus:auth:identity:{uuid.uuid4()}" for _ in range(16)]
    # With a name of a hundred letters, the longest that there is.
    keywords = [f"{number}" + "k" * 127 for number in range(6)] + ["k" * 119]
    facility.rewrite(
        people={"starters": people[:8], "viewers": people[8:], "monitors": people, "administrators": people},
        flow={"keywords": keywords},
    )
    longest = facility.folder / f"{'n' * 100}.yaml"
    longest.write_text(Path(facility.deployment.file).read_text())
    report = deploy(load_deployment(longest), facility.services)
    flow = facility.services.flows.get_flow(report.flow_id)
    assert sorted(flow["flow_viewers"]) == sorted(people)
    assert sum(len(word) + 1 for word in flow["keywords"]) == 1024
    facility.rewrite()
    with pytest.raises(ParameterError, match=r"small\.yaml: flow\.keywords=.*894 is the most"):
        facility.rewrite(flow={"keywords": [*keywords[:-1], "k" * 120]})


def test_the_subscription_is_given_on_create_and_on_update(facility: SmallFacility) -> None:
    first, second = str(uuid.uuid4()), str(uuid.uuid4())
    facility.web.flows.subscriptions |= {first, second}
    for subscription in (first, second):
        facility.rewrite(flow={"subscription_id": subscription})
        report = deploy(facility.deployment, facility.services)
        assert facility.services.flows.get_flow(report.flow_id)["subscription_id"] == subscription


def test_a_second_flow_without_subscription_is_refused_with_the_key(facility: SmallFacility) -> None:
    facility.services.flows.create_flow(
        "Mine", {"StartAt": "A", "States": {"A": {"Type": "Pass", "End": True}}}, {"type": "object"}
    )
    with pytest.raises(FlowRefused, match=r"only have 1 flow.*flow\.subscription_id"):
        deploy(facility.deployment, facility.services)


def test_only_what_differs_is_sent(facility: SmallFacility) -> None:
    first = deploy(facility.deployment, facility.services)
    facility.rewrite(flow={"title": "Another title"})
    report = deploy(facility.deployment, facility.services)
    assert actions(report)[-1] == ("flow", "updated")
    assert report.changes[-1].detail == f"{first.flow_id}: title"
    assert report.flow_id == first.flow_id


def test_a_changed_default_names_the_field(facility: SmallFacility) -> None:
    deploy(facility.deployment, facility.services)
    facility.rewrite(compute={"user_endpoint_config": {"queue": "other"}})
    report = deploy(facility.deployment, facility.services)
    assert "input_schema (user_endpoint_config)" in report.changes[-1].detail
    assert deployed_defaults(facility.services, str(report.flow_id))["user_endpoint_config"] == {"queue": "other"}


def test_a_dry_run_changes_nothing_here_and_there(facility: SmallFacility) -> None:
    before = facility.writes(), sorted(facility.home.rglob("*"))
    report = deploy(facility.deployment, facility.services, dry_run=True)
    assert actions(report) == [
        ("search index", "would be created"),
        ("functions", "would be registered"),
        ("flow", "would be created"),
    ]
    assert (report.flow_id, report.index_id) == (None, None)
    assert (facility.writes(), sorted(facility.home.rglob("*"))) == before
    deploy(facility.deployment, facility.services)
    facility.rewrite(flow={"title": "Another title"})
    before = facility.writes(), {path: path.stat().st_mtime_ns for path in facility.home.rglob("*")}
    report = deploy(facility.deployment, facility.services, dry_run=True)
    assert actions(report)[-1] == ("flow", "would be updated")
    assert (facility.writes(), {path: path.stat().st_mtime_ns for path in facility.home.rglob("*")}) == before


def test_one_changed_function_is_registered_alone(facility: SmallFacility, monkeypatch: pytest.MonkeyPatch) -> None:
    first = deploy(facility.deployment, facility.services)
    digests = function_digests() | {"denoise": f"sha256:{'0' * 64}"}
    monkeypatch.setattr(gladier_managers, "function_digests", lambda: digests)
    monkeypatch.setattr("tomopipe.flows.deploy.function_digests", lambda: digests)
    report = deploy(facility.deployment, facility.services)
    changed = {name for name in FUNCTIONS if report.function_ids[name] != first.function_ids[name]}
    assert changed == {"denoise"}
    assert [change.detail for change in report.changes if change.action == "registered"] == ["denoise"]


def test_another_machine_finds_flow_index_and_functions(facility: SmallFacility) -> None:
    first = deploy(facility.deployment, facility.services)
    facility.forget()
    writes = facility.writes()
    assert find_flow_id(facility.deployment, facility.services) == first.flow_id
    again = deploy(facility.deployment, facility.services)
    assert not again.changed
    assert (again.flow_id, again.index_id) == (first.flow_id, first.index_id)
    assert facility.writes() == writes
    assert find_flow_id(facility.deployment) == first.flow_id


def become_another(facility: SmallFacility, monkeypatch: pytest.MonkeyPatch) -> str:
    """URN of somebody else, who from now on asks, on another machine."""
    facility.client_id, facility.secret = facility.web.add_service_account()
    facility.set_environment(monkeypatch)
    facility.forget()
    return f"urn:globus:auth:identity:{facility.client_id}"


def owner_of(facility: SmallFacility) -> str:
    return facility.services.whoami().urn


def test_an_administrator_deploys_to_the_same_flow_and_index(
    facility: SmallFacility, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, starter = owner_of(facility), f"urn:globus:auth:identity:{uuid.uuid4()}"
    first = deploy(facility.deployment, facility.services)
    named = become_another(facility, monkeypatch)
    with facility.log_in() as another, pytest.raises(ParameterError, match="no flow is known"):
        find_flow_id(facility.deployment, another)
    facility.rewrite(people={"administrators": [named]})
    deploy(facility.deployment, facility.services)
    facility.forget()
    facility.rewrite(people={"administrators": [named], "starters": [starter]}, flow={"title": "Another title"})
    with facility.log_in() as another:
        # Nobody starts the runs of a flow of somebody else only because that one named them as administrator.
        with pytest.raises(ParameterError, match="no flow is known"):
            find_flow_id(facility.deployment, another)
        report = deploy(facility.deployment, another)
        assert find_flow_id(facility.deployment, another) == first.flow_id
        assert not deploy(facility.deployment, another).changed
    assert (report.flow_id, report.index_id) == (first.flow_id, first.index_id)
    assert actions(report)[-1] == ("flow", "updated")
    assert f"{first.flow_id} of {owner}: title" in report.changes[-1].detail
    flow = facility.services.flows.get_flow(report.flow_id)
    assert (flow["title"], flow["flow_owner"]) == ("Another title", owner)
    held = {
        (r["principal"], r["role_name"]) for r in facility.services.search.get_role_list(report.index_id)["role_list"]
    }
    assert held == {(owner, "owner"), (named, "admin"), (starter, "writer")}


def test_a_writer_who_becomes_administrator_may_open_the_index(facility: SmallFacility) -> None:
    person = f"urn:globus:auth:identity:{uuid.uuid4()}"
    facility.rewrite(people={"starters": [person]})
    deploy(facility.deployment, facility.services)
    facility.rewrite(people={"starters": [person], "administrators": [person]})
    added = [c.detail for c in deploy(facility.deployment, facility.services).changes if c.action == "added"]
    assert added == [f"{person} as admin"]
    assert not deploy(facility.deployment, facility.services).changed


def warnings(report: Any) -> list[str]:
    return [change.detail for change in report.changes if change.action == "warning"]


def test_who_may_start_but_not_publish_is_warned_of(facility: SmallFacility) -> None:
    facility.rewrite(people={"starters": ["all_authenticated_users", GROUP_URN]})
    tried = deploy(facility.deployment, facility.services, dry_run=True)
    assert len(warnings(tried)) == 1
    first = deploy(facility.deployment, facility.services)
    [said] = warnings(first)
    assert "everybody may start" in said
    assert "people.starters" in said
    again = deploy(facility.deployment, facility.services)
    assert warnings(again) == [said]
    assert not again.changed
    facility.rewrite(people={"starters": [GROUP_URN]})
    assert warnings(deploy(facility.deployment, facility.services)) == []


def test_an_index_of_the_file_that_starters_may_not_write_to_is_warned_of(
    facility: SmallFacility, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = facility.services.search.create_index("named", "by hand")["id"]
    facility.rewrite(search={"index": named}, people={"starters": [GROUP_URN]})
    [said] = warnings(deploy(facility.deployment, facility.services))
    assert said.startswith(f"{GROUP_URN} may start the flow")
    assert named in said
    facility.services.search.create_role(named, {"role_name": "writer", "principal": GROUP_URN})
    assert warnings(deploy(facility.deployment, facility.services)) == []
    # Somebody who may not even see who may write.
    facility.web.flows.free_tier = False
    become_another(facility, monkeypatch)
    with facility.log_in() as another:
        [said] = warnings(deploy(facility.deployment, another))
    assert "which cannot be seen" in said


def test_two_files_of_one_name_do_not_take_each_others_flow(facility: SmallFacility, tmp_path: Path) -> None:
    first = deploy(facility.deployment, facility.services)
    here = Path(facility.deployment.file)
    there = tmp_path / "elsewhere" / here.name
    there.parent.mkdir()
    there.write_text(here.read_text())
    twin = load_deployment(there)
    writes, note = facility.writes(), (facility.home / "deployed" / "small.json").read_text()
    for attempt in (
        lambda: deploy(twin, facility.services),
        lambda: deploy(twin, facility.services, dry_run=True),
        lambda: find_flow_id(twin),
    ):
        with pytest.raises(ParameterError, match=r"elsewhere/small\.yaml: another file.*flow\.id") as refusal:
            attempt()
        assert str(here) in str(refusal.value)
    assert facility.writes() == writes
    # Where it names the flow it is the same one on purpose, and the first file's note stays the first's.
    there.write_text(here.read_text() + f"flow: {{id: {first.flow_id}}}\n")
    twin = load_deployment(there)
    assert find_flow_id(twin) == first.flow_id
    assert deploy(twin, facility.services).flow_id == first.flow_id
    assert (facility.home / "deployed" / "small.json").read_text() == note
    # A file that was moved takes its flow along.
    there.write_text(here.read_text())
    here.unlink()
    twin = load_deployment(there)
    assert deploy(twin, facility.services).flow_id == first.flow_id
    assert json.loads((facility.home / "deployed" / "small.json").read_text())["file"] == str(there)


def test_two_flows_of_one_name_are_an_error_that_names_them(facility: SmallFacility) -> None:
    first = deploy(facility.deployment, facility.services)
    facility.web.flows.free_tier = False
    flow = facility.services.flows.get_flow(first.flow_id).data
    second = facility.services.flows.create_flow(
        "Twin", flow["definition"], flow["input_schema"], keywords=flow["keywords"]
    )
    facility.forget()
    with pytest.raises(ParameterError, match=r"flow\.id") as refusal:
        deploy(facility.deployment, facility.services)
    assert str(first.flow_id) in str(refusal.value)
    assert second["id"] in str(refusal.value)
    facility.rewrite(flow={"id": first.flow_id})
    assert deploy(facility.deployment, facility.services).flow_id == first.flow_id


def test_the_flow_of_somebody_else_is_left_alone(facility: SmallFacility) -> None:
    other = facility.services.flows.create_flow(
        "Mine", {"StartAt": "A", "States": {"A": {"Type": "Pass", "End": True}}}, {"type": "object"}
    )
    facility.rewrite(flow={"id": other["id"]})
    with pytest.raises(ParameterError, match="not deployed by tomopipe"):
        deploy(facility.deployment, facility.services)
    assert facility.services.flows.get_flow(other["id"])["title"] == "Mine"


def test_a_named_flow_or_index_that_is_not_there_is_an_error(facility: SmallFacility) -> None:
    facility.rewrite(flow={"id": str(uuid.uuid4())})
    with pytest.raises(ParameterError, match=r"flow\.id="):
        deploy(facility.deployment, facility.services)
    facility.rewrite(flow={}, search={"index": str(uuid.uuid4())})
    with pytest.raises(ParameterError, match=r"search\.index="):
        deploy(facility.deployment, facility.services)


def test_a_flow_that_is_gone_is_made_again(facility: SmallFacility) -> None:
    first = deploy(facility.deployment, facility.services)
    facility.services.flows.delete_flow(first.flow_id)
    again = deploy(facility.deployment, facility.services)
    assert actions(again) == [("search index", "kept"), ("functions", "kept"), ("flow", "created")]
    assert again.flow_id != first.flow_id
    assert find_flow_id(facility.deployment) == again.flow_id


@pytest.mark.parametrize("published", [False, True], ids=["empty", "in use"])
@pytest.mark.parametrize("forget", [False, True], ids=["noted", "another machine"])
def test_the_record_of_types_that_a_crash_left_goes_away(
    facility: SmallFacility, monkeypatch: pytest.MonkeyPatch, forget: bool, published: bool
) -> None:
    def crashing(self: Any, index_id: str, subject: str, **more: Any) -> Any:
        raise KeyboardInterrupt

    ingested: list[str] = []
    ingest = globus_sdk.SearchClient.ingest

    def ingesting(self: Any, index_id: str, data: Any) -> Any:
        # From here on nothing is deleted any more.
        monkeypatch.setattr(globus_sdk.SearchClient, "delete_subject", crashing)
        ingested.append(index_id)
        return ingest(self, index_id, data)

    with monkeypatch.context() as patch:
        patch.setattr(globus_sdk.SearchClient, "ingest", ingesting)
        with pytest.raises(KeyboardInterrupt):
            deploy(facility.deployment, facility.services)
    monkeypatch.undo()
    facility.set_environment(monkeypatch)
    search = facility.services.search
    assert search.get_index(ingested[0])["num_subjects"] == 1
    if forget:
        facility.forget()
    if published:
        ingest_and_wait(facility, ingested[0], "scan 1", {"format": "tomopipe-document/2"})
    report = deploy(facility.deployment, facility.services)
    assert report.index_id == ingested[0]
    assert search.get_index(report.index_id)["num_subjects"] == published
    # What holds records already has its types.
    assert (("types of the search index", "fixed") in actions(report)) is not published


@pytest.mark.parametrize(
    ("prefix", "method", "expected"),
    [
        ("/v1/index", "POST", "created"),
        ("/flows", "POST", "created"),
    ],
)
def test_an_answer_that_is_lost_makes_no_second_one(
    facility: SmallFacility, prefix: str, method: str, expected: str
) -> None:
    if prefix == "/flows":
        # The first POST below /flows is the service's check of the definition.
        facility.lose_answer_to_creating_the_flow()
    else:
        facility.web.lose_next_answer(prefix=prefix, method=method)
    with pytest.raises(GlobusServiceError):
        deploy(facility.deployment, facility.services)
    report = deploy(facility.deployment, facility.services)
    assert len(list(facility.services.flows.list_flows(filter_roles="flow_owner"))) == 1
    assert len(facility.services.search.index_list()["index_list"]) == 1
    assert not deploy(facility.deployment, facility.services).changed
    assert report.flow_id


def test_a_crash_among_the_functions_registers_none_twice(
    facility: SmallFacility, monkeypatch: pytest.MonkeyPatch
) -> None:
    register = globus_sdk.ComputeClientV3.register_function
    left = iter(range(5))

    def crashing(self: Any, data: dict[str, Any]) -> Any:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return register(self, data)

    monkeypatch.setattr(globus_sdk.ComputeClientV3, "register_function", crashing)
    with pytest.raises(KeyboardInterrupt):
        deploy(facility.deployment, facility.services)
    monkeypatch.undo()
    facility.set_environment(monkeypatch)
    deploy(facility.deployment, facility.services)
    assert sorted(document["function_name"] for document in facility.compute.functions.values()) == sorted(FUNCTIONS)


def test_noted_functions_that_are_gone_are_registered(facility: SmallFacility) -> None:
    first = deploy(facility.deployment, facility.services)
    facility.services.flows.delete_flow(first.flow_id)
    facility.compute.functions.clear()
    again = deploy(facility.deployment, facility.services)
    assert set(again.function_ids.values()) == set(facility.compute.functions)


def test_the_note_is_private_and_says_what_is_deployed(facility: SmallFacility) -> None:
    report = deploy(facility.deployment, facility.services)
    folder = facility.home / "deployed"
    note = json.loads((folder / f"{facility.deployment.name}.json").read_text())
    assert (note["flow_id"], note["index_id"]) == (report.flow_id, report.index_id)
    assert set(note) == {"file", "flow_id", "index_id", "version", "deployed_at", "typed_index"}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    written = [path.read_text() for path in folder.iterdir() if path.is_file()]
    assert not any(token in text for token in facility.tokens() for text in written)


def test_a_broken_note_is_named(facility: SmallFacility) -> None:
    note = facility.home / "deployed" / f"{facility.deployment.name}.json"
    note.parent.mkdir()
    note.write_text("{")
    with pytest.raises(ParameterError, match="delete it and deploy again"):
        deploy(facility.deployment, facility.services)


def test_a_wrong_definition_is_refused_before_anything_is_sent(
    facility: SmallFacility, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = flow_definition()
    wrong["States"]["Inspect"]["Next"] = "Nowhere"
    monkeypatch.setattr("tomopipe.flows.deploy.flow_definition", lambda compute_wait_s: wrong)
    with pytest.raises(FlowRefused, match="Nowhere"):
        deploy(facility.deployment, facility.services)
    assert list(facility.services.flows.list_flows(filter_roles="flow_owner")) == []


def test_without_a_flow_the_error_says_what_to_do(facility: SmallFacility) -> None:
    with pytest.raises(ParameterError, match=f"tomopipe deploy {facility.deployment.file}"):
        find_flow_id(facility.deployment)


def test_the_defaults_of_another_flow_are_none_of_ours(facility: SmallFacility) -> None:
    other = facility.services.flows.create_flow(
        "Mine", {"StartAt": "A", "States": {"A": {"Type": "Pass", "End": True}}}, {"type": "object"}
    )
    with pytest.raises(ParameterError, match="not deployed by tomopipe"):
        deployed_defaults(facility.services, other["id"])


# --- Gladier with our managers


def gladier_client(facility: SmallFacility, services: Services) -> Any:
    return deployment_client(facility.deployment, services, facility.home / "gladier.cfg")


def test_gladier_itself_deploys_and_runs(facility: SmallFacility, tmp_path: Path) -> None:
    deploy(facility.deployment, facility.services)
    defaults = deployed_defaults(facility.services, find_flow_id(facility.deployment))
    facility.forget()
    facility.services.flows.delete_flow(find_flow_id(facility.deployment, facility.services))
    client = gladier_client(facility, facility.services)
    ids = client.get_input()["input"]
    assert set(ids) == {f"{name}_function_id" for name in FUNCTIONS}
    given = {name: value for name, value in defaults.items() if name not in ids}
    given |= {"scan": {"id": defaults["scan"]["id"], "path": "/none.h5"}, "scan_id": "none"}
    run = client.run_flow(flow_input={"input": given}, label="by Gladier " + "x" * 80, tags=["t"])
    client.progress(run["run_id"], callback=lambda status: None, delay=0.05)
    done = client.get_status(run["run_id"])
    assert done["status"] == "FAILED"
    assert done["details"]["output"]["FailedStage"] == {"name": "TransferScan"}
    assert len(done["label"]) == 64
    writes = facility.writes()
    client.sync_flow()
    gladier_client(facility, facility.services).sync_flow()
    assert facility.writes() == writes


def test_gladier_leaves_the_form_of_a_deployed_flow_as_it_is(facility: SmallFacility) -> None:
    report = deploy(facility.deployment, facility.services)
    defaults = deployed_defaults(facility.services, str(report.flow_id))
    flow = facility.services.flows.get_flow(report.flow_id).data
    client = deployment_client(facility.deployment, facility.services, facility.home / "gladier.cfg", flow)
    writes = facility.writes()
    place = {"id": defaults["scan"]["id"], "path": "/none.h5"}
    run = client.run_flow(flow_input={"input": {**defaults, "scan": place, "scan_id": "none"}})
    assert facility.writes() == [*writes, ("POST", f"/flows/{report.flow_id}/run")]
    assert run["flow_id"] == report.flow_id
    client.progress(run["run_id"], callback=lambda status: None, delay=0.05)
    assert facility.web.runs[-1].input["input"]["inspect_function_id"] == report.function_ids["inspect"]


def test_following_a_run_that_waits_ends(facility: SmallFacility, monkeypatch: pytest.MonkeyPatch) -> None:
    client = gladier_client(facility, facility.services)
    monkeypatch.setattr(client.flows_manager, "get_status", lambda run_id: {"status": "INACTIVE"})
    with pytest.raises(RunWaits, match=r"https://app\.globus\.org/runs/7"):
        client.progress("7", callback=lambda status: None)


def test_gladiers_old_file_of_the_user_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gladier.storage.migrations import MigrateOldConfigFile

    old = tmp_path / ".gladier-secrets.cfg"
    old.write_text("[general]\nversion = 0.8.0\n[tokens]\na = b\n")
    monkeypatch.setattr(MigrateOldConfigFile, "old_cfg", old)
    flow_definition()
    assert old.exists()


def ingest_and_wait(facility: SmallFacility, index: str, subject: str, content: dict[str, Any]) -> None:
    search = facility.services.search
    entry = {"subject": subject, "visible_to": ["public"], "content": content}
    task = search.ingest(index, {"ingest_type": "GMetaEntry", "ingest_data": entry})["task_id"]
    deadline = time.monotonic() + 10
    while search.get_task(task)["state"] not in ("SUCCESS", "FAILED") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert search.get_task(task)["state"] == "SUCCESS", content


def test_the_first_record_fixes_no_type_by_chance(facility: SmallFacility) -> None:
    index = deploy(facility.deployment, facility.services).index_id or ""
    for number, sample in enumerate(("2026-11-22", "shale")):
        ingest_and_wait(facility, index, f"scan {number}", {"scan": {"sample": sample}})
