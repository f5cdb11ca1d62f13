"""Phase retrieval against the filter's definition, a propagated sample of known thickness, and any cut into slabs."""

from __future__ import annotations

import math

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tomopipe.functions.errors import InputError, ParameterError
from tomopipe.functions.preprocessing.phase import PaganinFilter, delta_beta_of_alpha, wavelength_um


def images(angles: int, rows: int, columns: int) -> NDArray[np.float32]:
    """Transmissions with edges and 2 % of noise."""
    rng = np.random.default_rng(rows + columns)
    y, x = np.mgrid[:rows, :columns]
    ellipse = ((x - columns / 2) / (columns / 3)) ** 2 + ((y - rows / 3) / (rows / 2)) ** 2 < 1
    clean = np.exp(-0.5 * ellipse - 0.2 * ((x // 7 + y // 9) % 3 == 0))
    return (clean * (1 + 0.02 * rng.standard_normal((angles, rows, columns)))).astype(np.float32)


def by_definition(image: NDArray[np.float32], paganin: PaganinFilter, pixel: float, row: float) -> NDArray[np.float64]:
    """The filter on the whole image, continued far by its edges, in double precision."""
    margin = 2 * max(paganin.reach_rows, paganin.reach_columns) + 40
    padded = np.pad(image.astype(np.float64), margin, mode="edge")
    fy, fx = np.fft.fftfreq(padded.shape[0], row)[:, None], np.fft.fftfreq(padded.shape[1], pixel)
    gain = 1 / (1 + (2 * np.pi * paganin.length_um) ** 2 * (fx**2 + fy**2))
    result = np.fft.ifft2(np.fft.fft2(padded) * gain).real
    return result[margin:-margin, margin:-margin]


@pytest.mark.parametrize(
    ("rows", "columns", "pixel", "row", "delta_beta", "error"),
    [
        (60, 90, 1.0, 1.0, 300.0, 2e-5),
        (40, 71, 1.0, 2.5, 2000.0, 2e-5),
        (33, 64, 1.5, 1.5, 20.0, 1e-4),
        (5, 30, 0.65, 0.65, 100.0, 2e-5),
    ],
)
def test_is_the_filter_by_its_definition(
    rows: int, columns: int, pixel: float, row: float, delta_beta: float, error: float
) -> None:
    paganin = PaganinFilter(
        columns, pixel_size_um=pixel, row_spacing_um=row, energy_kev=25, distance_mm=50, delta_beta=delta_beta
    )
    transmissions = images(2, rows, columns)
    result = paganin(transmissions, 0, 0, rows, rows)
    assert result.dtype == np.float32
    for angle in range(2):
        expected = by_definition(transmissions[angle], paganin, pixel, row)
        np.testing.assert_allclose(result[angle], expected, atol=error)
    assert np.abs(result - transmissions).max() > 0.1


def test_its_length_is_that_of_the_paper() -> None:
    # 12.398 keV is 1 Angstrom; delta / mu = (delta/beta) wavelength / (4 pi).
    assert wavelength_um(12.39841984332003) == pytest.approx(1e-4, rel=1e-12)
    paganin = PaganinFilter(64, pixel_size_um=1, energy_kev=12.39841984332003, distance_mm=100, delta_beta=500)
    delta_over_mu_um = 500 * 1e-4 / (4 * math.pi)
    assert paganin.length_um == pytest.approx(math.sqrt(100e3 * delta_over_mu_um), rel=1e-12)


def test_thickness_of_a_propagated_sample_is_recovered() -> None:
    """Fresnel propagation of a smooth sample of one material: transmission shows fringes, the filter takes them away."""
    n, pixel_um, energy_kev, distance_mm, delta_beta = 256, 1.0, 20.0, 20.0, 100.0
    wavelength = wavelength_um(energy_kev)
    mu = 1e-3  # 1/um
    beta = mu * wavelength / (4 * np.pi)
    y, x = np.mgrid[:n, :n] - n / 2
    radius = np.hypot(x, y)
    thickness = 60 / (1 + np.exp((radius - 70) / 3))
    field = np.exp(-2j * np.pi / wavelength * (delta_beta * beta) * thickness - mu * thickness / 2)
    f = np.fft.fftfreq(n, pixel_um)
    propagator = np.exp(-1j * np.pi * wavelength * distance_mm * 1e3 * (f[:, None] ** 2 + f**2))
    intensity = np.abs(np.fft.ifft2(np.fft.fft2(field) * propagator)) ** 2
    paganin = PaganinFilter(
        n, pixel_size_um=pixel_um, energy_kev=energy_kev, distance_mm=distance_mm, delta_beta=delta_beta
    )
    contrast = np.ascontiguousarray(-np.log(intensity), np.float32)[None]
    recovered = paganin.line_integrals(contrast, 0, 0, n, n, 1e-3)[0] / mu
    without = contrast[0] / mu
    error, fringes = recovered - thickness, without - thickness
    assert np.abs(fringes).max() > 5  # um of 60
    assert np.abs(error).max() < 0.06


@settings(deadline=None, max_examples=10)
@given(data=st.data(), delta_beta=st.sampled_from([3.0, 60.0, 900.0]))
def test_any_slab_and_any_thread_count_gives_the_same_bits(data: st.DataObject, delta_beta: float) -> None:
    rows, columns = 83, 50
    paganin = PaganinFilter(columns, pixel_size_um=1, energy_kev=20, distance_mm=30, delta_beta=delta_beta)
    transmissions = images(3, rows, columns)
    copy = transmissions.copy()
    whole = paganin(transmissions, 0, 0, rows, rows)
    np.testing.assert_array_equal(transmissions, copy)
    start = data.draw(st.integers(0, rows - 1))
    stop = data.draw(st.integers(start + 1, rows))
    low, high = paganin.reach(start, stop, rows)
    low, high = data.draw(st.integers(0, low)), data.draw(st.integers(high, rows))
    threads = numba.get_num_threads()
    numba.set_num_threads(data.draw(st.integers(1, threads)))
    try:
        slab = paganin(transmissions[:, low:high], low, start, stop, rows)
    finally:
        numba.set_num_threads(threads)
    np.testing.assert_array_equal(slab, whole[:, start:stop])
    # A projection's bits do not depend on the others either.
    np.testing.assert_array_equal(paganin(transmissions[1:2], 0, 0, rows, rows), whole[1:2])


def test_it_reaches_as_far_as_its_kernel() -> None:
    rows, columns = 201, 40
    paganin = PaganinFilter(columns, pixel_size_um=1, energy_kev=20, distance_mm=20, delta_beta=100)
    assert paganin.reach(0, rows, rows) == (0, rows)
    assert paganin.reach(100, 101, rows) == (100 - paganin.reach_rows, 101 + paganin.reach_rows)
    line = np.zeros((1, rows, columns), np.float32)
    line[0, 100] = 1
    response = paganin(line, 0, 0, rows, rows)[0, :, columns // 2]
    touched = np.flatnonzero(response)
    assert (touched[0], touched[-1]) == (100 - paganin.reach_rows, 100 + paganin.reach_rows)
    # The kernel of a line is exp(-|y| / l) / (2 l); its sum is 1.
    distance = np.abs(np.arange(rows) - 100)
    expected = np.exp(-distance / paganin.length_um) / (2 * paganin.length_um)
    np.testing.assert_allclose(response[distance > 3], expected[distance > 3], atol=2e-3 * expected.max())
    assert response.sum() == pytest.approx(1, abs=1e-5)


def test_what_is_constant_stays() -> None:
    paganin = PaganinFilter(50, pixel_size_um=1, energy_kev=20, distance_mm=50, delta_beta=1000)
    flat = np.full((1, 40, 50), 0.7, np.float32)
    np.testing.assert_allclose(paganin(flat, 0, 0, 40, 40), flat, rtol=1e-6)
    integrals = paganin.line_integrals(-np.log(flat), 0, 3, 9, 40, 1e-3)
    np.testing.assert_allclose(integrals, -np.log(flat)[:, 3:9], rtol=1e-4)
    opaque = np.full((1, 40, 50), 20.0, np.float32)
    np.testing.assert_allclose(paganin.line_integrals(opaque, 0, 0, 40, 40, 1e-2), -np.log(1e-2), rtol=1e-5)


def test_agrees_with_tomopy() -> None:
    tomopy = pytest.importorskip("tomopy")
    transmissions = images(1, 128, 256)
    options = {"pixel_size_um": 1.0, "energy_kev": 20.0, "distance_mm": 500.0}
    paganin = PaganinFilter(256, delta_beta=delta_beta_of_alpha(1e-3), **options)
    theirs = tomopy.retrieve_phase(transmissions.copy(), pixel_size=1e-4, dist=50, energy=20, alpha=1e-3, ncore=1)
    # TomoPy's grid of frequencies lies half a sample beside 0: it differs the less the larger its padded projection is.
    np.testing.assert_allclose(paganin(transmissions, 0, 0, 128, 128), theirs, atol=2e-3)
    assert np.std(paganin(transmissions, 0, 0, 128, 128) - theirs) < 5e-4


def test_alpha_of_tomopy() -> None:
    assert delta_beta_of_alpha(1e-3) == pytest.approx(1 / (4 * math.pi**2 * 1e-3))
    with pytest.raises(ParameterError, match="alpha is 0"):
        delta_beta_of_alpha(0)


def test_bad_arguments_are_refused() -> None:
    options = {"pixel_size_um": 1.0, "energy_kev": 20.0, "distance_mm": 50.0, "delta_beta": 100.0}
    for name in options:
        with pytest.raises(ParameterError, match=f"{name} is -1"):
            PaganinFilter(50, **(options | {name: -1.0}))
    with pytest.raises(ParameterError, match="row_spacing_um"):
        PaganinFilter(50, **options, row_spacing_um=float("nan"))
    paganin = PaganinFilter(50, **options)
    transmissions = images(1, 60, 50)
    with pytest.raises(InputError, match="50 columns"):
        paganin(transmissions[..., :49], 0, 0, 60, 60)
    with pytest.raises(InputError, match="50 columns"):
        paganin(transmissions[0], 0, 0, 60, 60)
    with pytest.raises(InputError, match=r"rows \[20, 30\) need \["):
        paganin(transmissions[:, 20:30], 20, 20, 30, 60)
    with pytest.raises(InputError, match=r"rows \[50, 70\)"):
        paganin(transmissions, 0, 50, 70, 60)


def test_a_filter_longer_than_a_third_of_the_width_is_refused_at_once() -> None:
    with pytest.raises(ParameterError, match=r"distance_mm 1e\+06.*pixels long.*check their units"):
        PaganinFilter(128, pixel_size_um=0.5, energy_kev=25, distance_mm=1e6, delta_beta=1e7)
