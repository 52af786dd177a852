"""Who holds the objects of a tag, and the processes of a machine, as JSON and CSV."""

from __future__ import annotations

import json
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from pykdext.model.documents import holder_document, subject_document
from pykdext.model.objects import (
    HandleCensus,
    HolderReport,
    LookasideList,
    NumberCensus,
    ObjectType,
    Process,
    ProcessReport,
)
from pykdext.model.traces import VerifiedDriver
from pykdext.report.csvtext import iter_csv

HOLDERS_SCHEMA = "poolleak.holders/1"
PROCESSES_SCHEMA = "poolleak.processes/1"
PROCESS_COLUMNS = (
    "pid",
    "parent_pid",
    "session",
    "image",
    "address",
    "started_at",
    "active_threads",
    "handles",
    "handle_slots",
    "nonpaged_charge_bytes",
    "paged_charge_bytes",
    "commit_pages",
    "held_zombies",
)
_HOLDER_COLUMNS = ("pid", "image", "handles_counted", "handles_read", "handles_sampled", "type", "handles")


def render_holders_json(report: HolderReport) -> str:
    """``poolleak.holders/1``."""
    return json.dumps(holders_document(report), indent=2) + "\n"


def render_processes_json(report: ProcessReport) -> str:
    """``poolleak.processes/1``."""
    held = dict(report.held_zombies)
    document = {
        "schema": PROCESSES_SCHEMA,
        "subject": subject_document(report.snapshot),
        "verdict": report.sentence,
        "found": report.found,
        "lost": report.lost,
        "layout": report.layout,
        "handles": report.handles,
        "zombies": {"count": report.zombies, "images": _images(report.zombie_images)},
        "processes": [
            {**process_document(process), "held_zombies": held.get(process.pid)} for process in report.processes
        ],
        "numbers": _numbers_document(report.numbers, report.unlisted),
        "stuck": [
            {
                "pid": stuck.process.pid,
                "image": stuck.process.image,
                "active_threads": stuck.process.active_threads,
                "pending": stuck.pending,
                "drivers": [{"name": name, "requests": count} for name, count in stuck.drivers],
            }
            for stuck in report.stuck
        ],
        "warnings": list(report.warnings),
    }
    return json.dumps(document, indent=2) + "\n"


def render_processes_csv(report: ProcessReport) -> str:
    """A line for each process that is shown."""
    held = dict(report.held_zombies)
    rows = ({**process_document(process), "held_zombies": held.get(process.pid)} for process in report.processes)
    return "".join(iter_csv(PROCESS_COLUMNS, rows))


def render_holders_csv(report: HolderReport) -> str:
    """A line for each process and type of objects that its handles lead to."""
    return "".join(iter_csv(_HOLDER_COLUMNS, _iter_holder_rows(report)))


def _iter_holder_rows(report: HolderReport) -> Iterator[Dict[str, Any]]:
    for census in report.holders:
        for share in census.types:
            yield {
                "pid": census.process.pid,
                "image": census.process.image,
                "handles_counted": census.counted,
                "handles_read": census.read,
                "handles_sampled": census.sampled,
                "type": share.name,
                "handles": share.handles,
            }


def holders_document(report: HolderReport) -> Dict[str, Any]:
    """The report as a document; also part of a verdict."""
    sample = report.sample
    return {
        "schema": HOLDERS_SCHEMA,
        "subject": subject_document(report.snapshot),
        "tag": report.tag.text,
        "hex": report.tag.hex,
        "outstanding": report.outstanding,
        "bytes": report.bytes,
        "kind": report.kind.value,
        "verdict": report.sentence,
        "grade": report.grade,
        "next_step": report.next_step,
        "holder": holder_document(report),
        "types": [_type_document(kind) for kind in report.types],
        "processes": [_census_document(census) for census in report.holders],
        "zombies": {"count": report.zombies, "images": _images(report.zombie_images)},
        "sample": None
        if sample is None
        else {
            "blocks": sample.blocks,
            "objects": sample.objects,
            "without_handles": sample.without_handles,
            "creators": [{"name": name, "objects": count} for name, count in sample.creators],
            "unheld_creators": [{"name": name, "objects": count} for name, count in sample.unheld_creators],
        },
        "referencing": [
            {"module": driver.module, "objects": driver.objects, "of": driver.of, "place": driver.place}
            for driver in report.referencing
        ],
        "lookasides": [_list_document(item) for item in report.lookasides],
        "verifier": [_verifier_document(driver) for driver in report.verified],
        "reference_traces": [
            {
                "module": trace.module,
                "rva": trace.rva,
                "references_kept": trace.kept,
                "objects": trace.objects,
                "objects_alone": trace.alone,
                "of": trace.of,
            }
            for trace in report.traced
        ],
        "opened_at": [
            {"module": place.module, "address": place.address, "handles": place.handles, "of": place.of}
            for place in report.opened
        ],
        "coverage": {"processes_read": report.processes_read},
        "numbers": _numbers_document(report.numbers, report.unlisted),
        "warnings": list(report.warnings),
    }


