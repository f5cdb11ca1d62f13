"""The facility as a whole: a scan goes through it, an agent that dies does not end it, nothing outlives it."""

from __future__ import annotations

import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from facility.facility import Facility, facility_missing
from facility.test_agent import processes_of, wait_until

_MISSING = facility_missing()

pytestmark = [pytest.mark.slow, pytest.mark.skipif(_MISSING is not None, reason=_MISSING or "")]

_END_S = 20.0


@pytest.fixture(scope="module")
def facility(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Facility]:
    with Facility(tmp_path_factory.mktemp("facility")) as facility:
        yield facility
        assert facility.web.faults == []
    assert processes_of(facility.folder) == []


def test_a_scan_goes_through_from_the_command_line(facility: Facility) -> None:
    scan = facility.beamline / "scan.h5"
    deployment = facility.deployment_file()
    for arguments in (
        ("simulate", scan, "--columns", 64, "--rows", 32, "--angles", 60),
        ("deploy", deployment),
        ("submit", scan, "--deployment", deployment),
    ):
        done = facility.tomopipe(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
    run = facility.web.runs[-1]
    waited = facility.tomopipe("wait", run.id, "--deployment", deployment)
    assert waited.returncode == 0, waited.stdout + waited.stderr
    (report,) = facility.folder.glob("share/results/scan/*/report.html")
    (computed,) = facility.processing.glob("scan/*/report.html")
    assert report.read_bytes() == computed.read_bytes()
    assert run.status == "SUCCEEDED"


def test_changes_of_the_deployment_are_merged(facility: Facility) -> None:
    changed = yaml.safe_load(facility.deployment_file("other", compute={"wait_hours": 0.5}).read_text())
    assert facility.agent is not None
    assert changed["compute"] == {"endpoint": facility.agent.endpoint_id, "wait_hours": 0.5}
    assert changed["extends"] == "loopback"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_the_command_ends_with_all_that_it_started(tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "facility"
    with (tmp_path / "output").open("w") as output:
        command = [sys.executable, str(Path(__file__).parent), str(folder)]
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        said = tmp_path / "output"
        wait_until(lambda: "Ctrl-C here ends everything" in said.read_text() or process.poll() is not None)
        assert process.poll() is None, said.read_text()
        variables = folder / "facility.env"
        assert stat.S_IMODE(variables.stat().st_mode) == 0o600
        assert "export TOMOPIPE_CLIENT_SECRET=" in variables.read_text()
        assert str(folder / "facility.yaml") in said.read_text()
        # The broker with its daemons, and the agent.
        assert len(processes_of(folder)) >= 5
        process.send_signal(number)
        assert process.wait(_END_S) == (-number if number == signal.SIGKILL else 0)
    finally:
        process.kill()
        process.wait()
    deadline = time.monotonic() + _END_S
    while (left := processes_of(folder)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []
