"""Deployments: what their files may hold, how they build on each other, paths both ways, and what is refused how."""

from __future__ import annotations

import copy
import re
from pathlib import Path, PurePosixPath
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from tomopipe.flows.deployment import (
    FORMAT,
    Collection,
    Deployment,
    deployment_names,
    deployment_schema,
    load_deployment,
)
from tomopipe.flows.request import input_schema
from tomopipe.functions.errors import ParameterError

A, B, C = (f"{digit * 8}-{digit * 4}-4{digit * 3}-8{digit * 3}-{digit * 12}" for digit in "123")
GROUP = f"urn:globus:groups:id:{C}"
EAGLE = "05d2c76a-e867-4f67-aa57-76edeb0beda0"
SHIPPED = ("aurora", "loopback", "polaris", "polaris-own")

URNS = [f"urn:globus:auth:identity:{number:08d}-0000-4000-8000-000000000000" for number in range(17)]

FILLED: dict[str, Any] = {
    "format": FORMAT,
    "title": "The beamline",
    "source": {"collection": A, "path": "/data", "host_path": "/local/data"},
    "processing": {"collection": B, "path": "/Project/tomography", "host_path": "/eagle/Project/tomography"},
    "compute": {"endpoint": C, "user_endpoint_config": {"account": "Project", "queue": "debug"}},
    "visible_to": [GROUP],
}


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    (home / "deployments").mkdir(parents=True)
    monkeypatch.setenv("TOMOPIPE_HOME", str(home))
    return home


def write(path: Path, values: Any) -> Path:
    path.write_text(values if isinstance(values, str) else yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    return path


def changed(**changes: Any) -> dict[str, Any]:
    """The filled deployment with dotted keys (dots written as __) set; `...` takes a key away."""
    values = copy.deepcopy(FILLED)
    for dotted, value in changes.items():
        *sections, key = dotted.split("__")
        section = values
        for name in sections:
            section = section.setdefault(name, {})
        if value is ...:
            del section[key]
        else:
            section[key] = value
    return values


def refusal(path: Path) -> str:
    with pytest.raises(ParameterError) as caught:
        load_deployment(path)
    return str(caught.value)


# What a file gives


def test_a_filled_file_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "2bm.yaml", changed(parameters={"reconstruction": {"algorithm": "gridrec"}}))
    found = load_deployment(str(path))
    assert (found.name, found.file) == ("2bm", str(path))
    assert found.source.to_collection_path("/local/data/a.h5") == "/data/a.h5"
    assert found.processing.host_path == "/eagle/Project/tomography"
    assert found.compute.user_endpoint_config == {"account": "Project", "queue": "debug"}
    assert found.compute.wait_hours == 168
    assert found.share is None and found.search.index is None and found.flow.id is None
    assert found.parameters.model_dump(exclude_unset=True) == {"reconstruction": {"algorithm": "gridrec"}}
    assert (found.mapped_collections, found.results_url) == ((), "")
    assert not {"name", "file"} & set(found.model_dump())


def test_mapped_collections_are_named_once(tmp_path: Path) -> None:
    share = {"collection": A, "path": "/share", "mapped": True}
    values = changed(source__mapped=True, processing__mapped=True, processing__collection=A, share=share)
    assert load_deployment(write(tmp_path / "a.yaml", values)).mapped_collections == (A,)
    values = changed(source__mapped=True, processing__mapped=True)
    assert load_deployment(write(tmp_path / "a.yaml", values)).mapped_collections == (A, B)


def test_who_starts_a_flow_sees_it(tmp_path: Path) -> None:
    people = {"viewers": URNS[:8], "starters": [*URNS[7:15], "all_authenticated_users"]}
    found = load_deployment(write(tmp_path / "a.yaml", changed(people=people))).people
    assert found.flow_viewers == [*URNS[:15], "public"]


@pytest.mark.parametrize("key", ["monitors", "managers", "starters", "administrators", "viewers"])
def test_each_list_of_people_takes_as_many_as_the_service(key: str, tmp_path: Path) -> None:
    most = load_deployment(write(tmp_path / "a.yaml", changed(people={key: URNS[:16]}))).people
    assert getattr(most, key) == URNS[:16]
    assert f"people.{key}=" in refusal(write(tmp_path / "a.yaml", changed(people={key: URNS})))
    section = deployment_schema()["$defs"]["People"]["properties"][key]
    assert section["maxItems"] == 16


