"""Reconstruction in Fourier space: projections are central lines of the slice's spectrum, gridded and transformed back.

Known as gridrec or fourierrec. Cost grows with angles * columns: the method for wide slices; `fbp` is the plain
alternative.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import scipy.fft
from numba import njit

from .direct import Center, Complexes, DirectReconstructor, Floats, fast_even_length, filtering_bytes, padded_length
from .threads import run_in_threads, thread_count

LANES = 8  # slices; with real and imaginary parts the 16 floats that LLVM needs to vectorise the innermost loop
OVERSAMPLING = 1.25  # grid width in slice widths
KERNEL_WIDTH = 6  # grid cells
KERNEL_BETA = 0.976 * math.pi * KERNEL_WIDTH * (1 - 1 / (2 * OVERSAMPLING))  # shape for this width and oversampling
MARGIN = KERNEL_WIDTH // 2  # grid cells by which a kernel reaches over the grid's edge
TABLE_STEPS = 512  # a grid cell; between them the kernel is interpolated linearly (error below 1e-5)
TILE = 32  # grid cells
GRID_ROWS_A_CHUNK = 8
IMAGE_COLUMNS_A_CHUNK = 16


class FourierGridding(DirectReconstructor):
    """Direct Fourier reconstruction by a type-1 nonuniform FFT; see `DirectReconstructor` for the parameters.

    The sum over all samples of the filtered spectra is evaluated at every pixel (no interpolation in the slice), to
    about 2e-4 of the slice's standard deviation, by spreading them with the exponential-of-semicircle kernel onto an
    oversampled grid (Barnett, Magland & af Klinteberg 2019, SIAM J. Sci. Comput. 41, C479, DOI 10.1137/18M120885X;
    for tomography: Dowd et al. 1999, DOI 10.1117/12.363725, gridrec). A slice is real, so half of the plane is kept,
    and one slice's numbers never mix with another's.
    """

    lanes: ClassVar[int] = LANES

    def __init__(
        self,
        theta_rad: npt.ArrayLike,
        columns: int,
        center: Center | None = None,
        *,
        filter_name: str = "ramp",
        padding: str = "edge",
    ) -> None:
        super().__init__(theta_rad, columns, center, filter_name=filter_name, padding=padding)
        self._grid = grid_width(columns)
        # A line at theta + pi is the conjugate of the line at theta: all lines lie in the half plane of positive sine.
        self._mirrored = np.sin(self._theta) < 0
        turn = np.where(self._mirrored, -1.0, 1.0)
        cells = self._grid / self._padded  # between neighbours on a line
        self._step_u, self._step_v = cells * turn * np.cos(self._theta), cells * turn * np.sin(self._theta)
        # Frequency 0 and the Nyquist frequency stand on both halves of a line.
        self._response[[0, -1]] /= 2
        self._response /= self._padded
        self._kernel_table = _kernel_table()
        # Pixel centres are half a pixel off the origin when the width is even: a phase on the grid.
        self._pixel_offset = 0.5 * (1 - columns % 2)
        self._phase = np.exp(
            2j * np.pi * self._pixel_offset / self._grid * np.arange(-self._grid // 2, self._grid // 2 + 1)
        )
        self._phase = self._phase.astype(np.complex64)
        self._deapodization = _deapodization(columns, self._grid, self._pixel_offset)

    @classmethod
    def workspace_bytes(cls, angles: int, columns: int) -> int:
        """See `DirectReconstructor.workspace_bytes`."""
        width = grid_width(columns)
        spectra = angles * (padded_length(columns) // 2 + 1)
        grid = (width // 2 + 1 + 2 * MARGIN) * (width + 1 + 2 * MARGIN)
        lines = (width // 2 + 1) * columns
        transforming = 2 * thread_count() * width * max(GRID_ROWS_A_CHUNK, IMAGE_COLUMNS_A_CHUNK)
        return (spectra + grid + lines + transforming) * LANES * 8 + filtering_bytes(columns, LANES)

    def _reconstruct(self, projections: Floats, centers: npt.NDArray[np.float64], slices: Floats) -> None:
        rows, n, _ = slices.shape
        shape = (self._theta.size, self._padded // 2 + 1, LANES)
        spectra = np.empty(shape, dtype=np.complex64)
        grid = np.empty((self._grid // 2 + 1 + 2 * MARGIN, self._grid + 1 + 2 * MARGIN, LANES), dtype=np.complex64)
        lines = np.empty((self._grid // 2 + 1, n, LANES), dtype=np.complex64)
        for first_row in range(0, rows, LANES):
            batch = slice(first_row, min(first_row + LANES, rows))
            self._fill_spectra(projections, batch, self._gains(centers[batch], 0.0), spectra)
            self._spread(spectra, grid)
            self._transform_rows(grid, lines)
            self._transform_columns(lines, slices[batch])

    def _fill_spectra(self, projections: Floats, batch: slice, gains: Complexes, spectra: Complexes) -> None:
        chunks = self._angle_chunks()

        def fill(index: int) -> None:
            first, last = chunks[index]
            filtered = self._filtered_spectra(projections, batch, first, last, gains)
            np.conjugate(filtered, out=filtered, where=self._mirrored[first:last, None, None])
            spectra[first:last] = filtered

        run_in_threads(fill, len(chunks))

    def _spread(self, spectra: Complexes, grid: Complexes) -> None:
        cells = grid.view(np.float32)
        samples = spectra.view(np.float32)
        tiles_v, tiles_u = -(-grid.shape[0] // TILE), -(-grid.shape[1] // TILE)

        def spread(index: int) -> None:
            row, column = index // tiles_u * TILE, index % tiles_u * TILE
            _spread_to_tile(samples, self._step_u, self._step_v, self._kernel_table, self._grid, row, column, cells)

        run_in_threads(spread, tiles_v * tiles_u)

    def _transform_rows(self, grid: Complexes, lines: Complexes) -> None:
        """Fold what was spread over the edges back, transform along u and keep the slice's columns."""
        n, width = self.columns, self._grid
        sign = np.float32(-1 if self._pixel_offset else 1)
        _fold_columns(grid, sign)

        def transform(index: int) -> None:
            first = index * GRID_ROWS_A_CHUNK
            last = min(first + GRID_ROWS_A_CHUNK, width // 2 + 1)
            folded = np.empty((last - first, width, LANES), dtype=np.complex64)
            _fold_rows(grid, first, self._phase, sign, folded)
            image = scipy.fft.ifft(folded, axis=1, norm="forward", workers=1, overwrite_x=True)
            lines[first:last, n // 2 :] = image[:, : n - n // 2]
            lines[first:last, : n // 2] = image[:, width - n // 2 :]

        run_in_threads(transform, -(-(width // 2 + 1) // GRID_ROWS_A_CHUNK))

    def _transform_columns(self, lines: Complexes, slices: Floats) -> None:
        """Transform along v, undo the kernel's taper and clear what lies outside the circle."""

        def transform(index: int) -> None:
            first = index * IMAGE_COLUMNS_A_CHUNK
            last = min(first + IMAGE_COLUMNS_A_CHUNK, self.columns)
            image = scipy.fft.irfft(lines[:, first:last], n=self._grid, axis=0, norm="forward", workers=1)
            _store_columns(image, first, self._deapodization, self._circle, slices)

        run_in_threads(transform, -(-self.columns // IMAGE_COLUMNS_A_CHUNK))


def grid_width(columns: int) -> int:
    """Width of the oversampled grid for slices of `columns` pixels."""
    return fast_even_length(max(math.ceil(OVERSAMPLING * columns), 4 * MARGIN))


def _kernel(distance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Exponential of semicircle at a distance in grid cells."""
    semicircle = np.sqrt(np.maximum(0.0, 1 - (2 * distance / KERNEL_WIDTH) ** 2))
    return np.where(np.abs(distance) <= KERNEL_WIDTH / 2, np.exp(KERNEL_BETA * (semicircle - 1)), 0.0)


def _kernel_table() -> Floats:
    """Weights of the cells that a sample reaches, by how far the first lies above the kernel's lower end."""
    above = np.arange(TABLE_STEPS + 2) / TABLE_STEPS
    return _kernel(above[:, None] + np.arange(KERNEL_WIDTH) - KERNEL_WIDTH / 2).astype(np.float32)


def _deapodization(columns: int, width: int, pixel_offset: float) -> Floats:
    """1 / Fourier transform of the kernel at each pixel."""
    nodes, weights = np.polynomial.legendre.leggauss(64)
    pixels = np.arange(columns) - columns // 2 + pixel_offset
    distance = nodes * KERNEL_WIDTH / 2
    wave = np.cos(2 * np.pi / width * np.outer(pixels, distance))
    return (1 / (wave @ (_kernel(distance) * weights * KERNEL_WIDTH / 2))).astype(np.float32)


@njit(cache=True, nogil=True, error_model="numpy")
def _spread_to_tile(
    samples: Floats,
    step_u: npt.NDArray[np.float64],
    step_v: npt.NDArray[np.float64],
    table: Floats,
    width: int,
    first_row: int,
    first_column: int,
    cells: Floats,
) -> None:
    """All that the samples give to one tile of the grid, in the order of the samples: no two tiles write one cell.

    `samples` is (angles, frequencies, 2 LANES), `cells` (rows, columns, 2 LANES) with frequency v = row - MARGIN and
    u = column - width / 2 - MARGIN.
    """
    half = KERNEL_WIDTH / 2
    # The tile with a border that takes what belongs to its neighbours, so that no sample needs a check of bounds.
    sums = np.zeros((TILE + 2 * KERNEL_WIDTH, TILE + 2 * KERNEL_WIDTH, 2 * LANES), dtype=np.float32)
    weight_u = np.empty(KERNEL_WIDTH, dtype=np.float32)
    weight_v = np.empty(KERNEL_WIDTH, dtype=np.float32)
    low_u, low_v = first_column - width // 2 - MARGIN, first_row - MARGIN
    for angle in range(samples.shape[0]):
        du, dv = step_u[angle], step_v[angle]
        from_u, to_u = _samples_between(du, low_u - half, low_u + TILE - 1 + half)
        from_v, to_v = _samples_between(dv, low_v - half, low_v + TILE - 1 + half)
        first = max(0, math.ceil(max(from_u, from_v)))
        last = min(samples.shape[1] - 1, math.floor(min(to_u, to_v)))
        for frequency in range(first, last + 1):
            u, v = frequency * du - half, frequency * dv - half
            cell_u, cell_v = math.ceil(u), math.ceil(v)
            _kernel_weights(table, (cell_u - u) * TABLE_STEPS, weight_u)
            _kernel_weights(table, (cell_v - v) * TABLE_STEPS, weight_v)
            # Unsigned: signed indices may wrap, which keeps the loop from being vectorised.
            column = np.uint64(cell_u - low_u + KERNEL_WIDTH)
            row = np.uint64(cell_v - low_v + KERNEL_WIDTH)
            sample = samples[angle, frequency]
            for i in range(KERNEL_WIDTH):
                line = sums[row + np.uint64(i)]
                for j in range(KERNEL_WIDTH):
                    weight = weight_v[i] * weight_u[j]
                    at = column + np.uint64(j)
                    for lane in range(2 * LANES):
                        line[at, lane] += weight * sample[lane]
    rows, columns = min(TILE, cells.shape[0] - first_row), min(TILE, cells.shape[1] - first_column)
    for i in range(rows):
        for j in range(columns):
            for lane in range(2 * LANES):
                cells[first_row + i, first_column + j, lane] = sums[i + KERNEL_WIDTH, j + KERNEL_WIDTH, lane]


@njit(cache=True, nogil=True, error_model="numpy")
def _samples_between(step: float, low: float, high: float) -> tuple[float, float]:
    """The range of k with low <= k * step <= high (all or none where step is 0)."""
    if abs(step) < 1e-12:
        return (0.0, math.inf) if low < 0 < high else (1.0, 0.0)
    return min(low / step, high / step), max(low / step, high / step)


@njit(cache=True, nogil=True, error_model="numpy")
def _kernel_weights(table: Floats, position: float, weights: Floats) -> None:
    step = int(position)
    part = np.float32(position - step)
    for i in range(KERNEL_WIDTH):
        weights[i] = table[step, i] + part * (table[step + 1, i] - table[step, i])


@njit(cache=True, nogil=True)
def _fold_columns(grid: Complexes, sign: np.float32) -> None:
    """Add the margins in u to the cells one grid width away, in place; `sign` is the pixel offset's phase over a grid
    width."""
    rows, columns, lanes = grid.shape
    width = columns - 1 - 2 * MARGIN
    for row in range(rows):
        for margin in range(2 * MARGIN + 1):
            source, target = (margin, margin + width) if margin < MARGIN else (margin + width, margin)
            for lane in range(lanes):
                grid[row, target, lane] += sign * grid[row, source, lane]


@njit(cache=True, nogil=True)
def _fold_rows(grid: Complexes, first_row: int, phase: Complexes, sign: np.float32, folded: Complexes) -> None:
    """Rows of the half plane as the FFT wants them: margins in v folded back with their conjugate mirror image, pixel
    phase applied.

    `folded` is (rows, width, lanes), frequency v = first_row + row, u in FFT order.
    """
    rows, width, lanes = folded.shape
    half = width // 2
    for row in range(rows):
        v = first_row + row
        for u in range(-half, half):
            target = u if u >= 0 else u + width
            column = u + half + MARGIN
            # -u, of which -(-half) = half is stored at -half
            mirror = half - u + MARGIN if u > -half else MARGIN
            mirror_sign = np.float32(1) if u > -half else sign
            turn = phase[u + half] * phase[v + half]
            for lane in range(lanes):
                value = grid[v + MARGIN, column, lane]
                if v <= MARGIN:
                    value += mirror_sign * np.conj(grid[MARGIN - v, mirror, lane])
                if v >= half - MARGIN:
                    value += mirror_sign * sign * np.conj(grid[width - v + MARGIN, mirror, lane])
                folded[row, target, lane] = value * turn


@njit(cache=True, nogil=True)
def _store_columns(
    image: Floats, first_x: int, deapodization: Floats, circle: npt.NDArray[np.int64], slices: Floats
) -> None:
    """`image` is (v in FFT order, columns from first_x on, lanes), y pointing up; slices' rows point down."""
    width, columns, _ = image.shape
    rows, n, _ = slices.shape
    for y in range(n):
        index = n - 1 - y  # of the pixel counted upwards
        source = index - n // 2
        if source < 0:
            source += width
        for lane in range(rows):
            for x in range(first_x, first_x + columns):
                inside = circle[y, 0] <= x < circle[y, 1]
                scale = deapodization[index] * deapodization[x]
                slices[lane, y, x] = image[source, x - first_x, lane] * scale if inside else np.float32(0)
