"""Spectra of slices on lines through the origin, and back, on a PyTorch device: the two nonuniform Fourier transforms.

What is put on the lines (filters, weights, rotation centres) is `torch_operators`' and `torch_direct`'s.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

import numpy as np
import torch

from .direct import fast_even_length

OVERSAMPLING: Final = 1.5  # grid width in slice widths
KERNEL_WIDTH: Final = 6  # grid cells
KERNEL_BETA: Final = 0.95 * math.pi * KERNEL_WIDTH * (1 - 1 / (2 * OVERSAMPLING))
TILE: Final = 8  # grid cells; not less than the kernel's width, so that a sample reaches two tiles a side at most
FFT_LANES: Final = (
    4  # slices that are transformed together whatever the batch: an FFT's bits may depend on their number
)
MOST_ENTRIES_A_PROGRAM: Final = 4096  # of a tile near the origin, where all lines meet, several programs take parts
CHUNK_BYTES: Final = 2**26  # of intermediate arrays


def kernels_for(device: torch.device) -> ModuleType | None:
    """The Triton kernels where they run: on CUDA, with Triton installed (it comes with PyTorch for CUDA on Linux)."""
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return None
    from . import triton_kernels

    return triton_kernels


class SpectralGrid:
    """Nonuniform Fourier transforms of types 1 and 2 between slices and lines of their spectrum, exact transposes.

    With j, i the pixels' whole numbers counted from the slice's middle pixel n // 2, rightwards and downwards, and
    sample k = 0 ... padded / 2 of the line at theta standing at the frequency (k cos(theta), -k sin(theta)) / padded
    in cycles/pixel ::

        to_lines:   P[theta, k] = sum over pixels of f[i, j] exp(-2 pi i k (j cos(theta) - i sin(theta)) / padded)
        to_slices:  f[i, j] = real part of the sum over theta and all k, negative ones too (the conjugates),
                              of P[theta, k] exp(+2 pi i k (j cos(theta) - i sin(theta)) / padded)

    to about 1e-4 of the result's size, by an oversampled grid and the exponential-of-semicircle kernel (Barnett,
    Magland & af Klinteberg 2019, DOI 10.1137/18M120885X). What each tile of the grid gets is a matrix of kernel
    weights times the samples that reach it: tensor cores do it, nothing is scattered, and the sums have one order.

    Parameters
    ----------
    theta_rad : (angles,) float64
    columns : width n of the slices
    padded : length of the lines in the other domain, even
    device : where tables and results are
    kernels : `triton_kernels`, or None for plain PyTorch
    """

    def __init__(
        self, theta_rad: Any, columns: int, padded: int, device: torch.device, kernels: ModuleType | None = None
    ) -> None:
        self.columns, self.padded, self.device = columns, padded, device
        self.angles, self.frequencies = len(theta_rad), padded // 2 + 1
        self.width = fast_even_length(max(math.ceil(OVERSAMPLING * columns), 4 * KERNEL_WIDTH))
        self._kernels = kernels
        theta = torch.as_tensor(theta_rad, dtype=torch.float64)
        step = torch.stack((torch.cos(theta), -torch.sin(theta))) * (self.width / padded)
        self._step = step.to(device)  # (2, angles) float64, cells between neighbours on a line
        self._scale = _deapodization(columns, self.width).to(device)
        self._spreading: _Spreading | None = None
        self._reading: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor] | None = None

    def to_slices(self, samples: torch.Tensor) -> torch.Tensor:
        """Slices of spectra on the lines.

        Parameters
        ----------
        samples : (angles, padded // 2 + 1, lanes, 2) float32 or float16, contiguous: real and imaginary parts. The
            imaginary part at k = 0 does not count.

        Returns
        -------
        (lanes, n, n) float32; also outside the circle
        """
        lanes, n, width = samples.shape[2], self.columns, self.width
        grid = torch.empty((lanes, width, width // 2 + 1, 2), dtype=torch.float32, device=self.device)
        self._spread(samples.reshape(-1, lanes, 2), grid)
        slices = torch.empty((lanes, n, n), dtype=torch.float32, device=self.device)
        for first in range(0, lanes, FFT_LANES):
            part = slice(first, min(first + FFT_LANES, lanes))
            spectrum = torch.view_as_complex(grid[part])
            image = torch.fft.irfft2(spectrum, s=(width, width), norm="forward")
            for rows, image_rows in self._quadrants():
                for columns, image_columns in self._quadrants():
                    torch.mul(
                        image[:, image_rows, image_columns],
                        self._scale[rows, columns],
                        out=slices[part, rows, columns],
                    )
        return slices

    def to_lines(self, slices: torch.Tensor) -> torch.Tensor:
        """Spectra on the lines.

        Parameters
        ----------
        slices : (lanes, n, n) float32

        Returns
        -------
        (angles, padded // 2 + 1, lanes, 2) float32
        """
        lanes, width = slices.shape[0], self.width
        grid = torch.empty((width, width // 2 + 1, lanes, 2), dtype=torch.float32, device=self.device)
        for first in range(0, lanes, FFT_LANES):
            part = slice(first, min(first + FFT_LANES, lanes))
            image = torch.zeros((part.stop - first, width, width), dtype=torch.float32, device=self.device)
            for rows, image_rows in self._quadrants():
                for columns, image_columns in self._quadrants():
                    image[:, image_rows, image_columns] = slices[part, rows, columns] * self._scale[rows, columns]
            spectrum = torch.view_as_real(torch.fft.rfft2(image))
            grid[:, :, part] = spectrum.permute(1, 2, 0, 3)
        samples = torch.empty((self.angles, self.frequencies, lanes, 2), dtype=torch.float32, device=self.device)
        self._interpolate(grid, samples.view(-1, lanes, 2))
        return samples

    def table_bytes(self) -> int:
        """Memory of the tables when both transforms were used, about."""
        reached = ((TILE + KERNEL_WIDTH) / TILE) ** 2
        return int(self.angles * self.frequencies * (12 * reached + 16)) + 4 * self.columns**2

    def _quadrants(self) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Where the halves of a slice's side lie in the transform, whose origin is its first pixel."""
        n, half = self.columns, self.columns // 2
        return (slice(0, half), slice(self.width - half, self.width)), (slice(half, n), slice(0, n - half))

    def _positions(self, first: int, last: int) -> torch.Tensor:
        """Samples of some angles in grid cells: (2, last - first, frequencies) float64, u then v."""
        k = torch.arange(self.frequencies, dtype=torch.float64, device=self.device)
        return self._step[:, first:last, None] * k

    def _spread(self, samples: torch.Tensor, grid: torch.Tensor) -> None:
        if self._spreading is None:
            self._spreading = _spreading(self)
        plan = self._spreading
        if self._kernels is None:
            _spread_plainly(samples, plan, grid)
            return
        self._kernels.spread(
            samples,
            plan.entries,
            plan.programs,
            plan.split,
            plan.slots,
            grid,
            tile=TILE,
            kernel_width=KERNEL_WIDTH,
            kernel_beta=KERNEL_BETA,
        )

    def _interpolate(self, grid: torch.Tensor, samples: torch.Tensor) -> None:
        if self._reading is None:
            position = self._positions(0, self.angles).reshape(2, -1)
            first = torch.ceil(position - KERNEL_WIDTH / 2)
            offset = (first - position).to(torch.float32)
            cell = first.to(torch.int32)
            self._reading = (cell[0], cell[1], offset[0], offset[1])
        u, v, offset_u, offset_v = self._reading
        if self._kernels is None:
            _interpolate_plainly(grid, (u, v), (offset_u, offset_v), samples)
            return
        self._kernels.interpolate(
            grid, (u, v), (offset_u, offset_v), samples, kernel_width=KERNEL_WIDTH, kernel_beta=KERNEL_BETA
        )


@dataclass(frozen=True)
class _Spreading:
    """Which samples reach which tile of the half plane; `triton_kernels.spread` says what the fields hold."""

    entries: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    programs: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
    split: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    slots: int
    chunks: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]  # plain PyTorch: tiles, their first entries, counts


def _spreading(grid: SpectralGrid) -> _Spreading:
    """Lists the samples that reach each tile, tile after tile, in the order of the samples."""
    tiles_a_row, tiles_a_column = -(-(grid.width // 2 + 1) // TILE), -(-grid.width // TILE)
    angles_at_a_time = max(1, CHUNK_BYTES // (grid.frequencies * 256))
    found = [
        _entries(grid, first, min(first + angles_at_a_time, grid.angles), tiles_a_row)
        for first in range(0, grid.angles, angles_at_a_time)
    ]
    tile, entry, u, v = (torch.cat(part) for part in zip(*found, strict=True))
    del found
    order = torch.argsort(tile, stable=True)
    counts = torch.bincount(tile, minlength=tiles_a_row * tiles_a_column).cpu().numpy()
    entries = (entry[order], u[order], v[order])
    programs, split = _programs(counts)
    device = grid.device
    return _Spreading(
        entries,
        tuple(torch.as_tensor(part, dtype=torch.int32, device=device) for part in programs),
        tuple(torch.as_tensor(part, dtype=torch.int32, device=device) for part in split),
        int(split[1][-1]) if split[1].size else 0,
        _chunks(counts, device) if grid._kernels is None else [],
    )


def _entries(
    grid: SpectralGrid, first_angle: int, last_angle: int, tiles_a_row: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """What some angles' samples give to which tile: tile, 2 * sample + (conjugate), u and v in the tile.

    A line goes on through the origin with the conjugates, and all repeats with the grid's period. Only what reaches
    columns 0 to width / 2 counts; rows are counted from -width / 2.
    """
    width, half, reach = grid.width, grid.width // 2, KERNEL_WIDTH / 2
    position = grid._positions(first_angle, last_angle).reshape(2, -1)
    sample = torch.arange(position.shape[1], device=grid.device) + first_angle * grid.frequencies
    later = sample % grid.frequencies > 0  # the sample at the origin is its own conjugate
    found = []
    for conjugate in (0, 1):
        for turn_u in (-1, 0, 1):
            for turn_v in (-1, 0, 1):
                u = (-position[0] if conjugate else position[0]) + turn_u * width
                v = (-position[1] if conjugate else position[1]) + turn_v * width + half
                near = (u > -reach) & (u <= half + reach) & (v > -reach) & (v <= width - 1 + reach)
                if conjugate:
                    near &= later
                found.append(_in_tiles(u[near], v[near], 2 * sample[near] + conjugate, half, width - 1, tiles_a_row))
    tile, entry, in_u, in_v = (torch.cat(part) for part in zip(*found, strict=True))
    return tile, entry, in_u, in_v


def _in_tiles(
    u: torch.Tensor, v: torch.Tensor, entry: torch.Tensor, last_column: int, last_row: int, tiles_a_row: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Each sample for each of the one, two or four tiles that its kernel reaches."""
    found = []
    ends = []
    for position, last in ((u, last_column), (v, last_row)):
        first_cell = torch.ceil(position - KERNEL_WIDTH / 2)
        low = torch.div(first_cell.clamp(0, last), TILE, rounding_mode="floor")
        high = torch.div((first_cell + (KERNEL_WIDTH - 1)).clamp(0, last), TILE, rounding_mode="floor")
        ends.append((low, high))
    for second_v in (False, True):
        for second_u in (False, True):
            column, row = ends[0][second_u], ends[1][second_v]
            chosen = torch.ones_like(u, dtype=torch.bool)
            if second_u:
                chosen &= ends[0][0] != ends[0][1]
            if second_v:
                chosen &= ends[1][0] != ends[1][1]
            tile = (row * tiles_a_row + column)[chosen]
            in_u, in_v = (u - column * TILE)[chosen], (v - row * TILE)[chosen]
            found.append((tile.to(torch.int32), entry[chosen].to(torch.int32), in_u.float(), in_v.float()))
    tile, entries, all_u, all_v = (torch.cat(part) for part in zip(*found, strict=True))
    return tile, entries, all_u, all_v


def _programs(counts: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Cuts the work of each tile into parts: the programs and the split tiles of `triton_kernels.spread`.

    The longest come first, so that none of them is left at the end.
    """
    last = np.cumsum(counts)
    first = last - counts
    parts = np.maximum(1, -(-counts // MOST_ENTRIES_A_PROGRAM))
    tile = np.repeat(np.arange(counts.size), parts)
    part = np.arange(tile.size) - np.repeat(np.cumsum(parts) - parts, parts)
    starts = first[tile] + part * MOST_ENTRIES_A_PROGRAM
    ends = np.minimum(starts + MOST_ENTRIES_A_PROGRAM, last[tile])
    is_part = parts[tile] > 1
    slot = np.where(is_part, np.cumsum(is_part) - 1, -1)
    order = np.argsort(starts - ends, kind="stable")
    split = np.flatnonzero(parts > 1)
    last_slot = np.cumsum(parts[split])
    return (starts[order], ends[order], tile[order], slot[order]), (last_slot - parts[split], last_slot, split)


def _chunks(counts: Any, device: torch.device) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Tiles with about as many entries each, as many as fit the chunk's memory."""
    first = np.cumsum(counts) - counts
    order = np.argsort(-counts, kind="stable")
    chunks = []
    start = 0
    while start < order.size:
        longest = max(1, int(counts[order[start]]))
        tiles = order[start : start + max(1, CHUNK_BYTES // (8 * TILE * TILE * longest))]
        chunks.append(
            tuple(
                torch.as_tensor(part, dtype=torch.int64, device=device) for part in (tiles, first[tiles], counts[tiles])
            )
        )
        start += tiles.size
    return chunks


def _spread_plainly(samples: torch.Tensor, plan: _Spreading, grid: torch.Tensor) -> None:
    """`triton_kernels.spread` in plain PyTorch."""
    lanes, rows, columns, _ = grid.shape
    tiles_a_row = -(-columns // TILE)
    all_entries, all_u, all_v = plan.entries
    sign = torch.tensor([1.0, -1.0], device=grid.device)
    cell = torch.arange(TILE, dtype=torch.float32, device=grid.device)
    # whole tiles; what of them lies beyond the grid is dropped
    tiled = torch.empty((-(-rows // TILE) * tiles_a_row, TILE, TILE, lanes, 2), device=grid.device)
    for tiles, first, count in plan.chunks:
        at = torch.arange(max(1, int(count.max())), device=grid.device)
        there = at < count[:, None]
        at = (first[:, None] + at).clamp(max=max(0, all_entries.numel() - 1))
        entry = all_entries[at].to(torch.int64)
        u, v = all_u[at], all_v[at]
        weight_u = kernel_weight(cell[:, None] - u[:, None, :])
        weight_v = kernel_weight(cell[:, None] - v[:, None, :]) * there[:, None, :]
        weight = (weight_v[:, :, None] * weight_u[:, None]).reshape(len(tiles), TILE * TILE, -1)
        value = samples[entry >> 1].to(torch.float32)
        value[..., 1] *= sign[entry & 1][..., None]
        for lane in range(0, lanes, FFT_LANES):  # a matrix product's bits may depend on its width
            part = value[..., lane : lane + FFT_LANES, :]
            summed = torch.bmm(weight, part.reshape(*entry.shape, -1))
            tiled[tiles, :, :, lane : lane + FFT_LANES] = summed.reshape(len(tiles), TILE, TILE, -1, 2)
    whole = tiled.reshape(-1, tiles_a_row, TILE, TILE, lanes, 2).permute(4, 0, 2, 1, 3, 5)
    half = rows // 2
    flat = whole.reshape(lanes, -(-rows // TILE) * TILE, tiles_a_row * TILE, 2)
    grid[:, :half] = flat[:, half:rows, :columns]
    grid[:, half:] = flat[:, :half, :columns]


def _interpolate_plainly(
    grid: torch.Tensor,
    cells: tuple[torch.Tensor, torch.Tensor],
    offsets: tuple[torch.Tensor, torch.Tensor],
    samples: torch.Tensor,
) -> None:
    """`triton_kernels.interpolate` in plain PyTorch."""
    rows, columns, lanes, _ = grid.shape
    flat = grid.reshape(rows * columns, lanes, 2)
    half = rows // 2
    at_a_time = max(1, CHUNK_BYTES // (24 * lanes))
    for first in range(0, samples.shape[0], at_a_time):
        part = slice(first, first + at_a_time)
        first_u, first_v = cells[0][part].to(torch.int64), cells[1][part].to(torch.int64)
        total = torch.zeros_like(samples[part])
        for j in range(KERNEL_WIDTH):
            u = first_u + j
            u = torch.where(u > half, u - rows, torch.where(u < -half, u + rows, u))
            mirrored = u < 0
            sign = torch.stack((torch.ones_like(offsets[0][part]), torch.where(mirrored, -1.0, 1.0)), dim=-1)
            weight_u = kernel_weight(offsets[0][part] + j)
            for i in range(KERNEL_WIDTH):
                v = torch.where(mirrored, -(first_v + i), first_v + i)
                v = torch.where(v < 0, v + rows, v)
                weight = weight_u * kernel_weight(offsets[1][part] + i)
                value = flat[v * columns + u.abs()].to(torch.float32)
                total += value * (weight[:, None] * sign)[:, None, :]
        samples[part] = total


def kernel_weight(distance: torch.Tensor) -> torch.Tensor:
    """Exponential of semicircle at distances in grid cells, from -KERNEL_WIDTH / 2 to below KERNEL_WIDTH / 2."""
    scaled = distance * (2.0 / KERNEL_WIDTH)
    arc = torch.sqrt((1.0 - scaled * scaled).clamp(min=0.0))
    return torch.exp(KERNEL_BETA * (arc - 1.0)) * ((scaled >= -1.0) & (scaled < 1.0))


def _deapodization(columns: int, width: int) -> torch.Tensor:
    """1 / Fourier transform of the kernel, (columns, columns) float32, in both directions of a slice."""
    nodes, weights = np.polynomial.legendre.leggauss(64)
    distance = torch.as_tensor(nodes * KERNEL_WIDTH / 2)
    pixels = torch.arange(columns, dtype=torch.float64) - columns // 2
    wave = torch.cos(2 * math.pi / width * pixels[:, None] * distance)
    transformed = wave @ (kernel_weight(distance) * torch.as_tensor(weights) * KERNEL_WIDTH / 2)
    return (1 / (transformed[:, None] * transformed)).to(torch.float32)
