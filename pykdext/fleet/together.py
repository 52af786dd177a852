"""Tags that go together on several hosts: which one leads, and which go along with it.

A verdict groups tags whose outstanding blocks agree in number (``growth.lockstep``). Over many hosts such a group is
one finding: the driver that holds the others is named once, with what it holds.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import DefaultDict, Dict, Iterable, List, Mapping, Set, Tuple

from pykdext.model import Confidence, PoolKind, PoolTag, Role
from pykdext.model.fleet import CommonCompanion, DumpSuspect, DumpVerdict

ROLES = (Role.CAUSE, Role.UNKNOWN, Role.CACHE, Role.SHARED, Role.VICTIM, Role.OBJECT)
"""From the one that names who leaks to the one that does not."""

TOGETHER_SHARE = 0.5
"""Of the hosts on which both stand out: where fewer agree in number, chance brought them together."""

Place = Tuple[PoolTag, PoolKind]


@dataclass
class _Seen:
    """A tag of a pool over the hosts: what it holds, who it is said to be, and where the frees point at it."""

    bytes_by_host: Dict[str, int] = field(default_factory=dict)
    roles: Set[Role] = field(default_factory=set)
    modules: Dict[str, str] = field(default_factory=dict)
    held_on: Set[str] = field(default_factory=set)

    def add(self, host: str, suspect: DumpSuspect) -> None:
        self.bytes_by_host[host] = max(suspect.bytes or 0, self.bytes_by_host.get(host, 0))
        self.roles.add(suspect.role)
        for owner in suspect.owners:
            if owner.confidence is not Confidence.POSSIBLE and not suspect.role.tells_no_caller:
                key = owner.module.lower()
                self.modules[key] = min(owner.module, self.modules.get(key, owner.module))

    @property
    def role(self) -> Role:
        return min(self.roles, key=ROLES.index)


@dataclass
class Meetings:
    """Where tags stand out, and where two of them agree in number; the order in which verdicts come means nothing."""

    _seen: DefaultDict[Place, _Seen] = field(default_factory=lambda: defaultdict(_Seen))
    _blocks: DefaultDict[Tuple[Place, Place], Dict[str, Tuple[int, int]]] = field(
        default_factory=lambda: defaultdict(dict)
    )

    def add(self, host: str, verdict: DumpVerdict) -> None:
        """Take what one verdict says; of a host with several dumps that with the most blocks tells the ratio."""
        judged = {(suspect.tag, suspect.pool): suspect for suspect in verdict.judged}
        for place, suspect in judged.items():
            self._seen[place].add(host, suspect)
        for group in verdict.groups:
            members = [((item.tag, item.pool), item) for item in group if (item.tag, item.pool) in judged]
            for place, member in members:
                if member.is_holder and len(members) > 1:
                    self._seen[place].held_on.add(host)
                for other, fellow in members:
                    if other != place:
                        pair = self._blocks[place, other]
                        pair[host] = max((member.blocks, fellow.blocks), pair.get(host, (0, 0)))

    def hosts_of(self, place: Place) -> Set[str]:
        """Where a tag stands out."""
        return set(self._seen[place].bytes_by_host) if place in self._seen else set()

    def find_leads(self) -> Leads:
        """Each tag that others go with: the one that tells most of who leaks leads, and no tag is in two groups."""
        fellows: DefaultDict[Place, Set[Place]] = defaultdict(set)
        for (place, other), blocks in self._blocks.items():
            both = self.hosts_of(place) & self.hosts_of(other)
            if len(blocks) >= TOGETHER_SHARE * len(both):
                fellows[place].add(other)
        leads = Leads()
        taken: Set[Place] = set()
        for place in sorted(fellows, key=self._rank):
            free = fellows[place] - taken
            if place not in taken and free:
                leads.by_head[place] = free
                taken |= {place, *free}
        return leads

    def describe(self, head: Place, place: Place, hosts: Iterable[str]) -> CommonCompanion:
        """A tag that goes with ``head`` on some of ``hosts``, those of one driver in one version."""
        seen, blocks = self._seen[place], self._blocks[head, place]
        along = set(blocks).intersection(hosts)
        alone = self.hosts_of(place) - set(blocks)
        leading, following = (sum(blocks[host][side] for host in along) for side in (0, 1))
        return CommonCompanion(
            tag=place[0],
            pool=place[1],
            role=seen.role,
            modules=tuple(name for _, name in sorted(seen.modules.items())),
            hosts=sort_hosts(along),
            alone_hosts=sort_hosts(alone),
            bytes=sum(seen.bytes_by_host[host] for host in along),
            ratio=following / leading if leading else 0.0,
        )

    def _rank(self, place: Place) -> Tuple[bool, bool, bool, int, int, int, str, str]:
        """A tag that tells its caller before one that does not; then who is known, and whom the frees point at."""
        seen = self._seen[place]
        held = sum(seen.bytes_by_host.values())
        marks = (seen.role.tells_no_caller, seen.role is not Role.CAUSE, not seen.modules)
        return (*marks, -len(seen.held_on), -len(seen.bytes_by_host), -held, place[0].hex, place[1].value)


@dataclass
class Leads:
    """The tags that lead, each with those that go along."""

    by_head: Dict[Place, Set[Place]] = field(default_factory=dict)

    @property
    def heads(self) -> Set[Place]:
        """Those that lead."""
        return set(self.by_head)

    @property
    def followers(self) -> Set[Place]:
        """Those that go along: no causes of their own."""
        return {place for places in self.by_head.values() for place in places}

    def describe(self, head: Place, hosts: Mapping[str, int], meetings: Meetings) -> Tuple[CommonCompanion, ...]:
        """What goes along with a tag on ``hosts``, the largest first."""
        found = [meetings.describe(head, place, hosts) for place in self.by_head.get(head, ())]
        found = [item for item in found if item.hosts]
        return tuple(sorted(found, key=lambda item: (-item.bytes, item.tag.hex, item.pool.value)))


def sort_hosts(hosts: Iterable[str]) -> Tuple[str, ...]:
    """Hosts by their names, however these are cased."""
    names: List[str] = sorted(hosts, key=lambda host: (host.lower(), host))
    return tuple(names)
