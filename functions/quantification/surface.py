"""Area of the interface between a phase and the rest of the sample, by marching cubes.

Either on the phase's voxels, smoothed, or on the grey values that the phase was cut from. Marching cubes on the bare
voxels is not offered: it overestimates a sphere by 8.8 %, whatever its radius. The Crofton area is left to
`configurations`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numba
import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from ..errors import InputError, ParameterError
from ..outofcore import blocks_within
from .configurations import Progress, cell_tiles, read_padded, report, require_phases

if TYPE_CHECKING:
    from ..volume import VolumeLike
    from .tiling import Tiling

DEFAULT_SIGMA_VOXELS = 1.0
"""So smoothed and sharpened, spheres of 5 voxels radius and more are measured within 1.5 %, of 7 and more within 1 %."""

_MINIMUM_SIGMA_VOXELS = 0.5
_FACET_SHARPENING = 0.3
_BAND_ROWS = 32
# Corner c of a cell lies at dz = c >> 2 & 1, dy = c >> 1 & 1, dx = c & 1; an edge joins two corners, lower one first.
_EDGES = tuple((c, c | bit) for bit in (1, 2, 4) for c in range(8) if not c & bit)
# A configuration's polygons: number of edges, the edges, and so on up to a 0. At most 12 edges in 4 polygons.
_POLYGON_WORDS = 17
# What is known of a corner of a cell: nothing where it lies outside the region.
_BELOW, _ABOVE = 1, 2


def interface_area(
    phases: VolumeLike,
    phase: int,
    memory_bytes: int,
    sigma_voxels: float = DEFAULT_SIGMA_VOXELS,
    progress: Progress | None = None,
    *,
    voxel_size: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> float:
    """Area between a phase and the other phases inside the sample region.

    As `interface_areas` with the whole volume as one tile.
    """
    areas = interface_areas(phases, phase, memory_bytes, sigma_voxels, progress, voxel_size=voxel_size)
    return float(areas[0, 0, 0])


def interface_areas(
    phases: VolumeLike,
    phase: int,
    memory_bytes: int,
    sigma_voxels: float = DEFAULT_SIGMA_VOXELS,
    progress: Progress | None = None,
    *,
    voxel_size: tuple[float, float, float] = (1.0, 1.0, 1.0),
    tiling: Tiling | None = None,
) -> NDArray[np.float64]:
    """Area between a phase and the other phases inside the sample region, by tile.

    The phase is smoothed with a gaussian, which rounds off the voxels but also draws every curved interface inwards;
    subtracting the smoothed field's Laplacian puts the interface back. The area is that of marching cubes at the level
    0.5, of each polygon in a cell its vector area. The outline of the region and the cut faces of the volume are no
    interface: what lies beyond is not known, so it takes no part in the smoothing, a cell's corners there take the mean
    of their neighbours in the region, and a cell counts by the share of its eight corners that lie in the region. So an
    interface that runs into the outline is measured up to the outline, and a grain or pore that ends at the outline
    gets no area from there.

    Parameters
    ----------
    phases : volume-like (z, y, x) uint8
        0 outside the sample region.
    phase : int
        The phase; all other phases but 0 are the rest.
    memory_bytes : int
        Memory that the pass may take; the result does not depend on it.
    sigma_voxels : float
        Standard deviation of the gaussian along each axis, in voxels; it is cut off at four of them. At least 0.5.
        Along the longer edges of anisotropic voxels it so is longer, as the steps to be smoothed are.
    progress : callable, optional
        Called with the part done.
    voxel_size : (z, y, x) float
        Edges of a voxel.
    tiling : Tiling, optional
        Boxes to measure in; one that holds the volume by default.

    Returns
    -------
    (tiles along z, y, x) float64
        Areas in the squared unit of `voxel_size`; their sum is that of the whole up to rounding.

    Raises
    ------
    InputError
        `phases` is not a 3-D uint8 volume.
    ParameterError
        `sigma_voxels` is below 0.5, or the memory does not hold one layer of cells and the gaussian's reach.

    Source: Lorensen and Cline (1987), DOI 10.1145/37402.37422. Where a cell's face is ambiguous, corners of the phase
    are kept apart, as 6-connectivity does.
    """
    require_phases(phases)
    if sigma_voxels < _MINIMUM_SIGMA_VOXELS:
        raise ParameterError(f"surface: sigma is {sigma_voxels} voxels; take at least {_MINIMUM_SIGMA_VOXELS}")
    weights = _gaussian(sigma_voxels)
    # To second order a gaussian moves a level by half its variance times the curvature, and half the variance times the
    # Laplacian moves it back. Facets lie inside of a curved surface: what more is subtracted was found on spheres.
    sharpening = 0.5 * sigma_voxels**2 + _FACET_SHARPENING
    margin = weights.size  # the gaussian's reach and a voxel for the Laplacian
    slices, rows, columns = phases.shape
    layer_tiles, row_tiles, column_tiles = cell_tiles(phases.shape, tiling)
    areas = np.zeros((1, 1, 1) if tiling is None else tiling.shape)
    edges, polygons, size = np.array(_EDGES, np.int64), _polygons(), np.array(voxel_size, np.float64)
    threads = min(numba.get_num_threads(), math.ceil((rows + 1) / _BAND_ROWS))
    scratch = threads * (2 * weights.size + 10) * (_BAND_ROWS + 3) * (columns + 2) * 8
    # A padded block exists twice while it is filled.
    bytes_per_voxel = 2 + math.ceil(8 * areas.shape[2] / columns)
    held = 2 * margin + 1 + math.ceil(scratch / (rows * columns * bytes_per_voxel))
    # Cell layer i lies between slices i - 1 and i.
    for start, stop in blocks_within((slices + 1, rows, columns), bytes_per_voxel, held, memory_bytes):
        block = read_padded(phases, start - 1 - margin, stop + margin)
        row_areas = _mask_areas(
            block, np.uint8(phase), weights, sharpening, size, column_tiles, areas.shape[2], edges, polygons
        )
        _add_rows(row_areas, layer_tiles[start:stop], row_tiles, areas)
        report(progress, stop / (slices + 1))
    return areas


def level_set_areas(
    grey: VolumeLike,
    low: float | None,
    high: float | None,
    phases: VolumeLike,
    memory_bytes: int,
    progress: Progress | None = None,
    *,
    voxel_size: tuple[float, float, float] = (1.0, 1.0, 1.0),
    tiling: Tiling | None = None,
) -> NDArray[np.float64]:
    """Area of the surface that encloses the grey values between two thresholds, inside the sample region, by tile.

    Marching cubes on the grey values themselves, which tell where between two voxels the interface lies; so no smoothing
    is needed where the noise is far below the contrast, and none is done. Region, outline and cut faces are dealt with
    as in `interface_areas`; so is a voxel whose grey value is not finite. For a phase between two others the thin layer
    counts in which the grey values pass through the phase's range.

    Parameters
    ----------
    grey : volume-like (z, y, x) float32
        Grey values, or the probability of a phase with `low` = 0.5.
    low, high : float or None
        The phase is `low` < grey <= `high`; None where there is no bound. Without any there is no surface.
    phases : volume-like (z, y, x) uint8
        0 outside the sample region; nothing else is read from it.
    memory_bytes : int
        Memory that the pass may take; the result does not depend on it.
    progress : callable, optional
        Called with the part done.
    voxel_size : (z, y, x) float
        Edges of a voxel.
    tiling : Tiling, optional
        Boxes to measure in; one that holds the volume by default.

    Returns
    -------
    (tiles along z, y, x) float64
        Areas in the squared unit of `voxel_size`.

    Raises
    ------
    InputError
        `phases` is not a 3-D uint8 volume, or `grey` is not float32 of its shape.
    ParameterError
        `low` is not below `high`, or the memory does not hold one layer of cells.

    Source: Lorensen and Cline (1987), DOI 10.1145/37402.37422.
    """
    require_phases(phases)
    if tuple(grey.shape) != tuple(phases.shape) or np.dtype(grey.dtype) != np.float32:
        raise InputError(
            f"grey values: found shape {tuple(grey.shape)} and type {grey.dtype}, "
            f"need float32 of the phases' shape {tuple(phases.shape)}"
        )
    bounds = (-math.inf if low is None else low, math.inf if high is None else high)
    if not bounds[0] < bounds[1]:
        raise ParameterError(f"surface: the thresholds are {low} and {high}; the first must be the lower one")
    slices, rows, columns = phases.shape
    layer_tiles, row_tiles, column_tiles = cell_tiles(phases.shape, tiling)
    areas = np.zeros((1, 1, 1) if tiling is None else tiling.shape)
    edges, polygons, size = np.array(_EDGES, np.int64), _polygons(), np.array(voxel_size, np.float64)
    threads = min(numba.get_num_threads(), math.ceil((rows + 1) / _BAND_ROWS))
    # Five bytes are read, and exist twice where a block has to be put in order.
    bytes_per_voxel = 10 + math.ceil(8 * areas.shape[2] / columns)
    held = 1 + math.ceil(threads * 10 * (_BAND_ROWS + 1) * (columns + 2) / (rows * columns * bytes_per_voxel))
    for start, stop in blocks_within((slices + 1, rows, columns), bytes_per_voxel, held, memory_bytes):
        first, last = max(start - 1, 0), min(stop, slices)
        values = np.ascontiguousarray(grey[first:last])
        inside = np.ascontiguousarray(phases[first:last])
        row_areas = _grey_areas(
            values,
            inside,
            np.array(bounds, np.float32),
            start - 1 - first,
            stop - start,
            size,
            column_tiles,
            areas.shape[2],
            edges,
            polygons,
        )
        _add_rows(row_areas, layer_tiles[start:stop], row_tiles, areas)
        report(progress, stop / (slices + 1))
    return areas


def _gaussian(sigma_voxels: float) -> NDArray[np.float32]:
    """One half of a normalised gaussian, the centre first."""
    reach = math.ceil(4 * sigma_voxels)
    half = np.exp(-0.5 * (np.arange(reach + 1) / sigma_voxels) ** 2)
    return np.asarray(half / (2 * half.sum() - half[0]), np.float32)


def _polygons() -> NDArray[np.int8]:
    """Polygons in which the level surface cuts a cell, for each of the 256 sets of corners above the level.

    Followed from face to face: on each face of the cell, cut edges are joined around the corners above the level.
    """
    table = np.zeros((256, _POLYGON_WORDS), np.int8)
    for configuration in range(256):
        joined: dict[int, list[int]] = {}
        for a, b in _face_segments(configuration):
            joined.setdefault(a, []).append(b)
            joined.setdefault(b, []).append(a)
        words: list[int] = []
        while joined:
            polygon = _take_loop(joined)
            words += [len(polygon), *polygon]
        table[configuration, : len(words)] = words
    return table


def _face_segments(configuration: int) -> Iterator[tuple[int, int]]:
    """Pairs of cut edges that a segment joins, over the six faces of a cell."""
    index = {frozenset(edge): number for number, edge in enumerate(_EDGES)}
    for normal in (1, 2, 4):
        u, v = (bit for bit in (1, 2, 4) if bit != normal)
        for side in (0, normal):
            ring = [side, side | u, side | u | v, side | v]
            above = [bool(configuration >> corner & 1) for corner in ring]
            # Edge i of the ring joins corners i and i + 1. A run of corners above the level lies between two cut edges.
            cut = [index[frozenset((ring[i], ring[(i + 1) % 4]))] for i in range(4)]
            for start in range(4):
                if above[start] and not above[start - 1]:
                    end = start
                    while above[(end + 1) % 4]:
                        end += 1
                    yield cut[start - 1], cut[end % 4]


def _take_loop(joined: dict[int, list[int]]) -> list[int]:
    """Remove one closed loop of edges from the graph and return it in order."""
    start = min(joined)
    loop = [start]
    while True:
        neighbours = joined.pop(loop[-1])
        onward = [edge for edge in neighbours if edge in joined]
        if not onward:
            return loop
        loop.append(onward[0])


@njit(cache=True, parallel=True)
def _mask_areas(
    block: NDArray[np.uint8],
    phase: np.uint8,
    weights: NDArray[np.float32],
    sharpening: float,
    size: NDArray[np.float64],
    column_tiles: NDArray[np.int64],
    tile_count: int,
    edges: NDArray[np.int64],
    polygons: NDArray[np.int8],
) -> NDArray[np.float64]:  # pragma: no cover - compiled
    """Area in each row of cells of a block with `weights.size` more slices at both ends, (layers, rows + 1, tiles x).

    Each row's values are the same whatever else is in the block.
    """
    rows = block.shape[1]
    areas = np.zeros((block.shape[0] - 2 * weights.size - 1, rows + 1, tile_count), np.float64)
    # Rows of cells start one before the volume.
    first_rows = np.arange(-1, rows, _BAND_ROWS)
    for band in prange(first_rows.size):
        _mask_band(block, int(first_rows[band]), phase, weights, sharpening, size, column_tiles, edges, polygons, areas)
    return areas


@njit(cache=True)
def _mask_band(
    block: NDArray[np.uint8],
    first: int,
    phase: np.uint8,
    weights: NDArray[np.float32],
    sharpening: float,
    size: NDArray[np.float64],
    column_tiles: NDArray[np.int64],
    edges: NDArray[np.int64],
    polygons: NDArray[np.int8],
    areas: NDArray[np.float64],
) -> None:  # pragma: no cover - compiled
    """Fill in the areas of a band of rows of cells, from the one behind voxel row `first` on."""
    reach = weights.size - 1
    window = 2 * reach + 1
    rows, columns = block.shape[1], block.shape[2]
    edge_weights = _edge_weights(columns, weights)
    # Cells need the voxel rows on both sides, and those one more for their Laplacian.
    count = min(_BAND_ROWS, rows - first)
    signs = np.empty((window, count + 3, columns), np.float32)
    shares = np.empty((window, count + 3, columns), np.float32)
    filled = np.empty(window, np.bool_)
    means = np.empty((3, count + 3, columns + 2), np.float32)
    field = np.empty((2, count + 1, columns + 2), np.float32)
    known = np.empty((2, count + 1, columns + 2), np.uint8)
    scratch = np.empty((2, count + 3 + 2 * reach, columns), np.float32)
    padded = np.zeros(columns + 2 * reach, np.float32)
    # A slice is smoothed in its plane, an earlier one across, its predecessor sharpened; then a layer of cells is there.
    for z in range(block.shape[0]):
        at = z % window
        filled[at] = _smooth_in_plane(
            block[z], phase, weights, edge_weights, first - 1, padded, scratch, signs[at], shares[at]
        )
        middle = z - reach
        if middle < reach:
            continue
        _smooth_across(
            signs, shares, filled, weights, edge_weights, middle, block[middle], first - 1, scratch[0], means
        )
        if middle < reach + 2:
            continue
        _sharpen(means, middle - 1, sharpening, field[middle % 2], known[middle % 2])
        layer = middle - reach - 3
        if layer >= 0:
            _add_layer(field, known, middle % 2, size, column_tiles, edges, polygons, areas[layer], first + 1)


@njit(cache=True, parallel=True)
def _grey_areas(
    grey: NDArray[np.float32],
    inside: NDArray[np.uint8],
    bounds: NDArray[np.float32],
    start: int,
    layers: int,
    size: NDArray[np.float64],
    column_tiles: NDArray[np.int64],
    tile_count: int,
    edges: NDArray[np.int64],
    polygons: NDArray[np.int8],
) -> NDArray[np.float64]:  # pragma: no cover - compiled
    """Area in each row of `layers` layers of cells, (layers, rows + 1, tiles x); the first begins at slice `start`."""
    rows = grey.shape[1]
    areas = np.zeros((layers, rows + 1, tile_count), np.float64)
    # Rows of cells start one before the volume.
    first_rows = np.arange(-1, rows, _BAND_ROWS)
    for band in prange(first_rows.size):
        _grey_band(grey, inside, int(first_rows[band]), bounds, start, size, column_tiles, edges, polygons, areas)
    return areas


@njit(cache=True)
def _grey_band(
    grey: NDArray[np.float32],
    inside: NDArray[np.uint8],
    first: int,
    bounds: NDArray[np.float32],
    start: int,
    size: NDArray[np.float64],
    column_tiles: NDArray[np.int64],
    edges: NDArray[np.int64],
    polygons: NDArray[np.int8],
    areas: NDArray[np.float64],
) -> None:  # pragma: no cover - compiled
    """Fill in the areas of a band of rows of cells, from the one behind voxel row `first` on."""
    slices, rows, columns = grey.shape
    count = min(_BAND_ROWS, rows - first)
    unknown, infinite = np.float32(np.nan), np.float32(np.inf)
    low, high = bounds[0], bounds[1]
    field = np.empty((2, count + 1, columns + 2), np.float32)
    known = np.empty((2, count + 1, columns + 2), np.uint8)
    for i in range(areas.shape[0] + 1):
        z = start + i
        for row in range(count + 1):
            y = first + row
            values = field[i % 2, row]
            values[:] = unknown
            if 0 <= y < rows and 0 <= z < slices:
                greys, mask = grey[z, y], inside[z, y]
                for x in range(columns):
                    value = greys[x]
                    over, under = value - low, high - value
                    above = over if over < under else under
                    # A value that is not finite is not known, like one outside the region.
                    values[x + 1] = above if (mask[x] != 0) & (abs(value) < infinite) else unknown
            _compare(values, known[i % 2, row])
        if i > 0:
            _add_layer(field, known, i % 2, size, column_tiles, edges, polygons, areas[i - 1], first + 1)


@njit(cache=True)
def _add_rows(
    row_areas: NDArray[np.float64],
    layer_tiles: NDArray[np.int64],
    row_tiles: NDArray[np.int64],
    areas: NDArray[np.float64],
) -> None:  # pragma: no cover - compiled
    """Add rows to their tiles, one after the other as they lie in the volume, so that no cut changes a sum's bits."""
    for layer in range(row_areas.shape[0]):
        for row in range(row_areas.shape[1]):
            for tile in range(row_areas.shape[2]):
                areas[layer_tiles[layer], row_tiles[row], tile] += row_areas[layer, row, tile]


