"""What the adapters of other packages share: arguments checked, projections filtered, weighted and moved to their origin.

Each package has its own grid, filters and idea of a rotation axis. Projections are therefore filtered here, with the
filters of the native engine, and moved by fractions of a pixel in the same pass, so that the package's backprojection
falls on tomopipe's grid.
"""

from __future__ import annotations

import importlib
import importlib.util
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import InputError, ParameterError
from ..direct import PADDINGS
from ..extrapolation import extend_lines, extension_plan
from ..filters import ramp_filter
from ..geometry import angular_weights, check_angles, checked_centers, circle_mask
from ..settings import ReconstructionSettings

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Center = float | Doubles


class AdaptedReconstructor(ABC):
    """One set of angles made ready for another package; called like any other `Reconstructor`.

    Parameters
    ----------
    theta_rad : (angles,) array_like
        Radians.
    columns : int
        Width n of a projection.
    center : float or (rows,) float64 or None
        Rotation axis in pixels; may be given with each call instead.
    settings : ReconstructionSettings
    batch : int
        Rows that are handed to the package at a time.

    Raises
    ------
    InputError
        Angles that cannot be used, or projections too narrow.
    ParameterError
        Unknown padding.
    """

    def __init__(
        self,
        theta_rad: npt.ArrayLike,
        columns: int,
        center: Center | None,
        settings: ReconstructionSettings,
        batch: int,
    ) -> None:
        if settings.padding not in PADDINGS:
            raise ParameterError(
                f"reconstruction.padding is {settings.padding!r}; it must be one of {', '.join(PADDINGS)}"
            )
        if columns < 2:
            raise InputError(f"projections are {columns} columns wide; needed are at least 2")
        self.columns = columns
        self.center = center
        self._theta = check_angles(theta_rad)
        self._settings = settings
        self._batch = batch

    def __call__(self, projections: Floats, *, center: Center | None = None) -> Floats:
        """See `tomopipe.functions.reconstruction.engines.Reconstructor`."""
        projections = np.asarray(projections, dtype=np.float32)
        if projections.ndim != 3 or (projections.shape[0], projections.shape[2]) != (self._theta.size, self.columns):
            raise InputError(
                f"projections have shape {projections.shape}; "
                f"needed is ({self._theta.size} angles, rows, {self.columns} columns)"
            )
        rows = projections.shape[1]
        centers = self._centers(self.center if center is None else center, rows)
        slices = np.empty((rows, self.columns, self.columns), dtype=np.float32)
        for first in range(0, rows, self._batch):
            batch = slice(first, min(first + self._batch, rows))
            slices[batch] = self._reconstruct(projections[:, batch], centers[batch])
        slices[:, ~circle_mask(self.columns)] = 0
        return slices

    @abstractmethod
    def _reconstruct(self, projections: Floats, centers: Doubles) -> Floats:
        """Slices (rows, n, n) of at most `batch` rows, on tomopipe's grid; beyond the circle they may be anything."""

    def _centers(self, center: Center | None, rows: int) -> Doubles:
        return np.broadcast_to(checked_centers(center, rows, self.columns), (rows,))


