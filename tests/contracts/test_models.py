"""One suite for every model of the union: a new model is tested by being in it."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from millirec.data.dataset import TEST, TRAIN
from millirec.data.encode import encode
from millirec.data.split import targets
from millirec.models.base import Inputs, Ranker, SequenceModel, catalog_scores
from millirec.models.checkpoint import Checkpoint
from millirec.models.config import ModelConfig, build, max_length
from millirec.train.evaluate import rank_checkpoint, rank_targets
from millirec.train.fit import fit
from millirec.train.journal import Silent
from millirec.train.machine import Machine
from millirec.train.trainer import TrainConfig
from tests.logs import checkerboard

CONFIGS = [config() for config in get_args(ModelConfig)]
SMALL = {"embedding_dim": 16, "heads": 1, "blocks": 1, "hidden_dim": 16, "max_length": 10}
TRAINING = TrainConfig(epochs=40, learning_rate=0.02, batch_size=16, patience=40)


def small(config: ModelConfig) -> ModelConfig:
    fields = {name: value for name, value in SMALL.items() if hasattr(config, name)}
    return type(config)(**fields)


@pytest.fixture(scope="module", params=CONFIGS, ids=lambda config: type(config).__name__)
def fitted(request: pytest.FixtureRequest) -> Checkpoint:
    return fit(checkerboard(), small(request.param), TRAINING, Machine(threads=1), Silent())


def histories() -> list[np.ndarray]:
    return [np.array(rows, np.int32) for rows in ([2, 4, 6], [1], [3, 5, 7, 9, 11, 13], [8, 8, 2])]


def scores_of(checkpoint: Checkpoint, rows: list[np.ndarray]) -> torch.Tensor:
    batch = encode(rows, [np.arange(len(r)) for r in rows], max_length(checkpoint.config))
    with torch.inference_mode():
        return catalog_scores(checkpoint.network(), Inputs.of(batch))


def test_it_keeps_one_of_the_two_protocols(fitted: Checkpoint) -> None:
    assert isinstance(fitted.network(), SequenceModel) != isinstance(fitted.network(), Ranker)


def test_it_learns_the_checkerboard(fitted: Checkpoint) -> None:
    if type(fitted.config).__name__ == "PopularityConfig":
        pytest.skip("popularity knows no users")
    scores = scores_of(fitted, [np.array([2, 4], np.int32), np.array([1, 3], np.int32)]).numpy()
    even, odd = np.arange(2, 21, 2), np.arange(1, 21, 2)
    unseen_even, unseen_odd = even[2:], odd[2:]
    assert scores[0, unseen_even].mean() > scores[0, odd].mean()
    assert scores[1, unseen_odd].mean() > scores[1, even].mean()


def test_a_batch_scores_as_its_rows_do(fitted: Checkpoint) -> None:
    together = scores_of(fitted, histories())
    alone = torch.cat([scores_of(fitted, [row]) for row in histories()])
    torch.testing.assert_close(together[:, 1:], alone[:, 1:], rtol=1e-4, atol=1e-5)


def test_scores_have_a_column_for_every_row(fitted: Checkpoint) -> None:
    scores = scores_of(fitted, histories())
    assert scores.shape == (4, 21)
    assert torch.isfinite(scores[:, 1:]).all()


def test_it_comes_back_from_disk_the_same(fitted: Checkpoint, tmp_path: Path) -> None:
    fitted.save(tmp_path / "checkpoint")
    again = Checkpoint.load(tmp_path / "checkpoint")
    assert again.config == fitted.config
    assert again.lineage == fitted.lineage
    torch.testing.assert_close(scores_of(again, histories()), scores_of(fitted, histories()), rtol=0, atol=0)


def test_the_same_seed_gives_the_same_parameters(fitted: Checkpoint) -> None:
    again = fit(checkerboard(), fitted.config, TRAINING, Machine(threads=1), Silent())
    for name, value in fitted.parameters.items():
        assert torch.equal(value, again.parameters[name]), name


def test_candidates_score_as_in_the_catalogue(fitted: Checkpoint) -> None:
    network = fitted.network()
    if not isinstance(network, Ranker):
        pytest.skip("a sequence model scores by its vectors")
    inputs = Inputs.of(encode(histories(), None, 10))
    wanted = torch.tensor([[1, 5, 20]] * 4)
    torch.testing.assert_close(network.scores(inputs, wanted), network.scores(inputs).gather(1, wanted))


def test_training_never_reads_the_test_part(fitted: Checkpoint) -> None:
    """With other test events the model comes out the same."""
    dataset = checkerboard()
    items = dataset.interactions.items.copy()
    items[dataset.roles == TEST] = 1
    changed = dataset.interactions
    changed = type(changed)(changed.users, items, changed.times, None)
    moved = type(dataset)(changed, dataset.items, dataset.users, dataset.roles, "moved", dataset.protocol)
    assert (moved.roles == TRAIN).sum() > 0
    again = fit(moved, fitted.config, TRAINING, Machine(threads=1), Silent())
    for name, value in fitted.parameters.items():
        assert torch.equal(value, again.parameters[name]), name


def test_ranks_agree_with_a_sort_by_hand(fitted: Checkpoint) -> None:
    dataset = checkerboard()
    asked = targets(dataset, TEST)
    ranks = rank_checkpoint(fitted, dataset, asked, repeats=False)
    seq = dataset.sequences
    for i in range(0, len(asked), 7):
        history = seq.items[asked.starts[i] : asked.places[i]]
        scores = scores_of(fitted, [history])[0].numpy().copy()
        scores[history], scores[0] = -np.inf, -np.inf
        own = scores[seq.items[asked.places[i]]]
        # Batches of another shape may round differently; compare only where no score is within a hair.
        if (np.abs(scores - own) < 1e-5).sum() == 1:
            assert ranks.ranks[i] == (scores > own).sum() + 1


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_an_untrained_model_can_be_ranked(config: ModelConfig) -> None:
    dataset = checkerboard()
    ranks = rank_targets(build(small(config), 20).eval(), dataset, targets(dataset, TEST), 10)  # type: ignore[arg-type]
    assert ((ranks.ranks >= 1) & (ranks.ranks <= 20)).all()
