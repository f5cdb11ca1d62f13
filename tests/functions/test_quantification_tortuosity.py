"""Geodesic tortuosity against straight, inclined and bent ways with closed forms; the same for any budget."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, label

from tomopipe.functions.quantification.box import BinnedPhase
from tomopipe.functions.quantification.tortuosity import geodesic_distance, geodesic_tortuosity

PLENTY = 2**30


def tortuosity_of(open_voxels, voxel_size=(1.0, 1.0, 1.0), memory_bytes=PLENTY, progress=None, factor=1):
    box = tuple((0, factor * n) for n in open_voxels.shape)
    return geodesic_tortuosity(BinnedPhase(open_voxels, factor, box), voxel_size, memory_bytes, progress)


def blobs(shape, share, seed=0, sigma=2.0):
    smooth = gaussian_filter(np.random.default_rng(seed).random(shape), sigma)
    return smooth < np.quantile(smooth, share)


def slot(degrees, length=150, width=3.0, edge_z=1.0):
    """A slot of the given horizontal width, inclined in the z-y plane; `length` is in units of y."""
    slope = np.tan(np.radians(degrees))
    z, y, _ = np.mgrid[: round(length / edge_z), : int(length * slope) + 20, :7]
    open_voxels = np.abs(y - 10 - slope * edge_z * z) <= width / 2
    open_voxels[:, :, [0, -1]] = False
    return open_voxels


def tube(degrees, length=150, radius=2.0):
    """A round channel, inclined in the z-y plane."""
    slope = np.tan(np.radians(degrees))
    z, y, x = np.mgrid[:length, : int(length * slope) + 20, : 2 * int(radius) + 5]
    return np.hypot((y - 10 - slope * z) * np.cos(np.radians(degrees)), x - x.max() / 2) <= radius


def test_straight_channels_have_tortuosity_1():
    open_voxels = np.zeros((30, 30, 30), bool)
    open_voxels[:, 5:8, 5:8] = True
    open_voxels[5:8, :, 12:15] = True
    open_voxels[20:23, 20:23, :] = True
    found = tortuosity_of(open_voxels)
    for axis in "zyx":
        assert found[axis].mean == pytest.approx(1.0, abs=1e-6)
        assert found[axis].minimum == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("channel", [slot, tube])
@pytest.mark.parametrize("degrees", [0, 20, 30, 45])
def test_inclined_channel(channel, degrees):
    # Ways start and stop anywhere in the mouths, which takes 0.2 to 0.8 % off; longer channels come closer.
    found = tortuosity_of(channel(degrees))["z"]
    assert found.mean == pytest.approx(1 / np.cos(np.radians(degrees)), rel=0.008)


@pytest.mark.parametrize("width", [3.0, 10.0])
@pytest.mark.parametrize("degrees", [20, 30, 45, 60])
def test_inclined_channel_with_its_width(degrees, width):
    found = tortuosity_of(slot(degrees, width=width))["z"]
    # From the near end of the one mouth to each point of the other.
    shift = 149 * np.tan(np.radians(degrees))
    assert found.minimum == pytest.approx(np.hypot(149, shift - width) / 149, rel=0.005)
    assert found.mean == pytest.approx(np.hypot(149, shift - width / 2) / 149, rel=0.003)


@pytest.mark.parametrize("degrees", [0, 20, 30, 45])
def test_inclined_channel_of_one_way(degrees):
    # Entrance and exit of a single voxel column: no freedom, so 1 / cos to within the stairs of the walls.
    channel = slot(degrees)
    for end in (0, -1):
        inside = np.flatnonzero(channel[end, :, 3])
        channel[end] = False
        channel[end, inside[len(inside) // 2], 3] = True
    assert tortuosity_of(channel)["z"].mean == pytest.approx(1 / np.cos(np.radians(degrees)), rel=0.004)


@pytest.mark.parametrize("edge_z", [0.5, 2.0])
@pytest.mark.parametrize("degrees", [20, 45])
def test_inclined_channel_of_anisotropic_voxels(degrees, edge_z):
    channel, edges = slot(degrees, edge_z=edge_z), np.array([3 * edge_z, 3.0, 10.0])
    found = tortuosity_of(channel, tuple(edges))["z"]
    assert found.mean == pytest.approx(1 / np.cos(np.radians(degrees)), rel=0.01)
    for order in ((2, 1, 0), (1, 0, 2), (1, 2, 0)):
        turned = tortuosity_of(np.ascontiguousarray(channel.transpose(order)), tuple(edges[list(order)]))
        assert turned["zyx"[order.index(0)]].mean == pytest.approx(found.mean, rel=1e-3)


def test_edges_are_those_of_the_voxels_not_of_the_cubes():
    channel = slot(30, length=60)
    found, expected = (tortuosity_of(channel, (1.0, 2.0, 1.0), factor=factor)["z"].mean for factor in (3, 1))
    assert found == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("scale", [1.0, 0.1, 1e-6])
@pytest.mark.parametrize("edge", [1.0, 0.65, 0.7])
def test_free_way_has_tortuosity_1_in_any_unit(edge, scale):
    found = tortuosity_of(np.ones((200, 3, 3), bool), (scale * edge,) * 3)
    assert found["z"].mean == found["z"].minimum == 1.0
    assert (found["z"].lengths == 1.0).all()


@pytest.mark.parametrize("edges", [(0.65, 0.65, 0.65), (0.65, 1.3, 0.4)])
def test_does_not_depend_on_the_unit(edges):
    space = blobs((24, 26, 22), 0.45, seed=5)
    scaled = tortuosity_of(space, tuple(0.1 * edge for edge in edges))
    assert scaled == tortuosity_of(space, edges)


def test_values_on_the_faces():
    channel = slot(30)
    channel[-1, :, 4:] = False
    found = tortuosity_of(channel)["z"]
    np.testing.assert_array_equal(np.isfinite(found.lengths), channel[[-1, 0]])
    up, down = found.lengths[0][channel[-1]], found.lengths[1][channel[0]]
    # The two faces have unlike many voxels, and count alike.
    assert found.mean == pytest.approx((up.mean() + down.mean()) / 2, rel=1e-12)
    assert found.minimum == min(up.min(), down.min())
    assert (found.lengths >= 1.0).all()
    open_voxels = np.ones((4, 5, 6), bool)
    assert {axis: found.lengths.shape for axis, found in tortuosity_of(open_voxels).items()} == {
        "z": (2, 5, 6),
        "y": (2, 4, 6),
        "x": (2, 4, 5),
    }


@pytest.mark.parametrize("edges", [(1.0, 1.0, 1.0), (0.5, 1.3, 0.65)])
def test_mirror_images_have_the_same_tortuosity(edges):
    # Few pores: up and down differ by some percent.
    space = blobs((36, 32, 28), 0.33, seed=1)
    expected = tortuosity_of(space, edges)
    assert all(found.percolates for found in expected.values())
    means = [[way[np.isfinite(way)].mean() for way in found.lengths] for found in expected.values()]
    assert np.ptp(means, axis=1).max() > 0.02
    for flipped in ((0,), (1,), (2,), (0, 2), (0, 1, 2)):
        for axis, found in tortuosity_of(np.flip(space, flipped), edges).items():
            assert found.mean == pytest.approx(expected[axis].mean, rel=1e-6)
            assert found.minimum == pytest.approx(expected[axis].minimum, rel=1e-6)
            lengths = found.lengths[::-1] if "zyx".index(axis) in flipped else found.lengths
            across = [1 + i for i, other in enumerate(a for a in range(3) if "zyx"[a] != axis) if other in flipped]
            np.testing.assert_allclose(np.flip(lengths, across), expected[axis].lengths, rtol=1e-6)


@pytest.mark.parametrize("axis", range(3))
def test_axes_may_be_permuted_with_their_edges(axis):
    space = blobs((20, 24, 22), 0.5, seed=3)
    edges = np.array([1.0, 1.5, 0.7])
    order = np.roll(np.arange(3), axis)
    found = tortuosity_of(np.ascontiguousarray(space.transpose(order)), tuple(edges[order]))
    expected = tortuosity_of(space, tuple(edges))
    for new, old in enumerate(order):
        assert found["zyx"[new]].mean == pytest.approx(expected["zyx"[old]].mean, rel=2e-3)


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


def test_distance_in_free_space_of_anisotropic_voxels_is_euclidean():
    space = np.ones((21, 41, 41), bool)
    space[0] = False
    space[0, 20, 20] = True
    z, y, x = np.mgrid[:21, :41, :41]
    expected = np.sqrt((3 * z) ** 2 + (0.5 * (y - 20)) ** 2 + (x - 20) ** 2)
    visible = np.hypot(y - 20, x - 20) <= 0.8 * z
    distance = geodesic_distance(space, (3.0, 0.5, 1.0))
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
    space = blobs((40, 40, 40), 0.4, seed=1)
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
    # Of one axis of so small a medium, a throat that the coarse voxels close may make more.
    means = []
    for field in (coarse, refined):
        means.append(np.mean([found.mean for found in tortuosity_of(field < threshold).values()]))
    assert means[0] == pytest.approx(means[1], rel=0.015)


def test_blocked_axis_does_not_percolate():
    open_voxels = np.ones((20, 20, 20), bool)
    open_voxels[10] = False
    found = tortuosity_of(open_voxels)
    assert not found["z"].percolates
    assert found["z"].mean is None
    assert found["z"].minimum is None
    assert np.isinf(found["z"].lengths).all()
    assert found["y"].percolates
    assert found["y"].mean == pytest.approx(1.0)


def test_nothing_open_does_not_percolate():
    assert not any(found.percolates for found in tortuosity_of(np.zeros((3, 4, 5), bool)).values())


def test_an_axis_of_one_voxel_is_absent():
    found = tortuosity_of(np.ones((1, 30, 30), bool))
    assert set(found) == {"y", "x"}
    assert found["x"].mean == pytest.approx(1.0)
    assert tortuosity_of(np.ones((1, 1, 1), bool)) == {}


def test_does_not_depend_on_the_budget():
    space = blobs((45, 41, 39), 0.5, seed=2)
    seen = []
    little = tortuosity_of(space, memory_bytes=1, progress=seen.append)
    plenty = tortuosity_of(space)
    assert little == plenty
    for axis in "zyx":
        np.testing.assert_array_equal(little[axis].lengths, plenty[axis].lengths)
    assert seen == pytest.approx([1 / 3, 2 / 3, 1])
