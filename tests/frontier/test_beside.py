"""Variants with counts beside their network: made, kept by what decides them, told, and refused where none fit."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from millirec.compress.workshop import Workshop
from millirec.data.dataset import TEST
from millirec.data.errors import ArtifactError, ConfigError
from millirec.engine.engine import Engine
from millirec.engine.state import StateStore
from millirec.frontier.beside import fitted_beside
from millirec.frontier.check import check
from millirec.frontier.config import FrontierConfig, Variant, VariantRanker
from millirec.frontier.laboratory import Laboratory
from millirec.frontier.replay import replay
from millirec.frontier.report import _counts
from millirec.models.config import EASEConfig, MarkovConfig
from millirec.train.fit import fit
from millirec.train.journal import Silent
from millirec.train.machine import Machine
from millirec.train.trainer import TrainConfig
from tests.frontier.laboratories import MODEL, QUICK, taught


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Baselines of the teacher's data: one that counts pairs, one that does not."""
    folder = tmp_path_factory.mktemp("shelf")
    for name, config in (("markov", MarkovConfig()), ("ease", EASEConfig())):
        fit(taught()[1], config, TrainConfig(), Machine(threads=1), Silent()).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    teacher, dataset = taught()
    workshop = Workshop(read=lambda: dataset, repeats=False)
    lab = Laboratory(teacher, workshop, QUICK, tmp_path_factory.mktemp("lab") / "cache")
    yield lab
    lab.close()


def test_a_variant_is_packed_with_what_was_counted(lab: Laboratory, shelf: Path) -> None:
    variant = Variant(name="counted", beside=(str(shelf / "markov"),))
    made, plain = lab.make(variant), lab.make(lab.teacher)
    assert made.content_hash != plain.content_hash
    assert plain.counts == ()
    [entry] = made.counts
    assert entry.model["kind"] == "markov"
    found = lab.answers(variant)
    with StateStore.temporary() as store:
        alone = replay(Engine(lab.bundle(variant), store), taught()[1], TEST)
    assert found.ranks.tolist() == alone.ranks.tolist()
    assert f"<li>markov: weight {entry.gain.weight:g}" in _counts(made.counts)
    assert _counts(()) == ""


def test_other_counts_are_another_bundle(lab: Laboratory, shelf: Path, tmp_path: Path) -> None:
    fit(taught()[1], MarkovConfig(shrink=9.0), TrainConfig(), Machine(threads=1), Silent()).save(tmp_path / "other")
    first, second = (
        lab.make(Variant(name="counted", beside=(str(folder),))) for folder in (shelf / "markov", tmp_path / "other")
    )
    assert first.folder != second.folder


def test_the_config_of_a_variant_keeps_them(shelf: Path) -> None:
    variant = Variant(name="counted", beside=(str(shelf / "markov"),))
    [plain] = FrontierConfig(teacher="t", variants=(variant,)).only("counted")["variants"]
    assert plain == {"name": "counted", "checkpoint": None, "beside": (str(shelf / "markov"),)}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"beside": ("ease",)}, "has no votes of its own"),
        ({"beside": ("nowhere",)}, "nowhere"),
        ({"beside": ("markov",), "ranker": VariantRanker()}, "counts and a ranker"),
    ],
)
def test_mistakes_are_refused_before_anything_is_done(shelf: Path, more: dict[str, Any], words: str) -> None:
    more = more | {"beside": tuple(str(shelf / name) for name in more["beside"])}
    config = FrontierConfig(teacher="t", variants=(Variant(name="v", **more),))
    with pytest.raises((ConfigError, ArtifactError)) as error:
        check(config, MODEL, taught()[1], repeats=False)
    assert str(error.value).startswith("$.variants[0] (v)")
    assert words in str(error.value)


def test_counts_of_other_data_are_refused(shelf: Path, tmp_path: Path) -> None:
    teacher, dataset = taught()
    other = fit(dataset, MarkovConfig(), TrainConfig(), Machine(threads=1), Silent())
    other = other.with_provenance(msgspec.structs.replace(other.provenance, protocol="another"))
    with pytest.raises(ArtifactError, match="of another split"):
        fitted_beside(teacher, [other], dataset, repeats=False)
    other.save(tmp_path / "other")
    config = FrontierConfig(teacher="t", variants=(Variant(name="v", beside=(str(tmp_path / "other"),)),))
    with pytest.raises(ArtifactError, match="other split"):
        check(config, MODEL, dataset, repeats=False)
