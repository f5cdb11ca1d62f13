"""Filtered backprojection along lines with linear interpolation.

Cost grows with angles * columns^2: for many wide slices `fourier` is quicker and a little more accurate.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt
import scipy.fft
from numba import njit

from .direct import Complexes, DirectReconstructor, Floats, filtering_bytes
from .threads import run_in_threads

LANES = 32  # below this LLVM does not vectorise the innermost loop: five times slower
TILE = 16  # pixels; a tile of accumulators (32 KiB) stays in a core's first cache


class FilteredBackprojection(DirectReconstructor):
    """Filtered backprojection (Kak & Slaney 1988, chapter 3, DOI 10.1137/1.9780898719277).

    See `DirectReconstructor` for the parameters.
    """

    lanes: ClassVar[int] = LANES

    @classmethod
    def workspace_bytes(cls, angles: int, columns: int) -> int:
        """See `DirectReconstructor.workspace_bytes`."""
        return angles * (columns + 2) * LANES * 4 + filtering_bytes(columns, LANES)

    def _reconstruct(self, projections: Floats, centers: npt.NDArray[np.float64], slices: Floats) -> None:
        rows, n, _ = slices.shape
        # One column beside the detector on either side: a pixel centre at the circle's rim interpolates with it.
        lines = np.empty((self._theta.size, n + 2, LANES), dtype=np.float32)
        for first_row in range(0, rows, LANES):
            batch = slice(first_row, min(first_row + LANES, rows))
            self._filter(projections, batch, self._gains(centers[batch], (n - 1) / 2 + 1), lines)
            self._backproject(lines, slices[batch])

    def _filter(self, projections: Floats, batch: slice, gains: Complexes, lines: Floats) -> None:
        chunks = self._angle_chunks()

        def fill(index: int) -> None:
            first, last = chunks[index]
            spectra = self._filtered_spectra(projections, batch, first, last, gains)
            filtered = scipy.fft.irfft(spectra, n=self._padded, axis=1, workers=1, overwrite_x=True)
            lines[first:last] = filtered[:, : self.columns + 2]

        run_in_threads(fill, len(chunks))

    def _backproject(self, lines: Floats, slices: Floats) -> None:
        cosine, sine = np.cos(self._theta).astype(np.float32), np.sin(self._theta).astype(np.float32)
        tiles = -(-self.columns // TILE)

        def backproject(index: int) -> None:
            y, x = index // tiles * TILE, index % tiles * TILE
            _backproject_tile(lines, cosine, sine, self._circle, y, x, slices)

        run_in_threads(backproject, tiles * tiles)


@njit(cache=True, nogil=True, error_model="numpy")
def _backproject_tile(
    lines: Floats,
    cosine: Floats,
    sine: Floats,
    circle: npt.NDArray[np.int64],
    first_y: int,
    first_x: int,
    slices: Floats,
) -> None:
    """Backproject one tile of all lanes; `lines` (angles, n + 2, LANES) has the rotation axis at (n - 1) / 2 + 1."""
    rows, n, _ = slices.shape
    middle = np.float32((n - 1) / 2)
    last_y, last_x = min(first_y + TILE, n), min(first_x + TILE, n)
    sums = np.zeros((TILE, TILE, LANES), dtype=np.float32)
    for angle in range(lines.shape[0]):
        line = lines[angle]
        for y in range(first_y, last_y):
            row_sums = sums[y - first_y]
            offset = (middle - np.float32(y)) * sine[angle] + (middle + np.float32(1))
            for x in range(max(first_x, circle[y, 0]), min(last_x, circle[y, 1])):
                position = (np.float32(x) - middle) * cosine[angle] + offset
                # Unsigned: signed indices may wrap, which keeps the loop from being vectorised.
                left, pixel = np.uint64(position), np.uint64(x - first_x)
                part = position - np.float32(left)
                for lane in range(LANES):
                    value = line[left, lane]
                    row_sums[pixel, lane] += part * (line[left + np.uint64(1), lane] - value) + value
    for lane in range(rows):
        for y in range(first_y, last_y):
            for x in range(first_x, last_x):  # outside the circle nothing was added
                slices[lane, y, x] = sums[y - first_y, x - first_x, lane]
