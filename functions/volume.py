"""Volumes on disk: corrected projections (HDF5 + LZ4), slices (OME-Zarr 0.5), phases and objects (HDF5 + gzip).

Every write is one slab into files of its own, so that two workers never write one file. Receipts are left to the stages.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import h5py
import hdf5plugin
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, BloscShuffle
from zarr.core.common import JSON

from .errors import StageError
from .rundir import flush_to_disk, slab_name, written_aside

SLAB_MULTIPLE = 8
"""Slabs start at multiples of this, so that every level of the pyramid can be written slab by slab."""

_LEVELS_MAX = 4
_COARSEST = 128
_CHUNK = 64
_SHARD = 1024


class VolumeLike(Protocol):
    """What block-wise readers need: shape, type, and `volume[z0:z1]` as an array."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(z, y, x)."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a voxel."""
        ...

    def __getitem__(self, rows: slice, /) -> Any:
        """Slices as an array (z, y, x)."""
        ...


# Corrected projections ------------------------------------------------------------------------------------------------


def write_projections(folder: Path, start: int, projections: NDArray[np.float32]) -> None:
    """Write the corrected projections of a slab, (angles, rows, columns) float32, as one HDF5 file with bit-shuffled LZ4."""
    angles, rows, columns = projections.shape
    path = folder / f"{slab_name(start, start + rows)}.h5"
    # A chunk is one row of several projections: reconstruction reads rows, and a projection is still quick to show.
    chunks = (min(angles, max(1, 2**20 // (4 * columns))), 1, columns)
    _write_dataset(path, "projections", projections, chunks, hdf5plugin.Bitshuffle(cname="lz4"))


def link_projections(path: Path, folder: Path, slabs: list[tuple[int, int]], shape: tuple[int, int, int]) -> None:
    """Write a virtual dataset `projections` (angles, rows, columns) over the slabs' files; rows not there yet read as NaN."""
    layout = h5py.VirtualLayout(shape=shape, dtype="f4")
    for start, stop in slabs:
        source = f"{folder.relative_to(path.parent)}/{slab_name(start, stop)}.h5"
        layout[:, start:stop] = h5py.VirtualSource(source, "projections", (shape[0], stop - start, shape[2]))
    with written_aside(path) as aside, h5py.File(aside, "w") as file:
        file.create_virtual_dataset("projections", layout, fillvalue=np.nan)
        file["projections"].attrs.update(axes="angle:row:column", description="line integrals, -log(transmission)")


def read_projections(folder: Path, slabs: list[tuple[int, int]], start: int, stop: int) -> NDArray[np.float32]:
    """Corrected projections of rows [start, stop), (angles, rows, columns) float32, from the slabs' files."""
    return _read_slabs(folder, "projections", slabs, start, stop, axis=1)


# Phases ---------------------------------------------------------------------------------------------------------------


def write_phases(folder: Path, start: int, phases: NDArray[np.uint8]) -> None:
    """Write the phases of a slab, (z, y, x) uint8, as one HDF5 file."""
    path = folder / f"{slab_name(start, start + len(phases))}.h5"
    _write_dataset(path, "phases", phases, _label_chunks(phases.shape), None)


@dataclass(frozen=True)
class SlabVolume:
    """A volume (z, y, x) that lies in one HDF5 file a slab; reads like an array along z.

    Parameters
    ----------
    folder : Path
    name : str
        Dataset in each file.
    slabs : list of (start, stop)
    shape : (z, y, x)
    dtype : numpy dtype
    """

    folder: Path
    name: str
    slabs: list[tuple[int, int]]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        """Slices [start, stop)."""
        start, stop, step = rows.indices(self.shape[0])
        if step != 1:
            raise ValueError("a slab volume is read in steps of 1")
        if stop <= start:
            return np.empty((0, *self.shape[1:]), self.dtype)
        return _read_slabs(self.folder, self.name, self.slabs, start, stop, axis=0)


def write_objects(folder: Path, start: int, objects: NDArray[np.uint32]) -> None:
    """Write the labels of the objects in a block, (z, y, x) uint32, as one HDF5 file."""
    path = folder / f"{slab_name(start, start + len(objects))}.h5"
    _write_dataset(path, "objects", objects, _label_chunks(objects.shape), None)


class LabelsWriter:
    """Writes `labels.h5` block by block; see `create_labels`."""

    def __init__(self, file: h5py.File) -> None:
        self._file = file

    def copy(self, name: str, start: int, source: Path) -> None:
        """Take slices from `start` on of `phases` or `objects` from a slab's file.

        Raises
        ------
        StageError
            The file cannot be read.
        """
        target = self._file[name]
        try:
            with h5py.File(source, "r") as file:
                slab = file[name]
                # Chunks that lie alike in both are copied as they are, compressed.
                whole = start % target.chunks[0] == 0 and (
                    slab.shape[0] % target.chunks[0] == 0 or start + slab.shape[0] == target.shape[0]
                )
                if whole and slab.chunks == target.chunks and slab.compression == target.compression:
                    _copy_chunks(slab, target, start)
                else:
                    target[start : start + slab.shape[0]] = slab[()]
        except OSError as error:
            raise StageError(
                f"{source}: cannot be read ({error}); delete this file and run the scan again, which makes it anew"
            ) from error


