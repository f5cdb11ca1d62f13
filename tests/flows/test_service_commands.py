"""The client and the commands of a facility against the services on loopback: what is submitted, found, and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import h5py
import numpy as np
import psutil
import pytest
import yaml
from facility.services.http import Request, Response, ServiceError
from facility.services.web import WebServices
from facility_bed import FacilityBed, make_bed
from runs import Pipeline

from tomopipe.flows import batch, client, service_commands
from tomopipe.flows.cli import main
from tomopipe.flows.client import Client
from tomopipe.flows.deployment import load_deployment
from tomopipe.flows.found_runs import cancel_local, latest_good, local_base
from tomopipe.flows.local.run_store import RunStore
from tomopipe.flows.login import GlobusServiceError, make_services
from tomopipe.flows.manifest import ManifestEntry
from tomopipe.flows.request import FUNCTIONS
from tomopipe.flows.submissions import submission_store
from tomopipe.functions import stages
from tomopipe.functions.errors import InputError, ParameterError
from tomopipe.functions.rundir import RunDirectory
from tomopipe.functions.simulation import SimulationSettings, simulate_scan


@dataclass
class Command:
    """How the command ended, and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (client, batch):
        monkeypatch.setattr(module, "_POLL_FIRST_S", 0.05)
        monkeypatch.setattr(module, "_POLL_MAX_S", 0.2)
    monkeypatch.setattr(client, "_SUBMIT_PAUSES_S", (0.05, 0.05, 0.05))
    monkeypatch.setattr(client, "_LIST_LAG_S", 0.2)
    monkeypatch.setattr(client, "_LIST_POLL_S", 0.05)


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServices]:
    """Services on loopback, a service account in the environment, and a home of its own."""
    for name in ("TOMOPIPE_DEPLOYMENT", "GLOBUS_SDK_ENVIRONMENT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TOMOPIPE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    with WebServices(tmp_path / "services") as web:
        for name, value in web.environment.items():
            monkeypatch.setenv(name, value)
        account, secret = web.add_service_account()
        monkeypatch.setenv("TOMOPIPE_CLIENT_ID", account)
        monkeypatch.setenv("TOMOPIPE_CLIENT_SECRET", secret)
        yield web
        assert web.faults == []


@pytest.fixture
def bed(environment: WebServices, tmp_path: Path) -> FacilityBed:
    return make_bed(environment, tmp_path, tmp_path / "home", os.environ["TOMOPIPE_CLIENT_ID"])


@pytest.fixture
def here(bed: FacilityBed) -> Iterator[Client]:
    with bed.client() as made:
        yield made


@pytest.fixture
def tomopipe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Command]:
    """The command, in this process."""

    def run(*arguments: object) -> Command:
        monkeypatch.setattr(sys, "argv", ["tomopipe", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        printed = capsys.readouterr()
        return Command(int(left.value.code or 0), printed.out, printed.err)

    return run


GROUPS = [f"urn:globus:groups:id:{uuid.UUID(int=number, version=4)}" for number in range(17)]


def request_fields(run: Any) -> dict[str, Any]:
    fields: dict[str, Any] = run.input["input"]
    return fields


# Submitting


def test_a_run_is_the_deployed_flow_with_what_was_asked_for(bed: FacilityBed, here: Client) -> None:
    run = here.submit(
        bed.scan("tooth.h5"),
        parameters={"reconstruction": {"center": 80.5}},
        skip=["denoise"],
        execution={"workers": 2},
        tags=["beam time 3"],
        managers=["urn:globus:groups:id:11111111-1111-4111-8111-111111111111"],
    )
    (sent,) = bed.runs()
    fields = sent.input["input"]
    assert fields["scan"]["path"] == "/tooth.h5" and fields["scan_id"] == "tooth"
    assert fields["parameters"] == {"reconstruction": {"filter": "hann", "center": 80.5}}
    assert fields["execution"] == {"slab": 16, "workers": 2} and fields["skip"] == ["denoise"]
    assert fields["user_endpoint_config"] == {"queue": "demand"} and fields["processing_root"] == "/machine/tomography"
    assert fields["search_index"] == bed.index_id and fields["destination"]["path"] == "/share"
    assert sent.label == "tooth" and sent.tags[:2] == ["tomopipe", "scan:tooth"] and sent.tags[3:] == ["beam time 3"]
    assert sent.managers == ["urn:globus:groups:id:11111111-1111-4111-8111-111111111111"]
    assert sent.monitors == list(here.deployment.people.monitors)
    assert (run.run_id, run.scan_id, run.url) == (sent.id, "tooth", f"https://app.globus.org/runs/{sent.id}")
    assert here.wait(run.run_id).status == "SUCCEEDED"


def test_a_run_holds_no_path_of_this_machine(bed: FacilityBed, here: Client) -> None:
    here.submit(bed.scan("tooth.h5"))
    assert str(bed.folder) not in json.dumps(bed.runs()[0].input)


def test_a_scan_may_lie_on_any_collection(bed: FacilityBed, here: Client) -> None:
    collection = "22222222-2222-4222-8222-222222222222"
    here.submit(f"globus://{collection}/a/scan 1.h5", scan_id="one", share=False)
    fields = bed.runs()[0].input["input"]
    assert fields["scan"] == {"id": collection, "path": "/a/scan 1.h5"} and "destination" not in fields


@pytest.mark.parametrize(
    ("scan", "options", "said"),
    [
        ("missing.h5", {}, "there is no such file"),
        ("/elsewhere/tooth.h5", {}, "lies outside"),
        ("relative.h5", {}, "absolute path"),
        ("https://x/tooth.h5", {}, "absolute path"),
        ("globus://tooth/a.h5", {}, "is not a UUID"),
        ("a b.h5", {}, "scan id 'a b'"),
        ("tooth.h5", {"scan_id": "../x"}, "scan id"),
        ("tooth.h5", {"parameters": {"reconstruction": {"centre": 1}}}, "unknown parameter"),
        ("tooth.h5", {"skip": ["quantify"]}, "skip"),
        ("tooth.h5", {"start_from": "denoise", "skip": ["denoise"]}, "start_from"),
        ("tooth.h5", {"label": "x" * 65}, "--label"),
        ("tooth.h5", {"tags": ["x" * 65]}, "--tag"),
        ("tooth.h5", {"tags": [f"tag {number}" for number in range(14)]}, "--tag: the run would have 17 tags"),
        ("tooth.h5", {"monitors": ["somebody"]}, "--monitor 'somebody'"),
        ("tooth.h5", {"monitors": ["public"]}, "--monitor 'public'"),
        ("tooth.h5", {"managers": [f"urn:globus:groups:id:{'-' * 36}"]}, "--manager"),
        ("tooth.h5", {"monitors": GROUPS[:16]}, "--monitor: the run would have 17 monitors"),
        ("tooth.h5", {"managers": GROUPS}, "--manager: the run would have 17 managers"),
    ],
)
def test_what_is_impossible_is_refused_before_it_is_sent(
    bed: FacilityBed, here: Client, scan: str, options: dict[str, Any], said: str
) -> None:
    for name in ("tooth.h5", "a b.h5"):
        bed.scan(name)
    path = str(bed.folder / "raw" / scan) if scan in ("missing.h5", "a b.h5", "tooth.h5") else scan
    with pytest.raises(ParameterError) as error:
        here.submit(path, **options)
    assert said in str(error.value)
    assert bed.runs() == []


def test_another_version_than_the_deployed_one_is_refused(bed: FacilityBed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: "9.9.9")
    with bed.client() as newer, pytest.raises(InputError) as error:
        newer.submit(bed.scan("tooth.h5"))
    assert "9.9.9" in str(error.value) and f"tomopipe deploy {bed.file}" in str(error.value)
    assert bed.runs() == []


def test_two_submissions_of_one_request_are_one_run(bed: FacilityBed, here: Client) -> None:
    scan = bed.scan("held.h5")
    first = here.submit(scan)
    with bed.client() as other:
        second = other.submit(scan)
    assert second.run_id == first.run_id and second.was_under_way and not first.was_under_way
    different = here.submit(scan, parameters={"reconstruction": {"center": 80.5}})
    again = here.submit(scan, again=True)
    assert len({first.run_id, different.run_id, again.run_id}) == len(bed.runs()) == 3


def test_submissions_at_the_same_time_are_one_run(bed: FacilityBed) -> None:
    scan, found = bed.scan("held.h5"), []

    def submit() -> None:
        with bed.client() as one:
            found.append(one.submit(scan).run_id)

    threads = [threading.Thread(target=submit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and len(set(found)) == len(bed.runs()) == 1


def test_a_run_that_was_not_written_down_is_found(bed: FacilityBed, here: Client) -> None:
    """What a crash between the submission and the note leaves behind."""
    scan = bed.scan("held.h5")
    first = here.submit(scan)
    submission_store().path.unlink()
    assert here.submit(scan).run_id == first.run_id
    assert len(bed.runs()) == 1


def test_a_lost_answer_makes_no_second_run(bed: FacilityBed, here: Client) -> None:
    scan = bed.scan("tooth.h5")
    here.prepare(scan)
    bed.web.lose_next_answer(prefix=f"/flows/{bed.flow_id}/run", method="POST")
    run = here.submit(scan)
    assert [sent.id for sent in bed.runs()] == [run.run_id]


def test_a_lost_answer_and_a_list_that_lags_make_no_second_run(
    bed: FacilityBed, here: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = bed.scan("tooth.h5")
    here.prepare(scan)
    monkeypatch.setattr(client, "_LIST_LAG_S", 10.0)
    with bed.lagging_list(1.0):
        bed.web.lose_next_answer(prefix=f"/flows/{bed.flow_id}/run", method="POST")
        run = here.submit(scan)
    assert [sent.id for sent in bed.runs()] == [run.run_id]
    # Also where the last answer of all is the one that is lost.
    other = bed.scan("other.h5")
    bed.web.fail_next(503, times=3, prefix=f"/flows/{bed.flow_id}/run", method="POST")
    bed.web.lose_next_answer(prefix=f"/flows/{bed.flow_id}/run", method="POST")
    run = here.submit(other)
    assert [sent.id for sent in bed.runs()[1:]] == [run.run_id]


def test_a_run_that_was_started_here_is_found_though_the_list_lags(bed: FacilityBed, here: Client) -> None:
    scan = bed.scan("held.h5")
    earlier = here.submit(scan, parameters={"reconstruction": {"center": 81.0}})
    with bed.lagging_list():
        first = here.submit(scan)
        with bed.client() as other:
            assert other.submit(scan).run_id == first.run_id
            assert other.find("held") == first.run_id
    submission_store().path.unlink()
    with bed.lagging_list():
        here.submit(scan, again=True)
        submission_store().path.unlink()
        assert here.find("held") == first.run_id != earlier.run_id


def test_a_service_in_trouble_does_not_pass_an_old_run_off_as_the_new_one(bed: FacilityBed, here: Client) -> None:
    scan = bed.scan("bad_1.h5")
    old = here.wait(here.submit(scan).run_id)
    bed.web.fail_next(503, prefix=f"/flows/{bed.flow_id}/run", method="POST")
    new = here.submit(scan)
    assert new.run_id != old.run_id and len(bed.runs()) == 2


def test_requests_are_tried_again_after_a_submission_that_failed(bed: FacilityBed, here: Client) -> None:
    flow = here.services.specific_flow(bed.flow_id)
    before = flow.retry_config.max_retries
    bed.web.fail_next(400, prefix=f"/flows/{bed.flow_id}/run", method="POST")
    with pytest.raises(GlobusServiceError, match="400"):
        here.submit(bed.scan("tooth.h5"))
    assert flow.retry_config.max_retries == before > 0


def test_a_service_in_trouble_is_asked_again(bed: FacilityBed, here: Client) -> None:
    bed.web.fail_next(503, times=2, prefix=f"/flows/{bed.flow_id}/run", method="POST")
    run = here.submit(bed.scan("tooth.h5"))
    assert [sent.id for sent in bed.runs()] == [run.run_id]
    bed.web.fail_next(503, times=4, prefix=f"/flows/{bed.flow_id}/run", method="POST")
    with pytest.raises(GlobusServiceError, match="503"):
        here.submit(bed.scan("other.h5"))
    assert len(bed.runs()) == 1


# Following


def test_wait_survives_a_service_that_is_away(bed: FacilityBed, here: Client) -> None:
    run = here.submit(bed.scan("tooth.h5"))
    # More than the SDK tries again by itself, were it not told to hurry.
    here.services.flows.retry_config.max_retries = 0
    bed.web.fail_next(502, times=3, prefix=f"/runs/{run.run_id}")
    seen: list[str] = []
    assert here.wait(run.run_id, on_change=lambda one: seen.append(one.status)).status == "SUCCEEDED"
    assert seen[-1] == "SUCCEEDED"


def test_wait_gives_up_after_its_time(bed: FacilityBed, here: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    run = here.submit(bed.scan("held.h5"))
    assert here.wait(run.run_id, timeout_s=0.3).status == "ACTIVE"
    here.services.flows.retry_config.max_retries = 0
    bed.web.fail_next(403, times=1, prefix=f"/runs/{run.run_id}")
    with pytest.raises(GlobusServiceError, match="403"):
        here.wait(run.run_id, timeout_s=1.0)
    monkeypatch.setattr(client, "_WAIT_PATIENCE_S", 0.1)
    bed.web.fail_next(502, times=100, prefix=f"/runs/{run.run_id}")
    with pytest.raises(GlobusServiceError, match="502"):
        here.wait(run.run_id)


def test_a_run_that_fails_says_why(bed: FacilityBed, here: Client, tomopipe: Callable[..., Command]) -> None:
    done = tomopipe("submit", bed.scan("bad_1.h5"), "--deployment", bed.file, "--wait")
    assert done.code == 1
    assert "ScanError: no flats" in done.err and "tomopipe retry" in done.err
    assert f"https://app.globus.org/runs/{bed.runs()[0].id}" in done.out
    status = tomopipe("status", "bad_1", "--json")
    shown = json.loads(status.out)
    assert status.code == 0 and shown["error"] == "ScanError: no flats" and shown["status"] == "FAILED"
    assert [state["name"] for state in shown["states"]] == ["Choose", "Refuse"]
    log = tomopipe("log", "bad_1")
    assert log.code == 0 and "FlowStarted" in log.out and "FlowFailed" in log.out and "no flats" in log.out


def test_states_and_log_are_whole(bed: FacilityBed, here: Client) -> None:
    run = here.wait(here.submit(bed.scan("copied.h5")).run_id)
    assert run.status == "SUCCEEDED", run.error
    assert [(state.name, state.status) for state in here.states(run.run_id)] == [
        ("Choose", "SUCCEEDED"), ("TransferScan", "SUCCEEDED"), ("Done", "SUCCEEDED"),
    ]  # fmt: skip
    codes = [event.code for event in here.log(run.run_id)]
    assert codes[0] == "FlowStarted" and codes[-1] == "FlowSucceeded"
    assert request_fields(run)["scan_id"] == "copied"
    raw, copied = (bed.folder / name for name in ("raw/copied.h5", "results/tomography/copied/raw.h5"))
    assert copied.read_bytes() == raw.read_bytes()


def test_runs_of_this_machine_and_of_a_deployment(
    bed: FacilityBed, here: Client, tomopipe: Callable[..., Command]
) -> None:
    here.wait(here.submit(bed.scan("tooth.h5")).run_id)
    here.submit(bed.scan("held.h5"))
    known = json.loads(tomopipe("runs", "--json").out)
    assert [(row["scan_id"], row["status"], row["deployment"]) for row in known] == [
        ("held", "ACTIVE", "beamline"), ("tooth", "SUCCEEDED", "beamline"),
    ]  # fmt: skip
    submission_store().path.unlink()
    assert json.loads(tomopipe("runs", "--json").out) == []
    asked = json.loads(tomopipe("runs", "--json", "--deployment", bed.file).out)
    assert [row["scan_id"] for row in asked] == ["held", "tooth"]
    active = json.loads(tomopipe("runs", "--json", "--deployment", bed.file, "--status", "active").out)
    assert [row["scan_id"] for row in active] == ["held"]
    # A run that this machine never heard of is found at the deployment.
    assert json.loads(tomopipe("status", "tooth", "--json", "-d", bed.file).out)["status"] == "SUCCEEDED"
    assert tomopipe("status", "tooth").code == 0, "what was asked for is known from then on"
    assert tomopipe("status", "nothing", "-d", bed.file).code == 2
    assert tomopipe("status", "nothing").code == 2
    assert tomopipe("runs", "--status", "odd").code == 2


@contextlib.contextmanager
def another_machine() -> Iterator[None]:
    """What is submitted meanwhile this machine does not hear of."""
    path = submission_store().path
    kept = path.read_bytes()
    yield
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()
    path.write_bytes(kept)


def test_a_scan_at_a_deployment_is_its_latest_run(
    bed: FacilityBed, here: Client, tomopipe: Callable[..., Command]
) -> None:
    first = here.wait(here.submit(bed.scan("tooth.h5")).run_id)
    with another_machine():
        second = here.submit(bed.scan("tooth.h5"), parameters={"reconstruction": {"center": 82.5}})
    shown = json.loads(tomopipe("status", "tooth", "-d", bed.file, "--json").out)
    assert shown["run_id"] == second.run_id
    shown = json.loads(tomopipe("status", first.run_id[:8], "-d", bed.file, "--json").out)
    assert shown["run_id"] == first.run_id


def test_reprocess_of_a_scan_takes_the_latest_run_of_any_machine(
    bed: FacilityBed, here: Client, tomopipe: Callable[..., Command]
) -> None:
    first = here.wait(here.submit(bed.scan("tooth.h5")).run_id)
    with another_machine():
        here.wait(here.submit(bed.scan("tooth.h5"), parameters={"reconstruction": {"center": 82.5}}).run_id)
    for name, center in (("tooth", 82.5), (first.run_id[:8], None)):
        assert tomopipe("reprocess", name, "--set", "segmentation.phases=3").code == 0
        parameters = bed.runs()[-1].input["input"]["parameters"]
        assert parameters["reconstruction"].get("center") == center and parameters["segmentation"] == {"phases": 3}


def test_a_run_that_is_gone_hides_no_other(
    bed: FacilityBed, here: Client, tomopipe: Callable[..., Command], monkeypatch: pytest.MonkeyPatch
) -> None:
    older, newer = here.submit(bed.scan("held_1.h5")), here.submit(bed.scan("held_2.h5"))
    for run in (older, newer):
        bed.end(run.run_id)
    release(bed, newer.run_id)
    first = tomopipe("runs", "--json")
    expected = [("held_2", "GONE", None), ("held_1", "CANCELLED", None)]
    assert [(row["scan_id"], row["status"], row["asked"]) for row in json.loads(first.out)] == expected
    assert "knows no such run" in first.err
    again = tomopipe("runs", "--json")
    assert [(row["scan_id"], row["status"], row["asked"]) for row in json.loads(again.out)] == expected
    assert again.err == "", "it was said once"
    asked = len(bed.web.requests)
    monkeypatch.setattr(service_commands, "_KEPT_DAYS", 0)
    assert [row["status"] for row in json.loads(tomopipe("runs", "--json").out)] == ["GONE", "CANCELLED"]
    assert len(bed.web.requests) == asked, "what the service keeps no longer is not asked for"


def test_a_time_without_a_zone_is_local(bed: FacilityBed, here: Client) -> None:
    run = here.submit(bed.scan("tooth.h5"))
    now = datetime.now().astimezone().replace(tzinfo=None)
    assert [one.run_id for one in here.runs(since=now - timedelta(minutes=1))] == [run.run_id]
    assert here.runs(since=now + timedelta(minutes=1)) == []


def test_the_report_of_a_run_at_a_facility_is_said(
    bed: FacilityBed, here: Client, tomopipe: Callable[..., Command], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = here.wait(here.submit(bed.scan("tooth.h5")).run_id)
    nothing = tomopipe("report", "tooth")
    assert nothing.code == 2 and "ran at beamline and has no results (SUCCEEDED)" in nothing.err
    bed.inspected(run.run_id, "tooth/0123456789ab")
    collection, folder = here.deployment.processing.collection, "/tomography/tooth/0123456789ab"
    shown = tomopipe("report", "tooth")
    page = f"https://app.globus.org/file-manager?origin_id={collection}&origin_path={quote(folder + '/', safe='')}"
    assert shown.code == 0 and shown.out.strip() == page and "ran at beamline" in shown.err
    served = "https://g-1.data.globus.org/tomography/tooth/0123456789ab/report.html"
    for subject, address in (
        (f"globus://{collection}{folder}", served),
        (f"globus://{collection}/other", f"{served}#"),
    ):
        bed.publish(subject, {"scan_id": "tooth", "links": {"report": address, "previews": []}})
    opened: list[str] = []
    monkeypatch.setattr("typer.launch", opened.append)
    assert tomopipe("report", run.run_id[:8], "--open").out.strip() == served and opened == [served]
    for names in (["tooth", "tooth"], ["tooth", tmp_path]):
        compared = tomopipe("compare", *names)
        assert compared.code == 2 and served in compared.err and folder in compared.err, compared.err
    assert tomopipe("report", "nothing").code == tomopipe("compare", "nothing", "tooth").code == 2
    # The machine that computes has the folder.
    text = bed.file.read_text(encoding="utf-8").replace("/machine/tomography", str(tmp_path / "results" / "tomography"))
    bed.file.write_text(text, encoding="utf-8")
    root = tmp_path / "results" / folder.lstrip("/")
    root.mkdir(parents=True)
    (root / "run.json").write_text("{}", encoding="utf-8")
    assert tomopipe("report", "tooth").code == 2
    (root / "report.html").write_text("report", encoding="utf-8")
    assert tomopipe("report", "tooth").out.strip() == str(root / "report.html")
    assert f"{root}/run.json" in tomopipe("compare", "tooth", "tooth").err, "it is read"


def test_runs_of_others_are_seen_by_those_who_may(
    bed: FacilityBed, here: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    colleague, secret = bed.web.add_service_account()
    run = here.submit(bed.scan("held.h5"), monitors=[f"urn:globus:auth:identity:{colleague}"])
    here.submit(bed.scan("held_2.h5"))
    monkeypatch.setenv("TOMOPIPE_CLIENT_ID", colleague)
    monkeypatch.setenv("TOMOPIPE_CLIENT_SECRET", secret)
    with bed.client() as other:
        assert [one.run_id for one in other.runs()] == [run.run_id]
        assert other.run(run.run_id).status == "ACTIVE"
        with pytest.raises(GlobusServiceError, match="403"):
            other.cancel(run.run_id)
    asked = [one.query for one in bed.web.requests if one.path == "/runs"]
    assert all("run_monitor" in query["filter_roles"] for query in asked), "the service lists one's own runs by default"


def test_without_a_network_the_last_known_state_is_marked(
    bed: FacilityBed, here: Client, tomopipe: Callable[..., Command], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = here.submit(bed.scan("held.h5"))
    monkeypatch.setenv("GLOBUS_SDK_SERVICE_URL_FLOWS", "http://127.0.0.1:9/")
    monkeypatch.setattr("globus_sdk.transport.RetryConfig.max_retries", 0)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    listed = tomopipe("runs")
    assert listed.code == 0 and "held" in listed.out and "as of" in listed.out and "warning:" in listed.err
    asked = tomopipe("runs", "--json", "--deployment", bed.file)
    assert asked.code == 0 and json.loads(asked.out)[0]["asked"] is not None
    status = tomopipe("status", run.run_id[:8])
    assert status.code == 0 and "cannot be asked now" in status.out
    for command in (["log", "held"], ["cancel", "held"], ["submit", bed.scan("b.h5"), "-d", bed.file]):
        done = tomopipe(*command)
        assert done.code == 1 and done.err.splitlines()[-1].startswith("error: ") and "Traceback" not in done.err


def test_cancel_stops_a_run(bed: FacilityBed, here: Client, tomopipe: Callable[..., Command]) -> None:
    run = here.submit(bed.scan("held.h5"))
    assert tomopipe("cancel", run.run_id[:8]).code == 0
    waited = tomopipe("wait", "held")
    assert waited.code == 1 and "was cancelled" in waited.err
    again = tomopipe("cancel", "held")
    assert again.code == 2 and "has ended (CANCELLED)" in again.err
    assert here.submit(bed.scan("held.h5")).run_id != run.run_id


@pytest.mark.parametrize("verb", ["cancel", "resume"])
def test_what_was_done_though_its_answer_was_lost_is_no_failure(bed: FacilityBed, here: Client, verb: str) -> None:
    run = here.submit(bed.scan("held.h5"))
    if verb == "resume":
        bed.hold(run.run_id)
    bed.web.lose_next_answer(prefix=f"/runs/{run.run_id}/{verb}", method="POST")
    done = here.cancel(run.run_id) if verb == "cancel" else here.resume(run.run_id)
    assert done.status == {"cancel": "CANCELLED", "resume": "ACTIVE"}[verb]
    statuses = [one.status for one in bed.web.requests if one.path == f"/runs/{run.run_id}/{verb}"]
    assert statuses == [200, 409]


@pytest.mark.parametrize("verb", ["cancel", "resume"])
def test_a_conflict_that_left_the_run_as_it_was_is_a_failure(bed: FacilityBed, here: Client, verb: str) -> None:
    run = here.submit(bed.scan("held.h5"))
    if verb == "resume":
        bed.hold(run.run_id)
    bed.web.fail_next(409, prefix=f"/runs/{run.run_id}/{verb}", method="POST")
    with pytest.raises(GlobusServiceError, match="409"):
        here.cancel(run.run_id) if verb == "cancel" else here.resume(run.run_id)


SESSION = {
    "code": "AuthorizationRequired",
    "authorization_parameters": {
        "session_message": "This collection wants an account of the laboratory",
        "session_required_single_domain": ["lab.example"],
        "session_required_policies": ["55555555-5555-4555-8555-555555555555"],
        "session_required_mfa": True,
    },
}


def test_a_session_that_is_needed_needs_a_person(
    bed: FacilityBed, here: Client, tomopipe: Callable[..., Command]
) -> None:
    run = here.submit(bed.scan("held.h5"))
    held = bed.hold(run.run_id, **SESSION)
    shown = tomopipe("status", "held").out
    assert "wants an account of the laboratory" in shown and "an identity of lab.example" in shown
    done = tomopipe("resume", "held")
    assert done.code == 3 and "an identity of lab.example" in done.err and "a service account cannot" in done.err
    assert held.status == "INACTIVE"


def test_a_person_resumes_with_the_session_that_is_needed(
    bed: FacilityBed,
    monkeypatch: pytest.MonkeyPatch,
    tomopipe: Callable[..., Command],
    capsys: pytest.CaptureFixture[str],
) -> None:
    person = bed.web.add_person("scientist@lab.example")
    with make_services(load_deployment(bed.file)) as services:
        services.flows.update_flow(bed.flow_id, flow_starters=[f"urn:globus:auth:identity:{person.id}"])
    for name in ("TOMOPIPE_CLIENT_ID", "TOMOPIPE_CLIENT_SECRET"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("TOMOPIPE_NATIVE_CLIENT_ID", bed.web.native_client_id)
    addresses: list[str] = []

    def paste() -> str:
        found = re.search(r"http://\S+", capsys.readouterr().err)
        assert found is not None
        addresses.append(found[0])
        return bed.web.log_in(found[0], "scientist@lab.example")

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", paste)
    assert tomopipe("login", bed.file).code == 0
    assert tomopipe("submit", bed.scan("held.h5"), "-d", bed.file).code == 0
    held = bed.hold(bed.runs()[0].id, **SESSION)
    done = tomopipe("resume", "held")
    assert done.code == 0 and held.status == "ACTIVE", done.err
    asked = parse_qs(urlsplit(addresses[-1]).query)
    wanted = SESSION["authorization_parameters"]
    assert len(addresses) == 2
    assert asked["session_required_single_domain"] == wanted["session_required_single_domain"]  # type: ignore[index]
    assert asked["session_required_policies"] == wanted["session_required_policies"]  # type: ignore[index]
    assert asked["session_required_mfa"] == ["True"]


def test_an_inactive_run_is_resumed(environment: WebServices, tmp_path: Path, tomopipe: Callable[..., Command]) -> None:
    account = os.environ["TOMOPIPE_CLIENT_ID"]
    bed = make_bed(environment, tmp_path, tmp_path / "home", account, mapped=True)
    # A deployment that does not know that the collection asks for consent, as one may have written it.
    text = bed.file.read_text(encoding="utf-8")
    bed.file.write_text(text.replace("mapped: true", "mapped: false"), encoding="utf-8")
    done = tomopipe("submit", bed.scan("copied.h5"), "-d", bed.file, "--wait")
    assert done.code == 3, done.err
    assert "data_access" in done.err and "tomopipe resume" in done.err and "app.globus.org/runs/" in done.err
    assert json.loads(tomopipe("status", "copied", "--json").out)["status"] == "INACTIVE"
    assert "waits for a person" in tomopipe("status", "copied").out
    resumed = tomopipe("resume", "copied", "--wait")
    assert resumed.code == 0, resumed.err
    assert (tmp_path / "results" / "tomography" / "copied" / "raw.h5").is_file()
    assert tomopipe("resume", "copied").code == 2
    assert len(bed.runs()) == 1


# Again


def redeploy(bed: FacilityBed, **defaults: Any) -> None:
    """What `deploy` does to the flow when a deployment or the functions have changed."""
    with make_services(load_deployment(bed.file)) as services:
        schema = services.flows.get_flow(bed.flow_id)["input_schema"]
        for name, value in defaults.items():
            schema["properties"]["input"]["properties"][name]["default"] = value
        services.flows.update_flow(bed.flow_id, input_schema=schema)


def test_retry_sends_the_same_input_to_the_functions_of_today(bed: FacilityBed, here: Client) -> None:
    people = ["urn:globus:groups:id:33333333-3333-4333-8333-333333333333"]
    scan = bed.scan("bad_1.h5")
    failed = here.wait(here.submit(scan, label="my scan", tags=["mine"], monitors=people, share=False).run_id)
    redeploy(bed, inspect_function_id=str(uuid.uuid4()))
    with bed.client() as later:
        retried = later.retry(failed.run_id)
    first, second = bed.runs()
    assert retried.run_id == second.id and second.label == "my scan" and second.monitors == first.monitors
    assert {"retry", "mine", *(tag for tag in first.tags if tag.startswith("request:"))} <= set(second.tags)
    assert second.input["input"]["inspect_function_id"] != first.input["input"]["inspect_function_id"]
    assert {**second.input["input"], "inspect_function_id": ""} == {**first.input["input"], "inspect_function_id": ""}


def test_retry_runs_where_the_deployment_says_now_for_those_that_the_request_named(
    bed: FacilityBed, here: Client
) -> None:
    failed = here.wait(here.submit(bed.scan("bad_1.h5")).run_id)
    now = {
        "compute_endpoint": str(uuid.uuid4()), "user_endpoint_config": {"queue": "prod"},
        "search_index": str(uuid.uuid4()), "results_url": "https://results.example/tomography",
    }  # fmt: skip
    redeploy(bed, **now, visible_to=["all_authenticated_users"], processing_root="/elsewhere")
    with bed.client() as later:
        later.retry(failed.run_id)
    first, second = (run.input["input"] for run in bed.runs())
    assert {name: second[name] for name in now} == now and second == {**first, **now}
    assert second["visible_to"] == ["public"] and bed.runs()[0].tags[2] == bed.runs()[1].tags[2]


def test_what_has_succeeded_is_retried_only_where_that_is_meant(
    bed: FacilityBed, here: Client, tomopipe: Callable[..., Command]
) -> None:
    run = here.wait(here.submit(bed.scan("tooth.h5")).run_id)
    refused = tomopipe("retry", "tooth")
    assert refused.code == 2 and "has succeeded" in refused.err and "--again" in refused.err
    with pytest.raises(InputError, match="has succeeded"):
        here.retry(run.run_id)
    assert len(bed.runs()) == 1
    assert tomopipe("retry", "tooth", "--again").code == 0
    assert here.retry(run.run_id, again=True).run_id == bed.runs()[-1].id and len(bed.runs()) == 3


def test_a_run_with_all_tags_that_fit_is_retried(bed: FacilityBed, here: Client) -> None:
    tags = [f"tag {number}" for number in range(13)]
    failed = here.wait(here.submit(bed.scan("bad_1.h5"), tags=tags).run_id)
    here.retry(failed.run_id)
    first, second = bed.runs()
    assert first.tags[3:] == tags and second.tags[:3] == first.tags[:3] and second.tags[3:] == ["retry", *tags[:12]]


def test_what_somebody_gave_up_is_not_retried(bed: FacilityBed, here: Client) -> None:
    hour = datetime.now(UTC) - timedelta(hours=1)
    failed = here.wait(here.submit(bed.scan("bad_1.h5")).run_id)
    assert [run.run_id for run in here.failed_runs(hour)] == [failed.run_id]
    here.wait(here.submit(bed.scan("bad_1.h5")).run_id)
    bed.runs()[1].details = {"code": "FlowCanceled"}
    assert here.failed_runs(hour) == []


def test_only_ones_own_failed_runs_are_retried(bed: FacilityBed, here: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    hour = datetime.now(UTC) - timedelta(hours=1)
    own = here.wait(here.submit(bed.scan("bad_1.h5")).run_id)
    colleague, secret = bed.web.add_service_account()
    here.services.flows.update_flow(bed.flow_id, flow_starters=[f"urn:globus:auth:identity:{colleague}"])
    monkeypatch.setenv("TOMOPIPE_CLIENT_ID", colleague)
    monkeypatch.setenv("TOMOPIPE_CLIENT_SECRET", secret)
    me = [f"urn:globus:auth:identity:{bed.account}"]
    with bed.client() as other:
        for name in ("bad_2.h5", "bad_1.h5"):
            other.wait(other.submit(bed.scan(name), monitors=me).run_id)
        assert len(here.runs()) == 3
        assert [run.run_id for run in here.failed_runs(hour)] == [own.run_id]
        bed.runs()[-1].details = {"code": "FlowCanceled"}
        assert [run.run_id for run in here.failed_runs(hour)] == [own.run_id], "one's own was not given up"
        bed.runs()[-1].status = "SUCCEEDED"
        bed.runs()[-1].details = {"code": "FlowSucceeded"}
        assert here.failed_runs(hour) == [], "a colleague's run has done it"


def test_all_failed_runs_are_retried_once(bed: FacilityBed, here: Client, tomopipe: Callable[..., Command]) -> None:
    first = here.wait(here.submit(bed.scan("bad_1.h5")).run_id)
    here.wait(here.submit(bed.scan("bad_1.h5")).run_id)
    here.wait(here.submit(bed.scan("bad_2.h5")).run_id)
    here.wait(here.submit(bed.scan("tooth.h5")).run_id)
    here.cancel(here.submit(bed.scan("held.h5")).run_id)
    assert first.status == "FAILED"
    listed = tomopipe("retry", "--failed", "--since", "1h", "--dry-run", "--json", "-d", bed.file)
    assert [row["scan_id"] for row in json.loads(listed.out)] == ["bad_1", "bad_2"]
    assert len(bed.runs()) == 5
    done = tomopipe("retry", "--failed", "--since", "1h", "--wait", "-d", bed.file)
    assert done.code == 1 and done.out.count("FAILED") == 2
    assert sorted(run.label or "" for run in bed.runs()[5:]) == ["bad_1", "bad_2"]
    # Mended since: the later good run of the same request settles it.
    with bed.client() as later:
        request = later.run(bed.runs()[5].id).request
        bed.runs()[5].status = "SUCCEEDED"
        left = later.failed_runs(datetime.now(UTC) - timedelta(hours=1))
        assert request not in [run.request for run in left] and len(left) == 1
        assert later.failed_runs(datetime.now(UTC)) == []
    assert tomopipe("retry", "--failed", bed.runs()[0].id, "-d", bed.file).code == 2
    assert tomopipe("retry").code == 2
    assert tomopipe("retry", "--failed").code == 2, "no deployment"


def test_reprocess_takes_the_request_from_the_latest_run(
    bed: FacilityBed, here: Client, tomopipe: Callable[..., Command]
) -> None:
    here.wait(here.submit(bed.scan("tooth.h5"), skip=["denoise"]).run_id)
    here.wait(here.submit(bed.scan("tooth.h5"), parameters={"segmentation": {"phases": 3}}).run_id)
    done = tomopipe("reprocess", "tooth", "--from", "reconstruct", "--set", "reconstruction.center=81", "--wait")
    assert done.code == 0, done.err
    fields = bed.runs()[-1].input["input"]
    assert fields["parameters"] == {
        "reconstruction": {"filter": "hann", "center": 81}, "segmentation": {"phases": 3},
    }  # fmt: skip
    assert fields["start_from"] == "reconstruct" and fields["skip"] == [] and "reprocess" in bed.runs()[-1].tags
    first = here.reprocess(bed.runs()[0].id, overrides=["reconstruction.center=82"])
    assert request_fields(first)["skip"] == ["denoise"]
    for options in (
        ["--from", "nowhere"],
        ["--set", "x"],
        ["--set", "reconstruction.centre=1"],
        ["--skip", "quantify"],
    ):
        assert tomopipe("reprocess", "tooth", *options).code == 2
    assert tomopipe("reprocess", "nothing", "-d", bed.file).code == 2
    assert len(bed.runs()) == 4


def test_reprocess_of_a_scan_rather_takes_a_run_that_succeeded(
    bed: FacilityBed, here: Client, tomopipe: Callable[..., Command]
) -> None:
    good = here.submit(bed.scan("tooth.h5"), parameters={"reconstruction": {"center": 1021.5}}, skip=["denoise"])
    here.wait(good.run_id)
    failed = here.wait(here.submit(bed.scan("tooth.h5"), parameters={"segmentation": {"phases": 3}}).run_id)
    bed.runs()[1].status, bed.runs()[1].details = "FAILED", {"code": "FlowFailed", "error": "E", "cause": "no power"}
    submission_store().path.unlink()
    said = f'from run {good.run_id[:8]} (SUCCEEDED), with reconstruction.center=1021.5, skip=["denoise"]'
    planned = tomopipe("reprocess", "tooth", "--set", "segmentation.phases=2", "-d", bed.file, "--dry-run")
    assert planned.code == 0 and said in planned.err.splitlines()
    assert json.loads(planned.out)["base"]["run_id"] == good.run_id
    done = tomopipe("reprocess", "tooth", "--set", "reconstruction.center=80", "-d", bed.file, "--json")
    assert done.code == 0, done.err
    expected = {"run_id": good.run_id, "status": "SUCCEEDED", "overrides": {"skip": ["denoise"]}}
    assert json.loads(done.out)["base"] == expected, "what is said anew was not brought along"
    fields = bed.runs()[-1].input["input"]
    assert fields["skip"] == ["denoise"] and fields["parameters"]["reconstruction"]["center"] == 80
    taken = tomopipe("reprocess", failed.run_id, "--set", "reconstruction.center=81", "-d", bed.file)
    assert f"from run {failed.run_id[:8]} (FAILED), with segmentation.phases=3" in taken.err.splitlines()
    # Where none has succeeded, the latest.
    for run in bed.runs():
        run.status, run.details = "FAILED", {"code": "FlowFailed", "error": "E", "cause": "no power"}
    assert here.find("tooth", succeeded=True) == bed.runs()[-1].id


def test_reprocess_here_says_what_it_starts_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOMOPIPE_HOME", str(tmp_path))
    store = RunStore(tmp_path / "runs.sqlite")
    body = {"input": {"parameters": {"reconstruction": {"center": 80.5, "filter": "hann"}}, "skip": ["denoise"]}}
    runs = [store.create_run(label="foam", scan="/x", input=body, definition_digest="d") for _ in range(2)]
    store.finish(runs[0], "SUCCEEDED")
    store.finish(runs[1], "FAILED", "E")
    good = latest_good("foam")
    assert good is not None and good.run_id == runs[0] and latest_good("other") is None
    base = local_base(good, {"reconstruction": {"filter": "ramp"}}, ("denoise",))
    assert str(base) == f'from run {runs[0][:8]} (SUCCEEDED), with reconstruction.center=80.5, skip=["denoise"]'
    assert str(local_base(good, body["input"]["parameters"], ())).endswith("with no changed parameters")


def release(bed: FacilityBed, run_id: str) -> None:
    """What the service does with a run after 90 days."""
    with make_services(load_deployment(bed.file)) as services:
        services.flows.delete_run(run_id)


def test_reprocess_takes_the_request_from_the_record_of_a_run_that_is_gone(
    bed: FacilityBed, here: Client, tomopipe: Callable[..., Command]
) -> None:
    run = here.wait(here.submit(bed.scan("tooth.h5")).run_id)
    fields = request_fields(run)
    for number, center in enumerate((79.0, 80.0)):
        asked = {
            "scan": fields["scan"], "processing": fields["processing"], "scan_id": "tooth", "start_from": None,
            "parameters": {"reconstruction": {"center": center}}, "skip": ["denoise"], "execution": {"slab": 8},
        }  # fmt: skip
        bed.publish(
            f"globus://x/tooth/{number}",
            {"scan_id": "tooth", "request": json.dumps(asked), "published_at": f"2026-11-2{number}T10:00:00Z"},
        )
    other = {**asked, "scan_id": "tooth-b", "skip": [], "parameters": {"reconstruction": {"center": 1.0}}}
    bed.publish(
        "globus://x/other",
        {"scan_id": "tooth-b", "request": json.dumps(other), "published_at": "2026-11-29T10:00:00Z"},
    )
    assert len(here.search('scan_id:"tooth"')) == 3, "the index compares words"
    release(bed, run.run_id)
    # This machine still knows the input of its own run; another one asks the index.
    assert tomopipe("reprocess", "tooth", "--set", "reconstruction.center=81", "--wait").code == 0
    assert bed.runs()[-1].input["input"]["parameters"]["reconstruction"] == {"filter": "hann", "center": 81}
    release(bed, bed.runs()[-1].id)
    submission_store().path.unlink()
    done = tomopipe(
        "reprocess", "tooth", "--set", "segmentation.phases=3", "--from", "segment", "--wait", "-d", bed.file
    )
    assert done.code == 0, done.err
    again = bed.runs()[-1].input["input"]
    assert again["parameters"] == {"reconstruction": {"center": 80.0}, "segmentation": {"phases": 3}}
    assert (again["scan"], again["skip"], again["execution"]) == (fields["scan"], ["denoise"], {"slab": 8})
    assert again["compute_endpoint"] == fields["compute_endpoint"] and again["start_from"] == "segment"


def test_reprocess_of_a_record_goes_to_the_results_folder_of_today(bed: FacilityBed, here: Client) -> None:
    fields = here.prepare(bed.scan("tooth.h5")).body["input"]
    moved = {"id": fields["processing"]["id"], "path": "/of/last/year"}
    asked = {
        "scan": {"id": str(uuid.uuid4()), "path": "/a.h5"}, "processing": moved, "scan_id": "tooth", "skip": [],
        "start_from": None, "parameters": {}, "unknown": 1,
    }  # fmt: skip
    content = {"scan_id": "tooth", "request": json.dumps(asked), "published_at": "2026-11-20T10:00:00Z"}
    bed.publish("globus://x/tooth/1", content)
    sent = request_fields(here.reprocess("tooth"))
    assert sent["processing"] == fields["processing"] and sent["processing_root"] == fields["processing_root"]
    assert sent["scan"] == asked["scan"]


def test_search_asks_the_index_of_the_deployment(bed: FacilityBed, tomopipe: Callable[..., Command]) -> None:
    bed.publish(
        "globus://x/tooth/1", {"scan_id": "tooth", "status": "succeeded", "metrics": {"porosity_percent": 21.5}}
    )
    bed.publish("globus://x/shale/1", {"scan_id": "shale", "status": "succeeded", "metrics": {"porosity_percent": 9.0}})
    done = tomopipe("search", "porosity > 20", "--deployment", bed.file)
    assert done.code == 0 and "tooth" in done.out and "shale" not in done.out
    assert tomopipe("search", "tooth", "--deployment", bed.file, "--local").out == "nothing found\n"


# Many


def manifest(bed: FacilityBed, *names: str) -> Path:
    file = bed.folder / "manifest.yaml"
    file.write_text(yaml.safe_dump([bed.scan(name) for name in names]), encoding="utf-8")
    return file


def test_a_manifest_is_submitted_once_however_often(bed: FacilityBed, tomopipe: Callable[..., Command]) -> None:
    file = manifest(bed, "a.h5", "b.h5", "bad_1.h5")
    first = tomopipe("submit", "--manifest", file, "--deployment", bed.file, "--wait", "--json")
    assert first.code == 1
    rows = json.loads(first.out)
    assert [(row["scan_id"], row["submitted"], row["run"]["status"]) for row in rows] == [
        ("a", True, "SUCCEEDED"), ("b", True, "SUCCEEDED"), ("bad_1", True, "FAILED"),
    ]  # fmt: skip
    second = tomopipe("submit", "--manifest", file, "--deployment", bed.file, "--wait")
    assert second.code == 1 and len(bed.runs()) == 4, "only what failed is submitted again"
    assert "ScanError: no flats" in second.out and "earlier" in second.out
    submission_store().path.unlink()
    good = manifest(bed, "a.h5", "b.h5")
    assert tomopipe("submit", "--manifest", good, "-d", bed.file, "--wait").code == 0
    assert len(bed.runs()) == 4


def test_another_queue_makes_no_other_request_of_a_manifest(bed: FacilityBed, tomopipe: Callable[..., Command]) -> None:
    file = manifest(bed, "a.h5", "b.h5")
    assert tomopipe("submit", "--manifest", file, "-d", bed.file, "--wait").code == 0
    redeploy(bed, user_endpoint_config={"queue": "prod"}, compute_endpoint=str(uuid.uuid4()))
    done = tomopipe("submit", "--manifest", file, "-d", bed.file, "--wait", "--json")
    assert done.code == 0 and [row["submitted"] for row in json.loads(done.out)] == [False, False]
    assert len(bed.runs()) == 2
    new = manifest(bed, "c.h5")
    assert tomopipe("submit", "--manifest", new, "-d", bed.file, "--wait").code == 0
    assert bed.runs()[-1].input["input"]["user_endpoint_config"] == {"queue": "prod"}


def test_a_manifest_survives_a_service_that_is_away(bed: FacilityBed, here: Client) -> None:
    items = batch.prepare_batch(here, [ManifestEntry("line 1", bed.scan("tooth.h5"))], {})
    here.services.flows.retry_config.max_retries = 0

    def go_away(item: batch.BatchItem) -> None:
        assert item.run is not None
        if item.run.status == "ACTIVE":
            bed.web.fail_next(502, times=3, prefix=f"/runs/{item.run.run_id}")

    batch.run_batch(here, items, follow=True, tell=go_away)
    (item,) = items
    assert item.run is not None and item.run.status == "SUCCEEDED"
    asked = [one.status for one in bed.web.requests if one.path == f"/runs/{item.run.run_id}"]
    assert asked[:3] == [502] * 3


def test_at_most_so_many_are_active(bed: FacilityBed, here: Client) -> None:
    entries = [ManifestEntry(f"line {number}", bed.scan(f"held_{number}.h5")) for number in range(5)]
    items = batch.prepare_batch(here, entries, {})
    most = 0

    def count(item: batch.BatchItem) -> None:
        nonlocal most
        active = [run for run in bed.runs() if run.status == "ACTIVE"]
        most = max(most, len(active))

    stop = threading.Event()

    def end_them() -> None:
        while not stop.wait(0.3):
            for run in bed.runs():
                if run.status == "ACTIVE":
                    run.cancel.set()
                    break

    ending = threading.Thread(target=end_them)
    ending.start()
    try:
        batch.run_batch(here, items, max_active=2, tell=count)
    finally:
        stop.set()
        ending.join()
    assert most == 2
    assert [item.run.status for item in items if item.run] == ["CANCELLED"] * 5
    assert len(bed.runs()) == 5


def test_a_manifest_stops_where_a_person_is_needed(
    environment: WebServices, tmp_path: Path, tomopipe: Callable[..., Command]
) -> None:
    bed = make_bed(environment, tmp_path, tmp_path / "home", os.environ["TOMOPIPE_CLIENT_ID"], mapped=True)
    bed.file.write_text(bed.file.read_text().replace("mapped: true", "mapped: false"))
    file = manifest(bed, "copied_1.h5", "copied_2.h5")
    done = tomopipe("submit", "--manifest", file, "-d", bed.file, "--max-active", "1")
    assert done.code == 3 and "not yet" in done.out and "tomopipe resume" in done.err
    assert len(bed.runs()) == 1
    assert tomopipe("resume", "copied_1", "--wait").code == 0
    assert tomopipe("submit", "--manifest", file, "-d", bed.file, "--max-active", "1").code == 0
    assert [run.status for run in bed.runs()] == ["SUCCEEDED"] * 2


def test_a_manifest_is_checked_before_anything_is_sent(bed: FacilityBed, tomopipe: Callable[..., Command]) -> None:
    scan = bed.scan("a.h5")
    (bed.folder / "raw" / "other").mkdir()
    other = bed.scan("other/a.h5")
    cases: list[tuple[list[Any], str]] = [
        ([scan, {"scan": scan, "parameters": {"reconstruction": {"centre": 1}}}], "entry 2"),
        ([scan, scan], "asks for the same as"),
        ([scan, other], "has the scan id a"),
        ([scan, "/elsewhere/b.h5"], "entry 2"),
    ]
    for entries, said in cases:
        file = bed.folder / "m.json"
        file.write_text(json.dumps(entries), encoding="utf-8")
        done = tomopipe("submit", "--manifest", file, "--deployment", bed.file)
        assert done.code == 2 and said in done.err, done.err
    assert bed.runs() == []
    assert tomopipe("submit", "--manifest", bed.folder / "none.csv", "-d", bed.file).code == 2


# The command


def test_a_dry_run_sends_nothing(bed: FacilityBed, tomopipe: Callable[..., Command]) -> None:
    done = tomopipe("submit", bed.scan("tooth.h5"), "-d", bed.file, "--dry-run", "--no-share", "--tag", "mine")
    shown = json.loads(done.out)
    assert done.code == 0 and shown["body"]["input"]["scan_id"] == "tooth" and shown["tags"][-1] == "mine"
    assert bed.runs() == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["submit"],
        ["submit", "SCAN", "--manifest", "x.csv"],
        ["submit", "SCAN", "--max-active", "2"],
        ["submit", "SCAN", "--set", "reconstruction.centre=1"],
        ["submit", "SCAN", "--deployment", "nowhere"],
        ["submit", "SCAN", "--parameters", "/none.yaml"],
        ["wait", "nothing"],
        ["resume", "nothing"],
        ["cancel", "nothing"],
        ["deployments", "nowhere"],
        ["deploy", "nowhere"],
        ["preflight", "nowhere"],
    ],
)
def test_bad_input_is_one_line(bed: FacilityBed, tomopipe: Callable[..., Command], arguments: list[str]) -> None:
    scan = bed.scan("tooth.h5")
    given = [scan if word == "SCAN" else word for word in arguments]
    if arguments[0] == "submit" and "--deployment" not in arguments:
        given += ["--deployment", str(bed.file)]
    done = tomopipe(*given)
    assert done.code == 2, done.err
    assert done.err.startswith("error: ") and done.err.count("\n") == 1
    assert bed.runs() == []


def test_a_file_that_is_no_scan_is_refused_before_it_is_sent(
    bed: FacilityBed, tomopipe: Callable[..., Command]
) -> None:
    scan, broken = bed.scan("tooth.h5"), bed.folder / "raw" / "broken.h5"
    broken.write_bytes(Path(scan).read_bytes()[:100])
    empty = bed.folder / "raw" / "no_angles.h5"
    with h5py.File(empty, "w") as file:
        file["exchange/data"] = np.zeros((2, 2, 2), np.uint16)
    for path in (broken, empty):
        for options in ([], ["--dry-run"]):
            done = tomopipe("submit", path, "-d", bed.file, *options)
            assert done.code == 2 and done.err.startswith(f"error: {path}: ") and done.err.count("\n") == 1
    listed = bed.folder / "m.yaml"
    listed.write_text(yaml.safe_dump([scan, str(broken)]), encoding="utf-8")
    done = tomopipe("submit", "--manifest", listed, "-d", bed.file)
    assert done.code == 2 and f"{listed}: entry 2: {broken}: " in done.err
    folder = tomopipe("submit", bed.folder / "raw", "-d", bed.file)
    assert folder.code == 2 and "raw: is a folder" in folder.err
    assert bed.runs() == []


def test_a_relative_path_of_a_file_in_the_source_folder_will_do(
    bed: FacilityBed, tomopipe: Callable[..., Command], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = bed.folder / "raw"
    (raw / "day").mkdir()
    bed.scan("day/tooth.h5")
    link = bed.folder / "link"
    link.symlink_to(raw)
    for place, name in (
        (raw / "day", "tooth.h5"),
        (raw / "day", "../day/tooth.h5"),
        (link, "day/tooth.h5"),
        (bed.folder, "raw/day/tooth.h5"),
        (bed.folder / "results", "day/tooth.h5"),
    ):
        monkeypatch.chdir(place)
        done = tomopipe("submit", name, "-d", bed.file, "--dry-run")
        assert done.code == 0, (place, name, done.err)
        assert json.loads(done.out)["body"]["input"]["scan"]["path"] == "/day/tooth.h5"
    refused = tomopipe("submit", "other.h5", "-d", bed.file)
    assert refused.code == 2 and "no absolute path" in refused.err and bed.runs() == []


def test_labels_stand_in_a_manifest(bed: FacilityBed, tomopipe: Callable[..., Command]) -> None:
    file = bed.folder / "m.yaml"
    file.write_text(yaml.safe_dump([{"scan": bed.scan("a.h5"), "label": "wet, 3"}, bed.scan("b.h5")]), encoding="utf-8")
    assert tomopipe("submit", "--manifest", file, "-d", bed.file).code == 0
    assert sorted(run.label or "" for run in bed.runs()) == ["b", "wet, 3"]


class EndpointStatus:
    """A Compute part that only says how its endpoints are."""

    prefixes = ("/v2/endpoints",)

    def __init__(self, status: str) -> None:
        self.status = status

    def handle(self, request: Request) -> Response:
        return Response(200, {"status": self.status})


def test_an_endpoint_that_is_offline_is_noted(bed: FacilityBed, tomopipe: Callable[..., Command]) -> None:
    part = EndpointStatus("offline")
    bed.web.mount_compute(part)
    endpoint = load_deployment(bed.file).compute.endpoint
    done = tomopipe("submit", bed.scan("tooth.h5"), "-d", bed.file)
    note = f"note: endpoint {endpoint} is offline: the run waits for it up to 168 h; `tomopipe preflight {bed.file}`"
    assert done.code == 0 and done.err.splitlines() == [note]
    listed = tomopipe("submit", "--manifest", manifest(bed, "a.h5", "b.h5"), "-d", bed.file)
    assert listed.code == 0 and listed.err.count("is offline") == 1
    part.status = "online"
    assert "note:" not in tomopipe("submit", bed.scan("c.h5"), "-d", bed.file).err
    part.status = "offline"
    asked = [one for one in bed.web.requests if one.path.startswith("/v2/endpoints")]
    bed.web.fail_next(503, times=1, prefix="/v2/endpoints")
    done = tomopipe("submit", bed.scan("d.h5"), "-d", bed.file)
    assert done.code == 0 and "note:" not in done.err and len(bed.runs()) == 5
    later = [one for one in bed.web.requests if one.path.startswith("/v2/endpoints")]
    assert len(later) == len(asked) + 1, "asked once"


def test_where_the_results_are_is_said(bed: FacilityBed, here: Client, tomopipe: Callable[..., Command]) -> None:
    run = here.wait(here.submit(bed.scan("tooth.h5")).run_id)
    bed.inspected(run.run_id, "tooth/0123456789ab")
    web = "https://app.globus.org/file-manager"
    processing, share = here.deployment.processing.collection, here.deployment.share
    assert share is not None
    folder = f"{web}?origin_id={processing}&origin_path=%2Ftomography%2Ftooth%2F0123456789ab%2F"
    copy = f"{web}?origin_id={share.collection}&origin_path=%2Fshare%2Ftooth%2F0123456789ab%2F"
    for command in ("wait", "status"):
        printed = tomopipe(command, "tooth").out
        for line in (
            "results  /tomography/tooth/0123456789ab", folder, copy,
            f"share    globus://{share.collection}/share/tooth/0123456789ab",
        ):  # fmt: skip
            assert line in [text.strip() for text in printed.splitlines()], printed
    shown = json.loads(tomopipe("wait", "tooth", "--json").out)
    assert (shown["folder"], shown["share_folder"]) == (folder, copy)
    unshared = here.wait(here.submit(bed.scan("tooth.h5"), share=False).run_id)
    bed.inspected(unshared.run_id, "tooth/0123456789ab")
    printed = tomopipe("wait", unshared.run_id).out
    assert folder in printed and "share" not in printed


def test_wait_for_what_is_known_to_have_ended_needs_no_service(
    bed: FacilityBed, here: Client, tomopipe: Callable[..., Command]
) -> None:
    good = here.wait(here.submit(bed.scan("tooth.h5")).run_id)
    here.wait(here.submit(bed.scan("bad_1.h5")).run_id)
    before = len(bed.web.requests)
    for name, code in (("tooth", 0), ("bad_1", 1)):
        bed.web.fail_next(503, times=1, prefix="/runs")
        done = tomopipe("wait", name)
        assert done.code == code and "cannot be asked now" in done.err, done.err
    assert [one.status for one in bed.web.requests[before:] if one.path.startswith("/runs")] == [503, 503]
    assert tomopipe("wait", good.run_id).err == "tooth  SUCCEEDED\n"
    # One that was under way when last asked is asked for until the service says more.
    held = here.submit(bed.scan("held.h5"))
    bed.end(held.run_id)
    bed.web.fail_next(503, times=2, prefix="/runs")
    assert "was cancelled" in tomopipe("wait", "held").err


def test_wait_and_status_say_in_which_state_a_run_is(
    bed: FacilityBed, here: Client, tomopipe: Callable[..., Command]
) -> None:
    here.submit(bed.scan("held.h5"))
    done = tomopipe("wait", "held", "--timeout", "0.5")
    assert "held  ACTIVE  Hold" in done.err.splitlines()
    assert json.loads(tomopipe("status", "held", "--json").out)["state"] == "Hold"
    run = bed.runs()[0]
    seen: list[str | None] = []

    def change(one: Any) -> None:
        seen.append(one.state)
        step = {"code": "ActionStarted", "details": {"state_name": "Reconstruct", "state_type": "Action"}}
        between = {"code": "ChoiceStarted", "details": {"state_name": "SegmentNeeded", "state_type": "Choice"}}
        run.details = {1: step, 2: between}.get(len(seen), run.details)

    here.wait(run.id, timeout_s=1.5, on_change=change)
    assert seen == ["Hold", "Reconstruct"], "a choice between two actions is no news"


def test_times_are_said_to_be_utc_and_tags_are_whole(
    bed: FacilityBed, here: Client, tomopipe: Callable[..., Command]
) -> None:
    refused = tomopipe("submit", bed.scan("tooth.h5"), "-d", bed.file, "--tag", "")
    assert refused.code == 2 and "--tag '': is empty" in refused.err and bed.runs() == []
    run = here.wait(here.submit(bed.scan("tooth.h5"), tags=["beam time 3"]).run_id)
    assert "started (UTC)" in tomopipe("runs").out and "started (UTC)" in tomopipe("status", "tooth").out
    (row,) = json.loads(tomopipe("runs", "--json").out)
    assert row["tags"] == list(run.tags) and row["tags"][-1] == "beam time 3"


def test_a_log_for_people_says_each_thing_once(
    bed: FacilityBed, here: Client, tomopipe: Callable[..., Command]
) -> None:
    run = here.wait(here.submit(bed.scan("bad_1.h5")).run_id)
    trace = "Traceback (most recent call last):\n  File x\nm.StageError: rows 8-16: gone"
    cause = {"state_name": "Segment", "details": {"results": [{"exception": trace}, {"exception": trace}]}}
    kept = next(one for one in bed.runs() if one.id == run.run_id)
    for code in ("ActionFailed", "FlowFailed"):
        kept.event(
            code, "failed", {"state_name": "Segment", "exception": "E", "error": "E", "cause": json.dumps(cause)}
        )
    printed = tomopipe("log", "bad_1").out
    assert printed.count("    Segment failed: StageError: rows 8-16: gone\n") == 1
    assert (
        printed.count("    Traceback (most recent call last):\n      File x\n    m.StageError: rows 8-16: gone\n") == 1
    )
    assert "ChoiceStarted" not in printed and "\\n" not in printed and "FlowStarted" in printed
    assert "ChoiceStarted" in tomopipe("log", "bad_1", "--all").out
    codes = [json.loads(line)["code"] for line in tomopipe("log", "bad_1", "--json").out.splitlines()]
    assert "ChoiceStarted" in codes and codes == [one.code for one in here.log(run.run_id)]


def test_a_search_of_nothing_finds_nothing(bed: FacilityBed, tomopipe: Callable[..., Command]) -> None:
    for query in ("porosity > 20", "sample:shale", "*"):
        assert tomopipe("search", query, "--local").out == "nothing found\n"
    assert tomopipe("search", "porosity >", "--local").code == 2
    unknown = tomopipe("search", "qqqqqq > 5", "-d", bed.file)
    assert unknown.code == 2 and "known: metrics.porosity_percent, " in unknown.err and "scan.energy_kev" in unknown.err


def test_the_deployment_may_be_set_once(
    bed: FacilityBed, tomopipe: Callable[..., Command], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tomopipe("submit", bed.scan("tooth.h5")).code == 2
    monkeypatch.setenv("TOMOPIPE_DEPLOYMENT", str(bed.file))
    assert tomopipe("submit", bed.scan("tooth.h5"), "--wait").code == 0
    submission_store().path.unlink()
    assert tomopipe("wait", "tooth").code == 0
    assert tomopipe("login").code == 0


def test_deployments_are_listed_and_printed(bed: FacilityBed, tomopipe: Callable[..., Command], tmp_path: Path) -> None:
    own = tmp_path / "home" / "deployments" / "beamline.yaml"
    own.parent.mkdir()
    own.write_text(bed.file.read_text(encoding="utf-8"), encoding="utf-8")
    rows = {row["name"]: row for row in json.loads(tomopipe("deployments", "--json").out)}
    assert rows["beamline"]["deployed"] and rows["beamline"]["file"] == str(own)
    assert not rows["polaris"]["deployed"] and "polaris-own" in rows and "aurora" in rows
    assert tomopipe("deployments", "beamline").out == own.read_text(encoding="utf-8")
    assert "extends" not in tomopipe("deployments", "polaris").err and tomopipe("deployments").code == 0


def test_interrupting_a_wait_leaves_the_run_alone(bed: FacilityBed, here: Client) -> None:
    run = here.submit(bed.scan("held.h5"))
    process = subprocess.Popen(
        [sys.executable, "-m", "tomopipe.flows.cli", "wait", run.run_id[:8]],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    assert "held  ACTIVE" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130 and "the run goes on" in said
    assert here.run(run.run_id).status == "ACTIVE"


# Runs of this machine


def start_sleeping(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> tuple[subprocess.Popen[bytes], str]:
    """A local run whose process sleeps."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    monkeypatch.setattr("os.getpid", lambda: process.pid)
    monkeypatch.setattr("psutil.Process", lambda pid=None, real=psutil.Process: real(pid or process.pid))
    run_id = store.create_run(label="local", scan="/x", input={"input": {}}, definition_digest="d")
    monkeypatch.undo()
    return process, run_id


def test_a_local_run_is_cancelled_and_waited_for(tmp_path: Path, tomopipe: Callable[..., Command]) -> None:
    home = tmp_path / "home"
    with pytest.MonkeyPatch.context() as patch:
        process, run_id = start_sleeping(RunStore(home / "runs.sqlite"), patch)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOMOPIPE_HOME", str(home))
        late = tomopipe("wait", "local", "--timeout", "0.1")
        assert late.code == 1 and "ACTIVE" in late.out
        assert tomopipe("cancel", run_id[:8]).code == 0
        assert process.wait(timeout=10) == -signal.SIGTERM
        assert tomopipe("wait", "local").code == 1
        assert "INTERRUPTED" in tomopipe("wait", "local").out
        assert tomopipe("cancel", "local").code == 2
        assert tomopipe("resume", "local").code == 2


def test_a_local_run_takes_no_options_of_a_facility(
    tmp_path: Path, tomopipe: Callable[..., Command], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOMOPIPE_HOME", str(tmp_path / "home"))
    RunStore(tmp_path / "home" / "runs.sqlite").create_run(
        label="local", scan="/x", input={"input": {}}, definition_digest="d"
    )
    for options in (["--no-share"], ["--share"], ["--label", ""], ["--tag", "x"], ["--dry-run"]):
        refused = tomopipe("reprocess", "local", *options)
        assert refused.code == 2 and f"{options[0]}: run" in refused.err and "is a local one" in refused.err


def test_another_process_of_the_same_number_is_left_alone(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        store = RunStore(tmp_path / "runs.sqlite")
        run_id = store.create_run(label="local", scan="/x", input={"input": {}}, definition_digest="d")
        record = replace(store.get_run(run_id), process=process.pid, process_started=time.time() - 3600)
        with pytest.raises(InputError, match="its process has ended"):
            cancel_local(record)
        with pytest.raises(InputError, match="runs on elsewhere"):
            cancel_local(replace(record, host="elsewhere"))
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_local_run_is_reprocessed_and_retried_here(tmp_path: Path) -> None:
    settings = SimulationSettings(columns=64, rows=16, angles=60, n_flats=4, n_darks=2, inclusion_radius_px=5.0)
    scan = simulate_scan(settings, tmp_path / "foam.h5")
    pipeline = Pipeline(tmp_path / "home")
    first = pipeline.run(scan, tmp_path / "results", "--skip", "denoise")
    done = pipeline("reprocess", "foam", "--from", "reconstruct", "--set", "reconstruction.filter=hann", "--json")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["base"]["status"] == "SUCCEEDED" and shown["base"]["overrides"] == {"skip": ["denoise"]}
    assert f"from run {shown['base']['run_id'][:8]} (SUCCEEDED)" in done.stderr
    second = RunDirectory(Path(shown["run_directory"]))
    assert second.root.parent == first.root.parent and second.root != first.root and first.metrics.is_file()
    document = second.read_run()
    assert document["request"]["skip"] == ["denoise"]
    assert document["request"]["parameters"]["reconstruction"]["filter"] == "hann"
    assert document["stages"]["preprocess"]["output"].startswith(".."), "the projections are those of the first run"
    again = pipeline("retry", shown["run_id"][:8], "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["run_directory"] == shown["run_directory"]
    refused = pipeline("reprocess", "foam", "--label", "x")
    assert refused.returncode == 2 and "--label" in refused.stderr


class InProcessCompute:
    """A Compute part that registers functions by name and runs them in a thread of this process."""

    prefixes = ("/v2/functions", "/v3/functions")

    def __init__(self) -> None:
        self.functions: dict[str, str] = {}
        self.futures: dict[str, Future[Any]] = {}
        self.pool = ThreadPoolExecutor(1)

    def handle(self, request: Request) -> Response:
        if request.method == "POST":
            function_id = str(uuid.uuid4())
            self.functions[function_id] = request.body["function_name"]
            return Response(200, {"function_uuid": function_id})
        function_id = request.path.rpartition("/")[2]
        if function_id not in self.functions:
            raise ServiceError(404, {"code": 404, "reason": "no such function"})
        return Response(200, {"function_uuid": function_id, "function_name": self.functions[function_id]})

    def submit_tasks(self, endpoint_id: str, tasks: list[Any], config: Any, caller: Any) -> list[str]:
        ids = []
        for function_id, args, kwargs in tasks:
            ids.append(str(uuid.uuid4()))
            self.futures[ids[-1]] = self.pool.submit(getattr(stages, self.functions[function_id]), *args, **kwargs)
        return ids

    def task(self, task_id: str) -> dict[str, Any]:
        future = self.futures[task_id]
        if not future.done():
            return {"status": "pending"}
        error = future.exception()
        return {"status": "success", "result": future.result()} if error is None else {
            "status": "failed", "exception": f"Traceback\n{type(error).__name__}: {error}",
        }  # fmt: skip


@pytest.mark.slow
def test_from_deploy_to_search_by_commands_alone(
    environment: WebServices, tmp_path: Path, tomopipe: Callable[..., Command], monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = InProcessCompute()
    environment.mount_compute(compute)
    raw, results = tmp_path / "raw", tmp_path / "results"
    for folder in (raw, results / "tomography"):
        folder.mkdir(parents=True)
    settings = SimulationSettings(columns=64, rows=16, angles=60, n_flats=4, n_darks=2, inclusion_radius_px=5.0)
    scan = simulate_scan(settings, raw / "foam.h5")
    source = environment.add_collection("beamline", raw, mapped=True)
    processing = environment.add_collection("processing", results)
    file = tmp_path / "lab.yaml"
    document = {
        "format": "tomopipe-deployment/1",
        "title": "A laboratory",
        "source": {"collection": source, "path": "/", "host_path": str(raw), "mapped": True},
        "processing": {"collection": processing, "path": "/tomography", "host_path": str(results / "tomography")},
        "compute": {"endpoint": str(uuid.uuid4())},
        "visible_to": ["public"],
    }
    file.write_text(yaml.safe_dump(document), encoding="utf-8")
    monkeypatch.setenv("TOMOPIPE_DEPLOYMENT", str(file))
    planned = tomopipe("deploy", "--dry-run", file)
    assert planned.code == 0 and "nothing was changed" in planned.out and compute.functions == {}
    first = tomopipe("deploy", file)
    assert first.code == 0, first.err
    assert "created" in first.out and len(compute.functions) == len(FUNCTIONS)
    again = json.loads(tomopipe("deploy", "--json", file).out)
    assert {change["action"] for change in again["changes"]} == {"kept"}
    done = tomopipe("submit", scan, "--wait")
    assert done.code == 0, done.err
    assert "ACTIVE" in done.err and "foam  SUCCEEDED" in done.err
    shown = json.loads(tomopipe("status", "foam", "--json").out)
    assert shown["run_directory"] == f"/tomography/foam/{shown['recipe_id']}"
    page = results / shown["run_directory"].lstrip("/") / "report.html"
    assert page.is_file() and tomopipe("report", "foam").out.strip() == str(page)
    assert {"TransferScan", "Reconstruct", "PublishMetrics"} <= {state["name"] for state in shown["states"]}
    assert "1/1" in tomopipe("status", "foam").out
    (hit,) = json.loads(tomopipe("search", "porosity > 0", "--json").out)
    assert hit["content"]["scan_id"] == "foam"
    # The run is gone, and this machine has forgotten it: the record in the index knows what was asked for.
    with make_services(load_deployment(file)) as services:
        services.flows.delete_run(shown["run_id"])
    submission_store().path.unlink()
    other = tomopipe("reprocess", "foam", "--from", "reconstruct", "--set", "reconstruction.filter=hann", "--wait")
    assert other.code == 0, other.err
    found = json.loads(tomopipe("search", "scan_id:foam", "--json").out)
    assert len({one["subject"] for one in found}) == 2
    latest = json.loads(tomopipe("status", "foam", "--json").out)["run_directory"]
    recipe = json.loads((results / latest.lstrip("/") / "run.json").read_text(encoding="utf-8"))
    assert recipe["stages"]["preprocess"]["output"].startswith("..")
    refused = tomopipe("submit", scan, "--set", "reconstruction.center=9999", "--wait")
    assert refused.code == 1 and "Inspect failed" in refused.err, refused.err
    compute.pool.shutdown()
