"""Quantisation: what is left of numbers in few bits, in the network, on disk and in the graph."""

import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from millirec.bundle import pack
from millirec.compress.quantize import Quantize
from millirec.compress.recipe import Recipe, check, compress
from millirec.compress.rounding import (
    RoundedBlocks,
    Rounding,
    block_codes,
    channel_codes,
    exact,
    row_codes,
    shortened,
    train_rounded,
)
from millirec.compress.workshop import Workshop
from millirec.data.codes import middle
from millirec.data.codes import pack as packed
from millirec.data.dataset import CONTEXT, TRAIN
from millirec.data.errors import ConfigError
from millirec.index import TableIndexConfig
from millirec.models.base import Inputs
from millirec.models.checkpoint import Checkpoint
from millirec.models.config import (
    EASEConfig,
    GRU4RecConfig,
    LinearRecurrentConfig,
    ModelConfig,
    NextItNetConfig,
    SASRecConfig,
)
from millirec.models.export import random_batch
from millirec.models.layers.int4 import Int4Linear, unpacked
from millirec.models.layers.linear import Int8Linear, input_range
from millirec.models.layers.table import Quantized
from millirec.train.config import TrainConfig
from millirec.train.machine import Machine
from tests.bundles import untrained
from tests.logs import cycle

SASREC = SASRecConfig(embedding_dim=8, blocks=2, heads=2, max_length=10)
LINEAR = LinearRecurrentConfig(embedding_dim=8, blocks=2, heads=2, key_dim=4, max_length=10)
NETWORKS = [SASREC, LINEAR, NextItNetConfig(embedding_dim=8, max_length=10)]


def quantized(config: ModelConfig, **settings: Any) -> tuple[Checkpoint, Checkpoint]:
    before = untrained(30, config)
    return before, Quantize(**settings).apply(before, Workshop(), None)


def scores(checkpoint: Checkpoint) -> torch.Tensor:
    network: Any = checkpoint.network()
    with torch.no_grad():
        return network.user_vectors(Inputs.of(random_batch(30, 5, 10, seed=1))) @ network.item_vectors()[1:].T


# --- rounding, by hand


def test_channels_by_hand() -> None:
    codes, scale = channel_codes(torch.tensor([[1.27, -0.3], [0.0, 2.54]]))
    assert scale.tolist() == pytest.approx([0.01, 0.02])
    assert codes.tolist() == [[255, 128], [98, 255]]  # (in, out): about 128


def test_rows_by_hand() -> None:
    rows = torch.tensor([[-1.5, -0.5, 0.5, 1.5], [0.0, 0.0, 0.0, 0.0]])
    numbers, scale = row_codes(rows, 2)
    assert numbers[0].tolist() == [0, 1, 2, 3]
    assert float(scale[0]) == pytest.approx(1.0, abs=0.15)  # one of a few widths near the best
    assert float(scale[1]) == 0


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([2, 4, 8]), st.integers(0, 1000), st.floats(1e-3, 100))
def test_more_bits_lose_less_than_theory_allows(bits: int, seed: int, size: float) -> None:
    rows = size * torch.from_numpy(np.random.default_rng(seed).standard_normal((20, 64)).astype(np.float32))
    numbers, scale = row_codes(rows, bits)
    kept = (numbers.float() - middle(bits)) * scale
    assert torch.equal(scale, scale.half().float())
    loss = float((kept - rows).square().mean() / rows.square().mean())
    assert loss < {2: 0.16, 4: 0.018, 8: 2e-4}[bits]  # best possible for normal numbers: .1188, .01154, ...


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([4, 8]), st.integers(0, 1000), st.floats(1.1, 4))
def test_wider_levels_lose_more_and_pack_into_less(bits: int, seed: int, step_scale: float) -> None:
    rows = torch.from_numpy(np.random.default_rng(seed).standard_normal((500, 64)).astype(np.float32))

    def rounded(step: float) -> tuple[float, float, int]:
        numbers, scale = row_codes(rows, bits, step)
        lost = float(((numbers.float() - middle(bits)) * scale - rows).square().mean())
        return lost, float(scale.mean()), len(zlib.compress(packed(numbers.numpy(), bits).tobytes(), 9))

    narrow, wide = rounded(1.0), rounded(step_scale)
    assert wide[1] == pytest.approx(narrow[1] * step_scale, rel=0.04)
    assert wide[0] > narrow[0]
    assert wide[2] < narrow[2]
    if bits == 8:  # all levels are within reach: the loss of even levels, and log2(factor) bits saved a number
        assert wide[0] == pytest.approx(wide[1] ** 2 / 12, rel=0.1)
        assert (narrow[2] - wide[2]) * 8 / rows.numel() == pytest.approx(np.log2(step_scale), abs=0.3)


