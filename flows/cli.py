"""The `tomopipe` command: reads options, calls what does the work, prints what a person or a program reads.

The commands of a facility are in `service_commands`. Exit codes: 0 good, 1 the run failed, 2 bad input, 3 a person must
log in or consent, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, cast

import typer
from rich.console import Console
from rich.table import Table

from tomopipe.functions.errors import InputError, ParameterError, TomopipeError
from tomopipe.functions.parameters import (
    SkippableStage,
    Stage,
    apply_overrides,
    parse_parameters,
    read_yaml,
)

from .center_command import center
from .found_runs import ServiceReference, error_of, find_run
from .service_commands import (
    AsJson,
    AtDeployment,
    OfDeployment,
    RunName,
    base_json,
    close_clients,
    exit_code,
    list_service_runs,
    register,
    run_directory_here,
    search_deployment,
    service_json,
    service_log,
    show_report,
    show_service_status,
)
from .trigger.commands import watch_app

if TYPE_CHECKING:
    from tomopipe.functions.rundir import RunDirectory

    from .local.run import CheckedRun, LocalRequest, RunResult
    from .local.run_store import RunRecord
    from .service_run import Base

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130

app = typer.Typer(
    name="tomopipe",
    help="From a finished X-ray tomography scan to reconstructed, denoised, segmented and measured volumes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_out = Console(highlight=False, soft_wrap=True)

Output = Annotated[Path, typer.Option("--output", "-o", help="Folder of the results.")]
Local = Annotated[bool, typer.Option("--local", help="This machine alone, whatever deployment is set.")]


def main() -> None:
    """Entry point: runs the command, and turns an expected error into one message and its exit code."""
    try:
        app(standalone_mode=True)
    except TomopipeError as error:
        _stop(error, exit_code(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except OSError as error:
        # Standard output that is full or gone; the run directory and the store have everything.
        with contextlib.suppress(OSError):
            print(f"error: cannot print: {error.strerror}", file=sys.stderr)
        os._exit(FAILED)
    finally:
        close_clients()


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.", is_eager=True)] = False,
) -> None:
    if version:
        print(f"tomopipe {importlib.metadata.version('tomopipe')}")
        raise typer.Exit


@app.command(short_help="Take a raw scan to published metrics; again resumes.")
def run(
    scan: Annotated[Path, typer.Argument(help="Raw scan: Data Exchange or NXtomo HDF5.", metavar="SCAN")],
    output: Output = Path("results"),
    parameters: Annotated[
        Path | None, typer.Option("--parameters", "-p", help="YAML file with a section a stage.", metavar="FILE")
    ] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", help="One parameter, as SECTION.FIELD=VALUE; repeatable.")
    ] = None,
    skip: Annotated[
        list[str] | None, typer.Option("--skip", help="Leave a stage out: denoise, segment, separate_objects.")
    ] = None,
    start_from: Annotated[
        str | None, typer.Option("--from", help="Refuse to compute any stage before this one.", metavar="STAGE")
    ] = None,
    slab: Annotated[int | None, typer.Option(help="Rows a slab; rounded up to a multiple of 8.")] = None,
    workers: Annotated[int, typer.Option(help="Worker processes; they share memory and cores.")] = 1,
    memory: Annotated[
        str | None, typer.Option(help="Memory for all workers, such as 8G; half of what is free.")
    ] = None,
    scan_id: Annotated[str | None, typer.Option(help="Name of the scan; by default from its file's name.")] = None,
    copy_to: Annotated[Path | None, typer.Option(help="Folder to which the results are copied at the end.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, print the plan, and stop.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take a raw scan through every stage to metrics in the search index. The same command again resumes."""
    from .execution_options import execution_of
    from .local.run import LocalRequest, check_run

    values = read_yaml(parameters) if parameters else {}
    source = str(parameters) if parameters else "parameters"
    request = LocalRequest(
        scan=scan,
        output=output,
        parameters=parse_parameters(apply_overrides(values, override or []), source),
        skip=cast(tuple[SkippableStage, ...], tuple(skip or ())),
        start_from=cast(Stage | None, start_from),
        execution=execution_of(slab, memory, workers),
        scan_id=scan_id,
        copy_to=copy_to,
    )
    checked = check_run(request)
    if dry_run:
        _print_plan(checked, as_json)
        return
    _finish(_run_with_progress(checked), as_json)


