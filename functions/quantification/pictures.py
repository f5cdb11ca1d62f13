"""Pictures of a run: central planes of each stage, a projection and a sinogram, as 8-bit images.

Reads a level of the pyramid that fits a screen; plots are left to `plots`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..slabs import Sources
from ..volume import open_slices

_WIDTH_MAX = 768
_PHASE_COLORS = np.array(
    [[24, 26, 30], [76, 132, 196], [232, 226, 212], [214, 130, 60], [150, 80, 150], [90, 160, 90]], np.uint8
)

Planes = dict[str, NDArray[np.uint8]]
"""Pictures by plane: "xy", "xz", "yz"."""


def grey(values: NDArray[np.floating[Any]], low: float, high: float) -> NDArray[np.uint8]:
    """8-bit picture of grey values: `low` black, `high` white."""
    scaled = (values - low) / (high - low or 1.0)
    return np.asarray(np.round(255 * np.clip(scaled, 0, 1)), np.uint8)


def phase_colors(phases: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Colour picture of phases."""
    return _PHASE_COLORS[phases]


def object_colors(objects: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """Colour picture of objects: neighbours differ, an object keeps its colour, none is black."""
    hue = (objects.astype(np.uint64) * 2654435761 % 2**32).astype(np.float64) / 2**32
    phase = 2 * np.pi * (hue[..., None] + np.array([0, 1 / 3, 2 / 3]))
    picture = np.asarray(np.round(150 + 95 * np.cos(phase)), np.uint8)
    picture[objects == 0] = (24, 26, 30)
    return picture


def stage_planes(sources: Sources) -> Iterator[tuple[str, Planes]]:
    """Central planes of each stage that the run has: its title, and the pictures."""
    root = sources.run.root
    low, high = sources.document["resolved"]["grey_range"]
    for stage, title in (("reconstruct", "Reconstruction"), ("denoise", "Denoised")):
        output = sources.document["stages"][stage]["output"]
        if output is not None:
            volume = _screen_level(root / output)
            yield title, {plane: grey(values, low, high) for plane, values in _central_planes(volume)}
    if sources.labels.is_file():
        with h5py.File(sources.labels, "r") as file:
            yield "Phases", {plane: phase_colors(_thin(values)) for plane, values in _central_planes(file["phases"])}
            if "objects" in file:
                pictures = {plane: object_colors(_thin(values)) for plane, values in _central_planes(file["objects"])}
                yield "Objects", pictures


def projection_and_sinogram(sources: Sources) -> dict[str, NDArray[np.uint8]]:
    """A raw projection over its flat field, and the corrected sinogram of the row in the middle."""
    angles, rows, _ = sources.shape
    scan = sources.scan
    raw = scan.read_projections(angles // 2, angles // 2 + 1)[0].astype(np.float32)
    dark = scan.dark_field(0, rows)
    with np.errstate(divide="ignore", invalid="ignore"):
        transmission = np.nan_to_num((raw - dark) / (scan.flat_field(0, rows) - dark), posinf=1, neginf=0)
    sinogram = sources.projections(rows // 2, rows // 2 + 1)[:, 0]
    return {
        "projection": _thin(grey(transmission, *_range(transmission))),
        "sinogram": _thin(grey(sinogram, *_range(sinogram))),
    }


def png(picture: NDArray[np.uint8]) -> bytes:
    """A picture, (y, x) or (y, x, 3) uint8, as a PNG file's content."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _screen_level(path: Path) -> Any:
    level = 0
    volume = open_slices(path)
    while volume.shape[2] > _WIDTH_MAX and (path / str(level + 1)).is_dir():
        level += 1
        volume = open_slices(path, level)
    return volume


def _central_planes(volume: Any) -> Iterator[tuple[str, NDArray[Any]]]:
    z, y, x = (length // 2 for length in volume.shape)
    yield "xy", np.asarray(volume[z])
    yield "xz", np.asarray(volume[:, y, :])
    yield "yz", np.asarray(volume[:, :, x])


def _thin(picture: NDArray[Any]) -> NDArray[Any]:
    """Every n-th pixel, so that labels stay labels."""
    step = -(-max(picture.shape[:2]) // _WIDTH_MAX)
    return picture[::step, ::step]


def _range(values: NDArray[np.float32]) -> tuple[float, float]:
    low, high = np.percentile(values, [0.5, 99.5])
    return float(low), float(high)
