from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from millirec.data.dataset import TEST, Dataset
from millirec.data.errors import ArtifactError, ConfigError, DataError
from millirec.data.extend import extended
from millirec.data.split import GlobalTime, LeaveLastOut, split
from millirec.models.base import SequenceModel
from millirec.models.checkpoint import Checkpoint
from millirec.models.config import ModelConfig, build
from millirec.models.layers.table import Hashed, LowRank, Product, TableConfig
from millirec.models.sasrec import SASRecConfig
from millirec.train.evaluate import evaluate
from millirec.train.fine_tune import Earlier, WarmStart, fine_tune, grown
from millirec.train.fit import fit
from millirec.train.journal import Silent
from millirec.train.machine import Machine
from millirec.train.trainer import TrainConfig
from tests.contracts.test_models import CONFIGS, small
from tests.logs import dataset_of

TINY = SASRecConfig(embedding_dim=16, blocks=1, heads=1, max_length=8)
SHORT = TrainConfig(epochs=2, batch_size=8, learning_rate=0.01)
MACHINE = Machine(threads=1)
SEQUENCE_MODELS = [config for config in CONFIGS if isinstance(build(small(config), 3), SequenceModel)]


def circle(n_items: int, first: int = 0, seed: int = 0) -> Dataset:
    """Sixty people walk a circle of items from a random start, nine events from second `first` on; not split."""
    starts = np.random.default_rng(seed).integers(0, n_items, 60)
    data = dataset_of([((start + np.arange(9)) % n_items + 1).tolist() for start in starts], n_items)
    return replace(data, interactions=replace(data.interactions, times=data.interactions.times + 1000 * first))


def shuffled(dataset: Dataset, lost: int) -> Dataset:
    """The same events, the catalogue in another order and without item `lost`, as a newer file would give it."""
    from millirec.data.catalog import Catalog, Vocabulary

    log = dataset.interactions.take(dataset.interactions.items != lost)
    kept = np.random.default_rng(3).permutation(np.setdiff1d(np.arange(1, len(dataset.items) + 1), lost))
    rows = np.zeros(len(dataset.items) + 1, np.int32)
    rows[kept] = np.arange(1, len(kept) + 1)
    ids = [dataset.items.vocabulary.id(int(row)) for row in kept]
    return Dataset.of(replace(log, items=rows[log.items]), Catalog(Vocabulary(ids)), dataset.users)


@pytest.fixture(scope="module")
def old() -> Checkpoint:
    train = TrainConfig(epochs=30, batch_size=8, learning_rate=0.01)
    return fit(split(circle(12), LeaveLastOut()), TINY, train, MACHINE, Silent())


def newer(old: Checkpoint, **config: object) -> tuple[Earlier, Dataset]:
    """A day later the circle has 15 items, of which the newer log lacks one old one."""
    data = split(shuffled(circle(15, first=86_400, seed=1), lost=4), LeaveLastOut())
    return Earlier(old, TINY, WarmStart(checkpoint="", **config)), extended(data, old.catalog)


@pytest.mark.parametrize("rows", ["neighbours", "mean"])
def test_old_vectors_begin_bit_for_bit_and_new_ones_among_them(old: Checkpoint, rows: str) -> None:
    earlier, data = newer(old, new_rows=rows)
    assert data.items.vocabulary.ids[:12] == old.catalog.vocabulary.ids
    fresh = build(TINY, len(data.items)).state_dict()
    parameters = grown(earlier, fresh, data, seed=1)
    assert parameters.keys() == fresh.keys()
    table = parameters["item.weight"]
    assert table.shape == (16, 16)
    assert torch.equal(table[:13], old.parameters["item.weight"])
    assert all(torch.equal(value, old.parameters[name]) for name, value in parameters.items() if name != "item.weight")
    assert len(torch.unique(table[13:], dim=0)) == 3
    assert torch.equal(grown(earlier, fresh, data, seed=1)["item.weight"], table)


