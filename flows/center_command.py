"""The command `tomopipe center`: what each method finds for a scan's rotation centre, and trial slices to choose by.

`cli` registers it. Finding is left to `tomopipe.functions.preprocessing.rotation_center`, drawing to
`tomopipe.functions.center_trials`.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from tomopipe.functions.errors import InputError, ParameterError
from tomopipe.functions.parameters import Parameters, apply_overrides, parse_parameters, read_yaml

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tomopipe.functions.preprocessing.rotation_center import CenterResult, FieldOfView, Reconstruct
    from tomopipe.functions.scan import Scan

# What is printed holds paths and commands: no square bracket or colon in them means anything.
_out = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)


@dataclass(frozen=True)
class _Sample:
    """Corrected rows of a scan: projections (angles, rows, columns), angles in radians, and which detector rows they are."""

    projections: NDArray[np.float32]
    theta_rad: NDArray[np.float64]
    rows: Sequence[int]

    @property
    def middle(self) -> int:
        """Which of the rows is drawn."""
        return len(self.rows) // 2


def center(
    scan: Annotated[Path, typer.Argument(help="Raw scan: Data Exchange or NXtomo HDF5.", metavar="SCAN")],
    row: Annotated[
        int | None, typer.Option(help="Detector row of the file to look at; by default some over the height.")
    ] = None,
    around: Annotated[
        float | None, typer.Option(help="Centre of the trial slices in pixels; by default what was found.")
    ] = None,
    width: Annotated[float, typer.Option(help="Range of the trial slices' centres in pixels.")] = 6.0,
    step: Annotated[float, typer.Option(help="Step of the trial slices' centres in pixels.")] = 0.5,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="PNG to draw; by default SCAN_center.png here.", metavar="PNG")
    ] = None,
    whole: Annotated[bool, typer.Option("--whole", help="Draw whole slices, not their liveliest detail.")] = False,
    parameters: Annotated[
        Path | None, typer.Option("--parameters", "-p", help="YAML file with a section a stage.", metavar="FILE")
    ] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", help="One parameter, as SECTION.FIELD=VALUE; repeatable.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON on standard output, and nothing else there.")
    ] = False,
) -> None:
    """Find a scan's rotation centre by every method, and draw slices with trial centres around it."""
    from tomopipe.functions.preprocessing.rotation_center import covers_full_turn
    from tomopipe.functions.scan import open_scan, validate

    values = read_yaml(parameters) if parameters else {}
    source = str(parameters) if parameters else "parameters"
    chosen = parse_parameters(apply_overrides(values, override or []), source)
    picture = output or Path(f"{scan.stem}_center.png")
    _check_picture(picture)
    with open_scan(scan) as opened:
        validate(opened)
        sample = _sample(opened, chosen, row, lambda columns: _check_trials(around, width, step, columns))
    field_of_view, result, trouble = _find(sample, chosen, around)
    middle = around if around is not None else result.center if result is not None else None
    assert middle is not None
    centers = _draw(sample, chosen, field_of_view, middle, width, step, None if result is None else result.center, picture,
                    scan.name, whole)  # fmt: skip
    settled = {"reconstruction.center": f"{middle if around is not None else round(middle, 2):.10g}"}
    if covers_full_turn(sample.theta_rad):
        # With a centre that is given, the automatic choice could be the other one.
        settled["scan.field_of_view"] = field_of_view
    command = _command(scan, parameters, override or [], settled)
    if as_json:
        print(json.dumps(_as_json(sample, field_of_view, result, centers, picture, command)))
        return
    _print(scan, sample, field_of_view, result, trouble)
    _out.print(
        f"trial slices of row {sample.rows[sample.middle]}, centres {centers[0]:.2f} to {centers[-1]:.2f}: {picture}"
    )
    _out.print(f"take one with: {command}")


