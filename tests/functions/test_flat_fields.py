"""Open beams against known beams: interpolated over time, fitted by eigen-flats, and alike for any cut into rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tomopipe.functions.errors import InputError, ParameterError, ScanError
from tomopipe.functions.preprocessing.flat_fields import (
    EigenFlats,
    dynamic_open_beam,
    eigen_mixtures,
    fit_eigen_flats,
    fit_weights,
    interpolated_open_beam,
    open_beam_of_rows,
    sample_bands,
)
from tomopipe.functions.preprocessing.normalization import OpenBeam, line_integrals, transmission

DARK = 100.0


@dataclass
class Beamtime:
    """A scan in memory with what is known of it."""

    raw: NDArray[np.uint16]
    flat_frames: NDArray[np.uint16]
    positions: NDArray[np.float64] | None
    truth: NDArray[np.float64]
    beams: NDArray[np.float64]
    path: Path = field(default=Path("scan.h5"))

    @property
    def shape(self) -> tuple[int, int, int]:
        angles, rows, columns = self.raw.shape
        return angles, rows, columns

    @property
    def n_flats(self) -> int:
        return len(self.flat_frames)

    def read_rows(self, start: int, stop: int) -> NDArray[Any]:
        return self.raw[:, start:stop].copy()

    def flats(self, rows: slice) -> NDArray[Any]:
        return self.flat_frames[:, rows]

    def flat_field(self, start: int, stop: int) -> NDArray[np.float32]:
        return np.median(self.flat_frames[:, start:stop], axis=0).astype(np.float32)

    def dark_field(self, start: int, stop: int) -> NDArray[np.float32]:
        return np.full((stop - start, self.raw.shape[2]), DARK, np.float32)

    def flat_positions(self) -> NDArray[np.float64] | None:
        return self.positions

    def projection_positions(self) -> NDArray[np.float64]:
        return (np.arange(len(self.raw)) + 0.5) / len(self.raw)


def sample_in_the_beam(angles: int, rows: int, columns: int) -> NDArray[np.float64]:
    """Transmissions of a ball with a hole that turns, on the detector; nothing beside it."""
    y, x = np.mgrid[:rows, :columns]
    projections = []
    for angle in np.linspace(0, np.pi, angles, endpoint=False):
        inside = np.clip(0.09 - ((x / columns - 0.5) ** 2 + ((y / rows - 0.5) * 0.7) ** 2), 0, None)
        place = 0.5 + 0.15 * np.cos(angle)
        hole = np.clip(0.01 - ((x / columns - place) ** 2 + (y / rows - 0.6) ** 2), 0, None)
        projections.append(np.exp(-4 * np.sqrt(inside) + 3 * np.sqrt(hole)))
    return np.stack(projections)


def unsteady_beam(seed: int = 5, *, flats: int = 20, angles: int = 24, counts: float = 8000.0) -> Beamtime:
    """Stripes of a multilayer that move up and down, a slope that sways and a current that falls; photon noise."""
    rng = np.random.default_rng(seed)
    rows, columns = 160, 200
    y, x = np.mgrid[:rows, :columns]
    profile = counts * (0.7 + 0.3 * np.cos((y - rows / 2) / rows * 2)) * (1 + 0.05 * np.sin(x / 3 + y / 7))
    modes = np.stack([0.04 * np.sin(y / 3), 0.04 * np.cos(y / 3), 0.03 * np.sin(x / 40 + 1)])
    amounts = rng.normal(0, 1, (flats + angles, 3))
    currents = rng.uniform(0.97, 1.03, flats + angles)
    beams = profile * (1 + np.tensordot(amounts, modes, 1)) * currents[:, None, None]
    truth = sample_in_the_beam(angles, rows, columns)
    flat_frames = rng.poisson(beams[:flats] + DARK).astype(np.uint16)
    raw = rng.poisson(beams[flats:] * truth + DARK).astype(np.uint16)
    return Beamtime(raw, flat_frames, None, truth, beams[flats:])


def residue(values: NDArray[Any], truth: NDArray[np.float64]) -> float:
    """Spread of transmissions over the truth, whatever the intensity of each projection."""
    ratio = values / truth
    return float(np.mean((ratio / ratio.mean(axis=(1, 2), keepdims=True)).std(axis=(1, 2))))


# --- dynamic --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def beamtime() -> Beamtime:
    return unsteady_beam()


@pytest.fixture(scope="module")
def eigen_flats(beamtime: Beamtime) -> EigenFlats:
    return fit_eigen_flats(beamtime)


def corrected(beamtime: Beamtime, eigen_flats: EigenFlats) -> NDArray[np.float32]:
    _, rows, _ = beamtime.shape
    beam = open_beam_of_rows(beamtime, 0, rows, "dynamic", eigen_flats=eigen_flats)
    return transmission(beamtime.raw, beam, beamtime.dark_field(0, rows))[0]


def test_eigen_flats_take_away_what_moves_down_to_the_noise(beamtime: Beamtime, eigen_flats: EigenFlats) -> None:
    dark = beamtime.dark_field(0, 160)
    ideal = (beamtime.raw - DARK) / beamtime.beams
    plain = transmission(beamtime.raw, open_beam_of_rows(beamtime, 0, 160, "mean"), dark)[0]
    noise, before = residue(ideal, beamtime.truth), residue(plain, beamtime.truth)
    after = residue(corrected(beamtime, eigen_flats), beamtime.truth)
    assert before > 2.5 * noise  # there is something to take away
    # the noise of a mean of 20 flats and of three eigen-flats alone adds 6 %
    assert after < 1.15 * noise


def test_as_many_eigen_flats_as_the_beam_has_modes_are_found(eigen_flats: EigenFlats) -> None:
    assert eigen_flats.components == 3
    assert eigen_flats.mixtures.shape == (4, 20)
    assert eigen_flats.weights.shape == (24, 4)


def test_flats_of_a_steady_beam_have_no_eigen_flats() -> None:
    rng = np.random.default_rng(1)
    level = rng.poisson(3000, (12, 30, 40)).astype(np.float32)
    mixtures = eigen_mixtures([level])
    assert mixtures.shape == (1, 12)
    # the mean of flats of one intensity
    np.testing.assert_allclose(np.tensordot(mixtures[0], level, 1), level.mean(axis=0), rtol=2e-3)
    np.testing.assert_array_equal(fit_weights([level[:5]], [level], mixtures), np.ones((5, 1)))


def test_a_lower_current_alone_is_no_eigen_flat() -> None:
    rng = np.random.default_rng(2)
    currents = rng.uniform(0.7, 1.3, (15, 1, 1))
    level = rng.poisson(4000 * currents * np.ones((1, 30, 40))).astype(np.float32)
    assert len(eigen_mixtures([level])) == 1
    # nor does it come into others
    stripes = 1 + rng.normal(0, 0.05, (15, 1, 1)) * np.sin(np.arange(30) / 2)[:, None]
    fields = np.tensordot(eigen_mixtures([(level * stripes).astype(np.float32)]), level * stripes, 1)
    assert len(fields) == 2
    assert abs(fields[1].mean()) < 0.02 * fields[1].std()


def test_known_weights_are_found_without_noise() -> None:
    """An object with edges, two modes of the beam known exactly: the weights are, up to the intensity."""
    y, x = np.mgrid[:24, :60]
    modes = np.stack([0.05 * np.sin(y / 2), 0.04 * np.cos(x / 5 + y / 9)])
    patterns = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    level = (5000 * (1 + np.tensordot(patterns, modes, 1))).astype(np.float32)
    mixtures = eigen_mixtures([level], 2)
    amounts = np.array([[0.3, -0.8], [0.0, 0.0], [-1.0, 0.5]])
    sample = np.where((np.abs(x - 30) < 11) & (np.abs(y - 12) < 8), 0.3, 1.0)
    beams = 1 + np.tensordot(amounts, modes, 1)
    weights = fit_weights([(sample * beams).astype(np.float32)], [level], mixtures)
    found = np.tensordot(weights, np.tensordot(mixtures, level, 1), 1) / 5000
    ratio = found / beams
    np.testing.assert_allclose(ratio / ratio.mean(axis=(1, 2), keepdims=True), 1, atol=1e-3)
    # the intensity is what the mean flat gives: the mean transmission stays
    np.testing.assert_allclose(
        (sample * beams / found).mean(axis=(1, 2)), (sample * beams).mean(axis=(1, 2)), rtol=1e-4
    )


def test_dynamic_rows_are_the_same_for_any_cut_and_any_thread_count(
    beamtime: Beamtime, eigen_flats: EigenFlats
) -> None:
    whole = open_beam_of_rows(beamtime, 0, 160, "dynamic", zinger_threshold=0.3, eigen_flats=eigen_flats)
    assert isinstance(whole, OpenBeam)
    assert whole.shape == beamtime.shape
    dark = beamtime.dark_field(0, 160)
    values = line_integrals(beamtime.raw, whole, dark, 1e-3)[0]
    for start, stop in pairwise([0, 1, 7, 159, 160]):
        part = open_beam_of_rows(beamtime, start, stop, "dynamic", zinger_threshold=0.3, eigen_flats=eigen_flats)
        assert isinstance(part, OpenBeam)
        np.testing.assert_array_equal(part.fields, whole.fields[:, start:stop])
        np.testing.assert_array_equal(part.fields, whole.rows(start, stop).fields)
        rows = line_integrals(beamtime.raw[:, start:stop], part, dark[start:stop], 1e-3)[0]
        np.testing.assert_array_equal(rows, values[:, start:stop])
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        again = fit_eigen_flats(beamtime)
        np.testing.assert_allclose(again.mixtures, eigen_flats.mixtures, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(again.weights, eigen_flats.weights, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(line_integrals(beamtime.raw, whole, dark, 1e-3)[0], values)
    finally:
        numba.set_num_threads(threads)


def test_zingers_and_bad_pixels_do_not_spoil_a_fit(beamtime: Beamtime, eigen_flats: EigenFlats) -> None:
    rng = np.random.default_rng(8)
    hit = Beamtime(beamtime.raw.copy(), beamtime.flat_frames.copy(), None, beamtime.truth, beamtime.beams)
    for frames in (hit.raw, hit.flat_frames):
        frames[rng.random(frames.shape) < 2e-4] = 65535
    bad = np.zeros((160, 200), bool)
    bad[:, 50] = bad[75, 20:25] = True
    hit.flat_frames[:, bad] = np.where(np.arange(20) % 2, 60000, 1000)[:, None]
    hit.raw[:, bad] = np.where(np.arange(24) % 2, 60000, 1000)[:, None]
    assert fit_eigen_flats(hit, zinger_threshold=0.3).components > 3
    fitted = fit_eigen_flats(hit, zinger_threshold=0.3, bad_pixels=bad)
    assert fitted.components == 3
    good = ~bad
    values = transmission(
        beamtime.raw,
        dynamic_open_beam(beamtime.flat_frames, beamtime.dark_field(0, 160), fitted),
        beamtime.dark_field(0, 160),
    )[0]
    clean = corrected(beamtime, eigen_flats)
    assert np.abs(values - clean)[:, good].std() < 0.2 * residue(clean, beamtime.truth)


def test_pixels_without_beam_are_dead(beamtime: Beamtime, eigen_flats: EigenFlats) -> None:
    flats = beamtime.flat_frames.copy()
    flats[:, 10, 11] = 3
    beam = dynamic_open_beam(flats, beamtime.dark_field(0, 160), eigen_flats)
    assert np.isnan(beam.fields[:, 10, 11]).all()
    assert np.isfinite(np.delete(beam.fields.reshape(4, -1), 10 * 200 + 11, axis=1)).all()


def test_what_dynamic_cannot_do_is_refused(beamtime: Beamtime, eigen_flats: EigenFlats) -> None:
    few = Beamtime(beamtime.raw, beamtime.flat_frames[:3], None, beamtime.truth, beamtime.beams)
    with pytest.raises(ScanError, match=r"scan\.h5: .*dynamic needs 4 flats at least.*there are 3"):
        fit_eigen_flats(few)
    with pytest.raises(ParameterError, match=r"flat_components=20: .* at most 19 eigen-flats"):
        fit_eigen_flats(beamtime, 20)
    with pytest.raises(ParameterError, match="needs the eigen-flats"):
        open_beam_of_rows(beamtime, 0, 5, "dynamic")
    with pytest.raises(InputError, match="eigen-flats of 20 flats, but there are 3"):
        open_beam_of_rows(few, 0, 5, "dynamic", eigen_flats=eigen_flats)


@given(st.integers(1, 5000))
@settings(max_examples=50, deadline=None)
def test_sample_bands_lie_apart_on_the_detector(rows: int) -> None:
    bands = sample_bands(rows)
    assert bands[0][0] >= 0
    assert bands[-1][1] <= rows
    assert all(above[1] <= below[0] for above, below in pairwise(bands))
    assert sum(stop - start for start, stop in bands) == min(rows, 128)


# --- interpolated, mean, median -------------------------------------------------------------------------------------


def drifting(groups: list[float], per_group: int = 1) -> Beamtime:
    """A beam that grows linearly in time, each pixel at its own rate, without noise; flats at these times."""
    rows, columns, angles = 6, 9, 10
    rate = np.linspace(-400, 800, rows * columns).reshape(rows, columns)
    positions = np.repeat(groups, per_group)
    flats = np.rint(DARK + 5000 + positions[:, None, None] * rate)
    times = (np.arange(angles) + 0.5) / angles
    beams = 5000 + times[:, None, None] * rate
    truth = np.full((angles, rows, columns), 0.5)
    raw = np.rint(DARK + beams * truth)
    return Beamtime(raw.astype(np.uint16), flats.astype(np.uint16), positions, truth, beams)


@pytest.mark.parametrize("groups", [[0.0, 1.0], [0.0, 0.3, 1.0], [1.0, 0.0], [0.0, 0.25, 0.5, 0.75, 1.0]])
def test_a_beam_that_drifts_is_followed_between_flats(groups: list[float]) -> None:
    scan = drifting(groups, 2)
    beam = open_beam_of_rows(scan, 0, 6, "interpolated")
    assert isinstance(beam, OpenBeam)
    np.testing.assert_allclose(beam.weights.sum(axis=1), 1, rtol=1e-6)
    dark = scan.dark_field(0, 6)
    # counts are whole numbers: half a count of 2500
    np.testing.assert_allclose(transmission(scan.raw, beam, dark)[0], 0.5, atol=4e-4)
    plain = transmission(scan.raw, open_beam_of_rows(scan, 0, 6, "median"), dark)[0]
    assert np.abs(plain - 0.5).max() > 0.01


def test_outside_the_flats_their_last_group_holds() -> None:
    scan = drifting([0.4, 0.6], 3)
    scan.flat_frames[1, 2, 2] = 60000  # the median of a group does not care
    dark = scan.dark_field(0, 6)
    beam = interpolated_open_beam(scan.flat_frames, dark, np.repeat([0.4, 0.6], 3), scan.projection_positions())
    np.testing.assert_allclose(beam.weights[:4], [[1, 0]] * 4)
    np.testing.assert_allclose(beam.weights[-4:], [[0, 1]] * 4)
    np.testing.assert_allclose(beam.weights[4:6], [[0.75, 0.25], [0.25, 0.75]], atol=1e-6)
    assert abs(beam.fields[0, 2, 2] - 5000) < 400
    for start, stop in pairwise([0, 1, 4, 6]):
        part = open_beam_of_rows(scan, start, stop, "interpolated", zinger_threshold=0.3)
        assert isinstance(part, OpenBeam)
        whole = open_beam_of_rows(scan, 0, 6, "interpolated", zinger_threshold=0.3)
        assert isinstance(whole, OpenBeam)
        np.testing.assert_array_equal(part.fields, whole.fields[:, start:stop])


def test_a_pixel_that_is_dead_in_one_group_is_dead_near_it_alone() -> None:
    scan = drifting([0.0, 0.5, 1.0])
    scan.flat_frames[0, 3, 4] = 0
    dark = scan.dark_field(0, 6)
    beam = open_beam_of_rows(scan, 0, 6, "interpolated")
    values, mended = transmission(scan.raw, beam, dark)
    assert mended == 5
    np.testing.assert_allclose(values, 0.5, atol=4e-4)


def test_flats_of_unknown_time_are_not_interpolated() -> None:
    scan = drifting([0.0, 1.0])
    scan.positions = None
    with pytest.raises(ScanError, match=r"scan\.h5: preprocessing\.flat_field=interpolated .*flat_field_mode"):
        open_beam_of_rows(scan, 0, 6, "interpolated")
    with pytest.raises(InputError, match="one position a flat"):
        interpolated_open_beam(scan.flat_frames, scan.dark_field(0, 6), np.zeros(5), scan.projection_positions())


def test_the_mean_is_the_mean_of_flats_without_zingers(beamtime: Beamtime) -> None:
    flats = beamtime.flat_frames.copy()
    flats[3, 70, 70] = 65535
    scan = Beamtime(beamtime.raw, flats, None, beamtime.truth, beamtime.beams)
    plain = open_beam_of_rows(scan, 60, 90, "mean")
    np.testing.assert_allclose(plain, flats[:, 60:90].mean(axis=0), rtol=1e-6)
    clean = open_beam_of_rows(scan, 60, 90, "mean", zinger_threshold=0.3)
    expected = beamtime.flat_frames[:, 60:90].mean(axis=0)
    assert isinstance(clean, np.ndarray)
    assert abs(clean[10, 70] - expected[10, 70]) < 60
    median = open_beam_of_rows(scan, 60, 90)
    np.testing.assert_array_equal(median, np.median(flats[:, 60:90], axis=0).astype(np.float32))
