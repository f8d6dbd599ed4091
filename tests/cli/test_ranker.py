"""Rankers as a person trains and measures them, and the mistakes on the way."""

import json
from pathlib import Path

import numpy as np
import pytest

from millirec.config import RankerRun, dumps, load, load_run
from millirec.data.errors import ConfigError
from tests.cli.test_way import millirec

RUN = """
name = "NAME"
[data]
kind = "table"
path = "FOLDER/events.csv"
columns = { user = "user", item = "item", time = "time", value = "click" }
[data.items]
path = "FOLDER/items.csv"
id = "item"
features = { shop = "categorical" }
[label]
positive_above = 0
[split]
kind = "random-rows"
[ranker]
kind = "fm"
embedding_dim = 4
[train]
epochs = 12
batch_size = 64
learning_rate = 0.03
patience = 12
[machine]
threads = 1
[[features]]
kind = "categorical"
name = "user"
source = "user"
[[features]]
kind = "categorical"
name = "shop"
source = "item.shop"
[[features]]
kind = "counter"
name = "rate"
by = ["user", "item.shop"]
"""


def written(folder: Path, name: str = "clicks", changes: dict[str, str] | None = None) -> Path:
    text = RUN.replace("NAME", name).replace("FOLDER", str(folder))
    for old, new in (changes or {}).items():
        assert old in text
        text = text.replace(old, new)
    path = folder / f"{name}.toml"
    path.write_text(f'out = "{folder}/runs"\n' + text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """People with even numbers click in shop a, the others in shop b; a run of a ranker on it."""
    folder = tmp_path_factory.mktemp("clicks")
    rng = np.random.default_rng(0)
    lines = ["user,item,time,click"]
    for i in range(1500):
        user, item = int(rng.integers(20)), int(rng.integers(10))
        lines.append(f"u{user},i{item},{1_700_000_000 + 60 * i},{int(user % 2 == item % 2)}")
    (folder / "events.csv").write_text("\n".join(lines))
    (folder / "items.csv").write_text("item,shop\n" + "\n".join(f"i{i},{'ab'[i % 2]}" for i in range(10)))
    millirec("train", "-c", written(folder))
    return folder


def test_training_leaves_a_ranker_its_figures_and_its_config(folder: Path) -> None:
    run = folder / "runs" / "clicks"
    assert {"checkpoint", "metrics.json", "run.toml", "progress"} <= {path.name for path in run.iterdir()}
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test"]["figures"]["auc"]["value"] > 0.95
    assert load_run(run / "run.toml") == load_run(folder / "clicks.toml")


def test_a_ranker_is_measured_as_it_was_when_trained(folder: Path) -> None:
    metrics = json.loads((folder / "runs/clicks/metrics.json").read_text())
    (result,) = json.loads(millirec("evaluate", folder / "runs/clicks/checkpoint", "--json").stdout)
    assert result == metrics["test"]
    text = millirec("evaluate", folder / "runs/clicks/checkpoint", "--part", "validation").stdout
    assert "validation: random-rows" in text


def test_rankers_are_compared_on_the_same_rows(folder: Path) -> None:
    millirec("train", "-c", written(folder, "linear", {'"fm"': '"lr"', "embedding_dim = 4": ""}), "--force")
    paths = folder / "runs/clicks/checkpoint", folder / "runs/linear/checkpoint"
    result = json.loads(millirec("evaluate", *paths, "--compare", "--json").stdout)
    (gap,) = result["differences"]
    fm, lr = (e["figures"]["log_loss"]["value"] for e in result["evaluations"])
    assert gap["difference"] == pytest.approx(fm - lr)
    assert gap["low"] <= gap["difference"] <= gap["high"]
    assert "paired differences of log loss" in millirec("evaluate", *paths, "--compare").stdout


def test_a_ranker_is_no_model(folder: Path) -> None:
    done = millirec("pack", folder / "runs/clicks/checkpoint", "-o", folder / "bundle", code=2)
    assert "holds a ranker, not a model" in done.stderr


def sequence_run(folder: Path) -> Path:
    """The same log for a sequence model."""
    head = RUN.split("[label]")[0].replace("NAME", "sequences").replace("FOLDER", str(folder))
    model = '[split]\nkind = "leave-last-out"\n[model]\nkind = "sasrec"\nembedding_dim = 8\nmax_length = 10\n'
    path = folder / "sequences.toml"
    rest = "[train]\nepochs = 1\nrepeats = true\n[machine]\nthreads = 1\n"
    path.write_text(f'out = "{folder}/runs"\n{head}{model}{rest}')
    return path


@pytest.mark.timeout(600)
def test_a_ranker_is_packed_beside_a_model_and_serves(folder: Path) -> None:
    millirec("train", "-c", sequence_run(folder))
    model, ranker = folder / "runs/sequences/checkpoint", folder / "runs/clicks/checkpoint"
    packed = millirec("pack", model, "--ranker", ranker, "--ranker-weights", "int8", "-o", folder / "ranked", "--json")
    told = json.loads(packed.stdout)["ranker"]
    assert (told["model"]["kind"], told["weights"], told["n_events"]) == ("fm", "int8", 1200)
    shown = millirec("recommend", folder / "ranked", "--items", "i1,i2", "-k", "3", "--trace", "--json").stdout
    answer = json.loads(shown)
    assert [stage["name"] for stage in answer["stages"]][-3:] == ["features", "ranker", "top-k"]
    pre = ["--ranker", ranker, "--pre-ranker", ranker]
    both = json.loads(millirec("pack", model, *pre, "-o", folder / "both", "--json").stdout)
    assert both["pre_ranker"] == both["ranker"]
    assert [stage["kind"] for stage in both["cascade"]["scorers"]] == ["inner-product", "pre-ranker", "ranker"]
    everything = millirec("pack", model, "--ranker", ranker, "--facts", "all", "-o", folder / "all", "--json")
    assert json.loads(everything.stdout)["ranker"]["n_events"] == 1500


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ranker-weights", "int4"], "--ranker-weights int4"),
        (["--facts", "some"], "--facts some"),
    ],
)
def test_options_of_packing_that_cannot_be(folder: Path, options: list[str], message: str) -> None:
    ranker = folder / "runs/clicks/checkpoint"
    done = millirec("pack", ranker, "--ranker", ranker, "-o", folder / "no", *options, code=2)
    assert message in done.stderr
    assert not (folder / "no").exists()


