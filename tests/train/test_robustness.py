import msgspec
import numpy as np
import pytest
import torch

from millirec.data.dataset import TEST
from millirec.data.errors import ConfigError
from millirec.data.split import targets
from millirec.models.base import SequenceModel
from millirec.models.checkpoint import Checkpoint
from millirec.models.config import ModelConfig, build
from millirec.models.item_knn import ItemKNNConfig
from millirec.models.layers.table import Product
from millirec.models.sasrec import SASRecConfig
from millirec.train.evaluate import evaluate
from millirec.train.fit import fit
from millirec.train.journal import Silent
from millirec.train.machine import Machine
from millirec.train.robustness import Conditions, Robustness, robustness
from millirec.train.trainer import TrainConfig
from tests.contracts.test_models import CONFIGS, small
from tests.logs import cycle

DATA = cycle(n_users=80, n_items=24)
CONDITIONS = Conditions(epsilons=(0.2, 1.0), shares=(0.2, 0.6), pgd_steps=3)
SEQUENCE_MODELS = [config for config in CONFIGS if isinstance(build(small(config), 3), SequenceModel)]


def learned(model: ModelConfig, epochs: int) -> Checkpoint:
    train = TrainConfig(epochs=epochs, batch_size=8, learning_rate=0.01)
    return fit(DATA, model, train, Machine(threads=1), Silent())


@pytest.fixture(scope="module")
def checkpoints() -> dict[str, Checkpoint]:
    sasrec = SASRecConfig(embedding_dim=16, blocks=1, heads=1, max_length=8)
    return {"long": learned(sasrec, 40), "short": learned(sasrec, 4), "knn": learned(ItemKNNConfig(), 1)}


def measured(checkpoints: dict[str, Checkpoint], conditions: Conditions = CONDITIONS) -> Robustness:
    return robustness(checkpoints, DATA, targets(DATA, TEST), conditions, repeats=False)


@pytest.fixture(scope="module")
def report(checkpoints: dict[str, Checkpoint]) -> Robustness:
    return measured(checkpoints)


def figures(report: Robustness, name: str) -> dict[tuple[str, float], float]:
    return {(o.condition.kind, o.condition.amount): o.ndcg_10.value for o in report.outcomes if o.checkpoint == name}


def test_clean_is_what_evaluate_says(report: Robustness, checkpoints: dict[str, Checkpoint]) -> None:
    for name, checkpoint in checkpoints.items():
        clean = evaluate(checkpoint, DATA, TEST).figures["ndcg@10"]
        assert figures(report, name)["clean", 0.0] == pytest.approx(clean.value)


def test_attacks_hurt_more_than_chance_and_larger_ones_more(report: Robustness) -> None:
    own = figures(report, "long")
    assert own["clean", 0.0] > 0.9
    assert own["fgm", 1.0] < own["random", 1.0] - 0.1
    assert own["pgd", 1.0] < own["random", 1.0] - 0.1
    assert own["fgm", 1.0] < own["fgm", 0.2] <= own["clean", 0.0]
    assert own["drop", 0.6] < own["clean", 0.0]


def test_the_checkpoint_is_as_before(checkpoints: dict[str, Checkpoint], report: Robustness) -> None:
    again = {name: value.clone() for name, value in checkpoints["long"].parameters.items()}
    measured({"long": checkpoints["long"]})
    assert all(torch.equal(value, checkpoints["long"].parameters[name]) for name, value in again.items())


def test_the_same_seed_gives_the_same_report(checkpoints: dict[str, Checkpoint], report: Robustness) -> None:
    assert measured(checkpoints) == report
    other = measured(checkpoints, msgspec.structs.replace(CONDITIONS, seed=1))
    assert figures(other, "long") != figures(report, "long")
    assert msgspec.json.decode(msgspec.json.encode(report), type=Robustness) == report


def test_gaps_are_those_to_the_first(report: Robustness) -> None:
    assert {(gap.a, gap.b) for gap in report.gaps} == {("short", "long"), ("knn", "long")}
    long, short = figures(report, "long"), figures(report, "short")
    for gap in report.gaps:
        if gap.a != "short":
            continue
        key = gap.condition.kind, gap.condition.amount
        if gap.metric == "ndcg@10":
            assert gap.difference == pytest.approx(short[key] - long[key])
        if gap.metric == "fall of ndcg@10":
            own, first = short[key] - short["clean", 0.0], long[key] - long["clean", 0.0]
            assert gap.difference == pytest.approx(own - first)
        assert gap.low <= gap.difference <= gap.high


def test_a_model_without_vectors_meets_noise_only(report: Robustness) -> None:
    assert report.without_vectors == ["knn"]
    kinds = {kind for kind, _ in figures(report, "knn")}
    assert kinds == {"clean", "drop", "swap", "inject"}
    assert all(0 <= o.ndcg_10.low <= o.ndcg_10.value <= o.ndcg_10.high <= 1 for o in report.outcomes)


def test_items_that_share_numbers_meet_noise_only() -> None:
    product = SASRecConfig(embedding_dim=16, blocks=1, heads=1, max_length=8, table=Product(codes=4))
    found = measured({"product": learned(product, 1)}, Conditions(epsilons=(0.5,), shares=(0.4,), pgd_steps=1))
    assert found.without_vectors == ["product"]
    assert {kind for kind, _ in figures(found, "product")} == {"clean", "drop", "swap", "inject"}


@pytest.mark.parametrize("config", SEQUENCE_MODELS, ids=lambda config: type(config).__name__)
def test_every_sequence_model_can_be_attacked(config: ModelConfig) -> None:
    conditions = Conditions(epsilons=(0.5,), shares=(0.4,), pgd_steps=1)
    found = measured({"own": learned(small(config), 1)}, conditions)
    assert len(found.outcomes) == len(conditions.all()) == 7
    assert np.isfinite([o.kept for o in found.outcomes]).all()


@pytest.mark.parametrize("wrong", [{"epsilons": (0.0,)}, {"shares": (1.0,)}, {"pgd_steps": 0}])
def test_conditions_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Conditions(**wrong)
