"""Fixed samples of a run that tell how far its numbers may be off: a box segmented anew, slices from half the projections.

What is measured in them is left to `uncertainty` and `resolution`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from ..segmentation.thresholds import apply_thresholds
from ..slabs import SliceReconstructor, Sources, object_settings
from .resolution import RingCorrelation, fourier_ring_correlation
from .uncertainty import SegmentationSample

_SAMPLE_EDGE_VOXELS = 120
_ROWS_AT_ONCE = 8


def segmentation_sample(sources: Sources, shift: float, scratch: Path) -> SegmentationSample:
    """The box in the middle of the volume as it is, and with all thresholds moved down and up.

    Parameters
    ----------
    sources : Sources
        Of a run whose `Segment` is done.
    shift : float
        How far thresholds are moved, in the unit of the slices; the noise of the volume that was segmented.
    scratch : Path
        Folder for temporary files.

    Returns
    -------
    SegmentationSample
        Of at most 120 voxels an edge. The sample region is that of the run in all three.
    """
    thresholds = sources.document["resolved"]["thresholds"]
    phases, grey = sources.phases(), sources.denoised()
    (z0, z1), (y0, y1), (x0, x1) = (_middle(length) for length in phases.shape)
    parts: list[list[NDArray[np.uint8]]] = [[], [], []]
    for start in range(z0, z1, _ROWS_AT_ONCE):
        stop = min(start + _ROWS_AT_ONCE, z1)
        as_is = np.asarray(phases[start:stop])[:, y0:y1, x0:x1]
        slices = np.asarray(grey[start:stop])[:, y0:y1, x0:x1]
        parts[0].append(as_is)
        for part, offset in ((parts[1], -shift), (parts[2], shift)):
            moved = apply_thresholds(slices, [threshold + offset for threshold in thresholds])
            moved[as_is == 0] = 0
            part.append(moved)
    as_is, low, high = (np.concatenate(part) for part in parts)
    settings = None if "separate_objects" in sources.skipped else object_settings(sources.parameters.objects)
    return SegmentationSample(as_is, low, high, settings, scratch)


def half_data_correlation(sources: Sources) -> RingCorrelation | None:
    """Fourier ring correlation of the sample slices from every other projection with those from the rest.

    The two halves share rotation centre and preprocessing, but no projection. Half as many angles each makes the
    outer rings of frequency worse than those of the whole data, so the resolution is a cautious one.

    Parameters
    ----------
    sources : Sources
        Of a run with its `sample.h5`.

    Returns
    -------
    RingCorrelation or None
        None for fewer than four projections.
    """
    with h5py.File(sources.run.sample, "r") as file:
        projections: NDArray[np.float32] = file["projections"][()]
    if len(projections) < 4:
        return None
    whole = _for_half(sources.reconstructor, len(projections) // 2)
    halves = [
        replace(whole, theta_rad=whole.theta_rad[first::2])(np.ascontiguousarray(projections[first::2]))
        for first in (0, 1)
    ]
    return fourier_ring_correlation(halves[0], halves[1], sources.voxel_size[0][2])


def _for_half(whole: SliceReconstructor, angles: int) -> SliceReconstructor:
    """The run's reconstruction as far as half the projections, and this worker, allow it."""
    parameters = whole.parameters
    if parameters.algorithm == "lprec":  # wants equal steps from 0 on
        return replace(whole, parameters=parameters.model_copy(update={"algorithm": "fourierrec"}), engine="native")
    parameters = parameters.model_copy(update={"subsets": min(parameters.subsets, angles)})
    engine = "native" if whole.engine == "tomocupy" and not whole.device.is_gpu else whole.engine
    return replace(whole, parameters=parameters, engine=engine)


def _middle(length: int) -> tuple[int, int]:
    edge = min(length, _SAMPLE_EDGE_VOXELS)
    return (length - edge) // 2, (length - edge) // 2 + edge
