"""Separating objects: against brute force, wherever the volume is cut; known spheres are found again."""

from __future__ import annotations

import itertools
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from tomopipe.functions.errors import InputError, ParameterError
from tomopipe.functions.objects import (
    Contacts,
    ObjectSettings,
    ObjectTable,
    find_objects,
    gather_objects,
    join_objects,
    label_objects,
    object_blocks,
    preparation_sweeps,
    prepare_objects,
    scratch_bytes,
    separate_objects,
)
from tomopipe.functions.quantification.configurations import count_configurations, crofton_weights

_NO_WALL = 2**30
CUBIC = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Separated:
    labels: NDArray[np.uint32]
    table: ObjectTable
    contacts: Contacts


def separate(
    phases: NDArray[np.uint8],
    phase: int,
    how: ObjectSettings,
    folder: Path,
    *,
    cuts: tuple[int, ...] = (),
    voxel_size: tuple[float, float, float] = CUBIC,
) -> Separated:
    """All steps, with the volume cut where asked, and the blocks taken in an order of their own in each step."""
    folder = folder / f"work-{len(list(folder.iterdir()))}"
    edges = sorted({0, len(phases), *(cut for cut in cuts if 0 < cut < len(phases))})
    blocks = list(itertools.pairwise(edges))
    told: list[int] = []
    prepare_objects(phases, phase, how, blocks, folder, voxel_size, told.append)
    assert sum(told) == preparation_sweeps(how) * len(phases)
    for index in reversed(range(len(blocks))):
        find_objects(phases, phase, how, blocks, index, folder, voxel_size)
    count = join_objects(how, blocks, folder, voxel_size)
    labels = np.full(phases.shape, 2**32 - 1, np.uint32)
    for index in sorted(range(len(blocks)), key=lambda index: index % 2):
        block = label_objects(phases, blocks, index, folder, voxel_size)
        assert block.dtype == np.uint32
        labels[slice(*blocks[index])] = block
    table, contacts = gather_objects(blocks, folder, voxel_size)
    assert len(table) == count == labels.max(initial=0)
    return Separated(labels, table, contacts)


def assert_equal(one: Separated, other: Separated) -> None:
    assert np.array_equal(one.labels, other.labels)
    for a, b in ((one.table, other.table), (one.contacts, other.contacts)):
        for field in fields(a):
            assert np.array_equal(getattr(a, field.name), getattr(b, field.name)), field.name


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


@dataclass(frozen=True)
class Basins:
    labels: NDArray[np.int64]
    saddles: dict[tuple[int, int], int]  # of two labels that touch, squared
    peaks: dict[int, int]  # squared


def reference_basins(
    phases: NDArray[np.uint8],
    phase: int,
    how: ObjectSettings,
    weights: tuple[int, int, int] = (1, 1, 1),
    prominence: float = 0.4,
) -> Basins:
    mask, walls = phases == phase, (phases != phase) & (phases != 0)
    squared = (
        np.rint(ndimage.distance_transform_edt(~walls, sampling=np.sqrt(weights)) ** 2).astype(np.int64) * mask
        if walls.any()
        else np.where(mask, _NO_WALL, 0)
    )
    highest = ndimage.maximum_filter(squared, 2 * how.marker_radius_voxels + 1, mode="constant")
    connectivity = how.connectivity
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
        if how.markers == "maxima":
            joins = not all(any(squared[peak] == highest[peak] for peak in group[end]) for end in (one, other))
        else:
            joins = np.sqrt(lower) - np.sqrt(saddle) < prominence
        if joins or lower == saddle:
            merged = group[one] | group[other]
            for peak in merged:
                group[peak] = merged
    labels = np.zeros(mask.shape, np.int64)
    for voxel in voxels:
        labels[voxel] = np.ravel_multi_index(min(group[top[voxel]]), mask.shape) + 1
    labels = renumbered(labels, how.min_voxels)
    between: dict[tuple[int, int], int] = {}
    for voxel in voxels:
        for other in around[voxel]:
            if 0 < labels[voxel] < labels[other]:
                pair_of_labels = (int(labels[voxel]), int(labels[other]))
                saddle = int(min(squared[voxel], squared[other]))
                between[pair_of_labels] = max(between.get(pair_of_labels, 0), saddle)
    peaks = {label: int(squared[labels == label].max()) for label in range(1, labels.max(initial=0) + 1)}
    return Basins(labels, between, peaks)


