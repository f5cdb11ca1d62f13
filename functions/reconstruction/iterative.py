"""Iterative reconstruction: what the settings ask for, on batches of rows, with the margin that local tomography needs.

The methods themselves are in `iterative_methods`, the operators in `line` and `fourier`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from ..errors import InputError, ParameterError
from .direct import PADDINGS, Center, Floats
from .fourier import FourierGridding, FourierProjector
from .geometry import check_angles, checked_centers
from .iterative_methods import Control, Solution, Sums, cgls, mlem, sirt, total_variation
from .lane_arrays import CHUNK_BYTES, Doubles, inside_circle
from .line import LineProjector
from .operators import LANES, Array, Projector
from .settings import ITERATIVE_ALGORITHMS, ReconstructionSettings
from .threads import thread_count

__all__ = [
    "Control",
    "FieldOfView",
    "IterativeReconstructor",
    "Solution",
    "Sums",
    "cgls",
    "check_settings",
    "cpu_projector",
    "margin_columns",
    "mlem",
    "sirt",
    "solve",
    "total_variation",
]

MakeProjector = Callable[[Doubles, int, Center, ReconstructionSettings], Projector]

# The Fourier pair fits a continuous sample better: its error stays put when CGLS goes on, and wide slices are quicker.
DEFAULT_PROJECTOR = {"sirt": "fourier", "cgls": "fourier", "tv": "fourier", "mlem": "line", "osem": "line"}
POISSON_ALGORITHMS = frozenset({"mlem", "osem"})  # they divide by projections, which must not be negative
PIECES = 3  # intermediate results that each thread has of the pieces of arrays that it works on
MARGIN_SHARE = 0.25  # of the width, on each side: what lies beside the field of view is reconstructed there


def solve(
    settings: ReconstructionSettings,
    projector: Projector,
    projections: Array,
    start: Array | None = None,
    *,
    sums: Sums | None = None,
) -> Solution:
    """Run the settings' algorithm on a batch of lanes.

    Parameters
    ----------
    settings : ReconstructionSettings
        An iterative algorithm; see `check_settings`.
    projector, projections, start, sums
        As for `iterative_methods.sirt`.
    """
    control = Control(settings.most_iterations, settings.stop_residual, settings.minimum, settings.maximum)
    if settings.algorithm == "cgls":
        return cgls(projector, projections, control, start)
    if settings.algorithm == "tv":
        return total_variation(projector, projections, control, start, weight=settings.tv_weight, sums=sums)
    if settings.algorithm in POISSON_ALGORITHMS:
        subsets = settings.subsets if settings.algorithm == "osem" else 1
        return mlem(projector, projections, control, start, subsets=subsets)
    return sirt(projector, projections, control, start, sums=sums)


def check_settings(settings: ReconstructionSettings, angles: int) -> None:
    """Refuse settings that an iterative algorithm cannot keep.

    Raises
    ------
    ParameterError
        Names the field, its value and what to do.
    """
    name, low, high = settings.algorithm, settings.minimum, settings.maximum
    if name not in ITERATIVE_ALGORITHMS:
        raise ParameterError(
            f"reconstruction.algorithm is {name!r}; iterative ones are {', '.join(sorted(ITERATIVE_ALGORITHMS))}"
        )
    if settings.padding not in PADDINGS:
        raise ParameterError(f"reconstruction.padding is {settings.padding!r}; it must be one of {', '.join(PADDINGS)}")
    if settings.projector not in (None, "line", "fourier"):
        raise ParameterError(f"reconstruction.projector is {settings.projector!r}; it must be line or fourier")
    if name in POISSON_ALGORITHMS and settings.projector == "fourier":
        raise ParameterError(
            f"reconstruction.projector is 'fourier'; {name} needs projector line (no negative weights)"
        )
    if low is not None and high is not None and low >= high:
        raise ParameterError(f"reconstruction.minimum is {low}; it must be below reconstruction.maximum, {high}")
    if name == "cgls" and (low is not None or high is not None):
        raise ParameterError(
            "reconstruction.minimum and reconstruction.maximum cannot be kept by cgls; leave them out, or use sirt or tv"
        )
    if name in POISSON_ALGORITHMS and high is not None and high <= 0:
        raise ParameterError(f"reconstruction.maximum is {high}; slices of {name} are 0 or more, so it must be above 0")
    if settings.most_iterations < 1:
        raise ParameterError(f"reconstruction.iterations is {settings.iterations}; needed is at least 1")
    if name == "osem" and not 1 <= settings.subsets <= angles:
        raise ParameterError(f"reconstruction.subsets is {settings.subsets}; it must be 1 to {angles}, the projections")
    if name == "tv" and not settings.tv_weight > 0:
        raise ParameterError(f"reconstruction.tv_weight is {settings.tv_weight}; it must be above 0")


class FieldOfView:
    """A projector of slices wider than the detector: what lies beside the field of view has room, and is not measured.

    Projections and slices are as wide as the projector that it is made from; the columns beside the detector are 0 in
    what `forward` gives, and `adjoint` takes them as 0.

    Parameters
    ----------
    projector : Projector
        For the wide slices, its centers counted from the first column of the margin.
    margin : int
        Columns on each side that the detector does not have.

    Attributes
    ----------
    measured_columns : int
        Width of the detector.
    """

    def __init__(self, projector: Projector, margin: int) -> None:
        self._projector, self._margin = projector, margin
        self.angles, self.columns, self.lanes = projector.angles, projector.columns, projector.lanes
        self.measured_columns = projector.columns - 2 * margin

    def forward(self, slices: Array, out: Array | None = None) -> Array:
        """See `Projector.forward`."""
        return self._clear(self._projector.forward(slices, out))

    def adjoint(self, projections: Array, out: Array | None = None) -> Array:
        """See `Projector.adjoint`."""
        left, right = projections[:, : self._margin], projections[:, self.columns - self._margin :]
        if bool((left != 0).any()) or bool((right != 0).any()):
            projections = self._clear(projections + 0)
        return self._projector.adjoint(projections, out)

    def subset(self, angles: slice) -> FieldOfView:
        """See `Projector.subset`."""
        return FieldOfView(self._projector.subset(angles), self._margin)

    def _clear(self, projections: Array) -> Array:
        projections[:, : self._margin] = 0
        projections[:, self.columns - self._margin :] = 0
        return projections


def margin_columns(columns: int, settings: ReconstructionSettings) -> int:
    """Columns by which slices are wider than the detector on each side, for an iterative method.

    None with padding ``zero``: exact for a sample inside the field of view. Else a quarter of the width.
    """
    return 0 if settings.padding == "zero" else math.ceil(MARGIN_SHARE * columns)


def cpu_projector(
    theta_rad: npt.ArrayLike, columns: int, centers: Center, settings: ReconstructionSettings
) -> Projector:
    """The CPU's projector for an iterative method: the settings', or the algorithm's default."""
    if (settings.projector or DEFAULT_PROJECTOR[settings.algorithm]) == "line":
        return LineProjector(theta_rad, columns, centers, positive=settings.algorithm in POISSON_ALGORITHMS)
    return FourierProjector(theta_rad, columns, centers)


