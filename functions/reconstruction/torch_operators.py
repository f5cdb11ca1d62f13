"""The projector pairs of `operators` on a PyTorch device, and the backprojection that filtered backprojection shares.

On CUDA the Triton kernels do the work, elsewhere plain PyTorch: gathers and sums, no atomics, the same bits each time.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any, Final, Literal

import numpy as np
import torch

from ..errors import ParameterError
from .direct import circle_columns, padded_length
from .geometry import check_angles, check_projector_centers
from .torch_gridding import CHUNK_BYTES, FFT_LANES, SpectralGrid, kernels_for

LANES: Final = 16
Kernels = ModuleType | Literal["auto"] | None
_HALF_PEAK: Final = 32768.0  # half of the largest float16: what a value's bound is scaled to


class TorchLineProjector:
    """Line integrals by Joseph's method and their exact transpose; see `operators.Projector`.

    A ray steps over rows, or over columns where it is steeper to them, and interpolates linearly across (Joseph 1982,
    IEEE Trans. Med. Imaging 1, 192, DOI 10.1109/TMI.1982.4307572). Where each lane has its own rotation axis its rays are
    placed exactly; `line.LineProjector` on the CPU moves projections with a kernel of 10 columns instead, and is a little
    smoother: with one axis for all lanes the two are the same matrix.

    Parameters
    ----------
    theta_rad : (angles,) radians
    columns : width n of a projection
    centers : rotation axis in pixels: one for all of `LANES` lanes, or (lanes,) with a power of two of them
    device : torch.device
    dtype : torch.float32, or torch.float16: how what is read is stored, with one scale a lane; sums are float32
    kernels : `triton_kernels`, None for plain PyTorch, or "auto": Triton on CUDA

    Raises
    ------
    InputError
        angles that cannot be used
    ParameterError
        the number of centers is not a power of two, or one is not finite or more than a width off the detector
    """

    def __init__(
        self,
        theta_rad: Any,
        columns: int,
        centers: Any,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        *,
        kernels: Kernels = "auto",
    ) -> None:
        theta = check_angles(theta_rad)
        self.columns = columns
        self._theta, self._given, self._device, self._dtype = theta, centers, device, dtype
        self._kernels = kernels_for(device) if kernels == "auto" else kernels
        values, self._shared = _centers(centers, columns)
        self._centers = torch.as_tensor(values, dtype=torch.float32, device=device)
        self._cosine, self._sine = directions(theta, device)
        self._circle = circle_mask(columns, device)
        self._tiles = circle_tiles(columns, self._kernels, device)

    @property
    def angles(self) -> int:
        """Number of projection angles."""
        return len(self._theta)

    @property
    def lanes(self) -> int:
        """Slices in a batch."""
        return int(self._centers.numel())

    def forward(self, slices: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """See `operators.Projector.forward`."""
        if out is not None and not out.is_contiguous():
            return out.copy_(self.forward(slices))
        out = _result(out, (self.angles, self.columns, self.lanes), self._device)
        stored, scale = _stored(slices, self._dtype)
        project = _project_plainly if self._kernels is None else self._kernels.project
        project(stored, self._cosine, self._sine, self._centers, out, shared_center=self._shared)
        return out if scale is None else out.mul_(scale)

    def adjoint(self, projections: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """See `operators.Projector.adjoint`."""
        out = _result(out, (self.columns, self.columns, self.lanes), self._device)
        stored, scale = _stored(projections, self._dtype)
        backproject(
            stored,
            self._cosine,
            self._sine,
            self._centers,
            out.zero_(),
            self._tiles,
            self._kernels,
            matched=True,
            shared_center=self._shared,
        )
        return out if scale is None else out.mul_(scale)

    def subset(self, angles: slice) -> TorchLineProjector:
        """See `operators.Projector.subset`."""
        return TorchLineProjector(
            self._theta[angles], self.columns, self._given, self._device, self._dtype, kernels=self._kernels
        )


class TorchFourierProjector:
    """Line integrals of band-limited slices through their spectra, and the exact transpose; see `operators.Projector`.

    With M the padded length, t(i, j) the position of a pixel and c the axis, a projection is ::

        p[theta, column] = 1/M sum over k = -M/2 ... M/2 (its ends halved) of P(theta, k) exp(2 pi i k (column - c) / M)
        P(theta, k) = sum over the circle's pixels of f exp(-2 pi i k t / M)

    Parameters
    ----------
    theta_rad, columns, centers, device, kernels : see `TorchLineProjector`
    dtype : torch.float32, or torch.float16: how spectra are stored by `adjoint`
    """

    def __init__(
        self,
        theta_rad: Any,
        columns: int,
        centers: Any,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        *,
        kernels: Kernels = "auto",
    ) -> None:
        theta = check_angles(theta_rad)
        self.columns = columns
        self._theta, self._given, self._device, self._dtype = theta, centers, device, dtype
        self._kernels = kernels_for(device) if kernels == "auto" else kernels
        values, _ = _centers(centers, columns)
        self.lanes = values.size
        self._spectra = LineSpectra(theta, columns, device, self._kernels)
        self._phases = axis_phases(values, 0.0, self._spectra.padded).to(device)
        self._response = torch.full((self._spectra.frequencies,), 1 / self._spectra.padded, device=device)
        self._response[-1] /= 2  # the Nyquist frequency stands at both ends
        self._circle = circle_mask(columns, device)

    @property
    def angles(self) -> int:
        """Number of projection angles."""
        return len(self._theta)

    def forward(self, slices: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """See `operators.Projector.forward`."""
        out = _result(out, (self.angles, self.columns, self.lanes), self._device)
        image = (slices.permute(2, 0, 1) * self._circle).contiguous()
        self._spectra.project(image, self._phases.conj(), out.permute(0, 2, 1))
        return out

    def adjoint(self, projections: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """See `operators.Projector.adjoint`."""
        gains = self._phases * self._response
        slices = self._spectra.backproject(projections.permute(0, 2, 1), gains, None, False, self._dtype)
        slices *= self._circle
        moved = slices.permute(1, 2, 0)
        return moved if out is None else out.copy_(moved)

    def subset(self, angles: slice) -> TorchFourierProjector:
        """See `operators.Projector.subset`."""
        return TorchFourierProjector(
            self._theta[angles], self.columns, self._given, self._device, self._dtype, kernels=self._kernels
        )


class LineSpectra:
    """Between projections and slices by way of the projections' spectra: padding, gains, `SpectralGrid`.

    Transforms along the columns take `FFT_LANES` rows and as many angles at a time as `CHUNK_BYTES` holds, whatever
    the batch, so that a row's bits do not depend on it.

    Parameters
    ----------
    theta : (angles,) float64 radians
    columns : width n of a projection
    device, kernels : see `SpectralGrid`
    """

    def __init__(self, theta: Any, columns: int, device: torch.device, kernels: ModuleType | None) -> None:
        self.columns, self.padded, self.device = columns, padded_length(columns), device
        self.frequencies = self.padded // 2 + 1
        self.grid = SpectralGrid(theta, columns, self.padded, device, kernels)
        # SpectralGrid counts from the middle pixel, which lies half a pixel beside the middle of an even width
        beside = columns // 2 - (columns - 1) / 2
        self._turns = _turns(beside * (np.cos(theta) - np.sin(theta)), self.padded).to(device) if beside else None

    def backproject(
        self,
        projections: torch.Tensor,
        gains: torch.Tensor,
        weights: torch.Tensor | None,
        pad_with_edge: bool,
        dtype: torch.dtype = torch.float32,
    ) -> torch.Tensor:
        """Sums of the projections' filtered spectra at every pixel.

        Parameters
        ----------
        projections : (angles, lanes, n) float32, any strides
        gains : (lanes, frequencies) complex64, what each spectrum is multiplied with; its last, of the Nyquist
            frequency, counts twice
        weights : (angles,) float32, or None for 1
        pad_with_edge : what lies beside a projection: its outermost values, else 0
        dtype : how the spectra are stored: torch.float32 or torch.float16

        Returns
        -------
        (lanes, n, n) float32; also outside the circle
        """
        angles, lanes, _ = projections.shape
        samples = torch.empty((angles, self.frequencies, lanes, 2), dtype=dtype, device=self.device)
        scale = None
        if dtype == torch.float16:
            scale = self._half_scale(projections, gains, weights)
            gains = gains * scale[:, None]
        for first, last, part in pieces(angles, lanes, self.padded):
            spectra = self.spectra(projections[first:last, part], pad_with_edge)
            spectra *= gains[part]
            if weights is not None:
                spectra *= weights[first:last, None, None]
            if self._turns is not None:
                spectra *= self._turns[first:last, None]
            samples[first:last, :, part] = torch.view_as_real(spectra).permute(0, 2, 1, 3)
        slices = self.grid.to_slices(samples)
        return slices if scale is None else slices.div_(scale[:, None, None])

    def project(self, slices: torch.Tensor, gains: torch.Tensor, out: torch.Tensor) -> None:
        """Projections of slices (lanes, n, n) into `out` (angles, lanes, n); `gains` as in `backproject`."""
        samples = torch.view_as_complex(self.grid.to_lines(slices))
        angles, _, lanes = samples.shape
        for first, last, part in pieces(angles, lanes, self.padded):
            spectra = samples[first:last, :, part].permute(0, 2, 1) * gains[part]
            if self._turns is not None:
                spectra *= self._turns[first:last, None].conj()
            out[first:last, part] = torch.fft.irfft(spectra, n=self.padded, dim=-1)[..., : self.columns]

    def spectra(self, projections: torch.Tensor, pad_with_edge: bool) -> torch.Tensor:
        """Half spectra (angles, lanes, frequencies) complex64 of padded projections (angles, lanes, n)."""
        return torch.fft.rfft(pad(projections, self.padded, pad_with_edge), dim=-1)

    def _half_scale(self, projections: torch.Tensor, gains: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
        """What each lane is multiplied with before it is stored as float16: no spectrum can exceed the range."""
        bound = projections.abs().amax(dim=(0, 2)) * self.padded * gains.abs().amax(dim=1)
        if weights is not None:
            bound = bound * weights.abs().max()
        return torch.where(bound > 0, _HALF_PEAK / bound, torch.ones_like(bound))


def pad(projections: torch.Tensor, length: int, with_edge: bool) -> torch.Tensor:
    """Projections (..., n) on `length` columns; the padding's first half belongs to the right edge (it is circular)."""
    columns = projections.shape[-1]
    right = columns + (length - columns) // 2
    padded = torch.zeros((*projections.shape[:-1], length), dtype=torch.float32, device=projections.device)
    padded[..., :columns] = projections
    if with_edge:
        padded[..., columns:right] = projections[..., -1:]
        padded[..., right:] = projections[..., :1]
    return padded


