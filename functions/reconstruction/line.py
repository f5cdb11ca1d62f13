"""Line integrals through slices by linear interpolation (Joseph's method) and their exact transpose, on the CPU.

Sixteen slices are worked on at a time, each in its own lane of a vector, so that positions and weights are computed
once for all of them. What is worked on is first copied into windows that fit a core's first cache.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from ..errors import InputError, ParameterError
from .direct import Center, Floats, circle_columns
from .geometry import check_angles, check_projector_centers
from .lane_arrays import checked_input, checked_output
from .lane_vectors import LANES, aligned_empty, load, spread, store
from .threads import run_in_threads, thread_count

ROWS = 16  # of pixels that a ray crosses at a time: positions are computed as one vector
REACH = ROWS // 2  # pixels by which a ray drifts sideways at most, from the middle of these rows
STRIP = 16  # pixels; rays that are in the middle of the rows within one strip share a window
WINDOW = STRIP + 2 * REACH + 1  # pixels wide
MAX_BLOCK = 64  # projections that use a window of the slices before the next is made
TILE = 16  # pixels; a tile's backprojection uses one window of 16 projections
PROJECTIONS = 16  # in a window of projections
LINE = math.ceil((TILE - 1) * math.sqrt(2)) + 3  # columns that a tile sees of one projection
SQUARE = 64  # pixels of which one thread keeps the sums, a multiple of TILE
SHIFT_TAPS = 10  # of the kernel that moves a projection by a part of a column
SHIFT_BETA = 5.0  # shape of its Kaiser window

Integers = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]


class LineProjector:
    """Joseph's projector (Joseph 1982, IEEE Trans. Med. Imaging 1, 192, DOI 10.1109/TMI.1982.4307572); see `Projector`.

    A ray takes one sample in every row of pixels (in every column, where it is nearer to the horizontal), interpolated
    linearly between the two pixels beside it. With one axis for all lanes no weight is negative. `adjoint` is the same
    matrix transposed: for each pixel it sums what the two rays beside it carry. Sums are in a fixed order, whatever the
    number of threads.

    Parameters
    ----------
    theta_rad : (angles,) radians
        In any order.
    columns : int
        Width n of projections and slices.
    centers : float or (lanes,) float64
        Rotation axis in pixels. Where each lane has its own, projections are taken about one axis and moved by the
        difference with a kernel of 10 columns (exact transpose included): a little smoother than Joseph's own. The GPU's
        `TorchLineProjector` places each lane's rays exactly instead, so that there the two are not the same matrix.
    positive : bool
        Move them by linear interpolation instead: smoother still, but no weight is negative.

    Raises
    ------
    InputError
        Angles that cannot be used, or a width below 2.
    ParameterError
        As many centers as neither one nor the lanes, or one that is not finite or more than a width off the detector.
    """

    lanes = LANES

    def __init__(self, theta_rad: npt.ArrayLike, columns: int, centers: Center, *, positive: bool = False) -> None:
        if columns < 2:
            raise InputError(f"projections are {columns} columns wide; needed are at least 2")
        self._theta = check_angles(theta_rad)
        self._centers = np.asarray(centers, dtype=np.float64)
        if self._centers.shape not in ((), (LANES,)):
            raise ParameterError(
                f"centers has shape {self._centers.shape}; needed is one for all lanes or one for each of {LANES}"
            )
        check_projector_centers(self._centers, columns)
        self._positive = positive
        self.angles, self.columns = self._theta.size, columns
        self._shift = LaneShift(columns, self._centers, positive) if self._centers.ndim else None
        self._width = self._shift.width if self._shift else columns
        self._center = self._shift.center if self._shift else float(self._centers)
        self._circle = circle_columns(columns)
        cosine, sine = np.cos(self._theta), np.sin(self._theta)
        self._cosine, self._sine = cosine, sine
        # A ray is followed over rows, or over columns where it is nearer to the horizontal; `position` below is where
        # along such a row: position = middle + (column - center) * ray_step + (row - middle) * row_step.
        self._over_columns = np.abs(sine) > np.abs(cosine)
        major = np.where(self._over_columns, -sine, cosine)
        self._ray_step = 1 / major
        self._row_step = np.where(self._over_columns, -cosine, sine) / major

    def forward(self, slices: Floats, out: Floats | None = None) -> Floats:
        """See `Projector.forward`."""
        n = self.columns
        flat = checked_input(slices, (n, n, LANES), "slices").reshape(-1)
        result = checked_output(out, (self.angles, n, LANES))
        lines = result if self._shift is None else np.empty((self.angles, self._width, LANES), dtype=np.float32)
        blocks = self._blocks()

        def project(index: int) -> None:
            window = aligned_empty(ROWS * WINDOW * LANES)
            _project(
                flat,
                n,
                blocks[index],
                bool(self._over_columns[blocks[index][0]]),
                self._ray_step,
                self._row_step,
                self._width,
                self._center,
                self._circle,
                window,
                lines.reshape(-1),
            )

        run_in_threads(project, len(blocks))
        if self._shift is not None:
            self._shift.forward(lines, result)
        return result

    def adjoint(self, projections: Floats, out: Floats | None = None) -> Floats:
        """See `Projector.adjoint`."""
        n = self.columns
        lines = checked_input(projections, (self.angles, n, LANES), "projections")
        result = checked_output(out, (n, n, LANES))
        if self._shift is not None:
            lines = self._shift.adjoint(lines)
        flat = lines.reshape(-1)
        squares = -(-n // SQUARE)

        def backproject(index: int) -> None:
            y, x = index // squares * SQUARE, index % squares * SQUARE
            _backproject(
                flat,
                self._cosine,
                self._sine,
                self._width,
                self._center,
                self._circle,
                y,
                x,
                aligned_empty(PROJECTIONS * LINE * LANES),
                aligned_empty(4 * PROJECTIONS),
                aligned_empty(TILE * PROJECTIONS).view(np.int32),
                aligned_empty(TILE * 2 * PROJECTIONS),
                aligned_empty(SQUARE * SQUARE * LANES),
                result.reshape(-1),
            )

        run_in_threads(backproject, squares * squares)
        return result

    def subset(self, angles: slice) -> LineProjector:
        """See `Projector.subset`."""
        return LineProjector(self._theta[angles], self.columns, self._centers, positive=self._positive)

    def _blocks(self) -> list[Integers]:
        """Projections that are made together, all along rows or all along columns; no result depends on the division."""
        size = max(8, min(MAX_BLOCK, -(-self.angles // (4 * thread_count()))))
        kinds = (np.flatnonzero(~self._over_columns), np.flatnonzero(self._over_columns))
        return [kind[first : first + size] for kind in kinds for first in range(0, kind.size, size)]


class LaneShift:
    """Moves each lane's projections from a common rotation axis to the lane's own; linear, with its exact transpose.

    Parameters
    ----------
    columns : int
        Width of the projections about the lanes' own axes.
    centers : (lanes,) float64
        Rotation axes in pixels.
    positive : bool
        Linear interpolation, without negative weights.
    """

    def __init__(self, columns: int, centers: Doubles, positive: bool) -> None:
        self.columns = columns
        self.width = columns + 2 * SHIFT_TAPS  # all that the circle casts, and zeros on both sides
        self.center = (self.width - 1) / 2
        shift = self.center - centers
        whole = np.floor(shift)
        first = whole.astype(np.int64) - SHIFT_TAPS // 2 + 1
        # One first tap for all lanes; the taps that a lane does not have weigh 0, which changes none of its bits.
        self._first = int(first.min())
        weights = np.zeros((SHIFT_TAPS + int(first.max()) - self._first, LANES), dtype=np.float32)
        for lane in range(LANES):
            start = int(first[lane]) - self._first
            weights[start : start + SHIFT_TAPS, lane] = shift_weights(float(shift[lane] - whole[lane]), positive)
        self._weights = weights

    def forward(self, lines: Floats, out: Floats) -> None:
        """From (angles, width, lanes) about the common axis to (angles, columns, lanes)."""
        run_in_threads(lambda angle: _shift(lines[angle], self._first, self._weights, out[angle]), lines.shape[0])

    def adjoint(self, projections: Floats) -> Floats:
        """The transpose: from (angles, columns, lanes) to (angles, width, lanes)."""
        lines = np.empty((projections.shape[0], self.width, LANES), dtype=np.float32)
        last = self._first + self._weights.shape[0] - 1
        turned = np.ascontiguousarray(self._weights[::-1])
        run_in_threads(lambda angle: _shift(projections[angle], -last, turned, lines[angle]), lines.shape[0])
        return lines


def shift_weights(part: float, positive: bool = False) -> Floats:
    """Weights of the samples k = 1 - taps/2 ... taps/2 in the value at `part` (0 to 1) of the way from sample 0 to 1.

    A sinc under a Kaiser window, scaled so that a constant is kept; where no weight may be negative, a triangle.
    """
    distance = part - np.arange(1 - SHIFT_TAPS // 2, SHIFT_TAPS // 2 + 1)
    if positive:
        triangle: Floats = np.maximum(0, 1 - np.abs(distance)).astype(np.float32)
        return triangle
    window = np.i0(SHIFT_BETA * np.sqrt(np.maximum(0, 1 - (2 * distance / SHIFT_TAPS) ** 2)))
    weights = np.sinc(distance) * window
    normalised: Floats = (weights / weights.sum()).astype(np.float32)
    return normalised


# Positions and weights of 16 rows or projections at a time, as vectors: LLVM makes none of loops this short by itself,
# so they are written as such; on machines with narrower vectors it splits them.

_intrinsic: Any = intrinsic  # numba's type for it has the kernels' calls wrong
_FLOAT, _INT, _LONG = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_FLOATS, _INTS = ir.VectorType(_FLOAT, 16), ir.VectorType(_INT, 16)
_FUSED = ("contract", "nsz")  # multiply-add in one instruction where there is one; sums keep their order


def _data(context: Any, builder: ir.IRBuilder, kind: Any, value: Any) -> Any:
    """Address of an array's first element."""
    return context.data_model_manager[kind].get(builder, value, "data")


