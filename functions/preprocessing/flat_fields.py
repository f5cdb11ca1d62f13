"""How flats become the open beam of each projection: one for all, interpolated over time, or fitted by eigen-flats.

Reading the scan in slabs is left to the caller, the division by the open beam to `normalization`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, ParameterError, ScanError
from ..reconstruction.threads import run_in_threads
from ..scan_frames import combine_frames
from .normalization import OpenBeam, above_dark, transmission
from .zingers import reach_rows, remove_zingers

FlatMethod = Literal["median", "mean", "interpolated", "dynamic"]

_BANDS: Final = 8
_BAND_ROWS: Final = 16
_FEWEST_FLATS: Final = 4
_RANDOM_REPEATS: Final = 10
_LEAST_TRANSMISSION: Final = 1e-3
# Steps of least squares between one linearisation and the next: to the least total variation, and on from there.
_ROUNDS: Final = (6, 5, 4)


class FlatSource(Protocol):
    """What is needed of a scan: a `Scan`, or a part of one."""

    @property
    def path(self) -> Path: ...
    @property
    def shape(self) -> tuple[int, int, int]: ...
    @property
    def n_flats(self) -> int: ...
    def read_rows(self, start: int, stop: int, /) -> NDArray[Any]: ...
    def flats(self, rows: slice, /) -> NDArray[Any]: ...
    def flat_field(self, start: int, stop: int, /) -> NDArray[np.float32]: ...
    def dark_field(self, start: int, stop: int, /) -> NDArray[np.float32]: ...
    def flat_positions(self) -> NDArray[np.float64] | None: ...
    def projection_positions(self) -> NDArray[np.float64]: ...


@dataclass(frozen=True)
class EigenFlats:
    """How the open beam of each projection is put together from the flats; one for all rows of a scan.

    Attributes
    ----------
    mixtures : (1 + components, n_flats) float32
        Each field is the sum of the flats above the dark with these factors: the mean of the flats, brought to one
        intensity, then the eigen-flats, strongest first.
    weights : (angles, 1 + components) float32
        Factor of each field in each projection.
    """

    mixtures: NDArray[np.float32]
    weights: NDArray[np.float32]

    @property
    def components(self) -> int:
        """Number of eigen-flats."""
        return len(self.mixtures) - 1


def check_flats(scan: FlatSource, method: FlatMethod, components: int | None = None) -> None:
    """Refuse flats that a method cannot do with.

    Parameters
    ----------
    scan : FlatSource
    method : {"median", "mean", "interpolated", "dynamic"}
    components : int, optional
        Number of eigen-flats for dynamic.

    Raises
    ------
    ScanError
        Fewer than four flats for dynamic, or none of which it is known when they were recorded for interpolated.
    ParameterError
        As many eigen-flats as flats, or more.
    """
    if method == "interpolated":
        _flat_positions(scan)
    if method != "dynamic":
        return
    if scan.n_flats < _FEWEST_FLATS:
        raise ScanError(
            f"{scan.path}: preprocessing.flat_field=dynamic needs {_FEWEST_FLATS} flats at least, better 20 or more; there "
            f"are {scan.n_flats}: take median or interpolated"
        )
    if components is not None and components >= scan.n_flats:
        raise ParameterError(
            f"preprocessing.flat_components={components}: {scan.path} has {scan.n_flats} flats, of which at most "
            f"{scan.n_flats - 1} eigen-flats can be made; lower it, or leave it out"
        )


def open_beam_of_rows(
    scan: FlatSource,
    start: int,
    stop: int,
    method: FlatMethod = "median",
    *,
    zinger_threshold: float = 0.0,
    eigen_flats: EigenFlats | None = None,
) -> NDArray[np.float32] | OpenBeam:
    """What `normalization` takes as the flat of detector rows [start, stop).

    Parameters
    ----------
    scan : FlatSource
    start, stop : int
    method : {"median", "mean", "interpolated", "dynamic"}
        median: of each pixel over all flats (`Scan.flat_field`), which zingers do not touch. mean: less noise by a fifth,
        but zingers stay unless they are removed. interpolated: linear in time between the combined flats before and
        after each projection. dynamic: `eigen_flats` of `fit_eigen_flats`.
    zinger_threshold : float
        As for `remove_zingers`, for all methods but median; 0 leaves zingers.
    eigen_flats : EigenFlats, optional
        For dynamic.

    Returns
    -------
    (rows, columns) float32, raw counts; or OpenBeam
        Each row depends on the flats of `zingers.REACH_ROWS` rows around it alone.

    Raises
    ------
    ScanError
        The method is interpolated and the file does not say when the flats were recorded.
    ParameterError
        The method is dynamic without `eigen_flats`.
    """
    if method == "median":
        return scan.flat_field(start, stop)
    flats, dark = _clean_flats(scan, start, stop, zinger_threshold)
    if method == "mean":
        return combine_frames(flats, "mean")
    if method == "interpolated":
        positions = _flat_positions(scan)
        return interpolated_open_beam(flats, dark, positions, scan.projection_positions())
    if eigen_flats is None:
        raise ParameterError("flat_field=dynamic needs the eigen-flats of the scan; fit them first (fit_eigen_flats)")
    return dynamic_open_beam(flats, dark, eigen_flats)


def _flat_positions(scan: FlatSource) -> NDArray[np.float64]:
    positions = scan.flat_positions()
    if positions is None:
        raise ScanError(
            f"{scan.path}: preprocessing.flat_field=interpolated needs to know when the flats were recorded, which the "
            "file does not say: write Start, End or Both to /process/acquisition/flat_fields/flat_field_mode, or take "
            "median, mean or dynamic"
        )
    return positions


def interpolated_open_beam(
    flats: NDArray[Any],
    dark: NDArray[np.float32],
    flat_positions: NDArray[np.float64],
    projection_positions: NDArray[np.float64],
) -> OpenBeam:
    """Open beam interpolated linearly over the scan's time between groups of flats.

    Flats of one position are a group and are combined: their median where there are three or more, else their mean.
    Before the first group and after the last one the open beam is that group's.

    Parameters
    ----------
    flats : (n_flats, rows, columns), raw counts
    dark : (rows, columns) float32, raw counts
    flat_positions : (n_flats,) float64
        When each was recorded (`Scan.flat_positions`).
    projection_positions : (angles,) float64
        When each projection was recorded, on the same scale.

    Returns
    -------
    OpenBeam
        A field for each group.

    Raises
    ------
    InputError
        There is not one position for each flat.
    """
    if len(flats) == 0 or flat_positions.shape != (len(flats),):
        raise InputError(
            f"{len(flats)} flats and {flat_positions.size} positions of flats: one position a flat is needed"
        )
    times = np.unique(flat_positions)
    groups = [flats[flat_positions == time] for time in times]
    fields = [above_dark(combine_frames(group), dark) for group in groups]
    weights = [np.interp(projection_positions, times, unit) for unit in np.eye(len(times))]
    return OpenBeam(np.stack(fields), np.stack(weights, axis=1).astype(np.float32))


def dynamic_open_beam(flats: NDArray[Any], dark: NDArray[np.float32], eigen_flats: EigenFlats) -> OpenBeam:
    """Open beam of each projection as the mean flat and eigen-flats with that projection's weights.

    Parameters
    ----------
    flats : (n_flats, rows, columns), raw counts
        Of the flats that `eigen_flats` were made of, the rows wanted.
    dark : (rows, columns) float32, raw counts
    eigen_flats : EigenFlats

    Returns
    -------
    OpenBeam
        Pixels where the mean flat does not exceed the dark are NaN.

    Raises
    ------
    InputError
        The eigen-flats are of another number of flats.
    """
    if eigen_flats.mixtures.shape[1] != len(flats):
        raise InputError(
            f"eigen-flats of {eigen_flats.mixtures.shape[1]} flats, but there are {len(flats)}; fit them anew"
        )
    fields = np.zeros((len(eigen_flats.mixtures), *dark.shape), np.float64)
    for number, flat in enumerate(flats):
        level = np.asarray(flat, np.float64) - dark
        for field, factor in zip(fields, eigen_flats.mixtures[:, number], strict=True):
            field += np.float64(factor) * level
    fields[:, ~(fields[0] > 0)] = np.nan
    return OpenBeam(fields.astype(np.float32), eigen_flats.weights)


def fit_eigen_flats(
    scan: FlatSource,
    components: int | None = None,
    *,
    zinger_threshold: float = 0.0,
    bad_pixels: NDArray[np.bool_] | None = None,
) -> EigenFlats:
    """Eigen-flats of a scan and their weights in each projection, from a sample of its rows.

    Reads `sample_bands` one after the other and averages their pixels to fewer; see `eigen_mixtures` and `fit_weights`.

    Parameters
    ----------
    scan : FlatSource
    components : int, optional
        Number of eigen-flats; by default as many as stand out of the noise.
    zinger_threshold : float
        As for `remove_zingers`; 0 leaves zingers, which a fit does not like.
    bad_pixels : (rows, columns) bool, optional

    Returns
    -------
    EigenFlats

    Raises
    ------
    ScanError
        There are fewer than four flats.
    ParameterError
        There are not so many eigen-flats.
    """
    angles, rows, columns = scan.shape
    check_flats(scan, "dynamic", components)
    binning = max(1, min(4, columns // 48))
    sampled, bad = [], []
    for start, stop in sample_bands(rows):
        flats, dark = _clean_flats(scan, start, stop, zinger_threshold)
        bad.append(~(combine_frames(flats, "mean") > dark))
        if bad_pixels is not None:
            bad[-1] |= bad_pixels[start:stop]
        alone = OpenBeam(np.ones((1, *dark.shape), np.float32), np.ones((len(flats), 1), np.float32))
        sampled.append(_binned(transmission(flats, alone, dark, bad_pixels=bad[-1])[0], binning))
    mixtures = eigen_mixtures(sampled, components)
    mean_flat = EigenFlats(mixtures[:1], np.ones((angles, 1), np.float32))
    projections = []
    for (start, stop), dead in zip(sample_bands(rows), bad, strict=True):
        flats, dark = _clean_flats(scan, start, stop, zinger_threshold)
        raw = _without_zingers(scan.read_rows, scan, start, stop, zinger_threshold)
        beam = dynamic_open_beam(flats, dark, mean_flat)
        projections.append(_binned(transmission(raw, beam, dark, bad_pixels=dead)[0], binning))
    return EigenFlats(mixtures, fit_weights(projections, sampled, mixtures))


def sample_bands(rows: int) -> list[tuple[int, int]]:
    """Rows that `fit_eigen_flats` reads: eight bands of 16 over the detector's height, or all where it is low.

    Bands, since beams vary most from row to row, and the rows of a band are neighbours as the total variation needs.
    """
    if rows <= _BANDS * _BAND_ROWS:
        return [(0, rows)]
    starts = [int((index + 0.5) * rows / _BANDS) - _BAND_ROWS // 2 for index in range(_BANDS)]
    return [(start, start + _BAND_ROWS) for start in starts]


def eigen_mixtures(levels: Sequence[NDArray[np.float32]], components: int | None = None) -> NDArray[np.float32]:
    """How the mean flat and the eigen-flats are made of the flats, by principal components.

    After V. Van Nieuwenhove, J. De Beenhouwer, F. De Carlo, L. Mancini, F. Marone and J. Sijbers, "Dynamic intensity
    normalization using eigen flat fields in X-ray imaging" (2015), DOI 10.1364/OE.23.027975; here the flats are first
    brought to one intensity, as the total variation cannot tell that of a projection, and the components are those of
    counts in units of their photon noise.

    Parameters
    ----------
    levels : sequence of (n_flats, rows, columns) float32, counts above the dark
        The flats of some bands of rows.
    components : int, optional
        Number of eigen-flats, 0 or more; by default parallel analysis says how many stand out of the noise: those whose
        variance exceeds the mean of what noise of each pixel's variance gives by two standard deviations.

    Returns
    -------
    (1 + components, n_flats) float32
        `EigenFlats.mixtures`.

    Raises
    ------
    ParameterError
        `components` is negative, or not below the number of flats.
    """
    count = len(levels[0])
    if components is not None and not 0 <= components < count:
        raise ParameterError(f"flat_components is {components}: give 0 to {count - 1}, as there are {count} flats")
    flats = np.concatenate([level.reshape(count, -1) for level in levels], axis=1).astype(np.float64)
    gains = flats.mean() / flats.mean(axis=1)
    flats *= gains[:, None]
    mean = flats.mean(axis=0)
    deviations = (flats - mean) / np.sqrt(np.maximum(mean, 1e-3 * mean.mean()))
    variances, vectors = _principal_components(deviations)
    number = _standing_out(deviations, np.sqrt(gains), variances) if components is None else components
    mixtures = np.concatenate([np.full((1, count), 1 / count), vectors[:, :number].T]) * gains
    return np.asarray(mixtures, np.float32)


def fit_weights(
    transmissions: Sequence[NDArray[np.float32]], levels: Sequence[NDArray[np.float32]], mixtures: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Weights of the fields in each projection: those with which the corrected projection varies least.

    As in the paper that `eigen_mixtures` names, the total variation of a projection is minimised, and the projection
    keeps the mean transmission that the mean flat gives it: the beam's intensity during it is not measured. The total
    variation is that of the corrected transmissions relative to the intensity; the weights are then refined with a
    penalty that the sample's edges count less in (see `_least_varying`).

    Parameters
    ----------
    transmissions : sequence of (angles, rows, columns) float32
        Bands of neighbouring rows, of projections divided by the first of the mixtures.
    levels : sequence of (n_flats, rows, columns) float32, counts above the dark
        The flats of the same bands.
    mixtures : (1 + components, n_flats) float32
        Of `eigen_mixtures`.

    Returns
    -------
    (angles, 1 + components) float32
        `EigenFlats.weights`.
    """
    angles = len(transmissions[0])
    weights = np.ones((angles, len(mixtures)), np.float32)
    if len(mixtures) == 1:
        return weights
    fields = [np.tensordot(mixtures.astype(np.float64), level, 1) for level in levels]
    relative = [field[1:] / np.maximum(field[0], 1e-3 * field[0].mean()) for field in fields]

    def fit(angle: int) -> None:
        bands = [band[angle].astype(np.float64) for band in transmissions]
        found = _least_varying(bands, relative)
        before = sum(band.sum() for band in bands)
        after = sum((band / _factor(found, part)).sum() for band, part in zip(bands, relative, strict=True))
        scale = after / before if before > 0 and after > 0 else 1.0
        weights[angle] = scale * np.array([1.0, *found])

    run_in_threads(fit, angles)
    return weights


