"""Snapshot files, read and written: JSON of schema ``poolleak.snapshot/1``, plain or compressed by gzip."""

from __future__ import annotations

import gzip
import json
from datetime import datetime, timezone
from typing import Any, Dict, Mapping, Optional, Sequence

from pykdext.errors import RecordFormatError
from pykdext.model import (
    Allocation,
    BugCheck,
    ExpansionState,
    Machine,
    MemoryImage,
    PoolKind,
    PoolSnapshot,
    PoolTag,
    PoolUsage,
    SnapshotSource,
    StatedDriver,
    SystemMemory,
    TableCoverage,
    TagUsage,
    TimeOrigin,
)
from pykdext.model.documents import coverage_document, subject_document, tag_document, usage_document

SCHEMA = "poolleak.snapshot/1"
MAX_FILE_BYTES = 256 << 20
"""More than any snapshot has, compressed or not: the tag tables of a kernel give a few megabytes of JSON."""

_GZIP_MAGIC = b"\x1f\x8b"


def render_snapshot_json(snapshot: PoolSnapshot, tags: Optional[Sequence[TagUsage]] = None) -> str:
    """``poolleak.snapshot/1``, one line a tag, so that any diff tool compares two files sensibly.

    ``tags`` are the rows to list, by default all; the totals are always those of the whole snapshot.
    """
    head = {
        "schema": SCHEMA,
        **subject_document(snapshot),
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
        "coverage": coverage_document(snapshot.coverage),
        "warnings": list(snapshot.warnings),
    }
    rows = ",\n".join("    " + json.dumps(tag_document(row)) for row in (snapshot.tags if tags is None else tags))
    return f'{json.dumps(head, indent=2)[:-2]},\n  "tags": [\n{rows}\n  ]\n}}\n'


def _stated_document(usage: Optional[PoolUsage]) -> Optional[Dict[str, Any]]:
    return None if usage is None else {**usage_document(usage), "clamped": usage.clamped}


def is_snapshot_head(head: bytes) -> bool:
    """The first bytes of a file look like a snapshot: a JSON object, perhaps compressed by gzip."""
    if head.startswith(_GZIP_MAGIC):
        head = _first_inflated(head)
    return head.lstrip().startswith(b"{") and b'"poolleak.snapshot/' in head


def _first_inflated(head: bytes) -> bytes:
    import zlib  # only for compressed files

    try:
        return zlib.decompressobj(31).decompress(head, 4096)
    except zlib.error:
        return b""


def load_snapshot(path: str) -> PoolSnapshot:
    """Read a snapshot file, plain or gzip.

    Raises:
        RecordFormatError: not a snapshot of schema 1, or damaged.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    try:
        if data.startswith(_GZIP_MAGIC):
            with gzip.open(path) as packed:
                data = packed.read(MAX_FILE_BYTES + 1)
    except (OSError, EOFError) as error:
        raise RecordFormatError(path, None, f"damaged gzip data ({error})", "a snapshot") from None
    if len(data) > MAX_FILE_BYTES:
        raise RecordFormatError(path, None, f"more than {MAX_FILE_BYTES >> 20} MB", "a snapshot")
    return parse_snapshot(data, path)


def parse_snapshot(data: bytes, path: str) -> PoolSnapshot:
    """The snapshot of JSON text; RecordFormatError (naming ``path``) if it is damaged or of another schema."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", None)
        raise RecordFormatError(path, line, f"no JSON ({error})", "a snapshot") from None
    return parse_snapshot_document(document, path)


def parse_snapshot_document(document: Any, path: str) -> PoolSnapshot:
    """The snapshot of a JSON document; RecordFormatError (naming ``path``) if a part is missing or of a wrong kind."""
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != SCHEMA:
        raise RecordFormatError(path, None, f"schema {schema!r}", SCHEMA)
    try:
        return _parse(document)
    except KeyError as error:
        raise RecordFormatError(path, None, f"no field {error}", f"the fields of {SCHEMA}") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise RecordFormatError(path, None, f"a damaged field ({error})", f"the fields of {SCHEMA}") from None


