"""Parts of JSON documents that files and answers share: exact and unrounded; what is not known is null."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Dict, Optional

from pykdext.model.owners import ImageCoverage
from pykdext.model.pool import PoolKind, PoolSnapshot, PoolUsage, TableCoverage, TagUsage
from pykdext.model.untagged import UntaggedMemory

if TYPE_CHECKING:
    from pykdext.model.objects import HolderReport


def subject_document(snapshot: PoolSnapshot) -> Dict[str, Any]:
    """What a snapshot is of: source, moment, machine and its memory."""
    return {
        "source": asdict(snapshot.source),
        "taken_at": snapshot.taken_at.isoformat() if snapshot.taken_at else None,
        "time_from": snapshot.time_from.value if snapshot.time_from else None,
        "host": snapshot.host,
        "os": {
            "build": snapshot.build,
            "arch": snapshot.machine.value if snapshot.machine else None,
            "processors": snapshot.processors,
        },
        "uptime_seconds": snapshot.uptime_seconds,
        "boot_id": snapshot.boot_id,
        "bugcheck": asdict(snapshot.bugcheck) if snapshot.bugcheck else None,
        "memory": asdict(snapshot.memory),
        "memory_image": asdict(snapshot.image) if snapshot.image else None,
    }


def tag_document(row: TagUsage) -> Dict[str, Any]:
    """One tag with the counters of both pools."""
    usages = {pool.value: {**usage_document(row.usage(pool)), "clamped": row.usage(pool).clamped} for pool in PoolKind}
    return {"tag": row.tag.text, "hex": row.tag.hex, **usages}


def usage_document(usage: PoolUsage) -> Dict[str, Any]:
    """The counters of one tag in one pool."""
    return {
        "allocs": usage.allocs,
        "frees": usage.frees,
        "outstanding": usage.outstanding,
        "bytes": usage.bytes,
    }


def coverage_document(coverage: TableCoverage) -> Dict[str, Any]:
    """How much of the tag tables was read."""
    return {
        "processor_tables": {
            "read": coverage.processor_tables_read,
            "expected": coverage.processor_tables_expected,
        },
        "rows": {"read": coverage.rows_read, "expected": coverage.rows_expected},
        "expansion_table": coverage.expansion_table.value,
    }


def untagged_document(holding: UntaggedMemory) -> Dict[str, Any]:
    """One kind of memory that no tag counts."""
    return {
        "kind": holding.kind.value,
        "bytes": holding.bytes,
        "source": holding.source,
        "is_estimate": holding.is_estimate,
    }


def image_coverage_document(coverage: ImageCoverage) -> Dict[str, Any]:
    """How much of the driver images was searched."""
    return {
        "modules_scanned": coverage.modules_scanned,
        "modules_total": coverage.modules_total,
        "resident_fraction": coverage.resident_fraction,
        "discarded_bytes": coverage.discarded_bytes,
    }


def holder_document(report: HolderReport) -> Optional[Dict[str, Any]]:
    """The process that a verdict on the holders of a tag names."""
    process = report.holder
    return None if process is None else {"pid": process.pid, "image": process.image, "held": report.held}
