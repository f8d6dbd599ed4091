"""`millirec recommend`: one question to a bundle, without a server."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from millirec.cli.console import note, print_json, table
from millirec.cli.engine import cascade_config
from millirec.data.errors import QueryError

if TYPE_CHECKING:
    from millirec.bundle import Bundle
    from millirec.cascade.cascade import CascadeConfig
    from millirec.cascade.query import Query, Ranking


def recommend(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.", metavar="BUNDLE")],
    user: Annotated[str | None, typer.Option(help="A user whose history is in --data.")] = None,
    items: Annotated[str | None, typer.Option(help="A history instead: item ids, oldest first, with commas.")] = None,
    data: Annotated[Path, typer.Option(help="The data folder of `millirec serve`; only read.")] = Path("millirec-data"),
    k: Annotated[int, typer.Option("-k", help="How many items.")] = 10,
    exclude: Annotated[str, typer.Option(help="Item ids that must not come back, with commas.")] = "",
    cascade: Annotated[
        Path | None, typer.Option(help="A TOML file with a cascade to use instead of the bundle's own.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
    trace: Annotated[bool, typer.Option("--trace", help="Show the stages, with counts and microseconds.")] = False,
) -> None:
    """Recommend items to a user of a data folder, or to a history given by hand."""
    from millirec.bundle import open_bundle
    from millirec.cascade.query import Query

    if (user is None) == (items is None):
        raise QueryError("recommend needs one of --user and --items", "give --user U, or --items A,B")
    query = Query(user=user, items=None if items is None else _ids(items), k=k, exclude=_ids(exclude))
    opened = open_bundle(bundle)
    ranking = _ask(opened, query, None if user is None else data, cascade_config(cascade))
    if json:
        answer: dict[str, object] = {
            "model": opened.name,
            "model_version": opened.version,
            "source": ranking.source,
            "items": _told(ranking),
        }
        print_json(answer | ({"stages": ranking.trace} if trace else {}))
        return
    _show(opened, ranking, trace=trace)


def _told(ranking: "Ranking") -> list[dict[str, object]]:
    told: list[dict[str, object]] = [
        {"item": item, "score": score} for item, score in zip(ranking.items, ranking.scores, strict=True)
    ]
    if ranking.propensities is not None:
        for entry, propensity in zip(told, ranking.propensities, strict=True):
            entry["propensity"] = propensity
    return told


def _ids(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _ask(bundle: "Bundle", query: "Query", data: Path | None, cascade: "CascadeConfig | None") -> "Ranking":
    from millirec.data.history import HistoryLimits
    from millirec.engine.engine import Engine
    from millirec.engine.state import StateStore, StoreSettings

    limits = HistoryLimits().covering(bundle.max_length)
    settings = StoreSettings(limits=limits)
    with ExitStack() as stack:
        store = StateStore.temporary(settings) if data is None else StateStore(data, settings, read_only=True)
        engine = Engine(bundle, stack.enter_context(store), cascade=cascade)
        return engine.recommend(query)


def _show(bundle: "Bundle", ranking: "Ranking", *, trace: bool) -> None:
    features, rows = bundle.catalog.features, bundle.catalog.vocabulary.rows(ranking.items).tolist()
    texts = next((feature.texts for feature in features.values() if feature.kind == "text"), None)
    lines = []
    for place, (item, score, row) in enumerate(zip(ranking.items, ranking.scores, rows, strict=True), start=1):
        lines.append([str(place), escape(item), *([escape(texts[row])] if texts else []), f"{score:.4f}"])
    columns = ["", "item", *(["title"] if texts else []), "score"]
    table(f"{bundle.name} {bundle.version}: {ranking.source}", columns, lines)
    if ranking.source == "popular":
        note("nothing known to the model in this history: these are the most popular items")
    if trace:
        stages = [[s.name, f"{s.n_in:,}", f"{s.n_out:,}", f"{s.microseconds:,.0f}"] for s in ranking.trace]
        table("stages", ["stage", "in", "out", "us"], stages)
