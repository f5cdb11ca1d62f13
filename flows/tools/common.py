"""What the tools share: addresses and waiting times of the action providers, and the shapes of their states.

What a stage does is left to the tools, their order to `tomography`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gladier import GladierBaseTool

State = dict[str, Any]
States = dict[str, State]
Definition = dict[str, Any]

COMPUTE_URL = "https://compute.actions.globus.org/v3"
TRANSFER_URL = "https://transfer.actions.globus.org/transfer"
SEARCH_INGEST_URL = "https://actions.globus.org/search/ingest"
SEARCH_DELETE_URL = "https://actions.globus.org/search/delete"

# A batch job may wait in its queue for days before it computes for minutes.
COMPUTE_WAIT_S = 7 * 24 * 3600
TRANSFER_WAIT_S = 24 * 3600
SEARCH_WAIT_S = 3600
SEARCH_DELETE_WAIT_S = 600

# What `Inspect` returns, as a path of the run's state and as a name in expressions.
PLAN = "$.Inspect.details.results[0].output"
PLAN_NAME = PLAN.removeprefix("$.")
# What the latest stage returned, whichever it was.
LATEST_STAGE = "LatestStage"

RAW_NAME = "raw.h5"
SCAN_FOLDER = "input.processing.path + '/' + input.scan_id"
RUN_FOLDER = f"input.processing.path + '/' + {PLAN_NAME}.relative"
_COLLECTION = "'globus://' + input.processing.id"
SCAN_SUBJECT = f"{_COLLECTION} + {SCAN_FOLDER}"
RUN_SUBJECT = f"{_COLLECTION} + {RUN_FOLDER}"
# A good run's record and a failure's have subjects of their own: a failure hides no result that is there, and goes when
# a later run of the same is good.
SEARCH_ENTRY_ID = "run"
SCAN_FAILURE_SUBJECT = f"{SCAN_SUBJECT} + '/failure'"
RUN_FAILURE_SUBJECT = f"{RUN_SUBJECT} + '/failure'"
# Of the records of good and failed runs alike; `functions.quantification.document` makes those of good runs and has the
# schema of both.
DOCUMENT_FORMAT = "tomopipe-document/2"

COMPUTE_INPUT = ("compute_endpoint", "user_endpoint_config")
SEARCH_INPUT = ("search_index", "visible_to", "processing", "scan_id")

_DESCRIBE_SCAN_FAILURE = "DescribeScanFailure"
_DESCRIBE_RUN_FAILURE = "DescribeRunFailure"
_ACTION_ERRORS = ("ActionUnableToRun", "ActionFailedException", "ActionTimeout")


class StageTool(GladierBaseTool):  # type: ignore[misc]  # Gladier carries no types
    """Base of the tools: definitions are written out, because Gladier's builder has no Choice, Catch or Transfer."""


def state_name(function: Callable[..., Any]) -> str:
    """Name of the state that runs a registered function: UpperCamelCase of the function's name."""
    return "".join(part.capitalize() for part in function.__name__.split("_"))


def function_id_field(function: Callable[..., Any]) -> str:
    """Field of the flow's input that holds a registered function's id; the name is Gladier's."""
    return f"{function.__name__}_function_id"


def action_state(
    name: str,
    comment: str,
    url: str,
    wait_s: int,
    parameters: State,
    next_state: str | None = None,
    result: str | None = None,
) -> State:
    """An Action whose every error leads to the state `<name>Failed`; ends its tool unless it has a next state.

    Its result is kept under `result` in the run's state, by default under its name.
    """
    return {
        "Comment": comment,
        "Type": "Action",
        "ActionUrl": url,
        "Parameters": parameters,
        "ResultPath": f"$.{result or name}",
        "WaitTime": wait_s,
        "ExceptionOnActionFailure": True,
        "Catch": catch(f"{name}Failed", "$.Failure"),
        **({"Next": next_state} if next_state else {"End": True}),
    }


