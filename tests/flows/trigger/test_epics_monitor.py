"""The monitor of tomoScan's PVs: every outcome of a scan, in simulated time, with delays, gaps and restarts."""

from __future__ import annotations

from pathlib import Path

import pytest
from beamline.tomoscan import Outcome
from beamline.world import World
from hypothesis import given, settings
from hypothesis import strategies as st

from tomopipe.flows.trigger.epics_monitor import MonitorSettings, PvEvent, ScanMonitor, mapped_path
from tomopipe.flows.trigger.observation import Observation


@pytest.fixture
def world() -> World:
    """A beamline that has just been connected, at rest."""
    world = World()
    assert world.settle() == []
    return world


def only(said: list[Observation]) -> tuple[str, str]:
    """Kind and file of the one observation."""
    assert len(said) == 1, said
    return said[0].kind, str(said[0].path)


def test_a_good_scan_is_finished_after_its_end_and_once(world: World) -> None:
    world.tomoscan.begin("/data/a.h5")
    world.tomoscan.record(20)
    world.tomoscan.stop("/data/a.h5")
    world.pass_time(5)
    assert world.said == []
    world.tomoscan.end()
    said = world.settle()
    assert only(said) == ("finished", "/data/a.h5")
    assert said[0].metadata == {"images_saved": 20.0, "images_planned": 20.0}
    world.pass_time(3600)
    assert world.said == []


def test_the_file_is_never_that_of_the_scan_before(world: World) -> None:
    for number in range(3):
        world.tomoscan.scan(f"/data/{number}.h5")
        # the pause between two scans is shorter than the time to settle
        world.pass_time(0.3)
    assert [str(one.path) for one in world.settle()] == ["/data/0.h5", "/data/1.h5", "/data/2.h5"]


@pytest.mark.parametrize(
    ("outcome", "saved", "why"),
    [
        ("aborted", 7, "AbortScan"),
        ("aborted", 20, "AbortScan"),
        ("timed out", 12, "12 of 20 images saved: it was stopped, or the camera timed out"),
        ("timed out, goes on", 12, "camera time-out"),
        ("write error", 20, "write error"),
    ],
)
def test_a_scan_that_came_to_nothing_is_aborted(world: World, outcome: Outcome, saved: int, why: str) -> None:
    world.tomoscan.scan("/data/bad.h5", saved=saved, outcome=outcome)
    said = world.settle()
    assert only(said) == ("aborted", "/data/bad.h5")
    assert why in str(said[0].reason)
    world.tomoscan.reset_abort()
    world.tomoscan.scan("/data/good.h5")
    assert ("finished", "/data/good.h5") in [(one.kind, str(one.path)) for one in world.settle()]


def test_the_live_view_does_not_complete_a_scan_that_timed_out(world: World) -> None:
    world.tomoscan.scan("/data/bad.h5", saved=12, outcome="timed out, goes on")
    assert only(world.settle()) == ("aborted", "/data/bad.h5")
    world.tomoscan.live_view_fills_up()
    # the file is another one now: it has to be condemned again
    assert only(world.settle()) == ("aborted", "/data/bad.h5")


def test_an_abort_button_that_stays_pressed_condemns_one_scan_only(world: World) -> None:
    world.tomoscan.scan("/data/bad.h5", saved=3, outcome="aborted")
    world.tomoscan.scan("/data/good.h5")
    assert [(one.kind, one.path.name) for one in world.settle()] == [("aborted", "bad.h5"), ("finished", "good.h5")]


def test_where_overwriting_was_refused_the_older_file_is_not_touched(world: World) -> None:
    world.tomoscan.scan("/data/a.h5")
    assert only(world.settle()) == ("finished", "/data/a.h5")
    world.tomoscan.scan("/data/a.h5", outcome="not overwritten")
    said = world.settle()
    assert only(said) == ("aborted", "/data/scan")
    assert "overwritten" in str(said[0].reason)


def test_a_file_that_is_overwritten_is_finished_again(world: World) -> None:
    for _ in range(2):
        world.tomoscan.scan("/data/a.h5")
        assert only(world.settle()) == ("finished", "/data/a.h5")


def test_messages_of_the_plugin_may_be_late(world: World) -> None:
    world.plugin_wire.delay_s = 30.0
    world.tomoscan.scan("/data/a.h5")
    world.pass_time(20)
    assert world.said == []
    world.pass_time(60)
    assert [(one.kind, str(one.path)) for one in world.said] == [("candidate", "/data/a.h5")]


