"""Structured pruning: what does nothing goes first, and what is left is a smaller network that answers alike."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from millirec.compress.recipe import Recipe, check, compress
from millirec.compress.report import described
from millirec.compress.structure import PruneStructure
from millirec.compress.workshop import Workshop
from millirec.config import convert
from millirec.data.errors import ConfigError
from millirec.models.base import Inputs, NetworkConfig, Stepwise, catalog_scores
from millirec.models.checkpoint import Checkpoint
from millirec.models.config import (
    BERT4RecConfig,
    CaserConfig,
    GRU4RecConfig,
    HSTUConfig,
    LinearRecurrentConfig,
    NextItNetConfig,
    PopularityConfig,
    SASRecConfig,
)
from millirec.models.export import export, export_step, parity_error, random_batch, step_parity_error
from millirec.models.layers.table import LowRank, Product
from millirec.train.journal import Silent
from millirec.train.machine import Machine
from millirec.train.trainer import TrainConfig
from tests.bundles import untrained
from tests.logs import cycle
from tests.networks import small

SHOP = Workshop(read=cycle, machine=Machine(threads=1))
TRAIN = TrainConfig(epochs=3, batch_size=8, learning_rate=0.01)
GATED = small(SASRecConfig, heads=4, gated=True, swiglu=True, temperature=0.1)
LINEAR = small(LinearRecurrentConfig, heads=4, key_dim=6)


def grown(config: Any, seed: int = 0) -> Checkpoint:
    """Untrained, but far from the small numbers of a fresh network."""
    made = untrained(12, config)
    for value in made.parameters.values():
        value += 0.3 * torch.randn(value.shape, generator=torch.Generator().manual_seed(seed))
    return made


def scores(checkpoint: Checkpoint) -> torch.Tensor:
    with torch.inference_mode():
        return catalog_scores(checkpoint.network(), Inputs.of(random_batch(12, 6, 9, seed=1)))  # type: ignore[arg-type]


def silence(checkpoint: Checkpoint, part: str, keep: int, rng: np.random.Generator) -> None:
    """All but `keep` units of each group, at random, have weights of 0."""
    assert isinstance(checkpoint.config, NetworkConfig)
    structure = checkpoint.config.structure()
    if part == "blocks":
        for block in rng.permutation(structure.blocks)[keep:]:
            for name, value in checkpoint.parameters.items():
                if name.startswith(f"blocks.{block}."):
                    value.zero_()
        return
    for group in structure.parts[part].groups:
        gone = rng.permutation(structure.parts[part].units)[keep:]
        for piece in group:
            checkpoint.parameters[piece.name].movedim(piece.axis, 0)[piece.places[gone].flatten()] = 0


@pytest.mark.parametrize("importance", ["magnitude", "taylor"])
@pytest.mark.parametrize(
    ("config", "part", "keep"),
    [
        (small(SASRecConfig, heads=4), "heads", 1),
        (GATED, "heads", 3),
        (GATED, "feed_forward", 5),
        (small(SASRecConfig, blocks=4), "blocks", 2),
        (small(BERT4RecConfig, heads=4), "heads", 2),
        (small(BERT4RecConfig), "feed_forward", 7),
        (LINEAR, "heads", 2),
        (LINEAR, "keys", 4),
        (LINEAR, "feed_forward", 3),
        (small(LinearRecurrentConfig, blocks=3), "blocks", 1),
        (small(HSTUConfig, blocks=4), "blocks", 3),
        (small(GRU4RecConfig), "hidden", 5),
        (small(GRU4RecConfig, cell="lstm", layers=1), "hidden", 5),
        (small(GRU4RecConfig), "width", 3),
        (small(CaserConfig, window=3, horizontal=6), "filters", 2),
        (small(CaserConfig, window=3), "width", 5),
        (small(NextItNetConfig, dilations=[2, 2, 2]), "blocks", 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, NetworkConfig) else str(value),
)
def test_what_does_nothing_is_taken_out(config: Any, part: str, keep: int, importance: Any) -> None:
    before = grown(config)
    silence(before, part, keep, np.random.default_rng(3))
    step = PruneStructure(**{f"keep_{part}": keep}, importance=importance, batches=2)
    after = step.apply(before, SHOP, None)
    assert after.config == step.rewritten(config, 12) != config
    want = scores(before)
    torch.testing.assert_close(scores(after), want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))
    report = described(before, after)
    assert report.after.numbers < report.before.numbers
    assert report.after.multiply_adds < report.before.multiply_adds  # type: ignore[operator]
    assert not any("no speed" in remark for remark in report.remarks)


def test_shares_and_counts() -> None:
    config = small(SASRecConfig, heads=4, blocks=4)  # width 8, 32 neurons

    def made(**fields: Any) -> Any:
        return PruneStructure(**fields).rewritten(config, 12)

    assert made(keep_heads=0.5) == small(SASRecConfig, heads=2, head_dim=2, blocks=4)
    assert made(keep_heads=1.0) == made(keep_heads=4) == config
    assert made(keep_heads=0.01).heads == 1
    assert made(keep_feed_forward=0.4).shape.feed_forward == 13  # 12.8
    assert made(keep_feed_forward=16).feed_forward == 2
    assert made(keep_width=6).shape == (6, 4, 2, 32, False, False)
    assert made(keep_width=4, keep_heads=2) == small(SASRecConfig, embedding_dim=4, heads=2, blocks=4, feed_forward=8)
    assert made(keep_blocks=0.5).blocks == made(keep_blocks=(1, 3)).blocks == 2


def test_toml_tells_counts_from_shares() -> None:
    raw = {"steps": [{"kind": "prune-structure", "keep_heads": 1, "keep_width": 1.0, "keep_blocks": [0, 2]}]}
    (step,) = convert(raw, Recipe, "recipe.toml").steps
    assert (step.keep_heads, type(step.keep_heads)) == (1, int)
    assert type(step.keep_width) is float
    assert step.keep_blocks == (0, 2)


def test_blocks_that_are_listed_stay() -> None:
    before = grown(small(NextItNetConfig, dilations=[1, 4, 2]))
    after = PruneStructure(keep_blocks=(0, 2)).apply(before, Workshop(), None)
    assert after.config.dilations == [1, 2]  # type: ignore[union-attr]
    assert torch.equal(after.parameters["blocks.1.far.mix.weight"], before.parameters["blocks.2.far.mix.weight"])


@pytest.mark.parametrize("config", [small(SASRecConfig), small(LinearRecurrentConfig)])
def test_training_follows_and_resumes(config: Any, tmp_path: Path) -> None:
    class KillingError(Exception):
        pass

    class Killing(Silent):
        def validated(self, epoch: int, figures: dict[str, float], *, best: bool) -> None:
            if epoch == 1:
                raise KillingError

    def shop(folder: Path | None, journal: Silent) -> Workshop:
        machine = Machine(threads=1, save_every_seconds=0.0)
        return Workshop(read=cycle, machine=machine, journal=journal, folder=folder)

    recipe = Recipe(steps=(PruneStructure(keep_feed_forward=0.5, keep_width=6, importance="taylor", train=TRAIN),))
    before = untrained(12, config)
    whole = compress(before, recipe, shop(None, Silent()))
    with pytest.raises(KillingError):
        compress(before, recipe, shop(tmp_path / "w", Killing()))
    resumed = compress(before, recipe, shop(tmp_path / "w", Silent()))
    for name, value in whole.parameters.items():
        assert torch.equal(value, resumed.parameters[name]), name
    assert whole.metrics == resumed.metrics
    assert whole.config == resumed.config == recipe.steps[0].rewritten(config, 12)


@pytest.mark.parametrize(
    ("config", "fields"),
    [
        (GATED, {"keep_heads": 3, "keep_feed_forward": 0.3, "keep_width": 5}),
        (LINEAR, {"keep_heads": 3, "keep_keys": 5, "keep_feed_forward": 7, "keep_width": 6}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_its_graphs_say_what_the_smaller_network_says(config: Any, fields: dict[str, Any], tmp_path: Path) -> None:
    before = grown(config)
    PruneStructure(**fields, keep_blocks=1).apply(before, Workshop(), None).save(tmp_path / "checkpoint")
    after = Checkpoint.load(tmp_path / "checkpoint")
    network: Any = after.network()
    assert parity_error(network, export(network, 12), 12, 14) < 1e-5
    if isinstance(network, Stepwise):
        assert step_parity_error(network, export_step(network, 12), 12, 14) < 1e-5
    report = described(before, after)
    assert report.after.bytes < report.before.bytes
    assert report.after.numbers < 0.6 * report.before.numbers
    assert report.after.multiply_adds < 0.6 * report.before.multiply_adds  # type: ignore[operator]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({}, "nothing says what to keep"),
        ({"keep_heads": 0}, "keep_heads = 0"),
        ({"keep_heads": -1}, "keep_heads = -1"),
        ({"keep_width": 0.0}, "keep_width = 0.0"),
        ({"keep_width": 1.5}, "keep_width = 1.5"),
        ({"keep_width": float("nan")}, "keep_width = nan"),
        ({"keep_blocks": ()}, "keep_blocks = []"),
        ({"keep_blocks": (1, 0)}, "keep_blocks = [1, 0]"),
        ({"keep_blocks": (-1, 0)}, "keep_blocks = [-1, 0]"),
        ({"keep_heads": 1, "importance": "size"}, "importance = 'size'"),
        ({"keep_heads": 1, "batches": 0}, "batches = 0"),
    ],
)
def test_bad_settings_are_refused(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        PruneStructure(**fields)
    assert named in caught.value.problem
    assert caught.value.mend


@pytest.mark.parametrize(
    ("config", "fields", "named"),
    [
        (PopularityConfig(), {"keep_heads": 1}, "'popularity' has no weights"),
        (small(SASRecConfig), {"keep_heads": 3}, "keep_heads = 3, but there are 2"),
        (small(SASRecConfig), {"keep_width": 9}, "keep_width = 9, but there are 8"),
        (small(SASRecConfig), {"keep_blocks": 3}, "keep_blocks = 3, but there are 2"),
        (small(SASRecConfig), {"keep_blocks": (0, 2)}, r"keep_blocks = \[0, 2\]"),
        (small(SASRecConfig), {"keep_hidden": 3}, "keep_hidden: a model of kind 'sasrec' has none"),
        (small(GRU4RecConfig), {"keep_heads": 1}, "keep_heads: a model of kind 'gru4rec' has none"),
        (small(GRU4RecConfig), {"keep_blocks": 1}, "no blocks that could be left out"),
        (small(CaserConfig), {"keep_blocks": 1}, "no blocks that could be left out"),
        (small(NextItNetConfig), {"keep_blocks": 2}, "the blocks differ"),
        (small(NextItNetConfig), {"keep_feed_forward": 2}, "keep_feed_forward: .* 'nextitnet' has none"),
        (small(SASRecConfig, weights="int8-static"), {"keep_heads": 1}, "int8-static already"),
        (small(SASRecConfig, table=Product(codes=4)), {"keep_width": 4}, "the item table is product"),
        (small(SASRecConfig, table=LowRank(rank=4)), {"keep_width": 4}, "rank = 4 saves nothing"),
    ],
)
def test_what_cannot_be_is_refused_before_data_are_read(config: Any, fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=rf"\$.steps\[0\]: .*{named}") as caught:
        check(Recipe(steps=(PruneStructure(**fields),)), config, 12)
    assert caught.value.mend


def test_a_step_sees_what_the_one_before_left() -> None:
    twice = Recipe(steps=(PruneStructure(keep_heads=1), PruneStructure(keep_heads=2)))
    with pytest.raises(ConfigError, match=r"\$.steps\[1\]: keep_heads = 2, but there are 1"):
        check(twice, small(SASRecConfig), 12)