def renumbered(labels: NDArray[Any], min_voxels: int = 1) -> NDArray[np.int64]:
    """Labels 1.. in the order of first voxels, small ones dropped."""
    result = np.zeros(labels.shape, np.int64)
    names, first, counts = np.unique(labels, return_index=True, return_counts=True)
    kept = [(f, name) for name, f, count in zip(names, first, counts, strict=True) if name and count >= min_voxels]
    for number, (_, name) in enumerate(sorted(kept), start=1):
        result[labels == name] = number
    return result


# Exactness ------------------------------------------------------------------------------------------------------------

cases = settings(max_examples=25)
shapes = st.tuples(st.integers(1, 8), st.integers(1, 8), st.integers(1, 9))
cuts = st.lists(st.integers(1, 20), max_size=6).map(tuple)


@cases
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=shapes,
    smoothness=st.sampled_from([0.0, 0.7, 1.5]),
    outside=st.booleans(),
    how=st.builds(
        ObjectSettings,
        connectivity=st.sampled_from([6, 18, 26]),
        prominence_voxels=st.sampled_from([0.0, 0.5, 1.0, 3.0]),
        markers=st.sampled_from(["h_maxima", "maxima"]),
        marker_radius_voxels=st.integers(1, 3),
        min_voxels=st.sampled_from([1, 3]),
    ),
    weights=st.sampled_from([(1, 1, 1), (4, 1, 1), (3, 2, 2)]),
    cuts=cuts,
)
def test_watershed_equals_brute_force_wherever_it_is_cut(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    shape: tuple[int, int, int],
    smoothness: float,
    outside: bool,
    how: ObjectSettings,
    weights: tuple[int, int, int],
    cuts: tuple[int, ...],
) -> None:
    phases = random_phases(seed, shape, smoothness, outside)
    unit_length = 0.5 / np.sqrt(weights[1])
    spacing = float(np.sqrt(weights[0] / weights[1]))
    voxel_size = (0.5 * spacing, 0.5, 0.5)
    found = separate(phases, 1, how, tmp_path_factory.mktemp("work"), cuts=cuts, voxel_size=voxel_size)
    # The prominence is in shortest edges.
    truth = reference_basins(phases, 1, how, weights, how.prominence_voxels * 0.5 / unit_length)
    assert np.array_equal(found.labels, truth.labels)
    walls = (phases == 2).any()
    radii = [unit_length * np.sqrt(peak) if walls else 0 for peak in truth.peaks.values()]
    assert found.table.inscribed_radius.tolist() == pytest.approx(radii)
    contacts = found.contacts
    pairs = list(zip(contacts.first.tolist(), contacts.second.tolist(), strict=True))
    assert pairs == sorted(truth.saddles)
    throats = [unit_length * np.sqrt(truth.saddles[pair]) if walls else 0 for pair in pairs]
    assert contacts.throat_radius.tolist() == pytest.approx(throats)
    face_areas = (0.25, 0.25 * spacing, 0.25 * spacing)
    projections = [
        [touching_faces(found.labels, pair, axis) * area for axis, area in enumerate(face_areas)] for pair in pairs
    ]
    assert contacts.area.tolist() == pytest.approx([float(np.linalg.norm(p)) for p in projections])
    neighbours = [sum(label in pair for pair in pairs) for label in found.table.label]
    assert found.table.neighbours.tolist() == neighbours


def touching_faces(labels: NDArray[np.uint32], pair: tuple[int, int], axis: int) -> int:
    low, high = np.moveaxis(labels, axis, 0)[:-1], np.moveaxis(labels, axis, 0)[1:]
    one, other = pair
    return int(((low == one) & (high == other)).sum() + ((low == other) & (high == one)).sum())


@cases
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(*[st.integers(1, 20)] * 3),
    smoothness=st.sampled_from([0.0, 0.7]),
    connectivity=st.sampled_from([6, 18, 26]),
    min_voxels=st.sampled_from([0, 1, 3]),
    cuts=cuts,
)
def test_components_equal_scipy_wherever_they_are_cut(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    shape: tuple[int, int, int],
    smoothness: float,
    connectivity: Any,
    min_voxels: int,
    cuts: tuple[int, ...],
) -> None:
    phases = random_phases(seed, shape, smoothness, outside=True)
    how = ObjectSettings("components", connectivity=connectivity, min_voxels=min_voxels)
    found = separate(phases, 2, how, tmp_path_factory.mktemp("work"), cuts=cuts)
    assert np.array_equal(found.labels, renumbered(reference_components(phases == 2, connectivity), min_voxels))
    assert len(found.contacts) == 0


