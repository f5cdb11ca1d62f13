"""What an indirect detector records of a monochromatic beam: photon noise, fixed patterns, ring-making errors, zingers.
Leaves the sample's line integrals to `projection` and the file to `scan_file`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .random_streams import Stream, generator

FloatArray = NDArray[np.float64]
Frame = NDArray[np.uint16]

SATURATION_COUNTS: Final = 65535
# Dust and scratches on a scintillator are taller than a row, so neighbouring slices share their rings.
_DEFECT_HEIGHT_ROWS: Final = 8
_OFFSET_SPREAD: Final = 0.05
_WEAKEST_ZINGER: Final = 0.3


@dataclass(frozen=True)
class DetectorSettings:
    """Size, beam and defects of a detector.

    Attributes
    ----------
    rows, columns : int
        Size of a frame.
    seed : int
        Seed of all patterns and noise.
    photons : float
        Expected photons a pixel in a frame where the open beam is brightest.
    open_beam_counts : float
        Counts above the dark level that so many photons give.
    dark_counts : float
        Mean dark level; the pixels' own levels spread by 5 % of it.
    readout_noise_counts : float
        Standard deviation of the readout noise.
    beam_unevenness : float
        1 - darkest / brightest place of the open beam.
    beam_drift : float
        Relative change of the beam's intensity from the scan's start to its end.
    gain_spread : float
        Standard deviation of the pixels' gains, which flat fields show too (so that they correct it).
    ring_strength, ring_fraction : float
        Standard deviation of the gain errors that projections have and flat fields have not, and the fraction of the
        pixels that have them.
    dead_pixel_fraction : float
        Fraction of the pixels that never see light.
    zinger_rate : float
        Zingers a pixel and frame.
    """

    rows: int
    columns: int
    seed: int
    photons: float = 20000.0
    open_beam_counts: float = 30000.0
    dark_counts: float = 100.0
    readout_noise_counts: float = 3.0
    beam_unevenness: float = 0.3
    beam_drift: float = 0.0
    gain_spread: float = 0.02
    ring_strength: float = 0.02
    ring_fraction: float = 0.03
    dead_pixel_fraction: float = 0.0
    zinger_rate: float = 1e-4


class Detector:
    """Records frames; every frame is a pure function of the settings, its kind, its index and what falls on it.

    Attributes
    ----------
    beam : float64 array, shape (rows, columns)
        Open beam relative to its brightest place.
    gain, ring_gain, offset_counts : float64 arrays, shape (rows, columns)
        Gain in all frames, further gain in projections, dark level.
    dead : bool array, shape (rows, columns)
        Pixels that never see light.
    """

    def __init__(self, settings: DetectorSettings) -> None:
        self.settings = settings
        shape = (settings.rows, settings.columns)
        random = generator(settings.seed, Stream.FIXED_PATTERN)
        self.beam = _uneven_beam(random, shape, settings.beam_unevenness)
        self.gain = np.clip(1.0 + settings.gain_spread * random.standard_normal(shape), 0.1, 2.0)
        self.offset_counts = settings.dark_counts * (1.0 + _OFFSET_SPREAD * random.standard_normal(shape))
        self.dead = random.random(shape) < settings.dead_pixel_fraction
        self.ring_gain = 1.0 + _defects(random, shape, settings.ring_strength, settings.ring_fraction)

    def projection(self, line_integrals: NDArray[np.float32], index: int, elapsed: float = 0.0) -> Frame:
        """Frame of a sample with these line integrals (rows, columns) at a time 0 (start) <= elapsed <= 1 (end)."""
        photons = self._open_beam_photons(elapsed) * np.exp(-line_integrals.astype(np.float64))
        return self._record(
            photons, self.gain * self.ring_gain, generator(self.settings.seed, Stream.PROJECTION, index)
        )

    def flat(self, index: int, elapsed: float = 0.0) -> Frame:
        """Frame of the open beam."""
        photons = self._open_beam_photons(elapsed)
        return self._record(photons, self.gain, generator(self.settings.seed, Stream.FLAT, index))

    def dark(self, index: int) -> Frame:
        """Frame without beam."""
        photons = np.zeros_like(self.beam)
        return self._record(photons, self.gain, generator(self.settings.seed, Stream.DARK, index))

    def _open_beam_photons(self, elapsed: float) -> FloatArray:
        return self.settings.photons * (1.0 + self.settings.beam_drift * elapsed) * self.beam

    def _record(self, photons: FloatArray, gain: FloatArray, random: np.random.Generator) -> Frame:
        settings = self.settings
        detected = random.poisson(np.where(self.dead, 0.0, photons))
        counts = detected * (settings.open_beam_counts / settings.photons) * gain + self.offset_counts
        counts += settings.readout_noise_counts * random.standard_normal(counts.shape)
        hits = random.integers(0, counts.size, random.poisson(settings.zinger_rate * counts.size))
        counts.flat[hits] += SATURATION_COUNTS * random.uniform(_WEAKEST_ZINGER, 1.0, len(hits))
        return np.clip(np.rint(counts), 0, SATURATION_COUNTS).astype(np.uint16)


def _uneven_beam(random: np.random.Generator, shape: tuple[int, int], unevenness: float) -> FloatArray:
    """A smooth profile between 1 - unevenness and 1: a beam narrow in height, off centre, with faint bands."""
    y = np.linspace(-1.0, 1.0, shape[0])[:, None]
    x = np.linspace(-1.0, 1.0, shape[1])[None, :]
    off_y, off_x, phase = random.uniform(-0.4, 0.4), random.uniform(-0.4, 0.4), random.uniform(0.0, 2.0 * np.pi)
    loss = (y - off_y) ** 2 + 0.5 * (x - off_x) ** 2 + 0.1 * np.cos(9.0 * y + 2.0 * x + phase)
    loss -= loss.min()
    profile: FloatArray = 1.0 - unevenness * loss / loss.max()
    return profile


def _defects(random: np.random.Generator, shape: tuple[int, int], strength: float, fraction: float) -> FloatArray:
    """Relative gain errors, the same over a few rows of a column; zero where there is no defect."""
    coarse = (-(-shape[0] // _DEFECT_HEIGHT_ROWS), shape[1])
    errors = np.where(random.random(coarse) < fraction, strength * random.standard_normal(coarse), 0.0)
    return np.repeat(np.clip(errors, -0.5, 0.5), _DEFECT_HEIGHT_ROWS, axis=0)[: shape[0]]
