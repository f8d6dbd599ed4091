"""Gains that are fitted: the likeliest there are, of use where counts know more, and none where they know nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from millirec.data.dataset import TRAIN, VALIDATION, Dataset
from millirec.data.errors import DataError
from millirec.data.split import targets
from millirec.models.base import SequenceModel
from millirec.models.config import MarkovConfig, build
from millirec.models.counts import CountTable, Gain, gained
from millirec.models.sasrec import SASRecConfig
from millirec.train import gains as module
from millirec.train.evaluate import ndcg_at_10, questions
from millirec.train.gains import fitted_gains
from tests.logs import checkerboard, cycle

LENGTH = 8


def network(n_items: int) -> SequenceModel:
    torch.manual_seed(0)
    return build(SASRecConfig(embedding_dim=16, blocks=1, heads=1, max_length=LENGTH), n_items).eval()


def counted(dataset: Dataset) -> CountTable:
    log = dataset.interactions.take(dataset.roles == TRAIN)
    model = build(MarkovConfig(), len(dataset.items))
    model.fit(*(torch.from_numpy(column) for column in (log.users, log.items, log.times)))
    return model.count_table()


def noise(n_items: int) -> CountTable:
    """Each item goes with another one, for no reason."""
    rows = np.random.default_rng(3).permutation(n_items).astype(np.int32) + 1
    return CountTable.of(np.concatenate([[0], rows])[:, None], np.ones((n_items + 1, 1), np.float32), 1)


def likelihood(dataset: Dataset, tables: list[CountTable], scale: float, gains: list[Gain]) -> float:
    """The mean log chance of the validation targets, target by target."""
    asked, model, total = targets(dataset, VALIDATION), network(len(dataset.items)), 0.0
    items = dataset.sequences.items
    with torch.inference_mode():
        for which, inputs in questions(dataset, asked, LENGTH, torch.device("cpu")):
            scores = (model.user_vectors(inputs) @ model.item_vectors().T).double().numpy()
            for at, one in enumerate(which):
                place, start = asked.places[one], asked.starts[one]
                rows, more = gained(tables, gains, items[start:place])
                scores[at, rows] += more
                left = np.setdiff1d(np.arange(1, scores.shape[1]), items[start:place])
                logits = scale * scores[at]
                total += logits[items[place]] - np.log(np.exp(logits[left]).sum())
    return total / len(asked)


def test_counts_help_a_network_that_knows_nothing() -> None:
    dataset = cycle()
    found = fitted_gains(network(12), LENGTH, [counted(dataset)], dataset, repeats=False)
    assert found.n_targets == len(targets(dataset, VALIDATION))
    assert found.before < 0.7
    assert found.after > 0.95
    assert found.gains[0] is not None


def test_no_gains_nearby_are_likelier(monkeypatch: pytest.MonkeyPatch) -> None:
    """With next to no prior: the likelihood, read item by item, falls whichever number is moved."""
    monkeypatch.setattr(module, "_PRIOR", 1e-6)
    dataset = checkerboard(n_users=90)
    tables = [counted(dataset), noise(20)]
    logs: list[torch.Tensor] = []
    likeliest = module._likeliest
    monkeypatch.setattr(module, "_likeliest", lambda *args: logs.append(likeliest(*args)) or logs[-1])
    monkeypatch.setattr(module, "_selected", lambda asked: module._fit(asked, (0, 1), module._prior(2)))
    found = fitted_gains(network(20), LENGTH, tables, dataset, repeats=False)
    scale = float(logs[0][0].exp())

    def at(scale: float, weight: float, floor: float) -> float:
        first, *others = found.gains
        assert first is not None
        moved = Gain(weight=first.weight * weight, floor=first.floor * floor)
        kept = [(table, gain) for table, gain in zip(tables, (moved, *others), strict=True) if gain is not None]
        return likelihood(dataset, [table for table, _ in kept], scale, [gain for _, gain in kept])

    best = at(scale, 1, 1)
    for step in (0.9, 1.1):
        assert at(scale * step, 1, 1) < best
        assert at(scale, step, 1) < best
        assert at(scale, 1, step) < best


def test_counts_of_no_use_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PRIOR", 1e-6)
    dataset = cycle(n_users=200)
    found = fitted_gains(network(12), LENGTH, [counted(dataset), noise(12)], dataset, repeats=True)
    useful, useless = found.gains
    assert useful is not None
    assert useless is None or useless.weight < useful.weight / 5


def test_a_table_that_lowers_ndcg_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even one that is likely: here the fit is made to say that the misleading table counts most."""
    dataset = cycle(n_users=60)
    tables = [counted(dataset), noise(12)]
    alone = fitted_gains(network(12), LENGTH, tables[:1], dataset, repeats=False)
    likeliest = module._likeliest

    def misled(asked: module._Asked, begin: torch.Tensor) -> torch.Tensor:
        logs = likeliest(asked, begin)
        return logs if len(asked.votes) < 2 else torch.tensor([0.0, -3.0, 3.0, 0.0, 0.0])

    monkeypatch.setattr(module, "_likeliest", misled)
    found = fitted_gains(network(12), LENGTH, tables, dataset, repeats=False)
    assert found.gains[1] is None
    assert [getattr(found.gains[0], name) for name in ("weight", "floor")] == pytest.approx(
        [getattr(alone.gains[0], name) for name in ("weight", "floor")], rel=0.01
    )
    assert (found.before, found.after) == (alone.before, alone.after)
    noisy = fitted_gains(network(12), LENGTH, tables[1:], dataset, repeats=False)
    assert noisy.after >= noisy.before


