"""Writes a simulated scan as a detector's software would (Data Exchange HDF5), and its truth beside it.
Leaves the sample to `phantoms`, its line integrals to `projection` and the counts to `detector`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import h5py
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import InputError, ParameterError
from .detector import SATURATION_COUNTS, Detector, DetectorSettings
from .phantoms import (
    INCLUSION_COLUMNS,
    PHASE_NAMES,
    Phantom,
    PhantomKind,
    make_phantom,
    rasterize_phases,
)
from .projection import project

TRUTH_VERSION: Final = 1
_BLOCK_ANGLES: Final = 16
_BLOCK_BYTES: Final = 64 * 2**20
_FIRST_START: Final = datetime(2026, 1, 1, tzinfo=UTC)

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class SimulationSettings(BaseModel):
    """Everything that a simulated scan depends on. The same settings give the same scan, to the bit.

    Raises
    ------
    ParameterError
        A field is unknown, has an impossible value, or does not go with another; the message names it and the remedy.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    phantom: PhantomKind = Field("foam", description="what the sample is made of")
    columns: int = Field(160, ge=32, le=16384, description="detector columns")
    rows: int = Field(128, ge=1, le=16384, description="detector rows")
    angles: int = Field(240, ge=2, le=100_000, description="number of projections")
    arc_deg: Literal[180, 360] = Field(180, description="range of the rotation in degrees, its end excluded")
    axis_offset_px: float = Field(2.25, description="rotation axis right of the detector's middle, in pixels")
    pixel_size_um: float = Field(3.0, gt=0.0, le=1e6, description="pixel size in micrometres")
    energy_kev: float = Field(25.0, gt=0.0, le=1e4, description="photon energy in keV (metadata only)")
    region_fraction: float = Field(0.85, ge=0.1, le=0.98, description="sample radius / half the detector's width")
    opacity: float = Field(1.6, gt=0.0, le=8.0, description="line integral along the sample's diameter, on average")
    inclusion_fraction: float | None = Field(None, gt=0.0, lt=0.7, description="volume fraction of the inclusions")
    inclusion_radius_px: float | None = Field(None, ge=1.5, description="median radius of the inclusions in pixels")
    inclusion_gap_px: float | None = Field(None, ge=0.0, description="distance kept between inclusions in pixels")
    supersampling: int = Field(2, ge=1, le=16, description="rays along each side of a detector pixel")
    photons: float = Field(20000.0, ge=1.0, le=1e12, description="photons a pixel and frame in the open beam")
    open_beam_counts: float = Field(30000.0, gt=0.0, description="counts that the open beam gives")
    n_flats: int = Field(20, ge=1, le=10_000, description="flat fields, half before and half after the scan")
    n_darks: int = Field(10, ge=1, le=10_000, description="dark frames")
    dark_counts: float = Field(100.0, ge=0.0, description="dark level in counts")
    readout_noise_counts: float = Field(3.0, ge=0.0, le=10_000.0, description="readout noise in counts")
    beam_unevenness: Fraction = Field(0.3, lt=1.0, description="1 - darkest / brightest place of the beam")
    beam_drift: float = Field(0.0, ge=-0.5, le=0.5, description="change of the beam over the scan")
    gain_spread: float = Field(0.02, ge=0.0, le=0.2, description="spread of the pixel gains")
    ring_strength: float = Field(0.02, ge=0.0, le=0.2, description="spread of gain errors that flats do not show")
    ring_fraction: Fraction = Field(0.03, description="fraction of the pixels with such errors")
    dead_pixel_fraction: float = Field(0.0, ge=0.0, le=0.1, description="fraction of the pixels that are dead")
    zinger_rate: float = Field(1e-4, ge=0.0, le=0.1, description="zingers a pixel and frame")
    sample_name: str | None = Field(None, min_length=1, max_length=200, description="sample name in the metadata")
    seed: int = Field(0, ge=0, lt=2**63, description="seed of everything random")

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ParameterError("; ".join(_explain(problem) for problem in error.errors())) from None

    @model_validator(mode="after")
    def _fields_go_together(self) -> SimulationSettings:
        half_width = self.columns / 2.0
        room = half_width * (1.0 - self.region_fraction) if self.arc_deg == 180 else half_width - 1.0
        if abs(self.axis_offset_px) > room:
            raise ParameterError(
                f"axis_offset_px: {self.axis_offset_px:g} moves the sample out of the field of view; "
                f"with {self.columns} columns, region_fraction {self.region_fraction:g} and arc_deg {self.arc_deg} "
                f"use at most {room:g} in size" + (", or arc_deg 360" if self.arc_deg == 180 else "")
            )
        brightest = self.dark_counts + self.open_beam_counts * (1.0 + 4.0 * self.gain_spread + abs(self.beam_drift))
        if brightest > SATURATION_COUNTS:
            raise ParameterError(
                f"open_beam_counts: {self.open_beam_counts:g} and dark_counts {self.dark_counts:g} saturate the "
                f"16-bit detector (up to {brightest:.0f} of {SATURATION_COUNTS} counts); lower one of them"
            )
        return self

    @property
    def center_px(self) -> float:
        """Column of the rotation axis; pixel centres at integers."""
        return 0.5 * (self.columns - 1) + self.axis_offset_px

    @property
    def theta_deg(self) -> NDArray[np.float64]:
        """Rotation angles in degrees, shape (angles,), the end of the arc excluded."""
        return self.arc_deg * np.arange(self.angles) / self.angles

    def make_phantom(self) -> Phantom:
        """The sample."""
        return make_phantom(
            self.phantom,
            self.columns,
            self.rows,
            self.seed,
            pixel_size_um=self.pixel_size_um,
            region_fraction=self.region_fraction,
            opacity=self.opacity,
            inclusion_fraction=self.inclusion_fraction,
            inclusion_radius_px=self.inclusion_radius_px,
            inclusion_gap_px=self.inclusion_gap_px,
        )

    def make_detector(self) -> Detector:
        """The detector and its beam."""
        return Detector(
            DetectorSettings(
                rows=self.rows,
                columns=self.columns,
                seed=self.seed,
                photons=self.photons,
                open_beam_counts=self.open_beam_counts,
                dark_counts=self.dark_counts,
                readout_noise_counts=self.readout_noise_counts,
                beam_unevenness=self.beam_unevenness,
                beam_drift=self.beam_drift,
                gain_spread=self.gain_spread,
                ring_strength=self.ring_strength,
                ring_fraction=self.ring_fraction,
                dead_pixel_fraction=self.dead_pixel_fraction,
                zinger_rate=self.zinger_rate,
            )
        )


