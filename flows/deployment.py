"""A deployment: one YAML file that says on which collections, endpoint and index the flow works, and for whom.

Knows files and models alone, no service: logging in is left to `login`, making the flow to `deploy`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, NoReturn
from urllib.parse import quote, urlsplit

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    field_validator,
)

from tomopipe.functions.errors import ParameterError
from tomopipe.functions.parameters import Execution, Parameters

from .local.home import home
from .request import Principal, Uuid
from .strict_yaml import StrictLoader

FORMAT = "tomopipe-deployment/1"

_SHIPPED = Path(__file__).parent / "deployments"
_SUFFIXES = (".yaml", ".yml")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# Globus reads a path that starts so as one in the home folder of whoever asks, never as a folder of that name.
_HOME_SIGN = re.compile(r"/~[^/]*(/|$)")
_YEAR_H = 365 * 24
_PATH_LENGTH_MAX = 1024
_EXTENDS = "extends"
# People and groups that the Flows service takes in one list.
_PEOPLE_MAX = 16
# Characters of a flow's keywords, counted with one more for each. The Flows service takes 1024; the rest is for those
# by which a deployment's flow is found again.
_KEYWORDS_LENGTH_MAX = 1024 - len("tomopipe ") - len("tomopipe-deployment- ") - 100
_COLLECTION_WHERE = "in the Globus web app under 'Collections', on the collection's page"
# What to write for a key of an endpoint's configuration that a shipped file leaves open.
_CONFIG_HINTS = {
    "account": "the project whose allocation pays for the node hours",
    "queue": "the batch queue that jobs go to",
    "worker_init": "shell commands that make Python with tomopipe available on a node, for example "
    "'export TMPDIR=/tmp; source /path/to/venv/bin/activate'",
}


def _check_folder(text: str) -> str:
    problem = _path_problem(text)
    if problem:
        raise ValueError(f"{problem}; give an absolute path such as /projects/tomography, or '/'")
    if text != str(PurePosixPath(text)) or text.startswith("//"):
        raise ValueError("is not a plain path; leave out '//', '/.' and a '/' at the end")
    if len(text) > _PATH_LENGTH_MAX:
        raise ValueError(f"has {len(text)} characters; choose a path of at most {_PATH_LENGTH_MAX}")
    return text


def _check_results_folder(text: str) -> str:
    if text == "/":
        raise ValueError("is the root of a collection; name a folder on it for results, for example /tomography")
    return text


def _check_https(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme != "https" or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise ValueError("is not the HTTPS address of a collection; copy it from the collection's page, https://...")
    return text.rstrip("/")


FolderPath = Annotated[
    str,
    AfterValidator(_check_folder),
    WithJsonSchema({"type": "string", "pattern": "^/", "maxLength": _PATH_LENGTH_MAX}),
]
ResultsPath = Annotated[FolderPath, AfterValidator(_check_results_folder)]
HttpsUrl = Annotated[
    str, AfterValidator(_check_https), WithJsonSchema({"type": "string", "format": "uri", "pattern": "^https://"})
]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="wrap")
    @classmethod
    def _holes_stay_open(cls, value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        # A file that is only to be shown may have holes: then a field that must be filled holds None.
        holes_allowed = bool(info.context and info.context.get("allow_holes"))
        return None if value is None and holes_allowed else handler(value)


class Collection(_Section):
    """A folder on a Globus collection, and where the same folder lies on the machine that has its files."""

    collection: Uuid = Field(description=f"UUID of the collection; {_COLLECTION_WHERE}.")
    path: FolderPath = Field(description="Folder as the collection names it, from the collection's root.")
    host_path: FolderPath | None = Field(
        None,
        description="The same folder on the machine that holds the files; without it files are named by collection "
        "paths alone.",
    )
    mapped: bool = Field(
        False,
        description="Whether the collection is a mapped one, which asks each person's consent (data_access); false "
        "for guest collections.",
    )
    https_url: HttpsUrl | None = Field(
        None, description=f"HTTPS address of the collection, for links to pictures and reports; {_COLLECTION_WHERE}."
    )

    @field_validator("path")
    @classmethod
    def _no_home_sign(cls, path: str) -> str:
        if path is not None and _HOME_SIGN.match(path):
            raise ValueError("starts with '~', which Globus reads as the home folder of whoever asks; name the folder")
        return path

    def to_collection_path(self, host_path: str | PurePosixPath) -> str:
        """Path on the collection of a file or folder of the host; nothing is looked up, it need not exist.

        Parameters
        ----------
        host_path : str or PurePosixPath
            Absolute path on the machine that holds the files. Repeated and trailing slashes do not matter.

        Raises
        ------
        ParameterError
            The path lies outside the folder, is not absolute or holds '..', or the deployment names no host path.
        """
        mapped = _move(str(host_path), self._known_host_path(str(host_path)), self.path, "host_path")
        if _HOME_SIGN.match(mapped):
            raise ParameterError(
                f"{host_path}: would be {mapped} on collection {self.collection}, which Globus reads as a home folder; "
                "rename the folder"
            )
        return mapped

    def to_host_path(self, collection_path: str) -> str:
        """Path on the host of a file or folder of the collection; the reverse of `to_collection_path`.

        Raises
        ------
        ParameterError
            The path lies outside the folder, is not absolute or holds '..', or the deployment names no host path.
        """
        return _move(collection_path, self.path, self._known_host_path(collection_path), "path")

    def https_address(self, collection_path: str) -> str | None:
        """HTTPS address of a file or folder of the collection; None where the deployment names none."""
        return None if self.https_url is None else self.https_url + quote(collection_path)

    def _known_host_path(self, asked: str) -> str:
        if self.host_path is None:
            raise ParameterError(
                f"{asked}: the deployment does not say where collection {self.collection} lies on its host; "
                "set host_path beside path in the deployment's file, or give the collection's path instead"
            )
        return self.host_path


class ResultsCollection(Collection):
    """A folder for results on a Globus collection."""

    path: ResultsPath = Field(description="Folder for results as the collection names it; not its root.")


class ProcessingCollection(ResultsCollection):
    """The folder for results that the machine that computes sees, too."""

    host_path: ResultsPath = Field(description="The same folder as the nodes that compute see it.")


class Compute(_Section):
    """Where the stages run."""

    endpoint: Uuid = Field(
        description="UUID of the Globus Compute endpoint; 'globus-compute-endpoint list' shows one's own, a "
        "facility's documentation names a shared one."
    )
    user_endpoint_config: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="What the endpoint's template takes, for example queue and account; one for all stages, which thus "
        "share their nodes.",
    )
    wait_hours: float = Field(
        168,
        gt=0,
        le=_YEAR_H,
        description="Hours that a stage may take, waiting in the queue included, before the run fails.",
    )

    @field_validator("user_endpoint_config")
    @classmethod
    def _walltime_is_text(cls, values: dict[str, Any]) -> dict[str, Any]:
        # YAML reads 1:00:00 without quotes as a number in base 60.
        walltime = (values or {}).get("walltime")
        if isinstance(walltime, (int, float)):
            raise ValueError(f"walltime is the number {walltime}; write it in quotes, for example walltime: '1:00:00'")
        return values


class Search(_Section):
    """The index in which runs are found."""

    index: Uuid | None = Field(
        None, description="UUID of the Globus Search index; without one `tomopipe deploy` makes an index."
    )
    title: str = Field("Tomography", min_length=1, max_length=128, description="Name of an index that is made.")


class Flow(_Section):
    """How the flow is shown in the Globus web app."""

    id: Uuid | None = Field(None, description="UUID of a flow that was deployed before; without one it is remembered.")
    title: str = Field("Tomography", min_length=1, max_length=128, description="Title of the flow.")
    subtitle: str = Field(
        "From a finished scan to a measured volume", max_length=128, description="One line under the title."
    )
    description: str = Field(
        "Transfers, reconstructs, segments and measures an X-ray tomography scan and publishes its metrics.",
        max_length=4096,
        description="What the flow does, for people who start it from the web app.",
    )
    keywords: list[Annotated[str, Field(min_length=1, max_length=128)]] = Field(
        default_factory=lambda: ["tomography"], max_length=100, description="Words by which the flow is found."
    )
    subscription_id: Uuid | None = Field(
        None,
        description="UUID of the Globus subscription that the flow belongs to; without one the service may count it "
        "as a trial flow, of which a person has one, for 30 days.",
    )

    @field_validator("keywords")
    @classmethod
    def _as_long_as_the_service_takes(cls, keywords: list[str]) -> list[str]:
        length = sum(len(keyword) + 1 for keyword in keywords or [])
        if length > _KEYWORDS_LENGTH_MAX:
            raise ValueError(
                f"have {length} characters in all, one for each besides its own; leave some out, {_KEYWORDS_LENGTH_MAX} "
                "is the most"
            )
        return keywords


def _principals(description: str) -> Any:
    # The length is checked below, with a remedy.
    return Field(
        default_factory=list,
        json_schema_extra={"maxItems": _PEOPLE_MAX},
        description=f"{description}; at most {_PEOPLE_MAX} URNs of people and groups.",
    )


class People(_Section):
    """Who else may see, start and change things."""

    monitors: list[Principal] = _principals("Who may follow every run")
    managers: list[Principal] = _principals("Who may follow and cancel every run")
    starters: list[Principal] = _principals("Who may start runs, and see the flow; also all_authenticated_users")
    viewers: list[Principal] = _principals("Who may see the flow, too (counted with starters); also public")
    administrators: list[Principal] = _principals("Who may change the flow")

    @property
    def flow_viewers(self) -> list[str]:
        """All who may see the flow, each once: viewers, and starters with them."""
        return _viewers(self.viewers, self.starters)

    @field_validator("*")
    @classmethod
    def _groups_that_the_service_takes(cls, people: list[str], info: ValidationInfo) -> list[str]:
        allowed = {"starters": "all_authenticated_users", "viewers": "public"}.get(info.field_name or "")
        wrong = [name for name in people or [] if not name.startswith("urn:") and name != allowed]
        if wrong:
            also = f" or '{allowed}'" if allowed else ""
            raise ValueError(f"'{wrong[0]}' is not possible here; take URNs of people and groups{also}")
        if len(people or []) > _PEOPLE_MAX:
            raise ValueError(
                f"are {len(people)}, and the service takes {_PEOPLE_MAX}; put them into a group and name that"
            )
        return people

    @field_validator("viewers")
    @classmethod
    def _starters_are_viewers_too(cls, viewers: list[str], info: ValidationInfo) -> list[str]:
        number = len(_viewers(viewers or [], info.data.get("starters") or []))
        if number > _PEOPLE_MAX:
            raise ValueError(
                f"are {number} with people.starters, who see the flow too, and the service takes {_PEOPLE_MAX}; put them "
                "into a group and name that"
            )
        return viewers


def _viewers(viewers: Sequence[str], starters: Sequence[str]) -> list[str]:
    # Everybody who may start the flow must see it; all who are logged in can only be named as everybody.
    seers = ["public" if person == "all_authenticated_users" else person for person in starters]
    return list(dict.fromkeys([*viewers, *seers]))


class Login(_Section):
    """How people log in."""

    client_id: Uuid | None = Field(
        None,
        description="UUID of a native application registered at app.globus.org for personal login; by default one "
        "that is registered for Gladier.",
    )


class Deployment(_Section):
    """A facility as the flow sees it: collections, endpoint, index, people, and what runs start from."""

    name: str = Field(exclude=True, description="Name of the deployment: its file's, without the ending.")
    file: str = Field(exclude=True, description="The file that the deployment was read from.")
    format: Literal["tomopipe-deployment/1"] = Field(description="Version of the file's format.")
    title: str = Field(min_length=1, description="One line for people who choose among deployments.")
    description: str = Field("", description="What one needs to know before using it.")
    source: Collection = Field(description="Where the beamline writes raw scans.")
    processing: ProcessingCollection = Field(
        description="Where scans are worked on; the nodes that compute see it as a folder."
    )
    share: ResultsCollection | None = Field(
        None, description="Where results are copied to at the end of a run; without one they stay where they are."
    )
    compute: Compute = Field(description="Where the stages run.")
    search: Search = Field(default_factory=Search, description="The index in which runs are found.")
    flow: Flow = Field(default_factory=Flow, description="How the flow is shown in the web app.")
    visible_to: list[Principal] = Field(
        min_length=1,
        max_length=100,
        description="Who may find the records of runs: public, all_authenticated_users, or URNs of people and groups "
        "(urn:globus:groups:id:UUID; a group's UUID is on its page in the Globus web app).",
    )
    people: People = Field(default_factory=People, description="Who else may see, start and change things.")
    parameters: Parameters = Field(
        default_factory=Parameters, description="Defaults of the stages' parameters for this beamline."
    )
    execution: Execution = Field(
        default_factory=Execution, description="How the work is cut and how much of a machine it may take."
    )
    login: Login = Field(default_factory=Login, description="How people log in.")

    @property
    def called(self) -> str:
        """What a command takes for the deployment: its name where names are looked up, else its file."""
        known = deployment_names().get(self.name)
        return self.name if known is not None and str(known) == self.file else self.file

    @property
    def mapped_collections(self) -> tuple[str, ...]:
        """UUIDs of the collections that ask each person's consent, each once."""
        places = (self.source, self.processing, self.share)
        return tuple(dict.fromkeys(place.collection for place in places if place is not None and place.mapped))

    @property
    def results_url(self) -> str:
        """HTTPS address of the results folder; empty where the deployment names none."""
        return self.processing.https_address(self.processing.path) or ""


