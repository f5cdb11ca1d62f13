"""Phase counts and fractions against numpy, open and percolating pores against scipy, for any cut."""

import numpy as np
import pytest
from scipy import ndimage

from tomopipe.functions.errors import InputError
from tomopipe.functions.quantification.connectivity import phase_components
from tomopipe.functions.quantification.porosity import PoreAccess, count_phases, pore_access


def test_counts_fractions_and_bounds():
    phases = np.zeros((7, 9, 11), np.uint8)
    phases[2:6, 1:8, 3:10] = 2
    phases[3:5, 2:4, 4:9] = 1
    counts = count_phases(phases, 10**6)
    assert counts.voxels == (7 * 9 * 11 - 196, 20, 176)
    assert counts.bounds == ((2, 6), (1, 8), (3, 10))
    assert counts.region_voxels == 196
    assert counts.fraction_percent(1) == 100 * 20 / 196
    assert counts.fraction_percent(5) == 0


@pytest.mark.parametrize("budget_slices", [1, 2, 5, 100])
def test_counts_do_not_depend_on_the_budget(budget_slices):
    phases = np.random.default_rng(0).integers(0, 6, (13, 17, 19)).astype(np.uint8)
    phases[:2] = 0
    phases[:, :, -3:] = 0
    seen = []
    counts = count_phases(phases, budget_slices * 17 * 19, seen.append)
    assert counts.voxels == tuple(np.bincount(phases.ravel()))
    assert counts.bounds == ((2, 13), (0, 17), (0, 16))
    assert seen[-1] == 1.0


def test_single_column_and_single_voxel():
    phases = np.zeros((3, 4, 1), np.uint8)
    phases[1, 2, 0] = 1
    assert count_phases(phases, 100).bounds == ((1, 2), (2, 3), (0, 1))


def test_empty_region():
    counts = count_phases(np.zeros((3, 4, 5), np.uint8), 10**6)
    assert counts.voxels == (60,)
    assert counts.bounds is None
    with pytest.raises(ValueError, match="region"):
        counts.fraction_percent(1)


def test_other_types_are_refused():
    with pytest.raises(InputError, match="uint8"):
        count_phases(np.zeros((3, 4, 5)), 10**6)


def test_open_closed_and_percolating_pores():
    phases = np.full((10, 12, 14), 2, np.uint8)
    phases[:, :, :2] = 0  # outside the region
    phases[4:6, 4:6, 6:8] = 1  # closed: 8 voxels
    phases[2, 2, 2:5] = 1  # open to the outside: 3
    phases[:, 9, 9] = 1  # through along z, open to both faces: 10
    phases[7, 0, 11] = 1  # at a face of the volume: 1
    access = pore_access(phases, ((0, 10), (0, 12), (2, 14)), 10**6)
    assert (access.open_voxels, access.closed_voxels) == (14, 8)
    assert access.percolating_voxels == {"z": 10, "y": 0, "x": 0}
    assert access.box_region_voxels == 10 * 12 * 12


@pytest.mark.parametrize("budget_slices", [2, 3, 100])
def test_access_equals_scipy(budget_slices):
    _, y, x = np.mgrid[:14, :17, :17]
    phases = np.where(np.random.default_rng(3).random((14, 17, 17)) < 0.35, 1, 2).astype(np.uint8)
    outside = (y - 8) ** 2 + (x - 8) ** 2 > 70
    phases[outside] = 0
    box = ((0, 14), (3, 14), (2, 15))
    access = pore_access(phases, box, budget_slices * 13 * 17 * 17)

    labels, _ = ndimage.label(phases == 1)
    beside = ndimage.binary_dilation(outside, border_value=1)
    opened = np.isin(labels, labels[beside & (phases == 1)]) & (phases == 1)
    assert access.open_voxels == np.count_nonzero(opened) > 0
    assert access.closed_voxels == np.count_nonzero(phases == 1) - access.open_voxels > 0
    inside, _ = ndimage.label(phases[0:14, 3:14, 2:15] == 1)
    for axis, name in enumerate("zyx"):
        both = np.setdiff1d(np.intersect1d(inside.take(0, axis), inside.take(-1, axis)), [0])
        assert access.percolating_voxels[name] == np.count_nonzero(np.isin(inside, both))
    assert access.box_region_voxels == np.count_nonzero(phases[0:14, 3:14, 2:15])


def test_ways_around_the_box_do_not_percolate():
    phases = np.full((6, 8, 8), 2, np.uint8)
    phases[:3, 3, 3] = phases[3:, 3, 5] = 1
    phases[2, 3:7, 3] = phases[2, 6, 3:6] = phases[2, 3:7, 5] = 1  # joined beyond the box alone
    assert pore_access(phases, ((0, 6), (0, 8), (0, 8)), 10**6).percolating_voxels["z"] == 14
    assert pore_access(phases, ((0, 6), (0, 6), (0, 8)), 10**6).percolating_voxels["z"] == 0


def test_known_components_save_the_pass_over_the_volume():
    phases = np.random.default_rng(0).integers(1, 3, (8, 9, 10)).astype(np.uint8)
    whole = ((0, 8), (0, 9), (0, 10))
    components = phase_components(phases, {1}, 6, 10**6)
    for box in (whole, ((1, 7), (1, 8), (1, 9))):
        seen = []
        assert pore_access(phases, box, 10**6, seen.append) == pore_access(phases, box, 10**6, components=components)
        assert seen[-1] == 1.0
        assert sorted(seen) == seen


@pytest.mark.parametrize("value", [0, 1, 2])
def test_access_of_plain_volumes(value):
    phases = np.full((3, 4, 5), value, np.uint8)
    access = pore_access(phases, ((0, 3), (0, 4), (0, 5)), 10**6)
    pores = 60 if value == 1 else 0
    assert access == PoreAccess(pores, 0, dict.fromkeys("zyx", pores), 60 if value else 0)
