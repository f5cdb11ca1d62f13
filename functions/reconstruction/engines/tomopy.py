"""Adapter for TomoPy on the CPU: its grid, axis, scale and filters are brought to tomopipe's conventions.

What differs, found by reading and by measuring TomoPy 1.15 (`docs/explanation/reconstruction.md`):

* gridrec's image lies half a pixel to the right and half a pixel up;
* gridrec reads 12 % high in the middle and more towards the rim: its interpolation kernel, a prolate spheroidal
  function of parameter 7, is cut off at two grid cells where its image-space correction stands for 14 / (2 pi), the
  correction lies one pixel off, and a factor of 1 / 1.2 is in its norm;
* gridrec leaves the mean of each filtered projection out, and pads to a power of two, which for a width that is one is
  no padding at all;
* the ray-based methods (fbp, sirt, mlem, osem) count the axis from the edge of the first pixel, and fbp does not filter.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import pro_ang1

from ...device import CPU, Device
from ...errors import ParameterError
from ..settings import ReconstructionSettings
from ..threads import run_in_threads, thread_count
from .adapted import (
    AdaptedReconstructor,
    Center,
    Doubles,
    Floats,
    LineFilter,
    check_algorithm,
    check_iterative_settings,
    installed,
    load,
    power_of_two,
)

INSTALL = "install it with: conda install -c conda-forge tomopy"
_ITERATIVE = frozenset({"sirt", "mlem", "osem"})

_PROLATE_PARAMETER = 7.0
_KERNEL_HALF_WIDTH = 2  # grid cells; what the parameter stands for is 7 / pi
_TABLE = 512  # values in gridrec's table of the kernel
_NORM = 1.2
_AXIS_FROM_EDGE = 0.5  # the ray-based methods: column 0 has its centre at 0.5
_PAIR = 2  # gridrec computes two rows in one complex transform


class TomopyEngine:
    """TomoPy; see `tomopipe.functions.reconstruction.engines.Engine`.

    ``gridrec`` and ``fourierrec`` both mean TomoPy's gridrec. A row's bits depend on the row that it shares a complex
    transform with: rows in other pairs agree to float32 rounding only.
    """

    name = "tomopy"
    algorithms = frozenset({"gridrec", "fourierrec", "fbp"}) | _ITERATIVE

    def available(self) -> bool:
        """Whether TomoPy is installed."""
        return installed("tomopy")

    def prepare(
        self,
        theta_rad: npt.ArrayLike,
        columns: int,
        center: Center | None = None,
        *,
        settings: ReconstructionSettings,
        device: Device = CPU,
    ) -> AdaptedReconstructor:
        """See `Engine.prepare`; the device may be anything, TomoPy takes the CPU."""
        check_algorithm(self.name, self.algorithms, settings)
        tomopy = load("tomopy", INSTALL)
        if settings.algorithm in _ITERATIVE:
            check_iterative_settings(self.name, settings, bounds=False)
            return _Iterative(tomopy, theta_rad, columns, center, settings)
        if settings.algorithm == "fbp":
            return _Backprojection(tomopy, theta_rad, columns, center, settings)
        return _Gridrec(tomopy, theta_rad, columns, center, settings)

    def rows_per_batch(self, settings: ReconstructionSettings) -> int:
        """See `Engine.rows_per_batch`."""
        check_algorithm(self.name, self.algorithms, settings)
        return _PAIR * thread_count()

    def fixed_memory_bytes(self, angles: int, columns: int, settings: ReconstructionSettings) -> int:
        """See `Engine.fixed_memory_bytes`."""
        rows = self.rows_per_batch(settings)
        if settings.algorithm in _ITERATIVE:
            return 3 * 4 * rows * columns * (angles + columns)  # the batch, TomoPy's own copies, and what it simulates
        length = power_of_two(2 * columns)
        gains = 8 * angles * (length // 2 + 1)
        filtering = thread_count() * 5 * 4 * angles * length
        lines = 2 * 4 * rows * angles * length  # ours and TomoPy's copy
        grids = thread_count() * 8 * length * (length + 2 * angles)  # in each thread the grid and where samples fall
        return gains + filtering + lines + grids + 2 * 4 * rows * columns**2


class _Direct(AdaptedReconstructor):
    """What gridrec and fbp share: lines filtered here, by threads."""

    _filter: LineFilter
    _width: int

    def __init__(
        self,
        tomopy: Any,
        theta_rad: npt.ArrayLike,
        columns: int,
        center: Center | None,
        settings: ReconstructionSettings,
    ) -> None:
        super().__init__(theta_rad, columns, center, settings, _PAIR * thread_count())
        self._tomopy = tomopy

    def _lines(self, projections: Floats, centers: Doubles) -> Floats:
        """Filtered lines (rows, angles, width)."""
        rows = projections.shape[1]
        lines = np.empty((rows, self._theta.size, self._width), dtype=np.float32)

        def fill(row: int) -> None:
            lines[row] = self._filter(projections[:, row], float(centers[row]))

        run_in_threads(fill, rows)
        return lines

    def _run(self, lines: Floats, axis: float, algorithm: str, **options: Any) -> Floats:
        slices: Floats = self._tomopy.recon(
            lines,
            self._theta.astype(np.float32),
            center=axis,
            sinogram_order=True,
            algorithm=algorithm,
            num_gridx=self.columns,
            num_gridy=self.columns,
            ncore=thread_count(),
            **options,
        )
        return slices


class _Gridrec(_Direct):
    def __init__(
        self,
        tomopy: Any,
        theta_rad: npt.ArrayLike,
        columns: int,
        center: Center | None,
        settings: ReconstructionSettings,
    ) -> None:
        super().__init__(tomopy, theta_rad, columns, center, settings)
        self._width = power_of_two(2 * columns)
        first = (self._width - columns) // 2 - self._width // 2  # x of the first pixel, where TomoPy has it
        gain = gridrec_gain(first + np.arange(columns), self._width)
        self._inverse_gain = (1 / (gain[::-1, None] * gain[None, :])).astype(np.float32)  # its rows run upwards
        self._filter = LineFilter(
            self._theta,
            columns,
            settings,
            width=self._width,
            axis=self._width // 2,
            length=self._width,
            offset=-(columns - 1) / 2 - first,
        )

    def _reconstruct(self, projections: Floats, centers: Doubles) -> Floats:
        lines = self._lines(projections, centers)
        slices = self._run(lines, self._width // 2, "gridrec", filter_name="none")
        slices *= self._inverse_gain
        # The mean of the filtered lines, which gridrec leaves out, is a constant in the slice.
        slices += (math.pi * lines.mean(axis=(1, 2), dtype=np.float64).astype(np.float32))[:, None, None]
        return slices


class _Backprojection(_Direct):
    def __init__(
        self,
        tomopy: Any,
        theta_rad: npt.ArrayLike,
        columns: int,
        center: Center | None,
        settings: ReconstructionSettings,
    ) -> None:
        super().__init__(tomopy, theta_rad, columns, center, settings)
        self._width = columns + 2  # one beside the detector on either side, for the pixels at the rim
        self._axis = (self._width - 1) / 2
        length = power_of_two(2 * self._width)
        self._filter = LineFilter(self._theta, columns, settings, width=self._width, axis=self._axis, length=length)

    def _reconstruct(self, projections: Floats, centers: Doubles) -> Floats:
        slices = self._run(self._lines(projections, centers), self._axis + _AXIS_FROM_EDGE, "fbp")
        slices *= np.float32(math.pi / self._theta.size)
        return slices


class _Iterative(AdaptedReconstructor):
    def __init__(
        self,
        tomopy: Any,
        theta_rad: npt.ArrayLike,
        columns: int,
        center: Center | None,
        settings: ReconstructionSettings,
    ) -> None:
        super().__init__(theta_rad, columns, center, settings, _PAIR * thread_count())
        self._tomopy = tomopy
        self._options: dict[str, Any] = {"num_iter": settings.most_iterations}
        if settings.algorithm == "osem":
            if not 1 <= settings.subsets <= self._theta.size:
                raise ParameterError(
                    f"reconstruction.subsets is {settings.subsets}; it must be 1 to the number of projections, "
                    f"{self._theta.size}"
                )
            order = np.concatenate([np.arange(k, self._theta.size, settings.subsets) for k in range(settings.subsets)])
            self._options |= {"num_block": settings.subsets, "ind_block": order.astype(np.float32)}

    def _reconstruct(self, projections: Floats, centers: Doubles) -> Floats:
        slices: Floats = self._tomopy.recon(
            np.ascontiguousarray(projections.swapaxes(0, 1)),
            self._theta.astype(np.float32),
            center=(centers + _AXIS_FROM_EDGE).astype(np.float32),
            sinogram_order=True,
            algorithm=self._settings.algorithm,
            ncore=thread_count(),
            **self._options,
        )
        return slices


def gridrec_gain(position: npt.NDArray[np.int64], length: int) -> Doubles:
    """By how much gridrec reads too high, along one axis of its image; the product of both axes is a pixel's gain.

    The transform of its kernel, cut off at two cells, divided by the correction that it applies.

    Parameters
    ----------
    position : (pixels,) int64
        From the middle of gridrec's grid, pixels.
    length : int
        Size of gridrec's grid.

    Returns
    -------
    (pixels,) float64
    """
    half = length // 2
    transform = _prolate(2 * _KERNEL_HALF_WIDTH * math.pi / 2 / _PROLATE_PARAMETER * position / half)
    table = np.round(np.abs(position + 1) * _TABLE / (half - 0.5)) / _TABLE
    return 2 * math.pi / _NORM / _PROLATE_PARAMETER * transform / _prolate(table)


def _prolate(position: Doubles) -> Doubles:
    inside = np.minimum(np.abs(position), 1 - 1e-9)
    values: Doubles = pro_ang1(0, 0, _PROLATE_PARAMETER, inside)[0]
    return values
