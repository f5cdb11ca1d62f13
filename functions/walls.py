"""Where the nearest walls beyond a block lie, for every block of a volume: what makes distances of a block alone exact.

The maps are kept in a file a block. What a wall is, is left to the caller; the distances are in `distance`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .block_files import Block, BlockVolume
from .distance import block_squared_distances, column_walls

KindsReader = Callable[[int, int], NDArray[np.uint8]]
"""Gives what each voxel of slices [start, stop) is to a distance: `NEUTRAL`, `WALL` or `OPEN`."""


@dataclass(frozen=True)
class WallMaps:
    """The last wall below and the first wall above each column of every block.

    Parameters
    ----------
    folder : Path
        For a file a block: 8 bytes a pixel of a slice, compressed.
    blocks : sequence of (start, stop)
        Ascending, covering the volume.
    weights : (z, y, x) int
        Squared edges of a voxel, see `distance.distance_weights`.
    """

    folder: Path
    blocks: Sequence[Block]
    weights: tuple[int, int, int]

    def store(self, read: KindsReader, advance: Callable[[int], None]) -> None:
        """Find the walls of a volume, in one pass upwards; overwrites what is there.

        Parameters
        ----------
        read : callable (start, stop) -> (z, y, x) uint8
        advance : callable (slices)
            Told of slices done; one for each of the volume.
        """
        below = above = np.empty((0, 0), np.int32)
        for index, (start, stop) in enumerate(self.blocks):
            first, last = column_walls(read(start, stop), start)
            below = below if index else np.full_like(last, -1)
            # For now with the first wall of the block itself: where the one above it lies is known on the way back.
            self._maps(first.shape).write(index, np.stack([below, first]))
            below = np.where(last >= 0, last, below)
            advance(stop - start)
        above = np.full_like(below, -1)
        for index in reversed(range(len(self.blocks))):
            seen_below, first = self._load(index, below.shape)
            self._maps(first.shape).write(index, np.stack([seen_below, above]))
            above = np.where(first >= 0, first, above)

    def squared_distances(self, kinds: NDArray[np.uint8], index: int) -> NDArray[np.int32]:
        """Squared distance of each open voxel of a block to the nearest wall of the volume.

        Parameters
        ----------
        kinds : (z, y, x) uint8
            Of the block alone.
        index : int
            Which block.

        Returns
        -------
        (z, y, x) int32
            In units of `weights`; see `distance.block_squared_distances`.
        """
        below, above = self._load(index, kinds.shape[1:])
        return block_squared_distances(kinds, self.blocks[index][0], below, above, self.weights)

    def squared_distances_around(
        self, read: KindsReader, shape: tuple[int, ...], index: int, context: int
    ) -> tuple[NDArray[np.int32], int]:
        """As `squared_distances`, of a block and the slices around it.

        Parameters
        ----------
        read : callable (start, stop) -> (z, y, x) uint8
        shape : (z, y, x)
            Of the volume.
        index : int
            Which block.
        context : int
            So many slices below and above it, fewer only where the volume ends.

        Returns
        -------
        squared : (z, y, x) int32
        low : int
            How many of these slices lie below the block.
        """
        start, stop = self.blocks[index]
        low, high = max(0, start - context), min(shape[0], stop + context)
        below, above = self._load(index, shape[1:])
        # A wall in the slice next to the block hides no other from that slice. Farther out the walls behind it count too.
        if context > 1:
            below, above = self._below(read, shape, low), self._above(read, shape, high)
        return block_squared_distances(read(low, high), low, below, above, self.weights), start - low

    def _below(self, read: KindsReader, shape: tuple[int, ...], z: int) -> NDArray[np.int32]:
        """The last wall below slice z in each column."""
        index = next(i for i, (start, stop) in enumerate(self.blocks) if start <= z < stop)
        start = self.blocks[index][0]
        below, _ = self._load(index, shape[1:])
        if start == z:
            return below
        last = column_walls(read(start, z), start)[1]
        return np.where(last >= 0, last, below)

    def _above(self, read: KindsReader, shape: tuple[int, ...], z: int) -> NDArray[np.int32]:
        """The first wall in each column from slice z on."""
        index = next(i for i, (start, stop) in enumerate(self.blocks) if start < z <= stop)
        stop = self.blocks[index][1]
        _, above = self._load(index, shape[1:])
        if stop == z:
            return above
        first = column_walls(read(z, stop), z)[0]
        return np.where(first >= 0, first, above)

    def _load(self, index: int, shape: tuple[int, ...]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        below, above = self._maps(shape)[2 * index : 2 * index + 2]
        return below, above

    def _maps(self, shape: tuple[int, ...]) -> BlockVolume:
        """A volume of two slices a block: the walls below it, and above."""
        count = len(self.blocks)
        pairs = [(2 * index, 2 * index + 2) for index in range(count)]
        return BlockVolume(self.folder, pairs, (2 * count, *shape[-2:]), np.dtype(np.int32))
