"""The report: one HTML file that holds everything a person looks at first, and opens from disk with no network.

The page is complete without a script; `report.js` makes its plots, slices and table of objects interactive.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import heapq
import html
import importlib.resources
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..rundir import written_aside
from ..slabs import Sources
from . import pictures, plots
from .glossary import GROUPS, Description, describe, unit_text

_KEY_METRICS = 8
_OBJECTS = 1000
_OBJECTS_WITHOUT_SCRIPT = 20
# Keeps the page below 4 MB: some 17 pictures, of which base64 makes a third more.
_PICTURE_BYTES = 150_000
_THIN_SPACE = "\u202f"
_DIGITS = 5
_TURN_DEG = 360.0

_STRUCTURE = ("equivalent_diameter", "thickness", "throat_diameter", "coordination_number")
_VARIATION = ("profile_z", "representative_volume")
_IMAGE = ("grey_values", "fourier_correlation", "rotation_center")
# Charts that are also pictures of their own, and what these are called.
_PREVIEWS = {"equivalent_diameter": "sizes", "profile_z": "profile"}

_OBJECT_COLUMNS = (
    "label",
    "volume_{u}3",
    "equivalent_diameter_{u}",
    "inscribed_diameter_{u}",
    "surface_{u}2",
    "sphericity",
    "axis_major_{u}",
    "axis_middle_{u}",
    "axis_minor_{u}",
    "neighbours",
    "centroid_z_{u}",
    "centroid_y_{u}",
    "centroid_x_{u}",
    "touches_border",
)

_SUBVOLUMES = "95 % interval for the material that the sample is a part of, from how much parts of the sample differ."
_SEGMENTATION = "Range of the number when the thresholds between the phases move down and up by the noise of the image."

Section = tuple[str, str, str]
"""Anchor, title, HTML."""


def write_report(
    sources: Sources, sidecar: Mapping[str, Any], maps: Mapping[str, NDArray[np.floating[Any]]] | None = None
) -> None:
    """Write `report.html`, and its pictures once more as PNG files in `previews/`.

    Parameters
    ----------
    sources : Sources
        Of a run whose stages before Quantify are done.
    sidecar : dict
        Content of `labels.json`; a block that is missing or empty leaves out its part of the page.
    maps : dict of str to array, optional
        "thickness_<unit>": local thickness in the middle slice, (y, x) float32 in the sidecar's unit, 0 outside the phase.

    Raises
    ------
    ValueError
        The sidecar holds NaN or an infinite number.
    """
    document = sources.document
    charts = plots.charts_of(sidecar, document["resolved"])
    objects = _largest_objects(sources.objects_table, sidecar["voxel_unit"])
    sections: list[Section] = [
        ("slices", "Slices", _slices(sources, sidecar)),
        ("structure", "Structure", _plots(charts, _STRUCTURE, _thickness_map(sources, sidecar, maps or {}))),
        ("variation", "Variation through the sample", _plots(charts, _VARIATION)),
        ("objects", "Objects", _objects(objects) if objects else ""),
        ("metrics", "Metrics", _metrics(sidecar)),
        ("quality", "Quality", _quality(sidecar, document, charts) + _center_trials(sources)),
        ("detector", "From the detector", _detector(sources)),
        ("time", "Time", _timings(sources)),
        ("provenance", "Parameters and provenance", _provenance(document)),
    ]
    for name, file in _PREVIEWS.items():
        if name in charts:
            _write_preview(sources, file, plots.preview_png(charts[name]))
    content = {
        "scan": document["scan_id"],
        "charts": {name: chart.content() for name, chart in charts.items()},
        "objects": objects.content() if objects else None,
        "colors": [int(r) << 16 | int(g) << 8 | int(b) for r, g, b in pictures.VALUE_PALETTE[1:]],
    }
    page = _page(document, sidecar, sections, content)
    with written_aside(sources.run.report) as aside:
        aside.write_text(page, encoding="utf-8")


def json_block(content: Any) -> str:
    """JSON that can stand inside a script element, whatever text it holds; refuses NaN."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def formatted(value: float, *intervals: Sequence[float]) -> tuple[list[str], str]:
    """Numbers that belong together, with digits that their intervals call for.

    Parameters
    ----------
    value : float
    intervals : sequences of two float
        Two digits of how far the widest reaches from the value are shown, and at least one of the narrowest; without
        intervals five digits of the value are.

    Returns
    -------
    texts : list of str
        `value` and the ends of the intervals, with the same decimals, thousands set off, and a true minus sign.
    factor : str
        HTML of the power of ten that they share, "" where there is none.
    """
    numbers = [value, *(end for interval in intervals for end in interval)]
    size = max(abs(number) for number in numbers)
    if not intervals and value == int(value) and size < 1e9:
        return [_grouped(value, 0)], ""
    exponent = math.floor(math.log10(size)) if size and not 1e-3 <= size < 1e6 else 0
    scaled = [number / 10.0**exponent for number in numbers]
    texts = [_grouped(number, _decimals(scaled, value == int(value))) for number in scaled]
    return texts, f" × 10<sup>{exponent}</sup>".replace("-", "−") if exponent else ""


