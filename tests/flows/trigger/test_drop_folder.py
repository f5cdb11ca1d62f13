"""Requests that are dropped into a folder: taken once, refused with a reason, and not lost in a crash."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tomopipe.flows.trigger.drop_folder import DropFolder, parse_request
from tomopipe.flows.trigger.observation import Observation
from tomopipe.functions.errors import InputError, TomopipeError


class Ledger:
    """Takes what is reported, or refuses it for a while."""

    def __init__(self) -> None:
        self.said: list[Observation] = []
        self.error: Exception | None = None

    def __call__(self, observation: Observation) -> None:
        if self.error:
            raise self.error
        self.said.append(observation)


def drop(folder: Path, ledger: Ledger) -> DropFolder:
    source = DropFolder(folder, interval_s=0.05)
    source._report = ledger
    return source


def names(folder: Path) -> list[str]:
    return sorted(path.name.split("-", 2)[-1] for path in folder.iterdir())


def test_a_request_is_taken_once(tmp_path: Path) -> None:
    ledger = Ledger()
    source = drop(tmp_path, ledger)
    (tmp_path / "a.yaml").write_text(
        "scan: /data/x/../a.h5\nscan_id: a_1\nparameters: {denoise: {}}\nskip: [segment]\n"
    )
    source.look(0.0)
    assert ledger.said == [], "it may still be written"
    source.look(1.0)
    source.look(2.0)
    (said,) = ledger.said
    assert (said.path, said.kind, said.source) == (Path("/data/a.h5"), "finished", "drop")
    asked = dict(said.request or {})
    assert len(asked.pop("id")) == 32
    assert asked == {"scan_id": "a_1", "parameters": {"denoise": {}}, "skip": ["segment"], "again": False}
    assert names(tmp_path / "taken") == ["a.yaml"]
    assert names(tmp_path / "taking") == []
    # the same again is another request
    (tmp_path / "a.yaml").write_text("scan: /data/a.h5\n")
    source.look(3.0)
    source.look(4.0)
    assert len({(one.request or {})["id"] for one in ledger.said}) == 2


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("scan: a.h5", "scan: Value error, is not absolute"),
        ("scan: /a.h5\nparamters: {}", "paramters: Extra inputs"),
        ("- /a.h5", "is no mapping"),
        ("scan: [", "is no YAML"),
        ("scan: !!python/object/apply:os.system [id]", "is no YAML"),
        ("scan: /a.h5\nskip: [reconstruct]", "skip.0"),
        ("scan: /a.h5\nscan_id: a/b", "scan_id"),
        ("", "is no mapping"),
    ],
)
def test_a_bad_request_is_refused_with_its_reason(tmp_path: Path, text: str, why: str) -> None:
    ledger = Ledger()
    source = drop(tmp_path, ledger)
    (tmp_path / "a.yaml").write_text(text)
    source.look(0.0)
    source.look(1.0)
    assert ledger.said == []
    assert names(tmp_path / "refused") == ["a.yaml", "a.yaml.reason"]
    (reason,) = (tmp_path / "refused").glob("*.reason")
    assert why in reason.read_text()


def test_large_and_binary_requests_are_refused() -> None:
    for raw in (b"scan: /a.h5\n" + b"#" * 2**20, b"\xff\xfe\x00"):
        with pytest.raises(InputError):
            parse_request(raw)


def test_what_cannot_be_recorded_comes_again_with_the_same_id(tmp_path: Path) -> None:
    ledger = Ledger()
    source = drop(tmp_path, ledger)
    (tmp_path / "a.yaml").write_text("scan: /data/a.h5\n")
    ledger.error = TomopipeError("the disk is full")
    source.look(0.0)
    with pytest.raises(TomopipeError):
        source.look(1.0)
    assert names(tmp_path / "taking") == ["a.yaml"]
    ledger.error = None
    # another process after a crash: first one that dies between the record and the laying down
    later = drop(tmp_path, ledger)
    later._lay_down = lambda taking, where: None  # type: ignore[method-assign]
    later.look(0.0)
    drop(tmp_path, ledger).look(0.0)
    first, second = ledger.said
    assert first.request == second.request
    assert names(tmp_path / "taken") == ["a.yaml"]


def test_it_leaves_what_is_no_request(tmp_path: Path) -> None:
    ledger = Ledger()
    source = drop(tmp_path, ledger)
    secret = tmp_path / "elsewhere.txt"
    secret.write_text("scan: /data/a.h5\n")
    for name in ("notes.txt", ".a.yaml", "a.yaml.part", "b.yaml~"):
        (tmp_path / name).write_text("scan: /data/a.h5\n")
    (tmp_path / "link.yaml").symlink_to(secret)
    (tmp_path / "folder.yaml").mkdir()
    source.look(0.0)
    source.look(10.0)
    assert ledger.said == []


def test_it_goes_on_after_errors(tmp_path: Path) -> None:
    ledger = Ledger()
    folder = tmp_path / "drop"
    folder.write_text("in the way")
    source = DropFolder(folder, interval_s=0.05)
    source.start(ledger)
    try:
        deadline = time.monotonic() + 10
        while source.health()["problem"] in (None, "not started"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        folder.unlink()
        folder.mkdir()
        (folder / "a.yml").write_text("scan: /data/a.h5\n")
        while not ledger.said:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert source.health()["alive"]
    finally:
        source.stop()
    assert not source.health()["alive"]
