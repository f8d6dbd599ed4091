"""Each kind of feature against numbers worked out by hand."""

import math

import numpy as np
import pytest

from millirec.data.errors import ArtifactError, ConfigError, DataError
from millirec.data.features import Facts, FeatureState, Featuriser, Keys, Learned, Ragged, check_fields
from millirec.data.features.config import (
    AgeField,
    CategoricalField,
    ClockField,
    CounterField,
    CrossField,
    FieldConfig,
    GapField,
    HashedField,
    MomentField,
    MultiValuedField,
    NumericField,
    SequenceField,
)
from tests.data.features.world import DAY, FIELDS, HOUR, items, users


def facts(rows: list[int], now: int = 0, user: int = 1) -> Facts:
    n = len(rows)
    return Facts(np.full(n, user), np.array(rows), np.full(n, now))


def fitted(field: FieldConfig, rows: list[int], *others: FieldConfig) -> Featuriser:
    return Featuriser.fit((*others, field), facts(rows), np.ones(len(rows)), users(), items())


def test_a_vocabulary_holds_frequent_values_and_the_rest_is_unknown() -> None:
    field = CategoricalField(name="item", source="item", min_count=2, max_size=2)
    featuriser = fitted(field, [5, 5, 5, 4, 4, 2, 2, 1])
    assert featuriser.learned["item"].values == ("i5", "i2")  # i2 and i4 are as frequent: by name
    assert featuriser.features(facts([5, 2, 4, 1, 0, 99])).ids[:, 0].tolist() == [1, 2, 0, 0, 0, 0]
    assert featuriser.schema().categorical[0].size == 2


def test_a_number_can_be_a_category() -> None:
    featuriser = fitted(CategoricalField(name="p", source="item.price"), [1, 2, 2, 3])
    assert featuriser.learned["p"].values == ("20", "10")
    assert featuriser.features(facts([1, 2, 3])).ids[:, 0].tolist() == [2, 1, 0]


def test_hashes_stay_in_their_space_and_are_the_same_for_ever() -> None:
    featuriser = fitted(HashedField(name="h", source="item", size=3), [1])
    ids = featuriser.features(facts([1, 2, 3, 4, 5, 0, 99])).ids[:, 0].tolist()
    assert ids[5:] == [0, 0]
    assert ids[:5] == [1, 2, 2, 3, 1]  # blake2b, 8 bytes, little-endian, modulo 3, plus 1


def test_several_values_keep_their_order_and_only_known_ones() -> None:
    featuriser = fitted(MultiValuedField(name="t", source="item.tags", max_values=2), [1, 2, 2])
    # item 1: x; item 2: y, z; item 4: x; item 5: y, z; row 3 has none
    assert featuriser.learned["t"].values == ("y", "z", "x")
    (tags,) = featuriser.features(facts([1, 2, 3, 0, 99])).lists
    offsets, values = tags.packed()
    assert offsets.tolist() == [0, 1, 3, 3, 3, 3]
    assert values.tolist() == [3, 1, 2]
    assert featuriser.schema().lists[0].width == 2


def test_numbers_are_standardised_by_the_training_rows() -> None:
    featuriser = fitted(NumericField(name="p", source="item.price"), [1, 2, 3])  # 10, 20, missing
    numbers = featuriser.features(facts([1, 2, 4, 3, 99])).numbers[:, 0]
    assert numbers.tolist() == [-1, 1, 5, 0, 0]


def test_numbers_out_of_all_proportion_are_kept_in_bounds() -> None:
    featuriser = Featuriser(
        (NumericField(name="n", source="context.n"),), {"n": Learned(mean=1, deviation=2)}, users(), items()
    )
    sent = np.array([3, 1e300, -1e300, float("inf"), float("nan"), None], object)
    n = len(sent)
    numbers = featuriser.features(Facts(np.ones(n, int), np.ones(n, int), np.zeros(n, int), {"n": sent})).numbers
    assert numbers[:, 0].tolist() == [1, 100, -100, 0, 0, 0]


def test_context_that_is_no_number_is_refused() -> None:
    featuriser, _ = live(NumericField(name="n", source="context.n"))
    with pytest.raises(DataError, match=r"context\.n: not a number"):
        featuriser.features(Facts(np.ones(1, int), np.ones(1, int), np.zeros(1, int), {"n": np.array(["x"], object)}))
    with pytest.raises(DataError, match=r"context\.n: \(1,\) values for 2 rows"):
        Facts(np.ones(2, int), np.ones(2, int), np.zeros(2, int), {"n": np.ones(1)})


