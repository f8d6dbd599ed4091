"""`Retrieval`: how one question finds its candidates, and the trace that it leaves."""

from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from millirec.cascade.filters import keep
from millirec.cascade.groups import Groups
from millirec.cascade.query import Asked, Candidates, Stage
from millirec.cascade.rules import Boosts
from millirec.cascade.scorers import InnerProductScorer, inner_product
from millirec.cascade.selectors import top_k
from millirec.cascade.sources import (
    PopularSource,
    SequenceSource,
    SourceConfig,
    model_scores,
    offer,
    popular,
    sequence,
)
from millirec.cascade.together import Offer, fused, merged

if TYPE_CHECKING:
    from millirec.cascade.cascade import Cascade

WIDER = 4
EMPTY = Candidates(np.empty(0, np.int32), np.empty(0, np.float32), "popular")
MOVING = ("fused", "groups", "is_all", "is_cut", "retrieved", "since", "stretch", "trace", "want")  # what stages change


class Retrieval:
    """Sources, filters and scores for one question.

    `want`: how many candidates the selectors read; `retrieved`: what they choose from; `is_cut`: whether the
    rankers have left some of these out.

    `shared`: microseconds of a search that was done for several questions; it counts as this one's source.
    """

    __slots__ = ("asked", "cascade", "shelf", "stage", *MOVING)

    def __init__(self, cascade: "Cascade", asked: Asked, shared: float) -> None:
        self.cascade, self.shelf, self.asked = cascade, cascade.shelf, asked
        self.trace: list[Stage] = list(asked.before)
        self.since = perf_counter() - shared * 1e-6
        self.want = cascade.want(asked)
        self.groups: Groups | None = None
        self.retrieved = EMPTY
        self.stretch, self.fused, self.is_all, self.is_cut = 1, False, False, False
        self.stage: str | None = None

    def _popular(self, pool: NDArray[np.int32] | None) -> Candidates:
        """What takes no model and next to no time, filtered like everything else."""
        if pool is None:
            return self._boosted(self._fetch(PopularSource(), None)[0])
        self._mark("pool", self.shelf.n_items, len(pool))
        return self._boosted(self._filter(Candidates(pool, self.shelf.popularity[pool], "popular")))

    def _reach(self, rows: NDArray[np.int32]) -> Candidates:
        """These rows as candidates: filtered, scored. Leaves no trace of its own."""
        before, since = len(self.trace), self.since
        candidates = self._scored_rows(rows)
        if self.fused:  # they have no place in any source
            candidates = Candidates(candidates.rows, np.zeros(len(candidates), np.float32), "fused")
        candidates = self._boosted(candidates)
        if self.cascade.together:
            candidates = self._from(len(self.cascade.origins) - 1, candidates)
        del self.trace[before:]
        self.since = since
        return candidates

    def _from_pool(self, pool: NDArray[np.int32]) -> Candidates:
        """The question names its rows itself: no source has to look for any."""
        self._mark("pool", self.shelf.n_items, len(pool))
        candidates = self._scored_rows(pool)
        self._mark("inner-product", len(candidates), len(candidates))
        return self._boosted(candidates)

    def _scored_rows(self, rows: NDArray[np.int32]) -> Candidates:
        """The rows that pass the filters, with the score that an answer to this question has."""
        candidates = self._filter(Candidates(rows, self.shelf.popularity[rows], "popular"))
        if self.asked.vector is not None:
            scores = model_scores(self.shelf, self.asked, candidates.rows)
            candidates = Candidates(candidates.rows, scores, "sequence")
        return candidates

    def _boosted(self, candidates: Candidates) -> Candidates:
        if self.asked.boosts is None:
            return candidates
        scores = self.asked.boosts.boosted(candidates.rows, candidates.scores)
        found = candidates.retrieval
        return Candidates(candidates.rows, scores, candidates.source, origins=candidates.origins, retrieval=found)

    def _from(self, place: int, candidates: Candidates) -> Candidates:
        candidates.origins = np.full(len(candidates), place, np.uint8)
        return candidates

    def _together(self) -> Candidates:
        """What all sources offer, with more from each until there are k or no more."""
        before = len(self.trace)
        while True:
            offers = [self._offer(place, stage) for place, stage in enumerate(self.cascade.config.sources)]
            n = sum(len(offer.candidates) for offer in offers)
            self.fused = self.asked.vector is None or not self.cascade.scores
            if not self.fused:
                found = merged([self._score(offer.candidates) for offer in offers])
            else:
                found = fused([offer.candidates for offer in offers])
            self._mark("merge", n, len(found))
            self.is_all = all(offer.is_all for offer in offers)
            if len(found) >= self.asked.k or self.is_all:
                break
            self.stretch *= WIDER
            del self.trace[before:]
        boosts = self.asked.boosts
        if boosts is None:
            return found
        popular = self.shelf.popular
        best = self._reach(popular[boosts.group[popular] > 0]) if self.fused else self._from_groups(boosts)
        return self._boosted(found).join(self._from(len(self.cascade.origins) - 1, top_k(best, self.want)))

    def _offer(self, place: int, stage: SourceConfig) -> Offer:
        """What one source offers that passes the filters, at most its own size."""
        shelf, asked, before = self.shelf, self.asked, len(self.trace)
        n = (stage.n or self.want) * self.stretch
        m = self.cascade.need(asked, n)
        while True:
            found = offer(stage, shelf, asked, m)
            del self.trace[before:]
            self._mark(str(stage.__struct_config__.tag), shelf.n_items, len(found))
            passed = self._filter(found)
            is_all = len(found) < m or m >= shelf.n_items
            if is_all or len(passed) >= n:
                return Offer(self._from(place, passed.take(slice(n))), is_all and len(passed) <= n)
            m = min(WIDER * m, shelf.n_items)

    def _from_groups(self, boosts: Boosts) -> Candidates:
        """The best of every group of items that are boosted alike: by search in large groups, small ones are scored.

        Within a group boosts change no order, so the best of all are among the best of each.
        """
        self.groups = groups = Groups.of(boosts, self.asked.where, self.shelf)
        chosen = self._from_sources(None) if len(groups.searched) else EMPTY
        since, n = self.since, len(chosen)
        scored = self._reach(groups.scored)
        chosen = scored if not n else self._boosted(chosen).join(scored)
        self.since = since
        self._mark("boost", n, len(chosen))
        return chosen.take(np.argsort(chosen.rows, kind="stable"))  # equal scores are ordered by row

    def _candidates(self, found: Candidates | None) -> Candidates:
        if self.cascade.together:
            return self._together()
        boosts = self.asked.boosts
        candidates = self._from_sources(found) if boosts is None else self._from_groups(boosts)
        self.is_all = len(candidates) < self.want
        return candidates

    def _is_enough(self, candidates: Candidates) -> bool:
        if self.groups is None:
            return len(candidates) >= self.want
        return self.groups.least(candidates.rows) >= self.want

    def _from_sources(self, found: Candidates | None) -> Candidates:
        """Ask one source after the other until enough candidates have passed the filters."""
        chosen: Candidates | None = None
        for stage in self.cascade.config.sources:
            if not isinstance(stage, PopularSource | SequenceSource) or (
                isinstance(stage, SequenceSource) and self.asked.vector is None
            ):
                continue
            passed, whole = self._fetch(stage, found)
            found = None
            passed = self._score(passed)
            chosen = passed if chosen is None else chosen.join(passed)
            if whole or self._is_enough(chosen):
                break
        return chosen if chosen is not None else EMPTY

    def _fetch(self, stage: SourceConfig, found: Candidates | None) -> tuple[Candidates, bool]:
        """What one source offers that passes the filters; whether it has offered the whole catalogue."""
        shelf, asked = self.shelf, self.asked
        smallest = None if self.groups is None else self.groups.smallest
        n = len(found) if found is not None else self.cascade.need(asked, self.want, smallest)
        before = len(self.trace)
        while True:
            if isinstance(stage, PopularSource):
                found = popular(shelf, n)
            elif found is None:
                found = sequence(shelf, [asked], n)[0]
            del self.trace[before:]  # of several attempts the trace tells the last
            self._mark(str(stage.__struct_config__.tag), shelf.n_items, len(found))
            passed = self._filter(found if self.groups is None else self.groups.searched_of(found))
            whole = len(found) >= shelf.n_items
            if whole or self._is_enough(passed) or len(found) < n:
                return passed, whole
            n, found = min(4 * n, shelf.n_items), None

    def _filter(self, candidates: Candidates) -> Candidates:
        for name, stage in self.cascade.filters:
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
                    origins = candidates.origins
                    candidates = inner_product(self.shelf, self.asked, candidates)
                    candidates.origins = origins
                    self._mark("inner-product", len(candidates), len(candidates))
        return candidates

    def _mark(self, name: str, n_in: int, n_out: int) -> None:
        now = perf_counter()
        self.trace.append(Stage(name, n_in, n_out, (now - self.since) * 1e6))
        self.since = now
