"""Tables as CSV (RFC 4180): the columns are named as in JSON, the numbers exact; what is not known is empty.

Text of foreign origin that a spreadsheet would take for a formula has an apostrophe before it; the column ``hex`` has a
tag's bytes as they are.
"""

from __future__ import annotations

import csv
import io
from typing import Any, Dict, Iterable, Iterator, Mapping, Sequence

from pykdext.model import BlockReport, PoolKind, PoolTag, Suspect, TagDelta, TagOwners, TagUsage, Trend, UsageRow
from pykdext.model.documents import usage_document
from pykdext.printable import make_visible
from pykdext.report.explaintext import Explained, iter_entry_documents
from pykdext.report.growthdoc import delta_document, trend_document
from pykdext.report.jsondoc import evidence_document, suspect_document
from pykdext.report.sentences.owners import find_address

_FORMULA_STARTS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""The last four are full-width, which some spreadsheets take for the first four."""

_COUNTERS = ("allocs", "frees", "outstanding", "bytes")
_USAGE_COLUMNS = ("tag", "hex", "pool", *_COUNTERS, "clamped")
_TAG_COLUMNS = ("tag", "hex", *(f"{pool.value}_{counter}" for pool in PoolKind for counter in _COUNTERS))
_SUSPECT_COLUMNS = (
    "tag",
    "hex",
    "pool",
    *_COUNTERS,
    "share",
    "freed_share",
    "bytes_per_hour_since_boot",
    "score",
    "role",
    "module",
    "confidence",
    "part_of_windows",
    "file_version",
    "reasons",
)
_OWNER_COLUMNS = (
    "tag",
    "hex",
    "module",
    "confidence",
    "part_of_windows",
    "file_version",
    "kind",
    "evidence_confidence",
    "rva",
    "address",
    "function",
    "detail",
)
_EXPLANATION_COLUMNS = ("tag", "hex", "list", "pattern", "module", "text", "source", "won", "why")
_BLOCK_COLUMNS = ("address", "size_bytes", "pool", "is_big", "is_certain", "is_likely", "head")
_DELTA_COLUMNS = ("tag", "hex", "pool", *_COUNTERS, "bytes_per_hour", "changes")
_TREND_COLUMNS = (
    "tag",
    "hex",
    "pool",
    "first_bytes",
    "last_bytes",
    "slope_bytes_per_hour",
    "slope_low",
    "slope_high",
    "monotonic_p",
    "verdict",
    "hours_to_limit",
    "limit",
    "group",
    "role",
    "note",
)


def _csv_line(values: Iterable[Any]) -> str:
    """One line: None is empty, truth ``true`` or ``false`` as in JSON, several texts in one cell stand behind ``;``."""
    buffer = io.StringIO()
    csv.writer(buffer).writerow([_cell(value) for value in values])
    return buffer.getvalue()


def iter_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """The titles and a line for each row; a column that a row does not have is empty."""
    yield _csv_line(columns)
    for row in rows:
        yield _csv_line(row.get(column) for column in columns)


def render_usages_csv(rows: Sequence[UsageRow]) -> str:
    """A line for each tag and pool."""
    return _render(
        _USAGE_COLUMNS,
        (
            {
                **_name(row.tag),
                "pool": row.pool.value,
                **usage_document(row.usage),
                "clamped": row.usage.clamped,
            }
            for row in rows
        ),
    )


def render_tags_csv(rows: Sequence[TagUsage]) -> str:
    """A line for each tag, with the counters of both pools."""
    return _render(_TAG_COLUMNS, ({**_name(row.tag), **_counters_of_both(row)} for row in rows))


def render_suspects_csv(suspects: Sequence[Suspect]) -> str:
    """A line for each suspect with its first owner."""
    return _render(_SUSPECT_COLUMNS, map(_suspect_row, suspects))


def render_owners_csv(found: Sequence[TagOwners]) -> str:
    """A line for each reason to name an owner; one for a tag that nobody is known to own."""
    return _render(_OWNER_COLUMNS, (row for owners in found for row in _iter_owner_rows(owners)))


def render_explanation_csv(explained: Explained) -> str:
    """A line for each entry of a tag list that matches; one for a tag without any."""
    rows = (
        {**_name(tag), **entry} for tag, lookups in explained for entry in list(iter_entry_documents(lookups)) or [{}]
    )
    return _render(_EXPLANATION_COLUMNS, rows)


def render_blocks_csv(report: BlockReport) -> str:
    """A line for each block that was found; those of the sample with their first bytes."""
    heads = {view.block.address: view.head.hex() for view in report.sample if view.head}
    rows = (
        {
            "address": f"0x{block.address:x}",
            "size_bytes": block.size_bytes,
            "pool": block.pool.value if block.pool else None,
            "is_big": block.is_big,
            "is_certain": block.is_certain,
            "is_likely": block.is_likely,
            "head": heads.get(block.address),
        }
        for block in report.found
    )
    return _render(_BLOCK_COLUMNS, rows)


def render_deltas_csv(deltas: Sequence[TagDelta]) -> str:
    """A line for each tag and pool that differs."""
    return _render(_DELTA_COLUMNS, map(delta_document, deltas))


def render_trends_csv(trends: Sequence[Trend]) -> str:
    """A line for each tag and pool."""
    return _render(_TREND_COLUMNS, map(trend_document, trends))


def _render(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(iter_csv(columns, rows))


def _name(tag: PoolTag) -> Dict[str, Any]:
    return {"tag": tag.text, "hex": tag.hex}


def _counters_of_both(row: TagUsage) -> Dict[str, Any]:
    return {
        f"{pool.value}_{counter}": count
        for pool in PoolKind
        for counter, count in usage_document(row.usage(pool)).items()
    }


def _suspect_row(suspect: Suspect) -> Dict[str, Any]:
    owner = suspect.owners[0] if suspect.owners else None
    if owner is None:
        return suspect_document(suspect)
    return {
        **suspect_document(suspect),
        "module": owner.module,
        "confidence": owner.confidence.value,
        "part_of_windows": owner.part_of_windows,
        "file_version": owner.version.file_version if owner.version else None,
    }


def _iter_owner_rows(owners: TagOwners) -> Iterator[Dict[str, Any]]:
    for owner in owners.owners:
        row = {
            **_name(owners.tag),
            "module": owner.module,
            "confidence": owner.confidence.value,
            "part_of_windows": owner.part_of_windows,
            "file_version": owner.version.file_version if owner.version else None,
        }
        for item in owner.evidence:
            address = find_address(owner, item)
            document = {**evidence_document(owner, item), "address": None if address is None else f"0x{address:x}"}
            yield {**document, "evidence_confidence": item.confidence.value, **row}
    if not owners.owners:
        yield _name(owners.tag)


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return _cell("; ".join(value))
    return _quote_formula(make_visible(value)) if isinstance(value, str) else value


def _quote_formula(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text
