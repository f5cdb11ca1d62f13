"""Separating objects: against brute force, whatever the memory; known spheres are found again."""

from __future__ import annotations

import csv
import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from tomopipe.functions.errors import InputError, ParameterError
from tomopipe.functions.objects import ObjectSettings, ObjectTable, scratch_bytes, separate_objects
from tomopipe.functions.outofcore import ScratchVolume
from tomopipe.functions.watershed import label_basins

_BYTES_PER_VOXEL = 16
_EXTRA_SLICES = 3
_NO_WALL = 2**30


def separate(
    phases: NDArray[np.uint8], phase: int, settings: ObjectSettings, scratch: Path, slices: int = 1000
) -> tuple[NDArray[np.uint32], ObjectTable]:
    """Labels and table, worked out with memory for so many slices at once."""
    labels = np.full(phases.shape, 2**32 - 1, np.uint32)
    starts = []

    def write(start: int, block: NDArray[np.uint32]) -> None:
        assert block.dtype == np.uint32
        assert len(block) <= slices
        starts.append(start)
        labels[start : start + len(block)] = block

    memory = (slices + _EXTRA_SLICES) * phases.shape[1] * phases.shape[2] * _BYTES_PER_VOXEL
    table = separate_objects(phases, phase, settings, memory_bytes=memory, scratch=scratch, write=write)
    assert starts == sorted(starts)
    return labels, table


def random_phases(seed: int, shape: tuple[int, int, int], smoothness: float, outside: bool) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    phases = np.where(ndimage.gaussian_filter(rng.normal(size=shape), smoothness) > 0.05, 1, 2).astype(np.uint8)
    if outside:
        phases[ndimage.gaussian_filter(rng.normal(size=shape), 2) > 0.05] = 0
    return phases


# A whole-volume reference that shares no code and no formula with what is tested --------------------------------------


def reference_components(mask: NDArray[np.bool_], connectivity: int) -> NDArray[np.int64]:
    rank = {6: 1, 18: 2, 26: 3}[connectivity]
    labels, _ = ndimage.label(mask, ndimage.generate_binary_structure(3, rank))
    return renumbered(labels)


def reference_basins(phases: NDArray[np.uint8], phase: int, connectivity: int, prominence: float) -> NDArray[np.int64]:
    mask, walls = phases == phase, (phases != phase) & (phases != 0)
    squared = (
        np.rint(ndimage.distance_transform_edt(~walls) ** 2).astype(np.int64)
        if walls.any()
        else np.full(mask.shape, _NO_WALL)
    )
    structure = ndimage.generate_binary_structure(3, {6: 1, 18: 2, 26: 3}[connectivity])

    def order(voxel: tuple[int, ...]) -> tuple[int, int]:
        return int(squared[voxel]), -int(np.ravel_multi_index(voxel, mask.shape))

    def neighbors(voxel: tuple[int, ...]) -> list[tuple[int, ...]]:
        found = []
        for offset in itertools.product((-1, 0, 1), repeat=3):
            other = tuple(int(v) + o for v, o in zip(voxel, offset, strict=True))
            if not all(0 <= v < n for v, n in zip(other, mask.shape, strict=True)) or not mask[other]:
                continue
            low = tuple(min(v, o) for v, o in zip(voxel, other, strict=True))
            high = tuple(max(v, o) for v, o in zip(voxel, other, strict=True))
            box = mask[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))]
            if box.all():
                found.append(other)
                continue
            pieces, _ = ndimage.label(box, structure)
            one = pieces[tuple(v - a for v, a in zip(voxel, low, strict=True))]
            if one == pieces[tuple(v - a for v, a in zip(other, low, strict=True))]:
                found.append(other)
        return found

    voxels = [tuple(int(v) for v in voxel) for voxel in np.argwhere(mask)]
    around = {voxel: neighbors(voxel) for voxel in voxels}
    step = {voxel: max(around[voxel], key=order) for voxel in voxels}
    top = {}
    for voxel in voxels:
        end = voxel
        while step[end] != end:
            end = step[end]
        top[voxel] = end
    # Tuples of a voxel's indices sort in raster order.
    saddles: dict[tuple[Any, Any], int] = {}
    for voxel in voxels:
        for other in around[voxel]:
            pair = (top[voxel], top[other])
            if pair[0] < pair[1]:
                saddles[pair] = max(saddles.get(pair, 0), int(min(squared[voxel], squared[other])))
    group = {peak: {peak} for peak in top.values()}
    for (one, other), saddle in sorted(saddles.items(), key=lambda entry: (-entry[1], entry[0])):
        if group[one] is group[other]:
            continue
        lower = min(max(int(squared[peak]) for peak in group[end]) for end in (one, other))
        if lower == saddle or np.sqrt(lower) - np.sqrt(saddle) < prominence:
            merged = group[one] | group[other]
            for peak in merged:
                group[peak] = merged
    labels = np.zeros(mask.shape, np.int64)
    for voxel in voxels:
        labels[voxel] = np.ravel_multi_index(min(group[top[voxel]]), mask.shape) + 1
    return renumbered(labels)


