"""Noise removal that needs no training: non-local means and total variation, slice by slice, and the noise level of a scan.

The noise level is given once for the scan, so that a slice's result depends on that slice alone. Networks are left to others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle

from ..disc import reconstructed_disc
from ..errors import InputError
from ..reconstruction.threads import run_in_threads

_WINDOW_PX = 7
_FLAT_PART = 0.05  # of the windows of a tile, at least, are taken to lie in one phase
_FLAT_PART_OF_WHITE_NOISE = 0.83  # that quantile of the windows' standard deviations, where all is white noise of 1
_TILES_ACROSS = 8
_TILE_MIN_PX = 32

_NLM_PATCH_PX = 5
_NLM_SEARCH_PX = 6
_NLM_CUTOFF_PER_SIGMA = 0.8
_TV_WEIGHT_PER_SIGMA = 0.75


def noise_level(slices: NDArray[np.float32]) -> float:
    """Standard deviation of the noise in a typical place of reconstructed slices.

    The standard deviation is taken in windows of 7 x 7 pixels inside the reconstructed disc. Of each tile (an eighth of
    the slice across, at least 32 pixels) the lowest twentieth of its windows is taken to be free of structure; the
    level is the median over tiles and slices, scaled so that it is right for white noise. Unlike estimates from the
    highest frequencies (wavelets, differences of pixels) it holds for the noise of filtered backprojection, which has
    little there: those read 0.7 of the truth with a Shepp-Logan and 0.3 with a Hann filter.

    Parameters
    ----------
    slices : (z, y, x) float32
        Any slices of the scan, neighbours or not.

    Returns
    -------
    float
        In the unit of the slices. Rather too high than too low where hardly any window is free of structure.

    Raises
    ------
    InputError
        The slices are smaller than two windows.
    """
    inside = reconstructed_disc(slices.shape[1], slices.shape[2], _WINDOW_PX)
    if not inside.any():
        raise InputError(
            f"slices of {slices.shape[1]} x {slices.shape[2]} pixels are too small to measure noise in; "
            f"at least {2 * _WINDOW_PX + 1} x {2 * _WINDOW_PX + 1} are needed"
        )
    in_tiles: list[float] = []
    in_slices: list[float] = []
    for image in slices:
        variance = _local_variance(image.astype(np.float64))
        in_slices.append(float(np.quantile(variance[inside], _FLAT_PART)))
        for tile in _tiles(*inside.shape):
            within = inside[tile]
            if 2 * np.count_nonzero(within) >= within.size:
                in_tiles.append(float(np.quantile(variance[tile][within], _FLAT_PART)))
    return float(np.sqrt(np.median(in_tiles or in_slices))) / _FLAT_PART_OF_WHITE_NOISE


def non_local_means(slices: NDArray[np.float32], sigma: float, strength: float = 1.0) -> NDArray[np.float32]:
    """Denoise each slice by non-local means: the mean of pixels whose surroundings look alike.

    Buades, Coll, Morel 2005, DOI 10.1109/CVPR.2005.38, in the fast form of Darbon 2008, DOI 10.1109/ISBI.2008.4541250,
    of scikit-image; patches of 5 x 5 pixels, searched for up to 6 pixels away.

    Parameters
    ----------
    slices : (z, y, x) float32
    sigma : float
        Noise level of the scan, in the unit of the slices; see `noise_level`. 0 leaves the slices as they are.
    strength : float
        1 suits noise of this level; more smooths more.

    Returns
    -------
    (z, y, x) float32
        Outside the reconstructed disc the slices as they were.
    """

    def denoise(image: NDArray[np.float32]) -> NDArray[np.floating]:
        # In float64: the sums over the slice behind the fast form lose the patches' digits in float32.
        result: NDArray[np.floating] = denoise_nl_means(
            image.astype(np.float64),
            patch_size=_NLM_PATCH_PX,
            patch_distance=_NLM_SEARCH_PX,
            h=_NLM_CUTOFF_PER_SIGMA * strength * sigma,
            sigma=sigma,
            fast_mode=True,
            preserve_range=True,
        )
        return result

    return _denoise_each(slices, sigma, denoise)


def total_variation(slices: NDArray[np.float32], sigma: float, strength: float = 1.0) -> NDArray[np.float32]:
    """Denoise each slice by total variation: the nearest image that has little of it, flat between sharp edges.

    Chambolle 2004, DOI 10.1023/B:JMIV.0000011325.36760.1e, of scikit-image.

    Parameters
    ----------
    slices, sigma, strength
        As for `non_local_means`.

    Returns
    -------
    (z, y, x) float32
        Outside the reconstructed disc the slices as they were.
    """

    def denoise(image: NDArray[np.float32]) -> NDArray[np.floating]:
        result: NDArray[np.floating] = denoise_tv_chambolle(  # type: ignore[no-untyped-call]
            image, weight=_TV_WEIGHT_PER_SIGMA * strength * sigma
        )
        return result

    return _denoise_each(slices, sigma, denoise)


def _denoise_each(
    slices: NDArray[np.float32], sigma: float, denoise: Callable[[NDArray[np.float32]], NDArray[np.floating]]
) -> NDArray[np.float32]:
    denoised = slices.astype(np.float32)
    if sigma <= 0:
        return denoised
    inside = reconstructed_disc(slices.shape[1], slices.shape[2])

    def denoise_slice(z: int) -> None:
        # A copy in a fixed layout: the bits do not depend on where the slice lies in the caller's memory.
        image = np.array(slices[z], np.float32, order="C")
        denoised[z][inside] = denoise(image)[inside]

    run_in_threads(denoise_slice, len(slices))
    return denoised


def _local_variance(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Unbiased variance in the window around each pixel."""
    # Around the slice's mean, so that the difference of squares keeps its digits.
    centered = image - image.mean()
    mean = ndimage.uniform_filter(centered, _WINDOW_PX)
    square = ndimage.uniform_filter(centered * centered, _WINDOW_PX)
    pixels = _WINDOW_PX * _WINDOW_PX
    variance: NDArray[np.float64] = np.maximum(square - mean * mean, 0) * (pixels / (pixels - 1))
    return variance


def _tiles(rows: int, columns: int) -> Iterator[tuple[slice, slice]]:
    side = max(_TILE_MIN_PX, max(rows, columns) // _TILES_ACROSS)
    for y in range(0, rows, side):
        for x in range(0, columns, side):
            yield slice(y, y + side), slice(x, x + side)
