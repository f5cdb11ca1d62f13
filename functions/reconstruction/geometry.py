"""What the projection angles mean for a reconstruction: how much of the half circle each projection stands for.

Where the rotation axis lies is for `tomopipe.functions.preprocessing` to find.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ..errors import InputError, ParameterError

MAX_GAP_STEPS = 5.0  # a gap wider than this many median steps,
MAX_GAP_RAD = math.radians(10.0)  # and than this, is a missing wedge, not a coarse step or a few blocked views
SAME_ANGLE_STEPS = 0.1  # angles closer than this part of the mean step (modulo pi) share one arc equally


def check_angles(theta_rad: npt.ArrayLike, angles: int | None = None) -> npt.NDArray[np.float64]:
    """The angles as float64, refused when they cannot be projection angles.

    Parameters
    ----------
    theta_rad : (angles,) radians
    angles : number of projections that they belong to, where known

    Raises
    ------
    InputError
        not one-dimensional, empty, not finite, or not as many as there are projections
    """
    theta = np.asarray(theta_rad, dtype=np.float64)
    if theta.ndim != 1 or theta.size == 0:
        raise InputError(f"theta has shape {theta.shape}; needed is one angle for each projection")
    if not np.isfinite(theta).all():
        index = int(np.flatnonzero(~np.isfinite(theta))[0])
        raise InputError(f"theta[{index}] is {theta[index]}; every angle must be a finite number")
    if angles is not None and theta.size != angles:
        raise InputError(f"theta has {theta.size} angles but there are {angles} projections; needed is one for each")
    return theta


def checked_centers(center: float | npt.NDArray[np.float64] | None, rows: int, columns: int) -> npt.NDArray[np.float64]:
    """The rotation axis as float64, refused where it is missing or not on the detector.

    Parameters
    ----------
    center : float or (rows,) float64 or None
        Pixels.
    rows : int
        Rows of the projections.
    columns : int
        Width of the projections.

    Returns
    -------
    () float64 for one axis, (rows,) for one a row

    Raises
    ------
    ParameterError
        No center, as many as neither one nor the rows, or one that does not lie on the detector.
    """
    if center is None:
        raise ParameterError("reconstruction.center is missing; give the rotation axis in pixels")
    centers = np.asarray(center, dtype=np.float64)
    if centers.shape not in ((), (rows,)):
        raise ParameterError(
            f"reconstruction.center has shape {centers.shape}; "
            f"needed is one for all rows or one for each of {rows} rows"
        )
    if not np.all((centers >= -0.5) & (centers <= columns - 0.5)):
        raise ParameterError(
            f"reconstruction.center is {center}; it must lie on the detector, 0 to {columns - 1} pixels"
        )
    return centers


def check_projector_centers(centers: npt.NDArray[np.float64], columns: int) -> None:
    """Refuse rotation axes of a projector that no scan can have: not finite, or more than a width off the detector.

    A reconstruction's axis must lie on the detector (`checked_centers`); a projector's may lie beside it, so that a
    part of a detector can be simulated. Much farther its tables would grow without bound.

    Parameters
    ----------
    centers : float64, any shape
        Pixels.
    columns : int
        Width of the projections.

    Raises
    ------
    ParameterError
    """
    if not np.all((centers >= -columns) & (centers <= 2 * columns - 1)):  # also refuses what is not a number
        raise ParameterError(
            f"centers are {centers}; needed are finite numbers of pixels, at most the width, {columns}, off the detector"
        )


def circle_mask(columns: int) -> npt.NDArray[np.bool_]:
    """Pixels of a slice that are reconstructed: (columns, columns) bool, true up to columns / 2 from the slice's middle."""
    across = 2 * np.arange(columns) - (columns - 1)  # twice the distance, so that whole numbers decide
    return across[:, None] ** 2 + across[None, :] ** 2 <= columns**2


def angular_weights(theta_rad: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Each projection's share of the half circle, so that any set of angles is integrated right.

    A projection and its opposite see the same rays, so angles count modulo pi. A projection's weight is its Voronoi
    arc: half the way to the neighbour on either side. Angles that coincide (0 and 180 degrees, the two halves of a
    360 degree scan) share their arc equally. 180 degrees with or without the last angle, 360 degrees, uneven and
    interlaced scans thus need no case of their own.

    A gap wider than `MAX_GAP_STEPS` median steps and `MAX_GAP_RAD` is a missing wedge: nothing was measured there, so it is
    given to no projection (the two at its edges get half a median step on that side). The weights then sum to less than pi.

    Parameters
    ----------
    theta_rad : (angles,) radians, in any order

    Returns
    -------
    (angles,) float64, radians; the sum is pi unless a wedge is missing

    Raises
    ------
    InputError
        see `check_angles`
    """
    folded = np.mod(check_angles(theta_rad), math.pi)
    ordered = np.sort(folded)
    # The circle is cut open at the widest gap, so that no group of equal angles lies across the cut.
    widest = int(np.argmax(np.diff(ordered, append=ordered[0] + math.pi)))
    start = ordered[(widest + 1) % ordered.size]
    position = np.where(folded < start, folded + math.pi, folded)
    order = np.argsort(position, kind="stable")
    group = _groups_of_same_angle(position[order])
    count = np.bincount(group)
    arc = _arcs(np.bincount(group, position[order]) / count)
    weights = np.empty(folded.size)
    weights[order] = (arc / count)[group]
    return weights


def _groups_of_same_angle(ordered: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """Number of the group of each of the ascending angles."""
    tolerance = SAME_ANGLE_STEPS * math.pi / ordered.size
    group = np.zeros(ordered.size, dtype=np.intp)
    first = 0
    for index in range(1, ordered.size):
        # Compared with the group's first member, not with the neighbour: finely spaced angles are not one long chain.
        if ordered[index] - ordered[first] > tolerance:
            first = index
            group[index] = group[index - 1] + 1
        else:
            group[index] = group[index - 1]
    return group


def _arcs(position: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Voronoi arcs of distinct ascending positions on the circle of circumference pi; missing wedges are left out."""
    gap = np.diff(position, append=position[0] + math.pi)
    # The median of the arcs, not of the gaps: gaps that alternate (an interlaced scan with an offset) have no typical
    # size.
    step = float(np.median((gap + np.roll(gap, 1)) / 2))
    gap = np.where(gap > max(MAX_GAP_STEPS * step, MAX_GAP_RAD), step, gap)
    return (gap + np.roll(gap, 1)) / 2
