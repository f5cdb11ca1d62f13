"""Single-distance phase retrieval of a sample of one material: Paganin et al. (2002), DOI 10.1046/j.1365-2818.2002.01010.x.

A low-pass filter of each projection, so it reaches beyond the rows of a slab: `PaganinFilter.reach` says how far. Its input
is the transmission, free of dead pixels and NaN; the usual logarithm follows.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Final

import numpy as np
import scipy.fft
from numba import njit
from numpy.typing import NDArray

from ..errors import InputError, ParameterError
from ..reconstruction.threads import run_in_threads

# Planck's constant times the speed of light (exact in the SI), divided by the charge of the electron: keV m.
_KEV_M: Final = 1.239841984332003e-9
# What the kernel lacks beyond its reach, as a share of its sum: of the part that falls exponentially, and of the faint
# tail of alternating sign that only the highest frequency along the rows meets.
_TOLERANCE: Final = 1e-5
_ALTERNATING_TOLERANCE: Final = 1e-4
_SHORTEST_REACH: Final = 2
_SHORTEST_WIDTH: Final = 3  # of a projection, in lengths of the filter
# Rows that are transformed together are filled up to a multiple of this: wider than any vector of pocketfft, whose
# left-over transforms go through other code.
_ROWS_TOGETHER: Final = 16
_FREQUENCIES_AT_ONCE: Final = 64

Array32 = NDArray[np.float32]
Array64 = NDArray[np.float64]


def wavelength_um(energy_kev: float) -> float:
    """Wavelength in um of X-rays of an energy in keV."""
    return _KEV_M / energy_kev * 1e6


def delta_beta_of_alpha(alpha: float) -> float:
    """Ratio delta/beta that TomoPy's regularisation `alpha` stands for: alpha = beta / (4 pi**2 delta)."""
    if not alpha > 0:
        raise ParameterError(f"alpha is {alpha}: give a number above 0, such as 1e-4 (a delta/beta of 253)")
    return 1 / (4 * math.pi**2 * alpha)


