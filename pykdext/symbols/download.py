"""One PDB from a symbol server into a cache: whole and of the right build, or not at all.

Source: WDK documentation, "HTTP symbol stores": a server answers for the paths of a symbol store.
"""

from __future__ import annotations

import http.client
import io
import math
import os
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any, Iterator, List, Optional, Type, TypeVar

from pykdext.errors import SymbolFileError
from pykdext.symbols.folders import store_parts
from pykdext.symbols.identity import PdbName
from pykdext.symbols.msf import MAX_FILE_BYTES
from pykdext.symbols.pdbfile import load_pdb
from pykdext.units import count_things
from pykdext.wholefile import open_partial

_PIECE_BYTES = 1 << 16
_REASON_CHARACTERS = 160
_USER_AGENT = "poolleak (pykdext)"


@dataclass(frozen=True)
class DownloadLimits:
    """When a download is given up: nothing arrives for so long, all of it takes so long, or it is so large."""

    silence_seconds: float = 30.0
    total_seconds: float = 600.0
    size_bytes: int = MAX_FILE_BYTES


_LIMITS = DownloadLimits()

_Connection = TypeVar("_Connection", bound=http.client.HTTPConnection)


def render_url(server: str, wanted: PdbName) -> str:
    """Where a server keeps a PDB."""
    name = urllib.parse.quote(wanted.file_name)
    return f"{server.rstrip('/')}/{name}/{wanted.key}/{name}"


def download_pdb(server: str, wanted: PdbName, cache: str, limits: DownloadLimits = _LIMITS) -> str:
    """Fetch a PDB and return its path in ``cache``. It gets its name there only when it proved to be the right one.

    Raises:
        SymbolFileError: it could not be had, is short, too large, damaged or of another build, or the cache cannot be
            written. Nothing is left behind: neither a file nor a new folder.
    """
    url = render_url(server, wanted)
    path = os.path.join(cache, *store_parts(cache, wanted))
    partial = ""
    new_folders: List[str] = []
    try:
        _make_folders(os.path.dirname(path), new_folders)
        file, partial = open_partial(path)
        with file:
            for piece in _iter_pieces(url, limits):
                file.write(piece)
        try:
            load_pdb(partial, wanted, base=0)
        except SymbolFileError as error:
            raise SymbolFileError(url, error.found, error.expected) from None
        os.replace(partial, path)
    except BaseException as error:
        _remove(partial, new_folders)
        if isinstance(error, OSError):
            found = f"a folder that cannot be written ({error.strerror})"
            raise SymbolFileError(cache, found, f"a cache for {wanted.file_name}") from error
        raise
    return path


