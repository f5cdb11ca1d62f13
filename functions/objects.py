"""Separate one phase of a volume into labelled objects and measure them, block by block within a memory budget.

The work is done in steps that leave their results in a folder, so that blocks may be done by many processes:
`prepare_objects` once, `find_objects` for each block in any order, `join_objects` once, `label_objects` for each block in
any order, `gather_objects` once. A step that was killed is run again. `separate_objects` does them all.

The result is the same to the bit for any blocks. How objects are told apart stands in `components`, `watershed` and
`joining`, what is done to the phase before in `morphology`, what is measured in `object_measures`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from . import object_measures as measures
from .block_files import Block, BlockVolume, PieceFiles, block_path, load_arrays, save_arrays
from .components import find_components
from .distance import NO_WALL, OPEN, check_size, distance_weights
from .errors import InputError, ParameterError, StageError
from .joining import join_pieces
from .morphology import (
    SWEEPS_AN_EROSION,
    SWEEPS_OF_FILLING,
    Advance,
    Erosion,
    erode,
    erosions,
    fill_holes,
    phase_kinds,
)
from .object_table import Contacts, ObjectTable, VoxelSize
from .outofcore import blocks_within
from .quantification.configurations import Progress, report
from .walls import KindsReader, WallMaps
from .watershed import context_slices, find_basins

if TYPE_CHECKING:
    from .volume import VolumeLike

__all__ = [
    "Contacts",
    "ObjectSettings",
    "ObjectTable",
    "find_objects",
    "gather_objects",
    "join_objects",
    "label_objects",
    "object_blocks",
    "preparation_sweeps",
    "prepare_objects",
    "scratch_bytes",
    "separate_objects",
]

_BYTES_PER_VOXEL = 16  # held of a block at most
_SLICES_OF_MAPS = 4  # held of a block's faces: walls below and above it
_SLICES_OF_EXITS = 32  # held of paths that leave a block, each with a label of its own: pairs of those that touch
_MAXIMUM_SLICES = 64  # a block; so many that faces count little, so few that there is work for many processes
_MULTIPLES = (16, 8)  # of slices: the depth of a chunk of the labels, and that of a slab's share of the pyramid
_FILE_BYTES = 2**17  # of a block's files together, however small it is
_LABELS_MAX = np.iinfo(np.uint32).max

# Progress of a whole separation, in the time of a preparatory sweep.
_SWEEPS_OF_FINDING, _SWEEPS_OF_LABELLING = 6, 2


@dataclass(frozen=True)
class ObjectSettings:
    """How a phase is separated into objects: opened, closed, eroded, dilated, filled, cut up, rid of small objects.

    The steps come in this order; those that are not asked for are passed over.

    Parameters
    ----------
    method : "watershed" or "components"
        Watershed of the distance to the walls, which splits touching objects; or connected components alone.
    connectivity : {6, 18, 26}
        Which voxels of the phase are connected: over faces; and edges; and corners. (What is 6-connected here has a
        26-connected counterpart.)
    opening_radius, closing_radius, erosion_radius, dilation_radius : float
        Of the ball, in the unit of the voxel size; 0 for none.
    fill_holes : bool
        Whether what the phase encloses becomes part of it, see `morphology.fill_holes`.
    min_voxels : int
        Smaller objects are left out at the end.
    markers : "h_maxima" or "maxima"
        Watershed: what makes a distance maximum an object of its own. Its rise above the saddle to the next, or being the
        highest in a cube around it; see `joining.join_pieces`.
    prominence_voxels : float
        "h_maxima": distance maxima that rise less than this above the saddle between them are one object. In shortest
        edges of a voxel.
    marker_radius_voxels : int
        "maxima": how far the cube around a maximum reaches.

    Raises
    ------
    ParameterError
        A value is out of range.
    """

    method: Literal["watershed", "components"] = "watershed"
    connectivity: Literal[6, 18, 26] = 6
    opening_radius: float = 0.0
    closing_radius: float = 0.0
    erosion_radius: float = 0.0
    dilation_radius: float = 0.0
    fill_holes: bool = False
    min_voxels: int = 1
    markers: Literal["h_maxima", "maxima"] = "h_maxima"
    prominence_voxels: float = 0.4
    marker_radius_voxels: int = 1

    def __post_init__(self) -> None:
        for name, allowed in (
            ("method", ("watershed", "components")),
            ("connectivity", (6, 18, 26)),
            ("markers", ("h_maxima", "maxima")),
        ):
            if getattr(self, name) not in allowed:
                raise ParameterError(f"{name} is {getattr(self, name)!r}; take one of {allowed}")
        for name in ("opening_radius", "closing_radius", "erosion_radius", "dilation_radius"):
            if not 0 <= getattr(self, name) < np.inf:
                raise ParameterError(f"{name} is {getattr(self, name)}; take 0 or more")
        for name, least in (("min_voxels", 0), ("prominence_voxels", 0), ("marker_radius_voxels", 1)):
            if not getattr(self, name) >= least:
                raise ParameterError(f"{name} is {getattr(self, name)}; take {least} or more")

    @property
    def erosions(self) -> list[Erosion]:
        """What is done to the phase before holes are filled."""
        return erosions(self.opening_radius, self.closing_radius, self.erosion_radius, self.dilation_radius)

    @property
    def changes_phase(self) -> bool:
        """Whether what is cut up is another set of voxels than the phase."""
        return self.fill_holes or bool(self.erosions)

    @property
    def cube_radius(self) -> int:
        """How far the cubes of the markers reach, in voxels; 0 where there are none."""
        return self.marker_radius_voxels if self.markers == "maxima" else 0

    @property
    def context(self) -> int:
        """Slices beside a block that are needed to find its pieces."""
        return context_slices(self.cube_radius) if self.method == "watershed" else 0


def object_blocks(shape: Sequence[int], settings: ObjectSettings, memory_bytes: int) -> list[Block]:
    """Cut a volume into the blocks that the steps work on.

    Parameters
    ----------
    shape : (z, y, x)
    settings : ObjectSettings
    memory_bytes : int
        For a process that does one block at a time. `join_objects` needs about 50 bytes a distance maximum and 200 bytes a
        pair of these that meet, `gather_objects` about 500 bytes an object.

    Returns
    -------
    list of (start, stop)
        Ascending; at most 64 slices each, 16 or 8 or a multiple of them where the memory holds so many.

    Raises
    ------
    ParameterError
        The budget does not hold one slice and its neighbours.
    InputError
        The volume is not three-dimensional.
    """
    if len(shape) != 3:
        raise InputError(f"a volume of shape {tuple(shape)} has no three axes z, y, x")
    extra = 2 * settings.context + _SLICES_OF_MAPS + (_SLICES_OF_EXITS if settings.method == "watershed" else 0)
    start, stop = blocks_within(tuple(shape), _BYTES_PER_VOXEL, extra, memory_bytes)[0]
    most = min(stop - start, _MAXIMUM_SLICES)
    if most < shape[0]:
        most = next((most // multiple * multiple for multiple in _MULTIPLES if most >= multiple), most)
    return [(first, min(first + most, shape[0])) for first in range(0, shape[0], most)]


def scratch_bytes(shape: Sequence[int], settings: ObjectSettings) -> int:
    """Disk that the steps need for a volume while they work, at most.

    Files are compressed: where objects are ten voxels across they take half of this, in a regular foam a tenth.

    Parameters
    ----------
    shape : (z, y, x)
    settings : ObjectSettings

    Returns
    -------
    int
        Without the labels, which are the caller's.
    """
    halves_a_voxel = (6 if settings.method == "watershed" else 3) + settings.changes_phase
    return halves_a_voxel * int(np.prod(shape, dtype=np.int64)) // 2 + _FILE_BYTES * -(-shape[0] // _MULTIPLES[0])


def preparation_sweeps(settings: ObjectSettings) -> int:
    """How often `prepare_objects` goes through the volume."""
    sweeps = 1 if settings.method == "watershed" else 0
    if settings.changes_phase:
        sweeps += 1 + SWEEPS_AN_EROSION * len(settings.erosions) + SWEEPS_OF_FILLING * settings.fill_holes
    return sweeps


def prepare_objects(
    phases: VolumeLike,
    phase: int,
    settings: ObjectSettings,
    blocks: Sequence[Block],
    folder: Path,
    voxel_size: VoxelSize,
    advance: Advance,
) -> None:
    """Open, close, erode, dilate and fill the phase where that is asked for, and find where the walls of each block lie.

    Parameters
    ----------
    phases : volume-like (z, y, x) uint8
        0 outside the region, 1.. the phases.
    phase : int
        Which one.
    settings : ObjectSettings
    blocks : sequence of (start, stop)
        From `object_blocks`.
    folder : Path
        Work folder of this separation; `scratch_bytes`. The caller removes it at the end.
    voxel_size : (z, y, x) float
        Edges of a voxel.
    advance : callable (slices)
        Told of slices done; `preparation_sweeps` for each of the volume.

    Raises
    ------
    ParameterError
        Phase 0.
    InputError
        The volume is too large for the distances.
    StageError
        More pieces than 32-bit labels.
    """
    if phase < 1:
        raise ParameterError(f"phase is {phase}; phases count from 1 (0 is what is outside the region)")
    weights, unit_length = distance_weights(voxel_size)
    check_size(phases.shape, weights)
    walls = _walls(folder, blocks, voxel_size)
    if settings.changes_phase:
        kinds = _changed_kinds(phases, blocks, folder)
        for index, (start, stop) in enumerate(blocks):
            kinds.write(index, phase_kinds(np.asarray(phases[start:stop]), phase))
            advance(stop - start)
        for erosion in settings.erosions:
            erode(kinds, erosion, walls, unit_length, advance)
        if settings.fill_holes:
            fill_holes(kinds, settings.connectivity, folder / "holes", advance)
    if settings.method == "watershed":
        walls.store(_kinds_reader(phases, phase, settings, blocks, folder), advance)


def find_objects(
    phases: VolumeLike,
    phase: int,
    settings: ObjectSettings,
    blocks: Sequence[Block],
    index: int,
    folder: Path,
    voxel_size: VoxelSize,
) -> None:
    """Find the pieces of objects in one block: its basins or components, with provisional labels.

    Parameters are those of `prepare_objects`, which has to be done; `index` is which block.

    Raises
    ------
    StageError
        More pieces than 32-bit labels.
    """
    start, stop = blocks[index]
    read = _kinds_reader(phases, phase, settings, blocks, folder)
    if settings.method == "components":
        labels, pieces = find_components(read(start, stop) == OPEN, settings.connectivity)
    else:
        walls = _walls(folder, blocks, voxel_size)
        squared, low = walls.squared_distances_around(read, phases.shape, index, settings.context)
        labels, pieces = find_basins(squared, low, stop - start, settings.connectivity, settings.cube_radius)
    voxels, first = measures.count_voxels(labels, start, pieces.count)
    _provisional(phases, blocks, folder).write(index, labels)
    _pieces(folder, blocks).write(index, pieces)
    save_arrays(block_path(folder / "counts", blocks[index]), {"voxels": voxels, "first": first})


def join_objects(settings: ObjectSettings, blocks: Sequence[Block], folder: Path, voxel_size: VoxelSize) -> int:
    """Join the pieces of all blocks into objects and number those that are large enough, in the order of first voxels.

    Parameters are those of `prepare_objects`; `find_objects` has to be done for all blocks.

    Returns
    -------
    int
        Number of objects.

    Raises
    ------
    StageError
        More objects than 32-bit labels.
    """
    unit_length = distance_weights(voxel_size)[1]
    joined = join_pieces(
        _pieces(folder, blocks),
        settings.connectivity,
        method=settings.method,
        markers=settings.markers,
        prominence=settings.prominence_voxels * min(voxel_size) / unit_length,
    )
    numbers, kept = _number(joined.objects, len(joined.peaks), settings.min_voxels, blocks, folder)
    for block, objects in zip(blocks, joined.objects, strict=True):
        save_arrays(block_path(folder / "numbers", block), {"numbers": numbers[objects]})
    contacts = joined.contacts
    first, second = numbers[contacts.first], numbers[contacts.second]
    remaining = np.flatnonzero((first > 0) & (second > 0))
    first, second = np.minimum(first, second)[remaining], np.maximum(first, second)[remaining]
    order = np.lexsort((second, first))
    save_arrays(
        folder / "joined.h5",
        {
            "squared_peaks": joined.peaks[kept],
            "first": first[order],
            "second": second[order],
            "squared_saddles": contacts.squared_height[remaining[order]],
            "faces": contacts.faces[remaining[order]],
        },
    )
    return len(kept)


def label_objects(
    phases: VolumeLike,
    blocks: Sequence[Block],
    index: int,
    folder: Path,
    voxel_size: VoxelSize,
) -> NDArray[np.uint32]:
    """Label one block and measure what of the objects lies in it.

    Parameters are those of `prepare_objects`; `join_objects` has to be done. `index` is which block.

    Returns
    -------
    (z, y, x) uint32
        Labels of the block, 1 and up; 0 where no object is.
    """
    start, stop = blocks[index]
    depth = phases.shape[0]
    labels, names = _block_labels(_provisional(phases, blocks, folder), index, folder)
    near = np.asarray(phases[max(0, start - 1) : min(depth, stop + 1)])
    sums = measures.sum_block(labels, near, start, depth, len(names), voxel_size)
    del near
    save_arrays(block_path(folder / "sums", blocks[index]), {"names": names[1:], "sums": sums[1:]})
    result: NDArray[np.uint32] = names[labels[:-1]]
    return result


def gather_objects(blocks: Sequence[Block], folder: Path, voxel_size: VoxelSize) -> tuple[ObjectTable, Contacts]:
    """Put the tables together.

    Parameters are those of `prepare_objects`; `label_objects` has to be done for all blocks.

    Returns
    -------
    ObjectTable
    Contacts
    """
    joined = load_arrays(folder / "joined.h5")
    sums = measures.no_sums(len(joined["squared_peaks"]))
    for block in blocks:
        part = load_arrays(block_path(folder / "sums", block))
        measures.add_sums(sums, part["names"].astype(np.int64) - 1, part["sums"])
    contacts = Contacts(
        first=joined["first"],
        second=joined["second"],
        throat_radius=_radius(joined["squared_saddles"], voxel_size),
        area=_contact_areas(joined["faces"], voxel_size),
    )
    return _object_table(sums, joined["squared_peaks"], contacts, voxel_size), contacts


def separate_objects(
    phases: VolumeLike,
    phase: int,
    settings: ObjectSettings,
    *,
    voxel_size: VoxelSize = (1.0, 1.0, 1.0),
    memory_bytes: int,
    scratch: Path,
    write: Callable[[int, NDArray[np.uint32]], None],
    progress: Progress | None = None,
) -> tuple[ObjectTable, Contacts]:
    """Separate one phase into objects: all steps in this process.

    What is outside the region or beyond the faces of the volume is no wall: an object that is cut there keeps its centre
    where it is, or at the cut, and is not split for being cut.

    Parameters
    ----------
    phases : volume-like (z, y, x) uint8
        0 outside the region, 1.. the phases.
    phase : int
        Which one.
    settings : ObjectSettings
    voxel_size : (z, y, x) float
        Edges of a voxel.
    memory_bytes : int
        See `object_blocks`.
    scratch : Path
        Existing folder for temporary files of `scratch_bytes`; they are removed at the end.
    write : callable (z, labels)
        Gets the labels, (z, y, x) uint32 and 0 where no object is, block by block from the first slice up.
    progress : callable, optional
        Called with the part done.

    Returns
    -------
    ObjectTable
    Contacts

    Raises
    ------
    ParameterError
        Phase 0, or a budget that does not hold a slice.
    InputError
        The volume is not three-dimensional, or larger than about 18 000 voxels a side.
    StageError
        More pieces than 32-bit labels.
    """
    blocks = object_blocks(phases.shape, settings, memory_bytes)
    sweeps = preparation_sweeps(settings) + _SWEEPS_OF_FINDING + _SWEEPS_OF_LABELLING
    done, total = 0, phases.shape[0] * sweeps

    def advance(slices: int) -> None:
        nonlocal done
        done += slices
        report(progress, done / total)

    with tempfile.TemporaryDirectory(dir=scratch, prefix="objects-") as name:
        folder = Path(name)
        prepare_objects(phases, phase, settings, blocks, folder, voxel_size, advance)
        for index, (start, stop) in enumerate(blocks):
            find_objects(phases, phase, settings, blocks, index, folder, voxel_size)
            advance(_SWEEPS_OF_FINDING * (stop - start))
        join_objects(settings, blocks, folder, voxel_size)
        for index, (start, stop) in enumerate(blocks):
            write(start, label_objects(phases, blocks, index, folder, voxel_size))
            advance(_SWEEPS_OF_LABELLING * (stop - start))
        return gather_objects(blocks, folder, voxel_size)


def _walls(folder: Path, blocks: Sequence[Block], voxel_size: VoxelSize) -> WallMaps:
    return WallMaps(folder / "walls", blocks, distance_weights(voxel_size)[0])


def _changed_kinds(phases: VolumeLike, blocks: Sequence[Block], folder: Path) -> BlockVolume:
    return BlockVolume(folder / "kinds", blocks, phases.shape, np.dtype(np.uint8))


def _provisional(phases: VolumeLike, blocks: Sequence[Block], folder: Path) -> BlockVolume:
    return BlockVolume(folder / "provisional", blocks, phases.shape, np.dtype(np.int32))


def _pieces(folder: Path, blocks: Sequence[Block]) -> PieceFiles:
    return PieceFiles(folder / "pieces", blocks)


def _kinds_reader(
    phases: VolumeLike, phase: int, settings: ObjectSettings, blocks: Sequence[Block], folder: Path
) -> KindsReader:
    """Reader of what each voxel is to a distance, after all that is done to the phase."""
    if settings.changes_phase:
        kinds = _changed_kinds(phases, blocks, folder)
        return lambda start, stop: kinds[start:stop]
    return lambda start, stop: phase_kinds(np.asarray(phases[start:stop]), phase)


def _number(
    objects: Sequence[NDArray[np.int64]], count: int, min_voxels: int, blocks: Sequence[Block], folder: Path
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Number (0 for none) of each of so many keys, and the keys that have numbers, in order."""
    voxels, first = np.zeros(count, np.int64), np.full(count, np.iinfo(np.int64).max)
    for block, keys in zip(blocks, objects, strict=True):
        counts = load_arrays(block_path(folder / "counts", block))
        np.add.at(voxels, keys, counts["voxels"])
        np.minimum.at(first, keys, counts["first"])
    kept = 1 + np.flatnonzero(voxels[1:] >= max(1, min_voxels))
    kept = kept[np.argsort(first[kept])]
    if kept.size > _LABELS_MAX:
        raise StageError(
            "separate_objects: more objects than 32-bit labels; raise the smallest size or open the phase first"
        )
    numbers = np.zeros(count, np.uint32)
    numbers[kept] = np.arange(1, kept.size + 1, dtype=np.uint32)
    return numbers, kept


