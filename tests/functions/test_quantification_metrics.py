"""All metrics together on volumes with known truth; flat, finite, with units, and the same for any budget and turn."""

import json
import math
import re
from dataclasses import dataclass

import h5py
import numpy as np
import pytest

from tomopipe.functions.errors import InputError, ParameterError
from tomopipe.functions.objects import ObjectSettings, separate_objects
from tomopipe.functions.quantification import diffusion
from tomopipe.functions.quantification.box import find_box
from tomopipe.functions.quantification.metrics import GreyVolume, QuantificationSettings, measure
from tomopipe.functions.quantification.metrics_schema import metrics_schema
from tomopipe.functions.quantification.porosity import count_phases
from tomopipe.functions.quantification.uncertainty import SegmentationSample

PLENTY = 2**30
VOXEL_UM = (0.65, 0.65, 0.65)
PIXEL = (1.0, 1.0, 1.0)
CENTERS_AND_RADII = [((20, 45, 40), 11), ((45, 30, 55), 12), ((44, 62, 42), 10)]
ALONE = QuantificationSettings(tortuosity=False, tortuosity_factor=False, thickness=False)


@dataclass
class Objects:
    """A table of objects as metrics need it."""

    voxels: np.ndarray
    touches_border: np.ndarray
    centroid: np.ndarray
    bounding_box: np.ndarray
    neighbours: np.ndarray

    def sphericity(self, voxel_size):
        return np.full(len(self.voxels), 0.9)


@dataclass
class Contacts:
    first: np.ndarray
    second: np.ndarray
    throat_radius: np.ndarray


def made_foam(change=0.0):
    """Three spherical pores in a cylinder."""
    z, y, x = np.mgrid[:64, :96, :96]
    phases = np.where(np.hypot(y - 47.5, x - 47.5) < 44, 2, 0).astype(np.uint8)
    for (cz, cy, cx), radius in CENTERS_AND_RADII:
        phases[(z - cz - 0.2) ** 2 + (y - cy - 0.1) ** 2 + (x - cx + 0.15) ** 2 < (radius + change) ** 2] = 1
    return phases


@pytest.fixture(scope="module")
def foam():
    return made_foam()


@pytest.fixture(scope="module")
def objects():
    centroid = np.array([center for center, _ in CENTERS_AND_RADII] + [(2, 47, 47)], float)
    radius = np.array([radius for _, radius in CENTERS_AND_RADII] + [2])
    box = np.concatenate([centroid - radius[:, None], centroid + radius[:, None] + 1], axis=1).astype(int)
    voxels = [4 / 3 * np.pi * radius**3 for _, radius in CENTERS_AND_RADII] + [500]
    return Objects(np.array(voxels), np.array([False, False, False, True]), centroid, box, np.array([1, 2, 1, 0]))


@pytest.fixture(scope="module")
def contacts():
    return Contacts(np.array([1, 2]), np.array([2, 3]), np.array([1.3, 2.6]))


def blobs(shape, seed=0, level=-0.2, width=2.5):
    """A field with a level that makes pores, and its phases."""
    spectrum = np.fft.rfftn(np.random.default_rng(seed).normal(size=shape))
    squares = [np.fft.fftfreq(n)[:, None, None] ** 2 for n in shape[:1]]
    squares += [np.fft.fftfreq(shape[1])[None, :, None] ** 2, np.fft.rfftfreq(shape[2])[None, None, :] ** 2]
    field = np.fft.irfftn(spectrum * np.exp(-2 * (np.pi * width) ** 2 * sum(squares)), shape, (0, 1, 2))
    field = (field / field.std()).astype(np.float32)
    return field, np.where(field < level, 1, 2).astype(np.uint8)


