"""Phantoms of spheres or straight cylinders inside a cylindrical sample, with their analytic truth and their voxels.
Leaves line integrals to `projection` and writing to `scan_file`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ..errors import ParameterError
from .random_streams import Stream, generator

PhantomKind = Literal["foam", "spheres", "fibres", "channels"]
InclusionShape = Literal["sphere", "cylinder"]
FloatArray = NDArray[np.float64]

OUTSIDE: Final = 0
PORE: Final = 1
MATRIX: Final = 2
DENSE: Final = 3
PHASE_NAMES: Final[Mapping[int, str]] = {OUTSIDE: "outside", PORE: "pore", MATRIX: "matrix", DENSE: "dense"}

INCLUSION_COLUMNS: Final = ("x_px", "y_px", "z_px", "slope_x", "slope_y", "radius_px")
CM_PER_UM: Final = 1e-4


@dataclass(frozen=True, eq=False)
class Phantom:
    """A cylinder of matrix, upright on the rotation axis, with inclusions that neither overlap nor reach its wall.

    Lengths are in pixels. x and y are centred on the rotation axis; row k covers k <= z < k + 1, so its centre is at
    k + 0.5. Inclusions may be cut by the outer faces of the first and the last row (z = 0, z = rows), by nothing else.

    Attributes
    ----------
    kind : {"foam", "spheres", "fibres", "channels"}
        Name of the recipe.
    shape : {"sphere", "cylinder"}
        What every inclusion is; cylinders are straight and cross all rows.
    columns, rows : int
        Size of the volume: (z, y, x) = (rows, columns, columns).
    radius_px : float
        Radius of the sample region.
    pixel_size_um : float
        Edge of a voxel.
    inclusions : float64 array, shape (count, 6)
        `INCLUSION_COLUMNS`: a point of the axis (the centre of a sphere), the axis' slopes dx/dz and dy/dz (0 for
        spheres), the radius across the axis.
    inclusion_phase : int
        Label of the inclusions: `PORE` or `DENSE`.
    attenuation_per_cm : mapping of int to float
        Linear attenuation of every phase that occurs.
    """

    kind: PhantomKind
    shape: InclusionShape
    columns: int
    rows: int
    radius_px: float
    pixel_size_um: float
    inclusions: FloatArray
    inclusion_phase: int
    attenuation_per_cm: Mapping[int, float]

    @property
    def region_volume_px3(self) -> float:
        """Volume of the sample region in the rows."""
        return math.pi * self.radius_px**2 * self.rows

    @property
    def diameters_px(self) -> FloatArray:
        """Diameter of every inclusion (across its axis), whether or not a face cuts it; shape (count,)."""
        return 2.0 * self.inclusions[:, 5]

    @property
    def cut_by_face(self) -> NDArray[np.bool_]:
        """Which inclusions the first or the last row's outer face cuts; shape (count,)."""
        if self.shape == "cylinder":
            return np.ones(len(self.inclusions), dtype=np.bool_)
        z, radius = self.inclusions[:, 2], self.inclusions[:, 5]
        return (z < radius) | (z > self.rows - radius)

    @property
    def inclusion_volumes_px3(self) -> FloatArray:
        """Volume of every inclusion within the rows: spherical segments or slanted cylinders; shape (count,)."""
        radius = self.inclusions[:, 5]
        if self.shape == "cylinder":
            return np.pi * radius**2 * self._axis_lengths_px()
        low, high = self._zone_limits_px()
        return np.pi * (radius**2 * (high - low) - (high**3 - low**3) / 3.0)

    @property
    def inclusion_areas_px2(self) -> FloatArray:
        """Area between every inclusion and the matrix within the rows, cut faces not counted; shape (count,)."""
        radius = self.inclusions[:, 5]
        if self.shape == "cylinder":
            return 2.0 * np.pi * radius * self._axis_lengths_px()
        low, high = self._zone_limits_px()
        return 2.0 * np.pi * radius * (high - low)

    @property
    def equivalent_diameters_px(self) -> FloatArray:
        """Diameter of the sphere with the volume that the inclusion has within the rows; shape (count,)."""
        return np.cbrt(6.0 * self.inclusion_volumes_px3 / np.pi)

    @property
    def volume_fractions(self) -> dict[int, float]:
        """Fraction of the sample region that each phase fills, by label (the outside is not part of the region)."""
        fraction = math.fsum(self.inclusion_volumes_px3.tolist()) / self.region_volume_px3
        return {MATRIX: 1.0 - fraction, self.inclusion_phase: fraction}

    @property
    def porosity(self) -> float:
        """Fraction of the sample region that is pore."""
        return self.volume_fractions.get(PORE, 0.0)

    @property
    def interface_area_um2(self) -> float:
        """Area between matrix and inclusions within the rows, without the cut faces and the sample's own wall."""
        return math.fsum(self.inclusion_areas_px2.tolist()) * self.pixel_size_um**2

    @property
    def euler_number(self) -> int:
        """Euler number of the inclusions' phase: their count, since each is convex and none touches another."""
        return len(self.inclusions)

    @property
    def geodesic_tortuosity(self) -> float | None:
        """Mean path length through the inclusions from the face z = 0 to the face z = rows, divided by `rows`.

        The mean runs over the area of the exits. A straight cylinder is convex, so the shortest path from an exit point
        is the straight line to the nearest point of the entry ellipse. None for spheres: no path crosses.
        """
        if self.shape == "sphere" or not len(self.inclusions):
            return None
        areas = self.inclusion_volumes_px3 / self.rows
        means = [_exit_tortuosity(sx, sy, radius, self.rows) for _, _, _, sx, sy, radius in self.inclusions.tolist()]
        return float(np.dot(areas, means) / areas.sum())

    def attenuation_per_pixel(self, phase: int) -> float:
        """Linear attenuation of a phase times the pixel size."""
        return self.attenuation_per_cm[phase] * self.pixel_size_um * CM_PER_UM

    def _axis_lengths_px(self) -> FloatArray:
        slopes = self.inclusions[:, 3:5]
        lengths: FloatArray = self.rows * np.sqrt(1.0 + (slopes**2).sum(axis=1))
        return lengths

    def _zone_limits_px(self) -> tuple[FloatArray, FloatArray]:
        """Heights above a sphere's centre between which it lies within the rows."""
        z, radius = self.inclusions[:, 2], self.inclusions[:, 5]
        return np.clip(-z, -radius, radius), np.clip(self.rows - z, -radius, radius)