CHANGED = {"opening_radius": 1.5, "closing_radius": 1.0, "fill_holes": True}


@pytest.mark.parametrize(
    "how",
    [
        ObjectSettings(min_voxels=4),
        ObjectSettings("components", min_voxels=4),
        ObjectSettings(min_voxels=4, markers="maxima", marker_radius_voxels=3),
        ObjectSettings(min_voxels=4, **CHANGED),  # type: ignore[arg-type]
        ObjectSettings("components", 26, **CHANGED),  # type: ignore[arg-type]
    ],
)
def test_larger_volume_is_the_same_wherever_it_is_cut(tmp_path: Path, how: ObjectSettings) -> None:
    phases = random_phases(5, (26, 60, 50), 1.5, outside=True)
    whole = separate(phases, 1, how, tmp_path)
    assert len(whole.table) > 5
    for cuts in (tuple(range(0, 26, 4)), (1, 9, 10, 25)):
        assert_equal(separate(phases, 1, how, tmp_path, cuts=cuts), whole)
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        assert_equal(separate(phases, 1, how, tmp_path), whole)
    finally:
        numba.set_num_threads(threads)


@pytest.mark.parametrize("memory_slices", [3, 20, 1000])
def test_all_in_one_process_equals_the_steps(tmp_path: Path, memory_slices: int) -> None:
    phases = random_phases(5, (25, 40, 50), 1.5, outside=True)
    how = ObjectSettings(min_voxels=4, **CHANGED)  # type: ignore[arg-type]
    labels = np.zeros(phases.shape, np.uint32)
    starts: list[int] = []
    told: list[float] = []

    def write(start: int, block: NDArray[np.uint32]) -> None:
        starts.append(start)
        labels[start : start + len(block)] = block

    scratch = tmp_path / "scratch"
    scratch.mkdir()
    table, contacts = separate_objects(
        phases,
        1,
        how,
        memory_bytes=(38 + memory_slices) * 40 * 50 * 16,
        scratch=scratch,
        write=write,
        progress=told.append,
    )
    assert starts == sorted(starts)
    assert told == sorted(told)
    assert told[-1] == 1
    assert list(scratch.iterdir()) == []
    assert_equal(Separated(labels, table, contacts), separate(phases, 1, how, tmp_path))


def test_a_step_that_is_done_again_leaves_the_same_bytes(tmp_path: Path) -> None:
    phases = random_phases(6, (30, 20, 25), 1.0, outside=True)
    how = ObjectSettings(**CHANGED)  # type: ignore[arg-type]
    blocks = [(0, 16), (16, 30)]

    def content() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}

    prepare_objects(phases, 1, how, blocks, tmp_path, CUBIC, lambda slices: None)
    for index in (0, 1):
        find_objects(phases, 1, how, blocks, index, tmp_path, CUBIC)
    join_objects(how, blocks, tmp_path, CUBIC)
    labels = [label_objects(phases, blocks, index, tmp_path, CUBIC) for index in (0, 1)]
    before = content()
    (tmp_path / "pieces" / ".000000-000016.h5.0.part").write_bytes(b"what a killed process has left")
    prepare_objects(phases, 1, how, blocks, tmp_path, CUBIC, lambda slices: None)
    for index in (1, 0):
        find_objects(phases, 1, how, blocks, index, tmp_path, CUBIC)
    join_objects(how, blocks, tmp_path, CUBIC)
    assert np.array_equal(label_objects(phases, blocks, 0, tmp_path, CUBIC), labels[0])
    (tmp_path / "pieces" / ".000000-000016.h5.0.part").unlink()
    assert content() == before


def test_a_long_winding_ridge_is_followed_through_all_blocks(tmp_path: Path) -> None:
    # A tube of growing width that goes up and down through the blocks many times: one object with its peak at the end.
    phases = np.full((40, 60, 11), 2, np.uint8)
    for leg, y in enumerate(range(4, 56, 7)):
        phases[3:37, y - 2 : y + 3, 3:8] = 1
        end = slice(32, 37) if leg % 2 == 0 else slice(3, 8)
        if y + 7 < 56:
            phases[end, y : y + 7, 3:8] = 1
    phases[3:37, 53 - 2 : 59, 2:9] = 1
    whole = separate(phases, 1, ObjectSettings(), tmp_path)
    assert whole.labels.max() == 1
    for step in (3, 7):
        cuts = tuple(range(0, 40, step))
        assert_equal(separate(phases, 1, ObjectSettings(), tmp_path, cuts=cuts), whole)


