"""Scans on the real agent, from deploying to searching: one answer, failures that say what they are, and recovery from each."""

from __future__ import annotations

import importlib.metadata
import json
import os
import stat
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import globus_sdk
import pytest
from facility.facility import Facility, facility_missing
from facility.services.flows import Run
from facility.test_agent import processes_of, wait_until
from globus_sdk.scopes import SearchScopes
from runs import Pipeline, assert_same_result

from tomopipe.flows.client import Client
from tomopipe.flows.deploy import deploy
from tomopipe.flows.deployment import load_deployment
from tomopipe.flows.login import make_services
from tomopipe.functions.locking import lock
from tomopipe.functions.rundir import RunDirectory

_MISSING = facility_missing()

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(_MISSING is not None, reason=_MISSING or ""),
]

SUCCEEDED, FAILED, BAD_INPUT, INACTIVE = 0, 1, 2, 3
EXECUTION = {"slab": 16, "memory_bytes": 2**30}


@pytest.fixture(scope="module")
def facility(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Facility]:
    with Facility(tmp_path_factory.mktemp("runs")) as facility:
        simulate(facility, "scan_0001", 0)
        succeeds(facility, "deploy", facility.deployment_file(**everything(facility)))
        yield facility
        assert facility.web.faults == []
    assert processes_of(facility.folder) == []


def everything(facility: Facility, **changes: Any) -> dict[str, Any]:
    """Keys of a deployment of its own flow, which publishes to the one index.

    Each has a subscription, since the service keeps one flow without; it keeps three indices without.
    """
    flow = {"subscription_id": facility.web.add_subscription(), "title": changes.pop("title", "Tomography")}
    note = facility.home / "deployed" / "facility.json"
    search = {"search": {"index": json.loads(note.read_text())["index_id"]}} if note.exists() else {}
    return {"flow": flow, "execution": EXECUTION, **search, **changes}


