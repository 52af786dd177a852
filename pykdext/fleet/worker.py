"""The program that reads one dump in a process of its own: the task on standard input, the answer on standard output.

It is started anew for each dump, so that whatever a damaged dump does to it concerns no other, and its memory is given
back.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import threading
import time
from typing import Any, Dict, List, Optional

from pykdext import pipeline
from pykdext.errors import PykdextError
from pykdext.kernel.kernel import Kernel
from pykdext.model.fleet import Answer, DumpStatus, Task
from pykdext.records.snapshotfile import render_snapshot_json
from pykdext.report.jsondoc import render_report_json

_GRACE_SECONDS = 5.0
_PARENT_SECONDS = 0.5


def analyze_dump(task: Task) -> Answer:
    """The verdict on one dump and the state it holds, as JSON documents; what is wrong with it as one line."""
    started = time.monotonic()
    try:
        lists = pipeline.TagLists.load(task.pooltags)
        with pipeline.open_source(task.path, symbol_path=task.symbols) as source:
            report = pipeline.analyze(source, lists, top=task.top)
            drivers = _read_drivers(source.kernel)
            status = DumpStatus.DONE if source.is_whole else DumpStatus.PARTIAL
            traffic = source.traffic
    except (PykdextError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        message = f"{task.shown_path}: {reason}" if reason else str(error)
        return Answer(DumpStatus.UNUSABLE.value, time.monotonic() - started, error=message)
    return Answer(
        status.value,
        time.monotonic() - started,
        report=json.loads(render_report_json(report)),
        state=json.loads(render_snapshot_json(report.snapshot)),
        drivers=drivers,
        fetched_bytes=traffic.fetched_bytes if traffic else None,
    )


def _read_drivers(kernel: Optional[Kernel]) -> List[Dict[str, Any]]:
    """Name and version of each loaded driver."""
    if kernel is None:
        return []
    return [
        {"name": image.module.name, "version": image.version.file_version, "company": image.version.company}
        for image in kernel.images
    ]


def _end_with_parent(parent: int) -> None:
    """End this process as soon as the batch that started it is gone: nobody reads its answer."""
    while os.getppid() == parent:
        time.sleep(_PARENT_SECONDS)
    os._exit(1)


def main() -> None:
    """Read a task, analyze, write the answer. The argument is the process that waits for it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the batch, which then ends this process
    if sys.platform != "win32":  # there the limit of time ends it
        threading.Thread(target=_end_with_parent, args=(int(sys.argv[1]),), daemon=True).start()
    task = Task(**json.load(sys.stdin))
    faulthandler.dump_traceback_later(task.timeout_seconds + _GRACE_SECONDS, exit=True)  # the batch may be gone
    answer = analyze_dump(task)
    sys.stdout.write(json.dumps(answer._asdict()))


if __name__ == "__main__":
    main()
