"""``python -m dumps.forge SCENARIO -o FILE``: writes one dump file."""

from __future__ import annotations

import argparse
import sys
from typing import List, Optional

from dumps.forge.containers import BITMAP_KERNEL, KINDS
from dumps.forge.kernels import BUILDS
from dumps.forge.scenarios import SCENARIOS, SUMMARIES, forge


def main(arguments: Optional[List[str]] = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m dumps.forge", description="Make a Windows kernel dump file.")
    parser.add_argument("scenario", nargs="?", choices=SCENARIOS)
    parser.add_argument("--list", action="store_true", help="show the scenarios and stop")
    parser.add_argument("--build", type=int, choices=BUILDS, default=19041)
    parser.add_argument("--kind", type=int, choices=KINDS, default=BITMAP_KERNEL, help="dump type in the header")
    parser.add_argument("--processors", type=int, default=4)
    parser.add_argument("--unknown-kernel", action="store_true", help="a kernel that nobody has symbols of")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("-o", "--output", metavar="FILE", help="a suffix .gz or .xz compresses")
    options = parser.parse_args(arguments)
    if options.list:
        for name, summary in SUMMARIES.items():
            print(f"{name:8} {summary}")
        return 0
    if options.scenario is None or options.output is None:
        parser.error("a scenario and -o FILE are wanted")
    machine = forge(
        options.scenario,
        build=options.build,
        processors=options.processors,
        known_kernel=not options.unknown_kernel,
        seed=options.seed,
    )
    machine.save(options.output, kind=options.kind)
    return 0


if __name__ == "__main__":
    sys.exit(main())
