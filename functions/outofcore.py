"""Working through a volume block by block along z: volumes on scratch disk, and how many slices fit a memory budget.

What is done to a block is left to the caller (`distance`, `morphology`, `components`, `watershed`, `objects`).
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .errors import ParameterError


class ScratchVolume:
    """A volume (z, y, x) in one raw file that is read and written by slices; what was never written reads as 0.

    The file is not mapped into memory, so that the memory in use is exactly the blocks that the caller holds.

    Parameters
    ----------
    path : Path
        The file; made anew, and removed by whoever made its folder.
    shape : (z, y, x)
    dtype : numpy dtype
    """

    def __init__(self, path: Path, shape: tuple[int, int, int], dtype: DTypeLike) -> None:
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self._slice_bytes = shape[1] * shape[2] * self.dtype.itemsize
        self._file: io.FileIO = path.open("w+b", buffering=0)
        self._file.truncate(shape[0] * self._slice_bytes)

    def __getitem__(self, slices: slice, /) -> NDArray[Any]:
        """Slices [start, stop) as an array of its own."""
        start, stop, step = slices.indices(self.shape[0])
        if step != 1:
            raise ValueError("a scratch volume is read in steps of 1")
        block = np.empty((max(0, stop - start), *self.shape[1:]), self.dtype)
        self._file.seek(start * self._slice_bytes)
        view = _bytes_of(block)
        while len(view):
            count = self._file.readinto(view)
            if not count:
                raise OSError(f"{self._file.name}: the scratch file ends too early")
            view = view[count:]
        return block

    def write(self, start: int, block: NDArray[Any]) -> None:
        """Write slices from `start` on."""
        if block.dtype != self.dtype or block.shape[1:] != self.shape[1:]:
            raise ValueError(f"{self._file.name}: a block {block.dtype} {block.shape} does not fit this volume")
        self._file.seek(start * self._slice_bytes)
        view = _bytes_of(np.ascontiguousarray(block))
        while len(view):
            view = view[self._file.write(view) :]

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> ScratchVolume:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def blocks_within(
    shape: tuple[int, ...], bytes_per_voxel: int, extra_slices: int, memory_bytes: int
) -> list[tuple[int, int]]:
    """Cut a volume into blocks of slices that fit a memory budget.

    Parameters
    ----------
    shape : (z, y, x)
    bytes_per_voxel : int
        What the caller holds of each voxel of a block.
    extra_slices : int
        Slices that the caller holds beside a block: halos and carried state.
    memory_bytes : int
        The budget.

    Returns
    -------
    list of (start, stop)
        First slice and the slice after the last of each block, ascending.

    Raises
    ------
    ParameterError
        Not even one slice at a time fits the budget.
    """
    depth, rows, columns = shape
    slice_bytes = max(1, rows * columns * bytes_per_voxel)
    # A block is addressed by 32-bit numbers.
    most = min(memory_bytes // slice_bytes, (2**31 - 1) // max(1, rows * columns)) - extra_slices
    if most < 1:
        needed = (1 + extra_slices) * slice_bytes
        raise ParameterError(
            f"memory: {memory_bytes / 2**20:.1f} MiB do not hold one slice of {rows} x {columns} voxels with what its "
            f"processing needs; give at least {needed / 2**20:.1f} MiB"
        )
    return [(start, min(start + most, depth)) for start in range(0, depth, most)]


def _bytes_of(block: NDArray[Any]) -> memoryview:
    return block.reshape(-1).view(np.uint8).data
