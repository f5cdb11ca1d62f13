"""Reading raw scans (Data Exchange, NXtomo) by rows or by projections, and refusing those that cannot be used.

Numbers come out as the detector wrote them; correcting them is the work of `preprocessing`.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import h5py
import hdf5plugin  # noqa: F401  (its import registers the compression filters)
import numpy as np
from numpy.typing import NDArray

from .errors import ParameterError, ScanError

Layout = Literal["data-exchange", "nxtomo"]


@dataclass(frozen=True)
class ScanMetadata:
    """What the file says about the measurement; None where it says nothing or nothing plausible.

    Attributes
    ----------
    pixel_size_um : float or None
        Size of a pixel at the sample, micrometres. Data Exchange: `detection_system/objective/resolution`, which is
        the pixel size at the sample; else `detector/pixel_size` (that of the sensor) times `detector/binning_x`
        divided by `objective/magnification`. A sensor's pixel size without a magnification is not used.
        NXtomo: `sample/x_pixel_size`, else `detector/x_pixel_size`.
    energy_kev : float or None
        Photon energy, keV.
    distance_mm : float or None
        Distance from sample to detector, millimetres.
    exposure_time_s : float or None
        Exposure of one projection, seconds.
    magnification : float or None
        Magnification of the objective.
    sample, proposal, experimenter, beamline : str or None
        As written in the file.
    start_time : str or None
        ISO 8601 in UTC where the file gives the time zone, ISO 8601 without a zone where it does not, and the file's
        own words where they are not ISO 8601.
    """

    pixel_size_um: float | None = None
    energy_kev: float | None = None
    distance_mm: float | None = None
    exposure_time_s: float | None = None
    magnification: float | None = None
    sample: str | None = None
    proposal: str | None = None
    experimenter: str | None = None
    beamline: str | None = None
    start_time: str | None = None


@dataclass(frozen=True)
class ScanQuality:
    """What `validate` counted in a scan that it accepts.

    Attributes
    ----------
    values_checked : bool
        False where only the structure was looked at; all else is zero then.
    nonfinite_count, nonfinite_fraction : int, float
        NaN and infinite values among the projections.
    nonfinite_flat_count, nonfinite_dark_count : int
        The same among flats and darks.
    saturated_fraction : float
        Share of values at the top of an integer dtype, in at most 16 projections spread over the scan.
    dead_pixel_count : int
        Pixels of the detector whose flat field is not above their dark field.
    """

    values_checked: bool = False
    nonfinite_count: int = 0
    nonfinite_fraction: float = 0.0
    nonfinite_flat_count: int = 0
    nonfinite_dark_count: int = 0
    saturated_fraction: float = 0.0
    dead_pixel_count: int = 0


def open_scan(path: Path | str) -> Scan:
    """Open a raw scan for reading.

    Understood are Data Exchange (`/exchange/data`, `data_white`, `data_dark`, `theta`; APS 2-BM, 7-BM, 32-ID) and
    NXtomo (`image_key`, `data`, `rotation_angle`), with any integer or float dtype, chunking and compression.

    Parameters
    ----------
    path : Path or str
        The HDF5 file.

    Returns
    -------
    Scan
        Open until its `close` or the end of its `with` block.

    Raises
    ------
    ScanError
        The file is missing, truncated, no HDF5 or neither layout, or lacks projections or angles.
    """
    path = Path(path)
    file = _open_file(path)
    try:
        with _reading(path, "/"):
            return _open_layout(path, file)
    except BaseException:
        file.close()
        raise


class Scan:
    """A raw scan, open for reading; made by `open_scan`.

    Attributes
    ----------
    path : Path
        The file.
    layout : {"data-exchange", "nxtomo"}
        How the file is laid out.
    shape : tuple of int
        Projections: (angles, rows, columns).
    dtype : numpy.dtype
        Of the projections, in native byte order.
    theta_deg : (angles,) float64 ndarray
        Angle of each projection, degrees. Its length is the file's own: `validate` holds it to `shape`.
    n_flats, n_darks : int
        Number of flat and dark frames.
    metadata : ScanMetadata
        What the file says about the measurement.
    """

    def __init__(
        self,
        path: Path,
        file: h5py.File,
        layout: Layout,
        frames: _ScanFrames,
        theta: _Theta,
        metadata: ScanMetadata,
    ) -> None:
        self.path = path
        self.layout = layout
        self.theta_deg = theta.degrees
        self.metadata = metadata
        self._file = file
        self._frames = frames
        self._theta_name = theta.name

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; reading is over."""
        self._file.close()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Projections: (angles, rows, columns)."""
        projections = self._frames.projections
        return (projections.count, *projections.frame_shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the projections, in native byte order."""
        return self._frames.projections.dtype

    @property
    def n_flats(self) -> int:
        """Number of flat frames."""
        return self._frames.flats.count

    @property
    def n_darks(self) -> int:
        """Number of dark frames."""
        return self._frames.darks.count

    def read_rows(self, start: int, stop: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Read detector rows `start` to `stop` of every projection.

        Parameters
        ----------
        start, stop : int
            Half-open range of rows.
        out : (angles, stop - start, columns) ndarray, optional
            Filled and returned instead of a new array; of the scan's dtype, C-contiguous.

        Returns
        -------
        (angles, stop - start, columns) ndarray
            Raw counts in the scan's dtype.

        Raises
        ------
        ScanError
            The file cannot be read there.
        """
        projections = self._frames.projections
        return projections.read((0, projections.count), (start, stop), out)

    def read_projections(self, start: int, stop: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Read projections `start` to `stop` whole: (stop - start, rows, columns); else as `read_rows`."""
        projections = self._frames.projections
        return projections.read((start, stop), (0, projections.frame_shape[0]), out)

    def flats(self, rows: slice | None = None) -> NDArray[Any]:
        """Read the flat frames, whole or a range of rows: (n_flats, rows, columns), raw.

        Raises
        ------
        ScanError
            There are none, or they do not fit the projections, or they cannot be read.
        """
        return self._reference("flats", rows)

    def darks(self, rows: slice | None = None) -> NDArray[Any]:
        """Read the dark frames, whole or a range of rows: (n_darks, rows, columns), raw; raises as `flats`."""
        return self._reference("darks", rows)

    def flat_field(self, start: int, stop: int) -> NDArray[np.float32]:
        """Flat field of the detector rows `start` to `stop`: what a pixel counts with the beam and no sample.

        The median over frames where there are three or more, so that a zinger in one of them does no harm; else the
        mean. Computed in float64 from the finite values of each pixel alone.

        Returns
        -------
        (stop - start, columns) float32 ndarray
            Counts; NaN where a pixel has no finite value.

        Raises
        ------
        ScanError
            As `flats`.
        """
        return self._field("flats", start, stop)

    def dark_field(self, start: int, stop: int) -> NDArray[np.float32]:
        """Dark field of the detector rows `start` to `stop`: what a pixel counts without beam; as `flat_field`."""
        return self._field("darks", start, stop)

    def _reference(self, kind: Literal["flats", "darks"], rows: slice | None) -> NDArray[Any]:
        frames = _checked_reference(self, kind)
        start, stop, step = (rows or slice(None)).indices(self.shape[1])
        if step != 1:
            raise ValueError(f"rows must be a slice with step 1, not {rows}")
        return frames.read((0, frames.count), (start, max(start, stop)))

    def _field(self, kind: Literal["flats", "darks"], start: int, stop: int) -> NDArray[np.float32]:
        frames = _checked_reference(self, kind)
        row_values = frames.count * self.shape[2]
        field = np.empty((stop - start, self.shape[2]), np.float32)
        for first, last in _row_blocks(start, stop, row_values * frames.dtype.itemsize):
            stack = frames.read((0, frames.count), (first, last))
            block = field[first - start : last - start]
            for top, bottom in _row_blocks(0, last - first, row_values * 8, _CACHE_BYTES):
                block[top:bottom] = _combine_frames(stack[:, top:bottom])
        return field


def validate(scan: Scan, check_values: bool = True) -> ScanQuality:
    """Refuse a scan that cannot be reconstructed, before any stage starts.

    Parameters
    ----------
    scan : Scan
        An open scan.
    check_values : bool
        Also read flats, darks and float projections to count bad values; in blocks of at most 64 MiB.

    Returns
    -------
    ScanQuality
        What was counted: bad values that are few enough to mend.

    Raises
    ------
    ScanError
        Empty or incomplete data, missing or unfitting flats or darks, unusable angles, no beam on the flats, whole
        frames or more than 1 % of NaN or infinite values. One message: file, dataset, what was found, what is needed.
    """
    _check_projections(scan)
    _checked_reference(scan, "flats")
    _checked_reference(scan, "darks")
    _check_theta(scan)
    projections, flats, darks = scan._frames.projections, scan._frames.flats, scan._frames.darks
    for frames in _distinct(projections, flats, darks):
        _check_virtual_sources(frames)
    # darks may stay unwritten: they read as zeros, which is what a counting detector records
    for frames in _distinct(projections, flats):
        _check_written(frames)
    if not check_values:
        return ScanQuality()
    nonfinite_count = _count_nonfinite(projections)
    return ScanQuality(
        values_checked=True,
        nonfinite_count=nonfinite_count,
        nonfinite_fraction=nonfinite_count / math.prod(scan.shape),
        nonfinite_flat_count=_count_nonfinite(flats),
        nonfinite_dark_count=_count_nonfinite(darks),
        saturated_fraction=_saturated_fraction(projections),
        dead_pixel_count=_check_beam(scan),
    )


def validate_scan_id(text: str) -> str:
    """Return a scan id that is safe as the name of a folder, or raise `ParameterError` with the remedy."""
    if not _SCAN_ID.fullmatch(text):
        raise ParameterError(
            f"scan id {text!r}: only letters, digits, '.', '_' and '-' are allowed, the first a letter or digit, "
            "at most 100 of them; give another with --scan-id"
        )
    return text


def scan_id_from_path(path: Path | str) -> str:
    """Scan id of a file: its name without the last suffix; raises `ParameterError` where that is no scan id."""
    return validate_scan_id(Path(path).stem)


# --- helpers --------------------------------------------------------------------------------------------------------

_SCAN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_BLOCK_BYTES = 64 * 2**20
_CACHE_BYTES = 2**20
_MAX_NONFINITE_FRACTION = 0.01
_MIN_THETA_RANGE_DEG = 1.0
_SATURATION_SAMPLE = 16
_MAX_BEAM_SAMPLE = 2**21
_MAX_WALK_DEPTH = 8
_MAX_WALK_OBJECTS = 20_000
_LAYOUTS = (
    "understood are Data Exchange (/exchange/data, data_white, data_dark, theta) and NXtomo (image_key, data, "
    "rotation_angle)"
)
# What h5py raises on damaged files, broken links, missing filters and types that numpy lacks.
_HDF5_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, MemoryError)


