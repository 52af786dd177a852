"""Images that run in user mode, where no pool is: programs, libraries, and drivers of the user-mode framework (UMDF).

UMDF 2 drivers export ``FxDriverEntryUm`` and share the sources of the kernel's framework, tags of its calls included,
which mean nothing there (Windows Driver Frameworks repository: fxldr.h).
"""

from __future__ import annotations

from pykdext.images.exports import read_exports
from pykdext.images.image import Image
from pykdext.images.imports import read_imports
from pykdext.model.names import canonical_name

_UMDF_ENTRY = "FxDriverEntryUm"
_LIBRARIES = ("ntdll.dll", "kernel32.dll", "kernelbase.dll", "msvcrt.dll", "ucrtbase", "vcruntime", "wudf")
"""What the names of libraries begin with that only user mode has."""


def runs_in_user_mode(image: Image) -> bool:
    """Whether the headers, the exports or the imports say so.

    Never of what imports from the kernel or a driver, or is in the kernel's half of memory.
    """
    if image.module.base >= image.machine.kernel_start:
        return False
    modules = {slot.module for slot in read_imports(image)}
    if any(_is_of_kernel(module) for module in modules):
        return False
    if image.is_user_mode or any(module.lower().startswith(_LIBRARIES) for module in modules):
        return True
    return _UMDF_ENTRY in read_exports(image).rvas


def _is_of_kernel(module: str) -> bool:
    name = canonical_name(module)
    return name in ("nt", "hal.dll") or name.endswith(".sys")
