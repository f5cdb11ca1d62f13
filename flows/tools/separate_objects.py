"""The states of `SeparateObjects`: phases to labelled objects, in five steps of which two have a task a part of the volume."""

from __future__ import annotations

from typing import Any, ClassVar

from tomopipe.functions import stages

from .common import COMPUTE_INPUT, Definition, StageTool, State, needed, planned_tasks, transition_states, work_state

# What one task needs of all the others parts the steps: walls of the distances, then which pieces are one object.
OBJECT_STEPS = (
    stages.prepare_objects,
    stages.find_objects,
    stages.join_objects,
    stages.label_objects,
    stages.separate_objects,
)


def _prepared_tasks(name: str) -> State:
    return {"tasks.$": f"$.PrepareObjects.details.results[0].output.tasks.{name}"}


class SeparateObjects(StageTool):
    """Phases to labelled objects; passed over where the request leaves it out."""

    required_input: ClassVar[list[str]] = [*COMPUTE_INPUT]
    compute_functions: ClassVar[list[Any]] = list(OBJECT_STEPS)
    flow_transition_states: ClassVar[list[str]] = transition_states("SeparateObjects")
    flow_definition: ClassVar[Definition] = {
        "StartAt": "SeparateObjectsNeeded",
        "States": {
            **needed("SeparateObjects", "PrepareObjects"),
            **work_state(
                stages.prepare_objects, planned_tasks("PrepareObjects"), "FindObjects", result="PrepareObjects"
            ),
            **work_state(stages.find_objects, _prepared_tasks("FindObjects"), "JoinObjects"),
            **work_state(stages.join_objects, planned_tasks("JoinObjects"), "LabelObjects"),
            **work_state(stages.label_objects, _prepared_tasks("LabelObjects"), "SeparateObjects"),
            **work_state(stages.separate_objects, planned_tasks("SeparateObjects")),
        },
    }
