"""`tomopipe compare`: what differs between runs, told from run directories alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tomopipe.flows.cli import main
from tomopipe.flows.compare import change_percent, change_text, compare_runs, load_run, write_html
from tomopipe.functions.errors import InputError
from tomopipe.functions.rundir import RUN_FORMAT, write_json

_PNG = b"\x89PNG\r\n\x1a\n"


def make_run(folder: Path, recipe: str, metrics: dict[str, float], **changes: Any) -> Path:
    root = folder / "scan<1>" / recipe
    parameters = {"scan": {"pixel_size_um": None}, "reconstruction": {"filter": "ramp", "center": "auto"}, "keep": []}
    parameters["reconstruction"] |= changes.get("reconstruction", {})
    write_json(
        root / "run.json",
        {
            "format": RUN_FORMAT,
            "scan_id": "scan<1>",
            "recipe_id": recipe,
            "request": {"parameters": parameters, "skip": []},
            "resolved": {"center_px": changes.get("center_px", 80.0), "notes": [], "center": {"curve": [recipe]}},
            "scan": {"checksum": "sha256:" + 64 * "1"},
            "software": {"tomopipe": "1"},
        },
    )
    write_json(
        root / "labels.json",
        {
            "format": "tomopipe-metrics/2",
            "metrics": metrics,
            "intervals": {"porosity_percent": {"subvolumes": [18.5, 21.5], "segmentation": [19.9, 20.1]}},
            "quality": {"center_confidence": 0.9, "warnings": changes.get("warnings", [])},
        },
    )
    return root


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    first = make_run(tmp_path, "aaaaaaaaaaaa", {"porosity_percent": 20.0, "euler_number": 0.0})
    second = make_run(
        tmp_path,
        "bbbbbbbbbbbb",
        {"porosity_percent": 22.0, "object_count": 7.0},
        center_px=81.5,
        reconstruction={"filter": "hann"},
        warnings=["<b>careful</b>"],
    )
    (second / "previews").mkdir()
    (second / "previews" / "reconstruction_xy.png").write_bytes(_PNG)
    return first, second


def test_only_what_differs_is_listed_and_metrics_in_order(runs: tuple[Path, Path]) -> None:
    comparison = compare_runs([load_run(root) for root in runs])
    assert comparison.parameters == {"reconstruction.filter": ["ramp", "hann"], "resolved.center_px": [80.0, 81.5]}
    assert comparison.metrics == {
        "porosity_percent": [20.0, 22.0],
        "euler_number": [0.0, None],
        "object_count": [None, 7.0],
    }
    assert comparison.quality == {"center_confidence": [0.9, 0.9]}


def test_change_is_against_the_first_and_absent_where_undefined() -> None:
    assert change_percent([20.0, 22.0, 15.0]) == [0.0, pytest.approx(10.0), pytest.approx(-25.0)]
    assert change_percent([-2.0, -3.0]) == [0.0, -50.0]
    assert change_percent([0.0, 3.0]) == [None, None]
    assert change_percent([None, 3.0]) == [None, None]
    assert change_percent([2.0, None]) == [0.0, None]


def test_a_change_from_zero_is_told() -> None:
    assert change_text(0.0, 3.0, None) == " (changed)"
    assert change_text(0.0, 0.0, None) == change_text(2.0, 2.0, 0.0) == change_text(None, 2.0, None) == ""
    assert change_text(2.0, 1.0, -50.0) == " (-50.00 %)"


def test_long_names_are_printed_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = "equivalent_diameter_volume_weighted_mean_um"
    roots = [make_run(tmp_path, letter * 12, {long: 1.0}) for letter in "abcd"]
    call("compare", *map(str, roots))
    printed = capsys.readouterr().out
    assert long in printed and "…" not in printed
    assert all(f"scan<1>/{letter * 12}" in printed for letter in "abcd")


def test_command_prints_table_and_json(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    call("compare", *map(str, runs))
    printed = capsys.readouterr().out
    assert re.search(r"reconstruction\.filter +ramp +hann", printed)
    assert re.search(r"porosity_percent +20 +22 \(\+10\.00 %\)", printed)
    call("compare", *map(str, runs), "--json")
    document = json.loads(capsys.readouterr().out)
    assert document["format"] == "tomopipe-comparison/1"
    assert document["metrics"]["porosity_percent"]["change_percent"] == [0.0, pytest.approx(10.0)]
    assert document["metrics"]["porosity_percent"]["intervals"][0]["subvolumes"] == [18.5, 21.5]
    assert [run["recipe_id"] for run in document["runs"]] == ["aaaaaaaaaaaa", "bbbbbbbbbbbb"]


def test_page_holds_values_pictures_and_no_markup_of_names(runs: tuple[Path, Path], tmp_path: Path) -> None:
    page = tmp_path / "comparison.html"
    write_html(compare_runs([load_run(root) for root in runs]), page)
    text = page.read_text()
    assert "scan&lt;1&gt;/bbbbbbbbbbbb" in text and "scan<1>" not in text
    assert "<b>careful" not in text and "&lt;b&gt;careful" in text
    assert "+10.00 %" in text and "18.5 to 21.5" in text and "19.9 to 20.1" in text
    assert text.count("data:image/png;base64,") == 1
    assert not re.search(r"""(src|href)=["'](?!data:)""", text) and "http" not in text.split("<body>")[1]


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda root: (root / "run.json").unlink(), ["run.json"]),
        (lambda root: (root / "labels.json").unlink(), ["labels.json", "finish"]),
        (lambda root: (root / "labels.json").write_text("{"), ["labels.json", "JSON"]),
        (lambda root: (root / "labels.json").write_text("[]"), ["labels.json", "format"]),
        (lambda root: (root / "run.json").write_text("[]"), ["run.json", "format"]),
        (lambda root: write_json(root / "labels.json", {"format": "tomopipe-metrics/2"}), ["metrics", "again"]),
        (lambda root: write_json(root / "run.json", {"format": RUN_FORMAT}), ["resolved", "again"]),
        (
            lambda root: write_json(root / "labels.json", {"format": "tomopipe-metrics/1"}),
            ["tomopipe-metrics/1", "again"],
        ),
    ],
    ids=["no run", "unfinished", "broken", "a list", "run a list", "no metrics", "empty run", "old format"],
)
def test_what_cannot_be_compared_is_refused(runs: tuple[Path, Path], break_it: Any, words: list[str]) -> None:
    break_it(runs[1])
    with pytest.raises(InputError) as caught:
        load_run(runs[1])
    assert all(word in str(caught.value) for word in words)


def test_one_run_and_a_run_twice_are_refused(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert "two runs" in failing(capsys, "compare", str(runs[0]))
    assert "twice" in failing(capsys, "compare", str(runs[0]), str(runs[0]))
    assert "run.json" in failing(capsys, "compare", str(runs[0]), str(runs[0].parent))


def test_a_page_that_cannot_be_written_is_refused(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"--html {tmp_path}" in failing(capsys, "compare", *map(str, runs), "--html", str(tmp_path))


def call(*words: str) -> int:
    """Exit code of the command."""
    from unittest import mock

    with mock.patch("sys.argv", ["tomopipe", *words]):
        try:
            main()
        except SystemExit as stop:
            return int(stop.code or 0)
    return 0


def failing(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert call(*words) == 2
    return capsys.readouterr().err
