"""The list of Driver Verifier's drivers up to Vista, found in nt's data: few have the symbols that tell where it is.

A list is believed only if an entry of it bears the first and last address of a loaded image and that image's name.
Source: MI_VERIFIER_DRIVER_ENTRY in Microsoft's public PDBs; a hidden variable nt!MiSuspectDriverList heads the list.
"""

from __future__ import annotations

from typing import Dict, Iterator, Tuple

from pykdext.errors import MemoryReadError
from pykdext.kernel.kernel import Kernel
from pykdext.kernel.objects.pages import PageReader
from pykdext.kernel.objects.verifiertrees import iter_data_words, read_driver_name
from pykdext.model import Module
from pykdext.targets.linkedlists import walk_list

_MAX_TRIED = 65_536


def find_driver_list(
    kernel: Kernel, pages: PageReader, start_at: int, end_at: int, max_drivers: int
) -> Tuple[int, ...]:
    """The entries of the list, whose first and last address stand at ``start_at`` and ``end_at``; empty: none found."""
    modules = {module.base: module for module in kernel.target.modules() if not module.unloaded}
    width = kernel.target.pointer_size
    for tried, head in enumerate(_iter_heads(kernel, pages)):
        if tried >= _MAX_TRIED:
            break
        first = pages.pointer(head)
        if first is None or not _may_be_entry(pages, modules, first, start_at, end_at):
            continue
        try:
            entries = walk_list(pages.read, width, head, max_drivers).entries
        except MemoryReadError:
            continue
        if any(_is_entry(pages, width, modules, entry, start_at, end_at) for entry in entries):
            return tuple(entries)
    return ()


def _iter_heads(kernel: Kernel, pages: PageReader) -> Iterator[int]:
    """Where two pointers in nt's writable data lead to links that lead back."""
    width, start = kernel.target.pointer_size, kernel.target.machine.kernel_start
    for address, words in iter_data_words(kernel):
        for number, (after, before) in enumerate(zip(words, words[1:])):
            head = address + number * width
            if after < start or before < start or head in (after, before):
                continue
            if pages.pointer(after + width) == head and pages.pointer(before) == head:
                yield head


def _may_be_entry(pages: PageReader, modules: Dict[int, Module], entry: int, start_at: int, end_at: int) -> bool:
    """Whether an entry is of a loaded image, or of none: then it has neither address."""
    start, end = pages.pointer(entry + start_at), pages.pointer(entry + end_at)
    return start == end == 0 or start in modules


def _is_entry(
    pages: PageReader, width: int, modules: Dict[int, Module], entry: int, start_at: int, end_at: int
) -> bool:
    module = modules.get(pages.pointer(entry + start_at) or 0)
    if module is None or pages.pointer(entry + end_at) not in (
        module.base + module.size,
        module.base + module.size - 1,
    ):
        return False
    name = read_driver_name(pages, width, entry)
    return name is not None and name.lower() == module.name.lower()
