"""The box that is measured: inside the region whatever its shape, binned by majority, the same for any budget."""

import numpy as np
import pytest

from tomopipe.functions.errors import InputError, ParameterError
from tomopipe.functions.quantification.box import BinnedPhase, bin_phase, find_box
from tomopipe.functions.quantification.porosity import count_phases

PLENTY = 2**30


def box_of(phases, memory_bytes=PLENTY, progress=None):
    bounds = count_phases(phases, PLENTY).bounds
    assert bounds is not None
    return find_box(phases, bounds, memory_bytes, progress)


def binned(phases, maximum_voxels, memory_bytes=PLENTY):
    return bin_phase(phases, 1, tuple((0, n) for n in phases.shape), maximum_voxels, memory_bytes)


def cylinder(slices, edge, radius):
    _, y, x = np.mgrid[:slices, :edge, :edge]
    return (np.hypot(y - edge // 2, x - edge // 2) <= radius).astype(np.uint8)


def test_of_a_region_that_is_a_box_all_of_it():
    phases = np.zeros((12, 30, 40), np.uint8)
    phases[2:9, 3:25, 10:31] = 2
    assert box_of(phases) == ((2, 9), (3, 25), (10, 31))


def test_of_a_cylinder_the_prism_inside():
    phases = cylinder(30, 101, 48)
    (z0, z1), (y0, y1), (x0, x1) = box_of(phases)
    assert (z0, z1) == (0, 30)
    assert (y0, y1) == (x0, x1)
    assert y0 + y1 == 101  # in the middle
    # As large as a square inside the circle is, but for the 1 % that may stand out.
    assert y1 - y0 == pytest.approx(96 / np.sqrt(2), abs=4)
    sides = [phases[:, y0, x0:x1], phases[:, y1 - 1, x0:x1], phases[:, y0:y1, x0], phases[:, y0:y1, x1 - 1]]
    assert min(side.mean() for side in sides) >= 0.99


def test_of_an_ellipse_the_first_box_in_its_proportions_that_fits():
    _, y, x = np.mgrid[:4, :80, :160]
    phases = (np.hypot((y - 37) / 36.5, (x - 75) / 73) <= 1).astype(np.uint8)
    (y0, y1), (x0, x1) = count_phases(phases, PLENTY).bounds[1:]
    for step in range((x1 - x0) // 4 + 1):
        my, mx = step * (y1 - y0) // (4 * ((x1 - x0) // 4)), step * (x1 - x0) // (4 * ((x1 - x0) // 4))
        inside = phases[:, y0 + my : y1 - my, x0 + mx : x1 - mx]
        if min(side.mean() for side in (inside[:, 0], inside[:, -1], inside[:, :, 0], inside[:, :, -1])) >= 0.99:
            break
    found = box_of(phases)
    assert found == ((0, 4), (y0 + my, y1 - my), (x0 + mx, x1 - mx))
    assert (x1 - x0 - 2 * mx) / (y1 - y0 - 2 * my) == pytest.approx(2, rel=0.05)


def test_of_a_region_without_such_a_box_half_its_width():
    phases = np.zeros((4, 40, 40), np.uint8)
    phases[:, ::2, ::2] = 1
    (_, (y0, y1), _) = box_of(phases)
    assert y1 - y0 == pytest.approx(20, abs=2)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 30, 30), (30, 1, 30), (30, 30, 1), (2, 3, 1)])
def test_of_thin_volumes_all(shape):
    assert box_of(np.ones(shape, np.uint8)) == tuple((0, n) for n in shape)


def test_the_phases_inside_do_not_matter():
    phases = cylinder(10, 61, 28)
    others = phases * np.random.default_rng(0).integers(1, 4, phases.shape, np.uint8)
    assert box_of(others) == box_of(phases)


def test_box_does_not_depend_on_the_budget():
    phases = cylinder(23, 61, 28)
    seen = []
    assert box_of(phases, 5 * 61 * 61, seen.append) == box_of(phases)
    assert len(seen) == 12
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_binning_is_the_smallest_that_fits():
    phases = np.ones((40, 41, 43), np.uint8)
    whole = binned(phases, 40 * 41 * 43)
    assert whole.factor == 1
    assert whole.open_voxels.shape == (40, 41, 43)
    half = binned(phases, 40 * 41 * 43 - 1)
    assert half.factor == 2
    assert half.open_voxels.shape == (20, 20, 21)
    assert half.box == ((0, 40), (0, 40), (0, 42))
    assert binned(phases, 20 * 20 * 21 - 1).factor == 3


def test_binning_takes_the_majority():
    phases = np.full((6, 4, 2), 2, np.uint8)
    phases[:2, :2] = 1
    phases[2:4, :2] = 1
    # Half of a cube's voxels is no majority.
    phases[2:4, 0] = 0
    phases[4:, 2:] = 1
    phases[4, 2] = 3
    phases[4, 3, 0] = 3
    phases[4, 2, 0] = 1
    expected = np.array([[[1], [0]], [[0], [0]], [[0], [1]]], bool)
    np.testing.assert_array_equal(binned(phases, 6).open_voxels, expected)


def test_binning_counts_as_reshaping_does():
    phases = np.random.default_rng(1).integers(0, 3, (13, 17, 11), np.uint8)
    box = ((1, 13), (2, 16), (0, 10))
    found = bin_phase(phases, 2, box, 100, PLENTY)
    assert found.factor == 3
    assert found.box == ((1, 13), (2, 14), (0, 9))
    cubes = (phases[1:13, 2:14, :9] == 2).reshape(4, 3, 4, 3, 3, 3).sum((1, 3, 5))
    np.testing.assert_array_equal(found.open_voxels, cubes > 13.5)


def test_a_box_thinner_than_a_cube_is_one_bin_thick():
    found = binned(np.ones((1, 30, 30), np.uint8), 100)
    assert found.factor == 3
    assert found.open_voxels.shape == (1, 10, 10)
    assert found.edges((2.0, 3.0, 4.0)) == (2.0, 9.0, 12.0)


def test_edges_of_a_cube():
    assert BinnedPhase(np.ones((2, 3, 4), bool), 5, ((3, 13), (0, 15), (2, 22))).edges((1.0, 2.0, 0.5)) == (
        5.0,
        10.0,
        2.5,
    )


def test_binning_does_not_depend_on_the_budget():
    phases = np.random.default_rng(2).integers(0, 3, (31, 20, 22), np.uint8)
    whole = binned(phases, 2000)
    cut = binned(phases, 2000, 6 * 20 * 22)
    assert whole.factor == 2
    assert cut.box == whole.box
    np.testing.assert_array_equal(cut.open_voxels, whole.open_voxels)
    with pytest.raises(ParameterError, match="do not hold one slice"):
        binned(phases, 2000, 3 * 20 * 22)


def test_refuses_what_are_no_phases():
    with pytest.raises(InputError):
        find_box(np.ones((3, 3, 3), np.float32), ((0, 3),) * 3, PLENTY)
    with pytest.raises(InputError):
        binned(np.ones((3, 3, 3), np.int64), 27)
