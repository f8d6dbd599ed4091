"""Leaving units out of a network is the same as silencing them: weights of 0, and norms over what is left."""

from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from millirec.data.errors import ConfigError
from millirec.models.base import Inputs, NetworkConfig, Stepwise, catalog_scores
from millirec.models.bert4rec import BERT4RecConfig
from millirec.models.caser import CaserConfig
from millirec.models.config import build
from millirec.models.export import random_batch
from millirec.models.gru4rec import GRU4RecConfig
from millirec.models.hstu import HSTUConfig
from millirec.models.layers.parts import Kept, Structure, columns, cut, outputs, rows
from millirec.models.layers.table import Hashed, LowRank, Product, Quantized, Tiered
from millirec.models.linear_recurrent import LinearRecurrentConfig
from millirec.models.nextitnet import NextItNetConfig
from millirec.models.sasrec import SASRecConfig
from tests.networks import N_ITEMS, network, small

CONFIGS = [
    small(SASRecConfig, blocks=3, heads=4),
    small(SASRecConfig, heads=3, head_dim=2, feed_forward=1.5, gated=True, swiglu=True, temperature=0.2),
    small(BERT4RecConfig, heads=4, temperature=0.2),
    small(HSTUConfig, heads=4),
    small(HSTUConfig, heads=3, head_dim=5, time_bias=False, temperature=None, table=LowRank(rank=1)),
    small(LinearRecurrentConfig, heads=4, key_dim=5),
    small(LinearRecurrentConfig, head_dim=3, time=False, temperature=None),
    small(GRU4RecConfig),
    small(GRU4RecConfig, cell="lstm", temperature=0.2, table=Hashed(buckets=7)),
    small(NextItNetConfig, dilations=[2, 2, 2]),
    small(NextItNetConfig, dilations=[1, 4], kernel=2, table=Hashed(buckets=50, way="multi")),
    small(CaserConfig, window=3, horizontal=5, vertical=2),
]
PLACES = [(config, part) for config in CONFIGS for part in [*config.structure().parts, "blocks"]]
PLACES = [(config, part) for config, part in PLACES if part != "blocks" or config.structure().blocks]


class NormOver(nn.Module):
    """A layer norm that knows only some of the places."""

    def __init__(self, norm: nn.LayerNorm, places: np.ndarray) -> None:
        super().__init__()
        self.norm, self.places = norm, torch.from_numpy(places)

    def forward(self, x: Tensor) -> Tensor:
        some = x[..., self.places]
        out = torch.zeros_like(x)
        normed = F.layer_norm(some, some.shape[-1:])
        out[..., self.places] = normed * self.norm.weight[self.places] + self.norm.bias[self.places]
        return out


def chosen(structure: Structure, part: str, rng: np.random.Generator) -> Kept:
    """A random half or so of the units of one part, or of the blocks."""

    def some(n: int, count: int) -> np.ndarray:
        return np.sort(rng.permutation(n)[:count])

    if part == "blocks":
        return Kept({}, some(structure.blocks, rng.integers(1, structure.blocks + 1)).tolist())
    units = structure.parts[part].units
    count = int(rng.integers(2 if part == "width" else 1, units + 1))  # a low rank is to be lower than the width
    return Kept({part: [some(units, count) for _ in structure.parts[part].groups]}, range(structure.blocks))


def silenced(module: nn.Module, structure: Structure, kept: Kept) -> None:
    """Every number of what is left out is 0; layer norms count only what is left."""
    parameters, places = dict(module.named_parameters()), {}
    with torch.no_grad():
        for part, choices in kept.units.items():
            for group, stays in zip(structure.parts[part].groups, choices, strict=True):
                for piece in group:
                    gone = np.delete(piece.places, stays, axis=0).flatten()
                    parameters[piece.name].movedim(piece.axis, 0)[gone] = 0
                    if piece.name.removesuffix(".weight").endswith("norm"):
                        places[piece.name.removesuffix(".weight")] = np.sort(piece.places[stays].flatten())
        for block in set(range(structure.blocks)) - set(kept.blocks):
            for name in structure.outputs:
                parameters[f"blocks.{block}.{name}"].zero_()
    for name, found in places.items():
        parent, _, own = name.rpartition(".")
        setattr(module.get_submodule(parent), own, NormOver(module.get_submodule(name), found))  # type: ignore[arg-type]


def name(value: Any) -> str:
    return value if isinstance(value, str) else f"{type(value).__name__}{CONFIGS.index(value)}"


def smaller(config: Any, module: nn.Module, kept: Kept) -> Any:
    structure = config.structure()
    counts = {part: len(choices[0]) for part, choices in kept.units.items()}
    out = build(config.shrunk(counts, kept.blocks), N_ITEMS).eval()
    out.load_state_dict(cut(dict(module.named_parameters()), structure, kept))  # strict: shapes and names fit
    return out