@dataclass(frozen=True)
class _Recipe:
    shape: InclusionShape
    phase: int
    volume_fraction: float
    radius_of_region: float
    spread: float
    gap_px: float


# The gaps of the porous kinds leave walls that survive a reconstruction; packed spheres may nearly touch.
_RECIPES: Final[Mapping[PhantomKind, _Recipe]] = {
    "foam": _Recipe("sphere", PORE, 0.20, 0.095, 0.35, 2.5),
    "spheres": _Recipe("sphere", DENSE, 0.40, 0.14, 0.20, 0.5),
    "fibres": _Recipe("cylinder", DENSE, 0.20, 0.065, 0.15, 2.5),
    "channels": _Recipe("cylinder", PORE, 0.15, 0.07, 0.15, 2.5),
}
_SMALLEST_MEAN_RADIUS_PX: Final = 3.0
_SMALLEST_RADIUS_PX: Final = 1.5
_LARGEST_RADIUS_OF_REGION: Final = 0.4
_LARGEST_TILT_RAD: Final = math.radians(35.0)
# A sphere that a face cuts reaches at least so far into the volume: thinner slivers are below what voxels can show.
_SMALLEST_VISIBLE_HEIGHT_PX: Final = 2.0
_DENSE_OVER_MATRIX: Final = 2.5
_TRIES_AN_INCLUSION: Final = 1000


