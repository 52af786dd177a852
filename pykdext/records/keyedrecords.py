"""Rows that name their columns themselves: ``Format-List`` of PowerShell, and JSON of other tools."""

from __future__ import annotations

import json
import re
from typing import Any, Dict, Iterator, List, Mapping, Sequence, Tuple

from pykdext.model import PoolSnapshot
from pykdext.records.columns import find_columns, find_fact
from pykdext.records.samples import SampleCollector
from pykdext.records.tagtable import NUL_PICTURE
from pykdext.records.textfile import TextFile

_PAIR = re.compile(r"^\s{0,8}(?:-\s)?([^\W\d][^:\n]{0,60}?)\s*:(?:\s(.*))?$")
_BEGINS = re.compile(r"^\s{0,8}-\s")
"""A dash begins a record of YAML."""

_MOST_TITLES = 60
_MOST_DEPTH = 6
_MOST_RECORDS = 5_000_000
_MAX_JSON_BYTES = 256 << 20
_OWN_SCHEMA = "poolleak."

Record = Dict[str, str]
"""Texts by the titles of their columns."""


def parse_format_list(file: TextFile) -> Tuple[PoolSnapshot, ...]:
    """The snapshots of ``title : value`` lines, a blank line between two tags."""
    if ":" not in file.text:
        return ()
    return _make_snapshots(_iter_listed_records(file.text), "list of tags", file.path)


def parse_json_records(file: TextFile) -> Tuple[PoolSnapshot, ...]:
    """The snapshots of JSON: an array of objects with a tag each, objects by tag, or a line of JSON for each tag."""
    text = file.text.strip()
    if text[:1] not in ("[", "{") or len(text) > _MAX_JSON_BYTES:
        return ()
    try:
        documents: List[Any] = [json.loads(text)]
    except (ValueError, RecursionError):
        documents = list(_iter_json_lines(text))
    records = ((0, record) for document in documents for record in _iter_json_records(document, {}, 0))
    return _make_snapshots(records, "JSON of tags", file.path)


def _make_snapshots(records: Iterator[Tuple[int, Record]], kind: str, path: str) -> Tuple[PoolSnapshot, ...]:
    kept: List[Tuple[int, Record]] = []
    titles: Dict[str, None] = {}
    for number, record in records:
        if len(kept) >= _MOST_RECORDS or len(titles) > _MOST_TITLES:
            return ()
        kept.append((number, record))
        titles.update(dict.fromkeys(record))
    columns = find_columns(list(titles))
    if columns is None:
        return ()
    rows = [(number, [record.get(title, "") for title in titles]) for number, record in kept]
    columns.study(cells for _, cells in rows)
    collector = SampleCollector(columns, kind, path)
    for number, cells in rows:
        collector.add(number, " ".join(cells), cells)
    return collector.snapshots()


def _iter_listed_records(text: str) -> Iterator[Tuple[int, Record]]:
    """The records with a tag, each with the number of its first line."""
    record: Record = {}
    start = 0
    for number, line in enumerate([*text.split("\n"), ""], start=1):
        pair = _PAIR.match(line)
        if pair and pair[1] not in record and not (record and _BEGINS.match(line)):
            start = start if record else number
            record[pair[1]] = (pair[2] or "").rstrip()
            continue
        if _has_tag(record):
            yield start, record
        record = {pair[1]: (pair[2] or "").rstrip()} if pair else {}
        start = number


def _has_tag(record: Mapping[str, Any]) -> bool:
    return any(find_fact(title) in ("tag", "hex") for title in record)


def _iter_json_lines(text: str) -> Iterator[Any]:
    for line in text.split("\n"):
        try:
            yield json.loads(line.strip().rstrip(","))
        except (ValueError, RecursionError):
            continue


def _iter_json_records(value: Any, around: Record, depth: int) -> Iterator[Record]:
    """Objects that bear a tag, whatever holds them; ``around``: time and host that stand beside them."""
    if depth > _MOST_DEPTH:
        return
    if isinstance(value, list):
        for item in value:
            yield from _iter_json_records(item, around, depth + 1)
    elif isinstance(value, dict):
        if str(value.get("schema", "")).startswith(_OWN_SCHEMA):
            return
        if _has_tag(value):
            yield {**around, **_flatten(value)}
            return
        facts = {key: _text(item) for key, item in value.items() if find_fact(key) in ("time", "utc", "date", "host")}
        for key, item in value.items():
            if isinstance(item, dict) and 1 <= len(key) <= 4 and find_columns(["tag", *_flatten(item)]):
                yield {**around, **facts, "tag": key.replace("\0", NUL_PICTURE), **_flatten(item)}
            else:
                yield from _iter_json_records(item, {**around, **facts}, depth + 1)


def _flatten(record: Mapping[str, Any], above: str = "", depth: int = 0) -> Record:
    """Texts by title; of an object within (``{"paged": {"bytes": 8}}``) the titles are joined: ``paged bytes``."""
    flat: Record = {}
    for key, value in record.items():
        title = f"{above} {key}".strip()
        if isinstance(value, dict) and depth < _MOST_DEPTH:
            flat.update(_flatten(value, title, depth + 1))
        else:
            flat[title] = _text(value)
    return flat


def _text(value: Any) -> str:
    """A JSON value as a cell; empty for what is no number and no text."""
    if isinstance(value, bool) or value is None or (isinstance(value, (Sequence, dict)) and not isinstance(value, str)):
        return ""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e20 else repr(value)
    return str(value).replace("\0", NUL_PICTURE)
