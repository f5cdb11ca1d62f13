"""Basins of single blocks: against their definition, voxel by voxel."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from basins_reference import Basins, Voxel
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from tomopipe.functions import meetings
from tomopipe.functions.distance import NO_WALL
from tomopipe.functions.watershed import context_slices, find_basins

connectivities = st.sampled_from([6, 18, 26])


def random_heights(seed: int, shape: tuple[int, ...], levels: int) -> NDArray[np.int32]:
    """Few levels make plateaus, and 0 is outside the phase."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, levels + 1, size=shape).astype(np.int32)


def distances(seed: int, shape: tuple[int, ...], smoothness: float) -> NDArray[np.int32]:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), smoothness)
    heights: NDArray[np.int32] = np.rint(ndimage.distance_transform_edt(noise < 0.2 * noise.std()) ** 2).astype(
        np.int32
    )
    return heights


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(*[st.integers(1, 6)] * 3),
    levels=st.sampled_from([1, 2, 5, 1000]),
    connectivity=connectivities,
    radius=st.integers(0, 3),
    data=st.data(),
)
def test_a_block_alone_equals_the_definition(
    seed: int, shape: tuple[int, int, int], levels: int, connectivity: int, radius: int, data: st.DataObject
) -> None:
    heights = random_heights(seed, shape, levels)
    start = data.draw(st.integers(0, shape[0] - 1))
    stop = data.draw(st.integers(start + 1, shape[0]))
    context = context_slices(radius)
    low, high = max(0, start - context), min(shape[0], stop + context)
    labels, pieces = find_basins(heights[low:high], start - low, stop - start, connectivity, radius)

    truth = Basins(heights, connectivity)
    inside = [voxel for voxel in truth.around if start <= voxel[0] < stop]

    def end(voxel: Voxel) -> Voxel:
        while start <= voxel[0] < stop and truth.step[voxel] != voxel:
            voxel = truth.step[voxel]
        return voxel

    ends = {voxel: end(voxel) for voxel in inside}
    order = sorted(set(ends.values()), key=lambda at: (not start <= at[0] < stop, at))
    number = {at: i for i, at in enumerate(order, start=1)}
    names = {voxel: number[at] for voxel, at in ends.items()}
    assert labels.dtype == np.int32
    assert np.array_equal(labels, truth.painted(names)[start:stop])
    peaks = [at for at in order if start <= at[0] < stop]
    assert pieces.count == len(order)
    assert pieces.peaks.tolist() == [heights[at] for at in peaks]
    highest = ndimage.maximum_filter(heights, 2 * radius + 1, mode="constant")
    assert pieces.markers.tolist() == [heights[at] == highest[at] for at in peaks]
    assert pieces.exits_below.tolist() == [y * shape[2] + x for z, y, x in order if z < start]
    assert pieces.exits_above.tolist() == [y * shape[2] + x for z, y, x in order if z >= stop]
    assert np.array_equal(pieces.face_labels, labels[[0, -1]])
    assert np.array_equal(pieces.face_heights, heights[[start, stop - 1]])
    found = {
        (a, b): (saddle, faces)
        for (a, b), saddle, faces in zip(
            pieces.pairs.tolist(), pieces.saddles.tolist(), pieces.faces.tolist(), strict=True
        )
    }
    assert len(found) == len(pieces.pairs)
    assert found == truth.meetings(names)


@pytest.mark.parametrize("connectivity", [6, 18, 26])
def test_more_pairs_than_the_first_table_holds(connectivity: int) -> None:
    heights = random_heights(3, (12, 14, 20), 10**6)
    labels, pieces = find_basins(heights, 0, 12, connectivity)
    truth = Basins(heights, connectivity)
    number = {peak: i for i, peak in enumerate(truth.peaks, start=1)}
    names = {voxel: number[top] for voxel, top in truth.top.items()}
    assert np.array_equal(labels, truth.painted(names))
    found = truth.meetings(names)
    assert 2 * len(found) > meetings._FIRST_SLOTS
    assert [tuple(pair) for pair in pieces.pairs.tolist()] == sorted(found)
    assert pieces.saddles.tolist() == [found[pair][0] for pair in sorted(found)]
    assert pieces.faces.tolist() == [found[pair][1] for pair in sorted(found)]


def test_basins_stay_within_one_component() -> None:
    heights = distances(1, (40, 40, 40), 0.6)
    labels, pieces = find_basins(heights, 0, 40, 6)
    components, _ = ndimage.label(heights > 0)
    assert np.array_equal(labels > 0, heights > 0)
    pairs = np.unique(np.stack([labels[labels > 0], components[labels > 0]]), axis=1)
    assert np.array_equal(pairs[0], np.arange(1, pieces.count + 1))


def test_threads_change_nothing() -> None:
    heights = distances(2, (30, 200, 200), 2.0)
    threads = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        labels, pieces = find_basins(heights, 1, 28, 18, 1)
    finally:
        numba.set_num_threads(threads)
    for _ in range(3):
        again, others = find_basins(heights, 1, 28, 18, 1)
        assert np.array_equal(again, labels)
        for name, array in vars(pieces).items():
            assert np.array_equal(getattr(others, name), array), name


def test_a_phase_without_walls_is_one_basin() -> None:
    labels, pieces = find_basins(np.full((4, 5, 6), NO_WALL, np.int32), 0, 4, 6)
    assert (labels == 1).all()
    assert pieces.peaks.tolist() == [NO_WALL]
    assert pieces.count == 1
    assert not len(pieces.pairs)


def test_no_phase_has_no_basins() -> None:
    labels, pieces = find_basins(np.zeros((1, 1, 1), np.int32), 0, 1, 26, 2)
    assert labels.tolist() == [[[0]]]
    assert pieces.count == 0