def make_phantom(
    kind: PhantomKind,
    columns: int,
    rows: int,
    seed: int,
    *,
    pixel_size_um: float = 3.0,
    region_fraction: float = 0.85,
    opacity: float = 1.6,
    inclusion_fraction: float | None = None,
    inclusion_radius_px: float | None = None,
    inclusion_gap_px: float | None = None,
) -> Phantom:
    """Make a phantom by random sequential addition, largest inclusions first; a pure function of its arguments.

    Parameters
    ----------
    kind : {"foam", "spheres", "fibres", "channels"}
        `foam`: spherical pores in a matrix. `spheres`: packed dense spheres in a matrix. `fibres`: straight tilted
        dense cylinders in a matrix. `channels`: straight tilted pores (the one with pores of known tortuosity).
    columns, rows : int
        Size of the volume (rows, columns, columns).
    seed : int
        Seed of the random placement.
    pixel_size_um : float
        Edge of a voxel.
    region_fraction : float
        Radius of the sample as a fraction of half the columns.
    opacity : float
        Line integral along the sample's diameter through its mean composition; it sets the attenuation.
    inclusion_fraction, inclusion_radius_px, inclusion_gap_px : float or None
        Volume fraction aimed at (placement may run out of room; the phantom states what came out), median radius
        and smallest distance between inclusions. None: what the kind is made with.

    Raises
    ------
    ParameterError
        The kind is unknown.
    """
    if kind not in _RECIPES:
        raise ParameterError(f"phantom: {kind!r} is unknown; choose one of {', '.join(get_args(PhantomKind))}")
    recipe = _RECIPES[kind]
    region_radius = region_fraction * columns / 2.0
    median_radius = inclusion_radius_px or max(_SMALLEST_MEAN_RADIUS_PX, recipe.radius_of_region * region_radius)
    gap = recipe.gap_px if inclusion_gap_px is None else inclusion_gap_px
    target = inclusion_fraction or recipe.volume_fraction
    random = generator(seed, Stream.PHANTOM)
    place = _place_spheres if recipe.shape == "sphere" else _place_cylinders
    inclusions = place(random, region_radius, rows, target, median_radius, recipe.spread, gap)
    bare = Phantom(kind, recipe.shape, columns, rows, region_radius, pixel_size_um, inclusions, recipe.phase, {})
    ratio = 0.0 if recipe.phase == PORE else _DENSE_OVER_MATRIX
    fraction = bare.volume_fractions[recipe.phase]
    diameter_cm = 2.0 * region_radius * pixel_size_um * CM_PER_UM
    matrix = opacity / (diameter_cm * (1.0 - fraction + ratio * fraction))
    attenuation = {OUTSIDE: 0.0, MATRIX: matrix, recipe.phase: ratio * matrix}
    return Phantom(
        kind, recipe.shape, columns, rows, region_radius, pixel_size_um, inclusions, recipe.phase, attenuation
    )


def rasterize_phases(phantom: Phantom, z0: int, z1: int) -> NDArray[np.uint8]:
    """Phase label at the centre of every voxel of the rows z0 <= z < z1; shape (z1 - z0, columns, columns)."""
    region, inside = _sample_counts(phantom, z0, z1, 1)
    labels = np.where(inside > 0, phantom.inclusion_phase, MATRIX)
    return np.where(region > 0, labels, OUTSIDE).astype(np.uint8)


def rasterize_attenuation(phantom: Phantom, z0: int, z1: int, *, supersampling: int = 4) -> NDArray[np.float32]:
    """Mean attenuation in 1/cm of every voxel of the rows z0 <= z < z1; shape (z1 - z0, columns, columns), float32.

    The mean is taken over `supersampling` equally spaced points along each of the three axes of a voxel.
    """
    region, inside = _sample_counts(phantom, z0, z1, supersampling)
    matrix = phantom.attenuation_per_cm[MATRIX]
    contrast = phantom.attenuation_per_cm[phantom.inclusion_phase] - matrix
    volume = (matrix * supersampling) * region + contrast * inside
    return (volume / supersampling**3).astype(np.float32)


def _sample_counts(
    phantom: Phantom, z0: int, z1: int, supersampling: int
) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """How many sample points lie in the region (a row of points: (y, x)) and in inclusions (a voxel: (z, y, x))."""
    n = phantom.columns
    region = np.zeros((n, n), dtype=np.uint32)
    inside = np.zeros((z1 - z0, n, n), dtype=np.uint32)
    _count_in_region(phantom.radius_px, supersampling, region)
    _count_in_inclusions(phantom.inclusions, phantom.shape == "sphere", z0, supersampling, inside)
    return region, inside


@njit(cache=True, nogil=True)
def cross_section(inclusion: FloatArray, is_sphere: bool, z: float) -> tuple[float, float, float]:
    """Where the plane z cuts an inclusion: centre x, centre y, and the squared radius across the axis (<= 0: nowhere).

    A point at (dx, dy) from that centre is inside where dx^2 + dy^2 - (dx ax + dy ay)^2 < squared radius, (ax, ay, az)
    being the axis' unit vector.
    """
    height = z - inclusion[2]
    squared_radius = inclusion[5] * inclusion[5]
    if is_sphere:
        return inclusion[0], inclusion[1], squared_radius - height * height
    return inclusion[0] + inclusion[3] * height, inclusion[1] + inclusion[4] * height, squared_radius


