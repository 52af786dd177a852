"""Driver files on disk, judged by the same search as the images in memory: whole folders, in parallel."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import Counter, deque
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Collection, Dict, Generator, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple, Union

from pykdext.attribution.codeevidence import CodeAttributor
from pykdext.attribution.filesummary import (
    MAX_SUMMARISED_BYTES,
    FileSummary,
    identify_file,
    pack_summary,
    parse_summary,
    summarise_file,
)
from pykdext.attribution.owners import has_registered
from pykdext.attribution.places.cache import open_index_cache
from pykdext.attribution.places.index import ImageIndex
from pykdext.attribution.usermode import runs_in_user_mode
from pykdext.errors import PykdextError, TargetError
from pykdext.images.embedded import MAX_OVERLAY_BYTES, Embedded, find_appended, iter_embedded
from pykdext.images.image import Image, read_image
from pykdext.images.imagefile import HeldBytes, ImageFile, open_image_file
from pykdext.model import Evidence, PoolTag
from pykdext.pipeline.evidence import SearchedImages
from pykdext.pipeline.imagesearch import search_index
from pykdext.pipeline.paths import FoundFiles, find_files, read_head
from pykdext.units import count_things
from pykdext.work import UNWATCHED, Work

IMAGE_SUFFIXES = (".sys", ".dll", ".exe")
"""Files of a folder that are looked at; a file that is named itself may have any name."""

FEW_TAGS = 8
"""So many are looked for in what is kept of the files before processes are started, which takes longer."""

MAX_INSIDE = 16
"""Images and archives inside of one file that are looked at; installers have a few."""

MAX_INSIDE_BYTES = 256 << 20
"""Of the images inside of one file that are searched; the largest installers of drivers have 100 MB."""

MAX_NESTED = 3
"""Images within images: an installer has a library that has the driver."""

_UNPACK = {"a cabinet": "Hint: unpack it (expand -F:*.sys)"}

FILES_A_TIME = 4
"""Files handed to a worker at once."""

_Found = Union[SearchedImages, str]
"""What one file told, or why it could not be searched."""


class _Job(NamedTuple):
    """One file for a worker: its path, the name that reports give it, and where its symbols are looked for."""

    path: str
    name: str
    tags: Tuple[PoolTag, ...]
    symbol_path: str


def search_files(
    paths: Sequence[str],
    tags: Sequence[PoolTag],
    jobs: int = 1,
    work: Work = UNWATCHED,
    symbol_path: str = "",
    loaded: Collection[str] = (),
) -> SearchedImages:
    """What the images among ``paths`` (files, folders with all that is in them, patterns) tell of ``tags``.

    The symbols of an image are looked for beside it and along ``symbol_path``. A file whose name is among those of
    ``loaded`` modules goes by its path: it may be of another build, and proves nothing of what is in memory.

    With more than one of ``jobs`` that many processes share the files. An interruption leaves what was searched.

    Raises:
        TargetError: a path does not exist, or there is no image among them.
    """
    found = find_image_files(paths)
    missing = [path for path in found.files if not os.path.exists(path)]
    if missing:
        raise TargetError(f"{missing[0]}: found nothing, expected a driver file or a folder of them")
    files = sorted(found.files)
    if not files:
        reason = f" ({'; '.join(found.warnings)})" if found.warnings else ""
        raise TargetError(f"{', '.join(paths)}: found no image{reason}, expected driver files (.sys, .dll, .exe)")
    wanted = [_Job(path, name, tuple(tags), symbol_path) for path, name in zip(files, _name_files(files, loaded))]
    answers: List[_Found] = []
    with work.hold(), closing(_iter_found(wanted, jobs)) as results:
        for result in results:
            answers.append(result)
            work.report(len(answers), len(wanted), "driver files")
    return _merge(answers, len(wanted), found.warnings)


def find_image_files(paths: Sequence[str]) -> FoundFiles:
    """The files that ``paths`` stand for: of a folder all below it that are named and begin like images."""
    return find_files(paths, _may_be_image)


def _may_be_image(path: str) -> bool:
    """Whether a file of a folder is named and begins like an image; one that cannot be read is kept, to be told."""
    if not path.lower().endswith(IMAGE_SUFFIXES):
        return False
    head = read_head(path)
    return head is None or head.startswith(b"MZ")


def _name_files(files: Sequence[str], loaded: Collection[str]) -> Iterator[str]:
    """The file's name, or its whole path where another file or a loaded module has that name."""
    counts = Counter(os.path.basename(path).lower() for path in files)
    counts.update({name.lower() for name in loaded})
    for path in files:
        name = os.path.basename(path)
        yield name if counts[name.lower()] == 1 else os.path.abspath(path)


