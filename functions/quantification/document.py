"""The search document of a run: what is published to the index, a few KB with metrics as flat numbers."""

from __future__ import annotations

import datetime
from typing import Any

from ..slabs import Sources

DOCUMENT_FORMAT = "tomopipe-document/1"
# The metrics that are asked for most stand first in the sidecar; a document is limited.
_INTERVALS_MAX = 6


def search_document(sources: Sources, sidecar: dict[str, Any]) -> dict[str, Any]:
    """Content of the index's entry for a run that succeeded.

    Parameters
    ----------
    sources : Sources
    sidecar : dict
        Content of `labels.json`.

    Returns
    -------
    dict
        JSON. Metrics are always floats with their unit in the name, and absent where they do not exist: an index fixes
        a field's type with the first document that holds it.
    """
    document = sources.document
    parameters = document["request"]["parameters"]
    scan = document["scan"]
    return {
        "format": DOCUMENT_FORMAT,
        "status": "succeeded",
        "scan_id": document["scan_id"],
        "recipe_id": document["recipe_id"],
        "published_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "scan": {key: value for key, value in scan["metadata"].items() if value is not None},
        "acquisition": {
            "angles": float(scan["shape"][0]),
            "rows": float(scan["shape"][1]),
            "columns": float(scan["shape"][2]),
            "checksum": scan["checksum"],
        },
        "recipe": {
            "algorithm": parameters["reconstruction"]["algorithm"],
            "filter": parameters["reconstruction"]["filter"],
            "center_px": float(document["resolved"]["center_px"]),
            "skipped": " ".join(document["request"]["skip"]),
        },
        "metrics": {name: float(value) for name, value in sidecar["metrics"].items()},
        "intervals": _interval_ends(sidecar),
        "quality": {name: float(value) for name, value in sidecar["quality"].items() if isinstance(value, int | float)},
        "warnings": " ".join(sidecar["quality"]["warnings"]),
        # Relative to the run directory, which is the entry's subject.
        "report": sources.run.report.name,
        "previews": [f"previews/{path.name}" for path in sorted(sources.run.previews.glob("*.png"))],
        "software": f"tomopipe {document['software']['tomopipe']}",
    }


def _interval_ends(sidecar: dict[str, Any]) -> dict[str, float]:
    """Ends of the 95 % intervals of the first metrics, as flat numbers."""
    ends = {}
    for name in list(sidecar["metrics"])[:_INTERVALS_MAX]:
        interval = sidecar["intervals"].get(name, {}).get("subvolumes")
        if interval:
            ends[f"{name}_low"], ends[f"{name}_high"] = (float(end) for end in interval)
    return ends
