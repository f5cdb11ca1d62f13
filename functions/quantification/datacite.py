"""The DataCite block of a search document, so that portals and catalogues can read it without knowing us.

Metadata schema 4 (https://schema.datacite.org/meta/kernel-4), in the JSON form of version 4.3, in which the publisher is a
text. What is not known is said with the schema's own words for it (its appendix "Standard values for unknown information").
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from typing import Any

SCHEMA_VERSION = "http://datacite.org/schema/kernel-4"
UNKNOWN = ":unav"
"""DataCite's word for a value that is not available, possibly unknown."""

_DAY = re.compile(r"\d{4}-\d\d-\d\d")


def datacite_block(
    *,
    identifier: tuple[str, str],
    scan_id: str,
    recipe_id: str,
    metadata: Mapping[str, Any],
    created: str,
    shape: tuple[int, int, int],
    formats: list[str],
) -> dict[str, Any]:
    """The `dc` block.

    Parameters
    ----------
    identifier : (str, str)
        Where the results lie, and the kind of identifier that this is.
    scan_id, recipe_id : str
    metadata : mapping
        What the scan's file says about the measurement, as in `run.json`.
    created : str
        ISO 8601, when the results were made.
    shape : (z, y, x)
        Voxels of the volume.
    formats : list of str
        Formats of the files.
    """
    sample, proposal = metadata.get("sample"), metadata.get("proposal")
    collected = collected_date(metadata.get("start_time"))
    subjects = dict.fromkeys(("X-ray computed tomography", *([sample] if sample else [])))
    block: dict[str, Any] = {
        "identifiers": [{"identifier": identifier[0], "identifierType": identifier[1]}],
        # The file names the experimenter or nobody does; a proposal is no person.
        "creators": [{"name": metadata.get("experimenter") or UNKNOWN}],
        "titles": [{"title": f"X-ray tomography of {sample or 'a sample'}: scan {scan_id}, recipe {recipe_id}"}],
        "publisher": metadata.get("beamline") or UNKNOWN,
        "publicationYear": created[:4],
        "subjects": [{"subject": subject} for subject in subjects],
        "dates": [
            {"date": created, "dateType": "Created"},
            *([{"date": collected, "dateType": "Collected"}] if collected else []),
        ],
        "types": {"resourceType": "Tomographic reconstruction and metrics", "resourceTypeGeneral": "Dataset"},
        "formats": formats,
        "sizes": [" x ".join(map(str, shape)) + " voxels"],
        "version": recipe_id,
        "schemaVersion": SCHEMA_VERSION,
    }
    if proposal:
        block["alternateIdentifiers"] = [{"alternateIdentifier": proposal, "alternateIdentifierType": "Proposal"}]
    return block


def collected_date(start_time: str | None) -> str | None:
    """When a scan began, as DataCite takes it: a time with its zone, else the day alone, else None."""
    try:
        time = datetime.datetime.fromisoformat(start_time or "")
    except ValueError:
        return None
    if time.tzinfo is not None:
        return start_time
    day = (start_time or "")[:10]
    return day if _DAY.fullmatch(day) else None
