"""The run directory: where everything about a run lies, receipts that make it resumable, and writes that are whole or absent.

What a volume's files hold is left to `volume`, what `run.json` says to `inspection`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import StageError

RUN_FORMAT = "tomopipe-run/1"
RECEIPT_FORMAT = "tomopipe-receipt/1"


def slab_name(start: int, stop: int) -> str:
    """Name of a slab in file names: first row and the row after the last."""
    return f"{start:06d}-{stop:06d}"


@dataclass(frozen=True)
class RunDirectory:
    """Paths of a run and its receipts.

    Parameters
    ----------
    root : Path
        `<results>/<scan id>/<recipe id>`.
    """

    root: Path

    @property
    def run_json(self) -> Path:
        """Request, resolved parameters, plan, input checksum, software versions."""
        return self.root / "run.json"

    @property
    def labels(self) -> Path:
        """Phases and objects, HDF5."""
        return self.root / "labels.h5"

    @property
    def metrics(self) -> Path:
        """The metrics: the sidecar beside the labels."""
        return self.root / "labels.json"

    @property
    def objects_table(self) -> Path:
        """One line an object."""
        return self.root / "objects.csv"

    @property
    def contacts_table(self) -> Path:
        """One line a pair of objects that touch."""
        return self.root / "contacts.csv"

    @property
    def objects_work(self) -> Path:
        """Files of the steps that separate objects; gone when labels and tables are whole."""
        return self.root / "objects"

    @property
    def report(self) -> Path:
        """What a person looks at first."""
        return self.root / "report.html"

    @property
    def previews(self) -> Path:
        """Pictures."""
        return self.root / "previews"

    @property
    def sample(self) -> Path:
        """Sample slices from which `Inspect` resolved the automatic values."""
        return self.root / "sample.h5"

    def receipt_path(self, stage: str, start: int, stop: int) -> Path:
        """Path of a slab's receipt; `stage` in snake_case."""
        return self.root / "receipts" / stage / f"{slab_name(start, stop)}.json"

    def lock_path(self, stage: str, start: int, stop: int) -> Path:
        """Path of the lock that a task holds while it works on a slab."""
        return self.root / "receipts" / stage / f".{slab_name(start, stop)}.lock"

    def failure_path(self, stage: str, start: int, stop: int) -> Path:
        """Path of the traceback of a slab's latest failure."""
        return self.root / "failures" / stage / f"{slab_name(start, stop)}.txt"

    def progress_path(self, stage: str, start: int, stop: int) -> Path:
        """Path of a task's progress note, which a monitor may read while the task runs."""
        return self.root / "progress" / stage / f"{slab_name(start, stop)}.json"

    def read_run(self) -> dict[str, Any]:
        """Content of `run.json`.

        Raises
        ------
        StageError
            It is missing or of another format.
        """
        try:
            run: dict[str, Any] = json.loads(self.run_json.read_text(encoding="utf-8"))
        except OSError as error:
            raise StageError(f"{self.run_json}: cannot be read ({error.strerror}); run Inspect first") from error
        except ValueError as error:
            raise StageError(f"{self.run_json}: is not JSON; move this run directory aside and run again") from error
        found = run.get("format") if isinstance(run, dict) else None
        if found != RUN_FORMAT:
            raise StageError(f"{self.run_json}: format is {found!r}, this tomopipe reads {RUN_FORMAT!r}")
        return run

    def is_done(self, stage: str, start: int, stop: int, digest: str) -> bool:
        """Whether a slab's receipt names the same stage digest: same inputs, same parameters."""
        try:
            receipt = json.loads(self.receipt_path(stage, start, stop).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return bool(receipt.get("format") == RECEIPT_FORMAT and receipt.get("digest") == digest)

    def receipts(self, stage: str) -> list[dict[str, Any]]:
        """Receipts of a stage, by slab."""
        paths = sorted((self.root / "receipts" / stage).glob("??????-??????.json"))
        return [json.loads(path.read_text(encoding="utf-8")) for path in paths]

    def write_receipt(self, stage: str, start: int, stop: int, content: Mapping[str, Any]) -> None:
        """Record that a slab is whole. Call it after the slab's data is on disk."""
        path = self.receipt_path(stage, start, stop)
        write_json(path, {"format": RECEIPT_FORMAT, "stage": stage, "slab": [start, stop], **content})


def share_like(results_root: Path) -> None:
    """Have this process make files that those can read who can read the results folder, and no others.

    For workers of an endpoint, which starts them with a umask that keeps everybody else out.

    Parameters
    ----------
    results_root : Path
        Its mode says who: 0750 the group, 0755 everybody.
    """
    with contextlib.suppress(OSError):
        os.umask(0o777 & ~(results_root.stat().st_mode | 0o700))


def write_json(path: Path, content: Any) -> None:
    """Write JSON whole or not at all; refuses NaN."""
    with written_aside(path) as aside:
        aside.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


@contextlib.contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Path beside `path` to write to; on leaving it is flushed to disk and renamed, on an exception removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    try:
        yield aside
        flush_to_disk(aside)
        aside.replace(path)
        flush_to_disk(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def flush_to_disk(path: Path) -> None:
    """Have the system put a file's or folder's content on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digest_of(*parts: Any) -> str:
    """SHA-256 over canonical JSON of the parts, as hexadecimal text."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def array_checksum(array: NDArray[np.generic]) -> str:
    """SHA-256 over type, shape and C-ordered bytes of an array."""
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return f"sha256:{digest.hexdigest()}"


def file_checksum(path: Path) -> str:
    """SHA-256 of a file's content, as `sha256:` and hexadecimal text."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
