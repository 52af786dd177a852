"""What is said of a batch of dumps: what its hosts have in common."""

from __future__ import annotations

from typing import Sequence

from pykdext.model import BatchSummary, CommonCause, OtherVersion, Role
from pykdext.units import format_bytes, format_duration, name_some

NAMES_SHOWN = 8


def describe_counts(summary: BatchSummary) -> str:
    """How many dumps became what."""
    parts = [f"{count} {status.value}" for status, count in summary.by_status.items() if count]
    parts += [f"{summary.unfinished} not finished"] if summary.unfinished else []
    return (
        f"{count_things(summary.dumps, 'dump')} ({', '.join(parts) or 'none'}) of {count_things(summary.hosts, 'host')}"
    )


def verdict_on_batch(summary: BatchSummary) -> str:
    """One sentence: what leaks on how many hosts."""
    if not summary.hosts:
        return "No dump gave a verdict."
    if not summary.common:
        return "No tag looks like a leak on any host."
    first = summary.common[0]
    driver = f", used by {name_driver(first)}" if first.module else ""
    where = f"{len(first.hosts)} of {count_things(summary.hosts, 'host')}"
    if first.role is Role.OBJECT:
        words = "Windows allocates the object for somebody who does not let go"
        return f"Tag {first.tag} of the {first.pool.value} pool stands out on {where}: {words}."
    return f"Tag {first.tag} of the {first.pool.value} pool{driver}, looks like a leak on {where}."


def describe_owner(cause: CommonCause) -> str:
    """The driver that uses the tag, and how certain that is."""
    if cause.role is Role.OBJECT:
        return "an object of Windows, allocated for others"
    return f"{name_driver(cause)} ({cause.confidence.value})" if cause.confidence else "no likely owner"


def describe_other(other: OtherVersion) -> str:
    """Another version of a driver, and whether it leaks."""
    quiet = [host for host in other.hosts if host not in other.leaking_hosts]
    parts = [f"leaks on {name_hosts(other.leaking_hosts)}"] if other.leaking_hosts else []
    parts += [f"no leak on {name_hosts(quiet)}"] if quiet else []
    return f"version {other.version or 'not known'}: {'; '.join(parts)}"


def describe_run(summary: BatchSummary) -> str:
    """What the run cost."""
    read = summary.dumps - summary.reused - summary.unfinished
    parts = [f"{count_things(read, 'dump')} read in {format_duration(summary.seconds)}"]
    if read and summary.seconds:
        parts.append(f"{60 * read / summary.seconds:.0f} a minute")
    if summary.reused:
        parts.append(f"{summary.reused} unchanged since they were stored")
    if summary.fetched_bytes:
        parts.append(f"{format_bytes(summary.fetched_bytes)} fetched over the network")
    return ", ".join(parts)


def name_driver(cause: CommonCause) -> str:
    """The driver of a cause with its version."""
    return f"{cause.module} {cause.version}" if cause.version else str(cause.module)


def name_hosts(hosts: Sequence[str]) -> str:
    """The first of many hosts, and how many more there are."""
    return name_some(hosts, NAMES_SHOWN)


def count_things(count: int, word: str) -> str:
    """``1 host``, ``2 hosts``."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"
