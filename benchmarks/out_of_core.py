"""Separates the objects of a large volume and measures everything, within a memory budget; records times and peak memory.

    python benchmarks/out_of_core.py --edge 2048 --memory-gib 8 --folder /scratch

The volume is a periodic random medium (gaussian blobs, 35 % pores, mean chord about 10 voxels) in a cylinder, written to
slab files as `Segment` writes them; the grey values are made as they are read. Each step runs in a process of its own, so
that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray
from scipy import ndimage

from tomopipe.functions import objects
from tomopipe.functions.objects import Contacts, ObjectSettings, ObjectTable
from tomopipe.functions.plan import cut_rows
from tomopipe.functions.quantification.metrics import GreyVolume, QuantificationSettings, measure
from tomopipe.functions.volume import SlabVolume, write_objects, write_phases

RESULTS = Path(__file__).parent / "results" / "out_of_core.json"
PERIOD = 256
SLAB = 64
POROSITY = 0.35
VOXEL_UM = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Blobs:
    """Grey values of the medium, made slice by slice; the threshold is 0."""

    period: NDArray[np.float32]
    edge: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(z, y, x)."""
        return self.edge, self.edge, self.edge

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a voxel."""
        return np.dtype("f4")

    def __getitem__(self, rows: slice, /) -> NDArray[np.float32]:
        """Slices [start, stop)."""
        start, stop, _ = rows.indices(self.edge)
        slices = np.empty((stop - start, self.edge, self.edge), np.float32)
        for z in range(start, stop):
            for y in range(0, self.edge, PERIOD):
                for x in range(0, self.edge, PERIOD):
                    part = slices[z - start, y : y + PERIOD, x : x + PERIOD]
                    part[...] = self.period[z % PERIOD, : part.shape[0], : part.shape[1]]
        return slices


def blobs(edge: int) -> Blobs:
    """The medium; the same every time."""
    noise = np.random.default_rng(7).standard_normal((PERIOD, PERIOD, PERIOD)).astype(np.float32)
    smooth = ndimage.gaussian_filter(noise, 4, mode="wrap")
    smooth -= np.quantile(smooth, POROSITY)
    return Blobs(np.asarray(smooth / smooth.std(), np.float32), edge)


def write_volume(folder: Path, edge: int) -> None:
    """Phases in slab files: 1 pores, 2 solid, 0 outside the cylinder."""
    medium = blobs(edge)
    axis = np.arange(edge) - (edge - 1) / 2
    outside = axis[:, None] ** 2 + axis**2 > (0.48 * edge) ** 2
    for start, stop in cut_rows(edge, SLAB):
        phases = np.where(medium[start:stop] < 0, np.uint8(1), np.uint8(2))
        phases[:, outside] = 0
        write_phases(folder / "phases", start, phases)


def phases_of(folder: Path, edge: int) -> SlabVolume:
    """The phases that `write_volume` has written."""
    return SlabVolume(folder / "phases", "phases", cut_rows(edge, SLAB), (edge, edge, edge), np.dtype("u1"))


def separate(step: str, folder: Path, edge: int, memory: int) -> dict[str, Any]:
    """One step of the separation of objects, as the tasks of a run do it."""
    settings = ObjectSettings(min_voxels=8)
    phases, work = phases_of(folder, edge), folder / "objects"
    blocks = objects.object_blocks(phases.shape, settings, memory)
    if step == "prepare":
        work.mkdir(exist_ok=True)
        objects.prepare_objects(phases, 1, settings, blocks, work, VOXEL_UM, lambda slices: None)
    elif step == "find":
        for index in range(len(blocks)):
            objects.find_objects(phases, 1, settings, blocks, index, work, VOXEL_UM)
    elif step == "join":
        return {"objects": objects.join_objects(settings, blocks, work, VOXEL_UM), "blocks": len(blocks)}
    elif step == "label":
        for index, (start, _) in enumerate(blocks):
            write_objects(work / "labels", start, objects.label_objects(phases, blocks, index, work, VOXEL_UM))
    else:
        table, contacts = objects.gather_objects(blocks, work, VOXEL_UM)
        table.to_csv(folder / "objects.csv", VOXEL_UM, "um")
        contacts.to_csv(folder / "contacts.csv", "um")
    return {}


def quantify(folder: Path, edge: int, memory: int) -> dict[str, Any]:
    """All metrics."""
    result = measure(
        phases_of(folder, edge),
        ObjectTable.read_csv(folder / "objects.csv", VOXEL_UM),
        Contacts.read_csv(folder / "contacts.csv"),
        GreyVolume(blobs(edge), (0.0,)),
        VOXEL_UM,
        "um",
        QuantificationSettings(),
        memory,
    )
    return {"metrics": result.metrics, "intervals": result.intervals}


def run_alone(name: str, work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Run a step in a process of its own; its seconds, CPU seconds and peak memory, and what it returns."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_measured, args=(queue, work, arguments))
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(f"{name} ended with exit code {process.exitcode}")
    found: dict[str, Any] = queue.get()
    print(
        f"{name:10} {found['seconds']:8.1f} s  {found['cpu_seconds']:8.1f} CPU-s  {found['peak_mib']:8.0f} MiB",
        flush=True,
    )
    return found


def _measured(queue: Any, work: Callable[..., dict[str, Any]], arguments: tuple[Any, ...]) -> None:
    clock, cpu = time.perf_counter(), time.process_time()
    returned = work(*arguments)
    queue.put(
        {
            "seconds": round(time.perf_counter() - clock, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1),
            "peak_mib": _peak_mib(),
            **returned,
        }
    )


def _peak_mib() -> int:
    # The kernel's `ru_maxrss` would be that of the process which started this one, where that was larger.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return round(int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024)  # type: ignore[index]


def main() -> None:
    """Run and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edge", type=int, default=512)
    parser.add_argument("--memory-gib", type=float, default=4.0)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    memory = int(options.memory_gib * 2**30)
    folder = Path(tempfile.mkdtemp(prefix="out-of-core-", dir=options.folder))
    try:
        clock = time.perf_counter()
        write_volume(folder, options.edge)
        print(f"volume written in {time.perf_counter() - clock:.0f} s", flush=True)
        steps: dict[str, dict[str, Any]] = {}
        for step in ("prepare", "find", "join", "label", "gather"):
            steps[step] = run_alone(step, separate, step, folder, options.edge, memory)
        steps["quantify"] = run_alone("quantify", quantify, folder, options.edge, memory)
        files = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    finally:
        shutil.rmtree(folder)
    record = {
        "machine": {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
            "date": datetime.date.today().isoformat(),
        },
        "edge": options.edge,
        "memory_gib": options.memory_gib,
        "seconds": round(sum(step["seconds"] for step in steps.values()), 1),
        "peak_mib": max(step["peak_mib"] for step in steps.values()),
        "disk_mib": round(sum(files) / 2**20),
        "steps": steps,
    }
    earlier = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    RESULTS.write_text(json.dumps({**earlier, str(options.edge): record}, indent=1) + "\n")
    print(f"{record['seconds']} s, peak {record['peak_mib']} MiB, {record['disk_mib']} MiB of files at the end")


if __name__ == "__main__":
    main()
