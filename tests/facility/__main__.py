"""`python tests/facility [FOLDER]`: a facility on this machine until Ctrl-C, and how to use it."""

from __future__ import annotations

import shlex
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from facility.facility import Facility

_USE = """
The facility runs; its files are in {folder}

In another terminal:
  source {variables}

  # A scan, as the beamline would leave it
  {tomopipe} simulate {scan}

  # Once: make the flow and its search index
  {tomopipe} deploy {deployment}

  # Send the scan through it
  {tomopipe} submit {scan} --deployment {deployment}

Ctrl-C here ends everything.
"""


def main() -> int:
    """Start it, say how to use it, wait."""
    # This package is imported from the folder above; in the folder itself lies a module of its name.
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from facility.facility import facility_missing

    if missing := facility_missing():
        print(missing, file=sys.stderr)
        return 1
    if len(sys.argv) > 1:
        return _serve(Path(sys.argv[1]))
    with tempfile.TemporaryDirectory(prefix="facility-") as folder:
        return _serve(Path(folder))


def _serve(folder: Path) -> int:
    from facility.facility import Facility

    # `kill` ends it as properly as Ctrl-C does, and SIGINT where the shell that started it in the background has it ignored.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    try:
        print("Starting the services, the broker and the Compute agent ...", flush=True)
        with Facility(folder) as facility:
            deployment = facility.deployment_file()
            variables = _write_variables(facility)
            print(
                _USE.format(
                    folder=facility.folder,
                    variables=shlex.quote(str(variables)),
                    deployment=shlex.quote(str(deployment)),
                    scan=shlex.quote(str(facility.beamline / "scan.h5")),
                    tomopipe=shlex.quote(str(Path(sys.executable).parent / "tomopipe")),
                ),
                flush=True,
            )
            signal.pause()
    except KeyboardInterrupt:
        print("Stopped.")
    return 0


def _write_variables(facility: Facility) -> Path:
    """The variables of a client as shell commands; only the owner may read the secret among them."""
    path = facility.folder / "facility.env"
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in sorted(facility.environment.items())]
    path.write_text("".join(lines))
    return path


if __name__ == "__main__":
    sys.exit(main())