def catch(target: str, result_path: str) -> list[State]:
    """Catchers of every error: the documented ones by name, then whatever else there may be."""
    groups = (list(_ACTION_ERRORS), ["States.All"])
    return [{"ErrorEquals": errors, "ResultPath": result_path, "Next": target} for errors in groups]


def failed_state(name: str, *, planned: bool) -> States:
    """The state that notes which stage failed.

    Parameters
    ----------
    name : str
        State that failed.
    planned : bool
        Whether `Inspect` has run before it: then the record belongs to the run directory, else to the scan.
    """
    return {
        f"{name}Failed": {
            "Comment": f"Notes that {name} failed.",
            "Type": "Pass",
            "Result": {"name": name},
            "ResultPath": "$.FailedStage",
            "Next": _DESCRIBE_RUN_FAILURE if planned else _DESCRIBE_SCAN_FAILURE,
        }
    }


def compute_state(
    function: Callable[..., Any], tasks: State, next_state: str | None = None, result: str | None = None
) -> State:
    """An Action that runs a registered function.

    Every compute state passes the same `user_endpoint_config`, so that all stages share one warm block of nodes.

    Parameters
    ----------
    function : callable
        Registered function; the first line of its docstring becomes the comment.
    tasks : dict
        The provider's `tasks`, written out or as a reference (`tasks.$`).
    next_state : str, optional
        The next state within the tool; without one the state ends it.
    result : str, optional
        Where in the run's state the result is kept; by default under the state's name.
    """
    parameters = {
        "endpoint_id.$": "$.input.compute_endpoint",
        "user_endpoint_config.$": "$.input.user_endpoint_config",
        **tasks,
    }
    name, comment = state_name(function), _summary(function)
    return action_state(name, comment, COMPUTE_URL, COMPUTE_WAIT_S, parameters, next_state, result)


def planned_stage(function: Callable[..., Any]) -> Definition:
    """Definition of a stage that always runs, with the tasks that `Inspect` planned."""
    name = state_name(function)
    states = {name: compute_state(function, planned_tasks(name)), **failed_state(name, planned=True)}
    return {"StartAt": name, "States": states}


def skippable_stage(function: Callable[..., Any]) -> Definition:
    """Definition of a stage that `Inspect` may pass over: the choice, the stage, and where the choice leads else."""
    name = state_name(function)
    states = {**needed(name), **work_state(function, planned_tasks(name))}
    return {"StartAt": f"{name}Needed", "States": states}


def needed(stage: str, first: str | None = None) -> States:
    """The choice whether a stage is needed, by the word of `Inspect`; `first` is its first state, by default its only one."""
    return choice(stage, {"Variable": f"{PLAN}.stages.{stage}", "BooleanEquals": True}, first)


def work_state(
    function: Callable[..., Any], tasks: State, next_state: str | None = None, result: str = LATEST_STAGE
) -> States:
    """The state of a stage, or of a step of one, with the state that notes its failure.

    Nothing reads what most of them return; then each overwrites what the one before has returned, because the run's
    state is limited.
    """
    name = state_name(function)
    return {name: compute_state(function, tasks, next_state, result), **failed_state(name, planned=True)}


def choice(name: str, rule: State, first: str | None = None) -> States:
    """`<name>Needed`: where the rule holds it leads to `first` (by default `name`), else to `<name>Skipped`, an end too."""
    return {
        f"{name}Needed": {
            "Comment": f"Whether {name} is to run.",
            "Type": "Choice",
            "Choices": [{**rule, "Next": first or name}],
            "Default": f"{name}Skipped",
        },
        f"{name}Skipped": {"Comment": f"{name} is passed over.", "Type": "Pass", "End": True},
    }


def transition_states(name: str) -> list[str]:
    """Where a tool made with `choice` goes on to the next tool."""
    return [name, f"{name}Skipped"]


def forget_failure(name: str, subject: str, next_state: str) -> States:
    """The state that takes the record of an earlier failure out of the index; where that fails, the run goes on."""
    return {
        name: {
            "Comment": "Takes the record of an earlier failure out of the search index.",
            "Type": "Action",
            "ActionUrl": SEARCH_DELETE_URL,
            "Parameters": {"search_index.$": "$.input.search_index", "delete_by": "subject", "subject.=": subject},
            "ResultPath": f"$.{LATEST_STAGE}",
            "WaitTime": SEARCH_DELETE_WAIT_S,
            "ExceptionOnActionFailure": True,
            "Catch": catch(next_state, f"$.{LATEST_STAGE}"),
            "Next": next_state,
        }
    }