def test_logarithms_are_standardised_too() -> None:
    featuriser = fitted(NumericField(name="p", source="item.price", scale="log"), [1, 4])
    one, four = math.log(11), math.log(41)
    expected = (math.log(21) - (one + four) / 2) / ((four - one) / 2)
    assert featuriser.features(facts([2])).numbers[0, 0] == pytest.approx(expected)


def test_buckets_hold_equal_shares() -> None:
    featuriser = fitted(NumericField(name="p", source="item.price", scale="buckets", buckets=2), [1, 2, 4, 5])
    assert featuriser.learned["p"].edges == (20.0,)
    assert featuriser.features(facts([1, 2, 4, 8, 3])).ids[:, 0].tolist() == [1, 2, 2, 2, 0]
    assert featuriser.features(facts([1])).numbers.shape == (1, 0)
    assert featuriser.schema().categorical[0].size == 2


@pytest.mark.parametrize(
    ("part", "offset", "now", "expected"),
    [
        ("hour", 0, 0, 1),
        ("hour", 0, 23 * HOUR + 1, 24),
        ("hour", 2, 23 * HOUR, 2),
        ("hour", -1, 0, 24),
        ("weekday", 0, 0, 4),  # 1970-01-01 was a Thursday
        ("weekday", 0, 3 * DAY, 7),
        ("weekday", 0, 4 * DAY, 1),
        ("weekday", 0, -4 * DAY, 7),
    ],
)
def test_the_clock(part: str, offset: int, now: int, expected: int) -> None:
    featuriser = fitted(ClockField(name="c", part=part, offset_hours=offset), [1])  # type: ignore[arg-type]
    assert featuriser.features(facts([1], now)).ids[0, 0] == expected


