"""Networks on features, by hand."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from millirec.data.errors import ConfigError
from millirec.data.features import Features, Ragged, Schema
from millirec.data.features.schema import ListSpace, SequenceSpace, Space
from millirec.models.base import RankInputs
from millirec.models.rankers.autoint import AutoIntConfig
from millirec.models.rankers.config import build_ranker
from millirec.models.rankers.dcnv2 import DCNv2, DCNv2Config
from millirec.models.rankers.din import DIN, DINConfig
from millirec.models.rankers.dnn import DNNConfig
from millirec.models.rankers.fgcnn import FGCNN, FGCNNConfig
from millirec.models.rankers.fields import FieldVectors
from millirec.models.rankers.finalmlp import FinalMLP, FinalMLPConfig
from millirec.models.rankers.finalnet import FinalNet, FinalNetConfig
from millirec.models.rankers.fm import FM, FMConfig
from millirec.models.rankers.lr import LR, LRConfig
from millirec.models.rankers.mmoe import MMoE, MMoEConfig, combined

SCHEMA = Schema(
    categorical=(Space(name="user", size=2), Space(name="item", size=3)),
    lists=(ListSpace(name="tags", size=2, width=2),),
    numbers=("price",),
    sequences=(SequenceSpace(name="seen", length=2, of=1),),
)


def inputs() -> RankInputs:
    """Two rows: user 1, item 3, tags 1 and 2, price 2, seen 1, 2, 3 (the newest two count); and one of zeros."""
    tags = Ragged(np.array([1, 2], np.int32), np.array([0, 0]), np.array([2, 0]))
    seen = Ragged(np.array([1, 2, 3], np.int32), np.array([0, 0]), np.array([3, 0]))
    ids, numbers = np.array([[1, 3], [0, 0]], np.int32), np.array([[2], [0]], np.float32)
    return RankInputs.of(Features(ids, numbers, (tags,), (seen,)), SCHEMA)


def numbered(module: torch.nn.Module) -> None:
    """Value number i of a table has the vector i, 10 i, ..."""
    for part in module.modules():
        if isinstance(part, FieldVectors):
            rows = torch.arange(len(part.table.weight), dtype=torch.float32)[:, None]
            scale = 10.0 ** torch.arange(part.width)
            with torch.no_grad():
                part.table.weight.copy_(rows * scale)
                part.numbers.copy_(torch.full((1, 1), 0.5) * scale)


def test_tensors_are_padded_to_what_the_schema_says() -> None:
    given = inputs()
    assert given.lists.tolist() == [[1, 2], [0, 0]]
    assert given.sequences.tolist() == [[[2, 3]], [[0, 0]]]


def test_fields_have_vectors_of_their_own() -> None:
    vectors = FieldVectors(SCHEMA, 2)
    numbered(vectors)
    # The table: user 0..2, item 3..6, tags 7..9.
    found = vectors(inputs())
    first = [1, 6, (8 + 9) / 2, 0.5 * 2, (5 + 6) / 2]
    assert found[0].tolist() == [[x, 10 * x] for x in first]
    assert found[1].tolist() == [[x, 10 * x] for x in (0, 3, 0, 0, 0)]


def test_logistic_regression_adds_up() -> None:
    model = LR(LRConfig(), SCHEMA)
    numbered(model)
    with torch.no_grad():
        model.linear.bias.fill_(100)
    assert model(inputs()).tolist() == [100 + 1 + 6 + 8 + 9 + 1 + 5.5, 103]


def test_a_factorisation_machine_adds_all_pairs() -> None:
    model = FM(FMConfig(embedding_dim=1), SCHEMA)
    numbered(model)
    with torch.no_grad():
        model.linear.weights.table.weight.zero_()
        model.linear.weights.numbers.zero_()
    values = [1, 6, 8, 9, 1, 5.5]
    pairs = sum(a * b for i, a in enumerate(values) for b in values[i + 1 :])
    assert model(inputs()).tolist() == [pytest.approx(pairs), 0]


def test_crosses_multiply() -> None:
    """One layer with a matrix of ones on a single field: x * (x + b) + x."""
    schema = Schema(categorical=(Space(name="a", size=4),))
    model = DCNv2(DCNv2Config(embedding_dim=1, crosses=1, hidden=(1,)), schema).eval()
    numbered(model)
    with torch.no_grad():
        model.crosses[0].weight.fill_(1)
        model.crosses[0].bias.fill_(0.5)
        model.output.weight.copy_(torch.tensor([[1.0, 0.0]]))
        model.output.bias.zero_()
    rows = RankInputs.of(Features(np.array([[3], [2]], np.int32), np.zeros((2, 0), np.float32)), schema)
    assert model(rows).tolist() == [3 * 3.5 + 3, 2 * 2.5 + 2]


def test_crosses_of_low_rank_have_few_numbers() -> None:
    full = build_ranker(DCNv2Config(crosses=1), SCHEMA)
    low = build_ranker(DCNv2Config(crosses=1, rank=2), SCHEMA)
    width = 5 * 16
    sizes = [sum(p.numel() for p in model.crosses.parameters()) for model in (full, low)]  # type: ignore[union-attr]
    assert sizes == [width * width + width, 2 * 2 * width + width]


def test_attention_weighs_each_event_against_the_candidate() -> None:
    model = DIN(DINConfig(embedding_dim=1, attention=1, hidden=(1,)), SCHEMA).eval()
    numbered(model)
    weights = model.attention[0]
    with torch.no_grad():
        for layer, value in ((weights.events, 1), (weights.products, 0), (weights.target, 0), (weights.output, 2)):
            layer.weight.fill_(value)
        weights.target.bias.zero_()
        weights.output.bias.fill_(1)
    events, present = model.vectors.histories(inputs())
    found = model._attended(0, events[:, 0], present[:, 0], torch.zeros(2, 1))
    assert found[:, 0].tolist() == [pytest.approx(((2 * 5 + 1) * 5 + (2 * 6 + 1) * 6) / math.sqrt(2)), 0]


def test_finalmlp_joins_its_streams_head_by_head() -> None:
    config = FinalMLPConfig(embedding_dim=2, hidden=(4,), second=(6,), heads=2, gate=3)
    model = FinalMLP(config, SCHEMA).eval()
    x = model.vectors(inputs()).flatten(1)
    one, other = (stream(gate(x)) for stream, gate in zip(model.streams, model.gates, strict=True))
    expected = model.outputs[0](one).squeeze(1) + model.outputs[1](other).squeeze(1)
    for head in range(2):
        for i in range(2):
            for j in range(3):
                part = one[:, 2 * head + i] * model.bilinear[head, i, j] * other[:, 3 * head + j]
                expected = expected + part
    torch.testing.assert_close(model(inputs()), expected)


def test_fgcnn_makes_fields_of_neighbouring_fields() -> None:
    """Five fields, a convolution over three neighbours, the larger of two neighbours kept: three are left."""
    config = FGCNNConfig(embedding_dim=2, hidden=(3,), channels=(4,), made=1)
    model = FGCNN(config, SCHEMA).eval()
    own = model.vectors(inputs())
    (layer,) = model.layers
    kernel, bias = layer.convolution.weight[:, 0, :, 0], layer.convolution.bias
    padded = torch.cat([torch.zeros(2, 1, 2), own, torch.zeros(2, 1, 2)], dim=1)
    seen = [sum(kernel[:, j, None] * padded[:, None, i + j] for j in range(3)) + bias[:, None] for i in range(5)]
    found = [torch.tanh(one) for one in seen]
    left = torch.stack([torch.maximum(found[0], found[1]), torch.maximum(found[2], found[3]), found[4]], dim=2)
    made = torch.tanh(layer.made(left.flatten(1))).view(2, 3, 2)
    fields = torch.cat([own, made], dim=1)
    pairs = [(fields[:, i] * fields[:, j]).sum(1) for i in range(8) for j in range(i + 1, 8)]
    x = torch.cat([fields.flatten(1), torch.stack(pairs, dim=1)], dim=1)
    torch.testing.assert_close(model(inputs()), model.output(model.hidden(x)).squeeze(1))


def test_finalnet_multiplies_what_its_layers_find() -> None:
    """Two blocks; a layer is (u + u v) / sqrt(1 + eps) and ReLU as long as no batch was seen."""
    model = FinalNet(FinalNetConfig(embedding_dim=2, hidden=(3,), second=(2,)), SCHEMA).eval()
    numbered(model)
    x = model.vectors(inputs()).flatten(1)
    expected = torch.zeros(2)
    for block, last in zip(model.blocks, model.outputs, strict=True):
        weights, bias = block[0].maps.weight, block[0].maps.bias
        width = len(weights) // 2
        u, v = x @ weights[:width].T + bias[:width], x @ weights[width:].T + bias[width:]
        expected = expected + (torch.relu((u + u * v) / math.sqrt(1 + 1e-5)) @ last.weight.T + last.bias).squeeze(1)
    torch.testing.assert_close(model(inputs()), expected)
    assert len(FinalNet(FinalNetConfig(second=()), SCHEMA).blocks) == 1


def test_finalnet_learns_from_a_batch_of_one_row() -> None:
    """The last batch of an epoch may be one: it has no deviation, and moves no mean."""
    model = FinalNet(FinalNetConfig(hidden=(3,), second=(), dropout=0.0), SCHEMA).train()
    model(inputs())
    norm = model.blocks[0][1]
    mean = norm.running_mean.clone()
    assert mean.abs().sum() > 0
    one = RankInputs(*(tensor[:1] for tensor in inputs()))
    learned = model(one)
    assert torch.equal(norm.running_mean, mean)
    torch.testing.assert_close(learned, model.eval()(one))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FMConfig(embedding_dim=0), r"\$\.ranker\.embedding_dim = 0"),
        (lambda: LRConfig(embedding_dim=2), r"\$\.ranker\.embedding_dim = 2"),
        (lambda: DNNConfig(hidden=()), r"\$\.ranker\.hidden = \[\]"),
        (lambda: DNNConfig(hidden=(8, 0)), r"\$\.ranker\.hidden = \[8, 0\]"),
        (lambda: DNNConfig(dropout=1.0), r"\$\.ranker\.dropout = 1"),
        (lambda: DCNv2Config(crosses=0), r"\$\.ranker\.crosses = 0"),
        (lambda: DCNv2Config(rank=-1), r"\$\.ranker\.rank = -1"),
        (lambda: FinalMLPConfig(heads=3), r"\$\.ranker\.heads = 3"),
        (lambda: FinalMLPConfig(second=()), r"\$\.ranker\.second = \[\]"),
        (lambda: FinalNetConfig(second=(8, 0)), r"\$\.ranker\.second = \[8, 0\]"),
        (lambda: FGCNNConfig(channels=(8, 0)), r"\$\.ranker\.channels = \[8, 0\]"),
        (lambda: FGCNNConfig(span=0), r"\$\.ranker\.span = 0"),
        (lambda: AutoIntConfig(layers=0), r"\$\.ranker\.layers = 0"),
        (lambda: AutoIntConfig(dropout=-0.1), r"\$\.ranker\.dropout = -0.1"),
        (lambda: DINConfig(attention=0), r"\$\.ranker\.attention = 0"),
        (lambda: build_ranker(DINConfig(), Schema(categorical=(Space(name="a", size=1),))), "no feature is a sequence"),
        (lambda: build_ranker(FMConfig(), Schema()), r"\$\.features: empty"),
    ],
)
def test_settings_that_cannot_work_are_refused(make, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def mmoe(**settings: Any) -> MMoE:
    torch.manual_seed(0)
    return MMoE(MMoEConfig(embedding_dim=4, hidden=(8,), towers=(4,), **settings), SCHEMA).eval()


def test_the_served_score_is_the_declared_mixture_of_the_tasks() -> None:
    weights = {"success": 3.0, "like": 1.0, "stay": 0.0}
    for how in ("sum", "product"):
        network = mmoe(serve=weights, combine=how)
        with torch.no_grad():
            for i, last in enumerate(network.outputs):
                last.bias.fill_(i - 0.5)
        success, like, _ = torch.sigmoid(network.task_logits(inputs())).unbind(1)
        mixed = (3 * success + like) / 4 if how == "sum" else success**0.75 * like**0.25
        torch.testing.assert_close(torch.sigmoid(network(inputs())), mixed)


def test_one_served_task_is_served_as_it_is_even_far_out() -> None:
    network = mmoe(serve={"success": 0.0, "like": 2.0})
    torch.testing.assert_close(network(inputs()), network.task_logits(inputs())[:, 1])
    far = torch.tensor([[-80.0], [80.0]])
    torch.testing.assert_close(combined(far, torch.ones(1), "sum"), far[:, 0])
    assert torch.isfinite(combined(far, torch.ones(1), "product")).all()


def test_each_task_mixes_the_experts_by_its_own_gate() -> None:
    """A gate that chooses one expert makes the task blind to the others."""
    network = mmoe(serve={"success": 1.0, "like": 1.0}, experts=2)
    with torch.no_grad():
        for gate, chosen in zip(network.gates, (0, 1), strict=True):
            gate.weight.zero_()
            gate.bias.copy_(torch.tensor([50.0 * (chosen == 0), 50.0 * (chosen == 1)]))
        before = network.task_logits(inputs())
        for parameter in network.experts[1].parameters():
            parameter += 1.0
        after = network.task_logits(inputs())
    assert torch.equal(before[:, 0], after[:, 0])
    assert not torch.allclose(before[:, 1], after[:, 1])


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"serve": {}}, "serve"),
        ({"serve": {"a": 0.0}}, "serve"),
        ({"serve": {"a": -1.0, "b": 2.0}}, "serve"),
        ({"losses": {"other": 1.0}}, "losses"),
        ({"losses": {"success": 0.0}}, "losses"),
        ({"experts": 0}, "experts"),
        ({"towers": ()}, "towers"),
    ],
)
def test_mixtures_that_cannot_be_are_refused(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError, match=rf"\$\.ranker\.{field}"):
        MMoEConfig(**settings)
