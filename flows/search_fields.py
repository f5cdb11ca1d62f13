"""Which field of an index a name in a query means: one set of rules for the local index and for Globus Search.

What a query says is left to `local.query`; which fields there are, to the index or to the schema of its documents.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Literal

from tomopipe.functions.errors import ParameterError

FieldType = Literal["text", "date", "integer", "float", "boolean"]

NUMBERS = ("integer", "float")

# fmt: off
UNITS = frozenset({
    "percent", "fraction", "ratio", "px", "pixel", "pixel2", "pixel3", "pixels", "voxel", "voxels", "nm", "um", "um2",
    "um3", "mm", "mm2", "mm3", "cm", "m", "per", "deg", "degrees", "rad", "ms", "s", "seconds", "min", "h", "hours", "ev",
    "kev", "bytes", "mb", "gb", "mib", "gib",
})
# fmt: on
"""Last words of a field's name that a query may leave out: ``porosity`` is ``metrics.porosity_percent``."""


# Fields that are named first where a query names one that is not there.
_ASKED = (
    "porosity_percent", "porosity_open_percent", "phase_fraction_percent_1", "object_count",
    "equivalent_diameter_mean_um", "thickness_mean_um", "tortuosity_factor_z", "scan_id", "sample", "energy_kev", "pixel_size_um",
)  # fmt: skip
_LISTED = 12


def text_field(asked: str, known: Mapping[str, FieldType]) -> str:
    """The one field in which a query looks for a word.

    A field is named in full (``metrics.porosity_percent``), by its last parts (``porosity_percent``) or without its unit
    (``porosity``), as long as only one field is meant. Of the same length in micrometres and in pixels, which stands
    only where the pixel size is not known, the one in micrometres is meant.

    Parameters
    ----------
    asked : str
        The query's name.
    known : mapping
        Type of every field, by name.

    Raises
    ------
    ParameterError
        The name is unknown (lists similar ones) or ambiguous (lists which).
    """
    return _resolve(asked, known, known)


def number_field(asked: str, known: Mapping[str, FieldType]) -> str:
    """The one field that a query compares with a number; otherwise as `text_field`."""
    return _resolve(asked, {name: kind for name, kind in known.items() if kind in NUMBERS}, known)


def _resolve(asked: str, candidates: Mapping[str, FieldType], known: Mapping[str, FieldType]) -> str:
    if asked in candidates:
        return asked
    for test in (_ends_with, _is_stem_of):
        matches = _without_pixels(sorted(name for name in candidates if test(name, asked)))
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise ParameterError(f"search query: {asked!r} may be {', '.join(matches)}; name one of them")
        if others := sorted(name for name in known if name == asked or test(name, asked)):
            raise ParameterError(f"search query: {others[0]} is no number; look for a word in it, as in {asked}:word")
    names = {part for name in candidates for part in (name, name.rpartition(".")[2])}
    near = difflib.get_close_matches(asked, sorted(names), n=3)
    listed = sorted(candidates, key=_by_interest)[:_LISTED]
    hint = f"; similar: {', '.join(near)}" if near else f"; known: {', '.join(listed) or 'none yet'}"
    raise ParameterError(f"search query: there is no field {asked!r}{hint}")


def _by_interest(name: str) -> tuple[int, int, str]:
    """What people ask for first, then other metrics, the scan, and the rest; within each by name."""
    last = name.rpartition(".")[2]
    place = _ASKED.index(last) if last in _ASKED and not name.startswith("intervals.") else len(_ASKED)
    kinds = ("metrics.", "scan.", "acquisition.")
    return place, next((n for n, kind in enumerate(kinds) if name.startswith(kind)), len(kinds)), name


def _ends_with(name: str, asked: str) -> bool:
    return name.endswith("." + asked)


def _is_stem_of(name: str, asked: str) -> bool:
    """Whether a name is the asked one plus a unit: ``metrics.porosity_percent`` for ``porosity``."""
    _, found, unit = f".{name}".rpartition(f".{asked}_")
    return bool(found) and all(word in UNITS for word in unit.split("_"))


def _without_pixels(names: list[str]) -> list[str]:
    """The names but those in pixels of which the list has the same in a unit of length."""
    return [
        name
        for name in names
        if not any(name.replace("pixel", unit) in names for unit in ("um", "cm") if "pixel" in name)
    ]
