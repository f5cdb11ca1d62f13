"""Noise, rings, contrast and grey values of volumes with known statistics."""

import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from tomopipe.functions.errors import InputError
from tomopipe.functions.quantification.image_quality import measure_image_quality

SIGMA = 0.3
MEANS = np.array([0.0, 1.0, 2.5, 4.0])


@pytest.fixture(scope="module")
def volumes():
    phases = np.full((40, 64, 60), 2, np.uint8)
    phases[:, 20:40, 15:45] = 1
    phases[:, 45:60, 10:50] = 3
    phases[:, :4] = 0
    noise = np.random.default_rng(0).normal(0, SIGMA, phases.shape)
    return (MEANS[phases] + noise).astype(np.float32), phases


def test_noise_contrast_and_means(volumes):
    quality = measure_image_quality(*volumes, (-1, 5))
    assert quality.noise_sigma == pytest.approx(SIGMA, rel=0.02)
    assert set(quality.phases) == {1, 2, 3}
    for phase, grey in quality.phases.items():
        assert grey.mean == pytest.approx(MEANS[phase], abs=0.01)
        assert grey.std == pytest.approx(SIGMA, rel=0.02)
    assert quality.contrast_to_noise[1, 2] == pytest.approx(1.5 / SIGMA, rel=0.02)
    assert set(quality.contrast_to_noise) == {(1, 2), (2, 3)}


def test_structure_is_no_noise(volumes):
    grey, phases = volumes
    shaded = grey + np.linspace(0, 3, grey.shape[2], dtype=np.float32)
    quality = measure_image_quality(shaded, phases, (-1, 8))
    assert quality.noise_sigma == pytest.approx(SIGMA, rel=0.02)
    assert quality.phases[2].std > 2 * SIGMA


def test_histogram_counts_every_sampled_voxel(volumes):
    grey, phases = volumes
    quality = measure_image_quality(grey, phases, (0.5, 2.0), bins=10, sampled_slices=40)
    assert quality.slices == tuple(range(40))
    for phase in range(4):
        values = np.clip(grey[phases == phase], 0.5, np.nextafter(np.float32(2), np.float32(0)))
        np.testing.assert_allclose(quality.counts[phase], np.histogram(values, quality.edges)[0], atol=2)
        assert quality.counts[phase].sum() == (phases == phase).sum()


def test_sample_is_fixed_and_even(volumes):
    quality = measure_image_quality(*volumes, (-1, 5), sampled_slices=4)
    assert quality.slices == (5, 15, 25, 35)
    again = measure_image_quality(*volumes, (-1, 5), sampled_slices=4)
    assert quality.phases == again.phases
    assert quality.noise_sigma == again.noise_sigma


def test_metrics_are_flat_and_named_with_their_unit(volumes):
    metrics = measure_image_quality(*volumes, (-1, 5)).metrics("per_cm")
    assert {"noise_sigma_per_cm", "ring_level_per_cm", "contrast_to_noise_ratio_1_2", "phase_1_mean_per_cm"} <= set(
        metrics
    )
    assert all(isinstance(value, float) and np.isfinite(value) for value in metrics.values())


def test_what_cannot_be_measured_is_absent():
    grey = np.ones((1, 20, 20), np.float32)
    phases = np.ones((1, 20, 20), np.uint8)
    quality = measure_image_quality(grey, phases, (0, 2))
    assert quality.noise_sigma is None
    assert quality.ring_level is None
    assert quality.uncertain_percent is None
    assert quality.contrast_to_noise == {}
    assert set(quality.metrics("per_pixel")) == {"phase_1_mean_per_pixel", "phase_1_std_per_pixel"}
    two = measure_image_quality(
        np.repeat(grey, 2, 0), np.array([[[1]], [[2]]], np.uint8).repeat(20, 1).repeat(20, 2), (0, 2)
    )
    assert two.contrast_to_noise == {}
    assert two.noise_sigma is None
    empty = measure_image_quality(grey, np.zeros_like(phases), (0, 2), thresholds=[1.0])
    assert empty.ring_level is None
    assert set(empty.metrics("per_pixel")) == set()


WIDTH = 200
RADIUS = np.hypot(*(np.mgrid[:WIDTH, :WIDTH] - (WIDTH - 1) / 2))


