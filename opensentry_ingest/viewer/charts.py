"""Charts as SVG, made on the server.

The rules that hold here: a chart begins at zero and its labels are round numbers; where nothing is known there is a
gap; every chart has a title, and a table with the same numbers; and positions across are in percent, so that a chart
fits any width while its text keeps its size.

What is made many times is an f-string, because Markup.format() takes ten times as long: in those are numbers, classes
of ours, and what `text()` has escaped.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, TypedDict

from markupsafe import Markup

from opensentry_ingest.formats import count, milliseconds
from opensentry_ingest.reading import ORIGIN, Buckets
from opensentry_ingest.viewer.html import text

Values = Sequence[float | Decimal | None]
"""One number for each bucket; None where nothing is known. Money is Decimal."""

Write = Callable[[Any], str]
"""How a value is written: a function of `formats`."""


class Series(TypedDict):
    """The numbers of one thing over time; without a name, those of all others."""

    name: str | None
    values: Values


class Data(TypedDict):
    """What a chart shows, as the data of a page hold it: when each bucket begins, and how long each is."""

    starts: Sequence[datetime]
    step_seconds: float
    series: Sequence[Series]


def data(buckets: Buckets, series: Mapping[str | None, Values]) -> Data:
    """Return what a chart shows: the values of each series, by its name, in the buckets of a period."""
    return {
        "starts": buckets.starts,
        "step_seconds": buckets.step.total_seconds(),
        "series": [{"name": name, "values": values} for name, values in series.items()],
    }


HEIGHT = 150
"""Of the plot, in pixels; below it are the labels of the times."""

MOST_TIMES = 6

OTHERS = "others"

COLOURS = ("s0", "s1", "s2", "s3", "s4", "s5")
"""The classes of series that differ in nothing but their name."""

_APART = [timedelta(minutes=minutes) for minutes in (5, 15, 30, 60, 180, 360, 720, 1440, 2880, 10080, 40320)]
"""How far apart the times below a chart may be."""


def bars(title: str, chart: Data, write: Write = count, kinds: Sequence[str] = COLOURS) -> Markup:
    """Return stacked bars over time.

    Args:
        title: what is counted.
        chart: the values.
        write: how a value is written.
        kinds: the class of each series, which is ours.
    """
    totals = [_total(values) for values in zip(*(each["values"] for each in chart["series"]), strict=True)]
    scale = ticks(float(max((value for value in totals if value is not None), default=0)))
    groups = []
    width = 100 / max(1, len(totals))
    for index, total in enumerate(totals):
        if total is None:
            continue
        group = _rect("zero", index * width, HEIGHT, width, 1)
        bottom = float(HEIGHT)
        for place, each in enumerate(chart["series"]):
            height = float(each["values"][index] or 0) / scale[-1] * HEIGHT
            if height:
                bottom -= height
                group += _rect(kinds[place], (index + 0.08) * width, bottom, width * 0.84, height)
        words = f"{_when(chart, index)}: {write(total)}"
        if len(chart["series"]) > 1 and total:
            words += f" ({_words(chart, index, write)})"
        groups.append(f"<g><title>{text(words)}</title>{group}{_rect('hit', index * width, 0, width, HEIGHT)}</g>")
    return _figure(title, chart, write, scale, Markup("".join(groups)), kinds)


def _rect(kind: str, x: float, y: float, width: float, height: float) -> str:
    return f'<rect class="{kind}" x="{x:.3f}%" y="{y:.2f}" width="{width:.3f}%" height="{height:.2f}"/>'


def lines(title: str, chart: Data, write: Write = count) -> Markup:
    """Return lines over time, with the arguments of `bars()`. A line has a gap where nothing is known."""
    known = [float(value) for each in chart["series"] for value in each["values"] if value is not None]
    scale = ticks(max(known, default=0))
    width = 100 / max(1, len(chart["starts"]))
    paths = []
    for place, each in enumerate(chart["series"]):
        path, command = "", "M"
        for index, value in enumerate(each["values"]):
            if value is None:
                command = "M"
                continue
            path += f"{command}{(index + 0.5) * width:.2f} {100 - float(value) / scale[-1] * 100:.2f}"
            # A point between two gaps is a line that ends where it begins: its round ends show it.
            path += "h0" if command == "M" else ""
            command = "L"
        paths.append(Markup('<path class="l{}" d="{}"/>').format(place, path))
    hits = (
        f"<g><title>{text(f'{_when(chart, index)}: {_words(chart, index, write)}')}</title>"
        f"{_rect('hit', index * width, 0, width, HEIGHT)}</g>"
        for index in range(len(chart["starts"]))
    )
    plot = Markup('<svg viewBox="0 0 100 100" preserveAspectRatio="none" width="100%" height="{}">{}</svg>{}').format(
        HEIGHT, Markup("").join(paths), Markup("".join(hits))
    )
    return _figure(title, chart, write, scale, plot)


def sparkline(values: Sequence[float | None], label: str) -> Markup:
    """Return small bars without axes, for a cell of a table."""
    most = max((value for value in values if value is not None), default=0) or 1
    bars = ((index, max(1.0, value / most * 20)) for index, value in enumerate(values) if value)
    rects = "".join(
        f'<rect x="{index + 0.1:.1f}" y="{20 - height:.2f}" width="0.8" height="{height:.2f}"/>'
        for index, height in bars
    )
    words, number = text(label), len(values)
    return Markup(
        f'<svg class="spark" role="img" aria-label="{words}" viewBox="0 0 {number} 20" preserveAspectRatio="none">'
        f'<title>{words}</title><path d="M0 19.75h{number}"/>{rects}</svg>'
    )


def meter(part: float, whole: float) -> Markup:
    """Return a bar for a share, beside the number that says it."""
    share = min(part / whole, 1) * 100 if whole else 0
    return Markup(
        '<svg class="meter" aria-hidden="true"><rect class="rest" width="100%" height="100%" rx="2"/>'
        f'<rect width="{share:.2f}%" height="100%" rx="2"/></svg>'
    )


def span(offset: float | None, length: float | None, whole: float, kind: str) -> Markup:
    """Return the bar of one row of a waterfall.

    Args:
        offset: when it began, in milliseconds after the beginning of the whole; None: unknown.
        length: how long it took, in milliseconds; None: it is a moment.
        whole: how long the whole took, in milliseconds.
        kind: the class of the mark, which is ours.
    """
    if offset is None:
        return Markup('<svg class="fall" aria-hidden="true"></svg>')
    left = min(max(offset / whole * 100, 0), 100) if whole else 0.0
    if length is None:
        mark = Markup('<circle class="{}" cx="{:.2f}%" cy="50%" r="4"/>').format(kind, left)
    else:
        wide = min(length / whole * 100, 100 - left) if whole else 100.0
        # The stroke keeps what is very short visible.
        mark = Markup('<rect class="{}" x="{:.2f}%" y="20%" width="{:.2f}%" height="60%" rx="1"/>').format(
            kind, left, wide
        )
    return Markup('<svg class="fall" aria-hidden="true">{}</svg>').format(mark)


def scale(whole: float, write: Write = milliseconds) -> Markup:
    """Return the axis above a waterfall: round numbers of milliseconds across the whole."""
    labels = Markup("").join(
        Markup('<text x="{:.2f}%" y="11" text-anchor="{}">{}</text>').format(
            tick / whole * 100, "middle" if tick else "start", write(tick)
        )
        for tick in ticks(whole)
        if whole and tick / whole < 0.96
    )
    return Markup('<svg class="scale" aria-hidden="true">{}</svg>').format(labels)


def ticks(most: float, about: int = 4) -> list[float]:
    """Return round numbers from zero to at least `most`: steps of 1, 2 or 5 times a power of ten."""
    if most <= 0:
        return [0, 1]
    power = 10.0 ** math.floor(math.log10(most / about))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power * about >= most * 0.999999)
    return [round(step * index, 12) for index in range(math.ceil(most / step - 1e-6) + 1)]


def _figure(
    title: str, chart: Data, write: Write, scale: Sequence[float], plot: Markup, kinds: Sequence[str] = COLOURS
) -> Markup:
    grid = Markup("").join(
        Markup('<line class="grid" x2="100%" y1="{0:.1f}" y2="{0:.1f}"/>{1}').format(
            HEIGHT - tick / scale[-1] * HEIGHT,
            Markup('<text x="-6" y="{:.1f}" text-anchor="end">{}</text>').format(
                HEIGHT - tick / scale[-1] * HEIGHT + 4, write(tick)
            ),
        )
        for tick in scale
        # Counts are whole: the chart of one event has no line at a half.
        if write is not count or tick == int(tick)
    )
    legend = Markup("").join(
        Markup('<li><svg aria-hidden="true"><rect class="{}" width="100%" height="100%" rx="2"/></svg> {}</li>').format(
            kinds[place], text(each["name"] or OTHERS)
        )
        for place, each in enumerate(chart["series"])
    )
    return Markup(
        '<figure class="chart"><figcaption>{}</figcaption>{}'
        '<svg role="img" aria-label="{}" height="{}">{}{}{}</svg>{}</figure>'
    ).format(
        text(title),
        Markup('<ul class="legend">{}</ul>').format(legend) if len(chart["series"]) > 1 else "",
        text(f"{title}; the numbers are in a table below"),
        HEIGHT + 22,
        grid,
        plot,
        _times(chart),
        _table(title, chart, write),
    )


def _times(chart: Data) -> Markup:
    """Return labels at round times below a plot."""
    step, number = timedelta(seconds=chart["step_seconds"]), len(chart["starts"])
    apart = next((each for each in _APART if step * number / each <= MOST_TIMES and each >= step), _APART[-1])
    labels = []
    for index, start in enumerate(chart["starts"]):
        if (start - ORIGIN) % apart:
            continue
        words = f"{start:%H:%M}" if start.hour or start.minute else f"{start.day} {start:%b}"
        share = index / number * 100
        anchor = "start" if share < 3 else "end" if share > 97 else "middle"
        label = Markup('<text x="{:.2f}%" y="{}" text-anchor="{}">{}</text>')
        labels.append(label.format(share, HEIGHT + 16, anchor, words))
    return Markup("").join(labels)


def _table(title: str, chart: Data, write: Write) -> Markup:
    head = Markup("").join(
        Markup('<th scope="col" class="n">{}</th>').format(text(each["name"] or OTHERS)) for each in chart["series"]
    )
    rows = Markup(
        "".join(
            f'<tr><th scope="row">{_when(chart, index)}</th>'
            + "".join(f'<td class="n">{text(write(each["values"][index]))}</td>' for each in chart["series"])
            + "</tr>"
            for index in range(len(chart["starts"]))
        )
    )
    return Markup(
        '<details class="numbers"><summary>Numbers</summary><table><caption class="hidden">{}</caption>'
        '<thead><tr><th scope="col">Time (UTC)</th>{}</tr></thead><tbody>{}</tbody></table></details>'
    ).format(text(title), head, rows)


def _when(chart: Data, index: int) -> str:
    start = chart["starts"][index]
    return f"{start.day} {start:%b}" if chart["step_seconds"] >= 86_400 else f"{start.day} {start:%b %H:%M}"


def _words(chart: Data, index: int, write: Write) -> str:
    return ", ".join(
        f"{each['name'] or OTHERS} {write(each['values'][index])}" for each in chart["series"] if each["values"][index]
    )


def _total(values: Values) -> Any:
    known: list[Any] = [value for value in values if value is not None]
    return sum(known) if known else None
