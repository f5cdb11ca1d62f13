"""The submitter: one run a scan, whatever the service, the network and the login do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from trigger_fakes import Beamline, FakeRun

from tomopipe.flows.login import GlobusServiceError, LoginNeeded
from tomopipe.flows.service_run import ServiceRun
from tomopipe.flows.trigger.backends import Backends, Kept, Refused, ServiceBackend
from tomopipe.flows.trigger.config import Rule, SubmitterConfig
from tomopipe.flows.trigger.entry import Entry, run_tag
from tomopipe.functions.errors import InputError, ParameterError, ScanError, TomopipeError


@pytest.fixture
def beamline(tmp_path: Path) -> Beamline:
    return Beamline(tmp_path)


def finish(beamline: Beamline, state: str = "succeeded") -> None:
    """All runs end, and the submitter hears of it."""
    for run in beamline.service.runs:
        run.state = state  # type: ignore[assignment]
    beamline.pass_time(100)
    beamline.submitter.step()


def test_a_scan_goes_from_ready_to_done(beamline: Beamline) -> None:
    number = beamline.make_ready(beamline.write()).number
    beamline.submitter.step()
    entry = beamline.ledger.get(number)
    assert (entry.state, entry.run_id, entry.rule, entry.scan_id) == ("submitted", "run-1", "all", "scan_1")
    finish(beamline)
    assert beamline.state(number) == "done"
    assert len(beamline.service.runs) == 1


def test_no_more_runs_than_allowed_and_all_in_the_end(tmp_path: Path) -> None:
    beamline = Beamline(tmp_path, settings=SubmitterConfig(max_active=3))
    for number in range(10):
        beamline.make_ready(beamline.write(f"scan_{number}.h5"))
    for _ in range(10):
        beamline.submitter.step()
        assert sum(run.state == "active" for run in beamline.service.runs) <= 3
        finish(beamline)
    assert beamline.ledger.counts()["done"] == 10
    assert len({run.scan for run in beamline.service.runs}) == len(beamline.service.runs) == 10


def test_a_lost_answer_makes_no_second_run(beamline: Beamline) -> None:
    beamline.service.lag_s = 30
    beamline.service.lose_answers = 1
    number = beamline.make_ready(beamline.write()).number
    beamline.submitter.step()
    assert beamline.state(number) == "submitting"
    for _ in range(20):
        beamline.pass_time(10)
        beamline.submitter.step()
    assert beamline.state(number) == "submitted"
    assert len(beamline.service.runs) == 1


def test_a_crash_after_sending_makes_no_second_run(beamline: Beamline) -> None:
    beamline.service.lag_s = 30
    number = beamline.make_ready(beamline.write()).number

    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    beamline.ledger.record_run = crash  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        beamline.submitter.step()
    del beamline.ledger.record_run  # type: ignore[method-assign]
    beamline.dead.add(beamline.submitter.owner)
    other = beamline.new_submitter()
    for _ in range(20):
        other.step()
        beamline.pass_time(7)
    assert beamline.state(number) == "submitted"
    assert len(beamline.service.runs) == 1


def test_a_service_that_is_down_for_hours_loses_nothing(beamline: Beamline) -> None:
    numbers = [beamline.make_ready(beamline.write(f"scan_{n}.h5")).number for n in range(6)]
    beamline.service.refuse_with = GlobusServiceError("503", 503)
    for _ in range(200):
        beamline.submitter.step()
        beamline.pass_time(60)
    assert beamline.service.runs == []
    assert {beamline.state(number) for number in numbers} <= {"ready", "submitting"}
    assert sorted({text for _, text in beamline.people.told}) == ["no runs can be started at polaris: 503"]
    beamline.service.refuse_with = None
    for _ in range(40):
        beamline.submitter.step()
        beamline.pass_time(60)
    finish(beamline)
    for _ in range(5):
        finish(beamline)
    assert {beamline.state(number) for number in numbers} == {"done"}
    assert len(beamline.service.runs) == 6
    assert "target polaris" in beamline.people.in_order


def test_an_expired_login_keeps_every_scan_and_tells_people_at_once(beamline: Beamline) -> None:
    numbers = [beamline.make_ready(beamline.write(f"scan_{n}.h5")).number for n in range(3)]
    beamline.service.refuse_with = Kept("run `tomopipe login`", needs_person=True)
    beamline.submitter.step()
    assert [about for about, _ in beamline.people.told] == ["target polaris"]
    assert {beamline.state(number) for number in numbers} == {"ready"}
    beamline.service.refuse_with = None
    beamline.pass_time(3600)
    beamline.submitter.step()
    assert {beamline.state(number) for number in numbers} == {"submitted"}


def test_one_target_in_trouble_does_not_hold_up_another(tmp_path: Path) -> None:
    rules = [
        Rule.model_validate({"name": "a", "when": {"path": "*/a_*"}, "deployment": "broken"}),
        Rule.model_validate({"name": "b", "deployment": "good"}),
    ]
    beamline = Beamline(tmp_path, rules=rules)
    working = beamline.service

    class Broken:
        settle_s = 60.0

        def find(self, key: str) -> None:
            raise LoginNeeded("no login")

    class Targets:
        def get(self, target: str) -> Any:
            return Broken() if target == "broken" else working

        def settle_s(self, target: str) -> float:
            return 60.0

    beamline.submitter._targets = Targets()
    for n in range(5):
        beamline.make_ready(beamline.write(f"a_{n}.h5"))
        beamline.pass_time(1)
    good = beamline.make_ready(beamline.write("b_1.h5")).number
    beamline.submitter.step()
    assert beamline.state(good) == "submitted"
    assert list(beamline.submitter.gates()) == ["broken"]


def test_what_cannot_be_asked_for_like_that_fails_and_can_be_retried(beamline: Beamline) -> None:
    number = beamline.make_ready(beamline.write()).number
    beamline.service.refuse_with = Refused("the path is outside the collection")
    beamline.submitter.step()
    entry = beamline.ledger.get(number)
    assert (entry.state, entry.reason) == ("failed", "the path is outside the collection")
    assert beamline.people.told
    beamline.service.refuse_with = None
    retry(beamline, number)
    assert beamline.state(number) == "submitted"


def test_a_file_that_cannot_be_opened_for_a_while_is_kept_and_holds_up_nothing_else(beamline: Beamline) -> None:
    number = beamline.make_ready(beamline.write()).number
    beamline.service.refuse_with = ScanError("scan_1.h5: cannot be opened (input/output error)")
    for _ in range(4):
        beamline.submitter.step()
        entry = beamline.ledger.get(number)
        assert (entry.state, entry.reason) == ("ready", "scan_1.h5: cannot be opened (input/output error)")
        beamline.pass_time(3600)
    assert beamline.people.told
    assert not beamline.submitter.gates()
    beamline.service.refuse_with = None
    beamline.submitter.step()
    assert beamline.state(number) == "submitted"
    assert len(beamline.service.runs) == 1


def retry(beamline: Beamline, number: int) -> None:
    entry = beamline.ledger.retry(number)
    assert beamline.ledger.set_ready(number, entry.identity, {}) == "ready"
    beamline.submitter.step()


def test_a_failed_run_is_started_again_by_retry_alone(beamline: Beamline) -> None:
    number = beamline.make_ready(beamline.write()).number
    beamline.submitter.step()
    finish(beamline, "failed")
    assert beamline.state(number) == "failed"
    for _ in range(5):
        beamline.pass_time(3600)
        beamline.see(beamline.folder / "data" / "scan_1.h5")
        beamline.submitter.step()
    assert len(beamline.service.runs) == 1
    retry(beamline, number)
    assert len(beamline.service.runs) == 2
    assert beamline.service.runs[0].key != beamline.service.runs[1].key
    assert beamline.state(number) == "submitted"
    finish(beamline)
    assert beamline.state(number) == "done"


def test_a_retry_finds_a_run_that_was_taken_for_not_started(beamline: Beamline) -> None:
    number = beamline.make_ready(beamline.write()).number
    beamline.service.lose_answers = 1
    beamline.submitter.step()
    entry = beamline.ledger.get(number)
    assert entry.state == "submitting" and entry.owner is None
    # Somebody loses patience: the scan is given up by hand, then retried; the run is there all the same.
    assert beamline.ledger.ignore(number, "given up by hand")
    beamline.service.lag_s = 30
    beamline.pass_time(15)
    retry(beamline, number)
    assert len(beamline.service.runs) == 1
    assert beamline.state(number) == "ready"
    beamline.pass_time(100)
    beamline.submitter.step()
    assert len(beamline.service.runs) == 1
    assert beamline.ledger.get(number).run_id == "run-1"


def test_a_run_that_needs_a_person_is_kept_and_told(beamline: Beamline) -> None:
    number = beamline.make_ready(beamline.write()).number
    beamline.submitter.step()
    beamline.service.runs[0].state, beamline.service.runs[0].reason = "inactive", "consent to the collection"
    beamline.pass_time(60)
    beamline.submitter.step()
    entry = beamline.ledger.get(number)
    assert (entry.state, entry.run_status) == ("submitted", "inactive")
    assert any("consent to the collection" in text for _, text in beamline.people.told)
    finish(beamline)
    assert beamline.state(number) == "done"
    assert len(beamline.service.runs) == 1


def test_a_run_that_was_cut_off_goes_on_in_another(beamline: Beamline) -> None:
    number = beamline.make_ready(beamline.write()).number
    beamline.submitter.step()
    for expected in (2, 3, 3):
        beamline.service.runs[-1].state = "interrupted"
        beamline.pass_time(60)
        beamline.submitter.step()
        assert len(beamline.service.runs) == expected
    entry = beamline.ledger.get(number)
    assert entry.state == "failed", "restarts are limited"
    assert len({run.key for run in beamline.service.runs}) == 3


def test_a_run_that_nobody_can_see_is_not_taken_for_failed(beamline: Beamline) -> None:
    number = beamline.make_ready(beamline.write()).number
    beamline.submitter.step()
    beamline.service.runs[0].state = "unknown"
    for _ in range(30):
        beamline.pass_time(1000)
        beamline.submitter.step()
    assert beamline.state(number) == "submitted"
    assert any(about == "asking polaris" for about, _ in beamline.people.told)
    beamline.pass_time(91 * 86400)
    beamline.submitter.step()
    assert beamline.state(number) == "failed"


def test_a_file_that_is_written_to_while_it_waits_is_not_started(tmp_path: Path) -> None:
    beamline = Beamline(tmp_path, settings=SubmitterConfig(max_active=1))
    beamline.make_ready(beamline.write("first.h5"))
    beamline.submitter.step()
    waiting = beamline.make_ready(beamline.write("second.h5")).number
    beamline.write("second.h5", "half of other frames")
    finish(beamline)
    assert beamline.state(waiting) == "waiting"
    assert len(beamline.service.runs) == 1


def test_a_file_that_is_written_to_before_a_lost_submission_is_repeated_is_not_started(beamline: Beamline) -> None:
    number = beamline.make_ready(beamline.write()).number
    beamline.service.refuse_with = TomopipeError("no network")
    beamline.submitter.step()
    assert beamline.state(number) == "submitting"
    beamline.write(content="other frames")
    beamline.service.refuse_with = None
    beamline.pass_time(3600)
    beamline.submitter.step()
    assert beamline.state(number) == "waiting"
    assert beamline.service.runs == []


def test_a_replaced_file_whose_first_submission_is_open_is_one_more_scan(beamline: Beamline) -> None:
    path = beamline.write()
    first = beamline.make_ready(path).number
    beamline.service.refuse_with = TomopipeError("no network")
    beamline.submitter.step()
    beamline.write(content="other frames")
    second = beamline.see(path).number
    assert second != first
    beamline.service.refuse_with = None
    beamline.pass_time(3600)
    beamline.submitter.step()
    assert beamline.state(first) == "ignored"
    assert beamline.state(second) == "seen"  # type: ignore[arg-type]
    assert beamline.service.runs == []


def test_a_fault_in_a_back_end_keeps_the_scan(beamline: Beamline) -> None:
    number = beamline.make_ready(beamline.write()).number
    beamline.service.refuse_with = KeyError("a fault")
    beamline.submitter.step()
    assert beamline.state(number) == "submitting"
    beamline.service.refuse_with = None
    beamline.pass_time(3600)
    beamline.submitter.step()
    assert beamline.state(number) == "submitted"


def test_scans_that_no_rule_wants_are_ignored_with_the_reason(tmp_path: Path) -> None:
    rules = [
        Rule.model_validate({"name": "tests", "when": {"path": "*my_test_*.h5"}, "start": False, "reason": "a test"})
    ]
    rules.append(Rule.model_validate({"name": "shale", "when": {"metadata": {"sample": "shale*"}}, "deployment": "x"}))
    beamline = Beamline(tmp_path, rules=rules)
    tested = beamline.make_ready(beamline.write("my_test_1.h5")).number
    other = beamline.make_ready(beamline.write("scan_1.h5")).number
    beamline.submitter.step()
    assert beamline.ledger.get(tested).reason == "a test"
    assert beamline.ledger.get(other).reason == "no rule matches (of 2)"
    assert beamline.service.runs == []


def test_a_parameter_file_that_is_broken_keeps_scans_until_it_is_mended(tmp_path: Path) -> None:
    parameters = tmp_path / "foam.yaml"
    parameters.write_text("reconstruction: {algoritm: fbp}")
    beamline = Beamline(tmp_path, rules=[Rule(name="all", deployment="x", parameters=parameters)])
    number = beamline.make_ready(beamline.write()).number
    beamline.submitter.step()
    assert beamline.state(number) == "ready"
    assert any("algoritm" in text for _, text in beamline.people.told)
    parameters.write_text("reconstruction: {algorithm: fbp}")
    beamline.pass_time(3600)
    beamline.submitter.step()
    assert beamline.state(number) == "submitted"


def test_a_bad_request_is_refused_and_a_good_one_goes_before_the_rule(beamline: Beamline) -> None:
    bad = beamline.make_ready(beamline.write("a.h5"), request={"parameters": {"reconstruction": {"algoritm": 1}}})
    good = beamline.make_ready(beamline.write("b.h5"), request={"scan_id": "mine", "deployment": "other"})
    beamline.submitter.step()
    assert beamline.state(bad.number) == "failed" and "algoritm" in str(beamline.ledger.get(bad.number).reason)
    entry = beamline.ledger.get(good.number)
    assert (entry.state, entry.scan_id, entry.target) == ("submitted", "mine", "other")


def test_two_watchers_share_the_work_without_sharing_a_scan(beamline: Beamline) -> None:
    for number in range(8):
        beamline.make_ready(beamline.write(f"scan_{number}.h5"))
    others = [beamline.new_submitter() for _ in range(3)]
    for _ in range(6):
        for other in others:
            other.step()
        finish(beamline)
    assert sorted(Path(run.scan).name for run in beamline.service.runs) == [f"scan_{n}.h5" for n in range(8)]


# The back end of a facility, on a client of its own


class FakeClient:
    """Says what a client says, and remembers what it was asked for."""

    flow_id = "flow"
    services = None

    def __init__(self) -> None:
        self.defaults: dict[str, Any] = {}
        self.known: list[ServiceRun] = []
        self.listed: list[Any] = []
        self.error: Exception | None = None

    def prepare(self, scan: str, **options: Any) -> Any:
        if "bad" in scan:
            raise ParameterError("SCAN: is no good")
        if isinstance(self.error, ScanError):
            raise self.error
        return {"scan": scan, **options}

    def start(self, prepared: Any) -> ServiceRun:
        if self.error is not None:
            raise self.error
        run = ServiceRun(
            f"run-{len(self.known)}",
            "flow",
            "polaris",
            prepared["scan_id"],
            "",
            "ACTIVE",
            "",
            tags=tuple(prepared["tags"]),
        )
        self.known.append(run)
        return run

    def runs(self, limit: int | None, since: Any) -> list[ServiceRun]:
        self.listed.append(since)
        return self.known

    def peek(self, run_id: str) -> ServiceRun:
        for run in self.known:
            if run.run_id == run_id:
                return run
        raise InputError(f"run {run_id}: the service knows no such run")

    run = peek

    def close(self) -> None:
        pass


def claimed(beamline: Beamline, name: str = "scan_1.h5") -> Entry:
    ready = beamline.make_ready(beamline.write(name))
    beamline.submitter.step()
    return beamline.ledger.get(ready.number)


def test_a_run_at_a_facility_is_found_by_its_tag(beamline: Beamline) -> None:
    client = FakeClient()
    backend = ServiceBackend("polaris", 60.0, lambda name: client)  # type: ignore[arg-type,return-value]
    entry = claimed(beamline)
    assert entry.key is not None
    assert backend.find(entry.key) is None
    run_id = backend.submit(entry, entry.key)
    assert run_tag(entry.key) in client.known[0].tags
    assert len(run_tag(entry.key)) <= 64
    found = ServiceBackend("polaris", 60.0, lambda name: client).find(entry.key)  # type: ignore[arg-type,return-value]
    assert found is not None and (found.run_id, found.state) == (run_id, "active")
    assert backend.status("another").state == "unknown"


def test_what_the_client_says_decides_whether_a_scan_is_kept(beamline: Beamline) -> None:
    client = FakeClient()
    backend = ServiceBackend("polaris", 60.0, lambda name: client)  # type: ignore[arg-type,return-value]
    entry = claimed(beamline)
    assert entry.key is not None
    client.error = GlobusServiceError("422: the input does not fit", 422)
    with pytest.raises(Refused):
        backend.submit(entry, entry.key)
    for error in (GlobusServiceError("503", 503), LoginNeeded("log in")):
        client.error = error
        with pytest.raises(GlobusServiceError):
            backend.submit(entry, entry.key)
    with pytest.raises(Refused, match="is no good"):
        backend.submit(claimed(beamline, "bad.h5"), "key")
    client.error = ScanError("scan_1.h5: cannot be opened")
    with pytest.raises(ScanError):
        backend.submit(entry, entry.key)

    def no_login(name: str) -> Any:
        raise LoginNeeded("run `tomopipe login`")

    with pytest.raises(Kept) as caught:
        ServiceBackend("polaris", 60.0, no_login).submit(entry, entry.key)
    assert caught.value.needs_person


def test_local_runs_need_their_part_of_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="add it"):
        Backends(None, tmp_path, 60.0).get("local")


def test_entries_are_json(beamline: Beamline) -> None:
    entry = claimed(beamline)
    assert json.loads(json.dumps(vars(entry)))["key"] == entry.key
    assert isinstance(beamline.service.runs[0], FakeRun)
