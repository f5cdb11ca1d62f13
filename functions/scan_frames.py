"""Frames of one kind in a scan's file: reading them in ranges and blocks, and combining them into one field.

Which dataset holds which kind is known to `scan_layouts`; whether frames are usable is for `scan_validation` to say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from .errors import ScanError
from .scan_hdf5 import reading, refusal, text_of

_BLOCK_BYTES = 64 * 2**20
_CACHE_BYTES = 2**20


@dataclass(frozen=True)
class Frames:
    """Frames of one kind: which frames of which dataset; or one constant frame where there is no dataset.

    `positions` are when each was recorded, as the share of the projections that came before it; None where the file does
    not say.
    """

    path: Path
    name: str
    dataset: Any
    runs: tuple[tuple[int, int], ...]
    frame_shape: tuple[int, int]
    dtype: np.dtype[Any]
    constant: float = 0.0
    positions: tuple[float, ...] | None = None

    @property
    def count(self) -> int:
        return sum(length for _, length in self.runs)

    def refusal(self, found: str) -> ScanError:
        return refusal(self.path, self.name, found)

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
        with reading(self.path, self.name):
            for source, target in self._pieces(*frames):
                if self.dataset.ndim == 2:
                    self.dataset.read_direct(out, np.s_[slice(*rows), :], np.s_[target])
                else:
                    self.dataset.read_direct(out, np.s_[source, slice(*rows), :], np.s_[target])
        return out

    def combined(self, start: int, stop: int) -> NDArray[np.float32]:
        """Median (of three frames or more) or mean of the frames, in rows `start` to `stop`: (rows, columns)."""
        row_values = self.count * self.frame_shape[1]
        field = np.empty((stop - start, self.frame_shape[1]), np.float32)
        for first, last in row_blocks(start, stop, row_values * self.dtype.itemsize):
            stack = self.read((0, self.count), (first, last))
            field[first - start : last - start] = combine_frames(stack)
        return field

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[slice, slice]]:
        """Contiguous pieces of the dataset that hold frames `start` to `stop`, and where they go."""
        offset = 0
        for first, length in self.runs:
            low, high = max(start, offset), min(stop, offset + length)
            if low < high:
                yield slice(first + low - offset, first + high - offset), slice(low - start, high - start)
            offset += length


@dataclass(frozen=True)
class ScanFrames:
    """The three kinds of frames of a scan."""

    projections: Frames
    flats: Frames
    darks: Frames


def frames_of(path: Path, name: str, dataset: h5py.Dataset, runs: Sequence[tuple[int, int]] | None = None) -> Frames:
    """Frames of a dataset: all of them, or those of the runs; a 2-D dataset is one frame."""
    with reading(path, name):
        shape, dtype = dataset.shape, np.dtype(dataset.dtype)
    if dtype.kind not in "iuf":
        raise refusal(path, name, f"holds {dtype}; integer or floating-point counts are needed")
    if shape is None or len(shape) not in (2, 3):
        raise refusal(path, name, f"has shape {shape}; frames (frames, rows, columns) are needed")
    _check_filters(path, name, dataset)
    if runs is None:
        runs = [(0, shape[0] if len(shape) == 3 else 1)]
    return Frames(path, name, dataset, tuple(runs), (shape[-2], shape[-1]), dtype.newbyteorder("="))


def projections_of(
    path: Path, name: str, dataset: h5py.Dataset, runs: Sequence[tuple[int, int]] | None = None
) -> Frames:
    """As `frames_of`, but refuses one frame that lacks the dimension of angles."""
    frames = frames_of(path, name, dataset, runs)
    if dataset.ndim != 3:
        raise refusal(path, name, f"has shape {dataset.shape}; three dimensions (angles, rows, columns) are needed")
    return frames


def blocks(frames: Frames) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Ranges of frames and rows that cover all frames, each at most 64 MiB."""
    rows, columns = frames.frame_shape
    row_bytes = columns * frames.dtype.itemsize
    step = max(1, _BLOCK_BYTES // max(1, rows * row_bytes))
    for first in range(0, frames.count, step):
        some_frames = (first, min(first + step, frames.count))
        for some_rows in row_blocks(0, rows, row_bytes * (some_frames[1] - first)):
            yield some_frames, some_rows


def row_blocks(start: int, stop: int, row_bytes: int, block_bytes: int | None = None) -> Iterator[tuple[int, int]]:
    """Ranges of rows of at most 64 MiB (or `block_bytes`) each, one row at least."""
    step = max(1, (block_bytes or _BLOCK_BYTES) // max(1, row_bytes))
    for first in range(start, stop, step):
        yield first, min(first + step, stop)


def combine_frames(stack: NDArray[Any], method: Literal["median", "mean"] = "median") -> NDArray[np.float32]:
    """Median (of three frames or more) or mean over frames of the finite values of each pixel.

    Parameters
    ----------
    stack : (frames, rows, columns) ndarray
        Raw counts.
    method : {"median", "mean"}
        The median of one or two frames is their mean.

    Returns
    -------
    (rows, columns) float32 ndarray
        NaN where a pixel has no finite value.
    """
    frames, rows, columns = stack.shape
    field = np.empty((rows, columns), np.float32)
    # float32 holds less than float64 does: too large becomes infinite, as a plain conversion says
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for top, bottom in row_blocks(0, rows, frames * columns * 8, _CACHE_BYTES):
            combine = _median_of if method == "median" and frames >= 3 else _mean_of
            field[top:bottom] = combine(stack[:, top:bottom].astype(np.float64))
    return field


def _mean_of(values: NDArray[np.float64]) -> NDArray[np.float64]:
    finite = np.isfinite(values)
    return np.asarray(np.where(finite, values, 0.0).sum(axis=0) / finite.sum(axis=0))


def _median_of(values: NDArray[np.float64]) -> NDArray[np.float64]:
    finite = np.isfinite(values)
    count = finite.sum(axis=0)
    # what is not finite sorts to the end, so the finite values of a pixel come first
    ordered = np.sort(np.where(finite, values, np.inf), axis=0)
    middle = np.stack([np.maximum(count - 1, 0) // 2, np.minimum(count // 2, len(values) - 1)])
    median = np.take_along_axis(ordered, middle, axis=0).mean(axis=0)
    return np.asarray(np.where(count > 0, median, np.nan))


def _check_filters(path: Path, name: str, dataset: h5py.Dataset) -> None:
    """HDF5's own message for a filter that is not installed speaks of a folder of plugins."""
    with reading(path, name):
        filters = dataset.id.get_create_plist()
        used = [filters.get_filter(index) for index in range(filters.get_nfilters())]
    for number, _, _, label in used:
        if not h5py.h5z.filter_avail(number):
            raise refusal(
                path,
                name,
                f"is compressed with filter {number} ({text_of(label)}), which is not installed here; "
                "rewrite the file with one that hdf5plugin has",
            )


def _check_range(what: str, limits: tuple[int, int], size: int) -> None:
    if not 0 <= limits[0] <= limits[1] <= size:
        raise ValueError(f"{what} {limits[0]}:{limits[1]} lie outside 0:{size}")
