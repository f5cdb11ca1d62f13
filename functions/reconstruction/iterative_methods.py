"""The iterations themselves: SIRT, CGLS, least squares with total variation, MLEM and OSEM, on any pair of operators.

They take and give batches of slices in lanes (see `operators`), as NumPy arrays on the CPU or as PyTorch tensors on any
device: they use only what both can do. Each lane is solved alone and stops alone. None of them needs weights for angles
that are uneven or missing: they fit what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ..errors import ParameterError
from .lane_arrays import (
    Doubles,
    each,
    filled,
    inside_circle,
    lane_maxima,
    lane_norms,
    lane_products,
    lane_totals,
    lane_values,
    one_lane_if_equal,
)
from .operators import Array, Projector
from .total_variation import TotalVariationStep


@dataclass(frozen=True)
class Control:
    """How long to iterate, and between which bounds.

    Attributes
    ----------
    iterations : int
        Most iterations.
    stop_residual : float or None
        A lane is done when |A x - b| / |b| is below this.
    minimum, maximum : float or None
        Bounds of the slices' values, 1/pixel.
    """

    iterations: int
    stop_residual: float | None = None
    minimum: float | None = None
    maximum: float | None = None


@dataclass(frozen=True)
class Solution:
    """Slices, and how well they came to fit.

    Attributes
    ----------
    slices : (columns, columns, lanes) float32 array or tensor
        1/pixel.
    residuals : (iterations, lanes) float64
        |A x - b| / |b| before each iteration's step; NaN once the lane is done. The last step's is not computed. For tv
        x is the point that FISTA extrapolates to, where it takes its step, not the slices themselves.
    """

    slices: Array
    residuals: Doubles


@dataclass
class Progress:
    """Residuals so far, and which lanes go on.

    Attributes
    ----------
    norms : (lanes,) float64
        |b|.
    stop_residual : float or None
        See `Control`.
    active : (lanes,) bool
        Lanes that are not done.
    """

    norms: Doubles
    stop_residual: float | None
    active: npt.NDArray[np.bool_] = field(init=False)
    history: list[Doubles] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.active = self.norms > 0

    def goes_on(self, residual_norms: Doubles) -> bool:
        """Note |A x - b|; False when every lane is done."""
        relative = residual_norms / np.where(self.norms > 0, self.norms, 1)
        self.history.append(np.where(self.active, relative, np.nan))
        if self.stop_residual is not None:
            self.active &= relative >= self.stop_residual
        return bool(self.active.any())

    def residuals(self) -> Doubles:
        """See `Solution.residuals`."""
        return np.array(self.history).reshape(-1, self.norms.size)


@dataclass(frozen=True)
class Sums:
    """What a projector's rows and columns sum to: its scale for SIRT, TV and MLEM.

    Attributes
    ----------
    rows : (angles, columns, lanes or 1) array
        Path length of each ray through the circle, pixels.
    columns : (columns, columns, lanes or 1) array
        How many projections see each pixel.
    """

    rows: Array
    columns: Array

    @classmethod
    def of(cls, projector: Projector, like: Array) -> Sums:
        """The sums of a projector; `like` is an array of projections of the kind that it takes."""
        columns = projector.adjoint(filled(like.shape, 1, like))
        rows = projector.forward(filled(columns.shape, 1, like))
        return cls(one_lane_if_equal(rows), one_lane_if_equal(columns))

    def norm_bounds(self) -> Doubles:
        """No less than the projector's norm squared, (lanes,): the largest row sum times the largest column sum (Schur)."""
        return lane_maxima(self.rows) * lane_maxima(self.columns)