def simulate_scan(settings: SimulationSettings, path: Path, progress: Callable[[int, int], None] | None = None) -> Path:
    """Simulate a scan and write it; memory is bounded by a block of projections whatever the scan's size.

    Each of the three files is written aside and renamed, the scan last, so that a scan that is there is complete.

    Parameters
    ----------
    settings : SimulationSettings
        What to simulate.
    path : Path
        The scan's file (`.h5`); its truth goes to `<stem>.truth.json` and `<stem>.truth.h5` beside it. Files of these
        names are replaced.
    progress : callable, optional
        Called with (projections done, projections in all), first with 0 done.

    Returns
    -------
    Path
        The scan's path.

    Raises
    ------
    InputError
        The path has another suffix or cannot be written.
    """
    if path.suffix not in (".h5", ".hdf5", ".hdf"):
        raise InputError(f"{path}: a scan is written as HDF5; give the file a name that ends in .h5")
    phantom = settings.make_phantom()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _written_aside(path.with_suffix(".truth.json")) as partial:
            partial.write_text(json.dumps(scan_truth(settings, phantom), indent=2) + "\n", encoding="utf-8")
        with _written_aside(path.with_suffix(".truth.h5")) as partial, h5py.File(partial, "w") as file:
            _write_truth_volume(file, phantom)
        with _written_aside(path) as partial, h5py.File(partial, "w") as file:
            _write_metadata(file, settings)
            _write_frames(file, settings, phantom, progress)
    except OSError as error:
        raise InputError(
            f"{path}: the simulated scan cannot be written ({error}); choose a folder that is writable and has room"
        ) from error
    return path


