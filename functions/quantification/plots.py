"""Plots of the report: what each shows, as data for the page's script, and drawn once by matplotlib for where none runs.

A `Chart` is made from the sidecar or from `run.json`; the page's script and `static_svg` draw the same chart.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from .glossary import describe, unit_text

_INK, _SOFT, _ACCENT = "#16202c", "#5a6675", "#2563a8"
PHASE_COLORS = ("#4c84c4", "#b9a98a", "#d6823c", "#96508f", "#5aa05a")
"""Of phases 1, 2, ..., in plots."""

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tomopipe",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _SOFT,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
}
_WIDTH_INCHES, _PANEL_INCHES, _DPI = 5.4, 2.3, 100
_DIGITS = 7

Kind = Literal["steps", "line", "dashed", "hidden"]
"""How a series is drawn; a hidden one appears in the read-out and in the table only."""


@dataclass(frozen=True)
class Series:
    """One curve.

    Attributes
    ----------
    name : str
        For the legend and the read-out.
    values : sequence of float
        Finite.
    kind : Kind
    color : str
        "accent", "soft", or "phase1" and up.
    spread : sequence of float, optional
        Half the height of the band around the curve.
    """

    name: str
    values: Sequence[float]
    kind: Kind = "line"
    color: str = "accent"
    spread: Sequence[float] | None = None


@dataclass(frozen=True)
class View:
    """Curves over one axis; a chart with several lets the reader choose.

    Attributes
    ----------
    label : str
        What the reader chooses by.
    x : sequence of float
        Ascending: positions, or the edges of bins for steps (one more than values).
    y_label, y_unit : str
    series : sequence of Series
    from_zero : bool
        Whether the axis starts at 0.
    """

    label: str
    x: Sequence[float]
    y_label: str
    y_unit: str
    series: Sequence[Series]
    from_zero: bool = False


@dataclass(frozen=True)
class Mark:
    """A line across the chart at x = `value`."""

    value: float
    label: str
    color: str = "accent"


@dataclass(frozen=True)
class Chart:
    """A plot.

    Attributes
    ----------
    name : str
        Of its files.
    title, caption : str
    x_label, x_unit : str
    views : sequence of View
        At least one.
    marks : sequence of Mark
    log_x : bool
        Whether the x axis is logarithmic at first, and can be either.
    whole : bool
        Whether bins stand for whole numbers; their edges then lie half way between them.
    """

    name: str
    title: str
    caption: str
    x_label: str
    x_unit: str
    views: Sequence[View]
    marks: Sequence[Mark] = ()
    log_x: bool = False
    whole: bool = False

    def content(self) -> dict[str, Any]:
        """As JSON for the page's script; numbers rounded to seven digits."""
        return {
            "name": self.name,
            "title": self.title,
            "x": {"label": self.x_label, "unit": self.x_unit, "log": self.log_x, "whole": self.whole},
            "marks": [{"value": mark.value, "label": mark.label, "color": mark.color} for mark in self.marks],
            "views": [
                {
                    "label": view.label,
                    "x": _rounded(view.x),
                    "y": {"label": view.y_label, "unit": view.y_unit, "zero": view.from_zero},
                    "series": [
                        {
                            "name": series.name,
                            "kind": series.kind,
                            "color": series.color,
                            "values": _rounded(series.values),
                            "spread": _rounded(series.spread or ()),
                        }
                        for series in view.series
                    ],
                }
                for view in self.views
            ],
        }


def charts_of(sidecar: Mapping[str, Any], resolved: Mapping[str, Any]) -> dict[str, Chart]:
    """Every chart that a run has the data for, by name.

    Parameters
    ----------
    sidecar : dict
        Content of `labels.json`; blocks that are missing or empty give no chart.
    resolved : dict
        Of `run.json`: rotation centre and thresholds.
    """
    unit, metrics = sidecar["voxel_unit"], sidecar.get("metrics", {})
    histograms = sidecar.get("histograms", {})
    made = [
        _histogram(
            histograms.get(f"equivalent_diameter_{unit}"),
            Chart(
                "equivalent_diameter",
                "Object sizes",
                "Diameter of the sphere of an object's volume.",
                "equivalent diameter",
                unit_text(unit),
                (),
                _marks(metrics, f"equivalent_diameter_mean_{unit}", "mean"),
                log_x=True,
            ),
            "objects",
        ),
        _histogram(
            histograms.get(f"thickness_{unit}"),
            Chart(
                "thickness",
                "Local thickness",
                "Largest sphere inside the phase that holds a voxel, by volume.",
                "thickness",
                unit_text(unit),
                (),
                _marks(metrics, f"thickness_mean_{unit}", "mean"),
                log_x=True,
            ),
            "voxels",
        ),
        _histogram(
            histograms.get(f"throat_diameter_{unit}"),
            Chart(
                "throat_diameter",
                "Throats",
                "Narrowest passage between two objects that touch.",
                "throat diameter",
                unit_text(unit),
                (),
                _marks(metrics, f"throat_diameter_mean_{unit}", "mean"),
                log_x=True,
            ),
            "throats",
        ),
        _histogram(
            histograms.get("coordination_number"),
            Chart(
                "coordination_number",
                "Coordination",
                "Neighbours that an object touches.",
                "neighbours",
                "",
                (),
                _marks(metrics, "coordination_number_mean", "mean"),
                whole=True,
            ),
            "objects",
        ),
        _profiles(sidecar.get("profiles", {}), unit),
        _representative_volume(sidecar.get("representative_volume", {}), metrics, unit),
        _grey_values(histograms, resolved.get("thresholds") or (), sidecar.get("attenuation_unit", "")),
        _correlation(sidecar.get("resolution", {}), sidecar.get("quality", {}), unit),
        _center(resolved),
    ]
    return {chart.name: chart for chart in made if chart is not None}