@pytest.mark.parametrize("saved", [20, 11])
def test_a_scan_that_ended_while_the_network_was_away_is_found(world: World, saved: int) -> None:
    world.tomoscan.begin("/data/a.h5")
    world.tomoscan.record(5)
    world.scan_wire.cut()
    world.plugin_wire.cut()
    world.tomoscan.record(saved)
    world.tomoscan.stop("/data/a.h5")
    world.tomoscan.end()
    assert world.settle() == []
    world.scan_wire.mend()
    assert world.settle() == []
    world.plugin_wire.mend(["Capture_RBV", "WriteStatus", "FullFileName_RBV", "NumCapture_RBV", "NumCaptured_RBV"])
    assert only(world.settle()) == ("candidate" if saved == 20 else "aborted", "/data/a.h5")


def test_two_scans_of_which_one_ended_unseen_are_both_found(world: World) -> None:
    world.tomoscan.begin("/data/a.h5")
    world.tomoscan.record(5)
    world.scan_wire.cut()
    world.tomoscan.record(20)
    world.tomoscan.stop("/data/a.h5")
    world.tomoscan.end()
    world.pass_time(5)
    world.tomoscan.begin("/data/b.h5")
    world.scan_wire.mend()
    world.tomoscan.record(20)
    world.tomoscan.stop("/data/b.h5")
    world.tomoscan.end()
    assert [(one.kind, one.path.name) for one in world.settle()] == [("candidate", "a.h5"), ("candidate", "b.h5")]


def test_an_aborted_recording_that_was_replaced_unseen_says_nothing_of_the_new_one(world: World) -> None:
    world.tomoscan.begin("/data/a.h5")
    world.tomoscan.record(5)
    world.scan_wire.cut()
    world.tomoscan.stop("/data/a.h5", outcome="aborted")
    world.tomoscan.end()
    world.pass_time(5)
    world.tomoscan.begin("/data/a.h5")
    world.scan_wire.mend()
    world.tomoscan.record(20)
    world.tomoscan.stop("/data/a.h5")
    world.tomoscan.end()
    assert only(world.settle()) == ("candidate", "/data/a.h5")


def test_what_the_plugin_recorded_last_is_not_of_the_scan_before(world: World) -> None:
    world.tomoscan.begin("/data/a.h5")
    world.tomoscan.record(5)
    world.plugin_wire.cut()
    world.tomoscan.stop("/data/a.h5", outcome="aborted")
    world.tomoscan.end()
    world.pass_time(5)
    world.tomoscan.scan("/data/b.h5")
    world.pass_time(5)
    world.plugin_wire.mend()
    said = {(one.kind, one.path.name) for one in world.settle()}
    assert ("candidate", "b.h5") in said
    assert ("aborted", "b.h5") not in said


def test_a_recording_that_began_after_a_scan_is_not_taken_for_its_time_out() -> None:
    world = World()
    world.tomoscan.scan("/data/a.h5", outcome="not overwritten")
    world.scan_wire.cut()
    world.tomoscan.begin("/data/a.h5")
    world.tomoscan.record(5)
    world.pass_time(5)
    assert world.said == []
    world.scan_wire.mend()
    world.tomoscan.record(20)
    world.tomoscan.stop("/data/a.h5")
    world.tomoscan.end()
    assert only(world.settle()) == ("candidate", "/data/a.h5")


def test_a_server_that_restarts_in_the_middle_ends_no_scan(world: World) -> None:
    world.tomoscan.begin("/data/a.h5")
    world.tomoscan.record(5)
    world.restart_tomoscan()
    world.pass_time(3)
    world.scan_wire.mend()
    world.pass_time(60)
    assert world.said == []
    world.tomoscan.record(20)
    world.tomoscan.stop("/data/a.h5")
    world.tomoscan.end()
    assert only(world.settle()) == ("candidate", "/data/a.h5")


def test_a_scan_whose_server_and_camera_went_down_is_given_up_some_time(world: World) -> None:
    world.tomoscan.begin("/data/a.h5")
    world.tomoscan.record(5)
    world.restart_tomoscan()
    world.scan_wire.mend()
    world.pass_time(1000)
    assert only(world.settle()) == ("aborted", "/data/a.h5")


def test_a_camera_that_restarts_in_the_middle_loses_the_scan(world: World) -> None:
    world.tomoscan.begin("/data/a.h5")
    world.tomoscan.record(5)
    world.restart_plugin()
    world.pass_time(3)
    world.plugin_wire.mend()
    world.tomoscan.end("timed out")
    said = world.settle()
    # the plugin knows of nothing any more: the file itself has to show that it is not whole
    assert [(one.kind, str(one.path)) for one in said] == [("candidate", "/data/a.h5")]