def renumbered(labels: NDArray[Any], min_voxels: int = 1) -> NDArray[np.int64]:
    """Labels 1.. in the order of first voxels, small ones dropped."""
    result = np.zeros(labels.shape, np.int64)
    names, first, counts = np.unique(labels, return_index=True, return_counts=True)
    kept = [(f, name) for name, f, count in zip(names, first, counts, strict=True) if name and count >= min_voxels]
    for number, (_, name) in enumerate(sorted(kept), start=1):
        result[labels == name] = number
    return result


# Exactness ------------------------------------------------------------------------------------------------------------

cases = settings(max_examples=25, deadline=None)
shapes = st.tuples(st.integers(1, 8), st.integers(1, 8), st.integers(1, 9))


@cases
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=shapes,
    smoothness=st.sampled_from([0.0, 0.7, 1.5]),
    outside=st.booleans(),
    connectivity=st.sampled_from([6, 18, 26]),
    prominence=st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    slices=st.integers(1, 8),
)
def test_watershed_equals_brute_force_whatever_the_memory(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    shape: tuple[int, int, int],
    smoothness: float,
    outside: bool,
    connectivity: Any,
    prominence: float,
    slices: int,
) -> None:
    phases = random_phases(seed, shape, smoothness, outside)
    settings = ObjectSettings(connectivity=connectivity, prominence_voxels=prominence)
    labels, table = separate(phases, 1, settings, tmp_path_factory.mktemp("scratch"), slices)
    assert np.array_equal(labels, reference_basins(phases, 1, connectivity, prominence))
    assert len(table) == labels.max(initial=0)


@cases
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(*[st.integers(1, 20)] * 3),
    smoothness=st.sampled_from([0.0, 0.7]),
    connectivity=st.sampled_from([6, 18, 26]),
    min_voxels=st.sampled_from([0, 1, 3]),
    slices=st.integers(1, 20),
)
def test_components_equal_scipy_whatever_the_memory(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    shape: tuple[int, int, int],
    smoothness: float,
    connectivity: Any,
    min_voxels: int,
    slices: int,
) -> None:
    phases = random_phases(seed, shape, smoothness, outside=True)
    settings = ObjectSettings("components", connectivity=connectivity, min_voxels=min_voxels)
    labels, _ = separate(phases, 2, settings, tmp_path_factory.mktemp("scratch"), slices)
    assert np.array_equal(labels, renumbered(reference_components(phases == 2, connectivity), min_voxels))


