"""The part of a scan that is used: a region of the detector, and its projections in order of angle without those left out.

`SelectedScan` stands wherever a `Scan` does. What the optics did to the picture is for `preprocessing.geometry_correction`,
joining the halves of a wider field of view for `preprocessing.double_field_of_view`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from .errors import ParameterError, ScanError
from .scan_metadata import ScanMetadata
from .scan_reader import Layout, Scan

_TURN_DEG: Final = 360.0
_SAME_ANGLE_DEG: Final = 1e-6
_FEWEST_PROJECTIONS: Final = 2
_BLOCK_BYTES: Final = 64 * 2**20

IndexRange = tuple[int, int]
"""First index and the one past the last."""


class ScanLike(Protocol):
    """What preprocessing needs of a scan: a `Scan`, or a `SelectedScan`."""

    @property
    def path(self) -> Path: ...
    @property
    def layout(self) -> Layout: ...
    @property
    def metadata(self) -> ScanMetadata: ...
    @property
    def shape(self) -> tuple[int, int, int]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def theta_deg(self) -> NDArray[np.float64]: ...
    @property
    def n_flats(self) -> int: ...
    @property
    def n_darks(self) -> int: ...
    def read_rows(self, start: int, stop: int, out: NDArray[Any] | None = None) -> NDArray[Any]: ...
    def read_projections(self, start: int, stop: int, out: NDArray[Any] | None = None) -> NDArray[Any]: ...
    def projection_positions(self) -> NDArray[np.float64]: ...
    def flat_positions(self) -> NDArray[np.float64] | None: ...
    def flats(self, rows: slice | None = None) -> NDArray[Any]: ...
    def darks(self, rows: slice | None = None) -> NDArray[Any]: ...
    def flat_field(self, start: int, stop: int) -> NDArray[np.float32]: ...
    def dark_field(self, start: int, stop: int) -> NDArray[np.float32]: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Selection:
    """Which part of a scan is used.

    Attributes
    ----------
    rows, columns : (first, one past the last) or None
        Region of the detector, pixels; None is all of it.
    projections : (first, one past the last) or None
        Projections by their place in the file: one turn of a scan of several, for example. None is all of them.
    excluded_angles_deg : sequence of (from, to)
        Blocked views, degrees: a projection is left out where its angle, modulo 360, lies between the two, ends
        included; (350, 370) is about 0. To leave the opposite views out too, name them as well.
    angle_step : int
        Every so many projections one is used, counted in order of angle.
    """

    rows: IndexRange | None = None
    columns: IndexRange | None = None
    projections: IndexRange | None = None
    excluded_angles_deg: Sequence[Sequence[float]] = ()
    angle_step: int = 1


class SelectedScan:
    """A part of an open scan that looks like a scan of its own.

    Parameters
    ----------
    scan : Scan
        Open; belongs to this object from now on (`close` closes it).
    selection : Selection

    Attributes
    ----------
    scan : Scan
        The scan that this is a part of.
    selection : Selection
    rows, columns : (int, int)
        Region of the detector.
    file_projections : (angles,) intp ndarray
        Place of each projection among those of the file.
    theta_deg : (angles,) float64 ndarray
        Angle of each projection, degrees, see `angular_order`.

    Raises
    ------
    ParameterError
        The selection does not fit the scan, or leaves fewer than two projections.
    ScanError
        The scan has not one angle for each projection (`validate` says more).
    """

    def __init__(self, scan: Scan, selection: Selection | None = None) -> None:
        self.scan = scan
        self.selection = selection or Selection()
        angles, rows, columns = scan.shape
        self.rows = _checked_range("rows", self.selection.rows, rows, scan.path)
        self.columns = _checked_range("columns", self.selection.columns, columns, scan.path)
        if scan.theta_deg.shape != (angles,) or not np.isfinite(scan.theta_deg).all():
            raise ScanError(
                f"{scan.path}: {scan.theta_name}: has {scan.theta_deg.size} angles for {angles} projections, or some that "
                "are not finite; one angle each is needed"
            )
        self.file_projections, self.theta_deg = _select_projections(scan.theta_deg, self.selection, scan.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the scan's file; reading is over."""
        self.scan.close()

    @property
    def path(self) -> Path:
        """The file."""
        return self.scan.path

    @property
    def layout(self) -> Layout:
        """How the file is laid out."""
        return self.scan.layout

    @property
    def metadata(self) -> ScanMetadata:
        """What the file says about the measurement."""
        return self.scan.metadata

    @property
    def shape(self) -> tuple[int, int, int]:
        """Selected projections: (angles, rows, columns)."""
        return self.theta_deg.size, self.rows[1] - self.rows[0], self.columns[1] - self.columns[0]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the projections, in native byte order."""
        return self.scan.dtype

    @property
    def n_flats(self) -> int:
        """Number of flat frames."""
        return self.scan.n_flats

    @property
    def n_darks(self) -> int:
        """Number of dark frames."""
        return self.scan.n_darks

    def projection_positions(self) -> NDArray[np.float64]:
        """When each projection was recorded, (angles,) in (0, 1): of the whole scan, in which order of angle is not time."""
        return self.scan.projection_positions()[self.file_projections]

    def flat_positions(self) -> NDArray[np.float64] | None:
        """When each flat was recorded, (n_flats,) on the same scale, or None; see `Scan.flat_positions`."""
        return self.scan.flat_positions()

    def read_rows(self, start: int, stop: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Read rows `start` to `stop` of the region, of every selected projection.

        Parameters
        ----------
        start, stop : int
            Half-open range of rows, counted from the region's first row.
        out : (angles, stop - start, columns) ndarray, optional
            Filled and returned instead of a new array; of the scan's dtype, C-contiguous.

        Returns
        -------
        (angles, stop - start, columns) ndarray
            Raw counts in the scan's dtype, projections in order of angle.

        Raises
        ------
        ScanError
            The file cannot be read there.
        """
        return self._read((0, self.theta_deg.size), (start, stop), out)

    def read_projections(self, start: int, stop: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Read projections `start` to `stop` of the region: (stop - start, rows, columns); else as `read_rows`."""
        return self._read((start, stop), (0, self.shape[1]), out)

    def flats(self, rows: slice | None = None) -> NDArray[Any]:
        """Read the flat frames in the region's columns, in all of its rows or a range: (n_flats, rows, columns), raw."""
        return np.ascontiguousarray(self.scan.flats(self._detector_rows(rows))[:, :, slice(*self.columns)])

    def darks(self, rows: slice | None = None) -> NDArray[Any]:
        """Read the dark frames: (n_darks, rows, columns), raw; as `flats`."""
        return np.ascontiguousarray(self.scan.darks(self._detector_rows(rows))[:, :, slice(*self.columns)])

    def flat_field(self, start: int, stop: int) -> NDArray[np.float32]:
        """Flat field of rows `start` to `stop` of the region, (rows, columns) float32 counts; see `Scan.flat_field`."""
        return self._in_columns(self.scan.flat_field(*self._detector_range(start, stop)))

    def dark_field(self, start: int, stop: int) -> NDArray[np.float32]:
        """Dark field of rows `start` to `stop` of the region, (rows, columns) float32 counts; see `Scan.dark_field`."""
        return self._in_columns(self.scan.dark_field(*self._detector_range(start, stop)))

    def _in_columns(self, field: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.ascontiguousarray(field[:, slice(*self.columns)])

    def _detector_range(self, start: int, stop: int) -> IndexRange:
        _check_inside("rows", start, stop, self.shape[1])
        return self.rows[0] + start, self.rows[0] + stop

    def _detector_rows(self, rows: slice | None) -> slice:
        start, stop, step = (rows or slice(None)).indices(self.shape[1])
        if step != 1:
            raise ValueError(f"rows must be a slice with step 1, not {rows}")
        return slice(*self._detector_range(start, max(start, stop)))

    def _read(self, chosen: IndexRange, rows: IndexRange, out: NDArray[Any] | None) -> NDArray[Any]:
        _check_inside("projections", *chosen, self.theta_deg.size)
        detector_rows = self._detector_range(*rows)
        shape = (chosen[1] - chosen[0], rows[1] - rows[0], self.shape[2])
        if out is None:
            out = np.empty(shape, self.dtype)
        elif out.shape != shape or out.dtype != self.dtype or not out.flags.c_contiguous:
            raise ValueError(f"out must be a C-contiguous {shape} array of {self.dtype}")
        if out.size == 0:
            return out
        source = self.scan.frames.projections
        wanted = self.file_projections[slice(*chosen)]
        whole_width = shape[2] == source.frame_shape[1]
        if whole_width and (np.diff(wanted) == 1).all():
            return source.read((int(wanted[0]), int(wanted[-1]) + 1), detector_rows, out)
        for frames, places in self._pieces(wanted, shape[1]):
            first, last = int(frames[0]), int(frames[-1]) + 1
            if whole_width and last - first == frames.size and np.array_equal(np.diff(places), np.diff(frames)):
                source.read((first, last), detector_rows, out[places[0] : places[-1] + 1])
                continue
            block = source.read((first, last), detector_rows)
            for place, frame in zip(places.tolist(), frames.tolist(), strict=True):
                out[place] = block[frame - first, :, slice(*self.columns)]
        return out

    def _pieces(self, frames: NDArray[np.intp], rows: int) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """Frames that are read in one go, in the file's order, and where in the result each belongs.

        Frames of one chunk are read together, so that it is decompressed once; a piece is at most 64 MiB, one chunk at
        least.
        """
        source = self.scan.frames.projections
        places = np.argsort(frames, kind="stable")
        frames = frames[places]
        chunks = getattr(source.dataset, "chunks", None)
        depth = chunks[0] if chunks and len(chunks) == 3 else 1
        chunk_bytes = depth * rows * source.frame_shape[1] * source.dtype.itemsize
        most = max(1, _BLOCK_BYTES // chunk_bytes) * depth
        start = 0
        for index in range(1, frames.size + 1):
            full = index == frames.size or frames[index] - frames[start] >= most
            if full or frames[index] - frames[index - 1] > depth:
                yield frames[start:index], places[start:index]
                start = index


def angular_order(theta_deg: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Order in which neighbouring projections are neighbours in angle, and their angles in it.

    A scan that turns one way, by a turn at most, stays as it is (also one that ends where it began). Angles that
    come in any other order within a turn are sorted. Angles over more than a turn are folded, modulo 360, to the turn that
    begins with the first projection, and sorted: a projection is the same after a whole turn. After half a turn it is
    mirrored, so 180 degrees are not folded.

    Parameters
    ----------
    theta_deg : (angles,) float64, degrees

    Returns
    -------
    order : (angles,) intp
        Projections that share an angle stay in the order in which they were taken.
    theta_deg : (angles,) float64, degrees
        In that order.
    """
    ascending = np.sort(theta_deg)
    span = float(ascending[-1] - ascending[0])
    step = float(np.median(np.diff(ascending))) if theta_deg.size > 1 else 0.0
    steps = np.diff(theta_deg)
    if span > _TURN_DEG + step + _SAME_ANGLE_DEG:
        # rounding must not put the second turn's first angle at the end of the first turn
        folded = theta_deg - _TURN_DEG * np.floor((theta_deg - theta_deg[0] + _SAME_ANGLE_DEG) / _TURN_DEG)
    elif (steps >= 0).all() or (steps <= 0).all():
        return np.arange(theta_deg.size), theta_deg
    else:
        folded = theta_deg
    order = np.argsort(folded, kind="stable")
    return order, folded[order]


def center_in_projections(detector_column: float, columns_start: int = 0, binning: int = 1) -> float:
    """Column of the corrected projections where a column of the detector lies; pixel centres at integers in both.

    `reconstruction.center` is such a column: counted in the columns that are used, after binning, and before the halves of
    a double field of view are joined.

    Parameters
    ----------
    detector_column : float
        Column of the whole detector.
    columns_start : int
        First column that is used.
    binning : int
        Detector columns that were averaged to one.
    """
    return (detector_column - columns_start - (binning - 1) / 2) / binning


def center_on_detector(center: float, columns_start: int = 0, binning: int = 1) -> float:
    """Column of the whole detector where a column of the corrected projections lies; undoes `center_in_projections`."""
    return center * binning + (binning - 1) / 2 + columns_start


def _select_projections(
    theta_deg: NDArray[np.float64], selection: Selection, path: Path
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Places in the file and angles of the projections that are used, in order of angle."""
    if selection.angle_step < 1:
        raise ParameterError(f"scan.angle_step={selection.angle_step}: give a whole number from 1 on")
    start, stop = _checked_range("projections", selection.projections, theta_deg.size, path)
    order, theta = angular_order(theta_deg[start:stop])
    order, theta = order[:: selection.angle_step] + start, theta[:: selection.angle_step]
    kept = ~_excluded(theta, selection.excluded_angles_deg)
    if np.count_nonzero(kept) < _FEWEST_PROJECTIONS:
        raise ParameterError(
            f"scan.excluded_angles_deg={[list(pair) for pair in selection.excluded_angles_deg]}, "
            f"scan.angle_step={selection.angle_step}: leave {np.count_nonzero(kept)} of the {theta_deg.size} projections of "
            f"{path.name}; at least {_FEWEST_PROJECTIONS} are needed, so exclude less"
        )
    return order[kept], theta[kept]


def _excluded(theta_deg: NDArray[np.float64], ranges: Sequence[Sequence[float]]) -> NDArray[np.bool_]:
    excluded = np.zeros(theta_deg.size, np.bool_)
    for pair in ranges:
        if len(pair) != 2 or not np.isfinite(pair).all() or not 0 <= pair[1] - pair[0] < _TURN_DEG:
            raise ParameterError(
                f"scan.excluded_angles_deg={list(pair)}: give [from, to] in degrees, the second not below the first and "
                f"less than {_TURN_DEG:g} above it; [350, 370] is about 0"
            )
        beyond = np.mod(theta_deg - pair[0] + _SAME_ANGLE_DEG, _TURN_DEG)
        excluded |= beyond <= pair[1] - pair[0] + 2 * _SAME_ANGLE_DEG
    return excluded


def _checked_range(name: str, limits: IndexRange | None, size: int, path: Path) -> IndexRange:
    if limits is None:
        return 0, size
    if len(limits) != 2 or not 0 <= limits[0] < limits[1] <= size:
        raise ParameterError(
            f"scan.{name}={list(limits)}: {path.name} has {size} {name}; give [first, one past the last] within 0 to {size}"
        )
    return limits[0], limits[1]


def _check_inside(what: str, start: int, stop: int, size: int) -> None:
    if not 0 <= start <= stop <= size:
        raise ValueError(f"{what} {start}:{stop} lie outside 0:{size}")