def _vector_at(builder: ir.IRBuilder, data: Any, index: Any, kind: ir.VectorType = _FLOATS) -> Any:
    element = builder.gep(data, [index], source_etype=kind.element)
    return builder.bitcast(element, kind.as_pointer())


def _load(builder: ir.IRBuilder, data: Any, index: Any) -> Any:
    return builder.load(_vector_at(builder, data, index), align=4, typ=_FLOATS)


def _store(builder: ir.IRBuilder, vector: Any, data: Any, index: Any) -> None:
    builder.store(vector, _vector_at(builder, data, index, vector.type), align=4)


def _fused(builder: ir.IRBuilder, a: Any, b: Any, c: Any) -> Any:
    """a * b + c"""
    return builder.fadd(builder.fmul(a, b, flags=_FUSED), c, flags=_FUSED)


def _constant(values: Any, kind: ir.VectorType = _FLOATS) -> Any:
    return ir.Constant(kind, [kind.element(value) for value in values])


def _spread(builder: ir.IRBuilder, scalar: Any) -> Any:
    undefined = ir.Constant(_FLOATS, ir.Undefined)
    vector = builder.insert_element(undefined, scalar, ir.Constant(_INT, 0))
    return builder.shuffle_vector(vector, undefined, _constant([0] * 16, _INTS))


