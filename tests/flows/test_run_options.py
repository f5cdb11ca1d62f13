"""Whole runs of other acquisitions and with other methods than the default: to the truth, and to one answer however cut."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from runs import Pipeline, arrays, assert_same_result

from tomopipe.functions.simulation import SimulationSettings, simulate_scan

pytestmark = pytest.mark.slow

HALF_TURN = SimulationSettings(columns=96, rows=24, angles=120, seed=4)
FULL_TURN = SimulationSettings(columns=96, rows=16, angles=300, arc_deg=360, axis_offset_px=31.4, seed=2)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return Pipeline(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def half_turn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate_scan(HALF_TURN, tmp_path_factory.mktemp("scan") / "half.h5")


@pytest.fixture(scope="module")
def full_turn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate_scan(FULL_TURN, tmp_path_factory.mktemp("scan") / "full.h5")


def options(*settings: str) -> list[str]:
    return [part for setting in settings for part in ("--set", setting)]


def test_a_double_field_of_view_is_found_joined_and_measured(
    full_turn: Path, pipeline: Pipeline, tmp_path: Path
) -> None:
    run = pipeline.run(full_turn, tmp_path, "--skip", "denoise")
    document = run.read_run()
    resolved = document["resolved"]
    assert resolved["field_of_view"] == "double"
    assert resolved["center_px"] == pytest.approx(FULL_TURN.center_px, abs=0.1)
    columns = int(2 * FULL_TURN.center_px) + 1
    assert document["projections"]["shape"] == [150, 16, columns]
    assert arrays(run)["phases"].shape == (16, columns, columns)
    found = json.loads(run.metrics.read_text())["metrics"]["porosity_percent"]
    truth = json.loads(full_turn.with_suffix(".truth.json").read_text())["porosity_percent"]
    assert found == pytest.approx(truth, rel=0.05)


def test_a_full_turn_on_axis_is_left_as_it_is(pipeline: Pipeline, tmp_path: Path) -> None:
    scan = simulate_scan(FULL_TURN.model_copy(update={"axis_offset_px": 1.5}), tmp_path / "on_axis.h5")
    resolved = pipeline.run(scan, tmp_path, "--skip", "denoise").read_run()["resolved"]
    assert resolved["field_of_view"] == "standard"
    assert resolved["center_px"] == pytest.approx(49.0, abs=0.1)


@pytest.mark.parametrize(
    "settings",
    [
        ("preprocessing.phase_retrieval=paganin", "preprocessing.delta_beta=20", "scan.distance_mm=5"),
        ("scan.axis_tilt_deg=0.5", "scan.binning=2", "preprocessing.flat_field=interpolated"),
        ("preprocessing.flat_field=dynamic", "preprocessing.stripe_removal=vo_all", "preprocessing.zinger_size=5"),
        ("reconstruction.algorithm=sirt", "reconstruction.iterations=8", "reconstruction.minimum=0"),
    ],
    ids=["phase", "tilted and binned", "dynamic flats", "sirt"],
)
def test_one_answer_however_the_work_is_cut(
    half_turn: Path, pipeline: Pipeline, tmp_path: Path, settings: tuple[str, ...]
) -> None:
    first = pipeline.run(half_turn, tmp_path / "whole", *options(*settings))
    second = pipeline.run(
        half_turn, tmp_path / "cut", *options(*settings, "keep=[]", "reconstruction.chunk_size=3"), "--slab", "8",
        "--workers", "2",
    )  # fmt: skip
    assert_same_result(first, second)
    assert len(list((second.root / "receipts" / "reconstruct").glob("*.json"))) > 1


@pytest.mark.parametrize("algorithm", ["fbp", "gridrec", "sirt", "cgls", "tv", "mlem", "osem"])
def test_every_algorithm_takes_a_scan_to_the_same_porosity(
    half_turn: Path, pipeline: Pipeline, tmp_path: Path, algorithm: str
) -> None:
    run = pipeline.run(half_turn, tmp_path, *options(f"reconstruction.algorithm={algorithm}"))
    found = json.loads(run.metrics.read_text())["metrics"]["porosity_percent"]
    truth = json.loads(half_turn.with_suffix(".truth.json").read_text())["porosity_percent"]
    # Iterations that stop early leave small pores blurred.
    assert found == pytest.approx(truth, rel=0.08), algorithm


def test_a_region_of_the_scan_is_that_part_of_the_volume(half_turn: Path, pipeline: Pipeline, tmp_path: Path) -> None:
    center = "reconstruction.center=49.75"
    whole = pipeline.run(half_turn, tmp_path / "whole", "--skip", "denoise", *options(center))
    part = pipeline.run(half_turn, tmp_path / "part", "--skip", "denoise", *options(center, "scan.rows=[5,17]"))
    # The first and the last row have no neighbours any more by which zingers are told.
    inner = arrays(part)["reconstruction"][1:-1]
    np.testing.assert_array_equal(inner, arrays(whole)["reconstruction"][6:16])


def test_a_centre_that_is_not_sure_is_shown(pipeline: Pipeline, tmp_path: Path) -> None:
    # A sample of air: all that is there to go by is noise.
    scan = simulate_scan(
        HALF_TURN.model_copy(update={"opacity": 0.002, "photons": 200.0, "ring_strength": 0.0}), tmp_path / "faint.h5"
    )
    run = pipeline.run(scan, tmp_path, "--skip", "denoise")
    quality = json.loads(run.metrics.read_text())["quality"]
    assert quality["center_confidence"] < 0.5
    assert any("centre" in warning for warning in quality["warnings"])
    assert (run.previews / "center_trials.png").is_file()
    assert "Which rotation centre?" in run.report.read_text()


def test_bad_options_are_refused_before_anything_starts(half_turn: Path, pipeline: Pipeline, tmp_path: Path) -> None:
    for settings, said in (
        (("scan.rows=[5,400]",), "scan.rows"),
        (("scan.columns=[5]",), "scan.columns"),
        (("scan.binning=3",), "scan.binning"),
        (("scan.excluded_angles_deg=[[0, 190]]",), "scan.excluded_angles_deg"),
        (("preprocessing.phase_retrieval=paganin",), "delta_beta"),
        (("preprocessing.bad_pixel_map=/nowhere/map.npy",), "bad_pixel_map"),
        (("preprocessing.beam_hardening=[1,-1]",), "beam_hardening"),
        (("reconstruction.algorithm=lprec",), "reconstruction.algorithm=lprec"),
        (("reconstruction.engine=tomocupy",), "tomocupy"),
        (("reconstruction.minimum=2", "reconstruction.maximum=1"), "reconstruction.minimum"),
        (("reconstruction.algorithm=cgls", "reconstruction.minimum=0"), "cgls"),
        (("reconstruction.algorithm=mlem", "reconstruction.projector=fourier"), "projector"),
        (("preprocessing.zinger_size=5", "preprocessing.zinger_neighborhood=stack"), "zinger_size"),
        (("scan.field_of_view=double",), "360"),
    ):
        done = pipeline("run", half_turn, "--output", tmp_path / "refused", *options(*settings))
        assert done.returncode == 2, (settings, done.stderr)
        assert said in done.stderr, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not (tmp_path / "refused").exists()


def test_iterative_methods_keep_grey_values_of_a_sample_inside_the_field_of_view(
    half_turn: Path, pipeline: Pipeline, tmp_path: Path
) -> None:
    center = "reconstruction.center=49.75"
    direct = pipeline.run(half_turn, tmp_path / "direct", "--skip", "denoise", *options(center))
    run = pipeline.run(
        half_turn, tmp_path / "sirt", "--skip", "denoise", *options(center, "reconstruction.algorithm=sirt")
    )
    assert run.read_run()["resolved"]["padding"] == "zero"
    found, expected = (arrays(each)["reconstruction"] for each in (run, direct))
    axis = np.arange(96) - 47.5
    disc = axis[:, None] ** 2 + axis**2 < (0.95 * 48) ** 2
    assert found[:, disc].mean() == pytest.approx(expected[:, disc].mean(), rel=0.02)