def test_results_have_an_address_that_a_browser_takes(tmp_path: Path) -> None:
    values = changed(processing__https_url="https://g-1.data.globus.org/", processing__path="/My Project/50%")
    found = load_deployment(write(tmp_path / "a.yaml", values))
    assert found.results_url == "https://g-1.data.globus.org/My%20Project/50%25"


# Names and what extends what


def test_names_are_ones_own_and_the_shipped(own_home: Path) -> None:
    assert tuple(deployment_names()) == SHIPPED
    own = write(own_home / "deployments" / "2bm.yaml", FILLED)
    hiding = write(own_home / "deployments" / "polaris.yml", FILLED)
    names = deployment_names()
    assert set(names) == {*SHIPPED, "2bm"}
    assert (names["2bm"], names["polaris"]) == (own, hiding)
    assert load_deployment("2bm").file == str(own)
    assert load_deployment("polaris").file == str(hiding)


def test_a_file_takes_over_and_changes_a_shipped_one(own_home: Path) -> None:
    mine = {
        "extends": "polaris",
        "source": {"collection": A, "path": "/data", "host_path": "/local/data"},
        "processing": {"path": "/Project/tomography", "host_path": "/eagle/Project/tomography"},
        "compute": {
            "user_endpoint_config": {"account": "Project", "worker_init": "export TMPDIR=/tmp", "queue": "demand"}
        },
        "visible_to": [GROUP],
        "people": {"monitors": [GROUP]},
    }
    write(own_home / "deployments" / "7bm.yaml", mine)
    found = load_deployment("7bm")
    assert found.name == "7bm"
    assert found.title == "Polaris, through the ALCF's shared endpoint"
    assert found.processing.collection == EAGLE and found.processing.mapped
    assert found.compute.endpoint == "9a947ba5-f537-4681-acf3-cc66485aadec"
    config = found.compute.user_endpoint_config
    assert (config["account"], config["queue"]) == ("Project", "demand")
    assert (config["walltime"], config["max_workers_per_node"]) == ("1:00:00", 1)
    assert config["scheduler_options"] == "#PBS -l filesystems=home:eagle"
    assert found.people.monitors == [GROUP]
    assert found.mapped_collections == (EAGLE,)


def test_a_file_may_have_the_name_of_the_shipped_one_that_it_extends(own_home: Path) -> None:
    write(own_home / "deployments" / "loopback.yaml", {**FILLED, "extends": "loopback", "visible_to": ["public"]})
    found = load_deployment("loopback")
    assert found.visible_to == ["public"] and found.compute.wait_hours == 1


