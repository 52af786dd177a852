"""One PDB from a symbol server into a cache: whole and of the right build, or not at all.

Source: WDK documentation, "HTTP symbol stores": a server answers for the paths of a symbol store.
"""

from __future__ import annotations

import http.client
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Iterator, List

from pykdext.errors import SymbolFileError
from pykdext.symbols.folders import store_parts
from pykdext.symbols.identity import PdbName
from pykdext.symbols.msf import MAX_FILE_BYTES
from pykdext.symbols.pdbfile import load_pdb

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
    partial = f"{path}.{os.getpid()}.partial"
    new_folders: List[str] = []
    try:
        _make_folders(os.path.dirname(path), new_folders)
        with open(partial, "wb") as file:
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
    if os.path.exists(partial):
        os.unlink(partial)
    for folder in reversed(folders):
        try:
            os.rmdir(folder)
        except OSError:  # somebody else put a file there meanwhile
            return


def _iter_pieces(url: str, limits: DownloadLimits) -> Iterator[bytes]:
    """The body of the answer; SymbolFileError if it is not one, or not whole."""
    deadline = time.monotonic() + limits.total_seconds
    try:
        request = urllib.request.Request(url, headers={"User-Agent": _USER_AGENT})
        with _opener().open(request, timeout=limits.silence_seconds) as response:
            announced = response.headers.get("Content-Length", "")
            size_bytes = int(announced) if announced.isdigit() else None
            received = 0
            if size_bytes is not None and size_bytes > limits.size_bytes:
                raise SymbolFileError(url, f"{size_bytes} bytes", f"at most {limits.size_bytes}")
            while size_bytes is None or received < size_bytes:
                # read1: what has arrived; read would wait for a full piece and never see the deadline.
                piece = response.read1(_PIECE_BYTES)
                received += len(piece)
                if not piece:
                    break
                if received > limits.size_bytes:
                    raise SymbolFileError(url, "no end", f"at most {limits.size_bytes} bytes")
                if time.monotonic() > deadline:
                    found = f"{received} bytes in {limits.total_seconds:g} seconds"
                    raise SymbolFileError(url, found, "the whole PDB in that time")
                yield piece
            if size_bytes is not None and received < size_bytes:
                raise SymbolFileError(url, f"{received} bytes", f"{size_bytes} as the server announced")
    except urllib.error.HTTPError as error:
        error.close()
        raise SymbolFileError(url, f"HTTP status {error.code} ({_one_line(error.reason)})", "the PDB") from None
    except (OSError, http.client.HTTPException, ValueError, OverflowError) as error:
        reason = _one_line(getattr(error, "reason", error)) or type(error).__name__
        raise SymbolFileError(url, f"no usable answer ({reason})", "the PDB") from None


def _one_line(reason: object) -> str:
    """What the library or the server says, fit for a message: some texts have several lines, some no end."""
    text = str(reason)[:_REASON_CHARACTERS]
    return "".join(character if character.isprintable() else " " for character in text)


def _opener() -> urllib.request.OpenerDirector:
    """HTTP, HTTPS and the system's proxies alone: no server can redirect to files or to another protocol."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener
