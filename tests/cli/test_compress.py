"""`millirec compress` from the command line: a recipe in, a checkpoint and a report out; nothing on a mistake."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from millirec.cli.main import app
from millirec.data.errors import ArtifactError, ConfigError, MillirecError
from millirec.frontier.launch import ALLOCATOR
from millirec.models.checkpoint import Checkpoint
from tests.bundles import untrained
from tests.circle import write_run

RUN = """
[model]
kind = "sasrec"
embedding_dim = 8
max_length = 8
[train]
epochs = 2
batch_size = 8
"""
HALF = '[[steps]]\nkind = "prune"\nsparsity = 0.5\n'
TUNED = """
name = "half the network"
[machine]
threads = 1
[[steps]]
kind = "prune-structure"
keep_feed_forward = 0.5
keep_heads = 1
importance = "taylor"
[steps.train]
epochs = 2
batch_size = 8
[[steps]]
kind = "prune"
pattern = "2:4"
include = ["linear"]
"""


def invoke(*arguments: object) -> Result:
    """In this process, which must not start itself again with another allocator."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={ALLOCATOR: "kept"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A csv of people who walk a circle of items, and a checkpoint that has seen them."""
    folder = tmp_path_factory.mktemp("compress")
    write_run(folder, RUN)
    done = invoke("train", "-c", folder / "run.toml")
    assert done.exit_code == 0, done.output
    return folder


def compress(folder: Path, recipe: str, out: Path, *more: object) -> Result:
    (out.parent / "recipe.toml").write_text(recipe)
    return invoke("compress", folder / "runs/circle/checkpoint", "-c", out.parent / "recipe.toml", "-o", out, *more)


def test_a_recipe_is_followed(folder: Path, tmp_path: Path) -> None:
    done = compress(folder, TUNED, tmp_path / "small", "--json")
    assert done.exit_code == 0, done.output
    told: dict[str, Any] = json.loads(done.stdout)
    made = Checkpoint.load(tmp_path / "small")
    assert [step.name for step in made.lineage] == ["train", "prune-structure", "prune"]
    assert made.config.heads == 1  # type: ignore[union-attr]
    assert told["after"]["numbers"] < told["before"]["numbers"]
    assert told["after"]["bytes"] < told["before"]["bytes"]
    assert told["after"]["multiply_adds"] < told["before"]["multiply_adds"]
    assert told["zeros"]["blocks.0.query.weight"] == 0.5
    assert any("no speed" in remark for remark in told["remarks"])
    assert {path.name for path in tmp_path.iterdir()} == {"small", "recipe.toml"}  # no progress is left


def test_the_table_names_the_zeros(folder: Path, tmp_path: Path) -> None:
    done = compress(folder, HALF, tmp_path / "small")
    assert done.exit_code == 0, done.output
    assert "bring no speed" in " ".join(done.stdout.split())
    assert "blocks.0.feed_in.weight" in done.stdout


def test_without_a_step_that_needs_data_none_is_read(tmp_path: Path) -> None:
    untrained(12).save(tmp_path / "c")  # it does not say where its data is
    (tmp_path / "recipe.toml").write_text(HALF)
    done = invoke("compress", tmp_path / "c", "-c", tmp_path / "recipe.toml", "-o", tmp_path / "small")
    assert done.exit_code == 0, done.output
    (tmp_path / "recipe.toml").write_text(TUNED)
    done = invoke("compress", tmp_path / "c", "-c", tmp_path / "recipe.toml", "-o", tmp_path / "other")
    assert isinstance(done.exception, ConfigError)
    assert "does not say where its data is" in str(done.exception)
    assert "[data]" in str(done.exception)


def test_data_that_moved_are_found_by_the_recipe(folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    (moved / "events.csv").rename(moved / "log.csv")
    source = 'kind = "table"\ncolumns = { user = "who", item = "what", time = "when" }'
    recipe = f'{TUNED}[data]\npath = "{moved}/log.csv"\n{source}\n'
    assert compress(moved, recipe, tmp_path / "small").exit_code == 0
    lines = (moved / "log.csv").read_text().splitlines()
    (moved / "log.csv").write_text("\n".join(lines[:-1]) + "\n")
    done = compress(moved, recipe, tmp_path / "other")
    assert isinstance(done.exception, ArtifactError)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("recipe", "named"),
    [
        ("", "steps"),
        ("steps = []", "$.steps is empty"),
        (HALF.replace("0.5", "1.5"), "sparsity = 1.5"),
        (HALF.replace("sparsity", "sparsness"), "sparsness"),
        (HALF.replace("prune", "prun"), "prun"),
        (HALF + '[[steps]]\nkind = "prune-structure"\nkeep_heads = 4\n', "$.steps[1]: keep_heads = 4"),
        (HALF + '[[steps]]\nkind = "prune-structure"\nkeep_hidden = 4\n', "$.steps[1]: keep_hidden"),
        (HALF + "[machine]\ndevice = 'abacus'\n", "$.machine.device"),
        ("[[steps]", "not valid TOML"),
    ],
)
def test_a_bad_recipe_is_refused_before_anything_is_written(
    folder: Path, tmp_path: Path, recipe: str, named: str
) -> None:
    done = compress(folder, recipe, tmp_path / "small")
    assert isinstance(done.exception, MillirecError)
    assert named in str(done.exception)
    assert {path.name for path in tmp_path.iterdir()} == {"recipe.toml"}


def test_only_checkpoints_are_replaced_and_only_when_told(folder: Path, tmp_path: Path) -> None:
    assert compress(folder, HALF, tmp_path / "small").exit_code == 0
    assert isinstance(compress(folder, HALF, tmp_path / "small").exception, ConfigError)
    assert compress(folder, HALF.replace("0.5", "0.8"), tmp_path / "small", "--force").exit_code == 0
    assert Checkpoint.load(tmp_path / "small").lineage[-1].settings["sparsity"] == 0.8
    (tmp_path / "photos").mkdir()
    assert isinstance(compress(folder, HALF, tmp_path / "photos", "--force").exception, ArtifactError)
    own = folder / "runs/circle/checkpoint"
    done = invoke("compress", own, "-c", tmp_path / "recipe.toml", "-o", own, "--force")
    assert isinstance(done.exception, ConfigError)


def test_a_checkpoint_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(HALF)
    done = invoke("compress", tmp_path / "none", "-c", tmp_path / "recipe.toml", "-o", tmp_path / "small")
    assert isinstance(done.exception, ArtifactError)
    assert not (tmp_path / "small").exists()
