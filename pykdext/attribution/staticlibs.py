"""Tags that name no driver: those of static libraries, whose code is part of every driver that links them.

Every driver that links wdmsec.lib (WDK: WdmlibIoCreateDeviceSecure, IoCreateDeviceSecure) has the tags of its code; nt
has the same code. Other libraries are those that a tag list gives instead of a module (``kmcl.lib``).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Dict, Iterable, Iterator, Optional, Sequence

from pykdext.model import Confidence, Evidence, Owner, PoolTag, TagDescription
from pykdext.model.names import canonical_name
from pykdext.units import name_some

LIBRARY_SUFFIX = ".lib"

_WDMSEC = "wdmsec.lib"
_LIBRARY_BY_TAG: Dict[bytes, str] = dict.fromkeys((b"SeSd", b"SeAl", b"SeTs", b"PpRb", b"PpUc"), _WDMSEC)

_MAX_NAMES = 4


def find_static_library(tag: PoolTag, descriptions: Sequence[TagDescription] = ()) -> Optional[str]:
    """The static library that allocates with ``tag``, by its file name, or None.

    ``descriptions`` are those of tag lists, the best first: the first that names a module decides.
    """
    named = next((text.module for text in descriptions if text.module), "")
    return _LIBRARY_BY_TAG.get(tag.raw, named if named.lower().endswith(LIBRARY_SUFFIX) else None)


def limit_library_evidence(evidence: Iterable[Evidence], library: str) -> Iterator[Evidence]:
    """The evidence of a tag that ``library`` allocates with: of any driver but nt no more than possible.

    A library is no owner: evidence that names one is left out.
    """
    for item in evidence:
        if item.module.lower().endswith(LIBRARY_SUFFIX):
            continue
        if canonical_name(item.module) == "nt":
            yield item
        else:
            why = f"from the static library {library}; every driver that links it has this tag"
            yield replace(item, confidence=Confidence.POSSIBLE, detail=f"{item.detail}; {why}")


def describe_sharing(tag: PoolTag, owners: Sequence[Owner]) -> Optional[str]:
    """One line where several modules have the best grade for ``tag``, in the order of ``owners``; else None."""
    best = [owner for owner in owners if owner.confidence is owners[0].confidence]
    if len(best) < 2:
        return None
    names = name_some([owner.module for owner in best], _MAX_NAMES)
    return f"tag {tag.text!r} is used by {len(best)} modules, it alone tells none of them: {names}"
