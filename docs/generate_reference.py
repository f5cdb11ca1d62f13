"""Writes the pages of docs/reference that are made from the code: parameters, deployments, search documents, JSON schemas."""

from __future__ import annotations

import json
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tomopipe.flows.deployment import deployment_schema
from tomopipe.flows.trigger import config
from tomopipe.functions.parameters import Parameters
from tomopipe.functions.quantification.document_schema import document_schema
from tomopipe.functions.quantification.metrics_schema import metrics_schema
from tomopipe.functions.quantification.provenance import TIMED_STAGES

REFERENCE = Path(__file__).parent / "reference"

_SEARCH_DOCUMENT = """# Search document

What a run publishes to the search index, format `tomopipe-document/2`: the local index of `tomopipe run` and an index of
Globus Search hold the same. Made from `functions/quantification/document_schema.py` by `docs/generate_reference.py`; the
JSON schema is [tomopipe-document-2.schema.json](tomopipe-document-2.schema.json), printed by

```
tomopipe definition document
```

- An entry's subject is `globus://COLLECTION/PATH` of the run directory, its id `run`. Another recipe is another subject.
- The subject of a failure is that of the run with `/failure` after it; of a scan that failed before it had a run directory,
  that of the scan's folder. A good run deletes both before it publishes.
- The record of a failed run has `failure`, `source` and what is known of its `provenance`; that of a good run has no
  `failure`.
- An index fixes a field's type with the first value it gets. So every number is written with a decimal point, nothing is
  ever null or NaN, and what is not known or was skipped has no field. `type_record()` in the same module holds every
  field once: ingested into a new index before anything else, and deleted, it fixes each type as it is meant.
- `request` is JSON text: with it a run can be asked for again after the service has forgotten it.
- Times are UTC. `wait_s_<stage>` is how long the first task of a stage was waited for (mostly in a queue),
  `run_s_<stage>` how long the stage took from there. Only work of this run counts; stages that were there already are
  in `reused`.
- The document of an ordinary run has 8 to 12 KB: it travels in the flow's state, which is limited. Texts from the scan's
  file are cut at 200 characters, warnings at 2000.

## Searching

```
tomopipe search 'porosity > 20 and sample:shale'
tomopipe search 'wait_s_preprocess > 3600'
tomopipe search 'status:failed stage:Reconstruct'
```

Words and `"phrases"` are looked for in all texts, `field:word` in one field, `word*` is how a word begins;
`> >= < <= = !=` compare a field with a number; a date is found by its year, month or day. `and` (which may be left out),
`or`, `not` and parentheses combine. A field is named in full (`metrics.porosity_percent`), by its last part, or without
its unit (`porosity`); of a length in micrometres and in pixels the one in micrometres is meant.

Both indices understand the same: for Globus Search the query is translated to its advanced syntax. Two differences
remain. Globus Search takes `scan_0042` for one word, the local index for two. And of its hits the latest come first, with
those of failed runs, which have no time, last.
"""


_DEPLOYMENT = """# Deployment file

The keys of a deployment's YAML file, format `tomopipe-deployment/1`. Made from the models in `flows/deployment.py` by
`docs/generate_reference.py`; [set up a deployment](../how-to/set-up-a-deployment.md) says how to use them.

- A deployment is found by name in `$TOMOPIPE_HOME/deployments`, then among the shipped ones; or by the path of its file,
  where that has a `/` or ends with `.yaml`. Its name is the file's, without the ending.
- `extends` takes over another file: mappings are merged key by key, all else is replaced. A path there is relative to the
  file; a file of the same name as a shipped one may extend that.
- A required key that is null counts as missing, and so does a null in `user_endpoint_config`: all that is missing is
  listed at once. An unknown key or a key given twice is refused.
- UUIDs and paths are checked for their form only; `tomopipe preflight` asks the services.
- A principal is `urn:globus:groups:id:UUID`, `urn:globus:auth:identity:UUID`, and where it says so
  `all_authenticated_users` or `public`.
"""


