"""What is said of a batch of dumps: what its hosts have in common."""

from __future__ import annotations

from typing import Collection, Dict, List, Optional, Sequence, Set, Tuple

from pykdext.model import PoolKind, PoolTag, Role
from pykdext.model.fleet import (
    BatchSummary,
    CommonCause,
    CommonCompanion,
    CommonHolder,
    DumpStatus,
    DumpSuspect,
    DumpVerdict,
    OtherVersion,
)
from pykdext.units import choose_form, count_things, format_bytes, format_duration, name_some, say_ratio

NAMES_SHOWN = 8
_VERSIONS_NAMED = 3
_DRIVERS_NAMED = 2


def describe_counts(summary: BatchSummary) -> str:
    """How many dumps became what."""
    parts = [f"{count} {status.value}" for status, count in summary.by_status.items() if count]
    parts += [f"{summary.unfinished} not finished"] if summary.unfinished else []
    return (
        f"{count_things(summary.dumps, 'dump')} ({', '.join(parts) or 'none'}) of {count_things(summary.hosts, 'host')}"
    )


def verdict_on_batch(summary: BatchSummary) -> str:
    """One sentence: what leaks on how many hosts; before it, how many dumps could not be counted."""
    if not summary.uncounted:
        return _verdict_on_counted(summary)
    lack, its = choose_form(summary.uncounted, "lacks", "lack"), choose_form(summary.uncounted, "its", "their")
    lacking = f"{summary.uncounted} of {count_things(summary.dumps, 'dump')} {lack} rows of the tag tables"
    return f"{lacking}: what {its} tags hold is not known. {_verdict_on_counted(summary)}"


def _verdict_on_counted(summary: BatchSummary) -> str:
    if not summary.hosts:
        return "No dump gave a verdict."
    if not summary.common:
        return _verdict_without_cause(summary)
    first = summary.common[0]
    if first.companions:
        return _verdict_on_group(summary, first)
    if first.role is Role.OBJECT:
        words = "Windows allocates the object for somebody who does not let go"
        where = f"{len(first.hosts)} of {count_things(summary.hosts, 'host')}"
        if first.holders:
            words = _say_most_held(first)
        rest = _say_rest(summary, set(first.hosts), "stand out", with_objects=True)
        return f"Tag {first.tag} of the {first.pool.value} pool stands out on {where}: {words}.{rest}"
    return _verdict_on_tag(summary, first)


def _verdict_on_tag(summary: BatchSummary, first: CommonCause) -> str:
    """On how many hosts the tag leaks, whoever uses it there, and which drivers do on how many of them."""
    same = [cause for cause in summary.common if (cause.tag, cause.pool) == (first.tag, first.pool)]
    hosts = {host for cause in same for host in cause.hosts}
    users = _find_users(same)
    lead = f"Tag {first.tag} of the {first.pool.value} pool"
    where = f"looks like a leak on {len(hosts)} of {count_things(summary.hosts, 'host')}"
    rest = _say_rest(summary, hosts, "do", with_objects=False)
    if all(found == hosts for _, found in users):
        driver = f", used by {_name_any([name for name, _ in users])}," if users else ""
        return f"{lead}{driver} {where}.{rest}"
    shares = [f"{name} uses it on {_of_them(len(found), len(hosts))}" for name, found in users[:_DRIVERS_NAMED]]
    if len(users) > _DRIVERS_NAMED:
        others = {host for _, found in users[_DRIVERS_NAMED:] for host in found}
        shares.append(f"{count_things(len(users) - _DRIVERS_NAMED, 'other driver')} on {len(others)}")
    bare = hosts.difference(*(found for _, found in users))
    if bare:
        shares.append(f"no driver could be tied to it on {len(bare)}")
    return f"{lead} {where}: {'; '.join(shares)}.{rest}"


def _find_users(same: Sequence[CommonCause]) -> List[Tuple[str, Set[str]]]:
    """The drivers that are tied to one tag, with their versions, and where each is: that on the most hosts first."""
    by_module: Dict[str, List[CommonCause]] = {}
    for cause in same:
        if cause.module is not None:
            by_module.setdefault(cause.module.lower(), []).append(cause)
    users = [
        (f"{causes[0].module}{_name_versions(causes)}", {host for cause in causes for host in cause.hosts})
        for causes in by_module.values()
    ]
    return sorted(users, key=lambda user: (-len(user[1]), user[0].lower()))


def _verdict_on_group(summary: BatchSummary, first: CommonCause) -> str:
    """What takes the memory and what holds it, as one finding."""
    same = [cause for cause in summary.common if _is_one_leak(cause, first)]
    hosts = {host for cause in same for host in cause.hosts}
    tags = name_group(first, same)
    where = f"{len(hosts)} of {count_things(summary.hosts, 'host')}"
    confident = {host for cause in same if cause.confidence is first.confidence for host in cause.confident_hosts}
    if first.role.tells_no_caller:
        words = f"{tags} stand out together on {where}: none of these tags tells who allocates it."
    elif first.module is None or first.confidence is None:
        words = f"{tags} look like one leak on {where}: no driver could be tied to {first.tag}."
    else:
        proven = "there" if len(hosts) == 1 else f"on {_of_them(len(confident), len(hosts))}"
        words = (
            f"{tags} look like one leak on {where}: {first.module}{_name_versions(same)} allocates {first.tag} "
            f"({first.confidence.value} {proven})."
        )
    if first.holders:
        words += f" {_say_most_held(first)}."
    for companion in first.companions:
        alone = [host for host in companion.alone_hosts if host not in hosts]
        if alone:
            words += f" {companion.tag} stands out without it on {len(alone)} more: {name_hosts(alone)}."
            hosts.update(alone)
    return words + _say_rest(summary, hosts, "stand out", with_objects=True)


