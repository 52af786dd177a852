"""How a page is put together: templates, the words and filters that all of them use, style and script in one document.

The page fetches nothing, and its Content-Security-Policy lets it fetch nothing: only the script whose hash it names
may run. Every text is escaped; characters that hide or turn text are shown as escape sequences.
"""

from __future__ import annotations

import base64
import enum
import hashlib
from datetime import datetime
from functools import lru_cache
from typing import Any, Iterator, Optional

import jinja2
import markupsafe

from pykdext.model import Origin
from pykdext.printable import make_visible
from pykdext.report.poolnames import label_pool, label_total, list_totals, name_pool
from pykdext.report.sentences.owners import (
    GRADES,
    describe,
    describe_gap,
    describe_place,
    describe_vendor,
    find_address,
    list_identity,
    name_use,
)
from pykdext.units import (
    count_things,
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
    """JavaScript of ours, as it stands in the page."""

    @property
    def hash_source(self) -> str:
        """What a Content-Security-Policy calls this script."""
        digest = hashlib.sha256(self.encode("utf-8")).digest()
        return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def iter_page(template: str, origin: Origin, **values: Any) -> Iterator[str]:
    """The page of a template in pieces."""
    environment = _open_environment()
    yield from environment.get_template(template).generate(
        origin=origin,
        script=_Script(_load_text(environment, "tables.js")),
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
        things=count_things,
    )
    environment.globals.update(
        GRADES=GRADES,
        describe=describe,
        describe_gap=describe_gap,
        describe_place=describe_place,
        describe_vendor=describe_vendor,
        find_address=find_address,
        label_pool=label_pool,
        label_total=label_total,
        list_identity=list_identity,
        list_totals=list_totals,
        name_pool=name_pool,
        name_use=name_use,
    )
    return environment


def _finalize(value: Any) -> Any:
    """Foreign text before it is escaped, the word of an enum; what a macro made is ready."""
    value = value.value if isinstance(value, enum.Enum) else value
    return make_visible(value) if isinstance(value, str) and not isinstance(value, markupsafe.Markup) else value


def _format_moment(moment: Optional[datetime]) -> str:
    return format_moment(moment, unknown="not known")


def _load_text(environment: jinja2.Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]
