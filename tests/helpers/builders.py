"""Snapshots and owners for tests, in few words; and Hypothesis strategies for them."""

from __future__ import annotations

from datetime import datetime, timezone

from hypothesis import strategies as st

from pykdext.model import (
    UNUSED,
    Allocation,
    BugCheck,
    Confidence,
    Evidence,
    EvidenceKind,
    ExpansionState,
    ImageCoverage,
    Machine,
    Owner,
    PoolKind,
    PoolSnapshot,
    PoolTag,
    PoolUsage,
    SnapshotSource,
    StatedDriver,
    SystemMemory,
    TableCoverage,
    TagClass,
    TagDescription,
    TagOwners,
    TagUsage,
    TimeOrigin,
)

NO_IMAGES = ImageCoverage(0, 0, None)


def usage(allocs, frees, used_bytes):
    return PoolUsage(allocs, frees, allocs - frees, used_bytes)


def row(tag, nonpaged=UNUSED, paged=UNUSED):
    return TagUsage(PoolTag.from_text(tag), nonpaged, paged)


def snapshot(*rows, uptime_seconds=36000.0, path="server.dmp", **facts):
    return PoolSnapshot(
        SnapshotSource("kernel bitmap dump", path, "profile"), tuple(rows), uptime_seconds=uptime_seconds, **facts
    )


def owned(tag, *modules, windows=False, confidence=Confidence.LIKELY, tag_class=None):
    """The owners of a tag, one piece of evidence each; with a class, also an entry of the built-in list."""
    name = PoolTag.from_text(tag)
    owners = tuple(
        Owner(
            module,
            confidence,
            (Evidence(name, module, EvidenceKind.IMMEDIATE, confidence, f"mov r8d, '{tag}'", rva=0x1010),),
            part_of_windows=windows,
            base=0xFFFFF80000000000,
        )
        for module in modules
    )
    described = (
        (TagDescription(tag, "nt", "what it is", "builtin", TagClass(tag_class), "ask this"),) if tag_class else ()
    )
    return name, TagOwners(name, owners, NO_IMAGES, described)


maybe = st.none() | st.integers(min_value=0, max_value=2**64 - 1)
usages = st.builds(PoolUsage, maybe, maybe, maybe, maybe, st.booleans())
texts = st.text(max_size=40)
tags = st.builds(PoolTag, st.binary(min_size=4, max_size=4))
snapshots = st.builds(
    PoolSnapshot,
    source=st.builds(SnapshotSource, texts, texts, st.none() | texts),
    tags=st.lists(st.builds(TagUsage, tags, usages, usages), max_size=6).map(tuple),
    taken_at=st.none() | st.datetimes(min_value=datetime(1990, 1, 1), timezones=st.just(timezone.utc)),
    host=st.none() | texts,
    build=st.none() | st.integers(0, 2**32 - 1),
    machine=st.none() | st.sampled_from(Machine),
    processors=st.none() | st.integers(0, 2048),
    uptime_seconds=st.none() | st.floats(0, 1e10),
    bugcheck=st.none()
    | st.builds(
        BugCheck,
        st.integers(0, 2**32 - 1),
        st.lists(st.integers(0, 2**64 - 1), min_size=4, max_size=4).map(tuple),
    ),
    memory=st.builds(SystemMemory, *[maybe] * 8),
    time_from=st.none() | st.sampled_from(TimeOrigin),
    coverage=st.builds(TableCoverage, maybe, maybe, maybe, maybe, st.sampled_from(ExpansionState)),
    warnings=st.lists(texts, max_size=3).map(tuple),
    stated_nonpaged=st.none() | usages,
    stated_paged=st.none() | usages,
    stated_drivers=st.lists(st.builds(StatedDriver, tags, texts, texts, texts), max_size=2).map(tuple),
    blocks=st.lists(
        st.builds(
            Allocation,
            st.integers(0, 2**64 - 1),
            st.integers(0, 2**40),
            tags,
            st.none() | st.sampled_from(PoolKind),
            st.booleans(),
            st.booleans(),
        ),
        max_size=2,
    ).map(tuple),
)
