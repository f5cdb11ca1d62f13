"""`Scan`: the projections, flats, darks and angles of an open scan, by rows or by projections, as the file has them.

`scan_layouts` makes it from a file; correcting the numbers is the work of `preprocessing`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from .scan_frames import Frames, ScanFrames
from .scan_metadata import ScanMetadata

Layout = Literal["data-exchange", "nxtomo"]


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
    frames : ScanFrames
        Where projections, flats and darks are in the file; as found, not yet checked.
    theta_name : str
        Dataset or group that the angles come from.
    """

    def __init__(
        self,
        path: Path,
        file: h5py.File,
        layout: Layout,
        frames: ScanFrames,
        theta: Theta,
        metadata: ScanMetadata,
    ) -> None:
        self.path = path
        self.layout = layout
        self.theta_deg = theta.degrees
        self.metadata = metadata
        self._file = file
        self.frames = frames
        self.theta_name = theta.name

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
        projections = self.frames.projections
        return (projections.count, *projections.frame_shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the projections, in native byte order."""
        return self.frames.projections.dtype

    @property
    def n_flats(self) -> int:
        """Number of flat frames."""
        return self.frames.flats.count

    @property
    def n_darks(self) -> int:
        """Number of dark frames."""
        return self.frames.darks.count

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
        projections = self.frames.projections
        return projections.read((0, projections.count), (start, stop), out)

    def read_projections(self, start: int, stop: int, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Read projections `start` to `stop` whole: (stop - start, rows, columns); else as `read_rows`."""
        projections = self.frames.projections
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

    def flat_positions(self) -> NDArray[np.float64] | None:
        """When each flat was recorded: (n_flats,) float64 in [0, 1], the share of the projections that came before it.

        0 is before the scan, 1 after it; flats with the same number are one group. None where the file does not say:
        NXtomo's order of frames does, Data Exchange where it notes TomoScan's `flat_field_mode` or the ALS's `i0cycle`.
        """
        positions = self.frames.flats.positions
        return None if positions is None else np.array(positions, np.float64)

    def projection_positions(self) -> NDArray[np.float64]:
        """When each projection was recorded: (angles,) float64 in (0, 1), on the scale of `flat_positions`."""
        return np.asarray((np.arange(self.shape[0]) + 0.5) / self.shape[0], np.float64)

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
        frames = checked_reference(self, kind)
        start, stop, step = (rows or slice(None)).indices(self.shape[1])
        if step != 1:
            raise ValueError(f"rows must be a slice with step 1, not {rows}")
        return frames.read((0, frames.count), (start, max(start, stop)))

    def _field(self, kind: Literal["flats", "darks"], start: int, stop: int) -> NDArray[np.float32]:
        return checked_reference(self, kind).combined(start, stop)


@dataclass(frozen=True)
class Theta:
    """Angles of the projections, and the dataset that they come from."""

    name: str
    degrees: NDArray[np.float64]


def checked_reference(scan: Scan, kind: Literal["flats", "darks"]) -> Frames:
    """Flats or darks, there and of the projections' shape."""
    frames = scan.frames.flats if kind == "flats" else scan.frames.darks
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
