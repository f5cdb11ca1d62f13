"""Neighbourhood counts against scikit-image, closed forms and brute force; the same for any cut."""

import numba
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage import measure

from tomopipe.functions.errors import InputError, ParameterError
from tomopipe.functions.quantification.configurations import (
    CROFTON_DIRECTIONS,
    count_configurations,
    crofton_interface_area,
    crofton_interface_areas,
    crofton_weights,
    crossing_areas,
    euler_number,
    euler_numbers,
    read_padded,
    voxel_count,
)
from tomopipe.functions.quantification.tiling import Tiling, cubes

MIB = 2**20


def axes(n):
    a = np.arange(n) - (n - 1) / 2 + 0.13
    return np.meshgrid(a, a + 0.07, a - 0.05, indexing="ij")


def random_phases(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 4, shape).astype(np.uint8)


def shapes_with_euler_number():
    z, y, x = axes(40)
    r = np.sqrt(z**2 + y**2 + x**2)
    block = np.zeros((40, 40, 40), bool)
    block[8:32, 8:32, 8:32] = True
    tunnels = block.copy()
    for start in (11, 18, 25):
        tunnels[:, start : start + 4, 12:16] = False
    return {
        "sphere": (r < 14, 1),
        "shell": ((r < 16) & (r > 8), 2),
        "torus": ((np.hypot(z, y) - 12) ** 2 + x**2 < 16, 0),
        "two spheres": (np.minimum((z - 10) ** 2, (z + 10) ** 2) + y**2 + x**2 < 49, 2),
        "block with three tunnels": (tunnels, -2),
        "block that touches all faces": (np.ones((40, 40, 40), bool), 1),
    }


@pytest.mark.parametrize("name", shapes_with_euler_number())
@pytest.mark.parametrize("connectivity", [6, 26])
def test_euler_number_of_known_shapes(name, connectivity):
    shape, expected = shapes_with_euler_number()[name]
    counts = count_configurations(shape.astype(np.uint8), [{1}], MIB)
    assert euler_number(counts[0], connectivity) == expected


@pytest.mark.parametrize(("connectivity", "neighbours"), [(1, 6), (3, 26)])
def test_euler_number_of_noise_equals_scikit_image(connectivity, neighbours):
    phases = random_phases((23, 31, 29))
    counts = count_configurations(phases, [{1}, {2, 3}], MIB)
    assert euler_number(counts[0], neighbours) == measure.euler_number(phases == 1, connectivity)
    assert euler_number(counts[1], neighbours) == measure.euler_number(phases >= 2, connectivity)


def test_pores_and_solid_are_a_pair():
    phases = np.full((20, 21, 22), 1, np.uint8)
    phases[2:-2, 2:-2, 2:-2] += np.random.default_rng(1).random((16, 17, 18)) < 0.4
    inner, outer = count_configurations(phases, [{2}, {1}], MIB)
    # By Alexander duality; the solid's outer surface adds one.
    assert euler_number(inner, 6) == euler_number(outer, 26) - 1
    assert euler_number(inner, 26) == euler_number(outer, 6) - 1


def test_counts_equal_brute_force():
    phases = random_phases((3, 4, 5))
    padded = np.pad(np.isin(phases, [1, 3]), 1)
    expected = np.zeros(256, np.int64)
    for z, y, x in np.ndindex(4, 5, 6):
        cell = padded[z : z + 2, y : y + 2, x : x + 2]
        expected[sum(1 << (4 * dx + 2 * dz + dy) for dz, dy, dx in np.argwhere(cell))] += 1
    np.testing.assert_array_equal(count_configurations(phases, [{3, 1}], MIB)[0], expected)


@pytest.mark.parametrize("slices_held", [2, 3, 7])
def test_counts_do_not_depend_on_the_budget(slices_held):
    phases = random_phases((17, 19, 13))
    sets = [{1}, {2}, {1, 2, 3}]
    whole = count_configurations(phases, sets, 100 * MIB)
    seen = []
    cut = count_configurations(phases, sets, slices_held * 2 * 19 * 13, seen.append)
    np.testing.assert_array_equal(cut, whole)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


@pytest.mark.parametrize("radius", [5, 10, 20])
def test_crofton_area_of_a_sphere(radius):
    z, y, x = axes(2 * radius + 8)
    phases = np.where(z**2 + y**2 + x**2 < radius**2, 1, 2).astype(np.uint8)
    counts = count_configurations(phases, [{1}, {2}, {1, 2}], 10 * MIB)
    assert crofton_interface_area(*counts) == pytest.approx(4 * np.pi * radius**2, rel=0.004)


def test_outline_and_cut_faces_are_no_interface():
    # A cylinder region that the phase fills to the outline has no interface at all.
    z, y, x = axes(24)
    region = np.hypot(y, x) < 10
    counts = count_configurations(region.astype(np.uint8), [{1}, {2}, {1, 2}], MIB)
    assert crofton_interface_area(*counts) == 0
    halves = np.where(region, np.where(z < 0, 1, 2), 0).astype(np.uint8)
    counts = count_configurations(halves, [{1}, {2}, {1, 2}], MIB)
    assert crofton_interface_area(*counts) == pytest.approx(0.909 * region[0].sum(), rel=0.06)


