"""The functions that are registered with Globus Compute: thin and stable, their imports inside.

A worker receives their source text alone: annotations use builtins, and everything they do lies in the installed package.
"""

from __future__ import annotations


def inspect(
    scan_path: str,
    results_root: str,
    scan_id: str,
    parameters: dict[str, object],
    skip: list[str],
    start_from: str | None,
    execution: dict[str, object],
    function_ids: dict[str, str],
    version: str,
    provenance: dict[str, object],
) -> dict[str, object]:
    """Check a scan, resolve every parameter, write run.json, and return each later stage's tasks."""
    from pathlib import Path

    from tomopipe.functions.inspection import Request, check_version, inspect_scan, task_list
    from tomopipe.functions.parameters import Execution, parse_parameters, validate_model

    check_version(version)
    request = Request(
        parse_parameters(parameters),
        tuple(skip),  # type: ignore[arg-type]
        start_from or None,  # type: ignore[arg-type]
        validate_model(Execution, execution, "execution"),
    )
    return task_list(inspect_scan(Path(scan_path), Path(results_root), scan_id, request, provenance), function_ids)


def preprocess(run: str, start: int, stop: int) -> dict[str, object]:
    """Turn raw rows into corrected projections."""
    from tomopipe.functions.tasks import preprocess_task

    return preprocess_task(run, start, stop)


def reconstruct(run: str, start: int, stop: int) -> dict[str, object]:
    """Turn corrected projections into slices."""
    from tomopipe.functions.tasks import reconstruct_task

    return reconstruct_task(run, start, stop)


def denoise(run: str, start: int, stop: int) -> dict[str, object]:
    """Remove noise from slices."""
    from tomopipe.functions.tasks import denoise_task

    return denoise_task(run, start, stop)


def segment(run: str, start: int, stop: int) -> dict[str, object]:
    """Tell the phases of slices apart."""
    from tomopipe.functions.tasks import segment_task

    return segment_task(run, start, stop)


def prepare_objects(run: str, function_ids: dict[str, str]) -> dict[str, object]:
    """Open, close and fill the phase whose objects are wanted, find its walls, and return the tasks of the next steps."""
    from tomopipe.functions.object_tasks import prepare_objects_task

    return prepare_objects_task(run, function_ids)


def find_objects(run: str, start: int, stop: int) -> dict[str, object]:
    """Find the pieces of objects in parts of the volume."""
    from tomopipe.functions.object_tasks import find_objects_task

    return find_objects_task(run, start, stop)


def join_objects(run: str) -> dict[str, object]:
    """Join pieces to objects and number them."""
    from tomopipe.functions.object_tasks import join_objects_task

    return join_objects_task(run)


def label_objects(run: str, start: int, stop: int) -> dict[str, object]:
    """Label and measure the objects in parts of the volume."""
    from tomopipe.functions.object_tasks import label_objects_task

    return label_objects_task(run, start, stop)


def separate_objects(run: str) -> dict[str, object]:
    """Gather the labels and tables of the objects."""
    from tomopipe.functions.object_tasks import separate_objects_task

    return separate_objects_task(run)


def quantify(run: str) -> dict[str, object]:
    """Measure phases and objects, write the report, and return the search document."""
    from tomopipe.functions.tasks import quantify_task

    return quantify_task(run)