def _copy_chunks(slab: h5py.Dataset, target: h5py.Dataset, start: int) -> None:
    for index in range(slab.id.get_num_chunks()):
        chunk = slab.id.get_chunk_info(index)
        mask, data = slab.id.read_direct_chunk(chunk.chunk_offset)
        z, *rest = chunk.chunk_offset
        target.id.write_direct_chunk((z + start, *rest), data, mask)


@contextlib.contextmanager
def create_labels(
    path: Path, shape: tuple[int, ...], objects: bool, voxel_size: tuple[float, float, float], unit: str
) -> Iterator[LabelsWriter]:
    """Write `labels.h5` aside and rename it when whole: /phases uint8 and, where asked, /objects uint32, gzip."""
    with written_aside(path) as aside, h5py.File(aside, "w") as file:
        names = {"phases": "u1", "objects": "u4"} if objects else {"phases": "u1"}
        for name, dtype in names.items():
            dataset = file.create_dataset(
                name, shape, dtype, chunks=_label_chunks(shape), compression="gzip", compression_opts=4, shuffle=True
            )
            dataset.attrs.update(axes="z:y:x", voxel_size=voxel_size, voxel_unit=unit)
        file["phases"].attrs["description"] = "0: outside the sample region; 1: least attenuating phase; and up"
        yield LabelsWriter(file)


