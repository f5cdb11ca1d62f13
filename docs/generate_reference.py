"""Writes the pages of docs/reference that are made from the code: the parameters, and the JSON schema of the metrics."""

from __future__ import annotations

import json
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tomopipe.functions.parameters import Parameters
from tomopipe.functions.quantification.metrics_schema import metrics_schema

REFERENCE = Path(__file__).parent / "reference"


def pages() -> dict[Path, str]:
    """Content of each page."""
    return {
        REFERENCE / "parameters.md": parameters_page(),
        REFERENCE / "tomopipe-metrics-2.schema.json": json.dumps(metrics_schema(), indent=2) + "\n",
    }


def parameters_page() -> str:
    """The parameters as Markdown."""
    lines = [
        "# Parameters",
        "",
        "Made from the models in `functions/parameters.py` by `docs/generate_reference.py`. In a YAML file each section is a",
        "mapping; on the command line a field is `--set section.field=value`. Fields marked (execution) say how the work is done",
        "and never change a number: they take no part in the recipe.",
        "",
    ]
    plain = []
    for name, field in Parameters.model_fields.items():
        section = field.annotation
        if not (isinstance(section, type) and issubclass(section, BaseModel)):
            plain.append((name, field))
            continue
        lines += [f"## {name}", "", section.__doc__ or "", "", *_table(section.model_fields.items()), ""]
    lines += ["## Beside the sections", "", *_table(plain), ""]
    return "\n".join(lines)


def _table(fields: Any) -> list[str]:
    rows = ["| field | values | default | |", "|---|---|---|---|"]
    for name, field in fields:
        default = field.get_default(call_default_factory=True)
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        mark = " (execution)" if extra.get("execution") else ""
        rows.append(f"| `{name}` | {_values(field)} | `{json.dumps(default)}` | {field.description}{mark} |")
    return rows


def _values(field: FieldInfo) -> str:
    return f"{_type(field.annotation)} {_limits(field.metadata)}".strip()


def _limits(metadata: Any) -> str:
    signs = {Gt: (">", "gt"), Ge: ("≥", "ge"), Lt: ("<", "lt"), Le: ("≤", "le")}
    found = []
    for item in metadata:
        if isinstance(item, FieldInfo):
            found.append(_limits(item.metadata))
        elif type(item) in signs:
            sign, name = signs[type(item)]
            found.append(f"{sign} {getattr(item, name):g}")
    return ", ".join(found)


def _type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_type(a) for a in arguments if a is not type(None))
    if origin is list:
        return f"list of {_type(arguments[0])}"
    if hasattr(annotation, "__metadata__"):
        return f"{_type(arguments[0])} {_limits(annotation.__metadata__)}".strip()
    return {int: "integer", float: "number", bool: "true, false", str: "text"}[annotation]


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
