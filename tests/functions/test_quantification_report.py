"""The report: one file, complete with and without its script, whatever its data holds; and the script's arithmetic."""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from tomopipe.functions.quantification import plots
from tomopipe.functions.quantification.report import formatted, json_block, write_report
from tomopipe.functions.rundir import RunDirectory
from tomopipe.functions.slabs import Sources
from tomopipe.functions.volume import SliceLayout, create_slices, write_projections, write_slices

SHAPE = (12, 20, 20)
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> & \"'"


class Scan:
    """Raw counts of a scan of `SHAPE[0]` rows."""

    shape = (30, SHAPE[0], SHAPE[2])

    def read_projections(self, start: int, stop: int) -> np.ndarray:
        return np.full((stop - start, SHAPE[0], SHAPE[2]), 600, np.uint16)

    def dark_field(self, start: int, stop: int) -> np.ndarray:
        return np.full((stop - start, SHAPE[2]), 100, np.float32)

    def flat_field(self, start: int, stop: int) -> np.ndarray:
        return np.full((stop - start, SHAPE[2]), 1100, np.float32)

    def close(self) -> None:
        pass


def make_run(root: Path, text: str = "foam", objects: int = 30, skip: tuple[str, ...] = ()) -> Sources:
    """A run directory as it is when its report is written."""
    run = RunDirectory(root)
    rng = np.random.default_rng(0)
    write_projections(root / "projections", 0, rng.normal(size=(30, SHAPE[0], SHAPE[2])).astype(np.float32))
    layout = SliceLayout(SHAPE, 64)
    for name in ("reconstruction.zarr", "denoised.zarr"):
        create_slices(root / name, layout, "volume", (2.0, 1.0, 1.0), "micrometer")
        write_slices(root / name, layout, 0, rng.normal(size=SHAPE).astype(np.float32))
    labelled = "segment" not in skip
    if labelled:
        with h5py.File(run.labels, "w") as file:
            file["phases"] = rng.integers(0, 3, SHAPE).astype(np.uint8)
            file["objects"] = rng.integers(0, 31, SHAPE).astype(np.uint32)
        columns = "label,voxels,volume_um3,equivalent_diameter_um,sphericity,z_first_voxel,touches_border,neighbours"
        lines = [f"{n},{n * 10},{n * 20.0},{n**0.5},0.9,0,{int(n % 5 == 0)},3" for n in range(1, objects + 1)]
        run.objects_table.write_text("\n".join([columns, *lines]) + "\n")
    outputs = {
        "preprocess": "projections",
        "reconstruct": "reconstruction.zarr",
        "denoise": "denoised.zarr",
        "segment": "phases" if labelled else None,
        "separate_objects": "labels.h5" if labelled else None,
        "quantify": "labels.json",
    }
    run.run_json.write_text(
        json.dumps(
            {
                "format": "tomopipe-run/1",
                "scan_id": text,
                "recipe_id": "0123456789ab",
                "scan": {"shape": [30, SHAPE[0], SHAPE[2]], "metadata": {"sample": text}, "quality": {}, "path": "raw"},
                "request": {"parameters": {}, "skip": list(skip)},
                "plan": {"notes": [f"note {text}"]},
                "software": {"tomopipe": "0", "other": text},
                "resolved": {
                    "pixel_size_um": 1.0,
                    "center_px": 10.2,
                    "center": {
                        "method": "vo",
                        "confidence": 0.9,
                        "estimates_px": {"vo": 10.2, "correlation": 99.0},
                        "curve": {"centers_px": [9.0, 10.0, 11.0], "metric": [2.0, 1.0, 2.0]},
                    },
                    "thresholds": [0.5],
                    "grey_range": [-3.0, 3.0],
                    "notes": [],
                },
                "stages": {
                    stage: {"digest": "", "own": True, "needed": True, "output": output, "slab_rows": 64}
                    for stage, output in outputs.items()
                },
            }
        )
    )
    run.write_receipt("segment", 0, SHAPE[0], {"digest": "", "seconds": 1.5})
    sources = Sources(run)
    sources.__dict__["scan"] = Scan()
    sources.__dict__["correctors"] = [SimpleNamespace(selected=Scan())]
    return sources