def _spread_lane(builder: ir.IRBuilder, vector: Any, lane: int) -> Any:
    return builder.shuffle_vector(vector, ir.Constant(_FLOATS, ir.Undefined), _constant([lane] * 16, _INTS))


def _tree_sum(builder: ir.IRBuilder, vectors: list[Any]) -> Any:
    while len(vectors) > 1:
        vectors = [builder.fadd(a, b) for a, b in zip(vectors[::2], vectors[1::2], strict=True)]
    return vectors[0]


@_intrinsic
def _add_ray(_typing: Any, window: Any, start: Any, step: Any, length: Any, target: Any, at: Any) -> Any:
    """target[at : at + 16] += length * sum of the window's 16 rows, interpolated at start + row * step."""

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        _, start, step, length, _, at = values
        pixels, sums_at = (_data(context, builder, signature.args[i], values[i]) for i in (0, 4))
        position = _fused(builder, _spread(builder, step), _constant(range(16)), _spread(builder, start))
        left = builder.fptosi(position, _INTS)
        part = builder.fsub(position, builder.sitofp(left, _FLOATS))
        rows = _constant([row * WINDOW * LANES for row in range(16)], _INTS)
        offset = builder.add(builder.shl(left, _constant([4] * 16, _INTS)), rows)
        sums = [_constant([0.0] * 16)] * 2
        for row in range(ROWS):
            index = builder.zext(builder.extract_element(offset, ir.Constant(_INT, row)), _LONG)
            a = _load(builder, pixels, index)
            b = _load(builder, pixels, builder.add(index, ir.Constant(_LONG, LANES)))
            before = builder.fadd(sums[row % 2], a)
            sums[row % 2] = _fused(builder, builder.fsub(b, a), _spread_lane(builder, part, row), before)
        total = _fused(builder, _tree_sum(builder, sums), _spread(builder, length), _load(builder, sums_at, at))
        _store(builder, total, sums_at, at)
        return context.get_dummy_value()

    return types.void(window, types.float32, types.float32, types.float32, target, types.intp), emit


