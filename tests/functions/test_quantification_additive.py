"""Sums over boxes add up to the whole, and are the boxes' own."""

import math

import numpy as np
import pytest

from tomopipe.functions.quantification.additive import additive_sums
from tomopipe.functions.quantification.configurations import count_configurations, crofton_interface_area, euler_number
from tomopipe.functions.quantification.surface import interface_area
from tomopipe.functions.quantification.tiling import Tiling, cubes, whole

PLENTY = 2**30
VOXEL = (1.5, 1.0, 1.0)


@pytest.fixture(scope="module")
def phases():
    random = np.random.default_rng(0)
    coarse = random.integers(0, 4, (7, 8, 9)).astype(np.uint8)
    return np.kron(coarse, np.ones((4, 4, 4), np.uint8))


def test_boxes_add_up(phases):
    tilings = [
        cubes(((2, 26), (1, 30), (3, 33)), 6),
        Tiling(tuple(range(2, 27)), (1, 30), (3, 33)),
        whole(phases.shape),
    ]
    found = additive_sums(phases, 2, 3, 6, 0.7, VOXEL, tilings, PLENTY)
    inside, rest, region = count_configurations(phases, [{2}, {1, 3}, {1, 2, 3}], PLENTY)
    for sums, tiling in zip(found, tilings, strict=True):
        assert sums.tiling == tiling
        assert sums.region_voxels.shape == tiling.shape
        assert sums.region_voxels.sum() == np.count_nonzero(phases)
        assert sums.euler.sum() == euler_number(inside, 6)
        assert sums.crofton.sum() == pytest.approx(crofton_interface_area(inside, rest, region, VOXEL))
        area = interface_area(phases, 2, PLENTY, 0.7, voxel_size=VOXEL)
        assert math.fsum(sums.surface.flat) == pytest.approx(area)
        for phase in (1, 2, 3):
            assert sums.phase_voxels[phase].sum() == np.count_nonzero(phases == phase)


def test_each_box_has_its_own(phases):
    tiling = Tiling((0, 10, 28), (0, 32), (0, 17, 36))
    (sums,) = additive_sums(phases, 1, 3, 26, 0.7, VOXEL, [tiling], PLENTY)
    for z, (a, b) in enumerate(((0, 10), (10, 28))):
        for x, (c, d) in enumerate(((0, 17), (17, 36))):
            box = phases[a:b, :, c:d]
            assert sums.region_voxels[z, 0, x] == np.count_nonzero(box)
            for phase in (1, 2, 3):
                assert sums.phase_voxels[phase][z, 0, x] == np.count_nonzero(box == phase)


def test_do_not_depend_on_the_budget(phases):
    tilings = [cubes(((0, 28), (0, 32), (0, 36)), 5), Tiling(tuple(range(29)), (0, 32), (0, 36))]
    expected = additive_sums(phases, 1, 3, 6, 0.7, VOXEL, tilings, PLENTY)
    seen = []
    found = additive_sums(phases, 1, 3, 6, 0.7, VOXEL, tilings, 450 * 32 * 36, seen.append)
    for a, b in zip(found, expected, strict=True):
        for name in ("region_voxels", "euler", "crofton", "surface"):
            assert np.array_equal(getattr(a, name), getattr(b, name))
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(1)
