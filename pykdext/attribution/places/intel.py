"""Instructions of Intel's and AMD's manuals that carry four literal bytes; ``x64`` and ``x86`` fill in the meanings.

Speed comes from regular expressions that begin with a literal byte. The eight opcodes of ``mov r32, imm32`` become one
literal by *folding*: a copy of the code in which each byte is replaced by its class.
"""

from __future__ import annotations

import re
from typing import Collection, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

from pykdext.attribution.places.bytesearch import ExactSearch
from pykdext.attribution.places.tagencodings import (
    RAW_BYTES,
    TAG,
    TAG_BYTES,
    Encoding,
    Immediate,
    Position,
    hint,
    immediate,
    is_plausible,
    measure_text,
)
from pykdext.model import Confidence, EvidenceKind

NAMES32 = ("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi", *(f"r{number}d" for number in range(8, 16)))
NAMES64 = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{number}" for number in range(8, 16)))

MAX_TEXT_IN_CODE = 4
"""Characters around four others in code that may be instructions; more of them are a text."""

StoreRow = Tuple[bytes, Encoding]
"""A regular expression of modrm, SIB and displacement of ``mov dword [memory], imm32``, and what it is."""


class IntelRows(NamedTuple):
    """What an instruction with an immediate means on one machine; rows of registers are by number.

    Attributes:
        moves: ``mov r32``. wide_moves: ``mov r64`` of an immediate with its sign extended; halves: of one with 64 bits.
        Both are empty on a machine without REX prefixes. push: None where a push hands over no argument.
        stores: the first one that fits counts.
    """

    moves: Sequence[Encoding]
    wide_moves: Sequence[Encoding]
    halves: Sequence[Encoding]
    push: Optional[Encoding]
    stores: Sequence[StoreRow]


def register_rows(
    mnemonic: str, names: Sequence[str], arguments: Sequence[Tuple[int, Position, str]], nonvolatile: Collection[int]
) -> Tuple[Encoding, ...]:
    """One row for each register, by number.

    Those of ``arguments`` (number, position, meaning) are likely, and the ``nonvolatile`` ones, which keep a value for
    later calls.
    """
    rows: List[Encoding] = []
    by_number = {number: (position, meaning) for number, position, meaning in arguments}
    for number, name in enumerate(names):
        form = f"{mnemonic} {name}, {{tag}}"
        if number in by_number:
            position, meaning = by_number[number]
            rows.append(immediate(form, position, Confidence.LIKELY, meaning))
        elif number in nonvolatile:
            rows.append(immediate(form, Position.REGISTER, Confidence.LIKELY, "kept in a register for later calls"))
        else:
            rows.append(immediate(form, Position.REGISTER, Confidence.POSSIBLE, "in a scratch register"))
    return tuple(rows)


def frame_row(operand: str) -> Encoding:
    """A store into the function's own frame."""
    meaning = "a local variable or structure"
    return immediate(f"mov dword [{operand}], {{tag}}", Position.FRAME, Confidence.POSSIBLE, meaning)


def global_row(operand: str) -> Encoding:
    """A store into a variable of the image."""
    return immediate(
        f"mov dword [{operand}], {{tag}}", Position.GLOBAL, Confidence.POSSIBLE, "stored in a global variable"
    )


_STRUCTURE = immediate(
    "mov dword [reg+disp], {tag}", Position.STRUCTURE, Confidence.POSSIBLE, "stored in a structure or as a signature"
)
STRUCTURE_ROWS: Sequence[StoreRow] = (
    (rb"[\x00-\x03\x06\x07]", _STRUCTURE),
    (rb"\x04[^\x24]", _STRUCTURE),
    (rb"[\x40-\x43\x46\x47].", _STRUCTURE),
    (rb"\x44[^\x24].", _STRUCTURE),
    (rb"[\x80-\x83\x86\x87]....", _STRUCTURE),
    (rb"\x84[^\x24]....", _STRUCTURE),
)


def _arithmetic_rows(mnemonic: str) -> Tuple[Encoding, ...]:
    return tuple(
        immediate(
            f"{mnemonic} {name}, {{tag}}",
            Position.REGISTER,
            Confidence.POSSIBLE,
            "one of two tags chosen by arithmetic",
        )
        for name in NAMES32
    )


_ADDS = _arithmetic_rows("add")
_ARITHMETIC = {0xC0: _ADDS, 0xC8: _arithmetic_rows("or"), 0xF0: _arithmetic_rows("xor")}
"""What ``81`` does to a register, by the upper bits of modrm."""

_COMPARES = tuple(
    hint(EvidenceKind.BYTES, f"cmp {name}, {{tag}}", "compared with it: code that looks at tags or signatures")
    for name in NAMES32
)

# The passes: each finds an opcode with a plausible tag behind it. Folded: M the opcodes B8 to BF, T text, P text with
# bit 7 set, each other byte a dot. Comparisons are not looked for: they only name the bytes of a tag that is asked for.

_FOLD = bytearray(b"." * 256)
_FOLD[0x20:0x7F] = b"T" * 0x5F
_FOLD[0xA0:0xFF] = b"P" * 0x5F
_FOLD[0xB8:0xC0] = b"M" * 8

_MOV = re.compile(rb"M(?=TTT[TPM])")
_MOV_HIGH = re.compile(rb"M(?=....TTT[TPM])", re.DOTALL)
_REGISTER_FORM = rb"[\xc0-\xc7]"
_ARITHMETIC_FORM = rb"[\xc0-\xcf\xf0-\xf7]"
_STORE_OPERAND_BYTES = (6, 5, 3, 2, 1)


