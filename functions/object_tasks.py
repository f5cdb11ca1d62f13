"""The steps of `SeparateObjects` on one task each: phases to labels and tables of objects, through a work folder.

What the steps compute is left to `objects`. The work folder `objects/` of the run holds the files of the blocks and
their receipts; it is removed when labels and tables are whole, so that it lies there only while work is left.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from . import objects
from .inspection import STEP_STATES
from .locking import lock
from .memory import return_freed_memory
from .outputs import OBJECT_STEPS
from .plan import compute_tasks, group_blocks
from .quantification.provenance import parse_time, steps_work
from .receipting import receipted, registered, report_progress, whole_volume_task
from .rundir import RunDirectory, file_checksum, slab_name, write_json, written_aside
from .slabs import Sources, object_settings
from .volume import create_labels, write_objects

Block = tuple[int, int]

_BLOCKS_FILE = "blocks.json"
_LABELS_FOLDER = "labels"


@registered
def prepare_objects_task(run_root: str, function_ids: Mapping[str, str]) -> dict[str, Any]:
    """Phases -> the phase opened, closed and filled, and its walls by block; returns the tasks of the steps on blocks."""

    def work(step: _Step, index: int) -> None:
        objects.prepare_objects(
            step.sources.phases(),
            step.phase,
            step.settings,
            step.blocks,
            step.folder,
            step.voxel_size,
            step.advance,
        )

    with _step("prepare_objects", run_root) as step:
        step.start_anew_if_cut_otherwise()
        step.whole(work)
        ranges = group_blocks(step.blocks)
    kwargs = {"run": run_root}
    return {
        "tasks": {
            STEP_STATES[name]: compute_tasks(function_id, kwargs, ranges) for name, function_id in function_ids.items()
        }
    }


@registered
def find_objects_task(run_root: str, start: int, stop: int) -> dict[str, Any]:
    """Pieces of objects in the blocks of slices [start, stop)."""

    def work(step: _Step, index: int) -> None:
        phases = step.sources.phases()
        objects.find_objects(phases, step.phase, step.settings, step.blocks, index, step.folder, step.voxel_size)

    with _step("find_objects", run_root) as step:
        step.each_block(start, stop, work)
    return {"slab": [start, stop]}


@registered
def join_objects_task(run_root: str) -> dict[str, Any]:
    """Pieces -> which are one object, and its number."""

    def work(step: _Step, index: int) -> None:
        objects.join_objects(step.settings, step.blocks, step.folder, step.voxel_size)

    with _step("join_objects", run_root) as step:
        step.whole(work)
    return {"step": "join_objects"}


@registered
def label_objects_task(run_root: str, start: int, stop: int) -> dict[str, Any]:
    """Labels and measures of the objects in the blocks of slices [start, stop)."""

    def work(step: _Step, index: int) -> None:
        phases = step.sources.phases()
        labels = objects.label_objects(phases, step.blocks, index, step.folder, step.voxel_size)
        write_objects(step.folder / _LABELS_FOLDER, step.blocks[index][0], labels)

    with _step("label_objects", run_root) as step:
        step.each_block(start, stop, work)
    return {"slab": [start, stop]}


@registered
def separate_objects_task(run_root: str) -> dict[str, Any]:
    """Labels of all blocks -> `labels.h5` and the tables of objects and contacts."""
    with whole_volume_task("separate_objects", run_root) as (sources, receipt):
        if sources is None:
            return {"objects": receipt["objects"]}
        run = sources.run
        blocks = _blocks(sources)
        folder = run.objects_work
        voxel_size, unit = sources.voxel_size
        table, contacts = objects.gather_objects(blocks, folder, voxel_size)
        shape = sources.volume_shape
        with create_labels(run.labels, shape, True, voxel_size, unit) as labels:
            for start, stop in sources.phase_slabs:
                labels.copy("phases", start, sources.phases_folder / f"{slab_name(start, stop)}.h5")
            for start, stop in blocks:
                labels.copy("objects", start, folder / _LABELS_FOLDER / f"{slab_name(start, stop)}.h5")
                report_progress(run, "separate_objects", 0, shape[0], stop)
        with written_aside(run.objects_table) as aside:
            table.to_csv(aside, voxel_size, unit)
        with written_aside(run.contacts_table) as aside:
            contacts.to_csv(aside, unit)
        receipt.update(
            objects=len(table),
            contacts=len(contacts),
            step_seconds=_step_seconds(folder),
            steps=_steps_work(sources, folder),
            checksum=file_checksum(run.labels),
        )
    # The receipt stands now: nobody needs the work folder any more.
    shutil.rmtree(run.objects_work, ignore_errors=True)
    return {"objects": receipt["objects"]}


class _Step:
    """A step of one run: its inputs, and its blocks with a receipt each in the work folder."""

    def __init__(self, name: str, sources: Sources) -> None:
        self.name, self.sources = name, sources
        self.folder = sources.run.objects_work
        self.blocks = _blocks(sources)
        self.phase = sources.parameters.objects.phase
        self.voxel_size = sources.voxel_size[0]
        self.settings = object_settings(sources.parameters.objects)
        self._digest = sources.document["stages"]["separate_objects"]["digest"]
        self._rows = sources.shape[1]
        self._advanced = 0

    def start_anew_if_cut_otherwise(self) -> None:
        """Drop what an earlier start has left where that cut the volume otherwise, or had other inputs."""
        cut = {"digest": self._digest, "blocks": [list(block) for block in self.blocks]}
        path = self.folder / _BLOCKS_FILE
        with lock(self.sources.run.lock_path(self.name, 0, 0)):
            if self._all_is_done() or (path.is_file() and json.loads(path.read_text(encoding="utf-8")) == cut):
                return
            shutil.rmtree(self.folder, ignore_errors=True)
            write_json(path, cut)

    def whole(self, work: Callable[[_Step, int], None]) -> None:
        """Do the one piece of a step that takes the volume as a whole."""
        self._once((0, self._rows), 0, work)

    def each_block(self, start: int, stop: int, work: Callable[[_Step, int], None]) -> None:
        """Do the blocks of slices [start, stop)."""
        for index, (first, last) in enumerate(self.blocks):
            if start <= first and last <= stop:
                self._once((first, last), index, work)
                report_progress(self.sources.run, self.name, start, stop, last - start)

    def advance(self, slices: int) -> None:
        """Note progress of a step on the whole volume, in slices of all its sweeps."""
        self._advanced += slices
        sweeps = objects.preparation_sweeps(self.settings)
        report_progress(self.sources.run, self.name, 0, self._rows * sweeps, self._advanced, self._rows)

    def _once(self, block: Block, index: int, work: Callable[[_Step, int], None]) -> None:
        run, receipts = self.sources.run, RunDirectory(self.folder)

        def is_left() -> bool:
            # The work folder with its receipts goes when everything is done, so that is asked last.
            return not (receipts.is_done(self.name, *block, self._digest) or self._all_is_done())

        if not is_left():
            return
        with lock(run.lock_path(self.name, *block)):
            if is_left():
                with receipted(run, self.name, *block, self._digest, receipts=receipts):
                    work(self, index)

    def _all_is_done(self) -> bool:
        return self.sources.run.is_done("separate_objects", 0, self._rows, self._digest)


@contextlib.contextmanager
def _step(name: str, run_root: str) -> Iterator[_Step]:
    return_freed_memory()
    with contextlib.closing(Sources(RunDirectory(Path(run_root)))) as sources:
        yield _Step(name, sources)


def _blocks(sources: Sources) -> list[Block]:
    return [(start, stop) for start, stop in sources.document["plan"]["object_blocks"]]


def _step_seconds(folder: Path) -> dict[str, float]:
    """Seconds of work in each step, over all its tasks."""
    receipts = RunDirectory(folder)
    return {step: round(sum(r["seconds"] for r in receipts.receipts(step)), 4) for step in OBJECT_STEPS}


def _steps_work(sources: Sources, folder: Path) -> dict[str, Any]:
    """When the steps worked in this run: their receipts go with the work folder, and the search document tells of it."""
    receipts = RunDirectory(folder)
    every = [receipt for step in OBJECT_STEPS for receipt in receipts.receipts(step)]
    return steps_work(every, parse_time(sources.document["inspected_at"]))
