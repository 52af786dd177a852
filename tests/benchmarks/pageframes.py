"""What physical memory by use costs: 16.8 million page frames whole, and sampled."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from dumps.forge import forge
from dumps.forge.pageframes import plan_frames
from pykdext.kernel.memory.frames import read_page_frames
from pykdext.pipeline.memory import SAMPLED_CHUNKS
from pykdext.pipeline.sources import open_source
from tests.benchmarks.results import MILLISECONDS, OURS, Report, Work
from tests.benchmarks.rounds import ContestantError, run_in_turns, time_seconds

_FRAMES_64_GIB = 16 << 20
_FRAMES_QUICK = 1 << 20
_WHOLE_LIMIT_SECONDS, _SAMPLE_LIMIT_SECONDS = 15.0, 1.0


def run(folder: Path, rounds: int, *, quick: bool, slow: bool) -> Report:
    """Read the database of a machine with 64 GiB; ``quick``: of one with 4 GiB."""
    frames = _FRAMES_QUICK if quick else _FRAMES_64_GIB
    path = folder / "frames.dmp"
    forge("quiet", page_frames=plan_frames(frames)).save(path)
    size = f"{frames >> 18} GiB in {frames / 1e6:.1f} million page frames"
    works = []
    for name, sampled, limit in (
        ("whole", False, _WHOLE_LIMIT_SECONDS),
        ("a sample", True, _SAMPLE_LIMIT_SECONDS),
    ):
        work = Work(f"{size}: {name}", MILLISECONDS, limit=limit)
        for tool, seconds in run_in_turns({OURS: partial(_read, path, sampled)}, rounds):
            work.add(tool, seconds)
        works.append(work)
    path.unlink()
    return Report(works)


def _read(path: Path, sampled: bool) -> float:
    with open_source(str(path)) as source:
        answers = []
        kernel = source.kernel
        seconds = time_seconds(
            lambda: answers.append(read_page_frames(kernel, chunks=SAMPLED_CHUNKS if sampled else None))
        )
    if not answers[0]:
        raise ContestantError("the page frame database was not found")
    return seconds
