"""Arithmetic on batches of lanes that NumPy arrays and PyTorch tensors share; on the CPU in cache-sized pieces, in threads.

Lanes are the last axis. Numbers per lane are float64 on the host. Nothing depends on the number of threads, and no lane
on another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from .direct import Floats, circle_columns
from .lane_vectors import aligned_empty
from .operators import Array
from .threads import run_in_threads

CHUNK_BYTES = 2**19  # of each array, worked on at a time on the CPU: fits a core's second cache

Doubles = npt.NDArray[np.float64]


def checked_input(array: Floats, shape: tuple[int, ...], name: str) -> Floats:
    """A projector's argument as contiguous float32, refused where its shape is another."""
    if array.shape != shape:
        raise InputError(f"{name} have shape {array.shape}; needed is {shape}")
    return np.ascontiguousarray(array, dtype=np.float32)


def checked_output(out: Floats | None, shape: tuple[int, ...]) -> Floats:
    """Where a projector's result goes: `out`, refused where kernels cannot write into it, or a new array."""
    if out is None:
        return aligned_empty(*shape)
    if out.shape != shape or out.dtype != np.float32 or not out.flags.c_contiguous:
        raise InputError(f"out has shape {out.shape} and type {out.dtype}; needed is {shape}, float32 in C order")
    return out


def each(work: Callable[..., None], *arrays: Array) -> None:
    """Call work(*pieces) for all pieces of the arrays along their first axis: cache-sized on the CPU, else in one."""
    if not isinstance(arrays[0], np.ndarray):
        work(*arrays)
        return
    length = arrays[0].shape[0]
    chunk = max(1, CHUNK_BYTES * length // arrays[0].nbytes)

    def piece(index: int) -> None:
        work(*(array[index * chunk : (index + 1) * chunk] for array in arrays))

    run_in_threads(piece, -(-length // chunk))


def filled(shape: tuple[int, ...], value: float, like: Array) -> Array:
    """An array of the same kind, type and device as `like`."""
    if isinstance(like, np.ndarray):
        return np.full(shape, value, dtype=like.dtype)
    return like.new_full(shape, value)


def lane_values(values: npt.NDArray[Any], like: Array) -> Array:
    """Numbers of the host as an array of the same kind, type and device as `like`."""
    if isinstance(like, np.ndarray):
        return values.astype(like.dtype)
    return like.new_tensor(values.astype(np.float32))


def inside_circle(slices: Array) -> Array:
    """1 in the reconstructed circle, else 0: (columns, columns, 1)."""
    circle, columns = circle_columns(slices.shape[0]), np.arange(slices.shape[0])
    inside = (columns >= circle[:, :1]) & (columns < circle[:, 1:])
    return lane_values(inside[:, :, None], slices)


def one_lane_if_equal(a: Array) -> Array:
    """One lane in place of all, where all are the same (one rotation axis): a sixteenth of the memory."""
    first = a[..., :1]
    return first + 0 if bool((a == first).all()) else a


def lane_maxima(a: Array) -> Doubles:
    """Largest values of the lanes: (lanes,) float64."""
    largest = a.max((0, 1)) if isinstance(a, np.ndarray) else a.amax((0, 1)).cpu()
    return np.asarray(largest, dtype=np.float64)


def lane_norms(a: Array) -> Doubles:
    """Euclidean norms of the lanes: (lanes,) float64."""
    return np.sqrt(lane_products(a, a))


def lane_products(a: Array, b: Array) -> Doubles:
    """Inner products of the lanes."""
    return lane_totals(_product, a, b)


def _product(a: Array, b: Array) -> Array:
    return a * b


def lane_totals(terms: Callable[..., Array], *arrays: Array) -> Doubles:
    """Sums of terms(*arrays) in each lane: (lanes,) float64 on the host; lines are summed in float32, then in float64."""
    if not isinstance(arrays[0], np.ndarray):
        lines = np.asarray(terms(*arrays).sum(1).cpu(), dtype=np.float64)
        return np.asarray(lines.sum(0))
    lines = np.empty((arrays[0].shape[0], 1, arrays[0].shape[2]))

    def sum_lines(*pieces: Floats) -> None:
        pieces[-1][:, 0] = terms(*pieces[:-1]).sum(1)

    each(sum_lines, *arrays, lines)
    total: Doubles = lines.sum((0, 1))
    return total
