"""A query as Globus Search takes it, names as the local index understands them, and hits page by page."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import globus_sdk
import pytest
from documents import KINDS_OF_RUN, make_document
from facility.services.web import WebServices
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tomopipe.flows.local.search_index import SearchIndex
from tomopipe.flows.publish import MAX_HITS, globus_query, search_service
from tomopipe.functions.errors import ParameterError

INDEX = "60d1160b-f016-40b0-8545-99619865873d"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", "*"),
        ("*", "*"),
        ("shale", '"shale"'),
        ('"fibre composite"', '"fibre composite"'),
        ("sample:shale", 'scan.sample:"shale"'),
        ("scan.sample:shale", 'scan.sample:"shale"'),
        ("sample:sha*", "scan.sample:sha*"),
        ("sha*", "sha*"),
        ("scan-00*", '("scan" AND 00*)'),
        ("scan_id:beam/scan-00*", '(scan_id:"beam" AND scan_id:"scan" AND scan_id:00*)'),
        ("porosity > 20", "metrics.porosity_percent:{20.0 TO *}"),
        ("porosity >= 20", "metrics.porosity_percent:[20.0 TO *}"),
        ("porosity < -1e-3", "metrics.porosity_percent:{* TO -0.001}"),
        ("porosity <= 20", "metrics.porosity_percent:{* TO 20.0]"),
        ("porosity = 20", "metrics.porosity_percent:[20.0 TO 20.0]"),
        (
            "porosity != 20",
            "(metrics.porosity_percent:{* TO 20.0} OR metrics.porosity_percent:{20.0 TO *})",
        ),
        ("porosity:20", "metrics.porosity_percent:[20.0 TO 20.0]"),
        ("a b", '("a" AND "b")'),
        ("a or b c", '("a" OR ("b" AND "c"))'),
        ("(a or b) c", '(("a" OR "b") AND "c")'),
        ("not a", '(* AND NOT "a")'),
        ("not (a or b)", '(* AND NOT ("a" OR "b"))'),
        (
            "porosity > 0.2 and sample:shale",
            '(metrics.porosity_percent:{0.2 TO *} AND scan.sample:"shale")',
        ),
        ("published_at:2026", 'published_at:["2026-01-01T00:00:00Z" TO "2027-01-01T00:00:00Z"}'),
        ("published_at:2026-12", 'published_at:["2026-12-01T00:00:00Z" TO "2027-01-01T00:00:00Z"}'),
        ("published_at:2026-02", 'published_at:["2026-02-01T00:00:00Z" TO "2026-03-01T00:00:00Z"}'),
        ("published_at:2026-11-30", 'published_at:["2026-11-30T00:00:00Z" TO "2026-12-01T00:00:00Z"}'),
        (
            'published_at:"2026-11-30T10:00:00Z"',
            'published_at:["2026-11-30T10:00:00Z" TO "2026-11-30T10:00:00Z"]',
        ),
    ],
)
def test_query_strings(query: str, expected: str) -> None:
    assert globus_query(query) == {"@version": "query#1.0.0", "q": expected, "advanced": True}


@pytest.mark.parametrize("text", ["AND", "a:b", "x^2", "a~1", "/re/", "[1 TO 2]", "back\\slash", "x*:*y", "a && b"])
def test_what_a_person_writes_is_never_syntax(text: str) -> None:
    (query,) = [globus_query(f'"{text}"')["q"]]
    assert query == '"' + text.replace("\\", "\\\\") + '"'


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("porosty > 20", "there is no field 'porosty'; similar: .*porosity_percent"),
        ("sample > 20", "scan.sample is no number; look for a word in it"),
        ("porosity:many", "metrics.porosity_percent holds numbers; compare it, as in porosity > 1"),
        ("published_at:yesterday", "published_at holds dates, and 'yesterday' is none"),
        ("published_at:2026-13", "published_at holds dates"),
        ("published_at:9999-12-31", "published_at holds dates"),
        ("porosity >", "a number is needed"),
    ],
)
def test_refusals(query: str, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        globus_query(query)


def test_lengths_in_micrometres_are_meant_where_there_are_pixels_too() -> None:
    assert globus_query("equivalent_diameter_mean > 5")["q"] == "metrics.equivalent_diameter_mean_um:{5.0 TO *}"
    assert globus_query("surface_area < 5")["q"] == "metrics.surface_area_um2:{* TO 5.0}"
    assert globus_query("noise_level < 5")["q"] == "quality.noise_level_per_cm:{* TO 5.0}"
    assert globus_query("thickness_mean_pixel > 5")["q"] == "metrics.thickness_mean_pixel:{5.0 TO *}"


@pytest.mark.parametrize(
    "query",
    [
        "porosity > 20", "porosity_percent < 30", "sample:shale", "sample:sh*", "algorithm:fourierrec",
        "wait_s_inspect > 100", "voxel_size < 2", "published_at:2026-11-22", "center = 31.5", "creators.name:unav",
        "elapsed_s > 1", "stage:Reconstruct",
    ],
)  # fmt: skip
def test_both_indices_mean_the_same_field(tmp_path: Path, query: str) -> None:
    """What the local index finds by a name is what the service is asked for by the full one."""
    index = SearchIndex(tmp_path / "index.sqlite")
    documents = {name: make_document(tmp_path / name, **changes) for name, changes in KINDS_OF_RUN.items()}
    for name, document in documents.items():
        index.ingest(name, document)
    failure = {"stage": "Reconstruct", "error": "E", "cause": "C"}
    index.ingest("failed", {"status": "failed", "failure": failure})
    found = {hit.subject for hit in index.search(query)}
    assert found
    field = globus_query(query)["q"].partition(":")[0]
    written = query.replace(query.split(":")[0].split(" ")[0], field, 1)
    assert {hit.subject for hit in index.search(written)} == found


QUERIES = [
    "*", "shale", "sample:shale", "sample:SHALE", "sample:sha*", "sha*", '"X-ray computed tomography"', "experimenter:person",
    "porosity > 20", "porosity >= 21.5", "porosity > 21.5", "porosity < 21.5", "porosity <= 21.5", "porosity = 21.5",
    "porosity != 21.5", "porosity:21.5", "not porosity > 20", "porosity > 20 and sample:shale", "not sample:shale",
    "sample:shale or stage:Reconstruct", "(sample:shale or stage:Reconstruct) and not porosity > 20", "not not shale",
    "thickness_mean_pixel > 1", "phases > 2", "thresholds_per_cm > 0.25", "algorithm:fourierrec porosity > 1",
    "wait_s_inspect >= 3600", "energy = 25", "beamline:2-BM", 'proposal:"GUP-1"', "proposal:GUP-1*", "published_at:2026",
    "published_at:2026-11", "published_at:2026-11-22", "published_at:2026-11-23", "date:2026-11-21", "status:failed",
    "reused:preprocess", "nothing", "not nothing", "reconstruct", "scan_id:shale and recipe_id:0123456789ab",
]  # fmt: skip


def _documents(folder: Path) -> dict[str, dict[str, Any]]:
    documents = {f"globus://c/{name}": make_document(folder / name, **kind) for name, kind in KINDS_OF_RUN.items()}
    failed = {
        "format": "tomopipe-document/2",
        "status": "failed",
        "scan_id": "sandstone",
        "failure": {"stage": "Reconstruct", "error": "ActionFailedException", "cause": "the disk is full"},
    }
    return {**documents, "globus://c/failed": failed}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SearchIndex, globus_sdk.SearchClient, str]]:
    """The local index and one of the stand-in of Globus Search, with the same documents."""
    folder = tmp_path_factory.mktemp("both")
    local = SearchIndex(folder / "index.sqlite")
    documents = _documents(folder)
    for subject, document in documents.items():
        local.ingest(subject, document, entry_id="run")
    with WebServices(folder) as services, pytest.MonkeyPatch.context() as patch:
        for name, value in services.environment.items():
            patch.setenv(name, value)
        client_id, secret = services.add_service_account()
        app = globus_sdk.ClientApp("test", client_id=client_id, client_secret=secret)
        client = globus_sdk.SearchClient(app=app, app_scopes=[globus_sdk.SearchClient.scopes.all])
        index_id = client.create_index("runs", "of a test")["id"]
        entries = [
            {"subject": subject, "id": "run", "visible_to": ["public"], "content": content}
            for subject, content in documents.items()
        ]
        body = {"ingest_type": "GMetaList", "ingest_data": {"gmeta": entries}}
        task_id = client.ingest(index_id, body)["task_id"]
        deadline = time.monotonic() + 30
        while client.get_task(task_id)["state"] != "SUCCESS":
            assert time.monotonic() < deadline, client.get_task(task_id).data
            time.sleep(0.05)
        yield local, client, index_id
        client.close()
        app.close()


@pytest.mark.parametrize("query", QUERIES)
def test_both_indices_find_the_same(both: tuple[SearchIndex, globus_sdk.SearchClient, str], query: str) -> None:
    local, client, index_id = both
    found = {hit.subject: hit.content for hit in local.search(query)}
    assert {hit.subject: hit.content for hit in search_service(client, index_id, query)} == found
    assert bool(found) is (query != "nothing")


_CONDITIONS = st.sampled_from(
    ["shale", "sandstone", "sample:shale", "porosity > 20", "porosity != 20", "phases > 2", "status:failed", "sand*"]
)
_TREES = st.recursive(
    _CONDITIONS,
    lambda inner: st.one_of(
        inner.map(lambda operand: f"not ({operand})"),
        st.tuples(inner, st.sampled_from(["and", "or", ""]), inner).map(lambda parts: f"({' '.join(parts)})"),
    ),
    max_leaves=8,
)


@given(_TREES)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_tree_means_the_same_to_both(both: tuple[SearchIndex, globus_sdk.SearchClient, str], query: str) -> None:
    local, client, index_id = both
    found = {hit.subject for hit in local.search(query)}
    assert {hit.subject for hit in search_service(client, index_id, query)} == found


def test_hits_are_latest_first_and_failures_last(
    tmp_path: Path, both: tuple[SearchIndex, globus_sdk.SearchClient, str]
) -> None:
    _, client, index_id = both
    hits = search_service(client, index_id, "*")
    times = [hit.content.get("published_at", "") for hit in hits]
    assert times == sorted(times, reverse=True)
    assert hits[-1].content["status"] == "failed"


class _Service(ThreadingHTTPServer):
    """Search with as many results as it is told of, and nothing else; refuses to sort where it has none."""

    def __init__(self, total: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.total = total
        self.bodies: list[dict[str, Any]] = []


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert self.path == f"/v1/index/{INDEX}/search"
        assert isinstance(self.server, _Service)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        last = min(body["offset"] + body["limit"], self.server.total)
        answer = {
            "gmeta": [
                {
                    "subject": f"globus://c/{number}",
                    "entries": [{"entry_id": "run" if number else None, "content": {"scan_id": str(number)}}],
                }
                for number in range(body["offset"], last)
            ],
            "count": last - body["offset"],
            "offset": body["offset"],
            "total": self.server.total,
            "has_next_page": last < self.server.total,
        }
        text = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture(params=[0, 3, 250])
def service(request: pytest.FixtureRequest) -> Iterator[_Service]:
    with _Service(request.param) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def client(service: _Service) -> Iterator[globus_sdk.SearchClient]:
    address = f"http://127.0.0.1:{service.server_address[1]}"
    client = globus_sdk.SearchClient(authorizer=globus_sdk.NullAuthorizer(), base_url=address)
    yield client
    client.close()


@pytest.mark.parametrize("limit", [1, 3, 100, 120, 250, 1000])
def test_hits_of_all_pages_up_to_the_limit(service: _Service, client: globus_sdk.SearchClient, limit: int) -> None:
    hits = search_service(client, INDEX, "porosity > 20", limit)
    assert [hit.content["scan_id"] for hit in hits] == [str(number) for number in range(min(limit, service.total))]
    assert [hit.entry_id for hit in hits] == ["", *["run"] * (len(hits) - 1)][: len(hits)]
    assert hits == [] or hits[0].subject == "globus://c/0"
    asked = min(limit, max(service.total, 1))
    assert len(service.bodies) == -(-asked // 100)
    for body in service.bodies:
        assert body["q"] == "metrics.porosity_percent:{20.0 TO *}"
        assert body["advanced"] is True
        assert body["limit"] <= 100
        assert body["sort"] == [{"field_name": "published_at", "order": "desc"}]


@pytest.mark.parametrize("limit", [0, MAX_HITS + 1])
def test_limits_beyond_what_the_service_lists(client: globus_sdk.SearchClient, limit: int) -> None:
    with pytest.raises(ParameterError, match="narrow the query"):
        search_service(client, INDEX, "*", limit)
