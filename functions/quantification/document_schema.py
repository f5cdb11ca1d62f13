"""What a search document may hold: its JSON schema, the names and types of all its fields, and a record of every field.

An index fixes a field's type with the first document that holds it, so every field has a name and one type here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from .glossary import describe
from .metrics_schema import METRICS, QUALITY
from .provenance import TIMED_STAGES

DOCUMENT_FORMAT = "tomopipe-document/2"
SCHEMA_ID = "https://tomopipe.readthedocs.io/reference/tomopipe-document-2.schema.json"

FieldType = Literal["text", "date", "float"]

_PHASES = range(1, 6)
_FILLINGS = {"<U>": ("um", "pixel"), "<A>": ("z", "y", "x"), "<G>": ("per_cm", "per_pixel")}

_STAGE_TIMES = {
    "wait_s_{}": "Seconds from the end of what came before to the first start of {}.",
    "run_s_{}": "Seconds from the first start of {} to its last end.",
    "busy_s_{}": "Seconds of work of {}, summed over all its slabs.",
    "slabs_{}": "Slabs (or blocks and steps) of {} that this run did.",
}


def document_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the records of good and failed runs."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        "title": "Search document of a tomography run",
        "description": "Content of an index's entry. Numbers are floats and finite; what is not known is absent, never null.",
        **_object(
            {
                "format": {"const": DOCUMENT_FORMAT, "type": "string"},
                "status": {"enum": ["succeeded", "failed"], "type": "string"},
                "scan_id": _text("Name of the scan; results lie in a folder of this name."),
                "recipe_id": {**_text("Which parameters made the results."), "pattern": "^[0-9a-f]{12}$"},
                "published_at": _date("When the document was made."),
                "dc": _datacite(),
                "scan": _scan(),
                "acquisition": _acquisition(),
                "recipe": _recipe(),
                "request": _text("JSON that asks for the run again: scan, processing, scan_id, parameters, skip, ..."),
                "source": _object(
                    {
                        "collection": _text("UUID of the raw scan's collection."),
                        "path": _text("Path of the raw scan there."),
                    },
                    ["collection", "path"],
                    "Where the raw scan came from.",
                ),
                "metrics": _object({name: _metric(name) for name in _filled(METRICS)}, [], "As in labels.json."),
                "intervals": _object(
                    {
                        f"{name}_{end}": _number(f"{describe(name).label}: {end}er end of its 95 % interval.")
                        for name in _filled(METRICS)
                        for end in ("low", "high")
                    },
                    [],
                    "95 % intervals of the first metrics, from the spread between sub-volumes.",
                ),
                "quality": _object({name: _metric(name) for name in _filled(QUALITY)}, [], "As in labels.json."),
                "warnings": _text("What makes the numbers doubtful, in words."),
                "provenance": _provenance(),
                "links": _object(
                    {
                        "folder": _text("The run directory in the Globus web app."),
                        "report": _text("The report; relative to the run directory where none serves it."),
                        "previews": _list(_text("Pictures, as the report.")),
                    },
                    ["report", "previews"],
                    "Where to look.",
                ),
                "failure": _object(
                    {
                        "stage": _text("State of the flow that failed."),
                        "error": _text("Name of the error."),
                        "cause": _text("What the action said."),
                    },
                    ["stage", "error", "cause"],
                    "Of a failed run.",
                ),
            },
            ["format", "status", "scan_id", "provenance"],
        ),
        "if": {"properties": {"status": {"const": "succeeded"}}},
        "then": {
            "required": [
                "recipe_id", "published_at", "dc", "acquisition", "recipe", "request", "links"
            ],
            "properties": {"failure": False},
        },
        "else": {"required": ["failure", "source"]},
    }  # fmt: skip


def document_fields() -> dict[str, FieldType]:
    """Type of every field of the records, by its dotted name; the elements of a list share its name."""
    return dict(_leaves(document_schema(), ""))


def type_record() -> dict[str, Any]:
    """A record that holds every field once.

    Ingested into a new index before anything else, and deleted, it fixes every type as it is meant: else a first sample
    named `2026-11-22` would make names of samples dates for good, and a first whole number would refuse fractions.
    """
    record: dict[str, Any] = {}
    values = {"text": "text", "date": "2000-01-01T00:00:00Z", "float": 0.5}
    for name, kind in document_fields().items():
        *parents, last = name.split(".")
        block = record
        for parent in parents:
            block = block.setdefault(parent, {})
        block[last] = values[kind]
    return record


def _leaves(schema: Mapping[str, Any], name: str) -> Iterator[tuple[str, FieldType]]:
    if schema["type"] == "object":
        for key, value in schema["properties"].items():
            yield from _leaves(value, f"{name}.{key}" if name else key)
    elif schema["type"] == "array":
        yield from _leaves(schema["items"], name)
    elif schema["type"] == "number":
        yield name, "float"
    else:
        yield name, "date" if {"format", "anyOf"} & set(schema) else "text"


def _filled(patterns: tuple[str, ...]) -> list[str]:
    """Every name that the patterns stand for."""
    return [name for pattern in patterns for name in _names(pattern)]


def _names(pattern: str) -> list[str]:
    names = [pattern]
    for placeholder, texts in _FILLINGS.items():
        names = [name.replace(placeholder, text) for name in names for text in (texts if placeholder in name else [""])]
    count = pattern.count("<K>")
    filled = []
    for name in names:
        for phases in itertools.combinations(_PHASES, count):
            text = name
            for phase in phases:
                text = text.replace("<K>", str(phase), 1)
            filled.append(text)
    return filled


def _datacite() -> dict[str, Any]:
    """The part of DataCite's schema 4.3 that is used."""

    def entries(required: list[str], **fields: dict[str, Any]) -> dict[str, Any]:
        return {**_list(_object(fields, required)), "minItems": 1}

    text = {"type": "string", "minLength": 1}
    return _object(
        {
            "identifiers": entries(["identifier", "identifierType"], identifier=text, identifierType=text),
            "creators": entries(["name"], name=text),
            "titles": entries(["title"], title=text),
            "publisher": text,
            "publicationYear": {**text, "pattern": "^[0-9]{4}$"},
            "subjects": entries(["subject"], subject=text),
            "dates": entries(
                ["date", "dateType"],
                date={"type": "string", "anyOf": [{"format": "date-time"}, {"format": "date"}]},
                dateType={"type": "string", "enum": ["Created", "Collected"]},
            ),
            "types": _object(
                {"resourceType": text, "resourceTypeGeneral": {"type": "string", "const": "Dataset"}},
                ["resourceType", "resourceTypeGeneral"],
            ),
            "alternateIdentifiers": entries(
                ["alternateIdentifier", "alternateIdentifierType"],
                alternateIdentifier=text,
                alternateIdentifierType=text,
            ),
            "formats": _list(text),
            "sizes": _list(text),
            "version": text,
            "schemaVersion": {"type": "string", "const": "http://datacite.org/schema/kernel-4"},
        },
        [
            "identifiers", "creators", "titles", "publisher", "publicationYear", "dates", "types", "schemaVersion"
        ],
        "DataCite metadata, schema 4.",
    )  # fmt: skip


