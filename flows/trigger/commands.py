"""The commands of the trigger: `tomopipe watch`, and `add`, `explain`, `status`, `retry` and `forget` below it.

All but the first work on the ledger alone, whether or not the trigger runs.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import signal
import sys
import uuid
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from tomopipe.functions.errors import InputError, TomopipeError
from tomopipe.functions.parameters import apply_overrides, read_yaml

from .config import TriggerConfig, load_config, utc_text
from .entry import STATES, Entry
from .ledger import Ledger
from .observation import Observation

CONFIG_VARIABLE = "TOMOPIPE_TRIGGER"
"""Environment variable that names the configuration."""

watch_app = typer.Typer(
    help="Start the run of every scan that is finished (the trigger).",
    invoke_without_command=True,
    no_args_is_help=False,
)

_out = Console(highlight=False, soft_wrap=True)
_WHY_MAX = 110

Config = Annotated[
    Path | None,
    typer.Option("--config", "-c", help=f"The trigger's configuration; by default ${CONFIG_VARIABLE}.", metavar="FILE"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ScanOrNumber = Annotated[str, typer.Argument(help="A scan's path, or the number of its entry.", metavar="SCAN")]


@watch_app.callback(short_help="Start the run of every finished scan.")
def watch(
    context: typer.Context,
    config: Config = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log every look.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Check the configuration, and stop.")] = False,
) -> None:
    """Watch for finished scans and start the run of each exactly once, until stopped (Ctrl-C, SIGTERM)."""
    context.obj = config
    if context.invoked_subcommand is not None:
        return
    settings = _config(context, None)
    if check:
        _check(settings)
        return
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    _quiet_libraries()
    from .service import Trigger

    trigger = Trigger(settings)

    def stop(number: int, frame: FrameType | None) -> None:
        trigger.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    trigger.run(ready=lambda: print("watching; Ctrl-C stops", file=sys.stderr))


@watch_app.command(short_help="Have a scan started, by its rule or as asked.")
def add(
    context: typer.Context,
    scan: Annotated[Path, typer.Argument(help="A scan that is finished, or will be.", metavar="SCAN")],
    parameters: Annotated[
        Path | None, typer.Option("--parameters", "-p", help="Parameters over those of the rule.", metavar="FILE")
    ] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", help="One parameter, as SECTION.FIELD=VALUE; repeatable.")
    ] = None,
    skip: Annotated[list[str] | None, typer.Option("--skip", help="Leave a stage out; repeatable.")] = None,
    deployment: Annotated[str | None, typer.Option(help="Where to run it, instead of where the rule says.")] = None,
    scan_id: Annotated[str | None, typer.Option(help="Name of the scan.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Start another run where there is one of the same.")] = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Have a scan started once it is finished. The trigger must run, now or later."""
    from .checker import observe_now
    from .rules import check_request, decide

    settings = _config(context, config)
    path = scan.expanduser().absolute()
    if not path.is_file():
        raise InputError(f"SCAN {path}: there is no such file; give the path of a scan")
    request = _request(parameters, override, skip, deployment, scan_id, again)
    check_request(request)
    ledger = Ledger(settings.ledger_path())
    earlier = _started_as_asked(settings, ledger, path, request)
    if earlier is not None:
        raise InputError(
            f"{path}: entry {earlier.number} is this scan with this recipe ({earlier.state}"
            f"{f', run {earlier.run_id}' if earlier.run_id else ''}); `tomopipe watch retry {earlier.number}` starts what "
            "failed again, --again makes another run"
        )
    decision = decide(settings.rules, path, "manual", {}, request)
    what = observe_now(ledger, Observation(path, "manual", "finished", "asked for by hand", {}, request))
    entry = ledger.of_path(path)[0]
    if as_json:
        print(json.dumps({"came_to": what, **_entry_json(entry)}, indent=2))
        return
    rule = decision.reason if decision.plan else f"{decision.reason}, unless its metadata say otherwise"
    print(f"entry {entry.number}: {entry.path} ({entry.state}); {rule}")


