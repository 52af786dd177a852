"""The sentences of the tool: each command is one function, from sources to values ready to be shown.

Each is imported when it is used: a command takes little of the whole.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Dict

if TYPE_CHECKING:
    from pykdext.attribution.stated import describe_stated
    from pykdext.attribution.taglists import TagLists
    from pykdext.pipeline.blocks import find_blocks
    from pykdext.pipeline.conclusions import conclude_diff, conclude_series
    from pykdext.pipeline.ownership import find_owners
    from pykdext.pipeline.recording import record_samples
    from pykdext.pipeline.series import FollowedSeries, find_logs, follow_files, load_sides
    from pykdext.pipeline.sources import NoTagTablesError, Source, load_states, open_source
    from pykdext.pipeline.verdict import analyze
    from pykdext.pipeline.weighing import FoundOwners

__all__ = [
    "FollowedSeries",
    "FoundOwners",
    "NoTagTablesError",
    "Source",
    "TagLists",
    "analyze",
    "conclude_diff",
    "conclude_series",
    "describe_stated",
    "find_blocks",
    "find_logs",
    "find_owners",
    "follow_files",
    "load_sides",
    "load_states",
    "open_source",
    "record_samples",
]

_MODULES: Dict[str, str] = {
    "TagLists": "pykdext.attribution.taglists",
    "find_blocks": "pykdext.pipeline.blocks",
    "conclude_diff": "pykdext.pipeline.conclusions",
    "conclude_series": "pykdext.pipeline.conclusions",
    "describe_stated": "pykdext.attribution.stated",
    "FoundOwners": "pykdext.pipeline.weighing",
    "find_owners": "pykdext.pipeline.ownership",
    "record_samples": "pykdext.pipeline.recording",
    "FollowedSeries": "pykdext.pipeline.series",
    "find_logs": "pykdext.pipeline.series",
    "follow_files": "pykdext.pipeline.series",
    "load_sides": "pykdext.pipeline.series",
    "NoTagTablesError": "pykdext.pipeline.sources",
    "Source": "pykdext.pipeline.sources",
    "load_states": "pykdext.pipeline.sources",
    "open_source": "pykdext.pipeline.sources",
    "analyze": "pykdext.pipeline.verdict",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
