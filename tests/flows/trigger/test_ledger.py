"""The ledger: one entry a scan, whatever is reported in whichever order, and one owner a submission."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from trigger_fakes import Beamline

from tomopipe.flows.trigger.entry import FileIdentity, Plan, identify, submission_key
from tomopipe.flows.trigger.ledger import ABORT_GRACE_S, ClaimLost, Ledger, ScanIdTaken, file_mark
from tomopipe.flows.trigger.observation import Observation
from tomopipe.flows.trigger.owner import is_gone, new_owner
from tomopipe.functions.errors import InputError

PLAN = Plan("all", "polaris", "scan_1")


@pytest.fixture
def beamline(tmp_path: Path) -> Beamline:
    return Beamline(tmp_path)


def test_reports_of_one_file_are_one_entry(beamline: Beamline) -> None:
    path = beamline.write()
    first = beamline.see(path)
    assert first.what == "new"
    assert [beamline.see(path).what for _ in range(5)] == ["known"] * 5
    assert beamline.see(path, "finished", "epics").number == first.number
    [entry] = beamline.ledger.open_entries()
    assert (entry.kind, entry.source) == ("finished", "epics")


def test_a_link_to_a_folder_makes_no_second_entry(beamline: Beamline) -> None:
    path = beamline.write()
    link = beamline.folder / "link"
    link.symlink_to(path.parent)
    first = beamline.make_ready(path)
    assert beamline.see(link / path.name).number == first.number
    assert sum(beamline.ledger.counts().values()) == 1


def test_metadata_of_all_sources_come_together_and_those_of_the_instrument_win(beamline: Beamline) -> None:
    path = beamline.write()
    number = beamline.see(path, metadata={"sample": "shale", "nan": float("nan")}).number
    beamline.see(path, "finished", "epics", metadata={"energy": 24.0})
    found = identify(path)
    assert number is not None and found is not None
    beamline.ledger.set_ready(number, found, {"sample": "from the file", "proposal": "7"})
    assert beamline.ledger.get(number).metadata == {"sample": "shale", "energy": 24.0, "proposal": "7"}


def test_a_file_that_is_replaced_is_another_scan_with_a_name_of_its_own(beamline: Beamline) -> None:
    path = beamline.write()
    first = beamline.make_ready(path)
    assert beamline.submitter.step() >= 1
    beamline.pass_time(100)
    beamline.write(content="other frames")
    second = beamline.make_ready(path)
    assert second.number != first.number
    beamline.submitter.step()
    names = {run.scan_id for run in beamline.service.runs}
    assert len(beamline.service.runs) == 2 and "scan_1" in names
    [other] = names - {"scan_1"}
    assert other is not None and other.startswith("scan_1-20")


def test_scans_of_one_name_in_two_folders_do_not_share_results(beamline: Beamline) -> None:
    for folder in ("monday", "tuesday"):
        (beamline.folder / "data" / folder).mkdir(parents=True)
        beamline.make_ready(beamline.write(f"{folder}/scan_1.h5"))
    beamline.submitter.step()
    assert len({run.scan_id for run in beamline.service.runs}) == 2


def test_another_recipe_of_a_scan_has_the_scan_s_name(beamline: Beamline) -> None:
    path = beamline.write()
    beamline.make_ready(path)
    beamline.submitter.step()
    beamline.service.runs[0].state = "succeeded"
    beamline.pass_time(60)
    beamline.submitter.step()
    beamline.make_ready(path, request={"parameters": {"reconstruction": {"algorithm": "gridrec"}}})
    beamline.submitter.step()
    assert [run.scan_id for run in beamline.service.runs] == ["scan_1", "scan_1"]


def test_a_file_that_changes_before_it_is_started_is_looked_at_again(beamline: Beamline) -> None:
    path = beamline.write()
    entry = beamline.make_ready(path)
    beamline.write(content="more frames than before")
    assert beamline.see(path).what == "changed"
    assert beamline.state(entry.number) == "waiting"


def test_what_was_aborted_is_not_started(beamline: Beamline) -> None:
    path = beamline.write()
    number = beamline.make_ready(path).number
    assert beamline.see(path, "aborted", "epics").what == "aborted"
    assert beamline.state(number) == "ignored"
    # The server adds the angles; the file source sees another file.
    beamline.pass_time(10)
    beamline.write(content="frames and angles")
    assert beamline.see(path).what == "known"
    assert beamline.ledger.open_entries() == []


def test_after_an_abort_the_next_scan_of_the_same_name_is_a_scan(beamline: Beamline) -> None:
    path = beamline.write()
    beamline.see(path, "aborted", "epics")
    beamline.pass_time(5)
    beamline.write(content="a whole scan")
    assert beamline.see(path, "finished", "epics").what == "new"


def test_an_old_abort_does_not_hold_for_a_file_that_comes_later(beamline: Beamline) -> None:
    path = beamline.write()
    beamline.see(path, "aborted", "epics")
    beamline.pass_time(ABORT_GRACE_S + 10)
    beamline.write(content="a whole scan")
    assert beamline.see(path).what == "new"


def test_an_abort_that_comes_too_late_is_told(beamline: Beamline) -> None:
    path = beamline.write()
    number = beamline.make_ready(path).number
    beamline.submitter.step()
    assert beamline.see(path, "aborted", "epics").what == "late abort"
    assert beamline.state(number) == "submitted"


def test_an_abort_without_a_file_is_recorded_once(beamline: Beamline) -> None:
    path = beamline.folder / "data" / "nothing"
    assert beamline.see(path, "aborted", "epics").what == "aborted"
    assert beamline.see(path, "aborted", "epics").what == "aborted"
    assert beamline.ledger.counts()["ignored"] == 1


def test_a_candidate_that_is_gone_is_no_entry_but_what_the_instrument_names_is_waited_for(beamline: Beamline) -> None:
    path = beamline.folder / "data" / "scan_9.h5"
    assert beamline.see(path).what == "gone"
    assert beamline.see(path, "finished", "epics").what == "new"
    assert beamline.see(path, "finished", "epics").what == "known"


def test_a_copy_with_another_time_is_the_same_scan_where_checksums_are_taken(beamline: Beamline) -> None:
    path = beamline.write()
    first = beamline.see(path).number
    found = identify(path)
    assert first is not None and found is not None
    assert beamline.ledger.set_ready(first, found, {}, "sha256:1") == "ready"
    touched = FileIdentity(found.size, found.mtime_ns + 1)
    second = beamline.ledger.observe(Observation(path, "files", "candidate"), touched).number
    # The first is still ready, and is looked at again instead.
    assert second == first
    assert beamline.ledger.set_ready(first, touched, {}, "sha256:1") == "ready"
    beamline.ledger.claim(first, "me", PLAN, 9)
    again = FileIdentity(found.size, found.mtime_ns + 2)
    third = beamline.ledger.observe(Observation(path, "files", "candidate"), again).number
    assert third is not None and third != first
    assert beamline.ledger.set_ready(third, again, {}, "sha256:1") == "ignored"
    fourth = beamline.ledger.observe(Observation(path, "files", "candidate"), again)
    assert (fourth.what, fourth.number) == ("known", third)


def test_a_request_from_a_folder_counts_once_by_its_id(beamline: Beamline) -> None:
    path = beamline.write()
    request = {"id": "drop:1", "again": True}
    number = beamline.make_ready(path, request=request).number
    assert beamline.see(path, "finished", "drop", request).what == "known"
    beamline.submitter.step()
    beamline.service.runs[0].state = "succeeded"
    beamline.pass_time(100)
    beamline.submitter.step()
    assert beamline.state(number) == "done"
    assert beamline.see(path, "finished", "drop", request).what == "known"
    assert beamline.see(path, "finished", "drop", {"id": "drop:2", "again": True}).what == "new"


def test_a_request_for_what_was_done_is_not_done_twice(beamline: Beamline) -> None:
    path = beamline.write()
    beamline.make_ready(path)
    beamline.submitter.step()
    beamline.service.runs[0].state = "succeeded"
    beamline.pass_time(100)
    beamline.submitter.step()
    asked = beamline.make_ready(path, request={})
    beamline.submitter.step()
    entry = beamline.ledger.get(asked.number)
    assert entry.state == "ignored" and "entry 1 (done)" in str(entry.reason)
    beamline.make_ready(path, request={"again": True, "id": "1"})
    beamline.submitter.step()
    assert len(beamline.service.runs) == 2
    assert len({run.key for run in beamline.service.runs}) == 2


def test_one_watcher_claims(beamline: Beamline) -> None:
    number = beamline.make_ready(beamline.write()).number
    claimed = beamline.ledger.claim(number, "a", PLAN, 9)
    assert claimed is not None and claimed.state == "submitting" and claimed.owner == "a"
    assert beamline.ledger.claim(number, "b", PLAN, 9) is None
    assert beamline.ledger.claim_abandoned("b", lambda target: 0.0) is None
    with pytest.raises(ClaimLost):
        beamline.ledger.record_run(replace(claimed, owner="b"), "run")


def test_a_claim_is_taken_over_only_from_the_dead_and_after_the_list_has_settled(beamline: Beamline) -> None:
    number = beamline.make_ready(beamline.write()).number
    claimed = beamline.ledger.claim(number, "a", PLAN, 9)
    assert claimed is not None
    beamline.pass_time(10 * 86400)
    assert beamline.ledger.claim_abandoned("b", lambda target: 60.0) is None
    beamline.dead.add("a")
    assert beamline.ledger.claim_abandoned("b", lambda target: 60.0) is None
    beamline.pass_time(59)
    assert beamline.ledger.claim_abandoned("b", lambda target: 60.0) is None
    beamline.pass_time(1)
    taken = beamline.ledger.claim_abandoned("b", lambda target: 60.0)
    assert taken is not None and (taken.number, taken.key, taken.plan) == (number, claimed.key, claimed.plan)
    with pytest.raises(ClaimLost):
        beamline.ledger.record_run(claimed, "run-1")


def test_no_more_are_claimed_than_may_be_active(beamline: Beamline) -> None:
    numbers = [beamline.make_ready(beamline.write(f"scan_{n}.h5")).number for n in range(3)]
    plans = [Plan("all", "polaris", f"scan_{n}") for n in range(3)]
    claims = [beamline.ledger.claim(number, "a", plan, 2) for number, plan in zip(numbers, plans, strict=True)]
    assert [claim is not None for claim in claims] == [True, True, False]


def test_two_recipes_of_one_scan_wait_for_each_other(beamline: Beamline) -> None:
    path = beamline.write()
    first = beamline.make_ready(path).number
    second = beamline.make_ready(path, request={"skip": ["denoise"]}).number
    assert beamline.ledger.claim(first, "a", PLAN, 9) is not None
    assert beamline.ledger.next_ready() is None
    assert beamline.ledger.claim(second, "b", Plan("all", "polaris", "scan_1", body={"skip": ["denoise"]}), 9) is None
    assert beamline.state(second) == "ready"


def test_a_scan_id_that_a_person_wants_is_not_bent(beamline: Beamline) -> None:
    beamline.make_ready(beamline.write())
    beamline.submitter.step()
    other = beamline.make_ready(beamline.write("other.h5"), request={"scan_id": "scan_1"})
    with pytest.raises(ScanIdTaken, match="is that of another scan"):
        beamline.ledger.claim(other.number, "a", Plan("all", "polaris", "scan_1", True), 9)


def test_the_scan_that_waited_longest_is_next(beamline: Beamline) -> None:
    late = beamline.see(beamline.write("a.h5")).number
    early = beamline.make_ready(beamline.write("z.h5")).number
    beamline.pass_time(1)
    found = identify(beamline.folder / "data" / "a.h5")
    assert late is not None and found is not None
    beamline.ledger.set_ready(late, found, {})
    following = beamline.ledger.next_ready()
    assert following is not None and following.number == early


def test_retry_is_for_what_failed_or_was_ignored(beamline: Beamline) -> None:
    number = beamline.make_ready(beamline.write()).number
    with pytest.raises(InputError, match="is ready; only what failed or was ignored"):
        beamline.ledger.retry(number)
    with pytest.raises(InputError, match="entry 99: there is none"):
        beamline.ledger.retry(99)
    beamline.ledger.ignore(number, "no rule")
    assert beamline.ledger.retry(number).state == "waiting"


def test_a_retry_of_a_file_that_has_another_entry_is_refused(beamline: Beamline) -> None:
    path = beamline.write()
    first = beamline.see(path).number
    assert first is not None
    beamline.ledger.ignore(first, "bad", identify(path))
    beamline.write(content="good frames")
    second = beamline.see(path).number
    with pytest.raises(InputError, match=f"entry {second} is this scan"):
        beamline.ledger.retry(first)


def test_known_files_are_told_from_others(beamline: Beamline) -> None:
    path = beamline.write()
    beamline.make_ready(path)
    found = identify(path)
    assert found is not None
    marks = beamline.ledger.known_files()
    assert file_mark(path, found.size, found.mtime_ns) in marks
    assert file_mark(path, found.size, found.mtime_ns + 1) not in marks


def test_keys_differ_for_all_that_matters() -> None:
    identity = FileIdentity(10, 20)
    base = submission_key("/a", identity, "r")
    assert base == submission_key("/a", FileIdentity(10, 20), "r")
    others = {
        submission_key("/b", identity, "r"), submission_key("/a", FileIdentity(11, 20), "r"),
        submission_key("/a", FileIdentity(10, 21), "r"), submission_key("/a", identity, "s"),
        submission_key("/a", identity, "r", 1), submission_key("/a", identity, "r", 0, "q"),
    }  # fmt: skip
    assert len(others | {base}) == 7


def test_many_watchers_at_once_claim_each_scan_once(tmp_path: Path) -> None:
    beamline = Beamline(tmp_path)
    numbers = [beamline.make_ready(beamline.write(f"scan_{n}.h5")).number for n in range(20)]
    claims: list[int] = []

    def watch(name: str) -> None:
        ledger = Ledger(beamline.ledger.path, beamline.clock)
        for number in numbers:
            entry = ledger.claim(number, name, Plan("all", "polaris", f"scan_{number}"), 100)
            if entry is not None:
                claims.append(entry.number)

    threads = [threading.Thread(target=watch, args=(f"w{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claims) == sorted(numbers)


def test_an_owner_is_gone_when_its_process_is() -> None:
    assert is_gone(None) is True
    assert is_gone(str(new_owner())) is False
    code = "from tomopipe.flows.trigger.owner import new_owner; print(new_owner(), flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        owner = other.stdout.readline().strip()
        assert is_gone(owner) is False
        os.kill(other.pid, signal.SIGKILL)
        # Not waited for yet: a zombie submits nothing.
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
        assert is_gone(owner) is True
    assert is_gone(owner) is True


def test_an_owner_elsewhere_is_not_judged() -> None:
    host, boot, process, started, token = str(new_owner()).split(" ")
    assert is_gone(f"elsewhere {boot} {process} {started} {token}") is None
    assert is_gone(f"{host} {boot}0 {process} {started} {token}") is None
    assert is_gone(f"{host} another-start/pid {process} {started} {token}") is True
    assert is_gone(f"{host} {boot} {process} {float(started) - 100:.2f} {token}") is True
