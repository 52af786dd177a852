"""Reads what the debugger engine prints: module lists, hex dumps, the words about a system."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from typing import Dict, Iterator, NamedTuple, Tuple

_ADDRESS = r"([0-9a-f]{8}(?:`[0-9a-f]{8})?)"
_RANGE = re.compile(rf"^{_ADDRESS} {_ADDRESS} +(\S+)", re.MULTILINE)
_UNLOADED = "Unloaded modules:"
_SYSTEM = re.compile(
    r"^Windows .* Kernel Version (\d+)(?: \(Service Pack (\d)\))? MP \((\d+) procs\) Free (.+)$", re.MULTILINE
)
_UPTIME = re.compile(r"^System Uptime: (?:(\d+) days? )?(\d+):(\d+):(\d+)\.(\d+)$", re.MULTILINE)
_DETAIL = re.compile(r"^ *([A-Za-z ]+): +(.*?) *$", re.MULTILINE)
_FIELD = re.compile(r"^([A-Z]\w+) +([0-9a-f`]+)$", re.MULTILINE)
_SYMBOL = re.compile(rf"^{_ADDRESS} +nt!(\w+) ", re.MULTILINE)
_GUID = re.compile(r"RSDS - GUID: {([0-9A-F-]+)}\s+Age: (\d+), Pdb: (\S+)")


class ModuleRange(NamedTuple):
    """One line of ``lm``: the engine's name of a module, and its addresses."""

    name: str
    start: int
    end: int


class SystemWords(NamedTuple):
    """What ``vertarget`` says."""

    build: int
    service_pack: int
    processors: int
    machine: str
    build_lab: str
    kernel_base: int
    module_list: int
    taken_at: datetime
    uptime: timedelta


def parse_address(text: str) -> int:
    """Return the value of hex digits with the engine's backquote in the middle."""
    return int(text.replace("`", ""), 16)


def parse_modules(text: str) -> Tuple[Tuple[ModuleRange, ...], Tuple[ModuleRange, ...]]:
    """Return the loaded and the unloaded modules of ``lm``."""
    loaded, _, unloaded = text.partition(_UNLOADED)
    return tuple(_iter_ranges(loaded)), tuple(_iter_ranges(unloaded))


def parse_details(text: str) -> Dict[str, str]:
    """Return the ``key: value`` lines of ``lmvm`` or ``.exr``."""
    return dict(_DETAIL.findall(text))


def parse_fields(text: str) -> Dict[str, int]:
    """Return the header fields that ``.dumpdebug`` prints in hex."""
    return {name: parse_address(value) for name, value in _FIELD.findall(text)}


def parse_system(text: str) -> SystemWords:
    """Return what ``vertarget`` says."""
    build, service_pack, processors, machine = _find(_SYSTEM, text)
    (build_lab,) = _find(re.compile(r"^Built by: (\S+)$", re.MULTILINE), text)
    kernel = re.compile(rf"^Kernel base = 0x{_ADDRESS} PsLoadedModuleList = 0x{_ADDRESS}$", re.MULTILINE)
    kernel_base, module_list = map(parse_address, _find(kernel, text))
    (taken_at,) = _find(re.compile(r"^Debug session time: (.*) \(UTC \+ 0:00\)$", re.MULTILINE), text)
    days, hours, minutes, seconds, milliseconds = (int(part or 0) for part in _find(_UPTIME, text))
    return SystemWords(
        int(build),
        int(service_pack or 0),
        int(processors),
        machine,
        build_lab,
        kernel_base,
        module_list,
        datetime.strptime(taken_at, "%a %b %d %H:%M:%S.%f %Y").replace(tzinfo=timezone.utc),
        timedelta(days, seconds, 0, milliseconds, minutes, hours),
    )


def parse_bugcheck(text: str) -> Tuple[int, ...]:
    """Return code and parameters of ``.bugcheck``."""
    code, *parameters = _find(re.compile(rf"^Bugcheck code ([0-9A-F]+)\nArguments {' '.join([_ADDRESS] * 4)}$"), text)
    return (int(code, 16), *map(parse_address, parameters))


def parse_identity(text: str) -> Tuple[str, int, str]:
    """Return GUID (hex digits only), age and PDB name of ``!lmi``."""
    guid, age, pdb_name = _find(_GUID, text)
    return guid.replace("-", ""), int(age), pdb_name


def parse_symbols(text: str) -> Dict[str, int]:
    """Return the addresses of nt's symbols that ``x`` lists."""
    return {name: parse_address(address) for address, name in _SYMBOL.findall(text)}


def parse_bytes(text: str) -> str:
    """Return the bytes of ``db`` as hex digits in the order of memory, and ``??`` for each that is not there."""
    lines = re.findall(rf"^{_ADDRESS}  (.{{47}})  ", text, re.MULTILINE)
    return "".join(digits.replace("-", " ").replace(" ", "") for _, digits in lines)


def parse_pointers(text: str) -> Tuple[int, ...]:
    """Return the numbers of ``dp``."""
    return tuple(parse_address(word) for line in text.splitlines() for word in line.split()[1:])


def parse_value(text: str) -> int:
    """Return the value of ``?``."""
    return parse_address(text.rpartition(" = ")[2])


def _iter_ranges(text: str) -> Iterator[ModuleRange]:
    for start, end, name in _RANGE.findall(text):
        yield ModuleRange(name, parse_address(start), parse_address(end))


def _find(pattern: re.Pattern[str], text: str) -> Tuple[str, ...]:
    found = pattern.search(text)
    if found is None:
        raise ValueError(f"no {pattern.pattern!r} in:\n{text}")
    return found.groups()