@watch_app.command(short_help="Say what a scan would be started with, and why.")
def explain(context: typer.Context, scan: ScanOrNumber, config: Config = None, as_json: AsJson = False) -> None:
    """Say which rule a scan falls under and why, what it would be started with, and how it stands in the ledger."""
    from .rules import decide

    settings = _config(context, config)
    ledger = Ledger(settings.ledger_path())
    entries = _entries_of(ledger, scan)
    path = Path(entries[0].path) if entries else Path(scan).expanduser().absolute()
    if not entries and not path.is_file():
        raise InputError(
            f"SCAN {scan}: is neither a file nor the number of an entry; `tomopipe watch status` lists those"
        )
    latest = entries[0] if entries else None
    verdict, metadata = _look(settings, path)
    known = {**metadata, **(latest.metadata if latest else {})}
    source = latest.source if latest else _source_of(settings, path)
    decision = decide(settings.rules, path, source, known, latest.request if latest else None)
    if as_json:
        plan = None if decision.plan is None else {**dataclasses.asdict(decision.plan), "recipe": decision.plan.recipe}
        document = {
            "path": str(path), "source": source, "metadata": known, "file": verdict, "reason": decision.reason,
            "rules": [{"rule": rule, "why": why} for rule, why in decision.looked_at],
            "plan": plan, "entries": [_entry_json(entry) for entry in entries],
        }  # fmt: skip
        print(json.dumps(document, indent=2))
        return
    print(f"scan      {path}\nsource    {source}\nfile      {verdict}")
    for name, value in sorted(known.items()):
        print(f"metadata  {name}: {value}")
    for rule, why in decision.looked_at:
        matched = decision.plan is not None and decision.plan.rule == rule
        print(f"rule      {rule}: {'yes' if matched else 'no'}, {why}")
    if decision.plan is None:
        print(f"start     no: {decision.reason}")
    else:
        plan_ = decision.plan
        print(f"start     at {plan_.target}, as {plan_.scan_id}, recipe {plan_.recipe}")
        for name, value in plan_.body.items():
            if value:
                print(f"          {name}: {json.dumps(value)}")
    for entry in entries:
        print(f"entry     {entry.number}: {_story(entry)}")


