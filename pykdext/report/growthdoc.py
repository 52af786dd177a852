"""Differences and trends as JSON documents: exact and unrounded; what is not known is null."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, Dict, Iterable, Optional, Sequence

from pykdext.model import (
    Conclusion,
    Diff,
    GrownTag,
    PoolKind,
    PoolSnapshot,
    Segment,
    TagDelta,
    TotalTrend,
    Trend,
    TrendReport,
)
from pykdext.model.documents import image_coverage_document
from pykdext.report.jsondoc import description_document, group_document, owner_document, pool_document

DIFF_SCHEMA = "poolleak.diff/1"
TREND_SCHEMA = "poolleak.trend/1"


def render_diff_json(diff: Diff, conclusion: Conclusion, rows: Optional[Sequence[TagDelta]] = None) -> str:
    """``poolleak.diff/1``, one line a row; ``rows`` are those to list, by default all."""
    head = {
        "schema": DIFF_SCHEMA,
        "verdict": conclusion.verdict,
        "interval_seconds": diff.interval_seconds,
        "before": _state_document(diff.before),
        "after": _state_document(diff.after),
        "totals": {f"{pool.value}_bytes": diff.total_bytes(pool) for pool in PoolKind},
        "restart": diff.restart,
        **_conclusion_document(conclusion),
        "groups": [group_document(group) for group in conclusion.groups],
        "warnings": [*conclusion.warnings, *diff.warnings],
    }
    return _dump_with_rows(head, "deltas", map(delta_document, diff.deltas if rows is None else rows))


def render_trend_json(report: TrendReport, conclusion: Conclusion) -> str:
    """``poolleak.trend/1``, one line a tag and pool."""
    head = {
        "schema": TREND_SCHEMA,
        "verdict": conclusion.verdict,
        "samples": report.samples,
        "span_seconds": report.span_seconds,
        "segments": [_segment_document(segment, report.judged) for segment in report.segments],
        "newest": _state_document(report.newest) if report.newest else None,
        "totals": [_total_document(total) for total in report.totals],
        **_conclusion_document(conclusion),
        "groups": [group_document(group) for group in report.groups],
        "warnings": [*conclusion.warnings, *report.warnings],
    }
    return _dump_with_rows(head, "trends", map(trend_document, report.trends))


def _conclusion_document(conclusion: Conclusion) -> Dict[str, Any]:
    images = conclusion.image_coverage
    return {
        "pools": {
            side: {total.pool.value: pool_document(total) for total in totals} or None
            for side, totals in (("before", conclusion.before), ("after", conclusion.after))
        },
        "grown": [_grown_document(item) for item in conclusion.grown],
        "next_steps": [asdict(step) for step in conclusion.next_steps],
        "images": image_coverage_document(images) if images else None,
    }


def _grown_document(item: GrownTag) -> Dict[str, Any]:
    return {
        "tag": item.tag.text,
        "hex": item.tag.hex,
        "pool": item.pool.value,
        "bytes": item.bytes,
        "blocks": item.blocks,
        "bytes_per_hour": item.bytes_per_hour,
        "role": item.role.value,
        "owners": [owner_document(owner) for owner in item.owners],
        "owner_notes": list(item.notes),
        "descriptions": [description_document(entry) for entry in item.descriptions],
    }


def _dump_with_rows(head: Dict[str, Any], name: str, rows: Iterable[Dict[str, Any]]) -> str:
    """Each row on a line of its own, so that any diff tool compares two files sensibly."""
    lines = ",\n".join("    " + json.dumps(row) for row in rows)
    listed = f"[\n{lines}\n  ]" if lines else "[]"
    return f'{json.dumps(head, indent=2)[:-2]},\n  "{name}": {listed}\n}}\n'


def _state_document(snapshot: PoolSnapshot) -> Dict[str, Any]:
    return {
        "source": asdict(snapshot.source),
        "taken_at": snapshot.taken_at.isoformat() if snapshot.taken_at else None,
        "time_from": snapshot.time_from.value if snapshot.time_from else None,
        "host": snapshot.host,
        "build": snapshot.build,
        "uptime_seconds": snapshot.uptime_seconds,
        "memory": asdict(snapshot.memory),
        "totals": {f"{pool.value}_bytes": snapshot.total_bytes(pool) for pool in PoolKind},
    }


def delta_document(delta: TagDelta) -> Dict[str, Any]:
    """A row of ``poolleak.diff/1``."""
    return {
        "tag": delta.tag.text,
        "hex": delta.tag.hex,
        "pool": delta.pool.value,
        "allocs": delta.allocs,
        "frees": delta.frees,
        "outstanding": delta.outstanding,
        "bytes": delta.bytes,
        "bytes_per_hour": delta.bytes_per_hour,
        "changes": [change.value for change in delta.changes],
    }


def trend_document(trend: Trend) -> Dict[str, Any]:
    """A row of ``poolleak.trend/1``."""
    slope = trend.slope
    return {
        "tag": trend.tag.text,
        "hex": trend.tag.hex,
        "pool": trend.pool.value,
        "first_bytes": trend.first_bytes,
        "last_bytes": trend.last_bytes,
        "slope_bytes_per_hour": slope.bytes_per_hour if slope else None,
        "slope_low": slope.low if slope else None,
        "slope_high": slope.high if slope else None,
        "monotonic_p": trend.monotonic_p,
        "verdict": trend.verdict.value,
        "hours_to_limit": trend.hours_to_limit,
        "limit": trend.limit,
        "group": trend.group,
        "role": trend.role.value,
        "note": trend.note,
    }


def _total_document(total: TotalTrend) -> Dict[str, Any]:
    known = [held for held in total.bytes if held is not None]
    return {
        "pool": total.pool.value,
        "first_bytes": known[0],
        "last_bytes": known[-1],
        "slope_bytes_per_hour": total.slope.bytes_per_hour if total.slope else None,
        "slope_low": total.slope.low if total.slope else None,
        "slope_high": total.slope.high if total.slope else None,
        "monotonic_p": total.monotonic_p,
        "verdict": total.verdict.value,
        "hours_to_limit": total.hours_to_limit,
        "limit": total.limit,
        "note": total.note,
    }


def _segment_document(segment: Segment, judged: Optional[Segment]) -> Dict[str, Any]:
    return {
        "first": segment.first.isoformat() if segment.first else None,
        "last": segment.last.isoformat() if segment.last else None,
        "samples": segment.samples,
        "cut": segment.cut,
        "judged": segment is judged,
    }
