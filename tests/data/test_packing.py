"""Whole numbers in few bits: all come back, in about as many bits as they need."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millirec.data.compact.packing import MOST, Ints, Reader, Writer, deflated, inflated

ANY = st.integers(-(2**63), 2**63 - 1)
NARROW = st.integers(-5, 5)


def packed(numbers: np.ndarray) -> tuple[Ints, bytes]:
    parts = Writer()
    return Ints.of(numbers, parts), parts.data()


def reader(data: bytes) -> Reader:
    return Reader(np.frombuffer(data, np.uint8))


@settings(max_examples=100, deadline=None)
@given(st.one_of(st.lists(ANY), st.lists(NARROW), st.lists(st.sampled_from([-(2**63), 2**63 - 1, 0]))))
def test_all_numbers_come_back(numbers: list[int]) -> None:
    ints, data = packed(np.array(numbers, np.int64))
    assert ints.read(reader(data), len(numbers)).tolist() == numbers


@pytest.mark.parametrize("width", [1, 2, 3, 4, 7, 8, 9, 31, 32, 33, 34, 35, 36, 40, 57, 63])
def test_every_width_comes_back(width: int) -> None:
    numbers = np.random.default_rng(width).integers(0, 2**width, 70_000, np.uint64).view(np.int64)
    ints, data = packed(numbers)
    assert np.array_equal(ints.read(reader(data), len(numbers)), numbers)
    assert len(data) * 8 <= len(numbers) * (width + 0.3) + 500


def test_the_form_is_the_one_that_is_small() -> None:
    rng = np.random.default_rng(0)
    cases = {
        "plain": rng.integers(0, 1000, 5000),
        "delta": np.cumsum(rng.integers(0, 1000, 5000)) + 10**12,
        "zigzag": np.cumsum(rng.standard_cauchy(5000) * 3).astype(np.int64),
    }
    for form, numbers in cases.items():
        assert packed(numbers)[0].form == form


def test_what_all_have_in_common_is_told_once() -> None:
    days = np.random.default_rng(0).integers(0, 64, 10_000) * 86_400_000 + 1_500_000_000_123
    ints, data = packed(days)
    assert ints.step == 86_400_000
    assert len(data) * 8 < 10_000 * 6.2 + 500


def test_a_skewed_column_takes_about_its_entropy() -> None:
    numbers = np.random.default_rng(0).geometric(0.02, 100_000)
    counts = np.unique(numbers, return_counts=True)[1]
    entropy = float((counts * np.log2(counts.sum() / counts)).sum())
    data = packed(numbers)[1]
    assert entropy * 0.999 <= len(data) * 8 <= entropy * 1.03


def test_a_count_costs_next_to_nothing_and_yet_a_small_file_asks_for_little() -> None:
    ints, data = packed(np.arange(1_000_000))
    assert len(data) == 1_000_000 // MOST
    assert np.array_equal(ints.read(reader(data), 1_000_000), np.arange(1_000_000))
    with pytest.raises(ValueError, match="entries in a file"):
        ints.read(reader(data[:-1]), 1_000_000)


def test_what_does_not_fit_is_refused() -> None:
    numbers = np.random.default_rng(0).integers(0, 2**40, 1000)
    ints, data = packed(numbers)
    with pytest.raises(ValueError, match="1000 numbers, 999 expected"):
        ints.read(reader(data), 999)
    with pytest.raises(ValueError, match="left"):
        ints.read(reader(data[:-1]), 1000)
    for size in (-1, 10**30):
        with pytest.raises(ValueError, match="left"):
            reader(data).take(size)


@given(st.binary(max_size=500))
def test_deflating_is_undone_and_its_size_is_checked(data: bytes) -> None:
    small = np.frombuffer(deflated(data), np.uint8)
    assert inflated(small, len(data)) == data
    with pytest.raises(ValueError, match="expected"):
        inflated(small, len(data) + 1)
    if len(data) > 1:
        with pytest.raises(ValueError, match="expected"):
            inflated(small, len(data) - 1)
