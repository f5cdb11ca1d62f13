"""How a metric varies between sub-volumes of growing size: from which size on a volume represents the material.

The sums by tile are left to the metrics; intervals of the whole volume to `uncertainty`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .tiling import Tiling

TOLERANCE = 0.05
"""A sub-volume is representative where the porosity's standard deviation is below this part of its mean."""

# Tiles along the edge of a cube.
_SCALES = (1, 2, 3, 4, 5, 6, 8)
_REGION_SHARE = 0.5
# Below this many cubes, that they agree may be chance.
_MINIMUM_CUBES = 4


@dataclass(frozen=True)
class SubVolumeSeries:
    """Metrics of cubes of growing size.

    Attributes
    ----------
    edges : (sizes,) float64
        Cube root of the mean volume of the cubes, in the unit of the voxel size; ascending.
    cubes : (sizes,) int64
        Cubes of that size of which at least half lies in the region; at least two.
    mean, std : dict of str to (sizes,) float64
        Mean and standard deviation (of a sample: n - 1) of each metric over these cubes.
    """

    edges: NDArray[np.float64]
    cubes: NDArray[np.int64]
    mean: dict[str, NDArray[np.float64]]
    std: dict[str, NDArray[np.float64]]

    def representative_edge(self, name: str, tolerance: float = TOLERANCE) -> float | None:
        """Smallest edge at which the spread of a metric between cubes is below `tolerance` of its mean.

        Sizes of which there are fewer than four cubes are not considered; None where no size is representative.

        Source: Kanit et al. (2003), DOI 10.1016/S0020-7683(03)00143-4.
        """
        for edge, cubes, mean, std in zip(self.edges, self.cubes, self.mean[name], self.std[name], strict=True):
            if cubes >= _MINIMUM_CUBES and mean != 0 and std < tolerance * abs(mean):
                return float(edge)
        return None

    def columns(self, unit: str) -> dict[str, list[float]]:
        """Lists by name, ready for JSON: edge, number of cubes, and mean and standard deviation of each metric."""
        columns: dict[str, list[float]] = {f"edge_{unit}": self.edges.tolist(), "cubes": self.cubes.tolist()}
        for name in self.mean:
            columns[f"{name}_mean"] = self.mean[name].tolist()
            columns[f"{name}_std"] = self.std[name].tolist()
        return columns


def measure_sub_volumes(
    tiling: Tiling,
    region_voxels: NDArray[np.integer],
    sums: Mapping[str, NDArray[np.generic]],
    voxel_size: tuple[float, float, float],
) -> SubVolumeSeries:
    """Mean and spread of metrics over cubes of 1, 2, 3, 4, 5, 6 and 8 tiles an edge.

    Cubes of a size do not overlap; they start at the lower corner, and tiles that do not fill one at the upper ends are
    left out. A cube counts where at least half of it lies in the region, and its metric is that of its part in the
    region. Along an axis of fewer tiles a cube takes all of them.

    Parameters
    ----------
    tiling : Tiling
        The tiles, about cubes.
    region_voxels : (tz, ty, tx) int
        Voxels of the region in each tile.
    sums : mapping of str to (tz, ty, tx)
        By metric: what over the voxels of the region gives the metric.
    voxel_size : (z, y, x)
        Edges of a voxel.

    Returns
    -------
    SubVolumeSeries
        Sizes of which there are at least two cubes; empty where there are none.
    """
    depth, rows, columns = (np.diff(edges) for edges in (tiling.z, tiling.y, tiling.x))
    voxels = depth[:, None, None] * rows[:, None] * columns
    edges: list[float] = []
    cubes: list[int] = []
    mean: dict[str, list[float]] = {name: [] for name in sums}
    std: dict[str, list[float]] = {name: [] for name in sums}
    for scale in _SCALES:
        if scale > max(tiling.shape):
            break
        volume, inside = _grouped(voxels, scale), _grouped(region_voxels, scale)
        counted = inside >= _REGION_SHARE * volume
        count = int(np.count_nonzero(counted))
        if count < 2:
            continue
        edges.append(math.cbrt(float(volume[counted].mean()) * math.prod(voxel_size)))
        cubes.append(count)
        for name, values in sums.items():
            ratios = _grouped(values, scale)[counted] / inside[counted]
            middle = math.fsum(ratios) / count
            mean[name].append(middle)
            std[name].append(math.sqrt(math.fsum((ratios - middle) ** 2) / (count - 1)))
    return SubVolumeSeries(
        np.array(edges, np.float64),
        np.array(cubes, np.int64),
        {name: np.array(values, np.float64) for name, values in mean.items()},
        {name: np.array(values, np.float64) for name, values in std.items()},
    )


def _grouped(values: NDArray[np.generic], scale: int) -> NDArray[np.float64]:
    """Sums over cubes of `scale` tiles an edge; what does not fill a cube at the upper ends is left out."""
    grouped = np.asarray(values, np.float64)
    for axis in range(3):
        step = min(scale, values.shape[axis])
        whole = values.shape[axis] // step
        kept = np.take(grouped, np.arange(whole * step), axis=axis)
        grouped = kept.reshape(*kept.shape[:axis], whole, step, *kept.shape[axis + 1 :]).sum(axis=axis + 1)
    return grouped