@app.command(short_help="Simulate a scan, run it, compare with the truth.")
def demo(output: Output = Path("demo")) -> None:
    """Simulate a scan, run the pipeline on it, and print the metrics beside the truth."""
    from tomopipe.functions.simulation import SimulationSettings, simulate_scan

    from .local.run import LocalRequest, check_run

    scan = output / "foam.h5"
    if scan.is_file():
        print(f"{scan} is there already", file=sys.stderr)
    else:
        print(f"simulating a scan of a foam: {scan}", file=sys.stderr)
        simulate_scan(SimulationSettings(), scan)
    result = _run_with_progress(check_run(LocalRequest(scan, output / "results")))
    if result.outcome.status != "SUCCEEDED" or result.run_directory is None:
        _finish(result, as_json=False)
        return
    truth = json.loads(scan.with_suffix(".truth.json").read_text(encoding="utf-8"))
    _print_beside_truth(result.run_directory, truth)


@app.command(short_help="Write a scan as a detector would, with its truth.")
def simulate(
    path: Annotated[Path | None, typer.Argument(help="Where to write the scan.", metavar="SCAN.h5")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="One setting, as FIELD=VALUE; repeatable. See --settings.")
    ] = None,
    phantom: Annotated[str, typer.Option(help="foam, spheres, fibres or channels.")] = "foam",
    columns: Annotated[int, typer.Option(help="Detector columns.")] = 160,
    rows: Annotated[int, typer.Option(help="Detector rows.")] = 128,
    angles: Annotated[int, typer.Option(help="Number of projections.")] = 240,
    arc: Annotated[int, typer.Option(help="Range of the rotation in degrees: 180 or 360.")] = 180,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    settings: Annotated[bool, typer.Option("--settings", help="List all settings, and stop.")] = False,
) -> None:
    """Write a Data Exchange scan as a detector would, with its truth beside it as JSON and HDF5."""
    from tomopipe.functions.simulation import SimulationSettings, simulate_scan

    if settings:
        table = Table("setting", "default", "meaning", box=None)
        for name, model_field in SimulationSettings.model_fields.items():
            table.add_row(name, str(model_field.default), model_field.description or "")
        _out.print(table)
        return
    options = {"phantom": phantom, "columns": columns, "rows": rows, "angles": angles, "arc_deg": arc, "seed": seed}
    chosen = SimulationSettings(**{**options, **apply_overrides({}, setting or [])})
    if path is None:
        raise InputError("SCAN.h5: say where to write the scan")
    if path.exists() and not force:
        raise InputError(f"{path}: is there already; give another path, or --force to replace it")
    with _bar("simulating") as progress:
        simulate_scan(chosen, path, progress)
    print(path)


app.command(short_help="Find the rotation centre, draw trial slices.")(center)


@app.command(short_help="Convert another format to Data Exchange (dxchange).")
def convert(
    source: Annotated[Path, typer.Argument(help="A scan in another format.", metavar="SOURCE")],
    target: Annotated[Path, typer.Argument(help="Where to write it as Data Exchange.", metavar="SCAN.h5")],
    reader: Annotated[str, typer.Option(help="dxchange's reader without read_, for example sls_tomcat.")],
    arc: Annotated[
        float | None, typer.Option(help="Range of the rotation in degrees, where the reader does not know.")
    ] = None,
) -> None:
    """Convert a scan of another format to Data Exchange with dxchange, where that is installed."""
    from tomopipe.functions.conversion import convert_scan

    if target.exists():
        raise InputError(f"{target}: is there already; give another path")
    print(convert_scan(source, target, reader, arc))


