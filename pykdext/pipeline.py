"""The sentences of the tool: each command is one function, from sources to values ready to be shown."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

from pykdext import growth
from pykdext.advice import next_steps, verdict_on
from pykdext.attribution.immediates import ImageIndex, ImmediateAttributor, ModuleIndex
from pykdext.attribution.knowntags import load_knowntags
from pykdext.attribution.pooltagtxt import PoolTagList, TagListAttributor, find_pooltags, load_pooltags
from pykdext.attribution.weigh import Attributor, ModuleFacts, weigh_evidence
from pykdext.errors import LayoutNotFoundError, MemoryReadError, PykdextError, TargetError
from pykdext.kernel.bigpages import read_big_pages
from pykdext.kernel.kernel import Kernel, open_kernel
from pykdext.kernel.pooltables import read_pool_snapshot
from pykdext.kernel.smallblocks import MAX_WALK_SECONDS, find_small_blocks
from pykdext.model import (
    UNUSED,
    Allocation,
    BlockReport,
    BlockView,
    DumpSummary,
    ImageCoverage,
    ImageVersion,
    LeakReport,
    Module,
    PoolKind,
    PoolSnapshot,
    PoolTag,
    PoolTotal,
    TagDescription,
    TagOwners,
    TagUsage,
)
from pykdext.progress import ReportProgress, ignore_progress
from pykdext.records.snapshotfile import is_snapshot_head, load_snapshot
from pykdext.selection import count_sizes
from pykdext.targets.crashdump import open_crashdump
from pykdext.units import format_share

_HEAD_BYTES = 4096
_NAMED_IMAGES = 5
_HEAD_OF_BLOCK_BYTES = 16


@dataclass(frozen=True)
class Source:
    """An opened source: its snapshot, and its kernel if it has memory to search (a log has none)."""

    snapshot: PoolSnapshot
    kernel: Optional[Kernel]


class NoTagTablesError(PykdextError):
    """The tag tables of a dump cannot be read; ``summary`` holds what the dump tells nevertheless."""

    def __init__(self, summary: DumpSummary) -> None:
        super().__init__(f"{summary.path}: {summary.reason}")
        self.summary = summary


@contextmanager
def open_source(
    path: str, progress: ReportProgress = ignore_progress, symbol_path: Optional[str] = None
) -> Iterator[Source]:
    """Recognise ``path`` by its content and read its pools.

    ``symbol_path`` is where a dump's PDB is looked for; None: along the environment's ``_NT_SYMBOL_PATH``.

    Raises:
        NoTagTablesError: the dump can be read, but not its tag tables.
        PykdextError: one line that says what is wrong with the file.
        OSError: it cannot be opened.
    """
    with open(path, "rb") as file:
        head = file.read(_HEAD_BYTES)
    if is_snapshot_head(head):
        yield Source(load_snapshot(path), None)
        return
    with open_crashdump(path, lambda done, total: progress(done, total, "unpacking")) as target:
        kernel = open_kernel(target, os.environ.get("_NT_SYMBOL_PATH", "") if symbol_path is None else symbol_path)
        try:
            snapshot = read_pool_snapshot(kernel, path)
        except (TargetError, LayoutNotFoundError) as error:
            raise NoTagTablesError(DumpSummary(path, target.facts, target.modules(), str(error))) from error
        yield Source(snapshot, kernel)


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
        return tuple(description for tags in self._lists.values() for description in tags.find_descriptions(tag))

    def describe_tags(self, tags: Iterable[PoolTag]) -> Dict[PoolTag, TagDescription]:
        """The best description of each tag that any list knows."""
        found = ((tag, self.find_descriptions(tag)) for tag in tags)
        return {tag: descriptions[0] for tag, descriptions in found if descriptions}


@dataclass(frozen=True)
class FoundOwners:
    """The owners of the tags that were asked for, how much was searched, and what could not be."""

    tags: Tuple[TagOwners, ...]
    coverage: ImageCoverage
    warnings: Tuple[str, ...]


def find_owners(
    source: Source, tags: Sequence[PoolTag], lists: TagLists, progress: ReportProgress = ignore_progress
) -> FoundOwners:
    """Who owns each of ``tags``: by the images in memory, which are read once, and by the tag lists."""
    attributors = lists.attributors
    modules: Tuple[Module, ...] = ()
    versions: Mapping[str, ImageVersion] = {}
    coverage = ImageCoverage(0, 0, None)
    warnings: Tuple[str, ...] = ()
    incomplete: List[ModuleIndex] = []
    if source.kernel is not None:
        index = ImageIndex(source.kernel.read_images(), tags, progress)
        modules = tuple(entry.image.module for entry in index.modules)
        versions = {entry.image.module.name: entry.version for entry in index.modules}
        attributors = [ImmediateAttributor(index), *attributors]
        coverage, warnings = index.coverage, index.warnings
        incomplete = [entry for entry in index.modules if entry.present_bytes < entry.expected_bytes]
    facts = ModuleFacts(modules, versions, {description.module for description in load_knowntags()})
    foreign = [entry for entry in incomplete if not facts.is_part_of_windows(entry.image.module.name)]
    if foreign:
        warnings += (_name_incomplete(foreign),)
    owners = (
        weigh_evidence((item for attributor in attributors for item in attributor.evidence(tag)), facts) for tag in tags
    )
    found = tuple(
        TagOwners(tag, tag_owners, coverage, lists.find_descriptions(tag)) for tag, tag_owners in zip(tags, owners)
    )
    return FoundOwners(found, coverage, warnings)


def find_blocks(source: Source, tag: PoolTag, sample: int, progress: ReportProgress = ignore_progress) -> BlockReport:
    """Where the live blocks of ``tag`` are; ``sample`` of them with their first bytes.

    Raises:
        TargetError: the source is a log or snapshot, which holds no memory.
    """
    if source.kernel is None:
        raise TargetError(
            f"{source.snapshot.source.path}: found a snapshot, expected a dump. Hint: only a dump holds the blocks"
        )
    warnings: List[str] = []
    big: Tuple[Allocation, ...] = ()
    try:
        pages = read_big_pages(source.kernel, tag)
        big = pages.allocations
        if pages.rows_read < pages.rows_expected:
            missing = pages.rows_expected - pages.rows_read
            warnings.append(f"big-page table: {missing:,} of {pages.rows_expected:,} rows are not in the target")
    except TargetError as error:
        warnings.append(f"{error}; big blocks are missing")
    small = find_small_blocks(source.kernel, tag, progress)
    if not small.complete:
        warnings.append(f"the search for small blocks ended after {MAX_WALK_SECONDS:.0f} s; some are missing")
    found = sorted((*big, *small.allocations), key=lambda block: block.address)
    row = next((row for row in source.snapshot.tags if row.tag == tag), TagUsage(tag, UNUSED, UNUSED))
    return BlockReport(
        tag=tag,
        source=source.snapshot.source,
        counted=row,
        found=tuple(found),
        sizes=count_sizes(found),
        sample=tuple(_view(source.kernel, block) for block in found[:sample]),
        freed=small.freed,
        warnings=(*source.snapshot.warnings, *warnings),
    )


def _view(kernel: Kernel, block: Allocation) -> BlockView:
    """The block with its first bytes; a small block's header is left out."""
    start = 0 if block.is_big else 2 * kernel.target.pointer_size
    size = max(0, min(_HEAD_OF_BLOCK_BYTES, block.size_bytes - start))
    try:
        return BlockView(block, kernel.target.read_virtual(block.address + start, size))
    except MemoryReadError:
        return BlockView(block, b"")


