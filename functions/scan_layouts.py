"""The layouts of a scan's file, Data Exchange and NXtomo: which dataset is what, and where each keeps its metadata.

How datasets are read is left to `scan_hdf5`, `scan_frames` and `scan_metadata`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from .errors import ScanError
from .scan_frames import Frames, ScanFrames, frames_of, projections_of
from .scan_hdf5 import (
    HDF5_ERRORS,
    UNDERSTOOD_LAYOUTS,
    ancestors,
    find_dataset,
    has_link,
    members,
    outline,
    reading,
    refusal,
    resolve,
    text_of,
    walk,
)
from .scan_metadata import (
    ANGLE_DEG,
    COUNTS,
    ENERGY_KEV,
    LENGTH_MM,
    LENGTH_UM,
    NO_UNIT,
    PHOTON_ENERGY_KEV,
    PIXEL_SIZE_UM,
    TIME_S,
    FileMetadata,
    ScanMetadata,
    iso_time,
    plausible,
    unit_factor,
)
from .scan_reader import Scan, Theta


def open_layout(path: Path, file: h5py.File) -> Scan:
    """Make the scan of an open file, whichever layout it has; raises `ScanError` where it has neither."""
    if has_link(file, "/exchange/data"):
        return _open_data_exchange(path, file)
    candidates = _find_nxtomo(file)
    if candidates:
        return _open_nxtomo(path, file, candidates)
    if has_link(file, "/exchange"):
        raise refusal(path, "/exchange/data", f"not found; {UNDERSTOOD_LAYOUTS}; the file holds {outline(file)}")
    raise ScanError(f"{path}: neither Data Exchange nor NXtomo; {UNDERSTOOD_LAYOUTS}; the file holds {outline(file)}")


def _degrees(path: Path, name: str, dataset: h5py.Dataset) -> NDArray[np.float64]:
    """Angles of a dataset in degrees, honouring its `units` attribute."""
    with reading(path, name):
        if dataset.ndim != 1 or np.dtype(dataset.dtype).kind not in "iuf":
            raise refusal(path, name, f"is {dataset.dtype} of shape {dataset.shape}; one number an angle is needed")
        units = text_of(dataset.attrs.get("units"))
        angles = dataset[()].astype(np.float64)
    factor = unit_factor(ANGLE_DEG, units, "deg")
    if factor is None:
        raise refusal(path, name, f"has units {units!r}; degrees or radians are needed")
    if units is None and _looks_like_radians(angles):
        raise refusal(
            path, name, f"covers {np.ptp(angles):.4f} and has no units: radians? Set its attribute units to rad or deg"
        )
    return np.asarray(angles * factor)


def _looks_like_radians(angles: NDArray[np.float64]) -> bool:
    """Whether angles cover a half or a whole turn, to one step, if they are radians."""
    if angles.size < 8 or not np.isfinite(angles).all():
        return False
    covered = float(np.ptp(angles))
    step = covered / (angles.size - 1)
    return any(abs(covered - turn) <= 1.01 * step for turn in (math.pi, 2 * math.pi))


# --- Data Exchange --------------------------------------------------------------------------------------------------


def _open_data_exchange(path: Path, file: h5py.File) -> Scan:
    name = "/exchange/data"
    projections = projections_of(path, name, find_dataset(path, file, name))
    flats = _exchange_reference(path, file, projections, "/exchange/data_white", "flat")
    frames = ScanFrames(
        projections,
        replace(flats, positions=_exchange_flat_positions(file, flats.count, projections.count)),
        _exchange_reference(path, file, projections, "/exchange/data_dark", "dark"),
    )
    theta = _exchange_theta(path, file, projections.count)
    return Scan(path, file, "data-exchange", frames, theta, _exchange_metadata(file))


def _exchange_reference(
    path: Path, file: h5py.File, projections: Frames, name: str, kind: Literal["flat", "dark"]
) -> Frames:
    """Flats or darks; or the constant that TomoScan notes where it was told to record none."""
    none = replace(projections, name=name, dataset=None, runs=())
    frames = frames_of(path, name, find_dataset(path, file, name)) if has_link(file, name) else none
    constant = _exchange_constant(file, kind)
    if constant is None or frames.count > 1:
        return frames
    # without frames of its own the file plugin leaves one frame of zeros
    if frames.count == 1 and frames.read((0, 1), (0, frames.frame_shape[0])).any():
        return frames
    return replace(none, runs=((0, 1),), dtype=np.dtype(np.float32), constant=constant)


def _exchange_constant(file: h5py.File, kind: Literal["flat", "dark"]) -> float | None:
    meta = FileMetadata(file)
    group = f"/process/acquisition/{kind}_fields"
    mode = meta.text(f"{group}/mode", f"{group}/{kind}_field_mode")
    if mode is not None and mode.lower() != "none":
        return None
    return meta.quantity((f"{group}/value", f"{group}/{kind}_field_value"), COUNTS, "count")


def _exchange_flat_positions(file: h5py.File, count: int, projections: int) -> tuple[float, ...] | None:
    """Share of the projections before each flat, from what TomoScan or the ALS notes; None where it does not fit."""
    meta = FileMetadata(file)
    group = "/process/acquisition/flat_fields"
    mode = (meta.text(f"{group}/mode", f"{group}/flat_field_mode") or "").lower()
    cycle = meta.number((f"{group}/i0cycle",), NO_UNIT, "")
    number = meta.number((f"{group}/num_flat_fields", f"{group}/num_fields"), NO_UNIT, "")
    if mode in ("start", "end", "both"):
        groups = {"start": [0.0], "end": [1.0], "both": [0.0, 1.0]}[mode]
    elif cycle is not None and number is not None and projections:
        # the ALS takes flats before every so many projections and after the last one
        between = range(0, projections, int(cycle)) if cycle >= 1 else [0]
        groups = [*(index / projections for index in between), 1.0]
    else:
        return None
    size, rest = divmod(count, len(groups))
    if size == 0 or rest or (number is not None and number != size):
        return None
    return tuple(position for position in groups for _ in range(size))


def _exchange_theta(path: Path, file: h5py.File, angles: int) -> Theta:
    name = "/exchange/theta"
    if has_link(file, name):
        return Theta(name, _degrees(path, name, find_dataset(path, file, name)))
    group = "/process/acquisition/rotation"
    meta = FileMetadata(file)
    start = meta.number((f"{group}/start", f"{group}/rotation_start"), ANGLE_DEG, "deg")
    step = meta.number((f"{group}/step", f"{group}/rotation_step"), ANGLE_DEG, "deg")
    number = meta.number((f"{group}/num_angles",), NO_UNIT, "")
    if start is None or step is None:
        raise refusal(
            path, name, f"not found, nor {group}/start and step; the angle of each projection is needed, in degrees"
        )
    if number is not None and number != angles:
        raise refusal(
            path,
            name,
            f"not found, and {group}/num_angles is {number:g} while /exchange/data holds {angles} projections: "
            "frames were lost; write the angle of each projection into it",
        )
    return Theta(group, start + step * np.arange(angles, dtype=np.float64))


def _exchange_metadata(file: h5py.File) -> ScanMetadata:
    meta = FileMetadata(file)
    instrument, sample = "/measurement/instrument", "/measurement/sample"
    objective = f"{instrument}/detection_system/objective"
    magnification = meta.magnification(f"{objective}/magnification", f"{objective}/camera_objective")
    pixel_size = meta.quantity((f"{objective}/resolution",), LENGTH_UM, "um", PIXEL_SIZE_UM)
    sensor_pixel = meta.quantity((f"{instrument}/detector/pixel_size",), LENGTH_UM, "um")
    binning_x, binning_y = (meta.quantity((f"{instrument}/detector/binning_{axis}",), NO_UNIT, "") for axis in "xy")
    if pixel_size is None and sensor_pixel and magnification:
        pixel_size = plausible(sensor_pixel * (binning_x or 1.0) / magnification, PIXEL_SIZE_UM)
    row_spacing = pixel_size * binning_y / binning_x if pixel_size and binning_x and binning_y else None
    distance = (
        f"{instrument}/detector_motor_stack/setup/z",
        f"{instrument}/sample_motor_stack/detector_distance",
        f"{instrument}/sample/detector_distance",
        f"{instrument}/camera/setup/camera_distance",
        f"{instrument}/camera_motor_stack/setup/camera_distance",
    )
    return ScanMetadata(
        pixel_size_um=pixel_size,
        row_spacing_um=_unless_square(row_spacing, pixel_size),
        energy_kev=meta.quantity((f"{instrument}/monochromator/energy",), ENERGY_KEV, "keV", PHOTON_ENERGY_KEV),
        distance_mm=meta.quantity(distance, LENGTH_MM, "mm"),
        exposure_time_s=meta.quantity((f"{instrument}/detector/exposure_time",), TIME_S, "s"),
        magnification=magnification,
        sample=meta.text(f"{sample}/name"),
        proposal=meta.text(f"{sample}/experiment/proposal"),
        experimenter=meta.text(f"{sample}/experimenter/name"),
        beamline=meta.text(f"{instrument}/source/beamline", f"{instrument}/name"),
        start_time=iso_time(meta.text("/process/acquisition/start_date")),
    )


# --- NXtomo ---------------------------------------------------------------------------------------------------------


_ROTATION_ANGLES = tuple(
    f"{entry}{group}rotation_angle"
    for entry in ("", "tomo_entry/")
    for group in ("", "data/", "sample/", "sample/transformations/")
)


@dataclass(frozen=True)
class _NXtomo:
    """Where the parts of one NXtomo scan are in the file; None where a part was not found."""

    image_key: str
    data: str | None
    rotation_angle: str | None
    is_declared: bool


def _find_nxtomo(file: h5py.File) -> list[_NXtomo]:
    """Every `image_key` of the file with the data and the angles nearest to it."""
    found = []
    for name, key in walk(file):
        if name.rpartition("/")[2] != "image_key" or not isinstance(key, h5py.Dataset) or key.ndim != 1:
            continue
        data = _data_of(file, name)
        angle = (_nearest(file, data, _ROTATION_ANGLES, 1) if data else None) or _nearest(
            file, name, _ROTATION_ANGLES, 1
        )
        declared = any(FileMetadata(file).text(f"{place}/definition") == "NXtomo" for place in ancestors(name))
        found.append(_NXtomo(name, data, angle, declared))
    return found


def _data_of(file: h5py.File, image_key: str) -> str | None:
    """Data that an image key belongs to: of its own detector, even if broken; else the nearest."""
    own = _beside(image_key)
    if has_link(file, own):
        found = resolve(file, own)
        return own if isinstance(found, h5py.Dataset) and found.ndim == 3 else None
    return _nearest(file, image_key, ("data", "detector/data", "data/data", "tomo_entry/data/data"), 3)


def _beside(image_key: str) -> str:
    return f"{image_key.rpartition('/')[0]}/data"


def _open_nxtomo(path: Path, file: h5py.File, candidates: list[_NXtomo]) -> Scan:
    scan = _only_candidate(path, file, candidates)
    if scan.data is None:
        if has_link(file, _beside(scan.image_key)):
            projections_of(path, _beside(scan.image_key), find_dataset(path, file, _beside(scan.image_key)))
        raise refusal(path, scan.image_key, f"no data of three dimensions belongs to it; {UNDERSTOOD_LAYOUTS}")
    if scan.rotation_angle is None:
        raise refusal(path, scan.data, "no rotation_angle belongs to it; write one angle a frame, in degrees")
    dataset = find_dataset(path, file, scan.data)
    with reading(path, scan.image_key):
        key = np.asarray(file[scan.image_key][()])
    if key.size != dataset.shape[0]:
        raise refusal(
            path, scan.image_key, f"has {key.size} entries, {scan.data} has {dataset.shape[0]} frames; one a frame"
        )
    frames = ScanFrames(
        projections_of(path, scan.data, dataset, _runs(key == 0)),
        replace(
            frames_of(path, f"{scan.data} (image_key 1)", dataset, _runs(key == 1)), positions=_flat_positions(key)
        ),
        frames_of(path, f"{scan.data} (image_key 2)", dataset, _runs(key == 2)),
    )
    theta = _degrees(path, scan.rotation_angle, find_dataset(path, file, scan.rotation_angle))
    # some writers note the angles of the projections alone
    if theta.size == key.size:
        theta = theta[key == 0]
    return Scan(path, file, "nxtomo", frames, Theta(scan.rotation_angle, theta), _nxtomo_metadata(file, scan))


def _only_candidate(path: Path, file: h5py.File, candidates: list[_NXtomo]) -> _NXtomo:
    """The one scan of the file; complete ones come before incomplete, declared ones before undeclared."""
    best = max((c.data is not None, c.is_declared, c.rotation_angle is not None) for c in candidates)
    candidates = [c for c in candidates if (c.data is not None, c.is_declared, c.rotation_angle is not None) == best]
    distinct = [c for n, c in enumerate(candidates) if not any(_same_data(file, c, d) for d in candidates[:n])]
    if len(distinct) > 1:
        names = ", ".join(str(c.data or c.image_key) for c in distinct)
        raise ScanError(f"{path}: holds {len(distinct)} scans ({names}); one a file is needed: split it")
    return distinct[0]


def _same_data(file: h5py.File, one: _NXtomo, other: _NXtomo) -> bool:
    """Whether two candidates are one scan under two names."""
    if one.data is None or other.data is None:
        return True
    return bool(file[one.data] == file[other.data])


def _flat_positions(key: NDArray[Any]) -> tuple[float, ...] | None:
    """Share of the projections that come before each flat in the order of the frames."""
    projections = np.cumsum(key == 0)
    if not key.size or not projections[-1]:
        return None
    return tuple((projections[key == 1] / projections[-1]).tolist())


def _runs(selected: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Runs (first, length) of consecutive selected frames."""
    edges = np.flatnonzero(np.diff(selected, prepend=False, append=False)).tolist()
    return [(first, stop - first) for first, stop in zip(edges[::2], edges[1::2], strict=True)]


