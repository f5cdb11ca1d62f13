"""Generated histories of a beamline: tomoScan, its PVs, files, the ledger, two submitters and a service that fails.

However scans end, connections break, and processes die: no file is started twice, none that is not whole, none that was seen
to be aborted; and every finished scan that is still there is started in the end.
"""

from __future__ import annotations

import os
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from beamline.tomoscan import Outcome
from beamline.world import World
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tomopipe.flows.trigger import finished
from tomopipe.flows.trigger.backends import FoundRun, RunStatus
from tomopipe.flows.trigger.checker import Checker, observe_now
from tomopipe.flows.trigger.config import Rule, TriggerConfig
from tomopipe.flows.trigger.entry import Entry
from tomopipe.flows.trigger.epics_monitor import ScanMonitor
from tomopipe.flows.trigger.ledger import ABORT_GRACE_S, Ledger
from tomopipe.flows.trigger.observation import Observation
from tomopipe.flows.trigger.submitter import Submitter
from tomopipe.functions.errors import ScanError, TomopipeError

EPOCH = 1_700_000_000.0
OUTCOMES: list[Outcome] = ["good", "good", "good", "aborted", "timed out", "timed out, goes on", "write error"]


class Killed(BaseException):
    """The trigger's process is killed at this point."""


@dataclass
class Truth:
    """What one recording really is."""

    number: int
    path: Path
    outcome: Outcome
    began_s: float
    ended_s: float = float("inf")


class Service:
    """Makes runs; fails, or lets its caller be killed, before or after a run was made."""

    settle_s = 30.0

    def __init__(self) -> None:
        self.runs: dict[str, tuple[str, int, float]] = {}  # key -> (path, recording, when)
        self.faults: list[str] = []
        self.now_s = 0.0

    def get(self, target: str) -> Service:
        """The one back end of every target."""
        return self

    def find(self, key: str) -> FoundRun | None:
        """The run of a key; it can be found some seconds after it was made."""
        run = self.runs.get(key)
        return FoundRun(key, "active") if run is not None and self.now_s - run[2] >= 10 else None

    def submit(self, entry: Entry, key: str) -> str:
        """Make a run of the file as it is now."""
        fault = self.faults.pop() if self.faults else ""
        if fault == "down":
            raise TomopipeError("the service is down")
        if fault == "killed before":
            raise Killed
        assert key not in self.runs, "two runs of one key"
        number, is_whole = content(Path(entry.path))
        assert is_whole, f"{entry.path} is not whole"
        self.runs[key] = (entry.path, number, self.now_s)
        if fault == "killed after":
            raise Killed
        if fault == "answer lost":
            raise TomopipeError("the connection was lost")
        return key

    def status(self, run_id: str) -> RunStatus:
        """Every run comes to a good end."""
        return RunStatus("succeeded")

    def close(self) -> None:
        """Nothing is held."""


