"""What is said of those who hold objects: the sentence, how sure it is, and the next step."""

from __future__ import annotations

from typing import Optional, Sequence, Tuple

from pykdext.model import PoolTag
from pykdext.model.objects import (
    Finding,
    HandleCensus,
    HolderKind,
    HolderReport,
    LookasideList,
    ObjectSample,
    Process,
    ReferencingDriver,
)
from pykdext.model.traces import OpenedAt, ReferenceTrace, VerifiedDriver
from pykdext.units import choose_form, count_things, format_bytes, format_count, format_share, name_some

_VERBS = ("opened", "registered", "owned", "starts", "maps")
_NAMED, _FEW_TRACED, _FEW_HANDLES, _MANY_ALLOCATIONS = 4, 16, 1_000, 1_000
_PROVEN, _LIKELY, _POSSIBLE, _UNKNOWN = "proven", "likely", "possible", "unknown"


def name_verified(tag: PoolTag, driver: VerifiedDriver) -> Finding:
    """Driver Verifier saw who allocates."""
    if driver.callers and not driver.callers[0].is_logged:
        blocks = sum(caller.blocks for caller in driver.callers)
        first = driver.callers[0]
        sentence = (
            f"Tag {tag}: Driver Verifier tracked {count_things(blocks, 'outstanding allocation')} "
            f"to {driver.name}, most "
            f"of them at {first.module}+0x{first.rva:x}{_is_leak(driver)}."
        )
        return Finding(HolderKind.VERIFIER, sentence, _PROVEN, f"!verifier 3 {driver.name}")
    count, size = driver.nonpaged_allocations + driver.paged_allocations, driver.nonpaged_bytes + driver.paged_bytes
    counted = f"Driver Verifier counts {count_things(count, 'outstanding allocation')} ({format_bytes(size)})"
    if driver.callers:
        blocks = sum(caller.blocks for caller in driver.callers)
        first = driver.callers[0]
        sentence = (
            f"Tag {tag}: {counted} of {driver.name}, and in its log of the last calls those for "
            f"{count_things(blocks, 'block')} of this tag that {choose_form(blocks, 'is', 'are')} "
            "still in use came from "
            f"that driver, most from {first.module}+0x{first.rva:x}{_is_leak(driver)}."
        )
        return Finding(HolderKind.VERIFIER, sentence, _LIKELY, "!verifier 80")
    sentence = f"Tag {tag}: {counted} of {driver.name}, as many bytes as this tag has."
    return Finding(HolderKind.VERIFIER, sentence, _LIKELY, f"!verifier 3 {driver.name}")


def _is_leak(driver: VerifiedDriver) -> str:
    """A few allocations are the usual stock of a driver."""
    many = driver.nonpaged_allocations + driver.paged_allocations >= _MANY_ALLOCATIONS
    return ": a leak of that driver" if many else ""


def name_list_owner(tag: PoolTag, item: LookasideList, outstanding: int) -> Finding:
    """A driver's lookaside list took the blocks; the driver keeps them only where the list has given them out."""
    place = "" if item.rva is None else f"+0x{item.rva:x}"
    end = f"{item.module} does not return them" if 2 * item.in_use >= item.taken else f"they are {item.module}'s"
    sentence = (
        f"Tag {tag}: of {count_things(outstanding, 'outstanding block')} a lookaside list of {item.module} "
        f"({item.module}{place}, {item.proof}) has taken {format_count(item.taken)} from the pool and not given them "
        f"back; {format_count(item.in_use)} of its blocks are in use: {end}."
    )
    return Finding(HolderKind.LOOKASIDE, sentence, _PROVEN, f"dt nt!_GENERAL_LOOKASIDE {item.address:x}")


def name_table_owner(tag: PoolTag, census: HandleCensus) -> Finding:
    """The handle tables are the memory."""
    process = census.process
    sentence = (
        f"Tag {tag}: handle tables; the largest is that of {process.label}: {_handles_of(census)}, room for "
        f"{format_count(process.handle_slots)}."
    )
    held = census.counted if census.counted is not None else census.read
    return Finding(HolderKind.TABLES, sentence, _PROVEN, _look_at_handles(process), process, held)


