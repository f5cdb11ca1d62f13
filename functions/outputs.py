"""What of a run is on disk already: its own finished slabs, what another recipe of the scan has, and what is left to do.

Everything rests on receipts and digests; making the outputs is left to `tasks`.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from .errors import ParameterError, StageError
from .parameters import STAGES, Stage
from .plan import cut_rows
from .rundir import RunDirectory, slab_name
from .volume import SliceLayout

SLAB_STAGES: tuple[Stage, ...] = ("preprocess", "reconstruct", "denoise", "segment")
"""Stages that work slab by slab; the others take the volume as a whole."""

OBJECT_STEPS = ("prepare_objects", "find_objects", "join_objects", "label_objects")
"""Steps of `separate_objects` before its last, which is named after the stage."""

_OUTPUTS: dict[Stage, tuple[str, ...]] = {
    "preprocess": ("projections",),
    "reconstruct": ("reconstruction.zarr",),
    "denoise": ("denoised.zarr",),
    "segment": ("phases",),
    "separate_objects": ("labels.h5", "objects.csv", "contacts.csv"),
    "quantify": ("labels.json", "report.html"),
}


def stage_entries(
    run: RunDirectory,
    digests: Mapping[Stage, str],
    on_the_fly: set[Stage],
    volume_shape: tuple[int, int, int],
    slab_rows: int,
) -> dict[Stage, dict[str, Any]]:
    """For each stage: its digest, where its output lies, whether that is this run's own, and whether work is left.

    A run goes on with what it has begun itself; else it takes the finished output of another recipe; else a stage that need
    not be kept is computed on the fly, and any other is this run's to make.

    Parameters
    ----------
    run : RunDirectory
    digests : mapping
        Digest of each stage that the request asks for.
    on_the_fly : set
        Stages whose output is not to be kept.
    volume_shape : (z, y, x)
    slab_rows : int

    Returns
    -------
    dict
        By stage: digest, own, needed, output (relative to the run directory, or None), slab_rows.
    """
    entries: dict[Stage, dict[str, Any]] = {}
    for stage in STAGES:
        entry: dict[str, Any] = {"digest": digests.get(stage), "own": False, "needed": False, "output": None}
        entry["slab_rows"] = slab_rows
        entries[stage] = entry
        if stage not in digests:
            continue
        slabs = _receipted_slabs(stage, volume_shape[0], slab_rows)
        layout = SliceLayout(volume_shape, slab_rows)
        _discard_receipts_of_lost_outputs(run, stage, slabs, layout, digests)
        done = [run.is_done(stage, *slab, digests[stage]) for slab in slabs]
        earlier = None if any(done) or stage == "quantify" else _earlier_output(run, stage, digests[stage])
        if earlier is not None:
            entry.update(earlier)
        elif any(done) or stage not in on_the_fly:
            entry.update(own=True, needed=not all(done), output=_OUTPUTS[stage][0])
    return entries


def check_start(start_from: Stage | None, skip: tuple[Stage, ...], entries: Mapping[Stage, Mapping[str, Any]]) -> None:
    """Refuse `start_from` where a stage before it would have to be computed.

    Raises
    ------
    ParameterError
        Names the stage whose output is not there.
    """
    if start_from is None:
        return
    for stage in STAGES[: STAGES.index(start_from)]:
        if stage not in skip and (entries[stage]["needed"] or entries[stage]["output"] is None):
            raise ParameterError(
                f"from: {start_from} needs the output of {stage}, and no finished one with these parameters is in the "
                f"results; run without --from, or change only parameters of {start_from} and later stages"
            )


def stage_slabs(document: Mapping[str, Any], stage: Stage) -> list[tuple[int, int]]:
    """Slabs that a stage of a run receipts; the stages that take the whole volume have one."""
    return _receipted_slabs(stage, projections_shape(document)[1], document["stages"][stage]["slab_rows"])


def projections_shape(document: Mapping[str, Any]) -> tuple[int, int, int]:
    """Shape of a run's corrected projections, (angles, rows, columns): the scan's own, unless parts of it are left out or
    joined."""
    angles, rows, columns = document.get("projections", document["scan"])["shape"]
    return angles, rows, columns


def is_complete(run: RunDirectory, document: Mapping[str, Any], stage: Stage) -> bool:
    """Whether every slab of a stage of this run has its receipt, and the receipt its output."""
    entry = document["stages"][stage]
    _, rows, columns = projections_shape(document)
    layout = SliceLayout((rows, columns, columns), entry["slab_rows"])
    wanted = [name for name in STAGES if document["stages"][name]["digest"] is not None]
    return all(
        run.is_done(stage, *slab, entry["digest"]) and _is_there(run, stage, slab, layout, wanted)
        for slab in stage_slabs(document, stage)
    )


def _receipted_slabs(stage: Stage, rows: int, slab_rows: int) -> list[tuple[int, int]]:
    return cut_rows(rows, slab_rows) if stage in SLAB_STAGES else [(0, rows)]


def _discard_receipts_of_lost_outputs(
    run: RunDirectory, stage: Stage, slabs: list[tuple[int, int]], layout: SliceLayout, wanted: Collection[Stage]
) -> None:
    """Take back receipts whose files somebody has deleted, so that they are made again instead of read as empty."""
    for slab in slabs:
        if not _is_there(run, stage, slab, layout, wanted):
            run.receipt_path(stage, *slab).unlink(missing_ok=True)


def _is_there(
    run: RunDirectory, stage: Stage, slab: tuple[int, int], layout: SliceLayout, wanted: Collection[Stage]
) -> bool:
    """Whether the files that a slab's receipt stands for exist; `wanted` are the stages that the run is to do."""
    names = _OUTPUTS[stage]
    if stage == "quantify":
        # It has them there where no stage of this run does: alone, or from another recipe.
        names += ("labels.h5",) * ("segment" in wanted) + ("objects.csv", "contacts.csv") * (
            "separate_objects" in wanted
        )
    outputs = [run.root / name for name in names]
    if stage in ("preprocess", "segment"):
        files = [outputs[0] / f"{slab_name(*slab)}.h5"]
    elif stage in ("reconstruct", "denoise"):
        files = layout.files(outputs[0], *slab)
    else:
        files = outputs
    return all(file.exists() for file in files)


def _earlier_output(run: RunDirectory, stage: Stage, digest: str) -> dict[str, Any] | None:
    """Finished output of the same stage digest in another recipe of this scan."""
    if not run.root.parent.is_dir():
        return None
    for folder in sorted(run.root.parent.iterdir()):
        other = RunDirectory(folder)
        if folder == run.root or not other.run_json.is_file():
            continue
        try:
            document = other.read_run()
        except StageError:
            continue  # of another format; what it holds is computed again
        entry = document["stages"][stage]
        if entry["digest"] == digest and entry["own"] and is_complete(other, document, stage):
            return {"output": os.path.relpath(folder / entry["output"], run.root), "slab_rows": entry["slab_rows"]}
    return None


def folder_bytes(folder: Path) -> int:
    """Bytes of the files in a folder and below; 0 where it does not exist."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
