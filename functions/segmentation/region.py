"""Which part of each slice belongs to the sample, and phases within it.

Slice by slice: what lies above and below plays no part, so that slabs never show. Objects are left to `objects`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ..disc import reconstructed_disc
from ..morphology import dilate_2d, erode_2d
from .thresholds import apply_thresholds

RegionKind = Literal["sample", "disc", "all"]

_SLIVER_RADIUS_PX = 1.5


def label_phases(
    slices: NDArray[np.float32], thresholds: Sequence[float], region: RegionKind, closing_radius_px: float
) -> NDArray[np.uint8]:
    """Phases of slices within the region that counts.

    Parameters
    ----------
    slices : (z, y, x) float32
    thresholds : sequence of float
        Ascending, in the unit of the slices.
    region, closing_radius_px
        See `sample_region`.

    Returns
    -------
    (z, y, x) uint8
        0 outside the region; 1 below the first threshold, and up.
    """
    phases = apply_thresholds(slices, thresholds)
    phases[~sample_region(phases, region, closing_radius_px)] = 0
    return phases


def sample_region(phases: NDArray[np.uint8], region: RegionKind, closing_radius_px: float) -> NDArray[np.bool_]:
    """Where phases are told apart, slice by slice.

    Parameters
    ----------
    phases : (z, y, x) uint8
        1 the least attenuating phase (air, pores), from 2 on solid.
    region : "sample", "disc" or "all"
        "disc": the reconstructed disc. "all": the whole slice. "sample": the filled outline of the solid in each
        slice. Specks smaller than the ball that closes are left out of the outline; gaps in it up to twice the closing
        radius are closed; what it encloses is filled.
    closing_radius_px : float
        0 closes no gaps.

    Returns
    -------
    (z, y, x) bool

    Notes
    -----
    Closing also fills the steps of the outline on the pixel grid and rounds its inner corners. Those slivers are air
    beside the surface, not pores, and are left out: of what the closing adds, only what a disc of radius 1.5 pixels
    fits into is kept. So the outline is where the threshold puts the surface.
    """
    if region == "all":
        return np.ones(phases.shape, np.bool_)
    disc = reconstructed_disc(*phases.shape[1:])
    if region == "disc":
        return np.broadcast_to(disc, phases.shape).copy()
    sample = np.empty(phases.shape, np.bool_)
    for z in range(len(phases)):
        sample[z] = _outline((phases[z] >= 2) & disc, closing_radius_px) & disc
    return sample


def _outline(solid: NDArray[np.bool_], closing_radius_px: float) -> NDArray[np.bool_]:
    """The filled outline of the solid in one slice (y, x)."""
    filled = _fill_holes(_without_specks(solid, np.pi * closing_radius_px**2))
    closed = _fill_holes(_close(filled, closing_radius_px))
    return filled | _open(closed & ~filled, _SLIVER_RADIUS_PX)


def _close(mask: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    # With room around the slice: a gap between the sample and the slice's edge is not closed.
    room = int(radius) + 1
    inner = slice(room, -room)
    closed: NDArray[np.bool_] = erode_2d(dilate_2d(np.pad(mask, room)[np.newaxis], radius), radius)[0, inner, inner]
    return closed


def _open(mask: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    opened: NDArray[np.bool_] = dilate_2d(erode_2d(mask[np.newaxis], radius), radius)[0]
    return opened


def _without_specks(mask: NDArray[np.bool_], least_px: float) -> NDArray[np.bool_]:
    pieces, _ = ndimage.label(mask)
    large = np.bincount(pieces.reshape(-1)) >= least_px
    large[0] = False
    kept: NDArray[np.bool_] = large[pieces]
    return kept


def _fill_holes(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask with whatever does not reach the edge of the slice."""
    pieces, count = ndimage.label(~mask)
    reaches_edge = np.zeros(count + 1, np.bool_)
    for edge in (pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]):
        reaches_edge[edge] = True
    reaches_edge[0] = False
    filled: NDArray[np.bool_] = ~reaches_edge[pieces]
    return filled