def tell_other_use(tag: PoolTag, names: Sequence[str], objects: int, outstanding: int) -> Finding:
    """Far more blocks than objects."""
    sentence = (
        f"Tag {tag}: {count_things(outstanding, 'block')} {choose_form(outstanding, 'is', 'are')} "
        f"outstanding, but there are only {format_count(objects)} "
        f"{_kinds(names)} objects: the tag is used for something else, too."
    )
    return Finding(HolderKind.NOT_OBJECTS, sentence, _LIKELY, f"!poolfind {tag}")


def name_contents(tag: PoolTag, sample: ObjectSample) -> Finding:
    """Most requests are in one driver, or most lists describe pages of one process."""
    who, count = sample.creators[0]
    is_request = tag.raw == b"Irp "
    things = "requests" if is_request else "descriptor lists"
    end = "whoever makes them does not free them"
    verb = choose_form(count, "is", "are") if is_request else choose_form(count, "describes", "describe")
    if is_request and who.startswith("in "):
        end = "that driver does not complete them"
    sentence = (
        f"Tag {tag}: of {format_count(sample.objects)} {things} that could be read {format_count(count)} "
        f"({format_share(count / sample.objects)}) {verb} {who}: {end}."
    )
    return Finding(HolderKind.CONTENTS, sentence, _LIKELY, "!irpfind" if is_request else f"!poolfind {tag}")


def name_zombie_holder(
    tag: PoolTag,
    size: Optional[int],
    zombies: int,
    image: Tuple[str, int],
    holder: HandleCensus,
    opened: Sequence[OpenedAt] = (),
) -> Finding:
    """One process has handles to the exited ones."""
    who = _count_zombies(zombies, image) + ","
    part = "" if holder.zombies >= zombies else f"; it has handles to {format_count(holder.zombies)} of them"
    sentence = (
        f"Tag {tag}{_size(size)}: {who} {choose_form(zombies, 'is', 'are')} held by {holder.process.label}: a handle "
        f"leak of that process{part}{_opened(opened)}{_coverage(holder, is_count=True)}."
    )
    step = _look_at_handles(holder.process)
    return Finding(HolderKind.ZOMBIES, sentence, _PROVEN, step, holder.process, holder.zombies)


def name_zombie_holders(
    tag: PoolTag, size: Optional[int], zombies: int, image: Tuple[str, int], holders: Sequence[HandleCensus]
) -> Finding:
    """Several processes have handles to the exited ones; that of one alone keeps a process."""
    first = holders[0]
    others = [f"{census.process.label} to {format_count(census.zombies)}" for census in holders[1:]]
    sentence = (
        f"Tag {tag}{_size(size)}: {_count_zombies(zombies, image)}, are held by "
        f"{count_things(len(holders), 'process', 'processes')}: {first.process.label} has handles to "
        f"{format_count(first.zombies)} of them, {name_some(others, _NAMED)}: a handle leak of each of these."
    )
    step = _look_at_handles(first.process)
    return Finding(HolderKind.ZOMBIES, sentence, _PROVEN, step, first.process, first.zombies)


def tell_referenced_zombies(
    tag: PoolTag, zombies: int, image: Tuple[str, int], referencing: Sequence[ReferencingDriver]
) -> Finding:
    """Nobody has a handle to the exited processes."""
    sentence = (
        f"Tag {tag}: {_count_zombies(zombies, image)}, and nobody "
        f"has a handle to them: something in the kernel keeps references{_candidates(referencing)}."
    )
    return Finding(HolderKind.REFERENCES, sentence, _LIKELY, "!process 0 0")


def tell_unread_holder(tag: PoolTag, zombies: int, image: Tuple[str, int], holder: HandleCensus) -> Finding:
    """Nearly all handles to exited processes that were read are those of a process that has more, which were not."""
    unread = (holder.counted or 0) - holder.read
    sentence = (
        f"Tag {tag}: {_count_zombies(zombies, image)}, {choose_form(zombies, 'is', 'are')} still held. Of the handles "
        f"to them that were read nearly all, {format_count(holder.zombies)}, are those of {holder.process.label}, "
        f"{format_count(unread)} of whose {count_things(holder.counted, 'handle')} could not be read: a handle leak "
        "of that process."
    )
    step = _look_at_handles(holder.process)
    return Finding(HolderKind.ZOMBIES, sentence, _LIKELY, step, holder.process, holder.zombies)