def failure_states() -> States:
    """States that every failed stage ends in: describe the failure, publish it, fail the run.

    Gladier chains tools by their ends, so these states lie within the last tool, reached through `Catch` alone.
    """
    return {
        _DESCRIBE_SCAN_FAILURE: _describe_failure(
            "Record of a failure before there was a run directory: it belongs to the scan.", SCAN_FAILURE_SUBJECT, {}
        ),
        _DESCRIBE_RUN_FAILURE: _describe_failure(
            "Record of a failure of a run.", RUN_FAILURE_SUBJECT, {"recipe_id.$": f"{PLAN}.recipe_id"}
        ),
        "PublishFailure": _publish_failure("PublishFailure", "ShortenFailure"),
        "ShortenFailure": {
            # Many tasks that fail at once may say more than one field of an index holds.
            "Comment": "Leaves out of the record what the index may have refused it for.",
            "Type": "ExpressionEval",
            "Parameters": {
                "stage.$": "$.FailedStage.name",
                "error.$": "$.Failure.content.failure.error",
                "cause": "The index refused the record of this failure with its cause; the run's log has it.",
            },
            "ResultPath": "$.Failure.content.failure",
            "Next": "PublishShortFailure",
        },
        "PublishShortFailure": _publish_failure("PublishShortFailure", "RunFailed"),
        "RunFailed": {
            "Comment": "A run of which a stage failed is shown as failed.",
            "Type": "Fail",
            "ErrorPath": "$.Failure.content.failure.error",
            "CausePath": "$.Failure.content.failure.cause",
        },
    }


def _publish_failure(name: str, otherwise: str) -> State:
    return {
        "Comment": "Makes the failure searchable, as a success would be.",
        "Type": "Action",
        "ActionUrl": SEARCH_INGEST_URL,
        "InputPath": "$.Failure",
        "ResultPath": f"$.{name}",
        "WaitTime": SEARCH_WAIT_S,
        "ExceptionOnActionFailure": True,
        "Catch": catch(otherwise, f"$.{name}"),
        "Next": "RunFailed",
    }


def _describe_failure(comment: str, subject: str, recipe: State) -> State:
    # The record takes the place of the caught error: an error's cause may be long, and the run's state is limited.
    return {
        "Comment": comment,
        "Type": "ExpressionEval",
        "Parameters": {
            "search_index.$": "$.input.search_index",
            "subject.=": subject,
            "visible_to.$": "$.input.visible_to",
            "id": SEARCH_ENTRY_ID,
            "content": {
                "format": DOCUMENT_FORMAT,
                "status": "failed",
                "scan_id.$": "$.input.scan_id",
                **recipe,
                "source": {"collection.$": "$.input.scan.id", "path.$": "$.input.scan.path"},
                "provenance": {
                    "run_id.$": "$._context.run_id",
                    "flow_id.$": "$._context.flow_id",
                    "tomopipe.$": "$.input.version",
                    "functions_digest.$": "$.input.functions_digest",
                },
                "failure": {
                    "stage.$": "$.FailedStage.name",
                    "error.$": "$.Failure.Error",
                    "cause.$": "$.Failure.Cause",
                },
            },
        },
        "ResultPath": "$.Failure",
        "Next": "PublishFailure",
    }


def planned_tasks(name: str) -> State:
    """The tasks that `Inspect` planned for a state."""
    return {"tasks.$": f"{PLAN}.tasks.{name}"}


def _summary(function: Callable[..., Any]) -> str:
    # A function without a docstring would make the comment null, which the Flows service refuses.
    if not function.__doc__:
        raise ValueError(f"{function.__name__} needs a docstring: its first line becomes the state's comment")
    return function.__doc__.strip().splitlines()[0]
