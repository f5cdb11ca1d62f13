"""Reads a map of the detector's bad pixels; mending them is left to `normalization`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import InputError

_FORMS = "give a .npy or .tif file, or name a dataset as file.h5:/path"


def read_bad_pixels(source: Path | str, shape: tuple[int, int] | None = None) -> NDArray[np.bool_]:
    """Read a map of bad pixels.

    Parameters
    ----------
    source : Path or str
        An array file `.npy`, a picture `.tif` or `.tiff`, or a dataset of an HDF5 file (`.h5`, `.hdf5`, `.nxs`, `.hdf`)
        as ``map.h5:/mask``. Truth values or numbers, (rows, columns): a pixel is bad where it is not zero.
    shape : (rows, columns), optional
        The detector's, which the map must have.

    Returns
    -------
    (rows, columns) bool
        True where a pixel is bad.

    Raises
    ------
    InputError
        The file is missing, of another kind, no map, or of another size than the detector.
    """
    values = np.asarray(_read(str(source)))
    if values.ndim == 3 and len(values) == 1:
        values = values[0]
    if values.ndim != 2 or values.dtype.kind not in "biuf":
        raise InputError(
            f"bad_pixel_map {source}: holds {values.dtype} of shape {values.shape}; truth values or numbers of shape "
            "(rows, columns) are needed"
        )
    if shape is not None and values.shape != shape:
        raise InputError(
            f"bad_pixel_map {source}: has {values.shape} (rows, columns), the detector {shape}; give a map of the whole "
            "detector as it is in the scan's file, before any cut or binning"
        )
    return np.asarray(values != 0)


def _read(source: str) -> Any:
    file, _, dataset = source.rpartition(":/")
    path = Path(file if Path(file).suffix else source)
    if not path.is_file():
        raise InputError(f"bad_pixel_map {source}: no such file; {_FORMS}")
    kind = path.suffix.lower()
    try:
        if str(path) != source:
            with h5py.File(path, "r", locking="best-effort") as found:
                return found[dataset][()]
        if kind == ".npy":
            return np.load(path, allow_pickle=False)
        if kind in (".tif", ".tiff"):
            with Image.open(path) as picture:
                return np.asarray(picture)
    # Pillow raises SyntaxError and what not on files that are none
    except (OSError, KeyError, ValueError, TypeError, SyntaxError, EOFError, RuntimeError) as error:
        reason = str(error).strip("'\"") or type(error).__name__
        raise InputError(f"bad_pixel_map {source}: cannot be read ({reason}); {_FORMS}") from error
    raise InputError(f"bad_pixel_map {source}: a {kind or 'file without a suffix'} is not understood; {_FORMS}")