def static_svg(chart: Chart) -> str:
    """A chart as inline SVG, its views one below the other; text keeps the colour of the page."""
    with mpl.rc_context(cast(Any, _STYLE)):
        figure = _drawn(chart, chart.views)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    for color in (_INK, _SOFT):
        text = text.replace(color, "currentColor")
    return re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)


def preview_png(chart: Chart) -> bytes:
    """A chart's first view as the content of a small PNG file."""
    with mpl.rc_context(cast(Any, _STYLE)):
        figure = _drawn(chart, chart.views[:1])
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()


def _histogram(table: Mapping[str, Sequence[float]] | None, chart: Chart, counted: str) -> Chart | None:
    """A chart with a view for each way of counting that the table holds."""
    if not table or len(table.get("edges", ())) < 2:
        return None
    ways = (
        ("counts", "Number", counted, ""),
        ("volume_percent", "Volume", "share of the volume", "%"),
        ("corrected_counts", "Corrected", f"{counted}, corrected for the border", ""),
    )
    # The bin of a whole number lies around it, so that ticks and marks stand where they should.
    edges = [math.ceil(edge) - 0.5 for edge in table["edges"]] if chart.whole else table["edges"]
    views = tuple(
        View(label, edges, y_label, y_unit, (Series(y_label, table[key], "steps"),), from_zero=True)
        for key, label, y_label, y_unit in ways
        if len(table.get(key, ())) == len(table["edges"]) - 1
    )
    return replace(chart, views=views) if views else None


def _profiles(profiles: Mapping[str, Sequence[float]], unit: str) -> Chart | None:
    z = profiles.get(f"z_{unit}", ())
    views = []
    for name, values in profiles.items():
        if name == f"z_{unit}" or len(values) != len(z) or not len(z):
            continue
        told = describe(name)
        views.append(View(told.label, z, told.label.lower(), told.unit, (Series(told.label.lower(), values),)))
    if not views:
        return None
    return Chart(
        "profile_z", "Profiles along z", "From the first slice to the last.", "z", unit_text(unit), tuple(views)
    )


def _representative_volume(
    table: Mapping[str, Sequence[float]], metrics: Mapping[str, float], unit: str
) -> Chart | None:
    edges = table.get(f"edge_{unit}", ())
    views = []
    for name in (key.removesuffix("_mean") for key in table if key.endswith("_mean")):
        mean, spread = table[f"{name}_mean"], table.get(f"{name}_std", ())
        if not len(edges) or len(mean) != len(edges) or len(spread) != len(edges):
            continue
        told = describe(name)
        series = [Series("mean of the cubes", mean, spread=spread)]
        if len(table.get("cubes", ())) == len(edges):
            series.append(Series("cubes", table["cubes"], "hidden", "soft"))
        views.append(View(told.label, edges, told.label.lower(), told.unit, tuple(series)))
    if not views:
        return None
    return Chart(
        "representative_volume",
        "Representative volume",
        "Mean over cubes of a size, with the standard deviation between them.",
        "edge of the cubes",
        unit_text(unit),
        tuple(views),
        _marks(metrics, f"representative_edge_{unit}", "representative"),
        log_x=True,
    )


def _grey_values(histograms: Mapping[str, Any], thresholds: Sequence[float], grey_unit: str) -> Chart | None:
    table = next((value for name, value in histograms.items() if name.startswith("grey_value_")), None)
    if not table or len(table.get("edges", ())) < 2:
        return None
    series = tuple(
        Series(
            name.removeprefix("counts_").replace("_", " "),
            values,
            "steps",
            f"phase{(int(name.rpartition('_')[2]) - 1) % len(PHASE_COLORS) + 1}",
        )
        for name, values in table.items()
        if name.startswith("counts_phase_") and len(values) == len(table["edges"]) - 1
    )
    if not series:
        return None
    unit = unit_text(grey_unit)
    return Chart(
        "grey_values",
        "Grey values",
        "Voxels of each phase, and the thresholds between the phases.",
        "attenuation",
        unit,
        (View("Voxels", table["edges"], "voxels", "", series, from_zero=True),),
        tuple(Mark(value, f"threshold {value:.4g}", "ink") for value in thresholds),
    )


