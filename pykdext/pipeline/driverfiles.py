"""Driver files on disk, judged by the same search as the images in memory: whole folders, in parallel."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import Counter
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Collection, Dict, Generator, Iterator, List, NamedTuple, Sequence, Tuple, Union

from pykdext.attribution.places.cache import open_index_cache
from pykdext.attribution.places.index import ImageIndex
from pykdext.errors import PykdextError, TargetError
from pykdext.images.image import read_image
from pykdext.images.imagefile import open_image_file
from pykdext.model import Evidence, PoolTag
from pykdext.pipeline.imagesearch import SearchedImages, search_index
from pykdext.pipeline.paths import FoundFiles, find_files, read_head
from pykdext.work import UNWATCHED, Work

IMAGE_SUFFIXES = (".sys", ".dll", ".exe")
"""Files of a folder that are looked at; a file that is named itself may have any name."""

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
    try:
        with open_image_file(job.path) as target:
            (module,) = target.modules()
            image = read_image(target, replace(module, name=job.name), zeros_are_code=True)
            index = ImageIndex([image], job.tags, cache=open_index_cache())
            folder = os.path.dirname(os.path.abspath(job.path))
            return search_index(index, target, job.tags, symbol_path=job.symbol_path, folder=folder)
    except (PykdextError, OSError) as error:
        return f"{job.name}: {error}"


def _merge(found: Sequence[_Found], total: int, unlisted: Sequence[str]) -> SearchedImages:
    """All files as one search; the evidence of a tag in the order of the files."""
    searched = [item for item in found if isinstance(item, SearchedImages)]
    evidence: Dict[PoolTag, Tuple[Evidence, ...]] = {}
    for item in searched:
        for tag, items in item.evidence.items():
            evidence[tag] = evidence.get(tag, ()) + items
    warnings = [line for item in searched for line in item.warnings]
    if len(found) < total:
        warnings.append(f"interrupted: {total - len(found):,} of {total:,} driver files were not searched")
    return SearchedImages(
        evidence,
        tuple(module for item in searched for module in item.modules),
        {name: version for item in searched for name, version in item.versions.items()},
        scanned=sum(item.scanned for item in searched),
        total=total,
        present_bytes=sum(item.present_bytes for item in searched),
        expected_bytes=sum(item.expected_bytes for item in searched),
        unusable=(*unlisted, *(item for item in found if isinstance(item, str))),
        warnings=tuple(warnings),
    )
