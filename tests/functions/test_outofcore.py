"""Blocks of a volume, and volumes on scratch disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tomopipe.functions.errors import ParameterError
from tomopipe.functions.outofcore import ScratchVolume, blocks_within


def test_scratch_volume_reads_what_was_written_and_zeros_elsewhere(tmp_path: Path) -> None:
    block = np.arange(24, dtype=np.int32).reshape(2, 3, 4)
    with ScratchVolume(tmp_path / "volume.raw", (5, 3, 4), np.int32) as volume:
        volume.write(2, block)
        assert np.array_equal(volume[2:4], block)
        assert np.array_equal(volume[0:9][:2], np.zeros((2, 3, 4)))
        with pytest.raises(ValueError, match="does not fit"):
            volume.write(0, block.astype(np.int64))
        with pytest.raises(ValueError, match="steps of 1"):
            volume[::2]


def test_blocks_fill_the_budget_and_no_more() -> None:
    assert blocks_within((10, 100, 100), 4, 2, 7 * 40000) == [(0, 5), (5, 10)]
    assert blocks_within((10, 100, 100), 4, 2, 3 * 40000) == [(z, z + 1) for z in range(10)]
    with pytest.raises(ParameterError, match=r"give at least 0\.1 MiB"):
        blocks_within((10, 100, 100), 4, 2, 3 * 40000 - 1)
