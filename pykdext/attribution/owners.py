"""From evidence to owners: what every attributor says of a tag, put together module by module."""

from __future__ import annotations

from typing import Dict, Iterable, List, Mapping, Optional, Protocol, Tuple

from pykdext.model import Evidence, ImageVersion, Module, Owner, PoolTag
from pykdext.model.names import canonical_name


class Attributor(Protocol):
    """One way to find out who uses a tag."""

    @property
    def name(self) -> str:
        """One word for reports."""

    def evidence(self, tag: PoolTag) -> Iterable[Evidence]:
        """Everything this way tells of ``tag``."""


class ModuleFacts:
    """What is known of the loaded modules, looked up by the name that evidence gives.

    A module is part of Windows if its version resource names Microsoft, or is nt; it is not if the resource names
    somebody else. Without a resource ``windows_modules``, the file names in the built-in tag table, decide; a name
    that is not there stays undecided.
    """

    def __init__(
        self,
        modules: Iterable[Module],
        versions: Mapping[str, ImageVersion],
        windows_modules: Iterable[str] = (),
    ) -> None:
        loaded_last = sorted(modules, key=lambda module: not module.unloaded)
        self._modules = {canonical_name(module.name): module for module in loaded_last}
        self._versions = versions
        self._windows_modules = frozenset(windows_modules)

    def find_module(self, name: str) -> Optional[Module]:
        """The loaded module of this name."""
        return self._modules.get(canonical_name(name))

    def find_version(self, name: str) -> Optional[ImageVersion]:
        """Its version resource, if that was in memory."""
        module = self.find_module(name)
        return None if module is None else self._versions.get(module.name)

    def is_part_of_windows(self, name: str) -> Optional[bool]:
        """True, False, or None where nothing tells."""
        if canonical_name(name) == "nt":
            return True
        version = self.find_version(name)
        if version is not None and version.company:
            return "microsoft" in version.company.lower()
        return True if canonical_name(name) in self._windows_modules else None


def weigh_evidence(evidence: Iterable[Evidence], facts: ModuleFacts) -> Tuple[Owner, ...]:
    """The owners that the evidence names: the surest first, then those not part of Windows, the newest first."""
    by_module: Dict[str, List[Evidence]] = {}
    for item in evidence:
        by_module.setdefault(canonical_name(item.module), []).append(item)
    owners = [_owner(items, facts) for items in by_module.values()]
    return tuple(sorted(owners, key=_precedence))


def _owner(items: List[Evidence], facts: ModuleFacts) -> Owner:
    ordered = sorted(items, key=lambda item: item.confidence.rank)  # stable: each attributor's own order stays
    module = facts.find_module(items[0].module)
    return Owner(
        module=module.name if module else items[0].module,
        confidence=ordered[0].confidence,
        evidence=tuple(ordered),
        version=facts.find_version(items[0].module),
        part_of_windows=facts.is_part_of_windows(items[0].module),
        base=module.base if module else None,
    )


def _precedence(owner: Owner) -> Tuple[int, int, float, str]:
    foreign = {False: 0, None: 1, True: 2}[owner.part_of_windows]
    built_at = owner.version.built_at if owner.version is not None else None
    return owner.confidence.rank, foreign, -built_at.timestamp() if built_at else 0.0, owner.module.lower()
