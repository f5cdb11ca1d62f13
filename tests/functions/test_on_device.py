"""Preprocessing on a PyTorch device (here the CPU) against the functions for the CPU, which have tests of their own."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tomopipe.functions.errors import InputError, ParameterError  # noqa: E402
from tomopipe.functions.preprocessing import (  # noqa: E402
    beam_hardening,
    normalization,
    on_device,
    stripes_fourier_wavelet,
    zingers,
)
from tomopipe.functions.preprocessing.normalization import OpenBeam  # noqa: E402
from tomopipe.functions.preprocessing.phase import PaganinFilter  # noqa: E402

SHAPE = (7, 9, 31)


def tensor(array: np.ndarray) -> torch.Tensor:
    return on_device.to_device(array, "cpu")


def raw_scan(dtype: type = np.uint16, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Projections with zingers, flat and dark with dead pixels, one row of them dead altogether."""
    random = np.random.default_rng(seed)
    largest = 200 if dtype is np.uint8 else 5000
    projections = random.poisson(largest / 4, SHAPE).astype(dtype)
    for _ in range(25):
        projections[tuple(random.integers(0, SHAPE))] = largest
    flat = random.normal(largest / 2, 5, SHAPE[1:]).astype(np.float32)
    dark = random.normal(largest / 50, 1, SHAPE[1:]).astype(np.float32)
    flat[2, :3] = flat[4, 10:13] = flat[5, -1] = dark[2, 0] - 5
    flat[6] = 0
    return projections, flat, dark


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("chunk", [10, 10**6])
def test_zingers_are_the_same_pixels_with_the_same_values(
    dtype: type, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_device, "_CHUNK_VALUES", chunk)
    projections, _, dark = raw_scan(dtype)
    if dtype is np.float32:
        projections[1, 4, 5:8] = np.nan
        projections[3, 0, 0] = np.inf
    expected = zingers.remove_zingers(projections, dark, 0.3)
    before = tensor(projections)
    found = on_device.remove_zingers(before, tensor(dark), 0.3).numpy()
    assert (expected != projections).sum() > 20
    np.testing.assert_array_equal(found, expected.astype(np.float32))
    np.testing.assert_array_equal(before.numpy(), projections)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("with_map", [False, True])
def test_line_integrals_and_transmissions(dtype: type, with_map: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_device, "_CHUNK_VALUES", 600)
    projections, flat, dark = raw_scan(dtype)
    if dtype is np.float32:
        projections[1, 4, 5:8] = np.nan
    bad = np.zeros(SHAPE[1:], bool)
    bad[3, 7:9] = bad[8, 0] = True
    maps = (bad, torch.as_tensor(bad)) if with_map else (None, None)
    expected, mended = normalization.line_integrals(projections, flat, dark, 0.05, bad_pixels=maps[0])
    arguments = tensor(projections), tensor(flat), tensor(dark)
    found, count = on_device.line_integrals(*arguments, 0.05, bad_pixels=maps[1])
    assert count == mended > 0
    np.testing.assert_allclose(found.numpy(), expected, rtol=3e-6, atol=3e-6)
    expected, _ = normalization.transmission(projections, flat, dark, bad_pixels=maps[0])
    found, _ = on_device.transmission(*arguments, bad_pixels=maps[1])
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(
        on_device.minus_log(found, 0.05)[0].numpy(), normalization.minus_log(expected, 0.05)[0], rtol=3e-6, atol=3e-6
    )


def test_an_open_beam_of_each_projection() -> None:
    projections, flat, dark = raw_scan()
    random = np.random.default_rng(1)
    fields = np.stack([normalization.above_dark(flat, dark), random.normal(0, 30, SHAPE[1:]).astype(np.float32)])
    fields[1, 3, 3] = np.nan
    weights = np.stack([np.ones(7), random.normal(0, 1, 7)], axis=1).astype(np.float32)
    weights[4, 1] = 0  # there the second field's dead pixel does not count
    beam = OpenBeam(fields, weights)
    expected, mended = normalization.line_integrals(projections, beam, dark, 0.02)
    found, count = on_device.line_integrals(tensor(projections), beam, tensor(dark), 0.02)
    assert count == mended
    np.testing.assert_allclose(found.numpy(), expected, rtol=3e-6, atol=3e-6)


def test_no_projections_give_none() -> None:
    nothing, frame = torch.zeros((0, 3, 4)), torch.ones((3, 4))
    assert on_device.remove_zingers(nothing, frame, 0.3).shape == (0, 3, 4)
    assert on_device.line_integrals(nothing, 2 * frame, frame, 0.05)[0].shape == (0, 3, 4)
    assert on_device.correct_beam_hardening(nothing, [1.0]).shape == (0, 3, 4)


