"""A stage's slabs as a stream: the next rows are read and the last slab is written while the present rows are computed with.

Each slab is locked from its first reading to its receipt. What is read, computed and written is the caller's; receipts are
`receipting`'s.
"""

from __future__ import annotations

import contextlib
import queue
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .memory import return_freed_memory
from .outputs import stage_slabs
from .parameters import Stage
from .plan import cut_rows
from .receipting import failure_noted, report_progress, undone, write_receipt
from .rundir import RunDirectory
from .slabs import Sources


@dataclass(frozen=True)
class SlabWork:
    """What a stage does with a slab.

    Attributes
    ----------
    read : callable
        ``read(start, stop)``: the input of some rows, in whatever form `compute` takes it. Called in a thread of its own,
        one call at a time.
    compute : sequence of callable
        One a device; each takes what was read and returns an array and the number of values that it mended. Each is called
        by one thread at a time.
    rows_axis : int
        Axis of the computed array along which rows lie.
    write : callable
        ``write(start, array)``: writes a whole slab, returns what its receipt holds besides. Called in a thread of its own,
        one call at a time.
    chunk_rows : int
        Most rows that are read and computed at once.
    """

    read: Callable[[int, int], Any]
    compute: Sequence[Callable[[Any], tuple[NDArray[Any], int]]]
    rows_axis: int
    write: Callable[[int, NDArray[Any]], dict[str, Any]]
    chunk_rows: int


def slab_task(
    stage: Stage, run_root: str, start: int, stop: int, prepare: Callable[[Sources], SlabWork]
) -> dict[str, Any]:
    """Do the slabs of rows [start, stop) that have no receipt yet.

    Where the run's plan has the memory for it, reading, computing and writing go on at once: at most one chunk is read ahead
    of those that are computed with (one a device), and one slab waits to be written.

    Parameters
    ----------
    stage : str
    run_root : str
    start, stop : int
        Whole slabs.
    prepare : callable
        What is to be done, from the run's sources.

    Raises
    ------
    StageError
        Names stage and rows; slabs that were finished before keep their receipts.
    """
    return_freed_memory()
    run = RunDirectory(Path(run_root))
    with contextlib.closing(Sources(run)) as sources:
        document = sources.document
        plan = document["plan"]
        slabs = [slab for slab in stage_slabs(document, stage) if start <= slab[0] and slab[1] <= stop]
        at_once = int(plan.get("devices", 1)) if plan.get("overlap") else 0
        stream = SlabStream(run, stage, document["stages"][stage]["digest"], (start, stop), at_once)
        stream.run(slabs, lambda: prepare(sources))
    return {"slab": [start, stop]}


@dataclass
class _Slab:
    """A slab in work: locked, and filled chunk by chunk."""

    start: int
    stop: int
    lock: contextlib.ExitStack
    started_at: float = field(default_factory=time.time)
    mended: int = 0
    array: NDArray[Any] | None = None

    def put(self, start: int, part: NDArray[Any], axis: int) -> None:
        """Take the rows from `start` on."""
        rows = part.shape[axis]
        if rows == self.stop - self.start:
            self.array = part
            return
        if self.array is None:
            shape = list(part.shape)
            shape[axis] = self.stop - self.start
            self.array = np.empty(shape, part.dtype)
        place = [slice(None)] * part.ndim
        place[axis] = slice(start - self.start, start - self.start + rows)
        self.array[tuple(place)] = part


@dataclass(frozen=True)
class _Chunk:
    slab: _Slab
    start: int
    stop: int

    @property
    def is_last(self) -> bool:
        return self.stop == self.slab.stop


