"""A row of a real scan reconstructed by TomoPy's gridrec, as it comes and padded, and by tomopipe, side by side as a picture.

    python benchmarks/beside_tomopy.py SCAN.h5 --center 295.87 [--row 1] [--output docs/images/beside_tomopy.png]

All three take the same corrected projections, centre and filter; the middle half is shown, each from its own 0.5th to 99.5th
percentile inside the disc, with the range written on. Needs TomoPy.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from tomopipe.functions.corrections import Corrector, Resolved
from tomopipe.functions.parameters import Parameters
from tomopipe.functions.reconstruction.engines import get_engine
from tomopipe.functions.reconstruction.settings import ReconstructionSettings
from tomopipe.functions.scan import open_scan

Floats = npt.NDArray[np.float32]


def gridrec(projections: Floats, theta: npt.NDArray[np.float64], center: float, beside: int) -> Floats:
    """TomoPy's own slice, as it comes."""
    import tomopy

    columns = projections.shape[2]
    sinogram = np.pad(projections.swapaxes(0, 1), ((0, 0), (0, 0), (beside, beside)), mode="edge")
    found = tomopy.recon(
        sinogram, theta, center=center + beside, sinogram_order=True, algorithm="gridrec", filter_name="shepp", ncore=1
    )
    kept: Floats = found[0, beside : beside + columns, beside : beside + columns]
    return kept


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path)
    parser.add_argument("--center", type=float, required=True)
    parser.add_argument("--row", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("beside_tomopy.png"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # other packages' at import
    with open_scan(options.scan) as scan:
        corrector = Corrector(scan, Parameters(), Resolved())
        projections, _ = corrector.rows(options.row, options.row + 1)
    theta, columns = corrector.theta_rad, projections.shape[2]
    settings = ReconstructionSettings(filter_name="shepp", padding="edge")
    prepared = get_engine("native").prepare(theta, columns, options.center, settings=settings)
    slices = {
        "TomoPy gridrec, its default": gridrec(projections, theta, options.center, 0),
        "TomoPy gridrec, padded with edge values": gridrec(projections, theta, options.center, columns // 2),
        "tomopipe": prepared(projections)[0],
    }
    axis = np.arange(columns) - (columns - 1) / 2
    disc = axis[:, None] ** 2 + axis**2 <= (0.95 * columns / 2) ** 2
    middle = slice(columns // 4, columns - columns // 4)
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    for panel, (name, image) in zip(figure.subplots(1, 3), slices.items(), strict=True):
        low, high = np.percentile(image[disc], [0.5, 99.5])
        panel.imshow(image[middle, middle], cmap="gray", vmin=low, vmax=high)
        panel.set_title(f"{name}\n{low:.4f} to {high:.4f} per pixel, mean {image[disc].mean():.5f}", fontsize=9)
        panel.set_axis_off()
    figure.savefig(options.output, dpi=80)


if __name__ == "__main__":
    main()
