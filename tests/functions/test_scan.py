"""Raw scans: what is written is read back whatever its layout, and what cannot be used is refused with one message."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from subprocess import PIPE, Popen
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tomopipe.functions import scan_frames
from tomopipe.functions.errors import ParameterError, ScanError
from tomopipe.functions.scan import (
    ScanMetadata,
    ScanQuality,
    open_scan,
    scan_id_from_path,
    validate,
    validate_scan_id,
)

ANGLES, ROWS, COLUMNS = 12, 6, 16
QUICK = settings(max_examples=60, deadline=None)
DTYPES = ["u1", "i1", "u2", ">u2", "i2", "u4", "i4", "u8", "f2", "f4", ">f4", "f8"]
FILTERS: list[Mapping[str, Any]] = [
    {},
    {"compression": "gzip", "shuffle": True},
    {"compression": "lzf", "fletcher32": True},
    hdf5plugin.Bitshuffle(cname="lz4"),
    hdf5plugin.Blosc2(),
    hdf5plugin.Zstd(),
]


def frames(count: int, level: float, seed: int, shape: tuple[int, int] = (ROWS, COLUMNS)) -> NDArray[np.uint16]:
    return np.random.default_rng(seed).poisson(level, (count, *shape)).astype(np.uint16)


DATA, FLATS, DARKS = frames(ANGLES, 500, 1), frames(5, 1000, 2), frames(4, 20, 3)


def exchange_parts() -> dict[str, Any]:
    """Datasets of a usable Data Exchange scan by name; a value that is a pair is (array, attributes)."""
    return {
        "/exchange/data": DATA,
        "/exchange/data_white": FLATS,
        "/exchange/data_dark": DARKS,
        "/exchange/theta": np.linspace(0, 180, ANGLES, endpoint=False),
    }


def nxtomo_parts() -> dict[str, Any]:
    """Datasets of a usable NXtomo scan: two darks, three flats, projections, one more flat, one invalid frame."""
    key = np.array([2, 2, 1, 1, 1, *[0] * ANGLES, 1, 3])
    data = np.concatenate([frames(2, 20, 1), frames(3, 1000, 2), frames(ANGLES, 500, 3), frames(2, 1000, 4)])
    return {
        "/entry1/tomo_entry/definition": b"NXtomo",
        "/entry1/tomo_entry/instrument/detector/data": data,
        "/entry1/tomo_entry/instrument/detector/image_key": key,
        "/entry1/tomo_entry/sample/rotation_angle": (np.where(key == 0, np.cumsum(key == 0) * 15.0, 0.0), {}),
    }


def write(path: Path, parts: Mapping[str, Any], **options: Any) -> Path:
    with h5py.File(path, "w", libver=options.pop("libver", None)) as file:
        for name, part in parts.items():
            if isinstance(part, h5py.ExternalLink | h5py.SoftLink | h5py.VirtualLayout):
                if isinstance(part, h5py.VirtualLayout):
                    file.create_virtual_dataset(name, part)
                else:
                    file[name] = part
                continue
            value, attributes = part if isinstance(part, tuple) else (part, {})
            is_frames = isinstance(value, np.ndarray) and value.ndim == 3
            stored = dict(options) if is_frames else {}
            if "chunks" in stored:
                stored["chunks"] = tuple(map(min, stored["chunks"], value.shape))
            file.create_dataset(name, data=value, **stored)
            file[name].attrs.update(attributes)
    return path


@contextmanager
def opened(parts: Mapping[str, Any], **options: Any) -> Iterator[Any]:
    """A scan written to a folder of its own (hypothesis calls a test many times with one `tmp_path`)."""
    with TemporaryDirectory() as folder, open_scan(write(Path(folder) / "scan.h5", parts, **options)) as scan:
        yield scan


def refusal(parts: Mapping[str, Any], **options: Any) -> str:
    """Message with which a scan is refused: one line that begins with the file."""
    with TemporaryDirectory() as folder:
        path = write(Path(folder) / "scan.h5", parts, **options)
        with pytest.raises(ScanError) as caught, open_scan(path) as scan:
            validate(scan)
        message = str(caught.value)
        assert message.startswith(str(path))
    assert "\n" not in message
    return message


# --- reading back what was written ----------------------------------------------------------------------------------


@st.composite
def stacks(draw: st.DrawFn, dtype: np.dtype[Any], count: int, rows: int, columns: int) -> NDArray[Any]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    bits = rng.bytes(count * rows * columns * dtype.itemsize)
    return np.frombuffer(bits, dtype).reshape(count, rows, columns)


@st.composite
def storage(draw: st.DrawFn) -> dict[str, Any]:
    chunks = draw(st.one_of(st.none(), st.tuples(*[st.integers(1, 3)] * 3)))
    return {} if chunks is None else {"chunks": chunks, **draw(st.sampled_from(FILTERS))}


def ranges(size: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(0, size), st.integers(0, size)).map(lambda pair: (min(pair), max(pair)))


@given(data=st.data())
@QUICK
def test_exchange_reads_back_what_was_written(data: st.DataObject) -> None:
    dtype = np.dtype(data.draw(st.sampled_from(DTYPES)))
    angles, rows, columns = (data.draw(st.integers(1, 5)) for _ in range(3))
    projections = data.draw(stacks(dtype, angles, rows, columns))
    flats = data.draw(stacks(np.dtype("u2"), data.draw(st.integers(1, 3)), rows, columns))
    darks = data.draw(stacks(np.dtype("f4"), 1, rows, columns))
    parts = {
        "/exchange/data": projections,
        "/exchange/data_white": flats,
        "/exchange/data_dark": darks[0],
        "/exchange/theta": np.arange(angles),
    }
    start, stop = data.draw(ranges(rows))
    first, last = data.draw(ranges(angles))
    with opened(parts, **data.draw(storage())) as scan:
        assert scan.layout == "data-exchange"
        assert scan.shape == projections.shape
        assert scan.dtype == dtype.newbyteorder("=")
        assert scan.dtype.isnative
        assert (scan.n_flats, scan.n_darks) == (len(flats), 1)
        for read, written in (
            (scan.read_rows(start, stop), projections[:, start:stop]),
            (scan.read_projections(first, last), projections[first:last]),
            (scan.flats(), flats),
            (scan.darks(), darks),
            (scan.flats(slice(start, stop)), flats[:, start:stop]),
            (scan.darks(slice(start, stop)), darks[:, start:stop]),
        ):
            np.testing.assert_array_equal(read, written)
            assert read.dtype == written.dtype.newbyteorder("=")


@given(
    key=st.lists(st.sampled_from([0, 0, 0, 1, 2, 3, -1]), min_size=1, max_size=25).map(np.array),
    data=st.data(),
)
@QUICK
def test_nxtomo_sorts_frames_by_image_key(key: NDArray[np.int64], data: st.DataObject) -> None:
    dtype = np.dtype(data.draw(st.sampled_from(DTYPES)))
    stack = data.draw(stacks(dtype, key.size, 3, 4))
    angle = np.arange(key.size) * 7.0
    parts = {"/entry/instrument/detector/data": stack, "/entry/instrument/detector/image_key": key}
    parts["/entry/sample/rotation_angle"] = angle
    projections = stack[key == 0]
    first, last = data.draw(ranges(len(projections)))
    start, stop = data.draw(ranges(3))
    with opened(parts, **data.draw(storage())) as scan:
        assert scan.layout == "nxtomo"
        assert scan.shape == projections.shape
        assert (scan.n_flats, scan.n_darks) == (np.sum(key == 1), np.sum(key == 2))
        np.testing.assert_array_equal(scan.theta_deg, angle[key == 0])
        np.testing.assert_array_equal(scan.read_rows(start, stop), projections[:, start:stop])
        np.testing.assert_array_equal(scan.read_projections(first, last), projections[first:last])
        if 1 in key:
            np.testing.assert_array_equal(scan.flats(slice(start, stop)), stack[key == 1][:, start:stop])
        if 2 in key:
            np.testing.assert_array_equal(scan.darks(), stack[key == 2])


@pytest.mark.parametrize(
    ("data", "image_key", "angle"),
    [
        ("/e/tomo_entry/data/data", "/e/instrument/image_key/image_key", "/e/tomo_entry/data/rotation_angle"),
        ("/e/tomo_entry/data/data", "/e/tomo_entry/instrument/det/image_key", "/e/tomo_entry/data/rotation_angle"),
        ("/e/instrument/detector/data", "/e/instrument/detector/image_key", "/e/sample/rotation_angle"),
        ("/e/instrument/pco/data", "/e/instrument/pco/image_key", "/e/sample/transformations/rotation_angle"),
        ("/data", "/image_key", "/rotation_angle"),
    ],
)
def test_nxtomo_is_found_wherever_it_is(data: str, image_key: str, angle: str) -> None:
    stack, key = frames(4, 100, 0), np.array([2, 1, 0, 0])
    with opened({data: stack, image_key: key, angle: np.array([0.0, 0.0, 10.0, 20.0])}) as scan:
        assert scan.theta_deg.tolist() == [10.0, 20.0]
        np.testing.assert_array_equal(scan.read_projections(0, 2), stack[2:])


def test_nxtomo_is_found_by_class(tmp_path: Path) -> None:
    stack, key = frames(4, 100, 0), np.array([2, 1, 0, 0])
    parts = {"/e/odd/image_key": key, "/e/images/data": stack, "/e/stage/rotation_angle": np.arange(4.0)}
    path = write(tmp_path / "scan.h5", parts)
    with pytest.raises(ScanError, match="no data of three dimensions belongs to it"):
        open_scan(path)
    with h5py.File(path, "a") as file:
        file["/e/images"].attrs["NX_class"] = "NXdetector"
        file["/e/stage"].attrs["NX_class"] = np.bytes_(b"NXsample")
        file["/e/again"] = file["/e"]  # a circle of groups ends
        file["/e/odd/above"] = file["/e"]
    with open_scan(path) as scan:
        np.testing.assert_array_equal(scan.theta_deg, [2.0, 3.0])


def test_nxtomo_takes_the_detector_whose_data_is_there() -> None:
    """As Diamond's files are: each detector has an image key, and some detectors' files stayed behind."""
    parts = nxtomo_parts()
    del parts["/entry1/tomo_entry/definition"]
    key = parts["/entry1/tomo_entry/instrument/detector/image_key"]
    parts |= {"/entry1/instrument/another/image_key": key}
    parts |= {"/entry1/instrument/another/data": h5py.ExternalLink("left_behind.h5", "/data")}
    parts |= {"/entry1/instrument/same/image_key": key}
    parts |= {"/entry1/instrument/same/data": h5py.SoftLink("/entry1/tomo_entry/instrument/detector/data")}
    with opened(parts) as scan:
        assert scan.shape == (ANGLES, ROWS, COLUMNS)
        assert validate(scan).values_checked


def test_nxtomo_with_two_scans_is_refused() -> None:
    parts = nxtomo_parts()
    parts |= {name.replace("entry1", "entry2"): part for name, part in parts.items()}
    assert re.search("holds 2 scans .*entry1.*entry2.*split it", refusal(parts))


def test_nxtomo_with_angles_of_the_projections_alone() -> None:
    parts = nxtomo_parts()
    theta = np.linspace(0, 180, ANGLES)
    with opened(parts | {"/entry1/tomo_entry/sample/rotation_angle": theta}) as scan:
        np.testing.assert_array_equal(scan.theta_deg, theta)
        validate(scan)


def test_rows_are_read_into_a_given_array() -> None:
    parts = exchange_parts()
    with opened(parts) as scan:
        out = np.zeros((ANGLES, 2, COLUMNS), np.uint16)
        assert scan.read_rows(1, 3, out=out) is out
        np.testing.assert_array_equal(out, parts["/exchange/data"][:, 1:3])
        for wrong in (out[:, :1], out.astype(np.float32), np.zeros((COLUMNS, 2, ANGLES), np.uint16).T):
            with pytest.raises(ValueError, match="out must be"):
                scan.read_rows(1, 3, out=wrong)
        for limits in ((-1, 2), (3, 2), (0, ROWS + 1)):
            with pytest.raises(ValueError, match=r"rows .* lie outside 0:6"):
                scan.read_rows(*limits)
        with pytest.raises(ValueError, match=r"frames .* lie outside 0:12"):
            scan.read_projections(0, ANGLES + 1)
        with pytest.raises(ValueError, match="step 1"):
            scan.flats(slice(0, 4, 2))


def test_real_scans_are_read(real_scan: Callable[[str], Path]) -> None:
    for name, shape, dtype, references in (
        ("tooth.h5", (181, 2, 640), "float32", (10, 10)),
        ("dls_24737.h5", (91, 135, 160), "uint16", (1, 1)),
    ):
        with open_scan(real_scan(name)) as scan, h5py.File(real_scan(name)) as file:
            assert (scan.shape, scan.dtype, (scan.n_flats, scan.n_darks)) == (shape, dtype, references)
            assert np.ptp(scan.theta_deg) == pytest.approx(180, abs=2.1)
            np.testing.assert_array_equal(scan.read_rows(1, 2), file["exchange/data"][:, 1:2])
            np.testing.assert_array_equal(scan.read_projections(3, 5), file["exchange/data"][3:5])
            np.testing.assert_array_equal(scan.darks(), file["exchange/data_dark"][()])
            flat = np.median(file["exchange/data_white"][()].astype(float), axis=0)
            np.testing.assert_allclose(scan.flat_field(0, shape[1]), flat, rtol=1e-6)
            assert validate(scan) == ScanQuality(values_checked=True)


# --- flat and dark fields -------------------------------------------------------------------------------------------


@given(
    count=st.integers(1, 6),
    bad=st.floats(0, 1),
    cuts=st.lists(st.integers(0, 7), max_size=4).map(sorted),
    block_bytes=st.tuples(st.sampled_from([1, 300, 2**26]), st.sampled_from([1, 600, 2**20])),
    seed=st.integers(0, 2**32 - 1),
)
@QUICK
def test_fields_are_medians_or_means_whatever_the_cut(
    count: int, bad: float, cuts: list[int], block_bytes: tuple[int, int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    flats = rng.normal(1000, 30, (count, 7, 5)).astype(np.float32)
    flats[rng.random(flats.shape) < bad] = rng.choice([np.nan, np.inf, -np.inf])
    expected = np.full((7, 5), np.nan)
    for row, column in np.ndindex(7, 5):
        finite = flats[:, row, column][np.isfinite(flats[:, row, column])].astype(float)
        if finite.size:
            expected[row, column] = np.median(finite) if count >= 3 else np.mean(finite)
    parts = {"/exchange/data": flats, "/exchange/data_white": flats, "/exchange/data_dark": flats}
    parts["/exchange/theta"] = np.arange(count)
    with pytest.MonkeyPatch.context() as patch, opened(parts) as scan:
        patch.setattr(scan_frames, "_BLOCK_BYTES", block_bytes[0])
        patch.setattr(scan_frames, "_CACHE_BYTES", block_bytes[1])
        whole = scan.flat_field(0, 7)
        np.testing.assert_allclose(whole, expected, rtol=2e-7)
        assert whole.dtype == np.float32
        edges = [0, *cuts, 7]
        pieces = [scan.dark_field(a, b) for a, b in pairwise(edges)]
        np.testing.assert_array_equal(np.concatenate(pieces), whole)


def test_a_zinger_in_one_flat_does_no_harm() -> None:
    parts = exchange_parts()
    parts["/exchange/data_white"][2, 3, 4] = 65535
    with opened(parts) as scan:
        assert scan.flat_field(3, 4)[0, 4] < 1200


@pytest.mark.parametrize("keys", [("mode", "value"), ("dark_field_mode", "dark_field_value")])
def test_a_constant_dark_noted_by_tomoscan_is_used(keys: tuple[str, str]) -> None:
    group = "/process/acquisition/dark_fields"
    parts = exchange_parts() | {f"{group}/{keys[0]}": np.array([b"None"]), f"{group}/{keys[1]}": np.array([105.5])}
    with opened(parts) as scan:  # recorded frames come first
        assert scan.n_darks == 4
    with opened(parts | {"/exchange/data_dark": DARKS[:1]}) as scan:
        np.testing.assert_array_equal(scan.darks(), DARKS[:1])
    for darks in (None, np.zeros((1, ROWS, COLUMNS), np.uint16)):
        parts.pop("/exchange/data_dark", None)
        with opened(parts if darks is None else parts | {"/exchange/data_dark": darks}) as scan:
            assert scan.n_darks == 1
            np.testing.assert_array_equal(scan.dark_field(1, 3), np.full((2, COLUMNS), 105.5))
            validate(scan)
    parts[f"{group}/{keys[0]}"] = b"Start"  # darks were wanted, and are missing
    assert "no darks found" in refusal(parts)


# --- when flats were recorded ---------------------------------------------------------------------------------------


@given(key=st.lists(st.sampled_from([0, 0, 0, 1, 2, 3]), min_size=1, max_size=25))
@QUICK
def test_nxtomo_says_when_flats_were_recorded(key: list[int]) -> None:
    parts = {"/e/detector/data": frames(len(key), 100, 0), "/e/detector/image_key": np.array(key)}
    parts["/e/sample/rotation_angle"] = (np.arange(len(key)) * 1.0, {"units": "deg"})
    before = [key[:index].count(0) for index, kind in enumerate(key) if kind == 1]
    with opened(parts) as scan:
        found = scan.flat_positions()
        projections = key.count(0)
        if not projections:
            assert found is None
            return
        np.testing.assert_allclose(found, np.array(before) / projections)
        assert found.dtype == np.float64
        times = scan.projection_positions()
        # a flat lies between the projections before and after it
        for flat, earlier in zip(found, before, strict=True):
            assert np.count_nonzero(times < flat) == earlier


GROUP = "/process/acquisition/flat_fields"


@pytest.mark.parametrize(
    ("notes", "flats", "positions"),
    [
        ({"flat_field_mode": b"Start", "num_flat_fields": 3}, 3, [0, 0, 0]),
        ({"flat_field_mode": np.array([b"End"])}, 2, [1, 1]),
        ({"mode": "Both", "num_flat_fields": np.array([2])}, 4, [0, 0, 1, 1]),
        ({"flat_field_mode": b"Both"}, 6, [0, 0, 0, 1, 1, 1]),
        ({"i0cycle": 0, "num_flat_fields": 2}, 4, [0, 0, 1, 1]),
        ({"i0cycle": 4, "num_flat_fields": 1}, 4, [0, 1 / 3, 2 / 3, 1]),
        ({"i0cycle": 5, "num_flat_fields": 2}, 8, [0, 0, 5 / 12, 5 / 12, 10 / 12, 10 / 12, 1, 1]),
        # what does not fit the frames that are there says nothing
        ({}, 5, None),
        ({"flat_field_mode": b"None"}, 5, None),
        ({"flat_field_mode": b"Both"}, 5, None),
        ({"flat_field_mode": b"Both", "num_flat_fields": 4}, 4, None),
        ({"flat_field_mode": b"Start", "num_flat_fields": 4}, 5, None),
        ({"i0cycle": 5}, 8, None),
    ],
)
def test_data_exchange_says_when_flats_were_recorded(
    notes: dict[str, Any], flats: int, positions: list[float] | None
) -> None:
    parts = exchange_parts() | {"/exchange/data_white": frames(flats, 1000, 2)}
    with opened(parts | {f"{GROUP}/{name}": value for name, value in notes.items()}) as scan:
        found = scan.flat_positions()
        if positions is None:
            assert found is None
        else:
            np.testing.assert_allclose(found, positions)
        np.testing.assert_allclose(scan.projection_positions(), (np.arange(ANGLES) + 0.5) / ANGLES)


# --- angles ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("units", "factor"),
    [
        (None, 1), ("degrees", 1), ("deg", 1), ("Degree", 1), ("°", 1), (b"\xb0", 1), (np.array([b"degrees"]), 1),
        ("rad", 180 / np.pi), ("radians", 180 / np.pi), ("mrad", 0.18 / np.pi),
    ],
)  # fmt: skip
def test_theta_is_in_degrees_whatever_its_units(units: Any, factor: float) -> None:
    theta = np.linspace(0, 179, ANGLES) / factor
    attributes = {} if units is None else {"units": units}
    with opened(exchange_parts() | {"/exchange/theta": (theta, attributes)}) as scan:
        np.testing.assert_allclose(scan.theta_deg, np.linspace(0, 179, ANGLES), rtol=1e-12)
        assert scan.theta_deg.dtype == np.float64


@pytest.mark.parametrize("prefix", ["", "rotation_"])
def test_theta_is_made_from_start_and_step(prefix: str) -> None:
    parts = exchange_parts()
    del parts["/exchange/theta"]
    group = "/process/acquisition/rotation"
    parts |= {f"{group}/{prefix}start": np.array([-90.0]), f"{group}/{prefix}step": (np.array([15.0]), {"units": "°"})}
    for number in (None, ANGLES):
        with opened(parts if number is None else parts | {f"{group}/num_angles": number}) as scan:
            np.testing.assert_array_equal(scan.theta_deg, -90 + 15.0 * np.arange(ANGLES))
            validate(scan)
    assert re.search(
        "num_angles is 13 while .* 12 projections: frames were lost", refusal(parts | {f"{group}/num_angles": 13})
    )


# --- metadata -------------------------------------------------------------------------------------------------------

INSTRUMENT = "/measurement/instrument"
OBJECTIVE = f"{INSTRUMENT}/detection_system/objective"


def test_metadata_of_an_aps_scan() -> None:
    parts = exchange_parts() | {
        f"{OBJECTIVE}/resolution": (np.array([0.69]), {"units": "μm"}),
        f"{OBJECTIVE}/magnification": np.array([b"5x"]),
        f"{INSTRUMENT}/detector/pixel_size": (np.array([3.45]), {"units": "μm"}),
        f"{INSTRUMENT}/detector/exposure_time": (np.array([0.1]), {"units": "s"}),
        f"{INSTRUMENT}/monochromator/energy": (np.array([25.5]), {"units": "keV"}),
        f"{INSTRUMENT}/detector_motor_stack/setup/z": (np.array([60.0]), {"units": "mm"}),
        f"{INSTRUMENT}/source/beamline": np.array([b"2-BM"], "S256"),
        "/measurement/sample/name": np.array([b"  fuel cell 3 "]),
        "/measurement/sample/experiment/proposal": 78243,
        "/measurement/sample/experimenter/name": "Curie",
        "/process/acquisition/start_date": np.array([b"2023-03-17T19:10:01-0500"]),
    }
    with opened(parts) as scan:
        assert scan.metadata == ScanMetadata(
            pixel_size_um=0.69,
            energy_kev=25.5,
            distance_mm=60.0,
            exposure_time_s=0.1,
            magnification=5.0,
            sample="fuel cell 3",
            proposal="78243",
            experimenter="Curie",
            beamline="2-BM",
            start_time="2023-03-18T00:10:01Z",
        )


def test_metadata_of_a_nxtomo_scan() -> None:
    detector = "/entry1/tomo_entry/instrument/detector"
    parts = nxtomo_parts() | {
        f"{detector}/x_pixel_size": (3.25e-6, {"units": "m"}),
        f"{detector}/distance": (0.05, {}),
        f"{detector}/count_time": (np.full(18, 80.0), {"units": "ms"}),
        "/entry1/beam/incident_energy": (53000.0, {"units": "eV"}),
        "/entry1/instrument/name": "i12",
        "/entry1/tomo_entry/sample/name": "",
        "/entry1/experiment_identifier": "mg32775-1",
        "/entry1/user01/name": "Hodgkin",
        "/entry1/start_time": "2022-10-15T13:49:39.357",
    }
    with opened(parts) as scan:
        assert scan.metadata == ScanMetadata(
            pixel_size_um=pytest.approx(3.25),
            energy_kev=53.0,
            distance_mm=50.0,
            exposure_time_s=pytest.approx(0.08),
            proposal="mg32775-1",
            experimenter="Hodgkin",
            beamline="i12",
            start_time="2022-10-15T13:49:39.357000",
        )
    with opened(parts | {"/entry1/tomo_entry/sample/x_pixel_size": (650e-9, {"units": "m"})}) as scan:
        assert scan.metadata.pixel_size_um == pytest.approx(0.65)


@pytest.mark.parametrize(("rows_um", "expected"), [(6.5, 6.5), (3.25, None), (3.2501, None), (None, None)])
def test_rows_of_pixels_that_are_not_square_have_their_own_spacing(
    rows_um: float | None, expected: float | None
) -> None:
    detector = "/entry1/tomo_entry/instrument/detector"
    parts = nxtomo_parts() | {f"{detector}/x_pixel_size": (3.25, {"units": "um"})}
    if rows_um is not None:
        parts[f"{detector}/y_pixel_size"] = (rows_um, {"units": "um"})
    with opened(parts) as scan:
        assert scan.metadata.row_spacing_um == (None if expected is None else pytest.approx(expected))


def test_rows_that_were_binned_otherwise_have_their_own_spacing() -> None:
    parts = exchange_parts() | {f"{OBJECTIVE}/resolution": (0.69, {"units": "um"})}
    for axis, binning in (("x", 1), ("y", 2)):
        parts[f"{INSTRUMENT}/detector/binning_{axis}"] = np.array([binning])
    with opened(parts) as scan:
        assert scan.metadata.pixel_size_um == pytest.approx(0.69)
        assert scan.metadata.row_spacing_um == pytest.approx(1.38)


@pytest.mark.parametrize(
    ("resolution", "sensor", "magnification", "binning", "expected"),
    [
        ((0.69, "um"), (3.45, "um"), "5x", None, 0.69),  # what is at the sample comes first
        ((690.0, "nm"), None, None, None, 0.69),  # 32-ID
        ((0.69, "microns"), None, None, None, 0.69),  # 13-BM
        ((6.9e-4, "mm"), None, None, None, 0.69),
        ((0.69, None), None, None, None, 0.69),
        ((0.69, b"\xb5m"), None, None, None, 0.69),
        (None, (3.45, "µm"), "Mitutoyo 5X", None, 0.69),
        (None, (3.45, "µm"), 5.0, 2, 1.38),
        ((0.0, "um"), (3.45, "um"), "5", 1, 0.69),
        ((float("nan"), "um"), (3.45, "um"), "1.1x", 1, 3.45 / 1.1),
        ((-1.0, "um"), None, None, None, None),
        ((0.69, "furlong"), None, None, None, None),
        (("unknown", "um"), None, None, None, None),
        (None, (3.45, "um"), None, None, None),  # a sensor's pixel alone says nothing about the sample
        (None, (3.45, "um"), "0x", None, None),
        (None, (3.45, "um"), "none", None, None),
    ],
)  # fmt: skip
def test_pixel_size_is_that_at_the_sample(
    resolution: Any, sensor: Any, magnification: Any, binning: Any, expected: float | None
) -> None:
    parts = exchange_parts()
    for name, value in ((f"{OBJECTIVE}/resolution", resolution), (f"{INSTRUMENT}/detector/pixel_size", sensor)):
        if value is not None:
            parts[name] = (value[0], {} if value[1] is None else {"units": value[1]})
    if magnification is not None:
        parts[f"{OBJECTIVE}/magnification"] = magnification
    if binning is not None:
        parts[f"{INSTRUMENT}/detector/binning_x"] = np.array([binning])
    with opened(parts) as scan:
        assert scan.metadata.pixel_size_um == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("2023-03-17T12:10:01+01:00", "2023-03-17T11:10:01Z"),
        ("2023-03-17 12:10:01Z", "2023-03-17T12:10:01Z"),
        ("2023-03-17 12:10:01", "2023-03-17T12:10:01"),
        ("Fri Mar 17 2023", "Fri Mar 17 2023"),
        ("", None),
    ],
)
def test_start_time_is_iso_in_utc_where_possible(written: str, expected: str | None) -> None:
    with opened(exchange_parts() | {"/process/acquisition/start_date": written}) as scan:
        assert scan.metadata.start_time == expected


def test_odd_metadata_never_refuses_a_scan() -> None:
    parts = exchange_parts() | {
        f"{OBJECTIVE}/resolution/a_group": 1,
        f"{OBJECTIVE}/magnification": np.zeros(0),
        f"{INSTRUMENT}/detector/pixel_size": h5py.ExternalLink("gone.h5", "/x"),
        f"{INSTRUMENT}/monochromator/energy": np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
        "/measurement/sample/name": h5py.Empty("f8"),
        "/measurement/sample/experimenter/name": np.array([b"M\xfcller"]),
    }
    with opened(parts) as scan:
        assert scan.metadata == ScanMetadata(experimenter="Müller")


# --- what is refused ------------------------------------------------------------------------------------------------


def nonfinite(stack: NDArray[Any], where: Any) -> NDArray[np.float32]:
    values = stack.astype(np.float32)
    values[where] = np.nan
    return values


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "data missing": ({"data": None}, r"data: not found; understood are .*; the file holds /exchange"),
    "data a group": ({"data": None, "data/x": DATA}, "data: is a group"),
    "data text": ({"data": b"text"}, "data: holds .*integer or floating-point"),
    "data complex": ({"data": DATA * 1j}, "data: holds complex"),
    "data 2-D": ({"data": DATA[0]}, r"data: has shape \(6, 16\); three dimensions"),
    "data 4-D": ({"data": DATA[None]}, r"data: has shape \(1, 12, 6, 16\)"),
    "no angles": ({"data": DATA[:0]}, r"data: is empty: .* \(0, 6, 16\)"),
    "no rows": ({"data": DATA[:, :0]}, "data: is empty"),
    "no columns": ({"data": DATA[:, :, :0]}, "data: is empty"),
    "one projection": ({"data": DATA[:1], "theta": np.zeros(1)}, "holds 1 projection; at least 2"),
    "data linked to nowhere": (
        {"data": h5py.ExternalLink("gone.h5", "/data")}, r"data: cannot be read \(.*copy the file again"
    ),
    "no flats": ({"data_white": None}, "/exchange/data_white: no flats found; .* beam on and the sample out"),
    "empty flats": ({"data_white": DATA[:0]}, "/exchange/data_white: no flats found"),
    "no darks": (
        {"data_dark": None}, "/exchange/data_dark: no darks found; .* at least one .*dark_field_value"
    ),
    "flats linked to nowhere": ({"data_white": h5py.SoftLink("/gone")}, "/exchange/data_white: cannot be read"),
    "flats of another shape": (
        {"data_white": DATA[:, :5]}, r"/exchange/data_white: its frames are \(5, 16\), the projections' \(6, 16\)"
    ),
    "darks of another shape": ({"data_dark": DATA[0, :, :9]}, r"/exchange/data_dark: its frames are \(6, 9\)"),
    "darks 1-D": ({"data_dark": np.zeros(5)}, r"/exchange/data_dark: has shape \(5,\)"),
    "flats equal darks": (
        {"data_white": DARKS}, "flats equal darks .*data_dark.*: the beam was off"
    ),
    "flats and darks constant": (
        {"data_white": DATA[0] * 0, "data_dark": DATA[0] * 0}, "the beam was off"
    ),
    "flats without beam": ({"data_white": frames(5, 20, 9)}, "the beam was off"),
    "flats for darks": (
        {"data_white": DARKS, "data_dark": FLATS},
        "the beam was off or they are exchanged",
    ),
    "theta missing": ({"theta": None}, "theta: not found, nor .*start and step"),
    "theta short": ({"theta": np.arange(11.0)}, "theta: has 11 angles, the scan has 12 projections"),
    "theta 2-D": ({"theta": np.zeros((12, 1))}, r"theta: is float64 of shape \(12, 1\)"),
    "theta text": ({"theta": b"0 to 180"}, "theta: is .*one number an angle"),
    "theta NaN": (
        {"theta": np.array([0, np.nan, np.inf, *range(9)])}, r"theta: 2 of 12 angles are NaN .*\(1, 2\)"
    ),
    "theta constant": ({"theta": np.full(12, 90.0)}, "theta: angles cover 0 degrees, from 90 to 90"),
    "theta too narrow": ({"theta": np.linspace(0, 0.99, 12)}, "theta: angles cover 0.99 degrees"),
    "theta radians unsaid": ({"theta": np.linspace(0, np.pi, 12)}, "theta: covers 3.1416 .*radians.*units"),
    "theta radians unsaid, a turn": (
        {"theta": np.linspace(0, 2 * np.pi, 12, endpoint=False)}, "theta: covers 5.7596 .*radians.*units"
    ),
    "theta in gons": ({"theta": (np.arange(12.0), {"units": "gon"})}, "theta: has units 'gon'"),
    "a frame of NaN": (
        {"data": nonfinite(DATA, np.s_[[3, 7]])}, r"data: 2 of 12 frames .*altogether \(frames 3, 7\)"
    ),
    "more than 1 % NaN": (
        {"data": nonfinite(DATA, np.s_[:, 0, 0:2])}, r"data: 24 values \(2.08%\) are NaN .* at most 1%"
    ),
    "a flat of NaN": ({"data_white": nonfinite(DATA, 0)}, r"/exchange/data_white: 1 of 12 frames"),
    "darks of NaN": ({"data_dark": np.full((ROWS, COLUMNS), np.nan)}, "/exchange/data_dark: 1 of 1 frames"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_unusable_exchange_scan_is_refused(case: str) -> None:
    changes, message = REFUSED[case]
    parts = {
        name: part
        for name, part in (exchange_parts() | {f"/exchange/{name}": part for name, part in changes.items()}).items()
        if part is not None
    }
    assert re.search(message, refusal(parts))


NX_DETECTOR = "/entry1/tomo_entry/instrument/detector"
NX_REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no image key": ({f"{NX_DETECTOR}/image_key": None}, "neither Data Exchange nor NXtomo; .*holds /entry1.*data"),
    "image key of another length": (
        {f"{NX_DETECTOR}/image_key": np.zeros(5)}, "image_key: has 5 entries, .*data has 19 frames"
    ),
    "data missing": ({f"{NX_DETECTOR}/data": None}, "image_key: no data of three dimensions"),
    "data left behind": (
        {f"{NX_DETECTOR}/data": h5py.ExternalLink("gone.h5", "/data")}, f"{NX_DETECTOR}/data: cannot be read"
    ),
    "data of another detector": (
        {f"{NX_DETECTOR}/data": h5py.SoftLink("/gone"), "/entry1/tomo_entry/data/data": DATA},
        f"{NX_DETECTOR}/data: cannot be read",
    ),
    "data 2-D": ({f"{NX_DETECTOR}/data": DATA[0]}, f"{NX_DETECTOR}/data: has shape .*three dimensions"),
    "no angles": ({"/entry1/tomo_entry/sample/rotation_angle": None}, f"{NX_DETECTOR}/data: no rotation_angle"),
    "angles short": ({"/entry1/tomo_entry/sample/rotation_angle": np.arange(5.0)}, "rotation_angle: has 5 angles"),
    "no projections": ({f"{NX_DETECTOR}/image_key": np.array([1, 2] * 9 + [1])}, r"is empty: .*\(0, 6, 16\)"),
    "no flats": ({f"{NX_DETECTOR}/image_key": np.array([2, 2] + [0] * 17)}, "image_key 1.*: no flats found"),
    "no darks": ({f"{NX_DETECTOR}/image_key": np.array([1, 1] + [0] * 17)}, "image_key 2.*: no darks found"),
}  # fmt: skip


@pytest.mark.parametrize("case", NX_REFUSED)
def test_unusable_nxtomo_scan_is_refused(case: str) -> None:
    changes, message = NX_REFUSED[case]
    parts = {name: part for name, part in (nxtomo_parts() | changes).items() if part is not None}
    assert re.search(message, refusal(parts))


def test_paths_that_are_no_scan_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("no HDF5\n" * 1000)
    (tmp_path / "empty.h5").touch()
    write(tmp_path / "other.h5", {"/images/stack": DATA, "/images/count": 12})
    with h5py.File(tmp_path / "nothing.h5", "w"):
        pass
    for name, message in (
        ("missing.h5", "no such file; check the path"),
        ("text.h5/below.h5", "no such file"),
        (".", "is a directory; name the HDF5 file"),
        ("text.h5", "is not an HDF5 file; understood are Data Exchange .* and NXtomo"),
        ("empty.h5", r"is empty \(0 bytes\); copy it again"),
        ("other.h5", r"neither Data Exchange nor NXtomo; .* the file holds /images/stack \(12, 6, 16\)"),
        ("nothing.h5", "neither Data Exchange nor NXtomo; .* the file holds nothing"),
        ("x" * 300, "cannot be opened|no such file"),
        ("a\0b", "cannot be opened|no such file"),
    ):
        with pytest.raises(ScanError, match=message) as caught:
            open_scan(tmp_path / name)
        assert str(caught.value).startswith(str(tmp_path))


def test_a_file_still_being_written_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "scan.h5", exchange_parts())
    detector = "import h5py, sys; file = h5py.File(sys.argv[1], 'a'); print('open', flush=True); sys.stdin.read()"
    with Popen([sys.executable, "-c", detector, path], stdin=PIPE, stdout=PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        with pytest.raises(ScanError, match=r"still open for writing .*; wait"):
            open_scan(path)


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("layout", [exchange_parts, nxtomo_parts])
def test_a_truncated_file_is_refused_wherever_it_ends(
    layout: Callable[[], dict[str, Any]], libver: str, tmp_path: Path
) -> None:
    whole = write(tmp_path / "whole.h5", layout(), libver=libver, chunks=(1, ROWS, COLUMNS)).read_bytes()
    path = tmp_path / "cut.h5"
    for size in [*range(0, 120, 7), *np.linspace(120, len(whole) - 1, 40).astype(int)]:
        path.write_bytes(whole[:size])
        with pytest.raises(ScanError, match=re.escape(str(path))) as caught, open_scan(path) as scan:
            validate(scan)
        if size > 120:
            assert f"truncated HDF5 file: has {size} bytes, should have {len(whole)}; copy it" in str(caught.value)


def test_a_real_truncated_file_is_refused(real_scan: Callable[[str], Path], tmp_path: Path) -> None:
    whole = real_scan("tooth.h5").read_bytes()
    path = tmp_path / "tooth.h5"
    for size in (1, 8, 96, 800, 4096, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ScanError, match=r"tooth\.h5: .*copy it again|not an HDF5 file"):
            open_scan(path)


def test_a_damaged_chunk_names_the_dataset(tmp_path: Path) -> None:
    options = {"chunks": (1, ROWS, COLUMNS), "compression": "gzip", "fletcher32": True}
    path = write(tmp_path / "scan.h5", exchange_parts(), **options)
    with h5py.File(path) as file:
        chunk = file["/exchange/data"].id.get_chunk_info(5)
    with path.open("r+b") as stream:
        stream.seek(chunk.byte_offset)
        stream.write(bytes(chunk.size))
    with open_scan(path) as scan:
        scan.read_projections(0, 5)
        for read in (lambda: scan.read_rows(0, 2), lambda: scan.read_projections(4, 6)):
            with pytest.raises(ScanError, match=r"scan\.h5: /exchange/data: cannot be read .*copy the file again"):
                read()


def test_a_missing_filter_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "scan.h5", exchange_parts(), chunks=(1, ROWS, COLUMNS), **hdf5plugin.Bitshuffle())
    # another filter number (two bytes, little-endian) that nobody has registered
    path.write_bytes(path.read_bytes().replace((32008).to_bytes(2, "little"), (32767).to_bytes(2, "little")))
    with pytest.raises(ScanError, match=r"/exchange/data: is compressed with filter 32767 .*not installed here"):
        open_scan(path)


def test_an_interrupted_scan_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "scan.h5", exchange_parts() | {"/exchange/data": np.uint16(0)})
    for options, message in (
        ({"chunks": (1, ROWS, COLUMNS)}, "5 of 12 chunks were never written"),
        ({}, "1 of 1 chunks"),
    ):
        with h5py.File(path, "a") as file:
            del file["/exchange/data"]
            data = file.create_dataset("/exchange/data", (ANGLES, ROWS, COLUMNS), "u2", **options)
            if options:
                data[:7] = DATA[:7]
        with open_scan(path) as scan, pytest.raises(ScanError, match=f"/exchange/data: {message}.*interrupted"):
            validate(scan)


def test_virtual_datasets_need_their_sources(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    source = write(tmp_path / "raw" / "frames.h5", {"/data": DATA})
    layout = h5py.VirtualLayout(DATA.shape, DATA.dtype)
    layout[:] = h5py.VirtualSource("raw/frames.h5", "/data", DATA.shape)
    path = write(tmp_path / "scan.h5", exchange_parts() | {"/exchange/data": layout})
    with open_scan(path) as scan:
        validate(scan)
        np.testing.assert_array_equal(scan.read_rows(0, ROWS), DATA)
    write(source, {"/other": DATA})
    with open_scan(path) as scan, pytest.raises(ScanError, match=r"frames\.h5: /data: not found, but .*scan\.h5"):
        validate(scan)
    source.unlink()
    with open_scan(path) as scan, pytest.raises(ScanError, match=r"raw/frames\.h5: no such file"):
        validate(scan)


# --- what is accepted and counted -----------------------------------------------------------------------------------


def test_few_bad_values_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = exchange_parts()
    parts["/exchange/data"] = nonfinite(DATA, np.s_[:5, 2, 3])
    parts["/exchange/data"][6, 1, 1] = -np.inf
    parts["/exchange/data_white"] = nonfinite(parts["/exchange/data_white"], np.s_[0, 0, :2])
    parts["/exchange/data_dark"] = nonfinite(parts["/exchange/data_dark"], np.s_[1, 0, 0])
    parts["/exchange/data_white"][:, 5, 5] = 0
    parts["/exchange/data_white"][:, 5, 7] = parts["/exchange/data_dark"][:, 5, 7] = 21
    expected = ScanQuality(True, 6, 6 / DATA.size, 2, 1, 0.0, 2)
    with opened(parts) as scan:
        assert validate(scan) == expected
        assert validate(scan, check_values=False) == ScanQuality()
        monkeypatch.setattr(scan_frames, "_BLOCK_BYTES", 200)
        assert validate(scan) == expected


def test_saturated_values_are_counted() -> None:
    data = DATA.copy()
    data[:, :2] = 65535
    with opened(exchange_parts() | {"/exchange/data": data}) as scan:
        assert validate(scan).saturated_fraction == pytest.approx(2 / ROWS)


@pytest.mark.parametrize("block_bytes", [64, 1000, 5000])
@pytest.mark.parametrize("dtype", ["float32", "uint16"])
def test_values_are_checked_in_small_blocks(
    block_bytes: int, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = exchange_parts()
    parts["/exchange/data"] = DATA.astype(dtype)
    sizes = []
    read = scan_frames.Frames.read

    def record(*arguments: Any) -> NDArray[Any]:
        block = read(*arguments)
        sizes.append(block.nbytes)
        return block

    with open_scan(write(tmp_path / "scan.h5", parts)) as scan:
        monkeypatch.setattr(scan_frames, "_BLOCK_BYTES", block_bytes)
        monkeypatch.setattr(scan_frames.Frames, "read", record)
        validate(scan)
    one_row_of_all_flats = 5 * COLUMNS * 2
    assert max(sizes) <= max(block_bytes, one_row_of_all_flats)
    if dtype == "uint16":  # integers cannot be NaN: a sample is enough
        assert sum(sizes) < 2 * sum(part.nbytes for part in parts.values())


@given(
    lit_rows=st.integers(3, 20),
    photons=st.floats(20, 50_000),
    offset=st.floats(0, 500),
    read_noise=st.floats(0.5, 10),
    counts=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=40, deadline=None)
def test_beam_is_told_from_no_beam(
    lit_rows: int, photons: float, offset: float, read_noise: float, counts: tuple[int, int], seed: int
) -> None:
    """A beam over 15 % of the rows or more is seen; flats without it are refused, whatever the noise and offset."""
    rng = np.random.default_rng(seed)
    shape = (20, 64)
    profile = np.zeros(shape)
    profile[:lit_rows] = 5 * read_noise**2 + photons
    pattern = offset + rng.normal(0, 5, shape)

    def detect(count: int, signal: NDArray[np.float64]) -> NDArray[np.float32]:
        return (pattern + rng.poisson(signal, (count, *shape)) + rng.normal(0, read_noise, (count, *shape))).astype(
            "f4"
        )

    parts = {"/exchange/data": detect(4, profile), "/exchange/theta": np.arange(4) * 45.0}
    parts |= {"/exchange/data_dark": detect(counts[1], profile * 0)}
    with opened(parts | {"/exchange/data_white": detect(counts[0], profile)}) as scan:
        assert validate(scan).values_checked
    assert "the beam was off" in refusal(parts | {"/exchange/data_white": detect(counts[0], profile * 0)})


# --- scan ids -------------------------------------------------------------------------------------------------------


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", fullmatch=True))
def test_good_scan_ids_pass(text: str) -> None:
    assert validate_scan_id(text) == text


@pytest.mark.parametrize(
    "text", ["", ".", "..", "../up", "a/b", "a\\b", "-x", "_x", "a b", "a\n", "ä", "a\0", 101 * "a"]
)
def test_bad_scan_ids_are_refused(text: str) -> None:
    with pytest.raises(ParameterError, match=r"scan id .* --scan-id"):
        validate_scan_id(text)


def test_scan_id_is_the_name_of_the_file() -> None:
    assert scan_id_from_path("/data/2023-03/scan_0042.h5") == "scan_0042"
    assert scan_id_from_path(Path("k11-18014.raw.nxs")) == "k11-18014.raw"
    with pytest.raises(ParameterError, match="'my scan'"):
        scan_id_from_path("my scan.h5")
