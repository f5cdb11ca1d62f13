"""Where the local store lies: runs, index, notes and tokens of one user on one machine.

What is kept there is each part's own. Apart from `run`, since a command that only talks to services needs nothing of that.
"""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """Folder of the local store: `$TOMOPIPE_HOME`, else `tomopipe` in the user's data folder."""
    configured = os.environ.get("TOMOPIPE_HOME")
    if configured:
        return Path(configured)
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "tomopipe"
