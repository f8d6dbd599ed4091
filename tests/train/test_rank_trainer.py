"""The training of feature rankers: resume, early stopping, L2, calibration."""

import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from msgspec.structs import replace

from millirec.data.errors import ArtifactError, ConfigError, DataError
from millirec.data.features import Features, RankingRows, Schema, ranking_rows
from millirec.data.labels import LabelConfig, NextTask, labels_of
from millirec.metrics import ctr
from millirec.models.base import RankInputs
from millirec.models.rankers.calibration import Isotonic, Platt, Sigmoid
from millirec.models.rankers.config import build_ranker
from millirec.models.rankers.dnn import DNNConfig
from millirec.models.rankers.fields import FieldVectors
from millirec.models.rankers.mmoe import MMoEConfig
from millirec.models.rankers.trees import TreesConfig
from millirec.train.adversarial import FGM, PGD, value_table
from millirec.train.calibrate import calibrated
from millirec.train.evaluate_ranker import evaluate_rows
from millirec.train.fit_ranker import RankerPlan, fit_ranker
from millirec.train.journal import Silent
from millirec.train.machine import Machine
from millirec.train.rank_config import RankTrainConfig
from millirec.train.rank_loss import Lesson, RowLoss
from millirec.train.rank_trainer import RankTrainer
from millirec.train.trainer import DivergedError
from tests.contracts.test_rankers import FIELDS, LABEL, prepared

RANKER = DNNConfig(embedding_dim=4, hidden=(8,), dropout=0.3)


class Killed(Silent):
    """Breaks off after so many batches."""

    def __init__(self, batches: int) -> None:
        self._left = batches

    def batch(self, loss: float) -> None:
        self._left -= 1
        if not self._left:
            raise KeyboardInterrupt


def trainer(seed: int = 1, **settings: Any) -> RankTrainer:
    data = prepared(300)
    rows, featuriser = ranking_rows(data, labels_of(data, LABEL), FIELDS)
    config = RankTrainConfig(**{"epochs": 3, "batch_size": 32, "learning_rate": 0.01, **settings})
    machine = Machine(threads=1, seed=seed, save_every_seconds=0)
    machine.prepare()
    return RankTrainer(build_ranker(RANKER, featuriser.schema()), rows, config, machine)


@pytest.mark.parametrize("batches", [3, 6, 9])  # within the first epoch of 6, at its end, in the second
def test_a_killed_training_goes_on_to_the_same_parameters(tmp_path: Path, batches: int) -> None:
    whole, course = trainer().run(None, Silent())
    with pytest.raises(KeyboardInterrupt):
        trainer().run(tmp_path / "progress", Killed(batches))
    found, resumed = trainer().run(tmp_path / "progress", Silent(), resume=True)
    assert [epoch.figures for epoch in resumed.history] == [epoch.figures for epoch in course.history]
    for name, value in whole.items():
        assert torch.equal(value, found[name]), name


def test_progress_of_another_run_is_refused(tmp_path: Path) -> None:
    trainer(epochs=1).run(tmp_path / "progress", Silent())
    with pytest.raises(ArtifactError, match="other settings"):
        trainer(epochs=1, l2=0.1).run(tmp_path / "progress", Silent(), resume=True)


@pytest.mark.parametrize("monitor", ["auc", "log_loss"])
def test_it_stops_and_keeps_the_best_epoch(monitor: str) -> None:
    own = trainer(epochs=40, learning_rate=0.1, patience=2, monitor=monitor)
    best, course = own.run(None, Silent())
    figures = [epoch.figures[monitor] for epoch in course.history]
    pick = np.argmax if monitor == "auc" else np.argmin
    assert course.best_epoch == pick(figures)
    assert len(figures) == course.best_epoch + 3 < 40
    own.network.load_state_dict(best)
    assert ctr.auc(own.rows.labels[own.validation], own.validation_logits()) == pytest.approx(
        course.history[course.best_epoch].figures["auc"]
    )


def test_l2_on_vectors_pulls_even_those_that_no_row_has() -> None:
    lengths = []
    for l2 in (0.0, 1.0):
        own = trainer(epochs=1, l2_embeddings=l2)
        (vectors,) = [m for m in own.network.modules() if isinstance(m, FieldVectors)]
        row = int(vectors.bases[4])  # the missing hash, which no row has
        before = vectors.table.weight[row].norm().item()
        own.run(None, Silent())
        lengths.append(vectors.table.weight[row].norm().item() / before)
    assert lengths[0] == pytest.approx(1)
    assert lengths[1] < 0.9


