"""Sample Windows kernel drivers: C sources, the committed images, and the build that ties them together."""

from __future__ import annotations
