"""The state `TransferResults`: the run directory to the collection that the request names, if it names one."""

from __future__ import annotations

from typing import ClassVar

from .common import (
    PLAN_NAME,
    RUN_FOLDER,
    TRANSFER_URL,
    TRANSFER_WAIT_S,
    Definition,
    StageTool,
    action_state,
    choice,
    failed_state,
    transition_states,
)

_COMMENT = "Copies the run directory to the destination collection, checksums verified."


class TransferResults(StageTool):
    """Copies the run directory, checksums verified; passed over where the request names no destination."""

    required_input: ClassVar[list[str]] = ["scan_id", "processing"]
    flow_transition_states: ClassVar[list[str]] = transition_states("TransferResults")
    flow_definition: ClassVar[Definition] = {
        "StartAt": "TransferResultsNeeded",
        "States": {
            **choice("TransferResults", {"Variable": "$.input.destination", "IsPresent": True}),
            "TransferResults": action_state(
                "TransferResults",
                _COMMENT,
                TRANSFER_URL,
                TRANSFER_WAIT_S,
                {
                    "source_endpoint.$": "$.input.processing.id",
                    "destination_endpoint.$": "$.input.destination.id",
                    "label.=": "'tomopipe results ' + input.scan_id",
                    "DATA": [
                        {
                            "source_path.=": f"{RUN_FOLDER} + '/'",
                            "destination_path.=": f"input.destination.path + '/' + {PLAN_NAME}.relative + '/'",
                            "recursive": True,
                        }
                    ],
                    "verify_checksum": True,
                    "sync_level": 3,
                    "fail_on_quota_errors": True,
                    "notify_on_succeeded": False,
                },
            ),
            **failed_state("TransferResults", planned=True),
        },
    }
