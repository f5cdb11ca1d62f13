"""What a source saw, and what a source is: the words between those who watch an instrument and the ledger.

Whether a scan is started is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

Kind = Literal["candidate", "finished", "aborted"]


@dataclass(frozen=True)
class Observation:
    """A file that a source reports.

    Parameters
    ----------
    path : Path
        Absolute path of the scan.
    source : str
        Name of the source.
    kind : str
        `candidate`: a file is there, and whether it is finished has to be found out. `finished`: the instrument, or a
        person, says that it is; it is checked all the same. `aborted`: the instrument says that it is no good.
    reason : str or None
        Why, for a person.
    metadata : mapping
        What the source knows of the scan, for rules: sample, proposal, energy.
    request : mapping or None
        What a person asks for: `scan_id`, `parameters`, `deployment`, `skip`, `again`; and `id`, a text that is another
        one for each request: what carries the same id is the same request, however often it is reported. None where no
        person asks.
    """

    path: Path
    source: str
    kind: Kind
    reason: str | None = None
    metadata: Mapping[str, str | float] = field(default_factory=dict)
    request: Mapping[str, Any] | None = None


class Source(Protocol):
    """Something that notices scans. It never raises out of its threads: it shows what is wrong, and starts itself again."""

    name: str

    def start(self, report: Callable[[Observation], None]) -> None:
        """Begin to watch. When `report` has returned, the observation is on disk and need not be made again.

        `report` raises `tomopipe.functions.errors.TomopipeError` where it cannot be written now (disk full); the source
        keeps the observation and reports it later.
        """

    def stop(self) -> None:
        """Stop watching, within seconds."""

    def health(self) -> dict[str, Any]:
        """How it is: `alive` (bool), `last_event` (seconds of the epoch, or None), `problem` (text, or None)."""
