"""Who owns a tag: evidence, owners, what tag lists say, and what a tag's blocks point at."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime
from typing import Optional, Tuple

from pykdext.model.evidencekinds import EvidenceKind, TagClass
from pykdext.model.pool import PoolTag


@dataclass(frozen=True)
class ImageCoverage:
    """How much of the driver images could be searched. ``resident_fraction``: bytes read of bytes searched for.

    ``discarded_bytes`` of the others: code that only ran when its driver started, and is not in memory any more.
    ``modules_unsearched``: those that the user's end left unsearched; of what is in memory of them
    nothing is known.
    """

    modules_scanned: int
    modules_total: int
    resident_fraction: Optional[float]
    modules_unsearched: int = 0
    discarded_bytes: int = 0

    @classmethod
    def of(
        cls,
        scanned: int,
        total: int,
        present_bytes: int,
        expected_bytes: int,
        unsearched: int = 0,
        discarded_bytes: int = 0,
    ) -> ImageCoverage:
        """The coverage by counts of images and bytes; without any: no fraction. What is discarded is not covered."""
        wanted_bytes = expected_bytes + discarded_bytes
        resident_fraction = present_bytes / wanted_bytes if wanted_bytes else None
        return cls(scanned, total, resident_fraction, unsearched, discarded_bytes)


class Confidence(enum.Enum):
    """How sure an owner is: what was seen, not a probability."""

    PROVEN = "proven"
    LIKELY = "likely"
    POSSIBLE = "possible"

    @property
    def rank(self) -> int:
        """0 for the strongest."""
        return list(Confidence).index(self)


@dataclass(frozen=True)
class Evidence:
    """One reason to name ``module`` as an owner of ``tag``.

    ``rva`` is the place in the image, of a call the call itself; ``function`` the name of the function there, where
    symbols allow; ``detail`` one line for a reader.
    """

    tag: PoolTag
    module: str
    kind: EvidenceKind
    confidence: Confidence
    detail: str
    rva: Optional[int] = None
    function: Optional[str] = None


@dataclass(frozen=True)
class ImageVersion:
    """What an image says of its origin, as far as it could be read: version resource, headers and debug directory.

    ``built_at`` (UTC) is None where the linker put no time: reproducible builds have a hash there. ``timestamp`` and
    ``image_bytes`` (TimeDateStamp and SizeOfImage) are what symbol servers file the image under, ``checksum`` that of
    its headers; ``pdb_file``, ``pdb_guid`` (32 hexadecimal digits) and ``pdb_age`` are what they file its PDB under.
    """

    company: Optional[str] = None
    product: Optional[str] = None
    description: Optional[str] = None
    file_version: Optional[str] = None
    built_at: Optional[datetime] = None
    timestamp: Optional[int] = None
    image_bytes: Optional[int] = None
    checksum: Optional[int] = None
    pdb_file: Optional[str] = None
    pdb_guid: Optional[str] = None
    pdb_age: Optional[int] = None


@dataclass(frozen=True)
class Owner:
    """A module that allocates with a tag, with all evidence, the strongest first.

    ``part_of_windows`` is None where the image's company could not be read, ``base`` where the image is not loaded (a
    file) or its place is not known.
    """

    module: str
    confidence: Confidence
    evidence: Tuple[Evidence, ...]
    version: Optional[ImageVersion] = None
    part_of_windows: Optional[bool] = None
    base: Optional[int] = None


class Role(enum.Enum):
    """What a tag is in the leak."""

    CAUSE = "cause"
    VICTIM = "victim"
    OBJECT = "object"
    """Windows allocates it for whoever opens or references something."""
    SHARED = "shared"
    """A default or a library's tag: any driver may have allocated it."""
    CACHE = "cache"
    """It holds what others use."""
    UNKNOWN = "unknown"

    @property
    def tells_no_caller(self) -> bool:
        """Whether the tag names nobody, even if it is known who allocates with it."""
        return self in (Role.OBJECT, Role.SHARED, Role.CACHE)


class UsualUnit(enum.Enum):
    """What a usual amount scales with."""

    MACHINE = "machine"
    PROCESS = "process"
    FILE = "file"
    GIGABYTE = "GB"


@dataclass(frozen=True)
class Usual:
    """The most that healthy machines hold of a tag, in bytes or in blocks (the other is None), ``per`` unit.

    ``source`` says in a few words where that was seen; ``is_analogy`` that it was not, and what it follows from.
    """

    bytes: Optional[int]
    blocks: Optional[int]
    per: UsualUnit
    source: str
    is_analogy: bool = False


@dataclass(frozen=True)
class TagDescription:
    """What a tag list says: the entry's own pattern, the module, the words, and where it stands.

    ``tag_class`` is None where the list has no classes (pooltag.txt); ``next_question`` says what to ask next;
    ``usual`` how much of the tag is usual, None where that is not known; ``is_vendors`` that the module is known to be
    no part of Windows.
    """

    pattern: str
    module: str
    text: str
    source: str
    tag_class: Optional[TagClass] = None
    next_question: Optional[str] = None
    usual: Optional[Usual] = None
    is_vendors: bool = False


@dataclass(frozen=True)
class TagLookup:
    """What one tag list says of a tag: all entries that match, the winner first, out of ``entries`` in the list."""

    list_name: str
    entries: int
    matches: Tuple[TagDescription, ...]


@dataclass(frozen=True)
class TagOwners:
    """The owners of one tag, the likeliest first, what the tag lists say, and ``notes`` on both, one line each."""

    tag: PoolTag
    owners: Tuple[Owner, ...]
    coverage: ImageCoverage
    descriptions: Tuple[TagDescription, ...] = ()
    notes: Tuple[str, ...] = ()


@dataclass(frozen=True)
class PointedPlace:
    """A place of a driver that blocks point at, and in what share of the sampled blocks (0.0 to 1.0).

    ``what`` is ``code``, ``constants``, ``data``, ``image`` where the sections are not known, or ``object``: a driver
    object of the driver, or one of its device objects. ``rva`` is None for objects: they lie outside the image.
    """

    what: str
    rva: Optional[int]
    share_of_blocks: float


@dataclass(frozen=True)
class DriverPointers:
    """The sampled blocks that point at one driver: their share, and the places, the most common first."""

    module: str
    unloaded: bool
    share_of_blocks: float
    places: Tuple[PointedPlace, ...]


@dataclass(frozen=True)
class ContentsWitness:
    """What a sample of a tag's blocks points at: drivers by the share of blocks, those that tell least last."""

    tag: PoolTag
    blocks_sampled: int
    drivers: Tuple[DriverPointers, ...]
