"""Compares what a run measured with the truth of the simulated scan that it was made from."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from ..rundir import RunDirectory


def compare_with_truth(run: RunDirectory, truth: dict[str, Any]) -> list[tuple[str, float, float]]:
    """Measured quantities beside their analytic truth.

    Parameters
    ----------
    run : RunDirectory
        Of a run that has ended well, with `segmentation.phases` the highest label of the truth (air is phase 1) and
        `objects.phase` the phase of the inclusions.
    truth : dict
        Content of the scan's `.truth.json`.

    Returns
    -------
    list of (name, measured, true)
        Names carry their unit. What either side lacks is left out.
    """
    document = run.read_run()
    metrics = json.loads(run.metrics.read_text(encoding="utf-8"))["metrics"]
    phase = truth["inclusion_phase"]
    whole = [
        diameter
        for diameter, cut in zip(truth["equivalent_diameters_um"], truth["cut_by_face"], strict=True)
        if not cut
    ]
    fraction = next(p["volume_percent"] for p in truth["phases"] if p["label"] == phase)
    pairs: list[tuple[str, str | None, float | None]] = [
        ("phase_fraction_percent", f"phase_fraction_percent_{phase}", fraction),
        ("surface_area_um2", "surface_area_um2", truth["surface_um2"]),
        ("euler_number", "euler_number", truth["euler_number"]),
        ("object_count", "object_count", len(truth["cut_by_face"])),
        ("equivalent_diameter_mean_um", "equivalent_diameter_mean_um", float(np.mean(whole)) if whole else None),
        ("tortuosity_geodesic_mean_z", "tortuosity_geodesic_mean_z", truth["geodesic_tortuosity_z"]),
    ]
    compared = [("center_px", float(document["resolved"]["center_px"]), float(truth["center_px"]))]
    compared += [
        (name, float(metrics[key]), float(true)) for name, key, true in pairs if key in metrics and true is not None
    ]
    return compared