def test_ranks_are_those_of_the_whole_sum() -> None:
    """To the last bit: the target has the very score of its row, or it would not stand in its own way."""
    torch.manual_seed(1)
    n, scores = 3_000, torch.randn(3_000, 30)
    scores[:, 0] = module._NEVER
    rows = torch.stack([torch.randperm(30)[:8].sort().values for _ in range(n)])
    votes, wanted = torch.rand(2, n, 8) * (rows > 0), torch.randint(1, 30, (n, 1))
    asked = module._Asked(
        top=scores.topk(11).values,
        own_scores=scores.gather(1, wanted)[:, 0],
        at_rows=scores.gather(1, rows),
        is_own=rows == wanted,
        votes=votes,
        scores=scores,
        fit=torch.arange(n),
    )
    gains = [Gain(weight=0.7, floor=0.1), Gain(weight=0.4, floor=0.5)]
    raised = sum(gain.weight * (own / gain.floor).log1p() for own, gain in zip(votes, gains, strict=True))
    whole = scores.scatter_add(1, rows, raised)
    want = (whole >= whole.gather(1, wanted)).sum(1).numpy()
    ranks = module._ranks(asked, gains)
    np.testing.assert_array_equal(np.minimum(ranks, 11), np.minimum(want, 11))
    assert ranks.min() == 1
    assert ndcg_at_10(ranks) == ndcg_at_10(want)


def test_a_large_catalogue_is_fitted_on_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """And ranked on a larger one, each target with its own scores."""
    dataset, tables = cycle(n_users=60), [counted(cycle(n_users=60)), noise(12)]
    whole = module._asked(network(12), LENGTH, tables, dataset, repeats=False)
    monkeypatch.setattr(module, "_NUMBERS", 13 * 25)
    monkeypatch.setattr(module, "_FEWEST", 5)
    asked = module._asked(network(12), LENGTH, tables, dataset, repeats=False)
    assert (len(asked.top), len(asked.scores), len(asked.fit)) == (60, 25, 25)
    torch.testing.assert_close(asked.scores, whole.scores[asked.fit])
    torch.testing.assert_close(asked.scores.topk(11).values, asked.top[asked.fit])
    monkeypatch.setattr(module, "_RANKED", 40)
    assert fitted_gains(network(12), LENGTH, tables, dataset, repeats=False).n_targets == 40


def test_without_validation_targets_nothing_can_be_fitted() -> None:
    dataset = cycle()
    roles = np.where(dataset.roles == VALIDATION, TRAIN, dataset.roles)
    with pytest.raises(DataError, match="no validation targets"):
        fitted_gains(network(12), LENGTH, [counted(dataset)], replace(dataset, roles=roles), repeats=False)
