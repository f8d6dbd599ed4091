"""Every recipe of the benchmarks can be read, and can follow a model that it is meant for."""

from pathlib import Path

import pytest

from millirec.compress.config import CompressConfig
from millirec.compress.recipe import Recipe, check
from millirec.config import convert, read_toml
from millirec.frontier.config import FrontierConfig
from millirec.models.config import LinearRecurrentConfig, ModelConfig

RECIPES = sorted((Path(__file__).parents[2] / "benchmarks" / "compression" / "recipes").glob("prune*.toml"))
RECIPES += sorted(RECIPES[0].parent.glob("structured*.toml"))
RECIPES += [
    RECIPES[0].parent / f"{name}.toml" for name in ("product-8-bytes", "product-16-bytes", "factorised", "hashed")
]
BEAUTY = sorted(RECIPES[0].parent.glob("beauty*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_can_follow(path: Path) -> None:
    recipe = convert(read_toml(path), CompressConfig, str(path))
    check(recipe, LinearRecurrentConfig(), 3706)


@pytest.mark.parametrize("path", BEAUTY, ids=lambda path: path.stem)
def test_a_recipe_for_beauty_can_follow_its_teacher(path: Path) -> None:
    model = read_toml(BEAUTY[0].parents[2] / "quality" / "specs" / "beauty-bert4rec" / "sasrec.toml")["model"]
    recipe = convert(read_toml(path), CompressConfig, str(path))
    check(recipe, convert(model, ModelConfig, "model"), 54_542)


@pytest.mark.parametrize(
    ("name", "own", "n_items"),
    [("ml1m", "ml1m/hstu-large.toml", 3706), ("beauty", "beauty-bert4rec/sasrec.toml", 54_542)],
)
def test_every_variant_of_a_frontier_can_follow_its_teacher(name: str, own: str, n_items: int) -> None:
    folder = BEAUTY[0].parents[1]
    model = convert(read_toml(folder.parent / "quality" / "specs" / own)["model"], ModelConfig, "model")
    frontier = convert(read_toml(folder / f"{name}.toml"), FrontierConfig, name)
    for variant in frontier.variants:
        if variant.steps and variant.checkpoint is None:
            check(Recipe(steps=variant.steps), model, n_items)


def test_there_are_some() -> None:
    assert len(RECIPES) >= 6
    assert BEAUTY
