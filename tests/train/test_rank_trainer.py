"""The training of feature rankers: resume, early stopping, L2, calibration."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from millirec.data.errors import ArtifactError, ConfigError
from millirec.data.features import ranking_rows
from millirec.data.labels import labels_of
from millirec.metrics import ctr
from millirec.models.rankers.calibration import Isotonic, Platt, Sigmoid
from millirec.models.rankers.config import build_ranker
from millirec.models.rankers.dnn import DNNConfig
from millirec.models.rankers.fields import FieldVectors
from millirec.train.calibrate import calibrated
from millirec.train.journal import Silent
from millirec.train.machine import Machine
from millirec.train.rank_config import RankTrainConfig
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
