"""One adapter a reconstruction engine behind one small protocol; all convert to the conventions stated in `Engine`.

Which rows are reconstructed when, and the pixel size, are the caller's business.
"""

from __future__ import annotations

from typing import Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from ...device import CPU, Device
from ...errors import ParameterError
from ..settings import ReconstructionSettings
from .astra import INSTALL as ASTRA_INSTALL
from .astra import AstraEngine
from .native import NativeEngine
from .tomocupy import INSTALL as TOMOCUPY_INSTALL
from .tomocupy import TomocupyEngine
from .tomopy import INSTALL as TOMOPY_INSTALL
from .tomopy import TomopyEngine

EngineName = Literal["auto", "native", "tomopy", "tomocupy", "astra"]
ENGINES: tuple[str, ...] = get_args(EngineName)


class Reconstructor(Protocol):
    """What an engine prepared for one set of angles; may be called for any number of row ranges."""

    def __call__(
        self, projections: npt.NDArray[np.float32], *, center: float | npt.NDArray[np.float64] | None = None
    ) -> npt.NDArray[np.float32]:
        """Slices of projections.

        Parameters
        ----------
        projections : (angles, rows, n) float32
            Line integrals, dimensionless.
        center : float or (rows,) float64
            Rotation axis in pixels, instead of the prepared one.

        Returns
        -------
        (rows, n, n) float32
            Attenuation in 1/pixel.

        Raises
        ------
        InputError
            Shapes that do not fit the angles or the width.
        ParameterError
            No center, or one that is not on the detector.
        """
        ...


class Engine(Protocol):
    """A reconstruction engine.

    A projection is p(theta, t), the line integral of f over x cos(theta) + y sin(theta) = t, with t = column - center,
    x = column - (n - 1) / 2 and y = (n - 1) / 2 - row in the slice. Slices are float32 in 1/pixel and zero outside
    the circle of radius n / 2 about the rotation axis, which lies in the middle of the slice. With the engine native a
    slice's bits do not depend on which rows are reconstructed with it, nor on the number of threads; what other
    packages make agrees with itself to float32 rounding.
    """

    @property
    def name(self) -> str:
        """How parameters name it."""
        ...

    @property
    def algorithms(self) -> frozenset[str]:
        """What it offers."""
        ...

    def available(self) -> bool:
        """Whether its packages are installed here, found without importing them."""
        ...

    def prepare(
        self,
        theta_rad: npt.ArrayLike,
        columns: int,
        center: float | npt.NDArray[np.float64] | None = None,
        *,
        settings: ReconstructionSettings,
        device: Device = CPU,
    ) -> Reconstructor:
        """Everything that is computed once for a scan: weights, filters, tables.

        Parameters
        ----------
        theta_rad : (angles,) array_like
            Radians.
        columns : int
            Width n of a projection.
        center : float or (rows,) float64 or None
            Rotation axis in pixels; None where each call gives it.
        settings : ReconstructionSettings
        device : Device

        Raises
        ------
        ParameterError
            A setting that the engine does not have, a package or a device that is not there.
        InputError
            Angles or a width that cannot be used.
        """
        ...

    def rows_per_batch(self, settings: ReconstructionSettings) -> int:
        """Rows that are computed together: a chunk of a multiple of this wastes nothing."""
        ...

    def fixed_memory_bytes(self, angles: int, columns: int, settings: ReconstructionSettings) -> int:
        """CPU memory that a call takes beside its projections and slices, however many rows it has."""
        ...


def get_engine(name: str = "auto", device: Device = CPU) -> Engine:
    """The engine of that name; ``auto`` is TomocuPy on a CUDA device where it is installed, else native.

    Parameters
    ----------
    name : str
        One of `ENGINES`.
    device : Device
        What is to be computed on; matters for ``auto`` alone.

    Raises
    ------
    ParameterError
        Unknown, or not installed here: the message says how to install it.
    """
    engines: dict[str, tuple[Engine, str]] = {
        "native": (NativeEngine(), ""),
        "tomopy": (TomopyEngine(), TOMOPY_INSTALL),
        "tomocupy": (TomocupyEngine(), TOMOCUPY_INSTALL),
        "astra": (AstraEngine(), ASTRA_INSTALL),
    }
    if name == "auto":
        tomocupy = engines["tomocupy"][0]
        return tomocupy if device.kind == "cuda" and tomocupy.available() else engines["native"][0]
    if name not in engines:
        raise ParameterError(f"reconstruction.engine is {name!r}; it must be one of {', '.join(ENGINES)}")
    engine, remedy = engines[name]
    if not engine.available():
        raise ParameterError(f"reconstruction.engine is {name!r}, which is not installed here; {remedy}, or use auto")
    return engine