def _decimals(numbers: Sequence[float], whole: bool) -> int:
    """Of a value and the ends of its intervals; `whole` where the value is a count."""
    value = numbers[0]
    reaches = [max(abs(low - value), abs(high - value)) for low, high in zip(numbers[1::2], numbers[2::2], strict=True)]
    reaches = [reach for reach in reaches if reach]
    if whole and max(reaches, default=0) >= 1:
        return 0
    if reaches:
        wanted = max(1 - math.floor(math.log10(max(reaches))), -math.floor(math.log10(min(reaches))))
    else:
        wanted = _DIGITS - 1
        wanted -= math.floor(math.log10(abs(value))) if value else wanted
    return min(max(wanted, 0), _DIGITS + 1)


def _grouped(value: float, decimals: int) -> str:
    # Rounding first, and adding 0, leaves no minus before a zero.
    return f"{round(value, decimals) + 0.0:,.{decimals}f}".replace(",", _THIN_SPACE).replace("-", "−")


# The page ---------------------------------------------------------------------------------------------------------------


def _page(
    document: dict[str, Any], sidecar: Mapping[str, Any], sections: list[Section], content: dict[str, Any]
) -> str:
    shown = [(anchor, title, body) for anchor, title, body in sections if body]
    script, style = _resource("report.js"), _resource("report.css")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    links = "".join(f'<a href="#{anchor}">{title}</a>' for anchor, title, _ in shown)
    body = "".join(f'<section id="{anchor}"><h2>{title}</h2>{body}</section>' for anchor, title, body in shown)
    title = html.escape(f"{document['scan_id']} · {document['recipe_id']}")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{title}</title><style>{style}</style></head><body>"
        f"<header>{_head(document, sidecar)}</header>"
        f'<nav aria-label="Sections"><a href="#overview">Overview</a>{links}</nav>'
        f'<main><section id="overview">{_overview(sidecar, document)}</section>{body}</main>'
        f"<footer>tomopipe {html.escape(str(document['software'].get('tomopipe', '')))}</footer>"
        f'<script type="application/json" id="data">{json_block(content)}</script>'
        f"<script>{script}</script></body></html>\n"
    )


def _resource(name: str) -> str:
    return importlib.resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _head(document: dict[str, Any], sidecar: Mapping[str, Any]) -> str:
    scan, edges = document["scan"], [f"{edge:g}" for edge in sidecar["voxel_size"]]
    used = document.get("projections", scan)["shape"]
    facts = [
        scan["metadata"].get("sample"),
        scan["metadata"].get("beamline"),
        scan["metadata"].get("start_time"),
        _projections(scan["shape"]),
        f"reconstructed from {_projections(used)}" if used != scan["shape"] else None,
        f"voxel {edges[0] if len(set(edges)) == 1 else ' × '.join(edges)} µm"
        if sidecar["voxel_unit"] == "um"
        else None,
    ]
    lead = "".join(f"<li>{html.escape(str(fact))}</li>" for fact in facts if fact)
    return (
        f'<p class="eyebrow">Tomography report</p><h1>{html.escape(document["scan_id"])}</h1>'
        f'<ul class="facts">{lead}<li>recipe <code>{html.escape(document["recipe_id"])}</code></li></ul>'
    )