def load_deployment(name_or_path: str | Path, *, allow_holes: bool = False) -> Deployment:
    """Deployment of a name, or from a file.

    Parameters
    ----------
    name_or_path : str or Path
        A path where it has a '/' or ends with .yaml or .yml; else a name, looked for in one's own folder and then
        among the shipped ones.
    allow_holes : bool
        Whether a file that is not filled in may be read, to be shown: then what it leaves open is None.

    Raises
    ------
    ParameterError
        There is no such file, or one cannot be used: names the file, the key, what was found and the remedy.
    """
    layers = _read_layers(_find(name_or_path, None))
    file = layers[0].file
    for layer in layers:
        _check_known(Deployment, layer.values, layer.file)
    values = _merge([layer.values for layer in reversed(layers)])
    holes = _holes(Deployment, values)
    if holes and not allow_holes:
        raise ParameterError(_holes_message(file, holes))
    values = _with_nulls(values, holes)
    document = {**values, "name": _stem(file), "file": str(file)}
    try:
        return Deployment.model_validate(document, context={"allow_holes": allow_holes})
    except ValidationError as error:
        _refuse(error, document, layers)


def deployment_names() -> dict[str, Path]:
    """The files of the deployments that have a name: one's own, and the shipped ones that they do not hide."""
    names: dict[str, Path] = {}
    for folder in (_SHIPPED, _own_folder()):
        for suffix in reversed(_SUFFIXES):
            names |= {path.stem: path for path in sorted(folder.glob(f"*{suffix}"))}
    return dict(sorted(names.items()))


