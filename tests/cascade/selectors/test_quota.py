"""Quotas against brute force over all lists, and by property."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millirec.cascade.cascade import Cascade, CascadeConfig
from millirec.cascade.query import Ranking, Shelf
from millirec.cascade.selectors import MMRSelector, QuotaSelector, TopKSelector
from millirec.data.errors import ConfigError
from tests.shelves import GENRES, TAGS, ask, rows_of, shelf_of

VECTOR = [1.0, -0.5, 0.25, 0.75]


def genre(row: int) -> str | None:
    return GENRES[row % 3] if row % 7 else None


def tags(shelf: Shelf, row: int) -> list[str]:
    member = shelf.fields.of("tags", np.array([row], np.int32))
    return [value for value, has in zip(member.values, member.has[0], strict=True) if has]


def answer(shelf: Shelf, k: int, *selectors: object, **fields: object) -> Ranking:
    return Cascade(CascadeConfig(selectors=selectors), shelf).run([ask(k, VECTOR, **fields)])[0]  # type: ignore[arg-type]


quotas = st.fixed_dictionaries(
    {
        "most": st.none() | st.integers(0, 4),
        "most_of": st.dictionaries(st.sampled_from(GENRES), st.integers(0, 4), max_size=2),
        "least": st.dictionaries(st.sampled_from(GENRES), st.integers(1, 3), max_size=2),
    }
)


def fits(quota: QuotaSelector, rows: tuple[int, ...], available: dict[str, int]) -> bool:
    counts = {name: sum(genre(row) == name for row in rows) for name in GENRES}
    for name in GENRES:
        most = quota.most_for(name)
        if most is not None and counts[name] > most:
            return False
        if counts[name] < min(quota.least.get(name, 0), available[name]):
            return False
    return True


@settings(max_examples=80, deadline=None)
@given(quotas, st.integers(0, 5), st.sampled_from([1, 3, 50]))
def test_the_best_of_all_lists_within_the_bounds(drawn: dict, seed: int, pool: int) -> None:
    """With one value an item, whatever the pool; the longer list is the better one."""
    try:
        quota = QuotaSelector(feature="genre", pool=pool, **drawn)
    except ConfigError:
        return
    shelf, k = shelf_of(13, seed=seed), 4
    if sum(quota.least.values()) > k:
        return
    got = answer(shelf, k, quota)
    scores = dict(
        zip(range(1, 14), shelf.index.vectors(np.arange(1, 14, dtype=np.int32)) @ np.array(VECTOR), strict=True)
    )
    available = {name: sum(genre(row) == name for row in scores) for name in GENRES}
    best = (0, 0.0)
    for n in range(k + 1):
        for rows in combinations(scores, n):
            if fits(quota, rows, available):
                best = max(best, (n, sum(float(scores[row]) for row in rows)))
    assert fits(quota, tuple(rows_of(got)), available)
    assert (len(got.items), sum(got.scores)) == (best[0], pytest.approx(best[1], abs=1e-4))
    assert list(got.scores) == sorted(got.scores, reverse=True)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3),
    st.dictionaries(st.sampled_from(TAGS), st.integers(1, 2), max_size=2),
    st.integers(1, 12),
    st.integers(0, 5),
)
def test_items_with_several_values_count_for_each(most: int, least: dict[str, int], k: int, seed: int) -> None:
    if any(most < n for n in least.values()):
        return
    shelf = shelf_of(60, seed=seed)
    got = answer(shelf, k, QuotaSelector(feature="tags", most=most, least=least, pool=5))
    counts = {tag: sum(tag in tags(shelf, row) for row in rows_of(got)) for tag in TAGS}
    assert max(counts.values()) <= most
    if sum(least.values()) <= k and len(least) < 2:
        assert all(counts[tag] >= n for tag, n in least.items())
    untagged = sum(not tags(shelf, row) for row in range(1, 61))
    assert len(got.items) >= min(k, untagged)


def test_at_least_reaches_beyond_the_pool_and_past_the_filters() -> None:
    shelf = shelf_of(300)
    war = answer(shelf, 300, TopKSelector(), where=shelf.fields.matches("genre", "war"))
    seen = [rows_of(war)[0]]
    got = answer(shelf, 5, QuotaSelector(feature="genre", least={"war": 4}, pool=5), seen=seen)
    assert [row for row in rows_of(got) if genre(row) == "war"] == rows_of(war)[1:5]
    assert rows_of(got)[0] == rows_of(answer(shelf, 1, TopKSelector(), seen=seen))[0]


def test_at_most_widens_the_pool_until_the_list_is_full() -> None:
    shelf = shelf_of(300)
    full = answer(shelf, 40, QuotaSelector(feature="genre", most=1, pool=40))
    assert sum(genre(row) is None for row in rows_of(full)) == 37
    short = answer(shelf, 300, QuotaSelector(feature="genre", most=2))
    assert len(short.items) == 300 // 7 + 6
    assert [stage.name for stage in short.trace].count("sequence") == 1
    few = np.zeros(301, bool)
    few[1:31] = True
    narrow = answer(shelf, 10, QuotaSelector(feature="genre", most=1, pool=2), where=few)
    assert len(narrow.items) == 3 + 4


def test_two_quotas_and_mmr_compose() -> None:
    shelf = shelf_of(300)
    both = (QuotaSelector(feature="genre", most=3), QuotaSelector(feature="tags", most=5), MMRSelector(relevance=0.5))
    got = rows_of(answer(shelf, 9, *both))
    assert len(got) == 9
    assert max(sum(genre(row) == name for row in got) for name in GENRES) <= 3
    assert max(sum(name in tags(shelf, row) for row in got) for name in TAGS) <= 5
    kept = answer(shelf, 9, MMRSelector(relevance=0.5, n=60), QuotaSelector(feature="genre", most=3))
    order = rows_of(answer(shelf, 60, MMRSelector(relevance=0.5)))
    assert rows_of(kept) == sorted(rows_of(kept), key=order.index)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "bounds nothing"),
        ({"most": -1}, "most is below 0"),
        ({"most": 1, "least": {"war": 2}}, r"least\['war'\] = 2 is more than the most, 1"),
        ({"least": {"war": 0}}, r"least\['war'\] = 0"),
        ({"most": 1, "pool": 0}, "pool = 0"),
    ],
)
def test_bad_settings_are_refused(fields: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        QuotaSelector(feature="genre", **fields)


def test_a_feature_that_no_item_has_is_refused_when_the_cascade_opens() -> None:
    with pytest.raises(ConfigError, match=r"selectors\[1\]\.feature = 'gnre'.*'genre', 'tags'"):
        Cascade(CascadeConfig(selectors=(TopKSelector(), QuotaSelector(feature="gnre", most=1))), shelf_of(9))


def test_updates_count_at_once() -> None:
    shelf = shelf_of(60)
    before = answer(shelf, 5, QuotaSelector(feature="genre", most=1))
    last = next(row for row in rows_of(before) if genre(row) is None)
    for row in range(1, 61):
        shelf.fields.update(row, {"genre": ["opera"]})
    after = answer(shelf, 5, QuotaSelector(feature="genre", most=2))
    assert len(after.items) == 2
    shelf.fields.update(last, {"genre": "jazz"})
    assert last in rows_of(answer(shelf, 60, QuotaSelector(feature="genre", most=2)))
