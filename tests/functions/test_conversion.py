"""Conversion through dxchange: what its readers give is written as Data Exchange, what they do not give is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tomopipe.functions.conversion import convert_scan, readers
from tomopipe.functions.errors import InputError, ScanError
from tomopipe.functions.scan import open_scan, validate

RANDOM = np.random.default_rng(4)
PROJECTIONS = RANDOM.integers(400, 500, (12, 6, 20)).astype(np.uint16)
FLATS = RANDOM.integers(900, 1000, (3, 6, 20)).astype(np.uint16)
DARKS = RANDOM.integers(90, 110, (3, 6, 20)).astype(np.uint16)
THETA = np.linspace(0, np.pi, 12, endpoint=False)


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module in dxchange's place whose one reader gives what the test wants."""

    def install(result: Any) -> None:
        module = ModuleType("dxchange")

        def read_beamline(fname: str) -> Any:
            if isinstance(result, Exception):
                raise result
            return result

        module.read_beamline = read_beamline  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "dxchange", module)

    return install


def test_what_a_reader_gives_is_a_valid_scan(reading: Any, tmp_path: Path) -> None:
    reading((PROJECTIONS, FLATS, DARKS, THETA))
    assert readers() == ["beamline"]
    with open_scan(convert_scan(tmp_path / "scan_0001.tif", tmp_path / "scan.h5", "beamline")) as scan:
        validate(scan)
        assert np.array_equal(scan.read_rows(0, 6), PROJECTIONS)
        assert np.array_equal(scan.flats(), FLATS)
        np.testing.assert_allclose(scan.theta_deg, np.rad2deg(THETA))
        assert scan.metadata.sample == "scan_0001"


def test_angles_may_be_given_as_their_range(reading: Any, tmp_path: Path) -> None:
    reading((PROJECTIONS, FLATS, DARKS))
    with open_scan(convert_scan(tmp_path / "scan_0001.tif", tmp_path / "scan.h5", "beamline", 360)) as scan:
        np.testing.assert_allclose(scan.theta_deg, np.arange(12) * 30.0)


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ((PROJECTIONS, FLATS, DARKS, None), "--arc"),
        ((PROJECTIONS, FLATS, DARKS), "--arc"),
        ((PROJECTIONS, FLATS), "does not give"),
        ((PROJECTIONS, FLATS[:, :5], DARKS, THETA), "must match"),
        ((PROJECTIONS, FLATS, DARKS, THETA[1:]), "11 angles for 12"),
        (OSError("broken"), "OSError: broken"),
    ],
)
def test_anything_else_is_refused(reading: Any, tmp_path: Path, result: Any, words: str) -> None:
    reading(result)
    with pytest.raises(ScanError, match=words):
        convert_scan(tmp_path / "scan.tif", tmp_path / "scan.h5", "beamline")
    assert not list(tmp_path.iterdir())


def test_unknown_reader_lists_the_known(reading: Any, tmp_path: Path) -> None:
    reading(None)
    with pytest.raises(InputError, match="beamline"):
        convert_scan(tmp_path / "scan.tif", tmp_path / "scan.h5", "nonsense")


def test_without_dxchange_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "dxchange", None)
    assert readers() == []
    with pytest.raises(InputError, match="conda-forge"):
        convert_scan(tmp_path / "scan.tif", tmp_path / "scan.h5", "als_832")


def test_real_dxchange(tmp_path: Path, real_scan: Any) -> None:
    pytest.importorskip("dxchange", reason="dxchange is on conda-forge only")
    convert_scan(real_scan("tooth.h5"), tmp_path / "scan.h5", "aps_32id")
    with open_scan(tmp_path / "scan.h5") as scan, open_scan(real_scan("tooth.h5")) as original:
        assert np.array_equal(scan.read_rows(0, 2), original.read_rows(0, 2))