def test_against_truth(foam, objects, contacts):
    result = measure(foam, objects, contacts, None, VOXEL_UM, "um", QuantificationSettings(), PLENTY)
    metrics, edge = result.metrics, VOXEL_UM[0]
    area = sum(4 * np.pi * r**2 for _, r in CENTERS_AND_RADII)
    region = np.pi * 44**2 * 64
    porosity = 100 * sum(4 / 3 * np.pi * r**3 for _, r in CENTERS_AND_RADII) / region
    assert metrics["porosity_percent"] == pytest.approx(porosity, rel=0.01)
    assert metrics["phase_fraction_percent_1"] == metrics["porosity_percent"]
    assert metrics["phase_fraction_percent_1"] + metrics["phase_fraction_percent_2"] == pytest.approx(100)
    assert metrics["porosity_closed_percent"] == metrics["porosity_percent"]
    assert metrics["porosity_open_percent"] == 0
    assert metrics["region_volume_um3"] == pytest.approx(region * edge**3, rel=0.01)
    assert metrics["surface_area_um2"] == pytest.approx(area * edge**2, rel=0.012)
    assert metrics["surface_area_crofton_um2"] == pytest.approx(area * edge**2, rel=0.005)
    assert metrics["specific_surface_per_um"] == pytest.approx(area / region / edge, rel=0.02)
    assert metrics["euler_number"] == 3
    assert [metrics[f"betti_number_{k}"] for k in range(3)] == [3, 0, 0]
    assert metrics["object_count"] == 4
    assert metrics["border_object_count"] == 1
    assert metrics["equivalent_diameter_mean_um"] == pytest.approx(22 * edge)
    assert metrics["equivalent_diameter_median_um"] == pytest.approx(22 * edge)
    assert metrics["equivalent_diameter_std_um"] == pytest.approx(np.sqrt(8 / 3) * edge)
    assert metrics["equivalent_diameter_volume_weighted_mean_um"] == pytest.approx(
        edge * (20**4 + 22**4 + 24**4) / (20**3 + 22**3 + 24**3)
    )
    # Large ones are rarer whole, so each counts for more.
    assert metrics["equivalent_diameter_border_corrected_mean_um"] > metrics["equivalent_diameter_mean_um"]
    assert metrics["object_density_per_um3"] > 3 / metrics["region_volume_um3"]
    assert metrics["sphericity_mean"] == pytest.approx(0.9)
    assert metrics["coordination_number_mean"] == pytest.approx(4 / 3)
    assert metrics["throat_count"] == 2
    assert metrics["throat_diameter_mean_um"] == pytest.approx(3.9)
    assert metrics["throat_diameter_median_um"] == pytest.approx(3.9)
    # A point of a sphere is covered by that sphere.
    volumes = {radius: radius**3 for _, radius in CENTERS_AND_RADII}
    thickness = sum(2 * r * v for r, v in volumes.items()) / sum(volumes.values())
    assert metrics["thickness_mean_um"] == pytest.approx(thickness * edge, abs=0.7 * edge)
    assert metrics["thickness_binning_factor"] == 1
    for axis in "zyx":
        assert metrics[f"percolates_{axis}"] == 0
        assert metrics[f"porosity_percolating_percent_{axis}"] == 0
        assert f"tortuosity_geodesic_mean_{axis}" not in metrics
        assert f"tortuosity_factor_{axis}" not in metrics
    assert sum(result.histograms["equivalent_diameter_um"]["counts"]) == 3
    assert sum(result.histograms["thickness_um"]["volume_percent"]) == pytest.approx(100)
    assert sum(result.histograms["throat_diameter_um"]["counts"]) == 2
    assert result.histograms["coordination_number"]["counts"][1:] == [2, 1]
    assert result.maps["thickness_um"].shape[0] <= 96


def test_solid_phase(foam):
    settings = QuantificationSettings(phase=2, connectivity=26)
    metrics = measure(foam, None, None, None, PIXEL, "pixel", settings, PLENTY).metrics
    pores = measure(foam, None, None, None, PIXEL, "pixel", QuantificationSettings(), PLENTY).metrics
    # A body with three cavities.
    assert metrics["euler_number"] == 4
    assert [metrics[f"betti_number_{k}"] for k in range(3)] == [1, 0, 3]
    assert metrics["surface_area_pixel2"] == pytest.approx(pores["surface_area_pixel2"], rel=1e-5)
    assert metrics["percolates_z"] == 1
    assert 1 <= metrics["tortuosity_geodesic_minimum_z"] <= metrics["tortuosity_geodesic_mean_z"] < 1.1
    box = foam[tuple(slice(*ends) for ends in find_box(foam, count_phases(foam, PLENTY).bounds, PLENTY))]
    open_share = np.mean(box == 2)
    # Few spheres that diffusion goes around: half their share by Maxwell's closed form, somewhat more for stepped walls.
    assert metrics["tortuosity_factor_z"] - 1 == pytest.approx((1 - open_share) / 2, rel=0.2)
    assert metrics["effective_diffusivity_ratio_z"] * metrics["tortuosity_factor_z"] == pytest.approx(open_share)
    for name in ("porosity_percent", "porosity_closed_percent"):
        assert metrics[name] == pores[name]
    assert "object_count" not in metrics