def test_at_the_start_the_last_file_is_a_candidate() -> None:
    world = World()
    world.scan_wire.cut()
    world.plugin_wire.cut()
    world.monitor = ScanMonitor()
    world.tomoscan.scan("/data/a.h5")
    world.scan_wire.mend()
    world.plugin_wire.mend()
    assert only(world.settle()) == ("candidate", "/data/a.h5")


def test_without_counts_images_saved_is_no_proof() -> None:
    monitor = ScanMonitor()
    said = []
    for name, value, at in [
        *(("StartScan", 0, 0.0), ("FullFileName_RBV", "/data/old.h5", 0.0), ("Capture_RBV", 0, 0.0)),
        *(("StartScan", 1, 10.0), ("FullFileName_RBV", "/data/a.h5", 10.0), ("Capture_RBV", 1, 10.0)),
        *(("ImagesSaved", "", 11.0), ("ImagesSaved", "15/20", 12.0), ("Capture_RBV", 0, 13.0), ("StartScan", 0, 14.0)),
    ]:
        said += monitor.feed(PvEvent(name, value, at))
    for name, value in (("FullFileName_RBV", "/data/a.h5"), ("Capture_RBV", 0)):
        said += monitor.feed(PvEvent(name, value, 16.0, 15.5))
    said += monitor.tick(16.0)
    assert [(one.kind, one.path.name) for one in said] == [("candidate", "a.h5")]


def test_paths_of_the_detectors_host_are_mapped() -> None:
    settings_ = MonitorSettings(path_map={"Z:\\": "/gdata/", "/local": "/mnt/a", "/local/data": "/mnt/b"})
    assert mapped_path("/local/data/x.h5", settings_.path_map) == "/mnt/b/x.h5"
    assert mapped_path("/local/other/x.h5", settings_.path_map) == "/mnt/a/other/x.h5"
    assert mapped_path("/locality/x.h5", settings_.path_map) == "/locality/x.h5"
    assert mapped_path("Z:\\june\\x.h5", settings_.path_map) == "/gdata/june/x.h5"
    world = World(MonitorSettings(path_map={"/data": "/mnt/c"}))
    world.settle()
    world.tomoscan.scan("/data/x.h5")
    assert world.settle()[0].path == Path("/mnt/c/x.h5")


def test_frames_may_be_lost_where_that_is_allowed() -> None:
    world = World(MonitorSettings(min_saved_fraction=0.9))
    world.settle()
    world.tomoscan.scan("/data/a.h5", saved=19, outcome="timed out")
    assert only(world.settle()) == ("finished", "/data/a.h5")
    world.tomoscan.scan("/data/b.h5", saved=17, outcome="timed out")
    assert only(world.settle()) == ("aborted", "/data/b.h5")


SCANS = st.tuples(
    st.sampled_from(["good", "good", "aborted", "timed out", "timed out, goes on", "not overwritten", "write error"]),
    st.integers(2, 8),
    st.integers(1, 8),
)


@settings(max_examples=400)
@given(
    scans=st.lists(SCANS, min_size=1, max_size=6),
    delays=st.tuples(st.floats(0, 0.09), st.floats(0, 0.09)),
    pauses=st.lists(st.floats(0.2, 3.0), min_size=6, max_size=6),
)
def test_while_the_connection_holds_the_word_is_final(
    scans: list[tuple[Outcome, int, int]], delays: tuple[float, float], pauses: list[float]
) -> None:
    """Good scans are finished, each once and in order; others are never anything but aborted."""
    world = World()
    world.settle()
    world.scan_wire.delay_s, world.plugin_wire.delay_s = delays
    expected = []
    for number, ((outcome, planned, saved), pause) in enumerate(zip(scans, pauses, strict=False)):
        saved = planned if outcome in ("good", "write error") else min(saved, planned)
        if outcome.startswith("timed out"):
            saved = min(saved, planned - 1)
        name = f"/data/{number}.h5"
        world.tomoscan.scan(name, planned=planned, saved=saved, outcome=outcome)
        world.pass_time(pause)
        world.tomoscan.reset_abort()
        if outcome == "good":
            expected.append(name)
    said = world.settle()
    assert [str(one.path) for one in said if one.kind == "finished"] == expected
    assert [one for one in said if one.kind == "candidate"] == []
    aborted = {str(one.path) for one in said if one.kind == "aborted"}
    assert not aborted & set(expected)
    for number, (outcome, _, _) in enumerate(scans):
        if outcome not in ("good", "not overwritten"):
            assert f"/data/{number}.h5" in aborted