def process_document(process: Process) -> Dict[str, Any]:
    """One process; times in ISO 8601."""
    return {
        "address": process.address,
        "pid": process.pid,
        "parent_pid": process.parent_pid,
        "session": process.session,
        "image": process.image,
        "started_at": None if process.started_at is None else process.started_at.isoformat(),
        "exited_at": None if process.exited_at is None else process.exited_at.isoformat(),
        "has_exited": process.has_exited,
        "active_threads": process.active_threads,
        "handles": process.handles,
        "handle_slots": process.handle_slots,
        "nonpaged_charge_bytes": process.nonpaged_charge_bytes,
        "paged_charge_bytes": process.paged_charge_bytes,
        "commit_pages": process.commit_pages,
        "object_handles": process.object_handles,
        "object_references": process.object_references,
    }


def _numbers_document(numbers: Optional[NumberCensus], unlisted: Sequence[Process]) -> Optional[Dict[str, Any]]:
    if numbers is None:
        return None
    return {
        "processes": numbers.processes,
        "threads": numbers.threads,
        "exited_threads": numbers.exited_threads,
        "unnumbered": numbers.unnumbered,
        "unlisted": [{"pid": process.pid, "image": process.image, "address": process.address} for process in unlisted],
        "pages": {"read": numbers.pages_read, "expected": numbers.pages_expected},
        "is_sampled": numbers.is_sampled,
    }


def _images(images: Tuple[Tuple[str, int], ...]) -> List[Dict[str, Any]]:
    return [{"image": image, "count": count} for image, count in images]


def _type_document(kind: ObjectType) -> Dict[str, Any]:
    return {
        "name": kind.name,
        "index": kind.index,
        "pool": kind.pool.value,
        "objects": kind.objects,
        "handles": kind.handles,
        "most_objects": kind.most_objects,
        "most_handles": kind.most_handles,
    }


def _census_document(census: HandleCensus) -> Dict[str, Any]:
    target = census.common_target
    common: Optional[Dict[str, Any]] = None
    if target is not None:
        common = {"type": target.type_name, "name": target.name, "handles": target.handles, "of": target.of}
    return {
        "process": process_document(census.process),
        "handles_counted": census.counted,
        "handles_read": census.read,
        "handles_sampled": census.sampled,
        "pages": {"read": census.pages_read, "expected": census.pages_expected},
        "types": [{"name": share.name, "handles": share.handles} for share in census.types],
        "unknown": census.unknown,
        "common_target": common,
        "zombies": {"count": census.zombies, "images": _images(census.zombie_images)},
    }


def _list_document(item: LookasideList) -> Dict[str, Any]:
    return {
        "address": item.address,
        "pool": item.pool.value,
        "size_bytes": item.size_bytes,
        "in_use": item.in_use,
        "taken": item.taken,
        "module": item.module,
        "rva": item.rva,
        "proof": item.proof or None,
        "is_proven": item.is_proven,
    }


def _verifier_document(driver: VerifiedDriver) -> Dict[str, Any]:
    return {
        "module": driver.name,
        "nonpaged_allocations": driver.nonpaged_allocations,
        "paged_allocations": driver.paged_allocations,
        "nonpaged_bytes": driver.nonpaged_bytes,
        "paged_bytes": driver.paged_bytes,
        "callers": [
            {
                "module": caller.module,
                "rva": caller.rva,
                "blocks": caller.blocks,
                "bytes": caller.bytes,
                "is_logged": caller.is_logged,
            }
            for caller in driver.callers
        ],
    }
