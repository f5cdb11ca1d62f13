"""Triton kernels for CUDA: backprojection, line projection, and gridding of spectra from and to lines.

Each has a form in plain PyTorch beside it (`torch_operators`, `torch_gridding`), which is its meaning; only those call
this. Every number of the output is summed by one program in a fixed order: no atomics, the same bits each time.
Lanes (slices) are the fastest axis, so that a load is one piece of 64 bytes or more whatever the position.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
import triton
import triton.language as tl

PIXEL_TILE = 8  # pixels a side of a program's part of a slice
RAYS = 64  # columns that a program projects at once
SAMPLES = 32  # that a program grids at once: the inner length of the matrix product
SAMPLES_READ = 32  # that a program interpolates at once
_OPTIONS: dict[str, Any] = {"num_warps": 4, "enable_fp_fusion": True}


@triton.jit
def _backproject(
    lines: tl.tensor,
    cosine: tl.tensor,
    sine: tl.tensor,
    centers: tl.tensor,
    tiles: tl.tensor,
    slices: tl.tensor,
    angles: tl.tensor,
    line_columns: tl.tensor,
    columns: tl.tensor,
    stride_row: tl.tensor,
    stride_column: tl.tensor,
    stride_lane: tl.tensor,
    LANES: tl.constexpr,
    TILE: tl.constexpr,
    MATCHED: tl.constexpr,
    SHARED_CENTER: tl.constexpr,
) -> None:
    """One tile of all lanes; MATCHED takes the weights of Joseph's projector, else linear interpolation."""
    tile = tl.load(tiles + tl.program_id(0))
    tiles_a_row = (columns + TILE - 1) // TILE
    pixel = tl.arange(0, TILE * TILE)
    row = (tile // tiles_a_row) * TILE + pixel // TILE
    column = (tile % tiles_a_row) * TILE + pixel % TILE
    lane = tl.arange(0, LANES)[None, :]
    twice_x, twice_y = 2 * column - (columns - 1), (columns - 1) - 2 * row
    inside = twice_x * twice_x + twice_y * twice_y <= columns * columns
    inside = (inside & (row < columns) & (column < columns))[:, None]
    x, y = twice_x.to(tl.float32) * 0.5, twice_y.to(tl.float32) * 0.5
    if SHARED_CENTER:
        center = tl.load(centers)
    else:
        center = tl.load(centers + lane)
    total = tl.full([TILE * TILE, LANES], 0.0, dtype=tl.float32)
    line = lines
    for angle in range(angles):
        cos, sin = tl.load(cosine + angle), tl.load(sine + angle)
        position = (x * cos + y * sin)[:, None] + center
        left = tl.floor(position)
        part = position - left
        index = left.to(tl.int32)
        there = inside & (index >= 0) & (index < line_columns)
        next_there = inside & (index >= -1) & (index < line_columns - 1)
        at = index * LANES + lane
        low = tl.load(line + at, mask=there, other=0.0).to(tl.float32)
        high = tl.load(line + at + LANES, mask=next_there, other=0.0).to(tl.float32)
        if MATCHED:
            steepness = 1.0 / tl.maximum(tl.abs(cos), tl.abs(sin))
            weight_low = tl.maximum(0.0, 1.0 - part * steepness) * steepness
            weight_high = tl.maximum(0.0, 1.0 - (1.0 - part) * steepness) * steepness
            total += weight_low * low + weight_high * high
        else:
            total += low + part * (high - low)
        line += line_columns * LANES
    at = row[:, None].to(tl.int64) * stride_row + column[:, None] * stride_column + lane.to(tl.int64) * stride_lane
    tl.store(slices + at, total, mask=inside)


@triton.jit
def _project(
    slices: tl.tensor,
    cosine: tl.tensor,
    sine: tl.tensor,
    centers: tl.tensor,
    projections: tl.tensor,
    columns: tl.tensor,
    LANES: tl.constexpr,
    RAYS: tl.constexpr,
    SHARED_CENTER: tl.constexpr,
) -> None:
    """Some columns of one projection of all lanes, by Joseph's method; `slices` is (columns, columns, LANES)."""
    angle = tl.program_id(1)
    column = tl.program_id(0) * RAYS + tl.arange(0, RAYS)
    lane = tl.arange(0, LANES)[None, :]
    if SHARED_CENTER:
        center = tl.load(centers)
    else:
        center = tl.load(centers + lane)
    cos, sin = tl.load(cosine + angle), tl.load(sine + angle)
    # The ray steps over rows, or over columns where it is the steeper to them: the axes change places.
    swapped = tl.abs(sin) > tl.abs(cos)
    along, across = tl.where(swapped, sin, cos), tl.where(swapped, cos, sin)
    offset = (column.to(tl.float32)[:, None] - center) / tl.where(swapped, -along, along)
    slope = across / along
    middle = (columns - 1).to(tl.float32) * 0.5
    total = tl.full([RAYS, LANES], 0.0, dtype=tl.float32)
    for step in range(columns):
        distance = 2 * step - (columns - 1)
        position = offset + (distance.to(tl.float32) * 0.5 * slope + middle)
        left = tl.floor(position)
        part = position - left
        # far beside the slice a position may not fit an integer
        index = tl.minimum(tl.maximum(left, -2.0), columns.to(tl.float32) + 1.0).to(tl.int32)
        twice = 2 * index - (columns - 1)
        limit = columns * columns - distance * distance
        there = twice * twice <= limit
        next_there = (twice + 2) * (twice + 2) <= limit
        first = tl.where(swapped, index * columns + step, step * columns + index)
        second = tl.where(swapped, first + columns, first + 1)
        low = tl.load(slices + first.to(tl.int64) * LANES + lane, mask=there, other=0.0).to(tl.float32)
        high = tl.load(slices + second.to(tl.int64) * LANES + lane, mask=next_there, other=0.0).to(tl.float32)
        total += low + part * (high - low)
    total = total / tl.abs(along)
    at = (angle.to(tl.int64) * columns + column[:, None]) * LANES + lane
    tl.store(projections + at, total, mask=(column < columns)[:, None])


@triton.jit
def _kernel_weight(distance: tl.tensor, WIDTH: tl.constexpr, BETA: tl.constexpr) -> tl.tensor:
    """Exponential of semicircle at a distance in grid cells, WIDTH cells wide: [-WIDTH/2, WIDTH/2)."""
    scaled = distance * (2.0 / WIDTH)
    arc = tl.sqrt(tl.maximum(0.0, 1.0 - scaled * scaled))
    return tl.where((scaled >= -1.0) & (scaled < 1.0), tl.exp(BETA * (arc - 1.0)), 0.0)


@triton.jit
def _store_tile(
    grid: tl.tensor,
    cells: tl.tensor,
    tile: tl.tensor,
    tiles_a_row: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    FLOATS: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """A tile's cells (TILE * TILE, FLOATS) into `grid` (lanes, rows in FFT order, columns, 2)."""
    cell = tl.arange(0, TILE * TILE)[:, None]
    float_ = tl.arange(0, FLOATS)[None, :]
    row = (tile // tiles_a_row) * TILE + cell // TILE
    column = (tile % tiles_a_row) * TILE + cell % TILE
    half = rows // 2
    in_fft_order = tl.where(row < half, row + half, row - half)
    at = ((float_ // 2).to(tl.int64) * rows + in_fft_order) * columns + column
    tl.store(grid + at * 2 + float_ % 2, cells, mask=(row < rows) & (column < columns))


@triton.jit
def _spread(
    samples: tl.tensor,
    entries: tl.tensor,
    entries_u: tl.tensor,
    entries_v: tl.tensor,
    firsts: tl.tensor,
    lasts: tl.tensor,
    tiles: tl.tensor,
    slots: tl.tensor,
    grid: tl.tensor,
    parts: tl.tensor,
    tiles_a_row: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    FLOATS: tl.constexpr,
    TILE: tl.constexpr,
    SAMPLES: tl.constexpr,
    WIDTH: tl.constexpr,
    BETA: tl.constexpr,
) -> None:
    """One tile of the grid, or a part of its sum: (cells, samples) of weights times (samples, FLOATS) of values."""
    program = tl.program_id(0)
    first, last = tl.load(firsts + program), tl.load(lasts + program)
    tile, slot = tl.load(tiles + program), tl.load(slots + program)
    float_ = tl.arange(0, FLOATS)[None, :]
    cell = tl.arange(0, TILE)[:, None].to(tl.float32)
    total = tl.full([TILE * TILE, FLOATS], 0.0, dtype=tl.float32)
    for start in range(first, last, SAMPLES):
        at = start + tl.arange(0, SAMPLES)
        there = at < last
        entry = tl.load(entries + at, mask=there, other=0)
        u = tl.load(entries_u + at, mask=there, other=-1000.0)  # so far from the tile that nothing reaches it
        v = tl.load(entries_v + at, mask=there, other=-1000.0)
        weight_u = _kernel_weight(cell - u[None, :], WIDTH, BETA)
        weight_v = _kernel_weight(cell - v[None, :], WIDTH, BETA)
        weight = tl.reshape(weight_v[:, None, :] * weight_u[None, :, :], [TILE * TILE, SAMPLES])
        index = (entry >> 1)[:, None].to(tl.int64)
        value = tl.load(samples + index * FLOATS + float_, mask=there[:, None], other=0.0)
        conjugate = ((entry & 1)[:, None] == 1) & (float_ % 2 == 1)
        value = tl.where(conjugate, -value, value)
        total = tl.dot(weight.to(value.dtype), value, total, input_precision="tf32x3")
    if slot < 0:
        _store_tile(grid, total, tile, tiles_a_row, rows, columns, FLOATS, TILE)
    else:
        at = tl.arange(0, TILE * TILE)[:, None] * FLOATS + float_
        tl.store(parts + slot.to(tl.int64) * (TILE * TILE * FLOATS) + at, total)


@triton.jit
def _sum_parts(
    parts: tl.tensor,
    firsts: tl.tensor,
    lasts: tl.tensor,
    tiles: tl.tensor,
    grid: tl.tensor,
    tiles_a_row: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    FLOATS: tl.constexpr,
    TILE: tl.constexpr,
) -> None:
    """One tile from the parts into which `_spread` was split."""
    program = tl.program_id(0)
    at = tl.arange(0, TILE * TILE)[:, None] * FLOATS + tl.arange(0, FLOATS)[None, :]
    total = tl.full([TILE * TILE, FLOATS], 0.0, dtype=tl.float32)
    for slot in range(tl.load(firsts + program), tl.load(lasts + program)):
        total += tl.load(parts + slot * (TILE * TILE * FLOATS) + at)
    _store_tile(grid, total, tl.load(tiles + program), tiles_a_row, rows, columns, FLOATS, TILE)


@triton.jit
def _interpolate(
    grid: tl.tensor,
    cells_u: tl.tensor,
    cells_v: tl.tensor,
    offsets_u: tl.tensor,
    offsets_v: tl.tensor,
    samples: tl.tensor,
    count: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    FLOATS: tl.constexpr,
    SAMPLES: tl.constexpr,
    WIDTH: tl.constexpr,
    BETA: tl.constexpr,
) -> None:
    """Samples between the cells of `grid` (rows in FFT order, columns of the half plane, FLOATS)."""
    sample = tl.program_id(0) * SAMPLES + tl.arange(0, SAMPLES)
    there = sample < count
    float_ = tl.arange(0, FLOATS)[None, :]
    imaginary = float_ % 2 == 1
    first_u, first_v = tl.load(cells_u + sample, mask=there, other=0), tl.load(cells_v + sample, mask=there, other=0)
    offset_u = tl.load(offsets_u + sample, mask=there, other=0.0)
    offset_v = tl.load(offsets_v + sample, mask=there, other=0.0)
    half = rows // 2
    total = tl.full([SAMPLES, FLOATS], 0.0, dtype=tl.float32)
    for j in range(WIDTH):
        u = first_u + j
        u = tl.where(u > half, u - rows, tl.where(u < -half, u + rows, u))
        mirrored = u < 0
        weight_u = _kernel_weight(offset_u + j, WIDTH, BETA)
        for i in tl.static_range(WIDTH):
            v = tl.where(mirrored, -(first_v + i), first_v + i)
            v = tl.where(v < 0, v + rows, v)
            weight = (weight_u * _kernel_weight(offset_v + i, WIDTH, BETA))[:, None]
            at = (v.to(tl.int64) * columns + tl.abs(u))[:, None] * FLOATS + float_
            value = tl.load(grid + at, mask=there[:, None], other=0.0).to(tl.float32)
            total += weight * tl.where(mirrored[:, None] & imaginary, -value, value)
    tl.store(samples + sample[:, None].to(tl.int64) * FLOATS + float_, total, mask=there[:, None])


def backproject(
    lines: torch.Tensor,
    cosine: torch.Tensor,
    sine: torch.Tensor,
    centers: torch.Tensor,
    tiles: torch.Tensor,
    slices: torch.Tensor,
    *,
    matched: bool,
    shared_center: bool,
) -> None:
    """Sums of lines at every pixel of the circle.

    Parameters
    ----------
    lines : (angles, line columns, lanes) float32 or float16, contiguous; lanes a power of two
    cosine, sine : (angles,) float32
    centers : (lanes,) float32, column of the rotation axis in `lines`
    tiles : (count,) int32, which squares of `PIXEL_TILE` pixels reach into the circle
    slices : (n, n, lanes) float32, any strides; written inside the circle only
    matched : the transpose of `project`, else linear interpolation
    shared_center : all lanes have the first one's center
    """
    angles, line_columns, lanes = lines.shape
    _launch(
        _backproject,
        (tiles.numel(),),
        lines,
        cosine,
        sine,
        centers,
        tiles,
        slices,
        angles,
        line_columns,
        slices.shape[0],
        *slices.stride(),
        LANES=lanes,
        TILE=PIXEL_TILE,
        MATCHED=matched,
        SHARED_CENTER=shared_center,
    )


def project(
    slices: torch.Tensor,
    cosine: torch.Tensor,
    sine: torch.Tensor,
    centers: torch.Tensor,
    projections: torch.Tensor,
    *,
    shared_center: bool,
) -> None:
    """Line integrals of what lies inside the circle, by Joseph's method.

    Parameters
    ----------
    slices : (n, n, lanes) float32 or float16, contiguous; lanes a power of two
    cosine, sine, centers, shared_center : see `backproject`
    projections : (angles, n, lanes) float32, contiguous; overwritten
    """
    angles, columns, lanes = projections.shape
    _launch(
        _project,
        (triton.cdiv(columns, RAYS), angles),
        slices,
        cosine,
        sine,
        centers,
        projections,
        columns,
        LANES=lanes,
        RAYS=RAYS,
        SHARED_CENTER=shared_center,
    )


def spread(
    samples: torch.Tensor,
    entries: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    programs: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
    split: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    slots: int,
    grid: torch.Tensor,
    *,
    tile: int,
    kernel_width: int,
    kernel_beta: float,
) -> None:
    """Every cell of the half plane from the samples that reach it; see `torch_gridding.SpectralGrid`.

    Parameters
    ----------
    samples : (samples, lanes, 2) float32 or float16, contiguous; lanes a power of two, at least 8
    entries : per entry: 2 * sample + (conjugate), its u and v counted from the tile's first cell
    programs : per program: first and one past the last entry, tile, slot in the parts (-1: the whole tile)
    split : per tile that is split: first and one past the last slot, tile
    slots : how many slots there are
    grid : (lanes, rows, columns, 2) float32, contiguous; overwritten
    """
    lanes, rows, columns, _ = grid.shape
    shape = {"FLOATS": 2 * lanes, "TILE": tile}
    tiles_a_row = triton.cdiv(columns, tile)
    parts = torch.empty((max(slots, 1), tile * tile, 2 * lanes), dtype=torch.float32, device=grid.device)
    _launch(
        _spread,
        (programs[0].numel(),),
        samples,
        *entries,
        *programs,
        grid,
        parts,
        tiles_a_row,
        rows,
        columns,
        **shape,
        SAMPLES=SAMPLES,
        WIDTH=kernel_width,
        BETA=kernel_beta,
    )
    if slots:
        _launch(_sum_parts, (split[0].numel(),), parts, *split, grid, tiles_a_row, rows, columns, **shape)


def interpolate(
    grid: torch.Tensor,
    cells: tuple[torch.Tensor, torch.Tensor],
    offsets: tuple[torch.Tensor, torch.Tensor],
    samples: torch.Tensor,
    *,
    kernel_width: int,
    kernel_beta: float,
) -> None:
    """The transpose of `spread`.

    Parameters
    ----------
    grid : (rows, columns, lanes, 2) float32 or float16, contiguous; lanes a power of two
    cells : (samples,) int32, first cell in u and v that a sample reaches
    offsets : (samples,) float32, of that cell from the sample
    samples : (samples, lanes, 2) float32, contiguous; overwritten
    """
    rows, columns, lanes, _ = grid.shape
    count = samples.shape[0]
    _launch(
        _interpolate,
        (triton.cdiv(count, SAMPLES_READ),),
        grid,
        *cells,
        *offsets,
        samples,
        count,
        rows,
        columns,
        FLOATS=2 * lanes,
        SAMPLES=SAMPLES_READ,
        WIDTH=kernel_width,
        BETA=kernel_beta,
    )


def _launch(kernel: Any, programs: tuple[int, ...], first: torch.Tensor, *arguments: Any, **constants: Any) -> None:
    """Start a kernel on the device of its arguments: Triton takes the thread's present one."""
    with torch.cuda.device(first.device) if first.is_cuda else nullcontext():
        kernel[programs](first, *arguments, **constants, **_OPTIONS)
