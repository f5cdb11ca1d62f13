"""The trigger's configuration: what is watched, what is started with what, and whom to tell. From YAML, checked whole.

What the parts do is written in the modules that take them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tomopipe.functions.errors import ParameterError
from tomopipe.functions.parameters import Execution, SkippableStage

from ..strict_yaml import StrictLoader

FORMAT = "tomopipe-trigger/1"
LOCAL = "local"
"""The target of rules whose runs are runs of this machine."""

_SECRETS = re.compile(r"(password|secret|token)", re.IGNORECASE)

Seconds = Annotated[float, Field(gt=0, le=1e7)]
Patterns = Annotated[list[str], Field(min_length=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class FinishedConfig(_Section):
    """When a file counts as finished."""

    stable_s: Annotated[float, Field(ge=0, le=1e6)] = Field(
        10.0, description="How long size and time of the file must have stayed the same, in seconds."
    )
    patience_s: Seconds = Field(
        300.0, description="A file that has rested so long and is no complete scan is bad, in seconds."
    )
    sentinel: str | None = Field(
        None, description="Ending of the file that the beamline writes beside a finished scan, such as .done."
    )
    check_writers: bool = Field(
        True, description="Whether to look for processes here that have the file open for writing."
    )
    min_angles_fraction: float = Field(
        0.99,
        gt=0,
        le=1,
        description="Least share of the planned projections, where the file says how many were planned.",
    )
    checksum: bool = Field(
        False,
        description="Whether to read each finished file once for its SHA-256, so that a copy that only has another time is "
        "not taken for another scan.",
    )

    @field_validator("sentinel")
    @classmethod
    def _ending(cls, text: str | None) -> str | None:
        if text is not None and (not text.startswith(".") or "/" in text or len(text) < 2):
            raise ValueError("is no ending; write one with its dot, such as .done")
        return text


class FilesConfig(_Section):
    """Folders in which scans appear."""

    name: str = Field("files", min_length=1, description="Name of the source, for rules and messages.")
    folders: Annotated[list[Path], Field(min_length=1)] = Field(description="Absolute folders.")
    patterns: Patterns = Field(["*.h5", "*.hdf5", "*.hdf", "*.nxs", "*.nx"], description="File names that are scans.")
    ignore: list[str] = Field([], description="File names, or paths below the folder, that are not.")
    recursive: bool = Field(True, description="Whether folders below count too.")
    method: Literal["auto", "inotify", "polling"] = Field(
        "auto",
        description="How to notice files; auto polls where the file system tells nothing (NFS, GPFS, Lustre, FUSE).",
    )
    interval_s: Seconds = Field(10.0, description="How often folders are looked at where that is the way, in seconds.")
    not_before: datetime | date | Literal["always"] | None = Field(
        None,
        description="Files that were last written before this are left alone; by default the trigger's first start. "
        "`always` takes all that is there.",
    )
    finished: FinishedConfig | None = Field(None, description="When files of these folders count as finished.")

    @field_validator("folders")
    @classmethod
    def _absolute(cls, folders: list[Path]) -> list[Path]:
        return [_absolute(folder) for folder in folders]


class EpicsConfig(_Section):
    """A tomoScan server, through Channel Access."""

    name: str = Field("epics", min_length=1, description="Name of the source, for rules and messages.")
    prefix: str = Field(min_length=1, description="Prefix of tomoScan's PVs, such as 2bma:TomoScan:")
    file_plugin: str | None = Field(
        None, description="Prefix of the file plugin's PVs, such as 2bmSP1:HDF1:; by default what tomoScan says."
    )
    path_map: dict[str, str] = Field(
        {}, description="Folders as the detector's host names them, and as this host does."
    )
    metadata: dict[str, str] = Field(
        {}, description="Names of metadata for the rules, and the PV of each; a leading : stands for the prefix."
    )
    settle_s: Seconds = Field(1.0, description="How long after a scan's end it is judged, in seconds.")
    poll_s: Seconds = Field(10.0, description="How often all PVs are read, for messages that were lost, in seconds.")
    timeout_s: Seconds = Field(5.0, description="How long a server may take to answer, in seconds.")
    min_saved_fraction: float = Field(1.0, gt=0, le=1, description="Least share of the planned images.")


class DropFolderConfig(_Section):
    """A folder into which people, or other programs, put requests as YAML."""

    name: str = Field("drop", min_length=1, description="Name of the source, for rules and messages.")
    folder: Path = Field(description="Absolute folder.")
    interval_s: Seconds = Field(2.0, description="How often it is looked at, in seconds.")

    @field_validator("folder")
    @classmethod
    def _absolute(cls, folder: Path) -> Path:
        return _absolute(folder)


class SourcesConfig(_Section):
    """What is watched."""

    files: list[FilesConfig] = []
    epics: list[EpicsConfig] = []
    drop_folder: DropFolderConfig | None = None

    @model_validator(mode="after")
    def _distinct(self) -> SourcesConfig:
        names = [source.name for source in self.files] + [source.name for source in self.epics]
        names += [self.drop_folder.name] if self.drop_folder else []
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two sources have the name {twice}; give each one of its own with 'name:'")
        return self


class Range(_Section):
    """Bounds of a number, both included."""

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _bounds(self) -> Range:
        if self.min is None and self.max is None:
            raise ValueError("has neither min nor max; give one")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is more than max {self.max:g}; swap them")
        return self


Condition = Range | float | str | list[str]


class When(_Section):
    """What a rule is for: all that is said must hold; of a list, one."""

    path: str | Patterns | None = Field(None, description="Patterns of the absolute path; * goes over folders too.")
    source: str | Patterns | None = Field(None, description="Names of sources.")
    metadata: dict[str, Condition] = Field(
        {}, description="A name, and its text (a pattern, case does not count), texts, number, or {min, max}."
    )


class Rule(_Section):
    """What scans of one kind are started with."""

    name: str = Field(min_length=1, description="Name of the rule, for people.")
    when: When = Field(When(), description="Scans that it is for; all by default.")
    start: bool = Field(True, description="Whether they are started at all.")
    reason: str | None = Field(None, description="Why not, for people.")
    deployment: str = Field(LOCAL, description="Name or file of a deployment, or `local` for runs of this machine.")
    parameters: Path | dict[str, Any] | None = Field(
        None, description="A parameter file, or parameters, section by section."
    )
    skip: list[SkippableStage] = Field([], description="Stages that are left out.")
    visible_to: list[str] | None = Field(
        None, description="URNs of who may see the record in the index; by default as the deployment says."
    )
    share: bool | None = Field(None, description="Whether results are copied to the deployment's share collection.")
    scan_id: str | None = Field(
        None, description="Name of the scan, with {name} of its metadata and {stem} of its file; {stem} by default."
    )
    tags: list[Annotated[str, Field(min_length=1, max_length=64)]] = Field([], description="Tags of the run.")

    @field_validator("visible_to")
    @classmethod
    def _urns(cls, people: list[str] | None) -> list[str] | None:
        for name in people or ():
            if not re.fullmatch(
                r"public|all_authenticated_users|urn:globus:(auth:identity|groups:id):[0-9a-fA-F-]{36}", name
            ):
                raise ValueError(f"{name!r} names nobody; give public, all_authenticated_users, or a urn:globus:...")
        return people

    @model_validator(mode="after")
    def _whole(self) -> Rule:
        if self.visible_to is not None and self.deployment == LOCAL:
            raise ValueError("visible_to is for deployments; leave it out, or name a deployment")
        return self


class LocalConfig(_Section):
    """Runs of this machine."""

    output: Path = Field(description="Absolute folder of the results.")
    copy_to: Path | None = Field(None, description="Absolute folder to which results are copied at the end.")
    execution: Execution = Field(Execution(), description="Workers, memory and slab of each run.")

    @field_validator("output", "copy_to")
    @classmethod
    def _absolute(cls, folder: Path | None) -> Path | None:
        return None if folder is None else _absolute(folder)


class SubmitterConfig(_Section):
    """How runs are started."""

    max_active: int = Field(4, ge=1, le=10_000, description="Most runs under way.")
    poll_s: Seconds = Field(30.0, description="How often runs are asked for, in seconds.")
    retry_first_s: Seconds = Field(
        10.0, description="Pause after a first failure, in seconds; doubles with each further one."
    )
    retry_max_s: Seconds = Field(900.0, description="Longest such pause, in seconds.")
    settle_s: Seconds = Field(
        60.0, description="How long a run may take to appear in the service's list after it was started, in seconds."
    )
    tell_after: int = Field(3, ge=1, description="Failures in a row after which people are told.")
    restarts: int = Field(2, ge=0, le=100, description="How often a run that was cut off is started again by itself.")


class EmailConfig(_Section):
    """Messages by e-mail; the password is in the environment: TOMOPIPE_SMTP_PASSWORD."""

    host: str = Field(min_length=1, description="SMTP server.")
    port: int = Field(587, ge=1, le=65535)
    security: Literal["starttls", "tls", "none"] = Field(
        "starttls", description="`none` only for a server of this machine."
    )
    user: str | None = Field(None, description="Login at the server, where it wants one.")
    sender: str = Field(min_length=3, description="Address that messages come from.")
    to: Annotated[list[str], Field(min_length=1)] = Field(description="Addresses.")

    @model_validator(mode="after")
    def _safe(self) -> EmailConfig:
        if self.security == "none" and (self.user is not None or self.host not in ("localhost", "127.0.0.1", "::1")):
            raise ValueError("security none is for a server of this machine without login; use starttls or tls")
        return self

    @field_validator("sender", "to")
    @classmethod
    def _addresses(cls, value: str | list[str]) -> str | list[str]:
        for address in [value] if isinstance(value, str) else value:
            if not re.fullmatch(r"[^\s@,;<>]+@[^\s@,;<>]+", address):
                raise ValueError(f"{address!r} is no e-mail address")
        return value


class WebhookConfig(_Section):
    """Messages as JSON `{"text": ...}` by HTTPS POST, as Slack, Mattermost and Teams take them."""

    url: str = Field(description="HTTPS address; `env:NAME` takes it from the environment, because it is a secret.")

    @field_validator("url")
    @classmethod
    def _https(cls, url: str) -> str:
        if not url.startswith("env:") and (urlsplit(url).scheme != "https" or not urlsplit(url).hostname):
            raise ValueError("is no https:// address; give one, or env:NAME")
        return url


class NotifyConfig(_Section):
    """Whom to tell when a person is needed; the log has everything."""

    email: EmailConfig | None = None
    webhook: WebhookConfig | None = None
    interval_s: Seconds = Field(
        600.0, description="At most one message in this time, in seconds; it holds all of them."
    )


class MonitoringConfig(_Section):
    """What watches the trigger."""

    metrics_port: Annotated[int, Field(ge=1, le=65535)] | None = Field(
        None, description="Port of this machine (127.0.0.1) at which Prometheus may ask; none by default."
    )
    health_file: Path | None = Field(None, description="Absolute path of a JSON file that says how the trigger is.")
    interval_s: Seconds = Field(10.0, description="How often the health file is written, in seconds.")

    @field_validator("health_file")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return None if path is None else _absolute(path)


class TriggerConfig(_Section):
    """The trigger of a beamline."""

    format: Literal["tomopipe-trigger/1"]
    ledger: Path | None = Field(
        None, description="The ledger's file, on a local disk; by default in tomopipe's own folder."
    )
    sources: SourcesConfig = SourcesConfig()
    finished: FinishedConfig = FinishedConfig()
    rules: Annotated[list[Rule], Field(min_length=1)] = Field(description="The first that matches a scan is its rule.")
    local: LocalConfig | None = None
    submitter: SubmitterConfig = SubmitterConfig()
    notify: NotifyConfig = NotifyConfig()
    monitoring: MonitoringConfig = MonitoringConfig()

    @field_validator("ledger")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return None if path is None else _absolute(path)

    @model_validator(mode="after")
    def _complete(self) -> TriggerConfig:
        names = [rule.name for rule in self.rules]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two rules have the name {twice!r}; give each one of its own")
        local = next((rule.name for rule in self.rules if rule.start and rule.deployment == LOCAL), None)
        if local is not None and self.local is None:
            raise ValueError(
                f"rule {local!r} starts runs of this machine; add 'local:' with the folder 'output:' of results"
            )
        return self

    def ledger_path(self) -> Path:
        """File of the ledger."""
        from ..local.home import home

        return self.ledger or home() / "trigger" / "ledger.sqlite"


def load_config(file: Path) -> TriggerConfig:
    """The trigger's configuration from a YAML file; parameter files are relative to it.

    Raises
    ------
    ParameterError
        The file cannot be read, or a key is unknown or impossible: names the file, the key and the remedy.
    """
    values = _read(file)
    if values.get("format") != FORMAT:
        found = values.get("format")
        raise ParameterError(f"{file}: format={found!r}: is not known; write format: {FORMAT}")
    _refuse_secrets(values, file)
    try:
        config = TriggerConfig.model_validate(values)
    except ValidationError as error:
        raise ParameterError(_explain(error, file)) from None
    rules = [_with_file_beside(rule, file) for rule in config.rules]
    return config.model_copy(update={"rules": rules})


def not_before_s(value: datetime | date | str | None, first_start: float) -> float | None:
    """Seconds of the epoch before which files are left alone; a time without zone is this machine's; None is never."""
    if value is None:
        return first_start
    if isinstance(value, str):
        return None
    if not isinstance(value, datetime):
        value = datetime.combine(value, time())
    return value.timestamp()


