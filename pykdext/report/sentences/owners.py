"""What is said of the owners of a tag, and of what tag lists say."""

from __future__ import annotations

from typing import List, Optional, Sequence, Tuple

from pykdext.model import Confidence, Evidence, ImageCoverage, ImageVersion, Owner, Suspect, TagDescription
from pykdext.units import (
    choose_form,
    count_things,
    format_address,
    format_bytes,
    format_day,
    format_moment,
    format_share,
)

_MARKS = str.maketrans({"\u00a9": "(C)", "\u00ae": "(R)", "\u2122": "(TM)"})
"""Marks that version resources are full of, in ASCII."""


GRADES = {
    Confidence.PROVEN: "the code at this place hands the tag to a function that allocates pool, or the system's own "
    "records show that the driver has such blocks: a lookaside list of it, Driver Verifier. A debugger shows it.",
    Confidence.LIKELY: "the code frees blocks of the tag, registers it, has it in a table, or holds it where an "
    "allocation takes it from, but the allocation itself was not followed.",
    Confidence.POSSIBLE: "the four bytes stand in the driver's data, a tag list names the driver, or blocks of the tag "
    "point at it. That alone proves nothing.",
}
"""What each grade of evidence means, for a reader who has only the report."""

NO_IMAGES = "A dump or the machine's driver files can tell which driver it is."
"""Of a source that holds no images; the next steps name the commands."""


def describe(item: TagDescription) -> str:
    """An entry of a tag list in words; some entries name no module."""
    return f"{item.module}: {item.text}" if item.module else item.text


def name_owners(owners: Sequence[Owner], *, with_grade: bool = True) -> str:
    """Those with the best grade, and the grade."""
    best = [owner for owner in owners if owner.confidence is owners[0].confidence]
    names = " or ".join(owner.module for owner in best[:3])
    more = f" or one of {len(best) - 3} more" if len(best) > 3 else ""
    return f"{names}{more} ({owners[0].confidence.value})" if with_grade else f"{names}{more}"


def name_use(suspect: Suspect) -> str:
    """The likeliest owner of a tag, what a tag list says of its use, or that it is unknown."""
    if suspect.owners and not suspect.role.tells_no_caller:
        return suspect.owners[0].module
    return suspect.descriptions[0].text if suspect.descriptions else "unknown"


def describe_gap(coverage: Optional[ImageCoverage]) -> str:
    """What was looked at in vain: a tag that is not in the part in memory can be in the rest."""
    if coverage is None or not coverage.modules_total:
        return "there is no driver image to search, and no tag list names its driver"
    scanned, total = coverage.modules_scanned, coverage.modules_total
    if coverage.modules_unsearched:
        unsearched = "none" if coverage.modules_unsearched == total else f"only {total - coverage.modules_unsearched:,}"
        searched = f"{unsearched} of the {count_things(total, 'driver image')} was searched before the end"
        return f"{searched}, and no tag list names its driver"
    if coverage.resident_fraction is None:
        return f"none of the {count_things(total, 'driver image')} is in memory, and no tag list names its driver"
    if coverage.resident_fraction < 1 or scanned < total:
        images = (
            choose_form(total, "the driver image", "the driver images")
            if scanned == total
            else f"{scanned:,} of {count_things(total, 'driver image')}"
        )
        share = format_share(coverage.resident_fraction)
        gone = format_bytes(coverage.discarded_bytes) if coverage.discarded_bytes else ""
        gone = f" ({gone} of code that ran when they started is gone)" if gone else ""
        rest = f"it may be in the rest{gone}. No tag list names its driver"
        return f"not in the {share} of {images} that is in memory; {rest}"
    return "no driver image holds this tag, and no tag list names its driver"


def describe_vendor(owner: Owner) -> str:
    """Where an owner comes from, behind its name."""
    version = owner.version
    words = [version.company, version.product, version.file_version, _built_text(version)] if version else []
    known = ", ".join(word for word in words if word).translate(_MARKS)
    windows = {True: "part of Windows", False: "not part of Windows", None: "vendor not known"}[owner.part_of_windows]
    return f"{windows} ({known})" if known else windows


def list_identity(owner: Owner) -> List[Tuple[str, str]]:
    """What identifies the driver's image for its vendor: titles and words; empty where its headers are not known."""
    version = owner.version
    if version is None or version.timestamp is None:
        return []
    linked = f" ({format_moment(version.built_at)})" if version.built_at else " (not a time)"
    end = None if owner.base is None or version.image_bytes is None else owner.base + version.image_bytes
    size = (
        ""
        if version.image_bytes is None
        else f"0x{version.image_bytes:x} ({count_things(version.image_bytes, 'byte')})"
    )
    pdb = version.pdb_file and f"{version.pdb_file}, GUID {version.pdb_guid}, age {version.pdb_age}"
    items = (
        ("Version", version.file_version),
        ("Linked", f"{version.timestamp:08x}{linked}"),
        ("Size of image", size),
        ("Checksum", None if version.checksum is None else f"{version.checksum:08x}"),
        ("Loaded at", None if end is None else f"{format_address(owner.base or 0)} - {format_address(end)}"),
        ("PDB", pdb),
    )
    return [(title, words) for title, words in items if words]


def _built_text(version: ImageVersion) -> Optional[str]:
    return f"built {format_day(version.built_at)}" if version.built_at else None


def describe_place(owner: Owner, item: Evidence) -> str:
    """``pippo+0x109f``; nothing for what a tag list says."""
    return "" if item.rva is None else f"{owner.module.rsplit('.', 1)[0]}+0x{item.rva:x}"


def find_address(owner: Owner, item: Evidence) -> Optional[int]:
    """Where the evidence stands in the target's memory."""
    return None if owner.base is None or item.rva is None else owner.base + item.rva
