"""Checks a deployment end to end before a beam time: people, flow, endpoint, worker, collections, index, limits.

What it puts anywhere it takes away again, or says that it is left. What a failed check means and how it is mended is
said with it; nothing is mended here.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import globus_sdk
from globus_compute_sdk.serialize import ComputeSerializer, JSONData

from tomopipe.functions.errors import TomopipeError

from .definition_linter import RUN_STATE_BYTES_MAX
from .deploy import deployed_index, deployed_schema, find_flow_id, finish_index_task, input_fields, wait_for
from .gladier_managers import registration
from .local.actions import reason
from .login import GlobusServiceError, explain_globus_error, explained
from .request import FUNCTIONS, all_functions_digest

if TYPE_CHECKING:
    from .deployment import Collection, Deployment
    from .login import Services

Json = dict[str, Any]

WORKER_WAIT_S = 600.0
"""How long the function round trip waits for a worker: a batch queue may be long."""
TRANSFER_WAIT_S = 300.0
SEARCH_WAIT_S = 60.0
INTERRUPTED_WAIT_S = 10.0
"""How long a deletion is waited for where somebody has stopped the checks; it goes on without."""

# A run's state holds the input, the plan and the tasks; the input alone must leave room for the others.
INPUT_BYTES_MAX = RUN_STATE_BYTES_MAX // 4
FREE_BYTES_MIN = 100 * 1000**3
SMALL_FILE_BYTES_MAX = 10 * 1000**2

_MAY_START = frozenset({"flow_starter", "flow_administrator", "flow_owner"})
# A transfer that meets one of these would be retried for days.
_HOPELESS = frozenset({"FILE_NOT_FOUND", "PERMISSION_DENIED", "AUTH", "QUOTA_EXCEEDED", "CONSENT_REQUIRED"})
_PROBE_NAME = "probe.txt"
_RESULT_SERIALIZER = f"{JSONData.__module__}.{JSONData.__qualname__}"


@dataclass(frozen=True)
class Check:
    """What one check found.

    Parameters
    ----------
    name : str
    ok : bool
    said : str
        What was found, in one line.
    remedy : str or None
        How to mend it; with a check that is good, what to keep in mind.
    """

    name: str
    ok: bool
    said: str
    remedy: str | None = None


def preflight(
    deployment: Deployment,
    services: Services,
    progress: Callable[[Check], None] = lambda check: None,
    *,
    worker_wait_s: float = WORKER_WAIT_S,
    transfer_wait_s: float = TRANSFER_WAIT_S,
) -> list[Check]:
    """Run every check; those that need what another has not found are passed over and say so.

    Stopped by Ctrl-C, it first takes away what it has begun, and says what that leaves.

    Parameters
    ----------
    deployment : Deployment
    services : Services
        Clients of who is going to start runs.
    progress : callable
        Called with each check as soon as it is done.
    worker_wait_s, transfer_wait_s : float
        How long to wait for a worker of the endpoint, and for a transfer.
    """
    preflight_run = _Preflight(deployment, services, worker_wait_s, transfer_wait_s)
    steps = (
        _Step("login", preflight_run.login),
        _Step("flow", preflight_run.flow, ("login",)),
        _Step("up to date", preflight_run.up_to_date, ("flow",)),
        _Step("right to start", preflight_run.right_to_start, ("flow",)),
        _Step("consents", preflight_run.consents, ("login",)),
        _Step("source collection", preflight_run.source_listed, ("login",)),
        _Step("results collection", preflight_run.processing_listed, ("login",)),
        *([_Step("share collection", preflight_run.share_listed, ("login",))] if deployment.share else []),
        _Step("endpoint", preflight_run.endpoint, ("login",)),
        _Step("worker", preflight_run.worker, ("endpoint",)),
        _Step("tomopipe on the worker", preflight_run.worker_version, ("worker",)),
        _Step("results folder on the worker", preflight_run.worker_folder, ("worker",)),
        _Step("one folder", preflight_run.one_folder, ("results folder on the worker", "results collection")),
        _Step("transfer in", preflight_run.transfer_in, ("source collection", "results collection")),
        _Step(
            "transfer out", preflight_run.transfer_out, ("one folder", "share collection") if deployment.share else ()
        ),
        _Step("clean-up", preflight_run.clean_up, ("login",)),
        _Step("search index", preflight_run.index, ("flow",)),
        _Step("limits", preflight_run.limits, ("flow",)),
    )
    checks: list[Check] = []
    for step in steps:
        missing = [name for name in step.needs if not next(check.ok for check in checks if check.name == name)]
        try:
            check = Check(step.name, False, f"passed over: it needs '{missing[0]}'") if missing else _outcome(step)
        except KeyboardInterrupt:
            if preflight_run.leaves_something:
                preflight_run.transfer_wait_s = min(transfer_wait_s, INTERRUPTED_WAIT_S)
                progress(_outcome(_Step("clean-up", preflight_run.clean_up)))
            raise
        checks.append(check)
        progress(check)
    return checks


def probe_worker(folder: str, name: str) -> dict[str, object]:
    """Say what a worker has, and leave a small file for the transfers in a folder below the results folder."""
    import importlib.metadata
    import os
    import platform
    import re
    import shutil
    import socket
    import subprocess
    import sys
    import tempfile
    from pathlib import Path

    def version(package: str) -> str:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return "none"

    def lines_of(*command: str) -> list[str]:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        except (OSError, subprocess.SubprocessError):
            return []
        return [line.strip() for line in done.stdout.splitlines() if line.strip()]

    def nvidia() -> list[str]:
        return lines_of("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")

    def intel() -> list[str]:
        """As PyTorch sees them, which counts what a worker may use; else by the tool of oneAPI."""
        # PyTorch takes its time to be imported, and without this folder there is no such GPU.
        if not Path("/dev/dri").is_dir():
            return []
        asked = (
            "from torch import xpu\n"
            "for number in range(xpu.device_count()):\n"
            "    found = xpu.get_device_properties(number)\n"
            "    print(f'{found.name}, {found.driver_version}')"
        )
        # E.g. [level_zero:gpu][level_zero:0] ... over Level-Zero, Intel(R) Data Center GPU Max 1550 12.60.7 [1.3.30872]
        line = re.compile(r"\[\S*level_zero:gpu.* Level-Zero, (.+?) [\d.]+ \[(.+)\]")
        listed = [line.match(text) for text in lines_of("sycl-ls")]
        return lines_of(sys.executable, "-c", asked) or [f"{found[1]}, {found[2]}" for found in listed if found]

    root = Path(folder)
    report: dict[str, object] = {
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in ("tomopipe", "parsl", "globus-compute-endpoint", "torch")},
        "devices": nvidia() or intel(),
        "visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES") or os.environ.get("ZE_AFFINITY_MASK") or "",
        "cores": len(os.sched_getaffinity(0)),
        "scratch": tempfile.gettempdir(),
        "folder": "missing",
        "free_bytes": 0,
    }
    if root.is_dir():
        report["free_bytes"] = shutil.disk_usage(root).free
        try:
            (root / name).mkdir()
            (root / name / "probe.txt").write_text("tomopipe preflight\n")
            report["folder"] = "written"
        except OSError as error:
            report["folder"] = f"not writable: {error}"
            shutil.rmtree(root / name, ignore_errors=True)
    return report


class _Failed(Exception):
    """What a check found wrong; it never leaves this module."""

    def __init__(self, said: str, remedy: str) -> None:
        super().__init__(said)
        self.said, self.remedy = said, remedy


@dataclass(frozen=True)
class _Step:
    name: str
    run: Callable[[], str | tuple[str, str]]
    needs: tuple[str, ...] = ()


def _outcome(step: _Step) -> Check:
    try:
        found = step.run()
    except _Failed as failure:
        return Check(step.name, False, failure.said, failure.remedy)
    except globus_sdk.GlobusError as error:
        return Check(step.name, False, *_said(explain_globus_error(error, step.name)))
    except TomopipeError as error:
        return Check(step.name, False, *_said(error))
    said, hint = (found, None) if isinstance(found, str) else found
    return Check(step.name, True, said, hint)


def _said(error: TomopipeError) -> tuple[str, str | None]:
    """What an error says, and its remedy, which by our custom stands behind a semicolon."""
    said, _, remedy = str(error).partition("; ")
    return said, remedy or None


@dataclass
class _Preflight:
    deployment: Deployment
    services: Services
    worker_wait_s: float
    transfer_wait_s: float
    name: str = field(default_factory=lambda: f".tomopipe-preflight-{uuid.uuid4().hex[:12]}")
    found_flow: Json = field(default_factory=dict)
    identity: str = ""
    report: Json = field(default_factory=dict)
    # What has to be deleted again: collection and path.
    left: list[tuple[str, str]] = field(default_factory=list)
    # Folder of the probe on the worker's machine, from when it may be there until it is found on the collection.
    probe_folder: str = ""

    @property
    def leaves_something(self) -> bool:
        """Whether there is, or may be, something to clean up."""
        return bool(self.left or self.probe_folder)

    def login(self) -> str:
        me = self.services.whoami()
        self.identity = me.id
        return f"{me.username} ({me.kind})"

    def flow(self) -> str:
        flow_id = find_flow_id(self.deployment, self.services)
        with explained(f"reading the flow {flow_id}"):
            self.found_flow = self.services.flows.get_flow(flow_id).data
        self._fields()
        return f"{flow_id} ('{self.found_flow['title']}')"

    def up_to_date(self) -> str:
        flow_id = self.found_flow["id"]
        deploy_again = f"`tomopipe deploy {self.deployment.called}`"
        fields = self._fields()
        here = importlib.metadata.version("tomopipe")
        there = fields["version"].get("default")
        if there != here:
            raise _Failed(
                f"{flow_id} has the functions of tomopipe {there}, here is {here}",
                f"{deploy_again}, or install tomopipe {there} here",
            )
        if fields["functions_digest"].get("default") != all_functions_digest():
            raise _Failed(f"{flow_id} has other functions than this installation of tomopipe {here}", deploy_again)
        stale = self._stale_fields(fields)
        if stale:
            raise _Failed(f"{flow_id} has another {', '.join(stale)} than {self.deployment.file}", deploy_again)
        return f"tomopipe {here}, and what {self.deployment.file} says"

    def right_to_start(self) -> str:
        role = self.found_flow.get("user_role")
        if role not in _MAY_START:
            raise _Failed(
                f"you are '{role or 'nobody'}' to the flow, which may not start it",
                "have its owner add you, or a group of yours, to people.starters of the deployment and deploy again",
            )
        return str(role)

    def consents(self) -> str:
        mapped = self.deployment.mapped_collections
        # A client asks for its consents as soon as it is made.
        for name in ("transfer", "search", "compute"):
            getattr(self.services, name)
        if self.found_flow:
            self.services.specific_flow(self.found_flow["id"])
        if self.services.app.login_required():
            raise _Failed(
                "a consent is missing, or the login has run out",
                f"`tomopipe login {self.deployment.called}` asks for it",
            )
        return f"given, {len(mapped)} mapped collection{'' if len(mapped) == 1 else 's'} included"

    def source_listed(self) -> str:
        return self._listed(self.deployment.source, "source")

    def processing_listed(self) -> str:
        return self._listed(self.deployment.processing, "processing")

    def share_listed(self) -> str:
        assert self.deployment.share is not None
        return self._listed(self.deployment.share, "share")

    def endpoint(self) -> str:
        endpoint = self.deployment.compute.endpoint
        remedy = "correct compute.endpoint, or ask who runs the endpoint to let you use it"
        with self._not_found(remedy), explained(f"asking for the status of the endpoint {endpoint}"):
            status = self.services.compute_v2.get_endpoint_status(endpoint).data
        if status.get("status") != "online":
            raise _Failed(
                f"{endpoint} is {status.get('status')}",
                "start it on its machine with `globus-compute-endpoint start NAME --detach`, or ask the facility that runs it",
            )
        return f"{endpoint} is online"

    def worker(self) -> str:
        started = time.monotonic()
        self.report = self._round_trip()
        packages, devices = self.report["packages"], self.report["devices"]
        return (
            f"{self.report['host']} after {time.monotonic() - started:.0f} s: Python {self.report['python']}, "
            + ", ".join(f"{name} {version}" for name, version in packages.items() if version != "none")
            + f", {self.report['cores']} cores, {_devices(devices)}, scratch {self.report['scratch']}"
        )

    def worker_version(self) -> str:
        here, there = importlib.metadata.version("tomopipe"), self.report["packages"]["tomopipe"]
        if there != here:
            raise _Failed(
                f"the worker has {there}, here is {here}",
                f"install tomopipe {here} in the worker's environment (worker_init of the deployment's user_endpoint_config)",
            )
        return str(there)

    def worker_folder(self) -> str | tuple[str, str]:
        folder = self.deployment.processing.host_path
        if self.report["folder"] == "missing":
            raise _Failed(
                f"{folder} is not there on the worker",
                "correct processing.host_path, or have the file system mounted (scheduler_options of user_endpoint_config)",
            )
        if self.report["folder"] != "written":
            raise _Failed(
                f"{folder} is {self.report['folder']}", "give the account that computes the right to write there"
            )
        free = int(self.report["free_bytes"])
        if free < FREE_BYTES_MIN:
            return (
                f"{folder} writable, {free / 1e9:.1f} GB free",
                "a scan and its results may need more; free some space",
            )
        return f"{folder} writable, {free / 1e9:,.0f} GB free"

    def one_folder(self) -> str:
        place = self.deployment.processing
        path = self._probe_path(place)
        try:
            self.services.transfer.operation_stat(place.collection, path)
        except globus_sdk.TransferAPIError as error:
            if error.http_status != 404:
                raise
            raise _Failed(
                f"what a worker wrote to {place.host_path}/{self.name} is not at {path} on collection {place.collection}",
                "correct processing.path or processing.host_path of the deployment: they must be the same folder",
            ) from None
        self._note_left(place.collection, _join(place.path, self.name))
        self.probe_folder = ""
        return f"{place.path} on the collection is {place.host_path} on the worker"

    def transfer_in(self) -> str:
        source, target = self.deployment.source, self.deployment.processing
        small = self._small_file(source)
        if small is None:
            small = self._file_put_into(source)
        into = _join(target.path, self.name)
        self._note_left(target.collection, into)
        seconds = self._transfer(source.collection, small, target.collection, f"{into}/in.bin")
        return f"{small} arrived after {seconds:.0f} s"

    def transfer_out(self) -> str:
        share, place = self.deployment.share, self.deployment.processing
        if share is None:
            return "passed over: the deployment has no share, results stay where they are"
        folder = _join(share.path, self.name)
        self._note_left(share.collection, folder)
        seconds = self._transfer(place.collection, self._probe_path(place), share.collection, f"{folder}/{_PROBE_NAME}")
        return f"a file arrived at {share.path} after {seconds:.0f} s"

    def clean_up(self) -> str:
        results, remedy = self.deployment.processing, f"delete what is named {self.name} by hand"
        if self.probe_folder:
            # It may have come there since it was looked for.
            self._note_left(results.collection, _join(results.path, self.name))
        failures = {place: why for place in self.left if (why := self._deleted(*place))}
        deleted = len(self.left) - len(failures)
        self.left = list(failures)
        found = list(failures.values())
        if self.probe_folder and self.report:
            found.append(f"{self.probe_folder} cannot be reached through the collection")
        elif self.probe_folder:
            found.append(f"{self.probe_folder} may yet be written by the function that was sent to the endpoint")
            remedy += f", {self.probe_folder} on the worker's machine as soon as the function has run"
        if found:
            raise _Failed("; ".join(found), remedy)
        return f"{deleted} deleted" if deleted else "nothing was left"

    def index(self) -> str | tuple[str, str]:
        index_id = str(deployed_index(self.found_flow))
        subject, entry_id = self.name.removeprefix("."), "preflight"
        entry = {
            "subject": subject,
            "id": entry_id,
            "visible_to": [f"urn:globus:auth:identity:{self.identity}"],
            "content": {"format": "tomopipe-preflight/1"},
        }
        search = self.services.search
        with contextlib.ExitStack() as undo:
            with explained(f"writing to the search index {index_id}"):
                task = search.ingest(index_id, {"ingest_type": "GMetaEntry", "ingest_data": entry})
                undo.callback(self._withdrawn, index_id, subject, entry_id)
                finish_index_task(search, index_id, task["task_id"], SEARCH_WAIT_S)
            undo.pop_all()
        with explained(f"deleting the probe's entry {subject} from the search index {index_id}"):
            task = search.delete_entry(index_id, subject, entry_id=entry_id)
            finish_index_task(search, index_id, task["task_id"], SEARCH_WAIT_S)
        with explained(f"reading the search index {index_id}"):
            index = self.services.search.get_index(index_id).data
        if index.get("is_trial"):
            return (
                f"{index_id} writable, a trial index of {index.get('max_size_in_mb')} MB",
                "trial indices may be deleted after 30 days; have it put under a subscription by support@globus.org",
            )
        return f"{index_id} writable"

    def _withdrawn(self, index_id: str, subject: str, entry_id: str) -> None:
        """Have an entry deleted that was given up; an index takes its tasks in turn, so it need not be there yet."""
        with contextlib.suppress(globus_sdk.GlobusError):
            self.services.search.delete_entry(index_id, subject, entry_id=entry_id)

    def limits(self) -> str | tuple[str, str]:
        fields = self._fields()
        start = {name: entry["default"] for name, entry in fields.items() if "default" in entry}
        # The longest that a person may add: the path of a scan and its id.
        largest = _bytes_of({"input": start}) + 1024 + 100
        definition, schema = _bytes_of(self.found_flow["definition"]), _bytes_of(self.found_flow["input_schema"])
        said = f"definition {definition / 1e3:.0f} KB, form {schema / 1e3:.0f} KB, input at most {largest / 1e3:.1f} KB"
        if largest > INPUT_BYTES_MAX:
            raise _Failed(
                f"{said} of the {INPUT_BYTES_MAX / 1e3:.0f} KB that leave room for the run's state",
                "shorten user_endpoint_config (put long commands into a script on the machine) or visible_to",
            )
        if not self.found_flow.get("subscription_id"):
            return (
                f"{said}; the flow has no subscription",
                "the service keeps one flow without a subscription a person, for 30 days; set flow.subscription_id",
            )
        return said

    def _fields(self) -> Json:
        return input_fields(self.found_flow)

    def _stale_fields(self, fields: Json) -> list[str]:
        """Fields whose defaults in the deployed flow are not those of the deployment's file."""
        ids = {name: fields[f"{name}_function_id"].get("default") for name in FUNCTIONS}
        index_id = self.deployment.search.index or fields["search_index"].get("default")
        wanted = deployed_schema(self.deployment, ids, index_id)["properties"]["input"]["properties"]
        return [name for name in wanted if wanted[name].get("default") != fields.get(name, {}).get("default")]

    def _listed(self, place: Collection, key: str) -> str:
        remedy = f"correct {key}.collection and {key}.path, or make the folder"
        with self._not_found(remedy), explained(f"listing {place.path} on the collection {place.collection}"):
            self.services.transfer.operation_ls(place.collection, path=place.path, limit=1)
        return f"{place.path} on {place.collection} can be read"

    @contextlib.contextmanager
    def _not_found(self, remedy: str) -> Iterator[None]:
        """What is not there is named with the key of the file that says where it should be."""
        try:
            yield
        except GlobusServiceError as error:
            if error.status not in (404, 410):
                raise
            raise _Failed(str(error).split(";")[0], f"{remedy}, in {self.deployment.file}") from error

    def _probe_path(self, place: Collection) -> str:
        return f"{_join(place.path, self.name)}/{_PROBE_NAME}"

    def _round_trip(self) -> Json:
        """What the probe says that runs on a worker of the endpoint."""
        endpoint = self.deployment.compute.endpoint
        serializer = ComputeSerializer(strategy_data=JSONData)
        arguments = [str(self.deployment.processing.host_path), self.name]
        task = serializer.pack_buffers([serializer.serialize(arguments), serializer.serialize({})])
        with explained(f"running a function on the endpoint {endpoint}"), self._registered_probe() as function_id:
            batch = {
                "tasks": {function_id: [task]},
                "user_endpoint_config": self.deployment.compute.user_endpoint_config,
                "result_serializers": [_RESULT_SERIALIZER],
                "create_queue": False,
            }
            task_id = self.services.compute.submit(endpoint, batch)["tasks"][function_id][0]
            self.probe_folder = f"{self.deployment.processing.host_path}/{self.name}"
            done = self._finished_task(task_id)
        if done.get("exception") or done.get("status") == "failed":
            # The probe itself never fails, so it has not run.
            self.probe_folder = ""
            raise _Failed(
                f"the function failed on the endpoint: {reason(str(done.get('exception') or ''))[:300]}",
                "look at the endpoint's log (~/.globus_compute/NAME/endpoint.log), and compare user_endpoint_config with its "
                "schema",
            )
        report = _report(done["result"])
        if report["folder"] != "written":
            self.probe_folder = ""
        return report

    @contextlib.contextmanager
    def _registered_probe(self) -> Iterator[str]:
        function_id = str(
            self.services.compute.register_function(registration(probe_worker, "tomopipe preflight"))["function_uuid"]
        )
        try:
            yield function_id
        finally:
            # A function that stays registered costs nothing; the check is about the worker.
            with contextlib.suppress(globus_sdk.GlobusError):
                self.services.compute_v2.delete_function(function_id)

    def _finished_task(self, task_id: str) -> Json:
        def done() -> Json | None:
            task: Json = self.services.compute_v2.get_task(task_id).data
            return task if task.get("status") in ("success", "failed") or task.get("completion_t") else None

        finished = wait_for(done, self.worker_wait_s)
        if finished is None:
            raise _Failed(
                f"the function is still queued after {self.worker_wait_s:.0f} s",
                "the batch queue may be long: look at it on the machine, try again with a longer wait, or choose another "
                f"queue in compute.user_endpoint_config; delete {self.probe_folder} when the function has run after all",
            )
        return finished

    def _small_file(self, place: Collection) -> str | None:
        """Smallest file in the folder, for trying a transfer; None where each is large."""
        with explained(f"listing {place.path} on collection {place.collection}"):
            listed = self.services.transfer.operation_ls(place.collection, path=place.path, limit=1000).data["DATA"]
        files = [(entry["size"], entry["name"]) for entry in listed if entry["type"] == "file"]
        if not files or min(files)[0] > SMALL_FILE_BYTES_MAX:
            return None
        return _join(place.path, min(files)[1])

    def _file_put_into(self, place: Collection) -> str:
        """A small file put into the folder, from what the worker has written."""
        remedy = f"put a small file into {place.path}, for example README.txt, and check again"
        if self.report.get("folder") != "written":
            raise _Failed(f"{place.path} holds no small file to try with, and no worker has written one", remedy)
        target = _join(place.path, f"{self.name}.txt")
        results = self.deployment.processing
        self._note_left(place.collection, target)
        try:
            self._transfer(results.collection, self._probe_path(results), place.collection, target)
        except _Failed as failure:
            raise _Failed(
                f"{place.path} holds no small file to try with, and none can be put there: {failure.said}", remedy
            ) from None
        return target

    def _transfer(self, source: str, source_path: str, destination: str, destination_path: str) -> float:
        started = time.monotonic()
        data = globus_sdk.TransferData(
            source,
            destination,
            label="tomopipe preflight",
            verify_checksum=True,
            notify_on_succeeded=False,
            notify_on_failed=False,
            notify_on_inactive=False,
        )
        data.add_item(source_path, destination_path)
        with explained(f"transferring {source_path} to collection {destination}"), contextlib.ExitStack() as undo:
            task_id = self.services.transfer.submit_transfer(data)["task_id"]
            undo.callback(self._cancelled, task_id)
            self._finished_transfer(task_id, f"the transfer of {source_path}")
            undo.pop_all()
        return time.monotonic() - started

    def _finished_transfer(self, task_id: str, what: str) -> None:
        task: Json = {}

        def done() -> Json | None:
            task.update(self.services.transfer.get_task(task_id).data)
            hopeless = task["status"] == "ACTIVE" and task.get("nice_status") in _HOPELESS
            return task if hopeless or task["status"] in ("SUCCEEDED", "FAILED", "INACTIVE") else None

        ended = wait_for(done, self.transfer_wait_s) is not None
        if task["status"] == "SUCCEEDED":
            return
        fatal = (task.get("fatal_error") or {}).get("description")
        paused = "paused by an administrator of a collection" if task.get("is_paused") else None
        why = fatal or paused or task.get("nice_status_details") or task.get("nice_status") or task["status"]
        found = "failed" if ended else f"was not done after {self.transfer_wait_s:.0f} s"
        page = f"https://app.globus.org/activity/{task_id}"
        raise _Failed(f"{what} {found}: {why}", f"see {page} for what the collections said")

    def _cancelled(self, task_id: str) -> None:
        """Keep a transfer that was given up from writing later on; one that has ended stays as it is."""
        with contextlib.suppress(globus_sdk.GlobusError):
            self.services.transfer.cancel_task(task_id)

    def _note_left(self, collection: str, path: str) -> None:
        if (collection, path) not in self.left:
            self.left.append((collection, path))

    def _deleted(self, collection: str, path: str) -> str | None:
        """None once it is deleted, else what went wrong."""
        data = globus_sdk.DeleteData(
            collection, label="tomopipe preflight", recursive=True, ignore_missing=True, notify_on_succeeded=False
        )
        data.add_item(path)
        try:
            task_id = self.services.transfer.submit_delete(data)["task_id"]
            self._finished_transfer(task_id, f"deleting {path}")
        except _Failed as failure:
            return failure.said
        except globus_sdk.GlobusError as error:
            return str(explain_globus_error(error, f"deleting {path}"))
        return None


def _report(result: str) -> Json:
    """What the probe returned. Only JSON is read: a result may say of itself that it is to be unpickled or executed."""
    if not result.startswith(JSONData.identifier):
        raise _Failed(
            "the worker does not answer in JSON",
            "its globus-compute-endpoint is older than 4; install a newer one there",
        )
    report: Json = JSONData().deserialize(result)  # type: ignore[no-untyped-call]
    return report


def _join(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}"


def _bytes_of(document: Json) -> int:
    return len(json.dumps(document).encode())


def _devices(names: list[str]) -> str:
    if not names:
        return "no GPU found"
    return f"{len(names)} x {names[0].split(',')[0]} (driver {names[0].rpartition(',')[2].strip()})"
