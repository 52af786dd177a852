"""A web server that gives one honest part of a file, and lies from then on."""

from __future__ import annotations

import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class LyingServer:
    """Serves ``content`` and zeros up to ``size`` at any path of ``url`` while the block runs.

    ``other``: "ETag" changes that with each answer; anything else is a place to redirect to. ``head``: the
    Content-Range of a lie (None: none). ``body``: whether it is right, wrong (another part), short, endless, or drips.
    """

    def __init__(self, size, other, head, body, content=b""):
        self.size = size
        self.other = other
        self.head = head
        self.body = body
        self.content = content
        self.sent_bytes = 0
        self.parts = 0
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                """Quiet."""

            def do_HEAD(self):
                self.send_response(200)
                self.send_header("Accept-Ranges", "bytes")
                self.send_header("Content-Length", str(owner.size))
                self.end_headers()

            def do_GET(self):
                found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
                owner.parts += 1
                owner.answer(self, int(found[1]), int(found[2]), is_lie=owner.parts > 1)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, request, start, last, is_lie):
        """One part of the file, or the lie."""
        body = self.body if is_lie else "right"
        head = self.head if is_lie else "bytes {start}-{last}/{size}"
        count = last - start + 1
        if is_lie and self.other not in (None, "ETag"):
            request.send_response(302)
            request.send_header("Location", self.other)
            request.end_headers()
            return
        request.send_response(206)
        if self.other == "ETag":
            request.send_header("ETag", f'"{self.parts}"')
        shift = 4096 if body == "wrong" else 0
        if head is not None:
            start = 4096 if shift else start
            request.send_header("Content-Range", head.format(start=start, last=start + count - 1, size=self.size))
        if body not in ("endless", "drip"):
            request.send_header("Content-Length", str(count // 2 if body == "short" else count))
        request.end_headers()
        while body in ("endless", "drip"):
            piece = bytes(1 if body == "drip" else 1 << 16)
            request.wfile.write(piece)
            self.sent_bytes += len(piece)
            if body == "drip":
                time.sleep(0.02)
        part = self.content[start : start + count].ljust(count, b"\0")
        request.wfile.write(part[: count // 2] if body == "short" else part)
        self.sent_bytes += count

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
