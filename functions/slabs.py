"""What each stage computes for a range of rows, and from where it takes its input: disk, or the stage before it on the fly.

Numerics live in the packages below; what is written and receipted is left to `stages`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .denoising.classical import non_local_means, total_variation
from .objects import ObjectSettings
from .parameters import (
    DenoisingParameters,
    ObjectParameters,
    Parameters,
    PreprocessingParameters,
    ReconstructionParameters,
    SegmentationParameters,
    parse_parameters,
)
from .plan import cut_rows
from .preprocessing.normalization import line_integrals
from .preprocessing.stripes import remove_stripes_fourier_wavelet
from .preprocessing.zingers import REACH_ROWS, remove_zingers
from .reconstruction.engines import get_engine
from .rundir import RunDirectory
from .scan import Scan, open_scan
from .segmentation.region import label_phases
from .volume import SlabVolume, VolumeLike, open_slices, read_projections

_UM_PER_CM = 1e4


def preprocess_rows(
    scan: Scan, parameters: PreprocessingParameters, start: int, stop: int
) -> tuple[NDArray[np.float32], int]:
    """Corrected projections of rows [start, stop).

    Parameters
    ----------
    scan : Scan
    parameters : PreprocessingParameters
    start, stop : int

    Returns
    -------
    projections : (angles, rows, columns) float32
        Line integrals, dimensionless.
    mended : int
        Pixels without a usable value that were mended from their neighbours.
    """
    low = max(0, start - REACH_ROWS)
    high = min(scan.shape[1], stop + REACH_ROWS)
    inner = slice(start - low, stop - low)
    raw = scan.read_rows(low, high)
    dark = scan.dark_field(low, high)
    if parameters.zinger_threshold:
        raw = remove_zingers(raw, dark, parameters.zinger_threshold)
    projections, mended = line_integrals(
        np.ascontiguousarray(raw[:, inner]),
        scan.flat_field(low, high)[inner],
        dark[inner],
        parameters.minimum_transmission,
    )
    del raw
    if parameters.stripe_removal == "fourier_wavelet":
        projections = remove_stripes_fourier_wavelet(
            projections,
            level=parameters.stripe_level,
            wavelet=parameters.stripe_wavelet,
            sigma=parameters.stripe_sigma,
            limit=parameters.stripe_limit,
        )
    return projections, mended


@dataclass(frozen=True)
class SliceReconstructor:
    """Turns corrected projections into slices in the volume's unit.

    Parameters
    ----------
    theta_rad : (angles,) float64
    columns : int
    center_px : float
    parameters : ReconstructionParameters
    pixel_size_um : float or None
        None leaves the slices in 1/pixel.
    """

    theta_rad: NDArray[np.float64]
    columns: int
    center_px: float
    parameters: ReconstructionParameters
    pixel_size_um: float | None

    @cached_property
    def _reconstruct(self) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
        return get_engine(self.parameters.engine).prepare(
            self.theta_rad,
            self.columns,
            self.center_px,
            algorithm=self.parameters.algorithm,
            filter_name=self.parameters.filter,
            padding=self.parameters.padding,
        )

    def __call__(self, projections: NDArray[np.float32]) -> NDArray[np.float32]:
        """Slices (rows, columns, columns) float32 in 1/cm (1/pixel) of projections (angles, rows, columns)."""
        slices = self._reconstruct(projections)
        if self.pixel_size_um is not None:
            slices *= np.float32(_UM_PER_CM / self.pixel_size_um)
        return slices


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
        self.shape: tuple[int, int, int] = tuple(self.document["scan"]["shape"])

    @cached_property
    def scan(self) -> Scan:
        """The raw scan, open for reading."""
        return open_scan(self.run.root / self.document["scan"]["path"])

    @cached_property
    def reconstructor(self) -> SliceReconstructor:
        """Reconstruction with this run's resolved parameters."""
        resolved = self.document["resolved"]
        return SliceReconstructor(
            np.deg2rad(self.scan.theta_deg),
            self.shape[2],
            resolved["center_px"],
            self.parameters.reconstruction,
            resolved["pixel_size_um"],
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
        entry = self.document["stages"]["preprocess"]
        if entry["output"] is None:
            return preprocess_rows(self.scan, self.parameters.preprocessing, start, stop)[0]
        slabs = cut_rows(self.shape[1], entry["slab_rows"])
        return read_projections(self.run.root / entry["output"], slabs, start, stop)

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


def sample_rows(rows: int, columns: int) -> list[int]:
    """Rows from which `Inspect` resolves what must be one for the whole scan: a function of the scan's size alone."""
    count = min(rows, max(2, min(9, 2**25 // columns**2)))
    return [math.floor((index + 0.5) * rows / count) for index in range(count)]
