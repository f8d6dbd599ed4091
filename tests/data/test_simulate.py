"""The simulator: same seed, same bytes; a truth that can be checked; signal for sequence models."""

import json
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest

from millirec.data.catalog import Categorical, MultiValued, Numeric, Text
from millirec.data.errors import ConfigError
from millirec.data.simulate import CAUSES, Simulation, simulate, write
from millirec.data.sources import FeatureTable, TableConfig, read
from millirec.data.world import INTEREST, POPULARITY, SEQUENCE, Interests, SimulatedConfig, World

SMALL = SimulatedConfig(users=40, items=120, events=5000, categories=6, epochs=4, days=20, seed=5)


@pytest.fixture(scope="module")
def small() -> Simulation:
    return simulate(SMALL)


def with_(**changes: object) -> SimulatedConfig:
    return msgspec.structs.replace(SMALL, **changes)


def test_the_log_has_the_asked_size_in_time_order(small: Simulation) -> None:
    log = small.dataset.interactions
    assert len(log) == len(small.causes) == len(small.probabilities) == 5000
    assert (np.diff(log.times) >= 0).all()
    assert log.times.min() >= SMALL.start
    # Sessions that begin before the end may run over it, by their length.
    assert log.times.max() < SMALL.start + 20 * 86_400_000 + 3 * 3_600_000
    assert len(small.dataset.users) <= 40
    assert len(small.dataset.items) <= 120


@pytest.mark.parametrize("events", [1, 3, 7, 100, 100_001])
def test_any_number_of_events(events: int) -> None:
    assert len(simulate(with_(events=events)).dataset.interactions) == events


def test_same_seed_same_log_other_seed_other_log(small: Simulation) -> None:
    again = simulate(SMALL)
    assert again.dataset.fingerprint == small.dataset.fingerprint
    np.testing.assert_array_equal(again.probabilities, small.probabilities)
    assert simulate(with_(seed=6)).dataset.fingerprint != small.dataset.fingerprint


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_written_bytes_do_not_depend_on_the_size_of_the_parts(tmp_path: Path, kind: str) -> None:
    for rows in (700, 999_999):
        write(SMALL, tmp_path / str(rows), format=kind, rows=rows)  # type: ignore[arg-type]
    names = sorted(file.name for file in (tmp_path / "700").iterdir())
    assert names == sorted(
        ["config.json", *(f"{n}.{kind}" for n in ("events", "items", "truth-events", "truth-interests"))]
    )
    for name in names:
        assert (tmp_path / "700" / name).read_bytes() == (tmp_path / "999999" / name).read_bytes()
    assert msgspec.json.decode((tmp_path / "700" / "config.json").read_bytes(), type=SimulatedConfig) == SMALL


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_what_is_written_reads_as_what_is_simulated(tmp_path: Path, small: Simulation, kind: str) -> None:
    heard: list[int] = []
    write(SMALL, tmp_path / "out", format=kind, rows=1300, progress=heard.append)  # type: ignore[arg-type]
    assert sum(heard) == 5000
    suffix = "" if kind == "parquet" else f".{kind}"
    declared = {"category": "categorical", "tags": "multi", "title": "text"}
    if kind == "parquet":
        declared["vector"] = "numeric"
        assert len(list((tmp_path / "out" / "events").iterdir())) == 4
    features = FeatureTable(path=str(tmp_path / "out" / f"items{suffix}"), features=declared)  # type: ignore[arg-type]
    dataset = read(TableConfig(path=str(tmp_path / "out" / f"events{suffix}"), items=features, time_unit="ms"))
    assert dataset.fingerprint == small.dataset.fingerprint
    for value in ("c0", "c5"):
        np.testing.assert_array_equal(
            dataset.items.matches("category", value), small.dataset.items.matches("category", value)
        )
    np.testing.assert_array_equal(dataset.items.matches("tags", "c0-t1"), small.dataset.items.matches("tags", "c0-t1"))
    assert dataset.items.features["title"] == small.dataset.items.features["title"]
    if kind == "parquet":
        vectors = [d.items.features["vector"].numbers for d in (dataset, small.dataset)]  # type: ignore[union-attr]
        np.testing.assert_array_equal(*vectors)
        truth = pl.read_parquet(tmp_path / "out" / "truth-events" / "*.parquet")
        np.testing.assert_array_equal(truth["probability"].to_numpy(), small.probabilities)
        assert truth["cause"].to_list() == [CAUSES[cause] for cause in small.causes]
        wants = pl.read_parquet(tmp_path / "out" / "truth-interests" / "*.parquet")
        assert len(wants) == 4 * 40 * 3