@njit(cache=True, nogil=True)
def _count_in_region(radius: float, supersampling: int, counts: NDArray[np.uint32]) -> None:
    n = counts.shape[0]
    middle = 0.5 * n
    for j in range(n):
        for i in range(n):
            for qj in range(supersampling):
                y = middle - j - (qj + 0.5) / supersampling
                for qi in range(supersampling):
                    x = i + (qi + 0.5) / supersampling - middle
                    if x * x + y * y < radius * radius:
                        counts[j, i] += 1


@njit(cache=True, nogil=True)
def _count_in_inclusions(
    inclusions: FloatArray, is_sphere: bool, z0: int, supersampling: int, counts: NDArray[np.uint32]
) -> None:
    n = counts.shape[1]
    middle = 0.5 * n
    for k in range(counts.shape[0]):
        for q in range(inclusions.shape[0]):
            inclusion = inclusions[q]
            unit = 1.0 / math.sqrt(1.0 + inclusion[3] ** 2 + inclusion[4] ** 2)
            ax = inclusion[3] * unit
            ay = inclusion[4] * unit
            for qk in range(supersampling):
                cx, cy, squared_radius = cross_section(inclusion, is_sphere, z0 + k + (qk + 0.5) / supersampling)
                if squared_radius <= 0.0:
                    continue
                reach = math.sqrt(squared_radius) / unit
                first_i = max(0, math.floor(cx - reach + middle))
                last_i = min(n - 1, math.floor(cx + reach + middle))
                first_j = max(0, math.floor(middle - cy - reach))
                last_j = min(n - 1, math.floor(middle - cy + reach))
                for j in range(first_j, last_j + 1):
                    for i in range(first_i, last_i + 1):
                        for qj in range(supersampling):
                            dy = middle - j - (qj + 0.5) / supersampling - cy
                            for qi in range(supersampling):
                                dx = i + (qi + 0.5) / supersampling - middle - cx
                                along = dx * ax + dy * ay
                                if dx * dx + dy * dy - along * along < squared_radius:
                                    counts[k, j, i] += 1


def _draw_radii(random: np.random.Generator, count: int, median: float, spread: float, largest: float) -> FloatArray:
    radii = median * np.exp(spread * random.standard_normal(count))
    return np.clip(radii, min(_SMALLEST_RADIUS_PX, largest), largest)


def _place_spheres(
    random: np.random.Generator,
    region_radius: float,
    rows: int,
    fraction: float,
    median: float,
    spread: float,
    gap: float,
) -> FloatArray:
    largest = _LARGEST_RADIUS_OF_REGION * region_radius
    # spheres may be centred up to about their radius outside the rows
    room = math.pi * region_radius**2 * (rows + 2.0 * min(median, largest)) * fraction
    mean_volume = 4.0 / 3.0 * math.pi * min(median, largest) ** 3 * math.exp(4.5 * spread**2)
    radii = _draw_radii(random, 2 + math.ceil(2.0 * room / mean_volume), median, spread, largest)
    enough = 1 + int(np.searchsorted(np.cumsum(4.0 / 3.0 * np.pi * radii**3), room))
    radii = np.sort(radii[:enough])[::-1]
    placed = np.zeros((len(radii), len(INCLUSION_COLUMNS)))
    count = 0
    for radius in radii.tolist():
        points = random.random((_TRIES_AN_INCLUSION, 3))
        visible = min(_SMALLEST_VISIBLE_HEIGHT_PX, radius)
        distance = np.sqrt(points[:, 0]) * max(0.0, region_radius - radius - gap)
        azimuth = 2.0 * np.pi * points[:, 1]
        height = visible - radius + points[:, 2] * (rows - 2.0 * visible + 2.0 * radius)
        centres = np.column_stack([distance * np.cos(azimuth), distance * np.sin(azimuth), height])
        chosen = _first_free(centres, radius + gap, placed[:count])
        if chosen >= 0:
            placed[count, :3] = centres[chosen]
            placed[count, 5] = radius
            count += 1
    return placed[:count].copy()


@njit(cache=True, nogil=True)
def _first_free(centres: FloatArray, reach: float, placed: FloatArray) -> int:
    """Index of the first centre whose distance to every placed sphere is at least both radii and the gap; -1: none."""
    for c in range(centres.shape[0]):
        free = True
        for q in range(placed.shape[0]):
            dx = centres[c, 0] - placed[q, 0]
            dy = centres[c, 1] - placed[q, 1]
            dz = centres[c, 2] - placed[q, 2]
            distance = reach + placed[q, 5]
            if dx * dx + dy * dy + dz * dz < distance * distance:
                free = False
                break
        if free:
            return c
    return -1


