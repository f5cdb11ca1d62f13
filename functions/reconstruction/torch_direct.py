"""Reconstruction on a PyTorch device: projections in host memory to slices in host memory, batch after batch.

Copies to and from a CUDA device overlap with computing. The operators are in `torch_operators`; what is computed is the
same as on the CPU (`fbp`, `fourier`, `iterative`), to rounding and the accuracy of the grid's kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import torch

from ..errors import InputError, ParameterError
from .direct import PADDINGS, Center, padded_length
from .extrapolation import extend_lines, extension_plan
from .filters import ramp_filter
from .geometry import angular_weights, check_angles, checked_centers
from .iterative import DEFAULT_PROJECTOR, FieldOfView, check_settings, margin_columns, solve
from .iterative_methods import Sums
from .operators import Projector
from .settings import ALGORITHMS, ReconstructionSettings
from .threads import run_in_threads, thread_count
from .torch_gridding import CHUNK_BYTES, FFT_LANES, OVERSAMPLING, kernels_for
from .torch_operators import (
    LANES,
    Kernels,
    LineSpectra,
    TorchFourierProjector,
    TorchLineProjector,
    axis_phases,
    backproject,
    circle_mask,
    circle_tiles,
    directions,
    pad,
    pieces,
)

_ALGORITHMS: Final = tuple(name for name in ALGORITHMS if name != "lprec")  # which only TomocuPy has
FEWEST_LANES: Final = 4  # slices in a batch where memory is short; a multiple of FFT_LANES
_SHARE_OF_FREE_MEMORY: Final = 0.9
_HALF_BOUND: Final = 4096.0  # the largest float16 is 65504
_TABLE_BYTES: Final = 150  # a sample of the gridding's tables, while they are built: 144 measured
_BATCHES_IN_FLIGHT: Final = 2  # projections and slices of one batch are copied while another is computed

Floats = npt.NDArray[np.float32]


class _Method(Protocol):
    """A reconstruction method prepared for one set of angles."""

    def reconstruct(self, projections: torch.Tensor, centers: npt.NDArray[np.float64]) -> torch.Tensor:
        """Slices (lanes, n, n), zero outside the circle, of (angles, lanes, n) on the same device."""
        ...


class TorchReconstructor:
    """Everything that is prepared once for a set of angles; call it with projections to get slices.

    A slice's bits depend neither on the rows that are reconstructed with it nor on the memory: where that is short,
    direct methods work on fewer slices at a time; iterative ones, whose sums over a slice would change, refuse.

    Parameters
    ----------
    theta_rad : (angles,) radians
    columns : width n of a projection
    center : rotation axis in pixels, one for all rows or one a row; may be given with each call instead
    settings : ReconstructionSettings
    device : torch.device or its name, such as "cuda:0"
    memory_bytes : device memory that may be used; None for what is free when it is called (CUDA), without bound elsewhere
    kernels : see `TorchLineProjector`

    Raises
    ------
    InputError
        angles that cannot be used
    ParameterError
        an algorithm, filter or padding that there is not; not even the smallest batch fits `memory_bytes`
    """

    def __init__(
        self,
        theta_rad: npt.ArrayLike,
        columns: int,
        center: Center | None = None,
        settings: ReconstructionSettings | None = None,
        device: torch.device | str = "cpu",
        *,
        memory_bytes: int | None = None,
        kernels: Kernels = "auto",
    ) -> None:
        settings = ReconstructionSettings() if settings is None else settings
        if settings.algorithm not in _ALGORITHMS:
            raise ParameterError(
                f"reconstruction.algorithm is {settings.algorithm!r}; it must be one of {', '.join(_ALGORITHMS)}"
            )
        if settings.padding not in PADDINGS:
            raise ParameterError(
                f"reconstruction.padding is {settings.padding!r}; it must be one of {', '.join(PADDINGS)}"
            )
        if columns < 2:
            raise InputError(f"projections are {columns} columns wide; needed are at least 2")
        self.columns, self.center, self.settings = columns, center, settings
        self.device = torch.device(device)
        self._theta = check_angles(theta_rad)
        self._memory_bytes = memory_bytes
        self._kernels = kernels_for(self.device) if kernels == "auto" else kernels
        if memory_bytes is not None:
            self._lanes()
        self._method = self._make_method()

    def __call__(self, projections: Floats, *, center: Center | None = None, out: Floats | None = None) -> Floats:
        """Slices of the projections' rows.

        Parameters
        ----------
        projections : (angles, rows, columns) float32, line integrals, dimensionless
        center : instead of the center given before; pixels, one for all rows or (rows,)
        out : (rows, columns, columns) float32, overwritten and returned, where given

        Returns
        -------
        (rows, columns, columns) float32, attenuation in 1/pixel; zero outside the circle of radius columns/2

        Raises
        ------
        InputError
            shapes do not fit the angles or the width, or `out` does not fit
        ParameterError
            no center, one that is not on the detector, or not enough memory for the smallest batch
        """
        projections = np.asarray(projections, dtype=np.float32)
        self._check_shape(projections.shape)
        rows = projections.shape[1]
        centers = self._centers(self.center if center is None else center, rows)
        shape = (rows, self.columns, self.columns)
        slices = np.empty(shape, dtype=np.float32) if out is None else out
        if slices.shape != shape or slices.dtype != np.float32:
            raise InputError(f"out is {slices.dtype} of shape {slices.shape}; needed is float32 of shape {shape}")
        lanes = self._lanes()
        batches = [slice(first, min(first + lanes, rows)) for first in range(0, rows, lanes)]
        copies = _PinnedCopies(self.device) if self.device.type == "cuda" else _PlainCopies(self.device)
        finish: Callable[[], None] | None = None
        for batch, uploaded in copies.uploaded(projections, batches, lanes):
            result = self._method.reconstruct(uploaded, _lane_centers(centers[batch], lanes))
            finish_this = copies.download(result[: batch.stop - batch.start], slices[batch])
            if finish is not None:
                finish()
            finish = finish_this
        if finish is not None:
            finish()
        return slices

    def reconstruct_on_device(self, projections: torch.Tensor, center: Center | None = None) -> torch.Tensor:
        """The same for projections that are on the device already; slices stay there.

        Parameters
        ----------
        projections : (angles, rows, columns) float32, any strides
        center : see `__call__`

        Returns
        -------
        (rows, columns, columns) float32
        """
        self._check_shape(tuple(projections.shape))
        rows = projections.shape[1]
        centers = self._centers(self.center if center is None else center, rows)
        slices = torch.empty((rows, self.columns, self.columns), dtype=torch.float32, device=self.device)
        lanes = self._lanes()
        for first in range(0, rows, lanes):
            part = slice(first, min(first + lanes, rows))
            batch = projections[:, part]
            missing = lanes - batch.shape[1]
            if missing:
                batch = torch.cat((batch, batch.new_zeros((batch.shape[0], missing, self.columns))), dim=1)
            slices[part] = self._method.reconstruct(batch, _lane_centers(centers[part], lanes))[: part.stop - first]
        return slices

    @property
    def rows_per_batch(self) -> int:
        """Rows that are computed together with the memory there is now."""
        return self._lanes()

    def _make_method(self) -> _Method:
        if self.settings.algorithm == "fbp":
            return _Backprojection(self._theta, self.columns, self.settings, self.device, self._kernels)
        if self.settings.is_direct:
            return _Gridding(self._theta, self.columns, self.settings, self.device, self._kernels)
        return _Iterative(self._theta, self.columns, self.settings, self.device, self._kernels)

    def _lanes(self) -> int:
        """The most rows a batch that fit the memory."""
        available = self._memory_bytes
        if available is None:
            available = _free_bytes(self.device)
        if available is None:
            return LANES
        lanes = LANES
        while device_bytes(self._theta.size, self.columns, lanes, self.settings) > available:
            if lanes == FEWEST_LANES or not self.settings.is_direct:
                needed = device_bytes(self._theta.size, self.columns, lanes, self.settings)
                raise ParameterError(
                    f"{self.device} has {available / 2**30:.1f} GiB to spare, and {self._theta.size} projections of "
                    f"{self.columns} columns need {needed / 2**30:.1f} GiB: use fewer workers a GPU, or the CPU"
                )
            lanes //= 2
        return lanes

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        if len(shape) != 3 or (shape[0], shape[2]) != (self._theta.size, self.columns):
            raise InputError(
                f"projections have shape {shape}; needed is ({self._theta.size} angles, rows, {self.columns} columns)"
            )

    def _centers(self, center: Center | None, rows: int) -> npt.NDArray[np.float64]:
        return np.broadcast_to(checked_centers(center, rows, self.columns), (rows,))


def device_bytes(angles: int, columns: int, lanes: int, settings: ReconstructionSettings) -> int:
    """Device memory that a reconstruction of `lanes` slices at a time takes, with tables and batches being copied."""
    padded = padded_length(columns)
    projections, slices = 4 * angles * columns * lanes, 4 * columns**2 * lanes
    in_flight = _BATCHES_IN_FLIGHT * (projections + slices)
    if not settings.is_direct:
        return in_flight + _iterative_bytes(angles, columns, lanes, settings)
    half = 2 if settings.precision == "half" else 4
    if settings.padding == "cylinder":  # the extended projections, and what makes a part of them
        in_flight += 4 * angles * padded * (lanes + 4 * FFT_LANES)
    filtering = 4 * max(CHUNK_BYTES, 4 * FFT_LANES * padded)
    width = int(OVERSAMPLING * columns) + 16
    grid = 4 * width * (width + 2) * lanes + 3 * 4 * width * (width + 2) * FFT_LANES
    samples = half * angles * (padded + 2) * lanes + _TABLE_BYTES * angles * (padded // 2 + 1)
    gridding = grid + samples + 4 * columns**2
    if settings.algorithm == "fbp":
        return in_flight + filtering + half * angles * (columns + 2) * lanes + slices
    return in_flight + filtering + gridding + slices


def _iterative_bytes(angles: int, columns: int, lanes: int, settings: ReconstructionSettings) -> int:
    width = columns + 2 * margin_columns(columns, settings)
    projections, slices = 4 * angles * width * lanes, 4 * width**2 * lanes
    # the total variation keeps the most, ordered subsets a slice each; some intermediate arrays are as large
    count = 4 + settings.subsets if settings.algorithm == "osem" else 9
    gridding = (settings.projector or DEFAULT_PROJECTOR[settings.algorithm]) == "fourier" or settings.warm_start
    operator = device_bytes(angles, width, lanes, replace(settings, algorithm="fourierrec")) if gridding else 0
    return count * slices + 5 * projections + operator


class _Backprojection:
    """Filtered backprojection (Kak & Slaney 1988, chapter 3, DOI 10.1137/1.9780898719277)."""

    def __init__(
        self, theta: Any, columns: int, settings: ReconstructionSettings, device: torch.device, kernels: Any
    ) -> None:
        self._columns, self._device, self._kernels, self._settings = columns, device, kernels, settings
        self._padded = padded_length(columns)
        self._response = _response(self._padded, settings).to(device)
        self._weights = torch.as_tensor(angular_weights(theta), dtype=torch.float32, device=device)
        self._cosine, self._sine = directions(theta, device)
        self._circle = circle_mask(columns, device)
        self._tiles = circle_tiles(columns, kernels, device)
        # one column beside the detector on either side: a pixel at the circle's rim interpolates with it
        self._axis_column = (columns - 1) / 2 + 1
        self._line_columns = columns + 2

    def reconstruct(self, projections: torch.Tensor, centers: npt.NDArray[np.float64]) -> torch.Tensor:
        angles, lanes, n = projections.shape
        dtype = _storage(self._settings)
        wide = _extended(projections, self._padded) if self._settings.padding == "cylinder" else None
        gains = axis_phases(centers, self._axis_column, self._padded).to(self._device) * self._response
        lines = torch.empty((angles, self._line_columns, lanes), dtype=dtype, device=self._device)
        scale = None
        if dtype == torch.float16:
            scale = self._half_scale(projections)
            gains = gains * scale[:, None]
        for first, last, part in pieces(angles, lanes, self._padded):
            lined = projections[first:last, part]
            padded = (
                pad(lined, self._padded, self._settings.padding == "edge") if wide is None else wide[first:last, part]
            )
            spectra = torch.fft.rfft(padded, dim=-1)
            spectra *= gains[part]
            spectra *= self._weights[first:last, None, None]
            filtered = torch.fft.irfft(spectra, n=self._padded, dim=-1)[..., : self._line_columns]
            lines[first:last, :, part] = filtered.permute(0, 2, 1)
        axis = torch.full((1,), self._axis_column, dtype=torch.float32, device=self._device)
        slices = torch.zeros((lanes, n, n), dtype=torch.float32, device=self._device)
        backproject(
            lines,
            self._cosine,
            self._sine,
            axis,
            slices.permute(1, 2, 0),
            self._tiles,
            self._kernels,
            matched=False,
            shared_center=True,
        )
        return slices if scale is None else slices.div_(scale[:, None, None])

    def _half_scale(self, projections: torch.Tensor) -> torch.Tensor:
        """What each lane is multiplied with before it is stored as float16.

        The sum of a ramp filter's absolute values is 0.5; moving by parts of a pixel may overshoot.
        """
        bound = projections.abs().amax(dim=(0, 2)) * self._weights.max()
        return torch.where(bound > 0, _HALF_BOUND / bound, torch.ones_like(bound))


class _Gridding:
    """Direct Fourier reconstruction: filtered spectra of the projections on their lines, and a type-1 transform."""

    def __init__(
        self, theta: Any, columns: int, settings: ReconstructionSettings, device: torch.device, kernels: Any
    ) -> None:
        self._settings, self._device = settings, device
        self._spectra = LineSpectra(theta, columns, device, kernels)
        self._response = (_response(self._spectra.padded, settings) / self._spectra.padded).to(device)
        self._response[-1] /= 2  # the Nyquist frequency stands at both ends of a line
        self._weights = torch.as_tensor(angular_weights(theta), dtype=torch.float32, device=device)
        self._circle = circle_mask(columns, device)

    def reconstruct(self, projections: torch.Tensor, centers: npt.NDArray[np.float64]) -> torch.Tensor:
        gains = axis_phases(centers, 0.0, self._spectra.padded).to(self._device) * self._response
        edge = self._settings.padding == "edge"
        if self._settings.padding == "cylinder":
            projections = _extended(projections, self._spectra.padded)
        slices = self._spectra.backproject(projections, gains, self._weights, edge, _storage(self._settings))
        return slices.mul_(self._circle)


class _Iterative:
    """The algorithms of `iterative` with this module's operators; `IterativeReconstructor` does the same on the CPU."""

    def __init__(
        self, theta: Any, columns: int, settings: ReconstructionSettings, device: torch.device, kernels: Any
    ) -> None:
        check_settings(settings, len(theta))
        self._theta, self._columns, self._settings = theta, columns, settings
        self._device, self._kernels, self._dtype = device, kernels, _storage(settings)
        self._margin = margin_columns(columns, settings)
        self._width = columns + 2 * self._margin
        self._circle = circle_mask(columns, device)
        self._direct: _Gridding | None = None
        if settings.warm_start:  # the plain ramp filter, as on the CPU: the filter is the direct methods' setting
            beside = "edge" if self._margin else "zero"
            plain = replace(settings, filter_name="ramp", filter_cutoff=1.0, padding=beside)
            self._direct = _Gridding(theta, self._width, plain, device, kernels)
        self._kept: tuple[npt.NDArray[np.float64], Projector, Sums | None] | None = None

    def reconstruct(self, projections: torch.Tensor, centers: npt.NDArray[np.float64]) -> torch.Tensor:
        angles, lanes, n = projections.shape
        inner = slice(self._margin, self._margin + n)
        data = torch.zeros((angles, self._width, lanes), dtype=torch.float32, device=self._device)
        data[:, inner] = projections.permute(0, 2, 1)
        projector, sums = self._operators(centers + self._margin, data)
        solution = solve(self._settings, projector, data, self._start(projections, centers), sums=sums)
        slices: torch.Tensor = solution.slices[inner, inner].permute(2, 0, 1)
        return slices * self._circle

    def _operators(self, centers: npt.NDArray[np.float64], like: torch.Tensor) -> tuple[Projector, Sums | None]:
        """Projector and its sums, kept for the next batch with the same axes."""
        kept = self._kept  # read once: another thread may replace it
        if kept is not None and np.array_equal(kept[0], centers):
            return kept[1:]
        name = self._settings.projector or DEFAULT_PROJECTOR[self._settings.algorithm]
        kind = TorchLineProjector if name == "line" else TorchFourierProjector
        projector: Projector = kind(self._theta, self._width, centers, self._device, self._dtype, kernels=self._kernels)
        if self._margin:
            projector = FieldOfView(projector, self._margin)
        sums = Sums.of(projector, like) if self._settings.algorithm in ("sirt", "tv") else None
        self._kept = centers, projector, sums
        return projector, sums

    def _start(self, projections: torch.Tensor, centers: npt.NDArray[np.float64]) -> torch.Tensor | None:
        """The direct reconstruction, where that is asked for."""
        if self._direct is None:
            return None
        left = projections[..., :1].expand(-1, -1, self._margin)
        right = projections[..., -1:].expand(-1, -1, self._margin)
        wide = torch.cat((left, projections, right), dim=-1)
        return self._direct.reconstruct(wide, centers + self._margin).permute(1, 2, 0)


