"""How many slices of a volume fit a memory budget: the blocks along z in which it is worked through.

What is done to a block is left to the caller.
"""

from __future__ import annotations

from .errors import ParameterError


def blocks_within(
    shape: tuple[int, ...], bytes_per_voxel: int, extra_slices: int, memory_bytes: int
) -> list[tuple[int, int]]:
    """Cut a volume into blocks of slices that fit a memory budget.

    Parameters
    ----------
    shape : (z, y, x)
    bytes_per_voxel : int
        What the caller holds of each voxel of a block.
    extra_slices : int
        Slices that the caller holds beside a block: halos and carried state.
    memory_bytes : int
        The budget.

    Returns
    -------
    list of (start, stop)
        First slice and the slice after the last of each block, ascending.

    Raises
    ------
    ParameterError
        Not even one slice at a time fits the budget.
    """
    depth, rows, columns = shape
    slice_bytes = max(1, rows * columns * bytes_per_voxel)
    # A block is addressed by 32-bit numbers.
    most = min(memory_bytes // slice_bytes, (2**31 - 1) // max(1, rows * columns)) - extra_slices
    if most < 1:
        needed = (1 + extra_slices) * slice_bytes
        raise ParameterError(
            f"memory: {memory_bytes / 2**20:.1f} MiB do not hold one slice of {rows} x {columns} voxels with what its "
            f"processing needs; give at least {needed / 2**20:.1f} MiB"
        )
    return [(start, min(start + most, depth)) for start in range(0, depth, most)]
