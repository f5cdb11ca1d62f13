"""A list of scans to submit, from YAML, JSON or CSV.

What is done with them is left to `client`; whether their parameters are possible, to the flow's input.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tomopipe.functions.errors import ParameterError
from tomopipe.functions.parameters import apply_overrides

_KEYS = ("scan", "scan_id", "label", "parameters")
_TEXTS = ("scan", "scan_id", "label")


@dataclass(frozen=True)
class ManifestEntry:
    """One scan of a manifest.

    Parameters
    ----------
    where : str
        File and place in it, for messages.
    scan : str
        Path on the beamline's machine, or `globus://UUID/path`.
    scan_id, label : str or None
    parameters : dict
        Sections and fields as in a parameter file.
    """

    where: str
    scan: str
    scan_id: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    label: str | None = None


def read_manifest(path: Path) -> list[ManifestEntry]:
    """Entries of a manifest: a YAML or JSON list, or CSV by the ending `.csv`.

    An element of a list is a path, or a mapping with `scan` and, where wanted, `scan_id`, `label` and `parameters`. A
    CSV file has a header: `scan`, `scan_id` and `label` where wanted, and any parameter as `SECTION.FIELD`; an empty cell
    is left out.

    Raises
    ------
    ParameterError
        The file cannot be read, or an entry cannot be used: names the file, the entry and the remedy.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ParameterError(f"--manifest {path}: cannot be read: {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise ParameterError(f"--manifest {path}: is not text in UTF-8; save it as such") from error
    entries = _from_csv(path, text) if path.suffix.lower() == ".csv" else _from_list(path, text)
    if not entries:
        raise ParameterError(f"--manifest {path}: lists no scan; give one a line")
    return entries


def _from_list(path: Path, text: str) -> list[ManifestEntry]:
    try:
        # The ending decides, because YAML reads some JSON texts otherwise.
        loaded = json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        kind = "JSON" if path.suffix.lower() == ".json" else "YAML"
        raise ParameterError(f"--manifest {path}: is not {kind}: {' '.join(str(error).split())}") from error
    if not isinstance(loaded, list):
        found = "nothing" if loaded is None else type(loaded).__name__
        raise ParameterError(f"--manifest {path}: expected a list of scans ('- /data/scan.h5'), found {found}")
    return [_from_item(f"{path}: entry {number}", item) for number, item in enumerate(loaded, 1)]


def _from_item(where: str, item: Any) -> ManifestEntry:
    if isinstance(item, str):
        item = {"scan": item}
    if not isinstance(item, Mapping):
        raise ParameterError(f"{where}: expected a path, or a mapping with 'scan', found {item!r:.60}")
    unknown = [key for key in item if key not in _KEYS]
    if unknown:
        raise ParameterError(f"{where}: unknown key {unknown[0]!r}; known are {', '.join(_KEYS)}")
    parameters = item.get("parameters") or {}
    if not isinstance(parameters, Mapping):
        raise ParameterError(f"{where}: parameters={parameters!r:.60}: expected sections such as 'reconstruction:'")
    scan, scan_id = item.get("scan"), item.get("scan_id")
    if not isinstance(scan, str) or not scan:
        raise ParameterError(f"{where}: scan={scan!r}: is no path; give the path of a scan")
    if scan_id is not None and not isinstance(scan_id, str):
        # YAML reads 0042 as a number, and a scan would get another name than the one written.
        raise ParameterError(f"{where}: scan_id={scan_id!r}: is no text; write it in quotes")
    label = item.get("label")
    if label is not None and not isinstance(label, str):
        raise ParameterError(f"{where}: label={label!r}: is no text; write it in quotes")
    return ManifestEntry(where, scan, scan_id, dict(parameters), label)


def _from_csv(path: Path, text: str) -> list[ManifestEntry]:
    reader = csv.reader(text.splitlines(), strict=True)
    try:
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise ParameterError(f"--manifest {path}: is not CSV: {error}") from error
    rows = [(line, row) for line, row in rows if any(row)]
    if not rows:
        return []
    header = rows[0][1]
    wrong = [name for name in header if name not in _TEXTS and name.count(".") != 1]
    if "scan" not in header or wrong or len(set(header)) != len(header):
        found = f"column {wrong[0]!r}" if wrong else "no column 'scan'" if "scan" not in header else "a column twice"
        raise ParameterError(
            f"--manifest {path}: {found} in the first line; name the columns scan, scan_id, label, and parameters as "
            "SECTION.FIELD, each once"
        )
    return [_from_row(f"{path}: line {line}", header, row) for line, row in rows[1:]]


def _from_row(where: str, header: list[str], row: list[str]) -> ManifestEntry:
    if len(row) != len(header):
        raise ParameterError(f"{where}: has {len(row)} cells, the first line has {len(header)}; quote a cell with ','")
    cells = {name: cell for name, cell in zip(header, row, strict=True) if cell}
    if "scan" not in cells:
        raise ParameterError(f"{where}: scan is empty; give the path of a scan")
    overrides = [f"{name}={cell}" for name, cell in cells.items() if name not in _TEXTS]
    return ManifestEntry(where, cells["scan"], cells.get("scan_id"), apply_overrides({}, overrides), cells.get("label"))
