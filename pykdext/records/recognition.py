"""Telling logs from dumps by their first bytes, without the readers of any format."""

from __future__ import annotations

from pykdext.records.packed import peek_packed
from pykdext.records.snapshotfile import is_snapshot_head
from pykdext.records.textfile import is_text_head

HEAD_BYTES = 4096
"""How much of a file ``is_log_head`` wants to see."""


def is_log_head(head: bytes) -> bool:
    """The first bytes of a file are those of text or of a snapshot, so that it may be a log; a dump's never are.

    Of a packed file the bytes within count.
    """
    packed = peek_packed(head)
    if packed is not None:
        return is_snapshot_head(packed) or (bool(packed.strip()) and is_text_head(packed))
    return is_snapshot_head(head) or is_text_head(head)
