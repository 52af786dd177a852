"""The bytes of a dump on another machine, by any URL that fsspec reads (``https://``, ``s3://``, ``smb://`` ...).

A reader of dumps asks for a few bytes here and there, and a request costs as much as many kilobytes. So what is asked
for is fetched in blocks, and kept; where reads follow one another ever more is fetched at once.
"""

from __future__ import annotations

import io
import threading
import time
from collections import OrderedDict
from contextlib import contextmanager
from typing import IO, Any, Iterator, List, NamedTuple, Optional, Tuple, cast

from pykdext.errors import TargetError, say_install
from pykdext.printable import hide_secrets
from pykdext.targets.dump.webparts import MAX_PART_BYTES, WebParts, gives_web_parts
from pykdext.targets.filebytes import FileBytes
from pykdext.units import count_things

BLOCK_BYTES = 16 << 10
"""The least that is fetched: four pages, since the pages of a driver often lie together."""

CACHE_BYTES = 64 << 20
"""Of blocks that are kept; the one that was not used for the longest time goes first."""

MAX_REQUEST_BYTES = MAX_PART_BYTES
"""The most that is fetched at once: reads that follow one another double their requests up to this."""

_ATTEMPTS = 3
_PAUSE_SECONDS = 0.5
_STREAMS = 64
_IDENTITY_FIELDS = ("size", "ETag", "etag", "Content-MD5", "Last-Modified", "LastModified", "last_modified", "mtime")


class RemoteEntry(NamedTuple):
    """A file of a remote store; ``identity`` changes with its content, and is None if the store tells nothing."""

    url: str
    identity: Optional[str]


class RemoteListing(NamedTuple):
    """The files that a URL means, and whether it is that of a folder."""

    entries: Tuple[RemoteEntry, ...]
    is_folder: bool


