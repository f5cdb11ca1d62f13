"""Connected components of a phase, of one block of a volume at a time.

What the components of all blocks make up is worked out in `joining`; which of them is an object is left to `objects`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .joining import BlockPieces

_CONNECTIVITY_RANKS = {6: 1, 18: 2, 26: 3}


def find_components(mask: NDArray[np.bool_], connectivity: int) -> tuple[NDArray[np.int32], BlockPieces]:
    """Provisional components of one block of a phase, for `joining.join_pieces`.

    Parameters
    ----------
    mask : (z, y, x) bool
        Where the phase is in the block; no slices of its neighbours.
    connectivity : {6, 18, 26}
        Neighbours of a voxel: over faces; and edges; and corners.

    Returns
    -------
    labels : (z, y, x) int32
        1 and up in this block alone, in raster order of their first voxels; 0 outside the phase.
    pieces : BlockPieces
    """
    structure = ndimage.generate_binary_structure(3, _CONNECTIVITY_RANKS[connectivity])
    labels = np.empty(mask.shape, np.int32)
    # The algorithm names a component by its first run of voxels, so that the labels are in raster order.
    count = ndimage.label(mask, structure, output=labels)
    faces = labels[[0, -1]]
    return labels, BlockPieces(
        peaks=np.zeros(count, np.int32),
        markers=np.ones(count, np.bool_),
        exits_below=np.empty(0, np.int64),
        exits_above=np.empty(0, np.int64),
        face_labels=faces,
        face_heights=(faces > 0).astype(np.int32),
        pairs=np.empty((0, 2), np.int32),
        saddles=np.empty(0, np.int32),
        faces=np.empty((0, 3), np.int32),
    )
