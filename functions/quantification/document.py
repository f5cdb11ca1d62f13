"""The search document of a good run: what is published to the index, a few KB with metrics as flat numbers.

The DataCite block is made by `datacite`, times and versions by `provenance`; `document_schema` says what may stand in it.
"""

from __future__ import annotations

import datetime
import json
import urllib.parse
from collections.abc import Mapping
from typing import Any

from ..device import worker_device
from ..reconstruction.settings import DIRECT_ALGORITHMS
from ..rundir import RunDirectory
from ..slabs import Sources
from .datacite import collected_date, datacite_block
from .document_schema import DOCUMENT_FORMAT
from .provenance import flow_id_of, parse_time, provenance, utc_text

SUBJECT_SCHEME = "globus"
FILE_MANAGER = "https://app.globus.org/file-manager"

# Of the measurement, what a request may know better than the file.
_CORRECTABLE = ("pixel_size_um", "row_spacing_um", "energy_kev", "distance_mm")
# The metrics that are asked for most stand first in the sidecar; a document is limited.
_INTERVALS_MAX = 6
# Of a text that a file or a warning brings in: the document travels in the flow's state.
_TEXT_MAX = 200
_WARNINGS_MAX = 2000


def search_document(
    sources: Sources, sidecar: dict[str, Any], started_at: datetime.datetime, now: datetime.datetime
) -> dict[str, Any]:
    """Content of the index's entry for a run that succeeded.

    Parameters
    ----------
    sources : Sources
    sidecar : dict
        Content of `labels.json`.
    started_at, now : datetime
        When `Quantify` started, which has no receipt yet, and the present.

    Returns
    -------
    dict
        JSON of `document_schema`. Numbers are always floats with their unit in the name, and absent where they do not
        exist: an index fixes a field's type with the first document that holds it.
    """
    document, run = sources.document, sources.run
    metadata = _metadata(document)
    found: dict[str, Any] = {
        "format": DOCUMENT_FORMAT,
        "status": "succeeded",
        "scan_id": document["scan_id"],
        "recipe_id": document["recipe_id"],
        "published_at": utc_text(now),
        "dc": datacite_block(
            identifier=_identifier(document),
            scan_id=document["scan_id"],
            recipe_id=document["recipe_id"],
            metadata=metadata,
            created=utc_text(now),
            shape=sources.volume_shape,
            formats=_formats(run),
        ),
        "scan": _scan(document),
        "acquisition": _acquisition(document),
        "recipe": _recipe(document),
        "request": _request(document),
        "source": _source(document),
        "metrics": {name: float(value) for name, value in sidecar["metrics"].items()},
        "intervals": _interval_ends(sidecar),
        "quality": {name: float(value) for name, value in sidecar["quality"].items() if isinstance(value, int | float)},
        "warnings": _short(" ".join(sidecar["quality"]["warnings"]), _WARNINGS_MAX),
        "provenance": provenance(run, document, worker_device().kind, started_at, now),
        "links": _links(run, document),
    }
    # An empty block or text says nothing and fixes no type.
    return {name: value for name, value in found.items() if value not in ({}, "")}


def taken_over(found: Mapping[str, Any], run: RunDirectory, document: Mapping[str, Any]) -> dict[str, Any]:
    """The document that an earlier run of the recipe made, for a later one that found everything done.

    Numbers and times stay those of the work; who publishes it now, from where, what is known of the scan, and where the
    results lie are the later run's.

    Parameters
    ----------
    found : mapping
        What `search_document` returned.
    run : RunDirectory
    document : mapping
        Content of `run.json`, as the later run has written it.
    """
    given = document.get("provenance", {})
    ids = {
        "run_id": given.get("run_id"),
        "flow_id": flow_id_of(document),
        "functions_digest": given.get("functions_digest"),
    }
    kept = {name: value for name, value in found["provenance"].items() if name not in ids}
    changed = {
        "scan": _scan(document),
        "request": _request(document),
        "source": _source(document),
        "provenance": {**{name: value for name, value in ids.items() if value}, **kept},
        "links": _links(run, document),
    }
    return {**found, **{name: value for name, value in changed.items() if value not in ({}, "")}}


