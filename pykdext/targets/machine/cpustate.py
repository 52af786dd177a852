"""What a container tells of a processor: the registers that lead to the kernel."""

from __future__ import annotations

from typing import NamedTuple, Optional

LA57 = 1 << 12
"""Of CR4: page tables have five levels."""

MAX_PROCESSORS = 4096
"""More than any Windows supports: a container that lists more is damaged."""


class CpuState(NamedTuple):
    """Registers of one processor; None: the container does not tell.

    ``gs_base`` and ``kernel_gs_base``: one of them is the processor's control region (KPCR), the other a thread's user
    memory. ``idt_base``: the interrupt table, whose first entry leads into nt; ``entry``: the address that system
    calls enter nt at (LSTAR).
    """

    cr3: int
    cr4: Optional[int] = None
    rip: Optional[int] = None
    gs_base: Optional[int] = None
    kernel_gs_base: Optional[int] = None
    idt_base: Optional[int] = None
    entry: Optional[int] = None
