"""Reconstruction in Fourier space: projections are central lines of the slice's spectrum, gridded and transformed back.

Known as gridrec or fourierrec. Cost grows with angles * columns: the method for wide slices; `fbp` is the plain
alternative. `FourierProjector` is the same pair of transforms without a filter, for the iterative methods. The transforms
between samples and slices are `lane_nufft`'s.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from numba import njit

from ..errors import InputError, ParameterError
from .direct import Center, DirectReconstructor, Floats, circle_columns, padded_length
from .geometry import check_angles, check_projector_centers
from .lane_arrays import checked_input, checked_output
from .lane_fft import ELEMENT, LanePlan, half_to_packed, make_plan, real_roots, transform
from .lane_nufft import SliceTransform, Spares, grid_width
from .lane_vectors import LANES, load, spread, store, transpose
from .threads import run_in_threads, thread_count

ANGLES_A_TASK = 8

Doubles = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


class FourierGridding(DirectReconstructor):
    """Direct Fourier reconstruction by a type-1 nonuniform FFT; see `DirectReconstructor` for the parameters.

    The sum over all samples of the filtered spectra is evaluated at every pixel (no interpolation in the slice), to about
    3e-4 of the standard deviation of a slice of white noise, by spreading them onto an oversampled grid (`lane_nufft`; for
    tomography: Dowd et al. 1999, DOI 10.1117/12.363725, gridrec). One slice's numbers never mix with another's.

    Its workspace is kept from call to call, since fresh memory costs as much as half of the work.
    """

    lanes: ClassVar[int] = LANES

    def __init__(
        self,
        theta_rad: npt.ArrayLike,
        columns: int,
        center: Center | None = None,
        *,
        filter_name: str = "ramp",
        filter_cutoff: float = 1.0,
        filter_order: int = 2,
        padding: str = "edge",
    ) -> None:
        super().__init__(
            theta_rad,
            columns,
            center,
            filter_name=filter_name,
            filter_cutoff=filter_cutoff,
            filter_order=filter_order,
            padding=padding,
        )
        self._response = _both_halves(self._response / self._padded)
        self._lines = _LineSpectra(self._theta, columns)

    @classmethod
    def workspace_bytes(cls, angles: int, columns: int) -> int:
        """See `DirectReconstructor.workspace_bytes`."""
        padded = padded_length(columns)
        samples = padded // 2 + 1
        gains = 4 * samples
        elements = angles * samples + gains + thread_count() * padded
        return elements * ELEMENT * 4 + SliceTransform.workspace_bytes(angles, samples, columns)

    def _reconstruct(self, projections: Floats, centers: Doubles, slices: Floats) -> None:
        rows = slices.shape[0]
        spectra = self._lines.spectra.take()
        for first in range(0, rows, LANES):
            last = min(first + LANES, rows)
            gains = _lane_gains(self._response, centers[first:last], self._padded)
            self._lines.fill_from_rows(
                projections, first, last, self._pad_with_edge, gains, self._angular_weights, spectra
            )
            self._lines.transform.samples_to_slices(spectra, slices[first:last])
        self._lines.spectra.give(spectra)


class FourierProjector:
    """Projections of 16 slices as central lines of their spectra, and the exact transpose; see `operators.Projector`.

    A pixel is a band-limited point: it stands in a projection as the detector's sinc about its position, not as the chord
    through a square. Both directions go through the same grid and kernel (type-2 and type-1 nonuniform FFT), so that they
    are each other's transposes to rounding, and agree with the exact sums to about 3e-4.

    Parameters
    ----------
    theta_rad : (angles,) radians
    columns : width n of a projection and of a slice
    centers : rotation axis in pixels, one for all lanes or (lanes,), at most `LANES` of them

    Raises
    ------
    InputError
        angles that cannot be used, fewer than 2 columns
    ParameterError
        more centers than lanes, or one that is not finite or more than a width off the detector
    """

    lanes: ClassVar[int] = LANES

    def __init__(self, theta_rad: npt.ArrayLike, columns: int, centers: Center) -> None:
        self._theta = check_angles(theta_rad)
        if columns < 2:
            raise InputError(f"projections are {columns} columns wide; needed are at least 2")
        self.columns, self.angles = columns, self._theta.size
        self._centers = _centers_of_lanes(centers, columns)
        self._lines = _LineSpectra(self._theta, columns)
        padded = padded_length(columns)
        response = np.full(padded // 2 + 1, 1 / padded)
        self._forward_gains = _lane_gains(response, self._centers, padded)
        self._adjoint_gains = _lane_gains(_both_halves(response), self._centers, padded)
        self._weights = np.ones(self.angles, dtype=np.float32)

    def subset(self, angles: slice) -> FourierProjector:
        """The projector of a part of the angles."""
        return FourierProjector(self._theta[angles], self.columns, self._centers)

    @staticmethod
    def workspace_bytes(angles: int, columns: int) -> int:
        """Memory that a projector holds once both directions were used, arguments and results not counted."""
        margin = 8
        width = grid_width(columns)
        grid = (width // 2 + 1 + margin) * (width + margin) * ELEMENT * 4
        return FourierGridding.workspace_bytes(angles, columns) + grid

    def forward(self, slices: Floats, out: Floats | None = None) -> Floats:
        """Projections of slices.

        Parameters
        ----------
        slices : (n, n, LANES) float32, 1/pixel; what lies outside the circle of radius n / 2 is taken as zero
        out : (angles, n, LANES) float32, C-contiguous, overwritten; None makes a new array

        Returns
        -------
        (angles, n, LANES) float32, line integrals; `out` where given
        """
        slices = checked_input(slices, (self.columns, self.columns, LANES), "slices")
        target = checked_output(out, (self.angles, self.columns, LANES))
        spectra = self._lines.spectra.take()
        self._lines.fill_from_pixels(slices, self._forward_gains, spectra)
        self._lines.store_lanes(spectra, target)
        self._lines.spectra.give(spectra)
        return target

    def adjoint(self, projections: Floats, out: Floats | None = None) -> Floats:
        """The transpose of `forward`: backprojection without a filter.

        Parameters
        ----------
        projections : (angles, n, LANES) float32
        out : (n, n, LANES) float32, C-contiguous, overwritten; None makes a new array

        Returns
        -------
        (n, n, LANES) float32; zero outside the circle of radius n / 2; `out` where given
        """
        projections = checked_input(projections, (self.angles, self.columns, LANES), "projections")
        target = checked_output(out, (self.columns, self.columns, LANES))
        spectra = self._lines.spectra.take()
        self._lines.fill_from_lanes(projections, self._adjoint_gains, self._weights, spectra)
        self._lines.transform.samples_to_pixels(spectra, target)
        self._lines.spectra.give(spectra)
        return target


def _centers_of_lanes(centers: Center, columns: int) -> Doubles:
    given = np.asarray(centers, dtype=np.float64)
    if given.ndim > 1 or given.size > LANES:
        raise ParameterError(f"centers are {centers}; needed is a finite number of pixels, or at most {LANES} of them")
    check_projector_centers(given, columns)
    lanes = np.zeros(LANES)
    lanes[: given.size if given.ndim else LANES] = given
    return lanes


def _both_halves(response: Doubles) -> Doubles:
    """Half of what frequency 0 and the Nyquist frequency get: they stand on both halves of a line."""
    halved = response.copy()
    halved[[0, -1]] /= 2
    return halved


def _lane_gains(response: Doubles, centers: Doubles, padded: int) -> Floats:
    """`response` of each frequency, with a phase that moves each lane's axis to column 0: (samples * ELEMENT,)."""
    gains = np.zeros((response.size, 2, LANES), dtype=np.float32)
    cycles = np.arange(response.size) / padded
    for lane, center in enumerate(centers):  # each by itself, so that a lane's bits do not depend on the others
        gain = response * np.exp(2j * np.pi * cycles * center)
        gains[:, 0, lane], gains[:, 1, lane] = gain.real, gain.imag
    return gains.reshape(-1)


