"""The JSON Schemas (draft 2020-12) of all documents, by their names: ``report/1`` and others."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any, Dict, Iterator, Optional

_PREFIX = "poolleak."

_EMBEDDED = {"batch/1": "report/1"}
"""Documents that hold another: a reader wants one schema."""


def iter_schema_names() -> Iterator[str]:
    """The names of the documents, sorted."""
    for name in sorted(entry.name for entry in files(__name__).iterdir()):
        stem, _, suffix = name.rpartition(".")
        if suffix == "json":
            yield "/".join(stem.rsplit("-", 1))


def load_schema(name: str) -> Optional[str]:
    """The schema of a document by its name, with or without ``poolleak.`` before it; None for one that is not known."""
    short = name[len(_PREFIX) :] if name.startswith(_PREFIX) else name
    if short not in iter_schema_names():
        return None
    document = _read(short)
    if short in _EMBEDDED:
        inner = _read(_EMBEDDED[short])
        document["$defs"][inner["title"]] = inner
    return json.dumps(document, indent=2) + "\n"


def _read(name: str) -> Dict[str, Any]:
    text = files(__name__).joinpath(f"{name.replace('/', '-')}.json").read_text(encoding="utf-8")
    document: Dict[str, Any] = json.loads(text)
    return document
