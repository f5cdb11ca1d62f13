"""Takes requests that people, or other programs, put into a folder as YAML files: which scan, with what.

A request is taken by renaming it, and laid down in `taken/` after it is on record: a crash in between repeats it with the
same id. What starts it is written elsewhere.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from tomopipe.functions.errors import InputError, TomopipeError
from tomopipe.functions.parameters import SkippableStage
from tomopipe.functions.scan import validate_scan_id

from .finished import is_temporary_name
from .observation import Observation

Report = Callable[[Observation], None]

TAKEN, TAKING, REFUSED = "taken", "taking", "refused"
_SUFFIXES = (".yaml", ".yml")
_MAX_BYTES = 2**20
_REST_S = 0.5
_FIRST_RETRY_S, _LONGEST_RETRY_S = 1.0, 60.0

_log = logging.getLogger(__name__)


class DropRequest(BaseModel):
    """What a request may say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scan: Annotated[str, Field(min_length=2, description="Absolute path of the scan.")]
    scan_id: str | None = Field(None, description="Id of the scan, where it is not to be the file's name.")
    parameters: str | dict[str, Any] | None = Field(None, description="Parameters, or the path of their file.")
    deployment: str | None = Field(None, min_length=1, description="Name of a deployment, or `local`.")
    skip: tuple[SkippableStage, ...] = Field((), description="Stages that are left out.")
    again: bool = Field(False, description="Whether it is started even if the same was done before.")

    @field_validator("scan")
    @classmethod
    def _absolute(cls, text: str) -> str:
        if not text.startswith("/") or "\0" in text:
            raise ValueError("is not absolute; write the whole path, from /")
        return text

    @field_validator("scan_id")
    @classmethod
    def _usable(cls, text: str | None) -> str | None:
        if text is not None:
            try:
                validate_scan_id(text)
            except InputError as error:
                raise ValueError(str(error)) from None
        return text


class DropFolder:
    """Looks into a folder for requests, every few seconds: listing works on every file system.

    Parameters
    ----------
    folder : Path
        Absolute; made where missing. Files `*.yaml` and `*.yml` in it are requests, once they have rested for half a
        second.
    name : str
        Name in observations and messages.
    interval_s : float
        Time between two looks, seconds.
    """

    def __init__(self, folder: Path, name: str = "drop", interval_s: float = 2.0) -> None:
        if not folder.is_absolute():
            raise InputError(f"{name}: folder: {folder} is not absolute; write the whole path, from /")
        self.name = name
        self._folder = folder
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._report: Report | None = None
        self._last_event: float | None = None
        self._problem: str | None = "not started"
        self._looks: dict[str, tuple[int, int, int, float]] = {}

    def start(self, report: Report) -> None:
        """Begin to look; what an earlier process had taken and not laid down comes first."""
        self._report = report
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop looking."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(self._interval_s + 5.0)

    def health(self) -> dict[str, Any]:
        """Whether it looks, the time of the last request, and what is wrong."""
        alive = self._thread is not None and self._thread.is_alive()
        return {"alive": alive, "last_event": self._last_event, "problem": self._problem}

    def look(self, now: float) -> None:
        """Take the requests that are there; `now` in seconds of a clock that never goes back.

        Raises
        ------
        OSError
            The folder cannot be used.
        TomopipeError
            A request cannot be recorded now; it stays, and comes again at the next look.
        """
        for name in (TAKEN, TAKING, REFUSED):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        for path in sorted((self._folder / TAKING).iterdir()):
            self._take(path)
        for name in self._rested(now):
            taking = self._folder / TAKING / f"{time.time_ns()}-{os.getpid()}-{name}"
            try:
                (self._folder / name).rename(taking)
            except FileNotFoundError:
                continue  # another watcher was first, or its owner took it back
            self._take(taking)

    def _run(self) -> None:
        delay = self._interval_s
        while not self._stop.is_set():
            try:
                self.look(time.monotonic())
            except Exception as error:  # noqa: BLE001 - shown in health(); the next look begins anew
                self._problem = str(error) or type(error).__name__
                if isinstance(error, OSError | TomopipeError):
                    _log.warning("%s: %s: %s", self.name, self._folder, error)
                else:
                    _log.exception("%s: %s: a look failed", self.name, self._folder)
                delay = min(max(2 * delay, _FIRST_RETRY_S), _LONGEST_RETRY_S)
            else:
                self._problem, delay = None, self._interval_s
            self._stop.wait(delay)

    def _rested(self, now: float) -> list[str]:
        """Names of requests that nobody writes any more."""
        looks: dict[str, tuple[int, int, int, float]] = {}
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if is_temporary_name(entry.name) or not entry.name.lower().endswith(_SUFFIXES):
                    continue
                try:
                    found = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                if not stat.S_ISREG(found.st_mode):
                    continue
                before = self._looks.get(entry.name)
                same = before is not None and before[:3] == (found.st_size, found.st_mtime_ns, found.st_ino)
                since = before[3] if before is not None and same else now
                looks[entry.name] = (found.st_size, found.st_mtime_ns, found.st_ino, since)
        self._looks = looks
        return sorted(name for name, look in looks.items() if now - look[3] >= _REST_S)

    def _take(self, taking: Path) -> None:
        try:
            raw = _content(taking)
            request = parse_request(raw)
        except FileNotFoundError:
            return
        except InputError as error:
            _log.warning("%s: request %s is refused: %s", self.name, taking.name, error)
            # the reason first: a request that was refused is never without one
            (self._folder / REFUSED / f"{taking.name}.reason").write_text(f"{error}\n", encoding="utf-8")
            self._lay_down(taking, REFUSED)
            return
        # the name is another one for each request that was taken, and the same after a crash
        identity = hashlib.sha256(taking.name.encode("utf-8", "surrogateescape") + b"\0" + raw).hexdigest()[:32]
        asked = request.model_dump(mode="json", exclude={"scan"}, exclude_none=True)
        assert self._report is not None
        self._report(
            Observation(
                Path(os.path.normpath(request.scan)),
                self.name,
                "finished",
                f"asked for in {taking.name}",
                request={**asked, "id": identity},
            )
        )
        self._last_event = time.time()
        self._lay_down(taking, TAKEN)

    def _lay_down(self, taking: Path, where: str) -> None:
        try:
            taking.rename(self._folder / where / taking.name)
        except FileNotFoundError:
            return  # another watcher did


def parse_request(raw: bytes) -> DropRequest:
    """A request from its YAML.

    Raises
    ------
    InputError
        It is no YAML, or says something unknown or impossible; the message names the keys and the remedy.
    """
    if len(raw) > _MAX_BYTES:
        raise InputError(f"is larger than {_MAX_BYTES} bytes; a request is a few lines")
    try:
        said = yaml.safe_load(raw.decode("utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError, ValueError) as error:
        raise InputError(f"is no YAML ({error}); write at least the line 'scan: /path/of/the/scan.h5'") from error
    if not isinstance(said, dict):
        raise InputError("is no mapping; write at least the line 'scan: /path/of/the/scan.h5'")
    try:
        return DropRequest.model_validate(said)
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, one['loc'])) or 'request'}: {one['msg']}" for one in error.errors())
        raise InputError(f"{'; '.join(problems)}; keys are {', '.join(DropRequest.model_fields)}") from error


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(f"cannot be read ({error}); check its permissions") from error
