"""Opens the memory of a machine in whatever file it stands, recognised by content."""

from __future__ import annotations

from typing import Callable, Optional, Tuple

from pykdext.errors import DumpFormatError
from pykdext.targets.filebytes import FileBytes
from pykdext.targets.foreignfiles import describe_zeros, recognise_foreign
from pykdext.targets.machine.elfcore import open_elf_core
from pykdext.targets.machine.hyperv import open_saved_state
from pykdext.targets.machine.image import MachineImage
from pykdext.targets.machine.kdump import open_kdump
from pykdext.targets.machine.lime import open_lime
from pykdext.targets.machine.rawimage import MIN_RAW_BYTES, open_raw
from pykdext.targets.machine.vmware import open_vmware_state
from pykdext.targets.machine.vmwaretags import MAGICS, OLD_MAGICS

Opener = Callable[[FileBytes, Optional[str]], MachineImage]

_HEAD_BYTES = 0x1000

_KINDS: Tuple[Tuple[bytes, Opener], ...] = (
    (b"\x7fELF", lambda file, _: open_elf_core(file)),
    (b"KDUMP   ", lambda file, _: open_kdump(file)),
    (b"makedumpfile", lambda file, _: open_kdump(file)),
    (b"EMiL", lambda file, _: open_lime(file)),
    (b"\x14\x20\x28\x01", lambda file, _: open_saved_state(file)),
    *((magic, open_vmware_state) for magic in (*MAGICS, *OLD_MAGICS)),
)
"""How files begin, and what opens them."""

MAGIC_BYTES = tuple(magic for magic, _ in _KINDS)
"""How the files begin that hold the memory of a machine, raw images apart."""


def open_machine_image(file: FileBytes, metadata_path: Optional[str] = None) -> Optional[MachineImage]:
    """The memory of a machine in a file that is no crash dump; None: the file is of another kind.

    DumpFormatError for a file that is known to hold no memory that can be read, with what helps instead.
    """
    head = file.read_at(0, _HEAD_BYTES)
    foreign = recognise_foreign(head)
    if foreign is not None:
        expected = "a kernel dump, or the memory of a machine (raw, .vmem, .vmsn, ELF core, kdump, LiME, .vmrs)"
        raise DumpFormatError(file.path, 0, foreign.found, expected, foreign.hint)
    for magic, open_kind in _KINDS:
        if head.startswith(magic):
            return open_kind(file, metadata_path)
    if file.size < MIN_RAW_BYTES:
        return None
    if file.skip_hole(0) >= file.size:
        raise describe_zeros(file.path)
    return open_raw(file, metadata_path)
