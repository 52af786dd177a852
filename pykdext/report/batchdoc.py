"""Batches and histories as JSON and CSV: exact and unrounded; what is not known is null, or empty in CSV."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, Dict, Iterable, Iterator, Optional, Sequence

from pykdext.model.fleet import BatchSummary, CommonCause, CommonCompanion, DumpRow, HistoryLine
from pykdext.report.csvtext import iter_csv
from pykdext.report.sentences.batches import find_lead, verdict_on_batch
from pykdext.report.sentences.tags import verdict_on_history

BATCH_SCHEMA = "poolleak.batch/1"
HISTORY_SCHEMA = "poolleak.history/1"

_DUMP_COLUMNS = (
    "path",
    "host",
    "status",
    "taken_at",
    "build",
    "uptime_seconds",
    "tag",
    "hex",
    "pool",
    "bytes",
    "outstanding",
    "role",
    "module",
    "version",
    "confidence",
    "together_with",
    "holder",
    "holder_module",
    "verdict",
    "error",
)
_HISTORY_COLUMNS = (
    "host",
    "tag",
    "hex",
    "pool",
    "taken_at",
    "uptime_seconds",
    "allocs",
    "frees",
    "outstanding",
    "bytes",
    "bytes_per_hour_since_boot",
)


def iter_batch_json(summary: BatchSummary, rows: Iterable[DumpRow]) -> Iterator[str]:
    """``poolleak.batch/1`` in pieces, one line a dump: there may be more than memory should hold.

    ``run`` alone differs between two runs over the same dumps.
    """
    head = {
        "schema": BATCH_SCHEMA,
        "verdict": verdict_on_batch(summary),
        "counts": {
            "dumps": summary.dumps,
            "hosts": summary.hosts,
            **{status.value: count for status, count in summary.by_status.items()},
            "unfinished": summary.unfinished,
            "uncounted": summary.uncounted,
        },
        "common": [_cause_document(cause) for cause in summary.common],
        "warnings": list(summary.warnings),
        "run": {"seconds": summary.seconds, "reused": summary.reused, "fetched_bytes": summary.fetched_bytes},
    }
    yield json.dumps(head, indent=2)[:-2] + ',\n  "dumps": ['
    separator = "\n    "
    for row in rows:
        yield separator + json.dumps(_row_document(row))
        separator = ",\n    "
    yield "\n  ]\n}\n"


def iter_batch_csv(rows: Iterable[DumpRow]) -> Iterator[str]:
    """A line for each suspect of each dump with its first owner; one for a dump without any."""
    return iter_csv(_DUMP_COLUMNS, (values for row in rows for values in _iter_suspect_values(row)))


def render_history_json(lines: Sequence[HistoryLine], subject: Optional[str]) -> str:
    """``poolleak.history/1``, one line a tag, pool and host."""
    head = {"schema": HISTORY_SCHEMA, "subject": subject, "verdict": verdict_on_history(lines)}
    listed = ",\n    ".join(json.dumps(_history_document(line)) for line in lines)
    return f'{json.dumps(head, indent=2)[:-2]},\n  "lines": [\n    {listed}\n  ]\n}}\n'


def render_history_csv(lines: Sequence[HistoryLine]) -> str:
    """A line for each sample."""
    documents = map(_history_document, lines)
    rows = ({**document, **sample} for document in documents for sample in document["samples"])
    return "".join(iter_csv(_HISTORY_COLUMNS, rows))


def _row_document(row: DumpRow) -> Dict[str, Any]:
    return {
        "path": row.path,
        "host": row.host,
        "status": row.status.value,
        "error": row.error,
        "fetched_bytes": row.fetched_bytes,
        "report": row.verdict.document if row.verdict else None,
    }


def _cause_document(cause: CommonCause) -> Dict[str, Any]:
    return {
        "tag": cause.tag.text,
        "hex": cause.tag.hex,
        "pool": cause.pool.value,
        "role": cause.role.value,
        "module": cause.module,
        "version": cause.version,
        "confidence": cause.confidence.value if cause.confidence else None,
        "dumps": cause.dumps,
        "bytes": cause.bytes,
        "hosts": list(cause.hosts),
        "quiet_hosts": list(cause.quiet_hosts),
        "other_versions": [asdict(other) for other in cause.other_versions],
        "holders": [asdict(holder) for holder in cause.holders],
        "confident_hosts": list(cause.confident_hosts),
        "unowned_hosts": list(cause.unowned_hosts),
        "companions": [_companion_document(companion) for companion in cause.companions],
    }


def _companion_document(companion: CommonCompanion) -> Dict[str, Any]:
    return {
        "tag": companion.tag.text,
        "hex": companion.tag.hex,
        "pool": companion.pool.value,
        "role": companion.role.value,
        "modules": list(companion.modules),
        "hosts": list(companion.hosts),
        "alone_hosts": list(companion.alone_hosts),
        "bytes": companion.bytes,
        "ratio": companion.ratio,
    }


def _iter_suspect_values(row: DumpRow) -> Iterator[Dict[str, Any]]:
    verdict = row.verdict
    values: Dict[str, Any] = {"path": row.path, "host": row.host, "status": row.status.value, "error": row.error}
    if verdict is None:
        yield values
        return
    values.update(
        taken_at=verdict.taken_at.isoformat() if verdict.taken_at else None,
        build=verdict.build,
        uptime_seconds=verdict.uptime_seconds,
        verdict=verdict.sentence,
    )
    versions = {driver.name.lower(): driver.version for driver in row.drivers}
    for suspect in verdict.suspects:
        owner = suspect.owners[0] if suspect.owners else None
        holder = find_lead(verdict, suspect)
        yield {
            **values,
            "tag": suspect.tag.text,
            "hex": suspect.tag.hex,
            "pool": suspect.pool.value,
            "bytes": suspect.bytes,
            "outstanding": suspect.outstanding,
            "role": suspect.role.value,
            "module": owner.module if owner else None,
            "version": versions.get(owner.module.lower()) if owner else None,
            "confidence": owner.confidence.value if owner else None,
            "together_with": ", ".join(item.tag.text for item in verdict.companions_of(suspect)) or None,
            "holder": holder.tag.text if holder else None,
            "holder_module": holder.owners[0].module if holder and holder.owners else None,
        }
    if not verdict.suspects:
        yield values


def _history_document(line: HistoryLine) -> Dict[str, Any]:
    return {
        "host": line.host,
        "tag": line.tag.text,
        "hex": line.tag.hex,
        "pool": line.pool.value,
        "samples": [
            {
                "taken_at": sample.taken_at.isoformat() if sample.taken_at else None,
                "uptime_seconds": sample.uptime_seconds,
                "allocs": sample.usage.allocs,
                "frees": sample.usage.frees,
                "outstanding": sample.usage.outstanding,
                "bytes": sample.usage.bytes,
                "bytes_per_hour_since_boot": sample.bytes_per_hour,
            }
            for sample in line.samples
        ],
    }
