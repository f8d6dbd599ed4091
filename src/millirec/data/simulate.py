"""A simulator of logs with known truth, in memory or written in a stream."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from millirec.data.catalog import Catalog, Categorical, Feature, MultiValued, Numeric, Text, Vocabulary
from millirec.data.dataset import Dataset, Interactions
from millirec.data.errors import ConfigError
from millirec.data.folder import new_folder
from millirec.data.world import Events, Interests, SimulatedConfig, World, together

CAUSES = ("popularity", "interest", "sequence")
TAGS = 4
"""Tags that belong to a category."""

_ADJECTIVES = ("quiet", "red", "last", "hidden", "golden", "broken", "early", "silent", "wild", "paper")
_NOUNS = ("river", "garden", "engine", "winter", "island", "letter", "window", "forest", "signal", "harbour")
_ITEM_BLOCK = 100_000


@dataclass(frozen=True)
class Simulation:
    """A data set and the truth about it.

    `causes` uint8 (n,) indexes `CAUSES`; `probabilities` float32 (n,): the true chance of each event's item given the
    user's interests, the time and the item before it in the session: the entropy of a perfect model is
    `-log(probabilities).mean()`. `categories` int32 and `weights` float32 (epochs, n_users + 1, 3): what each user row
    wanted in each epoch; `epoch_starts` int64 (epochs,), ms.
    """

    dataset: Dataset
    causes: NDArray[np.uint8]
    probabilities: NDArray[np.float32]
    categories: NDArray[np.int32]
    weights: NDArray[np.float32]
    epoch_starts: NDArray[np.int64]


def simulate(config: SimulatedConfig) -> Simulation:
    """The whole log in memory. Same config, same log. Catalogues hold the items and users that have events."""
    world = World(config)
    parts: list[Events] = []
    interests: list[Interests] = []
    for part in world.run():
        if isinstance(part, Events):
            parts.append(part)
        else:
            interests.append(part)
    events = together(parts)
    user_kept, user_rows = _rows(events.users)
    item_kept, item_rows = _rows(events.items)
    users = np.concatenate([[0], user_kept])
    log = Interactions(user_rows, item_rows, events.times)
    categories = np.stack([i.categories[users] for i in interests])
    weights = np.stack([i.weights[users] for i in interests])
    categories[:, 0], weights[:, 0] = -1, 0
    return Simulation(
        Dataset.of(log, _catalog(world, item_kept), Catalog(Vocabulary([f"u{u}" for u in user_kept])), "simulated"),
        events.causes,
        events.probabilities,
        categories,
        weights,
        np.array([i.start for i in interests], np.int64),
    )


def _rows(codes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Distinct codes in order of first appearance, and the row (1..n) of each entry."""
    kept, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    rows = np.empty(len(kept), np.int32)
    rows[order] = np.arange(1, len(kept) + 1, dtype=np.int32)
    return kept[order], rows[inverse]


@dataclass(frozen=True, slots=True)
class _Features:
    """Of a run of items: `tags` bool (n, TAGS) within the category, `vectors` float32 (n, dim)."""

    tags: NDArray[np.bool_]
    titles: list[str]
    vectors: NDArray[np.float32]


def _features(world: World, block: int) -> _Features:
    """The features of the items of one block; each block has its own generator, so that it can be made alone."""
    config = world.config
    low, high = block * _ITEM_BLOCK, min((block + 1) * _ITEM_BLOCK, config.items)
    rng = np.random.default_rng([config.seed, 4, block])
    categories = world.categories[low:high]
    n = high - low
    tags = rng.random((n, TAGS)) < 0.4
    tags[np.arange(n), rng.integers(0, TAGS, n)] = True
    words = zip(rng.integers(0, 10, n), rng.integers(0, 10, n), categories, range(low, high), strict=True)
    titles = [f"The {_ADJECTIVES[a]} {_NOUNS[b]} of topic {c}, no. {i}" for a, b, c, i in words]
    centres = np.random.default_rng([config.seed, 5]).standard_normal((config.categories, config.dim), np.float32)
    vectors = centres[categories] + 0.5 * rng.standard_normal((n, config.dim), np.float32)
    return _Features(tags, titles, vectors)


