"""The kernel of a target: its image, its symbols, and reads of its variables."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Callable, Collection, FrozenSet, List, Mapping, Optional, Tuple

from pykdext.errors import MemoryReadError, SymbolNotFoundError
from pykdext.images.image import Image, read_image
from pykdext.model import Machine, Struct, TypeLayout
from pykdext.model.structtables import StructTable
from pykdext.symbols.chain import LocatedSymbol, ProfileSymbols, SymbolChain, SymbolSource
from pykdext.symbols.identity import PdbName
from pykdext.symbols.profiles import load_profile
from pykdext.targets.protocol import SymbolTaker, Target

FollowPoolCode = Callable[[Image], FrozenSet[int]]

_STATE_TYPE, _MASK_FIELD = "_MI_SYSTEM_INFORMATION", "Hardware.InvalidPteMask"

_LAST_BUILD_WITH_LISTS, _LAST_BUILD_WITHOUT_LISTS = 9600, 7601
_SWITCHED_BUILDS = 10
"""How far the number of a build may lie above that of its kernel: 22631 has the kernel of 22621."""

_LOWEST_OF_FOUR_LEVELS, _LOWEST_KERNEL_HALF = 0xFFFF800000000000, 0xFF00000000000000
_PTE_BASE_AT = 0x360

_MAX_INVALID_PTE_MASK = 1 << 52
"""The mask is of physical address bits: an x64 processor has at most 52."""


class TargetSymbols:
    """What the target itself knows: the debugger's symbols, or a dump's debugger data block."""

    name = "target"

    def __init__(self, target: Target) -> None:
        self._target = target

    def find_address(self, symbol: str) -> Optional[int]:
        """The target's answer, or None."""
        try:
            return self._target.symbol(symbol)
        except SymbolNotFoundError:
            return None

    def find_type(self, type_name: str) -> Optional[TypeLayout]:
        """The target's layout of a structure, or None."""
        try:
            return self._target.field_layout(type_name)
        except SymbolNotFoundError:
            return None


@dataclass(frozen=True)
class Kernel:
    """A target seen as a Windows kernel.

    Attributes:
        target: where its memory is.
        nt: the kernel's image; None if no module could be found.
        symbols: who knows addresses and types.
        notes: what the search for symbols met, one line each.
        symbol_path: where files of symbols are looked for.
        follow_pool_code: tells which addresses in nt's data its pool routines use, if code can be followed.
    """

    target: Target
    nt: Optional[Image]
    symbols: SymbolChain
    notes: Tuple[str, ...] = ()
    symbol_path: str = ""
    follow_pool_code: Optional[FollowPoolCode] = None

    @property
    def pdb(self) -> Optional[PdbName]:
        """Identity of the kernel's symbols; None if it is not in memory."""
        return None if self.nt is None else _find_pdb(self.target, self.nt)

    @cached_property
    def has_five_levels(self) -> bool:
        """Page tables of five levels (LA57), which an x64 kernel of its own has: its PDB is ntkrla57.pdb.

        Where its name is not known, its page tables tell: four levels reach no address as low as theirs appear at.
        """
        if self.target.facts.machine is not Machine.X64:
            return False
        names = [] if self.nt is None else [self.nt.module.name, self.nt.module.path]
        if self.pdb is not None:
            names.append(self.pdb.file_name)
        return any("la57" in name.lower() for name in names) or 0 < (self.pte_base or 0) < _LOWEST_OF_FOUR_LEVELS

    @cached_property
    def pte_base(self) -> Optional[int]:
        """Where the page tables appear as memory: by nt!MmPteBase, or PteBase of the debugger data; None: not told."""
        return self.find_variable("MmPteBase") or self._read_told_base()

    def _read_told_base(self) -> Optional[int]:
        """KDDEBUGGER_DATA64.PteBase, since Windows 10 1607; None where the block is older, encoded or not there."""
        block = self.find_symbol("KdDebuggerDataBlock")
        if block is None:
            return None
        try:
            data = self.target.read_virtual(block.address, _PTE_BASE_AT + 8)
        except MemoryReadError:
            return None
        size = int.from_bytes(data[0x14:0x18], "little")
        told = int.from_bytes(data[_PTE_BASE_AT:], "little")
        return told if data[0x10:0x14] == b"KDBG" and size >= len(data) and told >= _LOWEST_KERNEL_HALF else None

    @cached_property
    def images(self) -> Tuple[Image, ...]:
        """The images of all loaded modules, nt's among them; their headers are read once."""
        loaded = [module for module in self.target.modules() if not module.unloaded]
        return tuple(
            self.nt if self.nt is not None and module == self.nt.module else read_image(self.target, module)
            for module in loaded
        )

    @cached_property
    def pool_code_variables(self) -> FrozenSet[int]:
        """Addresses in nt's data that its own pool routines use; empty where its code cannot be followed."""
        if self.nt is None or self.follow_pool_code is None:
            return frozenset()
        return self.follow_pool_code(self.nt)

    def find_symbol(self, name: str) -> Optional[LocatedSymbol]:
        """Where a variable of nt stands, by the first source of symbols that knows it."""
        return self.symbols.find(name)

    @cached_property
    def table(self) -> StructTable:
        """The shipped layouts of this kernel's build."""
        facts = self.target.facts
        return StructTable(facts.machine, facts.build, self._revision)

    @property
    def _revision(self) -> Optional[int]:
        """The last part of nt's version (10.0.19041.804); None: not known.

        A build may come out of an older one by a switch alone (19045 of 19041): its kernel bears the older number.
        """
        build, version = self.target.facts.build, None if self.nt is None else self.nt.version.file_version
        parts = (version or "").split(".")
        if build is None or len(parts) != 4 or not all(part.isdecimal() for part in parts):
            return None
        return int(parts[3]) if 0 <= build - int(parts[2]) <= _SWITCHED_BUILDS else None

    def struct(
        self,
        type_name: str,
        *paths: str,
        signed: Collection[str] = (),
        sizes: Optional[Mapping[str, int]] = None,
    ) -> Optional[Struct]:
        """Where fields of a structure stand, by the first that knows: target, PDB or ISF file, shipped tables.

        ``paths`` as for ``find_field``. ``signed``: fields to read as signed numbers. ``sizes``: bytes that fields
        must have. None: the structure is not known for this build; see ``structtables.list_layouts`` for others.

        Raises:
            StructSizeError: a field is of another size than ``sizes`` says.
        """
        known = self.symbols.make_struct(type_name, paths, signed, sizes)
        return known or self.table.make(type_name, *paths, signed=signed, sizes=sizes)

    @cached_property
    def build(self) -> int:
        """The build by which code tells what no structure says; 0: not known.

        A kernel whose own symbols are those of Windows 8.1 or older is taken for such a one, whatever number it bears:
        up to then MmPagedPoolInfo was a variable (public symbols), and up to 7 handle tables had no FreeLists.
        """
        build = self.target.facts.build or 0
        table = self.symbols.find_type("_HANDLE_TABLE")
        if table is None or self.find_symbol("MmPagedPoolInfo") is None:
            return build
        return min(build, _LAST_BUILD_WITH_LISTS if "FreeLists" in table.fields else _LAST_BUILD_WITHOUT_LISTS)

    def read_pointer(self, address: int) -> int:
        """The pointer (or SIZE_T) at ``address``; MemoryReadError if it is not there."""
        return int.from_bytes(self.target.read_virtual(address, self.target.pointer_size), "little")

    def read_word(self, address: int) -> Optional[int]:
        """As ``read_pointer``; None if it is not there."""
        try:
            return self.read_pointer(address)
        except MemoryReadError:
            return None

    def find_variable(self, name: str) -> Optional[int]:
        """The value of a pointer-sized variable; None if its address is not known or not in memory."""
        located = self.find_symbol(name)
        return None if located is None else self.read_word(located.address)


