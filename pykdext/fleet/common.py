"""What the dumps of many hosts have in common: pure functions on the rows of a batch."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import DefaultDict, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Set, Tuple

from pykdext.model import CommonCause, Confidence, DumpRow, OtherVersion, PoolKind, PoolTag, Role
from pykdext.model.fleet import DumpVerdict

_NO_VERSION = ""


class _Cause(NamedTuple):
    """What makes two findings the same one; the driver in lower case, as Windows compares names."""

    tag: PoolTag
    pool: PoolKind
    role: Role
    module: Optional[str]
    version: Optional[str]


@dataclass
class _Finding:
    """One cause over all dumps."""

    module: Optional[str]
    confidence: Optional[Confidence] = None
    dumps: int = 0
    bytes_by_host: Dict[str, int] = field(default_factory=dict)

    def add(self, host: str, held_bytes: int, confidence: Optional[Confidence]) -> None:
        self.dumps += 1
        self.bytes_by_host[host] = max(held_bytes, self.bytes_by_host.get(host, 0))
        if confidence and (self.confidence is None or confidence.rank < self.confidence.rank):
            self.confidence = confidence


def find_common(rows: Iterable[DumpRow]) -> Tuple[CommonCause, ...]:
    """Each tag that leaks on any host, with each driver that likely owns it: the most hosts first, then the most bytes.

    Objects that Windows allocates for others come last: their tags name victims.

    Rows without a verdict say nothing. The rows are read once, and none is kept.
    """
    findings: Dict[_Cause, _Finding] = {}
    hosts_by_driver: DefaultDict[str, DefaultDict[Optional[str], Set[str]]] = defaultdict(lambda: defaultdict(set))
    for row in rows:
        if row.verdict is None:
            continue
        versions = {driver.name.lower(): driver.version for driver in row.drivers}
        for name, version in versions.items():
            hosts_by_driver[name][version].add(row.host)
        for cause, module, held_bytes, confidence in _iter_causes(row.verdict, versions):
            findings.setdefault(cause, _Finding(module)).add(row.host, held_bytes, confidence)
    hosts_by_cause = {cause: set(finding.bytes_by_host) for cause, finding in findings.items()}
    found = [
        _describe(cause, finding, hosts_by_driver.get(cause.module or "", {}), hosts_by_cause)
        for cause, finding in findings.items()
    ]
    return tuple(sorted(found, key=_rank))


def _iter_causes(
    verdict: DumpVerdict, versions: Mapping[str, Optional[str]]
) -> Iterator[Tuple[_Cause, Optional[str], int, Optional[Confidence]]]:
    """The suspects of a verdict, each with its likely owners, or None where it has none.

    The driver that allocates an object for others is not the cause either.
    """
    for suspect in verdict.suspects:
        role = suspect.role
        likely: List[Tuple[Optional[str], Optional[Confidence]]] = [
            (owner.module, owner.confidence)
            for owner in suspect.owners
            if role is not Role.OBJECT and owner.confidence is not Confidence.POSSIBLE
        ]
        for module, confidence in likely or [(None, None)]:
            key = module.lower() if module else None
            version = versions.get(key) if key else None
            yield _Cause(suspect.tag, suspect.pool, role, key, version), module, suspect.bytes or 0, confidence


def _describe(
    cause: _Cause,
    finding: _Finding,
    hosts_by_version: Mapping[Optional[str], Set[str]],
    hosts_by_cause: Mapping[_Cause, Set[str]],
) -> CommonCause:
    leaking = hosts_by_cause[cause]
    others = [
        OtherVersion(
            version,
            _sorted(hosts),
            _sorted(hosts & hosts_by_cause.get(cause._replace(version=version), set())),
        )
        for version, hosts in hosts_by_version.items()
        if version != cause.version
    ]
    return CommonCause(
        tag=cause.tag,
        pool=cause.pool,
        role=cause.role,
        module=finding.module,
        version=cause.version,
        confidence=finding.confidence,
        hosts=_sorted(leaking),
        dumps=finding.dumps,
        bytes=sum(finding.bytes_by_host.values()),
        quiet_hosts=_sorted(hosts_by_version.get(cause.version, set()) - leaking),
        other_versions=tuple(sorted(others, key=lambda other: other.version or _NO_VERSION)),
    )


def _rank(cause: CommonCause) -> Tuple[bool, int, int, str, str, str, str]:
    words = (cause.tag.hex, cause.pool.value, cause.module or "", cause.version or _NO_VERSION)
    return (cause.role is Role.OBJECT, -len(cause.hosts), -cause.bytes, *words)


def _sorted(hosts: Iterable[str]) -> Tuple[str, ...]:
    names: List[str] = sorted(hosts, key=lambda host: (host.lower(), host))
    return tuple(names)
