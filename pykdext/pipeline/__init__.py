"""The sentences of the tool: each command is one function, from sources to values ready to be shown."""

from __future__ import annotations

from pykdext.attribution.taglists import TagLists
from pykdext.pipeline.blocks import find_blocks
from pykdext.pipeline.conclusions import conclude_diff, conclude_series
from pykdext.pipeline.ownership import FoundOwners, find_owners
from pykdext.pipeline.recording import record_samples
from pykdext.pipeline.series import FollowedSeries, find_logs, follow_files, load_sides
from pykdext.pipeline.sources import NoTagTablesError, Source, load_states, open_source
from pykdext.pipeline.verdict import analyze

__all__ = [
    "FollowedSeries",
    "FoundOwners",
    "NoTagTablesError",
    "Source",
    "TagLists",
    "analyze",
    "conclude_diff",
    "conclude_series",
    "find_blocks",
    "find_logs",
    "find_owners",
    "follow_files",
    "load_sides",
    "load_states",
    "open_source",
    "record_samples",
]