def _projections(shape: Sequence[int]) -> str:
    return f"{shape[0]} projections of {shape[1]} × {shape[2]} pixels"


# Numbers ----------------------------------------------------------------------------------------------------------------


def _overview(sidecar: Mapping[str, Any], document: dict[str, Any]) -> str:
    return _warnings([*sidecar.get("quality", {}).get("warnings", ()), *document["plan"]["notes"]]) + _cards(sidecar)


def _warnings(warnings: Sequence[str]) -> str:
    if not warnings:
        return ""
    lines = "".join(f"<li>{html.escape(text[:1].upper() + text[1:])}</li>" for text in dict.fromkeys(warnings))
    return f'<div class="warnings"><h2>To know before using these numbers</h2><ul>{lines}</ul></div>'


def _cards(sidecar: Mapping[str, Any]) -> str:
    metrics, unit = sidecar.get("metrics", {}), sidecar["voxel_unit"]
    wished = (
        ("porosity_percent",),
        (f"equivalent_diameter_mean_{unit}",),
        (f"thickness_mean_{unit}",),
        (f"specific_surface_per_{unit}",),
        ("tortuosity_factor_z", "tortuosity_geodesic_mean_z", "percolates_z"),
        ("object_count",),
        ("euler_number",),
        (f"throat_diameter_mean_{unit}",),
        (f"region_volume_{unit}3",),
    )
    chosen = [name for names in wished for name in [n for n in names if n in metrics][:1]][:_KEY_METRICS]
    cards = "".join(_card(describe(name), metrics[name], _intervals(sidecar, name)) for name in chosen)
    return f'<div class="cards">{cards}</div>' if cards else ""


def _card(told: Description, value: float, intervals: Mapping[str, Sequence[float]]) -> str:
    texts, factor = _value_and_intervals(told, value, intervals)
    lines = [("subvolumes", "95 % interval", _SUBVOLUMES), ("segmentation", "by thresholds", _SEGMENTATION)]
    ranges = "".join(
        f"<dt>{_term(label, text)}</dt><dd>{texts[key]}</dd>" for key, label, text in lines if key in intervals
    )
    unit = f' <span class="unit">{factor} {html.escape(told.unit)}</span>' if factor or told.unit else ""
    strip = _strip(value, intervals) if intervals else ""
    return (
        f'<div class="card"><h3>{_term(told.label, told.definition, told.name)}</h3>'
        f'<p class="value">{texts["value"]}{unit}</p>{strip}{f"<dl>{ranges}</dl>" if ranges else ""}</div>'
    )


def _value_and_intervals(
    told: Description, value: float, intervals: Mapping[str, Sequence[float]]
) -> tuple[dict[str, str], str]:
    """Texts of a metric and its intervals by their names, and their power of ten."""
    if told.name.startswith("percolates"):
        return {"value": "yes" if value else "no"}, ""
    texts, factor = formatted(value, *intervals.values())
    found = {"value": texts[0]}
    for name, low, high in zip(intervals, texts[1::2], texts[2::2], strict=True):
        found[name] = "no change" if low == high and name == "segmentation" else f"{low} to {high}"
    return found, factor


def _intervals(sidecar: Mapping[str, Any], name: str) -> dict[str, Sequence[float]]:
    found = sidecar.get("intervals", {}).get(name, {})
    if name.startswith("percolates"):
        return {}
    return {key: found[key] for key in ("subvolumes", "segmentation") if len(found.get(key, ())) == 2}


def _strip(value: float, intervals: Mapping[str, Sequence[float]]) -> str:
    """The intervals as bars on one scale, with the value as a line across them."""
    ends = [value, *(bound for interval in intervals.values() for bound in interval)]
    low, high = min(ends), max(ends)
    if not high > low:
        return ""

    def place(number: float) -> float:
        return 4 + 192 * (number - low) / (high - low)

    bars = "".join(
        f'<rect class="{name}" x="{place(low_end):.1f}" y="{3 + 7 * index}" '
        f'width="{max(place(high_end) - place(low_end), 1):.1f}" height="4" rx="2"/>'
        for index, (name, (low_end, high_end)) in enumerate(intervals.items())
    )
    height = 7 * len(intervals) + 3
    return (
        f'<svg class="strip" viewBox="0 0 200 {height}" aria-hidden="true">{bars}'
        f'<rect class="here" x="{place(value) - 0.75:.1f}" y="0" width="1.5" height="{height}"/></svg>'
    )


