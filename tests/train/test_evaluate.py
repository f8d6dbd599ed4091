import numpy as np
import torch
from torch import Tensor, nn

from millirec.data.dataset import TEST
from millirec.data.split import LeaveLastOut, split, targets
from millirec.models.base import Inputs
from millirec.models.popularity import PopularityConfig
from millirec.train.evaluate import evaluate, ndcg_at_10, rank_targets
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
