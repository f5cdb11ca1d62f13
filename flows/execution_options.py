"""What the command line says of how the work is cut and how much it may take, as `Execution` has it.

What these mean is in `functions.parameters`.
"""

from __future__ import annotations

import re

from tomopipe.functions.errors import ParameterError
from tomopipe.functions.parameters import Execution, validate_model


def execution_of(slab: int | None, memory: str | None, workers: int | None) -> Execution:
    """Settings from `--slab`, `--memory` and `--workers`; what was not given stays unset.

    Raises
    ------
    ParameterError
        If one of them is impossible.
    """
    values = {"slab": slab, "memory_bytes": _bytes(memory) if memory else None, "workers": workers}
    return validate_model(Execution, {key: value for key, value in values.items() if value is not None}, "options")


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not match:
        raise ParameterError(f"--memory {text}: give a size such as 800M or 16G")
    size = float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " ")
    if size > 2**60:
        raise ParameterError(f"--memory {text}: is more than any machine has; give a size such as 800M or 16G")
    return int(size)
