"""What to say about a snapshot's suspects, and what to do next: pure functions on the model."""

from __future__ import annotations

from typing import Iterator, Sequence, Tuple

from pykdext.model import Evidence, NextStep, PoolKind, PoolSnapshot, Role, Shown, Suspect
from pykdext.model.names import find_engine_name
from pykdext.printable import quote_word
from pykdext.units import format_address


def next_steps(snapshot: PoolSnapshot, suspects: Sequence[Suspect]) -> Tuple[NextStep, ...]:
    """The commands that lead on from here: WinDbg's for a suspect, poolleak's where growth must be seen first."""
    hint = None if snapshot.image is None else snapshot.image.windbg_hint
    program, source = name_program(snapshot)
    if hint is None:
        steps = list(dict.fromkeys(step for suspect in suspects[:3] for step in _suspect_steps(suspect)))
    else:
        steps = list(dict.fromkeys(step for suspect in suspects[:3] for step in _steps_without_windbg(suspect, source)))
        steps.append(NextStep(None, hint))
    if not snapshot.tags:
        steps.append(NextStep("poolleak record --recipe", "a script that samples the tags of that machine"))
        steps.append(NextStep("poolmon -n log.txt", "or its tags once, before the restart that ends the leak"))
        steps.append(NextStep(None, "A complete or kernel dump taken before the restart tells the driver, too"))
    steps += _iter_file_searches(snapshot, suspects)
    if not suspects and snapshot.tags:
        steps.append(NextStep(f"{program} used{source} --top 20", "look at the largest tags yourself"))
    if snapshot.source.is_session and (snapshot.source.symbols or "").startswith("inference"):
        steps.append(NextStep(".reload /f nt", "symbols of nt (after .symfix): they name what was inferred"))
    keep = NextStep(f"{program} snapshot{source} -o before.json", "keep this state; a later one shows what grew")
    return (*steps, keep)


def name_program(snapshot: PoolSnapshot) -> Tuple[str, str]:
    """How poolleak is called where ``snapshot`` was taken, and its source as a word behind a blank, empty of a session.

    A path may come from elsewhere: as it stands there nothing in it is expanded or run.
    """
    path = snapshot.source.path
    program = "!py poolleak" if snapshot.source.is_session else "poolleak"
    return program, f" {quote_word(path)}" if path else ""


def _iter_file_searches(snapshot: PoolSnapshot, suspects: Sequence[Suspect]) -> Iterator[NextStep]:
    """How to search driver files for what a text, which holds no images, cannot tell."""
    if snapshot.source.symbols is not None or snapshot.image is not None or not snapshot.tags:
        return
    wanted = [quote_word(item.tag.text.rstrip()) for item in suspects[:3] if not item.role.tells_no_caller]
    why = "who owns it, by the machine's driver files" if wanted else "who owns a tag, by the machine's driver files"
    if wanted or not suspects:
        yield NextStep(f"poolleak find {' '.join(dict.fromkeys(wanted)) or 'TAG'} --images DIR", why)


def _look_at(address: int, place: Evidence) -> NextStep:
    """The command that shows a place: what leads to a call, or the instruction that an immediate ends."""
    if place.kind.shown is Shown.CALL:
        return NextStep(f"ub {format_address(address)} L6", f"the code that passes {place.tag} to the call there")
    if place.kind.shown is Shown.INSTRUCTION:
        return NextStep(f"ub {format_address(address + 4)} L4", f"the code that uses {place.tag}")
    return NextStep(f"db {format_address(address)} L20", f"the bytes of {place.tag}")


def _steps_without_windbg(suspect: Suspect, source: str) -> Iterator[NextStep]:
    """What leads on where WinDbg does not open the file."""
    yield from _iter_questions(suspect)
    if suspect.role is not Role.OBJECT:
        yield NextStep(
            f"poolleak find {quote_word(suspect.tag.text)}{source}", f"every place that uses {suspect.tag.text}"
        )
        yield NextStep(f"poolleak blocks {quote_word(suspect.tag.text)}{source}", "where its blocks are")


def _iter_questions(suspect: Suspect) -> Iterator[NextStep]:
    """What the tag lists make one ask next."""
    question = next((item.next_question for item in suspect.descriptions if item.next_question), None)
    if question:
        yield NextStep(None, f"{suspect.tag.text}: {question}")


def _suspect_steps(suspect: Suspect) -> Iterator[NextStep]:
    tag = suspect.tag.text
    sort_flag = 2 if suspect.pool is PoolKind.NONPAGED else 4
    yield NextStep(f"!poolused {sort_flag} {tag}", "the same numbers in WinDbg")
    yield from _iter_questions(suspect)
    if suspect.role is Role.OBJECT:
        return
    if suspect.role.tells_no_caller:
        yield NextStep(
            f"poolleak blocks {tag.strip()} DUMP", "the caller by what its blocks point at, in a dump of this machine"
        )
        yield NextStep("verifier /flags 8 /driver NAME.sys", "count the allocations of a driver that you suspect")
    for owner in suspect.owners[:2]:
        yield NextStep(f"lmvm {find_engine_name(owner.module)}", f"version and vendor of {owner.module}")
        place = next((item for item in owner.evidence if item.rva is not None), None)
        if place is not None and owner.base is not None and place.rva is not None:
            yield _look_at(owner.base + place.rva, place)
    yield NextStep(f"!poolfind {tag} {0 if suspect.pool is PoolKind.NONPAGED else 1}", "where its blocks are")