def test_does_not_depend_on_budget_or_storage(objects, contacts, tmp_path):
    foam = made_foam()
    field = np.random.default_rng(0).normal(size=foam.shape).astype(np.float32)
    settings = QuantificationSettings(
        tortuosity_maximum_voxels=60_000, thickness_maximum_voxels=60_000, tortuosity_factor_maximum_voxels=60_000
    )
    grey = GreyVolume(field, (0.0,))
    expected = measure(foam, objects, contacts, grey, VOXEL_UM, "um", settings, PLENTY)
    with h5py.File(tmp_path / "labels.h5", "w") as file:
        stored = file.create_dataset("phases", data=foam, chunks=(5, 32, 32), compression="gzip")
        for slices in (200, 330, 700):
            seen = []
            result = measure(stored, objects, contacts, grey, VOXEL_UM, "um", settings, slices * 96 * 96, seen.append)
            for name in ("metrics", "intervals", "histograms", "profiles", "representative_volume", "notes"):
                assert getattr(result, name) == getattr(expected, name)
            assert all(np.array_equal(result.maps[name], picture) for name, picture in expected.maps.items())
            assert seen == sorted(seen)
            assert seen[-1] == 1.0


class Counted:
    """A volume that counts the slices that are read of it."""

    def __init__(self, data):
        self.data, self.read = data, 0
        self.shape, self.dtype = data.shape, data.dtype

    def __getitem__(self, rows):
        part = self.data[rows]
        self.read += len(part)
        return part


def test_volumes_are_read_a_few_times():
    field, phases = blobs((64, 48, 48))
    held, streamed, grey = Counted(phases), Counted(phases), Counted(field)
    measure(held, None, None, None, PIXEL, "pixel", QuantificationSettings(), PLENTY)
    assert held.read == 64
    measure(streamed, None, None, GreyVolume(grey, (-0.2,)), PIXEL, "pixel", QuantificationSettings(), 550 * 48**2)
    # Some twelve passes, and what they read of their neighbours' blocks.
    assert streamed.read < 16 * 64
    assert grey.read < 3 * 64


def test_flat_finite_named_and_ready_for_json(objects, contacts):
    field, phases = blobs((48, 40, 44))
    grey = GreyVolume(field, (-0.2,))
    result = measure(phases, objects, contacts, grey, VOXEL_UM, "um", QuantificationSettings(), PLENTY)
    assert all(type(value) is float and math.isfinite(value) for value in result.metrics.values())
    assert list(result.metrics)[:6] == [
        "porosity_percent",
        "equivalent_diameter_mean_um",
        "object_count",
        "specific_surface_per_um",
        "tortuosity_geodesic_mean_z",
        "euler_number",
    ]
    known = list(metrics_schema()["properties"]["metrics"]["patternProperties"])
    assert [name for name in result.metrics if not any(re.search(pattern, name) for pattern in known)] == []
    parts = [
        result.metrics,
        result.intervals,
        result.histograms,
        result.profiles,
        result.representative_volume,
        result.notes,
    ]
    assert json.loads(json.dumps(parts, allow_nan=False)) == parts
    assert len({len(column) for column in result.profiles.values()}) == 1
    assert len(result.profiles["grey_mean_per_cm"]) == 48
    # Slices of equal size: the mean of a profile is the volume's.
    assert np.mean(result.profiles["phase_fraction_percent_1"]) == pytest.approx(result.metrics["porosity_percent"])
    assert np.mean(result.profiles["specific_surface_per_um"]) == pytest.approx(
        result.metrics["specific_surface_per_um"]
    )
    assert np.mean(result.profiles["grey_mean_per_cm"]) == pytest.approx(field.mean(), abs=1e-6)
    for name, kinds in result.intervals.items():
        for low, high in kinds.values():
            assert low <= result.metrics[name] <= high
    assert "subvolumes" in result.intervals["tortuosity_geodesic_mean_z"]
    assert "subvolumes" in result.intervals["thickness_median_um"]
    assert "region_volume_um3" not in result.intervals


