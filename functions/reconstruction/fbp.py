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
from .lane_fft import ELEMENT, LanePlan, make_plan, real_roots, transform
from .lane_nufft import Spares
from .lane_vectors import FUSED, LANES, VECTOR, aligned_empty, broadcast, load, spread, store, vector_pointer
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
                lines, self._cosine, self._sine, _line_length(self.columns), self._circle.reshape(-1), y, x,
                aligned_empty(3 * VIEWS), aligned_empty(VIEWS).view(np.int32),
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
    angles, rows, columns = projections.shape
    flat = projections.reshape(-1)
    middle = (
        columns + (line.size // LANES - columns) // 2
    )  # from here on the padding belongs to the left edge (circular)
    nothing = spread(np.float32(0))
    for angle in range(first, last):
        target = angle * length * LANES
        if angle >= angles:
            for at in range(target, target + length * LANES, LANES):
                store(lines, at, nothing)
            continue
        for at in range(0, line.size, LANES):
            store(line, at, nothing)
        start = (angle * rows + first_row) * columns
        for column in range(columns):
            for lane in range(last_row - first_row):
                line[column * LANES + lane] = flat[start + lane * columns + column]
        if pad_with_edge:
            left, right = load(line, 0), load(line, (columns - 1) * LANES)
            for at in range(columns * LANES, line.size, LANES):
                store(line, at, right if at < middle * LANES else left)
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
def _find_places(_typing: Any, views: Any, firsts: Any, x: Any, y: Any, places: Any, parts: Any, at: Any) -> Any:
    """Where `VIEWS` projections see pixel (x, y) of a tile: the columns left of it, and how far it is from there.

    `views` is (3, VIEWS): position of pixel (0, 0) from the column that starts at `firsts`, cosine and sine. Starts of
    the columns are put at ``places[at : at + VIEWS]``, parts of a column at ``parts[at : at + VIEWS]``.
    """

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        _, _, x, y, _, _, at = values

        def pointer(argument: int, index: Any, kind: Any = VECTOR) -> Any:
            address = vector_pointer(context, builder, signature.args[argument], values[argument], index)
            return builder.bitcast(address, kind.as_pointer())

        position, cosine, sine = (builder.load(pointer(0, ir.Constant(at.type, i * VIEWS)), align=4) for i in range(3))
        down = builder.fmul(broadcast(builder, y), sine, flags=FUSED)
        position = builder.fsub(position, down, flags=FUSED)
        across = builder.fmul(broadcast(builder, x), cosine, flags=FUSED)
        position = builder.fadd(position, across, flags=FUSED)
        left = builder.fptosi(position, _INTS)
        first = builder.load(pointer(1, ir.Constant(at.type, 0), _INTS), align=4)
        place = builder.add(builder.shl(left, ir.Constant(_INTS, [_SHIFT] * VIEWS)), first)
        builder.store(place, pointer(4, at, _INTS), align=4)
        builder.store(builder.fsub(position, builder.sitofp(left, VECTOR)), pointer(5, at), align=4)
        return context.get_dummy_value()

    return types.void(views, firsts, types.float32, types.float32, places, parts, types.intp), emit


@_intrinsic
def _add_pixel(_typing: Any, lines: Any, block: Any, places: Any, parts: Any, at: Any, sums: Any, to: Any) -> Any:
    """sums[to : to + LANES] += what the views have for a pixel, by the numbers of `_find_places` at `at`.

    Written as instructions: of a loop over views numba and LLVM take several times as long to compile.
    """

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        _, block, _, _, at, _, to = values

        def pointer(argument: int, index: Any) -> Any:
            return vector_pointer(context, builder, signature.args[argument], values[argument], index)

        def number(argument: int, view: int) -> Any:
            data = context.data_model_manager[signature.args[argument]].get(builder, values[argument], "data")
            return builder.load(builder.gep(data, [builder.add(at, ir.Constant(at.type, view))]))

        # Two sums: each waits for its last addition.
        totals = [builder.load(pointer(5, to), align=4), ir.Constant(VECTOR, [0.0] * LANES)]
        for view in range(VIEWS):
            left = builder.add(block, builder.sext(number(2, view), block.type))
            right = builder.add(left, ir.Constant(block.type, LANES))
            a, b = (builder.load(pointer(0, place), align=4) for place in (left, right))
            slope = builder.fmul(builder.fsub(b, a), broadcast(builder, number(3, view)), flags=FUSED)
            value = builder.fadd(slope, a, flags=FUSED)
            totals[view % 2] = builder.fadd(totals[view % 2], value)
        builder.store(builder.fadd(*totals), pointer(5, to), align=4)
        return context.get_dummy_value()

    return types.void(lines, types.intp, places, parts, types.intp, sums, types.intp), emit


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
    """One square of the slices; all but `slices` are flat, the arrays from `views` to `sums` are this thread's own."""
    rows, n, _ = slices.shape
    last_y, last_x = min(first_y + SQUARE, n), min(first_x + SQUARE, n)
    middle = (n - 1) / 2
    for at in range(0, sums.size, LANES):
        store(sums, at, spread(np.float32(0)))
    for first_angle in range(0, cosine.size, VIEWS):
        block = first_angle * length * LANES
        for tile_y in range(first_y, last_y, TILE):
            for tile_x in range(first_x, last_x, TILE):
                # Positions within a tile are small numbers: single precision is exact enough for slices of any width.
                for view in range(VIEWS):
                    c, s = cosine[first_angle + view], sine[first_angle + view]
                    position = (tile_x - middle) * c + (middle - tile_y) * s + middle + 1
                    # A column that is left of all that the tile sees.
                    first = math.floor(position - (TILE - 1) * (abs(c) + abs(s)) - 0.01)
                    firsts[view] = (view * length + first) * LANES
                    views[view], views[VIEWS + view], views[2 * VIEWS + view] = position - first, c, s
                for y in range(tile_y, min(tile_y + TILE, last_y)):
                    x_from, x_to = max(tile_x, circle[2 * y]), min(tile_x + TILE, circle[2 * y + 1])
                    down = np.float32(y - tile_y)
                    for x in range(x_from, x_to):
                        _find_places(views, firsts, np.float32(x - tile_x), down, places, parts, (x - tile_x) * VIEWS)
                    to = ((y - first_y) * SQUARE - first_x) * LANES
                    for x in range(x_from, x_to):
                        _add_pixel(lines, block, places, parts, (x - tile_x) * VIEWS, sums, to + x * LANES)
    flat = slices.reshape(-1)
    for lane in range(rows):
        for y in range(first_y, last_y):
            for x in range(first_x, last_x):  # outside the circle nothing was added
                flat[(lane * n + y) * n + x] = sums[((y - first_y) * SQUARE + x - first_x) * LANES + lane]
