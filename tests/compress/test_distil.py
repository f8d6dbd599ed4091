"""Distillation as a step: students come near their teachers, alone and among other steps; mistakes are refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from millirec.compress.distil import Distil
from millirec.compress.prune import Prune
from millirec.compress.quantize import Quantize
from millirec.compress.recipe import Recipe, check, compress
from millirec.compress.workshop import Workshop
from millirec.config import convert
from millirec.data.catalog import Catalog, Vocabulary
from millirec.data.dataset import Dataset
from millirec.data.errors import ConfigError
from millirec.data.split import LeaveLastOut, split
from millirec.models.base import Inputs
from millirec.models.bert4rec import BERT4RecConfig
from millirec.models.checkpoint import Checkpoint
from millirec.models.gru4rec import GRU4RecConfig
from millirec.models.layers.table import LowRank, Quantized
from millirec.models.linear_recurrent import LinearRecurrentConfig
from millirec.models.popularity import PopularityConfig
from millirec.models.sasrec import SASRecConfig
from millirec.train.batches import TrainingSequences
from millirec.train.config import TrainConfig
from millirec.train.fit import fit
from millirec.train.journal import Silent
from millirec.train.losses import BCE, SampledSoftmax
from millirec.train.machine import Machine
from tests.logs import dataset_of

MACHINE = Machine(threads=1, save_every_seconds=1e9)
BIG = SASRecConfig(embedding_dim=16, blocks=1, heads=1, max_length=8, dropout=0.0)
TINY = LinearRecurrentConfig(embedding_dim=16, blocks=1, heads=2, key_dim=4, max_length=8, dropout=0.0)
QUICK = TrainConfig(epochs=10, batch_size=8, learning_rate=0.02, validate_every=99)  # keeps the last weights


def walk(seed: int = 0) -> Dataset:
    """Everybody goes on along a circle of 12 items by one step, or with a chance of .3 by two."""
    rng = np.random.default_rng(seed)
    steps = np.where(rng.random((60, 9)) < 0.3, 2, 1).cumsum(1)
    return split(dataset_of(((rng.integers(0, 12, (60, 1)) + steps) % 12 + 1).tolist(), 12), LeaveLastOut())


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return walk()


@pytest.fixture(scope="module")
def teacher(dataset: Dataset) -> Checkpoint:
    return fit(dataset, BIG, QUICK, MACHINE, Silent())


@pytest.fixture(scope="module")
def second(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of another teacher."""
    folder = tmp_path_factory.mktemp("second") / "checkpoint"
    config = GRU4RecConfig(embedding_dim=8, hidden_dim=8, max_length=8)
    fit(dataset, config, QUICK, MACHINE, Silent()).save(folder)
    return str(folder)


def distilled(teacher: Checkpoint, dataset: Dataset, folder: Path | None = None, **settings: Any) -> Checkpoint:
    step = Distil(**{"student": TINY, "train": QUICK} | settings)
    workshop = Workshop(read=lambda: dataset, machine=MACHINE, folder=folder)
    return compress(teacher, Recipe(steps=(step,)), workshop)


def expected(checkpoint: Checkpoint, dataset: Dataset) -> torch.Tensor:
    """What a model expects after every training event, (n, n_items), logarithms."""
    sequences, model = TrainingSequences(dataset, 8), checkpoint.network()
    batch = sequences.batch(sequences.plan(1000, np.random.default_rng(0))[0])
    with torch.inference_mode():
        hidden = model(Inputs.of(batch.inputs))[torch.from_numpy(batch.targets > 0)]
        return (hidden @ model.item_vectors()[1:].T).log_softmax(1)


def divergence(student: Checkpoint, teacher: Checkpoint, dataset: Dataset) -> float:
    """Kullback-Leibler, from the teacher."""
    p, q = expected(teacher, dataset), expected(student, dataset)
    return float((p.exp() * (p - q)).sum(1).mean())


def test_a_student_comes_near_its_teacher(dataset: Dataset, teacher: Checkpoint) -> None:
    near = {alpha: divergence(distilled(teacher, dataset, alpha=alpha), teacher, dataset) for alpha in (0.0, 1.0)}
    assert near[1.0] < 0.6 * near[0.0]
    assert near[1.0] < 0.2


@pytest.mark.parametrize("settings", [{"temperature": 2.0}, {"top": 4}, {"top": 4, "negatives": 6}], ids=str)
def test_every_way_of_teaching_comes_near(dataset: Dataset, teacher: Checkpoint, settings: dict[str, Any]) -> None:
    settings = dict(settings)
    if "negatives" in settings:
        settings["train"] = msgspec.structs.replace(QUICK, loss=SampledSoftmax(negatives=settings.pop("negatives")))
    made = distilled(teacher, dataset, alpha=1.0, **settings)
    assert divergence(made, teacher, dataset) < 0.2
    assert made.metrics["ndcg@10"] > 0.7


