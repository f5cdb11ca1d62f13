"""Distances and morphology: against scipy, whatever the blocks."""

from __future__ import annotations

from pathlib import Path

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
    check_size,
    squared_distances_2d,
    sweep_squared_distances,
)
from tomopipe.functions.errors import InputError, ParameterError
from tomopipe.functions.morphology import dilate_2d, erode_2d, open_and_close
from tomopipe.functions.outofcore import ScratchVolume, blocks_within


def cut(depth: int, most: int) -> list[tuple[int, int]]:
    return [(start, min(start + most, depth)) for start in range(0, depth, most)]


def swept(kinds: NDArray[np.uint8], most: int, path: Path) -> NDArray[np.int32]:
    result = np.full(kinds.shape, -1, np.int32)

    def keep(start: int, squared: NDArray[np.int32]) -> None:
        result[start : start + len(squared)] = squared

    with ScratchVolume(path / "distances.raw", kinds.shape, np.int32) as scratch:
        blocks = cut(len(kinds), most)
        sweep_squared_distances(lambda start, stop: kinds[start:stop], blocks, scratch, keep, lambda slices: None)
    return result


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(*[st.integers(1, 24)] * 3),
    walls=st.sampled_from([0.0, 0.01, 0.3]),
    most=st.integers(1, 24),
)
def test_sweep_equals_scipy_whatever_the_blocks(
    tmp_path_factory: pytest.TempPathFactory, seed: int, shape: tuple[int, int, int], walls: float, most: int
) -> None:
    rng = np.random.default_rng(seed)
    kinds = rng.choice([NEUTRAL, WALL, OPEN], size=shape, p=[0.2, walls, 0.8 - walls]).astype(np.uint8)
    if (kinds == WALL).any():
        truth = np.rint(ndimage.distance_transform_edt(kinds != WALL) ** 2)
    else:
        truth = np.full(shape, NO_WALL)
    truth[kinds != OPEN] = 0
    assert np.array_equal(swept(kinds, most, tmp_path_factory.mktemp("sweep")), truth)


def test_distances_of_long_volumes_are_not_cut_short(tmp_path: Path) -> None:
    kinds = np.full((700, 3, 900), OPEN, np.uint8)
    kinds[0, 0, 0] = WALL
    squared = swept(kinds, 64, tmp_path)
    assert squared[699, 2, 899] == 699**2 + 2**2 + 899**2


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


def ball(radius: float, dimensions: int) -> NDArray[np.bool_]:
    reach = int(radius)
    grid = np.indices((2 * reach + 1,) * dimensions) - reach
    return (grid**2).sum(axis=0) <= radius**2


@pytest.mark.parametrize("radius", [0.0, 1.0, 1.5, 3.2])
def test_erosion_and_dilation_of_slices_equal_scipy(radius: float) -> None:
    mask = ndimage.gaussian_filter(np.random.default_rng(2).random((2, 60, 70)), (0, 2, 2)) > 0.48
    for z in range(2):
        structure = ball(radius, 2)
        assert np.array_equal(erode_2d(mask, radius)[z], ndimage.binary_erosion(mask[z], structure, border_value=1))
        assert np.array_equal(dilate_2d(mask, radius)[z], ndimage.binary_dilation(mask[z], structure))


@pytest.mark.parametrize(("opening", "closing"), [(1.0, 0.0), (0.0, 1.5), (2.0, 1.0), (2.9, 3.0)])
@pytest.mark.parametrize("most", [1, 7, 40])
def test_opening_and_closing_equal_scipy(tmp_path: Path, opening: float, closing: float, most: int) -> None:
    rng = np.random.default_rng(3)
    phases = np.where(ndimage.gaussian_filter(rng.random((30, 31, 32)), 1.5) > 0.5, 2, 1).astype(np.uint8)
    phases[ndimage.gaussian_filter(rng.random(phases.shape), 3) > 0.515] = 0
    region, mask = phases > 0, phases == 2
    for radius, steps in ((opening, "ed"), (closing, "de")):
        for step in steps:
            if step == "e":
                # What is outside the region or the volume does not erode.
                mask = ndimage.binary_erosion(mask | ~region, ball(radius, 3), border_value=1) & region
            else:
                mask = ndimage.binary_dilation(mask, ball(radius, 3)) & region
    told: list[int] = []
    with (
        ScratchVolume(tmp_path / "kinds.raw", phases.shape, np.uint8) as kinds,
        ScratchVolume(tmp_path / "distances.raw", phases.shape, np.int32) as distances,
    ):
        blocks = cut(30, most)
        open_and_close(
            phases, 2, opening, closing, blocks=blocks, kinds=kinds, distances=distances, advance=told.append
        )
        result = kinds[0:30]
    assert np.array_equal(result == OPEN, mask)
    assert np.array_equal(result == NEUTRAL, ~region)


def test_scratch_volume_reads_what_was_written_and_zeros_elsewhere(tmp_path: Path) -> None:
    block = np.arange(24, dtype=np.int32).reshape(2, 3, 4)
    with ScratchVolume(tmp_path / "volume.raw", (5, 3, 4), np.int32) as volume:
        volume.write(2, block)
        assert np.array_equal(volume[2:4], block)
        assert np.array_equal(volume[0:9][:2], np.zeros((2, 3, 4)))
        with pytest.raises(ValueError, match="does not fit"):
            volume.write(0, block.astype(np.int64))
        with pytest.raises(ValueError, match="steps of 1"):
            volume[::2]


def test_blocks_fill_the_budget_and_no_more() -> None:
    assert blocks_within((10, 100, 100), 4, 2, 7 * 40000) == [(0, 5), (5, 10)]
    assert blocks_within((10, 100, 100), 4, 2, 3 * 40000) == [(z, z + 1) for z in range(10)]
    with pytest.raises(ParameterError, match=r"give at least 0\.1 MiB"):
        blocks_within((10, 100, 100), 4, 2, 3 * 40000 - 1)
