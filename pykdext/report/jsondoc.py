"""Values as JSON documents: the same numbers as the text, exact and unrounded; what is not known is null."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, Dict, Sequence

from pykdext.model import (
    BlockReport,
    ContentsWitness,
    Evidence,
    ImageVersion,
    LeakReport,
    LockstepGroup,
    Owner,
    PoolTotal,
    Suspect,
    TagDescription,
    TagOwners,
)
from pykdext.model.documents import (
    coverage_document,
    holder_document,
    image_coverage_document,
    subject_document,
    tag_document,
    untagged_document,
    usage_document,
)
from pykdext.model.fleet import REPORT_SCHEMA
from pykdext.report.sentences.owners import find_address
from pykdext.report.sentences.tags import verdict_on_blocks, verdict_on_owners

BLOCKS_SCHEMA = "poolleak.blocks/1"
OWNERS_SCHEMA = "poolleak.owners/1"


def render_owners_json(found: Sequence[TagOwners], warnings: Sequence[str]) -> str:
    """``poolleak.owners/1``."""
    tags = [
        {
            "tag": owners.tag.text,
            "hex": owners.tag.hex,
            "owners": [owner_document(owner) for owner in owners.owners],
            "descriptions": [description_document(item) for item in owners.descriptions],
            "notes": list(owners.notes),
            "coverage": image_coverage_document(owners.coverage),
        }
        for owners in found
    ]
    return _dump(
        {"schema": OWNERS_SCHEMA, "verdict": verdict_on_owners(found), "tags": tags, "warnings": list(warnings)}
    )


def render_report_json(report: LeakReport) -> str:
    """``poolleak.report/1``."""
    images = report.image_coverage
    document = {
        "schema": REPORT_SCHEMA,
        "subject": subject_document(report.snapshot),
        "verdict": report.verdict,
        "pools": {total.pool.value: pool_document(total) for total in report.pools},
        "suspects": [suspect_document(suspect) for suspect in report.suspects],
        "largest": [suspect_document(suspect) for suspect in report.largest],
        "groups": [group_document(group) for group in report.groups],
        "companions": [suspect_document(suspect) for suspect in report.companions],
        "untagged": [untagged_document(holding) for holding in report.untagged],
        "fills": report.fills.kind.value if report.fills else None,
        "holders": [
            {
                "tag": holder.tag.text,
                "hex": holder.tag.hex,
                "kind": holder.kind.value,
                "verdict": holder.sentence,
                "grade": holder.grade,
                "holder": holder_document(holder),
            }
            for holder in report.holders
        ],
        "next_steps": [asdict(step) for step in report.next_steps],
        "coverage": {
            **coverage_document(report.snapshot.coverage),
            "images": image_coverage_document(images) if images else None,
        },
        "warnings": list(report.warnings),
    }
    return _dump(document)


def render_blocks_json(report: BlockReport) -> str:
    """``poolleak.blocks/1``: all blocks found, those of the sample with their first bytes."""
    heads = {view.block.address: view.head.hex() for view in report.sample if view.head}
    document = {
        "schema": BLOCKS_SCHEMA,
        "verdict": verdict_on_blocks(report),
        "source": asdict(report.source),
        "counted": tag_document(report.counted),
        "sizes": [{"size_bytes": size, "blocks": count} for size, count in report.sizes],
        "freed": report.freed,
        "witness": _witness_document(report.witness) if report.witness is not None else None,
        "stated_drivers": [
            {"module": item.module, "told_by": item.told_by, "text": item.text} for item in report.stated
        ],
        "blocks": [
            {
                "address": block.address,
                "size_bytes": block.size_bytes,
                "pool": block.pool.value if block.pool else None,
                "is_big": block.is_big,
                "is_certain": block.is_certain,
                "is_likely": block.is_likely,
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


def suspect_document(suspect: Suspect) -> Dict[str, Any]:
    """A suspect of ``poolleak.report/1``."""
    return {
        "tag": suspect.tag.text,
        "hex": suspect.tag.hex,
        "pool": suspect.pool.value,
        **usage_document(suspect.usage),
        "share": suspect.share,
        "freed_share": suspect.usage.freed_share,
        "bytes_per_hour_since_boot": suspect.bytes_per_hour,
        "score": suspect.score,
        "reasons": list(suspect.reasons),
        "role": suspect.role.value,
        "owners": [owner_document(owner) for owner in suspect.owners],
        "owner_notes": list(suspect.owner_notes),
        "descriptions": [description_document(item) for item in suspect.descriptions],
    }


def pool_document(total: PoolTotal) -> Dict[str, Any]:
    """What a pool holds and may hold."""
    return {"used_bytes": total.used_bytes, "limit_bytes": total.limit_bytes, "by_tags": total.by_tags}


def owner_document(owner: Owner) -> Dict[str, Any]:
    """An owner with all evidence."""
    return {
        "module": owner.module,
        "confidence": owner.confidence.value,
        "part_of_windows": owner.part_of_windows,
        "version": _version_document(owner.version) if owner.version else None,
        "base": owner.base,
        "evidence": [evidence_document(owner, item) for item in owner.evidence],
    }


def _version_document(version: ImageVersion) -> Dict[str, Any]:
    built_at = version.built_at.isoformat() if version.built_at else None
    return {**asdict(version), "built_at": built_at}


def evidence_document(owner: Owner, item: Evidence) -> Dict[str, Any]:
    """One reason to name an owner; the address is that in the target's memory."""
    return {
        "kind": item.kind.value,
        "confidence": item.confidence.value,
        "rva": item.rva,
        "address": find_address(owner, item),
        "function": item.function,
        "detail": item.detail,
    }


def description_document(item: TagDescription) -> Dict[str, Any]:
    """What a tag list says."""
    return {
        "pattern": item.pattern,
        "module": item.module,
        "text": item.text,
        "source": item.source,
        "class": item.tag_class.value if item.tag_class else None,
        "next_question": item.next_question,
    }


def group_document(group: LockstepGroup) -> Dict[str, Any]:
    """Tags whose blocks agree in number."""
    return {
        "number": group.number,
        "members": [
            {
                "tag": member.tag.text,
                "hex": member.tag.hex,
                "pool": member.pool.value,
                "blocks": member.blocks,
                "ratio": member.ratio,
                "freed_share": member.freed_share,
                "role": member.role.value,
                "reason": member.reason,
            }
            for member in group.members
        ],
    }