def _metadata(document: Mapping[str, Any]) -> dict[str, Any]:
    """What the file says about the measurement."""
    said = document["scan"]["metadata"]
    return {key: _short(value) if isinstance(value, str) else value for key, value in said.items()}


def _corrected(metadata: Mapping[str, Any], wished: Mapping[str, Any]) -> dict[str, Any]:
    """What the file says about the measurement, with what the request knows better in its place."""
    better = {name: wished[name] for name in _CORRECTABLE if wished.get(name) is not None}
    corrected = {**metadata, **better}
    known = [metadata.get(name) for name in ("row_spacing_um", "pixel_size_um")]
    if "pixel_size_um" in better and "row_spacing_um" not in better and None not in known:
        # As for the voxel size: what the file says of the shape of pixels holds for another size, too.
        corrected["row_spacing_um"] = known[0] * better["pixel_size_um"] / known[1]
    return corrected


def _scan(document: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of the measurement; a start time only where its zone makes it a moment."""
    metadata = _corrected(_metadata(document), document["request"]["parameters"].get("scan", {}))
    scan = {
        key: value if isinstance(value, str) else float(value)
        for key, value in metadata.items()
        if value is not None and key != "start_time"
    }
    start_time = metadata.get("start_time")
    if start_time and parse_time(start_time):
        scan["start_time"] = start_time
    elif start_time:
        # Not a bare time: an index that takes the first one for a date would refuse every later one in other words.
        scan["start_time_text"] = f"{start_time} (no time zone)" if collected_date(start_time) else start_time
    return scan


def _acquisition(document: Mapping[str, Any]) -> dict[str, Any]:
    scan = document["scan"]
    angles, rows, columns = scan["shape"]
    first, last = scan["theta_deg"]
    numbers = {
        "angles": angles,
        "rows": rows,
        "columns": columns,
        "flats": scan["flats"],
        "darks": scan["darks"],
        "theta_first_deg": first,
        "theta_last_deg": last,
    }
    used = document.get("projections", scan)["shape"]
    for name, of_file, number in zip(("angles", "rows", "columns"), scan["shape"], used, strict=True):
        if number != of_file:
            numbers[f"used_{name}"] = number
    return {
        **{name: float(number) for name, number in numbers.items()},
        "layout": scan["layout"],
        "data_type": scan["dtype"],
    }


def _recipe(document: Mapping[str, Any]) -> dict[str, Any]:
    """What was computed how, flat; what was skipped, or has no part in it, has no field."""
    request, resolved = document["request"], document["resolved"]
    parameters, skipped = request["parameters"], request["skip"]
    reconstruction = parameters["reconstruction"]
    recipe: dict[str, Any] = {
        "algorithm": reconstruction["algorithm"],
        "padding": reconstruction["padding"],
        "engine": resolved.get("engine", reconstruction["engine"]),
        "center_px": float(resolved["center_px"]),
        "center_from": "found" if reconstruction["center"] == "auto" else "given",
        "stripe_removal": parameters["preprocessing"]["stripe_removal"],
        "zinger_threshold": float(parameters["preprocessing"]["zinger_threshold"]),
        "skipped": " ".join(skipped),
        "field_of_view": resolved.get("field_of_view", ""),
    }
    if reconstruction["algorithm"] in DIRECT_ALGORITHMS:
        recipe["filter"] = reconstruction["filter"]
    if parameters.get("scan", {}).get("binning", 1) > 1:
        recipe["binning"] = float(parameters["scan"]["binning"])
    if parameters["preprocessing"].get("phase_retrieval", "none") != "none":
        recipe["phase_retrieval"] = parameters["preprocessing"]["phase_retrieval"]
    if resolved["voxel_size_um"] is not None:
        recipe["voxel_size_um"] = float(resolved["voxel_size_um"][-1])
    if "denoise" not in skipped:
        recipe["denoising"] = parameters["denoising"]["method"]
        recipe["denoising_strength"] = float(parameters["denoising"]["strength"])
    if "segment" not in skipped:
        suffix = "per_pixel" if resolved["voxel_size_um"] is None else "per_cm"
        recipe["segmentation"] = parameters["segmentation"]["method"]
        recipe["region"] = parameters["segmentation"]["region"]
        recipe["phases"] = float(len(resolved["thresholds"]) + 1)
        recipe[f"thresholds_{suffix}"] = [float(threshold) for threshold in resolved["thresholds"]]
        recipe["measured_phase"] = float(parameters["objects"]["phase"])
    if "separate_objects" not in skipped:
        recipe["objects"] = parameters["objects"]["method"]
    return {name: value for name, value in recipe.items() if value != ""}


def _request(document: Mapping[str, Any]) -> str:
    """JSON from which the run can be asked for again when the service has long forgotten it.

    Text, because parameters have lists, nulls and values of two types, which no index takes as fields.
    """
    given, request = document.get("provenance", {}), document["request"]
    asked = {
        **({"scan": given["source"]} if given.get("source") else {}),
        **({"processing": given["processing"]} if given.get("processing") else {}),
        "scan_id": document["scan_id"],
        "parameters": request["parameters"],
        "skip": request["skip"],
        "start_from": None,
        **({"execution": request["execution"]} if request.get("execution") else {}),
    }
    return json.dumps(asked, separators=(",", ":"), allow_nan=False)


def _source(document: Mapping[str, Any]) -> dict[str, str]:
    source = document.get("provenance", {}).get("source") or {}
    return {"collection": source["id"], "path": source["path"]} if source else {}


def _identifier(document: Mapping[str, Any]) -> tuple[str, str]:
    """The entry's subject in the index, where the results lie on a collection; else the ids."""
    processing = document.get("provenance", {}).get("processing")
    below = f"{document['scan_id']}/{document['recipe_id']}"
    if processing and flow_id_of(document):
        return f"{SUBJECT_SCHEME}://{processing['id']}{processing['path']}/{below}", "Globus"
    return below, "tomopipe"


def _links(run: RunDirectory, document: Mapping[str, Any]) -> dict[str, Any]:
    """Addresses of the folder, the report and the pictures; relative to the run directory where none serves it."""
    given = document.get("provenance", {})
    below = f"{document['scan_id']}/{document['recipe_id']}"
    results_url = given.get("results_url") or ""
    base = f"{results_url.rstrip('/')}/{urllib.parse.quote(below)}/" if results_url else ""
    links: dict[str, Any] = {
        "report": base + run.report.name,
        "previews": [f"{base}previews/{path.name}" for path in sorted(run.previews.glob("*.png"))],
    }
    if given.get("processing") and flow_id_of(document):
        place = {"origin_id": given["processing"]["id"], "origin_path": f"{given['processing']['path']}/{below}/"}
        links["folder"] = f"{FILE_MANAGER}?{urllib.parse.urlencode(place, quote_via=urllib.parse.quote, safe='')}"
    return links


def _formats(run: RunDirectory) -> list[str]:
    """Formats of what the run directory holds, by media type or name."""
    kinds = {
        "OME-Zarr 0.5": ("*.zarr",),
        "application/x-hdf5": ("labels.h5", "projections.h5"),
        "text/csv": ("objects.csv",),
    }
    found = [name for name, patterns in kinds.items() if any(any(run.root.glob(pattern)) for pattern in patterns)]
    return [*found, "application/json", "text/html", "image/png"]


def _interval_ends(sidecar: dict[str, Any]) -> dict[str, float]:
    """Ends of the 95 % intervals of the first metrics, as flat numbers."""
    ends = {}
    for name in list(sidecar["metrics"])[:_INTERVALS_MAX]:
        interval = sidecar["intervals"].get(name, {}).get("subvolumes")
        if interval:
            ends[f"{name}_low"], ends[f"{name}_high"] = (float(end) for end in interval)
    return ends


def _short(text: str, limit: int = _TEXT_MAX) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
