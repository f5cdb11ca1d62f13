"""The state `Denoise`: slices to slices with less noise, one task a slab."""

from __future__ import annotations

from typing import Any, ClassVar

from tomopipe.functions import stages

from .common import COMPUTE_INPUT, Definition, StageTool, skippable_stage, transition_states


class Denoise(StageTool):
    """Slices to slices with less noise, one task a slab; passed over where the request leaves it out."""

    required_input: ClassVar[list[str]] = [*COMPUTE_INPUT]
    compute_functions: ClassVar[list[Any]] = [stages.denoise]
    flow_transition_states: ClassVar[list[str]] = transition_states("Denoise")
    flow_definition: ClassVar[Definition] = skippable_stage(stages.denoise)
