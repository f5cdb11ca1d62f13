"""Stripe removal against a plain transcription of the paper, on known stripes, and on samples without any."""

from __future__ import annotations

import numba
import numpy as np
import pytest
import pywt
from numpy.typing import NDArray

from tomopipe.functions.errors import InputError, ParameterError
from tomopipe.functions.preprocessing.stripes import default_level, remove_stripes_fourier_wavelet


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


def test_any_cut_into_rows_and_any_thread_count_gives_the_same_bits() -> None:
    projections = sample(61, 97, rows=7) + stripes(97)
    copy = projections.copy()
    whole = remove_stripes_fourier_wavelet(projections)
    np.testing.assert_array_equal(projections, copy)
    for start, stop in ((0, 1), (1, 4), (4, 7)):
        np.testing.assert_array_equal(remove_stripes_fourier_wavelet(projections[:, start:stop]), whole[:, start:stop])
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        np.testing.assert_array_equal(remove_stripes_fourier_wavelet(projections), whole)
    finally:
        numba.set_num_threads(threads)


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
