"""A series of any length takes bounded memory, and each state that is held knows how many are missing before it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pykdext.model import PoolSnapshot, PoolTag, PoolUsage, SnapshotSource, TagUsage
from pykdext.model.pool import UNUSED
from pykdext.pipeline import thinning
from pykdext.pipeline.thinning import EvenlySpread

ROW = TagUsage(PoolTag(b"Pipo"), PoolUsage(1, 0, 1, 64), UNUSED)


def make_state(number, passed_over=0):
    return PoolSnapshot(SnapshotSource("log", str(number)), (ROW,) * 5, passed_over=passed_over)


@given(st.lists(st.integers(0, 3), max_size=300), st.integers(2, 20), st.integers(10, 200))
def test_states_keep_their_places_and_stay_few(passed, fewest, rows):
    series = EvenlySpread()
    saved = thinning.MOST_ROWS, thinning._FEWEST_STATES
    thinning.MOST_ROWS, thinning._FEWEST_STATES = rows, fewest
    try:
        for number, before in enumerate(passed):
            series.add([make_state(number, before)])
    finally:
        thinning.MOST_ROWS, thinning._FEWEST_STATES = saved
    held = series.states()
    assert len(held) <= max(fewest, rows // 5) + 2
    numbers = [int(state.source.path) for state in held]
    assert numbers == sorted(set(numbers))
    assert sum(1 + state.passed_over for state in held) == len(passed) + sum(passed)
    if passed:
        assert (numbers[0], numbers[-1]) == (0, len(passed) - 1)
    steps = {later - earlier for earlier, later in zip(numbers[:-1], numbers[1:-1])}
    assert len(steps) <= 1
    assert bool(series.warnings) == (len(held) < len(passed))
