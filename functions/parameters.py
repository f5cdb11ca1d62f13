"""What a user may choose: one pydantic model a stage, YAML in, JSON on disk.

The one place where a default stands. Resolving `auto` values is left to `inspection`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import pywt
import yaml
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator, model_validator

from .errors import ParameterError

Stage = Literal["preprocess", "reconstruct", "denoise", "segment", "separate_objects", "quantify"]
STAGES: tuple[Stage, ...] = get_args(Stage)
SkippableStage = Literal["denoise", "segment", "separate_objects"]
SKIPPABLE_STAGES: tuple[SkippableStage, ...] = get_args(SkippableStage)

Model = TypeVar("Model", bound=BaseModel)

# Marks a field that says how the work is done and never changes a number: it takes no part in digests.
_EXECUTION: dict[str, JsonValue] = {"execution": True}


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class ScanParameters(_Section):
    """What is known of the scan better than its file says."""

    pixel_size_um: Annotated[float, Field(gt=0, le=1000)] | None = Field(
        None, description="Pixel size at the sample in um; by default what the file says."
    )
    row_spacing_um: Annotated[float, Field(gt=0, le=1000)] | None = Field(
        None,
        description="Distance of two detector rows in um where pixels are not square; by default what the file says.",
    )


class PreprocessingParameters(_Section):
    """From raw counts to line integrals."""

    minimum_transmission: float = Field(
        1e-3, gt=0, lt=1, description="Transmission below this counts as this, so that the logarithm stays finite."
    )
    zinger_threshold: float = Field(
        0.3,
        ge=0,
        le=100,
        description="A pixel brighter than its 3 x 3 median by more than this fraction is a zinger; 0 leaves all.",
    )
    stripe_removal: Literal["fourier_wavelet", "none"] = Field(
        "fourier_wavelet", description="Method against ring artefacts."
    )
    stripe_level: Annotated[int, Field(ge=1, le=12)] | None = Field(
        None, description="Wavelet levels that are cleaned; by default as many as leave the shading alone."
    )
    stripe_limit: Annotated[float, Field(gt=0, le=1000)] | None = Field(
        10.0,
        description="What the stripe filter takes away is clipped at this many of its robust standard deviations, "
        "which keeps the edges of samples concentric with the axis; null clips nothing.",
    )
    stripe_wavelet: str = Field("sym16", description="Wavelet of the stripe filter, a name of PyWavelets.")
    stripe_sigma: float = Field(1.0, gt=0, le=100, description="Width of the stripe filter in Fourier samples.")

    @field_validator("stripe_wavelet")
    @classmethod
    def _known_wavelet(cls, name: str) -> str:
        if name not in pywt.wavelist(kind="discrete"):
            raise ValueError("is not a discrete wavelet of PyWavelets; take for example db5 or sym16")
        return name


class ReconstructionParameters(_Section):
    """From line integrals to slices."""

    algorithm: Literal["fbp", "gridrec", "fourierrec"] = Field(
        "fourierrec",
        description="fbp: filtered backprojection along lines; gridrec, fourierrec: Fourier gridding "
        "(one implementation in the native engine).",
    )
    filter: Literal["none", "ramp", "shepp", "cosine", "hann", "hamming", "parzen"] = Field(
        "shepp", description="Window on the ramp filter; none leaves the projections unfiltered."
    )
    center: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        "auto", description="Rotation centre in pixels (pixel centres at integers), or auto to find it."
    )
    padding: Literal["edge", "zero"] = Field(
        "edge", description="What lies beside the field of view: its edge value, or nothing."
    )
    engine: Literal["auto", "native"] = Field("auto", description="Which implementation reconstructs.")
    dtype: Literal["float32"] = Field("float32", description="Type of the stored volume.")
    output_format: Literal["zarr"] = Field("zarr", description="Format of the stored volume: OME-Zarr 0.5.")
    gpu_devices: list[Annotated[int, Field(ge=0, le=63)]] | None = Field(
        None,
        description="GPUs of the node that may be used; a machine without them reconstructs on its CPU.",
        json_schema_extra=_EXECUTION,
    )
    chunk_size: int = Field(
        64, ge=1, le=4096, description="Most slices in work at once; fewer where memory is short.",
        json_schema_extra=_EXECUTION,
    )  # fmt: skip

    @field_validator("gpu_devices")
    @classmethod
    def _distinct_devices(cls, devices: list[int] | None) -> list[int] | None:
        if devices is not None and (not devices or len(set(devices)) != len(devices)):
            raise ValueError("names no device, or one twice; give each device once, or leave the field out")
        return devices


class DenoisingParameters(_Section):
    """Noise removal, slice by slice."""

    method: Literal["non_local_means", "total_variation"] = Field(
        "non_local_means", description="Classical method that needs no training."
    )
    strength: float = Field(
        1.0, gt=0, le=10, description="How strongly, in units of the noise level measured in the scan."
    )


class SegmentationParameters(_Section):
    """From grey values to phases."""

    method: Literal["multi_otsu", "fixed"] = Field(
        "multi_otsu", description="Where the thresholds come from: Otsu's criterion on a sample, or the list given."
    )
    phases: int = Field(2, ge=2, le=5, description="Number of phases that multi_otsu tells apart, pores included.")
    thresholds: list[float] | None = Field(
        None, description="For fixed: ascending thresholds in the volume's unit (1/cm, or 1/pixel)."
    )
    region: Literal["sample", "disc", "all"] = Field(
        "sample", description="Where phases are told apart: the filled outline of the sample, the disc, or everywhere."
    )
    region_closing_px: int = Field(
        3, ge=0, le=200, description="Gaps in the sample's outline up to twice this many pixels are closed."
    )

    @model_validator(mode="after")
    def _thresholds_fit_method(self) -> SegmentationParameters:
        if self.method == "fixed":
            if not self.thresholds:
                raise ValueError("method fixed needs segmentation.thresholds, a list of ascending numbers")
            if any(b <= a for a, b in zip(self.thresholds, self.thresholds[1:], strict=False)):
                raise ValueError("segmentation.thresholds must ascend")
            if len(self.thresholds) > 4:
                raise ValueError("segmentation.thresholds takes at most 4 numbers (5 phases)")
        elif self.thresholds is not None:
            raise ValueError("segmentation.thresholds is for method fixed; set segmentation.method=fixed or leave it")
        return self

    @property
    def phase_count(self) -> int:
        """Number of phases, pores included."""
        return len(self.thresholds) + 1 if self.thresholds else self.phases


class ObjectParameters(_Section):
    """From a phase to labelled objects."""

    phase: int = Field(1, ge=1, le=5, description="Phase whose objects are separated; 1 is the least dense: pores.")
    method: Literal["watershed", "components"] = Field(
        "watershed", description="Watershed of the distance transform, or connected components alone."
    )
    connectivity: Literal[6, 18, 26] = Field(6, description="Neighbours through which voxels are connected.")
    opening_radius_um: float = Field(0, ge=0, le=1e4, description="Ball that opens the phase first; 0 for none.")
    closing_radius_um: float = Field(0, ge=0, le=1e4, description="Ball that closes the phase next; 0 for none.")
    erosion_radius_um: float = Field(0, ge=0, le=1e4, description="Ball that erodes the phase next; 0 for none.")
    dilation_radius_um: float = Field(0, ge=0, le=1e4, description="Ball that dilates the phase next; 0 for none.")
    fill_holes: bool = Field(
        False, description="Whether parts of other phases that the phase encloses become part of it."
    )
    minimum_voxels: int = Field(8, ge=1, description="Smaller objects are left out.")
    markers: Literal["h_maxima", "maxima"] = Field(
        "h_maxima",
        description="What makes a distance maximum an object of its own: its rise above the saddle to the next "
        "(prominence_px), or being the highest within a cube (marker_radius_px).",
    )
    prominence_px: float = Field(
        0.4,
        ge=0,
        le=50,
        description="h_maxima: distance maxima that rise less than this above their saddle are one object.",
    )
    marker_radius_px: int = Field(
        1, ge=1, le=50, description="maxima: a maximum is the highest distance this far around it along each axis."
    )

    @property
    def radii_um(self) -> dict[str, float]:
        """Radii of the balls that are not 0, by field."""
        names = ("opening_radius_um", "closing_radius_um", "erosion_radius_um", "dilation_radius_um")
        return {name: getattr(self, name) for name in names if getattr(self, name) > 0}


class QuantificationParameters(_Section):
    """Metrics of the phases and objects."""

    tortuosity: bool = Field(True, description="Whether the geodesic tortuosity of the phase is measured.")
    tortuosity_maximum_voxels: int = Field(
        64_000_000, ge=1000, le=10**9, description="Larger volumes are binned to this size for the tortuosity."
    )
    tortuosity_factor: bool = Field(True, description="Whether the diffusive tortuosity factor is measured.")
    tortuosity_factor_maximum_voxels: int = Field(
        64_000_000, ge=1000, le=10**9, description="Larger volumes are binned to this size for the tortuosity factor."
    )
    thickness: bool = Field(True, description="Whether the local thickness of the phase is measured.")
    thickness_maximum_voxels: int = Field(
        32_000_000, ge=1000, le=10**9, description="Larger volumes are binned to this size for the local thickness."
    )
    intervals: bool = Field(
        True, description="Whether each metric gets intervals, from sub-volumes and from the uncertain voxels."
    )
    resolution: bool = Field(
        True,
        description="Whether the resolution is measured, by Fourier ring correlation of half the projections each.",
    )


class Parameters(_Section):
    """All that a user may choose about the numbers of a run."""

    scan: ScanParameters = Field(default_factory=ScanParameters)
    preprocessing: PreprocessingParameters = Field(default_factory=PreprocessingParameters)
    reconstruction: ReconstructionParameters = Field(default_factory=ReconstructionParameters)
    denoising: DenoisingParameters = Field(default_factory=DenoisingParameters)
    segmentation: SegmentationParameters = Field(default_factory=SegmentationParameters)
    objects: ObjectParameters = Field(default_factory=ObjectParameters)
    quantification: QuantificationParameters = Field(default_factory=QuantificationParameters)
    keep: list[Literal["projections", "denoised"]] = Field(
        default_factory=lambda: ["projections", "denoised"],  # type: ignore[arg-type]
        description="Intermediates that are written; the numbers are the same without them.",
        json_schema_extra=_EXECUTION,
    )

    @model_validator(mode="after")
    def _phase_exists(self) -> Parameters:
        if self.objects.phase > self.segmentation.phase_count:
            raise ValueError(
                f"objects.phase is {self.objects.phase}, but segmentation tells {self.segmentation.phase_count} phases "
                "apart; lower it or raise segmentation.phases"
            )
        return self


class Execution(_Section):
    """How the work is cut and how much of the machine it may take; never changes a number."""

    slab: Annotated[int, Field(ge=1, le=65536)] | None = Field(
        None, description="Rows a slab; rounded up to a multiple of 8. By default 64, or fewer where memory is short."
    )
    memory_bytes: Annotated[int, Field(ge=64 * 2**20)] | None = Field(
        None, description="Memory that all workers on a machine may take; by default half of what is free."
    )
    workers: int = Field(1, ge=1, le=1024, description="Workers that share the machine's memory and cores.")


def parse_parameters(values: Mapping[str, Any] | None, source: str = "parameters") -> Parameters:
    """Parameters from plain values.

    Parameters
    ----------
    values : mapping or None
        Sections and fields as in the YAML file; None gives the defaults.
    source : str
        What the values came from (a file's name), for messages.

    Raises
    ------
    ParameterError
        Unknown field or impossible value: names the field, the value and the remedy.
    """
    if values is not None and not isinstance(values, Mapping):
        raise ParameterError(f"{source}: expected sections such as 'reconstruction:', found {type(values).__name__}")
    return validate_model(Parameters, values or {}, source)


def load_parameters(path: Path, overrides: list[str] | None = None) -> Parameters:
    """Parameters from a YAML file and `section.field=value` overrides.

    Raises
    ------
    ParameterError
        The file cannot be read, is not YAML, or holds an unknown field or impossible value.
    """
    return parse_parameters(apply_overrides(read_yaml(path), overrides or []), str(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """Mapping that a YAML file holds; raises ParameterError where it holds none."""
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ParameterError(f"{path}: cannot be read: {error.strerror}; check --parameters") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        detail = " ".join(str(error).split())
        raise ParameterError(f"{path}: is not YAML: {detail}") from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ParameterError(f"{path}: expected sections such as 'reconstruction:', found {type(loaded).__name__}")
    return loaded


def apply_overrides(values: Mapping[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Copy of `values` with `section.field=value` texts applied; values are read as YAML scalars or lists.

    Raises
    ------
    ParameterError
        A text that is not of this form.
    """
    merged: dict[str, Any] = {
        key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()
    }
    for text in overrides:
        name, separator, raw = text.partition("=")
        path = name.strip().split(".")
        if not separator or not all(path) or len(path) > 2:
            raise ParameterError(
                f"--set {text}: expected SECTION.FIELD=VALUE, for example reconstruction.algorithm=fbp"
            )
        try:
            value = yaml.safe_load(raw)
        except yaml.YAMLError as error:
            raise ParameterError(f"--set {text}: the value is not YAML") from error
        if len(path) == 1:
            merged[path[0]] = value
        else:
            section = merged.setdefault(path[0], {})
            if not isinstance(section, dict):
                raise ParameterError(f"--set {text}: {path[0]} has no fields")
            section[path[1]] = value
    return merged


def recipe_values(section: BaseModel) -> dict[str, Any]:
    """Fields of a section that determine numbers: all but those that say how the work is done."""
    return {
        name: value
        for name, value in section.model_dump(mode="json").items()
        if not _is_execution(type(section).model_fields[name].json_schema_extra)
    }


def _is_execution(extra: object) -> bool:
    return isinstance(extra, Mapping) and bool(extra.get("execution"))


def validate_model(model: type[Model], values: Mapping[str, Any], source: str) -> Model:
    """Instance of a model; its first validation error as one ParameterError with field, value and remedy."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise ParameterError(_first_message(error, model, source)) from None


def _first_message(error: ValidationError, model: type[BaseModel], source: str) -> str:
    # Of a union's errors (one a member) all lie at one field; the first is the one to show.
    first = error.errors(include_url=False)[0]
    location = _field_location(model, first)
    field = ".".join(location)
    if first["type"] == "extra_forbidden":
        parent = _model_at(model, location[:-1])
        known = sorted(parent.model_fields) if parent else []
        near = difflib.get_close_matches(location[-1], known, 1)
        hint = f"did you mean {'.'.join([*location[:-1], near[0]])}?" if near else f"known are {', '.join(known)}"
        return f"{source}: unknown parameter {field}; {hint}"
    message = first["msg"].removeprefix("Value error, ")
    if not field:
        return f"{source}: {message}"
    value = first["input"]
    alternatives = [e["msg"] for e in error.errors(include_url=False)[1:] if _field_location(model, e) == location]
    message = " or ".join(dict.fromkeys([message, *alternatives]))
    return f"{source}: {field}={value!r}: {message[0].lower()}{message[1:]}"


def _field_location(model: type[BaseModel], error: Mapping[str, Any]) -> list[str]:
    """Names of sections and field where an error lies, without the names that pydantic gives to union members."""
    location: list[str] = []
    current: type[BaseModel] | None = model
    for part in error["loc"]:
        if current is None or not isinstance(part, str):
            break
        location.append(part)
        current = _model_at(current, [part])
    return location


def _model_at(model: type[BaseModel], location: list[str]) -> type[BaseModel] | None:
    current: type[BaseModel] | None = model
    for name in location:
        field = current.model_fields.get(name) if current else None
        annotation = field.annotation if field else None
        candidates = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
        current = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
    return current
