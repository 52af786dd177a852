"""Opens the memory of a machine in whatever file it stands, recognised by content."""

from __future__ import annotations

from typing import Callable, Dict, Optional

from pykdext.errors import DumpFormatError
from pykdext.targets.filebytes import FileBytes
from pykdext.targets.foreignfiles import describe_zeros, recognise_foreign
from pykdext.targets.machine.elfcore import open_elf_core
from pykdext.targets.machine.hyperv import open_saved_state
from pykdext.targets.machine.image import MachineImage
from pykdext.targets.machine.kdump import open_kdump
from pykdext.targets.machine.lime import open_lime
from pykdext.targets.machine.rawimage import MIN_RAW_BYTES, open_raw
from pykdext.targets.machine.signatures import ELF, FLATTENED, HYPERV, KDUMP, LIME, OLD_VMWARE, VMWARE
from pykdext.targets.machine.vmware import open_vmware_state

Opener = Callable[[FileBytes, Optional[str]], MachineImage]

_HEAD_BYTES = 0x1000

_OPENERS: Dict[bytes, Opener] = {
    ELF: lambda file, _: open_elf_core(file),
    KDUMP: lambda file, _: open_kdump(file),
    FLATTENED: lambda file, _: open_kdump(file),
    LIME: lambda file, _: open_lime(file),
    HYPERV: lambda file, _: open_saved_state(file),
    **dict.fromkeys((*VMWARE, *OLD_VMWARE), open_vmware_state),
}
"""How files begin, and what opens them."""


def open_machine_image(file: FileBytes, metadata_path: Optional[str] = None) -> Optional[MachineImage]:
    """The memory of a machine in a file that is no crash dump; None: the file is of another kind.

    DumpFormatError for a file that is known to hold no memory that can be read, with what helps instead.
    """
    head = file.read_at(0, _HEAD_BYTES)
    foreign = recognise_foreign(head)
    if foreign is not None:
        expected = "a kernel dump, or the memory of a machine (raw, .vmem, .vmsn, ELF core, kdump, LiME, .vmrs)"
        raise DumpFormatError(file.path, 0, foreign.found, expected, foreign.hint)
    for magic, open_kind in _OPENERS.items():
        if head.startswith(magic):
            return open_kind(file, metadata_path)
    if file.size < MIN_RAW_BYTES:
        return None
    if file.skip_hole(0) >= file.size:
        raise describe_zeros(file.path)
    return open_raw(file, metadata_path)
