"""Counter-based random generators, one a purpose and index, so that a number never depends on what was drawn before it.
Leaves what is drawn to the phantom and the detector."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

_INDEX_BITS = 48


class Stream(IntEnum):
    """What a generator is for; no two purposes share numbers."""

    PHANTOM = 0
    FIXED_PATTERN = 1
    PROJECTION = 2
    FLAT = 3
    DARK = 4


def generator(seed: int, stream: Stream, index: int = 0) -> np.random.Generator:
    """The generator of one frame (or one pattern), a pure function of its three arguments.

    Parameters
    ----------
    seed : int
        Seed of the simulation, 0 <= seed < 2**64.
    stream : Stream
        Purpose of the numbers.
    index : int
        Which frame of that purpose, 0 <= index < 2**48.
    """
    key = np.array([seed, (int(stream) << _INDEX_BITS) | index], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))
