"""What iterative reconstruction asks of a pair of operators: projections of slices, and the exact transpose of that."""

from __future__ import annotations

from typing import Any, Protocol

LANES = 16  # slices that are worked on together, the fastest axis of every array: one vector of 512 bits

Array = Any  # NumPy array (float32) or torch tensor: iterative methods use only what both can do


class Projector(Protocol):
    """Parallel-beam line integrals of `lanes` slices at a time, and their transpose.

    The integral at angle theta and column t is along x cos(theta) + y sin(theta) = t - center of the lane, with
    x = column - (n - 1)/2 and y = (n - 1)/2 - row in the slice. Slices are in 1/pixel, integrals without unit. Each
    lane is computed alone: its bits depend on no other lane.

    Attributes
    ----------
    angles : int
        Number of projection angles.
    columns : int
        Width n of a projection, and of a slice.
    lanes : int
        Slices in a batch; missing ones are zeros.
    """

    @property
    def angles(self) -> int: ...

    @property
    def columns(self) -> int: ...

    @property
    def lanes(self) -> int: ...

    def forward(self, slices: Array, out: Array | None = None) -> Array:
        """Line integrals of the slices inside the circle of radius n/2; what is outside counts as zero.

        Parameters
        ----------
        slices : (columns, columns, lanes) float32, not changed
        out : (angles, columns, lanes) float32, overwritten and returned, where given

        Returns
        -------
        (angles, columns, lanes) float32
        """
        ...

    def adjoint(self, projections: Array, out: Array | None = None) -> Array:
        """The transpose of `forward` (not its inverse): backprojection without a filter, zero outside the circle.

        Parameters
        ----------
        projections : (angles, columns, lanes) float32, not changed
        out : (columns, columns, lanes) float32, overwritten and returned, where given

        Returns
        -------
        (columns, columns, lanes) float32
        """
        ...

    def subset(self, angles: slice) -> Projector:
        """The same operators for some of the angles, in their order."""
        ...
