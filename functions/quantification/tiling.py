"""Boxes that a volume is cut into so that additive measures can be had for parts of it: for intervals, and by size.

What is measured in a box is left to the metrics; what follows from the parts to `representative` and `uncertainty`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from .porosity import Bounds

MAXIMUM_TILES_AN_AXIS = 16


@dataclass(frozen=True)
class Tiling:
    """Edges of boxes along z, y and x.

    Tile t of an axis holds voxels `edges[t]` to `edges[t + 1]`, the last excluded. Voxels before the first or behind the
    last edge belong to the first or last tile, so that every voxel of a volume belongs to one tile. A 2 x 2 x 2 cell
    belongs to the tile of its voxel of lowest index (of the first voxel, where that lies before the volume).

    Attributes
    ----------
    z, y, x : tuple of int
        Ascending; one more than there are tiles.
    """

    z: tuple[int, ...]
    y: tuple[int, ...]
    x: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("z", "y", "x"):
            edges = getattr(self, name)
            if len(edges) < 2 or any(a >= b for a, b in pairwise(edges)):
                raise ValueError(f"tiling: edges along {name} are {edges}; give at least two, ascending")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of tiles along z, y and x."""
        return len(self.z) - 1, len(self.y) - 1, len(self.x) - 1


def whole(shape: tuple[int, ...]) -> Tiling:
    """One tile that holds a whole volume (z, y, x)."""
    return Tiling((0, shape[0]), (0, shape[1]), (0, shape[2]))


def cubes(bounds: Bounds, maximum: int = MAXIMUM_TILES_AN_AXIS) -> Tiling:
    """Equal cubes from the lower corner of a box on, at most `maximum` along its longest axis.

    What remains at the upper ends, thinner than a cube, belongs to the last cubes there; an axis shorter than a cube is
    one tile.

    Parameters
    ----------
    bounds : Bounds
        First voxel and the one after the last along each axis.
    maximum : int
        Tiles along the longest axis.
    """
    longest = max(stop - start for start, stop in bounds)
    edge = max(1, -(-longest // maximum))
    z, y, x = (_edges(start, stop, edge) for start, stop in bounds)
    return Tiling(z, y, x)


def _edges(start: int, stop: int, edge: int) -> tuple[int, ...]:
    count = max(1, (stop - start) // edge)
    return (*(start + i * edge for i in range(count)), stop)
