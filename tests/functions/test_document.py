"""The search document: what stands in it, its DataCite block, its times, and what never stands in it."""

from __future__ import annotations

import datetime
import json
import platform
import re
import urllib.parse
from pathlib import Path
from typing import Any

import pytest
from documents import (
    FLOW,
    PROCESSING,
    PROVENANCE,
    RUN,
    SCAN_COLLECTION,
    SIDECAR,
    add_receipt,
    document_of,
    make_document,
    run_document,
    seconds,
    write_run,
)

from tomopipe.functions.parameters import Parameters, parse_parameters
from tomopipe.functions.quantification.datacite import collected_date
from tomopipe.functions.quantification.document import taken_over
from tomopipe.functions.quantification.document_schema import document_fields
from tomopipe.functions.quantification.provenance import steps_work, work_since
from tomopipe.functions.rundir import RunDirectory

LOCAL = {"flow_id": "00000000-0000-0000-0000-000000000000", "results_url": ""}


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in leaves(item)]
    if isinstance(value, list):
        return [leaf for item in value for leaf in leaves(item)]
    return [value]


def test_what_stands_in_it(tmp_path: Path) -> None:
    document = make_document(tmp_path / "run")
    assert (document["format"], document["status"]) == ("tomopipe-document/2", "succeeded")
    assert (document["scan_id"], document["recipe_id"]) == ("shale", "0123456789ab")
    assert document["metrics"] == {"porosity_percent": 21.5, "object_count": 12.0, "percolates_z": 1.0}
    assert document["intervals"] == {"porosity_percent_low": 20.5, "porosity_percent_high": 22.0}
    assert document["quality"] == {"noise_level_per_cm": 0.5, "nonfinite_count": 0.0}
    assert document["warnings"] == "first warning; second warning"
    assert document["scan"] == {"sample": "shale", "energy_kev": 25.0, "start_time": "2026-11-21T08:00:00Z"}
    assert document["acquisition"]["angles"] == 180.0
    assert document["recipe"]["thresholds_per_cm"] == [0.5]
    assert document["recipe"]["phases"] == 2.0
    assert document["recipe"]["voxel_size_um"] == 1.0
    assert document["source"] == {"collection": SCAN_COLLECTION, "path": "/2-BM/2026-11/shale.h5"}


def test_every_number_is_a_finite_float_and_nothing_is_null(tmp_path: Path) -> None:
    document = make_document(tmp_path / "run")
    assert {type(leaf) for leaf in leaves(document)} == {str, float}
    json.dumps(document, allow_nan=False)
    assert "" not in leaves(document)


def test_the_request_asks_for_the_run_again(tmp_path: Path) -> None:
    parameters = parse_parameters({"reconstruction": {"center": 30.25}, "segmentation": {"phases": 3}})
    request = {"parameters": parameters.model_dump(mode="json"), "skip": ["separate_objects"]}
    document = make_document(tmp_path / "run", request=request, resolved={"thresholds": [0.1, 0.5]})
    asked = json.loads(document["request"])
    assert parse_parameters(asked.pop("parameters")) == parameters
    assert asked == {
        "scan": PROVENANCE["source"],
        "processing": PROVENANCE["processing"],
        "scan_id": "shale",
        "skip": ["separate_objects"],
        "start_from": None,
    }


def test_the_request_has_the_execution_where_the_run_has_it(tmp_path: Path) -> None:
    document = make_document(tmp_path / "run", request={"execution": {"slab": 8, "workers": 2}})
    assert json.loads(document["request"])["execution"] == {"slab": 8, "workers": 2}


def test_links_of_a_service_run(tmp_path: Path) -> None:
    links = make_document(tmp_path / "run")["links"]
    base = "https://g-1.data.example.org/2-BM%20results/shale/0123456789ab/"
    assert links["report"] == f"{base}report.html"
    assert links["previews"] == [f"{base}previews/objects_xy.png", f"{base}previews/sample.png"]
    address, _, query = links["folder"].partition("?")
    assert address == "https://app.globus.org/file-manager"
    assert urllib.parse.parse_qs(query) == {
        "origin_id": [PROCESSING],
        "origin_path": ["/TomoProject/2-BM results/shale/0123456789ab/"],
    }
    assert " " not in links["folder"]


