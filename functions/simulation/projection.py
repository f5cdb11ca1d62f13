"""Exact line integrals of a phantom in parallel-beam geometry.
Leaves photons, noise and defects to `detector`."""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from .phantoms import MATRIX, FloatArray, Phantom, cross_section


def project(
    phantom: Phantom,
    theta_rad: FloatArray,
    *,
    rows: tuple[int, int] | None = None,
    columns: int | None = None,
    center: float | None = None,
    supersampling: int = 2,
) -> NDArray[np.float32]:
    """Line integrals (dimensionless) along x cos(theta) + y sin(theta) = t, with t = column - center.

    Every ray's integral is the closed form: chords of the sample cylinder and of the inclusions. A pixel's value is the
    mean over `supersampling` x `supersampling` rays equally spaced over its area, in double precision, the same to the
    bit whatever other angles and rows are asked for and however many threads run.

    Parameters
    ----------
    phantom : Phantom
        The sample.
    theta_rad : float64 array, shape (angles,)
        Rotation angles in radians.
    rows : (int, int), optional
        First and one past the last detector row; the whole phantom by default.
    columns : int, optional
        Width of the detector; the phantom's by default.
    center : float, optional
        Column of the rotation axis (pixel centres at integers); the middle of the detector by default.
    supersampling : int
        Rays along each side of a pixel; 1 gives the ray through the pixel's centre.

    Returns
    -------
    float32 array, shape (angles, rows, columns)
    """
    first, last = (0, phantom.rows) if rows is None else rows
    width = phantom.columns if columns is None else columns
    axis = 0.5 * (width - 1) if center is None else center
    theta = np.ascontiguousarray(theta_rad, dtype=np.float64)
    matrix = phantom.attenuation_per_pixel(MATRIX)
    contrast = phantom.attenuation_per_pixel(phantom.inclusion_phase) - matrix
    wall = matrix * _mean_wall_chords(phantom.radius_px, width, axis, supersampling)
    projections = np.empty((len(theta), last - first, width), dtype=np.float32)
    _project(
        phantom.inclusions,
        phantom.shape == "sphere",
        theta,
        first,
        axis,
        supersampling,
        wall,
        contrast,
        projections,
    )
    return projections


def _mean_wall_chords(radius: float, columns: int, center: float, supersampling: int) -> FloatArray:
    """Mean chord of the sample cylinder over each column; shape (columns,)."""
    steps = (np.arange(supersampling) + 0.5) / supersampling - 0.5
    t = np.arange(columns)[:, None] - center + steps[None, :]
    chords: FloatArray = 2.0 * np.sqrt(np.maximum(radius**2 - t**2, 0.0)).mean(axis=1)
    return chords


@njit(cache=True, parallel=True)
def _project(
    inclusions: FloatArray,
    is_sphere: bool,
    theta_rad: FloatArray,
    first_row: int,
    center: float,
    supersampling: int,
    wall: FloatArray,
    contrast: float,
    projections: NDArray[np.float32],
) -> None:
    for k in prange(projections.shape[1]):
        _project_row(
            inclusions, is_sphere, theta_rad, first_row + k, center, supersampling, wall, contrast, projections[:, k]
        )


@njit(cache=True, nogil=True)
def _project_row(
    inclusions: FloatArray,
    is_sphere: bool,
    theta_rad: FloatArray,
    row: int,
    center: float,
    supersampling: int,
    wall: FloatArray,
    contrast: float,
    sinogram: NDArray[np.float32],
) -> None:
    touching = np.empty(inclusions.shape[0], dtype=np.int64)
    count = 0
    for q in range(inclusions.shape[0]):
        height = max(0.0, row - inclusions[q, 2], inclusions[q, 2] - row - 1.0)
        if not is_sphere or height < inclusions[q, 5]:
            touching[count] = q
            count += 1
    columns = sinogram.shape[1]
    half_chords = np.empty(columns, dtype=np.float64)
    scale = 2.0 * contrast / (supersampling * supersampling)
    for a in range(theta_rad.size):
        cosine = math.cos(theta_rad[a])
        sine = math.sin(theta_rad[a])
        half_chords[:] = 0.0
        for q in range(count):
            inclusion = inclusions[touching[q]]
            upright = 1.0 / math.sqrt(1.0 + inclusion[3] ** 2 + inclusion[4] ** 2)
            along_ray = upright * (inclusion[4] * cosine - inclusion[3] * sine)
            squeeze = 1.0 - along_ray * along_ray
            for qk in range(supersampling):
                z = row + (qk + 0.5) / supersampling
                cx, cy, squared_radius = cross_section(inclusion, is_sphere, z)
                # A ray at distance d from the centre of the section crosses it over
                # 2 sqrt(squeeze * squared_radius - (d upright)^2) / squeeze.
                limit = squeeze * squared_radius
                if limit <= 0.0:
                    continue
                middle = cx * cosine + cy * sine + center
                reach = math.sqrt(limit) / upright + 0.5
                first = max(0, math.ceil(middle - reach))
                last = min(columns - 1, math.floor(middle + reach))
                for c in range(first, last + 1):
                    for qi in range(supersampling):
                        distance = upright * (c + (qi + 0.5) / supersampling - 0.5 - middle)
                        squared_half = limit - distance * distance
                        if squared_half > 0.0:
                            half_chords[c] += math.sqrt(squared_half) / squeeze
        for c in range(columns):
            sinogram[a, c] = wall[c] + scale * half_chords[c]
