"""Trial slices with several rotation centres, for a person to choose by: the slices, the detail to look at, the sheet.

Finding the centre is left to `preprocessing.rotation_center`, showing the sheet to the command and the report.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .errors import ParameterError
from .preprocessing.center_sharpness import TRIALS_AT_ONCE, Reconstruct, reconstruct_trials
from .preprocessing.double_field_of_view import stitch, stitched_columns
from .reconstruction.fourier import FourierGridding

MOST_TRIALS: Final = 100

_LARGEST_DETAIL_PX: Final = 192
_SMALLEST_DETAIL_PX: Final = 64

_VALUES_AT_ONCE: Final = 2**27
_DISC_SHARE: Final = 0.9
_TILE_INCHES: Final = 2.4
_DPI: Final = 110
_CHOSEN_COLOR: Final = "#d2691e"


@dataclass(frozen=True)
class Detail:
    """A square part of a slice that shows how sharp it is.

    Attributes
    ----------
    row, column : int
        First row and column.
    size : int
        Its edge, pixels.
    """

    row: int
    column: int
    size: int

    def of(self, image: NDArray[Any]) -> NDArray[Any]:
        """This part of an image (y, x), or of each of (..., y, x)."""
        return image[..., self.row : self.row + self.size, self.column : self.column + self.size]


def quick_reconstruction(
    theta_rad: NDArray[np.floating[Any]],
    columns: int,
    *,
    filter_name: str = "ramp",
    padding: str = "edge",
) -> Reconstruct:
    """The quickest way here to slices of projections with a centre each, prepared once: Fourier gridding on the CPU.

    Parameters
    ----------
    theta_rad : (angles,), radians
    columns : int
    filter_name, padding : str
        See `reconstruction.fourier.FourierGridding`.

    Returns
    -------
    callable
        See `Reconstruct`; slices in 1/pixel.
    """
    prepared = FourierGridding(theta_rad, columns, filter_name=filter_name, padding=padding)
    return lambda projections, centers: prepared(projections, center=centers)


def joined_columns(columns: int, centers: Sequence[float] | NDArray[np.floating[Any]]) -> int:
    """Columns of projections whose halves are joined at any of the centres: an odd number, see `joined_reconstruction`."""
    return max(stitched_columns(columns, float(center)) for center in centers) // 2 * 2 + 1


def joined_reconstruction(
    theta_rad: NDArray[np.floating[Any]],
    *,
    filter_name: str = "ramp",
    padding: str = "edge",
    width: int | None = None,
) -> Reconstruct:
    """As `quick_reconstruction` for a double field of view: each row's halves are joined at its own centre before.

    Parameters
    ----------
    theta_rad : (angles,), radians
        Covers 360 degrees.
    filter_name, padding : str
        See `reconstruction.fourier.FourierGridding`.
    width : int or None
        Edge of the slices, the same for every centre: `joined_columns`; by default as wide as joined ones can be. The axis
        is in their middle.
    """

    def reconstruct(projections: NDArray[np.float32], centers: NDArray[np.float64]) -> NDArray[np.float32]:
        columns = projections.shape[2]
        edge = 2 * columns + 1 if width is None else width
        wide = []
        axes = np.empty(len(centers))
        theta = np.empty(0)
        for row, center in enumerate(centers):
            joined, theta, axes[row] = stitch(projections[:, row : row + 1], theta_rad, float(center))
            wide.append(np.pad(joined, ((0, 0), (0, 0), (0, edge - joined.shape[2])), mode="edge"))
        prepared = quick_reconstruction(theta, edge, filter_name=filter_name, padding=padding)
        return prepared(np.concatenate(wide, axis=1), axes)

    return reconstruct


def trial_centers(around: float, width: float, step: float, columns: int) -> NDArray[np.float64]:
    """Centres from `around` - `width` / 2 to `around` + `width` / 2 in steps, as far as they lie on the detector.

    Raises
    ------
    ParameterError
        `around` beside the detector, `width` or `step` not above 0, or more than `MOST_TRIALS` centres.
    """
    if not 0 <= around <= columns - 1:
        raise ParameterError(f"--around {around:g}: lies outside the {columns} columns; give 0 to {columns - 1}")
    if not (width > 0 and step > 0 and math.isfinite(width) and math.isfinite(step)):
        raise ParameterError(f"--width {width:g} and --step {step:g}: both must be above 0 pixels")
    each_side = math.floor(width / 2 / step + 1e-9)
    if 2 * each_side + 1 > MOST_TRIALS:
        raise ParameterError(
            f"--width {width:g} in steps of {step:g} pixels makes {2 * each_side + 1} slices; at most {MOST_TRIALS} are "
            "drawn: give a larger --step or a smaller --width"
        )
    centers = around + step * np.arange(-each_side, each_side + 1)
    return np.asarray(centers[(centers >= 0) & (centers <= columns - 1)])


def trial_slices(
    sinogram: NDArray[np.float32],
    reconstruct: Reconstruct,
    centers: Sequence[float] | NDArray[np.floating[Any]],
    detail: Detail | None = None,
) -> NDArray[np.float32]:
    """Slices of one detector row, with each of the centres.

    Parameters
    ----------
    sinogram : (angles, columns) float32, line integrals, dimensionless
    reconstruct : callable
        See `Reconstruct`; called with up to 16 centres at once.
    centers : (centers,), pixels
    detail : Detail or None
        Which part is kept; None keeps whole slices.

    Returns
    -------
    (centers, y, x) float32
        In the unit of `reconstruct`.
    """
    wanted = np.asarray(centers, np.float64)
    angles, columns = sinogram.shape
    at_once = max(1, min(TRIALS_AT_ONCE, _VALUES_AT_ONCE // (columns * (columns + angles))))
    parts = []
    for start in range(0, len(wanted), at_once):
        slices = reconstruct_trials(sinogram, reconstruct, wanted[start : start + at_once])
        parts.append(slices if detail is None else detail.of(slices).copy())
    return np.concatenate(parts)


def liveliest_detail(image: NDArray[np.floating[Any]], size: int | None = None) -> Detail:
    """The square of a slice where the grey values change most, inside the reconstructed disc.

    Parameters
    ----------
    image : (n, n)
    size : int or None
        Edge of the square, pixels; by default half the slice, but 64 to 192. The whole slice where that is not larger.
    """
    columns = image.shape[0]
    if size is None:
        size = max(_SMALLEST_DETAIL_PX, min(columns // 2, _LARGEST_DETAIL_PX))
    if columns <= size:
        return Detail(0, 0, columns)
    axis = np.arange(columns) - (columns - 1) / 2
    inside = axis[:, None] ** 2 + axis**2 <= (_DISC_SHARE * columns / 2) ** 2
    # Smoothed, so that edges count and noise does not; the disc's own edge is outside.
    change = np.where(inside, ndimage.gaussian_gradient_magnitude(image.astype(np.float32), 2.0), 0)
    window = ndimage.uniform_filter(np.minimum(change, np.percentile(change, 99.5)), size, mode="constant")
    middle = window[size // 2 : columns - size + size // 2 + 1, size // 2 : columns - size + size // 2 + 1]
    row, column = np.unravel_index(int(np.argmax(middle)), middle.shape)
    return Detail(int(row), int(column), size)


def contact_sheet(
    slices: NDArray[np.floating[Any]],
    centers: Sequence[float] | NDArray[np.floating[Any]],
    title: str,
    taken: float | None,
) -> bytes:
    """Trial slices side by side with their centres written on, as a PNG file's content.

    Parameters
    ----------
    slices : (centers, y, x)
        All in the same grey range: 0.5 to 99.5 per cent of the middle one's values.
    centers : (centers,), pixels
    title : str
        One line above.
    taken : float or None
        The centre that was found; the slice nearest to it is marked.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = len(slices)
    across = min(count, max(1, math.ceil(math.sqrt(1.3 * count))))
    down = math.ceil(count / across)
    figure = Figure(figsize=(across * _TILE_INCHES, down * (_TILE_INCHES + 0.25) + 0.4), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=9)
    low, high = np.percentile(slices[count // 2], [0.5, 99.5])
    nearest = None if taken is None else int(np.argmin(np.abs(np.asarray(centers) - taken)))
    for index, (image, center) in enumerate(zip(slices, centers, strict=True)):
        axes = figure.add_subplot(down, across, index + 1)
        axes.imshow(image, cmap="gray", vmin=low, vmax=max(high, low + 1e-12), interpolation="nearest")
        axes.set_xticks([])
        axes.set_yticks([])
        chosen = index == nearest
        label = f"{center:.2f}"
        axes.set_title(
            f"{label} (nearest to the answer)" if chosen else label,
            fontsize=8,
            color=_CHOSEN_COLOR if chosen else "black",
            fontweight="bold" if chosen else "normal",
        )
        for edge in axes.spines.values():
            edge.set_visible(chosen)
            edge.set_edgecolor(_CHOSEN_COLOR)
            edge.set_linewidth(2)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
