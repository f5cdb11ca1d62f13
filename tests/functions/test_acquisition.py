"""The part of a scan that is used: regions, order of angles, projections left out, read in pieces of any size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tomopipe.functions import acquisition
from tomopipe.functions.acquisition import (
    SelectedScan,
    Selection,
    angular_order,
    center_in_projections,
    center_on_detector,
)
from tomopipe.functions.errors import ParameterError, ScanError
from tomopipe.functions.scan import Scan, open_scan

ANGLES, ROWS, COLUMNS = 24, 6, 10
RNG = np.random.default_rng(0)
DATA = RNG.integers(0, 60000, (ANGLES, ROWS, COLUMNS)).astype(np.uint16)
FLATS, DARKS = (RNG.integers(0, 60000, (count, ROWS, COLUMNS)).astype(np.uint16) for count in (5, 4))
HALF_TURN = np.arange(ANGLES) * 180.0 / ANGLES


@contextmanager
def opened(theta_deg: NDArray[np.float64] = HALF_TURN, **storage: Any) -> Iterator[Scan]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "scan.h5"
        with h5py.File(path, "w") as file:
            file.create_dataset("exchange/data", data=DATA, **storage)
            file["exchange/data_white"], file["exchange/data_dark"] = FLATS, DARKS
            file["exchange/theta"] = theta_deg
            file["exchange/theta"].attrs["units"] = "degrees"
        with open_scan(path) as scan:
            yield scan


@contextmanager
def opened_nxtomo() -> Iterator[Scan]:
    """The same projections in pairs, a flat after each pair."""
    key = np.array([2] * 4 + [0, 0, 1] * (ANGLES // 2))
    stack = np.zeros((key.size, ROWS, COLUMNS), np.uint16)
    stack[key == 0], stack[key == 2] = DATA, DARKS
    with TemporaryDirectory() as folder:
        path = Path(folder) / "scan.nxs"
        with h5py.File(path, "w") as file:
            file["entry/instrument/detector/data"] = stack
            file["entry/instrument/detector/image_key"] = key
            file["entry/sample/rotation_angle"] = np.where(key == 0, np.cumsum(key == 0) * 7.5, 0.0)
            file["entry/sample/rotation_angle"].attrs["units"] = "deg"
        with open_scan(path) as scan:
            yield scan


def message(scan: Scan, selection: Selection) -> str:
    """One line that says why a selection is refused."""
    with pytest.raises(ParameterError) as caught:
        SelectedScan(scan, selection)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- what is read ---------------------------------------------------------------------------------------------------


def test_without_a_selection_it_is_the_scan() -> None:
    with opened() as scan, SelectedScan(scan) as selected:
        assert selected.shape == scan.shape
        assert (selected.path, selected.layout, selected.dtype) == (scan.path, scan.layout, scan.dtype)
        assert (selected.metadata, selected.n_flats, selected.n_darks) == (scan.metadata, 5, 4)
        np.testing.assert_array_equal(selected.theta_deg, scan.theta_deg)
        np.testing.assert_array_equal(selected.read_rows(0, ROWS), DATA)
        np.testing.assert_array_equal(selected.flat_field(1, 3), scan.flat_field(1, 3))


@given(
    data=st.data(),
    chunks=st.sampled_from([None, (1, 6, 10), (1, 2, 10), (5, 3, 4), (24, 6, 1)]),
    block_bytes=st.sampled_from([1, 500, 2**26]),
)
@settings(max_examples=60, deadline=None)
def test_every_selection_reads_what_indexing_says(
    data: st.DataObject, chunks: tuple[int, ...] | None, block_bytes: int
) -> None:
    """Any region, step, shuffled angles and exclusions, whatever the file's chunks and the size of a piece."""

    def limits(size: int) -> tuple[int, int]:
        first = data.draw(st.integers(0, size - 1))
        return first, data.draw(st.integers(first + 1, size))

    theta = np.asarray(data.draw(st.permutations(range(ANGLES)))) * 14.0
    low = data.draw(st.integers(0, 100))
    selection = Selection(
        rows=limits(ROWS),
        columns=limits(COLUMNS),
        excluded_angles_deg=[(low - 0.5, low + 150.5)],
        angle_step=data.draw(st.integers(1, 3)),
    )
    by_angle = np.argsort(theta)[:: selection.angle_step]
    by_angle = by_angle[[not low - 0.5 <= theta[index] <= low + 150.5 for index in by_angle]]
    (top, bottom), (left, right) = selection.rows or (0, 0), selection.columns or (0, 0)
    expected = DATA[by_angle][:, top:bottom, left:right]
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, bottom - top)] * 2)))
    first, last = sorted(data.draw(st.tuples(*[st.integers(0, len(by_angle))] * 2)))
    storage = {} if chunks is None else {"chunks": chunks, "compression": "lzf"}
    with pytest.MonkeyPatch.context() as patch, opened(theta, **storage) as scan:
        patch.setattr(acquisition, "_BLOCK_BYTES", block_bytes)
        selected = SelectedScan(scan, selection)
        assert selected.shape == expected.shape
        np.testing.assert_array_equal(selected.theta_deg, theta[by_angle])
        np.testing.assert_array_equal(selected.file_projections, by_angle)
        rows = selected.read_rows(start, stop)
        np.testing.assert_array_equal(rows, expected[:, start:stop])
        assert rows.flags.c_contiguous and rows.dtype == np.uint16
        np.testing.assert_array_equal(selected.read_projections(first, last), expected[first:last])
        region = np.s_[top + start : top + stop, left:right]
        np.testing.assert_array_equal(selected.flats(slice(start, stop)), FLATS[:, *region])
        np.testing.assert_array_equal(selected.darks(), DARKS[:, top:bottom, left:right])
        np.testing.assert_allclose(selected.flat_field(start, stop), np.median(FLATS, axis=0)[region])
        np.testing.assert_allclose(selected.dark_field(start, stop), np.median(DARKS, axis=0)[region])


