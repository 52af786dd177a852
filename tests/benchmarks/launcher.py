"""``launcher.py PROGRAM ARGUMENT...``: runs a program and prints its times, peak memory and status as JSON.

Imports as little as it can, for its own memory peak is the least that it can measure.
"""

from __future__ import annotations

import os
import sys
import time


def launch(arguments: list[str]) -> None:
    """Run the program to its end, without its output."""
    actions = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    started = time.perf_counter()
    child = os.posix_spawn(arguments[0], arguments, os.environ, file_actions=actions)
    _, status, usage = os.wait4(child, 0)
    seconds = time.perf_counter() - started
    peak_bytes = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
    cpu_seconds = usage.ru_utime + usage.ru_stime
    print(f'{{"seconds": {seconds!r}, "cpu_seconds": {cpu_seconds!r}, "peak_bytes": {peak_bytes}, "status": {code}}}')


if __name__ == "__main__":
    launch(sys.argv[1:])
