"""Variants made and examined in a real laboratory; only the speeds are pretended."""

import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from millirec.bundle import PackConfig, open_bundle
from millirec.compress.quantize import Quantize
from millirec.compress.workshop import Workshop
from millirec.config import convert, dumps
from millirec.data.dataset import TEST
from millirec.data.errors import ArtifactError, ConfigError
from millirec.data.split import targets
from millirec.engine.engine import Engine
from millirec.engine.settings import EngineSettings
from millirec.engine.state import StateStore
from millirec.frontier import laboratory as laboratory_module
from millirec.frontier import making
from millirec.frontier.check import check
from millirec.frontier.config import FrontierConfig, Limits, Measure, Variant
from millirec.frontier.examination import Examination
from millirec.frontier.laboratory import Laboratory
from millirec.frontier.outcome import alone_in
from millirec.frontier.pace import Nobody
from millirec.frontier.replay import replay
from millirec.frontier.result import Frontier
from millirec.frontier.run import run
from millirec.models.popularity import PopularityConfig
from tests.frontier.laboratories import MODEL, QUICK, pretended, taught

SMALL = Variant(name="small", steps=(Quantize(weights="int8", table_bits=8),))
RATES = {"teacher": 1000.0, "small": 1500.0}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything made once: tests copy it."""
    folder = tmp_path_factory.mktemp("frontiers")
    lab = opened(folder / "f" / "cache")
    for variant in (lab.teacher, SMALL):
        lab.answers(variant)
    lab.close()
    return folder


@pytest.fixture
def folder(kept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kept, tmp_path / "frontiers"))


@pytest.fixture
def visits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the bundles that would have been loaded."""
    seen: list[str] = []

    def visit(bundle: Any, _settings: Any, _measure: Any, number: int) -> Any:
        name = "small" if bundle.manifest.model["weights"] == "int8" else "teacher"
        seen.append(name)
        return pretended(RATES[name] + number, p99=1000 / RATES[name])

    monkeypatch.setattr(laboratory_module, "visit", visit)
    return seen


def opened(folder: Path, measure: Measure = QUICK) -> Laboratory:
    teacher, dataset = taught()
    return Laboratory(teacher, Workshop(read=lambda: dataset, repeats=False), measure, folder)


@pytest.fixture
def lab(folder: Path) -> Iterator[Laboratory]:
    lab = opened(folder / "f" / "cache")
    yield lab
    lab.close()


def explored(folder: Path, **more: Any) -> tuple[Frontier, Path]:
    teacher, dataset = taught()
    config = FrontierConfig(teacher="t", name="f", out=str(folder), variants=(SMALL,), measure=QUICK, **more)
    return run(config, teacher, Workshop(read=lambda: dataset), Nobody(), dumps)


def test_the_chosen_bundle_opens_and_the_figures_are_those_of_the_visits(folder: Path, visits: list[str]) -> None:
    found, place = explored(folder)
    small = found.variants[1].figures
    assert small.speed.requests_per_second.median == 1500.5
    assert small.speed.p99_ms.median == pytest.approx(2 / 3, abs=1e-4)
    assert small.quality.kept.value == pytest.approx(1, abs=0.1)
    assert small.bundle_bytes == sum(path.stat().st_size for path in place.iterdir())
    assert found.choice.chosen == "small"
    assert place == folder / "f" / "chosen"
    assert open_bundle(place).manifest.content_hash == small.content_hash
    assert sorted(visits) == ["small"] * 2 + ["teacher"] * 4
    assert [(step.name, step.seconds > 0) for step in small.lineage] == [("train", True), ("quantize", True)]
    assert small.training_seconds > 0
    written = msgspec.json.decode((folder / "f" / "frontier.json").read_bytes(), type=Frontier)
    assert written == found
    assert "small" in (folder / "f" / "report.html").read_text()


@pytest.mark.usefixtures("visits")
def test_variants_are_packed_as_the_frontier_says_unless_they_say(folder: Path) -> None:
    teacher, dataset = taught()
    named = PackConfig(name="all")
    lab = Laboratory(teacher, Workshop(read=lambda: dataset, repeats=False), QUICK, folder / "c", named)
    own = msgspec.structs.replace(SMALL, name="own", pack=PackConfig(name="own"))
    try:
        names = [lab.bundle(variant).manifest.name for variant in (lab.teacher, own)]
    finally:
        lab.close()
    assert names == ["all", "own"]


def test_the_config_of_a_variant_makes_the_same_bundle(folder: Path, visits: list[str]) -> None:
    found, _ = explored(folder)
    again = convert(tomllib.loads(found.variants[1].config), FrontierConfig, "")
    assert again.variants == (SMALL,)
    lab = opened(folder / "f" / "cache")
    assert lab.is_made(again.variants[0])
    assert lab.make(again.variants[0]).content_hash == found.variants[1].figures.content_hash