@_intrinsic
def _pixel_weights(_typing: Any, views: Any, x: Any, offsets: Any, weights: Any, pixel: Any) -> Any:
    """Where 16 projections see the pixel at x, and the weights of the two rays beside it.

    `views` is (4, 16): position of x = 0 in the projections' windows, cosine, k and k^2 with k = 1 / max(|cos|, |sin|).
    A ray at distance d of the pixel was given max(0, k - d k^2) of it. `offsets` gets 16, `weights` 2 * 16 numbers.
    """

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        _, x, _, _, pixel = values
        seen, places, shares = (_data(context, builder, signature.args[i], values[i]) for i in (0, 2, 3))
        base, cosine, k, k2 = (_load(builder, seen, ir.Constant(_LONG, 16 * i)) for i in range(4))
        position = _fused(builder, _spread(builder, x), cosine, base)
        left = builder.fptosi(position, _INTS)
        part = builder.fmul(builder.fsub(position, builder.sitofp(left, _FLOATS)), k2)
        lines = _constant([line * LINE * LANES for line in range(16)], _INTS)
        at = builder.mul(pixel, ir.Constant(_LONG, 16))
        _store(builder, builder.add(builder.shl(left, _constant([4] * 16, _INTS)), lines), places, at)
        zero = _constant([0.0] * 16)
        for ray, weight in enumerate((builder.fsub(k, part), builder.fadd(builder.fsub(k, k2), part))):
            positive = builder.select(builder.fcmp_ordered(">", weight, zero), weight, zero)
            place = builder.add(builder.mul(pixel, ir.Constant(_LONG, 32)), ir.Constant(_LONG, 16 * ray))
            _store(builder, positive, shares, place)
        return context.get_dummy_value()

    return types.void(views, types.float32, offsets, weights, types.intp), emit