def test_without_the_teachers_share_it_is_plain_training(dataset: Dataset, teacher: Checkpoint) -> None:
    train = msgspec.structs.replace(QUICK, epochs=2)
    plain = fit(dataset, TINY, train, MACHINE, Silent())
    ours = distilled(teacher, dataset, alpha=0.0, train=train)
    assert ours.config == plain.config
    for name, value in plain.parameters.items():
        torch.testing.assert_close(ours.parameters[name], value, rtol=1e-4, atol=1e-5)


def test_several_teachers_are_mixed(dataset: Dataset, teacher: Checkpoint, second: str) -> None:
    """With nearly all of the weight a teacher is followed as if it were alone."""
    other = Checkpoint.load(Path(second))
    made = distilled(teacher, dataset, teachers=(second,), weights=(1.0, 99.0), alpha=1.0)
    alone = distilled(teacher, dataset, teachers=(second,), incoming_teaches=False, alpha=1.0)
    assert divergence(made, other, dataset) < 0.5 * divergence(made, teacher, dataset)
    assert abs(divergence(made, other, dataset) - divergence(alone, other, dataset)) < 0.1
    told = made.lineage[-1].settings
    assert told["taught_by"] == [teacher.content_hash, other.content_hash]
    assert alone.lineage[-1].settings["taught_by"] == [other.content_hash]


def test_a_teacher_that_fills_gaps_teaches_too(dataset: Dataset) -> None:
    config, train = BERT4RecConfig(embedding_dim=8, blocks=1, heads=1, max_length=8), TrainConfig(epochs=1)
    made = distilled(fit(dataset, config, train, MACHINE, Silent()), dataset, train=train)
    assert made.config == TINY


def test_a_model_that_learns_from_itself_keeps_its_quality(dataset: Dataset, teacher: Checkpoint) -> None:
    train = TrainConfig(epochs=2, batch_size=8, learning_rate=1e-3)
    made = distilled(teacher, dataset, student=None, start="incoming", alpha=1.0, train=train)
    assert made.config == teacher.config
    assert divergence(made, teacher, dataset) < 1e-3
    assert made.metrics["ndcg@10"] == pytest.approx(teacher.metrics["ndcg@10"], abs=0.01)


def test_it_stands_among_other_steps(dataset: Dataset, teacher: Checkpoint, tmp_path: Path) -> None:
    """Prune; learn again from the whole model, zeros resting; quantise."""
    teacher.save(tmp_path / "whole")
    learn = Distil(
        teachers=(str(tmp_path / "whole"),),
        incoming_teaches=False,
        start="incoming",
        alpha=1.0,
        train=msgspec.structs.replace(QUICK, epochs=3),
    )
    pruned = Prune(sparsity=0.5)
    workshop = Workshop(read=lambda: dataset, machine=MACHINE)
    bare = compress(teacher, Recipe(steps=(pruned,)), workshop)
    made = compress(bare, Recipe(steps=(learn,)), workshop)
    assert divergence(made, teacher, dataset) < 0.5 * divergence(bare, teacher, dataset)
    for name, value in bare.parameters.items():
        if value.dim() == 2:
            assert (made.parameters[name][value == 0] == 0).all(), name
    made = compress(teacher, Recipe(steps=(pruned, learn, Quantize())), workshop)
    assert [step.name for step in made.lineage[1:]] == ["prune", "distil", "quantize"]
    assert made.config.weights == "int8"


class Killed(Exception):  # noqa: N818 - no error of anybody
    """What ends a run in the middle."""


class Killing(Silent):
    """Ends the run after some batches."""

    def __init__(self, batches: int) -> None:
        self.left = batches

    def batch(self, loss: float) -> None:
        """Count down."""
        self.left -= 1
        if not self.left:
            raise Killed


@pytest.mark.parametrize("top", [0, 3])
def test_a_killed_step_goes_on_to_the_very_same_parameters(
    dataset: Dataset, teacher: Checkpoint, tmp_path: Path, top: int
) -> None:
    train = TrainConfig(epochs=4, batch_size=8, windows="all")
    student = msgspec.structs.replace(TINY, dropout=0.1)
    recipe = Recipe(steps=(Distil(student=student, train=train, top=top),))
    machine = msgspec.structs.replace(MACHINE, save_every_seconds=0.0)
    for batches in (11, 9):
        workshop = Workshop(lambda: dataset, machine, Killing(batches), tmp_path / "kept")
        with pytest.raises(Killed):
            compress(teacher, recipe, workshop)
    lessons = list((tmp_path / "kept").rglob("vectors.npy"))
    assert lessons
    resumed = compress(teacher, recipe, Workshop(lambda: dataset, machine, folder=tmp_path / "kept"))
    unbroken = compress(teacher, recipe, Workshop(lambda: dataset, machine))
    for name, value in unbroken.parameters.items():
        assert torch.equal(value, resumed.parameters[name]), name
    assert not list((tmp_path / "kept").rglob("*.npy"))


