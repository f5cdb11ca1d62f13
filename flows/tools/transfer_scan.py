"""The state `TransferScan`: the raw file from the beamline's collection to the processing collection."""

from __future__ import annotations

from typing import ClassVar

from .common import (
    RAW_NAME,
    SCAN_FOLDER,
    TRANSFER_URL,
    TRANSFER_WAIT_S,
    Definition,
    StageTool,
    action_state,
    failed_state,
)

_COMMENT = "Copies the raw file to the processing collection, checksums verified."


class TransferScan(StageTool):
    """Copies the raw file, checksums verified; a file that lies there already, unchanged, is not sent again.

    Encryption is left to the collections: one that needs it enforces it, others keep their full speed.
    """

    required_input: ClassVar[list[str]] = ["scan", "scan_id", "processing"]
    flow_definition: ClassVar[Definition] = {
        "StartAt": "TransferScan",
        "States": {
            "TransferScan": action_state(
                "TransferScan",
                _COMMENT,
                TRANSFER_URL,
                TRANSFER_WAIT_S,
                {
                    "source_endpoint.$": "$.input.scan.id",
                    "destination_endpoint.$": "$.input.processing.id",
                    "label.=": "'tomopipe scan ' + input.scan_id",
                    "DATA": [
                        {
                            "source_path.$": "$.input.scan.path",
                            "destination_path.=": f"{SCAN_FOLDER} + '/{RAW_NAME}'",
                            "recursive": False,
                        }
                    ],
                    "verify_checksum": True,
                    "sync_level": 3,
                    "fail_on_quota_errors": True,
                    "notify_on_succeeded": False,
                },
            ),
            **failed_state("TransferScan", planned=False),
        },
    }
