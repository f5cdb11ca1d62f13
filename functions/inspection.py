"""Works out a run before any stage starts: checks the scan, resolves every automatic value, plans, writes `run.json`.

What must be one for the whole scan is resolved here from a fixed sample of rows, never from a slab.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import math
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np
from numpy.typing import NDArray

from .automatic import engine_of, known, resolve, voxel_size_of
from .center_trials import contact_sheet
from .corrections import Corrector, corrected_with
from .device import hidden_gpus
from .errors import InputError, ParameterError, ScanError, VersionError
from .locking import lock
from .memory import return_freed_memory
from .objects import object_blocks
from .outputs import OBJECT_STEPS, SLAB_STAGES, check_start, folder_bytes, projections_shape, stage_entries
from .parameters import SKIPPABLE_STAGES, STAGES, Execution, Parameters, Stage, recipe_values
from .plan import Plan, check_disk, compute_tasks, cut_rows, disk_needed, make_plan, whole_slab
from .preprocessing.rotation_center import check_center_can_be_found, covers_full_turn
from .quantification.metrics import working_bytes
from .quantification.pictures import grey, png
from .quantification.provenance import flow_id_of
from .quantification.sidecar import quantification_settings
from .rundir import RUN_FORMAT, RunDirectory, digest_of, file_checksum, share_like, write_json, written_aside
from .scan import Scan, ScanQuality, open_scan, validate, validate_scan_id
from .slabs import devices_for, object_settings, reconstruction_settings
from .volume import SliceLayout, create_slices, link_projections

_FEWEST_COLUMNS = 4

CAMEL_CASE: dict[Stage, str] = {
    "preprocess": "Preprocess",
    "reconstruct": "Reconstruct",
    "denoise": "Denoise",
    "segment": "Segment",
    "separate_objects": "SeparateObjects",
    "quantify": "Quantify",
}
"""Names of the flow's states by stage."""

STEP_STATES = {step: "".join(part.capitalize() for part in step.split("_")) for step in OBJECT_STEPS}
"""Names of the states that come before `SeparateObjects` and are steps of it, by step."""


@dataclass(frozen=True)
class Request:
    """What is asked of a run.

    Parameters
    ----------
    parameters : Parameters
    skip : tuple of str
        Stages left out.
    start_from : str or None
        Stages before this one must be there already, from this recipe or another.
    execution : Execution
    """

    parameters: Parameters
    skip: tuple[Stage, ...] = ()
    start_from: Stage | None = None
    execution: Execution = field(default_factory=Execution)

    def runs(self, stage: Stage) -> bool:
        """Whether the request asks for a stage."""
        return stage not in self.skip


def check_version(version: str) -> None:
    """Refuse to work for functions that were registered by another version of tomopipe than this worker's.

    Raises
    ------
    VersionError
        Names both versions and the command that mends it.
    """
    own = importlib.metadata.version("tomopipe")
    if version != own:
        raise VersionError(
            f"version: the flow was deployed with tomopipe {version}, this worker ({platform.node()}) has {own}; in the "
            f"endpoint's environment run `pip install tomopipe=={version}`, or deploy the flow again with {own}: "
            f"`pip install tomopipe=={own}`, then `tomopipe deploy`"
        )


def check_request(request: Request) -> Request:
    """The request with what it implies, or one message about what is wrong with it.

    Raises
    ------
    ParameterError
        A stage that is unknown or cannot be left out.
    """
    for name in request.skip:
        if name not in SKIPPABLE_STAGES:
            raise ParameterError(f"skip: {name!r} cannot be left out; possible are {', '.join(SKIPPABLE_STAGES)}")
    if request.start_from is not None and request.start_from not in STAGES:
        raise ParameterError(f"from: {request.start_from!r} is no stage; stages are {', '.join(STAGES)}")
    skip = {*request.skip, *(("separate_objects",) if "segment" in request.skip else ())}
    if request.start_from in skip:
        raise ParameterError(f"from: {request.start_from} is also to be skipped; drop one of the two")
    engine_of(request.parameters.reconstruction)
    return replace(request, skip=tuple(stage for stage in STAGES if stage in skip))


