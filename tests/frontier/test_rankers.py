"""Second stages of a frontier: made, packed, asked, loaded by a real server, told, and refused."""

import shutil
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import optuna
import pytest

from millirec.bundle import PackConfig, open_bundle
from millirec.bundle.ranker import RANKER as FILES
from millirec.cascade.cascade import CascadeConfig
from millirec.cascade.scorers import InnerProductScorer, PreRankerScorer, RankerScorer
from millirec.compress.rankers.base import RankerWorkshop
from millirec.compress.rankers.distil import DistilRanker
from millirec.compress.rankers.inputs import LeaveOut
from millirec.compress.rankers.quantize import QuantizeRanker
from millirec.compress.rankers.recipe import RankerRecipe, compress_ranker
from millirec.compress.rankers.values import CapValues
from millirec.config import convert, dumps
from millirec.data.catalog import Catalog, Vocabulary
from millirec.data.dataset import TEST, VALIDATION, Dataset
from millirec.data.errors import ConfigError, MillirecError
from millirec.data.features import Featuriser, ranking_rows
from millirec.data.labels import labels_of
from millirec.data.split import GlobalTime, LeaveLastOut, split
from millirec.engine.engine import Engine
from millirec.engine.state import StateStore
from millirec.frontier.attempt import Rival
from millirec.frontier.cache import key_of
from millirec.frontier.check import check
from millirec.frontier.config import FrontierConfig, Variant, VariantRanker
from millirec.frontier.laboratory import Laboratory
from millirec.frontier.pace import Nobody
from millirec.frontier.rankers import Rankers, by_rows
from millirec.frontier.replay import replay
from millirec.frontier.result import Frontier
from millirec.frontier.run import run
from millirec.frontier.search import Search
from millirec.frontier.space import drawn
from millirec.models.rankers.checkpoint import RankerCheckpoint
from millirec.models.rankers.dnn import DNNConfig
from millirec.models.rankers.trees import TreesConfig
from millirec.train.candidates import candidates_of
from millirec.train.journal import Silent
from tests.frontier.staged import CANDIDATES, LABEL, QUICK, TRAIN, found, logged, teacher, workshop, world