@pytest.mark.parametrize("connectivity", [6, 18, 26])
def test_basins_stay_within_one_component(tmp_path: Path, connectivity: Any) -> None:
    phases = random_phases(8, (20, 20, 20), 0.6, outside=False)
    labels = separate(phases, 1, ObjectSettings(connectivity=connectivity), tmp_path, cuts=(7, 8)).labels
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


BOTH_MARKERS = [ObjectSettings(min_voxels=4), ObjectSettings(min_voxels=4, markers="maxima")]


@pytest.mark.parametrize("how", BOTH_MARKERS, ids=["h_maxima", "maxima"])
def test_every_known_sphere_is_found_one_to_one(tmp_path: Path, how: ObjectSettings) -> None:
    spheres = packed_spheres(300, 112, seed=1, gap=0.0)
    phases = paint((112, 112, 112), spheres)
    # Nearly touching: connected components alone merge many.
    assert reference_components(phases == 1, 26).max() < 250
    found = separate(phases, 1, how, tmp_path, cuts=(30, 60, 90))
    table = found.table
    at_center = found.labels[tuple(np.rint(spheres[:, :3]).astype(int).T)]
    assert sorted(at_center.tolist()) == list(range(1, len(spheres) + 1))
    rows = at_center.astype(int) - 1
    error = table.equivalent_diameter(CUBIC)[rows] - 2 * spheres[:, 3]
    assert abs(error.mean()) < 0.05
    assert np.abs(error).max() < 0.5
    assert np.abs(table.centroid[rows] - spheres[:, :3]).max() < 0.3
    # A voxel's centre lies beside the sphere's: its ball is smaller by some of that.
    bias = 2 * (table.inscribed_radius[rows] - spheres[:, 3])
    assert -1 < bias.mean() < 0
    large = spheres[:, 3] > 5
    assert table.sphericity(CUBIC)[rows][large] == pytest.approx(1, abs=0.06)


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    # As by default: with a prominence of 0.45 eleven pores of two voxels' radius merge with what lies next to them.
    [ObjectSettings(min_voxels=4), ObjectSettings(min_voxels=4, markers="maxima")],
    ids=["h_maxima", "maxima"],
)
def test_every_pore_of_a_foam_is_found_one_to_one(tmp_path: Path, how: ObjectSettings) -> None:
    spheres = packed_spheres(2830, 224, seed=3, gap=0.3)
    phases = paint((224, 224, 224), spheres)
    found = separate(phases, 1, how, tmp_path, cuts=(64, 128, 192))
    at_center = found.labels[tuple(np.rint(spheres[:, :3]).astype(int).T)]
    assert sorted(at_center.tolist()) == list(range(1, len(spheres) + 1))
    error = found.table.equivalent_diameter(CUBIC)[at_center.astype(int) - 1] - 2 * spheres[:, 3]
    assert abs(error.mean()) < 0.05
    assert error.std() < 0.25


@pytest.mark.parametrize("overlap", [1.0, 3.0])
@pytest.mark.parametrize("tilted", [False, True])
def test_overlapping_spheres_are_split_at_the_neck(tmp_path: Path, overlap: float, tilted: bool) -> None:
    radius = 12.0
    direction = np.array([1.0, 2.0, 3.0]) / np.sqrt(14) if tilted else np.array([0.0, 0.0, 1.0])
    offset = (radius - overlap / 2) * direction
    center = np.array([30.2, 30.3, 30.0])
    spheres = np.array([[*(center - offset), radius], [*(center + offset), radius]])
    found = separate(paint((61, 61, 61), spheres), 1, ObjectSettings(), tmp_path)
    table, contacts = found.table, found.contacts
    assert len(table) == 2
    along = (np.argwhere(found.labels == 1) - center) @ direction, (np.argwhere(found.labels == 2) - center) @ direction
    assert along[0].max() <= 2
    assert along[1].min() >= -2
    cap = np.pi * (overlap / 2) ** 2 * (3 * radius - overlap / 2) / 3
    assert table.voxels == pytest.approx(4 / 3 * np.pi * radius**3 - cap, rel=0.02)
    neck = np.sqrt(radius**2 - (radius - overlap / 2) ** 2)
    assert len(contacts) == 1
    assert contacts.throat_radius[0] == pytest.approx(neck, abs=0.8)
    # Near the neck's rim the gap is thinner than a voxel: the contact is wider than the neck, the more so the smaller.
    assert 0.95 < contacts.area[0] / (np.pi * neck**2) < 1.55


