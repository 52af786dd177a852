"""How long tests may take: far more than bounded work needs on a loaded machine, far less than unbounded work.

How fast things are is what the benchmarks tell.
"""

from __future__ import annotations

import pytest

ends_soon = pytest.mark.timeout(120)
"""For input that would keep work without bounds busy for much longer."""
