"""What `Inspect` decides about memory before anything starts, and which blocks a resumed run keeps."""

from __future__ import annotations

from pathlib import Path

import pytest

from tomopipe.functions import inspection
from tomopipe.functions.errors import ParameterError
from tomopipe.functions.inspection import Request
from tomopipe.functions.parameters import Execution, Parameters
from tomopipe.functions.rundir import RUN_FORMAT, RunDirectory, write_json

LARGE = (16, 1024, 2048)


@pytest.mark.parametrize("workers", [1, 3])
def test_memory_that_does_not_hold_a_slice_of_objects_is_refused_with_what_does(workers: int) -> None:
    request = Request(Parameters(), execution=Execution(workers=workers))
    with pytest.raises(ParameterError, match=r"2048 x 2048.*a worker.*--workers.*--skip separate_objects"):
        inspection._object_blocks(LARGE, request, 2**30)
    assert inspection._object_blocks(LARGE, request, 2**33)[-1][1] == 1024
    left_out = Request(Parameters(), skip=("separate_objects",))
    assert inspection._object_blocks(LARGE, left_out, 2**30) == []


def test_memory_that_does_not_hold_what_is_binned_is_refused_with_what_does() -> None:
    request = Request(Parameters(), execution=Execution(workers=2))
    with pytest.raises(ParameterError, match=r"give at least (\d+) MiB.*thickness_maximum_voxels") as caught:
        inspection._check_quantification(LARGE, request, 2**30)
    total_mib = int(str(caught.value).split("at least ")[1].split()[0])
    inspection._check_quantification(LARGE, request, total_mib * 2**20 // 2)
    with pytest.raises(ParameterError):
        inspection._check_quantification(LARGE, request, (total_mib - 2) * 2**20 // 2)


def test_blocks_of_an_earlier_start_are_kept_where_they_fit(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert inspection._kept_blocks(run, [(0, 32), (32, 40)]) == [[0, 32], [32, 40]]
    write_json(run.run_json, {"format": RUN_FORMAT, "plan": {"object_blocks": [[0, 16], [16, 32], [32, 40]]}})
    assert inspection._kept_blocks(run, [(0, 32), (32, 40)]) == [[0, 16], [16, 32], [32, 40]]
    assert inspection._kept_blocks(run, [(0, 8), (8, 16)]) == [[0, 8], [8, 16]]
    assert inspection._kept_blocks(run, []) == []
