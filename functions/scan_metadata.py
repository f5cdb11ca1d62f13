"""What a scan's file says about the measurement, whatever its units and spellings; None where it says nothing usable.

Where a layout keeps each value is known to `scan_layouts`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import h5py

from .scan_hdf5 import HDF5_ERRORS, resolve, text_of


@dataclass(frozen=True)
class ScanMetadata:
    """What the file says about the measurement; None where it says nothing or nothing plausible.

    Attributes
    ----------
    pixel_size_um : float or None
        Size of a pixel at the sample, micrometres. Data Exchange: `detection_system/objective/resolution`, which is
        the pixel size at the sample; else `detector/pixel_size` (that of the sensor) times `detector/binning_x`
        divided by `objective/magnification`. A sensor's pixel size without a magnification is not used.
        NXtomo: `sample/x_pixel_size`, else `detector/x_pixel_size`.
    row_spacing_um : float or None
        Distance of two rows of pixels at the sample, micrometres, where pixels are not square. Data Exchange: the pixel
        size times `detector/binning_y` over `detector/binning_x`. NXtomo: `y_pixel_size` beside `x_pixel_size`.
    energy_kev : float or None
        Photon energy, keV.
    distance_mm : float or None
        Distance from sample to detector, millimetres.
    exposure_time_s : float or None
        Exposure of one projection, seconds.
    magnification : float or None
        Magnification of the objective.
    sample, proposal, experimenter, beamline : str or None
        As written in the file.
    start_time : str or None
        ISO 8601 in UTC where the file gives the time zone, ISO 8601 without a zone where it does not, and the file's
        own words where they are not ISO 8601.
    """

    pixel_size_um: float | None = None
    row_spacing_um: float | None = None
    energy_kev: float | None = None
    distance_mm: float | None = None
    exposure_time_s: float | None = None
    magnification: float | None = None
    sample: str | None = None
    proposal: str | None = None
    experimenter: str | None = None
    beamline: str | None = None
    start_time: str | None = None


def _units(spellings: Mapping[float, str]) -> dict[str, float]:
    """Factor of every spelling of a unit; lower case, singular, micro as u."""
    return {spelling: factor for factor, text in spellings.items() for spelling in text.split()}


LENGTH_UM = _units(
    {
        1e6: "m meter metre",
        1e4: "cm centimeter centimetre",
        1e3: "mm millimeter millimetre",
        1.0: "um micron micrometer micrometre",
        1e-3: "nm nanometer nanometre",
        1e-4: "angstrom",
    }
)
LENGTH_MM = {unit: factor * 1e-3 for unit, factor in LENGTH_UM.items()}
ENERGY_KEV = _units({1e-3: "ev", 1.0: "kev"})
TIME_S = _units({60.0: "min minute", 1.0: "s sec second", 1e-3: "ms msec millisecond", 1e-6: "us microsecond"})
ANGLE_DEG = _units({1.0: "deg degree \u00b0", math.degrees(1.0): "rad radian", math.degrees(1e-3): "mrad"})
COUNTS = _units({1.0: "count"})
NO_UNIT = {"": 1.0}
PIXEL_SIZE_UM = (1e-4, 1e4)
PHOTON_ENERGY_KEV = (1e-2, 1e4)
_POSITIVE = (0.0, math.inf)


class FileMetadata:
    """Optional values of a file; each is None where it is absent, unreadable or implausible."""

    def __init__(self, file: h5py.File, places: Sequence[str] = ("",)) -> None:
        self._file = file
        self._places = places

    def text(self, *names: str) -> str | None:
        """First text under one of the names."""
        return next((text for value, _ in self._values(names) if (text := text_of(value)) is not None), None)

    def number(self, names: Sequence[str], factors: Mapping[str, float], default_unit: str) -> float | None:
        """First finite number under one of the names, in the unit whose factor is 1."""
        for value, units in self._values(names):
            factor = unit_factor(factors, units, default_unit)
            number = _number(value)
            if factor is not None and number is not None:
                return number * factor
        return None

    def quantity(
        self,
        names: Sequence[str],
        factors: Mapping[str, float],
        default_unit: str,
        limits: tuple[float, float] = _POSITIVE,
    ) -> float | None:
        """First plausible (positive, within limits) number under one of the names."""
        numbers = (self.number((name,), factors, default_unit) for name in names)
        return next((number for number in numbers if plausible(number, limits) is not None), None)

    def magnification(self, *names: str) -> float | None:
        """First magnification under one of the names: a number, or a text such as "5x" or "Mitutoyo 10X"."""
        for text in filter(None, (self.text(name) for name in names)):
            match = re.search(r"(\d+(?:\.\d*)?)\s*[xX×]", text)
            number = plausible(_number(match.group(1) if match else text), _POSITIVE)
            if number is not None:
                return number
        return None

    def _values(self, names: Sequence[str]) -> Iterator[tuple[Any, str | None]]:
        """First element and units of every dataset under one of the names, the names in order."""
        for name in names:
            for place in self._places:
                found = resolve(self._file, f"{place}/{name}")
                if not isinstance(found, h5py.Dataset) or not found.size:
                    continue
                try:
                    value = found[(0,) * found.ndim]
                    units = text_of(found.attrs.get("units"))
                except HDF5_ERRORS:
                    continue  # optional: what cannot be read is as good as absent
                yield value, units


def unit_factor(factors: Mapping[str, float], units: str | None, default_unit: str) -> float | None:
    """Factor of a unit however it is spelled; None for one that is not known (no guess is better than a wrong one)."""
    # micro comes as U+00B5 or U+03BC; case carries no meaning among the prefixes that occur (k, m, u, n)
    unit = (units or default_unit).replace("\u00b5", "u").replace("\u03bc", "u").lower()
    return factors.get(unit, factors.get(unit.removesuffix("s")))


def plausible(number: float | None, limits: tuple[float, float]) -> float | None:
    """The number if it lies between the limits, else None."""
    return number if number is not None and limits[0] < number < limits[1] else None


def iso_time(text: str | None) -> str | None:
    """A time in ISO 8601, in UTC where its zone is known; other words unchanged."""
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return text
    if time.tzinfo is None:
        return time.isoformat()
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _number(value: Any) -> float | None:
    try:
        number = float(text_of(value) or "nan")
    except ValueError:
        return None
    return number if math.isfinite(number) else None
