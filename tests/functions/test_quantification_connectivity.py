"""Euler number of phases."""

import numpy as np
import pytest
from skimage import measure

from tomopipe.functions.quantification.connectivity import phase_euler_number


@pytest.mark.parametrize(("connectivity", "neighbours"), [(1, 6), (3, 26)])
def test_equals_scikit_image_for_any_budget(connectivity, neighbours):
    phases = np.random.default_rng(0).integers(0, 4, (15, 16, 17)).astype(np.uint8)
    expected = measure.euler_number(np.isin(phases, [1, 3]), connectivity)
    for budget in (2 * 2 * 16 * 17, 10**6):
        assert phase_euler_number(phases, {1, 3}, budget, neighbours) == expected


def test_diagonal_contact_connects_solids_only():
    phases = np.zeros((4, 4, 4), np.uint8)
    phases[1, 1, 1] = phases[2, 2, 2] = 1
    assert phase_euler_number(phases, {1}, 10**6, 6) == 2
    assert phase_euler_number(phases, {1}, 10**6, 26) == 1