def test_crofton_area_is_the_same_from_both_sides():
    smooth = gaussian_filter(np.random.default_rng(2).random((24, 24, 24)), 2)
    phases = np.where(smooth < 0.5, 1, 2).astype(np.uint8)
    phase, rest, region = count_configurations(phases, [{1}, {2}, {1, 2}], MIB)
    assert crofton_interface_area(phase, rest, region) == crofton_interface_area(rest, phase, region) > 0


def test_counts_by_tile_equal_brute_force():
    phases = random_phases((7, 9, 8))
    tiling = Tiling((1, 3, 6), (0, 4, 8, 9), (2, 5))
    counts = count_configurations(phases, [{3, 1}], MIB, tiling=tiling)
    padded = np.pad(np.isin(phases, [1, 3]), 1)
    expected = np.zeros((2, 3, 1, 256), np.int64)
    for z, y, x in np.ndindex(8, 10, 9):
        cell = padded[z : z + 2, y : y + 2, x : x + 2]
        configuration = sum(1 << (4 * dx + 2 * dz + dy) for dz, dy, dx in np.argwhere(cell))
        # Cell i has voxels i - 1 and i.
        tile_y = 0 if y - 1 < 4 else 1 if y - 1 < 8 else 2
        expected[0 if z - 1 < 3 else 1, tile_y, 0, configuration] += 1
    np.testing.assert_array_equal(counts[..., 0, :], expected)


@pytest.mark.parametrize("slices_held", [2, 5, 100])
def test_tiles_add_up_and_do_not_depend_on_the_budget(slices_held):
    phases = random_phases((17, 19, 13))
    sets = [{1}, {2, 3}, {1, 2, 3}]
    tiling = cubes(((0, 17), (1, 19), (0, 13)), 4)
    tiles = count_configurations(phases, sets, slices_held * 2 * 19 * 13, tiling=tiling)
    np.testing.assert_array_equal(tiles, count_configurations(phases, sets, 100 * MIB, tiling=tiling))
    whole = count_configurations(phases, sets, 100 * MIB)
    np.testing.assert_array_equal(tiles.sum(axis=(0, 1, 2)), whole)
    for connectivity in (6, 26):
        parts = euler_numbers(tiles[..., 0, :], connectivity)
        assert parts.shape == tiling.shape
        assert parts.sum() == euler_number(whole[0], connectivity)
    areas = crofton_interface_areas(tiles[..., 0, :], tiles[..., 1, :], tiles[..., 2, :])
    assert areas.shape == tiling.shape
    assert areas.sum() == pytest.approx(crofton_interface_area(*whole), rel=1e-12)


def test_counts_do_not_depend_on_the_number_of_threads():
    phases = random_phases((9, 8, 7))
    tiling = cubes(((0, 9), (0, 8), (0, 7)), 2)
    expected = count_configurations(phases, [{1}], MIB, tiling=tiling)
    threads = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        np.testing.assert_array_equal(count_configurations(phases, [{1}], MIB, tiling=tiling), expected)
    finally:
        numba.set_num_threads(threads)


def test_tiles_hold_their_voxels():
    phases = random_phases((11, 12, 13))
    tiling = Tiling((0, 4, 11), (0, 6, 12), (0, 1, 13))
    counts = voxel_count(count_configurations(phases, [{1}, {2}], MIB, tiling=tiling))
    for tile in np.ndindex(tiling.shape):
        (z, y, x) = (slice(axis[i], axis[i + 1]) for axis, i in zip((tiling.z, tiling.y, tiling.x), tile, strict=True))
        assert counts[tile].tolist() == [np.sum(phases[z, y, x] == 1), np.sum(phases[z, y, x] == 2)]


def test_a_tiling_of_a_part_of_the_volume_counts_it_all():
    phases = np.zeros((8, 8, 8), np.uint8)
    phases[:] = 1
    counts = count_configurations(phases, [{1}], MIB, tiling=Tiling((3, 4, 5), (2, 6), (2, 3)))
    assert voxel_count(counts).ravel().tolist() == [256, 256]


@pytest.mark.parametrize("value", [0, 1])
def test_empty_and_full_volumes(value):
    counts = count_configurations(np.full((5, 1, 6), value, np.uint8), [{1}, {2}, {1, 2}], MIB)
    assert voxel_count(counts[0]) == 30 * value
    assert euler_number(counts[0], 6) == euler_number(counts[0], 26) == value
    assert crofton_interface_area(*counts) == 0


def test_weights_of_cubic_voxels():
    # The table of Legland, Kieu and Devaux (2007), for half of the directions.
    share = {1: 0.04577789120476, 2: 0.03698062787608, 3: 0.03519563978232}
    for step, area in zip(CROFTON_DIRECTIONS, crossing_areas((1, 1, 1)), strict=True):
        steps = sum(map(abs, step))
        assert area == pytest.approx(4 * share[steps] / np.sqrt(steps), rel=1e-9)
    assert len(CROFTON_DIRECTIONS) == 13


