"""A sample of the kernels that ``python -m tests.benchmarks scrambled`` reads all of: none is read wrongly."""

from __future__ import annotations

import pytest

from pykdext.attribution.poolcode import find_pool_variables
from tests.helpers.scrambledkernels import RIGHT, UNKNOWN, forge_scrambled, iter_scrambles, read_outcome

SEED = 20261129
SAMPLE = list(iter_scrambles(SEED))[3::61]


@pytest.mark.parametrize("scramble", SAMPLE, ids=lambda each: f"{each.version}-{each.way}-{each.decoys}")
def test_variables_anywhere_are_found_by_code_and_never_mistaken_without(scramble, tmp_path):
    machine = forge_scrambled(scramble, SEED)
    dump = tmp_path / "scrambled.dmp"
    machine.save(dump)
    assert read_outcome(machine, dump, find_pool_variables) == (RIGHT, RIGHT)
    without = read_outcome(machine, dump, None)
    assert without == ((UNKNOWN, UNKNOWN) if scramble.decoys else (RIGHT, RIGHT))