def test_intervals_of_many_media_cover_the_mean_medium():
    """The 95 % interval of one medium holds the mean over media for most of them."""
    names = ("porosity_percent", "specific_surface_per_pixel", "euler_number", "surface_area_crofton_pixel2")
    found = [
        measure(blobs((40, 40, 40), seed, width=1.2)[1], None, None, None, PIXEL, "pixel", ALONE, PLENTY)
        for seed in range(16)
    ]
    for name in names:
        truth = np.mean([result.metrics[name] for result in found])
        ends = np.array([result.intervals[name]["subvolumes"] for result in found])
        covered = np.mean((ends[:, 0] <= truth) & (truth <= ends[:, 1]))
        assert covered >= 0.75, name


def test_anisotropic_voxels():
    """A ball sampled with flat voxels is the ball."""
    z, y, x = np.mgrid[:40, :80, :80]
    phases = np.where((2 * (z - 19.6)) ** 2 + (y - 39.7) ** 2 + (x - 39.4) ** 2 < 20**2, 1, 2).astype(np.uint8)
    result = measure(phases, None, None, None, (2.0, 1.0, 1.0), "um", QuantificationSettings(), PLENTY)
    metrics = result.metrics
    assert metrics["region_volume_um3"] == 2 * 40 * 80 * 80
    assert metrics["porosity_percent"] == pytest.approx(100 * 4 / 3 * np.pi * 20**3 / (2 * 40 * 80 * 80), rel=0.01)
    assert metrics["surface_area_um2"] == pytest.approx(4 * np.pi * 400, rel=0.02)
    assert metrics["surface_area_crofton_um2"] == pytest.approx(4 * np.pi * 400, rel=0.01)
    assert metrics["thickness_mean_um"] == pytest.approx(40, abs=2)
    assert result.profiles["z_um"][:2] == [0.0, 2.0]


def test_anisotropic_pores_are_the_stretched_ones():
    """Every slice twice as thick is every slice twice."""
    _, phases = blobs((24, 40, 44), level=0.2)
    settings = QuantificationSettings(thickness=False)
    thick = measure(phases, None, None, None, (2.0, 1.0, 1.0), "um", settings, PLENTY).metrics
    twice = measure(np.repeat(phases, 2, axis=0), None, None, None, PIXEL, "um", settings, PLENTY).metrics
    for name in ("porosity_percent", "region_volume_um3", "euler_number", "betti_number_1", "porosity_closed_percent"):
        assert thick[name] == pytest.approx(twice[name])
    for name in ("surface_area_um2", "tortuosity_geodesic_mean_z", "tortuosity_factor_z", "tortuosity_factor_x"):
        assert thick[name] == pytest.approx(twice[name], rel=0.06)


@pytest.mark.parametrize(("axes", "flipped"), [((0, 1, 2), (0,)), ((2, 1, 0), ()), ((1, 2, 0), (1, 2))])
def test_turned_and_flipped_volumes_have_the_same_metrics(axes, flipped):
    _, phases = blobs((40, 36, 44))
    settings = QuantificationSettings(tortuosity_factor=False)
    expected = measure(phases, None, None, None, PIXEL, "pixel", settings, PLENTY).metrics
    turned = np.ascontiguousarray(np.flip(phases, flipped).transpose(axes))
    metrics = measure(turned, None, None, None, PIXEL, "pixel", settings, PLENTY).metrics
    old = {"zyx"[new]: "zyx"[axis] for new, axis in enumerate(axes)}
    for name, value in metrics.items():
        source = f"{name[:-1]}{old[name[-1]]}" if name[-2:] in ("_z", "_y", "_x") else name
        if name.startswith(("euler", "betti", "porosity", "percolates", "phase", "region", "object", "border")):
            assert value == pytest.approx(expected[source], rel=1e-12), name
        elif name.startswith("tortuosity_geodesic"):
            # Ways bend around corners in another order.
            assert value == pytest.approx(expected[source], rel=1e-6 if axes == (0, 1, 2) else 2e-3), name
        elif not name.startswith("representative"):
            assert value == pytest.approx(expected[source], rel=1e-4), name


