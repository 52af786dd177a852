"""``python -m tests.fuzz [--minutes N | --cases N] [--seed N] [--target NAME]``: fuzz without end, or a case again.

With ``--guided`` the cases are chosen by the code that they reach.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time


def parse():
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, help="how long (default: until --cases)")
    parser.add_argument("--cases", type=int, default=sys.maxsize, help="how many cases of each target")
    parser.add_argument("--seed", type=int, default=0, help="the first seed (default: 0)")
    parser.add_argument("--target", action="append", help="only this target, may repeat")
    parser.add_argument("--guided", action="store_true", help="let atheris choose the cases by coverage")
    parser.add_argument("--corpus", help="folder of the guided fuzz's inputs, kept from run to run (default: none)")
    return parser.parse_args()


def fuzz():
    options = parse()
    if options.guided:
        from tests.fuzz.guided import run_guided  # it imports the tool by itself, to watch it

        return run_guided(options.target, options.minutes, options.seed, options.corpus)
    from tests.fuzz.run import TARGETS, Tally, limit_memory, render, run_case

    limit_memory()
    tally = Tally()
    ends_at = time.time() + options.minutes * 60 if options.minutes else float("inf")
    unknown = set(options.target or ()) - set(TARGETS)
    if unknown:
        sys.exit(f"no target {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    try:
        for number in itertools.islice(itertools.count(options.seed), options.cases):
            for target in options.target or TARGETS:
                if time.time() > ends_at:
                    raise KeyboardInterrupt
                seen = len(tally.findings)
                run_case(target, number, tally)
                for finding in tally.findings[seen:]:
                    print(f"{finding.kind}: {target} {number}: {finding.damage}: {finding.detail}", file=sys.stderr)
    except KeyboardInterrupt:
        pass
    print(render(tally))
    return 1 if tally.findings else 0


if __name__ == "__main__":
    sys.exit(fuzz())