@njit(cache=True)
def _edge_weights(columns: int, weights: NDArray[np.float32]) -> NDArray[np.float32]:  # pragma: no cover - compiled
    """The part of the gaussian along a row that lies inside the volume."""
    reach = weights.size - 1
    padded = np.zeros(columns + 2 * reach, np.float32)
    padded[reach : reach + columns] = 1
    row = np.empty(columns, np.float32)
    _smooth_row(padded, weights, row)
    return row


@njit(cache=True)
def _smooth_in_plane(
    plane: NDArray[np.uint8],
    phase: np.uint8,
    weights: NDArray[np.float32],
    edge_weights: NDArray[np.float32],
    first: int,
    padded: NDArray[np.float32],
    scratch: NDArray[np.float32],
    signs: NDArray[np.float32],
    shares: NDArray[np.float32],
) -> bool:  # pragma: no cover - compiled
    """Smooth rows from `first` on of a slice along x and y: the phase at 1 and the rest at -1, and the region.

    Outside counts as neither: so the level 0 of the one is the level 0.5 of a gaussian normalised over the region, and
    their quotient is that normalised mean. Returns whether the region fills all that was smoothed but for the ends of
    the rows; then `shares` is left as it was.
    """
    rows, columns = plane.shape
    reach = weights.size - 1
    full = True
    for row in range(scratch.shape[1]):
        y = first - reach + row
        if y < 0 or y >= rows:
            scratch[:, row] = 0
            full = False
            continue
        line = plane[y]
        outside = 0
        for x in range(columns):
            inside = line[x] != 0
            padded[reach + x] = np.float32(1) if line[x] == phase else (np.float32(-1) if inside else np.float32(0))
            outside += not inside
        _smooth_row(padded, weights, scratch[0, row])
        if outside == 0:
            _copy(edge_weights, scratch[1, row])
        else:
            full = False
            for x in range(columns):
                padded[reach + x] = abs(padded[reach + x])
            _smooth_row(padded, weights, scratch[1, row])
    for row in range(signs.shape[0]):
        _smooth_rows(scratch[0], row + reach, weights, signs[row])
        if not full:
            _smooth_rows(scratch[1], row + reach, weights, shares[row])
    return full


