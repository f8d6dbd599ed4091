"""The cascade: sources, filters, scorers, selectors, as declared."""

from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import Literal, NamedTuple

import msgspec
import numpy as np

from millirec.cascade.costs import Costs
from millirec.cascade.early_exit import Bounds
from millirec.cascade.filters import (
    AvailableFilter,
    CapFilter,
    ExcludeFilter,
    FilterConfig,
    IncludeFilter,
    SeenFilter,
    WhereFilter,
)
from millirec.cascade.query import Asked, Candidates, Ranking, Shelf
from millirec.cascade.run import Run
from millirec.cascade.scorers import InnerProductScorer, PreRankerScorer, RankerScorer, ScorerConfig
from millirec.cascade.selectors import PlacesSelector, SelectorConfig, ThompsonSelector, TopKSelector, leaves_to_chance
from millirec.cascade.sources import OwnSource, PopularSource, SequenceSource, SourceConfig, allowed, sequence
from millirec.cascade.stages import Trial
from millirec.data.errors import ConfigError


class CascadeConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a bundle does with a question. The defaults suit everybody.

    `sources` are asked in order until enough candidates pass the `filters`: k, or as many as the `selectors` read;
    then `scorers`, then `selectors`, each on what the one before has given.

    `gather`: "fill" is that; with "together" every source offers its `n` that pass the filters, and the first source of
    an item counts as its own. The model scores them all; where it has nothing to say, reciprocal ranks do (Cormack et
    al., "Reciprocal Rank Fusion Outperforms Condorcet and Individual Rank Learning Methods", SIGIR 2009).
    """

    gather: Literal["fill", "together"] = "fill"
    sources: tuple[SourceConfig, ...] = (SequenceSource(), PopularSource())
    filters: tuple[FilterConfig, ...] = (
        SeenFilter(),
        ExcludeFilter(),
        IncludeFilter(),
        WhereFilter(),
        AvailableFilter(),
    )
    scorers: tuple[ScorerConfig, ...] = (InnerProductScorer(),)
    selectors: tuple[SelectorConfig, ...] = (TopKSelector(),)

    def __post_init__(self) -> None:
        if not self.sources:
            raise ConfigError("$.cascade.sources is empty", 'name at least one, such as {"kind": "popular"}')
        if not self.selectors:
            raise ConfigError("$.cascade.selectors is empty", 'name at least one, such as {"kind": "top-k"}')
        for name in ("sources", "filters", "scorers"):
            stages = getattr(self, name)
            if len(set(map(type, stages))) < len(stages):
                raise ConfigError(f"$.cascade.{name} names one kind twice", "name each kind once")
        _check_sources(self)
        _check_scorers(self)
        _check_selectors(self)

    @property
    def ranker(self) -> RankerScorer | None:
        """The ranker among the scorers."""
        return next((stage for stage in self.scorers if isinstance(stage, RankerScorer)), None)

    @property
    def pre_ranker(self) -> PreRankerScorer | None:
        """The pre-ranker among the scorers."""
        return next((stage for stage in self.scorers if isinstance(stage, PreRankerScorer)), None)


def _check_sources(config: CascadeConfig) -> None:
    for place, source in enumerate(config.sources):
        alone = isinstance(source, SequenceSource | PopularSource) and source.n is None
        if config.gather == "fill" and not alone:
            kind = source.__struct_config__.tag
            raise ConfigError(
                f'$.cascade.sources[{place}] ("{kind}") is of a kind or size for sources that are asked together',
                'set gather = "together"',
            )


def _check_scorers(config: CascadeConfig) -> None:
    for kind, last in ((RankerScorer, 1), (PreRankerScorer, 2)):
        place = next((i for i, stage in enumerate(config.scorers) if isinstance(stage, kind)), None)
        if place is not None and (place != len(config.scorers) - last or config.ranker is None):
            where, name = f"$.cascade.scorers[{place}]", kind.__struct_config__.tag
            if kind is RankerScorer:
                raise ConfigError(f'{where} ("{name}") does not stand last', "put it behind the others")
            raise ConfigError(
                f'{where} ("{name}") does not stand right before a ranker', "put a ranker behind it, last"
            )
    pre, ranker = config.pre_ranker, config.ranker
    if pre is not None and ranker is not None and pre.candidates <= ranker.candidates:
        raise ConfigError(
            f'$.cascade.scorers ("pre-ranker"): candidates = {pre.candidates} are no more than the ranker takes',
            f"choose more than {ranker.candidates}, or leave the pre-ranker out",
        )


def _check_selectors(config: CascadeConfig) -> None:
    kinds = [str(source.__struct_config__.tag) for source in config.sources]
    for place, stage in enumerate(config.selectors):
        where = f'$.cascade.selectors[{place}] ("{stage.__struct_config__.tag}")'
        if leaves_to_chance(stage) and place < len(config.selectors) - 1:
            raise ConfigError(
                f"{where} draws, and others choose after it",
                "put it last, so that its propensities are those of the answer",
            )
        if isinstance(stage, PlacesSelector):
            if config.gather == "fill":
                raise ConfigError(f"{where} is for sources that are asked together", 'set gather = "together"')
            if unknown := [name for name in (*stage.most_of, *stage.least) if name not in kinds]:
                raise ConfigError(f"{where} names {unknown[0]!r}, which is no source", f"use one of {kinds}")


_FIRST_FETCH = 1_024


class Sizes(NamedTuple):
    """How many candidates a selector reads, and how many it gives on."""

    reads: int
    gives: int


class Cascade:
    """A `CascadeConfig` at work on the `Shelf` of one bundle. Thread-safe; every answer is a function of its question,
    unless a ranker may stop early: when it does depends on what it has seen of other questions.

    The answer is the exact top k of what passes the filters, as far as the index is exact: when filters leave fewer
    than k, more is fetched, up to the whole catalogue.
    """

    def __init__(self, config: CascadeConfig, shelf: Shelf) -> None:
        self.config, self.shelf = config, shelf
        self.filters = [(str(stage.__struct_config__.tag), stage) for stage in config.filters]
        self.plain = all(isinstance(stage, TopKSelector) for stage in config.selectors)
        self.together = config.gather == "together"
        kinds = [str(stage.__struct_config__.tag) for stage in config.sources]
        self.origins = (*kinds, "catalogue")  # the last: what no source has found, but a boost or a quota asked for
        self.takes_own = any(isinstance(stage, OwnSource) for stage in config.sources)
        self.scores = any(isinstance(stage, InnerProductScorer) for stage in config.scorers)
        ranker = config.ranker
        self.ranked = 0 if ranker is None else ranker.candidates
        self.pre_ranked = 0 if config.pre_ranker is None else config.pre_ranker.candidates
        stops = None if ranker is None else ranker.early_exit
        self.bounds = None if stops is None else Bounds(stops, self.ranked)
        self.costs = Costs()
        self.trial = Trial(self.costs)
        self.cap = next((stage for stage in config.filters if isinstance(stage, CapFilter)), None)
        last = config.selectors[-1]
        self.explores = leaves_to_chance(last)
        self.bandit = last if isinstance(last, ThompsonSelector) else None
        self._forgets_seen = not any(isinstance(stage, SeenFilter) for stage in config.filters)
        stages = (*config.sources, *config.scorers)
        self.wants_vector = any(isinstance(stage, SequenceSource | InnerProductScorer) for stage in stages)
        check_features(config, shelf.fields.names())

    def run(self, asked: Sequence[Asked]) -> list[Ranking]:
        """Answers to several questions; those that search the index share its calls."""
        started = perf_counter()
        pools = [allowed(self.shelf, one) if one.candidates is None else None for one in asked]
        fetched = self._search(asked, pools)
        shared = (perf_counter() - started) * 1e6
        return [
            Run(self, one, shared).answer(pool, found) for one, pool, found in zip(asked, pools, fetched, strict=True)
        ]

    def stream(self, asked: Asked, encode: Callable[[], None]) -> Iterator[tuple[Ranking, bool]]:
        """The answer to one question stage by stage, and whether it is the last: at least the popular items.

        `encode` gives `asked` its vector, once the popular items are out. A stage that was announced is made, one that
        is not expected to end in time is not announced.
        """
        pool = allowed(self.shelf, asked)
        popular = Run(self, asked, 0.0).popular(pool)
        is_last = asked.due is not None and not self.costs.fit(("encode", "retrieval"), asked.due)
        yield popular, is_last
        if is_last:
            return
        encode()
        if asked.is_late:  # it took longer than ever before
            yield Run(self, asked, 0.0).popular(pool), True
        else:
            yield from Run(self, asked, 0.0).stages(pool)

    def want(self, asked: Asked) -> int:
        """How many candidates the selectors read, or the rankers where that is more."""
        return max(self.read(asked.k), self.ranked, self.pre_ranked)

    def read(self, k: int) -> int:
        """How many candidates the selectors read for lists of length `k`."""
        return k if self.plain else self.selectors(k)[0][0].reads

    def selectors(self, k: int) -> list[tuple[Sizes, SelectorConfig]]:
        """The selectors and their sizes for lists of length `k`: each gives what the next one reads, the last k."""
        out: list[tuple[Sizes, SelectorConfig]] = []
        gives = k
        for stage in reversed(self.config.selectors):
            if not isinstance(stage, TopKSelector):
                gives = getattr(stage, "n", None) or gives
                sizes = Sizes(max(stage.pool, gives), gives)
            else:
                sizes = Sizes(gives, gives)
            out.append((sizes, stage))
            gives = sizes.reads
        return out[::-1]

    def need(self, asked: Asked, want: int, least: int | None = None) -> int:
        """How many candidates to fetch at first: `want` and what the filters will probably remove, bounded.

        `least`: the size of the smallest group of items of which so many are wanted each, None = all are one group.
        """
        n = want + len(asked.exclude) + len(asked.capped) + (0 if self._forgets_seen else len(asked.seen))
        if least is not None:
            n = n * self.shelf.n_items // least
        elif asked.where is not None:
            n = n * self.shelf.n_items // max(int(np.count_nonzero(asked.where)), 1)
        return min(n, max(_FIRST_FETCH, 4 * want), self.shelf.n_items)

    def _search(self, asked: Sequence[Asked], pools: Sequence[object]) -> list[Candidates | None]:
        """The first fetch of every question that begins with the index, one call for those of like size."""
        out: list[Candidates | None] = [None] * len(asked)
        if self.together or not isinstance(self.config.sources[0], SequenceSource):
            return out
        groups: dict[int, list[int]] = {}
        needs = [0] * len(asked)
        for i, one in enumerate(asked):
            usual = one.boosts is None and one.due is None
            if one.vector is not None and pools[i] is None and one.candidates is None and usual:
                needs[i] = self.need(one, self.want(one))
                groups.setdefault(max(needs[i], 64).bit_length(), []).append(i)
        for group in groups.values():
            n = max(needs[i] for i in group)
            for i, found in zip(group, sequence(self.shelf, [asked[i] for i in group], n), strict=True):
                out[i] = found
        return out


def check_rankers(config: CascadeConfig, *, has_ranker: bool, has_pre_ranker: bool) -> None:
    """Raises ConfigError for a cascade that names a ranker or pre-ranker where the bundle has none."""
    asked = (("ranker", config.ranker, has_ranker), ("pre-ranker", config.pre_ranker, has_pre_ranker))
    for name, stage, is_there in asked:
        if stage is not None and not is_there:
            raise ConfigError(
                f'$.cascade.scorers[{config.scorers.index(stage)}] ("{name}"): the bundle has no {name}',
                f"pack one into it with `millirec pack ... --{name} RANKER`, or leave the scorer out",
            )


def check_features(config: CascadeConfig, known: Sequence[str]) -> None:
    """Raises ConfigError when a stage reads a feature that is not among `known`, those with values to match."""
    for where, stages in (("sources", config.sources), ("selectors", config.selectors)):
        for place, stage in enumerate(stages):
            name = getattr(stage, "feature", None)
            if name is not None and name not in known:
                raise ConfigError(
                    f"$.cascade.{where}[{place}].feature = {name!r}: items have no such feature with values",
                    f"use one of {list(known)}" if known else "give the items features, or leave the stage out",
                )
