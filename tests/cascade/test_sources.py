"""Each source against its definition, and several of them asked together."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millirec.cascade.cascade import Cascade, CascadeConfig
from millirec.cascade.query import Asked, Ranking, Shelf
from millirec.cascade.rules import Boost, boosts_of
from millirec.cascade.selectors import PlacesSelector, QuotaSelector, SoftmaxSelector, TopKSelector
from millirec.cascade.sources import (
    ContentSource,
    NewSource,
    OwnSource,
    PopularSource,
    SequenceSource,
    SimilarSource,
    SourceConfig,
    offer,
)
from millirec.data.errors import ConfigError
from tests.cascade.test_rules import values_of
from tests.shelves import ask, rows_of, shelf_of

VECTOR = [1.0, -0.5, 0.25, 0.75]


def answer(shelf: Shelf, sources: tuple[SourceConfig, ...], asked: Asked, *selectors: object) -> Ranking:
    config = CascadeConfig(gather="together", sources=sources, selectors=selectors or (TopKSelector(),))  # type: ignore[arg-type]
    return Cascade(config, shelf).run([asked])[0]


def cosines(shelf: Shelf, row: int) -> np.ndarray:
    vectors = shelf.index.vectors(np.arange(1, shelf.n_items + 1, dtype=np.int32)).astype(float)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit @ unit[row - 1]


def test_similar_items_are_near_one_of_the_last_different_ones() -> None:
    shelf = shelf_of(50)
    asked = ask(5, history=[9, 3, 0, 7, 3, 7])
    found = offer(SimilarSource(events=2), shelf, asked, 10)
    near = np.maximum(
        np.where(np.arange(1, 51) == 7, -2, cosines(shelf, 7)), np.where(np.arange(1, 51) == 3, -2, cosines(shelf, 3))
    )
    assert found.scores.tolist() == pytest.approx(np.sort(near)[::-1][:10].tolist(), abs=1e-5)
    assert found.scores.tolist() == pytest.approx(near[found.rows - 1].tolist(), abs=1e-5)
    assert len(offer(SimilarSource(), shelf, ask(5), 10)) == 0
    assert len(offer(SimilarSource(), shelf, ask(5, history=[0]), 10)) == 0


def test_new_items_have_few_events_the_latest_first() -> None:
    shelf = shelf_of(40)
    for most in (0, 2, 9):
        found = offer(NewSource(most_events=most), shelf, ask(5), 100)
        rows = [row for row in range(1, 41) if shelf.popularity[row] <= most]
        assert found.rows.tolist() == sorted(rows, key=lambda row: (shelf.popularity[row], -row))
    assert len(offer(NewSource(most_events=9), shelf, ask(5), 3)) == 3


def test_content_neighbours_share_values_with_recent_items() -> None:
    shelf = shelf_of(60)
    history = [8, 20, 31]
    found = offer(ContentSource(feature="tags", events=2), shelf, ask(5, history=history), 60)
    shared = {
        row: sum(len(values_of(shelf, "tags", row) & values_of(shelf, "tags", recent)) for recent in (20, 31))
        for row in range(1, 61)
    }
    expected = sorted(
        (row for row in shared if shared[row]), key=lambda row: (-shared[row], -shelf.popularity[row], row)
    )
    assert found.rows.tolist() == expected
    assert found.scores.tolist() == [shared[row] for row in expected]
    assert len(offer(ContentSource(feature="tags"), shelf, ask(5), 60)) == 0


def test_the_callers_own_keep_their_order_and_their_first_mention() -> None:
    found = offer(OwnSource(), shelf_of(9), ask(5, own=[5, 0, 2, 5, 9]), 60)
    assert found.rows.tolist() == [5, 2, 9]
    assert len(offer(OwnSource(), shelf_of(9), ask(5), 60)) == 0


FOUR = (SequenceSource(n=6), SimilarSource(n=5), NewSource(n=4, most_events=1), PopularSource(n=3))


def test_together_every_source_gives_its_own_and_the_model_scores_all() -> None:
    shelf = shelf_of(80)
    asked = ask(50, VECTOR, history=[7, 12], seen=[7, 12], exclude=[int(shelf.popular[0])])
    got = answer(shelf, FOUR, ask(10, VECTOR, history=[7, 12], seen=[7, 12], exclude=[int(shelf.popular[0])]))
    expected: dict[int, str] = {}
    for source in FOUR:
        rows = [r for r in offer(source, shelf, asked, 80).rows.tolist() if r not in (7, 12, int(shelf.popular[0]))]
        for row in rows[: source.n]:
            expected.setdefault(row, str(source.__struct_config__.tag))
    scores = {row: float(shelf.index.vectors(np.array([row], np.int32))[0] @ np.array(VECTOR)) for row in expected}
    assert got.sources is not None
    assert got.sources == tuple(expected[row] for row in rows_of(got))
    assert len(set(got.sources)) > 1
    assert list(got.scores) == pytest.approx(sorted(scores.values(), reverse=True)[:10], abs=1e-5)
    names = [stage.name for stage in got.trace]
    assert [n for n in names if n in ("sequence", "similar", "new", "popular")] == [
        "sequence", "similar", "new", "popular",
    ]  # fmt: skip
    merge = next(stage for stage in got.trace if stage.name == "merge")
    assert (merge.n_in, merge.n_out) == (18, len(expected))


def test_without_a_model_score_places_in_the_sources_count() -> None:
    shelf = shelf_of(30)
    asked = ask(30, None, own=[4, 9, 2])
    got = answer(shelf, (OwnSource(), PopularSource(n=30)), asked)
    popular = shelf.popular.tolist()
    fused = {row: 1 / (61 + place) for place, row in enumerate(popular)}
    for place, row in enumerate((4, 9, 2)):
        fused[row] += 1 / (61 + place)
    assert got.source == "fused"
    assert list(got.scores) == pytest.approx(sorted(fused.values(), reverse=True))
    assert dict(zip(rows_of(got), got.scores, strict=True)) == pytest.approx(fused)
    assert got.sources is not None
    assert {row for row, source in zip(rows_of(got), got.sources, strict=True) if source == "own"} == {4, 9, 2}


sources_drawn = st.lists(
    st.sampled_from(
        [SequenceSource(n=2), PopularSource(n=1), SimilarSource(n=3), NewSource(n=2), OwnSource(), SequenceSource()]
    ),
    min_size=1,
    max_size=4,
    unique_by=type,
)


@settings(max_examples=100, deadline=None)
@given(
    sources_drawn,
    st.integers(1, 40),
    st.booleans(),
    st.lists(st.integers(1, 30), max_size=25),
    st.lists(st.integers(0, 30), max_size=5),
    st.sampled_from([TopKSelector(), QuotaSelector(feature="genre", most=3), SoftmaxSelector(pool=5)]),
)
def test_whatever_is_asked_together(
    sources: list[SourceConfig], k: int, cold: bool, seen: list[int], history: list[int], selector: object
) -> None:
    """No item twice, nothing seen, a source for each; k items as long as a source that knows all items is asked."""
    shelf = shelf_of(30)
    asked = ask(k, None if cold else VECTOR, seen=seen, history=history, own=[3, 3, 0, 8])
    got = answer(shelf, tuple(sources), asked, selector)
    rows = rows_of(got)
    assert len(set(rows)) == len(rows)
    assert not set(rows) & set(seen)
    assert got.sources is not None
    assert len(got.sources) == len(rows)
    assert set(got.sources) <= {str(source.__struct_config__.tag) for source in sources}
    knows_all = any(isinstance(s, PopularSource) or (isinstance(s, SequenceSource) and not cold) for s in sources)
    if knows_all and not isinstance(selector, QuotaSelector):
        assert len(rows) == min(k, 30 - len(set(seen)))
    if knows_all and isinstance(selector, QuotaSelector):
        none = sum(row % 7 == 0 and row not in seen for row in range(1, 31))
        assert len(rows) >= min(k, none)


def test_places_bound_the_sources() -> None:
    shelf = shelf_of(200)
    sources = (NewSource(n=20), SequenceSource(n=50), PopularSource(n=50))
    asked = ask(10, VECTOR)
    free = answer(shelf, sources, asked)
    assert free.sources is not None
    new, popular = free.sources.count("new"), free.sources.count("popular")
    bounds = PlacesSelector(least={"new": new + 2}, most_of={"popular": max(popular - 1, 0)})
    got = answer(shelf, sources, asked, bounds)
    assert got.sources is not None
    assert len(got.items) == 10
    assert got.sources.count("new") == new + 2
    assert got.sources.count("popular") <= max(popular - 1, 0)
    assert list(got.scores) == sorted(got.scores, reverse=True)


@pytest.mark.parametrize("cold", [True, False])
def test_boosted_items_that_no_source_finds_can_win(cold: bool) -> None:
    shelf = shelf_of(300)
    asked = ask(5, None if cold else VECTOR, history=[7])
    plain = answer(shelf, FOUR, asked)
    last = next(row for row in range(300, 0, -1) if f"i{row}" not in plain.items)
    shelf.fields.update(last, {"label": "sponsored"})
    asked.boosts = boosts_of(shelf.fields, [Boost(where={"label": "sponsored"}, add=1e3)])
    got = answer(shelf, FOUR, asked)
    assert rows_of(got)[0] == last
    assert got.items[1:] == plain.items[:4]
    assert got.sources is not None
    assert got.sources[0] in ("catalogue", "new", "sequence", "similar", "popular")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"sources": [{"kind": "similar"}]}', r"sources\[0\] \(\"similar\"\).*gather"),
        ('{"sources": [{"kind": "popular", "n": 3}]}', r"sources\[0\] \(\"popular\"\)"),
        ('{"gather": "together", "sources": [{"kind": "new", "n": 0}]}', "n = 0"),
        ('{"gather": "together", "sources": [{"kind": "new", "most_events": -1}]}', "most_events = -1"),
        ('{"gather": "apart"}', "apart"),
        ('{"selectors": [{"kind": "places", "least": {"new": 1}}]}', "places"),
        (
            '{"gather": "together", "selectors": [{"kind": "places", "least": {"new": 1}}]}',
            r"selectors\[0\].*'new'.*sequence",
        ),
    ],
)
def test_a_config_that_cannot_work_is_refused(text: str, says: str) -> None:
    with pytest.raises((ConfigError, msgspec.ValidationError), match=says):
        msgspec.json.decode(text, type=CascadeConfig)


def test_a_feature_that_no_item_has_is_refused() -> None:
    config = CascadeConfig(gather="together", sources=(ContentSource(feature="gnre"),))
    with pytest.raises(ConfigError, match=r"sources\[0\]\.feature = 'gnre'"):
        Cascade(config, shelf_of(9))
