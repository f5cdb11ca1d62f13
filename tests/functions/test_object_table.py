"""Tables of objects and contacts: what their files hold."""

from __future__ import annotations

import csv
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tomopipe.functions import object_measures as measures
from tomopipe.functions.block_files import load_arrays, save_arrays
from tomopipe.functions.errors import InputError, StageError
from tomopipe.functions.object_table import Contacts, ObjectTable

VOXEL_SIZE = (0.8, 0.5, 0.4)


def table_of(count: int) -> ObjectTable:
    rng = np.random.default_rng(count)
    low = rng.integers(0, 50, (count, 3))
    return ObjectTable(
        label=np.arange(1, count + 1, dtype=np.uint32),
        voxels=rng.integers(1, 2**39, count),
        centroid=rng.random((count, 3)) * 100,
        bounding_box=np.concatenate([low, low + rng.integers(1, 9, (count, 3))], axis=1),
        touches_border=rng.random(count) < 0.5,
        inscribed_radius=rng.random(count),
        surface=1 + rng.random(count),
        axis_lengths=rng.random((count, 3)),
        orientation=rng.random((count, 3)),
        neighbours=rng.integers(0, 9, count),
    )


def contacts_of(count: int) -> Contacts:
    first = np.arange(1, count + 1, dtype=np.uint32)
    return Contacts(first, first + np.uint32(1), np.linspace(0, 3, count), np.linspace(1, 7, count))


def test_columns_state_units(tmp_path: Path) -> None:
    table = table_of(3)
    table.to_csv(tmp_path / "objects.csv", VOXEL_SIZE, "um")
    with (tmp_path / "objects.csv").open(newline="") as file:
        row = list(csv.DictReader(file))[1]
    volume = float(table.voxels[1]) * 0.16
    assert list(row)[:7] == [
        "label",
        "voxels",
        "volume_um3",
        "equivalent_diameter_um",
        "inscribed_diameter_um",
        "surface_um2",
        "sphericity",
    ]
    assert (row["label"], row["voxels"]) == ("2", str(table.voxels[1]))
    assert float(row["volume_um3"]) == pytest.approx(volume)
    assert float(row["equivalent_diameter_um"]) == pytest.approx((6 * volume / np.pi) ** (1 / 3))
    assert float(row["inscribed_diameter_um"]) == 2 * table.inscribed_radius[1]
    assert float(row["surface_um2"]) == table.surface[1]
    assert float(row["sphericity"]) == pytest.approx(np.pi ** (1 / 3) * (6 * volume) ** (2 / 3) / table.surface[1])
    lengths = [float(row[f"axis_{name}_um"]) for name in ("major", "middle", "minor")]
    assert lengths == table.axis_lengths[1].tolist()
    assert [float(row[f"orientation_{axis}"]) for axis in "zyx"] == table.orientation[1].tolist()
    assert [float(row[f"centroid_{axis}_um"]) for axis in "zyx"] == (table.centroid[1] * VOXEL_SIZE).tolist()
    assert [int(row[f"{axis}_first_voxel"]) for axis in "zyx"] == table.bounding_box[1, :3].tolist()
    assert [int(row[f"{axis}_end_voxel"]) for axis in "zyx"] == table.bounding_box[1, 3:].tolist()
    assert row["touches_border"] == str(int(table.touches_border[1]))
    assert row["neighbours"] == str(table.neighbours[1])
    contacts_of(2).to_csv(tmp_path / "contacts.csv", "pixel")
    lines = (tmp_path / "contacts.csv").read_text().splitlines()
    assert lines == ["first,second,throat_diameter_pixel,contact_area_pixel2", "1,2,0.0,1.0", "2,3,6.0,7.0"]


@pytest.mark.parametrize("count", [0, 1, 20_000])
def test_what_is_written_is_read_back(tmp_path: Path, count: int) -> None:
    table, contacts = table_of(count), contacts_of(count)
    table.to_csv(tmp_path / "objects.csv", VOXEL_SIZE, "pixel")
    contacts.to_csv(tmp_path / "contacts.csv", "pixel")
    read = ObjectTable.read_csv(tmp_path / "objects.csv", VOXEL_SIZE)
    for field in fields(table):
        one, other = getattr(table, field.name), getattr(read, field.name)
        assert (one.dtype, one.shape) == (other.dtype, other.shape), field.name
        assert np.allclose(one, other, rtol=1e-15, atol=0), field.name
    read_contacts = Contacts.read_csv(tmp_path / "contacts.csv")
    for field in fields(contacts):
        one, other = getattr(contacts, field.name), getattr(read_contacts, field.name)
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)


@pytest.mark.parametrize(
    "content", ["", "label,voxels\n1,2\n", "first,second,throat_diameter_um,contact_area_um2\n1,x,3,4\n"]
)
def test_another_file_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=r"table\.csv"):
        ObjectTable.read_csv(path, VOXEL_SIZE)
    with pytest.raises(InputError, match=r"table\.csv"):
        Contacts.read_csv(path)
    with pytest.raises(InputError, match=r"none\.csv"):
        ObjectTable.read_csv(tmp_path / "none.csv", VOXEL_SIZE)


# Sums -----------------------------------------------------------------------------------------------------------------


def labels_of_two() -> NDArray[np.int32]:
    labels = np.zeros((9, 12, 15), np.int32)
    labels[1:7, 2:9, 1:13] = 1
    labels[2:5, 4:11, 3:6] = 2
    return labels


def test_sums_far_away_from_the_origin_lose_nothing() -> None:
    # At slice 2**31 the sums of squares have overflown many times.
    labels = labels_of_two()
    phases = np.ones((10, *labels.shape[1:]), np.uint8)
    results = []
    for start in (1, 2**31):
        sums = measures.sum_block(labels, phases, start, 2**32, 3, VOXEL_SIZE)[1:]
        results.append((sums, *measures.principal_axes(sums, VOXEL_SIZE)))
    (near, *axes), (far, *other_axes) = results
    assert np.array_equal(near[:, measures.VOXELS], far[:, measures.VOXELS])
    assert np.array_equal(near[:, measures.SURFACE], far[:, measures.SURFACE])
    for one, other in zip(axes, other_axes, strict=True):
        assert np.allclose(one, other, rtol=1e-12)


def test_voxels_are_counted_and_the_first_found() -> None:
    labels = labels_of_two()
    voxels, first = measures.count_voxels(labels, 3, 3)
    assert voxels.tolist() == [0, *(int((labels == label).sum()) for label in (1, 2, 3))]
    pixels = labels[0].size
    assert first[1:3].tolist() == [3 * pixels + int(np.flatnonzero(labels == label)[0]) for label in (1, 2)]
    assert first[3] == np.iinfo(np.int64).max


def test_arrays_are_kept_as_they_are(tmp_path: Path) -> None:
    arrays = {
        "none": np.empty((0, 3), np.int32),
        "flags": np.array([True, False]),
        "numbers": np.arange(70_000).reshape(-1, 7),
    }
    save_arrays(tmp_path / "folder" / "arrays.h5", arrays)
    read = load_arrays(tmp_path / "folder" / "arrays.h5")
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype
        assert np.array_equal(read[name], array)
    with pytest.raises(StageError, match="run the stage again"):
        load_arrays(tmp_path / "none.h5")
