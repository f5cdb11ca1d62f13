"""Nonuniform Fourier transforms between slices and the spectra of their projections, 16 slices at a time.

Type 1 sums the spectra's samples at every pixel, type 2 sums the pixels at every sample; each is the other's transpose.
Both go through an oversampled grid and the exponential-of-semicircle kernel (Barnett, Magland & af Klinteberg 2019, SIAM J.
Sci. Comput. 41, C479, DOI 10.1137/18M120885X). A slice is real, so half of the plane is kept, and lanes never mix.

Projections, filters and rotation axes are `fourier`'s; a sample here is a number at a place of the frequency plane.
"""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from .lane_fft import ELEMENT, fast_length, half_to_packed, make_plan, packed_to_half, real_roots, transform
from .lane_vectors import LANES, aligned_empty, load, spread, store, transpose
from .threads import run_in_threads, thread_count

OVERSAMPLING = 1.5  # grid width in slice widths
KERNEL_WIDTH = 5  # grid cells
MARGIN = KERNEL_WIDTH // 2 + 1  # grid cells by which a kernel reaches over the grid's edge
TABLE_STEPS = 512  # a grid cell; between them the kernel is interpolated linearly (error below 1e-5)
TILE = 32  # grid cells
BLOCK = 8  # columns of a slice whose elements lie together between the two transforms
BANDS_BYTES = 2**23  # of the grid that are filled and transformed at a time
ROWS_A_TASK = 4
COLUMNS_A_TASK = 16

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


class Spares:
    """Arrays of one shape, lent to tasks in turn: fresh memory costs more than the work that is done in it."""

    def __init__(self, *shape: int) -> None:
        self._shape = shape
        self._free: list[Floats] = []

    def take(self) -> Floats:
        """An array, of any content; give it back with `give`."""
        try:
            return self._free.pop()  # atomic, unlike a look before it
        except IndexError:
            return aligned_empty(*self._shape)

    def give(self, array: Floats) -> None:
        """Take an array back."""
        self._free.append(array)