def _nxtomo_metadata(file: h5py.File, scan: _NXtomo) -> ScanMetadata:
    meta = FileMetadata(file, tuple(ancestors(scan.image_key)))
    detector = "instrument/detector"
    pixel_size, row_spacing = (
        meta.quantity(
            (f"sample/{axis}_pixel_size", f"{axis}_pixel_size", f"{detector}/{axis}_pixel_size"),
            LENGTH_UM,
            "m",
            PIXEL_SIZE_UM,
        )
        for axis in "xy"
    )
    energy = ("beam/incident_energy", "instrument/beam/incident_energy", "instrument/monochromator/energy")
    exposure = ("count_time", f"{detector}/count_time", f"{detector}/exposure_time")
    return ScanMetadata(
        pixel_size_um=pixel_size,
        row_spacing_um=_unless_square(row_spacing, pixel_size),
        energy_kev=meta.quantity(energy, ENERGY_KEV, "keV", PHOTON_ENERGY_KEV),
        distance_mm=meta.quantity(("distance", f"{detector}/distance"), LENGTH_MM, "m"),
        exposure_time_s=meta.quantity(exposure, TIME_S, "s"),
        magnification=meta.magnification("magnification", f"{detector}/magnification"),
        sample=meta.text("sample/name"),
        proposal=meta.text("experiment_identifier", "sample/experiment_identifier"),
        experimenter=meta.text("user/name", "user01/name", "user01/username"),
        beamline=meta.text("beamline", "instrument/beamline", "instrument/name"),
        start_time=iso_time(meta.text("start_time")),
    )