def test_a_file_extends_another_by_a_path_beside_it(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", FILLED)
    top = write(tmp_path / "top.yml", {"extends": "./base.yaml", "visible_to": ["public"], "source": {"mapped": True}})
    found = load_deployment(top)
    assert (found.visible_to, found.source.collection, found.source.mapped) == (["public"], A, True)


def test_lists_are_replaced_and_null_opens_a_hole_again(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", changed(visible_to=[GROUP, "public"], compute__user_endpoint_config={"list": [1, 2]}))
    over = {"extends": "./base.yaml", "visible_to": ["public"], "compute": {"user_endpoint_config": {"list": [3]}}}
    found = load_deployment(write(tmp_path / "top.yaml", over))
    assert (found.visible_to, found.compute.user_endpoint_config) == (["public"], {"list": [3]})
    write(tmp_path / "top.yaml", {**over, "visible_to": None})
    assert "visible_to" in refusal(tmp_path / "top.yaml")


def test_files_that_extend_each_other_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", {"extends": "./b.yaml"})
    write(tmp_path / "b.yaml", {"extends": "./a.yaml"})
    said = refusal(tmp_path / "a.yaml")
    assert "b.yaml: extends: the files extend each other" in said and said.count("a.yaml") == 2
    write(tmp_path / "own.yaml", {"extends": "./own.yaml"})
    assert "extend each other" in refusal(tmp_path / "own.yaml")


def test_unknown_names_list_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(
        ParameterError, match=r"deployment 'polari': .*did you mean polaris\? known are aurora, loopback"
    ):
        load_deployment("polari")
    said = refusal(write(tmp_path / "a.yaml", {"extends": "nowhere"}))
    assert said.startswith(f"{tmp_path}/a.yaml: extends='nowhere'") and "polaris-own" in said
    assert "no such file" in refusal(write(tmp_path / "a.yaml", {"extends": "./missing.yaml"}))
    assert "extends=5" in refusal(write(tmp_path / "a.yaml", {"extends": 5}))
    with pytest.raises(ParameterError, match=r"missing\.yaml: there is no such file"):
        load_deployment(tmp_path / "missing.yaml")


# The shipped files


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_file_is_sound_but_for_its_holes(name: str) -> None:
    assert load_deployment(name, allow_holes=True).name == name
    with pytest.raises(ParameterError) as caught:
        load_deployment(name)
    first, *holes = str(caught.value).splitlines()
    assert f"extends: {name}" in first
    assert f"{len(holes)} values are still to be filled in" in first
    for hole in holes:
        # The file, the key, and enough words to know what to write.
        assert re.match(rf"/.*/deployments/{name}\.yaml: [a-z_]+(\.[a-z_]+)*: .{{20,}}", hole), hole


def filled_over(name: str) -> dict[str, Any]:
    values = {"extends": name, **copy.deepcopy(FILLED)}
    values["compute"]["user_endpoint_config"] |= {"worker_init": "export TMPDIR=/tmp"}
    del values["format"], values["title"]
    if name == "polaris":
        del values["processing"]["collection"], values["compute"]["endpoint"]
    return values


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_file_works_once_filled(name: str, tmp_path: Path) -> None:
    found = load_deployment(write(tmp_path / "mine.yaml", filled_over(name)))
    # Text, as the endpoints' templates want it: a number would be YAML's reading of 1:00:00.
    assert found.compute.user_endpoint_config.get("walltime", "1:00:00") == "1:00:00"
    assert found.processing.mapped is (name in ("polaris", "aurora"))


def test_polaris_leaves_open_what_only_the_user_knows() -> None:
    with pytest.raises(ParameterError) as caught:
        load_deployment("polaris")
    keys = [line.split(": ")[1] for line in str(caught.value).splitlines()[1:]]
    assert keys == [
        "source.collection",
        "source.path",
        "processing.path",
        "processing.host_path",
        "compute.user_endpoint_config.account",
        "compute.user_endpoint_config.worker_init",
        "visible_to",
    ]


def test_polaris_maps_a_project_on_the_node_to_the_project_on_the_collection(tmp_path: Path) -> None:
    found = load_deployment(write(tmp_path / "mine.yaml", filled_over("polaris")))
    on_collection = found.processing.to_collection_path("/eagle/Project/tomography/scan_1/run.json")
    assert on_collection == "/Project/tomography/scan_1/run.json"
    assert found.processing.to_host_path(on_collection) == "/eagle/Project/tomography/scan_1/run.json"


def test_holes_are_none_where_they_are_allowed(tmp_path: Path) -> None:
    found = load_deployment("polaris", allow_holes=True)
    assert found.source.collection is None and found.visible_to is None  # type: ignore[comparison-overlap, unreachable]
    assert found.processing.collection == EAGLE and found.processing.path is None  # type: ignore[unreachable]
    # What is filled in must be right all the same.
    path = write(tmp_path / "a.yaml", {"extends": "polaris", "compute": {"endpoint": "elsewhere"}})
    with pytest.raises(ParameterError, match=r"a\.yaml: compute\.endpoint='elsewhere': is not a UUID"):
        load_deployment(path, allow_holes=True)


def test_an_almost_empty_file_gets_all_its_holes_in_one_message(tmp_path: Path) -> None:
    said = refusal(write(tmp_path / "mine.yaml", {"title": "x", "share": {"mapped": True}}))
    for key in ("format", "source.collection", "processing.host_path", "compute.endpoint", "visible_to", "share.path"):
        assert f"{tmp_path}/mine.yaml: {key}: " in said
    assert "Write them into that file" in said


# What is refused, and how


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (changed(compute__endpoint="12345"), r"compute\.endpoint='12345': is not a UUID; copy it"),
        (changed(source__colection=A), r"unknown key source\.colection; did you mean source\.collection\?"),
        (changed(visibleto=["public"]), r"unknown key visibleto; did you mean visible_to\?"),
        (changed(zebra=1), r"unknown key zebra; known are compute, description"),
        (changed(name="x"), r"unknown key name; .*rename the file"),
        (changed(visible_to=["public", "me"]), r"visible_to\[1\]='me': names nobody"),
        (changed(visible_to=[]), r"visible_to=\[\]: list should have at least 1 item"),
        (changed(people__managers=["public"]), r"people\.managers=\['public'\]: 'public' is not possible here; take URNs"),
        (changed(people__starters=["public"]), r"people\.starters=.*or 'all_authenticated_users'"),
        (changed(people__monitors=URNS), r"people\.monitors=.*: are 17, and the service takes 16; put them into a group"),
        (changed(people__starters=URNS[:9], people__viewers=URNS[9:]), r"people\.viewers=.*: are 17 with people\.starters"),
        (changed(people__starters=["all_authenticated_users"], people__viewers=URNS[1:]), r"people\.viewers=.*: are 17 "),
        (changed(flow__keywords=["k" * 100] * 9), r"flow\.keywords=.*: have 909 characters in all.*894 is the most"),
        (changed(compute__wait_hours=0), r"compute\.wait_hours=0: input should be greater than 0"),
        (changed(compute__wait_hours=float("inf")), r"compute\.wait_hours=inf"),
        (changed(compute__user_endpoint_config={"nodes": float("nan")}), r"config\.nodes=nan: input should be a finite"),
        (changed(compute__user_endpoint_config={"a": {"b": [float("inf")]}}), r"config\.a=inf: input should be a finite"),
        (changed(compute__user_endpoint_config={5: "x"}), r"compute\.user_endpoint_config\.5: a key must be text"),
        (changed(parameters__reconstruction={"centre": 5}), r"key parameters\.reconstruction\.centre; did you mean .*center\?"),
        (changed(parameters__reconstruction={"center": "left"}), r"parameters\.reconstruction\.center='left': .* or "),
        (changed(execution={"workers": 0}), r"execution\.workers=0: input should be greater than or equal to 1"),
        (changed(source__path="data"), r"source\.path='data': is not an absolute path; give"),
        (changed(source__path="/data/../x"), r"source\.path='/data/\.\./x': holds '\.\.'"),
        (changed(source__path="/data/"), r"source\.path='/data/': is not a plain path"),
        (changed(source__path="//data"), r"source\.path='//data': is not a plain path"),
        (changed(source__path="/~/data"), r"source\.path='/~/data': starts with '~'"),
        (changed(source__path="/" + "x" * 1024), r"source\.path=.*at most 1024"),
        (changed(source__path="/da\nta"), r"source\.path=.*control character"),
        (changed(processing__path="/"), r"processing\.path='/': is the root"),
        (changed(processing__host_path="/"), r"processing\.host_path='/': is the root"),
        (changed(share={"collection": A, "path": "/"}), r"share\.path='/': is the root"),
        (changed(processing__https_url="http://x.org"), r"processing\.https_url='http://x\.org': is not the HTTPS address"),
        (changed(source=5), r"source=5: "),
        (changed(flow__title="x" * 129), r"flow\.title=.*at most 128 characters"),
        (changed(flow__subscription_id="mine"), r"flow\.subscription_id='mine': is not a UUID"),
        (changed(search__index="mine"), r"search\.index='mine': is not a UUID"),
        (changed(login__client_id="mine"), r"login\.client_id='mine': is not a UUID"),
        (changed(format="tomopipe-deployment/2"), r"format='tomopipe-deployment/2': is not known; write "),
        (changed(processing__host_path=...), r"1 value is still.*\n.*processing\.host_path: The same folder as the nodes"),
        (changed(compute__user_endpoint_config={"account": None}), r"user_endpoint_config\.account: the project whose"),
        ("compute: {user_endpoint_config: {walltime: 1:00:00}}\n", "visible_to: Who may find"),
        ("just text", r"expected keys such as 'format: tomopipe-deployment/1', found str"),
        ("", "found nothing"),
        ("a: [", "is not YAML"),
        ("title: a\ntitle: b\n", r"key 'title' is given twice"),
        ("source: {path: /a, path: /b}\n", r"key 'path' is given twice"),
        ("a: !!python/object/apply:os.getcwd []\n", "is not YAML"),
        ("when: 2026-01-01\n", r"unknown key when"),
    ],
)  # fmt: skip
def test_refusals_name_file_key_and_remedy(values: Any, said: str, tmp_path: Path) -> None:
    message = refusal(write(tmp_path / "mine.yaml", values))
    assert message.startswith(f"{tmp_path}/mine.yaml: ")
    assert re.search(said, message), message