class LineFilter:
    """Filters, weights and moves projections, so that their plain mean over the angles times pi is the slice.

    Column j of a result holds the filtered projection at t = j - axis + dx cos(theta) + dy sin(theta): a package that
    puts the rotation axis at column `axis`, and whose pixels lie (dx, dy) away from where tomopipe has them, then makes
    the slice on tomopipe's grid.

    Parameters
    ----------
    theta_rad : (angles,) float64
        Radians.
    columns : int
        Width of the projections.
    settings : ReconstructionSettings
        Filter and padding.
    width : int
        Columns of a result, at most `length`.
    axis : float
        Column of the results at which the package has the rotation axis.
    length : int
        Length to which projections are padded, even, at least twice their width.
    offset : float
        dx = dy in pixels: tomopipe's position of a pixel less the package's; x to the right, y up.
    arrays : module
        ``numpy`` or ``cupy``.
    """

    def __init__(
        self,
        theta_rad: Doubles,
        columns: int,
        settings: ReconstructionSettings,
        *,
        width: int,
        axis: float,
        length: int,
        offset: float = 0.0,
        arrays: Any = np,
    ) -> None:
        response = ramp_filter(
            length, settings.filter_name, cutoff=settings.filter_cutoff, order=settings.filter_order
        ).astype(np.float64)
        weights = angular_weights(theta_rad) * (theta_rad.size / np.pi)
        shift = offset * (np.cos(theta_rad) + np.sin(theta_rad))
        self._cycles = np.arange(length // 2 + 1) / length
        phase = np.exp(2j * np.pi * shift[:, None] * self._cycles)
        self._gains = arrays.asarray((weights[:, None] * response * phase).astype(np.complex64))
        self._arrays = arrays
        self._axis = axis
        self._width = width
        self._length = length
        self._right = columns + (length - columns) // 2  # from here on the padding belongs to the left edge (circular)
        self._pads_with_edge = settings.padding == "edge"
        self._extension = extension_plan(columns, length) if settings.padding == "cylinder" else None

    def __call__(self, lines: Any, center: float) -> Any:
        """Filtered lines (angles, width) of projections (angles, columns) with the rotation axis at `center` pixels."""
        arrays = self._arrays
        angles, columns = lines.shape
        padded = arrays.zeros((angles, self._length), dtype=np.float32)
        padded[:, :columns] = lines
        if self._pads_with_edge:
            padded[:, columns : self._right] = lines[:, -1:]
            padded[:, self._right :] = lines[:, :1]
        if self._extension is not None:
            extend_lines(lines[:, None], padded[:, None], self._extension, arrays.asarray)
        move = np.exp(2j * np.pi * self._cycles * (center - self._axis)).astype(np.complex64)
        spectra = arrays.fft.rfft(padded, axis=1) * self._gains
        spectra *= arrays.asarray(move)
        filtered = arrays.fft.irfft(spectra, n=self._length, axis=1)
        return filtered[:, : self._width].astype(np.float32)


def installed(*modules: str) -> bool:
    """Whether modules can be imported, without importing them."""
    return all(_has(module) for module in modules)


def load(module: str, remedy: str) -> Any:
    """The imported module.

    Raises
    ------
    ParameterError
        It cannot be imported; the message ends with `remedy`.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:
        raise ParameterError(
            f"reconstruction.engine needs {module}, which cannot be imported ({error}); {remedy}"
        ) from error


def check_algorithm(engine: str, algorithms: frozenset[str], settings: ReconstructionSettings) -> None:
    """Refuse an algorithm that an engine does not offer.

    Raises
    ------
    ParameterError
    """
    if settings.algorithm not in algorithms:
        raise ParameterError(
            f"reconstruction.algorithm is {settings.algorithm!r}; the engine {engine} offers "
            f"{', '.join(sorted(algorithms))}"
        )


def check_iterative_settings(engine: str, settings: ReconstructionSettings, *, bounds: bool) -> None:
    """Refuse what only the native engine's iterative methods do, so that no setting is silently without effect.

    Parameters
    ----------
    engine : str
    settings : ReconstructionSettings
    bounds : bool
        Whether the engine can keep the values within `minimum` and `maximum`.

    Raises
    ------
    ParameterError
    """
    asked: dict[str, object] = {"projector": settings.projector, "stop_residual": settings.stop_residual}
    if not bounds:
        asked |= {"minimum": settings.minimum, "maximum": settings.maximum}
    if settings.warm_start:
        asked["warm_start"] = True
    for field, value in asked.items():
        if value is not None:
            raise ParameterError(
                f"reconstruction.{field} is {value!r}; the engine {engine} has it not for {settings.algorithm}: "
                "leave it out or take the engine native"
            )


def power_of_two(least: int) -> int:
    """The least power of two from `least` on."""
    return 1 << max(0, least - 1).bit_length()


def _has(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a parent package is missing, or a module that says nothing of its origin
        return False
