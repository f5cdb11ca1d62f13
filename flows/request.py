"""What a user asks for: the model of the flow's input, its JSON Schema, and the exact document that starts a run.

The stages' parameters are left to `functions.parameters`; which collections and endpoints there are, to deployments.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import re
import uuid
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, WithJsonSchema, model_validator

from tomopipe.functions import stages
from tomopipe.functions.errors import ParameterError
from tomopipe.functions.parameters import Execution, Parameters, SkippableStage, Stage, validate_model

# Functions that the flow calls: `inspect`, and one a stage or step of a stage.
FUNCTIONS = (
    "inspect",
    "preprocess",
    "reconstruct",
    "denoise",
    "segment",
    "prepare_objects",
    "find_objects",
    "join_objects",
    "label_objects",
    "separate_objects",
    "quantify",
)

_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_PRINCIPAL = re.compile(rf"public|all_authenticated_users|urn:globus:(auth:identity|groups:id):{_UUID}")
_SCAN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_PATH = re.compile(r"/[^\x00-\x1f\x7f]*[^\x00-\x1f\x7f/]")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_WEB_ADDRESS = re.compile(r"(https://[^\s\"'<>?#]+[^\s\"'<>?#/])?")
_PATH_LENGTH_MAX = 1024
# Of a folder and the scan id together. A search subject takes 500 bytes and has a UUID and a recipe id besides; and the
# path of the run directory stands in every task of the run's state, which takes 200 KB.
_SUBJECT_BYTES_MAX = 430
_RUN_BYTES_MAX = 230


def _check_uuid(text: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise ValueError("is not a UUID; copy it from its page in the Globus web app") from None


def _check_scan_id(text: str) -> str:
    if not _SCAN_ID.fullmatch(text):
        raise ValueError(
            "has a character or a length that a folder of that name must not have; take up to 100 letters, digits, "
            "'.', '_' and '-', a letter or digit first"
        )
    return text


def _check_principal(text: str) -> str:
    if not _PRINCIPAL.fullmatch(text):
        raise ValueError(
            "names nobody that Globus Search knows; take 'public', 'all_authenticated_users', "
            "'urn:globus:auth:identity:UUID' or 'urn:globus:groups:id:UUID'"
        )
    return text


def _check_path(text: str) -> str:
    if not _PATH.fullmatch(text) or "//" in text or {".", ".."} & set(text.split("/")):
        raise ValueError("is not a plain absolute path; start with '/', end without one, and use neither '..' nor '//'")
    if len(text) > _PATH_LENGTH_MAX:
        raise ValueError(f"has {len(text)} characters; choose a path of at most {_PATH_LENGTH_MAX}")
    return text


def _check_digest(text: str) -> str:
    if not _DIGEST.fullmatch(text):
        raise ValueError("is not 'sha256:' and 64 hexadecimal digits; `tomopipe deploy` fills it in")
    return text


def _check_web_address(text: str) -> str:
    if not _WEB_ADDRESS.fullmatch(text):
        raise ValueError("is no address such as 'https://g-12345.data.globus.org/results', without a '/' at its end")
    return text


def _text_schema(pattern: re.Pattern[str], **keywords: Any) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": f"^(?:{pattern.pattern})$", **keywords})


Uuid = Annotated[str, AfterValidator(_check_uuid), WithJsonSchema({"type": "string", "format": "uuid"})]
ScanId = Annotated[str, AfterValidator(_check_scan_id), _text_schema(_SCAN_ID)]
Principal = Annotated[str, AfterValidator(_check_principal), _text_schema(_PRINCIPAL)]
Digest = Annotated[str, AfterValidator(_check_digest), _text_schema(_DIGEST)]
WebAddress = Annotated[str, AfterValidator(_check_web_address), _text_schema(_WEB_ADDRESS, maxLength=_PATH_LENGTH_MAX)]
AbsolutePath = Annotated[str, AfterValidator(_check_path), _text_schema(_PATH, maxLength=_PATH_LENGTH_MAX)]


class CollectionPath(BaseModel):
    """A file or folder on a Globus collection; the web app shows a picker for it."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"format": "globus-collection"})

    id: Uuid = Field(title="Collection", description="UUID of the collection.")
    path: AbsolutePath = Field(title="Path", description="Absolute path on the collection, without a '/' at its end.")


