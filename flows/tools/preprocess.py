"""The state `Preprocess`: raw rows to corrected projections, one task a slab."""

from __future__ import annotations

from typing import Any, ClassVar

from tomopipe.functions import stages

from .common import COMPUTE_INPUT, Definition, StageTool, skippable_stage, transition_states


class Preprocess(StageTool):
    """Raw rows to corrected projections, one task a slab; passed over where it is not needed."""

    required_input: ClassVar[list[str]] = [*COMPUTE_INPUT]
    compute_functions: ClassVar[list[Any]] = [stages.preprocess]
    flow_transition_states: ClassVar[list[str]] = transition_states("Preprocess")
    flow_definition: ClassVar[Definition] = skippable_stage(stages.preprocess)