class _LineSpectra:
    """Projections of up to 16 rows to and from the samples on the lines of their spectra."""

    def __init__(self, theta: Doubles, columns: int) -> None:
        padded = padded_length(columns)
        samples = padded // 2 + 1
        self._angles, self._columns = theta.size, columns
        # A line at theta + pi is the conjugate of the line at theta: all lines lie in the half plane of positive sine.
        cosine, sine = np.cos(theta), np.sin(theta)
        self._signs = np.where(sine < 0, -1.0, 1.0)
        # Pixel centres are half a pixel off the transform's origin when the width is even: a shift of each projection.
        offset = 0.5 * (1 - columns % 2)
        self._shifts = 2 * math.pi / padded * offset * (cosine + sine)
        cells = grid_width(columns) / padded * self._signs  # between neighbours on a line
        self.transform = SliceTransform(cells * cosine, cells * sine, samples, columns, circle_columns(columns))
        self._plan: LanePlan = make_plan(padded // 2)
        self._roots = real_roots(padded)
        self._line_and_copy = Spares(2, padded * LANES)
        self.spectra = Spares(theta.size * samples * ELEMENT)

    def fill_from_rows(
        self,
        projections: Floats,
        first_row: int,
        last_row: int,
        pad_with_edge: bool,
        gains: Floats,
        weights: Floats,
        spectra: Floats,
    ) -> None:
        """Spectra of rows of (angles, rows, columns) projections, times the gains and each angle's weight."""

        def task(index: int) -> None:
            first, last = self._part(index)
            line, copy = spare = self._line_and_copy.take()
            _rows_to_spectra(
                projections, first, last, first_row, last_row, pad_with_edge, self._plan.radices, self._plan.twiddles,
                self._roots, gains, weights, self._shifts, self._signs, line, copy, spectra,
            )  # fmt: skip
            self._line_and_copy.give(spare)

        run_in_threads(task, self._parts())

    def fill_from_lanes(self, projections: Floats, gains: Floats, weights: Floats, spectra: Floats) -> None:
        """The same of (angles, columns, LANES) projections, padded with zeros."""
        source = projections.reshape(-1)

        def task(index: int) -> None:
            first, last = self._part(index)
            line, copy = spare = self._line_and_copy.take()
            _lanes_to_spectra(
                source, first, last, self._columns, self._plan.radices, self._plan.twiddles,
                self._roots, gains, weights, self._shifts, self._signs, line, copy, spectra,
            )  # fmt: skip
            self._line_and_copy.give(spare)

        run_in_threads(task, self._parts())

    def fill_from_pixels(self, slices: Floats, gains: Floats, spectra: Floats) -> None:
        """Spectra of the projections of (n, n, LANES) slices, times the conjugates of the gains."""
        self.transform.pixels_to_samples(slices, gains, self._shifts, self._signs, spectra)

    def store_lanes(self, spectra: Floats, projections: Floats) -> None:
        """Projections (angles, columns, LANES) of spectra."""
        target = projections.reshape(-1)

        def task(index: int) -> None:
            first, last = self._part(index)
            line, copy = spare = self._line_and_copy.take()
            _spectra_to_lanes(
                spectra, first, last, self._columns, self._plan.radices, self._plan.twiddles,
                self._roots, line, copy, target,
            )  # fmt: skip
            self._line_and_copy.give(spare)

        run_in_threads(task, self._parts())

    def _parts(self) -> int:
        return -(-self._angles // ANGLES_A_TASK)

    def _part(self, index: int) -> tuple[int, int]:
        return index * ANGLES_A_TASK, min((index + 1) * ANGLES_A_TASK, self._angles)


@njit(cache=True, nogil=True, error_model="numpy")
def _rows_to_spectra(
    projections: Floats,
    first: int,
    last: int,
    first_row: int,
    last_row: int,
    pad_with_edge: bool,
    radices: Integers,
    twiddles: Floats,
    roots: Floats,
    gains: Floats,
    weights: Floats,
    shifts: Doubles,
    signs: Doubles,
    line: Floats,
    copy: Floats,
    spectra: Floats,
) -> None:
    samples = line.size // ELEMENT + 1
    for angle in range(first, last):
        _gather_rows(projections, angle, first_row, last_row, pad_with_edge, line)
        packed = copy if transform(line, copy, radices, twiddles) else line
        to = angle * samples * ELEMENT
        _packed_to_samples(packed, roots, gains, weights[angle], shifts[angle], signs[angle], spectra, to)


@njit(cache=True, nogil=True, error_model="numpy")
def _gather_rows(
    projections: Floats, angle: int, first_row: int, last_row: int, pad_with_edge: bool, line: Floats
) -> None:
    """An angle's rows side by side, padded to the line's length; missing lanes are zeros."""
    _, rows, columns = projections.shape
    flat = projections.reshape(-1)
    length = line.size // LANES
    start = (angle * rows + first_row) * columns
    whole = columns // LANES * LANES if last_row - first_row == LANES else 0
    for column in range(0, whole, LANES):
        transpose(flat, start + column, columns, line, column * LANES, LANES)
    for column in range(whole, columns):
        for lane in range(last_row - first_row):
            line[column * LANES + lane] = flat[start + lane * columns + column]
        for lane in range(last_row - first_row, LANES):
            line[column * LANES + lane] = 0
    left = right = spread(np.float32(0))
    if pad_with_edge:
        left, right = load(line, 0), load(line, (columns - 1) * LANES)
    middle = columns + (length - columns) // 2  # from here on the padding belongs to the left edge (circular)
    for column in range(columns, middle):
        store(line, column * LANES, right)
    for column in range(middle, length):
        store(line, column * LANES, left)


@njit(cache=True, nogil=True, error_model="numpy")
def _lanes_to_spectra(
    projections: Floats,
    first: int,
    last: int,
    columns: int,
    radices: Integers,
    twiddles: Floats,
    roots: Floats,
    gains: Floats,
    weights: Floats,
    shifts: Doubles,
    signs: Doubles,
    line: Floats,
    copy: Floats,
    spectra: Floats,
) -> None:
    samples = line.size // ELEMENT + 1
    nothing = spread(np.float32(0))
    for angle in range(first, last):
        start = angle * columns * LANES
        for at in range(0, columns * LANES, LANES):
            store(line, at, load(projections, start + at))
        for at in range(columns * LANES, line.size, LANES):
            store(line, at, nothing)
        packed = copy if transform(line, copy, radices, twiddles) else line
        to = angle * samples * ELEMENT
        _packed_to_samples(packed, roots, gains, weights[angle], shifts[angle], signs[angle], spectra, to)


@njit(cache=True, nogil=True, error_model="numpy")
def _packed_to_samples(
    packed: Floats, roots: Floats, gains: Floats, weight: float, shift: float, sign: float, spectra: Floats, to: int
) -> None:
    """`lane_fft.packed_to_half`, sample k times its gains, weight and exp(i k shift); conjugated where `sign` is -1."""
    count = packed.size // ELEMENT
    turn_r, turn_i = math.cos(shift), math.sin(shift)
    low_r, low_i = weight * 1.0, weight * 0.0
    high_r, high_i = weight * math.cos(count * shift), weight * math.sin(count * shift)
    even, odd = load(packed, 0), load(packed, LANES)
    _put_sample(spectra, to, gains, 0, even + odd, even - even, low_r, low_i, sign)
    last = count * ELEMENT
    _put_sample(spectra, to + last, gains, last, even - odd, even - even, high_r, high_i, sign)
    half = np.float32(0.5)
    for k in range(1, count // 2 + 1):
        low_r, low_i = low_r * turn_r - low_i * turn_i, low_r * turn_i + low_i * turn_r
        high_r, high_i = high_r * turn_r + high_i * turn_i, high_i * turn_r - high_r * turn_i
        low, high = k * ELEMENT, (count - k) * ELEMENT
        ar, ai, br, bi = load(packed, low), load(packed, low + LANES), load(packed, high), load(packed, high + LANES)
        cosine, sine = roots[2 * k], roots[2 * k + 1]
        er, ei, dr, di = (ar + br) * half, (ai - bi) * half, (ai + bi) * half, (br - ar) * half
        tr, ti = dr * cosine - di * sine, dr * sine + di * cosine
        _put_sample(spectra, to + low, gains, low, er + tr, ei + ti, low_r, low_i, sign)
        _put_sample(spectra, to + high, gains, high, er - tr, ti - ei, high_r, high_i, sign)


@njit(cache=True, nogil=True, error_model="numpy")
def _put_sample(spectra, at, gains, gain, real, imaginary, turn_r, turn_i, sign):  # type: ignore[no-untyped-def]
    gr, gi = load(gains, gain), load(gains, gain + LANES)
    xr, xi = real * gr - imaginary * gi, real * gi + imaginary * gr
    cosine, sine = np.float32(turn_r), np.float32(turn_i)
    store(spectra, at, xr * cosine - xi * sine)
    store(spectra, at + LANES, (xr * sine + xi * cosine) * np.float32(sign))


@njit(cache=True, nogil=True, error_model="numpy")
def _spectra_to_lanes(
    spectra: Floats,
    first: int,
    last: int,
    columns: int,
    radices: Integers,
    twiddles: Floats,
    roots: Floats,
    line: Floats,
    copy: Floats,
    projections: Floats,
) -> None:
    """The transpose of `_lanes_to_spectra`: samples to projections, cut to the detector."""
    samples = line.size // ELEMENT + 1
    for angle in range(first, last):
        half_to_packed(spectra, angle * samples * ELEMENT, ELEMENT, line, roots)
        result = copy if transform(line, copy, radices, twiddles) else line
        start = angle * columns * LANES
        for column in range(columns):
            source = (column // 2) * ELEMENT + (LANES if column % 2 == 0 else 0)
            store(projections, start + column * LANES, load(result, source))