def test_links_of_a_local_run_are_relative(tmp_path: Path) -> None:
    document = make_document(tmp_path / "run", provenance=LOCAL)
    assert document["links"] == {
        "report": "report.html",
        "previews": ["previews/objects_xy.png", "previews/sample.png"],
    }
    assert "flow_id" not in document["provenance"]
    assert document["dc"]["identifiers"] == [{"identifier": "shale/0123456789ab", "identifierType": "tomopipe"}]


def test_a_run_json_without_provenance_is_enough(tmp_path: Path) -> None:
    without = run_document()
    del without["provenance"]
    document = document_of(write_run(tmp_path / "run", without))
    assert "source" not in document
    assert set(json.loads(document["request"])) == {"scan_id", "parameters", "skip", "start_from"}
    assert document["provenance"]["elapsed_s"] > 0
    assert not any(name.endswith("_inspect") for name in document["provenance"])


def test_skipped_stages_and_unknown_pixel_sizes_have_no_fields(tmp_path: Path) -> None:
    request = {"skip": ["denoise", "segment", "separate_objects"]}
    resolved = {"voxel_size_um": None}
    sidecar = {"metrics": {}, "intervals": {}, "quality": {"warnings": []}}
    document = make_document(tmp_path / "run", sidecar, request=request, resolved=resolved)
    assert document["recipe"]["skipped"] == "denoise segment separate_objects"
    assert set(document["recipe"]).isdisjoint({"denoising", "segmentation", "phases", "objects", "voxel_size_um"})
    assert set(document).isdisjoint({"metrics", "intervals", "quality", "warnings"})


def test_the_recipe_says_what_was_done_and_nothing_else(tmp_path: Path) -> None:
    plain = make_document(tmp_path / "plain", resolved={"engine": "native", "field_of_view": "standard"})["recipe"]
    assert (plain["engine"], plain["filter"], plain["field_of_view"]) == ("native", "shepp", "standard")
    assert set(plain).isdisjoint({"binning", "phase_retrieval"})
    wished = {
        "scan": {"binning": 2},
        "preprocessing": {"phase_retrieval": "paganin", "delta_beta": 1000},
        "reconstruction": {"algorithm": "sirt"},
    }
    request = {"parameters": parse_parameters(wished).model_dump(mode="json")}
    resolved = {"engine": "astra", "field_of_view": "double"}
    recipe = make_document(tmp_path / "more", request=request, resolved=resolved)["recipe"]
    assert (recipe["algorithm"], recipe["engine"], recipe["field_of_view"]) == ("sirt", "astra", "double")
    assert (recipe["binning"], recipe["phase_retrieval"]) == (2.0, "paganin")
    assert "filter" not in recipe


@pytest.mark.parametrize("algorithm", ["fbp", "gridrec", "fourierrec", "lprec"])
def test_direct_algorithms_have_a_filter(tmp_path: Path, algorithm: str) -> None:
    wished = {"reconstruction": {"algorithm": algorithm, "filter": "hann"}}
    request = {"parameters": parse_parameters(wished).model_dump(mode="json")}
    assert make_document(tmp_path / "run", request=request)["recipe"]["filter"] == "hann"


def test_what_was_used_of_the_scan(tmp_path: Path) -> None:
    used = {"used_angles", "used_rows", "used_columns"}
    assert not used & set(make_document(tmp_path / "old")["acquisition"])
    whole = make_document(tmp_path / "whole", projections={"shape": [180, 32, 64], "theta_deg": [0.0, 179.0]})
    assert not used & set(whole["acquisition"])
    part = make_document(tmp_path / "part", projections={"shape": [90, 32, 101], "theta_deg": [0.0, 179.0]})
    acquisition = part["acquisition"]
    assert {name: acquisition[name] for name in used & set(acquisition)} == {"used_angles": 90.0, "used_columns": 101.0}
    assert [acquisition[name] for name in ("angles", "rows", "columns")] == [180.0, 32.0, 64.0]


def test_the_request_knows_the_measurement_better_than_the_file(tmp_path: Path) -> None:
    of_file = {
        "energy_kev": 25.0,
        "pixel_size_um": 1.5,
        "row_spacing_um": 3.0,
        "distance_mm": 80.0,
        "magnification": 5.0,
    }

    def scan_of(**wished: float) -> dict[str, Any]:
        parameters = parse_parameters({"scan": wished}).model_dump(mode="json")
        root = tmp_path / ("-".join(wished) or "none")
        found: dict[str, Any] = make_document(root, metadata=of_file, request={"parameters": parameters})["scan"]
        return found

    assert scan_of() == of_file
    assert scan_of(energy_kev=30) == {**of_file, "energy_kev": 30.0}
    assert scan_of(distance_mm=100) == {**of_file, "distance_mm": 100.0}
    # Pixels keep their shape, as those of the volume do.
    assert scan_of(pixel_size_um=1) == {**of_file, "pixel_size_um": 1.0, "row_spacing_um": 2.0}
    both = {"pixel_size_um": 1.0, "row_spacing_um": 1.0}
    assert scan_of(**both) == {**of_file, **both}


