"""Resolution of pairs of noisy pictures whose spectra are known."""

import numpy as np
import pytest

from tomopipe.functions.errors import InputError
from tomopipe.functions.quantification.resolution import fourier_ring_correlation

CUT_OFF = 0.15
"""Frequency, in periods a pixel, at which the sample's spectrum has fallen by exp(-1)."""


def frequencies(shape):
    axes = np.meshgrid(*[np.fft.fftfreq(n) for n in shape], indexing="ij")
    return np.sqrt(sum(axis**2 for axis in axes))


def pictures(shape, power, noise, seed, number=1):
    """Two noisy copies of random pictures with a power spectrum; the noise is white, of variance `noise` in each."""
    random = np.random.default_rng(seed)
    amplitude = np.sqrt(power(frequencies(shape)))
    fields = random.normal(size=(number, *shape))
    axes = tuple(range(1, len(shape) + 1))
    sample = np.fft.ifftn(np.fft.fftn(fields, axes=axes) * amplitude, axes=axes).real
    copies = (sample + np.sqrt(noise) * random.normal(size=sample.shape) for _ in range(2))
    return [np.ascontiguousarray(copy, np.float32) for copy in copies]


def gaussian(frequency):
    return np.exp(-((frequency / CUT_OFF) ** 2))


def expected(found, noise):
    """Period at which the closed form, power / (power + noise), meets the threshold that was used."""
    curve = gaussian(found.frequency_per_unit) / (gaussian(found.frequency_per_unit) + noise)
    return 1 / found.frequency_per_unit[np.flatnonzero(curve < found.threshold)[0]]


@pytest.mark.parametrize("noise", [0.3, 0.02, 0.002])
def test_rings_find_where_the_sample_drowns_in_noise(noise):
    first, second = pictures((256, 256), gaussian, noise, 1, number=4)
    found = fourier_ring_correlation(first + 7, second - 3)
    assert found.resolution == pytest.approx(expected(found, noise), rel=0.03)
    curve = gaussian(found.frequency_per_unit) / (gaussian(found.frequency_per_unit) + noise)
    assert np.abs(found.correlation - curve)[5:].max() < 0.25
    assert np.abs(found.correlation - curve)[20:].mean() < 0.03
    # Far from low frequencies the half-bit threshold comes near to 0.1716.
    assert 0.17 < found.threshold[-1] < 0.25


def test_a_sharp_band_limit_is_found():
    def band(frequency):
        return (frequency < 0.2).astype(float)

    first, second = pictures((512, 512), band, 1e-2, 3, number=2)
    assert fourier_ring_correlation(first, second).resolution == pytest.approx(1 / 0.2, rel=0.03)


def test_noise_has_no_resolution_and_equal_pictures_have_no_limit():
    first, second = pictures((128, 128), np.zeros_like, 1.0, 4, number=4)
    noise = fourier_ring_correlation(first, second)
    assert noise.resolution is None
    assert np.abs(noise.correlation[10:]).max() < 0.2
    equal = fourier_ring_correlation(first, first)
    assert equal.resolution is None
    np.testing.assert_allclose(equal.correlation, 1, atol=1e-6)
    np.testing.assert_allclose(fourier_ring_correlation(first, -first).correlation, -1, atol=1e-6)


def test_the_outline_of_the_disc_is_no_resolution():
    y, x = np.mgrid[:128, :128] - 63.5
    inside = y**2 + x**2 < 64**2
    first, second = (copy * inside for copy in pictures((128, 128), np.zeros_like, 1.0, 5, number=3))
    assert fourier_ring_correlation(first + 50 * inside, second + 50 * inside).resolution is None
    beyond = first.copy()
    beyond[:, ~inside] = 1e6
    assert fourier_ring_correlation(beyond, second).correlation == pytest.approx(
        fourier_ring_correlation(first, second).correlation
    )


def test_units_scale_frequencies():
    first, second = pictures((128, 128), gaussian, 0.02, 6, number=2)
    pixels, micrometres = fourier_ring_correlation(first, second), fourier_ring_correlation(first, second, 0.65)
    np.testing.assert_allclose(micrometres.frequency_per_unit, pixels.frequency_per_unit / 0.65)
    assert micrometres.resolution == pytest.approx(0.65 * pixels.resolution)
    np.testing.assert_allclose(micrometres.correlation, pixels.correlation)


def test_turned_and_mirrored_pictures_give_the_same():
    first, second = pictures((90, 101), gaussian, 0.05, 9, number=2)
    found = fourier_ring_correlation(first, second)
    for turn in (lambda p: p[:, ::-1], lambda p: p.transpose(0, 2, 1), lambda p: p[::-1, :, ::-1]):
        turned = fourier_ring_correlation(turn(first), turn(second))
        np.testing.assert_allclose(turned.correlation, found.correlation, atol=1e-5)
        assert turned.resolution == pytest.approx(found.resolution, rel=1e-4)
    swapped = fourier_ring_correlation(second, first)
    np.testing.assert_array_equal(swapped.correlation, found.correlation)


def test_counts_are_the_independent_coefficients():
    first, second = pictures((64, 64), gaussian, 0.05, 10)
    one = fourier_ring_correlation(first, second)
    three = fourier_ring_correlation(np.repeat(first, 3, 0), np.repeat(second, 3, 0))
    # Half of the coefficients of a ring, and of them what lies in the disc.
    ring = np.rint(frequencies((64, 64)) * 64) == 20
    assert 0.3 * ring.sum() / 2 < one.counts[19] < np.pi / 4 * ring.sum() / 2
    np.testing.assert_allclose(three.counts, 3 * one.counts, atol=2)
    assert (three.threshold <= one.threshold).all()


def test_pictures_without_contrast_or_size_have_none():
    flat = np.full((2, 32, 32), 3.5, np.float32)
    found = fourier_ring_correlation(flat, flat)
    assert found.resolution is None
    assert not found.correlation.any()
    for shape in ((0, 32, 32), (2, 7, 32)):
        nothing = fourier_ring_correlation(np.zeros(shape, np.float32), np.zeros(shape, np.float32))
        assert nothing.resolution is None
        assert nothing.frequency_per_unit.size == nothing.correlation.size == nothing.threshold.size == 0


def test_what_does_not_fit_is_refused():
    flat = np.ones((2, 32, 32), np.float32)
    with pytest.raises(InputError, match="shape"):
        fourier_ring_correlation(flat, flat[1:])
    with pytest.raises(InputError, match="shape"):
        fourier_ring_correlation(flat[0], flat[0])
    holed = flat.copy()
    holed[1, 3, 4] = np.nan
    with pytest.raises(InputError, match="finite"):
        fourier_ring_correlation(flat, holed)
