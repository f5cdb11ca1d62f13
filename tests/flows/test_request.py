"""The flow's input: the document that starts a run, its schema, and what is refused with which message."""

from __future__ import annotations

import importlib.metadata
import json
import uuid
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tomopipe.flows.request import (
    FUNCTIONS,
    all_functions_digest,
    build_flow_input,
    function_digests,
    input_schema,
)
from tomopipe.flows.tools.common import function_id_field
from tomopipe.functions import stages
from tomopipe.functions.errors import ParameterError
from tomopipe.functions.parameters import Execution, Parameters, parse_parameters

ID = "11111111-2222-3333-4444-555555555555"
IDS = {name: str(uuid.UUID(int=index + 1)) for index, name in enumerate(FUNCTIONS)}
REQUEST: dict[str, Any] = {
    "scan": {"id": ID, "path": "/2026-3/scan_0042.h5"},
    "scan_id": "scan_0042",
    "processing": {"id": ID, "path": "/TomoProject/results"},
    "processing_root": "/eagle/TomoProject/results",
    "compute_endpoint": ID,
    "search_index": ID,
    "visible_to": ["public"],
    "function_ids": IDS,
}


def build(**changes: Any) -> dict[str, Any]:
    document = build_flow_input(**REQUEST | changes)["input"]
    assert isinstance(document, dict)
    return document


VALIDATOR = jsonschema.Draft7Validator(input_schema(), format_checker=jsonschema.FormatChecker())


def is_valid(document: dict[str, Any]) -> bool:
    return bool(VALIDATOR.is_valid({"input": document}))


# The document


def test_document_is_exact() -> None:
    assert build() == {
        "scan": {"id": ID, "path": "/2026-3/scan_0042.h5"},
        "scan_id": "scan_0042",
        "processing": {"id": ID, "path": "/TomoProject/results"},
        "processing_root": "/eagle/TomoProject/results",
        "parameters": {},
        "skip": [],
        "start_from": None,
        "execution": {},
        "compute_endpoint": ID,
        "user_endpoint_config": {},
        "search_index": ID,
        "visible_to": ["public"],
        "results_url": "",
        "version": importlib.metadata.version("tomopipe"),
        "functions_digest": all_functions_digest(),
        **{f"{name}_function_id": IDS[name] for name in FUNCTIONS},
    }


def test_document_holds_what_was_set_and_nothing_else() -> None:
    parameters = {"reconstruction": {"algorithm": "fbp", "center": 1021.5}, "keep": []}
    execution = {"slab": 32, "workers": 4}
    config = {"queue": "demand", "nodes": 2, "options": ["a", None, {"b": 1.5}]}
    document = build(
        parameters=parameters,
        execution=execution,
        user_endpoint_config=config,
        skip=["segment", "separate_objects"],
        start_from="denoise",
        destination={"id": ID, "path": "/share"},
    )
    assert document["parameters"] == parameters
    assert document["execution"] == execution
    assert document["user_endpoint_config"] == config
    assert document["skip"] == ["segment", "separate_objects"]
    assert document["start_from"] == "denoise"
    assert document["destination"] == {"id": ID, "path": "/share"}


def test_models_are_taken_like_mappings() -> None:
    values = {"reconstruction": {"center": 512.0}}
    execution = Execution.model_validate({"workers": 2})
    assert build(parameters=parse_parameters(values), execution=execution) == build(
        parameters=values, execution={"workers": 2}
    )


def test_ids_are_written_in_one_form() -> None:
    assert build(compute_endpoint=ID.upper().replace("-", ""))["compute_endpoint"] == ID


def test_functions_are_the_registered_ones() -> None:
    for name in FUNCTIONS:
        assert function_id_field(getattr(stages, name)) == f"{name}_function_id"


def test_digest_of_a_function_covers_its_text_and_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before, all_before = function_digests(), all_functions_digest()
    assert list(before) == list(FUNCTIONS)
    assert len(set(before.values())) == len(FUNCTIONS)

    def quantify(run: str) -> dict[str, object]:
        """Another text."""
        return {"run": run}

    monkeypatch.setattr(stages, "quantify", quantify)
    after = function_digests()
    assert {name for name in FUNCTIONS if after[name] != before[name]} == {"quantify"}
    assert all_functions_digest() != all_before
    monkeypatch.undo()
    version = importlib.metadata.version
    monkeypatch.setattr("importlib.metadata.version", lambda name: "9.9" if name == "tomopipe" else version(name))
    assert not set(function_digests().values()) & set(before.values())


