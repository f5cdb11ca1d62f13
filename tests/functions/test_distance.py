"""Distances: against scipy, whatever the blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from tomopipe.functions.distance import (
    NEUTRAL,
    NO_WALL,
    OPEN,
    WALL,
    block_squared_distances,
    check_size,
    column_walls,
    distance_weights,
    squared_distances_2d,
)
from tomopipe.functions.errors import InputError, ParameterError


def distances_block_by_block(
    kinds: NDArray[np.uint8], most: int, voxel_size: tuple[float, float, float], seed: int = 0
) -> NDArray[np.int32]:
    """Squared distances, the blocks done in random order; each is told only of the walls below and above it."""
    weights, _ = distance_weights(voxel_size)
    check_size(kinds.shape, weights)
    blocks = [(z, min(z + most, len(kinds))) for z in range(0, len(kinds), most)]
    walls = [column_walls(kinds[start:stop], start) for start, stop in blocks]
    result = np.full(kinds.shape, -1, np.int32)
    for index in np.random.default_rng(seed).permutation(len(blocks)).tolist():
        start, stop = blocks[index]
        below = above = np.full(kinds.shape[1:], -1, np.int32)
        for _, last in walls[:index]:
            below = np.where(last >= 0, last, below)
        for first, _ in reversed(walls[index + 1 :]):
            above = np.where(first >= 0, first, above)
        # With a slice of context at either end, in which the nearest wall may lie.
        low, high = max(0, start - 1), min(len(kinds), stop + 1)
        squared = block_squared_distances(kinds[low:high], low, below, above, weights)
        result[start:stop] = squared[start - low : stop - low]
        for z in range(low, high):
            assert np.array_equal(squared[z - low], result[z]) or (result[z] == -1).all()
    return result


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(*[st.integers(1, 24)] * 3),
    walls=st.sampled_from([0.0, 0.01, 0.3]),
    most=st.integers(1, 24),
    voxel_size=st.sampled_from([(1.0, 1.0, 1.0), (2.0, 1.0, 1.0), (0.5, 1.5, 1.0), (0.65, 0.65, 0.65)]),
)
def test_blocks_in_any_order_equal_scipy(
    seed: int, shape: tuple[int, int, int], walls: float, most: int, voxel_size: tuple[float, float, float]
) -> None:
    rng = np.random.default_rng(seed)
    kinds = rng.choice([NEUTRAL, WALL, OPEN], size=shape, p=[0.2, walls, 0.8 - walls]).astype(np.uint8)
    _, unit_length = distance_weights(voxel_size)
    if (kinds == WALL).any():
        distances = ndimage.distance_transform_edt(kinds != WALL, sampling=voxel_size)
        truth = np.rint((distances / unit_length) ** 2)
    else:
        truth = np.full(shape, NO_WALL)
    truth[kinds != OPEN] = 0
    assert np.array_equal(distances_block_by_block(kinds, most, voxel_size, seed), truth)


def test_walls_of_columns_are_slices_of_the_volume() -> None:
    kinds = np.full((4, 2, 3), OPEN, np.uint8)
    kinds[[0, 2, 3], 0, 1] = WALL, WALL, NEUTRAL
    kinds[3, 1, 2] = WALL
    walls = column_walls(kinds, 10)
    assert walls.dtype == np.int32
    assert walls.tolist() == [[[-1, 10, -1], [-1, -1, 13]], [[-1, 12, -1], [-1, -1, 13]]]


def test_distances_of_long_volumes_are_not_cut_short() -> None:
    kinds = np.full((700, 3, 900), OPEN, np.uint8)
    kinds[0, 0, 0] = WALL
    assert distances_block_by_block(kinds, 64, (1, 1, 1))[699, 2, 899] == 699**2 + 2**2 + 899**2
    assert distances_block_by_block(kinds, 64, (5, 1, 3))[699, 2, 899] == 25 * 699**2 + 2**2 + 9 * 899**2


@pytest.mark.parametrize(
    ("voxel_size", "weights", "unit_length"),
    [
        ((0.65, 0.65, 0.65), (1, 1, 1), 0.65),
        ((3.0, 3.01, 2.99), (1, 1, 1), 2.99),
        ((4.0, 2.0, 2.0), (4, 1, 1), 2.0),
        ((1.5, 1.0, 1.0), (9, 4, 4), 0.5),
        ((2.0**0.5, 1.0, 3.0**0.5), (2, 1, 3), 1.0),
    ],
)
def test_weights_are_the_smallest_that_will_do(
    voxel_size: tuple[float, float, float], weights: tuple[int, int, int], unit_length: float
) -> None:
    assert distance_weights(voxel_size) == (weights, pytest.approx(unit_length))


@given(voxel_size=st.tuples(*[st.floats(0.01, 9)] * 3))
def test_edges_are_within_a_per_cent(voxel_size: tuple[float, float, float]) -> None:
    weights, unit_length = distance_weights(voxel_size)
    assert np.sqrt(weights) * unit_length == pytest.approx(voxel_size, rel=0.01)


@pytest.mark.parametrize("voxel_size", [(0.0, 1.0, 1.0), (1.0, np.nan, 1.0), (1.0, 1.0, -1.0), (1.0, 1.0, 1001.0)])
def test_voxels_of_no_size_are_refused(voxel_size: tuple[float, float, float]) -> None:
    with pytest.raises(ParameterError, match="voxel size"):
        distance_weights(voxel_size)


def test_slices_do_not_see_each_other() -> None:
    rng = np.random.default_rng(1)
    walls = rng.random((5, 33, 41)) < 0.02
    walls[3] = False
    squared = squared_distances_2d(walls)
    for z in (0, 1, 2, 4):
        assert np.array_equal(squared[z], np.rint(ndimage.distance_transform_edt(~walls[z]) ** 2))
        assert np.array_equal(squared_distances_2d(walls[z : z + 1])[0], squared[z])
    assert (squared[3] == NO_WALL).all()


def test_too_long_distances_are_refused() -> None:
    check_size((18000, 18000, 18000))
    with pytest.raises(InputError, match="too long"):
        check_size((20000, 20000, 20000))
    check_size((8000, 18000, 18000), (4, 1, 1))
    with pytest.raises(InputError, match="too long"):
        check_size((13000, 18000, 18000), (4, 1, 1))
