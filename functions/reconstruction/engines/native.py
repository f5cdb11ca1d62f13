"""tomopipe's own engine: runs everywhere from pip packages alone.

The numerics are in `fbp` and `fourier`; this only names and chooses them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...errors import ParameterError
from ..direct import Center, DirectReconstructor
from ..fbp import FilteredBackprojection
from ..fourier import FourierGridding

# gridrec and fourierrec are other packages' names for the same method and differ in how the samples are spread onto
# the grid.
_METHODS: dict[str, type[DirectReconstructor]] = {
    "fbp": FilteredBackprojection,
    "gridrec": FourierGridding,
    "fourierrec": FourierGridding,
}
TABLES_BYTES = 2**20  # filters, kernel and phases: small beside the rest


class NativeEngine:
    """Filtered backprojection and Fourier gridding on the CPU; see `tomopipe.functions.reconstruction.engines.Engine`.

    ``gridrec`` and ``fourierrec`` both mean `FourierGridding`.
    """

    name = "native"
    algorithms = frozenset(_METHODS)

    def available(self) -> bool:
        """Always."""
        return True

    def prepare(
        self,
        theta_rad: npt.ArrayLike,
        columns: int,
        center: Center | None = None,
        *,
        algorithm: str,
        filter_name: str = "ramp",
        padding: str = "edge",
    ) -> DirectReconstructor:
        """See `Engine.prepare`."""
        return _method(algorithm)(theta_rad, columns, center, filter_name=filter_name, padding=padding)

    def reconstruct(
        self,
        projections: npt.NDArray[np.float32],
        theta_rad: npt.ArrayLike,
        center: Center,
        *,
        algorithm: str,
        filter_name: str = "ramp",
        padding: str = "edge",
    ) -> npt.NDArray[np.float32]:
        """See `Engine.reconstruct`."""
        columns = projections.shape[-1]
        prepared = self.prepare(
            theta_rad, columns, center, algorithm=algorithm, filter_name=filter_name, padding=padding
        )
        return prepared(projections)

    def rows_per_batch(self, algorithm: str) -> int:
        """See `Engine.rows_per_batch`."""
        return _method(algorithm).lanes

    def memory_per_row_bytes(self, angles: int, columns: int, algorithm: str) -> int:
        """See `Engine.memory_per_row_bytes`."""
        _method(algorithm)
        return 4 * (angles * columns + columns * columns)

    def fixed_memory_bytes(self, angles: int, columns: int, algorithm: str) -> int:
        """See `Engine.fixed_memory_bytes`."""
        return _method(algorithm).workspace_bytes(angles, columns) + TABLES_BYTES


def _method(algorithm: str) -> type[DirectReconstructor]:
    if algorithm not in _METHODS:
        raise ParameterError(f"reconstruction.algorithm is {algorithm!r}; it must be one of {', '.join(_METHODS)}")
    return _METHODS[algorithm]