def test_twice_the_width_beats_three_bits() -> None:
    rows = torch.randn(2000, 64, generator=torch.Generator().manual_seed(0))
    numbers, scale = row_codes(rows, 4, 2.0)
    lost = float(((numbers.float() - middle(4)) * scale - rows).square().mean())
    shares = np.bincount(numbers.numpy().ravel(), minlength=16) / numbers.numel()
    assert lost < 0.0374  # of the best 8 even levels (Max 1960)
    assert -float((shares * np.log2(shares + 1e-30)).sum()) < 2.8


def test_wider_levels_of_weights() -> None:
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    narrow, wide = block_codes(weight)[1], block_codes(weight, 2.0)[1]
    assert torch.allclose(wide, 2 * narrow, rtol=0.04)
    assert torch.equal(RoundedBlocks(2.0)(weight), unpacked(*block_codes(weight, 2.0), 64))


@given(st.floats(-60000, 60000, width=32), st.integers(3, 8))
def test_significant_bits(number: float, bits: int) -> None:
    kept = float(shortened(torch.tensor(number), bits))
    assert kept == pytest.approx(number, rel=2.0**-bits, abs=1e-7)  # below, 16 bits have none to spare
    if kept:
        assert (np.frexp(kept)[0] * 2**bits).is_integer()
    assert float(torch.tensor(kept).half()) == kept


@pytest.mark.parametrize("fields", [{"step_scale": 0.9}, {"step_scale": 5.0}, {"step_scale": 2.0, "weights": "int8"}])
def test_steps_that_cannot_be(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="step_scale"):
        Quantize(**fields)


@given(st.lists(st.floats(-50, 50, width=32), min_size=2, max_size=20))
def test_a_range_holds_zero_and_its_ends(values: list[float]) -> None:
    scale, centre = input_range(torch.tensor(min(values)), torch.tensor(max(values)))
    low, high = -float(centre) * float(scale), (255 - float(centre)) * float(scale)
    assert low <= 0 <= high
    assert low <= min(values) + float(scale)
    assert high >= max(values) - float(scale)


def test_a_layer_is_as_exact_as_bytes_are() -> None:
    torch.manual_seed(0)
    plain = nn.Linear(64, 32).requires_grad_(False)
    layer = Int8Linear(64, 32, static=False)
    codes, scale = channel_codes(plain.weight.detach())
    layer.load_state_dict({"codes": codes, "scale": scale, "bias": plain.bias.detach()})
    x = torch.randn(200, 64)
    step = float(input_range(x.min(), x.max())[0])
    # each product is off by at most half a step of either factor
    bound = (step / 2 * plain.weight.abs().sum(1) + x.abs().sum(1).max() * scale / 2).max()
    assert float((layer(x) - plain(x)).abs().max()) < float(bound) * 1.01
    assert torch.allclose(layer.weight, plain.weight, atol=float(scale.max()) / 2 * 1.001)


def test_four_bits_by_hand() -> None:
    """A block whose weights are whole multiples of an eighth of its largest is kept exactly, whatever its sign."""
    weight = torch.tensor([[-8.0, -3, 0, 7, 1, 1, 1, 1] * 2, [0.5, 0.25, 0, -0.4375, 0, 0, 0, 0] * 2])
    codes, scale = block_codes(weight)
    assert codes.shape == (2, 1, 8)
    assert scale.flatten().tolist() == [1.0, -0.0625]
    assert codes[0, 0, :4].tolist() == [0 + 16 * 5, 8 + 16 * 15, 9 + 16 * 9, 9 + 16 * 9]
    assert torch.equal(unpacked(codes, scale, 16), weight)


