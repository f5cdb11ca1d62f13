"""Diffusive tortuosity factor against closed forms, a direct solution and TauFactor; the same for any number of threads."""

import math
import tracemalloc

import numba
import numpy as np
import pytest
from scipy import sparse
from scipy.ndimage import gaussian_filter
from scipy.sparse.linalg import spsolve

from tomopipe.functions.quantification import diffusion
from tomopipe.functions.quantification.box import BinnedPhase
from tomopipe.functions.quantification.diffusion import SOLVER_BYTES_PER_VOXEL, tortuosity_factor, tortuosity_factors


def blobs(shape, share, seed=0, sigma=2.0):
    smooth = gaussian_filter(np.random.default_rng(seed).random(shape), sigma)
    return smooth < np.quantile(smooth, share)


def solve_directly(open_voxels, axis, edges=(1.0, 1.0, 1.0)):
    """Effective diffusivity by a sparse direct solution; what no face is connected to is left out."""
    space = np.moveaxis(open_voxels, axis, 0)
    edges = np.roll(edges, -axis) if axis != 1 else np.array(edges)[[1, 0, 2]]
    numbers = np.full(space.shape, -1)
    numbers[space] = np.arange(space.sum())
    weights = (edges[0] / np.array(edges)) ** 2
    first, second, conductances = [], [], []
    for direction in range(3):
        low, high = (np.moveaxis(numbers, direction, 0)[part].ravel() for part in (slice(None, -1), slice(1, None)))
        pair = (low >= 0) & (high >= 0)
        first.append(low[pair])
        second.append(high[pair])
        conductances.append(np.full(pair.sum(), weights[direction]))
    i, j, c = np.concatenate(first), np.concatenate(second), np.concatenate(conductances)
    count = int(space.sum())
    near, far = numbers[0][space[0]], numbers[-1][space[-1]]
    # A speck on the diagonal makes what touches no face regular, and is far below what is compared.
    diagonal = np.bincount(i, c, count) + np.bincount(j, c, count) + 1e-11
    diagonal += 2.0 * np.bincount(near, minlength=count) + 2.0 * np.bincount(far, minlength=count)
    matrix = sparse.coo_matrix((-c, (i, j)), (count, count))
    matrix = (matrix + matrix.T + sparse.diags_array(diagonal)).tocsc()
    values = spsolve(matrix, 2.0 * np.bincount(near, minlength=count))
    return 2.0 * values[far].sum() * space.shape[0] / (space.shape[1] * space.shape[2])


def path_through(shape, steps):
    """Open voxels along a path from the first slice: `steps` are pairs of axis and number of voxels."""
    space = np.zeros(shape, bool)
    place = [0, 1, 1]
    space[tuple(place)] = True
    for axis, count in steps:
        for _ in range(abs(count)):
            place[axis] += int(np.sign(count))
            space[tuple(place)] = True
    return space


def test_straight_channels_have_factor_1():
    space = np.zeros((20, 21, 22), bool)
    space[:, 5:8, 5:8] = True
    space[5:8, :, 12:15] = True
    space[13, 13, :] = True
    for axis in range(3):
        only = np.zeros_like(space)
        only[[np.s_[:, 5:8, 5:8], np.s_[5:8, :, 12:15], np.s_[13, 13, :]][axis]] = True
        found = tortuosity_factor(only, axis, (1.0, 2.0, 3.0))
        assert found.tortuosity_factor == pytest.approx(1.0, abs=1e-9)
        assert found.effective_diffusivity_ratio == pytest.approx(only.mean(), rel=1e-9)
        assert tortuosity_factor(space, axis).tortuosity_factor > 1.0


def test_layers_along_the_flow_conduct_by_their_share():
    space = np.zeros((16, 12, 12), bool)
    space[:, ::3] = True
    assert tortuosity_factor(space, 0).effective_diffusivity_ratio == pytest.approx(1 / 3, rel=1e-9)
    assert tortuosity_factor(space, 2).tortuosity_factor == pytest.approx(1, rel=1e-9)
    assert tortuosity_factor(space, 1) is None


@pytest.mark.parametrize("edges", [(1.0, 1.0, 1.0), (2.0, 1.0, 0.5)])
def test_a_path_of_single_voxels_is_a_row_of_resistances(edges):
    space = path_through((12, 9, 8), [(0, 3), (1, 5), (0, 4), (2, 5), (0, 4)])
    found = tortuosity_factor(space, 0, edges, tolerance=1e-9)
    # Each step resists with its length over the face it crosses; the two ends together are one step along z.
    resistance = 12 * edges[0] ** 2 + 5 * edges[1] ** 2 + 5 * edges[2] ** 2
    expected = edges[0] ** 2 * 12 / resistance / (9 * 8)
    assert found.effective_diffusivity_ratio == pytest.approx(expected, rel=1e-5)
    assert found.tortuosity_factor == pytest.approx(space.mean() / expected, rel=1e-5)


