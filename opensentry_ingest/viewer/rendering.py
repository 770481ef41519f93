"""The templates, in which every value is escaped."""

from pathlib import Path

import jinja2

from opensentry_ingest import formats
from opensentry_ingest.viewer import charts, html


def templates() -> jinja2.Environment:
    """Return the templates, with the filters and functions that they use."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        auto_reload=False,
        finalize=html.finalize,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        ago=html.ago,
        duration=formats.milliseconds,
        json=html.as_json,
        moment=html.moment,
        money=formats.dollars,
        number=formats.count,
        rate=formats.rate,
    )
    environment.globals.update(
        bars=charts.bars,
        duration=formats.milliseconds,
        lines=charts.lines,
        meter=charts.meter,
        money=formats.dollars,
        percent=formats.percent,
        scale=charts.scale,
        span=charts.span,
        sparkline=charts.sparkline,
    )
    return environment