def test_grey_values_tell_the_area_better():
    z, y, x = np.mgrid[:48, :48, :48]
    distance = np.sqrt((z - 23.7) ** 2 + (y - 23.2) ** 2 + (x - 23.4) ** 2)
    field = np.clip(distance - 10 + 0.5, 0, 1).astype(np.float32)
    phases = np.where(field < 0.5, 1, 2).astype(np.uint8)
    metrics = measure(phases, None, None, GreyVolume(field, (0.5,)), PIXEL, "pixel", ALONE, PLENTY).metrics
    assert metrics["surface_area_grey_pixel2"] == pytest.approx(400 * np.pi, rel=0.003)
    assert GreyVolume(field, (0.2, 0.6)).levels(2) == (0.2, 0.6)
    assert GreyVolume(field, (0.2, 0.6)).levels(3) == (0.6, None)
    assert GreyVolume(field, (0.2, 0.6)).levels(4) is None
    nothing = measure(phases, None, None, GreyVolume(field, ()), PIXEL, "pixel", ALONE, PLENTY).metrics
    assert "surface_area_grey_pixel2" not in nothing


def test_segmentation_moves_the_metrics_as_in_the_sample(foam, tmp_path):
    """Pores with radii 0.3 voxels smaller and larger: the intervals are those of the metrics measured for them."""
    low, high = made_foam(-0.3), made_foam(0.3)
    separation = ObjectSettings()
    sample = SegmentationSample(foam, low, high, separation, tmp_path)
    tables = {}
    for name, volume in (("low", low), ("as_is", foam), ("high", high)):
        tables[name] = separate_objects(
            volume,
            1,
            separation,
            voxel_size=VOXEL_UM,
            memory_bytes=PLENTY,
            scratch=tmp_path,
            write=lambda start, labels: None,
        )
    settings = QuantificationSettings()
    result = measure(foam, *tables["as_is"], None, VOXEL_UM, "um", settings, PLENTY, None, sample)
    ends = [
        measure(volume, *tables[name], None, VOXEL_UM, "um", settings, PLENTY).metrics
        for name, volume in (("low", low), ("high", high))
    ]
    for name in (
        "porosity_percent",
        "phase_fraction_percent_2",
        "porosity_closed_percent",
        "surface_area_um2",
        "specific_surface_per_um",
        "euler_number",
        "object_count",
        "equivalent_diameter_mean_um",
        "equivalent_diameter_volume_weighted_median_um",
        "sphericity_mean",
    ):
        values = [result.metrics[name], *(metrics[name] for metrics in ends)]
        assert result.intervals[name]["segmentation"] == pytest.approx([min(values), max(values)]), name
    diameter = result.intervals["equivalent_diameter_mean_um"]["segmentation"]
    assert diameter[1] - diameter[0] == pytest.approx(1.2 * VOXEL_UM[0], rel=0.1)
    for name in ("region_volume_um3", "border_object_count", "percolates_z", "thickness_binning_factor"):
        assert "segmentation" not in result.intervals.get(name, {})
    assert list(tmp_path.iterdir()) == []