def _parse_image(document: Optional[Mapping[str, Any]]) -> Optional[MemoryImage]:
    if document is None:
        return None
    hint = document["windbg_hint"]
    return MemoryImage(_text(document["found_by"]), None if hint is None else _text(hint))


def _parse(document: Mapping[str, Any]) -> PoolSnapshot:
    system = document["os"]
    bugcheck = document.get("bugcheck")
    source = document["source"]
    return PoolSnapshot(
        source=SnapshotSource(_text(source["kind"]), _text(source["path"]), source.get("symbols")),
        tags=tuple(_parse_tag(row) for row in document["tags"]),
        taken_at=_parse_time(document["taken_at"]),
        host=document["host"],
        build=_count(system["build"]),
        machine=Machine(system["arch"]) if system["arch"] is not None else None,
        processors=_count(system["processors"]),
        uptime_seconds=None if document["uptime_seconds"] is None else float(document["uptime_seconds"]),
        bugcheck=BugCheck(int(bugcheck["code"]), tuple(map(int, bugcheck["parameters"]))) if bugcheck else None,
        memory=SystemMemory(**{name: _count(value) for name, value in (document.get("memory") or {}).items()}),
        time_from=TimeOrigin(document["time_from"]) if document.get("time_from") else None,
        coverage=parse_coverage(document["coverage"]),
        warnings=tuple(map(_text, document["warnings"])),
        stated_nonpaged=_parse_stated(document, PoolKind.NONPAGED),
        stated_paged=_parse_stated(document, PoolKind.PAGED),
        stated_drivers=tuple(map(_parse_stated_driver, document.get("stated_drivers") or ())),
        blocks=tuple(map(_parse_block, document.get("blocks") or ())),
        image=_parse_image(document.get("memory_image")),
        boot_id=_count(document.get("boot_id")),
    )


def _parse_tag(row: Mapping[str, Any]) -> TagUsage:
    return TagUsage(PoolTag(bytes.fromhex(row["hex"])), _parse_usage(row["nonpaged"]), _parse_usage(row["paged"]))


def _parse_usage(side: Mapping[str, Any]) -> PoolUsage:
    return PoolUsage(
        allocs=_count(side["allocs"]),
        frees=_count(side["frees"]),
        outstanding=_count(side["outstanding"]),
        bytes=_count(side["bytes"]),
        clamped=bool(side.get("clamped", False)),
    )


def _parse_stated(document: Mapping[str, Any], pool: PoolKind) -> Optional[PoolUsage]:
    """The total that the source printed; files of older versions have none."""
    side = (document.get("stated") or {}).get(pool.value)
    return None if side is None else _parse_usage(side)


def _parse_stated_driver(item: Mapping[str, Any]) -> StatedDriver:
    tag = PoolTag(bytes.fromhex(item["hex"]))
    return StatedDriver(tag, _text(item["module"]), _text(item["told_by"]), _text(item["text"]))


def _parse_block(item: Mapping[str, Any]) -> Allocation:
    pool = None if item["pool"] is None else PoolKind(item["pool"])
    tag = PoolTag(bytes.fromhex(item["hex"]))
    return Allocation(
        int(item["address"]), int(item["size_bytes"]), tag, pool, bool(item["big"]), bool(item["certain"])
    )


def parse_coverage(document: Mapping[str, Any]) -> TableCoverage:
    """How much of the tag tables was read, as documents have it.

    Raises:
        ValueError, KeyError, TypeError: it is damaged.
    """
    tables, rows = document["processor_tables"], document["rows"]
    return TableCoverage(
        processor_tables_read=_count(tables["read"]),
        processor_tables_expected=_count(tables["expected"]),
        rows_read=_count(rows["read"]),
        rows_expected=_count(rows["expected"]),
        expansion_table=ExpansionState(document["expansion_table"]),
    )


def _count(value: Any) -> Optional[int]:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise TypeError(f"found {value!r}, expected a whole number or null")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"found {value!r}, expected text")
    return value


def _parse_time(value: Optional[str]) -> Optional[datetime]:
    if value is None:
        return None
    moment = datetime.fromisoformat(_text(value).replace("Z", "+00:00"))
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
