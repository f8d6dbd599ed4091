"""Models in closed form against plain loops over the events."""

import itertools
import math
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch

from millirec.data.encode import encode
from millirec.models.base import Inputs
from millirec.models.config import build
from millirec.models.markov import Markov, MarkovConfig
from millirec.models.popularity import Popularity, PopularityConfig
from millirec.models.vmis_knn import VMISKNN, VMISKNNConfig

N_ITEMS, DAY = 15, 86_400_000


def log(seed: int = 0, n: int = 400) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Events in no order, with times that tie."""
    rng = np.random.default_rng(seed)
    users, items = rng.integers(1, 41, n).astype(np.int32), rng.integers(1, N_ITEMS, n).astype(np.int32)
    times = rng.integers(0, 100, n) * 1000
    return torch.from_numpy(users), torch.from_numpy(items), torch.from_numpy(times)


def sessions_of(users: torch.Tensor, items: torch.Tensor, times: torch.Tensor) -> dict[int, list[tuple[int, int]]]:
    """Item and time of each user's events, stably sorted by time."""
    out: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for user, item, time in zip(users.tolist(), items.tolist(), times.tolist(), strict=True):
        out[user].append((item, time))
    return {user: sorted(events, key=lambda event: event[1]) for user, events in out.items()}


def inputs_of(*histories: list[int]) -> Inputs:
    return Inputs.of(encode([np.array(history, np.int32) for history in histories], None, 50))


@pytest.mark.parametrize(("kept", "shrink"), [(100, 2.0), (100, 0.0), (3, 1.0)])
def test_markov_counts_what_follows(kept: int, shrink: float) -> None:
    users, items, times = log()
    model = build(MarkovConfig(neighbours=kept, shrink=shrink), N_ITEMS)
    assert isinstance(model, Markov)
    model.fit(users, items, times)
    follows: dict[int, Counter[int]] = defaultdict(Counter)
    for events in sessions_of(users, items, times).values():
        for (before, _), (after, _) in itertools.pairwise(events):
            follows[before][after] += 1
    counts = Counter(items.tolist())
    scores = model.scores(inputs_of(*([7, item] for item in range(1, N_ITEMS)))).numpy()
    for item in range(1, N_ITEMS):
        best = sorted(follows[item], key=lambda j: (-follows[item][j], -counts[j], j))[:kept]
        total = follows[item].total() + shrink
        for other in range(1, N_ITEMS + 1):
            chance = follows[item][other] if other in best else 0
            want = (chance + shrink * counts[other] / len(items)) / total
            assert scores[item - 1, other] == pytest.approx(want, rel=1e-5, abs=1e-7)


def test_markov_knows_everybody_when_it_knows_nobody() -> None:
    users, items, times = log()
    model = build(MarkovConfig(), N_ITEMS)
    model.fit(users, items, times)  # type: ignore[operator]
    never_seen = model.scores(inputs_of([N_ITEMS], []))[:, 1:]  # type: ignore[operator]
    want = torch.bincount(items.long(), minlength=N_ITEMS + 1)[1:] / len(items)
    torch.testing.assert_close(never_seen, want.expand(2, -1), rtol=1e-5, atol=1e-7)


def votes(sessions: dict[int, list[tuple[int, int]]], query: list[int], config: VMISKNNConfig) -> dict[int, float]:
    """VMIS-kNN as its paper tells it, one session at a time."""
    newest_first = sorted(sessions, key=lambda user: (max(time for _, time in sessions[user]), user), reverse=True)
    held = {user: {item for item, _ in sessions[user]} for user in sessions}
    query = query[-config.max_length :]
    places = {item: place for place, item in enumerate(query, start=1)}
    sampled: set[int] = set()
    for item in places:
        sampled.update([u for u in newest_first if item in held[u]][: config.sessions])
    alike: dict[int, float] = {}
    for user in [u for u in newest_first if u in sampled][: config.sessions]:
        shared = [i for i in places if user in [u for u in newest_first if i in held[u]][: config.sessions]]
        alike[user] = sum(places[item] / len(query) for item in shared)
    out: dict[int, float] = defaultdict(float)
    recency = {user: place for place, user in enumerate(newest_first)}
    for user in sorted(alike, key=lambda u: (-round(alike[u], 5), recency[u]))[: config.neighbours]:
        shared = [i for i in places if user in [u for u in newest_first if i in held[u]][: config.sessions]]
        match = max(0.0, 1 - (len(query) - max(places[item] for item in shared)) / config.decay)
        for item in held[user]:
            df = sum(item in other for other in held.values())
            out[item] += alike[user] * match * math.log(len(sessions) / df)
    return out


@pytest.mark.parametrize(
    "config",
    [
        VMISKNNConfig(),
        VMISKNNConfig(sessions=6, neighbours=4),
        VMISKNNConfig(sessions=3, neighbours=50, max_length=2),
        VMISKNNConfig(sessions=20, neighbours=5, decay=2),
    ],
)
def test_vmis_knn_is_the_papers_loop(config: VMISKNNConfig) -> None:
    columns = log(1, 260)
    sessions = sessions_of(*columns)
    model = build(config, N_ITEMS)
    assert isinstance(model, VMISKNN)
    model.fit(*columns)
    queries = [[1, 2, 3], [5], [4, 4, 9, 4], [N_ITEMS], [6, 1, 2, 7], [8, 3, 8, 12, 13, 2, 6, 7, 9, 10, 11, 14]]
    scores = model.scores(inputs_of(*queries)).numpy()
    for row, query in enumerate(queries):
        want = votes(sessions, query, config)
        assert scores[row, 1:] == pytest.approx([want.get(i, 0.0) for i in range(1, N_ITEMS + 1)], rel=1e-4, abs=1e-5)
    assert scores[0].max() > 0


def test_vmis_knn_keeps_its_tables_in_its_state() -> None:
    columns = log(2)
    model, again = build(VMISKNNConfig(sessions=5), N_ITEMS), build(VMISKNNConfig(sessions=5), N_ITEMS)
    model.fit(*columns)  # type: ignore[operator]
    again.load_state_dict(model.state_dict())
    query = inputs_of([1, 2], [3])
    assert torch.equal(model.scores(query), again.scores(query))  # type: ignore[operator]
    assert again.scores(query).max() > 0  # type: ignore[operator]


def test_popularity_in_a_window_and_by_age() -> None:
    users = torch.ones(6, dtype=torch.int32)
    items = torch.tensor([1, 1, 1, 2, 2, 3], dtype=torch.int32)
    times = torch.tensor([0, 0, 4, 8, 9, 10]) * DAY

    def counts(config: PopularityConfig) -> list[float]:
        model = build(config, 3)
        assert isinstance(model, Popularity)
        model.fit(users, items, times)
        return [round(x, 4) for x in model.scores(inputs_of([1]))[0, 1:].tolist()]

    assert counts(PopularityConfig()) == [3, 2, 1]
    assert counts(PopularityConfig(window_days=2)) == [0, 2, 1]
    assert counts(PopularityConfig(window_days=1.5)) == [0, 1, 1]
    by_age = [2 * 0.5**5 + 0.5**3, 0.5 + 0.5**0.5, 1]
    assert counts(PopularityConfig(half_life_days=2)) == pytest.approx(by_age, abs=1e-4)
    assert counts(PopularityConfig(half_life_days=2, window_days=3)) == pytest.approx([0, *by_age[1:]], abs=1e-4)