def axis_phases(centers: Any, axis_column: float, padded: int) -> torch.Tensor:
    """What moves each lane's rotation axis to `axis_column`: (lanes, padded // 2 + 1) complex64."""
    return _turns(np.asarray(centers, dtype=np.float64) - axis_column, padded)


def directions(theta: Any, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of the angles, (angles,) float32 each."""
    cosine, sine = (torch.as_tensor(f(theta), dtype=torch.float32, device=device) for f in (np.cos, np.sin))
    return cosine, sine


def circle_mask(columns: int, device: torch.device) -> torch.Tensor:
    """Which pixels lie inside the circle of radius n/2: (n, n) float32, 1 or 0."""
    bounds = circle_columns(columns)
    column = np.arange(columns)
    inside = (column >= bounds[:, :1]) & (column < bounds[:, 1:])
    return torch.as_tensor(inside, dtype=torch.float32, device=device)


def circle_tiles(columns: int, kernels: ModuleType | None, device: torch.device) -> torch.Tensor | None:
    """The kernels' squares of pixels that reach into the circle: (count,) int32; None for plain PyTorch."""
    if kernels is None:
        return None
    side: int = kernels.PIXEL_TILE
    count = -(-columns // side)
    inside = torch.zeros((count * side, count * side))
    inside[:columns, :columns] = circle_mask(columns, torch.device("cpu"))
    touched = inside.reshape(count, side, count, side).amax(dim=(1, 3)).reshape(-1)
    return torch.nonzero(touched)[:, 0].to(device=device, dtype=torch.int32)


def backproject(
    lines: torch.Tensor,
    cosine: torch.Tensor,
    sine: torch.Tensor,
    centers: torch.Tensor,
    slices: torch.Tensor,
    tiles: torch.Tensor | None,
    kernels: ModuleType | None,
    *,
    matched: bool,
    shared_center: bool,
) -> None:
    """Sums of lines at every pixel of the circle, by whichever `kernels`; see `triton_kernels.backproject`."""
    options = {"matched": matched, "shared_center": shared_center}
    if kernels is None:
        _backproject_plainly(lines, cosine, sine, centers, slices, **options)
    else:
        kernels.backproject(lines, cosine, sine, centers, tiles, slices, **options)


def _backproject_plainly(
    lines: torch.Tensor,
    cosine: torch.Tensor,
    sine: torch.Tensor,
    centers: torch.Tensor,
    slices: torch.Tensor,
    *,
    matched: bool,
    shared_center: bool,
) -> None:
    """`triton_kernels.backproject` in plain PyTorch."""
    angles, line_columns, lanes = lines.shape
    columns = slices.shape[0]
    # a column of zeros on either side stands for all that lies beside the detector
    framed = torch.zeros((angles, line_columns + 2, lanes), dtype=lines.dtype, device=lines.device)
    framed[:, 1:-1] = lines
    row, column = torch.nonzero(circle_mask(columns, slices.device), as_tuple=True)
    middle = (columns - 1) / 2
    x, y = column.to(torch.float32) - middle, middle - row.to(torch.float32)
    at_a_time = max(1, CHUNK_BYTES // (32 * lanes))
    for first in range(0, row.numel(), at_a_time):
        part = slice(first, first + at_a_time)
        total = torch.zeros((row[part].numel(), lanes), dtype=torch.float32, device=slices.device)
        for angle in range(angles):
            cos, sin = cosine[angle], sine[angle]
            position = (x[part] * cos + y[part] * sin)[:, None] + (centers[:1] if shared_center else centers)
            left = torch.floor(position)
            fraction = position - left
            index = left.to(torch.int64) + 1
            low = _at(framed[angle], index.clamp(0, line_columns + 1)).to(torch.float32)
            high = _at(framed[angle], (index + 1).clamp(0, line_columns + 1)).to(torch.float32)
            if matched:
                steepness = 1 / torch.maximum(cos.abs(), sin.abs())
                total += (1 - fraction * steepness).clamp(min=0) * steepness * low
                total += (1 - (1 - fraction) * steepness).clamp(min=0) * steepness * high
            else:
                total += low + fraction * (high - low)
        slices[row[part], column[part]] = total


def _project_plainly(
    slices: torch.Tensor,
    cosine: torch.Tensor,
    sine: torch.Tensor,
    centers: torch.Tensor,
    projections: torch.Tensor,
    *,
    shared_center: bool,
) -> None:
    """`triton_kernels.project` in plain PyTorch."""
    angles, columns, lanes = projections.shape
    device = slices.device
    # pixels one after the other, by rows or by columns; one more of zeros stands for all that lies outside
    masked = slices * circle_mask(columns, device).to(slices.dtype)[..., None]
    outside = columns * columns
    flat = torch.zeros((outside + 1, lanes), dtype=slices.dtype, device=device)
    flat[:outside] = masked.reshape(-1, lanes)
    middle = (columns - 1) / 2
    step = torch.arange(columns, device=device)
    distance = step.to(torch.float32) - middle
    at_a_time = max(1, CHUNK_BYTES // (32 * lanes * columns))
    for angle in range(angles):
        cos, sin = cosine[angle], sine[angle]
        swapped = bool(sin.abs() > cos.abs())
        along, across = (sin, cos) if swapped else (cos, sin)
        for first in range(0, columns, at_a_time):
            part = slice(first, min(first + at_a_time, columns))
            ray = torch.arange(part.start, part.stop, dtype=torch.float32, device=device)
            offset = (ray[:, None] - (centers[:1] if shared_center else centers)) / (-along if swapped else along)
            position = offset[:, None] + (distance * (across / along) + middle)[None, :, None]
            left = torch.floor(position)
            fraction = position - left
            index = left.clamp(-2, columns + 1).to(torch.int64)

            def pixels(index: torch.Tensor, swapped: bool = swapped) -> torch.Tensor:
                pixel = index * columns + step[:, None] if swapped else step[:, None] * columns + index
                pixel = torch.where((index >= 0) & (index < columns), pixel, outside)
                return _at(flat, pixel.reshape(-1, pixel.shape[-1])).reshape(-1, columns, lanes).to(torch.float32)

            low, high = pixels(index), pixels(index + 1)
            projections[angle, part] = (low + fraction * (high - low)).sum(dim=1) / along.abs()


def _at(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Rows of `values` (length, lanes): `index` (count, 1) for all lanes, or (count, lanes)."""
    return values[index[:, 0]] if index.shape[1] == 1 else torch.gather(values, 0, index)


def _stored(values: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Contiguous values in the storage type; with float16 also what each lane is to be multiplied with afterwards."""
    if dtype != torch.float16:
        return values.contiguous(), None
    peak = values.abs().amax(dim=(0, 1))
    peak = torch.where(peak > 0, peak, torch.ones_like(peak))
    return (values / peak).to(torch.float16).contiguous(), peak


def _result(out: torch.Tensor | None, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.float32, device=device) if out is None else out


def _centers(centers: Any, columns: int) -> tuple[Any, bool]:
    """One center a lane, (lanes,) float64, and whether all are the same."""
    values = np.asarray(centers, dtype=np.float64)
    if values.ndim == 0:
        values = np.full(LANES, values)
    if values.ndim != 1 or values.size == 0 or values.size & (values.size - 1):
        raise ParameterError(
            f"centers have shape {values.shape}; give one, or one for each of 16 lanes (a power of two)"
        )
    check_projector_centers(values, columns)
    return values, bool(np.all(values == values[0]))


def _turns(shifts: Any, padded: int) -> torch.Tensor:
    """exp(2 pi i k shift / padded) of each shift in pixels: (shifts, padded // 2 + 1) complex64."""
    shift = torch.as_tensor(shifts, dtype=torch.float64)
    cycles = torch.arange(padded // 2 + 1, dtype=torch.float64) / padded * shift[:, None]
    angle = 2 * math.pi * (cycles - torch.round(cycles))
    return torch.complex(torch.cos(angle), torch.sin(angle)).to(torch.complex64)


def pieces(angles: int, lanes: int, padded: int) -> list[tuple[int, int, slice]]:
    """Ranges of angles and lanes to transform at a time."""
    most = max(1, CHUNK_BYTES // (4 * FFT_LANES * padded))
    return [
        (first, min(first + most, angles), slice(lane, min(lane + FFT_LANES, lanes)))
        for first in range(0, angles, most)
        for lane in range(0, lanes, FFT_LANES)
    ]