def _iter_found(wanted: Sequence[_Job], jobs: int) -> Generator[_Found, None, None]:
    """What each file tells, in their order.

    If a process ends that searches files, the rest goes to one process alone: then the file is known that ends it.
    """
    processes = min(jobs, -(-len(wanted) // FILES_A_TIME))
    if processes < 2:
        yield from map(_search_file, wanted)
        return
    known = list(map(_tell_absence, wanted)) if len(wanted[0].tags) <= FEW_TAGS else [None] * len(wanted)
    searched = _iter_shared([job for job, found in zip(wanted, known) if found is None], processes)
    for found in known:
        yield found if found is not None else next(searched)


def _tell_absence(job: _Job) -> Optional[SearchedImages]:
    """What is known of a file that has nothing of the tags; None if it is to be searched."""
    summary, _, absent = _find_absent(job)
    return _describe_absence(job, summary) if summary is not None and len(absent) == len(job.tags) else None


def _iter_shared(wanted: Sequence[_Job], jobs: int) -> Generator[_Found, None, None]:
    """What each file tells that processes search, in their order."""
    processes = min(jobs, -(-len(wanted) // FILES_A_TIME))
    if processes == 1:
        yield from map(_search_file, wanted)
        return
    done, is_alone = 0, False
    while done < len(wanted):
        try:
            with _open_workers(1 if is_alone else processes) as workers:
                chunk = 1 if is_alone else FILES_A_TIME
                for result in workers.map(_search_file, wanted[done:], chunksize=chunk):
                    done += 1
                    yield result
        except BrokenExecutor:
            if is_alone:
                yield f"{wanted[done].name}: the process that searched it ended"
                done += 1
            is_alone = True


@contextmanager
def _open_workers(processes: int) -> Iterator[Executor]:
    """Processes that search. Ctrl-C ends only this one, which then ends them."""
    workers = ProcessPoolExecutor(
        processes,
        mp_context=multiprocessing.get_context("spawn"),  # a fork of a process with threads may never answer
        initializer=signal.signal,
        initargs=(signal.SIGINT, signal.SIG_IGN),
    )
    try:
        yield workers
    finally:
        workers.shutdown(cancel_futures=True)


def _search_file(job: _Job) -> _Found:
    """One file, searched; what makes it unusable is its warning."""
    summary, key, absent = _find_absent(job)
    if summary is not None and len(absent) == len(job.tags):
        return _describe_absence(job, summary)
    tags = tuple(tag for tag in job.tags if tag not in absent)
    cache = open_index_cache()
    try:
        with open_image_file(job.path) as target:
            index, code, found = _search_image(target, job.name, job, tags)
            inside = list(_iter_inside(target, index.modules[0].image, job))
            has_new = cache is not None and key and summary is None and not all(found.evidence.values())
            new = summarise_file(index.modules[0], code) if has_new and not inside else None
            if cache is not None and new is not None:
                cache.save_entry(key, pack_summary(new))
    except (PykdextError, OSError) as error:
        return f"{job.name}: {error}"
    whole = replace(found, evidence={tag: found.evidence.get(tag, ()) for tag in job.tags})
    return _merge([whole, *inside], 1 + sum(isinstance(item, SearchedImages) for item in inside)) if inside else whole


def _search_image(
    target: ImageFile, name: str, job: _Job, tags: Sequence[PoolTag]
) -> Tuple[ImageIndex, CodeAttributor, SearchedImages]:
    """The image in ``target``, under ``name``."""
    cache = open_index_cache()
    (module,) = target.modules()
    image = read_image(target, replace(module, name=name), zeros_are_code=True)
    index = ImageIndex([image], tags, cache=cache)
    folder = os.path.dirname(os.path.abspath(job.path))
    code = CodeAttributor(index, cache)
    return index, code, search_index(index, target, tags, symbol_path=job.symbol_path, folder=folder, code=code)


def _iter_inside(target: ImageFile, image: Image, job: _Job) -> Iterator[_Found]:
    """What the drivers tell that the image carries, and which packed ones were not looked into."""
    packing = find_appended(target.read_appended(MAX_OVERLAY_BYTES))
    if packing is not None:
        yield _describe_packed(f"{job.name} (behind its last section)", packing)
    pending = deque(_Nested(image, resource, job.name, 1) for resource in _list_embedded(image))
    looked_at = left_out = 0
    room_bytes = MAX_INSIDE_BYTES
    while pending:
        carrier, resource, carrier_name, depth = pending.popleft()
        name = f"{carrier_name}/{resource.name}"
        if looked_at == MAX_INSIDE or resource.size > room_bytes:
            left_out += 1
            continue
        looked_at += 1
        if resource.packing is not None:
            yield _describe_packed(name, resource.packing)
            continue
        room_bytes -= resource.size
        content = carrier.read(resource.rva, resource.size)
        try:
            inner = ImageFile(HeldBytes(content or b"", f"{job.path}/{resource.name}"))
        except PykdextError:
            continue  # it only begins like one, or is of another architecture
        index, _, found = _search_image(inner, name, job, job.tags)
        inner_image = index.modules[0].image
        if not runs_in_user_mode(inner_image):
            yield found
        nested = _list_embedded(inner_image)
        if depth < MAX_NESTED:
            pending.extend(_Nested(inner_image, below, name, depth + 1) for below in nested)
        elif nested:
            yield f"{name}: holds images that were not looked into: it is itself {MAX_NESTED} images deep"
    if left_out:
        more = count_things(left_out, "more image or archive", "more images and archives")
        yield f"{job.name}: {more} in it not looked into"


class _Nested(NamedTuple):
    """A resource of ``carrier``, which goes by ``name``; ``depth``: 1 in the file itself."""

    carrier: Image
    resource: Embedded
    name: str
    depth: int


def _list_embedded(image: Image) -> List[Embedded]:
    found = list(iter_embedded(image))
    image.release()
    return found


def _describe_packed(name: str, packing: str) -> str:
    hint = _UNPACK.get(packing, "Hint: unpack it, and give the folder" if "cut short" not in packing else "")
    return f"{name}: {packing}, which was not looked into. {hint}".rstrip()


def _find_absent(job: _Job) -> Tuple[Optional[FileSummary], bytes, Set[PoolTag]]:
    """The summary of an earlier search, its key, and the tags that the file has nothing of; empty if there is none."""
    cache = None if has_registered() else open_index_cache()
    try:
        if cache is None or os.path.getsize(job.path) > MAX_SUMMARISED_BYTES:
            return None, b"", set()
        with open(job.path, "rb") as file:
            content = file.read(MAX_SUMMARISED_BYTES + 1)
    except OSError:
        return None, b"", set()  # whoever opens it next tells why
    key = identify_file(job.name, content)
    kept = cache.load_entry(key)
    summary = parse_summary(kept) if kept is not None else None
    return summary, key, summary.find_absent(job.tags, content) if summary is not None else set()


def _describe_absence(job: _Job, summary: FileSummary) -> SearchedImages:
    """A file that has nothing of the tags."""
    module = replace(summary.module, name=job.name, path=os.path.abspath(job.path))
    present_bytes, expected_bytes = summary.present_bytes, summary.expected_bytes
    return SearchedImages(
        dict.fromkeys(job.tags, ()),
        (module,),
        {job.name: summary.version},
        scanned=1,
        total=1,
        present_bytes=present_bytes,
        expected_bytes=expected_bytes,
        incomplete=((job.name, present_bytes / expected_bytes),) if present_bytes < expected_bytes else (),
        warnings=summary.warnings,
    )


def _merge(found: Sequence[_Found], total: int, unlisted: Sequence[str] = ()) -> SearchedImages:
    """All files as one search; the evidence of a tag in the order of the files."""
    searched = [item for item in found if isinstance(item, SearchedImages)]
    evidence: Dict[PoolTag, Tuple[Evidence, ...]] = {}
    poolless: Dict[PoolTag, Tuple[str, ...]] = {}
    for item in searched:
        for tag, items in item.evidence.items():
            evidence[tag] = evidence.get(tag, ()) + items
        for tag, names in item.poolless.items():
            poolless[tag] = poolless.get(tag, ()) + names
    warnings = [line for item in searched for line in item.warnings]
    if len(found) < total:
        warnings.append(
            f"interrupted: {total - len(found):,} of {count_things(total, 'driver file')} were not searched"
        )
    return SearchedImages(
        evidence,
        tuple(replace(module, base=0) for item in searched for module in item.modules),  # no file is loaded anywhere
        {name: version for item in searched for name, version in item.versions.items()},
        scanned=sum(item.scanned for item in searched),
        total=total + sum(item.total - 1 for item in searched),
        present_bytes=sum(item.present_bytes for item in searched),
        expected_bytes=sum(item.expected_bytes for item in searched),
        unusable=(
            *unlisted,
            *(line for item in searched for line in item.unusable),
            *(item for item in found if isinstance(item, str)),
        ),
        warnings=tuple(warnings),
        poolless=poolless,
    )