def check_scan(scan: Scan, request: Request) -> ScanQuality:
    """Everything about a scan and a request that can be refused before any work on them.

    Parameters
    ----------
    scan : Scan
    request : Request

    Raises
    ------
    ScanError, ParameterError
        One message that names file, dataset or field, and the remedy.
    """
    quality = validate(scan)
    corrector = Corrector(scan, request.parameters, known(scan, request.parameters))
    corrector.check_flats()
    _, _, columns = corrector.shape
    if columns < _FEWEST_COLUMNS:
        raise ParameterError(
            f"scan.columns, scan.binning: leave projections of {columns} column(s) of {scan.path.name}; at least "
            f"{_FEWEST_COLUMNS} are needed"
        )
    center = request.parameters.reconstruction.center
    if center != "auto" and center > columns - 1:
        raise ParameterError(
            f"reconstruction.center={center}: lies outside the {columns} columns of {scan.path.name}; "
            "give a column, or auto"
        )
    if request.parameters.scan.field_of_view == "double" and not covers_full_turn(corrector.theta_rad):
        covered = math.degrees(float(np.ptp(corrector.theta_rad)))
        raise ParameterError(
            f"scan.field_of_view=double: the projections that are used of {scan.path.name} cover {covered:.1f} degrees, and "
            "360 are needed; leave the field at auto"
        )
    if center == "auto":
        try:
            check_center_can_be_found(corrector.theta_rad, columns)
        except InputError as error:
            raise ScanError(f"{scan.path}: {error} (reconstruction.center)") from error
    radii = request.parameters.objects.radii_um
    if radii and request.runs("separate_objects") and voxel_size_of(scan, request.parameters) is None:
        name, radius = next(iter(radii.items()))
        raise ParameterError(
            f"objects.{name}={radius:g}: {scan.path.name} does not say how large a pixel is; set scan.pixel_size_um "
            "(1 to give radii in pixels)"
        )
    plan = _plan(corrector, request, None)
    _object_blocks(corrector.shape, request, plan.memory_bytes)
    if request.runs("segment"):
        _check_quantification(corrector.shape, request, plan.memory_bytes)
    return quality


def _check_quantification(shape: tuple[int, int, int], request: Request, memory_bytes: int) -> None:
    """Refuse a memory budget that does not hold what `Quantify` bins: how it is binned must not depend on the budget."""
    _, rows, columns = shape
    needed = working_bytes((rows, columns, columns), quantification_settings(request.parameters)) * 4 // 3
    if memory_bytes < needed:
        fields = ", ".join(
            f"quantification.{name}_maximum_voxels" for name in ("tortuosity", "tortuosity_factor", "thickness")
        )
        raise ParameterError(
            f"memory: {memory_bytes / 2**20:.0f} MiB a worker do not hold the binned volume that Quantify measures; give at "
            f"least {math.ceil(needed * request.execution.workers / 2**20)} MiB (--memory) or fewer workers (--workers), or "
            f"lower {fields}"
        )


def preview_run(scan: Scan, request: Request, scan_folder: Path, raw_bytes: int = 0) -> dict[str, Any]:
    """Check a scan and the disk, and say how the run would go.

    Parameters
    ----------
    scan : Scan
    request : Request
    scan_folder : Path
        Folder that will hold the scan's results; it need not exist yet.
    raw_bytes : int
        Size of the raw copy that is still to be made there.

    Returns
    -------
    dict
        Shape, stages, slabs, tasks, memory and disk of the run, for a person.
    """
    quality = check_scan(scan, request)
    corrector = Corrector(scan, request.parameters, known(scan, request.parameters))
    kept = [stage for stage in STAGES if request.runs(stage) and stage not in _on_the_fly(request)]
    # What lies there already may be a part of this run: only Inspect knows which recipe it is.
    needed = (
        max(
            0,
            disk_needed(corrector.shape, kept, object_settings(request.parameters.objects)) - folder_bytes(scan_folder),
        )
        + raw_bytes
    )
    check_disk(scan_folder, needed)
    plan = _plan(corrector, request, None)
    angles, rows, columns = scan.shape
    voxel_size = voxel_size_of(scan, request.parameters)
    used = "all" if corrector.shape == scan.shape else "{} of {} x {} pixels".format(*corrector.shape)
    if request.parameters.scan.field_of_view == "double":
        used += ", their halves joined to up to twice the width"
    return {
        "layout": scan.layout,
        "projections": f"{angles} of {rows} x {columns} pixels, {scan.dtype.name}",
        "used": used,
        "flats_and_darks": f"{scan.n_flats} and {scan.n_darks}",
        "theta_deg": "{:g} to {:g}".format(
            *np.rad2deg([corrector.theta_rad.min(), corrector.theta_rad.max()]).round(4)
        ),
        "voxel_size_um": "unknown: results in pixels"
        if voxel_size is None
        else " x ".join(f"{e:g}" for e in voxel_size),
        "nonfinite_values": quality.nonfinite_count,
        "stages": " ".join(CAMEL_CASE[stage] for stage in STAGES if request.runs(stage)),
        "slabs": f"{len(plan.slabs)} of {plan.slab_rows} rows",
        "tasks_a_stage": len(plan.tasks),
        "memory_a_worker_mib": plan.memory_bytes // 2**20,
        "disk_at_most_mb": needed // 10**6,
    }


