"""Volumes on disk: what is written is read, slabs meet at files, and OME-Zarr says what others read."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tomopipe.functions.errors import StageError
from tomopipe.functions.plan import cut_rows
from tomopipe.functions.volume import (
    SlabVolume,
    SliceLayout,
    create_labels,
    create_slices,
    halve,
    link_projections,
    open_slices,
    read_projections,
    write_objects,
    write_phases,
    write_projections,
    write_slices,
)

CUBE = (1.0, 1.0, 1.0)


def _volume(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(("rows", "slab_rows"), [(8, 8), (21, 8), (70, 64), (130, 64), (5, 64), (200, 128)])
def test_slices_are_read_as_written(tmp_path: Path, rows: int, slab_rows: int) -> None:
    volume = _volume((rows, 150, 150))
    layout = SliceLayout(volume.shape, slab_rows)
    path = tmp_path / "reconstruction.zarr"
    create_slices(path, layout, "reconstruction", (0.65,) * 3, "micrometer")
    for start, stop in reversed(cut_rows(rows, slab_rows)):
        write_slices(path, layout, start, volume[start:stop])
    assert np.array_equal(open_slices(path)[0:rows], volume)
    assert layout.levels == 2
    assert np.array_equal(open_slices(path, 1)[0:rows], halve(volume))


def test_pyramid_does_not_depend_on_slabs(tmp_path: Path) -> None:
    volume = _volume((72, 300, 300))
    levels = []
    for slab_rows in (8, 24, 64):
        layout = SliceLayout(volume.shape, slab_rows)
        path = tmp_path / f"{slab_rows}.zarr"
        create_slices(path, layout, "volume", CUBE, None)
        for start, stop in cut_rows(len(volume), slab_rows):
            write_slices(path, layout, start, volume[start:stop])
        levels.append([np.asarray(open_slices(path, level)[:]) for level in range(layout.levels)])
    assert len(levels[0]) == 3
    for others in levels[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(levels[0], others, strict=True))


@given(st.tuples(*[st.integers(1, 9)] * 3))
def test_halving_keeps_the_mean_of_even_volumes(shape: tuple[int, int, int]) -> None:
    volume = _volume(tuple(2 * n for n in shape))
    expected = volume.astype(np.float64).reshape(shape[0], 2, shape[1], 2, shape[2], 2).mean((1, 3, 5))
    np.testing.assert_allclose(halve(volume), expected, atol=1e-6)


def test_halving_an_odd_length_keeps_its_last_voxel() -> None:
    assert halve(np.array([[[1, 2, 7]]], np.float32)).tolist() == [[[1.5, 7.0]]]


def test_no_two_slabs_share_a_file(tmp_path: Path) -> None:
    volume = _volume((40, 200, 200))
    layout = SliceLayout(volume.shape, 8)
    path = tmp_path / "volume.zarr"
    create_slices(path, layout, "volume", CUBE, None)
    seen: set[Path] = set()
    for start, stop in cut_rows(40, 8):
        before = {file: file.stat().st_mtime_ns for file in path.rglob("c/*/*/*")}
        write_slices(path, layout, start, volume[start:stop])
        assert all(file.stat().st_mtime_ns == time for file, time in before.items())
        seen |= set(path.rglob("c/*/*/*"))
    assert len(seen) == 5 * layout.levels


def test_a_slab_that_cuts_files_is_refused(tmp_path: Path) -> None:
    layout = SliceLayout((64, 16, 16), 16)
    create_slices(tmp_path / "v.zarr", layout, "v", CUBE, None)
    for start, rows in ((8, 16), (0, 8)):
        with pytest.raises(StageError, match="whole files"):
            write_slices(tmp_path / "v.zarr", layout, start, np.zeros((rows, 16, 16), np.float32))


def test_creating_twice_keeps_what_is_there(tmp_path: Path) -> None:
    layout = SliceLayout((8, 16, 16), 8)
    volume = _volume((8, 16, 16))
    create_slices(tmp_path / "v.zarr", layout, "v", CUBE, None)
    write_slices(tmp_path / "v.zarr", layout, 0, volume)
    create_slices(tmp_path / "v.zarr", layout, "v", CUBE, None)
    assert np.array_equal(open_slices(tmp_path / "v.zarr")[0:8], volume)
    assert [path.name for path in tmp_path.iterdir()] == ["v.zarr"]


def test_metadata_is_ome_zarr(tmp_path: Path) -> None:
    models = pytest.importorskip("ome_zarr_models.v05")
    zarr = pytest.importorskip("zarr")
    layout = SliceLayout((64, 520, 520), 64)
    create_slices(tmp_path / "v.zarr", layout, "reconstruction", (1.3, 0.65, 0.65), "micrometer")
    image = models.Image.from_zarr(zarr.open_group(tmp_path / "v.zarr", mode="r"))
    multiscale = image.attributes.ome.multiscales[0]
    scales = [dataset.coordinateTransformations[0].scale for dataset in multiscale.datasets]
    for level, scale in enumerate(scales):
        assert scale == pytest.approx([1.3 * 2**level, 0.65 * 2**level, 0.65 * 2**level])
    assert {axis.unit for axis in multiscale.axes} == {"micrometer"}


def test_missing_volume_is_named(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"gone\.zarr"):
        open_slices(tmp_path / "gone.zarr")


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(1, 17), st.data())
def test_projections_are_read_across_slabs(
    tmp_path_factory: pytest.TempPathFactory, rows: int, step: int, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("run") / "projections"
    projections = _volume((7, rows, 11))
    slabs = cut_rows(rows, step)
    for start, stop in slabs:
        write_projections(folder, start, projections[:, start:stop])
    link_projections(folder.parent / "projections.h5", folder, slabs, projections.shape)
    start = data.draw(st.integers(0, rows - 1))
    stop = data.draw(st.integers(start + 1, rows))
    assert np.array_equal(read_projections(folder, slabs, start, stop), projections[:, start:stop])
    with h5py.File(folder.parent / "projections.h5") as file:
        assert np.array_equal(file["projections"][:], projections)


def test_projections_are_compressed(tmp_path: Path) -> None:
    smooth = np.broadcast_to(np.float32(0.5), (40, 8, 256)).copy()
    write_projections(tmp_path / "projections", 0, smooth)
    assert (tmp_path / "projections" / "000000-000008.h5").stat().st_size < smooth.nbytes / 8


def test_slab_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"000008-000016\.h5"):
        read_projections(tmp_path, [(0, 8), (8, 16)], 8, 12)
    with pytest.raises(StageError, match="holds no slab"):
        read_projections(tmp_path, [(0, 8)], 8, 12)


def test_phases_read_like_an_array(tmp_path: Path) -> None:
    phases = np.random.default_rng(2).integers(0, 3, (30, 12, 12)).astype(np.uint8)
    slabs = cut_rows(30, 8)
    for start, stop in slabs:
        write_phases(tmp_path, start, phases[start:stop])
    volume = SlabVolume(tmp_path, "phases", slabs, phases.shape, np.dtype("u1"))
    assert np.array_equal(volume[5:23], phases[5:23])
    assert np.array_equal(volume[:], phases)
    assert volume[4:4].shape == (0, 12, 12)


def test_labels_are_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "labels.h5"
    with pytest.raises(RuntimeError), create_labels(path, (4, 5, 6), True, CUBE, "um"):
        raise RuntimeError
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("cuts", [(0, 16, 24, 40), (0, 8, 37), (0, 5, 21, 40)], ids=["aligned", "short end", "odd"])
def test_labels_are_copied_from_slabs(tmp_path: Path, cuts: tuple[int, ...]) -> None:
    random = np.random.default_rng(3)
    objects = random.integers(0, 90_000, (cuts[-1], 30, 140), np.uint32)
    phases = random.integers(0, 3, objects.shape, np.uint8)
    with create_labels(tmp_path / "labels.h5", objects.shape, True, (2.0, 1.0, 1.0), "um") as labels:
        for start, stop in pairwise(cuts):
            write_objects(tmp_path / "objects", start, objects[start:stop])
            write_phases(tmp_path / "phases", start, phases[start:stop])
            labels.copy("objects", start, tmp_path / "objects" / f"{start:06d}-{stop:06d}.h5")
            labels.copy("phases", start, tmp_path / "phases" / f"{start:06d}-{stop:06d}.h5")
        with pytest.raises(StageError, match=r"gone\.h5"):
            labels.copy("phases", 0, tmp_path / "gone.h5")
    with h5py.File(tmp_path / "labels.h5") as file:
        assert np.array_equal(file["objects"][()], objects)
        assert np.array_equal(file["phases"][()], phases)
        assert file["objects"].attrs["voxel_size"].tolist() == [2.0, 1.0, 1.0]
        assert file["objects"].compression == "gzip"
