"""Noise, contrast and grey values of a volume by phase, from a fixed sample of its slices.

How well the phases are told apart is left to the segmentation's own measures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .configurations import require_phases

if TYPE_CHECKING:
    from ..volume import VolumeLike

DEFAULT_SAMPLED_SLICES = 32
DEFAULT_BINS = 256
# Median absolute value of a normal variable to its standard deviation.
_MAD_TO_SIGMA = 1.482602218505602
# Below this many voxels a spread says nothing.
_MINIMUM_VOXELS = 100


@dataclass(frozen=True)
class PhaseGreyValues:
    """Grey values in the interior of a phase, in the volume's unit."""

    mean: float
    std: float


@dataclass(frozen=True)
class ImageQuality:
    """Noise, contrast and grey values.

    Attributes
    ----------
    noise_sigma : float or None
        Standard deviation of the noise, in the volume's unit: robust spread of the difference of neighbouring slices
        over sqrt(2), inside phases. Blind to what neighbouring slices share (rings, cupping, noise that an earlier step
        blurred along z). None where no interior is large enough.
    phases : dict of int to PhaseGreyValues
        By phase; phases without enough interior are absent.
    contrast_to_noise : dict of (int, int) to float
        |mean_a - mean_b| / sqrt((std_a**2 + std_b**2) / 2) for neighbouring phases, a < b. The spread is that of the
        phase's interior, so it holds rings and texture besides noise.
    edges : (bins + 1,) float64
        Bins of the grey values.
    counts : dict of int to (bins,) int64
        Voxels of each phase (0 is outside the sample) in the bins; values beyond the ends count in the end bins.
    slices : tuple of int
        The slices that were sampled, each with the one after it where there is one.
    """

    noise_sigma: float | None
    phases: dict[int, PhaseGreyValues]
    contrast_to_noise: dict[tuple[int, int], float]
    edges: NDArray[np.float64]
    counts: dict[int, NDArray[np.int64]]
    slices: tuple[int, ...]

    def metrics(self, grey_unit: str) -> dict[str, float]:
        """Flat metrics; `grey_unit` ends the names of grey values, for example `per_cm`."""
        values = {f"contrast_to_noise_ratio_{a}_{b}": ratio for (a, b), ratio in self.contrast_to_noise.items()}
        for phase, grey in self.phases.items():
            values[f"phase_{phase}_mean_{grey_unit}"] = grey.mean
            values[f"phase_{phase}_std_{grey_unit}"] = grey.std
        if self.noise_sigma is not None:
            values[f"noise_sigma_{grey_unit}"] = self.noise_sigma
        return values


def measure_image_quality(
    grey: VolumeLike,
    phases: VolumeLike,
    value_range: tuple[float, float],
    bins: int = DEFAULT_BINS,
    sampled_slices: int = DEFAULT_SAMPLED_SLICES,
) -> ImageQuality:
    """Noise, contrast and grey values in evenly spaced slices.

    A voxel is interior where its four neighbours in the slice and, for the noise, those in the next slice belong to its
    phase. Two slices are held at a time.

    Parameters
    ----------
    grey : volume-like (z, y, x) float32
        Grey values, finite.
    phases : volume-like (z, y, x) uint8
        Phase of each voxel, 0 outside the sample.
    value_range : (float, float)
        Ends of the histogram, in the volume's unit: one range for the whole scan.
    bins : int
        Bins of the histogram.
    sampled_slices : int
        Slices taken; all where the volume has no more.

    Raises
    ------
    InputError
        The volumes do not match, or the range is empty.
    """
    require_phases(phases)
    if tuple(grey.shape) != tuple(phases.shape):
        raise InputError(f"image quality: grey values have shape {tuple(grey.shape)}, phases {tuple(phases.shape)}")
    low, high = value_range
    if not low < high:
        raise InputError(f"image quality: the range of grey values is {low} to {high}; the second must be larger")
    sample = _sample(phases.shape[0], sampled_slices)
    edges = np.linspace(low, high, bins + 1)
    counts: dict[int, NDArray[np.int64]] = {}
    interior: dict[int, list[NDArray[np.float32]]] = {}
    differences: list[NDArray[np.float32]] = []
    for z in sample:
        values, labels = np.asarray(grey[z : z + 2], np.float32), np.asarray(phases[z : z + 2])
        bin_of = np.clip(((values[0] - low) * (bins / (high - low))).astype(np.int64), 0, bins - 1)
        same = _interior(labels[0])
        for phase in (int(value) for value in np.unique(labels[0])):
            here = labels[0] == phase
            counts.setdefault(phase, np.zeros(bins, np.int64))
            counts[phase] += np.bincount(bin_of[here], minlength=bins)
            if phase:
                interior.setdefault(phase, []).append(values[0][here & same])
        if len(labels) == 2:
            steady = same & _interior(labels[1]) & (labels[0] == labels[1]) & (labels[0] != 0)
            differences.append(np.abs(values[1][steady] - values[0][steady]))
    grey_values = {
        phase: PhaseGreyValues(*_mean_and_std(parts))
        for phase, parts in sorted(interior.items())
        if sum(part.size for part in parts) >= _MINIMUM_VOXELS
    }
    return ImageQuality(
        noise_sigma=_noise_sigma(differences),
        phases=grey_values,
        contrast_to_noise=_contrast_to_noise(grey_values),
        edges=edges,
        counts=dict(sorted(counts.items())),
        slices=sample,
    )


def _sample(slices: int, wanted: int) -> tuple[int, ...]:
    """Evenly spaced slices, each in the middle of its share of the volume."""
    number = min(slices, wanted)
    return tuple((2 * i + 1) * slices // (2 * number) for i in range(number))


def _interior(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Voxels whose four neighbours in the slice are of their phase; none at the slice's border."""
    inside = np.zeros(labels.shape, bool)
    middle = labels[1:-1, 1:-1]
    inside[1:-1, 1:-1] = (
        (middle == labels[:-2, 1:-1])
        & (middle == labels[2:, 1:-1])
        & (middle == labels[1:-1, :-2])
        & (middle == labels[1:-1, 2:])
    )
    return inside


def _mean_and_std(parts: list[NDArray[np.float32]]) -> tuple[float, float]:
    size = sum(part.size for part in parts)
    mean = math.fsum(float(part.sum(dtype=np.float64)) for part in parts) / size
    squares = math.fsum(float(np.square(part.astype(np.float64) - mean).sum()) for part in parts)
    return mean, math.sqrt(squares / size)


def _noise_sigma(differences: list[NDArray[np.float32]]) -> float | None:
    joined = np.concatenate(differences) if differences else np.empty(0, np.float32)
    if joined.size < _MINIMUM_VOXELS:
        return None
    return _MAD_TO_SIGMA * float(np.median(joined)) / math.sqrt(2.0)


def _contrast_to_noise(phases: dict[int, PhaseGreyValues]) -> dict[tuple[int, int], float]:
    ratios = {}
    for a, b in pairwise(phases):
        spread = math.sqrt((phases[a].std ** 2 + phases[b].std ** 2) / 2)
        if spread > 0:
            ratios[a, b] = abs(phases[a].mean - phases[b].mean) / spread
    return ratios
