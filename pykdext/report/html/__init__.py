"""Reports as pages of HTML that hold everything they need: open them without a network, print them, forward them.

Needs jinja2 and plotly (the extra ``html``).
"""

from __future__ import annotations

from pykdext.report.html.pages import (
    iter_batch_page,
    render_diff_page,
    render_memory_page,
    render_report_page,
    render_summary_page,
    render_trend_page,
)

__all__ = [
    "iter_batch_page",
    "render_diff_page",
    "render_memory_page",
    "render_report_page",
    "render_summary_page",
    "render_trend_page",
]
