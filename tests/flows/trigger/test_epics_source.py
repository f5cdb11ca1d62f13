"""The EPICS source against real IOCs on loopback: outcomes of scans, restarts, and a network that goes away."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from beamline.ioc import Ioc, free_port
from beamline.relay import Relay
from beamline.tomoscan import PLUGIN_DEFAULTS, SCAN_DEFAULTS, Beamline

from tomopipe.flows.trigger.epics_source import EpicsSettings, EpicsSource
from tomopipe.flows.trigger.observation import Observation
from tomopipe.functions.errors import TomopipeError

pytest.importorskip("caproto")
SCAN_PREFIX, PLUGIN_PREFIX = "2bmb:TomoScan:", "2bmbSP1:HDF1:"


class Setup:
    """Two IOCs behind relays, tomoScan's doings, and a source that listens."""

    def __init__(self) -> None:
        self.scan_ioc = Ioc(SCAN_PREFIX, {**SCAN_DEFAULTS, "FilePluginPVPrefix": PLUGIN_PREFIX})
        self.plugin_ioc = Ioc(PLUGIN_PREFIX, PLUGIN_DEFAULTS)
        self.scan_ioc.start()
        self.plugin_ioc.start()
        self.relays = [Relay(self.scan_ioc.port), Relay(self.plugin_ioc.port)]
        self.tomoscan = Beamline(self.scan_ioc.put, self.plugin_ioc.put, lambda s: time.sleep(s / 5))
        self.said: list[Observation] = []
        self.refuse = False
        self.source = EpicsSource(EpicsSettings(SCAN_PREFIX, settle_s=0.3, poll_s=1.0, timeout_s=1.0))

    def report(self, observation: Observation) -> None:
        """The ledger."""
        if self.refuse:
            raise TomopipeError("the disk is full")
        self.said.append(observation)

    def wait(self, until: Callable[[], bool], timeout_s: float = 20.0) -> None:
        """Wait for something to become true."""
        deadline = time.monotonic() + timeout_s
        while not until():
            assert time.monotonic() < deadline, (self.said, self.source.health())
            time.sleep(0.05)

    def wait_for(self, *expected: tuple[str, str], timeout_s: float = 20.0) -> list[Observation]:
        """Wait for observations, see that nothing else comes, and take them."""
        self.wait(lambda: len(self.said) >= len(expected), timeout_s)
        time.sleep(0.5)
        said, self.said = self.said, []
        assert [(one.kind, str(one.path)) for one in said] == list(expected)
        return said

    def cut(self, is_cut: bool) -> None:
        """Take the network away, or give it back."""
        for relay in self.relays:
            relay.is_cut = is_cut

    @property
    def is_connected(self) -> bool:
        """Whether the source hears all that it needs."""
        return self.source.health()["problem"] is None


@pytest.fixture
def setup(monkeypatch: pytest.MonkeyPatch) -> Iterator[Setup]:
    """A beamline at rest to which the source is connected."""
    setup = Setup()
    monkeypatch.setenv("EPICS_CA_ADDR_LIST", " ".join(f"127.0.0.1:{relay.port}" for relay in setup.relays))
    monkeypatch.setenv("EPICS_CA_AUTO_ADDR_LIST", "NO")
    monkeypatch.setenv("EPICS_CA_REPEATER_PORT", str(free_port()))
    monkeypatch.setenv("EPICS_CA_CONN_TMO", "2.0")
    threads = threading.active_count()
    setup.source.start(setup.report)
    try:
        setup.wait(lambda: setup.is_connected)
        time.sleep(1.0)
        yield setup
    finally:
        setup.source.stop()
        for relay in setup.relays:
            relay.close()
        setup.scan_ioc.kill()
        setup.plugin_ioc.kill()
    assert not setup.source.health()["alive"]
    assert threading.active_count() <= threads + 2