class IterativeReconstructor:
    """Iterative reconstruction on the CPU: called with projections, gives slices.

    Rows are worked on in batches of `lanes`, each alone: a slice's bits depend neither on the rows that come with it
    nor on the number of threads. Where the sample is wider than the detector (local tomography) the projections do not
    tell what lies beside the field of view, and fitting them without it heaps all of it up as a bright rim. With
    padding ``edge`` or ``cylinder`` slices are therefore reconstructed half as wide again, and cut: the rest goes where
    it belongs, the rim vanishes, an offset that varies slowly can remain. It costs 2.3 times as much.

    Parameters
    ----------
    theta_rad : (angles,) radians
        In any order, over any range; missing wedges need no weights.
    columns : int
        Width n of a projection.
    center : float or (rows,) float64, optional
        Rotation axis in pixels, one for all rows or one a row; may be given with each call instead.
    settings : ReconstructionSettings
        See `check_settings`.
    make_projector : callable, optional
        Makes the operators, from (theta_rad, columns, centers, settings); see `cpu_projector`.

    Attributes
    ----------
    residuals : (iterations, rows) float64
        Of the last call; see `Solution.residuals`.

    Raises
    ------
    InputError
        Angles that cannot be used.
    ParameterError
        Settings that an iterative algorithm cannot keep.
    """

    lanes: ClassVar[int] = LANES

    def __init__(
        self,
        theta_rad: npt.ArrayLike,
        columns: int,
        center: Center | None = None,
        settings: ReconstructionSettings | None = None,
        make_projector: MakeProjector = cpu_projector,
    ) -> None:
        self.settings = ReconstructionSettings(algorithm="sirt") if settings is None else settings
        self.columns, self.center = columns, center
        self.residuals: Doubles = np.empty((0, 0))
        self._theta = check_angles(theta_rad)
        check_settings(self.settings, self._theta.size)
        self._margin = margin_columns(columns, self.settings)
        self._make_projector = make_projector
        self._kept: tuple[float, Projector, Sums | None] | None = None

    @classmethod
    def workspace_bytes(cls, angles: int, columns: int, settings: ReconstructionSettings) -> int:
        """Memory that a call needs beside projections and slices, for any number of rows."""
        width = columns + 2 * margin_columns(columns, settings)
        slices, projections = width**2 * LANES * 4, angles * width * LANES * 4
        # Slices and projections that each algorithm keeps, sums included; for rows with their own centers.
        kept = {"sirt": (4, 4), "cgls": (4, 4), "tv": (8, 4), "mlem": (4, 4), "osem": (3 + settings.subsets, 4)}
        count, lines = kept[settings.algorithm]
        total = count * slices + lines * projections + PIECES * thread_count() * CHUNK_BYTES
        if (settings.projector or DEFAULT_PROJECTOR[settings.algorithm]) == "fourier":
            total += FourierProjector.workspace_bytes(angles, width)
        else:
            total += 2 * projections  # about the common axis, from which each lane's are moved to its own
        if settings.warm_start:
            total += FourierGridding.workspace_bytes(angles, width) + projections + slices
        return total

    def __call__(self, projections: Floats, *, center: Center | None = None) -> Floats:
        """Slices of the projections' rows.

        Parameters
        ----------
        projections : (angles, rows, columns) float32, line integrals, dimensionless
        center : instead of the center given before; pixels, one for all rows or (rows,)

        Returns
        -------
        (rows, columns, columns) float32, attenuation in 1/pixel; zero outside the circle of radius columns/2

        Raises
        ------
        InputError
            Shapes do not fit the angles or the width.
        ParameterError
            No center, or one that is not on the detector.
        """
        projections = np.asarray(projections, dtype=np.float32)
        if projections.ndim != 3 or (projections.shape[0], projections.shape[2]) != (self._theta.size, self.columns):
            raise InputError(
                f"projections have shape {projections.shape}; "
                f"needed is ({self._theta.size} angles, rows, {self.columns} columns)"
            )
        rows = projections.shape[1]
        centers = checked_centers(self.center if center is None else center, rows, self.columns)
        slices = np.empty((rows, self.columns, self.columns), dtype=np.float32)
        residuals = np.full((self.settings.most_iterations, rows), np.nan)
        for first in range(0, rows, LANES):
            batch = slice(first, min(first + LANES, rows))
            solution = self._solve(projections[:, batch], centers if centers.ndim == 0 else centers[batch])
            self._store(solution.slices, slices[batch])
            residuals[: len(solution.residuals), batch] = solution.residuals[:, : batch.stop - first]
            del solution  # not to be kept while the next batch is solved
        self.residuals = residuals[~np.isnan(residuals).all(axis=1)]
        return slices

    def _solve(self, projections: Floats, centers: Doubles) -> Solution:
        rows, margin = projections.shape[1], self._margin
        width = self.columns + 2 * margin
        data = np.zeros((self._theta.size, width, LANES), dtype=np.float32)
        data[:, margin : margin + self.columns, :rows] = projections.transpose(0, 2, 1)
        projector, sums = self._operators(centers, data)
        return solve(self.settings, projector, data, self._start(projections, centers), sums=sums)

    def _operators(self, centers: Doubles, like: Floats) -> tuple[Projector, Sums | None]:
        """Projector and sums, kept for the next batch where all rows have one axis."""
        kept = self._kept  # read once: another thread may replace it
        if centers.ndim == 0 and kept is not None and kept[0] == float(centers):
            return kept[1:]
        lane_centers = centers + self._margin
        if centers.ndim:  # lanes without a row take the first row's axis
            lane_centers = np.concatenate([lane_centers, np.full(LANES - centers.size, lane_centers[0])])
        projector = self._make_projector(self._theta, like.shape[1], lane_centers, self.settings)
        if self._margin:
            projector = FieldOfView(projector, self._margin)
        sums = Sums.of(projector, like) if self.settings.algorithm in ("sirt", "tv") else None
        if centers.ndim == 0:
            self._kept = float(centers), projector, sums
        return projector, sums

    def _start(self, projections: Floats, centers: Doubles) -> Floats | None:
        """The direct reconstruction as a batch of lanes, where that is asked for."""
        if not self.settings.warm_start:
            return None
        margin = self._margin
        wide = np.pad(projections, ((0, 0), (0, 0), (margin, margin)), mode="edge") if margin else projections
        width = wide.shape[2]
        direct = FourierGridding(self._theta, width, centers + margin, padding="edge" if margin else "zero")(wide)
        start = np.zeros((width, width, LANES), dtype=np.float32)
        start[..., : direct.shape[0]] = direct.transpose(1, 2, 0)
        return start

    def _store(self, batch: Floats, slices: Floats) -> None:
        margin, n = self._margin, self.columns
        slices[:] = batch[margin : margin + n, margin : margin + n, : slices.shape[0]].transpose(2, 0, 1)
        if margin:
            slices *= inside_circle(slices[0])[..., 0]
