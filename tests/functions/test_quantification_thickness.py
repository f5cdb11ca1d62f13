"""Local thickness of shapes whose thickness is known, and against a search over all spheres."""

import tracemalloc

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tomopipe.functions.distance import distance_weights
from tomopipe.functions.errors import InputError
from tomopipe.functions.quantification.thickness import (
    count_levels,
    local_thickness,
    thickness_statistics,
)


def thickness_by_search(open_voxels, region, voxel_size):
    """The definition, sphere by sphere."""
    weights, unit_length = distance_weights(voxel_size)
    voxel_size = unit_length * np.sqrt(np.array(weights, float))
    position = np.argwhere(np.ones(open_voxels.shape, bool)) * np.array(voxel_size)
    is_open, walls = open_voxels.ravel(), (region & ~open_voxels).ravel()
    thickness = np.zeros(is_open.size)
    if walls.any():
        for centre in np.flatnonzero(is_open):
            distance = np.sqrt(((position - position[centre]) ** 2).sum(axis=1))
            radius = distance[walls].min()
            held = is_open & (distance < radius + min(voxel_size) / 2)
            thickness[held] = np.maximum(thickness[held], 2 * radius)
    return thickness.reshape(open_voxels.shape).astype(np.float32)


@settings(deadline=None, max_examples=40)
@given(
    kinds=arrays.arrays(np.uint8, st.tuples(*[st.integers(1, 7)] * 3), elements=st.sampled_from([0, 1, 1, 1, 2, 2])),
    voxel_size=st.sampled_from([(1.0, 1.0, 1.0), (2.0, 2.0, 2.0), (1.5, 1.0, 2.0), (1.0, 3.0, 1.0)]),
)
def test_equals_a_search_over_all_spheres(kinds, voxel_size):
    found = local_thickness(kinds == 1, kinds != 0, voxel_size)
    np.testing.assert_array_equal(found, thickness_by_search(kinds == 1, kinds != 0, voxel_size))


def test_equals_a_search_where_boxes_are_crossed():
    random = np.random.default_rng(3)
    open_voxels = random.random((12, 40, 36)) > 0.04
    found = local_thickness(open_voxels)
    np.testing.assert_array_equal(found, thickness_by_search(open_voxels, np.ones_like(open_voxels), (1.0, 1.0, 1.0)))
    assert found.max() > 8
    # More spheres reach the first box than are listed at a time.
    assert np.count_nonzero(open_voxels[:, :32, :32]) > 8192


def grid(shape, voxel_size=(1.0, 1.0, 1.0)):
    """Coordinates of voxels from the middle of a volume."""
    axes = [edge * (np.arange(n) - (n - 1) / 2) for n, edge in zip(shape, voxel_size, strict=True)]
    return np.meshgrid(*axes, indexing="ij")


@pytest.mark.parametrize("radius", [5.0, 9.3, 16.0])
def test_a_ball_is_as_thick_as_its_diameter_everywhere(radius):
    random = np.random.default_rng(int(radius))
    differences = []
    for offset in [np.zeros(3), *random.uniform(-0.5, 0.5, (8, 3))]:
        z, y, x = grid([2 * int(radius) + 7] * 3)
        ball = (z - offset[0]) ** 2 + (y - offset[1]) ** 2 + (x - offset[2]) ** 2 < radius**2
        thickness = local_thickness(ball)
        differences.append(thickness[ball].mean() - 2 * radius)
        # Not even the outermost voxels are held by small spheres only.
        assert thickness[ball].min() > 2 * radius - 2.5
        assert not thickness[~ball].any()
    assert abs(differences[0]) < 1
    assert abs(np.mean(differences)) < 1


def test_slits_are_as_wide_as_the_distance_of_their_walls():
    for width, found in ((7, 8), (8, 8)):
        slit = np.ones((width + 2, 20, 20), bool)
        slit[[0, -1]] = False
        assert set(np.unique(local_thickness(slit))) == {0, found}
    z, y, x = grid([40] * 3)
    tilted = abs(0.6 * z + 0.48 * y + 0.64 * x) < 4
    inner = local_thickness(tilted)[10:30, 10:30, 10:30]
    np.testing.assert_allclose(inner[inner > 0], 8, atol=1)


def test_cylinders_and_what_lies_beyond_their_walls():
    _, y, x = grid([20, 41, 41])
    for radius in (3.5, 6, 9):
        cylinder = y**2 + x**2 < radius**2
        thickness = local_thickness(cylinder)[cylinder]
        assert thickness.mean() == pytest.approx(2 * radius, abs=0.5)
    # Of nested tubes each has its own thickness.
    tubes = (y**2 + x**2 < 25) | ((y**2 + x**2 > 144) & (y**2 + x**2 < 256))
    thickness = local_thickness(tubes)
    np.testing.assert_allclose(thickness[(y**2 + x**2 < 25)], 10, atol=1.1)
    np.testing.assert_allclose(thickness[(y**2 + x**2 > 144) & (y**2 + x**2 < 256)], 4, atol=1.6)


