"""What is said of a batch of dumps: what its hosts have in common."""

from __future__ import annotations

from typing import Sequence

from pykdext.model import Role
from pykdext.model.fleet import BatchSummary, CommonCause, CommonHolder, DumpStatus, OtherVersion
from pykdext.units import choose_form, count_things, format_bytes, format_duration, name_some

NAMES_SHOWN = 8
_VERSIONS_NAMED = 3


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
        return _verdict_without_cause(summary)
    first = summary.common[0]
    if first.role is Role.OBJECT:
        words = "Windows allocates the object for somebody who does not let go"
        where = f"{len(first.hosts)} of {count_things(summary.hosts, 'host')}"
        if first.holders:
            most = first.holders[0]
            words = f"{most.image} holds the objects on {_of_them(len(most.hosts), len(first.hosts))}"
        return f"Tag {first.tag} of the {first.pool.value} pool stands out on {where}: {words}."
    same = [cause for cause in summary.common if _is_one_leak(cause, first)]
    hosts = {host for cause in same for host in cause.hosts}
    versions = sorted({cause.version for cause in same if cause.version})
    driver = f", used by {first.module}{_describe_versions(versions)}," if first.module else ""
    where = f"{len(hosts)} of {count_things(summary.hosts, 'host')}"
    others = {
        host for cause in summary.common if cause.role is not Role.OBJECT for host in cause.hosts if host not in hosts
    }
    rest = f" Other tags do on {len(others)} more: {name_hosts(sorted(others))}." if others else ""
    return f"Tag {first.tag} of the {first.pool.value} pool{driver} looks like a leak on {where}.{rest}"


def _is_one_leak(cause: CommonCause, other: CommonCause) -> bool:
    """Whether both are of one tag: of one driver in several versions, or where no driver is tied to it."""
    is_same_tag = (cause.tag, cause.pool) == (other.tag, other.pool)
    return is_same_tag and (cause.module is None or (cause.module or "").lower() == (other.module or "").lower())


def _describe_versions(versions: Sequence[str]) -> str:
    if not versions:
        return ""
    return (
        f" {' and '.join(versions)}"
        if len(versions) < _VERSIONS_NAMED
        else f" ({count_things(len(versions), 'version')})"
    )


def _verdict_without_cause(summary: BatchSummary) -> str:
    """Dumps that were read in part, or not at all, do not speak for the health of their hosts."""
    whole = summary.by_status.get(DumpStatus.DONE, 0)
    if whole == summary.dumps:
        return "No tag looks like a leak on any host."
    if not whole:
        return "No tag stands out, but no dump was read wholly: that says nothing of the hosts."
    silent = summary.dumps - whole
    verb = choose_form(silent, "does", "do")
    return (
        f"No tag looks like a leak in the {count_things(whole, 'dump')} that could be read wholly; "
        f"{count_things(silent, 'other dump')} {verb} not speak for {choose_form(silent, 'its host', 'their hosts')}."
    )


def describe_owner(cause: CommonCause) -> str:
    """The driver that uses the tag, and how certain that is."""
    if cause.role is Role.OBJECT:
        return "an object of Windows, allocated for others"
    return f"{name_driver(cause)} ({cause.confidence.value})" if cause.confidence else "no likely owner"


def _of_them(count: int, total: int) -> str:
    return "it" if total == 1 else "all of them" if count == total else f"{count} of them"


def describe_holder(holder: CommonHolder) -> str:
    """A program that holds objects, and where."""
    where = f"{count_things(len(holder.hosts), 'host')}: {name_hosts(holder.hosts)}"
    return f"held by {holder.image} ({count_things(holder.held, 'handle')}) on {where}"


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
