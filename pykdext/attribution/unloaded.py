"""Tags whose driver is gone: it was unloaded, and what it did not free is still there."""

from __future__ import annotations

from typing import Iterator, Sequence

from pykdext.model import Confidence, Evidence, Module, PoolTag, TagDescription
from pykdext.model.names import canonical_name


def find_unloaded_owners(
    tag: PoolTag, descriptions: Sequence[TagDescription], modules: Sequence[Module]
) -> Iterator[Evidence]:
    """The unloaded drivers that a tag list gives for ``tag``, if they are not loaded again; each once."""
    loaded = {canonical_name(module.name) for module in modules if not module.unloaded}
    unloaded = {canonical_name(module.name): module.name for module in modules if module.unloaded}
    named = dict.fromkeys(canonical_name(description.module.partition("!")[0]) for description in descriptions)
    for name in named:
        if name in unloaded and name not in loaded:
            detail = (
                f"{unloaded[name]}, which tag lists give for {tag.text!r}, was unloaded: what it allocated and did not"
                " free stays until the machine restarts"
            )
            yield Evidence(tag, unloaded[name], "unloaded", Confidence.POSSIBLE, detail)
