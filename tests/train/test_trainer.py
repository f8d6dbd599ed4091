import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from millirec.data.dataset import CONTEXT, TRAIN
from millirec.data.errors import ArtifactError, ConfigError
from millirec.models.config import build
from millirec.models.gru4rec import GRU4RecConfig
from millirec.models.sasrec import SASRecConfig
from millirec.train.adversarial import FGM, PGD
from millirec.train.journal import Silent
from millirec.train.losses import SampledSoftmax
from millirec.train.machine import Machine, generator
from millirec.train.progress import Progress
from millirec.train.trainer import DivergedError, TrainConfig, Trained, Trainer
from tests.logs import cycle, dataset_of

TINY = SASRecConfig(embedding_dim=16, blocks=1, heads=1, max_length=8, dropout=0.1)


def train(folder: Path | None, config: TrainConfig, *, resume: bool = False, save_every: float = 1e9) -> Trained:
    machine = Machine(threads=1, save_every_seconds=save_every)
    machine.prepare()
    dataset = cycle()
    length = 3 if config.windows == "all" else TINY.max_length  # so that histories are cut
    trainer = Trainer(build(TINY, len(dataset.items)), dataset, length, config, machine)
    return trainer.run(folder, Silent(), resume=resume)


@pytest.mark.parametrize("loss", [TrainConfig().loss, SampledSoftmax(negatives=8)], ids=["full", "sampled"])
def test_it_learns_a_circle(loss: SampledSoftmax) -> None:
    result = train(None, TrainConfig(loss=loss, epochs=60, batch_size=8, learning_rate=0.01))
    assert result.best_ndcg_10 > 0.9


def test_accumulated_batches_make_the_step_of_one_big_batch() -> None:
    """Batches of unlike sizes and lengths, without dropout: the same loss and the same gradients."""
    rng = np.random.default_rng(0)
    dataset = dataset_of([rng.integers(1, 13, n).tolist() for n in rng.integers(2, 9, 40)], 12)
    found = []
    for sizes in ([40], [21, 12, 7]):
        machine = Machine(threads=1)
        machine.prepare()
        config = TrainConfig(accumulate=len(sizes), learning_rate=1e-9)
        trainer = Trainer(build(SASRecConfig(embedding_dim=16, dropout=0.0), 12), dataset, 8, config, machine)
        trainer.progress = Progress(key="")
        spans = np.split(np.concatenate(trainer.sequences.plan(8, generator(0, 1))), np.cumsum(sizes)[:-1])
        loss = trainer._step([trainer.sequences.batch(part) for part in spans], 0)
        found.append((loss, [parameter.grad for parameter in trainer.network.parameters()]))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    for one, many in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(one, many, rtol=1e-4, atol=1e-7)


