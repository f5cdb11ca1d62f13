"""Metrics of objects: intervals that hold the truth, throats that were not measured, tables without objects."""

from dataclasses import dataclass

import numpy as np
import pytest
from scipy.stats import t as student

from tomopipe.functions.quantification.findings import Scale
from tomopipe.functions.quantification.object_metrics import object_metrics
from tomopipe.functions.quantification.pore_sizes import RegionMask
from tomopipe.functions.quantification.tiling import cubes
from tomopipe.functions.quantification.uncertainty import sub_volumes

SCALE = Scale((1.0, 1.0, 1.0), "um")
EDGE = 400
REGION = RegionMask(((0, EDGE),) * 3, EDGE**3, (EDGE,) * 3, np.ones((1, 1, 1), bool))
TILING = cubes(REGION.bounds)
GROUPS = sub_volumes(TILING, np.full(TILING.shape, (EDGE // 16) ** 3))


@dataclass
class Objects:
    voxels: np.ndarray
    touches_border: np.ndarray
    centroid: np.ndarray
    bounding_box: np.ndarray
    neighbours: np.ndarray
    shape: np.ndarray

    def sphericity(self, voxel_size):
        return self.shape


@dataclass
class Contacts:
    first: np.ndarray
    second: np.ndarray
    throat_radius: np.ndarray


def scattered(random, density=5e-6):
    """Balls at random places, with those at the border cut."""
    count = random.poisson(density * (EDGE + 60) ** 3)
    radius = random.choice([3.0, 6.0, 12.0], count, p=[0.5, 0.3, 0.2])
    center = random.uniform(-30, EDGE + 30, (count, 3))
    low, high = np.ceil(center - radius[:, None]).astype(int), np.floor(center + radius[:, None]).astype(int) + 1
    there = np.all((high > 0) & (low < EDGE), axis=1)
    box = np.concatenate([np.maximum(low, 0), np.minimum(high, EDGE)], axis=1)[there]
    cut = np.any((low <= 0) | (high >= EDGE), axis=1)[there]
    voxels = 4 / 3 * np.pi * radius[there] ** 3 * np.where(cut, 0.5, 1.0)
    return Objects(
        voxels,
        cut,
        np.clip(center[there], 0, EDGE - 1),
        box,
        random.poisson(4, there.sum()),
        random.beta(18, 2, there.sum()),
    )


def test_intervals_hold_the_truth():
    random = np.random.default_rng(0)
    truth = {
        # Objects at the border left out, small ones are a little too frequent: by less than the interval.
        "equivalent_diameter_border_corrected_mean_um": 2 * (0.5 * 3 + 0.3 * 6 + 0.2 * 12),
        "object_density_per_um3": 5e-6,
        "sphericity_mean": 0.9,
        "coordination_number_mean": 4.0,
        "throat_diameter_mean_um": 4.0,
    }
    held = dict.fromkeys(truth, 0)
    runs = 60
    for _ in range(runs):
        objects = scattered(random)
        count = len(objects.voxels)
        contacts = Contacts(
            random.integers(1, count + 1, 200), random.integers(1, count + 1, 200), random.gamma(4, 0.5, 200)
        )
        found = object_metrics(objects, contacts, REGION, SCALE, GROUPS)
        for name, value in truth.items():
            low, high = found.intervals[name]
            assert low <= found.metrics[name] <= high
            held[name] += low <= value <= high
    for name, times in held.items():
        assert times / runs >= 0.85, name


def test_every_metric_of_objects_has_an_interval():
    objects = scattered(np.random.default_rng(1))
    contacts = Contacts(np.arange(1, 101), np.arange(2, 102), np.sqrt(np.arange(1, 101) % 5 + 1))
    found = object_metrics(objects, contacts, REGION, SCALE, GROUPS)
    assert set(found.metrics) - set(found.intervals) == {"border_object_count"}
    # Few different radii: the interval of their median is not a point.
    low, high = found.intervals["throat_diameter_median_um"]
    assert low < found.metrics["throat_diameter_median_um"] < high
    assert object_metrics(objects, contacts, REGION, SCALE, None).intervals == {}
    assert object_metrics(objects, contacts, REGION, SCALE, None).metrics == found.metrics


def test_intervals_are_those_of_leaving_out_sub_volumes():
    """Groups of equal size: the jackknife in its simplest form, on the whole objects alone."""
    objects = scattered(np.random.default_rng(4))
    # What differs from place to place, so that it matters where an object is counted.
    objects.shape = objects.centroid[:, 0] / EDGE
    found = object_metrics(objects, None, REGION, SCALE, GROUPS)
    inner = ~objects.touches_border
    home = GROUPS.groups_of(objects.centroid)[inner]
    diameters = np.cbrt(objects.voxels[inner] * 6 / np.pi)
    for name, values, counts in (
        ("sphericity_mean", objects.shape[inner], np.ones(inner.sum())),
        ("equivalent_diameter_volume_weighted_mean_um", diameters, diameters**3),
    ):
        without = np.array([np.average(values[home != g], weights=counts[home != g]) for g in range(64)])
        half = student.ppf(0.975, 63) * np.sqrt(63 / 64 * np.sum((without - without.mean()) ** 2))
        low, high = found.intervals[name]
        assert (high - low) / 2 == pytest.approx(half), name
        assert (high + low) / 2 == pytest.approx(found.metrics[name]), name


def test_throats_that_were_not_measured_have_no_diameter():
    objects = scattered(np.random.default_rng(2))
    contacts = Contacts(np.array([1, 2, 3]), np.array([2, 3, 4]), np.array([0.0, 1.5, 0.0]))
    found = object_metrics(objects, contacts, REGION, SCALE, GROUPS)
    assert found.metrics["throat_count"] == 3
    assert found.metrics["throat_diameter_mean_um"] == 3.0
    nothing = Contacts(np.array([1]), np.array([2]), np.array([0.0]))
    metrics = object_metrics(objects, nothing, REGION, SCALE, GROUPS).metrics
    assert metrics["throat_count"] == 1
    assert "throat_diameter_mean_um" not in metrics


def test_only_cut_objects_and_no_contacts():
    objects = scattered(np.random.default_rng(3))
    objects.touches_border[:] = True
    objects.bounding_box[:, :3] = 0
    found = object_metrics(objects, None, REGION, SCALE, GROUPS)
    assert found.metrics["object_count"] == found.metrics["border_object_count"] == len(objects.voxels)
    assert "object_density_per_um3" not in found.metrics
    assert not any(name.startswith(("equivalent", "sphericity", "throat", "coordination")) for name in found.metrics)
    assert found.histograms == {}
