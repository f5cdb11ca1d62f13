"""Connected components of a phase of a volume, block by block on disk, the same for any blocks.

Which component is an object, and its number, is left to `objects`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from .errors import StageError
from .outofcore import ScratchVolume

_CONNECTIVITY_RANKS = {6: 1, 18: 2, 26: 3}
_LABELS_MAX = 2**31 - 1


def label_components(
    read: Callable[[int, int], NDArray[np.bool_]],
    blocks: Sequence[tuple[int, int]],
    connectivity: int,
    labels: ScratchVolume,
    advance: Callable[[int], None],
) -> NDArray[np.int32]:
    """Label the connected components of a phase.

    Parameters
    ----------
    read : callable (start, stop) -> (z, y, x) bool
        Where the phase is in slices [start, stop).
    blocks : list of (start, stop)
    connectivity : {6, 18, 26}
        Neighbours of a voxel: over faces; and edges; and corners.
    labels : ScratchVolume int32
        Gets provisional labels, 0 outside the phase.
    advance : callable (slices)
        Told of slices done; one for each of the volume.

    Returns
    -------
    (labels + 1,) int32
        Component (1 and up, in no order that matters) of each provisional label; 0 for 0. A component that spans
        several blocks has several provisional labels.

    Raises
    ------
    StageError
        More pieces than 32-bit labels.
    """
    structure = ndimage.generate_binary_structure(3, _CONNECTIVITY_RANKS[connectivity])
    count = 0
    pairs: list[NDArray[np.int64]] = [np.empty((2, 0), np.int64)]
    below: NDArray[np.int32] | None = None
    for start, stop in blocks:
        block = np.empty((stop - start, *labels.shape[1:]), np.int32)
        found = ndimage.label(read(start, stop), structure, output=block)
        if count + found > _LABELS_MAX:
            raise StageError(
                "separate_objects: the phase is in too many pieces for 32-bit labels; denoise it or open it first"
            )
        np.add(block, count, out=block, where=block > 0)
        count += found
        if below is not None:
            pairs.append(_touching(below, block[0], connectivity))
        below = block[-1].copy()
        labels.write(start, block)
        advance(stop - start)
    first, second = np.concatenate(pairs, axis=1) - 1
    graph = coo_array((np.ones(first.size, np.bool_), (first, second)), shape=(count, count))
    _, component = connected_components(graph, directed=False)
    return np.concatenate([np.zeros(1, np.int32), component.astype(np.int32) + np.int32(1)])


def _touching(below: NDArray[np.int32], above: NDArray[np.int32], connectivity: int) -> NDArray[np.int64]:
    """Distinct pairs (2, n) of labels that touch across the face between two slices."""
    reach = {6: 0, 18: 1, 26: 2}[connectivity]
    shifts = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if abs(dy) + abs(dx) <= reach]
    found = []
    for dy, dx in shifts:
        one, other = below[_overlap(dy), _overlap(dx)], above[_overlap(-dy), _overlap(-dx)]
        both = (one > 0) & (other > 0)
        found.append(np.unique((one[both].astype(np.int64) << 32) | other[both]))
    keys = np.unique(np.concatenate(found))
    return np.stack([keys >> 32, keys & (2**32 - 1)])


def _overlap(shift: int) -> slice:
    """Where an axis, moved by -1, 0 or 1, lies over itself."""
    return slice(max(0, shift), None) if shift >= 0 else slice(None, shift)
