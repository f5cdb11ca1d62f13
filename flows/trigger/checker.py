"""Looks at scans that sources reported until each is finished, bad, or gone.

What counts as finished is written in `finished`; this only says which files are looked at, and when.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from tomopipe.functions.errors import TomopipeError
from tomopipe.functions.rundir import file_checksum

from .config import FinishedConfig, TriggerConfig
from .entry import Entry, FileIdentity, identify
from .finished import FinishedPolicy, Verdict, Watchful
from .ledger import Ledger
from .observation import Observation
from .submitter import Tell

_log = logging.getLogger(__name__)

_LOOKS_A_STEP = 50
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0
# A file that rests but is not complete for long is looked at less and less often, by this share of its waiting time.
_PATIENCE = 0.05
_GONE_AFTER_S = 86400.0
_LOOK_BACK_S = 86400.0
_LOOK_BACK_EVERY_S = 60.0


class Checker:
    """One worker: `step` again and again.

    Parameters
    ----------
    ledger : Ledger
    config : TriggerConfig
    people : Tell
    clock : callable
        Gives seconds of the epoch; the same as the ledger's.
    steady : callable
        Gives seconds that never go back.
    """

    def __init__(
        self,
        ledger: Ledger,
        config: TriggerConfig,
        people: Tell,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._people = people
        self._clock, self._steady = clock, steady
        default = _Policy(config.finished)
        self._policies = [
            (folder, default if files.finished is None else _Policy(files.finished))
            for files in config.sources.files
            for folder in files.folders
        ]
        self._default = default
        self._looked_back = float("-inf")

    def step(self) -> int:
        """Look at the scans that are due; how many.

        Raises
        ------
        TomopipeError
            The ledger cannot be used; nothing is lost.
        """
        self._look_back()
        entries = self._ledger.open_entries(_LOOKS_A_STEP)
        for entry in entries:
            self._look(entry)
        return len(entries)

    def _look(self, entry: Entry) -> None:
        policy = self._policy_of(entry)
        path = Path(entry.path)
        try:
            verdict = policy.watchful.check(path, self._steady())
            found = FileIdentity(verdict.size, verdict.mtime_ns)
            if verdict.state == "finished":
                self._finished(entry, policy, verdict, found)
            elif verdict.state == "bad":
                self._bad(entry, verdict, found)
            else:
                self._not_yet(entry, verdict, found)
                return
            policy.watchful.forget(path)
        except OSError as error:
            self._ledger.not_yet(
                entry.number, entry.identity, f"cannot be looked at ({error})", self._clock() + _LONGEST_PAUSE_S
            )

    def _finished(self, entry: Entry, policy: _Policy, verdict: Verdict, found: FileIdentity) -> None:
        checksum = None
        if policy.config.checksum:
            checksum = file_checksum(Path(entry.path))
            if identify(entry.path) != found:
                self._ledger.not_yet(entry.number, found, "changed while its checksum was worked out", self._clock())
                return
        state = self._ledger.set_ready(entry.number, found, verdict.metadata, checksum)
        _log.info("%s: %s", entry.path, "finished" if state == "ready" else "is known already")

    def _bad(self, entry: Entry, verdict: Verdict, found: FileIdentity) -> None:
        if not self._ledger.ignore(entry.number, verdict.reason, found if verdict.mtime_ns else None):
            return
        if entry.kind == "finished":
            # The instrument, or a person, said that this was a good scan.
            self._people.tell(f"entry {entry.number}", f"{entry.path}: is not started: {verdict.reason}")
        else:
            _log.warning("%s: is not started: %s", entry.path, verdict.reason)

    def _not_yet(self, entry: Entry, verdict: Verdict, found: FileIdentity) -> None:
        now = self._clock()
        waited = now - entry.seen_at
        if verdict.mtime_ns == 0 and waited > _GONE_AFTER_S and identify(entry.path) is None:
            self._ledger.ignore(entry.number, f"no such file for {waited / 3600:.0f} hours")
            return
        pause = min(max(_FIRST_PAUSE_S, _PATIENCE * waited), _LONGEST_PAUSE_S)
        self._ledger.not_yet(entry.number, found if verdict.mtime_ns else None, verdict.reason, now + pause)

    def _look_back(self) -> None:
        """Take up bad files of the last day that were written to again: the source that named them may not see that."""
        now = self._clock()
        if now - self._looked_back < _LOOK_BACK_EVERY_S:
            return
        self._looked_back = now
        for entry in self._ledger.recently_ignored(now - _LOOK_BACK_S):
            try:
                found = identify(entry.path)
            except OSError:
                continue
            if found is not None and found != entry.identity:
                self._ledger.observe(Observation(Path(entry.path), entry.source, "candidate"), found)

    def _policy_of(self, entry: Entry) -> _Policy:
        path = Path(entry.path)
        holding = [(folder, policy) for folder, policy in self._policies if folder in path.parents]
        return max(holding, key=lambda one: len(one[0].parts))[1] if holding else self._default


class _Policy:
    """What counts as finished, and the looks at files so far."""

    def __init__(self, config: FinishedConfig) -> None:
        self.config = config
        self.watchful = Watchful(
            FinishedPolicy(
                stable_s=config.stable_s,
                patience_s=config.patience_s,
                sentinel=config.sentinel,
                check_writers=config.check_writers,
                min_angles_fraction=config.min_angles_fraction,
            )
        )


def observe_now(ledger: Ledger, observation: Observation) -> str:
    """Write an observation down with its file as it is now; what it came to.

    Raises
    ------
    TomopipeError
        The file system does not answer, or the ledger cannot be used.
    """
    try:
        found = identify(observation.path)
    except OSError as error:
        raise TomopipeError(f"{observation.path}: cannot be looked at ({error})") from error
    return ledger.observe(observation, found).what
