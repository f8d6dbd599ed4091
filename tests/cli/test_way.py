"""The whole way as a person goes it: train, evaluate, pack, evaluate, recommend; and the mistakes on it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from millirec.cli.evaluate import evaluate
from millirec.data.errors import ConfigError
from tests.circle import write_run

RUN = """
[model]
kind = "sasrec"
embedding_dim = 16
blocks = 1
heads = 1
max_length = 8
[train]
epochs = 25
batch_size = 8
learning_rate = 0.01
"""


def millirec(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "millirec", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "200"},
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A csv of people who walk a circle of items, a config, and a finished run with its bundle."""
    folder = tmp_path_factory.mktemp("way")
    write_run(folder, RUN)
    millirec("train", "-c", folder / "run.toml")
    millirec("pack", folder / "runs/circle/checkpoint", "-o", folder / "bundle")
    return folder


def test_training_leaves_checkpoint_metrics_and_config(folder: Path) -> None:
    run = folder / "runs" / "circle"
    assert {"checkpoint", "metrics.json", "run.toml", "tensorboard"} <= {path.name for path in run.iterdir()}
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test"]["figures"]["ndcg@10"]["value"] > 0.8


def test_checkpoint_and_bundle_measure_the_same(folder: Path) -> None:
    figures = []
    for artifact in (folder / "runs/circle/checkpoint", folder / "bundle"):
        own = json.loads(millirec("evaluate", artifact, "--json").stdout)[0]
        assert own["protocol"].startswith("leave-last-out")
        figures.append(own["figures"]["ndcg@10"]["value"])
    assert figures[0] == pytest.approx(figures[1], abs=1e-6)


def test_a_protocol_that_would_leak_is_refused(folder: Path) -> None:
    done = millirec("evaluate", folder / "runs/circle/checkpoint")
    assert "refused" in done.stderr


def test_both_protocols_when_the_model_saw_no_future(folder: Path) -> None:
    text = (folder / "run.toml").read_text().replace('"circle"', '"timed"')
    (folder / "timed.toml").write_text(text + '[split]\nkind = "global-time"\nvalidation = 0.15\ntest = 0.15\n')
    millirec("train", "-c", folder / "timed.toml")
    results = json.loads(millirec("evaluate", folder / "runs/timed/checkpoint", "--json").stdout)
    assert [result["protocol"].split(" ")[0] for result in results] == ["global-time", "leave-last-out"]


def test_a_comparison_pairs_the_targets_and_prints_popularity(folder: Path) -> None:
    artifacts = (folder / "runs/circle/checkpoint", folder / "bundle", weak(folder))
    done = millirec("evaluate", *artifacts, "--compare", "--json")
    (result,) = json.loads(done.stdout)
    found = {(f["a"], f["b"], f["metric"]): f for f in result["differences"]}
    model, bundle, popular = map(str, artifacts)
    assert len(found) == 9
    assert found[model, bundle, "ndcg@10"]["difference"] == pytest.approx(0, abs=1e-6)
    assert found[model, popular, "ndcg@10"]["low"] > 0
    assert found[model, popular, "ndcg@10"]["p_value"] < 0.01
    first, _, last = result["evaluations"]
    assert first["popularity"] == last["figures"]
    text = millirec("evaluate", *artifacts, "--compare").stdout
    assert "popularity" in text
    assert "p (Holm)" in text


def weak(folder: Path) -> Path:
    """A popularity model of the same run."""
    text = (folder / "run.toml").read_text().replace('"circle"', '"weak"')
    (folder / "weak.toml").write_text(text[: text.index("[model]")] + '[model]\nkind = "popularity"\n')
    millirec("train", "-c", folder / "weak.toml", "--force")
    return folder / "runs/weak/checkpoint"


def test_an_ensemble_stands_beside_its_members(folder: Path) -> None:
    text = (folder / "run.toml").read_text().replace('"circle"', '"brief"').replace("epochs = 25", "epochs = 1")
    (folder / "brief.toml").write_text(text)
    millirec("train", "-c", folder / "brief.toml", "--force")
    members = (folder / "runs/circle/checkpoint", folder / "runs/brief/checkpoint")
    (result,) = json.loads(millirec("evaluate", *members, "--ensemble", "fitted", "--json").stdout)
    assert result["artifacts"][:2] == [str(member) for member in members]
    *words, first, second = result["artifacts"][2].split()
    assert words == ["ensemble,", "fitted", "weights"]
    assert float(first) > 0.9
    assert float(first) + float(second) == pytest.approx(1, abs=2e-3)
    strong, weaker, mixed = (each["figures"]["ndcg@10"]["value"] for each in result["evaluations"])
    assert mixed > weaker
    assert mixed == pytest.approx(strong, abs=0.02)
    assert len(result["differences"]) == 9
    bundle = folder / "stacked"
    millirec("pack", *members, "-o", bundle, "--weights", "stacked")
    (fused,) = json.loads(millirec("evaluate", *members, "--ensemble", "stacked", "--json").stdout)
    (served,) = json.loads(millirec("evaluate", bundle, "--json").stdout)
    assert fused["artifacts"][2].startswith("ensemble, stacked weights")
    assert fused["evaluations"][2]["figures"]["ndcg@10"] == served["figures"]["ndcg@10"]


