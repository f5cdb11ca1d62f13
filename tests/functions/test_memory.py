"""Freed memory goes back to the system: a process does not grow with the blocks that it has freed."""

from __future__ import annotations

import subprocess
import sys

import pytest

GROW = """
import sys
import numpy as np
import psutil
from tomopipe.functions.memory import return_freed_memory

def resident():
    return psutil.Process().memory_info().rss

np.ones(2**20).sum()
before = resident()
# The first block freed raises glibc's threshold to its size; the next ones are then kept.
if sys.argv[1] == "with":
    return_freed_memory()
blocks = [np.ones(31 * 2**17) for _ in range(2)]
del blocks[0]
blocks = [np.ones(30 * 2**17) for _ in range(8)] + [np.ones(2**14)]
keep = blocks.pop()
del blocks
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other allocators")
def test_large_blocks_go_back() -> None:
    done = subprocess.run([sys.executable, "-c", GROW, "with"], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 20 * 2**20