def _name_incomplete(entries: Sequence[ModuleIndex]) -> str:
    """The images that may hide an owner, the least complete first."""
    worst = sorted(entries, key=lambda entry: entry.present_bytes / entry.expected_bytes)[:_NAMED_IMAGES]
    names = ", ".join(
        f"{entry.image.module.name} ({format_share(entry.present_bytes / entry.expected_bytes)})" for entry in worst
    )
    more = f" and {len(entries) - len(worst)} more" if len(entries) > len(worst) else ""
    return f"driver images that are not wholly in memory, a tag may be in what is missing: {names}{more}"


def analyze(
    source: Source,
    lists: TagLists,
    progress: ReportProgress = ignore_progress,
    top: Optional[int] = None,
) -> LeakReport:
    """The verdict on one state: the ``top`` suspects, who owns them, and what to do next."""
    snapshot = source.snapshot
    found = find_owners(source, growth.find_notable(snapshot), lists, progress)
    suspects = growth.rank_suspects(snapshot, {owners.tag: owners for owners in found.tags})[:top]
    images = found.coverage if source.kernel else None
    return LeakReport(
        snapshot=snapshot,
        verdict=verdict_on(suspects, images),
        pools=tuple(PoolTotal.of(snapshot, pool) for pool in PoolKind),
        suspects=suspects,
        next_steps=next_steps(snapshot, suspects),
        image_coverage=images,
        warnings=(*snapshot.warnings, *found.warnings),
    )
