"""Steps on rankers: what they change, by hand, and what is left of the ranker."""

from typing import Any, get_args

import msgspec
import numpy as np
import pytest
import torch
from msgspec.structs import replace

from millirec.compress.rankers.base import RankerWorkshop
from millirec.compress.rankers.distil import DistilRanker
from millirec.compress.rankers.inputs import LeaveOut
from millirec.compress.rankers.prune import PruneRanker
from millirec.compress.rankers.quantize import QuantizeRanker
from millirec.compress.rankers.recipe import RankerRecipe, compress_ranker
from millirec.compress.rankers.report import size_of
from millirec.compress.rankers.values import CapValues, value_counts
from millirec.data.dataset import TEST, TRAIN
from millirec.data.errors import ConfigError
from millirec.data.features.config import CategoricalField, ClockField, MultiValuedField, NumericField, SequenceField
from millirec.metrics import ctr
from millirec.models.rankers.checkpoint import RankerCheckpoint, logits_of
from millirec.models.rankers.config import RankerConfig
from millirec.models.rankers.din import DINConfig
from millirec.models.rankers.dnn import DNNConfig
from millirec.models.rankers.fields import FieldVectors, spans
from millirec.models.rankers.mmoe import MMoEConfig
from millirec.models.rankers.trees import TreesConfig
from millirec.train.fit_ranker import fit_ranker
from millirec.train.journal import Silent
from millirec.train.machine import Machine
from tests.contracts.test_rankers import TRAINING, plan, prepared

FIELDS = (
    CategoricalField(name="user", source="user"),
    CategoricalField(name="item", source="item"),
    MultiValuedField(name="tags", source="item.tags"),
    NumericField(name="price", source="item.price"),
    ClockField(name="hour", part="hour"),
    SequenceField(name="seen", of="item", length=3),
)
WORKSHOP = RankerWorkshop(read=prepared, machine=Machine(threads=1))
NETWORKS = [kind() for kind in get_args(RankerConfig) if kind is not TreesConfig]


def fitted(config: Any, **more: Any) -> RankerCheckpoint:
    return fit_ranker(prepared(), plan(config, FIELDS, **{"embedding_dim": 8, **more}), Silent())[0]


@pytest.fixture(scope="module")
def dnn() -> RankerCheckpoint:
    return fitted(DNNConfig())


def followed(checkpoint: RankerCheckpoint, *steps: Any) -> RankerCheckpoint:
    return compress_ranker(checkpoint, RankerRecipe(steps=steps), WORKSHOP)


def auc(checkpoint: RankerCheckpoint) -> float:
    rows = WORKSHOP.rows(checkpoint)
    part = rows.part(TEST)
    return ctr.auc(rows.labels[part], checkpoint.chances(rows.features.take(part)))


@pytest.mark.parametrize("config", NETWORKS, ids=lambda config: type(config).__name__)
@pytest.mark.parametrize(("weights", "bits"), [("int8", 8), ("int4", 4), ("fp16", None)])
def test_every_network_can_be_quantised_and_stays_about_as_good(
    config: Any, weights: Any, bits: Any, tmp_path: Any
) -> None:
    before = fitted(config, epochs=4)
    made = followed(before, QuantizeRanker(weights=weights, table_bits=bits))
    assert (made.config.weights, made.config.table_bits) == (weights, bits)
    assert auc(made) > auc(before) - 0.05
    made.save(tmp_path / "small")
    again, features = RankerCheckpoint.load(tmp_path / "small"), WORKSHOP.rows(made).features
    assert (again.chances(features) == made.chances(features)).all()
    assert size_of(made).bytes < size_of(before).bytes
    assert [step.name for step in made.lineage] == ["train", "quantize"]


def test_vectors_are_rounded_by_less_than_a_level(dnn: RankerCheckpoint) -> None:
    made = followed(dnn, QuantizeRanker(weights=None, table_bits=8))
    (old,), (new,) = ([m for m in c.network().modules() if isinstance(m, FieldVectors)] for c in (dnn, made))
    rows = torch.arange(old.table.num_embeddings)
    scale = new.table.scale
    assert ((new.table(rows) - old.table(rows)).abs() <= scale * 0.51).all()
    assert made.parameters["output.weight"].equal(dnn.parameters["output.weight"])