class SliceTransform:
    """Both transforms for the lines of one set of angles.

    Sample k of a line stands at frequency k * (step_u, step_v) grid cells, step_v >= 0 (a line below is the conjugate of
    the one above). Sample (angle, k) is element ``angle * samples + k`` of the array of spectra: `ELEMENT` float32, the
    lanes' real parts and then their imaginary parts. Pixel (x, y) of a slice of n is (x - n // 2, n - 1 - y - n // 2)
    from the transform's origin: for even n that is half a pixel off the slice's centre, which is the caller's phase.

    Parameters
    ----------
    step_u, step_v : (angles,) float64, grid cells
    samples : samples on a line, frequency 0 and the Nyquist frequency included
    columns : width n of a slice
    circle : (n, 2) int64, see `direct.circle_columns`
    """

    def __init__(self, step_u: Doubles, step_v: Doubles, samples: int, columns: int, circle: Integers) -> None:
        self.columns, self.samples, self.angles = columns, samples, step_u.size
        self.grid = grid_width(columns)
        self._step_u, self._step_v = step_u, step_v
        self._circle = circle
        self._table = _kernel_table()
        self._taper = _taper(columns, self.grid)
        self._rows = make_plan(self.grid)
        self._half = make_plan(self.grid // 2)
        self._roots = real_roots(self.grid)
        self._height = self.grid // 2 + 1  # rows of the half plane
        self._blocks = -(-columns // BLOCK)
        self._tile_rows = -(-self._height // TILE)
        self._tile_columns = -(-(self.grid + 2 * MARGIN) // TILE)
        self._segments = _find_segments(step_u, step_v, samples, self.grid, self._tile_rows, self._tile_columns)
        self._tiles = Spares((TILE + 2 * KERNEL_WIDTH) ** 2 * ELEMENT)
        self._row_lines = Spares(2, self.grid * ELEMENT)
        self._column_lines = Spares(2, self.grid // 2 * ELEMENT)
        self._pixels = Spares(columns * COLUMNS_A_TASK * LANES)
        self._lines = Spares(self._blocks, self._height, BLOCK * ELEMENT)
        self._grids = Spares(self._height + 2 * MARGIN, self.grid + 2 * MARGIN, ELEMENT)
        self._bands = Spares(TILE * bands_at_once(self.grid), self.grid + 2 * MARGIN, ELEMENT)

    def samples_to_slices(self, spectra: Floats, slices: Floats) -> None:
        """Type 1: sum the samples and their conjugates at every pixel inside the circle; the rest becomes 0.

        Parameters
        ----------
        spectra : (angles * samples * ELEMENT,) float32
        slices : (rows <= LANES, n, n) float32, overwritten
        """
        lines = self._sums_to_lines(spectra)
        self._transform_columns(lines, slices)
        self._lines.give(lines)

    def _sums_to_lines(self, spectra: Floats) -> Floats:
        lines = self._lines.take()
        band = self._bands.take()
        at_once = band.shape[0] // TILE
        for first in range(0, self._tile_rows, at_once):
            count = min(at_once, self._tile_rows - first)
            self._spread(spectra, first, count, band)
            self._transform_rows(band, first * TILE, min(count * TILE, self._height - first * TILE), lines)
        self._bands.give(band)
        return lines

    def samples_to_pixels(self, spectra: Floats, pixels: Floats) -> None:
        """The same, into pixels of all lanes: (n, n, LANES) float32, overwritten."""
        lines = self._sums_to_lines(spectra)
        source, target = lines.reshape(-1), pixels.reshape(-1)

        def task(index: int) -> None:
            line = self._column_lines.take()
            first = index * COLUMNS_A_TASK
            _lines_to_pixels(
                source, first, min(first + COLUMNS_A_TASK, self.columns), self.grid,
                self._half.radices, self._half.twiddles, self._roots, line[0], line[1],
                self._taper, self._circle, target, self.columns * LANES, 0,
            )  # fmt: skip
            self._column_lines.give(line)

        run_in_threads(task, -(-self.columns // COLUMNS_A_TASK))
        self._lines.give(lines)

    def pixels_to_samples(
        self, pixels: Floats, gains: Floats, shifts: Doubles, signs: Doubles, spectra: Floats
    ) -> None:
        """Type 2: sum the pixels inside the circle at every sample.

        Parameters
        ----------
        pixels : (n, n, LANES) float32
        gains : (samples * ELEMENT,) float32
            The samples are multiplied by their conjugates,
        shifts : (angles,) float64, radians
            by exp(-i k shift),
        signs : (angles,) float64
            and where this is -1 the pixels' sums are conjugated before.
        spectra : (angles * samples * ELEMENT,) float32, overwritten
        """
        lines = self._lines.take()
        self._pixels_to_lines(pixels, lines)
        grid = self._grids.take()
        self._lines_to_rows(lines, grid)
        self._lines.give(lines)
        cells = grid.reshape(-1)
        _mirror_rows(cells, self.grid)

        def task(index: int) -> None:
            tile_row, tile_column = divmod(index, self._tile_columns)
            _gather_from_tile(
                cells, self._step_u, self._step_v, self.samples, self._segments[index], self._table, self.grid,
                tile_row * TILE, tile_column * TILE - self.grid // 2 - MARGIN,
                np.empty(2 * LANES, dtype=np.float32), gains, shifts, signs, spectra,
            )  # fmt: skip

        run_in_threads(task, self._tile_rows * self._tile_columns)
        self._grids.give(grid)

    def _pixels_to_lines(self, pixels: Floats, lines: Floats) -> None:
        source, target = pixels.reshape(-1), lines.reshape(-1)

        def task(index: int) -> None:
            line = self._column_lines.take()
            first = index * COLUMNS_A_TASK
            _pixels_to_lines(
                source, first, min(first + COLUMNS_A_TASK, self.columns), self.grid,
                self._half.radices, self._half.twiddles, self._roots, line[0], line[1],
                self._taper, self._circle, target,
            )  # fmt: skip
            self._column_lines.give(line)

        run_in_threads(task, -(-self.columns // COLUMNS_A_TASK))

    def _lines_to_rows(self, lines: Floats, grid: Floats) -> None:
        source, target = lines.reshape(-1), grid.reshape(-1)

        def task(index: int) -> None:
            line = self._row_lines.take()
            first = index * ROWS_A_TASK
            _lines_to_rows(
                source, first, min(first + ROWS_A_TASK, self._height), self.grid, self.columns,
                self._rows.radices, self._rows.twiddles, line[0], line[1], self._height, target,
            )  # fmt: skip
            self._row_lines.give(line)

        run_in_threads(task, -(-self._height // ROWS_A_TASK))

    @staticmethod
    def workspace_bytes(angles: int, samples: int, columns: int) -> int:
        """Memory that `samples_to_slices` takes with the present threads, spectra and slices not counted."""
        width = grid_width(columns)
        height = width // 2 + 1
        tile_rows, tile_columns = -(-height // TILE), -(-(width + 2 * MARGIN) // TILE)
        elements = -(-columns // BLOCK) * BLOCK * height
        elements += TILE * bands_at_once(width) * (width + 2 * MARGIN)
        a_thread = (TILE + 2 * KERNEL_WIDTH) ** 2 + 3 * width + columns * COLUMNS_A_TASK // 2
        segments = angles * 2 * (tile_rows + tile_columns) * 16
        return (elements + thread_count() * a_thread) * ELEMENT * 4 + segments

    def _spread(self, spectra: Floats, first: int, count: int, band: Floats) -> None:
        cells = band.reshape(-1)

        def task(index: int) -> None:
            tile = self._tiles.take()
            tile_row, tile_column = divmod(index, self._tile_columns)
            _spread_to_tile(
                spectra,
                self._step_u,
                self._step_v,
                self.samples,
                self._segments[first * self._tile_columns + index],
                self._table,
                self.grid,
                (first + tile_row) * TILE,
                tile_column * TILE - self.grid // 2 - MARGIN,
                np.empty(2 * LANES, dtype=np.float32),
                tile,
                cells,
                tile_row * TILE,
            )
            self._tiles.give(tile)

        run_in_threads(task, count * self._tile_columns)

    def _transform_rows(self, band: Floats, first_row: int, rows: int, lines: Floats) -> None:
        cells, target = band.reshape(-1), lines.reshape(-1)

        def task(index: int) -> None:
            line = self._row_lines.take()
            first = index * ROWS_A_TASK
            last = min(first + ROWS_A_TASK, rows)
            _rows_to_lines(
                cells, first, last, first_row, self.grid, self.columns, self._rows.radices, self._rows.twiddles,
                line[0], line[1], self._height, target,
            )  # fmt: skip
            self._row_lines.give(line)

        run_in_threads(task, -(-rows // ROWS_A_TASK))

    def _transform_columns(self, lines: Floats, slices: Floats) -> None:
        source = lines.reshape(-1)

        def task(index: int) -> None:
            line = self._column_lines.take()
            first = index * COLUMNS_A_TASK
            last = min(first + COLUMNS_A_TASK, self.columns)
            pixels = self._pixels.take()
            _lines_to_pixels(
                source, first, last, self.grid, self._half.radices, self._half.twiddles, self._roots,
                line[0], line[1], self._taper, self._circle, pixels, COLUMNS_A_TASK * LANES, first
            )  # fmt: skip
            _store_pixels(pixels, first, last, slices)
            self._pixels.give(pixels)
            self._column_lines.give(line)

        run_in_threads(task, -(-self.columns // COLUMNS_A_TASK))


def bands_at_once(width: int) -> int:
    """Rows of tiles that are filled together: enough tiles for all threads, and few enough to stay in a cache."""
    bands = -(-(width // 2 + 1) // TILE)
    band_bytes = TILE * (width + 2 * MARGIN) * ELEMENT * 4
    return min(bands, max(1, thread_count() // 8, BANDS_BYTES // band_bytes))


def grid_width(columns: int) -> int:
    """Width of the oversampled grid for slices of `columns` pixels: quick to transform, as is its half."""
    return 2 * fast_length(max(math.ceil(OVERSAMPLING * columns / 2), 4 * MARGIN), multiple=4)


def _kernel(distance: Doubles) -> Doubles:
    """Exponential of semicircle at a distance in grid cells."""
    beta = 0.95 * math.pi * KERNEL_WIDTH * (1 - 1 / (2 * OVERSAMPLING))
    semicircle = np.sqrt(np.maximum(0.0, 1 - (2 * distance / KERNEL_WIDTH) ** 2))
    # Nothing at its very ends: a sample there reaches one cell fewer on one side, its conjugate on the other.
    return np.where(np.abs(distance) < KERNEL_WIDTH / 2, np.exp(beta * (semicircle - 1)), 0.0)


def _kernel_table() -> Floats:
    """Weights of the cells that a sample reaches, by how far the first lies above the kernel's lower end.

    Rows of LANES numbers, so that all weights are one vector; what is beyond the kernel is 0.
    """
    above = np.arange(TABLE_STEPS + 2) / TABLE_STEPS
    table = aligned_empty(above.size, LANES)
    table[:] = _kernel(above[:, None] + np.arange(LANES) - KERNEL_WIDTH / 2)
    return table.reshape(-1)


def _find_segments(
    step_u: Doubles, step_v: Doubles, samples: int, width: int, tile_rows: int, tile_columns: int
) -> list[npt.NDArray[np.int32]]:
    """The parts of the lines that reach each tile: for each tile (segments, 4): angle, image, first sample, last + 1.

    Image 0 is the samples themselves; 1 their conjugates across the origin, where the tile touches frequency 0; 2 those
    one grid width above, where it touches the Nyquist frequency.
    """
    half = KERNEL_WIDTH / 2
    low_u = np.arange(tile_columns)[:, None] * TILE - width // 2 - MARGIN
    segments = []
    for low_v in range(0, tile_rows * TILE, TILE):
        parts = []
        for image in range(3):
            if (image == 1 and low_v > half) or (image == 2 and low_v + TILE - 1 + half < width // 2):
                continue
            sign, shift = (-1 if image else 1), (width if image == 2 else 0)
            from_u, to_u = _range_between(sign * step_u, low_u - half, low_u + TILE - 1 + half)
            from_v, to_v = _range_between(sign * step_v, low_v - shift - half, low_v - shift + TILE - 1 + half)
            first = np.maximum(0, np.ceil(np.maximum(from_u, from_v)))
            last = np.minimum(samples - 1, np.floor(np.minimum(to_u, to_v)))
            tile, angle = np.nonzero(first <= last)
            ends = first[tile, angle], last[tile, angle] + 1
            parts.append(np.stack([tile, angle, np.full(tile.size, image), *ends], axis=1).astype(np.int32))
        rows = np.concatenate(parts)
        rows = rows[np.argsort(rows[:, 0], kind="stable")]
        bounds = np.searchsorted(rows[:, 0], np.arange(tile_columns + 1))
        table = np.ascontiguousarray(rows[:, 1:])
        segments += [table[a:b] for a, b in pairwise(bounds)]
    return segments


def _range_between(step: Doubles, low: Any, high: Any) -> tuple[Doubles, Doubles]:
    """The range of k with low <= k * step <= high."""
    # A step of nothing is made the least one that keeps the quotients finite: all or none of the samples.
    step = np.where(np.abs(step) < 1e-12, 1e-12, step)
    a, b = low / step, high / step
    return np.minimum(a, b), np.maximum(a, b)


def _taper(columns: int, width: int) -> Floats:
    """1 / Fourier transform of the kernel at each pixel."""
    nodes, weights = np.polynomial.legendre.leggauss(64)
    pixels = np.arange(columns) - columns // 2
    distance = nodes * KERNEL_WIDTH / 2
    wave = np.cos(2 * np.pi / width * np.outer(pixels, distance))
    return (1 / (wave @ (_kernel(distance) * weights * KERNEL_WIDTH / 2))).astype(np.float32)


def compiled_before() -> bool:
    """Whether the kernels of this installation were compiled before: numba keeps them where `NUMBA_CACHE_DIR` says, else beside
    this file."""
    folder, line = _store_pixels.stats.cache_path, _store_pixels.py_func.__code__.co_firstlineno
    name = f"{__name__.rpartition('.')[2]}._store_pixels-{line}.*.nbi"
    return folder is not None and any(Path(folder).glob(name))


@njit(cache=True, nogil=True, error_model="numpy")
def _spread_to_tile(
    spectra: Floats,
    step_u: Doubles,
    step_v: Doubles,
    samples: int,
    segments: npt.NDArray[np.int32],
    table: Floats,
    width: int,
    low_v: int,
    low_u: int,
    weights: Floats,
    tile: Floats,
    cells: Floats,
    first_row: int,
) -> None:
    """All that the samples of `segments` give to one tile of the grid, in their order: no two tiles write one cell.

    The tile's first cell has frequency (low_u, low_v). `weights` (2 LANES) and `tile` are workspace; the tile has a border
    that takes what belongs to the neighbours, so that no sample needs a check of bounds. `cells` holds rows of
    width + 2 MARGIN elements, u from -width / 2 - MARGIN on; the tile's first row goes to its row `first_row`.
    """
    side = TILE + 2 * KERNEL_WIDTH
    half = KERNEL_WIDTH / 2
    nothing = spread(np.float32(0))
    for at in range(0, tile.size, LANES):
        store(tile, at, nothing)
    for segment in range(segments.shape[0]):
        angle, image = segments[segment, 0], segments[segment, 1]
        sign, shift = (1.0, 0.0) if image == 0 else (-1.0, float(width) if image == 2 else 0.0)
        du, dv = sign * step_u[angle], sign * step_v[angle]
        for k in range(segments[segment, 2], segments[segment, 3]):
            u, v = k * du - half, k * dv + shift - half
            cell_u, cell_v = math.ceil(u), math.ceil(v)
            _kernel_weights(table, (cell_u - u) * TABLE_STEPS, weights, 0)
            _kernel_weights(table, (cell_v - v) * TABLE_STEPS, weights, LANES)
            sample = (angle * samples + k) * ELEMENT
            real = load(spectra, sample)
            imaginary = load(spectra, sample + LANES) * np.float32(sign)
            row = ((cell_v - low_v + KERNEL_WIDTH) * side + cell_u - low_u + KERNEL_WIDTH) * ELEMENT
            # Held in registers: LLVM cannot know that the stores below leave them alone.
            w0, w1, w2 = spread(weights[0]), spread(weights[1]), spread(weights[2])
            w3, w4 = spread(weights[3]), spread(weights[4])
            for i in range(KERNEL_WIDTH):
                weight = weights[LANES + i]
                r, m = real * weight, imaginary * weight
                at = row + i * side * ELEMENT
                _add_to_cell(tile, at, r, m, w0)
                _add_to_cell(tile, at + ELEMENT, r, m, w1)
                _add_to_cell(tile, at + 2 * ELEMENT, r, m, w2)
                _add_to_cell(tile, at + 3 * ELEMENT, r, m, w3)
                _add_to_cell(tile, at + 4 * ELEMENT, r, m, w4)
    line = width + 2 * MARGIN
    first_column = low_u + width // 2 + MARGIN
    rows, columns = min(TILE, width // 2 + 1 - low_v), min(TILE, line - first_column)
    for row in range(rows):
        source = ((row + KERNEL_WIDTH) * side + KERNEL_WIDTH) * ELEMENT
        target = ((first_row + row) * line + first_column) * ELEMENT
        for at in range(0, columns * ELEMENT, LANES):
            store(cells, target + at, load(tile, source + at))


@njit(cache=True, nogil=True, error_model="numpy")
def _add_to_cell(tile, at, real, imaginary, weight):  # type: ignore[no-untyped-def]
    store(tile, at, load(tile, at) + real * weight)
    store(tile, at + LANES, load(tile, at + LANES) + imaginary * weight)


@njit(cache=True, nogil=True, error_model="numpy")
def _kernel_weights(table: Floats, position: float, weights: Floats, to: int) -> None:
    step = int(position)
    low = load(table, step * LANES)
    store(weights, to, low + (load(table, (step + 1) * LANES) - low) * np.float32(position - step))


@njit(cache=True, nogil=True, error_model="numpy")
def _rows_to_lines(
    cells: Floats,
    first: int,
    last: int,
    first_row: int,
    width: int,
    columns: int,
    radices: Integers,
    twiddles: Floats,
    line: Floats,
    copy: Floats,
    height: int,
    lines: Floats,
) -> None:
    """Fold the margins of rows of the grid, transform along u, keep the slice's columns.

    Row `first` of `cells` has frequency v = first_row + first. `lines` is (blocks, height, BLOCK) elements.
    """
    half = width // 2
    stride = width + 2 * MARGIN
    for row in range(first, last):
        start = row * stride * ELEMENT
        for u in range(-half, half):
            source = start + (u + half + MARGIN) * ELEMENT
            real, imaginary = load(cells, source), load(cells, source + LANES)
            if u < MARGIN - half or u >= half - MARGIN:
                other = source + (width if u < 0 else -width) * ELEMENT
                real, imaginary = real + load(cells, other), imaginary + load(cells, other + LANES)
            target = (u if u >= 0 else u + width) * ELEMENT
            # Exchanged: the transform is then the inverse one.
            store(line, target, imaginary)
            store(line, target + LANES, real)
        result = copy if transform(line, copy, radices, twiddles) else line
        for x in range(columns):
            offset = x - columns // 2
            source = (offset if offset >= 0 else offset + width) * ELEMENT
            target = (((x // BLOCK) * height + first_row + row) * BLOCK + x % BLOCK) * ELEMENT
            store(lines, target, load(result, source + LANES))
            store(lines, target + LANES, load(result, source))


@njit(cache=True, nogil=True, error_model="numpy")
def _lines_to_pixels(
    lines: Floats,
    first: int,
    last: int,
    width: int,
    radices: Integers,
    twiddles: Floats,
    roots: Floats,
    line: Floats,
    copy: Floats,
    taper: Floats,
    circle: Integers,
    pixels: Floats,
    row_step: int,
    zero_column: int,
) -> None:
    """Transform along v, undo the kernel's taper and clear what lies outside the circle.

    Pixel (row, x) goes to ``pixels[row * row_step + (x - zero_column) * LANES]``.
    """
    n = circle.shape[0]
    height = width // 2 + 1
    nothing = spread(np.float32(0))
    for x in range(first, last):
        at = ((x // BLOCK) * height * BLOCK + x % BLOCK) * ELEMENT
        half_to_packed(lines, at, BLOCK * ELEMENT, line, roots)
        result = copy if transform(line, copy, radices, twiddles) else line
        for row in range(n):
            target = row * row_step + (x - zero_column) * LANES
            if circle[row, 0] <= x < circle[row, 1]:
                up = n - 1 - row
                y = up - n // 2
                if y < 0:
                    y += width
                # sample y of the real line
                source = (y // 2) * ELEMENT + (LANES if y % 2 == 0 else 0)
                store(pixels, target, load(result, source) * (taper[up] * taper[x]))
            else:
                store(pixels, target, nothing)


@njit(cache=True, nogil=True, error_model="numpy")
def _store_pixels(pixels: Floats, first: int, last: int, slices: Floats) -> None:
    """(n, COLUMNS_A_TASK, lanes) pixels, from column `first` on, to (rows, n, n) slices."""
    rows, n, _ = slices.shape
    whole = rows == LANES and last - first == LANES
    flat = slices.reshape(-1)
    for y in range(n):
        source = y * COLUMNS_A_TASK * LANES
        if whole:
            transpose(pixels, source, LANES, flat, y * n + first, n * n)
        else:
            for lane in range(rows):
                for x in range(last - first):
                    flat[(lane * n + y) * n + first + x] = pixels[source + x * LANES + lane]


@njit(cache=True, nogil=True, error_model="numpy")
def _pixels_to_lines(
    pixels: Floats,
    first: int,
    last: int,
    width: int,
    radices: Integers,
    twiddles: Floats,
    roots: Floats,
    line: Floats,
    copy: Floats,
    taper: Floats,
    circle: Integers,
    lines: Floats,
) -> None:
    """The transpose of `_lines_to_pixels`: pixels inside the circle, tapered, transformed along v."""
    n = circle.shape[0]
    height = width // 2 + 1
    nothing = spread(np.float32(0))
    for x in range(first, last):
        for at in range(0, line.size, LANES):
            store(line, at, nothing)
        for row in range(n):
            if circle[row, 0] <= x < circle[row, 1]:
                up = n - 1 - row
                y = up - n // 2
                if y < 0:
                    y += width
                store(line, y * LANES, load(pixels, (row * n + x) * LANES) * (taper[up] * taper[x]))
        packed = copy if transform(line, copy, radices, twiddles) else line
        at = ((x // BLOCK) * height * BLOCK + x % BLOCK) * ELEMENT
        packed_to_half(packed, lines, at, BLOCK * ELEMENT, roots)


@njit(cache=True, nogil=True, error_model="numpy")
def _lines_to_rows(
    lines: Floats,
    first: int,
    last: int,
    width: int,
    columns: int,
    radices: Integers,
    twiddles: Floats,
    line: Floats,
    copy: Floats,
    height: int,
    cells: Floats,
) -> None:
    """The transpose of `_rows_to_lines`, into rows first + MARGIN ... of the grid with margins."""
    stride = width + 2 * MARGIN
    nothing = spread(np.float32(0))
    for row in range(first, last):
        for at in range(0, line.size, LANES):
            store(line, at, nothing)
        for x in range(columns):
            offset = x - columns // 2
            target = (offset if offset >= 0 else offset + width) * ELEMENT
            source = (((x // BLOCK) * height + row) * BLOCK + x % BLOCK) * ELEMENT
            store(line, target, load(lines, source))
            store(line, target + LANES, load(lines, source + LANES))
        result = copy if transform(line, copy, radices, twiddles) else line
        for column in range(stride):
            source = (column + width - width // 2 - MARGIN) % width * ELEMENT
            target = ((row + MARGIN) * stride + column) * ELEMENT
            store(cells, target, load(result, source))
            store(cells, target + LANES, load(result, source + LANES))


@njit(cache=True, nogil=True, error_model="numpy")
def _mirror_rows(cells: Floats, width: int) -> None:
    """Fill the margins in v: the rows below frequency 0 and above the Nyquist frequency are conjugates of inner ones."""
    stride = width + 2 * MARGIN
    top = width // 2 + MARGIN
    for distance in range(1, MARGIN + 1):
        for column in range(stride):
            u = column - width // 2 - MARGIN
            mirror = width // 2 + MARGIN - u
            if mirror >= stride:
                mirror -= width
            for middle in (MARGIN, top):
                inner, outer = (distance, -distance) if middle == MARGIN else (-distance, distance)
                source = ((middle + inner) * stride + mirror) * ELEMENT
                target = ((middle + outer) * stride + column) * ELEMENT
                store(cells, target, load(cells, source))
                store(cells, target + LANES, load(cells, source + LANES) * np.float32(-1))


@njit(cache=True, nogil=True, error_model="numpy")
def _gather_from_tile(
    cells: Floats,
    step_u: Doubles,
    step_v: Doubles,
    samples: int,
    segments: npt.NDArray[np.int32],
    table: Floats,
    width: int,
    low_v: int,
    low_u: int,
    weights: Floats,
    gains: Floats,
    shifts: Doubles,
    signs: Doubles,
    spectra: Floats,
) -> None:
    """Interpolate the samples whose middle lies in one tile; see `SliceTransform.pixels_to_samples` for the factors."""
    half = KERNEL_WIDTH / 2
    stride = width + 2 * MARGIN
    for segment in range(segments.shape[0]):
        angle, image, first = segments[segment, 0], segments[segment, 1], segments[segment, 2]
        if image:
            continue
        du, dv, shift = step_u[angle], step_v[angle], shifts[angle]
        turn_r, turn_i = math.cos(shift), math.sin(shift)
        next_r, next_i = math.cos(first * shift), math.sin(first * shift)
        sign = np.float32(signs[angle])
        for k in range(first, segments[segment, 3]):
            phase_r, phase_i = np.float32(next_r), np.float32(next_i)
            next_r, next_i = next_r * turn_r - next_i * turn_i, next_r * turn_i + next_i * turn_r
            u, v = k * du - half, k * dv - half
            cell_u, cell_v = math.ceil(u), math.ceil(v)
            row, column = cell_v + KERNEL_WIDTH // 2 - low_v, cell_u + KERNEL_WIDTH // 2 - low_u
            if row < 0 or row >= TILE or column < 0 or column >= TILE:
                continue
            _kernel_weights(table, (cell_u - u) * TABLE_STEPS, weights, 0)
            _kernel_weights(table, (cell_v - v) * TABLE_STEPS, weights, LANES)
            real, imaginary = spread(np.float32(0)), spread(np.float32(0))
            start = ((cell_v + MARGIN) * stride + cell_u + width // 2 + MARGIN) * ELEMENT
            for i in range(KERNEL_WIDTH):
                r, m = spread(np.float32(0)), spread(np.float32(0))
                for j in range(KERNEL_WIDTH):
                    at = start + (i * stride + j) * ELEMENT
                    r = r + load(cells, at) * weights[j]
                    m = m + load(cells, at + LANES) * weights[j]
                real, imaginary = real + r * weights[LANES + i], imaginary + m * weights[LANES + i]
            imaginary = imaginary * sign
            # times the conjugates of the phase and of the gain
            r, m = real * phase_r + imaginary * phase_i, imaginary * phase_r - real * phase_i
            gr, gi = load(gains, k * ELEMENT), load(gains, k * ELEMENT + LANES)
            at = (angle * samples + k) * ELEMENT
            store(spectra, at, r * gr + m * gi)
            store(spectra, at + LANES, m * gr - r * gi)
