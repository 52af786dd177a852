"""What WinDbg and people write about a machine around its tables: host, build, processors, time, uptime."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Optional, Tuple

from pykdext.model import Machine, PoolSnapshot, SnapshotSource, SystemMemory, TagUsage, TimeOrigin
from pykdext.records.moments import find_moment

_HOST = re.compile(
    r"^[^\w\n]{0,20}(?:machine|computer|host)[ \t]?(?:name)?[ \t]{0,10}[:=][ \t]{0,10}\"?([\w.-]{1,255})",
    re.IGNORECASE | re.MULTILINE,
)
_VERSION = re.compile(
    r"Kernel Version (\d{1,6})[^\n]{0,80}?(?:\((\d{1,4}) procs?\)|UP)[^\n]{0,40}?(x64|x86|ARM 64-bit)"
)
_SESSION_TIME = re.compile(r"^(?:Debug session time|Debugger[^\n]{0,30}time):([^\n]{1,80})", re.MULTILINE)
_LINE_OF_TIME = re.compile(r"^[ \t#*>-]{0,20}((?:\w{3,9},? )?\d[\d/.-]{7,9}[T ][ \d:.,APMZ+-]{4,20})\r?$", re.MULTILINE)
_UPTIME = re.compile(r"^System Uptime:\s{0,10}(\d{1,6}) days? (\d{1,2}):(\d\d):(\d\d(?:\.\d{1,6})?)", re.MULTILINE)
_MACHINES = {"x64": Machine.X64, "x86": Machine.X86, "ARM 64-bit": Machine.ARM64}


@dataclass(frozen=True)
class SessionFacts:
    """What a debugger printed about its target; None: it did not say. ``doubts`` are sentences for the user."""

    taken_at: Optional[datetime] = None
    host: Optional[str] = None
    build: Optional[int] = None
    machine: Optional[Machine] = None
    processors: Optional[int] = None
    uptime_seconds: Optional[float] = None
    doubts: Tuple[str, ...] = ()

    def make_snapshot(
        self,
        source: SnapshotSource,
        memory: SystemMemory,
        tags: Tuple[TagUsage, ...] = (),
        warnings: Tuple[str, ...] = (),
    ) -> PoolSnapshot:
        """What the target's pools held then: a state of these facts, with their doubts before ``warnings``."""
        return PoolSnapshot(
            source=source,
            tags=tags,
            taken_at=self.taken_at,
            host=self.host,
            build=self.build,
            machine=self.machine,
            processors=self.processors,
            uptime_seconds=self.uptime_seconds,
            memory=memory,
            time_from=TimeOrigin.HEADER if self.taken_at else None,
            warnings=(*self.doubts, *warnings),
        )


def find_host(text: str) -> Optional[str]:
    """The last host name that a line such as ``Computer: SRV1`` gives."""
    found = _HOST.findall(text)
    return found[-1] if found else None


def parse_session_facts(text: str) -> SessionFacts:
    """The facts in the banner of a kernel debugger, ``vertarget``, ``.time`` or ``.echotime``; the last ones count."""
    times = _SESSION_TIME.findall(text) or _LINE_OF_TIME.findall(text)
    moment = find_moment(times[-1]) if times else None
    uptimes = _UPTIME.findall(text)
    versions = _VERSION.findall(text)
    build, processors, machine = versions[-1] if versions else ("", "", "")
    return SessionFacts(
        taken_at=moment.at if moment else None,
        host=find_host(text),
        build=int(build) if build else None,
        machine=_MACHINES.get(machine),
        processors=int(processors) if processors else None,
        uptime_seconds=_uptime_seconds(*uptimes[-1]) if uptimes else None,
        doubts=moment.doubts if moment else (),
    )


def _uptime_seconds(days: str, hours: str, minutes: str, seconds: str) -> float:
    return int(days) * 86400 + int(hours) * 3600 + int(minutes) * 60 + float(seconds)
