"""Which rule a scan falls under, why, and what it is started with.

The rules themselves are read in `config`; starting is left to `submitter`.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tomopipe.functions.errors import InputError, ParameterError, TomopipeError
from tomopipe.functions.parameters import SKIPPABLE_STAGES, parse_parameters, read_yaml
from tomopipe.functions.scan import validate_scan_id

from .config import Range, Rule, When
from .entry import Plan

REQUEST_KEYS = ("scan_id", "parameters", "deployment", "skip", "again", "id")
"""What a request may say, beside the scan itself."""
_NO_RULE = "the request"
_SCAN_ID_MAX = 100


class RequestError(InputError):
    """A person's request cannot be used; no later attempt would change that."""


@dataclass(frozen=True)
class Decision:
    """What the rules say of a scan.

    Parameters
    ----------
    plan : Plan or None
        What to start it with; None where it is not started.
    reason : str
        Why it is not started, or which rule says what to start it with.
    looked_at : tuple of (rule, reason)
        Each rule down to the one that matched, and why it did or did not.
    """

    plan: Plan | None
    reason: str
    looked_at: tuple[tuple[str, str], ...] = field(default=())


def decide(
    rules: Sequence[Rule],
    path: str | Path,
    source: str,
    metadata: Mapping[str, Any],
    request: Mapping[str, Any] | None = None,
) -> Decision:
    """Find the first rule that matches a scan, and work out what the scan is started with.

    Parameters
    ----------
    rules : sequence of Rule
    path : str or Path
        Absolute.
    source : str
    metadata : mapping
    request : mapping, optional
        What a person asks for: goes before the rule's. A person's scan is not kept back by a rule that starts nothing.

    Raises
    ------
    RequestError
        The request is at fault.
    TomopipeError
        The rule's parameters are.
    """
    looked_at: list[tuple[str, str]] = []
    found: Rule | None = None
    for rule in rules:
        matches, why = match(rule.when, str(path), source, metadata)
        if matches and request is not None and not rule.start:
            matches, why = False, f"{why}; it starts nothing, and a person asks for this scan"
        looked_at.append((rule.name, why))
        if matches:
            found = rule
            break
    trace = tuple(looked_at)
    if found is None:
        if request is None or not request.get("deployment"):
            return Decision(None, f"no rule matches (of {len(rules)})", trace)
        found = Rule(name=_NO_RULE, deployment=str(request["deployment"]))
    if not found.start:
        return Decision(None, found.reason or f"rule {found.name!r} starts nothing", trace)
    return Decision(_plan(found, str(path), metadata, request), f"rule {found.name!r}", trace)


def match(when: When, path: str, source: str, metadata: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether a scan is what a rule is for, and why."""
    reasons: list[str] = []
    for name, wanted, found in (("path", when.path, path), ("source", when.source, source)):
        if wanted is not None:
            patterns = [wanted] if isinstance(wanted, str) else wanted
            if not any(fnmatch.fnmatchcase(found, pattern) for pattern in patterns):
                return False, f"{name} {found} is not {' or '.join(patterns)}"
            reasons.append(f"{name} is {' or '.join(patterns)}")
    for name, condition in when.metadata.items():
        value = metadata.get(name)
        if value is None:
            return False, f"{name} is not known"
        if not _holds(condition, value):
            return False, f"{name} {value} is not {_said(condition)}"
        reasons.append(f"{name} is {_said(condition)}")
    return True, ", ".join(reasons) or "it is for all scans"


def check_request(request: Mapping[str, Any]) -> None:
    """Refuse a request that no rule could make good.

    Raises
    ------
    RequestError
    """
    unknown = next((key for key in request if key not in REQUEST_KEYS), None)
    if unknown is not None:
        raise RequestError(f"request: unknown key {unknown}; known are {', '.join(REQUEST_KEYS)}")
    parameters = request.get("parameters")
    if parameters is not None and not isinstance(parameters, Mapping):
        raise RequestError(f"request: parameters: expected sections such as 'reconstruction:', found {parameters!r}")
    try:
        parse_parameters(parameters, "request: parameters")
        if request.get("scan_id") is not None:
            validate_scan_id(str(request["scan_id"]))
    except ParameterError as error:
        raise RequestError(str(error)) from error
    skip = request.get("skip") or []
    if not isinstance(skip, list) or any(stage not in SKIPPABLE_STAGES for stage in skip):
        raise RequestError(f"request: skip={skip!r}: give a list of {', '.join(SKIPPABLE_STAGES)}")


def _plan(rule: Rule, path: str, metadata: Mapping[str, Any], request: Mapping[str, Any] | None) -> Plan:
    parameters = rule_parameters(rule)
    asked: Mapping[str, Any] = request or {}
    if request is not None:
        check_request(request)
        parameters = _merged(parameters, asked.get("parameters") or {})
        try:
            parse_parameters(parameters, f"request over rule {rule.name!r}")
        except ParameterError as error:
            raise RequestError(str(error)) from error
    body = {
        "parameters": parameters,
        "skip": list(asked.get("skip") or rule.skip),
        "visible_to": rule.visible_to,
        "share": rule.share,
        "tags": rule.tags,
    }
    wanted = asked.get("scan_id")
    return Plan(
        rule=rule.name,
        target=str(asked.get("deployment") or rule.deployment),
        scan_id=str(wanted) if wanted else _scan_id(rule, path, metadata),
        fixed_scan_id=bool(wanted),
        body=body,
        again=bool(asked.get("again")),
    )


def rule_parameters(rule: Rule) -> dict[str, Any]:
    """Parameters of a rule; a file is read each time, so that a change of it holds for the next scan."""
    if rule.parameters is None:
        return {}
    if isinstance(rule.parameters, Path):
        values, source = read_yaml(rule.parameters), str(rule.parameters)
    else:
        values, source = rule.parameters, f"rule {rule.name!r}: parameters"
    parse_parameters(values, source)
    return values


def _scan_id(rule: Rule, path: str, metadata: Mapping[str, Any]) -> str:
    """Scan id from the rule's template: what no scan id may hold becomes `_`."""
    known = {**{name: str(value) for name, value in metadata.items()}, "stem": Path(path).stem}

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name not in known:
            raise TomopipeError(
                f"rule {rule.name!r}: scan_id: {{{name}}} is not known of {path}; known are {', '.join(sorted(known))}"
            )
        return known[name]

    text = re.sub(r"\{(\w+)\}", value, rule.scan_id or "{stem}")
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).lstrip("._-")[:_SCAN_ID_MAX] or "scan"


def _holds(condition: Range | float | str | list[str], value: str | float) -> bool:
    if isinstance(condition, list):
        return any(_holds(one, value) for one in condition)
    if isinstance(condition, str):
        return fnmatch.fnmatchcase(str(value).strip().casefold(), condition.casefold())
    try:
        number = float(value)
    except ValueError:
        return False
    if isinstance(condition, Range):
        return (condition.min is None or number >= condition.min) and (condition.max is None or number <= condition.max)
    return number == float(condition)


def _said(condition: Range | float | str | list[str]) -> str:
    if isinstance(condition, Range):
        low = "" if condition.min is None else f"at least {condition.min:g}"
        high = "" if condition.max is None else f"at most {condition.max:g}"
        return " and ".join(part for part in (low, high) if part)
    if isinstance(condition, list):
        return " or ".join(condition)
    return condition if isinstance(condition, str) else f"{condition:g}"


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Sections over sections, field by field."""
    merged = dict(below)
    for name, value in above.items():
        under = merged.get(name)
        merged[name] = {**under, **value} if isinstance(under, Mapping) and isinstance(value, Mapping) else value
    return merged
