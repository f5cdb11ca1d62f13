"""The work of each stage on one task: takes rows from `slabs`, writes volumes, and receipts every finished slab.

`stages` holds the thin functions that are registered and call these.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .device import worker_device
from .errors import StageError, TomopipeError
from .inspection import software
from .memory import return_freed_memory
from .objects import ObjectSettings, separate_objects
from .outputs import stage_slabs
from .parameters import Stage
from .quantification.document import search_document
from .quantification.report import write_report
from .quantification.sidecar import write_sidecar
from .rundir import RunDirectory, array_checksum, file_checksum, written_aside
from .slabs import Sources, denoise_slices, preprocess_rows, segment_slices
from .volume import SliceLayout, create_labels, write_phases, write_projections, write_slices

_CHUNK_ROWS = 16
_DENOISING_BYTES_A_PIXEL = 55
_MESSAGE_MAX = 500


def preprocess_task(run_root: str, start: int, stop: int) -> dict[str, Any]:
    """Raw rows [start, stop) -> corrected projections, slab by slab."""

    def work(sources: Sources, first: int, last: int) -> dict[str, Any]:
        projections, mended = preprocess_rows(sources.scan, sources.parameters.preprocessing, first, last)
        write_projections(sources.run.root / "projections", first, projections)
        return {"checksum": array_checksum(projections), "mended_pixels": mended}

    return _slab_task("preprocess", run_root, start, stop, work)


def reconstruct_task(run_root: str, start: int, stop: int) -> dict[str, Any]:
    """Projections of rows [start, stop) -> slices, slab by slab."""

    def work(sources: Sources, first: int, last: int) -> dict[str, Any]:
        slices = np.empty((last - first, *sources.volume_shape[1:]), np.float32)
        for low, projections in _projection_chunks(sources, first, last):
            slices[low - first : low - first + projections.shape[1]] = sources.reconstructor(projections)
            _report_progress(sources.run, "reconstruct", start, stop, low + projections.shape[1] - start)
        return _write_slices(sources, "reconstruct", first, slices)

    return _slab_task("reconstruct", run_root, start, stop, work)


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
            _report_progress(sources.run, "denoise", start, stop, first + low + len(chunk) - start)
        return _write_slices(sources, "denoise", first, slices)

    return _slab_task("denoise", run_root, start, stop, work)


def segment_task(run_root: str, start: int, stop: int) -> dict[str, Any]:
    """Slices [start, stop) -> phases, slab by slab."""

    def work(sources: Sources, first: int, last: int) -> dict[str, Any]:
        thresholds = sources.document["resolved"]["thresholds"]
        slices = np.asarray(sources.denoised()[first:last])
        phases = segment_slices(slices, sources.parameters.segmentation, thresholds)
        write_phases(sources.run.root / "phases", first, phases)
        return {"checksum": array_checksum(phases)}

    return _slab_task("segment", run_root, start, stop, work)


def separate_objects_task(run_root: str) -> dict[str, Any]:
    """Phases -> labelled objects and their table."""
    with _whole_volume_task("separate_objects", run_root) as (sources, receipt):
        if sources is None:
            return {"objects": receipt["objects"]}
        run, wished = sources.run, sources.parameters.objects
        phases = sources.phases()
        spacing, unit = voxel_size(sources)
        settings = ObjectSettings(
            method=wished.method,
            connectivity=wished.connectivity,
            opening_radius_voxels=wished.opening_radius_px,
            closing_radius_voxels=wished.closing_radius_px,
            min_voxels=wished.minimum_voxels,
            prominence_voxels=wished.prominence_px,
        )
        with _scratch(run) as scratch, create_labels(run.labels, phases.shape, True, spacing, unit) as labels:

            def write(start: int, block: NDArray[np.uint32]) -> None:
                labels.write("objects", start, block)
                labels.write("phases", start, np.asarray(phases[start : start + len(block)]))

            table = separate_objects(
                phases,
                wished.phase,
                settings,
                memory_bytes=sources.document["plan"]["worker_memory_bytes"],
                scratch=scratch,
                write=write,
                progress=lambda done, total: _report_progress(run, "separate_objects", 0, total, done, phases.shape[0]),
            )
        with written_aside(run.objects_table) as aside:
            table.to_csv(aside, spacing, unit)
        receipt.update(objects=len(table), checksum=file_checksum(run.labels))
        return {"objects": len(table)}


def quantify_task(run_root: str) -> dict[str, Any]:
    """Phases and objects -> metrics, report, and the search document that it returns."""
    with _whole_volume_task("quantify", run_root) as (sources, receipt):
        if sources is None:
            return dict(receipt["result"])
        run = sources.run
        if "separate_objects" in sources.skipped and "segment" not in sources.skipped:
            _write_phases_alone(sources)
        elif "segment" not in sources.skipped:
            _adopt_labels(sources)
        rows = sources.shape[1]
        sidecar = write_sidecar(
            sources, lambda fraction: _report_progress(run, "quantify", 0, 1000, round(1000 * fraction), rows)
        )
        write_report(sources, sidecar)
        _remove_leftovers(run)
        result = {"document": search_document(sources, sidecar)}
        receipt.update(checksum=file_checksum(run.metrics), result=result)
        return result


def voxel_size(sources: Sources) -> tuple[float, str]:
    """Edge of a voxel and its unit: "um", or "pixel" where the pixel size is unknown."""
    size = sources.document["resolved"]["pixel_size_um"]
    return (1.0, "pixel") if size is None else (size, "um")


def _slab_task(
    stage: Stage, run_root: str, start: int, stop: int, work: Callable[[Sources, int, int], dict[str, Any]]
) -> dict[str, Any]:
    return_freed_memory()
    run = RunDirectory(Path(run_root))
    with contextlib.closing(Sources(run)) as sources:
        digest = sources.document["stages"][stage]["digest"]
        for first, last in stage_slabs(sources.document, stage):
            if not (start <= first and last <= stop):
                continue
            if not run.is_done(stage, first, last, digest):
                with _receipted(run, stage, first, last, digest) as receipt:
                    receipt.update(work(sources, first, last))
            _report_progress(run, stage, start, stop, last - start)
    return {"slab": [start, stop]}


@contextlib.contextmanager
def _whole_volume_task(stage: Stage, run_root: str) -> Iterator[tuple[Sources | None, dict[str, Any]]]:
    """Sources and a receipt to fill, or None and the receipt that is there already."""
    return_freed_memory()
    run = RunDirectory(Path(run_root))
    with contextlib.closing(Sources(run)) as sources:
        digest = sources.document["stages"][stage]["digest"]
        rows = sources.shape[1]
        if run.is_done(stage, 0, rows, digest):
            yield None, json.loads(run.receipt_path(stage, 0, rows).read_text(encoding="utf-8"))
            return
        with _receipted(run, stage, 0, rows, digest) as receipt:
            yield sources, receipt


@contextlib.contextmanager
def _receipted(run: RunDirectory, stage: Stage, start: int, stop: int, digest: str) -> Iterator[dict[str, Any]]:
    """Write a slab's receipt when the block has ended well.

    An error names stage and rows in one line, because it travels in the run's state, which is limited; the traceback is
    left in the run directory.
    """
    receipt: dict[str, Any] = {}
    started_at = datetime.datetime.now(datetime.UTC)
    clock = time.perf_counter()
    try:
        yield receipt
    except Exception as error:  # noqa: BLE001 - raised again, shortened
        failure = run.failure_path(stage, start, stop)
        # What failed may be the disk; then the message alone must do.
        with contextlib.suppress(OSError):
            failure.parent.mkdir(parents=True, exist_ok=True)
            failure.write_text(traceback.format_exc(), encoding="utf-8")
        said = str(error) if isinstance(error, TomopipeError) else f"{type(error).__name__}: {error}"
        raise StageError(f"{stage}, rows {start} to {stop}: {said[:_MESSAGE_MAX]}") from None
    run.failure_path(stage, start, stop).unlink(missing_ok=True)
    run.write_receipt(
        stage,
        start,
        stop,
        {
            "digest": digest,
            "started_at": started_at.isoformat(timespec="milliseconds"),
            "seconds": round(time.perf_counter() - clock, 4),
            "host": platform.node(),
            "process": os.getpid(),
            "device": asdict(worker_device()),
            "software": software(),
            **receipt,
        },
    )


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
    phases = sources.phases()
    spacing, unit = voxel_size(sources)
    with create_labels(sources.run.labels, phases.shape, False, spacing, unit) as labels:
        for start, stop in stage_slabs(sources.document, "segment"):
            labels.write("phases", start, np.asarray(phases[start:stop]))


def _adopt_labels(sources: Sources) -> None:
    """Have the labels of another recipe here too, by a hard link where that is possible: they go beside their metrics."""
    for source, target in ((sources.labels, sources.run.labels), (sources.objects_table, sources.run.objects_table)):
        if source == target:
            continue
        with written_aside(target) as aside:
            try:
                os.link(source, aside)
            except OSError:
                shutil.copyfile(source, aside)


@contextlib.contextmanager
def _scratch(run: RunDirectory) -> Iterator[Path]:
    """Folder for temporary arrays, gone afterwards; what a killed worker has left is removed with the other leftovers."""
    with tempfile.TemporaryDirectory(prefix=".scratch-", suffix=".part", dir=run.root) as scratch:
        yield Path(scratch)


def _remove_leftovers(run: RunDirectory) -> None:
    """Remove what killed workers wrote aside: what is older than this start, so that nobody writes it any more."""
    started = run.run_json.stat().st_mtime
    for pattern in ("**/.*.part", "**/*.partial"):
        for path in run.root.glob(pattern):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < started:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(run.root / "progress", ignore_errors=True)


def _report_progress(
    run: RunDirectory, stage: Stage, start: int, stop: int, done: int, rows: int | None = None
) -> None:
    """Leave a note of how far a task is, for whoever watches; losing one loses nothing."""
    total = stop - start
    path = run.progress_path(stage, start, rows if rows is not None else stop)
    aside = path.with_suffix(f".{os.getpid()}.part")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(json.dumps({"done": done, "total": total}), encoding="utf-8")
        aside.replace(path)
