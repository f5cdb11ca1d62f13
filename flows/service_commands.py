"""The commands of a facility: deploying and checking it, logging in, starting and following runs there.

`cli` registers them; what they do is left to `deploy`, `preflight`, `login`, `client` and `batch`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.console import Console
from rich.table import Table

from tomopipe.functions.errors import InputError, ParameterError, TomopipeError
from tomopipe.functions.parameters import SkippableStage, Stage, apply_overrides, parse_parameters, read_yaml

from .found_runs import (
    DEPLOYMENT_VARIABLE,
    Elsewhere,
    ServiceReference,
    cancel_local,
    client_of,
    error_of,
    find_run,
    latest_good,
    local_base,
    results_of,
    stand,
)

if TYPE_CHECKING:
    from .batch import BatchItem
    from .client import Client, PreparedRun
    from .deployment import Deployment
    from .local.run import LocalRequest
    from .local.run_store import EventRecord, RunRecord
    from .service_run import Base, ServiceRun

FAILED, BAD_INPUT, NEEDS_PERSON, INTERRUPTED = 1, 2, 3, 130

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, and nothing else there.")]
RunName = Annotated[str, typer.Argument(help="Run id or its beginning, or a scan id (its latest run).", metavar="RUN")]
DeploymentName = Annotated[
    str,
    typer.Argument(help="Name or file of a deployment; see `tomopipe deployments`.", envvar=DEPLOYMENT_VARIABLE),
]
OptionalDeploymentName = Annotated[
    str | None,
    typer.Argument(
        help="Name or file of a deployment whose flow and collections are used.", envvar=DEPLOYMENT_VARIABLE
    ),
]
OfDeployment = Annotated[
    str | None,
    typer.Option(
        "--deployment", "-d", help="Name or file of a deployment.", envvar=DEPLOYMENT_VARIABLE, metavar="NAME"
    ),
]
AtDeployment = Annotated[
    str | None, typer.Option("--deployment", "-d", help="Look there alone for the run.", metavar="NAME")
]
ParameterFile = Annotated[
    Path | None, typer.Option("--parameters", "-p", help="YAML file with a section a stage.", metavar="FILE")
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="One parameter, as SECTION.FIELD=VALUE; repeatable.")
]
Skip = Annotated[
    list[str] | None, typer.Option("--skip", help="Leave a stage out: denoise, segment, separate_objects.")
]
StartFrom = Annotated[
    str | None, typer.Option("--from", help="Refuse to compute any stage before this one.", metavar="STAGE")
]
Label = Annotated[str | None, typer.Option(help="Label of the run; by default the scan id.")]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="Tag of the run; repeatable.")]
Monitors = Annotated[
    list[str] | None, typer.Option("--monitor", help="Who may follow the run: a URN; repeatable.", metavar="URN")
]
Managers = Annotated[
    list[str] | None,
    typer.Option("--manager", help="Who may cancel the run besides: a URN; repeatable.", metavar="URN"),
]
Share = Annotated[
    bool | None,
    typer.Option("--share/--no-share", help="Copy the results to the share collection; by default as deployed."),
]
Wait = Annotated[bool, typer.Option("--wait", help="Wait for the end, and exit as the run ended.")]
Again = Annotated[bool, typer.Option("--again", help="Start another run even where the same is under way.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, print what would be sent, and stop.")]

_out = Console(highlight=False, soft_wrap=True)
# Connections of the command that runs; there is one a process.
_opened = contextlib.ExitStack()
# How long the service keeps runs.
_KEPT_DAYS = 90
_SINCE = re.compile(r"(\d+(?:\.\d+)?)\s*([mhdw])")
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


def register(app: typer.Typer, run_locally: Callable[[LocalRequest, bool, Base | None], None]) -> None:
    """Add the commands to the command line.

    Parameters
    ----------
    app : typer.Typer
    run_locally : callable
        Runs a request on this machine, prints its result (as JSON where asked, with what it starts from), and leaves with
        its exit code.
    """
    app.command("deployments", short_help="List deployments, or print one's file.")(_deployments)
    app.command("login", short_help="Log in to Globus for a deployment.")(_login)
    app.command("logout", short_help="Forget the login, and revoke it.")(_logout)
    app.command("deploy", short_help="Bring functions, flow and index of a deployment up to date.")(_deploy)
    app.command("preflight", short_help="Check a deployment end to end.")(_preflight)
    app.command("submit", short_help="Start a run at a facility.")(_submit)
    app.command("wait", short_help="Wait for the end of a run.")(_wait)
    app.command("cancel", short_help="Stop a run.")(_cancel)
    app.command("resume", short_help="Let a run go on that waits for a person.")(_resume)

    @app.command("reprocess", short_help="Run a scan again with other parameters.")
    def _reprocess(
        name: Annotated[
            str,
            typer.Argument(
                help="Scan id (its latest run that succeeded, else its latest), run id or its beginning.",
                metavar="SCAN_OR_RUN",
            ),
        ],
        deployment: AtDeployment = None,
        start_from: StartFrom = None,
        override: Overrides = None,
        parameters: ParameterFile = None,
        skip: Skip = None,
        label: Label = None,
        tag: Tags = None,
        monitor: Monitors = None,
        manager: Managers = None,
        share: Share = None,
        wait: Wait = False,
        again: Again = False,
        dry_run: DryRun = False,
        as_json: AsJson = False,
    ) -> None:
        """Run a scan again with its earlier request and other parameters; what does not depend on them is reused.

        The earlier result stays. At a facility a run that is gone (after 90 days) is taken from its search record.
        """
        values = read_yaml(parameters) if parameters else {}
        found = _find_to_reprocess(name, deployment)
        if not isinstance(found, tuple):
            refused = {"--label": label, "--tag": tag, "--monitor": monitor, "--manager": manager, "--share": share}
            given = [option for option, value in refused.items() if value not in (None, [])]
            if share is False:
                given = [option.replace("--share", "--no-share") for option in given]
            if given or dry_run:
                raise ParameterError(
                    f"{(given or ['--dry-run'])[0]}: run {found.run_id} is a local one, which has none; leave it out"
                )
            request = _local_request(found)
            merged = _over(found.input["input"]["parameters"], values)
            changed = replace(
                request,
                parameters=parse_parameters(apply_overrides(merged, override or []), "reprocess"),
                skip=request.skip if skip is None else cast(tuple[SkippableStage, ...], tuple(skip)),
                start_from=cast(Stage | None, start_from),
            )
            base = local_base(found, apply_overrides(values, override or []), request.skip if skip is None else ())
            print(base, file=sys.stderr)
            run_locally(changed, as_json, base)
            return
        client, asked = found
        prepared = client.prepare_reprocess(
            asked, start_from=start_from, overrides=override or [], parameters=values, skip=skip, label=label,
            tags=tag or (), monitors=monitor or (), managers=manager or (), share=share,
        )  # fmt: skip
        _start(client, prepared, wait=wait, again=again, dry_run=dry_run, as_json=as_json)

    @app.command("retry", short_help="Run a failed run again; finished work is not repeated.")
    def _retry(
        name: Annotated[
            str | None, typer.Argument(help="Run id or its beginning, or a scan id.", metavar="RUN")
        ] = None,
        failed: Annotated[
            bool, typer.Option("--failed", help="All failed runs of a deployment that nothing later has mended.")
        ] = False,
        since: Annotated[
            str, typer.Option(help="With --failed: started since, such as 90m, 12h, 2d or 2026-11-22.")
        ] = "2d",
        deployment: AtDeployment = None,
        wait: Wait = False,
        again: Again = False,
        dry_run: DryRun = False,
        as_json: AsJson = False,
    ) -> None:
        """Run the same request again, on what is deployed now; finished slabs are not computed again.

        At a facility a run that succeeded is not run again, unless with --again.
        """
        if failed == (name is not None):
            raise ParameterError("retry: give either a RUN or --failed")
        if failed:
            _retry_failed(_client(_named(deployment)), parse_since(since), wait, again, dry_run, as_json)
            return
        found = find_run(str(name), deployment)
        if not isinstance(found, ServiceReference):
            if found.status == "ACTIVE":
                raise InputError(f"run {found.run_id}: is under way; wait for it, or cancel it first")
            if dry_run:
                raise ParameterError(f"--dry-run: run {found.run_id} is a local one; leave it out")
            run_locally(_local_request(found), as_json, None)
            return
        client = _closing(found.client)
        prepared = client.prepare_retry(client.run(found.run_id), again=again)
        _start(client, prepared, wait=wait, again=again, dry_run=dry_run, as_json=as_json)


def close_clients() -> None:
    """Close the connections that the command opened."""
    _opened.close()


def exit_code(error: TomopipeError) -> int:
    """Exit code of an expected error: 2 for bad input, 3 where a person must log in or consent, else 1."""
    if isinstance(error, InputError):
        return BAD_INPUT
    # Where nothing has loaded the login, the error is not of it; loading it here would take a second.
    login = sys.modules.get("tomopipe.flows.login")
    if login is not None and isinstance(error, (login.LoginNeeded, login.ConsentNeeded)):
        return NEEDS_PERSON
    return FAILED


def parse_since(text: str, now: datetime | None = None) -> datetime:
    """A time from '90m', '12h', '2d', '1w', or an ISO date or time (local where it names no zone).

    Raises
    ------
    ParameterError
        It is none of these, or lies in the future.
    """
    now = now or datetime.now(UTC)
    match = _SINCE.fullmatch(text.strip())
    try:
        moment = (
            now - float(match[1]) * _UNITS[match[2]] if match else datetime.fromisoformat(text.strip()).astimezone()
        )
    except (ValueError, OverflowError):
        raise ParameterError(
            f"--since {text}: give a duration such as 90m, 12h, 2d, or a date such as 2026-11-22"
        ) from None
    if moment > now:
        raise ParameterError(f"--since {text}: lies in the future; give a time that has passed")
    return moment


# What `runs`, `status`, `log` and `search` of `cli` show of service runs


def list_service_runs(limit: int, status: str | None, deployment: str | None) -> list[ServiceRun]:
    """Service runs, newest first: of a deployment as it says, or without one those that this machine submitted.

    Runs of which the service cannot be asked are as last known, and have `asked` set. Those that it does not know any
    more are GONE.
    """
    from .client import Client, RunGone, last_known
    from .login import GlobusServiceError
    from .submissions import submission_store

    store = submission_store()
    if deployment is not None:
        client = _closing(Client(deployment))
        try:
            return client.runs(limit, status)
        except GlobusServiceError as error:
            known = store.list_runs(deployment=client.deployment.name)
            if not known:
                raise
            print(f"warning: {error}", file=sys.stderr)
            return [last_known(one) for one in known if status in (None, one.status)][:limit]
    clients: dict[str, Client | None] = {}
    runs: list[ServiceRun] = []
    for one in store.list_runs():
        if len(runs) >= limit:
            break
        run = last_known(one)
        # One that is gone may only be hidden from who asked last; after its time it is gone for good.
        if not run.ended and not (run.status == "GONE" and _is_past_keeping(run.started)):
            if one.deployment not in clients:
                clients[one.deployment] = _reachable(one)
            asked = clients[one.deployment]
            if asked is not None:
                try:
                    run = asked.peek(one.run_id)
                except RunGone as error:
                    store.note_gone(one.run_id)
                    if run.status != "GONE":
                        print(f"warning: {error}", file=sys.stderr)
                    run = replace(run, status="GONE", asked=None)
                except TomopipeError as error:
                    # The next run of that deployment would wait as long for the same.
                    clients[one.deployment] = None
                    print(f"warning: {error}", file=sys.stderr)
        else:
            run = replace(run, asked=None)
        if status in (None, run.status):
            runs.append(run)
    return runs


def _is_past_keeping(started: str) -> bool:
    return datetime.now(UTC) - datetime.fromisoformat(started) > timedelta(days=_KEPT_DAYS)


def show_report(name: str, open_it: bool) -> None:
    """Print where the report of a run is: its file, or the web address that it has at a facility."""
    found = results_of(name)
    if isinstance(found, Elsewhere):
        print(f"run {found.run_id} ran at {found.deployment}; its results are not on this machine", file=sys.stderr)
        target = found.report
        print(target)
    else:
        folder = found if isinstance(found, Path) else Path(found.run_directory or "")
        path = folder / "report.html"
        if not folder.is_absolute() or not path.is_file():
            which = name if isinstance(found, Path) else f"{found.run_id}: has no report ({found.status})"
            raise InputError(f"run {which}; see: tomopipe status {name}")
        target = path.as_uri()
        print(path)
    if open_it:
        typer.launch(target)


def run_directory_here(name: str) -> Path:
    """Run directory of a run, on this machine.

    Raises
    ------
    InputError
        There is no such run, it has no results, or they are at a facility.
    """
    found = results_of(name)
    if isinstance(found, Elsewhere):
        raise InputError(
            f"run {found.run_id}: ran at {found.deployment}; its results are not on this machine but in "
            f"{found.run_directory} there, {found.folder} (report: {found.report}); copy the folder here and give its path"
        )
    if isinstance(found, Path):
        return found
    if found.run_directory is None:
        raise InputError(
            f"run {found.run_id}: has no results yet ({found.status}); see: tomopipe status {found.run_id[:8]}"
        )
    return Path(found.run_directory)


def show_service_status(found: ServiceReference, as_json: bool) -> None:
    """Print how a service run stands."""
    from .login import GlobusServiceError

    _closing(found.client)
    run, reason = stand(found)
    if reason is not None:
        print(f"warning: {reason}", file=sys.stderr)
    states = []
    with contextlib.suppress(GlobusServiceError):
        if run.asked is None:
            states = found.client.states(run.run_id)
    if as_json:
        listed = [
            {"name": s.name, "type": s.type, "status": s.status, "started": s.started, "finished": s.finished}
            for s in states
        ]
        print(json.dumps({**service_json(run), "states": listed}, indent=2))
        return
    _print_run(run)
    if run.input is not None:
        place = run.input["input"]["scan"]
        print(f"raw      globus://{place['id']}{place['path']}")
    print(f"started  {run.started}\nfinished {run.finished or '-'}")
    _print_results(run)
    if run.asked is not None:
        print(f"as of    {run.asked} (the service cannot be asked now)")
    table = Table("state", "status", "started (UTC)", "tasks", box=None)
    for state in states:
        if state.type == "Action":
            tasks = f"{state.done}/{state.total}" if state.unit == "task" else ""
            table.add_row(state.name, state.status, state.started[11:19], tasks)
    if states:
        _out.print(table)
    _say_how_to_go_on(run, sys.stdout)


def service_log(found: ServiceReference) -> list[EventRecord]:
    """The log of a service run."""
    return _closing(found.client).log(found.run_id)


def service_json(run: ServiceRun) -> dict[str, Any]:
    """A service run as JSON, with the keys that local runs have and its own."""
    return {
        "run_id": run.run_id,
        "scan_id": run.scan_id,
        "scan": None if run.input is None else run.input["input"]["scan"]["path"],
        "status": run.status,
        "error": run.error,
        "started": run.started,
        "finished": run.finished,
        "run_directory": run.run_directory,
        "recipe_id": run.run_directory.rpartition("/")[2] if run.run_directory else None,
        "folder": run.folder,
        "share_directory": run.share_directory,
        "share_folder": run.share_folder,
        "deployment": run.deployment,
        "flow_id": run.flow_id,
        "label": run.label,
        "tags": list(run.tags),
        "state": run.state,
        "consent": run.consent,
        "url": run.url,
        "asked": run.asked,
        "was_under_way": run.was_under_way,
    }


def base_json(base: Base | None) -> dict[str, Any]:
    """What a run starts from as JSON; nothing where it starts from no earlier one."""
    if base is None:
        return {}
    return {"base": {"run_id": base.run_id, "status": base.status, "overrides": base.overrides}}


def search_deployment(query: str, limit: int, deployment: str) -> list[Any]:
    """Hits in the index of a deployment."""
    return list(_client(deployment).search(query, limit))


# Commands


def _deployments(
    name: Annotated[
        str | None, typer.Argument(help="Print this one's file, to copy and change.", metavar="NAME")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the deployments: what is shipped and one's own. With NAME, print its file: `deployments polaris > my.yaml`."""
    from .deployment import deployment_names, load_deployment
    from .local.home import home

    if name is not None:
        file = Path(load_deployment(name, allow_holes=True).file)
        print(file.read_text(encoding="utf-8"), end="")
        return
    rows = []
    for known, file in deployment_names().items():
        try:
            title = load_deployment(file, allow_holes=True).title
        except ParameterError as error:
            title = f"cannot be used: {error}"
        deployed = (home() / "deployed" / f"{known}.json").is_file()
        rows.append({"name": known, "deployed": deployed, "file": str(file), "title": title})
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = Table("deployment", "deployed", "file", "what it is", box=None)
    for row in rows:
        table.add_row(str(row["name"]), "yes" if row["deployed"] else "-", str(row["file"]), str(row["title"]))
    _out.print(table)


