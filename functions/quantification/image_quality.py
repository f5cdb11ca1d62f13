"""Noise, rings, contrast and grey values of a volume by phase, from a fixed sample of its slices.

How well the phases are told apart is left to the segmentation's own measures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numba import njit
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
# Rings are looked for in sectors, for of half a turn of projections they are half circles. What two sectors have alike at
# a radius is a ring; noise they do not share. One sector lies between the two, so that the sample's texture is not shared.
_SECTORS, _APART = 16, 2
# Rings are narrower than this: what is wider is shading or the sample.
_RING_REACH_PX = 10
# Fewer voxels of a sector at a radius are not looked at.
_MINIMUM_ARC = 8
# Radii at which two sectors are compared, of all slices.
_MINIMUM_ARCS = 100
# Arcs of a running median, at least.
_MINIMUM_NEIGHBOURS = 5


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
    ring_level : float or None
        Root mean square of what rings about the rotation axis add to a voxel, in the volume's unit; see
        `measure_image_quality`. None where the sample is too small to tell.
    uncertain_percent : float or None
        Share of the region's voxels whose grey value lies within one `noise_sigma` of a threshold, in percent. None
        where no threshold was given or the noise is not known.
    """

    noise_sigma: float | None
    phases: dict[int, PhaseGreyValues]
    contrast_to_noise: dict[tuple[int, int], float]
    edges: NDArray[np.float64]
    counts: dict[int, NDArray[np.int64]]
    slices: tuple[int, ...]
    ring_level: float | None = None
    uncertain_percent: float | None = None

    def metrics(self, grey_unit: str) -> dict[str, float]:
        """Flat metrics; `grey_unit` ends the names of grey values, for example `per_cm`."""
        values = {f"contrast_to_noise_ratio_{a}_{b}": ratio for (a, b), ratio in self.contrast_to_noise.items()}
        for phase, grey in self.phases.items():
            values[f"phase_{phase}_mean_{grey_unit}"] = grey.mean
            values[f"phase_{phase}_std_{grey_unit}"] = grey.std
        if self.noise_sigma is not None:
            values[f"noise_sigma_{grey_unit}"] = self.noise_sigma
        if self.ring_level is not None:
            values[f"ring_level_{grey_unit}"] = self.ring_level
        if self.uncertain_percent is not None:
            values["uncertain_percent"] = self.uncertain_percent
        return values


def measure_image_quality(
    grey: VolumeLike,
    phases: VolumeLike,
    value_range: tuple[float, float],
    bins: int = DEFAULT_BINS,
    sampled_slices: int = DEFAULT_SAMPLED_SLICES,
    thresholds: Sequence[float] = (),
) -> ImageQuality:
    """Noise, contrast and grey values in evenly spaced slices.

    A voxel is interior where its four neighbours in the slice and, for the noise, those in the next slice belong to its
    phase. Two slices are held at a time.

    For the rings interior voxels less their phase's median in the slice are sorted by whole radii about the slice's
    middle, where the rotation axis is, and by sixteen sectors. Of each sector's medians along the radius a running median
    over 21 pixels is taken off: what is left of shading and of wide structure is no ring. The ring level is the root of
    the mean product of sectors that are next but one to each other: the covariance, to which noise adds nothing. Of rings
    of a full turn it is the root mean square, in voxels, of what they add; of half circles 0.87 of it, for a quarter of
    the pairs share none. Structure of the sample that is concentric with the axis and thinner than the running median
    counts as well.

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
    thresholds : sequence of float
        Grey values that tell the phases apart, for `uncertain_percent`.

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
    rings = _Rings(phases.shape[1], phases.shape[2])
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
        rings.add(values[0], labels[0], same)
        if len(labels) == 2:
            steady = same & _interior(labels[1]) & (labels[0] == labels[1]) & (labels[0] != 0)
            differences.append(np.abs(values[1][steady] - values[0][steady]))
    grey_values = {
        phase: PhaseGreyValues(*_mean_and_std(parts))
        for phase, parts in sorted(interior.items())
        if sum(part.size for part in parts) >= _MINIMUM_VOXELS
    }
    noise_sigma = _noise_sigma(differences)
    return ImageQuality(
        noise_sigma=noise_sigma,
        phases=grey_values,
        contrast_to_noise=_contrast_to_noise(grey_values),
        edges=edges,
        counts=dict(sorted(counts.items())),
        slices=sample,
        ring_level=rings.level(),
        uncertain_percent=_uncertain_percent(grey, phases, sample, thresholds, noise_sigma),
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


def _uncertain_percent(
    grey: VolumeLike,
    phases: VolumeLike,
    sample: tuple[int, ...],
    thresholds: Sequence[float],
    noise_sigma: float | None,
) -> float | None:
    """Share of the region's voxels in the sampled slices that lie within one sigma of a threshold, in percent."""
    if noise_sigma is None or not thresholds:
        return None
    near, total = 0, 0
    for z in sample:
        values = np.asarray(grey[z : z + 1], np.float32)[np.asarray(phases[z : z + 1]) != 0]
        total += values.size
        close = np.zeros(values.shape, bool)
        for threshold in thresholds:
            close |= np.abs(values - np.float32(threshold)) <= noise_sigma
        near += int(np.count_nonzero(close))
    return 100.0 * near / total if total else None