def open_kernel(target: Target, symbol_path: str = "", follow_pool_code: Optional[FollowPoolCode] = None) -> Kernel:
    """The kernel of ``target`` with every source of symbols that applies to it.

    They are, in this order, the target itself, files along ``symbol_path`` (as in ``_NT_SYMBOL_PATH``), and the table
    of known kernels. ``follow_pool_code`` is asked where none of them knows the pool's variables.
    """
    module = next((module for module in target.modules() if not module.unloaded), None)
    nt = None if module is None else read_image(target, module)
    sources: List[SymbolSource] = [TargetSymbols(target)]
    notes: Tuple[str, ...] = ()
    pdb = None if nt is None else _find_pdb(target, nt)
    if nt is not None and pdb is not None:
        if symbol_path:
            from pykdext.symbols.search import (
                load_symbols,  # the readers of PDBs, which a kernel that is known needs not
            )

            loaded = load_symbols(pdb, nt.module.base, symbol_path)
            sources += loaded.sources
            notes = loaded.notes
        profile = load_profile(pdb.guid, pdb.age)
        if profile is not None:
            sources.append(ProfileSymbols(profile, nt.module.base))
    kernel = Kernel(target, nt, SymbolChain(sources), notes, symbol_path, follow_pool_code)
    if isinstance(target, SymbolTaker):
        _tell_symbols(kernel, target)
    return kernel


def _find_pdb(target: Target, nt: Image) -> Optional[PdbName]:
    """What nt's debug directory says, or else what a search of memory found."""
    if nt.pdb is not None:
        return nt.pdb
    told = target.facts.kernel_pdb
    return None if told is None else PdbName(*told)


def _tell_symbols(kernel: Kernel, target: SymbolTaker) -> None:
    """Give the target what it needs to read encoded debugger data and guarded page tables."""
    block = kernel.find_symbol("KdDebuggerDataBlock")
    if block is not None:
        target.set_debugger_data_block(block.address)
    keys = [kernel.find_symbol(name) for name in ("KdpDataBlockEncoded", "KiWaitNever", "KiWaitAlways")]
    if all(keys):
        target.decode_debugger_data(*(key.address for key in keys if key is not None))
    mask = kernel.find_variable("MiInvalidPteMask")
    state = kernel.find_symbol("MiState")
    if mask is None and state is not None:
        facts = kernel.target.facts
        # Without the revision: the version resource may lie behind the page tables that the mask is needed for.
        table = StructTable(facts.machine, facts.build)
        form = kernel.symbols.make_struct(_STATE_TYPE, (_MASK_FIELD,)) or table.make(_STATE_TYPE, _MASK_FIELD)
        offset = None if form is None else form.offset(_MASK_FIELD)
        if offset is None:
            return
        try:
            mask = kernel.read_pointer(state.address + offset)
        except MemoryReadError:
            return
    if mask is not None and mask < _MAX_INVALID_PTE_MASK:
        target.set_invalid_pte_mask(mask)
