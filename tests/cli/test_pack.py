"""`millirec pack` from the command line."""

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from millirec.bundle import open_bundle
from millirec.cascade.selectors import QuotaSelector
from millirec.cli.main import app
from millirec.data.errors import ArtifactError, ConfigError
from millirec.models.config import GRU4RecConfig
from tests.bundles import untrained


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    untrained(30, GRU4RecConfig(embedding_dim=8, hidden_dim=8, max_length=10)).save(tmp_path / "checkpoint")
    return str(tmp_path / "checkpoint")


def test_json_is_the_manifest(checkpoint: str, tmp_path: Path) -> None:
    args = ["pack", checkpoint, "-o", str(tmp_path / "b"), "--name", "mine", "--index", "pq", "--json"]
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 0, done.output
    manifest = json.loads(done.stdout)
    assert (manifest["name"], manifest["index"]["kind"]) == ("mine", "pq")
    assert manifest["content_hash"].startswith(open_bundle(tmp_path / "b").version)


def test_the_table_names_version_and_parity(checkpoint: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["pack", checkpoint, "-o", str(tmp_path / "b")])
    assert done.exit_code == 0, done.output
    assert open_bundle(tmp_path / "b").version in done.stdout
    assert "index exact, recall@10" in done.stdout


def test_a_bundle_keeps_the_features_that_are_asked_for(checkpoint: str, tmp_path: Path) -> None:
    for kept, features in (("genre", ["genre"]), ("", [])):
        done = CliRunner().invoke(app, ["pack", checkpoint, "-o", str(tmp_path / "b"), "--features", kept])
        assert done.exit_code == 0, done.output
        assert list(open_bundle(tmp_path / "b").catalog.features) == features
    refused = CliRunner().invoke(app, ["pack", checkpoint, "-o", str(tmp_path / "c"), "--features", "genre,colour"])
    assert isinstance(refused.exception, ConfigError)
    assert "$.pack.features: the catalogue has no 'colour'" in str(refused.exception)
    assert not (tmp_path / "c").exists()


def test_mistakes(checkpoint: str, tmp_path: Path) -> None:
    target = ["-o", str(tmp_path / "b")]
    wrong_index = CliRunner().invoke(app, ["pack", checkpoint, *target, "--index", "magic"])
    assert isinstance(wrong_index.exception, ConfigError)
    no_checkpoint = CliRunner().invoke(app, ["pack", str(tmp_path / "none"), *target])
    assert isinstance(no_checkpoint.exception, ArtifactError)
    assert not (tmp_path / "b").exists()


def test_a_cascade_goes_into_the_bundle_and_must_fit_it(checkpoint: str, tmp_path: Path) -> None:
    def packed(text: str) -> Result:
        (tmp_path / "cascade.toml").write_text(text)
        args = ["pack", checkpoint, "-o", str(tmp_path / "b"), "--cascade", str(tmp_path / "cascade.toml")]
        return CliRunner().invoke(app, args)

    assert packed('[[selectors]]\nkind = "quota"\nfeature = "genre"\nmost = 2\n').exit_code == 0
    assert open_bundle(tmp_path / "b").cascade.selectors == (QuotaSelector(feature="genre", most=2),)
    for text, says in (
        ('[[selectors]]\nkind = "quota"\nfeature = "gnre"\nmost = 2\n', "use one of ['genre']"),
        ('[[selectors]]\nkind = "mrr"\n', "--cascade"),
        ('[[selectors]]\nkind = "mmr"\npool = 0\n', "pool = 0"),
        ("selectors =", "not|Invalid|cascade.toml"),
    ):
        error = packed(text).exception
        assert isinstance(error, ConfigError)
        assert any(word in str(error) for word in says.split("|"))


def test_several_checkpoints_become_one_bundle(checkpoint: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    untrained(30, seed=1).save(other)
    args = ["pack", checkpoint, str(other), "-o", str(tmp_path / "b"), "--weights", "0.6,1.5", "--json"]
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 0, done.output
    members = json.loads(done.stdout)["members"]
    assert [(one["name"], one["share"]) for one in members] == [("gru4rec", 0.6), ("sasrec", 1.5)]
    done = CliRunner().invoke(app, [*args[:-3], "--weights", "equal"])
    assert "weight of sasrec" in done.stdout
    done = CliRunner().invoke(app, [*args[:-3], "--weights", "reciprocal-rank"])
    assert "reciprocal ranks, k = 60" in done.stdout
    for options, words in (
        (["pack", checkpoint, "-o", "x", "--weights", "equal"], "--weights with one"),
        (["pack", checkpoint, str(other), "-o", "x", "--weights", "much"], "--weights much"),
        (["pack", checkpoint, str(other), "-o", "x", "--weights", "1"], "1 weights for 2"),
        (["pack", checkpoint, str(other), "-o", "x"], "does not say where its data is"),
        (["pack", checkpoint, "x.onnx", "-o", "x"], "an ONNX file among"),
        (["pack", checkpoint, str(other), "-o", "x", "--ids", "x"], "--ids is for ONNX"),
    ):
        refused = CliRunner().invoke(app, options)
        assert isinstance(refused.exception, ConfigError)
        assert words in str(refused.exception)
