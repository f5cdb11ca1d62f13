"""From raw counts to corrected projections of any rows: the steps of preprocessing in their order.

Each step reads as many rows beside those wanted as it reaches, so that a row comes out the same whichever rows come with it.
The steps themselves are in `preprocessing`; from where a run takes its projections is for `slabs` to say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .acquisition import SelectedScan, Selection
from .device import CPU, Device, cpu, has_torch
from .errors import InputError, ParameterError
from .parameters import Parameters, PreprocessingParameters
from .plan import RowBytes
from .preprocessing import zingers
from .preprocessing.bad_pixels import read_bad_pixels
from .preprocessing.beam_hardening import check_coefficients, correct_beam_hardening
from .preprocessing.double_field_of_view import DoubleFieldOfView
from .preprocessing.flat_fields import EigenFlats, check_flats, fit_eigen_flats, open_beam_of_rows
from .preprocessing.geometry_correction import GeometryCorrection
from .preprocessing.normalization import OpenBeam, line_integrals, minus_log, transmission
from .preprocessing.phase import PaganinFilter, delta_beta_of_alpha
from .preprocessing.stripes import StripeSettings, remove_stripes
from .rundir import file_checksum
from .scan import Scan

# What a method takes a value of a row's sinogram, in each thread, beside what goes in and comes out.
_STRIPE_BYTES = {
    "none": 0,
    "vo_all": 20,
    "vo_filtering": 21,
    "vo_sorting": 16,
    "vo_large": 16,
    "vo_dead": 16,
    "tomopy_ti": 28,
}


@dataclass(frozen=True)
class Resolved:
    """What the steps need besides a user's parameters, one for the whole scan: worked out once, by `automatic`.

    Attributes
    ----------
    voxel_size_um : (z, y, x) or None
        Of the projections as they come out, binned; None where the pixel size is unknown.
    energy_kev, distance_mm : float or None
        For phase retrieval.
    joined_at : float or None
        Rotation centre, where the halves of a double field of view are joined; pixels as in `reconstruction.center`.
    eigen_flats : EigenFlats or None
        For dynamic flats.
    """

    voxel_size_um: tuple[float, float, float] | None = None
    energy_kev: float | None = None
    distance_mm: float | None = None
    joined_at: float | None = None
    eigen_flats: EigenFlats | None = None


@dataclass(frozen=True)
class RawRows:
    """Raw counts of some rows of the selected scan, and the rows of projections that are to be made of them.

    Attributes
    ----------
    counts : (angles, rows, columns)
        Of the rows from `first` on.
    dark : (rows, columns) float32
        Dark field of the same rows.
    flat : (rows, columns) float32 or OpenBeam
        Flat field of those that are left when zingers have been told by their neighbours.
    first : int
    start, stop : int
        Rows of the corrected projections.
    """

    counts: NDArray[Any]
    dark: NDArray[np.float32]
    flat: NDArray[np.float32] | OpenBeam
    first: int
    start: int
    stop: int


class Corrector:
    """Corrects projections of a scan, by rows.

    Parameters
    ----------
    scan : Scan
        Open; stays the caller's to close.
    parameters : Parameters
    resolved : Resolved
    device : Device

    Attributes
    ----------
    selected : SelectedScan
        The part of the scan that is used.
    shape : (angles, rows, columns)
        Of the corrected projections.
    theta_rad : (angles,) float64
        Of the corrected projections.

    Raises
    ------
    ParameterError
        What the scan cannot be corrected with: field, value, remedy.
    """

    def __init__(self, scan: Scan, parameters: Parameters, resolved: Resolved, device: Device = CPU) -> None:
        wished = parameters.scan
        self._parameters = parameters.preprocessing
        self._resolved = resolved
        self._device = device
        self.selected = SelectedScan(
            scan,
            Selection(
                rows=_pair(wished.rows),
                columns=_pair(wished.columns),
                projections=_pair(wished.projections),
                excluded_angles_deg=wished.excluded_angles_deg,
                angle_step=wished.angle_step,
            ),
        )
        self._geometry = GeometryCorrection(
            self.selected.shape[1:],
            binning=wished.binning,
            axis_tilt_deg=wished.axis_tilt_deg,
            distortion_coefficients=wished.distortion_coefficients,
            distortion_center_px=wished.distortion_center_px,
            detector_shape=scan.shape[1:],
            origin=(self.selected.rows[0], self.selected.columns[0]),
        )
        self._bad_pixels = self._read_bad_pixels()
        self._phase = self._phase_filter()
        if self._parameters.beam_hardening:
            largest = -math.log(self._parameters.minimum_transmission)
            try:
                check_coefficients(self._parameters.beam_hardening, largest)
            except ParameterError as error:
                raise ParameterError(f"preprocessing.{error}") from None
        self._join = None
        self.theta_rad = np.deg2rad(self.selected.theta_deg)
        if resolved.joined_at is not None:
            self._join = DoubleFieldOfView(self.theta_rad, self._geometry.output_shape[1], resolved.joined_at)
            self.theta_rad = self._join.theta_rad

    @property
    def shape(self) -> tuple[int, int, int]:
        """Corrected projections: (angles, rows, columns)."""
        rows, columns = self._geometry.output_shape
        return self.theta_rad.size, rows, columns if self._join is None else self._join.columns

    def center(self, center_px: float) -> float:
        """Rotation centre in the corrected projections, where it is `center_px` in columns of the detector."""
        return center_px if self._join is None else self._join.center

    @property
    def row_bytes(self) -> RowBytes:
        """Memory that a row takes."""
        angles, _, columns = self.selected.shape
        binned = self._geometry.binning**2
        values = angles * columns * self._geometry.binning
        reading = values * self.selected.dtype.itemsize
        # A copy without zingers; transmissions, and beside them what the next step makes of them.
        working = reading + 4 * values + 8 * values // binned
        if not self._geometry.is_identity or self._phase is not None:
            working += 4 * values
        if self._join is not None:
            working += 4 * self.shape[0] * self.shape[2]
        middle = self.shape[1] // 2
        low, high = self._raw_range(middle, middle + 1)
        # Stripes are removed row by row, in threads.
        a_thread = _STRIPE_BYTES.get(self._parameters.stripe_removal, 12) * self.theta_rad.size * columns
        if self._phase is not None:
            a_thread = max(a_thread, self._phase.workspace_bytes(high - low))
        return RowBytes(reading, working, (high - low) // self._geometry.binning - 1, cpu().threads * a_thread)

    def rows(self, start: int, stop: int) -> tuple[NDArray[np.float32], int]:
        """Read and correct rows [start, stop): see `correct`."""
        return self.correct(self.read(start, stop))

    def read(self, start: int, stop: int) -> RawRows:
        """Raw counts that corrected rows [start, stop) are made of."""
        low, high = self._raw_range(start, stop)
        # Read here, all of them: HDF5 reads one thing at a time, and correcting must not wait for the next rows.
        counts, dark = self.selected.read_rows(low, high), self.selected.dark_field(low, high)
        return RawRows(counts, dark, self._flat(*self._inner_range(start, stop)), low, start, stop)

    def correct(self, raw: RawRows) -> tuple[NDArray[np.float32], int]:
        """Corrected projections of what was read.

        Returns
        -------
        projections : (angles, rows, columns) float32
            Line integrals, dimensionless.
        mended : int
            Values without a usable count that were mended from their neighbours, in the rows that were read.
        """
        if self._device.is_gpu and self.fits_gpu:
            return self.correct_on(self._device.torch_name, raw)
        parameters = self._parameters
        inner = self._inner_range(raw.start, raw.stop)
        counts, flat = self._without_zingers(raw, *inner), raw.flat
        dark = raw.dark[inner[0] - raw.first : inner[1] - raw.first]
        bad = None if self._bad_pixels is None else self._bad_pixels[inner[0] : inner[1]]
        if self._geometry.is_identity and self._phase is None:
            projections, mended = line_integrals(counts, flat, dark, parameters.minimum_transmission, bad_pixels=bad)
        else:
            transmissions, mended = transmission(counts, flat, dark, bad_pixels=bad)
            del counts
            # What the logarithm could not take would else be spread over the pixels around.
            np.maximum(transmissions, np.float32(parameters.minimum_transmission), out=transmissions)
            transmissions = self._straightened(transmissions, inner[0], raw)
            projections, _ = minus_log(transmissions, parameters.minimum_transmission, out=transmissions)
        if parameters.beam_hardening:
            projections = correct_beam_hardening(projections, parameters.beam_hardening, out=projections)
        projections = remove_stripes(projections, stripe_settings(parameters))
        return projections if self._join is None else self._join.join(projections), mended

    @property
    def joins(self) -> bool:
        """Whether the halves of a double field of view are joined."""
        return self._join is not None

    @property
    def fits_gpu(self) -> bool:
        """Whether every step that is wanted can be done by `correct_on`; else the CPU does all of them."""
        parameters = self._parameters
        zingers_fit = not parameters.zinger_threshold or (
            parameters.zinger_size == 3 and parameters.zinger_neighborhood == "projection"
        )
        stripes_fit = parameters.stripe_removal in ("none", "fourier_wavelet")
        return has_torch() and zingers_fit and self._geometry.is_identity and stripes_fit

    def correct_on(self, torch_name: str, raw: RawRows) -> tuple[NDArray[np.float32], int]:
        """As `correct`, on a PyTorch device: the same numbers to rounding, and the same bits however rows are cut."""
        projections, mended = self.corrected_tensor(torch_name, raw)
        return self.join(projections.cpu().numpy()), mended

    def corrected_tensor(self, torch_name: str, raw: RawRows) -> tuple[Any, int]:
        """As `correct_on`, left on the device, and halves of a double field of view not joined."""
        from .preprocessing import on_device  # imports PyTorch, which a CPU worker need not have

        def there(array: NDArray[Any]) -> Any:
            return on_device.to_device(array, torch_name)

        parameters = self._parameters
        low, high = self._inner_range(raw.start, raw.stop)
        inner = slice(low - raw.first, high - raw.first)
        counts = there(raw.counts)
        if parameters.zinger_threshold:
            counts = on_device.remove_zingers(counts, there(raw.dark), parameters.zinger_threshold)
        counts, dark = counts[:, inner], raw.dark[inner]
        flat = raw.flat if isinstance(raw.flat, OpenBeam) else there(raw.flat)
        bad = None if self._bad_pixels is None else there(self._bad_pixels[low:high]) > 0
        minimum = parameters.minimum_transmission
        if self._phase is None:
            projections, mended = on_device.line_integrals(counts, flat, there(dark), minimum, bad_pixels=bad)
        else:
            transmissions, mended = on_device.transmission(counts, flat, there(dark), bad_pixels=bad)
            rows = self._geometry.output_shape[0]
            transmissions = on_device.retrieve_phase(
                self._phase, transmissions.clamp(min=minimum), low, raw.start, raw.stop, rows
            )
            projections, _ = on_device.minus_log(transmissions, minimum)
        if parameters.beam_hardening:
            projections = on_device.correct_beam_hardening(projections, parameters.beam_hardening)
        if parameters.stripe_removal != "none":
            settings = stripe_settings(parameters)
            projections = on_device.remove_stripes_fourier_wavelet(
                projections, settings.level, settings.wavelet or "sym16", settings.sigma or 1.0, settings.limit
            )
        return projections, mended

    def join(self, projections: NDArray[np.float32]) -> NDArray[np.float32]:
        """Projections with a wider field of view, of corrected ones whose halves are not yet joined."""
        return projections if self._join is None else self._join.join(projections)

    def transmission(self, row: int) -> NDArray[np.float32]:
        """Transmissions of a detector row that a corrected row is made of, (angles, 1, columns) float32, not clipped."""
        row = self._geometry.reach(row, row + 1)[0]
        counts, dark = self.selected.read_rows(row, row + 1), self.selected.dark_field(row, row + 1)
        return transmission(counts, self._flat(row, row + 1), dark)[0]

    def check_flats(self) -> None:
        """Refuse flats that the method cannot do with, before anything starts: raises as `flat_fields.check_flats`."""
        check_flats(self.selected, self._parameters.flat_field, self._parameters.flat_components)

    def fit_eigen_flats(self) -> EigenFlats:
        """Eigen-flats for dynamic flats, one for the whole scan; raises as `flat_fields.fit_eigen_flats`."""
        parameters = self._parameters
        return fit_eigen_flats(
            self.selected,
            parameters.flat_components,
            zinger_threshold=parameters.zinger_threshold,
            bad_pixels=self._bad_pixels,
        )

    def _raw_range(self, start: int, stop: int) -> tuple[int, int]:
        """Rows of the selected scan that corrected rows [start, stop) are made of, those that zingers are told by among them."""
        rows = self.selected.shape[1]
        low, high = self._inner_range(start, stop)
        reach = zingers.reach_rows(self._parameters.zinger_size) if self._parameters.zinger_threshold else 0
        return max(0, low - reach), min(rows, high + reach)

    def _inner_range(self, start: int, stop: int) -> tuple[int, int]:
        """The same without those that only zingers are told by."""
        return self._geometry.reach(*self._filtered_range(start, stop))

    def _filtered_range(self, start: int, stop: int) -> tuple[int, int]:
        """Straightened rows that the phase filter needs for [start, stop)."""
        if self._phase is None:
            return start, stop
        return self._phase.reach(start, stop, self._geometry.output_shape[0])

    def _without_zingers(self, raw: RawRows, low: int, high: int) -> NDArray[Any]:
        """Counts of rows [low, high) of the selected scan."""
        parameters, counts = self._parameters, raw.counts
        if parameters.zinger_threshold:
            counts = zingers.remove_zingers(
                counts,
                raw.dark,
                parameters.zinger_threshold,
                size=parameters.zinger_size,
                neighborhood=parameters.zinger_neighborhood,
            )
        return np.ascontiguousarray(counts[:, low - raw.first : high - raw.first])

    def _flat(self, start: int, stop: int) -> NDArray[np.float32] | OpenBeam:
        """Flat field of some rows of the selected scan."""
        return open_beam_of_rows(
            self.selected,
            start,
            stop,
            self._parameters.flat_field,
            zinger_threshold=self._parameters.zinger_threshold,
            eigen_flats=self._resolved.eigen_flats,
        )

    def _straightened(self, transmissions: NDArray[np.float32], first: int, raw: RawRows) -> NDArray[np.float32]:
        """Geometry corrected, binned and phase retrieved."""
        low, high = self._filtered_range(raw.start, raw.stop)
        transmissions = self._geometry.apply(transmissions, first, low, high)
        if self._phase is not None:
            rows = self._geometry.output_shape[0]
            transmissions = self._phase(transmissions, low, raw.start, raw.stop, rows)
        return transmissions

    def _read_bad_pixels(self) -> NDArray[np.bool_] | None:
        """Map of bad pixels in the selected region."""
        path = self._parameters.bad_pixel_map
        if path is None:
            return None
        try:
            whole = read_bad_pixels(path, self.selected.scan.shape[1:])
        except InputError as error:
            raise InputError(f"preprocessing.{error}") from None
        return np.ascontiguousarray(whole[slice(*self.selected.rows), slice(*self.selected.columns)])

    def _phase_filter(self) -> PaganinFilter | None:
        parameters, resolved = self._parameters, self._resolved
        if parameters.phase_retrieval == "none":
            return None
        missing = {
            "scan.pixel_size_um": resolved.voxel_size_um,
            "scan.energy_kev": resolved.energy_kev,
            "scan.distance_mm": resolved.distance_mm,
        }
        unknown = [name for name, value in missing.items() if value is None]
        if unknown:
            raise ParameterError(
                f"preprocessing.phase_retrieval={parameters.phase_retrieval}: {self.selected.path.name} does not say "
                f"{', '.join(name.partition('.')[2] for name in unknown)}; give {' and '.join(unknown)}"
            )
        assert (
            resolved.voxel_size_um is not None and resolved.energy_kev is not None and resolved.distance_mm is not None
        )
        delta_beta = parameters.delta_beta
        if delta_beta is None:
            assert parameters.paganin_alpha is not None
            delta_beta = delta_beta_of_alpha(parameters.paganin_alpha)
        return PaganinFilter(
            self._geometry.output_shape[1],
            pixel_size_um=resolved.voxel_size_um[2],
            row_spacing_um=resolved.voxel_size_um[0],
            energy_kev=resolved.energy_kev,
            distance_mm=resolved.distance_mm,
            delta_beta=delta_beta,
        )


def stripe_settings(parameters: PreprocessingParameters) -> StripeSettings:
    """What `stripes` takes, from a user's parameters."""
    return StripeSettings(
        method=parameters.stripe_removal,
        level=parameters.stripe_level,
        wavelet=parameters.stripe_wavelet,
        sigma=parameters.stripe_sigma,
        limit=parameters.stripe_limit,
        snr=parameters.stripe_snr,
        large_size=parameters.stripe_large_size,
        small_size=parameters.stripe_small_size,
        alpha=parameters.stripe_alpha,
    )


