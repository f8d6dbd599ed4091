"""The three plots of a report as plain data for Plotly."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from millirec.data.lineage import Step
from millirec.frontier.quality import NDCG
from millirec.frontier.result import Entry, Figures, Frontier
from millirec.frontier.speed import Spread

COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#F0E442")
"""Okabe and Ito's palette, which people with any colour vision can tell apart; the palest last."""

SYMBOLS = (
    ("circle", "●"), ("square", "■"), ("diamond", "◆"), ("triangle-up", "▲"), ("cross", "✚"),
    ("x", "✖"), ("star", "★"), ("triangle-down", "▼"), ("pentagon", "⬟"), ("hexagon", "⬢"), ("bowtie", "⧓"),
)  # fmt: skip
"""Plotly's markers and the characters that look like them. As many as share no factor with the colours."""

_POSITIONS = ("top center", "bottom center", "middle right", "middle left")
_LOG_FROM = 8.0  # largest over smallest: beyond, the axis is logarithmic
_ROOM = 0.22  # of an axis, left free at both ends for labels
_PALE = "88"  # opacity of a bar
_GREY = "#767676"


@dataclass(frozen=True, slots=True)
class Axis:
    """What a plot holds against quality: its `name` among an entry's fronts, a title, the figure, and its limit."""

    name: str
    title: str
    spread: Callable[[Figures], Spread]
    limit: Callable[[Frontier], float | None]


def _bytes(figures: Figures) -> Spread:
    return Spread.of([figures.bundle_bytes / 1e6])


PLOTS = (
    Axis("p99", "p99 latency, ms", lambda one: one.speed.p99_ms, lambda all_: all_.limits.max_p99_ms),
    Axis("bytes", "bundle, MB", _bytes, lambda all_: all_.limits.max_bundle_mb),
    Axis("requests/s", "requests/s on one core", lambda one: one.speed.requests_per_second, lambda _: None),
)


def colour(i: int) -> str:
    """Of the variant number `i`."""
    return COLOURS[i % len(COLOURS)]


def symbol(i: int) -> tuple[str, str]:
    """Plotly's name, and a character that looks like it."""
    return SYMBOLS[i % len(SYMBOLS)]


def plot(found: Frontier, axis: Axis) -> dict[str, Any]:
    """`data` and `layout` of one plot: quality against `axis`."""
    points = [_point(i, entry, axis, found.choice.chosen) for i, entry in enumerate(found.variants)]
    return {"data": [_front_line(found.variants, axis), *points], "layout": _layout(found, axis)}


def _point(i: int, entry: Entry, axis: Axis, chosen: str | None) -> dict[str, Any]:
    figures, x = entry.figures, axis.spread(entry.figures)
    y = figures.quality.figures[NDCG]
    marker = symbol(i)[0] if axis.name in entry.fronts else f"{symbol(i)[0]}-open"
    label = f"<b>{figures.name} ✓</b>" if figures.name == chosen else figures.name
    return {
        "type": "scatter",
        "mode": "markers+text",
        "name": figures.name,
        "x": [x.median],
        "y": [y.value],
        "text": [label],
        "textposition": _POSITIONS[i % len(_POSITIONS)],
        "textfont": {"size": 12},
        "cliponaxis": False,
        "error_x": _error(x.high - x.median, x.median - x.low, colour(i)),
        "error_y": _error((y.high or y.value) - y.value, y.value - (y.low or y.value), colour(i)),
        "marker": {"color": colour(i), "symbol": marker, "size": 12, "line": {"width": 1.5, "color": colour(i)}},
        "customdata": [_hover(figures)],
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def _error(above: float, below: float, tint: str) -> dict[str, Any]:
    return {
        "type": "data", "symmetric": False, "array": [above], "arrayminus": [below],
        "color": tint + _PALE, "thickness": 1, "width": 3,
    }  # fmt: skip


def _front_line(entries: Sequence[Entry], axis: Axis) -> dict[str, Any]:
    on = sorted(
        (axis.spread(entry.figures).median, entry.figures.quality.figures[NDCG].value)
        for entry in entries
        if axis.name in entry.fronts
    )
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "Pareto front",
        "x": [x for x, _ in on],
        "y": [y for _, y in on],
        "line": {"color": _GREY, "width": 1.5, "dash": "dot"},
        "hoverinfo": "skip",
    }


