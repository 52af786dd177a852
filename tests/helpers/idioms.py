"""The truth about the idiom drivers of dumps/drivers: how each tag reaches an allocator, and what only looks so.

Each tag belongs to one driver, and there to one way. ``weakest`` is the weakest grade that a report may give the owner,
``strongest`` the strongest that the code justifies.
"""

from __future__ import annotations

import json
from typing import NamedTuple, Optional

from dumps.drivers import build
from dumps.forge import forge
from dumps.forge.importcalls import rewrite_import_calls
from pykdext.cli.main import main

ARCHITECTURES = ("x64", "x86", "arm64")
LEVELS = build.LEVELS
GRADES = ("proven", "likely", "possible", None)
"""From strong to weak; None: no owner is named."""

BUILDS = {"x64": 19041, "x86": 19041, "arm64": 22000}
FORGE_ARCH = {"x64": "x64", "x86": "x86pae", "arm64": "arm64"}


class Idiom(NamedTuple):
    tag: str
    driver: str
    name: str
    weakest: Optional[str] = "proven"
    strongest: Optional[str] = "proven"
    classical: bool = False
    architectures: tuple = ARCHITECTURES

    def accepts(self, grade):
        return GRADES.index(self.strongest) <= GRADES.index(grade) <= GRADES.index(self.weakest)


