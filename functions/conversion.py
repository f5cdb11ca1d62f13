"""Converts scans of other facilities' formats to Data Exchange with dxchange's readers, where dxchange is installed.

dxchange reads a scan whole, so this needs its memory once; the pipeline itself reads the converted file by rows.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np

from .errors import InputError, ScanError
from .rundir import written_aside

_PREFIX = "read_"
_FRAMES = ("data", "data_white", "data_dark")


def convert_scan(source: Path, target: Path, reader: str, arc_deg: float | None = None) -> Path:
    """Read a scan with one of dxchange's readers and write it as Data Exchange HDF5.

    Parameters
    ----------
    source : Path
        What the reader takes: a file, or the first of a stack.
    target : Path
        Written whole or not at all.
    reader : str
        Name of the reader without `read_`, for example `sls_tomcat`.
    arc_deg : float or None
        Range of the rotation, its end excluded, for readers that give no angles.

    Returns
    -------
    Path
        `target`.

    Raises
    ------
    InputError
        dxchange is not installed or has no such reader.
    ScanError
        The reader fails, or gives anything else than projections, flats, darks and theta that match.
    """
    function = getattr(_dxchange(), _PREFIX + reader, None)
    if not callable(function):
        raise InputError(f"--reader {reader}: dxchange has none of this name; its readers are {', '.join(readers())}")
    try:
        parts = function(str(source))
    except Exception as error:
        raise ScanError(
            f"{source}: dxchange.{_PREFIX}{reader} cannot read it: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(parts, tuple) or len(parts) < 3 or any(part is None for part in parts[:3]):
        raise ScanError(
            f"{source}: dxchange.{_PREFIX}{reader} does not give projections, flats and darks; "
            "write these into a Data Exchange file yourself (/exchange/data, data_white, data_dark, theta)"
        )
    frames = [np.asarray(part) for part in parts[:3]]
    if arc_deg is not None:
        theta = np.deg2rad(arc_deg) * np.arange(len(frames[0])) / max(1, len(frames[0]))
    elif len(parts) > 3 and parts[3] is not None:
        theta = np.asarray(parts[3], np.float64)
    else:
        raise ScanError(f"{source}: dxchange.{_PREFIX}{reader} does not give the angles; give their range with --arc")
    _check_frames(source, frames, theta)
    with written_aside(target) as aside, h5py.File(aside, "w") as file:
        for name, values in zip(_FRAMES, frames, strict=True):
            file.create_dataset(f"exchange/{name}", data=values, chunks=(1, *values.shape[1:]))
        # dxchange gives radians.
        file["exchange/theta"] = np.rad2deg(theta)
        file["exchange/theta"].attrs["units"] = "degrees"
        file["measurement/sample/name"] = source.stem
    return target


def readers() -> list[str]:
    """Names of dxchange's readers; empty where it is not installed."""
    try:
        module = _dxchange()
    except InputError:
        return []
    return sorted(name.removeprefix(_PREFIX) for name in dir(module) if name.startswith(_PREFIX))


def _dxchange() -> ModuleType:
    try:
        return importlib.import_module("dxchange")
    except ImportError as error:
        raise InputError(
            "formats other than Data Exchange and NXtomo are read with dxchange, which is not installed; "
            "install it with: conda install -c conda-forge dxchange"
        ) from error


def _check_frames(source: Path, frames: list[np.ndarray], theta: np.ndarray) -> None:
    if any(values.ndim != 3 or values.shape[1:] != frames[0].shape[1:] for values in frames):
        raise ScanError(
            f"{source}: projections, flats and darks have the shapes {[v.shape for v in frames]}; they must match"
        )
    if theta.shape != frames[0].shape[:1]:
        raise ScanError(f"{source}: {theta.size} angles for {len(frames[0])} projections; there must be one for each")
