"""`kill -9` at any line of the submission path: each scan is started exactly once, and none is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = 50


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["service", "local"])
def test_killed_anywhere_each_scan_is_started_exactly_once(kind: str, tmp_path: Path) -> None:
    driver = Path(__file__).with_name("crash_driver.py")
    done = subprocess.run(
        [sys.executable, str(driver), str(tmp_path / "places"), kind, str(KILLS)],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["wrong"] == []
    assert result["killed"] >= KILLS, "the kills met the path"
    assert result["lines"] > 200, "the path was traced"
