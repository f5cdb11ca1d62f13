"""Several runs side by side: their metrics, the parameters in which they differ, and their pictures.

Reads run directories alone, so that runs may be compared wherever their results have been copied to.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tomopipe.functions.errors import InputError, StageError
from tomopipe.functions.quantification.glossary import describe
from tomopipe.functions.quantification.metrics_schema import METRICS_FORMAT
from tomopipe.functions.rundir import RunDirectory, written_aside

COMPARISON_FORMAT = "tomopipe-comparison/1"

# What differs by nature between two runs, and says nothing about why their numbers do.
_NOT_COMPARED = ("notes", "sample_rows")
_RUN_BLOCKS = ("scan_id", "recipe_id", "resolved", "request", "scan", "software")
_METRICS_BLOCKS = ("metrics", "intervals", "quality")
_PICTURES = ("reconstruction_xy", "denoised_xy", "phases_xy", "objects_xy", "thickness", "sizes")


@dataclass(frozen=True)
class ComparedRun:
    """A finished run.

    Attributes
    ----------
    root : Path
        Its run directory.
    document, sidecar : dict
        Content of `run.json` and `labels.json`.
    """

    root: Path
    document: dict[str, Any]
    sidecar: dict[str, Any]

    @property
    def name(self) -> str:
        """Scan and recipe."""
        return f"{self.document['scan_id']}/{self.document['recipe_id']}"


@dataclass(frozen=True)
class Comparison:
    """Runs side by side; each row holds one value a run, None where a run has none.

    Attributes
    ----------
    runs : list of ComparedRun
        In the order given; changes are against the first.
    parameters : dict of str to list
        Parameters and resolved values in which the runs differ.
    metrics, quality : dict of str to list
        By name, in the order of the first run that has it.
    """

    runs: list[ComparedRun]
    parameters: dict[str, list[Any]]
    metrics: dict[str, list[float | None]]
    quality: dict[str, list[float | None]]

    def as_json(self) -> dict[str, Any]:
        """The comparison as plain JSON."""
        return {
            "format": COMPARISON_FORMAT,
            "runs": [
                {"scan_id": run.document["scan_id"], "recipe_id": run.document["recipe_id"], "directory": str(run.root)}
                for run in self.runs
            ],
            "parameters": self.parameters,
            "metrics": {
                name: {
                    "values": values,
                    "change_percent": change_percent(values),
                    "intervals": [run.sidecar["intervals"].get(name, {}) for run in self.runs],
                }
                for name, values in self.metrics.items()
            },
            "quality": self.quality,
        }


def load_run(root: Path) -> ComparedRun:
    """A run from its directory.

    Raises
    ------
    InputError
        It is no run directory, has no metrics yet, or metrics of another format.
    """
    run = RunDirectory(root)
    try:
        document = run.read_run()
        sidecar = json.loads(run.metrics.read_text(encoding="utf-8"))
    except StageError as error:
        raise InputError(f"{root}: is no run directory that can be compared: {error}") from error
    except OSError as error:
        raise InputError(f"{run.metrics}: cannot be read ({error.strerror}); let the run finish first") from error
    except ValueError as error:
        raise InputError(f"{run.metrics}: is not JSON; delete it and run the scan again") from error
    found = sidecar.get("format") if isinstance(sidecar, dict) else None
    if found != METRICS_FORMAT:
        raise InputError(
            f"{run.metrics}: format is {found!r}, this tomopipe compares {METRICS_FORMAT!r}; "
            "run the scan again with this version"
        )
    missing = [name for name in _RUN_BLOCKS if name not in document]
    missing += [name for name in _METRICS_BLOCKS if name not in sidecar]
    if missing:
        raise InputError(f"{root}: has no {', '.join(missing)}; run the scan again with this version")
    return ComparedRun(root, document, sidecar)


def compare_runs(runs: Sequence[ComparedRun]) -> Comparison:
    """Compare runs.

    Raises
    ------
    InputError
        Fewer than two runs, or one given twice.
    """
    if len(runs) < 2:
        raise InputError("compare: give at least two runs")
    if len({run.root.resolve() for run in runs}) < len(runs):
        raise InputError("compare: one run is given twice; give runs that differ")
    choices = [_choices(run.document) for run in runs]
    parameters = {
        name: [chosen.get(name) for chosen in choices]
        for name in _names(choices)
        if any(chosen.get(name) != choices[0].get(name) for chosen in choices)
    }
    metrics = [run.sidecar["metrics"] for run in runs]
    quality = [
        {name: value for name, value in run.sidecar["quality"].items() if not isinstance(value, list)} for run in runs
    ]
    return Comparison(
        list(runs),
        parameters,
        {name: [values.get(name) for values in metrics] for name in _names(metrics)},
        {name: [values.get(name) for values in quality] for name in _names(quality)},
    )


def change_percent(values: Sequence[float | None]) -> list[float | None]:
    """Change of each value against the first, in percent of the first; None where that is not defined."""
    first = values[0]
    return [
        None if first is None or value is None or first == 0 else 100 * (value - first) / abs(first) for value in values
    ]


def change_text(first: float | None, value: float | None, change: float | None) -> str:
    """A change for a person: in percent, or that there is one where percent say nothing; "" for none."""
    if change:
        return f" ({change:+.2f} %)"
    changed_from_zero = change is None and first is not None and value is not None and value != first
    return " (changed)" if changed_from_zero else ""


def write_html(comparison: Comparison, path: Path) -> None:
    """Write the comparison as one HTML file that needs no network; an existing one is replaced."""
    runs = comparison.runs
    head = "".join(f"<th>{html.escape(run.name)}</th>" for run in runs)
    body = "".join(
        [
            f"<h1>{len(runs)} runs side by side</h1>",
            "<p class=lead>Changes are against the first run.</p>",
            "<h2>What was chosen otherwise</h2>",
            _parameter_table(comparison, head),
            "<h2>Metrics</h2>",
            _metric_table(comparison.metrics, [run.sidecar["intervals"] for run in runs], head),
            "<h2>Quality</h2>",
            _metric_table(comparison.quality, [{} for _ in runs], head),
            _warnings(runs),
            "<h2>Pictures</h2>",
            _pictures(runs),
        ]
    )
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        f"style-src 'unsafe-inline'\"><title>Comparison</title><style>{_CSS}</style></head><body>{body}</body></html>\n"
    )
    with written_aside(path) as aside:
        aside.write_text(page, encoding="utf-8")


_CSS = """
:root{--ink:#1c2430;--soft:#5b6675;--line:#dde2e8;--paper:#fff;--accent:#c2410c;color-scheme:light dark}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ee;--soft:#9aa5b3;--line:#2c3440;--paper:#12161c;--accent:#fb923c}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1280px;padding:28px 22px 60px;font:15px/1.5 system-ui,sans-serif;color:var(--ink);
background:var(--paper)}
h1{font-size:26px;margin:0}h2{font-size:18px;margin:36px 0 10px;border-bottom:1px solid var(--line);padding-bottom:5px}
p.lead{color:var(--soft);margin:4px 0 18px}.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:4px 14px 4px 0;border-bottom:1px solid var(--line);
vertical-align:top}td.n,th+th{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
small{color:var(--soft);display:block}.changed{color:var(--accent)}
.row{display:grid;gap:10px;margin-bottom:18px;align-items:start}figure{margin:0}figcaption{color:var(--soft);font-size:13px}
img{width:100%;border-radius:4px;display:block;background:#000}code{font-size:13px;word-break:break-word}
.warning{border-left:4px solid var(--accent);padding:4px 12px;margin:8px 0}
"""


def _parameter_table(comparison: Comparison, head: str) -> str:
    if not comparison.parameters:
        return "<p>Nothing: the same scan and the same parameters.</p>"
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td>"
        + "".join(f"<td class=n><code>{html.escape(shown(value))}</code></td>" for value in values)
        + "</tr>"
        for name, values in comparison.parameters.items()
    )
    return f"<div class=wide><table><tr><th>parameter</th>{head}</tr>{rows}</table></div>"


def _metric_table(
    metrics: Mapping[str, Sequence[float | None]], intervals: Sequence[Mapping[str, Any]], head: str
) -> str:
    rows = []
    for name, values in metrics.items():
        described = describe(name)
        title = html.escape(described.definition, quote=True)
        cells = []
        for value, change, found in zip(values, change_percent(values), intervals, strict=True):
            ends = "".join(
                f"<small>{label}: {found[name][kind][0]:.4g} to {found[name][kind][1]:.4g}</small>"
                for kind, label in (("subvolumes", "95 %"), ("segmentation", "thresholds"))
                if kind in found.get(name, {})
            )
            text = change_text(values[0], value, change).strip(" ()")
            moved = f"<small class=changed>{text}</small>" if text else ""
            cells.append(f"<td class=n>{'–' if value is None else f'{value:.5g}'}{moved}{ends}</td>")
        suffix = f" / {html.escape(described.unit)}" if described.unit else ""
        rows.append(f'<tr><td title="{title}">{html.escape(described.label)}{suffix}</td>{"".join(cells)}</tr>')
    return f"<div class=wide><table><tr><th>metric</th>{head}</tr>{''.join(rows)}</table></div>"


def _warnings(runs: Sequence[ComparedRun]) -> str:
    return "".join(
        f"<div class=warning><b>{html.escape(run.name)}</b>: {html.escape(warning)}</div>"
        for run in runs
        for warning in run.sidecar["quality"]["warnings"]
    )


def _pictures(runs: Sequence[ComparedRun]) -> str:
    rows = []
    for picture in _PICTURES:
        paths = [run.root / "previews" / f"{picture}.png" for run in runs]
        if not any(path.is_file() for path in paths):
            continue
        figures = "".join(_figure(path, run) for path, run in zip(paths, runs, strict=True))
        rows.append(f'<div class=row style="grid-template-columns:repeat({len(runs)},minmax(0,1fr))">{figures}</div>')
    return "".join(rows)


def _figure(path: Path, run: ComparedRun) -> str:
    caption = html.escape(f"{run.name}: {path.stem.replace('_', ' ')}")
    if not path.is_file():
        return f"<figure><figcaption>{caption}: none</figcaption></figure>"
    encoded = base64.b64encode(path.read_bytes()).decode()
    return f'<figure><img alt="{caption}" src="data:image/png;base64,{encoded}"><figcaption>{caption}</figcaption></figure>'


def shown(value: Any) -> str:
    """A parameter's value for a person."""
    if value is None:
        return "–"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _choices(document: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters and what was resolved from them, by dotted name."""
    resolved = {key: value for key, value in document["resolved"].items() if key not in _NOT_COMPARED}
    if "center" in resolved:
        resolved["center"] = {key: value for key, value in resolved["center"].items() if key != "curve"}
    chosen = {
        **document["request"]["parameters"],
        "skip": document["request"]["skip"],
        "resolved": resolved,
        "scan": {
            **document["request"]["parameters"]["scan"],
            "checksum": document["scan"]["checksum"].removeprefix("sha256:")[:12],
        },
        "software": document["software"],
    }
    return dict(_flat(chosen))


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        found += _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
    return found


def _names(mappings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names that occur, each where it first does."""
    return list(dict.fromkeys(name for mapping in mappings for name in mapping))
