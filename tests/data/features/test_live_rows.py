"""One user and many candidates at once: the same bytes as the one definition of features gives."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millirec.data.features import (
    Events,
    Features,
    FeatureState,
    Featuriser,
    LiveFeatures,
    Questions,
    counts,
    live_counters,
    replayed,
)
from millirec.data.features.config import CategoricalField, CounterField, CrossField, NumericField, SequenceField
from millirec.data.features.live import LiveRows
from millirec.data.features.ragged import Ragged
from millirec.data.labels import POSITIVE
from tests.data.features.test_live_and_batch import GAPS, LOGS, columns, facts_of
from tests.data.features.world import DAY, FIELDS, HOUR, items, users

MORE = (
    *FIELDS,
    CounterField(name="pair bucket", by=("user", "item"), window="1d", scale="buckets", buckets=3),
    CounterField(name="raw rate", by=("item.shop",), window="7d", smoothing=0.0),
    CounterField(name="user and plan", by=("user", "user.plan"), what="events"),
    CounterField(name="item and shop", by=("item", "item.shop"), window="1h", what="positives", scale="log"),
    CrossField(name="hers", sources=("user", "user.plan"), size=5),
    CategoricalField(name="page", source="context.page"),
    NumericField(name="score", source="context.score", scale="log"),
    CrossField(name="page x shop", sources=("context.page", "item.shop"), size=9),
)


def assembled(live: LiveFeatures, rows: np.ndarray, found: LiveRows) -> Features:
    """Sides put together again: all columns in the order of the schema, for each candidate."""
    n, sides = len(rows), live.sides
    parts = (
        (sides.item, live.items.ids[rows], live.items.numbers[rows], live.items.lists[rows]),
        (sides.user, *(np.repeat(a, n, 0) for a in (found.user_ids, found.user_numbers, found.user_lists))),
        (sides.row, found.row_ids, found.row_numbers, np.zeros((n, 0), np.int32)),
    )
    ids = np.zeros((n, sum(len(c.ids) for c in sides)), np.int32)
    numbers = np.zeros((n, sum(len(c.numbers) for c in sides)), np.float32)
    lists: dict[int, Ragged] = {}
    widths = [space.width for space in live.featuriser.schema().lists]
    for side, own_ids, own_numbers, own_lists in parts:
        ids[:, side.ids], numbers[:, side.numbers] = own_ids, own_numbers
        at = 0
        for place in side.lists:
            lists[place] = ragged(own_lists[:, at : at + widths[place]])
            at += widths[place]
    sequences = [ragged(np.repeat(found.sequences[:, i], n, 0)) for i in range(found.sequences.shape[1])]
    return Features(ids, numbers, tuple(lists[i] for i in sorted(lists)), tuple(sequences))


def ragged(padded: np.ndarray) -> Ragged:
    sizes = (padded > 0).sum(1)
    ends = np.cumsum(sizes)
    return Ragged(padded[padded > 0].astype(np.int32), ends - sizes, ends)


@given(LOGS, st.data())
@settings(max_examples=120, deadline=None)
def test_sides_give_the_bytes_of_the_one_definition(log: tuple[int, list], data: st.DataObject) -> None:
    """Also between events, so that windows slide while they are read."""
    events = columns(*log)
    n = len(events[0])
    context = {"page": np.array(["a", None] * n, object)[:n], "score": np.arange(n) - 2.0}
    known = facts_of(events)
    featuriser = Featuriser.fit(
        MORE,
        type(known)(**{**vars(known), **{"context": context, "counts": _counts(events)}}),
        events[3] == POSITIVE,
        users(),
        items(),
    )
    state = FeatureState(featuriser.needs, featuriser.keys)
    live = LiveFeatures(featuriser, state)
    rows = np.array(data.draw(st.permutations(range(1, 9))), np.int32)
    asked = {"page": np.array(["a", "b", None, "a"] * 2, object), "score": np.arange(8) / 3}
    for event in zip(*(c.tolist() for c in events), strict=True):
        state.observe(*event)
        now = event[2] + data.draw(GAPS)
        user = data.draw(st.integers(0, 7))
        found = assembled(live, rows, live.rows(user, rows, now, asked))
        assert found.to_bytes() == featuriser.features(state.facts(user, rows, now, asked)).to_bytes()


def _counts(events: tuple) -> dict:
    from millirec.data.features import Keys, Needs, Questions, replayed

    return replayed(Events(*events), Questions(*events[:3], {}), Needs.of(MORE), Keys(users(), items())).counts


@given(LOGS, st.integers(0, 40), GAPS)
@settings(max_examples=120, deadline=None)
def test_many_events_at_once_are_one_after_the_other(log: tuple[int, list], cut: int, gap: int) -> None:
    """In any split, late ones too, and by way of the disk."""
    events = columns(*log)
    order = np.argsort(np.arange(len(events[0])) % 3, kind="stable")  # some come late
    events = tuple(column[order] for column in events)
    featuriser = Featuriser.fit(FIELDS, facts_of(columns(*log)), columns(*log)[3] == POSITIVE, users(), items())
    one, other = (FeatureState(featuriser.needs, featuriser.keys) for _ in range(2))
    for event in zip(*(c.tolist() for c in events), strict=True):
        one.observe(*event)
    now = int(events[2].max()) + gap
    other.extend(Events(*(column[:cut] for column in events)), now)
    kept = FeatureState(featuriser.needs, featuriser.keys)
    kept.load(other.arrays())
    kept.extend(Events(*(column[cut:] for column in events)), now)
    for user in range(8):
        wanted = featuriser.features(one.facts(user, np.arange(10), now)).to_bytes()
        assert featuriser.features(kept.facts(user, np.arange(10), now)).to_bytes() == wanted


def test_a_history_given_by_the_caller_stands_for_events_without_labels() -> None:
    fields = (
        CategoricalField(name="item", source="item"),
        SequenceField(name="all", of="item", length=2),
        SequenceField(name="liked", of="item", only="positive"),
    )
    events = columns(0, [(1, item, 1, 1) for item in range(1, 9)])
    featuriser = Featuriser.fit(fields, facts_of(events), events[3], users(), items())
    live = LiveFeatures(featuriser, FeatureState(featuriser.needs, featuriser.keys))
    found = live.rows(0, np.array([1, 2], np.int32), DAY, {}, np.array([5, 0, 7, 8], np.int32))
    ids = featuriser.ids_by_row["item"]
    assert found.sequences.tolist() == [[[ids[7], ids[8]], [0, 0]]]


@pytest.mark.parametrize("name", ["counts0.sums", "recent0.items", "counts0.0.places"])
def test_a_state_that_does_not_fit_is_refused(name: str) -> None:
    events = columns(0, [(1, 2, 1, 1), (2, 3, 1, 0), (3, 4, 1, -1)])
    featuriser = Featuriser.fit(FIELDS, facts_of(events), events[3] == POSITIVE, users(), items())
    state = FeatureState(featuriser.needs, featuriser.keys)
    state.extend(Events(*events), 4)
    arrays = state.arrays()
    again = FeatureState(featuriser.needs, featuriser.keys)
    again.load(arrays)
    assert name in arrays
    with pytest.raises((ValueError, KeyError)):
        FeatureState(featuriser.needs, featuriser.keys).load({**arrays, name: arrays[name][:-1] + 1})


def counted(n: int) -> tuple[Featuriser, FeatureState, LiveFeatures, tuple]:
    """Features of all kinds over a log in which some items are met often; nothing of it is known yet."""
    rng = np.random.default_rng(0)
    popular = np.minimum(rng.geometric(0.4, n), 8)
    log = [(int(rng.integers(1, 7)), int(i), int(rng.integers(0, 3)), int(rng.integers(-1, 2))) for i in popular]
    events = columns(0, log)
    featuriser = Featuriser.fit(FIELDS, facts_of(events), events[3] == POSITIVE, users(), items())
    state = FeatureState(featuriser.needs, featuriser.keys)
    return featuriser, state, LiveFeatures(featuriser, state), events


@pytest.mark.parametrize(("few", "block", "most"), [(0, 256, 1024), (8, 1, 2), (1000, 4, 1)])
def test_places_that_change_have_the_same_bytes(
    few: int, block: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether counters are renewed together or one by one, and however many of their numbers are remembered."""
    monkeypatch.setattr(live_counters, "_FEW", few)
    monkeypatch.setattr(live_counters, "_BLOCK", block)
    monkeypatch.setattr(live_counters, "_MOST_BLOCKS", most)
    featuriser, state, live, events = counted(120)
    seen = 0.0
    for i, event in enumerate(zip(*(c.tolist() for c in events), strict=True)):
        state.observe(*event)
        rows, now = np.arange(1, 2 + i % 8, dtype=np.int32), event[2] + 1
        wanted = featuriser.features(state.facts(event[0], rows, now))
        assert assembled(live, rows, live.rows(event[0], rows, now)).to_bytes() == wanted.to_bytes()
        seen = max(seen, float(state.counts[0].read((rows.astype(np.int64),)).max()))
    assert seen > 20


