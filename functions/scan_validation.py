"""Refuses a scan that cannot be reconstructed, before any stage starts, and counts the bad values of one that can.

Mending those values is the work of `preprocessing`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from .scan_frames import Frames, blocks, row_blocks
from .scan_hdf5 import open_file, reading, refusal
from .scan_reader import Scan, checked_reference

_MAX_NONFINITE_FRACTION = 0.01
_MIN_THETA_RANGE_DEG = 1.0
_SATURATION_SAMPLE = 16
_MAX_BEAM_SAMPLE = 2**21


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
    checked_reference(scan, "flats")
    checked_reference(scan, "darks")
    _check_theta(scan)
    projections, flats, darks = scan.frames.projections, scan.frames.flats, scan.frames.darks
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


def _check_projections(scan: Scan) -> None:
    name = scan.frames.projections.name
    if 0 in scan.shape[1:] or scan.shape[0] == 0:
        raise refusal(
            scan.path, name, f"is empty: (angles, rows, columns) are {scan.shape}; the scan has no projections"
        )
    if scan.shape[0] < 2:
        raise refusal(scan.path, name, "holds 1 projection; at least 2 are needed")


def _check_theta(scan: Scan) -> None:
    name = scan.theta_name
    theta, angles = scan.theta_deg, scan.shape[0]
    if theta.size != angles:
        raise refusal(
            scan.path, name, f"has {theta.size} angles, the scan has {angles} projections; one angle each is needed"
        )
    bad = np.flatnonzero(~np.isfinite(theta))
    if bad.size:
        raise refusal(
            scan.path, name, f"{bad.size} of {theta.size} angles are NaN or infinite ({_some(bad)}); write them anew"
        )
    if np.ptp(theta) < _MIN_THETA_RANGE_DEG:
        raise refusal(
            scan.path,
            name,
            f"angles cover {np.ptp(theta):.6g} degrees, from {theta.min():.6g} to {theta.max():.6g}; 180 degrees are "
            f"needed, at least {_MIN_THETA_RANGE_DEG:g}: check that the stage turned and that units are right",
        )


def _distinct(*kinds: Frames) -> Iterable[Frames]:
    """Kinds of frames with datasets, each dataset once: NXtomo has all kinds in one."""
    return {frames.dataset: frames for frames in reversed(kinds) if frames.dataset is not None}.values()


def _check_virtual_sources(frames: Frames) -> None:
    """HDF5 silently reads fill values where the source of a virtual dataset is missing."""
    with reading(frames.path, frames.name):
        if not frames.dataset.is_virtual:
            return
        owner = Path(frames.dataset.file.filename)
        sources = sorted({(s.file_name, s.dset_name) for s in frames.dataset.virtual_sources()})
    for file_name, dataset_name in sources:
        if "%" in file_name + dataset_name:
            continue  # a pattern over as many files as there are
        nearby = owner.parent / file_name
        source = owner if file_name == "." else nearby if nearby.exists() else Path(file_name)
        with open_file(source) as file:
            if dataset_name not in file:
                raise refusal(source, dataset_name, f"not found, but {frames.path}: {frames.name} is made of it")


def _check_written(frames: Frames) -> None:
    """A scan that was interrupted leaves chunks that were never written; they would read as zeros."""
    dataset = frames.dataset
    with reading(frames.path, frames.name):
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


def _count_nonfinite(frames: Frames) -> int:
    """Number of NaN and infinite values; refuses whole frames of them, or too many."""
    if frames.dtype.kind != "f":
        return 0
    rows, columns = frames.frame_shape
    counts = np.zeros(frames.count, np.int64)
    for some_frames, some_rows in blocks(frames):
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


def _saturated_fraction(projections: Frames) -> float:
    """Share of values at the top of an integer dtype, in a fixed sample of projections."""
    if projections.dtype.kind == "f":
        return 0.0
    top = np.iinfo(projections.dtype).max
    sample = np.unique(np.linspace(0, projections.count - 1, _SATURATION_SAMPLE).round().astype(int)).tolist()
    rows, columns = projections.frame_shape
    saturated = 0
    for index in sample:
        for some_rows in row_blocks(0, rows, columns * projections.dtype.itemsize):
            saturated += int(np.count_nonzero(projections.read((index, index + 1), some_rows) == top))
    return saturated / (len(sample) * rows * columns)


def _check_beam(scan: Scan) -> int:
    """Number of pixels whose flat field is not above their dark field; refuses flats that look like darks.

    The brightest tenth of the detector must stand out of the noise by three standard deviations. The noise is that of
    the difference of neighbouring columns, which the shape of the beam does not enter.
    """
    _, rows, columns = scan.shape
    dead, signals, steps = 0, [], []
    for start, stop in row_blocks(0, rows, columns * 8):
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
        flats, darks = scan.frames.flats, scan.frames.darks
        exchanged = " or they are exchanged" if signal.size and np.median(signal) < -3 * noise else ""
        raise refusal(
            scan.path,
            flats.name,
            f"flats equal darks ({darks.name}): they differ by {bright:.6g} where the beam is brightest, with a noise "
            f"of {noise:.6g}: the beam was off{exchanged}; record flats with the beam on and the sample out of it",
        )
    return dead


def _some(indices: NDArray[np.intp]) -> str:
    shown = ", ".join(str(index) for index in indices[:5])
    return shown + (", ..." if indices.size > 5 else "")