def tell_zombies(
    tag: PoolTag, zombies: int, image: Tuple[str, int], holder: Optional[HandleCensus], *, is_whole: bool
) -> Finding:
    """Exited processes whose holder is not known; ``is_whole``: all handles of all processes were read."""
    whom = "by no process that has handles to many of them" if is_whole else "by whom cannot be read"
    most = ""
    if holder is not None and holder.zombies:
        read = "" if is_whole else " that were read"
        most = f"; most handles{read} are those of {holder.process.label}: {format_count(holder.zombies)}"
    sentence = (
        f"Tag {tag}: {_count_zombies(zombies, image)}, {choose_form(zombies, 'is', 'are')} still held, {whom}{most}."
    )
    return Finding(HolderKind.ZOMBIES, sentence, _UNKNOWN, "!process 0 0")


def name_handle_holder(
    tag: PoolTag,
    names: Sequence[str],
    held: int,
    handles: int,
    census: HandleCensus,
    opened: Sequence[OpenedAt] = (),
    made: Optional[ObjectSample] = None,
    others: Sequence[HandleCensus] = (),
) -> Finding:
    """One process has most of the handles; ``made``: what its objects tell of who made them.

    ``others`` have many of the handles, too.
    """
    sampled = census.sampled < census.read
    about = "about " if sampled else ""
    target = census.common_target
    where = ""
    if target is not None and target.type_name in names and 2 * target.handles >= target.of:
        where = f", {format_share(target.handles / target.of)} of them to {target.name}"
    elif made is not None and made.blocks == 0 and made.creators and 2 * made.creators[0][1] > made.objects:
        where = f"; most of those looked at: {name_made(made.creators[0][0], names)}"
    too = ""
    if others:
        shown = [f"{census.process.label} {format_count(census.handles_of(tuple(names)))}" for census in others]
        too = f"; many more are those of {name_some(shown, _NAMED)}"
    share = f" ({format_share(held / handles)})" if handles else ""
    sentence = (
        f"Tag {tag}: {census.process.label} holds {about}{format_count(held)} of the {count_things(handles, 'handle')} "
        f"to {_kinds(names)} objects{share}{where}: a handle leak of that process{_opened(opened)}"
        f"{too}{_coverage(census)}."
    )
    return Finding(HolderKind.HANDLES, sentence, _PROVEN, _look_at_handles(census.process), census.process, held)


def name_handle_holders(
    tag: PoolTag, names: Sequence[str], handles: int, holders: Sequence[HandleCensus], image: Optional[str]
) -> Finding:
    """Several processes have most of the handles together; ``image``: the program that all of them run."""
    first = holders[0]
    counts = [census.handles_of(tuple(names)) for census in holders]
    about = "about " if any(census.sampled < census.read for census in holders) else ""
    share = f" ({format_share(min(1.0, sum(counts) / handles))})" if handles else ""
    have = (
        f"{about}{format_count(sum(counts))} of the {count_things(handles, 'handle')} to {_kinds(names)} objects{share}"
    )
    of_image = "" if image is None else f" of {image}"
    shown = [f"{census.process.label} {format_count(count)}" for census, count in zip(holders, counts)]
    of_each = name_some(shown, _NAMED) if image is None else f"{shown[0]} the most"
    whose = "each of these" if image is None else "that program"
    sentence = (
        f"Tag {tag}: {count_things(len(holders), 'process', 'processes')}{of_image} hold {have}, {of_each}: "
        f"a handle leak of {whose}{_coverage_of(holders)}."
    )
    return Finding(HolderKind.HANDLES, sentence, _LIKELY, _look_at_handles(first.process), first.process, counts[0])


