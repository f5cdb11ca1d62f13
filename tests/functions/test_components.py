"""Components of single blocks: against scipy on whole volumes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from tomopipe.functions.components import find_components
from tomopipe.functions.joining import join_pieces

RANKS = {6: 1, 18: 2, 26: 3}


def in_raster_order(labels: NDArray[np.int32]) -> NDArray[np.int64]:
    """Labels from 1 in the order of their first voxels."""
    names, first = np.unique(labels, return_index=True)
    numbers = np.zeros(labels.max(initial=0) + 1, np.int64)
    named = names > 0
    numbers[names[named][np.argsort(first[named])]] = np.arange(1, named.sum() + 1)
    return numbers[labels]


def reference(mask: NDArray[np.bool_], connectivity: int) -> NDArray[np.int64]:
    labels, _ = ndimage.label(mask, ndimage.generate_binary_structure(3, RANKS[connectivity]))
    return in_raster_order(labels)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(*[st.integers(1, 20)] * 3),
    share=st.sampled_from([0.0, 0.1, 0.3, 0.5, 1.0]),
    connectivity=st.sampled_from([6, 18, 26]),
    most=st.integers(1, 20),
)
def test_joined_blocks_equal_scipy_whatever_the_cut(
    seed: int, shape: tuple[int, int, int], share: float, connectivity: int, most: int
) -> None:
    mask = np.random.default_rng(seed).random(shape) < share
    found = [find_components(mask[z : z + most], connectivity) for z in range(0, shape[0], most)]
    joined = join_pieces([pieces for _, pieces in found], connectivity, method="components")
    labels = np.concatenate([keys[block] for keys, (block, _) in zip(joined.objects, found, strict=True)])
    truth = reference(mask, connectivity)
    assert np.array_equal(labels, truth)
    assert joined.peaks.tolist() == [0] * (truth.max(initial=0) + 1)
    assert not len(joined.contacts.first)


@pytest.mark.parametrize("shape", [(5, 6, 1), (1, 6, 7), (5, 1, 7), (12, 13, 14)])
def test_labels_of_a_block_are_in_raster_order(shape: tuple[int, int, int]) -> None:
    # Joined objects are numbered by it.
    mask = np.random.default_rng(1).random(shape) < 0.4
    for array in (mask, np.asfortranarray(mask), np.ascontiguousarray(mask[:, ::-1])[:, ::-1]):
        labels, pieces = find_components(array, 6)
        assert np.array_equal(labels, in_raster_order(labels))
        assert pieces.count == labels.max()


def test_a_spiral_through_all_blocks_is_one_component() -> None:
    mask = np.zeros((9, 9, 30), np.bool_)
    mask[:, ::2, 1::4] = True
    mask[-1, :, 1::4] = True
    mask[0, 0, :] = True
    mask[4, 4, 3] = True
    found = [find_components(mask[z : z + 1], 6) for z in range(9)]
    joined = join_pieces([pieces for _, pieces in found], 6, method="components")
    labels = np.concatenate([keys[block] for keys, (block, _) in zip(joined.objects, found, strict=True)])
    assert np.array_equal(labels, reference(mask, 6))
    assert labels.max() == 2


@pytest.mark.parametrize(("other", "reach"), [((1, 0, 0), 1), ((1, 1, 0), 2), ((1, 0, 1), 2), ((1, 1, 1), 3)])
def test_single_voxels_are_joined_over_faces_edges_and_corners(other: tuple[int, int, int], reach: int) -> None:
    mask = np.zeros((2, 2, 2), np.bool_)
    mask[0, 0, 0] = mask[other] = True
    for connectivity, rank in RANKS.items():
        pieces = [find_components(mask[z : z + 1], connectivity)[1] for z in range(2)]
        joined = join_pieces(pieces, connectivity, method="components")
        assert joined.peaks.size - 1 == (1 if reach <= rank else 2)
