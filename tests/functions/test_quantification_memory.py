"""Memory of the metrics against what they promise."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from tomopipe.functions.quantification.metrics import QuantificationSettings, measure, working_bytes

SHAPE = (320, 80, 80)  # as many voxels as 127 cubed, in few boxes
PASS_BYTES = 2 * 2**20
# 16 x 4 x 4 boxes and 320 groups of slices, common to both some thousand: 2 KiB of counts for each and each of three sets of
# phases.
TILE_BYTES = 4_000_000


def foam(share):
    """Phase 1 takes a share of the volume, phase 2 the rest, but for a hole in the region."""
    noise = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=SHAPE).astype(np.float32), 2)
    phases = np.where(noise < np.quantile(noise, share), 1, 2).astype(np.uint8)
    phases[20:24, 20:24, 20:24] = 0
    return phases


def peak_bytes(phases, settings, voxel_size=(1.0, 1.0, 1.0)):
    """What `measure` takes at most of what Python and NumPy allocate; compiled code allocates what NumPy is given back."""
    measure(phases[:8, :24, :24], None, None, None, voxel_size, "pixel", settings, PASS_BYTES)
    tracemalloc.start()
    try:
        measure(phases, None, None, None, voxel_size, "pixel", settings, PASS_BYTES)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


ONLY = QuantificationSettings(tortuosity=False, tortuosity_factor=False, thickness=False)


@pytest.mark.parametrize(
    ("wanted", "voxel_size"),
    [
        ({"thickness": True}, (1.0, 1.0, 1.0)),
        ({"tortuosity": True}, (1.0, 1.0, 1.0)),
        ({"tortuosity_factor": True}, (2.0, 1.0, 1.0)),
        pytest.param(
            {"thickness": True, "tortuosity": True, "tortuosity_factor": True}, (1.0, 1.0, 1.0), marks=pytest.mark.slow
        ),
    ],
)
def test_working_bytes_are_an_upper_bound(wanted, voxel_size):
    settings = replace(ONLY, **wanted)
    peak = peak_bytes(foam(0.95), settings, voxel_size)
    promised = working_bytes(SHAPE, settings)
    assert peak <= PASS_BYTES + promised + TILE_BYTES
    # Half of what is promised would not do.
    assert peak > PASS_BYTES + promised / 2 + TILE_BYTES