def test_sample_of_a_larger_volume():
    """Counts move by as many a volume as in the sample, shares by as many percent."""
    field, phases = blobs((60, 60, 60), width=1.5)
    part = (slice(15, 45),) * 3
    moved = [np.where(field[part] < level, 1, 2).astype(np.uint8) for level in (-0.2, -0.3, -0.1)]
    sample = SegmentationSample(*moved)
    result = measure(phases, None, None, None, PIXEL, "pixel", ALONE, PLENTY, None, sample)
    boxes = [measure(volume, None, None, None, PIXEL, "pixel", ALONE, PLENTY).metrics for volume in moved]
    changes = [100 * np.mean(volume == 1) - 100 * np.mean(moved[0] == 1) for volume in moved[1:]]
    porosity = result.metrics["porosity_percent"]
    assert result.intervals["porosity_percent"]["segmentation"] == pytest.approx([porosity + c for c in changes])
    counts = [8 * (box["euler_number"] - boxes[0]["euler_number"]) for box in boxes]
    euler = result.metrics["euler_number"]
    assert result.intervals["euler_number"]["segmentation"] == pytest.approx([euler + min(counts), euler + max(counts)])
    without = measure(phases, None, None, None, PIXEL, "pixel", QuantificationSettings(intervals=False), PLENTY)
    assert without.intervals == {}
    assert result.metrics["porosity_percent"] == without.metrics["porosity_percent"]
    outside = SegmentationSample(*(np.zeros((4, 4, 4), np.uint8) for _ in range(3)))
    nothing = measure(phases, None, None, None, PIXEL, "pixel", ALONE, PLENTY, None, outside)
    assert not any("segmentation" in kinds for kinds in nothing.intervals.values())


def test_phase_and_objects_that_are_absent():
    phases = np.full((10, 12, 14), 2, np.uint8)
    nothing = Objects(
        np.empty(0, np.int64), np.empty(0, bool), np.empty((0, 3)), np.empty((0, 6), int), np.empty(0, int)
    )
    no_contacts = Contacts(np.empty(0, int), np.empty(0, int), np.empty(0))
    result = measure(phases, nothing, no_contacts, None, PIXEL, "pixel", QuantificationSettings(), PLENTY)
    metrics = result.metrics
    for name in ("porosity_percent", "surface_area_pixel2", "euler_number", "betti_number_0", "betti_number_2"):
        assert metrics[name] == 0
    assert metrics["object_count"] == metrics["throat_count"] == metrics["object_density_per_pixel3"] == 0
    assert not any(name.startswith(("equivalent_diameter", "thickness", "throat_diameter")) for name in metrics)
    assert result.histograms == {}
    assert any("phase 1 occurs nowhere" in note for note in result.notes)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 20, 24), (20, 1, 1), (3, 2, 5)])
@pytest.mark.parametrize("value", [1, 2])
def test_tiny_and_flat_volumes(shape, value):
    field = np.full(shape, 0.5, np.float32)
    result = measure(
        np.full(shape, value, np.uint8),
        None,
        None,
        GreyVolume(field, (0.7 if value == 1 else 0.3,)),
        PIXEL,
        "pixel",
        QuantificationSettings(),
        PLENTY,
    )
    assert result.metrics["porosity_percent"] == (100 if value == 1 else 0)
    assert result.metrics["euler_number"] == (1 if value == 1 else 0)
    assert all(math.isfinite(number) for number in result.metrics.values())
    assert any("phase 1" in note for note in result.notes)
    for axis, length in zip("zyx", shape, strict=True):
        assert (f"percolates_{axis}" in result.metrics) == (length > 1)
    json.dumps([result.intervals, result.profiles, result.representative_volume], allow_nan=False)


def test_region_of_one_voxel():
    phases = np.zeros((6, 7, 8), np.uint8)
    phases[3, 3, 3] = 1
    metrics = measure(phases, None, None, None, PIXEL, "pixel", QuantificationSettings(), PLENTY).metrics
    assert metrics["porosity_percent"] == metrics["porosity_open_percent"] == 100
    assert metrics["region_volume_pixel3"] == 1


def test_what_is_lost_by_binning_is_said():
    phases = np.full((40, 40, 40), 2, np.uint8)
    phases[:, 20, 20] = 1
    settings = QuantificationSettings(tortuosity_maximum_voxels=8000)
    result = measure(phases, None, None, None, PIXEL, "pixel", settings, PLENTY)
    assert result.metrics["percolates_z"] == 1
    assert "tortuosity_geodesic_mean_z" not in result.metrics
    assert result.metrics["tortuosity_binning_factor"] == 2
    assert any("tortuosity_maximum_voxels" in note for note in result.notes)
    # Not binned for it, so that it is seen there.
    assert result.metrics["tortuosity_factor_z"] == pytest.approx(1, abs=1e-3)