def test_interests_are_a_mixture_that_moves(small: Simulation) -> None:
    assert small.weights.shape == small.categories.shape == (4, len(small.dataset.users) + 1, 3)
    np.testing.assert_allclose(small.weights[:, 1:].sum(-1), 1, atol=1e-5)
    moved = (small.categories[1:, 1:] != small.categories[:-1, 1:]).mean()
    assert 0.02 < moved < 0.2  # a tenth, less what falls on the same category
    still = simulate(with_(interest_change=0.0))
    assert (still.categories == still.categories[:1]).all()


def test_what_interest_caused_lies_in_the_users_interests(small: Simulation) -> None:
    log = small.dataset.interactions
    categories = small.dataset.items.features["category"]
    assert isinstance(categories, Categorical)
    epochs = np.searchsorted(small.epoch_starts, log.times, side="right") - 1
    wanted = small.categories[epochs, log.users]
    own = (wanted == categories.codes[log.items][:, None]).any(1)
    # A session may run into the next epoch, where interests have moved: nearly all, not all.
    assert own[small.causes == INTEREST].mean() > 0.99
    assert own[small.causes == POPULARITY].mean() < 0.8


def test_tags_belong_to_the_category(small: Simulation) -> None:
    items = small.dataset.items
    tags = items.features["tags"]
    assert isinstance(tags, MultiValued)
    assert (np.diff(tags.offsets)[1:] >= 1).all()
    for tag in ("c0-t0", "c3-t2"):
        assert not (items.matches("tags", tag) & ~items.matches("category", tag[:2])).any()


def test_vectors_and_titles_tell_the_category(small: Simulation) -> None:
    items = small.dataset.items
    category, vector, title = (items.features[name] for name in ("category", "vector", "title"))
    assert isinstance(category, Categorical)
    assert isinstance(vector, Numeric)
    assert isinstance(title, Text)
    assert np.isnan(vector.numbers[0]).all()
    codes, points = category.codes[1:], vector.numbers[1:]
    centres = np.stack([points[codes == code].mean(0) for code in range(6)])
    nearest = ((points[:, None] - centres) ** 2).sum(-1).argmin(1)
    assert (nearest == codes).mean() > 0.95
    assert all(f"topic {code}," in text for code, text in zip(codes, title.texts[1:], strict=True))


def test_new_items_arrive_over_time_and_never_before_their_time() -> None:
    world = World(with_(new_items=0.5, events=20_000))
    epoch = -1
    for part in world.run():
        if isinstance(part, Interests):
            epoch = part.epoch
        elif len(part):
            begun = np.searchsorted([world.epoch_start(e) for e in range(4)], part.times, side="right") - 1
            assert (world.arrivals[part.items] <= np.minimum(begun, epoch)).all()
    assert set(world.arrivals.tolist()) == {0, 1, 2, 3}


def test_true_probabilities_sum_to_one() -> None:
    """Over all items, with and without an item before, and with successors that have not arrived."""
    world = World(with_(new_items=0.5))
    world._move(0)
    items = np.arange(120)
    for user in (0, 7):
        users = np.full(120, user)
        assert world._probabilities(users, items, None, 0).sum() == pytest.approx(1, abs=1e-5)
        for previous in (0, 50, 119):
            told = world._probabilities(users, items, np.full(120, previous), 0)
            assert told.sum() == pytest.approx(1, abs=1e-5)
            assert (told[world.arrivals > 0] == 0).all()