IDIOMS = (
    # The fourteen that drivers of all ages have.
    Idiom("Drct", "idioms", "direct call of ExAllocatePoolWithTag", classical=True),
    Idiom("Pol2", "idioms", "direct call of ExAllocatePool2", classical=True),
    Idiom("Wrap", "idioms", "wrapper", classical=True),
    Idiom("Wrp2", "idioms", "wrapper of a wrapper", classical=True),
    Idiom("Fre1", "idioms", "only freed with the tag", "likely", "likely", classical=True),
    Idiom("LkNp", "idioms", "sixth argument: nonpaged lookaside list", classical=True),
    Idiom("LkEx", "idioms", "seventh argument: lookaside list of the new kind", classical=True),
    Idiom("SelR", "idioms", "first of two tags by condition", classical=True),
    Idiom("SelW", "idioms", "second of two tags by condition", classical=True),
    Idiom("Prot", "idioms", "bit 31: PROTECTED_POOL", classical=True),
    Idiom("Glbl", "idioms", "global variable", classical=True),
    Idiom("Tab2", "idioms", "table of constants, indexed at run time", "likely", "likely", classical=True),
    Idiom("Ftch", "ports", "FLT_CONTEXT_REGISTRATION", "likely", "likely", classical=True),
    Idiom("Nblv", "ports", "structure stored as one vector", classical=True),
    # Further ways.
    Idiom("LkPg", "idioms", "sixth argument: paged lookaside list"),
    Idiom("Ari0", "idioms", "two tags one bit apart: the one in the code"),
    Idiom("Ari1", "idioms", "two tags one bit apart: the reckoned one"),  # in no code but ARM64's
    Idiom("Tab1", "idioms", "table of constants: its first row", "likely", "likely"),
    Idiom("Tab3", "idioms", "table of constants: its last row", "likely", "likely"),
    Idiom("Keep", "idioms", "register that outlives calls"),
    Idiom("Tail", "idioms", "tail call"),
    Idiom("Dyna", "idioms", "pointer fetched at run time"),
    Idiom("Rptp", "idioms", "import call that the kernel rewrites", architectures=("x64",)),
    Idiom("Ndme", "ports", "NdisAllocateMemoryWithTag"),
    Idiom("Ndpr", "ports", "NdisAllocateMemoryWithTagPriority, tail call"),
    Idiom("Nblp", "ports", "NET_BUFFER_LIST_POOL_PARAMETERS on the stack", "likely"),
    Idiom("Npbo", "ports", "NET_BUFFER_POOL_PARAMETERS, header and tag as one constant", "likely"),
    Idiom("Stpl", "ports", "StorPortExtendedFunction"),
    Idiom("Vdpl", "ports", "VideoPortAllocatePool"),
    Idiom("Rtpl", "ports", "FsRtlAllocatePoolWithTag"),
    Idiom("Quot", "ports", "ExAllocatePoolWithQuotaTag"),
    Idiom("Prio", "ports", "ExAllocatePoolWithTagPriority"),
    Idiom("Ftpl", "ports", "FltAllocatePoolAlignedWithTag"),
    Idiom("Ftcs", "ports", "FLT_CONTEXT_REGISTRATION, second row", "likely", "likely"),
    Idiom("FrmM", "framed", "WdfMemoryCreate through the table of KMDF"),
    Idiom("FrmL", "framed", "WdfLookasideListCreate through the table of KMDF"),
    Idiom("FrmD", "framed", "WDF_DRIVER_CONFIG"),
    Idiom("Innc", "innocent", "direct call, among much that is none"),
    *(Idiom(f"Sw{number:02}", "byways", "one of a dozen tags for one call") for number in range(12)),
    Idiom("Rlc1", "byways", "wrapper that frees before it allocates"),
    Idiom("Dep1", "byways", "wrappers three deep"),
    Idiom("StPr", "lanes", "member of a structure that a wrapper gets by a pointer"),
    Idiom("CbLk", "lanes", "member of a structure for a function that an object's type names"),
    Idiom("RtIn", "lanes", "pointer fetched by a name that is put into a string"),
    Idiom("StVr", "depots", "variable that is set when the driver starts"),
    Idiom("StSf", "depots", "variable that a function sets for its callers"),
    Idiom("OStd", "depots", "member of an object in data"),
    Idiom("ObMd", "depots", "member of an object in data that is made at run time"),
    Idiom("OUnk", "depots", "member of an object that the caller had made"),
    Idiom("PtrV", "depots", "function to which a variable points"),
    Idiom("PtrT", "depots", "function of a table to which a variable points"),
    Idiom("OutP", "depots", "wrapper that gives the block by a pointer and returns a status"),
    Idiom("OwnC", "depots", "wrapper with arguments in registers of its own"),
    *(
        Idiom(f"Tbt{letter}", "depots", "tags side by side, indexed at run time", "likely", "likely")
        for letter in "ABCD"
    ),
    *(Idiom(f"Ftb{letter}", "depots", "table in the frame, indexed at run time") for letter in "ABCD"),
    *(Idiom(f"Str{letter}", "shelves", "table of rows in a structure", "likely", "likely") for letter in "ABCD"),
    *(Idiom(f"Stg{letter}", "shelves", "tags side by side in a structure", "likely", "likely") for letter in "ABCD"),
    Idiom("PtrR", "shelves", "pointer fetched at run time that other code may replace"),
    Idiom("DynM", "shelves", "method by a table beside the object"),
)

LIBRARY_TAGS = ("SeSd", "SeAl", "SeTs", "PpRb", "PpUc")
"""The innocent driver allocates with them in the code of a library that many drivers have."""

LOOK_ALIKES = (
    Idiom("Usg1", "innocent", "text of a message", None, "possible"),
    Idiom("Txt1", "innocent", "word in a text", None, "possible"),
    Idiom("Fmt1", "innocent", "word in a format string", None, "possible"),
    Idiom("Cmpd", "innocent", "tag of others, compared", None, "possible"),
    Idiom("Prtd", "innocent", "tag of others, printed", None, "possible"),
    Idiom("Rqst", "innocent", "magic number in a global variable", None, "possible"),
    Idiom("Sgnr", "innocent", "signature in a block", None, "possible"),
    Idiom("NV12", "innocent", "format of a picture in a switch", None, "possible"),
    Idiom("YUY2", "innocent", "format of a picture in a switch", None, "possible"),
    Idiom("MJPG", "innocent", "format of a picture in a switch", None, "possible"),
    Idiom("BERT", "byways", "name of a table, for a function that looks it up", None, "possible"),
    Idiom("expa", "byways", "constant of a cipher in the frame", None, "possible"),
    Idiom("te k", "byways", "constant of a cipher in the frame", None, "possible"),
)
"""None of them is a tag of the innocent driver, whatever the bytes say."""

