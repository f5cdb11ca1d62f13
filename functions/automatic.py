"""Every automatic value of a run, from a fixed sample of rows: rotation centre, field of view, noise, thresholds, grey range.

What must be one for the whole scan is worked out here, never from a slab. Checking the scan and planning is left to
`inspection`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .center_trials import (
    joined_columns,
    joined_reconstruction,
    liveliest_detail,
    quick_reconstruction,
    trial_centers,
    trial_slices,
)
from .corrections import Corrector, Resolved, bad_pixels_checksum
from .denoising.classical import noise_level
from .device import worker_device
from .errors import ParameterError, ScanError
from .parameters import Parameters, ReconstructionParameters, Stage
from .preprocessing.rotation_center import (
    LOW_CONFIDENCE,
    CenterResult,
    FieldOfView,
    find_center,
    find_center_360,
    suggest_field_of_view,
)
from .reconstruction.engines import Engine, get_engine
from .reconstruction.geometry import angular_weights
from .reconstruction.settings import DIRECT_ALGORITHMS
from .scan import Scan
from .segmentation.thresholds import multi_otsu_thresholds
from .slabs import denoise_slices, devices_for, sample_rows, slice_reconstructor

_CYLINDER_ALGORITHMS = frozenset({"fourierrec", "gridrec"})
_EDGE_SHARE = 0.03  # of the largest line integrals: below it projections end in air
_WEDGE_DEG = 1.0
_TRIALS_WIDTH_PX = 6.0
_TRIALS_STEP_PX = 0.5


def voxel_size_of(scan: Scan, parameters: Parameters) -> list[float] | None:
    """Edges of a voxel along z, y and x in um, as the request or else the scan says, binned; None where neither knows."""
    wished, known = parameters.scan, scan.metadata
    pixel_size = wished.pixel_size_um or known.pixel_size_um
    if pixel_size is None:
        return None
    row_spacing = wished.row_spacing_um
    if row_spacing is None and known.row_spacing_um is not None and known.pixel_size_um is not None:
        # What the file says of the shape of pixels holds for a size that somebody knows better, too.
        row_spacing = known.row_spacing_um * pixel_size / known.pixel_size_um
    return [edge * wished.binning for edge in (row_spacing or pixel_size, pixel_size, pixel_size)]


def known(scan: Scan, parameters: Parameters) -> Resolved:
    """What the file and the request say of the measurement, before anything is worked out."""
    voxel_size = voxel_size_of(scan, parameters)
    return Resolved(
        voxel_size_um=None if voxel_size is None else (voxel_size[0], voxel_size[1], voxel_size[2]),
        energy_kev=parameters.scan.energy_kev or scan.metadata.energy_kev,
        distance_mm=parameters.scan.distance_mm or scan.metadata.distance_mm,
    )


def resolve(
    scan: Scan, parameters: Parameters, runs: Callable[[Stage], bool]
) -> tuple[dict[str, Any], dict[str, NDArray[Any]], Corrector]:
    """Every automatic value, rounded so that it can be typed in again, and the sample slices behind them.

    Parameters
    ----------
    scan : Scan
    parameters : Parameters
    runs : callable
        Whether a stage is asked for.

    Returns
    -------
    resolved : dict
        As it stands in `run.json`.
    sample : dict of str to ndarray
        Rows, corrected projections (angles, rows, columns), slices; where they are asked for denoised slices, and where
        the rotation centre is not sure trial slices.
    corrector : Corrector
        With these values.

    Raises
    ------
    ParameterError, ScanError
        A value that cannot be found: what to give instead.
    """
    engine = engine_of(parameters.reconstruction)
    corrections = known(scan, parameters)
    single = Corrector(scan, parameters, corrections)
    if parameters.preprocessing.flat_field == "dynamic":
        corrections = replace(corrections, eigen_flats=single.fit_eigen_flats())
        single = Corrector(scan, parameters, corrections)
    rows = sample_rows(single.shape[1], single.shape[2])
    projections = np.concatenate([single.rows(row, row + 1)[0] for row in rows], axis=1)
    resolved: dict[str, Any] = {
        "sample_rows": rows,
        "engine": engine.name,
        "pixel_size_um": None if corrections.voxel_size_um is None else corrections.voxel_size_um[2],
        "voxel_size_um": None if corrections.voxel_size_um is None else list(corrections.voxel_size_um),
        "energy_kev": corrections.energy_kev,
        "distance_mm": corrections.distance_mm,
        "clipped_fraction": _clipped_fraction(single, rows, parameters.preprocessing.minimum_transmission),
        "bad_pixel_map_checksum": bad_pixels_checksum(parameters.preprocessing),
        "notes": [],
    }
    resolved["field_of_view"] = _field_of_view(projections, single.theta_rad, parameters)
    trials = _find_center(projections, single, parameters, resolved)
    corrector = single
    if resolved["field_of_view"] == "double":
        corrector = Corrector(scan, parameters, replace(corrections, joined_at=resolved["center_px"]))
        projections = corrector.join(projections)
    resolved["padding"] = _padding(projections, parameters.reconstruction)
    resolved["notes"] += _wedge_notes(corrector.theta_rad)
    device = devices_for(engine.name, parameters.reconstruction.gpu_devices)[0]
    slices = slice_reconstructor(corrector, parameters, resolved, device)(projections)
    sample: dict[str, NDArray[Any]] = {"rows": np.asarray(rows), "projections": projections, "slices": slices, **trials}
    if corrections.eigen_flats is not None:
        sample |= {"flat_mixtures": corrections.eigen_flats.mixtures, "flat_weights": corrections.eigen_flats.weights}
    resolved["noise_level"] = _rounded(noise_level(slices))
    if runs("denoise"):
        slices = denoise_slices(slices, parameters.denoising, resolved["noise_level"])
        sample["denoised"] = slices
    if runs("segment"):
        resolved["thresholds"] = _thresholds(slices, parameters, scan)
    low, high = np.percentile(slices[:, _disc(slices.shape[2])], [0.5, 99.5])
    resolved["grey_range"] = [_rounded(float(low)), _rounded(float(high))]
    if not resolved["grey_range"][0] < resolved["grey_range"][1]:
        raise ScanError(
            f"{scan.path}: the reconstructed sample rows are blank ({low:g} everywhere); check that the scan has a sample in "
            "the beam and its flats and darks belong to it"
        )
    return resolved, sample, corrector


def engine_of(parameters: ReconstructionParameters) -> Engine:
    """The engine that reconstructs where this worker is: the one that is named, or the fastest that has the algorithm.

    Raises
    ------
    ParameterError
        Not installed here, or without the algorithm.
    """
    if parameters.engine != "auto":
        engine = get_engine(parameters.engine)
    else:
        engine = get_engine("auto", worker_device(parameters.gpu_devices))
        if parameters.algorithm not in engine.algorithms:
            engine = get_engine("native")
    if parameters.algorithm not in engine.algorithms:
        raise ParameterError(
            f"reconstruction.algorithm={parameters.algorithm}: the {engine.name} engine has it not, but "
            f"{', '.join(sorted(engine.algorithms))}; choose one of these, or another reconstruction.engine"
        )
    return engine


def _field_of_view(
    projections: NDArray[np.float32], theta_rad: NDArray[np.float64], parameters: Parameters
) -> FieldOfView:
    """Whether the halves of a turn are joined to a wider field of view."""
    if parameters.scan.field_of_view != "auto":
        return parameters.scan.field_of_view
    # Not by a centre that is given: typing in the one that was found must not change it.
    return suggest_field_of_view(projections, theta_rad)


def _find_center(
    projections: NDArray[np.float32], corrector: Corrector, parameters: Parameters, resolved: dict[str, Any]
) -> dict[str, NDArray[Any]]:
    """Put the rotation centre, and how it was found, among what is resolved; trial slices where that is not sure."""
    wished = parameters.reconstruction
    if wished.center != "auto":
        resolved["center_px"] = float(wished.center)
        return {}
    theta, columns = corrector.theta_rad, projections.shape[2]
    if resolved["field_of_view"] == "double":
        result = find_center_360(projections, theta)
    else:
        quick = quick_reconstruction(theta, columns, padding=wished.plain_padding)
        result = find_center(projections, theta, quick, search_share=wished.center_search)
    resolved["center_px"] = round(result.center, 2)
    resolved["center"] = _center_summary(result)
    resolved["notes"] += [result.warning] if result.warning else []
    if result.confidence >= LOW_CONFIDENCE:
        return {}
    centers = trial_centers(resolved["center_px"], _TRIALS_WIDTH_PX, _TRIALS_STEP_PX, columns)
    if resolved["field_of_view"] == "double":
        quick = joined_reconstruction(theta, padding=wished.plain_padding, width=joined_columns(columns, centers))
    sinogram = projections[:, projections.shape[1] // 2]
    detail = liveliest_detail(trial_slices(sinogram, quick, centers[len(centers) // 2 :][:1])[0])
    slices = trial_slices(sinogram, quick, centers, detail)
    if resolved["pixel_size_um"] is not None:
        slices *= np.float32(1e4 / resolved["pixel_size_um"])
    return {"trial_centers": centers, "trial_slices": slices}


def _padding(projections: NDArray[np.float32], parameters: ReconstructionParameters) -> str:
    """What lies beside the field of view, by whether the sample reaches beyond it.

    Iterative methods take a margin around the field of view in which nothing counts as measured. Where the projections end
    in air that is known, and leaving it open would cost them their grey values.
    """
    if parameters.padding != "auto":
        return parameters.padding
    outermost = max(2, projections.shape[2] // 64)
    edges = [projections[:, :, :outermost].mean(axis=2), projections[:, :, -outermost:].mean(axis=2)]
    reached = max(float(np.percentile(edge, 95)) for edge in edges)
    inside = reached < _EDGE_SHARE * float(np.percentile(projections, 99))
    if parameters.algorithm not in DIRECT_ALGORITHMS:
        return "zero" if inside else "edge"
    return "cylinder" if parameters.algorithm in _CYLINDER_ALGORITHMS and not inside else "edge"


def _wedge_notes(theta_rad: NDArray[np.float64]) -> list[str]:
    """A warning where so many neighbouring projections are missing that directions of the sample were not seen."""
    missing = 180 - math.degrees(float(angular_weights(theta_rad).sum()))
    if missing < _WEDGE_DEG:
        return []
    return [
        f"projections over {missing:.0f} of 180 degrees are missing: edges along these directions are not there, and direct "
        f"methods read grey values about {missing / 1.8:.0f} % low; sirt, cgls or tv read them better"
    ]


def _clipped_fraction(corrector: Corrector, rows: list[int], minimum_transmission: float) -> float:
    """Share of the sample rows' pixels whose transmission is clipped."""
    found = [corrector.transmission(row) < minimum_transmission for row in rows]
    return _rounded(float(np.mean(found)))


