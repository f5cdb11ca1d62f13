"""The Compute action on this machine: Parsl runs the registered functions, packed as Globus Compute would carry them.

What the functions do is theirs; which tasks there are is the flow's. Parsl is loaded with the first action.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from types import TracebackType
from typing import Any

from tomopipe.functions.errors import InputError, ParameterError

from .actions import ActionContext, ActionResult, ActionUnableToRun, JsonObject, Progress
from .packed_task import function_code, pack, unpack_result
from .parsl_pool import Pool, ProcessPool, ThreadPool

_CHECK_INTERVAL_S = 0.2
_POOL_TRIES = 2
_FULL_TRACEBACKS = 3
_MAX_SHORT_CHARACTERS = 300


class ParslCompute:
    """Provider of the Compute action (v3), and the workers behind it; use it as a context, or `close` it.

    One worker is a thread of this process; more are processes of a Parsl `HighThroughputExecutor` on the loopback
    address, which start with the first action and serve all later ones. They end with this process, however it ends.
    A task whose worker is lost (killed, out of memory) is tried once more; so are all where the workers as a whole are.

    Parameters
    ----------
    workers : int
        How many tasks run at once.
    run_directory : Path
        Folder for Parsl's logs; made where missing.
    functions : mapping of str to callable
        Registered functions by id. Each is sent as source text, so it must stand alone: imports inside.
    threads_per_worker : int, optional
        Threads that NumPy, Numba and OpenMP use in each worker process; by default the cores shared evenly. A single
        worker, being a thread, uses what this process is set to.

    Raises
    ------
    ParameterError
        If `workers` or `threads_per_worker` is not positive.
    InputError
        If a function does not stand alone.
    """

    def __init__(
        self,
        workers: int,
        run_directory: Path,
        functions: Mapping[str, Callable[..., Any]],
        threads_per_worker: int | None = None,
    ) -> None:
        if workers < 1 or (threads_per_worker is not None and threads_per_worker < 1):
            raise ParameterError(f"workers: at least 1 worker of 1 thread is needed, found {workers}")
        self._workers = workers
        self._run_directory = Path(run_directory)
        self._codes = {name: function_code(function) for name, function in functions.items()}
        self._threads = threads_per_worker or max(1, len(os.sched_getaffinity(0)) // workers)
        self._pool: Pool | None = None

    def __enter__(self) -> ParslCompute:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the workers and what they do."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.stop()

    def run(self, body: JsonObject, context: ActionContext) -> ActionResult:
        """Run the tasks of an action; FAILED if any raises, with the outputs of the others kept.

        Where the run is cancelled or its time is over, the workers are stopped.
        """
        tasks = [self._task(task, f"tasks[{number}]") for number, task in enumerate(_tasks(body))]
        context.report(Progress(0, len(tasks), "task"))
        try:
            outcomes = self._outcomes(tasks, context)
        except BaseException:
            self.close()
            raise
        results = [{"task_id": str(uuid.uuid4()), **outcome} for outcome in outcomes]
        failed = _log_and_shorten(results, context)
        details = {"task_group_id": body.get("task_group_id") or str(uuid.uuid4()), "results": results}
        return ActionResult("FAILED" if failed else "SUCCEEDED", details)

    def _task(self, task: Any, place: str) -> JsonObject | str:
        """A task packed, or the outcome of one that cannot be."""
        if not isinstance(task, dict):
            raise ActionUnableToRun(f"{place}: an object is needed, found {type(task).__name__}")
        code = self._codes.get(task.get("function_id", ""))
        if code is None:
            known = ", ".join(sorted(self._codes))
            raise ActionUnableToRun(
                f"{place}.function_id: {task.get('function_id')!r} is not registered; known: {known}"
            )
        args, kwargs = task.get("args") or [], task.get("kwargs") or {}
        if not isinstance(kwargs, dict):
            raise ActionUnableToRun(f"{place}.kwargs: an object is needed, found {type(kwargs).__name__}")
        try:
            return pack(code, args if isinstance(args, list) else [args], kwargs)
        except InputError as error:
            return {"exception": f"{place}: {error}"}

    def _outcomes(self, tasks: list[JsonObject | str], context: ActionContext) -> list[JsonObject]:
        outcomes: dict[int, JsonObject] = {number: task for number, task in enumerate(tasks) if isinstance(task, dict)}
        for _ in range(_POOL_TRIES):
            self._try(tasks, outcomes, context)
            if len(outcomes) == len(tasks):
                break
            self.close()
        return [outcomes.get(number) or _lost("all workers were") for number in range(len(tasks))]

    def _try(self, tasks: list[JsonObject | str], outcomes: dict[int, JsonObject], context: ActionContext) -> None:
        """Run the tasks that have no outcome yet, as far as the workers live."""
        pool = self._pool = self._pool or self._start()
        waiting = [(number, task) for number, task in enumerate(tasks) if number not in outcomes]
        futures = {pool.submit(task): number for number, task in waiting if isinstance(task, str)}
        pending = set(futures)
        while pending and pool.alive():
            context.check()
            done, pending = wait(pending, timeout=_CHECK_INTERVAL_S, return_when=FIRST_COMPLETED)
            ended = (future for future in done if future.exception() is None or pool.alive())
            outcomes.update({futures[future]: _outcome(future) for future in ended})
            if done:
                context.report(Progress(len(outcomes), len(tasks), "task"))

    def _start(self) -> Pool:
        try:
            self._run_directory.mkdir(parents=True, exist_ok=True)
            if self._workers == 1:
                return ThreadPool(self._run_directory)
            return ProcessPool(self._run_directory, self._workers, self._threads)
        except OSError as error:
            raise ActionUnableToRun(f"the workers cannot be started: {error}") from error


def _tasks(body: JsonObject) -> list[Any]:
    tasks = body.get("tasks")
    if not isinstance(body.get("endpoint_id"), str):
        raise ActionUnableToRun("endpoint_id: the id of an endpoint is needed")
    if not isinstance(tasks, list) or not tasks:
        raise ActionUnableToRun("tasks: a list of at least one task is needed")
    return tasks


def _outcome(future: Future[str]) -> JsonObject:
    error = future.exception()
    return unpack_result(future.result()) if error is None else _lost(str(error))


def _lost(reason: str) -> JsonObject:
    return {
        "exception": f"WorkerLost: the worker of this task was lost, also at the second try ({reason}): killed, or out"
        " of memory? Fewer workers or smaller slabs need less."
    }


def _log_and_shorten(results: list[JsonObject], context: ActionContext) -> bool:
    """Write every exception into the run's log, and keep few in full: the run's data is small. Whether any failed."""
    failed = [result for result in results if "exception" in result]
    for number, result in enumerate(failed):
        text = result["exception"]
        context.log("TaskFailed", text.strip().splitlines()[-1], {"task_id": result["task_id"], "exception": text})
        if number >= _FULL_TRACEBACKS:
            # All together stay below what a text field of the search index takes.
            result["exception"] = text.strip().splitlines()[-1][: min(_MAX_SHORT_CHARACTERS, 8000 // len(failed))]
    return bool(failed)