def deployment_schema() -> dict[str, Any]:
    """JSON Schema of a deployment's file, for the docs and for editors."""
    schema = Deployment.model_json_schema()
    for key in ("name", "file"):
        del schema["properties"][key]
        schema["required"].remove(key)
    # A file that builds upon another one holds any part of this.
    schema["properties"][_EXTENDS] = {
        "type": "string",
        "title": "Extends",
        "description": "Name or path of a deployment that this one takes over and changes.",
    }
    schema["anyOf"] = [{"required": schema.pop("required")}, {"required": [_EXTENDS]}]
    schema["title"] = "Deployment"
    return schema


class _Layer(BaseModel):
    """A file as it was read."""

    file: Path
    values: dict[str, Any]


def _own_folder() -> Path:
    return home() / "deployments"


def _stem(file: Path) -> str:
    return file.name.removesuffix(file.suffix)


def _find(name_or_path: str | Path, extending: Path | None) -> Path:
    """File of a deployment; `extending` is the file that names it, which is never found itself."""
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or "/" in text or text.endswith(_SUFFIXES):
        folder = extending.parent if extending else Path()
        file = folder / Path(text).expanduser()
        if not file.is_file():
            asked = f"{extending}: {_EXTENDS}={text!r}" if extending else text
            raise ParameterError(f"{asked}: there is no such file; give the path of a deployment's file, or a name")
        return file
    for folder in (_own_folder(), _SHIPPED):
        for suffix in _SUFFIXES:
            file = folder / f"{text}{suffix}"
            if file.is_file() and not (extending and file.samefile(extending)):
                return file
    known = list(deployment_names())
    near = difflib.get_close_matches(text, known, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    asked = f"{extending}: {_EXTENDS}={text!r}" if extending else f"deployment {text!r}"
    raise ParameterError(
        f"{asked}: there is no deployment of this name; {hint}known are {', '.join(known)}. "
        f"Give one of them, the path of a file, or put a file into {_own_folder()}"
    )


def _read_layers(file: Path) -> list[_Layer]:
    """The file, then the one that it extends, and so on."""
    layers: list[_Layer] = []
    while True:
        if any(file.samefile(layer.file) for layer in layers):
            chain = " -> ".join(str(path) for path in [*(layer.file for layer in layers), file])
            raise ParameterError(f"{layers[-1].file}: {_EXTENDS}: the files extend each other: {chain}; remove one")
        values = _read(file)
        base = values.pop(_EXTENDS, None)
        layers.append(_Layer(file=file, values=values))
        if base is None:
            return layers
        if not isinstance(base, str):
            raise ParameterError(f"{file}: {_EXTENDS}={base!r}: is not a name; give the name or path of one deployment")
        file = _find(base, file)


def _read(file: Path) -> dict[str, Any]:
    if not _NAME.fullmatch(_stem(file)):
        raise ParameterError(
            f"{file}: a deployment has the name of its file, and {_stem(file)!r} cannot be one; rename the file with "
            "letters, digits, '.', '_' and '-'"
        )
    try:
        values = yaml.load(file.read_text(encoding="utf-8"), Loader=StrictLoader)
    except OSError as error:
        raise ParameterError(f"{file}: cannot be read: {error.strerror}; check the path and its permissions") from error
    except UnicodeDecodeError as error:
        raise ParameterError(f"{file}: is not text in UTF-8; save it as such") from error
    except (yaml.YAMLError, TypeError, ValueError) as error:
        detail = " ".join(str(error).split())
        raise ParameterError(f"{file}: is not YAML: {detail}; correct it there") from error
    if not isinstance(values, dict):
        found = "nothing" if values is None else type(values).__name__
        raise ParameterError(f"{file}: expected keys such as 'format: {FORMAT}', found {found}; fill it in")
    _check_keys(values, file, "")
    version = values.get("format")
    if version not in (None, FORMAT):
        raise ParameterError(f"{file}: format={version!r}: is not known; write format: {FORMAT}")
    return values


def _check_keys(values: Any, file: Path, where: str) -> None:
    """Refuse keys that are no text, which JSON does not know, before anything is merged."""
    if isinstance(values, list):
        for item in values:
            _check_keys(item, file, where)
    if isinstance(values, dict):
        for key, value in values.items():
            if not isinstance(key, str):
                raise ParameterError(f"{file}: {where}{key!r}: a key must be text; write it in quotes")
            _check_keys(value, file, f"{where}{key}.")


def _merge(layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One mapping of several, each over those before it; mappings are merged, all else is replaced."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            below = merged.get(key)
            merged[key] = _merge([below, value]) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _section_of(model: type[BaseModel], key: str) -> type[BaseModel] | None:
    """Model of a field that is a section, also of one that may be left out."""
    annotation = model.model_fields[key].annotation
    choices = getattr(annotation, "__args__", (annotation,))
    return next((choice for choice in choices if isinstance(choice, type) and issubclass(choice, BaseModel)), None)


def _check_known(model: type[BaseModel], values: Mapping[str, Any], file: Path, where: str = "") -> None:
    """Refuse unknown keys in the file that holds them."""
    for key, value in values.items():
        if model is Deployment and key in ("name", "file"):
            raise ParameterError(f"{file}: unknown key {key}; a deployment has the name of its file: rename the file")
        if key not in model.model_fields:
            known = sorted({*model.model_fields} - ({"name", "file"} if model is Deployment else set()))
            near = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {where}{near[0]}?" if near else f"known are {', '.join(known)}"
            raise ParameterError(f"{file}: unknown key {where}{key}; {hint}")
        section = _section_of(model, key)
        if section and isinstance(value, Mapping):
            _check_known(section, value, file, f"{where}{key}.")


def _holes(
    model: type[BaseModel], values: Mapping[str, Any], where: tuple[str, ...] = ()
) -> dict[tuple[str, ...], str]:
    """What is left open, by key: a required field that is absent or null, and what to fill in."""
    holes: dict[tuple[str, ...], str] = {}
    for key, field in model.model_fields.items():
        if model is Deployment and key in ("name", "file"):
            continue
        value, here = values.get(key), (*where, key)
        section = _section_of(model, key)
        if section and isinstance(value, Mapping):
            holes |= _holes(section, value, here)
        elif value is None and field.is_required():
            holes |= _holes(section, {}, here) if section else {here: field.description or ""}
        elif here == ("compute", "user_endpoint_config") and isinstance(value, Mapping):
            for option in (name for name, setting in value.items() if setting is None):
                holes[(*here, option)] = _CONFIG_HINTS.get(option, "a value that the endpoint's template takes")
    return holes


def _holes_message(file: Path, holes: Mapping[tuple[str, ...], str]) -> str:
    listed = [f"{file}: {'.'.join(key)}: {hint.rstrip('.')}" for key, hint in holes.items()]
    where = (
        f"Write them into a file of your own, {_own_folder()}/NAME.yaml, that begins with 'extends: {_stem(file)}'"
        if _SHIPPED in file.parents
        else "Write them into that file"
    )
    number = "1 value is" if len(listed) == 1 else f"{len(listed)} values are"
    return f"{file}: {number} still to be filled in. {where}.\n" + "\n".join(listed)


def _with_nulls(values: Mapping[str, Any], holes: Mapping[tuple[str, ...], str]) -> dict[str, Any]:
    """The values with every hole as an explicit null."""
    filled = _merge([values])
    for key in holes:
        section = filled
        for part in key[:-1]:
            # Copies, because sections are shared with what was read.
            section[part] = dict(section.get(part) or {})
            section = section[part]
        section[key[-1]] = None
    return filled


def _refuse(error: ValidationError, document: Mapping[str, Any], layers: Sequence[_Layer]) -> NoReturn:
    """Raise the first error, with the file that its value comes from."""
    found = [(_place(document, each["loc"]), each["msg"].removeprefix("Value error, "), each["input"])
             for each in error.errors(include_url=False)]  # fmt: skip
    place, _, value = found[0]
    # Of a union's errors (one a member) all lie at one place.
    said = " or ".join(dict.fromkeys(text[0].lower() + text[1:] for where, text, _ in found if where == place))
    file = next((layer.file for layer in layers if _gives(layer.values, place)), layers[0].file)
    raise ParameterError(f"{file}: {_dotted(place)}={value!r}: {said}") from None


def _place(document: Any, location: Sequence[int | str]) -> tuple[int | str, ...]:
    """Where an error lies in the document, without the names that pydantic gives to members of a union."""
    place: list[int | str] = []
    for part in location:
        inside = part in document if isinstance(document, Mapping) else isinstance(document, list)
        if not inside or (isinstance(document, list) and not isinstance(part, int)):
            break
        place.append(part)
        document = document[part]
    return tuple(place)


def _dotted(place: Sequence[int | str]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")


def _gives(values: Any, place: Sequence[int | str]) -> bool:
    """Whether a file gives the value at a place, or the whole of what holds it."""
    for part in place:
        if not isinstance(values, Mapping):
            return True
        if part not in values:
            return False
        values = values[part]
    return True


def _path_problem(text: str) -> str | None:
    if not text.startswith("/"):
        return "is not an absolute path"
    if ".." in text.split("/"):
        return "holds '..'"
    if _CONTROL.search(text):
        return "holds a control character"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "holds bytes that are no UTF-8"
    return None


def _move(path: str, from_folder: str, to_folder: str, key: str) -> str:
    """A path below one folder, as it is below another."""
    problem = _path_problem(path)
    if problem:
        raise ParameterError(f"{path!r}: {problem}; give a plain absolute path below {from_folder}")
    # Two slashes at the start mean something of their own to POSIX, which is not what somebody means here.
    plain = PurePosixPath("/" + path.lstrip("/"))
    if not plain.is_relative_to(from_folder):
        raise ParameterError(
            f"{path}: lies outside {from_folder}, the deployment's {key}; give a path below it, or use the deployment "
            "of that folder"
        )
    return str(PurePosixPath(to_folder) / plain.relative_to(from_folder))
