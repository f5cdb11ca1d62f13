"""The cycle over coarse grids is a symmetric positive map; coarse conductances are those of the joined faces."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from tomopipe.functions.quantification.multigrid import cycle, make_levels


def padded(open_voxels):
    return np.pad(open_voxels.astype(np.uint8), 1)


def blobs(shape, share, seed=0):
    smooth = gaussian_filter(np.random.default_rng(seed).random(shape), 1.0)
    return smooth < np.quantile(smooth, share)


def as_matrix(levels):
    """The cycle's result for a unit source in each cell that conducts."""
    cells = np.argwhere(levels[0].inverse > 0)
    matrix = np.empty((len(cells), len(cells)))
    for row, cell in enumerate(cells):
        levels[0].source[:] = 0
        levels[0].source[tuple(cell)] = 1
        matrix[row] = cycle(levels)[tuple(cells.T)]
    return matrix


@pytest.mark.parametrize("edges", [(1.0, 1.0, 1.0), (4.0, 1.0, 1.0), (1.0, 1.0, 2.5)])
@pytest.mark.parametrize("shape", [(12, 11, 13), (9, 3, 1)])
def test_cycle_is_symmetric_and_positive(shape, edges):
    open_voxels = blobs(shape, 0.6)
    open_voxels[:, 0, 0] = True
    matrix = as_matrix(make_levels(padded(open_voxels), edges))
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-5 * matrix.max())
    assert np.linalg.eigvalsh(matrix + matrix.T).min() > 0


def flows(level, values):
    """What flows out of each cell."""
    out = np.zeros_like(values)
    for axis, conductances in enumerate(level.conductances):
        towards = np.diff(values, axis=axis, prepend=0) * conductances
        out += towards
        out -= np.roll(towards, -1, axis)
    return out


def test_repeated_cycles_solve():
    # A cycle corrects a little too much or little; damped and repeated it leads to the solution, fast.
    level, *coarser = levels = make_levels(padded(blobs((24, 24, 24), 0.7)), (1.0, 1.0, 1.0))
    assert len(coarser) == 3
    truth = np.random.default_rng(0).random(level.source.shape).astype(np.float32) * (level.inverse > 0)
    wanted = flows(level, truth)
    values = np.zeros_like(truth)
    errors = [1.0]
    for _ in range(12):
        level.source[:] = (wanted - flows(level, values)) * (level.inverse > 0)
        values += 0.7 * cycle(levels)
        errors.append(np.linalg.norm(values - truth) / np.linalg.norm(truth))
    assert errors[-1] < 0.01


def test_coarse_conductances_count_open_faces_over_the_longer_way():
    open_voxels = np.ones((4, 4, 4), bool)
    open_voxels[1, 0, 0] = False
    level = make_levels(padded(open_voxels), (1.0, 1.0, 1.0))[0]
    along_z, along_y, along_x = level.conductances
    assert level.factors == (2, 2, 2)
    # Between two full cubes four faces at twice the distance; to the fixed values at half of that.
    assert along_z[2, 2, 2] == 2
    assert along_z[1, 1, 1] == along_z[3, 1, 1] == 4
    # One of the four is closed.
    assert along_z[2, 1, 1] == 1.5
    assert along_y[1, 2, 1] == along_x[1, 1, 2] == 2
    assert along_y[:, 1].max() == along_x[:, :, 1].max() == 0


def test_conductances_of_coarser_grids_join_those_of_finer_ones():
    open_voxels = blobs((13, 10, 7), 0.5)
    levels = make_levels(padded(open_voxels), (1.0, 1.0, 1.0))
    assert [level.inverse.shape for level in levels] == [(9, 7, 6), (6, 5, 4), (4, 4, 3)]
    for finer, level in pairwise(levels):
        assert level.conductances[0][1].sum() == pytest.approx(finer.conductances[0][1].sum() / 2)
        assert level.conductances[0][-1].sum() == pytest.approx(finer.conductances[0][-1].sum() / 2)


def test_long_edges_wait_for_the_short_ones():
    levels = make_levels(padded(np.ones((32, 32, 32), bool)), (4.0, 1.0, 1.0))
    assert [level.factors for level in levels[:3]] == [(1, 2, 2), (1, 2, 2), (2, 2, 2)]