def test_two_paths_between_the_same_ends_conduct_in_parallel():
    space = path_through((10, 9, 4), [(0, 2), (1, 4), (0, 4), (1, -4), (0, 3)])
    space[2:7, 1, 1] = True
    found = tortuosity_factor(space, 0, tolerance=1e-9)
    resistance = 6 + 1 / (1 / 4 + 1 / 12)
    assert found.effective_diffusivity_ratio == pytest.approx(10 / resistance / 36, rel=1e-5)


def test_closed_pores_and_dead_ends_count_as_open_but_carry_nothing():
    space = np.zeros((10, 10, 10), bool)
    space[:, 2, 2] = True
    space[4, 2, 3:6] = True
    space[5:8, 7:9, 7:9] = True
    found = tortuosity_factor(space, 0)
    assert found.effective_diffusivity_ratio == pytest.approx(0.01, rel=1e-5)
    assert found.tortuosity_factor == pytest.approx(space.mean() / 0.01, rel=1e-5)


def test_what_does_not_percolate_has_no_factor():
    space = np.ones((8, 8, 8), bool)
    space[4] = False
    assert tortuosity_factor(space, 0) is None
    assert tortuosity_factor(space, 1).tortuosity_factor == pytest.approx(1, abs=1e-9)
    assert tortuosity_factor(np.zeros((3, 4, 5), bool), 2) is None
    # Over edges and corners nothing flows.
    space = np.zeros((2, 2, 2), bool)
    space[0, 0, 0] = space[1, 1, 0] = True
    assert tortuosity_factor(space, 0) is None


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 5), (2, 1, 1), (7, 1, 3), (5, 4, 1)])
def test_open_space_of_any_shape_has_factor_1(shape):
    for axis in range(3):
        found = tortuosity_factor(np.ones(shape, bool), axis)
        assert found.tortuosity_factor == pytest.approx(1, abs=1e-9)
        assert found.residual == 0.0


def test_one_slice_of_pores_conducts_by_its_share():
    space = np.zeros((1, 6, 6), bool)
    space[0, 2:4] = True
    assert tortuosity_factor(space, 0).effective_diffusivity_ratio == pytest.approx(1 / 3, rel=1e-9)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("edges", [(1.0, 1.0, 1.0), (3.0, 1.0, 1.0), (1.0, 1.3, 0.4)])
def test_equals_a_direct_solution(share, edges):
    space = blobs((17, 20, 13), share, seed=4, sigma=1.2)
    found = [tortuosity_factor(space, axis, edges) for axis in range(3)]
    assert any(found)
    for axis in range(3):
        expected = solve_directly(space, axis, edges)
        if found[axis] is None:
            assert expected == pytest.approx(0, abs=1e-9)
        else:
            assert found[axis].effective_diffusivity_ratio == pytest.approx(expected, rel=3e-5)
            assert found[axis].tortuosity_factor == pytest.approx(space.mean() / expected, rel=3e-5)


def test_equals_a_direct_solution_of_slender_voxels():
    # Fast directions are solved first; the gains then fall and rise again.
    random = np.random.default_rng(0)
    compared = 0
    for _ in range(120):
        shape, edges = tuple(random.integers(2, 9, 3)), tuple(random.choice([0.5, 1.0, 2.1, 10.0], 3))
        space = random.random(shape) < random.choice([0.4, 0.5, 0.7, 0.9])
        found = tortuosity_factor(space, 0, edges)
        if found is not None:
            compared += 1
            expected = solve_directly(space, 0, edges)
            assert found.effective_diffusivity_ratio == pytest.approx(expected, rel=2e-4), (shape, edges)
    assert compared > 80


@pytest.mark.parametrize("share", [0.36, 0.5])
def test_equals_a_direct_solution_where_voxels_are_independent(share):
    # Close to the percolation threshold (0.31) the paths are the most tortuous there are.
    space = np.random.default_rng(5).random((22, 22, 22)) < share
    found = tortuosity_factor(space, 0)
    assert found.effective_diffusivity_ratio == pytest.approx(solve_directly(space, 0), rel=5e-5)


def test_equals_a_direct_solution_through_a_pinhole():
    # What flows is a thousandth of what the linear profile dissipates.
    space = np.ones((24, 30, 30), bool)
    space[12] = False
    space[12, 11, 20] = True
    found = tortuosity_factor(space, 0)
    assert found.tortuosity_factor > 20
    assert found.effective_diffusivity_ratio == pytest.approx(solve_directly(space, 0), rel=5e-5)


def test_error_left_is_what_is_said():
    space = blobs((64, 64, 64), 0.3, sigma=2.0)
    exact = tortuosity_factor(space, 0, tolerance=1e-9)
    for tolerance in (1e-2, 1e-3, 1e-4, 1e-5):
        found = tortuosity_factor(space, 0, tolerance=tolerance)
        error = found.effective_diffusivity_ratio / exact.effective_diffusivity_ratio - 1
        assert found.residual <= tolerance
        assert -1e-6 <= error <= 3 * tolerance


@pytest.mark.parametrize("edge", [40, 64, 96])
def test_larger_boxes_take_few_more_iterations(edge):
    found = tortuosity_factor(blobs((edge,) * 3, 0.35, sigma=edge / 32), 0)
    assert found.iterations <= 35