@pytest.mark.parametrize("voxel_size", [CUBIC, (0.5, 0.5, 0.5), (float(np.sqrt(1.5)), 1.0, 1.0)])
def test_prominence_says_how_deep_a_neck_must_be(tmp_path: Path, voxel_size: tuple[float, float, float]) -> None:
    spheres = np.array([[15.0, 15.0, 12.0, 9.0], [15.0, 15.0, 24.0, 9.0]])
    phases = paint((31, 31, 37), spheres)  # the neck has a radius of 6.7: 2.3 less

    def count(prominence: float) -> int:
        how = ObjectSettings(prominence_voxels=prominence)
        return len(separate(phases, 1, how, tmp_path, voxel_size=voxel_size).table)

    assert count(2.0) == 2
    assert count(2.7) == 1


def test_agrees_with_skimage_from_the_same_peaks(tmp_path: Path) -> None:
    segmentation = pytest.importorskip("skimage.segmentation")
    phases = paint((80, 80, 80), packed_spheres(100, 80, seed=4, gap=-1.5))
    mask = phases == 1
    found = separate(phases, 1, ObjectSettings(), tmp_path)
    labels, table = found.labels, found.table
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
    found = separate(phases, 1, ObjectSettings(), tmp_path)
    labels, table = found.labels, found.table
    assert len(table) == 3
    assert table.touches_border.tolist() == [True, True, False]
    assert (labels[:, :, 45:] == 0).all()
    assert table.bounding_box[0].tolist() == [0, 5, 6, 10, 24, 25]


def ellipsoid(semi_axes: tuple[float, float, float], voxel_size: tuple[float, float, float]) -> NDArray[np.uint8]:
    """Phase 1 in an ellipsoid at the middle of a volume of so large voxels, 2 elsewhere."""
    sides = [2 * int(a / edge) + 7 for a, edge in zip(semi_axes, voxel_size, strict=True)]
    grid = np.indices(sides) - np.reshape([0.5 * side - 0.3 for side in sides], (3, 1, 1, 1))
    scaled = [(g * edge / a) ** 2 for g, edge, a in zip(grid, voxel_size, semi_axes, strict=True)]
    return np.where(sum(scaled) <= 1, 1, 2).astype(np.uint8)


@pytest.mark.parametrize("voxel_size", [(1.0, 1.0, 1.0), (2.0, 1.0, 1.0), (0.5, 1.0, 1.5)])
@pytest.mark.parametrize("how", BOTH_MARKERS, ids=["h_maxima", "maxima"])
def test_a_ball_is_a_ball_whatever_the_voxels(
    tmp_path: Path, voxel_size: tuple[float, float, float], how: ObjectSettings
) -> None:
    radius = 12.0
    found = separate(ellipsoid((radius,) * 3, voxel_size), 1, how, tmp_path, voxel_size=voxel_size, cuts=(9,))
    table = found.table
    assert len(table) == 1
    assert table.volume(voxel_size)[0] == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.01)
    assert table.equivalent_diameter(voxel_size)[0] == pytest.approx(2 * radius, rel=0.004)
    assert table.surface[0] == pytest.approx(4 * np.pi * radius**2, rel=0.02)
    assert table.sphericity(voxel_size)[0] == pytest.approx(1, abs=0.02)
    assert table.axis_lengths[0] == pytest.approx(2 * radius, rel=0.01)
    assert 0.9 * radius < table.inscribed_radius[0] < 1.02 * radius


@pytest.mark.parametrize("voxel_size", [(1.0, 1.0, 1.0), (2.0, 1.0, 0.8)])
@pytest.mark.parametrize("longest", [0, 1, 2])
def test_axes_of_an_ellipsoid(tmp_path: Path, voxel_size: tuple[float, float, float], longest: int) -> None:
    semi_axes = tuple(float(a) for a in np.roll([20.0, 12.0, 8.0], longest))
    how = ObjectSettings("components")
    table = separate(ellipsoid(semi_axes, voxel_size), 1, how, tmp_path, voxel_size=voxel_size, cuts=(5, 11)).table  # type: ignore[arg-type]
    assert table.axis_lengths[0] == pytest.approx([40, 24, 16], rel=0.015)
    assert table.orientation[0] == pytest.approx(np.eye(3)[longest], abs=0.01)


