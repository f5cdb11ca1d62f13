"""Diameters, their statistics and histogram against closed forms."""

import numpy as np
import pytest

from tomopipe.functions.quantification.pore_sizes import equivalent_diameters, size_histogram, size_statistics


def test_diameter_of_a_sphere():
    voxels = np.array([np.pi / 6 * 1000, 4 / 3 * np.pi * 20**3])
    np.testing.assert_allclose(equivalent_diameters(voxels, 0.65), [6.5, 26.0])


def test_statistics():
    statistics = size_statistics(np.array([4.0, 1.0, 2.0, 1.0]))
    assert statistics.mean == 2.0
    assert statistics.median == 1.5
    assert statistics.std == pytest.approx(np.sqrt(1.5))
    # Volumes 1, 1, 8, 64: weighted mean (1 + 1 + 16 + 256) / 74; half of the volume lies in the largest.
    assert statistics.volume_weighted_mean == pytest.approx(274 / 74)
    assert statistics.volume_weighted_median == 4.0


def test_statistics_do_not_depend_on_the_order():
    diameters = np.random.default_rng(0).lognormal(2, 0.5, 1001)
    shuffled = np.random.default_rng(1).permutation(diameters)
    assert size_statistics(diameters) == size_statistics(shuffled)
    a, b = size_histogram(diameters), size_histogram(shuffled)
    np.testing.assert_array_equal(a.volume_percent, b.volume_percent)


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


def test_no_objects():
    with pytest.raises(ValueError, match="object"):
        size_statistics(np.empty(0))
    with pytest.raises(ValueError, match="object"):
        size_histogram(np.empty(0))