def test_what_is_done_is_not_done_again(folder: Path, visits: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = explored(folder)
    done = len(visits)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("this was done already")

    for module, name in ((making, "pack"), (making, "compress"), (laboratory_module, "visit")):
        monkeypatch.setattr(module, name, never)
    monkeypatch.setattr("millirec.frontier.examination.ask", never)
    second, _ = explored(folder, limits=Limits(max_bundle_mb=900))  # other limits cost nothing
    assert len(visits) == done
    assert second.variants[1].figures == first.variants[1].figures


def test_nothing_fits_leaves_the_nearest_and_no_old_choice(folder: Path, visits: list[str]) -> None:
    explored(folder)
    found, place = explored(folder, limits=Limits(max_bundle_mb=0.001))
    assert found.choice.chosen is None
    assert place == folder / "f" / "nearest"
    assert open_bundle(place)
    assert not (folder / "f" / "chosen").exists()
    assert "max_bundle_mb" in found.choice.reason
    explored(folder)
    assert not (folder / "f" / "nearest").exists()


def test_figures_of_one_variant_for_a_search(lab: Laboratory, visits: list[str]) -> None:
    figures = lab.figures(SMALL)
    assert visits == ["small", "small"]
    assert figures.name == "small"
    assert lab.figures(SMALL) == figures
    assert len(visits) == 2
    assert any("Integer" in name or "DynamicQuantizeMatMul" in name for name in figures.kernels)


def test_settings_of_the_engine_are_another_variant_of_the_same_bundle(lab: Laboratory, visits: list[str]) -> None:
    other = Variant(name="other", steps=SMALL.steps, engine=EngineSettings(max_batch=2))
    assert lab.make(other) == lab.make(SMALL)
    assert not lab.is_examined(other)
    lab.figures(SMALL)
    lab.figures(other)
    assert len(visits) == 4


def test_another_way_to_pack_is_another_bundle(lab: Laboratory) -> None:
    other = Variant(name="other", steps=SMALL.steps, pack=PackConfig(name="other"))
    assert not lab.is_made(other)
    assert lab.is_made(SMALL)


def test_a_variant_that_cannot_be_packed_is_named(lab: Laboratory, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ArtifactError("the exported graph differs", "train again")

    monkeypatch.setattr(making, "pack", broken)
    strict = Variant(name="strict", pack=PackConfig(tolerance=1e-12))
    with pytest.raises(ArtifactError, match="variant 'strict': the exported graph differs"):
        lab.make(strict)
    assert not lab.is_made(strict)


def test_a_bundle_that_was_changed_is_refused(folder: Path) -> None:
    lab = opened(folder / "f" / "cache")
    (lab.bundle(SMALL).folder / "tensors.safetensors").write_bytes(b"x")
    with pytest.raises(ArtifactError, match="tensors"):
        lab.bundle(SMALL)


def test_the_answers_are_those_of_a_replay_whoever_is_asked_first(kept: Path) -> None:
    """The store that was fed once is copied: one bundle's questions leave no trace in it."""
    dataset, cache = taught()[1], opened(kept / "again")
    shutil.copytree(kept / "f" / "cache" / "bundles", kept / "again" / "bundles", dirs_exist_ok=True)
    shutil.copytree(kept / "f" / "cache" / "made", kept / "again" / "made", dirs_exist_ok=True)
    for variant in (SMALL, cache.teacher):
        with StateStore.temporary() as store:
            alone = replay(Engine(cache.bundle(variant), store), dataset, TEST)
        found = cache.answers(variant)
        assert np.array_equal(found.ranks, alone.ranks)
        assert np.array_equal(found.top, alone.top[:, :10])


def test_a_sample_asks_whole_users_the_same_each_time(tmp_path: Path) -> None:
    dataset = taught()[1]
    everyone = targets(dataset, TEST)
    some = [Examination(dataset, Measure(users=7, seed=seed), tmp_path / "stores", repeats=False) for seed in (1, 1, 2)]
    for examination in some:
        assert len(np.unique(examination.users)) == 7
        assert np.isin(examination.asked.places, everyone.places).all()
    assert np.array_equal(some[0].asked.places, some[1].asked.places)
    assert not np.array_equal(some[0].asked.places, some[2].asked.places)
    assert some[0].key == some[1].key != some[2].key
    whole = Examination(dataset, Measure(users=10_000), tmp_path / "stores", repeats=False)
    assert np.array_equal(whole.asked.places, everyone.places)


def test_two_runs_do_not_work_in_one_folder(tmp_path: Path) -> None:
    with alone_in(tmp_path), pytest.raises(ConfigError, match="another run works there"), alone_in(tmp_path):
        pass
    with alone_in(tmp_path):
        pass


@pytest.mark.parametrize(
    ("variant", "words"),
    [
        (
            Variant(name="twice", steps=(Quantize(), Quantize())),
            "$.variants[0] (twice): $.steps[1]: the weights are int8",
        ),
        (Variant(name="lost", checkpoint="nowhere"), "$.variants[0] (lost): nowhere"),
    ],
)
def test_recipes_are_checked_before_anything_is_done(variant: Variant, words: str) -> None:
    config = FrontierConfig(teacher="t", variants=(variant,))
    with pytest.raises((ConfigError, ArtifactError)) as error:
        check(config, MODEL, taught()[1], repeats=False)
    assert words in str(error.value)


def test_a_teacher_without_vectors_and_cores_that_are_not_there() -> None:
    dataset = taught()[1]
    with pytest.raises(ConfigError, match=r"\$.teacher is a popularity, which has no user vectors"):
        check(FrontierConfig(teacher="t"), PopularityConfig(), dataset, repeats=False)
    with pytest.raises(ConfigError, match=r"\$.measure.core = 4096"):
        check(FrontierConfig(teacher="t", measure=Measure(core=4096)), MODEL, dataset, repeats=False)


def test_a_checkpoint_of_other_data_is_refused(tmp_path: Path) -> None:
    teacher, dataset = taught()
    teacher.save(tmp_path / "own")
    teacher.with_provenance(msgspec.structs.replace(teacher.provenance, fingerprint="other")).save(tmp_path / "other")
    check(FrontierConfig(teacher="t", variants=(Variant(name="a", checkpoint=str(tmp_path / "own")),)), MODEL, dataset,
          repeats=False)  # fmt: skip
    other = FrontierConfig(teacher="t", variants=(Variant(name="a", checkpoint=str(tmp_path / "other")),))
    with pytest.raises(ArtifactError, match="other data than the teacher"):
        check(other, MODEL, dataset, repeats=False)