@watch_app.command(short_help="List the scans of the ledger.")
def status(
    context: typer.Context,
    state: Annotated[
        list[str] | None, typer.Option("--state", help=f"Only of this state: {', '.join(STATES)}; repeatable.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="Most scans listed.")] = 30,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """List the scans that changed last, and how many there are of each state."""
    settings = _config(context, config)
    ledger = Ledger(settings.ledger_path())
    counts, entries = ledger.counts(), ledger.list_entries(limit, state or ())
    health = _health(settings)
    if as_json:
        print(json.dumps({"counts": counts, "health": health, "scans": [_entry_json(e) for e in entries]}, indent=2))
        return
    print("  ".join(f"{name} {count}" for name, count in counts.items()))
    if health is not None:
        print(f"trigger: {'in order' if health.get('ok') else 'NOT in order'} at {health.get('time')}")
        for problem in health.get("problems", ()):
            print(f"  {problem}")
    if not entries:
        print("no scans yet")
        return
    table = Table("", "scan", "state", "changed (UTC)", "rule", "run", "why", box=None)
    for entry in entries:
        shown = f"{entry.state} ({entry.run_status})" if entry.state == "submitted" else entry.state
        table.add_row(
            str(entry.number), entry.name, shown, utc_text(entry.changed_at), entry.rule or "",
            (entry.run_id or "")[:8], _why(entry),
        )  # fmt: skip
    # At the width of its content, a line a scan: wrapped cells are hard to read where there are many.
    width = Console(width=10_000).measure(table).maximum
    Console(highlight=False, width=max(_out.width, width), soft_wrap=True).print(table)


def _why(entry: Entry) -> str:
    """The reason in one short line, without the path that the line begins with anyway."""
    reason = " ".join((entry.reason or "").removeprefix(f"{entry.path}: ").split())
    return reason if len(reason) <= _WHY_MAX else f"{reason[: _WHY_MAX - 1]}…"


@watch_app.command(short_help="Start scans again that failed or were ignored.")
def retry(
    context: typer.Context,
    scans: Annotated[
        list[str] | None, typer.Argument(help="Paths of scans, or numbers of entries.", metavar="[SCAN...]")
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="All that failed.")] = False,
    config: Config = None,
) -> None:
    """Start scans again that failed or were ignored, by the rules as they are now; what was computed is reused."""
    ledger = Ledger(_config(context, config).ledger_path())
    numbers = [entry.number for entry in ledger.list_entries(1_000_000, ("failed",))] if failed else []
    for scan in scans or ():
        entries = _entries_of(ledger, scan)
        if not entries:
            raise InputError(f"SCAN {scan}: is not in the ledger; `tomopipe watch add {scan}` adds it")
        retriable = [entry for state in ("failed", "ignored") for entry in entries if entry.state == state]
        numbers.append((retriable or entries)[0].number)
    if not numbers and not failed:
        raise InputError("SCAN: say which scans, or --failed for all that failed")
    for number in dict.fromkeys(numbers):
        entry = ledger.retry(number)
        print(f"entry {number}: {entry.path} is looked at again")
    if not numbers:
        print("none failed")


@watch_app.command(short_help="Give scans up that were not started.")
def forget(
    context: typer.Context,
    scans: Annotated[list[str], typer.Argument(help="Paths of scans, or numbers of entries.", metavar="SCAN...")],
    reason: Annotated[str, typer.Option(help="Why, for others.")] = "given up by hand",
    config: Config = None,
) -> None:
    """Give scans up that wait, are ready, failed, or cannot be submitted: they stay in the ledger, and are not started."""
    ledger = Ledger(_config(context, config).ledger_path())
    for scan in scans:
        entries = _entries_of(ledger, scan)
        if not entries:
            raise InputError(f"SCAN {scan}: is not in the ledger; `tomopipe watch status` lists what is")
        entry = entries[0]
        if not ledger.ignore(entry.number, reason):
            raise InputError(
                f"entry {entry.number} ({entry.path}): is {ledger.get(entry.number).state}; only what waits, is ready, "
                "failed, or cannot be submitted can be given up"
            )
        print(f"entry {entry.number}: {entry.path} is not started")


def _config(context: typer.Context, given: Path | None) -> TriggerConfig:
    """The configuration that a command, `watch` before it, or the environment names."""
    named = given or context.obj
    if named is None:
        text = os.environ.get(CONFIG_VARIABLE)
        if not text:
            raise InputError(f"--config: say which configuration (--config FILE), or set {CONFIG_VARIABLE}")
        named = Path(text)
    return load_config(named)


def _check(settings: TriggerConfig) -> None:
    """Say what would be watched, after reading what the rules name."""
    from .config import LOCAL
    from .rules import rule_parameters

    for rule in settings.rules:
        rule_parameters(rule)
        if rule.start and rule.deployment != LOCAL:
            from ..deployment import load_deployment

            load_deployment(rule.deployment)
    for files in settings.sources.files:
        for folder in files.folders:
            print(f"source {files.name}: {folder}{'' if folder.is_dir() else ' (is not there now)'}")
    for epics in settings.sources.epics:
        print(f"source {epics.name}: {epics.prefix}")
    if settings.sources.drop_folder is not None:
        print(f"source {settings.sources.drop_folder.name}: {settings.sources.drop_folder.folder}")
    for rule in settings.rules:
        print(f"rule {rule.name}: {rule.deployment if rule.start else 'starts nothing'}")
    print(f"ledger {settings.ledger_path()}\nthe configuration is good")


def _request(
    parameters: Path | None,
    override: list[str] | None,
    skip: list[str] | None,
    deployment: str | None,
    scan_id: str | None,
    again: bool,
) -> dict[str, Any]:
    values = apply_overrides(read_yaml(parameters) if parameters else {}, override or [])
    asked = {"parameters": values, "skip": skip, "deployment": deployment, "scan_id": scan_id, "again": again}
    request = {name: value for name, value in asked.items() if value}
    return {**request, "id": uuid.uuid4().hex} if again else request


def _started_as_asked(settings: TriggerConfig, ledger: Ledger, path: Path, request: dict[str, Any]) -> Entry | None:
    """The entry of the same file and recipe whose run was started, where no other run is asked for."""
    from .entry import identify
    from .rules import decide

    if request.get("again"):
        return None
    found = identify(path)
    for entry in ledger.of_path(path):
        if entry.identity == found and entry.state in ("submitting", "submitted", "done", "failed"):
            plan = decide(settings.rules, path, "manual", entry.metadata, request).plan
            if plan is not None and plan.recipe == entry.recipe:
                return entry
    return None


def _look(settings: TriggerConfig, path: Path) -> tuple[str, dict[str, Any]]:
    """What a look at the file says, as if it had rested long enough, and its metadata."""
    from .finished import FinishedPolicy, check_finished

    policy = FinishedPolicy(stable_s=0.0, check_writers=settings.finished.check_writers)
    verdict = check_finished(path, policy, 0.0)
    text = verdict.state if verdict.state == "finished" else f"{verdict.state}: {verdict.reason}"
    return text, dict(verdict.metadata)


def _source_of(settings: TriggerConfig, path: Path) -> str:
    for files in settings.sources.files:
        if any(folder in path.parents for folder in files.folders):
            return files.name
    return "manual"


def _entries_of(ledger: Ledger, scan: str) -> list[Entry]:
    """Entries of a path, newest first, or the one of a number."""
    if scan.isdecimal() and not Path(scan).exists():
        return [ledger.get(int(scan))]
    return ledger.of_path(Path(scan).expanduser().absolute())


def _health(settings: TriggerConfig) -> dict[str, Any] | None:
    path = settings.monitoring.health_file
    if path is None:
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise TomopipeError(f"{path}: the health file cannot be read ({error})") from error
    return document if isinstance(document, dict) else None


def _story(entry: Entry) -> str:
    parts = [f"{entry.state} since {utc_text(entry.changed_at)} UTC, seen {utc_text(entry.seen_at)} by {entry.source}"]
    if entry.run_id:
        parts.append(f"run {entry.run_id} ({entry.run_status}) of rule {entry.rule}")
    if entry.reason:
        parts.append(entry.reason)
    return "; ".join(parts)


def _entry_json(entry: Entry) -> dict[str, Any]:
    return dataclasses.asdict(entry)


def _quiet_libraries() -> None:
    for name in ("globus_sdk", "urllib3", "caproto", "watchdog", "parsl"):
        logging.getLogger(name).setLevel(logging.WARNING)
