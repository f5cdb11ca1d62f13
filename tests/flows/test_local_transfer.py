"""The Transfer action: what arrives is what was sent, whole, inside the collection, or nothing."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tomopipe.flows.local import transfer
from tomopipe.flows.local.actions import (
    ActionContext,
    ActionResult,
    ActionTimeout,
    ActionUnableToRun,
    Progress,
    RunCancelled,
    RunObserver,
    explain,
)
from tomopipe.flows.local.transfer import LocalTransfer

SOURCE, TARGET = "11111111-0000-0000-0000-000000000000", "22222222-0000-0000-0000-000000000000"


class Reports(RunObserver):
    def __init__(self) -> None:
        self.reports: list[Progress] = []

    def progress(self, state: str, progress: Progress) -> None:
        self.reports.append(progress)


class Facility:
    """Two collections and a provider between them."""

    def __init__(self, root: Path, **options: Any) -> None:
        self.source, self.target = root / "beamline", root / "processing"
        self.source.mkdir(exist_ok=True)
        self.target.mkdir(exist_ok=True)
        self.provider = LocalTransfer({SOURCE: self.source, TARGET: self.target}, **options)

    def send(self, source: str, target: str, context: ActionContext | None = None, **fields: Any) -> ActionResult:
        item = {"source_path": source, "destination_path": target, **fields}
        body = {"source_endpoint": SOURCE, "destination_endpoint": TARGET, "DATA": [item]}
        return self.provider.run(body, context or ActionContext("TransferScan"))

    def litter(self) -> list[Path]:
        return [path for path in self.target.rglob("*") if path.name.endswith(".part")]


@pytest.fixture
def facility(tmp_path: Path) -> Facility:
    return Facility(tmp_path)


@pytest.fixture
def copying(tmp_path: Path) -> Facility:
    return Facility(tmp_path, allow_hard_links=False)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_BLOCK_BYTES", 1000)


def test_a_file_arrives_with_progress(copying: Facility) -> None:
    data = os.urandom(4500)
    (copying.source / "scan.h5").write_bytes(data)
    notes = Reports()
    result = copying.send("/scan.h5", "/runs/scan_1/raw.h5", ActionContext("T", observer=notes))
    assert result.status == "SUCCEEDED"
    assert (copying.target / "runs/scan_1/raw.h5").read_bytes() == data
    counts = [result.details[key] for key in ("files", "files_transferred", "files_skipped", "bytes_transferred")]
    assert counts == [1, 1, 0, 4500]
    assert (copying.target / "runs/scan_1/raw.h5").stat().st_ino != (copying.source / "scan.h5").stat().st_ino
    done = [report.done for report in notes.reports]
    assert done[0] == 0 and done[-1] == 4500 and done == sorted(done)
    assert {(report.total, report.unit) for report in notes.reports} == {(4500, "byte")}
    assert not copying.litter()


def test_an_empty_file_and_a_home_path(copying: Facility) -> None:
    (copying.source / "empty").touch()
    assert copying.send("/~/empty", "~/out/empty").status == "SUCCEEDED"
    assert (copying.target / "out/empty").read_bytes() == b""


def test_a_single_file_is_linked_where_allowed(facility: Facility) -> None:
    (facility.source / "scan.h5").write_bytes(b"raw")
    assert facility.send("/scan.h5", "/raw.h5").status == "SUCCEEDED"
    assert (facility.target / "raw.h5").samefile(facility.source / "scan.h5")
    assert facility.send("/scan.h5", "/raw.h5").details["files_skipped"] == 1


def test_blocks_are_shared_where_the_file_system_can(copying: Facility, monkeypatch: pytest.MonkeyPatch) -> None:
    (copying.source / "scan.h5").write_bytes(b"x" * 3000)

    def clone(target: int, request: int, source: int) -> int:
        assert request == 0x40049409
        return os.pwrite(target, os.pread(source, 3000, 0), 0)

    monkeypatch.setattr(transfer.fcntl, "ioctl", clone)
    monkeypatch.setattr(transfer._Task, "_report", lambda task, count: None)
    assert copying.send("/scan.h5", "/raw.h5").status == "SUCCEEDED"
    assert (copying.target / "raw.h5").read_bytes() == b"x" * 3000
    # A clone that is not what was read is discarded like any other copy.
    (copying.source / "other.h5").write_bytes(b"y" * 3001)
    assert copying.send("/other.h5", "/other.h5").details["fatal_error"]["code"] == "VERIFY_CHECKSUM"


def test_a_folder_is_copied_never_linked(facility: Facility) -> None:
    (facility.source / "run/sub/empty").mkdir(parents=True)
    (facility.source / "run/a").write_bytes(b"A" * 2500)
    (facility.source / "run/sub/b").write_bytes(b"B")
    (facility.source / "run/link").symlink_to(facility.source / "run/a")
    (facility.source / "run/sublink").symlink_to(facility.source / "run/sub")
    result = facility.send("/run/", "/copy/", recursive=True)
    assert result.status == "SUCCEEDED"
    assert (result.details["files"], result.details["bytes_transferred"]) == (2, 2501)
    names = sorted(str(path.relative_to(facility.target)) for path in facility.target.rglob("*"))
    assert names == ["copy", "copy/a", "copy/sub", "copy/sub/b", "copy/sub/empty"]
    assert not (facility.target / "copy/a").samefile(facility.source / "run/a")


def test_what_is_there_already_is_not_copied_again(copying: Facility) -> None:
    (copying.source / "scan.h5").write_bytes(b"x" * 3000)
    copying.send("/scan.h5", "/raw.h5")
    before = (copying.target / "raw.h5").stat()
    again = copying.send("/scan.h5", "/raw.h5")
    assert (again.details["files_skipped"], again.details["bytes_transferred"]) == (1, 0)
    assert (copying.target / "raw.h5").stat().st_ino == before.st_ino
    assert (copying.target / "raw.h5").stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.parametrize("old", [b"y" * 3000, b"x" * 2999, b""])
def test_a_target_that_differs_is_replaced(copying: Facility, old: bytes) -> None:
    (copying.source / "scan.h5").write_bytes(b"x" * 3000)
    (copying.target / "raw.h5").write_bytes(old)
    assert copying.send("/scan.h5", "/raw.h5").details["files_transferred"] == 1
    assert (copying.target / "raw.h5").read_bytes() == b"x" * 3000


def test_a_wrong_checksum_discards_the_copy(copying: Facility, monkeypatch: pytest.MonkeyPatch) -> None:
    (copying.source / "scan.h5").write_bytes(b"x" * 3000)
    write = transfer._Task._write

    def write_badly(task: Any, source: Path, aside: Path) -> str:
        digest = write(task, source, aside)
        with aside.open("r+b") as file:
            file.seek(1234)
            file.write(b"!")
        return digest

    monkeypatch.setattr(transfer._Task, "_write", write_badly)
    result = copying.send("/scan.h5", "/raw.h5")
    assert result.status == "FAILED"
    assert result.details["fatal_error"]["code"] == "VERIFY_CHECKSUM"
    assert not (copying.target / "raw.h5").exists() and not copying.litter()


def test_a_source_that_is_still_written_is_refused(copying: Facility, monkeypatch: pytest.MonkeyPatch) -> None:
    (copying.source / "scan.h5").write_bytes(b"x" * 3000)
    write = transfer._Task._write

    def write_late(task: Any, source: Path, aside: Path) -> str:
        digest = write(task, source, aside)
        with source.open("ab") as file:
            file.write(b"more")
        return digest

    monkeypatch.setattr(transfer._Task, "_write", write_late)
    result = copying.send("/scan.h5", "/raw.h5")
    assert result.details["fatal_error"]["code"] == "FILE_CHANGED"
    assert not (copying.target / "raw.h5").exists() and not copying.litter()


def test_a_full_disk_fails_and_leaves_nothing(copying: Facility, monkeypatch: pytest.MonkeyPatch) -> None:
    (copying.source / "scan.h5").write_bytes(b"x" * 3000)

    def fsync(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(transfer.os, "fsync", fsync)
    result = copying.send("/scan.h5", "/raw.h5")
    fatal = result.details["fatal_error"]
    assert fatal == {"code": "ENOSPC", "description": f"{copying.target}/raw.h5: No space left on device"}
    assert not copying.litter() and not (copying.target / "raw.h5").exists()


def test_a_missing_source_says_so(facility: Facility) -> None:
    result = facility.send("/absent.h5", "/raw.h5")
    assert (result.status, result.details["nice_status"]) == ("FAILED", "NOT_FOUND")
    cause = {"state_name": "TransferScan", "details": result.details}
    assert explain("ActionFailedException", cause) == (
        f"TransferScan failed: {facility.source}/absent.h5 does not exist; is the scan finished, and the path right?"
    )


def test_types_must_fit(facility: Facility) -> None:
    (facility.source / "run").mkdir()
    (facility.source / "file").write_bytes(b"1")
    (facility.target / "folder").mkdir()
    os.mkfifo(facility.source / "fifo")
    for source, target, recursive in [
        ("/run", "/x", False),
        ("/file", "/x", True),
        ("/file", "/folder", False),
        ("/file", "/x/", False),
        ("/fifo", "/x", False),
    ]:
        result = facility.send(source, target, recursive=recursive)
        assert result.details["fatal_error"]["code"] == "BAD_TYPE", (source, target)
    assert list(facility.target.iterdir()) == [facility.target / "folder"]


def test_a_folder_is_not_copied_into_itself(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    provider = LocalTransfer({SOURCE: tmp_path})
    item = {"source_path": "/run", "destination_path": "/run/copy", "recursive": True}
    body = {"source_endpoint": SOURCE, "destination_endpoint": SOURCE, "DATA": [item]}
    assert provider.run(body, ActionContext("T")).details["fatal_error"]["code"] == "BAD_TYPE"


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("/../secret", "/x"),
        ("/a/../../secret", "/x"),
        ("/out/secret", "/x"),
        ("/scan", "/../x"),
        ("/scan", "/out/x"),
        ("/scan", "/outfile"),
        ("/scan\0", "/x"),
    ],
)
def test_nothing_leads_out_of_a_collection(facility: Facility, tmp_path: Path, source: str, target: str) -> None:
    (tmp_path / "secret").write_text("s")
    (facility.source / "scan").write_text("x")
    (facility.source / "out").symlink_to(tmp_path)
    (facility.target / "out").symlink_to(tmp_path)
    (facility.target / "outfile").symlink_to(tmp_path / "outside")
    before = sorted(tmp_path.rglob("*"))
    result = facility.send(source, target)
    assert result.details["fatal_error"]["code"] == "PERMISSION_DENIED"
    assert sorted(tmp_path.rglob("*")) == before


def test_a_link_within_the_collection_is_followed(facility: Facility) -> None:
    (facility.source / "scan").write_text("x")
    (facility.source / "link").symlink_to("scan")
    assert facility.send("/link", "/copy").status == "SUCCEEDED"
    assert not (facility.target / "copy").is_symlink()
    assert (facility.target / "copy").read_text() == "x"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source_endpoint": "nowhere"}, "source_endpoint: 'nowhere' is not a collection"),
        ({"destination_endpoint": None}, "destination_endpoint: None is not a collection"),
        ({"DATA": []}, "DATA: a list"),
        ({"DATA": ["/a"]}, r"DATA\[0\]: an object"),
        ({"DATA": [{"source_path": "/a"}]}, r"DATA\[0\].destination_path"),
        ({"DATA": [{"source_path": "", "destination_path": "/a"}]}, r"DATA\[0\].source_path"),
        ({"DATA": [{"source_path": "/a", "destination_path": "/a", "recursive": 1}]}, r"DATA\[0\].recursive"),
    ],
)
def test_a_bad_request_is_refused(facility: Facility, change: dict[str, Any], message: str) -> None:
    item = {"source_path": "/a", "destination_path": "/a"}
    body = {"source_endpoint": SOURCE, "destination_endpoint": TARGET, "DATA": [item], **change}
    with pytest.raises(ActionUnableToRun, match=message):
        facility.provider.run(body, ActionContext("T"))


def test_cancel_and_timeout_leave_nothing_behind(copying: Facility) -> None:
    (copying.source / "scan.h5").write_bytes(b"x" * 5000)
    cancel = threading.Event()

    class CancelHalfway(RunObserver):
        def progress(self, state: str, progress: Progress) -> None:
            if progress.done >= 2000:
                cancel.set()

    with pytest.raises(RunCancelled):
        copying.send("/scan.h5", "/raw.h5", ActionContext("T", cancel=cancel, observer=CancelHalfway()))
    with pytest.raises(ActionTimeout):
        copying.send("/scan.h5", "/raw.h5", ActionContext("T", deadline=time.monotonic() - 1))
    assert not list(copying.target.iterdir())


def test_what_a_killed_transfer_left_is_removed(copying: Facility) -> None:
    (copying.source / "scan.h5").write_bytes(b"x")
    host = os.uname().nodename
    with subprocess.Popen(["true"]) as dead:
        dead.wait()
    abandoned = copying.target / f".transfer-{host}-{dead.pid}-abc.part"
    living = copying.target / f".transfer-{host}-{os.getpid()}-abc.part"
    foreign = copying.target / f".transfer-elsewhere-{dead.pid}-abc.part"
    for path in (abandoned, living, foreign):
        path.touch()
    copying.send("/scan.h5", "/raw.h5")
    assert sorted(copying.litter()) == sorted([living, foreign])
