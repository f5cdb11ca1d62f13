"""Filtered backprojection on the CPU against the same sums written plainly in NumPy, and against itself cut otherwise."""

from __future__ import annotations

import threading
import tracemalloc

import numba
import numpy as np
import numpy.typing as npt
import pytest

from tomopipe.functions.reconstruction.direct import padded_length
from tomopipe.functions.reconstruction.fbp import FilteredBackprojection
from tomopipe.functions.reconstruction.filters import ramp_filter
from tomopipe.functions.reconstruction.geometry import angular_weights

Doubles = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]


def plain_slice(sinogram: Doubles, theta: Doubles, center: float, filter_name: str, padding: str) -> Doubles:
    """Filter, move the axis to the middle and interpolate linearly, in double precision."""
    angles, n = sinogram.shape
    length = padded_length(n)
    right = (length - n) // 2
    padded = np.zeros((angles, length))
    padded[:, :n] = sinogram
    if padding == "edge":
        padded[:, n : n + right] = sinogram[:, -1:]
        padded[:, n + right :] = sinogram[:, :1]
    shift = np.exp(2j * np.pi * np.arange(length // 2 + 1) / length * (center - (n + 1) / 2))
    lines = np.fft.irfft(np.fft.rfft(padded) * ramp_filter(length, filter_name) * shift, n=length)[:, : n + 2]
    along = np.arange(n) - (n - 1) / 2
    x, y = along[None, :], -along[:, None]
    inside = 4 * (x**2 + y**2) <= n**2
    image = np.zeros((n, n))
    for line, angle, weight in zip(lines, theta, angular_weights(theta), strict=True):
        position = np.where(inside, x * np.cos(angle) + y * np.sin(angle), 0) + (n + 1) / 2
        image += weight * np.interp(position, np.arange(n + 2), line)
    return np.where(inside, image, 0)


def rough_rows(angles: int, rows: int, columns: int) -> Floats:
    """Random walks: rough, and with different values at the detector's two ends."""
    steps = np.random.default_rng(angles + columns).standard_normal((angles, rows, columns))
    return np.cumsum(steps, axis=2).astype(np.float32)


def uneven_angles(count: int) -> Doubles:
    return np.asarray(np.random.default_rng(count).uniform(-1.0, 2 * np.pi, count))


@pytest.mark.parametrize(
    ("angles", "columns", "center"),
    [
        (3, 2, 0.5),
        (3, 2, -0.5),
        (5, 3, 1.0),
        (7, 5, 4.5),  # the axis on the detector's end
        (16, 15, 7.0),
        (17, 16, 6.3),
        (33, 64, 31.5),
        (20, 65, -0.5),
        (40, 81, 80.5),  # a padded length whose half is odd
        (31, 130, 70.2),  # more than two squares of pixels
    ],
)
@pytest.mark.parametrize(("filter_name", "padding"), [("ramp", "edge"), ("hann", "zero"), ("none", "edge")])
def test_agrees_with_plain_sums(angles: int, columns: int, center: float, filter_name: str, padding: str) -> None:
    theta, rows = uneven_angles(angles), 2
    projections = rough_rows(angles, rows, columns)
    found = FilteredBackprojection(theta, columns, center, filter_name=filter_name, padding=padding)(projections)
    for row in range(rows):
        expected = plain_slice(projections[:, row].astype(float), theta, center, filter_name, padding)
        assert np.abs(found[row] - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("columns", [2, 3, 16, 63, 64, 65, 129])
def test_every_pixel_is_written_and_the_rim_is_full(columns: int) -> None:
    """The circle's pixels touch both ends of the detector; with lines that are 1 everywhere all have the same value."""
    theta = np.arange(19) * np.pi / 19
    ones = np.ones((19, 17, columns), dtype=np.float32)
    out = np.full((17, columns, columns), np.nan, dtype=np.float32)
    FilteredBackprojection(theta, columns, (columns - 1) / 2, filter_name="none")(ones, out=out)
    along = 2 * np.arange(columns) - columns + 1
    inside = along[:, None] ** 2 + along[None, :] ** 2 <= columns**2
    np.testing.assert_allclose(out[:, inside], np.pi, rtol=1e-5)
    assert np.array_equal(out[:, ~inside], np.zeros_like(out[:, ~inside]))


@pytest.mark.parametrize("columns", [65, 96])
def test_bits_depend_on_neither_rows_nor_threads(columns: int) -> None:
    theta, projections = uneven_angles(37), rough_rows(37, 35, columns)
    centers = np.linspace(20.0, 40.0, 35)
    ready = FilteredBackprojection(theta, columns)
    everything = ready(projections, center=centers)
    for first, last in ((0, 1), (3, 19), (16, 32), (34, 35)):
        part = ready(projections[:, first:last], center=centers[first:last])
        assert np.array_equal(part, everything[first:last])
    threads = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        assert np.array_equal(ready(projections, center=centers), everything)
    finally:
        numba.set_num_threads(threads)


def test_what_a_call_leaves_behind_changes_nothing() -> None:
    """The workspace is kept: neither a wider batch before nor NaN in it reaches the next call."""
    theta, projections = uneven_angles(21), rough_rows(21, 16, 40)
    expected = FilteredBackprojection(theta, 40, 19.0)(projections[:, :3])
    used = FilteredBackprojection(theta, 40, 19.0)
    used(np.full_like(projections, np.nan))
    assert np.array_equal(used(projections[:, :3]), expected)


def test_calls_from_several_threads_at_once() -> None:
    theta, projections = uneven_angles(30), rough_rows(30, 20, 70)
    ready = FilteredBackprojection(theta, 70, 33.0)
    expected = [ready(projections[:, first:]) for first in range(4)]
    found: dict[int, Floats] = {}

    def call(first: int) -> None:
        for _ in range(5):
            found[first] = ready(projections[:, first:])

    callers = [threading.Thread(target=call, args=(first,)) for first in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert all(np.array_equal(found[first], expected[first]) for first in range(4))


@pytest.mark.parametrize(("angles", "columns"), [(180, 256), (50, 33)])
def test_workspace_is_as_stated(angles: int, columns: int) -> None:
    projections = rough_rows(angles, 17, columns)
    out = np.empty((17, columns, columns), dtype=np.float32)
    ready = FilteredBackprojection(uneven_angles(angles), columns, columns / 2)
    FilteredBackprojection(uneven_angles(3), columns, columns / 2)(projections[:3], out=out)  # compiles
    tracemalloc.start()
    ready(projections, out=out)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    stated = FilteredBackprojection.workspace_bytes(angles, columns)
    assert 0.5 * stated < peak < stated + 200_000
