"""How a run's work is cut: slabs and tasks from the memory budget, and the disk that the result will take.

Nothing here changes a number of the result.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from .errors import ParameterError
from .objects import ObjectSettings, scratch_bytes
from .parameters import Execution, Stage
from .volume import SLAB_MULTIPLE

_SLAB_DEFAULT = 64
_TASKS_MAX = 64  # a stage; keeps the flow's state small for any number of rows
_BLOCK_TASKS_MAX = 32  # a step that separates objects, on top of those
_RESERVE = 0.15  # part of the budget that is left to codecs and the allocator


@dataclass(frozen=True)
class Plan:
    """How the work is cut.

    Parameters
    ----------
    rows : int
        Rows of the scan, slices of the volume.
    slab_rows : int
        Rows a slab: what is written, receipted and resumed as one.
    task_rows : int
        Rows a task, whole slabs.
    memory_bytes : int
        Budget of one worker.
    overlap : bool
        Whether the memory holds that the next rows are read and the last slab is written while others are computed with,
        on every device.
    """

    rows: int
    slab_rows: int
    task_rows: int
    memory_bytes: int
    overlap: bool

    @property
    def slabs(self) -> list[tuple[int, int]]:
        """First row and the row after the last of each slab."""
        return cut_rows(self.rows, self.slab_rows)

    @property
    def tasks(self) -> list[tuple[int, int]]:
        """First row and the row after the last of each task."""
        return cut_rows(self.rows, self.task_rows)


@dataclass(frozen=True)
class RowBytes:
    """Memory that correcting one row of projections takes.

    Attributes
    ----------
    reading : int
        The raw counts that are read for it.
    working : int
        What is made of them on the way, the corrected row among it.
    halo_rows : int
        Rows beside those asked for that are read and worked on, in all.
    fixed : int
        What it takes besides, however many rows there are.
    """

    reading: int
    working: int
    halo_rows: int = 0
    fixed: int = 0


def make_plan(
    shape: tuple[int, int, int],
    correcting: RowBytes,
    fixed_bytes: int,
    execution: Execution,
    slab_rows: int | None,
    on_the_fly: bool = False,
    devices: int = 1,
) -> Plan:
    """Cut a scan into slabs and tasks.

    Parameters
    ----------
    shape : (angles, rows, columns)
        Of the corrected projections.
    correcting : RowBytes
        Memory of the preprocessing.
    fixed_bytes : int
        Memory of the reconstruction engine.
    execution : Execution
        The user's wishes.
    slab_rows : int or None
        Rows a slab of the files that an earlier start of this run has made; kept, whatever the wishes.
    on_the_fly : bool
        Whether the projections are corrected while slices are made of them.
    devices : int
        Devices of a worker, which compute at once.

    Raises
    ------
    ParameterError
        The memory budget does not hold one slab.
    """
    angles, rows, columns = shape
    memory = worker_memory(execution)
    # A slab in work: raw and corrected projections with temporaries, or two volumes of slices and their compression.
    preprocessing = correcting.reading + correcting.working
    reconstruction = 12 * columns * columns + (preprocessing if on_the_fly else 8 * angles * columns)
    slab_row_bytes = max(preprocessing, reconstruction)
    fixed_bytes += correcting.halo_rows * preprocessing + correcting.fixed
    room = int(memory * (1 - _RESERVE)) - fixed_bytes
    fitting = room // slab_row_bytes // SLAB_MULTIPLE * SLAB_MULTIPLE
    least = slab_rows or SLAB_MULTIPLE
    if fitting < least:
        needed = (fixed_bytes + least * slab_row_bytes) / (1 - _RESERVE)
        raise ParameterError(
            f"memory: {memory / 2**20:.0f} MiB a worker do not hold a slab of {least} rows of this scan; "
            f"give at least {needed * execution.workers / 2**20:.0f} MiB (--memory) or fewer workers (--workers)"
        )
    wished = whole_slab(execution.slab) if execution.slab else _SLAB_DEFAULT
    slab = slab_rows or min(wished, fitting)
    if slab > _SLAB_DEFAULT:
        slab = slab // _SLAB_DEFAULT * _SLAB_DEFAULT
    slabs_a_task = -(-rows // (slab * _TASKS_MAX))
    # While one slab is computed: the next rows as read, and the last slab with its compression.
    beside = correcting.halo_rows * correcting.reading + slab * (
        max(correcting.reading, 4 * angles * columns) + max(8 * columns * columns, 4 * angles * columns)
    )
    return Plan(rows, slab, slab * slabs_a_task, memory, room >= devices * slab * slab_row_bytes + beside)


def worker_memory(execution: Execution) -> int:
    """Memory budget of one worker in bytes: its share of what the user grants, or of half of what is free."""
    total = execution.memory_bytes or psutil.virtual_memory().available // 2
    return total // execution.workers


def disk_needed(shape: tuple[int, int, int], stages: Iterable[Stage], settings: ObjectSettings) -> int:
    """Bytes that the outputs of stages may take for a scan (angles, rows, columns); labels alone are counted compressed."""
    angles, rows, columns = shape
    volume = 4 * rows * columns * columns
    pyramid = volume // 6  # 1/8 + 1/64 + ..., rounded up
    needed: dict[Stage, int] = {
        "preprocess": 4 * angles * rows * columns,
        "reconstruct": volume + pyramid,
        "denoise": volume + pyramid,
        "segment": volume // 16,
        # Files of its steps while it works, gone afterwards, and the labels.
        "separate_objects": scratch_bytes((rows, columns, columns), settings) + volume // 8,
        "quantify": 0,
    }
    return sum(needed[stage] for stage in stages)


def check_disk(folder: Path, needed: int) -> None:
    """Refuse a run whose result does not fit.

    Raises
    ------
    ParameterError
        Less is free than needed.
    """
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise ParameterError(
            f"{folder}: the run needs up to {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; "
            "free some, choose another --output, or keep fewer intermediates (--set keep=[])"
        )


def group_blocks(blocks: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """Ranges of rows, of consecutive blocks each, one a task; at most as many as a step that works on blocks may have."""
    share = -(-len(blocks) // _BLOCK_TASKS_MAX) if blocks else 1
    groups = [blocks[first : first + share] for first in range(0, len(blocks), share)]
    return [(group[0][0], group[-1][1]) for group in groups]


def compute_tasks(
    function_id: str, kwargs: Mapping[str, Any], ranges: Iterable[tuple[int, int]] | None = None
) -> list[dict[str, Any]]:
    """Tasks of a Compute action: one a range of rows, or one for the whole volume where no ranges are given.

    Parameters
    ----------
    function_id : str
        The registered function.
    kwargs : mapping
        What every task gets.
    ranges : iterable of (start, stop), optional
    """
    if ranges is None:
        return [{"function_id": function_id, "kwargs": dict(kwargs)}]
    return [{"function_id": function_id, "kwargs": {**kwargs, "start": start, "stop": stop}} for start, stop in ranges]


def whole_slab(wished: int) -> int:
    """Rows a slab as asked for, rounded up to what files allow: a multiple of 8, above 64 of 64."""
    unit = SLAB_MULTIPLE if wished <= _SLAB_DEFAULT else _SLAB_DEFAULT
    return -(-wished // unit) * unit


def cut_rows(rows: int, step: int) -> list[tuple[int, int]]:
    """Ranges of `step` rows that cover all rows; the last may be shorter."""
    return [(start, min(start + step, rows)) for start in range(0, rows, step)]