ALONE = Variant(name="alone", ranker=False)
SMALL = Variant(name="int8", ranker=VariantRanker(steps=(QuantizeRanker(weights="int8", table_bits=8),)))
STUDENT = DistilRanker(student=DNNConfig(embedding_dim=4, hidden=(8,)), train=msgspec.structs.replace(TRAIN, epochs=1))


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rankers on disk."""
    folder = tmp_path_factory.mktemp("rankers")
    logged().save(folder / "logged")
    found().save(folder / "found")
    teacher().save(folder / "model")
    return folder


@pytest.fixture(scope="module")
def made(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Frontier, Path]:
    """A whole frontier, loaded through real servers: with the ranker, without it, with a small one."""
    config = FrontierConfig(
        teacher="t",
        name="f",
        out=str(tmp_path_factory.mktemp("frontiers")),
        ranker=str(shelf / "logged"),
        variants=(ALONE, SMALL),
        measure=QUICK,
    )
    return run(config, teacher(), workshop(), Nobody(), dumps)


@pytest.fixture
def cache(made: tuple[Frontier, Path], tmp_path: Path) -> Path:
    """What that frontier has kept."""
    return Path(shutil.copytree(made[1].parent / "cache", tmp_path / "cache"))


def opened(cache: Path, ranker: Path | None, pack: PackConfig = PackConfig(), **measure: Any) -> Laboratory:  # noqa: B008
    how = msgspec.structs.replace(QUICK, **measure)
    return Laboratory(teacher(), workshop(), how, cache, pack, None if ranker is None else str(ranker))


def rankers(shelf: Path, folder: Path, part: str = "test") -> Rankers:
    return Rankers(str(shelf / "logged"), teacher(), replace(workshop(), folder=folder), part)


def test_every_variant_is_measured_with_its_ranker(made: tuple[Frontier, Path]) -> None:
    whole, alone, small = (entry.figures for entry in made[0].variants)
    assert whole.ranker is not None
    assert small.ranker is not None
    assert alone.ranker is None
    assert whole.ranker.checkpoint == logged().content_hash
    assert [step.name for step in whole.ranker.lineage] == ["train"]
    assert [step.name for step in small.ranker.lineage] == ["train", "quantize"]
    assert small.ranker.metrics["auc"] == pytest.approx(whole.ranker.metrics["auc"], abs=0.05)
    integer = {"DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat"}
    assert integer & set(small.ranker.kernels)
    assert not integer & set(whole.ranker.kernels)
    assert small.compression_seconds > 0
    assert whole.training_seconds > 0  # the sequence model's lineage is empty: all of it is the ranker's
    assert alone.bundle_bytes < small.bundle_bytes < whole.bundle_bytes
    assert alone.training_seconds == 0
    assert "ranker" in whole.speed.stages
    assert "ranker" in small.speed.stages
    assert "ranker" not in alone.speed.stages
    assert all(not one.speed.errors for one in (whole, alone, small))


def test_quality_is_that_of_the_ranked_list(made: tuple[Frontier, Path]) -> None:
    out = made[1].parent
    whole, alone, _ = (entry.figures for entry in made[0].variants)
    folders = {bundle.manifest.content_hash: bundle for bundle in map(open_bundle, (out / "cache/bundles").iterdir())}
    for figures in (whole, alone):
        with StateStore.temporary() as store:
            seen = replay(Engine(folders[figures.content_hash], store), world(), TEST)
        ndcg = np.where(seen.ranks <= 10, 1 / np.log2(seen.ranks + 1.0), 0.0).mean()
        assert figures.quality.figures["ndcg@10"].value == pytest.approx(ndcg, abs=1e-9)
    assert whole.quality.figures["ndcg@10"].value != alone.quality.figures["ndcg@10"].value


def test_the_report_tells_the_lineage_of_the_ranker(made: tuple[Frontier, Path]) -> None:
    out = made[1].parent
    page = (out / "report.html").read_text()
    assert page.count("<h3>The ranker: dnn</h3>") == 2
    assert "AUC 0." in page
    assert "quantize: weights int8, table_bits 8" in page
    assert msgspec.json.decode((out / "frontier.json").read_bytes(), type=Frontier) == made[0]


def test_the_config_of_a_variant_makes_its_bundle_again(
    made: tuple[Frontier, Path], cache: Path, tmp_path: Path
) -> None:
    """As `best.toml` is: at once where everything is kept, and in another place where nothing is."""
    for entry in made[0].variants:
        again = convert(tomllib.loads(entry.config), FrontierConfig, "best.toml")
        lab = opened(cache, None if again.ranker is None else Path(again.ranker))
        variant = next(iter(again.variants), lab.teacher)
        assert variant.name == entry.figures.name
        assert lab.is_made(variant)
        assert lab.make(variant).content_hash == entry.figures.content_hash
        assert ("ranker = false" in entry.config) == (variant == ALONE)
    elsewhere = opened(tmp_path / "new", Path(str(again.ranker)))
    first, second = (one.bundle(SMALL).manifest for one in (lab, elsewhere))
    assert {name: first.files[name] for name in FILES} == {name: second.files[name] for name in FILES}
    assert first.cascade == second.cascade


def test_the_chosen_bundle_comes_with_its_config(made: tuple[Frontier, Path]) -> None:
    name = made[0].choice.chosen
    entry = next(entry for entry in made[0].variants if entry.figures.name == name)
    assert (made[1].parent / "best.toml").read_text() == entry.config
    assert open_bundle(made[1]).manifest.content_hash == entry.figures.content_hash


def test_a_step_that_is_done_is_not_done_again(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = CapValues(min_count=3), QuantizeRanker()
    two = Variant(name="a", ranker=VariantRanker(steps=(first, second)))
    part, seconds = rankers(shelf, tmp_path).make(two) or (None, 0)
    assert part is not None
    assert seconds > 0
    monkeypatch.setattr(CapValues, "apply", None)  # calling it would fail
    other = Variant(name="b", ranker=VariantRanker(steps=(first, QuantizeRanker(weights="int4"))))
    found, _ = rankers(shelf, tmp_path).make(other) or (None, 0)  # begins with what the first step has left
    assert found is not None
    assert found.checkpoint.content_hash != part.checkpoint.content_hash
    monkeypatch.setattr(QuantizeRanker, "apply", None)
    again, _ = rankers(shelf, tmp_path).make(two) or (None, 0)
    assert again is not None
    assert again.checkpoint.content_hash == part.checkpoint.content_hash
    with pytest.raises(TypeError):
        rankers(shelf, tmp_path / "new").make(two)


def test_all_that_decides_a_ranker_is_in_its_key(shelf: Path, tmp_path: Path) -> None:
    made = rankers(shelf, tmp_path)
    variants = (
        Variant(name="a"),
        SMALL,
        Variant(name="b", ranker=VariantRanker(weights="int8")),
        Variant(name="c", ranker=VariantRanker(checkpoint=str(shelf / "found"))),
        Variant(name="p", ranker=VariantRanker(pre_ranker=str(shelf / "logged"))),
    )
    keys = [key_of(made.key(variant)) for variant in variants]
    keys.append(key_of(rankers(shelf, tmp_path, "validation").key(variants[0])))
    assert len(set(keys)) == 6
    assert key_of(made.key(Variant(name="d", ranker=VariantRanker(checkpoint=str(shelf / "logged"))))) == keys[0]
    assert made.key(ALONE) == ()


def test_a_variant_may_have_a_pre_ranker(shelf: Path, cache: Path) -> None:
    scorers = (InnerProductScorer(), PreRankerScorer(candidates=20), RankerScorer(candidates=10))
    pack = PackConfig(cascade=CascadeConfig(scorers=scorers))
    both = Variant(name="both", ranker=VariantRanker(pre_ranker=str(shelf / "found")), pack=pack)
    lab = opened(cache, shelf / "logged")
    made = lab.make(both)
    assert made.ranker is not None
    assert (made.ranker.pre_ranker or {})["kind"] == "dnn"
    bundle = lab.bundle(both)
    assert bundle.manifest.pre_ranker is not None
    assert bundle.manifest.pre_ranker.checkpoint == found().content_hash
    with StateStore.temporary() as store:
        seen = replay(Engine(bundle, store), world(), TEST)
    assert (seen.ranks > 0).any()


def test_retrieval_alone_is_made_as_if_there_were_no_ranker(cache: Path) -> None:
    plain = opened(cache, None)
    assert plain.is_made(plain.teacher)


def test_a_ranker_in_the_cascade_of_all_is_left_out_where_there_is_none(shelf: Path, cache: Path) -> None:
    scorers = (InnerProductScorer(), RankerScorer(candidates=7))
    few = PackConfig(cascade=CascadeConfig(scorers=scorers))
    lab = opened(cache, shelf / "logged", few)
    assert not lab.is_made(lab.teacher)
    assert lab.is_made(ALONE)
    assert few.unranked() == PackConfig() == PackConfig().unranked()


@pytest.mark.parametrize(("part", "role"), [("test", TEST), ("validation", VALIDATION)])
def test_features_know_nothing_that_is_asked(shelf: Path, tmp_path: Path, part: str, role: int) -> None:
    found, _ = rankers(shelf, tmp_path, part).make(Variant(name="a")) or (None, 0)
    times = world().interactions.times
    assert found is not None
    assert found.known.times.tolist() == times[times < times[world().roles == role].min()].tolist()


def test_of_a_sample_of_users_the_events_of_others_count(shelf: Path, cache: Path) -> None:
    whole, some = opened(cache, shelf / "logged"), opened(cache, shelf / "logged", users=5)
    every, few = whole.answers(whole.teacher), some.answers(some.teacher)
    kept = np.isin(every.users, few.users)
    assert len(np.unique(few.users)) == 5
    assert np.array_equal(few.top, every.top[kept])
    assert np.array_equal(few.ranks, every.ranks[kept])


def test_a_ranker_of_candidates_goes_on_learning_from_candidates(shelf: Path, tmp_path: Path) -> None:
    assert candidates_of(found()) == CANDIDATES
    shop = RankerWorkshop(read=world, machine=workshop().machine, retrieval=teacher())
    rows = shop.rows(found())
    assert len(rows) != len(ranking_rows(by_rows(world(), LABEL), labels_of(world(), LABEL), found().featuriser)[0])
    assert rows.labels.mean() == pytest.approx(1 / (1 + CANDIDATES.negatives))
    variant = Variant(name="student", ranker=VariantRanker(checkpoint=str(shelf / "found"), steps=(STUDENT,)))
    told, _ = rankers(shelf, tmp_path).make(variant) or (None, 0)
    by_hand = compress_ranker(found(), RankerRecipe(steps=(STUDENT,)), shop)
    assert told is not None
    assert told.checkpoint.content_hash == by_hand.content_hash
    assert candidates_of(by_hand) == CANDIDATES
    with pytest.raises(ConfigError, match="no model is here to ask"):
        compress_ranker(found(), RankerRecipe(steps=(STUDENT,)), RankerWorkshop(read=world))


def test_a_search_reaches_the_ranker() -> None:
    """Each kind of second stage, and what is open within one."""
    choices = [True, False, {"weights": "int8"}, {"steps": [{"kind": "prune", "sparsity": {"low": 0.2, "high": 0.8}}]}]
    space = Search(variant={"ranker": {"choose": choices}}).variant
    seen = set()
    for seed in range(40):
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
        ranker = msgspec.convert({"name": "v", **drawn(space, study.ask())}, Variant).ranker
        seen.add(ranker if isinstance(ranker, bool) else (ranker.weights, len(ranker.steps)))
    assert seen == {True, False, ("int8", 0), ("fp32", 1)}


def test_a_training_of_a_ranker_has_no_rivals() -> None:
    """It is told by other figures than those that trials are compared by."""
    study = optuna.create_study()
    rival, trial = Rival(Silent()), study.ask()
    rival.watch(trial)
    rival.validated(0, {"loss": 1.0, "auc": 0.7, "log_loss": 0.5}, best=True)
    assert study.trials[0].intermediate_values == {}
    rival.validated(0, {"ndcg@10": 0.1}, best=True)
    assert study.trials[0].intermediate_values == {0: 0.1}


def refused(shelf: Path, dataset: Dataset | None = None, ranker: str | None = "logged", **more: Any) -> str:
    """What a frontier with one more variant, or with this ranker, is refused for."""
    own = more.pop("variant", None)
    variants = () if own is None else (Variant(name="v", **own),)
    path = None if ranker is None else str(shelf / ranker)
    config = FrontierConfig(teacher="t", ranker=path, variants=variants, **more)
    with pytest.raises(MillirecError) as error:
        check(config, teacher().config, dataset or world(), repeats=False)
    return str(error.value)


QUANTISE = (QuantizeRanker(),)
WITHOUT = PackConfig(cascade=CascadeConfig(scorers=(InnerProductScorer(),), sources=CascadeConfig().sources[:1]))
NAMED = PackConfig(cascade=CascadeConfig(scorers=(InnerProductScorer(), RankerScorer())))

TWICE = PackConfig(cascade=CascadeConfig(scorers=(InnerProductScorer(), PreRankerScorer(), RankerScorer())))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"ranker": "nowhere"}, "$.ranker: "),
        ({"ranker": "model"}, "model holds none"),
        ({"variant": {"ranker": VariantRanker(checkpoint="nowhere")}}, "$.variants[0] (v): ranker: nowhere holds none"),
        (
            {"ranker": None, "variant": {"ranker": VariantRanker(steps=QUANTISE)}},
            "$.variants[0] (v): ranker: names no checkpoint",
        ),
        ({"variant": {"ranker": VariantRanker(steps=QUANTISE * 2)}}, "(v): ranker: $.steps[1]: weights is int8"),
        ({"variant": {"ranker": VariantRanker(steps=(LeaveOut(leave_out=("x",)),))}}, "leave_out names ['x']"),
        ({"variant": {"pack": WITHOUT}}, "$.variants[0] (v): ranker: its cascade asks no ranker"),
        ({"variant": {"pack": NAMED, "ranker": False}}, "the bundle has no ranker"),
        ({"ranker": None, "pack": NAMED}, "the bundle has no ranker"),
        ({"pack": TWICE}, "the bundle has no pre-ranker"),
        ({"variant": {"ranker": VariantRanker(pre_ranker="nowhere")}}, "(v): ranker: pre_ranker: nowhere holds none"),
        ({"pack": NAMED, "variant": {"ranker": VariantRanker(pre_ranker="x")}}, "its cascade asks no pre-ranker"),
        ({"ranker": "found", "measure": msgspec.structs.replace(QUICK, part="validation")}, "$.measure.part asks for"),
        ({"ranker": "found", "search": Search(variant={"ranker": {"choose": [True, False]}})}, "$.search asks for"),
    ],
)
def test_mistakes_are_refused_before_anything_is_done(shelf: Path, more: dict[str, Any], words: str) -> None:
    assert words in refused(shelf, **more)


def test_rankers_that_fit_are_not_refused(shelf: Path) -> None:
    fine = (ALONE, SMALL, Variant(name="w", ranker=VariantRanker(weights="int8")), Variant(name="n", pack=NAMED))
    config = FrontierConfig(teacher="t", ranker=str(shelf / "found"), variants=fine, pack=NAMED)
    check(config, teacher().config, world(), repeats=False)


def saved(ranker: RankerCheckpoint, folder: Path) -> str:
    ranker.save(folder / "other")
    return "other"


def test_rankers_of_other_data_are_refused(shelf: Path, tmp_path: Path) -> None:
    plain = world().with_roles(np.zeros_like(world().roles), "none")
    assert "$.ranker: under leave-last-out" in refused(shelf, split(plain, LeaveLastOut()))
    assert "trained with other split" in refused(shelf, split(plain, GlobalTime()))
    told = msgspec.structs.replace(logged().provenance, fingerprint="other")
    assert "trained with other data" in refused(tmp_path, ranker=saved(logged().with_provenance(told), tmp_path))
    old = logged().featuriser
    moved = Catalog(Vocabulary([*old.items.vocabulary.ids[::-1]]), old.items.features)
    other = replace(logged(), featuriser=Featuriser(old.fields, old.learned, old.users, moved))
    assert "row 1 is 'i40' to the ranker, 'i1' to the model" in refused(tmp_path, ranker=saved(other, tmp_path))


def test_a_bundle_is_no_checkpoint_of_a_ranker(made: tuple[Frontier, Path]) -> None:
    folders = [path for path in (made[1].parent / "cache" / "bundles").iterdir() if (path / "ranker.json").exists()]
    assert len(folders) == 2
    assert f"{folders[0]} holds none" in refused(folders[0].parent, ranker=folders[0].name)


def test_trees_have_no_layers_of_bytes(shelf: Path, tmp_path: Path) -> None:
    trees = replace(logged(), config=TreesConfig())
    variant = {"ranker": VariantRanker(checkpoint=str(tmp_path / saved(trees, tmp_path)), weights="int8")}
    assert "trees have no layers to compute in it" in refused(shelf, variant=variant)