def test_documents_of_runs_from_before_are_made(tmp_path: Path) -> None:
    """A `run.json` whose parameters know nothing of regions, binning and phase retrieval."""
    parameters = Parameters().model_dump(mode="json")
    del parameters["scan"]
    del parameters["preprocessing"]["phase_retrieval"]
    recipe = make_document(tmp_path / "run", request={"parameters": parameters})["recipe"]
    assert recipe["engine"] == "auto"
    assert set(recipe).isdisjoint({"field_of_view", "binning", "phase_retrieval"})


def test_it_stays_small_whatever_the_file_says(tmp_path: Path) -> None:
    metadata = dict.fromkeys(("sample", "proposal", "experimenter", "beamline"), "x" * 100000)
    every = [name.rpartition(".")[::2] for name in document_fields() if "_pixel" not in name]
    quality: dict[str, Any] = {name: -1.234567890123456e-05 for block, name in every if block == "quality"}
    sidecar = {
        **SIDECAR,
        "metrics": {name: 1.234567890123456e-05 for block, name in every if block == "metrics"},
        "quality": {**quality, "warnings": ["w" * 100_000]},
    }
    provenance = {**PROVENANCE, "processing": {"id": PROCESSING, "path": "/" + "p" * 300}}
    run = write_run(tmp_path / "run", run_document(metadata=metadata, scan_id="s" * 100, provenance=provenance))
    for number in range(18):
        (run.previews / f"reconstruction_{number:02d}.png").touch()
    document = document_of(run, sidecar)
    assert len(json.dumps(document)) < 20_000
    assert document["scan"]["sample"].endswith("…")


def test_it_knows_nothing_of_the_machine_that_computes_or_submits(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", run_document())
    add_receipt(run, "preprocess", (0, 16), 3700, 10)
    text = json.dumps(document_of(run))
    assert str(tmp_path) not in text
    assert platform.node() not in text
    assert "x3004c0s7b1n0" not in text
    assert str(Path.home()) not in text
    assert "raw.h5" not in text


# Start times: an index that has taken one for a date refuses other words.


@pytest.mark.parametrize(
    ("said", "field", "value", "collected"),
    [
        ("2026-11-21T08:00:00Z", "start_time", "2026-11-21T08:00:00Z", "2026-11-21T08:00:00Z"),
        ("2026-11-21T08:00:00", "start_time_text", "2026-11-21T08:00:00 (no time zone)", "2026-11-21"),
        ("Saturday morning", "start_time_text", "Saturday morning", None),
    ],
)
def test_start_times(tmp_path: Path, said: str, field: str, value: str, collected: str | None) -> None:
    document = make_document(tmp_path / "run", metadata={"start_time": said})
    assert document["scan"] == {field: value}
    dates = {date["dateType"]: date["date"] for date in document["dc"]["dates"]}
    assert dates.get("Collected") == collected == collected_date(said)


# The DataCite block against the rules of DataCite's metadata schema 4.3, written out here.

DATACITE_REQUIRED = {
    "identifiers", "creators", "titles", "publisher", "publicationYear", "types", "schemaVersion",
}  # fmt: skip
DATACITE_ITEMS = {
    "identifiers": ({"identifier", "identifierType"}, set()),
    "creators": ({"name"}, {"nameType", "givenName", "familyName", "nameIdentifiers", "affiliation", "lang"}),
    "titles": ({"title"}, {"titleType", "lang"}),
    "subjects": ({"subject"}, {"subjectScheme", "schemeUri", "valueUri", "lang"}),
    "dates": ({"date", "dateType"}, {"dateInformation"}),
    "alternateIdentifiers": ({"alternateIdentifier", "alternateIdentifierType"}, set()),
}
DATACITE_DATE_TYPES = {
    "Accepted", "Available", "Copyrighted", "Collected", "Created", "Issued", "Submitted", "Updated", "Valid",
    "Withdrawn", "Other",
}  # fmt: skip


def check_datacite(block: dict[str, Any]) -> None:
    assert set(block) >= DATACITE_REQUIRED
    texts = {"publisher", "publicationYear", "version", "schemaVersion"}
    text_lists = {"formats", "sizes"}
    assert set(block) <= texts | text_lists | set(DATACITE_ITEMS) | {"types"}
    for name in texts & set(block):
        assert isinstance(block[name], str)
        assert block[name]
    for name in text_lists & set(block):
        assert all(isinstance(item, str) and item for item in block[name])
        assert len(set(block[name])) == len(block[name])
    for name, (required, optional) in DATACITE_ITEMS.items():
        items = block.get(name, [dict.fromkeys(required, "x")])
        assert items, f"{name}: an empty list"
        assert len({json.dumps(item, sort_keys=True) for item in items}) == len(items), f"{name}: twice the same"
        for item in items:
            assert required <= set(item) <= required | optional
            assert all(isinstance(value, str) and value for value in item.values())
    assert set(block["types"]) == {"resourceType", "resourceTypeGeneral"}
    assert block["types"]["resourceTypeGeneral"] == "Dataset"
    assert re.fullmatch(r"\d{4}", block["publicationYear"])
    assert block["schemaVersion"] == "http://datacite.org/schema/kernel-4"
    for date in block["dates"]:
        assert date["dateType"] in DATACITE_DATE_TYPES
        # W3C date and time: a day, or a time with its zone.
        assert re.fullmatch(r"\d{4}-\d\d-\d\d(T\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d))?", date["date"])
        datetime.datetime.fromisoformat(date["date"])


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"sample": "shale", "start_time": "2026-11-21T08:00:00"},
        {"sample": "shale", "proposal": "GUP-1", "experimenter": "A. Person", "beamline": "2-BM"},
        {"sample": "X-ray computed tomography", "start_time": "2026-11-21T08:00:00.123456Z"},
    ],
)
def test_the_datacite_block_obeys_datacite(tmp_path: Path, metadata: dict[str, Any]) -> None:
    check_datacite(make_document(tmp_path / "run", metadata=metadata)["dc"])


