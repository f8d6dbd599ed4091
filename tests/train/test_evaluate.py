import numpy as np
import pytest
import torch
from torch import Tensor, nn

from millirec.data.dataset import TEST
from millirec.data.errors import DataError
from millirec.data.split import LeaveLastOut, split, targets
from millirec.metrics.ranking import rank_of_target
from millirec.models.base import Inputs
from millirec.models.popularity import PopularityConfig
from millirec.train.evaluate import evaluate, ndcg_at_10, rank_popularity, rank_targets
from millirec.train.fit import fit
from millirec.train.journal import Silent
from millirec.train.machine import Machine
from millirec.train.trainer import TrainConfig
from tests.logs import checkerboard, dataset_of


class Fixed(nn.Module):
    """Scores the catalogue the same for everybody."""

    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.values = torch.tensor([0.0, *values])

    def scores(self, inputs: Inputs, candidates: Tensor | None = None) -> Tensor:
        del candidates
        return self.values.expand(len(inputs.lengths), -1)


def ranks(values: list[float], sequences: list[list[int]], **more: bool) -> list[int]:
    dataset = split(dataset_of(sequences, len(values)), LeaveLastOut())
    asked = targets(dataset, TEST, repeats=more.get("keep_seen", False))
    return rank_targets(Fixed(values), dataset, asked, 10, **more).ranks.tolist()


class Counted(nn.Module):
    """A sequence model that counts how often its item vectors are made."""

    inputs = ("items", "lengths")

    def __init__(self, n_items: int) -> None:
        super().__init__()
        self.made, self.n_items = 0, n_items

    def user_vectors(self, inputs: Inputs) -> Tensor:
        return torch.ones(len(inputs.lengths), 2)

    def item_vectors(self) -> Tensor:
        self.made += 1
        return torch.arange(2.0 * (self.n_items + 1)).view(-1, 2)


def test_item_vectors_are_made_once_for_all_batches() -> None:
    model, dataset = Counted(5), split(dataset_of([[1, 2, 5]] * 2100, 5), LeaveLastOut())
    found = rank_targets(model, dataset, targets(dataset, TEST, repeats=False), 10)
    assert len(found.ranks) == 2100  # a batch has at most 1,024
    assert set(found.ranks.tolist()) == {1}
    assert model.made == 1


def test_the_rank_counts_what_scores_higher() -> None:
    assert ranks([0.1, 0.2, 0.3, 0.9, 0.5], [[1, 2, 5]]) == [2]  # item 4 is ahead; 1 and 2 are seen


def test_seen_items_stand_aside() -> None:
    assert ranks([0.9, 0.8, 0.3, 0.1, 0.5], [[1, 2, 5]]) == [1]
    assert ranks([0.9, 0.8, 0.3, 0.1, 0.5], [[1, 2, 5]], keep_seen=True) == [3]


def test_a_model_that_scores_everything_equal_comes_last() -> None:
    assert ranks([0.0] * 5, [[1, 2, 5]]) == [3]  # three unseen items share the place


def test_nan_sinks_and_a_nan_target_is_last() -> None:
    nan = float("nan")
    assert ranks([0.1, 0.1, nan, nan, 0.2], [[1, 2, 5]]) == [1]
    assert ranks([0.1, 0.1, 0.3, 0.2, nan], [[1, 2, 5]]) == [5]
    assert ranks([nan] * 5, [[1, 2, 5]]) == [5]


def test_a_repeat_is_no_target_unless_repeats_are_wanted() -> None:
    assert ranks([0.1, 0.2, 0.3], [[1, 2, 3, 1], [1, 2, 3]]) == [1]
    assert ranks([0.9, 0.2, 0.3], [[1, 2, 3, 1]], keep_seen=True) == [1]


def test_ndcg_by_hand() -> None:
    assert ndcg_at_10(np.array([1, 3, 11])) == np.mean([1.0, 0.5, 0.0])


