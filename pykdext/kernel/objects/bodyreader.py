"""Fields of objects' bodies and of what these lead to, by the kernel's own layout or by one that is to be confirmed."""

from __future__ import annotations

from typing import Dict, List, Optional, Tuple

from pykdext.errors import MemoryReadError
from pykdext.kernel.kernel import Kernel
from pykdext.kernel.objects.forms import list_build_forms, list_forms
from pykdext.kernel.objects.pages import PageReader
from pykdext.model import Module, Struct

_MAX_NAME_BYTES = 0x400
_SHOWN_LETTERS = 120
_PROCESS_TYPE = 3
_DISPATCHER_TYPE = 0x7F


class BodyReader:
    """Reads the fields of one kernel's objects."""

    def __init__(self, kernel: Kernel, pages: PageReader) -> None:
        self._kernel = kernel
        self.pages = pages
        self.width = kernel.target.pointer_size
        self._modules = [module for module in kernel.target.modules() if not module.unloaded]
        self._forms: Dict[Tuple[str, ...], List[Struct]] = {}

    def forms(self, type_name: str, *paths: str) -> List[Struct]:
        """Where fields may stand: the kernel's own layout alone, else those of others, the nearest first."""
        key = (type_name, *paths)
        if key not in self._forms:
            self._forms[key] = list_forms(self._kernel, type_name, paths)
        return self._forms[key]

    def near_forms(self, type_name: str, *paths: str) -> List[Struct]:
        """The same by the nearest builds only, for structures that show less of themselves."""
        key = ("near", type_name, *paths)
        if key not in self._forms:
            self._forms[key] = list_forms(self._kernel, type_name, paths, nearest_only=True)
        return self._forms[key]

    def build_forms(self, type_name: str, *paths: str) -> List[Struct]:
        """Where fields stand in kernels of this build and processor, which may differ by their revision."""
        key = ("build", type_name, *paths)
        if key not in self._forms:
            self._forms[key] = list_build_forms(self._kernel, type_name, paths)
        return self._forms[key]

    def field(self, form: Struct, address: int, path: str) -> Optional[int]:
        """A number or pointer out of a structure; None: not in memory, or not among its fields."""
        place = form.fields[path]
        return None if place is None else self.pages.number(address + place.offset, place.size or self.width)

    def own_field(self, address: int, type_name: str, path: str) -> Optional[int]:
        """The same by the kernel's own layout; None where that is not known, too."""
        form = self.own_form(type_name, path)
        return None if form is None else self.field(form, address, path)

    def own_form(self, type_name: str, path: str) -> Optional[Struct]:
        """The kernel's own layout of a field; None: not known, and of another build nothing is guessed."""
        forms = self.forms(type_name, path)
        return forms[0] if forms and "calibration" not in forms[0].source else None

    def string(self, at: int) -> Optional[str]:
        """The letters of a UNICODE_STRING."""
        size, buffer = self.pages.number(at, 2), self.pages.pointer(at + self.width)
        if not size or not buffer or size % 2 or size > _MAX_NAME_BYTES:
            return None
        try:
            return make_printable(self.pages.read(buffer, size).decode("utf-16-le", "replace"))
        except MemoryReadError:
            return None

    def find_module(self, address: Optional[int]) -> Optional[Module]:
        """The loaded image that an address lies in."""
        return next((module for module in self._modules if address and address in module), None)

    def process_number(self, address: Optional[int]) -> Optional[int]:
        """The number of the process at an address; None: there is none, or it is not in memory."""
        kind = self.pages.number(address, 1) if address else None
        if not address or kind is None or kind & _DISPATCHER_TYPE != _PROCESS_TYPE:
            return None
        return self.own_field(address, "_EPROCESS", "UniqueProcessId")


def make_printable(text: str) -> str:
    """A name that can be shown: without control characters, and not endless."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in text)
    return shown if len(shown) <= _SHOWN_LETTERS else shown[: _SHOWN_LETTERS - 3] + "..."
