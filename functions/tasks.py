"""The work of each stage on one task: takes rows from `slabs` and writes volumes, slab by slab.

`stages` holds the thin functions that are registered and call these. The objects are left to `object_tasks`, receipts to
`receipting`.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .device import cpu
from .parameters import Stage
from .quantification.document import search_document, taken_over
from .quantification.report import write_report
from .quantification.sidecar import write_sidecar
from .receipting import registered, report_progress, whole_volume_task
from .rundir import RunDirectory, array_checksum, file_checksum, slab_name, written_aside
from .slab_stream import SlabWork, slab_task
from .slabs import Sources, denoise_slices, segment_slices
from .volume import SliceLayout, VolumeLike, create_labels, write_phases, write_projections, write_slices

_CHUNK_ROWS = 16
_DENOISING_BYTES_A_PIXEL = 55


@registered
def preprocess_task(run_root: str, start: int, stop: int) -> dict[str, Any]:
    """Raw rows [start, stop) -> corrected projections, slab by slab."""

    def prepare(sources: Sources) -> SlabWork:
        def write(first: int, projections: NDArray[np.float32]) -> dict[str, Any]:
            write_projections(sources.run.root / "projections", first, projections)
            return {"checksum": array_checksum(projections), "device": asdict(device)}

        device = sources.devices[0] if sources.correctors[0].fits_gpu else cpu()
        compute = [corrector.correct for corrector in sources.correctors]
        return SlabWork(sources.correctors[0].read, compute, 1, write, _chunk_rows(sources))

    return slab_task("preprocess", run_root, start, stop, prepare)


@registered
def reconstruct_task(run_root: str, start: int, stop: int) -> dict[str, Any]:
    """Projections of rows [start, stop) -> slices, slab by slab."""

    def prepare(sources: Sources) -> SlabWork:
        return SlabWork(
            sources.read_projections, sources.reconstruct, 0, _writer(sources, "reconstruct"), _chunk_rows(sources)
        )

    return slab_task("reconstruct", run_root, start, stop, prepare)


@registered
def denoise_task(run_root: str, start: int, stop: int) -> dict[str, Any]:
    """Slices [start, stop) -> denoised slices, slab by slab."""

    def prepare(sources: Sources) -> SlabWork:
        noise, source = sources.document["resolved"]["noise_level"], sources.reconstruction()

        def compute(slices: NDArray[np.float32]) -> tuple[NDArray[np.float32], int]:
            return denoise_slices(slices, sources.parameters.denoising, noise), 0

        # Slices of a chunk are in work at once, one a thread.
        memory = sources.document["plan"]["worker_memory_bytes"] // 8
        slice_bytes = _DENOISING_BYTES_A_PIXEL * sources.volume_shape[1] * sources.volume_shape[2]
        rows = max(1, min(_CHUNK_ROWS, memory // slice_bytes))
        return SlabWork(_reader(source), [compute], 0, _writer(sources, "denoise"), rows)

    return slab_task("denoise", run_root, start, stop, prepare)


@registered
def segment_task(run_root: str, start: int, stop: int) -> dict[str, Any]:
    """Slices [start, stop) -> phases, slab by slab."""

    def prepare(sources: Sources) -> SlabWork:
        thresholds = sources.document["resolved"]["thresholds"]

        def compute(slices: NDArray[np.float32]) -> tuple[NDArray[np.uint8], int]:
            return segment_slices(slices, sources.parameters.segmentation, thresholds), 0

        def write(first: int, phases: NDArray[np.uint8]) -> dict[str, Any]:
            write_phases(sources.run.root / "phases", first, phases)
            return {"checksum": array_checksum(phases)}

        return SlabWork(_reader(sources.denoised()), [compute], 0, write, _CHUNK_ROWS)

    return slab_task("segment", run_root, start, stop, prepare)


@registered
def quantify_task(run_root: str) -> dict[str, Any]:
    """Phases and objects -> metrics, report, and the search document that it returns."""
    with whole_volume_task("quantify", run_root) as (sources, receipt):
        if sources is None:
            found, done = receipt["result"]["document"], RunDirectory(Path(run_root))
            return {"document": taken_over(found, done, done.read_run())}
        run, started_at = sources.run, datetime.datetime.now(datetime.UTC)
        if "separate_objects" in sources.skipped and "segment" not in sources.skipped:
            _write_phases_alone(sources)
        elif "segment" not in sources.skipped:
            _adopt_labels(sources)
        rows = sources.shape[1]
        sidecar, maps = write_sidecar(
            sources, lambda fraction: report_progress(run, "quantify", 0, 1000, round(1000 * fraction), rows)
        )
        write_report(sources, sidecar, maps)
        _remove_leftovers(run)
        result = {"document": search_document(sources, sidecar, started_at, datetime.datetime.now(datetime.UTC))}
        receipt.update(checksum=file_checksum(run.metrics), result=result)
        return result


def _chunk_rows(sources: Sources) -> int:
    """Rows that are read and computed at once."""
    return min(sources.parameters.reconstruction.chunk_size, int(sources.document["plan"]["slab_rows"]))


def _reader(volume: VolumeLike) -> Callable[[int, int], NDArray[np.float32]]:
    def read(first: int, last: int) -> NDArray[np.float32]:
        return np.asarray(volume[first:last])

    return read


def _writer(sources: Sources, stage: Stage) -> Callable[[int, NDArray[np.float32]], dict[str, Any]]:
    """Writes slabs of slices, and says with what they were made."""
    entry = sources.document["stages"][stage]
    layout = SliceLayout(sources.volume_shape, entry["slab_rows"])
    devices = sources.devices if stage == "reconstruct" else [cpu()]

    def write(first: int, slices: NDArray[np.float32]) -> dict[str, Any]:
        write_slices(sources.run.root / entry["output"], layout, first, slices)
        return {"checksum": array_checksum(slices), "device": asdict(devices[0])}

    return write


def _write_phases_alone(sources: Sources) -> None:
    voxel_size, unit = sources.voxel_size
    with create_labels(sources.run.labels, sources.volume_shape, False, voxel_size, unit) as labels:
        for start, stop in sources.phase_slabs:
            labels.copy("phases", start, sources.phases_folder / f"{slab_name(start, stop)}.h5")


def _adopt_labels(sources: Sources) -> None:
    """Have the labels of another recipe here too, by a hard link where that is possible: they go beside their metrics."""
    run = sources.run
    files = (
        (sources.labels, run.labels),
        (sources.objects_table, run.objects_table),
        (sources.contacts_table, run.contacts_table),
    )
    for source, target in files:
        if source == target:
            continue
        with written_aside(target) as aside:
            try:
                os.link(source, aside)
            except OSError:
                shutil.copyfile(source, aside)


def _remove_leftovers(run: RunDirectory) -> None:
    """Remove what killed workers wrote aside: what is older than this start, so that nobody writes it any more."""
    started = run.run_json.stat().st_mtime
    for pattern in ("**/.*.part", "**/*.partial"):
        for path in run.root.glob(pattern):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < started:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(run.root / "progress", ignore_errors=True)
    # Left where a start was killed after its receipt, or where the labels are another recipe's.
    shutil.rmtree(run.objects_work, ignore_errors=True)