@pytest.mark.parametrize("method", ["watershed", "components"])
@pytest.mark.parametrize("radii", [(0.0, 0.0), (1.5, 1.0)])
def test_larger_volume_is_the_same_for_any_memory(tmp_path: Path, method: Any, radii: tuple[float, float]) -> None:
    phases = random_phases(5, (45, 40, 50), 1.5, outside=True)
    settings = ObjectSettings(method, 6, *radii, min_voxels=4)
    whole, table = separate(phases, 1, settings, tmp_path)
    assert len(table) > 20
    for slices in (2, 13, 44):
        labels, other = separate(phases, 1, settings, tmp_path, slices)
        assert np.array_equal(labels, whole)
        for name in ("label", "voxels", "centroid", "bounding_box", "touches_border"):
            assert np.array_equal(getattr(other, name), getattr(table, name)), name
    assert list(tmp_path.iterdir()) == []


def test_a_long_winding_ridge_is_followed_through_all_blocks(tmp_path: Path) -> None:
    # A tube of growing width that goes up and down through the blocks many times: one object with its peak at the end.
    phases = np.full((40, 60, 11), 2, np.uint8)
    for leg, y in enumerate(range(4, 56, 7)):
        phases[3:37, y - 2 : y + 3, 3:8] = 1
        end = slice(32, 37) if leg % 2 == 0 else slice(3, 8)
        if y + 7 < 56:
            phases[end, y : y + 7, 3:8] = 1
    phases[3:37, 53 - 2 : 59, 2:9] = 1
    whole, _ = separate(phases, 1, ObjectSettings(), tmp_path)
    assert whole.max() == 1
    for slices in (1, 5):
        assert np.array_equal(separate(phases, 1, ObjectSettings(), tmp_path, slices)[0], whole)


@pytest.mark.parametrize("connectivity", [6, 18, 26])
def test_basins_stay_within_one_component(tmp_path: Path, connectivity: Any) -> None:
    phases = random_phases(8, (20, 20, 20), 0.6, outside=False)
    labels, _ = separate(phases, 1, ObjectSettings(connectivity=connectivity), tmp_path)
    components = reference_components(phases == 1, connectivity)
    for label in range(1, int(labels.max()) + 1):
        assert len(np.unique(components[labels == label])) == 1


# Accuracy -------------------------------------------------------------------------------------------------------------


