"""Metrics of the objects that a phase was separated into: sizes, shapes, throats, each with its interval.

Statistics of sizes are left to `pore_sizes`, the table itself to `objects`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .findings import Findings, Scale
from .pore_sizes import (
    RegionMask,
    border_weights,
    coordination_statistics,
    equivalent_diameters,
    object_density,
    size_histogram,
    size_statistics,
    throat_statistics,
)
from .uncertainty import Interval, Limits, SubVolumes, interval_of_median, interval_of_sums

_POSITIVE: Limits = (0.0, math.inf)


class MeasuredObjects(Protocol):
    """Columns of a table of objects that metrics are made from; a row an object, label 1 first."""

    @property
    def voxels(self) -> NDArray[np.int64]:
        """Voxels of each object, (objects,)."""

    @property
    def centroid(self) -> NDArray[np.float64]:
        """Mean index of its voxels along z, y and x, (objects, 3)."""

    @property
    def bounding_box(self) -> NDArray[np.int64]:
        """First index along z, y and x and the index after the last, (objects, 6)."""

    @property
    def touches_border(self) -> NDArray[np.bool_]:
        """Whether it touches the border of the volume or region, so that its size is not known, (objects,)."""

    @property
    def neighbours(self) -> NDArray[np.int64]:
        """Objects that it touches, (objects,)."""

    def sphericity(self, voxel_size: tuple[float, float, float]) -> NDArray[np.float64]:
        """Surface of the sphere of its volume over its own surface, (objects,)."""


class MeasuredContacts(Protocol):
    """Columns of a table of contacts; a row a pair of objects that touch."""

    @property
    def first(self) -> NDArray[np.integer]:
        """Label of one object, (contacts,)."""

    @property
    def second(self) -> NDArray[np.integer]:
        """Label of the other, (contacts,)."""

    @property
    def throat_radius(self) -> NDArray[np.float64]:
        """Radius of the largest sphere that passes between them, (contacts,), in the unit of the voxel size."""


def object_metrics(
    objects: MeasuredObjects,
    contacts: MeasuredContacts | None,
    region: RegionMask,
    scale: Scale,
    groups: SubVolumes | None,
) -> Findings:
    """Counts, diameters, sphericity, neighbours and throats.

    Objects that touch the border are cut: they take part in the counts alone. An object belongs to the sub-volume of
    its centroid, a throat to that of the point half way between the centroids of its two objects.

    Parameters
    ----------
    objects : MeasuredObjects
        The table.
    contacts : MeasuredContacts or None
        None leaves the throats out.
    region : RegionMask
        Where whole objects can lie.
    scale : Scale
        Edges of a voxel and their unit.
    groups : SubVolumes or None
        None leaves intervals out.
    """
    found = Findings()
    whole = ~np.asarray(objects.touches_border, np.bool_)
    home = None if groups is None else groups.groups_of(objects.centroid)
    _add_counts(found, objects, groups, home)
    weights = border_weights(objects.bounding_box, region)
    sampler = None if groups is None or home is None else _Sampler(groups.weights, home)
    # Where all objects are cut, how many there are in a volume is not known.
    if weights.any() or not len(objects.voxels):
        density = object_density(weights, region.voxels * scale.voxel_volume)
        found.add(
            f"object_density_per_{scale.unit}3",
            density,
            None if sampler is None else sampler.of_density(density, weights, scale.voxel_volume),
        )
    if whole.any():
        inner = None if groups is None or home is None else _Sampler(groups.weights, home[whole])
        _add_sizes(found, equivalent_diameters(objects.voxels[whole], scale.voxel_size), weights[whole], scale, inner)
        sphericity = np.asarray(objects.sphericity(scale.voxel_size)[whole], np.float64)
        mean = math.fsum(sphericity) / sphericity.size
        found.add("sphericity_mean", mean, None if inner is None else inner.of_mean(mean, sphericity))
        if contacts is not None:
            _add_coordination(found, np.asarray(objects.neighbours[whole], np.int64), inner)
    if contacts is not None:
        _add_throats(found, objects, contacts, scale, groups)
    return found


def _add_counts(
    found: Findings, objects: MeasuredObjects, groups: SubVolumes | None, home: NDArray[np.int64] | None
) -> None:
    count = len(objects.voxels)
    interval = None
    if groups is not None and home is not None:
        interval = _Sampler(groups.weights, home).of_count(count)
    found.add("object_count", count, interval)
    found.add("border_object_count", int(np.count_nonzero(objects.touches_border)))


def _add_sizes(
    found: Findings,
    diameters: NDArray[np.float64],
    weights: NDArray[np.float64],
    scale: Scale,
    sampler: _Sampler | None,
) -> None:
    unit, volumes = scale.unit, diameters**3
    statistics = size_statistics(diameters)
    prefix = "equivalent_diameter"
    values = {
        f"{prefix}_mean_{unit}": statistics.mean,
        f"{prefix}_median_{unit}": statistics.median,
        f"{prefix}_std_{unit}": statistics.std,
        f"{prefix}_volume_weighted_mean_{unit}": statistics.volume_weighted_mean,
        f"{prefix}_volume_weighted_median_{unit}": statistics.volume_weighted_median,
    }
    intervals: dict[str, Interval | None] = {}
    if sampler is not None:
        mean, median, std, weighted_mean, weighted_median = values.items()
        intervals = {
            mean[0]: sampler.of_mean(mean[1], diameters),
            median[0]: sampler.of_median(median[1], diameters),
            std[0]: sampler.of_std(std[1], diameters),
            weighted_mean[0]: sampler.of_mean(weighted_mean[1], diameters, volumes),
            weighted_median[0]: sampler.of_median(weighted_median[1], diameters, volumes),
        }
    for name, value in values.items():
        found.add(name, value, intervals.get(name))
    if np.any(weights > 0):
        corrected = size_statistics(diameters, weights).mean
        found.add(
            f"{prefix}_border_corrected_mean_{unit}",
            corrected,
            None if sampler is None else sampler.of_mean(corrected, diameters, weights),
        )
    histogram = size_histogram(diameters, weights)
    found.histograms[f"{prefix}_{unit}"] = {
        "edges": histogram.edges.tolist(),
        "counts": histogram.counts.tolist(),
        "volume_percent": histogram.volume_percent.tolist(),
        "corrected_counts": histogram.corrected_counts.tolist(),
    }


def _add_coordination(found: Findings, neighbours: NDArray[np.int64], sampler: _Sampler | None) -> None:
    statistics = coordination_statistics(neighbours)
    interval = None if sampler is None else sampler.of_mean(statistics.mean, neighbours.astype(np.float64))
    found.add("coordination_number_mean", statistics.mean, interval)
    found.histograms["coordination_number"] = {"edges": statistics.edges.tolist(), "counts": statistics.counts.tolist()}


def _add_throats(
    found: Findings,
    objects: MeasuredObjects,
    contacts: MeasuredContacts,
    scale: Scale,
    groups: SubVolumes | None,
) -> None:
    count = len(contacts.throat_radius)
    home = np.zeros(count, np.int64)
    if groups is not None:
        first, second = np.asarray(contacts.first, np.int64) - 1, np.asarray(contacts.second, np.int64) - 1
        home = groups.groups_of((objects.centroid[first] + objects.centroid[second]) / 2)
    found.add("throat_count", count, None if groups is None else _Sampler(groups.weights, home).of_count(count))
    # A radius of 0 was not measured: no wall is anywhere.
    known = np.asarray(contacts.throat_radius) > 0
    if not known.any():
        return
    diameters = 2.0 * np.asarray(contacts.throat_radius, np.float64)[known]
    statistics, unit = throat_statistics(diameters), scale.unit
    mean, median = statistics.mean, statistics.median
    sampler = None if groups is None else _Sampler(groups.weights, home[known])
    found.add(f"throat_diameter_mean_{unit}", mean, None if sampler is None else sampler.of_mean(mean, diameters))
    found.add(
        f"throat_diameter_median_{unit}", median, None if sampler is None else sampler.of_median(median, diameters)
    )
    found.histograms[f"throat_diameter_{unit}"] = {
        "edges": statistics.edges.tolist(),
        "counts": statistics.counts.tolist(),
    }


@dataclass(frozen=True)
class _Sampler:
    """Intervals of statistics of things, each of which lies in one group.

    Attributes
    ----------
    weights : (groups,) float64
        Voxels of the region in each group.
    home : (things,) int64
        Group of each thing.
    """

    weights: NDArray[np.float64]
    home: NDArray[np.int64]

    def of_count(self, count: int) -> Interval | None:
        """Interval of the number of things."""
        total = math.fsum(self.weights)
        parts = np.stack([self._sum(np.ones(self.home.size)), self.weights], axis=1)
        return interval_of_sums(count, parts, self.weights, lambda sums: sums[..., 0] / sums[..., 1] * total, _POSITIVE)

    def of_density(self, density: float, counts: NDArray[np.float64], voxel_volume: float) -> Interval | None:
        """Interval of the number of things a volume, where each counts for as many as given."""
        parts = np.stack([self._sum(counts), self.weights * voxel_volume], axis=1)
        return interval_of_sums(density, parts, self.weights, lambda sums: sums[..., 0] / sums[..., 1], _POSITIVE)

    def of_mean(
        self, mean: float, values: NDArray[np.float64], counts: NDArray[np.float64] | None = None
    ) -> Interval | None:
        """Interval of a mean over things, where each counts for as many as given."""
        each = np.ones(values.size) if counts is None else counts
        parts = np.stack([self._sum(each * values), self._sum(each)], axis=1)
        return interval_of_sums(mean, parts, self.weights, lambda sums: sums[..., 0] / sums[..., 1], _POSITIVE)

    def of_std(self, std: float, values: NDArray[np.float64]) -> Interval | None:
        """Interval of the standard deviation over things."""
        deviations = values - values.mean()
        parts = np.stack([self._sum(deviations**2), self._sum(deviations), self._sum(np.ones(values.size))], axis=1)

        def spread(sums: NDArray[np.float64]) -> NDArray[np.float64]:
            variances = sums[..., 0] / sums[..., 2] - (sums[..., 1] / sums[..., 2]) ** 2
            return np.asarray(np.sqrt(np.maximum(variances, 0.0)))

        return interval_of_sums(std, parts, self.weights, spread, _POSITIVE)

    def of_median(
        self, median: float, values: NDArray[np.float64], counts: NDArray[np.float64] | None = None
    ) -> Interval | None:
        """Interval of a median over things, where each counts for as many as given."""
        return interval_of_median(median, values, self.home, self.weights, counts, _POSITIVE)

    def _sum(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(self.home, values, self.weights.size).astype(np.float64)
