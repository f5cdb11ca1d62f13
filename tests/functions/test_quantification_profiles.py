"""Profiles along z: groups of slices, grey values inside the region, the same for any budget."""

import json
from itertools import pairwise

import numpy as np
import pytest

from tomopipe.functions.errors import InputError
from tomopipe.functions.quantification.profiles import grey_sums, profile_edges, slice_profiles

PLENTY = 2**30


def test_edges():
    assert profile_edges(3, 8) == (3, 4, 5, 6, 7, 8)
    assert profile_edges(0, 10, 4) == (0, 3, 6, 9, 10)
    assert profile_edges(5, 6) == (5, 6)
    edges = profile_edges(0, 2047)
    assert len(edges) <= 513
    assert edges[-1] == 2047


def test_grey_means_inside_the_region():
    random = np.random.default_rng(0)
    grey = random.normal(5, 1, (11, 20, 30)).astype(np.float32)
    phases = random.integers(0, 3, grey.shape).astype(np.uint8)
    phases[4] = 0
    edges = profile_edges(1, 10, 4)
    sums = grey_sums(grey, phases, edges, PLENTY)
    inside = np.array([np.count_nonzero(phases[a:b]) for a, b in pairwise(edges)])
    expected = [grey[a:b][phases[a:b] != 0].mean(dtype=float) for a, b in pairwise(edges)]
    profiles = slice_profiles(edges, inside, {"grey_mean_per_cm": sums}, 2.0, "um")
    assert profiles["grey_mean_per_cm"] == pytest.approx(expected)
    assert profiles["z_um"] == [4.0, 10.0, 16.0]
    json.dumps(profiles, allow_nan=False)


def test_do_not_depend_on_the_budget():
    random = np.random.default_rng(1)
    grey = random.normal(0, 1, (40, 16, 16)).astype(np.float32)
    phases = random.integers(0, 2, grey.shape).astype(np.uint8)
    edges = profile_edges(0, 40, 7)
    seen = []
    expected = grey_sums(grey, phases, edges, PLENTY)
    for slices in (1, 3, 7):
        assert np.array_equal(grey_sums(grey, phases, edges, slices * 5 * 256, seen.append), expected)
    assert seen[-1] == 1.0


def test_slices_without_region_are_left_out():
    profiles = slice_profiles((2, 3, 4, 5), np.array([10, 0, 5]), {"a": np.array([20, 0, 5])}, 0.5, "pixel")
    assert profiles == {"z_pixel": [1.0, 2.0], "a": [2.0, 1.0]}


def test_volumes_that_do_not_match():
    with pytest.raises(InputError, match="shape"):
        grey_sums(np.zeros((2, 3, 4), np.float32), np.zeros((2, 3, 5), np.uint8), (0, 2), PLENTY)