@njit(cache=True, error_model="numpy")
def _smooth_across(
    signs: NDArray[np.float32],
    shares: NDArray[np.float32],
    filled: NDArray[np.bool_],
    weights: NDArray[np.float32],
    edge_weights: NDArray[np.float32],
    middle: int,
    plane: NDArray[np.uint8],
    first: int,
    scratch: NDArray[np.float32],
    means: NDArray[np.float32],
) -> None:  # pragma: no cover - compiled
    """Smooth along z around slice `middle` of a ring of slices: means over the region, NaN outside it."""
    window, count, columns = signs.shape
    full = filled.all()
    if not full:
        for z in range(window):
            if filled[z]:
                for row in range(count):
                    _copy(edge_weights, shares[z, row])
    for row in range(count):
        out = means[middle % 3, row]
        out[:] = np.nan
        y = first + row
        if y < 0 or y >= plane.shape[0]:
            continue
        mean, share, line = scratch[0], scratch[1], plane[y]
        _smooth_ring(signs, row, middle, weights, mean)
        if full:
            _copy(edge_weights, share)
        else:
            _smooth_ring(shares, row, middle, weights, share)
        for x in range(columns):
            out[x + 1] = mean[x] / share[x] if line[x] != 0 else np.float32(np.nan)


@njit(cache=True)
def _sharpen(
    means: NDArray[np.float32], z: int, amount: float, field: NDArray[np.float32], known: NDArray[np.uint8]
) -> None:  # pragma: no cover - compiled
    """Subtract the Laplacian at slice `z` of a ring of three; a neighbour outside the region has no part in it."""
    before, here, after = means[(z - 1) % 3], means[z % 3], means[(z + 1) % 3]
    strength = np.float32(amount)
    for row in range(field.shape[0]):
        out = field[row]
        middle, left, right = here[row + 1], here[row], here[row + 2]
        lower, upper = before[row + 1], after[row + 1]
        out[0] = out[-1] = np.nan
        for x in range(1, out.size - 1):
            value = middle[x]
            a, b, c = lower[x] - value, upper[x] - value, left[x] - value
            d, e, f = right[x] - value, middle[x - 1] - value, middle[x + 1] - value
            total = (a if a == a else np.float32(0)) + (b if b == b else np.float32(0))
            total += (c if c == c else np.float32(0)) + (d if d == d else np.float32(0))
            total += (e if e == e else np.float32(0)) + (f if f == f else np.float32(0))
            out[x] = value - strength * total
        _compare(out, known[row])


