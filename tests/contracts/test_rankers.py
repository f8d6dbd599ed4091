"""One suite for every feature ranker, by way of the union `RankerConfig`."""

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from millirec.data.dataset import TEST
from millirec.data.errors import ConfigError
from millirec.data.features import Features, ranking_rows, sides_of, split_rows
from millirec.data.features.config import CounterField, CrossField
from millirec.data.features.rows import RandomRows
from millirec.data.labels import LabelConfig, labels_of
from millirec.metrics import ctr
from millirec.models.base import FeatureRanker, Ranker, RankInputs, SequenceModel
from millirec.models.rankers.checkpoint import RankerCheckpoint, logits_of
from millirec.models.rankers.config import RankerConfig, build_ranker
from millirec.models.rankers.dcnv2 import DCNv2Config
from millirec.models.rankers.dnn import DNNConfig
from millirec.models.rankers.lr import LRConfig
from millirec.models.rankers.served import export_ranker, parity_error
from millirec.models.rankers.trees import PLACES, Trees, TreesConfig
from millirec.train.evaluate_ranker import evaluate_rows
from millirec.train.fit_ranker import RankerPlan, fit_ranker
from millirec.train.journal import Silent
from millirec.train.machine import Machine
from millirec.train.rank_config import RankTrainConfig
from tests.data.features.world import FIELDS, HOUR, dataset_of

CONFIGS = [config() for config in get_args(RankerConfig)]
SMALL: dict[str, Any] = {"embedding_dim": 6, "hidden": (16, 8), "second": (8, 8), "head_dim": 4, "dropout": 0.0}
FEW_ROWS = {"min_rows": 5, "leaves": 8, "smoothing": 1.0, "trees": 200}  # of trees
TRAINING = RankTrainConfig(epochs=15, batch_size=64, learning_rate=0.02, l2_embeddings=0.0, patience=15)
LABEL = LabelConfig(positive_above=0)
LINEAR = ("LRConfig",)
NETWORKS = [config for config in CONFIGS if not isinstance(config, TreesConfig)]
# Without what says of pairs by itself: crosses, and counters by both.
SIDES = tuple(f for f in FIELDS if not isinstance(f, CrossField) and len(getattr(f, "by", ())) < 2)


def small(config: RankerConfig, **more: Any) -> RankerConfig:
    """With the small fields that its kind has."""
    if type(config).__name__ in LINEAR:
        return config
    if isinstance(config, TreesConfig):
        return replace(config, **{name: value for name, value in (FEW_ROWS | more).items() if hasattr(config, name)})
    return replace(config, **{name: value for name, value in (SMALL | more).items() if hasattr(config, name)})


def plan(config: RankerConfig, fields: Any = SIDES, *, seed: int = 42, epochs: int = 15, **more: Any) -> RankerPlan:
    """To learn from SIDES or other fields; trees have their own end."""
    config = small(config, **more)
    train = RankTrainConfig() if isinstance(config, TreesConfig) else replace(TRAINING, epochs=epochs)
    machine = Machine(threads=1, seed=seed)
    return RankerPlan(label=LABEL, features=fields, ranker=config, train=train, machine=machine)