def test_the_smallest_weights_become_zero_and_stay_so(dnn: RankerCheckpoint) -> None:
    step = PruneRanker(sparsity=0.5, include=("linear",))
    made = followed(dnn, step)
    for name in ("hidden.0.weight", "hidden.3.weight", "output.weight"):
        old, new = dnn.parameters[name], made.parameters[name]
        assert int((new == 0).sum()) == round(old.numel() / 2)
        assert old[new == 0].abs().max() <= old[new != 0].abs().min()
    learned = followed(dnn, replace(step, train=replace(TRAINING, epochs=3)))
    zero = made.parameters["hidden.0.weight"] == 0
    assert ((learned.parameters["hidden.0.weight"] == 0) == zero).all()
    assert not learned.parameters["hidden.0.weight"].equal(made.parameters["hidden.0.weight"])
    assert auc(learned) > auc(made) - 0.02


def test_a_student_learns_what_its_teacher_says(dnn: RankerCheckpoint) -> None:
    student = DNNConfig(embedding_dim=4, hidden=(8,), dropout=0.0)
    made = followed(dnn, DistilRanker(student=student, share=1.0, train=replace(TRAINING, epochs=30, patience=30)))
    features = WORKSHOP.rows(made).features
    said, repeated = logits_of(dnn.network(), features), logits_of(made.network(), features)
    assert np.corrcoef(said, repeated)[0, 1] > 0.95
    assert size_of(made).bytes < size_of(dnn).bytes / 2
    assert size_of(made).multiply_adds == 6 * 4 * 8 + 8
    assert made.config == student


def test_trees_can_teach_a_network() -> None:
    trees = fitted(TreesConfig(), embedding_dim=1)
    made = followed(trees, DistilRanker(student=DNNConfig(embedding_dim=4, hidden=(8,)), train=TRAINING))
    assert auc(made) > 0.85


def test_rare_values_become_the_unknown_one(dnn: RankerCheckpoint) -> None:
    rows = WORKSHOP.rows(dnn)
    counts = value_counts(rows, dnn.featuriser.schema())
    place = [space.name for space in dnn.featuriser.schema().categorical].index("item")
    train = rows.features.ids[rows.part(TRAIN), place]
    assert counts["item"].tolist() == [int((train == i).sum()) for i in range(9)]
    made = followed(dnn, CapValues(max_size=5, features=("item",)))
    assert made.featuriser.learned["item"].values == dnn.featuriser.learned["item"].values[:5]
    assert made.featuriser.learned["user"] == dnn.featuriser.learned["user"]
    (start, end), key = spans(dnn.featuriser.schema())["item"], "vectors.table.weight"
    old, new = dnn.parameters[key], made.parameters[key]
    assert len(new) == len(old) - 3
    assert new[start + 1 : start + 6].equal(old[start + 1 : start + 6])
    gone, weights = old[start + 6 : end], torch.from_numpy(counts["item"][6:]).float()
    torch.testing.assert_close(new[start], (weights[:, None] * gone).sum(0) / weights.sum())
    # What is asked of an item that stayed is answered as before, save for the histories that knew others.
    assert auc(made) < auc(dnn)
    assert (value_counts(WORKSHOP.rows(made), made.featuriser.schema())["item"][1:] == counts["item"][1:6]).all()


def test_rare_values_are_those_with_few_rows(dnn: RankerCheckpoint) -> None:
    counts = value_counts(WORKSHOP.rows(dnn), dnn.featuriser.schema())["user"]
    limit = int(np.sort(counts[1:])[2])
    made = followed(dnn, CapValues(min_count=limit, features=("user",)))
    assert len(made.featuriser.learned["user"].values) == int((counts[1:] >= limit).sum())


def test_useless_features_are_left_out_and_the_rest_learned_anew(dnn: RankerCheckpoint) -> None:
    made = followed(dnn, LeaveOut(threshold=0.03))
    left = [field.name for field in made.featuriser.fields]
    assert {"user", "item"} <= set(left)
    assert "hour" not in left
    assert auc(made) > auc(dnn) - 0.03
    assert size_of(made).multiply_adds < size_of(dnn).multiply_adds


