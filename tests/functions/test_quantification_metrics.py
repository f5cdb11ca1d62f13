"""All metrics together on a volume with known truth; flat, finite, with units, and the same for any budget."""

import json
import math
from dataclasses import dataclass

import h5py
import numpy as np
import pytest

from tomopipe.functions.errors import InputError, ParameterError
from tomopipe.functions.quantification.metrics import QuantificationSettings, measure

PLENTY = 2**30
VOXEL_UM = 0.65
CENTERS_AND_RADII = [((20, 45, 40), 11), ((45, 30, 55), 12), ((44, 62, 42), 10)]


@dataclass
class Objects:
    voxels: np.ndarray
    touches_border: np.ndarray


@pytest.fixture(scope="module")
def foam():
    """Three spherical pores in a cylinder."""
    z, y, x = np.mgrid[:64, :96, :96]
    phases = np.where(np.hypot(y - 47.5, x - 47.5) < 44, 2, 0).astype(np.uint8)
    for (cz, cy, cx), radius in CENTERS_AND_RADII:
        phases[(z - cz - 0.2) ** 2 + (y - cy - 0.1) ** 2 + (x - cx + 0.15) ** 2 < radius**2] = 1
    return phases


@pytest.fixture(scope="module")
def objects():
    voxels = [4 / 3 * np.pi * radius**3 for _, radius in CENTERS_AND_RADII] + [500]
    return Objects(np.array(voxels), np.array([False, False, False, True]))


def test_against_truth(foam, objects):
    result = measure(foam, objects, VOXEL_UM, "um", QuantificationSettings(), PLENTY)
    metrics = result.metrics
    area = sum(4 * np.pi * r**2 for _, r in CENTERS_AND_RADII)
    region = np.pi * 44**2 * 64
    assert metrics["porosity_percent"] == pytest.approx(
        100 * sum(4 / 3 * np.pi * r**3 for _, r in CENTERS_AND_RADII) / region, rel=0.01
    )
    assert metrics["phase_fraction_percent_1"] == metrics["porosity_percent"]
    assert metrics["phase_fraction_percent_1"] + metrics["phase_fraction_percent_2"] == pytest.approx(100)
    assert metrics["region_volume_um3"] == pytest.approx(region * VOXEL_UM**3, rel=0.01)
    assert metrics["surface_area_um2"] == pytest.approx(area * VOXEL_UM**2, rel=0.015)
    assert metrics["surface_area_crofton_um2"] == pytest.approx(area * VOXEL_UM**2, rel=0.005)
    assert metrics["specific_surface_per_um"] == pytest.approx(area / region / VOXEL_UM, rel=0.02)
    assert metrics["euler_number"] == 3
    assert metrics["object_count"] == 4
    assert metrics["border_object_count"] == 1
    assert metrics["equivalent_diameter_mean_um"] == pytest.approx(22 * VOXEL_UM)
    assert metrics["equivalent_diameter_median_um"] == pytest.approx(22 * VOXEL_UM)
    assert metrics["equivalent_diameter_std_um"] == pytest.approx(np.sqrt(8 / 3) * VOXEL_UM)
    assert metrics["equivalent_diameter_volume_weighted_mean_um"] == pytest.approx(
        VOXEL_UM * (20**4 + 22**4 + 24**4) / (20**3 + 22**3 + 24**3)
    )
    for axis in "zyx":
        assert metrics[f"percolates_{axis}"] == 0
        assert f"tortuosity_geodesic_mean_{axis}" not in metrics
    assert sum(result.histograms["equivalent_diameter_um"]["counts"]) == 3


def test_solid_phase(foam):
    settings = QuantificationSettings(phase=2, connectivity=26)
    metrics = measure(foam, None, 1.0, "pixel", settings, PLENTY).metrics
    pores = measure(foam, None, 1.0, "pixel", QuantificationSettings(), PLENTY).metrics
    # A body with three cavities.
    assert metrics["euler_number"] == 4
    assert metrics["surface_area_pixel2"] == pytest.approx(pores["surface_area_pixel2"], rel=1e-5)
    assert metrics["percolates_z"] == 1
    assert 1 <= metrics["tortuosity_geodesic_minimum_z"] <= metrics["tortuosity_geodesic_mean_z"] < 1.1
    assert metrics["porosity_percent"] == pores["porosity_percent"]
    assert "object_count" not in metrics


def test_does_not_depend_on_budget_or_storage(foam, objects, tmp_path):
    expected = measure(foam, objects, VOXEL_UM, "um", QuantificationSettings(tortuosity_maximum_voxels=60_000), PLENTY)
    with h5py.File(tmp_path / "labels.h5", "w") as file:
        stored = file.create_dataset("phases", data=foam, chunks=(5, 32, 32), compression="gzip")
        for slices in (40, 77):
            settings = QuantificationSettings(tortuosity_maximum_voxels=60_000)
            seen = []
            result = measure(stored, objects, VOXEL_UM, "um", settings, slices * 96 * 96, seen.append)
            assert result == expected
            assert seen == sorted(seen)
            assert seen[-1] == 1.0


def test_flat_finite_and_ready_for_json(foam, objects):
    result = measure(foam, objects, VOXEL_UM, "um", QuantificationSettings(), PLENTY)
    assert all(type(value) is float and math.isfinite(value) for value in result.metrics.values())
    assert next(iter(result.metrics)) == "porosity_percent"
    text = json.dumps([result.metrics, result.histograms], allow_nan=False)
    assert json.loads(text)[0] == result.metrics


def test_phase_and_objects_that_are_absent():
    phases = np.full((10, 12, 14), 2, np.uint8)
    nothing = Objects(np.empty(0, np.int64), np.empty(0, bool))
    result = measure(phases, nothing, 1.0, "pixel", QuantificationSettings(), PLENTY)
    assert result.metrics["porosity_percent"] == 0
    assert result.metrics["surface_area_pixel2"] == 0
    assert result.metrics["euler_number"] == 0
    assert result.metrics["object_count"] == 0
    assert not any(name.startswith("equivalent_diameter") for name in result.metrics)
    assert result.histograms == {}


def test_border_objects_take_part_only_where_asked(foam, objects):
    settings = QuantificationSettings(count_border_objects=True, tortuosity=False)
    result = measure(foam, objects, VOXEL_UM, "um", settings, PLENTY)
    assert sum(result.histograms["equivalent_diameter_um"]["counts"]) == 4
    assert not any(name.startswith(("tortuosity", "percolates")) for name in result.metrics)


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="region"):
        measure(np.zeros((4, 4, 4), np.uint8), None, 1.0, "pixel", QuantificationSettings(), PLENTY)
    with pytest.raises(ParameterError, match="phase is 0"):
        QuantificationSettings(phase=0)
