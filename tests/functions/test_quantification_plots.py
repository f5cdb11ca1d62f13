"""Charts: which a run has data for, and what matplotlib draws of them."""

from __future__ import annotations

import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from tomopipe.functions.quantification.plots import Chart, Mark, Series, View, charts_of, preview_png, static_svg


def chart(**changes: object) -> Chart:
    steps = View("Number", [1, 2, 4], "objects", "", (Series("objects", [3, 5], "steps"),), from_zero=True)
    line = View(
        "Mean", [1, 2, 4], "mean", "%", (Series("mean", [3, 5, 4], spread=[1, 1, 0]), Series("n", [1, 2, 3], "hidden"))
    )
    settings = {"views": (steps, line), "marks": (Mark(1.5, "mean <1.5>"),), "log_x": True, **changes}
    return Chart("sizes", "Sizes", "Of objects.", "diameter", "µm", **settings)  # type: ignore[arg-type]


def test_svg_is_well_formed_and_keeps_the_colour_of_the_page() -> None:
    text = static_svg(chart())
    root = ElementTree.fromstring(text)
    words = " ".join(text for text in root.itertext() if text.strip())
    for expected in ("objects", "mean / %", "diameter / µm", "mean <1.5>"):
        assert expected in words
    assert "currentColor" in text
    assert "metadata" not in text
    assert not re.search(r'(href|src)="(?!#)', text)


def test_svg_is_the_same_every_time() -> None:
    assert static_svg(chart()) == static_svg(chart())


def test_preview_is_a_small_picture_of_the_first_view() -> None:
    with Image.open(io.BytesIO(preview_png(chart()))) as image:
        assert image.size == (540, 280)
    assert preview_png(chart()) == preview_png(chart(views=chart().views[:1]))


@pytest.mark.parametrize("values", [[0, 0], [1, 0], [1e9, 1]])
def test_any_values_are_drawn(values: list[float]) -> None:
    view = View("Number", [1, 2, 4], "objects", "", (Series("objects", values, "steps"),), from_zero=True)
    ElementTree.fromstring(static_svg(chart(views=(view,))))


def test_no_data_gives_no_charts() -> None:
    assert charts_of({"voxel_unit": "um"}, {}) == {}
    blocks = ("metrics", "histograms", "profiles", "representative_volume", "resolution", "quality")
    assert charts_of({"voxel_unit": "pixel", **{block: {} for block in blocks}}, {"thresholds": None}) == {}


def test_values_that_do_not_fit_together_are_left_out() -> None:
    histograms = {"equivalent_diameter_um": {"edges": [1, 2, 4], "counts": [1], "volume_percent": [30, 70]}}
    profiles = {"z_um": [1, 2], "phase_fraction_percent_1": [1, 2, 3]}
    charts = charts_of({"voxel_unit": "um", "histograms": histograms, "profiles": profiles}, {})
    assert [view.label for view in charts["equivalent_diameter"].views] == ["Volume"]
    assert "profile_z" not in charts


def test_charts_name_units_and_marks() -> None:
    sidecar = {
        "voxel_unit": "pixel",
        "attenuation_unit": "1/pixel",
        "metrics": {"equivalent_diameter_mean_pixel": 3.14159},
        "histograms": {
            "equivalent_diameter_pixel": {"edges": [1, 10], "counts": [4]},
            "grey_value_per_pixel": {"edges": [0, 1, 2], "counts_phase_1": [1, 0], "counts_phase_7": [0, 1]},
        },
        "resolution": {"frequency_per_pixel": [0.1, 0.2], "correlation": [1, 0]},
        "quality": {"resolution_pixel": 4.0},
    }
    charts = charts_of(sidecar, {"thresholds": [1.0]})
    assert charts["equivalent_diameter"].x_unit == "pixel"
    assert charts["equivalent_diameter"].marks == (Mark(3.14159, "mean 3.142 pixel", "ink"),)
    grey = charts["grey_values"]
    assert grey.x_unit == "pixel⁻¹"
    assert [series.color for series in grey.views[0].series] == ["phase1", "phase2"]
    assert charts["fourier_correlation"].marks == (Mark(0.25, "4 pixel"),)


def test_marks_outside_the_candidates_are_left_out() -> None:
    center = {
        "method": "vo",
        "confidence": 1.0,
        "estimates_px": {"vo": 10.0, "correlation": 50.0},
        "curve": {"centers_px": [9, 10, 11], "metric": [2, 1, 2]},
    }
    made = charts_of({"voxel_unit": "um"}, {"center": center, "center_px": 10.0})["rotation_center"]
    assert [mark.label for mark in made.marks] == ["taken: 10", "vo: 10.00"]
    center["curve"] = {"centers_px": [], "metric": []}
    assert charts_of({"voxel_unit": "um"}, {"center": center, "center_px": 10.0}) == {}


def test_content_holds_plain_numbers() -> None:
    view = View("A", np.array([1, 2], np.float32), "a", "", (Series("a", np.array([1, 1 / 3])),))  # type: ignore[arg-type]
    content = chart(views=(view,)).content()
    assert content["views"][0]["series"][0] == {
        "name": "a", "kind": "line", "color": "accent", "values": [1.0, 0.3333333], "spread": [],
    }  # fmt: skip
    assert content["x"] == {"label": "diameter", "unit": "µm", "log": True, "whole": False}


@pytest.mark.parametrize("edges", [[0, 1, 2, 3], [-0.5, 0.5, 1.5, 2.5]])
def test_bins_of_whole_numbers_lie_around_them(edges: list[float]) -> None:
    histograms = {"coordination_number": {"edges": edges, "counts": [5, 1, 2]}}
    made = charts_of({"voxel_unit": "um", "histograms": histograms}, {})["coordination_number"]
    assert list(made.views[0].x) == [-0.5, 0.5, 1.5, 2.5]
    assert made.whole
