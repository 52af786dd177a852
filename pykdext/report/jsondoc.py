"""Values as JSON documents: the same numbers as the text, exact and unrounded; what is not known is null."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, Dict, Optional, Sequence

from pykdext.model import (
    BlockReport,
    ContentsWitness,
    Evidence,
    ImageVersion,
    LeakReport,
    Owner,
    PoolKind,
    PoolSnapshot,
    PoolUsage,
    Suspect,
    TableCoverage,
    TagDescription,
    TagOwners,
    TagUsage,
)
from pykdext.model.fleet import REPORT_SCHEMA

SNAPSHOT_SCHEMA = "poolleak.snapshot/1"
BLOCKS_SCHEMA = "poolleak.blocks/1"
OWNERS_SCHEMA = "poolleak.owners/1"


def render_snapshot_json(snapshot: PoolSnapshot, tags: Optional[Sequence[TagUsage]] = None) -> str:
    """``poolleak.snapshot/1``, one line a tag, so that any diff tool compares two files sensibly.

    ``tags`` are the rows to list, by default all; the totals are always those of the whole snapshot.
    """
    head = {
        "schema": SNAPSHOT_SCHEMA,
        **_subject_document(snapshot),
        "totals": {f"{pool.value}_bytes": snapshot.total_bytes(pool) for pool in PoolKind},
        "stated": {pool.value: _stated_document(snapshot.stated_total(pool)) for pool in PoolKind},
        "stated_drivers": [
            {"hex": item.tag.hex, "module": item.module, "told_by": item.told_by, "text": item.text}
            for item in snapshot.stated_drivers
        ],
        "blocks": [
            {
                "address": block.address,
                "size_bytes": block.size_bytes,
                "hex": block.tag.hex,
                "pool": block.pool.value if block.pool else None,
                "big": block.is_big,
                "certain": block.is_certain,
            }
            for block in snapshot.blocks
        ],
        "coverage": _table_coverage_document(snapshot.coverage),
        "warnings": list(snapshot.warnings),
    }
    rows = ",\n".join("    " + json.dumps(_tag_document(row)) for row in (snapshot.tags if tags is None else tags))
    return f'{json.dumps(head, indent=2)[:-2]},\n  "tags": [\n{rows}\n  ]\n}}\n'


def render_owners_json(found: Sequence[TagOwners], warnings: Sequence[str]) -> str:
    """``poolleak.owners/1``."""
    tags = [
        {
            "tag": owners.tag.text,
            "hex": owners.tag.hex,
            "owners": [_owner_document(owner) for owner in owners.owners],
            "descriptions": [_description_document(item) for item in owners.descriptions],
            "notes": list(owners.notes),
            "coverage": asdict(owners.coverage),
        }
        for owners in found
    ]
    return _dump({"schema": OWNERS_SCHEMA, "tags": tags, "warnings": list(warnings)})


def render_report_json(report: LeakReport) -> str:
    """``poolleak.report/1``."""
    images = report.image_coverage
    document = {
        "schema": REPORT_SCHEMA,
        "subject": _subject_document(report.snapshot),
        "verdict": report.verdict,
        "pools": {
            total.pool.value: {
                "used_bytes": total.used_bytes,
                "limit_bytes": total.limit_bytes,
                "by_tags": total.by_tags,
            }
            for total in report.pools
        },
        "suspects": [suspect_document(suspect) for suspect in report.suspects],
        "next_steps": [asdict(step) for step in report.next_steps],
        "coverage": {
            **_table_coverage_document(report.snapshot.coverage),
            "images": asdict(images) if images else None,
        },
        "warnings": list(report.warnings),
    }
    return _dump(document)


def render_blocks_json(report: BlockReport) -> str:
    """``poolleak.blocks/1``: all blocks found, those of the sample with their first bytes."""
    heads = {view.block.address: view.head.hex() for view in report.sample if view.head}
    document = {
        "schema": BLOCKS_SCHEMA,
        "source": asdict(report.source),
        "counted": _tag_document(report.counted),
        "sizes": [{"size_bytes": size, "blocks": count} for size, count in report.sizes],
        "freed": report.freed,
        "witness": _witness_document(report.witness) if report.witness is not None else None,
        "blocks": [
            {
                "address": block.address,
                "size_bytes": block.size_bytes,
                "pool": block.pool.value if block.pool else None,
                "is_big": block.is_big,
                "is_certain": block.is_certain,
                "head": heads.get(block.address),
            }
            for block in report.found
        ],
        "warnings": list(report.warnings),
    }
    return _dump(document)


def _witness_document(witness: ContentsWitness) -> Dict[str, Any]:
    return {"blocks_sampled": witness.blocks_sampled, "drivers": [asdict(driver) for driver in witness.drivers]}


def _dump(document: Dict[str, Any]) -> str:
    return json.dumps(document, indent=2) + "\n"


def _subject_document(snapshot: PoolSnapshot) -> Dict[str, Any]:
    return {
        "source": asdict(snapshot.source),
        "taken_at": snapshot.taken_at.isoformat() if snapshot.taken_at else None,
        "time_from": snapshot.time_from,
        "host": snapshot.host,
        "os": {
            "build": snapshot.build,
            "arch": snapshot.machine.value if snapshot.machine else None,
            "processors": snapshot.processors,
        },
        "uptime_seconds": snapshot.uptime_seconds,
        "bugcheck": asdict(snapshot.bugcheck) if snapshot.bugcheck else None,
        "memory": asdict(snapshot.memory),
    }


def _tag_document(row: TagUsage) -> Dict[str, Any]:
    usages = {pool.value: {**usage_document(row.usage(pool)), "clamped": row.usage(pool).clamped} for pool in PoolKind}
    return {"tag": row.tag.text, "hex": row.tag.hex, **usages}


def _stated_document(usage: Optional[PoolUsage]) -> Optional[Dict[str, Any]]:
    return None if usage is None else {**usage_document(usage), "clamped": usage.clamped}


def usage_document(usage: PoolUsage) -> Dict[str, Any]:
    """The counters of one tag in one pool."""
    return {
        "allocs": usage.allocs,
        "frees": usage.frees,
        "outstanding": usage.outstanding,
        "bytes": usage.bytes,
    }


def _table_coverage_document(coverage: TableCoverage) -> Dict[str, Any]:
    return {
        "processor_tables": {
            "read": coverage.processor_tables_read,
            "expected": coverage.processor_tables_expected,
        },
        "rows": {"read": coverage.rows_read, "expected": coverage.rows_expected},
        "expansion_table": coverage.expansion_table,
    }


def suspect_document(suspect: Suspect) -> Dict[str, Any]:
    """A suspect of ``poolleak.report/1``."""
    return {
        "tag": suspect.tag.text,
        "hex": suspect.tag.hex,
        "pool": suspect.pool.value,
        **usage_document(suspect.usage),
        "share": suspect.share,
        "freed_share": suspect.usage.freed_share,
        "growth": None,
        "bytes_per_hour_since_boot": suspect.bytes_per_hour,
        "score": suspect.score,
        "reasons": list(suspect.reasons),
        "role": suspect.role.value,
        "owners": [_owner_document(owner) for owner in suspect.owners],
        "owner_notes": list(suspect.owner_notes),
        "descriptions": [_description_document(item) for item in suspect.descriptions],
    }


def _owner_document(owner: Owner) -> Dict[str, Any]:
    return {
        "module": owner.module,
        "confidence": owner.confidence.value,
        "part_of_windows": owner.part_of_windows,
        "version": _version_document(owner.version) if owner.version else None,
        "evidence": [evidence_document(item) for item in owner.evidence],
    }


def _version_document(version: ImageVersion) -> Dict[str, Any]:
    built_at = version.built_at.isoformat() if version.built_at else None
    return {**asdict(version), "built_at": built_at}


def evidence_document(item: Evidence) -> Dict[str, Any]:
    """One reason to name an owner."""
    return {
        "kind": item.kind,
        "confidence": item.confidence.value,
        "rva": item.rva,
        "function": item.function,
        "detail": item.detail,
    }


def _description_document(item: TagDescription) -> Dict[str, Any]:
    return {
        "pattern": item.pattern,
        "module": item.module,
        "text": item.text,
        "source": item.source,
        "class": item.tag_class,
        "next_question": item.next_question,
    }
