"""Noise, contrast and grey values of volumes with known statistics."""

import numpy as np
import pytest

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
    assert {"noise_sigma_per_cm", "contrast_to_noise_ratio_1_2", "phase_1_mean_per_cm"} <= set(metrics)
    assert all(isinstance(value, float) and np.isfinite(value) for value in metrics.values())


def test_what_cannot_be_measured_is_absent():
    grey = np.ones((1, 20, 20), np.float32)
    phases = np.ones((1, 20, 20), np.uint8)
    quality = measure_image_quality(grey, phases, (0, 2))
    assert quality.noise_sigma is None
    assert quality.contrast_to_noise == {}
    assert set(quality.metrics("per_pixel")) == {"phase_1_mean_per_pixel", "phase_1_std_per_pixel"}
    two = measure_image_quality(
        np.repeat(grey, 2, 0), np.array([[[1]], [[2]]], np.uint8).repeat(20, 1).repeat(20, 2), (0, 2)
    )
    assert two.contrast_to_noise == {}
    assert two.noise_sigma is None


def test_mismatch_is_refused(volumes):
    grey, phases = volumes
    with pytest.raises(InputError, match="shape"):
        measure_image_quality(grey[1:], phases, (0, 1))
    with pytest.raises(InputError, match="range"):
        measure_image_quality(grey, phases, (1, 1))