def sirt(
    projector: Projector, projections: Array, control: Control, start: Array | None = None, *, sums: Sums | None = None
) -> Solution:
    """Simultaneous iterative reconstruction: x += C A' R (b - A x) (Gilbert 1972, DOI 10.1016/0022-5193(72)90180-4).

    R and C are one over the row and column sums (Gregor & Benson 2008, DOI 10.1109/TMI.2008.923696). It converges to
    a weighted least-squares solution between the bounds, first the coarse structures, then the fine.

    Parameters
    ----------
    projector : Projector
    projections : (angles, columns, lanes) float32
        Line integrals b.
    control : Control
    start : (columns, columns, lanes) float32, optional
        First slices; zeros otherwise. Not changed.
    sums : Sums, optional
        The projector's, where they are known.
    """
    sums = Sums.of(projector, projections) if sums is None else sums
    # A ray that only grazes the circle must not be trusted more than one that crosses a pixel.
    ray_weight, pixel_weight = 1 / sums.rows.clip(1), 1 / sums.columns.clip(1)
    x, residual = _begin(projector, projections, start, control)
    inside = inside_circle(x)
    progress = Progress(lane_norms(projections), control.stop_residual)
    step: Array | None = None
    for iteration in range(control.iterations):
        if iteration:
            residual = projector.forward(x, out=residual)
            each(_subtract_from, residual, projections)
        if not progress.goes_on(lane_norms(residual)):
            break
        each(_multiply, residual, ray_weight)
        step = projector.adjoint(residual, out=step)
        active = lane_values(progress.active, step)
        each(_add_weighted_between_bounds(active, control), x, step, pixel_weight, inside)
    return Solution(x, progress.residuals())


def cgls(projector: Projector, projections: Array, control: Control, start: Array | None = None) -> Solution:
    """Conjugate gradients on the normal equations (Hestenes & Stiefel 1952, DOI 10.6028/jres.049.044).

    Fits fastest of all, noise too: the number of iterations is what smooths. Bounds are not possible.

    Parameters
    ----------
    projector, projections, control, start
        As for `sirt`.

    Raises
    ------
    ParameterError
        Bounds were given.
    """
    if control.minimum is not None or control.maximum is not None:
        raise ParameterError(
            "reconstruction.minimum and reconstruction.maximum cannot be kept by cgls; leave them out, or use sirt or tv"
        )
    x, residual = _begin(projector, projections, start, control)
    progress = Progress(lane_norms(projections), control.stop_residual)
    gradient = projector.adjoint(residual)
    direction = gradient + 0
    gradient_norm = lane_products(gradient, gradient)
    image: Array | None = None
    for _ in range(control.iterations):
        if not progress.goes_on(lane_norms(residual)):
            break
        image = projector.forward(direction, out=image)
        curvature = lane_products(image, image)
        length = np.where(progress.active, gradient_norm / np.where(curvature > 0, curvature, 1), 0)
        each(_add_scaled(lane_values(length, x)), x, direction)
        each(_add_scaled(lane_values(-length, residual)), residual, image)
        gradient = projector.adjoint(residual, out=gradient)
        before, gradient_norm = gradient_norm, lane_products(gradient, gradient)
        turn = np.where(progress.active, gradient_norm / np.where(before > 0, before, 1), 0)
        each(_scale_and_add(lane_values(turn, x)), direction, gradient)
    return Solution(x, progress.residuals())