def _block_labels(provisional: BlockVolume, index: int, folder: Path) -> tuple[NDArray[np.int32], NDArray[np.uint32]]:
    """Labels of a block and of the slice above it (z + 1, y, x), as places in the list of names, which starts with 0.

    That slice is 0 where the volume ends.
    """
    blocks = provisional.blocks
    start, stop = blocks[index]
    numbers = load_arrays(block_path(folder / "numbers", blocks[index]))["numbers"]
    above = np.zeros(provisional.shape[1:], np.uint32)
    if index + 1 < len(blocks):
        above = load_arrays(block_path(folder / "numbers", blocks[index + 1]))["numbers"][
            provisional[stop : stop + 1][0]
        ]
    names = np.unique(np.concatenate([numbers, np.unique(above)]))
    labels = np.empty((stop - start + 1, *above.shape), np.int32)
    labels[:-1] = provisional[start:stop]
    _rename(labels[:-1], np.searchsorted(names, numbers).astype(np.int32))
    labels[-1] = np.searchsorted(names, above)
    return labels, names


@njit(cache=True, parallel=True)
def _rename(labels: NDArray[np.int32], names: NDArray[np.int32]) -> None:
    """Replace each label, in place."""
    depth, rows, columns = labels.shape
    for line in prange(depth * rows):
        for x in range(columns):
            labels[line // rows, line % rows, x] = names[labels[line // rows, line % rows, x]]


def _object_table(
    sums: NDArray[np.int64], squared_peaks: NDArray[np.int32], contacts: Contacts, voxel_size: VoxelSize
) -> ObjectTable:
    voxels = sums[:, measures.VOXELS]
    lengths, orientation = measures.principal_axes(sums, voxel_size)
    touching = np.concatenate([contacts.first, contacts.second]).astype(np.int64) - 1
    return ObjectTable(
        label=np.arange(1, len(sums) + 1, dtype=np.uint32),
        voxels=voxels,
        centroid=sums[:, measures.SUMS : measures.SQUARES] / voxels[:, np.newaxis],
        bounding_box=sums[:, measures.LOWEST : measures.BORDER],
        touches_border=sums[:, measures.BORDER] != 0,
        inscribed_radius=_radius(squared_peaks, voxel_size),
        surface=measures.surface_areas(sums, voxel_size),
        axis_lengths=lengths,
        orientation=orientation,
        neighbours=np.bincount(touching, minlength=len(sums)),
    )


def _radius(squared: NDArray[np.int32], voxel_size: VoxelSize) -> NDArray[np.float64]:
    """Length of squared distances, in the unit of the voxel size; 0 where there is no wall."""
    unit_length = distance_weights(voxel_size)[1]
    radius: NDArray[np.float64] = np.where(squared < NO_WALL, np.sqrt(squared.astype(np.float64)) * unit_length, 0.0)
    return radius


def _contact_areas(faces: NDArray[np.int64], voxel_size: VoxelSize) -> NDArray[np.float64]:
    """Areas of contacts from the faces that they have across each axis: exact for flat ones, however they lie."""
    z, y, x = voxel_size
    projections = faces * np.array([y * x, z * x, z * y])
    areas: NDArray[np.float64] = np.sqrt((projections**2).sum(axis=1))
    return areas
