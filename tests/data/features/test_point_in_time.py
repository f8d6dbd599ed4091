"""A row knows what was known before it, and nothing else."""

import numpy as np
import pytest

from millirec.data.dataset import TEST, TRAIN, VALIDATION
from millirec.data.errors import DataError
from millirec.data.features import Featuriser, Keys, Needs, Questions, ranking_rows, replay, replayed, split_rows
from millirec.data.features.config import CounterField, SequenceField
from millirec.data.features.rows import RandomRows, facts_of
from millirec.data.labels import LabelConfig, labels_of
from millirec.data.split import GlobalTime
from millirec.metrics import ctr
from tests.data.features.world import FIELDS, HOUR, dataset_of, items, users

RATE = CounterField(name="rate", by=("item",), smoothing=0)
LABEL = LabelConfig(positive_above=0)


def noise(n: int = 2000, seed: int = 0) -> list[tuple[int, int, int, float]]:
    """Labels that nothing can foretell; an item comes twice or three times, so a count that looks ahead tells them."""
    rng = np.random.default_rng(seed)
    return [(int(rng.integers(1, 7)), 1 + i % (n // 3), i * HOUR, float(rng.integers(2))) for i in range(n)]


def auc_of_rate(leak: bool, monkeypatch: pytest.MonkeyPatch) -> float:
    if leak:  # what is often written: the events up to *and with* the row's own
        before = replay._Grouped.before
        monkeypatch.setattr(replay._Grouped, "before", lambda self, groups, times: before(self, groups, times + 1))
    data = dataset_of(noise(), n_items=700)
    labels = labels_of(data, LABEL)
    data = split_rows(data, labels, GlobalTime())
    rows, _ = ranking_rows(data, labels, (RATE,))
    return ctr.auc(rows.labels, rows.features.numbers[:, 0])


def test_a_counter_that_counts_its_own_row_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    assert abs(auc_of_rate(False, monkeypatch) - 0.5) < 0.05
    assert auc_of_rate(True, monkeypatch) > 0.8


def test_what_comes_later_changes_no_row() -> None:
    """Another future: the facts of the rows before it stay, byte for byte. Of the past: they do not."""
    log = [(u, i % 8 + 1, t, v) for u, i, t, v in noise(400)]
    data = dataset_of(log)
    other = dataset_of([*log[:200], *[(u, i % 8 + 1, t, 1 - v) for u, i, t, v in log[200:]]])
    places = np.arange(400)
    seen = []
    for each in (data, other):
        timed = each.with_roles(np.zeros(400, np.uint8), "global-time (test)")
        labels = labels_of(each, LABEL)
        facts = facts_of(timed, labels, places, Needs.of(FIELDS))
        fitted = Featuriser.fit(FIELDS, facts.take(places[:200]), labels[:200], users(), items())
        seen.append(fitted.features(facts))
    early, late = places[:200], places[300:]
    assert seen[0].take(early).to_bytes() == seen[1].take(early).to_bytes()
    assert seen[0].take(late).to_bytes() != seen[1].take(late).to_bytes()


def test_rows_of_one_moment_do_not_know_each_other() -> None:
    """A list is shown at once: its outcomes are known after it."""
    data = dataset_of([(1, 1, 0, 1), (1, 2, HOUR, 1), (1, 2, HOUR, 0), (1, 2, HOUR + 1, 1)])
    labels = labels_of(data, LABEL)
    facts = facts_of(data, labels, np.arange(4), Needs.of((RATE, SequenceField(name="s", of="item"))))
    (counts,), (history,) = facts.counts.values(), facts.histories.values()
    assert counts.tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 0], [2, 1, 1]]
    assert history.padded(3).tolist() == [[0, 0, 0], [1, 0, 0], [1, 0, 0], [1, 2, 2]]


def test_a_random_split_hides_held_out_rows_from_the_features() -> None:
    data = dataset_of([(1 + i % 6, 1 + i % 8, i * HOUR, float(i % 2)) for i in range(200)])
    labels = labels_of(data, LABEL)
    dealt = split_rows(data, labels, RandomRows(validation=0.2, test=0.2, seed=1))
    assert [int((dealt.roles == role).sum()) for role in (TRAIN, VALIDATION, TEST)] == [120, 40, 40]
    everything = CounterField(name="n", by=("user",), what="events")
    facts = facts_of(dealt, labels, np.arange(200), Needs.of((everything,)))
    (counts,) = facts.counts.values()
    newest = {user: int(np.flatnonzero(data.interactions.users == user)[-1]) for user in range(1, 7)}
    for user, place in newest.items():
        mine = (data.interactions.users == user) & (dealt.roles == TRAIN)
        mine[place] = False
        assert counts[place, 0] == mine.sum()


def test_under_a_split_by_time_test_rows_know_older_test_rows() -> None:
    data = dataset_of([(1, 1 + i % 8, i * HOUR, float(i % 2)) for i in range(100)])
    labels = labels_of(data, LABEL)
    data = split_rows(data, labels, GlobalTime(validation=0.2, test=0.2))
    rows, _ = ranking_rows(data, labels, (CounterField(name="n", by=("user",), what="events", scale="log"),))
    assert (np.diff(rows.features.numbers[:, 0]) > 0).all()


def test_windows_slide_by_sixtieths() -> None:
    """An hour moves by minutes: at 1:00:30 it reaches back to 0:01:00 exactly."""
    minute = HOUR // 60
    at = [minute - 1, minute, HOUR + minute // 2 - 1, HOUR + minute // 2]
    data = dataset_of([(1, 1, time, 1.0) for time in at])
    needs = Needs.of((CounterField(name="n", by=("item",), window="1h", what="events"),))
    log = data.interactions
    events = replay.Events(
        log.users.astype(np.int64), log.items.astype(np.int64), log.times, np.ones(len(log), np.int8)
    )
    now = np.array([HOUR + minute // 2])
    asked = Questions(np.array([1]), np.array([1]), now, {})
    (counts,) = replayed(events, asked, needs, Keys(users(), items())).counts.values()
    assert counts.tolist() == [[2, 2, 0]]


def test_a_part_without_both_labels_is_refused() -> None:
    data = dataset_of([(1, 1, i * HOUR, float(i < 5)) for i in range(20)])
    with pytest.raises(DataError, match="validation part"):
        split_rows(data, labels_of(data, LABEL), GlobalTime())
