"""Where the memory is, as ``poolleak.memory/1`` and as CSV."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, Dict, Iterator, Optional

from pykdext.model.documents import subject_document, untagged_document
from pykdext.model.memory import CommitSheet, MemoryByProcess, MemoryReport, PageFrames
from pykdext.report.csvtext import iter_csv

MEMORY_SCHEMA = "poolleak.memory/1"

_COLUMNS = ("table", "name", "bytes", "error_bytes", "of")


def render_memory_json(report: MemoryReport) -> str:
    """``poolleak.memory/1``."""
    return json.dumps(_memory_document(report), indent=2) + "\n"


def render_memory_csv(report: MemoryReport) -> str:
    """A line for each use of page frames and each line of the commit sheet."""
    return "".join(iter_csv(_COLUMNS, _iter_rows(report)))


def _memory_document(report: MemoryReport) -> Dict[str, Any]:
    return {
        "schema": MEMORY_SCHEMA,
        "subject": subject_document(report.snapshot),
        "verdict": report.verdict,
        "frames": _frames_document(report.frames),
        "commit": _commit_document(report.sheet),
        "processes": _processes_document(report.by_process),
        "untagged": [untagged_document(holding) for holding in report.untagged],
        "dominant": report.dominant.kind.value if report.dominant else None,
        "mappers": None if report.mappers is None else [asdict(holder) for holder in report.mappers],
        "balloon_drivers": list(report.balloons),
        "next_steps": [asdict(step) for step in report.next_steps],
        "warnings": list(report.warnings),
    }


def _frames_document(frames: Optional[PageFrames]) -> Optional[Dict[str, Any]]:
    if frames is None:
        return None
    return {
        "expected": frames.expected,
        "read": frames.read,
        "frame_bytes": frames.frame_bytes,
        "is_sampled": frames.is_sampled,
        "has_regions": frames.has_regions,
        "source": frames.source,
        "private_by_process": [asdict(process) for process in frames.private],
        "uses": [
            {
                "use": count.use.value,
                "frames": count.frames,
                "bytes": count.frames * frames.frame_bytes,
                "error_bytes": count.error_frames * frames.frame_bytes,
            }
            for count in frames.uses
        ],
    }


def _commit_document(sheet: Optional[CommitSheet]) -> Optional[Dict[str, Any]]:
    if sheet is None:
        return None
    return {
        "lines": [{"name": line.name, "part": line.part.value, "bytes": line.bytes} for line in sheet.lines],
        "committed_bytes": sheet.committed_bytes,
        "limit_bytes": sheet.limit_bytes,
        "peak_bytes": sheet.peak_bytes,
        "unexplained_bytes": sheet.unexplained_bytes,
        "physical_bytes": sheet.physical_bytes,
        "available_bytes": sheet.available_bytes,
        "resident_available_bytes": sheet.resident_available_bytes,
        "system_pte_bytes": sheet.system_pte_bytes,
        "system_pte_free_bytes": sheet.system_pte_free_bytes,
        "failures": [asdict(failure) for failure in sheet.failures],
        "doubtful": list(sheet.doubtful),
        "sessions": [asdict(session) for session in sheet.sessions],
    }


def _processes_document(found: Optional[MemoryByProcess]) -> Optional[Dict[str, Any]]:
    if found is None:
        return None
    return {
        "committed_bytes": found.bytes,
        "unknown": found.unknown,
        "processes": [asdict(process) for process in found.processes],
    }


def _iter_rows(report: MemoryReport) -> Iterator[Dict[str, Any]]:
    for row in (_frames_document(report.frames) or {"uses": []})["uses"]:
        yield {"table": "pages by use", "name": row["use"], "bytes": row["bytes"], "error_bytes": row["error_bytes"]}
    for private in report.frames.private if report.frames else ():
        name = private.image if private.pid is None else f"{private.image} ({private.pid})"
        state = "exited" if private.has_exited else "running"
        yield {"table": "private pages by process", "name": name, "bytes": private.bytes, "of": state}
    for line in report.sheet.lines if report.sheet else ():
        yield {"table": "committed", "name": line.name, "bytes": line.bytes, "of": line.part.value}
    if report.sheet and report.sheet.unexplained_bytes is not None:
        yield {"table": "committed", "name": "in no counter", "bytes": report.sheet.unexplained_bytes}
    for holder in report.mappers or ():
        kind = "tag" if holder.is_tag else "driver"
        yield {"table": f"points at {report.pointed_at}", "name": holder.name, "bytes": holder.most_bytes, "of": kind}
    for session in report.sheet.sessions if report.sheet else ():
        name = "session" if session.number is None else f"session {session.number}"
        yield {"table": "sessions", "name": name, "bytes": session.committed_bytes, "of": "committed"}
        yield {"table": "sessions", "name": name, "bytes": session.paged_pool_bytes, "of": "paged pool"}
    for process in report.by_process.processes if report.by_process else ():
        name = f"{process.image} ({process.pid})"
        state = "exited" if process.has_exited else "running"
        yield {"table": "committed by process", "name": name, "bytes": process.bytes, "of": state}