def test_new_rows_by_hand(old: Checkpoint) -> None:
    """Item 13 stands beside 1, 2 and 3 only; 14 beside no old item; without noise."""
    data = dataset_of([[1, 2, 3, 13], [14, 14]], 14)
    table = old.parameters["item.weight"]
    fresh = build(TINY, 14).state_dict()
    near = grown(Earlier(old, TINY, WarmStart(checkpoint="", noise=0.0)), fresh, data, 1)["item.weight"]
    torch.testing.assert_close(near[13], table[1:4].mean(0))
    torch.testing.assert_close(near[14], table[1:13].mean(0))
    mean = grown(Earlier(old, TINY, WarmStart(checkpoint="", noise=0.0, new_rows="mean")), fresh, data, 1)
    torch.testing.assert_close(mean["item.weight"][13], table[1:13].mean(0))


def test_it_knows_the_old_and_learns_the_new(old: Checkpoint, tmp_path: Path) -> None:
    earlier, data = newer(old)
    train = TrainConfig(epochs=25, batch_size=8, learning_rate=0.01)
    made = fine_tune(earlier, data, train, MACHINE, Silent())
    assert made.metrics["ndcg@10 before"] < made.metrics["ndcg@10"]
    assert evaluate(made, data, TEST).figures["ndcg@10"].value > 0.8
    assert [step.name for step in made.lineage] == ["train", "fine-tune"]
    told = made.lineage[1].settings["warm_start"]
    assert (told["old_items"], told["new_items"]) == (12, 3)
    made.save(tmp_path / "checkpoint")
    assert Checkpoint.load(tmp_path / "checkpoint").lineage == made.lineage


def test_frozen_rows_rest_while_new_ones_and_the_network_learn(old: Checkpoint) -> None:
    earlier, data = newer(old, frozen_epochs=2)
    train = TrainConfig(epochs=2, batch_size=8, learning_rate=0.01, weight_decay=0.1)
    made, table = fine_tune(earlier, data, train, MACHINE, Silent()), old.parameters["item.weight"]
    start = grown(earlier, build(TINY, 15).state_dict(), data, MACHINE.seed)
    assert torch.equal(made.parameters["item.weight"][:13], table)
    assert not torch.equal(made.parameters["item.weight"][13:], start["item.weight"][13:])
    assert not torch.equal(made.parameters["norm.weight"], old.parameters["norm.weight"])
    thawed = fine_tune(newer(old, frozen_epochs=1)[0], data, train, MACHINE, Silent())
    assert not torch.equal(thawed.parameters["item.weight"][:13], table)


@pytest.mark.parametrize("config", SEQUENCE_MODELS, ids=lambda config: type(config).__name__)
def test_every_sequence_model_can_be_started_warm(config: ModelConfig) -> None:
    model = small(config)
    checkpoint = fit(split(circle(12), LeaveLastOut()), model, SHORT, MACHINE, Silent())
    data = extended(split(circle(15, 86_400), LeaveLastOut()), checkpoint.catalog)
    earlier = Earlier(checkpoint, model, WarmStart(checkpoint=""))
    made = fine_tune(earlier, data, SHORT, MACHINE, Silent())
    assert made.network() is not None
    assert len(made.catalog) == 15


@pytest.mark.parametrize(
    "table", [Product(codes=4), LowRank(rank=3), Hashed(buckets=7), Hashed(buckets=8, way="multi")], ids=repr
)
def test_every_table_can_be_started_warm(table: TableConfig) -> None:
    """Old items keep their vectors, and a new one of a product table the codes nearest to those beside it."""
    model = msgspec.structs.replace(TINY, table=table)
    checkpoint = fit(split(circle(12), LeaveLastOut()), model, SHORT, MACHINE, Silent())
    data = extended(split(circle(15, 86_400), LeaveLastOut()), checkpoint.catalog)
    earlier = Earlier(checkpoint, model, WarmStart(checkpoint="", noise=0.0, new_rows="mean"))
    network = build(model, 15)
    network.load_state_dict(grown(earlier, network.state_dict(), data, seed=1))
    before, after = (n.item.vectors().detach() for n in (checkpoint.network(), network))
    assert torch.equal(after[1:13], before[1:13])
    assert after.shape == (16, 16)
    if isinstance(table, Product):
        parts, wanted = network.item.centroids.detach(), before[1:].mean(0).view(4, 1, 4)
        nearest = parts.gather(1, (parts - wanted).norm(dim=2).argmin(1)[:, None, None].expand(-1, -1, 4)).flatten()
        assert torch.equal(after[13:], nearest.expand(3, -1))
    assert len(fine_tune(earlier, data, SHORT, MACHINE, Silent()).catalog) == 15


