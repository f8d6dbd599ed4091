"""`SecondStage`: what a pre-ranker and a ranker make of the candidates of one question."""

from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from millirec.cascade import early_exit
from millirec.cascade.query import Candidates, Retrieved, Stage
from millirec.cascade.retrieval import Retrieval
from millirec.cascade.scorers import RowScorer, Scored
from millirec.cascade.selectors import top_k
from millirec.cascade.sources import model_scores


class SecondStage(Retrieval):
    """Rankers for one question. Both read what retrieval has said of a candidate, in whatever order it comes."""

    __slots__ = ()

    def _decided(self, candidates: Candidates, may_stop: bool = False) -> Candidates:
        """What pre-ranker and ranker make of the candidates; they stay as they are where the cascade has neither."""
        self.is_cut = False
        if self.asked.pre_ranker is not None and len(candidates) > self._kept():
            candidates = self._pre_ranked(candidates)
        return self._ranked(candidates, may_stop)

    def _pre_ranked(self, candidates: Candidates) -> Candidates:
        """The best candidates as the pre-ranker sees them, as many as the ranker takes; all where there is none."""
        ranker, n = self.asked.pre_ranker, len(candidates)
        if ranker is None or not n:
            return candidates
        best = top_k(candidates, max(self.cascade.pre_ranked, self.want))
        told = self._told(best)
        found = ranker(best.rows, told)
        kept = top_k(self._boosted(_ordered(best, found, told)), self._kept())
        self.is_cut = len(kept) < n
        self._mark_ranker("pre-", n, len(best), found.network_us)
        return kept

    def _kept(self) -> int:
        """How many candidates the ranker takes of the pre-ranker's: more where lists came out short."""
        return max(self.cascade.ranked, self.cascade.read(self.asked.k)) * self.stretch

    def _ranked(self, candidates: Candidates, may_stop: bool = False) -> Candidates:
        """The best candidates as the ranker sees them; all of them where the cascade has none.

        `may_stop`: those that it would hardly put among the best may be left out, where the cascade says so.
        """
        ranker, n = self.asked.ranker, len(candidates)
        if ranker is None or not n:
            return candidates
        best = top_k(candidates, max(self.cascade.ranked, self.want))
        told = best.retrieval or self._told(best)
        self.is_cut = self.is_cut or len(best) < n
        found = self._found(ranker, best, told, may_stop)
        self._mark_ranker("", n, len(found.logits), found.network_us)
        return self._boosted(_ordered(best, found))

    def _reach_ranked(self, rows: NDArray[np.int32]) -> Candidates:
        """As `_reach`, with the scores that the candidates have behind the ranker."""
        before, since, is_cut = len(self.trace), self.since, self.is_cut
        candidates = self._ranked(self._reach(rows))
        del self.trace[before:]
        self.since, self.is_cut = since, is_cut
        return candidates

    def _told(self, best: Candidates) -> Retrieved | None:
        """What retrieval says of candidates in its own order; None where no model has scored them."""
        asked = self.asked
        if asked.vector is None or best.source != "sequence" or self.fused:
            return None
        # a boost is no part of what the model has said
        scores = best.scores if asked.boosts is None else model_scores(self.shelf, asked, best.rows)
        return Retrieved(scores, np.arange(1.0, len(best) + 1))

    def _found(self, ranker: RowScorer, best: Candidates, told: Retrieved | None, may_stop: bool) -> Scored:
        """What the ranker says of the best, or of the first of them: as many as it takes to know what is read."""
        bounds = self.cascade.bounds
        is_usual = bounds is not None and len(best) == bounds.candidates and self.asked.boosts is None
        if not may_stop or told is None or bounds is None or not is_usual:
            return ranker(best.rows, told)
        return early_exit.scored(ranker, best.rows, told, self.cascade.read(self.asked.k), bounds)

    def _mark_ranker(self, prefix: str, n: int, ranked: int, network_us: float) -> None:
        now = perf_counter()
        self.trace.append(Stage(f"{prefix}features", n, ranked, (now - self.since) * 1e6 - network_us))
        self.trace.append(Stage(f"{prefix}ranker", ranked, ranked, network_us))
        self.since = now


def _ordered(best: Candidates, found: Scored, told: Retrieved | None = None) -> Candidates:
    """The first of the candidates, those that were scored, best first; `told` stays with them."""
    order = found.order
    origins = None if best.origins is None else best.origins[order]
    told = None if told is None else told.take(order)
    return Candidates(best.rows[order], found.scores[order], best.source, origins=origins, retrieval=told)