def _term(label: str, definition: str, name: str = "") -> str:
    """A word with its explanation, shown when it is pointed at or focused."""
    if not definition:
        return html.escape(label)
    code = f"<code>{html.escape(name)}</code>" if name else ""
    return (
        f'<span class="term" tabindex="0">{html.escape(label)}'
        f'<span class="tip" role="tooltip">{html.escape(definition)}{code}</span></span>'
    )


def _metrics(sidecar: Mapping[str, Any]) -> str:
    metrics = sidecar.get("metrics", {})
    if not metrics:
        return ""
    told = [describe(name) for name in metrics]
    lines = []
    for group in GROUPS:
        members = [one for one in told if one.group == group]
        if members:
            lines.append(f'<tr class="group"><th colspan="5" scope="colgroup">{group}</th></tr>')
            lines += [_metric_line(one, metrics[one.name], _intervals(sidecar, one.name)) for one in members]
    return (
        '<div class="scroll"><table class="metrics"><thead><tr><th scope="col">Metric</th><th scope="col" class="n">Value</th>'
        f'<th scope="col">Unit</th><th scope="col" class="n">{_term("95 % interval", _SUBVOLUMES)}</th>'
        f'<th scope="col" class="n">{_term("By thresholds", _SEGMENTATION)}</th></tr></thead>'
        f'<tbody>{"".join(lines)}</tbody></table></div><p class="note">All digits are in <code>labels.json</code>.</p>'
    )


def _metric_line(told: Description, value: float, intervals: Mapping[str, Sequence[float]]) -> str:
    texts, factor = _value_and_intervals(told, value, intervals)
    unit = f"{factor} {html.escape(told.unit)}".strip()
    return (
        f'<tr><td>{_term(told.label, told.definition, told.name)}</td><td class="n">{texts["value"]}</td>'
        f'<td class="u">{unit}</td><td class="n">{texts.get("subvolumes", "")}</td>'
        f'<td class="n">{texts.get("segmentation", "")}</td></tr>'
    )


def _quality(sidecar: Mapping[str, Any], document: dict[str, Any], charts: Mapping[str, plots.Chart]) -> str:
    quality = sidecar.get("quality", {})
    numbers = {name: value for name, value in quality.items() if isinstance(value, int | float)}
    lines = [_metric_line(describe(name), value, {}) for name, value in numbers.items()]
    warned = bool(quality.get("warnings") or document["plan"]["notes"])
    said = "" if warned else '<p class="good">Nothing was found that speaks against these numbers.</p>'
    table = f'<table class="metrics quality"><tbody>{"".join(lines)}</tbody></table>' if lines else ""
    return said + table + _plots(charts, _IMAGE)


def _center_trials(sources: Sources) -> str:
    """Trial slices for a person to choose the rotation centre by, where it was found with little confidence."""
    resolved = sources.document["resolved"]
    taken = resolved["center_px"]
    figures = []
    for center, picture in pictures.center_trials(sources):
        caption = f"{center:.2f}{' (taken)' if center == taken else ''}"
        figures.append(
            f"<figure><figcaption>{caption}</figcaption>{_image(picture, f'Slice with centre {caption}')}</figure>"
        )
    if not figures:
        return ""
    also = ""
    field_of_view = resolved.get("field_of_view", "standard")
    if field_of_view == "double" or _may_be_whole_turn(sources.document):
        # With a centre that is given, the automatic choice could be the other one.
        also = f" and <code>scan.field_of_view</code> to <code>{html.escape(field_of_view)}</code>"
    return (
        "<h3>Which rotation centre?</h3><p>The centre was found with little confidence. These are slices of the middle "
        f"sample row with others; if one is sharper, run again with <code>reconstruction.center</code> set to it{also}.</p>"
        f'<div class="trials">{"".join(figures)}</div>'
    )


