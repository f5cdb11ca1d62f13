"""tomopipe's own engine: runs everywhere from pip packages alone.

The numerics are in `fbp`, `fourier`, `iterative` and, for GPUs, `torch_direct`; this only names and chooses them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy.typing as npt

from ...device import CPU, Device
from ..direct import Center, DirectReconstructor, padded_length
from ..fbp import FilteredBackprojection
from ..fourier import FourierGridding
from ..settings import ITERATIVE_ALGORITHMS, ReconstructionSettings
from .adapted import check_algorithm

if TYPE_CHECKING:
    from . import Reconstructor

# gridrec and fourierrec are other packages' names for the same method and differ in how the samples are spread onto
# the grid.
_DIRECT: dict[str, type[DirectReconstructor]] = {
    "fbp": FilteredBackprojection,
    "gridrec": FourierGridding,
    "fourierrec": FourierGridding,
}
TABLES_BYTES = 2**20  # filters, kernel and phases: small beside the rest


class NativeEngine:
    """Direct and iterative methods on the CPU and, by PyTorch, on GPUs; see `tomopipe.functions.reconstruction.engines.Engine`.

    ``gridrec`` and ``fourierrec`` both mean `FourierGridding`.
    """

    name = "native"
    algorithms = frozenset(_DIRECT) | ITERATIVE_ALGORITHMS

    def available(self) -> bool:
        """Always."""
        return True

    def prepare(
        self,
        theta_rad: npt.ArrayLike,
        columns: int,
        center: Center | None = None,
        *,
        settings: ReconstructionSettings,
        device: Device = CPU,
    ) -> Reconstructor:
        """See `Engine.prepare`."""
        check_algorithm(self.name, self.algorithms, settings)
        if device.is_gpu:
            from ..torch_direct import TorchReconstructor  # imports PyTorch, which a CPU worker need not have

            return TorchReconstructor(theta_rad, columns, center, settings, device.torch_name)
        if settings.is_direct:
            return _DIRECT[settings.algorithm](
                theta_rad,
                columns,
                center,
                filter_name=settings.filter_name,
                filter_cutoff=settings.filter_cutoff,
                filter_order=settings.filter_order,
                padding=settings.padding,
            )
        from ..iterative import IterativeReconstructor

        return IterativeReconstructor(theta_rad, columns, center, settings)

    def rows_per_batch(self, settings: ReconstructionSettings) -> int:
        """See `Engine.rows_per_batch`."""
        check_algorithm(self.name, self.algorithms, settings)
        if settings.is_direct:
            return _DIRECT[settings.algorithm].lanes
        from ..iterative import IterativeReconstructor

        return IterativeReconstructor.lanes

    def fixed_memory_bytes(self, angles: int, columns: int, settings: ReconstructionSettings) -> int:
        """See `Engine.fixed_memory_bytes`."""
        check_algorithm(self.name, self.algorithms, settings)
        if settings.is_direct:
            method = _DIRECT[settings.algorithm]
            extended = 4 * angles * method.lanes * padded_length(columns) if settings.padding == "cylinder" else 0
            return method.workspace_bytes(angles, columns) + extended + TABLES_BYTES
        from ..iterative import IterativeReconstructor, check_settings

        check_settings(settings, angles)
        return IterativeReconstructor.workspace_bytes(angles, columns, settings) + TABLES_BYTES
