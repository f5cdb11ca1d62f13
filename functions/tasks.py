"""The work of each stage on one task: takes rows from `slabs` and writes volumes, slab by slab.

`stages` holds the thin functions that are registered and call these. The objects are left to `object_tasks`, receipts to
`receipting`.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .parameters import Stage
from .quantification.document import search_document, taken_over
from .quantification.report import write_report
from .quantification.sidecar import write_sidecar
from .receipting import registered, report_progress, slab_task, whole_volume_task
from .rundir import RunDirectory, array_checksum, file_checksum, slab_name, written_aside
from .slabs import Sources, denoise_slices, preprocess_rows, segment_slices
from .volume import SliceLayout, create_labels, write_phases, write_projections, write_slices

_CHUNK_ROWS = 16
_DENOISING_BYTES_A_PIXEL = 55


@registered
def preprocess_task(run_root: str, start: int, stop: int) -> dict[str, Any]:
    """Raw rows [start, stop) -> corrected projections, slab by slab."""

    def work(sources: Sources, first: int, last: int) -> dict[str, Any]:
        projections, mended = preprocess_rows(sources.scan, sources.parameters.preprocessing, first, last)
        write_projections(sources.run.root / "projections", first, projections)
        return {"checksum": array_checksum(projections), "mended_pixels": mended}

    return slab_task("preprocess", run_root, start, stop, work)


@registered
def reconstruct_task(run_root: str, start: int, stop: int) -> dict[str, Any]:
    """Projections of rows [start, stop) -> slices, slab by slab."""

    def work(sources: Sources, first: int, last: int) -> dict[str, Any]:
        slices = np.empty((last - first, *sources.volume_shape[1:]), np.float32)
        for low, projections in _projection_chunks(sources, first, last):
            slices[low - first : low - first + projections.shape[1]] = sources.reconstructor(projections)
            report_progress(sources.run, "reconstruct", start, stop, low + projections.shape[1] - start)
        return _write_slices(sources, "reconstruct", first, slices)

    return slab_task("reconstruct", run_root, start, stop, work)


@registered
def denoise_task(run_root: str, start: int, stop: int) -> dict[str, Any]:
    """Slices [start, stop) -> denoised slices, slab by slab."""

    def work(sources: Sources, first: int, last: int) -> dict[str, Any]:
        noise = sources.document["resolved"]["noise_level"]
        slices = np.asarray(sources.reconstruction()[first:last])
        # Slices of a chunk are in work at once, one a thread.
        memory = sources.document["plan"]["worker_memory_bytes"] // 8
        rows = max(1, min(_CHUNK_ROWS, memory // (_DENOISING_BYTES_A_PIXEL * slices[0].size)))
        for low in range(0, len(slices), rows):
            chunk = slices[low : low + rows]
            chunk[...] = denoise_slices(chunk, sources.parameters.denoising, noise)
            report_progress(sources.run, "denoise", start, stop, first + low + len(chunk) - start)
        return _write_slices(sources, "denoise", first, slices)

    return slab_task("denoise", run_root, start, stop, work)


@registered
def segment_task(run_root: str, start: int, stop: int) -> dict[str, Any]:
    """Slices [start, stop) -> phases, slab by slab."""

    def work(sources: Sources, first: int, last: int) -> dict[str, Any]:
        thresholds = sources.document["resolved"]["thresholds"]
        slices = np.asarray(sources.denoised()[first:last])
        phases = segment_slices(slices, sources.parameters.segmentation, thresholds)
        write_phases(sources.run.root / "phases", first, phases)
        return {"checksum": array_checksum(phases)}

    return slab_task("segment", run_root, start, stop, work)


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


def _projection_chunks(sources: Sources, start: int, stop: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Chunks of corrected projections; where they come from disk the next is read while this one is computed with."""
    step = sources.parameters.reconstruction.chunk_size
    ranges = [(low, min(low + step, stop)) for low in range(start, stop, step)]
    if sources.document["stages"]["preprocess"]["output"] is None:
        # Preprocessing computes with all threads already; numba's kernels must not be entered from two threads.
        for low, high in ranges:
            yield low, sources.projections(low, high)
        return
    with ThreadPoolExecutor(1) as reader:
        following = reader.submit(sources.projections, *ranges[0])
        for index, (low, _) in enumerate(ranges):
            current = following.result()
            if index + 1 < len(ranges):
                following = reader.submit(sources.projections, *ranges[index + 1])
            yield low, current


def _write_slices(sources: Sources, stage: Stage, start: int, slices: NDArray[np.float32]) -> dict[str, Any]:
    entry = sources.document["stages"][stage]
    layout = SliceLayout(sources.volume_shape, entry["slab_rows"])
    write_slices(sources.run.root / entry["output"], layout, start, slices)
    return {"checksum": array_checksum(slices)}


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