def _response(padded: int, settings: ReconstructionSettings) -> torch.Tensor:
    response = ramp_filter(padded, settings.filter_name, settings.filter_cutoff, settings.filter_order)
    return torch.as_tensor(response, dtype=torch.float32)


def _extended(projections: torch.Tensor, length: int) -> torch.Tensor:
    """Projections (angles, lanes, n) on `length` columns, continued as those of cylinders; see `extrapolation`.

    Few lanes at a time, always as many: a row's bits do not depend on the batch, and the intermediate arrays are small.
    """
    angles, lanes, columns = projections.shape
    plan = extension_plan(columns, length)
    wide = torch.empty((angles, lanes, length), dtype=torch.float32, device=projections.device)

    def as_tensor(array: npt.NDArray[Any]) -> torch.Tensor:
        return torch.as_tensor(array, device=projections.device)

    for lane in range(0, lanes, FFT_LANES):
        part = slice(lane, min(lane + FFT_LANES, lanes))
        extend_lines(projections[:, part].contiguous(), wide[:, part], plan, as_tensor)
    return wide


def _storage(settings: ReconstructionSettings) -> torch.dtype:
    if settings.precision not in ("single", "half"):
        raise ParameterError(f"reconstruction.precision is {settings.precision!r}; it must be single or half")
    return torch.float16 if settings.precision == "half" else torch.float32