class PaganinFilter:
    """The filter 1 / (1 + (2 pi l)**2 f**2) on projections of transmission, f in cycles per length.

    Its length l is sqrt(wavelength * distance * (delta/beta) / (4 pi)). Columns are filtered in Fourier space, the detector's
    borders continued by their values. Along the rows each Fourier component of the columns is convolved with its own
    kernel, which is the inverse Fourier transform of the filter, cut where 1e-5 of its sum is left: a sum over
    neighbouring rows in a fixed order, so that a row's bits do not depend on the slab that it is computed in, and no
    seam shows.

    Parameters
    ----------
    columns : int
        Width of the projections.
    pixel_size_um : float
        Distance of two columns at the sample.
    energy_kev : float
    distance_mm : float
        From the sample to the detector; where the beam diverges, the effective distance (divided by the magnification).
    delta_beta : float
        Refractive decrement over absorption index, delta/beta, of the sample's material at this energy.
    row_spacing_um : float or None
        Distance of two rows where pixels are not square.

    Attributes
    ----------
    length_um : float
        The filter's length l: edges of the sample are smeared over it, as propagation sharpened them.
    reach_rows, reach_columns : int
        How many rows and columns the kernel extends to each side.
    width : int
        Columns that are transformed, those of the continued borders among them.
    kernels : (reach_rows + 1, 2 frequencies) float32
        Along the rows, by distance, for each frequency of the columns; each value stands twice, for real and imaginary part.
    used : (reach_rows + 1,) int64
        How many of a distance's values are not 0.

    Raises
    ------
    ParameterError
        A quantity that is not above 0.
    """

    def __init__(
        self,
        columns: int,
        *,
        pixel_size_um: float,
        energy_kev: float,
        distance_mm: float,
        delta_beta: float,
        row_spacing_um: float | None = None,
    ) -> None:
        spacing = pixel_size_um if row_spacing_um is None else row_spacing_um
        quantities = {
            "columns": columns,
            "pixel_size_um": pixel_size_um,
            "row_spacing_um": spacing,
            "energy_kev": energy_kev,
            "distance_mm": distance_mm,
            "delta_beta": delta_beta,
        }
        for name, value in quantities.items():
            if not (value > 0 and math.isfinite(value)):
                raise ParameterError(f"phase retrieval: {name} is {value}: give a number above 0")
        self.columns = columns
        self.length_um = math.sqrt(wavelength_um(energy_kev) * distance_mm * 1e3 * delta_beta / (4 * math.pi))
        along_row, across_rows = self.length_um / pixel_size_um, self.length_um / spacing
        if along_row > columns / _SHORTEST_WIDTH:
            raise ParameterError(
                f"phase retrieval: with delta_beta {delta_beta:g}, distance_mm {distance_mm:g}, energy_kev {energy_kev:g} and "
                f"pixel_size_um {pixel_size_um:g} the filter is {along_row:.0f} pixels long, more than a third of the "
                f"{columns} columns: check their units, or lower delta_beta"
            )
        self.reach_columns = int(_reaches(np.zeros(1), across_rows, along_row)[0])
        self.width = int(scipy.fft.next_fast_len(columns + 2 * self.reach_columns, real=True))
        frequencies = np.arange(self.width // 2 + 1) / self.width
        reaches = _reaches(frequencies, along_row, across_rows)
        self.reach_rows = int(reaches[0])
        self._kernel_of = (frequencies, reaches, along_row, across_rows)

    @property
    def kernels(self) -> Array32:
        """Kernels along the rows, see above."""
        return self._kernels_and_used[0]

    @property
    def used(self) -> NDArray[np.int64]:
        """How many values of each distance are not 0."""
        return self._kernels_and_used[1]

    @cached_property
    def _kernels_and_used(self) -> tuple[Array32, NDArray[np.int64]]:
        # Not before it is filtered: they are large, and checks of a request need their reach alone.
        return _row_kernels(*self._kernel_of)

    def reach(self, start: int, stop: int, rows: int) -> tuple[int, int]:
        """First row, and the one after the last, that rows [start, stop) of a detector with `rows` rows are made of."""
        return max(0, start - self.reach_rows), min(rows, stop + self.reach_rows)

    def workspace_bytes(self, rows: int) -> int:
        """Most memory that a thread uses for `rows` rows, those within reach included, beside input and output."""
        return 5 * 4 * (self.width + 2) * (rows + _ROWS_TOGETHER)

    def __call__(self, transmissions: Array32, first_row: int, start: int, stop: int, rows: int) -> Array32:
        """Filtered transmissions of rows [start, stop).

        Their negative logarithm is the line integral of the attenuation coefficient, as for a scan without phase contrast;
        divided by the material's coefficient it is the projected thickness.

        Parameters
        ----------
        transmissions : (angles, rows given, columns) float32, dimensionless
            Finite. Rows from `first_row` on, `reach(start, stop, rows)` at least.
        first_row : int
            The detector's row that the first of `transmissions` is.
        start, stop : int
            Rows of the detector that are wanted.
        rows : int
            Rows of the detector: beyond the first and the last the values of these continue.

        Returns
        -------
        (angles, stop - start, columns) float32
            `transmissions` is not changed.

        Raises
        ------
        InputError
            Another width, or rows within reach that are not given.
        """
        given = transmissions.shape[1] if transmissions.ndim == 3 else 0
        low, high = self.reach(start, stop, rows)
        if transmissions.ndim != 3 or transmissions.shape[2] != self.columns:
            raise InputError(
                f"transmissions have the shape {transmissions.shape}: give (angles, rows, {self.columns} columns)"
            )
        if not (0 <= start < stop <= rows and first_row <= low and high <= first_row + given):
            raise InputError(
                f"rows [{first_row}, {first_row + given}) of {rows} are given: rows [{start}, {stop}) need [{low}, {high})"
            )
        out = np.empty((transmissions.shape[0], stop - start, self.columns), np.float32)
        # Rows above and below each wanted row, by distance; beyond the detector they are its first and last.
        sources = np.clip(np.arange(start - self.reach_rows, stop + self.reach_rows), 0, rows - 1) - low

        def filter_projection(angle: int) -> None:
            spectrum = self._spectrum(transmissions[angle, low - first_row : high - first_row])
            filtered = np.zeros((_filled(stop - start), spectrum.shape[1]), np.complex64)
            _convolve_rows(
                spectrum.view(np.float32), sources, self.kernels, self.used, filtered[: stop - start].view(np.float32)
            )
            image = scipy.fft.irfft(filtered, self.width, axis=1, overwrite_x=True)
            out[angle] = image[: stop - start, self.reach_columns : self.reach_columns + self.columns]

        run_in_threads(filter_projection, len(transmissions))
        return out

    def line_integrals(
        self, projections: Array32, first_row: int, start: int, stop: int, rows: int, minimum_transmission: float
    ) -> Array32:
        """As calling the filter, but from line integrals (with phase contrast) to line integrals.

        Parameters
        ----------
        projections : (angles, rows given, columns) float32
            Negative logarithms of the transmissions.
        first_row, start, stop, rows : int
            As for calling.
        minimum_transmission : float
            Filtered transmission below this counts as this.

        Returns
        -------
        (angles, stop - start, columns) float32, line integrals, dimensionless

        Raises
        ------
        InputError
            As for calling.
        """
        filtered = self(np.exp(-projections), first_row, start, stop, rows)
        np.maximum(filtered, np.float32(minimum_transmission), out=filtered)
        np.log(filtered, out=filtered)
        return np.negative(filtered, out=filtered)

    def _spectrum(self, projection: Array32) -> NDArray[np.complex64]:
        """Fourier transform along the columns, (rows, frequencies), of a projection continued on both sides."""
        rows = len(projection)
        left = self.reach_columns
        right = left + self.columns
        padded = np.empty((_filled(rows), self.width), np.float32)
        padded[:rows, left:right] = projection
        padded[:rows, :left] = projection[:, :1]
        padded[:rows, right : right + left] = projection[:, -1:]
        padded[:rows, right + left :] = (projection[:, :1] + projection[:, -1:]) / 2
        padded[rows:] = 0
        return np.asarray(scipy.fft.rfft(padded, axis=1), np.complex64)


def _filled(rows: int) -> int:
    return rows + -rows % _ROWS_TOGETHER


def _reaches(frequencies: Array64, along: float, across: float) -> NDArray[np.int64]:
    """How far the kernel of each frequency extends, in pixels across; never more than that of a lower frequency.

    Parameters
    ----------
    frequencies : (frequencies,) float64
        Cycles per pixel along.
    along, across : float
        The filter's length in pixels along the axis of the frequencies and across it.
    """
    lowest = 1 + (2 * np.pi * along * frequencies) ** 2
    # The kernel falls exponentially, from the filter's value at this frequency.
    length = across / np.sqrt(lowest)
    exponential = length * np.log(np.maximum(1 / (lowest * _TOLERANCE), 1))
    # The filter's kink at the Nyquist frequency makes a tail c (-1)**k / k**2, whose partial sums are as c / k**2.
    square = (2 * np.pi * across) ** 2
    kink = square / (2 * np.pi**2) / (lowest + square / 4) ** 2
    alternating = np.sqrt(kink / _ALTERNATING_TOLERANCE)
    return np.ceil(np.maximum(np.maximum(exponential, alternating), _SHORTEST_REACH)).astype(np.int64)


def _row_kernels(
    frequencies: Array64, reaches: NDArray[np.int64], along: float, across: float
) -> tuple[Array32, NDArray[np.int64]]:
    """Kernels along the rows for each frequency of the columns.

    Returns
    -------
    kernels : (reach + 1, 2 frequencies) float32
        By distance in rows; each value stands twice, for the real and the imaginary part.
    used : (reach + 1,) int64
        How many of a distance's values are not 0.
    """
    reach = int(reaches[0])
    length = 1 << max(8, math.ceil(math.log2(8 * reach)))
    across_frequencies = np.arange(length // 2 + 1) / length
    kernels = np.zeros((reach + 1, len(frequencies)))
    distance = np.arange(reach + 1)[:, None]
    for first in range(0, len(frequencies), _FREQUENCIES_AT_ONCE):
        part = slice(first, first + _FREQUENCIES_AT_ONCE)
        lowest = 1 + (2 * np.pi * along * frequencies[part]) ** 2
        gain = 1 / (lowest + (2 * np.pi * across * across_frequencies[:, None]) ** 2)
        kernel = np.where(distance <= reaches[part], scipy.fft.irfft(gain, length, axis=0)[: reach + 1], 0)
        # What was cut off is given to the middle, so that what is constant along the rows is filtered exactly.
        kernel[0] += 1 / lowest - (kernel[0] + 2 * kernel[1:].sum(0))
        kernels[:, part] = kernel
    used = 2 * (reaches[None, :] >= distance).sum(1)
    return np.repeat(kernels, 2, axis=1).astype(np.float32), used.astype(np.int64)


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _convolve_rows(rows, sources, kernels, used, out):  # type: ignore[no-untyped-def]  # pragma: no cover - compiled
    """Sum over the rows within reach of each wanted row; `sources` is the row at each place from the reach above on."""
    reach = len(kernels) - 1
    for row in range(len(out)):
        total = out[row]
        here = rows[sources[row + reach]]
        kernel = kernels[0]
        for index in range(total.size):
            total[index] = kernel[index] * here[index]
        for distance in range(1, reach + 1):
            count = used[distance]
            above = rows[sources[row + reach - distance]][:count]
            below = rows[sources[row + reach + distance]][:count]
            kernel = kernels[distance][:count]
            part = total[:count]
            for index in range(part.size):
                part[index] += kernel[index] * (above[index] + below[index])