def test_features_named_are_left_out_and_vectors_begin_where_they_stood(dnn: RankerCheckpoint) -> None:
    still = replace(TRAINING, epochs=1, learning_rate=1e-9)
    made = followed(dnn, LeaveOut(leave_out=("tags", "item", "price"), train=still))
    assert [field.name for field in made.featuriser.fields] == ["user", "item", "hour", "seen"]  # `seen` needs `item`
    before, after = spans(dnn.featuriser.schema()), spans(made.featuriser.schema())
    key = "vectors.table.weight"
    for name in ("user", "item", "hour"):
        old, new = dnn.parameters[key][slice(*before[name])], made.parameters[key][slice(*after[name])]
        torch.testing.assert_close(new, old, atol=1e-5, rtol=0)


def test_trees_grow_again_on_fewer_features() -> None:
    made = followed(fitted(TreesConfig(), embedding_dim=1), LeaveOut(leave_out=("hour", "tags")))
    assert [field.name for field in made.featuriser.fields] == ["user", "item", "price", "seen"]
    assert auc(made) > 0.85


def test_steps_follow_each_other(dnn: RankerCheckpoint) -> None:
    steps = (LeaveOut(leave_out=("hour",)), CapValues(max_size=7), PruneRanker(sparsity=0.3), QuantizeRanker())
    made = followed(dnn, *steps)
    assert [step.name for step in made.lineage] == ["train", "features", "values", "prune", "quantize"]
    assert auc(made) > 0.7


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([QuantizeRanker(), QuantizeRanker()], r"\$\.steps\[1\]: weights is int8 already"),
        ([QuantizeRanker(), PruneRanker(sparsity=0.5)], "quantised already"),
        ([QuantizeRanker(), CapValues(max_size=3)], "quantised already"),
        ([QuantizeRanker(), LeaveOut()], "quantised already"),
        ([CapValues(max_size=3, features=("other",))], r"features names \['other'\]"),
        ([LeaveOut(leave_out=("other",))], r"leave_out names \['other'\]"),
        ([LeaveOut(leave_out=tuple(f.name for f in FIELDS))], "no feature would be left"),
        ([DistilRanker(student=TreesConfig())], "trees learn from labels only"),
        ([DistilRanker(student=MMoEConfig())], "several tasks"),
    ],
)
def test_steps_that_cannot_follow_are_refused(dnn: RankerCheckpoint, steps: list[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        followed(dnn, *steps)


@pytest.mark.parametrize("step", [QuantizeRanker(), PruneRanker(sparsity=0.5), CapValues(max_size=3)])
def test_trees_have_nothing_to_round(step: Any) -> None:
    trees = fitted(TreesConfig(), embedding_dim=1)
    with pytest.raises(ConfigError, match="trees have no"):
        followed(trees, step)


def test_attention_needs_a_sequence() -> None:
    with pytest.raises(ConfigError, match="no sequence would be left"):
        followed(fitted(DINConfig(), epochs=1), LeaveOut(leave_out=("seen",)))


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (QuantizeRanker, {"weights": None, "table_bits": None}, "both left out"),
        (QuantizeRanker, {"table_bits": 3}, "choose 2, 4 or 8"),
        (QuantizeRanker, {"weights": "int3"}, "weights = 'int3'"),
        (PruneRanker, {"sparsity": 1.0}, "sparsity = 1.0"),
        (PruneRanker, {"sparsity": 0.5, "scope": "row"}, "scope = 'row'"),
        (PruneRanker, {"sparsity": 0.5, "include": ()}, "include"),
        (CapValues, {}, "leave every value"),
        (LeaveOut, {"repeats": 0}, "repeats = 0"),
        (DistilRanker, {"student": DNNConfig(), "share": 0.0}, "share = 0.0"),
    ],
)
def test_ranges_are_checked(kind: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        kind(**settings)


def test_a_recipe_is_read_from_plain_data() -> None:
    raw = {"steps": [{"kind": "values", "max_size": 9}, {"kind": "quantize"}]}
    assert msgspec.convert(raw, RankerRecipe).steps == (CapValues(max_size=9), QuantizeRanker())
    with pytest.raises(ConfigError, match="steps is empty"):
        RankerRecipe(steps=())