def test_schema_starts_the_form_with_the_defaults_of_a_deployment() -> None:
    defaults = {"search_index": ID, "scan": {"id": ID}, "visible_to": ["public"], "execution": {"slab": 64}}
    properties = input_schema(defaults)["properties"]["input"]["properties"]
    assert {name: properties[name]["default"] for name in defaults} == defaults
    assert "default" not in properties["scan_id"]
    assert properties["skip"]["default"] == []
    assert "default" not in input_schema()["properties"]["input"]["properties"]["search_index"]
    with pytest.raises(ParameterError, match="input schema: 'index' is no field"):
        input_schema({"index": ID})


# What is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scan_id": "a/b"}, r"request: scan_id='a/b': .*take up to 100 letters, digits"),
        ({"scan_id": ".."}, r"scan_id='\.\.'"),
        ({"scan_id": ""}, r"scan_id=''"),
        ({"scan_id": "x" * 101}, r"scan_id='xxx"),
        ({"scan_id": "scan 1"}, r"scan_id='scan 1'"),
        ({"scan_id": "scan\n"}, r"scan_id='scan\\n'"),
        ({"scan": {"id": ID, "path": "relative.h5"}}, r"scan\.path='relative\.h5': .*start with '/'"),
        ({"scan": {"id": "me", "path": "/a.h5"}}, r"scan\.id='me': is not a UUID; copy it"),
        ({"scan": {"id": ID}}, r"scan\.path.*required"),
        ({"scan": {"id": ID, "path": "/a.h5", "pth": 1}}, r"unknown parameter scan\.pth; did you mean scan\.path\?"),
        ({"processing": {"id": ID, "path": "/a/"}}, r"processing\.path='/a/'"),
        ({"processing": {"id": ID, "path": "/a/../b"}}, r"processing\.path='/a/\.\./b'"),
        ({"processing": {"id": ID, "path": "/a//b"}}, r"processing\.path='/a//b'"),
        ({"processing": {"id": ID, "path": "/" + "a" * 1024}}, r"processing\.path=.*has 1025 characters; .*most 1024"),
        ({"processing": {"id": ID, "path": "/" + "a" * 421}}, r"processing\.path=.* have 431 bytes .*at most 430"),
        ({"processing_root": "/"}, r"processing_root='/'"),
        ({"processing_root": "/" + "é" * 111}, r"processing_root=.* have 232 bytes together; .*at most 230"),
        ({"destination": {"id": ID, "path": ""}}, r"destination\.path=''"),
        ({"version": ""}, r"version=''"),
        ({"functions_digest": "sha256:12"}, r"functions_digest='sha256:12': .*`tomopipe deploy`"),
        ({"results_url": "http://a.org"}, r"results_url='http://a.org': is no address"),
        ({"results_url": "https://a.org/"}, r"results_url='https://a.org/'"),
        ({"compute_endpoint": "polaris"}, r"compute_endpoint='polaris': is not a UUID"),
        ({"search_index": 7}, r"search_index=7"),
        ({"visible_to": []}, r"visible_to=\[\]: .*at least 1"),
        ({"visible_to": ["Public"]}, r"visible_to='Public': .*take 'public'"),
        ({"visible_to": [f"urn:globus:auth:identity:{ID}x"]}, r"visible_to='urn:globus"),
        ({"skip": ["reconstruct"]}, r"skip='reconstruct': .*'denoise'"),
        ({"skip": ["denoise", "denoise"]}, r"skip names a stage twice.*once"),
        ({"start_from": "Reconstruct"}, r"start_from='Reconstruct'"),
        ({"start_from": "denoise", "skip": ["denoise"]}, r"start_from is denoise.*drop one"),
        (
            {"parameters": {"reconstruction": {"centre": 1}}},
            r"unknown parameter parameters\.reconstruction\.centre; did",
        ),
        ({"parameters": {"denoising": {"strength": -1}}}, r"parameters\.denoising\.strength=-1"),
        ({"parameters": {"denoise": {}}}, r"unknown parameter parameters\.denoise"),
        ({"execution": {"slab": 0}}, r"execution\.slab=0"),
        ({"user_endpoint_config": {"queue": object()}}, r"user_endpoint_config"),
        ({"function_ids": {}}, r"function_ids without inspect, preprocess, .*give one id each"),
        ({"function_ids": IDS | {"publish": ID}}, r"function_ids with unknown publish"),
        ({"function_ids": IDS | {"quantify": "q"}}, r"quantify_function_id='q'"),
    ],
)
def test_bad_requests_are_refused_with_field_value_and_remedy(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message) as caught:
        build(**changes)
    assert "\n" not in str(caught.value)


