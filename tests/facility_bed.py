"""A facility of web services alone, for tests of the client: a small flow that ends as the scan's id says.

The input's schema is that of a deployed flow; what its stages do is left to the tests of the whole facility.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml
from facility.services.flows import Run
from facility.services.http import Request, Response
from facility.services.web import WebServices

from tomopipe.flows.client import Client
from tomopipe.flows.deploy import deployed_schema
from tomopipe.flows.deployment import load_deployment
from tomopipe.flows.login import make_services
from tomopipe.flows.request import FUNCTIONS
from tomopipe.flows.tools.common import TRANSFER_URL
from tomopipe.functions.rundir import write_json

HELD, BAD, COPIED = "held", "bad", "copied"
"""Beginnings of scan ids: the run goes on for a minute, fails, or copies its scan."""


def _rule(beginning: str, state: str) -> dict[str, Any]:
    return {"Variable": "$.input.scan_id", "StringMatches": f"{beginning}*", "Next": state}


DEFINITION: dict[str, Any] = {
    "Comment": "Ends as the scan's id says.",
    "StartAt": "Choose",
    "States": {
        "Choose": {
            "Comment": "How the run shall end.",
            "Type": "Choice",
            "Choices": [_rule(HELD, "Hold"), _rule(BAD, "Refuse"), _rule(COPIED, "TransferScan")],
            "Default": "Done",
        },
        "Hold": {"Comment": "Is under way.", "Type": "Wait", "Seconds": 60, "Next": "Done"},
        "Refuse": {"Comment": "Fails.", "Type": "Fail", "Error": "ScanError", "Cause": "no flats"},
        "TransferScan": {
            "Comment": "Copies the scan.",
            "Type": "Action",
            "ActionUrl": TRANSFER_URL,
            "Parameters": {
                "source_endpoint.$": "$.input.scan.id",
                "destination_endpoint.$": "$.input.processing.id",
                "DATA": [
                    {
                        "source_path.$": "$.input.scan.path",
                        "destination_path.=": "input.processing.path + '/' + input.scan_id + '/raw.h5'",
                    }
                ],
            },
            "ResultPath": "$.TransferScan",
            "WaitTime": 60,
            "ExceptionOnActionFailure": True,
            "Catch": [{"ErrorEquals": ["States.All"], "ResultPath": "$.Failure", "Next": "Refuse"}],
            "Next": "Done",
        },
        "Done": {"Comment": "Succeeds.", "Type": "Pass", "End": True},
    },
}


@dataclass
class FacilityBed:
    """Services, a deployment's file, and who asks.

    Parameters
    ----------
    web : WebServices
    folder : Path
        Holds `raw` and `results`, the roots of the collections.
    file : Path
        The deployment.
    flow_id, index_id, account : str
        UUIDs; the account is the service account that asks.
    """

    web: WebServices
    folder: Path
    file: Path
    flow_id: str
    index_id: str
    account: str

    def client(self) -> Client:
        """A client as a script has it."""
        return Client(self.file)

    def scan(self, name: str) -> str:
        """A small scan of the beamline."""
        path = self.folder / "raw" / name
        with h5py.File(path, "w") as file:
            for field, frames in (("data", 2), ("data_white", 1), ("data_dark", 1)):
                file[f"exchange/{field}"] = np.full((frames, 2, 2), frames, np.uint16)
            file["exchange/theta"] = np.array([0.0, 90.0])
        return str(path)

    def runs(self) -> list[Run]:
        """Runs at the service."""
        return self.web.runs

    @contextlib.contextmanager
    def lagging_list(self, lag_s: float = float("inf")) -> Iterator[None]:
        """Let the service's list leave out runs that it saw first less than `lag_s` ago, but those of before."""
        flows = self.web.flows
        whole = flows._list_runs
        seen = {run.id: float("-inf") for run in self.runs()}

        def late(request: Request) -> Response:
            for run in self.runs():
                seen.setdefault(run.id, time.monotonic())
            response = whole(request)
            shown = [one for one in response.document["runs"] if time.monotonic() - seen[one["run_id"]] >= lag_s]
            return replace(response, document={**response.document, "runs": shown})

        flows._list_runs = late  # type: ignore[method-assign]
        try:
            yield
        finally:
            flows._list_runs = whole  # type: ignore[method-assign]

    def inspected(self, run_id: str, relative: str) -> None:
        """Let a run's log say what `Inspect` made of the scan: the run directory below the results folder."""
        run = next(run for run in self.runs() if run.id == run_id)
        output = {
            "details": {"results": [{"output": {"relative": relative, "run": f"/machine/tomography/{relative}"}}]}
        }
        run.event("ActionCompleted", "done", {"state_name": "Inspect", "state_type": "Action", "output": output})

    def hold(self, run_id: str, **details: Any) -> Run:
        """Let a run that is under way wait for a person."""
        run = next(run for run in self.runs() if run.id == run_id)
        run.status, run.details = "INACTIVE", {"state_name": "Hold", **details}
        return run

    def end(self, run_id: str) -> None:
        """Cancel a run as its owner does elsewhere."""
        run = next(run for run in self.runs() if run.id == run_id)
        run.cancel.set()
        assert run.thread is not None
        run.thread.join(timeout=20)

    def publish(self, subject: str, content: dict[str, Any]) -> None:
        """Put a record into the index."""
        with make_services(load_deployment(self.file)) as services:
            entry = {"subject": subject, "id": "run", "visible_to": ["public"], "content": content}
            task = services.search.ingest(self.index_id, {"ingest_type": "GMetaEntry", "ingest_data": entry})
            assert task["acknowledged"]
            while services.search.get_task(task["task_id"])["state"] not in ("SUCCESS", "FAILED"):
                pass
            assert services.search.get_task(task["task_id"])["state"] == "SUCCESS"