def test_a_walltime_without_quotes_is_refused(tmp_path: Path) -> None:
    text = yaml.safe_dump(FILLED).replace("queue: debug", "walltime: 1:00:00")
    said = refusal(write(tmp_path / "mine.yaml", text))
    assert "walltime is the number 3600; write it in quotes" in said


def test_dates_are_no_json(tmp_path: Path) -> None:
    text = yaml.safe_dump(FILLED).replace("queue: debug", "since: 2026-01-01")
    assert "compute.user_endpoint_config.since=" in refusal(write(tmp_path / "mine.yaml", text))


def test_the_file_named_is_the_one_that_holds_the_value(tmp_path: Path) -> None:
    base = write(tmp_path / "base.yaml", changed(compute__wait_hours=-1))
    top = write(tmp_path / "top.yaml", {"extends": "./base.yaml", "compute": {"endpoint": B}})
    assert refusal(top).startswith(f"{base}: compute.wait_hours=-1")
    write(base, changed(compute__endpont=B))
    assert refusal(top).startswith(f"{base}: unknown key compute.endpont")
    write(base, FILLED)
    write(top, {"extends": "./base.yaml", "compute": {"endpoint": "x"}})
    assert refusal(top).startswith(f"{top}: compute.endpoint='x'")


def test_files_that_cannot_be_read_or_named(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes("title: für".encode("latin-1"))
    assert "is not text in UTF-8" in refusal(tmp_path / "latin.yaml")
    assert "rename the file" in refusal(write(tmp_path / "a b.yaml", FILLED))


# Paths both ways

# Names that are hard: dots, spaces, several alphabets, signs that shells and addresses give a meaning.
names = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/"), min_size=1, max_size=12).filter(
    lambda name: name not in (".", "..") and not name.startswith("~")
)
folders = st.lists(names, max_size=4).map(lambda parts: "/" + "/".join(parts))
relatives = st.lists(names, max_size=4)