def _scan() -> dict[str, Any]:
    return _object(
        {
            "pixel_size_um": _number("Pixel size at the sample."),
            "row_spacing_um": _number("Distance of two detector rows, where pixels are not square."),
            "energy_kev": _number("Photon energy."),
            "distance_mm": _number("From sample to detector."),
            "exposure_time_s": _number("Of one projection."),
            "magnification": _number("Of the objective."),
            "sample": _text("Name of the sample."),
            "proposal": _text("Proposal."),
            "experimenter": _text("Who measured."),
            "beamline": _text("Where."),
            "start_time": _date("When the scan began, where the file gives the time zone."),
            "start_time_text": _text("When the scan began, in the file's words, where it gives no time zone."),
        },
        [],
        "What the file says about the measurement, or the request where it knows better.",
    )


def _acquisition() -> dict[str, Any]:
    numbers = {
        "angles": "Projections.",
        "rows": "Detector rows.",
        "columns": "Detector columns.",
        "flats": "Flat-field frames.",
        "darks": "Dark-field frames.",
        "theta_first_deg": "Smallest angle.",
        "theta_last_deg": "Largest angle.",
    }
    fields = {name: _number(said) for name, said in numbers.items()}
    fields["layout"] = _text("Layout of the file.")
    fields["data_type"] = _text("Type of the raw counts.")
    used = {
        "used_angles": "Projections that slices were made from, where not those of the file.",
        "used_rows": "Their rows, where a part was used or pixels were binned.",
        "used_columns": "Their columns, where a part was used, pixels were binned, or halves of a turn were joined.",
    }
    return _object(
        {**fields, **{name: _number(said) for name, said in used.items()}},
        list(fields),
        "Size and kind of the raw data, and how much of them was used.",
    )


