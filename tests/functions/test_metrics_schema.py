"""The published names: each is explained, and the schema knows no others."""

from __future__ import annotations

import jsonschema
import pytest

from tomopipe.functions.quantification.glossary import describe
from tomopipe.functions.quantification.metrics_schema import METRICS, QUALITY, example, metrics_schema


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(metrics_schema())


@pytest.mark.parametrize("pattern", [*METRICS, *QUALITY])
def test_every_name_is_explained(pattern: str) -> None:
    assert describe(example(pattern)).definition


@pytest.mark.parametrize("name", ["porosity_percent_1", "euler_number_z", "surface_area_cm2", "tortuosity_factor"])
def test_names_that_are_none_are_refused(name: str) -> None:
    numbers = metrics_schema()["properties"]["metrics"]
    assert not jsonschema.Draft202012Validator(numbers).is_valid({name: 1.0})
    assert jsonschema.Draft202012Validator(numbers).is_valid({"surface_area_pixel2": 1.0, "tortuosity_factor_z": 2.0})
