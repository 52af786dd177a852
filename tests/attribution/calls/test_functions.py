"""The functions of an image, with what stands side by side and may be one."""

from __future__ import annotations

import random

import pytest

from dumps.drivers import build
from pykdext.attribution.calls import functions
from pykdext.attribution.calls.functions import CodeRoom, FollowedImage
from pykdext.images.image import read_image
from pykdext.images.imagefile import open_image_file
from pykdext.images.x86starts import find_x86_starts

pytest.importorskip("capstone")


@pytest.mark.parametrize("most", [2, 3, 64])
@pytest.mark.parametrize("name", ["idioms-O2", "depots-Os"])
def test_where_x86_functions_end_does_not_depend_on_which_is_asked_for_first(name, most, monkeypatch):
    """As where each part leads into the next one: then all that may be looked at together is one function."""
    monkeypatch.setattr(functions, "MAX_PARTS", most)
    monkeypatch.setattr(functions, "find_last_parts", lambda _, parts: [*range(1, len(parts)), len(parts) - 1])
    with open_image_file(build.IMAGES / "x86" / f"{name}.sys") as target:
        image = read_image(target, target.modules()[0], zeros_are_code=True)
        starts = find_x86_starts(image)
        assert len(starts) > 20
        answers = []
        for seed in range(4):
            followed = FollowedImage(image, CodeRoom())
            asked = random.Random(seed).sample(starts, len(starts))
            first = {rva: followed.find_bounds(rva) for rva in asked}
            assert first == {rva: followed.find_bounds(rva) for rva in asked}
            answers.append(first)
    assert all(answer == answers[0] for answer in answers)
    assert all(bounds is not None and bounds.start_rva <= rva for rva, bounds in answers[0].items())
    assert any(bounds.start_rva < rva for rva, bounds in answers[0].items())
