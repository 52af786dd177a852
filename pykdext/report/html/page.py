"""How a page is put together: templates, their filters, style, scripts and charts in one document.

The page fetches nothing, and its Content-Security-Policy lets it fetch nothing: only the scripts whose hashes it names
may run. Every text is escaped; characters that hide or turn text are shown as escape sequences.
"""

from __future__ import annotations

import base64
import hashlib
from datetime import datetime
from functools import lru_cache
from typing import Any, Iterator, Mapping, Optional, Sequence

import jinja2
import markupsafe
import plotly.offline

from pykdext.model import Origin
from pykdext.printable import make_visible
from pykdext.report.html.charts import Chart
from pykdext.units import (
    format_address,
    format_bytes,
    format_change,
    format_count,
    format_duration,
    format_moment,
    format_rate,
    format_share,
)


class _Script(markupsafe.Markup):
    """JavaScript of ours or of plotly, as it stands in the page."""

    @property
    def hash_source(self) -> str:
        """What a Content-Security-Policy calls this script."""
        digest = hashlib.sha256(self.encode("utf-8")).digest()
        return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def iter_page(template: str, origin: Origin, charts: Mapping[str, Sequence[Chart]], **values: Any) -> Iterator[str]:
    """The page of a template in pieces; ``charts`` are those of each of its sections. Only with one it has plotly."""
    environment = _open_environment()
    figures = [chart.figure for section in charts.values() for chart in section]
    scripts = [_load_script(environment, "tables.js")]
    if figures:
        scripts += [_Script(plotly.offline.get_plotlyjs()), _load_script(environment, "charts.js")]
    yield from environment.get_template(template).generate(
        origin=origin,
        charts=charts,
        figures=figures,
        scripts=scripts,
        style=markupsafe.Markup(_load_text(environment, "style.css")),
        **values,
    )


@lru_cache(maxsize=1)
def _open_environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pykdext.report.html"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.filters.update(
        address=format_address,
        bytes=format_bytes,
        change=format_change,
        count=format_count,
        duration=format_duration,
        moment=_format_moment,
        rate=format_rate,
        share=format_share,
    )
    return environment


def _finalize(value: Any) -> Any:
    """Foreign text before it is escaped; what a macro made is ready."""
    return make_visible(value) if isinstance(value, str) and not isinstance(value, markupsafe.Markup) else value


def _format_moment(moment: Optional[datetime]) -> str:
    return format_moment(moment, unknown="not known")


def _load_text(environment: jinja2.Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _load_script(environment: jinja2.Environment, name: str) -> _Script:
    return _Script(_load_text(environment, name))
