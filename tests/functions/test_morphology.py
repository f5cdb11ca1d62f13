"""Morphology with a ball and hole filling: against scipy with an explicit footprint, wherever the volume is cut."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from tomopipe.functions.block_files import BlockVolume
from tomopipe.functions.distance import NEUTRAL, OPEN, WALL, distance_weights
from tomopipe.functions.morphology import (
    SWEEPS_AN_EROSION,
    SWEEPS_OF_FILLING,
    dilate_2d,
    erode,
    erode_2d,
    erosions,
    fill_holes,
    phase_kinds,
)
from tomopipe.functions.walls import WallMaps

VoxelSize = tuple[float, float, float]


def cut(depth: int, cuts: tuple[int, ...]) -> list[tuple[int, int]]:
    return list(itertools.pairwise(sorted({0, depth, *(at for at in cuts if 0 < at < depth)})))


def kinds_on_disk(phases: NDArray[np.uint8], phase: int, cuts: tuple[int, ...], folder: Path) -> BlockVolume:
    kinds = BlockVolume(folder / "kinds", cut(len(phases), cuts), phases.shape, np.dtype(np.uint8))
    for index, (start, stop) in enumerate(kinds.blocks):
        kinds.write(index, phase_kinds(phases[start:stop], phase))
    return kinds


def changed(
    phases: NDArray[np.uint8],
    phase: int,
    radii: tuple[float, float, float, float],
    folder: Path,
    cuts: tuple[int, ...] = (),
    voxel_size: VoxelSize = (1.0, 1.0, 1.0),
) -> NDArray[np.uint8]:
    """Kinds after opening, closing, erosion and dilation."""
    kinds = kinds_on_disk(phases, phase, cuts, folder)
    weights, unit_length = distance_weights(voxel_size)
    walls = WallMaps(folder / "walls", kinds.blocks, weights)
    told: list[int] = []
    steps = erosions(*radii)
    for step in steps:
        erode(kinds, step, walls, unit_length, told.append)
    assert sum(told) == SWEEPS_AN_EROSION * len(steps) * len(phases)
    return np.asarray(kinds[0 : len(phases)])


def ball(radius: float, voxel_size: tuple[float, ...]) -> NDArray[np.bool_]:
    reaches = [int(radius / edge) for edge in voxel_size]
    grid = np.ogrid[tuple(slice(-reach, reach + 1) for reach in reaches)]
    return np.asarray(sum((g * edge) ** 2 for g, edge in zip(grid, voxel_size, strict=True)) <= radius**2 * (1 + 1e-9))


def truth(
    mask: NDArray[np.bool_], region: NDArray[np.bool_], radii: tuple[float, ...], voxel_size: VoxelSize
) -> NDArray[np.bool_]:
    for radius, steps in zip(radii, ("ed", "de", "e", "d"), strict=True):
        if not radius:
            continue
        for step in steps:
            if step == "e":
                # What is outside the region or the volume does not erode.
                mask = ndimage.binary_erosion(mask | ~region, ball(radius, voxel_size), border_value=1) & region
            else:
                mask = ndimage.binary_dilation(mask, ball(radius, voxel_size)) & region
    return mask


def random_phases(seed: int, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    phases = np.where(ndimage.gaussian_filter(rng.random(shape), 1.5) > 0.5, 2, 1).astype(np.uint8)
    phases[ndimage.gaussian_filter(rng.random(shape), 3) > 0.515] = 0
    return phases


@pytest.mark.parametrize(
    "radii",
    [(1.0, 0.0, 0.0, 0.0), (0.0, 1.5, 0.0, 0.0), (2.0, 1.0, 0.0, 0.0), (2.9, 3.0, 0.0, 0.0), (0.0, 0.0, 1.5, 3.0)],
)
@pytest.mark.parametrize("cuts", [(), (7, 14, 21, 28), (1, 2, 3, 29)])
def test_steps_equal_scipy_wherever_the_volume_is_cut(
    tmp_path: Path, radii: tuple[float, float, float, float], cuts: tuple[int, ...]
) -> None:
    phases = random_phases(3, (30, 31, 32))
    result = changed(phases, 2, radii, tmp_path, cuts)
    assert np.array_equal(result == OPEN, truth(phases == 2, phases > 0, radii, (1.0, 1.0, 1.0)))
    assert np.array_equal(result == NEUTRAL, phases == 0)


@pytest.mark.parametrize("voxel_size", [(2.0, 1.0, 1.0), (0.65, 0.65, 1.3), (0.65, 0.65, 0.65)])
@pytest.mark.parametrize("radius_in_longest_edges", [1.0, 2.3])
def test_a_ball_is_a_ball_in_real_space(tmp_path: Path, voxel_size: VoxelSize, radius_in_longest_edges: float) -> None:
    # A radius of whole edges: rounding errors neither lose nor add the voxels that lie just on the ball.
    radii = (radius_in_longest_edges * max(voxel_size), 0.0, 0.0, max(voxel_size))
    phases = random_phases(4, (20, 30, 32))
    result = changed(phases, 2, radii, tmp_path, (4, 5, 11), voxel_size)
    expected = truth(phases == 2, phases > 0, radii, voxel_size)
    assert expected.any()
    assert np.array_equal(result == OPEN, expected)


def test_a_ball_that_fits_nowhere_leaves_nothing_and_one_without_walls_all(tmp_path: Path) -> None:
    phases = np.ones((6, 6, 6), np.uint8)
    assert (changed(phases, 1, (1e5, 0.0, 0.0, 0.0), tmp_path) == OPEN).all()
    phases[3, 3, 3] = 2
    assert (changed(phases, 1, (0.0, 0.0, 1e5, 0.0), tmp_path) == WALL).all()


def test_a_ball_smaller_than_a_voxel_changes_nothing(tmp_path: Path) -> None:
    phases = random_phases(5, (8, 9, 10))
    assert np.array_equal(changed(phases, 1, (0.9, 0.9, 0.9, 0.9), tmp_path), phase_kinds(phases, 1))


# Holes ----------------------------------------------------------------------------------------------------------------


def filled(
    phases: NDArray[np.uint8], phase: int, connectivity: Any, folder: Path, cuts: tuple[int, ...] = ()
) -> NDArray[np.uint8]:
    kinds = kinds_on_disk(phases, phase, cuts, folder)
    told: list[int] = []
    fill_holes(kinds, connectivity, folder / "holes", told.append)
    assert sum(told) == SWEEPS_OF_FILLING * len(phases)
    return np.asarray(kinds[0 : len(phases)])


def filled_truth(phases: NDArray[np.uint8], phase: int, connectivity: int) -> NDArray[np.bool_]:
    structure = ndimage.generate_binary_structure(3, 3 if connectivity == 6 else 1)
    rest, _ = ndimage.label(np.pad(phases != phase, 1, constant_values=True), structure)
    outside = np.unique(rest[np.pad(phases == 0, 1, constant_values=True)])
    inner = rest[1:-1, 1:-1, 1:-1]
    return np.asarray(~np.isin(inner, outside) | (phases == phase))


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(*[st.integers(1, 12)] * 3),
    outside=st.booleans(),
    connectivity=st.sampled_from([6, 18, 26]),
    cuts=st.lists(st.integers(1, 12), max_size=5).map(tuple),
)
def test_holes_equal_scipy_wherever_the_volume_is_cut(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    shape: tuple[int, int, int],
    outside: bool,
    connectivity: int,
    cuts: tuple[int, ...],
) -> None:
    rng = np.random.default_rng(seed)
    share = 0.3 if connectivity == 6 else 0.6
    phases = rng.choice([1, 2, 3], size=shape, p=[1 - share, share / 2, share / 2]).astype(np.uint8)
    if outside:
        phases[rng.random(shape) < 0.03] = 0
    result = filled(phases, 1, connectivity, tmp_path_factory.mktemp("holes"), cuts)
    assert np.array_equal(result == OPEN, filled_truth(phases, 1, connectivity))
    assert np.array_equal(result == NEUTRAL, phases == 0)


@pytest.mark.parametrize(
    ("connectivity", "phases_of_spot", "is_filled"),
    [
        (6, {(5, 5, 5): 2}, True),
        (6, {(5, 5, 5): 2, (5, 5, 6): 3}, True),
        (6, {(5, 5, 5): 0}, False),
        (6, {(5, 5, 5): 2, (6, 6, 6): 0}, False),  # over a corner
        (26, {(5, 5, 5): 2, (6, 6, 6): 0}, True),
        (26, {(5, 5, 5): 2, (5, 5, 6): 0}, False),
        (6, {(5, 5, 0): 2}, False),
    ],
)
def test_what_is_a_hole(
    tmp_path: Path, connectivity: Any, phases_of_spot: dict[tuple[int, int, int], int], is_filled: bool
) -> None:
    phases = np.ones((11, 11, 11), np.uint8)
    for voxel, phase in phases_of_spot.items():
        phases[voxel] = phase
    result = filled(phases, 1, connectivity, tmp_path, (5, 6))
    others = [voxel for voxel, phase in phases_of_spot.items() if phase != 0]
    assert all((result[voxel] == OPEN) == is_filled for voxel in others)


def test_a_hollow_sphere_is_filled_and_one_with_a_channel_is_not(tmp_path: Path) -> None:
    distance = np.sqrt(((np.indices((41, 41, 41)) - 20) ** 2).sum(axis=0))
    phases = np.where((distance < 15) & (distance > 8), 1, 2).astype(np.uint8)
    assert np.array_equal(filled(phases, 1, 6, tmp_path / "closed", (10, 20, 30)) == OPEN, distance < 15)
    phases[20, 20, 20:] = 2
    assert np.array_equal(filled(phases, 1, 6, tmp_path / "open", (10, 20, 30)) == OPEN, phases == 1)


# Slices ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("radius", [0.0, 1.0, 1.5, 3.2])
def test_erosion_and_dilation_of_slices_equal_scipy(radius: float) -> None:
    mask = ndimage.gaussian_filter(np.random.default_rng(2).random((2, 60, 70)), (0, 2, 2)) > 0.48
    for z in range(2):
        structure = ball(radius, (1.0, 1.0))
        assert np.array_equal(erode_2d(mask, radius)[z], ndimage.binary_erosion(mask[z], structure, border_value=1))
        assert np.array_equal(dilate_2d(mask, radius)[z], ndimage.binary_dilation(mask[z], structure))


# What the blocks rest on ----------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(*[st.integers(1, 14)] * 3),
    walls=st.sampled_from([0.0, 0.01, 0.3]),
    cuts=st.lists(st.integers(1, 14), max_size=6).map(tuple),
    weights=st.sampled_from([(1, 1, 1), (4, 1, 2)]),
    context=st.integers(1, 6),
)
def test_distances_in_and_around_a_block_are_those_in_the_volume(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    shape: tuple[int, int, int],
    walls: float,
    cuts: tuple[int, ...],
    weights: tuple[int, int, int],
    context: int,
) -> None:
    rng = np.random.default_rng(seed)
    kinds = rng.choice([NEUTRAL, WALL, OPEN], size=shape, p=[0.2, walls, 0.8 - walls]).astype(np.uint8)
    if (kinds == WALL).any():
        squared = np.rint(ndimage.distance_transform_edt(kinds != WALL, sampling=np.sqrt(weights)) ** 2)
    else:
        squared = np.full(shape, 2.0**30)
    squared[kinds != OPEN] = 0
    blocks = cut(len(kinds), cuts)
    maps = WallMaps(tmp_path_factory.mktemp("walls"), blocks, weights)
    maps.store(lambda start, stop: kinds[start:stop], lambda slices: None)
    for index, (start, stop) in enumerate(blocks):
        assert np.array_equal(maps.squared_distances(kinds[start:stop], index), squared[start:stop])
        around, low = maps.squared_distances_around(lambda a, b: kinds[a:b], shape, index, context)
        assert start - low == max(0, start - context)
        assert np.array_equal(around, squared[start - low : stop + context])