def test_frames_between_flats_are_read_in_order_of_angle() -> None:
    with opened_nxtomo() as scan:
        selected = SelectedScan(scan, Selection(angle_step=5, columns=(2, 9)))
        np.testing.assert_array_equal(selected.read_rows(1, 4), DATA[::5, 1:4, 2:9])
        positions = scan.flat_positions()
        assert positions is not None
        np.testing.assert_array_equal(selected.flat_positions(), positions)
        np.testing.assert_allclose(selected.projection_positions(), (np.arange(0, ANGLES, 5) + 0.5) / ANGLES)
        # two projections, a flat: which flats came before and after a projection can be told
        before = [int(np.sum(positions < position)) for position in selected.projection_positions()]
        assert before == [0, 2, 5, 7, 10]


def test_rows_are_read_into_a_given_array_and_nothing_outside_is() -> None:
    with opened(HALF_TURN[::-1].copy()) as scan:
        selected = SelectedScan(scan, Selection(rows=(2, 6), angle_step=2))
        out = np.zeros((12, 2, COLUMNS), np.uint16)
        assert selected.read_rows(1, 3, out=out) is out
        np.testing.assert_array_equal(out, DATA[::2, 3:5])
        for wrong in (out[:, :1], out.astype(np.float32), np.zeros((COLUMNS, 2, 12), np.uint16).T):
            with pytest.raises(ValueError, match="out must be"):
                selected.read_rows(1, 3, out=wrong)
        for limits in ((-1, 2), (3, 2), (0, 5)):
            with pytest.raises(ValueError, match=r"rows .* lie outside 0:4"):
                selected.read_rows(*limits)
            with pytest.raises(ValueError, match=r"rows .* lie outside 0:4"):
                selected.flat_field(*limits)
        with pytest.raises(ValueError, match=r"projections .* lie outside 0:12"):
            selected.read_projections(0, 13)
        with pytest.raises(ValueError, match="step 1"):
            selected.darks(slice(0, 4, 2))


@pytest.mark.parametrize(
    ("depth", "step", "expected"),
    [(8, 4, [(0, 21)]), (1, 4, [(4 * n, 4 * n + 1) for n in range(6)]), (1, 1, [(0, 24)])],
)
def test_chunks_are_read_once_and_no_more_than_is_wanted(
    monkeypatch: pytest.MonkeyPatch, depth: int, step: int, expected: list[tuple[int, int]]
) -> None:
    """Every fourth projection: together where eight lie in a chunk, one by one where each has its own."""
    reads: list[tuple[int, int]] = []
    with opened(chunks=(depth, 6, 10), compression="gzip") as scan:
        frames = scan.frames.projections
        kind = type(frames)
        plain = kind.read

        def counted(self: Any, some: tuple[int, int], *rest: Any) -> NDArray[Any]:
            reads.append(some)
            return plain(self, some, *rest)

        monkeypatch.setattr(kind, "read", counted)
        selected = SelectedScan(scan, Selection(angle_step=step))
        np.testing.assert_array_equal(selected.read_rows(0, 2), DATA[::step, :2])
    assert reads == expected


def test_a_region_of_a_real_scan(real_scan: Callable[[str], Path]) -> None:
    with open_scan(real_scan("dls_24737.h5")) as scan:
        selected = SelectedScan(scan, Selection(rows=(20, 30), columns=(40, 140), excluded_angles_deg=[(30, 50)]))
        kept = (scan.theta_deg < 30) | (scan.theta_deg > 50)
        assert 0 < kept.sum() < kept.size
        np.testing.assert_array_equal(selected.read_rows(3, 5), scan.read_rows(23, 25)[kept][:, :, 40:140])


# --- the order of angles --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "theta",
    [
        np.linspace(0, 180, 19),
        np.linspace(0, 360, 37),
        np.linspace(90, -90, 19),
        np.linspace(5, 370, 74),
        np.array([0.0, 0.0, 1.0, 1.0, 2.0]),
    ],
)
def test_a_scan_that_turns_one_way_stays_as_it_is(theta: NDArray[np.float64]) -> None:
    order, ordered = angular_order(theta)
    np.testing.assert_array_equal(order, np.arange(theta.size))
    np.testing.assert_array_equal(ordered, theta)


def test_turns_that_are_interlaced_are_folded_to_one() -> None:
    """Four turns, each a quarter of a step further, unfolded as a stage counts, with its rounding."""
    turns = np.arange(4)[:, None]
    theta = (360.0 * turns + 2.5 * turns + np.arange(36) * 10.0).ravel() + 30
    theta += RNG.uniform(-1e-9, 1e-9, theta.size)
    order, ordered = angular_order(theta)
    np.testing.assert_allclose(ordered, 30 + 2.5 * np.arange(144), atol=1e-8)
    np.testing.assert_allclose(np.mod(theta[order] - ordered + 180, 360), 180, atol=1e-8)


def test_rounding_puts_no_angle_at_the_other_end() -> None:
    once = np.arange(36) * 10.0
    _, ordered = angular_order(np.concatenate([once, once + 360 - 1e-9]))
    np.testing.assert_allclose(ordered, np.repeat(once, 2), atol=1e-8)


def test_projections_in_order_of_angle_know_when_they_were_taken() -> None:
    theta = np.concatenate([np.arange(12) * 15.0, np.arange(12) * 15.0 + 7.5])
    with opened(theta) as scan:
        selected = SelectedScan(scan)
        assert selected.flat_positions() is None
        taken = selected.projection_positions()
        np.testing.assert_allclose(taken[::2], (np.arange(12) + 0.5) / 24)
        np.testing.assert_allclose(taken[1::2], (np.arange(12) + 12.5) / 24)


