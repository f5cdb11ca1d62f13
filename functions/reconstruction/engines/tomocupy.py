"""Adapter for TomocuPy on CUDA: its three backprojections, reached without the globals of its command line.

TomocuPy's pipeline keeps one configuration a process in `tomocupy.global_vars`; the classes below it do not, and take
arrays. What they expect, read from TomocuPy 1.1 (nothing of it could be run without a CUDA device; the tests hold the
adapter to a stand-in that does the same sums in NumPy):

* data (rows, angles, width), filtered; an even number of rows, an even width, in half precision a power of two;
* the axis at width / 2 (lprec: (width - 1) / 2), pixels half a pixel to the left of tomopipe's and half a pixel lower;
* fourierrec and linerec return 4 / angles times the sum over the angles; what lprec returns is found with a disc;
* lprec takes angles k pi / angles and no others.

TomocuPy adds with atomic operations: the last bits of its slices differ from run to run.
"""

from __future__ import annotations

import math
import threading
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import scipy.fft

from ...device import CPU, Device
from ...errors import InputError, ParameterError
from ..settings import ReconstructionSettings
from .adapted import (
    AdaptedReconstructor,
    Center,
    Doubles,
    Floats,
    LineFilter,
    check_algorithm,
    installed,
    load,
    power_of_two,
)

INSTALL = "install it with: conda install -c conda-forge tomocupy"
ROWS = 8  # computed together; even, as fourierrec packs two rows into one complex transform
SAME_ANGLE_STEPS = 0.01  # by how much of a step an angle may be off where equal steps are needed

_CLASSES = {
    "fourierrec": ("fourierrec", "FourierRec"),
    "gridrec": ("fourierrec", "FourierRec"),
    "lprec": ("lprec", "LpRec"),
    "fbp": ("linerec", "LineRec"),
}
_SUM_OVER_ANGLES = 4.0  # fourierrec and linerec: 4 / angles times the sum