def paint(shape: tuple[int, int, int], spheres: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Phase 1 in spheres (z, y, x, radius), 2 elsewhere."""
    phases = np.full(shape, 2, np.uint8)
    for *center, radius in spheres:
        low = [max(0, int(c - radius)) for c in center]
        box = tuple(slice(a, int(c + radius) + 2) for a, c in zip(low, center, strict=True))
        part = phases[box]
        grid = np.indices(part.shape) + np.reshape(low, (3, 1, 1, 1)) - np.reshape(center, (3, 1, 1, 1))
        part[(grid**2).sum(axis=0) < radius**2] = 1
    return phases


def packed_spheres(count: int, side: int, seed: int, gap: float) -> NDArray[np.float64]:
    """Spheres (z, y, x, radius) at least a gap apart and inside the cube, large ones first."""
    rng = np.random.default_rng(seed)
    spheres = np.empty((0, 4))
    radius = side / 8
    while len(spheres) < count:
        center = rng.uniform(radius + 1, side - radius - 2, size=3)
        if (np.linalg.norm(spheres[:, :3] - center, axis=1) > spheres[:, 3] + radius + gap).all():
            spheres = np.vstack([spheres, [*center, radius]])
        else:
            radius = max(2.0, radius * 0.997)
    return spheres


def test_every_known_sphere_is_found_one_to_one(tmp_path: Path) -> None:
    spheres = packed_spheres(300, 112, seed=1, gap=0.0)
    phases = paint((112, 112, 112), spheres)
    # Nearly touching: connected components alone merge many.
    assert reference_components(phases == 1, 26).max() < 250
    labels, table = separate(phases, 1, ObjectSettings(min_voxels=4), tmp_path, slices=30)
    at_center = labels[tuple(np.rint(spheres[:, :3]).astype(int).T)]
    names, counts = np.unique(at_center, return_counts=True)
    alone = np.isin(at_center, names[counts == 1]) & (at_center > 0)
    assert alone.mean() > 0.995
    assert abs(len(table) - len(spheres)) <= 2
    rows = at_center[alone].astype(int) - 1
    error = table.equivalent_diameter_voxels[rows] - 2 * spheres[alone, 3]
    assert abs(error.mean()) < 0.05
    assert np.abs(error).max() < 0.5
    assert np.abs(table.centroid[rows] - spheres[alone, :3]).max() < 0.3


@pytest.mark.parametrize("overlap", [1.0, 3.0])
def test_overlapping_spheres_are_split_at_the_neck(tmp_path: Path, overlap: float) -> None:
    radius = 12.0
    offset = radius - overlap / 2
    spheres = np.array([[20.2, 20.3, 30 - offset, radius], [20.2, 20.3, 30 + offset, radius]])
    labels, table = separate(paint((41, 41, 61), spheres), 1, ObjectSettings(), tmp_path)
    assert len(table) == 2
    x = np.nonzero(labels == 1)[2], np.nonzero(labels == 2)[2]
    assert x[0].max() <= 31
    assert x[1].min() >= 29
    cap = np.pi * (overlap / 2) ** 2 * (3 * radius - overlap / 2) / 3
    assert table.voxels == pytest.approx(4 / 3 * np.pi * radius**3 - cap, rel=0.02)


def test_prominence_says_how_deep_a_neck_must_be(tmp_path: Path) -> None:
    spheres = np.array([[15.0, 15.0, 12.0, 9.0], [15.0, 15.0, 24.0, 9.0]])
    phases = paint((31, 31, 37), spheres)  # the neck has a radius of 6.7: 2.3 less
    assert len(separate(phases, 1, ObjectSettings(prominence_voxels=1.5), tmp_path)[1]) == 2
    assert len(separate(phases, 1, ObjectSettings(prominence_voxels=3.5), tmp_path)[1]) == 1


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(
    ("squared", "prominence", "basins"),
    [
        ([16, 9, 20], 1.0, 2),  # 4 above 3: not less than 1
        ([16, 9, 20], 1.001, 1),
        ([9, 5, 12], 0.763, 2),  # 3 above 2.2361
        ([9, 5, 12], 0.764, 1),
        ([9, 5, 5, 9], 0.0, 2),
        ([9, 9, 9, 9], 0.0, 1),
        ([9, 5, 12, 7, 10], 0.52, 2),  # 3.1623 above 2.6458; the first stays
        ([10, 7, 12, 7, 10], 0.52, 1),
        ([9, 0, 9], 100.0, 2),
    ],
)
def test_prominence_to_the_last_bit(
    tmp_path: Path, axis: int, squared: list[int], prominence: float, basins: int
) -> None:
    # One line; along z every saddle lies between blocks.
    heights = np.array(squared, np.int32).reshape([-1 if other == axis else 1 for other in range(3)])
    with (
        ScratchVolume(tmp_path / "squared.raw", heights.shape, np.int32) as volume,
        ScratchVolume(tmp_path / "labels.raw", heights.shape, np.int32) as labels,
    ):
        volume.write(0, heights)
        blocks = [(z, z + 1) for z in range(len(heights))]
        joined = label_basins(volume, blocks, 6, prominence, labels, lambda slices: None)
        found = joined[labels[0 : len(heights)]]
    assert np.array_equal(found > 0, heights > 0)
    assert len(np.unique(found[found > 0])) == basins


def test_agrees_with_skimage_from_the_same_peaks(tmp_path: Path) -> None:
    segmentation = pytest.importorskip("skimage.segmentation")
    phases = paint((80, 80, 80), packed_spheres(100, 80, seed=4, gap=-1.5))
    mask = phases == 1
    labels, table = separate(phases, 1, ObjectSettings(), tmp_path)
    distance = ndimage.distance_transform_edt(mask)
    peaks = ndimage.maximum_position(distance, labels, table.label)
    markers = np.zeros(mask.shape, np.int32)
    markers[tuple(np.array(peaks).T)] = table.label
    other = segmentation.watershed(-distance, markers, mask=mask)
    assert (labels[mask] == other[mask]).mean() > 0.99


def test_faces_and_what_is_outside_the_region_are_no_walls(tmp_path: Path) -> None:
    # A ball cut by the volume's face, and one by the region's edge, keep their peak at the cut.
    phases = paint((40, 30, 60), np.array([[0.0, 14.0, 15.0, 10.0], [20.0, 14.0, 42.0, 10.0], [30.0, 14.0, 15.0, 6.0]]))
    phases[:, :, 45:] = 0
    labels, table = separate(phases, 1, ObjectSettings(), tmp_path)
    assert len(table) == 3
    assert table.touches_border.tolist() == [True, True, False]
    assert (labels[:, :, 45:] == 0).all()
    assert table.bounding_box[0].tolist() == [0, 5, 6, 10, 24, 25]


# The table ------------------------------------------------------------------------------------------------------------


def test_table_equals_plain_sums(tmp_path: Path) -> None:
    phases = random_phases(11, (25, 30, 35), 1.5, outside=True)
    labels, table = separate(phases, 2, ObjectSettings(min_voxels=5), tmp_path, slices=6)
    assert np.array_equal(table.label, np.arange(1, labels.max() + 1))
    region = np.pad(phases > 0, 1)
    for row, label in enumerate(table.label):
        voxels = np.argwhere(labels == label)
        assert table.voxels[row] == len(voxels) >= 5
        assert np.array_equal(table.centroid[row], voxels.sum(axis=0) / len(voxels))
        assert table.bounding_box[row].tolist() == [*voxels.min(axis=0), *(voxels.max(axis=0) + 1)]
        reach = ndimage.binary_dilation(np.pad(labels == label, 1))
        assert table.touches_border[row] == (~region[reach]).any()
    assert table.equivalent_diameter_voxels == pytest.approx((6 * table.voxels / np.pi) ** (1 / 3))


def test_csv_states_units(tmp_path: Path) -> None:
    phases = paint((20, 20, 20), np.array([[9.0, 10.0, 8.0, 5.0]]))
    _, table = separate(phases, 1, ObjectSettings(), tmp_path)
    table.to_csv(tmp_path / "objects.csv", 0.5, "um")
    with (tmp_path / "objects.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["label"] == "1"
    assert int(row["voxels"]) == (phases == 1).sum()
    assert float(row["volume_um3"]) == (phases == 1).sum() / 8
    assert float(row["equivalent_diameter_um"]) == table.equivalent_diameter_voxels[0] / 2
    assert [float(row[f"centroid_{axis}_um"]) for axis in "zyx"] == [4.5, 5.0, 4.0]
    assert [int(row[f"{axis}_first_voxel"]) for axis in "zyx"] == [5, 6, 4]
    assert [int(row[f"{axis}_end_voxel"]) for axis in "zyx"] == [14, 15, 13]
    assert row["touches_border"] == "0"


def test_a_phase_that_is_not_there_has_no_objects(tmp_path: Path) -> None:
    phases = np.ones((4, 5, 6), np.uint8)
    for method in ("watershed", "components"):
        labels, table = separate(phases, 3, ObjectSettings(method), tmp_path)  # type: ignore[arg-type]
        assert not labels.any()
        assert len(table) == 0
        table.to_csv(tmp_path / "none.csv", 1.0, "voxel")
        assert len((tmp_path / "none.csv").read_text().splitlines()) == 1


def test_a_phase_without_walls_is_one_object(tmp_path: Path) -> None:
    labels, table = separate(np.ones((9, 10, 11), np.uint8), 1, ObjectSettings(), tmp_path, slices=2)
    assert (labels == 1).all()
    assert table.voxels.tolist() == [990]


def test_progress_ends_at_the_total(tmp_path: Path) -> None:
    phases = random_phases(1, (7, 8, 9), 1.0, outside=False)
    for how in (ObjectSettings(), ObjectSettings("components", 6, 1.0, 2.0)):
        told: list[tuple[int, int]] = []
        separate_objects(
            phases,
            1,
            how,
            memory_bytes=2**20,
            scratch=tmp_path,
            write=lambda start, block: None,
            progress=lambda done, total, told=told: told.append((done, total)),  # type: ignore[misc]
        )
        done = [entry[0] for entry in told]
        assert done == sorted(done)
        assert told[-1][0] == told[-1][1]


def test_bad_settings_are_refused(tmp_path: Path) -> None:
    for wrong in (
        {"method": "magic"},
        {"connectivity": 8},
        {"opening_radius_voxels": -1},
        {"prominence_voxels": np.nan},
    ):
        with pytest.raises(ParameterError, match=next(iter(wrong))):
            ObjectSettings(**wrong)
    phases = np.ones((4, 50, 50), np.uint8)
    common: dict[str, Any] = {"scratch": tmp_path, "write": lambda start, block: None}
    with pytest.raises(ParameterError, match="phase is 0"):
        separate_objects(phases, 0, ObjectSettings(), memory_bytes=2**20, **common)
    with pytest.raises(ParameterError, match="give at least"):
        separate_objects(phases, 1, ObjectSettings(), memory_bytes=1000, **common)
    with pytest.raises(InputError, match="three axes"):
        separate_objects(phases[0], 1, ObjectSettings(), memory_bytes=2**20, **common)


def test_scratch_is_what_was_announced(tmp_path: Path) -> None:
    phases = random_phases(1, (20, 30, 40), 1.0, outside=False)
    for how in (ObjectSettings(), ObjectSettings("components"), ObjectSettings("watershed", 6, 1.0)):
        used = []

        def write(start: int, block: NDArray[np.uint32], used: list[int] = used) -> None:
            used.append(sum(file.stat().st_size for file in tmp_path.rglob("*.raw")))

        separate_objects(phases, 1, how, memory_bytes=2**30, scratch=tmp_path, write=write)
        assert max(used) == scratch_bytes(phases.shape, how)


_MEASURE_MEMORY = """
import resource, sys, threading
from pathlib import Path
import numpy as np, psutil
from tomopipe.functions.objects import ObjectSettings, separate_objects

class Foam:
    shape, dtype = (600, 256, 256), np.dtype(np.uint8)
    def __getitem__(self, slices):
        y, x = np.indices(self.shape[1:])
        across = (y % 20 - 10) ** 2 + (x % 22 - 11) ** 2
        block = np.empty((len(range(*slices.indices(self.shape[0]))), *self.shape[1:]), np.uint8)
        for i, z in enumerate(range(*slices.indices(self.shape[0]))):
            block[i] = 1 + ((z % 24 - 12) ** 2 + across > 81)
        return block

def run(volume, memory):
    how = ObjectSettings(sys.argv[3], opening_radius_voxels=1)
    return separate_objects(volume, 1, how, memory_bytes=memory, scratch=Path(sys.argv[1]), write=lambda z, block: None)

small = Foam()
small.shape = (30, 256, 256)
run(small, 2**24)  # compiles, and warms the allocator up
before = psutil.Process().memory_info().rss
peak, stop = [before], threading.Event()
def watch():
    while not stop.wait(0.002):
        peak[0] = max(peak[0], psutil.Process().memory_info().rss)
thread = threading.Thread(target=watch)
thread.start()
table = run(Foam(), int(sys.argv[2]))
stop.set()
thread.join()
print(len(table), peak[0] - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["watershed", "components"])
def test_memory_stays_within_the_budget(tmp_path: Path, method: str) -> None:
    budget = 40 * 2**20  # the volume's distances and labels alone are 157 MB each
    command = [sys.executable, "-c", _MEASURE_MEMORY, str(tmp_path), str(budget), method]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    objects, grown = map(int, result.stdout.split())
    assert objects == 25 * 13 * 12
    assert grown < budget