def test_a_pre_ranker_wants_a_ranker(folder: Path) -> None:
    ranker = folder / "runs/clicks/checkpoint"
    done = millirec("pack", ranker, "--pre-ranker", ranker, "-o", folder / "no", code=2)
    assert "--pre-ranker without --ranker" in done.stderr


def test_its_log_can_be_inspected(folder: Path) -> None:
    assert "1,500" in millirec("data", "inspect", "-c", folder / "clicks.toml").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ensemble", "equal"], "--ensemble of rankers"),
        (["--compare"], "--compare with one artifact"),
        (["--part", "train"], "--part train"),
    ],
)
def test_what_rankers_cannot_do_is_said(folder: Path, arguments: list[str], message: str) -> None:
    done = millirec("evaluate", folder / "runs/clicks/checkpoint", *arguments, code=2)
    assert message in done.stderr


def test_other_data_is_refused(folder: Path, tmp_path: Path) -> None:
    lines = (folder / "events.csv").read_text().splitlines()
    (tmp_path / "events.csv").write_text("\n".join([*lines[:-1], lines[-1].replace("u", "u1")]))
    (tmp_path / "items.csv").write_text((folder / "items.csv").read_text())
    done = millirec("evaluate", folder / "runs/clicks/checkpoint", "-c", written(tmp_path), code=2)
    assert "not what the ranker was trained on" in done.stderr


