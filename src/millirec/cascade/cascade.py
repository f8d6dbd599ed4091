"""The cascade: sources, filters, scorers, selectors, as declared."""

from collections.abc import Sequence
from time import perf_counter

import msgspec
import numpy as np
from numpy.typing import NDArray

from millirec.cascade.filters import (
    AvailableFilter,
    ExcludeFilter,
    FilterConfig,
    IncludeFilter,
    SeenFilter,
    WhereFilter,
    keep,
)
from millirec.cascade.query import Asked, Candidates, Ranking, Shelf, Stage
from millirec.cascade.scorers import InnerProductScorer, ScorerConfig, inner_product, model_scores
from millirec.cascade.selectors import SelectorConfig, TopKSelector, top_k
from millirec.cascade.sources import PopularSource, SequenceSource, SourceConfig, allowed, popular, sequence
from millirec.data.errors import ConfigError


class CascadeConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a bundle does with a question. The defaults suit everybody.

    `sources` are asked in order until k candidates pass the `filters`; then `scorers`, then `selectors`.
    """

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
        for name in ("sources", "filters", "scorers", "selectors"):
            stages = getattr(self, name)
            if len(set(map(type, stages))) < len(stages):
                raise ConfigError(f"$.cascade.{name} names one kind twice", "name each kind once")


_FIRST_FETCH = 1_024


class Cascade:
    """A `CascadeConfig` at work on the `Shelf` of one bundle. Thread-safe; every answer is a function of its question.

    The answer is the exact top k of what passes the filters, as far as the index is exact: when filters leave fewer
    than k, more is fetched, up to the whole catalogue.
    """

    def __init__(self, config: CascadeConfig, shelf: Shelf) -> None:
        self.config, self.shelf = config, shelf
        self._filters = [(str(stage.__struct_config__.tag), stage) for stage in config.filters]
        self._forgets_seen = not any(isinstance(stage, SeenFilter) for stage in config.filters)
        kinds = (*config.sources, *config.scorers)
        self.wants_vector = any(isinstance(stage, SequenceSource | InnerProductScorer) for stage in kinds)

    def run(self, asked: Sequence[Asked]) -> list[Ranking]:
        """Answers to several questions; those that search the index share its calls."""
        started = perf_counter()
        pools = [allowed(self.shelf, one) if one.candidates is None else None for one in asked]
        fetched = self._search(asked, pools)
        shared = (perf_counter() - started) * 1e6
        return [
            _Run(self, one, shared).answer(pool, found) for one, pool, found in zip(asked, pools, fetched, strict=True)
        ]

    def need(self, asked: Asked) -> int:
        """How many candidates to fetch at first: k and what the filters will probably remove, bounded."""
        n = asked.k + len(asked.exclude) + (0 if self._forgets_seen else len(asked.seen))
        if asked.where is not None:
            n = n * self.shelf.n_items // max(int(np.count_nonzero(asked.where)), 1)
        return min(n, max(_FIRST_FETCH, 4 * asked.k), self.shelf.n_items)

    def _search(self, asked: Sequence[Asked], pools: Sequence[object]) -> list[Candidates | None]:
        """The first fetch of every question that begins with the index, one call for those of like size."""
        out: list[Candidates | None] = [None] * len(asked)
        if not isinstance(self.config.sources[0], SequenceSource):
            return out
        groups: dict[int, list[int]] = {}
        needs = [0] * len(asked)
        for i, one in enumerate(asked):
            if one.vector is not None and pools[i] is None and one.candidates is None:
                needs[i] = self.need(one)
                groups.setdefault(max(needs[i], 64).bit_length(), []).append(i)
        for group in groups.values():
            vectors = np.array([asked[i].vector for i in group], np.float32)
            n = max(needs[i] for i in group)
            for i, found in zip(group, sequence(self.shelf, vectors, n), strict=True):
                out[i] = found
        return out


class _Run:
    """One question on its way through the stages, and the trace that it leaves."""

    __slots__ = ("asked", "cascade", "shelf", "since", "trace")

    def __init__(self, cascade: Cascade, asked: Asked, shared: float) -> None:
        self.cascade, self.shelf, self.asked = cascade, cascade.shelf, asked
        self.trace: list[Stage] = list(asked.before)
        self.since = perf_counter() - shared * 1e-6  # the shared search counts as this question's source

    def answer(self, pool: NDArray[np.int32] | None, found: Candidates | None) -> Ranking:
        if self.asked.candidates is not None:
            return self._rank()
        chosen = self._from_pool(pool) if pool is not None else self._from_sources(found)
        for stage in self.cascade.config.selectors:
            match stage:
                case TopKSelector():
                    before = len(chosen)
                    chosen = top_k(chosen, self.asked.k)
                    self._mark("top-k", before, len(chosen))
        if not chosen.ordered:  # a model that has no number for an item has nothing to say about it
            finite = np.isfinite(chosen.scores)
            chosen = Candidates(chosen.rows[finite], chosen.scores[finite], chosen.source)
        ids = self.shelf.catalog.vocabulary.ids
        names = tuple([ids[row - 1] for row in chosen.rows.tolist()])
        return Ranking(items=names, scores=tuple(chosen.scores.tolist()), source=chosen.source, trace=tuple(self.trace))

    def _mark(self, name: str, n_in: int, n_out: int) -> None:
        now = perf_counter()
        self.trace.append(Stage(name, n_in, n_out, (now - self.since) * 1e6))
        self.since = now

    def _from_pool(self, pool: NDArray[np.int32]) -> Candidates:
        """The question names its rows itself: no source has to look for any."""
        candidates = Candidates(pool, self.shelf.popularity[pool], "popular")
        self._mark("pool", self.shelf.n_items, len(pool))
        candidates = self._filter(candidates)
        vector = self.asked.vector
        if vector is not None:
            scores = model_scores(self.shelf, vector, candidates.rows)
            candidates = Candidates(candidates.rows, scores, "sequence")
        self._mark("inner-product", len(candidates), len(candidates))
        return candidates

    def _from_sources(self, found: Candidates | None) -> Candidates:
        """Ask one source after the other until k candidates have passed the filters."""
        chosen: Candidates | None = None
        for stage in self.cascade.config.sources:
            if isinstance(stage, SequenceSource) and self.asked.vector is None:
                continue
            passed, whole = self._fetch(stage, found)
            found = None
            passed = self._score(passed)
            chosen = passed if chosen is None else _join(chosen, passed)
            if whole or len(chosen) >= self.asked.k:
                break
        return chosen if chosen is not None else _EMPTY

    def _fetch(self, stage: SourceConfig, found: Candidates | None) -> tuple[Candidates, bool]:
        """What one source offers that passes the filters; whether it has offered the whole catalogue."""
        shelf, asked = self.shelf, self.asked
        n = len(found) if found is not None else self.cascade.need(asked)
        before = len(self.trace)
        while True:
            if isinstance(stage, PopularSource):
                found = popular(shelf, n)
            elif found is None:
                assert asked.vector is not None  # noqa: S101
                found = sequence(shelf, asked.vector[None, :], n)[0]
            del self.trace[before:]  # of several attempts the trace tells the last
            self._mark(str(stage.__struct_config__.tag), shelf.n_items, len(found))
            passed = self._filter(found)
            whole = len(found) >= shelf.n_items
            if whole or len(passed) >= asked.k or len(found) < n:
                return passed, whole
            n, found = min(4 * n, shelf.n_items), None

    def _filter(self, candidates: Candidates) -> Candidates:
        for name, stage in self.cascade._filters:
            kept = keep(stage, self.shelf, self.asked, candidates.rows)
            if kept is None:  # nothing to say to this question: no stage
                continue
            n = len(candidates)
            if np.count_nonzero(kept) < n:
                at = kept.nonzero()[0]
                rows, scores = candidates.rows.take(at), candidates.scores.take(at)
                candidates = Candidates(rows, scores, candidates.source, candidates.ordered)
            self._mark(name, n, len(candidates))
        return candidates

    def _score(self, candidates: Candidates) -> Candidates:
        for stage in self.cascade.config.scorers:
            match stage:
                case InnerProductScorer():
                    candidates = inner_product(self.shelf, self.asked, candidates)
                    self._mark("inner-product", len(candidates), len(candidates))
        return candidates

    def _rank(self) -> Ranking:
        """The caller's own candidates: every one comes back, but those that the question excludes."""
        asked, rows = self.asked, self.asked.candidates
        assert rows is not None  # noqa: S101
        known = np.flatnonzero(rows)
        scores = np.full(len(rows), -np.inf, np.float32)
        self._mark("candidates", len(rows), len(rows))
        if asked.vector is not None:
            scores[known] = model_scores(self.shelf, asked.vector, rows[known])
        else:
            scores[known] = self.shelf.popularity[rows[known]]
        source = "popular" if asked.vector is None else "sequence"
        self._mark("inner-product", len(rows), len(rows))
        places = Candidates(np.arange(len(rows), dtype=np.int32), scores, source)
        best = top_k(places, len(rows))
        self._mark("top-k", len(rows), len(rows))
        names = tuple([asked.names[at] for at in best.rows.tolist()])
        return Ranking(items=names, scores=tuple(best.scores.tolist()), source=source, trace=tuple(self.trace))


_EMPTY = Candidates(np.empty(0, np.int32), np.empty(0, np.float32), "popular")


def _join(first: Candidates, then: Candidates) -> Candidates:
    """What `then` adds to `first`."""
    new = ~np.isin(then.rows, first.rows)
    return Candidates(
        np.concatenate([first.rows, then.rows[new]]),
        np.concatenate([first.scores, then.scores[new]]),
        first.source,
    )
