"""What every dump file is as a target, whatever memory it holds."""

from __future__ import annotations

from typing import NamedTuple, Optional, Tuple

from pykdext.errors import SymbolNotFoundError
from pykdext.model import Machine, TargetFacts, TypeLayout
from pykdext.targets.dump.facts import KernelFacts
from pykdext.targets.filebytes import Closing, FileBytes


class Traffic(NamedTuple):
    """What came over a network for a dump, and how large it is, both in bytes."""

    fetched_bytes: int
    dump_bytes: int


class DumpTarget(Closing):
    """The part of a Target that the facts of a dump or image answer, and a context manager that closes the file.

    Subclasses read memory and modules. They add to ``_symbols`` and ``_kernel_base`` what the kernel's debugger data
    says, and to ``_warnings`` what is wrong with the dump.
    """

    def __init__(self, file: FileBytes, facts: KernelFacts) -> None:
        self._file = file
        self._known = facts
        self._symbols = facts.variables
        self._kernel_base = facts.kernel_base
        self._warnings = file.warnings + facts.warnings

    @property
    def machine(self) -> Machine:
        """The architecture of the kernel."""
        return self._known.machine

    @property
    def pointer_size(self) -> int:
        """Bytes of a kernel pointer."""
        return self._known.machine.pointer_size

    @property
    def kernel_base(self) -> Optional[int]:
        """Where nt is loaded, as the kernel's debugger data says; None where that is not in the dump."""
        return self._kernel_base

    @property
    def traffic(self) -> Optional[Traffic]:
        """What reading it has cost until now; None for a file of this machine."""
        fetched_bytes = self._file.fetched_bytes
        return None if fetched_bytes is None else Traffic(fetched_bytes, self._file.size)

    def symbol(self, name: str) -> int:
        """Address of a kernel variable that debugger data or header name, else SymbolNotFoundError."""
        try:
            return self._symbols[name]
        except KeyError:
            raise SymbolNotFoundError(name, "the dump itself names few variables") from None

    def field_layout(self, type_name: str) -> TypeLayout:
        """SymbolNotFoundError always: a dump does not describe structures."""
        raise SymbolNotFoundError(type_name, "a dump does not describe structures")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _facts(
        self, warnings: Tuple[str, ...], pages_present: Optional[int] = None, pages_expected: Optional[int] = None
    ) -> TargetFacts:
        """What is known of the system, with the warnings and the pages that the subclass counted."""
        return TargetFacts(
            kind=self._known.kind,
            machine=self._known.machine,
            build=self._known.build,
            processors=self._known.processors,
            bugcheck=self._known.bugcheck,
            taken_at=self._known.taken_at,
            uptime_seconds=self._known.uptime_seconds,
            pages_present=pages_present,
            pages_expected=pages_expected,
            boot_id=self._known.boot_id,
            kernel_pdb=self._known.kernel_pdb,
            image=self._known.image,
            is_live=self._known.is_live,
            left_out=self._known.left_out,
            warnings=warnings,
        )
