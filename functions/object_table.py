"""Tables of what was measured of the objects and of where they touch, and their CSV files.

The measuring is left to `objects`.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError

VoxelSize = tuple[float, float, float]
"""Edges of a voxel along (z, y, x)."""

_ROWS_AT_ONCE = 2**14


@dataclass(frozen=True)
class ObjectTable:
    """What was measured of each object; a row an object, in the order of their first voxels.

    Lengths and areas are in the unit of the voxel size that they were measured with, indices in voxels.

    Attributes
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
    inscribed_radius : (n,) float64
        Of the largest ball around a voxel's centre that reaches no wall; 0 where none was measured: of connected components,
        and where the volume has no walls.
    surface : (n,) float64
        Area of its closed surface, cuts included.
    axis_lengths : (n, 3) float64
        Whole axes of the ellipsoid with the same second moments, the longest first.
    orientation : (n, 3) float64
        Unit vector (z, y, x) along the longest axis.
    neighbours : (n,) int64
        Objects that it touches.
    """

    label: NDArray[np.uint32]
    voxels: NDArray[np.int64]
    centroid: NDArray[np.float64]
    bounding_box: NDArray[np.int64]
    touches_border: NDArray[np.bool_]
    inscribed_radius: NDArray[np.float64]
    surface: NDArray[np.float64]
    axis_lengths: NDArray[np.float64]
    orientation: NDArray[np.float64]
    neighbours: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.label)

    def volume(self, voxel_size: VoxelSize) -> NDArray[np.float64]:
        """Volume (n,), in the cubed unit of `voxel_size`."""
        volume: NDArray[np.float64] = self.voxels * np.prod(voxel_size)
        return volume

    def equivalent_diameter(self, voxel_size: VoxelSize) -> NDArray[np.float64]:
        """Diameter of the sphere of the same volume (n,), in the unit of `voxel_size`."""
        diameter: NDArray[np.float64] = np.cbrt(self.volume(voxel_size) * (6 / np.pi))
        return diameter

    def sphericity(self, voxel_size: VoxelSize) -> NDArray[np.float64]:
        """Surface of the sphere of the same volume over the object's own (n,), dimensionless.

        1 for a ball; objects of a few voxels may come out above. Wadell, J. Geology 43:250 (1935), DOI 10.1086/624298.
        """
        sphericity: NDArray[np.float64] = np.pi * self.equivalent_diameter(voxel_size) ** 2 / self.surface
        return sphericity

    def to_csv(self, path: Path, voxel_size: VoxelSize, unit: str) -> None:
        """Write the table as CSV with the unit in the names of the columns; bounding boxes are in voxels.

        Parameters
        ----------
        path : Path
            Overwritten.
        voxel_size : (z, y, x) float
            Edges of a voxel.
        unit : str
            Its unit as it stands in column names, such as "um".
        """
        columns: list[NDArray[Any]] = [
            self.label,
            self.voxels,
            self.volume(voxel_size),
            self.equivalent_diameter(voxel_size),
            2 * self.inscribed_radius,
            self.surface,
            self.sphericity(voxel_size),
            *self.axis_lengths.T,
            *self.orientation.T,
            *(self.centroid * voxel_size).T,
            *self.bounding_box.T,
            self.touches_border.astype(np.uint8),
            self.neighbours,
        ]
        _write_csv(path, _object_columns(unit), columns)

    @classmethod
    def read_csv(cls, path: Path, voxel_size: VoxelSize) -> ObjectTable:
        """Read what `to_csv` wrote.

        Parameters
        ----------
        path : Path
        voxel_size : (z, y, x) float
            The one it was written with.

        Raises
        ------
        InputError
            The file is not such a table.
        """
        names, values = _read_csv(path)
        unit = names[2].removeprefix("volume_").removesuffix("3") if len(names) > 2 else ""
        if names != _object_columns(unit):
            raise InputError(
                f"{path}: its columns are not those of a table of objects; run the separation of objects again"
            )
        columns = iter(values.T)

        def following(count: int) -> NDArray[np.float64]:
            return np.stack(list(islice(columns, count)), axis=1)

        label, voxels, _, _, inscribed_diameter, surface, _ = following(7).T
        return cls(
            label=label.astype(np.uint32),
            voxels=voxels.astype(np.int64),
            inscribed_radius=inscribed_diameter / 2,
            surface=surface,
            axis_lengths=following(3),
            orientation=following(3),
            centroid=following(3) / voxel_size,
            bounding_box=following(6).astype(np.int64),
            touches_border=following(1)[:, 0] != 0,
            neighbours=following(1)[:, 0].astype(np.int64),
        )


@dataclass(frozen=True)
class Contacts:
    """Where two objects touch: the throats between pores, the necks between particles. A row a pair.

    Attributes
    ----------
    first, second : (n,) uint32
        Labels, the lower first; the rows are in their order.
    throat_radius : (n,) float64
        Of the largest ball around a voxel's centre that passes from one to the other without reaching a wall; 0 where the
        volume has no walls.
    area : (n,) float64
        Of the surface between the two.
    """

    first: NDArray[np.uint32]
    second: NDArray[np.uint32]
    throat_radius: NDArray[np.float64]
    area: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.first)

    def to_csv(self, path: Path, unit: str) -> None:
        """Write the contacts as CSV with the unit in the names of the columns.

        Parameters
        ----------
        path : Path
            Overwritten.
        unit : str
            Unit of length as it stands in column names, such as "um".
        """
        columns: list[NDArray[Any]] = [self.first, self.second, 2 * self.throat_radius, self.area]
        _write_csv(path, _contact_columns(unit), columns)

    @classmethod
    def read_csv(cls, path: Path) -> Contacts:
        """Read what `to_csv` wrote.

        Raises
        ------
        InputError
            The file is not such a table.
        """
        names, values = _read_csv(path)
        if names != _contact_columns(names[2].removeprefix("throat_diameter_") if len(names) > 2 else ""):
            raise InputError(
                f"{path}: its columns are not those of a table of contacts; run the separation of objects again"
            )
        first, second, diameter, area = values.T
        return cls(first.astype(np.uint32), second.astype(np.uint32), diameter / 2, area)


def _object_columns(unit: str) -> list[str]:
    return [
        "label",
        "voxels",
        f"volume_{unit}3",
        f"equivalent_diameter_{unit}",
        f"inscribed_diameter_{unit}",
        f"surface_{unit}2",
        "sphericity",
        *(f"axis_{which}_{unit}" for which in ("major", "middle", "minor")),
        *(f"orientation_{axis}" for axis in "zyx"),
        *(f"centroid_{axis}_{unit}" for axis in "zyx"),
        *(f"{axis}_{end}_voxel" for end in ("first", "end") for axis in "zyx"),
        "touches_border",
        "neighbours",
    ]


def _contact_columns(unit: str) -> list[str]:
    return ["first", "second", f"throat_diameter_{unit}", f"contact_area_{unit}2"]


def _write_csv(path: Path, names: Sequence[str], columns: Sequence[NDArray[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        # Rows become Python numbers, which are ten times as large: a few at a time.
        for start in range(0, len(columns[0]), _ROWS_AT_ONCE):
            part = (column[start : start + _ROWS_AT_ONCE].tolist() for column in columns)
            writer.writerows(zip(*part, strict=True))


def _read_csv(path: Path) -> tuple[list[str], NDArray[np.float64]]:
    """Names of the columns, and their values (rows, columns)."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            names = next(reader, [])
            parts = [np.empty((0, len(names)))]
            while rows := list(islice(reader, _ROWS_AT_ONCE)):
                parts.append(np.array(rows, dtype=np.float64))
            return names, np.concatenate(parts)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a table ({error}); run the separation of objects again") from error
