"""What each stage computes for a range of rows, and from where it takes its input: disk, or the stage before it on the fly.

Numerics live in the packages below; what is written and receipted is left to `stages`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from .corrections import Corrector, RawRows, Resolved
from .denoising.classical import non_local_means, total_variation
from .device import CPU, Device, cpu, has_torch, worker_devices
from .objects import ObjectSettings
from .outputs import projections_shape
from .parameters import (
    DenoisingParameters,
    ObjectParameters,
    Parameters,
    ReconstructionParameters,
    SegmentationParameters,
    parse_parameters,
)
from .plan import cut_rows
from .preprocessing.flat_fields import EigenFlats
from .reconstruction.engines import get_engine
from .reconstruction.settings import ReconstructionSettings
from .rundir import RunDirectory
from .scan import Scan, open_scan
from .segmentation.region import label_phases
from .volume import SlabVolume, VolumeLike, open_slices, read_projections

_UM_PER_CM = 1e4
_CPU_ENGINES = frozenset({"tomopy"})


@dataclass(frozen=True)
class SliceReconstructor:
    """Turns corrected projections into slices in the volume's unit.

    Parameters
    ----------
    theta_rad : (angles,) float64
    columns : int
    center_px : float
        In the projections' columns.
    parameters : ReconstructionParameters
    pixel_size_um : float or None
        None leaves the slices in 1/pixel.
    engine : str
        Name of the engine, resolved.
    device : Device
    """

    theta_rad: NDArray[np.float64]
    columns: int
    center_px: float
    parameters: ReconstructionParameters
    pixel_size_um: float | None
    engine: str = "native"
    device: Device = CPU

    @cached_property
    def _reconstruct(self) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
        return get_engine(self.engine).prepare(
            self.theta_rad,
            self.columns,
            self.center_px,
            settings=reconstruction_settings(self.parameters, self.pixel_size_um),
            device=self.device,
        )

    def __call__(self, projections: NDArray[np.float32]) -> NDArray[np.float32]:
        """Slices (rows, columns, columns) float32 in 1/cm (1/pixel) of projections (angles, rows, columns)."""
        return self._in_unit(self._reconstruct(projections))

    def of_raw(self, corrector: Corrector, raw: RawRows) -> tuple[NDArray[np.float32], int]:
        """Slices of raw rows, and how many of their values were mended.

        Where the GPU both corrects and reconstructs, the projections stay on it between the two.
        """
        on_device = getattr(self._reconstruct, "reconstruct_on_device", None)
        if on_device is None or not corrector.fits_gpu or corrector.joins:
            projections, mended = corrector.correct(raw)
            return self(projections), mended
        tensor, mended = corrector.corrected_tensor(self.device.torch_name, raw)
        return self._in_unit(on_device(tensor).cpu().numpy()), mended

    def _in_unit(self, slices: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.pixel_size_um is not None:
            slices *= np.float32(_UM_PER_CM / self.pixel_size_um)
        return slices


def reconstruction_settings(
    parameters: ReconstructionParameters, pixel_size_um: float | None
) -> ReconstructionSettings:
    """What an engine takes, from a user's parameters; bounds are turned from the volume's unit to 1/pixel."""
    unit = 1.0 if pixel_size_um is None else pixel_size_um / _UM_PER_CM
    minimum, maximum = parameters.minimum, parameters.maximum
    return ReconstructionSettings(
        algorithm=parameters.algorithm,
        filter_name=parameters.filter,
        filter_cutoff=parameters.filter_cutoff,
        filter_order=parameters.filter_order,
        padding=parameters.plain_padding,
        projector=None if parameters.projector == "auto" else parameters.projector,
        iterations=parameters.iterations,
        stop_residual=parameters.stop_residual,
        minimum=None if minimum is None else minimum * unit,
        maximum=None if maximum is None else maximum * unit,
        tv_weight=parameters.tv_weight,
        subsets=parameters.subsets,
        warm_start=parameters.warm_start,
        precision=parameters.precision,
    )


def denoise_slices(slices: NDArray[np.float32], parameters: DenoisingParameters, noise: float) -> NDArray[np.float32]:
    """Denoised slices (z, y, x) float32; `noise` is the scan's noise level in the slices' unit."""
    if noise == 0:
        return slices.copy()
    if parameters.method == "non_local_means":
        return non_local_means(slices, noise, parameters.strength)
    return total_variation(slices, noise, parameters.strength)


def segment_slices(
    slices: NDArray[np.float32], parameters: SegmentationParameters, thresholds: list[float]
) -> NDArray[np.uint8]:
    """Phases (z, y, x) uint8 of slices: 0 outside the sample region, 1 the least attenuating phase, and up."""
    return label_phases(slices, tuple(thresholds), parameters.region, parameters.region_closing_px)


def object_settings(parameters: ObjectParameters) -> ObjectSettings:
    """What `objects` takes, from a user's parameters; lengths are in um."""
    return ObjectSettings(
        method=parameters.method,
        connectivity=parameters.connectivity,
        opening_radius=parameters.opening_radius_um,
        closing_radius=parameters.closing_radius_um,
        erosion_radius=parameters.erosion_radius_um,
        dilation_radius=parameters.dilation_radius_um,
        fill_holes=parameters.fill_holes,
        min_voxels=parameters.minimum_voxels,
        markers=parameters.markers,
        prominence_voxels=parameters.prominence_px,
        marker_radius_voxels=parameters.marker_radius_px,
    )


