"""A task as Globus Compute carries it: source text of the function, arguments and result as JSON, limits on both.

Runs where the worker is. Which tasks run where and what becomes of their results is the executor's.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from functools import cache
from typing import Any

from globus_compute_sdk.serialize import ComputeSerializer, JSONData, PureSourceTextInspect

from tomopipe.functions.errors import InputError

from .guard import die_with

MAX_PAYLOAD_BYTES = 10 * 1000 * 1000
MAX_RESULT_BYTES = 10 * 1000 * 1000
"""Globus Compute's limits on a task and on its result: 10 MB."""

_MAX_TRACEBACK_CHARACTERS = 8000


def function_code(function: Callable[..., Any]) -> str:
    """A function as it travels: its source text.

    Raises
    ------
    InputError
        If the text alone does not define the function: it is nested, decorated, or its defaults are names from
        outside. Imports belong inside.
    """
    serializer = _serializer()
    try:
        code: str = serializer.serialize(function)
        serializer.deserialize(code)
    except Exception as error:
        raise InputError(
            f"function {function.__qualname__}: its source text does not stand alone ({error.__cause__ or error});"
            " define it at the top of a module, undecorated, with its imports inside"
        ) from error
    return code


def pack(code: str, args: list[Any], kwargs: dict[str, Any]) -> str:
    """A task from a function's code and its arguments, which must be JSON.

    Raises
    ------
    InputError
        If the task is larger than Globus Compute takes.
    """
    serializer = _serializer()
    payload: str = serializer.pack_buffers([code, serializer.serialize(args), serializer.serialize(kwargs)])
    size = len(payload.encode())
    if size > MAX_PAYLOAD_BYTES:
        raise InputError(f"the task takes {size} bytes, the limit is {MAX_PAYLOAD_BYTES}; pass paths, not arrays")
    return payload


def run_packed(payload: str) -> str:
    """Run a task: its result, packed; or, packed likewise, what it raised. It raises nothing itself."""
    serializer = _serializer()
    try:
        function, args, kwargs = serializer.unpack_and_deserialize(payload)
        output = function(*args, **kwargs)
        _check_result(output)
        result: str = serializer.serialize({"output": output})
    except (Exception, SystemExit) as error:  # noqa: BLE001 - it becomes the task's outcome
        result = serializer.serialize({"exception": _describe(error)})
    return result


def run_packed_in_worker(payload: str) -> str:
    """The same in a worker process, which from its first task on dies with the manager that started it."""
    _die_with_manager()
    return run_packed(payload)


def unpack_result(result: str) -> dict[str, Any]:
    """``{"output": value}`` or ``{"exception": traceback}`` of a task that was run."""
    outcome: dict[str, Any] = _serializer().deserialize(result)
    return outcome


@cache
def _serializer() -> ComputeSerializer:
    return ComputeSerializer(
        strategy_code=PureSourceTextInspect,
        strategy_data=JSONData,
        allowed_deserializer_types=[PureSourceTextInspect, JSONData],
    )


@cache
def _die_with_manager() -> None:
    die_with(os.getppid())


def _check_result(output: Any) -> None:
    try:
        size = len(json.dumps(output, allow_nan=False).encode())
    except (TypeError, ValueError) as error:
        raise TypeError(f"the function's result is not JSON: {error}") from None
    if size > MAX_RESULT_BYTES:
        raise ValueError(f"the function's result takes {size} bytes, the limit is {MAX_RESULT_BYTES}; return paths")


def _describe(error: BaseException) -> str:
    """Traceback without the frames of this module; its end (the error) where it is long."""
    trace = sys.exc_info()[2]
    inner = trace.tb_next if trace is not None else None
    text = "".join(traceback.format_exception(type(error), error, inner or trace))
    return text if len(text) <= _MAX_TRACEBACK_CHARACTERS else "..." + text[-_MAX_TRACEBACK_CHARACTERS:]
