"""Files, folders and patterns become a list of files: one rule for logs, dumps, driver files and whatever follows.

A file stands for itself. A folder stands for all files below it that are of the wanted kind. A pattern (``*``, ``?``,
``[...]`` within a name, ``**`` for any number of folders) stands for the files and folders that match it.
"""

from __future__ import annotations

import glob
import os
import re
from dataclasses import dataclass
from fnmatch import translate
from typing import Callable, Dict, Iterator, List, Optional, Sequence, Set, Tuple, Union

MAX_FILES = 1_000_000
"""Files looked at for one command: far more than any set of dumps, logs or drivers."""

HEAD_BYTES = 4096
"""What ``read_head`` reads: enough to tell what a file is."""

IsWanted = Callable[[str], bool]
"""Whether a file that lies in a folder is of the wanted kind. It is asked of regular files only."""


@dataclass(frozen=True)
class FoundFiles:
    """The files that paths stand for, each once, in the order of the paths and within them by name.

    Attributes:
        warnings: what could not be listed, matched nothing, or was cut off by the limit: one line each.
        passed_over: files and pipes in folders that are of another kind.
    """

    files: Tuple[str, ...]
    warnings: Tuple[str, ...]
    passed_over: int


def find_files(paths: Sequence[str], is_wanted: IsWanted) -> FoundFiles:
    """The files that ``paths`` stand for.

    What a path or a pattern names itself is taken whatever it is, even if it does not exist: its reader says best what
    is wrong with it. Links to folders are not followed on the way down, so that every walk ends.
    """
    search = _Search(is_wanted)
    for path in paths:
        search.add(path)
    return FoundFiles(tuple(search.found.values()), tuple(search.warnings), search.passed_over)


def natural_order(path: str) -> Tuple[Tuple[Union[int, str], ...], str]:
    """A sort key in which ``log-2`` stands before ``log-10``, whatever the case of the letters."""
    pieces = re.split(r"([0-9]+)", path)
    return tuple(int(piece) if number % 2 else piece.lower() for number, piece in enumerate(pieces)), path


def read_head(path: str) -> Optional[bytes]:
    """The first bytes of a file; None if it cannot be read, which its reader will say."""
    try:
        with open(path, "rb") as file:
            return file.read(HEAD_BYTES)
    except OSError:
        return None


class _Search:
    """Collects the files of one command."""

    def __init__(self, is_wanted: IsWanted) -> None:
        self.found: Dict[str, str] = {}
        """By the absolute path, as the user gave it: a file that is named twice is one file."""
        self.warnings: List[str] = []
        self.passed_over = 0
        self._is_wanted = is_wanted
        self._is_full = False

    def add(self, path: str) -> None:
        """Take what one word of the command line stands for."""
        if os.path.isdir(path):
            self._add_folder(path)
        elif not os.path.lexists(path) and glob.has_magic(path):
            self._add_matches(path)
        else:
            self._take(path)

    def _add_matches(self, pattern: str) -> None:
        matches = sorted(set(self._iter_matches(pattern)), key=natural_order)
        if not matches:
            self.warnings.append(f"{pattern}: no file matches")
        for match in matches:
            if os.path.isdir(match):
                self._add_folder(match)
            elif os.path.isfile(match):
                self._take(match)
            else:  # a pipe that a pattern happens to meet would make its reader wait
                self.passed_over += 1

    def _add_folder(self, folder: str) -> None:
        for parent, folders, names in os.walk(folder, onerror=self._note):
            folders.sort(key=natural_order)
            for name in sorted(names, key=natural_order):
                path = os.path.join(parent, name)
                if not os.path.isfile(path) or not self._is_wanted(path):
                    self.passed_over += 1
                elif not self._take(path):
                    return

    def _take(self, path: str) -> bool:
        """Add a file; False where no more is looked at."""
        if len(self.found) + self.passed_over < MAX_FILES:
            self.found.setdefault(os.path.abspath(path), path)
            return True
        if not self._is_full:
            self._is_full = True
            self.warnings.append(f"{path}: not read, nor what follows: {MAX_FILES:,} files were found before it")
        return False

    def _note(self, error: OSError) -> None:
        self.warnings.append(f"{error.filename}: cannot be listed: {error.strerror}")

    def _iter_matches(self, pattern: str) -> Iterator[str]:
        """What matches the pattern, in any order, some of it perhaps twice."""
        root, parts = _split(pattern)
        waiting: List[Tuple[str, int]] = [(root, 0)]
        seen: Set[Tuple[str, int]] = set()
        while waiting:
            place, index = waiting.pop()
            if (place, index) in seen:
                continue
            seen.add((place, index))
            if index == len(parts):
                yield place
                continue
            part = parts[index]
            if part == "**":
                waiting.append((place, index + 1))
                folders = (entry.name for entry in self._list(place) if entry.is_dir(follow_symlinks=False))
                waiting += ((os.path.join(place, name), index) for name in folders if not name.startswith("."))
            elif glob.has_magic(part):
                names = (entry.name for entry in self._list(place) if _matches(entry.name, part))
                waiting += ((os.path.join(place, name), index + 1) for name in names)
            elif os.path.lexists(path := os.path.join(place, part)):
                waiting.append((path, index + 1))

    def _list(self, folder: str) -> List[os.DirEntry[str]]:
        try:
            with os.scandir(folder or os.curdir) as entries:
                found = list(entries)
        except NotADirectoryError:
            return []
        except OSError as error:
            self._note(error)
            return []
        return found


def _split(pattern: str) -> Tuple[str, List[str]]:
    """The folder in which a pattern begins (empty: the current one), and its parts."""
    drive, rest = os.path.splitdrive(pattern)
    separators = re.escape(os.sep + (os.altsep or ""))
    root = re.match(f"[{separators}]*", rest)
    start = drive + (root.group() if root else "")
    return start, [part for part in re.split(f"[{separators}]+", rest) if part]


def _matches(name: str, pattern: str) -> bool:
    """As in a shell: names that begin with a dot match only patterns that do. The system decides on upper case."""
    if name.startswith(".") and not pattern.startswith("."):
        return False
    return re.match(translate(os.path.normcase(pattern)), os.path.normcase(name)) is not None
