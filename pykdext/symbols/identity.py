"""Which build of a module a file of symbols belongs to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PdbName:
    """What a symbol store files a PDB under: its file name, and the identity that the image's RSDS record gives.

    Attributes:
        file_name: without a folder, e.g. ``ntkrnlmp.pdb``.
        guid: 32 upper-case hexadecimal digits, without dashes, the first three groups printed as numbers.
        age: how often the linker had written the PDB when it made the image.
    """

    file_name: str
    guid: str
    age: int

    @property
    def key(self) -> str:
        """The name of its folder in a symbol store: GUID and age, both hexadecimal."""
        return f"{self.guid}{self.age:x}"

    @property
    def identity(self) -> str:
        """GUID and age in words, for messages."""
        return render_identity(self.guid, self.age)


def render_identity(guid: str, age: int) -> str:
    """``GUID 5278AFF86C341677D7D7835C85B7B844 age 1``."""
    return f"GUID {guid} age {age}"
