"""The flows of functions, kept on disk: the machines of a fleet have the same drivers, each followed once.

What a flow depends on is known, since all that is read of the image while a function is followed is noted. An entry is
found by the function's code and by what else of the image decides; it counts where everything that was read then reads
the same now. So nothing depends on whether it was kept.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import List, NamedTuple, Optional, Tuple

from pykdext.attribution.calls.lookups import NamedPlaces
from pykdext.attribution.flow.calls import FunctionFlow
from pykdext.attribution.flow.packing import pack_flow, unpack_flow
from pykdext.attribution.flow.standard import StandardImage
from pykdext.attribution.places.cache import IndexCache
from pykdext.images.functiontable import FunctionBounds

MAX_PLACES = 4096
"""Places that may be read to follow a function whose flow is kept."""

MAX_VARIANTS = 4
"""Flows kept of the same code: what it reads besides may differ, as the addresses in another build of Windows do."""

_PROGRAM = ("attribution/flow", "attribution/calls", "images")
"""The folders of the code that decides what a flow tells, besides the decoder."""


class _Variant(NamedTuple):
    """What was read to follow a function, the digest of what that was, and the packed flow."""

    places: List[Tuple[int, int]]
    digest: str
    flow: str


class KeptFlows:
    """The kept flows of one image, in ``cache``."""

    def __init__(self, cache: IndexCache, image: StandardImage, named: NamedPlaces) -> None:
        self._cache = cache
        self._image = image
        facts = (image.module.base, image.size, image.machine.value, image.sections, image.directories, named)
        self._facts = hashlib.sha256(repr((_identify_program(), facts)).encode()).hexdigest()

    def load(self, bounds: FunctionBounds) -> Optional[FunctionFlow]:
        """The flow of a function, if it was kept and everything is as it was then."""
        for variant in self._load_variants(self._identify(bounds)):
            try:
                if self._image.digest(variant.places) == variant.digest:
                    return unpack_flow(variant.flow)
            except (ValueError, TypeError):
                continue
        return None

    def save(self, bounds: FunctionBounds, flow: FunctionFlow) -> None:
        """Keep a flow that was just followed; where that is not possible nothing happens."""
        places = self._image.places_read
        if len(places) > MAX_PLACES:
            return
        key = self._identify(bounds)
        variant = _Variant(list(places), self._image.digest(places), pack_flow(flow))
        variants = [variant, *self._load_variants(key)][:MAX_VARIANTS]
        self._cache.save_entry(key, json.dumps(variants, separators=(",", ":")).encode())

    def _load_variants(self, key: bytes) -> List[_Variant]:
        kept = self._cache.load_entry(key)
        try:
            return [_Variant(*variant) for variant in json.loads(kept)] if kept is not None else []
        except (ValueError, TypeError, RecursionError):
            return []

    def _identify(self, bounds: FunctionBounds) -> bytes:
        """The digest of the function's place and code, and of what is known of the image before that is followed."""
        ranges = [(start, end - start) for start, end in bounds.ranges]
        return hashlib.sha256(f"{self._facts} {bounds} {self._image.digest(ranges)}".encode()).digest()


def open_kept_flows(cache: Optional[IndexCache], image: StandardImage, named: NamedPlaces) -> Optional[KeptFlows]:
    """The kept flows of ``image``; None without a cache of the user's own, or where this program cannot be told apart.

    What others may write into is not believed: a flow proves who owns a tag.
    """
    return KeptFlows(cache, image, named) if cache is not None and cache.is_private and _identify_program() else None


@lru_cache(maxsize=1)
def _identify_program() -> str:
    """The digest of the program that follows functions; empty where that cannot be read."""
    folder = Path(__file__).parent.parent.parent
    digest = hashlib.sha256()
    try:
        decoder = find_spec("capstone")
        if decoder is None or not decoder.origin:
            return ""
        own = sorted(path for name in _PROGRAM for path in (folder / name).rglob("*.py"))
        for path in (*own, Path(decoder.origin)):
            digest.update(path.read_bytes())
    except (OSError, ValueError):  # it has no file, or is no module with a specification
        return ""
    return digest.hexdigest()