def _thresholds(slices: NDArray[np.float32], parameters: Parameters, scan: Scan) -> list[float]:
    if parameters.segmentation.thresholds is not None:
        return parameters.segmentation.thresholds
    try:
        found = multi_otsu_thresholds(slices, parameters.segmentation.phases)
    except ValueError as error:
        raise ScanError(
            f"{scan.path}: segmentation.method=multi_otsu finds no {parameters.segmentation.phases} phases in the "
            f"reconstructed sample ({error}); set segmentation.method=fixed with segmentation.thresholds"
        ) from error
    return [_rounded(value) for value in found]


def _disc(columns: int) -> NDArray[np.bool_]:
    axis = np.arange(columns) - (columns - 1) / 2
    inside: NDArray[np.bool_] = axis[:, None] ** 2 + axis**2 <= (0.95 * columns / 2) ** 2
    return inside


def _center_summary(result: CenterResult) -> dict[str, Any]:
    candidates, metric = result.curve
    return {
        "method": result.method,
        "confidence": _rounded(result.confidence),
        "estimates_px": {name: round(value, 3) for name, value in result.estimates.items()},
        "curve": {
            "centers_px": [round(float(center), 3) for center in candidates],
            "metric": [_rounded(float(value)) for value in metric],
        },
    }


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
