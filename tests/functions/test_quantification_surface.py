"""Interface area against spheres, planes and scikit-image's marching cubes; the same for any cut."""

import numba
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage import measure

from tomopipe.functions.errors import InputError, ParameterError
from tomopipe.functions.quantification.surface import interface_area

PLENTY = 2**30


def axes(n):
    a = np.arange(n) - (n - 1) / 2 + 0.13
    return np.meshgrid(a, a + 0.07, a - 0.05, indexing="ij")


def blobs(shape, seed=0):
    smooth = gaussian_filter(np.random.default_rng(seed).random(shape), 2)
    return np.where(smooth < np.median(smooth), 1, 2).astype(np.uint8)


@pytest.mark.parametrize("radius", [10, 16, 24])
def test_area_of_a_sphere(radius):
    z, y, x = axes(2 * radius + 10)
    phases = np.where(z**2 + y**2 + x**2 < radius**2, 1, 2).astype(np.uint8)
    assert interface_area(phases, 1, PLENTY) == pytest.approx(4 * np.pi * radius**2, rel=0.015)


def test_area_equals_scikit_image():
    phases = np.pad(blobs((30, 34, 38)), 6, constant_values=2)
    field = gaussian_filter((phases == 1).astype(np.float64), 0.7)
    vertices, faces, _, _ = measure.marching_cubes(field, 0.5)
    assert interface_area(phases, 1, PLENTY) == pytest.approx(measure.mesh_surface_area(vertices, faces), rel=0.006)


@pytest.mark.parametrize("sigma", [0.5, 1.0])
def test_any_sigma_equals_scikit_image(sigma):
    z, y, x = axes(40)
    ball = (z**2 + y**2 + x**2 < 12**2).astype(np.float64)
    vertices, faces, _, _ = measure.marching_cubes(gaussian_filter(ball, sigma, radius=int(np.ceil(4 * sigma))), 0.5)
    area = interface_area((2 - ball).astype(np.uint8), 1, PLENTY, sigma)
    assert area == pytest.approx(measure.mesh_surface_area(vertices, faces), rel=0.01)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_flat_interface_reaches_the_cut_faces(axis):
    phases = np.full((12, 14, 16), 2, np.uint8)
    np.moveaxis(phases, axis, 0)[:5] = 1
    expected = np.prod(np.delete(phases.shape, axis))
    assert interface_area(phases, 1, PLENTY) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("tilt", [0.0, 0.1, 0.25, 0.35, 0.5, 1.0])
def test_plane_of_any_tilt(tilt):
    z, y, _ = axes(48)
    phases = np.where(z + tilt * y > 0.2, 1, 2).astype(np.uint8)[:, 4:44]
    assert interface_area(phases, 1, PLENTY) == pytest.approx(40 * 48 * np.hypot(1, tilt), rel=0.025)


@pytest.mark.parametrize("tilt", [0.0, 0.3, 0.7])
def test_plane_through_a_cylinder_ends_at_its_outline(tilt):
    z, y, x = axes(64)
    phases = np.where(z + tilt * y > 0.2, 1, 2).astype(np.uint8)
    region = np.hypot(y, x) < 24
    # The orientation's own bias cancels.
    whole = interface_area(phases, 1, PLENTY) / 64**2
    inside = interface_area(np.where(region, phases, 0), 1, PLENTY) / region[0].sum()
    assert inside == pytest.approx(whole, rel=0.005)


def test_outline_is_no_interface():
    z, y, x = axes(32)
    region = np.sqrt(z**2 + y**2 + x**2) < 12
    for phase in (1, 2):
        assert interface_area(region.astype(np.uint8) * phase, phase, PLENTY) == 0
    assert interface_area(np.ones((8, 8, 8), np.uint8), 1, PLENTY) == 0
    assert interface_area(np.zeros((8, 8, 8), np.uint8), 1, PLENTY) == 0


def test_half_a_pore_at_the_cut_face_counts_half():
    z, y, x = axes(48)
    phases = np.where(z**2 + y**2 + x**2 < 16**2, 1, 2).astype(np.uint8)
    halves = interface_area(phases[:24], 1, PLENTY) + interface_area(phases[24:], 1, PLENTY)
    assert halves == pytest.approx(interface_area(phases, 1, PLENTY), rel=0.01)


def test_both_sides_have_the_same_area_but_for_ambiguous_cells():
    phases = blobs((20, 22, 24), seed=3)
    assert interface_area(phases, 1, PLENTY) == pytest.approx(interface_area(phases, 2, PLENTY), rel=3e-3)


def test_area_is_the_same_in_every_orientation():
    phases = blobs((20, 22, 24), seed=4)
    area = interface_area(phases, 1, PLENTY)
    for turned in (phases[::-1], phases[:, ::-1], phases[:, :, ::-1], phases.transpose(2, 0, 1)):
        assert interface_area(np.ascontiguousarray(turned), 1, PLENTY) == pytest.approx(area, rel=1e-5)


def test_only_the_chosen_phase_counts():
    z, y, x = axes(40)
    phases = np.full(z.shape, 3, np.uint8)
    phases[(z - 9) ** 2 + y**2 + x**2 < 64] = 1
    phases[(z + 9) ** 2 + y**2 + x**2 < 64] = 2
    sphere = 4 * np.pi * 64
    for phase, expected in ((1, sphere), (2, sphere), (3, 2 * sphere)):
        assert interface_area(phases, phase, PLENTY) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("layers", [1, 2, 5, 11])
def test_area_does_not_depend_on_the_budget(layers):
    phases = blobs((21, 75, 37), seed=5)
    phases[:, :9, :5] = 0
    threads = min(numba.get_num_threads(), 3)
    per_voxel = 2 + int(np.ceil(4 * threads * 33 * 39 / (75 * 37)))
    seen = []
    cut = interface_area(phases, 1, (layers + 7) * per_voxel * 75 * 37, progress=seen.append)
    assert cut == interface_area(phases, 1, PLENTY)
    assert len(seen) == -(-22 // layers)
    assert seen[-1] == 1.0


def test_area_does_not_depend_on_the_number_of_threads():
    phases = blobs((12, 70, 33), seed=6)
    expected = interface_area(phases, 1, PLENTY)
    threads = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        assert interface_area(phases, 1, PLENTY) == expected
    finally:
        numba.set_num_threads(threads)


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="uint8"):
        interface_area(np.zeros((4, 4, 4), np.float32), 1, PLENTY)
    with pytest.raises(ParameterError, match="sigma"):
        interface_area(np.zeros((4, 4, 4), np.uint8), 1, PLENTY, 0.1)
    with pytest.raises(ParameterError, match="memory"):
        interface_area(np.zeros((4, 400, 400), np.uint8), 1, 10_000)
