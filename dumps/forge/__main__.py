"""``python -m dumps.forge SCENARIO -o FILE``: writes one dump file."""

from __future__ import annotations

import argparse
import sys
from typing import List, Optional

from dumps.forge.architectures import ARCHITECTURES
from dumps.forge.containers import BITMAP_KERNEL, KINDS
from dumps.forge.memorymanager import MemoryPlan
from dumps.forge.pageframes import plan_frames
from dumps.forge.scenarios import SCENARIOS, SUMMARIES, forge

_FRAMES = 0xFFF9E  # all of the machine's memory


def main(arguments: Optional[List[str]] = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m dumps.forge", description="Make a Windows kernel dump file.")
    parser.add_argument("scenario", nargs="?", choices=SCENARIOS)
    parser.add_argument("--list", action="store_true", help="show the scenarios and stop")
    parser.add_argument("--arch", choices=tuple(ARCHITECTURES), default="x64")
    parser.add_argument("--build", type=int, default=19041, help="Windows build, default %(default)s")
    parser.add_argument("--kind", type=int, choices=KINDS, default=BITMAP_KERNEL, help="dump type in the header")
    parser.add_argument("--processors", type=int, default=4)
    parser.add_argument("--unknown-kernel", action="store_true", help="a kernel that nobody has symbols of")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--untagged", action="store_true", help="pool tagging is switched off (XP)")
    parser.add_argument("--swizzle", action="store_true", help="page tables are protected against L1TF")
    parser.add_argument("--encoded-kdbg", action="store_true", help="the debugger data block is still encoded")
    parser.add_argument("--pool-totals", action="store_true", help="known kernels tell all their totals")
    parser.add_argument("--memory", action="store_true", help="counters of memory and the use of page frames (x64)")
    parser.add_argument("--live", action="store_true", help="taken without stopping the system")
    parser.add_argument("--encrypted", action="store_true", help="only the header can be read")
    parser.add_argument("-o", "--output", metavar="FILE", help="a suffix .gz, .xz or .zip compresses")
    options = parser.parse_args(arguments)
    if options.list:
        for name, summary in SUMMARIES.items():
            print(f"{name:8} {summary}")
        return 0
    if options.scenario is None or options.output is None:
        parser.error("a scenario and -o FILE are wanted")
    try:
        _make_dump(options)
    except ValueError as error:
        parser.error(str(error))
    return 0


def _make_dump(options: argparse.Namespace) -> None:
    machine = forge(
        options.scenario,
        build=options.build,
        processors=options.processors,
        known_kernel=not options.unknown_kernel,
        seed=options.seed,
        arch=options.arch,
        untagged=options.untagged,
        swizzle=options.swizzle,
        encoded_kdbg=options.encoded_kdbg,
        pool_totals=options.pool_totals,
        memory=MemoryPlan() if options.memory else None,
        page_frames=plan_frames(_FRAMES) if options.memory else None,
    )
    machine.save(options.output, kind=options.kind, live=options.live, encrypted=options.encrypted)


if __name__ == "__main__":
    sys.exit(main())
