"""The state `Inspect`: opens the scan, resolves every parameter and plans the tasks of all later stages."""

from __future__ import annotations

from typing import Any, ClassVar

from tomopipe.functions import stages

from .common import (
    COMPUTE_INPUT,
    PLAN,
    RAW_NAME,
    Definition,
    StageTool,
    compute_state,
    failed_state,
    function_id_field,
)
from .separate_objects import OBJECT_STEPS

PLANNED_FUNCTIONS = (
    stages.preprocess,
    stages.reconstruct,
    stages.denoise,
    stages.segment,
    *OBJECT_STEPS,
    stages.quantify,
)

_KWARGS: dict[str, Any] = {
    "scan_path.=": f"input.processing_root + '/' + input.scan_id + '/{RAW_NAME}'",
    "results_root.$": "$.input.processing_root",
    "scan_id.$": "$.input.scan_id",
    "parameters.$": "$.input.parameters",
    "skip.$": "$.input.skip",
    "start_from.$": "$.input.start_from",
    "execution.$": "$.input.execution",
    "version.$": "$.input.version",
    "provenance": {
        "run_id.$": "$._context.run_id",
        "flow_id.$": "$._context.flow_id",
        "functions_digest.$": "$.input.functions_digest",
        "transferred_at.$": "$.TransferScan.completion_time",
        "source.$": "$.input.scan",
        "processing.$": "$.input.processing",
        "results_url.$": "$.input.results_url",
    },
    "function_ids": {f"{f.__name__}.$": f"$.input.{function_id_field(f)}" for f in PLANNED_FUNCTIONS},
}


class Inspect(StageTool):
    """Refuses a bad scan, resolves the parameters, and returns the task list of each later stage."""

    required_input: ClassVar[list[str]] = [
        *COMPUTE_INPUT, "processing_root", "scan_id", "parameters", "skip", "start_from", "execution", "version",
        "functions_digest", "results_url", "scan", "processing",
    ]  # fmt: skip
    compute_functions: ClassVar[list[Any]] = [stages.inspect]
    flow_definition: ClassVar[Definition] = {
        "StartAt": "Inspect",
        "States": {
            "Inspect": compute_state(
                stages.inspect,
                {"tasks": [{"function_id.$": f"$.input.{function_id_field(stages.inspect)}", "kwargs": _KWARGS}]},
                next_state="Plan",
            ),
            "Plan": {
                # The provider returns every output twice; the task lists are the greater part of the run's state.
                "Comment": "Keeps one copy of what Inspect returned, and nothing else of it.",
                "Type": "Pass",
                "Parameters": {"details": {"results": [{"output.$": PLAN}]}},
                "ResultPath": "$.Inspect",
                "End": True,
            },
            **failed_state("Inspect", planned=False),
        },
    }