def test_the_moment_is_counted_in_days() -> None:
    field = MomentField(name="m")
    featuriser = Featuriser((field,), {"m": Learned(mean=1, deviation=2)}, users(), items())
    assert featuriser.features(facts([1], 6 * DAY)).numbers[0, 0] == 2.5
    assert featuriser.features(facts([1], DAY // 2)).numbers[0, 0] == -0.25


def test_a_cross_is_missing_when_a_part_is() -> None:
    featuriser = fitted(CrossField(name="x", sources=("user", "item.shop"), size=1000), [1])
    ids = featuriser.features(facts([1, 2, 3, 0])).ids[:, 0]
    assert ids[0] == ids[2] != ids[1] > 0
    assert ids[3] == 0


def test_crosses_of_other_orders_differ() -> None:
    shape = {"name": "x", "size": 10**6}
    one = fitted(CrossField(sources=("user", "item"), **shape), [1])  # type: ignore[arg-type]
    other = fitted(CrossField(sources=("item", "user"), **shape), [1])  # type: ignore[arg-type]
    assert one.features(facts([2])).ids != other.features(facts([2])).ids


def live(*fields: FieldConfig) -> tuple[Featuriser, FeatureState]:
    """Scales that change nothing, priors of one half."""
    learned = {field.name: Learned(values=("i1", "i2"), prior=0.5) for field in fields}
    featuriser = Featuriser(fields, learned, users(), items())
    return featuriser, FeatureState(featuriser.needs, featuriser.keys)


def test_rates_are_smoothed_and_forget() -> None:
    featuriser, state = live(CounterField(name="r", by=("item",), window="1h", smoothing=2))
    for time, label in ((0, 1), (60_000, 1), (60_000, -1), (HOUR, 0)):
        state.observe(1, 1, time, label)
    rates = [
        featuriser.features(state.facts(1, np.array([1, 2]), now)).numbers[:, 0].tolist()
        for now in (HOUR + 1, HOUR + 60_000, 2 * HOUR + 60_000)
    ]
    # At one hour the first minute has gone; a minute later the second one.
    assert rates == [[(1 + 1) / (2 + 2), 0.5], [pytest.approx(1 / 3), 0.5], [0.5, 0.5]]


def test_gap_and_age() -> None:
    featuriser, state = live(GapField(name="g", scale="standard"), AgeField(name="a", scale="standard"))
    state.observe(1, 1, 0)
    state.observe(1, 2, HOUR)
    numbers = featuriser.features(state.facts(1, np.array([1, 2, 3]), HOUR + 36_000)).numbers
    assert numbers == pytest.approx(np.array([[36, 1.01], [36, 0.01], [36, 0]]))


def test_a_sequence_speaks_the_ids_of_its_item_feature() -> None:
    item = CategoricalField(name="item", source="item")
    featuriser, state = live(item, SequenceField(name="s", of="item", length=3, only="positive"))
    for time, (row, label) in enumerate([(2, 1), (1, 0), (5, 1), (1, 1)]):
        state.observe(1, row, time, label)
    (history,) = featuriser.features(state.facts(1, np.array([1, 2]), 9)).sequences
    assert history.padded(3).tolist() == [[2, 1, 0], [2, 1, 0]]  # item 5 is in no vocabulary and leaves no gap
    assert featuriser.schema().sequences[0].of == 0


def test_what_was_learned_must_be_of_these_fields() -> None:
    with pytest.raises(ArtifactError, match="other features"):
        Featuriser(FIELDS, {}, users(), items())


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (CategoricalField(name="f", source="item.colour"), r"f\.source: items have no feature 'colour' -> .*shop"),
        (CategoricalField(name="f", source="item.tags"), r"'item\.tags' has no single value"),
        (MultiValuedField(name="f", source="item.shop"), "not multi-valued"),
        (NumericField(name="f", source="user.plan"), r"'user\.plan' is not a number"),
        (HashedField(name="f", source="user.name", size=2), "users have no feature 'name'"),
    ],
)
def test_sources_that_are_not_there_are_named(field: FieldConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Featuriser.fit((field,), facts([1]), np.ones(1), users(), items())


def test_a_counter_counts_by_one_value() -> None:
    with pytest.raises(ConfigError, match=r"f\.by: 'item\.tags' has no single value"):
        Keys(users(), items()).check([CounterField(name="f", by=("item.tags",))])
    Keys(users(), items()).check([CounterField(name="f", by=("item.price", "user"))])


def test_a_context_that_no_row_has_is_refused_in_training_and_unknown_when_live() -> None:
    field = CategoricalField(name="f", source="context.page")
    with pytest.raises(DataError, match=r"no context\.page"):
        fitted(field, [1])
    featuriser, _ = live(field)
    assert featuriser.features(facts([1])).ids.tolist() == [[0]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CategoricalField(name="f", source="films"), r"f\.source = 'films'"),
        (lambda: CategoricalField(name="", source="item"), "empty `name`"),
        (lambda: CategoricalField(name="f", source="item", min_count=0), r"f\.min_count = 0"),
        (lambda: HashedField(name="f", source="item", size=0), r"f\.size = 0"),
        (lambda: MultiValuedField(name="f", source="context.x"), "has one value"),
        (lambda: NumericField(name="f", source="item"), "is an id"),
        (lambda: NumericField(name="f", source="item.p", buckets=1), r"f\.buckets = 1"),
        (lambda: ClockField(name="f", part="hour", offset_hours=20), r"f\.offset_hours = 20"),
        (lambda: CounterField(name="f", by=()), r"f\.by = \[\]"),
        (lambda: CounterField(name="f", by=("user", "user")), "two different"),
        (lambda: CounterField(name="f", by=("context.x",)), "events do not tell"),
        (lambda: CounterField(name="f", by=("item",), smoothing=-1), r"f\.smoothing = -1"),
        (lambda: CrossField(name="f", sources=("user",), size=3), "two or more"),
        (lambda: SequenceField(name="f", of="item", length=0), r"f\.length = 0"),
        (lambda: check_fields(()), r"\$\.features: empty"),
        (lambda: check_fields([CategoricalField(name="f", source="item")] * 2), "'f' stands twice"),
        (lambda: check_fields([SequenceField(name="f", of="item")]), r"f\.of = 'item'"),
    ],
)
def test_declarations_that_cannot_work_are_refused(make, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_ragged_rows_by_hand() -> None:
    rows = Ragged(np.array([5, 6, 7, 8], np.int32), np.array([0, 2, 1]), np.array([2, 2, 4]))
    assert rows.padded(2).tolist() == [[5, 6], [0, 0], [6, 7]]
    assert rows.last(1).padded(1).tolist() == [[6], [0], [8]]
    assert rows.first(2).packed()[1].tolist() == [5, 6, 6, 7]
    ids = np.array([0, 0, 0, 0, 0, 3, 0, 4], np.int32)  # 6 is unknown, 8 behind the end
    assert rows.mapped(ids).padded(3).tolist() == [[3, 0, 0], [0, 0, 0], [4, 0, 0]]
