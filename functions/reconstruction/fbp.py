"""Filtered backprojection along lines with linear interpolation, 16 slices at a time.

Cost grows with angles * columns^2: for many wide slices `fourier` is quicker and a little more accurate.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from .direct import Center, DirectReconstructor, Floats, padded_length
from .fourier import _gather_rows
from .lane_fft import ELEMENT, LanePlan, make_plan, real_roots, transform
from .lane_nufft import Spares
from .lane_vectors import FUSED, LANES, aligned_empty, broadcast, load, spread, store, transpose, vector_pointer
from .threads import run_in_threads, thread_count

VIEWS = 16  # projections of which a pixel's sum stays in a register: their positions are computed as one vector
TILE = 16  # pixels; what the views show of a tile fits a core's first cache
SQUARE = 64  # pixels of which one thread keeps the sums, a multiple of TILE, in its second cache
ANGLES_A_TASK = 8  # to filter, a divisor of VIEWS

Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
ShortIntegers = npt.NDArray[np.int32]


class FilteredBackprojection(DirectReconstructor):
    """Filtered backprojection (Kak & Slaney 1988, chapter 3, DOI 10.1137/1.9780898719277).

    See `DirectReconstructor` for the parameters. Sums are in a fixed order, whatever the number of rows and threads.

    Its workspace is kept from call to call, since fresh memory costs much of the time of a small slice. Calls from
    several threads at once are safe; each then has a workspace of its own.
    """

    lanes: ClassVar[int] = LANES

    def __init__(
        self,
        theta_rad: npt.ArrayLike,
        columns: int,
        center: Center | None = None,
        *,
        filter_name: str = "ramp",
        filter_cutoff: float = 1.0,
        filter_order: int = 2,
        padding: str = "edge",
    ) -> None:
        super().__init__(
            theta_rad,
            columns,
            center,
            filter_name=filter_name,
            filter_cutoff=filter_cutoff,
            filter_order=filter_order,
            padding=padding,
        )
        # Views that fill up the last block see zeros.
        missing = -self._theta.size % VIEWS
        self._cosine = np.pad(np.cos(self._theta), (0, missing))
        self._sine = np.pad(np.sin(self._theta), (0, missing))
        self._plan: LanePlan = make_plan(self._padded // 2)
        self._roots = real_roots(self._padded)
        self._line_and_copy = Spares(2, self._padded * LANES)
        self._lines = Spares(self._cosine.size * _line_length(columns) * LANES)
        self._sums = Spares(SQUARE * SQUARE * LANES)

    @classmethod
    def workspace_bytes(cls, angles: int, columns: int) -> int:
        """See `DirectReconstructor.workspace_bytes`."""
        padded = padded_length(columns)
        lines = -(-angles // VIEWS) * VIEWS * _line_length(columns) * LANES
        gains = 4 * (padded // 2 + 1) * ELEMENT  # and their making
        a_thread = 2 * padded * LANES + SQUARE * SQUARE * LANES
        return 4 * (lines + gains + thread_count() * a_thread)

    def _reconstruct(self, projections: Floats, centers: Doubles, slices: Floats) -> None:
        rows, n, _ = slices.shape
        lines = self._lines.take()
        for first in range(0, rows, LANES):
            last = min(first + LANES, rows)
            # One column beside the detector on either side: a pixel centre at the circle's rim interpolates with it.
            gains = self._lane_gains(centers[first:last], (n - 1) / 2 + 1)
            self._filter(projections, first, last, gains, lines)
            self._backproject(lines, slices[first:last])
        self._lines.give(lines)

    def _lane_gains(self, centers: Doubles, axis_column: float) -> Floats:
        """`_gains` as elements, normalised for the transforms: (samples * ELEMENT,)."""
        gains = self._gains(centers, axis_column) / np.float32(self._padded)
        elements = aligned_empty(gains.shape[0], 2, LANES)
        elements[:, 0], elements[:, 1] = gains.real, gains.imag
        return elements.reshape(-1)

    def _filter(self, projections: Floats, first_row: int, last_row: int, gains: Floats, lines: Floats) -> None:
        def fill(index: int) -> None:
            line, copy = spare = self._line_and_copy.take()
            _filter_lines(
                projections, index * ANGLES_A_TASK, (index + 1) * ANGLES_A_TASK, first_row, last_row, self._pad_with_edge,
                self._plan.radices, self._plan.twiddles, self._roots, gains, self._angular_weights, line, copy,
                _line_length(self.columns), lines,
            )  # fmt: skip
            self._line_and_copy.give(spare)

        run_in_threads(fill, self._cosine.size // ANGLES_A_TASK)

    def _backproject(self, lines: Floats, slices: Floats) -> None:
        squares = -(-self.columns // SQUARE)

        def backproject(index: int) -> None:
            y, x = index // squares * SQUARE, index % squares * SQUARE
            sums = self._sums.take()
            _backproject_square(
                lines, self._cosine, self._sine, _line_length(self.columns), self._circle, y, x,
                aligned_empty(2 * VIEWS), aligned_empty(VIEWS).view(np.int32),
                aligned_empty(TILE * VIEWS).view(np.int32), aligned_empty(TILE * VIEWS), sums, slices,
            )  # fmt: skip
            self._sums.give(sums)

        run_in_threads(backproject, squares * squares)


def _line_length(columns: int) -> int:
    """Columns from one line to the next: the detector, one beside it on either side, and a gap.

    With an odd multiple of four the parts of 16 lines that a tile sees are spread evenly over a cache's sets.
    """
    return columns + 2 + (4 - (columns + 2)) % 8


@njit(cache=True, nogil=True, error_model="numpy")
def _filter_lines(
    projections: Floats,
    first: int,
    last: int,
    first_row: int,
    last_row: int,
    pad_with_edge: bool,
    radices: Integers,
    twiddles: Floats,
    roots: Floats,
    gains: Floats,
    weights: Floats,
    line: Floats,
    copy: Floats,
    length: int,
    lines: Floats,
) -> None:
    """Weighted, filtered projections with their axes in the middle; zeros where there are none."""
    angles, _, columns = projections.shape
    for angle in range(first, last):
        target = angle * length * LANES
        if angle >= angles:
            lines[target : target + length * LANES] = 0
            continue
        _gather_rows(projections, angle, first_row, last_row, pad_with_edge, line)
        result, other = line, copy
        for again in range(2):  # one call in the code: `transform` is long
            if again:
                _apply_gains(result, gains, roots)
            if transform(result, other, radices, twiddles):
                result, other = other, result
        for column in range(columns + 2):
            source = (column // 2) * ELEMENT + (LANES if column % 2 == 0 else 0)
            store(lines, target + column * LANES, load(result, source) * weights[angle])


@njit(cache=True, nogil=True, error_model="numpy")
def _apply_gains(packed: Floats, gains: Floats, roots: Floats) -> None:
    """`lane_fft.packed_to_half`, times the gains, `lane_fft.half_to_packed`: a pair of elements at a time, in place."""
    count = packed.size // ELEMENT
    even, odd = load(packed, 0), load(packed, LANES)
    low, high = (even + odd) * load(gains, 0), (even - odd) * load(gains, count * ELEMENT)
    store(packed, LANES, low + high)
    store(packed, 0, low - high)
    half = np.float32(0.5)
    for k in range(1, count // 2 + 1):
        i, j = k * ELEMENT, (count - k) * ELEMENT
        ar, ai, br, bi = load(packed, i), load(packed, i + LANES), load(packed, j), load(packed, j + LANES)
        cosine, sine = roots[2 * k], roots[2 * k + 1]
        er, ei, dr, di = (ar + br) * half, (ai - bi) * half, (ai + bi) * half, (br - ar) * half
        tr, ti = dr * cosine - di * sine, dr * sine + di * cosine
        fr, fi = load(gains, i), load(gains, i + LANES)
        gr, gi = load(gains, j), load(gains, j + LANES)
        xr, xi, yr, yi = er + tr, ei + ti, er - tr, ti - ei
        ar, ai, br, bi = xr * fr - xi * fi, xr * fi + xi * fr, yr * gr - yi * gi, yr * gi + yi * gr
        er, ei, dr, di = ar + br, ai - bi, ar - br, ai + bi
        tr, ti = dr * sine - di * cosine, dr * cosine + di * sine
        store(packed, i + LANES, er + tr)
        store(packed, i, ei + ti)
        store(packed, j + LANES, er - tr)
        store(packed, j, ti - ei)


_intrinsic: Any = intrinsic  # numba's type for it has the kernels' calls wrong
_INTS = ir.VectorType(ir.IntType(32), VIEWS)
_SHIFT = LANES.bit_length() - 1


@_intrinsic
def _find_places(_typing: Any, views: Any, firsts: Any, x: Any, places: Any, parts: Any, pixel: Any) -> Any:
    """Where `VIEWS` projections see the pixel at x: `places` of the columns left of it, and `parts` of a column beyond.

    `views` is (2, VIEWS): position of x = 0 from a column whose place is in `firsts`, and cosine. `pixel` is the place of
    the first number in `places` and `parts`.
    """

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        views, firsts, x, places, parts, pixel = values

        def pointer(argument: int, at: Any, integers: bool = False) -> Any:
            address = vector_pointer(context, builder, signature.args[argument], values[argument], at)
            return builder.bitcast(address, _INTS.as_pointer()) if integers else address

        zero, second = (ir.Constant(pixel.type, value) for value in (0, VIEWS))
        base, cosine = (builder.load(pointer(0, at), align=4) for at in (zero, second))
        position = builder.fadd(builder.fmul(broadcast(builder, x), cosine, flags=FUSED), base, flags=FUSED)
        left = builder.fptosi(position, _INTS)
        part = builder.fsub(position, builder.sitofp(left, position.type))
        first = builder.load(pointer(1, zero, True), align=4)
        place = builder.add(builder.shl(left, ir.Constant(_INTS, [_SHIFT] * VIEWS)), first)
        builder.store(place, pointer(3, pixel, True), align=4)
        builder.store(part, pointer(4, pixel), align=4)
        return context.get_dummy_value()

    return types.void(views, firsts, types.float32, places, parts, types.intp), emit


@njit(cache=True, nogil=True, error_model="numpy")
def _backproject_square(
    lines: Floats,
    cosine: Doubles,
    sine: Doubles,
    length: int,
    circle: Integers,
    first_y: int,
    first_x: int,
    views: Floats,
    firsts: ShortIntegers,
    places: ShortIntegers,
    parts: Floats,
    sums: Floats,
    slices: Floats,
) -> None:
    """One square of the slices; `lines` is flat, the arrays from `views` to `sums` are this thread's own."""
    n = circle.shape[0]
    last_y, last_x = min(first_y + SQUARE, n), min(first_x + SQUARE, n)
    for at in range(0, sums.size, LANES):
        store(sums, at, spread(np.float32(0)))
    starts = np.empty(VIEWS)  # where the views see the tile's first pixel
    for first_angle in range(0, cosine.size, VIEWS):
        block = first_angle * length * LANES
        for tile_y in range(first_y, last_y, TILE):
            for tile_x in range(first_x, last_x, TILE):
                left, right = n, 0
                for y in range(tile_y, min(tile_y + TILE, n)):
                    left, right = min(left, circle[y, 0]), max(right, circle[y, 1])
                if right <= tile_x or left >= tile_x + TILE:
                    continue
                _see_tile(cosine, sine, length, n, first_angle, tile_y, tile_x, starts, views, firsts)
                for y in range(tile_y, min(tile_y + TILE, n)):
                    for view in range(VIEWS):
                        views[view] = starts[view] - (y - tile_y) * sine[first_angle + view]
                    x_from, x_to = max(tile_x, circle[y, 0]) - tile_x, min(tile_x + TILE, circle[y, 1]) - tile_x
                    for x in range(x_from, x_to):
                        _find_places(views, firsts, np.float32(x), places, parts, x * VIEWS)
                    at = ((y - first_y) * SQUARE + tile_x - first_x) * LANES
                    for x in range(x_from, x_to):
                        _add_pixel(lines, block, places, parts, x, sums, at + x * LANES)
    _store_square(sums, first_y, last_y, first_x, last_x, slices)