def name_group(cause: CommonCause, same: Sequence[CommonCause] = ()) -> str:
    """The tags of one finding: what takes the most memory first, with what leads."""
    held: Dict[Tuple[PoolTag, PoolKind], int] = {}
    for item in same or (cause,):
        for companion in item.companions:
            place = companion.tag, companion.pool
            held[place] = held.get(place, 0) + companion.bytes
    own = sum(item.bytes for item in same or (cause,))
    others = sorted(held, key=lambda place: (-held[place], place[0].hex, place[1].value))
    is_mixed = any(pool is not cause.pool for _, pool in others)
    names = [f"{tag} ({pool.value})" if is_mixed else str(tag) for tag, pool in others]
    lead = f"{cause.tag} ({cause.pool.value})" if is_mixed else str(cause.tag)
    ending = "" if is_mixed else f" of the {cause.pool.value} pool"
    if held[others[0]] > own:
        more = f" (and {name_some(names[1:])})" if names[1:] else ""
        return f"{names[0]} with {lead}{more}{ending}"
    return f"{lead} with {name_some(names)}{ending}"


def _say_most_held(cause: CommonCause) -> str:
    most = cause.holders[0]
    return f"{most.image} holds the objects on {_of_them(len(most.hosts), len(cause.hosts))}"


def _say_rest(summary: BatchSummary, hosts: Collection[str], verb: str, *, with_objects: bool) -> str:
    """The hosts on which other tags stand out, or look like leaks, which objects never do: each host is counted."""
    others = {
        host
        for cause in summary.common
        if with_objects or cause.role is not Role.OBJECT
        for host in (*cause.hosts, *(name for item in cause.companions for name in item.alone_hosts))
        if host not in hosts
    }
    return f" Other tags {verb} on {len(others)} more: {name_hosts(sorted(others))}." if others else ""


def _is_one_leak(cause: CommonCause, other: CommonCause) -> bool:
    """Whether both are of one tag: of one driver in several versions, or where no driver is tied to it."""
    is_same_tag = (cause.tag, cause.pool) == (other.tag, other.pool)
    return is_same_tag and (cause.module is None or (cause.module or "").lower() == (other.module or "").lower())


def _name_versions(causes: Sequence[CommonCause]) -> str:
    """The versions of one driver that are tied to a tag."""
    versions = sorted({cause.version for cause in causes if cause.version})
    if not versions:
        return ""
    return (
        f" {' and '.join(versions)}"
        if len(versions) < _VERSIONS_NAMED
        else f" ({count_things(len(versions), 'version')})"
    )


def name_suspect(verdict: DumpVerdict) -> Tuple[str, str]:
    """The first suspect of a dump and the likeliest driver; where others go along, with the one that names a driver."""
    first = verdict.suspects[0]
    holder = find_lead(verdict, first)
    if holder is None:
        return first.tag.text, _name_likeliest(first)
    return f"{first.tag.text} with {holder.tag.text}", _name_likeliest(holder)


def _name_likeliest(suspect: DumpSuspect) -> str:
    """All drivers that are as likely as the first; of many how many more there are."""
    return _name_any([owner.module for owner in suspect.owners if owner.confidence is suspect.owners[0].confidence])


def _name_any(drivers: Sequence[str]) -> str:
    """One of these drivers; of many how many more there are."""
    more = f" or {len(drivers) - _DRIVERS_NAMED} more" if len(drivers) > _DRIVERS_NAMED else ""
    return " or ".join(drivers[:_DRIVERS_NAMED]) + more


def find_lead(verdict: DumpVerdict, suspect: DumpSuspect) -> Optional[DumpSuspect]:
    """What agrees in number with a suspect that tells of no driver, and holds it; None where nothing does."""
    if suspect.role is Role.CAUSE:
        return None
    fellows = [item for item in verdict.companions_of(suspect) if not item.role.tells_no_caller]
    causes = [item for item in fellows if item.role is Role.CAUSE and item.owners]
    if causes:
        return min(causes, key=lambda item: (item.owners[0].confidence.rank, item.tag.hex))
    seldom = {(member.tag, member.pool) for group in verdict.groups for member in group if member.is_holder}
    return next((item for item in fellows if (item.tag, item.pool) in seldom), None)


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


def describe_companion(cause: CommonCause, companion: CommonCompanion) -> str:
    """What goes along with a cause, and where; whose it is, if a driver is tied to it."""
    each = f", {say_ratio(companion.ratio)} of the blocks of {cause.tag}" if companion.ratio else ""
    owner = f", used by {name_some(companion.modules)}" if companion.modules else ""
    words = {Role.OBJECT: ", an object of Windows", Role.SHARED: ", a tag that drivers share"}
    owner = owner or words.get(companion.role, "")
    where = f"{count_things(len(companion.hosts), 'host')}: {name_hosts(companion.hosts)}"
    return f"with {companion.tag} ({companion.pool.value}{owner}){each}: {format_bytes(companion.bytes)} on {where}"


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
