"""The report: one HTML file that holds everything a person looks at first, and opens from disk with no network."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..parameters import STAGES
from ..rundir import written_aside
from ..slabs import Sources
from . import pictures, plots

_KEY_METRICS = 6

_UNITS = {
    "_percent": "%",
    "_per_um": "µm⁻¹",
    "_per_pixel": "pixel⁻¹",
    "_per_cm": "cm⁻¹",
    "_um3": "µm³",
    "_um2": "µm²",
    "_um": "µm",
    "_pixel3": "pixel³",
    "_pixel2": "pixel²",
    "_pixel": "pixel",
}

_CSS = """
:root{--ink:#1c2430;--soft:#5b6675;--line:#dde2e8;--card:#f6f7f9;--accent:#c2410c}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1120px;padding:28px 22px 60px;font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:#fff}
h1{font-size:26px;margin:0}h2{font-size:18px;margin:36px 0 10px;border-bottom:1px solid var(--line);padding-bottom:5px}
p.lead{color:var(--soft);margin:4px 0 18px}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(165px,1fr));gap:10px}
.card{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:10px 13px}
.card b{display:block;font-size:21px;font-weight:600}.card span{color:var(--soft);font-size:13px}
.warning{border-left:4px solid var(--accent);background:#fff6f0;padding:8px 12px;margin:8px 0}
.planes{display:grid;grid-template-columns:repeat(3,1fr);gap:8px;align-items:start;margin-bottom:14px}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(320px,1fr));gap:14px;align-items:start}
figure{margin:0}figcaption{color:var(--soft);font-size:13px}img{width:100%;border-radius:4px;display:block;background:#000}
svg{width:100%;height:auto}
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:4px 10px 4px 0;border-bottom:1px solid var(--line);
vertical-align:top}td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
details{margin:6px 0}summary{cursor:pointer;color:var(--soft)}code{font-size:13px;word-break:break-all}
"""


def write_report(sources: Sources, sidecar: dict[str, Any]) -> None:
    """Write `report.html`, and its pictures once more as PNG files in `previews/`.

    Parameters
    ----------
    sources : Sources
        Of a run whose stages before Quantify are done.
    sidecar : dict
        Content of `labels.json`.
    """
    document = sources.document
    title = f"{document['scan_id']} · {document['recipe_id']}"
    body = "\n".join(
        [
            _head(document),
            _warnings([*sidecar["quality"]["warnings"], *document["plan"]["notes"]]),
            _cards(sidecar["metrics"]),
            "<h2>Slices</h2>" + _slices(sources),
            "<h2>From the detector</h2>" + _detector(sources),
            "<h2>How the automatic values were found</h2>" + _plots(sources, sidecar),
            "<h2>Metrics</h2>" + _table(_named(sidecar["metrics"])) + _quality(sidecar["quality"]),
            "<h2>Time</h2>" + _timings(sources),
            "<h2>Parameters and provenance</h2>" + _provenance(document),
        ]
    )
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{_CSS}</style></head><body>{body}</body></html>\n"
    )
    with written_aside(sources.run.report) as aside:
        aside.write_text(page, encoding="utf-8")


def _head(document: dict[str, Any]) -> str:
    scan = document["scan"]
    facts = [
        scan["metadata"].get("sample"),
        scan["metadata"].get("beamline"),
        scan["metadata"].get("start_time"),
        f"{scan['shape'][0]} projections of {scan['shape'][1]} × {scan['shape'][2]} pixels",
        f"pixel {document['resolved']['pixel_size_um']:g} µm" if document["resolved"]["pixel_size_um"] else None,
    ]
    lead = " · ".join(html.escape(str(fact)) for fact in facts if fact)
    return (
        f"<h1>{html.escape(document['scan_id'])}</h1>"
        f'<p class="lead">{lead}<br>recipe <code>{html.escape(document["recipe_id"])}</code></p>'
    )


def _warnings(warnings: Iterable[str]) -> str:
    return "".join(f'<div class="warning">{html.escape(text)}</div>' for text in warnings)


def _cards(metrics: dict[str, float]) -> str:
    chosen = list(_named(metrics))[:_KEY_METRICS]
    cards = "".join(f'<div class="card"><b>{value}</b><span>{name}</span></div>' for name, value in chosen)
    return f'<div class="cards">{cards}</div>'


def _slices(sources: Sources) -> str:
    parts = []
    for title, planes in pictures.stage_planes(sources):
        figures = "".join(
            _figure(sources, f"{title.lower()}_{plane}", picture, f"{title}, {plane} plane through the centre")
            for plane, picture in planes.items()
        )
        parts.append(f'<div class="planes">{figures}</div>')
    return "".join(parts)


def _detector(sources: Sources) -> str:
    captions = {
        "projection": "Projection in the middle of the scan, over the flat field",
        "sinogram": "Sinogram of the row in the middle, corrected (angles downwards)",
    }
    made = pictures.projection_and_sinogram(sources)
    figures = "".join(_figure(sources, name, picture, captions[name]) for name, picture in made.items())
    return f'<div class="pair">{figures}</div>'


def _figure(sources: Sources, name: str, picture: NDArray[np.uint8], caption: str) -> str:
    content = pictures.png(picture)
    with written_aside(sources.run.previews / f"{name}.png") as aside:
        aside.write_bytes(content)
    encoded = base64.b64encode(content).decode()
    return (
        f'<figure><img alt="{html.escape(caption)}" src="data:image/png;base64,{encoded}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def _plots(sources: Sources, sidecar: dict[str, Any]) -> str:
    resolved = sources.document["resolved"]
    made = []
    if "center" in resolved:
        center = resolved["center"]
        made.append(
            (
                plots.center_curve(
                    center["curve"]["centers_px"],
                    center["curve"]["metric"],
                    resolved["center_px"],
                    center["estimates_px"],
                ),
                f"Rotation centre ({center['method']}), confidence {center['confidence']:.2f}",
            )
        )
    grey = next((table for name, table in sidecar["histograms"].items() if name.startswith("grey_value_")), None)
    if grey:
        counts = {name.removeprefix("counts_").replace("_", " "): grey[name] for name in grey if name != "edges"}
        svg = plots.grey_histogram(grey["edges"], counts, resolved["thresholds"], sidecar["attenuation_unit"])
        made.append((svg, "Grey values in the phases, and the thresholds between them"))
    sizes = sidecar["histograms"].get(f"equivalent_diameter_{sidecar['voxel_unit']}")
    if sizes:
        made.append(
            (plots.size_histogram(sizes["edges"], sizes["counts"], sidecar["voxel_unit"]), "Sizes of the objects")
        )
    return (
        '<div class="pair">'
        + "".join(f"<figure>{svg}<figcaption>{html.escape(caption)}</figcaption></figure>" for svg, caption in made)
        + "</div>"
    )


def _quality(quality: dict[str, Any]) -> str:
    numbers = {name: value for name, value in quality.items() if isinstance(value, int | float)}
    return f"<details open><summary>Quality</summary>{_table(_named(numbers))}</details>"


def _timings(sources: Sources) -> str:
    lines = []
    for stage in STAGES:
        entry = sources.document["stages"][stage]
        receipts = sources.run.receipts(stage)
        if stage in sources.skipped:
            note = "left out"
        elif entry["output"] is None and stage == "denoise" and "segment" in sources.skipped:
            note = "not needed"
        elif entry["output"] is None:
            note = "computed on the fly by the next stage"
        elif not entry["own"]:
            note = f"taken from {entry['output']}"
        elif not receipts:
            continue  # this very stage
        else:
            seconds = sum(receipt["seconds"] for receipt in receipts)
            note = f"{seconds:.1f} s of work in {len(receipts)} slab{'s' if len(receipts) > 1 else ''}"
        lines.append((stage.replace("_", " "), html.escape(note)))
    return _table(lines)


def _provenance(document: dict[str, Any]) -> str:
    groups = {
        "Parameters": document["request"]["parameters"],
        "Resolved": {key: value for key, value in document["resolved"].items() if key not in ("center", "notes")},
        "Scan": {key: value for key, value in document["scan"].items() if key != "quality"},
        "Software": document["software"],
    }
    parts = []
    for name, values in groups.items():
        lines = [(key, f"<code>{html.escape(str(value))}</code>") for key, value in _flat(values)]
        parts.append(f"<details><summary>{name}</summary>{_table(lines, numbers=False)}</details>")
    return "".join(parts)


def _flat(values: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _named(numbers: dict[str, float]) -> Iterable[tuple[str, str]]:
    return [(html.escape(_label(name)), f"{value:.5g}") for name, value in numbers.items()]


def _label(name: str) -> str:
    """A metric's name for a person, its unit set off: `surface_area_um2` is "surface area / µm²"."""
    for suffix, unit in _UNITS.items():
        if name.endswith(suffix):
            return f"{name.removesuffix(suffix).replace('_', ' ')} / {unit}"
    return name.replace("_", " ")


def _table(lines: Iterable[tuple[str, str]], numbers: bool = True) -> str:
    kind = ' class="n"' if numbers else ""
    return "<table>" + "".join(f"<tr><td>{name}</td><td{kind}>{value}</td></tr>" for name, value in lines) + "</table>"
