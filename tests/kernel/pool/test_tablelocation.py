"""Where the tag tables are, and what is said where nothing tells."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pykdext.errors import SymbolNotFoundError
from pykdext.kernel.kernel import Kernel
from pykdext.kernel.pool.tablelocation import locate_tag_tables
from pykdext.symbols.chain import SymbolChain
from pykdext.symbols.download import render_url
from pykdext.symbols.folders import store_parts
from pykdext.symbols.identity import PdbName
from tests.helpers.segments import SegmentsTarget

NAME, GUID = "ntkrnlmp.pdb", "5278AFF86C341677D7D7835C85B7B844"


def test_the_hint_for_symbols_names_the_folder_that_is_looked_up(tmp_path):
    """An age of ten and more is hexadecimal: in one case wherever it is written."""
    pdb = PdbName(NAME, GUID, 0xAB)
    kernel = Kernel(SegmentsTarget({}), SimpleNamespace(pdb=pdb), SymbolChain([]))
    with pytest.raises(SymbolNotFoundError) as raised:
        locate_tag_tables(kernel)
    assert f"--symbols: {NAME} {GUID}ab" in str(raised.value)
    assert store_parts(str(tmp_path), pdb) == (NAME, f"{GUID}ab", NAME)
    assert render_url("https://symbols.example", pdb).endswith(f"/{NAME}/{GUID}ab/{NAME}")