class SlabStream:
    """The slabs of one task.

    Parameters
    ----------
    run : RunDirectory
        Where receipts, locks, failures and notes of progress go.
    stage : str
    digest : str
        Of the stage: a slab whose receipt names it is done.
    rows : (start, stop)
        Of the task, for notes of progress.
    at_once : int
        Chunks that may be computed with at once, at most one a device, while others are read and written; 0 does one
        thing after the other.
    """

    def __init__(self, run: RunDirectory, stage: Stage, digest: str, rows: tuple[int, int], at_once: int) -> None:
        self._run, self._stage, self._digest = run, stage, digest
        self._start, self._stop = rows
        self._overlaps = at_once > 0
        self._at_once = max(1, at_once)
        self._devices: queue.SimpleQueue[Callable[[Any], tuple[NDArray[Any], int]]] = queue.SimpleQueue()
        self._writing: Future[None] | None = None
        self._ended_at = 0.0

    def run(self, slabs: list[tuple[int, int]], prepare: Callable[[], SlabWork]) -> None:
        """Do the slabs that have no receipt yet.

        Parameters
        ----------
        slabs : list of (start, stop)
        prepare : callable
            What is to be done; called where a slab is left.

        Raises
        ------
        StageError
            The first failure; slabs finished until then keep their receipts.
        """
        locks = contextlib.ExitStack()
        with locks:
            chunks = self._chunks(slabs, locks, prepare)
            chunk = next(chunks, None)
            if chunk is not None:
                self._do(chunk, chunks)

    def _do(self, chunk: _Chunk | None, chunks: Iterator[_Chunk]) -> None:
        for compute in self._work.compute:
            self._devices.put(compute)
        at_once = min(self._at_once, len(self._work.compute))
        with (
            ThreadPoolExecutor(1, "read") as reader,
            ThreadPoolExecutor(at_once, "compute") as computers,
            ThreadPoolExecutor(1, "write") as writer,
        ):
            computing: deque[tuple[_Chunk, Future[tuple[NDArray[Any], int]]]] = deque()
            reading = reader.submit(self._read, chunk) if chunk else None
            while chunk is not None and reading is not None:
                data = reading.result()
                following = None
                if self._overlaps:
                    following = next(chunks, None)
                    reading = reader.submit(self._read, following) if following else None
                computing.append((chunk, computers.submit(self._compute, chunk, data)))
                del data
                self._drain(computing, at_once - 1, writer)
                if not self._overlaps:
                    self._wait_for_writing()
                    following = next(chunks, None)
                    reading = reader.submit(self._read, following) if following else None
                chunk = following
            self._drain(computing, 0, writer)
            self._wait_for_writing()

    def _chunks(
        self, slabs: list[tuple[int, int]], locks: contextlib.ExitStack, prepare: Callable[[], SlabWork]
    ) -> Iterator[_Chunk]:
        """Chunks of the slabs that are left; a slab is locked when its first chunk is asked for."""
        prepared = False
        for start, stop in slabs:
            lock = contextlib.ExitStack()
            if not lock.enter_context(undone(self._run, self._stage, start, stop, self._digest)):
                lock.close()
                report_progress(self._run, self._stage, self._start, self._stop, stop - self._start)
                continue
            locks.push(lock)  # where an error ends the stream; closing twice does nothing
            slab = _Slab(start, stop, lock)
            if not prepared:
                with self._failure_noted(slab):
                    self._work = prepare()
                prepared = True
            for low, high in cut_rows(stop - start, self._work.chunk_rows):
                yield _Chunk(slab, start + low, start + high)

    def _read(self, chunk: _Chunk) -> Any:
        with self._failure_noted(chunk.slab):
            return self._work.read(chunk.start, chunk.stop)

    def _compute(self, chunk: _Chunk, data: Any) -> tuple[NDArray[Any], int]:
        with self._failure_noted(chunk.slab):
            compute = self._devices.get()
            try:
                return compute(data)
            finally:
                self._devices.put(compute)

    def _drain(
        self,
        computing: deque[tuple[_Chunk, Future[tuple[NDArray[Any], int]]]],
        left: int,
        writer: ThreadPoolExecutor,
    ) -> None:
        """Wait until at most `left` chunks are computed with; a slab whose last chunk is done goes to be written.

        Chunks are put together here, in one thread, whichever devices they come from.
        """
        while len(computing) > left:
            chunk, future = computing.popleft()
            part, mended = future.result()
            with self._failure_noted(chunk.slab):
                chunk.slab.put(chunk.start, part, self._work.rows_axis)
            chunk.slab.mended += mended
            report_progress(self._run, self._stage, self._start, self._stop, chunk.stop - self._start)
            if chunk.is_last:
                self._wait_for_writing()
                self._writing = writer.submit(self._finish, chunk.slab)

    def _finish(self, slab: _Slab) -> None:
        with self._failure_noted(slab):
            assert slab.array is not None
            said = self._work.write(slab.start, slab.array)
            if slab.mended:
                said = {**said, "mended_pixels": slab.mended}
            slab.array = None
            # From the end of the slab before it where that was later, so that the times of a task's slabs add up.
            started_at = max(slab.started_at, self._ended_at)
            write_receipt(self._run, self._stage, slab.start, slab.stop, self._digest, started_at, said)
            self._ended_at = time.time()
            slab.lock.close()

    def _wait_for_writing(self) -> None:
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def _failure_noted(self, slab: _Slab) -> contextlib.AbstractContextManager[None]:
        return failure_noted(self._run, self._stage, slab.start, slab.stop)
