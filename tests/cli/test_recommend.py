"""`millirec recommend` from the command line, on the golden bundle."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from millirec.bundle import open_bundle
from millirec.cli.main import app
from millirec.data.errors import ArtifactError, QueryError
from millirec.data.event import Event
from millirec.engine.state import StateStore
from tests.conftest import ROOT

BUNDLE = ROOT / "tests" / "golden" / "v1" / "bundle"


def ask(*options: str) -> dict:
    done = CliRunner().invoke(app, ["recommend", str(BUNDLE), *options, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_history_by_hand() -> None:
    answer = ask("--items", "item-1, item-2", "-k", "3", "--trace")
    assert answer["model_version"] == open_bundle(BUNDLE).version
    assert answer["source"] == "sequence"
    names = [entry["item"] for entry in answer["items"]]
    assert len(names) == 3
    assert not {"item-1", "item-2"} & set(names)
    assert answer["stages"][0]["name"] == "state"
    without = ask("--items", "item-1,item-2", "-k", "2", "--exclude", names[0])
    assert [entry["item"] for entry in without["items"]] == names[1:]


def test_a_user_of_a_data_folder_gets_the_same(tmp_path: Path) -> None:
    with StateStore(tmp_path) as store:
        store.append([Event(user="ann", item=f"item-{n}", time=n) for n in (1, 2)])
    by_user = ask("--user", "ann", "--data", str(tmp_path))
    assert by_user == ask("--items", "item-1,item-2")
    assert ask("--user", "nobody", "--data", str(tmp_path))["source"] == "popular"


def test_the_table() -> None:
    done = CliRunner().invoke(app, ["recommend", str(BUNDLE), "--items", "unknown", "-k", "2", "--trace"])
    assert done.exit_code == 0
    assert "popular" in done.stdout
    assert "stages" in done.stdout


@pytest.mark.parametrize(
    ("options", "kind", "says"),
    [
        ([], QueryError, "one of --user and --items"),
        (["--user", "a", "--items", "b"], QueryError, "one of --user and --items"),
        (["--items", "a", "-k", "0"], QueryError, "k = 0"),
        (["--user", "ann", "--data", "nowhere"], ArtifactError, "no data folder"),
    ],
)
def test_mistakes(options: list[str], kind: type[Exception], says: str) -> None:
    done = CliRunner().invoke(app, ["recommend", str(BUNDLE), *options])
    assert isinstance(done.exception, kind)
    assert says in str(done.exception)


def test_another_cascade_than_the_bundles(tmp_path: Path) -> None:
    (tmp_path / "popular.toml").write_text('[[sources]]\nkind = "popular"\n')
    assert ask("--items", "item-1", "--trace")["stages"][2]["name"] == "sequence"
    other = ask("--items", "item-1", "--trace", "--cascade", str(tmp_path / "popular.toml"))
    assert other["stages"][2]["name"] == "popular"