def make_bed(
    web: WebServices, folder: Path, home: Path, account: str, *, mapped: bool = False, **more: Any
) -> FacilityBed:
    """Deploy the small flow. The environment must hold the services' addresses, the account and the home."""
    (folder / "raw").mkdir()
    (folder / "results" / "tomography").mkdir(parents=True)
    source = web.add_collection("beamline", folder / "raw", mapped=mapped)
    processing = web.add_collection("processing", folder / "results")
    file = folder / "beamline.yaml"
    document = {
        "format": "tomopipe-deployment/1",
        "title": "A beamline on this machine",
        "source": {"collection": source, "path": "/", "host_path": str(folder / "raw"), "mapped": mapped},
        "processing": {"collection": processing, "path": "/tomography", "host_path": "/machine/tomography"},
        "share": {"collection": processing, "path": "/share"},
        "compute": {"endpoint": str(uuid.uuid4()), "user_endpoint_config": {"queue": "demand"}},
        "visible_to": ["public"],
        "people": {"monitors": [f"urn:globus:groups:id:{uuid.uuid4()}"]},
        "parameters": {"reconstruction": {"filter": "hann"}},
        "execution": {"slab": 16},
        **more,
    }
    file.write_text(yaml.safe_dump(document), encoding="utf-8")
    deployment = load_deployment(file)
    with make_services(deployment) as services:
        index_id = services.search.create_index("Tests", "Records of tests.")["id"]
        schema = deployed_schema(deployment, {name: str(uuid.uuid4()) for name in FUNCTIONS}, index_id)
        flow = services.flows.create_flow(title="Tests", definition=DEFINITION, input_schema=schema)
    (home / "deployed").mkdir(mode=0o700, parents=True)
    write_json(home / "deployed" / "beamline.json", {"flow_id": flow["id"], "index_id": index_id})
    return FacilityBed(web, folder, file, flow["id"], index_id, account)