@settings(deadline=None)
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 70)),
    seed=st.integers(0, 99),
    spread=st.sampled_from([1e-3, 1.0, 50]),
)
def test_four_bits_lose_no_more_than_a_step(shape: tuple[int, int], seed: int, spread: float) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * spread
    codes, scale = block_codes(weight)
    assert torch.equal(scale, scale.half().float())
    kept = unpacked(codes, scale, shape[1])
    layer = Int4Linear(shape[1], shape[0])
    layer.load_state_dict({"codes": codes, "scale": scale, "bias": torch.ones(shape[0])})
    assert torch.equal(layer.weight, kept)
    x = torch.eye(shape[1])
    assert torch.allclose(layer(x), kept.T + 1, atol=1e-6 * spread)
    steps = scale.abs().repeat_interleave(2 * codes.shape[2], 1)[:, : shape[1]]
    assert bool(((kept - weight).abs() <= 3.01 * steps).all())  # a narrower scale cuts the few largest
    assert float((kept - weight).square().mean().sqrt()) <= float(steps.mean())


@pytest.mark.parametrize("config", [LINEAR, GRU4RecConfig(embedding_dim=8, hidden_dim=8, max_length=10)], ids=repr)
def test_a_bundle_keeps_four_bits(config: ModelConfig, tmp_path: Path) -> None:
    _, made = quantized(config, weights="int4")
    bundle = pack(made, tmp_path / "b")  # which compares graph and network
    kinds = Counter(node.op_type for node in onnx.load_from_string(bundle.encoder.content).graph.node)
    linear = sum(isinstance(module, Int4Linear) for module in made.network().modules())
    assert 0 < kinds["MatMulNBits"] <= linear
    assert bundle.manifest.parity_error < 1e-4


# --- the step


@pytest.mark.parametrize("config", NETWORKS, ids=lambda config: type(config).__name__)
@pytest.mark.parametrize(
    ("settings", "close"),
    [
        ({"weights": "fp16"}, 0.002),
        ({"weights": "bf16"}, 0.02),
        ({"weights": "int8"}, 0.06),
        ({"weights": None, "table_bits": 8}, 0.02),
        ({"weights": "int8", "table_bits": 4}, 0.3),
        ({"weights": "int4"}, 0.3),
    ],
    ids=str,
)
def test_what_comes_out_says_nearly_the_same(
    config: ModelConfig, settings: dict[str, Any], close: float, tmp_path: Path
) -> None:
    before, after = quantized(config, **settings)
    want, got = scores(before), scores(after)
    error = float((got - want).abs().mean() / want.abs().mean())
    assert 0 < error < close
    after.save(tmp_path / "a")
    assert torch.equal(scores(Checkpoint.load(tmp_path / "a")), got)


def test_fewer_bits_take_fewer_bytes(tmp_path: Path) -> None:
    sizes = []
    how_many = ({"weights": "fp16"}, {"weights": "int8"}, {"weights": "int8", "table_bits": 4})
    for how in (None, *how_many, {"weights": "int4", "table_bits": 4}):
        config = SASRecConfig(embedding_dim=64, max_length=10)
        made = untrained(400, config) if how is None else quantized_of(untrained(400, config), how)
        made.save(tmp_path / "c")
        sizes.append((tmp_path / "c" / "parameters.safetensors").stat().st_size)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[1] < 0.52 * sizes[0]
    assert sizes[3] < 0.27 * sizes[0]
    assert sizes[4] < 0.18 * sizes[0]


def quantized_of(checkpoint: Checkpoint, settings: dict[str, Any]) -> Checkpoint:
    return Quantize(**settings).apply(checkpoint, Workshop(), None)


