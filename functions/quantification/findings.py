"""What a measurement needs to know, and what it collects: shared by the modules that make metrics.

The metrics themselves are made in `metrics`, `box_metrics` and `object_metrics`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .porosity import Bounds, PhaseCounts
from .uncertainty import Interval

if TYPE_CHECKING:
    from ..volume import VolumeLike
    from .metrics import QuantificationSettings


@dataclass(frozen=True)
class Scale:
    """Edges of a voxel (z, y, x) and their unit, as it ends names."""

    voxel_size: tuple[float, float, float]
    unit: str

    @property
    def voxel_volume(self) -> float:
        """Volume of a voxel."""
        return math.prod(self.voxel_size)


@dataclass(frozen=True)
class Task:
    """What is measured, and how.

    Attributes
    ----------
    phases : volume-like (z, y, x) uint8
        0 outside the sample region.
    counts : PhaseCounts
        Of the phases.
    bounds : Bounds
        Bounding box of the region.
    scale : Scale
        Edges of a voxel and their unit.
    settings : QuantificationSettings
        What is measured.
    memory_bytes : int
        Memory that a pass over the volume may take.
    """

    phases: VolumeLike
    counts: PhaseCounts
    bounds: Bounds
    scale: Scale
    settings: QuantificationSettings
    memory_bytes: int

    @property
    def region_volume(self) -> float:
        """Volume of the sample region."""
        return self.counts.region_voxels * self.scale.voxel_volume


@dataclass
class Findings:
    """What was found so far; as in `MetricsResult`, but for the intervals, which are those from sub-volumes."""

    metrics: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, Interval] = field(default_factory=dict)
    histograms: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    profiles: dict[str, list[float]] = field(default_factory=dict)
    representative_volume: dict[str, list[float]] = field(default_factory=dict)
    maps: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, value: float, interval: Interval | None = None) -> None:
        """Take up a metric."""
        self.metrics[name] = float(value)
        if interval is not None:
            self.intervals[name] = interval

    def take(self, other: Findings) -> None:
        """Take up what was found elsewhere."""
        self.metrics |= other.metrics
        self.intervals |= other.intervals
        self.histograms |= other.histograms
        self.profiles |= other.profiles
        self.representative_volume |= other.representative_volume
        self.maps |= other.maps
        self.notes += other.notes