def _may_be_whole_turn(document: Mapping[str, Any]) -> bool:
    """Whether the projections that are used cover 360 degrees, or so nearly that only their angles could tell."""
    used = document.get("projections", document["scan"])
    first, last = used["theta_deg"]
    return bool((last - first) * (1 + 4 / max(1, used["shape"][0] - 1)) >= _TURN_DEG)


# Plots and pictures -----------------------------------------------------------------------------------------------------


def _plots(charts: Mapping[str, plots.Chart], names: Iterable[str], more: str = "") -> str:
    figures = "".join(_chart(charts[name]) for name in names if name in charts) + more
    return f'<div class="pair">{figures}</div>' if figures else ""


def _chart(chart: plots.Chart) -> str:
    return (
        f'<figure class="chart" data-chart="{chart.name}"><figcaption><h3>{html.escape(chart.title)}</h3>'
        f"<p>{html.escape(chart.caption)}</p></figcaption><noscript>{plots.static_svg(chart)}</noscript></figure>"
    )


def _slices(sources: Sources, sidecar: Mapping[str, Any]) -> str:
    spacing = dict(zip("zyx", sidecar["voxel_size"], strict=True))
    extents = {axis: length * spacing[axis] for axis, length in zip("zyx", sources.volume_shape, strict=True)}
    layers = []
    for planes in pictures.stage_planes(sources):
        figures = []
        for plane, picture in planes.pictures.items():
            across, down = plane[0], plane[1]
            caption = f"{planes.title}, {plane} plane through the centre"
            name = f"{planes.title.lower()}_{plane}"
            frame = _frame(sources, name, picture, caption, extents[across], extents[down], sidecar["voxel_unit"])
            figures.append(
                f'<figure data-plane="{plane}" style="flex:{extents[across] / extents[down]:.4f} 1 0">{frame}'
                f"<figcaption>{html.escape(caption)}</figcaption></figure>"
            )
        kind = "grey" if all(picture.palette is None for picture in planes.pictures.values()) else "labels"
        layers.append(
            f'<div class="layer" data-layer="{planes.title}" data-kind="{kind}">'
            f'<div class="planes">{"".join(figures)}</div></div>'
        )
    return f'<div class="viewer">{"".join(layers)}</div>{_phase_legend(sidecar.get("metrics", {}))}' if layers else ""


def _frame(
    sources: Sources, name: str, picture: pictures.Picture, caption: str, width: float, height: float, unit: str
) -> str:
    """A picture of something `width` by `height` long, with a bar for the scale; also written to `previews/`."""
    _write_preview(sources, name, picture.png())
    length = _round_length(width / 4)
    return (
        f'<div class="frame" style="aspect-ratio:{width / height:.5f}">{_image(picture, caption)}'
        f'<span class="scale" style="width:{100 * length / width:.3f}%"><span>{length:g} {html.escape(unit_text(unit))}</span>'
        "</span></div>"
    )


def _image(picture: pictures.Picture, caption: str) -> str:
    media, content = picture.embedded(_PICTURE_BYTES)
    sharp = "" if picture.palette is None else ' class="sharp"'
    return f'<img{sharp} alt="{html.escape(caption)}" src="data:{media};base64,{base64.b64encode(content).decode()}">'


def _round_length(length: float) -> float:
    """The largest 1, 2 or 5 times a power of ten that is not longer."""
    power = 10.0 ** math.floor(math.log10(length))
    return next(factor * power for factor in (5.0, 2.0, 1.0) if factor * power <= length * (1 + 1e-9) or factor == 1)


def _phase_legend(metrics: Mapping[str, float]) -> str:
    fractions = {
        name.rpartition("_")[2]: value for name, value in metrics.items() if name.startswith("phase_fraction_percent_")
    }
    entries = []
    for phase, value in fractions.items():
        color = pictures.PHASE_PALETTE[(int(phase) - 1) % (len(pictures.PHASE_PALETTE) - 1) + 1]
        swatch = f'<i style="background:rgb({",".join(str(int(part)) for part in color)})"></i>'
        entries.append(f"<li>{swatch}phase {html.escape(phase)} <b>{value:.2f} %</b></li>")
    return f'<ul class="legend">{"".join(entries)}</ul>' if entries else ""


