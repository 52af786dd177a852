"""What is said of the processes of a machine: of all of them, of stuck and exited ones, and of the table of numbers."""

from __future__ import annotations

from typing import Optional, Sequence

from pykdext.model.objects import NumberCensus, Process, ProcessList, StuckProcess
from pykdext.units import choose_form, count_things, format_count, format_share

_NAMED = 4
_MANY_ZOMBIES, _MANY_HANDLES = 1_000, 100_000

MANY_EXITED = 100
"""More exited processes than before that are worth a word."""


def describe_processes(found: ProcessList, alive: Sequence[Process], zombies: Sequence[Process], handles: int) -> str:
    """The sentence on all processes of a machine."""
    if not found.processes:
        return "No process could be read."
    most = max(alive, key=lambda process: process.handles or 0, default=None)
    untold = sum(process.handles is None for process in alive)
    words = f"{count_things(len(alive), 'process', 'processes')} with {count_things(handles, 'handle')}"
    if untold == len(alive) > 0:
        words = f"{count_things(len(alive), 'process', 'processes')} whose handles cannot be counted"
    if most is not None and most.handles:
        share = f" ({format_share(most.handles / handles)})" if handles else ""
        words += f"; {most.label} has most: {format_count(most.handles)}{share}"
    if 0 < untold < len(alive):
        words += f"; those of {count_things(untold, 'process', 'processes')} cannot be counted"
    if zombies:
        images = sorted({zombie.image for zombie in zombies})
        counts = {image: sum(zombie.image == image for zombie in zombies) for image in images[:64]}
        first = max(counts, key=lambda image: counts[image])
        of_them = f"{format_count(counts[first])} of them" if counts[first] < len(zombies) else "all"
        number = len(zombies)
        words += (
            f". {format_count(number)} more {choose_form(number, 'has', 'have')} exited and "
            f"{choose_form(number, f'is still held, {first}', f'are still held, {of_them} {first}')}"
        )
    if found.unlisted and found.lost == 0:
        labels = ", ".join(process.label for process in found.unlisted[:_NAMED])
        rest = f" and {format_count(len(found.unlisted) - _NAMED)} more" if len(found.unlisted) > _NAMED else ""
        words += f". Not on the kernel's list of processes, but numbered as one: {labels}{rest}"
    return words + "."


def describe_stuck(stuck: StuckProcess) -> str:
    """A process that cannot exit, and the driver that it waits for."""
    threads = stuck.process.active_threads or 0
    words = (
        f"{stuck.process.label} is exiting, but {format_count(threads)} of its threads still "
        f"{choose_form(threads, 'runs', 'run')}"
    )
    if stuck.drivers:
        who, count = stuck.drivers[0]
        return f"{words}: {count_things(count, 'request')} of theirs {choose_form(count, 'is', 'are')} {who}."
    return f"{words}." if stuck.pending is None else f"{words}; no request of theirs is pending in a driver."


def describe_numbers(numbers: NumberCensus) -> str:
    """The sentence on the table of process and thread numbers."""
    about = "about " if numbers.is_sampled else ""
    words = (
        f"{about}{count_things(numbers.processes, 'process', 'processes')}, {count_things(numbers.threads, 'thread')}"
    )
    if numbers.exited_threads:
        words += f", {format_count(numbers.exited_threads)} of them exited and still held"
    if numbers.unnumbered:
        words += (
            f"; {count_things(numbers.unnumbered, 'process of the list is', 'processes of the list are')} not in it"
        )
    if numbers.pages_read < numbers.pages_expected:
        words += f"; {numbers.pages_read:,} of {count_things(numbers.pages_expected, 'page')} read"
    return f"In the table of numbers: {words}."


def describe_unusual(processes: Sequence[Process]) -> str:
    """A sentence on a process with far more handles than usual, or on many exited processes; empty: there are none."""
    zombies = [process for process in processes if process.is_zombie]
    most = max(processes, key=lambda process: process.handles or 0, default=None)
    words = []
    if len(zombies) >= _MANY_ZOMBIES:
        exited = format_count(len(zombies))
        words.append(f"{exited} processes have exited and are still held: 'poolleak holders Proc' tells by whom.")
    if most is not None and (most.handles or 0) >= _MANY_HANDLES:
        words.append(f"{most.label} has {count_things(most.handles, 'handle')}: 'poolleak processes' shows all.")
    return " ".join(words)


def describe_handle_growth(process: Optional[Process], grown: int, exited: int, holder: Optional[Process]) -> str:
    """A sentence on the process whose handles grew most between two states, and on processes that exited and stay."""
    words = []
    if process is not None:
        now = format_count(process.handles)
        words.append(f"The handles of {process.label} grew most, by {format_count(grown)} to {now}.")
    if exited >= MANY_EXITED:
        whose = "" if holder is None else f", most of them by {holder.label}"
        words.append(f"{count_things(exited, 'more exited process is', 'more exited processes are')} held{whose}.")
    return " ".join(words)
