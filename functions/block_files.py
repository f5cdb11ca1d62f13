"""What is kept of each block while a volume is worked on: volumes and arrays in compressed files, one a block.

Files are written aside and renamed: whoever is killed leaves whole files or none, and doing a block again gives the same
bytes. LZ4 behind a byte shuffle takes little time, and leaves of labels a twentieth to a quarter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, overload

import h5py
import hdf5plugin
import numpy as np
from numpy.typing import NDArray

from .errors import StageError
from .joining import BlockPieces
from .rundir import slab_name, written_aside
from .volume import SlabVolume

Block = tuple[int, int]
"""First slice of a block and the slice after its last."""

_DATASET = "block"
_CHUNK_BYTES = 2**21


@dataclass(frozen=True)
class BlockVolume:
    """A volume (z, y, x) of whole numbers in one file a block; reads like an array along z.

    Parameters
    ----------
    folder : Path
        Made with the first block.
    blocks : sequence of (start, stop)
        Ascending, covering the volume.
    shape : (z, y, x)
    dtype : numpy dtype
    """

    folder: Path
    blocks: Sequence[Block]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def write(self, index: int, data: NDArray[Any]) -> None:
        """Write one block."""
        rows, columns = data.shape[1:]
        # Chunks of single slices: whoever works on a neighbouring block reads but one.
        chunk_rows = max(1, min(rows, _CHUNK_BYTES // (data.dtype.itemsize * columns)))
        with written_aside(block_path(self.folder, self.blocks[index])) as aside, h5py.File(aside, "w") as file:
            file.create_dataset(_DATASET, data=data, chunks=(1, chunk_rows, columns), compression=_codec())

    def __getitem__(self, slices: slice, /) -> NDArray[Any]:
        """Slices [start, stop) as an array of its own."""
        return SlabVolume(self.folder, _DATASET, list(self.blocks), self.shape, self.dtype)[slices]


@dataclass(frozen=True)
class PieceFiles(Sequence[BlockPieces]):
    """The `BlockPieces` of every block, in one file a block; read when they are asked for.

    Parameters
    ----------
    folder : Path
        Made with the first block.
    blocks : sequence of (start, stop)
        Ascending, covering the volume.
    """

    folder: Path
    blocks: Sequence[Block]

    def write(self, index: int, pieces: BlockPieces) -> None:
        """Write those of one block."""
        arrays = {field.name: getattr(pieces, field.name) for field in fields(pieces)}
        save_arrays(block_path(self.folder, self.blocks[index]), arrays)

    def __len__(self) -> int:
        return len(self.blocks)

    @overload
    def __getitem__(self, index: int, /) -> BlockPieces: ...
    @overload
    def __getitem__(self, index: slice, /) -> list[BlockPieces]: ...
    def __getitem__(self, index: int | slice, /) -> BlockPieces | list[BlockPieces]:
        """Pieces of one block, or of several."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return BlockPieces(**load_arrays(block_path(self.folder, self.blocks[index])))


def block_path(folder: Path, block: Block) -> Path:
    """Path of a block's file."""
    return folder / f"{slab_name(*block)}.h5"


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write named arrays as one HDF5 file."""
    with written_aside(path) as aside, h5py.File(aside, "w") as file:
        for name, array in arrays.items():
            # Empty datasets cannot be cut into chunks, which compressing needs.
            file.create_dataset(name, data=array, **({"chunks": True, "compression": _codec()} if array.size else {}))


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read what `save_arrays` wrote.

    Raises
    ------
    StageError
        The file cannot be read.
    """
    try:
        with h5py.File(path, "r") as file:
            return {name: dataset[()] for name, dataset in file.items()}
    except OSError as error:
        raise StageError(f"{path}: cannot be read ({error}); delete its folder and run the stage again") from error


def _codec() -> Any:
    return hdf5plugin.Blosc(cname="lz4", clevel=1, shuffle=hdf5plugin.Blosc.SHUFFLE)
