"""Parts of a file on a web server, each checked: the one that was asked for, of the file that was opened, and no more.

A server may send another part than was asked for, or more, or a file that was replaced meanwhile: bytes of two files
would look like one dump. RFC 9110 (HTTP semantics), sections 8.8 (validators) and 14 (ranges).
"""

from __future__ import annotations

import asyncio
import io
from typing import Any, Optional

PART_SECONDS = 120
"""The most that one part may take, however slowly the server sends it."""

MAX_PART_BYTES = 1 << 20

_PARTIAL_CONTENT = 206
_READ_BYTES = 64 << 10
_VALIDATORS = ("ETag", "Last-Modified")


def gives_web_parts(store: Any, path: str) -> bool:
    """Whether ``store`` (of fsspec) is the web, and the server of ``path`` tells its size and gives parts of it."""
    protocols = (store.protocol,) if isinstance(store.protocol, str) else store.protocol
    if "http" not in protocols:
        return False
    info = store.info(path)
    return info["size"] is not None and info.get("partial", True)


class WebParts(io.RawIOBase):
    """A file of a web server, read part by part; ValueError where an answer is not what was asked for."""

    def __init__(self, store: Any, url: str, size: int) -> None:
        """``store``: fsspec's, which keeps the connections. ``size``: the bytes that the server announced."""
        super().__init__()
        self._store = store
        self._url = url
        self._size = size
        self._at = 0
        self._validator: Optional[str] = None

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """The place of the next read, as :meth:`io.IOBase.seek` has it."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(start + offset, 0)
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer`` with up to MAX_PART_BYTES from the place at hand, fewer only at the end; how many."""
        from fsspec.asyn import sync

        count = max(min(len(buffer), self._size - self._at, MAX_PART_BYTES), 0)
        if count:
            buffer[:count] = sync(self._store.loop, self._fetch_in_time, self._at, self._at + count)
        self._at += count
        return count

    async def _fetch_in_time(self, start: int, end: int) -> bytes:
        try:
            return await asyncio.wait_for(self._fetch(start, end), PART_SECONDS)
        except asyncio.TimeoutError:
            raise ValueError(f"the server sent no whole part within {PART_SECONDS} seconds") from None

    async def _fetch(self, start: int, end: int) -> bytes:
        session = await self._store.set_session()
        options = dict(self._store.kwargs)
        headers = {**options.pop("headers", {}), "Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        async with session.get(self._store.encode_url(self._url), headers=headers, **options) as answer:
            answer.raise_for_status()
            self._check(answer, start, end)
            data = bytearray()
            while len(data) <= end - start:
                piece = await answer.content.read(_READ_BYTES)
                if not piece:
                    break
                data += piece
        if len(data) != end - start:
            found = "more" if len(data) > end - start else f"{len(data):,}"
            raise ValueError(f"found a part of {found} bytes, expected {end - start:,}")
        return bytes(data)

    def _check(self, answer: Any, start: int, end: int) -> None:
        """That an answer's head speaks of the part that was asked for, and of the file that was read before."""
        expected = f"bytes {start}-{end - 1}/"
        found = answer.headers.get("Content-Range", "")
        is_part = answer.status == _PARTIAL_CONTENT and found in (f"{expected}{self._size}", f"{expected}*")
        is_whole = answer.status != _PARTIAL_CONTENT and answer.content_length == self._size == end - start
        if not is_part and not is_whole:
            raise ValueError(f"found {found[:60]!r} with status {answer.status}, expected '{expected}{self._size}'")
        validator = next((str(answer.headers[name]) for name in _VALIDATORS if name in answer.headers), None)
        if self._validator is not None and validator != self._validator:
            raise ValueError("the file on the server was replaced while it was read; read it again")
        self._validator = validator
