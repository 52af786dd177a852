"""Direct calls and jumps in an image's code to given places, also to places outside of it.

Code is not decoded: bytes of other instructions may look like a call.
"""

from __future__ import annotations

from typing import Collection, Tuple

from pykdext.attribution.calls.codeindex import iter_call_indexes
from pykdext.images.image import Image


def find_direct_calls(image: Image, targets: Collection[int]) -> Tuple[int, ...]:
    """The RVAs of what calls, or jumps to, one of ``targets``: RVAs, negative or large for what is outside."""
    if not targets:
        return ()
    limit = 1 << 8 * image.machine.pointer_size
    wanted = {(target + limit // 2) % limit - limit // 2 for target in targets}
    return tuple(
        rva + offset
        for rva, index in iter_call_indexes(image)
        for offset in sorted(offset for target in wanted for offset in index.find(target))
    )
