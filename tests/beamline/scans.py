"""Small raw scans (Data Exchange) as files: whole, and broken in the ways in which detectors break them."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np


def write_scan(
    path: Path,
    *,
    angles: int = 8,
    planned: int | None = None,
    theta: int | None = None,
    flats: int = 2,
    darks: int = 2,
    sample: str = "sandstone",
    shape: tuple[int, int] = (4, 6),
) -> Path:
    """Write a scan; `theta` other than `angles` is wrong, and none where it is 0."""
    rng = np.random.default_rng(angles)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["/exchange/data"] = rng.integers(100, 1000, (angles, *shape), dtype=np.uint16)
        if flats:
            file["/exchange/data_white"] = np.full((flats, *shape), 1000, np.uint16)
        if darks:
            file["/exchange/data_dark"] = np.full((darks, *shape), 10, np.uint16)
        count = angles if theta is None else theta
        if count:
            file["/exchange/theta"] = np.linspace(0, 180, count, endpoint=False)
        file["/measurement/sample/name"] = sample
        if planned is not None:
            file["/process/acquisition/rotation/num_angles"] = planned
    return path
