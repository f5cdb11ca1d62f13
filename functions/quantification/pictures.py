"""Pictures of a run: central planes of each stage, a map of thickness, a projection and a sinogram, as 8-bit images.

Reads a level of the pyramid that fits a screen; plots are left to `plots`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..slabs import Sources
from ..volume import open_slices

_WIDTH_MAX = 768
_JPEG_QUALITIES = (90, 80, 70, 60, 45)
_DARK = (24, 26, 30)

PHASE_PALETTE = np.array(
    [_DARK, [76, 132, 196], [232, 226, 212], [214, 130, 60], [150, 80, 150], [90, 160, 90]], np.uint8
)
"""Colours of phases 0, 1, ... in pictures; further phases start again at the second."""


def _hues(count: int) -> NDArray[np.uint8]:
    """Colours around the circle of hues, none of them dark."""
    phase = 2 * np.pi * (np.arange(count)[:, None] / count + np.array([0, 1 / 3, 2 / 3]))
    return np.asarray(np.round(150 + 95 * np.cos(phase)), np.uint8)


OBJECT_PALETTE = np.concatenate([np.array([_DARK], np.uint8), _hues(255)])
VALUE_PALETTE = np.concatenate(
    [np.array([_DARK], np.uint8), np.asarray(mpl.colormaps["viridis"](np.linspace(0, 1, 255), bytes=True)[:, :3])]
)
"""Colour 0 for no value, then from low to high, perceptually even."""


@dataclass(frozen=True)
class Picture:
    """An image: grey values, or indices of colours of which the first stands for nothing.

    Attributes
    ----------
    values : (y, x) uint8
    palette : (n, 3) uint8 or None
        None for grey values.
    """

    values: NDArray[np.uint8]
    palette: NDArray[np.uint8] | None = None

    def png(self, transparent: bool = False) -> bytes:
        """Content of a PNG file; with `transparent` colour 0 lets the background through."""
        image = Image.fromarray(self.values)
        options: dict[str, Any] = {"optimize": True}
        if self.palette is not None:
            image.putpalette(self.palette.tobytes())
            if transparent:
                options["transparency"] = 0
        return _saved(image, "PNG", **options)

    def embedded(self, maximum_bytes: int) -> tuple[str, bytes]:
        """Media type and content of at most `maximum_bytes`, for a page: lossless if it fits.

        Grey values that do not fit are compressed with loss, and what then does not fit is thinned out.
        """
        content = self.png(transparent=True)
        if len(content) <= maximum_bytes or self.values.size <= 1:
            return "image/png", content
        if self.palette is None:
            for quality in _JPEG_QUALITIES:
                content = _saved(Image.fromarray(self.values), "JPEG", quality=quality)
                if len(content) <= maximum_bytes:
                    return "image/jpeg", content
        return Picture(np.ascontiguousarray(self.values[::2, ::2]), self.palette).embedded(maximum_bytes)


@dataclass(frozen=True)
class Planes:
    """Central planes of a volume.

    Attributes
    ----------
    title : str
    pictures : dict of str to Picture
        By plane: "xy", "xz", "yz".
    """

    title: str
    pictures: dict[str, Picture]


def grey(values: NDArray[np.floating[Any]], low: float, high: float) -> NDArray[np.uint8]:
    """8-bit picture of grey values: `low` black, `high` white."""
    scaled = (values - low) / (high - low or 1.0)
    return np.asarray(np.round(255 * np.clip(scaled, 0, 1)), np.uint8)


def phase_picture(phases: NDArray[np.uint8]) -> Picture:
    """Phases in colour."""
    colors = len(PHASE_PALETTE) - 1
    return Picture(np.where(phases == 0, 0, (phases - 1) % colors + 1).astype(np.uint8), PHASE_PALETTE)


def object_picture(objects: NDArray[np.uint32]) -> Picture:
    """Objects in colour: neighbours in number differ, an object keeps its colour, none is dark."""
    hue = (objects.astype(np.uint64) * 2654435761 % 2**32) * 255 // 2**32
    return Picture(np.where(objects == 0, 0, 1 + hue).astype(np.uint8), OBJECT_PALETTE)


def value_picture(values: NDArray[np.floating[Any]], high: float) -> Picture:
    """Positive values in colour, `high` and above in the last one; what is 0 or not finite has no value."""
    shown = np.isfinite(values) & (values > 0)
    scaled = np.clip(np.where(shown, values, 0) / (high or 1.0), 0, 1)
    return Picture(np.where(shown, 1 + np.round(254 * scaled), 0).astype(np.uint8), VALUE_PALETTE)


def stage_planes(sources: Sources) -> Iterator[Planes]:
    """Central planes of each stage that the run has: grey volumes, then phases and objects."""
    root = sources.run.root
    low, high = sources.document["resolved"]["grey_range"]
    for stage, title in (("reconstruct", "Reconstruction"), ("denoise", "Denoised")):
        output = sources.document["stages"][stage]["output"]
        if output is not None:
            planes = _central_planes(_screen_level(root / output))
            yield Planes(title, {name: Picture(grey(values, low, high)) for name, values in planes})
    if sources.labels.is_file():
        with h5py.File(sources.labels, "r") as file:
            for dataset, title, picture in (
                ("phases", "Phases", phase_picture),
                ("objects", "Objects", object_picture),
            ):
                if dataset in file:
                    planes = _central_planes(file[dataset])
                    yield Planes(title, {name: picture(_thin(values)) for name, values in planes})


def projection_and_sinogram(sources: Sources) -> dict[str, Picture]:
    """A raw projection over its flat field, and the corrected sinogram of the row in the middle."""
    rows = sources.shape[1]
    scan = sources.correctors[0].selected
    angles, raw_rows, _ = scan.shape
    raw = scan.read_projections(angles // 2, angles // 2 + 1)[0].astype(np.float32)
    dark = scan.dark_field(0, raw_rows)
    with np.errstate(divide="ignore", invalid="ignore"):
        transmission = np.nan_to_num((raw - dark) / (scan.flat_field(0, raw_rows) - dark), posinf=1, neginf=0)
    sinogram = sources.projections(rows // 2, rows // 2 + 1)[:, 0]
    return {
        "projection": Picture(_thin(grey(transmission, *_range(transmission)))),
        "sinogram": Picture(_thin(grey(sinogram, *_range(sinogram)))),
    }


def center_trials(sources: Sources) -> Iterator[tuple[float, Picture]]:
    """Slices of the middle sample row with trial centres, where the rotation centre was found with little confidence."""
    if not sources.run.sample.is_file():
        return
    with h5py.File(sources.run.sample, "r") as file:
        if "trial_centers" not in file:
            return
        centers, slices = file["trial_centers"][()], file["trial_slices"][()]
    low, high = sources.document["resolved"]["grey_range"]
    for center, values in zip(centers, slices, strict=True):
        yield float(center), Picture(_thin(grey(values, low, high)))


def png(picture: NDArray[np.uint8]) -> bytes:
    """Grey values (y, x) uint8 as a PNG file's content."""
    return Picture(picture).png()


def _saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
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
    return np.ascontiguousarray(picture[::step, ::step])


def _range(values: NDArray[np.float32]) -> tuple[float, float]:
    low, high = np.percentile(values, [0.5, 99.5])
    return float(low), float(high)