def _layout(found: Frontier, axis: Axis) -> dict[str, Any]:
    limits = [_limit("x", axis.limit(found)), _limit("y", found.limits.min_quality)]
    line = {"gridcolor": "#e4e4e4", "linecolor": "#444", "ticks": "outside", "automargin": True}
    return {
        "height": 420,
        "margin": {"l": 56, "r": 16, "t": 16, "b": 48},
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": "#1d2330"},
        "paper_bgcolor": "#fff",
        "plot_bgcolor": "#fff",
        "hoverlabel": {"align": "left", "bgcolor": "#fff", "font": {"size": 12}},
        "xaxis": {"title": {"text": axis.title}, **_scale(found, axis), **line},
        "yaxis": {"title": {"text": "NDCG@10"}, **line},
        "showlegend": False,
        "shapes": [shape for shape in limits if shape is not None],
    }


def _scale(found: Frontier, axis: Axis) -> dict[str, Any]:
    """Type and range of the axis: all that was measured, and room for labels."""
    spreads = [axis.spread(entry.figures) for entry in found.variants]
    low, high = min(one.low for one in spreads), max(one.high for one in spreads)
    wide = low > 0 and high > _LOG_FROM * low
    ends = np.log10([low, high]) if wide else np.array([low, high])
    room = _ROOM * max(float(ends[1] - ends[0]), 0.02 * abs(float(ends[1])) or 1.0)
    start = float(ends[0]) - room
    return {"type": "log" if wide else "linear", "range": [start if wide else max(start, 0.0), float(ends[1]) + room]}


def _limit(axis: str, value: float | None) -> dict[str, Any] | None:
    """A dashed line across the whole plot."""
    if value is None:
        return None
    ends = {"x0": value, "x1": value, "y0": 0, "y1": 1, "yref": "paper"} if axis == "x" else {
        "x0": 0, "x1": 1, "xref": "paper", "y0": value, "y1": value,
    }  # fmt: skip
    return {"type": "line", **ends, "line": {"color": "#D55E00", "width": 1, "dash": "dash"}}


def _hover(figures: Figures) -> str:
    quality, speed = figures.quality.figures[NDCG], figures.speed
    lines = [
        f"<b>{escape(figures.name)}</b>",
        f"NDCG@10 {quality.value:.4f} ({quality.low:.4f} to {quality.high:.4f})",
        f"p99 {speed.p99_ms.median:.2f} ms, {speed.requests_per_second.median:,.0f} requests/s",
        f"{figures.bundle_bytes / 1e6:.3g} MB, {speed.memory_mb.median:,.0f} MiB in memory",
        *(f"{number}. {escape(said(step))}" for number, step in enumerate(figures.lineage, start=1)),
    ]
    if figures.ranker is not None:
        lines.append(f"ranker {escape(str(figures.ranker.model['kind']))}, served in {escape(figures.ranker.weights)}")
        lines += [f"{number}. {escape(said(step))}" for number, step in enumerate(figures.ranker.lineage, start=1)]
    return "<br>".join(lines)


def said(step: Step, most: int = 90) -> str:
    """A step of a lineage in one short line: its name and its plain settings."""
    plain = {k: v for k, v in step.settings.items() if k != "kind" and isinstance(v, str | int | float) and v != ""}
    told = ", ".join(f"{key} {f'{value:g}' if isinstance(value, float) else value}" for key, value in plain.items())
    text = f"{step.name}: {told}" if told else step.name
    return text if len(text) <= most else f"{text[: most - 1]}…"