class RemoteBytes(FileBytes):
    """Positional reads of a remote file: a :class:`FileBytes` whose bytes come over the network.

    Attributes:
        fetched_bytes: what came over the network so far. requests: in how many pieces.
    """

    def __init__(self, stream: IO[bytes], path: str, size: int) -> None:  # no file descriptor: not the base's
        self.path = hide_secrets(path)
        self.size = size
        self.warnings = ()
        self.fetched_bytes: int = 0
        self.requests = 0
        self._stream = stream
        self._lock = threading.Lock()
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._streams: OrderedDict[int, int] = OrderedDict()  # the block behind a request, and the blocks of that

    def read_at(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes at ``offset``, fewer only where the file ends; TargetError if the store fails."""
        end = min(offset + size, self.size)
        if offset >= end:
            return b""
        first, stop = offset // BLOCK_BYTES, -(-end // BLOCK_BYTES)
        with self._lock:
            data = b"".join(self._iter_blocks(first, stop))
        return data[offset - first * BLOCK_BYTES : end - first * BLOCK_BYTES]

    def skip_hole(self, offset: int) -> int:
        """``offset`` itself: a store does not tell where a file has holes."""
        return offset

    def close(self) -> None:
        """Forget the blocks and close the connection."""
        self._blocks.clear()
        self._stream.close()

    def _iter_blocks(self, number: int, stop: int) -> Iterator[bytes]:
        """The blocks of a range, those that are missing fetched with as few requests as possible."""
        while number < stop:
            block = self._blocks.get(number)
            if block is not None:
                self._blocks.move_to_end(number)
                yield block
                number += 1
                continue
            fetched = self._fetch_blocks(number, stop)
            yield from fetched[: stop - number]
            number += len(fetched)

    def _fetch_blocks(self, number: int, stop: int) -> List[bytes]:
        """The missing blocks from ``number`` on: those before ``stop``, or more if a request ended just before it."""
        most = MAX_REQUEST_BYTES // BLOCK_BYTES
        wanted = min(max(stop - number, 2 * self._streams.pop(number, 0)), most)
        end = min(number + wanted, -(-self.size // BLOCK_BYTES))
        end = next((known for known in range(number + 1, end) if known in self._blocks), end)
        data = self._fetch(number * BLOCK_BYTES, min(end * BLOCK_BYTES, self.size))
        blocks = [data[start : start + BLOCK_BYTES] for start in range(0, len(data), BLOCK_BYTES)]
        self._blocks.update(enumerate(blocks, number))
        self._streams[end] = end - number
        _shrink(self._blocks, CACHE_BYTES // BLOCK_BYTES)
        _shrink(self._streams, _STREAMS)
        return blocks

    def _fetch(self, start: int, end: int) -> bytes:
        """All bytes of a range; a request that fails is repeated twice."""
        for attempts_left in reversed(range(_ATTEMPTS)):
            try:
                with failures_named(f"{self.path}: at 0x{start:x}: cannot be read"):
                    self._stream.seek(start)
                    data = self._stream.read(end - start)
            except TargetError:
                if not attempts_left:
                    raise
                time.sleep(_PAUSE_SECONDS)
            else:
                break
        self.requests += 1
        self.fetched_bytes += len(data)
        if len(data) < end - start:
            found = f"found the end of the file, expected {count_things(self.size, 'byte')}"
            raise TargetError(f"{self.path}: at 0x{start + len(data):x}: {found}")
        return data


def is_remote(path: str) -> bool:
    """Whether ``path`` is a URL (``https://host/MEMORY.DMP``)."""
    return "://" in path


def open_remote_file(url: str) -> RemoteBytes:
    """Open a remote file for positional reads; TargetError if it cannot be reached or its store gives no parts."""
    with failures_named(f"{url}: cannot be opened"):
        store, path = _find_store(url)
        size = store.info(path)["size"]
        parts = gives_web_parts(store, path)
        stream = WebParts(store, path, size) if parts else store.open(path, "rb", cache_type="none")
    if size is None or not stream.seekable():
        stream.close()
        found = "found a server that gives whole files only, expected one that gives parts of them"
        raise TargetError(f"{hide_secrets(url)}: {found}")
    return RemoteBytes(cast("IO[bytes]", stream), url, int(size))


def open_remote_stream(url: str) -> IO[bytes]:
    """Open a remote file that is read from its beginning to its end, as a compressed one is."""
    with failures_named(f"{url}: cannot be opened"):
        store, path = _find_store(url)
        if gives_web_parts(store, path):
            return io.BufferedReader(WebParts(store, path, store.info(path)["size"]), MAX_REQUEST_BYTES)
        return cast("IO[bytes]", store.open(path, "rb", cache_type="readahead", block_size=MAX_REQUEST_BYTES))


def find_remote_files(url: str) -> RemoteListing:
    """The files that a URL means, by name: itself, all below a folder, or those that match a pattern with ``*``.

    A folder of a web server is told by a slash at its end: to ask the server would fetch a file's whole content.

    Raises:
        TargetError: the store cannot be reached, or there is no such file.
    """
    with failures_named(f"{url}: cannot be listed"):
        store, path = _find_store(url)
        is_folder = url.endswith("/") or (not url.startswith("http") and "*" not in url and store.isdir(path))
        paths = store.find(path) if is_folder else store.glob(path) if "*" in path else [path]
        entries = (
            RemoteEntry(str(store.unstrip_protocol(found)), _identify(store.info(found))) for found in sorted(paths)
        )
        return RemoteListing(tuple(entries), is_folder)


def _find_store(url: str) -> Tuple[Any, str]:
    """The file system of a URL as fsspec has it, and the path in it."""
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        hint = say_install("fleet")
        raise TargetError(f"{hide_secrets(url)}: fsspec is not installed. Hint: {hint}") from None
    store, path = url_to_fs(url)
    return store, path


def _identify(info: Any) -> Optional[str]:
    """What changes with a file's content; its size alone would not."""
    known = {name: str(info[name]) for name in _IDENTITY_FIELDS if info.get(name) is not None}
    return " ".join(known.values()) if known.keys() - {"size"} else None


@contextmanager
def failures_named(what: str) -> Iterator[None]:
    """Say every failure of a store in one line that begins with ``what``."""
    try:
        yield
    except TargetError:
        raise
    except Exception as error:  # every store has errors of its own
        cause = error.__cause__ or error  # a web server that does not answer is a missing file, caused by that
        reason = getattr(cause, "strerror", None) or " ".join(str(cause).split()) or type(cause).__name__
        raise TargetError(hide_secrets(f"{what}: {reason}")) from error


def _shrink(entries: OrderedDict[int, Any], most: int) -> None:
    while len(entries) > most:
        entries.popitem(last=False)
