"""The run directory: receipts, writes that are whole or absent, checksums."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from tomopipe.functions.errors import StageError
from tomopipe.functions.rundir import (
    RunDirectory,
    array_checksum,
    digest_of,
    file_checksum,
    slab_name,
    write_json,
    written_aside,
)


def test_receipt_counts_for_its_digest_only(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert not run.is_done("denoise", 0, 64, "a")
    run.write_receipt("denoise", 0, 64, {"digest": "a", "seconds": 1.0})
    assert run.is_done("denoise", 0, 64, "a")
    assert not run.is_done("denoise", 0, 64, "b")
    assert not run.is_done("denoise", 64, 128, "a")
    assert run.receipts("denoise")[0]["slab"] == [0, 64]


@pytest.mark.parametrize("content", ["", "{", "[]"[:1], '{"digest": "a"}'])
def test_broken_receipt_is_none(tmp_path: Path, content: str) -> None:
    run = RunDirectory(tmp_path)
    path = run.receipt_path("segment", 0, 8)
    path.parent.mkdir(parents=True)
    path.write_text(content)
    assert not run.is_done("segment", 0, 8, "a")


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"old": True})
    with pytest.raises(RuntimeError), written_aside(path) as aside:
        aside.write_text("half")
        raise RuntimeError
    with pytest.raises(ValueError, match="Out of range"):
        write_json(path, {"value": float("nan")})
    assert json.loads(path.read_text()) == {"old": True}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("content", "words"), [(None, "Inspect"), ("{", "not JSON"), ('{"format": "x"}', "format")])
def test_unusable_run_json_is_refused(tmp_path: Path, content: str | None, words: str) -> None:
    run = RunDirectory(tmp_path)
    if content is not None:
        run.run_json.write_text(content)
    with pytest.raises(StageError, match=words):
        run.read_run()


def test_checksums(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert file_checksum(tmp_path / "file") == f"sha256:{hashlib.sha256(b'abc').hexdigest()}"
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert array_checksum(array) == array_checksum(np.asfortranarray(array))
    assert array_checksum(array) != array_checksum(array.T)
    assert array_checksum(array) != array_checksum(array.astype(np.float64))
    assert array_checksum(array) != array_checksum(array.reshape(4, 3))


def test_digest_is_of_values_not_of_order() -> None:
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    assert digest_of([1, 2]) != digest_of([2, 1])
    assert digest_of("a", "b") != digest_of("ab")


def test_slab_names_sort_as_rows() -> None:
    assert sorted(slab_name(start, start + 64) for start in (960, 64, 99968)) == [
        "000064-000128", "000960-001024", "099968-100032",
    ]  # fmt: skip
