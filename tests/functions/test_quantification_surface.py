"""Interface areas against closed forms and scikit-image's marching cubes; the same for any cut."""

import numba
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, laplace
from skimage import measure

from tomopipe.functions.errors import InputError, ParameterError
from tomopipe.functions.quantification.surface import interface_area, interface_areas, level_set_areas
from tomopipe.functions.quantification.tiling import Tiling, cubes

PLENTY = 2**30


def axes(n):
    a = np.arange(n) - (n - 1) / 2 + 0.13
    return np.meshgrid(a, a + 0.07, a - 0.05, indexing="ij")


def blobs(shape, seed=0):
    smooth = gaussian_filter(np.random.default_rng(seed).random(shape), 2)
    return np.where(smooth < np.median(smooth), 1, 2).astype(np.uint8)


def ball(radius, voxel_size=(1.0, 1.0, 1.0)):
    """Distance to the surface of a sphere, positive inside."""
    size = np.array(voxel_size)
    shape = 2 * np.ceil(radius / size).astype(int) + 10
    z, y, x = (
        (np.arange(n) - (n - 1) / 2 + shift) * edge
        for n, shift, edge in zip(shape, (0.13, 0.2, 0.08), size, strict=True)
    )
    return radius - np.sqrt(z[:, None, None] ** 2 + y[:, None] ** 2 + x**2)


def partial_volumes(radius, parts=6):
    """How much of each voxel lies in a sphere, from points within it."""
    n = 2 * radius + 8
    axis = np.arange(n) - (n - 1) / 2 + 0.13
    steps = (np.arange(parts) + 0.5) / parts - 0.5
    volumes = np.zeros((n, n, n), np.float32)
    for dz, dy, dx in np.stack(np.meshgrid(steps, steps + 0.05, steps - 0.11), axis=-1).reshape(-1, 3):
        inside = (axis + dz)[:, None, None] ** 2 + (axis + dy)[:, None] ** 2 + (axis + dx) ** 2 < radius**2
        volumes += inside
    return volumes / parts**3


def level_set_area(grey, low, high, phases=None, **more):
    region = np.ones(grey.shape, np.uint8) if phases is None else phases
    return level_set_areas(grey.astype(np.float32), low, high, region, PLENTY, **more).sum()


@pytest.mark.parametrize(
    ("radius", "tolerance"),
    [(3, 0.06), (4, 0.03), (5, 0.015), (7, 0.01), (10, 0.01), (16, 0.01), (24, 0.01), (40, 0.01)],
)
def test_area_of_a_sphere(radius, tolerance):
    phases = np.where(ball(radius) > 0, 1, 2).astype(np.uint8)
    assert interface_area(phases, 1, PLENTY) == pytest.approx(4 * np.pi * radius**2, rel=tolerance)


@pytest.mark.parametrize("radius", [5, 12])
def test_area_of_a_cylinder_at_an_angle(radius):
    z, y, x = axes(56)
    axis = np.array([2.0, 0.5, 0.3]) / np.linalg.norm([2.0, 0.5, 0.3])
    along = z * axis[0] + y * axis[1] + x * axis[2]
    phases = np.where(z**2 + y**2 + x**2 - along**2 < radius**2, 1, 2).astype(np.uint8)[10:46]
    assert interface_area(phases, 1, PLENTY) == pytest.approx(2 * np.pi * radius * 36 / axis[0], rel=0.012)


def test_area_of_a_torus():
    z, y, x = axes(60)
    phases = np.where((np.hypot(z, y) - 18) ** 2 + x**2 < 64, 1, 2).astype(np.uint8)
    assert interface_area(phases, 1, PLENTY) == pytest.approx(4 * np.pi**2 * 18 * 8, rel=0.012)


@pytest.mark.parametrize(
    ("voxel_size", "tolerance"), [((2.0, 1.0, 1.0), 0.02), ((1.0, 1.5, 2.2), 0.02), ((1.0, 3.0, 3.0), 0.03)]
)
def test_area_of_a_sphere_in_anisotropic_voxels(voxel_size, tolerance):
    distance = ball(20, voxel_size)
    expected = 4 * np.pi * 20**2
    mask = interface_area(np.where(distance > 0, 1, 2).astype(np.uint8), 1, PLENTY, voxel_size=voxel_size)
    assert mask == pytest.approx(expected, rel=tolerance)
    assert level_set_area(distance, 0, None, voxel_size=voxel_size) == pytest.approx(expected, rel=0.006)


