"""Components of phases and Betti numbers against scipy, scikit-image, homology groups and shapes that are known."""

import itertools
import tracemalloc

import numba
import numpy as np
import pytest
from scipy import ndimage
from skimage import measure

from tomopipe.functions.errors import InputError, ParameterError
from tomopipe.functions.quantification.configurations import count_configurations, euler_number
from tomopipe.functions.quantification.connectivity import betti_numbers, phase_components

PLENTY = 10**8
RANKS = {6: 1, 26: 3}


def random_phases(shape, seed=0, share=0.4):
    """Phases 0 to 3, with an outline and holes outside the region."""
    rng = np.random.default_rng(seed)
    phases = np.where(rng.random(shape) < share, 1, rng.integers(2, 4, shape)).astype(np.uint8)
    phases[rng.random(shape) < 0.02] = 0
    phases[:, :, : shape[2] // 5] *= rng.integers(0, 2, (1, shape[1], 1), np.uint8)
    return phases


def labelled(phases, members, connectivity):
    """What scipy finds in a whole volume: voxels, faces, open, in raster order."""
    labels, count = ndimage.label(np.isin(phases, members), ndimage.generate_binary_structure(3, RANKS[connectivity]))
    index = np.arange(1, count + 1)
    sides = [side for axis in range(3) for side in (labels.take(0, axis), labels.take(-1, axis))]
    faces = np.stack([np.isin(index, side) for side in sides], axis=1) if count else np.zeros((0, 6), bool)
    beside = ndimage.binary_dilation(phases == 0)
    voxels = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    return voxels, faces, faces.any(axis=1) | np.isin(index, labels[beside])


def assert_same(found, expected):
    for one, other in zip((found.voxels, found.faces, found.open), expected, strict=True):
        np.testing.assert_array_equal(one, other)


def betti(phases, members, connectivity, **options):
    euler = euler_number(count_configurations(phases, [members], PLENTY)[0], connectivity)
    found = betti_numbers(phases, members, connectivity, euler, PLENTY, **options)
    return found.components, found.tunnels, found.cavities


def homology(mask, connectivity):
    """Betti numbers as ranks of boundary maps of the cubical complex, over the field of two elements."""
    # Cells at doubled coordinates; their dimension is the number of odd ones. 6: voxels are vertices, joined where all are
    # there. 26: voxels are closed cubes.
    padded = np.pad(mask, 1)
    shape = [2 * n - 1 for n in padded.shape] if connectivity == 6 else [2 * n + 1 for n in padded.shape]
    cells = {}
    for cell in itertools.product(*map(range, shape)):
        if connectivity == 6:
            voxels = [(c // 2, c // 2 + 1) if c % 2 else (c // 2,) for c in cell]
            present = all(padded[v] for v in itertools.product(*voxels))
        else:
            voxels = [(c // 2,) if c % 2 else (c // 2 - 1, c // 2) for c in cell]
            inside = [
                v for v in itertools.product(*voxels) if all(0 <= i < n for i, n in zip(v, padded.shape, strict=True))
            ]
            present = any(padded[v] for v in inside)
        if present:
            cells[cell] = sum(c % 2 for c in cell)
    by_dimension = [[cell for cell, dimension in cells.items() if dimension == d] for d in range(4)]
    ranks = [0, *(boundary_rank(by_dimension[d], by_dimension[d - 1]) for d in (1, 2, 3)), 0]
    return tuple(len(by_dimension[d]) - ranks[d] - ranks[d + 1] for d in range(3))


def boundary_rank(cells, faces):
    position = {face: index for index, face in enumerate(faces)}
    pivots = {}
    for cell in cells:
        row = 0
        for axis in range(3):
            if cell[axis] % 2:
                for step in (-1, 1):
                    row ^= 1 << position[(*cell[:axis], cell[axis] + step, *cell[axis + 1 :])]
        while row and row.bit_length() in pivots:
            row ^= pivots[row.bit_length()]
        if row:
            pivots[row.bit_length()] = row
    return len(pivots)


@pytest.mark.parametrize("connectivity", [6, 26])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.55])
def test_equals_scipy_for_any_budget(connectivity, share):
    phases = random_phases((13, 14, 15), 1, share)
    slice_bytes = 13 * 14 * 15
    for members in ([1], [1, 3], [0, 2]):
        expected = labelled(phases, members, connectivity)
        for slices in (2, 3, 5, 100):
            seen = []
            found = phase_components(phases, members, connectivity, slices * slice_bytes, progress=seen.append)
            assert_same(found, expected)
            assert len(found) == len(expected[0])
            assert found.region_voxels == np.count_nonzero(phases)
            assert seen[-1] == 1.0


@pytest.mark.parametrize("connectivity", [6, 26])
def test_box_is_a_volume_of_its_own(connectivity):
    phases = random_phases((12, 16, 18), 2)
    box = ((2, 11), (3, 13), (1, 17))
    crop = phases[2:11, 3:13, 1:17]
    for budget in (2 * 13 * 10 * 16, PLENTY):
        found = phase_components(phases, {1}, connectivity, budget, box)
        assert_same(found, labelled(crop, [1], connectivity))
        assert found.region_voxels == np.count_nonzero(crop)


def test_does_not_depend_on_threads():
    phases = random_phases((16, 20, 20), 3)
    threads = numba.get_num_threads()
    found = []
    try:
        for count in {1, threads}:
            numba.set_num_threads(count)
            found.append(phase_components(phases, {1}, 6, PLENTY))
    finally:
        numba.set_num_threads(threads)
    for other in found[1:]:
        assert_same(other, (found[0].voxels, found[0].faces, found[0].open))


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_a_winding_pore_is_one_whatever_the_axis(order):
    """A pore that climbs from end to end and back, so that blocks see many pieces of it."""
    phases = np.full((40, 9, 21), 2, np.uint8)
    for column in range(0, 21, 2):
        phases[1:39, 4, column] = 1
    for number, column in enumerate(range(1, 20, 2)):
        phases[38 if number % 2 else 1, 4, column] = 1
    phases = np.ascontiguousarray(phases.transpose(order))
    slice_bytes = 13 * phases.shape[1] * phases.shape[2]
    for slices in (2, 3, 7, 1000):
        found = phase_components(phases, {1}, 6, slices * slice_bytes)
        assert found.voxels.tolist() == [np.count_nonzero(phases == 1)]


@pytest.mark.parametrize("connectivity", [6, 26])
def test_flips_and_turns_leave_sizes_unchanged(connectivity):
    phases = random_phases((9, 10, 11), 5)
    expected = phase_components(phases, {1}, connectivity, PLENTY)
    expected_betti = betti(phases, {1}, connectivity)
    for turned in (phases[::-1], phases[:, :, ::-1], phases.transpose(2, 0, 1)):
        turned = np.ascontiguousarray(turned)
        found = phase_components(turned, {1}, connectivity, PLENTY)
        np.testing.assert_array_equal(np.sort(found.voxels), np.sort(expected.voxels))
        assert found.voxels[found.open].sum() == expected.voxels[expected.open].sum()
        assert betti(turned, {1}, connectivity) == expected_betti


@pytest.mark.parametrize(
    ("phases", "voxels", "opened"),
    [
        (np.zeros((3, 4, 5), np.uint8), [], []),
        (np.full((3, 4, 5), 2, np.uint8), [], []),
        (np.ones((3, 4, 5), np.uint8), [60], [True]),
        (np.ones((1, 1, 1), np.uint8), [1], [True]),
        (np.ones((1, 4, 5), np.uint8), [20], [True]),
        (np.array([[[1, 2, 1, 1, 0]]], np.uint8), [1, 2], [True, True]),
        (np.pad(np.ones((1, 1, 1), np.uint8), 1, constant_values=2), [1], [False]),
        (np.pad(np.ones((1, 1, 1), np.uint8), 1), [1], [True]),
    ],
)
def test_plain_volumes(phases, voxels, opened):
    found = phase_components(phases, {1}, 6, PLENTY)
    assert found.voxels.tolist() == voxels
    assert found.open.tolist() == opened
    assert found.faces.shape == (len(voxels), 6)


def test_open_through_each_neighbour_across_blocks():
    for axis in range(3):
        for step in (-1, 1):
            phases = np.full((5, 5, 5), 2, np.uint8)
            phases[2, 2, 2] = 1
            beside = [2, 2, 2]
            beside[axis] += step
            phases[tuple(beside)] = 0
            for slices in (2, 3, 100):
                assert phase_components(phases, {1}, 6, slices * 13 * 25).open.tolist() == [True]
    # Over an edge nothing can flow.
    phases = np.full((5, 5, 5), 2, np.uint8)
    phases[2, 2, 2], phases[1, 1, 2], phases[3, 2, 3] = 1, 0, 0
    assert phase_components(phases, {1}, 6, PLENTY).open.tolist() == [False]


def test_bad_input():
    with pytest.raises(InputError, match="uint8"):
        phase_components(np.zeros((3, 4, 5)), {1}, 6, PLENTY)
    with pytest.raises(ParameterError, match="memory"):
        phase_components(np.zeros((3, 4, 5), np.uint8), {1}, 6, 13 * 20)


def shapes():
    z, y, x = np.mgrid[-12:13, -12:13, -12:13]
    radius = np.sqrt(z**2 + y**2 + x**2)
    across = np.hypot(np.hypot(y, x) - 7, z)
    block = np.zeros((25, 25, 25), bool)
    block[4:20, 4:20, 4:20] = True
    drilled = block.copy()
    for column in (7, 11, 15):
        drilled[:, 10:12, column : column + 2] = False
    hollow = block.copy()
    hollow[6:8, 6:8, 6:8] = hollow[10:13, 10:13, 10:13] = False
    # Three channels along the axes that meet: five tunnels.
    crossed = block.copy()
    crossed[11:13, 11:13, :] = crossed[11:13, :, 11:13] = crossed[:, 11:13, 11:13] = False
    two = np.zeros((25, 25, 25), bool)
    two[3:6, 3:6, 3:6] = two[10, 10, 10] = True
    return {
        "sphere": (radius < 9, (1, 0, 0)),
        "shell": ((radius < 10) & (radius > 6), (1, 0, 1)),
        "shell around a ball": (((radius < 11) & (radius > 8)) | (radius < 5), (2, 0, 1)),
        "torus": (across < 3, (1, 1, 0)),
        "hollow torus": ((across < 4.5) & (across > 1.5), (1, 2, 1)),
        "three tunnels": (drilled, (1, 3, 0)),
        "crossed tunnels": (crossed, (1, 5, 0)),
        "two cavities": (hollow, (1, 0, 2)),
        "two pieces": (two, (2, 0, 0)),
        "nothing": (np.zeros((25, 25, 25), bool), (0, 0, 0)),
        "everything": (np.ones((25, 25, 25), bool), (1, 0, 0)),
    }


@pytest.mark.parametrize("name", list(shapes()))
@pytest.mark.parametrize("connectivity", [6, 26])
def test_betti_numbers_of_shapes(name, connectivity):
    mask, expected = shapes()[name]
    assert betti(np.where(mask, 1, 2).astype(np.uint8), {1}, connectivity) == expected


@pytest.mark.parametrize("connectivity", [6, 26])
@pytest.mark.parametrize("seed", range(4))
def test_betti_numbers_are_ranks_of_homology_groups(connectivity, seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((4, 5, 4)) < (0.3, 0.5, 0.65, 0.85)[seed]
    assert betti(mask.astype(np.uint8), {1}, connectivity) == homology(mask, connectivity)


@pytest.mark.parametrize(("connectivity", "dual"), [(6, 26), (26, 6)])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_pores_and_solid_are_a_pair(connectivity, dual, share):
    """In a frame of solid: each tunnel of one is one of the other, cavities of one are components of the other."""
    phases = np.full((22, 23, 24), 2, np.uint8)
    phases[1:-1, 1:-1, 1:-1] = np.where(np.random.default_rng(0).random((20, 21, 22)) < share, 1, 2)
    components, tunnels, cavities = betti(phases, {1}, connectivity)
    assert betti(phases, {2}, dual) == (1 + cavities, tunnels, components)
    _, count = measure.label(phases == 1, connectivity=RANKS[connectivity], return_num=True)
    assert components == count
    assert components - tunnels + cavities == measure.euler_number(phases == 1, RANKS[connectivity])


def test_known_components_save_a_pass():
    phases = random_phases((10, 11, 12), 7)
    count = len(phase_components(phases, {1}, 6, PLENTY))
    seen, fewer = [], []
    assert betti(phases, {1}, 6, progress=seen.append) == betti(phases, {1}, 6, components=count, progress=fewer.append)
    assert len(fewer) < len(seen)
    assert seen[-1] == fewer[-1] == 1.0
    assert sorted(seen) == seen


@pytest.mark.parametrize("kind", ["checkerboard", "blobs", "pillars"])
def test_memory_stays_within_the_budget(kind):
    phases = np.full((64, 64, 64), 2, np.uint8)
    if kind == "checkerboard":
        phases[np.indices(phases.shape).sum(axis=0) % 2 == 1] = 1
    elif kind == "blobs":
        noise = ndimage.gaussian_filter(np.random.default_rng(0).random(phases.shape), 2)
        phases[noise > np.median(noise)] = 1
    else:
        phases[0] = phases[:, ::2, ::2] = 1  # one component of a thousand runs in every slice
    budget = 4 * 13 * 64 * 64
    phase_components(phases[:8], {1}, 6, budget)
    tracemalloc.start()
    try:
        found = phase_components(phases, {1}, 6, budget)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Blocks of three slices and the one before: a checkerboard's components each lie in one or two.
    pieces = 64 * 64 * 64 // 2 * 4 // 3 if kind == "checkerboard" else 22 * len(found)
    assert peak < budget + 26 * pieces + 2**16
