"""Equivalent-sphere diameters of objects, their statistics and histogram.

Which voxels make an object is left to `objects`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

BINS_A_DECADE = 10


class ObjectTable(Protocol):
    """Columns of a table of objects that sizes are made from."""

    @property
    def voxels(self) -> NDArray[np.integer]:
        """Voxels of each object, (objects,)."""

    @property
    def touches_border(self) -> NDArray[np.bool_]:
        """Whether an object touches the border of the volume or region, so that its size is not known, (objects,)."""


@dataclass(frozen=True)
class SizeStatistics:
    """Statistics of diameters, in the unit of the voxel size.

    `volume_weighted` ones weigh an object by its volume: the diameter in which a random point of the phase lies.
    `std` is the population's standard deviation.
    """

    mean: float
    median: float
    std: float
    volume_weighted_mean: float
    volume_weighted_median: float


@dataclass(frozen=True)
class SizeHistogram:
    """Diameters in bins.

    Attributes
    ----------
    edges : (bins + 1,) float64
        Ten logarithmic bins a decade at 10 ** (k / 10) of the unit: the same edges for every scan.
    counts : (bins,) int64
        Objects with edge <= diameter < next edge.
    volume_percent : (bins,) float64
        Their share of the volume of all objects counted.
    """

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    volume_percent: NDArray[np.float64]


def equivalent_diameters(voxels: ArrayLike, voxel_size: float) -> NDArray[np.float64]:
    """Diameter of the sphere of the same volume, (6 V / pi) ** (1/3), in the unit of `voxel_size`."""
    return np.asarray(voxel_size * np.cbrt(6.0 / math.pi * np.asarray(voxels, np.float64)))


def size_statistics(diameters: NDArray[np.float64]) -> SizeStatistics:
    """Statistics of at least one diameter; the same for any order of the objects.

    Raises
    ------
    ValueError
        No diameter was given.
    """
    if diameters.size == 0:
        raise ValueError("no object to take statistics of")
    ordered = np.sort(diameters)
    volumes = ordered**3
    mean = math.fsum(ordered) / ordered.size
    cumulated = np.cumsum(volumes)
    half = int(np.searchsorted(cumulated, 0.5 * cumulated[-1]))
    return SizeStatistics(
        mean=mean,
        median=float(np.median(ordered)),
        std=math.sqrt(math.fsum((ordered - mean) ** 2) / ordered.size),
        volume_weighted_mean=math.fsum(volumes * ordered) / math.fsum(volumes),
        volume_weighted_median=float(ordered[half]),
    )


def size_histogram(diameters: NDArray[np.float64]) -> SizeHistogram:
    """Histogram of at least one diameter; see `SizeHistogram` for its bins.

    Raises
    ------
    ValueError
        No diameter was given.
    """
    if diameters.size == 0:
        raise ValueError("no object to make a histogram of")
    lowest = math.floor(BINS_A_DECADE * math.log10(diameters.min()))
    highest = math.floor(BINS_A_DECADE * math.log10(diameters.max())) + 1
    # One bin more at each end, then cut: a logarithm may round a diameter that lies on an edge to either side.
    edges: NDArray[np.float64] = 10.0 ** (np.arange(lowest - 1, highest + 2) / BINS_A_DECADE)
    ordered = np.sort(diameters)
    bins = np.searchsorted(edges, ordered, side="right") - 1
    edges = edges[bins[0] : bins[-1] + 2]
    bins -= bins[0]
    volumes = np.bincount(bins, weights=ordered**3).astype(np.float64)
    return SizeHistogram(edges, np.bincount(bins), 100.0 * volumes / math.fsum(volumes))