def _read(file: Path) -> dict[str, Any]:
    try:
        values = yaml.load(file.read_text(encoding="utf-8"), Loader=StrictLoader)
    except OSError as error:
        raise ParameterError(f"{file}: cannot be read: {error.strerror}; check --config") from error
    except UnicodeDecodeError as error:
        raise ParameterError(f"{file}: is not text in UTF-8; save it as such") from error
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise ParameterError(f"{file}: is not YAML: {' '.join(str(error).split())}; correct it there") from error
    if not isinstance(values, dict):
        found = "nothing" if values is None else type(values).__name__
        raise ParameterError(f"{file}: expected keys such as 'format: {FORMAT}', found {found}; fill it in")
    return values


def _refuse_secrets(values: Mapping[Any, Any], file: Path) -> None:
    """A configuration is read by many and kept in version control: no place for a password."""
    notify = values.get("notify")
    for section, fields in notify.items() if isinstance(notify, Mapping) else ():
        for key in fields if isinstance(fields, Mapping) else ():
            if _SECRETS.search(str(key)):
                raise ParameterError(
                    f"{file}: notify.{section}.{key}: secrets do not belong here; put it into the environment of the "
                    "service (TOMOPIPE_SMTP_PASSWORD, or a variable that url: env:NAME names), and change it"
                )


