"""The whole run on one machine: from a raw scan to metrics in the index, through the command that a user types."""

from __future__ import annotations

import csv
import json
import re
import shutil
import signal
import time
from html.parser import HTMLParser
from pathlib import Path

import h5py
import jsonschema
import numpy as np
import pytest
from runs import Pipeline, arrays, assert_same_result

from tomopipe.functions.object_tasks import find_objects_task, prepare_objects_task
from tomopipe.functions.quantification.document_schema import document_schema
from tomopipe.functions.quantification.provenance import TIMED_STAGES
from tomopipe.functions.rundir import RunDirectory, write_json
from tomopipe.functions.simulation import SimulationSettings, simulate_scan
from tomopipe.functions.simulation.comparison import compare_with_truth

SETTINGS = SimulationSettings(columns=96, rows=40, angles=140, n_flats=6, n_darks=4, inclusion_radius_px=5.0, seed=3)


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate_scan(SETTINGS, tmp_path_factory.mktemp("scan") / "foam.h5")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return Pipeline(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def finished(scan: Path, pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return pipeline.run(scan, tmp_path_factory.mktemp("results"), "--slab", 16)


def test_metrics_agree_with_the_truth(finished: RunDirectory, scan: Path) -> None:
    truth = json.loads(scan.with_suffix(".truth.json").read_text())
    compared = {name: (measured, true) for name, measured, true in compare_with_truth(finished, truth)}
    assert compared["center_px"][0] == pytest.approx(compared["center_px"][1], abs=0.25)
    assert compared["phase_fraction_percent"][0] == pytest.approx(compared["phase_fraction_percent"][1], abs=1.0)
    assert compared["surface_area_um2"][0] == pytest.approx(compared["surface_area_um2"][1], rel=0.06)
    assert compared["equivalent_diameter_mean_um"][0] == pytest.approx(
        compared["equivalent_diameter_mean_um"][1], rel=0.06
    )
    assert compared["object_count"][0] == pytest.approx(compared["object_count"][1], rel=0.15)


def test_run_directory_is_as_documented(finished: RunDirectory) -> None:
    names = {path.name for path in finished.root.iterdir()}
    assert {
        "run.json", "projections", "projections.h5", "reconstruction.zarr", "denoised.zarr", "phases", "labels.h5",
        "labels.json", "objects.csv", "contacts.csv", "report.html", "previews", "receipts", "sample.h5",
    } == names  # fmt: skip
    receipts = sorted(path.name for path in (finished.root / "receipts" / "reconstruct").iterdir())
    assert receipts == ["000000-000016.json", "000016-000032.json", "000032-000040.json"]
    run = finished.read_run()
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", run["scan"]["checksum"])
    assert (finished.root / run["scan"]["path"]).is_file()


def test_report_is_one_file_that_needs_no_network(finished: RunDirectory) -> None:
    page = finished.report.read_text()
    outside: list[str] = []

    class Collector(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            outside.extend(
                value
                for name, value in attributes
                if name in ("src", "href") and value and not value.startswith(("data:", "#"))
            )

    Collector().feed(page)
    assert set(outside) <= {"objects.csv"}
    for words in ("Reconstruction", "Denoised", "Phases", "Objects", "Rotation centre", "Porosity", "Sinogram"):
        assert words in page
    assert {path.suffix for path in finished.previews.iterdir()} == {".png"}


def test_metrics_hold_no_nan_and_name_their_units(finished: RunDirectory) -> None:
    def refuse(text: str) -> float:
        raise AssertionError(text)

    sidecar = json.loads(finished.metrics.read_text(), parse_constant=refuse)
    assert sidecar["metrics"]["porosity_percent"] > 0
    assert all(isinstance(value, float) for value in sidecar["metrics"].values())
    assert None not in sidecar["quality"].values()


def test_metrics_are_what_the_published_schema_says(finished: RunDirectory) -> None:
    schema = json.loads((Path(__file__).parents[2] / "docs/reference/tomopipe-metrics-2.schema.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    sidecar = json.loads(finished.metrics.read_text())
    validator.validate(sidecar)
    # It is strict: another name, a NaN's stand-in, an interval of one end.
    for block, name, value in (
        ("metrics", "porosity", 1.0),
        ("metrics", "porosity_percent", None),
        ("intervals", "porosity_percent", {"subvolumes": [1.0]}),
        ("quality", "warnings", "none"),
    ):
        broken = {**sidecar, block: {**sidecar[block], name: value}}
        assert not validator.is_valid(broken), (block, name)


def test_metrics_carry_what_makes_them_trusted(finished: RunDirectory) -> None:
    sidecar = json.loads(finished.metrics.read_text())
    metrics, intervals = sidecar["metrics"], sidecar["intervals"]
    for name in ("porosity_percent", "specific_surface_per_um", "thickness_mean_um", "equivalent_diameter_mean_um"):
        for low, high in intervals[name].values():
            assert low <= metrics[name] <= high, name
    assert {"subvolumes", "segmentation"} == set(intervals["porosity_percent"])
    assert metrics["porosity_open_percent"] + metrics["porosity_closed_percent"] == pytest.approx(
        metrics["porosity_percent"]
    )
    assert metrics["betti_number_0"] - metrics["betti_number_1"] + metrics["betti_number_2"] == metrics["euler_number"]
    assert sidecar["voxel_size"] == [3.0, 3.0, 3.0]
    assert len(sidecar["profiles"]["z_um"]) == 40
    assert sidecar["quality"]["resolution_um"] >= 6.0
    assert {"ring_level_per_cm", "uncertain_percent", "clipped_fraction"} <= set(sidecar["quality"])


def test_tables_of_objects_agree_with_the_labels(finished: RunDirectory) -> None:
    labels = arrays(finished)["objects"]
    with finished.objects_table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["voxels"]) for row in rows] == np.bincount(labels.ravel())[1:].tolist()
    receipt = json.loads(finished.receipt_path("separate_objects", 0, 40).read_text())
    assert receipt["objects"] == len(rows)
    assert set(receipt["step_seconds"]) == {"prepare_objects", "find_objects", "join_objects", "label_objects"}
    assert not finished.objects_work.exists()


@pytest.mark.slow
def test_objects_resume_where_they_were_killed_and_start_anew_where_cut_otherwise(
    finished: RunDirectory, scan: Path, pipeline: Pipeline, tmp_path: Path
) -> None:
    results = shutil.copytree(finished.root.parents[1], tmp_path / "results")
    run = RunDirectory(results / finished.root.parent.name / finished.root.name)
    digest = run.read_run()["stages"]["separate_objects"]["digest"]
    for left_over in ("half done", "cut otherwise"):
        run.receipt_path("separate_objects", 0, 40).unlink()
        run.receipt_path("quantify", 0, 40).unlink()
        for path in (run.labels, run.objects_table, run.contacts_table, run.metrics):
            path.unlink()
        prepare_objects_task(str(run.root), {})
        if left_over == "half done":
            find_objects_task(str(run.root), 0, 40)
        else:
            work = RunDirectory(run.objects_work)
            write_json(work.root / "blocks.json", {"digest": digest, "blocks": [[0, 24], [24, 40]]})
            for step in ("prepare_objects", "join_objects"):
                work.write_receipt(step, 0, 40, {"digest": digest})
        assert pipeline.run(scan, results, "--slab", 16) == run
        assert_same_result(finished, run)
        assert not run.objects_work.exists()


@pytest.mark.slow
def test_voxels_that_are_no_cubes_are_measured_as_they_are(
    finished: RunDirectory, scan: Path, pipeline: Pipeline, tmp_path: Path
) -> None:
    run = pipeline.run(scan, tmp_path, "--set", "scan.row_spacing_um=6", "--set", "quantification.intervals=false")
    flat, cubes = (json.loads(one.metrics.read_text()) for one in (run, finished))
    assert flat["voxel_size"] == [6.0, 3.0, 3.0]
    assert flat["metrics"]["region_volume_um3"] == pytest.approx(2 * cubes["metrics"]["region_volume_um3"])
    assert flat["metrics"]["porosity_percent"] == cubes["metrics"]["porosity_percent"]
    # Spheres become ellipsoids twice as long as wide: 1.71 times the surface.
    assert flat["metrics"]["surface_area_um2"] == pytest.approx(1.71 * cubes["metrics"]["surface_area_um2"], rel=0.03)
    with run.objects_table.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["touches_border"] == "0"]
    assert rows
    assert np.mean([abs(float(row["orientation_z"])) > 0.98 for row in rows]) > 0.9
    multiscale = json.loads((run.root / "reconstruction.zarr" / "zarr.json").read_text())["attributes"]["ome"]
    first = multiscale["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]
    assert first["scale"] == [6.0, 3.0, 3.0]


@pytest.mark.slow
def test_what_is_lost_of_the_objects_is_made_again(
    finished: RunDirectory, scan: Path, pipeline: Pipeline, tmp_path: Path
) -> None:
    results = shutil.copytree(finished.root.parents[1], tmp_path / "results")
    # Another recipe that takes its objects from the first, and a folder that a start has left which was killed too late.
    options = ("--set", "quantification.thickness=false")
    other = pipeline.run(scan, results, *options)
    files = (other.labels, other.objects_table, other.contacts_table)
    contents = [file.read_bytes() for file in files]
    for file in files:
        file.unlink()
    (other.objects_work / "pieces").mkdir(parents=True)
    assert pipeline.run(scan, results, *options) == other
    assert [file.read_bytes() for file in files] == contents
    assert not other.objects_work.exists()


def test_runs_are_compared(finished: RunDirectory, scan: Path, pipeline: Pipeline, tmp_path: Path) -> None:
    options = ("--set", "segmentation.method=fixed", "--set", "segmentation.thresholds=[20.0]")
    other = pipeline.run(scan, finished.root.parents[1], *options)
    page = tmp_path / "comparison.html"
    done = pipeline("compare", finished.root, other.root, "--html", page, "--json")
    assert done.returncode == 0, done.stderr
    compared = json.loads(done.stdout)
    assert compared["parameters"]["segmentation.thresholds"] == [None, [20.0]]
    assert set(compared["parameters"]) >= {"segmentation.method", "resolved.thresholds"}
    first, second = (json.loads(run.metrics.read_text())["metrics"]["porosity_percent"] for run in (finished, other))
    assert compared["metrics"]["porosity_percent"]["values"] == [first, second]
    assert page.read_text().count("data:image/png") >= 8
    assert pipeline("compare", finished.root, "no such run").returncode == 2


def test_the_store_knows_the_run(finished: RunDirectory, pipeline: Pipeline) -> None:
    runs = json.loads(pipeline("runs", "--json").stdout)
    ours = next(run for run in runs if run["run_directory"] == str(finished.root))
    assert ours["status"] == "SUCCEEDED"
    status = pipeline("status", ours["run_id"][:8])
    assert "PublishMetrics" in status.stdout
    assert pipeline("status", "foam").returncode == 0
    log = pipeline("log", ours["run_id"])
    assert "FlowSucceeded" in log.stdout
    report = pipeline("report", ours["run_id"])
    assert report.stdout.strip() == str(finished.report)
    found = json.loads(pipeline("search", "porosity > 1 and status:succeeded", "--json").stdout)
    assert any(hit["subject"].endswith(f"foam/{finished.root.name}") for hit in found)
    assert json.loads(pipeline("search", "porosity > 99", "--json").stdout) == []
    assert pipeline("status", "nonsense").returncode == 2


def test_the_same_command_again_does_nothing_twice(finished: RunDirectory, scan: Path, pipeline: Pipeline) -> None:
    receipts = {path: path.read_bytes() for path in finished.root.glob("receipts/*/*.json")}
    assert pipeline.run(scan, finished.root.parents[1], "--slab", 8) == finished
    assert {path: path.read_bytes() for path in finished.root.glob("receipts/*/*.json")} == receipts


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [("--slab", 8), ("--slab", 40), ("--slab", 16, "--workers", 2), ("--slab", 24, "--memory", "400M")],
    ids=["slab8", "slab40", "two-workers", "little-memory"],
)
def test_numbers_do_not_depend_on_the_cut(
    finished: RunDirectory, scan: Path, pipeline: Pipeline, tmp_path: Path, options: tuple[object, ...]
) -> None:
    assert_same_result(finished, pipeline.run(scan, tmp_path, *options))


@pytest.mark.slow
def test_numbers_do_not_depend_on_what_is_kept(
    finished: RunDirectory, scan: Path, pipeline: Pipeline, tmp_path: Path
) -> None:
    lean = pipeline.run(scan, tmp_path, "--set", "keep=[]")
    assert not (lean.root / "projections").exists()
    assert not (lean.root / "denoised.zarr").exists()
    assert_same_result(finished, lean)


def test_another_centre_reuses_what_came_before(finished: RunDirectory, scan: Path, pipeline: Pipeline) -> None:
    results = finished.root.parents[1]
    moved = pipeline.run(scan, results, "--from", "reconstruct", "--set", "reconstruction.center=47.0")
    assert moved.root.parent == finished.root.parent
    assert moved.root != finished.root
    entry = moved.read_run()["stages"]["preprocess"]
    assert entry["output"] == f"../{finished.root.name}/projections"
    assert not moved.receipts("preprocess")
    assert not np.array_equal(arrays(moved)["reconstruction"], arrays(finished)["reconstruction"])


def test_from_refuses_to_compute_what_comes_before(scan: Path, pipeline: Pipeline, tmp_path: Path) -> None:
    done = pipeline("run", scan, "--output", tmp_path, "--from", "segment")
    assert done.returncode == 2
    assert "no earlier run to start from" in done.stderr
    pipeline.run(scan, tmp_path, "--skip", "segment", "--set", "keep=[]")
    for options in (["--from", "segment"], ["--from", "reconstruct", "--set", "keep=[denoised]"]):
        done = pipeline("run", scan, "--output", tmp_path, *options)
        assert done.returncode == 1
        assert "needs the output of preprocess" in done.stderr


def test_stages_can_be_left_out(scan: Path, pipeline: Pipeline, tmp_path: Path) -> None:
    run = pipeline.run(scan, tmp_path, "--skip", "denoise", "--skip", "separate_objects")
    assert not (run.root / "denoised.zarr").exists()
    with h5py.File(run.labels) as file:
        assert list(file) == ["phases"]
    metrics = json.loads(run.metrics.read_text())["metrics"]
    assert "object_count" not in metrics
    assert "porosity_percent" in metrics


def test_without_segmentation_there_is_still_a_report(scan: Path, pipeline: Pipeline, tmp_path: Path) -> None:
    run = pipeline.run(scan, tmp_path, "--skip", "segment")
    assert json.loads(run.metrics.read_text())["metrics"] == {}
    assert not run.labels.exists()
    assert "Reconstruction" in run.report.read_text()


def test_results_are_copied_where_asked(scan: Path, pipeline: Pipeline, tmp_path: Path) -> None:
    run = pipeline.run(scan, tmp_path / "results", "--skip", "denoise", "--copy-to", tmp_path / "share")
    copy = RunDirectory(tmp_path / "share" / run.root.relative_to(tmp_path / "results"))
    assert copy.metrics.read_bytes() == run.metrics.read_bytes()
    assert copy.report.is_file()


def test_a_failed_stage_fails_the_run_and_is_searchable(scan: Path, pipeline: Pipeline, tmp_path: Path) -> None:
    options = ("--set", "reconstruction.filter=hann", "--set", "reconstruction.center=48.0")
    run = pipeline.run(scan, tmp_path, "--slab", 16, *options)
    (run.root / "projections" / "000016-000032.h5").write_bytes(b"damaged")
    for receipt in (run.root / "receipts" / "reconstruct").iterdir():
        receipt.unlink()
    failed = pipeline("run", scan, "--output", tmp_path, *options)
    assert failed.returncode == 1
    assert "Traceback" not in failed.stderr
    for words in ("reconstruct, rows 16 to 32", "000016-000032.h5"):
        assert words in failed.stderr
    assert len(run.receipts("reconstruct")) == 2, "the other slabs are kept"
    (hit,) = json.loads(pipeline("search", f"status:failed and {tmp_path.name}", "--json").stdout)[:1]
    assert hit["content"]["failure"]["stage"] == "Reconstruct"
    assert "000016-000032.h5" in hit["content"]["failure"]["cause"]


def test_outputs_that_were_deleted_are_made_again(scan: Path, pipeline: Pipeline, tmp_path: Path) -> None:
    run = pipeline.run(scan, tmp_path, "--slab", 16)
    before = arrays(run)
    (run.root / "projections" / "000016-000032.h5").unlink()
    (run.root / "phases" / "000000-000016.h5").unlink()
    shutil.rmtree(run.root / "reconstruction.zarr")
    shutil.rmtree(run.root / "denoised.zarr" / "0" / "c" / "1")
    run.objects_table.unlink()
    run.report.unlink()
    assert pipeline.run(scan, tmp_path) == run
    after = arrays(run)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert run.report.is_file()


def test_only_the_metrics_anew(finished: RunDirectory, scan: Path, pipeline: Pipeline) -> None:
    results = finished.root.parents[1]
    again = pipeline.run(scan, results, "--from", "quantify", "--set", "quantification.tortuosity=false")
    assert again.root != finished.root
    assert again.labels.read_bytes() == finished.labels.read_bytes()
    assert again.objects_table.read_bytes() == finished.objects_table.read_bytes()
    metrics, before = (json.loads(run.metrics.read_text())["metrics"] for run in (again, finished))
    assert set(before) - set(metrics) == {"tortuosity_binning_factor"}


def test_intermediates_that_are_there_are_used_even_where_none_are_kept(
    finished: RunDirectory, scan: Path, pipeline: Pipeline
) -> None:
    receipts = {path: path.read_bytes() for path in finished.root.glob("receipts/*/*.json")}
    assert pipeline.run(scan, finished.root.parents[1], "--set", "keep=[]") == finished
    assert finished.read_run()["stages"]["preprocess"]["output"] == "projections"
    assert {path: path.read_bytes() for path in finished.root.glob("receipts/*/*.json")} == receipts


def test_the_search_document_is_small(finished: RunDirectory) -> None:
    (receipt,) = finished.receipts("quantify")
    assert len(json.dumps(receipt["result"])) < 16_000


def test_the_search_document_leads_to_report_and_pictures(finished: RunDirectory) -> None:
    (receipt,) = finished.receipts("quantify")
    document = receipt["result"]["document"]
    links = document["links"]
    assert "previews/objects_xy.png" in links["previews"]
    assert all((finished.root / name).is_file() for name in [links["report"], *links["previews"]])
    low, high = (document["intervals"][f"porosity_percent_{end}"] for end in ("low", "high"))
    assert low <= document["metrics"]["porosity_percent"] <= high


def test_the_search_document_is_of_its_schema_and_tells_when_each_stage_worked(finished: RunDirectory) -> None:
    (receipt,) = finished.receipts("quantify")
    document = receipt["result"]["document"]
    jsonschema.Draft202012Validator(document_schema()).validate(document)
    times = document["provenance"]
    assert all(times[f"run_s_{stage}"] > 0 and times[f"wait_s_{stage}"] >= 0 for stage in TIMED_STAGES)
    parts = sum(times[f"{kind}_s_{stage}"] for kind in ("wait", "run") for stage in TIMED_STAGES)
    # Inspect prepares files after it has noted its end, and clocks are kept to the millisecond.
    assert parts == pytest.approx(times["elapsed_s"], abs=1.5)
    # Three slabs, and the steps of SeparateObjects beside itself.
    assert times["slabs_reconstruct"] == 3.0
    assert times["slabs_separate_objects"] == 5.0
    assert "reused" not in times


def test_the_search_document_names_what_it_did_not_do_itself(
    finished: RunDirectory, scan: Path, pipeline: Pipeline
) -> None:
    again = pipeline.run(scan, finished.root.parents[1], "--set", "quantification.thickness=false")
    (receipt,) = again.receipts("quantify")
    times = receipt["result"]["document"]["provenance"]
    assert times["reused"] == "preprocess reconstruct denoise segment separate_objects"
    assert "run_s_reconstruct" not in times
    found = json.loads(pipeline("search", "sample:foam", "porosity > 5", "run_s_quantify > 0", "--json").stdout)
    assert {again.root.name, finished.root.name} <= {hit["content"]["recipe_id"] for hit in found}


def test_dry_run_starts_nothing(scan: Path, pipeline: Pipeline, tmp_path: Path) -> None:
    done = pipeline("run", scan, "--output", tmp_path / "new", "--dry-run", "--json")
    plan = json.loads(done.stdout)
    assert plan["stages"].startswith("Preprocess Reconstruct")
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_stops_in_order_and_says_how_to_resume(
    scan: Path, finished: RunDirectory, pipeline: Pipeline, tmp_path: Path, workers: int
) -> None:
    process = pipeline.start("run", scan, "--output", tmp_path, "--slab", 8, "--workers", workers)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("foam/*/receipts/denoise/*.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert "resume with: tomopipe run" in said
    assert_same_result(finished, pipeline.run(scan, tmp_path))


@pytest.mark.slow
def test_real_tooth_runs_to_metrics(real_scan, pipeline: Pipeline, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    run = pipeline.run(real_scan("tooth.h5"), tmp_path)
    assert 295.0 <= run.read_run()["resolved"]["center_px"] <= 296.5
    assert json.loads(run.metrics.read_text())["metrics"]["phase_fraction_percent_2"] > 10