def test_another_teacher_at_the_same_path_makes_another_student(
    dataset: Dataset, teacher: Checkpoint, second: str, tmp_path: Path
) -> None:
    settings = {"teachers": (str(tmp_path / "own"),), "incoming_teaches": False, "alpha": 1.0}
    made = []
    for source in (Checkpoint.load(Path(second)), teacher):
        source.save(tmp_path / "own")
        made.append(distilled(teacher, dataset, tmp_path / "kept", train=TrainConfig(epochs=1), **settings))
    assert made[0].content_hash != made[1].content_hash


def test_it_is_read_from_toml() -> None:
    raw = {"kind": "distil", "student": {"kind": "gru4rec"}, "teachers": ["a"], "weights": [1, 2]}
    step = convert({"steps": [raw]}, Recipe, "recipe.toml").steps[0]
    assert step == Distil(student=GRU4RecConfig(), teachers=("a",), weights=(1.0, 2.0))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"incoming_teaches": False}, "nobody teaches"),
        ({"weights": (1.0, 2.0)}, "2 `weights` for 1 teachers"),
        ({"weights": (0.0,)}, "weights = "),
        ({"weights": (float("nan"),)}, "weights = "),
        ({"alpha": 1.5}, "alpha = 1.5"),
        ({"alpha": float("nan")}, "alpha = nan"),
        ({"temperature": 0.0}, "temperature = 0.0"),
        ({"top": -1}, "top = -1"),
        ({"start": "somewhere"}, "start = 'somewhere'"),
        ({"train": TrainConfig(loss=BCE())}, "train.loss.kind = 'bce'"),
        ({"train": TrainConfig(loss=SampledSoftmax(sampling="popularity")), "top": 5}, "train.loss.kind"),
        ({"train": TrainConfig(loss=SampledSoftmax())}, "top = 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Distil(**settings)


@pytest.mark.parametrize(
    ("incoming", "settings", "says"),
    [
        (BIG, {"student": PopularityConfig()}, "student: a model of kind 'popularity'"),
        (BIG, {"student": BERT4RecConfig()}, "student: bert4rec learns to fill gaps"),
        (BIG, {"student": SASRecConfig(weights="int8")}, "student.weights = 'int8'"),
        (SASRecConfig(weights="fp16"), {}, "student.weights = 'fp16'"),
        (BIG, {"student": SASRecConfig(table=Quantized())}, "student.table"),
        (
            BIG,
            {
                "student": SASRecConfig(table=LowRank(rank=4)),
                "top": 5,
                "train": TrainConfig(loss=SampledSoftmax(), sparse_rows=True),
            },
            "train.sparse_rows: with .* 'low-rank'",
        ),
        (PopularityConfig(), {"student": TINY}, "the incoming model of kind 'popularity'"),
        (BIG, {"student": SASRecConfig(max_length=8), "start": "incoming"}, "student.embedding_dim = 64"),
        (BIG, {"teachers": ("nowhere",)}, r"\$\.steps\[0\]: teachers\[0\]: nowhere"),
    ],
)
def test_steps_that_cannot_follow_are_refused(incoming: Any, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check(Recipe(steps=(Distil(**settings),)), incoming, 12)


def test_teachers_must_know_the_same_items_and_the_same_events(
    dataset: Dataset, teacher: Checkpoint, tmp_path: Path
) -> None:
    """Refused before anything is read or done."""
    fewer = fit(split(dataset_of([[1, 2, 3, 4]] * 5, 6), LeaveLastOut()), BIG, TrainConfig(epochs=1), MACHINE, Silent())
    later = fit(walk(seed=1), BIG, TrainConfig(epochs=1), MACHINE, Silent())
    names = [*teacher.catalog.vocabulary.ids[:4], "other", *teacher.catalog.vocabulary.ids[5:]]
    renamed = replace(teacher, catalog=Catalog(Vocabulary(names)))
    cases = {
        "fewer": (fewer, "knows 6 items"),
        "later": (later, "learned from other events"),
        "renamed": (renamed, "row 5 is 'other' there and 'i5'"),
    }
    for name, (other, says) in cases.items():
        other.save(tmp_path / name)
        step = Distil(student=TINY, teachers=(str(tmp_path / name),))
        with pytest.raises(ConfigError, match=says):
            compress(teacher, Recipe(steps=(Quantize(weights=None, table_bits=8), step)), Workshop())
