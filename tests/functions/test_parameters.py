"""Parameters: the YAML form, messages for what is wrong, and what takes part in digests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tomopipe.functions.errors import ParameterError
from tomopipe.functions.parameters import (
    Execution,
    Parameters,
    apply_overrides,
    load_parameters,
    parse_parameters,
    recipe_values,
    validate_model,
)


def test_accepts_the_documented_form(tmp_path: Path) -> None:
    path = tmp_path / "parameters.yaml"
    path.write_text(
        'reconstruction: {algorithm: "fourierrec", filter: "shepp", gpu_devices: [0, 1, 2, 3], chunk_size: 64, '
        'dtype: "float32", output_format: "zarr"}\n'
    )
    reconstruction = load_parameters(path).reconstruction
    assert reconstruction.algorithm == "fourierrec"
    assert reconstruction.gpu_devices == [0, 1, 2, 3]
    assert reconstruction.chunk_size == 64


def test_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("")
    assert load_parameters(path) == Parameters()


def test_round_trips_through_json() -> None:
    parameters = parse_parameters({"segmentation": {"method": "fixed", "thresholds": [0.5, 1.5]}, "keep": []})
    assert parse_parameters(parameters.model_dump(mode="json")) == parameters
    assert parameters.segmentation.phase_count == 3


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"reconstruction": {"algoritm": "fbp"}}, ["reconstruction.algoritm", "reconstruction.algorithm"]),
        ({"recon": {}}, ["unknown parameter recon"]),
        ({"reconstruction": {"algorithm": "magic"}}, ["reconstruction.algorithm", "'magic'", "'fbp'"]),
        ({"reconstruction": {"center": -1}}, ["reconstruction.center=-1", "greater than or equal to 0", "'auto'"]),
        ({"reconstruction": {"center": "middle"}}, ["reconstruction.center='middle'", "'auto'"]),
        ({"reconstruction": {"gpu_devices": [0, 0]}}, ["reconstruction.gpu_devices", "once"]),
        ({"reconstruction": 7}, ["reconstruction=7"]),
        ({"preprocessing": {"stripe_wavelet": "nope"}}, ["preprocessing.stripe_wavelet='nope'", "db5"]),
        ({"preprocessing": {"stripe_sigma": float("nan")}}, ["preprocessing.stripe_sigma", "finite"]),
        ({"preprocessing": {"minimum_transmission": 0}}, ["preprocessing.minimum_transmission=0", "greater than 0"]),
        ({"segmentation": {"method": "fixed"}}, ["segmentation.thresholds"]),
        ({"segmentation": {"thresholds": [1.0]}}, ["method=fixed"]),
        ({"segmentation": {"method": "fixed", "thresholds": [2.0, 1.0]}}, ["must ascend"]),
        ({"objects": {"phase": 3}}, ["objects.phase", "segmentation.phases"]),
        ({"keep": ["everything"]}, ["keep", "'projections' or 'denoised'"]),
        ([1, 2], ["expected sections"]),
    ],
)
def test_message_names_field_and_remedy(values: Any, words: list[str]) -> None:
    with pytest.raises(ParameterError) as caught:
        parse_parameters(values, "file.yaml")
    message = str(caught.value)
    assert message.startswith("file.yaml: ")
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize("text", ["a: [", "\tx", "- 1\n- 2\n", "just words\n"])
def test_refuses_what_is_no_parameter_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "parameters.yaml"
    path.write_text(text)
    with pytest.raises(ParameterError, match=r"parameters\.yaml"):
        load_parameters(path)


def test_refuses_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="cannot be read"):
        load_parameters(tmp_path / "none.yaml")


def test_overrides_are_yaml_values() -> None:
    values = {"reconstruction": {"algorithm": "gridrec", "filter": "hann"}}
    merged = apply_overrides(
        values,
        ["reconstruction.algorithm=fbp", "segmentation.thresholds=[1, 2]", "segmentation.method=fixed", "keep=[]"],
    )
    assert merged["reconstruction"] == {"algorithm": "fbp", "filter": "hann"}
    assert merged["segmentation"] == {"thresholds": [1, 2], "method": "fixed"}
    assert merged["keep"] == []
    assert values["reconstruction"]["algorithm"] == "gridrec", "the given mapping is left alone"


@pytest.mark.parametrize("text", ["reconstruction.algorithm", "=fbp", "a.b.c=1", ".x=1", "a.b=[", ""])
def test_refuses_malformed_overrides(text: str) -> None:
    with pytest.raises(ParameterError, match="--set"):
        apply_overrides({}, [text])


def test_how_the_work_is_done_takes_no_part_in_the_recipe() -> None:
    plain = Parameters().reconstruction
    other = parse_parameters({"reconstruction": {"gpu_devices": [1], "chunk_size": 3}}).reconstruction
    assert recipe_values(plain) == recipe_values(other)
    changed = parse_parameters({"reconstruction": {"filter": "hann"}}).reconstruction
    assert recipe_values(plain) != recipe_values(changed)


def test_execution_has_limits() -> None:
    with pytest.raises(ParameterError, match="workers=0"):
        validate_model(Execution, {"workers": 0}, "options")