@pytest.mark.parametrize("turn", [lambda v: v[::-1], lambda v: v[:, ::-1], lambda v: v.transpose(2, 0, 1)])
def test_flips_and_turns_leave_the_measures_as_they_are(tmp_path: Path, turn: Any) -> None:
    phases = random_phases(12, (24, 28, 32), 1.5, outside=True)
    how = ObjectSettings("components", min_voxels=5, **CHANGED)  # type: ignore[arg-type]
    table = separate(phases, 1, how, tmp_path).table
    turned = separate(np.ascontiguousarray(turn(phases)), 1, how, tmp_path, cuts=(10,)).table
    assert sorted(turned.voxels.tolist()) == sorted(table.voxels.tolist())
    assert np.sort(turned.surface) == pytest.approx(np.sort(table.surface))
    for axis in range(3):
        assert np.sort(turned.axis_lengths[:, axis]) == pytest.approx(np.sort(table.axis_lengths[:, axis]))


# The table ------------------------------------------------------------------------------------------------------------


def test_table_equals_plain_sums(tmp_path: Path) -> None:
    phases = random_phases(11, (25, 30, 35), 1.5, outside=True)
    voxel_size = (0.8, 0.5, 0.4)
    found = separate(phases, 2, ObjectSettings(min_voxels=5), tmp_path, cuts=(6, 12, 18), voxel_size=voxel_size)
    labels, table = found.labels, found.table
    assert np.array_equal(table.label, np.arange(1, labels.max() + 1))
    region = np.pad(phases > 0, 1)
    for row, label in enumerate(table.label):
        voxels = np.argwhere(labels == label)
        assert table.voxels[row] == len(voxels) >= 5
        assert np.array_equal(table.centroid[row], voxels.sum(axis=0) / len(voxels))
        assert table.bounding_box[row].tolist() == [*voxels.min(axis=0), *(voxels.max(axis=0) + 1)]
        reach = ndimage.binary_dilation(np.pad(labels == label, 1))
        assert table.touches_border[row] == (~region[reach]).any()
        (alone,) = count_configurations((labels == label).astype(np.uint8), [[1]], 2**30)
        assert table.surface[row] == pytest.approx(alone @ crofton_weights(voxel_size), rel=1e-6)
        covariance = np.cov(voxels * voxel_size, rowvar=False, bias=True) + np.diag(np.square(voxel_size)) / 12
        variances, directions = np.linalg.eigh(covariance)
        assert table.axis_lengths[row] == pytest.approx(2 * np.sqrt(5 * variances[::-1]))
        assert abs(table.orientation[row] @ directions[:, 2]) == pytest.approx(1)
    assert table.volume(voxel_size) == pytest.approx(table.voxels * 0.16)
    assert table.equivalent_diameter(voxel_size) == pytest.approx((6 * table.voxels * 0.16 / np.pi) ** (1 / 3))


@pytest.mark.parametrize("how", [ObjectSettings(), ObjectSettings("components")])
def test_a_phase_that_is_not_there_has_no_objects(tmp_path: Path, how: ObjectSettings) -> None:
    found = separate(np.ones((4, 5, 6), np.uint8), 3, how, tmp_path, cuts=(2,))
    assert not found.labels.any()
    assert len(found.table) == len(found.contacts) == 0
    assert found.table.sphericity(CUBIC).size == 0


@pytest.mark.parametrize("how", [ObjectSettings(), ObjectSettings(fill_holes=True), ObjectSettings(markers="maxima")])
@pytest.mark.parametrize("shape", [(9, 10, 11), (1, 6, 7), (5, 1, 1), (1, 1, 1)])
def test_a_phase_without_walls_is_one_object(tmp_path: Path, how: ObjectSettings, shape: tuple[int, int, int]) -> None:
    found = separate(np.ones(shape, np.uint8), 1, how, tmp_path, cuts=(2, 4))
    assert (found.labels == 1).all()
    table = found.table
    assert table.voxels.tolist() == [np.prod(shape)]
    assert table.touches_border.tolist() == [True]
    assert table.inscribed_radius.tolist() == [0]
    assert all(np.isfinite(getattr(table, field.name)).all() for field in fields(table))
    side = np.sqrt(5 / 3)  # of the axes of a box's ellipsoid, in its edges
    assert table.axis_lengths[0] == pytest.approx(side * np.sort(shape)[::-1])


