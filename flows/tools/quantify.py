"""The state `Quantify`: metrics, report and search document, one task."""

from __future__ import annotations

from typing import Any, ClassVar

from tomopipe.functions import stages

from .common import COMPUTE_INPUT, Definition, StageTool, planned_stage


class Quantify(StageTool):
    """Metrics of whatever volumes the run has made; runs always, because its document is what gets published."""

    required_input: ClassVar[list[str]] = [*COMPUTE_INPUT]
    compute_functions: ClassVar[list[Any]] = [stages.quantify]
    flow_definition: ClassVar[Definition] = planned_stage(stages.quantify)
