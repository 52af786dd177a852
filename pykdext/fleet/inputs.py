"""Which dumps a batch is to read: files, folders, patterns and URLs become a list of files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Dict, List, Optional, Sequence, Tuple

from pykdext.errors import PykdextError
from pykdext.model.fleet import DumpInput
from pykdext.pipeline.paths import find_files, read_head
from pykdext.printable import hide_secrets, make_encodable
from pykdext.records.snapshotfile import is_snapshot_head
from pykdext.targets.dump.compressed import is_dump_head
from pykdext.targets.dump.header import DUMP_SUFFIXES
from pykdext.targets.dump.remote import find_remote_files, is_remote
from pykdext.targets.machine.signatures import RAW_SUFFIXES, VMWARE
from pykdext.targets.machine.vmware import holds_memory

_REMOTE_SUFFIXES = (*DUMP_SUFFIXES, *RAW_SUFFIXES, ".vmrs", ".dmp.gz", ".dmp.xz", ".zip")
"""Remote files are not looked into before they are read."""


@dataclass(frozen=True)
class FoundInputs:
    """The files of a batch, each once; what could not be listed, one line each; files passed over in folders."""

    dumps: Tuple[DumpInput, ...]
    warnings: Tuple[str, ...]
    passed_over: int


def find_inputs(paths: Sequence[str]) -> FoundInputs:
    """The dumps that ``paths`` stand for: of a folder all below it that are dumps or snapshots.

    Those of a local folder are told by their content or name, those of a remote one by their name. What a path or a
    pattern names itself is always taken. What cannot be listed stands in the warnings.
    """
    search = _Search()
    for path in paths:
        if is_remote(path):
            search.add_remote(path)
        else:
            search.add_local(path)
    return FoundInputs(tuple(search.found.values()), tuple(search.warnings), search.passed_over)


def find_dump_files(paths: Sequence[str]) -> Tuple[str, ...]:
    """The files of this machine among what ``paths`` stand for."""
    return find_files([path for path in paths if not is_remote(path)], _may_be_input).files


class _Search:
    """Collects the inputs of one batch, in the order of the paths."""

    def __init__(self) -> None:
        self.found: Dict[str, DumpInput] = {}
        self.warnings: List[str] = []
        self.passed_over = 0

    def add_local(self, path: str) -> None:
        """Take what one path or pattern of this machine stands for."""
        files = find_files([path], _may_be_input)
        self.warnings += files.warnings
        self.passed_over += files.passed_over
        for file in files.files:
            key = make_encodable(os.path.abspath(file))
            self.found.setdefault(key, DumpInput(file, key, _identify(file)))

    def add_remote(self, url: str) -> None:
        """Take what one URL stands for."""
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


def _identify(path: str) -> Optional[str]:
    """Size and time of the last change; None for what cannot be looked at, which its reader will tell better."""
    try:
        facts = os.stat(path)
    except OSError:
        return None
    return f"{facts.st_size} {facts.st_mtime_ns}"


def _may_be_input(path: str) -> bool:
    """Whether a file of a folder begins like a dump, an image or a snapshot, or is named like a dump or a raw image.

    One that cannot be read may be one.
    """
    if path.lower().endswith((*DUMP_SUFFIXES, *RAW_SUFFIXES)):
        return True
    head = read_head(path)
    if head is not None and head.startswith(VMWARE):
        return holds_memory(path)  # the one of a .vmem file is no second dump
    return head is None or is_dump_head(head) or is_snapshot_head(head)
