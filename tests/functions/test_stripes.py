"""Stripe removal against a plain transcription of the paper, on known stripes, and on samples without any."""

from __future__ import annotations

import warnings

import numba
import numpy as np
import pytest
import pywt
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tomopipe.functions.errors import InputError, ParameterError
from tomopipe.functions.preprocessing import stripes_fourier_wavelet
from tomopipe.functions.preprocessing.stripes import (
    STRIPE_METHODS,
    StripeSettings,
    default_level,
    remove_stripe_fw,
    remove_stripes,
    remove_stripes_fourier_wavelet,
    remove_stripes_large,
    remove_stripes_sorting,
    remove_stripes_titarenko,
)


def sample(angles: int, columns: int, rows: int = 1, seed: int = 0) -> NDArray[np.float32]:
    """Exact line integrals of a few discs off the rotation axis, at most about 1."""
    rng = np.random.default_rng(seed)
    theta = np.arange(angles)[:, None] * np.pi / angles
    t = np.arange(columns) - (columns - 1) / 2
    out = np.zeros((angles, rows, columns))
    for row in range(rows):
        for _ in range(12):
            radius = columns * rng.uniform(0.05, 0.12)
            distance, phase = columns * rng.uniform(0.05, 0.3), rng.uniform(0, 2 * np.pi)
            out[:, row] += 2 * np.sqrt(np.maximum(radius**2 - (t - distance * np.cos(theta - phase)) ** 2, 0))
    return (out / out.max()).astype(np.float32)


