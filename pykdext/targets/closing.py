"""Things that are closed at the end of a ``with`` block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional, Type, TypeVar

if TYPE_CHECKING:
    from types import TracebackType

_Self = TypeVar("_Self", bound="Closing")


class Closing:
    """A context manager that closes itself, whatever ends the block."""

    def close(self) -> None:
        """Give back what is open."""
        raise NotImplementedError

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.close()