def corrected_with(parameters: Parameters, resolved: Mapping[str, Any]) -> dict[str, Any]:
    """What determines corrected projections besides the section of preprocessing: for digests."""
    scan = parameters.scan.model_dump(mode="json")
    # These count where they are used: the sizes of pixels, energy and distance as resolved, the field of view below.
    for name in ("pixel_size_um", "row_spacing_um", "energy_kev", "distance_mm", "field_of_view"):
        del scan[name]
    used: dict[str, Any] = {"scan": scan, "bad_pixel_map": resolved["bad_pixel_map_checksum"]}
    if parameters.preprocessing.phase_retrieval != "none":
        used |= {name: resolved[name] for name in ("voxel_size_um", "energy_kev", "distance_mm")}
    if resolved["field_of_view"] == "double":
        used["joined_at"] = resolved["center_px"]
    return used


def bad_pixels_checksum(parameters: PreprocessingParameters) -> str | None:
    """Checksum of the file with the map of bad pixels, None without one; raises `InputError` where it cannot be read."""
    if parameters.bad_pixel_map is None:
        return None
    file, within, _ = parameters.bad_pixel_map.rpartition(":/")
    path = Path(file if within else parameters.bad_pixel_map)
    if not path.is_file():
        raise InputError(f"preprocessing.bad_pixel_map={parameters.bad_pixel_map}: no such file where the scan is read")
    return file_checksum(path)


def _pair(limits: list[int] | None) -> tuple[int, int] | None:
    return None if limits is None else (limits[0], limits[1])