def tell_references(
    tag: PoolTag,
    names: Sequence[str],
    unheld: int,
    sample: Optional[ObjectSample],
    referencing: Sequence[ReferencingDriver],
    traced: Sequence[ReferenceTrace] = (),
) -> Finding:
    """Objects that nobody has a handle to; where Windows traced references, by whom these were kept."""
    seen = ""
    if sample is not None:
        none = format_count(sample.without_handles)
        seen = f"; of {format_count(sample.objects)} that were looked at {none} have none"
        if sample.unheld_creators and 2 * sample.unheld_creators[0][1] > sample.without_handles:
            seen += f", most of these {name_made(sample.unheld_creators[0][0], names)}"
    start = f"Tag {tag}: at least {count_things(unheld, f'{_kinds(names)} object')} without a handle{seen}"
    if traced:
        first = traced[0]
        sentence = (
            f"{start}. Windows traced the references to {format_count(first.of)} of these: {first.module} did not give "
            f"back {format_count(first.kept)}, most taken at {first.module}+0x{first.rva:x}: a leak of that driver."
        )
        is_proven = first.of >= _FEW_TRACED and 2 * first.alone > first.of
        return Finding(HolderKind.REFERENCES, sentence, _PROVEN if is_proven else _LIKELY, "!obtrace OBJECT")
    sentence = f"{start}: the kernel or a driver keeps references to them{_candidates(referencing)}."
    grade = _LIKELY if sample is not None else _POSSIBLE
    return Finding(HolderKind.REFERENCES, sentence, grade, "!obtrace, or gflags: object reference tracing")


def name_made(description: str, names: Sequence[str]) -> str:
    """What an object's fields tell, as a part of a sentence: ``made by NtLmSsp``, ``opened by pid 4``."""
    if "File" in names:
        return f"in {description}"
    return description if description.split(" ", 1)[0] in _VERBS else f"made by {description}"


def describe_sample(report: HolderReport) -> str:
    """How many objects were looked at, and where they were found: by handles of the first process, or in blocks."""
    sample = report.sample or ObjectSample()
    if sample.objects and not sample.blocks and report.holders:
        return (
            f"{count_things(sample.objects, 'object')} looked at that {report.holders[0].process.label} has handles to"
        )
    words = f"{count_things(sample.blocks, 'block')} of the tag looked at: "
    if not report.types:
        return f"{words}{format_count(sample.objects)} could be read"
    return (
        f"{words}{count_things(sample.objects, 'object')}, {format_count(sample.without_handles)} of them without a "
        "handle"
    )


def list_creators(report: HolderReport) -> Tuple[str, Tuple[Tuple[str, int], ...]]:
    """Whose descriptions matter, those of all objects or of those without a handle, and these."""
    sample = report.sample or ObjectSample()
    if report.kind is HolderKind.REFERENCES and sample.unheld_creators:
        return "Of those without a handle", sample.unheld_creators
    return "Of them", sample.creators


def tell_no_objects(
    tag: PoolTag, lookasides: Sequence[LookasideList], *, types_read: int, types_complete: bool
) -> Finding:
    """No type of objects bears the tag, as far as the types could be read."""
    if not types_read:
        sentence = f"Tag {tag}: this source does not tell its objects; who holds them is not known."
        return Finding(HolderKind.UNKNOWN, sentence, _UNKNOWN, f"poolleak find {tag}")
    if not types_complete:
        sentence = (
            f"Tag {tag}: only {count_things(types_read, 'type')} of objects could be read, none that bears it; who "
            "holds its blocks is not known."
        )
        return Finding(HolderKind.UNKNOWN, sentence, _UNKNOWN, f"poolleak find {tag}")
    sentence = f"Tag {tag}: no type of objects bears it; its owner is the driver that allocates it."
    if lookasides:
        first = max(lookasides, key=lambda item: (item.is_proven, item.in_use))
        whose = f"of {first.module}" if first.is_proven else f"at 0x{first.address:x}, of an owner that is not known,"
        sentence = (
            f"Tag {tag}: no type of objects bears it; a lookaside list {whose} has given out "
            f"{count_things(first.in_use, 'block')}."
        )
    return Finding(HolderKind.NOT_OBJECTS, sentence, _UNKNOWN, f"poolleak find {tag}")