def place(path: str, host_path: str | None) -> Collection:
    return Collection(collection=A, path=path, host_path=host_path)


@given(path=folders, host_path=folders, relative=relatives)
def test_paths_come_back(path: str, host_path: str, relative: list[str]) -> None:
    collection = place(path, host_path)
    on_host = str(PurePosixPath(host_path, *relative))
    there = collection.to_collection_path(on_host)
    assert there == str(PurePosixPath(path, *relative))
    assert collection.to_host_path(there) == on_host
    assert collection.to_collection_path(PurePosixPath(on_host)) == there


@given(path=folders, host_path=folders, relative=relatives, data=st.data())
def test_slashes_too_many_do_not_matter(path: str, host_path: str, relative: list[str], data: st.DataObject) -> None:
    collection = place(path, host_path)
    on_host = str(PurePosixPath(host_path, *relative))
    parts = on_host.strip("/").split("/")
    untidy = "".join("/" * data.draw(st.integers(1, 3)) + part for part in parts) + "/" * data.draw(st.integers(0, 2))
    tidy = collection.to_collection_path(on_host)
    assert collection.to_collection_path(untidy) == tidy
    assert "//" not in tidy and tidy.startswith("/") and (tidy == "/" or not tidy.endswith("/"))


@given(path=folders, host_path=folders, text=st.text(st.sampled_from("/.ab~é\n\x00\udc80"), max_size=16))
def test_nothing_leads_out_of_the_folder(path: str, host_path: str, text: str) -> None:
    collection = place(path, host_path)
    for given_path, folder, move in (
        (host_path + text, path, collection.to_collection_path),
        (path + text, host_path, collection.to_host_path),
        (text, path, collection.to_collection_path),
    ):
        try:
            moved = move(given_path)
        except ParameterError:
            continue
        assert moved == folder or moved.startswith(folder.rstrip("/") + "/")
        assert ".." not in moved.split("/")
        moved.encode()


