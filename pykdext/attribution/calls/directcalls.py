"""Direct calls and jumps in an image's code to given places, also to places outside of it.

Code is not decoded: bytes of other instructions may look like a call.
"""

from __future__ import annotations

from typing import Collection, Tuple

from pykdext.attribution.calls.processors import PROCESSORS
from pykdext.images.image import Image


def find_direct_calls(image: Image, targets: Collection[int]) -> Tuple[int, ...]:
    """The RVAs of what calls, or jumps to, one of ``targets``: RVAs, negative or large for what is outside."""
    mask = (1 << 8 * image.machine.pointer_size) - 1
    wanted = frozenset(target & mask for target in targets)
    iter_calls = PROCESSORS[image.machine].iter_calls
    return tuple(
        place
        for section in image.sections
        if section.executable and wanted
        for rva, code in image.iter_present(section)
        for place in iter_calls(rva, code, wanted, mask)
    )