@njit(cache=True, nogil=True, error_model="numpy")
def _add_pixel(
    window: Floats, offsets: npt.NDArray[np.int32], weights: Floats, pixel: int, target: Floats, at: int
) -> None:
    """target[at : at + 16] += what 16 projections' windows have for a pixel, by the numbers of `_pixel_weights`."""
    # Unsigned: signed indices may wrap, and checking that takes as long as the sums.
    offset, weight = np.uint64(16 * pixel), np.uint64(32 * pixel)
    even, odd = load(target, at), spread(np.float32(0))  # two sums: each waits for its last addition
    for pair in range(PROJECTIONS // 2):
        view = np.uint64(2 * pair)
        i, j = np.int64(offsets[offset + view]), np.int64(offsets[offset + view + np.uint64(1)])
        even = even + load(window, i) * weights[weight + view]
        odd = odd + load(window, j) * weights[weight + view + np.uint64(1)]
        even = even + load(window, i + LANES) * weights[weight + view + np.uint64(16)]
        odd = odd + load(window, j + LANES) * weights[weight + view + np.uint64(17)]
    store(target, at, even + odd)


@njit(cache=True, nogil=True, error_model="numpy")
def _project(
    slices: Floats,
    n: int,
    block: Integers,
    over_columns: bool,
    ray_step: Doubles,
    row_step: Doubles,
    columns: int,
    center: float,
    circle: Integers,
    window: Floats,
    lines: Floats,
) -> None:
    """The projections of a block, all along rows or all along columns; `slices` and `lines` are flat."""
    middle = (n - 1) / 2
    for index in block:
        lines[index * columns * LANES : (index + 1) * columns * LANES] = 0
    for first_row in range(0, n, ROWS):
        left, right = n, 0
        for row in range(first_row, min(first_row + ROWS, n)):
            left, right = min(left, circle[row, 0]), max(right, circle[row, 1])
        for strip in range(-STRIP, n + REACH, STRIP):
            corner = strip - REACH
            if right <= corner or left >= corner + WINDOW:
                continue
            _fill_window(slices, n, over_columns, first_row, corner, circle, window)
            for index in block:
                # Rays whose position in the middle of the rows lies in the strip.
                drift = middle + (first_row + (ROWS - 1) / 2 - middle) * row_step[index]
                at_start = (strip - drift) / ray_step[index] + center
                at_end = (strip + STRIP - drift) / ray_step[index] + center
                if ray_step[index] > 0:
                    first, last = math.ceil(at_start), math.ceil(at_end)
                else:
                    first, last = math.floor(at_end) + 1, math.floor(at_start) + 1
                first, last = max(first, 0), min(last, columns)
                start = middle + (first - center) * ray_step[index] + (first_row - middle) * row_step[index] - corner
                step, length = np.float32(row_step[index]), np.float32(abs(ray_step[index]))
                for column in range(first, last):
                    _add_ray(window, np.float32(start), step, length, lines, (index * columns + column) * LANES)
                    start += ray_step[index]


@njit(cache=True, nogil=True, error_model="numpy")
def _fill_window(
    slices: Floats, n: int, over_columns: bool, first_row: int, corner: int, circle: Integers, window: Floats
) -> None:
    """Copy pixels of 16 rows from `corner` on (of 16 columns, the slice transposed), zeros outside the circle."""
    for row in range(ROWS):
        left, right = 0, 0
        if first_row + row < n:
            left = min(max(circle[first_row + row, 0] - corner, 0), WINDOW)
            right = min(max(circle[first_row + row, 1] - corner, left), WINDOW)
        base = row * WINDOW * LANES
        window[base : base + left * LANES] = 0
        window[base + right * LANES : base + WINDOW * LANES] = 0
        step = n * LANES if over_columns else LANES
        source = (first_row + row) * (LANES if over_columns else n * LANES) + (corner + left) * step
        for x in range(left, right):
            store(window, base + x * LANES, load(slices, source))
            source += step


@njit(cache=True, nogil=True, error_model="numpy")
def _backproject(
    lines: Floats,
    cosine: Doubles,
    sine: Doubles,
    columns: int,
    center: float,
    circle: Integers,
    first_y: int,
    first_x: int,
    window: Floats,
    views: Floats,
    offsets: npt.NDArray[np.int32],
    weights: Floats,
    sums: Floats,
    slices: Floats,
) -> None:
    """One square of the slices; the arrays are flat, those from `window` to `sums` this thread's own."""
    n = circle.shape[0]
    last_y, last_x = min(first_y + SQUARE, n), min(first_x + SQUARE, n)
    sums[:] = 0
    starts = np.empty(PROJECTIONS)  # where the windows' projections see the tile's first pixel
    for first_angle in range(0, cosine.size, PROJECTIONS):
        for tile_y in range(first_y, last_y, TILE):
            for tile_x in range(first_x, last_x, TILE):
                left, right = n, 0
                for y in range(tile_y, min(tile_y + TILE, n)):
                    left, right = min(left, circle[y, 0]), max(right, circle[y, 1])
                if right <= tile_x or left >= tile_x + TILE:
                    continue
                _fill_views(lines, cosine, sine, columns, center, n, first_angle, tile_y, tile_x, window, starts, views)
                for y in range(tile_y, min(tile_y + TILE, n)):
                    for view in range(min(PROJECTIONS, cosine.size - first_angle)):
                        views[view] = starts[view] - (y - tile_y) * sine[first_angle + view]
                    x_from, x_to = max(tile_x, circle[y, 0]) - tile_x, min(tile_x + TILE, circle[y, 1]) - tile_x
                    for x in range(x_from, x_to):
                        _pixel_weights(views, np.float32(x), offsets, weights, x)
                    at = ((y - first_y) * SQUARE + tile_x - first_x) * LANES
                    for x in range(x_from, x_to):
                        _add_pixel(window, offsets, weights, x, sums, at + x * LANES)
    for y in range(first_y, last_y):
        for x in range(first_x, last_x):  # outside the circle nothing was added
            store(slices, (y * n + x) * LANES, load(sums, ((y - first_y) * SQUARE + x - first_x) * LANES))


@njit(cache=True, nogil=True, error_model="numpy")
def _fill_views(
    lines: Floats,
    cosine: Doubles,
    sine: Doubles,
    columns: int,
    center: float,
    n: int,
    first_angle: int,
    tile_y: int,
    tile_x: int,
    window: Floats,
    starts: Doubles,
    views: Floats,
) -> None:
    """Copy the columns of 16 projections that a tile sees, zeros beside the detector; see `_pixel_weights` for views."""
    middle = (n - 1) / 2
    for view in range(PROJECTIONS):
        base = view * LINE * LANES
        angle = first_angle + view
        if angle >= cosine.size:
            views[view::PROJECTIONS] = 0
            window[base : base + LINE * LANES] = 0
            continue
        position = (tile_x - middle) * cosine[angle] + (middle - tile_y) * sine[angle] + center
        lowest = position + (TILE - 1) * (min(0.0, cosine[angle]) - max(0.0, sine[angle]))
        first = math.floor(lowest - 1e-3)  # rounding must not lead to the left of the window
        k = 1 / max(abs(cosine[angle]), abs(sine[angle]))
        starts[view] = position - first
        views[view + PROJECTIONS] = cosine[angle]
        views[view + 2 * PROJECTIONS] = k
        views[view + 3 * PROJECTIONS] = k * k
        left = min(max(-first, 0), LINE)
        right = max(min(columns - first, LINE), left)
        window[base : base + left * LANES] = 0
        window[base + right * LANES : base + LINE * LANES] = 0
        source = (angle * columns + first) * LANES
        for column in range(left, right):
            store(window, base + column * LANES, load(lines, source + column * LANES))


@njit(cache=True, nogil=True, error_model="numpy")
def _shift(source: Floats, first: int, weights: Floats, target: Floats) -> None:
    """target[i] = sum over k of weights[k] * source[i + first + k]; all are (.., lanes), `source` is 0 beside itself."""
    flat, taps, out = source.reshape(-1), weights.reshape(-1), target.reshape(-1)
    for column in range(target.shape[0]):
        start = column + first
        total = spread(np.float32(0))
        for tap in range(max(0, -start), min(weights.shape[0], source.shape[0] - start)):
            total = total + load(flat, (start + tap) * LANES) * load(taps, tap * LANES)
        store(out, column * LANES, total)
