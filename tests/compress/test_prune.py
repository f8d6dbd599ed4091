"""Unstructured pruning: exactly as many zeros as were asked for, which last through training, kills and disks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from millirec.compress.prune import Prune
from millirec.compress.quantize import Quantize
from millirec.compress.recipe import Recipe, check, compress
from millirec.compress.sparsity import prunable
from millirec.compress.structure import PruneStructure
from millirec.compress.workshop import Workshop
from millirec.data.errors import ConfigError
from millirec.data.tensors import load_tensors, save_tensors
from millirec.models.checkpoint import Checkpoint
from millirec.models.config import EASEConfig, GRU4RecConfig, HSTUConfig, PopularityConfig, SASRecConfig
from millirec.models.layers.linear import MIDDLE
from millirec.models.layers.table import LowRank, Quantized
from millirec.train.adversarial import FGM
from millirec.train.journal import Silent
from millirec.train.losses import SampledSoftmax
from millirec.train.machine import Machine
from millirec.train.trainer import TrainConfig
from tests.bundles import untrained
from tests.logs import cycle
from tests.networks import small

SASREC = small(SASRecConfig)
TRAIN = TrainConfig(epochs=4, batch_size=8, learning_rate=0.01)


def shop(folder: Path | None = None, journal: Silent | None = None, save_every: float = 1e9) -> Workshop:
    machine = Machine(threads=1, save_every_seconds=save_every)
    return Workshop(read=cycle, machine=machine, journal=journal or Silent(), folder=folder)


def weights(checkpoint: Checkpoint, step: Prune) -> dict[str, torch.Tensor]:
    return {name: checkpoint.parameters[name] for name in prunable(checkpoint.network(), step.include)}


@settings(max_examples=30, deadline=None)
@given(
    st.floats(0.01, 0.99),
    st.sampled_from(["layer", "global"]),
    st.sampled_from([("linear",), ("embedding",), ("linear", "embedding")]),
    st.sampled_from([SASREC, small(GRU4RecConfig, cell="lstm"), small(HSTUConfig, table=LowRank(rank=2))]),
)
def test_exactly_so_sparse(sparsity: float, scope: Any, include: Any, config: Any) -> None:
    before, step = untrained(30, config), Prune(sparsity=sparsity, scope=scope, include=include)
    after = step.apply(before, Workshop(), None)
    old, new = weights(before, step), weights(after, step)
    groups = [list(new)] if scope == "global" else [[name] for name in new]
    for names in groups:
        zeros = sum(int((new[name] == 0).sum()) for name in names)
        known = sum(int((old[name] == 0).sum()) for name in names)  # the row of padding
        assert zeros == max(known, round(sparsity * sum(new[name].numel() for name in names)))
        left = torch.cat([old[name][new[name] != 0].abs() for name in names])
        gone = torch.cat([old[name][new[name] == 0].abs() for name in names])
        assert not len(left) or not len(gone) or gone.max() <= left.min()
    for name, value in after.parameters.items():
        assert name in new or torch.equal(value, before.parameters[name])
        assert torch.equal(value[value != 0], before.parameters[name][value != 0])
    assert after.config == config


@pytest.mark.parametrize(("pattern", "keep", "size"), [("2:4", 2, 4), ("1:8", 1, 8), ("3:4", 3, 4)])
def test_a_pattern_holds_in_every_row(pattern: str, keep: int, size: int) -> None:
    step = Prune(pattern=pattern, include=("linear",))
    after = step.apply(untrained(30, SASREC), Workshop(), None)
    for name, value in weights(after, step).items():
        assert ((value != 0).view(len(value), -1, size).sum(2) == keep).all(), name


@pytest.mark.parametrize("importance", ["magnitude", "taylor"])
def test_by_row_every_item_keeps_as_much(importance: Any) -> None:
    """By layer, small vectors can vanish as a whole."""
    before = untrained(12, SASREC)
    before.parameters["item.weight"][5] *= 1e-3
    row = Prune(sparsity=0.4, scope="row", importance=importance).apply(before, shop(), None)
    for name, value in weights(row, Prune(sparsity=0.4)).items():
        real = value[1:] if name == "item.weight" else value
        assert ((real == 0).sum(1) == round(0.4 * value.shape[1])).all(), name
    layer = Prune(sparsity=0.4).apply(before, Workshop(), None)
    assert (layer.parameters["item.weight"][5] == 0).all()


def test_zeros_that_are_there_count() -> None:
    """Pruning twice to the same share changes nothing; then further takes only more."""
    first = Prune(sparsity=0.5).apply(untrained(30, SASREC), Workshop(), None)
    again = Prune(sparsity=0.5).apply(first, Workshop(), None)
    further = Prune(sparsity=0.7).apply(first, Workshop(), None)
    for name, value in first.parameters.items():
        assert torch.equal(value, again.parameters[name])
        assert (further.parameters[name][value == 0] == 0).all()


@pytest.mark.parametrize(
    "train",
    [
        TrainConfig(epochs=2, batch_size=8, learning_rate=0.02, weight_decay=0.1, ema=0.9, clip_norm=1.0),
        TrainConfig(epochs=2, batch_size=8, learning_rate=0.02, l2=0.01, adversarial=FGM()),
        TrainConfig(epochs=2, batch_size=8, learning_rate=0.02, loss=SampledSoftmax(negatives=4), sparse_rows=True),
    ],
    ids=["decay and averages", "adversarial", "sparse rows"],
)
def test_zeros_survive_training(train: TrainConfig) -> None:
    before, step = untrained(12, SASREC), Prune(sparsity=0.6, train=train)
    after, oneshot = (s.apply(before, shop(), None) for s in (step, Prune(sparsity=0.6)))
    for name, value in weights(after, step).items():
        assert torch.equal(value == 0, oneshot.parameters[name] == 0), name
        assert not torch.equal(value, oneshot.parameters[name]), name
    assert 0 < after.metrics["ndcg@10"] <= 1


def test_zeros_survive_what_follows() -> None:
    """A later step that trains keeps them too, and what is taken out takes its zeros along."""
    recipe = Recipe(steps=(Prune(sparsity=0.5), PruneStructure(keep_feed_forward=0.5, train=TRAIN)))
    after = compress(untrained(12, SASREC), recipe, shop())
    cut = compress(
        untrained(12, SASREC), Recipe(steps=(recipe.steps[0], PruneStructure(keep_feed_forward=0.5))), shop()
    )
    for name, value in weights(after, recipe.steps[0]).items():  # type: ignore[arg-type]
        assert torch.equal(value == 0, cut.parameters[name] == 0), name
    assert [step.name for step in after.lineage] == ["prune", "prune-structure"]


def test_zeros_survive_training_for_bytes() -> None:
    pruned = Prune(sparsity=0.5, include=("linear",)).apply(untrained(12, SASREC), Workshop(), None)
    after = Quantize(weights="int8", train=TRAIN).apply(pruned, shop(), None)
    for name, value in weights(pruned, Prune(sparsity=0.5, include=("linear",))).items():
        codes = after.parameters[name.replace("weight", "codes")].T
        assert (codes[value == 0] == MIDDLE).all(), name
        assert (codes[value != 0] != MIDDLE).float().mean() > 0.9, name


def test_gradual_pruning_follows_the_cubic_schedule() -> None:
    seen = []

    class Watching(Silent):
        def validated(self, epoch: int, figures: dict[str, float], *, best: bool) -> None:
            seen.append(epoch)

    step = Prune(sparsity=0.8, stages=3, train=TrainConfig(epochs=5, batch_size=8), include=("linear",))
    assert [step._training(stage).epochs for stage in range(3)] == [1, 1, 3]
    after = step.apply(untrained(12, SASREC), shop(journal=Watching()), None)
    assert seen == [0, 0, 0, 1, 2]
    for name, value in weights(after, step).items():
        assert int((value == 0).sum()) == round(0.8 * value.numel()), name
    ways = [step._zeros([torch.ones(1000)], step._way(stage)) for stage in range(3)]
    assert ways == [563, 770, 800]  # 800 (1 - (2/3)^3) = 562.96, 800 (1 - (1/3)^3) = 770.4


def test_a_gradual_pattern_ends_in_the_pattern() -> None:
    step = Prune(pattern="1:4", stages=2, train=TrainConfig(epochs=2, batch_size=8), include=("linear",))
    after = step.apply(untrained(12, SASREC), shop(), None)
    for value in weights(after, step).values():
        assert ((value != 0).view(len(value), -1, 4).sum(2) == 1).all()


class KilledError(Exception):
    pass


class Killing(Silent):
    """Dies at a batch, counted over all stages."""

    def __init__(self, at: int) -> None:
        self.left = at

    def batch(self, loss: float) -> None:
        self.left -= 1
        if not self.left:
            raise KilledError


@pytest.mark.parametrize("importance", ["magnitude", "taylor"])
@pytest.mark.parametrize("at", [3, 17])
def test_a_killed_pruning_ends_as_an_unbroken_one(tmp_path: Path, importance: Any, at: int) -> None:
    step = Prune(sparsity=0.6, stages=2, train=TRAIN, importance=importance)
    recipe, before = Recipe(steps=(step,)), untrained(12, small(SASRecConfig, dropout=0.2))
    whole = compress(before, recipe, shop())
    with pytest.raises(KilledError):
        compress(before, recipe, shop(tmp_path / "w", Killing(at), save_every=0.0))
    resumed = compress(before, recipe, shop(tmp_path / "w", save_every=0.0))
    for name, value in whole.parameters.items():
        assert torch.equal(value, resumed.parameters[name]), name
    assert whole.metrics == resumed.metrics


def test_taylor_keeps_what_the_loss_needs() -> None:
    """A large weight that nothing reads goes before a small one that is read."""
    before = untrained(12, SASREC)
    before.parameters["blocks.0.feed_in.weight"][3] = 5.0
    before.parameters["blocks.0.feed_out.weight"][:, 3] = 0.0  # nobody reads neuron 3
    for importance, kept in (("magnitude", True), ("taylor", False)):
        step = Prune(sparsity=0.5, importance=importance, include=("linear",))
        after = step.apply(before, shop(), None)
        assert bool((after.parameters["blocks.0.feed_in.weight"][3] != 0).all()) == kept
        assert bool((after.parameters["blocks.0.feed_in.weight"][3] == 0).all()) != kept


def test_zeros_make_files_smaller(tmp_path: Path) -> None:
    before = untrained(200, SASREC)
    sizes = []
    for checkpoint in (before, Prune(sparsity=0.8).apply(before, Workshop(), None)):
        path = tmp_path / f"{len(sizes)}.safetensors"
        arrays = {name: value.numpy() for name, value in checkpoint.parameters.items()}
        save_tensors(arrays, path)
        assert all(np.array_equal(arrays[name], value) for name, value in load_tensors(path).items())
        sizes.append(path.stat().st_size)
    assert sizes[1] < 0.5 * sizes[0]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({}, "set one of `sparsity` and `pattern`"),
        ({"sparsity": 0.5, "pattern": "2:4"}, "set one of"),
        ({"sparsity": 0.0}, "sparsity = 0.0"),
        ({"sparsity": 1.0}, "sparsity = 1.0"),
        ({"sparsity": float("nan")}, "sparsity = nan"),
        ({"pattern": "4:2"}, "pattern = '4:2'"),
        ({"pattern": "2"}, "pattern = '2'"),
        ({"pattern": "2:4", "scope": "global"}, "scope = 'global' with a `pattern`"),
        ({"sparsity": 0.5, "include": ()}, "include"),
        ({"sparsity": 0.5, "include": ("heads",)}, "include"),
        ({"sparsity": 0.5, "scope": "column"}, "scope = 'column'"),
        ({"sparsity": 0.5, "importance": "l3"}, "importance = 'l3'"),
        ({"sparsity": 0.5, "batches": 0}, "batches = 0"),
        ({"sparsity": 0.5, "stages": 2}, "stages = 2"),
        ({"sparsity": 0.5, "stages": 9, "train": TRAIN}, "stages = 9"),
    ],
)
def test_bad_settings_are_refused(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Prune(**fields)
    assert named in caught.value.problem
    assert caught.value.mend


@pytest.mark.parametrize(
    ("step", "config", "named"),
    [
        (Prune(sparsity=0.5), PopularityConfig(), "'popularity' has no weights"),
        (Prune(sparsity=0.5), EASEConfig(), "'ease' has no weights"),
        (Prune(sparsity=0.5), small(SASRecConfig, weights="int8"), "the weights are int8 already"),
        (Prune(sparsity=0.5), small(SASRecConfig, table=Quantized()), "the item table is quantized"),
        (Prune(pattern="2:4"), small(HSTUConfig, embedding_dim=50), "has 50 inputs, no multiple of 4"),
        (
            Prune(sparsity=0.5, train=TrainConfig(adversarial=FGM())),
            small(SASRecConfig, table=LowRank(rank=2)),
            "train.adversarial: with model.table.kind = .low-rank",
        ),
    ],
)
def test_what_cannot_follow_is_refused_before_data_are_read(step: Prune, config: Any, named: str) -> None:
    with pytest.raises(ConfigError, match=rf"\$.steps\[0\]: .*{named}"):
        check(Recipe(steps=(step,)), config, 12)