@pytest.fixture(scope="module")
def round_sample():
    """Grains of two phases in a cylinder about the axis, blurred as a reconstruction is."""
    random = np.random.default_rng(4)
    field = gaussian_filter(random.normal(size=(6, WIDTH, WIDTH)), (2, 5, 5))
    phases = np.where(field > 0, 2, 1).astype(np.uint8)
    phases[:, RADIUS > WIDTH / 2 - 5] = 0
    return gaussian_filter(MEANS[phases], (0, 0.7, 0.7)), phases


def rings(phases, half_turn=False):
    """Rings of random height at each radius, other ones in each slice, with a root mean square of 1 in the sample."""
    random = np.random.default_rng(2)
    height = np.array([random.normal(size=(2, WIDTH))[:, RADIUS.astype(int)] for _ in phases])
    side = np.zeros(WIDTH, int)
    side[: WIDTH // 2] = half_turn
    found = np.where(side[:, np.newaxis] == 0, height[:, 0], height[:, 1])
    return found / np.sqrt(np.mean(found[phases > 0] ** 2))


def ring_level(grey, phases):
    return measure_image_quality(grey.astype(np.float32), phases, (-1, 5)).ring_level


@pytest.mark.parametrize("sigma", [0.0, 0.1])
def test_ring_level_is_the_height_of_the_rings(round_sample, sigma):
    sample, phases = round_sample
    noisy = sample + sigma * np.random.default_rng(5).normal(size=sample.shape)
    pattern = rings(phases)
    for height in (0.04, 0.1, 0.4):
        assert ring_level(noisy + height * pattern, phases) == pytest.approx(height, rel=0.06)
    assert ring_level(noisy + 0.1 * rings(phases, half_turn=True), phases) == pytest.approx(0.087, rel=0.08)


def test_what_is_no_ring_does_not_count(round_sample):
    sample, phases = round_sample
    random = np.random.default_rng(6)
    noise = random.normal(size=sample.shape)
    assert ring_level(sample, phases) < 0.01
    assert ring_level(sample + 0.3 * noise, phases) < 0.02
    # Cupping, texture inside the grains, and stripes along an axis.
    assert ring_level(sample + 0.5 * (RADIUS / WIDTH) ** 2, phases) < 0.01
    texture = gaussian_filter(noise, (1, 2, 2))
    assert ring_level(sample + 0.2 * texture / texture.std(), phases) < 0.02
    assert ring_level(sample + 0.2 * random.normal(size=WIDTH), phases) < 0.02


def test_rings_about_another_point_do_not_count(round_sample):
    sample, phases = round_sample
    pattern = rings(phases)
    shifted = np.roll(pattern, (30, -30), (1, 2))
    assert ring_level(sample + 0.2 * shifted, phases) < 0.25 * ring_level(sample + 0.2 * pattern, phases)


def test_uncertain_voxels_lie_within_sigma_of_a_threshold(volumes):
    grey, phases = volumes
    quality = measure_image_quality(grey, phases, (-1, 5), sampled_slices=40, thresholds=[1.9, 3.2])

    def within(mean, threshold):
        low, high = ((threshold + sign * SIGMA - mean) / SIGMA for sign in (-1, 1))
        return 0.5 * (math.erf(high / math.sqrt(2)) - math.erf(low / math.sqrt(2)))

    inside = phases[phases > 0]
    expected = 100 * sum(np.mean(inside == p) * within(MEANS[p], t) for p in (1, 2, 3) for t in (1.9, 3.2))
    assert quality.uncertain_percent == pytest.approx(expected, rel=0.05)
    assert quality.metrics("per_cm")["uncertain_percent"] == quality.uncertain_percent
    # Near two thresholds a voxel counts once.
    twice = measure_image_quality(grey, phases, (-1, 5), sampled_slices=40, thresholds=[1.9, 3.2, 1.9])
    assert twice.uncertain_percent == quality.uncertain_percent
    assert measure_image_quality(grey, phases, (-1, 5)).uncertain_percent is None


def test_mismatch_is_refused(volumes):
    grey, phases = volumes
    with pytest.raises(InputError, match="shape"):
        measure_image_quality(grey[1:], phases, (0, 1))
    with pytest.raises(InputError, match="range"):
        measure_image_quality(grey, phases, (1, 1))
