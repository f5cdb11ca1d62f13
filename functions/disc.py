"""The disc of a slice that a reconstruction fills; outside it every slice is 0."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def reconstructed_disc(rows: int, columns: int, margin_px: float = 0.0) -> NDArray[np.bool_]:
    """Pixels (rows, columns) of a slice that the detector sees from every angle: bool.

    Parameters
    ----------
    rows, columns : int
        Size of the slice; where they differ, the smaller is the disc's diameter.
    margin_px : float
        How much smaller the disc's radius is taken, in pixels.
    """
    y = np.arange(rows)[:, np.newaxis] - (rows - 1) / 2
    x = np.arange(columns) - (columns - 1) / 2
    radius = max(0.0, min(rows, columns) / 2 - margin_px)
    inside: NDArray[np.bool_] = y * y + x * x <= radius * radius
    return inside