def log(n: int = 900, seed: int = 0) -> list[tuple[int, int, int, float]]:
    """A rule that two features tell together, and one of them a little by itself: u1 and u4 like the items of one shop,
    the others those of the other; everybody likes item 8. One answer of twenty is a slip."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        user, item = int(rng.integers(1, 7)), int(rng.integers(1, 9))
        likes = (user % 3 == 1) == (item % 2 == 0) or item == 8
        rows.append((user, item, i * HOUR, float(likes != (rng.random() < 0.05))))
    return rows


def prepared(n: int = 900) -> Any:
    data = dataset_of(log(n))
    labels = labels_of(data, LABEL)
    return split_rows(data, labels, RandomRows(validation=0.2, test=0.2))


@pytest.fixture(scope="module", params=CONFIGS, ids=lambda config: type(config).__name__)
def fitted(request: pytest.FixtureRequest) -> tuple[RankerCheckpoint, Any]:
    return fit_ranker(prepared(), plan(request.param), Silent())


def test_it_keeps_one_protocol(fitted: tuple[RankerCheckpoint, Any]) -> None:
    network = fitted[0].network()
    assert isinstance(network, FeatureRanker)
    assert not isinstance(network, Ranker | SequenceModel)


def test_it_learns_the_rule(fitted: tuple[RankerCheckpoint, Any]) -> None:
    checkpoint, rows = fitted
    part = rows.part(TEST)
    auc = ctr.auc(rows.labels[part], checkpoint.chances(rows.features.take(part)))
    if type(checkpoint.config).__name__ in LINEAR:
        assert 0.6 < auc < 0.8
    else:
        assert auc > 0.85


def test_a_batch_scores_as_its_rows_do(fitted: tuple[RankerCheckpoint, Any]) -> None:
    checkpoint, rows = fitted
    network, some = checkpoint.network(), rows.features.take(np.arange(0, 60, 3))
    together = logits_of(network, some)
    alone = np.concatenate([logits_of(network, some.take(np.array([i]))) for i in range(len(some))])
    assert alone == pytest.approx(together, rel=1e-4, abs=1e-5)


def test_padding_says_nothing(fitted: tuple[RankerCheckpoint, Any]) -> None:
    checkpoint, rows = fitted
    inputs = RankInputs.of(rows.features.take(np.arange(20)), checkpoint.featuriser.schema())
    padded = torch.nn.functional.pad(inputs.sequences, (0, 3))
    network = checkpoint.network()
    with torch.inference_mode():
        torch.testing.assert_close(network(inputs._replace(sequences=padded)), network(inputs), rtol=1e-5, atol=1e-6)


def test_no_rows_are_no_scores(fitted: tuple[RankerCheckpoint, Any]) -> None:
    checkpoint, rows = fitted
    assert checkpoint.chances(rows.features.take(np.arange(0))).shape == (0,)


def test_unknown_values_are_scored(fitted: tuple[RankerCheckpoint, Any]) -> None:
    checkpoint, rows = fitted
    some = rows.features.take(np.arange(4))
    unknown = Features(np.zeros_like(some.ids), np.zeros_like(some.numbers), some.lists, some.sequences)
    assert np.isfinite(logits_of(checkpoint.network(), unknown)).all()


def test_it_comes_back_from_disk_the_same(fitted: tuple[RankerCheckpoint, Any], tmp_path: Path) -> None:
    checkpoint, rows = fitted
    checkpoint.save(tmp_path / "ranker")
    again = RankerCheckpoint.load(tmp_path / "ranker")
    for name in ("config", "label", "calibration", "lineage", "provenance", "metrics", "content_hash"):
        assert getattr(again, name) == getattr(checkpoint, name), name
    assert again.featuriser.fields == checkpoint.featuriser.fields
    made, _ = ranking_rows(prepared(), labels_of(prepared(), LABEL), again.featuriser)
    assert made.features.to_bytes() == rows.features.to_bytes()
    assert (again.chances(made.features) == checkpoint.chances(rows.features)).all()


def test_the_same_seed_gives_the_same_parameters(fitted: tuple[RankerCheckpoint, Any]) -> None:
    checkpoint, _ = fitted
    what = {"config": checkpoint.config, "fields": FIELDS, "epochs": 2, "dropout": 0.3, "row_share": 0.5}
    one, other = (fit_ranker(prepared(300), plan(**what), Silent())[0] for _ in range(2))
    for name, value in one.parameters.items():
        assert torch.equal(value, other.parameters[name]), name
    different, _ = fit_ranker(prepared(300), plan(**what, seed=7), Silent())
    assert any(not torch.equal(value, different.parameters[name]) for name, value in one.parameters.items())


@pytest.mark.parametrize("config", NETWORKS, ids=lambda config: type(config).__name__)
def test_every_parameter_is_reached_by_the_gradient(config: RankerConfig) -> None:
    data = prepared(300)
    rows, featuriser = ranking_rows(data, labels_of(data, LABEL), FIELDS)
    torch.manual_seed(0)
    network = build_ranker(small(config), featuriser.schema())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.3 * torch.randn(parameter.shape)
    network(RankInputs.of(rows.features, featuriser.schema())).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("config", NETWORKS, ids=lambda config: type(config).__name__)
def test_every_feature_is_read(config: RankerConfig) -> None:
    """Another value in any input moves the logit."""
    data = prepared(300)
    rows, featuriser = ranking_rows(data, labels_of(data, LABEL), FIELDS)
    schema = featuriser.schema()
    torch.manual_seed(0)
    network = build_ranker(small(config), schema).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.5 * torch.randn(parameter.shape)
    inputs = RankInputs.of(rows.features.take(np.arange(200, 260)), schema)
    with torch.inference_mode():
        before = network(inputs)
        for name in RankInputs._fields:
            tensor = getattr(inputs, name)
            for column in range(tensor.shape[1]):
                changed = tensor.clone()
                changed[:, column] = torch.where(changed[:, column] == 1, 2, 1).to(changed.dtype)
                after = network(inputs._replace(**{name: changed}))
                assert not torch.allclose(before, after, rtol=1e-6, atol=1e-7), (name, column)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_held_out_rows_teach_nothing(config: RankerConfig) -> None:
    """With other labels in the test part the ranker comes out the same."""
    data = prepared(300)
    values = data.interactions.values.copy()
    values[data.roles == TEST] = 1 - values[data.roles == TEST]
    old = data.interactions
    moved = replace_values(data, type(old)(old.users, old.items, old.times, values))
    one, other = (fit_ranker(each, plan(config, FIELDS, epochs=2), Silent())[0] for each in (data, moved))
    assert one.content_hash == other.content_hash


def replace_values(data: Any, interactions: Any) -> Any:
    return type(data)(interactions, data.items, data.users, data.roles, data.name, data.protocol)


def test_the_figures_are_of_the_part(fitted: tuple[RankerCheckpoint, Any]) -> None:
    checkpoint, rows = fitted
    result = evaluate_rows(checkpoint, rows, "p")
    part = rows.part(TEST)
    chances = checkpoint.chances(rows.features.take(part))
    assert result.n_rows == len(part)
    assert result.figures["auc"].value == ctr.auc(rows.labels[part], chances)
    assert result.figures["log_loss"].value == pytest.approx(ctr.log_loss(rows.labels[part], chances))
    assert result.figures["auc"].low < result.figures["auc"].value < result.figures["auc"].high
    assert result.base_rate == pytest.approx(rows.labels[part].mean())


def unlike(config: RankerConfig, fields: Any) -> tuple[torch.nn.Module, Any]:
    """A network whose every parameter counts, and the sides of its features."""
    data = prepared(300)
    _, featuriser = ranking_rows(data, labels_of(data, LABEL), fields)
    torch.manual_seed(0)
    network = build_ranker(small(config), featuriser.schema()).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.3 * torch.randn(parameter.shape)
    return network, sides_of(featuriser)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_its_graphs_say_what_the_network_says(config: RankerConfig) -> None:
    """Of one user and any number of candidates."""
    network, sides = unlike(config, FIELDS)
    assert parity_error(network, export_ranker(network, sides), sides) < 1e-5


@pytest.mark.parametrize("config", [LRConfig(), DNNConfig()], ids=lambda config: type(config).__name__)
def test_its_graphs_need_no_features_that_are_the_items_alone(config: RankerConfig) -> None:
    network, sides = unlike(config, (CounterField(name="rate", by=("item",)),))
    assert parity_error(network, export_ranker(network, sides), sides) < 1e-5


@pytest.mark.parametrize("config", [LRConfig(), DNNConfig()], ids=lambda config: type(config).__name__)
def test_one_that_reads_nothing_of_items_is_not_served(config: RankerConfig) -> None:
    network, sides = unlike(config, SIDES[:1])  # the user's id alone
    with pytest.raises(ConfigError, match="all candidates would score alike"):
        export_ranker(network, sides)


@pytest.mark.parametrize("config", [DNNConfig(), DCNv2Config()], ids=lambda config: type(config).__name__)
def test_in_bytes_its_graphs_say_nearly_so_and_the_network_stays(config: RankerConfig) -> None:
    network, sides = unlike(config, FIELDS)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert 1e-6 < parity_error(network, export_ranker(network, sides, int8=True), sides) < 0.1
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_grown_trees_are_served_as_they_say() -> None:
    """With questions about numbers, about sets of ids, and a tree that asks nothing."""
    checkpoint, _ = fit_ranker(prepared(), plan(TreesConfig(), FIELDS), Silent())
    network, sides = checkpoint.network(), sides_of(checkpoint.featuriser)
    assert isinstance(network, Trees)
    assert network.words[..., 1].any()
    assert (network.words[..., 1] == 0)[network.left != torch.arange(network.left.shape[1])].any()
    bare = {name: torch.zeros_like(getattr(network, name)[:1]) for name in PLACES if name not in ("sets", "gains")}
    bare["left"] += torch.arange(network.left.shape[1], dtype=torch.int32)
    bare["right"] += bare["left"]
    bare["leaves"] += 0.5
    for name, tree in bare.items():
        setattr(network, name, torch.cat([getattr(network, name), tree]))
    network._depth = None
    assert parity_error(network, export_ranker(network, sides), sides) < 1e-5
    with pytest.raises(ConfigError, match="trees have no layers"):
        export_ranker(network, sides, int8=True)
