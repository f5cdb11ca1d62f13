"""The state `Reconstruct`: projections to slices, one task a slab."""

from __future__ import annotations

from typing import Any, ClassVar

from tomopipe.functions import stages

from .common import COMPUTE_INPUT, Definition, StageTool, skippable_stage, transition_states


class Reconstruct(StageTool):
    """Projections to slices, one task a slab; passed over where an earlier run has done it."""

    required_input: ClassVar[list[str]] = [*COMPUTE_INPUT]
    compute_functions: ClassVar[list[Any]] = [stages.reconstruct]
    flow_transition_states: ClassVar[list[str]] = transition_states("Reconstruct")
    flow_definition: ClassVar[Definition] = skippable_stage(stages.reconstruct)