@app.command(short_help="Print the flow's definition and input schema.")
def definition(
    what: Annotated[
        str,
        typer.Argument(
            help="definition, schema, both; metrics, document: schemas of labels.json and of search documents."
        ),
    ] = "both",
) -> None:
    """Print the flow's definition and its input schema as the Globus Flows service takes them."""
    from tomopipe.functions.quantification.document_schema import document_schema
    from tomopipe.functions.quantification.metrics_schema import metrics_schema

    from .tomography import flow_definition, flow_schema

    makers: dict[str, Callable[[], Any]] = {
        "definition": flow_definition,
        "schema": flow_schema,
        "metrics": metrics_schema,
        "document": document_schema,
        "both": lambda: {"definition": flow_definition(), "input_schema": flow_schema()},
    }
    if what not in makers:
        raise ParameterError(f"{what!r}: print one of {', '.join(makers)}")
    print(json.dumps(makers[what](), indent=2))


@app.command(short_help="List runs, here and at facilities.")
def runs(
    limit: Annotated[int, typer.Option(min=1, help="Most runs listed.")] = 20,
    status: Annotated[
        str | None,
        typer.Option(help="Only of one status: ACTIVE, INACTIVE, SUCCEEDED, FAILED, CANCELLED, INTERRUPTED."),
    ] = None,
    deployment: OfDeployment = None,
    local: Local = False,
    as_json: AsJson = False,
) -> None:
    """List the latest runs: of this machine and those that it submitted, or all of a deployment as the service says."""
    from .local.run import run_store
    from .local.run_store import RUN_STATUSES

    wanted = status.upper() if status else None
    known = (*RUN_STATUSES, "INACTIVE")
    if wanted is not None and wanted not in known:
        raise InputError(f"--status {status}: is not one of {', '.join(known)}")
    rows: list[tuple[str, str, dict[str, Any]]] = []
    if local or deployment is None:
        records = [] if wanted == "INACTIVE" else run_store().list_runs(limit, status=wanted)
        rows += [(record.started, "here", _record_json(record)) for record in records]
    if not local and wanted != "INTERRUPTED" and (deployment is not None or _has_submissions()):
        found = list_service_runs(limit, wanted, deployment)
        rows += [(run.started, run.deployment, service_json(run)) for run in found]
    rows = sorted(rows, key=lambda row: row[0], reverse=True)[:limit]
    if as_json:
        print(json.dumps([row for _, _, row in rows], indent=2))
        return
    if not rows:
        print("no runs yet; start one with: tomopipe run SCAN.h5, or tomopipe submit SCAN --deployment NAME")
        return
    table = Table("run", "scan", "status", "started (UTC)", "recipe", "where", box=None)
    for started, place, row in rows:
        stale = f" (as of {row['asked'][:19]})" if row.get("asked") else ""
        table.add_row(
            row["run_id"][:8], row["scan_id"], row["status"] + stale, started[:19], row["recipe_id"] or "", place
        )
    _print_whole(table)


@app.command(short_help="Show how a run stands.")
def status(name: RunName, deployment: AtDeployment = None, as_json: AsJson = False) -> None:
    """Show how a run stands: its states, and its error where it failed."""
    from .local.run import run_store

    store = run_store()
    record = find_run(name, deployment)
    if isinstance(record, ServiceReference):
        show_service_status(record, as_json)
        return
    states = store.states(record.run_id)
    if as_json:
        listed = [
            {"name": s.name, "type": s.type, "status": s.status, "started": s.started, "finished": s.finished}
            for s in states
        ]
        print(json.dumps({**_record_json(record), "states": listed}, indent=2))
        return
    print(f"run      {record.run_id}\nscan     {record.scan}\nstatus   {record.status}")
    print(f"started  {record.started}\nfinished {record.finished or '-'}\nresults  {record.run_directory or '-'}")
    table = Table("state", "status", "started (UTC)", "tasks", box=None)
    for state in states:
        if state.type == "Action":
            tasks = f"{state.done}/{state.total}" if state.unit == "task" else ""
            table.add_row(state.name, state.status, state.started[11:19], tasks)
    _out.print(table)
    if record.error:
        print(f"error: {error_of(record)}")
    if record.status in ("INTERRUPTED", "CANCELLED", "FAILED"):
        print(f"resume with: {_resume_command(record.input['input'])}")


