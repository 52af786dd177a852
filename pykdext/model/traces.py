"""What Windows itself records for those who hunt a leak: Driver Verifier, traces of references and of handles."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Optional, Tuple

from pykdext.model.pool import PoolTag


@dataclass(frozen=True)
class TrackedCaller:
    """Allocations of one tag that Driver Verifier tracked to one place of a driver's code.

    ``is_logged``: it keeps no record of them, but its log of the last calls has these.
    """

    module: str
    rva: int
    tag: PoolTag
    blocks: int
    bytes: int
    is_logged: bool = False


@dataclass(frozen=True)
class VerifiedDriver:
    """A driver that Driver Verifier watches, with what it has not freed; ``callers`` are where it allocated it."""

    name: str
    nonpaged_allocations: int
    paged_allocations: int
    nonpaged_bytes: int
    paged_bytes: int
    callers: Tuple[TrackedCaller, ...] = ()

    def with_callers(self, callers: Tuple[TrackedCaller, ...]) -> VerifiedDriver:
        """The driver with some of its callers only."""
        return replace(self, callers=callers)


@dataclass(frozen=True)
class VerifierReport:
    """What Driver Verifier knows. ``level`` 0: it is off; None: that cannot be read."""

    level: Optional[int] = None
    drivers: Tuple[VerifiedDriver, ...] = ()
    warnings: Tuple[str, ...] = ()


@dataclass(frozen=True)
class ReferenceTrace:
    """References to traced objects that a driver took and did not give back.

    Attributes:
        module, rva: the driver, and the place that took most of them.
        kept: references taken less those given back.
        objects: traced objects that it keeps references to; alone: those whose other references were all given back.
        of: traced objects that were looked at.
    """

    module: str
    rva: int
    kept: int
    objects: int
    alone: int
    of: int


@dataclass(frozen=True)
class OpenedAt:
    """Handles of a process that are still open, by the place that opened them, as its handle trace has it.

    ``module`` is None for code of the process itself, then ``address`` is the place; ``of``: open handles of the trace.
    """

    module: Optional[str]
    address: int
    handles: int
    of: int

    @property
    def place(self) -> str:
        """``lookas.sys+0x102b``, or ``0x7ff612345678 in the process``."""
        return f"0x{self.address:x} in the process" if self.module is None else f"{self.module}+0x{self.address:x}"
