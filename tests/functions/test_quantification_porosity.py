"""Phase counts and fractions against numpy, for any cut."""

import numpy as np
import pytest

from tomopipe.functions.errors import InputError
from tomopipe.functions.quantification.porosity import count_phases


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
