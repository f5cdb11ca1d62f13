"""What the direct methods (backprojection, Fourier gridding) share: checks, batches of slices, padding, filtering.

A batch always has the same number of slices ("lanes"), which are the fastest axis of every intermediate array;
missing slices are zeros. Positions and interpolation weights are then computed once a batch, and no slice's bits
depend on the slices beside it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, Literal, get_args

import numpy as np
import numpy.typing as npt

from ..errors import InputError, ParameterError
from .extrapolation import ExtensionPlan, extend_rows, extension_plan
from .filters import ramp_filter
from .geometry import angular_weights, check_angles, checked_centers
from .lane_fft import fast_length
from .lane_nufft import Spares

PaddingName = Literal["edge", "zero", "cylinder"]
PADDINGS: tuple[str, ...] = get_args(PaddingName)
TAKES_PADDED = frozenset({"FourierGridding"})  # methods whose `_reconstruct` takes projections that are padded already

Floats = npt.NDArray[np.float32]
Complexes = npt.NDArray[np.complex64]
Center = float | npt.NDArray[np.float64]


class DirectReconstructor(ABC):
    """Everything that is prepared once for a set of angles; call it with projections to get slices.

    Parameters
    ----------
    theta_rad : (angles,) radians
    columns : width n of a projection
    center : rotation axis in pixels, one for all rows or one a row; may be given with each call instead
    filter_name, filter_cutoff, filter_order : see `filters.ramp_filter`
    padding : what lies beside the detector: ``edge`` repeats the outermost values (no bright rim where the sample is
        wider than the field of view, but an offset and cupping), ``cylinder`` continues each projection as that of a
        cylinder (see `extrapolation`; `TAKES_PADDED` methods only), ``zero`` is exact for a sample inside it

    Raises
    ------
    InputError
        angles that cannot be used
    ParameterError
        unknown filter or padding, a cut-off or an order out of range
    """

    lanes: ClassVar[int]

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
        if padding not in PADDINGS:
            raise ParameterError(f"reconstruction.padding is {padding!r}; it must be one of {', '.join(PADDINGS)}")
        if columns < 2:
            raise InputError(f"projections are {columns} columns wide; needed are at least 2")
        if padding == "cylinder" and type(self).__name__ not in TAKES_PADDED:
            raise ParameterError("reconstruction.padding is 'cylinder', which fbp has not; take edge, or fourierrec")
        self.columns = columns
        self.center = center
        self._theta = check_angles(theta_rad)
        self._angular_weights = angular_weights(self._theta).astype(np.float32)
        self._padded = padded_length(columns)
        self._response = ramp_filter(self._padded, filter_name, filter_cutoff, filter_order).astype(np.float64)
        self._pad_with_edge = padding == "edge"
        self._extension: ExtensionPlan | None = None
        if padding == "cylinder":
            self._extension = extension_plan(columns, self._padded)
            self._extended = Spares(self._theta.size * self.lanes * self._padded)
        self._circle = circle_columns(columns)

    def __call__(self, projections: Floats, *, center: Center | None = None, out: Floats | None = None) -> Floats:
        """Slices of the projections' rows.

        Parameters
        ----------
        projections : (angles, rows, columns) float32, line integrals, dimensionless
        center : instead of the center given before; pixels, one for all rows or (rows,)
        out : (rows, columns, columns) float32, C-contiguous, overwritten: saves the cost of fresh memory; None makes a
            new array

        Returns
        -------
        (rows, columns, columns) float32, attenuation in 1/pixel; zero outside the circle of radius columns/2 about
        the rotation axis; `out` where given

        Raises
        ------
        InputError
            shapes do not fit the angles or the width, or `out` is not such an array
        ParameterError
            no center, or one that is not on the detector
        """
        projections = np.ascontiguousarray(projections, dtype=np.float32)
        if projections.ndim != 3 or (projections.shape[0], projections.shape[2]) != (self._theta.size, self.columns):
            raise InputError(
                f"projections have shape {projections.shape}; "
                f"needed is ({self._theta.size} angles, rows, {self.columns} columns)"
            )
        rows = projections.shape[1]
        centers = self._centers(self.center if center is None else center, rows)
        slices = self._slices(out, rows)
        if self._extension is None:
            self._reconstruct(projections, centers, slices)
        else:
            self._reconstruct_extended(projections, centers, slices, self._extension)
        return slices

    @classmethod
    @abstractmethod
    def workspace_bytes(cls, angles: int, columns: int) -> int:
        """Memory that a call needs beside projections and slices, for any number of rows, with the present threads."""

    @abstractmethod
    def _reconstruct(self, projections: Floats, centers: npt.NDArray[np.float64], slices: Floats) -> None:
        """Fill `slices`, `lanes` rows at a time."""

    def _reconstruct_extended(
        self, projections: Floats, centers: npt.NDArray[np.float64], slices: Floats, plan: ExtensionPlan
    ) -> None:
        angles, rows, _ = projections.shape
        memory = self._extended.take()
        for first in range(0, rows, self.lanes):
            last = min(first + self.lanes, rows)
            wide = memory[: angles * (last - first) * plan.padded].reshape(angles, last - first, plan.padded)
            extend_rows(projections, first, last, plan, wide)
            self._reconstruct(wide, centers[first:last], slices[first:last])
        self._extended.give(memory)

    def _slices(self, out: Floats | None, rows: int) -> Floats:
        shape = (rows, self.columns, self.columns)
        if out is None:
            return np.empty(shape, dtype=np.float32)
        if out.shape != shape or out.dtype != np.float32 or not out.flags.c_contiguous:
            raise InputError(f"out is {out.dtype} of shape {out.shape}; needed is contiguous float32 of shape {shape}")
        return out

    def _centers(self, center: Center | None, rows: int) -> npt.NDArray[np.float64]:
        return np.broadcast_to(checked_centers(center, rows, self.columns), (rows,))

    def _gains(self, centers: npt.NDArray[np.float64], axis_column: float) -> Complexes:
        """Filter that also moves each lane's rotation axis to `axis_column`: (padded // 2 + 1, lanes) complex64."""
        gains = np.zeros((self._response.size, self.lanes), dtype=np.complex64)
        cycles = np.arange(self._response.size) / self._padded
        for lane, center in enumerate(centers):  # each by itself, so that a lane's bits do not depend on the others
            gains[:, lane] = self._response * np.exp(2j * np.pi * cycles * (center - axis_column))
        return gains


def padded_length(columns: int) -> int:
    """Length to which projections are padded, quick to transform.

    At least twice the width: filtering does not wrap around for any pixel that all projections see.
    """
    return fast_even_length(2 * columns)


def fast_even_length(least: int) -> int:
    """The least even length from `least` on that is quick to transform."""
    return 2 * fast_length(-(-least // 2))


def circle_columns(columns: int) -> npt.NDArray[np.int64]:
    """First and one past the last column inside the reconstructed circle in each image row: (columns, 2) int64."""
    reach = [math.isqrt(columns**2 - (2 * row - columns + 1) ** 2) for row in range(columns)]
    return np.array([((columns - half) // 2, (columns - 1 + half) // 2 + 1) for half in reach], dtype=np.int64)
