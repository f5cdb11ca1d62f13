"""The state `SeparateObjects`: phases to labelled objects, one task."""

from __future__ import annotations

from typing import Any, ClassVar

from tomopipe.functions import stages

from .common import COMPUTE_INPUT, Definition, StageTool, skippable_stage, transition_states


class SeparateObjects(StageTool):
    """Phases to labelled objects, one task; passed over where the request leaves it out."""

    required_input: ClassVar[list[str]] = [*COMPUTE_INPUT]
    compute_functions: ClassVar[list[Any]] = [stages.separate_objects]
    flow_transition_states: ClassVar[list[str]] = transition_states("SeparateObjects")
    flow_definition: ClassVar[Definition] = skippable_stage(stages.separate_objects)
