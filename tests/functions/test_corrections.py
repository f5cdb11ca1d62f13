"""Every way to correct projections: rows come out the same however they are cut, and shapes, angles and centres are right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tomopipe.functions.automatic import known
from tomopipe.functions.corrections import Corrector, bad_pixels_checksum, corrected_with
from tomopipe.functions.errors import InputError, ParameterError, ScanError
from tomopipe.functions.parameters import Parameters, parse_parameters
from tomopipe.functions.scan import Scan, open_scan
from tomopipe.functions.simulation import SimulationSettings, simulate_scan
from tomopipe.functions.slabs import SliceReconstructor, reconstruction_settings

SETTINGS = SimulationSettings(
    columns=72, rows=24, angles=40, n_flats=12, dead_pixel_fraction=0.002, zinger_rate=2e-3, beam_drift=0.1, seed=5
)
FULL_TURN = SETTINGS.model_copy(update={"arc_deg": 360, "angles": 80, "axis_offset_px": 20.3})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    simulate_scan(SETTINGS, folder / "half.h5")
    simulate_scan(FULL_TURN, folder / "full.h5")
    bad = np.zeros((24, 72), np.bool_)
    bad[4:8, 30] = bad[20, 11:13] = True
    np.save(folder / "bad.npy", bad)
    return folder


def corrector(opened: Scan, /, joined_at: float | None = None, **sections: dict[str, Any]) -> Corrector:
    parameters = parse_parameters(sections)
    resolved = replace(known(opened, parameters), joined_at=joined_at)
    plain = Corrector(opened, parameters, resolved)
    if parameters.preprocessing.flat_field == "dynamic":
        resolved = replace(resolved, eigen_flats=plain.fit_eigen_flats())
    return Corrector(opened, parameters, resolved)


PAGANIN = {"phase_retrieval": "paganin", "delta_beta": 30.0}
DISTANCE = {"distance_mm": 20.0}

WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "default": ({}, {}),
    "mean flats": ({}, {"flat_field": "mean"}),
    "interpolated flats": ({}, {"flat_field": "interpolated"}),
    "dynamic flats": ({}, {"flat_field": "dynamic", "flat_components": 1}),
    "bad pixels": ({}, {"bad_pixel_map": "bad.npy"}),
    "large zingers": ({}, {"zinger_size": 5}),
    "zingers of the stack": ({}, {"zinger_neighborhood": "stack"}),
    "no zingers": ({}, {"zinger_threshold": 0}),
    "phase": (DISTANCE, PAGANIN),
    "alpha": (DISTANCE, {"phase_retrieval": "paganin", "paganin_alpha": 1e-3}),
    "beam hardening": ({}, {"beam_hardening": [1.0, 0.02]}),
    "binned": ({"binning": 2}, {}),
    "tilted": ({"axis_tilt_deg": 1.5}, {}),
    "distorted": ({"distortion_coefficients": [1.0, 1e-4, 1e-6], "distortion_center_px": [30.0, 15.0]}, {}),
    "a region": ({"rows": [3, 21], "columns": [5, 69]}, {}),
    "fewer angles": ({"angle_step": 2, "excluded_angles_deg": [[20, 40]], "projections": [2, 39]}, {}),
    "all at once": (
        {**DISTANCE, "rows": [1, 23], "columns": [2, 70], "binning": 2, "axis_tilt_deg": -1.0, "angle_step": 2},
        {**PAGANIN, "flat_field": "interpolated", "zinger_size": 5, "beam_hardening": [1.0, 0.01]},
    ),
    **{
        f"stripes {method}": ({}, {"stripe_removal": method})
        for method in (
            "none", "tomopy_fw", "vo_all", "vo_sorting", "vo_filtering", "vo_large", "vo_dead", "titarenko", "tomopy_ti"
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_rows_are_the_same_however_they_are_cut(folder: Path, way: str) -> None:
    scan_section, preprocessing = WAYS[way]
    if "bad_pixel_map" in preprocessing:
        preprocessing = {**preprocessing, "bad_pixel_map": str(folder / "bad.npy")}
    with open_scan(folder / "half.h5") as scan:
        made = corrector(scan, scan=scan_section, preprocessing=preprocessing)
        plain = corrector(scan)
        whole, _ = made.rows(0, made.shape[1])
        assert whole.shape == made.shape
        assert made.theta_rad.shape == made.shape[:1]
        assert whole.dtype == np.float32
        assert np.isfinite(whole).all()
        for step in (1, 5, 8):
            pieces = [made.rows(low, min(low + step, made.shape[1]))[0] for low in range(0, made.shape[1], step)]
            np.testing.assert_array_equal(np.concatenate(pieces, axis=1), whole)
        if way != "default" and made.shape == plain.shape:
            assert not np.array_equal(whole, plain.rows(0, 24)[0]), "the option makes no difference"


ON_A_DEVICE = [
    "default", "mean flats", "interpolated flats", "dynamic flats", "bad pixels", "no zingers", "phase", "beam hardening",
    "a region", "fewer angles", "stripes none",
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_a_pytorch_device_gives_the_same_numbers(folder: Path, way: str) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    scan_section, preprocessing = WAYS[way]
    if "bad_pixel_map" in preprocessing:
        preprocessing = {**preprocessing, "bad_pixel_map": str(folder / "bad.npy")}
    with open_scan(folder / "half.h5") as scan:
        made = corrector(scan, scan=scan_section, preprocessing=preprocessing)
        assert made.fits_gpu == (way in ON_A_DEVICE or way == "alpha")
        if not made.fits_gpu:
            return
        expected, mended = made.rows(0, made.shape[1])
        found, also_mended = made.correct_on("cpu", made.read(0, made.shape[1]))
        assert also_mended == mended
        np.testing.assert_allclose(found, expected, atol=2e-5)
        piece, _ = made.correct_on("cpu", made.read(5, 9))
        np.testing.assert_array_equal(piece, found[:, 5:9])


@pytest.mark.parametrize("way", ["default", "all at once", "binned"])
def test_a_row_takes_no_more_memory_to_read_than_is_planned(folder: Path, way: str) -> None:
    scan_section, preprocessing = WAYS[way]
    with open_scan(folder / "half.h5") as scan:
        made = corrector(scan, scan=scan_section, preprocessing=preprocessing)
        planned = made.row_bytes
        for start, stop in ((0, 8), (3, 5), (0, made.shape[1])):
            counts = made.read(start, stop).counts
            assert counts.nbytes <= planned.reading * (stop - start + planned.halo_rows)


def test_a_part_of_the_scan_has_the_shape_and_the_values_of_that_part(folder: Path) -> None:
    section = {"rows": [3, 21], "columns": [5, 69], "angle_step": 2, "excluded_angles_deg": [[20, 40]]}
    free = {"stripe_removal": "none", "zinger_threshold": 0}
    with open_scan(folder / "half.h5") as scan:
        part = corrector(scan, scan=section, preprocessing=free)
        whole, _ = corrector(scan, preprocessing=free).rows(0, 24)
        kept = [k for k in range(0, 40, 2) if not 20 <= 4.5 * k <= 40]
        assert part.shape == (len(kept), 18, 64)
        np.testing.assert_allclose(np.rad2deg(part.theta_rad), [4.5 * k for k in kept])
        dead = np.zeros((24, 72), np.bool_)
        dead[:] = (scan.flat_field(0, 24) - scan.dark_field(0, 24)) <= 0
        # A pixel beside a dead one at the region's edge has another neighbour to be mended from.
        usable = ~dead[3:21, 5:69]
        np.testing.assert_array_equal(part.rows(0, 18)[0][:, usable], whole[kept, 3:21, 5:69][:, usable])


def test_binning_averages_transmissions(folder: Path) -> None:
    free = {"stripe_removal": "none"}
    with open_scan(folder / "half.h5") as scan:
        whole, _ = corrector(scan, preprocessing=free).rows(0, 24)
        binned = corrector(scan, scan={"binning": 2}, preprocessing=free)
        assert binned.shape == (40, 12, 36)
        parameters = parse_parameters({"scan": {"binning": 2}})
        assert known(scan, parameters).voxel_size_um == (6.0, 6.0, 6.0)
        transmissions = np.exp(-whole.astype(np.float64)).reshape(40, 12, 2, 36, 2).mean((2, 4))
        np.testing.assert_allclose(np.exp(-binned.rows(0, 12)[0]), transmissions, rtol=1e-4)


def test_the_halves_of_a_full_turn_are_joined(folder: Path) -> None:
    center = FULL_TURN.center_px
    free = {"stripe_removal": "none", "zinger_threshold": 0}
    with open_scan(folder / "full.h5") as scan:
        single = corrector(scan, preprocessing=free)
        double = corrector(scan, center, preprocessing=free)
        assert single.shape == (80, 24, 72)
        angles, rows, columns = double.shape
        assert (angles, rows) == (40, 24)
        assert columns == int(2 * center) + 1
        assert double.center(center) == center
        joined, _ = double.rows(0, 24)
        np.testing.assert_array_equal(joined, double.join(single.rows(0, 24)[0]))
        # Far from the axis the projections are the detector's own.
        np.testing.assert_array_equal(joined[:, :, :20], single.rows(0, 24)[0][:40, :, :20])
        np.testing.assert_array_equal(double.rows(5, 9)[0], joined[:, 5:9])


def test_what_phase_retrieval_needs_is_asked_for(folder: Path) -> None:
    with open_scan(folder / "half.h5") as scan, pytest.raises(ParameterError, match=r"give scan\.distance_mm"):
        corrector(scan, preprocessing=PAGANIN)


def test_a_polynomial_that_turns_back_is_refused(folder: Path) -> None:
    with open_scan(folder / "half.h5") as scan, pytest.raises(ParameterError, match="beam_hardening"):
        corrector(scan, preprocessing={"beam_hardening": [1.0, -0.5]})


def test_flats_that_a_method_cannot_do_with_are_refused_before_anything_is_read(folder: Path, tmp_path: Path) -> None:
    few = simulate_scan(SETTINGS.model_copy(update={"n_flats": 3, "rows": 2}), tmp_path / "few.h5")
    with open_scan(few) as scan:
        for preprocessing, said in (
            ({"flat_field": "dynamic"}, "needs 4 flats"),
            ({"flat_field": "interpolated"}, "when the flats were recorded"),
        ):
            with pytest.raises(ScanError, match=said):
                Corrector(
                    scan, parse_parameters({"preprocessing": preprocessing}), known(scan, Parameters())
                ).check_flats()
    with open_scan(folder / "half.h5") as scan:
        parameters = parse_parameters({"preprocessing": {"flat_field": "dynamic", "flat_components": 12}})
        with pytest.raises(ParameterError, match="flat_components=12"):
            Corrector(scan, parameters, known(scan, parameters)).check_flats()


def test_reading_takes_all_that_correcting_needs(folder: Path) -> None:
    # HDF5 reads one thing at a time: correcting must not wait for rows that are read ahead.
    with open_scan(folder / "half.h5") as scan:
        made = corrector(scan, preprocessing={"flat_field": "interpolated"})
        raw = made.read(3, 9)
    with pytest.raises(Exception):  # noqa: B017 - the file is closed
        made.read(3, 9)
    assert made.correct(raw)[0].shape == (40, 6, 72)


def test_a_map_of_another_detector_is_refused(folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "map.npy", np.zeros((24, 71), np.bool_))
    with open_scan(folder / "half.h5") as scan, pytest.raises(InputError, match="bad_pixel_map"):
        corrector(scan, preprocessing={"bad_pixel_map": str(tmp_path / "map.npy")})


def resolved_of(**changes: Any) -> dict[str, Any]:
    return {
        "bad_pixel_map_checksum": None, "field_of_view": "standard", "center_px": 10.0, "voxel_size_um": [1.0, 1.0, 1.0],
        "energy_kev": 20.0, "distance_mm": 5.0, **changes,
    }  # fmt: skip


def test_digests_hold_what_changes_projections_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    plain = Parameters()
    base = corrected_with(plain, resolved_of())
    assert corrected_with(plain, resolved_of(center_px=11.0, energy_kev=30.0)) == base
    assert corrected_with(parse_parameters({"scan": {"pixel_size_um": 2.0}}), resolved_of()) == base
    assert corrected_with(parse_parameters({"scan": {"binning": 2}}), resolved_of()) != base
    assert corrected_with(plain, resolved_of(bad_pixel_map_checksum="x")) != base
    double = corrected_with(plain, resolved_of(field_of_view="double"))
    assert double != corrected_with(plain, resolved_of(field_of_view="double", center_px=11.0))
    phase = parse_parameters({"preprocessing": PAGANIN})
    assert corrected_with(phase, resolved_of()) != corrected_with(phase, resolved_of(energy_kev=30.0))

    def checksum(values: NDArray[Any]) -> str | None:
        np.save(tmp_path / "map.npy", values)
        return bad_pixels_checksum(
            parse_parameters({"preprocessing": {"bad_pixel_map": str(tmp_path / "map.npy")}}).preprocessing
        )

    assert bad_pixels_checksum(plain.preprocessing) is None
    assert checksum(np.zeros(3)) != checksum(np.ones(3))


def test_slices_of_raw_rows_are_the_same_where_projections_stay_on_the_device(folder: Path) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from tomopipe.functions.reconstruction.torch_direct import TorchReconstructor

    with open_scan(folder / "half.h5") as scan:
        made = corrector(scan)
        parameters = parse_parameters({}).reconstruction
        plain = SliceReconstructor(made.theta_rad, made.shape[2], SETTINGS.center_px, parameters, 3.0)
        torch_engine = SliceReconstructor(made.theta_rad, made.shape[2], SETTINGS.center_px, parameters, 3.0)
        # As the native engine prepares it on a GPU, here on PyTorch's CPU.
        torch_engine.__dict__["_reconstruct"] = TorchReconstructor(
            made.theta_rad, made.shape[2], SETTINGS.center_px, reconstruction_settings(parameters, 3.0), "cpu"
        )
        raw = made.read(4, 14)
        expected, mended = plain.of_raw(made, raw)
        found, also_mended = torch_engine.of_raw(made, raw)
        assert also_mended == mended
        np.testing.assert_array_equal(expected, plain(made.correct(raw)[0]))
        np.testing.assert_allclose(found, expected, atol=2e-3 * expected.std())
