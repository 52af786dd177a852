"""The kinds of evidence, and the classes of tags: stable words of the JSON, with what each one means.

To add a kind: a member and its row here, and the attributor that gives it.
"""

from __future__ import annotations

import enum
from typing import Mapping, NamedTuple


class Shown(enum.Enum):
    """What stands at the place of evidence, which decides how a debugger shows it."""

    CALL = "a call, which the instructions before it lead to"
    INSTRUCTION = "the operand at the end of an instruction"
    BYTES = "bytes"


class EvidenceKind(str, enum.Enum):
    """Why a module is named as an owner; the value is the word in JSON."""

    CALL = "call"
    FREE = "free"
    REGISTRATION = "registration"
    RESERVATION = "reservation"
    IMMEDIATE = "immediate"
    DATA = "data"
    BYTES = "bytes"
    REVERSED = "reversed"
    KMDF = "kmdf"
    CONTENTS = "contents"
    LOOKASIDE = "lookaside"
    VERIFIER = "verifier"
    UNLOADED = "unloaded"
    POOLTAG_TXT = "pooltag.txt"
    BUILTIN = "builtin"
    STATED = "stated"
    OTHER = "other"

    @property
    def shown(self) -> Shown:
        """What stands at its place."""
        return _ROWS[self].shown

    @property
    def meaning(self) -> str:
        """What such evidence says, in half a sentence."""
        return _ROWS[self].meaning


class _Row(NamedTuple):
    meaning: str
    shown: Shown = Shown.BYTES


_ROWS: Mapping[EvidenceKind, _Row] = {
    EvidenceKind.CALL: _Row("its code allocates with the tag", Shown.CALL),
    EvidenceKind.FREE: _Row("its code frees with the tag", Shown.CALL),
    EvidenceKind.REGISTRATION: _Row("it registers the tag for allocations that Windows makes", Shown.CALL),
    EvidenceKind.RESERVATION: _Row("its code reserves addresses with the tag", Shown.CALL),
    EvidenceKind.IMMEDIATE: _Row("an instruction holds the tag", Shown.INSTRUCTION),
    EvidenceKind.DATA: _Row("its data hold the tag"),
    EvidenceKind.BYTES: _Row("its code holds the bytes of the tag"),
    EvidenceKind.REVERSED: _Row("an instruction holds the tag backwards"),
    EvidenceKind.KMDF: _Row("the driver framework allocates for it with the tag"),
    EvidenceKind.CONTENTS: _Row("the blocks of the tag point at it"),
    EvidenceKind.LOOKASIDE: _Row("a lookaside list of it holds blocks of the tag"),
    EvidenceKind.VERIFIER: _Row("Driver Verifier saw it allocate with the tag", Shown.CALL),
    EvidenceKind.UNLOADED: _Row("tag lists name it, and it was unloaded"),
    EvidenceKind.POOLTAG_TXT: _Row("the user's tag list names it"),
    EvidenceKind.BUILTIN: _Row("the built-in table of tags names it"),
    EvidenceKind.STATED: _Row("the source itself names it beside the numbers"),
    EvidenceKind.OTHER: _Row("an attributor from outside of this package names it"),
}


class TagClass(str, enum.Enum):
    """What sort of tag it is, as the built-in table says; the value is the word in JSON.

    ``OBJECT``: a kernel object, allocated for whoever opens or references it. ``CACHE``: large on healthy systems, too.
    """

    OBJECT = "object"
    CACHE = "cache"
    COMPONENT = "component"
    GENERIC = "generic"