def scan_truth(settings: SimulationSettings, phantom: Phantom) -> dict[str, Any]:
    """What a perfect analysis of the scan would find, with the unit in every name; JSON types only.

    Volumes, areas and counts are those of the sample region (a cylinder of `region_radius_px` around the axis) within
    the detector's rows. `surface_um2` and `euler_number` are of the inclusions' phase: the surface without cut faces
    and the sample's wall, the Euler number in the continuum. `geodesic_tortuosity_z` is along z through that phase,
    null where no path crosses.
    """
    um = settings.pixel_size_um
    fractions = phantom.volume_fractions
    return {
        "version": TRUTH_VERSION,
        "settings": settings.model_dump(mode="json"),
        "center_px": settings.center_px,
        "region_radius_px": phantom.radius_px,
        "pixel_size_um": um,
        "phases": [
            {
                "label": label,
                "name": PHASE_NAMES[label],
                "attenuation_per_cm": phantom.attenuation_per_cm[label],
                "volume_percent": 100.0 * fractions[label],
            }
            for label in sorted(fractions)
        ],
        "porosity_percent": 100.0 * phantom.porosity,
        "inclusion_phase": phantom.inclusion_phase,
        "inclusion_shape": phantom.shape,
        "surface_um2": phantom.interface_area_um2,
        "euler_number": phantom.euler_number,
        "geodesic_tortuosity_z": phantom.geodesic_tortuosity,
        "diameters_um": (um * phantom.diameters_px).tolist(),
        "equivalent_diameters_um": (um * phantom.equivalent_diameters_px).tolist(),
        "cut_by_face": phantom.cut_by_face.tolist(),
    }


def _explain(problem: Any) -> str:
    """One problem that pydantic found, as field, value and remedy."""
    field = str(problem["loc"][0])
    if field not in SimulationSettings.model_fields:
        return f"{field}: unknown; the fields are {', '.join(SimulationSettings.model_fields)}"
    description = SimulationSettings.model_fields[field].description
    return f"{field}: {problem['input']!r} cannot be used: {problem['msg'].lower()} ({description})"


