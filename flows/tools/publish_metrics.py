"""The state `PublishMetrics`, the last of a good run, and the states in which a failed run ends."""

from __future__ import annotations

from typing import ClassVar

from .common import (
    RUN_FAILURE_SUBJECT,
    RUN_SUBJECT,
    SCAN_FAILURE_SUBJECT,
    SEARCH_ENTRY_ID,
    SEARCH_INGEST_URL,
    SEARCH_INPUT,
    SEARCH_WAIT_S,
    Definition,
    StageTool,
    action_state,
    failed_state,
    failure_states,
    forget_failure,
)

_COMMENT = "Publishes the metrics to the search index."


class PublishMetrics(StageTool):
    """Puts the document that `Quantify` made into the search index, under the run directory as its subject.

    Records of earlier failures of the scan and of the recipe go before.
    """

    required_input: ClassVar[list[str]] = [*SEARCH_INPUT]
    flow_definition: ClassVar[Definition] = {
        "StartAt": "ForgetScanFailure",
        "States": {
            **forget_failure("ForgetScanFailure", SCAN_FAILURE_SUBJECT, "ForgetRunFailure"),
            **forget_failure("ForgetRunFailure", RUN_FAILURE_SUBJECT, "PublishMetrics"),
            "PublishMetrics": action_state(
                "PublishMetrics",
                _COMMENT,
                SEARCH_INGEST_URL,
                SEARCH_WAIT_S,
                {
                    "search_index.$": "$.input.search_index",
                    "subject.=": RUN_SUBJECT,
                    "visible_to.$": "$.input.visible_to",
                    "id": SEARCH_ENTRY_ID,
                    "content.$": "$.Quantify.details.results[0].output.document",
                },
            ),
            **failed_state("PublishMetrics", planned=True),
            **failure_states(),
        },
    }
