"""One adapter a reconstruction engine behind one small protocol; all convert to the conventions stated in `Engine`.

Which rows are reconstructed when, and the pixel size, are the caller's business.
"""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from ...errors import ParameterError
from .native import NativeEngine

EngineName = Literal["auto", "native"]


class Reconstructor(Protocol):
    """What an engine prepared for one set of angles; may be called for any number of row ranges."""

    def __call__(
        self, projections: npt.NDArray[np.float32], *, center: float | npt.NDArray[np.float64] | None = None
    ) -> npt.NDArray[np.float32]:
        """Slices (rows, n, n) of projections (angles, rows, n); `center` (one, or one a row) instead of the prepared
        one."""
        ...


class Engine(Protocol):
    """A reconstruction engine.

    A projection is p(theta, t), the line integral of f over x cos(theta) + y sin(theta) = t, with t = column - center,
    x = column - (n - 1) / 2 and y = (n - 1) / 2 - row in the slice. Slices are float32 in 1/pixel and zero outside
    the circle of radius n / 2 about the rotation axis, which lies in the middle of the slice. A slice's bits do not
    depend on which rows are reconstructed with it, nor on the number of threads.
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
        """Whether it can run in this process on this machine."""
        ...

    def prepare(
        self,
        theta_rad: npt.ArrayLike,
        columns: int,
        center: float | npt.NDArray[np.float64] | None = None,
        *,
        algorithm: str,
        filter_name: str = "ramp",
        padding: str = "edge",
    ) -> Reconstructor:
        """Everything that is computed once for a scan: weights, filters, tables.

        Raises `ParameterError` or `InputError` naming what cannot be used.
        """
        ...

    def reconstruct(
        self,
        projections: npt.NDArray[np.float32],
        theta_rad: npt.ArrayLike,
        center: float | npt.NDArray[np.float64],
        *,
        algorithm: str,
        filter_name: str = "ramp",
        padding: str = "edge",
    ) -> npt.NDArray[np.float32]:
        """`prepare` and call in one, for a single set of rows."""
        ...

    def rows_per_batch(self, algorithm: str) -> int:
        """Rows that are computed together: a chunk of a multiple of this wastes nothing."""
        ...

    def memory_per_row_bytes(self, angles: int, columns: int, algorithm: str) -> int:
        """Memory that each row of a call takes: its projections and its slice."""
        ...

    def fixed_memory_bytes(self, angles: int, columns: int, algorithm: str) -> int:
        """Memory that a call takes besides, however many rows it has."""
        ...


def get_engine(name: str = "auto") -> Engine:
    """The engine of that name; ``auto`` is the fastest that is available.

    Raises
    ------
    ParameterError
        unknown, or not available here
    """
    engines: dict[str, Engine] = {"native": NativeEngine()}
    if name == "auto":
        return engines["native"]
    if name not in engines:
        raise ParameterError(f"reconstruction.engine is {name!r}; it must be one of auto, {', '.join(engines)}")
    engine = engines[name]
    if not engine.available():
        raise ParameterError(f"reconstruction.engine is {name!r}, which is not installed here; use auto")
    return engine
