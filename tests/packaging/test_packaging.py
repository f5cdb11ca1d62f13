"""The namespace mapping: the list in pyproject.toml, and installs as a wheel, editable, and strictly editable."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("flows", "functions")

PROBE = """
import importlib, importlib.resources, pathlib, sys
root = pathlib.Path(sys.argv[1])
for name in ("tomopipe.flows", "tomopipe.functions", "tomopipe.functions.reconstruction.engines"):
    module = importlib.import_module(name)
    where = pathlib.Path(module.__file__).resolve()
    assert (root in where.parents) is (sys.argv[2] == "inside"), where
assert importlib.resources.files("tomopipe.functions").joinpath("py.typed").is_file()
for name in ("report.js", "report.css"):
    assert importlib.resources.files("tomopipe.functions.quantification").joinpath(name).is_file()
assert importlib.resources.files("tomopipe.flows").joinpath("deployments", "polaris.yaml").is_file()
try:
    import functions
except ImportError:
    print("ok")
"""


def _settings() -> dict[str, object]:
    settings: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    return settings


def test_every_folder_is_listed() -> None:
    found = {
        "tomopipe." + ".".join(path.parent.relative_to(ROOT).parts)
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert set(_settings()["packages"]) == found  # type: ignore[call-overload]


def test_every_module_lies_in_a_package() -> None:
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            assert (path.parent / "__init__.py").is_file(), path


def test_functions_import_neither_flows_nor_globus() -> None:
    forbidden = ("globus", "gladier", "parsl", "tomopipe.flows", "flows")
    for path in (ROOT / "functions").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.startswith(forbidden)], f"{path}:{node.lineno}"  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "where"),
    [
        ([], "outside"),
        (["--editable"], "inside"),
        (["--config-settings", "editable_mode=strict", "--editable"], "inside"),
    ],
    ids=["wheel", "editable", "strict"],
)
def test_installs(tmp_path: Path, options: list[str], where: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in (*FOLDERS, "pyproject.toml", "README.md", "LICENSE"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False)
    # The new environment sees the packages of this one but for ours, so that nothing is downloaded.
    packages = next(environment.glob("lib/python*/site-packages"))
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "tomopipe" not in entry.name and not (packages / entry.name).exists():
            (packages / entry.name).symlink_to(entry)
    python = environment / "bin" / "python"
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PIP_"))}
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [*install, "--ignore-installed", "--quiet", *options, str(source)], check=True, cwd=tmp_path, env=clean
    )
    probe = subprocess.run(
        [str(python), "-c", PROBE, str(source), where], cwd=tmp_path, env=clean, capture_output=True, text=True
    )
    assert probe.stdout.strip() == "ok", probe.stderr
    script = subprocess.run(
        [str(environment / "bin" / "tomopipe"), "--version"], cwd=tmp_path, env=clean, capture_output=True, text=True
    )
    assert script.returncode == 0, script.stderr
    assert script.stdout.startswith("tomopipe ")