@pytest.mark.parametrize(("config", "part"), PLACES, ids=name)
def test_left_out_is_silenced(config: Any, part: str) -> None:
    rng = np.random.default_rng(0)
    inputs = Inputs.of(random_batch(N_ITEMS, 5, 9, seed=1))
    for _ in range(4):
        module, kept = network(config), chosen(config.structure(), part, rng)
        left = smaller(config, module, kept)
        silenced(module, config.structure(), kept)
        with torch.inference_mode():
            want, got = catalog_scores(module, inputs), catalog_scores(left, inputs)
            torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4 * float(want.abs().max()))


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(CONFIGS), st.integers(0, 1000))
def test_all_parts_at_once(config: Any, seed: int) -> None:
    """What is cut together is cut as one after the other, and a smaller one can be cut again."""
    rng, structure = np.random.default_rng(seed), config.structure()
    every = [chosen(structure, part, rng) for part in structure.parts]
    blocks = chosen(structure, "blocks", rng).blocks if structure.blocks else []
    together = Kept({part: choice for kept in every for part, choice in kept.units.items()}, blocks)
    module = network(config)
    left = smaller(config, module, together)
    inputs = Inputs.of(random_batch(N_ITEMS, 4, 6, seed=2))
    with torch.inference_mode():
        assert torch.isfinite(catalog_scores(left, inputs)).all()
        if isinstance(left, Stepwise):
            _, state = left.step(torch.zeros(4, left.state_size), inputs.items[:, 0], inputs.times[:, 0], inputs.now)
            assert state.shape == (4, left.state_size)
    again = (
        left.config
        if hasattr(left, "config")
        else config.shrunk({part: len(choices[0]) for part, choices in together.units.items()}, blocks)
    )
    assert {part: kept.units for part, kept in again.structure().parts.items()} == {
        part: len(choices[0]) for part, choices in together.units.items()
    }


@pytest.mark.parametrize("config", CONFIGS, ids=name)
def test_every_unit_has_its_own_places(config: Any) -> None:
    """No place belongs to two units of a part, and all of an axis that is named belongs to somebody or to others."""
    parameters = dict(network(config).named_parameters())
    for part in config.structure().parts.values():
        for group in part.groups:
            assert any(piece.sends for piece in group)
            for piece in group:
                flat = piece.places.flatten()
                assert len(piece.places) == part.units
                assert len(set(flat.tolist())) == len(flat)
                assert flat.max() < parameters[piece.name].shape[piece.axis]


@pytest.mark.parametrize("config", CONFIGS, ids=name)
def test_keeping_all_changes_nothing(config: Any) -> None:
    structure = config.structure()
    kept = Kept(
        {part: [np.arange(found.units)] * len(found.groups) for part, found in structure.parts.items()},
        range(structure.blocks),
    )
    counts = {part: found.units for part, found in structure.parts.items()}
    assert config.shrunk(counts, kept.blocks) == config
    parameters = dict(network(config).named_parameters())
    for key, value in cut(parameters, structure, kept).items():
        assert torch.equal(value, parameters[key]), key


def test_places_by_hand() -> None:
    assert rows("w", 2, repeats=2, width=3).places.tolist() == [[0, 1, 2, 6, 7, 8], [3, 4, 5, 9, 10, 11]]
    assert columns("w", 3, start=4).places.tolist() == [[4], [5], [6]]
    assert [piece.name for piece in outputs("norm", 2)] == ["norm.weight", "norm.bias"]


def test_a_cut_by_hand() -> None:
    """Two heads of two numbers; the second stays. A block is left out, the next one takes its number."""
    weight = torch.arange(8.0).view(4, 2)
    structure = small(HSTUConfig, embedding_dim=2, heads=1).structure()
    parameters = {"blocks.0.a": weight, "blocks.1.a": weight + 10, "other": weight}
    left = cut(parameters, structure, Kept({}, [1]))
    assert left.keys() == {"blocks.0.a", "other"}
    assert torch.equal(left["blocks.0.a"], weight + 10)


@pytest.mark.parametrize("table", [Quantized(), Product(codes=4), Tiered(codes=4)])
def test_a_table_of_codes_keeps_its_width(table: Any) -> None:
    assert "width" not in small(SASRecConfig, table=table).structure().parts
    assert "heads" in small(SASRecConfig, table=table).structure().parts


def test_sizes_are_said_and_refused() -> None:
    assert SASRecConfig(embedding_dim=50, heads=2, feed_forward=0.66).shape.feed_forward == 33
    assert HSTUConfig(embedding_dim=50, heads=3, head_dim=7).head_size == 7
    assert LinearRecurrentConfig(heads=2, head_dim=5, key_dim=4).block_state == 2 * 4 * 5 + 3 * 64
    for config, field, value in (
        (SASRecConfig, "feed_forward", 0.33),
        (BERT4RecConfig, "feed_forward", 0),
        (LinearRecurrentConfig, "feed_forward", float("nan")),
        (HSTUConfig, "head_dim", 0),
        (SASRecConfig, "heads", 3),
    ):
        with pytest.raises(ConfigError, match=rf"\$.model.{field}"):
            config(**{field: value})


def test_an_old_config_is_read_and_written_as_ever() -> None:
    raw = b'{"kind":"sasrec","embedding_dim":16,"feed_forward":4}'
    config = msgspec.json.decode(raw, type=SASRecConfig)
    assert config == SASRecConfig(embedding_dim=16)
    assert b'"feed_forward":4,' in msgspec.json.encode(config)
    part = msgspec.json.decode(b'{"kind":"sasrec","feed_forward":0.5}', type=SASRecConfig)
    assert part.shape.feed_forward == 32
    assert isinstance(config, NetworkConfig)
