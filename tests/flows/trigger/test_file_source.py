"""The file source: folders that are watched and listed, and what happens to them meanwhile."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from beamline.scans import write_scan

from tomopipe.flows.trigger.file_source import FileSettings, FileSource
from tomopipe.flows.trigger.folder_scan import FolderScan
from tomopipe.flows.trigger.mounts import file_system_of, needs_polling
from tomopipe.flows.trigger.observation import Observation
from tomopipe.functions.errors import InputError, TomopipeError

pytest.importorskip("watchdog")
NOW = 10**18


class Watched:
    """A source over one folder, and what it reported."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder = folder
        self.said: list[str] = []
        self.refuse = False
        self.source = FileSource(FileSettings([folder], **settings))  # type: ignore[arg-type]
        self.source.start(self._report)

    def _report(self, observation: Observation) -> None:
        if self.refuse:
            raise TomopipeError("the disk is full")
        assert observation.kind == "candidate"
        self.said.append(str(observation.path.relative_to(self.folder)))

    def wait(self, until: Callable[[], bool], timeout_s: float = 15.0) -> None:
        """Wait for something to become true."""
        deadline = time.monotonic() + timeout_s
        while not until():
            assert time.monotonic() < deadline, (self.said, self.source.health())
            time.sleep(0.02)

    def wait_for(self, *names: str, timeout_s: float = 15.0) -> None:
        """Wait until these have been reported, and take all."""
        self.wait(lambda: set(names) <= set(self.said), timeout_s)
        self.said.clear()

    @property
    def is_ready(self) -> bool:
        """Whether the folder is watched."""
        return self.source.health()["problem"] is None


@pytest.fixture
def watch() -> Iterator[Callable[..., Watched]]:
    """Starts sources and stops them."""
    started: list[Watched] = []

    def start(folder: Path, **settings: object) -> Watched:
        started.append(Watched(folder, **settings))
        return started[-1]

    yield start
    for one in started:
        one.source.stop()
        assert not one.source.health()["alive"]


BOTH = pytest.mark.parametrize("settings", [{"method": "inotify"}, {"method": "polling", "interval_s": 0.1}])


@BOTH
def test_what_was_there_and_what_comes(
    tmp_path: Path, watch: Callable[..., Watched], settings: dict[str, object]
) -> None:
    write_scan(tmp_path / "old" / "a.h5")
    watched = watch(tmp_path, ignore=["*.truth.h5", "raw/*"], **settings)
    watched.wait_for("old/a.h5")
    # in place, by rename, by a temporary name, in new folders
    write_scan(tmp_path / "b.h5")
    write_scan(tmp_path / "c.h5.part").rename(tmp_path / "c.h5")
    write_scan(tmp_path / ".d.h5.X7gH2k").rename(tmp_path / "d.h5")
    write_scan(tmp_path / "new" / "deep" / "e.h5")
    write_scan(tmp_path / "a.truth.h5")
    write_scan(tmp_path / "raw" / "f.h5")
    (tmp_path / "notes.txt").touch()
    watched.wait(lambda: len(set(watched.said)) >= 4)
    time.sleep(1.5)
    assert set(watched.said) == {"b.h5", "c.h5", "d.h5", "new/deep/e.h5"}
    watched.said.clear()
    # changed, replaced
    with (tmp_path / "b.h5").open("ab") as file:
        file.write(b"x")
    write_scan(tmp_path / "c2.part", angles=9).rename(tmp_path / "c.h5")
    watched.wait_for("b.h5", "c.h5")


@BOTH
def test_a_folder_that_comes_later_goes_and_comes_again(
    tmp_path: Path, watch: Callable[..., Watched], settings: dict[str, object]
) -> None:
    folder = tmp_path / "data"
    watched = watch(folder, **settings)
    watched.wait(lambda: "No such file" in (watched.source.health()["problem"] or ""))
    write_scan(folder / "a.h5")
    watched.wait_for("a.h5")
    shutil.rmtree(folder)
    write_scan(folder / "b.h5")
    watched.wait_for("b.h5")
    write_scan(folder / "c.h5")
    watched.wait_for("c.h5")


def test_events_that_were_lost_are_made_up_for(tmp_path: Path, watch: Callable[..., Watched]) -> None:
    watched = watch(tmp_path, method="inotify", rescan_s=0.5)
    watched.wait(lambda: watched.is_ready)
    for one in watched.source._watches:
        one._on_event = lambda path, is_directory: None  # type: ignore[method-assign]
        one._observer.unschedule_all()  # as where the kernel's queue ran over
    write_scan(tmp_path / "new" / "a.h5")
    watched.wait_for("new/a.h5")


def test_links_do_not_lead_out(tmp_path: Path, watch: Callable[..., Watched]) -> None:
    outside = write_scan(tmp_path / "outside" / "a.h5")
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "link.h5").symlink_to(outside)
    (folder / "folder").symlink_to(outside.parent)
    (folder / "loop").symlink_to(folder)
    watched = watch(folder, method="inotify", rescan_s=0.3)
    watched.wait(lambda: watched.is_ready)
    (folder / "later.h5").symlink_to(outside)
    write_scan(outside.parent / "b.h5")
    write_scan(folder / "own.h5")
    watched.wait(lambda: "own.h5" in watched.said)
    time.sleep(1.2)
    assert set(watched.said) == {"own.h5"}


