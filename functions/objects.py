"""Separate one phase of a volume into labelled objects and measure them, block by block within a memory budget.

The result is the same to the bit for any budget. How objects are told apart stands in `components` and `watershed`,
what is opened and closed before in `morphology`.
"""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numba import njit
from numpy.typing import DTypeLike, NDArray

from .components import label_components
from .distance import OPEN, check_size, sweep_squared_distances
from .errors import InputError, ParameterError, StageError
from .morphology import morphology_sweeps, open_and_close, phase_kinds
from .outofcore import ScratchVolume, blocks_within
from .watershed import label_basins

if TYPE_CHECKING:
    from .volume import VolumeLike

_BYTES_PER_VOXEL = 16  # held of a block at most: distances, labels and paths, the block before not yet freed
_EXTRA_SLICES = 3

# Columns of the table that is accumulated; integers, so that the order of blocks does not matter.
_VOXELS, _SUMS, _LOWEST, _HIGHEST, _FIRST, _BORDER, _COLUMNS = 0, 1, 4, 7, 10, 11, 12


@dataclass(frozen=True)
class ObjectSettings:
    """How a phase is separated into objects.

    Parameters
    ----------
    method : "watershed" or "components"
        Watershed of the distance to the walls, which splits touching objects; or connected components alone.
    connectivity : {6, 18, 26}
        Which voxels of the phase are connected: over faces; and edges; and corners. (What is 6-connected here has a
        26-connected counterpart.)
    opening_radius_voxels, closing_radius_voxels : float
        Ball that opens, then ball that closes the phase before; 0 for none.
    min_voxels : int
        Smaller objects are left out at the end.
    prominence_voxels : float
        Watershed: distance maxima that rise less than this above the saddle between them are one object.

    Raises
    ------
    ParameterError
        A value is out of range.
    """

    method: Literal["watershed", "components"] = "watershed"
    connectivity: Literal[6, 18, 26] = 6
    opening_radius_voxels: float = 0.0
    closing_radius_voxels: float = 0.0
    min_voxels: int = 1
    prominence_voxels: float = 0.5

    def __post_init__(self) -> None:
        if self.method not in ("watershed", "components"):
            raise ParameterError(f"method is {self.method!r}; take 'watershed' or 'components'")
        if self.connectivity not in (6, 18, 26):
            raise ParameterError(f"connectivity is {self.connectivity}; take 6, 18 or 26")
        for name in ("opening_radius_voxels", "closing_radius_voxels", "min_voxels", "prominence_voxels"):
            if not getattr(self, name) >= 0:
                raise ParameterError(f"{name} is {getattr(self, name)}; take 0 or more")


@dataclass(frozen=True)
class ObjectTable:
    """What was measured of each object; a row an object, in the order of their first voxels.

    Parameters
    ----------
    label : (n,) uint32
        1 to n.
    voxels : (n,) int64
        Voxels of the object.
    centroid : (n, 3) float64
        Mean z, y, x of its voxels' indices.
    bounding_box : (n, 6) int64
        z0, y0, x0, z1, y1, x1: first index and the index after the last.
    touches_border : (n,) bool
        Whether it touches a face of the volume or what is outside the region, so that part of it may be missing.
    """

    label: NDArray[np.uint32]
    voxels: NDArray[np.int64]
    centroid: NDArray[np.float64]
    bounding_box: NDArray[np.int64]
    touches_border: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.label)

    @property
    def equivalent_diameter_voxels(self) -> NDArray[np.float64]:
        """Diameter of the sphere of the same volume (n,), in voxels."""
        diameter: NDArray[np.float64] = np.cbrt(self.voxels * (6 / np.pi))
        return diameter

    def to_csv(self, path: Path, voxel_size: float, unit: str) -> None:
        """Write the table as CSV with the unit in the names of the columns; bounding boxes are in voxels.

        Parameters
        ----------
        path : Path
            Overwritten.
        voxel_size : float
            Edge of a voxel.
        unit : str
            Its unit as it stands in column names, such as "um".
        """
        lengths = [f"equivalent_diameter_{unit}", *(f"centroid_{axis}_{unit}" for axis in "zyx")]
        box = [f"{axis}_{end}_voxel" for end in ("first", "end") for axis in "zyx"]
        columns = [
            self.label,
            self.voxels,
            self.voxels * voxel_size**3,
            self.equivalent_diameter_voxels * voxel_size,
            *(self.centroid * voxel_size).T,
            *self.bounding_box.T,
            self.touches_border.astype(np.uint8),
        ]
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["label", "voxels", f"volume_{unit}3", *lengths, *box, "touches_border"])
            writer.writerows(zip(*(column.tolist() for column in columns), strict=True))


