"""What is written about tags, from all lists at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Dict, Iterable, List, Mapping, Optional, Tuple

from pykdext.attribution.knowntags import load_knowntags
from pykdext.attribution.owners import Attributor
from pykdext.attribution.taglists import PoolTagList, TagListAttributor, find_pooltags, load_pooltags
from pykdext.model import PoolTag, TagDescription, TagLookup


class TagLists:
    """Everything that is written about tags: the user's pooltag.txt, then the built-in table."""

    def __init__(self, lists: Mapping[str, PoolTagList]) -> None:
        self._lists = lists

    @classmethod
    def load(cls, pooltags: Optional[str] = None) -> TagLists:
        """Read ``pooltags``, or the list that Windows tools brought along; RecordFormatError if it is none."""
        found = Path(pooltags) if pooltags else next(iter(find_pooltags(Path.cwd())), None)
        own = {"pooltag.txt": load_pooltags(found)} if found else {}
        return cls({**own, "builtin": load_knowntags()})

    @property
    def attributors(self) -> List[Attributor]:
        """One for each list."""
        return [TagListAttributor(name, tags) for name, tags in self._lists.items()]

    def find_descriptions(self, tag: PoolTag) -> Tuple[TagDescription, ...]:
        """What the lists say of ``tag``, the best of each list first."""
        return tuple(description for lookup in self.look_up(tag) for description in lookup.matches)

    def look_up(self, tag: PoolTag) -> Tuple[TagLookup, ...]:
        """What each list says of ``tag``; the first list with a match is the one that is believed."""
        return tuple(TagLookup(name, len(tags), tags.find_descriptions(tag)) for name, tags in self._lists.items())

    def describe_tags(self, tags: Iterable[PoolTag]) -> Dict[PoolTag, TagDescription]:
        """The best description of each tag that any list knows."""
        found = ((tag, self.find_descriptions(tag)) for tag in tags)
        return {tag: descriptions[0] for tag, descriptions in found if descriptions}

    def is_object(self, tag: PoolTag) -> bool:
        """Whether the tag is that of a kernel object, allocated for whoever opens or references it."""
        return any(description.tag_class == "object" for description in self.find_descriptions(tag))
