"""Metrics against sub-volume size: white noise with known spread, cylinders, thin volumes."""

import json
import math

import numpy as np
import pytest

from tomopipe.functions.quantification.representative import measure_sub_volumes
from tomopipe.functions.quantification.tiling import Tiling, cubes


def tiles_of(values, tiling):
    for axis, edges in enumerate((tiling.z, tiling.y, tiling.x)):
        values = np.add.reduceat(values, edges[:-1], axis=axis)
    return values


def test_independent_voxels():
    """Voxels that are independent have sub-volumes whose spread is that of a binomial distribution."""
    size, porosity = 64, 0.3
    pores = np.random.default_rng(0).random((size,) * 3) < porosity
    tiling = cubes(((0, size),) * 3)
    region = np.full(tiling.shape, 64)
    series = measure_sub_volumes(
        tiling, region, {"porosity_percent": 100.0 * tiles_of(pores.astype(int), tiling)}, (1, 1, 1)
    )
    assert series.edges.tolist() == pytest.approx([4, 8, 12, 16, 20, 24, 32])
    assert series.cubes.tolist() == [4096, 512, 125, 64, 27, 8, 8]
    for edge, cubes_counted, mean, std in zip(
        series.edges, series.cubes, series.mean["porosity_percent"], series.std["porosity_percent"], strict=True
    ):
        expected = 100 * math.sqrt(porosity * (1 - porosity) / edge**3)
        assert std == pytest.approx(expected, rel=4 / math.sqrt(2 * (cubes_counted - 1)))
        assert mean == pytest.approx(100 * porosity, abs=4 * expected / math.sqrt(cubes_counted))
    # sqrt(0.21) / 0.3 / edge^1.5 < 0.05 from an edge of 9.8 voxels on.
    assert series.representative_edge("porosity_percent") == pytest.approx(12)
    assert series.representative_edge("porosity_percent", 1e-6) is None


def test_edges_are_those_of_cubes_of_the_same_volume():
    tiling = cubes(((0, 32), (0, 32), (0, 32)), 8)
    region = np.full(tiling.shape, 64)
    series = measure_sub_volumes(tiling, region, {}, (2.0, 1.0, 0.5))
    assert series.edges[0] == pytest.approx(4.0)
    series = measure_sub_volumes(tiling, region, {}, (8.0, 1.0, 1.0))
    assert series.edges[:2].tolist() == pytest.approx([8, 16])


def test_only_cubes_of_which_half_lies_in_the_region_count():
    tiling = Tiling((0, 4, 8), (0, 4, 8), (0, 4, 8))
    region = np.array([64, 32, 31, 0, 64, 64, 0, 0]).reshape(2, 2, 2)
    area = region * 2.0
    series = measure_sub_volumes(tiling, region, {"area": area}, (1, 1, 1))
    assert series.cubes.tolist() == [4]
    assert series.mean["area"].tolist() == [2.0]
    assert series.std["area"].tolist() == [0.0]
    # As few cubes as four may tell.
    assert series.representative_edge("area") == pytest.approx(4)


def test_thin_volumes_and_nothing():
    tiling = cubes(((0, 3), (0, 64), (0, 64)))
    series = measure_sub_volumes(tiling, np.full(tiling.shape, 48), {"a": np.ones(tiling.shape)}, (1, 1, 1))
    assert series.cubes.tolist() == [256, 64, 25, 16, 9, 4, 4]
    assert series.edges[0] == pytest.approx(48 ** (1 / 3))
    empty = measure_sub_volumes(tiling, np.zeros(tiling.shape, int), {"a": np.zeros(tiling.shape)}, (1, 1, 1))
    assert empty.cubes.size == 0
    assert empty.representative_edge("a") is None
    one = measure_sub_volumes(Tiling((0, 1), (0, 1), (0, 1)), np.ones((1, 1, 1)), {"a": np.ones((1, 1, 1))}, (1, 1, 1))
    assert one.columns("um") == {"edge_um": [], "cubes": [], "a_mean": [], "a_std": []}


def test_metric_that_is_zero_has_no_representative_size():
    tiling = cubes(((0, 16),) * 3, 4)
    series = measure_sub_volumes(tiling, np.full(tiling.shape, 64), {"a": np.zeros(tiling.shape)}, (1, 1, 1))
    assert series.representative_edge("a") is None


def test_ready_for_json():
    tiling = cubes(((0, 16),) * 3, 4)
    columns = measure_sub_volumes(tiling, np.full(tiling.shape, 64), {"a": np.ones(tiling.shape)}, (1, 1, 1)).columns(
        "um"
    )
    assert set(columns) == {"edge_um", "cubes", "a_mean", "a_std"}
    assert len({len(column) for column in columns.values()}) == 1
    json.dumps(columns, allow_nan=False)
