"""What the fuzz test tries: each target makes a case from a seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Dict, List, Optional, Tuple


@dataclass
class Case:
    """Damaged input, the command lines to try on it, and what is true nevertheless.

    Attributes:
        damage: what was done, in a few words. commands: each is a list of words.
        numbers: of each tag (in hex) the six counters of its two pools, which no damage may change unnoticed; None:
        they are not judged. owners: of each tag the modules that may be proven; None: not judged.
        is_whole: nothing was damaged, the numbers must be read. is_strict: a warning excuses no wrong number.
    """

    damage: str
    commands: List[List[str]]
    numbers: Optional[Dict[str, Tuple[int, ...]]] = None
    owners: Optional[Dict[str, Tuple[str, ...]]] = None
    is_whole: bool = False
    is_strict: bool = False


Target = Callable[..., Case]
"""Makes a case of a ``random.Random`` and an empty folder."""