def separate_objects(
    phases: VolumeLike,
    phase: int,
    settings: ObjectSettings,
    *,
    memory_bytes: int,
    scratch: Path,
    write: Callable[[int, NDArray[np.uint32]], None],
    progress: Callable[[int, int], None] | None = None,
) -> ObjectTable:
    """Separate one phase into objects.

    The phase is opened and closed; its connected components are found, or the basins of the distance to the nearest
    voxel of another phase, joined by prominence; objects below `min_voxels` are dropped; the others are numbered in the
    order of their first voxels. What is outside the region or beyond the faces of the volume is no wall: an object that
    is cut there keeps its centre where it is, or at the cut, and is not split for being cut.

    Parameters
    ----------
    phases : volume-like (z, y, x) uint8
        0 outside the region, 1.. the phases.
    phase : int
        Which one.
    settings : ObjectSettings
    memory_bytes : int
        Budget for blocks of voxels (up to 16 bytes a voxel). The tables of objects come on top: about 200 bytes an
        object and 30 bytes a distance maximum.
    scratch : Path
        Existing folder for temporary files of `scratch_bytes`; they are removed at the end.
    write : callable (z, labels)
        Gets the labels, (z, y, x) uint32 and 0 where no object is, block by block from the first slice up.
    progress : callable (done, total), optional
        Told of work done, in slices.

    Returns
    -------
    ObjectTable

    Raises
    ------
    ParameterError
        Phase 0, or a budget that does not hold one slice.
    InputError
        The volume is not three-dimensional, or larger than about 18 000 voxels a side.
    StageError
        More pieces than 32-bit labels.
    """
    if phase < 1:
        raise ParameterError(f"phase is {phase}; phases count from 1 (0 is what is outside the region)")
    if len(phases.shape) != 3:
        raise InputError(f"a volume of shape {phases.shape} has no three axes z, y, x")
    shape = (phases.shape[0], phases.shape[1], phases.shape[2])
    check_size(shape)
    blocks = blocks_within(shape, _BYTES_PER_VOXEL, _EXTRA_SLICES, memory_bytes)
    advance = _Progress(shape[0] * _sweeps(settings), progress).advance
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=scratch, prefix="objects-")))

        def volume(name: str, dtype: DTypeLike) -> ScratchVolume:
            return stack.enter_context(ScratchVolume(folder / f"{name}.raw", shape, dtype))

        labels = volume("labels", np.int32)
        read_kinds = _opened_and_closed(phases, phase, settings, blocks, labels, volume, advance)
        if settings.method == "components":
            pieces = label_components(
                lambda start, stop: read_kinds(start, stop) == OPEN, blocks, settings.connectivity, labels, advance
            )
        else:
            squared = volume("distances", np.int32)
            sweep_squared_distances(read_kinds, blocks, squared, squared.write, advance)
            pieces = label_basins(squared, blocks, settings.connectivity, settings.prominence_voxels, labels, advance)
        table, numbers = _measure(labels, phases, pieces, settings.min_voxels, blocks, advance)
        for start, stop in blocks:
            write(start, numbers[labels[start:stop]])
            advance(stop - start)
    return table


def scratch_bytes(shape: Sequence[int], settings: ObjectSettings) -> int:
    """Disk that `separate_objects` needs for a volume (z, y, x) while it works."""
    per_voxel = 4 + (4 if settings.method == "watershed" else 0) + (1 if morphology_sweeps(*_radii(settings)) else 0)
    return per_voxel * int(np.prod(shape, dtype=np.int64))


class _Progress:
    def __init__(self, total: int, report: Callable[[int, int], None] | None) -> None:
        self._done, self._total, self._report = 0, total, report

    def advance(self, slices: int) -> None:
        self._done += slices
        if self._report is not None:
            self._report(self._done, self._total)


def _sweeps(settings: ObjectSettings) -> int:
    return morphology_sweeps(*_radii(settings)) + (4 if settings.method == "watershed" else 1) + 2


def _radii(settings: ObjectSettings) -> tuple[float, float]:
    return settings.opening_radius_voxels, settings.closing_radius_voxels


