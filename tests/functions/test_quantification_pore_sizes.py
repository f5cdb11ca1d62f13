"""Diameters, their statistics, histograms and border correction against closed forms, counting and simulation."""

import itertools

import numpy as np
import pytest

from tomopipe.functions.errors import InputError, ParameterError
from tomopipe.functions.quantification.pore_sizes import (
    RegionMask,
    border_weights,
    coordination_statistics,
    equivalent_diameters,
    object_density,
    region_mask,
    size_histogram,
    size_statistics,
    throat_statistics,
)
from tomopipe.functions.quantification.porosity import count_phases

PLENTY = 10**8


def test_diameter_of_a_sphere():
    voxels = np.array([np.pi / 6 * 1000, 4 / 3 * np.pi * 20**3])
    np.testing.assert_allclose(equivalent_diameters(voxels, (0.65, 0.65, 0.65)), [6.5, 26.0])
    # The same spheres in voxels four times as high and half as wide.
    np.testing.assert_allclose(equivalent_diameters(voxels, (2.6, 0.325, 0.325)), [6.5, 26.0])


def test_statistics():
    statistics = size_statistics(np.array([4.0, 1.0, 2.0, 1.0]))
    assert statistics.mean == 2.0
    assert statistics.median == 1.5
    assert statistics.std == pytest.approx(np.sqrt(1.5))
    # Volumes 1, 1, 8, 64: weighted mean (1 + 1 + 16 + 256) / 74; half of the volume lies in the largest.
    assert statistics.volume_weighted_mean == pytest.approx(274 / 74)
    assert statistics.volume_weighted_median == 4.0


def test_a_weight_is_a_number_of_objects():
    rng = np.random.default_rng(0)
    diameters, times = rng.lognormal(2, 0.5, 301), rng.integers(0, 5, 301)
    weighted = size_statistics(diameters, times.astype(float))
    repeated = size_statistics(np.repeat(diameters, times))
    for name in ("mean", "median", "std", "volume_weighted_mean", "volume_weighted_median"):
        assert getattr(weighted, name) == pytest.approx(getattr(repeated, name), rel=1e-12)
    histogram, other = size_histogram(diameters, times.astype(float)), size_histogram(diameters)
    np.testing.assert_array_equal(histogram.counts, other.counts)
    np.testing.assert_array_equal(histogram.volume_percent, other.volume_percent)
    np.testing.assert_array_equal(
        histogram.corrected_counts, np.histogram(np.repeat(diameters, times), histogram.edges)[0]
    )
    np.testing.assert_array_equal(other.corrected_counts, other.counts)


def test_statistics_do_not_depend_on_the_order():
    rng = np.random.default_rng(0)
    diameters, weights = np.round(rng.lognormal(2, 0.5, 1001), 1), rng.random(1001)
    order = np.random.default_rng(1).permutation(1001)
    shuffled = diameters[order]
    assert size_statistics(diameters) == size_statistics(shuffled)
    assert size_statistics(diameters, weights) == size_statistics(shuffled, weights[order])
    a, b = size_histogram(diameters, weights), size_histogram(shuffled, weights[order])
    np.testing.assert_array_equal(a.volume_percent, b.volume_percent)
    np.testing.assert_array_equal(a.corrected_counts, b.corrected_counts)


def test_histogram_has_the_same_edges_for_every_scan():
    small, large = size_histogram(np.array([1.0, 1.3, 2.6])), size_histogram(np.array([1.1, 30.0]))
    shared = np.intersect1d(small.edges, large.edges)
    assert shared.size == small.edges.size
    np.testing.assert_allclose(np.diff(np.log10(large.edges)), 0.1)


def test_histogram_counts_all_and_by_volume():
    diameters = np.random.default_rng(0).lognormal(1, 0.7, 500)
    histogram = size_histogram(diameters)
    np.testing.assert_array_equal(histogram.counts, np.histogram(diameters, histogram.edges)[0])
    assert histogram.counts.sum() == 500
    assert histogram.counts[0] > 0
    assert histogram.counts[-1] > 0
    assert histogram.volume_percent.sum() == pytest.approx(100)
    inside = (diameters >= histogram.edges[-2]) & (diameters < histogram.edges[-1])
    assert histogram.volume_percent[-1] == pytest.approx(100 * (diameters[inside] ** 3).sum() / (diameters**3).sum())


@pytest.mark.parametrize("diameter", [1e-3, 1.0, 10**0.1, 10**0.7, 1000.0])
def test_diameter_on_an_edge_has_one_bin(diameter):
    histogram = size_histogram(np.array([diameter, diameter]))
    assert histogram.counts.tolist() == [2]
    assert histogram.edges[0] <= diameter < histogram.edges[1]


