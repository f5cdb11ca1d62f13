"""Removes zingers, the pixels that a stray X-ray or a cosmic ray lights up in a single projection, from raw counts.

Dead and hot pixels, which are so in all projections, are left to `normalization` and `stripes`.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final, Literal

import numba
import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, ParameterError
from .normalization import for_kernel, in_pieces_of_angles, mend_row

Neighborhood = Literal["projection", "stack"]

REACH_ROWS: Final = 1
"""How many rows above and below a row its result depends on by default; `reach_rows` says so for any size."""

SPREADS: Final = 5
# Pure noise exceeds 5 such spreads in 1.3 % of all pixels, whatever the counts;
# without this, a weakly lit pixel's noise passes for a zinger and is cut off at one side only.
_LOW_RANK: Final = {9: 1, 25: 4, 27: 4}
# Of nine the second smallest, and of more the one that stands as far below the median in Gaussian noise.
_CHUNK: Final = 256
# Added and taken away again, it leaves the nearest integer of a float32 below 2^22.
_ROUNDING: Final = np.float32(1.5 * 2**23)


def reach_rows(size: int = 3) -> int:
    """How many rows above and below a row its result depends on: read so many more, and drop them afterwards."""
    return size // 2


def remove_zingers(
    projections: NDArray[Any],
    dark: NDArray[np.float32],
    threshold: float,
    *,
    size: int = 3,
    neighborhood: Neighborhood = "projection",
) -> NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.float32]:
    """Replace a pixel that is far brighter than its surroundings by the median of its neighbourhood.

    With the counts c above the dark, the median m of the neighbourhood (the pixel itself included) and its low value s,
    the second smallest of nine or the fifth smallest of 25 or 27, a pixel is a zinger where ::

        c - m > threshold * max(m, 0)   and   c - m > 5 * (m - s)

    The first is the user's: brighter than the surroundings by that fraction. The second keeps noise and edges: the
    spread of the darker neighbours, which zingers do not touch and a single dead pixel does not either, tells how much
    the counts vary here. A zinger becomes m plus its own dark level; every other value is kept to the bit. Beyond the
    detector's border its pixels are mirrored, and so are the first and the last projection. Values that are not finite
    stay; in their neighbours' neighbourhoods they count as what `normalization` will mend them to.

    Parameters
    ----------
    projections : (angles, rows, columns), any integer or floating dtype, raw counts
        `reach_rows(size)` more rows at each side than are wanted, where the detector has them.
    dark : (rows, columns) float32, raw counts
        The combined closed-shutter frame, so that a hot pixel is not taken for a zinger.
    threshold : float, dimensionless
        0.3 removes what is more than 30 % brighter than its surroundings; above 0.
    size : {3, 5}
        Edge of the neighbourhood in pixels; 5 for zingers of two by two pixels. 3 alone with neighbourhood "stack".
    neighborhood : {"projection", "stack"}
        Whether the neighbourhood lies in one projection (3 x 3 or 5 x 5), or in the ones before and after it too
        (3 x 3 x 3). Rows of the same bits need the same projections, all of them.

    Returns
    -------
    (angles, rows, columns), raw counts
        uint8 and uint16 stay so, any other dtype becomes float32. `projections` is not changed.

    Raises
    ------
    InputError
        The shapes do not fit each other.
    ParameterError
        `threshold` is not above 0, or there is no such neighbourhood.
    """
    if projections.ndim != 3 or dark.shape != projections.shape[1:]:
        raise InputError(
            f"projections have the shape {projections.shape}, the dark {dark.shape}: give projections "
            "(angles, rows, columns), and the dark as (rows, columns) of the same detector rows"
        )
    if not threshold > 0:
        raise ParameterError(f"threshold is {threshold}: give a fraction above 0, such as 0.3, or leave zingers alone")
    return _without_outliers(
        projections, np.ascontiguousarray(dark, np.float32), (0.0, threshold, SPREADS), size, neighborhood
    )


def remove_outliers(
    projections: NDArray[Any], difference: float, *, size: int = 3, neighborhood: Neighborhood = "projection"
) -> NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.float32]:
    """Replace a pixel that exceeds the median of its neighbourhood by `difference` counts or more, as TomoPy does.

    The same pixels as TomoPy's ``remove_outlier(arr, dif, size)`` with ``axis=0`` in the same counts. It takes no account
    of how bright the surroundings are, and of noise; `remove_zingers` does.

    Parameters
    ----------
    projections : (angles, rows, columns), any integer or floating dtype, raw counts
    difference : float, counts
        Above 0.
    size : {3, 5}
    neighborhood : {"projection", "stack"}
        As for `remove_zingers`. "stack" is TomoPy's ``remove_outlier3d`` but for dark outliers, which that replaces too.

    Returns
    -------
    (angles, rows, columns), raw counts
        uint8 and uint16 stay so (TomoPy's become float32 of the same numbers), any other dtype becomes float32.

    Raises
    ------
    InputError
        `projections` have not three dimensions.
    ParameterError
        `difference` is not above 0, or there is no such neighbourhood.
    """
    if projections.ndim != 3:
        raise InputError(f"projections have the shape {projections.shape}: give them as (angles, rows, columns)")
    if not difference > 0:
        raise ParameterError(f"difference is {difference}: give counts above 0, such as 500")
    return _without_outliers(
        projections, np.zeros(projections.shape[1:], np.float32), (difference, 0.0, 0.0), size, neighborhood
    )


def _without_outliers(
    projections: NDArray[Any],
    dark: NDArray[np.float32],
    limits: tuple[float, float, float],
    size: int,
    neighborhood: Neighborhood,
) -> NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.float32]:
    """What exceeds the median by all of: counts, a fraction of the median, a number of spreads."""
    if (size, neighborhood) not in ((3, "projection"), (5, "projection"), (3, "stack")):
        raise ParameterError(
            f"size {size} with the neighbourhood {neighborhood!r}: take 3 or 5 with 'projection', or 3 with 'stack'"
        )
    raw = for_kernel(projections)
    out = np.empty_like(raw)
    if not raw.size:
        return out
    largest = np.float32(np.iinfo(raw.dtype).max if raw.dtype.kind == "u" else np.inf)
    difference, threshold, spreads = (np.float32(limit) for limit in limits)

    def remove(first: int, last: int) -> None:
        if size == 3 and neighborhood == "projection":
            lines = np.empty((6, raw.shape[2] + 2), np.float32)
            _remove_3x3(raw[first:last], dark, lines, difference, threshold, spreads, largest, out[first:last])
            return
        planes = 3 if neighborhood == "stack" else 1
        values = planes * size * size
        ranks = (_LOW_RANK[values], values // 2)
        lines = np.empty((planes * size, raw.shape[2] + size - 1), np.float32)
        _remove_by_network(
            raw, dark, first, last, size, lines, _aligned(values), _network(values, ranks), ranks,
            difference, threshold, spreads, largest, out,
        )  # fmt: skip

    in_pieces_of_angles(raw.shape, remove)
    return out


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _load_row(raw: NDArray[Any], dark: NDArray[np.float32], row: NDArray[np.float32]) -> None:
    """Counts above the dark of one row of one projection, what is not finite mended."""
    bad = 0
    for x in range(raw.size):
        row[x] = np.float32(raw[x]) - dark[x]
        bad += not abs(row[x]) < np.float32(np.inf)
    if bad:
        mend_row(row, raw.size)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _remove_3x3(
    raw: NDArray[Any],
    dark: NDArray[np.float32],
    lines: NDArray[np.float32],
    difference: np.float32,
    threshold: np.float32,
    spreads: np.float32,
    largest: np.float32,
    out: NDArray[Any],
) -> None:
    """Medians of 3 x 3: columns sorted, then the median of (largest low, median of the middle ones, smallest high)."""
    angles, rows, columns = raw.shape
    # columns of three, sorted, with the border's repeated at both ends
    low, mid, high = lines[3], lines[4], lines[5]
    for angle in range(angles):
        _load_row(raw[angle, 0], dark[0], lines[0])
        for y in range(rows):
            # counts above the dark: each row is in one of three lines in turn
            above, here, below = lines[(y + 2) % 3], lines[y % 3], lines[(y + 1) % 3]
            if y == 0:
                above = here
            if y + 1 < rows:
                _load_row(raw[angle, y + 1], dark[y + 1], below)
            else:
                below = here
            for x in range(columns):
                small, large = min(above[x], here[x]), max(above[x], here[x])
                low[x + 1] = min(small, below[x])
                mid[x + 1] = max(small, min(large, below[x]))
                high[x + 1] = max(large, below[x])
            low[0], mid[0], high[0] = low[1], mid[1], high[1]
            low[columns + 1], mid[columns + 1], high[columns + 1] = low[columns], mid[columns], high[columns]
            for x in range(columns):
                small, large = min(low[x], low[x + 1]), max(low[x], low[x + 1])
                # nothing but the smallest of the nine is below these
                second = min(max(small, min(large, low[x + 2])), min(mid[x], min(mid[x + 1], mid[x + 2])))
                a = max(large, low[x + 2])
                small, large = min(mid[x], mid[x + 1]), max(mid[x], mid[x + 1])
                b = max(small, min(large, mid[x + 2]))
                c = min(high[x], min(high[x + 1], high[x + 2]))
                small, large = min(a, b), max(a, b)
                median = max(small, min(large, c))
                out[angle, y, x] = _kept_or_median(
                    np.float32(raw[angle, y, x]), dark[y, x], median, second, difference, threshold, spreads, largest
                )


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _kept_or_median(
    value: np.float32,
    dark: np.float32,
    median: np.float32,
    low: np.float32,
    difference: np.float32,
    threshold: np.float32,
    spreads: np.float32,
    largest: np.float32,
) -> np.float32:
    """A pixel's counts, or the median's where it is a zinger; without branches, for loops to become vectors."""
    counts = value - dark
    excess = counts - median
    zinger = (
        (excess >= difference)
        & (excess > threshold * max(median, np.float32(0)))
        & (excess > spreads * (median - low))
        & (counts < np.float32(np.inf))
    )
    replaced = median + dark
    rounded = (replaced + _ROUNDING) - _ROUNDING
    whole = min(max(rounded, np.float32(0)), largest)
    replaced = whole if largest < np.float32(np.inf) else replaced
    return replaced if zinger else value


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _mirrored(index: int, size: int) -> int:
    """The index beyond a border as its mirror image lies, the border's own pixel twice."""
    index %= 2 * size
    return min(index, 2 * size - 1 - index)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _remove_by_network(
    raw: NDArray[Any],
    dark: NDArray[np.float32],
    first: int,
    last: int,
    size: int,
    lines: NDArray[np.float32],
    box: NDArray[np.float32],
    network: NDArray[np.int64],
    ranks: tuple[int, int],
    difference: np.float32,
    threshold: np.float32,
    spreads: np.float32,
    largest: np.float32,
    out: NDArray[Any],
) -> None:
    """Medians of any box: its pixels beside each other, for many columns at once, sorted by a network of exchanges."""
    angles, rows, columns = raw.shape
    across_rows, planes = size // 2, len(lines) // size
    for angle in range(first, last):
        for y in range(rows):
            # row r of a plane is in its line r modulo size
            for row in range(0 if y == 0 else y + across_rows, min(y + across_rows + 1, rows)):
                for plane in range(planes):
                    padded = lines[plane * size + row % size]
                    from_angle = _mirrored(angle + plane - planes // 2, angles)
                    _load_row(raw[from_angle, row], dark[row], padded[across_rows:])
                    for x in range(across_rows):
                        padded[x] = padded[across_rows + _mirrored(x - across_rows, columns)]
                        padded[across_rows + columns + x] = padded[across_rows + _mirrored(columns + x, columns)]
            for start in range(0, columns, _CHUNK):
                width = min(_CHUNK, columns - start)
                for plane in range(planes):
                    for dy in range(size):
                        line = lines[plane * size + _mirrored(y + dy - across_rows, rows) % size]
                        for dx in range(size):
                            # a slice, as LLVM has to ask of a computed index whether it counts from the end
                            part, pixel = line[start + dx :], box[(plane * size + dy) * size + dx]
                            for x in range(width):
                                pixel[x] = part[x]
                for step in range(len(network)):
                    one, other = box[network[step, 0]], box[network[step, 1]]
                    for x in range(width):
                        small, large = min(one[x], other[x]), max(one[x], other[x])
                        one[x], other[x] = small, large
                low, median = box[ranks[0]], box[ranks[1]]
                value, level, result = raw[angle, y, start:], dark[y, start:], out[angle, y, start:]
                for x in range(width):
                    result[x] = _kept_or_median(
                        np.float32(value[x]), level[x], median[x], low[x], difference, threshold, spreads, largest
                    )


def _aligned(values: int) -> NDArray[np.float32]:
    """Room for `values` lines of a chunk that begins where a cache line does: vectors across two of them take twice as long."""
    room = np.empty(values * _CHUNK + 16, np.float32)
    offset = -(room.ctypes.data // 4) % 16
    return room[offset : offset + values * _CHUNK].reshape(values, _CHUNK)


@cache
def _network(size: int, ranks: tuple[int, ...]) -> NDArray[np.int64]:
    """Exchanges (steps, 2) after which the values at `ranks` are those that sorting would bring there.

    Batcher's odd-even merge sort (DOI 10.1145/1468075.1468121), without the exchanges that the wanted ranks do not need.
    """
    steps = []
    span = 1
    while span < size:
        distance = span
        while distance:
            for start in range(distance % span, size - distance, 2 * distance):
                for index in range(start, min(start + distance, size - distance)):
                    if index // (2 * span) == (index + distance) // (2 * span):
                        steps.append((index, index + distance))
            distance //= 2
        span *= 2
    needed = set(ranks)
    kept = []
    for step in reversed(steps):
        if needed & set(step):
            needed |= set(step)
            kept.append(step)
    return np.array(kept[::-1], np.int64)