@given(path=folders, host_path=folders, other=folders)
def test_other_folders_are_refused(path: str, host_path: str, other: str) -> None:
    assume(not PurePosixPath(other).is_relative_to(host_path))
    with pytest.raises(ParameterError, match="lies outside"):
        place(path, host_path).to_collection_path(other)


@pytest.mark.parametrize(
    ("given_path", "said"),
    [
        ("/eagle/Project2/a", "lies outside /eagle/Project, the deployment's host_path"),
        ("/eagle", "lies outside"),
        ("/eagle/Project/../Other", r"holds '\.\.'"),
        ("Project/a", "is not an absolute path"),
        ("", "is not an absolute path"),
        ("~/a", "is not an absolute path"),
        ("C:\\data", "is not an absolute path"),
        ("/eagle/Project/a\x00b", "control character"),
        ("/eagle/Project/\udc80", "no UTF-8"),
    ],
)
def test_bad_host_paths_are_refused(given_path: str, said: str) -> None:
    with pytest.raises(ParameterError, match=said):
        place("/Project", "/eagle/Project").to_collection_path(given_path)


def test_a_root_maps_to_a_folder_and_back() -> None:
    whole = place("/", "/data")
    assert whole.to_collection_path("/data") == "/" and whole.to_host_path("/") == "/data"
    assert whole.to_collection_path("/data/a/b.h5/") == "/a/b.h5"
    root = place("/data", "/")
    assert root.to_collection_path("/") == "/data" and root.to_host_path("/data/a") == "/a"


def test_a_folder_named_like_a_home_is_refused_at_the_root_alone() -> None:
    with pytest.raises(ParameterError, match="reads as a home folder"):
        place("/", "/data").to_collection_path("/data/~/scan.h5")
    assert place("/x", "/data").to_collection_path("/data/~/scan.h5") == "/x/~/scan.h5"


def test_without_a_host_path_the_remedy_is_said() -> None:
    for move in (place("/data", None).to_collection_path, place("/data", None).to_host_path):
        with pytest.raises(
            ParameterError, match=r"/data/a: the deployment does not say where .* set host_path beside path"
        ):
            move("/data/a")


# The schema


def test_the_schema_describes_every_key_and_takes_what_the_model_takes() -> None:
    schema = deployment_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    assert validator.is_valid(FILLED)
    assert validator.is_valid({"extends": "polaris", "visible_to": ["public"]})
    for values in (changed(zebra=1), changed(source__zebra=1), changed(visible_to=["me"]), changed(title=...)):
        assert not validator.is_valid(values)
    assert not {"name", "file"} & set(schema["properties"])
    sections = ("Collection", "ProcessingCollection", "Compute", "Search", "Flow", "People", "Login")
    for section in (schema, *(schema["$defs"][name] for name in sections)):
        for key, field in section["properties"].items():
            # A section's description may stand at the section.
            target = schema["$defs"][field["$ref"].rpartition("/")[2]] if "$ref" in field else field
            assert field.get("description") or target.get("description"), key


def test_a_deployment_fits_the_flows_input(tmp_path: Path) -> None:
    """What a deployment hands to the flow's input is of the form that the input wants."""
    found: Deployment = load_deployment(write(tmp_path / "a.yaml", changed(source__path="/")))
    fields = input_schema()["properties"]["input"]["properties"]
    for value, field in (
        ({"id": found.processing.collection, "path": found.processing.path}, "processing"),
        (found.processing.host_path, "processing_root"),
        ({"id": found.source.collection, "path": found.source.to_collection_path("/local/data/x.h5")}, "scan"),
        (found.visible_to, "visible_to"),
        (found.compute.user_endpoint_config, "user_endpoint_config"),
    ):
        jsonschema.Draft7Validator(fields[field]).validate(value)