def tell_usual(
    tag: PoolTag,
    names: Sequence[str],
    objects: int,
    handles: int,
    censuses: Sequence[HandleCensus],
) -> Finding:
    """Nothing out of the ordinary; or so few of the handles were found that it cannot be told."""
    census = max(censuses, key=lambda census: census.handles_of(tuple(names)), default=None)
    most = ""
    if census is not None and census.handles_of(tuple(names)):
        most = f"; {census.process.label} has most of them: {format_count(census.handles_of(tuple(names)))}"
    start = (
        f"Tag {tag}: {count_things(objects, f'{_kinds(names)} object')} and {count_things(handles, 'handle')} to "
        f"them{most}."
    )
    step = "poolleak processes: all processes by handles"
    found = sum(census.handles_of(tuple(names)) for census in censuses)
    if not censuses:
        sentence = f"{start} No handle table could be read: who has them is not known."
        return Finding(HolderKind.UNKNOWN, sentence, _UNKNOWN, step)
    if handles < _FEW_HANDLES or 2 * found >= handles:
        return Finding(HolderKind.NORMAL, f"{start} Nobody stands out.", _UNKNOWN, step)
    share = f"Only {format_count(found)} of them were" if found else "None of them was"
    sentence = f"{start} {share} found in the handle tables that could be read"
    unread = max(censuses, key=lambda census: (census.counted or 0) - census.read, default=None)
    if unread is not None and (unread.counted or 0) - unread.read > (handles - found) / 2:
        missing = (unread.counted or 0) - unread.read
        sentence += f"; {count_things(missing, 'handle')} of {unread.process.label} could not"
    return Finding(HolderKind.UNKNOWN, f"{sentence}: who has the others is not known.", _UNKNOWN, step)


def _count_zombies(zombies: int, image: Tuple[str, int]) -> str:
    """How many have exited, and of which program most of them are."""
    words = count_things(zombies, "exited process", "exited processes")
    if image[1] < zombies:
        return f"{words}, {format_count(image[1])} of them {image[0]}"
    return f"{words}, {choose_form(zombies, '', 'all ')}{image[0]}"


def _kinds(names: Sequence[str]) -> str:
    return " or ".join(names)


def _size(size: Optional[int]) -> str:
    return "" if size is None else f" ({format_bytes(size)})"


def _handles_of(census: HandleCensus) -> str:
    counted = census.counted if census.counted is not None else census.read
    return "handles that are not counted" if counted is None else count_things(counted, "handle")


def _coverage(census: HandleCensus, *, is_count: bool = False) -> str:
    """How much of the process's handles was read, where that was not all; ``is_count``: no sample was needed."""
    words = []
    if not census.is_whole:
        read = format_count(census.read)
        if census.counted is not None:
            words.append(f"{read} of {count_things(census.counted, 'handle')} read")
        else:
            words.append(f"{count_things(census.read, 'handle')} read")
    if census.sampled < census.read and not is_count:
        words.append(f"a sample of {count_things(census.sampled, 'handle')}")
    return f" ({', '.join(words)})" if words else ""


def _coverage_of(censuses: Sequence[HandleCensus]) -> str:
    """How many of the handles of several processes were read, where that was not all."""
    if all(census.is_whole for census in censuses):
        return ""
    counted = sum(census.read if census.counted is None else census.counted for census in censuses)
    read = sum(census.read for census in censuses)
    return f" ({format_count(read)} of their {count_things(counted, 'handle')} read)"


def _candidates(referencing: Sequence[ReferencingDriver]) -> str:
    if not referencing:
        return "; no driver's data that point at them were found"
    first = referencing[0]
    return f"; {first.place} of {first.module} points at {format_count(first.objects)} of {format_count(first.of)}"


def _opened(opened: Sequence[OpenedAt]) -> str:
    """Where the handles were opened, if a trace of them says so."""
    if not opened:
        return ""
    first = opened[0]
    return (
        f"; of {count_things(first.of, 'open handle')} that its handle trace has {format_count(first.handles)} were "
        f"opened at {first.place}"
    )


def _look_at_handles(process: Process) -> str:
    return f"!handle 0 3 0n{process.pid}"
