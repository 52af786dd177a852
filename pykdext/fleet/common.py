"""What the dumps of many hosts have in common: pure functions on the rows of a batch."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import DefaultDict, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from pykdext.fleet.together import ROLES, Leads, Meetings, sort_hosts
from pykdext.model import Confidence, PoolKind, PoolTag, Role
from pykdext.model.fleet import CommonCause, CommonHolder, DumpRow, DumpStatus, DumpSuspect, DumpVerdict, OtherVersion

_NO_VERSION = ""


class _Tie(NamedTuple):
    """A tag, and the driver that is tied to it: in lower case, as Windows compares names; None: no driver is."""

    tag: PoolTag
    pool: PoolKind
    module: Optional[str]


@dataclass
class _Finding:
    """One tie over all dumps in which the driver has the same version."""

    module: Optional[str]
    roles: Set[Role] = field(default_factory=set)
    hosts_by_confidence: DefaultDict[Confidence, Set[str]] = field(default_factory=lambda: defaultdict(set))
    dumps: int = 0
    bytes_by_host: Dict[str, int] = field(default_factory=dict)

    def add(self, host: str, suspect: DumpSuspect, confidence: Optional[Confidence]) -> None:
        self.dumps += 1
        self.roles.add(suspect.role)
        self.bytes_by_host[host] = max(suspect.bytes or 0, self.bytes_by_host.get(host, 0))
        if confidence:
            self.hosts_by_confidence[confidence].add(host)

    @property
    def confidence(self) -> Optional[Confidence]:
        """The best that any dump gives."""
        return min(self.hosts_by_confidence, key=lambda confidence: confidence.rank, default=None)

    @property
    def role(self) -> Role:
        """The one that leads furthest, where dumps do not agree."""
        return min(self.roles, key=ROLES.index)

    def take(self, other: _Finding) -> Set[str]:
        """Take in what was found without a driver; the hosts that it adds."""
        added = set(other.bytes_by_host) - set(self.bytes_by_host)
        self.dumps += other.dumps
        self.roles |= other.roles
        for host, held in other.bytes_by_host.items():
            self.bytes_by_host[host] = max(held, self.bytes_by_host.get(host, 0))
        return added


@dataclass
class _Holder:
    """A program that holds objects of a tag."""

    image: str
    held_by_host: Dict[str, int] = field(default_factory=dict)

    def add(self, host: str, held: int) -> None:
        self.held_by_host[host] = max(held, self.held_by_host.get(host, 0))


@dataclass
class _Fleet:
    """What the rows told, in the form in which it is asked for.

    Attributes:
        findings: of each tie and version of its driver.
        leaking: the hosts on which a tag of a pool stands out, whoever owns it there.
        hosts_by_driver: by the driver's name and version. whole: hosts with a dump that was read wholly.
        holders: of each tag the programs that hold its objects, by their name in lower case.
        suspected: what any dump suspects. meetings: what goes along with what.
    """

    findings: Dict[Tuple[_Tie, Optional[str]], _Finding] = field(default_factory=dict)
    leaking: DefaultDict[Tuple[PoolTag, PoolKind], Set[str]] = field(default_factory=lambda: defaultdict(set))
    hosts_by_driver: DefaultDict[str, DefaultDict[Optional[str], Set[str]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(set))
    )
    whole: Set[str] = field(default_factory=set)
    holders: DefaultDict[PoolTag, Dict[str, _Holder]] = field(default_factory=lambda: defaultdict(dict))
    suspected: Set[Tuple[PoolTag, PoolKind]] = field(default_factory=set)
    meetings: Meetings = field(default_factory=Meetings)

    def add(self, row: DumpRow, verdict: DumpVerdict) -> None:
        """Take what one dump tells."""
        versions = {driver.name.lower(): driver.version for driver in row.drivers}
        for name, version in versions.items():
            self.hosts_by_driver[name][version].add(row.host)
        if row.status is DumpStatus.DONE:
            self.whole.add(row.host)
        for holder in verdict.holders:
            by_image = self.holders[holder.tag]
            by_image.setdefault(holder.image.lower(), _Holder(holder.image)).add(row.host, holder.held)
        self.suspected.update((suspect.tag, suspect.pool) for suspect in verdict.suspects)
        self.meetings.add(row.host, verdict)
        for suspect in verdict.judged:
            self.leaking[suspect.tag, suspect.pool].add(row.host)
            for module, confidence in _iter_likely_owners(suspect):
                key = module.lower() if module else None
                tie = _Tie(suspect.tag, suspect.pool, key)
                version = versions.get(key) if key else None
                self.findings.setdefault((tie, version), _Finding(module)).add(row.host, suspect, confidence)


def find_common(rows: Iterable[DumpRow]) -> Tuple[CommonCause, ...]:
    """Each tag that leaks on any host, with each driver that likely owns it: the most hosts first, then the most bytes.

    A driver in several versions is several causes, which count as one in this order. Tags that
    tell no caller (objects, defaults, caches) come last.

    Rows without a verdict say nothing. A host is quiet only if a dump of it was read wholly, and the tag stands out in
    none of its dumps, whoever owns it there. The rows are read once, and none is kept.
    """
    fleet = _Fleet()
    for row in rows:
        if row.verdict is not None:
            fleet.add(row, row.verdict)
    leads = fleet.meetings.find_leads()
    unowned = _fold_unowned(fleet, leads)
    told = (fleet.suspected | leads.heads) - leads.followers
    hosts_by_tie: DefaultDict[_Tie, Set[str]] = defaultdict(set)
    for (tie, _), finding in fleet.findings.items():
        hosts_by_tie[tie].update(finding.bytes_by_host)
    found = [
        (-len(hosts_by_tie[tie]), _describe(tie, version, finding, fleet, leads, unowned.get((tie, version), set())))
        for (tie, version), finding in fleet.findings.items()
        if (tie.tag, tie.pool) in told
    ]
    return tuple(cause for _, cause in sorted(found, key=lambda item: _rank(item[1], item[0])))


def _fold_unowned(fleet: _Fleet, leads: Leads) -> Dict[Tuple[_Tie, Optional[str]], Set[str]]:
    """Where others go along with a tag, and one driver alone is tied to it: one finding, also for hosts without a tie.

    Of several versions the one on most hosts takes them in. The hosts that each took.
    """
    taken: Dict[Tuple[_Tie, Optional[str]], Set[str]] = {}
    tied_to: DefaultDict[Tuple[PoolTag, PoolKind], List[Tuple[_Tie, Optional[str]]]] = defaultdict(list)
    for key in fleet.findings:
        if key[0].module is not None:
            tied_to[key[0].tag, key[0].pool].append(key)
    for tag, pool in leads.heads:
        bare = (_Tie(tag, pool, None), None)
        tied = tied_to[tag, pool]
        if bare in fleet.findings and len({tie.module for tie, _ in tied}) == 1:
            most = min(tied, key=lambda key: (-len(fleet.findings[key].bytes_by_host), key[1] or _NO_VERSION))
            owned = {host for key in tied for host in fleet.findings[key].bytes_by_host}
            taken[most] = fleet.findings[most].take(fleet.findings.pop(bare)) - owned
    return taken


def _iter_likely_owners(suspect: DumpSuspect) -> Sequence[Tuple[Optional[str], Optional[Confidence]]]:
    """The likely owners of a suspect, or None where it has none.

    Who allocates with a tag that tells no caller (an object, a default, a cache) is not the cause either.
    """
    likely = [
        (owner.module, owner.confidence)
        for owner in suspect.owners
        if not suspect.role.tells_no_caller and owner.confidence is not Confidence.POSSIBLE
    ]
    return likely or [(None, None)]


def _describe(
    tie: _Tie, version: Optional[str], finding: _Finding, fleet: _Fleet, leads: Leads, unowned: Set[str]
) -> CommonCause:
    leaking = fleet.leaking[tie.tag, tie.pool]
    by_version: Mapping[Optional[str], Set[str]] = fleet.hosts_by_driver.get(tie.module or "", {})
    others = [
        OtherVersion(other, sort_hosts(hosts & leaking | (hosts - leaking) & fleet.whole), sort_hosts(hosts & leaking))
        for other, hosts in by_version.items()
        if other != version
    ]
    return CommonCause(
        tag=tie.tag,
        pool=tie.pool,
        role=finding.role,
        module=finding.module,
        version=version,
        confidence=finding.confidence,
        hosts=sort_hosts(finding.bytes_by_host),
        dumps=finding.dumps,
        bytes=sum(finding.bytes_by_host.values()),
        quiet_hosts=sort_hosts((by_version.get(version, set()) - leaking) & fleet.whole),
        other_versions=tuple(
            sorted((other for other in others if other.hosts), key=lambda other: other.version or _NO_VERSION)
        ),
        holders=_rank_holders(fleet.holders.get(tie.tag, {}).values()) if tie.module is None else (),
        confident_hosts=sort_hosts(finding.hosts_by_confidence[finding.confidence]) if finding.confidence else (),
        unowned_hosts=sort_hosts(unowned),
        companions=leads.describe((tie.tag, tie.pool), finding.bytes_by_host, fleet.meetings),
    )


def _rank_holders(holders: Iterable[_Holder]) -> Tuple[CommonHolder, ...]:
    found = [
        CommonHolder(holder.image, sort_hosts(holder.held_by_host), sum(holder.held_by_host.values()))
        for holder in holders
    ]
    return tuple(sorted(found, key=lambda holder: (-len(holder.hosts), -holder.held, holder.image.lower())))


def _rank(cause: CommonCause, of_all_versions: int) -> Tuple[bool, int, int, int, str, str, str, str]:
    words = (cause.tag.hex, cause.pool.value, cause.module or "", cause.version or _NO_VERSION)
    return (cause.role.tells_no_caller, of_all_versions, -len(cause.hosts), -cause.bytes, *words)
