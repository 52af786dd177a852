"""What is said of page frames that were read in part."""

from __future__ import annotations

import pytest

from pykdext.model import PoolKind, UntaggedKind, UntaggedMemory
from pykdext.model.memory import FrameUse, PageFrames, UseCount
from pykdext.report.sentences.memory import verdict_on_memory

TABLES = UntaggedMemory(UntaggedKind.PAGE_TABLES, 1 << 20, "page frame database", False)
POOLS = {PoolKind.NONPAGED: 1 << 30, PoolKind.PAGED: 1 << 30}


@pytest.mark.parametrize(
    ("read", "is_sampled", "expected"),
    [
        (1_000_000, False, "The largest use is process private: 2.73 GB, 72% of the machine."),
        (1_000_000 // 8, True, "The largest use is process private: 2.73 GB, 72% of the machine."),
        (
            800_000,
            False,
            "Of 800,000 of 1,000,000 page frames, whose records could be read, the largest use is process private: "
            "2.73 GB, 90% of these.",
        ),
    ],
)
def test_the_largest_use_is_a_share_of_what_was_read(read, is_sampled, expected):
    uses = (UseCount(FrameUse.PRIVATE, 716_800), UseCount(FrameUse.ZEROED, 83_200))
    frames = PageFrames(uses, 1_000_000, read, is_sampled, has_regions=True)
    assert expected in verdict_on_memory(None, frames, (TABLES,), None, POOLS, ())
