"""Plots of the report as inline SVG: the centre-finding curve, the grey-value histogram with its phases, object sizes."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_INK, _ACCENT, _FILL = "#39414d", "#c2410c", "#7da2cf"
_PHASES = ("#4c84c4", "#b9a98a", "#d6823c", "#96508f", "#5aa05a")
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tomopipe",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
}


def center_curve(
    centers_px: Sequence[float], metric: Sequence[float], chosen_px: float, estimates: dict[str, float]
) -> str:
    """Metric against candidate centre, with the centre taken and what each method answered."""
    with _figure() as (axes, svg):
        axes.plot(centers_px, metric, color=_INK, linewidth=1.2, marker="." if len(centers_px) < 60 else None)
        axes.axvline(chosen_px, color=_ACCENT, linewidth=1.4, label=f"taken: {chosen_px:g}")
        low, high = min(centers_px), max(centers_px)
        for name, value in estimates.items():
            if low <= value <= high:
                axes.axvline(value, color=_FILL, linewidth=1, linestyle=":", label=f"{name}: {value:.2f}")
        axes.set(xlabel="rotation centre / pixel", ylabel="metric")
        axes.legend(frameon=False, fontsize=8)
    return svg.getvalue()


def grey_histogram(
    edges: Sequence[float], counts: dict[str, Sequence[float]], thresholds: Sequence[float], unit: str
) -> str:
    """Grey values, a curve a phase, with the thresholds between phases."""
    with _figure() as (axes, svg):
        for (name, values), color in zip(counts.items(), _PHASES, strict=False):
            axes.stairs(values, edges, fill=True, color=color, alpha=0.75, label=name)
        for threshold in thresholds:
            axes.axvline(threshold, color=_ACCENT, linewidth=1.2, label=f"threshold {threshold:g}")
        axes.set(xlabel=f"attenuation / {unit}", ylabel="voxels")
        axes.ticklabel_format(axis="y", scilimits=(0, 4))
        axes.legend(frameon=False, fontsize=8)
    return svg.getvalue()


def size_histogram(edges: Sequence[float], counts: Sequence[float], unit: str) -> str:
    """Objects by equivalent-sphere diameter."""
    with _figure() as (axes, svg):
        axes.stairs(counts, edges, fill=True, color=_FILL)
        axes.set(xlabel=f"equivalent-sphere diameter / {unit}", ylabel="objects", xscale="log")
    return svg.getvalue()


@contextmanager
def _figure() -> Iterator[tuple[Axes, io.StringIO]]:
    # Without pyplot no figure is kept anywhere.
    svg = io.StringIO()
    with mpl.rc_context(cast(Any, _STYLE)):
        figure = Figure(figsize=(5.2, 2.9), layout="constrained")
        yield figure.add_subplot(), svg
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
    text = svg.getvalue()
    svg.seek(0)
    svg.truncate()
    svg.write(text[text.index("<svg") :])
