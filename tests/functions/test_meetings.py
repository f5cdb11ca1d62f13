"""Which labels touch: against sums over shifted arrays."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from tomopipe.functions.meetings import find_meetings, find_meetings_across, merge_meetings


def reference(
    labels: NDArray[np.int32], heights: NDArray[np.int32], steps: list[tuple[int, int, int]]
) -> dict[tuple[int, int], tuple[int, list[int]]]:
    """Pairs that touch over these steps, all voxels of the phase that are neighbours being joined (26)."""
    rows = []
    for step in steps:
        one = tuple(slice(max(0, -d), n - max(0, d)) for d, n in zip(step, labels.shape, strict=True))
        other = tuple(slice(max(0, d), n + min(0, d)) for d, n in zip(step, labels.shape, strict=True))
        a, b = labels[one].ravel(), labels[other].ravel()
        differ = (a != b) & (a > 0) & (b > 0)
        saddle = np.minimum(heights[one], heights[other]).ravel()
        by_face = [np.full(a.size, sum(map(abs, step)) == 1 and step[axis] != 0) for axis in range(3)]
        rows.append(np.stack([np.minimum(a, b), np.maximum(a, b), saddle, *by_face], axis=1)[differ])
    found: dict[tuple[int, int], tuple[int, list[int]]] = {}
    for a, b, saddle, *faces in np.concatenate(rows).tolist():
        highest, sums = found.get((a, b), (0, [0, 0, 0]))
        found[a, b] = max(highest, saddle), [s + f for s, f in zip(sums, faces, strict=True)]
    return found


def random_labels(shape: tuple[int, int, int], count: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Short runs along x of many labels, so that one pair often follows another of its kind."""
    rng = np.random.default_rng(1)
    labels = np.repeat(rng.integers(0, count + 1, size=(*shape[:2], shape[2] // 4)), 4, axis=2).astype(np.int32)
    return labels, rng.integers(1, 1000, size=labels.shape).astype(np.int32) * (labels > 0)


@pytest.mark.parametrize("count", [5, 3000])
def test_many_pairs_equal_sums_over_shifted_arrays(count: int) -> None:
    labels, heights = random_labels((3, 1400, 12), count)  # more lines than are looked at at once
    steps = [step for step in itertools.product((-1, 0, 1), repeat=3) if step > (0, 0, 0)]
    truth = reference(labels, heights, steps)
    found = find_meetings(labels, heights, 26)
    assert list(zip(found.first.tolist(), found.second.tolist(), strict=True)) == sorted(truth)
    assert found.squared_height.tolist() == [truth[pair][0] for pair in sorted(truth)]
    assert found.faces.tolist() == [truth[pair][1] for pair in sorted(truth)]


def test_across_two_slices_only_what_lies_in_both_counts() -> None:
    labels, heights = random_labels((2, 30, 40), 100)
    truth = reference(labels, heights, [step for step in itertools.product((-1, 0, 1), repeat=3) if step[0] == 1])
    found = find_meetings_across(labels, heights, 26)
    assert list(zip(found.first.tolist(), found.second.tolist(), strict=True)) == sorted(truth)
    assert found.squared_height.tolist() == [truth[pair][0] for pair in sorted(truth)]
    assert found.faces.tolist() == [truth[pair][1] for pair in sorted(truth)]


def test_renamed_meetings_are_summed_up() -> None:
    merged = merge_meetings(
        np.array([4, 1, 2, 3, 1]),
        np.array([2, 4, 4, 3, 2]),
        np.array([7, 1, 9, 50, 3], np.int32),
        np.array([[1, 0, 0], [0, 2, 0], [5, 0, 1], [9, 9, 9], [0, 0, 0]]),
    )
    assert (merged.first.tolist(), merged.second.tolist()) == ([1, 1, 2], [2, 4, 4])
    assert merged.squared_height.tolist() == [3, 1, 9]
    assert merged.faces.tolist() == [[0, 0, 0], [0, 2, 0], [6, 0, 1]]