def _with_file_beside(rule: Rule, file: Path) -> Rule:
    if not isinstance(rule.parameters, Path):
        return rule
    path = (file.parent / rule.parameters.expanduser()).absolute()
    if not path.is_file():
        raise ParameterError(
            f"{file}: rule {rule.name!r}: parameters: there is no file {path}; give one, or parameters here"
        )
    return rule.model_copy(update={"parameters": path})


def _explain(error: ValidationError, file: Path) -> str:
    """A first validation error: file, key, value, remedy."""
    errors = error.errors(include_url=False)
    # Of a union's errors (one a member), unknown keys of the wrong member say nothing.
    first = (
        next((one for one in errors if one["type"] != "extra_forbidden"), errors[0]) if len(errors) > 1 else errors[0]
    )
    if any(one["type"] == "extra_forbidden" and len(one["loc"]) <= len(first["loc"]) for one in errors):
        first = next(one for one in errors if one["type"] == "extra_forbidden")
    model, place = _walk(first["loc"])
    if first["type"] == "extra_forbidden":
        known = sorted(model.model_fields) if model else []
        near = difflib.get_close_matches(str(first["loc"][-1]), known, 1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
        return f"{file}: unknown key {place}; {hint}"
    if first["type"] == "missing":
        return f"{file}: {place}: is missing; add it"
    message = first["msg"].removeprefix("Value error, ")
    message = f"{message[0].lower()}{message[1:]}"
    if isinstance(first["input"], Mapping | list | BaseModel):
        return f"{file}: {place + ': ' if place else ''}{message}"
    return f"{file}: {place}={first['input']!r}: {message}"


def _walk(location: Sequence[int | str]) -> tuple[type[BaseModel] | None, str]:
    """The model that holds what a location names, and the location as one writes it: `rules[2].when.path`."""
    model: type[BaseModel] | None = TriggerConfig
    holder, place = model, ""
    for part in location:
        if isinstance(part, int):
            place += f"[{part + 1}]"
            continue
        if model is not None and part in model.model_fields:
            holder, place = model, f"{place}.{part}"
            model = _section_of(model, part)
        elif model is not None and part == location[-1]:
            holder, place = model, f"{place}.{part}"
        elif model is None and part == location[-1] and re.fullmatch(r"[a-z_]+", part) and part not in _UNION_NAMES:
            place = f"{place}.{part}"
    return holder, place.removeprefix(".")


_UNION_NAMES = frozenset({"str", "float", "bool", "path", "datetime", "date", "int"})


def _section_of(model: type[BaseModel], key: str) -> type[BaseModel] | None:
    """Model of a field that is a section, a list of them, or one that may be left out."""
    pending: list[Any] = [model.model_fields[key].annotation]
    while pending:
        found = pending.pop(0)
        if isinstance(found, type) and issubclass(found, BaseModel):
            return found
        pending += getattr(found, "__args__", ())
    return None


def _absolute(path: Path) -> Path:
    expanded = path.expanduser()
    if not expanded.is_absolute():
        raise ValueError("is not absolute; write the whole path, from /")
    return expanded


def utc_text(seconds: float | None) -> str:
    """A time as people read it: UTC, to the second."""
    return "-" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}"