def test_throats():
    diameters = np.array([2.0, 1.0, 6.0, 3.0, 3.0])
    throats = throat_statistics(diameters)
    assert (throats.count, throats.mean, throats.median) == (5, 3.0, 3.0)
    assert throats.std == pytest.approx(np.std(diameters))
    np.testing.assert_array_equal(throats.counts, np.histogram(diameters, throats.edges)[0])
    np.testing.assert_array_equal(throats.edges, size_histogram(diameters).edges)


def test_coordination():
    statistics = coordination_statistics(np.array([0, 4, 1, 4]))
    assert (statistics.mean, statistics.median) == (2.25, 2.5)
    assert statistics.std == pytest.approx(np.std([0, 4, 1, 4]))
    assert statistics.counts.tolist() == [1, 1, 0, 0, 2]
    assert statistics.edges.tolist() == [0, 1, 2, 3, 4, 5]
    lonely = coordination_statistics(np.zeros(3, np.int64))
    assert (lonely.mean, lonely.counts.tolist(), lonely.edges.tolist()) == (0.0, [3], [0, 1])


def test_no_objects():
    nothing = np.empty(0)
    for refused in (size_statistics, size_histogram, throat_statistics, coordination_statistics):
        with pytest.raises(ValueError, match=r"object|throat"):
            refused(nothing)
    with pytest.raises(ValueError, match="object"):
        size_statistics(np.ones(3), np.zeros(3))
    region = RegionMask(((0, 4), (0, 4), (0, 4)), 64, (4, 4, 4), np.ones((1, 1, 1), bool))
    weights = border_weights(np.empty((0, 6), np.int64), region)
    assert weights.shape == (0,)
    assert object_density(weights, 64.0) == 0.0


# Border correction ------------------------------------------------------------------------------------------------


def cylinder(depth, edge, radius):
    _, y, x = np.mgrid[:depth, :edge, :edge] - (edge - 1) / 2
    return np.where(np.hypot(y, x) <= radius, 2, 0).astype(np.uint8)


def test_mask_of_a_box_takes_no_pass():
    class Unreadable:
        shape, dtype = (9, 10, 11), np.dtype(np.uint8)

    phases = np.zeros((9, 10, 11), np.uint8)
    phases[1:8, 2:9, 3:10] = 2
    seen = []
    region = region_mask(Unreadable(), count_phases(phases, PLENTY), PLENTY, seen.append)
    assert region.bounds == ((1, 8), (2, 9), (3, 10))
    assert (region.voxels, region.factors, region.inside.tolist()) == (343, (7, 7, 7), [[[True]]])
    assert seen == [1.0]


@pytest.mark.parametrize("slices", [1, 3, 100])
def test_cells_of_the_mask_lie_inside_whole(slices):
    phases = np.zeros((12, 271, 70), np.uint8)
    phases[1:, 10:, 3:] = cylinder(11, 261, 129)[:, :, 97:164]
    counts = count_phases(phases, PLENTY)
    (z0, z1), (y0, y1), (x0, x1) = counts.bounds
    seen = []
    region = region_mask(phases, counts, slices * 2 * 271 * 70, seen.append)
    assert region.factors == (1, 3, 1)
    assert region.voxels == np.count_nonzero(phases)
    rows = (y1 - y0) // 3
    crop = phases[z0:z1, y0 : y0 + 3 * rows, x0:x1] != 0
    np.testing.assert_array_equal(region.inside, crop.reshape(z1 - z0, rows, 3, x1 - x0).all(axis=2))
    assert seen[-1] == 1.0


def test_mask_of_bad_input():
    phases = np.zeros((3, 4, 5), np.uint8)
    with pytest.raises(ValueError, match="region"):
        region_mask(phases, count_phases(phases, PLENTY), PLENTY)
    phases[1, 1, 1] = phases[2, 2, 2] = 1
    with pytest.raises(ParameterError, match="memory"):
        region_mask(phases, count_phases(phases, PLENTY), 10)
    with pytest.raises(InputError, match="uint8"):
        region_mask(np.zeros((3, 4, 5)), count_phases(phases, PLENTY), PLENTY)


