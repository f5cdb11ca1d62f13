"""Classical denoising: the noise level it measures, what it gains, and that slices do not see each other."""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from skimage.transform import iradon

from tomopipe.functions.denoising.classical import noise_level, non_local_means, total_variation
from tomopipe.functions.disc import reconstructed_disc
from tomopipe.functions.errors import InputError

Denoise = Callable[[NDArray[np.float32], float, float], NDArray[np.float32]]
methods = pytest.mark.parametrize("denoise", [non_local_means, total_variation])


def grains(depth: int, side: int, seed: int = 0) -> NDArray[np.float32]:
    """Slices of two phases, 0.2 and 1, with grains some 15 pixels wide; 0 outside the disc."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(depth, side, side)), (0, 6, 6))
    slices = ndimage.gaussian_filter(np.where(noise > 0, 1.0, 0.2), (0, 0.5, 0.5)).astype(np.float32)
    slices[:, ~reconstructed_disc(side, side)] = 0
    return slices


def noisy(slices: NDArray[np.float32], sigma: float, seed: int = 1) -> NDArray[np.float32]:
    noise = np.random.default_rng(seed).normal(0, sigma, slices.shape) * reconstructed_disc(*slices.shape[1:])
    return (slices + noise).astype(np.float32)


def test_disc_is_the_inscribed_circle() -> None:
    for side in (1, 4, 5, 100):
        disc = reconstructed_disc(side, side)
        y, x = 2 * np.indices((side, side)) - side + 1
        assert np.array_equal(disc, y * y + x * x <= side * side)
    assert np.array_equal(reconstructed_disc(20, 20, 3.0)[3:-3, 3:-3], reconstructed_disc(14, 14))
    assert (
        reconstructed_disc(10, 30)[:, 10:20].sum()
        == reconstructed_disc(10, 10).sum()
        == reconstructed_disc(10, 30).sum()
    )


@pytest.mark.parametrize("side", [40, 256, 301])
@pytest.mark.parametrize("sigma", [1e-3, 0.1, 40.0])
def test_level_of_white_noise(side: int, sigma: float) -> None:
    slices = 7 * noisy(np.zeros((3, side, side), np.float32), 1.0) * np.float32(sigma / 7)
    slices += np.float32(100 * sigma) * reconstructed_disc(side, side)
    assert noise_level(slices) == pytest.approx(sigma, rel=0.03 if side > 100 else 0.1)


def test_structure_hardly_raises_the_level() -> None:
    for sigma in (0.05, 0.2):
        assert 0.95 * sigma < noise_level(noisy(grains(3, 256), sigma)) < 1.2 * sigma


@pytest.mark.parametrize("filter_name", ["ramp", "shepp-logan", "hann"])
def test_level_of_filtered_backprojection(filter_name: str) -> None:
    projections = np.random.default_rng(2).normal(size=(128, 180))
    image = iradon(projections, np.arange(180.0), filter_name=filter_name, circle=True).astype(np.float32)
    truth = image[reconstructed_disc(128, 128)].std()
    assert 0.8 * truth < noise_level(image[np.newaxis]) < 1.1 * truth


def test_level_is_that_of_a_typical_place() -> None:
    slices = noisy(np.zeros((2, 256, 256), np.float32), 1.0)
    slices[:, :70] *= 0.05
    slices[:, -70:] *= 3
    assert noise_level(slices) == pytest.approx(1.0, rel=0.1)


def test_noise_free_and_tiny_slices() -> None:
    assert noise_level(np.ones((1, 64, 64), np.float32)) == 0
    with pytest.raises(InputError, match="10 x 10 pixels are too small"):
        noise_level(np.ones((1, 10, 10), np.float32))


@methods
@pytest.mark.parametrize("sigma", [0.1, 0.3])
def test_noise_is_removed_and_edges_stay(denoise: Denoise, sigma: float) -> None:
    truth = grains(2, 128)
    given = noisy(truth, sigma)
    result = denoise(given, sigma, 1.0)
    inside = reconstructed_disc(128, 128, 3)

    def rms(slices: NDArray[np.float32]) -> float:
        return float(np.sqrt(np.mean((slices - truth)[:, inside] ** 2)))

    assert result.dtype == np.float32
    assert rms(result) < 0.45 * rms(given)
    assert rms(ndimage.gaussian_filter(given, (0, 1, 1))) > rms(result)
    # Without bias: the mean of each phase stays.
    for phase in (truth > 0.95, (truth < 0.25) & inside):
        assert result[phase].mean() == pytest.approx(given[phase].mean(), abs=0.15 * sigma)


@methods
def test_strength_is_in_units_of_the_noise(denoise: Denoise) -> None:
    given = noisy(grains(1, 96), 0.2)
    inside = reconstructed_disc(96, 96, 3)
    removed = [np.std((denoise(given, 0.2, strength) - given)[:, inside]) for strength in (0.3, 1.0, 2.0)]
    assert removed[0] < removed[1] < removed[2]
    # No hidden scale: another unit gives the same picture.
    assert np.array_equal(denoise(given * np.float32(64), 0.2 * 64, 1.0), denoise(given, 0.2, 1.0) * np.float32(64))


@methods
def test_every_cut_gives_the_same_bits(denoise: Denoise) -> None:
    given = noisy(grains(7, 61), 0.2)
    given[3] *= 50  # a slice unlike the others
    whole = denoise(given, 0.2, 1.0)
    for start, stop in ((0, 1), (1, 4), (4, 7), (2, 7)):
        assert np.array_equal(denoise(given[start:stop], 0.2, 1.0), whole[start:stop])
    assert np.array_equal(denoise(given[::-1], 0.2, 1.0)[::-1], whole)
    assert np.array_equal(denoise(np.asfortranarray(given), 0.2, 1.0), whole)
    threads = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        assert np.array_equal(denoise(given, 0.2, 1.0), whole)
    finally:
        numba.set_num_threads(threads)


@methods
def test_outside_the_disc_and_the_input_nothing_changes(denoise: Denoise) -> None:
    given = noisy(grains(2, 64), 0.2)
    before = given.copy()
    result = denoise(given, 0.2, 1.0)
    assert np.array_equal(given, before)
    outside = ~reconstructed_disc(64, 64)
    assert (result[:, outside] == 0).all()
    without_noise = denoise(given, 0.0, 1.0)
    assert np.array_equal(without_noise, given)
    assert without_noise is not given