def _make_folders(folder: str, made: List[str]) -> None:
    """Make ``folder`` and what is missing above it; ``made`` tells which, the outermost first, also on failure."""
    missing = []
    while folder and not os.path.isdir(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    for new in reversed(missing):
        os.mkdir(new)
        made.append(new)


def _remove(partial: str, folders: List[str]) -> None:
    if partial:
        os.unlink(partial)
    for folder in reversed(folders):
        try:
            os.rmdir(folder)
        except OSError:  # somebody else put a file there meanwhile
            return


def _iter_pieces(url: str, limits: DownloadLimits) -> Iterator[bytes]:
    """The body of the answer; SymbolFileError if it is not one, or not whole."""
    deadline = time.monotonic() + limits.total_seconds
    received = 0
    try:
        request = urllib.request.Request(url, headers={"User-Agent": _USER_AGENT})
        with _opener(limits.silence_seconds, deadline).open(request, timeout=limits.silence_seconds) as response:
            announced = response.headers.get("Content-Length", "")
            size_bytes = int(announced) if announced.isdigit() else None
            if size_bytes is not None and size_bytes > limits.size_bytes:
                raise SymbolFileError(url, count_things(size_bytes, "byte"), f"at most {limits.size_bytes:,}")
            while size_bytes is None or received < size_bytes:
                # read1: what has arrived; read would wait for a full piece and never see the deadline.
                piece = response.read1(_PIECE_BYTES)
                received += len(piece)
                if not piece:
                    break
                if received > limits.size_bytes:
                    raise SymbolFileError(url, "no end", f"at most {count_things(limits.size_bytes, 'byte')}")
                if time.monotonic() > deadline:
                    raise _describe_slowness(url, received, limits)
                yield piece
            if size_bytes is not None and received < size_bytes:
                raise SymbolFileError(url, count_things(received, "byte"), f"{size_bytes:,} as the server announced")
    except urllib.error.HTTPError as error:
        error.close()
        raise SymbolFileError(url, f"HTTP status {error.code} ({_one_line(error.reason)})", "the PDB") from None
    except (OSError, http.client.HTTPException, ValueError, OverflowError) as error:
        if time.monotonic() > deadline:
            raise _describe_slowness(url, received, limits) from None
        reason = _one_line(getattr(error, "reason", error)) or type(error).__name__
        raise SymbolFileError(url, f"no usable answer ({reason})", "the PDB") from None


def _describe_slowness(url: str, received: int, limits: DownloadLimits) -> SymbolFileError:
    found = f"{count_things(received, 'byte')} in {limits.total_seconds:g} seconds"
    return SymbolFileError(url, found, "the whole PDB in that time")


def _one_line(reason: object) -> str:
    """What the library or the server says, fit for a message: some texts have several lines, some no end."""
    text = str(reason)[:_REASON_CHARACTERS]
    return "".join(character if character.isprintable() else " " for character in text)


class _HurriedStream(io.RawIOBase):
    """What a server sends, until a moment: a drop now and then, even of the status line or a header, is not enough."""

    def __init__(self, connection: socket.socket, silence_seconds: float, deadline: float) -> None:
        self._connection = connection
        self._stream = connection.makefile("rb", buffering=0)
        self._silence_seconds = silence_seconds
        self._deadline = deadline

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> Optional[int]:
        """Wait for some bytes; TimeoutError if none came, or the moment has passed."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._connection.settimeout(min(self._silence_seconds, left))
        return self._stream.readinto(buffer)

    def close(self) -> None:
        """Let the connection go."""
        self._stream.close()
        super().close()


def _hurry(kind: Type[_Connection], silence_seconds: float, deadline: float) -> Type[_Connection]:
    """A connection of this kind whose answers must have come before a moment, on ``time.monotonic``'s clock."""

    class Response(http.client.HTTPResponse):
        def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:
            super().__init__(sock, *arguments, **options)
            self.fp.close()
            self.fp = io.BufferedReader(_HurriedStream(sock, silence_seconds, deadline))

    return type(kind.__name__, (kind,), {"response_class": Response})


class _HurriedHandler(urllib.request.HTTPHandler):
    """HTTP, whose answers must have come before a moment."""

    def __init__(self, silence_seconds: float = math.inf, deadline: float = math.inf) -> None:
        """By default without haste: other libraries make every handler that there is, without arguments."""
        super().__init__()
        self._connection = _hurry(http.client.HTTPConnection, silence_seconds, deadline)

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        """Ask, and read the head of the answer."""
        return self.do_open(self._connection, request)


class _HurriedSecureHandler(urllib.request.HTTPSHandler):
    """HTTPS, whose answers must have come before a moment."""

    def __init__(self, silence_seconds: float = math.inf, deadline: float = math.inf) -> None:
        super().__init__()
        self._connection = _hurry(http.client.HTTPSConnection, silence_seconds, deadline)

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        """Ask, and read the head of the answer."""
        return self.do_open(self._connection, request)


def _opener(silence_seconds: float, deadline: float) -> urllib.request.OpenerDirector:
    """HTTP, HTTPS and the system's proxies alone: no server can redirect to files or to another protocol."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        _HurriedHandler(silence_seconds, deadline),
        _HurriedSecureHandler(silence_seconds, deadline),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener
