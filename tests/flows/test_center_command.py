"""`tomopipe center` on simulated scans: the answer against the truth, the picture, what it says to do next, bad input."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner, Result

from tomopipe.flows.cli import app
from tomopipe.functions import center_trials
from tomopipe.functions.corrections import Corrector
from tomopipe.functions.errors import InputError, ParameterError, ScanError
from tomopipe.functions.simulation import SimulationSettings, rasterize_attenuation, simulate_scan


@pytest.fixture(scope="module")
def settings() -> SimulationSettings:
    return SimulationSettings(
        columns=96, rows=16, angles=90, n_flats=4, n_darks=2, inclusion_radius_px=5.0, axis_offset_px=-6.3
    )


@pytest.fixture(scope="module")
def scan(settings: SimulationSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate_scan(settings, tmp_path_factory.mktemp("scan") / "a scan.h5")


@pytest.fixture(scope="module")
def wide_scan(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A scan over 360 degrees whose detector sees little more than half of the sample."""
    wide = SimulationSettings(
        columns=96, rows=16, angles=180, arc_deg=360, n_flats=4, n_darks=2, inclusion_radius_px=5.0, axis_offset_px=30.4
    )
    return simulate_scan(wide, tmp_path_factory.mktemp("wide") / "wide.h5"), wide.center_px


def tomopipe(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["center", *map(str, words)])


def test_prints_what_each_method_found_and_how_to_pass_it_on(
    scan: Path, settings: SimulationSettings, tmp_path: Path
) -> None:
    picture = tmp_path / "trials.png"
    done = tomopipe(scan, "--output", picture, "--set", "preprocessing.zinger_threshold=0.4")
    assert done.exit_code == 0, done.output
    printed = {words[0]: float(words[1]) for words in map(str.split, done.stdout.splitlines()) if len(words) == 2}
    assert set(printed) >= {"vo", "correlation", "sharpness"}
    for value in printed.values():
        assert value == pytest.approx(settings.center_px, abs=0.3)
    answer, confidence = next(line for line in done.stdout.splitlines() if line.startswith("centre")).split(", ")
    center = float(answer.split()[1])
    assert center == pytest.approx(settings.center_px, abs=0.2)
    assert float(confidence.split()[1]) > 0.9
    said = done.stdout.splitlines()[-1].removeprefix("take one with: ")
    assert shlex.split(said) == [
        "tomopipe", "run", str(scan), "--set", "preprocessing.zinger_threshold=0.4",
        "--set", f"reconstruction.center={center:g}",
    ]  # fmt: skip
    with Image.open(picture) as image:
        assert image.format == "PNG"
        assert image.size[0] > 800


def test_a_row_and_centres_of_ones_own(scan: Path, settings: SimulationSettings, tmp_path: Path) -> None:
    picture = tmp_path / "own.png"
    done = tomopipe(scan, "--row", 3, "--around", 40, "--width", 4, "--step", 2, "-o", picture, "--whole", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["rows"] == [3]
    assert found["trial_row"] == 3
    assert found["trial_centers_px"] == [38, 40, 42]
    assert found["center_px"] == pytest.approx(settings.center_px, abs=0.3)
    assert set(found["estimates_px"]) == {"vo", "correlation", "sharpness"}
    assert found["warning"] is None
    assert found["field_of_view"] == "standard"
    assert found["picture"] == str(picture)
    assert found["command"].endswith("--set reconstruction.center=40")
    assert picture.stat().st_size > 1000


Shown = list[tuple[NDArray[np.float32], NDArray[np.float64], str, float]]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Shown:
    """What would have been drawn: slices, centres, title, the centre that was taken."""
    drawn: Shown = []

    def sheet(slices: NDArray[np.float32], centers: NDArray[np.float64], title: str, taken: float) -> bytes:
        drawn.append((slices, centers, title, taken))
        return b"drawn"

    monkeypatch.setattr(center_trials, "contact_sheet", sheet)
    return drawn


def test_the_picture_shows_the_slices_with_these_centres(
    scan: Path, settings: SimulationSettings, tmp_path: Path, shown: Shown
) -> None:
    picture = tmp_path / "three.png"
    around = settings.center_px
    done = tomopipe(scan, "--row", 8, "--around", around, "--width", 12, "--step", 6, "-o", picture, "--whole")
    assert done.exit_code == 0, done.output
    assert picture.read_bytes() == b"drawn"
    [(slices, centers, title, taken)] = shown
    np.testing.assert_allclose(centers, [around - 6, around, around + 6])
    assert taken == pytest.approx(around, abs=0.2)
    assert title.startswith("a scan.h5, row 8")
    assert slices.shape == (3, 96, 96)
    truth = rasterize_attenuation(settings.make_phantom(), 8, 9)[0]
    likeness = [np.corrcoef(image.ravel(), truth.ravel())[0, 1] for image in slices]
    assert likeness[1] > 0.9
    assert likeness[1] > max(likeness[0], likeness[2]) + 0.05


def test_a_row_is_one_of_the_detector(scan: Path, settings: SimulationSettings, tmp_path: Path, shown: Shown) -> None:
    def slice_of(row: int | None, *words: str) -> NDArray[np.float32]:
        around = settings.center_px if "scan.binning=2" not in words else (settings.center_px - 0.5) / 2
        more = ("--width", 1, "--step", 1, "--whole", "--json", "-o", tmp_path / "row.png")
        done = tomopipe(scan, "--around", around, *(() if row is None else ("--row", row)), *words, *more)
        assert done.exit_code == 0, done.output
        found = json.loads(done.stdout)
        assert row is None or found["rows"] == [row]
        rows.append(found["trial_row"])
        slices, _, title, _ = shown[-1]
        assert title.startswith(f"a scan.h5, row {rows[-1]}:")
        return slices[0]

    rows: list[int] = []
    part = ("--set", "scan.rows=[5,14]")
    whole = slice_of(8)
    np.testing.assert_array_equal(slice_of(8, *part), whole)
    assert not np.array_equal(slice_of(9, *part), whole)
    # Rows 7 and 8 are binned to one, and 9 and 10 to the next.
    binned = slice_of(7, *part, "--set", "scan.binning=2")
    np.testing.assert_array_equal(slice_of(8, *part, "--set", "scan.binning=2"), binned)
    assert not np.array_equal(slice_of(9, *part, "--set", "scan.binning=2"), binned)
    middle = slice_of(None, *part, "--set", "scan.binning=2")
    assert 9 <= rows[-1] <= 12
    np.testing.assert_array_equal(slice_of(rows[-1], *part, "--set", "scan.binning=2"), middle)
    printed = tomopipe(scan, *part, "--row", "6", "-o", tmp_path / "row.png").stdout
    assert "columns; row 6\n" in printed
    assert "trial slices of row 6," in printed


def test_what_is_printed_can_be_typed_in(scan: Path, tmp_path: Path) -> None:
    picture = tmp_path / "[red]a:warning:[sheet].png"
    done = tomopipe(scan, "-o", picture, "--set", "keep=[denoised]", "--set", "reconstruction.center=4", "--row", 8,
                    "--around", "40.12345", "--step", 3)  # fmt: skip
    assert done.exit_code == 0, done.output
    *_, drawn, said = done.stdout.splitlines()
    assert drawn.endswith(f": {picture}")
    command = shlex.split(said.removeprefix("take one with: "))
    assert command[3:] == ["--set", "keep=[denoised]", "--set", "reconstruction.center=40.12345"]


def test_a_double_field_of_view_is_told_and_drawn(wide_scan: tuple[Path, float], tmp_path: Path) -> None:
    scan, center = wide_scan
    done = tomopipe(scan, "-o", tmp_path / "wide.png", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["field_of_view"] == "double"
    assert found["method"] == "overlap"
    assert found["center_px"] == pytest.approx(center, abs=0.3)
    assert (tmp_path / "wide.png").stat().st_size > 10_000
    printed = tomopipe(scan, "-o", tmp_path / "wide.png").stdout
    assert "double field of view: the halves overlap by" in printed
    standard = tomopipe(scan, "-o", tmp_path / "s.png", "--json", "--set", "scan.field_of_view=standard")
    assert json.loads(standard.stdout)["method"] != "overlap"
    # With the centre given, a run's automatic choice could be another: it is told.
    for done, field_of_view in ((found, "double"), (json.loads(standard.stdout), "standard")):
        words = shlex.split(done["command"])
        assert [word for word in words if word.startswith("scan.")] == [f"scan.field_of_view={field_of_view}"]


def test_half_of_the_angles_are_enough_to_draw(scan: Path, tmp_path: Path) -> None:
    few = ("--set", "scan.excluded_angles_deg=[[100, 180]]", "-o", tmp_path / "few.png")
    refused = tomopipe(scan, *few)
    assert isinstance(refused.exception, InputError)
    assert "give the centre" in str(refused.exception)
    done = tomopipe(scan, *few, "--around", 41, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["center_px"] is None
    assert found["trial_centers_px"][0] == 38
    printed = tomopipe(scan, *few, "--around", 41)
    assert "not found" in printed.stderr


def test_a_doubtful_answer_is_warned_of(tmp_path: Path) -> None:
    dark = SimulationSettings(
        columns=64, rows=4, angles=60, n_flats=4, n_darks=2, inclusion_radius_px=4.0, photons=20, seed=5
    )
    scan = simulate_scan(dark, tmp_path / "dark.h5")
    done = tomopipe(scan, "-o", tmp_path / "dark.png", "--set", "preprocessing.zinger_threshold=0", "--row", 1)
    assert done.exit_code == 0, done.output
    confidence = float(next(line for line in done.stdout.splitlines() if line.startswith("centre")).split()[3])
    assert confidence < 0.8
    assert "warning: the methods for the rotation centre disagree" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--row", "16"], r"--row 16: the scan has rows 0 to 15"),
        (["--row", "3", "--set", "scan.rows=[4,12]"], r"--row 3: of the detector the rows 4 to 11 are used"),
        (["--row", "12", "--set", "scan.rows=[4,12]"], r"--row 12: .*give one of these"),
        (["--row", "15", "--set", "scan.rows=[1,16]", "--set", "scan.binning=2"], r"--row 15: .*the rows 1 to 14 are"),
        (["--row", "-1"], r"--row -1"),
        (["--around", "96"], r"--around 96: lies outside the 96 columns"),
        (["--step", "0"], r"--step 0"),
        (["--width", "500"], r"at most 100 are drawn"),
        (["--output", "trials.jpg"], r"--output trials\.jpg: .* ends in \.png"),
        (["--output", "no/such/folder/x.png"], r"a folder that is there"),
        (["--set", "reconstruction.centre=4"], r"centre"),
    ],
)
def test_bad_options_are_refused(
    scan: Path, words: list[str], said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    # Before any work.
    monkeypatch.delattr(Corrector, "read")
    done = tomopipe(scan, *words)
    assert isinstance(done.exception, ParameterError), done.output
    with pytest.raises(ParameterError, match=said):
        raise done.exception
    assert not list(tmp_path.iterdir())


def test_what_is_no_scan_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.h5").write_text("no scan")
    done = tomopipe("text.h5")
    assert isinstance(done.exception, ScanError)
