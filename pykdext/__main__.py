"""``python -m pykdext`` (and ``!py -m pykdext``) is the command ``poolleak``."""

from __future__ import annotations

import sys

from pykdext.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
