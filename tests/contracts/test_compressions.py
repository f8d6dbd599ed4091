"""What every step of a recipe promises, whatever it does to a checkpoint."""

from functools import cache
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
import torch

from millirec.compress.anew import Train
from millirec.compress.distil import Distil
from millirec.compress.factorise import Factorise
from millirec.compress.hashing import Hash
from millirec.compress.product import JointProduct, ProductQuantize
from millirec.compress.prune import Prune
from millirec.compress.quantize import Quantize
from millirec.compress.recipe import Recipe, StepConfig, compress
from millirec.compress.structure import PruneStructure
from millirec.compress.tiers import Tier
from millirec.compress.workshop import Workshop
from millirec.data.dataset import Dataset
from millirec.data.errors import ConfigError
from millirec.models.base import Inputs
from millirec.models.checkpoint import Checkpoint
from millirec.models.config import EASEConfig, build
from millirec.models.export import random_batch
from millirec.models.sasrec import SASRecConfig
from millirec.train.config import TrainConfig
from millirec.train.fit import fit
from millirec.train.journal import Silent
from millirec.train.machine import Machine
from tests.logs import cycle

MODEL = SASRecConfig(embedding_dim=8, blocks=1, heads=2, max_length=6, temperature=0.1)
TRAIN = TrainConfig(epochs=1, batch_size=16)
STEPS = [
    Quantize(),
    Quantize(weights="int8-static", table_bits=4, train=TRAIN),
    Quantize(weights="int4", table_bits=4, train=TRAIN),
    Prune(sparsity=0.5),
    PruneStructure(keep_feed_forward=0.5, keep_heads=1),
    ProductQuantize(codes=4),
    JointProduct(codes=4, train=TRAIN),
    Factorise(rank=4),
    Hash(buckets=3),
    Tier(share=0.5, codes=4),
    Tier(share=0.5, fine_codes=8, codes=4),
    Distil(train=TRAIN),
    Train(train=TRAIN),
]
every = pytest.mark.parametrize("step", STEPS, ids=lambda step: str(step.__struct_config__.tag))


@cache
def data() -> Dataset:
    return cycle()


@cache
def taught() -> Checkpoint:
    return fit(data(), MODEL, TRAIN, Machine(threads=1), Silent())


def done(step: Any) -> Checkpoint:
    return compress(taught(), Recipe(steps=(step,)), Workshop(data, Machine(threads=1)))


def scores(checkpoint: Checkpoint) -> torch.Tensor:
    network: Any = checkpoint.network()
    with torch.no_grad():
        return network.user_vectors(Inputs.of(random_batch(12, 4, 6, seed=0))) @ network.item_vectors().T


def test_every_kind_is_here() -> None:
    assert {type(step) for step in STEPS} == set(get_args(StepConfig))


@every
def test_it_says_beforehand_what_comes_out_and_leaves_what_came_in(step: Any, tmp_path: Path) -> None:
    before = taught().content_hash
    made = done(step)
    told = step.rewritten(MODEL, 12)
    # the temperature that leaves scores their size depends on how long the vectors are
    assert made.config == msgspec.structs.replace(told, temperature=made.config.temperature)
    assert {name: value.shape for name, value in made.parameters.items()} == {
        name: value.shape for name, value in build(made.config, 12).state_dict().items()
    }
    assert torch.isfinite(scores(made)[:, 1:]).all()
    made.save(tmp_path / "c")
    assert torch.equal(scores(Checkpoint.load(tmp_path / "c")), scores(made))
    assert Checkpoint.content_hash.func(taught()) == before  # type: ignore[attr-defined]


@every
def test_the_same_in_gives_the_same_out(step: Any) -> None:
    assert done(step).content_hash == done(step).content_hash


@every
def test_the_lineage_tells_it(step: Any) -> None:
    *earlier, last = done(step).lineage
    assert tuple(earlier) == taught().lineage
    assert last.name == step.__struct_config__.tag
    assert last.settings["kind"] == last.name


@every
def test_it_survives_toml(step: Any) -> None:
    assert msgspec.convert(msgspec.to_builtins(step), StepConfig) == step


@every
def test_data_are_read_only_where_it_says_so(step: Any) -> None:
    def unread() -> Dataset:
        raise AssertionError("data were read")

    blind = Workshop(unread, Machine(threads=1))
    if step.needs_data:
        with pytest.raises(AssertionError, match="data were read"):
            compress(taught(), Recipe(steps=(step,)), blind)
        with pytest.raises(ConfigError, match="needs data"):
            compress(taught(), Recipe(steps=(step,)), Workshop())
    else:
        compress(taught(), Recipe(steps=(step,)), blind)


@every
def test_a_model_without_weights_is_refused(step: Any) -> None:
    with pytest.raises(ConfigError, match="ease"):
        step.rewritten(EASEConfig(), 12)


@every
def test_data_of_other_items_are_refused(step: Any) -> None:
    other = cycle(n_items=13)
    if step.needs_data:
        with pytest.raises(ConfigError, match="do not fit the checkpoint's vocabulary"):
            compress(taught(), Recipe(steps=(step,)), Workshop(lambda: other, Machine(threads=1)))