@dataclass(frozen=True)
class _Frames:
    """Frames of one kind: which frames of which dataset; or one constant frame where there is no dataset."""

    path: Path
    name: str
    dataset: Any
    runs: tuple[tuple[int, int], ...]
    frame_shape: tuple[int, int]
    dtype: np.dtype[Any]
    constant: float = 0.0

    @property
    def count(self) -> int:
        return sum(length for _, length in self.runs)

    def refusal(self, found: str) -> ScanError:
        return _refusal(self.path, self.name, found)

    def read(self, frames: tuple[int, int], rows: tuple[int, int], out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Read a range of frames and rows: (frames, rows, columns)."""
        _check_range("frames", frames, self.count)
        _check_range("rows", rows, self.frame_shape[0])
        shape = (frames[1] - frames[0], rows[1] - rows[0], self.frame_shape[1])
        if out is None:
            out = np.empty(shape, self.dtype)
        elif out.shape != shape or out.dtype != self.dtype or not out.flags.c_contiguous:
            raise ValueError(f"out must be a C-contiguous {shape} array of {self.dtype}")
        if out.size == 0:
            return out
        if self.dataset is None:
            out[...] = self.constant
            return out
        with _reading(self.path, self.name):
            for source, target in self._pieces(*frames):
                if self.dataset.ndim == 2:
                    self.dataset.read_direct(out, np.s_[slice(*rows), :], np.s_[target])
                else:
                    self.dataset.read_direct(out, np.s_[source, slice(*rows), :], np.s_[target])
        return out

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[slice, slice]]:
        """Contiguous pieces of the dataset that hold frames `start` to `stop`, and where they go."""
        offset = 0
        for first, length in self.runs:
            low, high = max(start, offset), min(stop, offset + length)
            if low < high:
                yield slice(first + low - offset, first + high - offset), slice(low - start, high - start)
            offset += length


@dataclass(frozen=True)
class _Theta:
    """Angles of the projections, and the dataset that they come from."""

    name: str
    degrees: NDArray[np.float64]


@dataclass(frozen=True)
class _ScanFrames:
    """The three kinds of frames of a scan."""

    projections: _Frames
    flats: _Frames
    darks: _Frames


def _refusal(path: Path, dataset: str, found: str) -> ScanError:
    return ScanError(f"{path}: {dataset}: {found}")


@contextmanager
def _reading(path: Path, dataset: str) -> Iterator[None]:
    """Turn whatever HDF5 raises while a dataset is read into one `ScanError` that names it."""
    try:
        yield
    except ScanError:
        raise
    except _HDF5_ERRORS as error:
        reason = str(error).strip("'\"") or type(error).__name__
        remedy = "copy the file again from its source, and check the files that it links to"
        raise _refusal(path, dataset, f"cannot be read ({reason}); {remedy}") from error


def _check_range(what: str, limits: tuple[int, int], size: int) -> None:
    if not 0 <= limits[0] <= limits[1] <= size:
        raise ValueError(f"{what} {limits[0]}:{limits[1]} lie outside 0:{size}")


# --- opening a file -------------------------------------------------------------------------------------------------


def _open_file(path: Path) -> h5py.File:
    try:
        if path.is_dir():
            raise ScanError(f"{path}: is a directory; name the HDF5 file of one scan")
        # "best-effort": file systems without locks (many parallel ones) are no reason to fail
        return h5py.File(path, "r", locking="best-effort")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ScanError(f"{path}: no such file; check the path") from error
    except PermissionError as error:
        raise ScanError(f"{path}: may not be read by this user; ask its owner for read permission") from error
    except _HDF5_ERRORS as error:
        raise ScanError(f"{path}: {_why_not_opened(path, str(error))}") from error


def _why_not_opened(path: Path, reason: str) -> str:
    truncated = re.search(r"truncated file: eof = (\d+).*stored_eof = (\d+)", reason)
    if truncated:
        present, expected = truncated.groups()
        return f"truncated HDF5 file: has {present} bytes, should have {expected}; copy it again from its source"
    if "file signature not found" in reason:
        if path.stat().st_size == 0:
            return "is empty (0 bytes); copy it again from its source"
        return f"is not an HDF5 file; {_LAYOUTS}: convert other formats first: tomopipe convert --help"
    if "lock" in reason or "already open" in reason:
        return f"is still open for writing ({reason}); wait until the detector has closed it"
    return f"cannot be opened as HDF5 ({reason}); copy it again from its source"


def _open_layout(path: Path, file: h5py.File) -> Scan:
    if _has(file, "/exchange/data"):
        return _open_data_exchange(path, file)
    candidates = _find_nxtomo(file)
    if candidates:
        return _open_nxtomo(path, file, candidates)
    if _has(file, "/exchange"):
        raise _refusal(path, "/exchange/data", f"not found; {_LAYOUTS}; the file holds {_outline(file)}")
    raise ScanError(f"{path}: neither Data Exchange nor NXtomo; {_LAYOUTS}; the file holds {_outline(file)}")


def _has(file: h5py.File, name: str) -> bool:
    """Whether there is a link of this name, be it broken."""
    return file.get(name, getlink=True) is not None


def _dataset(path: Path, file: h5py.File, name: str) -> h5py.Dataset:
    with _reading(path, name):
        found = file[name]
    if not isinstance(found, h5py.Dataset):
        raise _refusal(path, name, "is a group; a dataset is needed")
    return found


def _frames(path: Path, name: str, dataset: h5py.Dataset, runs: Sequence[tuple[int, int]] | None = None) -> _Frames:
    """Frames of a dataset: all of them, or those of the runs; a 2-D dataset is one frame."""
    with _reading(path, name):
        shape, dtype = dataset.shape, np.dtype(dataset.dtype)
    if dtype.kind not in "iuf":
        raise _refusal(path, name, f"holds {dtype}; integer or floating-point counts are needed")
    if shape is None or len(shape) not in (2, 3):
        raise _refusal(path, name, f"has shape {shape}; frames (frames, rows, columns) are needed")
    _check_filters(path, name, dataset)
    if runs is None:
        runs = [(0, shape[0] if len(shape) == 3 else 1)]
    return _Frames(path, name, dataset, tuple(runs), (shape[-2], shape[-1]), dtype.newbyteorder("="))


def _check_filters(path: Path, name: str, dataset: h5py.Dataset) -> None:
    """HDF5's own message for a filter that is not installed speaks of a folder of plugins."""
    with _reading(path, name):
        filters = dataset.id.get_create_plist()
        used = [filters.get_filter(index) for index in range(filters.get_nfilters())]
    for number, _, _, label in used:
        if not h5py.h5z.filter_avail(number):
            raise _refusal(
                path,
                name,
                f"is compressed with filter {number} ({_text(label)}), which is not installed here; "
                "rewrite the file with one that hdf5plugin has",
            )


def _projections(
    path: Path, name: str, dataset: h5py.Dataset, runs: Sequence[tuple[int, int]] | None = None
) -> _Frames:
    frames = _frames(path, name, dataset, runs)
    if dataset.ndim != 3:
        raise _refusal(path, name, f"has shape {dataset.shape}; three dimensions (angles, rows, columns) are needed")
    return frames


def _degrees(path: Path, name: str, dataset: h5py.Dataset) -> NDArray[np.float64]:
    """Angles of a dataset in degrees, honouring its `units` attribute."""
    with _reading(path, name):
        if dataset.ndim != 1 or np.dtype(dataset.dtype).kind not in "iuf":
            raise _refusal(path, name, f"is {dataset.dtype} of shape {dataset.shape}; one number an angle is needed")
        units = _text(dataset.attrs.get("units"))
        angles = dataset[()].astype(np.float64)
    factor = _factor(_ANGLE_DEG, units, "deg")
    if factor is None:
        raise _refusal(path, name, f"has units {units!r}; degrees or radians are needed")
    if units is None and _looks_like_radians(angles):
        raise _refusal(
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
    projections = _projections(path, name, _dataset(path, file, name))
    frames = _ScanFrames(
        projections,
        _exchange_reference(path, file, projections, "/exchange/data_white", "flat"),
        _exchange_reference(path, file, projections, "/exchange/data_dark", "dark"),
    )
    theta = _exchange_theta(path, file, projections.count)
    return Scan(path, file, "data-exchange", frames, theta, _exchange_metadata(file))


def _exchange_reference(
    path: Path, file: h5py.File, projections: _Frames, name: str, kind: Literal["flat", "dark"]
) -> _Frames:
    """Flats or darks; or the constant that TomoScan notes where it was told to record none."""
    none = replace(projections, name=name, dataset=None, runs=())
    frames = _frames(path, name, _dataset(path, file, name)) if _has(file, name) else none
    constant = _exchange_constant(file, kind)
    if constant is None or frames.count > 1:
        return frames
    # without frames of its own the file plugin leaves one frame of zeros
    if frames.count == 1 and frames.read((0, 1), (0, frames.frame_shape[0])).any():
        return frames
    return replace(none, runs=((0, 1),), dtype=np.dtype(np.float32), constant=constant)


def _exchange_constant(file: h5py.File, kind: Literal["flat", "dark"]) -> float | None:
    meta = _Metadata(file)
    group = f"/process/acquisition/{kind}_fields"
    mode = meta.text(f"{group}/mode", f"{group}/{kind}_field_mode")
    if mode is not None and mode.lower() != "none":
        return None
    return meta.quantity((f"{group}/value", f"{group}/{kind}_field_value"), _COUNTS, "count")


def _exchange_theta(path: Path, file: h5py.File, angles: int) -> _Theta:
    name = "/exchange/theta"
    if _has(file, name):
        return _Theta(name, _degrees(path, name, _dataset(path, file, name)))
    group = "/process/acquisition/rotation"
    meta = _Metadata(file)
    start = meta.number((f"{group}/start", f"{group}/rotation_start"), _ANGLE_DEG, "deg")
    step = meta.number((f"{group}/step", f"{group}/rotation_step"), _ANGLE_DEG, "deg")
    number = meta.number((f"{group}/num_angles",), _NO_UNIT, "")
    if start is None or step is None:
        raise _refusal(
            path, name, f"not found, nor {group}/start and step; the angle of each projection is needed, in degrees"
        )
    if number is not None and number != angles:
        raise _refusal(
            path,
            name,
            f"not found, and {group}/num_angles is {number:g} while /exchange/data holds {angles} projections: "
            "frames were lost; write the angle of each projection into it",
        )
    return _Theta(group, start + step * np.arange(angles, dtype=np.float64))


def _exchange_metadata(file: h5py.File) -> ScanMetadata:
    meta = _Metadata(file)
    instrument, sample = "/measurement/instrument", "/measurement/sample"
    objective = f"{instrument}/detection_system/objective"
    magnification = meta.magnification(f"{objective}/magnification", f"{objective}/camera_objective")
    pixel_size = meta.quantity((f"{objective}/resolution",), _LENGTH_UM, "um", _PIXEL_SIZE_UM)
    sensor_pixel = meta.quantity((f"{instrument}/detector/pixel_size",), _LENGTH_UM, "um")
    if pixel_size is None and sensor_pixel and magnification:
        binning = meta.quantity((f"{instrument}/detector/binning_x",), _NO_UNIT, "") or 1.0
        pixel_size = _plausible(sensor_pixel * binning / magnification, _PIXEL_SIZE_UM)
    distance = (
        f"{instrument}/detector_motor_stack/setup/z",
        f"{instrument}/sample_motor_stack/detector_distance",
        f"{instrument}/sample/detector_distance",
        f"{instrument}/camera/setup/camera_distance",
        f"{instrument}/camera_motor_stack/setup/camera_distance",
    )
    return ScanMetadata(
        pixel_size_um=pixel_size,
        energy_kev=meta.quantity((f"{instrument}/monochromator/energy",), _ENERGY_KEV, "keV", _PHOTON_ENERGY_KEV),
        distance_mm=meta.quantity(distance, _LENGTH_MM, "mm"),
        exposure_time_s=meta.quantity((f"{instrument}/detector/exposure_time",), _TIME_S, "s"),
        magnification=magnification,
        sample=meta.text(f"{sample}/name"),
        proposal=meta.text(f"{sample}/experiment/proposal"),
        experimenter=meta.text(f"{sample}/experimenter/name"),
        beamline=meta.text(f"{instrument}/source/beamline", f"{instrument}/name"),
        start_time=_iso_time(meta.text("/process/acquisition/start_date")),
    )


# --- NXtomo ---------------------------------------------------------------------------------------------------------


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
    for name, key in _walk(file):
        if name.rpartition("/")[2] != "image_key" or not isinstance(key, h5py.Dataset) or key.ndim != 1:
            continue
        data = _data_of(file, name)
        angle = (_nearest(file, data, _ROTATION_ANGLES, 1) if data else None) or _nearest(
            file, name, _ROTATION_ANGLES, 1
        )
        declared = any(_Metadata(file).text(f"{place}/definition") == "NXtomo" for place in _ancestors(name))
        found.append(_NXtomo(name, data, angle, declared))
    return found


def _data_of(file: h5py.File, image_key: str) -> str | None:
    """Data that an image key belongs to: of its own detector, even if broken; else the nearest."""
    own = _beside(image_key)
    if _has(file, own):
        found = _resolve(file, own)
        return own if isinstance(found, h5py.Dataset) and found.ndim == 3 else None
    return _nearest(file, image_key, ("data", "detector/data", "data/data", "tomo_entry/data/data"), 3)


def _beside(image_key: str) -> str:
    return f"{image_key.rpartition('/')[0]}/data"


_ROTATION_ANGLES = tuple(
    f"{entry}{group}rotation_angle"
    for entry in ("", "tomo_entry/")
    for group in ("", "data/", "sample/", "sample/transformations/")
)


def _open_nxtomo(path: Path, file: h5py.File, candidates: list[_NXtomo]) -> Scan:
    scan = _only_candidate(path, file, candidates)
    if scan.data is None:
        if _has(file, _beside(scan.image_key)):
            _projections(path, _beside(scan.image_key), _dataset(path, file, _beside(scan.image_key)))
        raise _refusal(path, scan.image_key, f"no data of three dimensions belongs to it; {_LAYOUTS}")
    if scan.rotation_angle is None:
        raise _refusal(path, scan.data, "no rotation_angle belongs to it; write one angle a frame, in degrees")
    dataset = _dataset(path, file, scan.data)
    with _reading(path, scan.image_key):
        key = np.asarray(file[scan.image_key][()])
    if key.size != dataset.shape[0]:
        raise _refusal(
            path, scan.image_key, f"has {key.size} entries, {scan.data} has {dataset.shape[0]} frames; one a frame"
        )
    frames = _ScanFrames(
        _projections(path, scan.data, dataset, _runs(key == 0)),
        _frames(path, f"{scan.data} (image_key 1)", dataset, _runs(key == 1)),
        _frames(path, f"{scan.data} (image_key 2)", dataset, _runs(key == 2)),
    )
    theta = _degrees(path, scan.rotation_angle, _dataset(path, file, scan.rotation_angle))
    # some writers note the angles of the projections alone
    if theta.size == key.size:
        theta = theta[key == 0]
    return Scan(path, file, "nxtomo", frames, _Theta(scan.rotation_angle, theta), _nxtomo_metadata(file, scan))


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


def _runs(selected: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Runs (first, length) of consecutive selected frames."""
    edges = np.flatnonzero(np.diff(selected, prepend=False, append=False)).tolist()
    return [(first, stop - first) for first, stop in zip(edges[::2], edges[1::2], strict=True)]


def _nxtomo_metadata(file: h5py.File, scan: _NXtomo) -> ScanMetadata:
    meta = _Metadata(file, tuple(_ancestors(scan.image_key)))
    detector = "instrument/detector"
    pixel_size = ("sample/x_pixel_size", "x_pixel_size", f"{detector}/x_pixel_size")
    energy = ("beam/incident_energy", "instrument/beam/incident_energy", "instrument/monochromator/energy")
    exposure = ("count_time", f"{detector}/count_time", f"{detector}/exposure_time")
    return ScanMetadata(
        pixel_size_um=meta.quantity(pixel_size, _LENGTH_UM, "m", _PIXEL_SIZE_UM),
        energy_kev=meta.quantity(energy, _ENERGY_KEV, "keV", _PHOTON_ENERGY_KEV),
        distance_mm=meta.quantity(("distance", f"{detector}/distance"), _LENGTH_MM, "m"),
        exposure_time_s=meta.quantity(exposure, _TIME_S, "s"),
        magnification=meta.magnification("magnification", f"{detector}/magnification"),
        sample=meta.text("sample/name"),
        proposal=meta.text("experiment_identifier", "sample/experiment_identifier"),
        experimenter=meta.text("user/name", "user01/name", "user01/username"),
        beamline=meta.text("beamline", "instrument/beamline", "instrument/name"),
        start_time=_iso_time(meta.text("start_time")),
    )


def _ancestors(name: str) -> Iterator[str]:
    """Groups above a name, the nearest first, the root as an empty name."""
    while name:
        name = name.rpartition("/")[0]
        yield name


def _nearest(file: h5py.File, name: str, relatives: Iterable[str], ndim: int) -> str | None:
    """Name of the dataset with `ndim` dimensions that is nearest to `name`, upwards, under one of the names."""
    for place in _ancestors(name):
        children = [f"{child}/{relative}" for child in _nexus_children(file, place) for relative in relatives]
        for relative in (*relatives, *children):
            found = _resolve(file, f"{place}/{relative}")
            if isinstance(found, h5py.Dataset) and found.ndim == ndim:
                return f"{place}/{relative}"
    return None


def _nexus_children(file: h5py.File, place: str) -> list[str]:
    group = _resolve(file, place or "/")
    if not isinstance(group, h5py.Group):
        return []
    wanted = {"NXdata", "NXdetector", "NXsample"}
    return [name for name, child in _children(group) if _nexus_class(child) in wanted]


def _nexus_class(found: Any) -> str | None:
    try:
        return _text(found.attrs.get("NX_class"))
    except _HDF5_ERRORS:
        return None


def _resolve(file: h5py.File, name: str) -> Any:
    """Object of a name; None where there is none or its link leads nowhere."""
    try:
        return file[name]
    except _HDF5_ERRORS:
        return None


def _children(group: h5py.Group) -> Iterator[tuple[str, Any]]:
    """Members of a group that can be opened: detectors leave links to files that stayed behind."""
    try:
        names = list(group)
    except _HDF5_ERRORS:
        return
    for name in names:
        child = _resolve(group, name)
        if child is not None:
            yield name, child


def _walk(file: h5py.File) -> Iterator[tuple[str, Any]]:
    """Objects of a file, the upper levels first, each group once; bounded, so that an odd file ends too."""
    groups: deque[tuple[str, Any]] = deque([("", file)])
    seen: set[Any] = set()
    count = 0
    while groups:
        prefix, group = groups.popleft()
        for name, child in _children(group):
            count += 1
            if count > _MAX_WALK_OBJECTS:
                return
            yield f"{prefix}/{name}", child
            if isinstance(child, h5py.Group) and prefix.count("/") < _MAX_WALK_DEPTH and child not in seen:
                seen.add(child)
                groups.append((f"{prefix}/{name}", child))


def _outline(file: h5py.File) -> str:
    """What is in a file, in few words: its images, else the members of its root."""
    images = (f"{name} {o.shape}" for name, o in _walk(file) if isinstance(o, h5py.Dataset) and o.ndim in (2, 3))
    found = [image for image, _ in zip(images, range(5), strict=False)]
    return ", ".join(found or [f"/{name}" for name, _ in _children(file)][:10]) or "nothing"


# --- metadata -------------------------------------------------------------------------------------------------------


def _units(spellings: Mapping[float, str]) -> dict[str, float]:
    """Factor of every spelling of a unit; lower case, singular, micro as u."""
    return {spelling: factor for factor, text in spellings.items() for spelling in text.split()}


_LENGTH_UM = _units(
    {
        1e6: "m meter metre",
        1e4: "cm centimeter centimetre",
        1e3: "mm millimeter millimetre",
        1.0: "um micron micrometer micrometre",
        1e-3: "nm nanometer nanometre",
        1e-4: "angstrom",
    }
)
_LENGTH_MM = {unit: factor * 1e-3 for unit, factor in _LENGTH_UM.items()}
_ENERGY_KEV = _units({1e-3: "ev", 1.0: "kev"})
_TIME_S = _units({60.0: "min minute", 1.0: "s sec second", 1e-3: "ms msec millisecond", 1e-6: "us microsecond"})
_ANGLE_DEG = _units({1.0: "deg degree \u00b0", math.degrees(1.0): "rad radian", math.degrees(1e-3): "mrad"})
_COUNTS = _units({1.0: "count"})
_NO_UNIT = {"": 1.0}
_POSITIVE = (0.0, math.inf)
_PIXEL_SIZE_UM = (1e-4, 1e4)
_PHOTON_ENERGY_KEV = (1e-2, 1e4)


class _Metadata:
    """Optional values of a file; each is None where it is absent, unreadable or implausible."""

    def __init__(self, file: h5py.File, places: Sequence[str] = ("",)) -> None:
        self._file = file
        self._places = places

    def text(self, *names: str) -> str | None:
        """First text under one of the names."""
        return next((text for value, _ in self._values(names) if (text := _text(value)) is not None), None)

    def number(self, names: Sequence[str], factors: Mapping[str, float], default_unit: str) -> float | None:
        """First finite number under one of the names, in the unit whose factor is 1."""
        for value, units in self._values(names):
            factor = _factor(factors, units, default_unit)
            number = _number(value)
            if factor is not None and number is not None:
                return number * factor
        return None

    def quantity(
        self,
        names: Sequence[str],
        factors: Mapping[str, float],
        default_unit: str,
        limits: tuple[float, float] = _POSITIVE,
    ) -> float | None:
        """First plausible (positive, within limits) number under one of the names."""
        numbers = (self.number((name,), factors, default_unit) for name in names)
        return next((number for number in numbers if _plausible(number, limits) is not None), None)

    def magnification(self, *names: str) -> float | None:
        """First magnification under one of the names: a number, or a text such as "5x" or "Mitutoyo 10X"."""
        for text in filter(None, (self.text(name) for name in names)):
            match = re.search(r"(\d+(?:\.\d*)?)\s*[xX×]", text)
            number = _plausible(_number(match.group(1) if match else text), _POSITIVE)
            if number is not None:
                return number
        return None

    def _values(self, names: Sequence[str]) -> Iterator[tuple[Any, str | None]]:
        """First element and units of every dataset under one of the names, the names in order."""
        for name in names:
            for place in self._places:
                found = _resolve(self._file, f"{place}/{name}")
                if not isinstance(found, h5py.Dataset) or not found.size:
                    continue
                try:
                    value = found[(0,) * found.ndim]
                    units = _text(found.attrs.get("units"))
                except _HDF5_ERRORS:
                    continue  # optional: what cannot be read is as good as absent
                yield value, units


def _text(value: Any) -> str | None:
    """Text of an HDF5 value; None for an empty one."""
    if isinstance(value, np.ndarray):
        value = value.flat[0] if value.size else None
    if value is None or isinstance(value, h5py.Empty):
        return None
    if isinstance(value, str):
        value = value.encode("utf-8", "surrogateescape")  # h5py hides bytes that are no UTF-8 that way
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError:
            value = value.decode("latin-1")
    return str(value).partition("\0")[0].strip() or None


def _number(value: Any) -> float | None:
    try:
        number = float(_text(value) or "nan")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _plausible(number: float | None, limits: tuple[float, float]) -> float | None:
    return number if number is not None and limits[0] < number < limits[1] else None


def _factor(factors: Mapping[str, float], units: str | None, default_unit: str) -> float | None:
    """Factor of a unit however it is spelled; None for one that is not known (no guess is better than a wrong one)."""
    # micro comes as U+00B5 or U+03BC; case carries no meaning among the prefixes that occur (k, m, u, n)
    unit = (units or default_unit).replace("\u00b5", "u").replace("\u03bc", "u").lower()
    return factors.get(unit, factors.get(unit.removesuffix("s")))


def _iso_time(text: str | None) -> str | None:
    """A time in ISO 8601, in UTC where its zone is known; other words unchanged."""
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return text
    if time.tzinfo is None:
        return time.isoformat()
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


# --- checks ---------------------------------------------------------------------------------------------------------


def _checked_reference(scan: Scan, kind: Literal["flats", "darks"]) -> _Frames:
    """Flats or darks, there and of the projections' shape."""
    frames = scan._frames.flats if kind == "flats" else scan._frames.darks
    if frames.count == 0:
        remedy = "record some with the beam on and the sample out of it"
        if kind == "darks":
            remedy = "record at least one with the beam off"
            if scan.layout == "data-exchange":
                remedy += ", or write their constant value to /process/acquisition/dark_fields/dark_field_value"
        raise frames.refusal(f"no {kind} found; {kind} are required: {remedy}")
    if frames.frame_shape != scan.shape[1:]:
        raise frames.refusal(
            f"its frames are {frames.frame_shape}, the projections' {scan.shape[1:]} (rows, columns); "
            f"{kind} of the same region and binning are needed",
        )
    return frames


def _check_projections(scan: Scan) -> None:
    name = scan._frames.projections.name
    if 0 in scan.shape[1:] or scan.shape[0] == 0:
        raise _refusal(
            scan.path, name, f"is empty: (angles, rows, columns) are {scan.shape}; the scan has no projections"
        )
    if scan.shape[0] < 2:
        raise _refusal(scan.path, name, "holds 1 projection; at least 2 are needed")


def _check_theta(scan: Scan) -> None:
    name = scan._theta_name
    theta, angles = scan.theta_deg, scan.shape[0]
    if theta.size != angles:
        raise _refusal(
            scan.path, name, f"has {theta.size} angles, the scan has {angles} projections; one angle each is needed"
        )
    bad = np.flatnonzero(~np.isfinite(theta))
    if bad.size:
        raise _refusal(
            scan.path, name, f"{bad.size} of {theta.size} angles are NaN or infinite ({_some(bad)}); write them anew"
        )
    if np.ptp(theta) < _MIN_THETA_RANGE_DEG:
        raise _refusal(
            scan.path,
            name,
            f"angles cover {np.ptp(theta):.6g} degrees, from {theta.min():.6g} to {theta.max():.6g}; 180 degrees are "
            f"needed, at least {_MIN_THETA_RANGE_DEG:g}: check that the stage turned and that units are right",
        )


def _distinct(*kinds: _Frames) -> Iterable[_Frames]:
    """Kinds of frames with datasets, each dataset once: NXtomo has all kinds in one."""
    return {frames.dataset: frames for frames in reversed(kinds) if frames.dataset is not None}.values()


def _check_virtual_sources(frames: _Frames) -> None:
    """HDF5 silently reads fill values where the source of a virtual dataset is missing."""
    with _reading(frames.path, frames.name):
        if not frames.dataset.is_virtual:
            return
        owner = Path(frames.dataset.file.filename)
        sources = sorted({(s.file_name, s.dset_name) for s in frames.dataset.virtual_sources()})
    for file_name, dataset_name in sources:
        if "%" in file_name + dataset_name:
            continue  # a pattern over as many files as there are
        nearby = owner.parent / file_name
        source = owner if file_name == "." else nearby if nearby.exists() else Path(file_name)
        with _open_file(source) as file:
            if dataset_name not in file:
                raise _refusal(source, dataset_name, f"not found, but {frames.path}: {frames.name} is made of it")


def _check_written(frames: _Frames) -> None:
    """A scan that was interrupted leaves chunks that were never written; they would read as zeros."""
    dataset = frames.dataset
    with _reading(frames.path, frames.name):
        layout = dataset.id.get_create_plist().get_layout()
        expected = written = 1
        if layout == h5py.h5d.CHUNKED:
            pairs = zip(dataset.shape, dataset.chunks, strict=True)
            expected, written = math.prod(-(-size // chunk) for size, chunk in pairs), dataset.id.get_num_chunks()
        elif layout == h5py.h5d.CONTIGUOUS and not dataset.external:
            written = int(dataset.id.get_storage_size() > 0)
    if written < expected:
        raise frames.refusal(
            f"{expected - written} of {expected} chunks were never written: the scan was interrupted; record it again",
        )


def _count_nonfinite(frames: _Frames) -> int:
    """Number of NaN and infinite values; refuses whole frames of them, or too many."""
    if frames.dtype.kind != "f":
        return 0
    rows, columns = frames.frame_shape
    counts = np.zeros(frames.count, np.int64)
    for some_frames, some_rows in _blocks(frames):
        finite = np.isfinite(frames.read(some_frames, some_rows))
        counts[slice(*some_frames)] += np.count_nonzero(~finite, axis=(1, 2))
    whole = np.flatnonzero(counts == rows * columns)
    if whole.size:
        raise frames.refusal(
            f"{whole.size} of {frames.count} frames are NaN or infinite altogether (frames {_some(whole)}); "
            "record them again or remove them together with their angles",
        )
    total = int(counts.sum())
    fraction = total / (frames.count * rows * columns)
    if fraction > _MAX_NONFINITE_FRACTION:
        raise frames.refusal(
            f"{total} values ({fraction:.2%}) are NaN or infinite, at most {_MAX_NONFINITE_FRACTION:.0%} is mended; "
            "write the file again from the detector's raw counts",
        )
    return total


def _saturated_fraction(projections: _Frames) -> float:
    """Share of values at the top of an integer dtype, in a fixed sample of projections."""
    if projections.dtype.kind == "f":
        return 0.0
    top = np.iinfo(projections.dtype).max
    sample = np.unique(np.linspace(0, projections.count - 1, _SATURATION_SAMPLE).round().astype(int)).tolist()
    rows, columns = projections.frame_shape
    saturated = 0
    for index in sample:
        for some_rows in _row_blocks(0, rows, columns * projections.dtype.itemsize):
            saturated += int(np.count_nonzero(projections.read((index, index + 1), some_rows) == top))
    return saturated / (len(sample) * rows * columns)


def _check_beam(scan: Scan) -> int:
    """Number of pixels whose flat field is not above their dark field; refuses flats that look like darks.

    The brightest tenth of the detector must stand out of the noise by three standard deviations. The noise is that of
    the difference of neighbouring columns, which the shape of the beam does not enter.
    """
    _, rows, columns = scan.shape
    dead, signals, steps = 0, [], []
    for start, stop in _row_blocks(0, rows, columns * 8):
        signal = scan.flat_field(start, stop).astype(np.float64) - scan.dark_field(start, stop)
        dead += int(np.count_nonzero(~(signal > 0)))
        signal = signal[:: max(1, rows * columns // _MAX_BEAM_SAMPLE)]
        step = np.diff(signal, axis=1)
        signals.append(signal[np.isfinite(signal)])
        steps.append(step[np.isfinite(step)])
    signal, step = np.concatenate(signals), np.concatenate(steps)
    noise = 1.4826 * float(np.median(np.abs(step - np.median(step)))) / math.sqrt(2) if step.size else 0.0
    bright = float(np.percentile(signal, 90)) if signal.size else 0.0
    if bright <= 3 * noise:
        flats, darks = scan._frames.flats, scan._frames.darks
        exchanged = " or they are exchanged" if signal.size and np.median(signal) < -3 * noise else ""
        raise _refusal(
            scan.path,
            flats.name,
            f"flats equal darks ({darks.name}): they differ by {bright:.6g} where the beam is brightest, with a noise "
            f"of {noise:.6g}: the beam was off{exchanged}; record flats with the beam on and the sample out of it",
        )
    return dead


def _combine_frames(stack: NDArray[Any]) -> NDArray[np.float32]:
    """Median (three frames or more) or mean over frames of the finite values of each pixel.

    Parameters
    ----------
    stack : (frames, rows, columns) ndarray
        Raw counts.

    Returns
    -------
    (rows, columns) float32 ndarray
        NaN where a pixel has no finite value.
    """
    values = stack.astype(np.float64)
    finite = np.isfinite(values)
    count = finite.sum(axis=0)
    # float32 holds less than float64 does: too large becomes infinite, as a plain conversion says
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        if len(stack) < 3:
            return np.asarray(np.where(finite, values, 0.0).sum(axis=0) / count, np.float32)
        # what is not finite sorts to the end, so the finite values of a pixel come first
        ordered = np.sort(np.where(finite, values, np.inf), axis=0)
        middle = np.stack([np.maximum(count - 1, 0) // 2, np.minimum(count // 2, len(stack) - 1)])
        median = np.take_along_axis(ordered, middle, axis=0).mean(axis=0)
        return np.where(count > 0, median, np.nan).astype(np.float32)


def _blocks(frames: _Frames) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Ranges of frames and rows that cover all frames, each at most 64 MiB."""
    rows, columns = frames.frame_shape
    row_bytes = columns * frames.dtype.itemsize
    step = max(1, _BLOCK_BYTES // max(1, rows * row_bytes))
    for first in range(0, frames.count, step):
        some_frames = (first, min(first + step, frames.count))
        for some_rows in _row_blocks(0, rows, row_bytes * (some_frames[1] - first)):
            yield some_frames, some_rows


def _row_blocks(start: int, stop: int, row_bytes: int, block_bytes: int | None = None) -> Iterator[tuple[int, int]]:
    """Ranges of rows of at most 64 MiB (or `block_bytes`) each, one row at least."""
    step = max(1, (block_bytes or _BLOCK_BYTES) // max(1, row_bytes))
    for first in range(start, stop, step):
        yield first, min(first + step, stop)


def _some(indices: NDArray[np.intp]) -> str:
    shown = ", ".join(str(index) for index in indices[:5])
    return shown + (", ..." if indices.size > 5 else "")
