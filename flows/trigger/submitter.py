"""Starts the run of each scan that is ready, exactly once, and follows it to its end.

The intent is written before anything is sent. Whatever was begun and not ended is looked for by its key before anything
is sent again. Where runs are made is left to `backends`.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from tomopipe.functions.errors import ScanError, TomopipeError

from .backends import Backend, Kept, Refused, RunStatus
from .config import Rule, SubmitterConfig
from .entry import Entry, identify
from .ledger import ClaimLost, Ledger, ScanIdTaken
from .owner import new_owner
from .rules import Decision, RequestError, decide

_log = logging.getLogger(__name__)

# A step shall not take so long that the health file looks dead.
_STEP_MAX = 20
_STILL_GOING = ("starting", "active", "inactive")
_KEPT_BY_SERVICE_S = 90 * 86400.0


class Targets(Protocol):
    """The back ends by their targets."""

    def get(self, target: str) -> Backend:
        """The back end of a target; raises TomopipeError where there is none."""

    def settle_s(self, target: str) -> float:
        """How long a run of a target may not be found yet, seconds."""


class Tell(Protocol):
    """Where what people should hear of goes."""

    def tell(self, about: str, text: str) -> None:
        """Say something of a matter."""

    def settled(self, about: str) -> None:
        """Say that a matter is in order again."""


@dataclass
class _Gate:
    """A target that is in trouble is left alone for a while, with all its scans."""

    failures: int = 0
    closed_until: float = 0.0


class Submitter:
    """One worker: `step` again and again.

    Parameters
    ----------
    ledger : Ledger
    rules : list of Rule
    targets : Targets
    settings : SubmitterConfig
    people : Tell
    clock : callable
        Gives seconds of the epoch; the same as the ledger's.
    owner : str, optional
        Who claims; by default this process with a token of its own.
    chance : random.Random, optional
        For the jitter of pauses.
    """

    def __init__(
        self,
        ledger: Ledger,
        rules: list[Rule],
        targets: Targets,
        settings: SubmitterConfig,
        people: Tell,
        clock: Callable[[], float] = time.time,
        owner: str | None = None,
        chance: random.Random | None = None,
    ) -> None:
        self._ledger = ledger
        self._rules = rules
        self._targets = targets
        self._settings = settings
        self._people = people
        self._clock = clock
        self.owner = owner or str(new_owner())
        self._chance = chance or random.Random()
        self._gates: dict[str, _Gate] = {}

    def step(self) -> int:
        """Ask for runs, bring to an end what was left, start what may be started; how many scans were dealt with.

        Raises
        ------
        TomopipeError
            The ledger cannot be used; nothing is lost.
        """
        return self._follow() + self._take_over() + self._start()

    def gates(self) -> dict[str, float]:
        """Targets in trouble, and until when each is left alone (seconds of the epoch)."""
        return {target: gate.closed_until for target, gate in list(self._gates.items()) if gate.failures}

    # Starting

    def _start(self) -> int:
        for done in range(_STEP_MAX):
            if self._ledger.active_count() >= self._settings.max_active:
                return done
            entry = self._ledger.next_ready()
            if entry is None:
                return done
            try:
                self._start_one(entry)
            except ClaimLost as error:
                _log.info("%s", error)
        return _STEP_MAX

    def _start_one(self, entry: Entry) -> None:
        decision = self._decide(entry)
        if decision is None:
            return
        if decision.plan is None:
            self._ledger.ignore(entry.number, decision.reason)
            return
        closed_until = self._gate(decision.plan.target).closed_until
        if closed_until > self._clock():
            self._ledger.postpone(entry, f"waits for {decision.plan.target}, which is in trouble", closed_until)
            return
        if not self._is_unchanged(entry):
            return
        try:
            claimed = self._ledger.claim(entry.number, self.owner, decision.plan, self._settings.max_active)
        except ScanIdTaken as error:
            self._refuse(entry, str(error))
            return
        if claimed is not None:
            self._carry_out(claimed, is_fresh=True)

    def _decide(self, entry: Entry) -> Decision | None:
        """What the rules say; None where they cannot, and that is written down."""
        about = f"rules of {entry.number}"
        try:
            decision = decide(self._rules, entry.path, entry.source, entry.metadata, entry.request)
        except RequestError as error:
            self._refuse(entry, str(error))
            return None
        except TomopipeError as error:
            self._people.tell(about, f"{entry.path}: cannot be started: {error}")
            self._ledger.postpone(entry, str(error), self._clock() + self._pause(entry.failures + 1))
            return None
        self._people.settled(about)
        return decision

    def _is_unchanged(self, entry: Entry) -> bool:
        """Whether the file is still what was found finished; where it is not, that is written down."""
        try:
            found = identify(entry.path)
        except OSError as error:
            reason = f"the file cannot be looked at ({error.strerror})"
            if entry.state == "ready":
                self._ledger.postpone(entry, reason, self._clock() + self._pause(1))
            else:
                self._ledger.give_back(entry, reason, self._clock() + self._pause(entry.failures + 1))
            return False
        if found == entry.identity:
            return True
        what = "is gone" if found is None else "was written to again"
        self._ledger.look_again(entry, f"the file {what} before the scan was started")
        return False

    def _take_over(self) -> int:
        for done in range(_STEP_MAX):
            entry = self._ledger.claim_abandoned(self.owner, self._targets.settle_s)
            if entry is None:
                return done
            try:
                self._carry_out(entry, is_fresh=False)
            except ClaimLost as error:
                _log.info("%s", error)
        return _STEP_MAX

    def _carry_out(self, entry: Entry, *, is_fresh: bool) -> None:
        """Bring a claimed scan to its run.

        Parameters
        ----------
        entry : Entry
        is_fresh : bool
            Whether it is certain that nothing was sent under its key yet.
        """
        assert entry.target is not None and entry.key is not None
        try:
            backend = self._targets.get(entry.target)
            if self._adopt(entry, backend):
                return
        except TomopipeError as error:
            # Not even whether there is a run can be told.
            self._failed(entry, error, is_sent=not is_fresh)
            return
        except Exception as error:  # noqa: BLE001  # logged, shown, and the work goes on
            _log.exception("%s: looking for its run met a fault", entry.path)
            self._failed(entry, TomopipeError(f"{type(error).__name__}: {error}"), is_sent=not is_fresh)
            return
        # From here on: there was no run of this key, however long ago it was last tried.
        if not self._is_unchanged(entry):
            return
        try:
            run_id = backend.submit(entry, entry.key)
        except Refused as error:
            self._refuse(entry, str(error))
            return
        except ScanError as error:
            # Found finished a moment ago: a disk that is away for a while is no reason to give the scan up.
            self._keep(entry, str(error))
            return
        except Kept as error:
            self._failed(entry, error, is_sent=False)
            return
        except TomopipeError as error:
            self._failed(entry, error, is_sent=True)
            return
        except Exception as error:  # noqa: BLE001  # logged, shown, and the work goes on
            # A fault of the program; the scan is kept, as after a crash.
            _log.exception("%s: its submission met a fault", entry.path)
            self._failed(entry, TomopipeError(f"{type(error).__name__}: {error}"), is_sent=True)
            return
        self._ledger.record_run(entry, run_id)
        _log.info("%s: run %s of %s was started by %s", entry.path, run_id, entry.scan_id, entry.rule)
        self._works(entry)

    def _adopt(self, entry: Entry, backend: Backend) -> bool:
        """Look for a run that was started for this scan before: one is the scan's then. Whether the scan is dealt with."""
        assert entry.key is not None
        for target, key, given_up in entry.earlier_runs:
            earlier = self._targets.get(target).find(key)
            left = given_up + self._targets.settle_s(target) - self._clock()
            if earlier is None and left > 0:
                # Nothing was sent under the present key, because this came first each time.
                self._ledger.give_back(
                    entry, f"an earlier submission may still show up at {target}", self._clock() + left
                )
                return True
            if earlier is not None and earlier.state in (*_STILL_GOING, "succeeded", "unknown"):
                self._ledger.record_run(entry, earlier.run_id, key, target)
                return True
        found = backend.find(entry.key)
        if found is None:
            return False
        _log.info("%s: its run %s was there already", entry.path, found.run_id)
        self._ledger.record_run(entry, found.run_id)
        self._works(entry)
        return True

    def _failed(self, entry: Entry, error: TomopipeError, *, is_sent: bool) -> None:
        assert entry.target is not None
        gate = self._gate(entry.target)
        gate.failures += 1
        pause = self._pause(gate.failures)
        gate.closed_until = self._clock() + pause
        reason = str(error)
        if is_sent:
            pause = max(self._pause(entry.failures + 1), self._targets.settle_s(entry.target))
            self._ledger.unsure(entry, reason, self._clock() + pause)
        else:
            self._ledger.give_back(entry, reason, gate.closed_until)
        needs_person = isinstance(error, Kept) and error.needs_person
        if needs_person or gate.failures >= self._settings.tell_after:
            self._people.tell(f"target {entry.target}", f"no runs can be started at {entry.target}: {reason}")
        else:
            _log.warning("%s: %s; trying again in %.0f s", entry.path, reason, pause)

    def _keep(self, entry: Entry, reason: str) -> None:
        """Try again later what is wrong with one scan alone and may pass; nothing was sent."""
        self._ledger.give_back(entry, reason, self._clock() + self._pause(entry.failures + 1))
        if entry.failures + 1 >= self._settings.tell_after:
            self._people.tell(f"entry {entry.number}", f"{entry.path}: cannot be started: {reason}")

    def _refuse(self, entry: Entry, reason: str) -> None:
        self._ledger.refuse(entry, reason)
        self._people.tell(f"entry {entry.number}", f"{entry.path}: cannot be started: {reason}")

    def _works(self, entry: Entry) -> None:
        assert entry.target is not None
        if self._gates.pop(entry.target, None) is not None:
            self._people.settled(f"target {entry.target}")

    # Following

    def _follow(self) -> int:
        entries = self._ledger.submitted_entries(_STEP_MAX)
        for entry in entries:
            assert entry.target is not None and entry.run_id is not None
            try:
                status = self._targets.get(entry.target).status(entry.run_id)
            except TomopipeError as error:
                self._cannot_ask(entry, str(error))
                continue
            except Exception as error:  # noqa: BLE001  # logged, shown, and the work goes on
                _log.exception("%s: asking for its run met a fault", entry.path)
                self._cannot_ask(entry, f"{type(error).__name__}: {error}")
                continue
            self._people.settled(f"asking {entry.target}")
            self._note(entry, status)
        return len(entries)

    def _note(self, entry: Entry, status: RunStatus) -> None:
        now = self._clock()
        about = f"entry {entry.number}"
        if status.state in _STILL_GOING:
            first = 1.0 if status.state == "starting" else self._settings.poll_s
            self._ledger.run_goes_on(entry, status.state, status.reason, now + min(first, self._settings.poll_s))
            if status.state == "inactive":
                self._people.tell(about, f"run {entry.run_id} of {entry.path} waits for a person: {status.reason}")
            else:
                self._people.settled(about)
        elif status.state == "succeeded":
            self._ledger.run_ended(entry, "done", status.state)
            self._people.settled(about)
        elif status.state == "interrupted" and len(entry.earlier_runs) < self._settings.restarts:
            self._ledger.start_anew(entry, f"run {entry.run_id}: {status.reason}; goes on in another run", now)
        elif status.state == "never started" and entry.run_status == "starting":
            reason = status.reason or "the run never began"
            self._ledger.put_back(entry, reason, now + self._pause(entry.failures + 1))
            if entry.failures + 1 >= self._settings.tell_after:
                self._people.tell(about, f"{entry.path}: its run does not begin: {reason}")
        elif status.state == "unknown" and now - (entry.submitted_at or now) < _KEPT_BY_SERVICE_S:
            # Perhaps another login sees it: a scan is not taken for failed, and started again, because of that.
            self._cannot_ask(entry, status.reason or "there is no such run")
        else:
            reason = status.reason or f"the run is {status.state}"
            self._ledger.run_ended(entry, "failed", status.state, reason)
            self._people.tell(
                about,
                f"run {entry.run_id} of {entry.path} failed: {reason}; again with: tomopipe watch retry {entry.number}",
            )

    def _cannot_ask(self, entry: Entry, reason: str) -> None:
        self._ledger.ask_later(entry, self._clock() + max(self._settings.poll_s, self._pause(entry.failures + 1)))
        if entry.failures + 1 >= self._settings.tell_after:
            self._people.tell(f"asking {entry.target}", f"runs at {entry.target} cannot be asked for: {reason}")
        else:
            _log.warning("%s: its run cannot be asked for: %s", entry.path, reason)

    def _gate(self, target: str) -> _Gate:
        return self._gates.setdefault(target, _Gate())

    def _pause(self, failures: int) -> float:
        """Seconds until the next attempt: doubling, to a limit, and never the same for all."""
        longest = min(self._settings.retry_first_s * 2.0 ** min(failures - 1, 30), self._settings.retry_max_s)
        return longest * self._chance.uniform(0.5, 1.0)