def total_variation(
    projector: Projector,
    projections: Array,
    control: Control,
    start: Array | None = None,
    *,
    weight: float,
    sums: Sums | None = None,
) -> Solution:
    """The slices that minimise |A x - b|^2 / 2 + w TV(x) between the bounds; TV is isotropic, in each slice.

    FISTA (Beck & Teboulle 2009, DOI 10.1137/080716542); its proximal step by the projected dual ascent of Chambolle
    (2004, DOI 10.1023/B:JMIV.0000011325.36760.1e) with bounds (Beck & Teboulle 2009, DOI 10.1109/TIP.2009.2028250).

    Parameters
    ----------
    projector, projections, control, start, sums
        As for `sirt`.
    weight : float
        w in units of the data: times the number of angles, times the mean attenuation sum(b^2) / sum(|b|) / columns
        of a lane, the columns being the detector's (a projector's `measured_columns`, where it has them). The same number
        smooths alike whatever the units, the number of projections and the exposure.
    """
    sums = Sums.of(projector, projections) if sums is None else sums
    bound = 1.02 * sums.norm_bounds() + np.zeros(projector.lanes)  # one a lane
    x, residual = _begin(projector, projections, start, control)
    norms = lane_norms(projections)
    progress = Progress(norms, control.stop_residual)
    absolute = lane_totals(abs, projections)
    # Where slices are wider than the detector, its own width counts: the margin must not change the smoothing.
    measured: int = getattr(projector, "measured_columns", projector.columns)
    scale = norms**2 / np.where(absolute > 0, absolute, 1) / measured
    threshold = np.maximum(weight * projector.angles * scale / bound, 1e-30)
    smooth = TotalVariationStep(x, threshold, control.minimum, control.maximum)
    point = x + 0
    step: Array | None = None
    momentum = 1.0
    for iteration in range(control.iterations):
        if iteration:
            residual = projector.forward(point, out=residual)
            each(_subtract_from, residual, projections)
        if not progress.goes_on(lane_norms(residual)):
            break
        step = projector.adjoint(residual, out=step)
        each(_add_scaled(lane_values(1 / bound, point)), point, step)
        before, momentum = momentum, (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        active = lane_values(progress.active, point)
        each(_extrapolate(active, (before - 1) / momentum), point, x, smooth(point))
    return Solution(x, progress.residuals())


def mlem(
    projector: Projector, projections: Array, control: Control, start: Array | None = None, *, subsets: int = 1
) -> Solution:
    """Maximum likelihood of Poisson data by expectation maximisation, x *= A'(b / A x) / A'1; OSEM with subsets.

    Shepp & Vardi 1982, DOI 10.1109/TMI.1982.4307558; ordered subsets: Hudson & Larkin 1994, DOI 10.1109/42.363108.
    As in other tomography packages the line integrals themselves are taken as the Poisson data: slices stay 0 or
    more, and thin parts are trusted as Poisson counts would be. Negative line integrals count as 0.

    Parameters
    ----------
    projector : Projector
        Without negative weights: a line projector.
    projections, control
        As for `sirt`.
    start : (columns, columns, lanes), optional
        First slices, where they are above 0; otherwise the same value everywhere in the circle. Not changed.
    subsets : int
        Every so many-th projection makes a subset; each pass goes through all of them, updating after each. The
        residual of a pass is that of the subsets as they were met.
    """
    parts = [_Subset.of(projector, projections, first, subsets) for first in _spread_order(subsets)]
    total = lane_norms(projections)
    progress = Progress(total, control.stop_residual)
    x = _positive_start(parts, start, projector, control)
    low, high = max(0.0, control.minimum or 0.0), control.maximum
    inside = inside_circle(x)
    ratio: Array | None = None
    for _ in range(control.iterations):
        squares = np.zeros_like(total)
        active = lane_values(progress.active, x)
        for part in parts:
            part.image = part.projector.forward(x, out=part.image)
            squares += part.divide_data()
            ratio = part.projector.adjoint(part.image, out=ratio)
            each(_multiply_ratio(active, low, high), x, ratio, part.seen, inside)
        if not progress.goes_on(np.sqrt(squares)):
            break
    return Solution(x, progress.residuals())


@dataclass
class _Subset:
    """Some projections for `mlem`: data, operators, how often each pixel is seen, and memory."""

    projector: Projector
    data: Array
    seen: Array
    floor: Array
    image: Array | None = None

    @classmethod
    def of(cls, projector: Projector, projections: Array, first: int, subsets: int) -> _Subset:
        chosen = slice(first, None, subsets)
        data = projections[chosen].clip(0)
        part = projector if subsets == 1 else projector.subset(chosen)
        seen = one_lane_if_equal(part.adjoint(filled(data.shape, 1, data)))
        mean = lane_totals(lambda a: a, data) / (data.shape[0] * data.shape[1])
        return cls(part, data, seen, lane_values(np.maximum(1e-5 * mean, 1e-30), data))

    def divide_data(self) -> Doubles:
        """Turn A x in `image` into b / A x; returns the lanes' |A x - b|^2."""
        assert self.image is not None
        squares = lane_totals(_squared_difference, self.data, self.image)
        each(_divide_into(self.floor), self.image, self.data)
        return squares


def _positive_start(parts: list[_Subset], start: Array | None, projector: Projector, control: Control) -> Array:
    first = parts[0].data
    x = filled((projector.columns, projector.columns, projector.lanes), 0, first)
    for part in parts:
        x += part.seen
    seen = lane_totals(lambda a: a, x)
    counts = sum((lane_totals(lambda a: a, part.data) for part in parts), np.zeros(projector.lanes))
    level = lane_values(counts / np.where(seen > 0, seen, 1), x)
    low, high = max(0.0, control.minimum or 0.0), control.maximum
    if start is not None:
        x[:] = _larger(start, level * 1e-3)  # a pixel that begins at 0 would stay there
    else:
        x[:] = level
    x[:] = x.clip(low, high) * inside_circle(x)
    return x


def _spread_order(count: int) -> list[int]:
    """0 to count - 1 so that successive numbers are far apart: projections met one after another differ most."""
    bits = max(1, (count - 1).bit_length())
    order = [int(f"{number:0{bits}b}"[::-1], 2) for number in range(2**bits)]
    return [number for number in order if number < count]


# What the methods do to pieces of arrays, in place.


def _multiply(a: Array, b: Array) -> None:
    a *= b


def _subtract_from(a: Array, b: Array) -> None:
    """a = b - a"""
    a *= -1
    a += b


def _add_scaled(scale: Array) -> Callable[[Array, Array], None]:
    def add(a: Array, b: Array) -> None:
        a += b * scale

    return add


def _scale_and_add(scale: Array) -> Callable[[Array, Array], None]:
    def add(a: Array, b: Array) -> None:
        a *= scale
        a += b

    return add


def _add_weighted_between_bounds(active: Array, control: Control) -> Callable[[Array, Array, Array, Array], None]:
    """x += step * weight for the lanes that go on, between the bounds."""

    def add(x: Array, step: Array, weight: Array, inside: Array) -> None:
        step *= weight
        step *= active
        x += step
        if control.minimum is not None or control.maximum is not None:
            x[:] = x.clip(control.minimum, control.maximum) * inside

    return add


def _extrapolate(active: Array, momentum: float) -> Callable[[Array, Array, Array], None]:
    """x becomes `smooth` for the lanes that go on, `point` lies beyond it in the direction that x moved."""

    def move(point: Array, x: Array, smooth: Array) -> None:
        new = smooth * active + x * (1 - active)
        point[:] = new + (new - x) * momentum
        x[:] = new

    return move


def _divide_into(floor: Array) -> Callable[[Array, Array], None]:
    """a = b / a, with a no less than the floor."""

    def divide(a: Array, b: Array) -> None:
        a[:] = b / _larger(a, floor)

    return divide


def _multiply_ratio(active: Array, low: float, high: float | None) -> Callable[[Array, Array, Array, Array], None]:
    """x *= ratio / seen for the lanes that go on, between the bounds; a pixel that is not seen keeps its value."""

    def multiply(x: Array, ratio: Array, seen: Array, inside: Array) -> None:
        factor = (ratio + 1e-6) / (seen + 1e-6)
        x *= factor * active + (1 - active)
        if low > 0 or high is not None:
            x[:] = x.clip(low, high) * inside

    return multiply


def _larger(a: Array, floor: Array) -> Array:
    return (a - floor).clip(0) + floor


def _bounded(x: Array, control: Control) -> Array:
    bounds = control.minimum, control.maximum
    return x if bounds == (None, None) else x.clip(*bounds)


def _squared_difference(a: Array, b: Array) -> Array:
    return (a - b) ** 2


def _begin(projector: Projector, projections: Array, start: Array | None, control: Control) -> tuple[Array, Array]:
    """First slices between the bounds, and their residual b - A x."""
    x = filled((projector.columns, projector.columns, projector.lanes), 0, projections)
    if start is not None:
        x += start
    x[:] = _bounded(x, control) * inside_circle(x)
    if start is None and (control.minimum or 0) <= 0 <= (control.maximum or 0):
        return x, projections + 0
    residual = projector.forward(x)
    each(_subtract_from, residual, projections)
    return x, residual