def test_weights_in_a_box_have_a_closed_form():
    region = RegionMask(((2, 22), (0, 30), (5, 45)), 20 * 30 * 40, (20, 30, 40), np.ones((1, 1, 1), bool))
    boxes = np.array(
        [
            [5, 7, 9, 12, 10, 19],
            [3, 1, 6, 21, 29, 44],  # the largest that fits
            [2, 1, 6, 20, 29, 44],  # at the lower face
            [3, 1, 6, 21, 30, 44],  # at an upper face
            [10, 10, 46, 12, 12, 48],  # beyond
        ]
    )
    expected = [24000 / ((20 - 7 - 1) * (30 - 3 - 1) * (40 - 10 - 1)), 24000.0, 0, 0, 0]
    np.testing.assert_allclose(border_weights(boxes, region), expected, rtol=1e-15)


@pytest.mark.parametrize("factors", [(1, 1, 1), (2, 3, 4), (5, 1, 2)])
def test_weights_count_the_places_of_a_box(factors):
    """Every place of a box is tried: it counts where the weight says so, and the weight is over how many do."""
    rng = np.random.default_rng(0)
    inside = rng.random((4, 6, 5)) < 0.93
    voxels = np.pad(inside.repeat(factors[0], 0).repeat(factors[1], 1).repeat(factors[2], 2), 3)
    origin = (3, 3, 3)
    bounds = tuple((o, o + n * f) for o, n, f in zip(origin, inside.shape, factors, strict=True))
    region = RegionMask(bounds, 1000, factors, inside)
    for size in [(1, 1, 1), (1, 2, 3), (2, 1, 1), (5, 1, 2), (2, 8, 1), (1, 1, 6), (30, 1, 1)]:
        starts = np.array(list(itertools.product(*(range(1, n - s) for n, s in zip(voxels.shape, size, strict=True)))))
        starts = starts.reshape(-1, 3)
        fits = np.array(
            [
                voxels[tuple(slice(a - 1, a + s + 1) for a, s in zip(start, size, strict=True))].all()
                for start in starts
            ],
            dtype=bool,
        )
        weights = border_weights(np.concatenate([starts, starts + size], axis=1), region)
        np.testing.assert_array_equal(weights > 0, fits)
        np.testing.assert_allclose(weights[fits], 1000 / max(1, fits.sum()), rtol=1e-15)


def packing(rng, edge, density):
    """Centres and diameters of balls (bimodal sizes) whose centres lie anywhere in and around a cube."""
    margin = 20
    count = rng.poisson(density * (edge + 2 * margin) ** 3)
    diameters = np.where(rng.random(count) < 0.7, rng.uniform(3, 9, count), rng.uniform(14, 30, count))
    return rng.uniform(-margin, edge + margin, (count, 3)), diameters


TRUE_MEAN = 0.7 * 6 + 0.3 * 22


@pytest.mark.parametrize("shape", ["box", "cylinder"])
def test_corrected_mean_and_density_of_a_cut_packing_are_unbiased(shape):
    """A hundred packings in a window of 80 voxels: the plain mean of the uncut balls is too small by a seventh or more."""
    edge, density = 80, 4e-4
    if shape == "box":
        phases = np.full((edge, edge, edge), 2, np.uint8)
    else:
        phases = cylinder(edge, edge, edge / 2)
    region = region_mask(phases, count_phases(phases, PLENTY), PLENTY)
    rng = np.random.default_rng(1)
    plain, weighted, numbers = [], [], []
    for _ in range(100):
        centres, diameters = packing(rng, edge, density)
        low = np.floor(centres - diameters[:, None] / 2).astype(int)
        high = np.ceil(centres + diameters[:, None] / 2).astype(int)
        near = (low > 0).all(axis=1) & (high < edge).all(axis=1)
        if shape == "cylinder":
            from_axis = np.hypot(*(centres[:, 1:] - edge / 2).T)
            near &= from_axis + diameters / 2 < edge / 2
        weights = border_weights(np.concatenate([low, high], axis=1), region)
        assert not weights[~near].any()
        plain.append((diameters[near].sum(), near.sum()))
        weighted.append(((weights * diameters).sum(), weights.sum()))
        numbers.append(object_density(weights, region.voxels))

    def estimate(sums):
        total, count = np.array(sums).T
        ratio = total.sum() / count.sum()
        return ratio, np.std(total - ratio * count) * np.sqrt(len(sums)) / count.sum()

    mean, error = estimate(weighted)
    biased, biased_error = estimate(plain)
    assert abs(mean - TRUE_MEAN) < 3 * error < 0.6
    assert biased < TRUE_MEAN - 10 * biased_error
    assert biased < 0.85 * TRUE_MEAN
    assert abs(np.mean(numbers) - density) < 3 * np.std(numbers) / np.sqrt(len(numbers)) < 0.05 * density