DRIVERS = ("idioms", "ports", "framed", "innocent", "byways", "lanes", "depots", "shelves")

CALLS = {
    "Drct": (0x130F, 0x1307, 0x12AB, 0x126C, 0x1364, 0x1368),
    "Pol2": (0x1342, 0x1330, 0x12CD, 0x128D, 0x1394, 0x1398),
    "Wrap": (0x1369, 0x1350, 0x12FD, 0x12AE, 0x13B8, 0x13BC),
    "Wrp2": (0x137D, 0x1362, 0x131B, 0x12C1, 0x13CC, 0x13D0),
    "Fre1": (0x15B5, 0x153D, 0x1491, 0x1415, 0x15F0, 0x15F0),
    "LkNp": (0x10AB, 0x1094, 0x10A7, 0x107F, 0x10BC, 0x10BC),
    "LkEx": (0x1110, 0x10F5, 0x10E3, 0x10B3, 0x1124, 0x1124),
    "SelR": (0x13AD, 0x1384, 0x134C, 0x12E4, 0x1404, 0x1408),
    "SelW": (0x13AD, 0x1384, 0x134C, 0x12E4, 0x1404, 0x1408),
    "Prot": (0x13DF, 0x13AA, 0x136B, 0x1303, 0x143C, 0x1440),
    "Glbl": (0x1413, 0x13D4, 0x138C, 0x1323, 0x1470, 0x1474),
    "Tab2": (0x1447, 0x1402, 0x13B4, 0x134B, 0x14A8, 0x14AC),
    "Nblv": (0x119C, 0x1179, 0x118B, 0x1161, 0x11F0, 0x11F0),
    "LkPg": (0x10D8, 0x10BF, 0x10C4, 0x1098, 0x10EC, 0x10EC),
    "Ari0": (0x1580, 0x1511, 0x1469, 0x13F0, 0x15B4, 0x15B4),
    "Ari1": (0x1580, 0x1511, 0x1469, 0x13F0, 0x15B4, 0x15B4),
    "Tab1": (0x1447, 0x1402, 0x13B4, 0x134B, 0x14A8, 0x14AC),
    "Tab3": (0x1447, 0x1402, 0x13B4, 0x134B, 0x14A8, 0x14AC),
    "Keep": (0x147C, 0x1435, 0x13E1, 0x1370, 0x14F0, 0x14F4),
    "Tail": (0x1076, 0x1061, 0x107D, 0x1060, 0x1088, 0x1088),
    "Dyna": (0x14EE, 0x1497, 0x1439, 0x13C2, 0x1564, 0x1564),
    "Rptp": (0x1520, 0x14BE, None, None, None, None),
    "Ndme": (0x1101, 0x10F2, 0x10DD, 0x10D0, 0x1134, 0x1134),
    "Ndpr": (0x1135, 0x111F, 0x1111, 0x10F6, 0x116C, 0x116C),
    "Nblp": (0x1170, 0x1153, 0x1154, 0x112E, 0x11B4, 0x11B4),
    "Npbo": (0x11D3, 0x11A5, 0x11C3, 0x118B, 0x1238, 0x1238),
    "Stpl": (0x11FF, 0x11D0, 0x11E3, 0x11AC, 0x126C, 0x126C),
    "Vdpl": (0x122E, 0x11F6, 0x120F, 0x11D4, 0x129C, 0x129C),
    "Rtpl": (0x124D, 0x120A, 0x122B, 0x11E8, 0x12B8, 0x12B8),
    "Quot": (0x126D, 0x121E, 0x124B, 0x11FC, 0x12D4, 0x12D4),
    "Prio": (0x1290, 0x1235, 0x126D, 0x1212, 0x12F4, 0x12F4),
    "Ftpl": (0x12AE, 0x124A, 0x1292, 0x122D, 0x1310, 0x1310),
    "FrmM": (0x1149, 0x1125, 0x10E0, 0x10C4, 0x1140, 0x1140),
    "FrmL": (0x10D4, 0x10B3, 0x1080, 0x106F, 0x10C8, 0x10C8),
    "FrmD": (0x1084, 0x1063, 0x104D, 0x1045, 0x106C, 0x106C),
    "Innc": (0x114A, 0x112D, 0x111A, 0x1101, 0x117C, 0x117C),
    "Sw00": (0x1263, 0x126B, 0x125A, 0x120B, 0x134C, 0x134C),
    "Sw01": (0x12BD, 0x126B, 0x125A, 0x120B, 0x134C, 0x134C),
    "Sw02": (0x1290, 0x126B, 0x125A, 0x120B, 0x134C, 0x134C),
    "Sw03": (0x129F, 0x126B, 0x125A, 0x120B, 0x134C, 0x134C),
    "Sw04": (0x1272, 0x126B, 0x125A, 0x120B, 0x134C, 0x134C),
    "Sw05": (0x12CC, 0x126B, 0x125A, 0x120B, 0x134C, 0x134C),
    "Sw06": (0x12DB, 0x126B, 0x125A, 0x120B, 0x134C, 0x134C),
    "Sw07": (0x12AE, 0x126B, 0x125A, 0x120B, 0x134C, 0x134C),
    "Sw08": (0x12F9, 0x126B, 0x125A, 0x120B, 0x134C, 0x134C),
    "Sw09": (0x1281, 0x126B, 0x125A, 0x120B, 0x134C, 0x134C),
    "Sw10": (0x12EA, 0x126B, 0x125A, 0x120B, 0x134C, 0x134C),
    "Sw11": (0x1308, 0x126B, 0x125A, 0x120B, 0x134C, 0x134C),
    "Rlc1": (0x11D6, 0x118F, 0x118B, 0x1146, 0x11D4, 0x11D4),
    "Dep1": (0x11AC, 0x1168, 0x1166, 0x1121, 0x11EC, 0x11EC),
    "StPr": (0x11D6, 0x1191, 0x11B5, 0x115F, 0x1214, 0x1214),
    "CbLk": (0x1233, 0x11E8, 0x11FE, 0x11A2, 0x1280, 0x1280),
    "RtIn": (0x1185, 0x1147, 0x116C, 0x111D, 0x11A8, 0x11A8),
    "StVr": (0x12BF, 0x1237, 0x129C, 0x120C, 0x1324, 0x1324),
    "StSf": (0x12DF, 0x124D, 0x12BC, 0x1221, 0x1340, 0x1340),
    "OStd": (0x12FA, 0x125E, 0x12D9, 0x1233, 0x1350, 0x1350),
    "ObMd": (0x130A, 0x126D, 0x12F9, 0x1244, 0x1360, 0x1360),
    "OUnk": (0x13C8, 0x1307, 0x13B0, 0x12CB, 0x1418, 0x1418),
    "PtrV": (0x1321, 0x1283, 0x1322, 0x125E, 0x1378, 0x1378),
    "PtrT": (0x1344, 0x129D, 0x1342, 0x127A, 0x139C, 0x139C),
    "OutP": (0x1362, 0x12B5, 0x135D, 0x1291, 0x13BC, 0x13BC),
    "OwnC": (0x138E, 0x12DA, 0x138E, 0x12B3, 0x13E4, 0x13E4),
    "FtbA": (0x1123, 0x10EC, 0x1146, 0x1102, 0x1158, 0x1158),
    "FtbB": (0x1123, 0x10EC, 0x1146, 0x1102, 0x1158, 0x1158),
    "FtbC": (0x1123, 0x10EC, 0x1146, 0x1102, 0x1158, 0x1158),
    "FtbD": (0x1123, 0x10EC, 0x1146, 0x1102, 0x1158, 0x1158),
    "PtrR": (0x1075, 0x1065, 0x107B, 0x1065, 0x1090, 0x1090),
    "DynM": (0x10F7, 0x10BE, 0x110F, 0x10D3, 0x1100, 0x1100),
}
"""RVA of the call that gets the tag, in the images for x64, x86 and ARM64, of each at -O2 and -Os, as LLVM's objdump
shows them; None where the way does not exist. Of several calls it is the first."""