def standing(region):
    """Seven in ten voxels of a region (y, x) that stands upright are pores."""
    pores = np.random.default_rng(0).random((24, *region.shape)) < 0.7
    return np.where(region, np.where(pores, 1, 2), 0).astype(np.uint8)


def test_box_that_lies_outside_the_sample_is_told():
    y, x = np.mgrid[:80, :80] - 39.5
    radius = np.hypot(y, x)
    ring = measure(standing((radius < 38) & (radius > 26)), None, None, None, PIXEL, "pixel", ALONE, PLENTY)
    notes = [note for note in ring.notes if "measured from face to face" in note]
    share = re.search(r"only (\d+) % of the box", notes[0])
    assert len(notes) == 1
    assert share is not None
    # The sides of the box just fit into the wall.
    assert 20 < int(share[1]) < 35
    assert {f"percolates_{axis}" for axis in "zyx"} <= set(ring.metrics)
    pillars = measure(standing(abs(y) > 25), None, None, None, PIXEL, "pixel", QuantificationSettings(), PLENTY)
    assert any("only 0 % of the box" in note for note in pillars.notes)
    assert not any(name.startswith(("percolates", "porosity_percolating")) for name in pillars.metrics)
    full = measure(standing(radius < 38), None, None, None, PIXEL, "pixel", ALONE, PLENTY)
    assert full.metrics["percolates_z"] == 1
    assert full.notes == []


def test_note_on_objects_at_the_border(objects, foam):
    cut = Objects(**{**vars(objects), "touches_border": np.array([False, True, True, True])})
    some = measure(foam, cut, None, None, PIXEL, "pixel", ALONE, PLENTY)
    assert "equivalent_diameter_border_corrected_mean_pixel" in some.metrics
    assert any("look at the border-corrected mean" in note for note in some.notes)
    all_cut = Objects(**{**vars(objects), "touches_border": np.ones(4, bool)})
    none = measure(foam, all_cut, None, None, PIXEL, "pixel", ALONE, PLENTY)
    assert "equivalent_diameter_border_corrected_mean_pixel" not in none.metrics
    assert any("4 of 4 objects" in note and "scan a larger piece for diameters" in note for note in none.notes)


@pytest.mark.parametrize(("iterations", "off"), [(2, "by an unknown amount"), (8, r"by some [\d.e+-]+ %")])
def test_diffusion_that_is_not_solved_is_told(iterations, off, monkeypatch):
    phases = blobs((32, 32, 32), level=-0.2)[1]
    settings = QuantificationSettings(tortuosity=False, thickness=False)
    solved = measure(phases, None, None, None, PIXEL, "pixel", settings, PLENTY)
    assert not any("not solved" in note for note in solved.notes)
    monkeypatch.setattr(diffusion, "MAXIMUM_ITERATIONS", iterations)
    notes = measure(phases, None, None, None, PIXEL, "pixel", settings, PLENTY).notes
    told = [note for note in notes if re.search(f"tortuosity_factor_z may be too small {off}", note)]
    assert len(told) == 1
    assert f"along z is not solved to the end after {iterations} iterations" in told[0]


def test_many_phases():
    """More phases than are counted in one pass."""
    phases = np.random.default_rng(0).integers(1, 12, (16, 17, 18)).astype(np.uint8)
    metrics = measure(phases, None, None, None, PIXEL, "pixel", ALONE, PLENTY).metrics
    for phase in range(1, 12):
        assert metrics[f"phase_fraction_percent_{phase}"] == pytest.approx(100 * np.mean(phases == phase))


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="region"):
        measure(np.zeros((4, 4, 4), np.uint8), None, None, None, PIXEL, "pixel", QuantificationSettings(), PLENTY)
    with pytest.raises(ParameterError, match="phase is 0"):
        QuantificationSettings(phase=0)
