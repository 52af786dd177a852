"""Cases that are chosen by what code they reach: atheris (libFuzzer for Python) draws what the targets draw by chance.

Each draw of a target takes its bits from the input that atheris made, so that it learns which damage leads further.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time

HOW_TO_GET_ATHERIS = (
    "the guided fuzz needs atheris, which is not installed: pip install atheris (Linux and macOS, from source on "
    "others); without --guided nothing is needed"
)

_MAX_INPUT_BYTES = 1024
"""What a target draws behind the end of the input follows from the input, too."""


class ChanceOfInput(random.Random):
    """Draws the bits of an input, and behind its end those of a generator that the input seeds."""

    def __init__(self, data):
        super().__init__(data)
        self._data = data
        self._place = 0

    def getrandbits(self, k):
        size = (k + 7) // 8
        piece = self._data[self._place : self._place + size]
        if len(piece) < size:
            return super().getrandbits(k)
        self._place += size
        return int.from_bytes(piece, "little") >> (8 * size - k)

    def random(self):
        return self.getrandbits(53) / (1 << 53)


def run_guided(targets, minutes, seed, corpus):
    """Fuzz the targets until the minutes are over; ends the process with 1 if anything was found."""
    try:
        import atheris
    except ImportError:
        sys.exit(HOW_TO_GET_ATHERIS)
    with atheris.instrument_imports(include=["pykdext"]):
        from tests.fuzz.run import TARGETS, Tally, limit_memory, render, try_case

        limit_memory()
        chosen = targets or list(TARGETS)
        tally = Tally()
        ends_at = time.time() + minutes * 60 if minutes else float("inf")

        def end():
            print(render(tally), flush=True)
            os._exit(1 if tally.findings else 0)  # libFuzzer never returns

        def test_one(data):
            if time.time() > ends_at:
                end()
            chance = ChanceOfInput(data)
            target = chance.choice(chosen)
            seen = len(tally.findings)
            try:
                try_case(target, chance, tally, data.hex())
            except KeyboardInterrupt:
                end()
            for finding in tally.findings[seen:]:
                print(f"{finding.kind}: {target} {data.hex()}: {finding.damage}: {finding.detail}", file=sys.stderr)

        folder = corpus or tempfile.mkdtemp(prefix="fuzz-corpus-")
        os.makedirs(folder, exist_ok=True)
        first = random.Random(seed)
        for number in range(len(chosen) * 4):  # inputs to begin with: of no bytes nothing can be learnt
            with open(os.path.join(folder, f"first-{seed}-{number}"), "wb") as file:
                file.write(first.randbytes(64))
        options = [
            "-timeout=0",
            "-len_control=0",
            f"-max_len={_MAX_INPUT_BYTES}",
            "-rss_limit_mb=0",
            f"-seed={seed + 1}",
            folder,
        ]
        atheris.Setup([sys.argv[0], *options], test_one)
        atheris.Fuzz()
