"""Windows as it runs today: a sample of the machines that ``python -m tests.benchmarks newest`` reads all of.

Nobody published symbols of these kernels: the pools are read by what memory holds, the rest by a PDB.
"""

from __future__ import annotations

import pytest

from tests.helpers.newestkernels import compare_newest, list_newest

SEED = 20261129
ALL = list_newest(SEED)
SAMPLE = [
    next(each for each in ALL if each.arch == "x64la57"),
    next(each for each in ALL if each.arch == "arm64"),
    next(each for each in ALL if each[:2] == ("x64", 26200)),
]


@pytest.mark.parametrize("newest", SAMPLE, ids=lambda each: "-".join(map(str, each)))
def test_all_that_is_read_equals_the_truth(newest, tmp_path):
    for what, found, truth in compare_newest(newest, SEED, tmp_path):
        assert found == truth, what