def _widest(corrector: Corrector, request: Request) -> tuple[int, int, int]:
    """Shape of the projections, as wide as joined halves can become before the axis is known."""
    angles, rows, columns = corrector.shape
    return (angles // 2, rows, 2 * columns) if request.parameters.scan.field_of_view == "double" else corrector.shape


def inspect_scan(
    scan_path: Path, results_root: Path, scan_id: str, request: Request, provenance: Mapping[str, Any] | None = None
) -> RunDirectory:
    """Check a scan, resolve a request, and make the run directory ready for its stages.

    Parameters
    ----------
    scan_path : Path
        The raw scan, inside `<results>/<scan id>/`.
    results_root : Path
    scan_id : str
    request : Request
    provenance : mapping, optional
        Where the run comes from: its id, the collections, when the scan had been transferred; kept in `run.json`.

    Returns
    -------
    RunDirectory
        With `run.json`, empty volumes, and the sample that the automatic values come from.

    Raises
    ------
    ScanError, ParameterError
        The scan or the request cannot be used.
    """
    return_freed_memory()
    started_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    if flow_id_of({"provenance": provenance or {}}) is not None:
        share_like(results_root)
    request = check_request(request)
    scan_folder = results_root / validate_scan_id(scan_id)
    # Two runs of one scan at once must agree on how the files of a recipe are cut.
    with lock(scan_folder / ".inspect.lock"), open_scan(scan_path) as scan:
        quality = check_scan(scan, request)
        checksum = file_checksum(scan_path)
        resolved, sample, corrector = resolve(scan, request.parameters, request.runs)
        digests = _digests(checksum, request, resolved)
        recipe_id = digest_of(digests)[:12]
        run = RunDirectory(scan_folder / recipe_id)
        plan = _plan(corrector, request, _made_slab_rows(run), resolved["padding"])
        angles, rows, columns = corrector.shape
        if request.runs("segment"):  # again, for a field of view may have become wider
            _check_quantification(corrector.shape, request, plan.memory_bytes)
        stages = stage_entries(run, digests, _on_the_fly(request), (rows, columns, columns), plan.slab_rows)
        check_start(request.start_from, request.skip, stages)
        left = [stage for stage in STAGES if stages[stage]["needed"]]
        check_disk(
            run.root,
            disk_needed(corrector.shape, left, object_settings(request.parameters.objects)) - folder_bytes(run.root),
        )
        document = _document(run, scan, corrector, quality, request, plan)
        document["scan"].update(path=os.path.relpath(scan_path, run.root), checksum=checksum)
        document.update(resolved=resolved, stages=stages)
        document["provenance"] = {**(provenance or {}), "inspect_started_at": started_at}
        # run.json first: a start that is killed here finds in it how the files are cut that it has begun to make.
        write_json(run.run_json, document)
        _make_volumes(run, (angles, rows, columns), plan, stages, resolved["voxel_size_um"])
        shutil.rmtree(run.root / "progress", ignore_errors=True)
        _write_sample(run, sample, resolved["center_px"], resolved["grey_range"])
    return run


def task_list(run: RunDirectory, function_ids: dict[str, str]) -> dict[str, Any]:
    """What `Inspect` returns to the flow: which stages are needed, and each stage's tasks, as small as can be.

    Parameters
    ----------
    run : RunDirectory
    function_ids : dict
        Registered function by stage, in snake_case.
    """
    document = run.read_run()
    rows = projections_shape(document)[1]
    root = str(run.root)
    tasks: dict[str, list[dict[str, Any]]] = {}
    for stage, name in CAMEL_CASE.items():
        if not document["stages"][stage]["needed"] and stage != "quantify":
            tasks[name] = []
        elif stage in SLAB_STAGES:
            ranges = cut_rows(rows, document["plan"]["task_rows"])
            tasks[name] = compute_tasks(function_ids[stage], {"run": root}, ranges)
        else:
            tasks[name] = compute_tasks(function_ids[stage], {"run": root})
    # Steps of SeparateObjects; those with a task a part of the volume get their tasks from PrepareObjects, because what
    # an action returns stands twice in the run's state, which is limited.
    in_parts = {step: function_ids[step] for step in ("find_objects", "label_objects")}
    prepare = compute_tasks(function_ids["prepare_objects"], {"run": root, "function_ids": in_parts})
    join = compute_tasks(function_ids["join_objects"], {"run": root})
    needed = document["stages"]["separate_objects"]["needed"]
    tasks |= {"PrepareObjects": prepare if needed else [], "JoinObjects": join if needed else []}
    return {
        "run": root,
        "relative": f"{document['scan_id']}/{document['recipe_id']}",
        "recipe_id": document["recipe_id"],
        "stages": {CAMEL_CASE[stage]: document["stages"][stage]["needed"] for stage in STAGES},
        "tasks": tasks,
    }


def _document(
    run: RunDirectory, scan: Scan, corrector: Corrector, quality: ScanQuality, request: Request, plan: Plan
) -> dict[str, Any]:
    """What `run.json` says of the scan, the request, the plan and the software."""
    resolved_engine = engine_of(request.parameters.reconstruction).name
    return {
        "format": RUN_FORMAT,
        "scan_id": run.root.parent.name,
        "recipe_id": run.root.name,
        "inspected_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        "scan": {
            "layout": scan.layout,
            "shape": list(scan.shape),
            "dtype": scan.dtype.name,
            "theta_deg": [float(scan.theta_deg.min()), float(scan.theta_deg.max())],
            "flats": scan.n_flats,
            "darks": scan.n_darks,
            "metadata": {key: value for key, value in asdict(scan.metadata).items() if value is not None},
            "quality": asdict(quality),
        },
        "projections": {
            "shape": list(corrector.shape),
            "theta_deg": [float(np.rad2deg(angle)) for angle in (corrector.theta_rad.min(), corrector.theta_rad.max())],
        },
        "request": {
            "parameters": request.parameters.model_dump(mode="json"),
            "skip": list(request.skip),
            "start_from": request.start_from,
            "execution": request.execution.model_dump(mode="json", exclude_unset=True),
        },
        "plan": {
            "slab_rows": plan.slab_rows,
            "task_rows": plan.task_rows,
            "worker_memory_bytes": plan.memory_bytes,
            "overlap": plan.overlap,
            "devices": len(devices_for(resolved_engine, request.parameters.reconstruction.gpu_devices)),
            "object_blocks": _kept_blocks(run, _object_blocks(corrector.shape, request, plan.memory_bytes)),
            "notes": _plan_notes(request, plan),
        },
        "software": software(),
    }


