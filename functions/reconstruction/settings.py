"""What a reconstruction engine is told: the algorithm and its settings, in pixels and radians.

The user's own words for them, with units and limits, are in `tomopipe.functions.parameters`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

AlgorithmName = Literal["fbp", "gridrec", "fourierrec", "lprec", "sirt", "cgls", "tv", "mlem", "osem"]
ALGORITHMS: tuple[str, ...] = get_args(AlgorithmName)
DIRECT_ALGORITHMS = frozenset({"fbp", "gridrec", "fourierrec", "lprec"})
ITERATIVE_ALGORITHMS = frozenset(ALGORITHMS) - DIRECT_ALGORITHMS
# Where more iterations change a noiseless slice little, or begin to fit the noise of a usual one; in every engine.
DEFAULT_ITERATIONS = {"sirt": 100, "cgls": 20, "tv": 100, "mlem": 50, "osem": 10}


@dataclass(frozen=True)
class ReconstructionSettings:
    """How slices are made of projections.

    Attributes
    ----------
    algorithm : str
        One of `ALGORITHMS`.
    filter_name : str
        Direct methods: one of `filters.FILTERS`.
    filter_cutoff : float
        Direct methods: frequency at which the filter's window ends, as a share of the Nyquist frequency; (0, 1].
    filter_order : int
        Order of the Butterworth filter.
    padding : {"edge", "zero", "cylinder"}
        What lies beside the field of view: its edge value, nothing, or what a cylinder would show (direct methods, see
        `extrapolation`; iterative methods give slices the same margin as with ``edge``).
    projector : {"line", "fourier"} or None
        Iterative methods: which pair of operators; None is the algorithm's own default.
    iterations : int or None
        Iterative methods: most iterations; None is the algorithm's own default, `DEFAULT_ITERATIONS`.
    stop_residual : float or None
        Iterative methods: a slice is done when |A x - b| / |b| is below this; None makes all iterations.
    minimum, maximum : float or None
        Iterative methods: bounds of the slices' values, 1/pixel.
    tv_weight : float
        Method tv: weight of the total variation, relative to the data's scale (see `iterative`).
    subsets : int
        Method osem: subsets of the projections.
    warm_start : bool
        Iterative methods: start from the direct Fourier reconstruction, not from zero.
    precision : {"single", "half"}
        GPUs: how filtered projections are stored; sums are single precision always.
    """

    algorithm: str = "fourierrec"
    filter_name: str = "ramp"
    filter_cutoff: float = 1.0
    filter_order: int = 2
    padding: str = "edge"
    projector: str | None = None
    iterations: int | None = None
    stop_residual: float | None = None
    minimum: float | None = None
    maximum: float | None = None
    tv_weight: float = 0.1
    subsets: int = 8
    warm_start: bool = False
    precision: str = "single"

    @property
    def most_iterations(self) -> int:
        """`iterations`, or the algorithm's default; iterative methods only."""
        return DEFAULT_ITERATIONS[self.algorithm] if self.iterations is None else self.iterations

    @property
    def is_direct(self) -> bool:
        """Whether the slices come in one step, without iterations."""
        return self.algorithm in DIRECT_ALGORITHMS