def _catalog(world: World, kept: NDArray[np.int64]) -> Catalog:
    blocks = [_features(world, block) for block in range(-(-world.config.items // _ITEM_BLOCK))]
    titles = [title for block in blocks for title in block.titles]
    tags = np.concatenate([block.tags for block in blocks])[kept]
    vectors = np.concatenate([block.vectors for block in blocks])[kept]
    categories = world.categories[kept]
    row, tag = np.nonzero(tags)
    offsets = np.concatenate([[0, 0], np.cumsum(np.bincount(row, minlength=len(kept)))]).astype(np.int32)
    n_categories = world.config.categories
    arrivals = np.array([world.epoch_start(int(e)) for e in world.arrivals[kept]], np.float64)
    features: dict[str, Feature] = {
        "category": Categorical(
            tuple(f"c{c}" for c in range(n_categories)), np.concatenate([[-1], categories]).astype(np.int32)
        ),
        "tags": MultiValued(
            tuple(f"c{c}-t{t}" for c in range(n_categories) for t in range(TAGS)),
            (categories[row] * TAGS + tag).astype(np.int32),
            offsets,
        ),
        "title": Text(("", *(titles[i] for i in kept))),
        "vector": Numeric(_with_padding(vectors)),
        "arrival_day": Numeric(_with_padding((arrivals - world.config.start) / 86_400_000)),
    }
    return Catalog(Vocabulary([f"i{i}" for i in kept]), features)


def _with_padding(numbers: NDArray[np.floating]) -> NDArray[np.float32]:
    return np.concatenate([np.full((1, *numbers.shape[1:]), np.nan), numbers]).astype(np.float32)


Format = Literal["parquet", "csv", "jsonl"]


def write(
    config: SimulatedConfig,
    folder: Path,
    *,
    format: Format = "parquet",  # noqa: A002
    rows: int = 1_000_000,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write the log into `folder` in a stream; memory is bounded by users + items + `rows`.

    `events` (user, item, time ms), `items` (id, category, tags, title, vector, arrival), `truth-events` (cause,
    probability: a line an event) and `truth-interests` (epoch, start, user, category, weight): with parquet each is a
    folder of parts of `rows` rows, else one file, whose bytes do not depend on `rows`. `progress` hears how many events
    have been written. `folder` appears at once when all is written.
    """
    if folder.exists() and any(folder.iterdir() if folder.is_dir() else [folder]):
        raise ConfigError(f"{folder}: exists already", "choose another folder or remove it")
    world = World(config)
    with new_folder(folder) as new:
        (new / "config.json").write_bytes(msgspec.json.format(msgspec.json.encode(config)) + b"\n")
        with _Out(new, "items", format, rows) as out:
            for frame in _item_frames(world, flat=format != "parquet"):
                out.add(frame)
        names = ("events", "truth-events", "truth-interests")
        outs = [_Out(new, name, format, rows) for name in names]
        with outs[0] as events, outs[1] as truth, outs[2] as wants:
            for part in world.run():
                if isinstance(part, Interests):
                    wants.add(_interest_frame(part))
                    continue
                events.add(_event_frame(part))
                truth.add(_truth_frame(part))
                if progress:
                    progress(len(part))


class _Out:
    """Frames in, files of whole parts out."""

    def __init__(self, folder: Path, name: str, kind: Format, rows: int) -> None:
        self._kind, self._rows, self._parts = kind, rows, 0
        self._held: list[pl.DataFrame] = []
        self._n = 0
        self._path = folder / (name if kind == "parquet" else f"{name}.{kind}")
        if kind == "parquet":
            self._path.mkdir()

    def add(self, frame: pl.DataFrame) -> None:
        self._held.append(frame)
        self._n += len(frame)
        while self._n >= self._rows:
            self._write(self._rows)

    def _write(self, rows: int) -> None:
        frame = pl.concat(self._held)
        part, rest = frame.head(rows), frame.slice(rows)
        self._held, self._n = [rest], len(rest)
        if self._kind == "parquet":
            part.write_parquet(self._path / f"part-{self._parts:05d}.parquet")
        else:
            with self._path.open("ab") as stream:
                if self._kind == "csv":
                    part.write_csv(stream, include_header=not self._parts)
                else:
                    part.write_ndjson(stream)
        self._parts += 1

    def __enter__(self) -> "_Out":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and (self._n or not self._parts) and self._held:
            self._write(self._rows)


def _event_frame(events: Events) -> pl.DataFrame:
    return pl.DataFrame({"user": events.users, "item": events.items, "time": events.times}).with_columns(
        user=pl.format("u{}", "user"), item=pl.format("i{}", "item")
    )


def _truth_frame(events: Events) -> pl.DataFrame:
    names = pl.Series(CAUSES)
    return pl.DataFrame({"cause": names.gather(events.causes), "probability": events.probabilities})


def _interest_frame(interests: Interests) -> pl.DataFrame:
    n, width = interests.categories.shape
    frame = pl.DataFrame(
        {
            "user": np.repeat(np.arange(n), width),
            "category": interests.categories.ravel(),
            "weight": interests.weights.ravel(),
        }
    )
    return frame.select(
        pl.lit(interests.epoch).alias("epoch"),
        pl.lit(interests.start).alias("start"),
        pl.format("u{}", "user").alias("user"),
        pl.format("c{}", "category").alias("category"),
        "weight",
    )


def _item_frames(world: World, *, flat: bool) -> Iterator[pl.DataFrame]:
    """The items, a block at a time. `flat`: lists as text, since csv has none."""
    config = world.config
    starts = pl.Series([world.epoch_start(e) for e in range(config.epochs + 1)])
    for block in range(-(-config.items // _ITEM_BLOCK)):
        own = _features(world, block)
        low = block * _ITEM_BLOCK
        high = low + len(own.titles)
        codes = world.categories[low:high]
        row, tag = np.nonzero(own.tags)
        names = pl.DataFrame({"row": row, "c": codes[row], "t": tag}).select("row", tag=pl.format("c{}-t{}", "c", "t"))
        tags = names.group_by("row", maintain_order=True).agg("tag")["tag"]
        frame = pl.DataFrame(
            {
                "id": np.arange(low, high),
                "category": codes,
                "tags": tags,
                "title": own.titles,
                "vector": own.vectors,
                "arrival": starts.gather(world.arrivals[low:high]),
            }
        ).with_columns(id=pl.format("i{}", "id"), category=pl.format("c{}", "category"))
        if flat:
            numbers = pl.col("vector").arr.eval(pl.element().cast(pl.String)).arr.join(" ")
            frame = frame.with_columns(tags=pl.col("tags").list.join("|"), vector=numbers)
        yield frame