def test_rows_that_share_numbers_cannot_be_frozen(tmp_path: Path) -> None:
    model = msgspec.structs.replace(TINY, table=LowRank(rank=3))
    fit(split(circle(12), LeaveLastOut()), model, SHORT, MACHINE, Silent()).save(tmp_path / "old")
    config = WarmStart(checkpoint=str(tmp_path / "old"), frozen_epochs=1)
    with pytest.raises(ConfigError, match=r"\$\.warm_start\.frozen_epochs: .*'low-rank'"):
        Earlier.open(config, model)


def test_a_resumed_fine_tuning_ends_as_an_unbroken_one(old: Checkpoint, tmp_path: Path) -> None:
    class Halt(Silent):
        def validated(self, epoch: int, figures: dict[str, float], *, best: bool) -> None:
            if epoch == 1:
                raise KeyboardInterrupt

    earlier, data = newer(old, frozen_epochs=1)
    train, machine = TrainConfig(epochs=4, batch_size=8, learning_rate=0.01), Machine(threads=1, save_every_seconds=0)
    with pytest.raises(KeyboardInterrupt):
        fine_tune(earlier, data, train, machine, Halt(), progress=tmp_path / "progress")
    resumed = fine_tune(earlier, data, train, machine, Silent(), progress=tmp_path / "progress", resume=True)
    unbroken = fine_tune(earlier, data, train, machine, Silent())
    assert all(torch.equal(value, resumed.parameters[name]) for name, value in unbroken.parameters.items())
    other = Earlier(replace(old, parameters={k: v + 1 for k, v in old.parameters.items()}), TINY, earlier.config)
    with pytest.raises(ArtifactError, match="other settings"):
        fine_tune(other, data, train, machine, Silent(), progress=tmp_path / "progress", resume=True)


def test_what_cannot_be_gone_on_from_is_refused(old: Checkpoint, tmp_path: Path) -> None:
    old.save(tmp_path / "old")
    start = WarmStart(checkpoint=str(tmp_path / "old"))
    assert Earlier.open(start, SASRecConfig(embedding_dim=16, blocks=1, heads=1, max_length=8, dropout=0.5))
    with pytest.raises(ConfigError, match=r"\$\.model\.embedding_dim = 32, but it is 16 in \$\.warm_start\.checkpoint"):
        Earlier.open(start, SASRecConfig(embedding_dim=32, blocks=1, heads=1, max_length=8))
    with pytest.raises(ConfigError, match=r"\$\.model\.kind = 'gru4rec', but it is 'sasrec'"):
        Earlier.open(start, small(next(c for c in CONFIGS if type(c).__name__ == "GRU4RecConfig")))
    with pytest.raises(ConfigError, match=r"\$\.warm_start\.checkpoint.*absent"):
        Earlier.open(WarmStart(checkpoint=str(tmp_path / "absent")), TINY)
    with pytest.raises(ConfigError, match=r"\$\.warm_start\.noise"):
        WarmStart(checkpoint="x", noise=-1.0)
    with pytest.raises(ConfigError, match=r"\$\.warm_start\.frozen_epochs"):
        WarmStart(checkpoint="x", frozen_epochs=-1)


def test_data_that_teaches_nothing_new_is_refused(old: Checkpoint) -> None:
    same = split(circle(12), LeaveLastOut())
    with pytest.raises(DataError, match="newer"):
        fine_tune(Earlier(old, TINY, WarmStart(checkpoint="")), same, SHORT, MACHINE, Silent())
    with pytest.raises(DataError, match="no times"):
        fine_tune(Earlier(old, TINY, WarmStart(checkpoint="")), replace(same, timed=False), SHORT, MACHINE, Silent())
    anew = Earlier(old, TINY, WarmStart(checkpoint="", learn_from="all"))
    assert fine_tune(anew, same, SHORT, MACHINE, Silent()).metrics["epochs"] == 2


def test_rows_in_another_order_are_refused(old: Checkpoint) -> None:
    data = split(shuffled(circle(15, first=86_400), lost=4), GlobalTime())
    with pytest.raises(ArtifactError, match="rows"):
        fine_tune(Earlier(old, TINY, WarmStart(checkpoint="")), data, SHORT, MACHINE, Silent())