def _correlation(table: Mapping[str, Sequence[float]], quality: Mapping[str, Any], unit: str) -> Chart | None:
    frequency, correlation = table.get(f"frequency_per_{unit}", ()), table.get("correlation", ())
    if not len(frequency) or len(correlation) != len(frequency):
        return None
    series = [Series("correlation", correlation)]
    if len(table.get("threshold", ())) == len(frequency):
        series.append(Series("threshold", table["threshold"], "dashed", "soft"))
    length = quality.get(f"resolution_{unit}")
    shown = unit_text(unit)
    return Chart(
        "fourier_correlation",
        "Fourier correlation",
        "Agreement of two halves of the data, by fineness of detail.",
        "spatial frequency",
        unit_text(f"per_{unit}"),
        (View("Correlation", frequency, "correlation", "", tuple(series), from_zero=True),),
        (Mark(1 / length, f"{length:.3g} {shown}"),) if length else (),
    )


def _center(resolved: Mapping[str, Any]) -> Chart | None:
    center = resolved.get("center")
    if not center or not center["curve"]["centers_px"]:
        return None
    tried = center["curve"]["centers_px"]
    marks = [Mark(resolved["center_px"], f"taken: {resolved['center_px']:g}")]
    marks += [
        Mark(value, f"{name}: {value:.2f}", "soft")
        for name, value in center["estimates_px"].items()
        if min(tried) <= value <= max(tried)
    ]
    return Chart(
        "rotation_center",
        "Rotation centre",
        f"Found by {center['method']}, confidence {center['confidence']:.2f}.",
        "rotation centre",
        "pixel",
        (View("Metric", tried, "metric", "", (Series("metric", center["curve"]["metric"]),)),),
        tuple(marks),
    )


def _marks(metrics: Mapping[str, float], name: str, label: str) -> tuple[Mark, ...]:
    if name not in metrics:
        return ()
    return (Mark(metrics[name], f"{label} {metrics[name]:.4g} {describe(name).unit}".strip(), "ink"),)


def _rounded(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.{_DIGITS}g}") for value in values]


def _drawn(chart: Chart, views: Sequence[View]) -> Figure:
    height = 0.5 + _PANEL_INCHES * len(views)
    figure = Figure(figsize=(_WIDTH_INCHES, height))
    # Margins in inches; matplotlib's own layout takes as long as the drawing.
    figure.subplots_adjust(
        left=0.75 / _WIDTH_INCHES, right=0.97, bottom=0.5 / height, top=1 - 0.22 / height, hspace=0.18
    )
    panels = figure.subplots(len(views), 1, squeeze=False, sharex=True)[:, 0]
    for axes, view in zip(panels, views, strict=True):
        _draw(axes, chart, view)
    panels[-1].set_xlabel(_axis(chart.x_label, chart.x_unit))
    return figure


def _draw(axes: Axes, chart: Chart, view: View) -> None:
    drawn = [series for series in view.series if series.kind != "hidden"]
    for series in drawn:
        color, name = _color(series.color), series.name if len(drawn) > 1 else None
        if series.kind == "steps":
            axes.stairs(series.values, view.x, fill=True, color=color, alpha=0.6, label=name)
        else:
            style = "--" if series.kind == "dashed" else "-"
            dot = "." if len(view.x) < 60 and series.kind == "line" else None
            axes.plot(view.x, series.values, style, color=color, linewidth=1.3, marker=dot, label=name)
        if series.spread:
            low, high = zip(*_band(series.values, series.spread), strict=True)
            axes.fill_between(view.x, low, high, color=color, alpha=0.18, linewidth=0)
    for mark in chart.marks:
        axes.axvline(mark.value, color=_color(mark.color), linewidth=1, linestyle="--", label=mark.label)
    if chart.log_x and min(view.x) > 0:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel(_axis(view.y_label, view.y_unit))
    axes.ticklabel_format(axis="y", scilimits=(-3, 5))
    if chart.whole:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(drawn) > 1 or chart.marks:
        axes.legend(frameon=False, fontsize=8)


def _band(values: Sequence[float], spread: Sequence[float]) -> Iterator[tuple[float, float]]:
    for value, half in zip(values, spread, strict=True):
        yield value - half, value + half


def _axis(label: str, unit: str) -> str:
    return f"{label} / {unit}" if unit else label


def _color(name: str) -> str:
    if name.startswith("phase"):
        return PHASE_COLORS[int(name.removeprefix("phase")) - 1]
    return {"accent": _ACCENT, "soft": _SOFT, "ink": _INK}[name]