def test_anisotropic_voxels_give_the_thickness_of_the_shape():
    radius = 12.0
    means = []
    for voxel_size in ((1.0, 1.0, 1.0), (2.0, 1.0, 1.0), (0.5, 1.0, 1.6)):
        coordinates = grid([2 * int(15 / edge) + 1 for edge in voxel_size], voxel_size)
        ball = sum(c**2 for c in coordinates) < radius**2
        thickness = local_thickness(ball, voxel_size=voxel_size)[ball]
        means.append(thickness.mean())
        assert thickness.min() > 2 * radius - 4
    np.testing.assert_allclose(means, 2 * radius, atol=1.5)


def test_unit_scales_the_map():
    open_voxels = np.random.default_rng(0).random((9, 10, 11)) > 0.1
    one, other = local_thickness(open_voxels), local_thickness(open_voxels, voxel_size=(0.25, 0.25, 0.25))
    np.testing.assert_allclose(other, 0.25 * one, rtol=1e-6)


def test_outside_the_region_is_no_wall():
    z, y, x = grid([31] * 3)
    half = (z**2 + y**2 + x**2 < 100) & (z >= 0)
    seen = local_thickness(half, z >= 0)
    assert seen[half].max() == pytest.approx(20, abs=1.5)
    assert local_thickness(half).max() < 12


def test_turned_and_mirrored_volumes_give_the_same():
    open_voxels = np.random.default_rng(5).random((20, 17, 33)) > 0.03
    thickness = local_thickness(open_voxels)
    np.testing.assert_array_equal(local_thickness(open_voxels[::-1, :, ::-1])[::-1, :, ::-1], thickness)
    np.testing.assert_array_equal(local_thickness(open_voxels.transpose(2, 0, 1)).transpose(1, 2, 0), thickness)


def test_threads_do_not_change_it():
    open_voxels = np.random.default_rng(5).random((40, 40, 40)) > 0.01
    thickness = local_thickness(open_voxels)
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        np.testing.assert_array_equal(local_thickness(open_voxels), thickness)
    finally:
        numba.set_num_threads(threads)


def test_empty_full_and_single_voxels():
    empty, full = np.zeros((3, 4, 5), bool), np.ones((3, 4, 5), bool)
    for phase, region in ((empty, None), (full, None), (full, full), (full, empty), (empty, empty)):
        thickness = local_thickness(phase, region)
        assert thickness.shape == (3, 4, 5)
        assert not thickness.any()
        assert thickness_statistics(thickness) is None
    one = empty.copy()
    one[1, 2, 3] = True
    assert local_thickness(one)[1, 2, 3] == 2
    assert local_thickness(one[1:2]).sum() == 2
    assert local_thickness(np.ones((1, 1, 1), bool)).shape == (1, 1, 1)


def test_long_slices():
    open_voxels = np.ones((1, 300, 900), bool)
    open_voxels[:, ::30] = False  # behind the last no wall is seen
    assert set(np.unique(local_thickness(open_voxels))) == {0, 30, 58}


def test_shapes_must_fit():
    with pytest.raises(InputError, match="shape"):
        local_thickness(np.ones((3, 4, 5), bool), np.ones((3, 4, 4), bool))
    with pytest.raises(InputError, match="shape"):
        local_thickness(np.ones((4, 5), bool))


def test_statistics_are_those_of_the_voxels():
    random = np.random.default_rng(1)
    values = random.choice(np.array([2, 3, 5, 8, 8.5, 40], np.float32), 1001)
    thickness = np.concatenate([values, np.zeros(500, np.float32)])
    random.shuffle(thickness)
    statistics = thickness_statistics(thickness.reshape(19, 79))
    assert statistics.mean == pytest.approx(values.mean(dtype=np.float64))
    assert statistics.std == pytest.approx(values.std(dtype=np.float64))
    assert statistics.median == np.median(values)
    even = thickness_statistics(np.array([2, 4, 6, 8], np.float32))
    assert even.median == 5
    edges, percent = statistics.histogram.edges, statistics.histogram.volume_percent
    assert len(edges) == len(percent) + 1
    assert percent.sum() == pytest.approx(100)
    np.testing.assert_allclose(np.diff(np.log10(edges)), 0.1)
    np.testing.assert_allclose(10 * np.log10(edges), np.round(10 * np.log10(edges)), atol=1e-9)
    np.testing.assert_allclose(percent, 100 * np.histogram(values, edges)[0] / values.size)
    assert percent[0] > 0 and percent[-1] > 0


def test_statistics_hold_little_beside_the_map():
    thickness = np.random.default_rng(2).choice(np.array([0, 2, 3, 5, 8], np.float32), (96, 128, 128))
    thickness_statistics(thickness[:1])
    tracemalloc.start()
    try:
        thickness_statistics(thickness)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 6e6  # some 20 bytes for each of the voxels that are counted at a time


def test_levels_are_counted_part_by_part():
    parts = [np.array([[0, 3], [2, 3]], np.float32), np.zeros(5, np.float32), np.array([7, 2, 2], np.float32)]
    levels, counts = count_levels(parts)
    np.testing.assert_array_equal(levels, [2, 3, 7])
    np.testing.assert_array_equal(counts, [[1, 2, 0], [0, 0, 0], [2, 0, 1]])
    levels, counts = count_levels([])
    assert levels.size == 0 and counts.shape == (0, 0)