def test_area_scales_with_the_voxel():
    phases = blobs((20, 22, 24), seed=1)
    expected = 6.25 * interface_area(phases, 1, PLENTY)
    assert interface_area(phases, 1, PLENTY, voxel_size=(2.5, 2.5, 2.5)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("radius", [10, 16, 24])
def test_area_of_partial_volumes(radius):
    expected = 4 * np.pi * radius**2
    assert level_set_area(partial_volumes(radius), 0.5, None) == pytest.approx(expected, rel=0.003)


@pytest.mark.parametrize("radius", [10, 20, 40])
def test_a_mesh_of_the_bare_voxels_is_biased(radius):
    # Why there is no such metric: it does not get better with the resolution.
    vertices, faces, _, _ = measure.marching_cubes((ball(radius) > 0).astype(np.float32), 0.5)
    bare = measure.mesh_surface_area(vertices, faces)
    assert bare == pytest.approx(1.088 * 4 * np.pi * radius**2, rel=0.004)


@pytest.mark.parametrize("sigma", [0.7, 1.0, 1.5])
def test_area_equals_scikit_image(sigma):
    phases = np.pad(blobs((30, 34, 38)), 8, constant_values=2)
    smooth = gaussian_filter((phases == 1).astype(np.float64), sigma, radius=int(np.ceil(4 * sigma)))
    field = smooth - (0.5 * sigma**2 + 0.3) * laplace(smooth)
    vertices, faces, _, _ = measure.marching_cubes(field, 0.5)
    expected = measure.mesh_surface_area(vertices, faces)
    # The vector area of a bent polygon is less than that of its triangles.
    assert interface_area(phases, 1, PLENTY, sigma) == pytest.approx(0.993 * expected, rel=0.01)
    assert level_set_area(field, 0.5, None) == pytest.approx(interface_area(phases, 1, PLENTY, sigma), rel=1e-5)


def test_level_set_equals_scikit_image():
    field = np.pad(gaussian_filter(np.random.default_rng(7).random((40, 42, 44)), 3), 3, mode="reflect")
    window = (
        np.hanning(field.shape[0])[:, None, None] * np.hanning(field.shape[1])[:, None] * np.hanning(field.shape[2])
    )
    field *= window
    for level in np.quantile(field, [0.5, 0.8, 0.95]):
        vertices, faces, _, _ = measure.marching_cubes(field, level)
        expected = measure.mesh_surface_area(vertices, faces)
        assert level_set_area(field, level, None) == pytest.approx(expected, rel=0.005)
        assert level_set_area(field, None, level) == pytest.approx(expected, rel=0.005)


def test_level_set_between_two_thresholds():
    # A shell between two spheres.
    expected = 4 * np.pi * (20**2 + 14**2)
    assert level_set_area(ball(24), 4, 10) == pytest.approx(expected, rel=0.003)


@pytest.mark.parametrize("normal", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (3, 1, 0), (1, 1, 1), (-1, 2, 2)])
def test_level_set_of_a_plane_in_a_ball(normal):
    z, y, x = axes(40)
    field = (normal[0] * z + normal[1] * y + normal[2] * x) / np.linalg.norm(normal)
    inside = np.zeros(field.shape, np.uint8)
    inside[np.sqrt(z**2 + y**2 + x**2) < 15] = 1
    assert level_set_area(field, 0.3, None, inside) == pytest.approx(np.pi * (15**2 - 0.3**2), rel=0.02)
    assert level_set_area(field, None, 0.3, inside) == pytest.approx(level_set_area(field, 0.3, None, inside))
    # A slab between two planes.
    assert level_set_area(field, -2, 2, inside) == pytest.approx(2 * np.pi * (15**2 - 4), rel=0.025)


def test_level_set_at_the_outline_is_no_interface():
    distance = ball(14)
    assert level_set_area(distance, 0, None, (distance > 0).astype(np.uint8)) == 0
    assert level_set_area(distance, None, 0, (distance <= 0).astype(np.uint8)) == 0
    assert level_set_area(distance, 0, None, np.zeros(distance.shape, np.uint8)) == 0


def test_level_set_without_bounds_or_finite_values():
    distance = ball(12).astype(np.float32)
    assert level_set_area(distance, None, None) == 0
    expected = level_set_area(distance, 0, None)
    for value in (np.nan, np.inf, -np.inf):
        spoilt = distance.copy()
        spoilt[17, 17, 17] = spoilt[5, 17, 17] = value
        assert level_set_area(spoilt, 0, None) == pytest.approx(expected, rel=0.003)
        assert level_set_area(np.full((3, 4, 5), value), 0, None) == 0


@pytest.mark.parametrize("budget", [150_000, 200_000, PLENTY])
def test_level_set_does_not_depend_on_the_budget(budget):
    field = gaussian_filter(np.random.default_rng(8).random((21, 75, 37)), 2).astype(np.float32)
    phases = blobs(field.shape)
    phases[:, :9, :5] = 0
    tiling = cubes(((0, 21), (0, 75), (0, 37)), 3)
    expected = level_set_areas(field, 0.48, 0.52, phases, PLENTY, tiling=tiling)
    seen = []
    found = level_set_areas(field, 0.48, 0.52, phases, budget, seen.append, tiling=tiling)
    np.testing.assert_array_equal(found, expected)
    assert expected.sum() == pytest.approx(level_set_area(field, 0.48, 0.52, phases), rel=1e-12)
    assert (len(seen) > 1) == (budget < PLENTY)
    assert seen[-1] == 1.0