def _sample(scan: Scan, parameters: Parameters, row: int | None, check: Callable[[int], None]) -> _Sample:
    """The corrected rows that are looked at: as `automatic` samples them for a run, or the one asked for.

    `check` is given the number of their columns before any is read.
    """
    import numpy as np

    from tomopipe.functions.automatic import known
    from tomopipe.functions.corrections import Corrector
    from tomopipe.functions.slabs import sample_rows

    resolved = known(scan, parameters)
    corrector = Corrector(scan, parameters, resolved)
    _, height, columns = corrector.shape
    first, binning = corrector.selected.rows[0], parameters.scan.binning
    if row is not None:
        _check_row(row, first, first + height * binning, scan.shape[1])
    check(columns)
    if parameters.preprocessing.flat_field == "dynamic":
        corrector = Corrector(scan, parameters, replace(resolved, eigen_flats=corrector.fit_eigen_flats()))
    rows = sample_rows(height, columns) if row is None else [(row - first) // binning]
    projections = np.concatenate([corrector.rows(each, each + 1)[0] for each in rows], axis=1)
    # Of those that are binned to one, the middle one: given as --row, it leads back to the same.
    detector_rows = [first + each * binning + binning // 2 for each in rows] if row is None else [row]
    return _Sample(projections, corrector.theta_rad, detector_rows)


def _check_row(row: int, first: int, stop: int, rows: int) -> None:
    """Refuse a detector row that is not among those from `first` to `stop` that are used."""
    if not 0 <= row < rows:
        raise ParameterError(f"--row {row}: the scan has rows 0 to {rows - 1}")
    if not first <= row < stop:
        raise ParameterError(
            f"--row {row}: of the detector the rows {first} to {stop - 1} are used (scan.rows, scan.binning); give one of "
            "these"
        )


def _check_trials(around: float | None, width: float, step: float, columns: int) -> None:
    """Refuse trial centres that could not be drawn, before any work."""
    from tomopipe.functions.center_trials import trial_centers

    trial_centers((columns - 1) / 2 if around is None else around, width, step, columns)


def _find(
    sample: _Sample, parameters: Parameters, around: float | None
) -> tuple[FieldOfView, CenterResult | None, str | None]:
    """Field of view, what was found, and why nothing could be: fatal only where no centre was given to draw around."""
    from tomopipe.functions.center_trials import quick_reconstruction
    from tomopipe.functions.preprocessing.rotation_center import find_center, find_center_360, suggest_field_of_view

    wished = parameters.scan.field_of_view
    projections, theta = sample.projections, sample.theta_rad
    field_of_view: FieldOfView = "double" if wished == "double" else "standard"
    try:
        if wished == "auto":
            field_of_view = suggest_field_of_view(projections, theta)
        if field_of_view == "double":
            return field_of_view, find_center_360(projections, theta), None
        reconstruct = quick_reconstruction(theta, projections.shape[2])
        share = parameters.reconstruction.center_search
        return field_of_view, find_center(projections, theta, reconstruct, search_share=share), None
    except InputError as error:
        if around is None:
            raise
        return field_of_view, None, str(error)


def _draw(
    sample: _Sample,
    parameters: Parameters,
    field_of_view: FieldOfView,
    around: float,
    width: float,
    step: float,
    taken: float | None,
    picture: Path,
    name: str,
    whole: bool,
) -> NDArray[np.float64]:
    """Write the contact sheet; the centres on it."""
    from tomopipe.functions.center_trials import (
        contact_sheet,
        joined_columns,
        joined_reconstruction,
        liveliest_detail,
        quick_reconstruction,
        trial_centers,
        trial_slices,
    )

    sinogram = sample.projections[:, sample.middle]
    centers = trial_centers(around, width, step, sinogram.shape[1])
    wished = parameters.reconstruction
    filter_name = "ramp" if wished.filter == "none" else wished.filter
    reconstruct: Reconstruct
    if field_of_view == "double":
        widest = joined_columns(sinogram.shape[1], centers)
        reconstruct = joined_reconstruction(
            sample.theta_rad, filter_name=filter_name, padding=wished.plain_padding, width=widest
        )
    else:
        widest = sinogram.shape[1]
        reconstruct = quick_reconstruction(
            sample.theta_rad, widest, filter_name=filter_name, padding=wished.plain_padding
        )
    detail = liveliest_detail(trial_slices(sinogram, reconstruct, centers[len(centers) // 2 :][:1])[0])
    shown = trial_slices(sinogram, reconstruct, centers, None if whole else detail)
    part = "" if whole or detail.size == widest else f", detail at row {detail.row}, column {detail.column}"
    title = f"{name}, row {sample.rows[sample.middle]}: rotation centres in pixels{part}"
    picture.write_bytes(contact_sheet(shown, centers, title, taken))
    return centers


def _check_picture(picture: Path) -> None:
    if picture.suffix.lower() != ".png":
        raise ParameterError(f"--output {picture}: the trial slices are drawn as a PNG; give a name that ends in .png")
    if picture.is_dir() or not picture.parent.is_dir():
        raise ParameterError(f"--output {picture}: give a file in a folder that is there")


def _print(
    scan: Path, sample: _Sample, field_of_view: FieldOfView, result: CenterResult | None, trouble: str | None
) -> None:
    from tomopipe.functions.preprocessing.rotation_center import overlap_columns

    angles, _, columns = sample.projections.shape
    rows = ", ".join(str(row) for row in sample.rows)
    _out.print(f"{scan}: {angles} projections, {columns} columns; row{'s' if len(sample.rows) > 1 else ''} {rows}")
    if result is None:
        print(f"not found: {trouble}", file=sys.stderr)
        return
    if field_of_view == "double":
        overlap = overlap_columns(columns, result.center)
        _out.print(f"double field of view: the halves overlap by {overlap:.1f} columns ({overlap / columns:.0%})")
    table = Table("method", "centre (pixels)", box=None)
    for name, value in result.estimates.items():
        table.add_row(name, f"{value:.2f}")
    _out.print(table)
    _out.print(f"centre {result.center:.2f}, confidence {result.confidence:.2f} ({result.method})")
    if result.warning:
        print(f"warning: {result.warning}", file=sys.stderr)


def _command(scan: Path, parameters: Path | None, overrides: list[str], settled: Mapping[str, str]) -> str:
    """How a run is told what was settled here, with the other parameters given here."""
    words = ["tomopipe", "run", str(scan)]
    words += ["--parameters", str(parameters)] if parameters else []
    for text in [
        *(each for each in overrides if each.partition("=")[0].strip() not in settled),
        *(f"{name}={value}" for name, value in settled.items()),
    ]:
        words += ["--set", text]
    return shlex.join(words)


def _as_json(
    sample: _Sample,
    field_of_view: FieldOfView,
    result: CenterResult | None,
    centers: NDArray[np.float64],
    picture: Path,
    command: str,
) -> dict[str, Any]:
    found: dict[str, Any] = {"center_px": None, "confidence": 0.0, "method": None, "estimates_px": {}, "warning": None}
    if result is not None:
        found = {
            "center_px": round(result.center, 3),
            "confidence": round(result.confidence, 4),
            "method": result.method,
            "estimates_px": {name: round(value, 3) for name, value in result.estimates.items()},
            "warning": result.warning,
        }
    return {
        **found,
        "field_of_view": field_of_view,
        "rows": list(sample.rows),
        "trial_row": sample.rows[sample.middle],
        "trial_centers_px": [round(float(value), 3) for value in centers],
        "picture": str(picture),
        "command": command,
    }