def test_a_bundle_computes_in_integers_and_keeps_no_vector_as_floats(tmp_path: Path) -> None:
    _, made = quantized(LINEAR, weights="int8", table_bits=4)
    bundle = pack(made, tmp_path / "b")
    for graph in (bundle.encoder, bundle.step):
        assert graph is not None
        kinds = Counter(node.op_type for node in onnx.load_from_string(graph.content).graph.node)
        assert kinds["MatMulInteger"] == 2 * 6
    table = [name for name, array in bundle.tensors.items() if array.size >= 31 * 8 and array.dtype.kind == "f"]
    assert not [name for name in table if bundle.tensors[name].shape[0] == 31]
    assert bundle.manifest.index == TableIndexConfig(table="quantized", bits=4, unit=True)
    codes = [array for array in bundle.tensors.values() if array.shape == (31, 4) and array.dtype == np.uint8]
    assert len(codes) == 3  # encoder, step and index
    assert len({id(array) for array in codes}) == 1
    network: Any = made.network()
    rows = np.arange(1, 31, dtype=np.int32)
    assert bundle.index.vectors(rows) == pytest.approx(network.item_vectors().numpy()[1:], abs=1e-6)


# --- calibration and training


def test_calibrated_ranges_are_those_of_real_histories() -> None:
    dataset = cycle()
    config = SASRecConfig(embedding_dim=8, blocks=1, heads=2, max_length=6, dropout=0.0)
    checkpoint = untrained(len(dataset.items), config)
    made = Quantize(weights="int8-static", share=1.0, calibration=10_000).apply(
        checkpoint, Workshop(lambda: dataset), None
    )
    seen: list[torch.Tensor] = []
    network: Any = checkpoint.network()
    network.blocks[0].feed_in.register_forward_pre_hook(lambda _, x: seen.append(x[0].detach().flatten()))
    seq = dataset.sequences
    with torch.inference_mode():
        for user in range(1, len(dataset.users) + 1):
            own = slice(*seq.offsets[user : user + 2])
            rows = seq.items[own][seq.roles[own] == 0][:-1][-6:]
            if len(rows):
                items = torch.from_numpy(rows.astype(np.int32))[None]
                lengths = torch.tensor([len(rows)], dtype=torch.int32)
                network.forward(Inputs(items, lengths, torch.zeros_like(items, dtype=torch.int64), lengths.long()))
    low, high = torch.cat(seen).min(), torch.cat(seen).max()
    step = made.parameters["blocks.0.feed_in.input_scale"]
    assert float(step) == pytest.approx(float(input_range(low, high)[0]), rel=0.02)


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_training_feels_the_rounding(weights: str) -> None:
    torch.manual_seed(0)
    checkpoint = untrained(30, SASREC)
    network: Any = checkpoint.network()
    names = set(network.state_dict())
    train_rounded(network, Rounding(weights, bits=4))
    batch = Inputs.of(random_batch(30, 5, 10, seed=1))
    rounded = quantized_of(checkpoint, {"weights": weights, "table_bits": 4})
    assert torch.allclose(network.forward(batch), rounded.network().forward(batch), atol=0.02)
    network.forward(batch).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert set(exact(network.state_dict())) == names


def test_training_on_makes_up_for_two_bits() -> None:
    dataset = cycle()
    train = TrainConfig(epochs=12, batch_size=16, learning_rate=0.02)
    from millirec.train.fit import fit
    from millirec.train.journal import Silent
    from millirec.train.machine import Machine

    config = SASRecConfig(embedding_dim=16, blocks=1, heads=2, max_length=6, dropout=0.0)
    checkpoint = fit(dataset, config, train, Machine(threads=1), Silent())
    workshop = Workshop(lambda: dataset, Machine(threads=1))
    lossy = Quantize(weights="int8", table_bits=2, train=TrainConfig(epochs=1, learning_rate=1e-9))
    aware = Quantize(weights="int8", table_bits=2, train=train)
    plain, learned = (step.apply(checkpoint, workshop, None) for step in (lossy, aware))
    assert learned.config == plain.config
    assert learned.metrics["ndcg@10"] >= plain.metrics["ndcg@10"]
    loss = [_loss(made, dataset) for made in (plain, learned)]
    assert loss[1] < loss[0]