@pytest.fixture(scope="module")
def alone(facility: Facility, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """The same scan run by `tomopipe run`, with no facility."""
    folder = tmp_path_factory.mktemp("alone")
    options = ("--slab", EXECUTION["slab"], "--memory", "1G")
    return Pipeline(folder / "home").run(facility.beamline / "scan_0001.h5", folder / "results", *options)


@pytest.fixture(scope="module")
def first(facility: Facility) -> Run:
    """The first good run at the facility."""
    submitted = succeeds(facility, "submit", scan_path(facility), *on(facility), "--wait")
    assert "https://app.globus.org/runs/" in submitted
    return facility.web.runs[-1]


def simulate(facility: Facility, scan_id: str, seed: int) -> Path:
    path = facility.beamline / f"{scan_id}.h5"
    succeeds(facility, "simulate", path, "--columns", 64, "--rows", 64, "--angles", 90, "--seed", seed)
    return path


def scan_path(facility: Facility, scan_id: str = "scan_0001") -> Path:
    return facility.beamline / f"{scan_id}.h5"


def on(facility: Facility, name: str = "facility") -> tuple[str, str]:
    return "--deployment", str(facility.folder / f"{name}.yaml")


def ends(facility: Facility, code: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    done = facility.tomopipe(*arguments)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def succeeds(facility: Facility, *arguments: object) -> str:
    return ends(facility, SUCCEEDED, *arguments).stdout


def searched(facility: Facility, *query: str, name: str = "facility") -> list[dict[str, Any]]:
    found = json.loads(succeeds(facility, "search", *query, *on(facility, name), "--json"))
    return [hit["content"] for hit in found]


def failure_of(facility: Facility, run: Run, name: str = "facility") -> dict[str, Any]:
    """What the index says of a failed run."""
    (content,) = [c for c in searched(facility, "status:failed", name=name) if c["provenance"]["run_id"] == run.id]
    found: dict[str, Any] = content["failure"]
    return found


def run_directory(facility: Facility, scan_id: str, recipe_id: str) -> RunDirectory:
    return RunDirectory(facility.processing / scan_id / recipe_id)


def receipts(run: RunDirectory) -> dict[str, int]:
    found = (run.root / "receipts").rglob("*.json")
    return {str(path.relative_to(run.root)): path.stat().st_mtime_ns for path in found}


# One answer


def test_the_facility_gives_what_one_machine_gives(facility: Facility, first: Run, alone: RunDirectory) -> None:
    run = run_directory(facility, "scan_0001", alone.root.name)
    assert_same_result(run, alone)
    # The endpoint's umask keeps everybody else out; results are as readable as the folder that they lie in.
    modes = {
        stat.S_IMODE(path.stat().st_mode) & 0o555 for path in (run.root, run.root / "receipts", facility.processing)
    }
    assert modes == {0o555}
    assert stat.S_IMODE(run.report.stat().st_mode) & 0o444 == 0o444
    (found,) = searched(facility, "porosity > 0.2 and sample:foam")
    assert found["provenance"]["run_id"] == first.id
    assert found["metrics"] == json.loads(run.metrics.read_text())["metrics"]
    shared = facility.folder / "share" / "results" / "scan_0001" / run.root.name
    assert (shared / "labels.json").read_bytes() == run.metrics.read_bytes()
    assert json.loads(succeeds(facility, "status", first.id, "--json"))["status"] == "SUCCEEDED"


def test_what_a_run_waited_and_took_is_in_its_record(facility: Facility, first: Run) -> None:
    (found,) = searched(facility, "scan_id:scan_0001 and status:succeeded")
    times = found["provenance"]
    for stage in ("inspect", "preprocess", "reconstruct", "denoise", "segment", "separate_objects", "quantify"):
        assert 0 <= times[f"wait_s_{stage}"] < 120 and 0 < times[f"run_s_{stage}"] < 120, stage
    assert found["dc"]["titles"][0]["title"]
    assert "reused" not in times


def test_deploying_again_changes_nothing(facility: Facility, first: Run) -> None:
    writes = [r for r in facility.web.requests if r.method in ("PUT", "DELETE")]
    said = succeeds(facility, "deploy", facility.folder / "facility.yaml")
    assert "created" not in said and "updated" not in said
    assert [r for r in facility.web.requests if r.method in ("PUT", "DELETE")] == writes


def test_another_recipe_is_another_directory_and_record(facility: Facility, first: Run, alone: RunDirectory) -> None:
    before = receipts(run_directory(facility, "scan_0001", alone.root.name))
    arguments = ("scan_0001", "--from", "reconstruct", "--set", "reconstruction.filter=hann")
    succeeds(facility, "reprocess", *arguments, *on(facility), "--wait")
    found = searched(facility, "scan_id:scan_0001 and status:succeeded")
    assert {content["recipe"]["filter"] for content in found} == {"shepp", "hann"}
    other = next(content for content in found if content["recipe"]["filter"] == "hann")
    assert "preprocess" in other["provenance"]["reused"]
    assert other["recipe_id"] != alone.root.name
    assert receipts(run_directory(facility, "scan_0001", alone.root.name)) == before
    assert not (run_directory(facility, "scan_0001", other["recipe_id"]).root / "receipts" / "preprocess").exists()


def test_two_submissions_at_once_give_one_result(facility: Facility, first: Run) -> None:
    simulate(facility, "scan_0002", 2)
    command = [
        sys.executable,
        "-m",
        "tomopipe.flows.cli",
        "submit",
        str(scan_path(facility, "scan_0002")),
        *on(facility),
    ]
    others = {key: value for key, value in os.environ.items() if not key.startswith(("GLOBUS_", "TOMOPIPE_"))}
    environment = {**others, **facility.environment}
    before = len(facility.web.runs)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # One as anybody would, the other with the look for a run under way switched off: at least these two are two runs.
    both = [
        subprocess.Popen([*command, "--wait", *more], env=environment, text=True, **pipes) for more in ([], ["--again"])
    ]
    for process in both:
        printed, errors = process.communicate(timeout=280)
        assert process.returncode == SUCCEEDED, printed + errors
    assert len(facility.web.runs) - before <= 2
    (folder,) = [path for path in (facility.processing / "scan_0002").iterdir() if path.is_dir()]
    (found,) = searched(facility, "scan_id:scan_0002")
    assert (found["status"], found["recipe_id"]) == ("succeeded", folder.name)


# Failures


def test_a_bad_scan_is_refused_by_inspect(facility: Facility, first: Run) -> None:
    bad = scan_path(facility, "truncated")
    bad.write_bytes(scan_path(facility).read_bytes()[:50_000])
    # As from a machine that does not see the file: there it would be refused before anything is sent.
    address = f"globus://{facility.collections['beamline']}/truncated.h5"
    done = ends(facility, FAILED, "submit", address, *on(facility), "--wait")
    assert "ScanError" in done.stdout + done.stderr and "raw.h5" in done.stdout + done.stderr
    run = facility.web.runs[-1]
    assert run.status == "FAILED"
    failure = failure_of(facility, run)
    assert failure["stage"] == "Inspect" and "raw.h5" in failure["cause"]


def test_a_source_that_is_missing(facility: Facility, first: Run) -> None:
    address = f"globus://{facility.collections['beamline']}/nowhere.h5"
    ends(facility, FAILED, "submit", address, *on(facility), "--wait")
    failure = failure_of(facility, facility.web.runs[-1])
    assert failure["stage"] == "TransferScan" and "nowhere.h5" in failure["cause"]


def test_a_checksum_that_is_wrong(facility: Facility, first: Run) -> None:
    simulate(facility, "scan_0003", 3)
    facility.web.corrupt_next_transfer()
    ends(facility, FAILED, "submit", scan_path(facility, "scan_0003"), *on(facility), "--wait")
    run = facility.web.runs[-1]
    failure = failure_of(facility, run)
    assert failure["stage"] == "TransferScan" and "checksum" in failure["cause"].lower()
    assert not (facility.processing / "scan_0003" / "raw.h5").exists()
    succeeds(facility, "retry", run.id, *on(facility), "--wait")
    assert searched(facility, "scan_id:scan_0003 and status:succeeded")


def test_an_index_that_refuses(facility: Facility, first: Run) -> None:
    services = make_services(load_deployment(facility_environment(facility)))
    with services:
        search = globus_sdk.SearchClient(app=services.flows._app, app_scopes=[SearchScopes.all])
        index = search.create_index("refusing", "refusing")["id"]
        entry = {"subject": "first", "visible_to": ["public"], "content": {"metrics": {"porosity_percent": True}}}
        task = search.ingest(index, {"ingest_type": "GMetaEntry", "ingest_data": entry})["task_id"]
        wait_until(lambda: search.get_task(task)["state"] == "SUCCESS")
    changes = everything(facility, title="Refusing index", search={"index": index})
    succeeds(facility, "deploy", facility.deployment_file("refusing", **changes))
    done = ends(facility, FAILED, "submit", scan_path(facility), *on(facility, "refusing"), "--wait")
    assert "porosity_percent" in done.stdout + done.stderr
    failure = failure_of(facility, facility.web.runs[-1], "refusing")
    assert failure["stage"] == "PublishMetrics"


def test_a_worker_of_another_version(facility: Facility, first: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    facility.deployment_file("newer", **everything(facility, title="Newer"))
    version = importlib.metadata.version
    monkeypatch.setattr("importlib.metadata.version", lambda name: "9.9.9" if name == "tomopipe" else version(name))
    deployment = load_deployment(facility_environment(facility, "newer", monkeypatch))
    with make_services(deployment) as services:
        deploy(deployment, services)
        client = Client(deployment, services)
        run = client.wait(client.submit(str(scan_path(facility))).run_id, timeout_s=120)
    assert run.status == "FAILED"
    assert run.error is not None
    assert facility.tomopipe("wait", run.run_id, *on(facility, "newer")).returncode == FAILED
    assert "deployed with tomopipe 9.9.9" in run.error and "pip install tomopipe==9.9.9" in run.error
    assert failure_of(facility, facility.web.runs[-1], "newer")["stage"] == "Inspect"


def facility_environment(
    facility: Facility, name: str = "facility", monkeypatch: pytest.MonkeyPatch | None = None
) -> Path:
    """Have this process talk to the facility; the path of a deployment."""
    for key, value in facility.environment.items():
        if monkeypatch is not None:
            monkeypatch.setenv(key, value)
        else:
            os.environ[key] = value
    return facility.folder / f"{name}.yaml"


def test_a_consent_that_is_missing_and_then_given(facility: Facility, first: Run) -> None:
    simulate(facility, "scan_0004", 4)
    facility.web.auth.withdraw_consents(facility.account[0])
    # A deployment that forgets that the processing collection is mapped: nobody asks for the consent.
    changes = everything(facility, title="Forgetful", processing={"mapped": False})
    succeeds(facility, "deploy", facility.deployment_file("forgetful", **changes))
    done = ends(facility, INACTIVE, "submit", scan_path(facility, "scan_0004"), *on(facility, "forgetful"), "--wait")
    run = facility.web.runs[-1]
    assert run.status == "INACTIVE"
    assert f"https://app.globus.org/runs/{run.id}" in done.stdout + done.stderr
    assert "tomopipe resume" in done.stdout + done.stderr
    succeeds(facility, "resume", run.id, "--wait")
    assert run.status == "SUCCEEDED"
    assert searched(facility, "scan_id:scan_0004 and status:succeeded", name="forgetful")


# Kills


def recipe_of(facility: Facility, scan_id: str, folder: Path) -> RunDirectory:
    """A lone run of a scan, which says how the run directory of the facility's will be named."""
    options = ("--slab", EXECUTION["slab"], "--memory", "1G")
    return Pipeline(folder / "home").run(scan_path(facility, scan_id), folder / "results", *options)


def submit_until_slab(facility: Facility, run: RunDirectory, scan_id: str, name: str) -> Run:
    """Submit, and return when the third slab of Reconstruct is all that the run waits for: this process holds its lock."""
    succeeds(facility, "submit", scan_path(facility, scan_id), *on(facility, name))
    started = facility.web.runs[-1]
    before = [run.receipt_path("reconstruct", first, first + 16) for first in (0, 16)]
    wait_until(lambda: all(path.exists() for path in before) or started.status != "ACTIVE")
    assert started.status == "ACTIVE", started.details
    return started


def wait_for_end(run: Run, status: str, limit_s: float = 120) -> None:
    deadline = time.monotonic() + limit_s
    while run.status == "ACTIVE" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert run.status == status, run.details


def test_a_worker_that_is_killed(facility: Facility, first: Run, tmp_path: Path) -> None:
    simulate(facility, "scan_0005", 5)
    lone = recipe_of(facility, "scan_0005", tmp_path)
    run = run_directory(facility, "scan_0005", lone.root.name)
    with lock(run.lock_path("reconstruct", 32, 48)):
        started = submit_until_slab(facility, run, "scan_0005", "facility")
        assert facility.agent is not None
        for pid in facility.agent.worker_pids():
            os.kill(pid, 9)
        wait_for_end(started, "FAILED")
    failure = failure_of(facility, started)
    assert failure["stage"] == "Reconstruct" and "WorkerLost" in failure["cause"]
    done = receipts(run)
    assert len([name for name in done if "reconstruct" in name]) >= 2
    assert "receipts/reconstruct/000032-000048.json" not in done
    assert ends(facility, FAILED, "wait", started.id).returncode == FAILED

    succeeds(facility, "retry", started.id, "--wait")
    assert {name: receipts(run)[name] for name in done} == done
    assert_same_result(run, lone)
    # The record of the failure has given way to that of the success.
    assert [content["status"] for content in searched(facility, "scan_id:scan_0005")] == ["succeeded"]


def test_an_agent_that_is_killed_and_started_again(facility: Facility, first: Run, tmp_path: Path) -> None:
    simulate(facility, "scan_0006", 6)
    lone = recipe_of(facility, "scan_0006", tmp_path)
    run = run_directory(facility, "scan_0006", lone.root.name)
    changes = everything(facility, title="Impatient", compute={"wait_hours": 25 / 3600})
    succeeds(facility, "deploy", facility.deployment_file("impatient", **changes))
    with lock(run.lock_path("reconstruct", 32, 48)):
        started = submit_until_slab(facility, run, "scan_0006", "impatient")
        facility.kill_agent()
        # Nobody tells the service that its task is lost: the state's time runs out.
        wait_for_end(started, "FAILED")
    ends(facility, FAILED, "wait", started.id)
    failure = failure_of(facility, started, "impatient")
    assert failure["stage"] == "Reconstruct" and failure["error"] == "ActionTimeout"
    done = receipts(run)
    facility.restart_agent()
    succeeds(facility, "retry", started.id, "--deployment", facility.folder / "facility.yaml", "--wait")
    assert {name: receipts(run)[name] for name in done} == done
    assert_same_result(run, lone)


def test_runs_are_listed_followed_and_cancelled(facility: Facility, first: Run) -> None:
    simulate(facility, "scan_0007", 7)
    succeeds(facility, "submit", scan_path(facility, "scan_0007"), *on(facility))
    run = facility.web.runs[-1]
    succeeds(facility, "cancel", "scan_0007")
    listed = json.loads(succeeds(facility, "runs", *on(facility), "--json"))
    assert uuid.UUID(run.id) in {uuid.UUID(entry["run_id"]) for entry in listed}
    assert "scan_0007" in succeeds(facility, "runs")
    wait_for_end(run, "FAILED")
    assert json.loads(ends(facility, SUCCEEDED, "status", run.id, "--json").stdout)["status"] == "CANCELLED"
    assert "FlowCanceled" in succeeds(facility, "log", run.id)


# Last, so that it sees what all the runs above have left


def test_nothing_of_the_submitting_machine_and_no_secret_leaves_it(facility: Facility, first: Run) -> None:
    secrets = [facility.account[1], str(facility.beamline), str(facility.home), *facility.web.auth.issued_tokens]
    assert len(secrets) > 5
    said = [json.dumps([run.input, run.log, run.details, run.label, run.tags]) for run in facility.web.runs]
    said += [json.dumps(searched(facility, "*")), repr(facility.web.requests)]
    texts = (".json", ".html", ".csv", ".txt", ".log", ".yaml")
    files = [
        path
        for root in (facility.processing, facility.folder / "share", facility.home)
        for path in root.rglob("*")
        if path.is_file() and path.suffix in texts
    ]
    assert len(files) > 20
    said += [path.read_text(errors="replace") for path in files]
    for text in said:
        assert not [secret for secret in secrets if secret in text]