class TomocupyEngine:
    """TomocuPy; see `tomopipe.functions.reconstruction.engines.Engine`.

    ``fbp`` is its linerec; ``gridrec`` and ``fourierrec`` both mean its fourierrec. Pixels at the very rim of the circle,
    which TomocuPy centres half a pixel off, may be zero.
    """

    name = "tomocupy"
    algorithms = frozenset(_CLASSES)

    def available(self) -> bool:
        """Whether TomocuPy and CuPy are installed."""
        return installed("tomocupy", "cupy")

    def prepare(
        self,
        theta_rad: npt.ArrayLike,
        columns: int,
        center: Center | None = None,
        *,
        settings: ReconstructionSettings,
        device: Device = CPU,
    ) -> AdaptedReconstructor:
        """See `Engine.prepare`."""
        check_algorithm(self.name, self.algorithms, settings)
        if device.kind != "cuda":
            raise ParameterError(
                "reconstruction.engine is 'tomocupy', which needs a CUDA device, and this worker computes on "
                f"{device.torch_name}; take the engine native, or a worker with an NVIDIA GPU that PyTorch can use"
            )
        return _TomocupyReconstructor(theta_rad, columns, center, settings, device.index)

    def rows_per_batch(self, settings: ReconstructionSettings) -> int:
        """See `Engine.rows_per_batch`."""
        check_algorithm(self.name, self.algorithms, settings)
        return ROWS

    def fixed_memory_bytes(self, angles: int, columns: int, settings: ReconstructionSettings) -> int:
        """See `Engine.fixed_memory_bytes`."""
        check_algorithm(self.name, self.algorithms, settings)
        width = _width(columns, settings)
        gains = 24 * angles * (_padded(width) // 2 + 1)  # complex128 while they are made, then complex64
        return gains + 4 * ROWS * (angles * columns + width * width)


class _TomocupyReconstructor(AdaptedReconstructor):
    def __init__(
        self,
        theta_rad: npt.ArrayLike,
        columns: int,
        center: Center | None,
        settings: ReconstructionSettings,
        index: int,
    ) -> None:
        super().__init__(theta_rad, columns, center, settings, ROWS)
        self._cupy = load("cupy", "install the cupy that fits the CUDA driver")
        module, self._class = _CLASSES[settings.algorithm]
        self._module = load(f"tomocupy.reconstruction.{module}", INSTALL)
        self._gpu = index
        self._width = _width(columns, settings)
        self._dtype = "float16" if settings.precision == "half" else "float32"
        if settings.algorithm == "lprec":
            _check_equal_steps(self._theta)
        self._lock = threading.Lock()  # its plans and buffers belong to one call at a time
        self._place()
        with self._cupy.cuda.Device(self._gpu):
            self._filter = self._line_filter(settings)
            self._make_plan()
        self._scale = math.pi / _SUM_OVER_ANGLES
        if settings.algorithm == "lprec":
            self._scale = 1 / self._value_of_a_disc()

    def _place(self) -> None:
        """Where tomopipe's pixels lie on TomocuPy's grid, and where that has the rotation axis on the detector.

        Its pixel has x = column - middle and y = width - 1 - middle - row.
        """
        width, columns = self._width, self.columns
        if self._settings.algorithm == "lprec":
            self._axis = (width - 1) / 2
            middle = self._axis + 0.5 * (1 - 1 / width)
        else:
            self._axis = middle = width / 2
        self._first_column = math.ceil(middle - (columns - 1) / 2 - 0.5)
        self._first_row = width - columns - self._first_column
        self._offset = middle - self._first_column - (columns - 1) / 2

    def _line_filter(self, settings: ReconstructionSettings) -> LineFilter:
        return LineFilter(
            self._theta,
            self.columns,
            settings,
            width=self._width,
            axis=self._axis,
            length=_padded(self._width),
            offset=self._offset,
            arrays=self._cupy,
        )

    def _make_plan(self) -> None:
        theta = self._cupy.asarray(self._theta.astype(np.float32))
        angles, make = self._theta.size, getattr(self._module, self._class)
        if self._class == "LineRec":
            self._plan = make(theta, angles, angles, ROWS, ROWS, self._width, self._dtype)
        else:
            self._plan = make(self._width, angles, ROWS, theta, self._dtype)
        self._stream = self._cupy.cuda.Stream(non_blocking=False)

    def _reconstruct(self, projections: Floats, centers: Doubles) -> Floats:
        return self._backproject(projections, centers, self._filter) * np.float32(self._scale)

    def _backproject(self, projections: Floats, centers: Doubles, line_filter: LineFilter) -> Floats:
        """What TomocuPy makes of filtered projections, on tomopipe's grid and in its own scale."""
        cupy = self._cupy
        rows = projections.shape[1]
        with self._lock, cupy.cuda.Device(self._gpu), self._stream:
            on_device = cupy.asarray(np.ascontiguousarray(projections.swapaxes(0, 1)))
            lines = cupy.zeros((ROWS, self._theta.size, self._width), dtype=np.float32)
            for row in range(rows):
                lines[row] = line_filter(on_device[row], float(centers[row]))
            # Half precision has few exponents: each row is brought to about 1 by itself.
            largest = abs(lines).max(axis=(1, 2)) if self._dtype == "float16" else None
            if largest is not None:
                largest = cupy.where(largest > 0, largest, np.float32(1))
                lines /= largest[:, None, None]
            result = cupy.zeros((ROWS, self._width, self._width), dtype=self._dtype)
            self._plan.backprojection(result, lines.astype(self._dtype), self._stream)
            slices = result.astype(np.float32)
            if largest is not None:
                slices *= largest[:, None, None]
            found: Floats = cupy.asnumpy(slices)
            self._stream.synchronize()
        high = slice(self._first_row, self._first_row + self.columns)
        across = slice(self._first_column, self._first_column + self.columns)
        return found[:rows, high, across]

    def _value_of_a_disc(self) -> float:
        """What a disc of value 1 about the axis reads."""
        middle, radius = (self.columns - 1) / 2, 0.4 * self.columns
        chord = 2 * np.sqrt(np.maximum(radius**2 - (np.arange(self.columns) - middle) ** 2, 0)).astype(np.float32)
        projections = np.broadcast_to(chord, (self._theta.size, 1, self.columns))
        ramp = self._line_filter(replace(self._settings, filter_name="ramp", filter_cutoff=1.0))
        image = self._backproject(projections, np.array([middle]), ramp)[0]
        across = np.arange(self.columns) - middle
        value = float(image[across[:, None] ** 2 + across**2 < (radius / 2) ** 2].mean())
        if not value > 0:
            raise InputError(f"TomocuPy's {self._settings.algorithm} reads {value} for a disc of 1; take fourierrec")
        return value


def _width(columns: int, settings: ReconstructionSettings) -> int:
    """Width that TomocuPy works on."""
    return power_of_two(columns) if settings.precision == "half" else columns + columns % 2


def _padded(width: int) -> int:
    length = 2 * width
    while scipy.fft.next_fast_len(length, real=True) != length or length % 2:
        length += 1
    return length


def _check_equal_steps(theta: Doubles) -> None:
    expected = np.arange(theta.size) * np.pi / theta.size
    if np.abs(theta - expected).max() > SAME_ANGLE_STEPS * np.pi / theta.size:
        raise InputError(
            f"reconstruction.algorithm lprec needs {theta.size} angles in equal steps from 0 to below 180 degrees; these "
            f"go from {np.rad2deg(theta[0]):g} to {np.rad2deg(theta[-1]):g}: take fourierrec"
        )
