"""Blocks of a volume within a memory budget."""

from __future__ import annotations

import pytest

from tomopipe.functions.errors import ParameterError
from tomopipe.functions.outofcore import blocks_within


def test_blocks_fill_the_budget_and_no_more() -> None:
    assert blocks_within((10, 100, 100), 4, 2, 7 * 40000) == [(0, 5), (5, 10)]
    assert blocks_within((10, 100, 100), 4, 2, 3 * 40000) == [(z, z + 1) for z in range(10)]
    with pytest.raises(ParameterError, match=r"give at least 0\.1 MiB"):
        blocks_within((10, 100, 100), 4, 2, 3 * 40000 - 1)