@njit(cache=True)
def _copy(values: NDArray[np.float32], out: NDArray[np.float32]) -> None:  # pragma: no cover - compiled
    # Assigning one array to another compiles ten times as long.
    for x in range(out.size):
        out[x] = values[x]


@njit(cache=True)
def _compare(values: NDArray[np.float32], states: NDArray[np.uint8]) -> None:  # pragma: no cover - compiled
    for x in range(values.size):
        states[x] = _ABOVE * (values[x] > 0) + _BELOW * (values[x] <= 0)


@njit(cache=True)
def _smooth_row(
    padded: NDArray[np.float32], weights: NDArray[np.float32], out: NDArray[np.float32]
) -> None:  # pragma: no cover - compiled
    reach = weights.size - 1
    for x in range(out.size):
        out[x] = weights[0] * padded[reach + x]
    for k in range(1, reach + 1):
        _add_weighed(out, weights[k], padded[reach - k :], padded[reach + k :])


@njit(cache=True)
def _smooth_rows(
    plane: NDArray[np.float32], row: int, weights: NDArray[np.float32], out: NDArray[np.float32]
) -> None:  # pragma: no cover - compiled
    for x in range(out.size):
        out[x] = weights[0] * plane[row, x]
    for k in range(1, weights.size):
        _add_weighed(out, weights[k], plane[row - k], plane[row + k])