def test_outside_alone_has_no_objects(tmp_path: Path) -> None:
    assert len(separate(np.zeros((3, 4, 5), np.uint8), 1, ObjectSettings(), tmp_path).table) == 0


def test_bad_settings_are_refused(tmp_path: Path) -> None:
    for wrong in (
        {"method": "magic"},
        {"connectivity": 8},
        {"markers": "none"},
        {"opening_radius": -1},
        {"dilation_radius": np.inf},
        {"prominence_voxels": np.nan},
        {"marker_radius_voxels": 0},
    ):
        with pytest.raises(ParameterError, match=next(iter(wrong))):
            ObjectSettings(**wrong)
    phases = np.ones((4, 50, 50), np.uint8)
    common: dict[str, Any] = {"scratch": tmp_path, "write": lambda start, block: None}
    with pytest.raises(ParameterError, match="phase is 0"):
        separate_objects(phases, 0, ObjectSettings(), memory_bytes=2**23, **common)
    with pytest.raises(ParameterError, match="give at least"):
        separate_objects(phases, 1, ObjectSettings(), memory_bytes=1000, **common)
    with pytest.raises(InputError, match="three axes"):
        separate_objects(phases[0], 1, ObjectSettings(), memory_bytes=2**20, **common)


def test_blocks_are_whole_chunks_where_memory_allows() -> None:
    how = ObjectSettings()
    slice_bytes = 16 * 100 * 100

    def depths(slices: int, depth: int = 200) -> list[int]:
        blocks = object_blocks((depth, 100, 100), how, (slices + 38) * slice_bytes)
        assert [stop for _, stop in blocks[:-1]] == [start for start, _ in blocks[1:]]
        assert (blocks[0][0], blocks[-1][1]) == (0, depth)
        return sorted({stop - start for start, stop in blocks[:-1]})

    assert depths(3) == [3]
    assert depths(15) == [8]
    assert depths(50) == [48]
    assert depths(1000) == [64]
    assert object_blocks((50, 100, 100), how, 2**30) == [(0, 50)]


@pytest.mark.parametrize(
    "how", [ObjectSettings(), ObjectSettings("components"), ObjectSettings("components", fill_holes=True)]
)
@pytest.mark.parametrize("smoothness", [0.0, 2.0])
def test_scratch_is_at_most_what_was_announced(tmp_path: Path, how: ObjectSettings, smoothness: float) -> None:
    phases = random_phases(1, (70, 80, 90), smoothness, outside=False)
    separate(phases, 1, how, tmp_path, cuts=(32, 64))
    used = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert 0.1 < used / scratch_bytes(phases.shape, how) < 1


_MEASURE_MEMORY = """
import sys, threading
from pathlib import Path
import numpy as np, psutil
from tomopipe.functions.memory import return_freed_memory
from tomopipe.functions.objects import ObjectSettings, separate_objects

class Foam:
    shape, dtype = (240, 512, 512), np.dtype(np.uint8)
    def __getitem__(self, slices):
        y, x = np.indices(self.shape[1:])
        across = (y % 20 - 10) ** 2 + (x % 22 - 11) ** 2
        block = np.empty((len(range(*slices.indices(self.shape[0]))), *self.shape[1:]), np.uint8)
        for i, z in enumerate(range(*slices.indices(self.shape[0]))):
            block[i] = 1 + ((z % 24 - 12) ** 2 + across > 81)
        return block

def run(volume, memory):
    how = ObjectSettings(sys.argv[3], opening_radius=1, fill_holes=True)
    write = lambda z, block: None
    return separate_objects(volume, 1, how, memory_bytes=memory, scratch=Path(sys.argv[1]), write=write)[0]

small = Foam()
small.shape = (30, 512, 512)
return_freed_memory()
run(small, 2**28)  # compiles
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
    budget = 224 * 2**20  # the volume's distances and labels alone are 252 MB each
    command = [sys.executable, "-c", _MEASURE_MEMORY, str(tmp_path), str(budget), method]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    objects, grown = map(int, result.stdout.split())
    assert objects == 10 * 26 * 24
    assert grown < budget
