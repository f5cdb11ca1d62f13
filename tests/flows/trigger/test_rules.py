"""Rules: the first that matches, why, and what a scan is started with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tomopipe.flows.trigger.config import Rule, When
from tomopipe.flows.trigger.rules import RequestError, check_request, decide, match
from tomopipe.functions.errors import TomopipeError
from tomopipe.functions.scan import validate_scan_id

PATH = "/data/2026-3/shale_0042.h5"


def rule(name: str = "r", **values: Any) -> Rule:
    return Rule.model_validate({"name": name, "deployment": "polaris", **values})


@pytest.mark.parametrize(
    ("when", "matches", "why"),
    [
        ({}, True, "it is for all scans"),
        ({"path": "/data/*.h5"}, True, "path is /data/*.h5"),
        ({"path": ["*.nxs", "*shale*"]}, True, "path is *.nxs or *shale*"),
        ({"path": "*.nxs"}, False, f"path {PATH} is not *.nxs"),
        ({"source": "epics"}, False, "source files is not epics"),
        ({"metadata": {"sample": "SHALE*"}}, True, "sample is SHALE*"),
        ({"metadata": {"sample": ["foam", "shale 7"]}}, True, "sample is foam or shale 7"),
        ({"metadata": {"sample": "foam"}}, False, "sample Shale 7 is not foam"),
        ({"metadata": {"operator": "*"}}, False, "operator is not known"),
        ({"metadata": {"energy": {"min": 20, "max": 30}}}, True, "energy is at least 20 and at most 30"),
        ({"metadata": {"energy": {"min": 24.5}}}, False, "energy 24.0 is not at least 24.5"),
        ({"metadata": {"energy": 24}}, True, "energy is 24"),
        ({"metadata": {"proposal": 7}}, True, "proposal is 7"),
        ({"metadata": {"sample": {"max": 3}}}, False, "sample Shale 7 is not at most 3"),
        ({"path": "*shale*", "metadata": {"energy": {"max": 10}}}, False, "energy 24.0 is not at most 10"),
    ],
)
def test_conditions(when: dict[str, Any], matches: bool, why: str) -> None:
    metadata = {"sample": "Shale 7", "energy": 24.0, "proposal": "7"}
    assert match(When.model_validate(when), PATH, "files", metadata) == (matches, why)


def test_the_first_that_matches_counts_and_all_before_it_are_explained() -> None:
    rules = [rule("nx", when={"path": "*.nxs"}), rule("shale", when={"path": "*shale*"}), rule("rest")]
    decision = decide(rules, PATH, "files", {})
    assert decision.plan is not None and decision.plan.rule == "shale"
    assert [name for name, _ in decision.looked_at] == ["nx", "shale"]


def test_a_scan_without_a_rule_is_not_started() -> None:
    decision = decide([rule(when={"path": "*.nxs"})], PATH, "files", {})
    assert decision.plan is None and decision.reason == "no rule matches (of 1)"


def test_a_rule_may_start_nothing_but_a_person_is_obeyed() -> None:
    rules = [rule("alignment", start=False, reason="alignment scans"), rule("rest")]
    assert decide(rules, PATH, "files", {}).reason == "alignment scans"
    asked = decide(rules, PATH, "manual", {}, {})
    assert asked.plan is not None and asked.plan.rule == "rest"


def test_a_person_may_name_the_deployment_where_no_rule_matches() -> None:
    plan = decide([rule(when={"path": "*.nxs"})], PATH, "manual", {}, {"deployment": "aurora"}).plan
    assert plan is not None and plan.target == "aurora"


def test_parameters_of_a_request_go_over_those_of_the_rule_field_by_field(tmp_path: Path) -> None:
    file = tmp_path / "foam.yaml"
    file.write_text("reconstruction: {algorithm: fbp, center: 10.0}\n")
    given = {"parameters": {"reconstruction": {"center": 12.5}}, "skip": ["denoise"]}
    plan = decide([rule(parameters=str(file))], PATH, "manual", {}, given).plan
    assert plan is not None
    assert plan.body["parameters"] == {"reconstruction": {"algorithm": "fbp", "center": 12.5}}
    assert plan.body["skip"] == ["denoise"]


def test_recipes_differ_where_results_would() -> None:
    def recipe(**values: Any) -> str:
        plan = decide([rule(**values)], PATH, "files", {}).plan
        assert plan is not None
        return plan.recipe

    base = recipe()
    assert base == recipe(name="another", tags=["t"], share=True)
    others = {
        recipe(deployment="aurora"),
        recipe(skip=["denoise"]),
        recipe(parameters={"reconstruction": {"center": 1}}),
    }
    assert len(others | {base}) == 4


@pytest.mark.parametrize(
    ("template", "path", "expected"),
    [
        (None, "/d/scan 7 (b).h5", "scan_7_b_"),
        (None, "/d/.hidden.h5", "hidden"),
        (None, "/d/测试.h5", "scan"),
        (None, f"/d/{'a' * 300}.h5", "a" * 100),
        ("{proposal}-{stem}", "/d/s.h5", "GUP_1-s"),
    ],
)
def test_scan_ids_are_usable(template: str | None, path: str, expected: str) -> None:
    plan = decide([rule(scan_id=template)], path, "files", {"proposal": "GUP/1"}).plan
    assert plan is not None and plan.scan_id == expected
    assert validate_scan_id(plan.scan_id) == expected


def test_a_scan_id_of_what_is_not_known_is_the_rule_s_fault() -> None:
    with pytest.raises(TomopipeError, match=r"scan_id: \{proposal\} is not known") as caught:
        decide([rule(scan_id="{proposal}")], PATH, "files", {})
    assert not isinstance(caught.value, RequestError)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"skipp": []}, "unknown key skipp"),
        ({"parameters": 3}, "expected sections"),
        ({"parameters": {"reconstruction": {"algoritm": "fbp"}}}, "did you mean reconstruction.algorithm"),
        ({"scan_id": "../x"}, "scan id"),
        ({"skip": ["quantify"]}, "give a list of denoise"),
        ({"skip": "denoise"}, "give a list of denoise"),
    ],
)
def test_bad_requests_are_refused(request_: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        check_request(request_)


def test_a_request_that_only_together_with_its_rule_is_impossible_is_the_request_s_fault() -> None:
    rules = [rule(parameters={"reconstruction": {"algorithm": "fbp"}})]
    with pytest.raises(RequestError, match="request"):
        decide(rules, PATH, "manual", {}, {"parameters": {"reconstruction": {"algorithm": "none_such"}}})