@njit(cache=True)
def _smooth_ring(
    ring: NDArray[np.float32], row: int, middle: int, weights: NDArray[np.float32], out: NDArray[np.float32]
) -> None:  # pragma: no cover - compiled
    window = ring.shape[0]
    for x in range(out.size):
        out[x] = weights[0] * ring[middle % window, row, x]
    for k in range(1, weights.size):
        _add_weighed(out, weights[k], ring[(middle - k) % window, row], ring[(middle + k) % window, row])


@njit(cache=True)
def _add_weighed(
    out: NDArray[np.float32], weight: float, before: NDArray[np.float32], after: NDArray[np.float32]
) -> None:  # pragma: no cover - compiled
    for x in range(out.size):
        out[x] += weight * (before[x] + after[x])


@njit(cache=True)
def _add_layer(
    field: NDArray[np.float32],
    known: NDArray[np.uint8],
    latest: int,
    size: NDArray[np.float64],
    column_tiles: NDArray[np.int64],
    edges: NDArray[np.int64],
    polygons: NDArray[np.int8],
    areas: NDArray[np.float64],
    first: int,
) -> None:  # pragma: no cover - compiled
    """Add the areas of the cells between two slices of a field, the `latest` the upper one, to (rows, tiles x)."""
    lower, upper = field[1 - latest], field[latest]
    below, above = known[1 - latest], known[latest]
    columns = lower.shape[1] - 1
    corner = np.empty(8, np.float64)
    points = np.empty((12, 3), np.float64)
    states = np.empty(columns + 1, np.uint8)
    for row in range(lower.shape[0] - 1):
        for x in range(columns + 1):
            states[x] = below[row, x] | below[row + 1, x] | above[row, x] | above[row + 1, x]
        for x in range(columns):
            if states[x] | states[x + 1] != _BELOW | _ABOVE:
                continue
            for dy in range(2):
                for dx in range(2):
                    corner[2 * dy + dx] = lower[row + dy, x + dx]
                    corner[4 + 2 * dy + dx] = upper[row + dy, x + dx]
            configuration, inside = _corner_states(corner)
            if inside < 8:
                configuration = _fill_corners(corner)
            area = _cell_area(corner, polygons[configuration], edges, points, size)
            areas[first + row, column_tiles[x]] += 0.125 * inside * area


