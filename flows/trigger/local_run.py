"""The process of one local run of the trigger: `python -m tomopipe.flows.trigger.local_run REQUEST.json LOCK`.

The run is recorded in the store as any other; only what kept it from beginning is told to the trigger in a file.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from tomopipe.functions.errors import InputError, TomopipeError
from tomopipe.functions.parameters import Execution, parse_parameters, validate_model
from tomopipe.functions.rundir import write_json


def main(request_file: Path, lock: int) -> int:
    """Run what a request file says, and return the exit code.

    Parameters
    ----------
    request_file : Path
    lock : int
        Descriptor of the lock that says, while it is open, that this run is being worked on.
    """
    from ..local.run import LocalRequest, check_run, start_run

    # The workers of the run shall not hold the lock when this process is gone.
    os.set_inheritable(lock, False)
    request: dict[str, Any] = json.loads(request_file.read_text(encoding="utf-8"))
    outcome = Path(request["outcome"])
    try:
        checked = check_run(
            LocalRequest(
                scan=Path(request["scan"]),
                output=Path(request["output"]),
                parameters=parse_parameters(request["parameters"]),
                skip=tuple(request["skip"]),
                execution=validate_model(Execution, request["execution"], "local.execution"),
                scan_id=request["scan_id"],
                copy_to=None if request["copy_to"] is None else Path(request["copy_to"]),
                tags=tuple(request["tags"]),
                run_id=request["run_id"],
            )
        )
    except InputError as error:
        write_json(outcome, {"refused": True, "reason": str(error)})
        return 2
    try:
        # SIGTERM ends this process as a reboot does: the run shows as interrupted, and the trigger lets it go on.
        result = start_run(checked)
    except TomopipeError as error:
        # Another run of the scan is in progress, or the store cannot be used: later it may be.
        write_json(outcome, {"refused": False, "reason": str(error)})
        return 1
    return 0 if result.outcome.status == "SUCCEEDED" else 1


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