class FlowInput(BaseModel):
    """The input of one run, fields in the order of the form in the web app.

    A path of the definition that leads nowhere fails the run, so only that may be absent which the definition asks for
    before it uses it: the destination.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    scan: CollectionPath = Field(title="Raw scan", description="The scan's HDF5 file, where the beamline wrote it.")
    scan_id: ScanId = Field(
        title="Scan id", description="Name of the scan; its results lie in a folder of this name and are found by it."
    )
    processing: CollectionPath = Field(
        title="Results folder", description="Folder for results on the collection of the machine that computes."
    )
    processing_root: AbsolutePath = Field(
        title="Results folder on the machine", description="The same folder as the machine that computes sees it."
    )
    # Absent or a folder, never null: the flow asks whether the field is present.
    destination: CollectionPath = Field(
        default=None,  # type: ignore[assignment]
        title="Copy of the results",
        description="Folder to which the results are copied; leave it out for none.",
    )
    parameters: Parameters = Field(
        title="Parameters",
        description="Parameters of the stages; what is left out has its default.",
    )
    skip: list[SkippableStage] = Field(
        title="Stages to leave out",
        description="Stages that are not run.",
        json_schema_extra={"uniqueItems": True},
    )
    start_from: Stage | None = Field(
        title="Start from",
        description="First stage to run, on what an earlier run of the scan has left; null runs whatever is not done.",
    )
    execution: Execution = Field(
        title="Execution",
        description="How the work is cut and how much of a machine it may take; never changes a number.",
    )
    compute_endpoint: Uuid = Field(title="Compute endpoint", description="UUID of the Globus Compute endpoint.")
    user_endpoint_config: dict[str, JsonValue] = Field(
        title="Endpoint configuration",
        description="What the endpoint's template takes, for example queue and account; one for all stages, which thus "
        "share their nodes.",
    )
    search_index: Uuid = Field(title="Search index", description="UUID of the Globus Search index for the metrics.")
    visible_to: list[Principal] = Field(
        min_length=1,
        max_length=100,
        title="Visible to",
        description="Who may find the run's record: public, all_authenticated_users, or URNs of people and groups.",
    )
    results_url: WebAddress = Field(
        title="Web address of the results folder",
        description="Address under which the results folder is served over HTTPS, for links in the record; empty for none.",
    )
    version: str = Field(
        min_length=1,
        max_length=50,
        title="tomopipe version",
        description="Version of the registered functions; a worker of another version refuses the run.",
    )
    functions_digest: Digest = Field(
        title="Digest of the functions", description="Of version and source text of all registered functions."
    )
    inspect_function_id: Uuid = Field(title="Function: inspect")
    preprocess_function_id: Uuid = Field(title="Function: preprocess")
    reconstruct_function_id: Uuid = Field(title="Function: reconstruct")
    denoise_function_id: Uuid = Field(title="Function: denoise")
    segment_function_id: Uuid = Field(title="Function: segment")
    prepare_objects_function_id: Uuid = Field(title="Function: prepare objects")
    find_objects_function_id: Uuid = Field(title="Function: find objects")
    join_objects_function_id: Uuid = Field(title="Function: join objects")
    label_objects_function_id: Uuid = Field(title="Function: label objects")
    separate_objects_function_id: Uuid = Field(title="Function: separate objects")
    quantify_function_id: Uuid = Field(title="Function: quantify")

    @model_validator(mode="after")
    def _names_are_short(self) -> FlowInput:
        folders = {
            "processing.path": (self.processing.path, _SUBJECT_BYTES_MAX),
            "processing_root": (self.processing_root, _RUN_BYTES_MAX),
        }
        for name, (folder, bytes_max) in folders.items():
            length = len(folder.encode()) + len(self.scan_id)
            if length > bytes_max:
                raise ValueError(
                    f"{name}={folder!r} and scan_id have {length} bytes together; shorten them to at most {bytes_max}"
                )
        return self

    @model_validator(mode="after")
    def _stages_agree(self) -> FlowInput:
        if self.start_from in self.skip:
            raise ValueError(f"start_from is {self.start_from}, but skip leaves that stage out; drop one of the two")
        if len(set(self.skip)) != len(self.skip):
            raise ValueError(f"skip names a stage twice: {', '.join(self.skip)}; name each once")
        return self

    def document(self) -> dict[str, Any]:
        """The document that starts a run: what was set, and no defaults; `Inspect` fills those in and records them."""
        return {"input": self.model_dump(mode="json", exclude_unset=True)}


def build_flow_input(
    *,
    scan: Mapping[str, str],
    scan_id: str,
    processing: Mapping[str, str],
    processing_root: str,
    compute_endpoint: str,
    search_index: str,
    visible_to: Iterable[str],
    function_ids: Mapping[str, str],
    version: str | None = None,
    functions_digest: str | None = None,
    results_url: str = "",
    destination: Mapping[str, str] | None = None,
    parameters: Parameters | Mapping[str, Any] | None = None,
    skip: Iterable[str] = (),
    start_from: str | None = None,
    execution: Execution | Mapping[str, Any] | None = None,
    user_endpoint_config: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The exact document that starts a run, `{"input": {...}}`.

    Parameters
    ----------
    scan, processing, destination : mapping
        `id` of a collection and `path` on it: the raw file, the results folder, the folder for a copy of the results.
    scan_id : str
        Name of the scan.
    processing_root : str
        The results folder as the machine that computes sees it.
    compute_endpoint, search_index : str
        UUIDs.
    visible_to : iterable of str
        Who may find the run's record in the index.
    function_ids : mapping
        Id of each registered function, by the names of `FUNCTIONS`.
    version, functions_digest : str, optional
        Version and digest of the registered functions; by default those of this installation.
    results_url : str
        HTTPS address of the results folder; empty for none.
    parameters, execution : model or mapping, optional
        As in `functions.parameters`.
    skip : iterable of str
        Stages that are left out.
    start_from : str, optional
        First stage to run.
    user_endpoint_config : mapping, optional
        What the endpoint's template takes.

    Raises
    ------
    ParameterError
        A field is missing, unknown or impossible: names the field, its value and the remedy.
    """
    _check_function_ids(function_ids)
    values = {
        "scan": scan,
        "scan_id": scan_id,
        "processing": processing,
        "processing_root": processing_root,
        "parameters": {} if parameters is None else parameters,
        "skip": list(skip),
        "start_from": start_from,
        "execution": {} if execution is None else execution,
        "compute_endpoint": compute_endpoint,
        "user_endpoint_config": dict(user_endpoint_config or {}),
        "search_index": search_index,
        "visible_to": list(visible_to),
        "results_url": results_url,
        "version": importlib.metadata.version("tomopipe") if version is None else version,
        "functions_digest": all_functions_digest() if functions_digest is None else functions_digest,
        **{f"{name}_function_id": function_ids[name] for name in FUNCTIONS},
        **({} if destination is None else {"destination": destination}),
    }
    return validate_model(FlowInput, values, "request").document()


