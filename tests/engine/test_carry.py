"""States carried from question to question give the answers of histories read anew."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from millirec.bundle import Bundle, pack
from millirec.cascade.query import Query
from millirec.data.encode import encode
from millirec.data.event import Event
from millirec.engine.carry import Carry, Question, capacity_of
from millirec.engine.engine import Engine
from millirec.engine.runner import Runner
from millirec.engine.settings import EngineSettings
from millirec.engine.state import StateStore
from millirec.models.gru4rec import GRU4RecConfig
from millirec.models.linear_recurrent import LinearRecurrentConfig
from tests.bundles import untrained

WINDOW = 12
MODEL = LinearRecurrentConfig(embedding_dim=8, heads=2, key_dim=3, max_length=WINDOW)


def noisy(config: object, folder: Path) -> Bundle:
    checkpoint = untrained(30, config)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    for parameter in checkpoint.parameters.values():
        parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return pack(checkpoint, folder)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return noisy(MODEL, tmp_path_factory.mktemp("carry") / "bundle")


@pytest.fixture
def carry(bundle: Bundle) -> Carry:
    return Carry(Runner(bundle.encoder, bundle.inputs, step=bundle.step), WINDOW, 100)


def question(key: bytes | None, events: list[tuple[int, int]], wait: int = 500) -> Question:
    items = np.array([item for item, _ in events], np.int32)
    times = np.array([time for _, time in events], np.int64)
    return Question(key, items, times, int(times[-1]) + wait if len(events) else wait)


def read_anew(bundle: Bundle, asked: Question) -> np.ndarray:
    batch = encode([asked.items], [asked.times], WINDOW, [asked.now])
    return Runner(bundle.encoder, bundle.inputs).encode(batch)[0]


def agree(carry: Carry, bundle: Bundle, *questions: Question) -> None:
    for asked, vector in zip(questions, carry.vectors(questions), strict=True):
        if not (asked.items > 0).any():
            assert vector is None
        else:
            assert vector is not None
            np.testing.assert_allclose(vector, read_anew(bundle, asked), rtol=1e-3, atol=1e-3)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(1, 3), st.integers(0, 10**8)), min_size=1, max_size=8))
def test_any_course_of_events_and_questions(bundle: Bundle, course: list[tuple[int, int, int]]) -> None:
    """Two users; each turn one of them does up to three things, some with unknown items, and both ask."""
    carry = Carry(Runner(bundle.encoder, bundle.inputs, step=bundle.step), WINDOW, 100)
    users: list[list[tuple[int, int]]] = [[], []]
    for user, count, gap in course:
        for step in range(count):
            clock = users[user][-1][1] if users[user] else 0
            if len([item for item, _ in users[user] if item]) < WINDOW:
                users[user].append(((gap + step) % 31, clock + gap))
        agree(carry, bundle, *(question(f"u{i}".encode(), events, gap) for i, events in enumerate(users)))


def test_a_known_history_is_not_read_again(carry: Carry, bundle: Bundle) -> None:
    events = [(1, 0), (2, 1000), (3, 2000)]
    agree(carry, bundle, question(b"u", events))
    assert (carry.hits, carry.misses) == (0, 1)
    agree(carry, bundle, question(b"u", events, wait=10**7))
    agree(carry, bundle, question(b"u", [*events, (4, 3000), (5, 9000)]))
    agree(carry, bundle, question(b"u", [*events, (4, 3000), (5, 9000)]))
    assert (carry.hits, carry.misses) == (3, 1)


def test_a_late_event_makes_it_read_anew(carry: Carry, bundle: Bundle) -> None:
    agree(carry, bundle, question(b"u", [(1, 0), (3, 2000)]))
    agree(carry, bundle, question(b"u", [(1, 0), (2, 1000), (3, 2000)]))
    agree(carry, bundle, question(b"u", [(1, 5), (2, 1000), (3, 2000)]))  # the same items at other times
    assert (carry.hits, carry.misses) == (0, 3)


def test_many_new_events_are_read_as_a_whole(carry: Carry, bundle: Bundle) -> None:
    agree(carry, bundle, question(b"u", [(1, 0)]))
    agree(carry, bundle, question(b"u", [(1 + i, i * 1000) for i in range(11)]))
    assert (carry.hits, carry.misses) == (0, 2)


def test_beyond_the_window_a_state_is_used_for_half_a_window(carry: Carry, bundle: Bundle) -> None:
    events = [(1 + i % 20, i * 1000) for i in range(40)]
    agree(carry, bundle, question(b"u", events[:WINDOW]))
    for end in range(WINDOW + 1, WINDOW + WINDOW // 2 + 1):
        assert carry.vectors([question(b"u", events[:end])])[0] is not None
    assert (carry.hits, carry.misses) == (WINDOW // 2, 1)
    agree(carry, bundle, question(b"u", events[: WINDOW + WINDOW // 2 + 1]))
    assert carry.misses == 2


def test_strangers_and_the_oldest_are_not_kept(bundle: Bundle) -> None:
    carry = Carry(Runner(bundle.encoder, bundle.inputs, step=bundle.step), WINDOW, capacity=2)
    for key in (None, None, b"a", b"b", b"c", b"b", b"a"):
        agree(carry, bundle, question(key, [(1, 0), (2, 10)]))
    assert (carry.hits, carry.misses) == (1, 6)


def test_one_batch_with_all_kinds(carry: Carry, bundle: Bundle) -> None:
    agree(carry, bundle, question(b"a", [(1, 0)]), question(b"b", [(2, 0), (9, 4)]))
    agree(
        carry,
        bundle,
        question(None, [(5, 0), (6, 3)]),
        question(b"b", [(2, 0), (9, 4), (8, 5)]),
        question(b"new", []),
        question(b"a", [(1, 0)]),
        question(b"unknown", [(0, 3)]),
        question(b"b", [(2, 0), (9, 4), (8, 5)]),
    )
    assert (carry.hits, carry.misses) == (3, 3)


def test_an_engine_answers_the_same_with_and_without(bundle: Bundle, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with StateStore(tmp_path / "a") as first, StateStore(tmp_path / "b") as second:
        carrying, reading = Engine(bundle, first), Engine(bundle, second, EngineSettings(carry_mb=0))
        for turn in range(30):
            event = Event(
                user=f"u{rng.integers(3)}",
                item=bundle.catalog.vocabulary.id(int(rng.integers(1, 31))),
                time=turn * 10**6,
            )
            asked = Query(user=event.user, time=turn * 10**6 + 5, k=10, keep_seen=True)
            for engine in (carrying, reading):
                engine.observe(event)
            one, other = carrying.recommend(asked), reading.recommend(asked)
            np.testing.assert_allclose(one.scores, other.scores, rtol=1e-3, atol=1e-3)
        assert carrying._loaded.members.all[0].carry is not None
        assert carrying._loaded.members.all[0].carry.hits > 15
        assert reading._loaded.members.all[0].carry is None
        carrying.swap(bundle)
        assert carrying._loaded.members.all[0].carry.hits == 0


def test_a_model_that_cannot_say_its_state_is_read_anew(tmp_path: Path) -> None:
    bundle = noisy(GRU4RecConfig(embedding_dim=8, hidden_dim=8, max_length=WINDOW), tmp_path / "gru")
    assert bundle.step is not None
    assert not Runner(bundle.encoder, bundle.inputs, step=bundle.step).carries


def test_capacity_by_hand() -> None:
    # 1 MiB / (4 * 1,000 + 12 * 200 + 1,000) = 1,048,576 / 7,400
    assert capacity_of(1, 1_000, 200) == 141
    assert capacity_of(0, 1_000, 200) == 0