def _thickness_map(sources: Sources, sidecar: Mapping[str, Any], maps: Mapping[str, NDArray[np.floating[Any]]]) -> str:
    values = maps.get(f"thickness_{sidecar['voxel_unit']}")
    if values is None or not values.size:
        return ""
    high = float(np.max(values, initial=0, where=np.isfinite(values)))
    if not high > 0:
        return ""
    picture, unit = pictures.value_picture(values, high), sidecar["voxel_unit"]
    binning = sidecar.get("metrics", {}).get("thickness_binning_factor", 1.0)
    _, dy, dx = sidecar["voxel_size"]
    caption = "Local thickness in the middle slice"
    frame = _frame(
        sources, "thickness", picture, caption, values.shape[1] * dx * binning, values.shape[0] * dy * binning, unit
    )
    return (
        f'<figure class="map" data-high="{high:.6g}" data-unit="{html.escape(unit_text(unit))}">'
        f"<figcaption><h3>Thickness map</h3><p>{caption}.</p></figcaption>{frame}{_color_bar(high, unit_text(unit))}</figure>"
    )


def _color_bar(high: float, unit: str) -> str:
    colors = pictures.VALUE_PALETTE[np.linspace(1, len(pictures.VALUE_PALETTE) - 1, 16).round().astype(int)]
    stops = "".join(
        f'<stop offset="{index / (len(colors) - 1):.3f}" stop-color="rgb({",".join(str(int(part)) for part in color)})"/>'
        for index, color in enumerate(colors)
    )
    step = _round_length(high / 3)
    ticks = "".join(
        f'<line x1="{400 * index * step / high:.1f}" x2="{400 * index * step / high:.1f}" y1="10" y2="14"/>'
        f'<text x="{400 * index * step / high:.1f}" y="26">{index * step:g}</text>'
        for index in range(int(high / step + 1e-9) + 1)
    )
    return (
        f'<svg class="bar" viewBox="-10 0 450 30" role="img" aria-label="Colours from 0 to {high:.3g} {html.escape(unit)}">'
        f'<linearGradient id="values">{stops}</linearGradient><rect width="400" height="10" rx="2" fill="url(#values)"/>'
        f'{ticks}<text class="unit" x="408" y="10">{html.escape(unit)}</text></svg>'
    )


def _detector(sources: Sources) -> str:
    captions = {
        "projection": "Projection in the middle of the scan, over the flat field",
        "sinogram": "Sinogram of the row in the middle, corrected (angles downwards)",
    }
    figures = []
    for name, picture in pictures.projection_and_sinogram(sources).items():
        _write_preview(sources, name, picture.png())
        figures.append(
            f'<figure style="flex:{picture.values.shape[1] / picture.values.shape[0]:.4f} 1 0">'
            f"{_image(picture, captions[name])}<figcaption>{captions[name]}</figcaption></figure>"
        )
    return f'<div class="planes detector">{"".join(figures)}</div>'


def _write_preview(sources: Sources, name: str, content: bytes) -> None:
    with written_aside(sources.run.previews / f"{name}.png") as aside:
        aside.write_bytes(content)


# Objects ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Objects:
    """The largest objects of a table.

    Attributes
    ----------
    columns : list of Description
    rows : list of list of float
        Largest first.
    total, border : int
        All objects, and those at the border.
    """

    columns: list[Description]
    rows: list[list[float]]
    total: int
    border: int

    def content(self) -> dict[str, Any]:
        """As JSON for the page's script."""
        columns = [{"name": c.name, "label": c.label, "unit": c.unit, "definition": c.definition} for c in self.columns]
        return {"columns": columns, "rows": self.rows, "total": self.total, "border": self.border}