def test_a_step_takes_as_many_batches_as_are_accumulated() -> None:
    class Counting(Silent):
        steps = 0

        def batch(self, loss: float) -> None:
            self.steps += 1

    journals = []
    for accumulate in (1, 3):
        machine, journal = Machine(threads=1), Counting()
        config = TrainConfig(epochs=1, batch_size=4, accumulate=accumulate)
        trainer = Trainer(build(TINY, 12), cycle(), 8, config, machine)
        n_batches = len(trainer.sequences.plan(4, generator(machine.seed, 1, 0)))
        trainer.run(None, journal)
        journals.append(journal.steps)
        assert trainer.progress.updates == journal.steps
    assert journals == [n_batches, -(-n_batches // 3)]


def test_early_stopping_restores_the_best_weights() -> None:
    result = train(None, TrainConfig(epochs=80, batch_size=8, learning_rate=0.01, patience=3))
    figures = [epoch.ndcg_10 for epoch in result.history]
    assert result.best_ndcg_10 == max(figures)
    assert len(figures) == result.best_epoch + 1 + 3


def test_a_loss_that_is_no_number_stops_and_names_the_batch(tmp_path: Path) -> None:
    machine = Machine(threads=1)
    network = build(TINY, 12)
    with torch.no_grad():
        network.item.weight[3, 0] = float("nan")
    with pytest.raises(DivergedError, match="epoch 0, batch 0"):
        Trainer(network, cycle(), 8, TrainConfig(), machine).run(tmp_path / "progress", Silent())


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.train.test_trainer import KILLED, train
train(Path({folder!r}), KILLED[{name!r}], resume={resume}, save_every=0.0)
"""
_SLOW = {"epochs": 30, "batch_size": 4, "learning_rate": 0.01, "patience": 30}
KILLED = {
    "plain": TrainConfig(**_SLOW, l2=1e-4),
    "averaged, accumulated, all windows, FGM": TrainConfig(
        **_SLOW,
        accumulate=2,
        ema=0.9,
        schedule="linear",
        warmup_steps=20,
        clip_norm=1.0,
        windows="all",
        adversarial=FGM(),
    ),
    "PGD in bf16 on a sample": TrainConfig(
        **_SLOW,
        loss=SampledSoftmax(negatives=8),
        schedule="cosine",
        precision="bf16",
        adversarial=PGD(steps=2),
    ),
}


def child(folder: Path, name: str, *, resume: bool) -> subprocess.Popen[bytes]:
    root = Path(__file__).resolve().parents[2]
    code = CHILD.format(root=str(root), folder=str(folder), name=name, resume=resume)
    return subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(root / "src")})


@pytest.mark.parametrize("name", list(KILLED))
def test_a_killed_run_resumes_to_the_very_same_parameters(tmp_path: Path, name: str) -> None:
    """SIGKILL in the middle, more than once; then --resume; bit for bit equal to an unbroken run."""
    folder = tmp_path / "progress"
    for kill in range(2):
        process = child(folder, name, resume=kill > 0)
        before = folder.stat().st_ino if folder.exists() else None
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if folder.exists() and folder.stat().st_ino != before:
                time.sleep(0.15)
                break
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "the run ended before it was killed"
    resumed = train(folder, KILLED[name], resume=True)
    unbroken = train(None, KILLED[name])
    assert [epoch.loss for epoch in resumed.history] == [epoch.loss for epoch in unbroken.history]
    for name, value in unbroken.parameters.items():
        assert torch.equal(value, resumed.parameters[name]), name


def test_progress_of_other_settings_is_refused(tmp_path: Path) -> None:
    config = TrainConfig(epochs=1)
    train(tmp_path / "progress", config)
    with pytest.raises(ArtifactError, match="other settings"):
        train(tmp_path / "progress", TrainConfig(epochs=2), resume=True)


def test_progress_of_another_training_part_is_refused(tmp_path: Path) -> None:
    """Thinned, a data set has the same fingerprint and the same protocol."""
    config, machine, dataset = TrainConfig(epochs=1), Machine(threads=1), cycle()
    roles = np.where((dataset.interactions.users == 1) & (dataset.roles == TRAIN), CONTEXT, dataset.roles)
    thinned = dataset.with_roles(roles.astype(np.uint8), dataset.protocol)
    Trainer(build(TINY, 12), thinned, 8, config, machine).run(tmp_path / "progress", Silent())
    Trainer(build(TINY, 12), thinned, 8, config, machine).run(tmp_path / "progress", Silent(), resume=True)
    with pytest.raises(ArtifactError, match="other settings"):
        Trainer(build(TINY, 12), dataset, 8, config, machine).run(tmp_path / "progress", Silent(), resume=True)


def test_damaged_progress_is_refused(tmp_path: Path) -> None:
    train(tmp_path / "progress", TrainConfig(epochs=1))
    path = tmp_path / "progress" / "tensors.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ArtifactError, match="cannot resume"):
        train(tmp_path / "progress", TrainConfig(epochs=1), resume=True)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: TrainConfig(epochs=0), r"\$\.train\.epochs"),
        (lambda: TrainConfig(learning_rate=0.0), "learning_rate"),
        (lambda: TrainConfig(accumulate=0), r"\$\.train\.accumulate"),
        (lambda: TrainConfig(ema=1.0), r"\$\.train\.ema"),
        (lambda: TrainConfig(final_share=1.5), r"\$\.train\.final_share"),
        (lambda: TrainConfig(schedule="constant", decay_epochs=3), r"\$\.train\.decay_epochs"),
        (lambda: FGM(epsilon=0.0), r"\$\.train\.adversarial\.epsilon"),
        (lambda: FGM(epsilon=float("nan")), r"\$\.train\.adversarial\.epsilon"),
        (lambda: PGD(share=1.0), r"\$\.train\.adversarial\.share"),
        (lambda: PGD(steps=0), r"\$\.train\.adversarial\.steps"),
        (lambda: PGD(step_size=0.0), r"\$\.train\.adversarial\.step_size"),
        (lambda: TrainConfig(l2=0.1, weight_decay=0.1), "weight_decay"),
        (lambda: SampledSoftmax(negatives=0), r"\$\.train\.loss\.negatives"),
        (lambda: SampledSoftmax(sampling="hard"), r"\$\.train\.loss\.sampling"),
        (lambda: SASRecConfig(heads=3), r"\$\.model\.heads"),
        (lambda: SASRecConfig(max_length=1), r"\$\.model\.max_length"),
        (lambda: GRU4RecConfig(dropout=1.0), r"\$\.model\.dropout"),
        (lambda: Machine(device="abacus").prepare(), r"\$\.machine\.device"),
    ],
)
def test_a_config_that_cannot_work_is_refused(make: object, field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        make()  # type: ignore[operator]


def test_bf16_trains_too() -> None:
    result = train(None, TrainConfig(epochs=30, batch_size=8, learning_rate=0.01, precision="bf16"))
    assert result.best_ndcg_10 > 0.5


def test_a_time_limit_ends_an_epoch_early_and_still_validates() -> None:
    result = train(None, TrainConfig(epochs=50, batch_size=4, max_minutes=1e-9))
    assert len(result.history) == 1
    assert result.best_epoch == 0