@app.command()
def log(
    name: RunName,
    deployment: AtDeployment = None,
    everything: Annotated[
        bool, typer.Option("--all", help="The flow's choices and notes (Choice, Pass) too; --json has them anyway.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print the log of a run."""
    from .local.actions import explain, is_withheld, tracebacks
    from .local.run import run_store

    told: set[str] = set()
    found = find_run(name, deployment)
    events = service_log(found) if isinstance(found, ServiceReference) else run_store().events(found.run_id)
    for event in events:
        if as_json:
            print(
                json.dumps({"time": event.time, "code": event.code, "description": event.description, **event.details})
            )
            continue
        if event.code.startswith(("Choice", "Pass")) and not everything:
            continue
        print(f"{event.time[:23]}  {event.code:<24}  {event.description}")
        cause = event.details.get("cause")
        if cause and not is_withheld(cause) and ("Fail" in event.code or "Time" in event.code):
            error = str(event.details.get("error") or event.details.get("exception") or "failed")
            for text in (explain(error, cause), *tracebacks(cause)):
                # The run's failure says again what its state's has said.
                if text not in told:
                    told.add(text)
                    print(_indented(text))


@app.command(short_help="Search the index of this machine, or of a facility.")
def search(
    query: Annotated[list[str], typer.Argument(help="For example: 'porosity > 20 and sample:shale'", metavar="QUERY")],
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="Most hits listed.")] = 20,
    deployment: OfDeployment = None,
    local: Local = False,
    as_json: AsJson = False,
) -> None:
    """Search the index of this machine or of a deployment: words, FIELD:WORD, and comparisons such as 'porosity > 20'."""
    from .local.query import parse
    from .local.run import search_index

    if deployment is None or local:
        index, text = search_index(), " ".join(query)
        parse(text)
        # Nothing was published yet, so that no name of a field is known.
        hits = index.search(text, limit) if index.fields() else []
    else:
        hits = search_deployment(" ".join(query), limit, deployment)
    if as_json:
        print(json.dumps([{"subject": hit.subject, "content": hit.content} for hit in hits], indent=2))
        return
    if not hits:
        print("nothing found")
    for hit in hits:
        content = hit.content
        print(
            f"{content.get('scan_id', '')}  {content.get('recipe_id', '')}  {content.get('status', '')}  {hit.subject}"
        )
        for key, value in list(content.get("metrics", {}).items())[:6]:
            print(f"    {key} {value:.6g}")
        if content.get("status") == "failed":
            from .local.actions import explain

            print(f"    {explain(content['failure']['error'], content['failure']['cause'])}")


@app.command(short_help="Show runs side by side: metrics, parameters, pictures.")
def compare(
    names: Annotated[
        list[str],
        typer.Argument(
            help="Two or more runs: ids, scan ids, or run directories. The first is the reference.",
            metavar="RUN RUN...",
        ),
    ],
    page: Annotated[Path | None, typer.Option("--html", help="Write them as one HTML file too.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what changed between runs: parameters in which they differ, and their metrics."""
    from .compare import change_percent, change_text, compare_runs, load_run, shown, write_html

    comparison = compare_runs([load_run(_run_directory(name)) for name in names])
    if page is not None:
        try:
            write_html(comparison, page)
        except OSError as error:
            raise InputError(f"--html {page}: cannot be written: {error.strerror}; give another path") from error
    if as_json:
        print(json.dumps(comparison.as_json(), indent=2))
        return
    titles = [run.name for run in comparison.runs]
    if comparison.parameters:
        table = Table("parameter", *titles, box=None)
        for name, values in comparison.parameters.items():
            table.add_row(name, *(shown(value) for value in values))
        _print_whole(table)
    else:
        print("the same scan and the same parameters")
    print()
    table = Table("metric", *titles, box=None)
    for name, numbers in comparison.metrics.items():
        changes = change_percent(numbers)
        cells = [
            "-" if number is None else f"{number:.5g}{change_text(numbers[0], number, change)}"
            for number, change in zip(numbers, changes, strict=True)
        ]
        table.add_row(name, *cells)
    _print_whole(table)
    if page is not None:
        print(page)


@app.command()
def report(
    name: RunName,
    show: Annotated[bool, typer.Option("--open", help="Open it in the web browser.")] = False,
) -> None:
    """Print where the report of a run is: its file, or of a run at a facility its web address."""
    show_report(name, show)


def _run_with_progress(checked: CheckedRun) -> RunResult:
    from tomopipe.functions.reconstruction.lane_nufft import compiled_before

    from .local.progress import ProgressDisplay
    from .local.run import start_run

    if not compiled_before():
        print("first use: kernels are compiled, once; this takes some seconds in each stage", file=sys.stderr)
    cancel = threading.Event()
    with ProgressDisplay(sys.stderr) as display, _cancelled_by_signals(cancel):
        return start_run(checked, [display], cancel)


@contextlib.contextmanager
def _cancelled_by_signals(cancel: threading.Event) -> Iterator[None]:
    """Ctrl-C or SIGTERM ends the run in order; a second one ends the process at once."""

    def stop(number: int, frame: FrameType | None) -> None:
        if cancel.is_set():
            raise KeyboardInterrupt
        cancel.set()
        with contextlib.suppress(OSError):
            print("stopping: finished slabs are kept", file=sys.stderr)

    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, stop) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def _finish(result: RunResult, as_json: bool, base: Base | None = None) -> None:
    """Print how a run ended, and leave with its exit code."""
    from .local.run import run_store

    outcome, directory = result.outcome, result.run_directory
    record = run_store().get_run(result.run_id)
    if as_json:
        content: dict[str, Any] = {**_record_json(record), **base_json(base)}
        if outcome.status == "SUCCEEDED" and directory is not None:
            content.update(json.loads(directory.metrics.read_text(encoding="utf-8")), report=str(directory.report))
        print(json.dumps(content, indent=2))
    elif outcome.status == "SUCCEEDED" and directory is not None:
        _print_metrics(json.loads(directory.metrics.read_text(encoding="utf-8")))
        for note in _notes(directory, record.input["input"]):
            print(f"note: {note}")
        print(f"\nresults  {directory.root}\nreport   {directory.report}")
    if outcome.status == "SUCCEEDED":
        return
    if outcome.status == "CANCELLED":
        print(f"interrupted; resume with: {_resume_command(record.input['input'])}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED)
    print(f"run {result.run_id} failed: {error_of(record)}", file=sys.stderr)
    print(f"more with: tomopipe log {result.run_id[:8]}", file=sys.stderr)
    raise typer.Exit(FAILED)


def _notes(directory: RunDirectory, body: dict[str, Any]) -> list[str]:
    document = directory.read_run()
    notes: list[str] = document["plan"]["notes"]
    elsewhere = [stage for stage, entry in document["stages"].items() if (entry["output"] or "").startswith("..")]
    if "destination" in body and elsewhere:
        notes = [*notes, f"the copy refers to another recipe's directory for {', '.join(elsewhere)}; copy that one too"]
    return notes


def _resume_command(body: dict[str, Any]) -> str:
    """The command line that starts the same run again."""
    words = [
        "tomopipe",
        "run",
        body["scan"]["path"],
        "--output",
        body["processing"]["path"],
        "--scan-id",
        body["scan_id"],
    ]
    for section, fields in body["parameters"].items():
        if isinstance(fields, dict):
            words += [
                word for key, value in fields.items() for word in ("--set", f"{section}.{key}={json.dumps(value)}")
            ]
        else:
            words += ["--set", f"{section}={json.dumps(fields)}"]
    for stage in body["skip"]:
        words += ["--skip", stage]
    if body["start_from"]:
        words += ["--from", body["start_from"]]
    options = {"slab": "--slab", "workers": "--workers", "memory_bytes": "--memory"}
    for key, value in body["execution"].items():
        words += [options[key], str(value)]
    if "destination" in body:
        words += ["--copy-to", body["destination"]["path"]]
    return shlex.join(words)


def _print_plan(checked: CheckedRun, as_json: bool) -> None:
    plan = checked.plan
    if as_json:
        print(json.dumps(plan, indent=2))
        return
    for key, value in plan.items():
        print(f"{key.replace('_', ' '):<22} {value}")


def _print_metrics(sidecar: dict[str, Any]) -> None:
    table = Table(box=None, show_header=False)
    for name, value in sidecar["metrics"].items():
        low_high = sidecar["intervals"].get(name, {}).get("subvolumes")
        table.add_row(name, f"{value:.6g}", f"{low_high[0]:.4g} to {low_high[1]:.4g}" if low_high else "")
    _print_whole(table)
    for warning in sidecar["quality"]["warnings"]:
        print(f"warning: {warning}")


def _print_whole(table: Table) -> None:
    """Print a table at the width of its content: metrics' names that are cut to a terminal's width look alike."""
    width = Console(width=10_000).measure(table).maximum
    Console(highlight=False, width=max(_out.width, width), soft_wrap=True).print(table)


def _print_beside_truth(directory: RunDirectory, truth: dict[str, Any]) -> None:
    from tomopipe.functions.simulation.comparison import compare_with_truth

    table = Table("quantity", "measured", "truth", "difference", box=None)
    for name, measured, true in compare_with_truth(directory, truth):
        difference = f"{measured - true:+.3g}" if name.endswith("_px") else f"{100 * (measured / true - 1):+.2f} %"
        table.add_row(name, f"{measured:.5g}", f"{true:.5g}", difference)
    _out.print(table)
    print(f"\nresults  {directory.root}\nreport   {directory.report}")


def _has_submissions() -> bool:
    from .submissions import submission_store

    return submission_store().path.is_file()


def _run_locally(request: LocalRequest, as_json: bool, base: Base | None) -> None:
    from .local.run import check_run

    _finish(_run_with_progress(check_run(request)), as_json, base)


def _run_directory(name: str) -> Path:
    """Run directory of a run id or scan id, or the folder itself."""
    folder = Path(name)
    if (folder / "run.json").is_file():
        return folder
    if os.sep in name:
        raise InputError(f"{name}: holds no run.json; give a run directory, a run id, or a scan id")
    return run_directory_here(name)


def _record_json(record: RunRecord) -> dict[str, Any]:
    return {
        "run_id": record.run_id,
        "scan_id": record.label,
        "scan": record.scan,
        "status": record.status,
        "error": error_of(record),
        "started": record.started,
        "finished": record.finished,
        "run_directory": record.run_directory,
        "recipe_id": record.recipe_id,
    }


@contextlib.contextmanager
def _bar(title: str) -> Iterator[Callable[[int, int], None]]:
    from rich.progress import Progress

    with Progress(console=Console(file=sys.stderr), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(title)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def _stop(error: Exception, code: int) -> NoReturn:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(code)


register(app, _run_locally)
app.add_typer(watch_app, name="watch")


if __name__ == "__main__":
    main()
