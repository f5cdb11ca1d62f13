"""Adapter for the ASTRA Toolbox, on the CPU and on CUDA.

Its volume has tomopipe's orientation and pixel grid; the rotation axis is given to it as a shifted detector. Projections
for fbp are filtered here and only backprojected there, so that all filters and uneven angles mean the same as elsewhere.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

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

INSTALL = "install it with: pip install astra-toolbox (its licence is the GPL, version 3)"

_ALGORITHMS = {"fbp": "BP", "sirt": "SIRT", "cgls": "CGLS"}


class AstraEngine:
    """The ASTRA Toolbox; see `tomopipe.functions.reconstruction.engines.Engine`.

    On the CPU rows are spread over the threads and each is computed alone: its bits depend on nothing else.
    """

    name = "astra"
    algorithms = frozenset(_ALGORITHMS)

    def available(self) -> bool:
        """Whether the ASTRA Toolbox is installed."""
        return installed("astra")

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
        astra = load("astra", INSTALL)
        if not settings.is_direct:
            check_iterative_settings(self.name, settings, bounds=settings.algorithm == "sirt")
        if device.kind == "cuda" and not astra.use_cuda():
            raise ParameterError(
                "reconstruction.engine is 'astra', but this build of it cannot use the CUDA device; "
                "install one that can, or take gpu_devices away or the engine native"
            )
        gpu = device.index if device.kind == "cuda" else None
        return _AstraReconstructor(astra, theta_rad, columns, center, settings, gpu=gpu)

    def rows_per_batch(self, settings: ReconstructionSettings) -> int:
        """See `Engine.rows_per_batch`."""
        check_algorithm(self.name, self.algorithms, settings)
        return thread_count()

    def fixed_memory_bytes(self, angles: int, columns: int, settings: ReconstructionSettings) -> int:
        """See `Engine.fixed_memory_bytes`."""
        each = 4 * 4 * columns * (angles + columns)  # ASTRA's copy, what it simulates, and the steps between
        length = power_of_two(2 * columns)
        filtering = 5 * 4 * angles * length if settings.is_direct else 0
        return 8 * angles * (length // 2 + 1) + self.rows_per_batch(settings) * (each + filtering)


class _AstraReconstructor(AdaptedReconstructor):
    def __init__(
        self,
        astra: Any,
        theta_rad: npt.ArrayLike,
        columns: int,
        center: Center | None,
        settings: ReconstructionSettings,
        *,
        gpu: int | None,
    ) -> None:
        super().__init__(theta_rad, columns, center, settings, thread_count())
        self._astra = astra
        self._gpu = gpu  # index of the CUDA device, None for the CPU
        self._volume = astra.create_vol_geom(columns, columns)
        self._filter: LineFilter | None = None
        if settings.algorithm == "fbp":
            middle = (columns + 1) / 2  # one column beside the detector on either side, for the pixels at the rim
            self._filter = LineFilter(
                self._theta, columns, settings, width=columns + 2, axis=middle, length=power_of_two(2 * columns)
            )

    def _reconstruct(self, projections: Floats, centers: Doubles) -> Floats:
        rows = projections.shape[1]
        slices = np.empty((rows, self.columns, self.columns), dtype=np.float32)

        def fill(row: int) -> None:
            slices[row] = self._reconstruct_row(projections[:, row], float(centers[row]))

        if self._gpu is not None:
            for row in range(rows):
                fill(row)
        else:
            run_in_threads(fill, rows)
        return slices

    def _reconstruct_row(self, lines: Floats, center: float) -> Floats:
        if self._filter is not None:
            filtered = self._filter(lines, center) * np.float32(math.pi / self._theta.size)
            return self._run(np.ascontiguousarray(filtered), 0.0, 1)
        shift = (self.columns - 1) / 2 - center
        return self._run(np.ascontiguousarray(lines), shift, self._settings.most_iterations)

    def _run(self, lines: Floats, shift: float, iterations: int) -> Floats:
        """Slice of lines whose detector is moved by `shift` pixels."""
        astra = self._astra
        geometry = astra.create_proj_geom("parallel", 1.0, lines.shape[1], self._theta)
        geometry = astra.geom_postalignment(geometry, shift)
        sinogram = astra.data2d.create("-sino", geometry, lines)
        image = astra.data2d.create("-vol", self._volume)
        config = astra.astra_dict(_ALGORITHMS[self._settings.algorithm] + ("" if self._gpu is None else "_CUDA"))
        config["ProjectionDataId"], config["ReconstructionDataId"] = sinogram, image
        projector = None
        if self._gpu is None:
            projector = config["ProjectorId"] = astra.create_projector("linear", geometry, self._volume)
        config["option"] = self._options()
        algorithm = astra.algorithm.create(config)
        try:
            astra.algorithm.run(algorithm, iterations)
            result: Floats = astra.data2d.get(image)
        finally:
            astra.algorithm.delete(algorithm)
            astra.data2d.delete([sinogram, image])
            if projector is not None:
                astra.projector.delete(projector)
        return result

    def _options(self) -> dict[str, float]:
        """The algorithm's options; the GPU is named for it alone, not for all of the process."""
        options: dict[str, float | None] = {"GPUindex": self._gpu}
        if self._settings.algorithm == "sirt":
            options |= {"MinConstraint": self._settings.minimum, "MaxConstraint": self._settings.maximum}
        return {name: value for name, value in options.items() if value is not None}