def _login(
    name: OptionalDeploymentName = None,
    force: Annotated[bool, typer.Option("--force", help="Log in anew even where all is well.")] = False,
) -> None:
    """Log in for every service, and for the flow and collections of a deployment; a service account tries its secret."""
    from .deployment import load_deployment
    from .login import login, make_services

    deployment = load_deployment(name) if name else None
    with make_services(deployment) as services:
        who = login(services, _flow_id_if_known(deployment) if deployment else None, force=force)
    print(f"logged in as {who.username} ({who.kind}, {who.id})")


def _logout(name: OptionalDeploymentName = None) -> None:
    """Revoke the login and remove it from this machine."""
    from .deployment import load_deployment
    from .login import logout, make_services

    with make_services(load_deployment(name) if name else None) as services:
        logout(services)
    print("logged out")


def _deploy(name: DeploymentName, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Register the functions, create or update flow and index; the same again changes nothing."""
    from .deploy import deploy

    client = _client(name)
    done = deploy(client.deployment, client.services, dry_run=dry_run)
    if as_json:
        changes = [{"what": change.what, "action": change.action, "detail": change.detail} for change in done.changes]
        print(json.dumps({"flow_id": done.flow_id, "index_id": done.index_id, "changes": changes}, indent=2))
        return
    for change in done.changes:
        print(change)
    if done.flow_id:
        print(f"\nflow   {done.flow_id}\npage   https://app.globus.org/flows/{done.flow_id}")
    if done.index_id:
        print(f"index  {done.index_id}")
    if dry_run:
        print("nothing was changed (--dry-run)")


def _preflight(
    name: DeploymentName,
    wait: Annotated[
        float, typer.Option("--wait", help="Seconds that a job may stand in the endpoint's queue.")
    ] = 600.0,
    as_json: AsJson = False,
) -> None:
    """Check login, consents, collections, endpoint, a worker, transfers and index; a remedy for each that fails."""
    from .preflight import Check, preflight

    def show(check: Check) -> None:
        if not as_json:
            passed_over = not check.ok and check.said.startswith("passed over")
            sign = "ok" if check.ok else "-" if passed_over else "FAIL"
            print(f"{sign:<4}  {check.name:<28}  {check.said}", flush=True)
            if check.remedy:
                print(f"      {'note' if check.ok else 'remedy'}: {check.remedy}", flush=True)

    client = _client(name)
    checks = preflight(client.deployment, client.services, show, worker_wait_s=wait)
    if as_json:
        rows = [{"name": c.name, "ok": c.ok, "said": c.said, "remedy": c.remedy} for c in checks]
        print(json.dumps(rows, indent=2))
    if not all(check.ok for check in checks):
        raise typer.Exit(FAILED)


def _submit(
    scan: Annotated[
        str | None,
        typer.Argument(
            help="Raw scan: its path on the beamline's machine, or globus://COLLECTION/path.", metavar="SCAN"
        ),
    ] = None,
    deployment: OfDeployment = None,
    manifest: Annotated[
        Path | None,
        typer.Option(
            help="Many scans: a YAML or JSON list, or CSV with columns scan, scan_id, label, SECTION.FIELD.",
            metavar="FILE",
        ),
    ] = None,
    max_active: Annotated[
        int | None, typer.Option(min=1, help="With --manifest: most runs under way at a time; waits for all.")
    ] = None,
    parameters: ParameterFile = None,
    override: Overrides = None,
    skip: Skip = None,
    start_from: StartFrom = None,
    slab: Annotated[int | None, typer.Option(help="Rows a slab; rounded up to a multiple of 8.")] = None,
    workers: Annotated[int | None, typer.Option(help="Workers that share a machine's memory.")] = None,
    memory: Annotated[str | None, typer.Option(help="Memory for all workers of a machine, such as 8G.")] = None,
    scan_id: Annotated[str | None, typer.Option(help="Name of the scan; by default from its file's name.")] = None,
    label: Label = None,
    tag: Tags = None,
    monitor: Monitors = None,
    manager: Managers = None,
    share: Share = None,
    wait: Wait = False,
    again: Again = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Start a run at a facility; where the same request is under way, that run is shown instead.

    With --manifest, scans whose run succeeded or is under way are not submitted again: the same command resumes.
    """
    from .execution_options import execution_of

    if (scan is None) == (manifest is None):
        raise ParameterError("submit: give either a SCAN or --manifest FILE")
    values = apply_overrides(read_yaml(parameters) if parameters else {}, override or [])
    parse_parameters(values, str(parameters) if parameters else "parameters")
    if max_active is not None and manifest is None:
        raise ParameterError("--max-active: is for --manifest; leave it out")
    if manifest is not None and (scan_id is not None or label is not None):
        raise ParameterError("--scan-id and --label: are of one scan; write scan_id and label into the manifest")
    client = _client(_named(deployment))
    options: dict[str, Any] = {
        "parameters": values, "skip": skip or (), "start_from": start_from, "label": label, "tags": tag or (),
        "monitors": monitor or (), "managers": manager or (), "share": share,
        "execution": execution_of(slab, memory, workers),
    }  # fmt: skip
    if manifest is not None:
        _submit_manifest(client, manifest, options, max_active, wait, again, dry_run, as_json)
        return
    prepared = client.prepare(str(scan), scan_id=scan_id, **options)
    _start(client, prepared, wait=wait, again=again, dry_run=dry_run, as_json=as_json)


def _wait(
    name: RunName,
    deployment: AtDeployment = None,
    timeout: Annotated[float | None, typer.Option(min=0, help="Seconds to wait at most.")] = None,
    as_json: AsJson = False,
) -> None:
    """Wait until a run has ended; exit 0 where it succeeded, 1 where not, 3 where it waits for a person."""
    found = find_run(name, deployment)
    if isinstance(found, ServiceReference):
        _follow(_closing(found.client), found.run_id, as_json, timeout)
    else:
        _wait_local(found, as_json, timeout)


def _cancel(name: RunName, deployment: AtDeployment = None) -> None:
    """Stop a run; what it finished is kept, and the same run again resumes."""
    found = find_run(name, deployment)
    if not isinstance(found, ServiceReference):
        cancel_local(found)
        print(f"run {found.run_id}: told to stop; it ends after the slab in work")
        return
    run = _closing(found.client).cancel(found.run_id)
    ending = "is cancelled" if run.ended else "is being cancelled"
    print(f"run {run.run_id}: {ending}\npage     {run.url}")


def _resume(name: RunName, deployment: AtDeployment = None, wait: Wait = False, as_json: AsJson = False) -> None:
    """Give a run that is INACTIVE the consents or the login that it lacks, and let it go on."""
    found = find_run(name, deployment)
    if not isinstance(found, ServiceReference):
        raise InputError(f"run {found.run_id}: is a local one; run it again with: tomopipe retry {found.run_id[:8]}")
    client = _closing(found.client)
    run = client.resume(found.run_id)
    if wait:
        _follow(client, run.run_id, as_json)
    else:
        _print_started(run, as_json)


# What the commands are made of


def _client(name: str) -> Client:
    """Client that is closed when the command ends."""
    from .client import Client

    return _closing(Client(name))


def _closing(client: Client) -> Client:
    _opened.callback(client.close)
    return client


def _named(deployment: str | None) -> str:
    name = deployment or os.environ.get(DEPLOYMENT_VARIABLE)
    if not name:
        raise ParameterError(
            f"--deployment: say which facility; `tomopipe deployments` lists them, and {DEPLOYMENT_VARIABLE} sets a default"
        )
    return name


def _reachable(known: Any) -> Client | None:
    """Client of a run that this machine knows; None where its deployment cannot be loaded any more."""
    try:
        return _closing(client_of(known))
    except ParameterError as error:
        print(f"warning: {error}", file=sys.stderr)
        return None


def _flow_id_if_known(deployment: Deployment) -> str | None:
    from .deploy import find_flow_id

    with contextlib.suppress(ParameterError):
        return find_flow_id(deployment)
    return None


def _start(client: Client, prepared: PreparedRun, *, wait: bool, again: bool, dry_run: bool, as_json: bool) -> None:
    """Start a prepared run, and show or follow it."""
    if prepared.base is not None:
        print(prepared.base, file=sys.stderr)
    if dry_run:
        _print_prepared(prepared)
        return
    run = client.start(prepared, again=again)
    if run.was_under_way:
        print("the same request is under way; --again starts another run", file=sys.stderr)
    _note_offline(client, prepared)
    if wait:
        if not as_json:
            _print_run(run)
        _follow(client, run.run_id, as_json, base=prepared.base)
        return
    _print_started(run, as_json, prepared.base)


def _note_offline(client: Client, prepared: PreparedRun) -> None:
    endpoint = prepared.body["input"]["compute_endpoint"]
    status = client.endpoint_offline(endpoint)
    if status is not None:
        hours = client.deployment.compute.wait_hours
        print(
            f"note: endpoint {endpoint} is {status}: the run waits for it up to {hours:g} h; "
            f"`tomopipe preflight {client.deployment.called}`",
            file=sys.stderr,
        )


def _print_prepared(prepared: PreparedRun) -> None:
    content = {
        "label": prepared.label,
        "tags": list(prepared.tags),
        "run_monitors": list(prepared.monitors),
        "run_managers": list(prepared.managers),
        "body": prepared.body,
        **base_json(prepared.base),
    }
    print(json.dumps(content, indent=2))


def _print_started(run: ServiceRun, as_json: bool, base: Base | None = None) -> None:
    if as_json:
        print(json.dumps({**service_json(run), **base_json(base)}, indent=2))
    else:
        _print_run(run)
    if run.status == "INACTIVE":
        _say_how_to_go_on(run, sys.stderr)
        raise typer.Exit(NEEDS_PERSON)
    if not as_json:
        print(f"follow with: tomopipe wait {run.run_id[:8]}")


def _print_run(run: ServiceRun) -> None:
    print(f"run      {run.run_id}\nscan     {run.scan_id}\nstatus   {run.status}\npage     {run.url}")


def _print_results(run: ServiceRun) -> None:
    """Where the results of a run are, and their copy: path and address in the Globus web app."""
    print(f"results  {run.run_directory or '-'}")
    if run.folder is not None:
        print(f"         {run.folder}")
    if run.share_directory is not None:
        print(f"share    {run.share_directory}\n         {run.share_folder}")


def _follow(
    client: Client, run_id: str, as_json: bool, timeout_s: float | None = None, base: Base | None = None
) -> None:
    """Wait for a run, and leave with the exit code of how it ended; Ctrl-C leaves the run alone."""

    def show(run: ServiceRun) -> None:
        print(f"{run.scan_id}  {run.status}  {run.state or ''}".rstrip(), file=sys.stderr, flush=True)

    with _leaving_alone(
        f"the run goes on; follow it with: tomopipe wait {run_id[:8]}, stop it with: tomopipe cancel {run_id[:8]}"
    ):
        run = client.wait(run_id, timeout_s, show)
    if run.asked is not None:
        print(f"as of {run.asked}: the service cannot be asked now", file=sys.stderr)
    if as_json:
        print(json.dumps({**service_json(run), **base_json(base)}, indent=2))
    elif run.status == "SUCCEEDED":
        print(f"run {run.run_id} succeeded")
        _print_results(run)
    if run.status == "ACTIVE":
        print(f"run {run.run_id} is still ACTIVE after {timeout_s:g} s", file=sys.stderr)
        raise typer.Exit(FAILED)
    _say_how_to_go_on(run, sys.stderr)
    code = _code_of(run.status)
    if code:
        raise typer.Exit(code)


def _code_of(status: str) -> int:
    return {"SUCCEEDED": 0, "ACTIVE": 0, "INACTIVE": NEEDS_PERSON}.get(status, FAILED)


def _say_how_to_go_on(run: ServiceRun, stream: Any) -> None:
    name = run.run_id[:8]
    if run.status == "INACTIVE":
        print(f"the run waits for a person: {run.consent or 'see its page'}", file=stream)
        print(f"resume with: tomopipe resume {name}, or on its page {run.url}", file=stream)
    elif run.status == "FAILED":
        print(f"error: run {name}: {run.error}", file=stream)
        print(f"more with: tomopipe log {name}; again with: tomopipe retry {name}", file=stream)
    elif run.status == "CANCELLED":
        print(f"the run was cancelled; again with: tomopipe retry {name}", file=stream)


@contextlib.contextmanager
def _leaving_alone(message: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        print(message, file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None


def _wait_local(record: RunRecord, as_json: bool, timeout_s: float | None) -> None:
    from .local.run import run_store

    store, end = run_store(), None if timeout_s is None else time.monotonic() + timeout_s
    with _leaving_alone("the run goes on"):
        while record.status == "ACTIVE" and (end is None or time.monotonic() < end):
            time.sleep(0.5)
            record = store.get_run(record.run_id)
    error = error_of(record)
    if as_json:
        fields = ("run_id", "status", "started", "finished", "run_directory", "recipe_id")
        content = {"scan_id": record.label, **{name: getattr(record, name) for name in fields}, "error": error}
        print(json.dumps(content, indent=2))
    else:
        print(f"run {record.run_id} {record.status}" + (f": {error}" if error else ""))
    if record.status != "SUCCEEDED":
        raise typer.Exit(FAILED)


def _find_to_reprocess(name: str, deployment: str | None) -> RunRecord | tuple[Client, str]:
    """A local run, or the client to ask and the name to ask it for: a scan may have no run left there."""
    if deployment is not None:
        return _client(deployment), name
    default = os.environ.get(DEPLOYMENT_VARIABLE)
    try:
        found = find_run(name)
    except InputError:
        if default:
            return _client(default), name
        raise
    if not isinstance(found, ServiceReference):
        return latest_good(name) or found if found.label == name else found
    # Of a scan a run is meant that another machine may have submitted.
    of_scan = found.known is not None and found.known.scan_id == name
    return _closing(found.client), name if of_scan else found.run_id


def _local_request(record: RunRecord) -> LocalRequest:
    """What a local run was asked for."""
    from tomopipe.functions.parameters import Execution, validate_model

    from .local.run import LocalRequest

    body = record.input["input"]
    return LocalRequest(
        scan=Path(body["scan"]["path"]),
        output=Path(body["processing"]["path"]),
        parameters=parse_parameters(body["parameters"], record.run_id),
        skip=tuple(body["skip"]),
        start_from=body["start_from"],
        execution=validate_model(Execution, body["execution"], record.run_id),
        scan_id=body["scan_id"],
        copy_to=Path(body["destination"]["path"]) if "destination" in body else None,
    )


def _over(below: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in values.items():
        both = isinstance(merged.get(name), dict) and isinstance(value, dict)
        merged[name] = {**merged[name], **value} if both else value
    return merged


def _retry_failed(client: Client, since: datetime, wait: bool, again: bool, dry_run: bool, as_json: bool) -> None:
    failed = client.failed_runs(since)
    if dry_run or not failed:
        _print_runs(failed, as_json, "no failed run that nothing later has mended")
        return
    runs = []
    for run in failed:
        runs.append(client.start(client.prepare_retry(client.run(run.run_id)), again=again))
        if not as_json:
            print(f"{run.scan_id}  {run.run_id[:8]} -> {runs[-1].run_id}", flush=True)
    if wait:
        names = ", ".join(run.run_id[:8] for run in runs)
        with _leaving_alone(f"the runs go on: {names}"):
            runs = [client.wait(run.run_id) for run in runs]
    if as_json or wait:
        _print_runs(runs, as_json, "")
    _leave_with([run.status for run in runs])


def _submit_manifest(
    client: Client,
    manifest: Path,
    options: dict[str, Any],
    max_active: int | None,
    wait: bool,
    again: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    from .batch import prepare_batch, run_batch
    from .manifest import read_manifest

    items = prepare_batch(client, read_manifest(manifest), options)
    if dry_run:
        print(json.dumps([{"scan_id": item.prepared.scan_id, "body": item.prepared.body} for item in items], indent=2))
        return

    told = False

    def show(item: BatchItem) -> None:
        nonlocal told
        assert item.run is not None
        if item.submitted and not told:
            told = True
            _note_offline(client, item.prepared)
        print(f"{item.prepared.scan_id}  {item.run.status}  {item.run.run_id}", file=sys.stderr, flush=True)

    try:
        with _leaving_alone("the runs that were submitted go on; the same command again continues with the others"):
            run_batch(client, items, max_active=max_active, follow=wait, again=again, tell=show)
    finally:
        _print_batch(items, as_json)
    _leave_with([item.run.status if item.run else "INACTIVE" for item in items])


def _print_batch(items: list[BatchItem], as_json: bool) -> None:
    if as_json:
        rows = [
            {"scan_id": item.prepared.scan_id, "submitted": item.submitted, "run": item.run and service_json(item.run)}
            for item in items
        ]
        print(json.dumps(rows, indent=2))
        return
    table = Table("scan", "run", "status", "submitted", "error", box=None)
    for item in items:
        run = item.run
        now = "now" if item.submitted else "earlier" if run else "not yet"
        table.add_row(
            item.prepared.scan_id,
            run.run_id if run else "-",
            run.status if run else "-",
            now,
            (run and run.error) or "",
        )
    _out.print(table)
    for run in [item.run for item in items if item.run is not None and item.run.status == "INACTIVE"]:
        _say_how_to_go_on(run, sys.stderr)


def _print_runs(runs: list[ServiceRun], as_json: bool, none: str) -> None:
    if as_json:
        print(json.dumps([service_json(run) for run in runs], indent=2))
        return
    if not runs:
        print(none)
        return
    table = Table("run", "scan", "status", "started (UTC)", "error", box=None)
    for run in runs:
        table.add_row(run.run_id, run.scan_id, run.status, run.started[:19], run.error or "")
    _out.print(table)


def _leave_with(statuses: list[str]) -> None:
    """Leave with the worst of the runs' exit codes: a failed run is worse than one that waits for a person."""
    codes = {_code_of(status) for status in statuses}
    code = FAILED if FAILED in codes else max(codes, default=0)
    if code:
        raise typer.Exit(code)