FETCHED = {
    "IdiomsAllocatePool2": "ExAllocatePool2",
    "LanesAllocatePool": "ExAllocatePoolWithTag",
    "ShelvesAllocate": "ExAllocatePoolWithTag",
}
"""Variables in which drivers keep functions that they look up by name."""

BEFORE_REWRITTEN_CALL_BYTES = 7
"""Of a rewritten import call: the load of r10 stands before it."""


def call_rva(tag, architecture, level):
    return CALLS[tag][2 * ARCHITECTURES.index(architecture) + LEVELS.index(level)]


def idioms_of(architecture):
    return [idiom for idiom in IDIOMS if architecture in idiom.architectures]


def image_paths(architecture, level):
    return [build.IMAGES / architecture / f"{driver}-{level}.sys" for driver in DRIVERS]


def forge_machine(architecture, paths, *, retpolines=None):
    """A machine with these drivers, started: pointers fetched, framework bound.

    ``retpolines`` True or False: import calls rewritten in that way; None: as they are in the file.
    """
    machine = forge("quiet", build=BUILDS[architecture], arch=FORGE_ARCH[architecture], drivers=paths)
    pointer_bytes = 4 if architecture == "x86" else 8
    for name, address in machine.addresses.items():
        fetched = FETCHED.get(name.partition("!")[2])
        if fetched is not None:
            pointer = machine.addresses[f"function:{fetched}"]
            machine.write_virtual(address, pointer.to_bytes(pointer_bytes, "little"))
    if retpolines is not None:
        rewritten = [rewrite_import_calls(machine, path.name, retpolines=retpolines) for path in paths]
        assert any(rewritten)
    return machine


