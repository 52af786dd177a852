"""The import rules of the project, read from the sources."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT

PACKAGE = PROJECT / "pykdext"
SOURCES = sorted(PACKAGE.rglob("*.py"))


GROUND = {"errors", "units", "printable", "wholefile", "work"}

ALLOWED = {
    **{name: set() for name in GROUND},
    "model": GROUND,
    "targets": GROUND | {"model"},
    "symbols": GROUND | {"model"},
    "images": GROUND | {"model", "symbols", "targets.filebytes", "targets.parts", "targets.protocol"},
    "kernel": GROUND | {"images", "model", "symbols", "targets.linkedlists", "targets.protocol"},
    "records": GROUND | {"model"},
    "growth": GROUND | {"model"},
    "attribution": GROUND | {"images", "kernel", "model", "targets.protocol"},
    "report": GROUND | {"model"},
    "store": GROUND | {"model", "records"},
    "pipeline": GROUND
    | {"attribution", "growth", "images", "kernel", "model", "records", "report", "store", "symbols", "targets"},
    "fleet": GROUND | {"images", "kernel", "model", "pipeline", "records", "report", "store", "targets"},
    "cli": GROUND
    | {"fleet", "growth", "model", "pipeline", "records", "report", "store", "targets.session.debugger", "__version__"},
    "__main__": {"cli"},
    "poolleak": {"cli"},
    "library": GROUND | {"fleet", "growth", "model", "pipeline", "records", "report"},
    "__init__": {"errors", "library"},
}
"""What a room at the top imports besides itself."""

INSIDE = {
    "attribution.flow": {"attribution.flow"},
    "attribution.places": {"attribution.places"},
    "attribution.calls": {"attribution.calls", "attribution.flow", "attribution.places"},
    "targets.paging": {"targets.paging", "targets.parts", "targets.protocol"},
}
"""What a room within a room imports of the rooms around it."""

NEVER = {
    "attribution.flow.arm64": {"attribution.flow.intel"},
    "attribution.flow.intel": {"attribution.flow.arm64"},
    "targets.dump": {"targets.session"},
}
"""Rooms side by side of which one knows nothing of the other."""


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def our_imports(path: Path):
    """``kernel.image`` for ``from pykdext.images.image import ...``, at any depth of the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "pykdext":
            inner = node.module[len("pykdext") :].lstrip(".")
            for alias in node.names:
                yield inner or alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "pykdext":
                    yield alias.name[len("pykdext") :].lstrip(".")


def foreign_imports(path: Path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_follow_the_flow_of_data(path):
    name = module_name(path)
    area = name.split(".")[0]
    for imported in our_imports(path):
        inside = imported.split(".")[0] == area
        assert inside or is_of(imported, ALLOWED[area]), f"{name} imports {imported}"


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_within_a_room_follow_the_flow_of_data(path):
    name = module_name(path)
    for imported in our_imports(path):
        for room, allowed in INSIDE.items():
            if is_of(name, {room}) and imported.split(".")[0] == room.split(".")[0]:
                assert is_of(imported, allowed), f"{name} imports {imported}"
        for room, forbidden in NEVER.items():
            if is_of(name, {room}):
                assert not is_of(imported, forbidden), f"{name} imports {imported}"


def test_every_rule_is_of_a_room_that_is_there():
    """A rule about what is gone says nothing of the tree."""
    names = {"__version__", *map(module_name, SOURCES)}
    rooms = {*ALLOWED, *INSIDE, *NEVER, *(room for rules in (INSIDE, NEVER) for one in rules.values() for room in one)}
    rooms |= {rule for rules in ALLOWED.values() for rule in rules}
    gone = {room for room in rooms if not any(is_of(name, {room}) for name in names)}
    assert not gone


def is_of(name, rooms):
    return any(name == room or name.startswith(room + ".") for room in rooms)


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_only_one_module_imports_pykd(path):
    if module_name(path) != "targets.session.debugger":
        assert "pykd" not in set(foreign_imports(path))


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_no_module_bears_a_stdlib_name(path):
    stdlib = getattr(sys, "stdlib_module_names", None)  # 3.10 and newer know
    if stdlib is None:
        pytest.skip("this Python does not list its standard library")
    assert path.stem not in stdlib or path.stem.startswith("__")


def test_the_tool_and_the_forge_know_nothing_of_each_other():
    for path in SOURCES:
        assert "dumps" not in set(foreign_imports(path)), path
    for path in (PROJECT / "dumps").rglob("*.py"):
        assert "pykdext" not in set(foreign_imports(path)), path


def test_modules_stay_small():
    long = {
        str(path.relative_to(PROJECT)): lines
        for folder in ("pykdext", "dumps")
        for path in (PROJECT / folder).rglob("*.py")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 420
    }
    assert not long


def test_top_level_holds_nothing_else():
    import subprocess

    listed = subprocess.run(
        ["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True, check=False
    ).stdout.split()
    if not listed:
        pytest.skip("not a git checkout")
    top = {Path(name).parts[0] for name in listed}
    visible = {name for name in top if not name.startswith(".")}
    assert visible <= {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "docs",
        "pykdext",
        "dumps",
        "tests",
    }


def _iter_counted_plurals(tree):
    """Numbers of an f-string with a plural right behind them, which one of them would not fit."""
    for text in (node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)):
        for value, behind in zip(text.values, text.values[1:]):
            if not (isinstance(value, ast.FormattedValue) and isinstance(behind, ast.Constant)):
                continue
            number = ast.unparse(value.value)
            is_count = number.startswith(("len(", "format_count(")) or (
                value.format_spec is not None and ast.unparse(value.format_spec).strip("f") == repr(",")
            )
            if (
                is_count
                and not number.lstrip("_").isupper()
                and re.match(r" (?!(?:of|as) its|is |was |has )([a-z]+ )?[a-z]{2,}s\b", behind.value)
            ):
                yield f"{text.lineno}: {ast.unparse(text)}"


def test_plurals_are_made_in_one_place():
    found = [
        f"{path.name}:{line}"
        for path in SOURCES
        for line in _iter_counted_plurals(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert found == [], "say it by pykdext.units.count_things(number, 'block'): one is no plural"
