"""How a pool tag stands in machine code: the encodings of instructions that carry it as an immediate.

``CODE_TABLES`` holds what is known of each machine's instructions. A machine without an entry has no table yet: its
code can only be searched for the bytes of a tag.

x64 encodings are those of the Intel and AMD manuals; which register or stack slot holds which argument is Microsoft's
x64 calling convention. Speed comes from regular expressions that begin with a literal byte. The eight opcodes of
``mov r32, imm32`` become one literal by *folding*: a copy of the code in which each byte is replaced by its class.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Callable, Iterator, List, Mapping, Optional, Set, Tuple

from pykdext.model import Confidence, Machine

TAG_BYTES = 4

LONGEST_PREFIX_BYTES = 8
"""The most bytes of an instruction before its immediate: REX C7 modrm SIB disp32."""


class Position(enum.IntEnum):
    """Where the instruction puts the value in a call of an allocator; what says most for an allocation comes first."""

    THIRD_ARGUMENT = 0
    FOURTH_ARGUMENT = 1
    STACK_ARGUMENT = 2
    FIRST_ARGUMENT = 3
    FRAME = 4
    GLOBAL = 5
    REGISTER = 6
    SECOND_ARGUMENT = 7
    STRUCTURE = 8
    NONE = 9


@dataclass(frozen=True, eq=False)
class Encoding:
    """One way in which a tag stands in an image; ``kind`` is the word of the evidence, ``form`` has a ``{tag}``.

    Compared by identity: there is one object for each row of the tables.
    """

    kind: str
    form: str
    position: Position
    confidence: Confidence
    meaning: str

    @cached_property
    def rank(self) -> Tuple[int, int]:
        """Sorts the encodings that say most for an allocation first."""
        return self.confidence.rank, self.position


RAW_BYTES = Encoding("bytes", "bytes {tag}", Position.NONE, Confidence.POSSIBLE, "in code, in no known instruction")
DATA_DWORD = Encoding(
    "data", "dword {tag}", Position.NONE, Confidence.POSSIBLE, "in data: a registration table or a variable"
)


@dataclass(frozen=True)
class CodeTable:
    """The instructions of one machine.

    ``find_offsets(code)`` gives the offsets of all plausible tags that are immediates; ``classify(code, offset)`` tells
    which encoding, if any, has its immediate at an offset (of a tag plausible or not).
    """

    find_offsets: Callable[[bytes], Set[int]]
    classify: Callable[[bytes, int], Optional[Encoding]]


_TEXT = rb"\x20-\x7e"
_PROTECTED_TEXT = rb"\xa0-\xfe"  # PROTECTED_POOL is set: a printable last character plus bit 7
_TAG = rb"[" + _TEXT + rb"]{3}[" + _TEXT + _PROTECTED_TEXT + rb"]"

_PLAUSIBLE = re.compile(_TAG)
_TEXT_AT_START = re.compile(rb"[" + _TEXT + rb"]*")


def is_plausible(tag: bytes) -> bool:
    """Whether four bytes look like a tag: printable ASCII, the last one perhaps with the bit of PROTECTED_POOL."""
    return _PLAUSIBLE.match(tag) is not None


def _immediate(form: str, position: Position, confidence: Confidence, meaning: str) -> Encoding:
    return Encoding("immediate", form, position, confidence, meaning)


# --- mov r32, imm32: B8+r, with REX.B the upper eight registers; with REX.W a 64-bit immediate

_ARGUMENT_REGISTERS: Mapping[int, Tuple[Position, str]] = {
    1: (Position.FIRST_ARGUMENT, "first argument, as of a driver's own wrapper"),
    2: (Position.SECOND_ARGUMENT, "second argument, as in ExFreePoolWithTag"),
    8: (Position.THIRD_ARGUMENT, "third argument, as in ExAllocatePoolWithTag and ExAllocatePool2"),
    9: (Position.FOURTH_ARGUMENT, "fourth argument, as in FltAllocatePoolAlignedWithTag and WdfMemoryCreate"),
}
_NONVOLATILE = frozenset((3, 5, 6, 7, 12, 13, 14, 15))
_NAMES32 = ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi", *(f"r{number}d" for number in range(8, 16)))
_NAMES64 = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{number}" for number in range(8, 16)))


def _register_rows(mnemonic: str, names: Tuple[str, ...]) -> Tuple[Encoding, ...]:
    """One row for each of the 16 registers, by number."""
    rows: List[Encoding] = []
    for number, name in enumerate(names):
        form = f"{mnemonic} {name}, {{tag}}"
        if number in _ARGUMENT_REGISTERS:
            position, meaning = _ARGUMENT_REGISTERS[number]
            rows.append(_immediate(form, position, Confidence.LIKELY, meaning))
        elif number in _NONVOLATILE:
            rows.append(_immediate(form, Position.REGISTER, Confidence.LIKELY, "kept in a register for later calls"))
        else:
            rows.append(_immediate(form, Position.REGISTER, Confidence.POSSIBLE, "in a scratch register"))
    return tuple(rows)


_MOV32 = _register_rows("mov", _NAMES32)
_MOV64_SIGNED = _register_rows("mov", _NAMES64)
_ADD32 = tuple(
    _immediate(f"add {name}, {{tag}}", Position.REGISTER, Confidence.POSSIBLE, "one of two tags chosen by arithmetic")
    for name in _NAMES32
)
_MOV64_HALF = tuple(
    _immediate(f"mov {name}, {{tag}}", Position.REGISTER, Confidence.POSSIBLE, "half of a 64-bit constant")
    for name in _NAMES64
)

# --- mov dword [memory], imm32: C7 /0 with modrm, SIB and displacement; "." is any byte


def _stack_argument(number: int, meaning: str) -> Tuple[bytes, Encoding]:
    """The slot of argument ``number`` (from 5) at a call: behind 32 bytes of home space, 8 bytes each."""
    slot = 8 * (number - 1)
    form = f"mov dword [rsp+{slot:x}h], {{tag}}"
    row = _immediate(form, Position.STACK_ARGUMENT, Confidence.LIKELY, f"argument {number} on the stack{meaning}")
    return rb"\x44\x24" + re.escape(bytes([slot])), row


def _frame(operand: str) -> Encoding:
    meaning = "a local variable or structure, as NET_BUFFER_LIST_POOL_PARAMETERS"
    return _immediate(f"mov dword [{operand}], {{tag}}", Position.FRAME, Confidence.LIKELY, meaning)


_GLOBAL = _immediate("mov dword [rip+disp32], {tag}", Position.GLOBAL, Confidence.LIKELY, "stored in a global variable")
_STRUCTURE = _immediate(
    "mov dword [reg+disp], {tag}", Position.STRUCTURE, Confidence.POSSIBLE, "stored in a structure or as a signature"
)

_STORE_ROWS: Tuple[Tuple[bytes, Encoding], ...] = (
    _stack_argument(5, ""),
    _stack_argument(6, ", as in ExInitializeNPagedLookasideList"),
    _stack_argument(7, ", as in ExInitializeLookasideListEx"),
    _stack_argument(8, ""),
    (rb"\x04\x24", _frame("rsp")),
    (rb"\x44\x24.", _frame("rsp+disp8")),
    (rb"\x84\x24....", _frame("rsp+disp32")),
    (rb"\x45.", _frame("rbp+disp8")),
    (rb"\x85....", _frame("rbp+disp32")),
    (rb"\x05....", _GLOBAL),
    (rb"[\x00-\x03\x06\x07]", _STRUCTURE),
    (rb"\x04[^\x24]", _STRUCTURE),
    (rb"[\x40-\x43\x46\x47].", _STRUCTURE),
    (rb"\x44[^\x24].", _STRUCTURE),
    (rb"[\x80-\x83\x86\x87]....", _STRUCTURE),
    (rb"\x84[^\x24]....", _STRUCTURE),
)
_STORE_FORMS = re.compile(b"|".join(b"(%s)" % form for form, _ in _STORE_ROWS), re.DOTALL)
_STORE_PREFIX_BYTES = (7, 6, 4, 3, 2)
_REGISTER_FORM = rb"[\xc0-\xc7]"

# --- the passes: each finds an opcode with a plausible tag behind it. Folded: M the opcodes B8 to BF, T text, P text
# with bit 7 set, each other byte a dot.

_FOLD = bytearray(b"." * 256)
_FOLD[0x20:0x7F] = b"T" * 0x5F
_FOLD[0xA0:0xFF] = b"P" * 0x5F
_FOLD[0xB8:0xC0] = b"M" * 8

_MOV = re.compile(rb"M(?=TTT[TPM])")
_MOV_HIGH = re.compile(rb"M(?=....TTT[TPM])", re.DOTALL)
_STORE_OPERAND = b"|".join([*(form for form, _ in _STORE_ROWS), _REGISTER_FORM])
_RAW_PASSES = tuple(
    re.compile(opcode + b"(?=(" + operand + b")" + _TAG + b")", re.DOTALL)
    for opcode, operand in ((rb"\xc7", _STORE_OPERAND), (rb"\x81", _REGISTER_FORM), (rb"\x05", b""))
)


def find_x64_offsets(code: bytes) -> Set[int]:
    """Offsets of the four bytes that follow an opcode, or its first four bytes of immediate, and look like a tag."""
    folded = code.translate(_FOLD)
    offsets = {match.end() for match in _MOV.finditer(folded)}
    offsets.update(match.end() + TAG_BYTES for match in _MOV_HIGH.finditer(folded))
    for raw_pass in _RAW_PASSES:
        offsets.update(match.end(1) for match in raw_pass.finditer(code))
    return offsets


def classify_x64(code: bytes, offset: int) -> Optional[Encoding]:
    """The encoding whose immediate stands at ``offset``; where several could be meant, the longest one."""
    before = code[max(offset - LONGEST_PREFIX_BYTES, 0) : offset].rjust(LONGEST_PREFIX_BYTES, b"\0")
    for size in _STORE_PREFIX_BYTES:
        if before[-size] == 0xC7:
            row = _classify_store(before[-size - 1], before[-size + 1 :])
            if row is not None:
                return row
    if before[-5] & 0xF8 == 0xB8 and before[-6] & 0xF8 == 0x48:
        return _MOV64_HALF[_register(before[-6], before[-5])]
    if before[-2] == 0x81 and before[-1] & 0xF8 == 0xC0:
        return _ADD32[_register(before[-3], before[-1])]
    if before[-1] & 0xF8 == 0xB8:
        rows = _MOV64_HALF if before[-2] & 0xF8 == 0x48 else _MOV32
        return rows[_register(before[-2], before[-1])]
    return _ADD32[0] if before[-1] == 0x05 else None


def _classify_store(rex: int, operand: bytes) -> Optional[Encoding]:
    """The row of ``C7`` with these bytes of modrm, SIB and displacement."""
    if len(operand) == 1 and operand[0] & 0xF8 == 0xC0:
        rows = _MOV64_SIGNED if rex & 0xF8 == 0x48 else _MOV32
        return rows[_register(rex, operand[0])]
    match = _STORE_FORMS.fullmatch(operand)
    if match is None:
        return None
    row = _STORE_ROWS[(match.lastindex or 1) - 1][1]
    is_r12_or_r13 = rex & 0xF1 == 0x41  # REX.B turns the encodings of rsp and rbp into these
    return _STRUCTURE if is_r12_or_r13 and row is not _GLOBAL else row


def _register(rex: int, operand: int) -> int:
    """Number of a register: three bits of opcode or modrm, and REX.B if the byte before is a REX prefix."""
    return operand & 7 | (8 if rex & 0xF1 == 0x41 else 0)


CODE_TABLES: Mapping[Machine, CodeTable] = {Machine.X64: CodeTable(find_x64_offsets, classify_x64)}

# --- data: an aligned dword that is not part of a longer text

_DATA_FOLD = bytes(0x54 if 0x20 <= byte < 0x7F else 0x2E for byte in range(256))
_DATA_DWORD = re.compile(rb"\.TTT(?=T(?!TT)|\.)")


def find_data_offsets(data: bytes, rva: int) -> Iterator[int]:
    """Offsets of dwords that look like a tag, with no text before and at most one more character behind.

    ``rva`` is where ``data`` begins: a dword is aligned in the image.
    """
    folded = b"." + data.translate(_DATA_FOLD)
    for match in _DATA_DWORD.finditer(folded):
        offset = match.start()
        if (rva + offset) % TAG_BYTES == 0 and is_plausible(data[offset : offset + TAG_BYTES]):
            yield offset


def find_exact_offsets(data: bytes, tag: bytes) -> Iterator[int]:
    """Offsets of a tag's bytes, with or without the bit of PROTECTED_POOL; overlapping ones too."""
    last = re.escape(bytes((tag[3] & 0x7F,))) + b"|" + re.escape(bytes((tag[3] | 0x80,)))
    exact = re.compile(re.escape(tag[:1]) + b"(?=" + re.escape(tag[1:3]) + b"(?:" + last + b"))", re.DOTALL)
    return (match.start() for match in exact.finditer(data))


def is_in_text(data: bytes, offset: int, text_bytes: int) -> bool:
    """Whether the four bytes at ``offset`` are part of a run of printable ASCII of at least ``text_bytes``."""
    before = data[max(offset - text_bytes, 0) : offset][::-1]
    behind = data[offset + TAG_BYTES : offset + text_bytes]
    return TAG_BYTES + sum(len(_leading_text(part)) for part in (before, behind)) >= text_bytes


def _leading_text(data: bytes) -> bytes:
    match = _TEXT_AT_START.match(data)
    return match.group() if match else b""
