"""Tag lists: the pooltag.txt of Debugging Tools for Windows and the WDK, and the localtag.txt that poolmon writes.

The form of a line is ``<tag> - <binary> - <description>`` (as the file's own heading says); in a tag ``?`` stands for
any character and ``*`` for any end. Microsoft's file is not part of this package: the user's own copy is read. For
machines without one the package has a table of well-known tags of its own.
"""

from __future__ import annotations

import codecs
import functools
import importlib.resources
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Tuple

from pykdext.attribution.owners import Attributor
from pykdext.errors import RecordFormatError
from pykdext.model import (
    Confidence,
    Evidence,
    EvidenceKind,
    PoolTag,
    TagClass,
    TagDescription,
    TagLookup,
    Usual,
    UsualUnit,
)

MAX_LIST_BYTES = 16 << 20
"""A longer file is not a tag list; Microsoft's has about 300 KB."""

UNKNOWN_BINARY = "<unknown>"

_COMMENT = re.compile(r"rem(?:\W|$)|//", re.IGNORECASE)
_ENTRY = re.compile(r"(?P<tag>\S.{0,3}?)\s*-\s+(?P<rest>\S.*)")
_DASH = re.compile(r"\s+-\s*")
_CTRL_Z = "\x1a"

_SEPARATOR = " | "
_ANALOGY = "analogy: "
_THIRD_PARTY = "(third party)"

_DEBUGGER_FOLDERS = (
    ("ProgramFiles(x86)", "Windows Kits/*/Debuggers/*/triage"),
    ("ProgramFiles", "Windows Kits/*/Debuggers/*/triage"),
    ("ProgramFiles", "WindowsApps/Microsoft.WinDbg_*/*/triage"),
    ("ProgramFiles", "Debugging Tools for Windows*/triage"),
    ("ProgramFiles(x86)", "Debugging Tools for Windows*/triage"),
    ("ProgramFiles(x86)", "Windows Kits/*/Tools/Other/*/poolmon"),
)


class _Wildcard(NamedTuple):
    """A pattern of a list; ``order`` sorts the more specific first."""

    order: Tuple[bool, int]
    matches: re.Pattern[bytes]
    description: TagDescription


class PoolTagList:
    """Descriptions of tags. Those with one pattern are all kept, in the order of the list."""

    def __init__(self, descriptions: Iterable[TagDescription]) -> None:
        self._descriptions = tuple(descriptions)
        self._exact: Dict[bytes, List[TagDescription]] = {}
        self._wildcards: List[_Wildcard] = []
        for description in self._descriptions:
            pattern = description.pattern
            if "*" in pattern or "?" in pattern:
                self._wildcards.append(_compile_wildcard(description))
            else:
                self._exact.setdefault(_raw_pattern(pattern), []).append(description)
        self._wildcards.sort(key=lambda wildcard: wildcard.order)

    def __len__(self) -> int:
        return len(self._descriptions)

    def __iter__(self) -> Iterator[TagDescription]:
        return iter(self._descriptions)

    def find_descriptions(self, tag: PoolTag) -> Tuple[TagDescription, ...]:
        """What the list says of ``tag``, the best first: exact, then ``?``, then ``*``, more letters first."""
        exact = self._exact.get(tag.raw, [])
        wild = [wildcard.description for wildcard in self._wildcards if wildcard.matches.fullmatch(tag.raw)]
        return (*exact, *wild)


class TagListAttributor:
    """Names the module that a tag list gives; ``kind`` is that of its evidence."""

    def __init__(self, kind: EvidenceKind, tags: PoolTagList) -> None:
        self.name: str = kind.value
        self._kind = kind
        self._tags = tags

    def evidence(self, tag: PoolTag) -> Iterator[Evidence]:
        """One item for each description that names a module; a component (``nt!mm``) counts as its module."""
        for description in self._tags.find_descriptions(tag):
            module, _, _ = description.module.partition("!")
            if module:
                detail = f"{description.pattern.strip()} - {description.module} - {description.text}"
                yield Evidence(tag, module, self._kind, Confidence.POSSIBLE, f"{detail} ({description.source})")


def parse_pooltags(text: str, source: str) -> Iterator[TagDescription]:
    """The entries of a list; other lines are skipped, indented ones continue the entry above.

    ``module`` is empty where the list says ``<unknown>`` or nothing. ``source`` names the list in each entry.
    """
    entry: Optional[TagDescription] = None
    lines = text.replace(_CTRL_Z, "").split("\n")
    for number, line in enumerate(map(str.rstrip, lines), start=1):
        if entry and line[:1].isspace():
            if line.strip() != UNKNOWN_BINARY:
                entry = replace(entry, text=f"{entry.text} {line.strip()}")
            continue
        if entry:
            yield entry
        entry = None if _COMMENT.match(line) else _parse_entry(line, f"{source}:{number}")
    if entry:
        yield entry


