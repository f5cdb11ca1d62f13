"""Finds what is new or changed in folders by listing them, within bounded memory however many files there are.

When to list, and what to do with what was found, is up to the caller.
"""

from __future__ import annotations

import fnmatch
import os
import stat
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .finished import is_temporary_name

_MAX_DEPTH = 64
# A folder that changed so short a time before it was listed may change again within its clock's tick.
_RACY_NS = 3_000_000_000
_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class FileFound:
    """A file as a listing had it."""

    path: Path
    size: int
    mtime_ns: int


@dataclass
class _Folder:
    """What is known of one folder: when it changed, prints of its files (sorted), and which may still change."""

    mtime_ns: int = -1
    is_racy: bool = True
    prints: array[int] = field(default_factory=lambda: array("Q"))
    young: dict[str, int] = field(default_factory=dict)
    children: list[str] = field(default_factory=list)


class FolderScan:
    """Lists a folder and those below it again and again, and tells what is new or changed since the last time.

    A folder is listed where its modification time changed, else only its young files are looked at; `everything` lists
    all. Eight bytes are kept for each file, and the names of young files only. Symbolic links are not followed, hidden and
    temporary names are passed over.

    Parameters
    ----------
    root : Path
        The folder; it may be missing at times.
    patterns, ignore : sequence of str
        Shell patterns of the names that are wanted, and of names, or paths below `root`, that are not.
    recursive : bool
        Whether folders below are listed too.
    young_s : float
        How long a file that changed is looked at in every round, seconds.
    """

    def __init__(
        self,
        root: Path,
        patterns: Sequence[str],
        ignore: Sequence[str] = (),
        *,
        recursive: bool = True,
        young_s: float = 3600.0,
    ) -> None:
        self.root = root
        self._patterns = tuple(patterns)
        self._ignore = tuple(ignore)
        self._recursive = recursive
        self._young_ns = int(young_s * 1e9)
        self._folders: dict[str, _Folder] = {}

    def wants(self, path: Path) -> bool:
        """Whether a file below the root has a wanted name and lies where files are looked for."""
        try:
            parts = path.relative_to(self.root).parts
        except ValueError:
            return False
        if not parts or (len(parts) > 1 and not self._recursive):
            return False
        if any(self._passes_over("/".join(parts[: depth + 1])) for depth in range(len(parts))):
            return False
        return any(fnmatch.fnmatch(parts[-1], pattern) for pattern in self._patterns)

    def changes(self, now_ns: int, *, everything: bool = False) -> Iterator[FileFound]:
        """Files that are new or have another size or time than before.

        Parameters
        ----------
        now_ns : int
            Now, nanoseconds of the epoch.
        everything : bool
            Whether to look at every file, not at those of changed folders and young ones only.

        Yields
        ------
        FileFound
            In the order of the listing. What is not consumed is not remembered: it comes again.

        Raises
        ------
        OSError
            The root cannot be listed: it is missing, or its file system does not answer.
        """
        seen: set[str] = set()
        todo = [""]
        while todo:
            below = todo.pop()
            seen.add(below)
            yield from self._changes_in(below, now_ns, everything)
            if self._recursive and below.count("/") < _MAX_DEPTH:
                todo.extend(f"{below}/{name}".lstrip("/") for name in reversed(self._folders[below].children))
        for gone in self._folders.keys() - seen:
            del self._folders[gone]

    def forget(self) -> None:
        """Forget everything: the root is another one than before."""
        self._folders.clear()

    def _passes_over(self, below: str) -> bool:
        name = below.rpartition("/")[2]
        return is_temporary_name(name) or any(
            fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(below, pattern) for pattern in self._ignore
        )

    def _changes_in(self, below: str, now_ns: int, everything: bool) -> Iterator[FileFound]:
        known = self._folders.setdefault(below, _Folder())
        place = self.root / below
        try:
            mtime_ns = place.stat().st_mtime_ns
            if everything or known.is_racy or mtime_ns != known.mtime_ns:
                yield from self._listed(place, below, known, mtime_ns, now_ns)
            else:
                yield from self._young(place, known, now_ns)
        except OSError:
            known.is_racy = True
            known.children = []
            if not below:
                raise

    def _listed(self, place: Path, below: str, known: _Folder, mtime_ns: int, now_ns: int) -> Iterator[FileFound]:
        prints, young, children = array("Q"), dict[str, int](), list[str]()
        with os.scandir(place) as entries:
            for entry in entries:
                path_below = f"{below}/{entry.name}".lstrip("/")
                if self._passes_over(path_below):
                    continue
                try:
                    if entry.is_dir(follow_symlinks=False):
                        children.append(entry.name)
                        continue
                    if not entry.is_file(follow_symlinks=False) or not self._has_wanted_name(entry.name):
                        continue
                    found = entry.stat(follow_symlinks=False)
                except OSError:
                    continue  # gone since, or its server does not answer; the folder's time changes with it
                mark = _print(entry.name, found)
                if not _holds(known.prints, mark) and known.young.get(entry.name) != mark:
                    yield FileFound(place / entry.name, found.st_size, found.st_mtime_ns)
                prints.append(mark)
                if now_ns - found.st_mtime_ns < self._young_ns:
                    young[entry.name] = mark
        known.prints = array("Q", sorted(prints))
        known.young, known.children = young, sorted(children)
        known.mtime_ns, known.is_racy = mtime_ns, now_ns - mtime_ns < _RACY_NS

    def _young(self, place: Path, known: _Folder, now_ns: int) -> Iterator[FileFound]:
        for name, mark in list(known.young.items()):
            try:
                found = os.lstat(place / name)
            except OSError:
                del known.young[name]
                continue
            if not stat.S_ISREG(found.st_mode):
                del known.young[name]
                continue
            if _print(name, found) != mark:
                yield FileFound(place / name, found.st_size, found.st_mtime_ns)
                known.young[name] = _print(name, found)
            elif now_ns - found.st_mtime_ns >= self._young_ns:
                del known.young[name]

    def _has_wanted_name(self, name: str) -> bool:
        return any(fnmatch.fnmatch(name, pattern) for pattern in self._patterns)


def _print(name: str, found: os.stat_result) -> int:
    return hash((name, found.st_size, found.st_mtime_ns, found.st_ino)) & _MASK


def _holds(prints: array[int], mark: int) -> bool:
    place = bisect_left(prints, mark)
    return place < len(prints) and prints[place] == mark
