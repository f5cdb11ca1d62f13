"""Thresholds and the sample's region: against known mixtures and phantoms of known porosity."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from tomopipe.functions.disc import reconstructed_disc
from tomopipe.functions.segmentation.region import label_phases, sample_region
from tomopipe.functions.segmentation.thresholds import apply_thresholds, multi_otsu_thresholds
from tomopipe.functions.simulation.phantoms import PORE, make_phantom, rasterize_attenuation


def mixture(*means: float, sigma: float = 0.1) -> NDArray[np.float32]:
    """Slices whose values are drawn around the means; 0 outside the disc."""
    rng = np.random.default_rng(0)
    slices = rng.choice(means, size=(4, 80, 80)) + rng.normal(0, sigma, (4, 80, 80))
    return (slices * reconstructed_disc(80, 80)).astype(np.float32)


@pytest.mark.parametrize("means", [(1.0, 2.0), (1.0, 2.0, 3.0), (-2.0, 0.0, 1.0, 5.0)])
def test_thresholds_lie_between_the_phases(means: tuple[float, ...]) -> None:
    thresholds = multi_otsu_thresholds(mixture(*means), len(means))
    assert thresholds == pytest.approx([(a + b) / 2 for a, b in pairwise(means)], abs=0.02)
    assert all(isinstance(threshold, float) for threshold in thresholds)


def test_what_is_outside_the_disc_or_the_region_does_not_count() -> None:
    slices = mixture(1.0, 2.0)
    expected = multi_otsu_thresholds(slices, 2)
    loud = slices.copy()
    loud[:, ~reconstructed_disc(80, 80)] = 50
    assert multi_otsu_thresholds(loud, 2) == expected
    region = np.zeros((80, 80), np.bool_)
    region[20:60, 20:60] = True
    loud = slices.copy()
    loud[:, ~region] = 50
    assert multi_otsu_thresholds(loud, 2, region) == pytest.approx(expected, abs=0.02)


def test_a_few_outliers_do_not_coarsen_the_thresholds() -> None:
    slices = mixture(1.0, 2.0)
    slices[0, 40, 30:34] = [1e4, -1e4, 3e5, 1e6]
    assert multi_otsu_thresholds(slices, 2) == pytest.approx([1.5], abs=0.02)


def test_too_few_grey_values_are_refused() -> None:
    with pytest.raises(ValueError, match=r"has 1 distinct grey values?, 2 phases"):
        multi_otsu_thresholds(np.ones((1, 40, 40), np.float32), 2)
    two = np.ones((1, 40, 40), np.float32)
    two[:, 20:] = 2
    assert 1 <= multi_otsu_thresholds(two, 2)[0] < 2
    with pytest.raises(ValueError, match=r"has 2 distinct grey values, 3 phases"):
        multi_otsu_thresholds(two, 3)
    with pytest.raises(ValueError, match="ask for 2 or more"):
        multi_otsu_thresholds(two, 1)


def test_phases_count_from_the_lowest() -> None:
    slices = np.array([[[-1.0, 0.49, 0.5, 0.51, 2.0, 99.0]]], np.float32)
    assert apply_thresholds(slices, (0.5, 2.0)).tolist() == [[[1, 1, 2, 2, 3, 3]]]
    assert apply_thresholds(slices, (0.5, 2.0)).dtype == np.uint8
    with pytest.raises(ValueError, match="do not ascend"):
        apply_thresholds(slices, (2.0, 0.5))


# Region ---------------------------------------------------------------------------------------------------------------


def blurred_foam(rows: int, seed: int, noise: float = 0.0) -> tuple[NDArray[np.float32], NDArray[np.bool_], float]:
    """Slices of a foam blurred by 0.7 pixel, the true region and the true porosity."""
    phantom = make_phantom("foam", 256, rows, seed)
    slices = ndimage.gaussian_filter(rasterize_attenuation(phantom, 0, rows), 0.7)
    texture = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=slices.shape), (0, 0.5, 0.5))
    slices = (slices + noise * slices.max() * texture).astype(np.float32)
    y, x = np.indices((256, 256)) - 127.5
    return slices, np.hypot(y, x) <= phantom.radius_px, phantom.volume_fractions[PORE]


@pytest.mark.parametrize("closing", [0, 3, 20])
@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_porosity_of_a_blurred_foam(closing: int, noise: float) -> None:
    slices, region, porosity = blurred_foam(24, 3, noise)
    phases = label_phases(slices, multi_otsu_thresholds(slices, 2), "sample", closing)
    found = np.count_nonzero(phases == 1) / np.count_nonzero(phases)
    assert abs(found - porosity) < 0.005
    assert abs(np.count_nonzero(phases) / (24 * np.count_nonzero(region)) - 1) < 0.001
    # No rim of pores along the outline: the true wall between pores and outside is solid.
    rim = region & ~ndimage.binary_erosion(region, iterations=2)
    assert np.count_nonzero((phases == 1)[:, rim]) / np.count_nonzero(phases[:, rim]) < 0.02


def test_slices_do_not_see_each_other() -> None:
    slices, _, _ = blurred_foam(7, 4, noise=0.3)
    threshold = (float(slices.max()) / 2,)
    for kind in ("sample", "disc", "all"):
        whole = label_phases(slices, threshold, kind, 5)  # type: ignore[arg-type]
        for start, stop in ((0, 1), (1, 3), (3, 7)):
            part = label_phases(slices[start:stop], threshold, kind, 5)  # type: ignore[arg-type]
            assert np.array_equal(part, whole[start:stop])


def drilled_disc(hole_center: float, hole_radius: float) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A solid disc of radius 80 with a hole (one slice of phases), and the part of the hole within the disc."""
    y, x = np.indices((200, 200)) - 99.5
    disc, hole = np.hypot(y, x) < 80, np.hypot(y, x - hole_center) < hole_radius
    return np.where(disc & ~hole, 2, 1).astype(np.uint8)[np.newaxis], disc & hole