def test_what_cannot_be_recorded_is_reported_later(tmp_path: Path, watch: Callable[..., Watched]) -> None:
    write_scan(tmp_path / "a.h5")
    watched = watch(tmp_path, method="inotify")
    watched.wait_for("a.h5")
    watched.refuse = True
    write_scan(tmp_path / "b.h5")
    watched.wait(lambda: "full" in (watched.source.health()["problem"] or ""))
    watched.refuse = False
    watched.wait_for("b.h5")
    assert watched.source.health()["alive"]


def test_old_and_known_files_are_passed_over(tmp_path: Path) -> None:
    old, known = write_scan(tmp_path / "old.h5"), write_scan(tmp_path / "known.h5")
    os.utime(old, (1e9, 1e9))
    write_scan(tmp_path / "new.h5")
    said: list[Path] = []
    settings = FileSettings([tmp_path], method="polling", interval_s=0.1, not_before_s=1.5e9)
    source = FileSource(settings, known=lambda path, size, mtime_ns: path == known and size > 0 and mtime_ns > 0)
    source.start(lambda observation: said.append(observation.path))
    time.sleep(0.6)
    source.stop()
    assert said == [tmp_path / "new.h5"]


def test_a_sentinel_reports_its_scan(tmp_path: Path, watch: Callable[..., Watched]) -> None:
    write_scan(tmp_path / "a.h5")
    watched = watch(tmp_path, method="inotify", sentinel=".done")
    watched.wait_for("a.h5")
    (tmp_path / "a.done").touch()
    watched.wait_for("a.h5")
    (tmp_path / "a.h5.done").touch()
    watched.wait_for("a.h5")


def test_a_thousand_scans_at_once(tmp_path: Path, watch: Callable[..., Watched]) -> None:
    whole = write_scan(tmp_path / "source" / "a.txt").read_bytes()
    folder = tmp_path / "data"
    folder.mkdir()
    watched = watch(folder, method="inotify", rescan_s=2.0)
    watched.wait(lambda: watched.is_ready)

    def write(part: int) -> None:
        for number in range(part, 1000, 4):
            (folder / f"{number % 7}").mkdir(exist_ok=True)
            (folder / f"{number % 7}" / f"{number}.h5").write_bytes(whole)

    writers = [threading.Thread(target=write, args=(part,)) for part in range(4)]
    for one in writers:
        one.start()
    for one in writers:
        one.join()
    watched.wait(lambda: len(set(watched.said)) == 1000, 30.0)


def test_a_folder_must_be_absolute() -> None:
    with pytest.raises(InputError, match="not absolute"):
        FileSource(FileSettings([Path("data")]))


# --- listing ----------------------------------------------------------------------------------------------------------


def changes(scan: FolderScan, *, everything: bool = False, now_ns: int | None = None) -> list[str]:
    found = scan.changes(time.time_ns() if now_ns is None else now_ns, everything=everything)
    return sorted(str(one.path.relative_to(scan.root)) for one in found)


def test_listing_tells_changes_only(tmp_path: Path) -> None:
    scan = FolderScan(tmp_path, ["*.h5"])
    for name in ("a.h5", "b/c.h5", "b/d.txt", ".hidden/e.h5"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1")
    assert changes(scan) == ["a.h5", "b/c.h5"]
    assert changes(scan) == []
    (tmp_path / "b/c.h5").write_text("12")
    assert changes(scan) == ["b/c.h5"]
    (tmp_path / "b").rename(tmp_path / "x")
    assert changes(scan) == ["x/c.h5"]
    assert FolderScan(tmp_path, ["*.h5"], recursive=False).wants(tmp_path / "b" / "c.h5") is False


def test_a_folder_at_rest_is_not_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(10):
        (tmp_path / f"{number}.h5").write_text("1")
        os.utime(tmp_path / f"{number}.h5", (1e9, 1e9))
    os.utime(tmp_path, (1e9, 1e9))
    scan = FolderScan(tmp_path, ["*.h5"])
    assert len(changes(scan)) == 10
    listed = []
    scandir = os.scandir
    monkeypatch.setattr("os.scandir", lambda path: listed.append(path) or scandir(path))
    assert changes(scan) == []
    assert listed == []
    # old files that are changed in place are found by looking at everything
    (tmp_path / "3.h5").write_text("123")
    assert changes(scan, everything=True) == ["3.h5"]
    os.utime(tmp_path, (1e9, 1e9))
    assert changes(scan) == []
    # from then on it is young, and looked at each time
    listed.clear()
    (tmp_path / "3.h5").write_text("1234")
    os.utime(tmp_path, (1e9, 1e9))
    assert changes(scan) == ["3.h5"]


def test_what_was_not_taken_comes_again(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.h5").write_text("1")
    scan = FolderScan(tmp_path, ["*.h5"])
    found = scan.changes(time.time_ns())
    next(found)
    found.close()  # type: ignore[attr-defined]
    assert len(changes(scan)) == 5


def test_file_systems_of_other_hosts_are_polled(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/sda1 / ext4 rw 0 0\nserver:/a /net/a\\040b nfs4 rw 0 0\nx /net fuse.sshfs rw 0 0\ny /scratch lustre rw 0 0\n"
        "z /scratch/local xfs rw 0 0\n"
    )
    for folder, kind, polled in [
        *(("/home/x", "ext4", False), ("/net/a b/c", "nfs4", True), ("/net/other", "fuse.sshfs", True)),
        *(("/scratch/x", "lustre", True), ("/scratch/local/x", "xfs", False), ("/scratching", "ext4", False)),
    ]:
        assert file_system_of(Path(folder), mounts) == kind
        assert needs_polling(Path(folder), mounts) is polled
    assert needs_polling(tmp_path, tmp_path / "none")
