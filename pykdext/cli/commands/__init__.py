"""The commands: each is a module of its own, with its words, its options as a value, its action and its answer.

A command is added by its module and one line in :data:`COMMANDS`. The module holds a
:class:`pykdext.cli.answers.Command` named ``COMMAND``; it is imported when its command is typed, and imports what it
works with when it is run, so that help and usage errors answer at once.
"""

from __future__ import annotations

from typing import Dict, NamedTuple


class Listed(NamedTuple):
    """A command as the list of all shows it: the sentence of its help, and the module that holds it."""

    summary: str
    module: str


COMMANDS: Dict[str, Listed] = {
    "analyze": Listed("the verdict: who leaks, how much, which driver, what to do next", f"{__name__}.verdict"),
    "used": Listed("the tag table, like poolmon and !poolused", f"{__name__}.used"),
    "find": Listed("who owns these tags", f"{__name__}.find"),
    "blocks": Listed("where a tag's blocks are", f"{__name__}.blocks"),
    "holders": Listed("who holds the objects of a tag: processes, references, lists", f"{__name__}.holders"),
    "processes": Listed("processes by handles, pool, commit, exited ones they hold", f"{__name__}.processes"),
    "memory": Listed("where the memory is, and what no tag counts", f"{__name__}.memory"),
    "diff": Listed("growth between any two sources", f"{__name__}.diff"),
    "trend": Listed("a series of logs: which tag grows, how fast, until when", f"{__name__}.trend"),
    "record": Listed("sample a live machine or session", f"{__name__}.record"),
    "batch": Listed("many dumps: what they have in common", f"{__name__}.batch"),
    "history": Listed("stored hosts and tags over the weeks", f"{__name__}.history"),
    "setup-windbg": Listed("what to do so that WinDbg knows !poolleak", f"{__name__}.setup"),
    "completion": Listed("a script that lets the shell complete commands and options", f"{__name__}.completion"),
    "schema": Listed("the JSON Schema of a document", f"{__name__}.schema"),
    "snapshot": Listed("keep a state for later", f"{__name__}.snapshot"),
}
"""By the word that is typed, in the order of the help."""