def _place_cylinders(
    random: np.random.Generator,
    region_radius: float,
    rows: int,
    fraction: float,
    median: float,
    spread: float,
    gap: float,
) -> FloatArray:
    largest = _LARGEST_RADIUS_OF_REGION * region_radius
    steepest = min(math.tan(_LARGEST_TILT_RAD), region_radius / rows)
    cross_area = math.pi * min(median, largest) ** 2 * math.exp(2.0 * spread**2)
    count = max(1, round(fraction * math.pi * region_radius**2 / cross_area))
    radii = np.sort(_draw_radii(random, count, median, spread, largest))[::-1]
    placed = np.zeros((0, len(INCLUSION_COLUMNS)))
    for radius in radii.tolist():
        points = random.random((_TRIES_AN_INCLUSION, 4))
        middle = np.sqrt(points[:, 0]) * max(0.0, region_radius - radius - gap)
        slope = np.sqrt(points[:, 2]) * steepest
        at, towards = 2.0 * np.pi * points[:, 1], 2.0 * np.pi * points[:, 3]
        candidates = np.column_stack(
            [
                middle * np.cos(at),
                middle * np.sin(at),
                np.full(len(points), 0.5 * rows),
                slope * np.cos(towards),
                slope * np.sin(towards),
                np.full(len(points), radius),
            ]
        )
        for candidate in candidates[_within_wall(candidates, region_radius - gap, rows)]:
            if _keeps_apart(candidate, placed, rows, gap):
                placed = np.vstack([placed, candidate])
                break
    return placed


def _section_radii(cylinders: FloatArray) -> FloatArray:
    """Radius of the circle around the ellipse that a horizontal plane cuts out of each cylinder."""
    radii: FloatArray = cylinders[:, 5] * np.sqrt(1.0 + (cylinders[:, 3:5] ** 2).sum(axis=1))
    return radii


def _within_wall(cylinders: FloatArray, wall_radius: float, rows: int) -> NDArray[np.bool_]:
    """Which cylinders (given at half height) stay inside a radius; the ends of a straight axis are its farthest."""
    shift = 0.5 * rows * cylinders[:, 3:5]
    farthest = np.maximum(np.hypot(*(cylinders[:, :2] + shift).T), np.hypot(*(cylinders[:, :2] - shift).T))
    within: NDArray[np.bool_] = farthest + _section_radii(cylinders) <= wall_radius
    return within


def _keeps_apart(candidate: FloatArray, placed: FloatArray, rows: int, gap: float) -> bool:
    """Whether the circles around the cut ellipses keep apart at every height (given at half height)."""
    half = 0.5 * rows
    offset = candidate[:2] - placed[:, :2]
    drift = candidate[3:5] - placed[:, 3:5]
    squared_drift = np.maximum((drift**2).sum(axis=1), np.finfo(np.float64).tiny)
    closest_height = np.clip(-(offset * drift).sum(axis=1) / squared_drift, -half, half)
    distance = np.hypot(*(offset + closest_height[:, None] * drift).T)
    return bool(np.all(distance >= _section_radii(candidate[None, :]) + _section_radii(placed) + gap))


def _exit_tortuosity(slope_x: float, slope_y: float, radius: float, rows: int) -> float:
    """Mean over the exit ellipse of the distance to the entry ellipse, divided by the rows, by quadrature."""
    exits, rim = 400, 720
    slope = math.hypot(slope_x, slope_y)
    semi_major = radius * math.sqrt(1.0 + slope**2)
    index = np.arange(exits) + 0.5
    distance, azimuth = np.sqrt(index / exits), np.pi * (1.0 + math.sqrt(5.0)) * index
    # the tilt is along the major axis of both ellipses, so only that coordinate shifts
    along = semi_major * distance * np.cos(azimuth) + slope * rows
    across = radius * distance * np.sin(azimuth)
    angle = 2.0 * np.pi * np.arange(rim) / rim
    to_rim = np.hypot(
        along[:, None] - semi_major * np.cos(angle)[None, :], across[:, None] - radius * np.sin(angle)[None, :]
    ).min(axis=1)
    sideways = np.where((along / semi_major) ** 2 + (across / radius) ** 2 <= 1.0, 0.0, to_rim)
    return float(np.sqrt(rows**2 + sideways**2).mean() / rows)
