"""The state `Segment`: slices to phases, one task a slab."""

from __future__ import annotations

from typing import Any, ClassVar

from tomopipe.functions import stages

from .common import COMPUTE_INPUT, Definition, StageTool, skippable_stage, transition_states


class Segment(StageTool):
    """Slices to phases, one task a slab; passed over where the request leaves it out."""

    required_input: ClassVar[list[str]] = [*COMPUTE_INPUT]
    compute_functions: ClassVar[list[Any]] = [stages.segment]
    flow_transition_states: ClassVar[list[str]] = transition_states("Segment")
    flow_definition: ClassVar[Definition] = skippable_stage(stages.segment)
