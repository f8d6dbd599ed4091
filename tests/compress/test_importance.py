"""Scores by hand, and first-order effects against the slope of the loss itself."""

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor

from millirec.compress import importance
from millirec.compress.importance import best, effects, loss_of_training, unit_scores, weight_scores
from millirec.compress.prune import Prune
from millirec.compress.workshop import Workshop
from millirec.data.errors import ConfigError
from millirec.data.lineage import Step
from millirec.models.base import Inputs
from millirec.models.bert4rec import BERT4RecConfig
from millirec.models.checkpoint import Checkpoint
from millirec.models.config import max_length
from millirec.models.layers.parts import Part, Structure, columns, rows
from millirec.models.linear_recurrent import LinearRecurrentConfig
from millirec.models.sasrec import SASRecConfig
from millirec.train.batches import TrainingSequences
from millirec.train.losses import GBCE, FullSoftmax, InBatchSoftmax
from millirec.train.machine import Machine, generator
from millirec.train.objective import Objective, Wanted
from millirec.train.trainer import TrainConfig
from tests.bundles import untrained
from tests.logs import cycle, dataset_of
from tests.networks import small

SHOP = Workshop(read=cycle, machine=Machine(threads=1))


def of(values: dict[str, list[Any]]) -> dict[str, Tensor]:
    return {name: torch.tensor(value, dtype=torch.float32) for name, value in values.items()}


def handmade(parameters: dict[str, list[Any]]) -> Checkpoint:
    made = untrained(12, small(SASRecConfig))
    return Checkpoint(made.config, of(parameters), made.catalog, made.popularity, made.provenance)


def test_weights_by_hand() -> None:
    made = handmade({"w": [[1, -4]], "v": [[9, 9]]})
    assert weight_scores(made, ["w"], None)["w"].tolist() == [[1, 4]]
    found = iter([of({"w": [[1, -2]], "v": [[0, 0]]}), of({"w": [[-3, 0]], "v": [[0, 0]]})])
    assert weight_scores(made, ["w"], found)["w"].tolist() == [[4, 2]]


def test_units_by_hand() -> None:
    """Two neurons: row i of `a`, place i of `b` and column i of `c`, through which it acts; and two blocks."""
    group = (rows("a", 2), rows("b", 2), columns("c", 2, sends=True))
    structure = Structure({"neurons": Part(2, (group,))}, blocks=2, outputs=("out",))
    blocks = {"blocks.0.out": [1, 2], "blocks.0.in": [2], "blocks.1.out": [0, 0], "blocks.1.in": [6]}
    made = handmade({"a": [[1, 2], [0, 0]], "b": [2, 3], "c": [[4, 0], [0, 4]], **blocks})
    scores = unit_scores(made, structure, None)
    assert scores.units["neurons"][0].tolist() == [5, 5]  # 1 + 4 + 4 + 16 and 9 + 16, rooted
    assert scores.blocks.tolist() == [3, 6]
    one = {"a": [[9, 9], [9, 9]], "b": [9, 9], "c": [[1, -1], [-3, 2]]}
    found = [of({**one, **blocks}), of({**one, **blocks})]
    scores = unit_scores(made, structure, iter(found))
    assert scores.units["neurons"][0].tolist() == [4, 2]  # |1 - 3| and |-1 + 2|, twice
    assert scores.blocks.tolist() == [6, 0]


def test_the_best_are_in_order() -> None:
    assert best(torch.tensor([1.0, 3.0, 3.0, 2.0]), 2).tolist() == [1, 2]
    assert best(torch.tensor([2.0, 1.0, 2.0]), 1).tolist() == [0]


@pytest.mark.parametrize("config", [small(SASRecConfig, dropout=0.5), small(LinearRecurrentConfig, heads=4)])
def test_effects_are_slopes_of_the_loss(config: Any) -> None:
    """The sum over the columns of a head is the slope of the loss along a factor on all that the head gives."""
    made = untrained(12, config)
    for value in made.parameters.values():
        value += 0.3 * torch.randn(value.shape, generator=torch.Generator().manual_seed(0))
    found = list(effects(made, SHOP, batches=2, train=None))
    assert len(found) == 2
    dataset = cycle()
    sequences = TrainingSequences(dataset, max_length(config))
    plan = sequences.plan(importance._BATCH_SIZE, generator(42, importance._BATCHES))
    loss_of = Objective(FullSoftmax(), dataset, torch.device("cpu"))

    def loss(batch: Any, name: str, factors: Tensor) -> float:
        network = made.network().double()
        with torch.no_grad():
            dict(network.named_parameters())[name].mul_(factors)
            inputs, wanted = Inputs.of(batch.inputs), Wanted.of(batch)
            return float(loss_of(network, inputs, wanted, np.random.default_rng(0)))  # type: ignore[arg-type]

    heads = config.structure().parts["heads"].groups[1]
    out = next(piece for piece in heads if piece.sends)
    for number, effect in enumerate(found):
        batch = sequences.batch(plan[number])
        for places in out.places[:2]:
            step = torch.zeros(made.parameters[out.name].shape[1], dtype=torch.float64)
            step[places] = 1e-2
            slope = (loss(batch, out.name, 1 + step) - loss(batch, out.name, 1 - step)) / 2e-2
            assert float(effect[out.name][:, places].sum()) == pytest.approx(slope, rel=2e-2, abs=1e-5)


def test_the_same_seed_finds_the_same() -> None:
    """Also where a model hides events at random."""
    made = untrained(12, small(BERT4RecConfig))
    first, again = (next(effects(made, SHOP, 1, None)) for _ in range(2))
    for name, value in first.items():
        assert torch.equal(value, again[name]), name


def test_the_loss_is_that_of_the_newest_training() -> None:
    made = untrained(12, small(SASRecConfig))
    assert loss_of_training(made) == FullSoftmax()
    first = Step(name="train", settings=msgspec.to_builtins(TrainConfig(loss=GBCE(negatives=4))) | {"seed": 1})
    tuned = Prune(sparsity=0.5, train=TrainConfig(loss=InBatchSoftmax()))
    steps = [first, Step(name="prune", settings=msgspec.to_builtins(Prune(sparsity=0.5)))]
    steps += [Step(name="prune", settings=msgspec.to_builtins(tuned))]
    assert [loss_of_training(replace(made, lineage=tuple(steps[:n]))) for n in (1, 2, 3)] == [
        GBCE(negatives=4),
        GBCE(negatives=4),
        InBatchSoftmax(),
    ]
    assert len(list(effects(replace(made, lineage=tuple(steps)), SHOP, 1, None))) == 1


def test_data_that_do_not_fit_are_refused() -> None:
    made = untrained(13, small(SASRecConfig))
    with pytest.raises(ConfigError, match="do not fit the checkpoint's vocabulary"):
        next(effects(made, SHOP, 1, None))
    short = Workshop(read=lambda: dataset_of([[1], [2]], 12))
    with pytest.raises(ConfigError, match="no user has 2 training events"):
        next(effects(untrained(12, small(SASRecConfig)), short, 1, None))
