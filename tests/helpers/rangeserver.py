"""A web server that gives parts of files, as object stores do, and can misbehave."""

from __future__ import annotations

import re
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer


class Behaviour:
    """What the server does beyond its duty, and what it has sent."""

    def __init__(self):
        self.sent_bytes = 0
        self.requests = 0
        self.gives_parts = True
        self.fail_next = 0
        self.cut_at = None
        self.stall_seconds = 0.0


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, *arguments, behaviour, **options):
        self.behaviour = behaviour
        super().__init__(*arguments, **options)

    def log_message(self, *_):
        """Quiet."""

    def end_headers(self):
        if self.behaviour.gives_parts:
            self.send_header("Accept-Ranges", "bytes")
        super().end_headers()

    def do_GET(self):
        behaviour = self.behaviour
        behaviour.requests += 1
        time.sleep(behaviour.stall_seconds)
        if behaviour.fail_next:
            behaviour.fail_next -= 1
            self.close_connection = True
            self.connection.close()
            return
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if not found or not behaviour.gives_parts:
            super().do_GET()
            return
        with open(self.translate_path(self.path), "rb") as file:
            size = file.seek(0, 2)
            start, stop = int(found[1]), min(int(found[2]) + 1, size)
            if behaviour.cut_at is not None and start >= behaviour.cut_at:
                self.send_error(404)
                return
            file.seek(start)
            data = file.read(stop - start)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        behaviour.sent_bytes += len(data)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        """A reader that goes away is no news."""


class RangeServer:
    """Serves a folder at ``url`` while the block runs."""

    def __init__(self, folder):
        self.behaviour = Behaviour()
        handler = partial(_Handler, directory=str(folder), behaviour=self.behaviour)
        self._server = _Server(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
