"""Simulated scans against closed forms, against their own voxels, and against the statistics of photons."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import get_args

import h5py
import numba
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from tomopipe.functions.errors import InputError, ParameterError
from tomopipe.functions.simulation import (
    Detector,
    DetectorSettings,
    Phantom,
    PhantomKind,
    SimulationSettings,
    make_phantom,
    project,
    rasterize_attenuation,
    rasterize_phases,
    scan_file,
    scan_truth,
    simulate_scan,
)

KINDS: tuple[PhantomKind, ...] = get_args(PhantomKind)
MATRIX_PER_PX = 0.01
INCLUSION_PER_PX = 0.03

FloatArray = NDArray[np.float64]


def hand_made(
    inclusions: list[list[float]], shape: str, *, columns: int = 64, rows: int = 40, radius: float = 28.0
) -> Phantom:
    """A phantom of given inclusions; 1 cm pixels, so that 1/cm and 1/pixel are the same number."""
    return Phantom(
        kind="spheres" if shape == "sphere" else "fibres",
        shape=shape,  # type: ignore[arg-type]
        columns=columns,
        rows=rows,
        radius_px=radius,
        pixel_size_um=1e4,
        inclusions=np.array(inclusions, dtype=np.float64).reshape(-1, 6),
        inclusion_phase=3,
        attenuation_per_cm={0: 0.0, 2: MATRIX_PER_PX, 3: INCLUSION_PER_PX},
    )


def quiet_detector(**changes: float) -> DetectorSettings:
    """A detector with photon noise and nothing else, except for what is asked."""
    quiet = DetectorSettings(
        rows=24,
        columns=32,
        seed=5,
        readout_noise_counts=0.0,
        beam_unevenness=0.0,
        gain_spread=0.0,
        ring_strength=0.0,
        zinger_rate=0.0,
    )
    return dataclasses.replace(quiet, **changes)  # type: ignore[arg-type]


def small(**changes: object) -> SimulationSettings:
    values: dict[str, object] = {"columns": 48, "rows": 20, "angles": 21, "n_flats": 4, "n_darks": 3, "seed": 3}
    return SimulationSettings(**(values | changes))


# --- line integrals -------------------------------------------------------------------------------------------------


def test_rays_through_pixel_centres_match_the_chords_of_an_off_centre_sphere() -> None:
    x, y, z, radius, center = 7.3, -4.6, 18.2, 9.4, 30.7
    theta = np.array([0.0, 0.3, np.pi / 2, 2.0, np.pi, 5.5])
    phantom = hand_made([[x, y, z, 0.0, 0.0, radius]], "sphere")
    projections = project(phantom, theta, columns=70, center=center, supersampling=1)
    t = np.arange(70) - center
    height = np.arange(40) + 0.5
    wall = 2.0 * np.sqrt(np.maximum(28.0**2 - t**2, 0.0))
    offset = t - (x * np.cos(theta) + y * np.sin(theta))[:, None]
    squared = radius**2 - offset[:, None, :] ** 2 - (height - z)[None, :, None] ** 2
    expected = MATRIX_PER_PX * wall + (INCLUSION_PER_PX - MATRIX_PER_PX) * 2.0 * np.sqrt(np.maximum(squared, 0.0))
    assert projections.shape == (6, 40, 70)
    assert projections.dtype == np.float32
    np.testing.assert_allclose(projections, expected, atol=1e-6)


def test_rays_through_a_tilted_cylinder_match_sampling_along_the_ray() -> None:
    point, slope, radius = np.array([3.0, -5.0, 20.0]), np.array([0.35, -0.2]), 6.0
    phantom = hand_made([[*point, *slope, radius]], "cylinder")
    axis = np.array([*slope, 1.0]) / np.linalg.norm([*slope, 1.0])
    step = 0.005
    along = np.arange(-30.0, 30.0, step) + step / 2
    for theta in (0.0, 0.7, 2.2):
        projection = project(phantom, np.array([theta]), supersampling=1)[0]
        for row, column in ((3, 31), (12, 36), (20, 28), (33, 34)):
            t = column - 31.5
            positions = np.column_stack(
                [
                    t * np.cos(theta) - along * np.sin(theta),
                    t * np.sin(theta) + along * np.cos(theta),
                    np.full(along.shape, row + 0.5),
                ]
            )
            from_axis = np.linalg.norm(np.cross(positions - point, axis), axis=1)
            inside_wall = np.hypot(positions[:, 0], positions[:, 1]) < 28.0
            mu = np.where(inside_wall, np.where(from_axis < radius, INCLUSION_PER_PX, MATRIX_PER_PX), 0.0)
            assert projection[row, column] == pytest.approx(mu.sum() * step, abs=3e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_projections_agree_with_those_of_the_voxels(kind: PhantomKind) -> None:
    phantom = make_phantom(kind, 64, 8, 11)
    per_px = rasterize_attenuation(phantom, 0, 8, supersampling=4) * np.float64(phantom.pixel_size_um * 1e-4)
    n = phantom.columns
    along_y, along_x = per_px.sum(axis=1), per_px.sum(axis=2)
    axis_aligned = project(phantom, np.array([0.0, np.pi / 2]), supersampling=4)
    # theta = 90 degrees: t is y, which grows from the slice's last row to its first
    for expected, found in ((along_y, axis_aligned[0]), (along_x[:, ::-1], axis_aligned[1])):
        np.testing.assert_allclose(found, expected, atol=0.03 * expected.max())
        assert np.sqrt(np.mean((found - expected) ** 2)) < 0.004 * expected.max()
    theta = 0.6
    t, s = np.meshgrid(np.arange(n) - 31.5, np.arange(-40.0, 40.0, 0.25), indexing="ij")
    x, y = t * np.cos(theta) - s * np.sin(theta), t * np.sin(theta) + s * np.cos(theta)
    found = project(phantom, np.array([theta]), supersampling=4)[0]
    for row in range(8):
        line_integrals = 0.25 * ndimage.map_coordinates(per_px[row], [31.5 - y, x + 31.5], order=1).sum(axis=1)
        assert np.sqrt(np.mean((found[row] - line_integrals) ** 2)) < 0.012 * line_integrals.max()


@pytest.mark.parametrize("kind", KINDS)
def test_every_angle_sees_the_whole_mass(kind: PhantomKind) -> None:
    phantom = make_phantom(kind, 64, 24, 2)
    masses = project(phantom, np.linspace(0.0, np.pi, 9), supersampling=4).sum(axis=(1, 2), dtype=np.float64)
    expected = sum(
        phantom.attenuation_per_pixel(label) * fraction * phantom.region_volume_px3
        for label, fraction in phantom.volume_fractions.items()
    )
    np.testing.assert_allclose(masses, expected, rtol=2e-3)


@pytest.mark.parametrize("center", [31.5, 29.25, 36.8])
def test_the_centre_of_mass_turns_around_the_rotation_axis(center: float) -> None:
    phantom = make_phantom("foam", 64, 16, 4, region_fraction=0.7)
    theta = 2.0 * np.pi * np.arange(64) / 64
    profile = project(phantom, theta, center=center, supersampling=8).sum(axis=1, dtype=np.float64)
    centre_of_mass = (profile * np.arange(64)).sum(axis=1) / profile.sum(axis=1)
    basis = np.column_stack([np.ones(64), np.cos(theta), np.sin(theta)])
    coefficients, residual, _, _ = np.linalg.lstsq(basis, centre_of_mass, rcond=None)
    assert coefficients[0] == pytest.approx(center, abs=0.01)
    assert residual[0] < 1e-3


def test_opposite_projections_are_mirrored_about_the_axis() -> None:
    phantom = make_phantom("fibres", 64, 6, 4, region_fraction=0.7)
    theta = np.array([0.0, 0.4, 1.9])
    forth = project(phantom, theta, center=33.0)
    back = project(phantom, theta + np.pi, center=33.0)
    np.testing.assert_allclose(forth[:, :, 3:64], back[:, :, 63:2:-1], atol=1e-6)


@pytest.mark.parametrize("kind", ["foam", "fibres"])
def test_projections_do_not_depend_on_cuts_or_threads(kind: PhantomKind) -> None:
    phantom = make_phantom(kind, 64, 19, 8)
    theta = np.linspace(0.0, np.pi, 23, endpoint=False)
    whole = project(phantom, theta, center=30.6)
    for first, last in ((0, 1), (1, 8), (8, 19)):
        assert np.array_equal(project(phantom, theta, rows=(first, last), center=30.6), whole[:, first:last])
    for first, last in ((0, 5), (5, 6), (6, 23)):
        assert np.array_equal(project(phantom, theta[first:last], center=30.6), whole[first:last])
    threads = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        assert np.array_equal(project(phantom, theta, center=30.6), whole)
    finally:
        numba.set_num_threads(threads)


# --- phantoms and their truth ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_analytic_volumes_match_fine_voxels(kind: PhantomKind) -> None:
    phantom = make_phantom(kind, 96, 32, 6)
    coarse = rasterize_phases(phantom, 0, 32)
    assert set(np.unique(coarse)) == {0, 2, phantom.inclusion_phase}
    fraction = phantom.volume_fractions[phantom.inclusion_phase]
    counted = np.count_nonzero(coarse == phantom.inclusion_phase) / np.count_nonzero(coarse)
    assert counted == pytest.approx(fraction, abs=0.004)
    volume = rasterize_attenuation(phantom, 0, 32, supersampling=4).astype(np.float64)
    matrix = phantom.attenuation_per_cm[2]
    contrast = phantom.attenuation_per_cm[phantom.inclusion_phase] - matrix
    fine = (volume.sum() - matrix * phantom.region_volume_px3) / contrast / phantom.region_volume_px3
    assert fine == pytest.approx(fraction, abs=0.001)
    assert sum(phantom.volume_fractions.values()) == pytest.approx(1.0)
    assert phantom.porosity == (fraction if phantom.inclusion_phase == 1 else 0.0)
    # overlapping inclusions would be counted twice
    present = [phantom.attenuation_per_cm[label] for label in phantom.volume_fractions]
    assert volume.min() >= 0.0
    assert volume.max() <= max(present) * (1 + 1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_no_voxel_of_an_inclusion_lies_outside_the_region(kind: PhantomKind) -> None:
    phantom = make_phantom(kind, 96, 32, 7)
    phases = rasterize_phases(phantom, 0, 32)
    y, x = 47.5 - np.arange(96)[:, None], np.arange(96)[None, :] - 47.5
    near_wall = np.broadcast_to(np.hypot(x, y) > phantom.radius_px - 0.5, phases.shape)
    assert not np.any(phases[near_wall] == phantom.inclusion_phase)
    assert np.array_equal(phases[0] > 0, np.hypot(x, y) < phantom.radius_px)


@pytest.mark.parametrize("kind", ["foam", "fibres", "channels"])
def test_the_euler_number_counts_what_the_voxels_show(kind: PhantomKind) -> None:
    phantom = make_phantom(kind, 96, 48, 9)
    phases = rasterize_phases(phantom, 0, 48)
    _, components = ndimage.label(phases == phantom.inclusion_phase, structure=np.ones((3, 3, 3)))
    assert components == phantom.euler_number == len(phantom.inclusions)
    assert components > 3


def test_volume_and_area_of_a_sphere_cut_by_a_face_are_those_of_the_segment() -> None:
    phantom = hand_made([[0.0, 0.0, 0.0, 0.0, 0.0, 6.0], [0.0, 12.0, 20.0, 0.0, 0.0, 3.0]], "sphere")
    np.testing.assert_allclose(phantom.inclusion_volumes_px3, [144.0 * math.pi, 36.0 * math.pi])
    np.testing.assert_allclose(phantom.inclusion_areas_px2, [72.0 * math.pi, 36.0 * math.pi])
    np.testing.assert_allclose(phantom.equivalent_diameters_px, [12.0 / np.cbrt(2.0), 6.0])
    assert phantom.cut_by_face.tolist() == [True, False]
    assert phantom.diameters_px.tolist() == [12.0, 6.0]
    assert phantom.interface_area_um2 == pytest.approx(108.0 * math.pi * 1e8)


@pytest.mark.parametrize("kind", KINDS)
def test_area_is_the_derivative_of_volume_by_radius(kind: PhantomKind) -> None:
    phantom = make_phantom(kind, 64, 20, 1)
    step = 1e-4
    grown, shrunk = phantom.inclusions.copy(), phantom.inclusions.copy()
    grown[:, 5] += step
    shrunk[:, 5] -= step
    derivative = (
        dataclasses.replace(phantom, inclusions=grown).inclusion_volumes_px3
        - dataclasses.replace(phantom, inclusions=shrunk).inclusion_volumes_px3
    ) / (2.0 * step)
    np.testing.assert_allclose(derivative, phantom.inclusion_areas_px2, rtol=1e-5)


def test_tortuosity_is_that_of_straight_paths() -> None:
    assert hand_made([[0.0, 0.0, 20.0, 0.0, 0.0, 3.0]], "cylinder").geodesic_tortuosity == pytest.approx(1.0)
    thin = hand_made([[0.0, 0.0, 20.0, 0.3, 0.4, 0.01]], "cylinder")
    assert thin.geodesic_tortuosity == pytest.approx(math.sqrt(1.25), abs=2e-4)
    # From the rightmost exit the nearest entry is the rightmost one, etc.: a wide channel is shorter on average.
    wide = hand_made([[0.0, 0.0, 20.0, 0.3, 0.4, 6.0]], "cylinder").geodesic_tortuosity
    assert wide is not None
    assert 1.03 < wide < math.sqrt(1.25) - 0.01
    assert hand_made([[0.0, 0.0, 20.0, 0.0, 0.0, 3.0]], "sphere").geodesic_tortuosity is None


def test_tortuosity_of_a_wide_channel_matches_a_search_over_entries() -> None:
    phantom = hand_made([[0.0, 0.0, 20.0, 0.5, 0.0, 6.0]], "cylinder")
    phases = rasterize_phases(phantom, 0, 40)
    entries = np.argwhere(phases[0] == 3).astype(np.float64)
    exits = np.argwhere(phases[39] == 3).astype(np.float64)
    sideways = np.linalg.norm(exits[:, None, :] - entries[None, :, :], axis=2).min(axis=1)
    searched = np.hypot(39.0, sideways).mean() / 39.0
    assert phantom.geodesic_tortuosity == pytest.approx(searched, abs=0.005)


@pytest.mark.parametrize("kind", KINDS)
def test_spheres_and_cylinders_keep_their_gap(kind: PhantomKind) -> None:
    phantom = make_phantom(kind, 80, 40, 12, inclusion_gap_px=3.0)
    assert len(phantom.inclusions) > 2
    for z in (0.0, 13.0, 40.0):
        x, y, z0, sx, sy, radius = phantom.inclusions.T
        cx, cy = x + sx * (z - z0), y + sy * (z - z0)
        if phantom.shape == "sphere":
            distance = np.sqrt((x[:, None] - x) ** 2 + (y[:, None] - y) ** 2 + (z0[:, None] - z0) ** 2)
        else:
            distance = np.hypot(cx[:, None] - cx, cy[:, None] - cy)
        np.fill_diagonal(distance, np.inf)
        assert np.all(distance - radius[:, None] - radius >= 3.0 - 1e-9)
        assert np.all(np.hypot(cx, cy) + radius <= phantom.radius_px - 3.0 + 1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_default_phantoms_absorb_as_much_as_a_good_scan_needs(kind: PhantomKind) -> None:
    phantom = SimulationSettings(phantom=kind).make_phantom()
    assert 1.5 < project(phantom, np.linspace(0.0, np.pi, 7), supersampling=1).max() < 2.5
    assert 0.1 < phantom.volume_fractions[phantom.inclusion_phase] < 0.5


def test_phantoms_depend_on_the_seed_alone_and_rasters_not_on_the_cut() -> None:
    phantom = make_phantom("foam", 64, 24, 5)
    assert np.array_equal(phantom.inclusions, make_phantom("foam", 64, 24, 5).inclusions)
    assert not np.array_equal(phantom.inclusions[:3], make_phantom("foam", 64, 24, 6).inclusions[:3])
    phases, volume = rasterize_phases(phantom, 0, 24), rasterize_attenuation(phantom, 0, 24, supersampling=2)
    for z0, z1 in ((0, 1), (1, 12), (12, 24)):
        assert np.array_equal(rasterize_phases(phantom, z0, z1), phases[z0:z1])
        assert np.array_equal(rasterize_attenuation(phantom, z0, z1, supersampling=2), volume[z0:z1])


def test_an_unknown_phantom_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"phantom: 'brick'.*foam, spheres, fibres"):
        make_phantom("brick", 64, 8, 0)  # type: ignore[arg-type]


# --- detector -------------------------------------------------------------------------------------------------------


def test_counts_have_the_mean_and_variance_of_beer_lambert_and_poisson() -> None:
    settings = quiet_detector(photons=900.0, open_beam_counts=1800.0)
    detector = Detector(settings)
    line_integrals = np.broadcast_to(np.linspace(0.0, 2.0, 32, dtype=np.float32), (24, 32))
    frames = np.stack([detector.projection(line_integrals, index) for index in range(400)]).astype(np.float64)
    signal = frames - detector.offset_counts
    expected = 1800.0 * np.exp(-line_integrals[0].astype(np.float64))
    samples = 400 * 24
    variance = 2.0 * expected
    mean_error = signal.mean(axis=(0, 1)) - expected
    assert np.all(np.abs(mean_error) < 5.0 * np.sqrt(variance / samples))
    np.testing.assert_allclose(signal.var(axis=(0, 1)), variance + 1 / 12, rtol=5.5 * math.sqrt(2.0 / samples))


def test_flats_are_uneven_and_correct_everything_but_the_rings() -> None:
    settings = quiet_detector(
        rows=40, photons=1e9, beam_unevenness=0.4, gain_spread=0.05, ring_strength=0.1, ring_fraction=0.2
    )
    detector = Detector(settings)
    assert detector.beam.max() == 1.0
    assert detector.beam.min() == pytest.approx(0.6)
    flat = detector.flat(0).astype(np.float64) - detector.offset_counts
    assert flat.max() / flat.min() > 1.5
    assert np.abs(np.diff(detector.beam, axis=1)).max() < 0.05
    projection = detector.projection(np.full((40, 32), 0.5, dtype=np.float32), 0) - detector.offset_counts
    left = projection / flat * math.exp(0.5)
    np.testing.assert_allclose(left, detector.ring_gain, rtol=2e-3)
    defective = detector.ring_gain != 1.0
    assert 0.1 < defective.mean() < 0.3
    assert detector.ring_gain[defective].std() == pytest.approx(0.1, rel=0.4)
    assert np.array_equal(detector.ring_gain[0:8], np.broadcast_to(detector.ring_gain[0], (8, 32)))


def test_the_beam_drifts_over_the_scan() -> None:
    detector = Detector(quiet_detector(photons=1e9, beam_drift=-0.1))
    start, end = detector.flat(0, elapsed=0.0), detector.flat(1, elapsed=1.0)
    ratio = (end - detector.offset_counts) / (start - detector.offset_counts)
    np.testing.assert_allclose(ratio, 0.9, rtol=1e-3)


def test_darks_have_the_offset_as_their_mean_and_the_readout_noise_as_their_spread() -> None:
    detector = Detector(quiet_detector(readout_noise_counts=3.0))
    residual = np.stack([detector.dark(index) for index in range(40)]) - detector.offset_counts
    assert abs(residual.mean()) < 5.0 * 3.0 / math.sqrt(residual.size)
    assert residual.std() == pytest.approx(math.sqrt(9.0 + 1 / 12), rel=0.02)
    assert detector.offset_counts.std() == pytest.approx(5.0, rel=0.2)


def test_zingers_dead_pixels_and_saturation() -> None:
    rate = 0.01
    detector = Detector(quiet_detector(rows=100, columns=100, zinger_rate=rate, dead_pixel_fraction=0.02))
    darks = np.stack([detector.dark(index) for index in range(20)])
    hit = np.count_nonzero(darks > 10_000)
    assert abs(hit - rate * darks.size) < 5.0 * math.sqrt(rate * darks.size)
    assert darks.dtype == np.uint16
    flat = detector.flat(0)
    assert flat.max() == 65535
    assert 0.01 < detector.dead.mean() < 0.03
    assert np.median(flat[detector.dead]) == pytest.approx(100.0, abs=5.0)
    assert np.median(flat[~detector.dead]) > 25_000


def test_frames_do_not_depend_on_what_was_recorded_before() -> None:
    settings = quiet_detector(readout_noise_counts=3.0, zinger_rate=0.01)
    line_integrals = np.full((24, 32), 0.7, dtype=np.float32)
    detector = Detector(settings)
    forward = [detector.projection(line_integrals, index) for index in range(4)]
    other = Detector(settings)
    other.flat(0)
    backward = [other.projection(line_integrals, index) for index in (3, 2, 1, 0)][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(forward, backward, strict=True))
    assert not np.array_equal(forward[0], forward[1])
    assert not np.array_equal(detector.flat(0), detector.flat(1))
    assert not np.array_equal(forward[0], Detector(dataclasses.replace(settings, seed=6)).projection(line_integrals, 0))


# --- the file -------------------------------------------------------------------------------------------------------


def test_a_scan_corrected_by_its_flats_gives_the_line_integrals(tmp_path: Path) -> None:
    settings = small(photons=1e8, ring_fraction=0.0, zinger_rate=0.0, axis_offset_px=-1.3, phantom="spheres")
    path = simulate_scan(settings, tmp_path / "scan.h5")
    with h5py.File(path) as file:
        exchange = file["exchange"]
        dark = exchange["data_dark"][...].astype(np.float64).mean(axis=0)
        flat = exchange["data_white"][...].astype(np.float64).mean(axis=0)
        measured = -np.log((exchange["data"][...] - dark) / (flat - dark))
        theta_rad = np.deg2rad(exchange["theta"][...])
    expected = project(settings.make_phantom(), theta_rad, center=23.5 - 1.3)
    assert np.abs(measured - expected).max() < 5e-3
    assert abs(np.mean(measured - expected)) < 1e-4


def test_a_drifting_beam_brightens_the_later_projections_and_flats(tmp_path: Path) -> None:
    settings = small(photons=1e8, zinger_rate=0.0, beam_drift=0.2)
    with h5py.File(simulate_scan(settings, tmp_path / "scan.h5")) as file:
        data, flats = file["exchange/data"][...].astype(np.float64), file["exchange/data_white"][...].mean(axis=(1, 2))
    air = data[:, :, :2].mean(axis=(1, 2)) - 100.0
    np.testing.assert_allclose(air / air[0], 1.0 + 0.2 * np.arange(21) / 21, rtol=1e-3)
    np.testing.assert_allclose((flats - 100.0) / (flats[0] - 100.0), [1.0, 1.0, 1.2, 1.2], rtol=1e-3)


def test_the_file_is_a_data_exchange_scan_with_its_metadata(tmp_path: Path) -> None:
    settings = small(arc_deg=360, axis_offset_px=15.0, sample_name="Probe", seed=61)
    reports: list[tuple[int, int]] = []
    path = simulate_scan(settings, tmp_path / "new" / "scan.h5", lambda done, total: reports.append((done, total)))
    assert path == tmp_path / "new" / "scan.h5"
    assert sorted(p.name for p in path.parent.iterdir()) == ["scan.h5", "scan.truth.h5", "scan.truth.json"]
    assert reports[0] == (0, 21)
    assert reports[-1] == (21, 21)
    assert reports == sorted(reports)
    with h5py.File(path) as file:
        exchange = file["exchange"]
        assert exchange["data"].shape == (21, 20, 48)
        assert exchange["data_white"].shape == (4, 20, 48)
        assert exchange["data_dark"].shape == (3, 20, 48)
        assert exchange["data"].dtype == exchange["data_white"].dtype == exchange["data_dark"].dtype == np.uint16
        assert exchange["data"].attrs["units"] == "counts"
        np.testing.assert_allclose(exchange["theta"][...], np.arange(21) * 360.0 / 21)
        assert exchange["theta"].attrs["units"] == "degrees"
        assert file["measurement/sample/name"].asstr()[()] == "Probe"
        assert file["measurement/instrument/detector/pixel_size"][()] == 3.0
        assert file["measurement/instrument/detector/pixel_size"].attrs["units"] == "um"
        assert file["measurement/instrument/monochromator/energy"][()] == 25.0
        assert file["measurement/instrument/monochromator/energy"].attrs["units"] == "keV"
        assert file["process/acquisition/start_date"].asstr()[()] == "2026-01-01T01:01:00+00:00"
        assert file["process/acquisition/rotation/step"][()] == pytest.approx(360.0 / 21)


def test_the_truth_beside_the_scan_is_that_of_its_phantom(tmp_path: Path) -> None:
    settings = small(phantom="foam")
    simulate_scan(settings, tmp_path / "scan.h5")
    phantom = settings.make_phantom()
    truth = json.loads((tmp_path / "scan.truth.json").read_text())
    assert truth == scan_truth(settings, phantom)
    assert truth["version"] == 1
    assert SimulationSettings(**truth["settings"]) == settings
    assert truth["center_px"] == 23.5 + 2.25
    assert truth["region_radius_px"] == pytest.approx(0.85 * 24)
    assert truth["porosity_percent"] == pytest.approx(100.0 * phantom.porosity)
    assert [phase["name"] for phase in truth["phases"]] == ["pore", "matrix"]
    assert truth["phases"][0]["volume_percent"] == truth["porosity_percent"]
    assert truth["euler_number"] == len(truth["diameters_um"]) == len(truth["equivalent_diameters_um"])
    assert truth["diameters_um"][0] == pytest.approx(3.0 * 2.0 * phantom.inclusions[0, 5])
    assert truth["surface_um2"] == pytest.approx(9.0 * phantom.inclusion_areas_px2.sum())
    assert truth["geodesic_tortuosity_z"] is None
    with h5py.File(tmp_path / "scan.truth.h5") as file:
        assert np.array_equal(file["phases"][...], rasterize_phases(phantom, 0, 20))
        assert file["phases"].compression == "gzip"
        assert np.array_equal(file["inclusions"][...], phantom.inclusions)
        assert file["attenuation/label"][...].tolist() == [0, 1, 2]
        assert file["attenuation/value"][2] == phantom.attenuation_per_cm[2]


def test_the_same_settings_give_the_same_bytes_however_the_work_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = simulate_scan(small(), tmp_path / "a.h5")
    monkeypatch.setattr(scan_file, "_BLOCK_ANGLES", 5)
    second = simulate_scan(small(), tmp_path / "b.h5")
    assert first.read_bytes() == second.read_bytes()
    assert (tmp_path / "a.truth.json").read_bytes() == (tmp_path / "b.truth.json").read_bytes()
    other = simulate_scan(small(seed=4), tmp_path / "c.h5")
    with h5py.File(first) as a, h5py.File(other) as b:
        assert not np.array_equal(a["exchange/data"][...], b["exchange/data"][...])
    with h5py.File(tmp_path / "a.truth.h5") as a, h5py.File(tmp_path / "b.truth.h5") as b:
        assert np.array_equal(a["phases"][...], b["phases"][...])


def test_an_interrupted_simulation_leaves_no_scan(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate_scan(small(), tmp_path / "scan.h5", interrupt)
    assert not (tmp_path / "scan.h5").exists()
    assert not [p for p in tmp_path.iterdir() if "partial" in p.name]


def test_a_path_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"scan\.tif.*\.h5"):
        simulate_scan(small(), tmp_path / "scan.tif")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"scan\.h5.*cannot be written.*writable"):
        simulate_scan(small(), tmp_path / "file" / "scan.h5")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"colums": 64}, r"colums: unknown; the fields are phantom, columns"),
        ({"columns": 8}, r"columns: 8 .*greater than or equal to 32"),
        ({"phantom": "brick"}, r"phantom: 'brick'.*'foam', 'spheres', 'fibres' or 'channels'"),
        ({"arc_deg": 90}, r"arc_deg: 90 .*180 or 360"),
        ({"photons": float("nan")}, r"photons: nan .*finite"),
        ({"seed": -1, "angles": 1}, r"angles: 1 .*; seed: -1 "),
        ({"axis_offset_px": 30.0}, r"axis_offset_px: 30 .*field of view.*at most 12.*arc_deg 360"),
        ({"axis_offset_px": -80.0, "arc_deg": 360}, r"axis_offset_px: -80 .*at most 79"),
        ({"open_beam_counts": 64000.0}, r"open_beam_counts: 64000 .*saturate.*lower"),
    ],
)
def test_impossible_settings_are_refused_with_field_value_and_remedy(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        SimulationSettings(**wrong)
