"""Which dumps a batch is to read: files, folders, patterns and URLs become a list of files."""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

from pykdext.errors import PykdextError
from pykdext.printable import hide_secrets
from pykdext.records.snapshotfile import is_snapshot_head
from pykdext.targets.dump.compressed import is_packed_head
from pykdext.targets.dump.header import DUMP_SIGNATURES
from pykdext.targets.dump.remote import find_remote_files, is_remote

_DUMP_SUFFIXES = (".dmp", ".mdmp", ".hdmp")
_REMOTE_SUFFIXES = (*_DUMP_SUFFIXES, ".dmp.gz", ".dmp.xz", ".zip")
"""Remote files are not looked into before they are read."""

_HEAD_BYTES = 4096


@dataclass(frozen=True)
class DumpInput:
    """A file to read.

    Attributes:
        path: as the user gave it, without secrets. key: a text that names the file wherever the tool was started.
        identity: changes with the content; None if nothing tells.
        url: what opens a remote file; None for a local one.
    """

    path: str
    key: str
    identity: Optional[str]
    url: Optional[str] = None

    @property
    def location(self) -> str:
        """What opens the file from any folder."""
        return self.url or os.path.abspath(self.path)


@dataclass(frozen=True)
class FoundInputs:
    """The files of a batch, each once; what could not be listed, one line each; files passed over in folders."""

    dumps: Tuple[DumpInput, ...]
    warnings: Tuple[str, ...]
    passed_over: int


def find_inputs(paths: Sequence[str]) -> FoundInputs:
    """The dumps that ``paths`` mean: of a folder all below it that are dumps or snapshots.

    Those of a local folder are told by their content or name, of a remote one by their name. What is named itself, by
    a path or a pattern, is always taken. A folder that cannot be listed is told in the warnings.
    """
    search = _Search()
    for path in paths:
        search.add(path)
    return FoundInputs(tuple(search.found.values()), tuple(search.warnings), search.passed_over)


class _Search:
    """Collects the inputs of one batch, in the order of the paths."""

    def __init__(self) -> None:
        self.found: Dict[str, DumpInput] = {}
        self.warnings: List[str] = []
        self.passed_over = 0

    def add(self, path: str) -> None:
        """Take what one word of the command line means."""
        if is_remote(path):
            self._add_remote(path)
        elif os.path.isdir(path):
            self._add_folder(path)
        elif not os.path.exists(path) and glob.has_magic(path):
            matches = sorted(glob.glob(path, recursive=True))
            if not matches:
                self.warnings.append(f"{path}: no file matches")
            for match in matches:
                self.add(match)
        else:
            self._take(path)

    def _add_remote(self, url: str) -> None:
        try:
            listing = find_remote_files(url)
        except PykdextError as error:
            self.warnings.append(str(error))
            return
        if not listing.entries:
            self.warnings.append(f"{hide_secrets(url)}: no file matches")
        for entry in listing.entries:
            if listing.is_folder and not entry.url.lower().endswith(_REMOTE_SUFFIXES):
                self.passed_over += 1
            else:
                shown = hide_secrets(entry.url)
                self.found.setdefault(entry.url, DumpInput(shown, shown, entry.identity, entry.url))

    def _add_folder(self, folder: str) -> None:
        for path in self._walk(folder):
            if path.lower().endswith(_DUMP_SUFFIXES) or _looks_like_input(path):
                self._take(path)
            else:
                self.passed_over += 1

    def _walk(self, folder: str) -> Iterator[str]:
        """All files below a folder, by name."""

        def note(error: OSError) -> None:
            self.warnings.append(f"{error.filename}: cannot be listed: {error.strerror}")

        for parent, folders, names in os.walk(folder, onerror=note):
            folders.sort()
            yield from (path for name in sorted(names) if os.path.isfile(path := os.path.join(parent, name)))

    def _take(self, path: str) -> None:
        key = make_text(os.path.abspath(path))
        self.found.setdefault(key, DumpInput(path, key, _identify(path)))


def make_text(name: str) -> str:
    """A name as text that any file can hold: bytes of it that are no characters become escape sequences."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _identify(path: str) -> Optional[str]:
    """Size and time of the last change; None for what cannot be looked at, which its reader will tell better."""
    try:
        facts = os.stat(path)
    except OSError:
        return None
    return f"{facts.st_size} {facts.st_mtime_ns}"


def _looks_like_input(path: str) -> bool:
    """Whether a file begins like a dump, plain or compressed, or like a snapshot; what cannot be read may be one."""
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return True
    return head.startswith(DUMP_SIGNATURES) or is_packed_head(head) or is_snapshot_head(head)
