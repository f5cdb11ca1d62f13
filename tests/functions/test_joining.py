"""Joining basins of blocks into objects: against brute force on whole volumes, for any cut and any order of blocks."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from basins_reference import Basins
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from tomopipe.functions import joining
from tomopipe.functions.distance import (
    NEUTRAL,
    NO_WALL,
    OPEN,
    WALL,
    block_squared_distances,
    column_walls,
    distance_weights,
)
from tomopipe.functions.errors import StageError
from tomopipe.functions.joining import BlockPieces, JoinedPieces, join_pieces
from tomopipe.functions.watershed import context_slices, find_basins

connectivities = st.sampled_from([6, 18, 26])


def cut(depth: int, inner: set[int]) -> list[tuple[int, int]]:
    edges = sorted({0, depth} | {z for z in inner if 0 < z < depth})
    return list(itertools.pairwise(edges))


def separate(
    heights: NDArray[np.int32],
    blocks: list[tuple[int, int]],
    connectivity: Any,
    prominence: float | None,
    marker_radius: int = 0,
    seed: int = 0,
) -> tuple[NDArray[np.int64], JoinedPieces]:
    """Objects of a height map, its blocks worked on in random order; by markers in cubes if there is no prominence."""
    context = context_slices(marker_radius)
    found: dict[int, tuple[NDArray[np.int32], BlockPieces]] = {}
    for index in np.random.default_rng(seed).permutation(len(blocks)).tolist():
        start, stop = blocks[index]
        low = max(0, start - context)
        found[index] = find_basins(
            heights[low : stop + context], start - low, stop - start, connectivity, marker_radius
        )
    pieces = [found[index][1] for index in range(len(blocks))]
    if prominence is None:
        joined = join_pieces(pieces, connectivity, markers="maxima")
    else:
        joined = join_pieces(pieces, connectivity, prominence=prominence)
    labels = np.concatenate([joined.objects[index][found[index][0]] for index in range(len(blocks))])
    return labels, joined


def distances(kinds: NDArray[np.uint8], voxel_size: tuple[float, float, float] = (1, 1, 1)) -> NDArray[np.int32]:
    none = np.full(kinds.shape[1:], -1, np.int32)
    return block_squared_distances(kinds, 0, none, none, distance_weights(voxel_size)[0])


def random_kinds(seed: int, shape: tuple[int, int, int], smoothness: float) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    kinds = np.where(ndimage.gaussian_filter(rng.normal(size=shape), smoothness) > 0.05, OPEN, WALL)
    kinds[ndimage.gaussian_filter(rng.normal(size=shape), 2) > 0.05] = NEUTRAL
    return kinds.astype(np.uint8)


# Against brute force --------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 8), st.integers(1, 6), st.integers(1, 6)),
    levels=st.sampled_from([2, 5, 30, None]),
    connectivity=connectivities,
    rule=st.sampled_from([(0.0, 0), (0.5, 0), (1.0, 0), (3.0, 0), (None, 1), (None, 2), (None, 3)]),
    inner=st.sets(st.integers(1, 7)),
)
def test_objects_and_contacts_equal_brute_force(
    seed: int,
    shape: tuple[int, int, int],
    levels: int | None,
    connectivity: int,
    rule: tuple[float | None, int],
    inner: set[int],
) -> None:
    if levels is None:
        heights = distances(random_kinds(seed, shape, 0.7))
    else:
        heights = np.random.default_rng(seed).integers(0, levels + 1, size=shape).astype(np.int32)
    labels, joined = separate(heights, cut(shape[0], inner), connectivity, *rule, seed=seed)

    truth = Basins(heights, connectivity)
    names = truth.objects(*rule)
    expected = truth.painted(names)
    assert np.array_equal(labels, expected)
    count = expected.max(initial=0)
    assert joined.peaks.tolist() == [heights[expected == key].max(initial=0) if key else 0 for key in range(count + 1)]
    contacts = truth.meetings(names)
    found = joined.contacts
    assert list(zip(found.first.tolist(), found.second.tolist(), strict=True)) == sorted(contacts)
    assert found.squared_height.tolist() == [contacts[pair][0] for pair in sorted(contacts)]
    assert found.faces.tolist() == [contacts[pair][1] for pair in sorted(contacts)]


# Any cut --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [(0.5, 0), (None, 1), (None, 3)])
@pytest.mark.parametrize("voxel_size", [(1.0, 1.0, 1.0), (2.0, 1.0, 1.5)])
def test_a_larger_volume_is_the_same_for_any_cut(
    rule: tuple[float | None, int], voxel_size: tuple[float, float, float]
) -> None:
    heights = distances(random_kinds(5, (61, 50, 70), 1.7), voxel_size)
    whole, truth = separate(heights, [(0, 61)], 6, *rule)
    assert truth.peaks.size > 100
    assert len(truth.contacts.first) > 20
    for seed, size in enumerate((1, 2, 7, 16, 60)):
        blocks = cut(61, set(range(size, 61, size)))
        labels, joined = separate(heights, blocks, 6, *rule, seed=seed)
        assert np.array_equal(labels, whole)
        assert np.array_equal(joined.peaks, truth.peaks)
        for name, array in vars(truth.contacts).items():
            assert np.array_equal(getattr(joined.contacts, name), array), name


@pytest.mark.parametrize("size", [1, 4, 9, 40])
def test_distances_of_blocks_with_context_lead_to_the_same_objects(size: int) -> None:
    # The whole way, each block knowing of the others only the walls below and above each column.
    kinds = random_kinds(7, (40, 45, 50), 1.5)
    whole, _ = separate(distances(kinds), [(0, 40)], 6, 0.5)
    blocks = cut(40, set(range(size, 40, size)))
    walls = [column_walls(kinds[start:stop], start) for start, stop in blocks]
    found = []
    for index, (start, stop) in enumerate(blocks):
        below = np.max([np.full_like(walls[0][0], -1), *(last for _, last in walls[:index])], axis=0)
        far = np.int32(1000)
        above = np.min(
            [np.full_like(far, far, shape=below.shape), *(np.where(f < 0, far, f) for f, _ in walls[index + 1 :])],
            axis=0,
        )
        above[above == far] = -1
        low = max(0, start - 1)
        squared = block_squared_distances(kinds[low : stop + 1], low, below, above)
        found.append(find_basins(squared, start - low, stop - start, 6))
    joined = join_pieces([pieces for _, pieces in found], 6, prominence=0.5)
    labels = np.concatenate([keys[block] for keys, (block, _) in zip(joined.objects, found, strict=True)])
    assert np.array_equal(labels, whole)


def test_a_path_that_winds_through_all_blocks_many_times_is_followed() -> None:
    # Height grows along a tube that goes up and down: one basin, with its maximum at the far end.
    heights = np.zeros((20, 41, 1), np.int32)
    height = 0
    for leg, y in enumerate(range(0, 41, 2)):
        for z in range(20) if leg % 2 == 0 else range(19, -1, -1):
            height += 1
            heights[z, y, 0] = height
        if y + 1 < 41:
            height += 1
            heights[19 if leg % 2 == 0 else 0, y + 1, 0] = height
    for blocks in (cut(20, set(range(20))), cut(20, {3, 11})):
        labels, joined = separate(heights, blocks, 6, 0.0)
        assert joined.peaks.tolist() == [0, height]
        assert np.array_equal(labels > 0, heights > 0)


# The rules ------------------------------------------------------------------------------------------------------------


def line(squared: list[int], axis: int) -> NDArray[np.int32]:
    return np.array(squared, np.int32).reshape([-1 if other == axis else 1 for other in range(3)])


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(
    ("squared", "prominence", "objects"),
    [
        ([16, 9, 20], 1.0, 2),  # 4 above 3: not less than 1
        ([16, 9, 20], 1.001, 1),
        ([9, 5, 12], 0.763, 2),  # 3 above 2.2361
        ([9, 5, 12], 0.764, 1),
        ([9, 5, 5, 9], 0.0, 2),
        ([9, 9, 9, 9], 0.0, 1),
        ([9, 5, 12, 7, 10], 0.52, 2),  # 3.1623 above 2.6458; the first stays
        ([10, 7, 12, 7, 10], 0.52, 1),
        ([9, 0, 9], 100.0, 2),
    ],
)
def test_prominence_to_the_last_bit(axis: int, squared: list[int], prominence: float, objects: int) -> None:
    # One line; along z every saddle lies between blocks.
    heights = line(squared, axis)
    labels, joined = separate(heights, cut(len(heights), set(range(len(heights)))), 6, prominence)
    assert np.array_equal(labels > 0, heights > 0)
    assert joined.peaks.size == objects + 1


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(
    ("squared", "radius", "labels"),
    [
        ([5, 3, 6], 1, [1, 2, 2]),
        ([5, 3, 6], 2, [1, 1, 1]),  # 6 is in the cube of 5
        ([5, 3, 5], 2, [1, 1, 2]),  # both are highest there: two markers are never joined
        ([9, 1, 5, 2, 6, 1, 1, 9], 2, [1, 1, 2, 2, 2, 2, 3, 3]),  # 5 is no marker: it goes over its higher saddle
        ([9, 1, 4, 2, 6, 1, 9], 3, [1, 1, 1, 1, 1, 2, 2]),  # the middle is no marker: of equal saddles the first
        ([9, 7, 7, 7, 7, 9], 1, [1, 1, 1, 1, 2, 2]),
        ([4, 4, 4, 4], 1, [1, 1, 1, 1]),
        ([5, 5, 6, 0, 9], 2, [1, 1, 1, 0, 2]),  # no marker in the first component: it keeps its maximum
        ([0], 1, [0]),
    ],
)
def test_markers_in_cubes(axis: int, squared: list[int], radius: int, labels: list[int]) -> None:
    heights = line(squared, axis)
    found, joined = separate(heights, [(0, len(heights))], 6, None, radius)
    assert found.reshape(-1).tolist() == labels
    pairs = {tuple(sorted(pair)) for pair in itertools.pairwise(labels)}
    touching = sorted((a, b) for a, b in pairs if 0 < a < b)
    assert list(zip(joined.contacts.first.tolist(), joined.contacts.second.tolist(), strict=True)) == touching
    assert (joined.contacts.faces == np.eye(3, dtype=np.int64)[axis]).all()


def test_contact_of_two_boxes_is_their_common_face() -> None:
    kinds = np.full((21, 30, 31), WALL, np.uint8)
    kinds[3:18, 3:14, 3:27] = OPEN
    kinds[3:18, 15:27, 3:27] = OPEN
    kinds[6:15, 14, 8:18] = OPEN  # a window in the wall between them
    for blocks in (cut(21, set()), cut(21, {5, 6, 12})):
        labels, joined = separate(distances(kinds), blocks, 6, 0.5)
        assert joined.peaks.size == 3
        assert (joined.contacts.first.tolist(), joined.contacts.second.tolist()) == ([1], [2])
        assert joined.contacts.faces[0, 1] >= 90
        assert joined.contacts.squared_height[0] == 25
        assert labels[10, 5, 10] == 1


def test_no_phase_and_no_walls() -> None:
    for size in (1, 4):
        blocks = cut(4, set(range(size, 4, size)))
        labels, joined = separate(np.zeros((4, 3, 2), np.int32), blocks, 6, 0.5)
        assert not labels.any()
        assert joined.peaks.tolist() == [0]
        assert not len(joined.contacts.first)
        labels, joined = separate(np.full((4, 3, 2), NO_WALL, np.int32), blocks, 6, 0.5)
        assert (labels == 1).all()
        assert joined.peaks.tolist() == [0, NO_WALL]


def test_too_many_pieces_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "_LABELS_MAX", 3)
    with pytest.raises(StageError, match="too many pieces"):
        separate(line([5, 1, 5, 1, 5, 1, 5, 1, 5], 2), [(0, 1)], 6, 0.0)