def make_sidecar(**changes: Any) -> dict[str, Any]:
    """A sidecar in which every block is filled."""
    edges = [1.0, 2.0, 4.0, 8.0]
    return {
        "format": "tomopipe-metrics/2",
        "scan_id": "foam",
        "recipe_id": "0123456789ab",
        "voxel_size": [2.0, 1.0, 1.0],
        "voxel_unit": "um",
        "attenuation_unit": "1/cm",
        "metrics": {
            "porosity_percent": 20.123456,
            "phase_fraction_percent_1": 20.123456,
            "phase_fraction_percent_2": 79.876544,
            "object_count": 30.0,
            "equivalent_diameter_mean_um": 3.2,
            "thickness_mean_um": 4.0,
            "euler_number": -12.0,
            "percolates_z": 1.0,
            "representative_edge_um": 8.0,
            "surface_area_um2": 1.2345678e7,
            "unheard_of_um": 1.0,
        },
        "intervals": {
            "porosity_percent": {"subvolumes": [19.1, 21.2], "segmentation": [19.9, 20.4]},
            "object_count": {"segmentation": [30.0, 30.0]},
        },
        "histograms": {
            "equivalent_diameter_um": {
                "edges": edges,
                "counts": [3, 20, 7],
                "volume_percent": [1.0, 50.0, 49.0],
                "corrected_counts": [3.1, 22.0, 9.5],
            },
            "thickness_um": {"edges": edges, "volume_percent": [10.0, 60.0, 30.0]},
            "throat_diameter_um": {"edges": edges, "counts": [1, 0, 2]},
            "coordination_number": {"edges": [-0.5, 0.5, 1.5], "counts": [10, 20]},
            "grey_value_per_cm": {"edges": [-1.0, 0.0, 1.0], "counts_phase_1": [5, 1], "counts_phase_2": [0, 9]},
        },
        "profiles": {
            "z_um": [1.0, 3.0, 5.0],
            "phase_fraction_percent_1": [19.0, 20.0, 21.0],
            "grey_mean_per_cm": [0.1, -0.1, 0.2],
        },
        "representative_volume": {
            "edge_um": [2.0, 4.0, 8.0],
            "cubes": [64, 8, 1],
            "porosity_percent_mean": [20.0, 20.1, 20.1],
            "porosity_percent_std": [4.0, 2.0, 0.0],
        },
        "resolution": {
            "frequency_per_um": [0.1, 0.2, 0.3],
            "correlation": [1.0, 0.5, 0.0],
            "threshold": [0.4, 0.4, 0.4],
        },
        "quality": {"resolution_um": 4.6, "saturated_fraction": 2e-5, "warnings": ["look at the slices"]},
        **changes,
    }


def thickness() -> dict[str, np.ndarray]:
    """A map as `write_report` takes it."""
    values = np.zeros(SHAPE[1:], np.float32)
    values[5:9, 5:9] = 4
    values[12, 12] = np.nan
    return {"thickness_um": values}


class Page(HTMLParser):
    """What the tests ask of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = tag

    def handle_data(self, data: str) -> None:
        (self.scripts if self._open == "script" else self.texts).append(data)

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def data(self) -> dict[str, Any]:
        def refuse(text: str) -> float:
            raise AssertionError(text)

        found: dict[str, Any] = json.loads(self.scripts[0], parse_constant=refuse)
        return found

    @property
    def text(self) -> str:
        return "".join(self.texts)


def write(sources: Sources, sidecar: dict[str, Any], **options: Any) -> tuple[str, Page]:
    write_report(sources, sidecar, **options)
    text = sources.run.report.read_text(encoding="utf-8")
    return text, Page(text)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what matplotlib draws, which takes most of the time."""
    monkeypatch.setattr(plots, "static_svg", lambda chart: "<svg></svg>")
    monkeypatch.setattr(plots, "preview_png", lambda chart: b"")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sources, str, Page]:
    sources = make_run(tmp_path_factory.mktemp("run"))
    return sources, *write(sources, make_sidecar(), maps=thickness())


def test_every_part_is_there(full: tuple[Sources, str, Page]) -> None:
    _, text, page = full
    anchors = [attributes["id"] for attributes in page.all("section")]
    assert anchors == [
        "overview", "slices", "structure", "variation", "objects", "metrics", "quality", "detector", "time", "provenance",
    ]  # fmt: skip
    assert [link["href"] for link in page.all("a") if str(link["href"]).startswith("#")] == [f"#{a}" for a in anchors]
    for words in ("Reconstruction", "Denoised", "Phases", "Objects", "Sinogram", "Rotation centre", "Thickness map",
                  "Look at the slices", "Note foam", "Unheard of", "19.1 to 21.2", "19.9 to 20.4", "no change"):  # fmt: skip
        assert words in page.text
    assert '<p class="value">20.1 <span class="unit"> %</span>' in text
    assert ">yes<" in text