class _Rings:
    """Sums what sectors of slices have alike at each radius.

    Parameters
    ----------
    rows, columns : int
        Size of the slices.
    """

    def __init__(self, rows: int, columns: int) -> None:
        y = np.arange(rows)[:, np.newaxis] - (rows - 1) / 2
        x = np.arange(columns) - (columns - 1) / 2
        self._radii = int(math.hypot(rows / 2, columns / 2)) + 1
        sector = ((np.arctan2(y, x) / (2 * math.pi) + 0.5) * _SECTORS).astype(np.int32) % _SECTORS
        arc = (sector * self._radii + np.hypot(y, x).astype(np.int32)).ravel()
        # Voxels in the order of their arcs, and where each arc starts.
        self._order = np.argsort(arc, kind="stable").astype(np.int32)
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(arc, minlength=_SECTORS * self._radii))])
        self._products = 0.0
        self._weights = 0.0
        self._arcs = 0

    def add(self, values: NDArray[np.float32], labels: NDArray[np.uint8], interior: NDArray[np.bool_]) -> None:
        """Take a slice (rows, columns) in: grey values, phases, and which voxels are inside their phase."""
        usable = interior & (labels != 0)
        rest = np.full(values.shape, np.nan, np.float32)
        for phase in np.unique(labels[usable]):
            here = usable & (labels == phase)
            rest[here] = values[here] - np.median(values[here])
        medians, counts = _arc_medians(rest.ravel()[self._order], self._starts)
        profiles = _without_wide(medians.reshape(_SECTORS, -1), _RING_REACH_PX)
        counts = counts.reshape(_SECTORS, -1)
        for sector in range(_SECTORS):
            other = (sector + _APART) % _SECTORS
            both = np.isfinite(profiles[sector]) & np.isfinite(profiles[other])
            weights = np.sqrt(counts[sector][both] * counts[other][both])
            self._products += float((weights * profiles[sector][both] * profiles[other][both]).sum())
            self._weights += float(weights.sum())
            self._arcs += int(np.count_nonzero(both))

    def level(self) -> float | None:
        """Root mean square of the rings in all slices; None where too few arcs were compared."""
        if self._arcs < _MINIMUM_ARCS:
            return None
        return math.sqrt(max(0.0, self._products / self._weights))


@njit(cache=True)
def _arc_medians(
    values: NDArray[np.float32], starts: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:  # pragma: no cover - compiled
    """Median and number of the values of each arc that are not NaN; the median is NaN where there are too few."""
    arcs = len(starts) - 1
    medians, counts = np.full(arcs, np.nan), np.zeros(arcs)
    for arc in range(arcs):
        part = values[starts[arc] : starts[arc + 1]]
        part = part[~np.isnan(part)]
        counts[arc] = part.size
        if part.size >= _MINIMUM_ARC:
            medians[arc] = np.median(part)
    return medians, counts


@njit(cache=True)
def _without_wide(profiles: NDArray[np.float64], reach: int) -> NDArray[np.float64]:  # pragma: no cover - compiled
    """Take a running median over `reach` values on each side off each row; NaN stays, and where there are too few."""
    narrow = np.full(profiles.shape, np.nan)
    for row in range(len(profiles)):
        for index in range(profiles.shape[1]):
            near = profiles[row, max(0, index - reach) : index + reach + 1]
            near = near[~np.isnan(near)]
            if near.size >= _MINIMUM_NEIGHBOURS:
                narrow[row, index] = profiles[row, index] - np.median(near)
    return narrow