class IntelCode:
    """The code table of one machine; ``has_rex``: the bytes 40 to 4F are prefixes, as on x64.

    Without them, each byte that could be a prefix is masked to zero, which is no prefix.
    """

    alignment = 1
    reach_bytes = 8  # REX C7 modrm SIB disp32

    def __init__(self, rows: IntelRows, *, has_rex: bool) -> None:
        self._rows = rows
        self._rex_mask = 0xFF if has_rex else 0
        self._store_forms = re.compile(b"|".join(b"(%s)" % form for form, _ in rows.stores), re.DOTALL)
        operands = b"|".join([*(form for form, _ in rows.stores), _REGISTER_FORM])
        self._passes = [_compile_pass(rb"\xc7", operands), _compile_pass(rb"\x81", _ARITHMETIC_FORM)]
        self._passes += [_compile_pass(opcode, b"") for opcode in ((b"\x05", b"\x68") if rows.push else (b"\x05",))]

    @property
    def encodings(self) -> Tuple[Encoding, ...]:
        """Every encoding that an immediate can have."""
        rows = self._rows
        push = (rows.push,) if rows.push else ()
        stores = (encoding for _, encoding in rows.stores)
        arithmetic = (encoding for row in _ARITHMETIC.values() for encoding in row)
        return (*rows.moves, *rows.wide_moves, *rows.halves, *push, *stores, *arithmetic, _STRUCTURE)

    def iter_immediates(self, code: bytes) -> Iterator[Immediate]:
        """Every immediate that looks like a tag, by ascending offset."""
        for offset in sorted(self._find_offsets(code)):
            encoding = self._classify(code, offset)
            if encoding:
                yield Immediate(offset, code[offset : offset + TAG_BYTES], encoding)

    def iter_exact(self, code: bytes, search: ExactSearch) -> Iterator[Immediate]:
        """Immediates of the tags that look like none, and other occurrences of their bytes that are not text."""
        for offset, tag in search.iter_offsets(code):
            encoding = self._classify(code, offset)
            if encoding is None:
                encoding = self._classify_comparison(code, offset)
            elif is_plausible(code[offset : offset + TAG_BYTES]):
                continue
            if encoding or sum(measure_text(code, offset, MAX_TEXT_IN_CODE)) < MAX_TEXT_IN_CODE:
                yield Immediate(offset, tag, encoding or RAW_BYTES)

    def _find_offsets(self, code: bytes) -> Set[int]:
        """Offsets of four bytes that look like a tag, behind an opcode or behind four bytes of its immediate."""
        folded = code.translate(_FOLD)
        offsets = {match.end() for match in _MOV.finditer(folded)}
        if self._rex_mask:
            offsets.update(match.end() + TAG_BYTES for match in _MOV_HIGH.finditer(folded))
        for raw_pass in self._passes:
            offsets.update(match.end(1) for match in raw_pass.finditer(code))
        return offsets

    def _classify(self, code: bytes, offset: int) -> Optional[Encoding]:
        """The encoding whose immediate stands at ``offset``; where several could be meant, the longest one."""
        before = self._bytes_before(code, offset)
        for size in _STORE_OPERAND_BYTES if 0xC7 in before else ():
            if before[-size - 1] == 0xC7:
                row = self._classify_store(before[-size - 2] & self._rex_mask, before[-size:])
                if row:
                    return row
        rex = before[-6] & self._rex_mask
        if before[-5] & 0xF8 == 0xB8 and rex & 0xF8 == 0x48:
            return self._rows.halves[_register(rex, before[-5])]
        if before[-2] == 0x81 and before[-1] & 0xF8 in _ARITHMETIC:
            return _ARITHMETIC[before[-1] & 0xF8][_register(before[-3] & self._rex_mask, before[-1])]
        rex = before[-2] & self._rex_mask
        if before[-1] & 0xF8 == 0xB8:
            rows = self._rows.halves if rex & 0xF8 == 0x48 else self._rows.moves
            return rows[_register(rex, before[-1])]
        if before[-1] == 0x68:
            return self._rows.push
        return _ADDS[0] if before[-1] == 0x05 else None

    def _classify_store(self, rex: int, operand: bytes) -> Optional[Encoding]:
        """The row of ``C7`` with these bytes of modrm, SIB and displacement."""
        if len(operand) == 1 and operand[0] & 0xF8 == 0xC0:
            rows = self._rows.wide_moves if rex & 0xF8 == 0x48 else self._rows.moves
            return rows[_register(rex, operand[0])]
        match = self._store_forms.fullmatch(operand)
        if match is None:
            return None
        row = self._rows.stores[(match.lastindex or 1) - 1][1]
        is_r12_or_r13 = rex & 0xF1 == 0x41  # REX.B turns the encodings of rsp and rbp into these
        return _STRUCTURE if is_r12_or_r13 and row.position is not Position.GLOBAL else row

    def _classify_comparison(self, code: bytes, offset: int) -> Optional[Encoding]:
        """The row of ``cmp reg, imm32``."""
        before = self._bytes_before(code, offset)
        if before[-2] == 0x81 and before[-1] & 0xF8 == 0xF8:
            return _COMPARES[_register(before[-3] & self._rex_mask, before[-1])]
        return _COMPARES[0] if before[-1] == 0x3D else None

    def _bytes_before(self, code: bytes, offset: int) -> bytes:
        return code[max(offset - self.reach_bytes, 0) : offset].rjust(self.reach_bytes, b"\0")


def _compile_pass(opcode: bytes, operands: bytes) -> re.Pattern[bytes]:
    return re.compile(opcode + b"(?=(" + operands + b")" + TAG + b")", re.DOTALL)


def _register(rex: int, operand: int) -> int:
    """Number of a register: three bits of opcode or modrm, and REX.B if the byte before is a REX prefix."""
    return operand & 7 | (8 if rex & 0xF1 == 0x41 else 0)