def test_half_turns_are_not_folded_since_they_are_mirrored() -> None:
    """Four half turns back and forth stay within 0 to 180; four onwards become two turns that share their angles."""
    up = np.arange(18) * 10.0
    _, ordered = angular_order(np.concatenate([up, up[::-1] + 2.5, up + 5, up[::-1] + 7.5]))
    np.testing.assert_array_equal(ordered, np.arange(72) * 2.5)
    order, ordered = angular_order(np.arange(72) * 10.0)
    np.testing.assert_array_equal(ordered, np.repeat(np.arange(36) * 10.0, 2))
    np.testing.assert_array_equal(order[:4], [0, 36, 1, 37])


@given(
    theta=st.lists(st.floats(-1000, 1000), min_size=1, max_size=30).map(np.array),
)
@settings(max_examples=200, deadline=None)
def test_ordered_angles_are_the_same_directions_and_neighbours(theta: NDArray[np.float64]) -> None:
    order, ordered = angular_order(theta)
    assert sorted(order.tolist()) == list(range(theta.size))
    np.testing.assert_allclose(np.exp(1j * np.deg2rad(ordered)), np.exp(1j * np.deg2rad(theta[order])), atol=1e-9)
    steps = np.diff(ordered)
    assert (steps >= 0).all() or (steps <= 0).all()


# --- projections left out -------------------------------------------------------------------------------------------


def test_blocked_views_are_left_out_in_every_turn_ends_included() -> None:
    theta = np.arange(ANGLES) * 30.0  # two turns
    with opened(theta) as scan:
        selected = SelectedScan(scan, Selection(excluded_angles_deg=[(350, 390), (150, 180)]))
        assert sorted(set(selected.theta_deg.tolist())) == [60, 90, 120, 210, 240, 270, 300, 330]
        np.testing.assert_array_equal(selected.read_rows(0, 1)[:4], DATA[[2, 14, 3, 15], :1])
        assert SelectedScan(scan, Selection(excluded_angles_deg=[(90, 90)])).theta_deg.size == ANGLES - 2


def test_one_turn_of_several() -> None:
    with opened(np.arange(ANGLES) * 30.0) as scan:
        selected = SelectedScan(scan, Selection(projections=(12, 24)))
        np.testing.assert_array_equal(selected.theta_deg, 360 + np.arange(12) * 30.0)
        np.testing.assert_array_equal(selected.read_rows(0, ROWS), DATA[12:])


def test_what_cannot_be_selected_is_refused() -> None:
    with opened() as scan:
        assert "scan.rows=[3, 3]" in message(scan, Selection(rows=(3, 3)))
        assert "scan.rows=[0, 7]: scan.h5 has 6 rows; give" in message(scan, Selection(rows=(0, 7)))
        assert "scan.columns=[-1, 5]" in message(scan, Selection(columns=(-1, 5)))
        assert "scan.projections=[0, 99]" in message(scan, Selection(projections=(0, 99)))
        assert "scan.angle_step=0" in message(scan, Selection(angle_step=0))
        assert "leave 1 of the 24 projections" in message(scan, Selection(angle_step=24))
        assert "leave 0 of the 24 projections" in message(scan, Selection(excluded_angles_deg=[(0, 180)]))
        for pair in ((20, 10), (0, 360), (0.0, np.nan), (1.0, 2.0, 3.0)):
            assert "scan.excluded_angles_deg" in message(scan, Selection(excluded_angles_deg=[pair]))


def test_a_scan_without_an_angle_each_is_refused() -> None:
    with opened(HALF_TURN[:-1]) as scan, pytest.raises(ScanError, match="23 angles for 24 projections"):
        SelectedScan(scan)


# --- where the centre is --------------------------------------------------------------------------------------------


@given(st.integers(0, 500), st.sampled_from([1, 2, 4, 8]), st.integers(0, 200))
@settings(max_examples=50, deadline=None)
def test_binned_pixels_lie_in_the_middle_of_theirs(start: int, binning: int, pixel: int) -> None:
    detector = start + np.arange(pixel * binning, (pixel + 1) * binning)
    assert center_in_projections(float(detector.mean()), start, binning) == pytest.approx(pixel, abs=1e-12)
    assert center_on_detector(pixel, start, binning) == pytest.approx(detector.mean(), abs=1e-12)
