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


IndexRange = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=2)]
AngleRange = Annotated[list[float], Field(min_length=2, max_length=2)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class ScanParameters(_Section):
    """What is known of the scan better than its file says, and which part of it is used."""

    pixel_size_um: Annotated[float, Field(gt=0, le=1000)] | None = Field(
        None, description="Size of a detector pixel at the sample in um; by default what the file says."
    )
    row_spacing_um: Annotated[float, Field(gt=0, le=1000)] | None = Field(
        None,
        description="Distance of two detector rows in um where pixels are not square; by default what the file says.",
    )
    energy_kev: Annotated[float, Field(gt=0, le=1000)] | None = Field(
        None, description="Photon energy in keV, for phase retrieval; by default what the file says."
    )
    distance_mm: Annotated[float, Field(gt=0, le=1e6)] | None = Field(
        None, description="Distance from sample to detector in mm, for phase retrieval; by default what the file says."
    )
    rows: IndexRange | None = Field(
        None, description="Detector rows that are used, [first, one past the last]; by default all."
    )
    columns: IndexRange | None = Field(
        None, description="Detector columns that are used, [first, one past the last]; by default all."
    )
    projections: IndexRange | None = Field(
        None,
        description="Projections that are used by their place in the file, [first, one past the last]; by default all.",
    )
    binning: Literal[1, 2, 4, 8] = Field(
        1, description="Pixels along rows and columns that are averaged to one, after the flat-field correction."
    )
    excluded_angles_deg: list[AngleRange] = Field(
        default_factory=list,
        description="Ranges of angles [from, to] in degrees whose projections are left out: blocked views.",
    )
    angle_step: int = Field(1, ge=1, le=1000, description="Every so many projections one is used, in order of angle.")
    field_of_view: Literal["auto", "standard", "double"] = Field(
        "auto",
        description="double: a 360 degree scan with the axis near the detector's edge, whose halves are joined to a "
        "wider field of view; standard: not so; auto: double where the overlap says so.",
    )
    axis_tilt_deg: float = Field(
        0.0,
        ge=-10,
        le=10,
        description="Angle of the rotation axis against the detector's columns in degrees, counter-clockwise in the "
        "projection as displayed; it is turned back.",
    )
    distortion_center_px: Annotated[list[float], Field(min_length=2, max_length=2)] | None = Field(
        None, description="Centre [column, row] of the lens distortion in detector pixels; by default the middle."
    )
    distortion_coefficients: Annotated[list[float], Field(max_length=8)] = Field(
        default_factory=list,
        description="Backward polynomial of the radial lens distortion, from the constant term (about 1) on; none: no "
        "correction.",
    )


class PreprocessingParameters(_Section):
    """From raw counts to line integrals."""

    flat_field: Literal["median", "mean", "interpolated", "dynamic"] = Field(
        "median",
        description="How flats are combined: median or mean of all; interpolated between those before and after each "
        "projection; dynamic: with eigen-flats fitted to each projection.",
    )
    flat_components: Annotated[int, Field(ge=1, le=50)] | None = Field(
        None, description="dynamic: eigen-flats; by default as many as stand out of the noise (parallel analysis)."
    )
    bad_pixel_map: str | None = Field(
        None,
        max_length=500,
        description="File of the pixels to be replaced from their neighbours, true or nonzero where bad, of the "
        "detector's size: .npy, .tif, or .h5:/dataset.",
    )
    minimum_transmission: float = Field(
        1e-3, gt=0, lt=1, description="Transmission below this counts as this, so that the logarithm stays finite."
    )
    zinger_threshold: float = Field(
        0.3,
        ge=0,
        le=100,
        description="A pixel brighter than the median of its neighbourhood by more than this fraction is a zinger; 0 "
        "leaves all.",
    )
    zinger_size: Literal[3, 5] = Field(3, description="Edge of the zinger filter's neighbourhood in pixels.")
    zinger_neighborhood: Literal["projection", "stack"] = Field(
        "projection", description="Whether the neighbourhood lies in one projection, or in the next ones too (3D)."
    )
    phase_retrieval: Literal["none", "paganin"] = Field(
        "none", description="Single-distance phase retrieval after Paganin; needs energy, distance and pixel size."
    )
    delta_beta: Annotated[float, Field(gt=0, le=1e7)] | None = Field(
        None, description="paganin: ratio of the refractive index's decrement to its imaginary part."
    )
    paganin_alpha: Annotated[float, Field(gt=0, le=1e6)] | None = Field(
        None, description="paganin: instead of delta_beta, the regularisation as TomoPy's retrieve_phase takes it."
    )
    beam_hardening: Annotated[list[float], Field(max_length=8)] = Field(
        default_factory=list,
        description="Coefficients of the polynomial that line integrals are mapped with, from the linear term on; "
        "none: no correction.",
    )
    stripe_removal: Literal[
        "none",
        "fourier_wavelet",
        "tomopy_fw",
        "vo_all",
        "vo_sorting",
        "vo_filtering",
        "vo_large",
        "vo_dead",
        "titarenko",
        "tomopy_ti",
    ] = Field(
        "fourier_wavelet",
        description="Method against ring artefacts: fourier_wavelet (tomopy_fw: as TomoPy's remove_stripe_fw); Vo's "
        "sorting and filtering (narrow stripes), large (wide ones), dead (unresponsive and fluctuating columns), or "
        "all of them; titarenko (tomopy_ti: as TomoPy's remove_stripe_ti).",
    )
    stripe_level: Annotated[int, Field(ge=1, le=12)] | None = Field(
        None,
        description="fourier_wavelet, tomopy_fw: wavelet levels that are cleaned; by default as many as leave the shading "
        "alone (tomopy_fw: as many as there are).",
    )
    stripe_limit: Annotated[float, Field(gt=0, le=1000)] | None = Field(
        10.0,
        description="fourier_wavelet: what is taken away is clipped at this many of its robust standard deviations, "
        "which keeps the edges of samples concentric with the axis; null clips nothing.",
    )
    stripe_wavelet: str | None = Field(
        None,
        description="Wavelet, a name of PyWavelets; by default sym16 for fourier_wavelet and db5 for tomopy_fw.",
    )
    stripe_sigma: Annotated[float, Field(gt=0, le=100)] | None = Field(
        None,
        description="Width of the filter along the angles in Fourier samples; by default 1 for fourier_wavelet, 2 for "
        "tomopy_fw, 3 for vo_filtering.",
    )
    stripe_snr: float = Field(
        3.0, gt=1, le=100, description="vo_all, vo_large, vo_dead: how far a stripe stands out; larger finds fewer."
    )
    stripe_large_size: Annotated[int, Field(ge=3, le=1001)] | None = Field(
        None,
        description="vo_all, vo_large, vo_dead: width in pixels of the median against wide stripes; by default 61 (51).",
    )
    stripe_small_size: Annotated[int, Field(ge=3, le=1001)] | None = Field(
        None,
        description="vo_all, vo_sorting, vo_filtering: width in pixels of the median against narrow stripes; by default "
        "21, or a hundredth of the width.",
    )
    stripe_alpha: Annotated[float, Field(gt=0, le=100)] | None = Field(
        None,
        description="titarenko: how much the correction is held back, by default 0.002; tomopy_ti: its alpha, 1.5.",
    )

    @field_validator("stripe_wavelet")
    @classmethod
    def _known_wavelet(cls, name: str | None) -> str | None:
        if name is not None and name not in pywt.wavelist(kind="discrete"):
            raise ValueError("is not a discrete wavelet of PyWavelets; take for example db5 or sym16")
        return name

    @model_validator(mode="after")
    def _material_is_for_phase_retrieval(self) -> PreprocessingParameters:
        given = [name for name in ("delta_beta", "paganin_alpha") if getattr(self, name) is not None]
        if given and self.phase_retrieval == "none":
            raise ValueError(
                f"preprocessing.{given[0]} has no effect without phase retrieval; set preprocessing.phase_retrieval=paganin, or "
                "leave it out"
            )
        return self

    @model_validator(mode="after")
    def _stack_is_small(self) -> PreprocessingParameters:
        if self.zinger_neighborhood == "stack" and self.zinger_size != 3:
            raise ValueError(
                f"preprocessing.zinger_size={self.zinger_size}: with zinger_neighborhood=stack it must be 3; set one of them"
            )
        return self

    @model_validator(mode="after")
    def _paganin_is_told_the_material(self) -> PreprocessingParameters:
        if self.phase_retrieval == "paganin" and (self.delta_beta is None) == (self.paganin_alpha is None):
            given = "none is" if self.delta_beta is None else "both are"
            raise ValueError(
                "preprocessing.phase_retrieval=paganin needs one of preprocessing.delta_beta (1000 for example) and "
                f"preprocessing.paganin_alpha; {given} given"
            )
        return self


class ReconstructionParameters(_Section):
    """From line integrals to slices."""

    algorithm: Literal["fbp", "gridrec", "fourierrec", "lprec", "sirt", "cgls", "tv", "mlem", "osem"] = Field(
        "fourierrec",
        description="Direct: fbp (backprojection along lines), gridrec, fourierrec (Fourier gridding; one "
        "implementation in the native engine), lprec (log-polar, TomocuPy alone). Iterative: sirt, cgls, tv (least "
        "squares with total variation), mlem, osem (for low counts).",
    )
    filter: Literal["none", "ramp", "shepp", "cosine", "hann", "hamming", "parzen", "butterworth"] = Field(
        "shepp", description="Direct methods: window on the ramp filter; none leaves the projections unfiltered."
    )
    filter_cutoff: float = Field(
        1.0, gt=0, le=1, description="Direct methods: where the window ends, as a share of the Nyquist frequency."
    )
    filter_order: int = Field(2, ge=1, le=20, description="Order of the butterworth window.")
    center: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        "auto",
        description="Rotation centre in pixels (pixel centres at integers), or auto to find it; counted in the columns "
        "that are used, after binning, and before the halves of a double field of view are joined.",
    )
    center_search: float = Field(
        0.25,
        gt=0,
        lt=0.5,
        description="How far from the middle the centre is looked for, as a share of the detector's width.",
    )
    padding: Literal["auto", "edge", "zero", "cylinder"] = Field(
        "auto",
        description="What lies beside the field of view: its edge value, nothing, or (fourierrec, gridrec) what a cylinder "
        "would show there. auto: cylinder where the sample reaches beyond the field of view and the method has it; else "
        "edge, and zero for iterative methods where it does not reach beyond.",
    )
    projector: Literal["auto", "line", "fourier"] = Field(
        "auto",
        description="Iterative methods: operators along lines or in Fourier space; auto: fourier, but line for mlem and "
        "osem, which need it.",
    )
    iterations: Annotated[int, Field(ge=1, le=10_000)] | None = Field(
        None,
        description="Iterative methods: most iterations; by default 100 (sirt, tv), 20 (cgls), 50 (mlem), 10 (osem).",
    )
    stop_residual: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="Iterative methods: a slice is done when its relative residual is below this."
    )
    minimum: float | None = Field(
        None,
        description="Iterative methods except cgls: least value of the slices, in their unit; 0 for non-negativity.",
    )
    maximum: float | None = Field(
        None, description="Iterative methods except cgls: largest value of the slices, in their unit."
    )
    tv_weight: float = Field(
        0.1,
        gt=0,
        le=100,
        description="tv: weight of the total variation, relative to the scale of the data; 0.03 for little noise.",
    )
    subsets: int = Field(8, ge=1, le=1000, description="osem: subsets of the projections.")
    warm_start: bool = Field(
        False, description="Iterative methods: start from the direct Fourier reconstruction instead of nothing."
    )
    engine: Literal["auto", "native", "tomopy", "tomocupy", "astra"] = Field(
        "auto",
        description="Which implementation reconstructs; auto is TomocuPy on an NVIDIA GPU where it is installed and has "
        "the algorithm, else tomopipe's own.",
    )
    precision: Literal["single", "half"] = Field(
        "single", description="GPUs: how filtered projections are stored; half is faster and a little less exact."
    )
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

    @property
    def plain_padding(self) -> str:
        """Padding before it is known whether the sample reaches beyond the field of view."""
        return "edge" if self.padding == "auto" else self.padding

    @field_validator("gpu_devices")
    @classmethod
    def _distinct_devices(cls, devices: list[int] | None) -> list[int] | None:
        if devices is not None and (not devices or len(set(devices)) != len(devices)):
            raise ValueError("names no device, or one twice; give each device once, or leave the field out")
        return devices

    @model_validator(mode="after")
    def _cylinder_is_for_gridding(self) -> ReconstructionParameters:
        if self.padding == "cylinder" and self.algorithm not in ("gridrec", "fourierrec"):
            raise ValueError(
                f"reconstruction.padding=cylinder: {self.algorithm} has it not; take fourierrec, or leave padding at auto"
            )
        return self

    @model_validator(mode="after")
    def _bounds_are_for_iterations(self) -> ReconstructionParameters:
        for name in ("minimum", "maximum", "iterations", "stop_residual"):
            if getattr(self, name) is not None and self.algorithm in ("fbp", "gridrec", "fourierrec", "lprec"):
                raise ValueError(
                    f"reconstruction.{name} has no effect with algorithm {self.algorithm}; leave it out, or take an iterative "
                    "one, such as sirt"
                )
        return self

    @model_validator(mode="after")
    def _bounds_are_in_order(self) -> ReconstructionParameters:
        if self.minimum is not None and self.maximum is not None and not self.minimum < self.maximum:
            raise ValueError("reconstruction.minimum must be below reconstruction.maximum")
        return self


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
    if isinstance(value, Mapping | BaseModel) and message.startswith(field.split(".")[0]):
        return f"{source}: {message}"
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