def test_an_ensemble_that_cannot_be_is_refused(folder: Path) -> None:
    member = folder / "runs/circle/checkpoint"
    for artifacts, ensemble, part, says in (
        ([member], "equal", "test", "two or more"),
        ([member, member], "some", "test", "use one of equal, fitted, sum"),
        ([member, folder / "bundle"], "equal", "test", "gives lists only"),
        ([member, member], "fitted", "validation", "measure the test part"),
        ([member, member], "stacked", "validation", "measure the test part"),
    ):
        with pytest.raises(ConfigError, match=says):
            evaluate(artifacts, ensemble=ensemble, part=part)


def test_one_artifact_is_no_comparison(folder: Path) -> None:
    done = millirec("evaluate", folder / "runs/circle/checkpoint", "--compare", code=2)
    assert "two or more" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_warm_start_goes_on_and_can_be_measured(folder: Path) -> None:
    """A year later: the same people, their rows in another order, and an item that nobody knew."""
    header, *rows = (folder / "events.csv").read_text().split()
    split_rows = [row.split(",") for row in reversed(rows)]
    later = [f"u{user},i13,2000000000" for user in range(19, 0, -1)]
    later += [f"{user},{item},{int(time) + 10**9}" for user, item, time in split_rows]
    (folder / "later.csv").write_text("\n".join([header, *later]) + "\n")
    text = (folder / "run.toml").read_text().replace("events.csv", "later.csv").replace("epochs = 25", "epochs = 3")
    text += f'[warm_start]\ncheckpoint = "{folder}/runs/circle/checkpoint"\n'
    (folder / "warm.toml").write_text(text.replace('"circle"', '"warm"'))
    millirec("train", "-c", folder / "warm.toml")
    (result, *_) = json.loads(millirec("evaluate", folder / "runs/warm/checkpoint", "--json").stdout)
    trained = json.loads((folder / "runs/warm/metrics.json").read_text())["test"]
    assert result["figures"]["ndcg@10"] == trained["figures"]["ndcg@10"]
    (folder / "wide.toml").write_text(text.replace('"circle"', '"wide"').replace("blocks = 1", "blocks = 2"))
    assert "$.model.blocks = 2" in millirec("train", "-c", folder / "wide.toml", code=2).stderr


def test_robustness_of_two_checkpoints_side_by_side(folder: Path) -> None:
    text = (folder / "run.toml").read_text().replace('"circle"', '"hard"').replace("epochs = 25", "epochs = 2")
    (folder / "hard.toml").write_text(text + '[train.adversarial]\nkind = "fgm"\n')
    millirec("train", "-c", folder / "hard.toml")
    both = (folder / "runs/circle/checkpoint", folder / "runs/hard/checkpoint")
    report = json.loads(millirec("robustness", *both, "--targets", 20, "--json").stdout)
    assert report["n_targets"] == 20
    assert {outcome["checkpoint"] for outcome in report["outcomes"]} == set(map(str, both))
    assert {(gap["a"], gap["b"]) for gap in report["gaps"]} <= {tuple(map(str, both)), tuple(map(str, both[::-1]))}
    assert report["gaps"]


def test_the_next_item_of_the_circle_is_recommended(folder: Path) -> None:
    answer = json.loads(millirec("recommend", folder / "bundle", "--items", "i3,i4,i5", "-k", 2, "--json").stdout)
    assert answer["items"][0]["item"] == "i6"


def test_an_earlier_run_is_not_overwritten(folder: Path) -> None:
    done = millirec("train", "-c", folder / "run.toml", code=2)
    assert "--force" in done.stderr


def test_bad_rows_fail_or_are_skipped_and_kept_aside(folder: Path) -> None:
    text = (folder / "events.csv").read_text() + "u1,i1,yesterday\n"
    (folder / "bad.csv").write_text(text)
    config = (folder / "run.toml").read_text().replace("events.csv", "bad.csv").replace('"circle"', '"bad"')
    (folder / "bad.toml").write_text(config.replace("epochs = 25", "epochs = 1"))
    done = millirec("train", "-c", folder / "bad.toml", code=2)
    assert "bad.csv" in done.stderr
    assert "362" in done.stderr
    done = millirec("train", "-c", folder / "bad.toml", "--on-error", "skip")
    assert "1 bad rows" in done.stderr
    assert "yesterday" in (folder / "runs/bad/rejected.jsonl").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "-c", "absent.toml"), "absent.toml: cannot be read"),
        (("evaluate", "."), "neither a checkpoint nor a bundle"),
        (("pack", ".", "-o", "x"), "not a readable checkpoint"),
        (("serve", "absent"), "absent"),
        (("recommend", "absent", "--items", "a"), "absent"),
        (("data", "inspect", "absent.csv"), "absent.csv"),
        (("evaluate", ".", "--part", "train"), "--part"),
        (("frontier", "-c", "absent.toml"), "absent.toml: cannot be read"),
    ],
)
def test_mistakes_exit_with_2_and_name_the_thing(arguments: tuple[str, ...], message: str) -> None:
    done = millirec(*arguments, code=2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_damaged_bundle_is_refused(folder: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(folder / "bundle", tmp_path / "bundle")
    graph = tmp_path / "bundle" / "tensors.safetensors"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data)
    assert "tensors.safetensors" in millirec("recommend", tmp_path / "bundle", "--items", "i1", code=2).stderr


def test_help_and_version_need_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = sys.modules['polars'] = None; "
    code += "from millirec.cli.main import app; app(['{}'])"
    for option in ("--help", "--version"):
        done = subprocess.run([sys.executable, "-c", code.format(option)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
