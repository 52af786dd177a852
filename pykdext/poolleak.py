"""``!py poolleak``: the debugger looks for this file along PATH; installing puts a copy into the scripts folder."""

from __future__ import annotations

import sys

from pykdext.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
