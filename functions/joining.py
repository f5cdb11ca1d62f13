"""Joins what was found in single blocks of a volume (`watershed`, `components`) into objects of the whole volume.

Every block is worked on alone, in any order and by any process, and leaves `BlockPieces`; the one step that needs all
of them is here. The objects do not depend on where the volume was cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .errors import StageError
from .meetings import Meetings, find_meetings_across, merge_meetings

_LABELS_MAX = 2**31 - 1


@dataclass(frozen=True)
class BlockPieces:
    """What a join needs to know of one block: arrays only, about 20 bytes for each voxel of its first and last slice.

    Provisional labels count from 1 in each block: first the basins (or components) whose maximum (or first voxel) lies in
    the block, in raster order; then the voxels of the slice below the block that paths leave it to; then those of the
    slice above.

    Attributes
    ----------
    peaks : (basins,) int32
        Squared height of each basin's maximum; 0 of components.
    markers : (basins,) bool
        Whether no voxel in the cube of the marker radius is higher than the basin's maximum.
    exits_below, exits_above : (exits,) int64
        Pixel y * columns + x of each voxel of the slice below, and above, to which paths leave the block.
    face_labels : (2, y, x) int32
        Provisional labels of the block's first and last slice, 0 outside the phase.
    face_heights : (2, y, x) int32
        Squared heights there; 1 in components.
    pairs : (meetings, 2) int32
        Provisional labels that touch within the block, the lower first; each pair once.
    saddles : (meetings,) int32
        Highest saddle of each pair: of two neighbours, the lower one's squared height.
    faces : (meetings, 3) int32
        Voxel faces over which each pair touches, across z, y and x; 0 where only edges or corners touch.
    """

    peaks: NDArray[np.int32]
    markers: NDArray[np.bool_]
    exits_below: NDArray[np.int64]
    exits_above: NDArray[np.int64]
    face_labels: NDArray[np.int32]
    face_heights: NDArray[np.int32]
    pairs: NDArray[np.int32]
    saddles: NDArray[np.int32]
    faces: NDArray[np.int32]

    @property
    def count(self) -> int:
        """Number of provisional labels; they are 1 to `count`."""
        return len(self.peaks) + len(self.exits_below) + len(self.exits_above)


@dataclass(frozen=True)
class JoinedPieces:
    """Objects of the whole volume. Keys count from 1 in raster order of each object's first maximum (or first voxel).

    Attributes
    ----------
    objects : list of (labels + 1,) int64
        For each block the key of the object that each provisional label belongs to; 0 for 0.
    peaks : (objects + 1,) int32
        Squared height of each object's highest voxel, by key; 0 for 0, and for components.
    contacts : Meetings
        Where objects touch, by their keys; `squared_height` is the squared inscribed radius of the throat.
    """

    objects: list[NDArray[np.int64]]
    peaks: NDArray[np.int32]
    contacts: Meetings


def join_pieces(
    pieces: Sequence[BlockPieces],
    connectivity: int,
    *,
    method: Literal["watershed", "components"] = "watershed",
    markers: Literal["h_maxima", "maxima"] = "h_maxima",
    prominence: float = 0.4,
) -> JoinedPieces:
    """Join the pieces of all blocks into objects.

    The pieces of a component are those that touch across the blocks' faces. For a watershed, paths that left a block
    are followed into the next ones up to their maxima; then basins are joined over their saddles, from the highest down
    and of equally high ones in raster order of their maxima, by one of two rules:

    - "h_maxima": where the lower of the two peaks rises less than the prominence above the saddle, or not at all.
    - "maxima": where not both hold a marker, a maximum that no voxel in the cube of the marker radius exceeds (see
      `watershed.find_basins`); or where the lower of the peaks does not rise above the saddle at all. That is flooding
      from the markers; a component of the phase that has none stays one object.

    Parameters
    ----------
    pieces : sequence of BlockPieces
        Of all blocks, in ascending order. Gone through twice in this order, two blocks held at a time: it may load them from
        disk as they are asked for.
    connectivity : {6, 18, 26}
        The one the pieces were found with.
    method : "watershed" or "components"
    markers : "h_maxima" or "maxima"
    prominence : float
        In the unit of the square roots of the heights: of `distance.distance_weights`' unit length, which is a voxel
        where the voxels are cubes.

    Returns
    -------
    JoinedPieces
        Contacts are empty for components: they never touch.

    Raises
    ------
    StageError
        Two neighbouring blocks have more pieces together than 32-bit labels.
    """
    ends, peaks, marked = _follow_exits(pieces)
    meetings = _meetings_of_basins(pieces, ends, connectivity)
    if method == "components":
        lowest_saddles = np.zeros(peaks.size, np.int32)
    elif markers == "maxima":
        lowest_saddles = np.where(marked, peaks, np.int32(0))
    else:
        lowest_saddles = _lowest_saddles(peaks, prominence)
    order = np.lexsort((meetings.second, meetings.first, -meetings.squared_height))
    joined = _join(meetings.first[order], meetings.second[order], meetings.squared_height[order], lowest_saddles)
    # Basin 0 stands for no basin; the others are named by the first basin that they are joined with.
    keys = (np.cumsum(joined == np.arange(joined.size)) - 1)[joined]
    object_peaks = np.zeros(keys.max() + 1, np.int32)
    np.maximum.at(object_peaks, keys, peaks)
    contacts = merge_meetings(keys[meetings.first], keys[meetings.second], meetings.squared_height, meetings.faces)
    return JoinedPieces([keys[labels] for labels in ends], object_peaks, contacts)


def _follow_exits(
    pieces: Sequence[BlockPieces],
) -> tuple[list[NDArray[np.int64]], NDArray[np.int32], NDArray[np.bool_]]:
    """For each block the basin that each provisional label belongs to; and the peak and marker of each basin.

    Basins of the whole volume count from 1 in raster order of their maxima; 0 stands for 0.
    """
    # Labels of all blocks count on: label l of a block is `first + l`; a label that is a basin leads to itself.
    ahead, peaks, marked = [np.zeros(1, np.int64)], [np.zeros(1, np.int32)], [np.zeros(1, np.bool_)]
    counts: list[int] = []
    first, lower = 0, None
    for piece in _checked(pieces):
        own = np.arange(first, first + piece.count + 1)[1:]
        basins, below = len(piece.peaks), len(piece.exits_below)
        if lower is not None:
            # What left the block below upwards, and what leaves this one downwards.
            ahead[-1][lower.count - len(lower.exits_above) :] = (
                first + piece.face_labels[0].reshape(-1)[lower.exits_above]
            )
            face = lower.face_labels[1].reshape(-1)
            own[basins : basins + below] = first - lower.count + face[piece.exits_below]
        ahead.append(own)
        peaks.append(piece.peaks)
        marked.append(piece.markers)
        counts.append(piece.count)
        first += piece.count
        lower = piece
    targets = np.concatenate(ahead)
    is_basin = targets == np.arange(targets.size)
    _shorten(targets)
    basins_of = (np.cumsum(is_basin) - 1)[targets][1:]
    ends = [np.concatenate([[0], part]) for part in np.split(basins_of, np.cumsum(counts)[:-1])]
    return ends, np.concatenate(peaks), np.concatenate(marked)


def _checked(pieces: Sequence[BlockPieces]) -> Iterator[BlockPieces]:
    before = 0
    for piece in pieces:
        if before + piece.count > _LABELS_MAX:
            raise StageError(
                "separate_objects: the phase is in too many pieces for 32-bit labels; denoise it or open it first"
            )
        before = piece.count
        yield piece


def _meetings_of_basins(pieces: Sequence[BlockPieces], ends: list[NDArray[np.int64]], connectivity: int) -> Meetings:
    """Where basins of the whole volume meet: within the blocks and across their faces."""
    found, lower, lower_ends = [], None, np.zeros(1, np.int64)
    for piece, own_ends in zip(pieces, ends, strict=True):
        pairs = own_ends[piece.pairs]
        found.append(merge_meetings(pairs[:, 0], pairs[:, 1], piece.saddles, piece.faces.astype(np.int64)))
        if lower is not None:
            upper_labels = piece.face_labels[0] + np.where(piece.face_labels[0] > 0, np.int32(lower.count), np.int32(0))
            across = find_meetings_across(
                np.stack([lower.face_labels[1], upper_labels]),
                np.stack([lower.face_heights[1], piece.face_heights[0]]),
                connectivity,
            )
            both = np.concatenate([lower_ends, own_ends[1:]])
            found.append(merge_meetings(both[across.first], both[across.second], across.squared_height, across.faces))
        lower, lower_ends = piece, own_ends
    return merge_meetings(
        np.concatenate([part.first for part in found]),
        np.concatenate([part.second for part in found]),
        np.concatenate([part.squared_height for part in found]),
        np.concatenate([part.faces for part in found]),
    )


def _lowest_saddles(peaks: NDArray[np.int32], prominence: float) -> NDArray[np.int32]:
    """The lowest (squared) saddle over which a basin of this (squared) peak is joined with one of a higher peak.

    It rises with the peak: of two basins, the lower of these is that of the lower peak.
    """
    height = np.maximum(np.sqrt(peaks.astype(np.float64)) - prominence, 0)
    lowest: NDArray[np.int32] = np.minimum(peaks, np.floor(height * height) + 1).astype(np.int32)
    return lowest


@njit(cache=True)
def _shorten(ahead: NDArray[np.int64]) -> None:
    """Let each label lead to where its path ends at once."""
    for label in range(ahead.size):
        end = label
        while ahead[end] != end:
            end = ahead[end]
        at = label
        while ahead[at] != end:
            ahead[at], at = end, ahead[at]


@njit(cache=True)
def _join(
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    saddles: NDArray[np.int32],
    lowest_saddles: NDArray[np.int32],
) -> NDArray[np.int64]:
    """Join basins over saddles in the order given; returns the first basin that each is joined with."""
    joined = np.arange(lowest_saddles.size)
    lowest = lowest_saddles.copy()
    for i in range(first.size):
        one, other = _root(joined, first[i]), _root(joined, second[i])
        if one != other and saddles[i] >= min(lowest[one], lowest[other]):
            one, other = min(one, other), max(one, other)
            joined[other] = one
            lowest[one] = max(lowest[one], lowest[other])
    for basin in range(joined.size):
        joined[basin] = _root(joined, basin)
    return joined


@njit(cache=True)
def _root(joined: NDArray[np.int64], basin: int) -> int:
    while joined[basin] != basin:
        joined[basin] = joined[joined[basin]]
        basin = joined[basin]
    return basin