@njit(cache=True, nogil=True, error_model="numpy")
def _see_tile(
    cosine: Doubles,
    sine: Doubles,
    length: int,
    n: int,
    first_angle: int,
    tile_y: int,
    tile_x: int,
    starts: Doubles,
    views: Floats,
    firsts: ShortIntegers,
) -> None:
    """For each view the first column that a tile sees, and the position of its first pixel from there.

    Positions within a tile are small numbers: single precision is exact enough for slices of any width.
    """
    middle = (n - 1) / 2
    for view in range(VIEWS):
        c, s = cosine[first_angle + view], sine[first_angle + view]
        position = (tile_x - middle) * c + (middle - tile_y) * s + middle + 1
        lowest = position + (TILE - 1) * (min(0.0, c) - max(0.0, s))
        first = math.floor(lowest - 1e-3)  # rounding must not lead to the left of it
        starts[view] = position - first
        firsts[view] = (view * length + first) * LANES
        views[VIEWS + view] = c


@njit(cache=True, nogil=True, error_model="numpy")
def _add_pixel(
    lines: Floats, block: int, places: ShortIntegers, parts: Floats, pixel: int, sums: Floats, at: int
) -> None:
    """sums[at : at + LANES] += what the views have for a pixel, by the numbers of `_find_places`."""
    # Unsigned: signed indices may wrap, and checking that takes as long as the sums.
    first = np.uint64(VIEWS * pixel)
    even, odd = load(sums, at), spread(np.float32(0))  # two sums: each waits for its last addition
    for pair in range(VIEWS // 2):
        view = first + np.uint64(2 * pair)
        i, j = block + places[view], block + places[view + np.uint64(1)]
        a, b = load(lines, i), load(lines, j)
        even = even + ((load(lines, i + LANES) - a) * parts[view] + a)
        odd = odd + ((load(lines, j + LANES) - b) * parts[view + np.uint64(1)] + b)
    store(sums, at, even + odd)


@njit(cache=True, nogil=True, error_model="numpy")
def _store_square(sums: Floats, first_y: int, last_y: int, first_x: int, last_x: int, slices: Floats) -> None:
    """Sums of all lanes, pixel by pixel, to (rows, n, n) slices; outside the circle nothing was added."""
    rows, n, _ = slices.shape
    flat = slices.reshape(-1)
    for y in range(first_y, last_y):
        for x in range(first_x, last_x, LANES):
            source = ((y - first_y) * SQUARE + x - first_x) * LANES
            if rows == LANES and x + LANES <= last_x:
                transpose(sums, source, LANES, flat, y * n + x, n * n)
            else:
                for lane in range(rows):
                    for i in range(min(LANES, last_x - x)):
                        flat[(lane * n + y) * n + x + i] = sums[source + i * LANES + lane]
