"""`millirec pack --beside` from the command line, and what it is worth through the engine."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from millirec.cli.main import app
from millirec.data.errors import ArtifactError, ConfigError


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of one log: everybody walks a circle of 30 items."""
    folder = tmp_path_factory.mktemp("beside")
    starts = np.random.default_rng(0).integers(0, 30, 80)
    lines = [f"u{user},i{(start + step) % 30},{step}" for user, start in enumerate(starts) for step in range(9)]
    (folder / "log.csv").write_text("user,item,time\n" + "\n".join(lines) + "\n")
    models = {"sasrec": 'kind = "sasrec"\nembedding_dim = 8\nblocks = 1\nheads = 1\nmax_length = 8'}
    models |= {kind: f'kind = "{kind}"' for kind in ("markov", "item-knn", "vmis-knn", "ease")}
    for name, model in models.items():
        data = f'[data]\nkind = "table"\npath = "{folder / "log.csv"}"\n'
        train = "[train]\nepochs = 1\n[machine]\nthreads = 1\n"
        (folder / "run.toml").write_text(f'name = "{name}"\nout = "{folder}"\n{data}[model]\n{model}\n{train}')
        subprocess.run([sys.executable, "-m", "millirec", "train", "-c", folder / "run.toml"], check=True)
    return folder


@pytest.mark.parametrize("kind", ["markov", "vmis-knn"])
def test_votes_stand_beside_a_network(trained: Path, tmp_path: Path, kind: str) -> None:
    network, other = (str(trained / name / "checkpoint") for name in ("sasrec", kind))
    args = ["pack", network, "--beside", other, "-o", str(tmp_path / "b")]
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 0, done.output
    assert f"{kind} beside it: weight, floor" in done.stdout
    before, after = (float(word) for word in re.findall(r"0\.\d{4}|1\.0000", done.stderr)[:2])
    assert before < 0.6 < 0.9 < after  # one epoch has taught the network little, counts tell all
    measured = CliRunner().invoke(app, ["evaluate", str(tmp_path / "b"), "--json"])
    assert measured.exit_code == 0, measured.output
    assert json.loads(measured.stdout)[0]["figures"]["ndcg@10"]["value"] > 0.9


def test_mistakes_beside_a_network(trained: Path, tmp_path: Path) -> None:
    network, markov, ease = (str(trained / name / "checkpoint") for name in ("sasrec", "markov", "ease"))
    target = ["-o", str(tmp_path / "b")]
    for options, words in (
        ([network, "--beside", ease], "ease. has no votes"),
        ([network, "--beside", network], "sasrec. has no votes"),
        ([markov, "--beside", markov], "no user vectors"),
        ([network, network, "--beside", markov], "--beside with several"),
        ([network, "--ranker", "x", "--beside", markov], "--beside with --ranker"),
        (["x.onnx", "--beside", markov], "--beside with an ONNX"),
        ([network, "--beside", str(tmp_path / "none")], "none"),
    ):
        refused = CliRunner().invoke(app, ["pack", *options, *target])
        assert isinstance(refused.exception, ConfigError | ArtifactError), refused.output
        assert re.search(words, str(refused.exception))
    assert not (tmp_path / "b").exists()
