"""What a script sees of WinDbg's command window, and how ``!py`` starts it, as measured with pykd's bootstrapper."""

from __future__ import annotations

import html
import re
import runpy
import sys
import threading
import traceback
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Dict, Optional
from unittest.mock import patch

LONGEST_WRITE = 16_383
RECURSION_LIMIT = 500
DEBUGGER = r"C:\Program Files\Windows Kits\10\Debuggers\x64\windbg.exe"
REFUSING_SUBINTERPRETERS = ("numpy", "pandas", "pydantic_core", "orjson", "cryptography")

_MARKUP = re.compile(r"<(/?)(link|b|u|i|col|exec|altlink)((?: +\w+=\"[^\"<>]*\")*) *>")
_ENTITY = re.compile(r"&(?:amp|lt|gt|quot|apos);")


class FakeConsole:
    """sys.stdout inside WinDbg: it has no more attributes than these, and cuts what is written at once.

    ``pieces``: ``(text, is_markup)`` of every write. Tests read those and the functions of this module.
    """

    __slots__ = ("pieces",)
    encoding = "ascii"
    closed = False

    def __init__(self):
        self.pieces = []

    def write(self, text):
        self.pieces.append((text[:LONGEST_WRITE], False))

    def writedml(self, text):
        self.pieces.append((text[:LONGEST_WRITE], True))

    def flush(self):
        pass

    def isatty(self):
        return False


class FakeInput:
    """sys.stdin inside WinDbg."""

    __slots__ = ()

    def readline(self):
        return "\n"


def visible_text(pieces):
    """What the user reads: markup taken away."""
    return "".join(html.unescape(_MARKUP.sub("", text)) if is_markup else text for text, is_markup in pieces)


def find_broken_markup(pieces):
    """The pieces of markup that WinDbg would show wrong: stray ``& < >``, tags that do not match."""
    return [text for text, is_markup in pieces if is_markup and not _is_whole(text)]


def _is_whole(text):
    opened = []
    for closing, tag, _ in _MARKUP.findall(text):
        if not closing:
            opened.append(tag)
        elif not opened or opened.pop() != tag:
            return False
    rest = _ENTITY.sub("", _MARKUP.sub("", text))
    return not opened and not set(rest) & set("<>&")


def split_arguments(line):
    """The arguments of ``!py SCRIPT LINE`` as the bootstrapper splits them.

    Blanks and tabs part them, double quotes group, an empty argument is lost, a semicolon outside quotes ends the
    command; backslashes and single quotes mean themselves.
    """
    arguments, current, quoted = [], "", False
    for character in line:
        if character == '"':
            quoted = not quoted
        elif character == ";" and not quoted:
            break
        elif character in " \t" and not quoted:
            arguments.append(current)
            current = ""
        else:
            current += character
    arguments.append(current)
    return [argument for argument in arguments if argument]


@dataclass
class Ended:
    """How a script ended: ``status`` is what SystemExit carried (None: it ran to its end), ``error`` a traceback."""

    pieces: list
    status: object = None
    error: str = ""

    @property
    def text(self):
        return visible_text(self.pieces)


class _Refuse:
    """An import hook: modules that end the debugger's process when a sub-interpreter imports them."""

    def find_spec(self, name, path=None, target=None):
        if _package(name) in REFUSING_SUBINTERPRETERS:
            raise ImportError(f"{name} does not work in a sub-interpreter: here the debugger's process would end")


def run_py(script, arguments, fake, *, as_module=False):
    """Type ``!py SCRIPT ARGUMENTS`` (with ``as_module``: ``!py -m NAME ARGUMENTS``); how it ended.

    The project's modules are imported anew, as in each new sub-interpreter (but see :func:`imported_once`), with a
    recursion limit of 500.
    """
    ended = Ended(fake.console.pieces)

    def run():
        try:
            sys.setrecursionlimit(RECURSION_LIMIT)
            if as_module:
                runpy.run_module(script, run_name="__main__", alter_sys=True)
            else:
                code = compile(Path(script).read_text(encoding="utf-8"), str(script), "exec")
                exec(code, {"__name__": "__main__", "__builtins__": __builtins__})
        except SystemExit as exit_:
            ended.status = exit_.code
        except BaseException:  # noqa: BLE001 - the bootstrapper prints whatever it is
            ended.error = traceback.format_exc()
            fake.console.write(ended.error)

    limit = sys.getrecursionlimit()
    with _sub_interpreter(str(script) if as_module else str(Path(script).resolve()), arguments, fake, as_module):
        try:
            thread = threading.Thread(target=run)  # with a stack of its own, as short as that of a new command
            thread.start()
            thread.join()
        finally:
            sys.setrecursionlimit(limit)
    return ended


_OWN_MODULES = ("pykd", "__main__")
_shared_modules: Optional[Dict[str, ModuleType]] = None


@contextmanager
def imported_once():
    """Let all commands of the block share what they import: for hundreds of runs that differ in where they end."""
    global _shared_modules  # noqa: PLW0603 - as sys.modules is
    _shared_modules = {}
    try:
        yield
    finally:
        _shared_modules = None


@contextmanager
def _sub_interpreter(path, arguments, fake, as_module):
    """What a new interpreter inside the debugger differs in."""
    surroundings = patch.multiple(
        sys,
        argv=[path, *split_arguments(arguments)],
        executable=DEBUGGER,
        path=[*([] if as_module else [str(Path(path).parent)]), *sys.path],
        meta_path=[_Refuse(), *sys.meta_path],
        stdin=FakeInput(),
        stdout=fake.console,
        stderr=fake.console,
    )
    pace = getattr(sys.modules.get("pykdext.cli.screen"), "LINE_SECONDS", None)
    with surroundings, patch.dict(sys.modules, pykd=fake):
        for name in [name for name in sys.modules if _package(name) in ("pykdext", *REFUSING_SUBINTERPRETERS)]:
            del sys.modules[name]
        sys.modules.update(_shared_modules or {})
        if pace is not None:  # what a test has set holds in the modules that are imported anew, too
            import_module("pykdext.cli.screen").LINE_SECONDS = pace
        try:
            yield
        finally:
            if _shared_modules is not None:
                _shared_modules.update(
                    {name: module for name, module in sys.modules.items() if name not in _OWN_MODULES}
                )


def _package(name):
    return name.partition(".")[0]
