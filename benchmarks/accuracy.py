"""Runs the pipeline on simulated scans and writes how its numbers agree with the analytic truth.

Writes `docs/reference/accuracy.md` and `benchmarks/results/accuracy.json`.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tomopipe.flows.local.run import LocalRequest, check_run, start_run
from tomopipe.functions.parameters import parse_parameters
from tomopipe.functions.rundir import RunDirectory
from tomopipe.functions.simulation import SimulationSettings, rasterize_attenuation, simulate_scan
from tomopipe.functions.simulation.comparison import compare_with_truth
from tomopipe.functions.slabs import Sources

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Case:
    """A simulated scan, and how its objects are told apart where that is not the default."""

    name: str
    settings: dict[str, Any]
    objects: dict[str, Any]


def cases() -> list[Case]:
    """Each phantom as the demo's detector sees it; the foam also at less dose, at 360 degrees, and far off centre."""
    small = {"columns": 160, "rows": 128, "angles": 240, "seed": 11}
    return [
        Case("foam", small, {}),
        Case("foam, 2000 photons", {**small, "photons": 2000}, {}),
        Case("foam, 360 degrees", {**small, "arc_deg": 360, "angles": 360}, {}),
        Case("foam, axis 9.7 pixels off", {**small, "axis_offset_px": 9.7, "region_fraction": 0.8}, {}),
        Case("channels", {**small, "phantom": "channels"}, {"method": "components"}),
        Case("packed spheres", {**small, "phantom": "spheres"}, {}),
        Case("fibres", {**small, "phantom": "fibres"}, {"method": "components"}),
        Case("foam, 256 wide", {"columns": 256, "rows": 192, "angles": 400, "seed": 12}, {}),
    ]


def measure(case: Case, folder: Path) -> list[tuple[str, float, float]]:
    """Quantities of one case: measured and true."""
    settings = SimulationSettings(**case.settings)
    scan = simulate_scan(settings, folder / f"{case.name.replace(' ', '_').replace(',', '')}.h5")
    truth = json.loads(scan.with_suffix(".truth.json").read_text(encoding="utf-8"))
    phases = {"segmentation": {"phases": max(phase["label"] for phase in truth["phases"])}}
    objects = {"objects": {"phase": truth["inclusion_phase"], **case.objects}}
    parameters = parse_parameters({**phases, **objects})
    result = start_run(check_run(LocalRequest(scan, folder / "results", parameters)))
    if result.outcome.status != "SUCCEEDED" or result.run_directory is None:
        raise RuntimeError(f"{case.name}: {result.outcome.error}: {result.outcome.cause}")
    rows = compare_with_truth(result.run_directory, truth)
    return [*rows, *_reconstruction_error(result.run_directory, settings)]


def _reconstruction_error(run: RunDirectory, settings: SimulationSettings) -> list[tuple[str, float, float]]:
    """RMSE and mean inside 0.95 of the disc over the middle rows, in 1/cm, beside the truth's mean."""
    sources = Sources(run)
    middle = slice(settings.rows // 2 - 8, settings.rows // 2 + 8)
    truth = rasterize_attenuation(settings.make_phantom(), middle.start, middle.stop)
    axis = np.arange(settings.columns) - (settings.columns - 1) / 2
    disc = axis[:, None] ** 2 + axis**2 <= (0.95 * settings.columns / 2) ** 2
    rows = []
    for name, volume in (("reconstruction", sources.reconstruction()), ("denoised", sources.denoised())):
        values = np.asarray(volume[middle])[:, disc].astype(np.float64)
        error = values - truth[:, disc]
        rows.append((f"{name}_rmse_per_cm", float(np.sqrt(np.mean(error**2))), 0.0))
        rows.append((f"{name}_mean_per_cm", float(values.mean()), float(truth[:, disc].mean())))
    return rows


def table(results: dict[str, list[tuple[str, float, float]]]) -> str:
    """The results as a page of the documentation."""
    lines = [
        "# Accuracy",
        "",
        "What a run with default parameters measures on simulated scans, beside the analytic truth. Made by",
        "`make accuracy` (`benchmarks/accuracy.py`); the scans have photon noise, dark current, uneven flats, rings and",
        "zingers, and come from analytic line integrals, not from a voxel volume. 160 x 128 pixels and 240 projections",
        "unless said, 3 µm pixels, 20 000 photons a pixel.",
        "",
        "Objects that touch the border are left out of the mean diameter on both sides. The RMSE is over the disc of 0.95",
        "of the field of view, against a volume with partial voxels; the shepp filter and the pixels' width blur edges,",
        "and that is most of it. Truth marked 0 is what an error would be without any.",
        "",
        "The packed spheres lie half a pixel apart, so that in voxels they touch: the Euler number, of 26-connected solid,",
        "counts those contacts and is no error of the segmentation; the watershed tells every sphere from its neighbours.",
        "",
    ]
    for case, rows in results.items():
        lines += [f"## {case}", "", "| quantity | measured | truth | difference |", "|---|---|---|---|"]
        for name, measured, true in rows:
            difference = f"{100 * (measured / true - 1):+.2f} %" if true else f"{measured - true:+.4g}"
            lines.append(f"| {name} | {measured:.5g} | {true:.5g} | {difference} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Run every case and write the page."""
    with tempfile.TemporaryDirectory() as folder:
        results = {}
        for case in cases():
            results[case.name] = measure(case, Path(folder))
            print(case.name, *[f"{n} {m:.5g} ({t:.5g})" for n, m, t in results[case.name]], sep="\n    ", flush=True)
    (ROOT / "benchmarks" / "results" / "accuracy.json").write_text(json.dumps(results, indent=1) + "\n")
    (ROOT / "docs" / "reference" / "accuracy.md").write_text(table(results) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