def _principal_components(deviations: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Variances and unit vectors (n, n) of the rows of (n, pixels), strongest first, of one sign convention."""
    variances, vectors = np.linalg.eigh(deviations @ deviations.T)
    variances, vectors = variances[::-1], vectors[:, ::-1]
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0)
    return variances, vectors * np.where(largest < 0, -1.0, 1.0)


def _standing_out(
    deviations: NDArray[np.float64], noise_of_flats: NDArray[np.float64], variances: NDArray[np.float64]
) -> int:
    """Number of leading principal components above those of independent noise (Horn's parallel analysis)."""
    rng = np.random.default_rng(2015)
    spread = deviations.std(axis=0, ddof=1) * (noise_of_flats / np.sqrt(np.mean(noise_of_flats**2)))[:, None]
    random = []
    for _ in range(_RANDOM_REPEATS):
        noise = rng.standard_normal(deviations.shape) * spread
        random.append(_principal_components(noise - noise.mean(axis=0))[0])
    limit = np.mean(random, axis=0) + 2 * np.std(random, axis=0)
    # the last is the mean's, which was taken away
    return int(np.argmin(np.append(variances[:-1] > limit[:-1], False)))


def _least_varying(
    bands: Sequence[NDArray[np.float64]], relative: Sequence[NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Weights w with which T |grad(log T - log(1 + w u))| is least, T the transmission as it is.

    Summed, that is of the first order the total variation of T / (1 + w u) relative to its intensity: the gradient of a
    logarithm knows no factor. Reweighted least squares find its minimum, and from there that of the sum of logarithms,
    T log(s^2 + |grad|^2) with the smooth parts' gradients s: the sample's own edges pull at the weights in the first,
    and hardly do so in the second (in simulations a third of the error).
    """
    clear = [np.maximum(band, _LEAST_TRANSMISSION) for band in bands]
    slopes = np.concatenate([_slopes(-np.log(band)) for band in clear], axis=1)
    brightness = np.concatenate([_inner(band).ravel() for band in clear])
    found = np.zeros(len(relative[0]))
    smooth = 0.0
    for outer, rounds in enumerate(_ROUNDS):
        factors = [_factor(found, fields) for fields in relative]
        rest = slopes + np.concatenate([_slopes(np.log(factor)) for factor in factors], axis=1)
        directions = np.concatenate(
            [
                np.stack([_slopes(field / factor) for field in fields])
                for fields, factor in zip(relative, factors, strict=True)
            ],
            axis=2,
        )
        for _ in range(rounds):
            squares = rest[0] ** 2 + rest[1] ** 2
            if outer == 0:
                # what is almost flat must not decide alone
                importance = brightness / np.sqrt(squares + 0.01 * np.median(squares) + 1e-18)
            else:
                smooth = smooth or float(np.percentile(squares, 25)) + 1e-18
                importance = brightness / (squares + smooth)
            weighted = directions * importance
            matrix = np.einsum("kdn,ldn->kl", weighted, directions)
            step = np.linalg.lstsq(matrix, -np.einsum("kdn,dn->k", weighted, rest), rcond=1e-10)[0]
            rest = rest + np.tensordot(step, directions, 1)
            found = found + step
    return found


def _factor(found: NDArray[np.float64], relative: NDArray[np.float64]) -> NDArray[np.float64]:
    """The open beam over the mean flat, kept above nothing while the weights are not yet right."""
    return np.maximum(1 + np.tensordot(found, relative, 1), 0.1)


def _slopes(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Differences (2, pixels) to the next column and, where there is one, to the next row."""
    across = image[:, 1:] - image[:, :-1]
    if len(image) == 1:
        return np.stack([across.ravel(), np.zeros(across.size)])
    down = image[1:] - image[:-1]
    return np.stack([across[:-1].ravel(), down[:, :-1].ravel()])


def _inner(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """The pixels that `_slopes` has differences of."""
    return image[: max(1, len(image) - 1), :-1]


def _clean_flats(
    scan: FlatSource, start: int, stop: int, zinger_threshold: float
) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Flats and dark field of rows [start, stop), the flats without zingers."""
    flats = _without_zingers(lambda low, high: scan.flats(slice(low, high)), scan, start, stop, zinger_threshold)
    return flats, scan.dark_field(start, stop)


def _without_zingers(
    read: Callable[[int, int], NDArray[Any]], scan: FlatSource, start: int, stop: int, zinger_threshold: float
) -> NDArray[Any]:
    """Frames of rows [start, stop) without zingers; 0 leaves them."""
    if not zinger_threshold:
        return read(start, stop)
    low, high = max(0, start - reach_rows()), min(scan.shape[1], stop + reach_rows())
    frames = remove_zingers(read(low, high), scan.dark_field(low, high), zinger_threshold)
    return np.ascontiguousarray(frames[:, start - low : stop - low])


def _binned(frames: NDArray[np.float32], binning: int) -> NDArray[np.float32]:
    """Frames averaged over squares of pixels; what is left over below and at the right falls away."""
    count, rows, columns = frames.shape
    high, wide = min(binning, rows), min(binning, columns)
    cut = frames[:, : rows // high * high, : columns // wide * wide]
    squares = cut.reshape(count, rows // high, high, columns // wide, wide)
    return np.asarray(squares.mean(axis=(2, 4), dtype=np.float32))