def test_charts_have_data_for_the_script_and_a_picture_without_it(full: tuple[Sources, str, Page]) -> None:
    _, text, page = full
    names = [attributes["data-chart"] for attributes in page.all("figure") if "data-chart" in attributes]
    assert set(names) == set(page.data["charts"]) == {
        "equivalent_diameter", "thickness", "throat_diameter", "coordination_number", "grey_values", "profile_z",
        "representative_volume", "fourier_correlation", "rotation_center",
    }  # fmt: skip
    drawn = re.findall(r"<noscript><svg.*?</svg>\s*</noscript>", text, re.DOTALL)
    assert len(drawn) == len(names)
    sizes = page.data["charts"]["equivalent_diameter"]
    assert [view["label"] for view in sizes["views"]] == ["Number", "Volume", "Corrected"]
    assert sizes["views"][0]["series"][0]["values"] == [3, 20, 7]


def test_page_needs_no_network_and_forbids_it(full: tuple[Sources, str, Page]) -> None:
    _, text, page = full
    addresses = [
        str(a[name]) for _, a in page.tags for name in ("src", "href", "xlink:href", "action", "data") if name in a
    ]
    assert {address for address in addresses if not address.startswith(("data:", "#"))} == {"objects.csv"}
    assert not page.all("link")
    assert not re.search(r"@import|url\((?!#)", text)
    assert not re.search(
        r"\b(fetch|XMLHttpRequest|WebSocket|EventSource|sendBeacon|importScripts)\b|\bimport\s*\(", text
    )
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    digest = base64.b64encode(hashlib.sha256(page.scripts[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy
    assert "http" not in policy
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


@pytest.mark.usefixtures("undrawn")
def test_objects_are_the_largest_first(tmp_path: Path) -> None:
    sources = make_run(tmp_path, objects=1234)
    text, page = write(sources, make_sidecar())
    table = page.data["objects"]
    assert [column["name"] for column in table["columns"]] == [
        "label", "volume_um3", "equivalent_diameter_um", "sphericity", "neighbours", "touches_border",
    ]  # fmt: skip
    assert [row[0] for row in table["rows"]] == list(range(1234, 234, -1))
    assert (table["total"], table["border"]) == (1234, 246)
    assert "1\u202f234 objects, 246 of them cut" in page.text
    without_script = re.search(r'<div class="objects"><noscript>(.*?)</noscript>', text, re.DOTALL)
    assert without_script is not None
    assert without_script[1].count("<tr>") == 21


def test_pictures_are_previews_too(full: tuple[Sources, str, Page]) -> None:
    sources, _, page = full
    names = {path.stem for path in sources.run.previews.iterdir()}
    planes = {f"{t}_{p}" for t in ("reconstruction", "denoised", "phases", "objects") for p in ("xy", "xz", "yz")}
    assert names == planes | {"projection", "sinogram", "thickness", "sizes", "profile"}
    for path in sources.run.previews.iterdir():
        assert path.suffix == ".png"
        assert path.stat().st_size < 100_000
        with Image.open(path) as image:
            image.verify()
    assert len(page.all("img")) == len(planes) + 3
    assert all(image["alt"] for image in page.all("img"))


def test_pictures_keep_the_shape_of_the_voxels(full: tuple[Sources, str, Page]) -> None:
    _, text, _ = full
    ratios = re.findall(
        r'data-plane="(..)" style="flex:([\d.]+) 1 0"><div class="frame" style="aspect-ratio:([\d.]+)', text
    )
    found = {plane: (float(grow), float(ratio)) for plane, grow, ratio in ratios}
    assert found == {"xy": (1, 1), "xz": (0.8333, 0.83333), "yz": (0.8333, 0.83333)}


@pytest.mark.usefixtures("undrawn")
def test_projections_that_are_used_are_told_where_they_are_others(tmp_path: Path) -> None:
    sources = make_run(tmp_path)
    of_scan = "30 projections of 12 × 20 pixels"
    _, old = write(sources, make_sidecar())
    assert of_scan in old.text
    assert "reconstructed from" not in old.text
    assert "Projections" not in old.texts
    sources.document["projections"] = {"shape": [30, 12, 20], "theta_deg": [0.0, 174.0]}
    _, same = write(sources, make_sidecar())
    assert "reconstructed from" not in same.text
    sources.document["projections"] = {"shape": [15, 6, 19], "theta_deg": [1.25, 173.5]}
    text, page = write(sources, make_sidecar())
    assert f"<li>{of_scan}</li><li>reconstructed from 15 projections of 6 × 19 pixels</li>" in text
    assert "Projections" in page.texts
    group = text.split("<summary>Projections</summary>")[1].split("</details>")[0]
    assert "<td>theta_deg</td><td><code>[1.25, 173.5]</code></td>" in group


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("of_scan", "used", "field_of_view", "said"),
    [
        ([0.0, 174.0], None, None, None),
        ([0.0, 348.0], None, None, "standard"),
        ([0.0, 348.0], [0.0, 348.0], "standard", "standard"),
        ([0.0, 348.0], [0.0, 168.0], "standard", None),
        ([0.0, 348.0], [0.0, 168.0], "double", "double"),
    ],
)
def test_a_centre_is_given_with_the_field_of_view_of_a_whole_turn(
    tmp_path: Path, of_scan: list[float], used: list[float] | None, field_of_view: str | None, said: str | None
) -> None:
    sources = make_run(tmp_path)
    with h5py.File(sources.run.sample, "w") as file:
        file["trial_centers"], file["trial_slices"] = [9.2, 10.2, 11.2], np.zeros((3, 8, 8), np.float32)
    sources.document["scan"]["theta_deg"] = of_scan
    if used is not None:
        shape = [15 if used != of_scan else 30, SHAPE[0], SHAPE[2]]
        sources.document["projections"] = {"shape": shape, "theta_deg": used}
    if field_of_view is not None:
        sources.document["resolved"]["field_of_view"] = field_of_view
    text, page = write(sources, make_sidecar())
    assert "10.20 (taken)" in page.text
    asked = re.search(r"run again with (.*?)\.</p>", text)
    assert asked is not None
    also = "" if said is None else f" and <code>scan.field_of_view</code> to <code>{said}</code>"
    assert asked[1] == f"<code>reconstruction.center</code> set to it{also}"


@pytest.mark.usefixtures("undrawn")
def test_text_of_others_stays_text(tmp_path: Path) -> None:
    sources = make_run(tmp_path, text=HOSTILE)
    sidecar = make_sidecar(quality={"warnings": [HOSTILE], f"odd_{HOSTILE}": 1.0})
    sidecar["metrics"][f"odd_{HOSTILE}"] = 1.0
    text, page = write(sources, sidecar)
    assert len(page.all("script")) == 2
    assert all(str(image["src"]).startswith("data:") for image in page.all("img"))
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert page.data["scan"] == HOSTILE
    assert HOSTILE not in text
    assert page.text.count(HOSTILE) >= 6


@pytest.mark.parametrize("empty", [True, False], ids=["empty", "missing"])
def test_blocks_that_were_not_measured_leave_no_gap(tmp_path: Path, empty: bool) -> None:
    sources = make_run(tmp_path, skip=("segment", "separate_objects"))
    blocks = ("metrics", "intervals", "histograms", "profiles", "representative_volume", "quality")
    sidecar = {key: value for key, value in make_sidecar().items() if key not in (*blocks, "resolution")}
    if empty:
        sidecar |= {block: {} for block in blocks}
    _, page = write(sources, sidecar, maps={})
    assert [attributes["id"] for attributes in page.all("section")] == [
        "overview", "slices", "quality", "detector", "time", "provenance",
    ]  # fmt: skip
    assert set(page.data["charts"]) == {"rotation_center"}
    assert page.data["objects"] is None
    assert "left out" in page.text


@pytest.mark.usefixtures("undrawn")
def test_every_block_may_be_missing_alone(tmp_path: Path) -> None:
    sources = make_run(tmp_path)
    for block in ("metrics", "intervals", "histograms", "profiles", "representative_volume", "resolution", "quality"):
        sidecar = make_sidecar()
        del sidecar[block]
        write(sources, sidecar, maps=thickness())


def test_nothing_measured_in_what_was_looked_at(tmp_path: Path) -> None:
    sources = make_run(tmp_path, objects=0)
    histograms = {
        "equivalent_diameter_um": {"edges": [], "counts": [], "volume_percent": []},
        "thickness_um": {"edges": [1.0, 2.0], "volume_percent": [0.0]},
        "grey_value_per_cm": {"edges": [0.0, 1.0]},
    }
    profiles = {"z_um": [1.0], "phase_fraction_percent_1": [0.0]}
    sidecar = make_sidecar(histograms=histograms, profiles=profiles)
    _, page = write(sources, sidecar, maps={"thickness_um": np.zeros(SHAPE[1:], np.float32)})
    assert set(page.data["charts"]) == {
        "thickness", "profile_z", "representative_volume", "fourier_correlation", "rotation_center",
    }  # fmt: skip
    assert "Thickness map" not in page.text
    assert page.data["objects"] is None


@pytest.mark.usefixtures("undrawn")
def test_a_number_that_is_none_is_refused(tmp_path: Path) -> None:
    sources = make_run(tmp_path)
    sidecar = make_sidecar()
    sidecar["representative_volume"]["cubes"] = [1.0, float("nan"), 1.0]
    with pytest.raises(ValueError, match="JSON compliant"):
        write_report(sources, sidecar)
    assert not sources.run.report.exists()


def test_the_same_run_gives_the_same_bytes(full: tuple[Sources, str, Page], tmp_path: Path) -> None:
    _, text, _ = full
    again, _ = write(make_run(tmp_path), make_sidecar(), maps=thickness())
    assert again == text


def test_json_stands_safely_in_a_script() -> None:
    content = {"text": HOSTILE + "\u2028<!--", "numbers": [1.5, -2]}
    block = json_block(content)
    assert not set("<>&") & set(block)
    assert json.loads(block) == content
    with pytest.raises(ValueError, match="JSON compliant"):
        json_block([float("inf")])


@pytest.mark.parametrize(
    ("numbers", "texts", "factor"),
    [
        ((19.15551,), ["19.156"], ""),
        ((19.15551, (18.21, 20.1)), ["19.16", "18.21", "20.10"], ""),
        ((19.15551, (17.49, 20.82), (19.104, 19.222)), ["19.16", "17.49", "20.82", "19.10", "19.22"], ""),
        ((268.0,), ["268"], ""),
        ((268.0, (251.3, 284.7), (268.0, 268.0)), ["268", "251", "285", "268", "268"], ""),
        ((-12.0,), ["−12"], ""),
        ((0.0,), ["0"], ""),
        ((0.0, (0.0, 0.0)), ["0", "0", "0"], ""),
        ((-0.0001, (-0.2, 0.2)), ["0.00", "−0.20", "0.20"], ""),
        ((50233905.0,), ["50\u202f233\u202f905"], ""),
        ((1.2345678e7, (1.18e7, 1.26e7)), ["1.235", "1.180", "1.260"], " × 10<sup>7</sup>"),
        ((1.2345678e12,), ["1.2346"], " × 10<sup>12</sup>"),
        ((5.3e-6,), ["5.3000"], " × 10<sup>−6</sup>"),
    ],
)
def test_digits_follow_the_interval(numbers: tuple[Any, ...], texts: list[str], factor: str) -> None:
    assert formatted(*numbers) == (texts, factor)


# The script -------------------------------------------------------------------------------------------------------------


def script(name: str) -> Path:
    return Path(str(importlib.resources.files("tomopipe.functions.quantification").joinpath(name)))


def evaluate(expression: str) -> Any:
    """Value of an expression in which `r` holds what the script exports under node."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed: the report's script cannot be run")
    program = f"const r = require({json.dumps(str(script('report.js')))}); console.log(JSON.stringify({expression}))"
    done = subprocess.run([node, "-e", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_script_and_style_can_stand_in_a_page() -> None:
    assert "</script" not in script("report.js").read_text(encoding="utf-8").lower()
    assert "</style" not in script("report.css").read_text(encoding="utf-8").lower()
    assert "innerHTML" not in script("report.js").read_text(encoding="utf-8")


def test_script_ticks() -> None:
    assert evaluate("r.linearTicks(0, 57, 5)") == [0, 20, 40]
    assert evaluate("r.linearTicks(-0.3, 0.31, 6)") == [-0.2, 0, 0.2]
    assert evaluate("r.linearTicks(3, 3, 5)") == [3]
    assert evaluate("r.logTicks(10, 100, 5)") == [10, 20, 50, 100]
    assert evaluate("r.logTicks(1e-6, 1e6, 5)") == [1e-6, 1e-3, 1, 1e3, 1e6]
    assert evaluate("r.logTicks(21, 39, 5)") == [25, 30, 35]


def test_script_ticks_are_even_and_inside() -> None:
    rng = np.random.default_rng(0)
    lows, widths = rng.normal(0, 1e3, 50), 10 ** rng.uniform(-6, 6, 50)
    ranges = np.column_stack([lows, lows + widths]).tolist()
    made = evaluate(f"{json.dumps(ranges)}.map(([low, high]) => r.linearTicks(low, high, 5))")
    for (low, high), ticks in zip(ranges, made, strict=True):
        assert 2 <= len(ticks) <= 7
        slack = 1e-6 * (high - low)
        assert low - slack <= ticks[0]
        assert ticks[-1] <= high + slack
        np.testing.assert_allclose(np.diff(ticks), np.diff(ticks)[0], rtol=1e-5)


def test_script_scales_go_there_and_back() -> None:
    places = evaluate(
        "[1, 10, 37].flatMap((v) => [false, true].map((log) => {"
        " const scale = r.scaleOf(1, 100, 40, 500, log); return [scale(v), scale.invert(scale(v))]; }))"
    )
    np.testing.assert_allclose([back for _, back in places], [1, 1, 10, 10, 37, 37])
    assert places[0][0] == 40
    np.testing.assert_allclose(places[3][0], 270)


def test_script_numbers() -> None:
    numbers = {"0": "0", "268": "268", "50233905": "50\u202f233\u202f905", "19.15550264": "19.16", "-0.25": "−0.25",
               "1.5e-7": "1.5 × 10⁻⁷", "12345.678": "12\u202f350", "3.2e12": "3.2 × 10¹²"}  # fmt: skip
    assert evaluate(f"[{','.join(numbers)}].map((v) => r.formatNumber(v))") == list(numbers.values())
    assert evaluate("[r.columnDecimals([12.5, 87.14]), r.columnDecimals([1, 2]), r.columnDecimals([1e-9])]") == [
        2,
        0,
        None,
    ]
    assert evaluate("[r.formatFixed(87.1, 2), r.formatFixed(-0.001, 2), r.formatFixed(1e-9, null)]") == [
        "87.10", "0.00", "1 × 10⁻⁹",
    ]  # fmt: skip
    assert evaluate("r.parseTyped('50,5') === 50.5 && r.parseTyped(' ') === null && Number.isNaN(r.parseTyped('x'))")


def test_script_reads_out_what_is_pointed_at(full: tuple[Sources, str, Page]) -> None:
    charts = json.dumps(full[2].data["charts"])
    steps, line = f"({charts}).thickness.views[0]", f"({charts}).representative_volume.views[0]"
    assert evaluate(f"[0, 1, 1.99, 2, 7, 8, 99].map((x) => r.indexAt({steps}, x, true))") == [0, 0, 0, 1, 2, 2, 2]
    assert evaluate(f"[2.7, 2.9, 5.5, 5.8].map((x) => r.indexAt({line}, x, true))") == [0, 1, 1, 2]
    assert evaluate(f"[r.domainOf({steps}, 'x', true), r.domainOf({steps}, 'y', false)]") == [[1, 8], [0, 63.6]]
    low, high = evaluate(f"r.domainOf({line}, 'y', false)")
    assert 10 < low < 16
    assert high > 24
    assert (
        evaluate(
            f"(() => {{ const view = {line}; view.series[0].spread = [40, 2, 0]; return r.domainOf(view, 'y', false)[0] }})()"
        )
        == 0
    )
    profile = f"({charts}).profile_z.views"
    assert evaluate(f"{profile}.map((v) => r.canLog(v, 'y'))") == [True, False]


def test_script_writes_the_values_of_a_plot(full: tuple[Sources, str, Page]) -> None:
    charts = full[2].data["charts"]

    def table(name: str, view: int) -> list[str]:
        chart = json.dumps(charts[name])
        lines: list[str] = evaluate(f"r.csv(r.viewLines({chart}, ({chart}).views[{view}]))").split("\r\n")
        return lines

    assert table("representative_volume", 0) == [
        "edge of the cubes / µm,mean of the cubes / %,standard deviation / %,cubes", "2,20,4,64", "4,20.1,2,8", "8,20.1,0,1", "",
    ]  # fmt: skip
    x = "equivalent diameter / µm"
    assert table("equivalent_diameter", 2)[:2] == [
        f'"{x}, from","{x}, to","objects, corrected for the border"',
        "1,2,3.1",
    ]


def test_script_sorts_and_filters() -> None:
    rows = "[[1, 5, 0], [2, 9, 1], [3, 7, 0], [4, 9, 0]]"
    assert evaluate(f"r.selectRows({rows}, {{}}, 1, true).map((row) => row[0])") == [2, 4, 3, 1]
    assert evaluate(f"r.selectRows({rows}, {{1: [6, null], 2: [0, 0]}}, 0, false).map((row) => row[0])") == [3, 4]