def _unless_square(row_spacing: float | None, pixel_size: float | None) -> float | None:
    """The spacing of rows where it is another than the size of pixels along a row, beyond rounding."""
    if row_spacing is None or pixel_size is None or abs(row_spacing / pixel_size - 1) < 1e-3:
        return None
    return row_spacing


def _nearest(file: h5py.File, name: str, relatives: Iterable[str], ndim: int) -> str | None:
    """Name of the dataset with `ndim` dimensions that is nearest to `name`, upwards, under one of the names."""
    for place in ancestors(name):
        children = [f"{child}/{relative}" for child in _nexus_children(file, place) for relative in relatives]
        for relative in (*relatives, *children):
            found = resolve(file, f"{place}/{relative}")
            if isinstance(found, h5py.Dataset) and found.ndim == ndim:
                return f"{place}/{relative}"
    return None


def _nexus_children(file: h5py.File, place: str) -> list[str]:
    group = resolve(file, place or "/")
    if not isinstance(group, h5py.Group):
        return []
    wanted = {"NXdata", "NXdetector", "NXsample"}
    return [name for name, child in members(group) if _nexus_class(child) in wanted]


def _nexus_class(found: Any) -> str | None:
    try:
        return text_of(found.attrs.get("NX_class"))
    except HDF5_ERRORS:
        return None