# Slices ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SliceLayout:
    """How a volume of slices is cut on disk.

    Parameters
    ----------
    shape : (z, y, x)
    slab_rows : int
        Rows a slab, a multiple of `SLAB_MULTIPLE`; more than 64 are a multiple of 64.
    """

    shape: tuple[int, int, int]
    slab_rows: int

    @property
    def levels(self) -> int:
        """Levels of the multiscale pyramid, the full resolution among them."""
        width, levels = max(self.shape[1:]), 1
        while width > _COARSEST and levels < _LEVELS_MAX:
            width, levels = -(-width // 2), levels + 1
        return levels

    def level_shape(self, level: int) -> tuple[int, int, int]:
        """Shape of a level; odd lengths are rounded up."""
        z, y, x = (-(-length // 2**level) for length in self.shape)
        return z, y, x

    def shard_depth(self, level: int) -> int:
        """Slices in one file of a level."""
        return min(self.slab_rows, _CHUNK) >> level

    def chunks(self, level: int) -> tuple[int, int, int]:
        """Chunk of a level: what is compressed as one."""
        _, y, x = self.level_shape(level)
        return self.shard_depth(level), min(_CHUNK, y), min(_CHUNK, x)

    def files(self, path: Path, start: int, stop: int) -> list[Path]:
        """Folders of the files that slices [start, stop) of the full resolution lie in."""
        depth = self.shard_depth(0)
        return [path / "0" / "c" / str(index) for index in range(start // depth, -(-stop // depth))]

    def shards(self, level: int) -> tuple[int, int, int]:
        """Shard of a level: what lies in one file."""
        depth, y, x = self.chunks(level)
        _, rows, columns = self.level_shape(level)
        return depth, _multiple(min(_SHARD, rows), y), _multiple(min(_SHARD, columns), x)


def create_slices(path: Path, layout: SliceLayout, name: str, voxel_size: Sequence[float], unit: str | None) -> None:
    """Create an empty OME-Zarr 0.5 volume of float32 slices, whole or not at all; one of this layout that is there is kept.

    Parameters
    ----------
    path : Path
        The `.zarr` folder.
    layout : SliceLayout
    name : str
        Name of the image in the metadata.
    voxel_size : (z, y, x)
        Edges of a voxel.
    unit : str or None
        UDUNITS-2 name of the edges' unit; None where the pixel size is unknown.
    """
    if path.is_dir():
        existing = _array(zarr.open_group(path, mode="r"), 0)
        if (existing.shape, existing.shards) != (layout.shape, layout.shards(0)):
            raise StageError(
                f"{path}: its files are cut otherwise than run.json says; delete this volume and run again"
            )
        return
    aside = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    group = zarr.create_group(aside, zarr_format=3)
    for level in range(layout.levels):
        group.create_array(
            str(level),
            shape=layout.level_shape(level),
            dtype="float32",
            chunks=layout.chunks(level),
            shards=layout.shards(level),
            compressors=BloscCodec(cname="zstd", clevel=1, shuffle=BloscShuffle.bitshuffle),
            dimension_names=("z", "y", "x"),
            fill_value=0.0,
            # A file that is not there is lost, and not merely empty.
            config={"write_empty_chunks": True},
        )
    axes: list[JSON] = [{"name": axis, "type": "space", **({"unit": unit} if unit else {})} for axis in "zyx"]
    datasets: list[JSON] = [
        {
            "path": str(level),
            "coordinateTransformations": [
                {"type": "scale", "scale": [edge * 2**level for edge in voxel_size]},
                {"type": "translation", "translation": [edge * (2**level - 1) / 2 for edge in voxel_size]},
            ],
        }
        for level in range(layout.levels)
    ]
    multiscale: dict[str, JSON] = {
        "name": name,
        "axes": axes,
        "datasets": datasets,
        "type": "mean",
        "metadata": {"method": "2x2x2 mean"},
    }
    group.attrs["ome"] = {"version": "0.5", "multiscales": [multiscale]}
    try:
        aside.rename(path)
    except OSError:
        # Another worker was first; its volume is as good as ours.
        shutil.rmtree(aside)
        if not path.is_dir():
            raise


def write_slices(path: Path, layout: SliceLayout, start: int, slices: NDArray[np.float32]) -> None:
    """Write a slab of slices (z, y, x) float32 and its share of the pyramid, and flush them to disk.

    Raises
    ------
    StageError
        The slab does not start and end at the borders of files.
    """
    stop = start + len(slices)
    depth = layout.shard_depth(0)
    if start % depth or (stop % depth and stop != layout.shape[0]):
        raise StageError(f"{path}: rows {start} to {stop} are not whole files of {depth} rows")
    group = zarr.open_group(path, mode="r+")
    level_slices = slices
    for level in range(layout.levels):
        if level:
            level_slices = halve(level_slices)
        array = _array(group, level)
        first = start >> level
        array[first : first + len(level_slices)] = level_slices
        level_depth = layout.shard_depth(level)
        for index in range(first // level_depth, -(-(first + len(level_slices)) // level_depth)):
            for file in (path / str(level) / "c" / str(index)).glob("*/*"):
                if not file.name.endswith(".partial"):
                    flush_to_disk(file)


def open_slices(path: Path, level: int = 0) -> VolumeLike:
    """A level of a volume of slices, for reading.

    Raises
    ------
    StageError
        There is no such volume.
    """
    try:
        volume: VolumeLike = _array(zarr.open_group(path, mode="r"), level)
    except (FileNotFoundError, KeyError) as error:
        raise StageError(f"{path}: no volume of slices is here; run the scan again, which makes it anew") from error
    return volume


def halve(slices: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean over 2 x 2 x 2 voxels, (z, y, x) float32; where a length is odd the last voxels stand for themselves."""
    result = slices
    for axis in range(3):
        length = result.shape[axis]
        first = result[_along(axis, slice(0, None, 2))]
        second = result[_along(axis, slice(1, None, 2))]
        if length % 2:
            second = np.concatenate([second, result[_along(axis, slice(length - 1, None))]], axis=axis)
        result = (first + second) * np.float32(0.5)
    return result


def _along(axis: int, part: slice) -> tuple[slice, ...]:
    return tuple(part if index == axis else slice(None) for index in range(3))


def _array(group: zarr.Group, level: int) -> Any:
    return group[str(level)]


def _multiple(length: int, unit: int) -> int:
    return -(-length // unit) * unit


def _label_chunks(shape: tuple[int, ...]) -> tuple[int, ...]:
    # As deep as slabs are cut, so that chunks of slabs can be copied as they are.
    return tuple(min(length, size) for length, size in zip(shape, (SLAB_MULTIPLE, 128, 128), strict=True))


def _write_dataset(path: Path, name: str, data: NDArray[Any], chunks: tuple[int, ...], codec: Any) -> None:
    compression = codec if codec is not None else {"compression": "gzip", "compression_opts": 4, "shuffle": True}
    with written_aside(path) as aside, h5py.File(aside, "w") as file:
        file.create_dataset(name, data=data, chunks=chunks, **compression)


def _read_slabs(
    folder: Path, name: str, slabs: list[tuple[int, int]], start: int, stop: int, axis: int
) -> NDArray[Any]:
    # Read into one array: parts that are put together afterwards would be in memory twice.
    whole: NDArray[Any] | None = None
    read = 0
    for first, last in slabs:
        low, high = max(start, first), min(stop, last)
        if low >= high:
            continue
        path = folder / f"{slab_name(first, last)}.h5"
        try:
            with h5py.File(path, "r") as file:
                slab = file[name]
                if whole is None:
                    whole = np.empty((*slab.shape[:axis], stop - start, *slab.shape[axis + 1 :]), slab.dtype)
                before = (slice(None),) * axis
                slab.read_direct(
                    whole, (*before, slice(low - first, high - first)), (*before, slice(low - start, high - start))
                )
                read += high - low
        except OSError as error:
            raise StageError(
                f"{path}: cannot be read ({error}); delete this file and run the scan again, which makes it anew"
            ) from error
    if whole is None or read != stop - start:
        raise StageError(f"{folder}: holds no slab for some of the rows {start} to {stop}")
    return whole