def stripes(columns: int, seed: int = 1) -> NDArray[np.float32]:
    """A tenth of the columns is off by 3 % or so."""
    rng = np.random.default_rng(seed)
    offsets = np.zeros(columns, np.float32)
    offsets[rng.choice(columns, columns // 10, replace=False)] = 0.03 * rng.standard_normal(columns // 10)
    return offsets


def as_in_the_paper(sinogram: NDArray[np.float32], level: int, wavelet: str, sigma: float) -> NDArray[np.float64]:
    """Münch et al. (2009): decompose, damp the vertical details along the angles, recompose; in double precision."""
    margin = len(sinogram) // 8
    padded = np.pad(sinogram.astype(np.float64), ((margin, margin), (0, 0)), mode="symmetric")
    coefficients = pywt.wavedec2(padded, wavelet, mode="symmetric", level=level)
    for k in range(1, level + 1):
        horizontal, vertical, diagonal = coefficients[k]
        frequency = np.fft.fftfreq(len(vertical), 1 / len(vertical))
        damping = 1 - np.exp(-(frequency**2) / (2 * sigma**2))
        vertical = np.fft.ifft(np.fft.fft(vertical, axis=0) * damping[:, None], axis=0).real
        coefficients[k] = (horizontal, vertical, diagonal)
    angles, columns = sinogram.shape
    return pywt.waverec2(coefficients, wavelet, mode="symmetric")[margin : margin + angles, :columns]


def as_in_tomopy(
    sinogram: NDArray[np.float32], level: int, wavelet: str, sigma: float, pad: bool
) -> NDArray[np.float64]:
    """The same by TomoPy's conventions: zeros at both ends, and the axis of frequencies that it damps along."""
    angles, columns = sinogram.shape
    length = angles + angles // 8 if pad else angles
    first = (length - angles) // 2
    approximation = np.zeros((length, columns))
    approximation[first : first + angles] = sinogram
    details = []
    for _ in range(level):
        approximation, bands = pywt.dwt2(approximation, wavelet)
        details.append(list(bands))
    for bands in details:
        count = len(bands[1])
        distance = np.arange(count) - (count - 1) / 2  # half a period off the middle where the count is even
        spectrum = np.fft.fftshift(np.fft.fft(bands[1], axis=0), axes=0)
        spectrum *= (1 - np.exp(-(distance**2) / (2 * sigma**2)))[:, None]
        bands[1] = np.fft.ifft(np.fft.ifftshift(spectrum, axes=0), axis=0).real
    for bands in reversed(details):
        rows, width = bands[0].shape
        approximation = pywt.idwt2((approximation[:rows, :width], tuple(bands)), wavelet)
    return approximation[first : first + angles, :columns]


@pytest.mark.parametrize(
    ("angles", "columns", "level", "wavelet", "sigma"),
    [(90, 128, 2, "db5", 2.0), (91, 161, 3, "sym16", 1.0), (181, 200, 4, "db5", 3.0), (7, 33, 1, "haar", 2.0)],
)
@pytest.mark.filterwarnings("ignore:Level value of:UserWarning")
def test_is_the_filter_of_the_paper(angles: int, columns: int, level: int, wavelet: str, sigma: float) -> None:
    projections = sample(angles, columns) + stripes(columns)
    result = remove_stripes_fourier_wavelet(projections, level, wavelet, sigma, limit=None)
    assert result.dtype == np.float32
    expected = as_in_the_paper(projections[:, 0], level, wavelet, sigma)
    np.testing.assert_allclose(result[:, 0], expected, atol=3e-6)


@settings(deadline=None, max_examples=12)
@given(
    angles=st.integers(3, 70),
    columns=st.integers(4, 70),
    level=st.integers(1, 4),
    wavelet=st.sampled_from(["haar", "db5", "sym16", "bior2.4"]),
    sigma=st.floats(0.3, 30),
)
def test_is_the_filter_of_the_paper_for_any_size(
    angles: int, columns: int, level: int, wavelet: str, sigma: float
) -> None:
    projections = np.random.default_rng(angles).random((angles, 1, columns), np.float32)
    result = remove_stripes_fourier_wavelet(projections, level, wavelet, sigma, limit=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # PyWavelets' remark that many levels are few columns each
        expected = as_in_the_paper(projections[:, 0], level, wavelet, sigma)
    np.testing.assert_allclose(result[:, 0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("angles", "columns", "level", "wavelet", "sigma", "pad"),
    [(90, 128, None, "db5", 2.0, True), (91, 161, 7, "sym16", 1.0, True), (40, 33, 3, "haar", 5.0, False)],
)
def test_tomopys_function_has_its_semantics(
    angles: int, columns: int, level: int | None, wavelet: str, sigma: float, pad: bool
) -> None:
    projections = sample(angles, columns, rows=2) + stripes(columns)
    result = remove_stripe_fw(projections, level, wavelet, sigma, pad)
    levels = level or int(np.ceil(np.log2(max(angles, columns))))
    for row in range(2):
        expected = as_in_tomopy(projections[:, row], levels, wavelet, sigma, pad)
        np.testing.assert_allclose(result[:, row], expected, atol=5e-6)


def test_agrees_with_tomopy() -> None:
    tomopy = pytest.importorskip("tomopy")
    projections = sample(90, 128, rows=2) + stripes(128)
    for options in ({}, {"level": 5, "wname": "sym16", "sigma": 1}, {"pad": False}):
        theirs = tomopy.prep.stripe.remove_stripe_fw(projections.copy(), ncore=1, **options)
        np.testing.assert_allclose(remove_stripe_fw(projections, **options), theirs, atol=5e-6)


def test_few_functions_of_the_angle_span_what_is_removed() -> None:
    plan = stripes_fourier_wavelet.filter_plan(360, 3, "sym16", 1.0, "mirrored")
    assert plan.analysis.shape[1] == plan.synthesis.shape[0] == 360
    assert max(plan.analysis.shape[0], plan.synthesis.shape[1]) <= 32


def test_product_of_matrices() -> None:
    rng = np.random.default_rng(4)
    for rows, terms, columns in ((4, 8, 5), (12, 68, 300), (68, 4, 1)):
        left = rng.standard_normal((rows, terms)).astype(np.float32)
        right = rng.standard_normal((terms, columns)).astype(np.float32)
        expected = left.astype(np.float64) @ right
        np.testing.assert_allclose(stripes_fourier_wavelet._product(left, right), expected, atol=1e-4)


def test_median_of_sizes_is_numpys() -> None:
    rng = np.random.default_rng(5)
    skewed = np.zeros(97 * 40, np.float32)  # its sample, every 97th, says nothing of the others
    skewed[np.arange(skewed.size) % 97 != 0] = rng.random(np.count_nonzero(np.arange(skewed.size) % 97))
    for values in (rng.standard_normal(10_001), rng.standard_normal(4), np.zeros(500), np.ones(1), skewed):
        values = values.astype(np.float32)
        assert stripes_fourier_wavelet._median_size(values) == np.median(np.abs(values))


@pytest.mark.parametrize(("columns", "left_at_most"), [(128, 0.75), (360, 0.75), (640, 0.62)])
def test_stripes_are_reduced_at_every_angle(columns: int, left_at_most: float) -> None:
    clean = sample(181, columns)
    offsets = stripes(columns)
    left = remove_stripes_fourier_wavelet(clean + offsets) - remove_stripes_fourier_wavelet(clean)
    assert np.std(left) < left_at_most * np.std(offsets)
    for end in (left[:3], left[-3:]):
        assert np.std(end) < left_at_most * np.std(offsets)


@pytest.mark.parametrize("columns", [128, 360, 640])
def test_a_sample_without_stripes_is_nearly_untouched(columns: int) -> None:
    clean = sample(181, columns)
    change = remove_stripes_fourier_wavelet(clean) - clean
    assert np.std(change) < 0.02 * np.std(clean)
    assert np.abs(np.mean(change)) < 2e-5
    # What the default avoids: two levels more shade the sample several times as much.
    deeper = remove_stripes_fourier_wavelet(clean, default_level(columns) + 2) - clean
    assert np.std(deeper) > 2.5 * np.std(change)


def test_the_edges_of_a_concentric_sample_stay() -> None:
    t = np.arange(320) - 159.5
    disc = 2 * np.sqrt(np.maximum(130.0**2 - t**2, 0)) / 260
    offsets = stripes(320)
    offsets[:40] = offsets[-40:] = 0
    noise = np.random.default_rng(2).normal(0, 0.01, (180, 320))
    projections = (disc + noise + offsets).astype(np.float32)[:, None]
    edge = np.abs(np.abs(t) - 130) < 8
    published = remove_stripes_fourier_wavelet(projections, limit=None) - projections
    limited = remove_stripes_fourier_wavelet(projections) - projections
    assert np.abs(limited[..., edge]).max() < 0.65 * np.abs(published[..., edge]).max()
    np.testing.assert_allclose(limited[..., 60:-60], published[..., 60:-60], atol=0.03)


def test_smooth_shading_keeps_its_values() -> None:
    t = np.linspace(-1, 1, 400, dtype=np.float32)
    smooth = np.broadcast_to(np.cos(2 * t), (120, 1, 400)).astype(np.float32)
    np.testing.assert_allclose(remove_stripes_fourier_wavelet(smooth)[:, :, 40:-40], smooth[:, :, 40:-40], atol=1e-4)


def test_default_level_keeps_the_scale_below_an_eightieth_of_the_width() -> None:
    assert [default_level(n) for n in (10, 64, 128, 160, 320, 640, 1024, 2048, 2560)] == [1, 1, 1, 1, 2, 3, 3, 4, 5]
    projections = sample(60, 320)
    np.testing.assert_array_equal(
        remove_stripes_fourier_wavelet(projections), remove_stripes_fourier_wavelet(projections, level=2)
    )


@pytest.mark.parametrize("method", STRIPE_METHODS)
def test_any_cut_into_rows_and_any_thread_count_gives_the_same_bits(method: str) -> None:
    noise = np.random.default_rng(6).normal(0, 0.01, (61, 7, 97))
    projections = (sample(61, 97, rows=7) + stripes(97) + noise).astype(np.float32)
    copy = projections.copy()
    chosen = StripeSettings(method)
    whole = remove_stripes(projections, chosen)
    np.testing.assert_array_equal(projections, copy)
    assert whole.shape == projections.shape
    assert whole.dtype == np.float32
    for start, stop in ((0, 1), (1, 4), (4, 7)):
        np.testing.assert_array_equal(remove_stripes(projections[:, start:stop], chosen), whole[:, start:stop])
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        np.testing.assert_array_equal(remove_stripes(projections, chosen), whole)
    finally:
        numba.set_num_threads(threads)


def test_settings_reach_the_methods() -> None:
    noise = np.random.default_rng(7).normal(0, 0.03, (60, 1, 80))
    noise[:, :, 33] *= 50  # a column for the method against dead ones
    projections = (sample(60, 80) + stripes(80) + noise).astype(np.float32)
    same = np.testing.assert_array_equal
    same(remove_stripes(projections), remove_stripes_fourier_wavelet(projections))
    same(
        remove_stripes(projections, StripeSettings("fourier_wavelet", 2, "db5", 3.0, None)),
        remove_stripes_fourier_wavelet(projections, 2, "db5", 3.0, None),
    )
    same(
        remove_stripes(projections, StripeSettings("tomopy_fw", 3, "sym16", 1.0)),
        remove_stripe_fw(projections, 3, "sym16", 1.0),
    )
    same(
        remove_stripes(projections, StripeSettings("vo_sorting", small_size=9)), remove_stripes_sorting(projections, 9)
    )
    same(
        remove_stripes(projections, StripeSettings("vo_large", snr=2.0, large_size=31, drop_ratio=0.2)),
        remove_stripes_large(projections, 2.0, 31, 0.2),
    )
    same(
        remove_stripes(projections, StripeSettings("titarenko", alpha=0.3, blocks=3)),
        remove_stripes_titarenko(projections, 0.3, 3),
    )
    assert remove_stripes(projections, StripeSettings("none")) is projections
    results = [remove_stripes(projections, StripeSettings(method)) for method in STRIPE_METHODS]
    assert len({result.tobytes() for result in results}) == len(results)
    with pytest.raises(ParameterError, match="vo_all"):
        remove_stripes(projections, StripeSettings("munch"))


def test_removes_as_much_as_algotom() -> None:
    removal = pytest.importorskip("algotom.prep.removal")
    clean = sample(180, 320)[:, 0]
    offsets = stripes(320)
    theirs = removal.remove_stripe_based_wavelet_fft(clean + offsets, level=3, size=5, wavelet_name="db5")
    ours = remove_stripes_fourier_wavelet((clean + offsets)[:, None], 3, "db5", 2.0, None)[:, 0]
    inner = np.s_[10:-10]
    assert np.std((ours - clean)[inner]) < 1.05 * np.std((theirs - clean)[inner])


def test_bad_arguments_are_refused() -> None:
    projections = sample(20, 32)
    with pytest.raises(ParameterError, match="level"):
        remove_stripes_fourier_wavelet(projections, level=0)
    with pytest.raises(ParameterError, match="sigma"):
        remove_stripes_fourier_wavelet(projections, sigma=0)
    with pytest.raises(ParameterError, match="wavelet"):
        remove_stripes_fourier_wavelet(projections, wavelet="morl")
    with pytest.raises(InputError, match="shape"):
        remove_stripes_fourier_wavelet(projections[0])
    with pytest.raises(InputError, match="shape"):
        remove_stripes_fourier_wavelet(projections[:, :0])