def test_all_figures_of_a_checkpoint() -> None:
    dataset = checkerboard()
    checkpoint = fit(dataset, PopularityConfig(), TrainConfig(), Machine(threads=1), Silent())
    result = evaluate(checkpoint, dataset, TEST)
    assert result.n_targets == 60
    ndcg = result.figures["ndcg@10"]
    assert ndcg.low is not None
    assert ndcg.high is not None
    assert ndcg.low <= ndcg.value <= ndcg.high
    assert result.figures["hr@10"].value == result.figures["recall@10"].value


class Scripted(nn.Module):
    """Scores as given, a row a target, and a memory of what it was asked."""

    def __init__(self, values: np.ndarray) -> None:
        super().__init__()
        self.values, self.asked = torch.from_numpy(values), []

    def scores(self, inputs: Inputs, candidates: Tensor | None = None) -> Tensor:
        self.asked.append(inputs)
        done = sum(len(asked.lengths) for asked in self.asked)
        return self.values[done - len(inputs.lengths) : done]


def test_the_rule_on_tensors_is_the_rule_of_the_metrics() -> None:
    rng = np.random.default_rng(0)
    sequences = [[*rng.permutation(np.arange(2, 11))[:3].tolist()] for _ in range(80)]
    dataset = split(dataset_of(sequences, 10), LeaveLastOut())
    asked = targets(dataset, TEST)
    values = rng.choice([0.0, 1.0, 2.0, np.nan, -np.inf, np.inf], (80, 11), p=[0.3, 0.2, 0.1, 0.2, 0.1, 0.1])
    ranks = rank_targets(Scripted(values), dataset, asked, 10, keep_seen=True).ranks
    clean = np.where(np.isnan(values) | np.isneginf(values), -np.inf, values)[:, 1:]
    assert ranks.tolist() == rank_of_target(clean, dataset.sequences.items[asked.places] - 1).tolist()


def test_the_question_is_put_at_the_time_of_the_target() -> None:
    dataset = split(dataset_of([[1, 2, 3, 4], [2, 3, 4, 1, 5]], 5), LeaveLastOut())
    model = Scripted(np.zeros((2, 6)))
    rank_targets(model, dataset, targets(dataset, TEST), 10)
    assert [now for asked in model.asked for now in asked.now.tolist()] == [3000, 4000]
    assert [asked.times.max().item() for asked in model.asked] == [3000]  # and never sees the target itself
    assert all((asked.times < asked.now[:, None]).all() for asked in model.asked)


def test_lists_can_be_left_out() -> None:
    dataset = checkerboard()
    asked = targets(dataset, TEST)
    model = Fixed([float(i) for i in range(20)])
    whole, bare = rank_targets(model, dataset, asked, 10), rank_targets(model, dataset, asked, 10, lists=0)
    assert bare.top.shape == (60, 0)
    assert bare.ranks.tolist() == whole.ranks.tolist()


def test_popularity_stands_beside_every_evaluation() -> None:
    dataset = checkerboard()
    checkpoint = fit(dataset, PopularityConfig(), TrainConfig(), Machine(threads=1), Silent())
    result = evaluate(checkpoint, dataset, TEST)
    assert result.popularity == result.figures
    ranks = rank_popularity(np.ones(21, np.int64), dataset, targets(dataset, TEST), repeats=False).ranks
    assert (ranks == 13).all()  # 20 items, 7 seen: popularity that knows nothing comes last


def test_nothing_asked_is_an_error_and_no_figure() -> None:
    dataset = dataset_of([[1, 2, 3]], 6)
    checkpoint = fit(checkerboard(4, 6, 3), PopularityConfig(), TrainConfig(), Machine(threads=1), Silent())
    with pytest.raises(DataError, match="no targets"):
        evaluate(checkpoint, dataset, TEST)


def test_the_leak_audit_runs_by_itself() -> None:
    clean = split(dataset_of([[1, 2, 3, 4, 5, 6], [2, 3, 4, 5, 6, 1, 7]], 7), LeaveLastOut())
    twins = split(dataset_of([[1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1]], 6), LeaveLastOut())
    for dataset, kinds in ((clean, []), (twins, ["copied-user"])):
        checkpoint = fit(dataset, PopularityConfig(), TrainConfig(), Machine(threads=1), Silent())
        assert [leak.kind for leak in evaluate(checkpoint, dataset, TEST).leaks] == kinds
