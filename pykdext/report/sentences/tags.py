"""What is said of single tags: who owns them, where their blocks are, what a list says of them, how they went on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Sequence, Tuple

from pykdext.model import BlockReport, Confidence, PoolKind, PoolTag, StatedDriver, TagLookup, TagOwners
from pykdext.report.sentences.owners import describe, name_owners
from pykdext.units import (
    choose_form,
    count_things,
    format_bytes,
    format_count,
    format_day,
    format_share,
    name_some,
    say_rest,
)

if TYPE_CHECKING:
    from pykdext.model.fleet import HistoryLine

TAGS_NAMED = 5


def verdict_on_owners(found: Sequence[TagOwners]) -> str:
    """Who owns each of the tags."""
    return _join(
        [
            f"{item.tag}: {name_owners(item.owners)}" if item.owners else f"{item.tag}: nobody is known to own it"
            for item in found
        ],
        "No tag was asked for.",
    )


def verdict_on_blocks(report: BlockReport) -> str:
    """How many of the blocks that are counted were found, and what they point at."""
    counted = sum(report.counted.usage(pool).outstanding or 0 for pool in PoolKind)
    were = choose_form(counted, "was", "were")
    found = f"{format_count(len(report.found))} of {count_things(counted, 'block')} of {report.tag} {were} found."
    if report.stated:
        return f"{found[:-1]}{say_stated(report.tag, report.stated)}."
    if report.witness is None or not report.witness.drivers:
        return found
    first = report.witness.drivers[0]
    return f"{found} {format_share(first.share_of_blocks)} of those looked into point at {first.module}."


def say_stated(tag: PoolTag, stated: Sequence[StatedDriver]) -> str:
    """The drivers that a text states for ``tag``, as the continuation of a sentence; empty without any."""
    names = name_some([f"{item.module} ({Confidence.POSSIBLE.value}, {item.told_by})" for item in stated])
    return f"; for {tag} the text itself states {names}" if stated else ""


def verdict_on_explanation(explained: Sequence[Tuple[PoolTag, Sequence[TagLookup]]]) -> str:
    """What the first list with an entry says of each tag."""
    lines = []
    for tag, lookups in explained:
        won = next((lookup.matches[0] for lookup in lookups if lookup.matches), None)
        lines.append(f"{tag}: {describe(won)} ({won.source})" if won else f"{tag}: no tag list has it")
    return _join(lines, "No tag was asked for.")


def verdict_on_history(lines: Sequence[HistoryLine]) -> str:
    """Which tag of which host grew most between its first and its last dump; before it, which dumps do not tell."""
    uncounted = say_uncounted(lines)
    return f"{uncounted} {_say_most_grown(lines)}" if uncounted else _say_most_grown(lines)


def say_uncounted(lines: Sequence[HistoryLine]) -> str:
    """How many dumps lack processors' tables; empty where none does."""
    dumps = {(line.host, sample.taken_at) for line in lines for sample in line.samples if not sample.is_counted}
    if not dumps:
        return ""
    lack, its = choose_form(len(dumps), "lacks", "lack"), choose_form(len(dumps), "its", "their")
    return f"{count_things(len(dumps), 'dump')} {lack} rows of the tag tables: what {its} tags held is not known."


def _say_most_grown(lines: Sequence[HistoryLine]) -> str:
    grown = [
        (last.usage.bytes - first.usage.bytes, line)
        for line in lines
        for first, last in (line.ends,)
        if first.usage.bytes is not None and last.usage.bytes is not None
    ]
    most, line = max(grown, key=lambda entry: entry[0], default=(0, None))
    if line is None or most <= 0:
        return "No tag grew between the stored dumps of its host."
    first, last = line.ends
    return (
        f"Tag {line.tag} of the {line.pool.value} pool grew most: by {format_bytes(most)} on {line.host} from "
        f"{format_day(first.taken_at)} to {format_day(last.taken_at)}."
    )


def _join(sentences: Sequence[str], otherwise: str) -> str:
    rest = say_rest(len(sentences), TAGS_NAMED)
    return ("; ".join([*sentences[:TAGS_NAMED], *([rest] if rest else [])]) + ".") if sentences else otherwise
