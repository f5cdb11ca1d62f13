"""The submitter at a facility of web services on this machine: real requests, real answers, one run a scan."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from facility.services.web import WebServices
from facility_bed import FacilityBed, make_bed
from trigger_fakes import FakePeople

from tomopipe.flows.trigger.backends import Backends, ServiceBackend
from tomopipe.flows.trigger.config import Rule, SubmitterConfig
from tomopipe.flows.trigger.entry import Entry, identify
from tomopipe.flows.trigger.ledger import Ledger
from tomopipe.flows.trigger.observation import Observation
from tomopipe.flows.trigger.submitter import Submitter

GROUP = "urn:globus:groups:id:00000000-1111-2222-3333-444444444444"


@pytest.fixture
def web(tmp_path: Path) -> Iterator[WebServices]:
    services = WebServices(tmp_path / "services")
    services.start()
    yield services
    services.stop()
    assert services.faults == []


@pytest.fixture
def bed(web: WebServices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FacilityBed:
    client_id, secret = web.add_service_account()
    for name, value in web.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TOMOPIPE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TOMOPIPE_CLIENT_ID", client_id)
    monkeypatch.setenv("TOMOPIPE_CLIENT_SECRET", secret)
    return make_bed(web, tmp_path, tmp_path / "home", client_id)


class Watch:
    """A trigger's ledger and submitter on real time, at the facility of a bed."""

    def __init__(self, bed: FacilityBed) -> None:
        self.bed = bed
        self.ahead = 0.0
        self.dead: set[str] = set()
        self.ledger = Ledger(bed.folder / "ledger.sqlite", self.clock, lambda owner: owner in self.dead)
        self.people = FakePeople()
        self.rules = [
            Rule(
                name="all", deployment=str(bed.file), visible_to=[GROUP], parameters={"reconstruction": {"center": 9.5}}
            )
        ]
        self.targets = Backends(None, bed.folder / "local", 60.0)

    def clock(self) -> float:
        return time.time() + self.ahead

    def submitter(self, owner: str = "one") -> Submitter:
        settings = SubmitterConfig(poll_s=0.1)
        return Submitter(self.ledger, self.rules, self.targets, settings, self.people, self.clock, owner)

    def add(self, name: str) -> Entry:
        path = Path(self.bed.scan(name))
        found = identify(path)
        assert found is not None
        number = self.ledger.observe(Observation(path, "files", "candidate"), found).number
        assert number is not None
        assert self.ledger.set_ready(number, found, {}) == "ready"
        return self.ledger.get(number)

    def work_until(self, number: int, *states: str) -> Entry:
        one = self.submitter()
        end = time.monotonic() + 30
        while self.ledger.get(number).state not in states:
            assert time.monotonic() < end, self.ledger.get(number)
            one.step()
            self.ahead += 1
            time.sleep(0.05)
        return self.ledger.get(number)


def test_scans_go_to_the_facility_as_their_rule_says(bed: FacilityBed) -> None:
    watch = Watch(bed)
    good, bad = watch.add("good.h5"), watch.add("bad.h5")
    done = watch.work_until(good.number, "done")
    assert done.key is not None
    failed = watch.work_until(bad.number, "failed")
    assert "no flats" in str(failed.reason)
    assert len(bed.runs()) == 2
    with bed.client() as client:
        run = client.run(str(done.run_id))
    assert f"trigger:{done.key}" in run.tags and run.input is not None
    assert run.input["input"]["visible_to"] == [GROUP]
    assert run.input["input"]["parameters"]["reconstruction"]["center"] == 9.5
    assert run.input["input"]["parameters"]["reconstruction"]["filter"] == "hann", "the deployment's own"


def test_a_crash_between_submission_and_record_makes_no_second_run(bed: FacilityBed) -> None:
    watch = Watch(bed)
    entry = watch.add("good_2.h5")

    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    watch.ledger.record_run = crash  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        watch.submitter("dies").step()
    del watch.ledger.record_run  # type: ignore[method-assign]
    assert len(bed.runs()) == 1
    with bed.client() as client:
        # It may end in the meantime: then no run of the request is under way, and only the tag tells.
        client.wait(bed.runs()[0].id, 30)
    # The list of this machine died with the one who kept it.
    (Path(os.environ["TOMOPIPE_HOME"]) / "submissions.sqlite").unlink()
    watch.dead.add("dies")
    watch.targets = Backends(None, bed.folder / "local", 60.0)
    done = watch.work_until(entry.number, "done")
    assert len(bed.runs()) == 1
    assert done.run_id == bed.runs()[0].id


def test_a_login_that_is_gone_keeps_the_scan(bed: FacilityBed, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch(bed)
    entry = watch.add("good_3.h5")
    secret = os.environ["TOMOPIPE_CLIENT_SECRET"]
    monkeypatch.setenv("TOMOPIPE_CLIENT_SECRET", "wrong")
    one = watch.submitter()
    one.step()
    assert len(watch.people.told) == 1, "people are told at once"
    for _ in range(4):
        watch.ahead += 2000
        one.step()
    kept = watch.ledger.get(entry.number)
    assert kept.state == "ready" and kept.reason
    assert bed.runs() == []
    assert all(secret not in text and "wrong" not in text for _, text in watch.people.told)
    monkeypatch.setenv("TOMOPIPE_CLIENT_SECRET", secret)
    watch.ahead += 2000
    watch.work_until(entry.number, "done")
    assert len(bed.runs()) == 1


def test_a_scan_outside_the_collection_is_refused(bed: FacilityBed) -> None:
    watch = Watch(bed)
    entry = watch.add("good_4.h5")
    outside = bed.folder / "outside.h5"
    outside.write_bytes(b"raw")
    found = identify(outside)
    number = watch.ledger.observe(Observation(outside, "files", "candidate"), found).number
    assert number is not None and found is not None
    watch.ledger.set_ready(number, found, {})
    assert "raw" in str(watch.work_until(number, "failed").reason)
    watch.work_until(entry.number, "done")


def test_a_run_under_way_is_found_as_such(bed: FacilityBed) -> None:
    watch = Watch(bed)
    entry = watch.work_until(watch.add("held.h5").number, "submitted")
    backend = ServiceBackend(str(bed.file), 60.0)
    found = backend.find(str(entry.key))
    assert found is not None and (found.run_id, found.state) == (entry.run_id, "active")
    missing = dataclasses.replace(entry, key="another")
    assert backend.find(str(missing.key)) is None
    with bed.client() as client:
        client.cancel(str(entry.run_id))
    assert backend.status(str(entry.run_id)).state in ("active", "failed")
    backend.close()