def test_a_pore_open_to_the_outside_belongs_to_the_sample_if_its_mouth_is_closed() -> None:
    phases, hole = drilled_disc(76.0, 12.0)
    solid = phases[0] == 2
    assert np.array_equal(sample_region(phases, "sample", 5)[0], solid)
    closed = sample_region(phases, "sample", 20)[0]
    assert (closed & hole).sum() > 0.7 * hole.sum()
    assert np.array_equal(closed & ~hole, solid)


def test_an_enclosed_pore_belongs_to_the_sample() -> None:
    phases, hole = drilled_disc(40.0, 12.0)
    assert np.array_equal(sample_region(phases, "sample", 0)[0], (phases[0] == 2) | hole)


def test_specks_do_not_count_and_nothing_reaches_for_the_edge_of_the_slice() -> None:
    phases, hole = drilled_disc(0.0, 12.0)
    filled = (phases[0] == 2) | hole
    phases[0, 100, 4:8] = 2
    assert np.array_equal(sample_region(phases, "sample", 5)[0], filled)
    # The gap between the sample and the edge is 20 pixels: a larger closing leaves it open all the same.
    assert np.array_equal(sample_region(phases, "sample", 30)[0], filled)


def test_disc_and_all() -> None:
    slices = np.full((2, 50, 50), 3.0, np.float32)
    slices[:, ~reconstructed_disc(50, 50)] = 0
    assert np.array_equal(label_phases(slices, (1.0, 2.0), "disc", 0)[1], 3 * reconstructed_disc(50, 50))
    assert np.array_equal(label_phases(slices, (1.0,), "all", 0)[0], 1 + reconstructed_disc(50, 50))


def test_an_empty_slice_has_no_sample() -> None:
    assert not sample_region(np.ones((2, 40, 40), np.uint8), "sample", 3).any()
