"""Neighbourhood counts against scikit-image, closed forms and brute force; the same for any cut."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage import measure

from tomopipe.functions.errors import InputError, ParameterError
from tomopipe.functions.quantification.configurations import (
    count_configurations,
    crofton_interface_area,
    euler_number,
    read_padded,
)

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
