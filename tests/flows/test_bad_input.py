"""Bad input is refused before any stage starts: one message that names what is wrong and the remedy, exit code 2."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from runs import Pipeline

from tomopipe.flows.cli import main

Break = Callable[[Path], None]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("good") / "scan.h5"
    random = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        exchange = file.create_group("exchange")
        exchange["data"] = random.normal(500, 5, (24, 10, 40)).astype(np.float32)
        exchange["data_white"] = random.normal(1000, 5, (3, 10, 40)).astype(np.float32)
        exchange["data_dark"] = random.normal(100, 5, (3, 10, 40)).astype(np.float32)
        exchange["theta"] = np.linspace(0, 180, 24, endpoint=False)
    return path


def _edit(change: Callable[[h5py.Group], None]) -> Break:
    def edit(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            change(file["exchange"])

    return edit


def _delete(name: str) -> Break:
    return _edit(lambda exchange: exchange.__delitem__(name))


def _replace(name: str, make: Callable[[np.ndarray], np.ndarray]) -> Break:
    def change(exchange: h5py.Group) -> None:
        values = make(exchange[name][:])
        del exchange[name]
        exchange[name] = values

    return _edit(change)


def _with_nan(count: int) -> Callable[[np.ndarray], np.ndarray]:
    def make(data: np.ndarray) -> np.ndarray:
        data.reshape(-1)[np.random.default_rng(1).choice(data.size, count, replace=False)] = np.nan
        return data

    return make


def _nan_frame(data: np.ndarray) -> np.ndarray:
    data[7] = np.inf
    return data


def _truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size * 2 // 3)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.unlink(), ["scan.h5"]),
        (lambda path: path.write_text("not hdf5"), ["scan.h5", "HDF5"]),
        (lambda path: path.write_bytes(b""), ["scan.h5"]),
        (_truncate, ["scan.h5", "truncated"]),
        (_delete("data"), ["scan.h5"]),
        (_delete("data_white"), ["/exchange/data_white", "flat"]),
        (_delete("data_dark"), ["/exchange/data_dark", "dark"]),
        (_replace("data", lambda data: data[:0]), ["/exchange/data"]),
        (_replace("data", lambda data: data[:, :, :0]), ["/exchange/data"]),
        (_replace("data", _with_nan(24 * 10 * 40 // 50)), ["/exchange/data", "%"]),
        (_replace("data", _nan_frame), ["/exchange/data", "7"]),
        (_edit(lambda e: e["data_white"].write_direct(e["data_dark"][:])), ["/exchange/data_white"]),
        (_replace("theta", lambda theta: theta[:-3]), ["/exchange/theta", "21", "24"]),
        (_replace("theta", lambda theta: theta / 2), ["86.2 degrees", "reconstruction.center"]),
    ],
    ids=[
        "missing", "not-hdf5", "empty-file", "truncated", "no-data", "no-flats", "no-darks", "no-projections",
        "no-columns", "many-nan", "nan-frame", "beam-off", "short-theta", "half-of-180",
    ],
)  # fmt: skip
def test_bad_scan(good: Path, tmp_path: Path, damage: Break, words: list[str]) -> None:
    path = tmp_path / "scan.h5"
    shutil.copy(good, path)
    damage(path)
    _refused(tmp_path, [path], words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--set", "reconstruction.algoritm=fbp"], ["reconstruction.algoritm", "did you mean"]),
        (["--set", "reconstruction.algorithm=fpb"], ["reconstruction.algorithm", "fbp"]),
        (["--set", "reconstruction.center=1000"], ["reconstruction.center=1000", "40 columns"]),
        (["--set", "nonsense"], ["--set nonsense"]),
        (["--skip", "reconstruct"], ["reconstruct", "cannot be left out"]),
        (["--from", "separate_objects", "--skip", "segment"], ["separate_objects", "skipped"]),
        (["--from", "lunch"], ["lunch", "preprocess"]),
        (["--scan-id", "../../etc"], ["../../etc", "--scan-id"]),
        (["--scan-id", "a/b"], ["a/b"]),
        (["--memory", "lots"], ["--memory lots"]),
        (["--workers", "0"], ["workers=0"]),
        (["--set", "objects.opening_radius_um=3"], ["objects.opening_radius_um=3", "scan.pixel_size_um"]),
        (["--parameters", "/nonexistent.yaml"], ["/nonexistent.yaml"]),
        (["--output", "/proc/nowhere"], ["/proc"]),
        (["--output", "/dev/null/x"], ["/dev/null"]),
    ],
)
def test_bad_options(good: Path, tmp_path: Path, options: list[str], words: list[str]) -> None:
    _refused(tmp_path, [good, *options], words)


def test_no_room_for_the_result(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10_000))
    monkeypatch.setattr("sys.argv", ["tomopipe", "run", str(good), "--output", str(tmp_path / "results")])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert all(word in message for word in ("are free", "--output", "keep=[]"))
    assert not (tmp_path / "results").exists()


def test_a_few_nan_are_mended_and_reported(good: Path, tmp_path: Path) -> None:
    path = tmp_path / "scan.h5"
    shutil.copy(good, path)
    _replace("data", _with_nan(20))(path)
    done = Pipeline(tmp_path / "home")(
        "run", path, "--output", tmp_path / "results", "--skip", "segment", "--set", "reconstruction.center=19.5"
    )
    assert done.returncode == 0, done.stderr
    assert "20 raw pixels were NaN or infinite" in done.stdout


def _refused(tmp_path: Path, arguments: list[object], words: list[str]) -> None:
    output = [] if "--output" in arguments else ["--output", tmp_path / "results"]
    done = Pipeline(tmp_path / "home")("run", *arguments, *output)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    message = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(message) == 1, done.stderr
    for word in words:
        assert word in message[0]
    assert not (tmp_path / "results").exists(), "nothing was started"