def test_the_datacite_block_says_what_is_known_and_that_the_rest_is_not(tmp_path: Path) -> None:
    known = {"sample": "shale", "proposal": "GUP-1", "experimenter": "A. Person", "beamline": "2-BM"}
    block = make_document(tmp_path / "known", metadata=known)["dc"]
    assert block["creators"] == [{"name": "A. Person"}]
    assert block["publisher"] == "2-BM"
    assert block["alternateIdentifiers"][0]["alternateIdentifier"] == "GUP-1"
    assert {"subject": "shale"} in block["subjects"]
    subject = f"globus://{PROCESSING}/TomoProject/2-BM results/shale/0123456789ab"
    assert block["identifiers"] == [{"identifier": subject, "identifierType": "Globus"}]
    assert block["version"] == "0123456789ab"
    unknown = make_document(tmp_path / "unknown", metadata={})["dc"]
    assert (unknown["creators"], unknown["publisher"]) == ([{"name": ":unav"}], ":unav")


# Times of the stages, from the receipts.


def test_times_of_the_stages(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", run_document())
    # Transferred at 0 s, Inspect from 3600 s to 3620 s; then two slabs at once on two workers, after a minute in a queue.
    add_receipt(run, "preprocess", (0, 16), 3680, 10)
    add_receipt(run, "preprocess", (16, 32), 3682, 15)
    add_receipt(run, "reconstruct", (0, 16), 3698, 2, device={"kind": "cuda", "threads": 4})
    found = document_of(run, started_s=3800)["provenance"]
    assert (found["wait_s_inspect"], found["run_s_inspect"], found["busy_s_inspect"]) == (3600.0, 20.0, 20.0)
    assert (found["wait_s_preprocess"], found["run_s_preprocess"]) == (60.0, 17.0)
    assert (found["busy_s_preprocess"], found["slabs_preprocess"]) == (25.0, 2.0)
    assert (found["wait_s_reconstruct"], found["run_s_reconstruct"]) == (1.0, 2.0)
    assert (found["wait_s_quantify"], found["run_s_quantify"], found["slabs_quantify"]) == (100.0, 10.0, 1.0)
    assert found["finished_at"] == "2026-11-22T11:03:30Z"
    assert found["devices"] == "cpu cuda"
    assert found["workers"] == 2.0
    assert found["elapsed_s"] == 3810.0
    assert (found["run_id"], found["flow_id"]) == (RUN, FLOW)
    assert found["transferred_at"] == "2026-11-22T10:00:00Z"
    assert found["inspected_at"] == "2026-11-22T11:00:20Z"
    assert not any(name.endswith("_denoise") for name in found)


def test_work_of_an_earlier_start_or_recipe_is_named_as_reused(tmp_path: Path) -> None:
    stages = run_document()["stages"]
    stages["denoise"] = {**stages["denoise"], "own": False, "output": "../fedcba987654/denoised.zarr"}
    stages["reconstruct"] = {**stages["reconstruct"], "output": None}
    stages["separate_objects"] = {**stages["separate_objects"], "digest": None, "output": None}
    run = write_run(tmp_path / "run", run_document(stages=stages))
    add_receipt(run, "preprocess", (0, 16), 3000, 10)
    add_receipt(run, "segment", (0, 16), 3000, 10)
    add_receipt(run, "segment", (16, 32), 3630, 5)
    found = document_of(run, started_s=3640)["provenance"]
    # Reconstruct was done on the fly, SeparateObjects not asked for.
    assert found["reused"] == "preprocess denoise"
    assert found["slabs_segment"] == 1.0
    assert found["wait_s_segment"] == 10.0
    assert "run_s_preprocess" not in found


def test_steps_count_as_work_of_their_stage(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", run_document())
    receipts = [{"started_at": seconds(3630 + 10 * i).isoformat(), "seconds": 8.0} for i in range(3)]
    old = {"started_at": seconds(1000).isoformat(), "seconds": 99.0}
    steps = steps_work([old, *receipts], seconds(3620))
    assert steps == {"started_at": "2026-11-22T11:00:30.000+00:00", "run_s": 28.0, "busy_s": 24.0, "slabs": 3}
    add_receipt(run, "separate_objects", (0, 32), 3665, 5, steps=steps)
    found = document_of(run)["provenance"]
    assert (found["wait_s_separate_objects"], found["run_s_separate_objects"]) == (10.0, 40.0)
    assert (found["busy_s_separate_objects"], found["slabs_separate_objects"]) == (29.0, 4.0)


def test_clocks_that_disagree_make_no_negative_wait(tmp_path: Path) -> None:
    provenance = {**PROVENANCE, "transferred_at": "2026-11-22T12:00:00+00:00"}
    run = write_run(tmp_path / "run", run_document(provenance=provenance))
    add_receipt(run, "preprocess", (0, 16), 3621, 1)
    found = document_of(run)["provenance"]
    assert found["wait_s_inspect"] == 0.0
    assert min(value for value in found.values() if isinstance(value, float)) == 0.0


def test_receipts_without_a_time_are_no_work() -> None:
    assert work_since([{"seconds": 1.0}, {"started_at": "yesterday", "seconds": 1.0}], None) is None
    assert steps_work([], None) == {}


def test_default_parameters_are_in_the_request(tmp_path: Path) -> None:
    asked = json.loads(make_document(tmp_path / "run")["request"])
    assert parse_parameters(asked["parameters"]) == Parameters()


def test_a_later_run_that_found_everything_done_publishes_as_itself(tmp_path: Path) -> None:
    made = make_document(tmp_path / "run")
    later = {"run_id": "0" * 8 + RUN[8:], "results_url": "https://g-2.data.example.org/results"}
    document = run_document(provenance=later)
    found = taken_over(made, RunDirectory(tmp_path / "run"), document)
    assert found["provenance"] == {**made["provenance"], "run_id": later["run_id"]}
    assert found["links"]["report"] == "https://g-2.data.example.org/results/shale/0123456789ab/report.html"
    unchanged = set(made) - {"provenance", "links"}
    assert {name: found[name] for name in unchanged} == {name: made[name] for name in unchanged}
    parameters = parse_parameters({"scan": {"energy_kev": 30}}).model_dump(mode="json")
    corrected = taken_over(made, RunDirectory(tmp_path / "run"), run_document(request={"parameters": parameters}))
    assert corrected["scan"] == {**made["scan"], "energy_kev": 30.0}
    on_one_machine = taken_over(made, RunDirectory(tmp_path / "run"), run_document(provenance=LOCAL))
    assert "flow_id" not in on_one_machine["provenance"]
