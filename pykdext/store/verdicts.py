"""Verdicts as they travel and are stored: documents of schema ``poolleak.report/1``, read into values."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Iterable, Iterator, Mapping

from pykdext.model import Confidence, PoolKind, PoolTag, Role
from pykdext.model.fleet import (
    REPORT_SCHEMA,
    DumpHolder,
    DumpSuspect,
    DumpVerdict,
    GroupMember,
    NamedOwner,
)
from pykdext.records.snapshotfile import parse_coverage

MAX_GROUPS, MAX_MEMBERS = 16, 16
"""More of one verdict are not read: each pair of members is kept."""

_COUNTER_LIMIT = 1 << 64


def parse_verdict(document: Mapping[str, Any]) -> DumpVerdict:
    """The verdict in a document.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: it is of another schema, or damaged.
    """
    if document["schema"] != REPORT_SCHEMA:
        raise ValueError(f"schema {document['schema']}")
    subject = document["subject"]
    taken_at = subject["taken_at"]
    return DumpVerdict(
        sentence=document["verdict"],
        suspects=tuple(_parse_suspect(suspect) for suspect in document["suspects"]),
        taken_at=datetime.fromisoformat(taken_at) if taken_at else None,
        uptime_seconds=subject["uptime_seconds"],
        build=subject["os"]["build"],
        warnings=tuple(document["warnings"]),
        document=document,
        holders=tuple(_iter_holders(document.get("holders") or ())),
        groups=tuple(
            tuple(map(_parse_member, group["members"][:MAX_MEMBERS]))
            for group in (document.get("groups") or ())[:MAX_GROUPS]
        ),
        companions=tuple(map(_parse_suspect, document.get("companions") or ())),
        lacks_counts="coverage" in document and parse_coverage(document["coverage"]).lacks_counts,
    )


def _iter_holders(holders: Iterable[Mapping[str, Any]]) -> Iterator[DumpHolder]:
    """The processes that are named; older documents name none."""
    for found in holders:
        named = found.get("holder")
        if named is not None:
            yield DumpHolder(PoolTag(bytes.fromhex(found["hex"])), named["image"], named["held"])


def _parse_member(member: Mapping[str, Any]) -> GroupMember:
    return GroupMember(
        tag=PoolTag(bytes.fromhex(member["hex"])),
        pool=PoolKind(member["pool"]),
        blocks=_check_count(member["blocks"]),
        is_holder=Role(member["role"]) is Role.CAUSE,
    )


def _parse_suspect(suspect: Mapping[str, Any]) -> DumpSuspect:
    return DumpSuspect(
        tag=PoolTag(bytes.fromhex(suspect["hex"])),
        pool=PoolKind(suspect["pool"]),
        role=Role(suspect["role"]),
        bytes=None if suspect["bytes"] is None else _check_count(suspect["bytes"]),
        outstanding=None if suspect["outstanding"] is None else _check_count(suspect["outstanding"]),
        owners=tuple(NamedOwner(owner["module"], Confidence(owner["confidence"])) for owner in suspect["owners"]),
    )


def _check_count(count: Any) -> int:
    """What counters of Windows can hold: counts of several dumps are added up and divided."""
    if not isinstance(count, int) or not 0 <= count < _COUNTER_LIMIT:
        raise ValueError(f"the count {str(count)[:20]}")
    return count