def function_digests() -> dict[str, str]:
    """Digest of each registered function by the names of `FUNCTIONS`: of the package's version and the source text.

    The text is thin and the package does the work: the same text of another version is another function.
    """
    version = importlib.metadata.version("tomopipe")
    texts = {name: f"tomopipe {version}\n{inspect.getsource(getattr(stages, name))}" for name in FUNCTIONS}
    return {name: f"sha256:{hashlib.sha256(text.encode()).hexdigest()}" for name, text in texts.items()}


def all_functions_digest() -> str:
    """One digest over those of all registered functions."""
    text = "\n".join(f"{name} {digest}" for name, digest in function_digests().items())
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def input_schema(defaults: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """JSON Schema of the flow's input; the Globus web app makes its form from it.

    Parameters
    ----------
    defaults : mapping, optional
        What the form starts with, by field; of a folder or file as much as is known (`{"id": ...}`). The service fills
        in nothing by itself: a client that starts a run sends every required field.

    Raises
    ------
    ParameterError
        If `defaults` names no field.
    """
    schema = FlowInput.model_json_schema()
    fields = _plain_schema(schema, schema.pop("$defs"))
    properties = fields["properties"]
    del properties["destination"]["default"]
    known: dict[str, Any] = {
        "start_from": None,
        "skip": [],
        "parameters": {},
        "execution": {},
        "user_endpoint_config": {},
        "results_url": "",
    }
    for name, value in {**known, **(defaults or {})}.items():
        if name not in properties:
            raise ParameterError(f"input schema: {name!r} is no field of the input; known: {', '.join(properties)}")
        properties[name]["default"] = value
    fields["propertyOrder"] = list(properties)
    return {
        "type": "object",
        "title": "Tomography run",
        "required": ["input"],
        "properties": {"input": {**fields, "title": "Input"}},
        "additionalProperties": False,
    }


def _check_function_ids(function_ids: Mapping[str, str]) -> None:
    missing = [name for name in FUNCTIONS if name not in function_ids]
    unknown = sorted(set(function_ids) - set(FUNCTIONS))
    if missing or unknown:
        found = f"without {', '.join(missing)}" if missing else f"with unknown {', '.join(unknown)}"
        raise ParameterError(f"request: function_ids {found}; give one id each for {', '.join(FUNCTIONS)}")


def _plain_schema(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """The schema with every `$ref` replaced by what it refers to, and with the keywords of JSON Schema alone.

    The service refuses keywords of our own, and forms read a schema without references more readily.
    """
    if isinstance(schema, list):
        return [_plain_schema(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        schema = {**definitions[schema["$ref"].removeprefix("#/$defs/")], **schema}
    plain = {key: value for key, value in schema.items() if key not in ("$ref", "execution", "properties")}
    plain = {key: _plain_schema(value, definitions) for key, value in plain.items()}
    if "properties" in schema:
        plain["properties"] = {name: _plain_schema(value, definitions) for name, value in schema["properties"].items()}
    return plain