def _recipe() -> dict[str, Any]:
    return _object(
        {
            "algorithm": _text("Reconstruction algorithm."),
            "filter": _text("Reconstruction filter; iterative algorithms have none."),
            "padding": _text("What lies beside the field of view."),
            "engine": _text("Implementation that reconstructed."),
            "center_px": _number("Rotation centre."),
            "center_from": _text("found or given."),
            "field_of_view": _text("standard, or double where the halves of a turn were joined."),
            "binning": _number("Pixels along rows and columns that were averaged to one, where more than one."),
            "phase_retrieval": _text("Method of phase retrieval, where there was one."),
            "stripe_removal": _text("Method against ring artefacts."),
            "zinger_threshold": _number("Excess over the median from which a pixel is a zinger."),
            "skipped": _text("Stages left out."),
            "voxel_size_um": _number("Edge of a voxel along x."),
            "denoising": _text("Denoising method."),
            "denoising_strength": _number("In units of the noise."),
            "segmentation": _text("Where the thresholds come from."),
            "region": _text("Where phases are told apart."),
            "phases": _number("Phases told apart."),
            "thresholds_per_cm": _list(_number("Thresholds between phases, 1/cm.")),
            "thresholds_per_pixel": _list(_number("The same where the pixel size is not known, 1/pixel.")),
            "measured_phase": _number("Phase that is measured."),
            "objects": _text("How objects are separated."),
        },
        ["algorithm", "center_px"],
        "What was computed how.",
    )


def _provenance() -> dict[str, Any]:
    times = {
        name.format(stage): _number(said.format(stage)) for stage in TIMED_STAGES for name, said in _STAGE_TIMES.items()
    }
    return _object(
        {
            "run_id": _text("Run that made the results."),
            "flow_id": _text("Flow of the Globus service; absent for a run on one machine."),
            "functions_digest": _text("SHA-256 over version and source text of the flow's functions."),
            "tomopipe": _text("Version of tomopipe."),
            "python": _text("Version of Python."),
            "packages": _text("Versions of what computes the numbers, as name-version."),
            "machine": _text("Architecture of the machine."),
            "devices": _text("Kinds of devices that computed."),
            "workers": _number("Processes that computed."),
            "input_checksum": _text("SHA-256 of the raw file."),
            "transferred_at": _date("When the raw scan had arrived."),
            "inspected_at": _date("When Inspect had planned the run."),
            "finished_at": _date("When the metrics were done."),
            "reused": _text("Stages whose output was there before, of another recipe or an earlier start."),
            "elapsed_s": _number("Seconds from the scan's arrival, or else the first start, to the end."),
            **times,
        },
        [],
        "Versions, machine and times.",
    )


def _object(
    properties: Mapping[str, dict[str, Any]], required: list[str], description: str | None = None
) -> dict[str, Any]:
    return {
        **({"description": description} if description else {}),
        "type": "object",
        "additionalProperties": False,
        **({"required": required} if required else {}),
        "properties": dict(properties),
    }


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _metric(name: str) -> dict[str, Any]:
    return _number(describe(name).definition)


def _number(description: str) -> dict[str, Any]:
    return {"type": "number", "description": description}


def _text(description: str) -> dict[str, Any]:
    return {"type": "string", "minLength": 1, "maxLength": 32_000, "description": description}


def _date(description: str) -> dict[str, Any]:
    return {"type": "string", "format": "date-time", "description": description}
