"""From evidence to owners: what every attributor says of a tag, put together module by module.

Two kinds of tags have owners of their own sort. Those of static libraries name no driver: every driver that links
wdmsec.lib (WDK: WdmlibIoCreateDeviceSecure, IoCreateDeviceSecure) has the tags of its code, and nt has the same code;
other libraries are those that a tag list gives instead of a module (``kmcl.lib``). And a driver may be gone: it was
unloaded, and what it did not free is still there.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import (
    TYPE_CHECKING,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    Optional,
    Protocol,
    Sequence,
    Set,
    Tuple,
)

from pykdext.model import Confidence, Evidence, EvidenceKind, ImageVersion, Module, Owner, PoolTag, TagDescription
from pykdext.model.names import canonical_name
from pykdext.units import count_things, name_some

if TYPE_CHECKING:
    from pykdext.images.image import Image
    from pykdext.targets.protocol import Target

LIBRARY_SUFFIX = ".lib"

_WDMSEC = "wdmsec.lib"
_LIBRARY_BY_TAG: Dict[bytes, str] = dict.fromkeys((b"SeSd", b"SeAl", b"SeTs", b"PpRb", b"PpUc"), _WDMSEC)

_MAX_NAMES = 4


class Attributor(Protocol):
    """One way to find out who uses a tag.

    To add one from outside of this package: a class with ``name`` and ``evidence``, whose items have a kind of
    :class:`~pykdext.model.EvidenceKind` (``OTHER`` where no other fits), and :func:`register_attributor`.
    """

    @property
    def name(self) -> str:
        """One word for reports."""

    def evidence(self, tag: PoolTag) -> Iterable[Evidence]:
        """Everything this way tells of ``tag``."""


OpenAttributor = Callable[["Target", Sequence["Image"]], Attributor]
"""Makes an attributor for the images that are searched, which are in the target."""

_REGISTERED: List[OpenAttributor] = []


@contextmanager
def register_attributor(open_attributor: OpenAttributor) -> Iterator[None]:
    """Ask the attributor, too, inside of the block, of every tag whose owners are looked for.

    It is opened once for the images of a kernel, and once for each driver file. What it says is weighed with all other
    evidence. Other processes do not know it: search files with one job.
    """
    _REGISTERED.append(open_attributor)
    try:
        yield
    finally:
        _REGISTERED.remove(open_attributor)


def open_registered(target: Target, images: Sequence[Image]) -> Tuple[Attributor, ...]:
    """The attributors that were registered, opened for ``images``."""
    return tuple(open_attributor(target, images) for open_attributor in _REGISTERED)


def has_registered() -> bool:
    """Whether an attributor was registered, which may know of a tag what nobody else does."""
    return bool(_REGISTERED)


class ModuleFacts:
    """What is known of the loaded modules, looked up by the name that evidence gives.

    A module is part of Windows if its version resource names Microsoft, or is nt; it is not if the resource names
    somebody else. Without a resource ``windows_modules`` and ``vendor_modules``, the file names in the built-in tag
    table, decide; a name that is not there stays undecided.
    """

    def __init__(
        self,
        modules: Iterable[Module],
        versions: Mapping[str, ImageVersion],
        windows_modules: Iterable[str] = (),
        vendor_modules: Iterable[str] = (),
    ) -> None:
        loaded_last = sorted(modules, key=lambda module: not module.unloaded)
        self._modules = {canonical_name(module.name): module for module in loaded_last}
        self._versions = versions
        self._vendor_modules = frozenset(vendor_modules)
        self._windows_modules = frozenset(windows_modules) - self._vendor_modules

    def find_module(self, name: str) -> Optional[Module]:
        """The loaded module of this name."""
        return self._modules.get(canonical_name(name))

    def find_version(self, name: str) -> Optional[ImageVersion]:
        """Its version resource, if that was in memory."""
        module = self.find_module(name)
        return None if module is None else self._versions.get(module.name)

    def is_part_of_windows(self, name: str) -> Optional[bool]:
        """True or False; None where that is not known."""
        if canonical_name(name) == "nt":
            return True
        version = self.find_version(name)
        if version is not None and version.company:
            return "microsoft" in version.company.lower()
        if canonical_name(name) in self._vendor_modules:
            return False
        return True if canonical_name(name) in self._windows_modules else None


def weigh_evidence(evidence: Iterable[Evidence], facts: ModuleFacts, *, is_object: bool = False) -> Tuple[Owner, ...]:
    """The owners that the evidence names: the surest first, then those not part of Windows, the newest first.

    With the tag of an object (``is_object``) nt comes before its equals: it allocates the objects for all others.
    """
    by_module: Dict[str, List[Evidence]] = {}
    for item in evidence:
        by_module.setdefault(canonical_name(item.module), []).append(item)
    owners = [_owner(items, facts) for items in by_module.values()]
    first = "nt" if is_object else None
    return tuple(
        sorted(owners, key=lambda owner: (owner.confidence.rank, canonical_name(owner.module) != first, _order(owner)))
    )


def _owner(items: List[Evidence], facts: ModuleFacts) -> Owner:
    ordered = _order_evidence(items)
    module = facts.find_module(items[0].module)
    return Owner(
        module=module.name if module else items[0].module,
        confidence=ordered[0].confidence,
        evidence=tuple(ordered),
        version=facts.find_version(items[0].module),
        part_of_windows=facts.is_part_of_windows(items[0].module),
        base=(module.base or None) if module else None,
    )


def _order_evidence(items: Sequence[Evidence]) -> List[Evidence]:
    """The surest first; among equals the first of each kind, then the others, each attributor's in its own order."""
    first: Set[Tuple[Confidence, EvidenceKind]] = set()
    keys: List[Tuple[int, bool]] = []
    for item in items:
        kind = item.confidence, item.kind
        keys.append((item.confidence.rank, kind in first))
        first.add(kind)
    return [items[index] for index in sorted(range(len(items)), key=keys.__getitem__)]


def _order(owner: Owner) -> Tuple[int, float, str]:
    foreign = {False: 0, None: 1, True: 2}[owner.part_of_windows]
    built_at = owner.version.built_at if owner.version is not None else None
    return foreign, -built_at.timestamp() if built_at else 0.0, owner.module.lower()


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
    return f"tag {tag.text!r} is used by {count_things(len(best), 'module')}, it alone tells none of them: {names}"


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
            yield Evidence(tag, unloaded[name], EvidenceKind.UNLOADED, Confidence.POSSIBLE, detail)
