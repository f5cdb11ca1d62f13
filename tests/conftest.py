"""Fixtures that every test may use."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How fast an example runs says nothing of the code: machines are busy.
settings.register_profile("tomopipe", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tomopipe")


def _data_directory() -> Path:
    configured = os.environ.get("TOMOPIPE_DATA")
    return Path(configured) if configured else Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def real_scan() -> Callable[[str], Path]:
    """Path of a real scan by file name; skips where the real scans are not installed."""

    def locate(name: str) -> Path:
        path = _data_directory() / name
        if not path.is_file():
            pytest.skip(f"real scan {name} is not here; set TOMOPIPE_DATA to the folder that holds it")
        return path

    return locate
