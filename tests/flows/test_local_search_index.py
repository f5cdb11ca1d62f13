"""The search index: strict as Globus Search, and found by number, word and field."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tomopipe.flows.local.actions import ActionContext, ActionUnableToRun
from tomopipe.flows.local.search_index import MAX_ENTRIES_PER_SUBJECT, SearchDeletion, SearchIndex
from tomopipe.functions.errors import InputError, ParameterError

METRICS: dict[str, dict[str, Any]] = {
    "shale": {"porosity_percent": 12.5, "mean_diameter_um": 4.0, "surface_per_um": 0.1, "pores": 10},
    "sandstone": {"porosity_percent": 25.0, "mean_diameter_um": 40.0, "surface_per_um": 0.5, "pores": 200},
    "foam": {"porosity_percent": 80.0, "mean_diameter_um": 400.0, "surface_per_um": 0.9, "pores": 3000},
}


def document(sample: str) -> dict[str, Any]:
    return {
        "dc": {"titles": [{"title": f"Tomography of {sample}"}], "dates": [{"date": "2026-11-22"}]},
        "metrics": METRICS[sample],
        "sample": {"name": sample, "wet": sample == "shale"},
        "keywords": ["rock" if sample != "foam" else "metal", f"{sample} study"],
    }


@pytest.fixture
def index(tmp_path: Path) -> SearchIndex:
    index = SearchIndex(tmp_path / "folder" / "index.sqlite")
    for sample in METRICS:
        index.ingest(f"globus://c/{sample}/", document(sample), entry_id="run")
    return index


def found(index: SearchIndex, query: str) -> set[str]:
    return {hit.content["sample"]["name"] for hit in index.search(query)}


@pytest.mark.parametrize(
    ("query", "samples"),
    [
        ("", {"shale", "sandstone", "foam"}),
        ("*", {"shale", "sandstone", "foam"}),
        ("porosity > 20", {"sandstone", "foam"}),
        ("porosity > 25", {"foam"}),
        ("porosity >= 25", {"sandstone", "foam"}),
        ("porosity < 25", {"shale"}),
        ("porosity <= 25", {"shale", "sandstone"}),
        ("porosity = 25", {"sandstone"}),
        ("porosity != 25", {"shale", "foam"}),
        ("porosity_percent > 20", {"sandstone", "foam"}),
        ("metrics.porosity_percent > 20", {"sandstone", "foam"}),
        ("metrics.porosity > 20", {"sandstone", "foam"}),
        ("surface > 0.4", {"sandstone", "foam"}),
        ("mean_diameter < 100 and pores > 100", {"sandstone"}),
        ("sample.name:shale", {"shale"}),
        ("name:SHALE", {"shale"}),
        ("shale", {"shale"}),
        ("sha*", {"shale"}),
        ("sh* or sand*", {"shale", "sandstone"}),
        ("sha", set()),
        ("title:tomography", {"shale", "sandstone", "foam"}),
        ("keywords:rock", {"shale", "sandstone"}),
        ('"tomography of foam"', {"foam"}),
        ('"foam tomography"', set()),
        ("tomography foam", {"foam"}),
        ("wet:true", {"shale"}),
        ("wet:false", {"sandstone", "foam"}),
        ("pores:200", {"sandstone"}),
        ("not rock", {"foam"}),
        ("rock and not porosity > 20", {"shale"}),
        ("shale or foam", {"shale", "foam"}),
        ("(shale or foam) porosity > 20", {"foam"}),
        ("date:2026-11-22", {"shale", "sandstone", "foam"}),
    ],
)
def test_search(index: SearchIndex, query: str, samples: set[str]) -> None:
    assert found(index, query) == samples


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("porosty > 1", "there is no field 'porosty'; similar: .*porosity_percent"),
        ("zzz > 1", "there is no field 'zzz'; known: metrics.porosity_percent, metrics.mean_diameter_um"),
        ("zzz:word", "there is no field 'zzz'"),
        ("name > 1", "sample.name is no number; look for a word in it, as in name:word"),
        ("sample.name > 1", "sample.name is no number"),
        ("pores:many", "metrics.pores holds numbers; compare it, as in pores > 1"),
        ("porosity >", "a number is needed"),
    ],
)
def test_search_refuses(index: SearchIndex, query: str, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        index.search(query)


def test_an_ambiguous_name_lists_what_it_may_be(index: SearchIndex) -> None:
    index.ingest("s", {**document("foam"), "truth": {"porosity_percent": 81.0, "porosity_fraction": 0.81}})
    for name in ("porosity", "porosity_percent"):
        with pytest.raises(ParameterError, match=r"may be metrics\.porosity_percent, truth\.porosity_"):
            index.search(f"{name} > 1")
    assert found(index, "truth.porosity_percent > 1") == {"foam"}


def test_no_query_becomes_sql(index: SearchIndex) -> None:
    for query in (
        'name:"\'; DROP TABLE entries; --"',
        '"x\' OR 1=1"',
        "a' = 1",
        'NEAR("x", 5)',
        "name:NEAR",
        "a-b",
        "^a",
    ):
        try:
            assert found(index, query) == set()
        except ParameterError:
            continue
    assert len(index.search("")) == 3


def test_latest_first_and_the_limit(index: SearchIndex) -> None:
    assert [hit.subject for hit in index.search("", limit=2)] == ["globus://c/foam/", "globus://c/sandstone/"]


def test_a_search_in_an_empty_index(tmp_path: Path) -> None:
    index = SearchIndex(tmp_path / "index.sqlite")
    assert index.search("") == index.search("anything") == []
    with pytest.raises(ParameterError, match="known: none yet"):
        index.search("porosity > 1")


def test_ingesting_again_replaces(index: SearchIndex) -> None:
    changed = {**document("foam"), "metrics": {**METRICS["foam"], "porosity_percent": 5.0}}
    index.ingest("globus://c/foam/", changed, entry_id="run")
    assert len(index.search("")) == 3
    assert found(index, "porosity < 10") == {"foam"}
    assert found(index, "porosity > 70") == set()
    index.ingest("globus://c/foam/", {"note": "second entry"}, entry_id="note")
    assert [hit.entry_id for hit in index.search("second")] == ["note"]
    index.ingest("globus://c/foam/", {"note": "third"}, entry_id="note")
    assert index.search("second") == []


@pytest.mark.parametrize(
    ("first", "second", "fits"),
    [
        (1.0, 2, True),
        (1, 2.0, False),
        (1, 2, True),
        ("a", 1, True),
        ("a", True, True),
        (1, "a", False),
        (1, True, False),
        (True, 1, False),
        ("2026-01-01", "2026-01-01T10:00:00Z", True),
        ("2026-01-01", "unknown", False),
        ("unknown", "2026-01-01", True),
        (1.0, {"x": 1}, False),
        ({"x": 1}, 1.0, False),
        ([1.0, 2.0], 3.0, True),
        ([1.0, "a"], 1.0, False),
    ],
)
def test_a_field_keeps_its_type(tmp_path: Path, first: Any, second: Any, fits: bool) -> None:
    index = SearchIndex(tmp_path / "index.sqlite")

    def ingest_both() -> None:
        index.ingest("a", {"f": first})
        index.ingest("b", {"f": second})

    if fits:
        ingest_both()
        return
    with pytest.raises(ParameterError, match=r"^f(\.x)?: "):
        ingest_both()
    assert len(index.search("")) <= 1, "a refused entry is not half there"


def test_a_refused_entry_leaves_the_former_one(index: SearchIndex) -> None:
    with pytest.raises(ParameterError, match="the index holds it as float, found text 'much'"):
        index.ingest("globus://c/foam/", {"metrics": {"porosity_percent": "much"}, "new": 1}, entry_id="run")
    assert found(index, "porosity > 70") == {"foam"}
    assert "new" not in index.fields()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": {"b": None}}, "a.b: None cannot be indexed"),
        ({"a": float("nan")}, "NaN and infinity have no place"),
        ({"a": [1.0, float("inf")]}, "NaN and infinity have no place"),
        ({"a": {1, 2}}, "it is not JSON"),
        ({"a": "x" * 40_000}, "a: a text of 40000 bytes"),
        ({"a": "x" * 11_000_000}, "content: 11000009 bytes"),
        ({"a": 2**63}, "beyond 64 bits"),
        ({"a.b": 1}, "'a.b' cannot name a field"),
        ({"": 1}, "cannot name a field"),
        ({f"f{n}": 1 for n in range(1001)}, "1001 fields"),
    ],
)
def test_content_that_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    index = SearchIndex(tmp_path / "index.sqlite")
    with pytest.raises(ParameterError, match=message):
        index.ingest("s", content)
    assert index.search("") == [] and index.fields() == {}


def test_depth_and_entries_have_limits(tmp_path: Path) -> None:
    index = SearchIndex(tmp_path / "index.sqlite")

    def nested(levels: int) -> dict[str, Any]:
        content: dict[str, Any] = {"x": 1}
        for _ in range(levels - 1):
            content = {"x": content}
        return content

    index.ingest("s", nested(20))
    with pytest.raises(ParameterError, match="deeper than 20 levels"):
        index.ingest("s", {"y": nested(20)})
    for number in range(MAX_ENTRIES_PER_SUBJECT):
        index.ingest("full", {"n": number}, entry_id=str(number))
    index.ingest("full", {"n": 0}, entry_id="0")
    with pytest.raises(ParameterError, match="10 entries, the limit"):
        index.ingest("full", {"n": 11}, entry_id="eleventh")


BODY: dict[str, Any] = {
    "search_index": "i",
    "subject": "globus://c/x",
    "visible_to": ["public"],
    "content": {"metrics": {"porosity_percent": 1.0}},
    "id": "run",
}


def test_the_action(tmp_path: Path) -> None:
    index = SearchIndex(tmp_path / "index.sqlite")
    result = index.run(BODY, ActionContext("PublishMetrics"))
    assert (result.status, result.details["state"], result.details["index_id"]) == ("SUCCEEDED", "SUCCESS", "i")
    assert [hit.entry_id for hit in index.search("porosity = 1")] == ["run"]
    assert index.run({**BODY, "id": None}, ActionContext("P")).status == "SUCCEEDED"
    refused = index.run({**BODY, "content": {"metrics": {"porosity_percent": "?"}}}, ActionContext("P"))
    assert (refused.status, refused.details["state"]) == ("FAILED", "FAILED")
    assert "metrics.porosity_percent" in refused.details["message"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"search_index": None}, "search_index"),
        ({"subject": ""}, "subject: a text of 1 to 500 bytes"),
        ({"subject": "ü" * 251}, "subject"),
        ({"visible_to": []}, "visible_to"),
        ({"visible_to": "public"}, "visible_to"),
        ({"visible_to": ["everybody"]}, "visible_to"),
        ({"content": [1]}, "content"),
        ({"id": 5}, "id: a text"),
    ],
)
def test_a_bad_request_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ActionUnableToRun, match=message):
        SearchIndex(tmp_path / "index.sqlite").run({**BODY, **change}, ActionContext("P"))


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "index.sqlite").write_text("hello" * 1000)
    with pytest.raises(InputError, match="is not a usable database"):
        SearchIndex(tmp_path / "index.sqlite").search("")
    result = SearchIndex(tmp_path / "index.sqlite").run(BODY, ActionContext("P"))
    assert result.status == "FAILED"


def test_many_writers_and_readers(tmp_path: Path) -> None:
    def work(number: int) -> None:
        index = SearchIndex(tmp_path / "index.sqlite")
        for step in range(5):
            index.ingest(f"s{number}-{step}", {"n": number})
            index.search("n >= 0")

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(work, range(6))) == [None] * 6
    assert len(SearchIndex(tmp_path / "index.sqlite").search("", limit=100)) == 30


def test_a_new_file_may_be_used_by_many_at_once(tmp_path: Path) -> None:
    for attempt in range(40):
        path = tmp_path / f"{attempt}.sqlite"
        together = threading.Barrier(8)

        def use(number: int, path: Path = path, together: threading.Barrier = together) -> None:
            together.wait()
            SearchIndex(path).ingest(f"s{number}", {"n": number})

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(use, range(8))) == [None] * 8


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(bound=st.floats(-10, 100), other=st.floats(-10, 500))
def test_ranges_agree_with_python(index: SearchIndex, bound: float, other: float) -> None:
    expected = {
        name
        for name, metrics in METRICS.items()
        if metrics["porosity_percent"] > bound or metrics["mean_diameter_um"] <= other
    }
    assert found(index, f"porosity > {bound!r} or mean_diameter <= {other!r}") == expected


def test_types_that_are_known_beforehand_are_not_fixed_by_the_first_value(tmp_path: Path) -> None:
    by_chance, known = SearchIndex(tmp_path / "a.sqlite"), SearchIndex(tmp_path / "b.sqlite", {"scan.sample": "text"})
    for index in (by_chance, known):
        index.ingest("first", {"scan": {"sample": "2026-11-22"}})
    with pytest.raises(ParameterError, match=r"scan\.sample: the index holds it as date"):
        by_chance.ingest("second", {"scan": {"sample": "shale"}})
    known.ingest("second", {"scan": {"sample": "shale"}})
    assert [hit.subject for hit in known.search("sample:shale")] == ["second"]
    assert [hit.subject for hit in SearchIndex(tmp_path / "b.sqlite").search("sample:shale")] == ["second"]


def test_the_delete_action_removes_a_subject_with_all_its_entries_and_no_other(tmp_path: Path) -> None:
    index = SearchIndex(tmp_path / "index.sqlite")
    for subject, entry in (("run/failure", "run"), ("run/failure", "note"), ("run", "run")):
        index.ingest(subject, {"status": "failed", "said": "shale"}, entry_id=entry)
    body = {"search_index": "index", "delete_by": "subject", "subject": "run/failure"}
    for _ in range(2):
        result = SearchDeletion(index).run(body, ActionContext("ForgetRunFailure"))
        assert (result.status, result.details["state"]) == ("SUCCEEDED", "SUCCESS")
        assert [hit.subject for hit in index.search("shale")] == ["run"]
    with pytest.raises(ActionUnableToRun, match="delete_by"):
        SearchDeletion(index).run({**body, "delete_by": "query"}, ActionContext("ForgetRunFailure"))