def load_pooltags(path: Path) -> PoolTagList:
    """The list in a file; RecordFormatError where it cannot be read or holds no entry."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_LIST_BYTES + 1)
    except OSError as error:
        raise RecordFormatError(str(path), None, error.strerror or str(error), "a tag list that can be read") from error
    if len(data) > MAX_LIST_BYTES:
        raise RecordFormatError(str(path), None, f"more than {MAX_LIST_BYTES >> 20} MiB", "a tag list")
    tags = PoolTagList(parse_pooltags(_decode(data), path.name))
    if not len(tags):
        raise RecordFormatError(str(path), None, "no such line", "lines of the form <tag> - <binary> - <description>")
    return tags


def find_pooltags(folder: Path, environment: Mapping[str, str] = os.environ) -> Tuple[Path, ...]:
    """Tag lists in the usual places: ``folder`` (the current one), then Debugging Tools and WDK, newest kit first."""
    found = [folder / "pooltag.txt", folder / "localtag.txt"]
    for variable, pattern in _DEBUGGER_FOLDERS:
        root = environment.get(variable)
        if root:
            found += sorted(Path(root).glob(f"{pattern}/pooltag.txt"), reverse=True)
    return tuple(path for path in found if path.is_file())


@functools.cache
def load_knowntags() -> PoolTagList:
    """The table, parsed once: ``tag | module | class | what it is | what to ask next`` a line, ``#`` for comments.

    What is usual of a tag stands in a table beside it: ``tag | amount | per | where it was seen``,
    or ``analogy: why`` instead where it was not.
    """
    folder = importlib.resources.files("pykdext.attribution") / "data"
    usual = dict(_parse_usual((folder / "usual.txt").read_text(encoding="utf-8")))
    return PoolTagList(_parse_table((folder / "knowntags.txt").read_text(encoding="utf-8"), usual))


class TagLists:
    """Everything that is written about tags: the user's pooltag.txt, then the built-in table."""

    def __init__(self, lists: Mapping[EvidenceKind, PoolTagList]) -> None:
        self._lists = lists

    @classmethod
    def load(cls, pooltags: Optional[str] = None) -> TagLists:
        """Read ``pooltags``, or the list that Windows tools brought along; RecordFormatError if that is no list."""
        found = Path(pooltags) if pooltags else next(iter(find_pooltags(Path.cwd())), None)
        own = {EvidenceKind.POOLTAG_TXT: load_pooltags(found)} if found else {}
        return cls({**own, EvidenceKind.BUILTIN: load_knowntags()})

    @property
    def attributors(self) -> List[Attributor]:
        """One for each list."""
        return [TagListAttributor(kind, tags) for kind, tags in self._lists.items()]

    def find_descriptions(self, tag: PoolTag) -> Tuple[TagDescription, ...]:
        """What the lists say of ``tag``, the best of each list first."""
        return tuple(description for lookup in self.look_up(tag) for description in lookup.matches)

    def look_up(self, tag: PoolTag) -> Tuple[TagLookup, ...]:
        """What each list says of ``tag``; the first list with a match is the one that is believed."""
        return tuple(
            TagLookup(kind.value, len(tags), tags.find_descriptions(tag)) for kind, tags in self._lists.items()
        )

    def describe_tags(self, tags: Iterable[PoolTag]) -> Dict[PoolTag, TagDescription]:
        """The best description of each tag that any list knows."""
        found = ((tag, self.find_descriptions(tag)) for tag in tags)
        return {tag: descriptions[0] for tag, descriptions in found if descriptions}

    def is_object(self, tag: PoolTag) -> bool:
        """Whether the tag is that of a kernel object, allocated for whoever opens or references it."""
        return any(description.tag_class is TagClass.OBJECT for description in self.find_descriptions(tag))


def _parse_entry(line: str, source: str) -> Optional[TagDescription]:
    match = _ENTRY.match(line)
    if match is None:
        return None
    first, *text = _DASH.split(match["rest"], maxsplit=1)
    module = first if text and first != UNKNOWN_BINARY else ""
    return TagDescription(match["tag"].ljust(4), module, text[0] if text else first, source)


def _compile_wildcard(description: TagDescription) -> _Wildcard:
    start, star, _ = description.pattern.partition("*")
    raw = start.encode("latin-1", "replace") if star else _raw_pattern(start)
    expression = re.escape(raw).replace(rb"\?", b".") + (b".*" if star else b"")
    order = (bool(star), raw.count(b"?") - len(raw))
    return _Wildcard(order, re.compile(expression, re.DOTALL), description)


def _raw_pattern(pattern: str) -> bytes:
    """The bytes of a tag without ``*``: short ones are padded with blanks, as the kernel's are."""
    return pattern.encode("latin-1", "replace")[:4].ljust(4)


def _decode(data: bytes) -> str:
    """Text by its byte order mark; without one Windows-1252, as Microsoft's file is."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", "replace")
    if data.startswith(codecs.BOM_UTF8):
        return data.decode("utf-8-sig", "replace")
    return data.decode("cp1252", "replace")


def _parse_table(text: str, usual: Mapping[str, Usual]) -> Iterator[TagDescription]:
    for tag, fields in _iter_records(text):
        module, tag_class, what, next_question = fields
        named = module.replace(_THIRD_PARTY, "").strip()
        is_vendors = _THIRD_PARTY in module
        kind = TagClass(tag_class)
        yield TagDescription(tag, named, what, "built-in table", kind, next_question, usual.get(tag), is_vendors)


def _parse_usual(text: str) -> Iterator[Tuple[str, Usual]]:
    for tag, fields in _iter_records(text):
        amount, per, seen = fields
        source = seen.replace(_ANALOGY, "", 1)
        number, _, unit = amount.partition(" ")
        size = int(number) << 20 if unit == "MB" else None
        blocks = int(number) if size is None else None
        yield tag, Usual(size, blocks, UsualUnit(per), source, is_analogy=source != seen)


def _iter_records(text: str) -> Iterator[Tuple[str, List[str]]]:
    """The tag of each line, with its blanks, and the fields behind it."""
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            yield line[:4], line[4 + len(_SEPARATOR) :].split(_SEPARATOR)
