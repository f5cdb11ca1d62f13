"""Basins of a height map, their joining and their contacts, voxel by voxel: slow, and from the definitions alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Voxel = tuple[int, int, int]
_REACH = {6: 1, 18: 2, 26: 3}


@cache
def _path_in_box(shape: Voxel, inside: tuple[bool, ...], start: Voxel, end: Voxel, connectivity: int) -> bool:
    """Whether steps of the connectivity lead from one voxel of a small box to another through those that are inside."""
    is_inside = np.array(inside).reshape(shape)
    seen, ahead = {start}, [start]
    while ahead:
        at = ahead.pop()
        for to in itertools.product(*(range(n) for n in shape)):
            moved = [abs(a - b) for a, b in zip(at, to, strict=True)]
            if to not in seen and is_inside[to] and max(moved) <= 1 and sum(moved) <= _REACH[connectivity]:
                seen.add(to)
                ahead.append(to)
    return end in seen


def neighbors(heights: NDArray[np.int32], voxel: Voxel, connectivity: int) -> Iterator[Voxel]:
    """The voxels that a voxel touches; itself too."""
    for other in itertools.product(
        *(range(max(0, v - 1), min(n, v + 2)) for v, n in zip(voxel, heights.shape, strict=True))
    ):
        low = tuple(map(min, voxel, other))
        box = heights[tuple(slice(a, max(v, o) + 1) for a, v, o in zip(low, voxel, other, strict=True))] > 0
        start, end = (tuple(a - b for a, b in zip(at, low, strict=True)) for at in (voxel, other))
        if heights[other] > 0 and _path_in_box(box.shape, tuple(box.reshape(-1).tolist()), start, end, connectivity):  # type: ignore[arg-type]
            yield other  # type: ignore[misc]


@dataclass
class Basins:
    """Basins of a height map, named by their maxima."""

    heights: NDArray[np.int32]
    connectivity: int

    def __post_init__(self) -> None:
        voxels: list[Voxel] = [tuple(voxel) for voxel in np.argwhere(self.heights > 0).tolist()]
        self.around = {voxel: list(neighbors(self.heights, voxel, self.connectivity)) for voxel in voxels}

        def rank(voxel: Voxel) -> tuple[int, int]:
            return int(self.heights[voxel]), -int(np.ravel_multi_index(voxel, self.heights.shape))

        self.step = {voxel: max(self.around[voxel], key=rank) for voxel in voxels}
        self.top: dict[Voxel, Voxel] = {}
        for voxel in voxels:
            end = voxel
            while self.step[end] != end:
                end = self.step[end]
            self.top[voxel] = end
        self.peaks = sorted(set(self.top.values()))

    def meetings(self, names: dict[Voxel, int]) -> dict[tuple[int, int], tuple[int, list[int]]]:
        """Highest saddle and faces across z, y, x of each pair of names (of voxels) that touch."""
        found: dict[tuple[int, int], tuple[int, list[int]]] = {}
        for voxel, touched in self.around.items():
            for other in touched:
                if voxel in names and other in names and names[voxel] < names[other]:
                    saddle, faces = found.setdefault((names[voxel], names[other]), (0, [0, 0, 0]))
                    moved = [abs(a - b) for a, b in zip(voxel, other, strict=True)]
                    if sum(moved) == 1:
                        faces[moved.index(1)] += 1
                    lower = int(min(self.heights[voxel], self.heights[other]))
                    found[names[voxel], names[other]] = (max(saddle, lower), faces)
        return found

    def objects(self, prominence: float | None, marker_radius: int = 0) -> dict[Voxel, int]:
        """The object of each voxel, from 1 in the order of their first maxima; by markers in cubes if no prominence."""
        highest = ndimage.maximum_filter(self.heights, 2 * marker_radius + 1, mode="constant")
        number = {peak: i for i, peak in enumerate(self.peaks)}
        group = {i: {i} for i in number.values()}
        height = [int(self.heights[peak]) for peak in self.peaks]
        marked = [height[i] == highest[peak] for i, peak in enumerate(self.peaks)]
        saddles = self.meetings({voxel: number[top] for voxel, top in self.top.items()})
        for (one, other), (saddle, _) in sorted(saddles.items(), key=lambda entry: (-entry[1][0], entry[0])):
            if group[one] is group[other]:
                continue
            if prominence is not None:
                lower = min(max(height[i] for i in group[end]) for end in (one, other))
                joins = lower == saddle or np.sqrt(lower) - np.sqrt(saddle) < prominence
            else:
                # A marker at the height of the saddle is no maximum: the plateau goes on to the other side.
                joins = any(all(not marked[i] or height[i] <= saddle for i in group[end]) for end in (one, other))
            if joins:
                merged = group[one] | group[other]
                for i in merged:
                    group[i] = merged
        keys = {first: key for key, first in enumerate(sorted({min(members) for members in group.values()}), start=1)}
        return {voxel: keys[min(group[number[top]])] for voxel, top in self.top.items()}

    def painted(self, names: dict[Voxel, int]) -> NDArray[np.int64]:
        """An array of names, 0 outside the phase."""
        labels = np.zeros(self.heights.shape, np.int64)
        for voxel, name in names.items():
            labels[voxel] = name
        return labels
