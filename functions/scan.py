"""Raw scans (Data Exchange, NXtomo): opening them, checking them, and their ids; the one module that callers import.

What it names is written in `scan_reader`, `scan_layouts`, `scan_metadata` and `scan_validation`.
"""

from __future__ import annotations

import re
from pathlib import Path

from .errors import ParameterError
from .scan_hdf5 import open_file, reading
from .scan_layouts import open_layout
from .scan_metadata import ScanMetadata
from .scan_reader import Layout, Scan
from .scan_validation import ScanQuality, validate

__all__ = [
    "Layout",
    "Scan",
    "ScanMetadata",
    "ScanQuality",
    "open_scan",
    "scan_id_from_path",
    "validate",
    "validate_scan_id",
]

_SCAN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def open_scan(path: Path | str, *, lock: bool = True) -> Scan:
    """Open a raw scan for reading.

    Understood are Data Exchange (`/exchange/data`, `data_white`, `data_dark`, `theta`; APS 2-BM, 7-BM, 32-ID) and
    NXtomo (`image_key`, `data`, `rotation_angle`), with any integer or float dtype, chunking and compression.

    Parameters
    ----------
    path : Path or str
        The HDF5 file.
    lock : bool
        Whether writers are kept out while it is open. Who only looks at a file that may still be written does not lock
        it: the detector's software could not open it again.

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
    file = open_file(path, lock=lock)
    try:
        with reading(path, "/"):
            return open_layout(path, file)
    except BaseException:
        file.close()
        raise


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