def _largest_objects(path: Path, unit: str) -> _Objects | None:
    """Of a table that may be longer than the memory."""
    if not path.is_file():
        return None
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        names = [name for name in (column.format(u=unit) for column in _OBJECT_COLUMNS) if name in header]
        if "voxels" not in header or not names:
            return None
        voxels, border = header.index("voxels"), header.index("touches_border") if "touches_border" in header else None
        counted = [0, 0]

        def lines() -> Iterator[list[str]]:
            for line in reader:
                counted[0] += 1
                counted[1] += border is not None and line[border] == "1"
                yield line

        largest = heapq.nlargest(_OBJECTS, lines(), key=lambda line: int(line[voxels]))
    places = [header.index(name) for name in names]
    rows = [[_short(line[place]) for place in places] for line in largest]
    return _Objects([describe(name) for name in names], rows, *counted) if rows else None


def _short(text: str) -> float:
    value = float(f"{float(text):.6g}")
    return int(value) if value == int(value) else value


def _objects(objects: _Objects) -> str:
    shown = "" if objects.total == len(objects.rows) else f" The largest {len(objects.rows)} are listed."
    lead = (
        f"{_grouped(objects.total, 0)} objects, {_grouped(objects.border, 0)} of them cut by the border of the sample "
        f'or of the volume.{shown} All are in <a href="objects.csv">objects.csv</a>.'
    )
    head = "".join(f'<th scope="col" class="n">{html.escape(_with_unit(c))}</th>' for c in objects.columns)
    lines = "".join(
        "<tr>" + "".join(f'<td class="n">{formatted(value)[0][0]}{formatted(value)[1]}</td>' for value in row) + "</tr>"
        for row in objects.rows[:_OBJECTS_WITHOUT_SCRIPT]
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"
    return f'<p>{lead}</p><div class="objects"><noscript><div class="scroll">{table}</div></noscript></div>'


def _with_unit(told: Description) -> str:
    return f"{told.label} / {told.unit}" if told.unit else told.label


# Times and provenance ---------------------------------------------------------------------------------------------------


def _timings(sources: Sources) -> str:
    entries = [(stage, *_timing(sources, stage, entry)) for stage, entry in sources.document["stages"].items()]
    longest = max((seconds for _, seconds, _ in entries), default=0.0) or 1.0
    lines = "".join(
        f"<tr><td>{html.escape(stage.replace('_', ' ').capitalize())}</td>"
        f'<td class="n">{f"{seconds:.1f} s" if seconds else ""}</td>'
        f'<td class="time"><i style="width:{100 * seconds / longest:.1f}%"></i></td><td>{html.escape(note)}</td></tr>'
        for stage, seconds, note in entries
        if note
    )
    return f'<table class="times"><tbody>{lines}</tbody></table>'


def _timing(sources: Sources, stage: str, entry: Mapping[str, Any]) -> tuple[float, str]:
    """Seconds of work, and where a stage's output comes from; no note for the stage that is under way."""
    if stage in sources.skipped:
        return 0.0, "left out"
    if entry["output"] is None:
        needed = not (stage == "denoise" and "segment" in sources.skipped)
        return 0.0, "computed on the fly by the next stage" if needed else "not needed"
    if not entry["own"]:
        return 0.0, f"taken from {entry['output']}"
    receipts = sources.run.receipts(stage)
    if not receipts:
        return 0.0, ""
    seconds = sum(receipt["seconds"] + sum(receipt.get("step_seconds", {}).values()) for receipt in receipts)
    return seconds, f"in {len(receipts)} slab{'s' if len(receipts) > 1 else ''}"


def _provenance(document: dict[str, Any]) -> str:
    groups = {
        "Parameters": document["request"]["parameters"],
        "Resolved": {key: value for key, value in document["resolved"].items() if key not in ("center", "notes")},
        "Scan": {key: value for key, value in document["scan"].items() if key != "quality"},
        "Projections": document.get("projections", {}),
        "Software": document["software"],
    }
    parts = []
    for name, values in groups.items():
        if not values:
            continue
        lines = "".join(
            f"<tr><td>{html.escape(key)}</td><td><code>{html.escape(str(value))}</code></td></tr>"
            for key, value in _flat(values)
        )
        parts.append(f'<details><summary>{name}</summary><div class="scroll"><table>{lines}</table></div></details>')
    return "".join(parts)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
