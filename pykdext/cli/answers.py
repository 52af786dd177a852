"""What commands answer, and the forms in which an answer is written.

A form is added by one line in :data:`FORMS`: every command whose answers have the part that it is made from offers it.
"""

from __future__ import annotations

import argparse
import enum
import itertools
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import (
    TYPE_CHECKING,
    Callable,
    Dict,
    Generic,
    Iterable,
    Iterator,
    List,
    Optional,
    Sequence,
    Tuple,
    Type,
    TypeVar,
    Union,
)

from pykdext.cli.arguments import MAX_WIDTH, MIN_WIDTH, RedactOptions, SharedOptions, SourceOptions, iter_typed_paths
from pykdext.cli.screen import Screen
from pykdext.printable import hide_secrets
from pykdext.report.dml import Dml
from pykdext.report.markup import PLAIN, Markup
from pykdext.work import Work

if TYPE_CHECKING:
    from pykdext.pipeline import Source
    from pykdext.report.tone import Tone

_Value = TypeVar("_Value")
_Options = TypeVar("_Options", bound=SharedOptions)

Written = Union[str, Iterable[str]]
"""Text whole, or in pieces where it may be large."""


@dataclass(frozen=True)
class Look:
    """How text is laid out: in so many columns, in the markup of its place, in characters that its encoding has.

    ``unicode``: with signs beyond ASCII.
    """

    width: int
    markup: Markup
    unicode: bool
    encoding: str = "ascii"


class Part(enum.Enum):
    """What forms are made from: text for people, a JSON document, rows as CSV, a page of HTML."""

    TEXT = enum.auto()
    DOCUMENT = enum.auto()
    ROWS = enum.auto()
    PAGE = enum.auto()


TABLE = (Part.TEXT, Part.DOCUMENT, Part.ROWS)
REPORT = (*TABLE, Part.PAGE)


@dataclass(frozen=True)
class Outcome:
    """The answer of a command: its parts, of which the one that is wanted is made.

    Attributes:
        has_marks: the text is in the markup of its look. is_complete: all of the input could be used.
        is_usable: what was asked for is in it. lacks: what it lacks, in lines for those who do not see the text.
        verdict: the sentence that stands at the top of the text; a terminal shows it again where the text is too long,
        in the colour of its ``tone``.
    """

    text: Callable[[Look], Written]
    document: Optional[Callable[[], Written]] = None
    rows: Optional[Callable[[], Written]] = None
    page: Optional[Callable[[], Written]] = None
    has_marks: bool = True
    is_complete: bool = True
    is_usable: bool = True
    lacks: Tuple[str, ...] = ()
    verdict: Optional[str] = None
    tone: Optional[Tone] = None

    @classmethod
    def of_text(cls, text: str, *, is_complete: bool = True, lacks: Tuple[str, ...] = ()) -> Outcome:
        """Text without marks, as it is."""
        return cls(lambda _look: text, has_marks=False, is_complete=is_complete, lacks=lacks)

    def make(self, part: Part) -> Written:
        """A part that is not laid out."""
        made = {Part.DOCUMENT: self.document, Part.ROWS: self.rows, Part.PAGE: self.page}[part]
        if made is None:
            raise ValueError(f"this answer has no {part.name.lower()}")
        return made()


@dataclass(frozen=True)
class Form:
    """One way to write answers.

    Attributes:
        part: what it is made from. render: makes it. is_file: it is the contents of a file, with line ends of its own.
        mark: what a file of it begins with; spreadsheets take CSV for UTF-8 by its byte order mark.
        markup: that of the form, wherever it goes; None: that of the screen, and none in files.
        find_problem: why it cannot be made or shown, in one line, by the options and whether the screen takes files;
        None: it can.
    """

    part: Part
    render: Callable[[Outcome, Look], Written]
    is_file: bool = False
    mark: str = ""
    markup: Optional[Markup] = None
    find_problem: Callable[[SharedOptions, bool], Optional[str]] = lambda _options, _takes_documents: None


def _find_page_problem(options: SharedOptions, takes_documents: bool) -> Optional[str]:
    from pykdext.cli.origin import find_page_problem

    return find_page_problem(options.output, takes_documents)


def _render_dml(outcome: Outcome, look: Look) -> Written:
    """The text with links, for ``.dml_start`` of a debugger in which poolleak.js is loaded."""
    text = outcome.text(look)
    if outcome.has_marks:
        return text
    lines = (text if isinstance(text, str) else "".join(text)).splitlines()
    return "".join(f"{look.markup.text(line)}\n" for line in lines)