def test_scans_of_every_outcome(setup: Setup) -> None:
    setup.tomoscan.scan("/data/good.h5")
    said = setup.wait_for(("finished", "/data/good.h5"))
    metadata = dict(said[0].metadata)
    assert metadata.pop("sample") == "sandstone"
    assert metadata.pop("scan_type") == "Single"
    assert metadata == {"angles": 20, "images_saved": 20.0, "images_planned": 20.0}
    setup.tomoscan.scan("/data/aborted.h5", saved=7, outcome="aborted")
    setup.wait_for(("aborted", "/data/aborted.h5"))
    setup.tomoscan.scan("/data/late.h5", saved=12, outcome="timed out, goes on")
    setup.wait_for(("aborted", "/data/late.h5"))
    setup.tomoscan.live_view_fills_up()
    setup.wait_for(("aborted", "/data/late.h5"))
    setup.tomoscan.scan("/data/good.h5", outcome="not overwritten")
    setup.wait_for(("aborted", "/data/scan"))
    # the same name again, and abort still pressed
    setup.tomoscan.scan("/data/good.h5")
    setup.wait_for(("finished", "/data/good.h5"))
    setup.tomoscan.scan("/data/one.h5")
    setup.tomoscan.scan("/data/two.h5")
    setup.wait_for(("finished", "/data/one.h5"), ("finished", "/data/two.h5"))


def test_an_observation_that_cannot_be_recorded_is_kept(setup: Setup) -> None:
    setup.refuse = True
    setup.tomoscan.scan("/data/a.h5")
    setup.wait(lambda: setup.source.health()["undelivered"] == 1)
    setup.refuse = False
    setup.wait_for(("finished", "/data/a.h5"))


@pytest.mark.slow
def test_iocs_that_restart(setup: Setup) -> None:
    setup.tomoscan.scan("/data/a.h5")
    setup.wait_for(("finished", "/data/a.h5"))
    # tomoScan's IOC in the middle of a scan: its StartScan is back at 0, the plugin goes on
    setup.tomoscan.begin("/data/b.h5")
    setup.tomoscan.record(10)
    setup.scan_ioc.restart()
    setup.wait(lambda: setup.is_connected)
    time.sleep(1.0)
    assert setup.said == []
    setup.tomoscan.record(20)
    setup.tomoscan.stop("/data/b.h5")
    setup.tomoscan.end()
    setup.wait_for(("candidate", "/data/b.h5"))
    # both, between scans
    setup.scan_ioc.restart()
    setup.plugin_ioc.restart()
    setup.tomoscan.values.update(PLUGIN_DEFAULTS)
    setup.wait(lambda: setup.is_connected)
    time.sleep(1.0)
    setup.tomoscan.scan("/data/c.h5")
    setup.wait_for(("finished", "/data/c.h5"))


@pytest.mark.parametrize("cut_s", [3.0, pytest.param(12.0, marks=pytest.mark.slow)])
def test_a_network_that_goes_away_in_the_middle_of_a_scan(setup: Setup, cut_s: float) -> None:
    setup.tomoscan.begin("/data/a.h5")
    setup.tomoscan.record(5)
    setup.cut(True)
    setup.tomoscan.record(20)
    setup.tomoscan.stop("/data/a.h5")
    setup.tomoscan.end()
    setup.wait(lambda: not setup.is_connected)
    time.sleep(cut_s)
    assert setup.said == []
    setup.cut(False)
    setup.wait(lambda: len(setup.said) >= 1, 40.0)
    time.sleep(0.5)
    assert {(one.kind, str(one.path)) for one in setup.said} == {("candidate", "/data/a.h5")}
    setup.said.clear()
    setup.tomoscan.scan("/data/b.h5")
    setup.wait_for(("finished", "/data/b.h5"))


def test_without_servers_it_waits_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EPICS_CA_ADDR_LIST", f"127.0.0.1:{free_port()}")
    monkeypatch.setenv("EPICS_CA_AUTO_ADDR_LIST", "NO")
    monkeypatch.setenv("EPICS_CA_REPEATER_PORT", str(free_port()))
    source = EpicsSource(EpicsSettings(SCAN_PREFIX, file_plugin=PLUGIN_PREFIX))
    source.start(lambda observation: None)
    try:
        time.sleep(0.5)
        health = source.health()
        assert health["alive"]
        assert "StartScan" in health["problem"]
    finally:
        source.stop()
