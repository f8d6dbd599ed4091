"""Rankers of what a retrieval found, as a person trains, measures, packs and shrinks them; and the mistakes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from millirec.config import RankerRun, load_run
from millirec.data.dataset import TEST
from millirec.models.checkpoint import Checkpoint
from millirec.models.rankers.checkpoint import RankerCheckpoint
from millirec.train.candidates import candidates_of, retrieval_of
from tests.cli.test_ranker import RUN
from tests.cli.test_way import millirec

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SPLIT = '[split]\nkind = "global-time"\nvalidation = 0.3\ntest = 0.2\n[machine]\nthreads = 1\n'
DATA = RUN.split("[label]")[0].replace('name = "NAME"', "") + SPLIT
MODEL = '[model]\nkind = "gru4rec"\nembedding_dim = 8\nhidden_dim = 8\nmax_length = 10\n[train]\nepochs = 1\n'
RANKER = """
retrieval = "FOLDER/runs/model/checkpoint"
[candidates]
candidates = 20
negatives = 5
[label]
positive_above = 3
[ranker]
kind = "fm"
embedding_dim = 4
[train]
epochs = 6
batch_size = 64
learning_rate = 0.03
[[features]]
kind = "categorical"
name = "user"
source = "user"
[[features]]
kind = "categorical"
name = "shop"
source = "item.shop"
[[features]]
kind = "numeric"
name = "rank"
source = "context.retrieval_rank"
"""


def written(folder: Path, name: str, text: str, changes: dict[str, str] | None = None) -> Path:
    head, *rest = text.partition("[")
    text = f'out = "FOLDER/runs"\nname = "{name}"\n{head}{DATA}{"".join(rest)}'.replace("FOLDER", str(folder))
    for old, new in (changes or {}).items():
        assert old in text
        text = text.replace(old, new)
    path = folder / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """People with even numbers take things of shop a rather, the others of shop b; a model and a ranker of it."""
    folder = tmp_path_factory.mktemp("candidates")
    rng, rows = np.random.default_rng(0), []
    for user in range(40):
        likes = np.arange(60) % 2 == user % 2
        items = np.argsort(rng.random(60) - 0.6 * likes)[:25]
        times = 1_700_000_000 + 60 * np.sort(rng.choice(100_000, 25, replace=False))
        rows += [
            (int(time), f"u{user},i{item},{time},{rng.integers(1, 6)}") for item, time in zip(items, times, strict=True)
        ]
    lines = [line for _, line in sorted(rows)]
    (folder / "events.csv").write_text("\n".join(["user,item,time,click", *lines]))
    (folder / "items.csv").write_text("item,shop\n" + "\n".join(f"i{i},{'ab'[i % 2]}" for i in range(60)))
    millirec("train", "-c", written(folder, "model", MODEL))
    told = millirec("train", "-c", written(folder, "ranker", RANKER)).stderr
    assert f"millirec pack {folder}/runs/model/checkpoint --ranker" in " ".join(told.split())
    return folder


def test_the_examples_fit_each_other() -> None:
    first, second = (load_run(EXAMPLES / f"{name}-stage.toml") for name in ("first", "second"))
    assert isinstance(second, RankerRun)
    assert (first.data, first.split) == (second.data, second.split)
    assert second.retrieval == f"{first.out}/{first.name}/checkpoint"


def test_it_learns_from_candidates_and_is_measured_on_those_of_the_test_part(folder: Path) -> None:
    ranker = RankerCheckpoint.load(folder / "runs/ranker/checkpoint")
    asked = candidates_of(ranker)
    assert asked is not None
    assert (asked.candidates, asked.negatives) == (20, 5)
    assert retrieval_of(ranker) == Checkpoint.load(folder / "runs/model/checkpoint").content_hash
    metrics = json.loads((folder / "runs/ranker/metrics.json").read_text())
    test = metrics["test"]
    assert 0.1 < test["base_rate"] < 0.3  # one of six, where the list holds what came
    assert test["figures"]["auc"]["value"] > 0.6  # it learns who likes which shop
    measured = json.loads(millirec("evaluate", folder / "runs/ranker/checkpoint", "--json").stdout)[0]
    assert measured["figures"] == test["figures"]
    assert measured["n_rows"] == test["n_rows"]
    assert str(TEST) not in metrics["validation"]


def test_it_orders_what_the_model_finds(folder: Path) -> None:
    model, ranker = folder / "runs/model/checkpoint", folder / "runs/ranker/checkpoint"
    millirec("pack", model, "--ranker", ranker, "--pre-ranker", ranker, "-o", folder / "both")
    millirec("pack", model, "-o", folder / "alone")
    options = ("--json",)
    one, other = (json.loads(millirec("evaluate", folder / name, *options).stdout) for name in ("both", "alone"))
    figures = [found[0]["figures"]["ndcg@10"]["value"] for found in (one, other)]
    assert figures[0] > figures[1]
    recipe = folder / "quantise.toml"
    recipe.write_text('[[steps]]\nkind = "quantize"\n')
    over = millirec("compress", ranker, "-c", recipe, "-o", folder / "both", "--force", code=2)
    assert "is no ranker" in over.stderr
    for asked in (("pack", folder / "both", "-o", folder / "no"), ("features", folder / "both")):
        assert "is a bundle, not a checkpoint" in millirec(*asked, code=2).stderr


def test_rankers_of_the_same_candidates_are_compared(folder: Path) -> None:
    millirec("train", "-c", written(folder, "linear", RANKER, {'kind = "fm"\nembedding_dim = 4': 'kind = "lr"'}))
    rankers = [folder / f"runs/{name}/checkpoint" for name in ("ranker", "linear")]
    gap = json.loads(millirec("evaluate", *rankers, "--compare", "--json").stdout)["differences"][0]
    assert gap["low"] <= gap["difference"] <= gap["high"]
    millirec("train", "-c", written(folder, "fewer", RANKER, {"negatives = 5": "negatives = 3"}))
    done = millirec("evaluate", rankers[0], folder / "runs/fewer/checkpoint", "--compare", code=2)
    assert "cannot be compared" in done.stderr


def test_features_and_recipes_ask_the_model_again(folder: Path) -> None:
    checkpoint = folder / "runs/ranker/checkpoint"
    report = json.loads(millirec("features", checkpoint, "--json").stdout)
    assert {worth["name"] for worth in report["features"]} == {"user", "shop", "rank"}
    recipe = folder / "recipe.toml"
    recipe.write_text('[[steps]]\nkind = "distil"\nstudent = { kind = "lr" }\n')
    made = json.loads(millirec("compress", checkpoint, "-c", recipe, "-o", folder / "small", "--json").stdout)
    assert made["metrics"]["auc"] > 0.5
    assert candidates_of(RankerCheckpoint.load(folder / "small")) is not None


def test_a_model_that_moved_is_found_by_the_config(folder: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(folder / "runs", tmp_path / "runs")) / "ranker/checkpoint"
    head = json.loads((moved / "ranker.json").read_text())
    head["provenance"]["retrieval"] = "nowhere"
    (moved / "ranker.json").write_text(json.dumps(head))
    assert "nowhere" in millirec("evaluate", moved, code=2).stderr
    config = written(folder, "ranker", RANKER)
    assert json.loads(millirec("evaluate", moved, "-c", config, "--json").stdout)[0]["n_rows"]
    other = written(folder, "other", MODEL, {"threads = 1": "threads = 1\nseed = 7"})
    millirec("train", "-c", other)
    wrong = written(folder, "wrong", RANKER, {"runs/model": "runs/other"})
    assert "is not the model whose candidates" in millirec("evaluate", moved, "-c", wrong, code=2).stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({'retrieval = "FOLDER/runs/model/checkpoint"\n': ""}, "$.candidates without $.retrieval"),
        ({"validation = 0.3": "validation = 0.2"}, "trained with other split"),
        ({'kind = "global-time"': 'kind = "random-rows"'}, '$.split.kind = "global-time"'),
        ({"runs/model": "runs/nowhere"}, "not a readable checkpoint"),
        ({"runs/model": "runs/ranker"}, "holds a ranker, not a model"),
        (
            {"[ranker]": '[[label.tasks]]\nkind = "value"\nname = "five"\npositive_above = 4\n[ranker]'},
            "$.label.tasks with $.retrieval",
        ),
        ({"[train]": '[train]\npropensities = "context.p"'}, "$.train.propensities with $.retrieval"),
    ],
)
def test_what_cannot_work_is_refused(folder: Path, changes: dict[str, str], message: str) -> None:
    changes = {old.replace("FOLDER", str(folder)): new for old, new in changes.items()}
    done = millirec("train", "-c", written(folder, "bad", RANKER, changes), code=2)
    assert message in " ".join(done.stderr.split())
    assert not (folder / "runs/bad/checkpoint").exists()