@pytest.mark.parametrize(("before", "loaded"), [(0, 60), (60, 60), (60, 3)])
def test_a_state_that_is_loaded_is_seen(before: int, loaded: int) -> None:
    """Also by features that looked at another one before, of more places or of fewer."""
    featuriser, state, live, events = counted(60)
    now, rows = int(events[2].max()) + 1, np.arange(1, 9, dtype=np.int32)
    other = FeatureState(featuriser.needs, featuriser.keys)
    state.extend(Events(*(column[:before] for column in events)), now)
    live.slide(now)
    other.extend(Events(*(column[:loaded] for column in events)), now)
    state.load(other.arrays())
    wanted = featuriser.features(other.facts(1, rows, now))
    assert assembled(live, rows, live.rows(1, rows, now)).to_bytes() == wanted.to_bytes()


def test_shares_make_the_mean_of_a_sequence() -> None:
    events = columns(0, [(1, item, 1, 1) for item in range(1, 9)])
    fields = (
        CategoricalField(name="item", source="item"),
        SequenceField(name="all", of="item", length=4),
        SequenceField(name="disliked", of="item", only="negative"),
    )
    featuriser = Featuriser.fit(fields, facts_of(events), events[3], users(), items())
    state = FeatureState(featuriser.needs, featuriser.keys)
    state.extend(Events(*events), 10)
    found = LiveFeatures(featuriser, state).rows(1, np.array([1], np.int32), DAY)
    assert found.shares.tolist() == [[[0.25] * 4, [0.0] * 4]]


@pytest.mark.parametrize("few", [0, 1000])
def test_events_leave_a_window_together_or_one_by_one(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has gone out of every window counts no more, whichever way it was taken away."""
    monkeypatch.setattr(counts, "_FEW_EVENTS", few)
    featuriser, state, live, events = counted(60)
    for event in zip(*(c.tolist() for c in events), strict=True):
        state.observe(*event)
    rows, last = np.arange(1, 9, dtype=np.int32), int(events[2].max())
    for now in (last + 1, last + 2 * HOUR, last + 2 * DAY, last + 40 * DAY):
        found = assembled(live, rows, live.rows(1, rows, now))
        asked = Questions(np.full(8, 1), rows.astype(np.int64), np.full(8, now), {})
        facts = replayed(Events(*events), asked, featuriser.needs, featuriser.keys)
        assert found.to_bytes() == featuriser.features(facts).to_bytes()