# The schema


def test_schema_is_a_schema_without_references() -> None:
    schema = input_schema()
    jsonschema.Draft7Validator.check_schema(schema)
    text = json.dumps(schema)
    assert "$ref" not in text and "$defs" not in text
    assert schema["required"] == ["input"]
    assert schema["additionalProperties"] is False


def test_schema_has_everything_that_a_form_needs() -> None:
    fields = input_schema()["properties"]["input"]
    properties = fields["properties"]
    assert fields["propertyOrder"] == list(properties)
    assert fields["additionalProperties"] is False
    assert set(fields["required"]) == set(properties) - {"destination"}
    for name, field in properties.items():
        assert field["title"], name
        assert field.get("description") or name.endswith("_function_id"), name
    for name in ("scan", "processing", "destination"):
        assert properties[name]["format"] == "globus-collection"
        assert properties[name]["required"] == ["id", "path"]
        assert properties[name]["type"] == "object"
    starts = {name: field["default"] for name, field in properties.items() if "default" in field}
    empty = {"parameters": {}, "execution": {}, "user_endpoint_config": {}}
    assert starts == {**empty, "skip": [], "start_from": None, "results_url": ""}
    reconstruction = properties["parameters"]["properties"]["reconstruction"]["properties"]
    assert reconstruction["algorithm"]["default"] == Parameters().reconstruction.algorithm


def test_schema_has_no_keywords_of_our_own() -> None:
    # The service checks a schema strictly; what marks an execution parameter for us is none of its keywords.
    section = Parameters.model_json_schema()["$defs"]["ReconstructionParameters"]
    assert section["properties"]["chunk_size"]["execution"] is True
    fields = input_schema()["properties"]["input"]["properties"]
    assert "execution" not in fields["parameters"]["properties"]["reconstruction"]["properties"]["chunk_size"]
    assert fields["execution"]["properties"].keys() == Execution.model_fields.keys()


def test_schema_takes_what_is_built_and_refuses_what_would_fail_the_run() -> None:
    document = build(destination={"id": ID, "path": "/share"}, start_from="segment", skip=["denoise"])
    assert is_valid(document)
    assert is_valid(build())
    for name in build():
        assert not is_valid({key: value for key, value in document.items() if key != name}), name
    for changes in (
        {"destination": None},
        {"start_from": "quantity"},
        {"scan_id": "a/b"},
        {"processing_root": "/a/"},
        {"visible_to": []},
        {"visible_to": ["everybody"]},
        {"skip": ["denoise", "denoise"]},
        {"parameters": {"reconstruction": {"centre": 1}}},
        {"parameters": {"reconstruction": {"algorithm": "fpb"}}},
        {"execution": {"slabs": 3}},
        {"extra": 1},
    ):
        assert not is_valid(document | changes), changes


@given(st.text(max_size=110))
@settings(deadline=None)
def test_schema_and_model_agree_on_scan_ids(scan_id: str) -> None:
    try:
        document = build(scan_id=scan_id)
    except ParameterError:
        # JSON Schema's `$` also matches before a final line end, which the model refuses.
        assert not is_valid(build() | {"scan_id": scan_id}) or scan_id.endswith("\n")
    else:
        assert document["scan_id"] == scan_id
        assert is_valid(document)


@given(st.lists(st.text(alphabet="ab.~/ -é\x07\n", max_size=5), max_size=5).map(lambda parts: "/" + "/".join(parts)))
@settings(deadline=None)
def test_paths_that_are_taken_stay_below_where_they_say(path: str) -> None:
    try:
        document = build(processing_root=path)
    except ParameterError:
        return
    parts = document["processing_root"].split("/")
    assert parts[0] == "" and all(part not in ("", ".", "..") for part in parts[1:])
    assert path.isprintable()
    assert is_valid(document)
