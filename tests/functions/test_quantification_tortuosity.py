"""Geodesic tortuosity against straight, inclined and bent ways with closed forms; the same for any budget."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, label

from tomopipe.functions.quantification.porosity import count_phases
from tomopipe.functions.quantification.tortuosity import geodesic_distance, geodesic_tortuosity

PLENTY = 2**30


def tortuosity_of(phases, **options):
    return geodesic_tortuosity(phases, 1, count_phases(phases, PLENTY).bounds, PLENTY, **options)


def blobs(shape, share, seed=0, sigma=2.0):
    smooth = gaussian_filter(np.random.default_rng(seed).random(shape), sigma)
    return np.where(smooth < np.quantile(smooth, share), 1, 2).astype(np.uint8)


def inclined_channel(degrees, length=150, width=3.0):
    """A slot of the given horizontal width, inclined in the z-y plane."""
    slope = np.tan(np.radians(degrees))
    z, y, _ = np.mgrid[:length, : int(length * slope) + 20, :7]
    phases = np.where(np.abs(y - 10 - slope * z) <= width / 2, 1, 2).astype(np.uint8)
    phases[:, :, [0, -1]] = 2
    return phases


def test_straight_channels_have_tortuosity_1():
    phases = np.full((30, 30, 30), 2, np.uint8)
    phases[:, 5:8, 5:8] = 1
    phases[5:8, :, 12:15] = 1
    phases[20:23, 20:23, :] = 1
    found = tortuosity_of(phases).axes
    for axis in "zyx":
        assert found[axis].mean == pytest.approx(1.0, abs=1e-6)
        assert found[axis].minimum == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("degrees", [20, 30, 45, 60])
def test_inclined_channel(degrees):
    phases = inclined_channel(degrees)
    expected = 1 / np.cos(np.radians(degrees))
    found = tortuosity_of(phases, maximum_voxels=10**7).axes["z"]
    # Of a slot with some width, the way may start at the near end and stop at the far end.
    shift = 149 * np.tan(np.radians(degrees))
    assert found.minimum == pytest.approx(np.hypot(149, shift - 3) / 149, rel=0.01)
    assert found.mean == pytest.approx(expected, rel=0.02)
    assert found.mean == pytest.approx(np.hypot(149, shift - 1.5) / 149, rel=0.01)


@pytest.mark.parametrize("degrees", [20, 45])
def test_inclined_channel_of_one_way(degrees):
    # Entrance and exit of a single voxel column: no freedom, so 1 / cos to within the stairs of the walls.
    phases = inclined_channel(degrees, width=4.0)
    for end in (0, -1):
        inside = np.flatnonzero(phases[end, :, 3] == 1)
        phases[end, :, :] = 2
        phases[end, inside[len(inside) // 2], 3] = 1
    found = tortuosity_of(phases, maximum_voxels=10**7).axes["z"]
    assert found.mean == pytest.approx(1 / np.cos(np.radians(degrees)), rel=0.01)


def test_distance_in_free_space_is_euclidean():
    space = np.ones((21, 41, 41), bool)
    space[0] = False
    space[0, 20, 20] = True
    z, y, x = np.mgrid[:21, :41, :41]
    expected = np.sqrt(z**2 + (y - 20) ** 2 + (x - 20) ** 2)
    distance = geodesic_distance(space)
    # A source behind a wall sees through a hole of one voxel only what is not hidden by the wall.
    visible = expected <= 1.3 * z
    np.testing.assert_allclose(distance[visible], expected[visible], rtol=1e-3, atol=1e-3)


def test_way_around_a_wall():
    # A wall whose only opening is at the far side.
    space = np.ones((40, 60, 5), bool)
    space[19:21, :50] = False
    distance = geodesic_distance(space)
    z, y = 39, 10
    # Straight up to the edge of the opening, past the wall of two voxels, and straight to the target.
    expected = 18 + 3 + np.hypot(z - 21, 50 - y)
    assert distance[z, y, 2] == pytest.approx(expected, rel=0.01)
    np.testing.assert_allclose(
        distance[:19, :, :], np.broadcast_to(np.arange(19)[:, None, None], (19, 60, 5)), atol=0.01
    )


def test_reaches_what_is_6_connected():
    space = np.random.default_rng(0).random((25, 26, 27)) < 0.4
    labels, _ = label(space)
    connected = np.isin(labels, np.unique(labels[0][space[0]]))
    np.testing.assert_array_equal(np.isfinite(geodesic_distance(space)), connected)


def test_no_way_between_two_closed_voxels_that_share_an_edge():
    space = np.zeros((2, 2, 1), bool)
    space[0, 0] = space[1, 1] = True
    assert np.isinf(geodesic_distance(space)[1, 1, 0])
    space[1, 0] = True
    assert geodesic_distance(space)[1, 1, 0] == pytest.approx(np.sqrt(2))


def test_distance_is_at_least_euclidean_and_at_most_chamfer():
    graph = pytest.importorskip("skimage.graph")
    space = blobs((40, 40, 40), 0.4, seed=1) == 1
    distance = geodesic_distance(space)
    chamfer, _ = graph.MCP(np.where(space, 1.0, -1.0), fully_connected=False).find_costs(
        [(0, y, x) for y, x in np.argwhere(space[0])]
    )
    reached = np.isfinite(distance)
    assert (distance[reached] >= np.nonzero(reached)[0] - 1e-3).all()
    # MCP counts voxels entered over faces, the first included.
    assert (distance[reached] <= chamfer[reached] - 1 + 0.1).all()


def test_resolution_changes_little():
    # Same blobs at twice the resolution; first-order eikonal solvers are 5 % apart here.
    noise = np.random.default_rng(0).random((44, 44, 44))
    spectrum = np.fft.rfftn(gaussian_filter(noise, 2, mode="wrap"))
    coarse, fine = np.fft.irfftn(spectrum, (44,) * 3, axes=(0, 1, 2)), np.zeros((88, 88, 45), complex)
    for z in (slice(0, 22), slice(-22, None)):
        for y in (slice(0, 22), slice(-22, None)):
            fine[z, y, :22] = spectrum[z, y, :22]
    refined = np.fft.irfftn(fine, (88,) * 3, axes=(0, 1, 2)) * 8
    threshold = np.quantile(refined, 0.4)
    means = []
    for field in (coarse, refined):
        means.append(tortuosity_of(np.where(field < threshold, 1, 2).astype(np.uint8)).axes["z"].mean)
    assert means[0] == pytest.approx(means[1], rel=0.015)


def test_blocked_axis_does_not_percolate():
    phases = np.ones((20, 20, 20), np.uint8)
    phases[10] = 2
    found = tortuosity_of(phases).axes
    assert not found["z"].percolates
    assert found["z"].mean is None
    assert found["z"].minimum is None
    assert found["y"].percolates
    assert found["y"].mean == pytest.approx(1.0)


def test_binning_is_the_smallest_that_fits():
    phases = np.ones((40, 41, 43), np.uint8)
    assert tortuosity_of(phases, maximum_voxels=40 * 41 * 43).binning == 1
    found = tortuosity_of(phases, maximum_voxels=40 * 41 * 43 - 1)
    assert found.binning == 2
    assert found.box == ((0, 40), (0, 40), (0, 42))
    assert tortuosity_of(phases, maximum_voxels=20 * 20 * 21 - 1).binning == 3


def test_binning_takes_the_majority():
    phases = np.full((12, 12, 12), 2, np.uint8)
    phases[:, :6, :6] = 1
    # Half of a cube's voxels is no majority.
    phases[4:6, 0:6:2, :6] = 2
    assert not tortuosity_of(phases, maximum_voxels=6**3).axes["z"].percolates
    phases[4, 0, 0] = 1
    phases[4, 0, 1] = 1
    phases[4, 2, 0] = 1
    assert tortuosity_of(phases, maximum_voxels=6**3).axes["z"].percolates


def test_region_is_binned_by_majority_too():
    phases = np.ones((20, 20, 20), np.uint8)
    phases[:, :, :2] = 0
    phases[::2, ::2, 0] = 1
    found = tortuosity_of(phases, maximum_voxels=10**3)
    # The first cubes along x hold one voxel of the region out of eight: the box is narrowed past them.
    assert found.box[2][0] == 2


def test_volume_of_one_slice():
    phases = np.ones((1, 30, 30), np.uint8)
    for maximum in (900, 100):
        found = tortuosity_of(phases, maximum_voxels=maximum)
        assert set(found.axes) == {"y", "x"}
        assert found.axes["x"].mean == pytest.approx(1.0)


def test_of_a_cylinder_the_prism_inside_is_measured():
    _, y, x = np.mgrid[:30, :101, :101]
    region = np.hypot(y - 50, x - 50) <= 48
    phases = np.where(region, 1, 0).astype(np.uint8)
    found = tortuosity_of(phases)
    (z0, z1), (y0, y1), (x0, _) = found.box
    assert (z0, z1) == (0, 30)
    assert y0 == x0
    assert y1 - y0 == pytest.approx(96 / np.sqrt(2), abs=6)
    for axis in "zyx":
        assert found.axes[axis].mean == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("budget_slices", [1, 4])
def test_does_not_depend_on_the_budget(budget_slices):
    phases = blobs((45, 41, 39), 0.5, seed=2)
    phases[:, :2] = 0
    bounds = count_phases(phases, PLENTY).bounds
    seen = []
    cut = geodesic_tortuosity(phases, 1, bounds, budget_slices * 4 * 41 * 39, 10_000, seen.append)
    assert cut == geodesic_tortuosity(phases, 1, bounds, PLENTY, 10_000)
    assert cut.binning == 2
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