def _on_the_fly(request: Request) -> set[Stage]:
    """Stages whose output is not to be kept."""
    kept = request.parameters.keep
    return {stage for stage, name in (("preprocess", "projections"), ("denoise", "denoised")) if name not in kept}  # type: ignore[misc]


def _plan_notes(request: Request, plan: Plan) -> list[str]:
    """Plain words where the work goes otherwise than asked for."""
    notes = [hidden_gpus(request.parameters.reconstruction.gpu_devices)]
    if request.execution.slab and plan.slab_rows != whole_slab(request.execution.slab):
        notes.append(
            f"slabs have {plan.slab_rows} rows, not {request.execution.slab}: memory, or an earlier start of this run"
        )
    return [note for note in notes if note]


def software() -> dict[str, str]:
    """Versions of what computes the numbers, and the machine's architecture."""
    packages = ("tomopipe", "numpy", "scipy", "numba", "scikit-image", "PyWavelets", "h5py", "zarr")
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {**versions, "python": platform.python_version(), "machine": platform.machine()}


def _plan(corrector: Corrector, request: Request, made_slab_rows: int | None, padding: str | None = None) -> Plan:
    angles, _, columns = corrector.shape
    parameters = request.parameters.reconstruction
    if padding is not None:
        parameters = parameters.model_copy(update={"padding": padding})
    return make_plan(
        corrector.shape,
        corrector.row_bytes,
        engine_of(parameters).fixed_memory_bytes(angles, columns, reconstruction_settings(parameters, None)),
        request.execution,
        made_slab_rows,
        "preprocess" in _on_the_fly(request),
        len(devices_for(engine_of(parameters).name, parameters.gpu_devices)),
    )


