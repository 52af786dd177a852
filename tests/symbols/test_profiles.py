"""The table of known kernels against the symbols it was made from."""

from __future__ import annotations

import json
import lzma

import pytest

from pykdext.symbols.chain import ProfileSymbols, SymbolChain
from pykdext.symbols.profiles import load_profile

KERNEL_19041_804 = ("5278AFF86C341677D7D7835C85B7B844", 1)


def test_a_real_kernel_is_known():
    profile = load_profile(*KERNEL_19041_804)
    assert profile.version == "10.0.19041.804"
    # The same numbers stand in the debugger data block of a real dump of this kernel.
    assert profile.rvas["PoolTrackTable"] == 0xC168A8
    assert profile.rvas["KiProcessorBlock"] == 0xCFDC80
    assert load_profile(KERNEL_19041_804[0].lower(), 1) == profile


def test_an_unknown_kernel_is_none():
    assert load_profile("0" * 32, 1) is None
    assert load_profile(KERNEL_19041_804[0], 2) is None


def test_every_kernel_has_the_tag_tables():
    import pykdext.symbols.profiles as profiles

    table = json.loads(profiles.pkgutil.get_data("pykdext.symbols", "data/kernels.json"))
    assert len(table["kernels"]) == 213
    needed = {"PoolTrackTable", "PoolTrackTableSize", "ExPoolTagTables", "PoolTrackTableExpansion"}
    for key in table["kernels"]:
        assert needed <= set(load_profile(key[:32], int(key[32:], 16)).rvas), key


def test_the_first_source_that_knows_answers():
    profile = load_profile(*KERNEL_19041_804)

    class Nobody:
        name = "nobody"

        def find_address(self, symbol):
            return None

    chain = SymbolChain([Nobody(), ProfileSymbols(profile, 0xFFFFF80000000000)])
    located = chain.find("PoolTrackTable")
    assert (located.address, located.source) == (0xFFFFF80000C168A8, "profile")
    assert chain.find("NoSuchThing") is None


def test_the_symbol_files_of_real_kernels_agree(evidence):
    files = sorted((evidence / "isf").glob("*.json.xz"))
    if not files:
        pytest.skip("no symbol files in the evidence folder")
    for path in files:
        symbols = json.loads(lzma.decompress(path.read_bytes()))["symbols"]
        guid = path.name[: -len("-1.json.xz")].rsplit("_", 1)[1]
        profile = load_profile(guid, 1)
        assert profile is not None, path.name
        for name, rva in profile.rvas.items():
            assert symbols[name]["address"] == rva, (path.name, name)
