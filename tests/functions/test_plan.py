"""Plans: slabs and tasks cover the rows once, fit the budget, and a budget too small is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tomopipe.functions.errors import ParameterError
from tomopipe.functions.objects import ObjectSettings
from tomopipe.functions.parameters import STAGES, Execution
from tomopipe.functions.plan import Plan, RowBytes, check_disk, disk_needed, make_plan, worker_memory
from tomopipe.functions.volume import SLAB_MULTIPLE

GIB = 2**30


def plan_of(
    shape: tuple[int, int, int], execution: Execution, slab_rows: int | None = None, halo_rows: int = 0, **options: int
) -> Plan:
    """Plan of a scan of 16-bit counts."""
    raw = 2 * shape[0] * shape[2]
    return make_plan(shape, RowBytes(raw, 7 * raw, halo_rows), 0, execution, slab_rows, **options)  # type: ignore[arg-type]


@given(st.integers(1, 5000), st.one_of(st.none(), st.integers(1, 300)), st.integers(1, 3))
def test_slabs_and_tasks_cover_every_row_once(rows: int, slab: int | None, workers: int) -> None:
    execution = Execution(slab=slab, memory_bytes=GIB, workers=workers)
    plan = plan_of((180, rows, 256), execution)
    assert [row for start, stop in plan.slabs for row in range(start, stop)] == list(range(rows))
    assert [row for start, stop in plan.tasks for row in range(start, stop)] == list(range(rows))
    assert {start for start, _ in plan.tasks} <= {start for start, _ in plan.slabs}
    assert plan.slab_rows % SLAB_MULTIPLE == 0
    assert plan.slab_rows <= 64 or plan.slab_rows % 64 == 0
    assert len(plan.tasks) <= 64


def test_slab_shrinks_with_the_budget() -> None:
    shape = (1500, 2048, 2048)
    large = plan_of(shape, Execution(memory_bytes=64 * GIB))
    small = plan_of(shape, Execution(memory_bytes=2 * GIB))
    shared = plan_of(shape, Execution(memory_bytes=64 * GIB, workers=32))
    assert large.slab_rows == 64
    assert small.slab_rows == shared.slab_rows < 64
    assert small.slab_rows * 12 * 2048**2 < 2 * GIB


def test_what_is_done_at_once_needs_memory() -> None:
    shape = (1500, 2048, 2048)
    large = plan_of(shape, Execution(memory_bytes=64 * GIB))
    least = next(gib for gib in range(1, 65) if plan_of(shape, Execution(memory_bytes=gib * GIB)).slab_rows == 64)
    tight = plan_of(shape, Execution(memory_bytes=least * GIB))
    assert large.overlap
    assert not tight.overlap
    half = next(gib for gib in range(1, 65) if plan_of(shape, Execution(memory_bytes=gib * GIB)).overlap)
    assert not plan_of(shape, Execution(memory_bytes=half * GIB), devices=4).overlap
    assert tight.slab_rows == large.slab_rows, "slabs must not shrink for it"


def test_rows_beside_a_slab_and_projections_that_are_not_kept_count() -> None:
    shape, execution = (1500, 2048, 2048), Execution(memory_bytes=5 * GIB)
    plain = plan_of(shape, execution).slab_rows
    assert plan_of(shape, execution, halo_rows=40).slab_rows < plain
    assert plan_of(shape, execution, on_the_fly=True).slab_rows < plain


def test_slabs_of_an_earlier_start_are_kept() -> None:
    plan = plan_of((180, 100, 256), Execution(slab=64, memory_bytes=4 * GIB), 24)
    assert plan.slab_rows == 24


def test_budget_that_holds_no_slab_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"--memory") as caught:
        plan_of((1500, 2048, 2048), Execution(memory_bytes=100 * 2**20))
    needed = int(str(caught.value).split("at least ")[1].split()[0]) + 1
    plan_of((1500, 2048, 2048), Execution(memory_bytes=needed * 2**20))


def test_workers_share_the_budget() -> None:
    assert worker_memory(Execution(memory_bytes=8 * GIB, workers=4)) == 2 * GIB
    assert 0 < worker_memory(Execution(workers=2)) <= worker_memory(Execution(workers=1))


def test_disk_estimate_counts_what_is_made(tmp_path: Path) -> None:
    shape = (100, 50, 200)
    volume, projections = 4 * 50 * 200 * 200, 4 * 100 * 50 * 200
    assert disk_needed(shape, [], ObjectSettings()) == 0
    assert disk_needed(shape, ["preprocess"], ObjectSettings()) == projections
    assert disk_needed(shape, ["reconstruct", "denoise"], ObjectSettings()) >= 2 * volume
    check_disk(tmp_path / "new" / "folder", disk_needed(shape, STAGES, ObjectSettings()))
    with pytest.raises(ParameterError, match="are free"):
        check_disk(tmp_path / "new", 10**18)


def test_memory_that_does_not_hold_the_slabs_that_are_there_is_refused() -> None:
    with pytest.raises(ParameterError, match="slab of 64 rows"):
        plan_of((1500, 2048, 2048), Execution(memory_bytes=2 * GIB), 64)