def test_beam_hardening() -> None:
    values = np.random.default_rng(2).normal(0.5, 1, SHAPE).astype(np.float32)
    expected = beam_hardening.correct_beam_hardening(values, [1.1, 0.2, -0.01])
    found = on_device.correct_beam_hardening(tensor(values), [1.1, 0.2, -0.01]).numpy()
    np.testing.assert_allclose(found, expected, rtol=2e-6)
    assert (values < 0).any()


@pytest.mark.parametrize("shape", [(45, 3, 170), (36, 11, 99)])
@pytest.mark.parametrize(("wavelet", "level", "limit"), [("sym16", None, 10.0), ("db5", 3, None), ("db5", 2, 2.0)])
def test_stripes(shape: tuple[int, int, int], wavelet: str, level: int | None, limit: float | None) -> None:
    random = np.random.default_rng(3)
    sinograms = np.cumsum(random.normal(0, 0.1, shape), axis=2) + random.normal(0, 0.3, (1, *shape[1:]))
    sinograms = sinograms.astype(np.float32)
    expected = stripes_fourier_wavelet.remove_stripes_fourier_wavelet(sinograms, level, wavelet, limit=limit)
    found = on_device.remove_stripes_fourier_wavelet(tensor(sinograms), level, wavelet, limit=limit).numpy()
    assert np.abs(expected - sinograms).max() > 0.1
    np.testing.assert_allclose(found, expected, atol=2e-5)
    row = on_device.remove_stripes_fourier_wavelet(tensor(sinograms[:, 2:3]), level, wavelet, limit=limit).numpy()
    np.testing.assert_array_equal(row[:, 0], found[:, 2])


@pytest.mark.parametrize(("start", "stop"), [(0, 90), (43, 50), (88, 90)])
def test_phase_retrieval(start: int, stop: int) -> None:
    paganin = PaganinFilter(50, pixel_size_um=2.0, energy_kev=20, distance_mm=10, delta_beta=60, row_spacing_um=3.0)
    transmissions = np.random.default_rng(4).uniform(0.2, 1.0, (5, 90, 50)).astype(np.float32)
    low, high = paganin.reach(start, stop, 90)
    assert stop - start == 90 or (low, high) != (0, 90)
    expected = paganin(transmissions[:, low:high], low, start, stop, 90)
    found = on_device.retrieve_phase(paganin, tensor(transmissions[:, low:high]), low, start, stop, 90).numpy()
    np.testing.assert_allclose(found, expected, atol=3e-6)
    assert expected.std() < 0.8 * transmissions.std()


def test_the_median_of_an_even_number_of_values_is_the_mean_of_the_middle_two() -> None:
    random = np.random.default_rng(5)
    for count in (1, 2, 7, 8, 50):
        for values in (random.normal(size=(4, count)), random.integers(0, 3, (4, count))):
            values = values.astype(np.float32)
            np.testing.assert_array_equal(on_device._median(torch.as_tensor(values)).numpy(), np.median(values, axis=1))


def test_what_cannot_be_used_is_refused_in_words() -> None:
    projections, flat, dark = (tensor(array) for array in raw_scan())
    with pytest.raises(InputError, match="same detector rows"):
        on_device.line_integrals(projections, flat[1:], dark, 0.01)
    with pytest.raises(InputError, match="same detector rows"):
        on_device.remove_zingers(projections, dark[:, 1:], 0.3)
    with pytest.raises(ParameterError, match="threshold is 0"):
        on_device.remove_zingers(projections, dark, 0)
    with pytest.raises(ParameterError, match="minimum_transmission is 0"):
        on_device.line_integrals(projections, flat, dark, 0)
    with pytest.raises(ParameterError, match="beam_hardening"):
        on_device.correct_beam_hardening(flat[None], [-1.0])
    with pytest.raises(ParameterError, match="wavelet is 'nothing'"):
        on_device.remove_stripes_fourier_wavelet(flat[None], wavelet="nothing")
    with pytest.raises(InputError, match="none of them 0"):
        on_device.remove_stripes_fourier_wavelet(flat[None][:0])
    paganin = PaganinFilter(31, pixel_size_um=2.0, energy_kev=20, distance_mm=50, delta_beta=300)
    with pytest.raises(InputError, match=r"31 columns"):
        on_device.retrieve_phase(paganin, projections[..., 1:], 0, 0, 9, 9)
    with pytest.raises(InputError, match=r"rows \[0, 9\) of 50 are given"):
        on_device.retrieve_phase(paganin, projections, 0, 0, 9, 50)
