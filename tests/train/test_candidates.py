"""Rows of what a retrieval found: who is asked for, what counts as taken, what a row knows."""

import numpy as np
import pytest

from millirec.data.dataset import TEST, TRAIN, VALIDATION
from millirec.data.errors import ConfigError, DataError
from millirec.data.features.config import CategoricalField, CounterField, NumericField
from millirec.data.split import Targets
from millirec.train.candidates import CandidateConfig, Found, candidate_rows, found_for
from tests.ranked import LABEL, history, rankers

FIELDS = (
    CategoricalField(name="item", source="item"),
    NumericField(name="rank", source="context.retrieval_rank"),
    NumericField(name="score", source="context.retrieval_score"),
    CounterField(name="events", by=("item",), what="events"),
)
CONFIG = CandidateConfig(targets=0, candidates=4, negatives=2, held_out=0.25)


def test_the_retrieval_is_asked_for_what_it_has_not_seen() -> None:
    data = history(n=40, seed=4)  # later on everybody knows everything
    seen = found_for(rankers()[0], data, CONFIG)
    seq = data.sequences
    assert len(seen.asked)
    assert (seq.roles[seen.asked.places] == VALIDATION).all()
    for place, start, rows, scores in zip(seen.asked.places, seen.asked.starts, seen.rows, seen.scores, strict=True):
        there = rows[np.isfinite(scores)]
        assert not set(there.tolist()) & set(seq.items[start:place].tolist())
        assert (scores[:-1] >= scores[1:]).all()


def lists() -> Found:
    """By hand: three targets, each of an item and three others; the last retrieval misses its target."""
    seq = history().sequences
    places = np.sort(np.flatnonzero(seq.roles == VALIDATION)[[0, 9, 20]])
    places = places[np.argsort(seq.times[places])]
    items = seq.items[places]
    others = [[row for row in range(1, 9) if row != item][:3] for item in items]
    rows = np.array(
        [[others[0][0], items[0], *others[0][1:]], [items[1], *others[1]], [*others[2], others[2][0]]], np.int32
    )
    starts = seq.offsets[seq.users[places]]
    scores = np.tile(np.array([3.0, 2.0, 1.0, -np.inf], np.float32), (3, 1))
    return Found(Targets(places, starts, 0, 0), rows, scores)


def test_what_came_next_is_taken_and_others_are_not() -> None:
    data, seen = history(), lists()
    rows, featuriser = candidate_rows(data, LABEL, seen, FIELDS, CONFIG)
    assert rows.labels.tolist() == [1, 0, 0, 1, 0, 0]  # the third retrieval has not found it
    assert rows.users.tolist() == np.repeat(data.sequences.users[seen.asked.places[:2]], 3).tolist()
    scale = featuriser.learned["rank"]
    ranks = rows.features.numbers[:, 0] * scale.deviation + scale.mean
    assert ranks[[0, 3]] == pytest.approx([2, 1])
    assert sorted(ranks[[1, 2]]) == pytest.approx([1, 3])  # the place without a score is no candidate
    assert rows.roles.tolist() == [TRAIN] * 3 + [VALIDATION] * 3


def test_a_row_knows_the_events_before_its_target_alone() -> None:
    data, seen = history(), lists()
    rows, featuriser = candidate_rows(data, LABEL, seen, FIELDS, CONFIG)
    scale, log, seq = featuriser.learned["events"], data.interactions, data.sequences
    counted = rows.features.numbers[:, 2] * scale.deviation + scale.mean
    for row, place in enumerate(np.repeat(seen.asked.places[:2], 3)):
        item = int(rows.features.ids[row, 0])
        name = featuriser.learned["item"].values[item - 1] if item else None
        if name is None:
            continue
        before = (log.times < seq.times[place]) & (log.items == int(name[1:]))
        assert counted[row] == pytest.approx(before.sum())


def test_the_test_part_says_nothing() -> None:
    data, seen = history(), lists()
    later = data.interactions.values.copy()
    later[data.roles == TEST] = 1 - later[data.roles == TEST]
    old = data.interactions
    other = type(data)(
        type(old)(old.users, old.items, old.times, later), data.items, data.users, data.roles, "w", data.protocol
    )
    made = [candidate_rows(each, LABEL, seen, FIELDS, CONFIG)[0].features.to_bytes() for each in (data, other)]
    assert made[0] == made[1]


def test_what_cannot_be_learned_from_is_refused() -> None:
    seen = lists()
    with pytest.raises(DataError, match="found none"):
        candidate_rows(history(), LABEL, Found(seen.asked, np.zeros_like(seen.rows), seen.scores), FIELDS, CONFIG)
    with pytest.raises(ConfigError, match=r"\$\.candidates\.negatives = 0"):
        CandidateConfig(negatives=0)
    with pytest.raises(ConfigError, match=r"\$\.candidates\.held_out"):
        CandidateConfig(held_out=1.0)