def _opened_and_closed(
    phases: VolumeLike,
    phase: int,
    settings: ObjectSettings,
    blocks: Sequence[tuple[int, int]],
    distances: ScratchVolume,
    volume: Callable[[str, DTypeLike], ScratchVolume],
    advance: Callable[[int], None],
) -> Callable[[int, int], NDArray[np.uint8]]:
    """Reader of what each voxel is to a distance, after opening and closing."""
    if not morphology_sweeps(*_radii(settings)):
        return lambda start, stop: phase_kinds(phases[start:stop], phase)
    kinds = volume("kinds", np.uint8)
    open_and_close(phases, phase, *_radii(settings), blocks=blocks, kinds=kinds, distances=distances, advance=advance)
    return lambda start, stop: kinds[start:stop]


def _measure(
    labels: ScratchVolume,
    phases: VolumeLike,
    pieces: NDArray[np.int32],
    min_voxels: int,
    blocks: Sequence[tuple[int, int]],
    advance: Callable[[int], None],
) -> tuple[ObjectTable, NDArray[np.uint32]]:
    """Table of the objects, and the object (0 for none) of each provisional label."""
    # Rows of the table in the order of `names`; row 0 is what has no label.
    names, rows = np.unique(pieces, return_inverse=True)
    sums = np.zeros((names.size, _COLUMNS), np.int64)
    sums[:, _LOWEST:_HIGHEST] = np.iinfo(np.int64).max
    sums[:, _FIRST] = np.iinfo(np.int64).max
    depth = labels.shape[0]
    for start, stop in blocks:
        low, high = max(0, start - 1), min(depth, stop + 1)
        _accumulate(labels[start:stop], rows, phases[low:high], start, start - low, depth, sums)
        advance(stop - start)
    kept = np.flatnonzero((names > 0) & (sums[:, _VOXELS] >= max(1, min_voxels)))
    kept = kept[np.argsort(sums[kept, _FIRST])]
    if kept.size > np.iinfo(np.uint32).max:
        raise StageError(
            "separate_objects: more objects than 32-bit labels; raise the smallest size or open the phase first"
        )
    numbers = np.zeros(names.size, np.uint32)
    numbers[kept] = np.arange(1, kept.size + 1, dtype=np.uint32)
    measured = sums[kept]
    table = ObjectTable(
        label=numbers[kept],
        voxels=measured[:, _VOXELS],
        centroid=measured[:, _SUMS:_LOWEST] / measured[:, _VOXELS, np.newaxis],
        bounding_box=measured[:, _LOWEST:_FIRST],
        touches_border=measured[:, _BORDER] != 0,
    )
    return table, numbers[rows]


@njit(cache=True)
def _accumulate(
    labels: NDArray[np.int32],
    rows: NDArray[np.int64],
    phases: NDArray[np.uint8],
    start: int,
    low: int,
    volume_depth: int,
    sums: NDArray[np.int64],
) -> None:
    """Add a block to the table, run by run along x; `phases` reaches one slice beyond the block where there is one."""
    depth, height, width = labels.shape
    for z in range(depth):
        for y in range(height):
            x = 0
            while x < width:
                label = labels[z, y, x]
                begin = x
                x += 1
                if label == 0:
                    continue
                while x < width and labels[z, y, x] == label:
                    x += 1
                entry = sums[rows[label]]
                count = x - begin
                entry[_VOXELS] += count
                entry[_SUMS] += count * (start + z)
                entry[_SUMS + 1] += count * y
                entry[_SUMS + 2] += count * (begin + x - 1) // 2
                for axis, first, end in ((0, start + z, start + z + 1), (1, y, y + 1), (2, begin, x)):
                    entry[_LOWEST + axis] = min(entry[_LOWEST + axis], first)
                    entry[_HIGHEST + axis] = max(entry[_HIGHEST + axis], end)
                entry[_FIRST] = min(entry[_FIRST], ((start + z) * height + y) * width + begin)
                if entry[_BORDER] == 0 and _at_border(phases, start + z, z + low, y, begin, x, volume_depth):
                    entry[_BORDER] = 1


@njit(cache=True)
def _at_border(
    phases: NDArray[np.uint8], volume_z: int, z: int, y: int, begin: int, end: int, volume_depth: int
) -> bool:
    """Whether a run along x touches a face of the volume or a voxel outside the region."""
    _, height, width = phases.shape
    if volume_z in (0, volume_depth - 1) or y in (0, height - 1) or begin == 0 or end == width:
        return True
    if phases[z, y, begin - 1] == 0 or phases[z, y, end] == 0:
        return True
    for x in range(begin, end):
        if phases[z - 1, y, x] == 0 or phases[z + 1, y, x] == 0 or phases[z, y - 1, x] == 0 or phases[z, y + 1, x] == 0:
            return True
    return False
