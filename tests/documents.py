"""A run directory without volumes, from which search documents are made: `run.json` and receipts as the stages leave them."""

from __future__ import annotations

import contextlib
import copy
import datetime
import uuid
from pathlib import Path
from typing import Any

from tomopipe.functions.parameters import STAGES, Parameters, parse_parameters
from tomopipe.functions.quantification.document import search_document
from tomopipe.functions.rundir import RUN_FORMAT, RunDirectory, write_json
from tomopipe.functions.slabs import Sources

SCAN_COLLECTION = "11111111-1111-4111-8111-111111111111"
PROCESSING = "22222222-2222-4222-8222-222222222222"
FLOW = "33333333-3333-4333-8333-333333333333"
RUN = "44444444-4444-4444-8444-444444444444"
START = datetime.datetime(2026, 11, 22, 10, 0, 0, tzinfo=datetime.UTC)

PROVENANCE: dict[str, Any] = {
    "run_id": RUN,
    "flow_id": FLOW,
    "functions_digest": "sha256:" + "0" * 64,
    "transferred_at": "2026-11-22T10:00:00+00:00",
    "inspect_started_at": "2026-11-22T11:00:00.000+00:00",
    "source": {"id": SCAN_COLLECTION, "path": "/2-BM/2026-11/shale.h5"},
    "processing": {"id": PROCESSING, "path": "/TomoProject/2-BM results"},
    "results_url": "https://g-1.data.example.org/2-BM%20results",
}
SIDECAR: dict[str, Any] = {
    "metrics": {"porosity_percent": 21.5, "object_count": 12, "percolates_z": 1.0},
    "intervals": {"porosity_percent": {"subvolumes": [20.5, 22], "segmentation": [21.0, 22.0]}},
    "quality": {"noise_level_per_cm": 0.5, "nonfinite_count": 0, "warnings": ["first warning;", "second warning"]},
}
KINDS_OF_RUN: dict[str, dict[str, Any]] = {
    "service": {},
    "iterative, of a part, joined": {
        "request": {
            "parameters": parse_parameters(
                {
                    "scan": {"binning": 2, "energy_kev": 30, "pixel_size_um": 1.25},
                    "preprocessing": {"phase_retrieval": "paganin", "delta_beta": 1000},
                    "reconstruction": {"algorithm": "sirt"},
                }
            ).model_dump(mode="json")
        },
        "resolved": {"engine": "native", "field_of_view": "double"},
        "projections": {"shape": [90, 16, 50], "theta_deg": [0.0, 179.0]},
        "sidecar": {**SIDECAR, "metrics": {"porosity_percent": 25.0}},
    },
    "no pixel size": {
        "resolved": {"voxel_size_um": None, "pixel_size_um": None},
        "sidecar": {**SIDECAR, "metrics": {"thickness_mean_pixel": 3.5}, "quality": {"warnings": []}},
    },
    "nothing but slices": {
        "request": {"skip": ["denoise", "segment", "separate_objects"]},
        "sidecar": {"metrics": {}, "intervals": {}, "quality": {"warnings": []}},
    },
    "all metadata": {
        "metadata": {
            "pixel_size_um": 1.5, "row_spacing_um": 2.0, "energy_kev": 25.0, "distance_mm": 80.0, "exposure_time_s": 0.5,
            "magnification": 5.0, "sample": "shale", "proposal": "GUP-1", "experimenter": "A. Person", "beamline": "2-BM",
            "start_time": "2026-11-21T08:00:00",
        },
        "sidecar": {**SIDECAR, "metrics": {"porosity_percent": 30.0}},
    },
    "on one machine": {
        "started_s": 90_000.0,
        "sidecar": {**SIDECAR, "metrics": {"porosity_percent": 10.0}},
        "provenance": {"flow_id": str(uuid.UUID(int=0)), "results_url": ""},
    },
    "five phases": {
        "resolved": {"thresholds": [0.1, 0.2, 0.3, 0.4]},
        "sidecar": {
            "metrics": {"phase_fraction_percent_5": 3.0},
            "intervals": {},
            "quality": {"contrast_to_noise_ratio_4_5": 2.0, "phase_5_std_per_pixel": 0.1, "warnings": []},
        },
    },
}  # fmt: skip
"""Changes of a run, by what it is then like."""