def test_items_come_as_often_as_their_probability_says() -> None:
    world = World(with_(new_items=0.5))
    world._move(0)
    late = world.arrivals[world.successors(np.arange(120))] > 0
    previous = int(np.flatnonzero(late.any(1) & ~late.all(1))[0])  # one successor is there, another is not
    rng, n = np.random.default_rng(1), 200_000
    drawn, causes, _ = world._choose(rng, np.full(n, 3), np.full(n, previous), 0)
    told = world._probabilities(np.full(120, 3), np.arange(120), np.full(120, previous), 0)
    counted = np.bincount(drawn, minlength=120) / n
    # Five standard deviations of each count.
    assert (np.abs(counted - told) <= 5 * np.sqrt(told * (1 - told) / n) + 1e-6).all()
    assert set(causes.tolist()) == {POPULARITY, INTEREST, SEQUENCE}
    assert np.isin(drawn[causes == SEQUENCE], world.successors(np.array([previous]))).all()
    # Successors that have not arrived leave their share to popularity.
    gone = (np.array([0.6, 0.25, 0.15]) * (world.arrivals[world.successors(np.array([previous]))[0]] > 0)).sum()
    assert (causes == SEQUENCE).mean() == pytest.approx(SMALL.sequence_share * (1 - gone), abs=0.01)


def test_popularity_is_zipf_and_drifts() -> None:
    def weights(drift: float) -> list[np.ndarray]:
        world = World(with_(new_items=0.0, drift=drift, zipf=1.0))
        found = []
        for epoch in range(3):
            world._move(epoch)
            found.append(world._weights.copy())
        return found

    still = weights(0.0)
    np.testing.assert_allclose(np.sort(still[0])[::-1], 1 / np.arange(1, 121), rtol=1e-4)
    np.testing.assert_array_equal(still[0], still[2])
    moving = weights(0.3)
    steps = np.log(moving[2]) - np.log(moving[1])
    assert 0.2 < steps.std() < 0.4


def test_a_first_order_chain_beats_popularity_as_a_sequence_model_should() -> None:
    """Counted on the first 80 %, asked on the rest: which ten items come next?"""
    data = simulate(SimulatedConfig(users=300, items=400, events=60_000, new_items=0, seed=2)).dataset
    seq, n = data.sequences, len(data.items) + 1
    before, after = seq.items[:-1], seq.items[1:]
    cut = np.quantile(data.interactions.times, 0.8)
    same = seq.users[1:] == seq.users[:-1]
    learn, ask = same & (seq.times[1:] < cut), same & (seq.times[1:] >= cut)
    chain = np.zeros((n, n))
    np.add.at(chain, (before[learn], after[learn]), 1)
    popular = np.bincount(after[learn], minlength=n)
    top = np.argsort(-popular)[:10]
    hits_popular = np.isin(after[ask], top).mean()
    best = np.argsort(-(chain + 1e-6 * popular), axis=1)[:, :10]
    hits_chain = (best[before[ask]] == after[ask][:, None]).any(1).mean()
    assert hits_chain > 2 * hits_popular
    assert hits_chain > 0.4


def test_the_truth_is_the_best_possible_model(small: Simulation) -> None:
    """No model can be expected to beat the log-likelihood of the truth; popularity is far from it."""
    log = small.dataset.interactions
    popular = np.bincount(log.items) / len(log)
    assert -np.log(small.probabilities).mean() < -np.log(popular[log.items]).mean() - 0.5
    assert (small.probabilities > 0).all()
    assert (small.probabilities <= 1).all()


def test_a_failed_writing_leaves_nothing(tmp_path: Path) -> None:
    def stop(n: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(SMALL, tmp_path / "out", progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_settings_that_cannot_work_are_refused() -> None:
    wrong = [
        {"users": 0},
        {"categories": 200},
        {"popularity_share": 0.7, "sequence_share": 0.7},
        {"new_items": 1.5},
        {"drift": -1},
        {"session_length": 0.5},
        {"days": 0},
    ]
    for changes in wrong:
        with pytest.raises(ConfigError, match=r"\$\.data"):
            with_(**changes)
    assert json.loads(msgspec.json.encode(SMALL))["kind"] == "simulated"
