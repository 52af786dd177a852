"""Machines whose kernels nobody knows, their pool variables scrambled; and what became of reading them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Callable, Iterator, NamedTuple, Optional

from dumps.forge import forge
from dumps.forge.kernels import BUILDS
from dumps.forge.machine import ForgedMachine
from dumps.forge.scrambling import WAYS, scramble_kernel
from pykdext.errors import PykdextError
from pykdext.kernel.kernel import FollowPoolCode, open_kernel
from pykdext.kernel.pool.bigpages import read_big_pages
from pykdext.kernel.pool.tagtables import read_pool_snapshot
from pykdext.symbols.profiles import load_profile
from pykdext.targets.dump.crashdump import open_crashdump
from tests.symbols.test_pdb import table_of_kernels

RIGHT, UNKNOWN, WRONG = "right", "unknown", "wrong"
_VARIABLES = ("PoolTrackTable", "ExPoolTagTables", "PoolBigPageTable")

Damage = Callable[[ForgedMachine], None]


class Scramble(NamedTuple):
    """One of the known kernels, and how its variables are scrambled."""

    version: str
    key: str
    way: str
    decoys: int


class Outcome(NamedTuple):
    """What became of the tag tables, and of the list of big blocks: RIGHT, UNKNOWN or WRONG."""

    tags: str
    big_blocks: str


def iter_scrambles(seed: int) -> Iterator[Scramble]:
    """Each of the known kernels once, in one of the ways; half of them with decoys."""
    for number, (key, row) in enumerate(sorted(table_of_kernels().items())):
        yield Scramble(row[0], key, WAYS[(number + seed) % len(WAYS)], 2 * (number // len(WAYS) % 2))


def forge_scrambled(scramble: Scramble, seed: int) -> ForgedMachine:
    """The machine: a forged kernel of about the same build, with the real places of its variables, scrambled."""
    build = max(build for build in BUILDS if build <= max(int(scramble.version.split(".")[2]), BUILDS[0]))
    profile = load_profile(scramble.key[:32], int(scramble.key[32:], 16))
    assert profile is not None
    places = {name: rva for name, rva in profile.rvas.items() if name.startswith(_VARIABLES)}
    chance = random.Random(f"{scramble.key} {seed}")
    return forge(
        "pipo",
        build=build,
        seed=seed,
        known_kernel=False,
        change_kernel=lambda kernel: scramble_kernel(kernel, places, scramble.way, chance, scramble.decoys),
    )


def read_outcome(machine: ForgedMachine, dump: Path, follow: Optional[FollowPoolCode]) -> Outcome:
    """Read the dump of ``machine`` and compare with its truth; UNKNOWN is only what was said to be."""
    target = open_crashdump(str(dump))
    try:
        kernel = open_kernel(target, "", follow)
        try:
            snapshot = read_pool_snapshot(kernel, str(dump))
        except PykdextError:
            return Outcome(UNKNOWN, UNKNOWN)
        found = {row.tag.raw: (row.nonpaged.bytes, row.paged.bytes) for row in snapshot.tags}
        truth = {tag: (row.nonpaged_bytes, row.paged_bytes) for tag, row in machine.truth.tags.items()}
        is_said = not snapshot.coverage.is_complete and bool(snapshot.warnings)
        tags = RIGHT if found == truth else UNKNOWN if is_said else WRONG
        try:
            blocks = read_big_pages(kernel, [row.tag for row in snapshot.tags])
        except PykdextError:
            return Outcome(tags, UNKNOWN)
        addresses = {block.address for block in blocks.allocations}
        known = set(machine.truth.big_blocks)
        is_partial = blocks.rows_read < blocks.rows_expected and addresses < known
        return Outcome(tags, RIGHT if addresses == known else UNKNOWN if is_partial else WRONG)
    finally:
        target.close()
