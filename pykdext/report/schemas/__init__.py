"""The JSON Schemas (draft 2020-12) of all documents, by their names: ``report/1`` and others.

What several documents have in common stands in ``definitions.json``; a schema that is shown holds what it uses of it.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any, Dict, Iterator, List, Optional

_PREFIX = "poolleak."

_EMBEDDED = {"batch/1": "report/1"}
"""Documents that hold another: a reader wants one schema."""

_DEFINITIONS = "definitions"
_LOCAL, _SHARED = "#/$defs/", f"{_DEFINITIONS}.json#/$defs/"


def iter_schema_names() -> Iterator[str]:
    """The names of the documents, sorted."""
    for name in sorted(entry.name for entry in files(__name__).iterdir()):
        stem, _, suffix = name.rpartition(".")
        if suffix == "json" and stem != _DEFINITIONS:
            yield "/".join(stem.rsplit("-", 1))


def load_schema(name: str) -> Optional[str]:
    """The schema of a document by its name, with or without ``poolleak.`` before it; None for one that is not known."""
    short = name[len(_PREFIX) :] if name.startswith(_PREFIX) else name
    if short not in iter_schema_names():
        return None
    document = _bundle(_read(short))
    if short in _EMBEDDED:
        inner = _bundle(_read(_EMBEDDED[short]))
        document["$defs"][inner["title"]] = inner
    return json.dumps(document, indent=2) + "\n"


def _bundle(document: Dict[str, Any]) -> Dict[str, Any]:
    """The schema with all that it uses of the shared definitions, and what those use, among its own."""
    shared = _read(_DEFINITIONS)["$defs"]
    own: Dict[str, Any] = document.pop("$defs", {})
    wanted = [document, *own.values()]
    while wanted:
        for name in _localize(wanted.pop()):
            if name not in own:
                own[name] = shared[name]
                wanted.append(own[name])
    return {**document, "$defs": own} if own else document


def _localize(part: Any) -> List[str]:
    """Make references to shared definitions local ones; the names of all definitions that the part uses of them."""
    names: List[str] = []
    values = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    for value in values:
        names += _localize(value)
    reference = part.get("$ref") if isinstance(part, dict) else None
    if isinstance(reference, str):
        if reference.startswith(_SHARED):
            part["$ref"] = reference = _LOCAL + reference[len(_SHARED) :]
            names.append(reference[len(_LOCAL) :])
        elif reference.startswith(_LOCAL):
            names.append(reference[len(_LOCAL) :])
    return names


def _read(name: str) -> Dict[str, Any]:
    text = files(__name__).joinpath(f"{name.replace('/', '-')}.json").read_text(encoding="utf-8")
    document: Dict[str, Any] = json.loads(text)
    return document