class Targets:
    """As the submitter wants them."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def get(self, target: str) -> Service:
        """Always the same."""
        return self._service

    def settle_s(self, target: str) -> float:
        """As long as the service says."""
        return self._service.settle_s


class Nobody:
    """Is told things."""

    def tell(self, about: str, text: str) -> None:
        """Something."""

    def settled(self, about: str) -> None:
        """Something is in order."""


def content(path: Path) -> tuple[int, bool]:
    """Number of the recording in a file, and whether it is whole."""
    number, saved, planned, theta = map(int, path.read_text().split()[:4])
    return number, saved == planned and theta == 1


def look_inside(path: Path, policy: finished.FinishedPolicy) -> dict[str, str | float]:
    """In place of reading HDF5."""
    number, is_whole = content(path)
    if not is_whole:
        raise ScanError(f"{path}: not whole")
    return {"number": float(number)}


class Histories(RuleBasedStateMachine):
    """One beamline, and everything that may happen to it."""

    def __init__(self) -> None:
        super().__init__()
        # in memory: ten thousand ledgers
        memory = Path("/dev/shm")
        self.folder = tempfile.TemporaryDirectory(prefix="trigger", dir=memory if os.access(memory, os.W_OK) else None)
        self.data = Path(self.folder.name) / "data"
        self.data.mkdir()
        self.world = World()
        self.world.tomoscan.on_file = lambda name, saved, planned: self.write(saved, planned, theta=True)
        self.truths: list[Truth] = []
        self.service = Service()
        self.offset_s = 0.0
        self.last_cut_s = float("-inf")
        self.listed: dict[Path, tuple[int, int]] = {}
        self.dead: set[str] = set()
        self.ledger = Ledger(Path(self.folder.name) / "ledger.sqlite", self.clock, lambda owner: owner in self.dead)
        self.config = TriggerConfig.model_validate(
            {
                "format": "tomopipe-trigger/1",
                "finished": {"stable_s": 5, "patience_s": 40, "check_writers": False},
                "rules": [{"name": "all", "deployment": "x"}],
                "submitter": {"settle_s": 30, "retry_max_s": 60},
            }
        )
        self.owners = 0
        self.chance = random.Random(7)
        self.submitters = [self.make_submitter(), self.make_submitter()]
        self.checker = self.make_checker()

    # --- the trigger's parts --------------------------------------------------------------------------------------

    def clock(self) -> float:
        return EPOCH + self.world.now_s

    def make_submitter(self) -> Submitter:
        self.owners += 1
        return Submitter(
            self.ledger,
            [Rule(name="all", deployment="x")],
            Targets(self.service),
            self.config.submitter,
            Nobody(),
            self.clock,
            f"owner {self.owners}",
            self.chance,
        )

    def make_checker(self) -> Checker:
        return Checker(self.ledger, self.config, Nobody(), self.clock, lambda: self.world.now_s)

    def report(self) -> None:
        """What the EPICS source says goes to the ledger."""
        said, self.world.said = self.world.said, []
        for observation in said:
            observe_now(self.ledger, observation)

    def work(self) -> None:
        """The trigger's workers do what there is to do."""
        self.service.now_s = self.world.now_s
        self.report()
        self.checker.step()
        for place, submitter in enumerate(self.submitters):
            try:
                submitter.step()
            except Killed:
                self.dead.add(submitter.owner)
                self.submitters[place] = self.make_submitter()

    def pass_time(self, seconds: float) -> None:
        while seconds > 0:
            self.world.pass_time(min(seconds, 10.0))
            seconds -= 10.0
            self.work()

    def is_taken_for_aborted(self, truth: Truth) -> bool:
        """A file that replaced an aborted one within the ledger's grace, whose end the instrument did not see: a person
        has to start it (`watch add`)."""
        ended = EPOCH + truth.ended_s
        aborts = [one.aborted_at for one in self.ledger.of_path(truth.path) if one.aborted_at is not None]
        return self.last_cut_s >= truth.began_s - 3.0 and any(ended <= at + ABORT_GRACE_S for at in aborts)

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left to be done."""
        counts = self.ledger.counts()
        return not any(counts.get(state, 0) for state in ("seen", "waiting", "ready", "submitting"))

    # --- the beamline's doings ------------------------------------------------------------------------------------

    def write(self, saved: int, planned: int, *, theta: bool = False) -> None:
        """The plugin writes its file; angles come last, and only once."""
        truth = self.truths[-1]
        has_theta = theta and truth.outcome != "timed out, goes on"
        text = f"{truth.number} {saved} {planned} {int(has_theta)} "
        truth.path.write_text(text.ljust(40 + saved))
        when = int(self.clock() * 1e9)
        os.utime(truth.path, ns=(when, when))

    @rule(
        name=st.sampled_from("abc"),
        outcome=st.sampled_from(OUTCOMES),
        planned=st.integers(2, 4),
        pause=st.sampled_from([0.5, 2.0, 70.0]),
        cut=st.sampled_from(["", "", "", "scan", "plugin", "both", "tomoscan restarts"]),
        mend=st.sampled_from(["before the end", "after the end", "later"]),
    )
    def scan(self, name: str, outcome: Outcome, planned: int, pause: float, cut: str, mend: str) -> None:
        """A scan, perhaps with a cut in the middle."""
        tomoscan = self.world.tomoscan
        path = self.data / f"{name}.h5"
        if self.world.scan_wire.is_cut or self.world.plugin_wire.is_cut:
            self.last_cut_s = self.world.now_s
        truth = Truth(len(self.truths) + 1, path, outcome, self.world.now_s)
        tomoscan.begin(str(path), planned=planned)
        self.truths.append(truth)
        saved = planned if outcome in ("good", "write error") else planned - 1
        tomoscan.record(1)
        self.write(1, planned)
        self.pass_time(pause)
        self.cut(cut)
        self.pass_time(1.0)
        if mend == "before the end":
            self.mend()
            self.pass_time(1.0)
        tomoscan.record(saved)
        self.write(saved, planned)
        self.pass_time(pause)
        tomoscan.stop(str(path), outcome=outcome)
        tomoscan.end(outcome)
        truth.ended_s = self.world.now_s
        if mend == "after the end":
            self.mend()
        self.pass_time(0.5)
        tomoscan.reset_abort()

    @rule(name=st.sampled_from("abc"))
    def not_overwritten(self, name: str) -> None:
        """Somebody says no to overwriting."""
        self.world.tomoscan.scan(str(self.data / f"{name}.h5"), outcome="not overwritten")

    @rule()
    def live_view_fills_up(self) -> None:
        """Images of the live view go into the file of a scan that timed out."""
        values = self.world.values
        if self.truths and values["Capture_RBV"] == 1:
            self.world.tomoscan.live_view_fills_up()
            self.write(int(values["NumCaptured_RBV"]), int(values["NumCapture_RBV"]))

    def cut(self, what: str) -> None:
        if what:
            self.last_cut_s = self.world.now_s
        if what in ("scan", "both"):
            self.world.scan_wire.cut()
        if what in ("plugin", "both"):
            self.world.plugin_wire.cut()
        if what == "tomoscan restarts":
            self.world.restart_tomoscan()

    @rule(what=st.sampled_from(["scan", "plugin", "both", "tomoscan restarts"]))
    def cut_between(self, what: str) -> None:
        """A connection breaks."""
        self.cut(what)

    @rule()
    def mend(self) -> None:
        """Connections come back."""
        self.world.scan_wire.mend()
        self.world.plugin_wire.mend()

    # --- the trigger's fate ---------------------------------------------------------------------------------------

    @rule()
    def restart_trigger(self) -> None:
        """The trigger's process dies and starts again; what its source had seen and not reported is forgotten."""
        self.report()
        self.cut("both")
        self.world.said.clear()
        self.world.monitor = ScanMonitor()
        self.listed.clear()
        self.checker = self.make_checker()
        self.mend()

    @rule()
    def list_folder(self) -> None:
        """The file source looks at its folder."""
        for path in sorted(self.data.iterdir()):
            found = path.stat()
            mark = (found.st_size, found.st_mtime_ns)
            if self.listed.get(path) != mark:
                self.listed[path] = mark
                observe_now(self.ledger, Observation(path, "files", "candidate"))

    @rule(faults=st.lists(st.sampled_from(["down", "killed before", "killed after", "answer lost"]), max_size=2))
    def trouble_ahead(self, faults: list[str]) -> None:
        """The next submissions meet trouble."""
        self.service.faults = list(faults)

    @rule(seconds=st.sampled_from([1.0, 6.0, 30.0, 120.0]))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.pass_time(seconds)

    # --- what must hold -------------------------------------------------------------------------------------------

    @invariant()
    def nothing_is_started_twice_or_for_nothing(self) -> None:
        started = [number for _, number, _ in self.service.runs.values()]
        assert len(started) == len(set(started)), f"started twice: {started}"
        for _, number, _ in self.service.runs.values():
            truth = self.truths[number - 1]
            # a write error that nobody was connected to hear of leaves a file that looks whole
            assert truth.outcome == "good" or self.last_cut_s >= truth.began_s - 3.0, f"{truth} was started"

    def teardown(self) -> None:
        """In the end everything is connected, listed, and has had its time."""
        try:
            self.mend()
            self.service.faults = []
            self.list_folder()
            self.pass_time(20.0)
            for _ in range(20):
                self.world.pass_time(45.0)
                self.list_folder()
                self.work()
                if self.is_settled:
                    break
            self.nothing_is_started_twice_or_for_nothing()
            started = {number for _, number, _ in self.service.runs.values()}
            for path in self.data.iterdir():
                number, is_whole = content(path)
                truth = self.truths[number - 1]
                if truth.outcome == "good" and is_whole and not self.is_taken_for_aborted(truth):
                    entries = [(one.state, one.reason) for one in self.ledger.of_path(path)]
                    assert number in started, f"{truth} was lost: {entries}"
        finally:
            self.folder.cleanup()


@pytest.fixture(autouse=True)
def model_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are a line of text here."""
    monkeypatch.setattr(finished, "_look_inside", look_inside)


def run(examples: int, steps: int, **options: Any) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Histories,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            **options,
        ),
    )


def test_some_histories() -> None:
    run(150, 8)


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_many_histories() -> None:
    """A minute or two of them; ten thousand take a quarter of an hour: set `TOMOPIPE_HISTORIES`."""
    run(int(os.environ.get("TOMOPIPE_HISTORIES", "1000")), int(os.environ.get("TOMOPIPE_HISTORY_STEPS", "8")))