@njit(cache=True)
def _corner_states(corner: NDArray[np.float64]) -> tuple[int, int]:  # pragma: no cover - compiled
    """Which corners lie above the level, and how many are known."""
    configuration, inside = 0, 0
    for c in range(8):
        configuration |= (corner[c] > 0) << c
        inside += corner[c] == corner[c]
    return configuration, inside


@njit(cache=True)
def _fill_corners(corner: NDArray[np.float64]) -> int:  # pragma: no cover - compiled
    """Give corners that are not known the mean of the nearest known ones; returns which corners lie above the level."""
    known = corner == corner
    for c in range(8):
        for distance in range(1, 4):
            if known[c]:
                break
            total, count = 0.0, 0
            for other in range(8):
                differ = c ^ other
                if known[other] and (differ & 1) + (differ >> 1 & 1) + (differ >> 2) == distance:
                    total += corner[other]
                    count += 1
            if count > 0:
                corner[c] = total / count
                break
    return _corner_states(corner)[0]


@njit(cache=True)
def _cell_area(
    corner: NDArray[np.float64],
    words: NDArray[np.int8],
    edges: NDArray[np.int64],
    points: NDArray[np.float64],
    size: NDArray[np.float64],
) -> float:  # pragma: no cover - compiled
    """Area of the level surface in one cell; `points` is scratch."""
    area = 0.0
    at = 0
    while words[at] != 0:
        count = words[at]
        for i in range(count):
            a, b = edges[words[at + 1 + i], 0], edges[words[at + 1 + i], 1]
            # Exactly one end lies above 0, so the difference is not 0.
            t = corner[a] / (corner[a] - corner[b])
            points[i, 0] = (a >> 2 & 1) + t * (b - a == 4)
            points[i, 1] = (a >> 1 & 1) + t * (b - a == 2)
            points[i, 2] = (a & 1) + t * (b - a == 1)
        # The vector area does not see how a polygon bends within its cell: that is mostly what is left of the steps.
        z, y, x = 0.0, 0.0, 0.0
        for i in range(2, count):
            az, ay, ax = (
                points[i - 1, 0] - points[0, 0],
                points[i - 1, 1] - points[0, 1],
                points[i - 1, 2] - points[0, 2],
            )
            bz, by, bx = points[i, 0] - points[0, 0], points[i, 1] - points[0, 1], points[i, 2] - points[0, 2]
            z += ay * bx - ax * by
            y += ax * bz - az * bx
            x += az * by - ay * bz
        z, y, x = z * size[1] * size[2], y * size[0] * size[2], x * size[0] * size[1]
        area += 0.5 * math.sqrt(z * z + y * y + x * x)
        at += count + 1
    return area