def all_tags():
    return [*(idiom.tag for idiom in (*IDIOMS, *LOOK_ALIKES)), *LIBRARY_TAGS]


def find_owners(folder, *sources):
    """What `poolleak find` says of all tags: tag -> module without its level -> the owner as in the JSON."""
    output = folder / "owners.json"
    main(["find", *all_tags(), *map(str, sources), "--format", "json", "-o", str(output)])
    document = json.loads(output.read_text(encoding="utf-8"))
    return {
        entry["tag"]: {owner["module"].split("-")[0]: owner for owner in entry["owners"]} for entry in document["tags"]
    }


def grade_of(owners, idiom):
    """The grade of the idiom's driver for its tag, or None."""
    owner = owners[idiom.tag].get(idiom.driver)
    return owner and owner["confidence"]


def wrong_grades(owners, wanted):
    """Which idioms got another grade than their code justifies."""
    graded = [(idiom, grade_of(owners, idiom)) for idiom in wanted]
    return [(idiom.tag, idiom.name, grade) for idiom, grade in graded if not idiom.accepts(grade)]


def named_wrongly(owners):
    """Modules that are named, at likely or better, for a tag that another one has: (tag, module, grade)."""
    return [
        (idiom.tag, module, owner["confidence"])
        for idiom in IDIOMS
        for module, owner in owners[idiom.tag].items()
        if module != idiom.driver and owner["confidence"] != "possible"
    ]
