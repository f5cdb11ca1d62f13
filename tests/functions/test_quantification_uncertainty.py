"""Intervals: the jackknife against closed forms and simulated media with known porosity, sub-volumes, moved thresholds."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student

from tomopipe.functions.quantification.tiling import Tiling, cubes
from tomopipe.functions.quantification.uncertainty import (
    interval_of_counted_median,
    interval_of_median,
    interval_of_sums,
    jackknife_interval,
    segmentation_interval,
    sub_volumes,
)


def ratio(sums):
    return sums[..., 0] / sums[..., 1]


def test_equal_groups_give_the_interval_of_a_mean():
    """The jackknife of a mean of equal groups is the standard error of the mean."""
    values = np.random.default_rng(1).normal(5, 2, 40)
    low, high = interval_of_sums(values.mean(), np.stack([values, np.ones(40)], axis=1), np.ones(40), ratio)
    half = student.ppf(0.975, 39) * values.std(ddof=1) / math.sqrt(40)
    assert low == pytest.approx(values.mean() - half)
    assert high == pytest.approx(values.mean() + half)


def test_unequal_groups_cover_the_truth():
    """Means of groups of very unequal size, each with the variance that goes with its size."""
    random = np.random.default_rng(2)
    weights = random.uniform(10, 100, 24)
    held = 0
    for _ in range(400):
        sums = weights * random.normal(3, 1 / np.sqrt(weights))
        interval = interval_of_sums(sums.sum() / weights.sum(), np.stack([sums, weights], axis=1), weights, ratio)
        held += interval[0] <= 3 <= interval[1]
    assert 0.92 <= held / 400 <= 0.98


def test_intervals_of_medians_cover_the_truth():
    """The median of a log-normal distribution, as it is and rounded to few values."""
    random = np.random.default_rng(3)
    weights = random.uniform(50, 100, 30)
    held, held_coarse = 0, 0
    for _ in range(300):
        groups = np.repeat(np.arange(30), random.poisson(weights / 4))
        values = random.lognormal(1.0, 0.4, groups.size)
        low, high = interval_of_median(np.median(values), values, groups, weights)
        held += low <= math.e <= high
        coarse = np.round(values * 4) / 4
        low, high = interval_of_median(np.median(coarse), coarse, groups, weights)
        assert 0 < high - low < 0.6
        held_coarse += low - 0.125 <= math.e <= high + 0.125
    assert 0.9 <= held / 300 <= 0.99
    assert held_coarse / 300 >= 0.9


def test_median_by_volume():
    """A thing that counts twice is two things."""
    random = np.random.default_rng(4)
    values, groups = random.normal(5, 1, 400), random.integers(0, 10, 400)
    counts = random.integers(1, 4, 400)
    repeated = np.repeat(values, counts)
    one = interval_of_median(5.0, values, groups, np.ones(10), counts.astype(float))
    other = interval_of_median(5.0, repeated, np.repeat(groups, counts), np.ones(10))
    assert one == pytest.approx(other)
    assert sum(one) / 2 == pytest.approx(5.0)
    # Without the only group that has any, there is none.
    assert interval_of_median(1.0, np.ones(3), np.zeros(3, np.int64), np.ones(5)) is None


def test_median_of_what_is_counted_is_that_of_the_things():
    random = np.random.default_rng(5)
    values = random.choice(np.array([2.0, 2.5, 3.1, 4.7], np.float32), 3000)
    groups, weights = random.integers(0, 12, values.size), random.uniform(1, 2, 12)
    levels = np.unique(values)
    counts = np.stack([np.bincount(np.searchsorted(levels, values[groups == g]), minlength=4) for g in range(12)])
    expected = interval_of_median(3.0, values, groups, weights, limits=(2.9, 9.0))
    assert interval_of_counted_median(3.0, levels, counts, weights, (2.9, 9.0)) == expected
    assert expected[0] < 3 < expected[1]


def test_intervals_end_at_the_limits_and_hold_the_value():
    parts = np.array([[0, 10], [0, 10], [0, 10], [0, 10], [1, 10]], float)
    low, high = interval_of_sums(0.02, parts, np.ones(5), ratio, (0, 1))
    assert low == 0
    assert high > 0.02


def test_no_interval_where_there_are_few_groups_or_the_metric_is_undefined():
    assert jackknife_interval(1.0, np.ones(3), np.ones(3)) is None
    parts = np.array([[1, 10], [0, 0], [0, 0], [0, 0], [0, 0]], float)
    assert interval_of_sums(0.1, parts, np.ones(5), ratio) is None
    assert interval_of_sums(1.0, np.ones((0, 2)), np.ones(0), ratio) is None


def test_sub_volumes_of_a_box_are_equal():
    tiling = cubes(((0, 128), (0, 128), (0, 128)))
    groups = sub_volumes(tiling, np.full(tiling.shape, 512))
    assert groups.weights.tolist() == [512 * 64] * 64
    # Every group is one box.
    for group in range(64):
        z, y, x = np.nonzero(groups.numbers == group)
        assert len(z) == 64 == np.prod([np.ptp(axis) + 1 for axis in (z, y, x)])


def test_sub_volumes_of_a_cylinder_are_about_equal():
    y, x = np.mgrid[:16, :16] - 7.5
    inside = np.broadcast_to(np.where(np.hypot(y, x) < 8, 1000, 0), (16, 16, 16))
    groups = sub_volumes(cubes(((0, 160), (0, 160), (0, 160))), inside)
    assert groups.weights.sum() == inside.sum()
    assert groups.weights.min() >= 0.5 * inside[:4, 4:8, 4:8].sum()
    assert len(groups.weights) > 40


def test_sub_volumes_of_nothing_and_of_a_slice():
    tiling = cubes(((0, 1), (0, 32), (0, 32)))
    assert len(sub_volumes(tiling, np.zeros(tiling.shape, int)).weights) == 0
    assert len(sub_volumes(tiling, np.full(tiling.shape, 4)).weights) == 16


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32))
def test_every_voxel_belongs_to_the_group_of_its_tile(depth, rows, columns, seed):
    tiling = cubes(((0, depth), (0, rows), (0, columns)), 5)
    region = np.random.default_rng(seed).integers(0, 9, tiling.shape)
    region[0, 0, 0] = 1
    groups = sub_volumes(tiling, region)
    assert groups.sums(region) == pytest.approx(groups.weights)
    assert np.array_equal(np.unique(groups.numbers), np.arange(len(groups.weights)))
    indices = np.stack(np.meshgrid(range(depth), range(rows), range(columns), indexing="ij"), axis=-1).reshape(-1, 3)
    tiles = [np.repeat(range(n), np.diff(e)) for n, e in zip(tiling.shape, (tiling.z, tiling.y, tiling.x), strict=True)]
    expected = groups.numbers[np.ix_(*tiles)]
    assert np.array_equal(groups.groups_of(indices.astype(float)).reshape(expected.shape), expected)


def test_sums_keep_what_follows_the_tiles():
    tiling = Tiling((0, 2, 4), (0, 3, 6), (0, 1, 2))
    values = np.arange(8 * 6, dtype=float).reshape(2, 2, 2, 2, 3)
    groups = sub_volumes(tiling, np.ones(tiling.shape, int))
    assert groups.sums(values).shape == (8, 2, 3)
    assert groups.sums(values).sum(axis=0) == pytest.approx(values.sum(axis=(0, 1, 2)))


def boolean_model(random, size, density, radius):
    """Union of spheres whose centres are a Poisson process, also outside the cube."""
    pores = np.zeros((size,) * 3, bool)
    reach = math.ceil(radius)
    for center in random.uniform(
        -radius, size - 1 + radius, (random.poisson(density * (size - 1 + 2 * radius) ** 3), 3)
    ):
        low = np.maximum(np.floor(center).astype(int) - reach, 0)
        high = np.minimum(np.floor(center).astype(int) + reach + 2, size)
        if np.any(low >= high):
            continue
        part = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        z, y, x = (np.arange(a, b) - c for a, b, c in zip(low, high, center, strict=True))
        pores[part] |= z[:, None, None] ** 2 + y[:, None] ** 2 + x**2 < radius**2
    return pores


def test_interval_of_porosity_covers_the_truth():
    """200 Poisson sphere media: the porosity is known in closed form, and every voxel has it as its expectation."""
    random = np.random.default_rng(7)
    size, radius, density = 64, 3.0, 0.35 / (4 / 3 * math.pi * 3.0**3)
    truth = 1 - math.exp(-0.35)
    tiling = cubes(((0, size),) * 3)
    region = np.full(tiling.shape, (size // 16) ** 3)
    groups = sub_volumes(tiling, region)
    held = 0
    for _ in range(200):
        pores = boolean_model(random, size, density, radius)
        tiles = pores.reshape(16, 4, 16, 4, 16, 4).sum(axis=(1, 3, 5))
        sums = np.stack([groups.sums(tiles), groups.weights], axis=1)
        low, high = interval_of_sums(pores.mean(), sums, groups.weights, ratio, (0, 1))
        held += low <= truth <= high
    assert 0.88 <= held / 200 <= 0.99


def test_moved_thresholds():
    assert segmentation_interval(20.0, 10.0, (9.0, 12.0), "absolute") == (19.0, 22.0)
    assert segmentation_interval(20.0, 10.0, (9.0, 12.0), "relative") == (18.0, 24.0)
    # Both ends on one side: the value stays in.
    assert segmentation_interval(20.0, 10.0, (11.0, 12.0), "relative") == (20.0, 24.0)
    assert segmentation_interval(99.0, 10.0, (9.0, 12.0), "absolute", (0, 100)) == (98.0, 100.0)
    assert segmentation_interval(5.0, 0.0, (0.0, 0.0), "relative") == (5.0, 5.0)
    assert segmentation_interval(5.0, 0.0, (0.0, 1.0), "relative") is None