def test_a_damaged_ranker_is_refused(folder: Path, tmp_path: Path) -> None:
    for name in ("ranker.json", "parameters.safetensors"):
        (tmp_path / name).write_bytes((folder / "runs/clicks/checkpoint" / name).read_bytes())
    (tmp_path / "ranker.json").write_text("{}")
    assert "schema None" in millirec("evaluate", tmp_path, code=2).stderr
    (tmp_path / "ranker.json").write_text('{"schema": 1}')
    assert "not a readable ranker" in millirec("evaluate", tmp_path, code=2).stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({'"fm"': '"fmm"'}, r"fmm.*\$\.ranker\.kind"),
        ({"embedding_dim = 4": "width = 4"}, r"unknown field `width`.*\$\.ranker"),
        ({'"fm"': '"din"'}, r"\$\.ranker\.kind = 'din': no feature is a sequence"),
        ({'"user"\nsource = "user"': '"shop"\nsource = "user"'}, r"'shop' stands twice"),
        ({'"item.shop"\n[[': '"films"\n[['}, r"\$\.features\.shop\.source = 'films'"),
        ({'"random-rows"': '"leave-last-out"'}, r"leave-last-out"),
        ({"positive_above = 0": ""}, r"positive_above"),
        ({'kind = "random-rows"': 'kind = "random-rows"\ntest = 2.0'}, r"\$\.split"),
        ({"[machine]": '[model]\nkind = "sasrec"\n[machine]'}, r"both \[model\] and \[ranker\]"),
    ],
)
def test_a_config_that_cannot_work_names_its_field(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_run(written(tmp_path, changes=changes))


def test_a_ranker_s_config_is_no_model_s(tmp_path: Path) -> None:
    path = written(tmp_path)
    run = load_run(path)
    assert isinstance(run, RankerRun)
    (tmp_path / "again.toml").write_text(dumps(run))
    assert load_run(tmp_path / "again.toml") == run
    with pytest.raises(ConfigError, match=r"has a \[ranker\]"):
        load(path)


def test_the_example_can_be_read() -> None:
    path = Path(__file__).resolve().parents[2] / "examples" / "ctr.toml"
    run = load_run(path)
    assert isinstance(run, RankerRun)
    assert [field.name for field in run.features] == ["gender", "age", "occupation", "zip", "genres", "year"]


def test_what_features_add_is_told(folder: Path) -> None:
    report = json.loads(millirec("features", folder / "runs/clicks/checkpoint", "--json").stdout)
    assert report["features"][0]["name"] == "rate"
    assert report["features"][0]["log_loss"]["low"] > 0
    text = millirec("features", folder / "runs/clicks/checkpoint", "--part", "test", "--threshold", "9").stdout
    assert "test: 150 rows" in text
    assert text.count("can go") == 3


def test_features_are_left_out_in_earnest(folder: Path) -> None:
    """The rate says what person and shop say together, and without all three nothing is left."""
    ranker = folder / "runs/clicks/checkpoint"
    groups = ["--group", "person=user", "--group", "all that tells=user,rate"]
    done = millirec("features", ranker, "--retrain", "--seeds", "1", *groups, "--json")
    report = json.loads(done.stdout)
    assert report["features"][0]["name"] == "rate"
    first, second = report["retrained"]["groups"]
    assert (first["name"], first["features"]) == ("all that tells", ["user", "rate"])
    assert first["auc"]["low"] > 0.1
    assert abs(second["auc"]["value"]) < 0.1
    assert "2 trainings: some" in done.stderr
    assert "without person, seed 42: AUC " in done.stderr
    assert "(2 of 2, 0 seconds left)" in done.stderr
    text = millirec("features", ranker, "--retrain", "--seeds", "1", "-c", folder / "clicks.toml").stdout
    assert "retrained with seeds 42" in text
    assert text.count(" shop ") >= 2


def test_a_ranker_is_compressed_by_a_recipe_of_its_own(folder: Path) -> None:
    recipe, small = folder / "small.toml", folder / "small"
    recipe.write_text('[[steps]]\nkind = "features"\nleave_out = ["user"]\n[[steps]]\nkind = "quantize"\n')
    checkpoint = folder / "runs/clicks/checkpoint"
    told = json.loads(millirec("compress", checkpoint, "-c", recipe, "-o", small, "--json").stdout)
    assert (told["before"]["features"], told["after"]["features"]) == (3, 2)
    assert told["after"]["bytes"] < told["before"]["bytes"]
    (result,) = json.loads(millirec("evaluate", small, "--json").stdout)
    assert result["figures"]["auc"]["value"] > 0.9
    assert "holds a ranker" in millirec("compress", checkpoint, "-c", recipe, "-o", small, code=2).stderr
    text = millirec("compress", checkpoint, "-c", recipe, "-o", small, "--force").stdout
    assert "bytes" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--part", "train"], "--part train"),
        (["--repeats", "0"], "--repeats 0"),
        (["-c", "none.toml"], "none.toml"),
        (["--retrain", "--seeds", "0"], "--seeds 0"),
        (["--group", "a=user"], "--group without --retrain"),
        (["--retrain", "--group", "user"], "--group 'user'"),
        (["--retrain", "--group", "a=user", "--group", "a=shop"], "--group a stands twice"),
        (["--retrain", "--group", "a=film"], "no features ['film']"),
    ],
)
def test_features_asked_for_wrongly(folder: Path, arguments: list[str], message: str) -> None:
    assert message in millirec("features", folder / "runs/clicks/checkpoint", *arguments, code=2).stderr
