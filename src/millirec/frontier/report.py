"""The report: one HTML page that needs nothing but itself."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

import msgspec

from millirec.bundle.counts import CountsEntry
from millirec.data.lineage import Step
from millirec.frontier.assets import POLICY, SCRIPT, STYLE
from millirec.frontier.drawing import PLOTS, colour, plot, said, symbol
from millirec.frontier.quality import COVERAGE, NDCG, RECALL
from millirec.frontier.rankers import MadeRanker
from millirec.frontier.result import Entry, Figures, Frontier
from millirec.frontier.speed import Spread
from millirec.frontier.trials import section

_PLOT_TITLES = ("Quality against p99", "Quality against size", "Quality against requests/s")


def page(found: Frontier) -> str:
    """The whole page. Every text that comes from outside is escaped."""
    from plotly.offline import get_plotlyjs  # part of the workshop's install only

    title = f"Frontier: {escape(found.name)}"
    plots = [{"id": f"plot{i}", **plot(found, axis)} for i, axis in enumerate(PLOTS)]
    body = "".join((_verdict(found), _plots(), _table(found), section(found.search), _details(found), _how(found)))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><title>{title}</title>'
        f"<style>{STYLE}</style></head><body><h1>{title}</h1>{body}"
        f'<script type="application/json" id="plots">{_embedded(plots)}</script>'
        f"<script>{get_plotlyjs()}</script><script>{SCRIPT}</script></body></html>"
    )


def _embedded(value: Any) -> str:
    """JSON that cannot end the element that it stands in."""
    return msgspec.json.encode(value).decode().replace("<", "\\u003c")


def _verdict(found: Frontier) -> str:
    choice = found.choice
    limits = {k: v for k, v in msgspec.to_builtins(found.limits).items() if v is not None}
    limits |= {"gate": found.gate} if found.gate is not None else {}
    asked = ", ".join(f"{name} {value:g}" for name, value in limits.items()) or "none"
    if choice.chosen is None:
        return (
            f'<div class="verdict none"><p><b>Nothing fits:</b> {escape(choice.reason)}.</p>'
            f"<p>Limits: {asked}. The bundle of {escape(str(choice.nearest))} lies in <code>nearest/</code>.</p></div>"
        )
    second = f", {escape(choice.runner_up)}, instead" if choice.runner_up else ""
    return (
        f'<div class="verdict"><p><b>Chosen: {escape(choice.chosen)}</b>, because {escape(choice.reason)}.</p>'
        f"<p>Runner-up{second}: {escape(choice.runner_up_costs)}.</p>"
        f"<p>Limits: {asked}. The bundle lies in <code>chosen/</code>.</p></div>"
    )


def _plots() -> str:
    cells = "".join(
        f'<figure style="margin:0"><h3>{title}</h3><div id="plot{i}"></div></figure>'
        for i, title in enumerate(_PLOT_TITLES)
    )
    return (
        f'<section><h2>The frontier</h2><div class="plots">{cells}</div><p class="q">Filled marks are on the Pareto '
        "front of their plot: nothing else is better in both. Bars: 95 % intervals over users, and the least and the "
        "most of all rounds. Dashed lines: limits. Touch a mark for its lineage.</p></section>"
    )


_COLUMNS = (
    "variant", "NDCG@10", "to teacher", "kept", "recall@10", "coverage@10", "p50 ms", "p90 ms", "p99 ms",
    "requests/s", "CPU s / 1,000", "memory MiB", "bundle MB", "start s", "training s", "compression s", "remarks",
)  # fmt: skip


def _table(found: Frontier) -> str:
    head = "".join(f'<th scope="col"><button type="button">{name}</button></th>' for name in _COLUMNS)
    rows = "".join(_row(i, entry, found) for i, entry in enumerate(found.variants))
    return (
        f'<section><h2>All figures</h2><div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody>'
        '</table></div><p class="q">Touch a heading to sort. Small: 95 % intervals and p-values of quality, median '
        "absolute deviations of speed.</p></section>"
    )


def _row(i: int, entry: Entry, found: Frontier) -> str:
    name = entry.figures.name
    marked = ' class="chosen"' if name == found.choice.chosen else ""
    misses = [str(miss) for miss in found.choice.misses.get(name, ())]
    notes = [*(f"fails {miss}" for miss in misses), *entry.remarks]
    mark = f'<span class="mark" style="color:{colour(i)}">{symbol(i)[1]}</span>'
    cells = [(name, f"{mark}{escape(name)}"), *_quality_cells(entry.figures), *_speed_cells(entry.figures)]
    told = f'<td class="notes" data-v="{len(notes)}">{"<br>".join(map(escape, notes))}</td>'
    return f"<tr{marked}>{''.join(_cell(value, shown) for value, shown in cells)}{told}</tr>"


def _cell(value: str, shown: str) -> str:
    return f'<td data-v="{escape(value)}">{shown}</td>'


def _quality_cells(figures: Figures) -> Iterator[tuple[str, str]]:
    quality = figures.quality
    ndcg, recall, coverage = (quality.figures[name] for name in (NDCG, RECALL, COVERAGE))
    change = quality.to_teacher[NDCG]
    yield str(ndcg.value), f"{ndcg.value:.4f} <small>{ndcg.low:.4f} to {ndcg.high:.4f}</small>"
    yield str(change.difference), f"{change.difference:+.4f} <small>p = {change.p_value:.2g}</small>"
    yield str(quality.kept.value), f"{quality.kept.value:.2%} <small>from {quality.kept.low:.2%}</small>"
    yield str(recall.value), f"{recall.value:.4f} <small>{recall.low:.4f} to {recall.high:.4f}</small>"
    yield str(coverage.value), f"{coverage.value:.4f} <small>{coverage.low:.4f} to {coverage.high:.4f}</small>"


def _speed_cells(figures: Figures) -> Iterator[tuple[str, str]]:
    speed = figures.speed
    yield from (_spread(one, 3) for one in (speed.p50_ms, speed.p90_ms, speed.p99_ms))
    yield _spread(speed.requests_per_second, 0)
    yield _spread(speed.cpu_seconds, 3)
    yield _spread(speed.memory_mb, 0)
    yield str(figures.bundle_bytes), f"{figures.bundle_bytes / 1e6:,.3f}"
    yield _spread(speed.start_seconds, 2)
    yield str(figures.training_seconds), f"{figures.training_seconds:,.0f}"
    yield str(figures.compression_seconds), f"{figures.compression_seconds:,.1f}"


def _spread(one: Spread, digits: int) -> tuple[str, str]:
    return str(one.median), f"{one.median:,.{digits}f} <small>± {one.mad:,.{digits}f}</small>"


def _details(found: Frontier) -> str:
    return f"<section><h2>Each variant</h2>{''.join(map(_detail, found.variants))}</section>"


def _detail(entry: Entry) -> str:
    figures = entry.figures
    remarks = "".join(f"<li>{escape(remark)}</li>" for remark in entry.remarks)
    fronts = ", ".join(entry.fronts) or "none"
    parts = [
        f"<p>On the front of: {fronts}. Version <code>{escape(figures.content_hash[:12])}</code>; "
        f"{figures.parameters:,} parameters, {figures.zeros:.1%} of the floating-point ones 0.</p>",
        f"<ul>{remarks}</ul>" if remarks else "",
        f"<h3>Lineage</h3>{_lineage(figures.lineage)}",
        _counts(figures.counts),
        _ranker(figures.ranker),
        f"<h3>Differences to the teacher</h3>{_differences(figures)}",
        f"<h3>Stages of an answer, microseconds</h3>{_stages(figures)}",
        f"<h3>Operators of its graphs</h3><p>{_operators(figures.kernels)}</p>",
        f"<h3>Rebuild it: <code>millirec frontier -c</code> with</h3><pre>{escape(entry.config)}</pre>",
    ]
    return f"<details><summary>{escape(figures.name)}</summary>{''.join(parts)}</details>"


def _lineage(steps: Iterable[Step]) -> str:
    lines = "".join(f"<li>{escape(said(step, 400))}, {step.seconds:,.1f} s</li>" for step in steps)
    return f"<ol>{lines}</ol>"


def _operators(kernels: Mapping[str, int]) -> str:
    return ", ".join(f"{escape(name)} {n}" for name, n in kernels.items())


def _counts(counts: Sequence[CountsEntry]) -> str:
    """What is told of counts beside the network; nothing where there are none."""
    lines = [
        f"<li>{escape(str(one.model['kind']))}: weight {one.gain.weight:g}, floor {one.gain.floor:g}</li>"
        for one in counts
    ]
    return f"<h3>Counted beside it</h3><ul>{''.join(lines)}</ul>" if lines else ""


def _ranker(ranker: MadeRanker | None) -> str:
    """What is told of the second stage; nothing where there is none."""
    if ranker is None:
        return ""
    told = {"AUC": ranker.metrics.get("auc"), "log loss": ranker.metrics.get("log_loss")}
    offline = ", ".join(f"{name} {value:.4f}" for name, value in told.items() if value is not None)
    shown = f" On its validation rows: {offline}." if offline else ""
    if ranker.pre_ranker is not None:
        shown += f" A pre-ranker of the kind {escape(str(ranker.pre_ranker['kind']))} chooses its candidates."
    return (
        f"<h3>The ranker: {escape(str(ranker.model['kind']))}</h3><p>{ranker.parameters:,} parameters, "
        f"{ranker.zeros:.1%} of the floating-point ones 0; hidden layers served in {escape(ranker.weights)}.{shown}</p>"
        f"{_lineage(ranker.lineage)}<p>Operators: {_operators(ranker.kernels)}</p>"
    )


def _differences(figures: Figures) -> str:
    rows = [
        (name, f"{c.difference:+.4f}", f"{c.low:+.4f} to {c.high:+.4f}", f"{c.p_value:.2g}")
        for name, c in figures.quality.to_teacher.items()
    ]
    return _plain_table(("figure", "difference", "95 % interval", "p"), rows)


def _stages(figures: Figures) -> str:
    rows = [(name, *(f"{value:,.1f}" for value in found)) for name, found in figures.speed.stages.items()]
    return _plain_table(("stage", "p50", "p90", "p99"), rows)


def _plain_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    titles = "".join(f"<th>{escape(name)}</th>" for name in head)
    lines = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{titles}</tr></thead><tbody>{lines}</tbody></table></div>'


def _how(found: Frontier) -> str:
    measure, host, quality = found.measure, found.host, found.variants[0].figures.quality
    asked = {"users": f"{measure.known_users:,} stored users", "mixed": "an event, then a question of its user"}
    paced = f"at {measure.rate:g}/s, random arrivals" if measure.rate else "one request after the other"
    lines = [
        f"Quality: {quality.n_targets:,} targets of {quality.n_users:,} users, {escape(measure.part)} part, "
        f"{escape(found.protocol)}; replayed through the engine of each bundle, the whole catalogue ranked.",
        f"Speed: {measure.rounds} rounds over all variants in changing order, the teacher first and last in each; a "
        f"server of its own on one core ({escape(str(measure.core))}), the generator on another; {measure.warm_up:g} s "
        f"warm-up, {measure.seconds:g} s with {measure.connections} connections (requests/s, CPU, memory), "
        f"{measure.seconds:g} s {paced} (latencies); {asked.get(measure.ask, 'the history in each request')}, "
        f"{measure.history} events each. Medians over the rounds.",
        f"Noisy: repeated figures differ by more than {measure.spread:.0%}, the server had not its whole core, or the "
        "generator was the slower part.",
        f"Machine: {escape(host.processor)}, {host.cores} cores, caches "
        f"{escape(', '.join(f'{k} {v}' for k, v in host.caches.items()) or 'unknown')}, {host.memory_gib:g} GiB, "
        f"{escape(host.kernel)}, Python {escape(host.python)}, millirec {escape(host.millirec)}, "
        f"{escape(', '.join(f'{k} {v}' for k, v in host.packages.items()))}.",
        f"Data {escape(found.data[:12])}. Made {escape(found.created)} in {found.seconds:,.0f} s.",
    ]
    return f"<section><h2>How it was measured</h2>{''.join(f'<p>{line}</p>' for line in lines)}</section>"
