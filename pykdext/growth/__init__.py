"""What leaks: from one snapshot by its traits, from two by their difference, from a series by its trend.

Pure functions on the model.
"""

from __future__ import annotations

from pykdext.growth.compare import compare_snapshots, rank_deltas
from pykdext.growth.lockstep import find_lockstep, iter_delta_blocks
from pykdext.growth.plausibility import iter_doubts
from pykdext.growth.ranking import (
    find_companions,
    find_largest,
    find_notable,
    judge_companions,
    may_be_missing_frees,
    rank_suspects,
)
from pykdext.growth.series import MixedMachinesError
from pykdext.growth.trend import follow_series

__all__ = [
    "MixedMachinesError",
    "compare_snapshots",
    "find_companions",
    "find_largest",
    "find_lockstep",
    "find_notable",
    "follow_series",
    "iter_delta_blocks",
    "iter_doubts",
    "judge_companions",
    "may_be_missing_frees",
    "rank_deltas",
    "rank_suspects",
]