def _lane_centers(centers: npt.NDArray[np.float64], lanes: int) -> npt.NDArray[np.float64]:
    """One center a lane; lanes without a row take the first one's, so that equal centers stay equal."""
    return np.concatenate((centers, np.full(lanes - centers.size, centers[0])))


def _free_bytes(device: torch.device) -> int | None:
    """What is free on a CUDA device, with what PyTorch holds unused; None where it is not known."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(_SHARE_OF_FREE_MEMORY * (free + unused))


class _PlainCopies:
    """Batches to the device and back, one after the other."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def uploaded(self, projections: Floats, batches: list[slice], lanes: int) -> Iterator[tuple[slice, torch.Tensor]]:
        """Each batch (angles, lanes, columns) on the device; missing lanes are 0."""
        angles, _, columns = projections.shape
        for batch in batches:
            host = np.zeros((angles, lanes, columns), dtype=np.float32)
            host[:, : batch.stop - batch.start] = projections[:, batch]
            yield batch, torch.from_numpy(host).to(self._device)

    def download(self, result: torch.Tensor, target: Floats) -> Callable[[], None]:
        """Copies a result; what is returned is to be called before `target` is read."""
        target[...] = result.cpu().numpy()
        return lambda: None


class _PinnedCopies:
    """The same for CUDA: through page-locked memory on streams of their own, while the device computes.

    Two batches are on their way in either direction; a third waits for the first to have left its memory.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._to_device, self._to_host = torch.cuda.Stream(device), torch.cuda.Stream(device)
        self._slots: list[torch.Tensor] = []
        self._downloads = 0

    def uploaded(self, projections: Floats, batches: list[slice], lanes: int) -> Iterator[tuple[slice, torch.Tensor]]:
        """See `_PlainCopies.uploaded`; the next batch is sent when the caller asks for it, its work having begun."""
        angles, _, columns = projections.shape
        slots = [
            torch.empty((angles, lanes, columns), dtype=torch.float32, pin_memory=True)
            for _ in range(min(_BATCHES_IN_FLIGHT, len(batches)))
        ]
        left: list[torch.cuda.Event | None] = [None] * len(slots)
        for number, batch in enumerate(batches):
            slot = number % len(slots)
            sent = left[slot]
            if sent is not None:
                sent.synchronize()
            _fill(slots[slot].numpy(), projections, batch)
            with torch.cuda.stream(self._to_device):
                uploaded = slots[slot].to(self._device, non_blocking=True)
                event = torch.cuda.Event()
                event.record(self._to_device)
            left[slot] = event
            computing = torch.cuda.current_stream(self._device)
            computing.wait_event(event)
            uploaded.record_stream(computing)  # its memory is not given to another copy before it was used
            yield batch, uploaded

    def download(self, result: torch.Tensor, target: Floats) -> Callable[[], None]:
        """See `_PlainCopies.download`."""
        if len(self._slots) < _BATCHES_IN_FLIGHT:
            # the first batch is the largest
            self._slots.append(torch.empty(result.shape, dtype=torch.float32, pin_memory=True))
        slot = self._slots[self._downloads % _BATCHES_IN_FLIGHT]
        self._downloads += 1
        host = slot[: result.shape[0]]
        self._to_host.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._to_host):
            host.copy_(result, non_blocking=True)
            event = torch.cuda.Event()
            event.record(self._to_host)
        result.record_stream(self._to_host)

        def finish() -> None:
            event.synchronize()
            source = host.numpy()
            run_in_threads(lambda row: np.copyto(target[row], source[row]), len(target))

        return finish


def _fill(host: Floats, projections: Floats, batch: slice) -> None:
    """Rows of the projections into `host` (angles, lanes, columns); missing lanes are 0."""
    rows = batch.stop - batch.start
    angles_a_piece = -(-host.shape[0] // (4 * thread_count()))

    def fill(piece: int) -> None:
        angles = slice(piece * angles_a_piece, (piece + 1) * angles_a_piece)
        host[angles, :rows] = projections[angles, batch]
        host[angles, rows:] = 0

    run_in_threads(fill, -(-host.shape[0] // angles_a_piece))