def seconds(value: float) -> datetime.datetime:
    """A moment after the start of the run's transfer."""
    return START + datetime.timedelta(seconds=value)


def run_document(**changes: Any) -> dict[str, Any]:
    """Content of a `run.json` of the Globus service; `metadata`, `resolved`, ... are merged into its blocks."""
    parameters = Parameters().model_dump(mode="json")
    document: dict[str, Any] = {
        "format": RUN_FORMAT,
        "scan_id": "shale",
        "recipe_id": "0123456789ab",
        "inspected_at": "2026-11-22T11:00:20.000+00:00",
        "scan": {
            "layout": "data-exchange",
            "shape": [180, 32, 64],
            "dtype": "uint16",
            "theta_deg": [0.0, 179.0],
            "flats": 10,
            "darks": 10,
            "metadata": {"sample": "shale", "energy_kev": 25.0, "start_time": "2026-11-21T08:00:00Z"},
            "quality": {},
            "path": "../raw.h5",
            "checksum": "sha256:" + "1" * 64,
        },
        "request": {"parameters": parameters, "skip": [], "start_from": "segment"},
        "resolved": {
            "center_px": 31.5, "voxel_size_um": [2.0, 1.0, 1.0], "pixel_size_um": 1.0, "thresholds": [0.5], "notes": [],
        },
        "plan": {"slab_rows": 16, "task_rows": 16, "object_blocks": [[0, 32]]},
        "software": {"tomopipe": "0.1.0", "numpy": "2.4.0", "python": "3.11.7", "machine": "x86_64"},
        "stages": {
            stage: {"digest": f"digest of {stage}", "own": True, "needed": True, "output": stage, "slab_rows": 16}
            for stage in STAGES
        },
        "provenance": copy.deepcopy(PROVENANCE),
    }  # fmt: skip
    for name, change in changes.items():
        if name == "metadata":
            document["scan"]["metadata"] = change
        elif isinstance(change, dict) and isinstance(document.get(name), dict):
            document[name] = {**document[name], **change}
        else:
            document[name] = change
    return document


def write_run(root: Path, document: dict[str, Any]) -> RunDirectory:
    """A run directory with this `run.json`, a report and two pictures."""
    run = RunDirectory(root)
    write_json(run.run_json, document)
    run.previews.mkdir(parents=True)
    for path in (run.report, run.previews / "objects_xy.png", run.previews / "sample.png", run.labels):
        path.touch()
    return run


def add_receipt(
    run: RunDirectory, stage: str, rows: tuple[int, int], start_s: float, took_s: float, **more: Any
) -> None:
    """A receipt of work that started at a second and took some."""
    run.write_receipt(
        stage,
        *rows,
        {
            "digest": f"digest of {stage}",
            "started_at": seconds(start_s).isoformat(timespec="milliseconds"),
            "seconds": took_s,
            "host": "x3004c0s7b1n0",
            "process": rows[0],
            "device": {"kind": "cpu", "threads": 2},
            **more,
        },
    )


def make_document(
    root: Path, sidecar: dict[str, Any] = SIDECAR, started_s: float = 4000.0, **changes: Any
) -> dict[str, Any]:
    """The search document of a run without receipts."""
    run = write_run(root, run_document(**changes))
    return document_of(run, sidecar, started_s)


def document_of(run: RunDirectory, sidecar: dict[str, Any] = SIDECAR, started_s: float = 4000.0) -> dict[str, Any]:
    """The search document of a run directory, whose metrics took ten seconds."""
    with contextlib.closing(Sources(run)) as sources:
        return search_document(sources, sidecar, seconds(started_s), seconds(started_s + 10))
