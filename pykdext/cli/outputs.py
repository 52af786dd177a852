"""Where an answer goes: never over what the command reads, and never in silence where something is missing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Iterator, Optional, Sequence, Tuple

from pykdext.units import count_things

if TYPE_CHECKING:
    from pykdext.cli.arguments import SharedOptions
    from pykdext.model import PoolSnapshot, TableCoverage

_READ_FILES = ("source", "before", "after", "pooltags", "store")
_LINES_SHOWN = 3


def find_overwritten_input(options: SharedOptions) -> Optional[str]:
    """The path of what the options name as input, if the output would go over it, by whatever links; else None."""
    output = options.output
    if not output or not os.path.isfile(output):
        return None
    return next((path for path in _iter_inputs(options) if _is_same(path, output)), None)


def describe_lacks(coverages: Sequence[TableCoverage], warnings: Sequence[str]) -> Tuple[str, ...]:
    """What an answer lacks, in a few lines, for a screen that does not show the answer itself."""
    from pykdext.report.sentences.states import describe_coverage

    partial = [f"read in part: {describe_coverage(item, None)}" for item in coverages if not item.is_complete]
    more = len(warnings) - _LINES_SHOWN
    return (*partial, *warnings[:_LINES_SHOWN], *([f"and {count_things(more, 'more warning')}"] if more > 0 else []))


def describe_lacks_of(snapshot: PoolSnapshot, *, is_whole: bool) -> Tuple[str, ...]:
    """What was not read of a state, unless all of it was."""
    return () if is_whole else describe_lacks([snapshot.coverage], snapshot.warnings)


def _iter_inputs(options: SharedOptions) -> Iterator[str]:
    from pykdext.fleet.inputs import find_dump_files
    from pykdext.pipeline.driverfiles import find_image_files
    from pykdext.pipeline.series import find_logs
    from pykdext.store.source import SEPARATOR

    for name in _READ_FILES:
        path = getattr(options, name, None)
        if path:
            yield path if os.path.exists(path) else path.partition(SEPARATOR)[0]
    yield from find_logs(getattr(options, "logs", ())).files
    yield from find_image_files(getattr(options, "images", ())).files
    yield from find_dump_files(getattr(options, "paths", ()))


def _is_same(path: str, output: str) -> bool:
    try:
        return os.path.samefile(path, output)
    except OSError:
        return False
