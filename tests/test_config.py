import tomllib
from pathlib import Path

import pytest

from millirec.config import RunConfig, dumps, load
from millirec.data.bots import Bots
from millirec.data.errors import ConfigError
from millirec.data.thin import Repeats, ThinConfig
from millirec.models.sasrec import SASRecConfig

RUN = """
name = "r"
[data]
kind = "movielens"
path = "somewhere"
[model]
kind = "sasrec"
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_run_comes_back_from_its_own_toml(tmp_path: Path) -> None:
    text = RUN + "embedding_dim = 32\n[train]\nlearning_rate = 1e-4\n[train.loss]\nkind = 'sampled-softmax'\n"
    run = load(written(tmp_path, text))
    assert isinstance(run, RunConfig)
    assert run.model == SASRecConfig(embedding_dim=32)
    assert load(written(tmp_path, dumps(run))) == run


def test_what_is_left_out_of_training_comes_back_from_toml(tmp_path: Path) -> None:
    run = load(written(tmp_path, RUN + "[thin.bots]\nregular = 0.95\n[thin.repeats]\n"))
    assert run.thin == ThinConfig(bots=Bots(regular=0.95), repeats=Repeats())
    assert load(written(tmp_path, dumps(run))) == run


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (RUN + "embedding_dims = 3", r"unknown field `embedding_dims`.*\$\.model"),
        (RUN + "embedding_dim = 'wide'", r"\$\.model\.embedding_dim"),
        (RUN + "heads = 3", r"\$\.model\.heads = 3 does not divide"),
        (RUN.replace("sasrec", "sasrek"), r"sasrek.*\$\.model\.kind"),
        (RUN.replace('name = "r"', 'name = "../r"'), r"\$\.name"),
        (RUN.replace('path = "somewhere"', ""), r"path"),
        ("name = ", "not valid TOML"),
        (RUN + "\n[split]\nkind = 'global-time'\ntest = 1.5", r"\$\.split"),
        (RUN + "[thin.bots]\nregular = 2", r"\$\.thin\.bots\.regular = 2"),
        (RUN + "[thin]\nrobots = {}", r"unknown field `robots`.*\$\.thin"),
        (RUN.replace("sasrec", "ease") + "[train.adversarial]\nkind = 'fgm'", r"\$\.train\.adversarial: .*'ease'"),
        (RUN.replace("sasrec", "item-knn") + "[warm_start]\ncheckpoint = 'x'", r"\$\.warm_start: .*'item-knn'"),
        (
            RUN + "[train]\nsparse_rows = true\nloss = { kind = 'bce' }\n"
            "[warm_start]\ncheckpoint = 'x'\nfrozen_epochs = 1",
            r"\$\.warm_start\.frozen_epochs",
        ),
        (RUN.replace("movielens", "sequences") + "[split]\nkind = 'global-time'", r"\$\.split\.kind.*tell no times"),
        (RUN + "[train.adversarial]\nkind = 'pgd'\nsteps = 0", r"\$\.train\.adversarial\.steps = 0"),
        (RUN + "table = { kind = 'quantized' }", r"\$\.model\.table\.kind = 'quantized'.*train a dense table"),
        (RUN + "weights = 'int8'", r"\$\.model\.weights = 'int8' cannot be trained"),
        (RUN + "table = { kind = 'product', codes = 10 }", r"\$\.model\.table\.codes = 10 does not divide"),
        (RUN + "table = { kind = 'product', bits = 3 }", r"\$\.model\.table\.bits"),
        (
            RUN + "table = { kind = 'low-rank' }\n[train]\nsparse_rows = true\nloss = { kind = 'bce' }",
            r"\$\.train\.sparse_rows: .*'low-rank'",
        ),
        (
            RUN + "table = { kind = 'hashed' }\n[warm_start]\ncheckpoint = 'x'\nfrozen_epochs = 1",
            r"\$\.warm_start\.frozen_epochs: .*'hashed'",
        ),
        (RUN + "[train]\nwindows = 'some'", r"\$\.train\.windows"),
        (RUN + "[train]\nschedule = 'constant'\ndecay_epochs = 9", r"\$\.train\.decay_epochs = 9"),
    ],
)
def test_a_mistake_is_refused_with_its_path(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(written(tmp_path, text))


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "absent.toml")


def test_tables_in_rows_are_written_and_read_again() -> None:
    step = {"kind": "a", "train": {"epochs": 1, "loss": {"kind": "b"}}}
    plain = {"name": "x", "variants": [{"name": "y", "steps": [step, {"kind": "c"}], "pack": {"k": 1}}, {"name": "z"}]}
    text = dumps(plain)
    assert tomllib.loads(text) == plain
    assert "[[variants.steps]]" in text
