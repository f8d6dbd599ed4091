"""What every sequence model of the union keeps: padding is nothing, and only BERT4Rec sees the future."""

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from millirec.data.errors import ConfigError
from millirec.models.base import Inputs, Masked, SequenceModel
from millirec.models.bert4rec import BERT4RecConfig
from millirec.models.caser import CaserConfig
from millirec.models.config import ModelConfig, build
from millirec.models.export import export, parity_error, random_batch
from millirec.models.gru4rec import GRU4RecConfig
from millirec.models.markov import MarkovConfig
from millirec.models.nextitnet import NextItNetConfig
from millirec.models.popularity import PopularityConfig
from millirec.models.vmis_knn import VMISKNNConfig
from tests.networks import N_ITEMS, network, small

LENGTH = 14
CONFIGS = [small(kind) for kind in get_args(ModelConfig) if isinstance(build(small(kind), 5), SequenceModel)]
VARIANTS = [
    small(GRU4RecConfig, cell="lstm"),
    small(NextItNetConfig, dilations=[2], kernel=2, temperature=0.1),
    small(BERT4RecConfig, heads=1, temperature=0.1),
    small(CaserConfig, window=3, temperature=0.1),
]
CONFIGS += VARIANTS
CAUSAL = [config for config in CONFIGS if not isinstance(build(config, 5), Masked)]


def name(config: Any) -> str:
    return f"{type(config).__name__}-{getattr(config, 'cell', '')}{getattr(config, 'temperature', '')}"


def at_newest(vectors: Tensor, lengths: Tensor) -> Tensor:
    return vectors[torch.arange(len(vectors)), lengths.long() - 1]


@pytest.mark.parametrize("config", CONFIGS, ids=name)
def test_more_padding_changes_nothing(config: Any) -> None:
    module: nn.Module = network(config)
    inputs = Inputs.of(random_batch(N_ITEMS, 5, 9, seed=1))
    padded = Inputs(
        nn.functional.pad(inputs.items, (0, 5)), inputs.lengths, nn.functional.pad(inputs.times, (0, 5)), inputs.now
    )
    real = torch.arange(9)[None, :] < inputs.lengths[:, None]
    with torch.inference_mode():
        torch.testing.assert_close(module.user_vectors(padded), module.user_vectors(inputs), rtol=1e-4, atol=1e-5)
        wide, narrow = module(padded)[:, :9], module(inputs)
    torch.testing.assert_close(wide[real], narrow[real], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", CAUSAL, ids=name)
def test_a_later_item_never_changes_an_earlier_vector(config: Any) -> None:
    module = network(config)
    inputs = Inputs.of(random_batch(N_ITEMS, 6, LENGTH, seed=2))
    with torch.inference_mode():
        before = module(inputs)
        for place in (1, 6, LENGTH - 1):
            items = inputs.items.clone()
            items[:, place] = items[:, place] % N_ITEMS + 1
            after = module(inputs._replace(items=items))
            torch.testing.assert_close(after[:, :place], before[:, :place], rtol=0, atol=0)
            reached = inputs.lengths > place
            assert not torch.allclose(after[reached, place], before[reached, place], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("config", CAUSAL, ids=name)
def test_the_vector_after_the_last_event_is_that_of_the_whole(config: Any) -> None:
    module = network(config)
    for seed, width in enumerate([1, 2, 7, LENGTH]):
        inputs = Inputs.of(random_batch(N_ITEMS, 6, width, seed))
        with torch.inference_mode():
            whole, last = at_newest(module(inputs), inputs.lengths), module.user_vectors(inputs)
        torch.testing.assert_close(last, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", CONFIGS, ids=name)
def test_an_empty_history_has_a_vector_too(config: Any) -> None:
    inputs = Inputs.of(random_batch(N_ITEMS, 2, 3, seed=0))
    inputs.items[1], inputs.lengths[1] = 0, 0
    with torch.inference_mode():
        assert torch.isfinite(network(config).user_vectors(inputs)).all()


@pytest.mark.parametrize("config", VARIANTS, ids=name)
def test_the_graph_of_a_variant_says_what_its_network_says(config: Any, tmp_path: Path) -> None:
    """The default of each kind is packed in the contract tests."""
    module = network(config)
    graph = export(module, N_ITEMS)
    assert parity_error(module, graph, N_ITEMS, LENGTH) < 1e-5


@pytest.mark.parametrize(
    ("kind", "fields", "named"),
    [
        (BERT4RecConfig, {"mask_share": 0.0}, "mask_share"),
        (BERT4RecConfig, {"mask_share": 1.0}, "mask_share"),
        (BERT4RecConfig, {"last_share": 1.5}, "last_share"),
        (BERT4RecConfig, {"heads": 3}, "heads"),
        (BERT4RecConfig, {"max_length": 1}, "max_length"),
        (NextItNetConfig, {"dilations": []}, "dilations"),
        (NextItNetConfig, {"dilations": [1, 0]}, "dilations"),
        (NextItNetConfig, {"kernel": 1}, "kernel"),
        (NextItNetConfig, {"dropout": 1.0}, "dropout"),
        (CaserConfig, {"window": 9, "max_length": 8}, "window"),
        (CaserConfig, {"window": 0}, "window"),
        (GRU4RecConfig, {"cell": "rnn"}, "cell"),
        (GRU4RecConfig, {"temperature": 0.0}, "temperature"),
        (MarkovConfig, {"neighbours": 0}, "neighbours"),
        (MarkovConfig, {"shrink": -1.0}, "shrink"),
        (VMISKNNConfig, {"neighbours": 0}, "neighbours"),
        (PopularityConfig, {"half_life_days": 0.0}, "half_life_days"),
    ],
)
def test_a_config_that_cannot_work_is_refused_by_name(kind: type[Any], fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        kind(**fields)