def _object_blocks(shape: tuple[int, int, int], request: Request, memory_bytes: int) -> list[tuple[int, int]]:
    """Blocks in which objects are looked for; none where they are not."""
    if not request.runs("separate_objects"):
        return []
    _, rows, columns = shape
    settings = object_settings(request.parameters.objects)
    try:
        return object_blocks((rows, columns, columns), settings, memory_bytes)
    except ParameterError as error:
        raise ParameterError(
            f"{error} a worker for the separation of objects (--memory, for all workers together), take fewer workers "
            "(--workers), or leave it out (--skip separate_objects)"
        ) from error


def _kept_blocks(run: RunDirectory, fitting: list[tuple[int, int]]) -> list[list[int]]:
    """The blocks of an earlier start of this run where they still fit the memory, so that what is done of them counts."""
    made = run.read_run()["plan"].get("object_blocks") if run.run_json.is_file() else None
    if made and fitting and _deepest(made) <= _deepest(fitting):
        return [list(block) for block in made]
    return [list(block) for block in fitting]


def _deepest(blocks: Sequence[Sequence[int]]) -> int:
    return max(stop - start for start, stop in blocks)


def _made_slab_rows(run: RunDirectory) -> int | None:
    """Rows a slab of an earlier start of this run: its files are cut so, and stay."""
    if not run.run_json.is_file():
        return None
    return int(run.read_run()["plan"]["slab_rows"])


def _digests(checksum: str, request: Request, resolved: dict[str, Any]) -> dict[Stage, str]:
    """Digest of each stage that the request asks for: its parameters and the digests of what it reads."""
    parameters = request.parameters
    version = importlib.metadata.version("tomopipe")
    reconstruction = {
        **recipe_values(parameters.reconstruction),
        "engine": resolved["engine"],
        "center": resolved["center_px"],
        "padding": resolved["padding"],
        "voxel_size_um": resolved["voxel_size_um"],
    }
    # How the centre was looked for makes no difference beside what was found, nor where the map of bad pixels lies.
    del reconstruction["center_search"]
    preprocessing = recipe_values(parameters.preprocessing)
    del preprocessing["bad_pixel_map"]
    inputs: dict[Stage, Any] = {
        "preprocess": [preprocessing, corrected_with(parameters, resolved)],
        "reconstruct": reconstruction,
        "denoise": [recipe_values(parameters.denoising), resolved["noise_level"]],
        "segment": [recipe_values(parameters.segmentation), resolved.get("thresholds")],
        "separate_objects": recipe_values(parameters.objects),
        # How sure the centre is stands in the metrics, and is known only where it was looked for.
        "quantify": [
            recipe_values(parameters.quantification),
            parameters.objects.phase,
            [resolved.get("center", {}).get("confidence"), resolved["notes"]],
        ],
    }
    digests: dict[Stage, str] = {}
    previous = checksum
    for stage in STAGES:
        if request.runs(stage):
            previous = digests[stage] = digest_of(stage, version, previous, inputs[stage])
    return digests


def _make_volumes(
    run: RunDirectory,
    shape: tuple[int, int, int],
    plan: Plan,
    stages: dict[Stage, dict[str, Any]],
    voxel_size_um: Sequence[float] | None,
) -> None:
    run.root.mkdir(parents=True, exist_ok=True)
    angles, rows, columns = shape
    if stages["preprocess"]["own"]:
        link_projections(run.root / "projections.h5", run.root / "projections", plan.slabs, (angles, rows, columns))
    layout = SliceLayout((rows, columns, columns), plan.slab_rows)
    unit = "micrometer" if voxel_size_um is not None else None
    for stage in ("reconstruct", "denoise"):
        if stages[stage]["own"]:
            path = run.root / cast(str, stages[stage]["output"])
            create_slices(path, layout, path.stem, voxel_size_um or (1.0, 1.0, 1.0), unit)


def _write_sample(
    run: RunDirectory, sample: dict[str, NDArray[Any]], center_px: float, grey_range: list[float]
) -> None:
    """Write the sample, and its middle slice as a picture: the first look at a run, long before its report."""
    with written_aside(run.sample) as aside, h5py.File(aside, "w") as file:
        for name, values in sample.items():
            file.create_dataset(name, data=values)
    slices = sample.get("denoised", sample["slices"])
    with written_aside(run.previews / "sample.png") as aside:
        aside.write_bytes(png(grey(slices[len(slices) // 2], *grey_range)))
    trials = run.previews / "center_trials.png"
    trials.unlink(missing_ok=True)
    if "trial_centers" in sample:
        with written_aside(trials) as aside:
            title = f"{run.root.parent.name}: rotation centres in pixels"
            aside.write_bytes(contact_sheet(sample["trial_slices"], sample["trial_centers"], title, center_px))
