"""What `labels.json` may hold: the names of metrics and quality numbers, and the JSON schema of the file.

What the names say is left to `glossary`; the schema is published in `docs/reference/`.
"""

from __future__ import annotations

from typing import Any

from .glossary import describe

METRICS_FORMAT = "tomopipe-metrics/2"
SCHEMA_ID = "https://tomopipe.readthedocs.io/reference/tomopipe-metrics-2.schema.json"

# A name's pattern: <U> is um or pixel, <G> the unit of grey values, <A> an axis, <K> a phase.
METRICS = (
    "porosity_percent",
    "porosity_open_percent",
    "porosity_closed_percent",
    "porosity_percolating_percent_<A>",
    "phase_fraction_percent_<K>",
    "region_volume_<U>3",
    "surface_area_<U>2",
    "surface_area_crofton_<U>2",
    "surface_area_grey_<U>2",
    "specific_surface_per_<U>",
    "euler_number",
    "betti_number_0",
    "betti_number_1",
    "betti_number_2",
    "coordination_number_mean",
    "object_count",
    "border_object_count",
    "object_density_per_<U>3",
    "equivalent_diameter_mean_<U>",
    "equivalent_diameter_median_<U>",
    "equivalent_diameter_std_<U>",
    "equivalent_diameter_volume_weighted_mean_<U>",
    "equivalent_diameter_volume_weighted_median_<U>",
    "equivalent_diameter_border_corrected_mean_<U>",
    "sphericity_mean",
    "throat_count",
    "throat_diameter_mean_<U>",
    "throat_diameter_median_<U>",
    "thickness_mean_<U>",
    "thickness_median_<U>",
    "thickness_std_<U>",
    "thickness_binning_factor",
    "percolates_<A>",
    "tortuosity_geodesic_mean_<A>",
    "tortuosity_geodesic_minimum_<A>",
    "tortuosity_binning_factor",
    "tortuosity_factor_<A>",
    "effective_diffusivity_ratio_<A>",
    "tortuosity_factor_binning_factor",
    "representative_edge_<U>",
)
QUALITY = (
    "noise_level_<G>",
    "noise_sigma_<G>",
    "ring_level_<G>",
    "uncertain_percent",
    "resolution_<U>",
    "center_confidence",
    "saturated_fraction",
    "clipped_fraction",
    "nonfinite_flat_count",
    "nonfinite_dark_count",
    "nonfinite_fraction",
    "dead_pixel_count",
    "nonfinite_count",
    "contrast_to_noise_ratio_<K>_<K>",
    "phase_<K>_mean_<G>",
    "phase_<K>_std_<G>",
)

_PLACEHOLDERS = {"<U>": "(um|pixel)", "<A>": "[zyx]", "<K>": "[1-9][0-9]*", "<G>": "per_(cm|pixel)"}
_EXAMPLES = {"<U>": "um", "<A>": "z", "<K>": "1", "<G>": "per_cm"}


def metrics_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of `labels.json`."""
    numbers = {"type": "array", "items": {"type": "number"}}
    columns = {"type": "object", "additionalProperties": numbers}
    interval = {**numbers, "minItems": 2, "maxItems": 2}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        "title": "Metrics of a tomography scan",
        "description": "What tomopipe writes beside the labels. Numbers are finite; what cannot be measured is absent.",
        "type": "object",
        "additionalProperties": False,
        "required": [
            "format", "scan_id", "recipe_id", "voxel_size", "voxel_unit", "attenuation_unit",
            "metrics", "intervals", "histograms", "profiles", "representative_volume", "quality",
        ],
        "properties": {
            "format": {"const": METRICS_FORMAT},
            "scan_id": {"type": "string"},
            "recipe_id": {"type": "string", "pattern": "^[0-9a-f]{12}$"},
            "voxel_size": {
                "description": "Edges of a voxel along z, y and x, in voxel_unit.",
                "type": "array",
                "items": {"type": "number", "exclusiveMinimum": 0},
                "minItems": 3,
                "maxItems": 3,
            },
            "voxel_unit": {"enum": ["um", "pixel"]},
            "attenuation_unit": {"enum": ["1/cm", "1/pixel"]},
            "metrics": {
                "type": "object",
                "patternProperties": _named_numbers(METRICS),
                "additionalProperties": False,
            },
            "intervals": {
                "description": "95 % interval from the spread between sub-volumes, and range over the segmentation's "
                "uncertain voxels, by metric.",
                "type": "object",
                "patternProperties": {
                    f"^{_expression(pattern)}$": {
                        "type": "object",
                        "properties": {"subvolumes": interval, "segmentation": interval},
                        "additionalProperties": False,
                    }
                    for pattern in METRICS
                },
                "additionalProperties": False,
            },
            "histograms": {"type": "object", "additionalProperties": {**columns, "required": ["edges"]}},
            "profiles": columns,
            "representative_volume": columns,
            "resolution": {
                "description": "Fourier ring correlation of the two half-data reconstructions.",
                **columns,
                "required": ["correlation", "threshold"],
            },
            "quality": {
                "type": "object",
                "required": ["warnings"],
                "properties": {"warnings": {"type": "array", "items": {"type": "string"}}},
                "patternProperties": _named_numbers(QUALITY),
                "additionalProperties": False,
            },
        },
    }  # fmt: skip


def example(pattern: str) -> str:
    """A name of the pattern."""
    return _filled(pattern, _EXAMPLES)


def _named_numbers(patterns: tuple[str, ...]) -> dict[str, Any]:
    return {
        f"^{_expression(pattern)}$": {"type": "number", "description": describe(example(pattern)).definition}
        for pattern in patterns
    }


def _expression(pattern: str) -> str:
    return _filled(pattern, _PLACEHOLDERS)


def _filled(pattern: str, texts: dict[str, str]) -> str:
    for placeholder, text in texts.items():
        pattern = pattern.replace(placeholder, text)
    return pattern