def test_a_loss_that_is_no_number_is_told() -> None:
    own = trainer()
    with torch.no_grad():
        next(own.network.parameters()).fill_(float("nan"))
    with pytest.raises(DivergedError, match="epoch 0, batch 0"):
        own.run(None, Silent())


@pytest.mark.parametrize(
    ("field", "value"), [("epochs", 0), ("l2", -1.0), ("final_share", 2.0), ("patience", 0), ("learning_rate", 0.0)]
)
def test_ranges_are_checked(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"\$\.train.*{field}"):
        RankTrainConfig(**{field: value})


def test_a_constant_rate_cannot_decay() -> None:
    with pytest.raises(ConfigError, match="constant schedule"):
        RankTrainConfig(schedule="constant", decay_epochs=3)


def drawn(n: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are twice too sure of themselves, and one too high."""
    rng = np.random.default_rng(0)
    true = rng.normal(0, 1, n)
    return 2 * true + 1, (rng.random(n) < 1 / (1 + np.exp(-true))).astype(np.int8)


def test_platt_finds_the_line() -> None:
    curve = calibrated("platt", *drawn())
    assert isinstance(curve, Platt)
    assert (curve.slope, curve.offset) == (pytest.approx(0.5, abs=0.02), pytest.approx(-0.5, abs=0.03))


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_calibration_mends_chances_and_keeps_the_order(method: Any) -> None:
    logits, labels = drawn()
    fresh, truth = logits[:10_000], labels[:10_000]
    curve = calibrated(method, logits[10_000:], labels[10_000:])
    before, after = Sigmoid().chances(fresh), curve.chances(fresh)
    assert ctr.calibration_error(truth, before) > 0.08
    assert ctr.calibration_error(truth, after) < 0.025
    assert ctr.log_loss(truth, after) < ctr.log_loss(truth, before) - 0.05
    assert (np.diff(after[np.argsort(fresh)]) >= 0).all()


def test_isotonic_by_hand() -> None:
    """Five rows: 0 | 1, 0 pooled to 1/2 | 1; the ends are drawn in to 1/(n- + 2) and (n+ + 1)/(n+ + 2)."""
    curve = calibrated("isotonic", np.array([0.0, 1, 2, 3, 3]), np.array([0, 1, 0, 1, 1], np.int8))
    assert curve == Isotonic(logits=(0.0, 1.0, 2.0, 3.0), values=(0.25, 0.5, 0.5, 0.8))
    assert curve.chances(np.array([-9, 0.5, 1.5, 9])).tolist() == [0.25, 0.375, 0.5, 0.8]


def test_no_calibration_is_the_sigmoid_even_far_out() -> None:
    assert calibrated("none", *drawn(10)) == Sigmoid()
    assert Sigmoid().chances(np.array([-1000.0, 0, 1000])).tolist() == [0, 0.5, 1]


def test_a_calibration_comes_back_from_json() -> None:
    curve = calibrated("isotonic", *drawn(50))
    assert msgspec.json.decode(msgspec.json.encode(curve), type=Sigmoid | Platt | Isotonic) == curve


LIKED = LabelConfig(positive_above=0, tasks=(NextTask(name="soon", within_seconds=7200),))
SEVERAL = MMoEConfig(embedding_dim=4, hidden=(16,), towers=(8,), serve={"success": 1.0, "soon": 0.5})


def several(ranker: Any = SEVERAL, n: int = 900) -> tuple[Any, Any]:
    plan = RankerPlan(
        label=LIKED,
        features=FIELDS,
        ranker=ranker,
        train=RankTrainConfig(epochs=8, batch_size=64, learning_rate=0.02),
        machine=Machine(threads=1),
    )
    return fit_ranker(prepared(n), plan, Silent())


def test_several_tasks_are_learned_and_measured_each() -> None:
    checkpoint, rows = several()
    assert set(rows.tasks) == {"soon"}
    result = evaluate_rows(checkpoint, rows, "p")
    assert set(result.tasks) == {"success", "soon"}
    assert result.tasks["success"]["auc"].value > 0.85
    assert result.tasks["success"]["served_auc"].value == result.figures["auc"].value


def test_what_one_task_knows_of_the_others_is_measured_too() -> None:
    checkpoint, rows = several(DNNConfig(embedding_dim=4, hidden=(16,)), 300)
    result = evaluate_rows(checkpoint, rows, "p")
    assert set(result.tasks) == {"soon"}
    assert set(result.tasks["soon"]) == {"served_auc"}


def test_a_task_that_rows_have_no_labels_of_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"\$\.ranker\.serve names \['other'\]"):
        several(MMoEConfig(serve={"success": 1.0, "other": 1.0}), 300)


def hand() -> tuple[Any, RankingRows]:
    """Three rows, of which two have labels of the second task; logits that do not hang on the network's weights."""
    rows = RankingRows(
        Features(np.zeros((3, 0), np.int32), np.zeros((3, 1), np.float32)),
        np.array([1, 0, 1], np.int8),
        np.zeros(3, np.uint8),
        np.arange(3, dtype=np.int32),
        np.arange(3),
        tasks={"like": np.array([1, -1, 0], np.int8)},
        context={"propensity": np.array([0.5, 1.0, 0.01])},
    )

    class Given(torch.nn.Module):
        tasks, loss_weights = ("success", "like"), (1.0, 2.0)

        def task_logits(self, inputs: RankInputs) -> torch.Tensor:
            return torch.tensor([[0.0, 1.0], [2.0, 3.0], [-1.0, -2.0]])

    return Given(), rows


def test_the_loss_of_several_tasks_by_hand() -> None:
    network, rows = hand()
    inputs = RankInputs.of(rows.features, Schema(numbers=("x",)))
    loss = RowLoss(network, rows, RankTrainConfig())(inputs, np.arange(3))
    softplus = lambda x: math.log1p(math.exp(x))  # noqa: E731
    success = (softplus(0) + softplus(2) + softplus(1)) / 3
    like = (softplus(-1) + softplus(-2)) / 2  # row 1 has no label
    assert loss.item() == pytest.approx(success + 2 * like)


def test_rows_weigh_by_their_propensities_up_to_a_limit() -> None:
    network, rows = hand()
    network.tasks, network.loss_weights = ("success",), (1.0,)
    network.task_logits = lambda inputs: torch.tensor([[0.0], [2.0], [-1.0]])
    inputs = RankInputs.of(rows.features, Schema(numbers=("x",)))
    config = RankTrainConfig(propensities="context.propensity", max_weight=5)
    softplus = lambda x: math.log1p(math.exp(x))  # noqa: E731
    expected = (2 * softplus(0) + 1 * softplus(2) + 5 * softplus(1)) / 8
    assert RowLoss(network, rows, config)(inputs, np.arange(3)).item() == pytest.approx(expected)
    with pytest.raises(DataError, match="no such context"):
        RowLoss(network, rows, replace(config, propensities="context.chance"))
    rows.context["propensity"][0] = 0
    with pytest.raises(DataError, match="must lie above 0"):
        RowLoss(network, rows, config)


@pytest.mark.parametrize("attack", [FGM(), PGD(steps=2)])
def test_training_under_attack_is_another_one_and_resumes_alike(tmp_path: Path, attack: Any) -> None:
    whole, _ = trainer(adversarial=attack).run(None, Silent())
    plain, _ = trainer().run(None, Silent())
    assert any(not torch.equal(value, plain[name]) for name, value in whole.items())
    with pytest.raises(KeyboardInterrupt):
        trainer(adversarial=attack).run(tmp_path / "progress", Killed(8))
    found, _ = trainer(adversarial=attack).run(tmp_path / "progress", Silent(), resume=True)
    for name, value in whole.items():
        assert torch.equal(value, found[name]), name


def test_a_linear_ranker_has_weights_that_can_be_attacked_and_trees_have_none() -> None:
    schema = Schema(numbers=("x",))
    assert value_table(build_ranker(RANKER, schema)).shape[1] == 4
    with pytest.raises(ConfigError, match="no vectors that could be perturbed"):
        value_table(build_ranker(TreesConfig(), schema))


def test_a_teacher_has_its_share_in_the_loss() -> None:
    data = prepared(300)
    rows, featuriser = ranking_rows(data, labels_of(data, LABEL), FIELDS)
    network = build_ranker(RANKER, featuriser.schema()).eval()
    which = np.arange(20)
    inputs = RankInputs.of(rows.features.take(which), featuriser.schema())
    said = np.linspace(-2, 2, len(rows))
    logits = network(inputs).detach()
    lesson = RowLoss(network, rows, RankTrainConfig(), Lesson(said, 0.75))(inputs, which)
    soft, hard = torch.sigmoid(torch.from_numpy(said[:20])).float(), torch.from_numpy(rows.labels[:20]).float()
    mixed = 0.25 * hard + 0.75 * soft  # cross-entropy is linear in its target
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, mixed)
    assert lesson.item() == pytest.approx(expected.item(), rel=1e-5)