@contextmanager
def _written_aside(path: Path) -> Iterator[Path]:
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _write_metadata(file: h5py.File, settings: SimulationSettings) -> None:
    start = _FIRST_START + timedelta(minutes=settings.seed % (365 * 24 * 60))
    values: dict[str, tuple[str | float | int, str | None]] = {
        "implements": ("exchange:measurement:process", None),
        "exchange/title": ("tomography_raw_projections", None),
        "measurement/sample/name": (settings.sample_name or f"simulated {settings.phantom}", None),
        "measurement/sample/experiment/proposal": ("simulation", None),
        "measurement/instrument/name": ("tomopipe simulate", None),
        "measurement/instrument/monochromator/energy": (settings.energy_kev, "keV"),
        "measurement/instrument/detector/pixel_size": (settings.pixel_size_um, "um"),
        "measurement/instrument/detection_system/objective/magnification": (1.0, ""),
        "measurement/instrument/detection_system/objective/resolution": (settings.pixel_size_um, "um"),
        "measurement/instrument/detector/array_size_x": (settings.columns, "pixels"),
        "measurement/instrument/detector/array_size_y": (settings.rows, "pixels"),
        "process/acquisition/start_date": (start.isoformat(), None),
        "process/acquisition/rotation/start": (0.0, "degrees"),
        "process/acquisition/rotation/step": (settings.arc_deg / settings.angles, "degrees"),
        "process/acquisition/rotation/num_angles": (settings.angles, None),
    }
    if settings.n_flats % 2 == 0:
        values["process/acquisition/flat_fields/flat_field_mode"] = ("Both", None)
        values["process/acquisition/flat_fields/num_flat_fields"] = (settings.n_flats // 2, None)
    for name, (value, units) in values.items():
        file[name] = value
        if units is not None:
            file[name].attrs["units"] = units
    file["exchange/theta"] = settings.theta_deg
    file["exchange/theta"].attrs["units"] = "degrees"


def _write_frames(
    file: h5py.File, settings: SimulationSettings, phantom: Phantom, progress: Callable[[int, int], None] | None
) -> None:
    detector = settings.make_detector()
    data = _create_frames(file, "data", settings.angles, settings, "transmission", "theta:y:x")
    flats = _create_frames(file, "data_white", settings.n_flats, settings, "flat fields", "theta_white:y:x")
    darks = _create_frames(file, "data_dark", settings.n_darks, settings, "dark frames", "theta_dark:y:x")
    for index in range(settings.n_darks):
        darks[index] = detector.dark(index)
    for index in range(settings.n_flats):
        flats[index] = detector.flat(index, elapsed=float(2 * index >= settings.n_flats))
    theta_rad = np.deg2rad(settings.theta_deg)
    total = settings.angles

    def record(task: tuple[int, NDArray[np.float32]]) -> NDArray[np.uint16]:
        index, line_integrals = task
        return detector.projection(line_integrals, index, elapsed=index / total)

    block = max(1, min(_BLOCK_ANGLES, _BLOCK_BYTES // (4 * settings.rows * settings.columns)))
    _report(progress, 0, total)
    with ThreadPoolExecutor() as pool:
        for first in range(0, total, block):
            line_integrals = project(
                phantom,
                theta_rad[first : first + block],
                center=settings.center_px,
                supersampling=settings.supersampling,
            )
            frames = pool.map(record, enumerate(line_integrals, start=first))
            data[first : first + block] = np.stack(list(frames))
            _report(progress, min(first + block, total), total)


def _create_frames(
    file: h5py.File, name: str, count: int, settings: SimulationSettings, description: str, axes: str
) -> h5py.Dataset:
    shape = (count, settings.rows, settings.columns)
    dataset = file.create_dataset(f"exchange/{name}", shape, dtype=np.uint16, chunks=(1, *shape[1:]))
    dataset.attrs["units"] = "counts"
    dataset.attrs["description"] = description
    dataset.attrs["axes"] = axes
    return dataset


def _report(progress: Callable[[int, int], None] | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)


def _write_truth_volume(file: h5py.File, phantom: Phantom) -> None:
    """Phase labels on the grid of a reconstruction around the true axis, and the table that they were made from."""
    n = phantom.columns
    block = max(1, min(_BLOCK_ANGLES, phantom.rows, _BLOCK_BYTES // (8 * n * n)))
    phases = file.create_dataset(
        "phases",
        (phantom.rows, n, n),
        dtype=np.uint8,
        chunks=(block, n, n),
        compression="gzip",
        compression_opts=1,
    )
    phases.attrs["axes"] = "z:y:x"
    for label in sorted(phantom.attenuation_per_cm):
        phases.attrs[f"phase_{label}"] = PHASE_NAMES[label]
    for z0 in range(0, phantom.rows, block):
        z1 = min(z0 + block, phantom.rows)
        phases[z0:z1] = rasterize_phases(phantom, z0, z1)
    inclusions = file.create_dataset("inclusions", data=phantom.inclusions)
    inclusions.attrs["columns"] = list(INCLUSION_COLUMNS)
    inclusions.attrs["shape"] = phantom.shape
    inclusions.attrs["phase"] = phantom.inclusion_phase
    labels = sorted(phantom.attenuation_per_cm)
    file["attenuation/label"] = np.array(labels, dtype=np.uint8)
    file["attenuation/value"] = np.array([phantom.attenuation_per_cm[label] for label in labels])
    file["attenuation/value"].attrs["units"] = "1/cm"