@pytest.mark.parametrize("voxel_size", [(1.0, 1.0, 1.0), (3.0, 1.0, 1.0), (0.7, 1.3, 2.0)])
def test_weights_are_the_solid_angles_nearest_to_the_directions(voxel_size):
    steps = np.array(CROFTON_DIRECTIONS) * voxel_size
    distances = np.linalg.norm(steps, axis=1)
    at_random = np.random.default_rng(0).normal(size=(200_000, 3))
    nearest = np.argmax(np.abs(at_random @ (steps / distances[:, None]).T), axis=1)
    shares = np.bincount(nearest, minlength=13) / len(at_random)
    expected = 2 * shares * np.prod(voxel_size) / distances
    np.testing.assert_allclose(crossing_areas(voxel_size), expected, rtol=0.05, atol=0.002)


@pytest.mark.parametrize("voxel_size", [(2.0, 1.0, 1.0), (1.0, 1.5, 2.2), (1.0, 3.0, 3.0)])
def test_crofton_area_of_a_sphere_in_anisotropic_voxels(voxel_size):
    radius = 20
    z, y, x = (size * axis for size, axis in zip(voxel_size, axes(2 * radius + 6), strict=True))
    phases = np.where(z**2 + y**2 + x**2 < radius**2, 1, 2).astype(np.uint8)
    counts = count_configurations(phases, [{1}, {2}, {1, 2}], 10 * MIB)
    expected = 4 * np.pi * radius**2
    assert crofton_interface_area(*counts, voxel_size) == pytest.approx(expected, rel=0.01)
    assert counts[0] @ crofton_weights(voxel_size) == pytest.approx(expected, rel=0.01)


def test_crofton_area_scales_with_the_voxel():
    counts = count_configurations(random_phases((9, 9, 9)) % 2 + 1, [{1}, {2}, {1, 2}], MIB)
    expected = 6.25 * crofton_interface_area(*counts)
    assert crofton_interface_area(*counts, (2.5, 2.5, 2.5)) == pytest.approx(expected, rel=1e-12)


def test_weights_give_the_closed_surface_of_a_set():
    # Of a set that the rest of the region encloses, interface and closed surface are one.
    phases = np.full((12, 13, 14), 2, np.uint8)
    phases[3:7, 2:9, 5] = 1
    counts = count_configurations(phases, [{1}, {2}, {1, 2}], MIB)
    for voxel_size in ((1.0, 1.0, 1.0), (2.0, 1.0, 0.5)):
        closed = counts[0] @ crofton_weights(voxel_size)
        assert closed == pytest.approx(crofton_interface_area(*counts, voxel_size), rel=1e-12)


def test_crofton_area_of_one_voxel():
    phases = np.zeros((1, 1, 1), np.uint8)
    phases[0, 0, 0] = 1
    counts = count_configurations(phases, [{1}], MIB)
    # Each of the 26 directions leaves it once.
    assert counts[0] @ crofton_weights((1, 1, 1)) == pytest.approx(2 * crossing_areas((1, 1, 1)).sum(), rel=1e-12)


def test_flips_and_turns_change_nothing():
    smooth = gaussian_filter(np.random.default_rng(3).random((20, 22, 24)), 1.5)
    phases = np.where(smooth < 0.5, 1, 2).astype(np.uint8)
    counts = count_configurations(phases, [{1}, {2}, {1, 2}], MIB)
    for turned in (phases[::-1], phases[:, ::-1], phases[:, :, ::-1], phases.transpose(2, 0, 1)):
        other = count_configurations(np.ascontiguousarray(turned), [{1}, {2}, {1, 2}], MIB)
        assert euler_number(other[0], 6) == euler_number(counts[0], 6)
        assert crofton_interface_area(*other) == pytest.approx(crofton_interface_area(*counts), rel=1e-12)


def test_read_padded_fills_with_outside():
    volume = random_phases((4, 3, 2)) + 1
    block = read_padded(volume, -2, 6)
    np.testing.assert_array_equal(block, np.pad(volume, ((2, 2), (0, 0), (0, 0))))
    np.testing.assert_array_equal(read_padded(volume, 1, 3), volume[1:3])


def test_bad_volumes_and_budgets_are_refused():
    with pytest.raises(InputError, match="uint8"):
        count_configurations(np.zeros((3, 3, 3), np.int32), [{1}], MIB)
    with pytest.raises(InputError, match="shape"):
        count_configurations(np.zeros((3, 3), np.uint8), [{1}], MIB)
    with pytest.raises(ParameterError, match="memory"):
        count_configurations(np.zeros((3, 300, 300), np.uint8), [{1}], 1000)
    with pytest.raises(ValueError, match="at most 8"):
        count_configurations(np.zeros((3, 3, 3), np.uint8), [{1}] * 9, MIB)