def pages() -> dict[Path, str]:
    """Content of each page."""
    return {
        REFERENCE / "parameters.md": parameters_page(),
        REFERENCE / "deployment.md": deployment_page(),
        REFERENCE / "trigger.md": trigger_page(),
        REFERENCE / "search-document.md": search_document_page(),
        REFERENCE / "tomopipe-document-2.schema.json": json.dumps(document_schema(), indent=2) + "\n",
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


def trigger_page() -> str:
    """The keys of a trigger's configuration as Markdown."""
    sections: dict[str, type[BaseModel]] = {
        "sources.files": config.FilesConfig,
        "finished": config.FinishedConfig,
        "sources.epics": config.EpicsConfig,
        "sources.drop_folder": config.DropFolderConfig,
        "rules": config.Rule,
        "rules.when": config.When,
        "local": config.LocalConfig,
        "submitter": config.SubmitterConfig,
        "notify": config.NotifyConfig,
        "notify.email": config.EmailConfig,
        "notify.webhook": config.WebhookConfig,
        "monitoring": config.MonitoringConfig,
    }
    lines = [
        "# Trigger configuration",
        "",
        "The keys of a trigger's YAML file, format `tomopipe-trigger/1`. Made from the models in `flows/trigger/config.py` by",
        "`docs/generate_reference.py`; [install the trigger](../how-to/install-the-trigger.md) and",
        "[write rules](../how-to/write-rules.md) say how to use them. `sources.files`, `sources.epics` and `rules` are lists.",
        "",
        *_plain_table(config.TriggerConfig),
        "",
    ]
    for name, model in sections.items():
        lines += [f"## {name}", "", model.__doc__ or "", "", *_plain_table(model), ""]
    return "\n".join(lines)


def _plain_table(model: type[BaseModel]) -> list[str]:
    """Keys that have a description of their own; those that are sections come below."""
    rows = ["| key | default | |", "|---|---|---|"]
    for name, field in model.model_fields.items():
        if field.description is None:
            continue
        default = "required" if field.is_required() else f"`{_shown(field.get_default(call_default_factory=True))}`"
        rows.append(f"| `{name}` | {default} | {field.description} |")
    return rows


def _shown(default: Any) -> str:
    if isinstance(default, BaseModel):
        return "{}"
    return json.dumps(default, default=str)


def deployment_page() -> str:
    """The keys of a deployment's file as Markdown."""
    schema = deployment_schema()
    sections = schema["$defs"]
    required = schema["anyOf"][0]["required"]
    plain, lines = {}, []
    for key, value in schema["properties"].items():
        name = next((name for name in _references(value) if name in sections), None)
        if name is None:
            plain[key] = value
            continue
        said = value.get("description") or sections[name]["description"]
        if key == "parameters":
            lines += [f"## {key}", "", f"{said} Sections and fields as in [parameters](parameters.md).", ""]
            continue
        must = " Required." if key in required else ""
        rows = _key_table(sections[name]["properties"], sections[name].get("required", ()))
        lines += [f"## {key}", "", f"{said}{must}", "", *rows, ""]
    return "\n".join([_DEPLOYMENT, *_key_table(plain, required), "", *lines])


def _references(value: dict[str, Any]) -> list[str]:
    """Names of the sections that a key may hold."""
    choices = [value, *value.get("anyOf", [])]
    return [choice["$ref"].rpartition("/")[2] for choice in choices if "$ref" in choice]


def _key_table(keys: dict[str, Any], required: Any) -> list[str]:
    rows = ["| key | values | default | |", "|---|---|---|---|"]
    for key, value in keys.items():
        default = "required" if key in required else f"`{json.dumps(value['default'])}`" if "default" in value else ""
        rows.append(f"| `{key}` | {_key_values(value)} | {default} | {value['description']} |")
    return rows


def _key_values(schema: dict[str, Any]) -> str:
    """What a key of a deployment may hold, in words."""
    if "anyOf" in schema:
        return " or ".join(_key_values(choice) for choice in schema["anyOf"] if choice.get("type") != "null")
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema["type"] == "array":
        items = "principals" if "urn:globus" in schema["items"].get("pattern", "") else "texts"
        return f"list of {items}"
    if schema["type"] == "object":
        return "mapping"
    if schema["type"] == "string":
        formats = {"uuid": "UUID", "uri": "HTTPS address"}
        kind = formats.get(schema.get("format", ""), "path" if schema.get("pattern") == "^/" else "text")
        most = schema.get("maxLength") if kind == "text" else None
        return f"{kind} of at most {most} characters" if most else kind
    signs = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
    limits = ", ".join(f"{sign} {schema[key]}" for key, sign in signs.items() if key in schema)
    return f"{'true, false' if schema['type'] == 'boolean' else schema['type']} {limits}".strip()


def search_document_page() -> str:
    """The fields of search documents as Markdown."""
    schema = document_schema()
    plain = {name: value for name, value in schema["properties"].items() if value["type"] != "object"}
    lines = [_SEARCH_DOCUMENT, "## Fields", "", *_field_table(plain), ""]
    for name, block in schema["properties"].items():
        if name in plain:
            continue
        lines += [f"### {name}", "", block["description"], ""]
        if name in ("metrics", "quality"):
            lines += [f"{len(block['properties'])} numbers; [metrics](metrics.md) defines them.", ""]
        elif name == "intervals":
            lines += ["`<metric>_low` and `<metric>_high` of the first metrics.", ""]
        else:
            lines += [*_field_table(_without_stages(block["properties"])), ""]
    return "\n".join(lines)


def _without_stages(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields, those that there are for every stage shown once."""
    shown: dict[str, Any] = {}
    for name, value in fields.items():
        stage = next((stage for stage in TIMED_STAGES if name.endswith(f"_{stage}")), None)
        if stage is None:
            shown[name] = value
        else:
            general = {**value, "description": value["description"].replace(f" {stage}", " the stage")}
            shown.setdefault(f"{name.removesuffix(stage)}<stage>", general)
    return shown


def _field_table(fields: dict[str, Any]) -> list[str]:
    rows = ["| field | type | |", "|---|---|---|"]
    for name, value in fields.items():
        inner = value.get("items", value)
        said = value.get("description") or inner.get("description") or ""
        if "const" in value or "enum" in value:
            said = " or ".join(f"`{choice}`" for choice in value.get("enum", [value.get("const")]))
        listed = "list of " if "items" in value else ""
        rows.append(f"| `{name}` | {listed}{_json_type(inner)} | {said} |")
    return rows


def _json_type(schema: dict[str, Any]) -> str:
    if schema["type"] == "object":
        return ", ".join(f"`{name}`" for name in schema["properties"])
    if schema["type"] == "number":
        return "number"
    return "date" if "format" in schema else "text"


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