class Sources:
    """Inputs of a run's stages, by rows: from disk where they were kept, else computed on the fly to the same bits.

    Parameters
    ----------
    run : RunDirectory
        With its `run.json`.
    """

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self.document: dict[str, Any] = run.read_run()
        self.parameters: Parameters = parse_parameters(self.document["request"]["parameters"], str(run.run_json))
        self.shape = projections_shape(self.document)

    @cached_property
    def scan(self) -> Scan:
        """The raw scan, open for reading."""
        return open_scan(self.run.root / self.document["scan"]["path"])

    @cached_property
    def devices(self) -> list[Device]:
        """Devices of this worker that projections are corrected and slices are reconstructed on."""
        return devices_for(engine_name(self.document["resolved"]), self.parameters.reconstruction.gpu_devices)

    @cached_property
    def correctors(self) -> list[Corrector]:
        """What corrects this run's projections, one a device."""
        return [Corrector(self.scan, self.parameters, self._resolved, device) for device in self.devices]

    @cached_property
    def reconstructors(self) -> list[SliceReconstructor]:
        """Reconstruction with this run's resolved parameters, one a device."""
        return [
            slice_reconstructor(corrector, self.parameters, self.document["resolved"], device)
            for corrector, device in zip(self.correctors, self.devices, strict=True)
        ]

    @property
    def reconstructor(self) -> SliceReconstructor:
        """Reconstruction on the first device."""
        return self.reconstructors[0]

    @cached_property
    def _resolved(self) -> Resolved:
        return resolved_corrections(
            self.document["resolved"], self.parameters.preprocessing.flat_field, self.run.sample
        )

    @property
    def volume_shape(self) -> tuple[int, int, int]:
        """(z, y, x)."""
        _, rows, columns = self.shape
        return rows, columns, columns

    @property
    def voxel_size(self) -> tuple[tuple[float, float, float], str]:
        """Edges of a voxel along z, y and x, and their unit: "um", or "pixel" where the pixel size is unknown."""
        size = self.document["resolved"]["voxel_size_um"]
        return ((1.0, 1.0, 1.0), "pixel") if size is None else ((size[0], size[1], size[2]), "um")

    @property
    def skipped(self) -> list[str]:
        """Stages that the request leaves out."""
        return list(self.document["request"]["skip"])

    def projections(self, start: int, stop: int) -> NDArray[np.float32]:
        """Corrected projections of rows [start, stop), (angles, rows, columns) float32."""
        found = self.read_projections(start, stop)
        return self.correctors[0].correct(found)[0] if isinstance(found, RawRows) else found

    def read_projections(self, start: int, stop: int) -> NDArray[np.float32] | RawRows:
        """Corrected projections of rows [start, stop) where they are kept, else the raw rows of which they are made."""
        entry = self.document["stages"]["preprocess"]
        if entry["output"] is None:
            return self.correctors[0].read(start, stop)
        slabs = cut_rows(self.shape[1], entry["slab_rows"])
        return read_projections(self.run.root / entry["output"], slabs, start, stop)

    @cached_property
    def reconstruct(self) -> list[Callable[[NDArray[np.float32] | RawRows], tuple[NDArray[np.float32], int]]]:
        """What makes slices of what `read_projections` gives, one a device; also says how many values were mended."""

        def on(
            corrector: Corrector, reconstructor: SliceReconstructor
        ) -> Callable[[NDArray[np.float32] | RawRows], tuple[NDArray[np.float32], int]]:
            def reconstruct(found: NDArray[np.float32] | RawRows) -> tuple[NDArray[np.float32], int]:
                return (
                    reconstructor.of_raw(corrector, found) if isinstance(found, RawRows) else (reconstructor(found), 0)
                )

            return reconstruct

        return [on(*pair) for pair in zip(self.correctors, self.reconstructors, strict=True)]

    def reconstruction(self) -> VolumeLike:
        """The reconstructed volume (z, y, x) float32."""
        return open_slices(self.run.root / self.document["stages"]["reconstruct"]["output"])

    def denoised(self) -> VolumeLike:
        """What is segmented, (z, y, x) float32: the denoised volume, or the reconstruction where denoising is left out."""
        if "denoise" in self.skipped:
            return self.reconstruction()
        entry = self.document["stages"]["denoise"]
        if entry["output"] is not None:
            return open_slices(self.run.root / entry["output"])
        return _DenoisedOnTheFly(
            self.reconstruction(), self.parameters.denoising, self.document["resolved"]["noise_level"]
        )

    def phases(self) -> VolumeLike:
        """Phases (z, y, x) uint8."""
        return SlabVolume(self.phases_folder, "phases", self.phase_slabs, self.volume_shape, np.dtype("u1"))

    @property
    def phases_folder(self) -> Path:
        """Folder of the files of phases."""
        return self.run.root / str(self.document["stages"]["segment"]["output"])

    @property
    def phase_slabs(self) -> list[tuple[int, int]]:
        """Slabs that the files of phases hold."""
        return cut_rows(self.shape[1], self.document["stages"]["segment"]["slab_rows"])

    @property
    def labels(self) -> Path:
        """Labels, this run's own or those of the recipe that they are taken from."""
        output = self.document["stages"]["separate_objects"]["output"]
        return self.run.labels if output is None else self.run.root / output

    @property
    def objects_table(self) -> Path:
        """Table of the objects beside the labels."""
        return RunDirectory(self.labels.parent).objects_table

    @property
    def contacts_table(self) -> Path:
        """Table of the objects that touch, beside the labels."""
        return RunDirectory(self.labels.parent).contacts_table

    def close(self) -> None:
        """Close the raw scan where it was opened."""
        if "scan" in self.__dict__:
            self.scan.close()


