"""What the trigger's tests put in place of a facility, of people, and of time."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tomopipe.flows.trigger.backends import FoundRun, RunState, RunStatus
from tomopipe.flows.trigger.config import Rule, SubmitterConfig
from tomopipe.flows.trigger.entry import Entry, identify
from tomopipe.flows.trigger.ledger import Ledger, Noted
from tomopipe.flows.trigger.observation import Kind, Observation
from tomopipe.flows.trigger.submitter import Submitter
from tomopipe.functions.errors import TomopipeError


@dataclass
class Clock:
    """A clock that stands still until it is moved."""

    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class FakeRun:
    """A run of the fake service."""

    run_id: str
    key: str
    scan: str
    scan_id: str | None
    started: float
    state: RunState = "active"
    reason: str | None = None


@dataclass
class FakeService:
    """A service whose list lags behind, and that can be down or lose its answers.

    Parameters
    ----------
    clock : Clock
    lag_s : float
        How long a run is not in the list after it was started.
    """

    clock: Clock
    lag_s: float = 0.0
    settle_s: float = 60.0
    runs: list[FakeRun] = field(default_factory=list)
    refuse_with: Exception | None = None
    list_fails_with: Exception | None = None
    lose_answers: int = 0

    def find(self, key: str) -> FoundRun | None:
        if self.list_fails_with is not None:
            raise self.list_fails_with
        for run in self.runs:
            if run.key == key and self.clock() - run.started >= self.lag_s:
                return FoundRun(run.run_id, run.state)
        return None

    def submit(self, entry: Entry, key: str) -> str:
        if self.refuse_with is not None:
            raise self.refuse_with
        run = FakeRun(f"run-{len(self.runs) + 1}", key, entry.path, entry.scan_id, self.clock())
        self.runs.append(run)
        if self.lose_answers:
            self.lose_answers -= 1
            raise TomopipeError("the answer was lost")
        return run.run_id

    def status(self, run_id: str) -> RunStatus:
        if self.list_fails_with is not None:
            raise self.list_fails_with
        run = next(run for run in self.runs if run.run_id == run_id)
        return RunStatus(run.state, run.reason)

    def close(self) -> None:
        pass


@dataclass
class FakeTargets:
    """One back end for every target."""

    service: FakeService

    def get(self, target: str) -> FakeService:
        return self.service

    def settle_s(self, target: str) -> float:
        return self.service.settle_s


@dataclass
class FakePeople:
    """Remembers what people were told."""

    told: list[tuple[str, str]] = field(default_factory=list)
    in_order: list[str] = field(default_factory=list)

    def tell(self, about: str, text: str) -> None:
        self.told.append((about, text))

    def settled(self, about: str) -> None:
        self.in_order.append(about)


@dataclass
class Beamline:
    """A ledger, a fake service and submitters, on one clock that the test moves."""

    folder: Path
    clock: Clock = field(default_factory=Clock)
    settings: SubmitterConfig = field(default_factory=SubmitterConfig)
    rules: list[Rule] = field(default_factory=lambda: [Rule(name="all", deployment="polaris")])

    def __post_init__(self) -> None:
        self.dead: set[str] = set()
        self.ledger = Ledger(self.folder / "state" / "ledger.sqlite", self.clock, lambda owner: owner in self.dead)
        self.service = FakeService(self.clock)
        self.people = FakePeople()
        self._submitters = 0
        self.submitter = self.new_submitter()

    def new_submitter(self) -> Submitter:
        """Another watcher on the same ledger."""
        self._submitters += 1
        return Submitter(
            self.ledger, self.rules, FakeTargets(self.service), self.settings, self.people, self.clock,
            f"watcher-{self._submitters}", random.Random(1),
        )  # fmt: skip

    def write(self, name: str = "scan_1.h5", content: str = "frames", mtime_s: float | None = None) -> Path:
        """A file as a scan would be."""
        import os

        path = self.folder / "data" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
        mtime = self.clock() if mtime_s is None else mtime_s
        os.utime(path, (mtime, mtime))
        return path

    def see(
        self, path: Path, kind: Kind = "candidate", source: str = "files", request: Mapping[str, Any] | None = None,
        metadata: Mapping[str, str | float] | None = None,
    ) -> Noted:  # fmt: skip
        """A source reports the file as it is now."""
        observation = Observation(path, source, kind, None, metadata or {}, request)
        return self.ledger.observe(observation, identify(path))

    def make_ready(self, path: Path, **seen: Any) -> Entry:
        """A file that a source reported and that was found finished."""
        noted = self.see(path, **seen)
        assert noted.number is not None
        identity = identify(path)
        assert identity is not None
        assert self.ledger.set_ready(noted.number, identity, {}) == "ready"
        return self.ledger.get(noted.number)

    def state(self, number: int) -> str:
        """State of an entry."""
        return self.ledger.get(number).state

    def pass_time(self, seconds: float) -> None:
        """Move the clock."""
        self.clock.now += seconds
