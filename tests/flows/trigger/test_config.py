"""The trigger's configuration: read whole, and every error names file, key and remedy."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from tomopipe.flows.trigger.config import FORMAT, TriggerConfig, load_config, not_before_s
from tomopipe.functions.errors import ParameterError

WHOLE = """
format: tomopipe-trigger/1
ledger: /var/lib/tomopipe/ledger.sqlite
sources:
  files:
    - folders: [/data/2bm]
      patterns: ["*.h5"]
      ignore: ["*_rec.h5"]
      not_before: 2026-11-01
      finished: {stable_s: 5, sentinel: .done}
  epics:
    - prefix: "2bma:TomoScan:"
      file_plugin: "2bmSP1:HDF1:"
      metadata: {energy: "2bma:Energy"}
  drop_folder: {folder: /data/requests}
finished: {checksum: true}
rules:
  - name: alignment
    when: {path: "*/align_*"}
    start: false
  - name: shale
    when: {metadata: {sample: "shale*", energy: {min: 20}}}
    deployment: polaris
    parameters: shale.yaml
    visible_to: ["urn:globus:groups:id:00000000-0000-0000-0000-000000000000"]
  - name: rest
local: {output: /data/results, execution: {workers: 2}}
submitter: {max_active: 8}
notify:
  email: {host: smtp.example.org, sender: a@example.org, to: [b@example.org]}
  webhook: {url: "env:HOOK"}
monitoring: {metrics_port: 9464, health_file: /run/tomopipe/health.json}
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "trigger.yaml"
    file.write_text(text)
    return file


def load(folder: Path, changes: dict[str, Any]) -> TriggerConfig:
    values = {"format": FORMAT, "rules": [{"name": "all", "deployment": "polaris"}], **changes}
    return load_config(write(folder, yaml.safe_dump(values)))


def test_a_whole_configuration(tmp_path: Path) -> None:
    (tmp_path / "shale.yaml").write_text("reconstruction: {algorithm: fbp}")
    config = load_config(write(tmp_path, WHOLE))
    assert config.rules[1].parameters == tmp_path / "shale.yaml"
    assert config.sources.files[0].finished is not None and config.sources.files[0].finished.sentinel == ".done"
    assert config.sources.epics[0].file_plugin == "2bmSP1:HDF1:"
    assert config.ledger_path() == Path("/var/lib/tomopipe/ledger.sqlite")
    assert [rule.deployment for rule in config.rules] == ["local", "polaris", "local"]
    assert config.monitoring.metrics_port == 9464


def test_metrics_and_messages_are_opt_in(tmp_path: Path) -> None:
    config = load(tmp_path, {})
    assert config.monitoring.metrics_port is None
    assert config.notify.email is None and config.notify.webhook is None


def test_the_ledger_is_in_tomopipe_s_folder_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOMOPIPE_HOME", str(tmp_path))
    assert load(tmp_path, {}).ledger_path() == tmp_path / "trigger" / "ledger.sqlite"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "x/1"}, "format='x/1': is not known; write format: tomopipe-trigger/1"),
        ({"sorces": {}}, "unknown key sorces; did you mean sources?"),
        ({"sources": {"files": [{"folders": ["/a"]}, {"folder": ["/a"], "folders": ["/a"]}]}},
         r"unknown key sources\.files\[2\]\.folder; did you mean folders\?"),
        ({"sources": {"files": [{"folders": ["data"]}]}}, r"sources\.files\[1\]\.folders.*is not absolute"),
        ({"sources": {"files": [{}]}}, r"sources\.files\[1\]\.folders: is missing; add it"),
        ({"sources": {"files": [{"folders": ["/a"]}, {"folders": ["/b"]}]}}, "two sources have the name files"),
        ({"sources": {"files": [{"folders": ["/a"], "finished": {"sentinel": "done"}}]}}, "write one with its dot"),
        ({"rules": []}, "rules: list should have at least 1 item"),
        ({"rules": [{"name": "a"}]}, "rule 'a' starts runs of this machine; add 'local:'"),
        ({"rules": [{"name": "a", "deployment": "x"}, {"name": "a", "deployment": "x"}]}, "two rules have the name 'a'"),
        ({"rules": [{"name": "a", "deployment": "x", "visible_to": ["me"]}]}, r"rules\[1\]\.visible_to.*names nobody"),
        ({"rules": [{"name": "a", "deployment": "x", "skip": ["quantify"]}]}, r"rules\[1\]\.skip.*denoise"),
        ({"rules": [{"name": "a", "deployment": "x", "when": {"sample": "b"}}]}, r"unknown key rules\[1\]\.when\.sample"),
        ({"rules": [{"name": "a", "deployment": "x", "when": {"metadata": {"e": {"min": 2, "max": 1}}}}]}, "swap them"),
        ({"rules": [{"name": "a", "deployment": "x", "parameters": "no.yaml"}]}, "there is no file"),
        ({"submitter": {"max_active": 0}}, r"submitter\.max_active=0: input should be greater than or equal to 1"),
        ({"notify": {"email": {"host": "h", "sender": "a@b", "to": ["a@b"], "password": "x"}}}, "secrets do not belong here"),
        ({"notify": {"webhook": {"url": "http://x"}}}, r"notify\.webhook\.url.*is no https:// address"),
        ({"notify": {"email": {"host": "far", "sender": "a@b", "to": ["a@b"], "security": "none"}}}, "use starttls or tls"),
        ({"monitoring": {"metrics_port": 70000}}, r"monitoring\.metrics_port=70000"),
    ],
)  # fmt: skip
def test_errors_name_the_key_and_the_remedy(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message) as caught:
        load(tmp_path, changes)
    assert str(caught.value).startswith(str(tmp_path / "trigger.yaml"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found nothing"),
        ("- a", "found list"),
        ("format: [", "is not YAML"),
        ("format: tomopipe-trigger/1\nformat: tomopipe-trigger/1", "given twice"),
        ("!!python/object/apply:os.system [true]", "is not YAML"),
    ],
)
def test_what_is_no_configuration_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        load_config(write(tmp_path, text))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="check --config"):
        load_config(tmp_path / "none.yaml")


def test_when_files_are_too_old() -> None:
    assert not_before_s(None, 5.0) == 5.0
    assert not_before_s("always", 5.0) is None
    assert not_before_s(datetime(2026, 11, 1, 12, tzinfo=UTC), 5.0) == 1793534400.0
    assert not_before_s(date(2026, 11, 1), 5.0) == datetime(2026, 11, 1).timestamp()