@dataclass(frozen=True)
class _DenoisedOnTheFly:
    source: VolumeLike
    parameters: DenoisingParameters
    noise: float

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype("f4")

    def __getitem__(self, rows: slice, /) -> NDArray[np.float32]:
        return denoise_slices(np.asarray(self.source[rows]), self.parameters, self.noise)


def engine_name(resolved: Mapping[str, Any]) -> str:
    """Engine of a run; those of earlier versions had the native one alone."""
    return str(resolved.get("engine", "native"))


def devices_for(engine: str, gpu_devices: Sequence[int] | None) -> list[Device]:
    """Devices of this worker that an engine can compute on, at least one; raises as `device.worker_devices`."""
    if engine in _CPU_ENGINES or (engine == "native" and not has_torch()):
        return [cpu()]
    return worker_devices(gpu_devices)


def slice_reconstructor(
    corrector: Corrector, parameters: Parameters, resolved: Mapping[str, Any], device: Device = CPU
) -> SliceReconstructor:
    """Reconstruction of a corrector's projections with a run's resolved values."""
    padding = resolved.get("padding", parameters.reconstruction.plain_padding)
    return SliceReconstructor(
        corrector.theta_rad,
        corrector.shape[2],
        corrector.center(resolved["center_px"]),
        parameters.reconstruction.model_copy(update={"padding": padding}),
        resolved["pixel_size_um"],
        engine_name(resolved),
        device,
    )


def resolved_corrections(resolved: Mapping[str, Any], flat_field: str, sample: Path) -> Resolved:
    """What `Corrector` takes, from what a run's `run.json` has resolved and the arrays in its sample."""
    size = resolved["voxel_size_um"]
    eigen_flats = None
    if flat_field == "dynamic":
        with h5py.File(sample, "r") as file:
            eigen_flats = EigenFlats(file["flat_mixtures"][()], file["flat_weights"][()])
    return Resolved(
        voxel_size_um=None if size is None else (size[0], size[1], size[2]),
        energy_kev=resolved.get("energy_kev"),
        distance_mm=resolved.get("distance_mm"),
        joined_at=resolved["center_px"] if resolved.get("field_of_view") == "double" else None,
        eigen_flats=eigen_flats,
    )


def sample_rows(rows: int, columns: int) -> list[int]:
    """Rows from which `Inspect` resolves what must be one for the whole scan: a function of the scan's size alone."""
    count = min(rows, max(2, min(9, 2**25 // columns**2)))
    return [math.floor((index + 0.5) * rows / count) for index in range(count)]