FORMS: Dict[str, Form] = {
    "text": Form(Part.TEXT, lambda outcome, look: outcome.text(look)),
    "json": Form(Part.DOCUMENT, lambda outcome, _look: outcome.make(Part.DOCUMENT)),
    "csv": Form(Part.ROWS, lambda outcome, _look: outcome.make(Part.ROWS), is_file=True, mark="\ufeff"),
    "dml": Form(Part.TEXT, _render_dml, is_file=True, markup=Dml('!poolleak "{}"')),
    "html": Form(
        Part.PAGE, lambda outcome, _look: outcome.make(Part.PAGE), is_file=True, find_problem=_find_page_problem
    ),
}
"""By the word that ``--format`` takes."""


def list_forms(parts: Sequence[Part]) -> List[str]:
    """The forms that can be made from these parts."""
    return [name for name, form in FORMS.items() if form.part in parts]


@dataclass(frozen=True)
class Invocation:
    """What surrounds the run of a command.

    Attributes:
        words: as they were typed. screen: for what is said beside the answer. work: how far it is, and its end by the
        user. opened: closed once the answer is shown, for what is read while it is written.
    """

    words: Tuple[str, ...]
    screen: Screen
    work: Work
    opened: ExitStack


@dataclass(frozen=True)
class Command(Generic[_Options]):
    """A command: ``declare`` adds its words to a parser, which become ``options``; ``run`` gives the answer.

    ``examples``: lines of its help. ``usage``: the line of its help, where argparse's would mislead.
    """

    declare: Callable[[argparse.ArgumentParser], None]
    options: Type[_Options]
    run: Callable[[_Options, Invocation], Outcome]
    examples: Tuple[str, ...]
    usage: Optional[str] = None


def show(outcome: Outcome, options: SharedOptions, screen: Screen) -> None:
    """Write the answer in the form and to the place that the options ask for."""
    form = FORMS[options.format]
    markup: Markup = form.markup or (PLAIN if options.output else screen.markup)
    encoding = "utf-8" if options.output and form.markup is None else "ascii" if form.markup else screen.encoding
    written = form.render(outcome, Look(_choose_width(options, screen), markup, screen.unicode, encoding))
    pieces = (written,) if isinstance(written, str) else written
    if options.output:
        from pykdext.wholefile import write_pieces

        write_pieces(options.output, itertools.chain((form.mark,), pieces))
    else:
        for piece in pieces:
            if form.is_file:
                screen.write_document(piece)
            else:
                screen.write(piece, form.part is Part.TEXT and outcome.has_marks)
        if form.part is Part.TEXT and not form.is_file and isinstance(written, str):
            _repeat_verdict(outcome, written.count("\n"), options, screen)
    if (options.output or form.is_file) and not outcome.is_complete:  # nobody sees the warnings of the answer
        for line in outcome.lacks:
            screen.write_error(f"poolleak: {hide_secrets(line)}")


def _repeat_verdict(outcome: Outcome, lines: int, options: SharedOptions, screen: Screen) -> None:
    """The verdict once more where its first lines have left the terminal."""
    if outcome.verdict and screen.lines is not None and lines >= screen.lines:
        from pykdext.report.layout import wrap
        from pykdext.report.markup import emphasize, render_lines

        again = emphasize(wrap(outcome.verdict, _choose_width(options, screen)), outcome.tone)
        screen.write(render_lines(["", *again], screen.markup), marked=True)


def _choose_width(options: SharedOptions, screen: Screen) -> int:
    return options.width or max(MIN_WIDTH, min(MAX_WIDTH, screen.columns))


def choose_redaction(options: RedactOptions, paths: Iterable[str] = ()) -> Callable[[_Value], _Value]:
    """What takes the names of machines and folders out of values, if the options ask for it.

    ``paths`` are names that texts may mention, beside those that were typed.
    """
    if not options.redact:
        return lambda value: value
    from pykdext.cli.redaction import Redactor

    return Redactor([*iter_typed_paths(options), *paths]).redact


@contextmanager
def open_source(
    options: SourceOptions, call: Invocation, work: Optional[Work] = None, *, needs_tags: bool = True
) -> Iterator[Source]:
    """The source of the options; at the end a line tells what it cost over a network. ``work``: the invocation's.

    Without ``needs_tags`` a dump is opened whose tag tables cannot be read, too.
    """
    from pykdext import pipeline
    from pykdext.units import format_bytes

    with pipeline.open_source(
        options.source, work or call.work, options.symbols, options.meta, needs_tags=needs_tags
    ) as source:
        yield source
        if source.traffic:
            size = format_bytes(source.traffic.dump_bytes)
            call.screen.write_error(f"{format_bytes(source.traffic.fetched_bytes)} of {size} were fetched")
