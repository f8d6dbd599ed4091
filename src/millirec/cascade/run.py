"""`Run`: one question on its way through the stages, and the trace that it leaves."""

from collections.abc import Callable, Iterator
from copy import copy
from functools import partial
from time import perf_counter
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from millirec.cascade.query import Candidates, Ranking, Retrieved
from millirec.cascade.retrieval import EMPTY, MOVING, WIDER
from millirec.cascade.scorers import Scored
from millirec.cascade.second_stage import SecondStage
from millirec.cascade.selectors import Choosing, select, top_k
from millirec.cascade.sources import model_scores
from millirec.cascade.stages import Step

T = TypeVar("T")


class Run(SecondStage):
    """The stages for one question, each on what the one before found."""

    __slots__ = ()

    def answer(self, pool: NDArray[np.int32] | None, found: Candidates | None) -> Ranking:
        """The ranking. `pool`: rows that the question itself names; `found`: a first fetch that is already done."""
        if self.asked.candidates is not None:
            return self._rank()
        if self.asked.due is not None:
            chosen = self._in_time(pool, self.asked.due)
        else:
            chosen = self._from_pool(pool) if pool is not None else self._candidates(found)
            plain = self.cascade.plain
            chosen = (
                self._best(self._decided(chosen, pool is None)) if plain else self._chosen(chosen, pool is not None)
            )
        return self._ranking(chosen)

    def _ranking(self, chosen: Candidates) -> Ranking:
        if not chosen.ordered:  # a model that has no number for an item has nothing to say about it
            finite = np.isfinite(chosen.scores)
            chosen = chosen if finite.all() else chosen.take(finite)
        ids = self.shelf.catalog.vocabulary.ids
        names = tuple([ids[row - 1] for row in chosen.rows.tolist()])
        return Ranking(
            items=names,
            scores=tuple(chosen.scores.tolist()),
            source=chosen.source,
            trace=tuple(self.trace),
            propensities=None if chosen.propensities is None else tuple(chosen.propensities.tolist()),
            request_id=self.asked.request_id,
            sources=None if chosen.origins is None else self._names(chosen.origins),
            stage=self.stage,
        )

    def _in_time(self, pool: NDArray[np.int32] | None, due: float) -> Candidates:
        """The list of the last stage that is expected to end by `due`; no stage is begun that is not."""
        self.stage = "popular"
        if self.asked.is_late or not self.cascade.costs.fits("retrieval", due):
            return self._best(self._popular(pool))
        *_, (step, candidates, _) = self._stages(pool, due)
        return candidates if step.is_chosen else self._best(candidates)

    def popular(self, pool: NDArray[np.int32] | None) -> Ranking:
        """The list of the stage "popular"."""
        self.stage = "popular"
        return self._ranking(self._best(self._popular(pool)))

    def stages(self, pool: NDArray[np.int32] | None) -> Iterator[tuple[Ranking, bool]]:
        """The list of each later stage as soon as it is there, and whether it is the last for which there is time."""
        self.stage = "popular"
        for step, candidates, is_last in self._stages(pool, self.asked.due):
            before, since = len(self.trace), self.since
            yield self._ranking(candidates if step.is_chosen else self._best(candidates)), is_last
            del self.trace[before:]
            self.since += perf_counter() - since

    def _steps(self, pool: NDArray[np.int32] | None) -> list[Step]:
        """The stages after the popular items. The last one is everything, and called "full"."""
        steps = [Step("retrieval", "retrieval", lambda _: self._retrieve(pool))]
        if self.asked.pre_ranker is not None:
            steps.append(Step("pre-rank", "pre-rank", self._pre_ranked))
        if self.asked.ranker is not None:
            steps.append(Step("rank", "rank", lambda found: self._ranked(found, pool is None)))
        if not self.cascade.plain:
            steps.append(Step("selectors", "selectors", lambda found: self._select(found, pool is not None), True))
        steps[-1] = steps[-1]._replace(stage="full")
        return steps

    def _stages(self, pool: NDArray[np.int32] | None, due: float | None) -> Iterator[tuple[Step, Candidates, bool]]:
        """One stage after the other, as long as the next is expected to end by `due`, None = whenever.

        The first is begun in any case.
        """
        costs, steps, last = self.cascade.costs, self._steps(pool), (_POPULAR, EMPTY)
        for place, step in enumerate(steps, 1):
            made = self._made(pool, place - 1, last[1], due)
            if made is None:
                late, found = last
                yield late, self._popular(pool) if late is _POPULAR else found, True
                return
            last = step, made
            self.stage = step.stage
            is_last = place == len(steps) or (due is not None and not costs.fits(steps[place].cost, due))
            yield step, made, is_last
            if is_last:
                return

    def _made(
        self, pool: NDArray[np.int32] | None, place: int, found: Candidates, due: float | None
    ) -> Candidates | None:
        """The list of one step; None when it was too slow the last time and is not done by `due` this time either."""
        return self._by(due, self._steps(pool)[place].cost, lambda run: run._steps(pool)[place].make(found))

    def _by(self, due: float | None, cost: str, make: Callable[["Run"], T]) -> T | None:
        """What `make` gives of this run; None when that was too slow the last time and is not there by `due` now."""
        if due is None:
            return make(self)
        costs = self.cascade.costs
        if not costs.is_trial(cost, due):
            begun = perf_counter()
            made = make(self)
            costs.took(cost, perf_counter() - begun)
            return made
        other = copy(self)  # what is not waited for must not touch this question any more
        other.trace = list(self.trace)
        tried = self.cascade.trial.run(cost, lambda: make(other), due)
        if tried is not None:
            for name in MOVING:
                setattr(self, name, getattr(other, name))
        return tried

    def _retrieve(self, pool: NDArray[np.int32] | None) -> Candidates:
        self.retrieved = self._from_pool(pool) if pool is not None else self._candidates(None)
        return self.retrieved

    def _select(self, ranked: Candidates, is_whole: bool) -> Candidates:
        """What the selectors make of the list before them, behind which stands all that retrieval has found."""
        return self._chosen(self.retrieved, is_whole, ranked)

    def _best(self, candidates: Candidates) -> Candidates:
        best = top_k(candidates, self.asked.k)
        self._mark("top-k", len(candidates), len(best))
        return best

    def _names(self, origins: NDArray[np.uint8]) -> tuple[str, ...]:
        names = self.cascade.origins
        return tuple([names[at] for at in origins.tolist()])

    def _chosen(self, candidates: Candidates, is_whole: bool, ranked: Candidates | None = None) -> Candidates:
        """What the selectors make of the candidates. When they run short of k, they choose from wider pools.

        `is_whole`: these are all candidates that there are; else the sources may have more. `ranked`: what the ranker
        has made of them already; it is made anew when the pools grow.
        """
        k, most = self.asked.k, len(candidates) if is_whole else self.shelf.n_items
        while True:
            before = len(self.trace)
            chosen, ranked = self._decided(candidates, not is_whole) if ranked is None else ranked, None
            for place, (sizes, stage) in enumerate(self.cascade.selectors(k)):
                n_in = len(chosen)
                chosen = select(stage, chosen, self._choosing(place, sizes.gives))
                self._mark(str(stage.__struct_config__.tag), n_in, len(chosen))
            if len(chosen) >= k or ((self.is_all or self.want >= most) and not self.is_cut):
                return chosen.take(slice(k)) if len(chosen) > k else chosen
            self.stretch *= WIDER
            self.want = min(WIDER * self.want, most)
            del self.trace[before:]  # of several attempts the trace tells the last
            if not is_whole:
                del self.trace[len(self.asked.before) :]
                candidates = self._candidates(None)

    def _choosing(self, place: int, n: int) -> Choosing:
        reach = self._reach if self.asked.ranker is None else self._reach_ranked
        return Choosing(self.shelf, self.asked, n, self.stretch, place, reach, self.cascade.origins)

    def _rank(self) -> Ranking:
        """The caller's own candidates: every one comes back, but those that the question excludes."""
        asked, rows = self.asked, self.asked.candidates
        assert rows is not None  # noqa: S101
        known = np.flatnonzero(rows)
        scores = np.full(len(rows), -np.inf, np.float32)
        self._mark("candidates", len(rows), len(rows))
        if asked.vector is not None:
            scores[known] = model_scores(self.shelf, asked, rows[known])
        else:
            scores[known] = self.shelf.popularity[rows[known]]
        source = "popular" if asked.vector is None else "sequence"
        self._mark("inner-product", len(rows), len(rows))
        self.stage = None if asked.due is None else "popular" if asked.is_late else "full"
        order = np.arange(len(rows), dtype=np.int32)  # of equal scores
        ranked = self._rank_known(known, scores) if asked.ranker is not None and len(known) else None
        if ranked is not None:
            places, chances = ranked
            scores[places] = chances
            order = np.concatenate([places, np.flatnonzero(rows == 0)]).astype(np.int32)
        if asked.boosts is not None:
            scores = asked.boosts.boosted(rows, scores)
        best = top_k(Candidates(order, scores[order], source), len(rows))
        self._mark("top-k", len(rows), len(rows))
        names = tuple([asked.names[at] for at in best.rows.tolist()])
        return Ranking(
            items=names,
            scores=tuple(best.scores.tolist()),
            source=source,
            trace=tuple(self.trace),
            request_id=asked.request_id,
            stage=self.stage,
        )

    def _rank_known(
        self, known: NDArray[np.int64], scores: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]] | None:
        """The places of the caller's known candidates, best first, and their chances; None when there is no time.

        The pre-ranker's where there is time for it alone.
        """
        asked, costs = self.asked, self.cascade.costs
        assert asked.candidates is not None  # noqa: S101
        known = known[np.argsort(-scores[known], kind="stable")]
        told = None if asked.vector is None else Retrieved(scores[known], np.arange(1.0, len(known) + 1))
        if asked.is_late:
            return None
        for cost, ranker in (("rank", asked.ranker), ("pre-rank", asked.pre_ranker)):
            if ranker is not None and (asked.due is None or costs.fits(cost, asked.due)):
                found = self._by(asked.due, cost, partial(_rank_rows, asked.candidates[known], told, cost))
                if found is not None:
                    self.stage = self.stage if cost == "rank" else cost
                    return known[found.order], found.scores[found.order]
        self.stage = "retrieval"
        return None


def _rank_rows(rows: NDArray[np.int32], told: Retrieved | None, cost: str, run: Run) -> Scored:
    is_light = cost == "pre-rank"
    ranker = run.asked.pre_ranker if is_light else run.asked.ranker
    assert ranker is not None  # noqa: S101
    found = ranker(rows, told)
    run._mark_ranker("pre-" if is_light else "", len(rows), len(rows), found.network_us)
    return found


_POPULAR = Step("popular", "popular", lambda found: found)
