"""Reports without the names of machines, people and folders: what may leave the house.

Pool tags, drivers, addresses and versions stay: they are what a report is about.
"""

from __future__ import annotations

import dataclasses
import enum
import re
from typing import Any, Dict, Iterable, List, Mapping, Set, Tuple, TypeVar

from pykdext.cli.ownwords import OWN_WORDS
from pykdext.model import PoolTag, PoolUsage

_Value = TypeVar("_Value")

_HOST_FIELDS = frozenset({"host", "hosts", "quiet_hosts", "leaking_hosts"})
_PERSON_FIELDS = frozenset({"accounts"})
_PATH_FIELDS = frozenset({"path"})
_OWN_WORDS = frozenset({"arch", "bytes", "confidence", "hex", "kind", "pool", "role", "schema", "status", "tag"})
"""Fields that hold numbers, or words of poolleak's own."""

_DRIVERS_FOLDER = re.compile(r"(?:[a-z]:|\\systemroot|\\\?\?\\[a-z]:)?(?:\\windows)?\\system32\\drivers\\[^\\/]+", re.I)
"""Where drivers of every machine are: such a path tells nothing of this one."""

_PATH_IN_TEXT = re.compile(
    r"""(?<![\w.\\/-])(?:
        [a-z][a-z0-9+.-]+://[^\s"'<>]*[^\s"'<>.,;:)]             # a URL
        | (?:[a-z]:|\\\\[^\s\\/:"]+|\\\?\?|\\(?:systemroot|device|windows|users)\b)[\\/]
            (?:[^:*?"<>|\n]*?\.\w{1,6}(?![\w.\\/])|(?:[^:*?"<>|\n,;']*\\)?[^\s:*?"<>|,;']*)   # of Windows: up to a
                # file's extension, or through all folders
        | (?:(?:~|\.\.?)(?:/[^\s:,;'"()/]+)+ | (?:/[^\s:,;'"()/]+){2,})/?(?<!\.)    # of Unix; /x may be an option
    )""",
    re.I | re.X,
)

_SID_IN_TEXT = re.compile(r"S-1-5-21(?:-\d+){3,4}(?![\d-])", re.I)
"""The number of an account of a person's, as the registry's keys bear it; those of services begin otherwise."""

_HOME_IN_TEXT = re.compile(r"(?<=\\users\\)[^\\/:*?\"<>|\n]+?(?=[\\:,;\"']| \(|$)", re.I | re.M)
_NOBODYS_HOMES = frozenset({"public", "default", "default user", "all users"})

_PLACEHOLDER = re.compile(r"(?:host|path|person)-\d+")

_MIN_NAME_CHARACTERS = 3
"""Shorter names are not looked for in texts, nor words of poolleak's own in small letters."""


class Redactor:
    """Puts ``host-1`` and ``path-1`` for names: the same name gets the same one in all that a redactor is given.

    ``paths`` are what the user typed: texts may mention them, or the file's name alone, though no field holds them.
    """

    def __init__(self, paths: Iterable[str] = ()) -> None:
        self._placeholders: Dict[str, str] = {}
        self._sought: Set[str] = set()
        """What texts may mention: the names in the fields of the value at hand, and those that were typed."""
        self._counts: Dict[str, int] = {}
        for path in paths:
            placeholder = self._note_path(path)
            name = re.split(r"[\\/]", path)[-1]
            if placeholder != path and "." in name:
                self._placeholders.setdefault(name.lower(), placeholder)
                self._sought.add(name.lower())
        self._typed = frozenset(self._sought)

    def redact(self, value: _Value) -> _Value:
        """A copy of a value of the model, or of a document, without names; what holds none is the same object."""
        self._sought = set(self._typed)
        self._note_names(value, "")
        redacted: _Value = self._redact(value, "")
        return redacted

    def redact_text(self, text: str) -> str:
        """The text without the names that were typed or stood in the last value, and whatever reads like a path."""
        lowered = text.lower()
        names = sorted((name for name in self._sought if name in lowered), key=len, reverse=True)
        if names:
            known = "|".join(f"({re.escape(name)})" for name in names)
            text = re.sub(
                rf"(?<![\w-])(?:{known})(?![\w-])",
                lambda found: self._placeholders[names[(found.lastindex or 0) - 1]],
                text,
                flags=re.I,
            )
        text = _PATH_IN_TEXT.sub(lambda found: self._note_path(found.group()), text)
        text = _SID_IN_TEXT.sub(lambda found: self._note("person", found.group()), text)
        return _HOME_IN_TEXT.sub(lambda found: self._note_home(found.group()), text)

    def _note_home(self, name: str) -> str:
        """The owner of a folder of a device without a drive's letter, as file objects have them."""
        return name if name.lower() in _NOBODYS_HOMES else self._note("person", name)

    def _note_names(self, value: Any, field: str) -> None:
        """Find the names that stand in fields of their own, so that texts before them are redacted too."""
        if isinstance(value, str):
            if field in _HOST_FIELDS:
                self._note_host(value)
            elif field in _PATH_FIELDS:
                self._note_path(value)
            elif field in _PERSON_FIELDS:
                self._note("person", value)
        else:
            for name, part in _iter_parts(value, field):
                self._note_names(part, name)

    def _redact(self, value: Any, field: str) -> Any:
        if isinstance(value, str) and not isinstance(value, enum.Enum):
            return self._redact_string(value, field)
        parts = list(_iter_parts(value, field))
        redacted = [self._redact(part, name) for name, part in parts]
        if all(new is old for new, (_, old) in zip(redacted, parts)):
            return value
        if isinstance(value, Mapping):
            return dict(zip(value, redacted))
        if isinstance(value, (list, tuple)):
            return type(value)(redacted)
        return dataclasses.replace(value, **{name: new for new, (name, _) in zip(redacted, parts)})

    def _redact_string(self, text: str, field: str) -> str:
        if field in _HOST_FIELDS:
            return self._note_host(text)
        if field in _PATH_FIELDS:
            return self._note_path(text)
        if field in _PERSON_FIELDS:
            return self._note("person", text)
        return text if field in _OWN_WORDS else self.redact_text(text)

    def _note_host(self, name: str) -> str:
        return self._note("host", name) if name else name

    def _note_path(self, path: str) -> str:
        if not path or _DRIVERS_FOLDER.fullmatch(path):
            return path
        return self._note("path", path)

    def _note(self, word: str, name: str) -> str:
        if _PLACEHOLDER.fullmatch(name):  # it was redacted before
            return name
        key = name.lower()
        if key not in self._placeholders:
            self._counts[word] = self._counts.get(word, 0) + 1
            self._placeholders[key] = f"{word}-{self._counts[word]}"
        if len(name) >= _MIN_NAME_CHARACTERS and name not in OWN_WORDS:
            self._sought.add(key)
        return self._placeholders[key]


def _iter_parts(value: Any, field: str) -> List[Tuple[str, Any]]:
    """What a value is made of, each part with the name of its field; nothing of what cannot hold a name."""
    if field in _OWN_WORDS or isinstance(value, (PoolTag, PoolUsage, enum.Enum)):
        return []
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, (list, tuple)):
        return [(field, part) for part in value]
    if dataclasses.is_dataclass(value):
        return [(item.name, getattr(value, item.name)) for item in dataclasses.fields(value)]
    return []