def test_tiles_have_their_own_area():
    phases = np.full((60, 24, 24), 2, np.uint8)
    z, y, x = np.indices(phases.shape)
    around = (y - 11.4) ** 2 + (x - 11.6) ** 2
    phases[(z - 14.3) ** 2 + around < 49] = 1
    phases[(z - 44.8) ** 2 + around < 81] = 1
    areas = interface_areas(phases, 1, PLENTY, tiling=Tiling((0, 30, 60), (0, 24), (0, 24)))
    assert areas.ravel() == pytest.approx([4 * np.pi * 49, 4 * np.pi * 81], rel=0.01)
    fine = interface_areas(phases, 1, PLENTY, tiling=cubes(((0, 60), (0, 24), (0, 24))))
    assert fine.shape == (15, 6, 6)
    assert fine.sum() == pytest.approx(interface_area(phases, 1, PLENTY), rel=1e-12)


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
    assert interface_area(phases, 1, PLENTY) == pytest.approx(40 * 48 * np.hypot(1, tilt), rel=0.027)


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


def test_area_does_not_depend_on_where_the_outline_lies():
    # Along y the volume is worked through in bands of rows; one of them sees the outline but no face of the volume.
    phases = blobs((16, 110, 22), seed=9)
    _, y, x = np.indices(phases.shape)
    phases[(y - 47) ** 2 + (x - 12) ** 2 < 60] = 0
    turned = np.ascontiguousarray(phases.transpose(0, 2, 1))
    assert interface_area(phases, 1, PLENTY) == pytest.approx(interface_area(turned, 1, PLENTY), rel=1e-5)


def test_only_the_chosen_phase_counts():
    z, y, x = axes(40)
    phases = np.full(z.shape, 3, np.uint8)
    phases[(z - 9) ** 2 + y**2 + x**2 < 64] = 1
    phases[(z + 9) ** 2 + y**2 + x**2 < 64] = 2
    sphere = 4 * np.pi * 64
    for phase, expected in ((1, sphere), (2, sphere), (3, 2 * sphere)):
        assert interface_area(phases, phase, PLENTY) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("budget", [700_000, 760_000, 1_000_000])
def test_area_does_not_depend_on_the_budget(budget):
    phases = blobs((80, 75, 37), seed=5)
    phases[:, :9, :5] = 0
    phases[20:60, 40:, 30:] = 0
    tiling = cubes(((0, 80), (0, 75), (0, 37)), 3)
    seen = []
    threads = numba.get_num_threads()
    try:
        numba.set_num_threads(min(threads, 2))
        cut = interface_areas(phases, 1, budget, progress=seen.append, tiling=tiling)
    finally:
        numba.set_num_threads(threads)
    np.testing.assert_array_equal(cut, interface_areas(phases, 1, PLENTY, tiling=tiling))
    assert len(seen) > 1
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


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 9, 7), (5, 1, 1)])
def test_thin_volumes(shape):
    phases = np.ones(shape, np.uint8)
    assert interface_area(phases, 1, PLENTY) == interface_area(phases, 2, PLENTY) == 0
    assert level_set_area(np.ones(shape), 0.5, None) == 0
    halves = np.ones((1, 9, 8), np.uint8)
    halves[..., 4:] = 2
    assert interface_area(halves, 1, PLENTY) == pytest.approx(9, rel=1e-5)


def test_bad_grey_values_are_refused():
    phases = np.ones((4, 4, 4), np.uint8)
    with pytest.raises(InputError, match="float32"):
        level_set_areas(np.zeros((4, 4, 4)), 0, None, phases, PLENTY)
    with pytest.raises(InputError, match="shape"):
        level_set_areas(np.zeros((4, 4, 5), np.float32), 0, None, phases, PLENTY)
    with pytest.raises(ParameterError, match="thresholds"):
        level_set_areas(np.zeros((4, 4, 4), np.float32), 1, 1, phases, PLENTY)
    with pytest.raises(ParameterError, match="memory"):
        level_set_areas(np.zeros((4, 4, 4), np.float32), 0, 1, phases, 10)


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="uint8"):
        interface_area(np.zeros((4, 4, 4), np.float32), 1, PLENTY)
    with pytest.raises(ParameterError, match="sigma"):
        interface_area(np.zeros((4, 4, 4), np.uint8), 1, PLENTY, 0.1)
    with pytest.raises(ParameterError, match="memory"):
        interface_area(np.zeros((4, 400, 400), np.uint8), 1, 10_000)
