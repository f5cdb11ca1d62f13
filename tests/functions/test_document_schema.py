"""The schema of the search documents: names every field with one type, and an index takes all of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from documents import KINDS_OF_RUN, SIDECAR, make_document

from tomopipe.flows.local.search_index import MAX_FIELDS, SearchIndex
from tomopipe.functions.errors import ParameterError
from tomopipe.functions.quantification.document_schema import document_fields, document_schema, type_record
from tomopipe.functions.quantification.metrics_schema import metrics_schema

VALIDATOR = jsonschema.Draft202012Validator(
    document_schema(), format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
)
FAILED: dict[str, Any] = {
    "format": "tomopipe-document/2",
    "status": "failed",
    "scan_id": "shale",
    "source": {"collection": "11111111-1111-4111-8111-111111111111", "path": "/2-BM/shale.h5"},
    "failure": {"stage": "Reconstruct", "error": "ActionFailedException", "cause": "the disk is full"},
    "provenance": {"run_id": "44444444-4444-4444-8444-444444444444", "tomopipe": "0.1.0"},
}
"""As `flows/tools/common.py` makes it; `test_tomography` validates the real ones."""


def objects(schema: Any) -> list[dict[str, Any]]:
    if isinstance(schema, list):
        return [found for item in schema for found in objects(item)]
    if not isinstance(schema, dict):
        return []
    below = [found for item in schema.values() for found in objects(item)]
    return [schema, *below] if schema.get("type") == "object" else below


def test_the_schema_is_one_and_closed() -> None:
    jsonschema.Draft202012Validator.check_schema(document_schema())
    assert len(objects(document_schema())) > 10
    assert all(found["additionalProperties"] is False for found in objects(document_schema()))


@pytest.mark.parametrize("name", KINDS_OF_RUN)
def test_good_documents_are_valid(tmp_path: Path, name: str) -> None:
    VALIDATOR.validate(make_document(tmp_path / "run", **KINDS_OF_RUN[name]))


def test_records_of_failures_are_valid() -> None:
    VALIDATOR.validate(FAILED)
    VALIDATOR.validate({**FAILED, "recipe_id": "0123456789ab"})


@pytest.mark.parametrize(
    "change",
    [
        {"metrics": {"porosity": 1.0}},
        {"metrics": {"porosity_percent": "21"}},
        {"quality": {"noise_level_per_cm": None}},
        {"unknown": "x"},
        {"warnings": ""},
        {"status": "done"},
        {"failure": {"stage": "Reconstruct", "error": "E", "cause": "c"}},
        {"published_at": 5.0},
        {"recipe_id": "nothing"},
        {"format": "tomopipe-document/1"},
        {"source": {"collection": "x"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_other_documents_are_not(tmp_path: Path, change: dict[str, Any]) -> None:
    document = make_document(tmp_path / "run")
    VALIDATOR.validate(document)
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate({**document, **change})


@pytest.mark.parametrize("name", ["failure", "source", "provenance", "scan_id"])
def test_a_record_of_a_failure_needs(name: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate({key: value for key, value in FAILED.items() if key != name})


def test_every_metric_has_its_field() -> None:
    """Each name that the sidecar may hold, for up to five phases, is a number in the document."""
    fields = document_fields()
    for block in ("metrics", "quality"):
        names = [name.removeprefix(f"{block}.") for name in fields if name.startswith(f"{block}.")]
        patterns = metrics_schema()["properties"][block]["patternProperties"]
        of_block = jsonschema.Draft202012Validator(metrics_schema()["properties"][block])
        values = dict.fromkeys(names, 1.0)
        assert of_block.is_valid(values | ({"warnings": []} if block == "quality" else {}))
        jsonschema_matches = {
            pattern: [name for name in names if jsonschema_match(pattern, name)] for pattern in patterns
        }
        assert all(jsonschema_matches.values())
    assert {fields[name] for name in fields if name.startswith(("metrics.", "quality.", "intervals."))} == {"float"}
    for name in SIDECAR["metrics"]:
        assert f"metrics.{name}" in fields


def jsonschema_match(pattern: str, name: str) -> bool:
    schema = {"patternProperties": {pattern: False}}
    return not jsonschema.Draft202012Validator(schema).is_valid({name: 1.0})


def test_an_index_takes_every_field() -> None:
    assert 300 < len(document_fields()) < MAX_FIELDS / 2


def test_the_last_part_of_a_name_is_enough() -> None:
    parts = Counter(name.rpartition(".")[2] for name in document_fields())
    assert [name for name, count in parts.items() if count > 1] == []


def test_types_of_real_documents_are_those_of_the_schema(tmp_path: Path) -> None:
    index = SearchIndex(tmp_path / "index.sqlite")
    for name, changes in KINDS_OF_RUN.items():
        index.ingest(name, make_document(tmp_path / name, **changes))
    index.ingest("failed", FAILED)
    fields = document_fields()
    assert {name: fields[name] for name in index.fields()} == index.fields()


def test_the_type_record_fixes_every_type(tmp_path: Path) -> None:
    index = SearchIndex(tmp_path / "index.sqlite")
    index.ingest("types", type_record())
    assert index.fields() == document_fields()
    first = make_document(tmp_path / "first", metadata={"sample": "2026-11-22"}, scan_id="2026-11-22")
    index.ingest("first", first)
    index.ingest("second", make_document(tmp_path / "second"))
    # Without it, the first sample's name would have made all names dates.
    bare = SearchIndex(tmp_path / "bare.sqlite")
    bare.ingest("first", first)
    with pytest.raises(ParameterError, match="scan_id: the index holds it as date"):
        bare.ingest("second", make_document(tmp_path / "third"))