def _loss(checkpoint: Checkpoint, dataset: Any) -> float:
    network: Any = checkpoint.network()
    seq = dataset.sequences
    with torch.inference_mode():
        items = torch.from_numpy(seq.items[seq.offsets[1] : seq.offsets[1] + 6].astype(np.int32))[None]
        lengths = torch.tensor([6], dtype=torch.int32)
        inputs = Inputs(items, lengths, torch.zeros_like(items, dtype=torch.int64), lengths.long())
        logits = network.forward(inputs)[0, :-1] @ network.item_vectors()[1:].T
        return float(nn.functional.cross_entropy(logits, items[0, 1:].long() - 1))


# --- what is refused, before anything is done


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": None}, "both left out"),
        ({"table_bits": 3}, "table_bits = 3"),
        ({"weights": "int3"}, "weights = 'int3'"),
        ({"calibration": 0}, "calibration = 0"),
        ({"share": 0.2}, "share = 0.2"),
    ],
    ids=str,
)
def test_a_wrong_field_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Quantize(**settings)


@pytest.mark.parametrize(
    ("config", "steps", "message"),
    [
        (EASEConfig(), ({},), "kind 'ease' has no weights"),
        (SASREC, ({}, {}), r"\$\.steps\[1\]: the weights are int8 already"),
        (SASREC, ({"weights": None, "table_bits": 8}, {"table_bits": 4}), r"\$\.steps\[1\]: table_bits = 4"),
        (SASRecConfig(embedding_dim=6, heads=2), ({"table_bits": 2},), "fill no whole bytes"),
    ],
    ids=["no network", "twice", "table twice", "half a byte"],
)
def test_steps_that_cannot_follow_are_refused_up_front(
    config: ModelConfig, steps: tuple[dict[str, Any], ...], message: str
) -> None:
    recipe = Recipe(steps=tuple(Quantize(**step) for step in steps))
    with pytest.raises(ConfigError, match=message):
        check(recipe, config, 30)


def test_a_recipe_writes_lineage_and_is_not_done_twice(tmp_path: Path) -> None:
    recipe = Recipe(steps=(Quantize(weights=None, table_bits=8), Quantize(weights="fp16")))
    checkpoint = untrained(30, SASREC)
    workshop = Workshop(folder=tmp_path)
    made = compress(checkpoint, recipe, workshop)
    assert [step.name for step in made.lineage][-2:] == ["quantize", "quantize"]
    assert isinstance(made.config, SASRecConfig)
    assert (made.config.table, made.config.weights) == (Quantized(bits=8), "fp16")
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    again = compress(checkpoint, recipe, workshop)
    assert again.content_hash == made.content_hash
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")} == stamps
    assert len(stamps) == 2


def test_recurrent_cells_stay_as_they_are() -> None:
    _, made = quantized(GRU4RecConfig(embedding_dim=8, hidden_dim=8, max_length=10), weights="int8")
    assert made.parameters["gru.weight_hh_l0"].dtype == torch.float32
    assert made.parameters["project.codes"].dtype == torch.uint8


def test_what_was_made_of_thinned_data_is_not_taken_for_another(tmp_path: Path) -> None:
    """The protocol is the same in words; the events that may be learned from are not."""
    dataset = cycle()
    roles = dataset.roles.copy()
    roles[np.flatnonzero(roles == TRAIN)[:40]] = CONTEXT
    thinned = dataset.with_roles(roles, dataset.protocol)
    recipe = Recipe(steps=(Quantize(weights="int8-static", calibration=4),))
    checkpoint = untrained(len(dataset.items), SASREC)
    for data in (dataset, thinned, dataset):
        compress(checkpoint, recipe, Workshop(lambda data=data: data, Machine(threads=1), folder=tmp_path))
    assert len(list(tmp_path.iterdir())) == 2
