"""Where a report leads on in the debugger: the commands behind its tags, modules and addresses."""

from __future__ import annotations

import re
from typing import Optional

from pykdext.model import PoolTag, SnapshotSource
from pykdext.model.names import find_engine_name
from pykdext.units import format_address

_NOT_OF_ARGUMENTS = re.compile(r"[^A-Za-z0-9_.]")
_PLAIN_TAG = re.compile(r"[A-Za-z0-9_.]+ *")


class Links:
    """The debugger's commands behind a report; most exist only where ``source`` is the session itself."""

    def __init__(self, source: SnapshotSource) -> None:
        self._is_session = source.is_session
        self._argument = f' "{source.path}"' if source.path else ""

    def tag(self, tag: PoolTag) -> str:
        """Who owns the tag."""
        return f"!py poolleak find {_write_tag(tag)}{self._argument}"

    def usage(self, tag: PoolTag) -> Optional[str]:
        """The debugger's own numbers of the tag."""
        return f"!poolused 2 {tag.text}" if self._is_session and _is_plain(tag) else None

    def blocks(self, tag: PoolTag) -> Optional[str]:
        """The debugger's search for the tag's blocks in nonpaged pool."""
        return f"!poolfind {tag.text} 0" if self._is_session and _is_plain(tag) else None

    def module(self, name: str) -> Optional[str]:
        """Version and vendor of an image."""
        return f"lmvm {find_engine_name(name)}" if self._is_session else None

    def place(self, address: Optional[int]) -> Optional[str]:
        """The symbol nearest to an address in an image."""
        return f"ln {format_address(address)}" if self._is_session and address is not None else None

    def block(self, address: int) -> Optional[str]:
        """The page of the pool around a block."""
        return f"!pool {format_address(address)}" if self._is_session else None

    def command(self, command: str) -> Optional[str]:
        """A command that the report itself names."""
        return command if self._is_session else None


def _is_plain(tag: PoolTag) -> bool:
    """Whether the debugger's own commands take the tag as it reads: they know no escapes."""
    return _PLAIN_TAG.fullmatch(tag.text) is not None


def _write_tag(tag: PoolTag) -> str:
    r"""The tag as one argument of ``!py``: what the debugger or the command line may take for theirs is ``\xNN``."""
    text = tag.raw.decode("latin-1").rstrip(" ") or " "
    return _NOT_OF_ARGUMENTS.sub(lambda found: f"\\x{ord(found.group()):02x}", text)