@pytest.mark.parametrize("edges", [(4.0, 1.0, 1.0), (1.0, 1.0, 5.0)])
def test_anisotropic_voxels_take_few_more_iterations(edges):
    found = tortuosity_factor(blobs((48, 48, 48), 0.5), 0, edges)
    assert found.iterations <= 45


def test_stretched_voxels_are_those_of_a_resampled_medium():
    # Smooth blobs on the same grid, with every second slice only, and with every second column only.
    fine = blobs((80, 64, 64), 0.5, sigma=5.0)
    for axis in range(3):
        expected = tortuosity_factor(fine, axis).tortuosity_factor
        assert tortuosity_factor(fine[::2], axis, (2.0, 1.0, 1.0)).tortuosity_factor == pytest.approx(
            expected, rel=0.03
        )
        thinned = tortuosity_factor(fine[:, :, ::2], axis, (0.5, 0.5, 1.0))
        assert thinned.tortuosity_factor == pytest.approx(expected, rel=0.03)


def test_mirrored_and_turned_media_have_the_same_factor():
    space, edges = blobs((30, 34, 28), 0.45, seed=7), np.array([1.0, 1.5, 0.7])
    expected = tortuosity_factor(space, 0, tuple(edges)).tortuosity_factor
    assert tortuosity_factor(space[::-1], 0, tuple(edges)).tortuosity_factor == pytest.approx(expected, rel=3e-5)
    for order in ((1, 0, 2), (2, 1, 0), (1, 2, 0), (0, 2, 1)):
        turned = tortuosity_factor(space.transpose(order), order.index(0), tuple(edges[list(order)]))
        assert turned.tortuosity_factor == pytest.approx(expected, rel=3e-5)


def test_mirror_images_side_by_side_and_in_a_row_have_the_same_factor():
    # No flow through the mirrors along the flow, one concentration on those across: exactly the same solution.
    space = blobs((24, 26, 22), 0.4, seed=8)
    expected = tortuosity_factor(space, 0).effective_diffusivity_ratio
    for axis, times in ((0, 3), (1, 2), (2, 4)):
        space = np.concatenate([space if i % 2 == 0 else np.flip(space, axis) for i in range(times)], axis)
    assert tortuosity_factor(space, 0).effective_diffusivity_ratio == pytest.approx(expected, rel=3e-5)


def test_does_not_depend_on_the_number_of_threads():
    # The first coarse grid is large enough for several threads.
    space = blobs((84, 84, 84), 0.4)
    threads = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        alone = tortuosity_factor(space, 1)
    finally:
        numba.set_num_threads(threads)
    assert tortuosity_factor(space, 1) == alone
    assert numba.get_num_threads() == threads


@pytest.mark.parametrize("axis", [0, 2])
def test_memory_of_a_voxel(axis):
    space = np.ones((112, 112, 112), bool)
    space[40:70, 40:70, 40:70] = False
    tortuosity_factor(space[:8], axis)
    tracemalloc.start()
    try:
        tortuosity_factor(space, axis)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak + space.nbytes <= SOLVER_BYTES_PER_VOXEL * space.size


def test_what_is_not_reached_is_told(monkeypatch):
    monkeypatch.setattr(diffusion, "MAXIMUM_ITERATIONS", 8)
    found = tortuosity_factor(blobs((40, 40, 40), 0.3), 0)
    assert found.iterations == 8
    assert found.residual > diffusion.DEFAULT_TOLERANCE
    assert math.isfinite(found.tortuosity_factor)


def test_of_a_binned_phase_by_axis():
    space = blobs((20, 24, 22), 0.5)
    space[:, 10] = False
    seen = []
    binned = BinnedPhase(space, 2, ((0, 40), (3, 51), (0, 44)))
    found = tortuosity_factors(binned, (1.0, 2.0, 0.5), seen.append)
    assert list(found) == ["z", "y", "x"]
    assert found["y"] is None
    assert found["z"] == tortuosity_factor(space, 0, (2.0, 4.0, 1.0))
    assert found["x"] == tortuosity_factor(space, 2, (2.0, 4.0, 1.0))
    assert seen == pytest.approx([1 / 3, 2 / 3, 1])
    flat = BinnedPhase(np.ones((1, 4, 4), bool), 3, ((0, 2), (0, 12), (0, 12)))
    assert list(tortuosity_factors(flat, (1.0, 1.0, 1.0))) == ["y", "x"]


def test_equals_taufactor():
    taufactor = pytest.importorskip(
        "taufactor", reason="TauFactor is no dependency; where it is installed it is compared"
    )
    space = blobs((48, 50, 46), 0.4, sigma=1.5)
    for axis in range(3):
        image = np.ascontiguousarray(np.moveaxis(space, axis, 0)).astype(np.uint8)
        solver = taufactor.Solver(image, device="cpu")
        expected = float(solver.solve(verbose=False, conv_crit=1e-4)[0])
        assert tortuosity_factor(space, axis).tortuosity_factor == pytest.approx(expected, rel=1e-3)
